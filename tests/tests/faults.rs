//! The k-th file operation fails, for every k, in every way: what was acknowledged stays, what was refused never
//! appears, reads go on, and the next open is sound.

use nearstone::random::SeededRandom;
use nearstone::vfs::{CrashChoice, SimFault, SimVfs, Vfs};
use nearstone::{
    Background, Collection, Durability, ErrorKind, Metric, Outcome, RebuildOptions, Schema, Store,
};
use nearstone_tests::disks::Around;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Each row is written once: what its write said is what must hold.
#[derive(Default)]
struct Said {
    synced: BTreeSet<u64>,
    unsynced: BTreeSet<u64>,
    perhaps: BTreeSet<u64>,
    refused: BTreeSet<u64>,
}

fn open(disk: &SimVfs) -> nearstone::Result<Store> {
    Store::builder()
        .vfs(Arc::new(disk.clone()))
        .random(Arc::new(SeededRandom::new(5)))
        .background(Background::Manual)
        .open("/store")
}

/// A history that meets every protocol; errors are written down and it goes on.
fn run(store: &Store, said: &mut Said) {
    let schema = Schema::new(2, Metric::L2).m(4).ef_construction(16);
    let Ok(rows) = store.collection_or_create("rows", schema) else { return };
    for key in 0..24u64 {
        let synced = key % 3 != 1;
        let durability = if synced { Durability::Sync } else { Durability::Os };
        let mut batch = store.batch().durability(durability);
        batch.upsert(&rows, key, &[key as f32, 1.0], ()).unwrap();
        match batch.commit() {
            Ok(_) => {
                if synced {
                    said.synced.insert(key);
                    // A sync makes everything before it durable.
                    said.synced.append(&mut said.unsynced);
                } else {
                    said.unsynced.insert(key);
                }
            }
            Err(error) if error.outcome() == Outcome::Indeterminate => {
                said.perhaps.insert(key);
            }
            Err(_) => {
                said.refused.insert(key);
            }
        }
        match key {
            7 | 15 => drop(rows.flush()),
            11 => drop(store.create_collection("more", schema)),
            13 | 17 => load(&rows, key, said),
            19 => drop(rows.compact()),
            20 => drop(rows.rebuild(RebuildOptions::new().m(5))),
            21 => drop(store.drop_collection("more")),
            _ => {}
        }
        // Reads go on whatever happened.
        let there = rows.keys().unwrap().map(|key| key.unwrap().as_u64().unwrap()).collect::<BTreeSet<u64>>();
        for key in said.synced.iter().chain(&said.unsynced) {
            assert!(there.contains(key), "row {key} was acknowledged and is not read any more");
            assert_eq!(rows.get(*key).unwrap().unwrap().vector(), [*key as f32, 1.0]);
        }
        assert!(said.refused.is_disjoint(&there), "a refused row is read");
    }
}

/// Loads four rows in bulk, after `key`; they go the way of a synced batch.
fn load(rows: &Collection, key: u64, said: &mut Said) {
    let keys = || (0..LOADED).map(|n| 100 + key * LOADED + n);
    let loaded = rows.bulk_load().and_then(|mut load| {
        keys().try_for_each(|key| load.push(key, &[key as f32, 1.0], ()))?;
        load.finish()
    });
    match loaded {
        Ok(loaded) => {
            assert_eq!(loaded.inserted, LOADED);
            said.synced.extend(keys());
            said.synced.append(&mut said.unsynced);
        }
        Err(error) if error.outcome() == Outcome::Indeterminate => said.perhaps.extend(keys()),
        Err(_) => said.refused.extend(keys()),
    }
    let there = keys().filter(|key| rows.contains(*key).unwrap()).count() as u64;
    assert!(there == 0 || there == LOADED, "{there} of {LOADED} rows of a load are read");
}

/// Rows of a bulk load.
const LOADED: u64 = 4;

/// What a check writes, to see that the store takes it.
const AFTERWARDS: u64 = 1000;

/// What was said is so; whether there was a collection to ask.
fn check(disk: &SimVfs, said: &Said, killed: bool, what: &str) -> bool {
    let store = open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let rows = match store.collection("rows") {
        Ok(rows) => rows,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{what}");
            assert!(said.synced.is_empty() && said.unsynced.is_empty(), "{what}: the collection is gone");
            return false;
        }
    };
    let there: BTreeSet<u64> = rows.keys().unwrap().map(|key| key.unwrap().as_u64().unwrap()).collect();
    for key in &said.synced {
        assert!(there.contains(key), "{what}: synced row {key} is gone; there are {there:?}");
    }
    if killed {
        for key in &said.unsynced {
            assert!(there.contains(key), "{what}: row {key} survives a killed process, but is gone");
        }
    }
    assert!(said.refused.is_disjoint(&there), "{what}: refused rows {:?} of {there:?}", said.refused);
    for key in [13, 17] {
        let first = 100 + key * LOADED;
        let loaded = there.range(first..first + LOADED).count() as u64;
        assert!(loaded == 0 || loaded == LOADED, "{what}: {loaded} of {LOADED} rows of a load");
    }
    for key in there.iter().filter(|key| **key != AFTERWARDS) {
        assert_eq!(rows.get(*key).unwrap().unwrap().vector(), [*key as f32, 1.0], "{what}");
    }
    store.verify().unwrap_or_else(|error| panic!("{what}: {error}"));
    // And it takes writes again.
    rows.upsert(AFTERWARDS, &[0.0, 0.0], ()).unwrap_or_else(|error| panic!("{what}: {error}"));
    rows.flush().unwrap_or_else(|error| panic!("{what}: {error}"));
    true
}

