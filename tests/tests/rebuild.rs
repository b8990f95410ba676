//! Rebuilds: other graphs over the same rows, whatever is written, cancelled or cut short meanwhile.

use nearstone::random::SplitMix64;
use nearstone::vfs::{CrashChoice, Fate, SimVfs};
use nearstone::{
    Background, Collection, ErrorKind, Metric, OnCollision, RebuildOptions, Schema, Step, Store, StoreBuilder,
};
use nearstone_tests::disks::Around;
use nearstone_tests::stop::Stop;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

fn schema() -> Schema {
    Schema::new(2, Metric::L2).m(4).ef_construction(16)
}

fn wider() -> RebuildOptions {
    RebuildOptions::new().m(6).ef_construction(24)
}

fn options() -> StoreBuilder {
    Store::builder().background(Background::Manual).auto_compact(false)
}

fn open(disk: &SimVfs) -> Store {
    options().vfs(Arc::new(disk.clone())).open("/store").unwrap()
}

fn put(rows: &Collection, keys: impl IntoIterator<Item = u64>, mark: f32) {
    for key in keys {
        rows.upsert(key, &[key as f32, mark], serde_json::json!({ "mark": mark })).unwrap();
    }
}

/// Key -> mark and version.
fn marks(rows: &Collection) -> BTreeMap<u64, (f32, u64)> {
    let now = rows.now().unwrap();
    let keys = now.keys().unwrap().map(|key| key.unwrap().as_u64().unwrap());
    let marks: BTreeMap<u64, (f32, u64)> = keys
        .map(|key| {
            let row = now.get(key).unwrap().unwrap();
            assert_eq!(row.vector()[0], key as f32);
            assert_eq!(row.payload_json(), serde_json::json!({ "mark": row.vector()[1] }).to_string());
            (key, (row.vector()[1], row.version()))
        })
        .collect();
    let hits = now.search(&[0.0, 0.0]).limit(1000).run().unwrap();
    assert!(hits.len() == marks.len() && now.len() as usize == marks.len());
    assert!(hits.iter().all(|hit| marks.contains_key(&hit.key().as_u64().unwrap())));
    marks
}

/// The store names as many segments as there are files, and all is sound.
fn no_litter(disk: &SimVfs, store: &Store) {
    let stats = store.stats().unwrap();
    let named: usize = stats.collections.iter().map(|c| c.segments.len()).sum();
    let files: Vec<_> =
        disk.files().into_iter().filter(|(path, _)| path.starts_with("store/segments")).collect();
    assert_eq!(files.len(), named, "{files:?}");
    store.verify().unwrap();
}

/// Three sealed segments, with dead rows that the catalog knows and some that it does not, and rows in memory.
fn fill(rows: &Collection) {
    put(rows, 0..20, 0.0);
    rows.flush().unwrap();
    put(rows, 15..30, 1.0);
    rows.delete(3u64).unwrap();
    rows.flush().unwrap();
    put(rows, 100..110, 2.0);
    rows.flush().unwrap();
    rows.delete(4u64).unwrap();
    put(rows, [5, 100, 200, 201], 3.0);
}

