//! Opening after a kill: how fast the log is replayed, how long until the first answer, until every row is linked
//! again, and what searches take meanwhile.
//!
//! For logs of several lengths, synced by each batch and left to the system (what it did not prove is written again at
//! open), in two stores: one with nothing but the log, and one in which all rows lie sealed already, under other keys.
//! Pages of the log are in the system's cache, as they are after the death of a process.

use crate::data::Data;
use crate::killed::{EF, LIMIT, Order, write_and_kill};
use crate::report::{Report, Wanted};
use nearstone::{Metric, Schema, Store};
use nearstone_datasets::Percentiles;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

/// Megabytes of records.
pub(crate) const LOGS: [usize; 3] = [10, 50, 120];
/// What a row takes in the log beside its numbers, about.
const ROW_EXTRA: usize = 24;
/// Sealed rows have keys from here on.
const SEALED_KEYS: u64 = 1 << 32;
/// The latency of searches is that of so long after opening, as long as rows are not linked.
const WINDOW: Duration = Duration::from_secs(30);
/// Nobody waits longer for the work behind.
const LINK_LIMIT: Duration = Duration::from_secs(1800);
/// Searches between two looks at what is linked.
const LOOK_EACH: usize = 16;

const MEGABYTES_PER_SECOND: f64 = 200.0;
/// To the first answer, besides the time of the log at that rate.
const FIRST_ANSWER_SECONDS: f64 = 1.0;

pub(crate) fn run(data: &Data, logs: &[usize], report: &mut Report) -> Result<(), Box<dyn Error>> {
    let list: Vec<String> = logs.iter().map(ToString::to_string).collect();
    report.command(&format!("recovery --logs {}", list.join(",")));
    let room = tempfile::tempdir()?;
    let sealed = room.path().join("sealed.near");
    let store = Store::open(&sealed)?;
    let rows = store.create_collection("rows", Schema::new(data.dimension, Metric::Cosine))?;
    data.put_under(&store, &rows, (0..data.rows()).map(|row| (SEALED_KEYS + row as u64, row)))?;
    store.compact()?;
    report.figure("recovery_large_sealed_rows", data.rows());
    report.figure("recovery_large_disk_bytes", store.stats()?.disk_bytes);
    store.close()?;
    drop((rows, store));

    for rows in lengths(data, logs) {
        for synced in [true, false] {
            let mut opened = Vec::new();
            for large in [false, true] {
                let path = room.path().join("killed.near");
                if large {
                    copy_folder(&sealed, &path)?;
                }
                let case = Case { data, path: &path, rows, synced, large };
                opened.push(case.measure(report)?);
                std::fs::remove_dir_all(&path)?;
            }
            let name = format!("recovery_{}_{rows}_rows_open_large_over_small", durability(synced));
            report.figure(&name, opened[1] / opened[0]);
        }
    }
    Ok(())
}

/// How many rows make logs of these lengths; no more than there are, and each number once.
fn lengths(data: &Data, megabytes: &[usize]) -> Vec<usize> {
    let row = data.dimension * 4 + ROW_EXTRA;
    let mut rows: Vec<usize> =
        megabytes.iter().map(|mb| (mb * 1_000_000 / row).clamp(1, data.rows())).collect();
    rows.sort_unstable();
    rows.dedup();
    rows
}

fn durability(synced: bool) -> &'static str {
    if synced { "sync" } else { "os" }
}

/// One log in one store.
struct Case<'a> {
    data: &'a Data,
    path: &'a Path,
    rows: usize,
    synced: bool,
    large: bool,
}

