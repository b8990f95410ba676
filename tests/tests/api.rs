//! The semantics that the documentation promises, one behaviour per test.

use nearstone::random::SplitMix64;
use nearstone::{
    Applied, Background, Collection, Durability, ErrorKind, Key, KeyRef, KeyType, Metric, Schema, Store,
};
use nearstone_tests::stop::Stop;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

fn store() -> Store {
    Store::builder().background(Background::Manual).in_memory().unwrap()
}

fn points(store: &Store, name: &str) -> Collection {
    store.create_collection(name, Schema::new(2, Metric::L2)).unwrap()
}

#[test]
fn the_last_operation_on_a_key_wins_and_each_says_what_it_did() {
    let store = store();
    let rows = points(&store, "rows");
    rows.upsert(1u64, &[1.0, 0.0], ()).unwrap();
    let mut batch = store.batch();
    batch.upsert(&rows, 2u64, &[2.0, 0.0], ()).unwrap();
    batch.upsert(&rows, 1u64, &[3.0, 0.0], ()).unwrap();
    batch.delete(&rows, 2u64).unwrap();
    batch.delete(&rows, 9u64).unwrap();
    batch.upsert(&rows, 3u64, &[4.0, 0.0], ()).unwrap();
    let commit = batch.commit().unwrap();
    use Applied::{Inserted, Missing, Replaced, Superseded};
    assert_eq!(commit.results, [Superseded, Replaced, Missing, Missing, Inserted]);
    assert_eq!((commit.upserted, commit.deleted), (2, 0));
    assert_eq!(rows.get(1u64).unwrap().unwrap().version(), commit.lsn);
    assert!(!rows.contains(2u64).unwrap());
    assert!(rows.delete(3u64).unwrap());
    assert!(!rows.delete(3u64).unwrap());
    let empty = store.batch().commit().unwrap();
    assert_eq!(empty.lsn, store.snapshot().lsn());
}

