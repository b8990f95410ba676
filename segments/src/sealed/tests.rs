//! The sealed segment against the rows it was written from, against damage, and against files made to deceive.

use super::format::{BLOCK, Footer, LINKS, Layout, seed_of};
use super::*;
use crate::distance::ExactDistance;
use crate::graph::{FlatGraph, Graph, NO_LINK, VectorSource, flatten, level_for};
use crate::meta::SegmentMeta;
use crate::segment::{Accept, Hit, RowSource};
use nearstone_base::checksum::crc32;
use nearstone_base::random::SplitMix64;
use nearstone_base::{ErrorKind, Key, KeyRef, KeyType, Metric, Schema, Uuid};
use std::borrow::Cow;
use zerocopy::IntoBytes;

mod batch;
mod codes;
mod inline;
mod leading;
mod lean;
mod residency;
mod scan;
mod together;

const DIR: &str = "segments";

#[derive(Clone, Debug)]
struct Row {
    key: Key,
    version: Lsn,
    vector: Vec<f32>,
    payload: Vec<u8>,
}

/// Rows in a vector, with their distances.
struct Rows {
    metric: Metric,
    rows: Vec<Row>,
}

impl RowSource for Rows {
    fn rows(&self) -> u32 {
        self.rows.len() as u32
    }
    fn key(&self, row: u32) -> Result<KeyRef<'_>> {
        Ok(self.rows[row as usize].key.as_ref())
    }
    fn version(&self, row: u32) -> Result<Lsn> {
        Ok(self.rows[row as usize].version)
    }
    fn vector(&self, row: u32) -> Result<&[f32]> {
        Ok(&self.rows[row as usize].vector)
    }
    fn payload(&self, row: u32) -> Result<&[u8]> {
        Ok(&self.rows[row as usize].payload)
    }
}

impl VectorSource for Rows {
    fn distance(&self, a: u32, b: u32) -> Result<f32> {
        let (a, b) = (&self.rows[a as usize].vector, &self.rows[b as usize].vector);
        Ok(near(self.metric, a, inverse_norm(self.metric, a), b, inverse_norm(self.metric, b)))
    }
    fn distances(&self, a: u32, others: &[u32], out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        others.iter().try_for_each(|&b| self.distance(a, b).map(|d| out.push(d)))
    }
}

/// Rows in clusters; string keys when the schema says so, with some payloads empty.
fn rows_of(schema: &Schema, count: u32, seed: u64) -> Rows {
    let mut rng = SplitMix64::new(seed);
    let mut number = move || (rng.unit_f64() * 2.0 - 1.0) as f32;
    let centres: Vec<Vec<f32>> =
        (0..20).map(|_| (0..schema.dimension()).map(|_| number() * 2.0).collect()).collect();
    let rows = (0..count)
        .map(|row| Row {
            key: match schema.key_type() {
                KeyType::U64 => Key::U64(u64::from(row).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                KeyType::Str => Key::from(format!("{}-{row}", "k".repeat(row as usize % 40))),
            },
            version: 100 + u64::from(row) % 17,
            vector: centres[row as usize % centres.len()].iter().map(|x| x + number()).collect(),
            payload: if row % 3 == 0 { Vec::new() } else { format!("{{\"n\":{row}}}").into_bytes() },
        })
        .collect();
    Rows { metric: schema.metric(), rows }
}

/// A graph over the rows, and the rows in the graph's order.
fn graph_of(schema: &Schema, rows: &Rows) -> (Rows, FlatGraph) {
    let graph = Graph::new(schema.links(), schema.beam());
    graph.ensure_room(rows.rows());
    let mut scratch = Scratch::default();
    for row in 0..rows.rows() {
        graph.insert(row, level_for(row, 1, schema.links()), rows, &mut scratch).unwrap();
    }
    let (order, flat) = flatten(&graph, rows.rows(), |_| true, rows).unwrap();
    (
        Rows {
            metric: rows.metric,
            rows: order.iter().map(|&old| rows.rows[old as usize].clone()).collect(),
        },
        flat,
    )
}

struct Made {
    vfs: MemoryVfs,
    meta: SegmentMeta,
    rows: Rows,
}

impl Made {
    fn open(&self) -> SealedSegment {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<SealedSegment> {
        SealedSegment::open(&self.vfs, &file(), &self.meta, Residency::Heap)
    }

    fn bytes(&self) -> Vec<u8> {
        self.vfs.bytes(&file(), self.meta.len, Residency::Heap).unwrap().to_vec()
    }

    /// The same segment with other bytes in its file.
    fn with_bytes(&self, bytes: &[u8]) -> Made {
        let vfs = folder();
        vfs.open(&file(), OpenMode::CreateNew).unwrap().write_at(bytes, 0).unwrap();
        let rows = Rows { metric: self.rows.metric, rows: self.rows.rows.clone() };
        Made { vfs, meta: self.meta.clone(), rows }
    }
}

fn folder() -> MemoryVfs {
    let vfs = MemoryVfs::new();
    vfs.create_dir(Path::new(DIR)).unwrap();
    vfs
}

fn file() -> std::path::PathBuf {
    Path::new(DIR).join("000000000000002a.seg")
}

fn target(vfs: &MemoryVfs) -> SealTarget<'_> {
    SealTarget {
        vfs,
        dir: Path::new(DIR),
        id: SegmentId(42),
        uuid: Uuid([7; 16]),
        created_secs: 1_700_000_000,
        threads: 2,
        like: None,
    }
}

/// Rows, sealed with a graph of their own.
fn written(schema: &Schema, rows: &Rows) -> Made {
    let (rows, graph) = graph_of(schema, rows);
    let vfs = folder();
    let meta = write_segment(&target(&vfs), schema, &rows, &graph, &|| false).unwrap();
    Made { vfs, meta, rows }
}

fn make(schema: &Schema, count: u32) -> Made {
    let (rows, graph) = graph_of(schema, &rows_of(schema, count, 5));
    let vfs = folder();
    let meta = write_segment(&target(&vfs), schema, &rows, &graph, &|| false).unwrap();
    Made { vfs, meta, rows }
}

fn small() -> Made {
    make(&Schema::new(8, Metric::L2).keys(KeyType::Str).m(4).ef_construction(32), 200)
}

fn options(limit: usize, ef: usize) -> SearchOptions<'static> {
    SearchOptions { limit, ef, exact: false, at: 1_000, accept: &AcceptAll }
}

