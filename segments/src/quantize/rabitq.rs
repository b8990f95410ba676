//! RaBitQ codes (Gao and Long, arXiv 2405.12497; of more bits: Gao et al., arXiv 2409.09913).
//!
//! The centred row is rotated at random, the same way for all rows and queries: no number matters more than another then, and
//! errors have no direction of their own, whatever the data. Each number becomes one of `2^b` levels around zero, of one bit
//! its sign: `(c - (2^b - 1) / 2) * step`. Of several steps the one is taken whose levels make the smallest angle with the row;
//! then the levels are lengthened until the error is orthogonal to the row.
//!
//! So a row of `D` numbers at the angle `a` to its levels has an error of `|x'| tan a`, and the estimate is right on average and
//! wrong by `2 |q' - x'| |x'| tan a / sqrt(D)` as a standard deviation: theorem 3.2 of the first paper, with the residual seen
//! from the row itself.

use super::ROUND;
use super::codes::{Factors, LANES};

/// The seed of the rotation. Segments do not hold it: with another one, their codes would be others.
pub(super) const SEED: u64 = 0x7261_6269_7471;
/// Rotated numbers are nearly normal, and for these the best steps are known (Max, "Quantizing for minimum distortion", 1960). Of
/// each row, steps around that are tried: so many times as long.
const TRIED: [f32; 5] = [0.84, 0.92, 1.0, 1.08, 1.16];

/// Encodes a rotated row in so many bits a number, one code a byte. Panics when there are not as many codes as numbers.
pub(super) fn encode(bits: u32, numbers: &[f32], codes: &mut [u8]) -> Factors {
    assert_eq!(numbers.len(), codes.len());
    let top = ((1u32 << bits) - 1) as f32;
    let square: f64 = numbers.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let typical = (square / numbers.len() as f64).sqrt() as f32;
    let usual = typical * step_of(bits);
    if !(usual * TRIED[0]).is_normal() {
        // What is too small to be divided by is as good as zero.
        codes.fill(0);
        return Factors::of(numbers, codes, 0.0, 0.0, 1.0);
    }
    // One bit is a sign, whatever the step.
    let tried = if bits == 1 { &TRIED[2..3] } else { &TRIED[..] };
    let inverses = tried.iter().map(|times| 1.0 / (usual * times));
    let close = |&inverse: &f32| closeness(numbers, inverse, top, 1.0 / usual);
    let inverse = inverses.max_by(|a, b| close(a).total_cmp(&close(b))).unwrap_or(0.0);
    let (mut product, middle) = (0f64, f64::from(top) / 2.0);
    for (code, &x) in codes.iter_mut().zip(numbers) {
        let chosen = level(x, inverse, top);
        *code = chosen as u8;
        product += f64::from(x) * (f64::from(chosen) - middle);
    }
    Factors::of(numbers, codes, -middle, 1.0, square / product)
}

/// The best distance between the levels of normal numbers, in standard deviations.
fn step_of(bits: u32) -> f32 {
    match bits {
        1 => 1.596,
        2 => 0.996,
        4 => 0.335,
        _ => 0.0308,
    }
}

/// The code of a number.
#[inline(always)]
fn level(x: f32, inverse: f32, top: f32) -> f32 {
    let level = x * inverse + top / 2.0;
    let level = if level < top { level } else { top };
    let level = if level > 0.0 { level } else { 0.0 };
    (level + ROUND) - ROUND
}

/// The squared cosine of the angle between the numbers and their levels, times the square of the numbers' length times `unit`, which
/// keeps it in the range of f32. In sums that do not wait for each other.
fn closeness(numbers: &[f32], inverse: f32, top: f32, unit: f32) -> f32 {
    let (mut products, mut squares) = ([0f32; LANES], [0f32; LANES]);
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    debug_assert!(rest.is_empty(), "rotated rows have a multiple of 32 numbers");
    for chunk in chunks {
        for lane in 0..LANES {
            let chosen = level(chunk[lane], inverse, top) - top / 2.0;
            products[lane] += chunk[lane] * unit * chosen;
            squares[lane] += chosen * chosen;
        }
    }
    let product = products.iter().sum::<f32>();
    product * (product / squares.iter().sum::<f32>())
}