#[test]
fn graphs_are_others_and_rows_the_same_for_all_who_look() {
    let disk = SimVfs::new(1);
    let store = open(&disk);
    let rows = store.create_collection("rows", schema()).unwrap();
    fill(&rows);
    let before = marks(&rows);
    let snapshot = store.snapshot();
    put(&rows, [6], 4.0);
    let lsn = store.snapshot().lsn();
    let now = marks(&rows);
    rows.rebuild(wider()).unwrap();
    assert_eq!(marks(&rows), now);
    assert_eq!(store.snapshot().lsn(), lsn, "a rebuild takes no lsn");
    let changed = schema().m(6).ef_construction(24);
    let check = |store: &Store| {
        let rows = store.collection("rows").unwrap();
        assert_eq!(rows.schema(), changed);
        let stats = store.stats().unwrap().collections.remove(0);
        assert_eq!((stats.schema, stats.segments.len()), (changed, 4));
        assert_eq!(marks(&rows), now);
        // Who asks for the schema that it was made with gets it as well.
        assert_eq!(store.collection_or_create("rows", schema()).unwrap().schema(), changed);
        store.verify().unwrap();
    };
    // The handle was made before.
    assert_eq!(rows.schema(), changed);
    check(&store);
    assert_eq!(store.stats().unwrap().rebuilds, 1);
    let reads = rows.at(&snapshot).unwrap();
    assert_eq!(*reads.schema(), schema());
    assert!(reads.keys().unwrap().map(|key| key.unwrap().as_u64().unwrap()).eq(before.keys().copied()));
    assert_eq!(reads.get(6u64).unwrap().unwrap().vector()[1], 0.0);
    drop((reads, snapshot));
    no_litter(&disk, &store);
    for choice in [CrashChoice::DurableOnly, CrashChoice::KeepAll] {
        let image = disk.crash_image(choice);
        let store = open(&image);
        check(&store);
        no_litter(&image, &store);
    }
    // What follows goes by the new schema: writes, seals, compactions, and a second rebuild of one parameter.
    put(&rows, 300..320, 5.0);
    rows.flush().unwrap();
    rows.compact().unwrap();
    assert_eq!(store.stats().unwrap().collections[0].segments.len(), 1);
    rows.rebuild(RebuildOptions::new().ef_construction(40)).unwrap();
    assert_eq!(rows.schema(), schema().m(6).ef_construction(40));
    let mut expected = now.clone();
    expected.extend((300..320).map(|key| (key, (5.0, lsn + 1 + key - 300))));
    assert_eq!(marks(&rows), expected);
    store.close().unwrap();
    let store = open(&disk);
    assert_eq!(marks(&store.collection("rows").unwrap()), expected);
    no_litter(&disk, &store);
}

/// Each row's links are as many as the new schema says, and searches find what they should.
#[test]
fn a_wider_graph_finds_more() {
    const DIMENSION: usize = 64;
    let store = options().in_memory().unwrap();
    let narrow = Schema::new(DIMENSION, Metric::L2).m(4).ef_construction(8);
    let rows = store.create_collection("rows", narrow).unwrap();
    let mut rng = SplitMix64::new(5);
    let mut vector = || -> Vec<f32> { (0..DIMENSION).map(|_| rng.unit_f64() as f32 - 0.5).collect() };
    rows.upsert_many((0..3_000u64).map(|key| (key, vector(), ()))).unwrap();
    rows.flush().unwrap();
    let queries: Vec<Vec<f32>> = (0..50).map(|_| vector()).collect();
    let found = || -> usize {
        let hits = |query: &[f32], exact| -> Vec<u64> {
            let hits = rows.search(query).limit(10).ef(32).exact(exact).run().unwrap();
            hits.iter().map(|hit| hit.key().as_u64().unwrap()).collect()
        };
        queries.iter().map(|q| hits(q, false).iter().filter(|key| hits(q, true).contains(key)).count()).sum()
    };
    let before = found();
    rows.rebuild(RebuildOptions::new().m(24).ef_construction(150)).unwrap();
    let after = found();
    assert!(after > before + 50, "of 500, {before} and then {after}");
    rows.rebuild(RebuildOptions::new().m(4).ef_construction(8)).unwrap();
    assert!(found() < after, "a narrow graph finds as much");
    store.verify().unwrap();
}

