//! The work behind, governed: paused, resumed, cancelled, kept to a rate of bytes by a clock that the test moves.

use nearstone::clock::ManualClock;
use nearstone::vfs::{CrashChoice, SimVfs};
use nearstone::{
    Background, Collection, ErrorKind, Metric, OnCollision, RebuildOptions, Schema, Store, StoreBuilder,
    StoreStats,
};
use nearstone_tests::disks::Around;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// How long something has to happen.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long something has not to happen.
const STILL: Duration = Duration::from_millis(150);

fn schema() -> Schema {
    Schema::new(2, Metric::L2).m(4).ef_construction(16)
}

fn behind() -> StoreBuilder {
    Store::builder().background(Background::Threads(1)).seal_rows(20).dead_share(0.1)
}

fn put(rows: &Collection, keys: impl IntoIterator<Item = u64>) {
    for key in keys {
        rows.upsert(key, &[key as f32, 1.0], ()).unwrap();
    }
}

fn wait_until(store: &Store, what: &str, is_so: impl Fn(&StoreStats) -> bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        let stats = store.stats().unwrap();
        if is_so(&stats) {
            return;
        }
        assert!(Instant::now() < end, "{what}: {stats:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a call that must come to an end by itself.
fn ends<T: Send + 'static>(what: &str, call: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || done.send(call()));
    ended.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what} waits for ever"))
}

type Call = fn(&Collection) -> nearstone::Result<()>;

/// Names of files that are being written.
fn unfinished(disk: &SimVfs) -> usize {
    let is_tmp = |path: &Path| path.extension().is_some_and(|extension| extension == "tmp");
    disk.files().iter().filter(|(path, _)| is_tmp(path)).count()
}

fn no_litter(disk: &SimVfs, store: &Store) {
    let named: usize = store.stats().unwrap().collections.iter().map(|c| c.segments.len()).sum();
    let files = disk.files().into_iter().filter(|(path, _)| path.starts_with("store/segments")).count();
    assert_eq!(files, named);
    store.verify().unwrap();
}

#[test]
fn paused_it_does_nothing_and_resumed_it_goes_on() {
    let store = behind().in_memory().unwrap();
    let rows = store.create_collection("rows", schema()).unwrap();
    let (first, second) = (store.pause_background(), store.pause_background());
    put(&rows, 0..100);
    std::thread::sleep(STILL);
    let stats = store.stats().unwrap();
    assert!(stats.background_paused);
    assert_eq!((stats.seals, stats.collections[0].unlinked_rows), (0, 100));
    drop(first);
    std::thread::sleep(STILL);
    assert_eq!(store.stats().unwrap().seals, 0, "two pauses need two resumes");
    drop(second);
    wait_until(&store, "it does not go on", |stats| stats.seals >= 5 && !stats.background_paused);
    assert_eq!(rows.len().unwrap(), 100);
}

#[test]
fn pieces_by_hand_are_paused_as_well() {
    let store = Store::builder().background(Background::Manual).in_memory().unwrap();
    let rows = store.create_collection("rows", schema()).unwrap();
    put(&rows, 0..10);
    let pause = store.pause_background();
    assert!(!store.step().unwrap());
    drop(pause);
    assert!(store.step().unwrap());
    assert_eq!(store.stats().unwrap().collections[0].unlinked_rows, 0);
}

