//! Durable ingest: eight writers, batches of a hundred, the clock stopping when every row is in the graph; against
//! the same without syncs.

use crate::data::{BATCH, Data};
use crate::report::Report;
use nearstone::{Durability, Metric, Schema, Store};
use std::error::Error;
use std::time::{Duration, Instant};

const WRITERS: usize = 8;
const ROWS_MAX: usize = 50_000;
/// Runs of each kind, in turn, so that a drift of the machine hits both.
const RUNS: usize = 3;

pub(crate) fn run(data: &Data, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let rows = data.rows().min(ROWS_MAX) / (WRITERS * BATCH) * (WRITERS * BATCH);
    let mut synced = Vec::new();
    let mut unsynced = Vec::new();
    let mut syncs_per_row = 0.0;
    let mut acknowledged = Vec::new();
    for _ in 0..RUNS {
        let (linked, acked, syncs) = ingest(data, rows, Durability::Sync)?;
        synced.push(linked);
        acknowledged.push(acked);
        syncs_per_row = syncs as f64 / rows as f64;
        unsynced.push(ingest(data, rows, Durability::Os)?.0);
    }
    let per_second = |times: &mut Vec<Duration>| {
        times.sort();
        rows as f64 / times[RUNS / 2].as_secs_f64()
    };
    let (synced, unsynced) = (per_second(&mut synced), per_second(&mut unsynced));
    report.figure("ingest_rows", rows);
    report.figure("ingest_sync_rows_per_second", synced);
    report.figure("ingest_sync_acknowledged_rows_per_second", per_second(&mut acknowledged));
    report.figure("ingest_os_rows_per_second", unsynced);
    report.figure("ingest_sync_over_os", synced / unsynced);
    report.figure("ingest_syncs_per_row", syncs_per_row);
    Ok(())
}

/// Time until linked, time until acknowledged, syncs.
fn ingest(
    data: &Data,
    rows: usize,
    durability: Durability,
) -> Result<(Duration, Duration, u64), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let store = Store::builder().durability(durability).open(folder.path().join("ingest.near"))?;
    let collection = store.create_collection("rows", Schema::new(data.dimension, Metric::Cosine))?;
    let start = Instant::now();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (store, collection) = (&store, &collection);
                scope.spawn(move || data.put(store, collection, (writer..rows).step_by(WRITERS)))
            })
            .collect();
        writers.into_iter().try_for_each(|writer| writer.join().expect("a writer does not panic"))
    })?;
    let acknowledged = start.elapsed();
    while store.stats()?.collections.iter().any(|c| c.unlinked_rows > 0) {
        if !store.step()? {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let linked = start.elapsed();
    let syncs = store.stats()?.log.map_or(0, |log| log.syncs);
    store.close()?;
    Ok((linked, acknowledged, syncs))
}