fn sweep(fault: SimFault, forever: bool) {
    let healthy = SimVfs::new(1);
    let mut said = Said::default();
    run(&open(&healthy).unwrap(), &mut said);
    assert_eq!((said.synced.len() + said.unsynced.len()) as u64, 24 + 2 * LOADED);
    let operations = healthy.ops();
    assert!(operations > 80, "only {operations} operations");
    for k in 0..operations {
        let disk = SimVfs::new(1);
        disk.fail_op(k, fault, forever);
        let mut said = Said::default();
        if let Ok(store) = open(&disk) {
            run(&store, &mut said);
            // What the process still writes while it ends belongs to the fault as well.
            let killed = disk.crash_image(CrashChoice::KeepAll);
            let lost = disk.crash_image(CrashChoice::DurableOnly);
            drop(store);
            // A sync that dropped its data took unsynced rows with it: only power-loss promises are left.
            let may_lose = fault == SimFault::SyncDropsData;
            check(&killed, &said, !may_lose, &format!("{fault:?} at {k}, forever: {forever}, killed"));
            check(&lost, &said, false, &format!("{fault:?} at {k}, forever: {forever}, power lost"));
        }
        disk.heal();
        if check(&disk, &said, false, &format!("{fault:?} at {k}, forever: {forever}, closed")) {
            said.synced.insert(AFTERWARDS);
        }
        // What the next process served and wrote stays, also what the first one had not made durable.
        let image = disk.crash_image(CrashChoice::DurableOnly);
        check(&image, &said, false, &format!("{fault:?} at {k}, forever: {forever}, closed, power lost"));
    }
}

#[test]
fn an_input_output_error_at_every_operation() {
    sweep(SimFault::Io, false);
    sweep(SimFault::Io, true);
}

#[test]
fn a_full_disk_at_every_operation() {
    sweep(SimFault::DiskFull, false);
    sweep(SimFault::DiskFull, true);
}

#[test]
fn a_short_write_at_every_operation() {
    sweep(SimFault::ShortWrite, false);
}

#[test]
fn a_sync_that_drops_its_data_at_every_operation() {
    sweep(SimFault::SyncDropsData, false);
    sweep(SimFault::SyncDropsData, true);
}

/// As [`sweep`], of the next process's recovery: after one that was killed, and after the power was lost.
#[test]
fn a_failure_at_every_operation_of_a_recovery() {
    let first = SimVfs::new(1);
    first.record();
    let mut said = Said::default();
    let store = open(&first).unwrap();
    run(&store, &mut said);
    let moment = first.recorded().pop().unwrap();
    drop(store);
    for how in ["killed", "power lost"] {
        let disk = || match how {
            "killed" => moment.killed(),
            _ => moment.killed().crash_image(CrashChoice::Random { seed: 3 }),
        };
        let healthy = disk();
        let before = healthy.ops();
        open(&healthy).unwrap().close().unwrap();
        let operations = healthy.ops() - before;
        assert!(operations > 8, "only {operations} operations");
        for fault in [SimFault::Io, SimFault::DiskFull, SimFault::ShortWrite, SimFault::SyncDropsData] {
            for (k, forever) in (0..operations).flat_map(|k| [(k, false), (k, true)]) {
                let disk = disk();
                disk.fail_op(k, fault, forever);
                let what = format!("{how}, then {fault:?} at {k} of the recovery, forever: {forever}");
                if let Ok(store) = open(&disk) {
                    drop(store.close());
                }
                disk.heal();
                let killed = how == "killed" && fault != SimFault::SyncDropsData;
                check(
                    &disk.crash_image(CrashChoice::DurableOnly),
                    &said,
                    false,
                    &format!("{what}, power lost"),
                );
                check(&disk, &said, killed, &what);
            }
        }
    }
}

