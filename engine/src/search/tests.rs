//! Which segments are walked together, and by which way they come to share the space of their inline rows.

use super::*;
use crate::{Background, Collection, Metric, RebuildOptions, Schema, Store};
use nearstone_base::random::SplitMix64;

/// Mixtures of a few numbers, so that graphs of them are good.
fn vector(key: u64) -> Vec<f32> {
    let numbers = |seed: u64| {
        let mut rng = SplitMix64::new(seed);
        [(); 6].map(|()| rng.unit_f64() as f32 - 0.5)
    };
    let inner = numbers(key);
    let product = |weights: [f32; 6]| weights.iter().zip(&inner).map(|(a, b)| a * b).sum();
    (0..64).map(|place| product(numbers(1_000_000 + place))).collect()
}

fn put(rows: &Collection, keys: std::ops::Range<u64>) {
    let vectors: Vec<(u64, Vec<f32>)> = keys.map(|key| (key, vector(key))).collect();
    rows.upsert_many(vectors.iter().map(|(key, vector)| (*key, &vector[..], ()))).unwrap();
}

fn store() -> (Store, Collection) {
    let builder = Store::builder().background(Background::Manual).auto_compact(false).seal_rows(1_300);
    let store = builder.in_memory().unwrap();
    let schema = Schema::new(64, Metric::L2).m(8).ef_construction(32);
    let rows = store.create_collection("rows", schema).unwrap();
    (store, rows)
}

/// Rows of each sealed segment, and whether all have the space of the first one.
fn sealed(store: &Store, rows: &Collection) -> (Vec<u32>, bool) {
    let view = store.handle.engine.core.view.load_full();
    let sealed = &view.lists.collections[&rows.id].sealed;
    let all: Vec<_> = sealed.iter().map(|handle| &handle.segment).collect();
    (all.iter().map(|it| it.rows()).collect(), all.iter().all(|it| it.shares_queries(all[0])))
}

#[test]
fn segments_of_a_collection_share_a_space_by_whichever_way_they_come() {
    let (store, rows) = store();
    for first in [0, 1_100, 2_200] {
        put(&rows, first..first + 1_100);
        rows.flush().unwrap();
    }
    assert_eq!(sealed(&store, &rows), (vec![1_100; 3], true), "seals");
    rows.compact().unwrap();
    put(&rows, 5_000..6_200);
    rows.flush().unwrap();
    assert_eq!(sealed(&store, &rows), (vec![3_300, 1_200], true), "a seal beside what was merged");
    // A small one comes to a large one, which keeps its space.
    rows.compact().unwrap();
    put(&rows, 7_000..8_200);
    rows.flush().unwrap();
    assert_eq!(sealed(&store, &rows), (vec![4_500, 1_200], true), "a seal beside what was merged again");
    rows.rebuild(RebuildOptions::new().m(9)).unwrap();
    assert_eq!(sealed(&store, &rows), (vec![4_500, 1_200], true), "a rebuild");

    let (store, rows) = self::store();
    let mut load = rows.bulk_load().unwrap();
    (0..3_900).for_each(|key| load.push(key, &vector(key), ()).unwrap());
    load.finish().unwrap();
    assert_eq!(sealed(&store, &rows), (vec![1_300; 3], true), "a bulk load");
}

#[test]
fn segments_of_much_the_same_size_are_walked_together_and_the_others_alone() {
    let (store, rows) = store();
    put(&rows, 0..1_200);
    rows.flush().unwrap();
    put(&rows, 2_000..3_200);
    rows.flush().unwrap();
    put(&rows, 4_000..5_200);
    rows.flush().unwrap();
    put(&rows, 6_000..7_200);
    rows.flush().unwrap();
    rows.compact().unwrap();
    for first in [10_000, 12_000, 14_000] {
        put(&rows, first..first + 1_100);
        rows.flush().unwrap();
    }
    // Too few for inline rows, and some that are in memory.
    put(&rows, 20_000..20_300);
    rows.flush().unwrap();
    put(&rows, 30_000..30_010);
    let view = store.handle.engine.core.view.load_full();
    let segments: Vec<Segment<'_>> =
        view.lists.collections[&rows.id].segments().filter(|it| it.rows() > 0).collect();
    let sizes = |exact: bool| {
        let options = SearchOptions { limit: 10, ef: 32, exact, at: Lsn::MAX, accept: &AcceptAll };
        let (alone, groups) = walked_together(&segments, &options);
        let sizes = |group: &Group<'_>| group.iter().map(|one| one.0.rows()).collect::<Vec<_>>();
        let parts: f32 = groups.iter().flatten().map(|one| one.1).sum();
        (
            alone.iter().map(|it| it.rows()).collect::<Vec<_>>(),
            groups.iter().map(sizes).collect::<Vec<_>>(),
            parts,
        )
    };
    let (alone, groups, parts) = sizes(false);
    assert_eq!((alone, groups), (vec![10, 300], vec![vec![4_800], vec![1_100; 3]]));
    assert!((parts - 8_100.0 / 8_410.0).abs() < 1e-4, "{parts}");
    assert_eq!(sizes(true).0.len(), 6, "exact searches walk nowhere");
    for key in [5, 4_100, 10_007, 14_999, 20_299, 30_004] {
        let hits = rows.search(&vector(key)).limit(5).ef(64).run().unwrap();
        assert_eq!((hits.len(), hits[0].key().as_u64(), hits[0].distance()), (5, Some(key), 0.0));
    }
}
