//! 8-bit codes that a row gets when it is appended, from nothing but its own numbers: they stand in for the vector
//! while a growing graph is linked and walked.
//!
//! 1. The vector (under cosine, brought to length 1) is rotated, so that no number is much larger than the others,
//!    whatever the data's axes mean: one outlier would cost all others their digits.
//! 2. One step for the row, the largest number over 127: `x` is about `step * c`, with codes `c` in `-127..=127`. They
//!    are kept as bytes with 128 added.
//! 3. With `y = step * c` and what rounding has lost, `r^2 = |x - y|^2`, the estimate for a pair is
//!
//! ```text
//! |a - b|^2  =  (|y_a|^2 - r_a^2) + (|y_b|^2 - r_b^2) - 2 step_a step_b <c_a, c_b>
//! -<a, b>    =  -step_a step_b <c_a, c_b>
//! ```
//!
//! The distance of the decoded vectors exceeds the true one by `r_a^2 + r_b^2` on average, which is taken off, and errs
//! by about `2 d sqrt((r_a^2 + r_b^2) / D)` beside that: the relative error grows as rows come together. Each row
//! has a *blur*, such that a squared distance below the sum of the two blurs is not known to [`SHARPNESS`]: the
//! codes cannot tell such a pair apart, and it has to be measured on the vectors themselves.

use super::ROUND;
use nearstone_base::Metric;
use nearstone_kernels::{CODE_ALIGN, Kernels, Rotation, kernels};
use std::f64::consts::SQRT_2;

/// Vectors of fewer numbers are hardly larger than their codes.
const DIMENSION_MIN: usize = 48;
/// The seed of the rotation; codes never leave the process.
const SEED: u64 = 0x7368_6164_6f77;
/// Blocks of numbers that are rotated.
const ROTATED: usize = 32;
/// The relative error of a squared distance that codes may have.
const SHARPNESS: f64 = 0.02;
/// The relative error of a sum in single precision, generously.
const ROUNDING: f64 = 4e-7;
/// The byte of the code 0.
const ZERO: u8 = 128;
/// Sums that do not wait for each other.
const LANES: usize = 8;

/// How vectors of a schema become codes.
#[derive(Debug)]
pub(crate) struct ShadowSpace {
    metric: Metric,
    dimension: usize,
    rotation: Rotation,
    rotated: usize,
    kernels: Kernels,
}

/// What of a row goes into estimates beside its codes, in the metric's own scale: the factors of it are in here, so
/// that an estimate is the same few operations under every metric.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factors {
    /// Times the root of what the product is multiplied with: 2, 1 and 1 (Euclidean, cosine, inner product).
    step: f32,
    /// `|y|^2 - r^2`, half of it under cosine.
    square: f32,
    /// The row's share of the distance below which codes do not tell rows apart.
    blur: f32,
    /// Sum of the codes.
    sum: i32,
}

impl Factors {
    /// Bytes beside the codes.
    const BYTES: usize = 16;

    fn write(self, out: &mut [u8]) {
        out[..4].copy_from_slice(&self.step.to_le_bytes());
        out[4..8].copy_from_slice(&self.square.to_le_bytes());
        out[8..12].copy_from_slice(&self.blur.to_le_bytes());
        out[12..16].copy_from_slice(&self.sum.to_le_bytes());
    }

    #[inline]
    fn read(bytes: &[u8; Factors::BYTES]) -> Factors {
        let (words, _) = bytes.as_chunks::<4>();
        Factors {
            step: f32::from_le_bytes(words[0]),
            square: f32::from_le_bytes(words[1]),
            blur: f32::from_le_bytes(words[2]),
            sum: i32::from_le_bytes(words[3]),
        }
    }
}

/// The codes being made.
#[derive(Default, Debug)]
pub(crate) struct ShadowWork {
    numbers: Vec<f32>,
    /// The row after [`ShadowSpace::encode`].
    pub(crate) row: Vec<u8>,
}

