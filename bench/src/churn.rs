//! A store that is never left in peace: round after round, a tenth of its rows replaced and a fiftieth deleted and made
//! anew ([`Script`]), with compaction running by itself as it does for users. Does recall decay, do rows get lost to
//! walks, does memory or disk creep, and how much is written for each byte that a user writes?
//!
//! Loaded and compacted, then the rounds, without a pause for the work behind unless one is asked for (where one processor
//! is all there is, work at the lowest priority has no turn beside a writer who never rests); every few rounds recall over exact truth
//! of the live rows. At the end once more, after the work behind came to rest, with every live row looked for by its own
//! vector; and the same for a store that was built afresh of the same rows and compacted, which is what recall and disk
//! are compared with.

use crate::data::Data;
use crate::process::{processor_time, resident};
use crate::recall::ask;
use crate::report::{Report, Wanted};
use crate::script::{ROWS_MIN, Script};
use crate::slope::slope;
use crate::watch::{Watched, Written};
use nearstone::{Collection, Metric, Schema, Store, StoreStats};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LIMIT: usize = 10;
const EF: usize = 32;
/// Recall is looked at so many times on the way.
const LOOKS: usize = 10;
/// How a row is looked for by its own vector: as users search, and, where that misses it (it has many twins, say), so
/// widely that only what no link leads to stays unfound.
const OWN: (usize, usize) = (10, 64);
const OWN_WIDE: (usize, usize) = (100, 2000);
/// How often the folder is measured. Files that come and go between two looks are not seen.
const DISK_LOOK: Duration = Duration::from_millis(10);
/// The work behind is at rest when the process took less than this share of a processor for one span; looking at the disk takes
/// a part of it.
const REST_SHARE: f64 = 0.1;
const REST_SPAN: Duration = Duration::from_secs(1);
const REST_SPANS_MAX: usize = 600;
/// When no row came for a bit less than this, what is in memory is sealed.
const SEAL_IDLE: Duration = Duration::from_secs(11);

const RECALL_LOSS: f64 = 0.01;
const DISK_RATIO: f64 = 2.2;

/// How it is measured.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    /// Rounds.
    pub(crate) cycles: usize,
    /// After each round.
    pub(crate) pause: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { cycles: 50, pause: Duration::ZERO }
    }
}

pub(crate) fn run(data: &Data, options: Options, report: &mut Report) -> Result<(), Box<dyn Error>> {
    if options.cycles == 0 {
        return Err("--cycles is 0: at least one round is needed".into());
    }
    if data.rows() < ROWS_MIN {
        return Err(format!("churn needs at least {ROWS_MIN} rows, not {}", data.rows()).into());
    }
    report.command(&format!("churn --cycles {} --pause {}", options.cycles, options.pause.as_millis()));
    let folder = tempfile::tempdir()?;
    let disk = Arc::new(Watched::default());
    let store = Store::builder().vfs(disk.clone()).open(folder.path().join("churn.near"))?;
    let rows = store.create_collection("rows", Schema::new(data.dimension, Metric::Cosine))?;
    let mut script = Script::new(data.rows());
    data.put_under(&store, &rows, script.held().iter().copied())?;
    store.compact()?;
    report.figure("churn_rows", script.held().len());
    report.figure("churn_loaded_disk_bytes", store.stats()?.disk_bytes);
    let loaded = ask(data, &rows, &truth(data, &script), EF)?;
    report.figure("churn_loaded_rss_anon_bytes", resident().anonymous);
    report.figure("churn_loaded_recall", loaded.recall);
    report.figure("churn_loaded_mean_us", loaded.latency_us.mean);

    let before = (disk.written(), store.stats()?);
    // Merges hold their inputs and their output: the peak may come when the writer is done.
    let (done, disk_peak) = with_peak(&store, || {
        let done = rounds(data, &store, &rows, &mut script, options, report);
        rest();
        done
    })?;
    let all = done?;
    let held = resident();
    let after = store.stats()?;
    let live = script.held().len() as u64;
    if rows.len()? != live {
        return Err(format!("{} rows are alive, not {live}", rows.len()?).into());
    }

    report_work(data, &all, disk.written().since(before.0), (&before.1, &after), report);

    let truth = truth(data, &script);
    let settled = ask(data, &rows, &truth, EF)?;
    report_state(&after, "churn_settled", report);
    report.figure("churn_settled_rss_anon_bytes", held.anonymous);
    report.figure("churn_settled_rss_file_bytes", held.file);
    let (missed, unreachable) = look_for_all(data, &rows, script.held())?;
    report.figure("churn_missed_by_own_vector", missed);
    report.figure_wanted("churn_unreachable_rows", unreachable as f64, Wanted::AtMost(0.0));
    report.figure("churn_verified_rows", store.verify()?.rows);

    let fresh = Store::open(folder.path().join("fresh.near"))?;
    let fresh_rows = fresh.create_collection("rows", Schema::new(data.dimension, Metric::Cosine))?;
    data.put_under(&fresh, &fresh_rows, script.held().iter().copied())?;
    fresh.compact()?;
    let built = ask(data, &fresh_rows, &truth, EF)?;
    let fresh_bytes = fresh.stats()?.disk_bytes as f64;
    report.figure("churn_fresh_recall", built.recall);
    report.figure("churn_fresh_mean_us", built.latency_us.mean);
    let enough = ((built.recall - RECALL_LOSS) * 1e4).round() / 1e4;
    report.figure_wanted("churn_settled_recall", settled.recall, Wanted::AtLeast(enough));
    report.figure("churn_settled_mean_us", settled.latency_us.mean);
    report.figure("churn_settled_p99_us", settled.latency_us.p99);
    report.figure("churn_fresh_disk_bytes", fresh_bytes);
    let ratio = after.disk_bytes as f64 / fresh_bytes;
    report.figure_wanted("churn_settled_disk_over_fresh", ratio, Wanted::AtMost(DISK_RATIO));
    report.figure_wanted(
        "churn_peak_disk_over_fresh",
        disk_peak as f64 / fresh_bytes,
        Wanted::AtMost(DISK_RATIO),
    );
    fresh.close()?;
    store.close()?;
    Ok(())
}

