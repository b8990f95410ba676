//! Estimates against distances, for all codes; and the bytes of those that stores have had for long.

use super::*;
use crate::distance::ExactDistance;
use nearstone_base::random::SplitMix64;
use proptest::prelude::*;

const METRICS: [Metric; 3] = [Metric::L2, Metric::Cosine, Metric::InnerProduct];

fn gaussian(rng: &mut SplitMix64, dimension: usize) -> Vec<f32> {
    let one = |rng: &mut SplitMix64| (0..12).map(|_| rng.unit_f64()).sum::<f64>() - 6.0;
    (0..dimension).map(|_| (one(rng) + 0.3) as f32).collect()
}

fn gaussians(seed: u64, count: usize, dimension: usize) -> Vec<Vec<f32>> {
    let mut rng = SplitMix64::new(seed);
    (0..count).map(|_| gaussian(&mut rng, dimension)).collect()
}

fn space(codes: Codes, metric: Metric, rows: &[Vec<f32>]) -> CodeSpace {
    let schema = Schema::new(rows[0].len(), metric).codes(codes);
    trained(&schema, rows)
}

fn trained(schema: &Schema, rows: &[Vec<f32>]) -> CodeSpace {
    let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
    CodeSpace::train(schema, &rows, 2, &|| false).unwrap()
}

fn encoded(space: &CodeSpace, rows: &[Vec<f32>]) -> Vec<Vec<u8>> {
    let mut work = CodeWork::default();
    let mut one = |row: &Vec<f32>| {
        let mut code = vec![0xaa; space.row_bytes()];
        space.encode(row, &mut code, &mut work);
        code
    };
    rows.iter().map(&mut one).collect()
}

fn score(query: &CodeQuery, row: &[u8]) -> f32 {
    let scores = query.scores([row; 4]);
    assert!(scores.iter().all(|score| score.to_bits() == scores[0].to_bits()));
    scores[0]
}

/// How many code rows hold what of 2,000 normal rows is nearest.
fn kept(codes: Codes) -> usize {
    match codes {
        Codes::Sq8 | Codes::RaBitQ8 => 12,
        Codes::Sq4 | Codes::RaBitQ4 => 25,
        Codes::RaBitQ2 | Codes::Pq4 => 120,
        Codes::RaBitQ1 | Codes::Pq8 => 500,
        Codes::Pq16 => 900,
    }
}

#[test]
fn the_few_best_by_code_hold_the_ten_best() {
    for (codes, metric) in Codes::ALL.into_iter().flat_map(|codes| METRICS.map(|metric| (codes, metric))) {
        for dimension in [48, 64, 128, 130] {
            let rows = gaussians(7, 2_000, dimension);
            let space = space(codes, metric, &rows);
            let encoded = encoded(&space, &rows);
            let mut found = 0;
            for query in gaussians(8, 20, dimension) {
                let exact = ExactDistance::new(metric, &query);
                let prepared = space.prepare(&query);
                let order = |score: &dyn Fn(usize) -> f32| {
                    let mut order: Vec<usize> = (0..rows.len()).collect();
                    order.sort_by(|&a, &b| score(a).total_cmp(&score(b)));
                    order
                };
                let truth = order(&|i| exact.distance(&rows[i]));
                let by_code = order(&|i| score(&prepared, &encoded[i]));
                found += truth[..10].iter().filter(|i| by_code[..kept(codes)].contains(i)).count();
            }
            assert!(found >= 198, "{codes:?} under {metric:?} at {dimension}: {found} of 200");
        }
    }
}

#[test]
fn estimates_are_close_in_the_metrics_own_scale() {
    for metric in METRICS {
        let rows = gaussians(3, 200, 96);
        let space = space(Codes::Sq8, metric, &rows);
        let query = &gaussians(4, 1, 96)[0];
        let prepared = space.prepare(query);
        let exact = ExactDistance::new(metric, query);
        let scale = if metric == Metric::Cosine { 1.0 } else { 100.0 };
        for (row, code) in rows.iter().zip(&encoded(&space, &rows)) {
            let error = (score(&prepared, code) - exact.distance(row)).abs();
            assert!(error < 0.02 * scale, "{metric:?}: off by {error}");
        }
    }
}

