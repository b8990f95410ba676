//! Killing real processes on a real file system.
//!
//! 1. A child ([`child`]) ingests with several threads, seals, compacts, changes schemas, backs up, closes and opens
//!    again, and says what was acknowledged.
//! 2. It is killed at a random time, or dies at a failpoint ([`points`]): those of the sources by turns, at one of the
//!    first passings.
//! 3. Now and then the process that recovers the store is killed as well, in the same two ways.
//! 4. Another process ([`checker`]) compares every key with its own vector and payload ([`compare`], [`script`]),
//!    compacts, opens again and compares again.
//!
//! What no kill leaves behind is made: a log file that came back after it was unlinked, and damage in a log
//! (`give_up`).
//!
//! A store goes on for several such cycles, so that each finds what earlier kills have left behind. Without
//! `--cfg nearstone_faults` there are no failpoints, and all kills come at random times.

pub mod checker;
pub mod child;
pub mod compare;
mod give_up;
pub mod points;
mod process;
pub mod script;
pub mod tally;

use checker::{BackupMade, Question};
use nearstone::RecoveryMode;
use nearstone::random::SplitMix64;
use nearstone_wal::{file_name, parse_name};
use points::{POINTS, Point, Role};
use process::{End, Running, Until};
use script::{GUEST, Steps};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tally::Tally;

/// Stores that are killed at the same time.
const JOBS: u64 = 4;
/// Cycles that a store lives, at least, and how many more it may.
const GENERATIONS: (u64, u64) = (3, 4);
/// A child that has not met its failpoint by then is killed.
const PATIENCE: Duration = Duration::from_secs(6);

/// Said to a recovering process: what lies behind damage is given up.
const GIVE_UP: &str = "give-up";

/// The folder of a backup of the store at `path`.
pub(crate) fn backup_path(path: &Path, number: u64) -> PathBuf {
    path.with_file_name(format!("backup-{number}"))
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where stores are made.
    pub root: PathBuf,
    /// How many kills.
    pub cycles: u64,
    /// What chance follows from, but for when exactly a kill meets a process.
    pub seed: u64,
}

/// A store that is killed again and again.
struct Victim {
    /// Holds the store, its backups, and a copy of what the checker was given.
    folder: tempfile::TempDir,
    store: PathBuf,
    steps: Steps,
    next_backup: u64,
    cycles_left: u64,
}

impl Victim {
    fn new(plan: &Plan, rng: &mut SplitMix64) -> Victim {
        let folder = tempfile::Builder::new().prefix("kill-").tempdir_in(&plan.root).expect("a folder");
        let store = folder.path().join("store");
        let cycles_left = GENERATIONS.0 + rng.below(GENERATIONS.1);
        Victim { folder, store, steps: [0; GUEST + 1], next_backup: 0, cycles_left }
    }
}

/// What ended the ingesting process, and what it had acknowledged.
struct Ingested {
    end: End,
    steps: Steps,
    backups: Vec<BackupMade>,
}

/// Runs the cycles, several stores at once: each waits for the disk most of the time. Panics when one goes wrong, and
/// says where its store is kept.
pub fn run(plan: &Plan) -> Tally {
    let mut total = Tally::default();
    let start = Instant::now();
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..JOBS.min(plan.cycles))
            .map(|job| {
                let failed = &failed;
                scope.spawn(move || run_job(plan, job, failed))
            })
            .collect();
        let tallies: Vec<_> =
            jobs.into_iter().map(|job| job.join().expect("failures are returned")).collect();
        for tally in tallies {
            total.add(tally.unwrap_or_else(|what| panic!("{what}")));
        }
    });
    total.took = start.elapsed();
    total
}

/// Every so many-th cycle, on stores of its own; ends early when another job has failed.
fn run_job(plan: &Plan, job: u64, failed: &AtomicBool) -> Result<Tally, String> {
    let mut tally = Tally::default();
    tally.stores += 1;
    let mut rng = SplitMix64::new(plan.seed * JOBS + job);
    let mut victim = Victim::new(plan, &mut rng);
    let points = POINTS.len() as u64;
    let mut turn = (plan.seed * 31 + job * points / JOBS) % points;
    for cycle in (job..plan.cycles).step_by(JOBS as usize) {
        if failed.load(Ordering::Relaxed) {
            break;
        }
        // Failpoints and random times by turns.
        let point = (cfg!(nearstone_faults) && (cycle / JOBS).is_multiple_of(2)).then(|| {
            turn += 1;
            POINTS[(turn % points) as usize]
        });
        let wants = |role| point.is_some_and(|point: Point| point.role == role);
        // What is to come back must have been there before.
        if victim.cycles_left == 0 && !wants(Role::Orphan) || wants(Role::Create) {
            victim = Victim::new(plan, &mut rng);
            tally.stores += 1;
        }
        victim.cycles_left = victim.cycles_left.saturating_sub(1);
        let mut story = Vec::new();
        if let Err(what) = run_cycle(&mut victim, point, &mut rng, &mut tally, &mut story) {
            failed.store(true, Ordering::Relaxed);
            victim.folder.disable_cleanup(true);
            return Err(format!(
                "seed {}, cycle {cycle}, {}:\n{what}\nThe folder is {}; `before` in it is what the checker was given.",
                plan.seed,
                story.join(", then "),
                victim.folder.path().display()
            ));
        }
        tally.cycles += 1;
    }
    Ok(tally)
}

