//! Exact searches: what comparing a query with every row takes, alone and in the company of others, of rows in memory and
//! of sealed ones.
//!
//! Beside each, in the same turns: going through the same numbers in double precision, one row and one query after
//! another (`f64`), and only reading them in a plain loop (`stream`), which asks for nothing ahead. Ratios count; rows
//! that fit into a cache are read faster than memory is.

use crate::data::Data;
use crate::report::Report;
use nearstone::{Collection, Metric, Schema, Store};
use nearstone_segments::distance::ExactDistance;
use std::collections::BinaryHeap;
use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

const LIMIT: usize = 10;
/// The best of so many turns counts: other work on the machine only makes one slower.
const TURNS: usize = 5;
/// Queries that are asked one after another in a turn.
const ALONE: usize = 20;
const THREADS: [usize; 2] = [1, 2];

pub(crate) fn run(data: &Data, report: &mut Report) -> Result<(), Box<dyn Error>> {
    report.command("exact");
    let folder = tempfile::tempdir()?;
    let store = Store::builder()
        .seal_rows(u32::MAX)
        .seal_bytes(u64::MAX)
        .memory_budget(u64::MAX)
        .auto_compact(false)
        .open(folder.path().join("exact.near"))?;
    for (metric, name) in
        [(Metric::Cosine, "cosine"), (Metric::L2, "l2"), (Metric::InnerProduct, "inner_product")]
    {
        let collection = store.create_collection(name, Schema::new(data.dimension, metric))?;
        data.put(&store, &collection, 0..data.rows())?;
        // So that nothing is linked meanwhile.
        collection.link(std::thread::available_parallelism().map_or(1, usize::from))?;
        measure(data, &collection, metric, &format!("exact_{name}_memory"), report)?;
        store.flush()?;
        measure(data, &collection, metric, &format!("exact_{name}_sealed"), report)?;
        store.drop_collection(name)?;
    }
    store.close()?;
    Ok(())
}

/// Seconds per query; the least of all turns.
struct Best(f64);

impl Best {
    fn of(&mut self, queries: usize, work: impl FnOnce() -> nearstone::Result<()>) -> nearstone::Result<()> {
        let start = Instant::now();
        work()?;
        self.0 = self.0.min(start.elapsed().as_secs_f64() / queries as f64);
        Ok(())
    }
}

fn measure(
    data: &Data,
    collection: &Collection,
    metric: Metric,
    name: &str,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let never = || Best(f64::INFINITY);
    let (mut stream, mut double, mut alone, mut many) = (never(), never(), never(), THREADS.map(|_| never()));
    let matrix = data.queries.concat();
    let few = &data.queries[..ALONE.min(data.queries.len())];
    for _ in 0..TURNS {
        stream.of(1, || {
            black_box(read_all(data));
            Ok(())
        })?;
        double.of(few.len(), || {
            few.iter().for_each(|query| drop(black_box(in_double_precision(data, metric, query))));
            Ok(())
        })?;
        alone.of(few.len(), || {
            few.iter().try_for_each(|query| {
                collection.search(query).limit(LIMIT).exact(true).run().map(|hits| drop(black_box(hits)))
            })
        })?;
        for (threads, many) in THREADS.into_iter().zip(&mut many) {
            many.of(data.queries.len(), || {
                let lists =
                    collection.search_many(&matrix).limit(LIMIT).exact(true).threads(threads).run()?;
                drop(black_box(lists));
                Ok(())
            })?;
        }
    }
    let bytes = (data.rows() * data.dimension * 4) as f64;
    let products = (2 * data.rows() * data.dimension) as f64;
    report.figure(&format!("{name}_stream_gb_per_s"), bytes / stream.0 / 1e9);
    report.figure(&format!("{name}_f64_us"), double.0 * 1e6);
    report.figure(&format!("{name}_alone_us"), alone.0 * 1e6);
    report.figure(&format!("{name}_alone_gb_per_s"), bytes / alone.0 / 1e9);
    report.figure(&format!("{name}_alone_over_stream"), alone.0 / stream.0);
    report.figure(&format!("{name}_f64_over_alone"), double.0 / alone.0);
    for (threads, many) in THREADS.into_iter().zip(many) {
        let name = format!("{name}_many_{threads}_threads");
        report.figure(&format!("{name}_us"), many.0 * 1e6);
        report.figure(&format!("{name}_gflop_per_s"), products / many.0 / 1e9);
        report.figure(&format!("{name}_f64_over"), double.0 / many.0);
    }
    Ok(())
}

/// Reads every number and adds up their bits.
fn read_all(data: &Data) -> u32 {
    let mut sums = [0u32; 64];
    for row in 0..data.rows() {
        for numbers in data.row(row).chunks(sums.len()) {
            sums.iter_mut().zip(numbers).for_each(|(sum, x)| *sum = sum.wrapping_add(x.to_bits()));
        }
    }
    sums.into_iter().fold(0, u32::wrapping_add)
}

/// The nearest rows, each measured in double precision.
fn in_double_precision(data: &Data, metric: Metric, query: &[f32]) -> Vec<(u32, u32)> {
    let exact = ExactDistance::new(metric, query);
    let mut nearest = BinaryHeap::new();
    for row in 0..data.rows() {
        // Integers that sort as the distances do.
        let bits = exact.distance(data.row(row)).to_bits();
        let key = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        if nearest.len() < LIMIT {
            nearest.push((key, row as u32));
        } else if let Some(mut last) = nearest.peek_mut()
            && key < last.0
        {
            *last = (key, row as u32);
        }
    }
    nearest.into_sorted_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn double_precision_finds_what_exact_searches_find_and_each_figure_is_there() {
        let data = Data::generated(500, 24, 8, 5);
        let store = Store::builder().in_memory().unwrap();
        for metric in [Metric::L2, Metric::InnerProduct] {
            let collection = store.create_collection(metric_name(metric), Schema::new(24, metric)).unwrap();
            data.put(&store, &collection, 0..data.rows()).unwrap();
            for query in &data.queries {
                let hits = collection.search(query).limit(LIMIT).exact(true).run().unwrap();
                let keys: Vec<_> = hits.iter().map(|hit| hit.key().clone()).collect();
                let expected = in_double_precision(&data, metric, query);
                let expected: Vec<_> = expected.iter().map(|(_, row)| u64::from(*row).into()).collect();
                assert_eq!(keys, expected);
            }
            let mut report = Report::new(true);
            measure(&data, &collection, metric, "x", &mut report).unwrap();
            assert!(report.get("x_alone_gb_per_s") > 0.0 && report.get("x_many_2_threads_gflop_per_s") > 0.0);
        }
    }

    fn metric_name(metric: Metric) -> &'static str {
        if metric == Metric::L2 { "l2" } else { "inner-product" }
    }
}
