//! Scalar codes: each number of a row becomes a few bits, by an offset and a step of the row's own (LVQ: Aguerrebere et al.,
//! "Similarity search in the blink of an eye with compressed indices", arXiv 2304.04759).
//!
//! 1. The segment's mean `m` is subtracted: `x' = x - m`. Under cosine, `x` is normalised first and the squared
//!    Euclidean distance is used, of which `1 - cos` is half.
//! 2. `x'_i` is about `lo + delta * c_i`, the decoded row `y`. How `lo`, `delta` and the codes `c` are chosen is what
//!    makes the difference between codes: [`super::sq8`], [`super::sq4`], [`super::rabitq`], which rotates rows and queries first.
//! 3. The query is centred too (not under inner product) and quantized to `q'_i = s * d_i`, `d_i` in `-127..=127`, so
//!    that a distance is one dot product of small integers and a few operations:
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
//! Coarse codes are decoded to a row whose error is orthogonal to the row itself: `<x' - y, x'> = 0`. Then `<q', y>` is
//! `<q', x'>` on average, for queries that are near as for others, and with `square = |y|^2 - error^2`, where `error = |x' - y|`
//! (so it is `|x'|^2`), the estimate is right on average (RaBitQ: Gao and Long, arXiv 2405.12497). It is wrong by
//! `2 <q' - x', x' - y>`, which shrinks with the distance too.
//!
//! A code row is `codes, packed | delta f32 | lo f32 | square f32 | error f32`, a multiple of 64 bytes in all; where the
//! padding has room the factors lie in it (the query is zero there). The error is 0 where it is not told. Of `n` codes of
//! `b` bits, `n b / 8` bytes, rounded up, hold code `i` in their lowest bits, those behind them in the next bits, and so on.

use super::{ROUND, rabitq, sq4, sq8};
use nearstone_base::{Codes, Metric, Schema};
use nearstone_kernels::{CODE_ALIGN, Kernels, Rotation, kernels};

/// Bytes of the factors behind the codes.
const FACTOR_BYTES: usize = 16;
/// The byte of a query's code 0.
const ZERO: u8 = 128;
/// Rotated rows have a multiple of so many numbers.
const ROTATED_ALIGN: usize = 32;
/// Sums that do not wait for each other.
pub(super) const LANES: usize = 8;
/// Estimates are believed to be so many standard deviations off at most: 19 of 20 are, if errors are directions like any other. A
/// row that is missed is one of the others, and among them one of the last that were wanted.
const DEVIATIONS: f64 = 2.0;

/// What goes with the codes of a row.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Factors {
    pub(super) delta: f32,
    pub(super) lo: f32,
    pub(super) square: f32,
    pub(super) error: f32,
}

impl Factors {
    /// The factors of a row whose numbers come back as `longer * (lo + delta * code)`, where the codes tell their errors.
    pub(super) fn of(numbers: &[f32], codes: &[u8], lo: f64, delta: f64, longer: f64) -> Factors {
        let (lo, delta) = ((lo * longer) as f32, (delta * longer) as f32);
        // What is too small to be multiplied with is as good as zero.
        let delta = if delta.is_normal() { delta } else { 0.0 };
        // Of the numbers as they will be read back.
        let (mut square, mut error) = (0f64, 0f64);
        for (&x, &code) in numbers.iter().zip(codes) {
            let decoded = f64::from(lo) + f64::from(delta) * f64::from(code);
            square += decoded * decoded;
            error += (f64::from(x) - decoded) * (f64::from(x) - decoded);
        }
        let fits = |x: f64| x.min(f64::from(f32::MAX)) as f32;
        Factors { delta, lo, square: fits(square - error), error: fits(error.sqrt()) }
    }

    #[inline]
    fn read(row: &[u8]) -> Factors {
        let bytes: &[u8; FACTOR_BYTES] = row.last_chunk().expect("factors follow the codes");
        let (words, _) = bytes.as_chunks::<4>();
        let [delta, lo, square, error] = [words[0], words[1], words[2], words[3]].map(f32::from_le_bytes);
        Factors { delta, lo, square, error }
    }

    fn write(self, row: &mut [u8]) {
        let factors = row.len() - FACTOR_BYTES;
        for (place, value) in [self.delta, self.lo, self.square, self.error].into_iter().enumerate() {
            row[factors + 4 * place..][..4].copy_from_slice(&value.to_le_bytes());
        }
    }
}

/// Room for a row on its way to its code.
#[derive(Clone, Default, Debug)]
pub(crate) struct CodeWork {
    numbers: Vec<f32>,
    codes: Vec<u8>,
}

/// What the codes of one segment have in common.
#[derive(Clone, Debug)]
pub(crate) struct ScalarSpace {
    codes: Codes,
    metric: Metric,
    mean: Vec<f32>,
    rotation: Option<Rotation>,
}

