//! Compactions large enough to join graphs: cancelled, and with rows that die meanwhile.

use nearstone::{ErrorKind, Metric, Schema, Store};
use nearstone_datasets::{Generator, Shape};
use std::ops::ControlFlow;

const DIMENSION: usize = 64;
const HALF: u64 = 1_200;

#[test]
fn a_compaction_that_joins_can_be_cancelled_and_keeps_what_dies_meanwhile_dead() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = Store::builder().auto_compact(false).open(&path).unwrap();
    let rows = store.create_collection("rows", Schema::new(DIMENSION, Metric::L2)).unwrap();
    let numbers = Generator::new(Shape::Manifold { latent: 8 }, DIMENSION, 3).rows(0, 2 * HALF as usize);
    let vector = |key: u64| &numbers[key as usize * DIMENSION..][..DIMENSION];
    for half in [0..HALF, HALF..2 * HALF] {
        rows.upsert_many(half.map(|key| (key, vector(key), ()))).unwrap();
        rows.flush().unwrap();
    }
    let files = || std::fs::read_dir(path.join("segments")).unwrap().count();
    assert_eq!(files(), 2);

    let mut phases = Vec::new();
    let cancelled = rows.compact_with(&mut |step| {
        phases.push(step.phase);
        if step.done > 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(cancelled.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(!phases.is_empty() && phases.iter().all(|&phase| phase == "join"), "{phases:?}");
    assert_eq!(files(), 2);

    let mut died = false;
    rows.compact_with(&mut |step| {
        assert!(step.done <= step.total);
        if step.phase == "join" && step.done > 0 && !std::mem::replace(&mut died, true) {
            assert!(rows.delete(7u64).unwrap() && rows.delete(HALF + 7).unwrap());
            rows.upsert(9u64, vector(10), ()).unwrap();
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(died);
    let check = |rows: &nearstone::Collection| {
        assert_eq!(rows.len().unwrap(), 2 * HALF - 2);
        for key in [7, HALF + 7] {
            let hits = rows.search(vector(key)).limit(5).run().unwrap();
            assert!(hits.iter().all(|hit| hit.distance() > 0.0));
        }
        let hits = rows.search(vector(10)).limit(2).run().unwrap();
        assert!(hits.iter().all(|hit| hit.distance() == 0.0));
    };
    check(&rows);
    store.close().unwrap();
    let store = Store::open(&path).unwrap();
    store.verify().unwrap();
    check(&store.collection("rows").unwrap());
}
