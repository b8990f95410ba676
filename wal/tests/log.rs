//! The log as its callers meet it: sharing syncs, surviving crashes, telling a torn tail from damage.

use nearstone_base::clock::{Clock, ManualClock, SystemClock};
use nearstone_base::random::{SeededRandom, SplitMix64};
use nearstone_base::vfs::{CrashChoice, DiskVfs, OpenMode, SimFault, SimVfs, Vfs};
use nearstone_base::{Error, ErrorKind, LSN_MAX, Lsn, Outcome, Result, Uuid};
use nearstone_wal::{
    Apply, CleanMark, Durability, Log, LogOptions, RecoverOptions, Recovered, RecoveryMode, file_name,
    read_bytes, recover, salvage,
};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const STORE: Uuid = Uuid([3; 16]);

/// Bodies by lsn.
type Bodies = Vec<(Lsn, Vec<u8>)>;

/// Remembers what was applied, in order; refuses items that say so.
#[derive(Clone, Default)]
struct Applied(Arc<Mutex<Vec<(Lsn, u64)>>>);

const REFUSED: u64 = u64::MAX;
const PANICS: u64 = u64::MAX - 1;

impl Apply for Applied {
    type Item = u64;
    type Output = u64;

    fn admit(&self, item: &u64) -> Result<()> {
        if *item == REFUSED { Err(Error::new(ErrorKind::NotFound, "refused")) } else { Ok(()) }
    }

    fn apply(&self, group: Vec<(Lsn, u64)>) -> Vec<u64> {
        let mut applied = self.0.lock().unwrap();
        for (lsn, item) in &group {
            assert_ne!(*item, PANICS, "asked to panic");
            assert_eq!(*lsn, applied.last().map_or(*lsn, |(last, _)| last + 1), "in lsn order, without gaps");
            applied.push((*lsn, *item));
        }
        group.into_iter().map(|(_, item)| item * 2).collect()
    }
}

fn small() -> LogOptions {
    LogOptions { file_bytes_min: 8192, file_bytes_max: 16384 }
}

fn start(vfs: &Arc<dyn Vfs>, dir: &Path, recovered: Recovered, options: LogOptions) -> Result<Log<Applied>> {
    let (clock, random) = (Arc::new(SystemClock::new()), Arc::new(SeededRandom::new(recovered.last_lsn + 9)));
    Log::start(vfs.clone(), dir, STORE, recovered, options, clock, random, Applied::default())
}

/// Recovers; the bodies by lsn.
fn read(vfs: &dyn Vfs, options: &RecoverOptions) -> Result<(Recovered, Bodies)> {
    let mut bodies = Vec::new();
    let recovered = recover(vfs, Path::new("/wal"), STORE, options, &mut |lsn, body| {
        bodies.push((lsn, body.to_vec()));
        Ok(())
    })?;
    Ok((recovered, bodies))
}

fn open(disk: &SimVfs, clean: Option<CleanMark>) -> Result<(Log<Applied>, Bodies)> {
    let options = RecoverOptions { clean, ..RecoverOptions::default() };
    let (recovered, bodies) = read(disk, &options)?;
    let vfs: Arc<dyn Vfs> = Arc::new(disk.clone());
    Ok((start(&vfs, Path::new("/wal"), recovered, small())?, bodies))
}

