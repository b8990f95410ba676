//! Segments of the lean profile: no inline rows, vectors that are read, and damage that such a reading meets.

use super::format::Section;
use super::*;
use crate::segment::asked::{Every, Lists};
use nearstone_base::Profile;

fn schema(dimension: usize, metric: Metric) -> Schema {
    Schema::new(dimension, metric).m(8).ef_construction(48).profile(Profile::Memory)
}

/// Opened as from a disk: in memory, but for what is read.
fn opened(made: &Made) -> SealedSegment {
    SealedSegment::open(&made.vfs, &file(), &made.meta, Residency::Mapped).unwrap()
}

fn section(made: &Made, id: u32) -> Section {
    layout(&made.bytes()).section(id).unwrap()
}

/// Changes bytes of the file behind an open segment, which holds what it has in memory.
fn overwrite(made: &Made, at: u64, bytes: &[u8]) {
    made.vfs.open(&file(), OpenMode::ReadWrite).unwrap().write_at(bytes, at).unwrap();
}

#[test]
fn a_lean_segment_has_no_inline_rows_and_answers_as_a_scan_does() {
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        for dimension in [3, 64, 100, 1_030] {
            let made = make(&schema(dimension, metric), 1_100);
            let bytes = made.bytes();
            assert!(layout(&bytes).section(format::INLINE_ROWS).is_none());
            let segment = opened(&made);
            assert!(segment.held().read == 1_100 * dimension as u64 * 4);
            segment.verify(&mut |_, _| true).unwrap();
            // Held in memory, all that the beam has is measured.
            let held = made.open();
            let (mut scratch, mut found, mut in_memory) = (Scratch::default(), 0, 0);
            for row in made.rows.rows.iter().step_by(37) {
                let query: Vec<f32> = row.vector.iter().map(|x| x + 0.1).collect();
                let right = truth(&made.rows, &query, 10, |_| true);
                let exact = SearchOptions { exact: true, ..options(10, 64) };
                assert_eq!(segment.search(&query, &exact, &mut scratch).unwrap(), right);
                let hits = segment.search(&query, &options(10, 64), &mut scratch).unwrap();
                let distances = ExactDistance::new(metric, &query);
                for hit in &hits {
                    let vector = &made.rows.rows[hit.ordinal as usize].vector;
                    assert_eq!(hit.distance, distances.distance(vector));
                }
                let near = |hits: &[Hit]| hits.iter().filter(|hit| hit.distance <= right[9].distance).count();
                found += near(&hits);
                in_memory += near(&held.search(&query, &options(10, 64), &mut scratch).unwrap());
            }
            assert!(found >= 275, "{metric:?} x {dimension}: {found} of 300");
            assert!(found + 2 >= in_memory, "{metric:?} x {dimension}: {found}, and {in_memory} in memory");
        }
    }
}

#[test]
fn vectors_are_read_bit_by_bit_also_across_blocks_and_beyond_the_last_there_is_none() {
    let made = make(&schema(1_500, Metric::L2), 60);
    let (segment, mut room) = (opened(&made), Room::default());
    for (row, right) in (0..).zip(&made.rows.rows) {
        assert_eq!(segment.read_vector(row, &mut room).unwrap(), right.vector);
        assert_eq!(segment.vector(row).unwrap(), right.vector);
    }
    for row in [60, u32::MAX] {
        let error = segment.read_vector(row, &mut room).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption);
        assert!(error.to_string().contains("vectors") && error.to_string().contains("60"), "{error}");
    }
}

