//! `demo`: the whole life of a store on real text, in about a minute.
//!
//! Passages of source text are embedded (by a hashing embedder: lexical, not a language model) and put into a store
//! by a child process, which is killed half way. The store is opened again, every acknowledged row is looked at, the
//! rest is put in, some questions are answered, a third of the rows is deleted and compacted away, and a table tells
//! what it all cost.

use crate::args::DemoArgs;
use crate::bars;
use crate::bench::{exact_truth, sweep};
use crate::output::{Failure, Outcome, Output, bytes, grouped, table};
use nearstone::{Collection, Metric, Schema, Store};
use nearstone_datasets::sentences::Matrix;
use nearstone_datasets::{Embedder, Passage, Record, RecordReader, VectorFile, collect_passages, embed};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Rows per batch of the ingesting child.
const BATCH: usize = 100;
/// Every so many passages one is kept back as a query for measuring.
const QUERY_EVERY: usize = 50;
const QUERIES_MAX: usize = 400;
const COLLECTION: &str = "passages";

const QUESTIONS: [&str; 3] = [
    "write-ahead log group commit fsync",
    "parse command line arguments and print usage",
    "compute the checksum of a block",
];

pub(crate) fn demo(args: &DemoArgs, out: &Output) -> Outcome {
    if let Some(folder) = &args.child {
        return ingest_child(folder);
    }
    let begin = Instant::now();
    let folder = tempfile::tempdir()?;
    let folder_path = args.keep.clone().unwrap_or_else(|| folder.path().to_path_buf());
    std::fs::create_dir_all(&folder_path)?;
    let path = folder_path.join("demo.near");
    if path.exists() {
        return Err(Failure::Usage(format!(
            "{} exists already: --keep wants a folder without it",
            path.display()
        )));
    }

    // The corpus.
    let roots = match &args.folder {
        Some(folder) => vec![folder.clone()],
        None => source_roots()?,
    };
    out.say(format_args!("reading text under {} folders ...", roots.len()));
    let passages = collect_passages(&roots, args.passages);
    if passages.len() < 10 * BATCH {
        return Err(Failure::Usage(format!(
            "only {} passages of text were found: the demo wants at least {}",
            passages.len(),
            10 * BATCH
        )));
    }
    let mut embedder = Embedder::default();
    out.say(format_args!(
        "embedding {} passages with {}",
        grouped(passages.len() as u64),
        embed::DESCRIPTION
    ));
    embedder.fit(passages.iter().map(|p| &p.text));
    let queries = write_rows(&folder_path, &embedder, &passages, out)?;
    let rows = passages.len() - queries.rows();

    // A child ingests and dies.
    let acknowledged = ingest_and_kill(&folder_path, &path, rows, out)?;
    let start = Instant::now();
    let store = Store::builder().create(false).open(&path)?;
    let collection = store.collection(COLLECTION)?;
    let first = collection.search(queries.row(0)).limit(1).run()?;
    let recovery = start.elapsed();
    let there = check_rows(&collection, &folder_path, acknowledged)?;
    out.say(format_args!(
        "killed after {} acknowledged rows; reopened in {:.0} ms; all {} are there (and {} unacknowledged ones); \
         nearest to the first query: key {}",
        grouped(acknowledged),
        recovery.as_secs_f64() * 1e3,
        grouped(acknowledged),
        there - acknowledged,
        first.first().map_or_else(|| "none".to_owned(), |hit| hit.key().to_string())
    ));

    // The rest, here, to be timed.
    let start = Instant::now();
    let inserted = ingest_rest(&store, &collection, &folder_path, there, rows, out)?;
    let ingest_seconds = start.elapsed().as_secs_f64();
    collection.flush()?;

    for question in QUESTIONS {
        answer(&collection, &embedder, question, out)?;
    }

    // A third goes.
    let rows_full = collection.len()?;
    let bytes_full = store.stats()?.disk_bytes;
    let mut batch = store.batch();
    for key in (0..rows as u64).step_by(3) {
        batch.delete(&collection, key)?;
    }
    let deleted = batch.commit()?.deleted;
    out.say(format_args!("deleted {} rows; compacting ...", grouped(deleted)));
    let bar = bars::bar(out, "compact", Some(0));
    store.compact_with(&mut bars::follow(&bar))?;
    bar.finish_and_clear();
    let bytes_compacted = store.stats()?.disk_bytes;

    let truth = exact_truth(&collection, &queries, 10, out)?;
    let measured = sweep(&collection, &queries, &truth, 10, &[64])?;
    let rows_left = collection.len()?;
    store.close()?;

    let ef64 = &measured[0];
    let per_second = inserted as f64 / ingest_seconds.max(1e-9);
    out.result(
        &json!({
            "passages": passages.len(),
            "rows": rows_full,
            "acknowledged_before_kill": acknowledged,
            "recovered": there,
            "recovery_ms": recovery.as_secs_f64() * 1e3,
            "durable_inserts_per_second": per_second,
            "deleted": deleted,
            "rows_left": rows_left,
            "search": ef64.json(),
            "bytes_before": bytes_full,
            "bytes_after": bytes_compacted,
            "seconds": begin.elapsed().as_secs_f64(),
        }),
        || {
            let row = |name: &str, value: String| vec![name.to_owned(), value];
            table(
                &["measure", "value"],
                &[
                    row("rows indexed", grouped(rows_full)),
                    row("rows acknowledged before the kill, lost", format!("{}, 0", grouped(acknowledged))),
                    row("recovery to the first answer", format!("{:.0} ms", recovery.as_secs_f64() * 1e3)),
                    row("durable inserts per second", grouped(per_second as u64)),
                    row("rows after deleting a third", grouped(rows_left)),
                    row("search p50 (10 nearest, ef 64)", format!("{:.0} us", ef64.latency.p50)),
                    row("search p99", format!("{:.0} us", ef64.latency.p99)),
                    row("recall@10 against exact search", format!("{:.4}", ef64.recall)),
                    row("bytes on disk, before deleting", bytes(bytes_full)),
                    row("bytes on disk, after compaction", bytes(bytes_compacted)),
                    row("seconds in all", format!("{:.1}", begin.elapsed().as_secs_f64())),
                ],
            );
        },
    );
    Ok(())
}