fn disk() -> SimVfs {
    let disk = SimVfs::new(1);
    disk.create_dir(Path::new("/wal")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn body(lsn: Lsn) -> Vec<u8> {
    let mut rng = SplitMix64::new(lsn);
    // Some bodies pass a file's usual length.
    let len = [3, 700, 40, 2500, 9000, 0, 17_000][(lsn % 7) as usize];
    let mut body = vec![0; len];
    rng.fill_bytes(&mut body);
    body
}

fn check_bodies(bodies: &[(Lsn, Vec<u8>)], what: &str) {
    for (place, (lsn, found)) in bodies.iter().enumerate() {
        assert_eq!(*lsn, place as u64 + 1, "{what}: dense from 1");
        assert!(*found == body(*lsn), "{what}: the body of {lsn}");
    }
}

#[test]
fn sixteen_writers_share_their_syncs() {
    let folder = tempfile::tempdir().unwrap();
    let vfs: Arc<dyn Vfs> = Arc::new(DiskVfs::new());
    let recovered =
        recover(&*vfs, folder.path(), STORE, &RecoverOptions::default(), &mut |_, _| Ok(())).unwrap();
    let log = start(&vfs, folder.path(), recovered, LogOptions::default()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..16u64 {
            let log = &log;
            scope.spawn(move || {
                for step in 0..250 {
                    let item = thread * 1000 + step;
                    let (_, output) = log.commit(vec![7; 1600], Durability::Sync, item).unwrap();
                    assert_eq!(output, item * 2, "each writer gets its own result");
                }
            });
        }
    });
    let stats = log.stats();
    assert_eq!(stats.commits, 4000);
    let ratio = stats.syncs as f64 / stats.commits as f64;
    println!("{ratio:.4} syncs per commit");
    assert!(ratio <= 0.15, "{} syncs for {} commits", stats.syncs, stats.commits);
}

#[test]
fn batches_come_back_in_order_over_many_files_and_after_reopening() {
    let disk = disk();
    let mut clean = None;
    let mut next = 1;
    for _ in 0..4 {
        let (log, bodies) = open(&disk, clean).unwrap();
        assert_eq!(bodies.len() as u64, next - 1);
        check_bodies(&bodies, "reopened");
        for _ in 0..15 {
            let (lsn, _) = log.commit(body(next), Durability::Sync, next).unwrap();
            assert_eq!(lsn, next);
            next += 1;
        }
        assert!(log.files().len() > 2);
        clean = Some(log.close().unwrap());
        assert_eq!(log.commit(vec![], Durability::Os, 0).unwrap_err().kind(), ErrorKind::Closed);
    }
}

#[test]
fn a_refused_batch_takes_no_lsn_and_disturbs_nobody() {
    let disk = disk();
    let (log, _) = open(&disk, None).unwrap();
    assert_eq!(log.commit(body(1), Durability::Sync, 1).unwrap().0, 1);
    let error = log.commit(body(2), Durability::Sync, REFUSED).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::NotFound, Outcome::NotApplied));
    assert_eq!(log.commit(body(2), Durability::Sync, 2).unwrap().0, 2);
    let error = log.commit(vec![0; (64 << 20) + 1], Durability::Sync, 3).unwrap_err();
    assert!(error.to_string().contains("67108864"), "{error}");
}

/// By whoever excludes the writers: what they wrote before is durable then, too.
#[test]
fn an_appended_batch_is_durable_and_applied_by_nobody() {
    let disk = disk();
    let (log, _) = open(&disk, None).unwrap();
    log.commit(body(1), Durability::Os, 1).unwrap();
    log.commit(body(2), Durability::Os, 2).unwrap();
    for lsn in 3..20 {
        assert_eq!(log.exclusive(|inside| inside.append(&body(lsn))).unwrap(), lsn);
        assert_eq!((log.last_lsn(), log.synced_lsn()), (lsn, lsn));
        let (recovered, bodies) =
            read(&disk.crash_image(CrashChoice::DurableOnly), &RecoverOptions::default()).unwrap();
        assert_eq!((recovered.last_lsn, bodies.len() as u64), (lsn, lsn));
        check_bodies(&bodies, "after a power loss");
    }
    assert!(log.files().len() > 3, "{:?}", log.files());

    // No room for it is no harm; a write that fails is.
    let full = disk.crash_image(CrashChoice::DurableOnly);
    let (log, _) = open(&full, None).unwrap();
    full.fail_op(0, SimFault::DiskFull, false);
    let error = log.exclusive(|inside| inside.append(&body(20))).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::DiskFull, Outcome::NotApplied));
    assert_eq!(log.exclusive(|inside| inside.append(&body(20))).unwrap(), 20);
    assert_eq!(log.exclusive(|inside| inside.append(&body(21))).unwrap(), 21);
    full.fail_op(0, SimFault::Io, false);
    let error = log.exclusive(|inside| inside.append(&body(22))).unwrap_err();
    assert_eq!(error.outcome(), Outcome::Indeterminate);
    let error = log.exclusive(|inside| inside.append(&body(22))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poisoned);
}

