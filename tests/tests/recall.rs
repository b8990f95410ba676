//! Recall of the whole path: import, seal, compaction, and again after replacing and deleting.

use nearstone::{Background, Collection, Durability, Metric, Schema, Store};
use nearstone_datasets::{Distance, Exact, Generator, RealSet, Shape, recall};

const LIMIT: usize = 10;

fn recall_of(
    collection: &Collection,
    truth: &nearstone_datasets::Truth,
    queries: &[f32],
    dimension: usize,
    ef: usize,
) -> f64 {
    let mut sum = 0.0;
    let queries: Vec<&[f32]> = queries.chunks_exact(dimension).collect();
    for (place, query) in queries.iter().enumerate() {
        let hits = collection.search(query).limit(LIMIT).ef(ef).run().unwrap();
        let ids: Vec<u32> = (0..hits.len() as u32).collect();
        sum +=
            recall::recall(truth.distances(place), &ids, LIMIT, |id| f64::from(hits[id as usize].distance()));
    }
    sum / queries.len() as f64
}

struct Case<'a> {
    metric: Metric,
    distance: Distance,
    dimension: usize,
    rows: &'a [f32],
    queries: &'a [f32],
}

/// Recall at ef 64 fresh, and after a fifth was put again and another fifth deleted.
fn fresh_and_churned(case: &Case<'_>) -> (f64, f64) {
    let store =
        Store::builder().background(Background::Threads(2)).durability(Durability::Os).in_memory().unwrap();
    let rows = store.create_collection("rows", Schema::new(case.dimension, case.metric)).unwrap();
    let row = |key: usize| &case.rows[key * case.dimension..][..case.dimension];
    let count = case.rows.len() / case.dimension;
    rows.upsert_many((0..count).map(|key| (key as u64, row(key), ()))).unwrap();
    store.compact().unwrap();
    let truth = Exact::new(case.rows, case.dimension, case.distance).search(case.queries, LIMIT);
    let fresh = recall_of(&rows, &truth, case.queries, case.dimension, 64);

    rows.upsert_many((0..count).step_by(5).map(|key| (key as u64, row(key), ()))).unwrap();
    let mut batch = store.batch();
    for key in (1..count).step_by(5) {
        batch.delete(&rows, key as u64).unwrap();
    }
    batch.commit().unwrap();
    store.compact().unwrap();
    assert_eq!(store.stats().unwrap().collections[0].dead_rows, 0);
    let alive = |key: u32| key % 5 != 1;
    let truth =
        Exact::new(case.rows, case.dimension, case.distance).accept(&alive).search(case.queries, LIMIT);
    let churned = recall_of(&rows, &truth, case.queries, case.dimension, 64);
    (fresh, churned)
}

#[test]
fn real_embeddings_reach_their_recall_and_keep_it() {
    let Some(set) = RealSet::find() else {
        eprintln!("skipped: no real embeddings here (set NEARSTONE_DATA to a folder of them)");
        return;
    };
    let (base, queries) = (set.base(12_000).unwrap(), set.queries(300).unwrap());
    let (fresh, churned) = fresh_and_churned(&Case {
        metric: Metric::Cosine,
        distance: Distance::Cosine,
        dimension: base.dimension,
        rows: &base.numbers,
        queries: &queries.numbers,
    });
    assert!(fresh >= 0.98, "{fresh}");
    assert!(churned >= fresh - 0.01, "{churned} after {fresh}");
}

#[test]
fn generated_rows_reach_their_recall_under_every_metric() {
    for (metric, distance) in [(Metric::L2, Distance::L2), (Metric::InnerProduct, Distance::InnerProduct)] {
        let generator = Generator::new(Shape::Manifold { latent: 12 }, 48, 3);
        let (fresh, churned) = fresh_and_churned(&Case {
            metric,
            distance,
            dimension: 48,
            rows: &generator.rows(0, 6000),
            queries: &generator.queries(0, 100),
        });
        assert!(fresh >= 0.95 && churned >= 0.95, "{metric:?}: {fresh}, {churned}");
    }
}
