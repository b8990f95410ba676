//! Memory and disk: of an empty store, and per row, by section; resident memory after many queries.

use crate::data::Data;
use crate::process::resident;
use crate::report::Report;
use nearstone::{Metric, Schema, Store};
use std::error::Error;

const QUERIES: usize = 10_000;

pub(crate) fn run(data: &Data, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let before = resident().anonymous;
    let empty = Store::open(folder.path().join("empty.near"))?;
    empty.create_collection("rows", Schema::new(data.dimension, Metric::Cosine))?;
    report.figure("empty_disk_bytes", empty.stats()?.disk_bytes);
    report.figure("empty_resident_bytes", resident().anonymous.saturating_sub(before));
    empty.close()?;

    let path = folder.path().join("rows.near");
    let store = Store::open(&path)?;
    let collection = store.create_collection("rows", Schema::new(data.dimension, Metric::Cosine))?;
    data.put(&store, &collection, 0..data.rows())?;
    store.compact()?;
    store.close()?;
    drop((collection, store));

    let before = resident();
    let store = Store::builder().create(false).open(&path)?;
    let collection = store.collection("rows")?;
    for query in data.queries.iter().cycle().take(QUERIES) {
        collection.search(query).limit(10).ef(64).run()?;
    }
    let after = resident();
    report.figure("rss_anon_bytes_after_queries", after.anonymous.saturating_sub(before.anonymous));
    report.figure("rss_file_bytes_after_queries", after.file.saturating_sub(before.file));
    let stats = store.stats()?;
    report.figure("disk_bytes", stats.disk_bytes);
    report.figure("disk_bytes_per_row", stats.disk_bytes as f64 / data.rows() as f64);
    for segment in stats.collections.iter().flat_map(|c| &c.segments) {
        for (section, bytes) in &segment.sections {
            report.figure(&format!("bytes_per_row_{section}"), *bytes as f64 / segment.rows as f64);
        }
    }
    store.close()?;
    Ok(())
}
