//! Collections large enough for graphs that are built in batches: bulk loads and rebuilds, cancelled, and with rows that die
//! meanwhile.

use nearstone::{Background, Collection, ErrorKind, Metric, Profile, RebuildOptions, Schema, Step, Store};
use nearstone_datasets::{Generator, Shape};
use std::ops::ControlFlow;
use std::path::Path;

const DIMENSION: usize = 64;
const ROWS: u64 = 3_000;

struct Data(Vec<f32>);

impl Data {
    fn new() -> Data {
        Data(Generator::new(Shape::Manifold { latent: 8 }, DIMENSION, 3).rows(0, ROWS as usize))
    }

    fn row(&self, key: u64) -> &[f32] {
        &self.0[key as usize * DIMENSION..][..DIMENSION]
    }

    fn load(
        &self,
        rows: &Collection,
        threads: usize,
        progress: &mut (dyn FnMut(Step) -> ControlFlow<()> + Send),
    ) -> nearstone::Result<()> {
        let mut load = rows.bulk_load()?.threads(threads).progress(progress);
        (0..ROWS).try_for_each(|key| load.push(key, self.row(key), ()))?;
        load.finish().map(drop)
    }

    /// The share of the ten nearest that searches find, from rows that live.
    fn recall(&self, rows: &Collection) -> f64 {
        let (mut found, mut wanted) = (0, 0);
        for key in (5..ROWS).step_by(31) {
            let right = rows.search(self.row(key)).limit(10).exact(true).run().unwrap();
            let hits = rows.search(self.row(key)).limit(10).ef(32).run().unwrap();
            assert_eq!(hits.len(), 10);
            found += hits.iter().filter(|hit| hit.distance() <= right[9].distance()).count();
            wanted += 10;
        }
        found as f64 / f64::from(wanted)
    }
}

fn store(folder: &Path, background: Background) -> Store {
    Store::builder().auto_compact(false).background(background).open(folder.join("store")).unwrap()
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("store/segments")).unwrap().count()
}

/// Checks that progress goes from linking to writing and never back, and cancels at the report of this number.
fn watch(reports: &mut u32, stop: u32) -> impl FnMut(Step) -> ControlFlow<()> + Send {
    let mut last = ("link", 0);
    *reports = 0;
    move |step: Step| {
        let now = (step.phase, step.done);
        assert!(step.done <= step.total && (now.0 == "write" || last.0 == "link" && now >= last), "{step:?}");
        last = now;
        *reports += 1;
        if *reports > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn loads_and_rebuilds_in_batches_find_nearly_all_and_keep_every_row() {
    let data = Data::new();
    for (metric, profile) in [
        (Metric::L2, Profile::Auto),
        (Metric::Cosine, Profile::Auto),
        (Metric::L2, Profile::Memory),
        // Linked row by row.
        (Metric::InnerProduct, Profile::Auto),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), Background::Manual);
        let schema = Schema::new(DIMENSION, metric).profile(profile);
        let rows = store.create_collection("rows", schema).unwrap();
        data.load(&rows, 2, &mut watch(&mut 0, u32::MAX)).unwrap();
        let check = |rows: &Collection, live: &dyn Fn(u64) -> bool| {
            store.verify().unwrap();
            assert_eq!(rows.len().unwrap(), (0..ROWS).filter(|&key| live(key)).count() as u64);
            for key in 0..ROWS {
                let row = rows.get(key).unwrap();
                assert_eq!(row.as_ref().map(nearstone::Row::vector), live(key).then(|| data.row(key)));
            }
            let recall = data.recall(rows);
            assert!(recall > 0.98, "{metric:?}, {profile:?}: {recall}");
        };
        check(&rows, &|_| true);
        for key in (0..ROWS).filter(|key| key % 4 == 3) {
            rows.delete(key).unwrap();
        }
        rows.flush().unwrap();
        let mut died = false;
        rows.rebuild_with(RebuildOptions::new().m(12), &mut |step| {
            if step.phase == "link" && step.done > 1_000 && !std::mem::replace(&mut died, true) {
                assert!(rows.delete(8u64).unwrap() && rows.delete(ROWS - 2).unwrap());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        assert!(died && rows.schema().links() == 12);
        check(&rows, &|key| key % 4 != 3 && key != 8 && key != ROWS - 2);
    }
}

#[test]
fn a_load_or_rebuild_in_batches_that_is_cancelled_leaves_nothing() {
    let data = Data::new();
    let folder = tempfile::tempdir().unwrap();
    // One thread, that which reports: how often it does would depend on how much others do.
    let store = store(folder.path(), Background::Manual);
    let rows = store.create_collection("rows", Schema::new(DIMENSION, Metric::Cosine)).unwrap();
    let mut all = 0;
    let other = store.create_collection("other", rows.schema()).unwrap();
    data.load(&other, 1, &mut watch(&mut all, u32::MAX)).unwrap();
    assert!(all > 50, "{all}");
    for stop in (0..all - 1).step_by(9) {
        let error = data.load(&rows, 1, &mut watch(&mut 0, stop)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
        assert_eq!((files(folder.path()), rows.len().unwrap()), (1, 0), "cancelled at report {stop}");
    }
    other.rebuild_with(RebuildOptions::new(), &mut watch(&mut all, u32::MAX)).unwrap();
    assert!(all > 50, "{all}");
    for stop in (0..all - 1).step_by(9) {
        let error = other.rebuild_with(RebuildOptions::new(), &mut watch(&mut 0, stop)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
        assert_eq!((files(folder.path()), other.len().unwrap()), (1, ROWS), "cancelled at report {stop}");
    }
    store.verify().unwrap();
}
