//! Durable ingest: eight writers, batches of a hundred, the clock stopping when every row is in the graph; against
//! the same without syncs. Sixteen writers of one row at a time, each synced: what an acknowledgement takes in a burst,
//! which nobody has to link yet, and when they never rest. And until every row is in a sealed segment, against a bulk load of
//! the same rows.

use crate::data::{BATCH, Data};
use crate::report::Report;
use nearstone::{Collection, Durability, Metric, Schema, Store};
use nearstone_datasets::Percentiles;
use std::error::Error;
use std::time::{Duration, Instant};

const WRITERS: usize = 8;
const ROWS_MAX: usize = 50_000;
/// Writers of single rows, and how many rows are a burst: fewer than writers begin to link.
const SINGLE_WRITERS: usize = 16;
const BURST: usize = 480;
const SINGLE_ROWS: usize = 20_000;
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
    let (synced, unsynced) = (median_rate(&mut synced, rows), median_rate(&mut unsynced, rows));
    report.figure("ingest_rows", rows);
    report.figure("ingest_sync_rows_per_second", synced);
    report.figure("ingest_sync_acknowledged_rows_per_second", median_rate(&mut acknowledged, rows));
    report.figure("ingest_os_rows_per_second", unsynced);
    report.figure("ingest_sync_over_os", synced / unsynced);
    report.figure("ingest_syncs_per_row", syncs_per_row);
    for (case, rows) in [("burst", BURST), ("sustained", SINGLE_ROWS.min(data.rows()))] {
        single(data, case, rows, report)?;
    }
    bulk(data, rows, report)
}

/// Rows one by one, each synced before it is acknowledged.
fn single(data: &Data, case: &str, rows: usize, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let store = Store::open(folder.path().join("single.near"))?;
    let collection = store.create_collection("rows", Schema::new(data.dimension, Metric::Cosine))?;
    let writer = |writer: usize| -> nearstone::Result<Vec<f64>> {
        let rows = (writer..rows).step_by(SINGLE_WRITERS);
        rows.map(|row| {
            let start = Instant::now();
            collection.upsert(row as u64, data.row(row), ())?;
            Ok(start.elapsed().as_secs_f64() * 1e6)
        })
        .collect()
    };
    let start = Instant::now();
    let latencies = std::thread::scope(|scope| {
        let writer = &writer;
        let writers: Vec<_> = (0..SINGLE_WRITERS).map(|number| scope.spawn(move || writer(number))).collect();
        let ended = writers.into_iter().map(|writer| writer.join().expect("a writer does not panic"));
        ended.collect::<nearstone::Result<Vec<_>>>()
    })?;
    let took = start.elapsed().as_secs_f64();
    let latencies = Percentiles::of(latencies.into_iter().flatten());
    let syncs = store.stats()?.log.map_or(0, |log| log.syncs);
    report.figure(&format!("ingest_single_{case}_rows"), rows);
    report.figure(&format!("ingest_single_{case}_rows_per_second"), rows as f64 / took);
    report.figure(&format!("ingest_single_{case}_syncs_per_row"), syncs as f64 / rows as f64);
    report.figure(&format!("ingest_single_{case}_p50_us"), latencies.p50);
    report.figure(&format!("ingest_single_{case}_p99_us"), latencies.p99);
    store.close()?;
    Ok(())
}

/// Until the rows are sealed: upserts and a flush, and a bulk load.
fn bulk(data: &Data, rows: usize, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let (mut upserted, mut loaded, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let by_upserts = sealed(data, |store, collection| {
            write(data, store, collection, rows)?;
            Ok(collection.flush()?)
        })?;
        let by_load = sealed(data, |_, collection| {
            let mut load = collection.bulk_load()?;
            for row in 0..rows {
                load.push(row as u64, data.row(row), ())?;
            }
            load.finish()?;
            Ok(())
        })?;
        ratios.push(by_upserts.as_secs_f64() / by_load.as_secs_f64());
        upserted.push(by_upserts);
        loaded.push(by_load);
    }
    ratios.sort_by(f64::total_cmp);
    report.figure("ingest_sealed_rows_per_second", median_rate(&mut upserted, rows));
    report.figure("ingest_bulk_rows_per_second", median_rate(&mut loaded, rows));
    report.figure("ingest_bulk_over_sealed", ratios[RUNS / 2]);
    Ok(())
}

/// How long it takes until all rows of a new store are sealed.
fn sealed(
    data: &Data,
    put: impl FnOnce(&Store, &Collection) -> Result<(), Box<dyn Error>>,
) -> Result<Duration, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let store = Store::open(folder.path().join("bulk.near"))?;
    let collection = store.create_collection("rows", Schema::new(data.dimension, Metric::Cosine))?;
    let start = Instant::now();
    put(&store, &collection)?;
    let took = start.elapsed();
    assert_eq!(store.stats()?.collections[0].unsealed_rows, 0, "all rows are sealed");
    store.close()?;
    Ok(took)
}

fn median_rate(times: &mut [Duration], rows: usize) -> f64 {
    times.sort();
    rows as f64 / times[RUNS / 2].as_secs_f64()
}

/// All rows, by all writers.
fn write(data: &Data, store: &Store, collection: &Collection, rows: usize) -> Result<(), Box<dyn Error>> {
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| scope.spawn(move || data.put(store, collection, (writer..rows).step_by(WRITERS))))
            .collect();
        writers.into_iter().try_for_each(|writer| writer.join().expect("a writer does not panic"))
    })?;
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
    write(data, &store, &collection, rows)?;
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
