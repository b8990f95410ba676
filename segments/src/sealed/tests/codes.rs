//! Walks over codes: what estimates leave out is not missed.

use super::*;
use crate::graph::Scorer;
use crate::quantize::codes::CodeWork;
use crate::sealed::search::CodeScorer;
use crate::topk::Candidate;
use nearstone_base::Codes;

/// Rows sorted by estimate, of which only the first few are measured, give the nearest as if all were.
#[test]
fn rows_that_seem_too_far_are_not_among_the_nearest() {
    let metrics = [Metric::L2, Metric::Cosine, Metric::InnerProduct];
    for (codes, metric) in Codes::ALL.into_iter().flat_map(|codes| metrics.map(|metric| (codes, metric))) {
        for dimension in [8, 47, 130] {
            let schema = Schema::new(dimension, metric).codes(codes).m(4).ef_construction(16);
            let made = make(&schema, 600);
            let segment = made.open();
            let (mut found, mut wanted) = (0, 0);
            for row in (0..600).step_by(7) {
                let mut rng = SplitMix64::new(u64::from(row));
                let query: Vec<f32> =
                    segment.vector(row).unwrap().iter().map(|x| x + rng.unit_f64() as f32 - 0.5).collect();
                let rows: Vec<u32> = (0..600).collect();
                let mut distances = Vec::new();
                let scorer = CodeScorer::new(&segment, &query);
                scorer.score(&rows, &mut distances).unwrap();
                let mut candidates: Vec<Candidate> =
                    rows.iter().zip(&distances).map(|(&row, &d)| Candidate::new(d, row)).collect();
                candidates.sort_unstable();
                let exact = ExactDistance::new(metric, &query);
                for limit in [1, 10, 600] {
                    let room = &mut Room::default();
                    let hits = segment.rerank(&exact, &scorer, &candidates, limit, room).unwrap();
                    let nearest = truth(&made.rows, &query, limit, |_| true);
                    assert_eq!(hits.len(), nearest.len());
                    found += hits.iter().filter(|hit| nearest.contains(hit)).count();
                    wanted += nearest.len();
                }
            }
            assert!(
                found * 1000 >= wanted * 999,
                "{codes:?} under {metric:?} of {dimension}: {found} of {wanted}"
            );
        }
    }
}

/// A walk on coarse codes remembers all that it measured, and a condition was asked for every one of these.
#[test]
fn a_condition_is_asked_for_the_rows_that_are_looked_at_again_and_no_others() {
    struct Counted(std::sync::atomic::AtomicUsize);
    impl Accept for Counted {
        fn accept(&self, ordinal: u32) -> bool {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            ordinal % 10 != 3
        }
    }
    let asked = |codes| {
        let schema = Schema::new(64, Metric::L2).m(16).ef_construction(64).codes(codes);
        let made = make(&schema, 4_000);
        let (segment, accept) = (made.open(), Counted(0.into()));
        for row in made.rows.rows.iter().step_by(80) {
            let options = SearchOptions { accept: &accept, ..options(5, 24) };
            let hits = segment.search(&row.vector, &options, &mut Scratch::default()).unwrap();
            assert!(hits.len() == 5 && hits.iter().all(|hit| hit.ordinal % 10 != 3));
        }
        accept.0.into_inner() / 50
    };
    let (fine, coarse) = (asked(Codes::Sq8), asked(Codes::RaBitQ1));
    // Four times as many as the beam holds, and one in ten of them is refused.
    assert!(coarse < fine + 4 * 24 + 40, "{fine} and {coarse} times a query");
}

/// A code that the file does not have is damage, not a panic.
#[test]
fn a_row_without_a_code_is_corruption() {
    let made = make(&Schema::new(8, Metric::L2).m(4).ef_construction(16), 60);
    let segment = made.open();
    let scorer = CodeScorer::new(&segment, &[0.5; 8]);
    let mut distances = Vec::new();
    for rows in [&[60][..], &[0, 1, 2, 60], &[0, 1, 2, 3, u32::MAX]] {
        let error = scorer.score(rows, &mut distances).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
    }
    scorer.prefetch(&[60, u32::MAX]);
    assert!(scorer.score(&[0, 1, 2, 3, 59], &mut distances).is_ok() && distances.len() == 5);
}

/// Codes are made in batches, of which threads take pieces: wherever these end, each row has its own code.
#[test]
fn codes_are_those_of_their_rows_whichever_thread_made_them() {
    for codes in Codes::ALL {
        let schema = Schema::new(8_000, Metric::Cosine).codes(codes).m(4).ef_construction(8);
        codes_are_those_of_their_rows(&schema);
    }
}

fn codes_are_those_of_their_rows(schema: &Schema) {
    let made = make(schema, 600);
    let segment = made.open();
    let stride = segment.codes.row_bytes();
    if schema.chosen_codes() == Codes::Sq8 {
        // More than one batch, and more than one piece of the first one.
        assert!(stride * 600 > 4 << 20 && stride * 256 < 4 << 20);
    }
    let (mut code, mut work) = (vec![0; stride], CodeWork::default());
    for (row, original) in (0..).zip(&made.rows.rows) {
        segment.codes.encode(&original.vector, &mut code, &mut work);
        assert!(segment.row(&segment.places.codes, row).unwrap() == code, "row {row}");
    }
    let alone = folder();
    let (_, graph) = graph_of(schema, &rows_of(schema, 600, 5));
    let one_thread = SealTarget { threads: 1, ..target(&alone) };
    write_segment(&one_thread, schema, &made.rows, &graph, &|| false).unwrap();
    assert!(alone.bytes(&file(), made.meta.len, Residency::Heap).unwrap()[..] == made.bytes());
}
