//! Handles to collections: what only a live collection can do. Reading is in `crate::read`.

use crate::arguments::{Keys, check_keys, durability, keys, some_count};
use crate::batch::{Commit, Rows};
use crate::build;
use crate::errors::{OrRaise, raised};
use crate::load::{self, BulkLoaded, HeldRows};
use crate::long;
use crate::read::{Readable, Source};
use crate::search::THREADS_MAX;
use crate::snapshot::Snapshot;
use crate::store::Store;
use nearstone::{AttachOptions, Codes, Error, Key, Profile, RebuildOptions};
use pyo3::prelude::*;

/// A matrix is written in batches of so many bytes, unless it is to be atomic.
const CHUNK_BYTES: usize = 4 << 20;
/// And of so many rows: a writer may have to link as many before it returns, and looks for signals only then.
const CHUNK_ROWS: usize = 1024;

/// A collection of a store.
///
/// Works from any thread. After the collection was dropped every call raises ``NotFound``, after the store was closed
/// ``Closed``.
#[pyclass(frozen, extends = Readable, module = "nearstone")]
pub(crate) struct Collection;

/// A collection as a snapshot sees it: reads always see the same rows.
#[pyclass(frozen, extends = Readable, module = "nearstone")]
pub(crate) struct CollectionAt;

impl Collection {
    pub(crate) fn handle<'py>(
        store: &Bound<'py, Store>,
        collection: nearstone::Collection,
    ) -> PyResult<Bound<'py, Collection>> {
        let source = Source::Live(store.get().engine().clone(), collection);
        let base = Readable::new(store.clone().unbind(), source);
        Bound::new(store.py(), PyClassInitializer::from(base).add_subclass(Collection))
    }

    /// The engine's handle.
    pub(crate) fn engine(slf: &Bound<'_, Collection>) -> nearstone::Collection {
        Collection::parts(slf).1
    }

    fn parts(slf: &Bound<'_, Collection>) -> (nearstone::Store, nearstone::Collection) {
        match slf.as_super().get().source() {
            Source::Live(store, collection) => (store.clone(), collection.clone()),
            Source::At(..) => unreachable!("made from a live collection"),
        }
    }
}

/// Sums up the batches of one call.
fn add(total: &mut Option<nearstone::Commit>, commit: nearstone::Commit) {
    match total {
        None => *total = Some(commit),
        Some(total) => {
            total.lsn = commit.lsn;
            total.upserted += commit.upserted;
            total.deleted += commit.deleted;
            total.results.clear();
        }
    }
}

#[pymethods]
impl Collection {
    /// Its name now; it may have been renamed since the handle was made.
    #[getter]
    fn name(slf: &Bound<'_, Self>) -> PyResult<String> {
        Collection::engine(slf).name().or_raise(slf.py())
    }

    /// Puts rows under keys, replacing what is there: one (a key, a vector of shape ``(dim,)``, a dict) or several
    /// (keys, a matrix of shape ``(n, dim)``, dicts).
    ///
    /// Everything is checked before anything is written. A matrix is written in batches of a few megabytes: fast, but
    /// not atomic as a whole, and interrupted it keeps what was written so far.
    ///
    /// Args:
    ///     keys: An int or str, or a sequence or array of them.
    ///     vectors: Anything numpy can cast to float32; C-contiguous float32 is not copied on the way.
    ///     payloads: Mappings that JSON can write, at most 1 MiB each, or ``None``.
    ///     atomic: All rows in one batch, of at most 64 MiB.
    ///     durability: Another one than the store's.
    ///
    /// Raises:
    ///     InvalidArgument: A wrong shape, NaN or infinity, a key of the wrong type, a limit passed; names the row.
    ///     Busy, DiskFull, ReadOnly, Closed: Not written. Io, Poisoned: see ``outcome``.
    #[pyo3(signature = (keys, vectors, payloads=None, *, atomic=false, durability=None))]
    fn upsert<'py>(
        slf: &Bound<'py, Self>,
        keys: &Bound<'py, PyAny>,
        vectors: &Bound<'py, PyAny>,
        payloads: Option<&Bound<'py, PyAny>>,
        atomic: bool,
        durability: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Commit> {
        let py = slf.py();
        let durability = durability.map(self::durability).transpose()?;
        let (store, collection) = Collection::parts(slf);
        let rows = Rows::new(&collection.schema(), keys, vectors, payloads)?;
        let rows = rows.lend()?;
        let limits = if atomic { (usize::MAX, usize::MAX) } else { (CHUNK_ROWS, CHUNK_BYTES) };
        let mut total = None;
        let mut next = 0;
        loop {
            let (commit, until) = py
                .detach(|| {
                    let mut batch = store.batch();
                    if let Some(durability) = durability {
                        batch = batch.durability(durability);
                    }
                    let until = rows.add(&mut batch, &collection, next, limits)?;
                    Ok((batch.commit()?, until))
                })
                .or_raise(py)?;
            add(&mut total, commit);
            next = until;
            if next >= rows.len() {
                break;
            }
            py.check_signals()?;
        }
        Ok(Commit::new(total.expect("the loop commits at least once")))
    }