#[test]
fn parameters_out_of_their_ranges_are_refused() {
    let disk = SimVfs::new(1);
    let store = open(&disk);
    let rows = store.create_collection("rows", schema()).unwrap();
    fill(&rows);
    for (options, words) in [
        (RebuildOptions::new().m(3), ["m is 3", "4..=64"]),
        (RebuildOptions::new().m(65), ["m is 65", "4..=64"]),
        (RebuildOptions::new().m(17), ["ef_construction is 16", "m (17)"]),
        (RebuildOptions::new().ef_construction(3), ["ef_construction is 3", "m (4)"]),
        (RebuildOptions::new().ef_construction(10_001), ["ef_construction is 10001", "10000"]),
    ] {
        let error = rows.rebuild(options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
    }
    assert_eq!(rows.schema(), schema());
    assert_eq!(store.stats().unwrap().collections[0].unsealed_rows, 4, "nothing was done for it");
}

/// An empty collection, one of which all is dead, and one with rows in memory only.
#[test]
fn there_need_not_be_a_row() {
    let disk = SimVfs::new(1);
    let store = open(&disk);
    let empty = store.create_collection("empty", schema()).unwrap();
    let dead = store.create_collection("dead", schema()).unwrap();
    put(&dead, 0..10, 0.0);
    dead.flush().unwrap();
    (0..10u64).for_each(|key| assert!(dead.delete(key).unwrap()));
    for rows in [&empty, &dead] {
        rows.rebuild(wider()).unwrap();
        assert_eq!((rows.len().unwrap(), rows.schema().links()), (0, 6));
    }
    no_litter(&disk, &store);
    assert_eq!(store.stats().unwrap().collections[0].segments.len(), 0);
    put(&empty, 0..3, 0.0);
    for store in [store, open(&disk.crash_image(CrashChoice::KeepAll))] {
        let rows = store.collection("empty").unwrap();
        assert_eq!((rows.len().unwrap(), rows.schema().links()), (3, 6));
        rows.flush().unwrap();
        store.verify().unwrap();
    }
}

/// Writers go on while files are made: at the name of each new file the disk has somebody write. Rows are replaced and
/// deleted that were copied already, in the segment at hand, and in memory; and segments come that no one counted on.
#[test]
fn what_is_written_meanwhile_is_carried_over() {
    let pending: Arc<Mutex<Option<(Store, Collection)>>> = Arc::default();
    let disk = SimVfs::new(1);
    let model: Arc<Mutex<BTreeMap<u64, f32>>> = Arc::default();
    let watched = {
        let (pending, model) = (pending.clone(), model.clone());
        let (acting, turn) = (AtomicBool::new(false), Mutex::new(0u64));
        Around::watched(disk.clone(), move |call, path: &Path| {
            let named = call == "rename" && path.extension().is_some_and(|extension| extension == "seg");
            // Not at the names of the files that this itself has sealed.
            if !named || acting.swap(true, Ordering::Relaxed) {
                return;
            }
            if let Some((store, rows)) = &*pending.lock().unwrap() {
                let mut turn = turn.lock().unwrap();
                let mark = 10.0 + *turn as f32;
                let (replaced, deleted) = ([*turn, 16 + *turn, 104, 1000 + *turn], [8 + *turn, 24 + *turn]);
                let mut model = model.lock().unwrap();
                put(rows, replaced, mark);
                model.extend(replaced.map(|key| (key, mark)));
                for key in deleted {
                    rows.delete(key).unwrap();
                    model.remove(&key);
                }
                if *turn < 3 {
                    store.flush().unwrap();
                }
                put(rows, [1000 + *turn], mark + 0.5);
                model.insert(1000 + *turn, mark + 0.5);
                *turn += 1;
            }
            acting.store(false, Ordering::Relaxed);
        })
    };
    let store = options().vfs(Arc::new(watched)).open("/store").unwrap();
    let rows = store.create_collection("rows", schema()).unwrap();
    fill(&rows);
    rows.flush().unwrap();
    model.lock().unwrap().extend(marks(&rows).into_iter().map(|(key, row)| (key, row.0)));
    *pending.lock().unwrap() = Some((store.clone(), rows.clone()));
    rows.rebuild(wider()).unwrap();
    *pending.lock().unwrap() = None;
    let expected = model.lock().unwrap().clone();
    assert!(expected.contains_key(&1003), "the disk was to write more often");
    let check = |store: &Store| {
        let rows = store.collection("rows").unwrap();
        let found: BTreeMap<u64, f32> = marks(&rows).into_iter().map(|(key, row)| (key, row.0)).collect();
        assert_eq!((found, rows.schema().links()), (expected.clone(), 6));
    };
    check(&store);
    no_litter(&disk, &store);
    for choice in [CrashChoice::DurableOnly, CrashChoice::KeepAll] {
        let image = disk.crash_image(choice);
        let store = open(&image);
        check(&store);
        store.compact().unwrap();
        check(&store);
        no_litter(&image, &store);
    }
    // What was in memory, linked by the old parameters, is sealed by the new ones.
    store.flush().unwrap();
    check(&store);
    no_litter(&disk, &store);
}

#[test]
fn a_rebuild_that_is_cancelled_leaves_all_as_it_was() {
    let disk = SimVfs::new(1);
    let store = open(&disk);
    let rows = store.create_collection("rows", schema()).unwrap();
    fill(&rows);
    rows.flush().unwrap();
    let before = marks(&rows);
    let mut reports = 0;
    let again = |stop: usize| {
        let mut left = stop;
        let result = rows.rebuild_with(RebuildOptions::new(), &mut |step: Step| {
            assert!(["link", "write"].contains(&step.phase) && step.done <= step.total, "{step:?}");
            if left == 0 {
                return ControlFlow::Break(());
            }
            left -= 1;
            ControlFlow::Continue(())
        });
        (result, stop - left)
    };
    reports += again(usize::MAX).1;
    assert!(reports > 10, "{reports}");
    for stop in 0..reports {
        let error = again(stop).0.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
        assert_eq!(marks(&rows), before, "cancelled at report {stop}");
        no_litter(&disk, &store);
    }
    again(reports).0.unwrap();
    assert_eq!(marks(&rows), before);
    assert_eq!(store.stats().unwrap().rebuilds, 2);
}

#[test]
fn a_rebuild_ends_with_its_collection_and_its_store() {
    let disk = SimVfs::new(1);
    let store = open(&disk);
    let [rows, other] = ["rows", "other"].map(|name| store.create_collection(name, schema()).unwrap());
    fill(&rows);
    fill(&other);
    let mut first = true;
    let mut drop_it = |_: Step| {
        if std::mem::take(&mut first) {
            store.drop_collection("rows").unwrap();
        }
        ControlFlow::Continue(())
    };
    let error = rows.rebuild_with(wider(), &mut drop_it).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("dropped"), "{error}");
    no_litter(&disk, &store);
    assert_eq!(rows.rebuild(wider()).unwrap_err().kind(), ErrorKind::NotFound);
    let before = marks(&other);
    let mut close_it = |_: Step| {
        store.close().unwrap();
        ControlFlow::Continue(())
    };
    let error = other.rebuild_with(wider(), &mut close_it).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Closed | ErrorKind::Cancelled), "{error}");
    assert_eq!(other.rebuild(wider()).unwrap_err().kind(), ErrorKind::Closed);
    drop((rows, other, store));
    let store = open(&disk);
    let other = store.collection("other").unwrap();
    assert_eq!((marks(&other), other.schema()), (before, schema()));
    no_litter(&disk, &store);
    store.close().unwrap();
    let reader = options().vfs(Arc::new(disk)).read_only(true).open("/store").unwrap();
    let error = reader.collection("other").unwrap().rebuild(wider()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
}

