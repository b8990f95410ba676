//! What each profile takes and gives: bytes resident after ten thousand different queries, bytes on disk, recall and time;
//! and what each residency does for the first query, and for the slow ones.
//!
//! Each figure is of a process of its own ([`child`]), which finds a finished store and nothing else in its memory. Before a
//! cold run the operating system is asked to forget the store's files.

use crate::child::{obeying, ordered};
use crate::data::Data;
use crate::process::resident;
use crate::report::{Report, Wanted};
use nearstone::vfs::Residency;
use nearstone::{Metric, Profile, Schema, Store};
use nearstone_datasets::{Percentiles, recall};
use serde_json::{Value, json};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

const FLAG: &str = "--ask-a-store";
const LIMIT: usize = 10;
/// Different ones.
const QUERIES: usize = 10_000;
/// Of these, so many have their truth.
const JUDGED: usize = 1_000;
const EF: usize = 64;
const WIDTHS: [usize; 8] = [10, 16, 24, 32, 48, 64, 96, 128];
const RECALL: f64 = 0.95;
/// Resident bytes of the lean profile, as a share of the numbers themselves.
const LEAN: f64 = 0.45;
/// The wide rows on which that is wanted.
const WIDE: usize = 768;
const WIDE_LATENT: usize = 32;
const WIDE_ROWS: usize = 100_000;
const RESIDENCIES: [(&str, Residency); 4] = [
    ("mapped", Residency::Mapped),
    ("warm", Residency::Warm),
    ("pinned", Residency::Pinned),
    ("heap", Residency::Heap),
];

pub(crate) fn run(data: &Data, rows: Option<usize>, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let wide = Data::generated(rows.unwrap_or(WIDE_ROWS).min(WIDE_ROWS), WIDE, WIDE_LATENT, JUDGED);
    for (set, data) in [("manifold_768", &wide), ("data", data)] {
        report.say(&format!("{}: {} rows x {}", data.name, data.rows(), data.dimension));
        let folder = tempfile::tempdir()?;
        write_questions(data, folder.path())?;
        for profile in [Profile::Speed, Profile::Memory] {
            let name = format!("residency_{set}_{}", profile.name());
            let store = build(data, profile, folder.path())?;
            measure(&name, &store, data, profile, report)?;
        }
    }
    report.command("residency");
    Ok(())
}

/// A closed store with all rows in one segment.
fn build(data: &Data, profile: Profile, folder: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let path = folder.join(format!("{}.near", profile.name()));
    let store = Store::open(&path)?;
    let schema = Schema::new(data.dimension, Metric::Cosine).profile(profile);
    let collection = store.create_collection("rows", schema)?;
    let mut load = collection.bulk_load()?;
    for row in 0..data.rows() {
        load.push(row as u64, data.row(row), ())?;
    }
    load.finish()?;
    store.compact()?;
    store.close()?;
    Ok(path)
}

fn measure(
    name: &str,
    store: &Path,
    data: &Data,
    profile: Profile,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let raw = data.dimension as f64 * 4.0;
    let rows = data.rows() as f64;
    for (residency, _) in RESIDENCIES {
        for cold in [true, false] {
            if cold && !forget(store)? {
                report.say("  this system can't be asked to forget files: no cold figures");
                continue;
            }
            let said = ask(store, data.dimension, residency)?;
            let name = format!("{name}_{residency}_{}", if cold { "cold" } else { "cached" });
            for figure in ["open_ms", "first_query_us"] {
                report.figure(&format!("{name}_{figure}"), number(&said, figure)?);
            }
            if cold {
                continue;
            }
            for figure in ["p50_us", "p99_us"] {
                report.figure(&format!("{name}_{figure}"), number(&said, figure)?);
            }
            let resident = number(&said, "resident_bytes")? / rows / raw;
            if residency == "mapped" && profile == Profile::Memory && data.dimension >= WIDE {
                report.figure_wanted(&format!("{name}_resident_of_raw"), resident, Wanted::AtMost(LEAN));
            } else {
                report.figure(&format!("{name}_resident_of_raw"), resident);
            }
            if residency == "mapped" {
                report.figure(&format!("{name}_disk_of_raw"), number(&said, "disk_bytes")? / rows / raw);
            }
            // In memory whole, nothing is read from the file, and more is measured: what these reads cost and lose.
            if ["mapped", "heap"].contains(&residency) {
                curve(&name, &said, report)?;
            }
        }
    }
    Ok(())
}

/// Recall and time by width of the beam, and the narrowest that finds enough.
fn curve(name: &str, said: &Value, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let points = said["curve"].as_array().ok_or("the child said no curve")?;
    for point in points {
        let ef = number(point, "ef")?;
        report.figure(&format!("{name}_ef{ef}_recall"), number(point, "recall")?);
        report.figure(&format!("{name}_ef{ef}_mean_us"), number(point, "mean_us")?);
    }
    let enough = |point: &&Value| number(point, "recall").is_ok_and(|recall| recall >= RECALL);
    if let Some(point) = points.iter().find(enough) {
        report.figure(&format!("{name}_ef_at_recall_{RECALL}"), number(point, "ef")?);
        report.figure(&format!("{name}_us_at_recall_{RECALL}"), number(point, "mean_us")?);
    }
    Ok(())
}