/// Root of the mean squared error of the estimates, over the root of the mean square of what they estimate, seen
/// from its mean.
fn relative_error(codes: Codes, metric: Metric, dimension: usize, magnitude: f32) -> f64 {
    let mut rng = SplitMix64::new(11);
    let mut scaled = || -> Vec<f32> { gaussian(&mut rng, dimension).iter().map(|x| x * magnitude).collect() };
    let rows: Vec<Vec<f32>> = (0..500).map(|_| scaled()).collect();
    let space = space(codes, metric, &rows);
    let encoded = encoded(&space, &rows);
    let (mut errors, mut spread) = (0f64, 0f64);
    for _ in 0..20 {
        let query = scaled();
        let (exact, prepared) = (ExactDistance::new(metric, &query), space.prepare(&query));
        let truth: Vec<f64> = rows.iter().map(|row| f64::from(exact.distance(row))).collect();
        let mean = truth.iter().sum::<f64>() / truth.len() as f64;
        for (truth, code) in truth.iter().zip(&encoded) {
            errors += (f64::from(score(&prepared, code)) - truth).powi(2);
            spread += (truth - mean).powi(2);
        }
    }
    (errors / spread).sqrt()
}

#[test]
fn the_error_is_a_small_share_of_the_spread_at_every_magnitude() {
    for codes in Codes::ALL {
        let most = match codes {
            Codes::Sq8 | Codes::RaBitQ8 => 0.0145,
            Codes::Sq4 | Codes::RaBitQ4 => 0.12,
            Codes::RaBitQ2 => 0.4,
            Codes::RaBitQ1 => 0.76,
            Codes::Pq4 => 0.4,
            Codes::Pq8 => 0.76,
            Codes::Pq16 => 1.2,
        };
        for metric in METRICS {
            for (dimension, magnitude) in [(96, 1.0), (128, 2e-20), (128, 1e15), (768, 1.0)] {
                let error = relative_error(codes, metric, dimension, magnitude);
                assert!(
                    error < most,
                    "{codes:?} under {metric:?} of {dimension} times {magnitude:e}: {error}"
                );
            }
        }
    }
}

/// Queries as near as neighbours are and as far as strangers, in the metric's own scale.
fn errors(codes: Codes, metric: Metric, mut see: impl FnMut(f64, f64)) {
    for dimension in [40, 128, 200] {
        let rows = gaussians(17, 400, dimension);
        let space = space(codes, metric, &rows);
        let encoded = encoded(&space, &rows);
        for (number, other) in gaussians(18, 60, dimension).iter().enumerate() {
            let near = [0.3f32, 1.0][number % 2];
            let beside = &rows[number * 5];
            let query: Vec<f32> = beside.iter().zip(other).map(|(a, b)| a + (b - a) * near).collect();
            let (exact, prepared) = (ExactDistance::new(metric, &query), space.prepare(&query));
            for (row, code) in rows.iter().zip(&encoded) {
                let distance = exact.distance(row);
                let wrong = f64::from(score(&prepared, code)) - f64::from(distance);
                see(wrong, f64::from(prepared.bound(code, distance)));
            }
        }
    }
}

/// 954 of 1,000 normal numbers lie within two standard deviations, and 317 beyond one. Most rows here are strangers to the
/// query, of whose difference a part, that along the row, meets no error: 0.7 of the bound's deviations are theirs, except under
/// inner product.
#[test]
fn estimates_are_within_their_bound_and_the_bound_is_not_wide() {
    for codes in Codes::ALL.into_iter().filter(|&codes| codes != Codes::Sq8) {
        for metric in METRICS {
            let (mut within, mut far, mut count) = (0, 0, 0);
            errors(codes, metric, |wrong, bound| {
                within += usize::from(wrong.abs() <= bound);
                far += usize::from(wrong.abs() > bound / 2.0);
                count += 1;
            });
            let share = |of: usize| of as f64 / f64::from(count);
            let (within, far) = (share(within), share(far));
            assert!(within > 0.945, "{codes:?} under {metric:?}: {within} within the bound");
            assert!(far > 0.06, "{codes:?} under {metric:?}: {far} beyond half of the bound");
        }
    }
}