impl Case<'_> {
    /// Writes, kills, opens; the seconds of the opening.
    fn measure(&self, report: &mut Report) -> Result<f64, Box<dyn Error>> {
        let &Case { data, path, rows, synced, large } = self;
        let said = write_and_kill(&Order { path, rows, of: data.rows(), synced, linked: true })?;
        let start = Instant::now();
        let store = Store::builder().create(false).open(path)?;
        let opened = start.elapsed().as_secs_f64();
        let collection = store.collection("rows")?;
        let hits = collection.search(&data.queries[0]).limit(LIMIT).ef(EF).run()?;
        let answered = start.elapsed().as_secs_f64();
        let meanwhile = Meanwhile::watch(data, &store, start)?;

        let alive = rows as u64 + if large { data.rows() as u64 } else { 0 };
        if collection.len()? != alive {
            return Err(format!("{} rows after a kill, not {alive}", collection.len()?).into());
        }
        let exact = collection.search(&data.queries[0]).limit(LIMIT).exact(true).run()?;
        let same = hits.iter().zip(&exact).filter(|(a, b)| a.distance() == b.distance()).count();
        let rewritten = store.recovery().rewritten;
        store.close()?;

        let size = if large { "large" } else { "small" };
        let name = |what: &str| format!("recovery_{}_{rows}_rows_{size}_{what}", durability(synced));
        let megabytes = said.log_bytes as f64 / 1e6;
        report.figure(&name("log_megabytes"), megabytes);
        report.figure(&name("open_seconds"), opened);
        report.figure(&name("batches_written_again"), rewritten);
        report.figure_wanted(
            &name("replay_megabytes_per_second"),
            megabytes / opened,
            Wanted::AtLeast(MEGABYTES_PER_SECOND),
        );
        let limit = ((FIRST_ANSWER_SECONDS + megabytes / MEGABYTES_PER_SECOND) * 1e3).round();
        report.figure_wanted(&name("first_answer_ms"), answered * 1e3, Wanted::AtMost(limit));
        report.figure(&name("first_answer_recall"), same as f64 / exact.len().max(1) as f64);
        report.figure(&name("linked_seconds"), meanwhile.linked.as_secs_f64());
        let (p50, p99) = said.idle.ok_or("the child did not say what its searches took")?;
        for (when, p50, p99) in [
            ("before", p50, p99),
            ("linking", meanwhile.linking_us.p50, meanwhile.linking_us.p99),
            ("after", meanwhile.after_us.p50, meanwhile.after_us.p99),
        ] {
            report.figure(&name(&format!("search_{when}_p50_us")), p50);
            report.figure(&name(&format!("search_{when}_p99_us")), p99);
        }
        Ok(opened)
    }
}

/// Searches while the work behind goes on, and after.
struct Meanwhile {
    /// From the opening until every row was in a graph.
    linked: Duration,
    /// Of searches until then, [`WINDOW`] at most. All zero when there was none.
    linking_us: Percentiles,
    after_us: Percentiles,
}

impl Meanwhile {
    fn watch(data: &Data, store: &Store, start: Instant) -> Result<Meanwhile, Box<dyn Error>> {
        let collection = store.collection("rows")?;
        let search = |query: &[f32]| -> nearstone::Result<f64> {
            let begin = Instant::now();
            collection.search(query).limit(LIMIT).ef(EF).run()?;
            Ok(begin.elapsed().as_secs_f64() * 1e6)
        };
        let unlinked = || -> nearstone::Result<u64> {
            Ok(store.stats()?.collections.iter().map(|rows| rows.unlinked_rows).sum())
        };
        let mut linking = Vec::new();
        let mut queries = data.queries.iter().cycle();
        while unlinked()? > 0 {
            if start.elapsed() > LINK_LIMIT {
                return Err(format!("{} rows are not linked after {LINK_LIMIT:?}", unlinked()?).into());
            }
            if start.elapsed() > WINDOW {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            for query in queries.by_ref().take(LOOK_EACH) {
                linking.push(search(query)?);
            }
        }
        let linked = start.elapsed();
        let after: Vec<f64> =
            data.queries.iter().map(|query| search(query)).collect::<nearstone::Result<_>>()?;
        Ok(Meanwhile { linked, linking_us: Percentiles::of(linking), after_us: Percentiles::of(after) })
    }
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_as_long_as_there_are_rows_for() {
        let data = Data::generated(1000, 10, 4, 1);
        // 64 bytes a row: a megabyte is 15,625 of them.
        assert_eq!(lengths(&data, &[1, 50]), [1000]);
        let data = Data::generated(40_000, 10, 4, 1);
        assert_eq!(lengths(&data, &[2, 1]), [15_625, 31_250]);
    }

    #[test]
    fn a_store_is_watched_until_its_rows_are_linked() {
        let data = Data::generated(600, 16, 8, 20);
        let store = Store::in_memory().unwrap();
        let rows = store.create_collection("rows", Schema::new(16, Metric::Cosine)).unwrap();
        let start = Instant::now();
        data.put(&store, &rows, 0..600).unwrap();
        let found = Meanwhile::watch(&data, &store, start).unwrap();
        assert_eq!(store.stats().unwrap().collections[0].unlinked_rows, 0);
        assert!(found.linked <= start.elapsed());
        assert_eq!(found.after_us.count, 20);
    }

    #[test]
    fn a_copied_store_is_a_store() {
        let room = tempfile::tempdir().unwrap();
        let (one, other) = (room.path().join("one.near"), room.path().join("other.near"));
        let store = Store::open(&one).unwrap();
        let rows = store.create_collection("rows", Schema::new(2, Metric::L2)).unwrap();
        rows.upsert(1u64, &[1.0, 2.0], ()).unwrap();
        store.close().unwrap();
        copy_folder(&one, &other).unwrap();
        let copy = Store::builder().create(false).open(&other).unwrap();
        assert_eq!(copy.collection("rows").unwrap().len().unwrap(), 1);
        copy.close().unwrap();
    }
}
