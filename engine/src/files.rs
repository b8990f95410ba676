//! Files that were built elsewhere, on their way into a collection.
//!
//! 1. Each is looked at: it is whole, of the collection's schema, and not part of the store already.
//! 2. Each is copied (or linked) into the folder of segments under a new id, synced, opened as a reader would, and read
//!    and checked whole. Nothing names it yet: it goes when anything fails, and the next open sweeps what a dying process
//!    leaves.
//! 3. No key comes in two of them. Then they become part of the collection in one moment: see [`crate::attach`].

use crate::attach::{Known, already_attached, common_keys};
use crate::collection::Collection;
use crate::core::Core;
use crate::engine::Engine;
use crate::layout::UNFINISHED_BUILD;
use crate::load::{BulkLoaded, OnCollision};
use crate::progress::{Progress, Step, no_progress, report};
use crate::store::describe;
use crate::view::SealedHandle;
use nearstone_base::faults::failpoint;
use nearstone_base::sync::{Arc, Ordering};
use nearstone_base::vfs::{OpenMode, read_exact_at};
use nearstone_base::{Error, ErrorKind, Result, Schema, SegmentId};
use nearstone_compaction::gc::segment_file;
use nearstone_segments::{SealedSegment, SegmentMeta};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Bytes copied between two reports.
const COPY_BYTES: usize = 1 << 20;

/// How a built file becomes one of the store's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TakeFiles {
    /// It is copied.
    #[default]
    Copy,
    /// It gets a second name (a hard link) where the file system has such, and is copied elsewhere, as is what a symbolic
    /// link leads to. Whoever changes it under the old name damages the store.
    Link,
    /// As `Link`, and the old name is removed when the rows are there: of a symbolic link that one, not the file it leads
    /// to. A name that can't be removed stays, and is told by
    /// [`StoreStats::last_error`](crate::StoreStats::last_error).
    Move,
}

/// How files are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AttachOptions {
    on_collision: OnCollision,
    take: TakeFiles,
}

impl AttachOptions {
    /// Files are copied, and rows replace those whose keys are there.
    pub fn new() -> AttachOptions {
        AttachOptions::default()
    }

    /// What becomes of rows whose keys are there. Default: [`OnCollision::Replace`].
    #[must_use]
    pub fn on_collision(mut self, policy: OnCollision) -> AttachOptions {
        self.on_collision = policy;
        self
    }

    /// How files are taken. Default: [`TakeFiles::Copy`].
    #[must_use]
    pub fn take(mut self, how: TakeFiles) -> AttachOptions {
        self.take = how;
        self
    }
}

impl Collection {
    /// Makes the rows of built files part of the collection, all at one lsn: as a bulk load of them would, without linking a
    /// row. Their profile and codes may be others: they serve as they are until they are merged. The files come from
    /// [`StoreBuilder::build_segments`](crate::StoreBuilder::build_segments), on this machine or another one.
    ///
    /// Cost: reading each file twice (once, when it is linked) and writing it, and a look-up of each key, besides what
    /// [`BulkLoad::finish`](crate::BulkLoad::finish) takes.
    ///
    /// # Errors
    ///
    /// Each names the file and the reason, and nothing has changed. `InvalidArgument`: no file, a file given twice, one of
    /// another schema, one of an unfinished build or out of a store (also one that a bulk load has written), a key in two
    /// files. `AlreadyExists`: it is part of the store already, or a key is there, with [`OnCollision::Refuse`]. `Corruption`, `NotFound`, `UnsupportedVersion`, `DiskFull`. Else as
    /// [`BulkLoad::finish`](crate::BulkLoad::finish).
    pub fn attach(&self, files: &[impl AsRef<Path>], options: AttachOptions) -> Result<BulkLoaded> {
        self.attach_with(files, options, &mut no_progress)
    }

    /// [`Collection::attach`] that reports progress and can be cancelled.
    pub fn attach_with(
        &self,
        files: &[impl AsRef<Path>],
        options: AttachOptions,
        progress: Progress<'_>,
    ) -> Result<BulkLoaded> {
        self.name()?;
        let engine = &self.handle.engine;
        engine.check_healthy()?;
        let files: Vec<PathBuf> = files.iter().map(|file| file.as_ref().to_path_buf()).collect();
        if files.is_empty() {
            return Err(Error::invalid("no file to attach: at least one is needed"));
        }
        let schema = self.schema();
        let of = |file: &Path| format!("attaching {}", file.display());
        let mut metas = Vec::new();
        let mut known = BTreeSet::new();
        for file in &files {
            let meta = inspect(engine, file, &schema).map_err(|error| error.context(of(file)))?;
            if !known.insert(meta.uuid.0) {
                return Err(Error::invalid(format!("{} is given twice", file.display())));
            }
            metas.push(meta);
        }
        let mut taken = Vec::new();
        for (file, meta) in files.iter().zip(&metas) {
            let handle = take(engine, file, meta, options.take, progress);
            // After `close`, the next open takes away files under way.
            let cause = |error| engine.core.check_open().err().unwrap_or(error);
            taken.push(handle.map_err(|error| cause(error).context(of(file)))?);
        }
        engine.core.vfs.sync_dir(&engine.core.segments)?;
        check_keys(&taken, &files)?;
        failpoint("attach-files-taken");
        let attached = engine.attach(
            self.id,
            self.name_when_opened(),
            Known::new(taken, files.clone()),
            options.on_collision,
        )?;
        if options.take == TakeFiles::Move {
            for file in &files {
                if let Err(error) = engine.core.vfs.remove(file) {
                    engine.note_error(error.context("a file that was attached"));
                }
                failpoint("attach-file-removed");
            }
        }
        Ok(attached)
    }
}

