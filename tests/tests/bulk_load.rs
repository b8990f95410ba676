//! Bulk loads: what becomes of keys that are there, what readers see, what is left after errors, and what other writers
//! may do meanwhile.

use nearstone::random::SplitMix64;
use nearstone::vfs::{CrashChoice, SimVfs, Vfs};
use nearstone::{
    Background, BulkLoaded, Collection, ErrorKind, KeyType, Metric, OnCollision, Schema, Step, Store,
};
use nearstone_tests::disks::Around;
use nearstone_tests::stop::Stop;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

fn schema() -> Schema {
    Schema::new(2, Metric::L2).m(4).ef_construction(16)
}

fn open(disk: &SimVfs) -> Store {
    let vfs = Arc::new(disk.clone());
    Store::builder().vfs(vfs).background(Background::Manual).auto_compact(false).open("/store").unwrap()
}

/// A store on a simulated disk, with an empty collection.
fn begin() -> (SimVfs, Store, Collection) {
    let disk = SimVfs::new(1);
    let store = open(&disk);
    let rows = store.create_collection("rows", schema()).unwrap();
    (disk, store, rows)
}

/// Loads rows whose second number is `mark`.
fn load(
    rows: &Collection,
    keys: impl IntoIterator<Item = u64>,
    mark: f32,
    policy: OnCollision,
) -> nearstone::Result<BulkLoaded> {
    let mut load = rows.bulk_load()?.on_collision(policy);
    for key in keys {
        load.push(key, &[key as f32, mark], serde_json::json!({ "mark": mark }))?;
    }
    load.finish()
}

/// Key -> mark and version.
fn marks(rows: &Collection) -> BTreeMap<u64, (f32, u64)> {
    let now = rows.now().unwrap();
    let keys = now.keys().unwrap().map(|key| key.unwrap().as_u64().unwrap());
    keys.map(|key| {
        let row = now.get(key).unwrap().unwrap();
        assert_eq!(row.vector()[0], key as f32);
        (key, (row.vector()[1], row.version()))
    })
    .collect()
}

/// Names in the folder of segments.
fn files(disk: &SimVfs) -> Vec<String> {
    let files = disk.files().into_iter().filter(|(path, _)| path.starts_with("store/segments"));
    files.map(|(path, _)| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
}

/// The store names as many segments as there are files, and all is sound.
fn no_litter(disk: &SimVfs, store: &Store) {
    let stats = store.stats().unwrap();
    let named: usize = stats.collections.iter().map(|c| c.segments.len()).sum();
    assert_eq!(files(disk).len(), named, "{:?}", files(disk));
    store.verify().unwrap();
}

#[test]
fn rows_are_there_whole_searchable_durable_and_of_one_version() {
    let disk = SimVfs::new(1);
    let store = Store::builder()
        .vfs(Arc::new(disk.clone()))
        .background(Background::Manual)
        .seal_rows(100)
        .open("/store")
        .unwrap();
    let schema = Schema::new(8, Metric::Cosine).keys(KeyType::Str).m(8).ef_construction(32);
    let rows = store.create_collection("rows", schema).unwrap();
    rows.upsert("before", &[1.0; 8], ()).unwrap();
    let mut rng = SplitMix64::new(3);
    let vectors: Vec<Vec<f32>> =
        (0..450).map(|_| (0..8).map(|_| rng.unit_f64() as f32 - 0.5).collect()).collect();
    let logged = store.stats().unwrap().log.unwrap().bytes;
    let mut load = rows.bulk_load().unwrap();
    assert!(load.is_empty());
    for (number, vector) in vectors.iter().enumerate() {
        load.push(format!("row {number}"), vector, serde_json::json!({ "number": number })).unwrap();
        assert_eq!(rows.len().unwrap(), 1, "a row is seen before the load is finished");
    }
    assert_eq!(load.len(), 450);
    let loaded = load.finish().unwrap();
    assert_eq!(loaded, BulkLoaded { lsn: 2, inserted: 450, replaced: 0, kept: 0 });
    assert!(store.stats().unwrap().log.unwrap().bytes - logged < 200, "rows went through the log");
    let stats = store.stats().unwrap().collections.remove(0);
    assert_eq!((stats.rows, stats.unsealed_rows, stats.segments.len()), (451, 0, 6));
    let check = |store: &Store, rows: &Collection| {
        store.verify().unwrap();
        assert_eq!(rows.get("before").unwrap().unwrap().version(), 1);
        for (number, vector) in vectors.iter().enumerate() {
            let row = rows.get(format!("row {number}")).unwrap().unwrap();
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(row.vector()), bits(vector));
            assert_eq!(row.payload_json(), format!("{{\"number\":{number}}}"));
            assert_eq!(row.version(), 2);
            let hit = rows.search(vector).limit(1).ef(64).run().unwrap().remove(0);
            assert_eq!(hit.key().as_str().unwrap(), format!("row {number}"));
            assert_eq!(hit.version(), 2);
        }
        assert_eq!(rows.len().unwrap(), 451);
    };
    check(&store, &rows);
    for choice in [CrashChoice::DurableOnly, CrashChoice::KeepAll] {
        let image = disk.crash_image(choice);
        let store = open(&image);
        check(&store, &store.collection("rows").unwrap());
        no_litter(&image, &store);
    }
    // Versions come through a merge, which writes each of them down.
    rows.compact().unwrap();
    check(&store, &rows);
    store.backup("/copy").unwrap();
    let copy = Store::builder().vfs(Arc::new(disk)).background(Background::Manual).open("/copy").unwrap();
    check(&copy, &copy.collection("rows").unwrap());
}

