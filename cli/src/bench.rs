//! `bench recall`: how much of the truth a search finds, and how long it takes, one row per beam width.
//!
//! Queries run one after another on one thread. A hit is right when its exact distance is at most that of the k-th
//! true neighbour plus 1e-6, so that duplicates in the data do not count as misses.

use crate::args::RecallArgs;
use crate::bars;
use crate::output::{Failure, Outcome, Output, grouped, print_line, table};
use nearstone::{Collection, Hit, Key, KeyType, Store};
use nearstone_datasets::sentences::{Matrix, read_ids};
use nearstone_datasets::{Distance, Percentiles, recall};
use serde_json::{Value, json};
use std::time::Instant;

/// Queries that warm caches and pages up before the first measured one.
const WARM_UP: usize = 200;

/// One row of the table.
pub(crate) struct Measured {
    pub(crate) ef: usize,
    pub(crate) recall: f64,
    pub(crate) qps: f64,
    /// Microseconds.
    pub(crate) latency: Percentiles,
}

impl Measured {
    pub(crate) fn json(&self) -> Value {
        json!({
            "ef": self.ef,
            "recall": self.recall,
            "qps": self.qps,
            "mean_us": self.latency.mean,
            "p50_us": self.latency.p50,
            "p95_us": self.latency.p95,
            "p99_us": self.latency.p99,
        })
    }
}

pub(crate) fn recall(args: &RecallArgs, out: &Output) -> Outcome {
    if args.limit == 0 || args.ef.contains(&0) {
        return Err(Failure::Usage("--limit and every --ef must be at least 1".to_owned()));
    }
    let opening = Store::builder().create(false).read_only(true).residency(args.residency.residency());
    let store = opening.open(&args.store)?;
    let collection = store.collection(&args.collection)?;
    let queries = Matrix::read(&args.queries, usize::MAX)?;
    if queries.rows() == 0 {
        return Err(Failure::Usage(format!("{} has no queries", args.queries.display())));
    }
    let truth = match &args.truth {
        Some(path) => {
            let (ids, per_query) = read_ids(path)?;
            truth_of_keys(&collection, &queries, &ids, per_query, args)?
        }
        None => exact_truth(&collection, &queries, args.limit, out)?,
    };
    let measured = sweep(&collection, &queries, &truth, args.limit, &args.ef)?;
    let rows = collection.len()?;
    store.close()?;
    let table_json: Vec<Value> = measured.iter().map(Measured::json).collect();
    out.result(
        &json!({ "rows": rows, "queries": queries.rows(), "limit": args.limit, "results": table_json }),
        || {
            print_line(format_args!(
                "{} rows, {} queries, {} neighbours, one thread",
                grouped(rows),
                grouped(queries.rows() as u64),
                args.limit
            ));
            print_table(&measured);
        },
    );
    Ok(())
}

/// Runs the sweep. `truth` has the true distances of each query, nearest first.
pub(crate) fn sweep(
    collection: &Collection,
    queries: &Matrix,
    truth: &[Vec<f64>],
    limit: usize,
    widths: &[usize],
) -> Result<Vec<Measured>, Failure> {
    let search = |query: usize, ef: usize| collection.search(queries.row(query)).limit(limit).ef(ef).run();
    let mut measured = Vec::new();
    for &ef in widths {
        for query in 0..queries.rows().min(WARM_UP) {
            search(query, ef)?;
        }
        let mut times = Vec::with_capacity(queries.rows());
        let mut found: Vec<Vec<Hit>> = Vec::with_capacity(queries.rows());
        let start = Instant::now();
        for query in 0..queries.rows() {
            let begin = Instant::now();
            let hits = search(query, ef)?;
            times.push(begin.elapsed().as_secs_f64() * 1e6);
            found.push(hits);
        }
        let seconds = start.elapsed().as_secs_f64();
        let right: f64 = found.iter().zip(truth).map(|(hits, truth)| recall_of(hits, truth, limit)).sum();
        measured.push(Measured {
            ef,
            recall: right / queries.rows() as f64,
            qps: queries.rows() as f64 / seconds.max(1e-9),
            latency: Percentiles::of(times),
        });
    }
    Ok(measured)
}

