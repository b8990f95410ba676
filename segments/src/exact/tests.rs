//! The scan against distances of every row in double precision, on every backend.

use super::*;
use crate::segment::asked::{Every, Lists};
use crate::segment::{Accept, SearchOptions};
use crate::topk::Scratch;
use crate::{AcceptAll, MutableSegment};
use nearstone_base::random::SplitMix64;
use nearstone_base::{KeyRef, Schema, SegmentId};
use proptest::prelude::*;

/// How numbers are drawn.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Between -1 and 1.
    Mixed,
    /// Around 1000, so that products are much larger than distances.
    Far,
    /// Each vector of a length of its own, up to those of which squares vanish or overflow.
    Lengths,
    /// Few different vectors, and those that differ in a last bit.
    Twins,
    /// All numbers equal.
    Same,
    /// -1, 0 and 1: many ties, and vectors of zeros.
    Few,
}

fn vectors(kind: Kind, count: usize, dimension: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut rng = SplitMix64::new(seed);
    let mut all: Vec<Vec<f32>> = Vec::new();
    for _ in 0..count {
        let length = 10f32.powi(rng.below(76) as i32 - 38);
        let mut next = || rng.unit_f64() as f32 * 2.0 - 1.0;
        let mut vector: Vec<f32> = match kind {
            Kind::Mixed | Kind::Twins => (0..dimension).map(|_| next()).collect(),
            Kind::Far => (0..dimension).map(|_| 1000.0 + next()).collect(),
            Kind::Lengths => (0..dimension).map(|_| next() * length).collect(),
            Kind::Same => vec![0.7; dimension],
            Kind::Few => (0..dimension).map(|_| (next() * 1.5).round()).collect(),
        };
        if matches!(kind, Kind::Twins) && !all.is_empty() {
            vector.clone_from(&all[rng.below(all.len().min(3) as u64) as usize]);
            let place = rng.below(dimension as u64) as usize;
            vector[place] =
                [vector[place], vector[place].next_up(), vector[place].next_down()][rng.below(3) as usize];
        }
        all.push(vector);
    }
    all
}

/// Zeros have no direction: schemas refuse them under cosine.
fn without_zeros(metric: Metric, vectors: &mut [Vec<f32>]) {
    for vector in
        vectors.iter_mut().filter(|vector| metric == Metric::Cosine && vector.iter().all(|&x| x == 0.0))
    {
        vector[0] = 1.0;
    }
}

/// All rows up to the `limit`-th and those that tie with it.
fn reference(metric: Metric, query: &[f32], limit: usize, rows: &[(u32, &[f32])]) -> Vec<(u32, u32)> {
    let exact = ExactDistance::new(metric, query);
    let mut hits: Vec<Hit> =
        rows.iter().map(|&(ordinal, row)| Hit { distance: exact.distance(row), ordinal }).collect();
    hits.sort_unstable_by(by_distance);
    if let Some(last) = hits.get(limit - 1).copied() {
        hits.retain(|hit| hit.distance.total_cmp(&last.distance).is_le());
    }
    bits(hits)
}

fn bits(mut hits: Vec<Hit>) -> Vec<(u32, u32)> {
    hits.sort_unstable_by(by_distance);
    hits.iter().map(|hit| (hit.distance.to_bits(), hit.ordinal)).collect()
}

fn check(metric: Metric, queries: &[Vec<f32>], limit: usize, rows: &[Vec<f32>]) {
    // Some rows are left out, as dead ones and those that a filter refuses are.
    let rows: Vec<(u32, &[f32])> =
        (0u32..).zip(rows.iter().map(Vec::as_slice)).filter(|row| row.0 % 7 != 3).collect();
    let queries: Vec<&[f32]> = queries.iter().map(Vec::as_slice).collect();
    let expected: Vec<_> = queries.iter().map(|query| reference(metric, query, limit, &rows)).collect();
    for kernels in Kernels::supported() {
        for together in [1, 2, queries.len()] {
            let mut found = Vec::new();
            for queries in queries.chunks(together) {
                let count = rows.len() as u32;
                let all = rows.iter().map(|&row| Ok(row));
                found.extend(nearest_rows_with(kernels, metric, queries, limit, count, all).unwrap());
            }
            for (number, (found, expected)) in found.into_iter().zip(&expected).enumerate() {
                assert_eq!(
                    bits(found),
                    *expected,
                    "{} {metric:?}, {together} together, query {number}",
                    kernels.name()
                );
            }
        }
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![Kind::Mixed, Kind::Far, Kind::Lengths, Kind::Twins, Kind::Same, Kind::Few])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn nothing_is_lost_of_any_rows(
        kind in kinds(),
        asked in kinds(),
        metric in prop::sample::select(vec![Metric::L2, Metric::InnerProduct, Metric::Cosine]),
        dimension in prop_oneof![1usize..=40, prop::sample::select(vec![64, 127, 300, 768])],
        limit in prop::sample::select(vec![1usize, 2, 10, 1000]),
        rows in 1usize..260,
        queries in 1usize..40,
        seed in any::<u64>(),
    ) {
        let mut rows = vectors(kind, rows, dimension, seed);
        let mut queries = vectors(asked, queries, dimension, seed.wrapping_add(1));
        // Some queries are rows.
        let own = rows.iter().step_by(5).cloned();
        queries.iter_mut().step_by(2).zip(own).for_each(|(query, row)| *query = row);
        without_zeros(metric, &mut rows);
        without_zeros(metric, &mut queries);
        check(metric, &queries, limit, &rows);
    }
}

