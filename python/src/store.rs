//! The store handle.

use crate::arguments::{count, durability, key_type, metric, path};
use crate::batch::Batch;
use crate::collection::Collection;
use crate::errors::OrRaise;
use crate::long::{self, Released};
use crate::pause::BackgroundPause;
use crate::snapshot::Snapshot;
use nearstone::{Codes, CollectionStats, Held, Profile, Schema, StoreStats};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use std::sync::atomic::{AtomicBool, Ordering};

/// An open store: one folder, one process that writes.
///
/// Works from any thread, and as a context manager that closes it. When the last handle (of the store, its collections
/// and batches) is gone, the store is closed as well; so is one that is left open when the program ends.
#[pyclass(frozen, weakref, module = "nearstone")]
pub(crate) struct Store {
    inner: Released<nearstone::Store>,
    closed: AtomicBool,
}

impl Store {
    /// A handle that is closed when the program ends.
    pub(crate) fn watched(py: Python<'_>, store: nearstone::Store) -> PyResult<Bound<'_, Store>> {
        let store = Bound::new(py, Store { inner: Released::new(store), closed: AtomicBool::new(false) })?;
        py.import("nearstone._exit")?.getattr("watch")?.call1((&store,))?;
        Ok(store)
    }

    pub(crate) fn engine(&self) -> &nearstone::Store {
        &self.inner
    }

    fn schema(
        py: Python<'_>,
        dim: &Bound<'_, PyAny>,
        metric: &str,
        keys: Option<&Bound<'_, PyAny>>,
        (m, ef_construction): (&Bound<'_, PyAny>, &Bound<'_, PyAny>),
        (profile, codes): (&str, &str),
    ) -> PyResult<Schema> {
        let mut schema = Schema::new(count("dim", dim, 0)?, self::metric(py, metric)?)
            .m(count("m", m, 0)?)
            .ef_construction(count("ef_construction", ef_construction, 0)?)
            .profile(Profile::from_name(profile).or_raise(py)?)
            .codes(Codes::from_name(codes).or_raise(py)?);
        if let Some(keys) = keys {
            schema = schema.keys(key_type(keys)?);
        }
        Ok(schema)
    }
}

#[pymethods]
impl Store {
    /// The folder.
    #[getter]
    fn path(&self) -> String {
        self.inner.path().display().to_string()
    }

    /// The store's identity.
    #[getter]
    fn uuid(&self) -> String {
        self.inner.uuid().to_string()
    }

    /// Whether it was closed through this handle.
    #[getter]
    fn closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// What the opening found in the log: ``files`` read, ``batches`` replayed, ``rewritten`` ones, ``torn_bytes`` cut
    /// from its end, and ``stopped_at``, the damage at which a point-in-time recovery stopped.
    #[getter]
    fn recovery<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let report = self.inner.recovery();
        let dict = PyDict::new(py);
        dict.set_item("files", report.files)?;
        dict.set_item("batches", report.batches)?;
        dict.set_item("rewritten", report.rewritten)?;
        dict.set_item("torn_bytes", report.torn_bytes)?;
        dict.set_item("stopped_at", &report.stopped_at)?;
        Ok(dict)
    }