/// Nobody calls when an interval's sync fails: the next writer must hear of it, though the disk works again.
#[test]
fn a_sync_that_fails_behind_ends_the_writing() {
    let disk = SimVfs::new(1);
    let clock = Arc::new(nearstone::clock::ManualClock::default());
    let store = Store::builder()
        .vfs(Arc::new(disk.clone()))
        .clock(clock.clone())
        .background(Background::Threads(1))
        .durability(Durability::Interval(Duration::from_millis(300)))
        .open("/store")
        .unwrap();
    let rows = store.create_collection("rows", Schema::new(2, Metric::L2)).unwrap();
    rows.upsert(1u64, &[1.0, 2.0], ()).unwrap();
    let before = disk.ops();
    disk.fail_op(0, SimFault::Io, true);
    clock.advance(Duration::from_secs(1));
    let patience = Instant::now() + Duration::from_secs(60);
    while disk.ops() == before {
        assert!(Instant::now() < patience, "nobody synced");
        std::thread::sleep(Duration::from_millis(5));
    }
    disk.heal();
    let error = rows.upsert(2u64, &[2.0, 2.0], ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
    assert_eq!(rows.get(1u64).unwrap().unwrap().vector(), [1.0, 2.0]);
    assert!(rows.get(2u64).unwrap().is_none());
    // And whoever watches the store's numbers hears of the sync, not only of the refusals that follow from it.
    let said = loop {
        assert!(Instant::now() < patience, "the numbers do not name the failed sync");
        match store.stats().unwrap().last_error {
            Some(said) if !said.contains("takes no more writes") => break said,
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    assert!(said.contains("simulated failure"), "{said}");
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(store.stats().unwrap().last_error, Some(said), "a refusal has taken its place");
}

/// Nor does anybody call when the note fails that an idle store writes about what is durable.
#[test]
fn a_note_that_fails_behind_ends_the_writing_and_is_named() {
    let disk = SimVfs::new(1);
    let store = Store::builder()
        .vfs(Arc::new(disk.clone()))
        .background(Background::Threads(1))
        .open("/store")
        .unwrap();
    let rows = store.create_collection("rows", Schema::new(2, Metric::L2)).unwrap();
    rows.upsert(1u64, &[1.0, 2.0], ()).unwrap();
    let patience = Instant::now() + Duration::from_secs(60);
    let mut quiet = (disk.ops(), Instant::now());
    while quiet.1.elapsed() < Duration::from_secs(1) {
        assert!(Instant::now() < patience, "the store does not come to rest");
        std::thread::sleep(Duration::from_millis(10));
        if disk.ops() != quiet.0 {
            quiet = (disk.ops(), Instant::now());
        }
    }
    // The batch and its sync succeed, and what follows fails.
    disk.fail_op(2, SimFault::Io, true);
    rows.upsert(2u64, &[2.0, 2.0], ()).unwrap();
    let said = loop {
        assert!(Instant::now() < patience, "the numbers do not name the failed note");
        match store.stats().unwrap().last_error {
            Some(said) => break said,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    assert!(said.contains("simulated failure") && !said.contains("takes no more writes"), "{said}");
    disk.heal();
    assert_eq!(rows.upsert(3u64, &[3.0, 2.0], ()).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(rows.len().unwrap(), 2);
}

/// A backup that says that it succeeded is whole, also after a power loss; one that failed is no store with less in it.
#[test]
fn a_failure_at_every_operation_of_a_backup() {
    for links in [true, false] {
        let store_on = |disk: &SimVfs| -> Store {
            let vfs: Arc<dyn Vfs> =
                if links { Arc::new(disk.clone()) } else { Arc::new(Around::without_links(disk.clone())) };
            let store = Store::builder().vfs(vfs).background(Background::Manual).open("/store").unwrap();
            let schema = Schema::new(2, Metric::L2).m(4).ef_construction(16);
            let rows = store.create_collection("rows", schema).unwrap();
            for key in 0..6u64 {
                rows.upsert(key, &[key as f32, 1.0], ()).unwrap();
                if key == 2 || key == 4 {
                    rows.flush().unwrap();
                }
            }
            rows.delete(1u64).unwrap();
            store
        };
        let keys = |disk: SimVfs| -> nearstone::Result<Vec<u64>> {
            let vfs = Arc::new(disk);
            let copy = Store::builder().vfs(vfs).background(Background::Manual).open("/copy")?;
            copy.verify()?;
            let keys = copy.collection("rows")?.keys()?.map(|key| Ok(key?.as_u64().unwrap()));
            keys.collect()
        };
        let healthy = SimVfs::new(2);
        let store = store_on(&healthy);
        let before = healthy.ops();
        store.backup("/copy").unwrap();
        let operations = healthy.ops() - before;
        assert!(operations > 30, "only {operations} operations");
        let faults = [SimFault::Io, SimFault::DiskFull, SimFault::ShortWrite, SimFault::SyncDropsData];
        // The last one fails nothing.
        for (k, fault) in (0..=operations).flat_map(|k| faults.map(|fault| (k, fault))) {
            let what = format!("{fault:?} at {k} of the backup, hard links: {links}");
            let disk = SimVfs::new(2);
            let store = store_on(&disk);
            disk.fail_op(k, fault, false);
            let done = store.backup("/copy");
            let images = [disk.crash_image(CrashChoice::KeepAll), disk.crash_image(CrashChoice::DurableOnly)];
            for image in images {
                image.heal();
                match keys(image) {
                    Ok(keys) => assert_eq!(keys, [0, 2, 3, 4, 5], "{what}"),
                    Err(error) => assert!(done.is_err(), "{what}: the backup succeeded, but {error}"),
                }
            }
            // And the store itself has lost nothing.
            assert_eq!(store.collection("rows").unwrap().len().unwrap(), 5, "{what}");
            store.verify().unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
}
