//! The work behind, disturbed: a collection that goes while it is sealed, a graph that finds too little, a worker or
//! a leader that panics.

use nearstone::random::SplitMix64;
use nearstone::vfs::{CrashChoice, Fate, SimVfs, Vfs};
use nearstone::{Background, Collection, Durability, ErrorKind, Metric, Schema, Store};
use nearstone_tests::disks::Around;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

const SEGMENTS: &str = "/store/segments";

fn open(vfs: Arc<dyn Vfs>) -> Store {
    Store::builder().vfs(vfs).background(Background::Manual).open("/store").unwrap()
}

fn keys(rows: &Collection) -> Vec<u64> {
    rows.keys().unwrap().map(|key| key.unwrap().as_u64().unwrap()).collect()
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "seg")
}

/// The transaction that would name the sealed file never comes, since the catalog has no such collection any more: the
/// file must go, and the store goes on.
#[test]
fn a_collection_that_is_dropped_while_it_is_sealed_leaves_no_file() {
    // Before the file gets its name, and when it is opened as a reader would.
    for moment in ["rename", "bytes"] {
        let disk = SimVfs::new(1);
        let to_drop: Arc<Mutex<Option<Store>>> = Arc::default();
        let armed = to_drop.clone();
        let store = open(Arc::new(Around::watched(disk.clone(), move |call, path| {
            if call == moment
                && is_segment(path)
                && let Some(store) = armed.lock().unwrap().take()
            {
                store.drop_collection("rows").unwrap();
            }
        })));
        let schema = Schema::new(2, Metric::L2).m(4).ef_construction(16);
        let rows = store.create_collection("rows", schema).unwrap();
        let others = store.create_collection("others", schema).unwrap();
        for key in 0..20u64 {
            rows.upsert(key, &[key as f32, 1.0], ()).unwrap();
        }
        others.upsert(7u64, &[7.0, 7.0], ()).unwrap();
        *to_drop.lock().unwrap() = Some(store.clone());
        rows.flush().unwrap();
        assert!(to_drop.lock().unwrap().is_none(), "{moment}: nobody dropped the collection");
        assert_eq!(rows.len().unwrap_err().kind(), ErrorKind::NotFound, "{moment}");
        assert_eq!(disk.list(Path::new(SEGMENTS)).unwrap(), [""; 0], "{moment}");
        assert_eq!(store.stats().unwrap().seals, 0, "{moment}");
        // Of the same name, and with another id: nothing of the old one comes back.
        let rows = store.create_collection("rows", schema).unwrap();
        rows.upsert(3u64, &[0.0, 0.0], ()).unwrap();
        store.flush().unwrap();
        store.verify().unwrap();
        for choice in [CrashChoice::DurableOnly, CrashChoice::KeepAll] {
            let store = open(Arc::new(disk.crash_image(choice)));
            assert_eq!(keys(&store.collection("rows").unwrap()), [3], "{moment}, {choice:?}");
            assert_eq!(keys(&store.collection("others").unwrap()), [7], "{moment}, {choice:?}");
            store.verify().unwrap();
        }
    }
}

/// Where walks find too little, the graph is built anew and its file takes the place of the one before under the same
/// name: wherever a crash falls, every row is there.
#[test]
fn a_graph_that_finds_too_little_is_built_anew_and_no_crash_loses_a_row() {
    const ROWS: u64 = 1200;
    // Dense clusters far from each other: 8 bits a number tell the clusters apart and not the rows of one, of which there
    // are more than a walk looks at.
    const CLUSTERS: u64 = 4;
    const DIMENSION: usize = 16;
    let mut rng = SplitMix64::new(1);
    let mut point = |spread: f32| -> Vec<f32> {
        (0..DIMENSION).map(|_| (rng.unit_f64() as f32 - 0.5) * spread).collect()
    };
    let centres: Vec<_> = (0..CLUSTERS).map(|_| point(1000.0)).collect();
    let vectors: Vec<Vec<f32>> = (0..ROWS)
        .map(|key| {
            let centre = &centres[(key % CLUSTERS) as usize];
            point(0.1).iter().zip(centre).map(|(offset, centre)| centre + offset).collect()
        })
        .collect();
    let disk = SimVfs::new(2);
    let named = Arc::new(AtomicU32::new(0));
    let counter = named.clone();
    let store = open(Arc::new(Around::watched(disk.clone(), move |call, path| {
        counter.fetch_add(u32::from(call == "rename" && is_segment(path)), Ordering::Relaxed);
    })));
    let schema = Schema::new(DIMENSION, Metric::L2).m(4).ef_construction(16);
    let rows = store.create_collection("rows", schema).unwrap();
    let all: Vec<_> = (0..ROWS).map(|key| (key, vectors[key as usize].clone(), ())).collect();
    rows.upsert_many(all).unwrap();
    for key in (0..ROWS).step_by(5) {
        assert!(rows.delete(key).unwrap());
    }
    let expected: Vec<u64> = (0..ROWS).filter(|key| key % 5 != 0).collect();
    disk.record();
    rows.flush().unwrap();
    assert_eq!(named.load(Ordering::Relaxed), 2, "the gate let the first graph pass");
    let moments = disk.recorded();
    assert!(moments.len() > 20, "{} moments", moments.len());
    for moment in &moments {
        let cut = moment.image(&vec![Fate::Lost; moment.pending()]);
        for image in [moment.killed(), cut] {
            let store = open(Arc::new(image));
            let rows = store.collection("rows").unwrap();
            assert_eq!(keys(&rows), expected, "before operation {}", moment.ops());
            store.verify().unwrap();
        }
    }
    for &key in expected.iter().step_by(50) {
        let vector = &vectors[key as usize];
        assert_eq!(rows.get(key).unwrap().unwrap().vector(), vector);
        let hits = rows.search(vector).limit(1).exact(true).run().unwrap();
        assert_eq!(hits[0].key().as_u64(), Some(key));
    }
}

