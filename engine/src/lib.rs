//! Nearstone: an embedded, durable vector store.
//!
//! A program opens a folder, puts vectors with a key and a JSON payload into collections, searches and deletes them,
//! and never loses a write that was acknowledged.
//!
//! ```
//! use nearstone::{KeyType, Metric, Schema, Store};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("notes.near");
//! let store = Store::open(&path)?;
//! let notes = store.collection_or_create("notes", Schema::new(3, Metric::Cosine).keys(KeyType::Str))?;
//!
//! notes.upsert("intro", &[1.0, 0.0, 0.0], serde_json::json!({ "title": "Introduction" }))?;
//! notes.upsert("usage", &[0.0, 1.0, 0.0], ())?;
//!
//! let hits = notes.search(&[0.9, 0.1, 0.0]).limit(1).with_payload().run()?;
//! assert_eq!(hits[0].key().as_str(), Some("intro"));
//! assert_eq!(hits[0].payload::<serde_json::Value>()?["title"], "Introduction");
//!
//! let mut batch = store.batch();
//! batch.delete(&notes, "usage")?.upsert(&notes, "end", &[0.0, 0.0, 1.0], ())?;
//! let commit = batch.commit()?;
//! assert_eq!((commit.upserted, commit.deleted), (1, 1));
//! store.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What holds
//!
//! - Under [`Durability::Sync`] (the default) an acknowledged write survives a crash of the process, the kernel or
//!   the power; a write that was not acknowledged is there whole or not at all; a delete never comes undone.
//! - A [`Batch`] is all or nothing, on disk and for readers, across collections; so is a [`BulkLoad`] into one collection.
//! - Every search and get sees one moment; a [`Snapshot`] keeps seeing it.
//! - A row is visible as soon as its write returns, whether it is in a graph yet or not.
//! - [`Row::vector`] has the original bits; distances are computed from them.
//!
//! Calls block; there is no async runtime. Handles are cheap to clone and work from any thread.
#![forbid(unsafe_code)]

mod attach;
mod background;
mod backup;
mod batch;
mod catalog;
mod collect;
mod collection;
mod compact;
mod core;
mod debt;
mod engine;
mod files;
mod idle;
mod keys;
mod layout;
mod load;
#[cfg(nearstone_loom)]
#[doc(hidden)]
pub mod model;
mod offline;
mod options;
mod progress;
mod rebuild;
mod recovery;
mod replace;
mod row;
mod salvage;
mod seal;
mod search;
mod site;
mod snapshot;
mod stats;
mod store;
mod verify;
mod view;
mod write;

pub use background::BackgroundPause;
pub use batch::{Batch, Commit};
pub use collection::{Collection, CollectionAt};
pub use files::{AttachOptions, TakeFiles};
pub use keys::Keys;
pub use load::{BulkLoad, BulkLoaded, OnCollision};
pub use nearstone_base::vfs;
pub use nearstone_base::{
    BATCH_BYTES_MAX, Codes, DIMENSION_MAX, Error, ErrorKind, KEY_BYTES_MAX, Key, KeyRef, KeyType, Lsn, M_MAX,
    M_MIN, Metric, Outcome, PAYLOAD_BYTES_MAX, Place, Profile, Result, Schema, Uuid, clock, random,
};
pub use nearstone_segments::sealed::Held;
pub use nearstone_wal::{Durability, LogStats, RecoveryMode, RecoveryReport};
pub use offline::SegmentBuild;
pub use options::{Background, StoreBuilder};
pub use progress::{Progress, Step};
pub use rebuild::RebuildOptions;
pub use row::{Hit, Row};
pub use salvage::SalvageReport;
pub use search::{Queries, Search};
pub use snapshot::Snapshot;
pub use stats::{CollectionStats, SegmentSummary, StoreStats};
pub use store::Store;
pub use verify::VerifyReport;
pub use write::Applied;
