//! What a mutable segment promises, against brute force and simple models.

use super::*;
use crate::graph::{check, flatten};
use crate::segment::{Accept, AcceptAll, Hit, RowSource, SearchOptions};
use crate::topk::Scratch;
use nearstone_base::KeyType;
use nearstone_base::random::SplitMix64;
use proptest::prelude::*;
use std::collections::BTreeMap;

const METRICS: [Metric; 3] = [Metric::Cosine, Metric::L2, Metric::InnerProduct];

fn gaussian(rng: &mut SplitMix64, dimension: usize) -> Vec<f32> {
    let normal = |rng: &mut SplitMix64| {
        let (u, v) = (1.0 - rng.unit_f64(), rng.unit_f64());
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    };
    (0..dimension).map(|_| normal(rng)).collect()
}

/// Rows under keys that descend, so that the order of keys is not that of ordinals.
fn segment(schema: Schema, rows: u32) -> MutableSegment {
    let segment = MutableSegment::new(SegmentId(3), schema);
    let mut rng = SplitMix64::new(11);
    for row in 0..rows {
        put(&segment, u64::from(rows - row), &gaussian(&mut rng, schema.dimension()), 1);
    }
    segment
}

fn put(segment: &MutableSegment, key: u64, vector: &[f32], birth: Lsn) -> u32 {
    let key = KeyRef::U64(key);
    segment.append(key, key.hash64(), vector, b"{}", birth)
}

fn link_all(segment: &MutableSegment) {
    let mut scratch = Scratch::default();
    while segment.link_some(100, &mut scratch) > 0 {}
    assert!(segment.all_linked());
}

fn options(limit: usize, ef: usize, exact: bool) -> SearchOptions<'static> {
    SearchOptions { limit, ef, exact, at: Lsn::MAX, accept: &AcceptAll }
}

fn run(segment: &MutableSegment, query: &[f32], options: &SearchOptions<'_>) -> Vec<Hit> {
    segment.search(query, options, &mut Scratch::default()).unwrap()
}

fn recall(segment: &MutableSegment, queries: usize, ef: usize, accept: &dyn Accept) -> f64 {
    let mut rng = SplitMix64::new(77);
    let mut found = 0;
    for _ in 0..queries {
        let query = gaussian(&mut rng, segment.schema().dimension());
        let truth = run(segment, &query, &SearchOptions { accept, ..options(10, 0, true) });
        let hits = run(segment, &query, &SearchOptions { accept, ..options(10, ef, false) });
        assert_eq!(hits.len(), 10);
        assert!(hits.is_sorted_by(|a, b| a.distance <= b.distance));
        // Any row as near as the farthest right one is right: under cosine one dimension knows two distances only.
        found += hits.iter().filter(|hit| hit.distance <= truth[9].distance).count();
    }
    found as f64 / (queries * 10) as f64
}

#[test]
fn recall_is_high_for_every_metric() {
    for metric in METRICS {
        let segment = segment(Schema::new(32, metric), 5_000);
        link_all(&segment);
        let recall = recall(&segment, 100, 64, &AcceptAll);
        assert!(recall >= 0.95, "recall@10 under {} is {recall}", metric.name());
    }
}

#[test]
fn four_threads_link_as_well_as_one() {
    let segment = segment(Schema::new(32, Metric::L2), 5_000);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut scratch = Scratch::default();
                while segment.link_some(7, &mut scratch) > 0 {}
            });
        }
    });
    assert_eq!((segment.linked(), segment.unlinked(), segment.progress.floor()), (5_000, 0, 5_000));
    let recall = recall(&segment, 100, 64, &AcceptAll);
    assert!(recall >= 0.95, "recall@10 is {recall}");
    let (order, flat) = flatten(segment.graph(), 5_000, |_| true, &segment).unwrap();
    assert_eq!(order.len(), 5_000);
    check(&flat).unwrap();
}

