//! Writes the corpus: small, valid inputs of every target, by the project's own writers.
//!
//! Run it again after a format has changed: `cargo run --manifest-path fuzz/Cargo.toml --example seeds`.

use nearstone_base::record::BatchEncoder;
use nearstone_base::vfs::{MemoryVfs, OpenMode, Vfs, read_exact_at};
use nearstone_base::{CollectionId, KeyRef, KeyType, Metric, Schema, SegmentId, Uuid};
use nearstone_segments::MutableSegment;
use nearstone_segments::seal::{SealTarget, seal_frozen};
use nearstone_segments::topk::Scratch;
use nearstone_wal::format::{FILE_HEADER_BYTES, FileHeader, Kind, encode_record};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    for (name, bytes) in records() {
        write("record_bytes", name, &bytes)?;
    }
    write("wal_bytes", "fresh", &log(0, false))?;
    write("wal_bytes", "unfinished", &log(3, false))?;
    write("wal_bytes", "ended", &log(3, true))?;
    write("segment_bytes", "string_keys", &segment(Schema::new(6, Metric::Cosine).keys(KeyType::Str))?)?;
    write("segment_bytes", "integer_keys", &segment(Schema::new(3, Metric::L2))?)?;
    write("npy_bytes", "f4", &npy("<f4", 4))?;
    write("npy_bytes", "f8", &npy("<f8", 8))?;
    write("npy_bytes", "f2", &npy("<f2", 2))?;
    write("vecs_bytes", "fvecs", &vecs(4))?;
    write("vecs_bytes", "bvecs", &vecs(1))?;
    let rows = "{\"vector\":[0.5,-1,2e3],\"key\":\"a\",\"payload\":{\"n\":1}}\n{\"embedding\":[1,2,3],\"id\":7,\"title\":\"x\"}\n";
    write("json_lines_bytes", "both_spellings", rows.as_bytes())?;
    // What is edited, then edits of six bytes: see `forge::edits` in the crate of the tests.
    write("catalog_bytes", "nothing", &[0])?;
    // The padding of redb's pages behind its nodes, its magic, the second page's.
    write(
        "catalog_bytes",
        "pages",
        &[1, 64, 1, 0xf0, 0x0f, 7, 0, 65, 2, 0xf0, 0x0f, 7, 0, 69, 3, 0xf0, 0x0f, 0, 0],
    )?;
    write("catalog_bytes", "pages_and_slots", &[129, 69, 1, 0xf0, 0x0f, 3, 0])?;
    // When collections were created: the last of their numbers.
    write("catalog_bytes", "rows", &[2, 64, 1, 28, 0, 7, 0, 68, 2, 29, 0, 5, 0])?;
    // Features that can be ignored.
    write("catalog_bytes", "format", &[3, 68, 0, 32, 0, 7, 0])?;
    // Seed, then operations: see `spelled` in the crate of the tests.
    let (sealed, merged) =
        ([1, 0, 2, 5, 14, 1, 4, 9, 19], [2, 96, 2, 5, 4, 9, 6, 13, 8, 17, 14, 0, 2, 4, 16, 28, 2]);
    write("histories", "batches_and_a_seal", &sealed)?;
    write("histories", "a_merge_and_a_crash", &merged)?;
    write(
        "histories",
        "crashes_inside",
        &[3, 32, 2, 5, 4, 9, 30, 9, 7, 14, 0, 6, 1, 29, 20, 6, 25, 27, 31, 40, 3, 22],
    )?;
    // Built, attached, attached again while the power goes, and once more.
    write(
        "histories",
        "files_that_are_attached",
        &[4, 12, 2, 14, 32, 2, 5, 4, 9, 13, 1, 29, 20, 6, 13, 8, 11, 5, 9, 1, 14, 16, 13, 4, 28, 2],
    )?;
    Ok(())
}

fn write(target: &str, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join(name), bytes)?;
    println!("{target}/{name}: {} bytes", bytes.len());
    Ok(())
}