/// Keys: 0 lives in a sealed segment, 1 in another one, 2 died in one, 3 died there and is back in memory, 4 died there and
/// is back in a sealed one, 5 is in memory, 6 died in memory, 7 was replaced in memory, 8 was deleted in memory and
/// is sealed, 9 was never there.
fn every_state(rows: &Collection) -> BTreeSet<u64> {
    let put = |key: u64| assert!(rows.upsert(key, &[key as f32, 0.0], ()).is_ok());
    [0, 2, 3, 4, 8].into_iter().for_each(put);
    rows.flush().unwrap();
    [1].into_iter().for_each(put);
    rows.delete(2u64).unwrap();
    rows.delete(3u64).unwrap();
    rows.delete(4u64).unwrap();
    rows.flush().unwrap();
    [4].into_iter().for_each(put);
    rows.flush().unwrap();
    [3, 5, 6, 7, 7].into_iter().for_each(put);
    rows.delete(6u64).unwrap();
    rows.delete(8u64).unwrap();
    BTreeSet::from([0, 1, 3, 4, 5, 7])
}

#[test]
fn each_policy_deals_with_keys_in_every_state() {
    for policy in [OnCollision::Replace, OnCollision::Keep] {
        let (disk, store, rows) = begin();
        let there = every_state(&rows);
        let before = marks(&rows);
        assert!(before.keys().eq(&there));
        let snapshot = store.snapshot();
        let loaded = load(&rows, 0..10, 1.0, policy).unwrap();
        assert_eq!(loaded.lsn, snapshot.lsn() + 1);
        let counts = if policy == OnCollision::Replace { (4, 6, 0) } else { (4, 0, 6) };
        assert_eq!((loaded.inserted, loaded.replaced, loaded.kept), counts);
        let expected: BTreeMap<u64, (f32, u64)> = (0..10)
            .map(|key| match before.get(&key) {
                Some(row) if policy == OnCollision::Keep => (key, *row),
                _ => (key, (1.0, loaded.lsn)),
            })
            .collect();
        assert_eq!(marks(&rows), expected, "{policy:?}");
        // Who looks at the moment before sees neither the loaded rows nor that others were replaced.
        let reads = rows.at(&snapshot).unwrap();
        assert_eq!(reads.len(), 6);
        for key in 0..10u64 {
            let seen = reads.get(key).unwrap().map(|row| (row.vector()[1], row.version()));
            assert_eq!(seen.as_ref(), before.get(&key), "{policy:?}, key {key}");
            let hits = reads.search(&[key as f32, 1.0]).limit(10).run().unwrap();
            assert!(hits.len() == 6 && hits.iter().all(|hit| there.contains(&hit.key().as_u64().unwrap())));
        }
        drop(snapshot);
        no_litter(&disk, &store);
        // All of it again after a power loss, after a merge, and after a power loss after that.
        for choice in [CrashChoice::DurableOnly, CrashChoice::KeepAll] {
            let image = disk.crash_image(choice);
            let store = open(&image);
            let rows = store.collection("rows").unwrap();
            assert_eq!(store.snapshot().lsn(), loaded.lsn);
            assert_eq!(marks(&rows), expected, "{policy:?}, {choice:?}");
            no_litter(&image, &store);
            rows.compact().unwrap();
            assert_eq!(marks(&rows), expected, "{policy:?}, {choice:?}, compacted");
            let image = image.crash_image(CrashChoice::DurableOnly);
            assert_eq!(marks(&open(&image).collection("rows").unwrap()), expected);
        }
        // Loaded rows are rows like others.
        rows.upsert(0u64, &[0.0, 2.0], ()).unwrap();
        rows.delete(9u64).unwrap();
        assert_eq!(load(&rows, [0, 9], 3.0, policy).unwrap().inserted, 1);
        let now = marks(&rows);
        assert_eq!(now[&0].0, if policy == OnCollision::Replace { 3.0 } else { 2.0 });
        assert_eq!(now[&9].0, 3.0);
    }
}

