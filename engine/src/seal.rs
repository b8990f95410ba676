//! Sealing: a frozen segment becomes a file, and the catalog the state at its freeze.
//!
//! 1. Frozen between batches, under the apply lock, at lsn S; all its rows are linked.
//! 2. The log is synced: the catalog never knows more than the log has made durable.
//! 3. The file is written, footer last, synced, renamed, the folder synced; opened and checked as a reader would.
//! 4. **One catalog transaction, the commit point**: the segment, `sealed_lsn = S`, the deaths at S of the
//!    collection's other segments, the log's new floor.
//! 5. Briefly under the apply lock: deaths since S are carried over, the new list is published.
//! 6. The log learns the catalog's generation; files wholly below the floor go, oldest first.
//!
//! Power may go between any two of these. Before 4 the log still holds everything and the file is swept; after 4 the
//! log's records up to S are skipped at replay.

use crate::background::on_threads;
use crate::catalog::{CatalogState, SegmentRow};
use crate::core::{Core, Live};
use crate::engine::{CatalogGuard, Engine, link_rows};
use crate::view::{CollectionView, Frozen, SealedHandle};
use nearstone_base::faults::{failpoint, seeded};
use nearstone_base::sync::{Arc, Mutex, MutexGuard, Ordering, thread};
use nearstone_base::{CollectionId, Error, ErrorKind, Lsn, Result, Schema};
use nearstone_compaction::pace::Work;
use nearstone_segments::MutableSegment;
use nearstone_segments::seal::{
    Batches, SealTarget, rebuild_frozen, sampled_recall, seal_batched, seal_frozen,
};

/// Rows linked between two looks at whether to stop.
const LINK_PIECE: u32 = 128;
/// The recall gate: so many of the segment's own rows are looked for, with a walk and with a scan.
const GATE_SAMPLES: u32 = 20;
const GATE_LIMIT: usize = 10;
const GATE_EF: usize = 64;
/// A graph that finds less is rebuilt. Low enough that hard data (uniform noise in many dimensions, where even a
/// fresh graph finds little) is not rebuilt in vain each time.
const GATE_RECALL: f32 = 0.5;

impl Engine {
    /// Seals everything a collection has in memory; for a call, or as a piece of work behind.
    pub(crate) fn flush_collection(self: &Arc<Self>, id: CollectionId, work: Option<Work>) -> Result<()> {
        self.check_healthy()?;
        let until = {
            let mut live = self.core.live.lock();
            if live.freeze(&self.core, id) {
                live.publish(&self.core);
            }
            live.lsn
        };
        loop {
            let turn = self.turn(&self.seal_turn, work);
            let view = self.core.view.load_full();
            // What was frozen since is not waited for: under steady writes that would never end.
            let oldest = view.lists.collections.get(&id).and_then(|c| c.frozen.first());
            let Some(frozen) = oldest.filter(|frozen| frozen.last <= until) else { return Ok(()) };
            self.link_frozen(frozen, work)?;
            self.seal_oldest(id, &turn, work)?;
        }
    }

