//! Crash enumeration over scripted, exhaustive short and random histories.
//!
//! `NEARSTONE_CRASH_IMAGES` sets how many distinct disks are opened in all (default 6,000), `NEARSTONE_CRASH_SEED`
//! where the random histories begin, `NEARSTONE_CRASH_MINUTES` after how many minutes to end with fewer (default:
//! never).

use nearstone::random::SplitMix64;
use nearstone::{OnCollision, TakeFiles};
use nearstone_tests::enumerate::Enumerator;
use nearstone_tests::history::{Change, Op};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn put(collection: usize, key: u64, value: u32) -> Change {
    Change::Upsert { collection, key, value }
}

fn delete(collection: usize, key: u64) -> Change {
    Change::Delete { collection, key }
}

fn batch(changes: Vec<Change>, synced: bool) -> Op {
    Op::Batch { changes, synced }
}

/// What a person would try first: each protocol, with writes of both kinds around it.
fn scripted() -> Vec<Vec<Op>> {
    let fill = |from: u64, synced| {
        batch((from..from + 6).map(|k| put((k % 2) as usize, k, k as u32)).collect(), synced)
    };
    let both = |key, value, synced| batch(vec![put(0, key, value), put(1, key, value + 1)], synced);
    vec![
        vec![
            both(1, 1, true),
            both(1, 4, false),
            batch(vec![delete(0, 1)], true),
            both(2, 7, false),
            Op::Persist,
        ],
        vec![fill(0, true), Op::Flush(0), batch(vec![delete(0, 2), put(1, 3, 9)], true), Op::Flush(1)],
        vec![
            fill(0, true),
            Op::Flush(0),
            fill(2, true),
            Op::Flush(0),
            batch(vec![delete(0, 4)], false),
            Op::Compact(0),
        ],
        vec![
            fill(0, false),
            Op::Flush(0),
            batch(vec![delete(0, 0)], false),
            Op::Compact(0),
            Op::Persist,
            Op::Reopen,
        ],
        vec![
            fill(0, true),
            Op::Snapshot,
            Op::Flush(0),
            Op::Compact(0),
            Op::Release,
            fill(6, true),
            Op::Steps(5),
        ],
        vec![
            fill(0, true),
            Op::Recreate(0),
            both(5, 5, true),
            Op::Flush(0),
            Op::Rename(1),
            both(6, 6, false),
            Op::Flush(1),
        ],
        vec![
            fill(0, true),
            Op::Flush(0),
            Op::Backup,
            fill(4, true),
            Op::Reopen,
            both(1, 2, true),
            Op::Compact(0),
        ],
        vec![
            fill(0, true),
            fill(6, true),
            fill(12, true),
            fill(18, true),
            Op::Steps(9),
            Op::Wait(90_000),
            Op::Steps(9),
        ],
        vec![
            fill(0, false),
            Op::Flush(0),
            batch(vec![put(0, 3, 9), delete(0, 4)], false),
            Op::Snapshot,
            load(0, 2..6, OnCollision::Replace),
            both(3, 8, false),
            Op::Reopen,
        ],
        vec![
            load(1, 0..30, OnCollision::Refuse),
            batch(vec![delete(1, 5), put(0, 1, 1)], false),
            load(1, 4..8, OnCollision::Keep),
            Op::Compact(1),
            load(1, 4..5, OnCollision::Refuse),
        ],
        vec![
            fill(0, true),
            Op::Flush(0),
            batch(vec![put(0, 3, 9), delete(0, 4)], false),
            Op::Rebuild(0),
            both(5, 7, false),
            Op::Reopen,
            Op::Rebuild(0),
        ],
        vec![
            build(0, 2..16),
            fill(0, false),
            Op::Flush(0),
            batch(vec![put(0, 3, 9), delete(0, 4)], false),
            attach(0, OnCollision::Keep, TakeFiles::Copy),
            both(3, 8, false),
            attach(0, OnCollision::Replace, TakeFiles::Copy),
            Op::Compact(0),
            attach(0, OnCollision::Replace, TakeFiles::Move),
        ],
    ]
}

