//! Damage sweep: every file of a small store flipped, cut, zeroed, removed, swapped with an older copy. What opens
//! afterwards has exactly the right rows, or says what is wrong; it never panics and never answers wrongly.

use nearstone::random::{SeededRandom, SplitMix64};
use nearstone::vfs::{CrashChoice, SimVfs, Vfs};
use nearstone::{Background, ErrorKind, Metric, RecoveryMode, Schema, Store};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Rows = BTreeMap<u64, (Vec<f32>, String)>;

fn open(disk: &SimVfs, read_only: bool) -> nearstone::Result<Store> {
    Store::builder()
        .vfs(Arc::new(disk.clone()))
        .random(Arc::new(SeededRandom::new(disk.ops())))
        .background(Background::Manual)
        .create(false)
        .read_only(read_only)
        .open("/store")
}

/// A store with sealed rows, deaths in sealed segments, and rows that are only in the log.
fn history(disk: &SimVfs) -> (Rows, Store) {
    let vfs: Arc<dyn Vfs> = Arc::new(disk.clone());
    let store = Store::builder().vfs(vfs).background(Background::Manual).open("/store").unwrap();
    let rows = store.create_collection("rows", Schema::new(4, Metric::L2).m(4).ef_construction(16)).unwrap();
    let mut expected = Rows::new();
    for key in 0..60u64 {
        let vector = [key as f32, 1.0, -(key as f32), 0.25];
        let payload = serde_json::json!({ "key": key });
        rows.upsert(key, &vector, &payload).unwrap();
        expected.insert(key, (vector.to_vec(), payload.to_string()));
        if key == 24 || key == 44 {
            rows.flush().unwrap();
        }
        if key % 7 == 6 {
            rows.delete(key - 4).unwrap();
            expected.remove(&(key - 4));
        }
    }
    (expected, store)
}

/// Reads everything; `Err` is a typed error.
fn read(disk: &SimVfs, read_only: bool) -> nearstone::Result<Rows> {
    let store = open(disk, read_only)?;
    let collection = store.collection("rows")?;
    let mut rows = Rows::new();
    for key in collection.keys()? {
        let key = key?;
        // A key that is listed is there, or its bytes are damaged.
        let row = collection.get(&key)?.expect("a listed key has a row");
        rows.insert(key.as_u64().unwrap(), (row.vector().to_vec(), row.payload_json().to_owned()));
    }
    for exact in [true, false] {
        for hit in collection.search(&[20.0, 1.0, -20.0, 0.25]).limit(10).exact(exact).run()? {
            assert!(
                rows.contains_key(&hit.key().as_u64().unwrap()),
                "a search found a row that is not there"
            );
        }
    }
    store.verify()?;
    store.close()?;
    Ok(rows)
}

/// The damaged store is right or says so, when it is read and when it is opened for writing.
fn judge(disk: &SimVfs, expected: &Rows, what: &str) -> bool {
    let mut noticed = false;
    for read_only in [true, false] {
        let disk = disk.crash_image(CrashChoice::KeepAll);
        let result = catch_unwind(AssertUnwindSafe(|| read(&disk, read_only)))
            .unwrap_or_else(|_| panic!("{what}: panicked, read only: {read_only}"));
        match result {
            Ok(rows) => assert!(rows == *expected, "{what}: wrong rows, read only: {read_only}"),
            Err(error) => {
                let kinds = [
                    ErrorKind::Corruption,
                    ErrorKind::NotAStore,
                    ErrorKind::UnsupportedVersion,
                    ErrorKind::NotFound,
                ];
                assert!(kinds.contains(&error.kind()), "{what}: {error:?}");
                noticed = true;
            }
        }
    }
    noticed
}

fn files(disk: &SimVfs) -> Vec<(PathBuf, u64)> {
    disk.files().into_iter().filter(|(path, len)| path.starts_with("store") && *len > 0).collect()
}

/// The closed store, an older copy of its files, and its rows.
fn closed() -> (SimVfs, SimVfs, Rows) {
    let disk = SimVfs::new(1);
    let (expected, store) = history(&disk);
    store.persist().unwrap();
    let older = disk.crash_image(CrashChoice::KeepAll);
    let rows = store.collection("rows").unwrap();
    rows.upsert(100u64, &[0.0, 9.0, 0.0, 9.0], ()).unwrap();
    let mut expected = expected;
    expected.insert(100, (vec![0.0, 9.0, 0.0, 9.0], String::new()));
    drop(rows);
    store.close().unwrap();
    drop(store);
    assert!(read(&disk.crash_image(CrashChoice::KeepAll), false).unwrap() == expected);
    (disk, older, expected)
}

