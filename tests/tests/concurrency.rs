//! Writers, deleters, readers, sealing and compaction at once, against what must hold at every moment.

use nearstone::random::SplitMix64;
use nearstone::{Background, Durability, ErrorKind, Metric, Schema, Store};
use nearstone_tests::stop::Stop;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const KEYS: u64 = 300;
const DIMENSION: usize = 6;

fn vector(key: u64, version: u64) -> Vec<f32> {
    let mut rng = SplitMix64::new(key << 40 | version);
    let mut vector: Vec<f32> = (0..DIMENSION).map(|_| rng.unit_f64() as f32).collect();
    // The row says which key and which write it is of.
    vector[0] = key as f32;
    vector[1] = version as f32;
    vector
}

#[test]
fn keys_have_one_live_row_whatever_runs_at_once() {
    let store = Store::builder()
        .background(Background::Threads(2))
        .seal_rows(500)
        .dead_share(0.1)
        .durability(Durability::Os)
        .in_memory()
        .unwrap();
    let schema = Schema::new(DIMENSION, Metric::L2).m(6).ef_construction(24);
    let rows = store.create_collection("rows", schema).unwrap();
    let stop = AtomicBool::new(false);
    let writes = AtomicU64::new(0);
    let versions: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let end = Instant::now() + Duration::from_secs(6);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        for thread in 0..3u64 {
            let (rows, stop, writes, versions) = (&rows, &stop, &writes, &versions);
            scope.spawn(move || {
                let mut rng = SplitMix64::new(thread);
                while !stop.load(Ordering::Relaxed) {
                    // Each thread has its own keys, so that it knows what they hold.
                    let key = rng.below(KEYS / 3) * 3 + thread;
                    let version = versions[key as usize].load(Ordering::Relaxed) + 1;
                    if rng.below(5) == 0 {
                        let there = version > 1 && rows.contains(key).unwrap();
                        assert_eq!(rows.delete(key).unwrap(), there);
                        assert!(!rows.contains(key).unwrap());
                    } else {
                        rows.upsert(key, &vector(key, version), ()).unwrap();
                        versions[key as usize].store(version, Ordering::Relaxed);
                        assert_eq!(rows.get(key).unwrap().unwrap().vector(), vector(key, version));
                    }
                    writes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                let mut rng = SplitMix64::new(99);
                while !stop.load(Ordering::Relaxed) {
                    let snapshot = store.snapshot();
                    let then = rows.at(&snapshot).unwrap();
                    let key = rng.below(KEYS);
                    let exact = rng.below(4) == 0;
                    let query = vector(key, rng.below(50));
                    let hits = then.search(&query).limit(20).exact(exact).with_vector().run().unwrap();
                    assert_eq!(hits.len() as u64, then.len().min(20));
                    let mut seen = std::collections::BTreeSet::new();
                    for hit in &hits {
                        let found = hit.vector().unwrap();
                        assert_eq!(found[0] as u64, hit.key().as_u64().unwrap(), "a foreign vector");
                        assert!(seen.insert(hit.key().clone()), "key {} twice", hit.key());
                        let read = then.get(hit.key()).unwrap().expect("a hit is there at its snapshot");
                        assert_eq!(read.vector(), found);
                    }
                    assert_eq!(then.keys().unwrap().count() as u64, then.len());
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
                store.flush().unwrap();
                store.compact().unwrap();
                store.verify().unwrap();
            }
        });
        // On a busy machine, or under a tool that makes all of this slow, until enough has happened.
        let patience = end + Duration::from_secs(120);
        let enough = || {
            let stats = store.stats().unwrap();
            stats.seals > 5 && stats.compactions > 5 && writes.load(Ordering::Relaxed) > 1000
        };
        while Instant::now() < end || (Instant::now() < patience && !enough()) {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let report = store.verify().unwrap();
    assert_eq!(report.rows, rows.len().unwrap());
    let stats = store.stats().unwrap();
    assert!(stats.seals > 5 && stats.compactions > 5, "{stats:?}");
    assert_eq!(stats.last_error, None);
    assert!(writes.load(Ordering::Relaxed) > 1000);
}

#[test]
fn a_collection_dropped_under_fire_fails_its_writers_whole() {
    let store = Store::builder().durability(Durability::Os).in_memory().unwrap();
    let schema = Schema::new(2, Metric::L2);
    let kept = store.create_collection("kept", schema).unwrap();
    for round in 0..10u64 {
        let dropped = store.create_collection("dropped", schema).unwrap();
        let before = kept.len().unwrap();
        let committed = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..3u64)
                .map(|thread| {
                    let (store, kept, dropped) = (&store, &kept, &dropped);
                    scope.spawn(move || {
                        for step in 0.. {
                            let key = round << 32 | thread << 24 | step;
                            let mut batch = store.batch();
                            batch.upsert(kept, key, &[1.0, 2.0], ()).unwrap();
                            batch.upsert(dropped, key, &[1.0, 2.0], ()).unwrap();
                            if let Err(error) = batch.commit() {
                                assert_eq!(error.kind(), ErrorKind::NotFound);
                                return step;
                            }
                        }
                        unreachable!("the collection is dropped sooner or later")
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_millis(5));
            store.drop_collection("dropped").unwrap();
            writers.into_iter().map(|writer| writer.join().unwrap()).sum::<u64>()
        });
        assert_eq!(kept.len().unwrap(), before + committed, "half of a batch was applied");
        assert_eq!(dropped.len().unwrap_err().kind(), ErrorKind::NotFound);
    }
    store.verify().unwrap();
}

#[test]
fn closing_ends_everybody_in_order() {
    for round in 0..10 {
        let store = Store::builder().seal_rows(50).in_memory().unwrap();
        let rows = store.create_collection("rows", Schema::new(4, Metric::Cosine)).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..3u64 {
                let rows = &rows;
                scope.spawn(move || {
                    for step in 0.. {
                        match rows.upsert(thread << 32 | step, &[1.0, step as f32, 2.0, 3.0], ()) {
                            Ok(_) => {}
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                                return;
                            }
                        }
                    }
                });
            }
            scope.spawn(|| while let Ok(()) = store.compact() {});
            std::thread::sleep(Duration::from_millis(5 + round * 5));
            store.close().unwrap();
        });
    }
}

#[test]
fn of_many_who_open_a_new_folder_one_makes_the_store_and_the_others_are_told_it_is_busy() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let made = std::thread::scope(|scope| {
            let openers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| match Store::open(&path) {
                        Ok(store) => {
                            store.collection_or_create("rows", Schema::new(2, Metric::L2)).unwrap();
                            store.close().unwrap();
                            1
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
                            0
                        }
                    })
                })
                .collect();
            openers.into_iter().map(|opener| opener.join().unwrap()).sum::<u32>()
        });
        assert!(made >= 1);
        assert_eq!(Store::open(&path).unwrap().collections().unwrap(), ["rows"]);
    }
}
