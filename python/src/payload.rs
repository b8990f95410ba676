//! Payloads: JSON objects on one side, dicts on the other. Written when a row is put, read when someone looks.

use crate::errors::{invalid, raised, worded};
use nearstone::{Error, PAYLOAD_BYTES_MAX};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyMapping, PyString, PyTuple};
use serde_json::value::RawValue;

static DUMPS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// A payload as the engine takes it; `None` for none.
pub(crate) type Payload = Option<Box<RawValue>>;

/// A dict, any mapping, or `None`.
pub(crate) fn encode(value: &Bound<'_, PyAny>) -> PyResult<Payload> {
    let py = value.py();
    if value.is_none() {
        return Ok(None);
    }
    let plain;
    let value = if value.is_instance_of::<PyDict>() {
        value
    } else if let Ok(mapping) = value.cast::<PyMapping>() {
        plain = PyDict::new(py);
        for item in mapping.items()? {
            let (name, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
            plain.set_item(name, value)?;
        }
        plain.as_any()
    } else {
        let shown: String = value.repr()?.to_string().chars().take(24).collect();
        return Err(PyTypeError::new_err(format!(
            "the payload is {shown}: it must be a dict, or None for none"
        )));
    };
    let dumps = DUMPS.get_or_try_init(py, || encoder(py))?;
    let text = dumps
        .bind(py)
        .call1((value,))
        .map_err(|error| worded(py, error, "the payload can't be written as JSON"))?;
    // Now it is known that it does not hold itself.
    check_names(value)?;
    let text = text.cast_into::<PyString>()?;
    let text = text
        .to_cow()
        .map_err(|_| invalid(py, "the payload can't be written as JSON: it has text with lone surrogates"))?;
    if text.len() > PAYLOAD_BYTES_MAX {
        let text = format!("the payload has {} bytes of JSON: the limit is {PAYLOAD_BYTES_MAX}", text.len());
        return Err(invalid(py, text));
    }
    RawValue::from_string(text.into_owned()).map(Some).map_err(|error| {
        raised(py, &Error::invalid(format!("the payload can't be written as JSON: {error}")))
    })
}

/// JSON has text for names only. Python would turn numbers into text, and what comes back would be another dict.
fn check_names(value: &Bound<'_, PyAny>) -> PyResult<()> {
    if let Ok(dict) = value.cast::<PyDict>() {
        // A copy of the list: what runs in between may change the dict.
        for item in dict.items() {
            let (name, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
            if !name.is_instance_of::<PyString>() {
                let text = format!("the payload has the name {}: names must be text", name.repr()?);
                return Err(invalid(name.py(), text));
            }
            check_names(&value)?;
        }
    } else if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        for item in value.try_iter()? {
            check_names(&item?)?;
        }
    }
    Ok(())
}

fn encoder(py: Python<'_>) -> PyResult<Py<PyAny>> {
    let options = PyDict::new(py);
    options.set_item("ensure_ascii", false)?;
    options.set_item("allow_nan", false)?;
    options.set_item("separators", (",", ":"))?;
    let encoder = py.import("json")?.getattr("JSONEncoder")?.call((), Some(&options))?;
    encoder.getattr("encode").map(Bound::unbind)
}

/// The dict, or `None` for the empty text.
pub(crate) fn decode(py: Python<'_>, text: &str) -> PyResult<Py<PyAny>> {
    if text.is_empty() {
        return Ok(py.None());
    }
    let loads = LOADS.get_or_try_init(py, || py.import("json")?.getattr("loads").map(Bound::unbind))?;
    loads.call1(py, (text,))
}
