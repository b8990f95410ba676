//! Codes of rows: each number becomes a few bits, by an offset and a step of the row's own (LVQ: Aguerrebere et al.,
//! "Similarity search in the blink of an eye with compressed indices", arXiv 2304.04759), or several numbers become a byte.
//!
//! 1. The segment's mean `m` is subtracted: `x' = x - m`. Under cosine, `x` is normalised first and the squared
//!    Euclidean distance is used, of which `1 - cos` is half.
//! 2. `x'_i` is about `lo + delta * c_i`, the decoded row `y`. How `lo`, `delta` and the `c` are chosen is what
//!    makes the difference between codes: [`super::sq8`], [`super::sq4`], [`super::rabitq`], which rotates rows and queries first, and
//!    [`super::pq`], where `c` are numbers of a centroid and `lo` is 0.
//! 3. A query ([`query`]) is centred and rotated too, and its distance to a decoded row is one product with `c`, and a few operations.
//!
//! Coarse codes are decoded to a row whose error is orthogonal to the row itself: `<x' - y, x'> = 0`. Then `<q', y>` is
//! `<q', x'>` on average, for queries that are near as for others, and with `square = |y|^2 - error^2`, where `error = |x' - y|`
//! (so it is `|x'|^2`), the estimate is right on average (RaBitQ: Gao and Long, arXiv 2405.12497). It is wrong by
//! `2 <q' - x', x' - y>`, which shrinks with the distance too.
//!
//! A code row is `codes, packed | delta f32 | lo f32 | square f32 | error f32`, a multiple of 64 bytes in all; where the
//! padding has room the factors lie in it (the query is zero there). The error is 0 where it is not told. Of `n` codes of
//! `b` bits, `n b / 8` bytes, rounded up, hold code `i` in their lowest bits, those behind them in the next bits, and so on.

use super::pq::{self, Codebooks};
use super::{rabitq, sq4, sq8};
use nearstone_base::{Codes, Metric, Result, Schema};
use nearstone_kernels::{CODE_ALIGN, Rotation, kernels};

mod query;

pub(crate) use query::CodeQuery;

/// Bytes of the factors behind the codes.
const FACTOR_BYTES: usize = 16;
/// Rotated rows have a multiple of so many numbers.
const ROTATED_ALIGN: usize = 32;
/// Sums that do not wait for each other.
pub(super) const LANES: usize = 8;

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
pub(crate) struct CodeSpace {
    codes: Codes,
    metric: Metric,
    mean: Vec<f32>,
    rotation: Option<Rotation>,
    codebooks: Option<Codebooks>,
}

impl CodeSpace {
    /// Learns the mean of a sample of rows (zero when there is none), and centroids where codes have these; `cancel` is asked between
    /// some of them.
    pub(crate) fn train(
        schema: &Schema,
        sample: &[&[f32]],
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<CodeSpace> {
        let metric = schema.metric();
        let mut sums = vec![0f64; schema.dimension()];
        for row in sample {
            let scale = inverse_length(metric, row);
            for (sum, x) in sums.iter_mut().zip(*row) {
                *sum += f64::from(*x) * scale;
            }
        }
        let rows = sample.len().max(1) as f64;
        let mean = sums.into_iter().map(|sum| (sum / rows) as f32).collect();
        let mut space = CodeSpace::new(schema, mean);
        if let Some(together) = together(space.codes) {
            let numbers = space.numbers();
            let step = pq::sample_step(sample.len(), numbers);
            let mut rows = vec![0f32; sample.len().div_ceil(step) * numbers];
            for (numbers, row) in rows.chunks_exact_mut(numbers).zip(sample.iter().step_by(step)) {
                space.centre(row, numbers);
                space.rotate(numbers);
            }
            space.codebooks = Some(Codebooks::learn(together, numbers, &rows, threads, cancel)?);
        }
        Ok(space)
    }

    fn new(schema: &Schema, mean: Vec<f32>) -> CodeSpace {
        let codes = schema.chosen_codes();
        let rotation = match codes {
            Codes::Sq8 | Codes::Sq4 => None,
            _ => Some(Rotation::new(mean.len().next_multiple_of(ROTATED_ALIGN), rabitq::SEED)),
        };
        CodeSpace { codes, metric: schema.metric(), mean, rotation, codebooks: None }
    }

    /// Its file form: the mean, little-endian, and the codebooks, where codes have these.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mean = self.mean.iter().flat_map(|x| x.to_le_bytes());
        mean.chain(self.codebooks.iter().flat_map(Codebooks::to_bytes)).collect()
    }

