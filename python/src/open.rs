//! Opening stores: Python's keyword arguments as the engine's builder.

use crate::arguments::{durability, path, seconds, seconds_or_never, some_count};
use crate::errors::{OrRaise, invalid};
use crate::store::Store;
use nearstone::vfs::Residency;
use nearstone::{Background, RecoveryMode, StoreBuilder};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyString;

type Given<'a, 'py> = Option<&'a Bound<'py, PyAny>>;

/// open(path, *, create=True, read_only=False, durability="sync", ...)
/// --
///
/// Opens the store in a folder; a missing or empty folder becomes a new store.
///
/// Args:
///     path: The folder.
///     create: Whether a missing or empty folder becomes a store; else it is ``NotFound``.
///     read_only: Takes a shared lock and writes nothing; any number of processes can, while none writes.
///     durability: What an acknowledged write survives: ``"sync"`` a power loss, ``"os"`` a crash of the process, a
///         number of seconds a power loss after at most so long.
///     recovery: What happens when the log's end is damaged: ``"torn_tail"``, ``"strict"`` or ``"point_in_time"``.
///     memory_budget: Bytes that rows not yet sealed may take (1 GiB); writers wait when it is used up.
///     write_stall: Seconds a writer waits for memory before it gets ``Busy`` (60), and rests for compaction at most.
///     background: Threads for the work behind: ``"auto"`` (half the cores), a number, or ``"manual"`` for none.
///     background_bytes_per_second: Bytes that seals and compactions of the work behind write per second, at most; calls
///         are not held back.
///     seal_bytes: Bytes of vectors at which a collection's rows are sealed into a file (128 MiB).
///     seal_rows: Rows at which they are (250,000).
///     seal_idle: Seconds without a new row after which a collection's rows are sealed, if there are 1,024 or more (10;
///         ``math.inf`` for never).
///     wal_bytes: Bytes of log at which what pins it is sealed (256 MiB).
///     dead_share: Share of dead rows from which a sealed segment is rewritten (0.2).
///     auto_compact: Whether compaction runs by itself. Writers who make dead rows or segments faster than it merges them rest
///         after each batch (``compaction_debt`` of a collection, 0 to 1, and ``write_rest_ms`` in ``stats``).
///     residency: How sealed segments are held: ``"mapped"``; ``"warm"``, with what searches touch read ahead;
///         ``"pinned"``, with that copied into memory; or ``"heap"``, read into memory whole. All but the first make opening
///         take time in proportion to what is read.
///
/// Raises:
///     NotFound, NotAStore, Busy (another process has it), UnsupportedVersion, Corruption, ReadOnly, Io.
#[pyfunction]
#[pyo3(
    signature = (path, *, create=true, read_only=false, durability=None, recovery="torn_tail", memory_budget=None,
                 write_stall=None, background=None, background_bytes_per_second=None, seal_bytes=None, seal_rows=None,
                 seal_idle=None, wal_bytes=None, dead_share=None, auto_compact=true, residency="mapped"),
    text_signature = "(path, *, create=True, read_only=False, durability='sync', recovery='torn_tail', \
                      memory_budget=None, write_stall=None, background='auto', background_bytes_per_second=None, \
                      seal_bytes=None, seal_rows=None, seal_idle=None, wal_bytes=None, dead_share=None, auto_compact=True, \
                      residency='mapped')"
)]
#[expect(clippy::too_many_arguments, reason = "they are keywords for the caller")]
pub(crate) fn open<'py>(
    py: Python<'py>,
    path: &Bound<'py, PyAny>,
    create: bool,
    read_only: bool,
    durability: Given<'_, 'py>,
    recovery: &str,
    memory_budget: Given<'_, 'py>,
    write_stall: Given<'_, 'py>,
    background: Given<'_, 'py>,
    background_bytes_per_second: Given<'_, 'py>,
    seal_bytes: Given<'_, 'py>,
    seal_rows: Given<'_, 'py>,
    seal_idle: Given<'_, 'py>,
    wal_bytes: Given<'_, 'py>,
    dead_share: Option<f64>,
    auto_compact: bool,
    residency: &str,
) -> PyResult<Bound<'py, Store>> {
    let sizes = Sizes {
        memory_budget,
        write_stall,
        background_bytes_per_second,
        seal_bytes,
        seal_rows,
        seal_idle,
        wal_bytes,
        dead_share,
    };
    let mut builder = sizes.apply(nearstone::Store::builder())?.create(create).read_only(read_only);
    builder = builder.background(background_of(background)?).auto_compact(auto_compact);
    if let Some(value) = durability {
        builder = builder.durability(self::durability(value)?);
    }
    builder = builder.recovery(match recovery {
        "torn_tail" => RecoveryMode::TornTail,
        "strict" => RecoveryMode::Strict,
        "point_in_time" => RecoveryMode::PointInTime,
        _ => {
            let known = "\"torn_tail\", \"strict\" or \"point_in_time\"";
            return Err(invalid(py, format!("recovery is {recovery:?}: it must be {known}")));
        }
    });
    builder = builder.residency(match residency {
        "mapped" => Residency::Mapped,
        "warm" => Residency::Warm,
        "pinned" => Residency::Pinned,
        "heap" => Residency::Heap,
        _ => {
            let known = "\"mapped\", \"warm\", \"pinned\" or \"heap\"";
            return Err(invalid(py, format!("residency is {residency:?}: it must be {known}")));
        }
    });
    let path = self::path(path)?;
    let store = py.detach(|| builder.open(&path)).or_raise(py)?;
    Store::watched(py, store)
}

