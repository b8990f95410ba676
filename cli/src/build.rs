//! `build`: a file of rows into sealed segments, without a store. `attach`: such segments into a collection.

use crate::args::{AttachArgs, BuildArgs};
use crate::bars;
use crate::import::{each_row, read};
use crate::output::{Failure, Outcome, Output, grouped, print_line};
use crate::rows::open;
use nearstone::{AttachOptions, Store};
use serde_json::json;
use std::time::Instant;

pub(crate) fn build(args: &BuildArgs, out: &Output) -> Outcome {
    if args.threads == Some(0) {
        return Err(Failure::Usage("--threads is 0: it must be at least 1".to_owned()));
    }
    let start = Instant::now();
    let records = read(&args.input)?;
    let bar = bars::bar(out, "build", records.rows());
    let dimension = records.dimension();
    let schema = args.shape.schema(dimension, args.key_type);
    let mut options = Store::builder();
    if let Some(rows) = args.seal_rows {
        options = options.seal_rows(rows);
    }
    let mut progress = bars::follow(&bar);
    let mut build = options.build_segments(&args.folder, schema)?.progress(&mut progress);
    if let Some(threads) = args.threads {
        build = build.threads(threads);
    }
    let rows = each_row(&args.input, schema.key_type(), records, |_, key, vector, payload| {
        build.push(key, vector, payload)
    })?;
    let files = build.finish()?;
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    out.result(&json!({ "rows": rows, "dim": dimension, "files": files, "seconds": seconds }), || {
        print_line(format_args!(
            "built {} rows in {seconds:.1} s: {} segments in {}",
            grouped(rows),
            files.len(),
            args.folder.display()
        ));
    });
    Ok(())
}

pub(crate) fn attach(args: &AttachArgs, out: &Output) -> Outcome {
    let store = open(&args.store)?;
    let collection = store.collection(&args.collection)?;
    let bar = bars::bar(out, "attach", Some(0));
    let options = AttachOptions::new().on_collision(args.on_collision.policy()).take(args.take.how());
    let attached = collection.attach_with(&args.files, options, &mut bars::follow(&bar))?;
    bar.finish_and_clear();
    let total = collection.len()?;
    store.close()?;
    let result = json!({
        "lsn": attached.lsn,
        "inserted": attached.inserted,
        "replaced": attached.replaced,
        "kept": attached.kept,
        "collection_rows": total,
    });
    out.result(&result, || {
        print_line(format_args!(
            "attached {} files: {} rows are new, {} took the place of others, {} were left out; {:?} has {} rows",
            args.files.len(),
            grouped(attached.inserted),
            grouped(attached.replaced),
            grouped(attached.kept),
            args.collection,
            grouped(total)
        ));
    });
    Ok(())
}
