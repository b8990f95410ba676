//! Python's values as the engine's arguments: counts, keys, durations, names. What is not suitable at all is a
//! `TypeError`, what is out of range an `InvalidArgument` that names the value and the limit.

use crate::errors::{invalid, raised, worded};
use nearstone::{Durability, Error, Key, KeyType, Metric};
use numpy::{PyArray1, PyArrayDescrMethods, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyFloat, PyInt, PyString, PyType};
use std::time::Duration;

/// Keys taken from an iterator between two looks for signals.
const SIGNALS_EVERY: usize = 1 << 16;

/// One key or several.
pub(crate) enum Keys {
    /// A single key: the call is about one row.
    One(Key),
    /// Keys in order.
    Many(Vec<Key>),
}

fn type_name(value: &Bound<'_, PyAny>) -> String {
    value.get_type().name().map_or_else(|_| "object".to_owned(), |name| name.to_string())
}

/// A number of things: an integer of at least `least`.
pub(crate) fn count(name: &str, value: &Bound<'_, PyAny>, least: usize) -> PyResult<usize> {
    let py = value.py();
    if value.is_instance_of::<PyBool>() || value.is_instance_of::<PyFloat>() {
        return Err(PyTypeError::new_err(format!("{name} is a {}: it must be an integer", type_name(value))));
    }
    match value.extract::<usize>() {
        Ok(count) if count >= least => Ok(count),
        Err(error) if !error.is_instance_of::<PyOverflowError>(py) => {
            Err(PyTypeError::new_err(format!("{name} is a {}: it must be an integer", type_name(value))))
        }
        Err(_) if value.gt(0)? => {
            Err(invalid(py, format!("{name} is {value}: it must be at most {}", usize::MAX)))
        }
        _ => Err(invalid(py, format!("{name} is {value}: it must be at least {least}"))),
    }
}

/// How many hits are wanted; more than can be counted are all.
pub(crate) fn wanted(name: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<usize>> {
    let Some(value) = value else { return Ok(None) };
    let uncountable = value.is_instance_of::<PyInt>() && value.gt(usize::MAX)?;
    if uncountable { Ok(Some(usize::MAX)) } else { count(name, value, 0).map(Some) }
}

/// As [`count`], where it is given.
pub(crate) fn some_count(
    name: &str,
    value: Option<&Bound<'_, PyAny>>,
    least: usize,
) -> PyResult<Option<usize>> {
    value.map(|value| count(name, value, least)).transpose()
}

/// A length of time in seconds.
pub(crate) fn seconds(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    let refused = || PyTypeError::new_err(format!("{name} is a {}: it must be seconds", type_name(value)));
    if value.is_instance_of::<PyBool>() {
        return Err(refused());
    }
    let seconds: f64 = value.extract().map_err(|_| refused())?;
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| invalid(value.py(), format!("{name} is {seconds} seconds: it must be 0 or more")))
}

/// As [`seconds`]; infinitely many, and more than there will ever be, are `Duration::MAX`.
pub(crate) fn seconds_or_never(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    match value.extract::<f64>() {
        Ok(seconds) if seconds > Duration::MAX.as_secs_f64() => Ok(Duration::MAX),
        _ => seconds(name, value),
    }
}

/// `"sync"`, `"os"` or seconds.
pub(crate) fn durability(value: &Bound<'_, PyAny>) -> PyResult<Durability> {
    if let Ok(name) = value.cast::<PyString>() {
        return match &*name.to_string_lossy() {
            "sync" => Ok(Durability::Sync),
            "os" => Ok(Durability::Os),
            other => Err(invalid(
                value.py(),
                format!(
                    "the durability is {other:?}: it must be \"sync\", \"os\" or seconds between two syncs"
                ),
            )),
        };
    }
    seconds("the durability", value).map(Durability::Interval)
}

/// `"cosine"`, `"l2"` or `"ip"`.
pub(crate) fn metric(py: Python<'_>, name: &str) -> PyResult<Metric> {
    match name {
        "cosine" => Ok(Metric::Cosine),
        "l2" => Ok(Metric::L2),
        "ip" => Ok(Metric::InnerProduct),
        _ => Err(invalid(py, format!("the metric is {name:?}: it must be \"cosine\", \"l2\" or \"ip\""))),
    }
}

/// `"u64"` or `int`, `"str"` or `str`.
pub(crate) fn key_type(value: &Bound<'_, PyAny>) -> PyResult<KeyType> {
    let py = value.py();
    if let Ok(class) = value.cast::<PyType>() {
        if class.is(py.get_type::<PyInt>()) {
            return Ok(KeyType::U64);
        }
        if class.is(py.get_type::<PyString>()) {
            return Ok(KeyType::Str);
        }
    }
    if let Ok(name) = value.cast::<PyString>() {
        match &*name.to_string_lossy() {
            "u64" | "int" => return Ok(KeyType::U64),
            "str" => return Ok(KeyType::Str),
            _ => {}
        }
    }
    Err(invalid(py, format!("keys is {}: it must be \"u64\" (or int) or \"str\" (or str)", value.repr()?)))
}

