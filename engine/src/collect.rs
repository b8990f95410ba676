//! Rows that become sealed segments without passing through a log: collected, linked and written, segment by segment.
//!
//! Bulk loads and builds begin with this. Rows are collected in a segment that no reader sees. When it has reached the size
//! at which a store seals, its graph is built in batches or, where that cannot be, linked row by row, on all threads; and it is written,
//! synced, opened and tried, as a seal does it. Its file has no versions: which lsn the rows get is not known yet. Nothing names the file: it goes with its
//! handle.

use crate::background::{THREADS_MAX, on_threads};
use crate::batch::encode_payload;
use crate::core::Core;
use crate::engine::Engine;
use crate::progress::{Progress, report};
use crate::seal::{write_built, write_sealed};
use crate::view::SealedHandle;
use crate::write::is_full;
use nearstone_base::faults::failpoint;
use nearstone_base::sync::{Arc, Mutex, thread};
use nearstone_base::{Error, ErrorKind, Key, KeyRef, Result, Schema};
use nearstone_segments::seal::{Batches, SealTarget};
use nearstone_segments::{MutableSegment, SealedSegment};
use serde::Serialize;
use std::cell::RefCell;

/// Rows linked between two looks at whether to stop.
const LINK_PIECE: u32 = 64;

/// Rows on their way into files.
pub(crate) struct Collector<'p> {
    core: Arc<Core>,
    /// The store that the rows are for, if there is one: when it can't go on, nor can this.
    engine: Option<Arc<Engine>>,
    schema: Schema,
    pub(crate) threads: usize,
    pub(crate) progress: Option<Progress<'p>>,
    /// The rows that are not in a file yet.
    growing: Option<MutableSegment>,
    written: Vec<Arc<SealedHandle>>,
    rows: u64,
    /// A failure after which rows are missing.
    broken: bool,
}

impl<'p> Collector<'p> {
    pub(crate) fn new(core: Arc<Core>, engine: Option<Arc<Engine>>, schema: Schema) -> Collector<'p> {
        Collector {
            threads: core.threads(),
            core,
            engine,
            schema,
            progress: None,
            growing: None,
            written: Vec::new(),
            rows: 0,
            broken: false,
        }
    }

    /// Rows so far.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.threads == 0 {
            return Err(Error::invalid("0 threads: linking needs at least 1"));
        }
        check_healthy(self.engine.as_ref())?;
        if self.broken {
            let text = "it has ended with an earlier failure: nothing of it is there";
            return Err(Error::new(ErrorKind::Cancelled, text));
        }
        Ok(())
    }

    pub(crate) fn push(&mut self, key: &Key, vector: &[f32], payload: &impl Serialize) -> Result<()> {
        self.schema.check_key(key)?;
        self.schema.check_vector(vector)?;
        let payload = encode_payload(payload)?;
        let hash = key.as_ref().hash64();
        if self.has(key.as_ref(), hash)? {
            return Err(Error::invalid(format!("the key {key:?} was given already: each key comes once")));
        }
        let core = &self.core;
        let growing = self
            .growing
            .get_or_insert_with(|| MutableSegment::unversioned(core.take_segment_id(), self.schema));
        // All rows of a segment get one lsn, which can't be lower than this one. That of a build is 0, which no store
        // writes: by it `attach` knows files that were never a store's.
        let of_store = || if self.engine.is_some() { core.view.load().lsn + 1 } else { 0 };
        let lowest = growing.lsn_max().unwrap_or_else(of_store);
        growing.append(key.as_ref(), hash, vector, &payload, lowest);
        self.rows += 1;
        if is_full(core, growing) || growing.bytes() >= core.options.memory_budget {
            self.write()?;
        }
        Ok(())
    }

    fn has(&self, key: KeyRef<'_>, hash: u64) -> Result<bool> {
        if self.growing.as_ref().is_some_and(|growing| growing.find(key, hash).is_some()) {
            return Ok(true);
        }
        for handle in &self.written {
            if handle.segment.find(key, hash)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The files of all rows.
    pub(crate) fn finish(&mut self) -> Result<Vec<Arc<SealedHandle>>> {
        self.write()?;
        Ok(std::mem::take(&mut self.written))
    }

    /// Lets go of everything: files that nothing names are removed.
    pub(crate) fn discard(&mut self) {
        self.broken = true;
        self.growing = None;
        self.written.clear();
    }

    /// Turns the rows collected so far into a file.
    fn write(&mut self) -> Result<()> {
        let Some(mut growing) = self.growing.take() else { return Ok(()) };
        growing.link_for_refinement();
        let mut ignore = crate::progress::no_progress;
        let progress: Progress<'_> = match &mut self.progress {
            Some(progress) => &mut **progress,
            None => &mut ignore,
        };
        let threads = self.threads.min(THREADS_MAX);
        let like = self.written.first().map(|handle| &handle.segment);
        match write(&self.core, self.engine.as_ref(), (&growing, like), threads, progress) {
            Ok(handle) => {
                self.written.push(handle);
                failpoint("load-segment-written");
                Ok(())
            }
            Err(error) => {
                self.discard();
                Err(error)
            }
        }
    }
}

