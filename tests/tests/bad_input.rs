//! Bad input gets a typed error whose text names the thing, the value and the limit, and loses nothing.

use nearstone::vfs::{MemoryVfs, OpenMode, SimFault, SimVfs, Vfs};
use nearstone::{
    BATCH_BYTES_MAX, Background, Collection, ErrorKind, KeyType, Metric, Outcome, PAYLOAD_BYTES_MAX, Result,
    Schema, Store,
};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn store() -> Store {
    Store::builder().background(Background::Manual).in_memory().unwrap()
}

/// The error's kind, and words that its text must have.
fn refused<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind, words: &[&str]) {
    let error = result.expect_err("it must be refused");
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    assert_eq!(error.outcome(), Outcome::NotApplied, "{text}");
    for word in words {
        assert!(text.contains(word), "{text:?} does not say {word:?}");
    }
}

fn still_works(store: &Store, collection: &Collection) {
    let rows = collection.len().unwrap();
    let key = 1_000_000 + rows;
    collection.upsert(key, &[0.5, 0.5, 0.5], ()).unwrap();
    assert_eq!(collection.len().unwrap(), rows + 1);
    assert!(collection.delete(key).unwrap());
    store.verify().unwrap();
}

#[test]
fn bad_vectors_keys_payloads_and_batches() {
    let store = store();
    let rows = store.create_collection("rows", Schema::new(3, Metric::Cosine)).unwrap();
    let names = store.create_collection("names", Schema::new(3, Metric::L2).keys(KeyType::Str)).unwrap();
    rows.upsert(1u64, &[1.0, 2.0, 3.0], ()).unwrap();
    let good = [1.0, 0.0, 0.0];
    let invalid = ErrorKind::InvalidArgument;

    refused(rows.upsert(2u64, &[1.0, 2.0], ()), invalid, &["2 numbers", "3"]);
    refused(rows.upsert(2u64, &[1.0, f32::NAN, 0.0], ()), invalid, &["number 1", "NaN"]);
    refused(rows.upsert(2u64, &[1.0, 0.0, f32::NEG_INFINITY], ()), invalid, &["number 2", "-inf"]);
    refused(rows.upsert(2u64, &[0.0; 3], ()), invalid, &["zero"]);
    refused(rows.upsert("two", &good, ()), invalid, &["\"two\"", "str", "u64"]);
    refused(names.upsert(2u64, &good, ()), invalid, &["2", "u64", "str"]);
    refused(names.upsert("", &good, ()), invalid, &["empty", "512"]);
    refused(names.upsert("x".repeat(513), &good, ()), invalid, &["513", "512"]);
    refused(rows.upsert(2u64, &good, 17), invalid, &["17", "object"]);
    refused(rows.upsert(2u64, &good, "text"), invalid, &["text", "object"]);
    let large = serde_json::json!({ "text": "x".repeat(PAYLOAD_BYTES_MAX) });
    refused(rows.upsert(2u64, &good, &large), invalid, &["1048587", "1048576"]);
    refused(rows.search(&[1.0]).run(), invalid, &["query", "1 numbers", "3"]);
    refused(rows.search(&[f32::NAN; 3]).run(), invalid, &["query", "NaN"]);
    refused(rows.search(&good).ef(0).run(), invalid, &["ef", "0"]);
    refused(rows.get("one"), invalid, &["\"one\"", "u64"]);
    refused(rows.upsert_matrix(&[1u64, 2], &[0.0; 5]), invalid, &["5 numbers", "6"]);

    let mut batch = store.batch();
    let payload = serde_json::json!({ "text": "x".repeat(PAYLOAD_BYTES_MAX - 100) });
    let mut key = 10u64;
    let full = loop {
        if let Err(error) = batch.upsert(&rows, key, &good, &payload) {
            break error;
        }
        key += 1;
    };
    assert_eq!(full.kind(), invalid);
    assert!(full.to_string().contains(&BATCH_BYTES_MAX.to_string()), "{full}");
    assert_eq!(batch.len() as u64, key - 10, "the refused row is not in the batch");
    drop(batch);

    assert_eq!(rows.len().unwrap(), 1);
    assert_eq!(rows.get(1u64).unwrap().unwrap().vector(), [1.0, 2.0, 3.0]);
    still_works(&store, &rows);
}

