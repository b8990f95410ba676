//! Writing: rows as Python gives them, checked whole before anything is written, and batches of them.

use crate::arguments::{Keys, check_keys, keys};
use crate::collection::Collection;
use crate::errors::{OrRaise, invalid, worded};
use crate::long::Released;
use crate::payload::{self, Payload};
use crate::store::Store;
use crate::vectors::Vectors;
use nearstone::{Applied, Durability, Error, ErrorKind, Key, Schema};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyFrozenSet, PyMapping, PySet, PyString};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Rows to be written: keys, vectors and payloads that fit together and the schema.
pub(crate) struct Rows<'py> {
    schema: Schema,
    keys: Vec<Key>,
    vectors: Vectors<'py>,
    /// As many as keys, or none.
    payloads: Vec<Payload>,
}

/// What [`Rows`] lends to code that runs with the interpreter released.
#[derive(Clone, Copy)]
pub(crate) struct RowsRef<'a> {
    keys: &'a [Key],
    numbers: &'a [f32],
    dimension: usize,
    payloads: &'a [Payload],
}

impl<'py> Rows<'py> {
    /// Takes one row (a key, a vector, a mapping) or several (keys, a matrix, mappings), and checks every one.
    pub(crate) fn new(
        schema: &Schema,
        keys: &Bound<'py, PyAny>,
        vectors: &Bound<'py, PyAny>,
        payloads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Rows<'py>> {
        Rows::of(keys, vectors, payloads, |_, _| Ok(*schema))
    }

    /// As [`Rows::new`], of the schema that is made for vectors of this dimension and the first key, if there is one.
    pub(crate) fn of(
        keys: &Bound<'py, PyAny>,
        vectors: &Bound<'py, PyAny>,
        payloads: Option<&Bound<'py, PyAny>>,
        schema: impl FnOnce(usize, Option<&Key>) -> PyResult<Schema>,
    ) -> PyResult<Rows<'py>> {
        let py = keys.py();
        if keys.is_instance_of::<PySet>() || keys.is_instance_of::<PyFrozenSet>() {
            return Err(PyTypeError::new_err("the keys are a set: it has no order for rows to follow"));
        }
        let keys = self::keys(keys)?;
        let (keys, one) = match keys {
            Keys::One(key) => (vec![key], true),
            Keys::Many(keys) => (keys, false),
        };
        let vectors = Vectors::new(if one { "the vector" } else { "the vectors" }, vectors)?;
        let schema = schema(vectors.shape().1, keys.first())?;
        let vectors = empty_matrix(py, vectors, keys.len(), schema.dimension())?;
        let (rows, dimension) = vectors.shape();
        match (&vectors, one) {
            (Vectors::One(_), true) => {}
            (Vectors::Many(_), true) => {
                let text = format!("one key and a matrix of {rows} x {dimension}: one key needs a vector");
                return Err(invalid(py, text));
            }
            (Vectors::One(_), false) => {
                let text = format!("{} keys and one vector of {dimension}: keys need a matrix", keys.len());
                return Err(invalid(py, text));
            }
            (Vectors::Many(_), false) if rows != keys.len() => {
                return Err(invalid(
                    py,
                    format!("{} keys and {rows} vectors: as many are needed", keys.len()),
                ));
            }
            (Vectors::Many(_), false) => {}
        }
        let numbers = vectors.numbers()?;
        py.detach(|| {
            for (row, (key, vector)) in keys.iter().zip(numbers.chunks(dimension.max(1))).enumerate() {
                let checked = schema.check_key(key).and_then(|()| schema.check_vector(vector));
                checked.map_err(|error| if one { error } else { error.context(format!("row {row}")) })?;
            }
            Ok(())
        })
        .or_raise(py)?;
        if one && dimension == 0 {
            schema.check_vector(&[]).or_raise(py)?;
        }
        let payloads = match payloads {
            None => Vec::new(),
            Some(given) if given.is_none() => Vec::new(),
            Some(given) if one => vec![payload::encode(given)?],
            Some(given) => many_payloads(given, keys.len())?,
        };
        Ok(Rows { schema, keys, vectors, payloads })
    }

    /// The schema that all rows fit.
    pub(crate) fn schema(&self) -> Schema {
        self.schema
    }

    /// Keys, vectors and payloads: as many payloads as keys, or none.
    pub(crate) fn into_parts(self) -> (Vec<Key>, Vectors<'py>, Vec<Payload>) {
        (self.keys, self.vectors, self.payloads)
    }

    pub(crate) fn lend(&self) -> PyResult<RowsRef<'_>> {
        let dimension = self.vectors.shape().1;
        Ok(RowsRef {
            keys: &self.keys,
            numbers: self.vectors.numbers()?,
            dimension,
            payloads: &self.payloads,
        })
    }
}