#[test]
fn estimates_are_unbiased() {
    for codes in Codes::ALL {
        for metric in METRICS {
            let (mut sum, mut squares, mut count) = (0f64, 0f64, 0f64);
            errors(codes, metric, |wrong, _| {
                sum += wrong;
                squares += wrong * wrong;
                count += 1.0;
            });
            let (mean, deviation) = (sum / count, (squares / count).sqrt());
            assert!(mean.abs() < deviation * 0.1, "{codes:?} under {metric:?}: {mean} of {deviation}");
        }
    }
}

#[test]
fn the_estimate_of_a_query_that_is_a_row_is_next_to_nothing() {
    for metric in [Metric::L2, Metric::Cosine] {
        let rows = gaussians(5, 100, 128);
        let space = space(Codes::Sq8, metric, &rows);
        let scale = if metric == Metric::Cosine { 1.0 } else { 128.0 };
        for (row, code) in rows.iter().zip(&encoded(&space, &rows)) {
            let estimate = score(&space.prepare(row), code);
            assert!(estimate.abs() < 2e-4 * scale, "{metric:?}: {estimate}");
        }
    }
}

#[test]
fn constant_tiny_huge_and_single_numbers_are_no_problem() {
    for (codes, metric) in Codes::ALL.into_iter().flat_map(|codes| METRICS.map(|metric| (codes, metric))) {
        for row in [vec![2.5; 7], vec![1e-15; 7], vec![3e15; 7], vec![-4.0], vec![0.0; 33]] {
            for mean in [row.clone(), vec![0.0; row.len()]] {
                let space = space(codes, metric, &[mean]);
                let code = &encoded(&space, std::slice::from_ref(&row))[0];
                let query = space.prepare(&row);
                let (score, bound) = (score(&query, code), query.bound(code, 1.0));
                assert!(score.is_finite() && bound >= 0.0, "{codes:?} {metric:?} {row:?}: {score} {bound}");
            }
        }
        let extreme = vec![f32::MAX, -f32::MAX, 0.0];
        let space = space(codes, metric, &[vec![0.0, 1.0, 2.0]]);
        let code = &encoded(&space, std::slice::from_ref(&extreme))[0];
        assert!(!score(&space.prepare(&extreme), code).is_nan());
    }
}

/// Codes as they are read back, one a number.
fn unpacked(space: &CodeSpace, row: &[u8]) -> Vec<u8> {
    let (bits, bytes) = (space.bits() as usize, space.code_bytes());
    let code = |i: usize| row[i % bytes] >> (bits * (i / bytes)) & ((1u16 << bits) - 1) as u8;
    (0..bytes * 8 / bits).map(code).collect()
}

#[test]
fn the_factors_belong_to_the_stored_codes_at_every_length() {
    let mut rng = SplitMix64::new(13);
    for (codes, metric) in Codes::ALL.into_iter().flat_map(|codes| METRICS.map(|metric| (codes, metric))) {
        for dimension in 1..=130 {
            let row = gaussian(&mut rng, dimension);
            let other: Vec<f32> = row.iter().map(|x| 0.8 * x + 0.1).collect();
            let space = space(codes, metric, &[vec![0.3; dimension], other]);
            let out = &encoded(&space, std::slice::from_ref(&row))[0];
            let Factors { delta, lo, square, error } = Factors::read(out);
            let stored = unpacked(&space, out);
            let between = &out[space.code_bytes()..out.len() - FACTOR_BYTES];
            assert!(between.iter().chain(stored.iter().skip(space.numbers())).all(|&code| code == 0));
            let mut numbers = vec![0.0; space.numbers()];
            space.centre(&row, &mut numbers);
            space.rotate(&mut numbers);
            let mut centroids: Vec<f64> = stored.iter().map(|&code| f64::from(code)).collect();
            if let Some(codebooks) = &space.codebooks {
                centroids = numbers.iter().map(|_| 0.0).collect();
                codebooks.decode(&stored, |place, x| centroids[place] = f64::from(x));
            }
            let (mut squares, mut errors) = (0.0, 0.0);
            for (&x, &code) in numbers.iter().zip(&centroids) {
                let decoded = f64::from(lo) + f64::from(delta) * code;
                errors += (f64::from(x) - decoded).powi(2);
                squares += decoded * decoded;
                if codes == Codes::Sq8 {
                    let off = (decoded - f64::from(x)).abs();
                    assert!(off <= 0.5001 * f64::from(delta) + 1e-7, "{metric:?} of {dimension}: {off}");
                }
            }
            if codes == Codes::Sq8 {
                let most = stored.iter().max();
                assert_eq!((error, most), (0.0, Some(&if dimension == 1 { 0 } else { 255 })));
            } else {
                let told = f64::from(error);
                assert!(
                    (told - errors.sqrt()).abs() <= 1e-6 + told * 1e-3,
                    "{codes:?} {metric:?} {dimension}"
                );
                squares -= errors;
            }
            let off = (f64::from(square) - squares).abs();
            assert!(
                off <= squares.abs() * 1e-5 + 1e-6,
                "{codes:?} {metric:?} {dimension}: {square} {squares}"
            );
        }
    }
}