#[test]
fn many_exact_queries_with_and_without_a_filter_find_what_one_finds() {
    let made = make(&schema(64, Metric::Cosine), 1_100);
    let (segment, mut scratch) = (opened(&made), Scratch::default());
    for row in (0..1_100).step_by(7) {
        segment.deaths().set(row, 500);
    }
    let queries: Vec<&[f32]> = made.rows.rows.iter().step_by(11).map(|row| &*row.vector).collect();
    for step in [1, 2, 5] {
        let every = Every(step);
        let options = SearchOptions { exact: true, accept: &every, ..options(5, 64) };
        let mut lists = Lists(vec![Vec::new(); queries.len()]);
        segment.search_many(&queries, &options, &mut scratch, &mut lists).unwrap();
        for (query, hits) in queries.iter().zip(&lists.0) {
            let accepted = |row: u32| row.is_multiple_of(step) && !row.is_multiple_of(7);
            assert_eq!(*hits, truth(&made.rows, query, 5, accepted));
        }
    }
}

/// What is in memory stays whole: only a reading can see the damage.
#[test]
fn damage_under_a_reading_is_corruption_that_names_file_and_offset() {
    let made = make(&schema(64, Metric::L2), 1_100);
    let vectors = section(&made, format::VECTORS);
    let query = made.rows.rows[700].vector.clone();
    let place = vectors.offset + 700 * vectors.stride + 9;
    let exact = SearchOptions { exact: true, ..options(3, 16) };
    for what in ["walk", "scan", "row", "verify"] {
        let segment = opened(&made);
        let before = made.bytes()[place as usize];
        overwrite(&made, place, &[before ^ 0x40]);
        let (mut scratch, mut room) = (Scratch::default(), Room::default());
        let error = match what {
            "walk" => segment.search(&query, &options(3, 16), &mut scratch).unwrap_err(),
            "scan" => segment.search(&query, &exact, &mut scratch).unwrap_err(),
            "row" => segment.read_vector(700, &mut room).unwrap_err(),
            _ => segment.verify(&mut |_, _| true).unwrap_err(),
        };
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{what}: {text}");
        let at = error.place().unwrap();
        assert_eq!((&*at.file, at.offset), (&*file(), place / BLOCK * BLOCK), "{what}: {text}");
        overwrite(&made, place, &[before]);
        // A damaged block does not count as checked.
        assert_eq!(segment.read_vector(700, &mut room).unwrap(), query);
    }
}

#[test]
fn a_file_that_became_shorter_is_corruption_and_not_a_signal() {
    let made = make(&schema(64, Metric::L2), 1_100);
    let (segment, vectors) = (opened(&made), section(&made, format::VECTORS));
    made.vfs.open(&file(), OpenMode::ReadWrite).unwrap().set_len(vectors.offset + 5_000).unwrap();
    let error = segment.read_vector(1_000, &mut Room::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
}

#[test]
fn read_into_memory_whole_nothing_is_read_from_the_file() {
    let made = make(&schema(64, Metric::L2), 1_100);
    let segment = made.open();
    assert_eq!(segment.held().read, 0);
    let vectors = section(&made, format::VECTORS);
    overwrite(&made, vectors.offset, &vec![0xff; vectors.len as usize]);
    let row = &made.rows.rows[3].vector;
    assert_eq!(segment.read_vector(3, &mut Room::default()).unwrap(), row);
    assert_eq!(segment.search(row, &options(1, 16), &mut Scratch::default()).unwrap()[0].distance, 0.0);
}

/// The links are those that the rows would have with inline rows.
#[test]
fn the_graph_is_refined_although_nothing_inline_is_written() {
    let links = |made: &Made| -> Vec<Vec<u32>> {
        opened(made).graph().unwrap().levels.into_iter().map(|level| level.links).collect()
    };
    let lean = make(&schema(64, Metric::L2), 1_500);
    let fast = make(&schema(64, Metric::L2).profile(Profile::Speed), 1_500);
    assert!(layout(&fast.bytes()).section(format::INLINE_ROWS).is_some());
    assert_eq!(links(&lean), links(&fast));
    let (_, built) = graph_of(&schema(64, Metric::L2), &rows_of(&schema(64, Metric::L2), 1_500, 5));
    assert_ne!(links(&lean)[0], built.levels[0].links);
}
