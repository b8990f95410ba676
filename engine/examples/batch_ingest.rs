//! Four threads put 20,000 rows in batches, each batch one durable unit, and the counts tell how the log's syncs
//! were shared.
//!
//! Run with `cargo run --release --example batch_ingest`.

use nearstone::random::SplitMix64;
use nearstone::{Metric, Schema, Store};
use std::time::Instant;

const THREADS: u64 = 4;
const ROWS_PER_THREAD: u64 = 5_000;
const DIMENSION: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let store = Store::open(folder.path().join("rows.near"))?;
    let rows = store.create_collection("rows", Schema::new(DIMENSION, Metric::L2))?;

    let start = Instant::now();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (store, rows) = (&store, &rows);
                scope.spawn(move || -> nearstone::Result<()> {
                    let mut rng = SplitMix64::new(thread);
                    for first in (0..ROWS_PER_THREAD).step_by(100) {
                        let mut batch = store.batch();
                        for key in first..first + 100 {
                            let vector: Vec<f32> = (0..DIMENSION).map(|_| rng.unit_f64() as f32).collect();
                            batch.upsert(rows, thread * ROWS_PER_THREAD + key, &vector, ())?;
                        }
                        batch.commit()?;
                    }
                    Ok(())
                })
            })
            .collect();
        writers.into_iter().try_for_each(|writer| writer.join().expect("a writer does not panic"))
    })?;
    let seconds = start.elapsed().as_secs_f64();

    let stats = store.stats()?;
    println!("{} rows in {seconds:.2} s, durable and visible", rows.len()?);
    if let Some(log) = stats.log {
        println!("{} commits shared {} syncs", log.commits, log.syncs);
    }
    store.flush()?;
    println!("sealed: {} bytes on disk", store.stats()?.disk_bytes);
    store.close()?;
    Ok(())
}
