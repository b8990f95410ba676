//! From estimates to exact distances: of the rows that a walk or a scan over codes found, only those that may be among the
//! nearest are measured.
//!
//! Rows come in the order of their estimates. The first few are measured in any case, and show how wrong estimates are; a row
//! that seems farther than the last one wanted by more than twice that ends it.

use crate::segment::Hit;
use crate::topk::Candidate;
use nearstone_base::Result;

/// So many rows are measured before it is believed how wrong estimates are.
const TRIED: usize = 8;
/// Estimates may be wrong by so many times what they were among those.
const MARGIN: f32 = 2.0;
/// Rows asked for ahead of the one that is measured.
const AHEAD: usize = 6;

/// Exact distances of those of the candidates, sorted by estimate, that may be among the `limit` nearest, in this order. `soon` is
/// told of a row a few before it is measured.
pub(crate) fn rerank(
    candidates: &[Candidate],
    limit: usize,
    soon: impl Fn(u32),
    mut measure: impl FnMut(u32) -> Result<f32>,
) -> Result<Vec<Hit>> {
    let first = limit.max(TRIED);
    let (mut hits, mut wrong, mut last) =
        (Vec::with_capacity(candidates.len().min(first.saturating_mul(2))), 0f32, f32::INFINITY);
    candidates.iter().take(AHEAD).for_each(|candidate| soon(candidate.ordinal));
    for (place, candidate) in candidates.iter().enumerate() {
        if place == first {
            // Not below that of the last one wanted, whatever comes.
            last = hits.iter().fold(f32::NEG_INFINITY, |last, hit: &Hit| last.max(hit.distance));
        }
        if candidate.distance - wrong * MARGIN > last {
            break;
        }
        if let Some(later) = candidates.get(place + AHEAD) {
            soon(later.ordinal);
        }
        let distance = measure(candidate.ordinal)?;
        wrong = wrong.max((distance - candidate.distance).abs());
        hits.push(Hit { distance, ordinal: candidate.ordinal });
    }
    Ok(hits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;

    proptest! {
        /// With errors that grow no further after the first rows, nothing of the nearest is left out; and what is measured
        /// was announced before.
        #[test]
        fn what_is_not_measured_is_not_among_the_nearest(
            rows in prop::collection::vec((0.0f32..100.0, -1.0f32..1.0), 1..200), limit in 1usize..30, error in 0.0f32..9.0,
        ) {
            let mut rows = rows;
            // The largest error is among the first.
            rows[0].1 = 1.0;
            let exact: Vec<f32> = rows.iter().map(|row| row.0).collect();
            let mut candidates: Vec<Candidate> =
                (0..).zip(&rows).map(|(row, &(x, wrong))| Candidate::new(x + wrong * error, row)).collect();
            candidates[0].distance = f32::NEG_INFINITY;
            candidates.sort_unstable();
            candidates[0].distance = rows[0].0 + error;
            let told = RefCell::new(vec![false; rows.len()]);
            let hits = rerank(&candidates, limit, |row| told.borrow_mut()[row as usize] = true, |row| {
                assert!(told.borrow()[row as usize], "row {row} comes as a surprise");
                Ok(exact[row as usize])
            }).unwrap();
            let mut found: Vec<f32> = hits.iter().map(|hit| hit.distance).collect();
            let mut nearest = exact;
            for distances in [&mut found, &mut nearest] {
                distances.sort_unstable_by(f32::total_cmp);
                distances.truncate(limit);
            }
            prop_assert_eq!(found, nearest);
        }
    }

    #[test]
    fn estimates_that_are_no_numbers_end_nothing() {
        let candidates: Vec<Candidate> =
            (0..40).map(|row| Candidate::new(if row < 20 { 1.0 } else { f32::INFINITY }, row)).collect();
        let hits = rerank(
            &candidates,
            10,
            |_| {},
            |row| Ok(if row == 0 { f32::INFINITY } else { 40.0 - row as f32 }),
        );
        assert_eq!(hits.unwrap().len(), 40);
    }
}
