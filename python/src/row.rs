//! A row as `get` returns it.

use crate::payload;
use nearstone::Key;
use numpy::{PyArray1, ToPyArray};
use pyo3::prelude::*;

/// A key as Python has it.
pub(crate) fn key_object(py: Python<'_>, key: &Key) -> PyResult<Py<PyAny>> {
    Ok(match key {
        Key::U64(number) => number.into_pyobject(py)?.into_any().unbind(),
        Key::Str(text) => text.into_pyobject(py)?.into_any().unbind(),
    })
}

/// A row: its key, its vector with the original bits, its payload and its version.
#[pyclass(frozen, module = "nearstone")]
pub(crate) struct Row {
    key: Key,
    row: nearstone::Row,
}

impl Row {
    pub(crate) fn new(key: Key, row: nearstone::Row) -> Row {
        Row { key, row }
    }
}

#[pymethods]
impl Row {
    /// The key, an int or a str.
    #[getter]
    fn key(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        key_object(py, &self.key)
    }

    /// The vector as it was given, float32 of shape ``(dim,)``; a new array each time.
    #[getter]
    fn vector<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f32>> {
        self.row.vector().to_pyarray(py)
    }

    /// The payload as a new dict, or ``None`` when the row has none.
    #[getter]
    fn payload(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        payload::decode(py, self.row.payload_json())
    }

    /// The log sequence number of the batch that wrote the row.
    #[getter]
    fn version(&self) -> u64 {
        self.row.version()
    }

    fn __repr__(&self) -> String {
        let dim = self.row.vector().len();
        format!("Row(key={:?}, dim={dim}, version={})", self.key, self.row.version())
    }
}
