//! A store's engine: the core, the log and the catalog, and the rules by which they move together.
//!
//! Locks, in the order in which they are taken: a turn (one compaction, then one seal at a time) -> the catalog -> the
//! log's exclusion -> the apply lock. Readers take none of them.

use crate::background::{Workers, on_threads};
use crate::catalog::{Catalog, CatalogState};
use crate::core::Core;
use crate::idle::Seen;
use crate::write::Applier;
use nearstone_base::faults::failpoint;
use nearstone_base::sync::{Arc, AtomicBool, AtomicU64, Condvar, Mutex, MutexGuard, Ordering, thread};
use nearstone_base::vfs::VfsLock;
use nearstone_base::{CollectionId, Error, ErrorKind, Result};
use nearstone_compaction::pace::Pace;
use nearstone_segments::MutableSegment;
use nearstone_wal::{CleanMark, Log};
use std::time::Duration;

/// From so many unlinked rows on, writers link rows themselves before they return: the tail that searches scan
/// stays short, and the work is shared by those who cause it.
const UNLINKED_SOFT: u32 = 500;
/// Rows linked per call.
const LINK_STEP: u32 = 32;
/// How long a thread sleeps that waits for rows which others are linking.
const LINK_WAIT: Duration = Duration::from_micros(200);

pub(crate) struct Engine {
    pub(crate) core: Arc<Core>,
    /// `None` when opened for reading.
    pub(crate) log: Option<Log<Applier>>,
    /// `None` when opened for reading, and after closing.
    catalog: Mutex<Option<Catalog>>,
    pub(crate) seal_turn: Mutex<()>,
    pub(crate) compact_turn: Mutex<()>,
    /// Governs the work behind.
    pub(crate) pace: Arc<Pace>,
    pub(crate) workers: Workers,
    /// Whether the last compaction behind ended well: what cannot be merged slows nobody down.
    pub(crate) compacts: AtomicBool,
    /// Urgent pieces of work since compaction was looked at.
    pub(crate) urgent_pieces: AtomicU64,
    /// What was in memory when the work behind last had nothing else to do.
    pub(crate) seen: Seen,
    room: Mutex<()>,
    room_made: Condvar,
    lock: Mutex<Option<Box<dyn VfsLock>>>,
    /// The next segment id when the store was opened.
    first_segment: u64,
    pub(crate) counters: Counters,
    /// The last failure of work behind, for `stats`.
    pub(crate) last_error: Mutex<Option<Error>>,
}

/// Numbers for `stats`.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) seals: AtomicU64,
    pub(crate) compactions: AtomicU64,
    pub(crate) compacted_rows: AtomicU64,
    pub(crate) rebuilds: AtomicU64,
    pub(crate) stalls: AtomicU64,
    pub(crate) rested_micros: AtomicU64,
}

impl Engine {
    pub(crate) fn new(
        core: Arc<Core>,
        log: Option<Log<Applier>>,
        catalog: Option<Catalog>,
        lock: Option<Box<dyn VfsLock>>,
    ) -> Engine {
        let workers = Workers::new(core.options.background);
        let pace = Pace::new(core.clock.clone(), core.options.background_bytes_per_second);
        Engine {
            first_segment: core.next_segment(),
            core,
            log,
            catalog: Mutex::new(catalog),
            seal_turn: Mutex::new(()),
            compact_turn: Mutex::new(()),
            pace: Arc::new(pace),
            workers,
            compacts: AtomicBool::new(true),
            urgent_pieces: AtomicU64::new(0),
            seen: Seen::default(),
            room: Mutex::new(()),
            room_made: Condvar::new(),
            lock: Mutex::new(lock),
            counters: Counters::default(),
            last_error: Mutex::new(None),
        }
    }

