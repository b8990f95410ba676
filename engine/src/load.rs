//! Bulk loading: rows become sealed segments without passing through the log.
//!
//! 1. Rows are collected in a segment of the load's own, which no reader sees. When it has reached the size at which the
//!    store seals, its rows are linked on all threads of the load, and it is written, synced, opened and tried, as a seal
//!    does it. Its file has no versions: which lsn the rows get is not known yet.
//! 2. [`BulkLoad::finish`] makes all of these files part of the collection, in one moment: see [`crate::attach`].
//!
//! Until then nothing names the files. They go with the load, whatever ends it; those that a dying process leaves are
//! swept by the next open.

use crate::attach::Known;
use crate::background::on_threads;
use crate::batch::encode_payload;
use crate::collection::Collection;
use crate::core::Core;
use crate::engine::Engine;
use crate::progress::{Progress, report};
use crate::seal::write_sealed;
use crate::view::SealedHandle;
use crate::write::is_full;
use nearstone_base::faults::failpoint;
use nearstone_base::sync::{Arc, Mutex, Ordering, thread};
use nearstone_base::{Error, ErrorKind, Key, KeyRef, Lsn, Result};
use nearstone_compaction::gc::segment_file;
use nearstone_segments::MutableSegment;
use serde::Serialize;

/// Rows linked between two looks at whether to stop.
const LINK_PIECE: u32 = 64;

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
    threads: usize,
    progress: Option<Progress<'p>>,
    /// The rows that are not in a file yet.
    growing: Option<MutableSegment>,
    written: Vec<Arc<SealedHandle>>,
    rows: u64,
    /// A failure after which rows are missing.
    broken: bool,
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
            threads: engine.core.threads(),
            progress: None,
            growing: None,
            written: Vec::new(),
            rows: 0,
            broken: false,
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

    /// Links rows on so many threads, the calling one among them. Default: all cores; one with
    /// [`Background::Manual`](crate::Background::Manual).
    #[must_use]
    pub fn threads(mut self, threads: usize) -> BulkLoad<'p> {
        self.threads = threads;
        self
    }

    /// Reports progress while rows are linked and written, in [`BulkLoad::push`] and [`BulkLoad::finish`], and cancels
    /// the load when it is told to.
    #[must_use]
    pub fn progress(mut self, progress: Progress<'p>) -> BulkLoad<'p> {
        self.progress = Some(progress);
        self
    }

    /// Rows so far.
    pub fn len(&self) -> u64 {
        self.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
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
        let key = key.into();
        let schema = self.collection.schema();
        schema.check_key(&key)?;
        schema.check_vector(vector)?;
        let payload = encode_payload(&payload)?;
        let hash = key.as_ref().hash64();
        if self.has(key.as_ref(), hash)? {
            return Err(Error::invalid(format!(
                "the key {key:?} was given already: a bulk load takes each key once"
            )));
        }
        let core = &self.collection.handle.engine.core;
        let growing =
            self.growing.get_or_insert_with(|| MutableSegment::unversioned(core.take_segment_id(), schema));
        // All rows of a segment get one lsn, which can't be lower than this one.
        let lowest = growing.lsn_max().unwrap_or_else(|| core.view.load().lsn + 1);
        growing.append(key.as_ref(), hash, vector, &payload, lowest);
        self.rows += 1;
        if is_full(core, growing) || growing.bytes() >= core.options.memory_budget {
            self.write()?;
        }
        Ok(())
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
    /// `Closed`, `Cancelled`, `DiskFull`: nothing is loaded. `Io` and `Poisoned`: see [`Error::outcome`].
    pub fn finish(mut self) -> Result<BulkLoaded> {
        self.check()?;
        self.write()?;
        let engine = self.collection.handle.engine.clone();
        if self.written.is_empty() {
            let lsn = engine.core.view.load().lsn;
            return Ok(BulkLoaded { lsn, inserted: 0, replaced: 0, kept: 0 });
        }
        failpoint("load-written");
        let known = Known::new(std::mem::take(&mut self.written));
        engine.attach(self.collection.id, self.collection.name_when_opened(), known, self.on_collision)
    }

    fn check(&self) -> Result<()> {
        if self.threads == 0 {
            return Err(Error::invalid("0 threads: a bulk load needs at least 1"));
        }
        self.collection.handle.engine.check_healthy()?;
        self.collection.name()?;
        if self.broken {
            let text = "the bulk load has ended with an earlier failure: nothing of it is there";
            return Err(Error::new(ErrorKind::Cancelled, text));
        }
        Ok(())
    }

    fn has(&self, key: KeyRef<'_>, hash: u64) -> Result<bool> {
        if self.growing.as_ref().is_some_and(|growing| growing.find(key, hash).is_some()) {
            return Ok(true);
        }
        for handle in &self.written {
            if handle.segment.find(key, hash)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Turns the rows collected so far into a file.
    fn write(&mut self) -> Result<()> {
        let Some(mut growing) = self.growing.take() else { return Ok(()) };
        growing.link_for_refinement();
        let mut ignore = crate::progress::no_progress;
        let progress: Progress<'_> = match &mut self.progress {
            Some(progress) => &mut **progress,
            None => &mut ignore,
        };
        match write(&self.collection.handle.engine, &growing, self.threads, progress) {
            Ok(handle) => {
                self.written.push(handle);
                failpoint("load-segment-written");
                Ok(())
            }
            Err(error) => {
                self.broken = true;
                self.written.clear();
                Err(error)
            }
        }
    }
}

impl std::fmt::Debug for BulkLoad<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BulkLoad({:?}, {} rows)", self.collection, self.rows)
    }
}

