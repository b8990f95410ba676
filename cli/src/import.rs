//! `import`: the rows of a file into a collection, batch by batch, each durable before the next, or all at once
//! (`--bulk`).

use crate::args::{ImportArgs, InputArgs};
use crate::bars;
use crate::output::{Failure, Outcome, Output, grouped, print_line};
use crate::rows::open;
use nearstone::{Collection, Key, KeyType, Store};
use nearstone_datasets::keys::KeyReader;
use nearstone_datasets::payloads::PayloadReader;
use nearstone_datasets::{KeyValue, RecordReader};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::time::Instant;

/// A batch is committed early when it has reached so many bytes.
const BATCH_BYTES: usize = 16 << 20;

pub(crate) fn import(args: &ImportArgs, out: &Output) -> Outcome {
    if args.batch == 0 {
        return Err(Failure::Usage("--batch is 0: it must be at least 1".to_owned()));
    }
    let store = open(&args.store)?;
    let collection = store.collection(&args.collection)?;
    let records = read(&args.input)?;

    if args.bulk {
        load(args, out, &store, &collection, records)
    } else {
        write(args, out, &store, &collection, records)
    }
}

/// The records of the input.
pub(crate) fn read(input: &InputArgs) -> Result<RecordReader, Failure> {
    let mut records = RecordReader::open(&input.file)?;
    if let Some(path) = &input.keys {
        records = records.with_keys(KeyReader::open(path)?);
    }
    if let Some(path) = &input.payloads {
        records = records.with_payloads(PayloadReader::open(path)?);
    }
    Ok(records)
}

/// Batch by batch.
fn write(
    args: &ImportArgs,
    out: &Output,
    store: &Store,
    collection: &Collection,
    records: RecordReader,
) -> Outcome {
    let start = Instant::now();
    let bar = bars::bar(out, "import", records.rows());
    let mut batch = store.batch().durability(args.durability);
    let mut commits = 0;
    let rows =
        each_row(&args.input, collection.schema().key_type(), records, |rows, key, vector, payload| {
            batch.upsert(collection, key, vector, payload)?;
            if batch.len() >= args.batch || batch.byte_len() >= BATCH_BYTES {
                let full = std::mem::replace(&mut batch, store.batch().durability(args.durability));
                full.commit()?;
                commits += 1;
                bar.set_position(rows);
            }
            Ok(())
        })?;
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
    let more = json!({ "batches": commits, "ingest_seconds": ingest_seconds });
    finish(args, out, store, collection, (rows, start), more)
}

/// All at once.
fn load(
    args: &ImportArgs,
    out: &Output,
    store: &Store,
    collection: &Collection,
    records: RecordReader,
) -> Outcome {
    let start = Instant::now();
    let bar = bars::bar(out, "import", records.rows());
    let mut progress = bars::follow(&bar);
    let mut load = collection.bulk_load()?.on_collision(args.on_collision.policy()).progress(&mut progress);
    let rows = each_row(&args.input, collection.schema().key_type(), records, |_, key, vector, payload| {
        load.push(key, vector, payload)
    })?;
    let loaded = load.finish()?;
    bar.finish_and_clear();
    let more = json!({
        "lsn": loaded.lsn,
        "inserted": loaded.inserted,
        "replaced": loaded.replaced,
        "kept": loaded.kept,
    });
    finish(args, out, store, collection, (rows, start), more)
}

/// Hands each record on as a row; their number.
pub(crate) fn each_row(
    input: &InputArgs,
    key_type: KeyType,
    mut records: RecordReader,
    mut take: impl FnMut(u64, Key, &[f32], Option<Box<RawValue>>) -> nearstone::Result<()>,
) -> Result<u64, Failure> {
    let mut rows = 0;
    for record in &mut records {
        let record = record?;
        let key = match record.key {
            Some(key) => to_key(key_type, &key, rows)?,
            None => {
                let number = input.first_key.checked_add(rows).ok_or_else(|| {
                    let (first, max) = (input.first_key, u64::MAX);
                    Failure::Usage(format!(
                        "--first-key {first} and row {rows} make a key above {max}, the largest there is"
                    ))
                })?;
                number_key(key_type, number)
            }
        };
        let payload = match record.payload {
            Some(text) => {
                Some(RawValue::from_string(text).map_err(|error| Failure::Other(error.to_string()))?)
            }
            None => None,
        };
        rows += 1;
        take(rows, key, &record.vector, payload)
            .map_err(|error| error.context(format!("{}, row {}", input.file.display(), rows - 1)))?;
    }
    Ok(rows)
}

/// Says what was done, `more` beside the rest.
fn finish(
    args: &ImportArgs,
    out: &Output,
    store: &Store,
    collection: &Collection,
    (rows, start): (u64, Instant),
    more: Value,
) -> Outcome {
    let seconds = start.elapsed().as_secs_f64();
    let total = collection.len()?;
    store.close()?;
    let mut result = json!({
        "rows": rows,
        "seconds": seconds,
        "rows_per_second": rows as f64 / seconds.max(1e-9),
        "collection_rows": total,
    });
    if let (Value::Object(result), Value::Object(more)) = (&mut result, more) {
        result.extend(more);
    }
    out.result(&result, || {
        print_line(format_args!(
            "imported {} rows in {seconds:.1} s ({} rows/s); {:?} has {} rows",
            grouped(rows),
            grouped((rows as f64 / seconds.max(1e-9)) as u64),
            args.collection,
            grouped(total)
        ));
    });
    Ok(())
}

fn number_key(key_type: KeyType, number: u64) -> Key {
    match key_type {
        KeyType::U64 => Key::from(number),
        KeyType::Str => Key::from(number.to_string()),
    }
}

fn to_key(key_type: KeyType, key: &KeyValue, row: u64) -> Result<Key, Failure> {
    match key_type {
        KeyType::U64 => key.as_u64().map(Key::from).ok_or_else(|| {
            Failure::Usage(format!("the key {key:?} of row {row} is no u64: the keys are to be u64"))
        }),
        KeyType::Str => Ok(Key::from(key.to_string())),
    }
}