/// in_memory(*, memory_budget=None, ...)
/// --
///
/// Makes a store that lives in memory and is gone when its last handle is. The options are those of ``open``.
#[pyfunction]
#[pyo3(
    signature = (*, memory_budget=None, write_stall=None, background=None, background_bytes_per_second=None,
                 seal_bytes=None, seal_rows=None, seal_idle=None, wal_bytes=None, dead_share=None, auto_compact=true),
    text_signature = "(*, memory_budget=None, write_stall=None, background='auto', background_bytes_per_second=None, \
                      seal_bytes=None, seal_rows=None, seal_idle=None, wal_bytes=None, dead_share=None, auto_compact=True)"
)]
#[expect(clippy::too_many_arguments, reason = "they are keywords for the caller")]
pub(crate) fn in_memory<'py>(
    py: Python<'py>,
    memory_budget: Given<'_, 'py>,
    write_stall: Given<'_, 'py>,
    background: Given<'_, 'py>,
    background_bytes_per_second: Given<'_, 'py>,
    seal_bytes: Given<'_, 'py>,
    seal_rows: Given<'_, 'py>,
    seal_idle: Given<'_, 'py>,
    wal_bytes: Given<'_, 'py>,
    dead_share: Option<f64>,
    auto_compact: bool,
) -> PyResult<Bound<'py, Store>> {
    let sizes = Sizes {
        memory_budget,
        write_stall,
        background_bytes_per_second,
        seal_bytes,
        seal_rows,
        seal_idle,
        wal_bytes,
        dead_share,
    };
    let builder = sizes.apply(nearstone::Store::builder())?;
    let builder = builder.background(background_of(background)?).auto_compact(auto_compact);
    let store = py.detach(|| builder.in_memory()).or_raise(py)?;
    Store::watched(py, store)
}

/// What both kinds of stores can be told.
struct Sizes<'a, 'py> {
    memory_budget: Given<'a, 'py>,
    write_stall: Given<'a, 'py>,
    background_bytes_per_second: Given<'a, 'py>,
    seal_bytes: Given<'a, 'py>,
    seal_rows: Given<'a, 'py>,
    seal_idle: Given<'a, 'py>,
    wal_bytes: Given<'a, 'py>,
    dead_share: Option<f64>,
}

impl Sizes<'_, '_> {
    fn apply(&self, mut builder: StoreBuilder) -> PyResult<StoreBuilder> {
        if let Some(bytes) = some_count("memory_budget", self.memory_budget, 1)? {
            builder = builder.memory_budget(bytes as u64);
        }
        if let Some(wait) = self.write_stall {
            builder = builder.write_stall(seconds("write_stall", wait)?);
        }
        if let Some(bytes) = some_count("background_bytes_per_second", self.background_bytes_per_second, 1)? {
            builder = builder.background_bytes_per_second(bytes as u64);
        }
        if let Some(bytes) = some_count("seal_bytes", self.seal_bytes, 1)? {
            builder = builder.seal_bytes(bytes as u64);
        }
        if let Some(rows) = some_count("seal_rows", self.seal_rows, 1)? {
            builder = builder.seal_rows(u32::try_from(rows).unwrap_or(u32::MAX));
        }
        if let Some(span) = self.seal_idle {
            builder = builder.seal_idle(seconds_or_never("seal_idle", span)?);
        }
        if let Some(bytes) = some_count("wal_bytes", self.wal_bytes, 1)? {
            builder = builder.wal_bytes(bytes as u64);
        }
        if let Some(share) = self.dead_share {
            builder = builder.dead_share(share);
        }
        Ok(builder)
    }
}

fn background_of(value: Given<'_, '_>) -> PyResult<Background> {
    let Some(value) = value else { return Ok(Background::Auto) };
    if let Ok(name) = value.cast::<PyString>() {
        return match &*name.to_string_lossy() {
            "auto" => Ok(Background::Auto),
            "manual" => Ok(Background::Manual),
            other => Err(invalid(
                value.py(),
                format!("background is {other:?}: it must be \"auto\", \"manual\" or a number of threads"),
            )),
        };
    }
    match crate::arguments::count("background", value, 1) {
        Ok(threads) => Ok(Background::Threads(threads)),
        Err(error) if error.is_instance_of::<PyTypeError>(value.py()) => {
            Err(PyTypeError::new_err("background must be \"auto\", \"manual\" or a number of threads"))
        }
        Err(error) => Err(error),
    }
}
