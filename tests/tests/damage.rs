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