impl ShadowSpace {
    /// `None` for dimensions at which codes don't pay.
    pub(crate) fn new(metric: Metric, dimension: usize) -> Option<ShadowSpace> {
        let rotated = dimension.next_multiple_of(ROTATED);
        (dimension >= DIMENSION_MIN).then(|| ShadowSpace {
            metric,
            dimension,
            rotation: Rotation::new(rotated, SEED),
            rotated,
            kernels: kernels(),
        })
    }

    /// Bytes of a row: its codes, a multiple of 64 bytes, and their factors.
    pub(crate) fn row_bytes(&self) -> usize {
        self.code_bytes() + Factors::BYTES
    }

    fn code_bytes(&self) -> usize {
        self.rotated.next_multiple_of(CODE_ALIGN)
    }

    /// Encodes a vector into `work.row`. Panics for another dimension.
    ///
    /// Whatever the numbers, no later estimate is wrong without saying so: factors out of the range of `f32` make pairs
    /// that have to be measured on the vectors.
    pub(crate) fn encode(&self, vector: &[f32], work: &mut ShadowWork) {
        assert_eq!(vector.len(), self.dimension);
        let ShadowWork { numbers, row } = work;
        let largest = vector.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        row.clear();
        row.resize(self.row_bytes(), ZERO);
        let (codes, factors) = row.split_at_mut(self.code_bytes());
        if largest == 0.0 {
            return Factors { step: 0.0, square: 0.0, blur: 0.0, sum: 0 }.write(factors);
        }
        // Between -1 and 1, so that a rotation leaves the range of f32 for no vector.
        numbers.clear();
        numbers.extend(vector.iter().map(|x| x / largest));
        let unit = match self.metric {
            Metric::Cosine => self.kernels.dot_precise(numbers, numbers).sqrt().recip(),
            _ => f64::from(largest),
        };
        numbers.resize(self.rotated, 0.0);
        self.rotation.apply(self.kernels, numbers);
        let top = numbers.iter().fold(0f32, |top, x| top.max(x.abs()));
        let (step, inverse) = (top / 127.0, 127.0 / top);
        let (mut sums, mut squares, mut lost) = ([0i32; LANES], [0i32; LANES], [0f32; LANES]);
        for (numbers, codes) in numbers.chunks_exact(LANES).zip(codes.chunks_exact_mut(LANES)) {
            for lane in 0..LANES {
                let rounded = numbers[lane] * inverse + ROUND;
                let code = i32::from(rounded.to_bits() as i8);
                let rest = numbers[lane] - step * (rounded - ROUND);
                codes[lane] = (code as u8).wrapping_add(ZERO);
                sums[lane] += code;
                squares[lane] += code * code;
                lost[lane] += rest * rest;
            }
        }
        let squares: i32 = squares.iter().sum();
        let lost = lost.iter().map(|&lost| f64::from(lost)).sum::<f64>() * unit * unit;
        let step = f64::from(step) * unit;
        let square = step * step * f64::from(squares);
        let blur = lost * 4.0 / (self.rotated as f64 * SHARPNESS * SHARPNESS) + square * ROUNDING / SHARPNESS;
        let (step, square, blur) = match self.metric {
            Metric::L2 => (step * SQRT_2, square - lost, blur),
            Metric::Cosine => (step, (square - lost) / 2.0, blur / 2.0),
            Metric::InnerProduct => (step, square - lost, blur),
        };
        let sum = sums.iter().sum();
        // A step without its digits makes every estimate NaN.
        let step = if step < f64::from(f32::MIN_POSITIVE) { f64::NAN } else { step };
        Factors { step: step as f32, square: square as f32, blur: blur as f32, sum }.write(factors);
    }