    /// Loads many rows at once, past the log: faster than writing them and waiting until they are sealed, and all of
    /// them become visible and durable together, or none. Can be interrupted, and has done nothing then, unless it was as good as
    /// done: the last step may still be carried out behind.
    ///
    /// Args:
    ///     keys: As in ``upsert``. No key may come twice.
    ///     vectors: A matrix of shape ``(n, dim)``.
    ///     payloads: As in ``upsert``.
    ///     on_collision: What becomes of rows whose keys are there when the load finishes: ``"replace"`` what is there,
    ///         ``"keep"`` what is there, or ``"refuse"`` the whole load.
    ///     threads: To link rows with; all cores when not told.
    ///     progress: Called with (phase, done, total); returning ``False`` cancels, and ``Cancelled`` is raised.
    ///
    /// Raises:
    ///     InvalidArgument: As in ``upsert``, and for a key that comes twice; names it.
    ///     AlreadyExists: A key is there, and ``"refuse"`` was asked for.
    ///     Cancelled, DiskFull, ReadOnly, Closed: Nothing is loaded. Io, Poisoned: see ``outcome``.
    #[pyo3(signature = (keys, vectors, payloads=None, *, on_collision="replace", threads=None, progress=None))]
    fn bulk_load<'py>(
        slf: &Bound<'py, Self>,
        keys: &Bound<'py, PyAny>,
        vectors: &Bound<'py, PyAny>,
        payloads: Option<&Bound<'py, PyAny>>,
        on_collision: &str,
        threads: Option<&Bound<'py, PyAny>>,
        progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<BulkLoaded> {
        let py = slf.py();
        let policy = load::policy(py, on_collision)?;
        let threads = some_count("threads", threads, 1)?.map(|threads| threads.min(THREADS_MAX));
        let collection = Collection::engine(slf);
        let rows = HeldRows::new(Rows::new(&collection.schema(), keys, vectors, payloads)?)?;
        let loaded = long::run(py, progress, move |step| {
            let mut load = collection.bulk_load()?.on_collision(policy).progress(step);
            if let Some(threads) = threads {
                load = load.threads(threads);
            }
            rows.each(|key, vector, payload| load.push(key, vector, payload))?;
            load.finish()
        });
        loaded.map(BulkLoaded::new)
    }

    /// Makes the rows of files that ``build_segments`` has made part of the collection, without linking one: all of them
    /// become visible and durable together, or none. Can be interrupted, and has done nothing then, unless it was as good as done: the
    /// last step may still be carried out behind.
    ///
    /// Args:
    ///     files: A path, or several. Each file is read whole and checked before.
    ///     on_collision: As in ``bulk_load``.
    ///     take: ``"copy"`` the files; ``"link"`` them where the file system can (whoever changes them later damages the
    ///         store); or ``"move"`` them, which links them and removes the old names when the rows are there.
    ///     progress: Called with (phase, done, total); returning ``False`` cancels, and ``Cancelled`` is raised.
    ///
    /// Raises:
    ///     InvalidArgument: No file, one given twice, of another schema, of a build that was not finished, or out of a
    ///         store; a key in two files.
    ///     AlreadyExists: A file is part of the store already, or a key is there, and ``"refuse"`` was asked for.
    ///     Corruption, NotFound, UnsupportedVersion: Of a file, which is named; nothing is attached.
    ///     Cancelled, DiskFull, ReadOnly, Closed: Nothing is attached. Io, Poisoned: see ``outcome``.
    #[pyo3(signature = (files, *, on_collision="replace", take="copy", progress=None))]
    fn attach(
        slf: &Bound<'_, Self>,
        files: &Bound<'_, PyAny>,
        on_collision: &str,
        take: &str,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<BulkLoaded> {
        let py = slf.py();
        let options =
            AttachOptions::new().on_collision(load::policy(py, on_collision)?).take(build::take(py, take)?);
        let (collection, files) = (Collection::engine(slf), build::files(files)?);
        let attached = long::run(py, progress, move |step| collection.attach_with(&files, options, step));
        attached.map(BulkLoaded::new)
    }

    /// Removes the rows under one key or several; returns how many there were.
    ///
    /// Many keys are deleted in several batches unless ``atomic``.
    #[pyo3(signature = (keys, *, atomic=false, durability=None))]
    fn delete(
        slf: &Bound<'_, Self>,
        keys: &Bound<'_, PyAny>,
        atomic: bool,
        durability: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<u64> {
        let py = slf.py();
        let durability = durability.map(self::durability).transpose()?;
        let (store, collection) = Collection::parts(slf);
        let keys = match self::keys(keys)? {
            Keys::One(key) => {
                collection.schema().check_key(&key).or_raise(py)?;
                vec![key]
            }
            Keys::Many(keys) => {
                check_keys(py, &collection.schema(), &keys)?;
                keys
            }
        };
        let bytes_max = if atomic { usize::MAX } else { CHUNK_BYTES };
        let mut deleted = 0;
        let mut left: &[Key] = &keys;
        loop {
            let (count, rest) = py
                .detach(|| -> nearstone::Result<_> {
                    let mut batch = store.batch();
                    if let Some(durability) = durability {
                        batch = batch.durability(durability);
                    }
                    let mut rest = left;
                    while let Some((key, others)) = rest.split_first()
                        && (batch.is_empty() || batch.byte_len() < bytes_max)
                    {
                        batch.delete(&collection, key)?;
                        rest = others;
                    }
                    Ok((batch.commit()?.deleted, rest))
                })
                .or_raise(py)?;
            deleted += count;
            left = rest;
            if left.is_empty() {
                return Ok(deleted);
            }
            py.check_signals()?;
        }
    }

    /// The collection as a snapshot sees it, also after it was dropped.
    ///
    /// Raises:
    ///     InvalidArgument: A snapshot of another store.
    ///     NotFound: The collection is younger than the snapshot.
    fn at<'py>(slf: &Bound<'py, Self>, snapshot: &Snapshot) -> PyResult<Bound<'py, CollectionAt>> {
        let py = slf.py();
        let (store, collection) = Collection::parts(slf);
        store.check_open().or_raise(py)?;
        let at = collection.at(&snapshot.held(py)?).or_raise(py)?;
        let base = Readable::new(slf.as_super().get().store(py), Source::At(store, at));
        Bound::new(py, PyClassInitializer::from(base).add_subclass(CollectionAt))
    }

