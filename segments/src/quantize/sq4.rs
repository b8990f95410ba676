//! 4-bit scalar codes, with the tails cut off.
//!
//! Sixteen levels from a row's lowest number to its highest would spend most of them where hardly any number lies. So
//! several shorter ranges around the row's mean are tried, what lies beyond them becomes the first or the last level, and the
//! one that brings the row back best is taken. For its codes, offset and step are then fitted by least squares, which makes the
//! decoded row a little too short, and lengthened until the error is orthogonal to the row itself.

use super::ROUND;
use super::codes::{Factors, LANES, extreme};

/// The highest code.
const TOP: f32 = 15.0;
/// The shares of a row's range that are tried. Normal numbers want about 0.8 of 384 of them and 0.9 of 64; numbers with long
/// tails want less.
const SHARES: [f32; 6] = [1.0, 0.9, 0.8, 0.7, 0.6, 0.45];

/// Encodes a centred row, one code a byte. Panics when there are not as many codes as numbers.
pub(super) fn encode(numbers: &[f32], codes: &mut [u8]) -> Factors {
    assert_eq!(numbers.len(), codes.len());
    let count = numbers.len() as f64;
    let mean = numbers.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let (low, high) = (extreme(numbers, |x, low| x < low), extreme(numbers, |x, high| x > high));
    let range = |share: f32| {
        let cut = |end: f32| mean + f64::from(share) * (f64::from(end) - mean);
        let (low, high) = (cut(low), cut(high));
        (low as f32, ((high - low) / f64::from(TOP)) as f32)
    };
    let whole = inverse(range(1.0).1);
    let wrong = |&(lo, delta): &(f32, f32)| wrong_by(numbers, lo, delta, whole);
    let best = SHARES.map(range).into_iter().min_by(|a, b| wrong(a).total_cmp(&wrong(b)));
    let (lo, delta) = best.unwrap_or((0.0, 0.0));
    let inverse = inverse(delta);
    let (mut sum, mut squares) = (0u32, 0u32);
    for (code, &x) in codes.iter_mut().zip(numbers) {
        let rounded = steps(x, lo, inverse) as u32;
        *code = rounded as u8;
        sum += rounded;
        squares += rounded * rounded;
    }
    fit(numbers, codes, mean, (f64::from(sum), f64::from(squares)))
}

/// Offset and step that bring the numbers back from their codes, of which the sum and the sum of squares are told.
fn fit(numbers: &[f32], codes: &[u8], mean: f64, (sum, squares): (f64, f64)) -> Factors {
    let count = numbers.len() as f64;
    let middle = sum / count;
    let pairs = || numbers.iter().map(|&x| f64::from(x)).zip(codes.iter().map(|&code| f64::from(code)));
    let together: f64 = pairs().map(|(x, code)| (x - mean) * (code - middle)).sum();
    let spread = squares - sum * middle;
    let delta = if spread > 0.0 { together / spread } else { 0.0 };
    // Of the numbers, those brought back, and the products of the two.
    let square: f64 = numbers.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let brought = count * mean * mean + delta * together;
    let longer = if brought > 0.0 { square / brought } else { 1.0 };
    Factors::of(numbers, codes, mean - delta * middle, delta, longer)
}

/// What is too small to be divided by is as good as zero.
fn inverse(delta: f32) -> f32 {
    if delta.is_normal() { 1.0 / delta } else { 0.0 }
}

/// The level of a number.
#[inline(always)]
fn steps(x: f32, lo: f32, inverse: f32) -> f32 {
    let steps = (x - lo) * inverse;
    let steps = if steps < TOP { steps } else { TOP };
    let steps = if steps > 0.0 { steps } else { 0.0 };
    (steps + ROUND) - ROUND
}

/// The squared distance from the numbers to their levels, times the square of `unit`, which keeps it in the range of f32. In
/// sums that do not wait for each other.
fn wrong_by(numbers: &[f32], lo: f32, delta: f32, unit: f32) -> f32 {
    let inverse = inverse(delta);
    let one = |x: f32| {
        let lost = (x - (lo + delta * steps(x, lo, inverse))) * unit;
        lost * lost
    };
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += one(chunk[lane]);
        }
    }
    sums.iter().sum::<f32>() + rest.iter().map(|&x| one(x)).sum::<f32>()
}
