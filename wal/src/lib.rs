//! The write-ahead log: batches of bytes that are durable, in order, before anybody sees them.
//!
//! This crate does not know what a vector is. A writer hands in the encoded body of a batch and an item; one leader
//! at a time writes all bodies that wait, syncs once, and hands the items, in lsn order, to [`Apply::apply`].
//!
//! ```
//! use nearstone_base::{Lsn, Result, Uuid, clock::SystemClock, random::SystemRandom, vfs::{MemoryVfs, Vfs}};
//! use nearstone_wal::{Apply, Durability, Log, LogOptions, RecoverOptions, recover};
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! struct Lengths;
//!
//! impl Apply for Lengths {
//!     type Item = usize;
//!     type Output = usize;
//!     fn admit(&self, _: &usize) -> Result<()> {
//!         Ok(())
//!     }
//!     fn apply(&self, group: Vec<(Lsn, usize)>) -> Vec<usize> {
//!         group.into_iter().map(|(_, len)| len).collect()
//!     }
//! }
//!
//! let disk = Arc::new(MemoryVfs::new());
//! let (dir, store) = (Path::new("wal"), Uuid([7; 16]));
//! disk.create_dir(dir)?;
//! let start = |recovered| {
//!     let (clock, random) = (Arc::new(SystemClock::new()), Arc::new(SystemRandom));
//!     Log::start(disk.clone(), dir, store, recovered, LogOptions::default(), clock, random, Lengths)
//! };
//!
//! let log = start(recover(&*disk, dir, store, &RecoverOptions::default(), &mut |_, _| Ok(()))?)?;
//! assert_eq!(log.commit(b"first".to_vec(), Durability::Sync, 5)?, (1, 5));
//! let mark = log.close()?;
//!
//! let mut bodies = Vec::new();
//! let options = RecoverOptions { clean: Some(mark), ..RecoverOptions::default() };
//! recover(&*disk, dir, store, &options, &mut |lsn, body| {
//!     bodies.push((lsn, body.to_vec()));
//!     Ok(())
//! })?;
//! assert_eq!(bodies, [(1, b"first".to_vec())]);
//! # Ok::<(), nearstone_base::Error>(())
//! ```
//!
//! - [`format`](mod@format): the bytes of a file.
//! - `files`: names, and how a file comes into the folder.
//! - `writer`: the current file, rotation, syncing.
//! - `group`: who writes for whom.
//! - `reader`: where one file stops, and why.
//! - `recover`: what a folder of files proves.
//! - `salvage`: what can still be read when it proves nothing.
#![forbid(unsafe_code)]

mod files;
pub mod format;
mod group;
mod options;
mod reader;
mod recover;
mod salvage;
mod writer;

pub use files::{LogFile, copy_file, file_name, parse_name};
pub use group::{Apply, Inside, Log, Pin};
pub use options::{CleanMark, Durability, LogOptions, LogStats, RecoverOptions, RecoveryMode};
pub use recover::{Recovered, RecoveryReport, read_bytes, recover};
pub use salvage::{Salvaged, salvage};