/// What all rounds together did.
struct Rounds {
    written_rows: usize,
    write_time: Duration,
    /// Memory that is the process's own after each round.
    anonymous: Vec<(f64, f64)>,
}

fn rounds(
    data: &Data,
    store: &Store,
    rows: &Collection,
    script: &mut Script,
    options: Options,
    report: &mut Report,
) -> Result<Rounds, Box<dyn Error>> {
    let mut all = Rounds { written_rows: 0, write_time: Duration::ZERO, anonymous: Vec::new() };
    for number in 1..=options.cycles {
        let round = script.round();
        let begin = Instant::now();
        data.put_under(store, rows, round.replaced.iter().copied())?;
        for keys in round.deleted.chunks(crate::data::BATCH) {
            let mut batch = store.batch();
            for &key in keys {
                batch.delete(rows, key)?;
            }
            batch.commit()?;
        }
        data.put_under(store, rows, round.inserted.iter().copied())?;
        let took = begin.elapsed();
        all.write_time += took;
        all.written_rows += round.replaced.len() + round.inserted.len();
        let held = resident();
        all.anonymous.push((number as f64, held.anonymous as f64));
        std::thread::sleep(options.pause);
        if !number.is_multiple_of(options.cycles.div_ceil(LOOKS)) && number != options.cycles {
            continue;
        }
        let name = |what: &str| format!("churn_round_{number}_{what}");
        report.figure(&name("write_seconds"), took.as_secs_f64());
        report.figure(&name("rss_anon_bytes"), held.anonymous);
        report.figure(&name("rss_file_bytes"), held.file);
        report_state(&store.stats()?, &format!("churn_round_{number}"), report);
        let asked = ask(data, rows, &truth(data, script), EF)?;
        report.figure(&name("recall"), asked.recall);
        report.figure(&name("mean_us"), asked.latency_us.mean);
        report.figure(&name("p99_us"), asked.latency_us.p99);
    }
    Ok(all)
}

/// What the user wrote, against what was written for it.
fn report_work(
    data: &Data,
    all: &Rounds,
    written: Written,
    (before, after): (&StoreStats, &StoreStats),
    report: &mut Report,
) {
    let user_bytes = (all.written_rows * data.dimension * 4) as f64;
    report.figure("churn_rows_written", all.written_rows);
    report.figure("churn_rows_written_per_second", all.written_rows as f64 / all.write_time.as_secs_f64());
    report.figure("churn_bytes_written_per_byte_of_rows", written.all() as f64 / user_bytes);
    report.figure("churn_of_which_log", written.log as f64 / user_bytes);
    report.figure("churn_of_which_segments", written.segments as f64 / user_bytes);
    report.figure("churn_of_which_catalog", written.rest as f64 / user_bytes);
    report.figure("churn_seals", after.seals - before.seals);
    report.figure("churn_compactions", after.compactions - before.compactions);
    report.figure("churn_write_stalls", after.write_stalls);
    report.figure("churn_write_rest_seconds", (after.write_rest_ms - before.write_rest_ms) as f64 / 1000.0);
    // Of the second half: at first what the work behind needs is taken for the first time.
    if let Some(bytes) = slope(&all.anonymous[all.anonymous.len() / 2..]) {
        report.figure("churn_anon_bytes_per_round", bytes);
    }
    if let Some(error) = &after.last_error {
        report.figure("churn_last_error", error.as_str());
    }
}