    /// The estimated distances, in the metric's own scale, from a row to four others; NaN where the codes can't tell.
    #[inline]
    pub(crate) fn estimates(&self, from: &[u8], rows: [&[u8]; 4]) -> [f32; 4] {
        let [a, b, c, d] = rows;
        let codes = self.code_bytes();
        let products =
            self.kernels.dots_biased(&[&a[..codes], &b[..codes], &c[..codes], &d[..codes]], &from[..codes]);
        let factors =
            |row: &[u8]| Factors::read(row[codes..].first_chunk().expect("factors follow the codes"));
        let from = factors(from);
        let others = [factors(a), factors(b), factors(c), factors(d)];
        let mut estimates = [f32::NAN; 4];
        for lane in 0..4 {
            let other = others[lane];
            // At most 65,536 * 127^2 after the subtraction, and below 2^31 before.
            let dot = products[lane].wrapping_sub(from.sum.wrapping_mul(128)) as f32;
            // The steps one after the other: the product of two may leave the range of f32 where the result does not.
            let product = from.step * dot * other.step;
            // Products are known to as much of the distance between the rows as that is itself.
            let (apart, estimate) = match self.metric {
                Metric::InnerProduct => (from.square + other.square - 2.0 * product, -product),
                _ => {
                    let apart = from.square + other.square - product;
                    (apart, apart)
                }
            };
            // Also for what is not finite.
            let known = apart > from.blur + other.blur && apart < f32::MAX && estimate.is_finite();
            estimates[lane] = if known { estimate } else { f32::NAN };
        }
        estimates
    }

