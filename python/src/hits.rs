//! What a search returns: one list of hits per query, kept as the engine gave it, and turned into arrays, lists and
//! dicts when somebody looks.

use crate::errors::invalid;
use crate::payload;
use crate::row::key_object;
use nearstone::{Hit as Found, Key, KeyType};
use numpy::{PyArray1, PyArrayMethods, ToPyArray};
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::PyList;
use std::sync::Arc;

/// The hits of all queries of one call.
struct Answers {
    /// One list per query, all of the same length: every query saw the same rows.
    lists: Vec<Vec<Found>>,
    keys: KeyType,
    dimension: usize,
}

/// The hits of one query, nearest first, or of a matrix of queries.
///
/// Of one query: ``keys`` is an array of uint64 of shape ``(k,)`` or a list of str, ``distances`` is float32 of shape
/// ``(k,)``, and iterating gives ``Hit`` objects. Of a matrix of ``n`` queries: the shapes are ``(n, k)``, lists are lists
/// of lists, and iterating gives one ``Hits`` per query. Here ``k`` is the number wanted, or the number of rows that there
/// are (and that pass the filter) when that is less.
#[pyclass(frozen, module = "nearstone")]
pub(crate) struct Hits {
    answers: Arc<Answers>,
    /// Which query's, or those of all.
    query: Option<usize>,
}

impl Hits {
    pub(crate) fn one(found: Vec<Found>, keys: KeyType, dimension: usize) -> Hits {
        Hits { answers: Arc::new(Answers { lists: vec![found], keys, dimension }), query: Some(0) }
    }

    pub(crate) fn many(lists: Vec<Vec<Found>>, keys: KeyType, dimension: usize) -> Hits {
        Hits { answers: Arc::new(Answers { lists, keys, dimension }), query: None }
    }

    fn lists(&self) -> &[Vec<Found>] {
        match self.query {
            Some(query) => std::slice::from_ref(&self.answers.lists[query]),
            None => &self.answers.lists,
        }
    }

    /// Shape of one number per hit.
    fn shape(&self) -> Vec<usize> {
        let lists = self.lists();
        let hits = lists.first().map_or(0, Vec::len);
        if self.query.is_some() { vec![hits] } else { vec![lists.len(), hits] }
    }

    fn array<'py, T: numpy::Element>(
        &self,
        py: Python<'py>,
        extra: Option<usize>,
        numbers: Vec<T>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let flat = PyArray1::from_vec(py, numbers);
        let mut shape = self.shape();
        shape.extend(extra);
        Ok(if shape.len() == 1 { flat.into_any() } else { flat.reshape(shape)?.into_any() })
    }

    /// A list with one entry per hit, or a list of such lists.
    fn list<'py>(
        &self,
        py: Python<'py>,
        entry: impl Fn(&Found) -> PyResult<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let list = |hits: &Vec<Found>| -> PyResult<Bound<'py, PyList>> {
            PyList::new(py, hits.iter().map(&entry).collect::<PyResult<Vec<_>>>()?)
        };
        match self.query {
            Some(query) => list(&self.answers.lists[query]),
            None => PyList::new(py, self.lists().iter().map(list).collect::<PyResult<Vec<_>>>()?),
        }
    }
}

