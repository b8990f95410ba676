//! A process of its own that writes rows and is killed, so that what it wrote lies in the log alone.
//!
//! The child says one line, in JSON, when all rows are acknowledged (and linked, if that was asked for), and waits for
//! the end. Nothing is sealed in it, whatever the size.

use crate::child::{obeying, ordered};
use crate::data::Data;
use crate::recall::ask;
use nearstone::{Durability, Metric, Schema, Store};
use serde_json::{Value, json};
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const FLAG: &str = "--ingest-until-killed";
/// As in the part that measures recovery: searches before the kill are compared with those after.
pub(crate) const EF: usize = 32;
pub(crate) const LIMIT: usize = 10;

/// What the child is to do.
pub(crate) struct Order<'a> {
    /// The store, made when it is not there.
    pub(crate) path: &'a Path,
    /// Puts the first rows of the data, so many, under their numbers.
    pub(crate) rows: usize,
    /// All rows of the data set that the parent has; so the child loads the same.
    pub(crate) of: usize,
    /// Whether each batch is synced.
    pub(crate) synced: bool,
    /// Whether all rows are linked, and all queries asked, before the kill.
    pub(crate) linked: bool,
}

/// What the child said before it was killed.
pub(crate) struct Said {
    /// Bytes of the records that it wrote.
    pub(crate) log_bytes: u64,
    /// Of its searches, when it linked all rows. In microseconds.
    pub(crate) idle: Option<(f64, f64)>,
}

/// Starts the child, waits for its line, and kills it with a signal that it cannot catch.
pub(crate) fn write_and_kill(order: &Order<'_>) -> Result<Said, Box<dyn Error>> {
    let text = json!({
        "path": order.path.to_str().ok_or("the folder's name is not UTF-8")?,
        "rows": order.rows,
        "of": order.of,
        "synced": order.synced,
        "linked": order.linked,
    });
    let mut child = ordered(FLAG, &text)?.spawn()?;
    let output = child.stdout.take().ok_or("the child has no output")?;
    let line = BufReader::new(output).lines().next();
    child.kill()?;
    child.wait()?;
    let said: Value = serde_json::from_str(&line.ok_or("the child ended early")??)?;
    Ok(Said {
        log_bytes: said["log_bytes"].as_u64().ok_or("the child did not say how long its log is")?,
        idle: said["p50_us"].as_f64().zip(said["p99_us"].as_f64()),
    })
}

/// In the child: does what it was told, says so, and waits. `None` in the parent.
pub(crate) fn child(args: &[String]) -> Option<ExitCode> {
    obeying(args, FLAG, obey)
}

fn obey(order: &str) -> Result<(), Box<dyn Error>> {
    let order: Value = serde_json::from_str(order)?;
    let number = |name: &str| order[name].as_u64().ok_or(format!("the order names no {name}"));
    let rows = number("rows")? as usize;
    let data = Data::load(number("of")? as usize)?;
    let synced = order["synced"].as_bool() != Some(false);
    let store = Store::builder()
        .durability(if synced { Durability::Sync } else { Durability::Os })
        .seal_rows(u32::MAX)
        .seal_bytes(u64::MAX)
        .wal_bytes(u64::MAX)
        .memory_budget(u64::MAX)
        .auto_compact(false)
        .open(order["path"].as_str().ok_or("the order names no path")?)?;
    let collection = store.collection_or_create("rows", Schema::new(data.dimension, Metric::Cosine))?;
    data.put(&store, &collection, 0..rows)?;
    let mut said = json!({ "log_bytes": store.stats()?.log.map_or(0, |log| log.bytes) });
    if order["linked"].as_bool() == Some(true) {
        collection.link(std::thread::available_parallelism().map_or(1, usize::from))?;
        let truth = vec![vec![f64::INFINITY; LIMIT]; data.queries.len()];
        ask(&data, &collection, &truth, EF)?;
        let idle = ask(&data, &collection, &truth, EF)?.latency_us;
        said["p50_us"] = idle.p50.into();
        said["p99_us"] = idle.p99.into();
    }
    println!("{said}");
    std::io::stdout().flush()?;
    std::thread::sleep(Duration::from_secs(600));
    Ok(())
}