#[test]
fn a_panic_while_applying_poisons_the_log() {
    let disk = disk();
    let (log, _) = open(&disk, None).unwrap();
    log.commit(body(1), Durability::Sync, 1).unwrap();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let error = log.commit(body(2), Durability::Sync, PANICS).unwrap_err();
    std::panic::set_hook(hook);
    assert_eq!(error.outcome(), Outcome::Indeterminate);
    for kind in [
        log.commit(body(3), Durability::Os, 3).unwrap_err().kind(),
        log.sync().unwrap_err().kind(),
        log.remove_below(9).unwrap_err().kind(),
        log.barrier(1).unwrap_err().kind(),
    ] {
        assert_eq!(kind, ErrorKind::Poisoned);
    }
}

/// A file that somebody puts where the log's next one goes: ids are never reused, so nothing of it is overwritten, and
/// the batch that found it there was not written.
#[test]
fn a_file_under_the_next_id_is_never_overwritten() {
    let disk = disk();
    let (log, _) = open(&disk, None).unwrap();
    log.commit(body(1), Durability::Sync, 1).unwrap();
    let next = Path::new("/wal").join(file_name(log.files().last().unwrap().file_id + 1));
    let stray = disk.open(&next, OpenMode::CreateNew).unwrap();
    stray.write_at(b"somebody's", 0).unwrap();
    // Longer than what is left of the first file.
    let error = log.commit(vec![7; 17_000], Durability::Sync, 2).unwrap_err();
    assert!(error.to_string().contains("never reused"), "{error}");
    assert_eq!(log.commit(body(2), Durability::Sync, 2).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(disk.contents(&next).unwrap(), b"somebody's");
    // A name of ours without a header of ours is damage; without the file the log is as it was.
    assert_eq!(open(&disk, None).map(|_| ()).unwrap_err().kind(), ErrorKind::Corruption);
    disk.remove(&next).unwrap();
    let (log, bodies) = open(&disk, None).unwrap();
    assert_eq!(bodies.len(), 1);
    check_bodies(&bodies, "without the stray file");
    log.commit(body(2), Durability::Sync, 2).unwrap();
}

#[test]
fn interval_batches_are_due_when_their_time_is_up() {
    let disk = disk();
    let (recovered, _) = read(&disk, &RecoverOptions::default()).unwrap();
    let clock = Arc::new(ManualClock::default());
    let vfs: Arc<dyn Vfs> = Arc::new(disk.clone());
    let random = Arc::new(SeededRandom::new(1));
    let seam: Arc<dyn Clock> = clock.clone();
    let log = Log::start(vfs, Path::new("/wal"), STORE, recovered, small(), seam, random, Applied::default())
        .unwrap();
    let second = Duration::from_secs(1);
    log.commit(body(1), Durability::Os, 1).unwrap();
    assert_eq!((log.sync_due(), log.synced_lsn()), (None, 0));
    log.commit(body(2), Durability::Interval(second * 3), 2).unwrap();
    log.commit(body(3), Durability::Interval(second), 3).unwrap();
    assert_eq!(log.sync_due(), Some(second));
    clock.advance(second * 2);
    assert_eq!(log.sync_due(), Some(Duration::ZERO));
    assert_eq!(log.sync().unwrap(), 3);
    assert_eq!((log.sync_due(), log.synced_lsn()), (None, 3));
    log.commit(body(4), Durability::Interval(second), 4).unwrap();
    log.commit(body(5), Durability::Sync, 5).unwrap();
    assert_eq!((log.sync_due(), log.synced_lsn()), (None, 5));
}

#[test]
fn log_files_double_up_to_the_longest() {
    let disk = disk();
    let (log, _) = open(&disk, None).unwrap();
    for lsn in 1..=8 {
        log.commit(vec![7; 4000], Durability::Os, lsn).unwrap();
    }
    let LogOptions { file_bytes_min: min, file_bytes_max: max } = small();
    let lens: Vec<u64> = log.files().iter().map(|file| file.len).collect();
    assert_eq!(lens[..3], [min, 2 * min, max]);
}

/// Salvage is to find what lies behind the damage, in the same file, and to name what is missing and no more.
#[test]
fn salvage_takes_the_records_on_both_sides_of_damage_and_names_the_gap() {
    let disk = disk();
    let (log, _) = open(&disk, None).unwrap();
    let mut ends = Vec::new();
    for lsn in 1..=6 {
        log.commit(vec![lsn as u8; 100], Durability::Sync, lsn).unwrap();
        ends.push(log.files()[0].end);
    }
    let path = log.files()[0].path.clone();
    drop(log);
    disk.flip_bit(&path, ends[1] + 40, 3);
    let salvaged = salvage(&disk, Path::new("/wal"), None).unwrap();
    assert_eq!(salvaged.batches.keys().copied().collect::<Vec<_>>(), [1, 2, 4, 5, 6]);
    assert!(salvaged.batches.iter().all(|(lsn, body)| *body == [*lsn as u8; 100]));
    assert_eq!(salvaged.gaps(1, 6), [(3, 3)]);
    assert_eq!(salvaged.gaps(1, 8), [(3, 3), (7, 8)]);
    assert!(salvaged.gaps(4, 5).is_empty());
    let between = format!("bytes {} to {} are no records", ends[1], ends[2]);
    assert_eq!(salvaged.lost, [(path, between)]);
}

#[test]
fn files_below_the_floor_go_unless_they_are_pinned() {
    let disk = disk();
    let (log, _) = open(&disk, None).unwrap();
    for lsn in 1..=20 {
        log.commit(body(lsn), Durability::Sync, lsn).unwrap();
    }
    let files = log.files();
    let pin = log.pin();
    assert_eq!(log.remove_below(15).unwrap(), 0);
    drop(pin);
    assert!(log.remove_below(15).unwrap() > 0);
    let left = log.files();
    assert!(left.len() < files.len() && left[0].first_lsn <= 15, "{left:?}");
    drop(log);
    let options = RecoverOptions { floor: 15, last_lsn_min: 14, ..RecoverOptions::default() };
    let (recovered, bodies) = read(&disk, &options).unwrap();
    assert_eq!(bodies.iter().map(|(lsn, _)| *lsn).collect::<Vec<_>>(), (15..=20).collect::<Vec<_>>());
    assert_eq!(recovered.report.batches, 6);
    // What is needed and not there is damage.
    let options = RecoverOptions { floor: left[0].first_lsn - 1, ..RecoverOptions::default() };
    assert_eq!(read(&disk, &options).unwrap_err().kind(), ErrorKind::Corruption);
}

/// Commits of mixed durability; after each, what a crash must keep and may keep.
fn history(disk: &SimVfs, steps: u64, each: &mut dyn FnMut(Lsn, Lsn)) {
    let (log, bodies) = open(disk, None).unwrap();
    let mut acknowledged = bodies.len() as u64;
    for lsn in acknowledged + 1..=acknowledged + steps {
        let durability = if lsn % 3 == 0 { Durability::Sync } else { Durability::Os };
        log.commit(body(lsn), durability, lsn).unwrap();
        if durability == Durability::Sync {
            acknowledged = lsn;
        }
        if lsn % 5 == 0 {
            log.marker_if_idle().unwrap();
        }
        if lsn % 4 == 0 {
            log.barrier(lsn).unwrap();
        }
        each(acknowledged.max(log.synced_lsn()), lsn);
    }
}

#[test]
fn every_crash_keeps_what_was_synced_and_recovers_the_same_twice() {
    let disk = disk();
    let mut images = 0;
    let check = |image: &SimVfs, low: Lsn, high: Lsn, what: &str| -> u64 {
        let (recovered, bodies) =
            read(image, &RecoverOptions::default()).unwrap_or_else(|e| panic!("{what}: {e}"));
        check_bodies(&bodies, what);
        let last = bodies.len() as u64;
        assert!(
            (low..=high).contains(&last) && recovered.last_lsn == last,
            "{what}: {last} of {low}..={high}"
        );
        // Going on from it, and losing the power once more while the unproven batches are written again.
        let mut seen = 1;
        for seed in 0..3 {
            let vfs: Arc<dyn Vfs> = Arc::new(image.crash_image(CrashChoice::KeepAll));
            let second = image.crash_image(CrashChoice::KeepAll);
            second.set_crash_after(seed * 4);
            let (recovered, _) = read(&*vfs, &RecoverOptions::default()).unwrap();
            let dying: Arc<dyn Vfs> = Arc::new(second.clone());
            drop(start(&dying, Path::new("/wal"), recovered, small()));
            let again = second.crash_image(CrashChoice::Random { seed });
            let (_, bodies) =
                read(&again, &RecoverOptions::default()).unwrap_or_else(|e| panic!("{what}, again: {e}"));
            assert_eq!(bodies.len() as u64, last, "{what}, again");
            seen += 1;
        }
        let (log, _) = open(image, None).unwrap();
        assert_eq!(log.synced_lsn(), last, "{what}: all that is served is durable");
        let (lsn, _) = log.commit(body(last + 1), Durability::Sync, 1).unwrap();
        assert_eq!(lsn, last + 1);
        drop(log);
        let (_, bodies) =
            read(&image.crash_image(CrashChoice::DurableOnly), &RecoverOptions::default()).unwrap();
        assert_eq!(bodies.len() as u64, last + 1, "{what}: and one more");
        seen
    };
    for _ in 0..2 {
        let shared = disk.clone();
        history(&disk, 14, &mut |low, high| {
            let mut choices = vec![CrashChoice::DurableOnly, CrashChoice::KeepAll];
            let pending = shared.pending();
            choices.extend((0..pending).map(CrashChoice::Prefix));
            choices.extend((0..pending).map(CrashChoice::Without));
            choices.extend((0..12).map(|seed| CrashChoice::Random { seed }));
            for choice in choices {
                let image = shared.crash_image(choice);
                images += check(&image, low, high, &format!("{choice:?} after {high}"));
            }
        });
    }
    assert!(images > 500, "{images}");
}

#[test]
fn every_failing_operation_tells_the_truth_about_its_batches() {
    for fault in [SimFault::Io, SimFault::ShortWrite, SimFault::SyncDropsData, SimFault::DiskFull] {
        for k in 0..60 {
            let disk = disk();
            let (log, _) = open(&disk, None).unwrap();
            disk.fail_op(k, fault, false);
            let (mut synced, mut perhaps, mut refused) = (0, Vec::new(), Vec::new());
            let mut last = 0;
            for item in 1..=14u64 {
                let durability = if item % 2 == 0 { Durability::Sync } else { Durability::Os };
                match log.commit(item.to_le_bytes().to_vec(), durability, item) {
                    Ok((lsn, _)) => {
                        last = lsn;
                        if durability == Durability::Sync {
                            synced = lsn;
                        }
                    }
                    Err(error) if error.outcome() == Outcome::Indeterminate => perhaps.push(item),
                    Err(_) => refused.push(item),
                }
            }
            assert!(perhaps.len() <= 1, "one batch at a time is in flight");
            let healthy = log.poisoned().is_none();
            assert_eq!(healthy, perhaps.is_empty(), "{fault:?} at {k}");
            for choice in [CrashChoice::DurableOnly, CrashChoice::KeepAll] {
                let image = disk.crash_image(choice);
                let (_, bodies) = read(&image, &RecoverOptions::default())
                    .unwrap_or_else(|e| panic!("{fault:?} at {k}: {e}"));
                let items: Vec<u64> =
                    bodies.iter().map(|(_, body)| u64::from_le_bytes(body[..].try_into().unwrap())).collect();
                assert!(
                    items.len() as u64 >= synced,
                    "{fault:?} at {k}, {choice:?}: {items:?}, synced {synced}"
                );
                assert!(refused.iter().all(|item| !items.contains(item)), "{fault:?} at {k}: {items:?}");
                assert!(items.len() as u64 <= last + perhaps.len() as u64);
            }
        }
    }
}

fn log_files(disk: &SimVfs) -> Vec<(PathBuf, Vec<u8>)> {
    disk.files().into_iter().map(|(path, _)| (path.clone(), disk.contents(&path).unwrap())).collect()
}

/// A closed log of several files, and its mark.
fn closed() -> (SimVfs, CleanMark, u64) {
    let disk = disk();
    let (log, _) = open(&disk, None).unwrap();
    for lsn in 1..=9 {
        log.commit(body(lsn), Durability::Sync, lsn).unwrap();
    }
    let mark = log.close().unwrap();
    drop(log);
    (disk, mark, 9)
}

#[test]
fn damage_in_a_closed_log_is_always_noticed() {
    let (disk, mark, last) = closed();
    let options = RecoverOptions { clean: Some(mark), ..RecoverOptions::default() };
    let judge = |image: &SimVfs, what: &str| match read(image, &options) {
        Ok((_, bodies)) => {
            check_bodies(&bodies, what);
            assert_eq!(bodies.len() as u64, last, "{what}: batches were lost silently");
        }
        Err(error) => assert!(
            matches!(error.kind(), ErrorKind::Corruption | ErrorKind::UnsupportedVersion),
            "{what}: {error:?}"
        ),
    };
    let mut rng = SplitMix64::new(4);
    for (path, bytes) in log_files(&disk) {
        let header = (0..96 * 8).chain(4088 * 8..4096 * 8);
        let records = (0..3000).map(|_| 4096 * 8 + rng.below((bytes.len() as u64 - 4096) * 8));
        for bit in header.chain(records) {
            let image = disk.crash_image(CrashChoice::KeepAll);
            image.flip_bit(&path, bit / 8, (bit % 8) as u32);
            judge(&image, &format!("bit {bit} of {}", path.display()));
        }
        for len in (0..bytes.len() as u64).step_by(97) {
            let image = disk.crash_image(CrashChoice::KeepAll);
            image.truncate(&path, len);
            judge(&image, &format!("{} cut to {len}", path.display()));
        }
        let image = disk.crash_image(CrashChoice::KeepAll);
        image.remove(&path).unwrap();
        assert_eq!(
            read(&image, &options).unwrap_err().kind(),
            ErrorKind::Corruption,
            "{} gone",
            path.display()
        );
    }
}

#[test]
fn an_unclosed_log_loses_at_most_what_nothing_proves() {
    let disk = disk();
    let (log, _) = open(&disk, None).unwrap();
    for lsn in 1..=9 {
        log.commit(body(lsn), Durability::Sync, lsn).unwrap();
    }
    drop(log);
    let (proven, _) = read(&disk, &RecoverOptions::default()).unwrap();
    assert!(proven.proven_lsn >= 8, "all but the last batch are proven by the one after");
    let mut rng = SplitMix64::new(8);
    for (path, bytes) in log_files(&disk) {
        for _ in 0..3000 {
            let image = disk.crash_image(CrashChoice::KeepAll);
            let bit = rng.below(bytes.len() as u64 * 8);
            image.flip_bit(&path, bit / 8, (bit % 8) as u32);
            if let Ok((_, bodies)) = read(&image, &RecoverOptions::default()) {
                check_bodies(&bodies, "flipped");
                assert!(bodies.len() as u64 >= proven.proven_lsn, "bit {bit} of {}", path.display());
            }
        }
    }
}

#[test]
fn strict_recovery_refuses_a_torn_tail_and_the_default_cuts_it() {
    let disk = disk();
    let (log, _) = open(&disk, None).unwrap();
    log.commit(body(1), Durability::Sync, 1).unwrap();
    log.commit(body(3), Durability::Os, 2).unwrap();
    drop(log);
    let (path, bytes) = log_files(&disk).pop().unwrap();
    let written = bytes.iter().rposition(|b| *b != 0).unwrap();
    let mut torn = bytes.clone();
    torn[written - 600..].fill(0);
    disk.overwrite(&path, &torn);
    let (recovered, bodies) = read(&disk, &RecoverOptions::default()).unwrap();
    assert_eq!(bodies.len(), 1);
    assert!(recovered.report.torn_bytes > 0);
    let strict = RecoverOptions { mode: RecoveryMode::Strict, ..RecoverOptions::default() };
    assert_eq!(read(&disk, &strict).unwrap_err().kind(), ErrorKind::Corruption);
    // The catalog knows better: that batch was durable.
    let known = RecoverOptions { last_lsn_min: 2, ..RecoverOptions::default() };
    assert_eq!(read(&disk, &known).unwrap_err().kind(), ErrorKind::Corruption);
}

#[test]
fn a_catalog_older_than_the_log_knows_is_damage() {
    let disk = disk();
    let (log, _) = open(&disk, None).unwrap();
    log.commit(body(1), Durability::Sync, 1).unwrap();
    log.barrier(7).unwrap();
    log.commit(body(2), Durability::Sync, 2).unwrap();
    drop(log);
    let told = |generation| {
        read(&disk, &RecoverOptions { generation: Some(generation), ..RecoverOptions::default() }).map(|_| ())
    };
    assert!(told(7).is_ok() && told(8).is_ok());
    let error = told(6).unwrap_err();
    assert!(error.kind() == ErrorKind::Corruption && error.to_string().contains("generation 7"), "{error}");
}

#[test]
fn a_log_of_another_store_and_stray_files_are_told_apart() {
    let (disk, mark, _) = closed();
    let options = RecoverOptions { clean: Some(mark), ..RecoverOptions::default() };
    let other = recover(&disk, Path::new("/wal"), Uuid([4; 16]), &options, &mut |_, _| Ok(()));
    assert_eq!(other.unwrap_err().kind(), ErrorKind::Corruption);
    for name in ["/wal/notes.txt", "/wal/1.log", "/wal/000000000000000Z.log"] {
        disk.open(Path::new(name), OpenMode::CreateNew).unwrap();
    }
    assert_eq!(read(&disk, &options).unwrap().1.len(), 9);
}

proptest! {
    #[test]
    fn any_bytes_are_a_log_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..6000)) {
        let _ = read_bytes(&bytes);
    }
}

