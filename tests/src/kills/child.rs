//! The processes that are killed. They say on their standard output, line by line, what was acknowledged: a line that
//! begins with the mark is one of theirs, whatever a test runner prints besides.

use super::compare::compare;
use super::process::OPEN;
use super::script::{self, COLLECTIONS, GUEST, Steps, WRITERS};
use crate::disks::Around;
use nearstone::random::SplitMix64;
use nearstone::vfs::{DiskVfs, Residency};
use nearstone::{
    Background, Collection, Durability, ErrorKind, RebuildOptions, RecoveryMode, Result, Store, StoreBuilder,
};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What each line begins with.
pub const MARK: &str = "@ ";
/// A key that nobody puts.
const NOBODYS: u64 = 1 << 40;

pub(super) fn say(words: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{MARK}{words}").and_then(|()| out.flush()).expect("the parent listens");
}

/// Opens the store, says so, and waits for its end.
pub fn recover(path: &Path, mode: RecoveryMode) -> ! {
    let _store = Store::builder().recovery(mode).open(path).unwrap();
    say(format_args!("{OPEN}"));
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Writes, seals, compacts, changes schemas, backs up, closes and opens again, until it is killed. The store shows
/// `steps`; backups go beside it, numbered from `backup` on.
pub fn ingest(path: &Path, seed: u64, steps: Steps, backup: u64) -> ! {
    let mut rng = SplitMix64::new(seed);
    let steps = steps.map(AtomicU64::new);
    let backup = AtomicU64::new(backup);
    let mut first = true;
    loop {
        if rng.below(4) == 0 && !first {
            checkpoint(path).unwrap();
        }
        let store = options(&mut rng).open(path).unwrap();
        if !std::mem::take(&mut first) {
            let now = [0, 1, 2, 3].map(|actor: usize| steps[actor].load(Ordering::Relaxed));
            compare(&store, &now, &now, "opened again in the same process");
        }
        live(&store, &mut rng, &steps, &backup).unwrap();
        if rng.below(3) > 0 {
            store.close().unwrap();
        }
    }
}

fn options(rng: &mut SplitMix64) -> StoreBuilder {
    let mut options = Store::builder().seal_rows(60).dead_share(0.1);
    if rng.below(3) == 0 {
        options = options.wal_bytes(1 << 20);
    }
    if rng.below(4) == 0 {
        options = options.residency(Residency::Heap);
    }
    if rng.below(3) == 0 {
        // Backups copy what they would link.
        options = options.vfs(Arc::new(Around::without_links(DiskVfs::new())));
    }
    if rng.below(4) == 0 {
        options = options.background(Background::Manual);
    }
    options
}

/// One life of a store, from an opening to the next.
fn live(
    store: &Store,
    rng: &mut SplitMix64,
    steps: &[AtomicU64; WRITERS + 1],
    backup: &AtomicU64,
) -> Result<()> {
    let mut sides = Vec::new();
    for name in COLLECTIONS {
        sides.push(store.collection_or_create(name, script::schema(name))?);
    }
    let (a, b) = (&sides[0], &sides[1]);
    let writers_left = AtomicUsize::new(WRITERS);
    let failure = Mutex::new(None);
    let room = store.path().with_file_name("built");
    let seeds: [u64; WRITERS + 2] = std::array::from_fn(|_| rng.next_u64());
    let note = |result: Result<()>| {
        if let Err(error) = result {
            failure.lock().unwrap().get_or_insert(error);
        }
    };
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (left, note) = (&writers_left, &note);
            scope.spawn(move || {
                let count = 10 + SplitMix64::new(seeds[writer]).below(40);
                note(act(&steps[writer], writer, count, |step| script::write(store, a, b, writer, step)));
                left.fetch_sub(1, Ordering::Release);
            });
        }
        scope.spawn(|| {
            let count = 2 + SplitMix64::new(seeds[GUEST]).below(10);
            note(act(&steps[GUEST], GUEST, count, |step| script::visit(store, Some(&room), step)));
        });
        scope.spawn(|| {
            let mut rng = SplitMix64::new(seeds[GUEST + 1]);
            loop {
                note(maintain(store, a, &mut rng, backup));
                if writers_left.load(Ordering::Acquire) == 0 {
                    break;
                }
            }
        });
    });
    failure.into_inner().unwrap().map_or(Ok(()), Err)
}

/// Takes steps and says so.
fn act(steps: &AtomicU64, actor: usize, count: u64, take: impl Fn(u64) -> Result<()>) -> Result<()> {
    for _ in 0..count {
        let step = steps.load(Ordering::Relaxed);
        take(step)?;
        steps.store(step + 1, Ordering::Relaxed);
        say(format_args!("did {actor} {}", step + 1));
    }
    Ok(())
}

fn maintain(store: &Store, a: &Collection, rng: &mut SplitMix64, backup: &AtomicU64) -> Result<()> {
    let done = match rng.below(9) {
        0 | 1 => store.flush(),
        2 => store.compact(),
        3 => a.compact(),
        4 => back_up(store, backup.fetch_add(1, Ordering::Relaxed)),
        5 => store.persist().map(|_| ()),
        6 => a.rebuild(RebuildOptions::new().m(4 + rng.below(5) as usize)),
        7 => (0..10).try_for_each(|_| store.step().map(|_| ())),
        _ => {
            std::thread::sleep(Duration::from_millis(1 + rng.below(4)));
            Ok(())
        }
    };
    match done {
        // The guest dropped its collection meanwhile.
        Err(error) if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::NotFound) => Ok(()),
        done => done,
    }
}

fn back_up(store: &Store, number: u64) -> Result<()> {
    say(format_args!("begin {number}"));
    store.backup(super::backup_path(store.path(), number))?;
    say(format_args!("end {number}"));
    Ok(())
}

/// Batches that change nothing, in a log that is to be short: only moving its floor by itself shortens it.
fn checkpoint(path: &Path) -> Result<()> {
    let store =
        Store::builder().background(Background::Manual).wal_bytes(1).auto_compact(false).open(path)?;
    store.flush()?;
    let mut batch = store.batch().durability(Durability::Sync);
    for name in COLLECTIONS {
        batch.delete(&store.collection(name)?, NOBODYS)?;
    }
    batch.commit()?;
    while store.step()? {}
    store.close()
}
