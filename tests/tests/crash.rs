//! Crashes at chosen moments: one scenario per rule that random histories meet too rarely.

use nearstone::vfs::{CrashChoice, Fate, OpenMode, SimVfs, Vfs};
use nearstone::{Background, Collection, Durability, ErrorKind, Metric, Schema, Store};
use nearstone_tests::disks::Around;
use std::path::Path;
use std::sync::Arc;

fn open(disk: &SimVfs) -> (Store, Collection) {
    let vfs = Arc::new(disk.clone());
    let store = Store::builder().vfs(vfs).background(Background::Manual).open("/store").unwrap();
    let rows =
        store.collection_or_create("rows", Schema::new(2, Metric::L2).m(4).ef_construction(16)).unwrap();
    (store, rows)
}

fn delete_unsynced(store: &Store, rows: &Collection, key: u64) {
    let mut batch = store.batch().durability(Durability::Os);
    batch.delete(rows, key).unwrap();
    assert_eq!(batch.commit().unwrap().deleted, 1);
}

fn keys(rows: &Collection) -> Vec<u64> {
    rows.keys().unwrap().map(|key| key.unwrap().as_u64().unwrap()).collect()
}

#[test]
fn compaction_drops_no_row_whose_death_may_still_be_lost() {
    let disk = SimVfs::new(1);
    let (store, rows) = open(&disk);
    for key in 0..20u64 {
        rows.upsert(key, &[key as f32, 0.0], ()).unwrap();
    }
    rows.flush().unwrap();
    for key in 0..5u64 {
        rows.delete(key).unwrap();
    }
    // The five deaths are in the catalog now, and enough of them for the policy.
    rows.flush().unwrap();
    delete_unsynced(&store, &rows, 10);
    while store.step().unwrap() {}
    let stats = store.stats().unwrap();
    assert_eq!((stats.compactions, stats.collections[0].segments[0].rows), (1, 15));
    assert!(!rows.contains(10u64).unwrap());
    let (_, rows) = open(&disk.crash_image(CrashChoice::DurableOnly));
    assert_eq!(
        keys(&rows),
        (5..20).collect::<Vec<_>>(),
        "the unsynced delete is undone by the power loss, whole"
    );
    // A killed process keeps it.
    let (_, rows) = open(&disk.crash_image(CrashChoice::KeepAll));
    assert!(!rows.contains(10u64).unwrap());
}

#[test]
fn deaths_between_freeze_and_swap_are_carried_over_and_survive() {
    let disk = SimVfs::new(1);
    let (store, rows) = open(&disk);
    for key in 0..10u64 {
        rows.upsert(key, &[key as f32, 0.0], ()).unwrap();
    }
    rows.flush().unwrap();
    rows.delete(3u64).unwrap();
    rows.upsert(4u64, &[44.0, 4.0], ()).unwrap();
    store.compact().unwrap();
    rows.delete(5u64).unwrap();
    for choice in [CrashChoice::DurableOnly, CrashChoice::KeepAll] {
        let image = disk.crash_image(choice);
        let (store, rows) = open(&image);
        assert_eq!(keys(&rows), [0, 1, 2, 4, 6, 7, 8, 9]);
        assert_eq!(rows.get(4u64).unwrap().unwrap().vector(), [44.0, 4.0]);
        store.compact().unwrap();
        let (_, rows) = open(&image.crash_image(CrashChoice::DurableOnly));
        assert_eq!(keys(&rows), [0, 1, 2, 4, 6, 7, 8, 9]);
    }
}

#[test]
fn an_idle_collection_does_not_lose_its_rows_when_others_move_the_log_on() {
    let disk = SimVfs::new(1);
    let (store, rows) = open(&disk);
    let other =
        store.create_collection("other", Schema::new(2, Metric::L2).m(4).ef_construction(16)).unwrap();
    other.upsert(1u64, &[1.0, 1.0], ()).unwrap();
    for round in 0..30u64 {
        for key in 0..200u64 {
            let mut batch = store.batch().durability(Durability::Os);
            let text = "x".repeat(900);
            batch
                .upsert(&rows, key, &[key as f32, round as f32], serde_json::json!({ "text": text }))
                .unwrap();
            batch.commit().unwrap();
        }
        rows.flush().unwrap();
    }
    let (_, found) = open(&disk.crash_image(CrashChoice::DurableOnly));
    assert_eq!(found.len().unwrap(), 200);
    let store = Store::builder()
        .vfs(Arc::new(disk.crash_image(CrashChoice::DurableOnly)))
        .background(Background::Manual)
        .open("/store")
        .unwrap();
    assert!(store.collection("other").unwrap().contains(1u64).unwrap());
    drop(store);
}

