//! The names in a store's folder, in one place.
//!
//! ```text
//! FORMAT              what this folder is, and of which version; read before anything else
//! lock                locked by the writer (exclusive) or by readers (shared); never removed
//! catalog             collections, segments, deaths, the log's floor (redb, checked page by page)
//! wal/<id>.log        batches that are not in sealed segments yet
//! segments/<id>.seg   sealed segments
//! ```

use std::path::{Path, PathBuf};

pub(crate) const LOCK: &str = "lock";
pub(crate) const FORMAT: &str = "FORMAT";
pub(crate) const CATALOG: &str = "catalog";

/// Names that an interrupted creation may leave behind; a folder with nothing else is started over.
pub(crate) const CREATION_LEFTOVERS: [&str; 6] = [LOCK, FORMAT, "FORMAT.tmp", "catalog.tmp", WAL, SEGMENTS];

/// In a backup that was cut short: without it, one that has no file yet would be an empty folder like any other.
pub(crate) const UNFINISHED: &str = "unfinished-backup";

/// In the folder of a build that was not finished: its files are not all there are to be.
pub(crate) const UNFINISHED_BUILD: &str = "unfinished-build";

const WAL: &str = "wal";
const SEGMENTS: &str = "segments";

pub(crate) fn wal(dir: &Path) -> PathBuf {
    dir.join(WAL)
}

pub(crate) fn segments(dir: &Path) -> PathBuf {
    dir.join(SEGMENTS)
}

pub(crate) fn lock(dir: &Path) -> PathBuf {
    dir.join(LOCK)
}

pub(crate) fn catalog(dir: &Path) -> PathBuf {
    dir.join(CATALOG)
}