/// Wherever the process or the power goes, all rows are there, with the old graphs or with the new ones, and the next open
/// leaves no file behind.
#[test]
fn at_every_moment_of_a_rebuild_nothing_is_lost() {
    let disk = SimVfs::new(2);
    let store = open(&disk);
    let rows = store.create_collection("rows", schema()).unwrap();
    fill(&rows);
    let expected = marks(&rows);
    disk.record();
    rows.rebuild(wider()).unwrap();
    put(&rows, [7], 0.0);
    let moments = disk.recorded();
    assert!(moments.len() > 40, "{} moments", moments.len());
    let mut seen = BTreeMap::new();
    for moment in &moments {
        let cut = moment.image(&vec![Fate::Lost; moment.pending()]);
        let kept = moment.image(&vec![Fate::Kept; moment.pending()]);
        for image in [moment.killed(), cut, kept] {
            let store = open(&image);
            let rows = store.collection("rows").unwrap();
            let mut found = marks(&rows);
            // The write that follows the rebuild.
            found.insert(7, expected[&7]);
            assert_eq!(found, expected, "before operation {}", moment.ops());
            *seen.entry(rows.schema().links()).or_insert(0) += 1;
            no_litter(&image, &store);
            rows.flush().unwrap();
            store.verify().unwrap();
        }
    }
    assert!(seen.keys().eq(&[4, 6]), "{seen:?}");
}