#[test]
fn a_refused_load_names_a_key_and_changes_nothing() {
    let (disk, store, rows) = begin();
    every_state(&rows);
    let before = marks(&rows);
    let lsn = store.snapshot().lsn();
    for key in before.keys() {
        let error = load(&rows, [100, *key, 101], 1.0, OnCollision::Refuse).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        assert!(
            error.to_string().contains(&format!("{key}")) && error.to_string().contains("1 of the 3"),
            "{error}"
        );
        assert_eq!((marks(&rows), store.snapshot().lsn()), (before.clone(), lsn));
    }
    no_litter(&disk, &store);
    let loaded = load(&rows, [2, 6, 8, 9], 1.0, OnCollision::Refuse).unwrap();
    assert_eq!((loaded.lsn, loaded.inserted), (lsn + 1, 4));
    assert_eq!(rows.len().unwrap(), 10);
}

#[test]
fn rows_that_are_refused_leave_the_load_as_it_was() {
    let (_, _, rows) = begin();
    let store = Store::in_memory().unwrap();
    let strings =
        store.create_collection("strings", Schema::new(2, Metric::Cosine).keys(KeyType::Str)).unwrap();
    let mut load = rows.bulk_load().unwrap();
    load.push(1u64, &[1.0, 0.0], ()).unwrap();
    let refused = |result: nearstone::Result<()>, words: &[&str]| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
    };
    refused(load.push(1u64, &[2.0, 0.0], ()), &["1", "given already"]);
    refused(load.push(2u64, &[1.0], ()), &["1 numbers", "2"]);
    refused(load.push(2u64, &[1.0, f32::NAN], ()), &["NaN"]);
    refused(load.push("two", &[1.0, 1.0], ()), &["two"]);
    refused(load.push(2u64, &[1.0, 1.0], 7), &["7", "object"]);
    refused(load.push(2u64, &[1.0, 1.0], serde_json::json!({ "x": "y".repeat(1 << 20) })), &["1048576"]);
    assert_eq!(load.len(), 1);
    load.push(2u64, &[2.0, 0.0], ()).unwrap();
    assert_eq!(load.finish().unwrap().inserted, 2);
    assert_eq!(rows.get(1u64).unwrap().unwrap().vector(), [1.0, 0.0]);
    let mut load = strings.bulk_load().unwrap();
    refused(load.push("zero", &[0.0, 0.0], ()), &["zero"]);
    refused(load.push("k".repeat(513), &[1.0, 0.0], ()), &["513", "512"]);
    refused(strings.bulk_load().unwrap().threads(0).push("k", &[1.0, 0.0], ()), &["0 threads"]);
}

