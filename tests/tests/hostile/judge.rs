//! What is asked of a forged store, and what it may answer.

use crate::Fate;
use nearstone::vfs::{MemoryVfs, Residency, Vfs};
use nearstone::{Background, Collection, Error, ErrorKind, Key, KeyType, Metric, Result, Store};
use nearstone_tests::forge::{Contents, FOLDER, Forger, write_folder};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Everything that was asked of one opened store.
#[derive(Default)]
struct Answers {
    contents: Contents,
    verified: bool,
    errors: Vec<Error>,
}

impl Answers {
    fn take<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }
}

/// Opens the store in every way and compares with its fate.
pub(crate) fn judge(forged: &Forger, expected: &Contents, fate: Fate) -> std::result::Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = folder.path().join("store");
    write_folder(&forged.files, &path);
    let reader = Store::builder().read_only(true).residency(Residency::Mapped);
    compare("read-only", reader.open(&path).map(|store| ask(&store)), expected, fate)?;

    let disk = forged.disk();
    let opened = writer(&disk).open(FOLDER);
    let opened = opened.map(|store| {
        let mut answers = ask(&store);
        let asked = answers.errors.len();
        write(&store, &disk, &mut answers);
        let written = answers.errors.split_off(asked);
        (answers, written)
    });
    let written = match opened {
        Ok((answers, written)) => {
            compare("writable", Ok(answers), expected, fate)?;
            written
        }
        Err(error) => {
            compare("writable", Err(error), expected, fate)?;
            Vec::new()
        }
    };
    if fate == Fate::Right && !written.is_empty() {
        return Err(format!("writing to a sound store failed: {written:?}"));
    }
    written.iter().try_for_each(|error| typed("writing", error))?;

    let vfs: Arc<dyn Vfs> = Arc::new(forged.disk());
    let mut go_on = |_| ControlFlow::Continue(());
    match Store::salvage_on(&vfs, Path::new(FOLDER), Path::new("/rescued"), &mut go_on) {
        Ok(_) => {}
        Err(error) => return Err(format!("salvage gave up: {error}")),
    }
    Ok(())
}

fn compare(
    how: &str,
    opened: Result<Answers>,
    expected: &Contents,
    fate: Fate,
) -> std::result::Result<(), String> {
    let answers = match opened {
        Ok(answers) if fate == Fate::Refused => {
            return Err(format!("{how}: it opens, verified: {}, {:?}", answers.verified, answers.errors));
        }
        Ok(answers) => answers,
        Err(error) if matches!(fate, Fate::Refused | Fate::Safe) => {
            let place = error.to_string();
            let named =
                ["FORMAT", "catalog", ".seg", ".log", "wal", "store"].iter().any(|name| place.contains(name));
            return if named { typed(how, &error) } else { Err(format!("{how}: no file is named: {error}")) };
        }
        Err(error) => return Err(format!("{how}: it does not open: {error}")),
    };
    answers.errors.iter().try_for_each(|error| typed(how, error))?;
    match fate {
        Fate::Right if !answers.verified || answers.contents != *expected || !answers.errors.is_empty() => {
            Err(format!("{how}: verified: {}, {:?}", answers.verified, answers.errors))
        }
        Fate::Noticed if answers.verified => {
            Err(format!("{how}: verifying finds nothing, {:?}", answers.errors))
        }
        _ => Ok(()),
    }
}

/// A forged store can be refused for what it is, and for nothing else.
fn typed(how: &str, error: &Error) -> std::result::Result<(), String> {
    let kinds = [ErrorKind::Corruption, ErrorKind::NotAStore, ErrorKind::UnsupportedVersion];
    if kinds.contains(&error.kind()) {
        Ok(())
    } else {
        Err(format!("{how}: an error of kind {:?}: {error}", error.kind()))
    }
}

fn writer(disk: &MemoryVfs) -> nearstone::StoreBuilder {
    Store::builder()
        .vfs(Arc::new(disk.clone()))
        .background(Background::Manual)
        .create(false)
        .write_stall(Duration::from_secs(1))
}

/// Everything that can be read.
fn ask(store: &Store) -> Answers {
    let mut answers = Answers::default();
    answers.verified = {
        let verified = store.verify();
        answers.take(verified).is_some()
    };
    let stats = store.stats();
    answers.take(stats);
    for name in store.collections().unwrap_or_default() {
        let Ok(collection) = store.collection(&name) else { continue };
        ask_collection(&name, &collection, &mut answers);
    }
    answers
}

fn ask_collection(name: &str, collection: &Collection, answers: &mut Answers) {
    let len = collection.len();
    answers.take(len);
    let listed = collection.keys();
    let mut keys: Vec<Key> = Vec::new();
    for key in answers.take(listed).into_iter().flatten() {
        keys.extend(answers.take(key));
    }
    let known = (0..310u64).map(|n| match collection.schema().key_type() {
        KeyType::U64 => Key::from(n),
        KeyType::Str => Key::from(format!("name {n:02}").as_str()),
    });
    for key in keys.iter().cloned().chain(known) {
        let row = collection.get(&key);
        let Some(row) = answers.take(row).flatten() else { continue };
        let row_contents = (row.vector().to_vec(), row.payload_json().to_owned());
        answers.contents.insert((name.to_owned(), key.as_ref().to_string()), row_contents);
    }
    let dimension = collection.schema().dimension();
    let query = vec![if collection.schema().metric() == Metric::Cosine { 0.5 } else { 20.0 }; dimension];
    for (limit, ef, exact) in [(1, 1, false), (3, 16, false), (1000, 64, false), (10, 5000, true)] {
        let hits =
            collection.search(&query).limit(limit).ef(ef).exact(exact).with_payload().with_vector().run();
        answers.take(hits);
    }
    let hits = collection.search(&query).limit(5).filter(&|key| key.byte_len() % 2 == 0).run();
    answers.take(hits);
}

/// Everything that can be written; the store may say at any point that it is damaged.
fn write(store: &Store, disk: &MemoryVfs, answers: &mut Answers) {
    let backup = store.backup("/backup");
    answers.take(backup);
    for name in store.collections().unwrap_or_default() {
        let Ok(collection) = store.collection(&name) else { continue };
        let vector = vec![0.5; collection.schema().dimension()];
        for n in [7u64, 60, 500] {
            let key = match collection.schema().key_type() {
                KeyType::U64 => Key::from(n),
                KeyType::Str => Key::from(format!("name {n:02}").as_str()),
            };
            let written = collection.upsert(key.clone(), &vector, ());
            answers.take(written);
            let gone = collection.delete(key);
            answers.take(gone);
        }
    }
    let made = store.collection_or_create("one more", nearstone::Schema::new(2, Metric::L2));
    if let Some(made) = answers.take(made) {
        let written = made.upsert(1u64, &[1.0, 2.0], ());
        answers.take(written);
    }
    for done in [store.flush(), store.compact(), store.persist().map(|_| ()), store.close()] {
        answers.take(done);
    }
    let again = writer(disk).open(FOLDER);
    if let Some(again) = answers.take(again) {
        let mut later = ask(&again);
        answers.errors.append(&mut later.errors);
        let closed = again.close();
        answers.take(closed);
    }
}
