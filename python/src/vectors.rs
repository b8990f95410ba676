//! Vectors: arrays of float32 in row order are read where they are; anything else that numpy can cast becomes one.

use crate::errors::invalid;
use numpy::{
    PyArray1, PyArray2, PyArrayDescrMethods, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2,
    PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

/// One vector or the rows of a matrix.
pub(crate) enum Vectors<'py> {
    /// Shape `(dim,)`.
    One(PyReadonlyArray1<'py, f32>),
    /// Shape `(n, dim)`.
    Many(PyReadonlyArray2<'py, f32>),
}

static AS_ARRAY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

impl<'py> Vectors<'py> {
    /// Takes what Python passed; `what` names it in messages ("the query", "the vectors").
    pub(crate) fn new(what: &str, value: &Bound<'py, PyAny>) -> PyResult<Vectors<'py>> {
        if let Some(found) = Vectors::in_place(value) {
            return Ok(found);
        }
        let converted = converted(what, value)?;
        Vectors::in_place(&converted).ok_or_else(|| {
            PyTypeError::new_err(format!("{what} could not be made an array of float32 in row order"))
        })
    }

    fn in_place(value: &Bound<'py, PyAny>) -> Option<Vectors<'py>> {
        // Columns that follow each other make a slice as well, of other rows.
        if let Ok(array) = value.cast::<PyArray1<f32>>() {
            let array = array.try_readonly().ok()?;
            return (array.is_c_contiguous() && array.as_slice().is_ok()).then_some(Vectors::One(array));
        }
        if let Ok(array) = value.cast::<PyArray2<f32>>() {
            let array = array.try_readonly().ok()?;
            return (array.is_c_contiguous() && array.as_slice().is_ok()).then_some(Vectors::Many(array));
        }
        None
    }

    /// The numbers, row after row.
    pub(crate) fn numbers(&self) -> PyResult<&[f32]> {
        Ok(match self {
            Vectors::One(array) => array.as_slice()?,
            Vectors::Many(array) => array.as_slice()?,
        })
    }

    /// Rows and numbers in each.
    pub(crate) fn shape(&self) -> (usize, usize) {
        match self {
            Vectors::One(array) => (1, array.len()),
            Vectors::Many(array) => (array.shape()[0], array.shape()[1]),
        }
    }
}

fn converted<'py>(what: &str, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = value.py();
    let as_array =
        AS_ARRAY.get_or_try_init(py, || py.import("numpy")?.getattr("asarray").map(Bound::unbind))?;
    let array = as_array.bind(py).call1((value,)).map_err(|error| {
        // Rows of different lengths, mostly.
        invalid(py, format!("{what} can't be made an array: {}", error.value(py)))
    })?;
    let array = array.cast_into::<PyUntypedArray>()?;
    if !matches!(array.dtype().kind(), b'f' | b'i' | b'u' | b'b') {
        let dtype = array.dtype();
        return Err(PyTypeError::new_err(format!(
            "{what} has the dtype {dtype}: float32, or real numbers that can be cast to it, are needed"
        )));
    }
    if !(1..=2).contains(&array.ndim()) {
        let shape = array.shape();
        return Err(invalid(py, format!("{what} has the shape {shape:?}: one or two dimensions are needed")));
    }
    let options = PyDict::new(py);
    options.set_item("order", "C")?;
    options.set_item("copy", false)?;
    // What is too large becomes infinite, which the engine refuses by its place: no need of a warning as well.
    let quiet = PyDict::new(py);
    quiet.set_item("over", "ignore")?;
    let quiet = py.import("numpy")?.getattr("errstate")?.call((), Some(&quiet))?;
    quiet.call_method0("__enter__")?;
    let array = array.call_method("astype", ("float32",), Some(&options));
    quiet.call_method1("__exit__", (py.None(), py.None(), py.None()))?;
    let array = array?;
    // What is float32 in row order and yet not read in place does not lie at a multiple of four bytes.
    if Vectors::in_place(&array).is_some() { Ok(array) } else { array.call_method0("copy") }
}
