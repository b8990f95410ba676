//! How long until a store answers: cleanly closed, with more and more sealed rows, and after a kill with rows that
//! are only in the log.

use crate::data::Data;
use crate::report::Report;
use nearstone::{Metric, Schema, Store};
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const UNSEALED: usize = 20_000;
const CHILD: &str = "--ingest-until-killed";
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
    let mut child = Command::new(std::env::current_exe()?)
        .args([CHILD, &path.display().to_string(), &rows.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or("the child has no output")?;
    // It says one line when all rows are acknowledged, and waits to be killed.
    BufReader::new(output).lines().next().ok_or("the child ended early")??;
    child.kill()?;
    child.wait()?;
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

/// In the child: ingests, says so, and waits. `None` in the parent.
pub(crate) fn child(args: &[String]) -> Option<ExitCode> {
    let [flag, path, rows] = args else { return None };
    if flag != CHILD {
        return None;
    }
    let ingest = || -> Result<(), Box<dyn Error>> {
        let rows: usize = rows.parse()?;
        let data = Data::load(rows)?;
        let store = Store::builder().seal_rows(u32::MAX).open(path)?;
        let collection = store.create_collection("rows", Schema::new(data.dimension, Metric::Cosine))?;
        data.put(&store, &collection, 0..rows)?;
        println!("{rows}");
        std::io::stdout().flush()?;
        std::thread::sleep(Duration::from_secs(600));
        Ok(())
    };
    Some(match ingest() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    })
}
