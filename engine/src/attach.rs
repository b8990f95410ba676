//! Attaching: segments that a bulk load has written, or that were built elsewhere, become part of a collection.
//!
//! 1. Without a lock: what the collection has in memory is sealed, and each loaded key is looked up in the sealed segments.
//!    Both go on until little is left to do.
//! 2. With a turn to seal, the catalog, and the log's writer, so that nobody seals, compacts or writes: what was written
//!    since is frozen and sealed, and looked up. Now every row of the collection is in a sealed segment, and which of
//!    them collide is exact.
//! 3. A batch without operations is logged, durable when it returns: its lsn A is the version of the loaded rows. No row
//!    is in the log; alone it changes nothing, whether it is replayed or skipped.
//! 4. **One catalog transaction, the commit point**: the segments, `sealed_lsn = A`, the rows that are dead at A on both
//!    sides (those replaced, or those left out).
//! 5. Under the apply lock: the same in memory, and one view at A is published. Views before it have lists without the loaded
//!    rows, and lsns below A at which the replaced ones live.
//! 6. The log learns the catalog's generation; files wholly below the floor go.
//!
//! Power may go between any two of these. Before 4 the next open finds the collection as it was, with or without the
//! batch that changes nothing, and sweeps the files; after 4 it finds all rows, and skips what the log has of this
//! collection up to A.

use crate::catalog::{CatalogState, SegmentRow};
use crate::engine::{CatalogGuard, Engine};
use crate::load::{BulkLoaded, OnCollision};
use crate::seal::record_deaths;
use crate::view::{CollectionView, SealedHandle, dropped};
use crate::write::Applier;
use nearstone_base::faults::{failpoint, seeded};
use nearstone_base::record::BatchEncoder;
use nearstone_base::sync::Arc;
use nearstone_base::{CollectionId, Error, ErrorKind, KeyRef, Lsn, Outcome, Result, Schema, SegmentId};
use nearstone_segments::SealedSegment;
use nearstone_wal::Inside;
use roaring::RoaringBitmap;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Rows in memory that are sealed while everybody waits, rather than once more before.
const ROWS_LEFT: u32 = 1_000;
/// Under steady writes there is always something left.
const ROUNDS: u32 = 3;

/// The segments of a load, and what is known of their keys.
pub(crate) struct Known {
    loaded: Vec<Arc<SealedHandle>>,
    /// Where each of them came from, for messages; empty for those that were made here.
    files: Vec<PathBuf>,
    /// The segments that were asked, and the rows that have the key of a loaded one.
    asked: Vec<(Arc<SealedHandle>, Vec<Match>)>,
}

/// A row with the key of a loaded one.
struct Match {
    ordinal: u32,
    /// Which loaded segment, and the row there.
    loaded: (usize, u32),
}

/// Rows that die at the load's lsn, by segment.
type Dying = BTreeMap<SegmentId, RoaringBitmap>;

impl Known {
    /// Nothing is known yet.
    pub(crate) fn new(loaded: Vec<Arc<SealedHandle>>, files: Vec<PathBuf>) -> Known {
        Known { loaded, files, asked: Vec::new() }
    }

    fn rows(&self) -> u64 {
        self.loaded.iter().map(|handle| u64::from(handle.segment.rows())).sum()
    }

    /// Since the files were made, the collection may have been rebuilt, and others may have attached the same ones.
    fn check_against(&self, state: &CatalogState, schema: &Schema) -> Result<()> {
        if self.loaded.iter().any(|handle| !handle.segment.meta().schema.fits(schema)) {
            return Err(Error::new(
                ErrorKind::Cancelled,
                "the collection was rebuilt with other parameters meanwhile: nothing of the load is there",
            ));
        }
        for (handle, file) in self.loaded.iter().zip(&self.files) {
            let uuid = handle.segment.meta().uuid;
            if state.segments.values().any(|row| row.meta.uuid == uuid) {
                return Err(already_attached(file));
            }
        }
        Ok(())
    }

    /// Asks the sealed segments that were not asked yet, and forgets those that are gone.
    fn ask(&mut self, collection: &CollectionView) -> Result<()> {
        self.asked.retain(|(handle, _)| collection.sealed.iter().any(|other| Arc::ptr_eq(handle, other)));
        for handle in &collection.sealed {
            if !self.asked.iter().any(|(asked, _)| Arc::ptr_eq(handle, asked)) {
                let mut matches = Vec::new();
                for (place, loaded) in self.loaded.iter().enumerate() {
                    common_keys(&handle.segment, &loaded.segment, |ordinal, row| {
                        matches.push(Match { ordinal, loaded: (place, row) });
                    })?;
                }
                self.asked.push((handle.clone(), matches));
            }
        }
        Ok(())
    }

