//! Queries against codes.
//!
//! The query is centred (not under inner product), rotated where rows are, and quantized to `q'_i = s * d_i`, `d_i` in `-127..=127`, so that a
//! distance is one dot product of small integers and a few operations:
//!
//! ```text
//! <s d, y>    =  s * (lo * sum(d) + delta * <d, c>)
//! |q - x|^2   =  2 <s d, q'> - |q'|^2 + square - 2 <s d, y>
//! -<q, x>     =  -<q, m> - <s d, y>
//! ```
//!
//! With `e = q' - s d`, what rounding the query lost, and `square = |y|^2`, these are the true values of the decoded row plus
//! `2 <e, y - q'>` and `<e, y>`. Three choices make it so:
//!
//! - `|y|^2` is that of the decoded row: the estimate is the distance to it, whose error shrinks with the distance.
//!   With the length of the original it would not, and near rows are those that matter.
//! - `sum(d)` is that of the codes. With that of `q'` the error would hold `<e, delta c>`, and `delta c`, which is
//!   never negative, is about three times as long as `x'`, which lies around zero.
//! - The query's constant is `2 <s d, q'> - |q'|^2`, not `|q'|^2`: the same order of rows, but an error that shrinks
//!   with the distance here too.
//!
//! The last two bring estimates closer to distances (on normal numbers of 128 and 768 dimensions the error fell by 34
//! to 61 percent); most of that error was common to all rows of a query, so recall is the same with and without.
//!
//! Against codebooks the query stays as it is (`s d = q'`, `e = 0`), and `<q', c>` is looked up among its products with centroids.

use super::{CodeSpace, Factors, LANES};
use crate::quantize::ROUND;
use crate::quantize::pq::{Products, look_up};
use nearstone_base::Metric;
use nearstone_kernels::{CODE_ALIGN, Kernels, kernels};

/// The byte of a query's code 0.
const ZERO: u8 = 128;
/// Estimates are believed to be so many standard deviations off at most: 19 of 20 are, if errors are directions like any other. A
/// row that is missed is one of the others, and among them one of the last that were wanted.
const DEVIATIONS: f64 = 2.0;

/// A prepared query.
#[derive(Clone, Debug)]
pub(crate) struct CodeQuery {
    form: Form,
    constant: f32,
    square_weight: f32,
    dot_weight: f32,
    /// What a product of two vectors of length 1 is at most, if they are directions like any other.
    deviation: f32,
    /// How far rounding took it from itself.
    lost: f32,
    /// Its length; 0 where distances alone say how far errors go.
    length: f32,
    kernels: Kernels,
}

/// What rows are multiplied with.
#[derive(Clone, Debug)]
enum Form {
    Bytes(Bytes),
    /// With centroids, for each byte of a row.
    Products(Products),
}

/// A query in bytes of one step.
#[derive(Clone, Debug)]
struct Bytes {
    /// Of a code of a row.
    bits: u32,
    /// With [`ZERO`] added, each beside the code that it is multiplied with.
    codes: Vec<u8>,
    /// Bytes of a row that they are multiplied with.
    row_bytes: usize,
    step: f32,
    /// Sum of the codes.
    sum: f32,
}

impl CodeSpace {
    /// Prepares a query: once, before any number of [`CodeQuery::scores`]. Panics for another dimension.
    pub(crate) fn prepare(&self, query: &[f32]) -> CodeQuery {
        assert_eq!(query.len(), self.mean.len());
        let count = self.numbers();
        let mut centred = vec![0f32; count.next_multiple_of(LANES)];
        match self.metric {
            Metric::InnerProduct => centred[..query.len()].copy_from_slice(query),
            _ => self.centre(query, &mut centred[..query.len()]),
        }
        self.rotate(&mut centred[..count]);
        let (form, own, lost) = match &self.codebooks {
            Some(codebooks) => {
                let own = kernels().dot_precise(&centred, &centred);
                (Form::Products(codebooks.products(&centred[..count])), own, 0.0)
            }
            None => {
                let (bytes, own) = self.to_bytes_of_one_step(&centred);
                let lost = (f64::from(bytes.step) * (count as f64 / 12.0).sqrt()) as f32;
                (Form::Bytes(bytes), own, lost)
            }
        };
        let constant = match self.metric {
            Metric::InnerProduct => {
                -query.iter().zip(&self.mean).map(|(&x, &mean)| f64::from(x) * f64::from(mean)).sum::<f64>()
            }
            _ => own,
        };
        // Of the constant, the row's square and the product; halves and doubles cost no digits.
        let (own, square_weight, dot_weight) = match self.metric {
            Metric::L2 => (1.0, 1.0, 2.0),
            Metric::Cosine => (0.5, 0.5, 1.0),
            Metric::InnerProduct => (1.0, 0.0, 1.0),
        };
        CodeQuery {
            form,
            constant: own * constant as f32,
            square_weight,
            dot_weight,
            deviation: (DEVIATIONS / (count as f64).sqrt()) as f32,
            lost,
            length: match self.metric {
                Metric::InnerProduct => kernels().dot_precise(query, query).sqrt() as f32,
                _ => 0.0,
            },
            kernels: kernels(),
        }
    }

