//! 8-bit scalar codes, adapted to each row (LVQ: Aguerrebere et al., "Similarity search in the blink of an eye with
//! compressed indices", arXiv 2304.04759).
//!
//! 1. The segment's mean `m` is subtracted: `x' = x - m`. Under cosine, `x` is normalised first and the squared
//!    Euclidean distance is used, of which `1 - cos` is half.
//! 2. Each row has its own offset and step: `x'_i` is about `lo + delta * c_i`, with codes `c_i` in `0..=255`.
//! 3. The query is centred too (not under inner product) and quantized to `q'_i = s * d_i`, `d_i` in `-127..=127`, so
//!    that a distance is one dot product of bytes and a few operations:
//!
//! ```text
//! <s d, x'>   =  s * (lo * sum(d) + delta * <d, c>)
//! |q - x|^2   =  2 <s d, q'> - |q'|^2 + |x'|^2 - 2 <s d, x'>
//! -<q, x>     =  -<q, m> - <s d, x'>
//! ```
//!
//! With `e = q' - s d`, what rounding the query lost, these are the true values of the decoded row plus
//! `2 <e, x' - q'>` and `<e, x'>`. Three choices make it so:
//!
//! - `|x'|^2` is that of the decoded row: the estimate is the distance to it, whose error shrinks with the distance.
//!   With the length of the original it would not, and near rows are those that matter.
//! - `sum(d)` is that of the codes. With that of `q'` the error would hold `<e, delta c>`, and `delta c`, which is
//!   never negative, is about three times as long as `x'`, which lies around zero.
//! - The query's constant is `2 <s d, q'> - |q'|^2`, not `|q'|^2`: the same order of rows, but an error that shrinks
//!   with the distance here too.
//!
//! The last two bring estimates closer to distances (on normal numbers of 128 and 768 dimensions the error fell by 34
//! to 61 percent); most of that error was common to all rows of a query, so recall is the same with and without.
//!
//! A code row is `codes, padded | delta f32 | lo f32 | |x'|^2 f32 | 0`, a multiple of 64 bytes in all; where the
//! padding has room the factors lie in it (the query is zero there).

use super::ROUND;
use nearstone_base::Metric;
use nearstone_kernels::{CODE_ALIGN, Kernels, kernels};

/// Bytes of the factors behind the codes.
const FACTOR_BYTES: usize = 16;
/// The byte of a query's code 0.
const ZERO: u8 = 128;
/// Sums that do not wait for each other.
const LANES: usize = 8;

/// What the codes of one segment have in common.
#[derive(Clone, PartialEq, Debug)]
pub struct Sq8Params {
    metric: Metric,
    mean: Vec<f32>,
}

