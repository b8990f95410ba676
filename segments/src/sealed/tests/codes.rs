//! Walks over codes: what estimates leave out is not missed.

use super::*;
use crate::graph::Scorer;
use crate::sealed::search::CodeScorer;
use crate::topk::Candidate;

/// Rows sorted by estimate, of which only the first few are measured, give the nearest as if all were.
#[test]
fn rows_that_seem_too_far_are_not_among_the_nearest() {
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        for dimension in [8, 47, 130] {
            let made = make(&Schema::new(dimension, metric).m(4).ef_construction(16), 600);
            let segment = made.open();
            let (mut found, mut wanted) = (0, 0);
            for row in (0..600).step_by(7) {
                let mut rng = SplitMix64::new(u64::from(row));
                let query: Vec<f32> =
                    segment.vector(row).unwrap().iter().map(|x| x + rng.unit_f64() as f32 - 0.5).collect();
                let rows: Vec<u32> = (0..600).collect();
                let mut distances = Vec::new();
                CodeScorer::new(&segment, &query).score(&rows, &mut distances).unwrap();
                let mut candidates: Vec<Candidate> =
                    rows.iter().zip(&distances).map(|(&row, &d)| Candidate::new(d, row)).collect();
                candidates.sort_unstable();
                let exact = ExactDistance::new(metric, &query);
                for limit in [1, 10, 600] {
                    let hits = segment.rerank(&exact, &candidates, limit, &mut Room::default()).unwrap();
                    let nearest = truth(&made.rows, &query, limit, |_| true);
                    assert_eq!(hits.len(), nearest.len());
                    found += hits.iter().filter(|hit| nearest.contains(hit)).count();
                    wanted += nearest.len();
                }
            }
            assert!(found * 1000 >= wanted * 999, "{metric:?} of {dimension}: {found} of {wanted}");
        }
    }
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
    let schema = Schema::new(8_000, Metric::Cosine).m(4).ef_construction(8);
    let made = make(&schema, 600);
    let segment = made.open();
    let stride = segment.params.row_bytes();
    // More than one batch, and more than one piece of the first one.
    assert!(stride * 600 > 4 << 20 && stride * 256 < 4 << 20);
    let (mut code, mut work) = (vec![0; stride], Vec::new());
    for (row, original) in (0..).zip(&made.rows.rows) {
        segment.params.encode(&original.vector, &mut code, &mut work);
        assert!(segment.row(&segment.places.codes, row).unwrap() == code, "row {row}");
    }
    let alone = folder();
    let (_, graph) = graph_of(&schema, &rows_of(&schema, 600, 5));
    let one_thread = SealTarget { threads: 1, ..target(&alone) };
    write_segment(&one_thread, &schema, &made.rows, &graph, &|| false).unwrap();
    assert!(alone.bytes(&file(), made.meta.len, Residency::Heap).unwrap()[..] == made.bytes());
}
