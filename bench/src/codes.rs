//! What each kind of codes takes and gives in a lean collection, where every search walks on them: bytes, and by width of the beam
//! recall, vectors that a query reads to measure them, and processor time. All are asked in turns, several rounds of each,
//! and the best round counts: on a busy machine the ratios between them hold, the times do not.

use crate::data::Data;
use crate::process::{reads, thread_time};
use crate::recall::ask;
use crate::report::Report;
use nearstone::{Codes, Collection, Metric, Profile, Schema, Store};
use std::error::Error;
use std::time::Instant;

const LIMIT: usize = 10;
const WIDTHS: [usize; 4] = [16, 32, 64, 128];
const ROUNDS: usize = 7;

pub(crate) fn run(data: &Data, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let store = Store::open(folder.path().join("codes.near"))?;
    for codes in Codes::ALL {
        let start = Instant::now();
        build(data, &store, codes)?;
        report.figure(&format!("codes_{}_build_seconds", codes.name()), start.elapsed().as_secs_f64());
    }
    let stats = store.stats()?;
    let mut collections: Vec<(Codes, Collection)> = Vec::new();
    for codes in Codes::ALL {
        let sections =
            stats.collections.iter().filter(|one| one.name == codes.name()).flat_map(|one| &one.segments);
        let bytes: u64 =
            sections.flat_map(|one| &one.sections).filter(|(name, _)| name == "codes").map(|one| one.1).sum();
        let per_row = bytes as f64 / data.rows() as f64;
        report.figure(&format!("codes_{}_bytes_per_row", codes.name()), per_row);
        collections.push((codes, store.collection(codes.name())?));
    }
    let truth = data.truth(LIMIT, None);
    for ef in WIDTHS {
        let mut best = vec![(0.0, 0.0, f64::INFINITY); collections.len()];
        let queries = data.queries.len() as f64;
        for _ in 0..ROUNDS {
            for ((_, collection), (recall, read, us)) in collections.iter().zip(&mut best) {
                let (time, before) = (thread_time(), reads());
                *recall = ask(data, collection, &truth, ef)?.recall;
                *us = us.min((thread_time() - time).as_secs_f64() * 1e6 / queries);
                *read = (reads() - before) as f64 / queries;
            }
        }
        let eight_bits_us = best[0].2;
        for ((codes, _), (recall, read, us)) in collections.iter().zip(best) {
            let name = format!("codes_{}_ef{ef}", codes.name());
            report.figure(&format!("{name}_recall"), recall);
            report.figure(&format!("{name}_vectors_read"), read);
            report.figure(&format!("{name}_processor_us"), us);
            report.figure(&format!("{name}_time_of_sq8"), us / eight_bits_us);
        }
    }
    store.close()?;
    Ok(())
}

/// All rows in one segment.
fn build(data: &Data, store: &Store, codes: Codes) -> Result<(), Box<dyn Error>> {
    let schema = Schema::new(data.dimension, Metric::Cosine).profile(Profile::Memory).codes(codes);
    let collection = store.create_collection(codes.name(), schema)?;
    let mut load = collection.bulk_load()?;
    for row in 0..data.rows() {
        load.push(row as u64, data.row(row), ())?;
    }
    load.finish()?;
    collection.compact()?;
    Ok(())
}