/// The files of a load are of the schema that the collection had when they were written. The catalog would have taken them
/// for damage.
#[test]
fn a_bulk_load_that_a_rebuild_overtakes_is_refused_and_changes_nothing() {
    let disk = SimVfs::new(1);
    let store = open(&disk);
    let rows = store.create_collection("rows", schema()).unwrap();
    let load = |overtaken: bool| {
        let mut load = rows.bulk_load().unwrap().on_collision(OnCollision::Replace);
        let push = |load: &mut nearstone::BulkLoad<'_>, key: u64| {
            load.push(key, &[key as f32, 9.0], serde_json::json!({ "mark": 9.0 })).unwrap();
        };
        push(&mut load, 1);
        if overtaken {
            rows.rebuild(RebuildOptions::new().m(5 + (rows.schema().links() - 4) % 2)).unwrap();
        }
        push(&mut load, 2);
        load.finish()
    };
    assert_eq!(load(false).unwrap().inserted, 2);
    let before = marks(&rows);
    let error = load(true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert!(error.to_string().contains("rebuilt"), "{error}");
    assert_eq!(marks(&rows), before);
    no_litter(&disk, &store);
    assert_eq!(load(false).unwrap().replaced, 2);
    // Rows of a load have one version for all, which a rebuild writes down.
    let before = marks(&rows);
    rows.rebuild(RebuildOptions::new().m(8)).unwrap();
    assert_eq!(marks(&rows), before);
    no_litter(&disk, &store);
}

/// Writers, readers and the work behind, while a collection is built anew again and again.
#[test]
fn writers_and_readers_go_on_beside_rebuilds() {
    let disk = SimVfs::new(3);
    let store = Store::builder()
        .vfs(Arc::new(disk.clone()))
        .background(Background::Threads(1))
        .seal_rows(40)
        .dead_share(0.1)
        .open("/store")
        .unwrap();
    let rows = store.create_collection("rows", schema()).unwrap();
    put(&rows, 0..200, 0.0);
    let stop = AtomicBool::new(false);
    let models: Vec<BTreeMap<u64, f32>> = std::thread::scope(|scope| {
        let stopped = Stop(&stop);
        let writers: Vec<_> = (0..2u64)
            .map(|writer| {
                let (rows, stop) = (&rows, &stop);
                scope.spawn(move || {
                    let mut rng = SplitMix64::new(writer);
                    let mut model: BTreeMap<u64, f32> =
                        (writer * 100..writer * 100 + 100).map(|key| (key, 0.0)).collect();
                    while !stop.load(Ordering::Relaxed) {
                        let (key, mark) = (writer * 100 + rng.below(100), rng.below(1000) as f32);
                        if rng.below(4) == 0 {
                            assert_eq!(rows.delete(key).unwrap(), model.remove(&key).is_some());
                        } else {
                            put(rows, [key], mark);
                            model.insert(key, mark);
                        }
                        let found = rows.get(key).unwrap().map(|row| row.vector()[1]);
                        assert_eq!(found.as_ref(), model.get(&key));
                    }
                    model
                })
            })
            .collect();
        for round in 0..6 {
            rows.rebuild(RebuildOptions::new().m(4 + round % 3)).unwrap();
            marks(&rows);
        }
        drop(stopped);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let expected: BTreeMap<u64, f32> = models.into_iter().flatten().collect();
    let found = |rows: &Collection| {
        marks(rows).into_iter().map(|(key, row)| (key, row.0)).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(found(&rows), expected);
    store.verify().unwrap();
    let image = disk.crash_image(CrashChoice::DurableOnly);
    let again = open(&image);
    assert_eq!(found(&again.collection("rows").unwrap()), expected);
    no_litter(&image, &again);
}