    /// The matches that are alive.
    fn collisions(&self) -> impl Iterator<Item = (&SealedHandle, u32, (usize, u32))> {
        self.asked.iter().flat_map(|(handle, matches)| {
            let alive = matches.iter().filter(|m| handle.segment.deaths().get(m.ordinal) == 0);
            alive.map(|m| (&**handle, m.ordinal, m.loaded))
        })
    }

    /// What dies when the load is committed, and how many rows that is.
    fn dying(&self, policy: OnCollision) -> Result<(Dying, u64)> {
        let (mut dying, mut count) = (Dying::new(), 0);
        for (handle, ordinal, (place, row)) in self.collisions() {
            count += 1;
            let (segment, row) = match policy {
                OnCollision::Replace => (handle.id(), ordinal),
                OnCollision::Keep => (self.loaded[place].id(), row),
                OnCollision::Refuse => return Err(self.refused(handle.segment.key(ordinal)?, place)),
            };
            dying.entry(segment).or_default().insert(row);
        }
        Ok((dying, count))
    }

    fn refused(&self, key: KeyRef<'_>, place: usize) -> Error {
        let of = self.files.get(place).map_or_else(String::new, |file| format!(" of {}", file.display()));
        Error::new(
            ErrorKind::AlreadyExists,
            format!(
                "the key {key:?}{of} is there already, as are {} of the {} keys of the load, and replacing or keeping \
                 rows was not asked for",
                self.collisions().count(),
                self.rows()
            ),
        )
    }

    /// The rows are of this lsn.
    fn set_version(&mut self, lsn: Lsn) -> Result<()> {
        self.loaded.iter_mut().try_for_each(|handle| {
            let handle = Arc::get_mut(handle).expect("nobody has seen it");
            handle.segment.set_version(lsn).map_err(|error| error.with_outcome(Outcome::NotApplied))
        })
    }

    /// Leaves out segments of which no row would live.
    fn drop_dead(&mut self, dying: &mut Dying) {
        self.loaded.retain(|handle| {
            let dead = dying.get(&handle.id()).map_or(0, RoaringBitmap::len);
            let lives = dead < u64::from(handle.segment.rows());
            if !lives {
                dying.remove(&handle.id());
            }
            lives
        });
        self.asked.clear();
    }
}

pub(crate) fn already_attached(file: &Path) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("{} is part of the store already", file.display()))
}

/// Rows of two segments that have the same key; of the first one, only rows that are not dead.
pub(crate) fn common_keys(
    a: &SealedSegment,
    b: &SealedSegment,
    mut found: impl FnMut(u32, u32),
) -> Result<()> {
    if a.rows() < b.rows() {
        for ordinal in (0..a.rows()).filter(|&ordinal| a.deaths().get(ordinal) == 0) {
            let key = a.key(ordinal)?;
            if let Some(row) = b.find(key, key.hash64())? {
                found(ordinal, row);
            }
        }
    } else {
        for row in 0..b.rows() {
            let key = b.key(row)?;
            if let Some(ordinal) = a.find(key, key.hash64())?.filter(|&o| a.deaths().get(o) == 0) {
                found(ordinal, row);
            }
        }
    }
    Ok(())
}

impl Engine {
    /// Makes the loaded segments part of the collection. After an error nothing is, and their files go with them; only of
    /// a failed catalog transaction the outcome is not known.
    pub(crate) fn attach(
        self: &Arc<Self>,
        id: CollectionId,
        name: &str,
        mut known: Known,
        policy: OnCollision,
    ) -> Result<BulkLoaded> {
        for _ in 0..ROUNDS {
            self.flush_collection(id, None).map_err(|error| error.with_outcome(Outcome::NotApplied))?;
            let view = self.core.view.load_full();
            let collection = view.lists.get(id, name)?;
            known.ask(collection)?;
            let current = self.core.view.load();
            let left: u32 = current.lists.get(id, name)?.unsealed().map(|segment| segment.rows()).sum();
            if left <= ROWS_LEFT {
                break;
            }
        }
        failpoint("load-keys-known");
        let _turn = self.turn(&self.seal_turn, None);
        // Whoever had the turn has sealed rows, and compactions go on.
        known.ask(self.core.view.load_full().lists.get(id, name)?)?;
        let mut catalog = self.catalog()?;
        let row = catalog.state().collections.get(&id).ok_or_else(|| dropped(name))?;
        known.check_against(catalog.state(), &row.schema)?;
        let log = self.log()?;
        // Nobody writes from here on, so what is found out holds until it is committed.
        let attached = log.exclusive(|inside| -> Result<_> {
            let sealed = self.seal_rest(&mut catalog, inside, id);
            sealed.map_err(|error| error.with_outcome(Outcome::NotApplied))?;
            failpoint("load-rest-sealed");
            self.commit_load(&mut catalog, inside, id, &mut known, policy)
        });
        let (loaded, floor) = attached.inspect_err(|_| self.note_poison())?;
        let generation = catalog.state().generation;
        drop(catalog);
        self.announce_room();
        self.workers.wake(self);
        // The rows are there: what fails from here on is told to those who come next.
        let told = log.barrier(generation).and_then(|()| {
            failpoint("load-barrier-written");
            log.remove_below(floor)
        });
        if let Err(error) = told {
            self.note_error(error);
        }
        Ok(loaded)
    }

