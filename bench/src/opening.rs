//! How long until a store answers: cleanly closed, with more and more sealed rows, and after a kill with rows that
//! are only in the log.

use crate::data::Data;
use crate::killed::{Order, write_and_kill};
use crate::report::Report;
use nearstone::{Metric, Schema, Store};
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

const UNSEALED: usize = 20_000;
const TRIES: usize = 5;

pub(crate) fn run(data: &Data, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    for part in [4, 2, 1] {
        let rows = data.rows() / part;
        let path = folder.path().join(format!("closed-{part}.near"));
        let store = Store::open(&path)?;
        let collection = store.create_collection("rows", Schema::new(data.dimension, Metric::Cosine))?;
        data.put(&store, &collection, 0..rows)?;
        store.compact()?;
        store.close()?;
        drop((collection, store));
        report.figure(&format!("open_clean_{rows}_rows_ms"), millis(best(|| first_answer(&path, data))?));
    }

    let path = folder.path().join("killed.near");
    let rows = UNSEALED.min(data.rows());
    write_and_kill(&Order { path: &path, rows, of: rows, synced: true, linked: false })?;
    let start = Instant::now();
    let store = Store::open(&path)?;
    let hits = store.collection("rows")?.search(&data.queries[0]).limit(10).run()?;
    let elapsed = start.elapsed();
    assert_eq!(hits.len(), 10);
    assert_eq!(store.collection("rows")?.len()?, rows as u64, "an acknowledged row is gone");
    let exact = store.collection("rows")?.search(&data.queries[0]).limit(10).exact(true).run()?;
    let same = hits.iter().zip(&exact).filter(|(a, b)| a.distance() == b.distance()).count();
    report.figure(&format!("open_killed_{rows}_unsealed_ms"), millis(elapsed));
    report.figure("open_killed_first_answer_recall", same as f64 / 10.0);
    store.close()?;
    Ok(())
}

fn first_answer(path: &Path, data: &Data) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    let store = Store::open(path)?;
    let hits = store.collection("rows")?.search(&data.queries[0]).limit(10).run()?;
    let elapsed = start.elapsed();
    assert_eq!(hits.len(), 10);
    store.close()?;
    Ok(elapsed)
}

fn best(measure: impl Fn() -> Result<Duration, Box<dyn Error>>) -> Result<Duration, Box<dyn Error>> {
    let mut times = Vec::new();
    for _ in 0..TRIES {
        times.push(measure()?);
    }
    times.sort();
    Ok(times[TRIES / 2])
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