/// No keys and an array of nothing, `[]` for example: a matrix without rows.
fn empty_matrix<'py>(
    py: Python<'py>,
    vectors: Vectors<'py>,
    keys: usize,
    dimension: usize,
) -> PyResult<Vectors<'py>> {
    if keys == 0 && vectors.numbers()?.is_empty() {
        use numpy::PyArrayMethods;
        return Ok(Vectors::Many(numpy::PyArray2::<f32>::zeros(py, [0, dimension], false).readonly()));
    }
    Ok(vectors)
}

fn many_payloads(given: &Bound<'_, PyAny>, rows: usize) -> PyResult<Vec<Payload>> {
    let py = given.py();
    let single = given.is_instance_of::<PyDict>() || given.cast::<PyMapping>().is_ok();
    if single || given.is_instance_of::<PyString>() || given.is_instance_of::<PyBytes>() {
        let text = format!("one payload for {rows} rows: give a sequence of as many, with None for none");
        return Err(if single { invalid(py, text) } else { PyTypeError::new_err(text) });
    }
    let mut payloads = Vec::with_capacity(rows);
    for item in given.try_iter()? {
        if payloads.len() == rows {
            // An iterator may have no end.
            let count = given.len().map_or_else(|_| "more".to_owned(), |count| count.to_string());
            return Err(invalid(py, format!("{rows} rows and {count} payloads: as many are needed")));
        }
        let row = format!("row {}", payloads.len());
        payloads.push(payload::encode(&item?).map_err(|error| worded(py, error, &row))?);
    }
    if payloads.len() != rows {
        return Err(invalid(py, format!("{rows} rows and {} payloads: as many are needed", payloads.len())));
    }
    Ok(payloads)
}

impl RowsRef<'_> {
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Adds rows from `from` on until there are `rows_max` or the batch has `bytes_max` bytes; gives the first that was
    /// not added.
    pub(crate) fn add(
        &self,
        batch: &mut nearstone::Batch,
        collection: &nearstone::Collection,
        from: usize,
        (rows_max, bytes_max): (usize, usize),
    ) -> nearstone::Result<usize> {
        let mut row = from;
        let end = self.keys.len().min(from.saturating_add(rows_max));
        while row < end && (row == from || batch.byte_len() < bytes_max) {
            let vector = &self.numbers[row * self.dimension..(row + 1) * self.dimension];
            let payload = self.payloads.get(row).and_then(Option::as_ref);
            batch.upsert(collection, &self.keys[row], vector, payload)?;
            row += 1;
        }
        Ok(row)
    }
}

/// What a write did.
#[pyclass(frozen, module = "nearstone")]
pub(crate) struct Commit {
    commit: nearstone::Commit,
}

impl Commit {
    pub(crate) fn new(commit: nearstone::Commit) -> Commit {
        Commit { commit }
    }
}

#[pymethods]
impl Commit {
    /// The log sequence number of the (last) batch, which is the version of the rows it wrote.
    #[getter]
    fn lsn(&self) -> u64 {
        self.commit.lsn
    }

    /// Rows written.
    #[getter]
    fn upserted(&self) -> u64 {
        self.commit.upserted
    }

    /// Rows deleted; keys that were not there do not count.
    #[getter]
    fn deleted(&self) -> u64 {
        self.commit.deleted
    }

    /// What each operation did, in their order: "inserted", "replaced", "deleted", "missing", or "superseded" by a
    /// later one on the same key. Empty when several batches are summed up.
    #[getter]
    fn results(&self) -> Vec<&'static str> {
        let name = |applied: &Applied| match applied {
            Applied::Inserted => "inserted",
            Applied::Replaced => "replaced",
            Applied::Deleted => "deleted",
            Applied::Missing => "missing",
            Applied::Superseded => "superseded",
        };
        self.commit.results.iter().map(name).collect()
    }

    fn __repr__(&self) -> String {
        let nearstone::Commit { lsn, upserted, deleted, .. } = &self.commit;
        format!("Commit(lsn={lsn}, upserted={upserted}, deleted={deleted})")
    }
}

/// Operations over any collections of one store that become durable and visible together, or not at all.
///
/// As a context manager it commits at the end, and discards everything when the block raises. In one batch the last
/// operation on a key wins. A batch holds at most 64 MiB.
#[pyclass(frozen, module = "nearstone")]
pub(crate) struct Batch {
    /// Keeps the store watched, so that it is closed when the program ends.
    _store: Py<Store>,
    batch: Mutex<Option<Released<nearstone::Batch>>>,
}