/// What a file says of itself, if it can be attached.
fn inspect(engine: &Engine, file: &Path, schema: &Schema) -> Result<SegmentMeta> {
    let vfs = &*engine.core.vfs;
    let meta = SealedSegment::inspect(vfs, file)?;
    if !meta.schema.fits(schema) {
        let (its, wanted) = (describe(&meta.schema), describe(schema));
        return Err(Error::invalid(format!(
            "it is of another schema ({its}) than the collection ({wanted})"
        )));
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    if vfs.info(&folder.join(UNFINISHED_BUILD))?.is_some() {
        return Err(Error::invalid(format!("the build in {} was not finished", folder.display())));
    }
    let view = engine.core.view.load();
    let mut there = view.lists.collections.values().flat_map(|collection| &collection.sealed);
    if there.any(|handle| handle.segment.meta().uuid == meta.uuid) {
        return Err(already_attached(file));
    }
    if meta.lsn_max != 0 {
        return Err(Error::invalid(format!(
            "it comes out of a store, where its rows have versions from {} on: versions, and which rows are deleted, \
             mean nothing without that store; only files that were built without one are attached",
            meta.lsn_min
        )));
    }
    Ok(meta)
}

/// Brings a file into the folder of segments, and checks all of it there. The folder is still to be synced.
fn take(
    engine: &Engine,
    file: &Path,
    meta: &SegmentMeta,
    how: TakeFiles,
    progress: Progress<'_>,
) -> Result<Arc<SealedHandle>> {
    let core = &engine.core;
    let id = take_id(engine)?;
    let path = core.segments.join(segment_file(id));
    bring(core, file, (id, &path), meta.len, how, progress)?;
    failpoint("attach-file-brought");
    let handle = core.open_new(&SegmentMeta { id, ..meta.clone() })?;
    if !handle.segment.is_unversioned() {
        return Err(Error::invalid(
            "its rows have versions, which mean nothing outside of the store they come from",
        ));
    }
    handle.segment.verify(&mut |done, total| {
        progress(Step { phase: "verify", done, total }) == ControlFlow::Continue(())
    })?;
    Ok(handle)
}

/// An id that the store opened after this one never gives to another file: `close` tells the catalog of all that were
/// taken, under the same lock, once the store says that it is closed.
fn take_id(engine: &Engine) -> Result<SegmentId> {
    let _catalog = engine.catalog()?;
    engine.core.check_open()?;
    Ok(engine.core.take_segment_id())
}

/// Copies or links a file to its new name. After an error nothing is there that was not there before.
fn bring(
    core: &Core,
    file: &Path,
    (id, path): (SegmentId, &Path),
    len: u64,
    how: TakeFiles,
    progress: Progress<'_>,
) -> Result<()> {
    let vfs = &*core.vfs;
    let source = vfs.open(file, OpenMode::Read)?;
    check_free(core, path)?;
    if how != TakeFiles::Copy && vfs.hard_link(file, path)? {
        // Who wrote it may not have waited for the disk.
        return source.sync_all().inspect_err(|_| remove(core, path));
    }
    let tmp = core.segments.join(segment_file(id).replace(".seg", ".tmp"));
    let target = vfs.open(&tmp, OpenMode::CreateNew)?;
    let mut copy = || -> Result<()> {
        let mut buffer = vec![0; COPY_BYTES];
        let mut at = 0;
        while at < len {
            report(progress, "copy", at, len)?;
            core.check_open()?;
            let piece = buffer.len().min((len - at) as usize);
            read_exact_at(&*source, file, &mut buffer[..piece], at)?;
            target.write_at(&buffer[..piece], at)?;
            at += piece as u64;
        }
        target.sync_all()?;
        // After `close` the folder is that of whoever opens the store next.
        core.check_open()?;
        vfs.rename_new(&tmp, path)
    };
    copy().inspect_err(|_| remove(core, &tmp))
}

/// Whether a file may get this name, before anything is copied.
fn check_free(core: &Core, path: &Path) -> Result<()> {
    core.check_open()?;
    match core.vfs.info(path)? {
        None => Ok(()),
        Some(_) => Err(Error::new(ErrorKind::AlreadyExists, format!("{} is there already", path.display()))),
    }
}

/// Best effort: an open sweeps what stays.
fn remove(core: &Core, path: &Path) {
    if !core.keep_files.load(Ordering::Acquire) {
        let _ = core.vfs.remove(path);
    }
}

/// No key in two files.
fn check_keys(taken: &[Arc<SealedHandle>], files: &[PathBuf]) -> Result<()> {
    for (b, second) in taken.iter().enumerate() {
        for (a, first) in taken[..b].iter().enumerate() {
            let mut twice = None;
            common_keys(&first.segment, &second.segment, |row, _| twice = twice.or(Some(row)))?;
            if let Some(row) = twice {
                return Err(Error::invalid(format!(
                    "the key {:?} is in {} and in {}: each key comes once",
                    first.segment.key(row)?,
                    files[a].display(),
                    files[b].display()
                )));
            }
        }
    }
    Ok(())
}