/// Calls do what they say, also those that need a turn which a parked piece of work holds.
#[test]
fn calls_do_what_they_say_while_it_is_paused() {
    let disk = SimVfs::new(1);
    let clock = Arc::new(ManualClock::default());
    let store = behind()
        .background_bytes_per_second(1)
        .vfs(Arc::new(disk.clone()))
        .clock(clock.clone())
        .open("/store")
        .unwrap();
    let rows = store.create_collection("rows", schema()).unwrap();
    put(&rows, 0..30);
    // It has written its first bytes, and has to wait for the clock from then on, which stands still.
    let end = Instant::now() + PATIENCE;
    while unfinished(&disk) == 0 {
        assert!(Instant::now() < end, "nothing is sealed");
        std::thread::sleep(Duration::from_millis(2));
    }
    let pause = store.pause_background();
    let calls: [(&str, Call); 4] = [
        ("a flush", |rows| rows.flush()),
        ("a compaction", |rows| {
            put(rows, 100..110);
            rows.compact()
        }),
        ("a rebuild", |rows| {
            put(rows, 200..210);
            rows.rebuild(RebuildOptions::new().m(5))
        }),
        ("a bulk load", |rows| {
            put(rows, 300..310);
            let mut load = rows.bulk_load()?.on_collision(OnCollision::Replace);
            (305..315u64).try_for_each(|key| load.push(key, &[key as f32, 1.0], ()))?;
            load.finish().map(drop)
        }),
    ];
    for (what, call) in calls {
        let rows = rows.clone();
        ends(what, move || call(&rows)).unwrap();
    }
    let stats = store.stats().unwrap();
    assert_eq!((stats.collections[0].rows, stats.rebuilds), (65, 1));
    assert!(stats.background_paused);
    no_litter(&disk, &store);
    // A pause does not keep a store open, nor from being closed.
    ends("closing", move || store.close()).unwrap();
    drop(pause);
    let store =
        Store::builder().background(Background::Manual).vfs(Arc::new(disk.clone())).open("/store").unwrap();
    assert_eq!(store.collection("rows").unwrap().len().unwrap(), 65);
    no_litter(&disk, &store);
}

/// Without help, the writer would get `Busy` after a minute.
#[test]
fn a_writer_who_needs_memory_gets_it_while_it_is_paused() {
    let store = behind().memory_budget(200_000).in_memory().unwrap();
    let rows = store.create_collection("rows", schema()).unwrap();
    let pause = store.pause_background();
    let stalled = rows.clone();
    let text = "x".repeat(1000);
    ends("a writer", move || {
        (0..1_000u64).try_for_each(|key| {
            stalled.upsert(key, &[key as f32, 1.0], serde_json::json!({ "text": text })).map(drop)
        })
    })
    .unwrap();
    let stats = store.stats().unwrap();
    assert!(stats.write_stalls > 0 && stats.seals > 0 && stats.background_paused, "{stats:?}");
    // When nobody waits any more it stops. What the last one left may be so near to the budget that the next ones wait too, once.
    let quiet = (0..10).find(|turn| {
        let before = store.stats().unwrap();
        put(&rows, 2000 + turn * 10..2010 + turn * 10);
        std::thread::sleep(STILL);
        let after = store.stats().unwrap();
        let waited = after.write_stalls > before.write_stalls;
        assert!(waited || after.seals <= before.seals + 1, "{before:?} {after:?}");
        !waited
    });
    drop(pause);
    assert_eq!(rows.len().unwrap(), 1_010 + quiet.expect("each of ten waited") * 10);
}

#[test]
fn bytes_are_written_at_the_pace_of_the_clock() {
    let disk = SimVfs::new(1);
    let clock = Arc::new(ManualClock::default());
    let named = Arc::new(AtomicU32::new(0));
    let watched = {
        let named = named.clone();
        Around::watched(disk.clone(), move |call, path| {
            let is_segment = path.extension().is_some_and(|extension| extension == "seg");
            named.fetch_add(u32::from(call == "rename" && is_segment), Ordering::Relaxed);
        })
    };
    let store = behind()
        .background_bytes_per_second(1 << 10)
        .auto_compact(false)
        .vfs(Arc::new(watched))
        .clock(clock.clone())
        .open("/store")
        .unwrap();
    let rows = store.create_collection("rows", schema()).unwrap();
    put(&rows, 0..40);
    // The file's last write comes when all before it are paid for: some ten kilobytes.
    let mut seconds = 0;
    let end = Instant::now() + PATIENCE;
    while named.load(Ordering::Relaxed) == 0 {
        assert!(Instant::now() < end, "the clock is at {seconds} s, and nothing is sealed");
        std::thread::sleep(Duration::from_millis(30));
        clock.advance(Duration::from_secs(1));
        seconds += 1;
    }
    let files = disk.files().into_iter().filter(|(path, _)| path.starts_with("store/segments"));
    let bytes: u64 = files.map(|(_, len)| len).sum();
    assert!(bytes > 8 << 10, "{bytes}");
    assert!(seconds >= 4, "{bytes} bytes in {seconds} s at 1,024 bytes a second");
    // A call is not held back, though the clock stands still.
    let flushed = rows.clone();
    ends("a flush", move || flushed.flush()).unwrap();
    assert_eq!(store.stats().unwrap().collections[0].unsealed_rows, 0);
    no_litter(&disk, &store);
}