/// One key.
pub(crate) fn key(value: &Bound<'_, PyAny>) -> PyResult<Key> {
    let py = value.py();
    if let Ok(text) = value.cast::<PyString>() {
        return Ok(Key::from(&*text.to_cow().map_err(|_| no_unicode(value))?));
    }
    if !value.is_instance_of::<PyBool>() && !value.is_instance_of::<PyFloat>() {
        match value.extract::<u64>() {
            Ok(number) => return Ok(Key::from(number)),
            Err(error) if error.is_instance_of::<PyOverflowError>(py) => {
                return Err(invalid(py, format!("the key is {value}: integer keys are 0 to {}", u64::MAX)));
            }
            Err(_) => {}
        }
    }
    Err(PyTypeError::new_err(format!("the key is a {}: keys are int or str", type_name(value))))
}

fn no_unicode(value: &Bound<'_, PyAny>) -> PyErr {
    let shown = value.repr().map_or_else(|_| "?".to_owned(), |repr| repr.to_string());
    invalid(value.py(), format!("the key {shown} is no Unicode text: it has lone surrogates"))
}

/// One key, or a sequence of them: an array of integers, a list, anything that can be iterated over.
pub(crate) fn keys(value: &Bound<'_, PyAny>) -> PyResult<Keys> {
    if value.is_instance_of::<PyString>() || value.is_instance_of::<PyInt>() {
        return key(value).map(Keys::One);
    }
    if value.is_instance_of::<PyBytes>() || value.is_instance_of::<PyByteArray>() {
        return Err(PyTypeError::new_err("the key is bytes: keys are int or str"));
    }
    if let Ok(array) = value.cast::<PyUntypedArray>() {
        return array_keys(array);
    }
    match value.try_iter() {
        Ok(items) => {
            let py = value.py();
            // What Python says of its length is no reason to take memory.
            let mut keys = Vec::with_capacity(value.len().unwrap_or(0).min(SIGNALS_EVERY));
            for item in items {
                let position = format!("key {}", keys.len());
                keys.push(key(&item?).map_err(|error| worded(py, error, &position))?);
                if keys.len().is_multiple_of(SIGNALS_EVERY) {
                    py.check_signals()?;
                }
            }
            Ok(Keys::Many(keys))
        }
        // A number of numpy's, say.
        Err(_) => key(value).map(Keys::One),
    }
}

/// A sequence of keys.
pub(crate) fn many_keys(value: &Bound<'_, PyAny>) -> PyResult<Vec<Key>> {
    match keys(value)? {
        Keys::Many(keys) => Ok(keys),
        Keys::One(key) => {
            Err(PyTypeError::new_err(format!("the key {key:?} stands alone: give a sequence of keys")))
        }
    }
}

fn array_keys(array: &Bound<'_, PyUntypedArray>) -> PyResult<Keys> {
    let py = array.py();
    if array.ndim() == 0 {
        return key(&array.call_method0("item")?).map(Keys::One);
    }
    if array.ndim() > 1 {
        let shape = array.shape();
        return Err(invalid(py, format!("the keys have the shape {shape:?}: they must be one-dimensional")));
    }
    match array.dtype().kind() {
        b'i' | b'u' => {
            let kind = array.dtype();
            if kind.kind() == b'i' && array.len() > 0 {
                let least: i64 = array.call_method0("min")?.extract()?;
                if least < 0 {
                    let text = format!("the key is {least}: integer keys are 0 to {}", u64::MAX);
                    return Err(invalid(py, text));
                }
            }
            let numbers = array.call_method1("astype", ("uint64",))?;
            let numbers = numbers.cast::<PyArray1<u64>>()?.to_vec()?;
            Ok(Keys::Many(numbers.into_iter().map(Key::from).collect()))
        }
        b'U' | b'O' => keys(&array.call_method0("tolist")?),
        _ => {
            let dtype = array.dtype();
            Err(PyTypeError::new_err(format!("the keys have the dtype {dtype}: keys are int or str")))
        }
    }
}

/// The engine's own error for keys that do not fit the collection, with the position.
pub(crate) fn check_keys(py: Python<'_>, schema: &nearstone::Schema, keys: &[Key]) -> PyResult<()> {
    for (row, key) in keys.iter().enumerate() {
        schema.check_key(key).map_err(|error| raised(py, &error.context(format!("row {row}"))))?;
    }
    Ok(())
}

/// For a name that the engine's own checks would reach too late.
pub(crate) fn path(value: &Bound<'_, PyAny>) -> PyResult<std::path::PathBuf> {
    let path: std::path::PathBuf = value.extract()?;
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        let text = format!("the path {path:?} holds a NUL byte");
        return Err(raised(value.py(), &Error::invalid(text)));
    }
    Ok(path)
}