#[pymethods]
impl Hits {
    /// The keys: an array of uint64, or lists of str.
    #[getter]
    fn keys<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self.answers.keys {
            KeyType::U64 => {
                let numbers = self.lists().iter().flatten().map(|hit| hit.key().as_u64().unwrap_or(0));
                self.array(py, None, numbers.collect::<Vec<u64>>())
            }
            KeyType::Str => Ok(self.list(py, |hit| key_object(py, hit.key()))?.into_any()),
        }
    }

    /// The distances, float32, smaller is nearer.
    #[getter]
    fn distances<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.array(py, None, self.lists().iter().flatten().map(Found::distance).collect())
    }

    /// The log sequence numbers of the batches that wrote the rows, uint64.
    #[getter]
    fn versions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.array(py, None, self.lists().iter().flatten().map(Found::version).collect())
    }

    /// The payloads, dicts or ``None``, decoded now. InvalidArgument when the search was told ``payloads=False``.
    #[getter]
    fn payloads<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.list(py, |hit| payload_of(py, hit))
    }

    /// The vectors, float32 of shape ``(k, dim)`` or ``(n, k, dim)``. InvalidArgument unless the search was told
    /// ``vectors=True``.
    #[getter]
    fn vectors<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let mut numbers = Vec::new();
        for hit in self.lists().iter().flatten() {
            numbers.extend_from_slice(vector_of(py, hit)?);
        }
        self.array(py, Some(self.answers.dimension), numbers)
    }

    /// Hits of one query, or queries.
    fn __len__(&self) -> usize {
        match self.query {
            Some(query) => self.answers.lists[query].len(),
            None => self.answers.lists.len(),
        }
    }

    fn __getitem__(&self, py: Python<'_>, index: isize) -> PyResult<Py<PyAny>> {
        let len = self.__len__();
        let place = if index < 0 { index + len as isize } else { index };
        let place = usize::try_from(place)
            .ok()
            .filter(|&place| place < len)
            .ok_or_else(|| PyIndexError::new_err(format!("index {index} of {len}")))?;
        let answers = self.answers.clone();
        Ok(match self.query {
            Some(query) => Py::new(py, Hit { answers, query, place })?.into_any(),
            None => Py::new(py, Hits { answers, query: Some(place) })?.into_any(),
        })
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let entries = (0..self.__len__())
            .map(|place| self.__getitem__(py, place as isize))
            .collect::<PyResult<Vec<_>>>()?;
        Ok(PyList::new(py, entries)?.try_iter()?.into_any())
    }

    fn __repr__(&self) -> String {
        match self.query {
            Some(query) => {
                let hits = &self.answers.lists[query];
                let shown: Vec<String> =
                    hits.iter().take(5).map(|hit| format!("{:?}: {}", hit.key(), hit.distance())).collect();
                let more = if hits.len() > shown.len() { ", ..." } else { "" };
                format!("Hits({{{}{more}}})", shown.join(", "))
            }
            None => format!("Hits(of {} queries, {} each)", self.lists().len(), self.shape()[1]),
        }
    }
}

/// A row that a search found.
#[pyclass(frozen, module = "nearstone")]
pub(crate) struct Hit {
    answers: Arc<Answers>,
    query: usize,
    place: usize,
}

impl Hit {
    fn found(&self) -> &Found {
        &self.answers.lists[self.query][self.place]
    }
}

#[pymethods]
impl Hit {
    /// The key, an int or a str.
    #[getter]
    fn key(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        key_object(py, self.found().key())
    }

    /// The distance from the query; smaller is nearer.
    #[getter]
    fn distance(&self) -> f32 {
        self.found().distance()
    }

    /// The log sequence number of the batch that wrote the row.
    #[getter]
    fn version(&self) -> u64 {
        self.found().version()
    }

    /// The payload as a new dict, or ``None``. InvalidArgument when the search was told ``payloads=False``.
    #[getter]
    fn payload(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        payload_of(py, self.found())
    }

    /// The vector, float32 of shape ``(dim,)``. InvalidArgument unless the search was told ``vectors=True``.
    #[getter]
    fn vector<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f32>>> {
        Ok(vector_of(py, self.found())?.to_pyarray(py))
    }

    fn __repr__(&self) -> String {
        let key: &Key = self.found().key();
        format!("Hit(key={key:?}, distance={})", self.found().distance())
    }
}

fn payload_of(py: Python<'_>, hit: &Found) -> PyResult<Py<PyAny>> {
    match hit.payload_json() {
        Some(text) => payload::decode(py, text),
        None => Err(invalid(py, "the search was told payloads=False: it brought none along")),
    }
}

fn vector_of<'h>(py: Python<'_>, hit: &'h Found) -> PyResult<&'h [f32]> {
    hit.vector().ok_or_else(|| invalid(py, "the search was not asked for vectors: call it with vectors=True"))
}
