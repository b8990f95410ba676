//! Building sealed segments without a store: rows become files in a folder, and whoever has these files attaches them.
//!
//! A mark is put into the folder before the first file and goes when all of them are whole and durable: what a dying
//! process leaves is not taken for all rows. The next build in that folder starts over. The mark is locked while the build
//! lives, so that no other takes it for a dead one.

use crate::collect::Collector;
use crate::core::{Core, Live};
use crate::layout::UNFINISHED_BUILD;
use crate::options::StoreBuilder;
use crate::progress::Progress;
use crate::view::Lists;
use nearstone_base::sync::{Arc, AtomicBool};
use nearstone_base::vfs::{LockKind, OpenMode, Vfs, VfsLock};
use nearstone_base::{Error, ErrorKind, Key, Result, Schema};
use nearstone_compaction::gc::parse_segment_file;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// In the mark. One without it was made by locking it, a moment ago.
const BEGUN: &[u8] = b"a build that was not finished\n";

/// Sealed segments on their way, in a folder of their own; made by [`StoreBuilder::build_segments`]. Dropping it discards
/// everything, and the folder if it was made for the build.
///
/// Memory: one segment's rows and their graph. Disk: the finished segments.
pub struct SegmentBuild<'p> {
    core: Arc<Core>,
    collector: Collector<'p>,
    finished: bool,
    /// Whether the folder is there because of it.
    made_folder: bool,
    /// Goes last: when the mark is gone.
    _lock: Box<dyn VfsLock>,
}

impl<'p> SegmentBuild<'p> {
    pub(crate) fn new(builder: &StoreBuilder, folder: &Path, schema: Schema) -> Result<SegmentBuild<'p>> {
        let vfs = builder.vfs_or_default();
        let (lock, made_folder) = make_folder(&*vfs, folder)?;
        // A heart without log and catalog: nobody reads, and nothing is committed.
        let live = Live { lsn: 0, lists: Arc::new(Lists::default()), pending: BTreeMap::new() };
        let random = builder.random_or_default();
        let mut core = Core::new(
            random.uuid(),
            folder.to_path_buf(),
            vfs,
            builder.clock_or_default(),
            random,
            builder.options.clone(),
            live,
            1,
            Arc::new(AtomicBool::new(false)),
        );
        core.segments = folder.to_path_buf();
        let core = Arc::new(core);
        let collector = Collector::new(core.clone(), None, schema);
        Ok(SegmentBuild { collector, core, finished: false, made_folder, _lock: lock })
    }

    /// Links rows on so many threads, the calling one among them, 1024 at most.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> SegmentBuild<'p> {
        self.collector.threads = threads;
        self
    }

    /// Reports progress while rows are linked and written, and cancels the build when it is told to.
    #[must_use]
    pub fn progress(mut self, progress: Progress<'p>) -> SegmentBuild<'p> {
        self.collector.progress = Some(progress);
        self
    }

    /// Rows so far.
    pub fn len(&self) -> u64 {
        self.collector.rows()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a row, as [`BulkLoad::push`](crate::BulkLoad::push) does.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a key, vector or payload that the schema refuses, and for a key that was given already: the row is
    /// left out, and the build goes on. `DiskFull`, `Io`, `Cancelled`: the build has ended, and nothing of it is there.
    pub fn push(&mut self, key: impl Into<Key>, vector: &[f32], payload: impl Serialize) -> Result<()> {
        self.collector.check().map_err(|error| error.context("the build"))?;
        self.collector.push(&key.into(), vector, &payload)
    }

    /// Writes what is not written yet and gives all files, which are durable then; no file where there are no rows.
    ///
    /// # Errors
    ///
    /// `DiskFull`, `Io`, `Cancelled`: nothing of the build is there.
    pub fn finish(mut self) -> Result<Vec<PathBuf>> {
        self.collector.check().map_err(|error| error.context("the build"))?;
        let written = self.collector.finish()?;
        let (vfs, folder) = (&*self.core.vfs, &self.core.segments);
        vfs.remove(&folder.join(UNFINISHED_BUILD))?;
        vfs.sync_dir(folder)?;
        self.finished = true;
        let files = written.iter().map(|handle| {
            handle.set_named();
            handle.segment.path().to_path_buf()
        });
        Ok(files.collect())
    }
}

impl Drop for SegmentBuild<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // The files first: what is left of them in a crash between is marked.
            self.collector.discard();
            let (vfs, folder) = (&self.core.vfs, &self.core.segments);
            // A disk may keep one removal and lose another.
            if vfs.sync_dir(folder).is_ok() {
                let _ = vfs.remove(&folder.join(UNFINISHED_BUILD));
            }
            if self.made_folder {
                let _ = vfs.remove_dir(folder);
            }
        }
    }
}

impl std::fmt::Debug for SegmentBuild<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SegmentBuild({}, {} rows)", self.core.segments.display(), self.len())
    }
}

/// Makes the folder, or empties it of an unfinished build, and marks it; the lock on the mark, and whether it was made.
fn make_folder(vfs: &dyn Vfs, folder: &Path) -> Result<(Box<dyn VfsLock>, bool)> {
    let there = vfs.info(folder)?;
    match there {
        None => {
            vfs.create_dir(folder)?;
            let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
            vfs.sync_dir(parent.unwrap_or(Path::new(".")))?;
        }
        Some(info) if !info.is_dir => {
            let text = format!("{} is a file: segments are built in a folder", folder.display());
            return Err(Error::new(ErrorKind::AlreadyExists, text));
        }
        // Nothing comes into a folder that is somebody's.
        Some(_) => drop(leftovers(vfs, folder)?),
    }
    let mark = folder.join(UNFINISHED_BUILD);
    let lock = vfs.lock(&mark, LockKind::Exclusive)?.ok_or_else(|| {
        let text =
            format!("another build in {} is under way: it holds the lock on its mark", folder.display());
        Error::new(ErrorKind::Busy, text)
    })?;
    // As it is now that no other build can change it.
    let names = leftovers(vfs, folder)?;
    let info = vfs.info(&mark)?;
    if let (Some(name), Some(0)) = (names.first(), info.map(|info| info.len)) {
        // The files of a build that was finished meanwhile, under a mark that locking has made.
        vfs.remove(&mark)?;
        return Err(holds_something(folder, name));
    }
    names.iter().try_for_each(|name| vfs.remove(&folder.join(name)))?;
    // Over what it says already: a mark without words is one that locking has made.
    let file = vfs.open(&mark, OpenMode::ReadWrite)?;
    file.write_at(BEGUN, 0)?;
    file.sync_all()?;
    vfs.sync_dir(folder)?;
    Ok((lock, there.is_none()))
}

/// The files of an unfinished build; an error if anything else is there.
fn leftovers(vfs: &dyn Vfs, folder: &Path) -> Result<Vec<String>> {
    let mut names = vfs.list(folder)?;
    let mark = names.iter().position(|name| name == UNFINISHED_BUILD);
    if let Some(mark) = mark {
        names.remove(mark);
    }
    let foreign = names.iter().find(|name| mark.is_none() || parse_segment_file(name).is_none());
    foreign.map_or(Ok(()), |name| Err(holds_something(folder, name)))?;
    Ok(names)
}

fn holds_something(folder: &Path, name: &str) -> Error {
    let text =
        format!("{} holds {name:?}: segments are built in a missing or empty folder", folder.display());
    Error::new(ErrorKind::AlreadyExists, text)
}