#[test]
fn long_vectors_and_long_lists_lose_nothing_either() {
    for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
        for kind in [Kind::Mixed, Kind::Far, Kind::Twins] {
            check(metric, &vectors(kind, 9, 4096, 1), 3, &vectors(kind, 120, 4096, 2));
        }
        // Hits that tie, and more hits than are kept without dropping some.
        check(metric, &vectors(Kind::Few, 9, 5, 1), 700, &vectors(Kind::Few, 5000, 5, 2));
    }
}

#[test]
fn few_rows_are_measured_where_estimates_tell_them_apart() {
    let rows = vectors(Kind::Mixed, 5000, 128, 1);
    let query = &vectors(Kind::Mixed, 1, 128, 2)[0];
    for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
        let mut block = Block::new(kernels(), metric, &[query], 10);
        let mut measured = 0;
        for (ordinal, row) in (0u32..).zip(&rows) {
            let before = block.bases[0];
            let (dot, square) = kernels().dot_norm(query, row);
            let Weight { lift, norm } = block.weight(square);
            measured += u32::from(dot >= before + lift + block.slopes[0] * norm);
            block.one_by_one(&[(ordinal, row)]);
        }
        // About `10 ln(5000 / 10)` rows are nearer than ten before them, and hardly any only seems to be.
        assert!((10..150).contains(&measured), "{metric:?}: {measured}");
    }
}

#[test]
fn an_error_of_the_rows_ends_the_scan() {
    let row: &[f32] = &[1.0];
    let rows = [Ok((0, row)), Err(nearstone_base::Error::invalid("a row that cannot be read"))];
    let error = nearest_rows(Metric::L2, &[row], 1, 2, rows.into_iter()).unwrap_err();
    assert!(error.to_string().contains("cannot be read"));
}

/// Rows under keys that descend, with births, deaths, a snapshot and a condition: what is seen, ordered by distance and key.
#[test]
fn mutable_segments_answer_many_queries_as_they_answer_one() {
    for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
        let segment = MutableSegment::new(SegmentId(1), Schema::new(21, metric));
        let mut rows = vectors(Kind::Few, 600, 21, 5);
        without_zeros(metric, &mut rows);
        for (row, vector) in (0u32..).zip(&rows) {
            let key = KeyRef::U64(u64::from(1000 - row));
            segment.append(key, key.hash64(), vector, b"", u64::from(10 + row));
        }
        (0..600).step_by(7).for_each(|row| assert!(segment.deaths().set(row, 700)));
        let mut queries = vectors(Kind::Few, 40, 21, 6);
        without_zeros(metric, &mut queries);
        let queries: Vec<&[f32]> = queries.iter().map(Vec::as_slice).collect();
        let mut scratch = Scratch::default();
        for (limit, every, at) in [(1, 1, 699), (10, 1, 700), (10, 2, 300), (50, 3, 700), (900, 1, 700)] {
            let accept = Every(every);
            let options = SearchOptions { limit, ef: 1, exact: true, at, accept: &accept };
            let mut lists = Lists(vec![Vec::new(); queries.len()]);
            segment.search_many(&queries, &options, &mut scratch, &mut lists).unwrap();
            for (query, together) in queries.iter().zip(lists.0) {
                let exact = ExactDistance::new(metric, query);
                let seen = |row: &u32| {
                    accept.accept(*row) && u64::from(10 + row) <= at && (!row.is_multiple_of(7) || at < 700)
                };
                let mut expected: Vec<(f32, u32)> = (0..600)
                    .filter(seen)
                    .map(|row| (exact.distance(&rows[row as usize]) + 0.0, row))
                    .collect();
                expected.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
                expected.truncate(limit);
                let found = |hits: Vec<Hit>| -> Vec<(f32, u32)> {
                    hits.iter().map(|hit| (hit.distance, hit.ordinal)).collect()
                };
                assert_eq!(found(together), expected);
                assert_eq!(found(segment.search(query, &options, &mut scratch).unwrap()), expected);
            }
        }
        let none = SearchOptions { limit: 0, ef: 1, exact: true, at: 700, accept: &AcceptAll };
        let mut lists = Lists(vec![Vec::new(); queries.len()]);
        segment.search_many(&queries, &none, &mut scratch, &mut lists).unwrap();
        assert!(lists.0.iter().all(Vec::is_empty));
    }
}