    /// Bytes of memory held beside the value itself.
    pub(crate) fn bytes(&self) -> u64 {
        self.rotation.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distance::ExactDistance;
    use nearstone_base::random::SplitMix64;

    const METRICS: [Metric; 3] = [Metric::L2, Metric::Cosine, Metric::InnerProduct];

    fn gaussian(rng: &mut SplitMix64, dimension: usize) -> Vec<f32> {
        let one = |rng: &mut SplitMix64| (0..12).map(|_| rng.unit_f64()).sum::<f64>() - 6.0;
        (0..dimension).map(|_| one(rng) as f32).collect()
    }

    fn encoded(space: &ShadowSpace, vector: &[f32]) -> Vec<u8> {
        let mut work = ShadowWork::default();
        space.encode(vector, &mut work);
        work.row
    }

    fn estimate(space: &ShadowSpace, a: &[f32], b: &[f32]) -> f32 {
        let (a, b) = (encoded(space, a), encoded(space, b));
        let estimates = space.estimates(&a, [&b; 4]);
        assert!(estimates.iter().all(|e| e.to_bits() == estimates[0].to_bits()));
        estimates[0]
    }

    fn length(vector: &[f32]) -> f64 {
        vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
    }

    #[test]
    fn estimates_are_close_at_every_dimension_and_magnitude() {
        let mut rng = SplitMix64::new(1);
        for dimension in (DIMENSION_MIN..=130).chain([384, 768, 1_000, 4_097]) {
            for metric in METRICS {
                let space = ShadowSpace::new(metric, dimension).unwrap();
                for magnitude in [1.0, 1e-12, 1e15] {
                    let mut vector = || -> Vec<f32> {
                        gaussian(&mut rng, dimension).iter().map(|x| x * magnitude).collect()
                    };
                    let (a, mut b) = (vector(), vector());
                    // An outlier, and another length.
                    b[dimension / 2] *= 20.0;
                    b.iter_mut().for_each(|x| *x *= 3.0);
                    let (found, truth) =
                        (estimate(&space, &a, &b), ExactDistance::new(metric, &a).distance(&b));
                    let scale = match metric {
                        Metric::InnerProduct => length(&a) * length(&b),
                        _ => f64::from(truth),
                    };
                    let error = f64::from(found - truth).abs() / scale;
                    assert!(error < 0.01, "{metric:?}, {dimension} times {magnitude:e}: {error}");
                }
            }
        }
        assert!(METRICS.iter().all(|&metric| ShadowSpace::new(metric, DIMENSION_MIN - 1).is_none()));
    }

    /// Pairs from far to nearly equal: as long as codes claim to know the distance, they do.
    #[test]
    fn what_codes_cannot_tell_apart_they_do_not_estimate() {
        let mut rng = SplitMix64::new(2);
        for metric in [Metric::L2, Metric::Cosine] {
            for dimension in [64, 100, 384] {
                let space = ShadowSpace::new(metric, dimension).unwrap();
                let (mut known, mut errors) = (0, 0f64);
                for step in 0..400 {
                    let a = gaussian(&mut rng, dimension);
                    let apart = 0.97f32.powi(step);
                    let b: Vec<f32> = a
                        .iter()
                        .zip(gaussian(&mut rng, dimension))
                        .map(|(a, noise)| a + apart * noise)
                        .collect();
                    let found = f64::from(estimate(&space, &a, &b));
                    let truth = f64::from(ExactDistance::new(metric, &a).distance(&b));
                    if !found.is_nan() {
                        let error = (found - truth).abs() / truth;
                        assert!(error < 5.0 * SHARPNESS, "{metric:?} of {dimension}: {error} at {truth}");
                        known += 1;
                        errors += error * error;
                    }
                    assert!(step < 200 || found.is_nan(), "{metric:?} of {dimension}: {truth} is too near");
                }
                let error = (errors / f64::from(known)).sqrt();
                assert!(known > 50 && error < SHARPNESS, "{metric:?} of {dimension}: {error}, {known} known");
                let a = gaussian(&mut rng, dimension);
                assert!(estimate(&space, &a, &a).is_nan());
            }
        }
    }

    #[test]
    fn whatever_the_numbers_an_estimate_is_finite_or_unknown() {
        let dimension = 64;
        let constant = |x: f32| vec![x; dimension];
        let alternating =
            |x: f32| (0..dimension).map(|i| if i % 2 == 0 { x } else { -x }).collect::<Vec<_>>();
        let mut single = constant(0.0);
        single[5] = f32::MAX;
        let mut rows = vec![single, constant(0.0)];
        for x in [f32::MAX, f32::MIN_POSITIVE, f32::from_bits(1), 1e-30, 1e-19, 1e19, 1e30, 127.0, 1.0] {
            rows.extend([constant(x), constant(-x), alternating(x)]);
        }
        for metric in METRICS {
            let space = ShadowSpace::new(metric, dimension).unwrap();
            for a in &rows {
                for b in &rows {
                    let found = estimate(&space, a, b);
                    assert!(!found.is_infinite());
                    let scale = match metric {
                        Metric::L2 => length(a).max(length(b)).powi(2),
                        Metric::InnerProduct => length(a) * length(b),
                        Metric::Cosine => 1.0,
                    };
                    if found.is_nan()
                        || scale == 0.0
                        || (metric == Metric::Cosine && length(a) * length(b) == 0.0)
                    {
                        continue;
                    }
                    let truth = f64::from(ExactDistance::new(metric, a).distance(b));
                    let error = (f64::from(found) - truth).abs();
                    // Products below the smallest normal number lose digits in any order.
                    let bound = 0.02 * scale + 1e-36;
                    assert!(error <= bound, "{metric:?} of {} and {}: {found} is not {truth}", a[0], b[0]);
                }
            }
        }
    }

    #[test]
    fn every_backend_encodes_to_the_same_estimates_nearly() {
        let mut rng = SplitMix64::new(4);
        let (a, b) = (gaussian(&mut rng, 200), gaussian(&mut rng, 200));
        let all: Vec<f32> = Kernels::supported()
            .into_iter()
            .map(|kernels| {
                estimate(&ShadowSpace { kernels, ..ShadowSpace::new(Metric::L2, 200).unwrap() }, &a, &b)
            })
            .collect();
        assert!(all.iter().all(|e| (e - all[0]).abs() < 1e-3 * all[0]), "{all:?}");
    }
}
