//! A whole store under shuttle: writers, readers, bulk loads, a linker, a sealer, a compactor and a rebuild, whose steps
//! (each lock, each atomic, each wait) shuttle interleaves as a seed decides, so that a failure can be repeated: the seed is
//! printed, and `SHUTTLE_RANDOM_SEED=<seed> NEARSTONE_SHUTTLE=1` with the name of the test runs that order alone.
//!
//! Everything that blocks has to be shuttle's: the store's locks and waits are, by way of `base::sync`; its background
//! work is done by the threads of the test (`Background::Manual`). The catalog's database has locks of its own, under
//! which it calls the store's page checks, which may be interrupted; that is harmless, since all who use the database
//! hold the store's lock of the catalog. The simulated disk is never interrupted.
//!
//! Shuttle treats all atomics as sequentially consistent; what weaker orders allow is the matter of the tests named
//! `loom`.
//!
//! `NEARSTONE_SHUTTLE=N cargo xtask test --only loom`
#![cfg(nearstone_shuttle)]

use nearstone::clock::ManualClock;
use nearstone::random::SeededRandom;
use nearstone::vfs::SimVfs;
use nearstone::{Background, Collection, CollectionAt, Metric, RebuildOptions, Schema, Store};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner, thread};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The key that both writers write.
const SHARED: u64 = 100;
/// Rows carry numbers below this, as a fraction: distances are a matter of keys.
const NUMBERS: f32 = 4096.0;
/// Batches per writer.
const BATCHES: u64 = 4;
/// Orders run by default, by each of the tests: about a minute.
const ORDERS: u64 = 3_000;
/// A scheduler with priorities learns from the orders before how long they are, so several share a seed.
const ORDERS_PER_SEED: u64 = 10;

/// The store, and two collections that always hold the same rows: every batch changes both.
#[derive(Clone)]
struct Twins {
    store: Store,
    a: Collection,
    b: Collection,
}

/// Key to the number that its row carries.
type Rows = BTreeMap<u64, u64>;

impl Twins {
    fn open(disk: &SimVfs) -> Twins {
        let store = Store::builder()
            .background(Background::Manual)
            .seal_rows(6)
            .vfs(Arc::new(disk.clone()))
            .clock(Arc::new(ManualClock::default()))
            .random(Arc::new(SeededRandom::new(1)))
            .open("/store")
            .unwrap();
        let schema = Schema::new(2, Metric::L2).m(4).ef_construction(4);
        let a = store.collection_or_create("a", schema).unwrap();
        let b = store.collection_or_create("b", schema).unwrap();
        Twins { store, a, b }
    }

    /// One batch: puts these keys with a number, deletes the others, in both collections.
    fn write(&self, put: &[u64], number: u64, deleted: &[u64]) {
        let mut batch = self.store.batch();
        for collection in [&self.a, &self.b] {
            for &key in put {
                batch.upsert(collection, key, &[key as f32, number as f32 / NUMBERS], ()).unwrap();
            }
            for &key in deleted {
                batch.delete(collection, key).unwrap();
            }
        }
        batch.commit().unwrap();
    }

    /// Everything that there is at one moment, read in all ways; the ways and the twins have to agree.
    fn read(&self) -> (u64, Rows) {
        let snapshot = self.store.snapshot();
        let a = read(&self.a.at(&snapshot).unwrap());
        let b = read(&self.b.at(&snapshot).unwrap());
        assert_eq!(a, b, "half of a batch at lsn {}", snapshot.lsn());
        (snapshot.lsn(), a)
    }
}

fn number_of(vector: &[f32]) -> u64 {
    (vector[1] * NUMBERS) as u64
}

fn read(rows: &CollectionAt) -> Rows {
    let keys: Vec<u64> = rows.keys().unwrap().map(|key| key.unwrap().as_u64().unwrap()).collect();
    assert_eq!(keys.len() as u64, rows.len());
    let mut found = Rows::new();
    for key in keys {
        let row = rows.get(key).unwrap().unwrap_or_else(|| panic!("key {key} is listed and not there"));
        assert_eq!(row.vector()[0], key as f32, "a foreign vector");
        assert_eq!(found.insert(key, number_of(row.vector())), None, "key {key} has two live rows");
    }
    for exact in [true, false] {
        let hits = rows.search(&[15.0, 0.0]).limit(3).ef(4).exact(exact).with_vector().run().unwrap();
        assert_eq!(hits.len(), found.len().min(3), "exact: {exact}");
        let mut keys: Vec<u64> = Vec::new();
        for hit in hits {
            let key = hit.key().as_u64().unwrap();
            let vector = hit.vector().unwrap();
            assert_eq!((vector[0] as u64, Some(&number_of(vector))), (key, found.get(&key)));
            assert!(!keys.contains(&key), "key {key} twice");
            keys.push(key);
        }
    }
    found
}