#[test]
fn a_row_wider_than_single_precision_keeps_its_order() {
    for codes in [Codes::Sq8, Codes::Sq4] {
        let space = trained(&Schema::new(3, Metric::InnerProduct).codes(codes), &[]);
        let row = &encoded(&space, &[vec![f32::MAX, -f32::MAX, 0.0]])[0];
        let stored = unpacked(&space, row);
        let top = ((1u32 << space.bits()) - 1) as u8;
        assert_eq!((stored[0], stored[1]), (top, 0));
        assert!((top / 2..=top / 2 + 1).contains(&stored[2]), "{stored:?}");
    }
}

/// The rows of stores that were written before there were codes to choose from.
#[test]
fn eight_bits_are_written_as_they_always_were() {
    let schema = Schema::new(3, Metric::L2);
    let space = CodeSpace::from_bytes(&schema, &[0; 12]).unwrap();
    let row = &encoded(&space, &[vec![-1.0, 0.0, 254.0]])[0];
    let mut expected = vec![0, 1, 255];
    expected.resize(48, 0);
    for factor in [1.0f32, -1.0, 1.0 + 254.0 * 254.0, 0.0] {
        expected.extend_from_slice(&factor.to_le_bytes());
    }
    assert_eq!(row, &expected);
}

#[test]
fn four_bits_lie_in_halves_of_bytes_and_the_ends_are_cut_off() {
    let schema = Schema::new(5, Metric::L2).codes(Codes::Sq4);
    let space = CodeSpace::from_bytes(&schema, &[0; 20]).unwrap();
    let row = &encoded(&space, &[vec![0.0, 15.0, 7.0, 8.0, 1.0]])[0];
    assert_eq!(row[..4], [0x80, 0x1f, 0x07, 0]);
    let Factors { delta, lo, square, error } = Factors::read(row);
    assert_eq!((delta, square), (1.0, 339.0));
    assert!(lo.abs() < 1e-6 && (0.0..1e-6).contains(&error), "{lo} {error}");
    // One number far out costs the others little.
    let mut numbers = gaussians(2, 1, 128).remove(0);
    let before = sq4::encode(&numbers, &mut [0; 128]).error;
    numbers[5] = 6.0;
    let after = sq4::encode(&numbers, &mut [0; 128]).error;
    assert!(after < before * 1.6, "{before} became {after}");
}

#[test]
fn parameters_read_back_and_nonsense_is_none() {
    for codes in Codes::ALL {
        let schema = Schema::new(2, Metric::L2).codes(codes);
        let space = space(codes, Metric::L2, &[vec![1.0, -2.0]]);
        let again = CodeSpace::from_bytes(&schema, &space.to_bytes()).unwrap();
        let rows = [vec![0.5, 3.0]];
        assert_eq!((encoded(&again, &rows), again.mean.clone()), (encoded(&space, &rows), space.mean));
        assert!(CodeSpace::from_bytes(&schema, &[0; 7]).is_none());
        let single = Schema::new(1, Metric::L2).codes(codes);
        assert!(CodeSpace::from_bytes(&single, &f32::NAN.to_le_bytes()).is_none());
    }
}

