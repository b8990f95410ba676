//! The distances that callers see: from the stored `f32` numbers, in double precision.
//!
//! The relative error is at most 1e-5 (it is near 1e-7, that of the `f32` result), also where `1 - cos` cancels: below
//! a small distance the cosine is taken as half the squared distance of the normalised vectors.

use nearstone_base::Metric;
use nearstone_kernels::{Kernels, kernels};

/// Below this, `1 - cos` may have lost too many digits. A sum in double precision is wrong by at most 2^-53 per addition
/// in its longest chain, which at 65,536 dimensions has 8,192: with the two lengths, 2e-12 in all. Vectors of equal
/// numbers come near it, since their roundings all go one way.
const CANCELS: f64 = 1e-6;

/// Exact distances from one query.
#[derive(Clone, Copy, Debug)]
pub struct ExactDistance<'q> {
    metric: Metric,
    query: &'q [f32],
    /// Length of the query; cosine only.
    norm: f64,
    kernels: Kernels,
}

impl<'q> ExactDistance<'q> {
    /// Prepares a query.
    pub fn new(metric: Metric, query: &'q [f32]) -> ExactDistance<'q> {
        let kernels = kernels();
        let norm = if metric == Metric::Cosine { kernels.dot_precise(query, query).sqrt() } else { 1.0 };
        ExactDistance { metric, query, norm, kernels }
    }

    /// The distance to a row; smaller is nearer. Never NaN for finite numbers (and non-zero ones under cosine).
    /// Panics when the dimensions differ.
    pub fn distance(&self, row: &[f32]) -> f32 {
        match self.metric {
            Metric::L2 => self.kernels.l2_precise(self.query, row) as f32,
            Metric::InnerProduct => -self.kernels.dot_precise(self.query, row) as f32,
            Metric::Cosine => {
                let (dot, square) = self.kernels.dot_norm_precise(self.query, row);
                let norm = square.sqrt();
                let distance = 1.0 - dot / (self.norm * norm);
                if distance < CANCELS { self.near(row) } else { distance as f32 }
            }
        }
    }

    /// Half the squared distance of the normalised vectors.
    fn near(&self, row: &[f32]) -> f32 {
        // By the kernel that measured the query, so that equal vectors have equal lengths to the last bit and a
        // distance of exactly zero. Another one adds in another order.
        let norm = self.kernels.dot_precise(row, row).sqrt();
        let square: f64 = self
            .query
            .iter()
            .zip(row)
            .map(|(&a, &b)| {
                let difference = f64::from(a) / self.norm - f64::from(b) / norm;
                difference * difference
            })
            .sum();
        (square / 2.0) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearstone_base::random::SplitMix64;

    #[test]
    fn plain_values() {
        let query = [1.0, 2.0, 2.0];
        let row = [2.0, 0.0, 1.0];
        assert_eq!(ExactDistance::new(Metric::L2, &query).distance(&row), 6.0);
        assert_eq!(ExactDistance::new(Metric::InnerProduct, &query).distance(&row), -4.0);
        let cosine = ExactDistance::new(Metric::Cosine, &query).distance(&row);
        assert!((f64::from(cosine) - (1.0 - 4.0 / (3.0 * 5f64.sqrt()))).abs() < 1e-7);
    }

    #[test]
    fn equal_vectors_have_distance_zero_at_every_dimension() {
        let mut rng = SplitMix64::new(1);
        for dimension in (1..=300).chain([768, 4096]) {
            let a: Vec<f32> = (0..dimension).map(|_| rng.unit_f64() as f32 + 0.01).collect();
            assert_eq!(ExactDistance::new(Metric::Cosine, &a).distance(&a), 0.0, "{dimension}");
        }
    }

    /// Every other number a little longer, the rest a little shorter: the vectors' angle is known by construction.
    #[test]
    fn the_error_stays_below_the_bound_where_the_cosine_cancels() {
        for dimension in [128, 4096, 65_536] {
            for number in [0.1f32, 0.3, 0.7, 1.1, 1.7] {
                for share in [1e-5f32, 3e-5, 1e-4, 1.5e-4, 2e-4, 3e-4, 1e-3, 1.5e-3, 2e-3] {
                    let (long, short) = (number * (1.0 + share), number * (1.0 - share));
                    let b: Vec<f32> = (0..dimension).map(|i| if i % 2 == 0 { long } else { short }).collect();
                    let (long, short) = (f64::from(long), f64::from(short));
                    // tan of the angle between (1, 1) and (long, short), then 1 - cos without cancellation.
                    let tan = (long - short) / (long + short);
                    let root = (1.0 + tan * tan).sqrt();
                    let expected = tan * tan / (root * (root + 1.0));
                    let a = vec![number; dimension];
                    let found = f64::from(ExactDistance::new(Metric::Cosine, &a).distance(&b));
                    let error = (found - expected).abs() / expected;
                    assert!(error <= 2e-6, "{dimension} times {number}, {share}: {error:e}");
                }
            }
        }
    }

    #[test]
    fn equal_vectors_have_distance_zero_and_nearly_equal_ones_keep_their_digits() {
        let a: Vec<f32> = (0..384).map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0).collect();
        let exact = ExactDistance::new(Metric::Cosine, &a);
        assert_eq!(exact.distance(&a), 0.0);
        let mut b = a.clone();
        b[7] += 1e-3;
        // The angle is (1e-3 times the part across a) / |a|; 1 - cos is half its square.
        let norm2: f64 = a.iter().map(|&x| f64::from(x).powi(2)).sum();
        let step = f64::from(b[7]) - f64::from(a[7]);
        let across2 = step * step * (1.0 - f64::from(a[7]).powi(2) / norm2);
        let expected = across2 / norm2 / 2.0;
        let found = f64::from(exact.distance(&b));
        assert!((found - expected).abs() <= 1e-4 * expected, "{found:e} instead of {expected:e}");
    }
}