#[test]
fn the_last_lsn_there_is_is_given_away_once_and_the_log_opens_again() {
    let disk = disk();
    let options = RecoverOptions { floor: LSN_MAX, last_lsn_min: LSN_MAX - 1, ..RecoverOptions::default() };
    let (recovered, _) = read(&disk, &options).unwrap();
    let vfs: Arc<dyn Vfs> = Arc::new(disk.clone());
    let log = start(&vfs, Path::new("/wal"), recovered, small()).unwrap();
    assert_eq!(log.commit(vec![1], Durability::Sync, 1).unwrap().0, LSN_MAX);
    let refused = log.commit(vec![2], Durability::Sync, 2).unwrap_err();
    assert_eq!((refused.kind(), refused.outcome()), (ErrorKind::InvalidArgument, Outcome::NotApplied));
    log.close().unwrap();
    drop(log);
    let (recovered, bodies) = read(&disk, &options).unwrap();
    assert_eq!((recovered.last_lsn, bodies), (LSN_MAX, vec![(LSN_MAX, vec![1])]));
    drop(start(&vfs, Path::new("/wal"), recovered, small()).unwrap());
    assert_eq!(read(&disk, &options).unwrap().0.last_lsn, LSN_MAX);
}

/// Files that somebody removed, or an older copy of one that was put back.
#[test]
fn a_log_without_the_batches_that_the_catalog_proves_is_damage() {
    let proves = |floor, last_lsn_min| RecoverOptions { floor, last_lsn_min, ..RecoverOptions::default() };
    let empty = disk();
    let error = read(&empty, &proves(1, 3)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    assert!(error.to_string().contains("the batches 1 to 3"), "{error}");
    // Below the floor nobody needs it.
    assert_eq!(read(&empty, &proves(4, 3)).unwrap().0.last_lsn, 3);

    let disk = disk();
    let (log, _) = open(&disk, None).unwrap();
    for lsn in 1..=2 {
        log.commit(body(lsn), Durability::Sync, lsn).unwrap();
    }
    drop(log);
    assert_eq!(read(&disk, &proves(1, 2)).unwrap().1.len(), 2);
    let error = read(&disk, &proves(1, 3)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    assert!(error.to_string().contains("batches up to 3"), "{error}");
}