/// Wherever it is cancelled it leaves nothing, and begins again.
#[test]
fn what_is_cancelled_leaves_nothing_and_is_done_later() {
    let disk = SimVfs::new(1);
    let clock = Arc::new(ManualClock::default());
    let store = behind()
        .background_bytes_per_second(1)
        .vfs(Arc::new(disk.clone()))
        .clock(clock.clone())
        .open("/store")
        .unwrap();
    let rows = store.create_collection("rows", schema()).unwrap();
    put(&rows, 0..30);
    for round in 0..3 {
        let end = Instant::now() + PATIENCE;
        while unfinished(&disk) == 0 {
            assert!(Instant::now() < end, "round {round}: nothing is begun");
            std::thread::sleep(Duration::from_millis(2));
        }
        let pause = store.pause_background();
        store.cancel_background();
        while unfinished(&disk) > 0 {
            assert!(Instant::now() < end, "round {round}: it is not given up");
            std::thread::sleep(Duration::from_millis(2));
        }
        no_litter(&disk, &store);
        assert_eq!((rows.len().unwrap(), store.stats().unwrap().seals), (30, 0));
        let image = disk.crash_image(CrashChoice::KeepAll);
        let again =
            Store::builder().background(Background::Manual).vfs(Arc::new(image)).open("/store").unwrap();
        assert_eq!(again.collection("rows").unwrap().len().unwrap(), 30);
        drop(pause);
        // What was written is paid for, so that the next round gets as far.
        clock.advance(Duration::from_secs(1 << 30));
    }
    assert_eq!(store.stats().unwrap().last_error, None, "being told to end is no failure");
    let end = Instant::now() + PATIENCE;
    while store.stats().unwrap().seals == 0 {
        assert!(Instant::now() < end, "it is not done");
        clock.advance(Duration::from_secs(1 << 30));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(rows.len().unwrap(), 30);
    store.close().unwrap();
    no_litter_closed(&disk);
}

fn no_litter_closed(disk: &SimVfs) {
    let store =
        Store::builder().background(Background::Manual).vfs(Arc::new(disk.clone())).open("/store").unwrap();
    assert_eq!(store.collection("rows").unwrap().len().unwrap(), 30);
    no_litter(disk, &store);
}

/// A merge under way, given up by hand: with `Manual` the piece of work is a call of the test, and another thread cancels it
/// while it waits for the clock.
#[test]
fn a_compaction_that_is_cancelled_keeps_its_inputs() {
    let disk = SimVfs::new(1);
    let clock = Arc::new(ManualClock::default());
    let store = Store::builder()
        .background(Background::Manual)
        .background_bytes_per_second(1)
        .vfs(Arc::new(disk.clone()))
        .clock(clock.clone())
        .open("/store")
        .unwrap();
    let rows = store.create_collection("rows", schema()).unwrap();
    for from in (0..40).step_by(10) {
        put(&rows, from..from + 10);
        rows.flush().unwrap();
    }
    std::thread::scope(|scope| {
        let step = scope.spawn(|| store.step());
        let end = Instant::now() + PATIENCE;
        while unfinished(&disk) == 0 {
            assert!(Instant::now() < end, "no compaction is begun");
            std::thread::sleep(Duration::from_millis(2));
        }
        store.cancel_background();
        assert_eq!(step.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    });
    let stats = store.stats().unwrap();
    assert_eq!((stats.compactions, stats.collections[0].segments.len()), (0, 4));
    no_litter(&disk, &store);
    std::thread::scope(|scope| {
        let step = scope.spawn(|| store.step());
        let end = Instant::now() + PATIENCE;
        while !step.is_finished() {
            assert!(Instant::now() < end, "the compaction does not end");
            clock.advance(Duration::from_secs(1 << 30));
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(step.join().unwrap().unwrap());
    });
    assert_eq!(store.stats().unwrap().collections[0].segments.len(), 1);
    assert_eq!(rows.len().unwrap(), 40);
    no_litter(&disk, &store);
}

#[test]
fn a_rate_of_nothing_is_refused() {
    let error = behind().background_bytes_per_second(0).in_memory().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("background_bytes_per_second is 0"), "{error}");
}