/// This project's folder and those of its dependencies, as far as they are on this machine.
fn source_roots() -> Result<Vec<PathBuf>, Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline"])
        .stderr(Stdio::null())
        .output()
        .map_err(|error| {
            Failure::Other(format!("could not run cargo metadata: {error}; give a folder instead"))
        })?;
    let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|_| {
        Failure::Usage(
            "cargo metadata found no project here: run this in the repository, or give a folder".to_owned(),
        )
    })?;
    let workspace = metadata["workspace_root"].as_str().map(PathBuf::from);
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    let mut roots: Vec<PathBuf> = workspace.iter().cloned().collect();
    for package in &packages {
        let folder = package["manifest_path"].as_str().map(Path::new).and_then(Path::parent);
        let inside = |folder: &Path| workspace.as_ref().is_some_and(|root| folder.starts_with(root));
        roots.extend(folder.filter(|folder| !inside(folder)).map(Path::to_path_buf));
    }
    Ok(roots)
}

fn rows_file(folder: &Path) -> PathBuf {
    folder.join("rows.jsonl")
}

/// Embeds the passages: most go into the file that the child reads, every so many is kept back as a query.
fn write_rows(
    folder: &Path,
    embedder: &Embedder,
    passages: &[Passage],
    out: &Output,
) -> Result<Matrix, Failure> {
    let bar = bars::bar(out, "embed", Some(passages.len() as u64));
    let mut writer = VectorFile::create(rows_file(folder), embedder.dimension())?;
    let mut queries = Matrix { dimension: embedder.dimension(), numbers: Vec::new() };
    for (index, passage) in passages.iter().enumerate() {
        let vector = embedder.embed(&passage.text);
        if index % QUERY_EVERY == QUERY_EVERY - 1 && queries.rows() < QUERIES_MAX {
            queries.numbers.extend(vector);
        } else {
            let payload = json!({ "file": passage.file, "line": passage.line, "text": passage.text });
            writer.write(&Record { key: None, vector, payload: Some(payload.to_string()) })?;
        }
        bar.inc(1);
    }
    writer.finish()?;
    bar.finish_and_clear();
    Ok(queries)
}