/// Seals the rows, which lie like those of another segment if there is one, into a file that goes with its handle.
fn write(
    core: &Core,
    engine: Option<&Arc<Engine>>,
    rows: (&MutableSegment, Option<&SealedSegment>),
    threads: usize,
    progress: Progress<'_>,
) -> Result<Arc<SealedHandle>> {
    let (segment, _) = rows;
    segment.freeze();
    let built = build(core, engine, rows, threads, progress)?;
    let handle = match built {
        Some(handle) => handle,
        None => link(core, engine, rows, threads, progress)?,
    };
    let total = u64::from(segment.rows());
    report(progress, "write", total, total)?;
    Ok(handle)
}

/// Builds the graph in batches; `None` when the rows are to be linked one by one.
fn build(
    core: &Core,
    engine: Option<&Arc<Engine>>,
    (segment, like): (&MutableSegment, Option<&SealedSegment>),
    threads: usize,
    progress: Progress<'_>,
) -> Result<Option<Arc<SealedHandle>>> {
    let batches = Batches::plan(segment.schema(), segment.rows(), segment.id().0);
    let Some(batches) = batches else { return Ok(None) };
    let total = u64::from(segment.rows());
    let mut step = || {
        let (phase, done) = match batches.done() {
            done if done < total => ("link", done),
            _ => ("write", 0),
        };
        check_healthy(engine).and_then(|()| core.check_open())?;
        report(progress, phase, done, total)
    };
    make_file(core, (segment, like), threads, &mut step, |target, cancel| {
        write_built(core, segment, &batches, target, cancel)
    })
}

/// Links the rows one by one.
fn link(
    core: &Core,
    engine: Option<&Arc<Engine>>,
    (segment, like): (&MutableSegment, Option<&SealedSegment>),
    threads: usize,
    progress: Progress<'_>,
) -> Result<Arc<SealedHandle>> {
    let total = u64::from(segment.rows());
    let progress = Mutex::new(progress);
    let failed = Mutex::new(None);
    on_threads(threads, || {
        while !segment.all_linked() && failed.lock().is_none() {
            if let Err(error) = check_healthy(engine).and_then(|()| try_report(&progress, segment, total)) {
                failed.lock().get_or_insert(error);
            } else if core.with_scratch(|scratch| segment.link_some(LINK_PIECE, scratch)) == 0 {
                // The last rows are being linked by others.
                thread::yield_now();
            }
        }
        Ok(())
    })?;
    if let Some(error) = failed.into_inner() {
        return Err(error);
    }
    failpoint("load-linked");
    let progress = progress.into_inner();
    let mut step = || core.check_open().and_then(|()| report(progress, "write", 0, total));
    let lowest = segment.lsn_max().unwrap_or(0);
    let written = make_file(core, (segment, like), threads, &mut step, |target, cancel| {
        write_sealed(core, segment, segment.schema(), lowest, target, cancel)
    })?;
    written
        .map(|(handle, _)| handle)
        .ok_or_else(|| Error::invalid("a segment without rows was to be written"))
}

/// Lets `write` make the segment's file. It asks `step` on its way, whose error is the one to tell.
fn make_file<T>(
    core: &Core,
    (segment, like): (&MutableSegment, Option<&SealedSegment>),
    threads: usize,
    step: &mut dyn FnMut() -> Result<()>,
    write: impl FnOnce(&SealTarget<'_>, &dyn Fn() -> bool) -> Result<T>,
) -> Result<T> {
    let (step, stopped) = (RefCell::new(step), RefCell::new(None));
    let cancel = || {
        let Err(error) = (*step.borrow_mut())() else { return false };
        stopped.borrow_mut().get_or_insert(error);
        true
    };
    let site = core.site();
    let target = SealTarget { like, ..site.target(segment.id(), threads) };
    let written = write(&target, &cancel);
    stopped.into_inner().map_or(written, Err)
}

fn check_healthy(engine: Option<&Arc<Engine>>) -> Result<()> {
    engine.map_or(Ok(()), |engine| engine.check_healthy())
}

/// Whoever comes by while nobody else reports, reports.
fn try_report(progress: &Mutex<Progress<'_>>, segment: &MutableSegment, total: u64) -> Result<()> {
    match progress.try_lock() {
        Some(mut progress) => report(*progress, "link", u64::from(segment.linked()), total),
        None => Ok(()),
    }
}