#[test]
fn the_original_bits_come_back_whatever_the_codes() {
    let store = store();
    let rows = store.create_collection("rows", Schema::new(4, Metric::Cosine).keys(KeyType::Str)).unwrap();
    let vector = [-0.0, f32::from_bits(1), 1.000_000_1, -123.456];
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    rows.upsert("a", &vector, serde_json::json!({ "ä": [1, 2.5, null] })).unwrap();
    for _ in 0..2 {
        let row = rows.get("a").unwrap().unwrap();
        assert_eq!(bits(row.vector()), bits(&vector));
        assert_eq!(row.payload::<serde_json::Value>().unwrap()["ä"][1], 2.5);
        assert_eq!(row.payload_json(), r#"{"ä":[1,2.5,null]}"#);
        rows.flush().unwrap();
    }
    assert_eq!(store.stats().unwrap().collections[0].segments.len(), 1);
}

#[test]
fn results_are_as_many_as_there_are_nearest_first_and_ties_by_key() {
    let store = store();
    let rows = points(&store, "rows");
    for key in [5u64, 3, 9, 1, 7] {
        rows.upsert(key, &[1.0, 1.0], ()).unwrap();
    }
    rows.upsert(4u64, &[0.0, 0.0], ()).unwrap();
    rows.flush().unwrap();
    rows.upsert(2u64, &[1.0, 1.0], ()).unwrap();
    let keys = |limit: usize, exact: bool| -> Vec<u64> {
        let hits = rows.search(&[0.0, 0.0]).limit(limit).exact(exact).run().unwrap();
        hits.iter().map(|hit| hit.key().as_u64().unwrap()).collect()
    };
    for exact in [false, true] {
        assert_eq!(keys(100, exact), [4, 1, 2, 3, 5, 7, 9]);
        assert_eq!(keys(4, exact), [4, 1, 2, 3]);
        assert_eq!(keys(0, exact), Vec::<u64>::new());
    }
}

#[test]
fn distances_are_those_of_the_metric_to_five_digits() {
    let mut rng = SplitMix64::new(1);
    let mut vector = || (0..33).map(|_| rng.unit_f64() as f32 - 0.5).collect::<Vec<f32>>();
    for metric in [Metric::Cosine, Metric::L2, Metric::InnerProduct] {
        let store = store();
        let rows = store.create_collection("rows", Schema::new(33, metric)).unwrap();
        let vectors: Vec<Vec<f32>> = (0..300).map(|_| vector()).collect();
        rows.upsert_many(vectors.iter().enumerate().map(|(key, v)| (key as u64, v, ()))).unwrap();
        rows.flush().unwrap();
        let query = vector();
        for hit in rows.search(&query).limit(50).run().unwrap() {
            let row = &vectors[hit.key().as_u64().unwrap() as usize];
            let right = nearstone_tests::model::distance(metric, &query, row);
            let error = (f64::from(hit.distance()) - right).abs();
            assert!(error <= 1e-5 * right.abs(), "{metric:?}: {} instead of {right}", hit.distance());
        }
    }
}

#[test]
fn keys_come_in_order_and_pages_have_no_holes() {
    let store = store();
    let rows = store.create_collection("rows", Schema::new(2, Metric::L2).keys(KeyType::Str)).unwrap();
    let mut expected = BTreeMap::new();
    for round in 0..4 {
        for i in 0..30 {
            let key = format!("k{:03}", (i * 37 + round * 11) % 100);
            rows.upsert(key.as_str(), &[i as f32, round as f32], ()).unwrap();
            expected.insert(key, ());
        }
        let gone = format!("k{:03}", round * 11);
        if rows.delete(gone.as_str()).unwrap() {
            expected.remove(&gone);
        }
        if round < 3 {
            rows.flush().unwrap();
        }
    }
    let all: Vec<String> = rows.keys().unwrap().map(|key| key.unwrap().to_string()).collect();
    assert!(all.iter().eq(expected.keys()));
    assert_eq!(rows.len().unwrap(), expected.len() as u64);
    let mut paged: Vec<Key> = rows.keys().unwrap().take(7).map(Result::unwrap).collect();
    while let Some(last) = paged.last().cloned() {
        let page: Vec<Key> = rows.keys_after(last).unwrap().take(7).map(Result::unwrap).collect();
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged.iter().map(ToString::to_string).collect::<Vec<_>>(), all);
}

#[test]
fn readers_never_see_half_a_batch() {
    let store = Store::in_memory().unwrap();
    let (a, b) = (points(&store, "a"), points(&store, "b"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = Stop(&done);
        let reader = scope.spawn(|| {
            let mut seen = 0;
            while !done.load(Ordering::Relaxed) {
                let snapshot = store.snapshot();
                let left = a.at(&snapshot).unwrap().get(1u64).unwrap().map(|row| row.vector()[0]);
                let right = b.at(&snapshot).unwrap().get(2u64).unwrap().map(|row| row.vector()[0]);
                assert_eq!(left, right);
                seen += u32::from(left.is_some());
            }
            seen
        });
        for round in 0..2000 {
            let mut batch = store.batch().durability(Durability::Os);
            batch.upsert(&a, 1u64, &[round as f32, 0.0], ()).unwrap();
            batch.upsert(&b, 2u64, &[round as f32, 1.0], ()).unwrap();
            batch.commit().unwrap();
            if round % 500 == 499 {
                store.flush().unwrap();
            }
        }
        drop(stop);
        assert!(reader.join().unwrap() > 0);
    });
}

#[test]
fn snapshots_hold_across_seals_compactions_and_drops() {
    let store = store();
    let rows = points(&store, "rows");
    for key in 0..40u64 {
        rows.upsert(key, &[key as f32, 0.0], ()).unwrap();
    }
    let snapshot = store.snapshot();
    for key in 0..20u64 {
        rows.delete(key).unwrap();
        rows.upsert(key + 20, &[-1.0, -1.0], ()).unwrap();
    }
    store.compact().unwrap();
    assert_eq!(rows.len().unwrap(), 20);
    store.drop_collection("rows").unwrap();
    assert_eq!(rows.len().unwrap_err().kind(), ErrorKind::NotFound);
    let then = rows.at(&snapshot).unwrap();
    assert_eq!(then.len(), 40);
    for key in 0..40u64 {
        assert_eq!(then.get(key).unwrap().unwrap().vector(), [key as f32, 0.0]);
    }
    assert_eq!(then.search(&[0.0, 0.0]).limit(3).run().unwrap()[0].key().as_u64(), Some(0));
    let again = points(&store, "rows");
    assert_eq!(again.len().unwrap(), 0);
    assert_eq!(again.at(&snapshot).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn handles_follow_a_rename_and_end_with_the_store() {
    let store = store();
    let rows = points(&store, "old");
    store.rename_collection("old", "new").unwrap();
    rows.upsert(1u64, &[1.0, 1.0], ()).unwrap();
    assert_eq!(rows.name().unwrap(), "new");
    assert_eq!(store.collections().unwrap(), ["new"]);
    assert_eq!(store.collection("new").unwrap().len().unwrap(), 1);
    let batch = store.batch();
    store.close().unwrap();
    store.close().unwrap();
    for kind in [
        rows.len().unwrap_err().kind(),
        rows.upsert(2u64, &[1.0, 1.0], ()).unwrap_err().kind(),
        rows.search(&[0.0, 0.0]).run().unwrap_err().kind(),
        rows.flush().unwrap_err().kind(),
        batch.commit().unwrap_err().kind(),
        store.collections().unwrap_err().kind(),
        store.collection("new").unwrap_err().kind(),
        store.persist().unwrap_err().kind(),
        store.stats().unwrap_err().kind(),
        store.verify().unwrap_err().kind(),
        store.compact().unwrap_err().kind(),
    ] {
        assert_eq!(kind, ErrorKind::Closed);
    }
}

#[test]
fn an_empty_store_is_small_and_dropping_the_last_handle_releases_the_lock() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = Store::open(&path).unwrap();
    let rows = points(&store, "rows");
    assert!(store.stats().unwrap().disk_bytes <= 4 << 20, "{:?}", store.stats().unwrap());
    drop(store);
    assert_eq!(Store::open(&path).map(|_| ()).unwrap_err().kind(), ErrorKind::Busy);
    rows.upsert(1u64, &[1.0, 2.0], ()).unwrap();
    drop(rows);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.collection("rows").unwrap().len().unwrap(), 1);
}

#[test]
fn readers_share_a_folder_and_change_nothing_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = Store::builder().background(Background::Manual).open(&path).unwrap();
    let rows = points(&store, "rows");
    for key in 0..30u64 {
        rows.upsert(key, &[key as f32, 0.0], ()).unwrap();
        if key == 19 {
            rows.flush().unwrap();
        }
    }
    // A copy of the folder as a crash leaves it: the writer is still there.
    let copy = folder.path().join("copy");
    copy_folder(&path, &copy);
    store.close().unwrap();
    for path in [&path, &copy] {
        let before = contents(path);
        let readers: Vec<Store> =
            (0..3).map(|_| Store::builder().read_only(true).open(path).unwrap()).collect();
        for reader in &readers {
            let rows = reader.collection("rows").unwrap();
            assert_eq!(rows.len().unwrap(), 30);
            assert_eq!(rows.search(&[29.0, 0.0]).limit(1).run().unwrap()[0].key().as_u64(), Some(29));
            reader.verify().unwrap();
        }
        assert_eq!(Store::open(path).map(|_| ()).unwrap_err().kind(), ErrorKind::Busy);
        drop(readers);
        assert!(contents(path) == before, "a reader changed something in {}", path.display());
        assert_eq!(Store::open(path).unwrap().collection("rows").unwrap().len().unwrap(), 30);
    }
}