#[test]
fn bad_collections_and_schemas() {
    let store = store();
    let schema = Schema::new(3, Metric::L2);
    let rows = store.create_collection("rows", schema).unwrap();
    let invalid = ErrorKind::InvalidArgument;
    refused(store.create_collection("zero", Schema::new(0, Metric::L2)), invalid, &["0", "65536"]);
    refused(store.create_collection("big", Schema::new(65_537, Metric::L2)), invalid, &["65537", "65536"]);
    refused(store.create_collection("m", schema.m(2)), invalid, &["2", "4", "64"]);
    refused(store.create_collection("", schema), invalid, &["name", "255"]);
    refused(store.create_collection(&"n".repeat(256), schema), invalid, &["256", "255"]);
    refused(store.create_collection("rows", schema), ErrorKind::AlreadyExists, &["\"rows\""]);
    let other = Schema::new(4, Metric::L2);
    refused(
        store.collection_or_create("rows", other),
        ErrorKind::AlreadyExists,
        &["dimension 3", "dimension 4"],
    );
    refused(store.collection("nothing"), ErrorKind::NotFound, &["\"nothing\"", "\"rows\""]);
    refused(store.drop_collection("nothing"), ErrorKind::NotFound, &["\"nothing\""]);
    store.create_collection("taken", schema).unwrap();
    refused(store.rename_collection("rows", "taken"), ErrorKind::AlreadyExists, &["\"taken\""]);

    let elsewhere = self::store();
    let foreign = elsewhere.create_collection("foreign", schema).unwrap();
    let mut batch = store.batch();
    batch.upsert(&rows, 1u64, &[1.0; 3], ()).unwrap();
    let error = batch.upsert(&foreign, 2u64, &[1.0; 3], ()).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), invalid);
    assert!(error.to_string().contains("\"foreign\""), "{error}");
    assert_eq!(batch.commit().unwrap().upserted, 1);
    refused(rows.at(&elsewhere.snapshot()).map(|_| ()), invalid, &["snapshot"]);

    store.drop_collection("taken").unwrap();
    still_works(&store, &rows);
}

fn with_disk(vfs: &Arc<dyn Vfs>, path: &str) -> Result<Store> {
    Store::builder().vfs(vfs.clone()).background(Background::Manual).open(path)
}

#[test]
fn folders_that_are_no_store_and_stores_of_a_newer_version() {
    let vfs: Arc<dyn Vfs> = Arc::new(MemoryVfs::new());
    refused(Store::builder().vfs(vfs.clone()).create(false).open("/none"), ErrorKind::NotFound, &["/none"]);
    refused(Store::builder().vfs(vfs.clone()).read_only(true).open("/none"), ErrorKind::NotFound, &["/none"]);
    assert!(vfs.info(Path::new("/none")).unwrap().is_none(), "what was only asked for was made");
    vfs.create_dir(Path::new("/other")).unwrap();
    vfs.open(Path::new("/other/notes.txt"), OpenMode::CreateNew).unwrap().write_at(b"hello", 0).unwrap();
    refused(with_disk(&vfs, "/other"), ErrorKind::NotAStore, &["/other", "notes.txt"]);
    assert_eq!(vfs.list(Path::new("/other")).unwrap(), ["notes.txt"], "nothing was added");
    refused(with_disk(&vfs, "/other/notes.txt"), ErrorKind::NotAStore, &["notes.txt"]);
    // Somebody's file that is called as ours is: it stays.
    vfs.create_dir(Path::new("/paper")).unwrap();
    let theirs = vfs.open(Path::new("/paper/FORMAT"), OpenMode::CreateNew).unwrap();
    theirs.write_at(b"A4", 0).unwrap();
    refused(with_disk(&vfs, "/paper"), ErrorKind::NotAStore, &["/paper"]);
    let mut read = [0; 8];
    let len = theirs.read_at(&mut read, 0).unwrap();
    assert_eq!(&read[..len], b"A4");
    assert_eq!(vfs.info(Path::new("/paper/FORMAT")).unwrap().map(|info| info.len), Some(2));

    let store = with_disk(&vfs, "/good").unwrap();
    let rows = store.create_collection("rows", Schema::new(3, Metric::L2)).unwrap();
    rows.upsert(1u64, &[1.0; 3], ()).unwrap();
    refused(with_disk(&vfs, "/good"), ErrorKind::Busy, &["/good/lock"]);
    let reader = Store::builder().vfs(vfs.clone()).read_only(true).open("/good");
    refused(reader, ErrorKind::Busy, &["/good/lock"]);
    store.close().unwrap();

    let reader = Store::builder().vfs(vfs.clone()).read_only(true).open("/good").unwrap();
    let rows = reader.collection("rows").unwrap();
    refused(rows.upsert(2u64, &[1.0; 3], ()), ErrorKind::ReadOnly, &["/good"]);
    refused(reader.create_collection("more", Schema::new(3, Metric::L2)), ErrorKind::ReadOnly, &["/good"]);
    refused(reader.persist(), ErrorKind::ReadOnly, &["/good"]);
    assert_eq!(rows.len().unwrap(), 1);
    reader.close().unwrap();
    refused(rows.len(), ErrorKind::Closed, &["closed"]);

    // A store that has lost its first file is a damaged one, not some other folder.
    vfs.remove(Path::new("/good/FORMAT")).unwrap();
    refused(with_disk(&vfs, "/good"), ErrorKind::Corruption, &["/good/FORMAT"]);
}