fn build(collection: usize, keys: Range<u64>) -> Op {
    Op::Build { collection, rows: keys.map(|key| (key, key as u32 + 20)).collect() }
}

fn attach(collection: usize, on_collision: OnCollision, take: TakeFiles) -> Op {
    Op::Attach { build: 0, collection, on_collision, take }
}

fn load(collection: usize, keys: Range<u64>, on_collision: OnCollision) -> Op {
    Op::Load { collection, rows: keys.map(|key| (key, key as u32 + 20)).collect(), on_collision }
}

/// What short histories are made of.
fn short() -> Vec<Op> {
    vec![
        batch(vec![put(0, 1, 1), put(1, 1, 2)], true),
        batch(vec![put(0, 1, 4), delete(1, 1)], false),
        batch(vec![delete(0, 1), put(1, 2, 5)], true),
        Op::Persist,
        Op::Flush(0),
        Op::Flush(1),
        Op::Compact(0),
        Op::Rebuild(0),
        load(0, 1..3, OnCollision::Replace),
        load(0, 1..4, OnCollision::Keep),
        Op::Recreate(0),
        Op::Rename(1),
        Op::Reopen,
    ]
}

fn random(seed: u64) -> Vec<Op> {
    let mut rng = SplitMix64::new(seed);
    let mut below = move |n: u64| rng.below(n);
    let count = 3 + below(12);
    let mut ops = Vec::new();
    for _ in 0..count {
        let collection = below(2) as usize;
        let op = match below(20) {
            0..=9 => {
                let changes = 1 + below(6);
                let mut all = Vec::new();
                for _ in 0..changes {
                    let (collection, key) = (below(2) as usize, below(16));
                    all.push(if below(4) == 0 {
                        delete(collection, key)
                    } else {
                        put(collection, key, below(40) as u32)
                    });
                }
                batch(all, below(2) == 0)
            }
            10..=12 => Op::Flush(collection),
            13 => Op::Compact(collection),
            14 => match below(3) {
                0 => Op::Rebuild(collection),
                _ => Op::Compact(collection),
            },
            15 => Op::Steps(1 + below(4) as u8),
            16 => Op::Persist,
            17 => Op::Reopen,
            18 => match below(4) {
                0 => Op::Recreate(collection),
                1 => Op::Rename(collection),
                policy => {
                    let on_collision = if policy == 2 { OnCollision::Replace } else { OnCollision::Keep };
                    let rows = (0..1 + below(16)).map(|_| (below(16), below(40) as u32)).collect();
                    match below(2) {
                        0 => Op::Load { collection, rows, on_collision },
                        _ => {
                            ops.push(Op::Build { collection, rows });
                            let take = if below(2) == 0 { TakeFiles::Copy } else { TakeFiles::Move };
                            Op::Attach { build: below(4) as usize, collection, on_collision, take }
                        }
                    }
                }
            },
            _ => {
                if below(2) == 0 {
                    Op::Snapshot
                } else {
                    Op::Backup
                }
            }
        };
        ops.push(op);
    }
    ops
}

#[derive(Default)]
struct Totals {
    images: AtomicU64,
    laid_out: AtomicU64,
    recoveries: AtomicU64,
}

impl Totals {
    fn add(&self, enumerator: &Enumerator) {
        self.images.fetch_add(enumerator.images, Ordering::Relaxed);
        self.laid_out.fetch_add(enumerator.laid_out, Ordering::Relaxed);
        self.recoveries.fetch_add(enumerator.recoveries, Ordering::Relaxed);
    }

    fn images(&self) -> u64 {
        self.images.load(Ordering::Relaxed)
    }

