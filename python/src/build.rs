//! Segments that are built without a store, and how their files are taken into one.

use crate::arguments::{metric, path, some_count};
use crate::batch::Rows;
use crate::errors::{OrRaise, invalid};
use crate::load::HeldRows;
use crate::long;
use crate::search::THREADS_MAX;
use nearstone::{Codes, Key, Profile, Schema, Store, TakeFiles};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::path::PathBuf;

type Given<'a, 'py> = Option<&'a Bound<'py, PyAny>>;

/// build_segments(folder, keys, vectors, payloads=None, *, metric="cosine", ...)
/// --
///
/// Builds sealed segments in a folder of their own, without a store: for rows that are made at one place and served at
/// another. ``Collection.attach`` brings them into a collection of the same schema. Can be interrupted, and leaves nothing
/// then, unless it was as good as done.
///
/// Args:
///     folder: Missing, empty, or left by a build that died: what that has left goes.
///     keys: As in ``upsert``: all int or all str, and the first one says which. No key may come twice.
///     vectors: A matrix of shape ``(n, dim)``.
///     payloads: As in ``upsert``.
///     metric: As in ``create_collection``, and so are ``m`` and ``ef_construction``, which must be the collection's.
///     profile: As in ``create_collection``, and so are ``codes``; the collection may have others.
///     seal_bytes: Bytes of vectors at which a segment is full (128 MiB).
///     seal_rows: Rows at which it is (250,000).
///     threads: To link rows with; all cores when not told.
///     progress: Called with (phase, done, total); returning ``False`` cancels, and ``Cancelled`` is raised.
///
/// Returns:
///     The files, whole and durable; no file where there are no rows.
///
/// Raises:
///     InvalidArgument: As in ``upsert`` and ``create_collection``, and for a key that comes twice; names it.
///     AlreadyExists: The folder holds something else, which stays.
///     Busy: Another build in it is under way.
///     Cancelled, DiskFull, Io: Nothing is built.
#[pyfunction]
#[pyo3(
    signature = (folder, keys, vectors, payloads=None, *, metric="cosine", m=None, ef_construction=None,
                 profile="auto", codes="sq8", seal_bytes=None, seal_rows=None, threads=None, progress=None),
    text_signature = "(folder, keys, vectors, payloads=None, *, metric='cosine', m=16, ef_construction=200, \
                      profile='auto', codes='sq8', seal_bytes=None, seal_rows=None, threads=None, progress=None)"
)]
#[expect(clippy::too_many_arguments, reason = "they are keywords for the caller")]
pub(crate) fn build_segments<'py>(
    py: Python<'py>,
    folder: &Bound<'py, PyAny>,
    keys: &Bound<'py, PyAny>,
    vectors: &Bound<'py, PyAny>,
    payloads: Given<'_, 'py>,
    metric: &str,
    m: Given<'_, 'py>,
    ef_construction: Given<'_, 'py>,
    profile: &str,
    codes: &str,
    seal_bytes: Given<'_, 'py>,
    seal_rows: Given<'_, 'py>,
    threads: Given<'_, 'py>,
    progress: Given<'_, 'py>,
) -> PyResult<Vec<PathBuf>> {
    let folder = path(folder)?;
    let mut options = Store::builder();
    if let Some(bytes) = some_count("seal_bytes", seal_bytes, 1)? {
        options = options.seal_bytes(bytes as u64);
    }
    if let Some(rows) = some_count("seal_rows", seal_rows, 1)? {
        options = options.seal_rows(u32::try_from(rows).unwrap_or(u32::MAX));
    }
    let threads = some_count("threads", threads, 1)?.map(|threads| threads.min(THREADS_MAX));
    let (metric, profile) = (self::metric(py, metric)?, Profile::from_name(profile).or_raise(py)?);
    let codes = Codes::from_name(codes).or_raise(py)?;
    let (m, ef) = (some_count("m", m, 0)?, some_count("ef_construction", ef_construction, 0)?);
    let rows = Rows::of(keys, vectors, payloads, |dimension, first| {
        let schema = Schema::new(dimension, metric).profile(profile).codes(codes);
        let schema = schema.keys(first.map_or(schema.key_type(), Key::key_type));
        let schema = schema.m(m.unwrap_or(schema.links())).ef_construction(ef.unwrap_or(schema.beam()));
        schema.validate().map(|()| schema).or_raise(py)
    })?;
    let schema = rows.schema();
    let rows = HeldRows::new(rows)?;
    long::run(py, progress, move |step| {
        let mut build = options.build_segments(&folder, schema)?.progress(step);
        if let Some(threads) = threads {
            build = build.threads(threads);
        }
        rows.each(|key, vector, payload| build.push(key, vector, payload))?;
        build.finish()
    })
}

/// `"copy"`, `"link"` or `"move"`.
pub(crate) fn take(py: Python<'_>, name: &str) -> PyResult<TakeFiles> {
    match name {
        "copy" => Ok(TakeFiles::Copy),
        "link" => Ok(TakeFiles::Link),
        "move" => Ok(TakeFiles::Move),
        _ => Err(invalid(py, format!("take is {name:?}: it must be \"copy\", \"link\" or \"move\""))),
    }
}

/// One file or several.
pub(crate) fn files(value: &Bound<'_, PyAny>) -> PyResult<Vec<PathBuf>> {
    // A text is one path, not a sequence of paths of one letter.
    if value.is_instance_of::<PyString>() || value.hasattr("__fspath__")? {
        return Ok(vec![path(value)?]);
    }
    let items =
        value.try_iter().map_err(|_| PyTypeError::new_err("files must be a path or a sequence of paths"))?;
    items.map(|item| path(&item?)).collect()
}