#[test]
fn an_interrupted_creation_starts_over() {
    let whole = SimVfs::new(1);
    drop(open(&whole));
    for k in 0..whole.ops() {
        let disk = SimVfs::new(1);
        disk.set_crash_after(k);
        let vfs = Arc::new(disk.clone());
        drop(Store::builder().vfs(vfs).background(Background::Manual).open("/store"));
        for choice in [CrashChoice::DurableOnly, CrashChoice::KeepAll, CrashChoice::Random { seed: k }] {
            let (store, rows) = open(&disk.crash_image(choice));
            rows.upsert(1u64, &[1.0, 2.0], ()).unwrap();
            store.verify().unwrap();
        }
    }
}

#[test]
fn an_interrupted_backup_does_not_open_and_does_not_hurt_the_store() {
    let disk = SimVfs::new(1);
    let (store, rows) = open(&disk);
    for key in 0..10u64 {
        rows.upsert(key, &[key as f32, 0.0], ()).unwrap();
    }
    rows.flush().unwrap();
    rows.upsert(10u64, &[10.0, 0.0], ()).unwrap();
    let before = disk.ops();
    store.backup("/whole").unwrap();
    let operations = disk.ops() - before;
    drop((store, rows));
    for k in 0..operations {
        let image = disk.crash_image(CrashChoice::KeepAll);
        let (store, rows) = open(&image);
        image.set_crash_after(k);
        assert!(store.backup("/copy").is_err(), "operation {k} of {operations}");
        drop((store, rows));
        for choice in [CrashChoice::DurableOnly, CrashChoice::KeepAll, CrashChoice::Random { seed: k }] {
            let after = image.crash_image(choice);
            let (_, rows) = open(&after);
            assert_eq!(rows.len().unwrap(), 11);
            let copy = Store::builder()
                .vfs(Arc::new(after))
                .create(false)
                .background(Background::Manual)
                .open("/copy");
            if let Ok(copy) = copy {
                assert_eq!(copy.collection("rows").unwrap().len().unwrap(), 11, "half a backup opened");
            }
        }
    }
}

/// A file of the log is durable before the next one takes records: else a sync of the second would acknowledge batches
/// that only the first one holds.
#[test]
fn a_full_log_file_is_durable_before_the_next_one_takes_records() {
    let disk = SimVfs::new(4);
    let (store, rows) = open(&disk);
    let text = "x".repeat(300_000);
    let payload: std::collections::BTreeMap<&str, &str> = [("text", text.as_str())].into();
    for key in 0..6u64 {
        let mut batch = store.batch().durability(Durability::Os);
        batch.upsert(&rows, key, &[key as f32, 1.0], &payload).unwrap();
        batch.commit().unwrap();
    }
    rows.upsert(6u64, &[6.0, 1.0], ()).unwrap();
    let logs = disk.files().iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "log")).count();
    assert!(logs > 1, "everything fits into {logs} file");
    for seed in 0..20 {
        let choice = if seed == 0 { CrashChoice::DurableOnly } else { CrashChoice::Random { seed } };
        let (_store, rows) = open(&disk.crash_image(choice));
        assert_eq!(keys(&rows), [0, 1, 2, 3, 4, 5, 6], "{choice:?}");
    }
}

/// The log's new file, which recovery makes for what it could not prove, once had its name before it had the batches: a
/// second crash between the two lost what the first process had synced.
#[test]
fn a_crash_during_recovery_loses_nothing_that_was_synced_before() {
    let disk = SimVfs::new(3);
    let (store, rows) = open(&disk);
    for key in 0..3u64 {
        rows.upsert(key, &[key as f32 + 1.0, 0.0], ()).unwrap();
    }
    let image = disk.crash_image(CrashChoice::DurableOnly);
    drop((store, rows));
    image.record();
    let (store, rows) = open(&image);
    assert_eq!(keys(&rows), [0, 1, 2]);
    let moments = image.recorded();
    drop((store, rows));
    assert!(moments.len() > 5, "recovery wrote in {} steps only", moments.len());
    for moment in &moments {
        for kept in 0..=moment.pending() {
            let fate = |place| if place < kept { Fate::Kept } else { Fate::Lost };
            let fates: Vec<Fate> = (0..moment.pending()).map(fate).collect();
            let (_store, rows) = open(&moment.image(&fates));
            assert_eq!(keys(&rows), [0, 1, 2], "before operation {}, {kept} kept", moment.ops());
        }
    }
}

