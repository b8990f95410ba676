//! Backup while writes go on.
//!
//! The log is pinned, so that nothing it holds goes while it is copied; everything up to an lsn L is synced; the
//! catalog's state is taken, and with it handles that keep its segments' files alive. Segments are linked or copied
//! and verified, the log is copied up to L, and a *new* catalog is written from the state (redb's file is never
//! copied while it is open). The catalog comes last: a backup that was interrupted has none, and does not open.

use crate::catalog::{Catalog, format_file};
use crate::engine::Engine;
use crate::layout;
use crate::progress::{Progress, report};
use nearstone_base::faults::{failpoint, failpoint_after};
use nearstone_base::sync::Arc;
use nearstone_base::vfs::{OpenMode, Residency, Vfs, VfsFile, read_exact_at};
use nearstone_base::{Error, ErrorKind, Lsn, Result};
use nearstone_compaction::gc::segment_file;
use nearstone_segments::SealedSegment;
use nearstone_wal::{CleanMark, copy_file, file_name};
use std::path::Path;

/// Bytes copied between two reports.
const COPY_BYTES: usize = 1 << 20;

pub(crate) fn backup(engine: &Arc<Engine>, into: &Path, progress: Progress<'_>) -> Result<Lsn> {
    engine.check_healthy()?;
    let core = &engine.core;
    let vfs = &*core.vfs;
    let log = engine.log()?;
    let _pin = log.pin();

    // One moment: no seal, compaction or schema change falls between the state and the segments that it names.
    let (state, view, lsn, files) = {
        let catalog = engine.catalog()?;
        let (lsn, files) = log.exclusive(|inside| -> Result<_> { Ok((inside.sync()?, inside.files())) })?;
        ((**catalog.state()).clone(), core.view.load_full(), lsn, files)
    };

    failpoint("backup-state-taken");
    make_folder(vfs, into)?;
    failpoint("backup-rooms-made");
    let total = state.segments.len() as u64 + files.len() as u64 + 1;
    let mut done = 0;
    let held: Vec<_> = view.lists.collections.values().flat_map(|c| c.sealed.iter().cloned()).collect();
    let segments = layout::segments(into);
    for row in state.segments.values() {
        report(progress, "copy", done, total)?;
        let from = layout::segments(&core.dir).join(segment_file(row.meta.id));
        let to = segments.join(segment_file(row.meta.id));
        if !vfs.hard_link(&from, &to)? {
            copy(vfs, &from, &to, row.meta.len, progress)?;
        }
        failpoint("backup-segment-copied");
        let copied = SealedSegment::open(vfs, &to, &row.meta, Residency::Mapped)?;
        copied.verify(&mut |_, _| true)?;
        done += 1;
    }
    drop(held);
    vfs.sync_dir(&segments)?;
    failpoint("backup-segments-synced");

    let wal = layout::wal(into);
    let mut clean = None;
    for file in &files {
        report(progress, "copy", done, total)?;
        copy_file(vfs, file, vfs, &wal.join(file_name(file.file_id)))?;
        failpoint("backup-log-file-copied");
        clean = Some(CleanMark { file_id: file.file_id, end: file.end, lsn });
        done += 1;
    }
    vfs.sync_dir(&wal)?;
    failpoint("backup-log-synced");

    format_file::create(vfs, into, core.uuid)?;
    failpoint("backup-format-written");
    drop(vfs.lock(&layout::lock(into), nearstone_base::vfs::LockKind::Exclusive)?);
    vfs.sync_dir(into)?;
    let mut state = state;
    state.clean = clean.or(state.clean);
    state.last_lsn = state.last_lsn.max(lsn);
    failpoint("backup-before-catalog");
    Catalog::create(core.vfs.clone(), into, state)?.close()?;
    failpoint("backup-catalog-written");
    vfs.remove(&into.join(layout::UNFINISHED))?;
    failpoint("backup-unmarked");
    vfs.sync_dir(into)?;
    report(progress, "copy", total, total)?;
    Ok(lsn)
}

fn make_folder(vfs: &dyn Vfs, into: &Path) -> Result<()> {
    match vfs.info(into)? {
        None => {
            vfs.create_dir(into)?;
            failpoint("backup-folder-made");
        }
        Some(info) if info.is_dir && vfs.list(into)?.is_empty() => {}
        Some(_) => {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!(
                    "{} holds something already: a backup goes into a missing or empty folder",
                    into.display()
                ),
            ));
        }
    }
    if let Some(parent) = into.parent() {
        vfs.sync_dir(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
    }
    // Until the catalog is there, the folder must not pass for that of a new store.
    drop(vfs.open(&into.join(layout::UNFINISHED), OpenMode::CreateNew)?);
    failpoint("backup-marked");
    vfs.sync_dir(into)?;
    vfs.create_dir(&layout::wal(into))?;
    vfs.create_dir(&layout::segments(into))
}

fn copy(vfs: &dyn Vfs, from: &Path, to: &Path, len: u64, progress: Progress<'_>) -> Result<()> {
    let source = vfs.open(from, OpenMode::Read)?;
    let target: Arc<dyn VfsFile> = vfs.open(to, OpenMode::CreateNew)?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = 0;
    while at < len {
        report(progress, "copy bytes", at, len)?;
        let piece = buffer.len().min((len - at) as usize);
        read_exact_at(&*source, from, &mut buffer[..piece], at)?;
        failpoint_after("backup-segment-half-copied", || target.write_at(&buffer[..piece / 2], at));
        target.write_at(&buffer[..piece], at)?;
        at += piece as u64;
    }
    failpoint("backup-segment-before-sync");
    target.sync_all()
}