#[test]
fn a_backup_taken_under_writes_is_a_store_of_one_moment() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("store")).unwrap();
    let rows = points(&store, "rows");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = Stop(&done);
        let writer = scope.spawn(|| {
            let mut key = 0u64;
            while !done.load(Ordering::Relaxed) {
                rows.upsert(key, &[key as f32, 1.0], ()).unwrap();
                if key % 3 == 2 {
                    rows.delete(key - 1).unwrap();
                }
                key += 1;
            }
        });
        // On a busy machine the writer begins late, and a backup of nothing shows nothing.
        while rows.is_empty().unwrap() {
            std::thread::yield_now();
        }
        for round in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(30));
            while rows.is_empty().unwrap() {
                assert!(!writer.is_finished(), "the writer ended before its first row");
                std::thread::yield_now();
            }
            let into = folder.path().join(format!("backup-{round}"));
            let lsn = store.backup(&into).unwrap();
            store.flush().unwrap();
            let copy = Store::open(&into).unwrap();
            assert_eq!(copy.snapshot().lsn(), lsn);
            copy.verify().unwrap();
            let rows = copy.collection("rows").unwrap();
            // A prefix of what the writer does: keys 0, 2, 3, 5, 6, 8, ... and perhaps one not deleted yet.
            let keys: Vec<u64> = rows.keys().unwrap().map(|key| key.unwrap().as_u64().unwrap()).collect();
            let last = *keys.last().unwrap();
            for key in 0..last.saturating_sub(2) {
                assert_eq!(keys.binary_search(&key).is_ok(), key % 3 != 1, "key {key} of {last}");
            }
            assert_eq!(store.backup(&into).unwrap_err().kind(), ErrorKind::AlreadyExists);
        }
        drop(stop);
        writer.join().unwrap();
    });
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn contents(path: &std::path::Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap().path();
        if entry.is_dir() {
            all.extend(contents(&entry));
        } else {
            let bytes = std::fs::read(&entry).unwrap();
            all.insert(entry, bytes);
        }
    }
    all
}