#[test]
fn a_key_given_twice_is_found_in_segments_that_are_written_already() {
    let store = Store::builder().background(Background::Manual).seal_rows(10).in_memory().unwrap();
    let rows = store.create_collection("rows", schema()).unwrap();
    let mut load = rows.bulk_load().unwrap();
    for key in 0..35u64 {
        load.push(key, &[key as f32, 0.0], ()).unwrap();
    }
    for key in 0..35u64 {
        let error = load.push(key, &[0.0, 0.0], ()).unwrap_err().to_string();
        assert!(error.contains(&format!("{key}")), "{error}");
    }
    assert_eq!(load.finish().unwrap().inserted, 35);
    assert_eq!(rows.len().unwrap(), 35);
}

#[test]
fn an_empty_load_takes_no_lsn() {
    let (_, store, rows) = begin();
    rows.upsert(1u64, &[1.0, 0.0], ()).unwrap();
    let loaded = rows.bulk_load().unwrap().finish().unwrap();
    assert_eq!(loaded, BulkLoaded { lsn: 1, inserted: 0, replaced: 0, kept: 0 });
    assert_eq!(store.snapshot().lsn(), 1);
    // One of which all is left out does, and leaves no file.
    let loaded = load(&rows, [1], 1.0, OnCollision::Keep).unwrap();
    assert_eq!(loaded, BulkLoaded { lsn: 2, inserted: 0, replaced: 0, kept: 1 });
    assert_eq!((marks(&rows)[&1], store.snapshot().lsn()), ((0.0, 1), 2));
    assert_eq!(store.stats().unwrap().collections[0].segments.len(), 1);
    rows.upsert(2u64, &[2.0, 0.0], ()).unwrap();
}

#[test]
fn what_is_dropped_or_cancelled_leaves_nothing() {
    let disk = SimVfs::new(1);
    let store = Store::builder()
        .vfs(Arc::new(disk.clone()))
        .background(Background::Manual)
        .seal_rows(10)
        .open("/store")
        .unwrap();
    let rows = store.create_collection("rows", schema()).unwrap();
    rows.upsert(1u64, &[1.0, 0.0], ()).unwrap();
    rows.flush().unwrap();
    let before = (marks(&rows), files(&disk));
    let fill = |load: &mut nearstone::BulkLoad<'_>| -> nearstone::Result<()> {
        (0..25u64).try_for_each(|key| load.push(key, &[key as f32, 1.0], ()))
    };
    let mut load = rows.bulk_load().unwrap();
    fill(&mut load).unwrap();
    assert!(files(&disk).len() > before.1.len());
    drop(load);
    assert_eq!((marks(&rows), files(&disk)), before);
    // Cancelled at each report there is.
    let mut reports = 0;
    let mut count = |step: Step| {
        assert!(["link", "write"].contains(&step.phase) && step.done <= step.total);
        reports += 1;
        ControlFlow::Continue(())
    };
    let mut load = rows.bulk_load().unwrap().progress(&mut count);
    fill(&mut load).unwrap();
    drop(load);
    assert!(reports > 5, "{reports}");
    for stop in 0..reports {
        let mut left = stop;
        let mut progress = |_: Step| {
            if left == 0 {
                return ControlFlow::Break(());
            }
            left -= 1;
            ControlFlow::Continue(())
        };
        let mut load = rows.bulk_load().unwrap().progress(&mut progress);
        let error = fill(&mut load).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
        // Some of its rows are gone: it must not go on as if nothing were.
        let error = load.push(99u64, &[0.0, 0.0], ()).unwrap_err();
        assert!(error.to_string().contains("ended"), "{error}");
        assert!(load.finish().is_err());
        assert_eq!((marks(&rows), files(&disk)), before, "cancelled at report {stop}");
    }
    store.verify().unwrap();
}

