//! What every part of Nearstone shares: keys, records, the metric, errors, checked codecs, checksums, and the
//! seams through which a test can stand in for the machine (files, time, randomness, locks, atomics).
//!
//! Nothing in here knows what a log, a graph or a segment is. Only [`vfs`] touches the operating system's files.
//!
//! ```
//! use nearstone_base::{Key, KeyType, Metric, Schema};
//!
//! let schema = Schema::new(384, Metric::Cosine).keys(KeyType::Str);
//! schema.validate()?;
//! let key = Key::from("intro");
//! schema.check_key(&key)?;
//! assert!(schema.check_key(&Key::from(7u64)).is_err());
//! # Ok::<(), nearstone_base::Error>(())
//! ```

#[cfg(not(target_endian = "little"))]
compile_error!("Nearstone's files are little-endian and read in place: big-endian targets are not supported");

pub mod checksum;
pub mod clock;
pub mod codec;
mod codes;
mod error;
pub mod faults;
mod id;
mod key;
mod metric;
pub mod priority;
mod profile;
pub mod random;
pub mod record;
mod schema;
pub mod sync;
pub mod vfs;

pub use codes::Codes;
pub use error::{Error, ErrorKind, Outcome, Place, Result};
pub use id::{CollectionId, LSN_MAX, Lsn, SegmentId, Uuid};
pub use key::{KEY_BYTES_MAX, Key, KeyRef, KeyType};
pub use metric::Metric;
pub use profile::Profile;
pub use schema::{DIMENSION_MAX, M_MAX, M_MIN, Schema};

/// The largest payload of one row, in bytes of encoded JSON.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// The largest atomic batch, in encoded bytes.
pub const BATCH_BYTES_MAX: usize = 64 << 20;
