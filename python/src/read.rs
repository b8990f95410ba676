//! Reading, from a live collection or from one at a snapshot.

use crate::arguments::{Keys, count, key, keys, many_keys, some_count, wanted};
use crate::errors::{OrRaise, raised};
use crate::hits::Hits;
use crate::long::Released;
use crate::row::{Row, key_object};
use crate::search::{Filter, Wishes, cores, search_all};
use crate::store::Store;
use crate::vectors::Vectors;
use nearstone::{CollectionAt, Error, ErrorKind, Key, Schema};
use numpy::{PyArray1, PyArrayMethods};
use pyo3::prelude::*;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Hits when the caller sets no number.
const K_DEFAULT: usize = 10;
/// Keys that an iterator reads ahead.
const KEYS_AHEAD: usize = 1024;

/// Where rows are read from.
pub(crate) enum Source {
    /// What is there now.
    Live(nearstone::Store, nearstone::Collection),
    /// What a snapshot sees.
    At(nearstone::Store, CollectionAt),
}

/// What collections and collections at a snapshot have in common.
#[pyclass(frozen, subclass, name = "_Readable", module = "nearstone._nearstone")]
pub(crate) struct Readable {
    /// Keeps the store watched, so that it is closed when the program ends.
    store: Py<Store>,
    source: Released<Source>,
}

impl Readable {
    pub(crate) fn new(store: Py<Store>, source: Source) -> Readable {
        Readable { store, source: Released::new(source) }
    }

    pub(crate) fn store(&self, py: Python<'_>) -> Py<Store> {
        self.store.clone_ref(py)
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    fn schema(&self) -> Schema {
        match &*self.source {
            Source::Live(_, collection) => collection.schema(),
            Source::At(_, at) => *at.schema(),
        }
    }

    /// One moment, for all reads of a call.
    pub(crate) fn moment(&self, py: Python<'_>) -> PyResult<Released<CollectionAt>> {
        // It may be the last that sees a segment, whose file then goes: with the interpreter released.
        match &*self.source {
            Source::Live(_, collection) => collection.now().or_raise(py).map(Released::new),
            Source::At(store, at) => {
                store.check_open().or_raise(py)?;
                Ok(Released::new(at.clone()))
            }
        }
    }
}

fn missing(py: Python<'_>, key: &Key) -> PyErr {
    raised(py, &Error::new(ErrorKind::NotFound, format!("there is no row under the key {key:?}")))
}

#[pymethods]
impl Readable {
    /// Numbers in a vector.
    #[getter]
    fn dim(&self) -> usize {
        self.schema().dimension()
    }

    /// "cosine", "l2" or "ip".
    #[getter]
    fn metric(&self) -> &'static str {
        self.schema().metric().name()
    }

