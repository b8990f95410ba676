//! `stats`, `verify`, `flush`, `compact`, `rebuild`, `backup`, `salvage`: a store as a whole.

use crate::args::{BackupArgs, RebuildArgs, SalvageArgs, StoreArgs};
use crate::bars;
use crate::output::{Outcome, Output, bytes, grouped, print_line, table};
use crate::rows::{open, open_to_read};
use nearstone::{CollectionStats, RebuildOptions, SegmentSummary, Store, StoreStats};
use serde_json::{Value, json};

pub(crate) fn stats(args: &StoreArgs, out: &Output) -> Outcome {
    let store = open_to_read(&args.store)?;
    let stats = store.stats()?;
    store.close()?;
    out.result(&stats_json(&stats), || print_stats(&stats));
    Ok(())
}

fn stats_json(stats: &StoreStats) -> Value {
    json!({
        "uuid": stats.uuid.to_string(),
        "lsn": stats.lsn,
        "disk_bytes": stats.disk_bytes,
        "wal_bytes": stats.wal_bytes,
        "catalog_bytes": stats.catalog_bytes,
        "memory_bytes": stats.memory_bytes,
        "collections": stats.collections.iter().map(collection_json).collect::<Vec<_>>(),
    })
}

fn collection_json(collection: &CollectionStats) -> Value {
    let segments: Vec<Value> = collection
        .segments
        .iter()
        .map(|segment| {
            let sections: serde_json::Map<String, Value> =
                segment.sections.iter().map(|(name, bytes)| (name.clone(), json!(bytes))).collect();
            json!({
                "id": segment.id,
                "rows": segment.rows,
                "dead_rows": segment.dead_rows,
                "bytes": segment.bytes,
                "profile": segment.profile.name(),
                "codes": segment.codes.name(),
                "inline_rows": has_inline_rows(segment),
                "sections": sections,
            })
        })
        .collect();
    json!({
        "name": collection.name,
        "dim": collection.schema.dimension(),
        "metric": collection.schema.metric().name(),
        "keys": collection.schema.key_type().name(),
        "m": collection.schema.links(),
        "ef_construction": collection.schema.beam(),
        "profile": collection.schema.chosen_profile().name(),
        "codes": collection.schema.chosen_codes().name(),
        "rows": collection.rows,
        "dead_rows": collection.dead_rows,
        "unsealed_rows": collection.unsealed_rows,
        "unlinked_rows": collection.unlinked_rows,
        "compaction_debt": collection.compaction_debt,
        "segments": segments,
    })
}

fn has_inline_rows(segment: &SegmentSummary) -> bool {
    segment.sections.iter().any(|(name, _)| name == "inline_rows")
}

fn print_stats(stats: &StoreStats) {
    print_line(format_args!("store {}, lsn {}", stats.uuid, stats.lsn));
    print_line(format_args!(
        "on disk {}: log {}, catalog {}",
        bytes(stats.disk_bytes),
        bytes(stats.wal_bytes),
        bytes(stats.catalog_bytes)
    ));
    let rows: Vec<Vec<String>> = stats
        .collections
        .iter()
        .map(|c| {
            vec![
                c.name.clone(),
                c.schema.dimension().to_string(),
                c.schema.metric().name().to_owned(),
                c.schema.chosen_profile().name().to_owned(),
                c.schema.chosen_codes().name().to_owned(),
                grouped(c.rows),
                grouped(c.dead_rows),
                grouped(c.unsealed_rows),
                c.segments.len().to_string(),
                bytes(c.segments.iter().map(|s| s.bytes).sum()),
            ]
        })
        .collect();
    let header =
        ["collection", "dim", "metric", "profile", "codes", "rows", "dead", "unsealed", "segments", "bytes"];
    table(&header, &rows);
    for collection in &stats.collections {
        for segment in &collection.segments {
            print_line(format_args!(
                "{} segment {}: {} rows, {} dead, {}, profile {}, codes {}, walked on {}",
                collection.name,
                segment.id,
                grouped(segment.rows),
                grouped(segment.dead_rows),
                bytes(segment.bytes),
                segment.profile.name(),
                segment.codes.name(),
                if has_inline_rows(segment) { "inline rows" } else { "codes" }
            ));
            let rows: Vec<Vec<String>> = segment
                .sections
                .iter()
                .map(|(name, size)| {
                    let per_row = *size as f64 / segment.rows.max(1) as f64;
                    vec![format!("  {name}"), bytes(*size), format!("{per_row:.1}")]
                })
                .collect();
            table(&["  section", "bytes", "per row"], &rows);
        }
    }
}

