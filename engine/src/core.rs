//! The heart that readers, the log's leader and the workers share: the published view, the apply lock, and what
//! must be known of a store's state to refuse a call.

use crate::background::cores;
use crate::options::{Background, Options};
use crate::view::{CollectionView, Frozen, Lists, SealedHandle, View};
use nearstone_base::clock::Clock;
use nearstone_base::faults::seeded;
use nearstone_base::random::Random;
use nearstone_base::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, Published};
use nearstone_base::vfs::{Residency, Vfs};
use nearstone_base::{CollectionId, Error, ErrorKind, Lsn, Result, Schema, SegmentId, Uuid};
use nearstone_compaction::gc::segment_file;
use nearstone_segments::topk::Scratch;
use nearstone_segments::{MutableSegment, SealedSegment, SegmentMeta};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Scratch spaces kept for the next search.
const SCRATCH_KEPT: usize = 32;

pub(crate) struct Core {
    pub(crate) uuid: Uuid,
    pub(crate) dir: PathBuf,
    /// The folder of segments.
    pub(crate) segments: PathBuf,
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) options: Options,
    /// What readers load.
    pub(crate) view: Published<View>,
    /// The apply lock: whoever holds it is the only one who changes lists, rows and deaths.
    pub(crate) live: Mutex<Live>,
    /// The next segment id; ids are taken before the catalog hears of them, and never given back.
    next_segment: AtomicU64,
    closed: AtomicBool,
    /// Set with the first poisoning: no file is unlinked any more.
    pub(crate) keep_files: Arc<AtomicBool>,
    /// A forked child shares the parent's lock and files: it must not touch them.
    process: u32,
    scratch: crossbeam::queue::ArrayQueue<Scratch>,
}

/// The write side of the lists, under the apply lock.
pub(crate) struct Live {
    pub(crate) lsn: Lsn,
    pub(crate) lists: Arc<Lists>,
    pub(crate) pending: BTreeMap<CollectionId, Pending>,
}

/// What of a collection is not in the catalog yet.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Pending {
    /// First operation since the last freeze.
    pub(crate) first: Option<Lsn>,
    /// The catalog holds exactly the state at this lsn.
    pub(crate) sealed_lsn: Lsn,
}

impl Core {
    #[expect(clippy::too_many_arguments, reason = "each is a seam")]
    pub(crate) fn new(
        uuid: Uuid,
        dir: PathBuf,
        vfs: Arc<dyn Vfs>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        options: Options,
        live: Live,
        next_segment: u64,
        keep_files: Arc<AtomicBool>,
    ) -> Core {
        let view = Published::from_pointee(View { lsn: live.lsn, lists: live.lists.clone() });
        Core {
            uuid,
            segments: crate::layout::segments(&dir),
            dir,
            vfs,
            clock,
            random,
            options,
            view,
            live: Mutex::new(live),
            next_segment: AtomicU64::new(next_segment),
            closed: AtomicBool::new(false),
            keep_files,
            process: std::process::id(),
            scratch: crossbeam::queue::ArrayQueue::new(SCRATCH_KEPT),
        }
    }