    /// Makes a collection of vectors of ``dim`` numbers.
    ///
    /// Args:
    ///     name: 1 to 255 bytes, no control characters.
    ///     dim: 1 to 65,536.
    ///     metric: ``"cosine"`` (1 - cos), ``"l2"`` (squared Euclidean) or ``"ip"`` (negated inner product).
    ///     keys: ``"u64"`` or ``int``, ``"str"`` or ``str``.
    ///     m: Links a row makes on the upper layers of the graph, 4 to 64; twice as many on the ground layer.
    ///     ef_construction: Width of the beam while a row is linked.
    ///     profile: What sealed segments are made for: ``"auto"``, ``"speed"``, or ``"memory"`` (searches touch one byte per
    ///         number, the links and the key of each row, and read the vectors of the few they measure exactly).
    ///     codes: What searches with filters and those of lean collections measure on: ``"sq8"`` (one byte per number),
    ///         ``"sq4"`` (half a byte), ``"rabitq8"``, ``"rabitq4"``, ``"rabitq2"`` or ``"rabitq1"`` (eight, four, two bits,
    ///         one bit), ``"pq4"``, ``"pq8"`` or ``"pq16"`` (product quantization: four, eight, 16 numbers a byte).
    ///
    /// Raises:
    ///     AlreadyExists: There is one of that name.
    ///     InvalidArgument: A bad name or schema.
    #[pyo3(
        signature = (name, dim, *, metric="cosine", keys=None, m=None, ef_construction=None, profile="auto", codes="sq8"),
        text_signature = "($self, name, dim, *, metric='cosine', keys='u64', m=16, ef_construction=200, profile='auto', codes='sq8')"
    )]
    #[expect(clippy::too_many_arguments, reason = "they are keywords for the caller")]
    fn create_collection<'py>(
        slf: &Bound<'py, Self>,
        py: Python<'py>,
        name: &str,
        dim: &Bound<'py, PyAny>,
        metric: &str,
        keys: Option<&Bound<'py, PyAny>>,
        m: Option<&Bound<'py, PyAny>>,
        ef_construction: Option<&Bound<'py, PyAny>>,
        profile: &str,
        codes: &str,
    ) -> PyResult<Bound<'py, Collection>> {
        let (m, ef) = defaults(py, m, ef_construction)?;
        let schema = Store::schema(py, dim, metric, keys, (&m, &ef), (profile, codes))?;
        let store = slf.get();
        let made = py.detach(|| store.inner.create_collection(name, schema)).or_raise(py)?;
        Collection::handle(slf, made)
    }

    /// The collection of that name, made if it is not there; see ``create_collection``.
    ///
    /// Raises:
    ///     AlreadyExists: It is there with another schema.
    ///     InvalidArgument: A bad name or schema.
    #[pyo3(
        signature = (name, dim, *, metric="cosine", keys=None, m=None, ef_construction=None, profile="auto", codes="sq8"),
        text_signature = "($self, name, dim, *, metric='cosine', keys='u64', m=16, ef_construction=200, profile='auto', codes='sq8')"
    )]
    #[expect(clippy::too_many_arguments, reason = "they are keywords for the caller")]
    fn collection_or_create<'py>(
        slf: &Bound<'py, Self>,
        py: Python<'py>,
        name: &str,
        dim: &Bound<'py, PyAny>,
        metric: &str,
        keys: Option<&Bound<'py, PyAny>>,
        m: Option<&Bound<'py, PyAny>>,
        ef_construction: Option<&Bound<'py, PyAny>>,
        profile: &str,
        codes: &str,
    ) -> PyResult<Bound<'py, Collection>> {
        let (m, ef) = defaults(py, m, ef_construction)?;
        let schema = Store::schema(py, dim, metric, keys, (&m, &ef), (profile, codes))?;
        let store = slf.get();
        let found = py.detach(|| store.inner.collection_or_create(name, schema)).or_raise(py)?;
        Collection::handle(slf, found)
    }

    /// The collection of that name; ``NotFound`` when there is none.
    fn collection<'py>(slf: &Bound<'py, Self>, name: &str) -> PyResult<Bound<'py, Collection>> {
        let found = slf.get().inner.collection(name).or_raise(slf.py())?;
        Collection::handle(slf, found)
    }

    /// The names of all collections, sorted.
    fn collections(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.inner.collections().or_raise(py)
    }

    /// Gives a collection another name; handles go on working.
    fn rename_collection(&self, py: Python<'_>, old: &str, new: &str) -> PyResult<()> {
        py.detach(|| self.inner.rename_collection(old, new)).or_raise(py)
    }

    /// Removes a collection and its rows; snapshots go on seeing it.
    fn drop_collection(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        py.detach(|| self.inner.drop_collection(name)).or_raise(py)
    }

    /// Starts a batch: operations over any collections that become durable and visible together.
    #[pyo3(signature = (*, durability=None))]
    fn batch(slf: &Bound<'_, Self>, durability: Option<&Bound<'_, PyAny>>) -> PyResult<Batch> {
        let durability = durability.map(self::durability).transpose()?;
        Ok(Batch::new(slf, durability))
    }

    /// What is visible now, for as long as it is held.
    fn snapshot(&self, py: Python<'_>) -> PyResult<Snapshot> {
        // A closed store, or one of the parent process, says so here already.
        self.inner.check_open().or_raise(py)?;
        Ok(Snapshot::new(self.inner.snapshot()))
    }

    /// Makes everything acknowledged so far survive a power loss; returns the lsn up to which that holds.
    fn persist(&self, py: Python<'_>) -> PyResult<u64> {
        py.detach(|| self.inner.persist()).or_raise(py)
    }

    /// Seals what is in memory, in all collections, now. Interrupted, it goes on behind.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        let store = self.inner.clone();
        long::run(py, None, move |_| store.flush())
    }

    /// Merges each collection's sealed segments into one without dead rows. Can be interrupted.
    ///
    /// Args:
    ///     progress: Called with (phase, done, total); returning ``False`` cancels, and ``Cancelled`` is raised.
    #[pyo3(signature = (progress=None))]
    fn compact(&self, py: Python<'_>, progress: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let store = self.inner.clone();
        long::run(py, progress, move |step| store.compact_with(step))
    }

    /// Parks the work behind (linking, seals, compactions) until what this returns is resumed or gone; use it in ``with``.
    /// Calls do what they say all the same, and a writer who needs memory gets it.
    fn pause_background(&self, py: Python<'_>) -> PyResult<BackgroundPause> {
        self.inner.check_open().or_raise(py)?;
        Ok(BackgroundPause::new(self.inner.pause_background()))
    }

    /// Makes the work behind give up what is under way; it begins anew a moment later, if nobody has paused it.
    fn cancel_background(&self, py: Python<'_>) -> PyResult<()> {
        self.inner.check_open().or_raise(py)?;
        self.inner.cancel_background();
        Ok(())
    }

    /// Does one piece of the work behind on this thread; whether there was any. For ``background="manual"``.
    fn step(&self, py: Python<'_>) -> PyResult<bool> {
        py.detach(|| self.inner.step()).or_raise(py)
    }

    /// Numbers about the store: rows, bytes by section, memory, log, work behind.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = py.detach(|| self.inner.stats()).or_raise(py)?;
        stats_dict(py, &stats)
    }

    /// Reads everything and checks it; returns what was verified, raises ``Corruption`` with the first damage found.
    ///
    /// Args:
    ///     progress: As for ``compact``.
    #[pyo3(signature = (progress=None))]
    fn verify<'py>(
        &self,
        py: Python<'py>,
        progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let store = self.inner.clone();
        let report = long::run(py, progress, move |step| store.verify_with(step))?;
        let dict = PyDict::new(py);
        dict.set_item("collections", report.collections)?;
        dict.set_item("segments", report.segments)?;
        dict.set_item("rows", report.rows)?;
        dict.set_item("segment_bytes", report.segment_bytes)?;
        dict.set_item("log_batches", report.log_batches)?;
        Ok(dict)
    }

    /// Copies the store, as of now, into a missing or empty folder, while writes go on; returns the lsn of the copy.
    ///
    /// Args:
    ///     into: The folder.
    ///     progress: As for ``compact``.
    #[pyo3(signature = (into, progress=None))]
    fn backup(
        &self,
        py: Python<'_>,
        into: &Bound<'_, PyAny>,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<u64> {
        let (store, into) = (self.inner.clone(), path(into)?);
        long::run(py, progress, move |step| store.backup_with(into, step))
    }

    /// Ends it: stops the work behind, syncs the log and releases the lock. All other handles raise ``Closed`` from now
    /// on. Closing twice is not an error.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.closed.store(true, Ordering::Release);
        py.detach(|| self.inner.close()).or_raise(py)
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().inner.check_open().or_raise(slf.py())?;
        Ok(slf)
    }

    #[pyo3(signature = (kind, error, trace))]
    fn __exit__(
        &self,
        py: Python<'_>,
        kind: Option<&Bound<'_, PyAny>>,
        error: Option<&Bound<'_, PyAny>>,
        trace: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let _ = (kind, error, trace);
        self.close(py)
    }

    fn __repr__(&self) -> String {
        let state = if self.closed() { ", closed" } else { "" };
        format!("Store({:?}{state})", self.path())
    }
}

