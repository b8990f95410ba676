//! Everything that a program can ask of a store, and tell it: for stores that may be forged, where any question may
//! end in an error.

use crate::forge::{Contents, FOLDER};
use nearstone::vfs::MemoryVfs;
use nearstone::{
    Background, Collection, Error, ErrorKind, Key, KeyType, Metric, Result, Schema, Store, StoreBuilder,
};
use std::sync::Arc;
use std::time::Duration;

/// What one opened store said.
#[derive(Debug, Default)]
pub struct Answers {
    /// The rows it has.
    pub contents: Contents,
    /// Whether verifying found nothing.
    pub verified: bool,
    /// All errors.
    pub errors: Vec<Error>,
}

impl Answers {
    fn take<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }
}

/// A forged store can be refused for what it is, and for nothing else.
pub fn is_typed(error: &Error) -> bool {
    let kinds = [ErrorKind::Corruption, ErrorKind::NotAStore, ErrorKind::UnsupportedVersion];
    kinds.contains(&error.kind())
}

/// Opens the store of a disk for writing, without work behind.
pub fn writer(disk: &MemoryVfs) -> StoreBuilder {
    Store::builder()
        .vfs(Arc::new(disk.clone()))
        .background(Background::Manual)
        .create(false)
        .write_stall(Duration::from_secs(1))
}

/// Asks everything that can be read.
pub fn ask(store: &Store) -> Answers {
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

/// Does everything that can be done to a store, closes it and reads it again; it may say at any point that it is
/// damaged.
pub fn write(store: &Store, disk: &MemoryVfs, answers: &mut Answers) {
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
    let made = store.collection_or_create("one more", Schema::new(2, Metric::L2));
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
