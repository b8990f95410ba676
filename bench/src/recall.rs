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
        let search = |query: &[f32]| collection.search(query).limit(LIMIT).ef(ef).run();
        for query in data.queries.iter().take(200) {
            search(query)?;
        }
        let mut times = Vec::new();
        let mut found = 0.0;
        let start = Instant::now();
        let mut answers = Vec::new();
        for query in &data.queries {
            let begin = Instant::now();
            let hits = search(query)?;
            times.push(begin.elapsed().as_secs_f64() * 1e6);
            answers.push(hits);
        }
        let seconds = start.elapsed().as_secs_f64();
        for (hits, truth) in answers.iter().zip(truth) {
            let places: Vec<u32> = (0..hits.len() as u32).collect();
            found +=
                recall::recall(truth, &places, LIMIT, |place| f64::from(hits[place as usize].distance()));
        }
        let latency = Percentiles::of(times);
        report.figure(&format!("{when}_ef{ef}_recall"), found / data.queries.len() as f64);
        report.figure(&format!("{when}_ef{ef}_qps"), data.queries.len() as f64 / seconds);
        report.figure(&format!("{when}_ef{ef}_p50_us"), latency.p50);
        report.figure(&format!("{when}_ef{ef}_p99_us"), latency.p99);
    }
    Ok(())
}
