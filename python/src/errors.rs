//! Errors as Python raises them: the class says the kind, the text is the engine's own.

use nearstone::{Error, ErrorKind, Outcome};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyModule};

/// The module that defines the classes.
static CLASSES: PyOnceLock<Py<PyModule>> = PyOnceLock::new();

fn class_name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidArgument => "InvalidArgument",
        ErrorKind::NotFound => "NotFound",
        ErrorKind::AlreadyExists => "AlreadyExists",
        ErrorKind::NotAStore => "NotAStore",
        ErrorKind::UnsupportedVersion => "UnsupportedVersion",
        ErrorKind::Corruption => "Corruption",
        ErrorKind::Io => "Io",
        ErrorKind::DiskFull => "DiskFull",
        ErrorKind::Busy => "Busy",
        ErrorKind::ReadOnly => "ReadOnly",
        ErrorKind::Cancelled => "Cancelled",
        ErrorKind::Poisoned => "Poisoned",
        ErrorKind::Closed => "Closed",
        _ => "Error",
    }
}

/// The exception that tells Python of an error.
pub(crate) fn raised(py: Python<'_>, error: &Error) -> PyErr {
    exception(py, error).unwrap_or_else(|failure| failure)
}

fn exception(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let classes = CLASSES.get_or_try_init(py, || py.import("nearstone._errors").map(Bound::unbind))?;
    let value = classes.bind(py).getattr(class_name(error.kind()))?.call1((error.to_string(),))?;
    if error.outcome() == Outcome::Indeterminate {
        value.setattr("outcome", "indeterminate")?;
    }
    if let Some(place) = error.place() {
        let dict = PyDict::new(py);
        dict.set_item("file", place.file.display().to_string())?;
        dict.set_item("offset", place.offset)?;
        dict.set_item("expected", &place.expected)?;
        dict.set_item("found", &place.found)?;
        value.setattr("place", dict)?;
    }
    Ok(PyErr::from_value(value))
}

/// The same exception with more words, if it says that a value is wrong; anything else (an interrupt, no memory) goes
/// through as it is.
pub(crate) fn worded(py: Python<'_>, error: PyErr, before: &str) -> PyErr {
    let text = |error: &PyErr| format!("{before}: {}", error.value(py));
    if error.is_instance_of::<PyTypeError>(py) {
        PyTypeError::new_err(text(&error))
    } else if error.is_instance_of::<PyValueError>(py) {
        invalid(py, text(&error))
    } else {
        error
    }
}

/// `InvalidArgument` with a text.
pub(crate) fn invalid(py: Python<'_>, text: impl Into<String>) -> PyErr {
    raised(py, &Error::invalid(text))
}

/// Results of the engine become results of Python.
pub(crate) trait OrRaise<T> {
    /// The value, or the exception.
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> OrRaise<T> for nearstone::Result<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| raised(py, &error))
    }
}