fn truth(rows: &Rows, query: &[f32], limit: usize, keep: impl Fn(u32) -> bool) -> Vec<Hit> {
    let exact = ExactDistance::new(rows.metric, query);
    let mut hits: Vec<Hit> = (0..rows.rows())
        .filter(|&ordinal| keep(ordinal))
        .map(|ordinal| Hit { distance: exact.distance(rows.vector(ordinal).unwrap()), ordinal })
        .collect();
    hits.sort_by(|a, b| {
        a.distance
            .total_cmp(&b.distance)
            .then_with(|| rows.key(a.ordinal).unwrap().cmp(&rows.key(b.ordinal).unwrap()))
    });
    hits.truncate(limit);
    hits
}

/// Every accessor gives what was written, or an error; returns how many errors.
fn compare(segment: &SealedSegment, rows: &Rows) -> usize {
    let mut errors = 0;
    let mut same = |equal: Result<bool>, what: &str| match equal {
        Ok(equal) => assert!(equal, "a wrong {what}"),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
            errors += 1;
        }
    };
    let mut sorted: Vec<KeyRef<'_>> = rows.rows.iter().map(|row| row.key.as_ref()).collect();
    sorted.sort_unstable();
    for (ordinal, row) in (0..).zip(&rows.rows) {
        let key = row.key.as_ref();
        same(segment.key(ordinal).map(|found| found == key), "key");
        same(segment.version(ordinal).map(|found| found == row.version), "version");
        same(segment.vector(ordinal).map(|found| found == row.vector), "vector");
        same(segment.payload(ordinal).map(|found| found == row.payload), "payload");
        same(segment.find(key, key.hash64()).map(|found| found == Some(ordinal)), "row of a key");
        let ranked = segment.ordinal_by_rank(ordinal).and_then(|o| segment.key(o));
        same(ranked.map(|found| found == sorted[ordinal as usize]), "rank");
    }
    let query = &rows.rows[0].vector;
    let mut scratch = Scratch::default();
    for exact in [true, false] {
        let options = SearchOptions { exact, ..options(5, 50) };
        let hits = segment.search(query, &options, &mut scratch);
        same(hits.map(|hits| hits == truth(rows, query, 5, |_| true)), "hit");
    }
    same(segment.graph().map(|graph| graph.levels[0].rows == rows.rows()), "graph");
    errors
}