/// Writes two keys of its own and the one that is shared; what its own keys hold in the end.
fn writer(twins: &Twins, writer: u64) -> Rows {
    let mut own = Rows::new();
    for step in 0..BATCHES {
        let (key, number) = (writer * 10 + step % 2, writer * 1000 + step);
        if step == 2 {
            twins.write(&[SHARED], number, &[key]);
            own.remove(&key);
        } else {
            twins.write(&[key, SHARED], number, &[]);
            own.insert(key, number);
        }
        let now = twins.a.get(key).unwrap().map(|row| number_of(row.vector()));
        assert_eq!(now.as_ref(), own.get(&key), "a writer does not read what it wrote");
    }
    own
}

fn everything_at_once() {
    let disk = SimVfs::new(1);
    let twins = Twins::open(&disk);
    // Two sealed segments, so that the first merge has something to do.
    for number in 0..2 {
        twins.write(&[10, 20, 30 + number, SHARED], number, &[]);
        twins.store.flush().unwrap();
    }
    let start = |f: fn(&Twins)| {
        let twins = twins.clone();
        thread::spawn(move || f(&twins))
    };
    let writers: Vec<_> = [1, 2]
        .map(|number| {
            let twins = twins.clone();
            thread::spawn(move || writer(&twins, number))
        })
        .into();
    let others = [
        start(|twins| {
            let mut last = 0;
            for _ in 0..3 {
                let (lsn, rows) = twins.read();
                assert!(lsn >= last, "lsn {lsn} after {last}");
                assert!(rows.contains_key(&SHARED) && rows.contains_key(&30), "{rows:?}");
                last = lsn;
            }
        }),
        start(|twins| {
            for collection in [&twins.a, &twins.b, &twins.a] {
                collection.link(1).unwrap();
            }
        }),
        start(|twins| twins.store.flush().unwrap()),
        start(|twins| {
            for collection in [&twins.a, &twins.b] {
                collection.compact().unwrap();
            }
        }),
        start(|twins| twins.b.rebuild(RebuildOptions::new().m(5).ef_construction(5)).unwrap()),
    ];
    let mut expected = Rows::from([(30, 0), (31, 1)]);
    for writer in writers {
        expected.extend(writer.join().unwrap());
    }
    for other in others {
        other.join().unwrap();
    }
    let (lsn, mut rows) = twins.read();
    assert_eq!(lsn, 2 + 2 * BATCHES);
    let shared = rows.remove(&SHARED).expect("no batch deletes it");
    assert!(shared % 1000 == BATCHES - 1, "{shared} is not of a writer's last batch");
    assert_eq!(rows, expected);
    twins.store.verify().unwrap();
    twins.store.close().unwrap();
    drop(twins);

    let again = Twins::open(&disk);
    rows.insert(SHARED, shared);
    assert_eq!(again.read(), (lsn, rows));
}

/// What a batch or a load did with keys: puts them with a number, or deletes them.
type Done = (Vec<u64>, Option<u64>);

/// Loads two keys with a number; the lsn.
fn load(twins: &Twins, number: u64, keys: [u64; 2]) -> u64 {
    let mut load = twins.a.bulk_load().unwrap();
    for key in keys {
        load.push(key, &[key as f32, number as f32 / NUMBERS], ()).unwrap();
    }
    load.finish().unwrap().lsn
}

