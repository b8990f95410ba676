//! A child process writes rows and says after each batch what was acknowledged; the parent kills it without warning,
//! opens the store, and finds every acknowledged row.
//!
//! Run with `cargo run --example crash_and_recover`.

use nearstone::{Metric, Schema, Store};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

fn vector(key: u64) -> [f32; 3] {
    [key as f32, (key * 7 % 13) as f32, 1.0]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let Some(path) = std::env::args().nth(1) {
        return child(Path::new(&path));
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("crash.near");
    let mut child = Command::new(std::env::current_exe()?).arg(&path).stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().ok_or("the child has no output")?;

    let mut acknowledged = 0;
    for line in BufReader::new(output).lines() {
        acknowledged = line?.parse::<u64>()?;
        if acknowledged >= 500 {
            child.kill()?;
            break;
        }
    }
    child.wait()?;

    let store = Store::open(&path)?;
    let rows = store.collection("rows")?;
    for key in 0..acknowledged {
        let row = rows.get(key)?.ok_or_else(|| format!("row {key} was acknowledged and is gone"))?;
        assert_eq!(row.vector(), vector(key));
    }
    println!("{acknowledged} rows were acknowledged before the kill; {} are there", rows.len()?);
    store.close()?;
    Ok(())
}

fn child(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::open(path)?;
    let rows = store.collection_or_create("rows", Schema::new(3, Metric::L2))?;
    let mut out = std::io::stdout();
    for key in 0.. {
        rows.upsert(key, &vector(key), ())?;
        writeln!(out, "{}", key + 1)?;
        out.flush()?;
    }
    Ok(())
}