#[test]
fn every_accessor_gives_what_was_written() {
    for metric in [Metric::Cosine, Metric::L2, Metric::InnerProduct] {
        for keys in [KeyType::U64, KeyType::Str] {
            let schema = Schema::new(12, metric).keys(keys).m(8).ef_construction(64);
            let made = make(&schema, 700);
            let segment = made.open();
            assert_eq!(compare(&segment, &made.rows), 0);
            segment.verify(&mut |_, _| true).unwrap();
            assert!(segment.touched());
            let user_bytes: usize = made
                .rows
                .rows
                .iter()
                .map(|r| r.vector.len() * 4 + r.key.as_ref().byte_len() + r.payload.len())
                .sum();
            assert_eq!(segment.meta().user_bytes, user_bytes as u64);
            assert_eq!((segment.meta().lsn_min, segment.meta().lsn_max), (100, 116));
            assert_eq!(SealedSegment::inspect(&made.vfs, &file()).unwrap(), made.meta);
            open_bytes(&made.bytes()).unwrap();
        }
    }
}

#[test]
fn the_smallest_segments_work() {
    for count in 1..6 {
        let made = make(&Schema::new(1, Metric::L2).m(4).ef_construction(4), count);
        let segment = made.open();
        assert_eq!(compare(&segment, &made.rows), 0);
        segment.verify(&mut |_, _| true).unwrap();
    }
}

#[test]
fn opening_reads_no_row() {
    let made = make(&Schema::new(32, Metric::L2).m(4).ef_construction(32), 3_000);
    let segment = made.open();
    let (verified, all) = segment.verified_blocks();
    assert!(all > 100 && verified <= 2, "{verified} of {all} blocks were read");
    segment.vector(17).unwrap();
    assert!((1..=verified + 2).contains(&segment.verified_blocks().0));
    assert!(!segment.touched());
}

#[test]
fn keys_that_are_not_there_are_not_found() {
    let made = small();
    let segment = made.open();
    let mut passed = 0;
    for n in 0..2_000 {
        let key = Key::from(format!("absent {n}"));
        passed += usize::from(segment.may_hold(key.as_ref().hash64()).unwrap());
        assert_eq!(segment.find(key.as_ref(), key.as_ref().hash64()).unwrap(), None);
        // A foreign key under the hash of a present one.
        let hash = made.rows.key(n % 200).unwrap().hash64();
        assert_eq!(segment.find(key.as_ref(), hash).unwrap(), None);
    }
    assert!(passed < 100, "the filter lets {passed} of 2,000 foreign keys pass");
    assert_eq!(segment.find(KeyRef::U64(1), KeyRef::U64(1).hash64()).unwrap(), None);
}

#[test]
fn walks_find_nearly_all_of_the_nearest() {
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        let schema = Schema::new(32, metric).m(16).ef_construction(100);
        let made = make(&schema, 5_000);
        let segment = made.open();
        let mut scratch = Scratch::default();
        let queries = rows_of(&schema, 100, 5);
        let mut found = 0;
        for query in &queries.rows {
            let wanted = truth(&made.rows, &query.vector, 10, |_| true);
            let hits = segment.search(&query.vector, &options(10, 64), &mut scratch).unwrap();
            assert_eq!(hits.len(), 10);
            assert!(hits.is_sorted_by(|a, b| a.distance <= b.distance));
            found += hits.iter().filter(|hit| wanted.contains(hit)).count();
        }
        assert!(found >= 950, "{} finds {found} of 1000", metric.name());
        let recall = crate::seal::sampled_recall(&segment, 30, 10, 64).unwrap();
        assert!(recall >= 0.95, "sampled recall {recall}");
    }
}

struct Only(Vec<u32>);

impl Accept for Only {
    fn accept(&self, ordinal: u32) -> bool {
        self.0.contains(&ordinal)
    }
}

