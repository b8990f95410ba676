//! `export`: the rows of a collection, from one moment, to a file, in the order of their keys.

use crate::args::ExportArgs;
use crate::bars;
use crate::output::{Outcome, Output, grouped, print_line};
use crate::rows::open_to_read;
use nearstone::Key;
use nearstone_datasets::{KeyValue, Record, VectorFile, write_keys, write_payloads};
use serde_json::json;

pub(crate) fn export(args: &ExportArgs, out: &Output) -> Outcome {
    let store = open_to_read(&args.store)?;
    let collection = store.collection(&args.collection)?.at(&store.snapshot())?;
    let dimension = store.collection(&args.collection)?.schema().dimension();
    let bar = bars::bar(out, "export", Some(collection.len()));
    let mut writer = VectorFile::create(&args.file, dimension)?;
    let mut keys = Vec::new();
    let mut payloads = Vec::new();
    let mut rows = 0;
    for key in collection.keys()? {
        let key = key?;
        let Some(row) = collection.get(&key)? else { continue };
        let payload = Some(row.payload_json()).filter(|text| !text.is_empty()).map(str::to_owned);
        let value = match &key {
            Key::U64(number) => KeyValue::U64(*number),
            Key::Str(text) => KeyValue::Str(text.to_string()),
        };
        if args.keys.is_some() {
            keys.push(value.clone());
        }
        if args.payloads.is_some() {
            payloads.push(payload.clone());
        }
        writer.write(&Record { key: Some(value), vector: row.into_vector(), payload })?;
        rows += 1;
        bar.set_position(rows);
    }
    writer.finish()?;
    if let Some(path) = &args.keys {
        write_keys(path, &keys)?;
    }
    if let Some(path) = &args.payloads {
        write_payloads(path, payloads.iter().map(Option::as_deref))?;
    }
    bar.finish_and_clear();
    store.close()?;
    out.result(&json!({ "rows": rows, "file": args.file }), || {
        print_line(format_args!("exported {} rows to {}", grouped(rows), args.file.display()));
    });
    Ok(())
}