/// Loads beside a writer of the same keys, a sealer and a compactor: everything is in the order of the lsns.
fn loads_among_others() {
    let disk = SimVfs::new(1);
    let twins = Twins::open(&disk);
    let done: Arc<std::sync::Mutex<BTreeMap<u64, Done>>> = Arc::default();
    let note = |done: &std::sync::Mutex<BTreeMap<u64, Done>>, lsn: u64, what: Done| {
        assert!(done.lock().unwrap().insert(lsn, what).is_none(), "lsn {lsn} was given twice");
    };
    for key in [1, 2] {
        let lsn = twins.a.upsert(key, &[key as f32, 0.0], ()).unwrap();
        note(&done, lsn, (vec![key], Some(0)));
        twins.a.flush().unwrap();
    }
    let start = |f: fn(&Twins, &dyn Fn(u64, Done))| {
        let (twins, done) = (twins.clone(), done.clone());
        thread::spawn(move || f(&twins, &|lsn, what| note(&done, lsn, what)))
    };
    let threads = [
        start(|twins, note| note(load(twins, 10, [1, 3]), (vec![1, 3], Some(10)))),
        start(|twins, note| note(load(twins, 20, [2, 3]), (vec![2, 3], Some(20)))),
        start(|twins, note| {
            for (number, key) in (30..).zip([1, 2, 3]) {
                let lsn = twins.a.upsert(key, &[key as f32, number as f32 / NUMBERS], ()).unwrap();
                note(lsn, (vec![key], Some(number)));
                let mut batch = twins.store.batch();
                batch.delete(&twins.a, key % 3 + 1).unwrap();
                note(batch.commit().unwrap().lsn, (vec![key % 3 + 1], None));
            }
        }),
        start(|twins, _| {
            for _ in 0..2 {
                let snapshot = twins.store.snapshot();
                let reads = twins.a.at(&snapshot).unwrap();
                assert_eq!(read(&reads), read(&reads), "a snapshot at lsn {} has changed", snapshot.lsn());
            }
        }),
        start(|twins, _| twins.a.flush().unwrap()),
        start(|twins, _| twins.a.compact().unwrap()),
    ];
    for thread in threads {
        thread.join().unwrap();
    }
    let mut expected = Rows::new();
    let done = std::mem::take(&mut *done.lock().unwrap());
    assert!(done.keys().copied().eq(1..=2 + 2 + 6), "{done:?}");
    for (keys, number) in done.into_values() {
        match number {
            Some(number) => expected.extend(keys.into_iter().map(|key| (key, number))),
            None => expected.retain(|key, _| !keys.contains(key)),
        }
    }
    assert_eq!(read(&twins.a.now().unwrap()), expected);
    twins.store.verify().unwrap();
    twins.store.close().unwrap();
    drop(twins);
    assert_eq!(read(&Twins::open(&disk).a.now().unwrap()), expected);
}

/// Says which seed it was when a run panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the order that failed has the seed {}", self.0);
        }
    }
}

fn run(seed: u64, scheduler: impl Scheduler + 'static, what: fn()) {
    let _seed = Seed(seed);
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.max_steps = MaxSteps::FailAfter(20_000_000);
    // The seed says it all, and is shorter than the schedule.
    config.failure_persistence = FailurePersistence::None;
    config.silence_warnings = true;
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    Runner::new(scheduler, config).run(what);
}

fn orders() -> u64 {
    std::env::var("NEARSTONE_SHUTTLE").map_or(ORDERS, |orders| orders.parse().expect("a number of orders"))
}

/// At each step any thread may go on.
#[test]
fn in_random_orders() {
    for seed in 0..orders() {
        run(seed, RandomScheduler::new_from_seed(seed, 1), everything_at_once);
    }
}

/// At each step any thread may go on.
#[test]
fn loads_in_random_orders() {
    for seed in 0..orders() {
        run(seed, RandomScheduler::new_from_seed(seed, 1), loads_among_others);
    }
}

/// Threads have priorities, which change a few times (Burckhardt et al., "A randomized scheduler with probabilistic
/// guarantees of finding bugs", ASPLOS 2010): finds what needs one thread to stand still for long.
#[test]
fn in_orders_with_few_changes_of_thread() {
    for seed in 0..orders().div_ceil(ORDERS_PER_SEED) {
        run(seed, PctScheduler::new_from_seed(seed, 4, ORDERS_PER_SEED as usize), everything_at_once);
    }
}

/// Also with priorities that change a few times.
#[test]
fn loads_in_orders_with_few_changes_of_thread() {
    for seed in 0..orders().div_ceil(ORDERS_PER_SEED) {
        run(seed, PctScheduler::new_from_seed(seed, 4, ORDERS_PER_SEED as usize), loads_among_others);
    }
}
