//! How much of the truth a search found, and how its times are spread.
//!
//! Real sets have duplicates, so which of several equally near rows is "the" k-th neighbour is an accident. A returned
//! row therefore counts as right when its exact distance is at most that of the k-th true neighbour plus
//! [`TOLERANCE`], whatever its id. Rows returned twice count once.

use crate::truth::Truth;

/// How much farther than the k-th true neighbour a row may be.
pub const TOLERANCE: f64 = 1e-6;

/// The share of the k nearest rows that was found, 0 to 1.
///
/// `true_distances` are those of the true neighbours, nearest first, at least `min(k, rows)` of them; `distance_of` is
/// the exact distance of a returned row. Only the first `k` returned rows count. With no true neighbour at all,
/// everything was found.
pub fn recall(true_distances: &[f64], returned: &[u32], k: usize, distance_of: impl Fn(u32) -> f64) -> f64 {
    let wanted = k.min(true_distances.len());
    let Some(kth) = wanted.checked_sub(1).and_then(|last| true_distances.get(last)) else { return 1.0 };
    let mut counted = Vec::with_capacity(wanted);
    for id in returned.iter().take(k) {
        if !counted.contains(id) && distance_of(*id) <= kth + TOLERANCE {
            counted.push(*id);
        }
    }
    counted.len().min(wanted) as f64 / wanted as f64
}

/// The mean recall over all queries: `returned(query)` gives the ids found, `distance_of(query, id)` exact distances.
pub fn mean_recall<R: AsRef<[u32]>>(
    truth: &Truth,
    k: usize,
    returned: impl Fn(usize) -> R,
    distance_of: impl Fn(usize, u32) -> f64,
) -> f64 {
    if truth.is_empty() {
        return 1.0;
    }
    let one =
        |query| recall(truth.distances(query), returned(query).as_ref(), k, |id| distance_of(query, id));
    (0..truth.len()).map(one).sum::<f64>() / truth.len() as f64
}

/// The spread of some measurements, in their unit. All zero when there are none.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Percentiles {
    /// How many there are.
    pub count: usize,
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// 95 % are at most this.
    pub p95: f64,
    /// 99 % are at most this.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Percentiles {
    /// Of `values`, by nearest rank: a percentile is always one of the values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Percentiles {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let count = values.len();
        let rank = |percent: usize| {
            let rank = (count * percent).div_ceil(100).saturating_sub(1);
            values.get(rank).copied().unwrap_or_default()
        };
        Percentiles {
            count,
            mean: values.iter().sum::<f64>() / count.max(1) as f64,
            p50: rank(50),
            p95: rank(95),
            p99: rank(99),
            max: rank(100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::truth::{Distance, Exact};

    #[test]
    fn ties_count_whatever_their_id() {
        // Rows 1, 2 and 3 are the same; any two of them with row 0 are the three nearest.
        let rows = [0.0f32, 1.0, 1.0, 1.0, 9.0];
        let truth = Exact::new(&rows, 1, Distance::L2).search(&[0.0], 3);
        let of = |id: u32| f64::from(rows[id as usize]).powi(2);
        assert_eq!(truth.ids(0), [0, 1, 2]);
        assert_eq!(recall(truth.distances(0), &[3, 0, 2], 3, of), 1.0);
        assert_eq!(recall(truth.distances(0), &[3, 3, 3], 3, of), 1.0 / 3.0);
        assert_eq!(recall(truth.distances(0), &[0, 4], 3, of), 1.0 / 3.0);
        assert_eq!(recall(truth.distances(0), &[4, 4, 4, 0], 3, of), 0.0);
        assert_eq!(recall(truth.distances(0), &[], 3, of), 0.0);
        assert_eq!(recall(&[], &[], 3, of), 1.0);
        assert_eq!(mean_recall(&truth, 3, |_| vec![1, 2, 3], |_, id| of(id)), 1.0);
    }

    #[test]
    fn the_tolerance_is_small() {
        assert_eq!(recall(&[0.5], &[7], 1, |_| 0.500_000_9), 1.0);
        assert_eq!(recall(&[0.5], &[7], 1, |_| 0.500_002), 0.0);
    }

    #[test]
    fn percentiles_by_nearest_rank() {
        let spread = Percentiles::of((1..=200).rev().map(f64::from));
        assert_eq!((spread.count, spread.mean, spread.p50), (200, 100.5, 100.0));
        assert_eq!((spread.p95, spread.p99, spread.max), (190.0, 198.0, 200.0));
        assert_eq!(Percentiles::of([3.0]).p99, 3.0);
        assert_eq!(Percentiles::of([]), Percentiles::default());
    }
}