#[test]
fn searches_while_rows_arrive_and_are_linked_see_their_snapshot() {
    let segment = MutableSegment::new(SegmentId(1), Schema::new(8, Metric::L2).m(8).ef_construction(40));
    let published = AtomicU64::new(0);
    let rows = 4_000;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = SplitMix64::new(5);
            for key in 0..rows {
                put(&segment, key, &gaussian(&mut rng, 8), key + 1);
                published.store(key + 1, Ordering::Release);
            }
        });
        scope.spawn(|| {
            let mut scratch = Scratch::default();
            while u64::from(segment.linked()) < rows {
                if segment.link_some(16, &mut scratch) == 0 {
                    std::thread::yield_now();
                }
            }
        });
        scope.spawn(|| {
            let mut rng = SplitMix64::new(6);
            let mut scratch = Scratch::default();
            loop {
                let at = published.load(Ordering::Acquire);
                let query = gaussian(&mut rng, 8);
                let options = SearchOptions { at, ..options(10, 50, false) };
                let hits = segment.search(&query, &options, &mut scratch).unwrap();
                assert_eq!(hits.len() as u64, at.min(10));
                assert!(hits.iter().all(|hit| u64::from(hit.ordinal) < at));
                let distinct: std::collections::BTreeSet<u32> = hits.iter().map(|hit| hit.ordinal).collect();
                assert_eq!(distinct.len(), hits.len());
                if at == rows {
                    break;
                }
            }
        });
    });
    assert!(recall(&segment, 50, 64, &AcceptAll) > 0.95);
}

#[test]
fn no_unlinked_row_is_missed() {
    let segment = segment(Schema::new(16, Metric::L2), 4_000);
    let mut scratch = Scratch::default();
    assert_eq!(segment.link_some(3_000, &mut scratch), 3_000);
    assert_eq!((segment.linked(), segment.unlinked()), (3_000, 1_000));
    for row in (3_000..4_000).step_by(37) {
        let hits = run(&segment, segment.vector(row), &options(1, 10, false));
        assert_eq!(hits, [Hit { distance: 0.0, ordinal: row }]);
    }
}

#[test]
fn rows_are_seen_from_birth_to_death() {
    let segment = MutableSegment::new(SegmentId(1), Schema::new(2, Metric::L2));
    let key = KeyRef::U64(9);
    let first = put(&segment, 9, &[1.0, 0.0], 5);
    let second = put(&segment, 9, &[2.0, 0.0], 8);
    assert!(segment.deaths().set(first, 8));
    assert!(segment.deaths().set(second, 11));
    let seen = |at| segment.find_at(key, key.hash64(), at);
    assert_eq!(
        [4, 5, 7, 8, 10, 11].map(seen),
        [None, Some(first), Some(first), Some(second), Some(second), None]
    );
    assert_eq!(segment.find(key, key.hash64()), Some(second));
    assert_eq!(segment.find(KeyRef::U64(1), key.hash64()), None);
    for linked in [false, true] {
        for exact in [false, true] {
            for at in 4..=11 {
                let hits = run(&segment, &[0.0, 0.0], &SearchOptions { at, ..options(5, 10, exact) });
                let rows: Vec<u32> = hits.iter().map(|hit| hit.ordinal).collect();
                assert_eq!(rows, seen(at).into_iter().collect::<Vec<_>>(), "at {at}, linked {linked}");
                assert_eq!(segment.live_at(at).collect::<Vec<_>>(), rows);
            }
        }
        link_all(&segment);
    }
}

/// Twice the limit once was more than a number holds.
#[test]
fn every_row_is_found_with_the_largest_limit_and_none_before_the_first_was_born() {
    let segment = MutableSegment::new(SegmentId(1), Schema::new(2, Metric::L2));
    for row in 0..50 {
        let key = Key::U64(row);
        segment.append(key.as_ref(), key.as_ref().hash64(), &[row as f32, 1.0], b"", 10 + row);
    }
    for exact in [false, true] {
        for (at, seen) in [(Lsn::MAX, 50), (30, 21), (9, 0)] {
            let hits = run(&segment, &[0.0, 0.0], &SearchOptions { at, ..options(usize::MAX, 1, exact) });
            assert!(hits.iter().map(|hit| hit.ordinal).eq(0..seen), "{hits:?}");
        }
    }
}