/// What a process finds that starts after this one was killed: it reads everything, of which part is not durable. What
/// `run` gives back is dropped afterwards: a killed process drops nothing.
fn killed<T>(disk: &SimVfs, run: impl FnOnce() -> T) -> SimVfs {
    disk.record();
    let held = run();
    let image = disk.recorded().pop().unwrap().killed();
    drop(held);
    image
}

/// The note of a seal rides on the next sync. The next process saw it in the cache, promised in its own log file that
/// the old one ended behind it, and a power loss made that false: the store was taken for damaged.
#[test]
fn notes_that_only_a_killed_process_saw_are_not_promised_by_the_next_one() {
    for closes in [false, true] {
        let disk = SimVfs::new(5);
        let disk = killed(&disk, || {
            let (store, rows) = open(&disk);
            rows.upsert(1u64, &[1.0, 0.0], ()).unwrap();
            rows.flush().unwrap();
            (store, rows)
        });
        let (store, rows) = open(&disk);
        if closes {
            store.close().unwrap();
        } else {
            rows.upsert(2u64, &[2.0, 0.0], ()).unwrap();
        }
        let image = disk.crash_image(CrashChoice::DurableOnly);
        let (_store, rows) = open(&image);
        assert_eq!(keys(&rows), if closes { vec![1] } else { vec![1, 2] });
    }
}

/// A maker that was killed before it synced a folder left a store that could be read and was not durable.
#[test]
fn a_store_is_durable_once_it_serves_whoever_made_it() {
    let maker = SimVfs::new(6);
    maker.record();
    let (store, rows) = open(&maker);
    store.close().unwrap();
    drop((store, rows));
    for moment in maker.recorded() {
        let disk = moment.killed();
        let (_store, rows) = open(&disk);
        rows.upsert(1u64, &[1.0, 0.0], ()).unwrap();
        let (_second, rows) = open(&disk.crash_image(CrashChoice::DurableOnly));
        assert_eq!(keys(&rows), [1], "the maker was killed before operation {}", moment.ops());
    }
}

/// Deletes of keys that are not there change nothing, but each takes a place in the log; no seal ever came to cut it.
#[test]
fn a_log_of_deletes_that_changed_nothing_is_cut() {
    let disk = SimVfs::new(7);
    let vfs = Arc::new(disk.clone());
    let builder = Store::builder().vfs(vfs).background(Background::Manual).wal_bytes(2 << 20);
    let store = builder.open("/store").unwrap();
    let rows = store.create_collection("rows", Schema::new(2, Metric::L2).m(4).ef_construction(16)).unwrap();
    for step in 0..60u64 {
        let mut batch = store.batch().durability(Durability::Os);
        for key in 0..5_000u64 {
            batch.delete(&rows, step * 5_000 + key).unwrap();
        }
        batch.commit().unwrap();
        while store.step().unwrap() {}
    }
    let bytes = store.stats().unwrap().wal_bytes;
    assert!(bytes < 24 << 20, "the log has {bytes} bytes");
    rows.upsert(1u64, &[1.0, 1.0], ()).unwrap();
    let (_store, rows) = open(&disk.crash_image(CrashChoice::DurableOnly));
    assert_eq!(keys(&rows), [1]);
}

/// Files belong to whoever has the lock: a snapshot that outlives its store must not remove any.
#[test]
fn a_snapshot_that_outlives_its_store_removes_no_file() {
    let disk = SimVfs::new(8);
    let (store, rows) = open(&disk);
    for round in 0..2u64 {
        rows.upsert(round, &[round as f32, 1.0], ()).unwrap();
        rows.flush().unwrap();
    }
    let snapshot = store.snapshot();
    rows.compact().unwrap();
    store.close().unwrap();
    drop((store, rows));
    let segments = || disk.files().iter().filter(|(path, _)| path.starts_with("store/segments")).count();
    let before = segments();
    assert_eq!(before, 3, "two that the snapshot sees, and what they became");
    drop(snapshot);
    assert_eq!(segments(), before);
    let (_store, rows) = open(&disk);
    assert_eq!((keys(&rows).len(), segments()), (2, 1), "the next open sweeps");
}

