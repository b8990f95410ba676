//! What callers choose and learn.

use nearstone_base::Lsn;
use std::time::Duration;

/// What an acknowledged batch survives.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Durability {
    /// A crash of the process, the kernel or the power: it was synced before it was acknowledged.
    #[default]
    Sync,
    /// A crash of the process at once; of the kernel or the power after at most this long.
    Interval(Duration),
    /// A crash of the process. The operating system writes it when it likes.
    Os,
}

/// What recovery does about a log that does not end cleanly.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum RecoveryMode {
    /// A tail that was torn by a crash is cut (nothing in it was acknowledged as synced); damage is an error, and
    /// nothing on disk is touched.
    #[default]
    TornTail,
    /// A torn tail is an error too.
    Strict,
    /// Stops at the first damage, reports what is dropped and sets later files aside. Loses data, by name only.
    PointInTime,
}

/// How the log grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogOptions {
    /// Length of the first file.
    pub file_bytes_min: u64,
    /// Files double up to this length; one record that needs more gets a file of its own.
    pub file_bytes_max: u64,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions { file_bytes_min: 1 << 20, file_bytes_max: 16 << 20 }
    }
}

/// Evidence that the log ended at exactly this place when it was closed in order. Superseded by the next one, never
/// cleared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CleanMark {
    /// The last log file; 0 when there was none.
    pub file_id: u64,
    /// The offset at which its records end.
    pub end: u64,
    /// The last lsn.
    pub lsn: Lsn,
}

/// What recovery is told, all of it from the catalog but the mode.
#[derive(Clone, Debug)]
pub struct RecoverOptions {
    /// What to do about damage.
    pub mode: RecoveryMode,
    /// Batches from this lsn on are handed out, and must be there without a gap.
    pub floor: Lsn,
    /// The catalog's generation, if there is a catalog: a log that knows of a newer one proves that the catalog is old.
    pub generation: Option<u64>,
    /// How the log ended when it was last closed in order.
    pub clean: Option<CleanMark>,
    /// The highest lsn that the catalog proves to have been durable.
    pub last_lsn_min: Lsn,
    /// Point-in-time recovery refuses to stop at or below this lsn: sealed segments hold it already.
    pub sealed_lsn_max: Lsn,
}

impl Default for RecoverOptions {
    fn default() -> RecoverOptions {
        RecoverOptions {
            mode: RecoveryMode::TornTail,
            floor: 1,
            generation: None,
            clean: None,
            last_lsn_min: 0,
            sealed_lsn_max: 0,
        }
    }
}

/// What a log did since it was started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LogStats {
    /// Batches committed.
    pub commits: u64,
    /// Groups that were written together.
    pub groups: u64,
    /// Calls that made a file durable.
    pub syncs: u64,
    /// Bytes of records.
    pub bytes: u64,
}