#[test]
fn rows_born_at_an_lsn_are_the_first_ones() {
    let segment = MutableSegment::new(SegmentId(1), Schema::new(2, Metric::L2));
    let births: Vec<Lsn> = (0..150u64).map(|row| 10 + row * row / 40).collect();
    for (row, &birth) in (0..).zip(&births) {
        let key = Key::U64(row);
        segment.append(key.as_ref(), key.as_ref().hash64(), &[row as f32, 1.0], b"", birth);
    }
    for rows in [0, 1, 2, 3, 17, 100, 150] {
        for at in 0..600 {
            let wanted = births[..rows as usize].iter().filter(|&&birth| birth <= at).count();
            assert_eq!(segment.born_at(at, rows) as usize, wanted, "{rows} rows at {at}");
        }
    }
}

#[test]
fn hits_are_as_many_as_asked_for_or_visible() {
    struct Every(u32);
    impl Accept for Every {
        fn accept(&self, ordinal: u32) -> bool {
            ordinal.is_multiple_of(self.0)
        }
    }
    let segment = segment(Schema::new(4, Metric::L2).m(4).ef_construction(16), 3_000);
    link_all(&segment);
    for row in 0..100 {
        segment.deaths().set(row, 2);
    }
    for (limit, every, expected) in [
        (0, 1, 0),
        (10, 1, 10),
        (2_900, 1, 2_900),
        (9_999, 1, 2_900),
        (100, 290, 10),
        (3, 290, 3),
        (5, 99_999, 0),
    ] {
        for exact in [false, true] {
            let options = SearchOptions { accept: &Every(every), ..options(limit, 12, exact) };
            assert_eq!(run(&segment, &[0.0; 4], &options).len(), expected, "limit {limit}, every {every}");
        }
    }
    for every in [2, 10, 100] {
        let recall = recall(&segment, 30, 64, &Every(every));
        assert!(recall > 0.95, "recall among every {every}th row is {recall}");
    }
}

#[test]
fn equal_vectors_are_all_found_and_ties_are_by_key() {
    let schema = Schema::new(3, Metric::L2).m(4).ef_construction(16);
    let segment = MutableSegment::new(SegmentId(1), schema);
    for key in 0..1_000 {
        put(&segment, 1_000 - key, &[0.5; 3], 1);
    }
    link_all(&segment);
    let hits = run(&segment, &[0.0; 3], &options(1_000, 10, false));
    let keys: Vec<KeyRef<'_>> = hits.iter().map(|hit| segment.key(hit.ordinal)).collect();
    assert!(keys.len() == 1_000 && keys.is_sorted());
    let hits = run(&segment, &[0.0; 3], &options(3, 10, true));
    assert_eq!(hits.iter().map(|hit| hit.ordinal).collect::<Vec<_>>(), [999, 998, 997]);
    let (_, flat) = flatten(segment.graph(), 1_000, |_| true, &segment).unwrap();
    check(&flat).unwrap();
}

#[test]
fn odd_dimensions_work() {
    for dimension in [1, 3, 100] {
        for metric in METRICS {
            let segment = segment(Schema::new(dimension, metric), 2_000);
            link_all(&segment);
            // Narrow enough for the graph to be walked: with 128 a scan of these few rows would be cheaper.
            let recall = recall(&segment, 20, 64, &AcceptAll);
            assert!(recall >= 0.9, "recall@10 at {dimension} under {} is {recall}", metric.name());
        }
    }
}

