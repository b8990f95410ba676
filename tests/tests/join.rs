//! Compactions large enough to join graphs: cancelled, and with rows that die meanwhile.

use nearstone::{ErrorKind, Metric, Schema, Store};
use nearstone_datasets::{Generator, Shape};
use std::ops::ControlFlow;

const DIMENSION: usize = 64;
const HALF: u64 = 1_200;

/// A store of two sealed halves, and where it is.
fn halves(folder: &std::path::Path) -> (Store, std::path::PathBuf, Vec<f32>) {
    let path = folder.join("store");
    let store = Store::builder().auto_compact(false).open(&path).unwrap();
    let rows = store.create_collection("rows", Schema::new(DIMENSION, Metric::L2)).unwrap();
    let numbers = Generator::new(Shape::Manifold { latent: 8 }, DIMENSION, 3).rows(0, 2 * HALF as usize);
    for half in [0..HALF, HALF..2 * HALF] {
        let vector = |key: u64| &numbers[key as usize * DIMENSION..][..DIMENSION];
        rows.upsert_many(half.map(|key| (key, vector(key), ()))).unwrap();
        rows.flush().unwrap();
    }
    (store, path, numbers)
}

/// Linking from nothing reads keys and vectors only; joining reads graphs as well, and once gave up for ever where they
/// were damaged.
#[test]
fn a_compaction_heals_a_segment_whose_graph_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let (store, path, numbers) = halves(folder.path());
    store.close().unwrap();
    let segment = std::fs::read_dir(path.join("segments")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&segment).unwrap();
    // Inline rows are the last thing of any size: 640 bytes of each of 1,200 rows.
    let place = bytes.len() - 300_000;
    bytes[place] ^= 1;
    std::fs::write(&segment, bytes).unwrap();

    let store = Store::builder().auto_compact(false).open(&path).unwrap();
    assert_eq!(store.verify().unwrap_err().kind(), ErrorKind::Corruption);
    let rows = store.collection("rows").unwrap();
    let mut phases = Vec::new();
    rows.compact_with(&mut |step| {
        phases.push(step.phase);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(phases.contains(&"join") && phases.contains(&"link"), "{phases:?}");
    assert!(store.stats().unwrap().last_error.is_some_and(|error| error.contains("damaged")));
    store.verify().unwrap();
    assert_eq!(std::fs::read_dir(path.join("segments")).unwrap().count(), 1);
    for key in (0..2 * HALF).step_by(7) {
        let vector = &numbers[key as usize * DIMENSION..][..DIMENSION];
        assert_eq!(rows.get(key).unwrap().unwrap().vector(), vector);
    }
}

#[test]
fn a_compaction_that_joins_can_be_cancelled_and_keeps_what_dies_meanwhile_dead() {
    let folder = tempfile::tempdir().unwrap();
    let (store, path, numbers) = halves(folder.path());
    let rows = store.collection("rows").unwrap();
    let vector = |key: u64| &numbers[key as usize * DIMENSION..][..DIMENSION];
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