impl ScalarSpace {
    /// Learns the mean of a sample of rows; zero when there is none.
    pub(crate) fn train<'a>(schema: &Schema, sample: impl Iterator<Item = &'a [f32]>) -> ScalarSpace {
        let metric = schema.metric();
        let mut sums = vec![0f64; schema.dimension()];
        let mut rows = 0u32;
        for row in sample {
            let scale = inverse_length(metric, row);
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += f64::from(*x) * scale;
            }
            rows += 1;
        }
        let rows = f64::from(rows.max(1));
        let mean = sums.into_iter().map(|sum| (sum / rows) as f32).collect();
        ScalarSpace::new(schema, mean)
    }

    fn new(schema: &Schema, mean: Vec<f32>) -> ScalarSpace {
        let codes = schema.chosen_codes();
        let rotation = match codes {
            Codes::Sq8 | Codes::Sq4 => None,
            Codes::RaBitQ1 | Codes::RaBitQ2 | Codes::RaBitQ4 => {
                Some(Rotation::new(mean.len().next_multiple_of(ROTATED_ALIGN), rabitq::SEED))
            }
        };
        ScalarSpace { codes, metric: schema.metric(), mean, rotation }
    }

    /// Its file form: the mean, little-endian.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.mean.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    /// Reads the file form; `None` for another length or a number that is not finite.
    pub(crate) fn from_bytes(schema: &Schema, bytes: &[u8]) -> Option<ScalarSpace> {
        if bytes.len() != schema.dimension().checked_mul(4)? {
            return None;
        }
        let numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let mean: Vec<f32> = numbers.collect();
        mean.iter().all(|x| x.is_finite()).then(|| ScalarSpace::new(schema, mean))
    }

    /// Bits of a code.
    fn bits(&self) -> u32 {
        match self.codes {
            Codes::Sq8 => 8,
            Codes::Sq4 | Codes::RaBitQ4 => 4,
            Codes::RaBitQ2 => 2,
            Codes::RaBitQ1 => 1,
        }
    }

    /// How many numbers a row has as it is encoded.
    fn numbers(&self) -> usize {
        let dimension = self.mean.len();
        if self.rotation.is_some() { dimension.next_multiple_of(ROTATED_ALIGN) } else { dimension }
    }

    /// Bytes of the codes of a row.
    fn code_bytes(&self) -> usize {
        (self.numbers() * self.bits() as usize).div_ceil(8)
    }

    /// Bytes of a code row, a multiple of 64.
    pub(crate) fn row_bytes(&self) -> usize {
        (self.code_bytes() + FACTOR_BYTES).next_multiple_of(CODE_ALIGN)
    }

    /// So many rows that a walk with a beam of `width` came by are looked at again, to find what a walk on distances would.
    pub(crate) fn kept(&self, width: usize) -> usize {
        match self.codes {
            Codes::Sq8 | Codes::Sq4 | Codes::RaBitQ4 => width,
            Codes::RaBitQ2 => width.saturating_mul(2),
            Codes::RaBitQ1 => width.saturating_mul(4),
        }
    }

    /// Whether rows tell how far they are from their codes, as [`ScalarQuery::bound`] needs it.
    pub(crate) fn tells_errors(&self) -> bool {
        self.codes != Codes::Sq8
    }

    /// Encodes a row into `out`, which has [`ScalarSpace::row_bytes`]; `work` is overwritten. Panics for other lengths.
    pub(crate) fn encode(&self, row: &[f32], out: &mut [u8], work: &mut CodeWork) {
        assert!(row.len() == self.mean.len() && out.len() == self.row_bytes());
        work.numbers.clear();
        work.numbers.resize(self.numbers(), 0.0);
        self.centre(row, &mut work.numbers);
        self.rotate(&mut work.numbers);
        let (packed, rest) = out.split_at_mut(self.code_bytes());
        rest.fill(0);
        let factors = match self.codes {
            Codes::Sq8 => sq8::encode(&work.numbers, packed),
            codes => {
                work.codes.resize(work.numbers.len(), 0);
                let factors = match codes {
                    Codes::Sq4 => sq4::encode(&work.numbers, &mut work.codes),
                    _ => rabitq::encode(self.bits(), &work.numbers, &mut work.codes),
                };
                pack(self.bits(), &work.codes, packed);
                factors
            }
        };
        factors.write(out);
    }

    /// A vector less the mean; under cosine, brought to length 1 before.
    fn centre(&self, vector: &[f32], out: &mut [f32]) {
        let places = out.iter_mut().zip(vector).zip(&self.mean);
        if self.metric == Metric::Cosine {
            let scale = inverse_length(self.metric, vector);
            // Rounded once, behind the subtraction: it may leave little.
            places.for_each(|((out, &x), &mean)| *out = (f64::from(x) * scale - f64::from(mean)) as f32);
        } else {
            places.for_each(|((out, &x), &mean)| *out = x - mean);
        }
    }

    /// Turns the numbers as rows of these codes are turned, if they are.
    fn rotate(&self, numbers: &mut [f32]) {
        if let Some(rotation) = &self.rotation {
            rotation.apply(kernels(), numbers);
        }
    }

    /// Prepares a query: once, before any number of [`ScalarQuery::scores`]. Panics for another dimension.
    pub(crate) fn prepare(&self, query: &[f32]) -> ScalarQuery {
        assert_eq!(query.len(), self.mean.len());
        let count = self.numbers();
        let mut centred = vec![0f32; count.next_multiple_of(LANES)];
        match self.metric {
            Metric::InnerProduct => centred[..query.len()].copy_from_slice(query),
            _ => self.centre(query, &mut centred[..query.len()]),
        }
        self.rotate(&mut centred[..count]);
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
        let constant = match self.metric {
            Metric::InnerProduct => {
                -query.iter().zip(&self.mean).map(|(&x, &mean)| f64::from(x) * f64::from(mean)).sum::<f64>()
            }
            _ => constants.iter().sum(),
        };
        // At most 127 * 65,536: exact in f32.
        let sum: i32 = sums.iter().sum();
        // Of the constant, the row's square and the product; halves and doubles cost no digits.
        let (own, square_weight, dot_weight) = match self.metric {
            Metric::L2 => (1.0, 1.0, 2.0),
            Metric::Cosine => (0.5, 0.5, 1.0),
            Metric::InnerProduct => (1.0, 0.0, 1.0),
        };
        ScalarQuery {
            bits: self.bits(),
            codes: spread(self.bits(), &codes[..count]),
            code_bytes: self.code_bytes().next_multiple_of(CODE_ALIGN),
            step,
            sum: sum as f32,
            constant: own * constant as f32,
            square_weight,
            dot_weight,
            deviation: (DEVIATIONS / (count as f64).sqrt()) as f32,
            lost: (f64::from(step) * (count as f64 / 12.0).sqrt()) as f32,
            length: match self.metric {
                Metric::InnerProduct => kernels().dot_precise(query, query).sqrt() as f32,
                _ => 0.0,
            },
            kernels: kernels(),
        }
    }
}