    /// Seals what the collection has in memory, while nobody writes.
    fn seal_rest(
        &self,
        catalog: &mut CatalogGuard<'_>,
        inside: &mut Inside<'_, Applier>,
        id: CollectionId,
    ) -> Result<()> {
        {
            let mut live = self.core.live.lock();
            if live.freeze(&self.core, id) {
                live.publish(&self.core);
            }
        }
        loop {
            let view = self.core.view.load_full();
            let oldest = view.lists.collections.get(&id).and_then(|collection| collection.frozen.first());
            let Some(frozen) = oldest else { return Ok(()) };
            self.link_frozen(frozen, None)?;
            let sealed = self.write_frozen(frozen, view.lists.get(id, "of a bulk load")?, None)?;
            self.commit_seal(catalog, id, frozen, sealed, || inside.sync())?;
        }
    }

    /// Steps 3 to 5; what was loaded, and the log's floor. Everything in the collection is sealed.
    fn commit_load(
        &self,
        catalog: &mut CatalogGuard<'_>,
        inside: &mut Inside<'_, Applier>,
        id: CollectionId,
        known: &mut Known,
        policy: OnCollision,
    ) -> Result<(BulkLoaded, Lsn)> {
        let view = self.core.view.load_full();
        let collection = view.lists.get(id, "of a bulk load")?;
        if !seeded("load-ignores-late-writes") {
            known.ask(collection)?;
        }
        let rows = known.rows();
        let (mut dying, collisions) = known.dying(policy)?;
        known.drop_dead(&mut dying);

        // A file that allows only higher versions is refused before anything is logged.
        known.set_version(view.lsn + 1)?;
        let lsn = if seeded("load-lsn-not-logged") {
            view.lsn + 1
        } else {
            let logged = inside.append(&BatchEncoder::new().finish());
            logged.map_err(|error| error.with_outcome(Outcome::NotApplied))?
        };
        failpoint("load-lsn-taken");
        known.set_version(lsn)?;
        let floor = self.core.live.lock().floor(None);
        // A transaction that fails keeps all files: it may have happened.
        known.loaded.iter().for_each(|handle| handle.set_named());
        catalog.commit(|next| {
            if let Some(row) = next.collections.get_mut(&id) {
                row.sealed_lsn = lsn;
            }
            record_deaths(next, collection, lsn);
            for handle in &known.loaded {
                let meta = handle.segment.meta().clone();
                next.segments.insert(meta.id, SegmentRow { collection: id, meta });
            }
            for (segment, rows) in &dying {
                if !seeded("load-deaths-not-recorded") {
                    *next.deaths.entry(*segment).or_default() |= rows;
                }
            }
            next.wal_floor = next.wal_floor.max(floor);
            next.last_lsn = next.last_lsn.max(lsn);
        })?;
        failpoint("load-committed");
        {
            let mut live = self.core.live.lock();
            for handle in collection.sealed.iter().chain(&known.loaded) {
                for row in dying.get(&handle.id()).into_iter().flatten() {
                    handle.segment.deaths().set(row, lsn);
                }
            }
            live.change(id, |view| {
                view.sealed.append(&mut known.loaded);
                view.sealed_epoch += 1;
            });
            live.pending.entry(id).or_default().sealed_lsn = lsn;
            live.lsn = lsn;
            live.publish(&self.core);
        }
        failpoint("load-published");
        let (replaced, kept) = match policy {
            OnCollision::Keep => (0, collisions),
            _ => (collisions, 0),
        };
        Ok((BulkLoaded { lsn, inserted: rows - collisions, replaced, kept }, floor))
    }
}