#[test]
fn flipped_bits_anywhere_are_noticed_or_harmless() {
    let (disk, _, expected) = closed();
    let mut rng = SplitMix64::new(7);
    let mut noticed = BTreeMap::<String, (u32, u32)>::new();
    for (path, len) in files(&disk) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let kind = name.rsplit('.').next().unwrap().to_owned();
        // Where something was written: the rest of a log file reads as zeros.
        let bytes = disk.contents(&path).unwrap();
        let written = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last as u64 + 1).min(len);
        let mut offsets: Vec<u64> = (0..64.min(len)).collect();
        offsets.extend((0..120).map(|_| rng.below(written.max(1))));
        offsets.extend((0..10).map(|_| rng.below(len)));
        for offset in offsets {
            let image = disk.crash_image(CrashChoice::KeepAll);
            let bit = rng.below(8) as u32;
            image.flip_bit(&path, offset, bit);
            let seen = judge(&image, &expected, &format!("bit {bit} of byte {offset} of {}", path.display()));
            let counts = noticed.entry(kind.clone()).or_default();
            counts.0 += u32::from(seen);
            counts.1 += 1;
        }
    }
    for (kind, (seen, all)) in &noticed {
        assert!(*seen * 3 > *all || kind == "lock", "{kind}: only {seen} of {all} flips were noticed");
    }
}

#[test]
fn cut_zeroed_and_missing_files_are_noticed_or_harmless() {
    let (disk, _, expected) = closed();
    for (path, len) in files(&disk) {
        for to in [0, 1, 100, len / 3, len / 2, len.saturating_sub(4096), len - 1] {
            let image = disk.crash_image(CrashChoice::KeepAll);
            image.truncate(&path, to);
            judge(&image, &expected, &format!("{} cut to {to} of {len}", path.display()));
        }
        let bytes = disk.contents(&path).unwrap();
        for page in 0..bytes.len().div_ceil(4096).min(40) {
            let mut zeroed = bytes.clone();
            let end = ((page + 1) * 4096).min(zeroed.len());
            zeroed[page * 4096..end].fill(0);
            let image = disk.crash_image(CrashChoice::KeepAll);
            image.overwrite(&path, &zeroed);
            judge(&image, &expected, &format!("page {page} of {} zeroed", path.display()));
        }
        let image = disk.crash_image(CrashChoice::KeepAll);
        image.remove(&Path::new("/").join(&path)).unwrap();
        let noticed = judge(&image, &expected, &format!("{} removed", path.display()));
        assert!(noticed, "{} is gone and nobody noticed", path.display());
    }
}

#[test]
fn older_and_swapped_files_are_noticed_or_harmless() {
    let (disk, older, expected) = closed();
    let all = files(&disk);
    for (path, _) in &all {
        if let Some(bytes) = older.contents(path) {
            let image = disk.crash_image(CrashChoice::KeepAll);
            image.overwrite(path, &bytes);
            judge(&image, &expected, &format!("an older copy of {}", path.display()));
        }
        for (other, _) in &all {
            if other != path && other.extension() == path.extension() {
                let image = disk.crash_image(CrashChoice::KeepAll);
                image.overwrite(path, &disk.contents(other).unwrap());
                judge(&image, &expected, &format!("{} in place of {}", other.display(), path.display()));
            }
        }
    }
}

#[test]
fn a_stray_file_blocks_nothing_and_stays() {
    let (disk, _, expected) = closed();
    for name in ["/store/notes.txt", "/store/wal/x.log.bak", "/store/wal/1.tmp", "/store/segments/readme"] {
        let file = disk.open(Path::new(name), nearstone::vfs::OpenMode::CreateNew).unwrap();
        file.write_at(b"mine", 0).unwrap();
    }
    assert!(read(&disk, false).unwrap() == expected);
    for name in ["/store/notes.txt", "/store/wal/x.log.bak", "/store/segments/readme"] {
        assert_eq!(disk.contents(Path::new(name)).unwrap(), b"mine", "{name}");
    }
}