#[test]
fn a_load_ends_with_its_collection_and_its_store() {
    let (disk, store, rows) = begin();
    let mut first = rows.bulk_load().unwrap();
    first.push(1u64, &[1.0, 1.0], ()).unwrap();
    let mut renamed = store.create_collection("old", schema()).unwrap().bulk_load().unwrap();
    renamed.push(1u64, &[1.0, 1.0], ()).unwrap();
    store.rename_collection("old", "new").unwrap();
    assert_eq!(renamed.finish().unwrap().inserted, 1);
    assert_eq!(store.collection("new").unwrap().len().unwrap(), 1);

    store.drop_collection("rows").unwrap();
    // One of that name is another one.
    let other = store.create_collection("rows", schema()).unwrap();
    assert_eq!(first.push(2u64, &[1.0, 1.0], ()).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(first.finish().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(rows.bulk_load().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(other.len().unwrap(), 0);
    no_litter(&disk, &store);

    let mut load = other.bulk_load().unwrap();
    load.push(1u64, &[1.0, 1.0], ()).unwrap();
    store.close().unwrap();
    assert_eq!(load.push(2u64, &[1.0, 1.0], ()).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(load.finish().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(other.bulk_load().unwrap_err().kind(), ErrorKind::Closed);
    drop((store, other, rows));
    let reader = Store::builder().vfs(Arc::new(disk)).read_only(true).open("/store").unwrap();
    let rows = reader.collection("rows").unwrap();
    assert_eq!(rows.bulk_load().unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(rows.len().unwrap(), 0);
}

/// Between the look-ups and the moment at which nobody writes, others may write: what they wrote then must collide as
/// well. The disk acts when the load has the rows in memory sealed, which is after it froze them: the first file to get its
/// name is the load's own, the second one holds these rows.
#[test]
fn what_is_written_while_keys_are_looked_up_collides() {
    for policy in [OnCollision::Replace, OnCollision::Keep, OnCollision::Refuse] {
        let late: Arc<Mutex<Option<Collection>>> = Arc::default();
        let acted = Arc::new(AtomicU64::new(0));
        let disk = SimVfs::new(1);
        let watched = {
            let (late, acted) = (late.clone(), acted.clone());
            Around::watched(disk.clone(), move |call, path: &Path| {
                if call != "rename"
                    || late.lock().unwrap().is_none()
                    || acted.fetch_add(1, Ordering::Relaxed) == 0
                {
                    return;
                }
                let Some(rows) = late.lock().unwrap().take() else { return };
                assert!(path.extension().is_some_and(|extension| extension == "seg"));
                // 1 is replaced, 2 is deleted, 3 is new, 4 comes and goes.
                rows.upsert(1u64, &[1.0, 7.0], ()).unwrap();
                rows.delete(2u64).unwrap();
                rows.upsert(3u64, &[3.0, 7.0], ()).unwrap();
                rows.upsert(4u64, &[4.0, 7.0], ()).unwrap();
                rows.delete(4u64).unwrap();
            })
        };
        let store =
            Store::builder().vfs(Arc::new(watched)).background(Background::Manual).open("/store").unwrap();
        let rows = store.create_collection("rows", schema()).unwrap();
        rows.upsert(1u64, &[1.0, 0.0], ()).unwrap();
        rows.upsert(2u64, &[2.0, 0.0], ()).unwrap();
        let mut load = rows.bulk_load().unwrap().on_collision(policy);
        (1..6u64).try_for_each(|key| load.push(key, &[key as f32, 1.0], ())).unwrap();
        rows.flush().unwrap();
        rows.upsert(9u64, &[9.0, 0.0], ()).unwrap();
        *late.lock().unwrap() = Some(rows.clone());
        let loaded = load.finish();
        assert_eq!(acted.load(Ordering::Relaxed), 2);
        match policy {
            OnCollision::Refuse => {
                assert_eq!(loaded.unwrap_err().kind(), ErrorKind::AlreadyExists);
                assert_eq!(marks(&rows).keys().copied().collect::<Vec<_>>(), [1, 3, 9]);
            }
            _ => {
                let loaded = loaded.unwrap();
                assert_eq!((loaded.inserted, loaded.replaced + loaded.kept), (3, 2), "{policy:?}");
                let mark = if policy == OnCollision::Replace { 1.0 } else { 7.0 };
                let found: BTreeMap<u64, f32> =
                    marks(&rows).into_iter().map(|(key, row)| (key, row.0)).collect();
                assert_eq!(
                    found,
                    BTreeMap::from([(1, mark), (2, 1.0), (3, mark), (4, 1.0), (5, 1.0), (9, 0.0)])
                );
            }
        }
        store.verify().unwrap();
        let image = disk.crash_image(CrashChoice::DurableOnly);
        let again = open(&image);
        assert_eq!(marks(&again.collection("rows").unwrap()), marks(&rows));
        no_litter(&image, &again);
    }
}

/// Writers that write and delete keys of a load while it runs, with seals and compactions behind. Each remembers in which
/// order its own batches were committed; what is there afterwards is what the order of lsns says.
#[test]
fn writers_and_loads_of_the_same_keys_are_in_the_order_of_their_lsns() {
    const KEYS: u64 = 60;
    for round in 0..4 {
        let policy = if round % 2 == 0 { OnCollision::Replace } else { OnCollision::Keep };
        let disk = SimVfs::new(round);
        let store = Store::builder()
            .vfs(Arc::new(disk.clone()))
            .background(Background::Threads(1))
            .seal_rows(40)
            .dead_share(0.1)
            .open("/store")
            .unwrap();
        let rows = store.create_collection("rows", schema()).unwrap();
        let stop = AtomicBool::new(false);
        // By lsn: what was written under which key; `None` for a delete.
        let log: Mutex<BTreeMap<u64, (u64, Option<f32>)>> = Mutex::default();
        let loads: Mutex<Vec<(BulkLoaded, f32)>> = Mutex::default();
        std::thread::scope(|scope| {
            let _stop = Stop(&stop);
            for writer in 0..2u64 {
                let (store, rows, stop, log) = (&store, &rows, &stop, &log);
                scope.spawn(move || {
                    let mut rng = SplitMix64::new(round * 10 + writer);
                    while !stop.load(Ordering::Relaxed) {
                        let key = rng.below(KEYS);
                        let mark = (rng.below(3) > 0).then(|| 100.0 + rng.below(1000) as f32);
                        let mut batch = store.batch();
                        match mark {
                            Some(mark) => batch.upsert(rows, key, &[key as f32, mark], ()).unwrap(),
                            None => batch.delete(rows, key).unwrap(),
                        };
                        let commit = batch.commit().unwrap();
                        assert!(log.lock().unwrap().insert(commit.lsn, (key, mark)).is_none());
                    }
                });
            }
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // A snapshot keeps what it sees.
                    let snapshot = store.snapshot();
                    let reads = rows.at(&snapshot).unwrap();
                    let first: Vec<_> = (0..KEYS).map(|key| reads.get(key).unwrap()).collect();
                    std::thread::yield_now();
                    let second: Vec<_> = (0..KEYS).map(|key| reads.get(key).unwrap()).collect();
                    assert_eq!(format!("{first:?}"), format!("{second:?}"));
                    assert_eq!(reads.len(), first.iter().flatten().count() as u64);
                }
            });
            for number in 0..4 {
                let mark = number as f32;
                let loaded = load(&rows, 0..KEYS, mark, policy).unwrap();
                assert_eq!(loaded.inserted + loaded.replaced + loaded.kept, KEYS);
                loads.lock().unwrap().push((loaded, mark));
            }
        });
        let (log, loads) = (log.into_inner().unwrap(), loads.into_inner().unwrap());
        let last = store.snapshot().lsn();
        let mut model: BTreeMap<u64, (f32, u64)> = BTreeMap::new();
        for lsn in 1..=last {
            if let Some((loaded, mark)) = loads.iter().find(|(loaded, _)| loaded.lsn == lsn) {
                let there = model.len() as u64;
                let (replaced, kept) = if policy == OnCollision::Replace { (there, 0) } else { (0, there) };
                assert_eq!(*loaded, BulkLoaded { lsn, inserted: KEYS - there, replaced, kept });
                for key in 0..KEYS {
                    let row = model.entry(key).or_insert((*mark, lsn));
                    if policy == OnCollision::Replace {
                        *row = (*mark, lsn);
                    }
                }
                continue;
            }
            let (key, mark) = log.get(&lsn).unwrap_or_else(|| panic!("nobody wrote lsn {lsn} of {last}"));
            match mark {
                Some(mark) => drop(model.insert(*key, (*mark, lsn))),
                None => drop(model.remove(key)),
            }
        }
        assert_eq!(marks(&rows), model, "round {round}");
        store.verify().unwrap();
        let image = disk.crash_image(CrashChoice::DurableOnly);
        let again = open(&image);
        assert_eq!(marks(&again.collection("rows").unwrap()), model, "round {round}, after a power loss");
        no_litter(&image, &again);
    }
}

/// A merge that began before a load knows nothing of it; the rows that the load replaced must not come back with it.
#[test]
fn a_compaction_under_way_takes_the_deaths_of_a_load_along() {
    let pending: Arc<Mutex<Option<Collection>>> = Arc::default();
    let disk = SimVfs::new(1);
    let watched = {
        let pending = pending.clone();
        Around::watched(disk.clone(), move |call, _: &Path| {
            let Some(rows) = (call == "rename").then(|| pending.lock().unwrap().take()).flatten() else {
                return;
            };
            // The merged file is about to get its name.
            assert_eq!(load(&rows, 5..15, 1.0, OnCollision::Replace).unwrap().replaced, 10);
        })
    };
    let store =
        Store::builder().vfs(Arc::new(watched)).background(Background::Manual).open("/store").unwrap();
    let rows = store.create_collection("rows", schema()).unwrap();
    for key in 0..20u64 {
        rows.upsert(key, &[key as f32, 0.0], ()).unwrap();
        if key == 9 {
            rows.flush().unwrap();
        }
    }
    rows.flush().unwrap();
    *pending.lock().unwrap() = Some(rows.clone());
    rows.compact().unwrap();
    assert!(pending.lock().unwrap().is_none());
    let expected = |rows: &Collection| {
        let found: Vec<f32> = marks(rows).into_values().map(|row| row.0).collect();
        let right: Vec<f32> = (0..20).map(|key| if (5..15).contains(&key) { 1.0 } else { 0.0 }).collect();
        assert_eq!(found, right);
    };
    expected(&rows);
    store.verify().unwrap();
    for choice in [CrashChoice::DurableOnly, CrashChoice::KeepAll] {
        let store = open(&disk.crash_image(choice));
        expected(&store.collection("rows").unwrap());
        store.verify().unwrap();
    }
}

/// Salvage knows the rows of a load with a catalog and without one.
#[test]
fn loaded_rows_are_salvaged() {
    let (disk, store, rows) = begin();
    for key in 0..10u64 {
        rows.upsert(key, &[key as f32, 0.0], ()).unwrap();
    }
    load(&rows, 5..40, 1.0, OnCollision::Replace).unwrap();
    rows.upsert(6u64, &[6.0, 2.0], ()).unwrap();
    rows.flush().unwrap();
    let expected: BTreeMap<u64, f32> = marks(&rows).into_iter().map(|(key, row)| (key, row.0)).collect();
    store.close().unwrap();
    for catalog in [true, false] {
        let image = disk.crash_image(CrashChoice::KeepAll);
        if !catalog {
            image.overwrite(Path::new("store/catalog"), b"gone");
        }
        let vfs: Arc<dyn Vfs> = Arc::new(image);
        let (from, into) = (Path::new("/store"), Path::new("/saved"));
        let report = Store::salvage_on(&vfs, from, into, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!((report.catalog, report.lost_rows), (catalog, 0), "{report:?}");
        let saved = Store::builder().vfs(vfs).background(Background::Manual).open(into).unwrap();
        let name = saved.collections().unwrap().remove(0);
        let found = marks(&saved.collection(&name).unwrap());
        assert_eq!(found.into_iter().map(|(key, row)| (key, row.0)).collect::<BTreeMap<_, _>>(), expected);
    }
}

/// The log serves all collections: a load into one of them must not let go of what another one needs.
#[test]
fn rows_of_other_collections_stay_in_the_log() {
    let (disk, store, rows) = begin();
    let other = store.create_collection("other", schema()).unwrap();
    other.upsert(1u64, &[1.0, 0.0], ()).unwrap();
    load(&rows, 0..50, 1.0, OnCollision::Replace).unwrap();
    rows.upsert(0u64, &[0.0, 2.0], ()).unwrap();
    other.upsert(2u64, &[2.0, 0.0], ()).unwrap();
    load(&rows, 50..60, 1.0, OnCollision::Replace).unwrap();
    let image = disk.crash_image(CrashChoice::DurableOnly);
    let store = open(&image);
    assert_eq!(store.collection("other").unwrap().len().unwrap(), 2);
    let rows = store.collection("rows").unwrap();
    assert_eq!((rows.len().unwrap(), marks(&rows)[&0].0), (60, 2.0));
}

/// Rows of a load are linked with narrow beams, since their graph is refined when it is written. Where it is not, because
/// half precision does not tell these rows apart, it has to be as good as that of rows that were written one by one.
#[test]
fn a_graph_that_is_not_refined_is_built_anew() {
    const DIMENSION: usize = 48;
    let store = Store::builder().background(Background::Manual).in_memory().unwrap();
    for (name, offset, inline) in [("one place", 0.0, true), ("two far places", 20_000.0, false)] {
        let mut rng = SplitMix64::new(7);
        let vectors: Vec<Vec<f32>> = (0..1_500)
            .map(|row| {
                let centre = if row % 2 == 0 { offset } else { -offset };
                (0..DIMENSION).map(|_| centre + rng.unit_f64() as f32).collect()
            })
            .collect();
        let found = ["loaded", "written"].map(|how| {
            let name = format!("{name}, {how}");
            let rows = store.create_collection(&name, Schema::new(DIMENSION, Metric::L2)).unwrap();
            if how == "loaded" {
                let mut load = rows.bulk_load().unwrap();
                (0u64..).zip(&vectors).for_each(|(key, vector)| load.push(key, vector, ()).unwrap());
                load.finish().unwrap();
            } else {
                rows.upsert_many((0u64..).zip(&vectors).map(|(key, vector)| (key, vector, ()))).unwrap();
                rows.flush().unwrap();
            }
            let stats = store.stats().unwrap().collections.into_iter().find(|c| c.name == name).unwrap();
            let has_inline = stats.segments[0].sections.iter().any(|(section, _)| section == "inline_rows");
            assert_eq!(has_inline, inline, "{name}");
            let mut found = 0;
            for query in vectors.iter().step_by(15) {
                let hits = |exact| -> Vec<u64> {
                    let hits = rows.search(query).limit(10).ef(64).exact(exact).run().unwrap();
                    hits.iter().map(|hit| hit.key().as_u64().unwrap()).collect()
                };
                let truth = hits(true);
                found += hits(false).iter().filter(|key| truth.contains(key)).count();
            }
            found
        });
        assert!(found[0] + 20 >= found[1], "{name}: of 1000, {found:?} were found");
        assert!(!inline || found[0] >= 900, "{name}: {found:?}");
    }
    store.verify().unwrap();
}
