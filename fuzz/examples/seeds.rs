//! Writes the corpus: small, valid inputs of every target, by the project's own writers.
//!
//! Run it again after a format has changed: `cargo run --manifest-path fuzz/Cargo.toml --example seeds`.

use nearstone_base::record::BatchEncoder;
use nearstone_base::{CollectionId, KeyRef};
use std::path::Path;

fn main() -> std::io::Result<()> {
    for (name, bytes) in records() {
        write("record_bytes", name, &bytes)?;
    }
    write("npy_bytes", "f4", &npy("<f4", 4))?;
    write("npy_bytes", "f8", &npy("<f8", 8))?;
    write("npy_bytes", "f2", &npy("<f2", 2))?;
    write("vecs_bytes", "fvecs", &vecs(4))?;
    write("vecs_bytes", "bvecs", &vecs(1))?;
    let rows = "{\"vector\":[0.5,-1,2e3],\"key\":\"a\",\"payload\":{\"n\":1}}\n{\"embedding\":[1,2,3],\"id\":7,\"title\":\"x\"}\n";
    write("json_lines_bytes", "both_spellings", rows.as_bytes())
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
