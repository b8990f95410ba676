//! Searches of one sealed segment, one thread, one after another: what a query costs at the recall that is wanted.
//!
//! With `--keep FOLDER` the store is built once and found again by later runs, so that two versions of the search can be
//! compared on the same file.

use crate::data::Data;
use crate::report::Report;
use nearstone::vfs::Residency;
use nearstone::{Collection, Metric, Schema, Store};
use nearstone_datasets::{Percentiles, recall};
use std::error::Error;
use std::path::Path;
use std::time::Instant;

const LIMIT: usize = 10;
const WIDTHS: [usize; 12] = [10, 13, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128];
/// The best of so many passes over all queries counts: other work on the machine only makes a pass slower.
const PASSES: usize = 5;
const RECALLS: [f64; 4] = [0.90, 0.95, 0.99, 0.999];

/// How it is measured.
pub(crate) struct Options<'a> {
    pub(crate) widths: Vec<usize>,
    /// How many segments the rows lie in.
    pub(crate) segments: usize,
    pub(crate) keep: Option<&'a Path>,
    pub(crate) heap: bool,
    /// Only queries one after another.
    pub(crate) alone: bool,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options { widths: WIDTHS.to_vec(), segments: 1, keep: None, heap: false, alone: false }
    }
}

pub(crate) fn run(data: &Data, options: &Options<'_>, report: &mut Report) -> Result<(), Box<dyn Error>> {
    if options.segments == 0 {
        return Err("--segments is 0: rows lie in one at least".into());
    }
    let room = tempfile::tempdir()?;
    let folder = options.keep.unwrap_or(room.path()).join("search.near");
    let residency = if options.heap { Residency::Heap } else { Residency::Mapped };
    let store = Store::builder().residency(residency).auto_compact(false).open(&folder)?;
    let collection = match store.collection("rows") {
        Ok(collection) => collection,
        Err(_) => {
            let collection = store.create_collection("rows", Schema::new(data.dimension, Metric::Cosine))?;
            let start = Instant::now();
            let each = data.rows().div_ceil(options.segments);
            for first in (0..data.rows()).step_by(each.max(1)) {
                data.put(&store, &collection, first..(first + each).min(data.rows()))?;
                store.flush()?;
            }
            report.figure("search_sealed_seconds", start.elapsed().as_secs_f64());
            let start = Instant::now();
            if options.segments == 1 {
                store.compact()?;
            }
            report.figure("search_compact_seconds", start.elapsed().as_secs_f64());
            collection
        }
    };
    let truth = data.truth(LIMIT, None);
    let mut curve = Vec::new();
    for &ef in &options.widths {
        let (recall, us) = measure(data, &collection, &truth, (ef, options.alone), report)?;
        curve.push((recall, us));
    }
    for wanted in RECALLS {
        if let Some(us) = at_recall(&curve, wanted) {
            report.figure(&format!("search_us_at_recall_{wanted}"), us);
        }
    }
    store.close()?;
    Ok(())
}

/// Recall, and microseconds a query.
fn measure(
    data: &Data,
    collection: &Collection,
    truth: &[Vec<f64>],
    (ef, alone): (usize, bool),
    report: &mut Report,
) -> Result<(f64, f64), Box<dyn Error>> {
    let (mut best, mut latency, mut found) = (f64::INFINITY, Percentiles::of(vec![0.0]), 0.0);
    for pass in 0..PASSES {
        let (mut times, mut answers) = (Vec::new(), Vec::new());
        for query in &data.queries {
            let begin = Instant::now();
            let hits = collection.search(query).limit(LIMIT).ef(ef).run()?;
            times.push(begin.elapsed().as_secs_f64() * 1e6);
            answers.push(hits);
        }
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        if mean < best {
            (best, latency) = (mean, Percentiles::of(times));
        }
        if pass == 0 {
            found = answers.iter().zip(truth).fold(0.0, |sum, (hits, truth)| {
                let places: Vec<u32> = (0..hits.len() as u32).collect();
                sum + recall::recall(truth, &places, LIMIT, |p| f64::from(hits[p as usize].distance()))
            });
        }
    }
    for threads in (1..=2).filter(|_| !alone) {
        let us = measure_many(data, collection, ef, threads)?;
        report.figure(&format!("search_ef{ef}_many_{threads}_threads_us"), us);
    }
    let recall = found / data.queries.len() as f64;
    report.figure(&format!("search_ef{ef}_recall"), recall);
    report.figure(&format!("search_ef{ef}_mean_us"), best);
    report.figure(&format!("search_ef{ef}_p50_us"), latency.p50);
    report.figure(&format!("search_ef{ef}_p99_us"), latency.p99);
    Ok((recall, best))
}

/// Microseconds a query when all are asked at once.
fn measure_many(
    data: &Data,
    collection: &Collection,
    ef: usize,
    threads: usize,
) -> Result<f64, Box<dyn Error>> {
    let matrix = data.queries.concat();
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        let begin = Instant::now();
        let lists = collection.search_many(&matrix).limit(LIMIT).ef(ef).threads(threads).run()?;
        best = best.min(begin.elapsed().as_secs_f64() * 1e6 / lists.len() as f64);
    }
    Ok(best)
}

/// Between the two measured points around a recall, along the line.
fn at_recall(curve: &[(f64, f64)], wanted: f64) -> Option<f64> {
    let above = curve.iter().position(|point| point.0 >= wanted)?;
    let (recall, us) = curve[above];
    let Some(&(lower, cheaper)) = above.checked_sub(1).and_then(|below| curve.get(below)) else {
        return Some(us);
    };
    Some(cheaper + (us - cheaper) * (wanted - lower) / (recall - lower))
}