/// Calls of several threads on one batch come one after the other.
type Held<'a> = MutexGuard<'a, Option<Released<nearstone::Batch>>>;

impl Batch {
    pub(crate) fn new(store: &Bound<'_, Store>, durability: Option<Durability>) -> Batch {
        let mut batch = store.get().engine().batch();
        if let Some(durability) = durability {
            batch = batch.durability(durability);
        }
        Batch { _store: store.clone().unbind(), batch: Mutex::new(Some(Released::new(batch))) }
    }

    fn held(&self) -> Held<'_> {
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds operations; when one fails, none stays.
    fn add(
        &self,
        py: Python<'_>,
        operations: impl FnOnce(&mut nearstone::Batch) -> nearstone::Result<()> + Send,
    ) -> PyResult<()> {
        py.detach(|| {
            let mut held = self.held();
            let batch = match &mut *held {
                Some(batch) => batch.get_mut(),
                None => return Err(over()),
            };
            let before = batch.len();
            operations(batch).inspect_err(|_| batch.truncate(before))
        })
        .or_raise(py)
    }
}

fn over() -> Error {
    Error::new(ErrorKind::Closed, "the batch was committed or discarded")
}

#[pymethods]
impl Batch {
    /// Adds rows: one (a key, a vector, a dict) or several (keys, a matrix of shape ``(n, dim)``, dicts).
    ///
    /// Raises:
    ///     InvalidArgument: A row that the collection refuses, a collection of another store, or more than 64 MiB in
    ///         all. The batch stays as it was.
    #[pyo3(signature = (collection, keys, vectors, payloads=None))]
    fn upsert<'py>(
        slf: Bound<'py, Self>,
        collection: &Bound<'py, Collection>,
        keys: &Bound<'py, PyAny>,
        vectors: &Bound<'py, PyAny>,
        payloads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Self>> {
        let collection = Collection::engine(collection);
        let rows = Rows::new(&collection.schema(), keys, vectors, payloads)?;
        let rows = rows.lend()?;
        slf.get()
            .add(slf.py(), |batch| rows.add(batch, &collection, 0, (usize::MAX, usize::MAX)).map(|_| ()))?;
        Ok(slf)
    }

    /// Adds deletes of one key or several; keys that are not there are not an error.
    fn delete<'py>(
        slf: Bound<'py, Self>,
        collection: &Bound<'py, Collection>,
        keys: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, Self>> {
        let py = slf.py();
        let collection = Collection::engine(collection);
        let keys = match self::keys(keys)? {
            Keys::One(key) => vec![key],
            Keys::Many(keys) => keys,
        };
        check_keys(py, &collection.schema(), &keys)?;
        slf.get().add(py, |batch| {
            for key in keys {
                batch.delete(&collection, key)?;
            }
            Ok(())
        })?;
        Ok(slf)
    }

    /// Makes it durable, then visible, and returns what it did. The batch is over then.
    fn commit(&self, py: Python<'_>) -> PyResult<Commit> {
        let commit = py.detach(|| {
            let taken = self.held().take();
            taken.and_then(Released::into_inner).ok_or_else(over)?.commit()
        });
        commit.or_raise(py).map(Commit::new)
    }

    /// Encoded bytes so far, an upper bound; the limit is 64 MiB.
    #[getter]
    fn byte_len(&self, py: Python<'_>) -> usize {
        py.detach(|| self.held().as_ref().map_or(0, |batch| batch.byte_len()))
    }

    /// Operations so far.
    fn __len__(&self, py: Python<'_>) -> usize {
        py.detach(|| self.held().as_ref().map_or(0, |batch| batch.len()))
    }

    /// A batch is there, with or without operations.
    fn __bool__(&self) -> bool {
        true
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (kind, error, trace))]
    fn __exit__(
        &self,
        py: Python<'_>,
        kind: Option<&Bound<'_, PyAny>>,
        error: Option<&Bound<'_, PyAny>>,
        trace: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let _ = (error, trace);
        if kind.is_some() {
            let taken = py.detach(|| self.held().take());
            drop(taken);
            return Ok(());
        }
        // Committed inside of the block: nothing is left to do.
        let open = py.detach(|| self.held().is_some());
        if open { self.commit(py).map(|_| ()) } else { Ok(()) }
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("Batch({} operations, {} bytes)", self.__len__(py), self.byte_len(py))
    }
}