#[test]
fn a_backup_that_was_cut_short_before_its_first_file_is_no_empty_store() {
    let disk = SimVfs::new(9);
    let (store, rows) = open(&disk);
    rows.upsert(1u64, &[1.0, 0.0], ()).unwrap();
    disk.record();
    store.backup("/copy").unwrap();
    for moment in disk.recorded() {
        let image = moment.killed();
        if image.list(Path::new("/copy")).is_ok_and(|names| !names.is_empty()) {
            let vfs = Arc::new(image);
            let opened = Store::builder().vfs(vfs).background(Background::Manual).open("/copy");
            if let Ok(copy) = opened {
                assert_eq!(copy.collections().unwrap(), ["rows"], "before operation {}", moment.ops());
            }
        }
    }
}

#[test]
fn a_backup_that_was_cut_short_after_its_last_file_is_not_called_unfinished_for_ever() {
    let disk = SimVfs::new(11);
    let (store, rows) = open(&disk);
    rows.upsert(1u64, &[1.0, 0.0], ()).unwrap();
    disk.record();
    store.backup("/copy").unwrap();
    let mut marked_and_whole = 0;
    for moment in disk.recorded() {
        let vfs = Arc::new(moment.killed());
        let has_mark =
            || vfs.list(Path::new("/copy")).is_ok_and(|n| n.iter().any(|n| n == "unfinished-backup"));
        let marked = has_mark();
        let opened =
            Store::builder().vfs(vfs.clone()).create(false).background(Background::Manual).open("/copy");
        marked_and_whole += u32::from(marked && opened.is_ok());
        assert_eq!(has_mark(), marked && opened.is_err(), "before operation {}", moment.ops());
    }
    assert!(marked_and_whole > 0);
}

#[test]
fn a_catalog_that_came_while_a_backup_was_made_was_replaced() {
    let disk = SimVfs::new(12);
    let catalog = Path::new("/copy/catalog");
    let watched = {
        let disk = disk.clone();
        Around::watched(disk.clone(), move |call, path| {
            if call == "rename" && path == catalog {
                disk.open(path, OpenMode::CreateNew).unwrap().write_at(b"mine", 0).unwrap();
            }
        })
    };
    let options = Store::builder().vfs(Arc::new(watched)).background(Background::Manual);
    let store = options.open("/store").unwrap();
    let error = store.backup("/copy").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert!(error.to_string().contains("/copy/catalog"), "{error}");
    assert_eq!(disk.contents(catalog).unwrap(), b"mine");
}

/// The death reaches the catalog with the inputs, and the log is cut; the transaction of the merge takes the inputs
/// away.
#[test]
fn a_row_whose_death_is_sealed_while_its_segment_is_merged_stays_dead() {
    let disk = SimVfs::new(10);
    let (store, rows) = open(&disk);
    for round in 0..2u64 {
        for key in 0..5u64 {
            rows.upsert(round * 5 + key, &[key as f32, round as f32 + 1.0], ()).unwrap();
        }
        rows.flush().unwrap();
    }
    let mut deleted = false;
    rows.compact_with(&mut |_| {
        if !std::mem::replace(&mut deleted, true) {
            assert!(rows.delete(3u64).unwrap());
            rows.flush().unwrap();
        }
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    assert!(deleted);
    let (_store, rows) = open(&disk.crash_image(CrashChoice::DurableOnly));
    assert_eq!(keys(&rows), [0, 1, 2, 4, 5, 6, 7, 8, 9]);
    drop(store);
}

/// The transaction that would name the merged file never comes: neither it nor its inputs may stay on the disk.
#[test]
fn a_collection_that_is_dropped_while_it_is_merged_leaves_no_file() {
    let disk = SimVfs::new(11);
    let (store, rows) = open(&disk);
    for round in 0..2u64 {
        rows.upsert(round, &[round as f32, 1.0], ()).unwrap();
        rows.flush().unwrap();
    }
    let mut dropped = false;
    let error = rows
        .compact_with(&mut |_| {
            if !std::mem::replace(&mut dropped, true) {
                store.drop_collection("rows").unwrap();
            }
            std::ops::ControlFlow::Continue(())
        })
        .unwrap_err();
    assert!(dropped);
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert_eq!(disk.list(Path::new("/store/segments")).unwrap(), [""; 0]);
    store.verify().unwrap();
    let (_store, rows) = open(&disk.crash_image(CrashChoice::DurableOnly));
    assert!(rows.is_empty().unwrap());
}