    /// Rounds a query, and says what `2 <s d, q'> - |q'|^2` is.
    fn to_bytes_of_one_step(&self, centred: &[f32]) -> (Bytes, f64) {
        let count = self.numbers();
        // Sizes compare as their bits do.
        let largest = centred.iter().fold(0, |largest: u32, x| largest.max(x.abs().to_bits()));
        let largest = f32::from_bits(largest);
        let step = largest / 127.0;
        // What is too small to be divided by is as good as zero.
        let inverse = if step.is_normal() { 127.0 / largest } else { 0.0 };
        let mut codes = vec![ZERO; count.next_multiple_of(CODE_ALIGN)];
        let (mut sums, mut constants) = ([0i32; LANES], [0f64; LANES]);
        for (numbers, codes) in centred.chunks_exact(LANES).zip(codes.chunks_exact_mut(LANES)) {
            for lane in 0..LANES {
                let rounded = numbers[lane] * inverse + ROUND;
                let code = i32::from(rounded.to_bits() as i8);
                codes[lane] = (code as u8).wrapping_add(ZERO);
                sums[lane] += code;
                // As it will be used, so that the constant belongs to it.
                let (kept, x) = (f64::from(step * (rounded - ROUND)), f64::from(numbers[lane]));
                constants[lane] += (2.0 * kept - x) * x;
            }
        }
        // At most 127 * 65,536: exact in f32.
        let sum: i32 = sums.iter().sum();
        let bytes = Bytes {
            bits: self.bits(),
            codes: spread(self.bits(), &codes[..count]),
            row_bytes: self.code_bytes().next_multiple_of(CODE_ALIGN),
            step,
            sum: sum as f32,
        };
        (bytes, constants.iter().sum())
    }
}

impl CodeQuery {
    /// The estimated distances to four encoded rows, in the metric's own scale. Never NaN, whatever the bytes. Panics
    /// for code rows of another length.
    #[inline]
    pub(crate) fn scores(&self, rows: [&[u8]; 4]) -> [f32; 4] {
        match &self.form {
            Form::Bytes(query) => {
                let codes = rows.map(|row| &row[..query.row_bytes]);
                let products = match query.bits {
                    8 => self.kernels.dots_biased(&codes, &query.codes),
                    bits => self.kernels.dots_packed(bits, &codes, &query.codes),
                };
                // The steps one after the other: the product of two small ones would leave the range of f32.
                self.scores_of(rows, |row, Factors { delta, lo, .. }| {
                    query.step * (lo * query.sum + delta * products[row] as f32)
                })
            }
            Form::Products(query) => {
                let products = look_up(query, rows);
                self.scores_of(rows, |row, Factors { delta, .. }| delta * products[row])
            }
        }
    }

    /// Estimates from the products of the query with decoded rows.
    #[inline(always)]
    fn scores_of(&self, rows: [&[u8]; 4], dot: impl Fn(usize, Factors) -> f32) -> [f32; 4] {
        let mut scores = [0f32; 4];
        for (place, (score, row)) in scores.iter_mut().zip(rows).enumerate() {
            let factors = Factors::read(row);
            let estimate =
                self.constant + self.square_weight * factors.square - self.dot_weight * dot(place, factors);
            *score = if estimate.is_nan() { f32::INFINITY } else { estimate };
        }
        scores
    }

    /// By how much the estimate of an encoded row is wrong at most, if its distance is `distance`: with 2 standard deviations of
    /// a product with an error that has no direction of its own. Only where [`CodeSpace::tells_errors`].
    ///
    /// The estimate is wrong by `2 <q' - x', x' - y> + 2 <e, y - q'>`, half of that under cosine, and by `<q, x' - y>
    /// + <e, y>` under inner product; and by what single precision loses of its terms.
    pub(crate) fn bound(&self, row: &[u8], distance: f32) -> f32 {
        let Factors { square, error, .. } = Factors::read(row);
        let (reach, far) = if self.square_weight == 0.0 {
            (self.length, (square + error * error).max(0.0).sqrt())
        } else {
            let reach = (distance / self.square_weight).max(0.0).sqrt();
            (reach, reach + error)
        };
        let rounded = 4.0 * f32::EPSILON * (self.constant.abs() + square.abs());
        // Where nothing was lost, a row may be as far as it wants.
        let lost = if self.lost > 0.0 { far * self.lost } else { 0.0 };
        self.dot_weight * self.deviation * (reach * error + lost) + rounded
    }
}

/// The bytes of a query, each where [`Kernels::dots_packed`] multiplies it with the code that [`super::pack`] put there.
fn spread(bits: u32, codes: &[u8]) -> Vec<u8> {
    let parts = 8 / bits as usize;
    let bytes = codes.len().div_ceil(parts);
    let mut out = vec![ZERO; bytes.next_multiple_of(CODE_ALIGN) * parts];
    for (part, codes) in codes.chunks(bytes).enumerate() {
        for (block, codes) in codes.chunks(CODE_ALIGN).enumerate() {
            out[(block * parts + part) * CODE_ALIGN..][..codes.len()].copy_from_slice(codes);
        }
    }
    out
}