#[test]
fn string_keys_payloads_and_sizes_are_kept() {
    let segment = MutableSegment::new(SegmentId(1), Schema::new(3, Metric::Cosine).keys(KeyType::Str));
    assert_eq!((segment.lsn_min(), segment.lsn_max()), (None, None));
    let empty = segment.bytes();
    assert!(empty < 16_384, "an empty segment holds {empty} bytes");
    for i in 0..200u64 {
        let key = format!("key {i}");
        let key = KeyRef::Str(&key);
        let payload = format!("{{\"i\":{i}}}");
        segment.append(key, key.hash64(), &[i as f32, 1.0, -0.0], payload.as_bytes(), 7 + i / 2);
    }
    link_all(&segment);
    assert_eq!((segment.lsn_min(), segment.lsn_max(), segment.rows()), (Some(7), Some(106), 200));
    assert_eq!((segment.key(150), segment.birth(150)), (KeyRef::Str("key 150"), 82));
    assert_eq!(segment.payload(150), b"{\"i\":150}");
    assert_eq!(segment.vector(150)[2].to_bits(), (-0.0f32).to_bits());
    let user: usize = (0..200).map(|i| 12 + format!("key {i}{{\"i\":{i}}}").len()).sum();
    assert_eq!(segment.user_bytes(), user as u64);
    assert_eq!(segment.vector_bytes(), 200 * 64);
    assert!(segment.bytes() > empty + segment.vector_bytes() + 200 * 128);

    segment.freeze();
    let (order, _) = flatten(segment.graph(), 200, |row| row % 2 == 0, &segment).unwrap();
    let rows = FrozenRows { segment: &segment, order: &order };
    assert_eq!(rows.rows(), 100);
    for (new, &old) in order.iter().enumerate() {
        let new = new as u32;
        assert_eq!(rows.key(new).unwrap(), segment.key(old));
        assert_eq!(rows.vector(new).unwrap(), segment.vector(old));
        assert_eq!(rows.version(new).unwrap(), segment.birth(old));
        assert_eq!(rows.payload(new).unwrap(), segment.payload(old));
    }
}

#[test]
#[should_panic(expected = "segment 1 is frozen")]
fn frozen_segments_take_no_rows() {
    let segment = MutableSegment::new(SegmentId(1), Schema::new(1, Metric::L2));
    segment.freeze();
    put(&segment, 1, &[0.0], 1);
}

#[test]
fn flattening_keeps_recall_when_rows_are_dropped() {
    let rows = 5_000;
    let segment = segment(Schema::new(32, Metric::L2), rows);
    link_all(&segment);
    let keep = |row: u32| row % 10 >= 3;
    let (order, flat) = flatten(segment.graph(), rows, keep, &segment).unwrap();
    check(&flat).unwrap();
    assert_eq!(order.len(), 3_500);
    assert!(order.iter().all(|&row| keep(row)));
    assert!(order.is_sorted_by(|&a, &b| segment.graph().level(a) >= segment.graph().level(b)));

    let mut rng = SplitMix64::new(77);
    let (mut scratch, mut found, mut right) = (Scratch::default(), Vec::new(), 0);
    for _ in 0..100 {
        let query = gaussian(&mut rng, 32);
        let scorer = Ordered { scorer: shadow::FromQuery::new(&segment, &query), order: &order };
        found.clear();
        crate::graph::walk(&flat, &scorer, &AcceptAll, 3_500, 64, &mut scratch, &mut found).unwrap();
        let accept = Kept(keep);
        let truth = run(&segment, &query, &SearchOptions { accept: &accept, ..options(10, 0, true) });
        let near = found[..10].iter().map(|candidate| order[candidate.ordinal as usize]);
        right += near.filter(|&row| truth.iter().any(|hit| hit.ordinal == row)).count();
    }
    assert!(right >= 950, "recall@10 after dropping 30 % is {}", right as f64 / 1_000.0);
}

/// The same rows linked on codes and on the vectors.
fn with_and_without_codes(metric: Metric, dimension: usize, rows: &[Vec<f32>]) -> [MutableSegment; 2] {
    [true, false].map(|codes| {
        let mut segment = MutableSegment::new(SegmentId(3), Schema::new(dimension, metric));
        assert!(segment.shadow.is_some());
        if !codes {
            segment.shadow = None;
        }
        for (key, row) in (0..).zip(rows) {
            put(&segment, key, row, 1);
        }
        link_all(&segment);
        segment
    })
}