/// A prepared query.
#[derive(Clone, Debug)]
pub(crate) struct ScalarQuery {
    bits: u32,
    /// With [`ZERO`] added, each beside the code that it is multiplied with.
    codes: Vec<u8>,
    /// Bytes of a row that they are multiplied with.
    code_bytes: usize,
    step: f32,
    /// Sum of the codes.
    sum: f32,
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

impl ScalarQuery {
    /// The estimated distances to four encoded rows, in the metric's own scale. Never NaN, whatever the bytes. Panics
    /// for code rows of another length.
    #[inline]
    pub(crate) fn scores(&self, rows: [&[u8]; 4]) -> [f32; 4] {
        let codes = rows.map(|row| &row[..self.code_bytes]);
        let products = match self.bits {
            8 => self.kernels.dots_biased(&codes, &self.codes),
            bits => self.kernels.dots_packed(bits, &codes, &self.codes),
        };
        let mut scores = [0f32; 4];
        for ((score, row), product) in scores.iter_mut().zip(rows).zip(products) {
            let Factors { delta, lo, square, .. } = Factors::read(row);
            // The steps one after the other: the product of two small ones would leave the range of f32.
            let dot = self.step * (lo * self.sum + delta * product as f32);
            let estimate = self.constant + self.square_weight * square - self.dot_weight * dot;
            *score = if estimate.is_nan() { f32::INFINITY } else { estimate };
        }
        scores
    }

    /// By how much the estimate of an encoded row is wrong at most, if its distance is `distance`: with 2 standard deviations of
    /// a product with an error that has no direction of its own. Only where [`ScalarSpace::tells_errors`].
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
        self.dot_weight * self.deviation * (reach * error + far * self.lost) + rounded
    }
}

/// Packs codes of so many bits, as the story says.
fn pack(bits: u32, codes: &[u8], out: &mut [u8]) {
    let (first, others) = codes.split_at(out.len().min(codes.len()));
    out[..first.len()].copy_from_slice(first);
    for (part, codes) in (1..).zip(others.chunks(out.len())) {
        out.iter_mut().zip(codes).for_each(|(byte, code)| *byte |= code << (bits * part));
    }
}

/// The bytes of a query, each where [`Kernels::dots_packed`] multiplies it with the code that [`pack`] put there.
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

/// The number that is `beyond` all others; 0 when there is none.
pub(super) fn extreme(numbers: &[f32], beyond: impl Fn(f32, f32) -> bool) -> f32 {
    let farther = |x: f32, than: f32| if beyond(x, than) { x } else { than };
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    let mut lanes = [numbers.first().copied().unwrap_or(0.0); LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = farther(chunk[lane], lanes[lane]);
        }
    }
    lanes.iter().chain(rest).fold(lanes[0], |farthest, &x| farther(x, farthest))
}

/// What a row is multiplied with before anything else.
fn inverse_length(metric: Metric, row: &[f32]) -> f64 {
    if metric != Metric::Cosine {
        return 1.0;
    }
    let square = kernels().dot_precise(row, row);
    if square > 0.0 { square.sqrt().recip() } else { 0.0 }
}

#[cfg(test)]
mod tests;