pub(crate) fn verify(args: &StoreArgs, out: &Output) -> Outcome {
    let store = open_to_read(&args.store)?;
    let bar = bars::bar(out, "verify", Some(0));
    let report = store.verify_with(&mut bars::follow(&bar))?;
    bar.finish_and_clear();
    store.close()?;
    out.result(
        &json!({
            "sound": true,
            "collections": report.collections,
            "segments": report.segments,
            "rows": report.rows,
            "segment_bytes": report.segment_bytes,
            "log_batches": report.log_batches,
        }),
        || {
            print_line(format_args!(
                "sound: {} rows in {} collections, {} segments of {}",
                grouped(report.rows),
                report.collections,
                report.segments,
                bytes(report.segment_bytes)
            ));
        },
    );
    Ok(())
}

pub(crate) fn flush(args: &StoreArgs, out: &Output) -> Outcome {
    let store = open(&args.store)?;
    store.flush()?;
    finish(&store, out, "sealed")
}

pub(crate) fn compact(args: &StoreArgs, out: &Output) -> Outcome {
    let store = open(&args.store)?;
    let bar = bars::bar(out, "compact", Some(0));
    store.compact_with(&mut bars::follow(&bar))?;
    bar.finish_and_clear();
    finish(&store, out, "compacted")
}

pub(crate) fn rebuild(args: &RebuildArgs, out: &Output) -> Outcome {
    let store = open(&args.store)?;
    let collection = store.collection(&args.collection)?;
    let mut options = RebuildOptions::new();
    if let Some(m) = args.m {
        options = options.m(m);
    }
    if let Some(ef) = args.ef_construction {
        options = options.ef_construction(ef);
    }
    if let Some(profile) = args.profile {
        options = options.profile(profile.profile());
    }
    if let Some(codes) = args.codes {
        options = options.codes(codes.codes());
    }
    let bar = bars::bar(out, "rebuild", Some(0));
    collection.rebuild_with(options, &mut bars::follow(&bar))?;
    bar.finish_and_clear();
    finish(&store, out, "rebuilt")
}

fn finish(store: &Store, out: &Output, what: &str) -> Outcome {
    let stats = store.stats()?;
    store.close()?;
    let segments: usize = stats.collections.iter().map(|c| c.segments.len()).sum();
    let rows: u64 = stats.collections.iter().map(|c| c.rows).sum();
    out.result(&json!({ "rows": rows, "segments": segments, "disk_bytes": stats.disk_bytes }), || {
        print_line(format_args!(
            "{what}: {} rows in {segments} segments, {} on disk",
            grouped(rows),
            bytes(stats.disk_bytes)
        ));
    });
    Ok(())
}

pub(crate) fn backup(args: &BackupArgs, out: &Output) -> Outcome {
    let store = open(&args.store)?;
    let bar = bars::bar(out, "backup", Some(0));
    let lsn = store.backup_with(&args.into, &mut bars::follow(&bar))?;
    bar.finish_and_clear();
    store.close()?;
    out.result(&json!({ "lsn": lsn, "into": args.into }), || {
        print_line(format_args!(
            "backed up {} as of lsn {lsn} into {}",
            args.store.display(),
            args.into.display()
        ));
    });
    Ok(())
}

pub(crate) fn salvage(args: &SalvageArgs, out: &Output) -> Outcome {
    let bar = bars::bar(out, "salvage", Some(0));
    let report = Store::salvage_with(&args.store, &args.into, &mut bars::follow(&bar))?;
    bar.finish_and_clear();
    let rows: u64 = report.collections.iter().map(|(_, rows)| rows).sum();
    let lost: Vec<Value> =
        report.lost.iter().map(|(file, why)| json!({ "file": file, "why": why })).collect();
    let collections: Vec<Value> =
        report.collections.iter().map(|(name, rows)| json!({ "name": name, "rows": rows })).collect();
    let value = json!({
        "into": args.into,
        "rows": rows,
        "collections": collections,
        "catalog": report.catalog,
        "lost_rows": report.lost_rows,
        "lost_batches": report.lost_batches,
        "lost": lost,
    });
    out.result(&value, || {
        print_line(format_args!("{} rows brought into {}", grouped(rows), args.into.display()));
        for (name, rows) in &report.collections {
            print_line(format_args!("  {name}: {}", grouped(*rows)));
        }
        if !report.catalog {
            print_line(format_args!("the catalog could not be read: rows that were deleted may be back"));
        }
        if report.lost_rows > 0 {
            print_line(format_args!("{} rows of segments could not be read", grouped(report.lost_rows)));
        }
        for (first, last) in &report.lost_batches {
            print_line(format_args!("the batches {first} to {last} of the log are missing"));
        }
        for (file, why) in &report.lost {
            print_line(format_args!("not read: {}: {why}", file.display()));
        }
    });
    Ok(())
}