    /// The log, or `ReadOnly`.
    pub(crate) fn log(&self) -> Result<&Log<Applier>> {
        self.log.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::ReadOnly,
                format!("the store {} was opened for reading only", self.core.dir.display()),
            )
        })
    }

    /// The catalog, locked; whoever holds it decides what is on disk.
    pub(crate) fn catalog(&self) -> Result<CatalogGuard<'_>> {
        self.core.check_open()?;
        let log = self.log()?;
        let guard = self.catalog.lock();
        if let Some(error) = log.poisoned() {
            self.note_poison();
            return Err(error);
        }
        if guard.is_none() {
            return Err(Error::new(
                ErrorKind::Closed,
                format!("the store {} is closed", self.core.dir.display()),
            ));
        }
        Ok(CatalogGuard { guard, engine: self })
    }

    /// Called wherever a write failed: once the log is poisoned, no file goes any more.
    pub(crate) fn note_poison(&self) {
        if self.log.as_ref().is_some_and(|log| log.poisoned().is_some()) {
            self.core.keep_files.store(true, Ordering::Release);
        }
    }

    /// Remembers a failure of the work behind, for `stats`; not that it was told to end. A refusal that repeats what is
    /// known already says less.
    pub(crate) fn note_error(&self, error: Error) {
        self.note_poison();
        if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::Closed) {
            return;
        }
        let mut last = self.last_error.lock();
        let known = last.as_ref().is_some_and(|last| error.to_string().contains(&last.to_string()));
        if !(known && error.kind() == ErrorKind::Poisoned) {
            *last = Some(error);
        }
    }

    /// `Poisoned` when it is: work behind stops.
    pub(crate) fn check_healthy(&self) -> Result<()> {
        self.core.check_open()?;
        match self.log()?.poisoned() {
            Some(error) => {
                self.note_poison();
                Err(error)
            }
            None => Ok(()),
        }
    }

    /// Waits until `bytes` more fit into the memory budget; `Busy` when that takes longer than the stall limit.
    pub(crate) fn wait_for_room(self: &Arc<Self>, bytes: u64) -> Result<()> {
        let options = &self.core.options;
        let fits = |used: u64| used.saturating_add(bytes) <= options.memory_budget;
        if fits(self.core.memory_bytes()) {
            return Ok(());
        }
        self.counters.stalls.fetch_add(1, Ordering::Relaxed);
        let start = self.core.clock.monotonic();
        // Also when it is paused, what makes room is done.
        let _hurry = self.pace.hurry();
        loop {
            self.check_healthy()?;
            let used = self.core.memory_bytes();
            // A batch larger than the whole budget still goes through, alone.
            if fits(used) || !self.freeze_largest() {
                return Ok(());
            }
            self.workers.wake(self);
            let waited = self.core.clock.monotonic().saturating_sub(start);
            if waited >= options.write_stall {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!(
                        "{bytes} bytes of new rows did not fit into the memory budget of {} bytes ({used} used) \
                         within {:?}",
                        options.memory_budget, options.write_stall
                    ),
                ));
            }
            let mut guard = self.room.lock();
            let wait = (options.write_stall - waited).min(Duration::from_millis(50));
            self.room_made.wait_for(&mut guard, wait);
        }
    }

    /// A seal gave memory back.
    pub(crate) fn announce_room(&self) {
        let _guard = self.room.lock();
        self.room_made.notify_all();
    }

    /// Freezes the largest mutable segment; `false` when there is nothing in memory at all.
    fn freeze_largest(&self) -> bool {
        let mut live = self.core.live.lock();
        let some_frozen = live.lists.collections.values().any(|c| !c.frozen.is_empty());
        if some_frozen {
            return true;
        }
        let largest = live
            .lists
            .collections
            .values()
            .filter(|c| c.mutable.rows() > 0)
            .max_by_key(|c| c.mutable.bytes())
            .map(|c| c.id);
        let Some(id) = largest else { return false };
        let frozen = live.freeze(&self.core, id);
        live.publish(&self.core);
        frozen
    }

    /// What a writer does after its batch is visible: link when the tail has grown long, and wake the workers.
    pub(crate) fn after_commit(self: &Arc<Self>, touched: &[CollectionId], rows: u32) {
        let view = self.core.view.load();
        for id in touched {
            let Some(collection) = view.lists.collections.get(id) else { continue };
            if collection.mutable.unlinked() > UNLINKED_SOFT {
                // Twice what it added: the tail shrinks while everybody writes.
                link_rows(&self.core, &collection.mutable, rows.saturating_mul(2));
            }
        }
        self.workers.wake(self);
    }

    /// Links the rows that a collection has now, on so many threads, and waits for those that others are linking.
    /// Rows that are written meanwhile are left: under steady writes this would never end.
    pub(crate) fn link_collection(self: &Arc<Self>, id: CollectionId, threads: usize) -> Result<()> {
        self.check_healthy()?;
        let view = self.core.view.load_full();
        let Some(collection) = view.lists.collections.get(&id) else { return Ok(()) };
        for segment in collection.unsealed() {
            let rows = segment.rows();
            on_threads(threads, || {
                while segment.linked_floor() < rows {
                    self.check_healthy()?;
                    if link_rows(&self.core, segment, LINK_STEP) == 0 {
                        // A worker at the lowest priority has the last ones: it needs the processor that a spin takes.
                        thread::sleep(LINK_WAIT);
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The last transaction: the log ends at `mark`.
    pub(crate) fn commit_clean(&self, mark: CleanMark) -> Result<()> {
        let mut guard = self.catalog.lock();
        let Some(catalog) = guard.as_mut() else { return Ok(()) };
        let mut next = (**catalog.state()).clone();
        let next_segment = self.core.next_segment();
        // An id that was taken may be that of a file which still comes: the next open must not give it to another.
        let known = next_segment == next.next_segment || next_segment == self.first_segment;
        if next.clean == Some(mark) && known {
            return Ok(());
        }
        next.next_segment = next_segment;
        next.last_lsn = next.last_lsn.max(mark.lsn);
        next.clean = Some(mark);
        catalog.commit(next)
    }

    /// Gives up the catalog and the lock, in this order. Later calls find them gone.
    pub(crate) fn release(&self) -> Result<()> {
        let catalog = self.catalog.lock().take();
        let closed = match catalog {
            Some(catalog) => {
                if self.log.as_ref().is_some_and(|log| log.poisoned().is_some()) {
                    catalog.poison();
                }
                catalog.close()
            }
            None => Ok(()),
        };
        failpoint("close-catalog-closed");
        self.lock.lock().take();
        closed
    }

    /// Keeps what a forked child must not touch from being dropped in it. A mutex that one of the parent's threads
    /// held at the fork stays locked here for ever, since that thread does not exist; what is in it is never dropped.
    pub(crate) fn forget_in_child(&self) {
        if let Some(mut catalog) = self.catalog.try_lock() {
            std::mem::forget(catalog.take());
        }
        if let Some(mut lock) = self.lock.try_lock() {
            std::mem::forget(lock.take());
        }
    }
}

/// Links up to `rows_max` rows of one segment on this thread; the number linked.
pub(crate) fn link_rows(core: &Core, segment: &MutableSegment, rows_max: u32) -> u32 {
    core.with_scratch(|scratch| {
        let mut linked = 0;
        while linked < rows_max {
            let step = segment.link_some(LINK_STEP.min(rows_max - linked), scratch);
            if step == 0 {
                break;
            }
            linked += step;
        }
        linked
    })
}

/// The locked catalog.
pub(crate) struct CatalogGuard<'a> {
    guard: MutexGuard<'a, Option<Catalog>>,
    engine: &'a Engine,
}

impl CatalogGuard<'_> {
    pub(crate) fn state(&self) -> &Arc<CatalogState> {
        self.guard.as_ref().expect("checked when the guard was made").state()
    }

    /// One catalog transaction: a commit point. When it fails nothing is known any more: the store is poisoned and
    /// no file is deleted.
    pub(crate) fn commit(&mut self, edit: impl FnOnce(&mut CatalogState)) -> Result<()> {
        let catalog = self.guard.as_mut().expect("checked when the guard was made");
        let mut next = (**catalog.state()).clone();
        edit(&mut next);
        next.next_segment = self.engine.core.next_segment();
        catalog.commit(next).inspect_err(|error| {
            catalog.poison();
            if let Some(log) = &self.engine.log {
                log.poison(error);
            }
            self.engine.note_poison();
        })
    }
}