    fn say(&self, what: &str, start: Instant) {
        let images = self.images();
        let minutes = start.elapsed().as_secs_f64() / 60.0;
        println!(
            "{what}: {images} distinct disks ({} laid out, {} more crashes during recovery) in {minutes:.1} min, \
             {:.0} a minute",
            self.laid_out.load(Ordering::Relaxed),
            self.recoveries.load(Ordering::Relaxed),
            images as f64 / minutes
        );
    }
}

/// When one of so many parts, begun now, has to end so that all of them, on all cores, end in this time.
fn share_of(time: Option<Duration>, parts: u64) -> Option<Instant> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    Some(Instant::now() + time? * cores / parts as u32)
}

/// Takes numbers until there are none, on all cores; the first failure ends it.
fn on_all_cores(
    count: u64,
    work: impl Fn(u64, &mut Enumerator) -> Result<bool, String> + Sync,
    totals: &Totals,
) {
    let next = AtomicU64::new(0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for core in 0..cores {
            let next = &next;
            let work = &work;
            scope.spawn(move || {
                let mut enumerator = Enumerator::new(number("NEARSTONE_CRASH_SEED", 1) ^ (core as u64) << 48);
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    match work(index, &mut enumerator) {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(error) => {
                            next.store(count, Ordering::Relaxed);
                            panic!("{error}");
                        }
                    }
                }
                totals.add(&enumerator);
            });
        }
    });
}

#[test]
fn every_disk_that_a_crash_can_leave_is_a_moment_of_the_past() {
    let budget = number("NEARSTONE_CRASH_IMAGES", 6_000);
    let start = Instant::now();
    // A third for each kind of history; random ones get what others leave.
    let share = budget / 3;
    let time = std::env::var("NEARSTONE_CRASH_MINUTES").ok().and_then(|n| n.parse().ok());
    let time = time.map(|minutes: f64| Duration::from_secs_f64(minutes * 60.0 / 3.0));

    let scripts = scripted();
    let totals = Totals::default();
    let each = share / scripts.len() as u64;
    on_all_cores(
        scripts.len() as u64,
        |index, enumerator| {
            enumerator.stop_at(share_of(time, scripts.len() as u64));
            enumerator.run(index, &scripts[index as usize], each)?;
            enumerator.forget();
            Ok(true)
        },
        &totals,
    );
    totals.say("scripted histories", start);
    let mut done = totals.images();

    let alphabet = short();
    let kinds = alphabet.len() as u64;
    let totals = Totals::default();
    let start = Instant::now();
    // All sequences of three; each begins with all of one and two. One number is one beginning.
    let each = share / (kinds * kinds);
    on_all_cores(
        kinds * kinds,
        |index, enumerator| {
            enumerator.stop_at(share_of(time, kinds * kinds));
            let until = enumerator.images + each;
            for last in 0..kinds {
                let places = [index / kinds, index % kinds, last];
                let ops: Vec<Op> = places.iter().map(|&place| alphabet[place as usize].clone()).collect();
                let left = (until.saturating_sub(enumerator.images)).div_ceil(kinds - last);
                enumerator.run(77, &ops, left)?;
            }
            enumerator.forget();
            Ok(true)
        },
        &totals,
    );
    totals.say("short histories", start);
    done += totals.images();

    let totals = Totals::default();
    let start = Instant::now();
    let end = time.map(|time| start + time);
    // The others can run out of disks.
    let share = budget.saturating_sub(done);
    let first = number("NEARSTONE_CRASH_SEED", 1);
    let opened = AtomicU64::new(0);
    on_all_cores(
        u64::MAX,
        |index, enumerator| {
            enumerator.stop_at(end);
            let before = enumerator.images;
            let seed = first.wrapping_add(index);
            enumerator.run(seed, &random(seed), (share / 16).max(50))?;
            enumerator.forget();
            let late = end.is_some_and(|end| Instant::now() >= end);
            Ok(opened.fetch_add(enumerator.images - before, Ordering::Relaxed) < share && !late)
        },
        &totals,
    );
    totals.say("random histories", start);
}