/// Starts the child and kills it without warning once half the rows are acknowledged.
fn ingest_and_kill(folder: &Path, store: &Path, rows: usize, out: &Output) -> Result<u64, Failure> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["demo", "--child"])
        .arg(folder)
        .stdout(Stdio::piped())
        .spawn()?;
    out.say(format_args!("process {} ingests into {}, every batch synced ...", child.id(), store.display()));
    let output = child.stdout.take().ok_or_else(|| Failure::Other("the child has no output".to_owned()))?;
    let bar = bars::bar(out, "ingest", Some(rows as u64));
    let mut acknowledged = 0;
    for line in BufReader::new(output).lines() {
        acknowledged = line?.parse().map_err(|_| Failure::Other("the child said no number".to_owned()))?;
        bar.set_position(acknowledged);
        if acknowledged >= rows as u64 / 2 {
            // SIGKILL: nothing of the child runs any more.
            child.kill()?;
            break;
        }
    }
    let status = child.wait()?;
    bar.abandon();
    bar.finish_and_clear();
    if acknowledged == 0 {
        return Err(Failure::Other(format!("the ingesting process ended early: {status}")));
    }
    Ok(acknowledged)
}

/// The child: ingests until it is killed, and says after each batch how many rows are acknowledged.
fn ingest_child(folder: &Path) -> Outcome {
    let store = Store::open(folder.join("demo.near"))?;
    let schema = Schema::new(Embedder::default().dimension(), Metric::Cosine);
    let collection = store.collection_or_create(COLLECTION, schema)?;
    let mut said = std::io::stdout();
    put_rows(&store, &collection, folder, 0, |rows| {
        writeln!(said, "{rows}")?;
        said.flush()
    })?;
    Ok(store.close()?)
}

fn ingest_rest(
    store: &Store,
    collection: &Collection,
    folder: &Path,
    there: u64,
    rows: usize,
    out: &Output,
) -> Result<u64, Failure> {
    let bar = bars::bar(out, "ingest", Some(rows as u64));
    let inserted = put_rows(store, collection, folder, there, |rows| {
        bar.set_position(rows);
        Ok(())
    })?;
    bar.finish_and_clear();
    Ok(inserted)
}

/// Puts the rows of the file from `first` on, under their numbers; returns how many.
fn put_rows(
    store: &Store,
    collection: &Collection,
    folder: &Path,
    first: u64,
    mut acknowledged: impl FnMut(u64) -> std::io::Result<()>,
) -> Result<u64, Failure> {
    let mut batch = store.batch();
    let mut next = first;
    for record in RecordReader::open(rows_file(folder))?.skip(first as usize) {
        let record = record?;
        let payload: Value = record.payload.as_deref().map_or(Value::Null, crate::rows::payload_json);
        batch.upsert(collection, next, &record.vector, payload)?;
        next += 1;
        if batch.len() == BATCH {
            std::mem::replace(&mut batch, store.batch()).commit()?;
            acknowledged(next)?;
        }
    }
    batch.commit()?;
    acknowledged(next)?;
    Ok(next - first)
}

/// Every acknowledged row is there, with its own vector and payload; returns how many rows there are.
fn check_rows(collection: &Collection, folder: &Path, acknowledged: u64) -> Result<u64, Failure> {
    for (key, record) in RecordReader::open(rows_file(folder))?.take(acknowledged as usize).enumerate() {
        let record = record?;
        let row = collection.get(key as u64)?;
        let same = row.as_ref().is_some_and(|row| {
            row.vector() == record.vector
                && crate::rows::payload_json(row.payload_json())
                    == record.payload.as_deref().map_or(Value::Null, crate::rows::payload_json)
        });
        if !same {
            return Err(Failure::Other(format!("row {key} was acknowledged and is {row:?} now")));
        }
    }
    Ok(collection.len()?)
}

fn answer(collection: &Collection, embedder: &Embedder, question: &str, out: &Output) -> Outcome {
    let query = embedder.embed(question);
    let hits = collection.search(&query).limit(2).with_payload().run()?;
    out.say(format_args!("\n\"{question}\""));
    for hit in hits {
        let payload: Value = hit.payload()?;
        let text: String =
            payload["text"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        let shown: String = text.chars().take(150).collect();
        out.say(format_args!(
            "  {:.3}  {}:{}\n         {shown}",
            hit.distance(),
            payload["file"].as_str().unwrap_or_default(),
            payload["line"]
        ));
    }
    Ok(())
}
