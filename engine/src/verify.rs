//! Verification: every byte that the catalog answers for, and the one rule that spans segments.

use crate::catalog::Catalog;
use crate::engine::Engine;
use crate::layout;
use crate::progress::{Progress, report};
use crate::view::{CollectionView, Segment};
use nearstone_base::sync::Arc;
use nearstone_base::{Error, Lsn, Result};
use nearstone_wal::RecoverOptions;

/// What was verified, all of it sound.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct VerifyReport {
    /// Collections.
    pub collections: u64,
    /// Sealed segments, read whole.
    pub segments: u64,
    /// Live rows, each found by its key in one place only.
    pub rows: u64,
    /// Bytes of sealed segments.
    pub segment_bytes: u64,
    /// Batches in the log.
    pub log_batches: u64,
}

pub(crate) fn verify(engine: &Arc<Engine>, progress: Progress<'_>) -> Result<VerifyReport> {
    let core = &engine.core;
    core.check_open()?;
    let mut verified = VerifyReport::default();
    let view = match &engine.log {
        None => core.view.load_full(),
        Some(log) => {
            // Before anything is locked: the callback may call the store.
            report(progress, "log", 0, 1)?;
            // The files are read as an open would read them, while nobody writes to them.
            let catalog = engine.catalog()?;
            let on_disk = Catalog::read(&core.vfs, &core.dir, core.uuid)?;
            if on_disk != **catalog.state() {
                return Err(Error::corruption(
                    layout::catalog(&core.dir),
                    0,
                    format!("generation {}", catalog.state().generation),
                    format!("generation {}", on_disk.generation),
                ));
            }
            let options = RecoverOptions {
                floor: on_disk.wal_floor,
                generation: Some(on_disk.generation),
                last_lsn_min: on_disk.last_lsn,
                ..RecoverOptions::default()
            };
            log.exclusive(|_| -> Result<_> {
                nearstone_wal::recover(
                    &*core.vfs,
                    &layout::wal(&core.dir),
                    core.uuid,
                    &options,
                    &mut |_, _| {
                        verified.log_batches += 1;
                        Ok(())
                    },
                )?;
                Ok(core.view.load_full())
            })?
        }
    };
    for collection in view.lists.collections.values() {
        verified.collections += 1;
        for handle in &collection.sealed {
            let bytes = handle.segment.meta().len;
            let mut cancelled = None;
            handle.segment.verify(&mut |done, total| match report(progress, "verify", done, total) {
                Ok(()) => true,
                Err(error) => {
                    cancelled = Some(error);
                    false
                }
            })?;
            if let Some(error) = cancelled {
                return Err(error);
            }
            verified.segments += 1;
            verified.segment_bytes += bytes;
        }
        verified.rows += check_keys(collection, view.lsn, progress)?;
    }
    Ok(verified)
}

/// Every visible row is what its key leads to: so no key has two, and none is out of reach.
fn check_keys(collection: &CollectionView, at: Lsn, progress: Progress<'_>) -> Result<u64> {
    let total = collection.live_rows(at);
    let mut rows = 0;
    for segment in collection.segments() {
        for ordinal in 0..segment.rows() {
            if !segment.visible(ordinal, at) {
                continue;
            }
            let key = segment.key(ordinal)?;
            let hash = key.hash64();
            let mut found = 0;
            for other in collection.segments() {
                found += u32::from(other.find_at(key, hash, at)?.is_some());
            }
            if found != 1 {
                let path = match segment {
                    Segment::Sealed(sealed) => sealed.path().to_path_buf(),
                    Segment::Mutable(_) => "the rows in memory".into(),
                };
                return Err(Error::corruption(
                    path,
                    u64::from(ordinal),
                    format!("one live row under the key {key:?} of {:?}", collection.name),
                    format!("{found}"),
                ));
            }
            rows += 1;
            if rows % 4096 == 0 {
                report(progress, "keys", rows, total)?;
            }
        }
    }
    Ok(rows)
}