    /// `Closed` after `close`, and in a forked child.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Closed, format!("the store {} is closed", self.dir.display())));
        }
        if self.process != std::process::id() {
            return Err(Error::new(
                ErrorKind::Closed,
                format!(
                    "the store {} was opened by process {} and this is a forked child, {}: open it again here, \
                     after the parent has closed it",
                    self.dir.display(),
                    self.process,
                    std::process::id()
                ),
            ));
        }
        Ok(())
    }

    /// Whether this process opened the store (and may release what it holds).
    pub(crate) fn is_ours(&self) -> bool {
        self.process == std::process::id()
    }

    /// True the first time.
    pub(crate) fn set_closed(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn take_segment_id(&self) -> SegmentId {
        SegmentId(self.next_segment.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn next_segment(&self) -> u64 {
        self.next_segment.load(Ordering::Relaxed)
    }

    pub(crate) fn wall_secs(&self) -> u64 {
        self.clock.wall().as_secs()
    }

    /// Runs `f` with a scratch space that a former search has warmed, if there is one.
    pub(crate) fn with_scratch<T>(&self, f: impl FnOnce(&mut Scratch) -> T) -> T {
        let mut scratch = self.scratch.pop().unwrap_or_default();
        let result = f(&mut scratch);
        // A full pool drops it.
        let _ = self.scratch.push(scratch);
        result
    }

    /// Bytes of rows that are not sealed yet.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let view = self.view.load();
        view.lists.collections.values().flat_map(|c| c.unsealed()).map(|s| s.bytes()).sum()
    }

    /// Threads of a call that makes segments: all cores, if the store may use them.
    pub(crate) fn threads(&self) -> usize {
        if self.options.background == Background::Manual { 1 } else { cores() }
    }

    /// Opens a file that has just been written, as a reader would. Nothing names it yet: it goes at once when that fails,
    /// and with its handle unless [`SealedHandle::set_named`] is called.
    pub(crate) fn open_new(&self, meta: &SegmentMeta) -> Result<Arc<SealedHandle>> {
        let opened = open_segment(&self.vfs, &self.segments, meta, self.options.residency, &self.keep_files);
        let handle = opened.inspect_err(|_| self.remove_new(meta.id))?;
        handle.set_obsolete();
        Ok(handle)
    }

    /// Removes what is left of a file that nothing names. Best effort: an open sweeps what stays.
    pub(crate) fn remove_new(&self, id: SegmentId) {
        if !self.keep_files.load(Ordering::Acquire) {
            let _ = self.vfs.remove(&self.segments.join(segment_file(id)));
        }
    }
}

pub(crate) fn open_segment(
    vfs: &Arc<dyn Vfs>,
    segments: &Path,
    meta: &SegmentMeta,
    residency: Residency,
    keep_files: &Arc<AtomicBool>,
) -> Result<Arc<SealedHandle>> {
    let path = segments.join(segment_file(meta.id));
    let segment =
        SealedSegment::open(&**vfs, &path, meta, residency).map_err(|error| match error.kind() {
            // The catalog names it: that it is gone is damage, not the absence of a store.
            ErrorKind::NotFound => {
                Error::corruption(&path, 0, "a file that the catalog names", "no such file")
            }
            _ => error,
        })?;
    Ok(Arc::new(SealedHandle::new(segment, vfs.clone(), keep_files.clone())))
}

impl Live {
    /// Makes what the lock's holder did visible.
    pub(crate) fn publish(&self, core: &Core) {
        core.view.store(Arc::new(View { lsn: self.lsn, lists: self.lists.clone() }));
    }

    /// Changes one collection's view; the next [`Live::publish`] shows it.
    pub(crate) fn change(&mut self, id: CollectionId, f: impl FnOnce(&mut CollectionView)) {
        let lists = Arc::make_mut(&mut self.lists);
        if let Some(view) = lists.collections.get_mut(&id) {
            f(Arc::make_mut(view));
        }
    }

    pub(crate) fn add_collection(
        &mut self,
        id: CollectionId,
        name: &str,
        schema: Schema,
        mutable: SegmentId,
    ) {
        let view = CollectionView {
            id,
            name: name.into(),
            schema,
            mutable: Arc::new(MutableSegment::new(mutable, schema)),
            frozen: Vec::new(),
            sealed: Vec::new(),
            sealed_epoch: 0,
        };
        Arc::make_mut(&mut self.lists).collections.insert(id, Arc::new(view));
        self.pending.insert(id, Pending::default());
    }

    /// Turns the mutable segment into a frozen one and lets a new one take over. `false` when nothing happened to
    /// the collection since the last freeze. An empty segment is frozen too when there were operations (deletes of
    /// sealed rows): sealing it brings the deaths into the catalog.
    pub(crate) fn freeze(&mut self, core: &Core, id: CollectionId) -> bool {
        let Some(first) = self.pending.get_mut(&id).and_then(|p| p.first.take()) else { return false };
        let last = self.lsn;
        let next = core.take_segment_id();
        self.change(id, |view| {
            view.mutable.freeze();
            let segment =
                std::mem::replace(&mut view.mutable, Arc::new(MutableSegment::new(next, view.schema)));
            view.frozen.push(Frozen { segment, first, last });
        });
        true
    }

    /// Gives a collection another schema, of the same rows. What is in memory is frozen, whatever its graph: it is sealed
    /// by the schema that the collection has then.
    pub(crate) fn change_schema(&mut self, core: &Core, id: CollectionId, schema: Schema) {
        self.change(id, |view| view.schema = schema);
        let frozen = !seeded("rebuild-forgets-rows-in-memory") && self.freeze(core, id);
        if !frozen {
            let next = core.take_segment_id();
            self.change(id, |view| view.mutable = Arc::new(MutableSegment::new(next, schema)));
        }
    }

    /// The lowest lsn that some collection needs from the log, if `sealing` were sealed up to its oldest freeze.
    pub(crate) fn floor(&self, sealing: Option<CollectionId>) -> Lsn {
        let mut floor = self.lsn + 1;
        for (id, view) in &self.lists.collections {
            if seeded("floor-ignores-others") && sealing.is_some_and(|sealing| sealing != *id) {
                continue;
            }
            let skip = usize::from(sealing == Some(*id));
            let frozen = view.frozen.get(skip).map(|f| f.first);
            let current = self.pending.get(id).and_then(|p| p.first);
            if let Some(first) = frozen.or(current) {
                floor = floor.min(first);
            }
        }
        floor
    }
}