fn records() -> Vec<(&'static str, Vec<u8>)> {
    let notes = CollectionId(1);
    let mut upsert = BatchEncoder::new();
    upsert.upsert(notes, KeyRef::Str("intro"), &[0.25, -1.0, 3.5], br#"{"title":"Intro"}"#);
    let mut delete = BatchEncoder::new();
    delete.delete(notes, KeyRef::U64(7));
    let mut mixed = BatchEncoder::new();
    for n in 0..4 {
        mixed.upsert(notes, KeyRef::U64(n), &[n as f32; 8], b"");
        mixed.delete(CollectionId(2), KeyRef::Str("gr\u{fc}n"));
    }
    vec![
        ("empty", BatchEncoder::new().finish()),
        ("one_upsert", upsert.finish()),
        ("one_delete", delete.finish()),
        ("two_collections", mixed.finish()),
    ]
}

/// Two rows of three zeros, by the description of the format, version 1.0.
fn npy(number: &str, number_bytes: usize) -> Vec<u8> {
    let mut header = format!("{{'descr': '{number}', 'fortran_order': False, 'shape': (2, 3), }}");
    // Magic, version, length and header together fill whole blocks of 64 bytes, the last of them a line break.
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((header.len() as u16).to_le_bytes());
    out.extend(header.as_bytes());
    out.resize(out.len() + 6 * number_bytes, 0);
    out
}

/// Two rows of three zeros.
fn vecs(number_bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..2 {
        out.extend(3i32.to_le_bytes());
        out.resize(out.len() + 3 * number_bytes, 0);
    }
    out
}

/// A log file with batches, one of them long enough for a table of chunk sums, and room behind them.
fn log(batches: u64, ended: bool) -> Vec<u8> {
    let header = FileHeader {
        store: Uuid([7; 16]),
        file_id: 1,
        salt: [9; 16],
        generation: 2,
        first_lsn: 1,
        predecessor: 0,
        predecessor_end: 0,
        file_bytes: 32 << 10,
    };
    let mut out = header.encode();
    assert_eq!(out.len(), FILE_HEADER_BYTES);
    for lsn in 1..=batches {
        let body = vec![lsn as u8; if lsn == 2 { 9000 } else { 40 }];
        let offset = out.len() as u64;
        encode_record(&mut out, header.seed(), offset, Kind::Batch, lsn, lsn - 1, &body);
    }
    if ended {
        let offset = out.len() as u64;
        encode_record(&mut out, header.seed(), offset, Kind::End, batches, batches, b"");
    }
    out.resize(out.len() + 512, 0);
    out
}

/// A sealed segment of a few rows, one of them without a payload.
fn segment(schema: Schema) -> Result<Vec<u8>, Box<dyn Error>> {
    let segment = MutableSegment::new(SegmentId(1), schema);
    for n in 0..12u64 {
        let name = format!("row {n}");
        let key = match schema.key_type() {
            KeyType::U64 => KeyRef::U64(n * n),
            KeyType::Str => KeyRef::Str(&name),
        };
        let vector: Vec<f32> = (1..=schema.dimension()).map(|i| (n as f32 + 1.0) / i as f32).collect();
        let payload = if n == 3 { String::new() } else { format!("{{\"n\":{n}}}") };
        segment.append(key, key.hash64(), &vector, payload.as_bytes(), n + 1);
    }
    segment.freeze();
    let mut scratch = Scratch::default();
    while !segment.all_linked() {
        segment.link_some(u32::MAX, &mut scratch);
    }
    let vfs = MemoryVfs::new();
    let dir = Path::new("segments");
    vfs.create_dir(dir)?;
    let target = SealTarget {
        vfs: &vfs,
        dir,
        id: SegmentId(1),
        uuid: Uuid([5; 16]),
        created_secs: 1_700_000_000,
        threads: 1,
        like: None,
    };
    let sealed = seal_frozen(&segment, 100, &target, &|| false)?;
    assert!(sealed.is_some(), "no row is dead");
    let file = vfs.open(&target.path(), OpenMode::Read)?;
    let mut bytes = vec![0; file.len()? as usize];
    read_exact_at(&*file, &target.path(), &mut bytes, 0)?;
    Ok(bytes)
}
