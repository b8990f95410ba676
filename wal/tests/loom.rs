//! Models of group commit: the real [`Log`] over a simulated disk, with every order in which its threads may run and
//! every value that its atomics may show. Where that is too much, a model states how often threads may be preempted,
//! that is, stopped where they would not have to wait. A thread that nobody wakes is a failure of the model, so
//! "nobody waits for ever" is in all of them.
//!
//! `cargo xtask test --only loom`
#![cfg(nearstone_loom)]

use loom::thread;
use nearstone_base::clock::Clock;
use nearstone_base::random::SeededRandom;
use nearstone_base::vfs::{CrashChoice, SimFault, SimVfs, Vfs};
use nearstone_base::{Error, ErrorKind, Lsn, Outcome, Result, Uuid};
use nearstone_wal::{Apply, CleanMark, Durability, Log, LogOptions, RecoverOptions, recover};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const STORE: Uuid = Uuid([3; 16]);

/// Remembers what was applied; where a log's leader is the only one who may, no lock is ever waited for.
#[derive(Default)]
struct Applied {
    lsns: Mutex<Vec<Lsn>>,
}

impl Apply for Applied {
    type Item = u8;
    type Output = u8;

    fn admit(&self, _: &u8) -> Result<()> {
        Ok(())
    }

    fn apply(&self, group: Vec<(Lsn, u8)>) -> Vec<u8> {
        let mut lsns = self.lsns.try_lock().expect("one leader at a time");
        for (lsn, _) in &group {
            assert_eq!(*lsn, lsns.len() as Lsn + 1, "in lsn order, without gaps");
            lsns.push(*lsn);
        }
        group.into_iter().map(|(_, item)| item).collect()
    }
}

/// Time stands still, without a lock.
#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn wall(&self) -> Duration {
        Duration::ZERO
    }
}

type TestLog = Arc<Log<Applied>>;

/// A disk, and a log on it that holds one batch already, so that its first file is there.
fn start() -> (SimVfs, TestLog) {
    let disk = SimVfs::new(1);
    let dir = Path::new("/wal");
    disk.create_dir(dir).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let recovered = recover(&disk, dir, STORE, &RecoverOptions::default(), &mut |_, _| Ok(())).unwrap();
    let options = LogOptions { file_bytes_min: 8192, file_bytes_max: 8192 };
    let vfs: Arc<dyn Vfs> = Arc::new(disk.clone());
    let random = Arc::new(SeededRandom::new(1));
    let log =
        Log::start(vfs, dir, STORE, recovered, options, Arc::new(Still), random, Applied::default()).unwrap();
    commit(&log, 0).unwrap();
    (disk, Arc::new(log))
}

/// Commits a batch of one byte; its lsn.
fn commit(log: &Log<Applied>, item: u8) -> Result<Lsn> {
    let (lsn, output) = log.commit(vec![item], Durability::Sync, item)?;
    assert_eq!(output, item, "the output of another batch");
    Ok(lsn)
}

/// The batches that an open would find after a crash.
fn found_after(disk: &SimVfs, choice: CrashChoice, clean: Option<CleanMark>) -> Vec<(Lsn, u8)> {
    let options = RecoverOptions { clean, ..RecoverOptions::default() };
    let mut found = Vec::new();
    recover(&disk.crash_image(choice), Path::new("/wal"), STORE, &options, &mut |lsn, body| {
        found.push((lsn, body[0]));
        Ok(())
    })
    .unwrap();
    found
}

/// Runs a model, with so many preemptions at most.
fn model(preemptions: Option<usize>, f: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 10_000;
    builder.check(f);
}

/// Starts a thread that commits, and then looks at what a power loss would leave.
fn committer(disk: &SimVfs, log: &TestLog, item: u8) -> thread::JoinHandle<Result<Lsn>> {
    let (disk, log) = (disk.clone(), log.clone());
    thread::spawn(move || {
        let result = commit(&log, item);
        if let Ok(lsn) = result {
            let found = found_after(&disk, CrashChoice::DurableOnly, None);
            assert!(
                found.contains(&(lsn, item)),
                "batch {lsn} was acknowledged, and a crash leaves {found:?}"
            );
        }
        result
    })
}