#[test]
fn a_full_disk_refuses_writes_and_takes_them_again_when_it_has_room() {
    let disk = SimVfs::new(3);
    let vfs: Arc<dyn Vfs> = Arc::new(disk.clone());
    let store = with_disk(&vfs, "/store").unwrap();
    let rows = store.create_collection("rows", Schema::new(3, Metric::L2)).unwrap();
    // The first write needs a log file: no room for it.
    disk.fail_op(0, SimFault::DiskFull, true);
    refused(rows.upsert(1u64, &[1.0; 3], ()), ErrorKind::DiskFull, &["wal"]);
    disk.heal();
    rows.upsert(1u64, &[1.0; 3], ()).unwrap();
    // A seal without room leaves the rows where they are.
    disk.fail_op(1, SimFault::DiskFull, true);
    assert_eq!(rows.flush().unwrap_err().kind(), ErrorKind::DiskFull);
    disk.heal();
    assert_eq!(rows.get(1u64).unwrap().unwrap().vector(), [1.0; 3]);
    rows.upsert(2u64, &[2.0; 3], ()).unwrap();
    rows.flush().unwrap();
    assert_eq!(rows.len().unwrap(), 2);
    store.verify().unwrap();
}

#[test]
fn a_used_up_memory_budget_stalls_and_then_says_so() {
    let store = Store::builder()
        .background(Background::Manual)
        .memory_budget(200_000)
        .write_stall(Duration::from_millis(20))
        .in_memory()
        .unwrap();
    let rows = store.create_collection("rows", Schema::new(64, Metric::L2)).unwrap();
    let mut written = 0u64;
    let error = loop {
        match rows.upsert(written, &[written as f32; 64], ()) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("200000"), "{error}");
    assert!(written > 50, "only {written} rows fitted");
    while store.step().unwrap() {}
    rows.upsert(written, &[0.0; 64], ()).unwrap();
    assert_eq!(rows.len().unwrap(), written + 1);
    assert!(store.stats().unwrap().write_stalls > 0);
}

#[test]
fn a_read_only_folder_is_said_to_be_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    Store::open(&path).unwrap().close().unwrap();
    let mut permissions = std::fs::metadata(&path).unwrap().permissions();
    permissions.set_readonly(true);
    for entry in std::fs::read_dir(&path).unwrap() {
        let file = entry.unwrap().path();
        if file.is_file() {
            let mut mode = std::fs::metadata(&file).unwrap().permissions();
            mode.set_readonly(true);
            std::fs::set_permissions(&file, mode).unwrap();
        }
    }
    std::fs::set_permissions(&path, permissions).unwrap();
    if std::fs::write(path.join("probe"), b"").is_ok() {
        eprintln!("skipped: this user writes to read-only folders");
        return;
    }
    refused(Store::open(&path).map(|_| ()), ErrorKind::ReadOnly, &["store"]);
    let reader = Store::builder().read_only(true).open(&path).unwrap();
    assert_eq!(reader.collections().unwrap(), Vec::<String>::new());
}
