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

use nearstone_base::Metric;
use nearstone_kernels::{CODE_ALIGN, Kernels, Rotation, kernels};

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
/// A number of this size has no room for fractions: adding it rounds, and leaves the integer in the lowest bits.
const ROUND: f32 = 12_582_912.0;
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

/// What of a row goes into estimates beside its codes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factors {
    step: f32,
    /// `|y|^2 - r^2`.
    square: f32,
    /// The row's share of the squared distance below which codes do not tell rows apart.
    blur: f32,
    /// Sum of the codes.
    sum: i32,
}

/// The codes being made.
#[derive(Default, Debug)]
pub(crate) struct ShadowWork {
    numbers: Vec<f32>,
    /// The codes after [`ShadowSpace::encode`].
    pub(crate) codes: Vec<u8>,
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

    /// Bytes of a row's codes, a multiple of 64.
    pub(crate) fn row_bytes(&self) -> usize {
        self.rotated.next_multiple_of(CODE_ALIGN)
    }

    /// Encodes a vector into `work.codes`. Panics for another dimension.
    ///
    /// Whatever the numbers, no later estimate is NaN: factors out of the range of `f32` make pairs that have to be
    /// measured on the vectors.
    pub(crate) fn encode(&self, vector: &[f32], work: &mut ShadowWork) -> Factors {
        assert_eq!(vector.len(), self.dimension);
        let ShadowWork { numbers, codes } = work;
        let largest = vector.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        codes.clear();
        codes.resize(self.row_bytes(), 128);
        if largest == 0.0 {
            return Factors { step: 0.0, square: 0.0, blur: 0.0, sum: 0 };
        }
        // Between -1 and 1, so that a rotation leaves the range of f32 for no vector.
        numbers.clear();
        numbers.extend(vector.iter().map(|x| x / largest));
        numbers.resize(self.rotated, 0.0);
        let length = if self.metric == Metric::Cosine { self.kernels.dot_precise(numbers, numbers).sqrt() } else { 1.0 };
        let unit = if self.metric == Metric::Cosine { 1.0 / length } else { f64::from(largest) };
        self.rotation.apply(self.kernels, numbers);
        let top = numbers.iter().fold(0f32, |top, x| top.max(x.abs()));
        let (step, inverse) = (top / 127.0, 127.0 / top);
        let (mut sums, mut squares, mut lost) = ([0i32; LANES], [0i32; LANES], [0f32; LANES]);
        for (numbers, codes) in numbers.chunks_exact(LANES).zip(codes.chunks_exact_mut(LANES)) {
            for lane in 0..LANES {
                let rounded = numbers[lane] * inverse + ROUND;
                let code = i32::from(rounded.to_bits() as u8 as i8);
                let rest = numbers[lane] - step * (rounded - ROUND);
                codes[lane] = (code + 128) as u8;
                sums[lane] += code;
                squares[lane] += code * code;
                lost[lane] += rest * rest;
            }
        }
        let sum = sums.iter().sum();
        let squares: i32 = squares.iter().sum();
        let lost = lost.iter().map(|&lost| f64::from(lost)).sum::<f64>() * unit * unit;
        let step = f64::from(step) * unit;
        let square = step * step * f64::from(squares);
        let blur = lost * 4.0 / (self.rotated as f64 * SHARPNESS * SHARPNESS) + square * ROUNDING / SHARPNESS;
        Factors { step: step as f32, square: (square - lost) as f32, blur: blur as f32, sum }
    }

    /// The estimated distance, in the metric's own scale, of two rows with these factors, of which
    /// [`Kernels::dots_biased`] said `product`, being given the codes of `a` as those it subtracts from; `None` when the
    /// codes can't tell.
    #[inline]
    pub(crate) fn estimate(&self, a: Factors, b: Factors, product: i32) -> Option<f32> {
        // At most 65,536 * 127^2: the sum of both terms is exact in 32 bits.
        let dot = product.wrapping_sub(a.sum.wrapping_mul(128)) as f32;
        // The steps one after the other: the product of two may leave the range of f32 where the result does not.
        let dot = a.step * dot * b.step;
        if self.metric == Metric::InnerProduct {
            return dot.is_finite().then_some(-dot);
        }
        let square = a.square + b.square - 2.0 * dot;
        let scale = if self.metric == Metric::Cosine { 0.5 } else { 1.0 };
        // Also for what is not finite.
        (square > a.blur + b.blur && square < f32::MAX).then_some(square * scale)
    }

    /// Bytes of memory held beside the value itself.
    pub(crate) fn bytes(&self) -> u64 {
        self.rotation.bytes()
    }
}