#[test]
fn point_in_time_recovery_keeps_what_lies_before_the_damage_and_says_so() {
    let disk = SimVfs::new(1);
    let (_, store) = history(&disk);
    store.persist().unwrap();
    let image = disk.crash_image(CrashChoice::KeepAll);
    drop(store);
    let log = files(&image).into_iter().rfind(|(path, _)| path.extension().is_some_and(|e| e == "log"));
    let (log, _) = log.unwrap();
    let bytes = image.contents(&log).unwrap();
    let written = bytes.iter().rposition(|b| *b != 0).unwrap() as u64;
    image.flip_bit(&log, written - 200, 3);
    assert_eq!(open(&image, false).map(|_| ()).unwrap_err().kind(), ErrorKind::Corruption);
    let store = Store::builder()
        .vfs(Arc::new(image.clone()))
        .background(Background::Manual)
        .recovery(RecoveryMode::PointInTime)
        .open("/store")
        .unwrap();
    assert!(store.recovery().stopped_at.is_some());
    let rows = store.collection("rows").unwrap();
    assert!(rows.contains(43u64).unwrap(), "a sealed row is gone");
    rows.upsert(200u64, &[1.0; 4], ()).unwrap();
    drop(rows);
    store.close().unwrap();
    drop(store);
    assert!(open(&image, false).unwrap().collection("rows").unwrap().contains(200u64).unwrap());
}

/// Damage in a file that is not the last: what is given up is given up for good, wherever the next crash falls, and what
/// is written afterwards stays.
#[test]
fn after_a_point_in_time_recovery_the_store_opens_as_any_other_and_keeps_what_is_written() {
    let disk = SimVfs::new(1);
    let schema = Schema::new(4, Metric::L2).m(4).ef_construction(16);
    for file in 0..3u64 {
        let vfs: Arc<dyn Vfs> = Arc::new(disk.clone());
        let store = Store::builder().vfs(vfs).background(Background::Manual).open("/store").unwrap();
        let rows = store.collection_or_create("rows", schema).unwrap();
        for key in file * 10..file * 10 + 10 {
            rows.upsert(key, &[key as f32, 1.0, 0.0, 0.0], ()).unwrap();
        }
        store.close().unwrap();
    }
    let logs: Vec<PathBuf> = files(&disk)
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    assert_eq!(logs.len(), 3);
    let bytes = disk.contents(&logs[1]).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64;
    disk.flip_bit(&logs[1], (4096 + written) / 2, 3);
    assert_eq!(open(&disk, false).map(|_| ()).unwrap_err().kind(), ErrorKind::Corruption);

    let keys = |store: &Store| -> Vec<u64> {
        let rows = store.collection("rows").unwrap();
        rows.keys().unwrap().map(|key| key.unwrap().as_u64().unwrap()).collect()
    };
    let image = disk.crash_image(CrashChoice::KeepAll);
    image.record();
    let vfs = Arc::new(image.clone());
    let builder = Store::builder().vfs(vfs).background(Background::Manual);
    let store = builder.recovery(RecoveryMode::PointInTime).open("/store").unwrap();
    let kept = keys(&store);
    assert!((10..20).contains(&kept.len()) && kept.iter().copied().eq(0..kept.len() as u64), "{kept:?}");
    assert!(store.recovery().stopped_at.is_some());
    // Until it has ended the damage may still be met, and point-in-time recovery then finds the same.
    let (last, others) =
        image.recorded().split_last().map(|(last, others)| (last.clone(), others.to_vec())).unwrap();
    for moment in others {
        let vfs = Arc::new(moment.killed());
        let builder = Store::builder().vfs(vfs).background(Background::Manual);
        let store = builder.recovery(RecoveryMode::PointInTime).open("/store").unwrap();
        assert_eq!(keys(&store), kept, "killed before operation {}", moment.ops());
    }
    assert_eq!(keys(&open(&last.killed(), false).unwrap()), kept);

    store.collection("rows").unwrap().upsert(200u64, &[1.0; 4], ()).unwrap();
    for choice in [CrashChoice::DurableOnly, CrashChoice::KeepAll] {
        let store = open(&image.crash_image(choice), false).unwrap();
        assert_eq!(keys(&store).len(), kept.len() + 1, "{choice:?}");
        store.verify().unwrap();
    }
    store.close().unwrap();
    assert_eq!(keys(&open(&image, false).unwrap()).len(), kept.len() + 1);
}

