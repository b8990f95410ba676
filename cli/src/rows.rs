//! `create`, `search`, `get`, `delete`.

use crate::args::{CreateArgs, DeleteArgs, GetArgs, SearchArgs};
use crate::output::{Failure, Outcome, Output, grouped, print_line, table};
use nearstone::{Collection, Key, KeyType, Row, Store};
use nearstone_datasets::RecordReader;
use serde_json::{Value, json};
use std::path::Path;

/// Opens an existing store for writing.
pub(crate) fn open(path: &Path) -> Result<Store, Failure> {
    Ok(Store::builder().create(false).open(path)?)
}

/// Opens an existing store for reading, next to other readers.
pub(crate) fn open_to_read(path: &Path) -> Result<Store, Failure> {
    Ok(Store::builder().create(false).read_only(true).open(path)?)
}

/// A key from the command line, of the collection's type.
pub(crate) fn parse_key(collection: &Collection, text: &str) -> Result<Key, Failure> {
    match collection.schema().key_type() {
        KeyType::Str => Ok(Key::from(text)),
        KeyType::U64 => text.parse::<u64>().map(Key::from).map_err(|error| {
            Failure::Usage(format!(
                "the key {text:?} is no u64 ({error}): the keys of this collection are u64"
            ))
        }),
    }
}

/// A key as JSON: a number or a string.
pub(crate) fn key_json(key: &Key) -> Value {
    match key {
        Key::U64(number) => json!(number),
        Key::Str(text) => json!(text),
    }
}

/// A payload as JSON: an object, or null for none.
pub(crate) fn payload_json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

pub(crate) fn create(args: &CreateArgs, out: &Output) -> Outcome {
    let schema = args.shape.schema(args.dim, args.keys);
    let store = Store::open(&args.store)?;
    store.create_collection(&args.collection, schema)?;
    store.close()?;
    out.result(
        &json!({
            "store": args.store,
            "collection": args.collection,
            "dim": args.dim,
            "metric": schema.metric().name(),
            "keys": schema.key_type().name(),
            "profile": schema.chosen_profile().name(),
            "codes": schema.chosen_codes().name(),
        }),
        || {
            print_line(format_args!(
                "created {:?} in {}: {} dimensions, {}, {} keys, profile {}, codes {}",
                args.collection,
                args.store.display(),
                args.dim,
                schema.metric().name(),
                schema.key_type().name(),
                schema.chosen_profile().name(),
                schema.chosen_codes().name()
            ));
        },
    );
    Ok(())
}

pub(crate) fn search(args: &SearchArgs, out: &Output) -> Outcome {
    let store = open_to_read(&args.store)?;
    let collection = store.collection(&args.collection)?;
    let query = query_vector(args, &collection)?;
    let mut search = collection.search(&query).limit(args.limit).ef(args.ef).exact(args.exact);
    if args.payload {
        search = search.with_payload();
    }
    let hits = search.run()?;
    let rows: Vec<Value> = hits
        .iter()
        .map(|hit| {
            let mut row =
                json!({ "key": key_json(hit.key()), "distance": hit.distance(), "version": hit.version() });
            if let Some(payload) = hit.payload_json() {
                row["payload"] = payload_json(payload);
            }
            row
        })
        .collect();
    out.result(&json!({ "hits": rows }), || {
        let mut header = vec!["key", "distance"];
        if args.payload {
            header.push("payload");
        }
        let rows: Vec<Vec<String>> = hits
            .iter()
            .map(|hit| {
                let mut row = vec![hit.key().to_string(), format!("{:.6}", hit.distance())];
                row.extend(hit.payload_json().map(str::to_owned));
                row
            })
            .collect();
        table(&header, &rows);
    });
    Ok(store.close()?)
}

fn query_vector(args: &SearchArgs, collection: &Collection) -> Result<Vec<f32>, Failure> {
    if let Some(text) = &args.query.vector {
        return serde_json::from_str(text)
            .map_err(|error| Failure::Usage(format!("--vector is no JSON array of numbers: {error}")));
    }
    if let Some(text) = &args.query.key {
        let key = parse_key(collection, text)?;
        return match collection.get(&key)? {
            Some(row) => Ok(row.into_vector()),
            None => Err(not_found(&args.collection, &key)),
        };
    }
    let file = args.query.file.as_deref().unwrap_or(Path::new(""));
    let mut records = RecordReader::open(file)?;
    match records.nth(args.row as usize) {
        Some(record) => Ok(record?.vector),
        None => Err(Failure::Usage(format!("{} has no row {}", file.display(), args.row))),
    }
}

fn not_found(collection: &str, key: &Key) -> Failure {
    Failure::Store(nearstone::Error::new(
        nearstone::ErrorKind::NotFound,
        format!("there is no row under the key {key:?} in {collection:?}"),
    ))
}

pub(crate) fn get(args: &GetArgs, out: &Output) -> Outcome {
    let store = open_to_read(&args.store)?;
    let collection = store.collection(&args.collection)?;
    let keys: Vec<Key> =
        args.keys.iter().map(|text| parse_key(&collection, text)).collect::<Result<_, _>>()?;
    let rows = collection.get_many(&keys)?;
    let shown: Vec<Value> =
        keys.iter().zip(&rows).map(|(key, row)| row_json(key, row.as_ref(), args.vector)).collect();
    out.result(&json!({ "rows": shown }), || shown.iter().for_each(print_line));
    store.close()?;
    match rows.iter().position(Option::is_none) {
        Some(missing) => Err(not_found(&args.collection, &keys[missing])),
        None => Ok(()),
    }
}

fn row_json(key: &Key, row: Option<&Row>, with_vector: bool) -> Value {
    let Some(row) = row else { return json!({ "key": key_json(key), "found": false }) };
    let mut shown = json!({
        "key": key_json(key),
        "found": true,
        "version": row.version(),
        "payload": payload_json(row.payload_json()),
    });
    if with_vector {
        shown["vector"] = json!(row.vector());
    }
    shown
}

pub(crate) fn delete(args: &DeleteArgs, out: &Output) -> Outcome {
    let store = open(&args.store)?;
    let collection = store.collection(&args.collection)?;
    let mut batch = store.batch();
    for text in &args.keys {
        batch.delete(&collection, parse_key(&collection, text)?)?;
    }
    let commit = batch.commit()?;
    store.close()?;
    let missing = args.keys.len() as u64 - commit.deleted;
    out.result(&json!({ "deleted": commit.deleted, "missing": missing, "lsn": commit.lsn }), || {
        print_line(format_args!(
            "deleted {} rows, {} keys were not there",
            grouped(commit.deleted),
            grouped(missing)
        ));
    });
    Ok(())
}