/// One cycle; `story` says, for a failure, what was done to the store.
fn run_cycle(
    victim: &mut Victim,
    point: Option<Point>,
    rng: &mut SplitMix64,
    tally: &mut Tally,
    story: &mut Vec<String>,
) -> Result<(), String> {
    let (first, then) = match point.map(|point| (point, point.role)) {
        None => (None, None),
        Some((point, Role::GiveUp)) => return give_up::run(victim.folder.path(), point, tally, story),
        // After some lives, so that files which were there before are gone.
        Some((point, Role::Orphan)) => {
            (Some(Point { passings: 4, ..points::named("close-catalog-closed") }), Some(point))
        }
        Some((point, Role::Create | Role::Ingest)) => (Some(point), None),
        Some((point, Role::Either(_))) if rng.below(2) == 0 => (Some(point), None),
        Some((point, Role::Recover(before) | Role::Either(before))) => {
            (Some(points::named(before)), Some(point))
        }
    };

    let ingested = ingest(victim, first, rng, story)?;
    tally.died(first, &ingested.end);
    // Any number of recoveries may be cut short before one ends.
    let mut next = then;
    while next.is_some() || rng.below(4) == 0 {
        let failpoint = next.take();
        if failpoint.is_some_and(|point| point.role == Role::Orphan) {
            put_back_a_log_file(victim).map_err(|error| format!("an old log file: {error}"))?;
        }
        let end = recover(victim, failpoint, rng, story)?;
        tally.died(failpoint, &end);
        tally.recoveries += 1;
    }

    let before = victim.folder.path().join("before");
    copy_folder(&victim.store, &before).map_err(|error| format!("a copy for later: {error}"))?;
    let question = Question {
        turn: rng.next_u64(),
        low: ingested.steps,
        high: ingested.steps.map(|steps| steps + 1),
        backups: ingested.backups,
    };

    let mut verdict = None;
    let checker = Running::start("check", &victim.store, &question.to_words(), None);
    let end = checker.watch(Until::Ended, &mut |words| {
        if let ["verdict", numbers @ ..] = words {
            verdict = Some(numbers.iter().map(|n| n.parse().expect("a number")).collect::<Vec<u64>>());
        }
    });
    let Some(&[s0, s1, s2, s3, rows, complete]) = verdict.as_deref().filter(|_| end.is_success()) else {
        return Err(format!("the checker ended with {end}"));
    };
    let ids = log_ids(&victim.store.join("wal")).map_err(|error| format!("the log's folder: {error}"))?;
    if let Some(pair) = ids.windows(2).find(|pair| pair[0] + 1 < pair[1]) {
        return Err(format!("the log file {} was left behind: the next is {}", pair[0], pair[1]));
    }
    victim.steps = [s0, s1, s2, s3];
    tally.rows += rows;
    tally.backups_complete += complete;
    tally.backups_cut_short += question.backups.len() as u64 - complete;
    remove(&before)?;
    keep_log_files(victim).map_err(|error| format!("links to log files: {error}"))?;
    question.backups.iter().try_for_each(|backup| remove(&backup_path(&victim.store, backup.number)))
}

