//! From estimates to exact distances: of the rows that a walk or a scan over codes found, only those that may be among the
//! nearest are measured.
//!
//! Rows come in the order of their estimates. The first few are measured in any case, and show how wrong estimates are. From
//! then on a row is left out if it seems farther than the last one wanted by more than twice that.
//!
//! Coarse codes say how wrong the estimate of each row may be, and rows differ: there, what is left out seems farther by more than
//! that. If an estimate turns out to be much more wrong than its code said, the others may be so as well.

use crate::segment::Hit;
use crate::topk::{Candidate, Nearest};
use nearstone_base::Result;

/// By how much the estimate of a row may be wrong, if its distance is the one given.
pub(crate) type Bound<'a> = &'a dyn Fn(u32, f32) -> f32;

/// So many rows are measured before it is believed how wrong estimates are.
const TRIED: usize = 8;
/// Estimates may be wrong by so many times what they were among those.
const MARGIN: f32 = 2.0;
/// Estimates of rows whose codes tell how wrong they are may be wrong by so many times the share of that that they were. (Below 1, for
/// of many rows some are a little more wrong than it says.)
const MARGIN_TOLD: f32 = 0.6;
/// Rows asked for ahead of the one that is measured.
const AHEAD: usize = 6;

/// Exact distances of those of the candidates, sorted by estimate, that may be among the `limit` nearest, in this order. `soon` is
/// told of a row a few before it is measured; `bound` is there for codes that tell how wrong they are.
pub(crate) fn rerank(
    candidates: &[Candidate],
    limit: usize,
    soon: impl Fn(u32),
    bound: Option<Bound<'_>>,
    mut measure: impl FnMut(u32) -> Result<f32>,
) -> Result<Vec<Hit>> {
    let first = limit.max(TRIED);
    let mut hits = Vec::with_capacity(candidates.len().min(first.saturating_mul(2)));
    // Estimates are wrong by so many times what they may be, or, where that is not known, by so much.
    let (mut doubt, margin) = if bound.is_some() { (1f32, MARGIN_TOLD) } else { (0.0, MARGIN) };
    let unit = |ordinal, distance| bound.map_or(1.0, |bound| bound(ordinal, distance));
    let mut last = f32::INFINITY;
    let mut nearest = Nearest::default();
    nearest.reset(limit);
    let too_far = |&Candidate { distance, ordinal }: &Candidate, doubt: f32, last: f32| {
        // What seems nearer is not asked for its bound.
        distance > last && distance - unit(ordinal, last) * doubt > last
    };
    candidates.iter().take(AHEAD).for_each(|candidate| soon(candidate.ordinal));
    for (place, candidate) in candidates.iter().enumerate() {
        if place >= first {
            // Not below that of the last one wanted, whatever comes.
            last = nearest.worst().map_or(f32::INFINITY, |worst| worst.distance);
        }
        if let Some(later) = candidates.get(place + AHEAD).filter(|later| !too_far(later, doubt, last)) {
            soon(later.ordinal);
        }
        if too_far(candidate, doubt, last) {
            continue;
        }
        let distance = measure(candidate.ordinal)?;
        doubt = doubt.max((distance - candidate.distance).abs() / unit(candidate.ordinal, distance) * margin);
        nearest.push(Candidate::new(distance, candidate.ordinal));
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
            let soon = |row: u32| told.borrow_mut()[row as usize] = true;
            let hits = rerank(&candidates, limit, soon, None, |row| {
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
            None,
            |row| Ok(if row == 0 { f32::INFINITY } else { 40.0 - row as f32 }),
        );
        assert_eq!(hits.unwrap().len(), 40);
    }

    /// The first rows have good estimates, and the nearest one a bad one, of which its code tells.
    #[test]
    fn a_row_whose_code_says_that_it_may_be_nearer_is_measured() {
        let candidates: Vec<Candidate> = (0..100).map(|row| Candidate::new(row as f32, row)).collect();
        let nearest_is_70 = |row: u32| if row == 70 { 0.5 } else { row as f32 };
        let measured = |exact: fn(u32) -> f32, bound: Option<Bound<'_>>| -> Vec<u32> {
            let hits = rerank(&candidates, 10, |_| {}, bound, |row| Ok(exact(row))).unwrap();
            hits.iter().map(|hit| hit.ordinal).collect()
        };
        let first = |to: u32| (0..to).collect::<Vec<u32>>();
        assert_eq!(measured(nearest_is_70, None), first(10));
        let one = |row, _| if row == 70 { 80.0 } else { 1.0 };
        assert_eq!(measured(nearest_is_70, Some(&one)), [first(11), vec![70]].concat());
        // Half more wrong than its code said, then three times as wrong: others may be 1.8 times as wrong then.
        let third_is_far = |row: u32| if row == 3 { 33.0 } else { row as f32 };
        assert_eq!(measured(third_is_far, Some(&|_, _| 20.0)), first(31));
        assert_eq!(measured(third_is_far, Some(&|_, _| 10.0)), first(29));
        assert_eq!(measured(third_is_far, Some(&|_, _| f32::NAN)).len(), 100);
    }
}