    /// Puts every row that is not in the graph yet into it, now, on so many threads (all cores when not told).
    /// Searches are right without it, and scan such rows. Interrupted, it goes on behind.
    #[pyo3(signature = (threads=None))]
    fn link(slf: &Bound<'_, Self>, threads: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let threads =
            some_count("threads", threads, 1)?.unwrap_or_else(crate::search::cores).min(THREADS_MAX);
        let collection = Collection::engine(slf);
        long::run(slf.py(), None, move |_| collection.link(threads))
    }

    /// Seals what is in memory, now. Interrupted, it goes on behind.
    fn flush(slf: &Bound<'_, Self>) -> PyResult<()> {
        let collection = Collection::engine(slf);
        long::run(slf.py(), None, move |_| collection.flush())
    }

    /// Merges the sealed segments into one without dead rows, after sealing what is in memory. Can be interrupted.
    ///
    /// Args:
    ///     progress: Called with (phase, done, total); returning ``False`` cancels, and ``Cancelled`` is raised.
    #[pyo3(signature = (progress=None))]
    fn compact(slf: &Bound<'_, Self>, progress: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let collection = Collection::engine(slf);
        long::run(slf.py(), progress, move |step| collection.compact_with(step))
    }

    /// Builds all segments anew, by other parameters or by the same ones, while reads and writes go on. Everything changes
    /// at one moment. Can be interrupted, and has done nothing then.
    ///
    /// Args:
    ///     m: Links a row makes on the upper layers of the graph; as now when not told.
    ///     ef_construction: Width of the beam while a row is linked; as now when not told.
    ///     profile: What sealed segments are made for, ``"auto"``, ``"speed"`` or ``"memory"``; as now when not told.
    ///     codes: The codes of sealed segments, by a name of ``create_collection``; as now when not told.
    ///     progress: Called with (phase, done, total); returning ``False`` cancels, and ``Cancelled`` is raised.
    ///
    /// Raises:
    ///     InvalidArgument: A parameter out of its range, or a profile or codes that there are not.
    ///     Cancelled, DiskFull, Corruption, ReadOnly, Closed: Nothing has changed.
    #[pyo3(signature = (*, m=None, ef_construction=None, profile=None, codes=None, progress=None))]
    fn rebuild(
        slf: &Bound<'_, Self>,
        m: Option<&Bound<'_, PyAny>>,
        ef_construction: Option<&Bound<'_, PyAny>>,
        profile: Option<&str>,
        codes: Option<&str>,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let mut options = RebuildOptions::new();
        if let Some(m) = some_count("m", m, 0)? {
            options = options.m(m);
        }
        if let Some(ef) = some_count("ef_construction", ef_construction, 0)? {
            options = options.ef_construction(ef);
        }
        if let Some(profile) = profile {
            options = options.profile(Profile::from_name(profile).or_raise(slf.py())?);
        }
        if let Some(codes) = codes {
            options = options.codes(Codes::from_name(codes).or_raise(slf.py())?);
        }
        let collection = Collection::engine(slf);
        long::run(slf.py(), progress, move |step| collection.rebuild_with(options, step))
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let collection = Collection::engine(slf);
        let schema = collection.schema();
        let name = collection.name().unwrap_or_else(|error: Error| format!("<{error}>"));
        let (dim, metric, keys) = (schema.dimension(), schema.metric().name(), schema.key_type().name());
        format!("Collection({name:?}, dim={dim}, metric={metric:?}, keys={keys:?})")
    }
}

#[pymethods]
impl CollectionAt {
    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        match slf.as_super().get().source() {
            Source::At(_, at) => Ok(format!("{at:?}")),
            Source::Live(..) => Err(raised(slf.py(), &Error::invalid("a live collection"))),
        }
    }
}