impl Sq8Params {
    /// Learns the mean of a sample of rows; zero when there is none.
    pub fn train<'a>(metric: Metric, dimension: usize, sample: impl Iterator<Item = &'a [f32]>) -> Sq8Params {
        let mut sums = vec![0f64; dimension];
        let mut rows = 0u32;
        for row in sample {
            let scale = inverse_length(metric, row);
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += f64::from(*x) * scale;
            }
            rows += 1;
        }
        let rows = f64::from(rows.max(1));
        Sq8Params { metric, mean: sums.into_iter().map(|sum| (sum / rows) as f32).collect() }
    }

    /// Its file form: the mean, little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.mean.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    /// Reads the file form; `None` for another length or a number that is not finite.
    pub fn from_bytes(metric: Metric, dimension: usize, bytes: &[u8]) -> Option<Sq8Params> {
        if bytes.len() != dimension.checked_mul(4)? {
            return None;
        }
        let numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let mean: Vec<f32> = numbers.collect();
        mean.iter().all(|x| x.is_finite()).then_some(Sq8Params { metric, mean })
    }

    /// Bytes of a code row, a multiple of 64.
    pub fn row_bytes(&self) -> usize {
        (self.mean.len() + FACTOR_BYTES).next_multiple_of(CODE_ALIGN)
    }

    /// Encodes a row into `out`, which has [`Sq8Params::row_bytes`]; `work` is overwritten. Panics for other lengths.
    pub fn encode(&self, row: &[f32], out: &mut [u8], work: &mut Vec<f32>) {
        assert!(row.len() == self.mean.len() && out.len() == self.row_bytes());
        work.resize(row.len(), 0.0);
        self.centre(row, work);
        // One after the other: the compiler makes vectors of either loop, but not of both in one.
        let (lo, high) = (extreme(work, |x, low| x < low), extreme(work, |x, high| x > high));
        let delta = ((f64::from(high) - f64::from(lo)) / 255.0) as f32;
        // What is too small to be divided by is as good as zero.
        let (delta, inverse) = if delta.is_normal() { (delta, 1.0 / delta) } else { (0.0, 0.0) };
        let (codes, rest) = out.split_at_mut(row.len());
        rest.fill(0);
        let (mut sum, mut squares) = (0u32, 0u32);
        for (code, x) in codes.iter_mut().zip(work.iter()) {
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
            low * low * row.len() as f64 + step * (2.0 * low * f64::from(sum) + step * f64::from(squares));
        let factors = out.len() - FACTOR_BYTES;
        let square = square.min(f64::from(f32::MAX)) as f32;
        for (place, value) in [delta, lo, square].into_iter().enumerate() {
            out[factors + 4 * place..][..4].copy_from_slice(&value.to_le_bytes());
        }
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

    /// Prepares a query: once, before any number of [`Sq8Query::scores`]. Panics for another dimension.
    pub fn prepare(&self, query: &[f32]) -> Sq8Query {
        assert_eq!(query.len(), self.mean.len());
        let mut centred = vec![0f32; query.len().next_multiple_of(LANES)];
        match self.metric {
            Metric::InnerProduct => centred[..query.len()].copy_from_slice(query),
            _ => self.centre(query, &mut centred[..query.len()]),
        }
        // Sizes compare as their bits do.
        let largest = centred.iter().fold(0, |largest: u32, x| largest.max(x.abs().to_bits()));
        let largest = f32::from_bits(largest);
        let step = largest / 127.0;
        // What is too small to be divided by is as good as zero.
        let inverse = if step.is_normal() { 127.0 / largest } else { 0.0 };
        let mut codes = vec![ZERO; query.len().next_multiple_of(CODE_ALIGN)];
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
        Sq8Query {
            codes,
            step,
            sum: sum as f32,
            constant: own * constant as f32,
            square_weight,
            dot_weight,
            kernels: kernels(),
        }
    }
}

/// A prepared query.
#[derive(Clone, Debug)]
pub struct Sq8Query {
    /// With [`ZERO`] added.
    codes: Vec<u8>,
    step: f32,
    /// Sum of the codes.
    sum: f32,
    constant: f32,
    square_weight: f32,
    dot_weight: f32,
    kernels: Kernels,
}

impl Sq8Query {
    /// The estimated distances to four encoded rows, in the metric's own scale. Never NaN, whatever the bytes. Panics
    /// for code rows of another length.
    #[inline]
    pub fn scores(&self, rows: [&[u8]; 4]) -> [f32; 4] {
        let codes = self.codes.len();
        let [a, b, c, d] = rows;
        let products =
            self.kernels.dots_biased(&[&a[..codes], &b[..codes], &c[..codes], &d[..codes]], &self.codes);
        let mut scores = [0f32; 4];
        for ((score, row), product) in scores.iter_mut().zip(rows).zip(products) {
            let factors: &[u8; FACTOR_BYTES] = row.last_chunk().expect("factors follow the codes");
            let (words, _) = factors.as_chunks::<4>();
            let [delta, lo, square] = [words[0], words[1], words[2]].map(f32::from_le_bytes);
            // The steps one after the other: the product of two small ones would leave the range of f32.
            let dot = self.step * (lo * self.sum + delta * product as f32);
            let estimate = self.constant + self.square_weight * square - self.dot_weight * dot;
            *score = if estimate.is_nan() { f32::INFINITY } else { estimate };
        }
        scores
    }
}

/// The number that is `beyond` all others; 0 when there is none.
fn extreme(numbers: &[f32], beyond: impl Fn(f32, f32) -> bool) -> f32 {
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
mod tests {
    use super::*;
    use crate::distance::ExactDistance;
    use nearstone_base::random::SplitMix64;
    use proptest::prelude::*;

    const METRICS: [Metric; 3] = [Metric::L2, Metric::Cosine, Metric::InnerProduct];

    fn gaussian(rng: &mut SplitMix64, dimension: usize) -> Vec<f32> {
        let one = |rng: &mut SplitMix64| (0..12).map(|_| rng.unit_f64()).sum::<f64>() - 6.0;
        (0..dimension).map(|_| (one(rng) + 0.3) as f32).collect()
    }

    fn encoded(params: &Sq8Params, rows: &[Vec<f32>]) -> Vec<Vec<u8>> {
        rows.iter()
            .map(|row| {
                let mut code = vec![0; params.row_bytes()];
                params.encode(row, &mut code, &mut Vec::new());
                code
            })
            .collect()
    }

    fn score(query: &Sq8Query, row: &[u8]) -> f32 {
        let scores = query.scores([row; 4]);
        assert!(scores.iter().all(|score| score.to_bits() == scores[0].to_bits()));
        scores[0]
    }

    #[test]
    fn the_hundred_best_by_code_hold_the_ten_best() {
        for metric in METRICS {
            for dimension in [48, 64, 128, 130] {
                let mut rng = SplitMix64::new(7);
                let rows: Vec<Vec<f32>> = (0..2000).map(|_| gaussian(&mut rng, dimension)).collect();
                let params = Sq8Params::train(metric, dimension, rows.iter().map(Vec::as_slice));
                let codes = encoded(&params, &rows);
                let mut found = 0;
                for _ in 0..20 {
                    let query = gaussian(&mut rng, dimension);
                    let exact = ExactDistance::new(metric, &query);
                    let prepared = params.prepare(&query);
                    let order = |score: &dyn Fn(usize) -> f32| {
                        let mut order: Vec<usize> = (0..rows.len()).collect();
                        order.sort_by(|&a, &b| score(a).total_cmp(&score(b)));
                        order
                    };
                    let truth = order(&|i| exact.distance(&rows[i]));
                    let by_code = order(&|i| score(&prepared, &codes[i]));
                    found += truth[..10].iter().filter(|i| by_code[..100].contains(i)).count();
                }
                assert!(found >= 198, "{metric:?} at {dimension}: {found} of 200");
            }
        }
    }

    #[test]
    fn estimates_are_close_in_the_metrics_own_scale() {
        for metric in METRICS {
            let mut rng = SplitMix64::new(3);
            let rows: Vec<Vec<f32>> = (0..200).map(|_| gaussian(&mut rng, 96)).collect();
            let params = Sq8Params::train(metric, 96, rows.iter().map(Vec::as_slice));
            let codes = encoded(&params, &rows);
            let query = gaussian(&mut rng, 96);
            let prepared = params.prepare(&query);
            let exact = ExactDistance::new(metric, &query);
            let scale = if metric == Metric::Cosine { 1.0 } else { 100.0 };
            for (row, code) in rows.iter().zip(&codes) {
                let error = (score(&prepared, code) - exact.distance(row)).abs();
                assert!(error < 0.02 * scale, "{metric:?}: off by {error}");
            }
        }
    }

    /// Root of the mean squared error of the estimates, over the root of the mean square of what they estimate, seen
    /// from its mean.
    fn relative_error(metric: Metric, dimension: usize, magnitude: f32) -> f64 {
        let mut rng = SplitMix64::new(11);
        let mut scaled =
            || -> Vec<f32> { gaussian(&mut rng, dimension).iter().map(|x| x * magnitude).collect() };
        let rows: Vec<Vec<f32>> = (0..500).map(|_| scaled()).collect();
        let params = Sq8Params::train(metric, dimension, rows.iter().map(Vec::as_slice));
        let codes = encoded(&params, &rows);
        let (mut errors, mut spread) = (0f64, 0f64);
        for _ in 0..20 {
            let query = scaled();
            let (exact, prepared) = (ExactDistance::new(metric, &query), params.prepare(&query));
            let truth: Vec<f64> = rows.iter().map(|row| f64::from(exact.distance(row))).collect();
            let mean = truth.iter().sum::<f64>() / truth.len() as f64;
            for (truth, code) in truth.iter().zip(&codes) {
                errors += (f64::from(score(&prepared, code)) - truth).powi(2);
                spread += (truth - mean).powi(2);
            }
        }
        (errors / spread).sqrt()
    }

    #[test]
    fn the_error_is_a_small_share_of_the_spread_at_every_magnitude() {
        for metric in METRICS {
            for (dimension, magnitude) in [(96, 1.0), (128, 2e-20), (128, 1e15), (768, 1.0)] {
                let error = relative_error(metric, dimension, magnitude);
                assert!(error < 0.0145, "{metric:?} of {dimension} times {magnitude:e}: {error}");
            }
        }
    }

    #[test]
    fn the_estimate_of_a_query_that_is_a_row_is_next_to_nothing() {
        for metric in [Metric::L2, Metric::Cosine] {
            let mut rng = SplitMix64::new(5);
            let rows: Vec<Vec<f32>> = (0..100).map(|_| gaussian(&mut rng, 128)).collect();
            let params = Sq8Params::train(metric, 128, rows.iter().map(Vec::as_slice));
            let scale = if metric == Metric::Cosine { 1.0 } else { 128.0 };
            for (row, code) in rows.iter().zip(&encoded(&params, &rows)) {
                let estimate = score(&params.prepare(row), code);
                assert!(estimate.abs() < 2e-4 * scale, "{metric:?}: {estimate}");
            }
        }
    }

    #[test]
    fn constant_tiny_huge_and_single_numbers_are_no_problem() {
        for metric in METRICS {
            for row in [vec![2.5; 7], vec![1e-15; 7], vec![3e15; 7], vec![-4.0]] {
                let params = Sq8Params::train(metric, row.len(), std::iter::once(row.as_slice()));
                let code = &encoded(&params, std::slice::from_ref(&row))[0];
                assert!(score(&params.prepare(&row), code).is_finite(), "{metric:?} {row:?}");
            }
            let extreme = [f32::MAX, -f32::MAX, 0.0];
            let params = Sq8Params::train(metric, 3, std::iter::once(&[0.0, 1.0, 2.0][..]));
            let mut code = vec![0; params.row_bytes()];
            params.encode(&extreme, &mut code, &mut Vec::new());
            assert!(!score(&params.prepare(&extreme), &code).is_nan());
        }
    }

    #[test]
    fn the_factors_belong_to_the_stored_codes_at_every_length() {
        let mut rng = SplitMix64::new(13);
        let mut work = vec![f32::NAN; 3];
        for metric in METRICS {
            for dimension in 1..=130 {
                let row = gaussian(&mut rng, dimension);
                let params = Sq8Params::train(metric, dimension, std::iter::once(&vec![0.3; dimension][..]));
                let mut out = vec![0xaa; params.row_bytes()];
                params.encode(&row, &mut out, &mut work);
                let (codes, factors) = out.split_at(params.row_bytes() - FACTOR_BYTES);
                let factor = |place: usize| {
                    f64::from(f32::from_le_bytes(factors[4 * place..][..4].try_into().unwrap()))
                };
                let (delta, lo, square) = (factor(0), factor(1), factor(2));
                assert!(codes[dimension..].iter().all(|&code| code == 0) && factors[12..] == [0; 4]);
                let scale = inverse_length(metric, &row);
                let mut squares = 0.0;
                for ((&x, &mean), &code) in row.iter().zip(&params.mean).zip(codes) {
                    let decoded = lo + delta * f64::from(code);
                    let error = (decoded - (f64::from(x) * scale - f64::from(mean))).abs();
                    assert!(error <= 0.5001 * delta + 1e-7, "{metric:?} of {dimension}: {error} of {delta}");
                    squares += decoded * decoded;
                }
                let spread = codes[..dimension].iter().max();
                assert_eq!(spread, Some(&if dimension == 1 { 0 } else { 255 }));
                assert!((square - squares).abs() <= squares * 1e-6, "{metric:?} of {dimension}");
            }
        }
    }

    #[test]
    fn a_row_wider_than_single_precision_keeps_its_order() {
        let params = Sq8Params::train(Metric::InnerProduct, 3, std::iter::empty());
        let mut code = vec![0; params.row_bytes()];
        params.encode(&[f32::MAX, -f32::MAX, 0.0], &mut code, &mut Vec::new());
        assert_eq!((code[0], code[1]), (255, 0));
        assert!((127..=128).contains(&code[2]), "{:?}", &code[..3]);
    }

    #[test]
    fn parameters_read_back_and_nonsense_is_none() {
        let params = Sq8Params::train(Metric::L2, 2, std::iter::once(&[1.0, -2.0][..]));
        assert_eq!(Sq8Params::from_bytes(Metric::L2, 2, &params.to_bytes()), Some(params));
        assert_eq!(Sq8Params::from_bytes(Metric::L2, 2, &[0; 7]), None);
        assert_eq!(Sq8Params::from_bytes(Metric::L2, 1, &f32::NAN.to_le_bytes()), None);
    }

    proptest! {
        #[test]
        fn any_code_row_scores_without_nan(bytes in prop::collection::vec(any::<u8>(), 64)) {
            for metric in METRICS {
                let params = Sq8Params::train(metric, 48, std::iter::once(&[0.5; 48][..]));
                prop_assert_eq!(params.row_bytes(), 64);
                prop_assert!(!score(&params.prepare(&[0.25; 48]), &bytes).is_nan());
            }
        }
    }
}