/// What salvage makes of a damaged disk: the rows of all collections, and its report.
fn salvaged(disk: &SimVfs) -> (Rows, nearstone::SalvageReport) {
    let disk = disk.crash_image(CrashChoice::KeepAll);
    let before = disk.digest_of(|path| path.starts_with("store"));
    let vfs: Arc<dyn Vfs> = Arc::new(disk.clone());
    let (from, into) = (Path::new("/store"), Path::new("/rescued"));
    let report = Store::salvage_on(&vfs, from, into, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    assert_eq!(disk.digest_of(|path| path.starts_with("store")), before, "salvage changed the damaged store");
    let store = Store::builder().vfs(vfs).background(Background::Manual).create(false).open(into).unwrap();
    let mut rows = Rows::new();
    for name in store.collections().unwrap() {
        let collection = store.collection(&name).unwrap();
        for key in collection.keys().unwrap() {
            let key = key.unwrap();
            let row = collection.get(&key).unwrap().unwrap();
            let old =
                rows.insert(key.as_u64().unwrap(), (row.vector().to_vec(), row.payload_json().to_owned()));
            assert!(old.is_none(), "a key is in two collections");
        }
    }
    store.verify().unwrap();
    assert_eq!(report.collections.iter().map(|(_, rows)| rows).sum::<u64>(), rows.len() as u64);
    (rows, report)
}

#[test]
fn salvage_brings_over_every_row_that_can_be_read_and_names_the_rest() {
    let (disk, _, expected) = closed();
    let (rows, report) = salvaged(&disk);
    assert!(rows == expected && report.catalog && report.lost.is_empty(), "{report:?}");
    assert_eq!((report.lost_rows, report.lost_batches.len()), (0, 0));

    let (mut lost_rows, mut lost_batches) = (0, 0);
    for (path, len) in files(&disk) {
        for at in (0..len).step_by(len.div_ceil(12).max(1) as usize) {
            let damaged = disk.crash_image(CrashChoice::KeepAll);
            // A sector's worth, as a disk would lose it.
            for offset in at..(at + 512).min(len) {
                damaged.flip_bit(&path, offset, (offset % 8) as u32);
            }
            let (rows, report) = salvaged(&damaged);
            let what = format!("{} at {at}: {report:?}", path.display());
            for (key, row) in &rows {
                match expected.get(key) {
                    Some(right) => assert!(right == row, "{what}: key {key} has another row"),
                    // Deletes can be forgotten where the only record of them is gone, and must be announced.
                    None => assert!(
                        !report.catalog || !report.lost_batches.is_empty(),
                        "{what}: key {key} is back"
                    ),
                }
            }
            let missing = expected.keys().filter(|key| !rows.contains_key(key)).count() as u64;
            let told = report.lost_rows
                + report.lost_batches.iter().map(|(first, last)| last - first + 1).sum::<u64>();
            assert!(missing <= told || !report.lost.is_empty(), "{what}: {missing} rows are missing");
            lost_rows += report.lost_rows;
            lost_batches += report.lost_batches.len();
        }
    }
    assert!(lost_rows > 0 && lost_batches > 0, "the damage hit neither rows nor batches");
}

#[test]
fn salvage_without_a_catalog_has_every_row_and_its_latest_version() {
    let (disk, _, expected) = closed();
    for (path, _) in files(&disk).iter().filter(|(path, _)| path.file_name() == Some("catalog".as_ref())) {
        disk.overwrite(path, b"gone");
    }
    let (rows, report) = salvaged(&disk);
    assert!(!report.catalog);
    assert!(expected.iter().all(|(key, row)| rows.get(key) == Some(row)), "{report:?}");
}

#[test]
fn salvage_refuses_what_is_no_store_and_what_it_would_overwrite() {
    let (disk, _, _) = closed();
    let vfs: Arc<dyn Vfs> = Arc::new(disk.clone());
    let salvage = |from: &str, into: &str| {
        let mut go_on = |_| std::ops::ControlFlow::Continue(());
        Store::salvage_on(&vfs, Path::new(from), Path::new(into), &mut go_on).unwrap_err().kind()
    };
    assert_eq!(salvage("/nowhere", "/rescued"), ErrorKind::NotFound);
    assert_eq!(salvage("/store/wal", "/rescued"), ErrorKind::NotAStore);
    assert_eq!(salvage("/store", "/store/wal"), ErrorKind::InvalidArgument);
    disk.create_dir(Path::new("/full")).unwrap();
    disk.create_dir(Path::new("/full/folder")).unwrap();
    assert_eq!(salvage("/store", "/full"), ErrorKind::AlreadyExists);
    let store = open(&disk, false).unwrap();
    assert_eq!(salvage("/store", "/rescued"), ErrorKind::Busy);
    store.close().unwrap();
}