/// A name, a metric, rows, and whether codes serve for them; `None` where they nearly do.
type Case = (&'static str, Metric, Vec<Vec<f32>>, Option<bool>);

/// Recall of graphs linked on codes, and whether they were in the end, for kinds of rows that are hard for codes.
#[test]
fn graphs_linked_on_codes_find_what_those_linked_on_vectors_do() {
    let mut rng = SplitMix64::new(21);
    let count = 4_000;
    let mut gaussians =
        |dimension: usize| -> Vec<Vec<f32>> { (0..count).map(|_| gaussian(&mut rng, dimension)).collect() };
    let latent = gaussians(12);
    let (plain, centres) = (gaussians(96), gaussians(128));
    let turned = |dimension: usize| -> Vec<Vec<f32>> {
        let number = |row: &[f32], i: usize| (0..12).map(|j| row[j] * centres[j][i]).sum::<f32>();
        latent.iter().map(|row| (0..dimension).map(|i| number(row, i)).collect()).collect()
    };
    let near = |spread: f32| -> Vec<Vec<f32>> {
        let noise = turned(128);
        let row = |i: usize| centres[i % 40].iter().zip(&noise[i]).map(|(c, x)| c + spread * x).collect();
        (0..count).map(row).collect()
    };
    let changed = |change: &dyn Fn(usize, usize, f32) -> f32| -> Vec<Vec<f32>> {
        let numbers = |(i, row): (usize, Vec<f32>)| {
            row.into_iter().enumerate().map(|(j, x)| change(i, j, x)).collect::<Vec<f32>>()
        };
        turned(100).into_iter().enumerate().map(numbers).collect()
    };
    let twice: Vec<Vec<f32>> =
        turned(64).into_iter().take(count / 2).flat_map(|row| [row.clone(), row]).collect();
    let cases: [Case; 14] = [
        ("plain", Metric::Cosine, plain, Some(true)),
        ("a plane", Metric::L2, turned(100), Some(true)),
        ("clusters", Metric::L2, near(0.3), Some(true)),
        ("clusters", Metric::Cosine, near(0.3), Some(true)),
        ("tight clusters", Metric::L2, near(1e-3), Some(false)),
        (
            "products of many lengths",
            Metric::InnerProduct,
            changed(&|i, _, x| x * (0.5 + (i % 97) as f32 / 60.0)),
            Some(true),
        ),
        ("clusters", Metric::InnerProduct, near(0.3), Some(true)),
        ("tight clusters", Metric::InnerProduct, near(1e-3), Some(false)),
        ("far from the origin", Metric::InnerProduct, changed(&|_, _, x| x + 1e3), Some(false)),
        ("duplicates", Metric::L2, twice, Some(true)),
        ("outliers", Metric::L2, changed(&|_, j, x| if j == 7 { x * 30.0 } else { x }), None),
        ("far from the origin", Metric::L2, changed(&|_, _, x| x + 1e3), Some(false)),
        ("constant but for three", Metric::L2, changed(&|_, j, x| if j % 40 == 0 { x } else { 2.5 }), None),
        ("constant but for one", Metric::L2, changed(&|_, j, x| if j == 3 { x } else { 0.25 }), Some(false)),
    ];
    for (name, metric, rows, clear) in cases {
        let dimension = rows[0].len();
        let [on_codes, on_vectors] = with_and_without_codes(metric, dimension, &rows);
        let are_clear = on_codes.shadow.as_ref().unwrap().are_clear();
        assert!(clear.is_none_or(|clear| clear == are_clear), "{name}: {are_clear}");
        // Halfway between rows that are near each other where there are clusters.
        let halfway = |i: usize| -> Vec<f32> {
            rows[i].iter().zip(&rows[(i + 40) % rows.len()]).map(|(a, b)| (a + b) / 2.0).collect()
        };
        let queries: Vec<Vec<f32>> = (0..rows.len()).step_by(10).map(halfway).collect();
        let recall = |segment: &MutableSegment| {
            let mut found = 0;
            for query in &queries {
                let truth = run(segment, query, &options(10, 0, true));
                let hits = run(segment, query, &options(10, 64, false));
                found += hits.iter().filter(|hit| hit.distance <= truth[9].distance).count().min(10);
            }
            found as f64 / (queries.len() * 10) as f64
        };
        let (on_codes, on_vectors) = (recall(&on_codes), recall(&on_vectors));
        eprintln!("{name} under {}: {on_codes} on codes, {on_vectors} on vectors", metric.name());
        assert!(on_codes >= on_vectors - 0.003, "{name}: {on_codes} on codes, {on_vectors} on vectors");
    }
}

#[test]
fn codes_are_counted_as_memory() {
    let rows: Vec<Vec<f32>> = (0..500).map(|i| vec![i as f32; 200]).collect();
    let [with, without] = with_and_without_codes(Metric::L2, 200, &rows);
    // 224 numbers after the rotation, as 256 codes, and the factors: 320 bytes.
    assert!(with.bytes() >= without.bytes() + 500 * 320, "{} and {}", with.bytes(), without.bytes());
    assert_eq!(with.vector_bytes(), without.vector_bytes());
}

#[test]
fn the_largest_numbers_do_no_harm_on_codes() {
    for metric in [Metric::L2, Metric::InnerProduct] {
        let rows: Vec<Vec<f32>> = (0..600)
            .map(|i| {
                (0..64)
                    .map(|j| [f32::MAX, -f32::MAX, 1.0, f32::MIN_POSITIVE][(i * 7 + j * (i % 5)) % 4])
                    .collect()
            })
            .collect();
        for segment in with_and_without_codes(metric, 64, &rows) {
            for query in rows.iter().step_by(50) {
                let hits = run(&segment, query, &options(20, 30, false));
                assert_eq!(hits.len(), 20);
            }
            let (_, flat) = flatten(segment.graph(), 600, |_| true, &segment).unwrap();
            check(&flat).unwrap();
        }
    }
}

struct Kept<F>(F);

impl<F: Fn(u32) -> bool + Sync> Accept for Kept<F> {
    fn accept(&self, ordinal: u32) -> bool {
        self.0(ordinal)
    }
}

struct Ordered<'a> {
    scorer: shadow::FromQuery<'a>,
    order: &'a [u32],
}

