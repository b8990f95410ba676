//! Bulk loading: rows become sealed segments without passing through the log.
//!
//! 1. Rows are collected, linked and written: see [`crate::collect`].
//! 2. [`BulkLoad::finish`] makes all of these files part of the collection, in one moment: see [`crate::attach`].
//!
//! Until then nothing names the files. They go with the load, whatever ends it; those that a dying process leaves are
//! swept by the next open.

use crate::attach::Known;
use crate::collect::Collector;
use crate::collection::Collection;
use crate::progress::Progress;
use nearstone_base::faults::failpoint;
use nearstone_base::{Key, Lsn, Result};
use serde::Serialize;

/// What becomes of a row of a bulk load whose key is there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnCollision {
    /// It takes the other row's place, as an upsert would.
    #[default]
    Replace,
    /// It is left out: what is there stays.
    Keep,
    /// The load fails whole, with `AlreadyExists`.
    Refuse,
}

/// What a bulk load did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BulkLoaded {
    /// The lsn at which all rows became visible, which is their version. Without any row, that of the last batch.
    pub lsn: Lsn,
    /// Rows under keys that were not there.
    pub inserted: u64,
    /// Rows that took the place of others.
    pub replaced: u64,
    /// Rows that were left out, because their keys were there and [`OnCollision::Keep`] was asked for.
    pub kept: u64,
}

/// A load of many rows, which become visible and durable together or not at all; made by [`Collection::bulk_load`].
/// Dropping it discards everything.
///
/// Faster than writing the same rows and waiting until they are sealed: no row passes through the log, and no search or
/// sync waits in between. Rows of the collection can be read and written meanwhile.
///
/// Memory: one segment's rows and their graph (up to [`StoreBuilder::seal_bytes`](crate::StoreBuilder::seal_bytes) of
/// vectors), beside the store's own. Disk: the finished segments.
pub struct BulkLoad<'p> {
    collection: Collection,
    on_collision: OnCollision,
    collector: Collector<'p>,
}

impl Collection {
    /// Starts a bulk load: for many rows at once, into an empty collection or beside what is there.
    ///
    /// ```
    /// use nearstone::{Metric, OnCollision, Schema, Store};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// let store = Store::open(folder.path().join("notes.near"))?;
    /// let notes = store.create_collection("notes", Schema::new(2, Metric::L2))?;
    /// let mut load = notes.bulk_load()?.on_collision(OnCollision::Keep);
    /// for number in 0..100u64 {
    ///     load.push(number, &[number as f32, 1.0], serde_json::json!({ "number": number }))?;
    /// }
    /// let loaded = load.finish()?;
    /// assert_eq!((loaded.inserted, notes.len()?), (100, 100));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `ReadOnly`, `Closed`, `NotFound`, `Poisoned`.
    pub fn bulk_load<'p>(&self) -> Result<BulkLoad<'p>> {
        self.name()?;
        let engine = &self.handle.engine;
        engine.check_healthy()?;
        Ok(BulkLoad {
            collection: self.clone(),
            on_collision: OnCollision::default(),
            collector: Collector::new(engine.core.clone(), Some(engine.clone()), self.schema()),
        })
    }
}

impl<'p> BulkLoad<'p> {
    /// What becomes of rows whose keys are there when the load finishes. Default: [`OnCollision::Replace`].
    #[must_use]
    pub fn on_collision(mut self, policy: OnCollision) -> BulkLoad<'p> {
        self.on_collision = policy;
        self
    }

    /// Links rows on so many threads, the calling one among them, 1024 at most. Default: all cores; one with
    /// [`Background::Manual`](crate::Background::Manual).
    #[must_use]
    pub fn threads(mut self, threads: usize) -> BulkLoad<'p> {
        self.collector.threads = threads;
        self
    }

    /// Reports progress while rows are linked and written, in [`BulkLoad::push`] and [`BulkLoad::finish`], and cancels
    /// the load when it is told to.
    #[must_use]
    pub fn progress(mut self, progress: Progress<'p>) -> BulkLoad<'p> {
        self.collector.progress = Some(progress);
        self
    }

    /// Rows so far.
    pub fn len(&self) -> u64 {
        self.collector.rows()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a row. The payload is anything that serialises to a JSON object, or `()` for none. Returns at once, except
    /// for the row that fills a segment, which is then linked and written.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a key, vector or payload that the collection refuses, and for a key that was given already:
    /// the row is left out, and the load goes on. `Closed`, `NotFound`, `Poisoned`, `DiskFull`, `Io`, `Cancelled`: the load
    /// has ended, and nothing of it is there.
    pub fn push(&mut self, key: impl Into<Key>, vector: &[f32], payload: impl Serialize) -> Result<()> {
        self.check()?;
        self.collector.push(&key.into(), vector, &payload)
    }

    /// Makes all rows visible and durable at one lsn, and returns when they are. What other writers have in memory in
    /// this collection is sealed before. Keys that are there are dealt with as of that moment: nobody writes between.
    ///
    /// Cost: linking and writing what is not written yet, and a look-up of each key in the collection's segments. Writers of
    /// the store wait while the rows become visible, for a transaction of the catalog and for what was written to the
    /// collection since the look-up began.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` for a key that is there, with [`OnCollision::Refuse`]; `NotFound` (the collection was dropped),
    /// `Closed`, `Cancelled`, `DiskFull`: nothing is loaded. `Io` and `Poisoned`: see
    /// [`Error::outcome`](nearstone_base::Error::outcome).
    pub fn finish(mut self) -> Result<BulkLoaded> {
        self.check()?;
        let written = self.collector.finish()?;
        let engine = self.collection.handle.engine.clone();
        if written.is_empty() {
            let lsn = engine.core.view.load().lsn;
            return Ok(BulkLoaded { lsn, inserted: 0, replaced: 0, kept: 0 });
        }
        failpoint("load-written");
        let known = Known::new(written, Vec::new());
        engine.attach(self.collection.id, self.collection.name_when_opened(), known, self.on_collision)
    }

    fn check(&self) -> Result<()> {
        self.collection.name()?;
        self.collector.check().map_err(|error| error.context("the bulk load"))
    }
}

impl std::fmt::Debug for BulkLoad<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BulkLoad({:?}, {} rows)", self.collection, self.len())
    }
}