type Numbers<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>);

fn defaults<'py>(
    py: Python<'py>,
    m: Option<&Bound<'py, PyAny>>,
    ef: Option<&Bound<'py, PyAny>>,
) -> PyResult<Numbers<'py>> {
    let or = |value: Option<&Bound<'py, PyAny>>, default: usize| -> PyResult<Bound<'py, PyAny>> {
        Ok(match value {
            Some(value) => value.clone(),
            None => default.into_pyobject(py)?.into_any(),
        })
    };
    let schema = Schema::new(1, nearstone::Metric::L2);
    Ok((or(m, schema.links())?, or(ef, schema.beam())?))
}

fn stats_dict<'py>(py: Python<'py>, stats: &StoreStats) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("uuid", stats.uuid.to_string())?;
    dict.set_item("lsn", stats.lsn)?;
    let collections = PyDict::new(py);
    for collection in &stats.collections {
        collections.set_item(&collection.name, collection_dict(py, collection)?)?;
    }
    dict.set_item("collections", collections)?;
    dict.set_item("memory_bytes", stats.memory_bytes)?;
    dict.set_item("memory_budget", stats.memory_budget)?;
    dict.set_item("held", held_dict(py, stats.held)?)?;
    dict.set_item("wal_bytes", stats.wal_bytes)?;
    dict.set_item("catalog_bytes", stats.catalog_bytes)?;
    dict.set_item("disk_bytes", stats.disk_bytes)?;
    let log = stats.log.as_ref().map(|log| -> PyResult<_> {
        let dict = PyDict::new(py);
        dict.set_item("commits", log.commits)?;
        dict.set_item("groups", log.groups)?;
        dict.set_item("syncs", log.syncs)?;
        dict.set_item("bytes", log.bytes)?;
        Ok(dict)
    });
    dict.set_item("log", log.transpose()?)?;
    dict.set_item("seals", stats.seals)?;
    dict.set_item("compactions", stats.compactions)?;
    dict.set_item("rebuilds", stats.rebuilds)?;
    dict.set_item("compacted_rows", stats.compacted_rows)?;
    dict.set_item("write_stalls", stats.write_stalls)?;
    dict.set_item("write_rest_ms", stats.write_rest_ms)?;
    dict.set_item("background_paused", stats.background_paused)?;
    dict.set_item("last_error", &stats.last_error)?;
    Ok(dict)
}

