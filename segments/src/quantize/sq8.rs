//! 8-bit scalar codes: from the lowest number of a row to its highest in 255 steps.
//!
//! Their errors are a few thousandths of the distances, hardly more than what rounding the query costs, so they are not
//! told: searches see from the rows that they measure how wrong estimates are.

use super::ROUND;
use super::codes::{Factors, extreme};

/// Encodes a centred row. Panics when there are fewer codes than numbers.
pub(super) fn encode(numbers: &[f32], codes: &mut [u8]) -> Factors {
    // One after the other: the compiler makes vectors of either loop, but not of both in one.
    let (lo, high) = (extreme(numbers, |x, low| x < low), extreme(numbers, |x, high| x > high));
    let delta = ((f64::from(high) - f64::from(lo)) / 255.0) as f32;
    // What is too small to be divided by is as good as zero.
    let (delta, inverse) = if delta.is_normal() { (delta, 1.0 / delta) } else { (0.0, 0.0) };
    let (mut sum, mut squares) = (0u32, 0u32);
    for (code, x) in codes[..numbers.len()].iter_mut().zip(numbers) {
        let steps = (x - lo) * inverse;
        // Also where the difference leaves the range of f32.
        let steps = if steps < 255.0 { steps } else { 255.0 };
        let rounded = (steps + ROUND).to_bits() & 255;
        *code = rounded as u8;
        sum += rounded;
        squares += rounded * rounded;
    }
    // Of the numbers as they will be read back, `lo + delta c`, so that it belongs to the stored codes. Both sums are
    // exact: at most 255^2 * 65,536, below 2^32.
    let (low, step) = (f64::from(lo), f64::from(delta));
    let square =
        low * low * numbers.len() as f64 + step * (2.0 * low * f64::from(sum) + step * f64::from(squares));
    Factors { delta, lo, square: square.min(f64::from(f32::MAX)) as f32, error: 0.0 }
}