pub(crate) fn print_table(measured: &[Measured]) {
    let rows: Vec<Vec<String>> = measured
        .iter()
        .map(|m| {
            vec![
                m.ef.to_string(),
                format!("{:.4}", m.recall),
                format!("{:.0}", m.qps),
                format!("{:.1}", m.latency.mean),
                format!("{:.1}", m.latency.p50),
                format!("{:.1}", m.latency.p95),
                format!("{:.1}", m.latency.p99),
            ]
        })
        .collect();
    table(&["ef", "recall", "qps", "mean_us", "p50_us", "p95_us", "p99_us"], &rows);
}

fn recall_of(hits: &[Hit], truth: &[f64], limit: usize) -> f64 {
    let places: Vec<u32> = (0..hits.len() as u32).collect();
    recall::recall(truth, &places, limit, |place| f64::from(hits[place as usize].distance()))
}

/// Exact distances of each query's nearest rows, by scanning, on all cores.
pub(crate) fn exact_truth(
    collection: &Collection,
    queries: &Matrix,
    limit: usize,
    out: &Output,
) -> Result<Vec<Vec<f64>>, Failure> {
    let bar = bars::bar(out, "truth", Some(queries.rows() as u64));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let piece = queries.rows().div_ceil(threads);
    let found = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let bar = &bar;
                let mine = (thread * piece).min(queries.rows())..((thread + 1) * piece).min(queries.rows());
                scope.spawn(move || {
                    mine.map(|query| {
                        let hits = collection.search(queries.row(query)).limit(limit).exact(true).run()?;
                        bar.inc(1);
                        Ok(hits.iter().map(|hit| f64::from(hit.distance())).collect())
                    })
                    .collect::<nearstone::Result<Vec<Vec<f64>>>>()
                })
            })
            .collect();
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok::<_, nearstone::Error>(all)
    });
    bar.finish_and_clear();
    Ok(found?)
}

/// The distances of the neighbours that a file names.
fn truth_of_keys(
    collection: &Collection,
    queries: &Matrix,
    ids: &[u32],
    per_query: usize,
    args: &RecallArgs,
) -> Result<Vec<Vec<f64>>, Failure> {
    let path = args.truth.as_deref().unwrap_or(std::path::Path::new("")).display().to_string();
    if per_query < args.limit {
        return Err(Failure::Usage(format!(
            "{path} names {per_query} neighbours per query: --limit is {}",
            args.limit
        )));
    }
    if ids.len() / per_query.max(1) < queries.rows() {
        return Err(Failure::Usage(format!(
            "{path} has {} rows: there are {} queries",
            ids.len() / per_query.max(1),
            queries.rows()
        )));
    }
    let distance = match collection.schema().metric() {
        nearstone::Metric::Cosine => Distance::Cosine,
        nearstone::Metric::L2 => Distance::L2,
        nearstone::Metric::InnerProduct => Distance::InnerProduct,
    };
    let mut truth = Vec::with_capacity(queries.rows());
    for query in 0..queries.rows() {
        let nearest = &ids[query * per_query..][..args.limit];
        let mut distances = Vec::with_capacity(nearest.len());
        for &id in nearest {
            let key = match collection.schema().key_type() {
                KeyType::U64 => Key::from(id),
                KeyType::Str => Key::from(id.to_string()),
            };
            let row = collection.get(&key)?.ok_or_else(|| {
                Failure::Usage(format!(
                    "{path} names key {id} for query {query}, which the collection does not have"
                ))
            })?;
            distances.push(distance.between(queries.row(query), row.vector()));
        }
        distances.sort_by(f64::total_cmp);
        truth.push(distances);
    }
    Ok(truth)
}