    /// "u64" or "str".
    #[getter]
    fn key_type(&self) -> &'static str {
        self.schema().key_type().name()
    }

    /// Links a row makes on the upper layers of the graph.
    #[getter]
    fn m(&self) -> usize {
        self.schema().links()
    }

    /// What sealed segments are made for: ``"auto"``, ``"speed"`` or ``"memory"``.
    #[getter]
    fn profile(&self) -> &'static str {
        self.schema().chosen_profile().name()
    }

    /// The codes of sealed segments: ``"sq8"``, ``"pq4"`` or another name of ``create_collection``.
    #[getter]
    fn codes(&self) -> &'static str {
        self.schema().chosen_codes().name()
    }

    /// Width of the beam while a row is linked.
    #[getter]
    fn ef_construction(&self) -> usize {
        self.schema().beam()
    }

    /// Live rows.
    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        let at = self.moment(py)?;
        Ok(py.detach(|| at.len()) as usize)
    }

    /// A collection is there, with or without rows.
    fn __bool__(&self) -> bool {
        true
    }

    /// Whether there is a row under the key.
    fn __contains__(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let (at, key) = (self.moment(py)?, self::key(key)?);
        py.detach(|| at.contains(key)).or_raise(py)
    }

    /// The row under a key, or ``None``; for a sequence of keys a list of them, all from one moment.
    fn get<'py>(&self, py: Python<'py>, keys: &Bound<'py, PyAny>) -> PyResult<Py<PyAny>> {
        let at = self.moment(py)?;
        let object = |key: Key, row: Option<nearstone::Row>| -> PyResult<Py<PyAny>> {
            match row {
                Some(row) => Ok(Py::new(py, Row::new(key, row))?.into_any()),
                None => Ok(py.None()),
            }
        };
        match self::keys(keys)? {
            Keys::One(key) => {
                let row = py.detach(|| at.get(&key)).or_raise(py)?;
                object(key, row)
            }
            Keys::Many(keys) => {
                let rows = py.detach(|| at.get_many(&keys)).or_raise(py)?;
                let rows: Vec<_> =
                    keys.into_iter().zip(rows).map(|(key, row)| object(key, row)).collect::<PyResult<_>>()?;
                Ok(rows.into_pyobject(py)?.into_any().unbind())
            }
        }
    }

    /// The vectors under keys, float32 of shape ``(len(keys), dim)``, all from one moment.
    ///
    /// Raises:
    ///     NotFound: One of the keys is not there.
    fn get_vectors<'py>(&self, py: Python<'py>, keys: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let (at, keys) = (self.moment(py)?, many_keys(keys)?);
        let dimension = self.dim();
        let found = py.detach(|| {
            let mut numbers = Vec::new();
            for key in &keys {
                match at.get(key)? {
                    Some(row) => numbers.extend_from_slice(row.vector()),
                    None => return Ok(Err(key)),
                }
            }
            Ok(Ok(numbers))
        });
        match found.or_raise(py)? {
            Ok(numbers) => Ok(PyArray1::from_vec(py, numbers).reshape([keys.len(), dimension])?.into_any()),
            Err(key) => Err(missing(py, key)),
        }
    }

    /// Iterates over the keys in their order, from one moment; with ``after`` over those after that key.
    #[pyo3(signature = (after=None))]
    fn keys(&self, py: Python<'_>, after: Option<&Bound<'_, PyAny>>) -> PyResult<KeyIterator> {
        let (at, after) = (self.moment(py)?, after.map(key).transpose()?);
        let keys = py.detach(|| match after {
            Some(key) => at.keys_after(key),
            None => at.keys(),
        });
        let state = KeyState { keys: Released::new(keys.or_raise(py)?), ahead: VecDeque::new() };
        Ok(KeyIterator { state: Mutex::new(state) })
    }

    /// The ``k`` rows nearest to a query, nearest first, ties by key; for a matrix of queries, to each of them.
    ///
    /// Args:
    ///     query: Shape ``(dim,)``, or ``(n, dim)`` for ``n`` queries that all see the same moment.
    ///     k: Hits wanted (10 unless told). There are fewer only when there are fewer rows (that pass the filter).
    ///     limit: Another word for ``k``.
    ///     ef: Width of the beam (64 unless told): more finds more of the true neighbours and takes longer.
    ///     exact: Compares with every row instead of walking the graph.
    ///     filter: Called with a key; only rows for which it is true are found. Called for every row that a search
    ///         meets, on any of its threads.
    ///     payloads: Whether payloads are read; they are decoded when looked at.
    ///     vectors: Whether vectors are brought along.
    ///     threads: For a matrix: so many, all cores when not told.
    ///
    /// Raises:
    ///     InvalidArgument: A query that the collection refuses, a negative ``k``, an ``ef`` of 0.
    #[pyo3(signature = (query, k=None, *, limit=None, ef=None, exact=false, filter=None, payloads=true, vectors=false,
                        threads=None))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords for the caller")]
    fn search(
        &self,
        py: Python<'_>,
        query: &Bound<'_, PyAny>,
        k: Option<&Bound<'_, PyAny>>,
        limit: Option<&Bound<'_, PyAny>>,
        ef: Option<&Bound<'_, PyAny>>,
        exact: bool,
        filter: Option<&Bound<'_, PyAny>>,
        payloads: bool,
        vectors: bool,
        threads: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Hits> {
        let at = self.moment(py)?;
        let limit = match (wanted("k", k)?, wanted("limit", limit)?) {
            (Some(k), Some(limit)) if k != limit => {
                let text = format!("k is {k} and limit is {limit}: they are two words for one number");
                return Err(crate::errors::invalid(py, text));
            }
            (Some(number), _) | (None, Some(number)) => number,
            (None, None) => K_DEFAULT,
        };
        let wishes =
            Wishes { limit, ef: ef.map(|ef| count("ef", ef, 1)).transpose()?, exact, payloads, vectors };
        let threads = some_count("threads", threads, 1)?;
        let filter = filter.map(Filter::new).transpose()?;
        let queries = Vectors::new("the query", query)?;
        let numbers = queries.numbers()?;
        let schema = *at.schema();
        let hits = match &queries {
            Vectors::One(_) => {
                let found = py.detach(|| wishes.search(&at, numbers, filter.as_ref()));
                Filter::raise(filter.as_ref())?;
                Hits::one(found.or_raise(py)?, schema.key_type(), schema.dimension())
            }
            Vectors::Many(_) => {
                let (rows, dimension) = queries.shape();
                let threads = threads.unwrap_or_else(cores);
                let found =
                    search_all(py, &at, &wishes, numbers, (rows, dimension), filter.as_ref(), threads);
                Filter::raise(filter.as_ref())?;
                Hits::many(found?, schema.key_type(), schema.dimension())
            }
        };
        Ok(hits)
    }
}

struct KeyState {
    keys: Released<nearstone::Keys>,
    ahead: VecDeque<nearstone::Result<Key>>,
}

/// Iterates over keys.
#[pyclass(frozen, module = "nearstone._nearstone")]
pub(crate) struct KeyIterator {
    state: Mutex<KeyState>,
}

#[pymethods]
impl KeyIterator {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let next = py.detach(|| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let KeyState { keys, ahead } = &mut *state;
            if ahead.is_empty() {
                ahead.extend(keys.get_mut().by_ref().take(KEYS_AHEAD));
            }
            ahead.pop_front()
        });
        match next {
            Some(key) => key_object(py, &key.or_raise(py)?).map(Some),
            None => Ok(None),
        }
    }
}
