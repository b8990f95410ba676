//! `import`: the rows of a file into a collection, batch by batch, each durable before the next.

use crate::args::ImportArgs;
use crate::bars;
use crate::output::{Failure, Outcome, Output, grouped, print_line};
use crate::rows::open;
use nearstone::{Collection, Key, KeyType};
use nearstone_datasets::keys::KeyReader;
use nearstone_datasets::payloads::PayloadReader;
use nearstone_datasets::{KeyValue, RecordReader};
use serde_json::json;
use serde_json::value::RawValue;
use std::time::Instant;

/// A batch is committed early when it has reached so many bytes.
const BATCH_BYTES: usize = 16 << 20;

pub(crate) fn import(args: &ImportArgs, out: &Output) -> Outcome {
    if args.batch == 0 {
        return Err(Failure::Usage("--batch is 0: it must be at least 1".to_owned()));
    }
    let store = open(&args.store)?;
    let collection = store.collection(&args.collection)?;
    let mut records = RecordReader::open(&args.file)?;
    if let Some(path) = &args.keys {
        records = records.with_keys(KeyReader::open(path)?);
    }
    if let Some(path) = &args.payloads {
        records = records.with_payloads(PayloadReader::open(path)?);
    }

    let start = Instant::now();
    let bar = bars::bar(out, "import", records.rows());
    let mut batch = store.batch().durability(args.durability);
    let mut rows = 0;
    let mut commits = 0;
    for record in &mut records {
        let record = record?;
        let key = match record.key {
            Some(key) => to_key(&collection, &key, rows)?,
            None => number_key(&collection, args.first_key + rows),
        };
        let payload: Option<Box<RawValue>> = match record.payload {
            Some(text) => {
                Some(RawValue::from_string(text).map_err(|error| Failure::Other(error.to_string()))?)
            }
            None => None,
        };
        batch
            .upsert(&collection, key, &record.vector, payload)
            .map_err(|error| error.context(format!("{}, row {rows}", args.file.display())))?;
        rows += 1;
        if batch.len() >= args.batch || batch.byte_len() >= BATCH_BYTES {
            let full = std::mem::replace(&mut batch, store.batch().durability(args.durability));
            full.commit()?;
            commits += 1;
            bar.set_position(rows);
        }
    }
    if !batch.is_empty() {
        batch.commit()?;
        commits += 1;
    }
    let ingest_seconds = start.elapsed().as_secs_f64();
    bar.set_position(rows);
    bar.finish_and_clear();
    if !args.no_flush {
        out.say(format_args!("{} rows are durable; linking and sealing them ...", grouped(rows)));
        collection.flush()?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let total = collection.len()?;
    store.close()?;
    out.result(
        &json!({
            "rows": rows,
            "batches": commits,
            "ingest_seconds": ingest_seconds,
            "seconds": seconds,
            "rows_per_second": rows as f64 / seconds.max(1e-9),
            "collection_rows": total,
        }),
        || {
            print_line(format_args!(
                "imported {} rows in {seconds:.1} s ({} rows/s); {:?} has {} rows",
                grouped(rows),
                grouped((rows as f64 / seconds.max(1e-9)) as u64),
                args.collection,
                grouped(total)
            ));
        },
    );
    Ok(())
}

fn number_key(collection: &Collection, number: u64) -> Key {
    match collection.schema().key_type() {
        KeyType::U64 => Key::from(number),
        KeyType::Str => Key::from(number.to_string()),
    }
}

fn to_key(collection: &Collection, key: &KeyValue, row: u64) -> Result<Key, Failure> {
    match collection.schema().key_type() {
        KeyType::U64 => key.as_u64().map(Key::from).ok_or_else(|| {
            Failure::Usage(format!(
                "the key {key:?} of row {row} is no u64: the keys of this collection are u64"
            ))
        }),
        KeyType::Str => Ok(Key::from(key.to_string())),
    }
}