/// Rows that it had claimed would stay unlinked for good, and a seal that waits for them would never end.
#[test]
fn a_worker_that_panics_ends_the_writing_and_says_so() {
    let disk = SimVfs::new(3);
    let watched = Around::watched(disk.clone(), |call, path| {
        let behind = std::thread::current().name().is_some_and(|name| name.starts_with("nearstone-"));
        assert!(!(behind && call == "rename" && is_segment(path)), "asked to panic");
    });
    let store = Store::builder()
        .vfs(Arc::new(watched))
        .background(Background::Threads(2))
        .seal_rows(8)
        .open("/store")
        .unwrap();
    let rows = store.create_collection("rows", Schema::new(2, Metric::L2).m(4).ef_construction(16)).unwrap();
    let batch: Vec<_> = (0..8u64).map(|key| (key, vec![key as f32, 1.0], ())).collect();
    rows.upsert_many(batch).unwrap();
    let patience = Instant::now() + Duration::from_secs(60);
    let said = loop {
        assert!(Instant::now() < patience, "nobody says that a worker panicked");
        match store.stats().unwrap().last_error {
            Some(said) if said.contains("a panic in the background") => break said,
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    assert!(said.contains("asked to panic"), "{said}");
    for error in [
        rows.upsert(9u64, &[9.0, 1.0], ()).unwrap_err(),
        store.persist().map(|_| ()).unwrap_err(),
        rows.flush().unwrap_err(),
        rows.compact().unwrap_err(),
        store.drop_collection("rows").unwrap_err(),
        store.backup("/copy").map(|_| ()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
        assert!(error.to_string().contains("asked to panic"), "{error}");
    }
    // Reads go on, and closing comes to an end, with the news.
    assert_eq!(keys(&rows), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(rows.search(&[3.0, 1.0]).limit(1).run().unwrap()[0].key().as_u64(), Some(3));
    assert_eq!(store.close().unwrap_err().kind(), ErrorKind::Poisoned);
    let store = open(Arc::new(disk.crash_image(CrashChoice::DurableOnly)));
    let rows = store.collection("rows").unwrap();
    assert_eq!(keys(&rows), [0, 1, 2, 3, 4, 5, 6, 7]);
    rows.upsert(9u64, &[9.0, 1.0], ()).unwrap();
    store.flush().unwrap();
    store.verify().unwrap();
}

/// The leader of a group writes for others, who would wait for it for ever.
#[test]
fn a_leader_that_panics_leaves_nobody_waiting() {
    let disk = SimVfs::new(4);
    let armed = Arc::new(AtomicBool::new(false));
    let strikes = armed.clone();
    let watched = Around::watched(disk.clone(), move |call, path| {
        let strikes = path.starts_with("/store/wal") && strikes.load(Ordering::Relaxed);
        assert!(!(strikes && call == "open"), "asked to panic");
    });
    let store = open(Arc::new(watched));
    let rows = store.create_collection("rows", Schema::new(2, Metric::L2).m(4).ef_construction(16)).unwrap();
    armed.store(true, Ordering::Relaxed);
    let (send, answers) = mpsc::channel();
    for key in 0..4u64 {
        let (rows, send) = (rows.clone(), send.clone());
        std::thread::spawn(move || send.send(rows.upsert(key, &[key as f32, 1.0], ())));
    }
    for _ in 0..4 {
        let answer = answers.recv_timeout(Duration::from_secs(60)).expect("a writer waits for ever");
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
        assert!(error.to_string().contains("asked to panic"), "{error}");
    }
    assert!(rows.is_empty().unwrap());
    assert_eq!(store.close().unwrap_err().kind(), ErrorKind::Poisoned);
    armed.store(false, Ordering::Relaxed);
    let store = open(Arc::new(disk.crash_image(CrashChoice::KeepAll)));
    let rows = store.collection("rows").unwrap();
    assert!(rows.is_empty().unwrap());
    rows.upsert(1u64, &[1.0, 1.0], ()).unwrap();
}

/// As many rows as no single piece of linking keeps up with, so that there is always something to link.
fn write_more_than_is_linked(store: &Store, rows: &Collection, round: u64, text: &str) {
    let payload = BTreeMap::from([("text", text)]);
    let mut batch = store.batch();
    for key in 0..400u64 {
        let angle = (round * 400 + key) as f32;
        batch.upsert(rows, key, &[angle.sin(), angle.cos()], &payload).unwrap();
    }
    batch.commit().unwrap();
}

/// Linking came first, and under a writer who never rests there was always something to link: sealed rows that were all
/// dead stayed on disk for as long as he went on.
#[test]
fn a_writer_who_never_rests_does_not_keep_dead_rows_on_disk() {
    let store = Store::builder().background(Background::Manual).in_memory().unwrap();
    let schema = Schema::new(2, Metric::L2).m(4).ef_construction(16);
    let rows = store.create_collection("rows", schema).unwrap();
    write_more_than_is_linked(&store, &rows, 0, "");
    store.flush().unwrap();
    for round in 1..=200 {
        write_more_than_is_linked(&store, &rows, round, "");
        store.step().unwrap();
    }
    let stats = store.stats().unwrap();
    assert!(stats.compactions > 0, "{:?}", stats.collections);
    assert_eq!(rows.len().unwrap(), 400);
    store.verify().unwrap();
}

/// As above: the log grew for as long as there was something to link.
#[test]
fn a_writer_who_never_rests_does_not_keep_the_log_from_being_cut() {
    const WAL_BYTES: u64 = 8 << 20;
    let store = Store::builder()
        .background(Background::Manual)
        .wal_bytes(WAL_BYTES)
        .auto_compact(false)
        .in_memory()
        .unwrap();
    let schema = Schema::new(2, Metric::L2).m(4).ef_construction(16);
    let rows = store.create_collection("rows", schema).unwrap();
    let text = "x".repeat(250);
    let mut longest = 0;
    for round in 0..600 {
        write_more_than_is_linked(&store, &rows, round, &text);
        store.step().unwrap();
        longest = longest.max(store.stats().unwrap().wal_bytes);
    }
    // Files grow to 16 MiB: the newest is never cut, and one more fills while the seal is under way.
    assert!(longest <= WAL_BYTES + (32 << 20), "{longest} bytes of log");
    let seals = store.stats().unwrap().seals;
    assert!((1..10).contains(&seals), "{seals} seals: what frees no file is not sealed");
    assert_eq!(rows.len().unwrap(), 400);
    store.verify().unwrap();
}

/// Rows that were put again and again died in memory, where no share of dead rows called for anything: a small store under
/// steady writes was a hundred thousand dead rows in memory and in the log, and every search walked through them.
#[test]
fn rows_that_are_put_again_and_again_do_not_pile_up_in_memory() {
    let store = Store::builder().background(Background::Manual).in_memory().unwrap();
    let schema = Schema::new(2, Metric::L2).m(4).ef_construction(16);
    let rows = store.create_collection("rows", schema).unwrap();
    for round in 0..100 {
        write_more_than_is_linked(&store, &rows, round, "");
        while store.step().unwrap() {}
    }
    let stats = &store.stats().unwrap().collections[0];
    assert!(stats.unsealed_rows < 5000 && stats.dead_rows < 5000, "{stats:?}");
    assert_eq!(rows.len().unwrap(), 400);
    store.verify().unwrap();
}

/// The work behind held the live state while it asked the log how far it is synced, and a writer holds the log while it waits
/// for the live state: both stood still for ever. Batches that change nothing are what lets the log be cut beside a writer.
#[test]
fn writers_and_the_work_behind_that_cuts_the_log_do_not_wait_for_each_other() {
    let (done, all_done) = mpsc::channel();
    std::thread::spawn(move || {
        let store = Store::builder().wal_bytes(1).durability(Durability::Os).in_memory().unwrap();
        let rows = store.create_collection("rows", Schema::new(2, Metric::L2)).unwrap();
        // Workers start with the first write.
        rows.upsert(1u64, &[1.0, 1.0], ()).unwrap();
        store.flush().unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4u64 {
                let rows = &rows;
                scope.spawn(move || {
                    for key in 0..20_000 {
                        assert!(!rows.delete(1_000_000 * (writer + 1) + key).unwrap());
                    }
                });
            }
        });
        assert_eq!(rows.len().unwrap(), 1);
        store.close().unwrap();
        done.send(()).unwrap();
    });
    let waited = all_done.recv_timeout(Duration::from_secs(100));
    assert!(waited.is_ok(), "writers and the work behind stand still: {waited:?}");
}