    /// A turn to seal or to compact. Work behind that has it neither parks nor holds back while a call waits for it.
    pub(crate) fn turn<'a>(&self, turn: &'a Mutex<()>, work: Option<Work>) -> MutexGuard<'a, ()> {
        let _hurry = work.is_none().then(|| self.pace.hurry());
        turn.lock()
    }

    /// Links the rows of a frozen segment, for a call on all cores that the store may use, behind on as many threads as
    /// there are; returns when none is left.
    pub(crate) fn link_frozen(&self, frozen: &Frozen, work: Option<Work>) -> Result<()> {
        on_threads(self.threads(work), || {
            while !frozen.segment.all_linked() {
                work.map_or(Ok(()), |work| self.pace.step(work))?;
                if link_rows(&self.core, &frozen.segment, LINK_PIECE) == 0 {
                    // The last rows are being linked by others.
                    thread::yield_now();
                }
                self.check_healthy()?;
            }
            Ok(())
        })
    }

    /// Seals a collection's oldest frozen segment; `false` when there is none. The turn keeps two seals from
    /// committing in another order than that of their freezes.
    pub(crate) fn seal_oldest(
        self: &Arc<Self>,
        id: CollectionId,
        _turn: &MutexGuard<'_, ()>,
        work: Option<Work>,
    ) -> Result<bool> {
        self.check_healthy()?;
        let view = self.core.view.load_full();
        let Some(collection) = view.lists.collections.get(&id) else { return Ok(false) };
        let Some(frozen) = collection.frozen.first() else { return Ok(false) };
        failpoint("seal-frozen");
        if !frozen.segment.all_linked() {
            self.link_frozen(frozen, work)?;
        }
        let log = self.log()?;
        if !seeded("seal-before-log-sync") {
            log.sync().inspect_err(|_| self.note_poison())?;
        }

        failpoint("seal-log-synced");
        let sealed = self.write_frozen(frozen, collection, work)?;
        failpoint("seal-verified");
        let mut catalog = self.catalog()?;
        if !catalog.state().collections.contains_key(&id) {
            // Dropped while the file was being written, which goes with its handle.
            return Ok(true);
        }
        let floor = self.commit_seal(&mut catalog, id, frozen, sealed, || log.sync())?;
        let generation = catalog.state().generation;
        drop(catalog);
        self.announce_room();
        log.barrier(generation).inspect_err(|_| self.note_poison())?;
        failpoint("seal-barrier-written");
        log.remove_below(floor)?;
        Ok(true)
    }

    /// Writes the file of a frozen segment of a collection; see [`write_sealed`].
    pub(crate) fn write_frozen(
        &self,
        frozen: &Frozen,
        collection: &CollectionView,
        work: Option<Work>,
    ) -> Result<Option<(Arc<SealedHandle>, Vec<u32>)>> {
        let site = self.site(work);
        let target = site.target(frozen.segment.id(), self.threads(work));
        let target = SealTarget { like: collection.largest(), ..target };
        let cancel = || self.core.is_closed() || work.is_some_and(|work| self.pace.step(work).is_err());
        write_sealed(&self.core, &frozen.segment, &collection.schema, frozen.last, &target, &cancel)
    }

    /// The commit point of a seal, and the swap that follows; the log's new floor. The collection is in the catalog, and
    /// `sync_log` makes durable what the log holds.
    pub(crate) fn commit_seal(
        &self,
        catalog: &mut CatalogGuard<'_>,
        id: CollectionId,
        frozen: &Frozen,
        sealed: Option<(Arc<SealedHandle>, Vec<u32>)>,
        sync_log: impl FnOnce() -> Result<Lsn>,
    ) -> Result<Lsn> {
        let current = self.core.view.load_full();
        let collection = current.lists.get(id, "of a seal")?;
        let floor = self.core.live.lock().floor(Some(id));
        // The floor may lie above S when nothing else needs the log: what is below it must be durable.
        if !seeded("seal-before-log-sync") {
            sync_log().inspect_err(|_| self.note_poison())?;
        }
        failpoint("seal-before-commit");
        // A transaction that fails keeps all files: it may have happened.
        if let Some((handle, _)) = &sealed {
            handle.set_named();
        }
        catalog.commit(|next| {
            record_seal(next, collection, frozen.last, floor);
            if let Some((handle, _)) = &sealed {
                let meta = handle.segment.meta().clone();
                next.segments.insert(meta.id, SegmentRow { collection: id, meta });
            }
        })?;
        failpoint("seal-committed");
        {
            let mut live = self.core.live.lock();
            swap(&mut live, id, frozen, sealed);
            live.publish(&self.core);
        }
        failpoint("seal-swapped");
        self.counters.seals.fetch_add(1, Ordering::Relaxed);
        Ok(floor)
    }
}