    /// Reads the file form; `None` for another length or a number that is not finite.
    pub(crate) fn from_bytes(schema: &Schema, bytes: &[u8]) -> Option<CodeSpace> {
        let (mean, codebooks) = bytes.split_at_checked(schema.dimension().checked_mul(4)?)?;
        let numbers = mean.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let mean: Vec<f32> = numbers.collect();
        if !mean.iter().all(|x| x.is_finite()) {
            return None;
        }
        let mut space = CodeSpace::new(schema, mean);
        match together(space.codes) {
            None => codebooks.is_empty().then_some(space),
            Some(together) => {
                space.codebooks = Some(Codebooks::from_bytes(together, space.numbers(), codebooks)?);
                Some(space)
            }
        }
    }

    /// Bits of a code.
    fn bits(&self) -> u32 {
        match self.codes {
            Codes::Sq8 | Codes::RaBitQ8 | Codes::Pq4 | Codes::Pq8 | Codes::Pq16 => 8,
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
        let codes = self.numbers() / together(self.codes).unwrap_or(1);
        (codes * self.bits() as usize).div_ceil(8)
    }

    /// Bytes of a code row, a multiple of 64.
    pub(crate) fn row_bytes(&self) -> usize {
        (self.code_bytes() + FACTOR_BYTES).next_multiple_of(CODE_ALIGN)
    }

    /// So many rows that a walk with a beam of `width` came by are looked at again, to find what a walk on distances would.
    pub(crate) fn kept(&self, width: usize) -> usize {
        match self.codes {
            Codes::Sq8 | Codes::Sq4 | Codes::RaBitQ4 | Codes::RaBitQ8 => width,
            Codes::RaBitQ2 | Codes::Pq4 => width.saturating_mul(2),
            Codes::RaBitQ1 | Codes::Pq8 => width.saturating_mul(4),
            Codes::Pq16 => width.saturating_mul(8),
        }
    }

    /// Whether rows tell how far they are from their codes, as [`CodeQuery::bound`] needs it.
    pub(crate) fn tells_errors(&self) -> bool {
        self.codes != Codes::Sq8
    }

    /// Encodes a row into `out`, which has [`CodeSpace::row_bytes`]; `work` is overwritten. Panics for other lengths.
    pub(crate) fn encode(&self, row: &[f32], out: &mut [u8], work: &mut CodeWork) {
        assert!(row.len() == self.mean.len() && out.len() == self.row_bytes());
        work.numbers.clear();
        work.numbers.resize(self.numbers(), 0.0);
        self.centre(row, &mut work.numbers);
        self.rotate(&mut work.numbers);
        let (packed, rest) = out.split_at_mut(self.code_bytes());
        rest.fill(0);
        let factors = match (self.codes, &self.codebooks) {
            (Codes::Sq8, _) => sq8::encode(&work.numbers, packed),
            (_, Some(codebooks)) => codebooks.encode(&work.numbers, packed),
            (codes, None) => {
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
}

/// Of how many numbers a byte tells, where codes have codebooks.
fn together(codes: Codes) -> Option<usize> {
    match codes {
        Codes::Sq8 | Codes::Sq4 | Codes::RaBitQ1 | Codes::RaBitQ2 | Codes::RaBitQ4 | Codes::RaBitQ8 => None,
        Codes::Pq4 => Some(4),
        Codes::Pq8 => Some(8),
        Codes::Pq16 => Some(16),
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
