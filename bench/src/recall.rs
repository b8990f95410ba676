//! Recall and latency over a sweep of beam widths: after import, seal and compaction to one segment, and again after
//! 20 % of the keys were put again and 20 % others deleted.

use crate::data::Data;
use crate::report::Report;
use nearstone::{Collection, Metric, Schema, Store};
use nearstone_datasets::{Percentiles, recall};
use std::error::Error;
use std::time::Instant;

const LIMIT: usize = 10;
const WIDTHS: [usize; 5] = [16, 32, 64, 128, 256];

pub(crate) fn run(data: &Data, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let store = Store::open(folder.path().join("recall.near"))?;
    let collection = store.create_collection("rows", Schema::new(data.dimension, Metric::Cosine))?;
    let start = Instant::now();
    data.put(&store, &collection, 0..data.rows())?;
    report.figure("import_acknowledged_seconds", start.elapsed().as_secs_f64());
    store.flush()?;
    report.figure("import_sealed_seconds", start.elapsed().as_secs_f64());
    let start = Instant::now();
    store.compact()?;
    report.figure("compact_seconds", start.elapsed().as_secs_f64());
    sweep(data, &collection, &data.truth(LIMIT, None), "fresh", report)?;

    // Every fifth key again, with the same vector, and every fifth other one deleted.
    data.put(&store, &collection, (0..data.rows()).step_by(5))?;
    let mut batch = store.batch();
    for row in (1..data.rows()).step_by(5) {
        batch.delete(&collection, row as u64)?;
    }
    batch.commit()?;
    let alive = |row: u32| row % 5 != 1;
    let truth = data.truth(LIMIT, Some(&alive));
    store.flush()?;
    sweep(data, &collection, &truth, "churned", report)?;
    store.compact()?;
    sweep(data, &collection, &truth, "churned_compacted", report)?;
    store.close()?;
    Ok(())
}

fn sweep(
    data: &Data,
    collection: &Collection,
    truth: &[Vec<f64>],
    when: &str,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    for ef in WIDTHS {
        for query in data.queries.iter().take(200) {
            collection.search(query).limit(LIMIT).ef(ef).run()?;
        }
        let asked = ask(data, collection, truth, ef)?;
        report.figure(&format!("{when}_ef{ef}_recall"), asked.recall);
        report.figure(&format!("{when}_ef{ef}_qps"), 1e6 / asked.latency_us.mean);
        report.figure(&format!("{when}_ef{ef}_p50_us"), asked.latency_us.p50);
        report.figure(&format!("{when}_ef{ef}_p99_us"), asked.latency_us.p99);
    }
    Ok(())
}

/// What one pass over all queries, one after another, found, and what a query took.
pub(crate) struct Asked {
    pub(crate) recall: f64,
    pub(crate) latency_us: Percentiles,
}

/// Asks every query once, for as many rows as `truth` has distances of.
pub(crate) fn ask(
    data: &Data,
    collection: &Collection,
    truth: &[Vec<f64>],
    ef: usize,
) -> Result<Asked, Box<dyn Error>> {
    let limit = truth.first().map_or(LIMIT, Vec::len);
    let (mut times, mut answers) = (Vec::new(), Vec::new());
    for query in &data.queries {
        let begin = Instant::now();
        let hits = collection.search(query).limit(limit).ef(ef).run()?;
        times.push(begin.elapsed().as_secs_f64() * 1e6);
        answers.push(hits);
    }
    let found = answers.iter().zip(truth).fold(0.0, |sum, (hits, truth)| {
        let places: Vec<u32> = (0..hits.len() as u32).collect();
        sum + recall::recall(truth, &places, limit, |place| f64::from(hits[place as usize].distance()))
    });
    Ok(Asked { recall: found / data.queries.len() as f64, latency_us: Percentiles::of(times) })
}