#[test]
fn interval_batches_are_synced_when_their_time_is_up() {
    let clock = std::sync::Arc::new(nearstone::clock::ManualClock::default());
    let disk = nearstone::vfs::SimVfs::new(1);
    let store = Store::builder()
        .vfs(std::sync::Arc::new(disk.clone()))
        .clock(clock.clone())
        .background(Background::Manual)
        .durability(Durability::Interval(std::time::Duration::from_secs(1)))
        .open("/store")
        .unwrap();
    let rows = points(&store, "rows");
    rows.upsert(1u64, &[1.0, 2.0], ()).unwrap();
    assert!(store.step().unwrap(), "the row is linked");
    assert!(!store.step().unwrap(), "and not due yet");
    let lost = || {
        let image = disk.crash_image(nearstone::vfs::CrashChoice::DurableOnly);
        let store = Store::builder().vfs(std::sync::Arc::new(image)).open("/store").unwrap();
        store.collection("rows").unwrap().is_empty().unwrap()
    };
    assert!(lost());
    clock.advance(std::time::Duration::from_secs(1));
    assert!(store.step().unwrap());
    assert!(!lost());

    // With threads it happens by itself.
    let folder = tempfile::tempdir().unwrap();
    let store = Store::builder()
        .durability(Durability::Interval(std::time::Duration::from_millis(5)))
        .open(folder.path().join("store"))
        .unwrap();
    let rows = points(&store, "rows");
    let before = store.stats().unwrap().log.unwrap().syncs;
    rows.upsert(1u64, &[1.0, 2.0], ()).unwrap();
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
    // One sync made the file, the next one is the interval's.
    while store.stats().unwrap().log.unwrap().syncs < before + 2 {
        assert!(std::time::Instant::now() < patience, "nobody synced");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Before a seal, after it, and half sealed; with conditions that few, some and no rows pass.
#[test]
fn a_filter_leaves_the_nearest_rows_that_pass_as_many_as_there_are() {
    let store = store();
    let rows = store.create_collection("rows", Schema::new(8, Metric::L2)).unwrap();
    let mut rng = SplitMix64::new(3);
    let vectors: Vec<Vec<f32>> = (0..3000).map(|_| (0..8).map(|_| rng.unit_f64() as f32).collect()).collect();
    let put = |range: std::ops::Range<usize>| {
        rows.upsert_many(range.map(|i| (i as u64, &vectors[i], ()))).unwrap();
    };
    put(0..2000);
    for phase in 0..3 {
        let written = if phase == 0 { 2000 } else { 3000 };
        match phase {
            1 => {
                rows.flush().unwrap();
                put(2000..3000);
            }
            2 => rows.compact().unwrap(),
            _ => {}
        }
        for modulus in [2, 100, 1500] {
            let passes = |key: KeyRef<'_>| matches!(key, KeyRef::U64(n) if n % modulus == 1);
            let query = &vectors[17];
            let mut expected: Vec<(f32, u64)> = (0..written as u64)
                .filter(|n| n % modulus == 1)
                .map(|n| {
                    let square = vectors[n as usize].iter().zip(query).map(|(a, b)| (a - b) * (a - b));
                    (square.sum(), n)
                })
                .collect();
            expected.sort_by(|a, b| a.0.total_cmp(&b.0));
            expected.truncate(10);
            let keys = |hits: Vec<nearstone::Hit>| -> Vec<u64> {
                hits.iter().map(|hit| hit.key().as_u64().unwrap()).collect()
            };
            let exact = keys(rows.search(query).filter(&passes).exact(true).run().unwrap());
            assert_eq!(exact, expected.iter().map(|e| e.1).collect::<Vec<_>>(), "{phase}, {modulus}");
            let found = keys(rows.search(query).filter(&passes).run().unwrap());
            assert_eq!(found.len(), exact.len());
            assert!(found.iter().all(|n| n % modulus == 1), "{phase}, {modulus}: {found:?}");
            let right = found.iter().filter(|n| exact.contains(n)).count();
            assert!(right * 10 >= exact.len() * 9, "{phase}, {modulus}: {found:?} for {exact:?}");
        }
        assert!(rows.search(&vectors[0]).filter(&|_| false).run().unwrap().is_empty());
    }
}

#[test]
fn linking_by_hand_leaves_no_row_to_scan_and_changes_no_answer() {
    let store = store();
    let rows = points(&store, "rows");
    rows.upsert_many((0..500u64).map(|i| (i, [i as f32, 0.0], ()))).unwrap();
    let unlinked = || store.stats().unwrap().collections[0].unlinked_rows;
    assert_eq!(unlinked(), 500);
    let keys = || -> Vec<Key> {
        rows.search(&[250.2, 0.0]).run().unwrap().iter().map(|hit| hit.key().clone()).collect()
    };
    let before = keys();
    assert_eq!(rows.link(0).unwrap_err().kind(), ErrorKind::InvalidArgument);
    rows.link(3).unwrap();
    assert_eq!(unlinked(), 0);
    assert_eq!(keys(), before);
    rows.link(1).unwrap();
    store.close().unwrap();
    assert_eq!(rows.link(1).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_truncated_batch_commits_what_is_left_and_has_its_bytes() {
    let store = store();
    let rows = points(&store, "rows");
    let mut batch = store.batch();
    batch.upsert(&rows, 1u64, &[1.0, 0.0], ()).unwrap();
    let bytes = batch.byte_len();
    batch
        .delete(&rows, 1u64)
        .unwrap()
        .upsert(&rows, 2u64, &[2.0, 0.0], [("a", 1)].into_iter().collect::<BTreeMap<_, _>>())
        .unwrap();
    batch.truncate(5);
    assert_eq!(batch.len(), 3);
    batch.truncate(1);
    assert_eq!((batch.len(), batch.byte_len()), (1, bytes));
    assert_eq!(batch.commit().unwrap().upserted, 1);
    assert_eq!(rows.keys().unwrap().map(|key| key.unwrap().as_u64().unwrap()).collect::<Vec<_>>(), [1]);
}

/// The catalog's trees grow levels, and its values pages of their own.
#[test]
fn a_catalog_of_many_pages_opens_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let schema = || Schema::new(2, Metric::L2).m(4).ef_construction(8);
    let store =
        Store::builder().durability(Durability::Os).background(Background::Manual).open(&path).unwrap();
    for n in 0..300 {
        store
            .create_collection(&format!("a collection with a name of some length, number {n}"), schema())
            .unwrap();
    }
    let rows = store.create_collection("rows", schema()).unwrap();
    rows.upsert_many((0..60_000u64).map(|key| (key, [key as f32, (key * 7919 % 60_000) as f32], ())))
        .unwrap();
    store.flush().unwrap();
    // Deaths without a pattern take a page of many kilobytes.
    let mut batch = store.batch();
    for key in (0..60_000u64).filter(|key| key * key % 7 == 1) {
        batch.delete(&rows, key).unwrap();
    }
    batch.commit().unwrap();
    rows.upsert(1_000_000u64, &[1.0, 1.0], ()).unwrap();
    store.flush().unwrap();
    let len = rows.len().unwrap();
    store.close().unwrap();
    drop((rows, store));
    for _ in 0..2 {
        let store = Store::open(&path).unwrap();
        assert_eq!(store.collections().unwrap().len(), 301);
        let rows = store.collection("rows").unwrap();
        assert_eq!(rows.len().unwrap(), len);
        assert!(rows.get(2u64).unwrap().is_some() && rows.get(1u64).unwrap().is_none());
        store.verify().unwrap();
        store.close().unwrap();
    }
}

/// Rows of 64 numbers near `centre`.
fn around(centre: f32, rng: &mut SplitMix64) -> Vec<f32> {
    (0..64).map(|_| centre + rng.unit_f64() as f32).collect()
}

#[test]
fn many_queries_at_once_are_answered_as_each_alone() {
    let store = store();
    let rows = store.create_collection("rows", Schema::new(64, Metric::L2)).unwrap();
    let mut rng = SplitMix64::new(3);
    for part in 0..3u64 {
        // Sealed, sealed, and only in memory.
        let put = (0..1_500)
            .map(|row| (part * 10_000 + row, around(0.0, &mut rng), serde_json::json!({ "row": row })));
        rows.upsert_many(put).unwrap();
        if part < 2 {
            store.flush().unwrap();
        }
    }
    let matrix: Vec<f32> = (0..70).flat_map(|_| around(0.0, &mut rng)).collect();
    for threads in [1, 2, 5, usize::MAX] {
        let exact = rows.search_many(&matrix).exact(true).limit(7).threads(threads).run().unwrap();
        let walked =
            rows.search_many(&matrix).ef(100).limit(7).threads(threads).with_payload().run().unwrap();
        assert_eq!((exact.len(), walked.len()), (70, 70));
        let mut found = 0;
        for ((query, exact), walked) in matrix.chunks_exact(64).zip(&exact).zip(&walked) {
            assert_eq!(*exact, rows.search(query).exact(true).limit(7).run().unwrap());
            assert_eq!(walked.len(), 7);
            assert!(walked.is_sorted_by(|a, b| a.distance() <= b.distance()));
            for hit in walked {
                assert_eq!(
                    hit.payload::<serde_json::Value>().unwrap()["row"],
                    hit.key().as_u64().unwrap() % 10_000
                );
                found += usize::from(exact.iter().any(|right| right.key() == hit.key()));
            }
        }
        assert!(found >= 70 * 7 * 95 / 100, "{found} with {threads} threads");
    }
    let odd = |key: KeyRef<'_>| matches!(key, KeyRef::U64(key) if key % 2 == 1);
    for list in rows.search_many(&matrix).filter(&odd).limit(4).run().unwrap() {
        assert!(list.len() == 4 && list.iter().all(|hit| hit.key().as_u64().unwrap() % 2 == 1));
    }
    assert!(rows.search_many(&[]).run().unwrap().is_empty());
    assert!(rows.search_many(&matrix).limit(0).run().unwrap().iter().all(Vec::is_empty));
    let then = rows.now().unwrap();
    rows.delete(20_000u64).unwrap();
    let all = then.search_many(&matrix[..64]).exact(true).limit(9_999).run().unwrap();
    assert_eq!(all[0].len(), 4_500, "a moment keeps what it saw");
}

#[test]
fn bad_matrices_of_queries_are_refused_with_the_value() {
    let store = store();
    let rows = points(&store, "rows");
    rows.upsert(1u64, &[1.0, 0.0], ()).unwrap();
    let error = rows.search_many(&[1.0, 2.0, 3.0]).run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("3 numbers"), "{error}");
    let error = rows.search_many(&[1.0, 2.0, 3.0, f32::NAN]).run().unwrap_err();
    assert!(error.to_string().contains("query 1") && error.to_string().contains("NaN"), "{error}");
    let error = rows.search_many(&[1.0, 2.0]).threads(0).run().unwrap_err();
    assert!(error.to_string().contains("threads is 0"), "{error}");
    let error = rows.search_many(&[1.0, 2.0]).ef(0).run().unwrap_err();
    assert!(error.to_string().contains("ef is 0"), "{error}");
    store.drop_collection("rows").unwrap();
    assert_eq!(rows.search_many(&[1.0, 2.0]).run().unwrap_err().kind(), ErrorKind::NotFound);
}

/// Rows come in the order of time, and so do their neighbours: all of them may lie in the smallest segment.
#[test]
fn neighbours_that_all_lie_in_a_small_segment_are_found_beside_large_ones() {
    let store = store();
    let rows = store.create_collection("rows", Schema::new(64, Metric::L2)).unwrap();
    let mut rng = SplitMix64::new(5);
    for (part, count) in [(0u64, 4_000), (1, 3_000), (2, 1_200), (3, 1_100)] {
        let put = (0..count).map(|row| (part * 10_000 + row, around(part as f32 * 3.0, &mut rng), ()));
        rows.upsert_many(put).unwrap();
        store.flush().unwrap();
    }
    let (mut found, mut wanted) = (0, 0);
    for part in 0..4u16 {
        for _ in 0..25 {
            // Beside the rows of one segment, and between those of two.
            for shift in [0.0, 1.5] {
                let query = around(f32::from(part) * 3.0 + shift, &mut rng);
                let exact = rows.search(&query).exact(true).limit(10).run().unwrap();
                for walked in [
                    rows.search(&query).ef(48).limit(10).run().unwrap(),
                    rows.search_many(&query).ef(48).limit(10).run().unwrap().remove(0),
                ] {
                    assert_eq!(walked.len(), 10);
                    found += walked.iter().filter(|hit| exact.contains(hit)).count();
                    wanted += 10;
                }
            }
        }
    }
    assert!(found * 100 >= wanted * 93, "{found} of {wanted}");
}