#[test]
fn centroids_are_where_rows_are_and_few_rows_have_their_own() {
    let rows = gaussians(19, 200, 64);
    let space = space(Codes::Pq16, Metric::L2, &rows);
    for (row, code) in rows.iter().zip(&encoded(&space, &rows)) {
        let Factors { square, error, .. } = Factors::read(code);
        assert!(error * error < square * 1e-6, "{error} of {}", square.sqrt());
        assert!(score(&space.prepare(row), code).abs() < square * 1e-3);
    }
    // All rows but a few are one: the centroids go where the others are.
    let mut rows = vec![rows[0].clone(); 2_000];
    rows.extend(gaussians(20, 100, 64));
    let space = self::space(Codes::Pq4, Metric::L2, &rows);
    for code in &encoded(&space, &rows)[2_000..] {
        let Factors { square, error, .. } = Factors::read(code);
        assert!(error * error < square * 0.01, "{error} of {}", square.sqrt());
    }
}

#[test]
fn codebooks_that_are_cut_or_hold_what_is_no_number_are_none() {
    let schema = Schema::new(40, Metric::L2).codes(Codes::Pq8);
    let space = space(Codes::Pq8, Metric::L2, &gaussians(21, 5, 40));
    let bytes = space.to_bytes();
    // A mean of 40, a unit, five centroids of 64 numbers.
    assert_eq!(bytes.len(), 4 * (40 + 1 + 5 * 64));
    assert!(CodeSpace::from_bytes(&schema, &bytes).is_some());
    for len in [0, 7, 160, 164, bytes.len() - 4, bytes.len() - 1, 164 + 4 * 64 * 257] {
        let mut other = bytes.clone();
        other.resize(len, 0);
        assert!(CodeSpace::from_bytes(&schema, &other).is_none(), "{len} bytes");
    }
    for (at, x) in
        [(160, 0.0f32), (160, -1.0), (160, f32::NAN), (160, 1e-40), (300, f32::INFINITY), (164, f32::NAN)]
    {
        let mut other = bytes.clone();
        other[at..at + 4].copy_from_slice(&x.to_le_bytes());
        assert!(CodeSpace::from_bytes(&schema, &other).is_none(), "{x} at {at}");
    }
    let cancelled = CodeSpace::train(&schema, &[&[1.0; 40]], 1, &|| true).unwrap_err();
    assert_eq!(cancelled.kind(), nearstone_base::ErrorKind::Cancelled);
}

/// At equal bytes.
#[test]
fn codebooks_are_closer_than_as_many_bits_of_each_number() {
    let rows = gaussians(22, 4_000, 128);
    for (coarse, fine) in [(Codes::RaBitQ2, Codes::Pq4), (Codes::RaBitQ1, Codes::Pq8)] {
        let error = |codes| {
            let space = space(codes, Metric::L2, &rows);
            let errors = encoded(&space, &rows).into_iter().map(|row| Factors::read(&row).error);
            errors.map(f64::from).sum::<f64>()
        };
        let (coarse_error, fine_error) = (error(coarse), error(fine));
        assert!(fine_error < coarse_error * 0.97, "{fine:?} {fine_error}, {coarse:?} {coarse_error}");
    }
}

proptest! {
    #[test]
    fn any_code_row_scores_without_nan(bytes in prop::collection::vec(any::<u8>(), 128)) {
        for (codes, metric) in Codes::ALL.into_iter().flat_map(|codes| METRICS.map(|metric| (codes, metric))) {
            // Centroids as far out as numbers go.
            let ends = [vec![1e38; 48], vec![-1e38; 48], vec![0.5; 48]];
            let space = space(codes, metric, &ends);
            prop_assert_eq!(space.row_bytes(), if codes == Codes::RaBitQ8 { 128 } else { 64 });
            let (query, row) = (space.prepare(&[0.25; 48]), &bytes[bytes.len() - space.row_bytes()..]);
            prop_assert!(!score(&query, row).is_nan());
        }
    }
}