fn number(said: &Value, name: &str) -> Result<f64, Box<dyn Error>> {
    said[name].as_f64().ok_or_else(|| format!("the child did not say its {name}").into())
}

/// Queries and the distances of what they should find, as plain numbers beside the stores.
fn write_questions(data: &Data, folder: &Path) -> Result<(), Box<dyn Error>> {
    let query = |number| question(&data.queries, number);
    let numbers = (0..QUERIES).flat_map(query).flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
    std::fs::write(folder.join("queries"), numbers)?;
    let truth = data.truth(LIMIT, None);
    let numbers = truth.iter().flatten().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    Ok(std::fs::write(folder.join("truth"), numbers)?)
}

/// The queries that there are, and beyond them what lies between two.
fn question(known: &[Vec<f32>], number: usize) -> Vec<f32> {
    let count = known.len();
    let (first, round) = (&known[number % count], number / count);
    let second = &known[(number + round) % count];
    if round == 0 { first.clone() } else { first.iter().zip(second).map(|(a, b)| a + 0.5 * b).collect() }
}

/// Has the operating system drop what it holds of a closed store's segments; `false` where it can't be asked.
fn forget(store: &Path) -> Result<bool, Box<dyn Error>> {
    for entry in std::fs::read_dir(store.join("segments"))? {
        let file = std::fs::File::open(entry?.path())?;
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        drop(file);
    }
    Ok(cfg!(target_os = "linux"))
}

fn ask(store: &Path, dimension: usize, residency: &str) -> Result<Value, Box<dyn Error>> {
    let order = json!({
        "path": store.to_str().ok_or("the folder's name is not UTF-8")?,
        "dimension": dimension,
        "residency": residency,
    });
    let child = ordered(FLAG, &order)?.spawn()?.wait_with_output()?;
    if !child.status.success() {
        return Err("the child that asks the store failed".into());
    }
    Ok(serde_json::from_slice(&child.stdout)?)
}

/// In the child: asks the store and says what it saw. `None` in the parent.
pub(crate) fn child(args: &[String]) -> Option<ExitCode> {
    obeying(args, FLAG, obey)
}

fn obey(order: &str) -> Result<(), Box<dyn Error>> {
    let order: Value = serde_json::from_str(order)?;
    let path = Path::new(order["path"].as_str().ok_or("the order names no path")?);
    let dimension = number(&order, "dimension")? as usize;
    let named = RESIDENCIES.iter().find(|(name, _)| order["residency"] == *name);
    let &(_, residency) = named.ok_or("the order names no residency")?;
    let folder = path.parent().ok_or("the store lies in no folder")?;
    let bytes = std::fs::read(folder.join("queries"))?;
    let queries: Vec<f32> = bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect();
    drop(bytes);
    let bytes = std::fs::read(folder.join("truth"))?;
    let truth: Vec<f64> = bytes.as_chunks().0.iter().map(|&eight| f64::from_le_bytes(eight)).collect();
    let queries: Vec<&[f32]> = queries.chunks_exact(dimension).collect();

    let before = resident();
    let start = Instant::now();
    let store = Store::builder().create(false).residency(residency).open(path)?;
    let open_ms = start.elapsed().as_secs_f64() * 1e3;
    let collection = store.collection("rows")?;
    let search = |query: &[f32], ef: usize| collection.search(query).limit(LIMIT).ef(ef).run();
    let start = Instant::now();
    search(queries[0], EF)?;
    let first_query_us = start.elapsed().as_secs_f64() * 1e6;
    let mut times = Vec::with_capacity(queries.len());
    for query in &queries {
        let start = Instant::now();
        search(query, EF)?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let after = resident();
    let grown = |after: u64, before: u64| after as f64 - before as f64;
    let latency = Percentiles::of(times);
    let mut curve = Vec::new();
    for ef in WIDTHS {
        let (start, mut found) = (Instant::now(), Vec::new());
        for query in &queries[..truth.len() / LIMIT] {
            found.push(search(query, ef)?);
        }
        let mean_us = start.elapsed().as_secs_f64() * 1e6 / found.len().max(1) as f64;
        let sum: f64 = found
            .iter()
            .zip(truth.chunks_exact(LIMIT))
            .map(|(hits, truth)| {
                let places: Vec<u32> = (0..hits.len() as u32).collect();
                recall::recall(truth, &places, LIMIT, |place| f64::from(hits[place as usize].distance()))
            })
            .sum();
        curve.push(json!({ "ef": ef, "recall": sum / found.len().max(1) as f64, "mean_us": mean_us }));
    }
    let said = json!({
        "open_ms": open_ms,
        "first_query_us": first_query_us,
        "p50_us": latency.p50,
        "p99_us": latency.p99,
        "resident_bytes": grown(after.anonymous, before.anonymous) + grown(after.file, before.file),
        "disk_bytes": store.stats()?.disk_bytes,
        "curve": curve,
    });
    println!("{said}");
    store.close()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ten_thousand_queries_are_all_different_and_the_known_ones_come_first() {
        let data = Data::generated(10, 8, 4, JUDGED);
        let bits = |number| question(&data.queries, number).iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
        assert_eq!((0..QUERIES).map(bits).collect::<BTreeSet<_>>().len(), QUERIES);
        assert_eq!(question(&data.queries, JUDGED - 1), data.queries[JUDGED - 1]);
    }
}