fn ingest(
    victim: &mut Victim,
    point: Option<Point>,
    rng: &mut SplitMix64,
    story: &mut Vec<String>,
) -> Result<Ingested, String> {
    let failpoint = point.map(|point| format!("{}:{}", point.name, 1 + rng.below(point.passings)));
    let until = match (&failpoint, rng.below(3)) {
        (Some(_), _) => Until::Failpoint(PATIENCE),
        // Also while it opens.
        (None, 0) => Until::Time(Duration::from_micros(rng.below(200_000))),
        (None, _) => Until::Lines(1 + rng.below(200)),
    };
    story.push(format!("an ingesting process killed ({})", failpoint.as_deref().unwrap_or("at random")));
    let [s0, s1, s2, s3] = victim.steps;
    let words = format!("{} {s0} {s1} {s2} {s3} {}", rng.next_u64(), victim.next_backup);
    let mut steps = victim.steps;
    let mut backups: Vec<BackupMade> = Vec::new();
    let running = Running::start("ingest", &victim.store, &words, failpoint.as_deref());
    let end = running.watch(until, &mut |words| match words {
        ["did", actor, taken] => {
            let actor: usize = actor.parse().expect("an actor");
            steps[actor] = taken.parse().expect("steps");
        }
        ["begin", number] => {
            let number = number.parse().expect("a number");
            backups.push(BackupMade { number, low: steps, high: steps, ended: false });
        }
        ["end", _] => {
            let backup = backups.last_mut().expect("what ends was begun");
            backup.ended = true;
            backup.high = steps.map(|steps| steps + 1);
        }
        _ => {}
    });
    if let End::Ended(..) = end {
        return Err(format!("the ingesting process ended by itself with {end}"));
    }
    for backup in backups.iter_mut().filter(|backup| !backup.ended) {
        backup.high = steps.map(|steps| steps + 1);
    }
    victim.next_backup = backups.last().map_or(victim.next_backup, |last| last.number + 1);
    Ok(Ingested { end, steps, backups })
}

fn recover(
    victim: &Victim,
    point: Option<Point>,
    rng: &mut SplitMix64,
    story: &mut Vec<String>,
) -> Result<End, String> {
    let failpoint = point.map(|point| point.name);
    let until = match failpoint {
        Some(_) => Until::Failpoint(PATIENCE),
        None => Until::Time(Duration::from_micros(rng.below(60_000))),
    };
    story.push(format!("a recovering one ({})", failpoint.unwrap_or("at random")));
    let running = Running::start("recover", &victim.store, "", failpoint);
    match running.watch(until, &mut |_| {}) {
        end @ End::Ended(..) => Err(format!("the recovering process ended by itself with {end}")),
        end => Ok(end),
    }
}

/// Gives the log's files a second name, so that they can come back.
fn keep_log_files(victim: &Victim) -> std::io::Result<()> {
    let kept = victim.folder.path().join("log-files");
    std::fs::create_dir_all(&kept)?;
    for id in log_ids(&victim.store.join("wal"))? {
        let name = file_name(id);
        if !kept.join(&name).exists() {
            std::fs::hard_link(victim.store.join("wal").join(&name), kept.join(&name))?;
        }
    }
    Ok(())
}

/// Brings back the last log file that is gone together with the one behind it: what would name it is not there.
fn put_back_a_log_file(victim: &Victim) -> std::io::Result<()> {
    let (kept, log) = (victim.folder.path().join("log-files"), victim.store.join("wal"));
    let Some(&first) = log_ids(&log)?.first() else { return Ok(()) };
    if let Some(id) = log_ids(&kept)?.into_iter().rfind(|id| id + 1 < first) {
        std::fs::hard_link(kept.join(file_name(id)), log.join(file_name(id)))?;
    }
    Ok(())
}

/// The ids of the log files in a folder, ascending; none when there is no such folder.
fn log_ids(folder: &Path) -> std::io::Result<Vec<u64>> {
    let mut ids = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(ids) };
    for entry in entries {
        ids.extend(entry?.file_name().to_str().and_then(parse_name));
    }
    ids.sort_unstable();
    Ok(ids)
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    // A store may not have been begun.
    let Ok(entries) = std::fs::read_dir(from) else { return Ok(()) };
    std::fs::create_dir(to)?;
    for entry in entries {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<(), String> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{} cannot be removed: {error}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// What a process is to do when it is one of the harness's; `false` when it is none.
pub fn be_a_child() -> bool {
    let Ok(role) = std::env::var(process::ROLE) else { return false };
    let path = PathBuf::from(std::env::var_os(process::STORE).expect("a store"));
    let words = std::env::var(process::WORDS).expect("words");
    match role.as_str() {
        "ingest" => {
            let numbers: Vec<u64> = words.split(' ').map(|word| word.parse().expect("a number")).collect();
            let &[seed, s0, s1, s2, s3, backup] = numbers.as_slice() else {
                panic!("not six numbers: {words}")
            };
            child::ingest(&path, seed, [s0, s1, s2, s3], backup)
        }
        "recover" if words == GIVE_UP => child::recover(&path, RecoveryMode::PointInTime),
        "recover" => child::recover(&path, RecoveryMode::default()),
        "check" => checker::check(&path, &Question::from_words(&words)),
        other => panic!("there is no role {other:?}"),
    }
    true
}