/// Links the rows and seals them into a file that goes with its handle.
fn write(
    engine: &Engine,
    segment: &MutableSegment,
    threads: usize,
    progress: Progress<'_>,
) -> Result<Arc<SealedHandle>> {
    let core = &*engine.core;
    segment.freeze();
    let total = u64::from(segment.rows());
    let progress = Mutex::new(progress);
    let failed = Mutex::new(None);
    on_threads(threads, || {
        while !segment.all_linked() && failed.lock().is_none() {
            if let Err(error) = engine.check_healthy().and_then(|()| try_report(&progress, segment, total)) {
                failed.lock().get_or_insert(error);
            } else if core.with_scratch(|scratch| segment.link_some(LINK_PIECE, scratch)) == 0 {
                // The last rows are being linked by others.
                thread::yield_now();
            }
        }
        Ok(())
    })?;
    if let Some(error) = failed.into_inner() {
        return Err(error);
    }
    failpoint("load-linked");
    let cancelled = Mutex::new(None);
    let cancel = || {
        let step = core.check_open().and_then(|()| report(*progress.lock(), "write", 0, total));
        let Err(error) = step else { return false };
        cancelled.lock().get_or_insert(error);
        true
    };
    let lowest = segment.lsn_max().unwrap_or(0);
    let site = core.site();
    let target = site.target(segment.id(), threads);
    let written = write_sealed(core, segment, segment.schema(), lowest, &target, &cancel);
    if written.is_err() {
        remove_unnamed(core, segment);
    }
    if let Some(error) = cancelled.into_inner() {
        return Err(error);
    }
    let Some((handle, _)) = written? else {
        return Err(Error::invalid("a bulk load wrote a segment without rows"));
    };
    // Nothing names the file yet.
    handle.set_obsolete();
    report(*progress.lock(), "write", total, total)?;
    Ok(handle)
}

/// Whoever comes by while nobody else reports, reports.
fn try_report(progress: &Mutex<Progress<'_>>, segment: &MutableSegment, total: u64) -> Result<()> {
    match progress.try_lock() {
        Some(mut progress) => report(*progress, "link", u64::from(segment.linked()), total),
        None => Ok(()),
    }
}

/// Best effort: an open sweeps what stays.
fn remove_unnamed(core: &Core, segment: &MutableSegment) {
    if !core.keep_files.load(Ordering::Acquire) {
        let _ = core.vfs.remove(&crate::layout::segments(&core.dir).join(segment_file(segment.id())));
    }
}