fn report_state(stats: &StoreStats, when: &str, report: &mut Report) {
    report.figure(&format!("{when}_disk_bytes"), stats.disk_bytes);
    report.figure(&format!("{when}_log_bytes"), stats.wal_bytes);
    for rows in &stats.collections {
        report.figure(&format!("{when}_segments"), rows.segments.len());
        report.figure(&format!("{when}_dead_rows"), rows.dead_rows);
        report.figure(&format!("{when}_unsealed_rows"), rows.unsealed_rows);
        report.figure(&format!("{when}_unlinked_rows"), rows.unlinked_rows);
        report.figure(&format!("{when}_debt"), rows.compaction_debt);
    }
}

/// Distances of the nearest live rows of each query.
fn truth(data: &Data, script: &Script) -> Vec<Vec<f64>> {
    let mut alive = vec![false; data.rows()];
    for &(_, row) in script.held() {
        alive[row] = true;
    }
    data.truth(LIMIT, Some(&|row| alive[row as usize]))
}

/// How many rows a search by their own vector does not find, and how many a very wide one does not find either.
fn look_for_all(
    data: &Data,
    rows: &Collection,
    held: &[(u64, usize)],
) -> Result<(usize, usize), Box<dyn Error>> {
    let finds = |(key, row): (u64, usize), (limit, ef): (usize, usize)| -> nearstone::Result<bool> {
        let hits = rows.search(data.row(row)).limit(limit).ef(ef).run()?;
        Ok(hits.iter().any(|hit| *hit.key() == key.into()))
    };
    let (mut missed, mut unreachable) = (0, 0);
    for &one in held {
        if !finds(one, OWN)? {
            missed += 1;
            unreachable += usize::from(!finds(one, OWN_WIDE)?);
        }
    }
    Ok((missed, unreachable))
}

/// Runs `work`, and says how many bytes the store's folder held at most meanwhile.
fn with_peak<T>(store: &Store, work: impl FnOnce() -> T) -> Result<(T, u64), Box<dyn Error>> {
    let (done, peak) = (AtomicBool::new(false), AtomicU64::new(store.stats()?.disk_bytes));
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                if let Ok(stats) = store.stats() {
                    peak.fetch_max(stats.disk_bytes, Ordering::Relaxed);
                }
                std::thread::sleep(DISK_LOOK);
            }
        });
        let result = work();
        done.store(true, Ordering::Release);
        result
    });
    Ok((result, peak.into_inner()))
}

/// Waits until the work behind is done, as far as the processor's time tells, also what it does when nobody writes for a while.
fn rest() {
    until_idle();
    std::thread::sleep(SEAL_IDLE);
    until_idle();
}

fn until_idle() {
    for _ in 0..REST_SPANS_MAX {
        let before = processor_time();
        std::thread::sleep(REST_SPAN);
        if (processor_time() - before).as_secs_f64() < REST_SHARE * REST_SPAN.as_secs_f64() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_store_goes_through_its_rounds_and_loses_nothing() {
        let data = Data::generated(500, 16, 8, 20);
        let mut report = Report::new(true);
        run(&data, Options { cycles: 12, ..Options::default() }, &mut report).unwrap();
        assert_eq!(report.get("churn_rows"), 400.0);
        assert_eq!(report.get("churn_rows_written"), 12.0 * 48.0);
        assert_eq!(report.get("churn_verified_rows"), 400.0);
        assert_eq!(report.get("churn_unreachable_rows"), 0.0);
        assert!(report.get("churn_settled_recall") > 0.95);
        assert!(report.get("churn_round_12_recall") > 0.95);
        assert!(report.get("churn_of_which_log") > 1.0, "every byte of a row goes through the log");
        assert!(report.get("churn_settled_disk_over_fresh") > 0.0);
    }

    #[test]
    fn fewer_rows_than_a_round_needs_are_refused() {
        let error =
            run(&Data::generated(20, 4, 2, 1), Options::default(), &mut Report::new(true)).unwrap_err();
        assert_eq!(error.to_string(), "churn needs at least 250 rows, not 20");
    }
}