/// Writes the file of a segment whose rows are all linked, as of lsn `at`, and opens it as a reader would. `None` when no
/// row is alive. Returns the sealed segment and, for each of its rows, its ordinal in the one in memory. Nothing is left
/// after an error, and the file goes with its handle until something names it.
///
/// The file is of this schema. Rows that were linked by another one, before a rebuild, get a new graph.
pub(crate) fn write_sealed(
    core: &Core,
    segment: &MutableSegment,
    schema: &Schema,
    at: Lsn,
    target: &SealTarget<'_>,
    cancel: &dyn Fn() -> bool,
) -> Result<Option<(Arc<SealedHandle>, Vec<u32>)>> {
    let undone = |_: &Error| core.remove_new(target.id);
    if segment.schema() == schema {
        let Some(output) = seal_frozen(segment, at, target, cancel).inspect_err(undone)? else {
            return Ok(None);
        };
        let handle = core.open_new(&output.meta)?;
        let refined = !segment.needs_refinement() || handle.segment.has_inline_rows();
        if refined && sampled_recall(&handle.segment, GATE_SAMPLES, GATE_LIMIT, GATE_EF)? >= GATE_RECALL {
            return Ok(Some((handle, output.order)));
        }
        // Healing did not save the graph, or it lacks its refinement: it is built anew, under the same name, which is free
        // again when the handle is gone.
    }
    // In a space of its own, in case that was it.
    let target = &SealTarget { like: None, ..*target };
    let rebuilt = rebuild_frozen(segment, schema, at, target, cancel).inspect_err(undone)?;
    rebuilt.map(|output| Ok((core.open_new(&output.meta)?, output.order))).transpose()
}

/// As [`write_sealed`], for rows none of which is dead, with a graph that is built in batches. `None`, and no file, when they are to
/// be linked one by one after all.
pub(crate) fn write_built(
    core: &Core,
    segment: &MutableSegment,
    batches: &Batches,
    target: &SealTarget<'_>,
    cancel: &dyn Fn() -> bool,
) -> Result<Option<Arc<SealedHandle>>> {
    let built = seal_batched(segment, batches, target, cancel).inspect_err(|_| core.remove_new(target.id));
    let Some(output) = built? else { return Ok(None) };
    let handle = core.open_new(&output.meta)?;
    let found = sampled_recall(&handle.segment, GATE_SAMPLES, GATE_LIMIT, GATE_EF)?;
    Ok((found >= GATE_RECALL).then_some(handle))
}

/// The catalog becomes the state of the collection at lsn `at`.
fn record_seal(next: &mut CatalogState, collection: &CollectionView, at: Lsn, floor: Lsn) {
    if let Some(row) = next.collections.get_mut(&collection.id) {
        row.sealed_lsn = at + u64::from(seeded("seal-lsn-too-high"));
    }
    if !seeded("seal-deaths-not-recorded") {
        record_deaths(next, collection, at);
    }
    next.wal_floor = next.wal_floor.max(floor);
    next.last_lsn = next.last_lsn.max(at).max(floor - 1);
}

/// Writes down which sealed rows of a collection are dead at `at`.
pub(crate) fn record_deaths(next: &mut CatalogState, collection: &CollectionView, at: Lsn) {
    for handle in &collection.sealed {
        let dead = handle.segment.deaths().dead_at(at);
        if !dead.is_empty() {
            next.deaths.insert(handle.id(), dead);
        }
    }
}

/// Lets the sealed segment take the frozen one's place, with all deaths up to this moment.
pub(crate) fn swap(
    live: &mut Live,
    id: CollectionId,
    frozen: &Frozen,
    sealed: Option<(Arc<SealedHandle>, Vec<u32>)>,
) {
    if let Some((handle, order)) = &sealed {
        for (new, &old) in order.iter().enumerate() {
            let death = frozen.segment.deaths().get(old);
            if death != 0 && !seeded("seal-drops-later-deaths") {
                debug_assert!(death > frozen.last, "rows that were dead at the freeze are not in the file");
                handle.segment.deaths().set(new as u32, death);
            }
        }
    }
    live.change(id, |view| {
        debug_assert!(
            Arc::ptr_eq(&view.frozen[0].segment, &frozen.segment),
            "seals commit in the order of freezes"
        );
        view.frozen.remove(0);
        if let Some((handle, _)) = sealed {
            view.sealed.push(handle);
            view.sealed_epoch += 1;
        }
    });
    if let Some(pending) = live.pending.get_mut(&id) {
        pending.sealed_lsn = frozen.last;
    }
}

/// For work that was overtaken by a drop or a close.
pub(crate) fn overtaken(what: &str) -> Error {
    Error::new(ErrorKind::Cancelled, format!("{what}: the collection was dropped meanwhile"))
}