impl crate::graph::Scorer for Ordered<'_> {
    fn score(&self, ordinals: &[u32], out: &mut Vec<f32>) -> nearstone_base::Result<()> {
        let rows: Vec<u32> = ordinals.iter().map(|&row| self.order[row as usize]).collect();
        self.scorer.score(&rows, out)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Upserts and deletes of few keys, all under three hashes: what a snapshot sees is what a map held then.
    #[test]
    fn find_at_is_a_map_at_every_lsn(
        operations in prop::collection::vec((0u64..8, prop::bool::weighted(0.7), prop::bool::ANY), 0..60),
    ) {
        let segment = MutableSegment::new(SegmentId(1), Schema::new(1, Metric::L2));
        let hash = |key: u64| key % 3;
        let mut now = BTreeMap::new();
        let mut history = vec![now.clone()];
        for (key, upsert, new_batch) in operations {
            if new_batch || history.len() == 1 {
                history.push(now.clone());
            }
            let lsn = history.len() as Lsn - 1;
            if let Some(&old) = now.get(&key) {
                prop_assert_eq!(segment.find(KeyRef::U64(key), hash(key)), Some(old));
                prop_assert!(segment.deaths().set(old, lsn));
                now.remove(&key);
            }
            if upsert {
                let row = segment.append(KeyRef::U64(key), hash(key), &[key as f32], b"", lsn);
                now.insert(key, row);
            }
            *history.last_mut().unwrap() = now.clone();
        }
        for (at, then) in history.iter().enumerate() {
            for key in 0..8 {
                let row = segment.find_at(KeyRef::U64(key), hash(key), at as Lsn);
                prop_assert_eq!(row, then.get(&key).copied(), "key {} at {}", key, at);
            }
            let mut rows: Vec<u32> = then.values().copied().collect();
            rows.sort_unstable();
            prop_assert_eq!(segment.live_at(at as Lsn).collect::<Vec<_>>(), rows);
        }
    }
}