/// Bytes by where they are.
fn held_dict<'py>(py: Python<'py>, held: Held) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("mapped", held.mapped)?;
    dict.set_item("warmed", held.warmed)?;
    dict.set_item("pinned", held.pinned)?;
    dict.set_item("heap", held.heap)?;
    dict.set_item("read", held.read)?;
    Ok(dict)
}

fn collection_dict<'py>(py: Python<'py>, stats: &CollectionStats) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("dim", stats.schema.dimension())?;
    dict.set_item("metric", stats.schema.metric().name())?;
    dict.set_item("keys", stats.schema.key_type().name())?;
    dict.set_item("m", stats.schema.links())?;
    dict.set_item("ef_construction", stats.schema.beam())?;
    dict.set_item("profile", stats.schema.chosen_profile().name())?;
    dict.set_item("codes", stats.schema.chosen_codes().name())?;
    dict.set_item("rows", stats.rows)?;
    dict.set_item("dead_rows", stats.dead_rows)?;
    dict.set_item("unsealed_rows", stats.unsealed_rows)?;
    dict.set_item("unlinked_rows", stats.unlinked_rows)?;
    dict.set_item("compaction_debt", stats.compaction_debt)?;
    let segments = PyList::empty(py);
    for segment in &stats.segments {
        let dict = PyDict::new(py);
        dict.set_item("id", segment.id)?;
        dict.set_item("rows", segment.rows)?;
        dict.set_item("dead_rows", segment.dead_rows)?;
        dict.set_item("bytes", segment.bytes)?;
        dict.set_item("profile", segment.profile.name())?;
        dict.set_item("codes", segment.codes.name())?;
        dict.set_item("held", held_dict(py, segment.held)?)?;
        let sections = PyDict::new(py);
        for (name, bytes) in &segment.sections {
            sections.set_item(name, bytes)?;
        }
        dict.set_item("sections", sections)?;
        segments.append(dict)?;
    }
    dict.set_item("segments", segments)?;
    Ok(dict)
}