fn join<T>(threads: Vec<thread::JoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

fn is_poisoned(error: &Error) -> bool {
    error.kind() == ErrorKind::Poisoned && error.outcome() == Outcome::NotApplied
}

#[test]
fn two_writers_are_acknowledged_when_they_are_durable() {
    model(None, || {
        let (disk, log) = start();
        let writers = vec![committer(&disk, &log, 1), committer(&disk, &log, 2)];
        let mut lsns: Vec<Lsn> = join(writers).into_iter().map(|lsn| lsn.unwrap()).collect();
        lsns.sort_unstable();
        assert_eq!(lsns, [2, 3]);
        let stats = log.stats();
        assert!(stats.commits == 3 && (2..=3).contains(&stats.groups), "{stats:?}");
    });
}

/// With three, one group forms while another is written, and its first has to be told to lead.
#[test]
fn the_lead_is_handed_on_until_nobody_waits() {
    model(Some(4), || {
        let (disk, log) = start();
        let writers: Vec<_> = (1..=3).map(|item| committer(&disk, &log, item)).collect();
        let mut lsns: Vec<Lsn> = join(writers).into_iter().map(|lsn| lsn.unwrap()).collect();
        lsns.sort_unstable();
        assert_eq!(lsns, [2, 3, 4]);
        // Nobody leads any more: the next one has to.
        assert_eq!(commit(&log, 4).unwrap(), 5);
    });
}

#[test]
fn when_a_sync_fails_its_group_is_indeterminate_and_nobody_else_is_written() {
    model(None, || {
        let (disk, log) = start();
        // The write of the first group goes through, its sync does not.
        disk.fail_op(1, SimFault::Io, false);
        let writers = vec![committer(&disk, &log, 1), committer(&disk, &log, 2)];
        let results = join(writers);
        let on_its_way = found_after(&disk, CrashChoice::KeepAll, None);
        let mut indeterminate = 0;
        for (item, result) in (1..).zip(results) {
            let error = result.unwrap_err();
            if error.outcome() == Outcome::Indeterminate {
                indeterminate += 1;
            } else {
                assert!(is_poisoned(&error), "{error}");
                assert!(on_its_way.iter().all(|(_, found)| *found != item), "{on_its_way:?} has {item}");
            }
        }
        assert!(indeterminate >= 1, "a failed sync failed nobody");
        assert_eq!(on_its_way.len(), 1 + indeterminate);
        assert!(is_poisoned(&commit(&log, 3).unwrap_err()));
    });
}

#[test]
fn a_close_lets_each_batch_in_whole_or_refuses_it() {
    model(None, || {
        let (disk, log) = start();
        let writers = vec![committer(&disk, &log, 1), committer(&disk, &log, 2)];
        let mark = log.close().unwrap();
        let results = join(writers);
        let mut expected = vec![(1, 0)];
        for (item, result) in (1..).zip(results) {
            match result {
                Ok(lsn) => expected.push((lsn, item)),
                Err(error) => {
                    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Closed, Outcome::NotApplied));
                }
            }
        }
        expected.sort_unstable();
        assert_eq!(expected.last().unwrap().0, mark.lsn);
        assert_eq!(found_after(&disk, CrashChoice::DurableOnly, Some(mark)), expected);
    });
}

/// Somebody else (a catalog transaction that failed) ends all writing while batches are on their way.
#[test]
fn poison_from_elsewhere_ends_all_writing() {
    model(Some(4), || {
        let (disk, log) = start();
        let writers = vec![committer(&disk, &log, 1), committer(&disk, &log, 2)];
        log.poison(&Error::new(ErrorKind::Io, "the catalog"));
        let poisoned = log.poisoned().expect("at once, for the one who did it");
        assert!(poisoned.to_string().contains("the catalog"), "{poisoned}");
        assert!(is_poisoned(&commit(&log, 3).unwrap_err()));
        for error in join(writers).into_iter().filter_map(Result::err) {
            // A sync that was asked for when the log was poisoned may refuse after the write.
            assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
            assert!(error.to_string().contains("the catalog"), "{error}");
        }
    });
}