#[test]
fn results_are_as_many_as_there_are_matching_rows() {
    let made = make(&Schema::new(8, Metric::L2).m(4).ef_construction(32), 2_000);
    let segment = made.open();
    let mut scratch = Scratch::default();
    let query = vec![0.25; 8];
    let only = Only(vec![3, 700, 1_999]);
    for exact in [false, true] {
        let filtered = SearchOptions { accept: &only, exact, ..options(10, 20) };
        let hits = segment.search(&query, &filtered, &mut scratch).unwrap();
        assert_eq!(hits, truth(&made.rows, &query, 10, |o| only.accept(o)));
        let hits =
            segment.search(&query, &SearchOptions { exact, ..options(5_000, 1) }, &mut scratch).unwrap();
        assert_eq!(hits, truth(&made.rows, &query, 5_000, |_| true));
        assert_eq!(
            segment.search(&query, &SearchOptions { exact, ..options(0, 9) }, &mut scratch).unwrap(),
            []
        );
    }
    let error = segment.search(&[1.0; 7], &options(1, 1), &mut scratch).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn deaths_hide_rows_from_the_lsn_on() {
    let made = small();
    let segment = made.open();
    let mut scratch = Scratch::default();
    let row = 11;
    let key = made.rows.key(row).unwrap();
    assert!(segment.deaths().set(row, 500));
    assert_eq!(segment.find(key, key.hash64()).unwrap(), Some(row));
    assert_eq!(segment.find_at(key, key.hash64(), 499).unwrap(), Some(row));
    assert_eq!(segment.find_at(key, key.hash64(), 500).unwrap(), None);
    for exact in [false, true] {
        let query = &made.rows.rows[row as usize].vector;
        let before = SearchOptions { at: 499, exact, ..options(3, 64) };
        assert_eq!(segment.search(query, &before, &mut scratch).unwrap()[0].ordinal, row);
        let after = segment.search(query, &SearchOptions { at: 500, ..before }, &mut scratch).unwrap();
        assert_eq!(after, truth(&made.rows, query, 3, |o| o != row));
    }
}

#[test]
fn equal_distances_are_ordered_by_key_also_at_the_cut() {
    let schema = Schema::new(2, Metric::L2).m(4).ef_construction(16);
    let mut rows = rows_of(&schema, 300, 3);
    for row in &mut rows.rows {
        row.vector = vec![1.0, 2.0];
    }
    let (rows, graph) = graph_of(&schema, &rows);
    let vfs = folder();
    let meta = write_segment(&target(&vfs), &schema, &rows, &graph, &|| false).unwrap();
    let made = Made { vfs, meta, rows };
    let query = [0.0, 0.0];
    let scan = SearchOptions { exact: true, ..options(7, 7) };
    let hits = made.open().search(&query, &scan, &mut Scratch::default()).unwrap();
    assert_eq!(hits, truth(&made.rows, &query, 7, |_| true));
    let hits = made.open().search(&query, &options(7, 40), &mut Scratch::default()).unwrap();
    let keys: Vec<_> = hits.iter().map(|hit| made.rows.key(hit.ordinal).unwrap()).collect();
    assert!(keys.len() == 7 && keys.is_sorted(), "{keys:?}");
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_no_file() {
    let schema = Schema::new(8, Metric::L2).m(4).ef_construction(32);
    let (rows, graph) = graph_of(&schema, &rows_of(&schema, 50, 1));
    let vfs = folder();
    let none = Rows { metric: Metric::L2, rows: Vec::new() };
    let refused = |rows: &Rows, graph: &FlatGraph, cancel: &dyn Fn() -> bool| {
        let error = write_segment(&target(&vfs), &schema, rows, graph, cancel).unwrap_err();
        assert_eq!(vfs.list(Path::new(DIR)).unwrap(), Vec::<String>::new(), "{error}");
        error.kind()
    };
    assert_eq!(refused(&none, &FlatGraph::default(), &|| false), ErrorKind::InvalidArgument);
    assert_eq!(refused(&rows, &FlatGraph::default(), &|| false), ErrorKind::InvalidArgument);
    assert_eq!(refused(&rows, &graph, &|| true), ErrorKind::Cancelled);
    let asked = std::cell::Cell::new(0);
    let later = || asked.replace(asked.get() + 1) == 1;
    assert_eq!(refused(&rows, &graph, &later), ErrorKind::Cancelled);
    let mut twice = Rows { metric: Metric::L2, rows: rows.rows.clone() };
    twice.rows[4].key = twice.rows[40].key.clone();
    assert_eq!(refused(&twice, &graph, &|| false), ErrorKind::InvalidArgument);
    let mut short = Rows { metric: Metric::L2, rows: rows.rows.clone() };
    short.rows[9].vector.pop();
    assert_eq!(refused(&short, &graph, &|| false), ErrorKind::InvalidArgument);
}

#[test]
fn another_segment_than_the_expected_one_is_corruption() {
    let made = small();
    let good = &made.meta;
    for meta in [
        SegmentMeta { uuid: Uuid([8; 16]), ..good.clone() },
        SegmentMeta { digest: good.digest ^ 1, ..good.clone() },
        SegmentMeta { rows: good.rows + 1, ..good.clone() },
        SegmentMeta { len: good.len - 1, ..good.clone() },
        SegmentMeta { lsn_max: good.lsn_max + 1, ..good.clone() },
        SegmentMeta { schema: Schema::new(9, Metric::L2), ..good.clone() },
    ] {
        let error = SealedSegment::open(&made.vfs, &file(), &meta, Residency::Heap).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
    }
    // The id is the store's: a file that travelled has another one.
    let meta = SegmentMeta { id: SegmentId(9), ..good.clone() };
    assert!(SealedSegment::open(&made.vfs, &file(), &meta, Residency::Heap).is_ok());
}

#[test]
fn a_flipped_bit_anywhere_is_noticed_and_never_a_wrong_answer() {
    let made = small();
    let good = made.bytes();
    let layout = layout(&good);
    let mut places: Vec<usize> = (0..128).chain(good.len() - 700..good.len()).collect();
    for section in &layout.footer.sections {
        let (start, len) = (section.offset as usize, section.len as usize);
        places.extend((0..len.min(40)).map(|at| start + at * len / len.min(40)));
    }
    places.extend((0..good.len()).step_by(509));
    let mut at_open = 0;
    for (turn, place) in places.into_iter().enumerate() {
        let mut bytes = good.clone();
        bytes[place] ^= 1 << (turn % 8);
        let damaged = made.with_bytes(&bytes);
        match damaged.try_open() {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corruption, "byte {place}: {error}");
                at_open += 1;
            }
            Ok(segment) => {
                compare(&segment, &made.rows);
                let error = segment.verify(&mut |_, _| true).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corruption, "byte {place}: {error}");
                assert_eq!(error.place().unwrap().file, file());
            }
        }
    }
    assert!(at_open > 128, "only {at_open} were found when opening");
}

#[test]
fn damage_in_each_section_is_an_error_of_the_accessor_that_reads_it() {
    let made = make(&Schema::new(64, Metric::L2).keys(KeyType::Str).m(4).ef_construction(32), 400);
    let good = made.bytes();
    for section in layout(&good).footer.sections {
        let mut bytes = good.clone();
        bytes[(section.offset + section.len / 2) as usize] ^= 0x10;
        let damaged = made.with_bytes(&bytes);
        let noticed = damaged.try_open().map_or(1, |segment| compare(&segment, &made.rows));
        let name = format::section_name(section.id);
        // Nothing reads the statistics but the verifier, and a block may be shared with a neighbour.
        assert!(noticed > 0 || section.id == format::STATISTICS, "nobody noticed damage in {name}");
    }
}

#[test]
fn verifying_reads_again_what_was_found_right_before_and_can_be_cancelled() {
    let made = small();
    let segment = made.open();
    segment.verify(&mut |_, _| true).unwrap();
    let mut last = (0, 0);
    segment
        .verify(&mut |done, total| {
            assert!(done >= last.0 && done <= total);
            last = (done, total);
            true
        })
        .unwrap();
    assert!(last.0 == last.1 && last.1 > 0);
    assert_eq!(segment.verify(&mut |_, _| false).unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn a_shorter_file_is_never_a_segment() {
    let made = small();
    let good = made.bytes();
    for len in (0..good.len()).step_by(911).chain(good.len() - 80..good.len()) {
        assert!(made.with_bytes(&good[..len]).try_open().is_err(), "{len} bytes opened");
        assert!(open_bytes(&good[..len]).is_err(), "{len} bytes opened by themselves");
    }
}

fn layout(bytes: &[u8]) -> Layout {
    let mut read = |offset: u64, len: usize| Ok(Cow::Borrowed(&bytes[offset as usize..][..len]));
    Layout::read(Path::new("x"), bytes.len() as u64, &mut read).unwrap()
}

/// Makes all checksums right for whatever the sections and the footer say; `change` may edit the footer.
fn reseal(bytes: &[u8], change: impl FnOnce(&mut Footer)) -> Vec<u8> {
    let len = u32::from_le_bytes(bytes[bytes.len() - 12..][..4].try_into().unwrap()) as usize;
    let mut footer = Footer::decode(&bytes[bytes.len() - len..]).unwrap();
    let mut out = bytes[..footer.blocks as usize * BLOCK as usize].to_vec();
    let prefix = crc32(0, &out[..60]);
    out[60..64].copy_from_slice(&prefix.to_le_bytes());
    let crc = |(block, bytes): (u64, &[u8])| crc32(seed_of(footer.uuid, block), bytes);
    let crcs: Vec<u32> = (0..).zip(out.chunks(BLOCK as usize)).map(crc).collect();
    let mut pages = Vec::new();
    for (number, page) in (footer.blocks..).zip(crcs.chunks(1024)) {
        let mut page = page.as_bytes().to_vec();
        page.resize(BLOCK as usize, 0);
        pages.push(crc((number, &page)));
        out.extend(page);
    }
    footer.pages = pages;
    change(&mut footer);
    out.extend(footer.encode());
    out
}

#[test]
fn versions_and_features_that_are_not_known_are_refused_by_name() {
    let good = small().bytes();
    assert_eq!(reseal(&good, |_| ()), good);
    for (place, value) in [(8, 2), (24, 2), (31, 0x80)] {
        let mut bytes = good.clone();
        bytes[place] = value;
        let error = open_bytes(&reseal(&bytes, |_| ())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnsupportedVersion, "{error}");
        // Without a right checksum it's damage, not the future.
        assert_eq!(open_bytes(&bytes).unwrap_err().kind(), ErrorKind::Corruption);
    }
    let mut ignorable = good.clone();
    ignorable[16] = 1;
    open_bytes(&reseal(&ignorable, |_| ())).unwrap();
    let offset = layout(&good).footer.table_offset();
    let unknown = format::Section { id: 77, offset, len: 0, count: 0, stride: 1 };
    open_bytes(&reseal(&good, |footer| footer.sections.push(unknown))).unwrap();
}

#[test]
fn nonsense_with_right_checksums_never_panics() {
    let good = small().bytes();
    let sections = layout(&good).footer.sections.clone();
    let mut rng = SplitMix64::new(99);
    let wild = [0, 1, 3, 63, 64, 4096, u64::from(u32::MAX), 1 << 32, u64::MAX / 8, u64::MAX - 63, u64::MAX];
    // The section table.
    for _ in 0..1_500 {
        let bytes = reseal(&good, |footer| {
            for _ in 0..=rng.below(2) {
                let at = rng.below(footer.sections.len() as u64) as usize;
                let value = wild[rng.below(wild.len() as u64) as usize];
                let section = &mut footer.sections[at];
                match rng.below(6) {
                    0 => section.offset = value,
                    1 => section.len = value,
                    2 => section.count = value,
                    3 => section.stride = value,
                    4 => section.id = rng.below(20) as u32 + if rng.below(2) == 0 { 0 } else { LINKS },
                    _ => {
                        footer.sections.remove(at);
                    }
                }
                if rng.below(20) == 0 {
                    footer.blocks = value;
                }
            }
        });
        let _ = open_bytes(&bytes);
    }
    // Contents: the header, and any section.
    for turn in 0..600 {
        let mut bytes = good.clone();
        let section = sections[turn % sections.len()];
        for _ in 0..=rng.below(8) {
            let (start, len) = if rng.below(6) == 0 { (64, 52) } else { (section.offset, section.len) };
            let place = (start + rng.below(len.max(8) - 7)) as usize;
            let value = if rng.below(2) == 0 { rng.next_u64() } else { wild[rng.below(11) as usize] };
            let width = [1, 4, 8][rng.below(3) as usize];
            bytes[place..place + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        let _ = open_bytes(&reseal(&bytes, |_| ()));
    }
}

#[test]
fn lies_with_right_checksums_are_found_by_verifying() {
    let good = small().bytes();
    let layout = layout(&good);
    let lie = |id: u32, at: u64, value: u32| {
        let mut bytes = good.clone();
        let place = (layout.section(id).unwrap().offset + at) as usize;
        bytes[place..place + 4].copy_from_slice(&value.to_le_bytes());
        let error = open_bytes(&reseal(&bytes, |_| ())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
    };
    lie(LINKS, 0, 200);
    lie(LINKS, 0, 0);
    lie(LINKS, 4, u32::MAX);
    lie(LINKS, 4, u32::from_le_bytes(section_word(&good, &layout, LINKS, 0)));
    lie(format::KEY_ORDER, 8, 201);
    lie(format::KEY_ORDER, 8, u32::from_le_bytes(section_word(&good, &layout, format::KEY_ORDER, 12)));
    lie(format::KEY_OFFSETS, 0, 1);
    lie(format::PAYLOAD_OFFSETS, 80, u32::MAX);
    lie(format::VERSIONS, 16, 99);
    lie(format::VECTORS, 12, f32::NAN.to_bits());
    let index = layout.section(format::KEY_INDEX).unwrap();
    let filled =
        (0..index.count).find(|at| section_word(&good, &layout, index.id, at * 4) != [255; 4]).unwrap();
    lie(format::KEY_INDEX, filled * 4, u32::MAX);
    lie(format::KEY_INDEX, filled * 4, 4_000_000);
}

#[test]
fn lies_with_right_checksums_are_errors_of_the_accessors_too() {
    let made = small();
    let good = made.bytes();
    let layout = layout(&good);
    let open_with = |id: u32, at: u64, value: u32| {
        let mut bytes = good.clone();
        let place = (layout.section(id).unwrap().offset + at) as usize;
        bytes[place..place + 4].copy_from_slice(&value.to_le_bytes());
        let bytes = reseal(&bytes, |_| ());
        let made = made.with_bytes(&bytes);
        SealedSegment::open_alone(&made.vfs, &file(), SegmentId(1), bytes.len() as u64, Residency::Heap)
            .unwrap()
    };
    let query = &made.rows.rows[0].vector;
    let segment = open_with(LINKS, 0, 200);
    let walked = segment.search(query, &options(3, 20), &mut Scratch::default());
    assert_eq!(walked.unwrap_err().kind(), ErrorKind::Corruption);
    assert_eq!(segment.graph().unwrap_err().kind(), ErrorKind::Corruption);
    let end = layout.section(format::PAYLOADS).unwrap().len as u32;
    let segment = open_with(format::PAYLOAD_OFFSETS, 200 * 8, end + 1);
    assert_eq!(segment.payload(199).unwrap_err().kind(), ErrorKind::Corruption);
    assert!(segment.payload(198).is_ok());
    assert_eq!(segment.payload(200).unwrap_err().kind(), ErrorKind::Corruption);
    let segment = open_with(format::KEY_ORDER, 0, 200);
    assert_eq!(segment.ordinal_by_rank(0).unwrap_err().kind(), ErrorKind::Corruption);
}

#[test]
fn a_graph_full_of_holes_costs_time_and_not_results() {
    let schema = Schema::new(8, Metric::L2).m(4).ef_construction(32);
    let (rows, mut graph) = graph_of(&schema, &rows_of(&schema, 500, 5));
    graph.levels.iter_mut().for_each(|level| level.links.fill(NO_LINK));
    let vfs = folder();
    let meta = write_segment(&target(&vfs), &schema, &rows, &graph, &|| false).unwrap();
    let made = Made { vfs, meta, rows };
    let query = vec![0.5; 8];
    let hits = made.open().search(&query, &options(10, 50), &mut Scratch::default()).unwrap();
    assert_eq!(hits, truth(&made.rows, &query, 10, |_| true));
}

#[test]
fn damage_in_the_checksums_themselves_is_noticed_at_first_touch() {
    // Vectors of more than 4 MiB, so that there is a second page of checksums, which opening does not read.
    let made = make(&Schema::new(1024, Metric::L2).m(4).ef_construction(8), 1_000);
    let good = made.bytes();
    let footer = layout(&good).footer;
    assert_eq!(footer.pages.len(), 2);
    let mut bytes = good.clone();
    // In the zeros behind the last checksum: no block's own checksum is touched.
    bytes[footer.table_offset() as usize + 2 * BLOCK as usize - 1] ^= 1;
    let damaged = made.with_bytes(&bytes);
    let segment = damaged.try_open().unwrap();
    assert!(segment.vector(0).is_ok());
    assert_eq!(segment.vector(999).unwrap_err().kind(), ErrorKind::Corruption);
    assert_eq!(segment.verify(&mut |_, _| true).unwrap_err().kind(), ErrorKind::Corruption);
}

fn section_word(bytes: &[u8], layout: &Layout, id: u32, at: u64) -> [u8; 4] {
    bytes[(layout.section(id).unwrap().offset + at) as usize..][..4].try_into().unwrap()
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_are_no_segment(bytes in proptest::collection::vec(0u8.., 0..20_000)) {
        proptest::prop_assert!(open_bytes(&bytes).is_err());
    }
}
