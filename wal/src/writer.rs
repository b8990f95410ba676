//! The end of the log: the file that takes records, the next one when it is full, and what is known to be durable.
//!
//! Rules that hold at every moment:
//!
//! - Room is reserved before lsns are given out: a full disk is noticed while nothing was written.
//! - A file is whole (sized, headed, synced, named) before its first record, and the file before it is synced then.
//! - What was on disk when the log was started is never appended to: the first append makes a new file, whose header
//!   says where the old one ends.

use crate::files::{self, LogFile};
use crate::format::{self, FILE_HEADER_BYTES, FileHeader, FileSeed, Kind};
use crate::options::{CleanMark, LogOptions, LogStats};
use crate::recover::Recovered;
use nearstone_base::faults::{failpoint, failpoint_after, seeded};
use nearstone_base::random::Random;
use nearstone_base::vfs::{Vfs, VfsFile};
use nearstone_base::{Lsn, Result, Uuid};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Who owns the log's end.
pub(crate) struct Writer {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    store: Uuid,
    random: Arc<dyn Random>,
    options: LogOptions,
    /// Oldest first; the last one is the current file, if there is one, else the last of the former process.
    files: Vec<LogFile>,
    current: Option<Current>,
    next_file_id: u64,
    /// Length of the next file.
    next_bytes: u64,
    generation: u64,
    pub(crate) last_lsn: Lsn,
    pub(crate) synced_lsn: Lsn,
    /// The highest synced lsn that a record or header on disk states.
    stated_lsn: Lsn,
    /// When an interval batch has to be durable.
    pub(crate) deadline: Option<Duration>,
    pub(crate) stats: LogStats,
}

struct Current {
    file: Arc<dyn VfsFile>,
    seed: FileSeed,
    /// Where the next record goes.
    end: u64,
    len: u64,
    /// Whether something was written since the last sync.
    dirty: bool,
}

impl Writer {
    /// Takes over what recovery found. Records that are not proven durable are copied into a new file, which is
    /// durable when this returns; otherwise nothing is written.
    pub(crate) fn start(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        store: Uuid,
        recovered: Recovered,
        options: LogOptions,
        random: Arc<dyn Random>,
    ) -> Result<Writer> {
        files::sweep_unfinished(&*vfs, dir)?;
        failpoint("recover-log-swept");
        let Recovered { last_lsn, proven_lsn, next_file_id, files, aside, unproven, generation, .. } =
            recovered;
        for id in &recovered.orphans {
            vfs.remove(&dir.join(files::file_name(*id)))?;
            failpoint("recover-orphan-unlinked");
        }
        // Newest first: a crash in between leaves a log that still ends at the same place.
        for id in aside.iter().rev() {
            files::set_aside(&*vfs, dir, *id)?;
            failpoint("recover-log-set-aside");
        }
        if !aside.is_empty() {
            vfs.sync_dir(dir)?;
            failpoint("recover-asides-synced");
        }
        let mut writer = Writer {
            vfs,
            dir: dir.to_path_buf(),
            store,
            random,
            options,
            files,
            current: None,
            next_file_id,
            next_bytes: options.file_bytes_min,
            generation,
            last_lsn: proven_lsn,
            synced_lsn: proven_lsn,
            stated_lsn: proven_lsn,
            deadline: None,
            stats: LogStats::default(),
        };
        if !unproven.is_empty() {
            let bytes: usize = unproven.iter().map(|(_, body)| format::record_bytes(body.len())).sum();
            let unnamed = writer.reserve_bytes(bytes as u64)?;
            let bodies: Vec<&[u8]> = unproven.iter().map(|(_, body)| body.as_slice()).collect();
            debug_assert_eq!(unproven[0].0, proven_lsn + 1);
            // Before the file has its name: from then on, nobody reads what they were copied from.
            if seeded("wal-named-before-copied") {
                writer.use_file(unnamed)?;
                writer.append(&bodies)?;
                writer.sync()?;
            } else {
                writer.use_file_with(unnamed, &bodies)?;
                failpoint("recover-tail-copied");
            }
        }
        if recovered.report.stopped_at.is_some() && writer.current.is_none() {
            // A file that says where the one with the damage ends: without it the next open would meet it again.
            let unnamed = writer.reserve_bytes(0)?;
            writer.use_file(unnamed)?;
        }
        debug_assert_eq!(writer.last_lsn, last_lsn);
        writer.stats = LogStats::default();
        Ok(writer)
    }

    /// Whether a record with a body of `len` bytes fits into the current file behind `used` more bytes.
    pub(crate) fn fits(&self, used: u64, len: usize) -> bool {
        let need = used + format::record_bytes(len) as u64;
        self.current.as_ref().is_some_and(|current| current.end + need <= current.len)
    }

    /// Reserves a file that can take a record with a body of `len` bytes. After an error nothing has changed.
    pub(crate) fn reserve_file(&self, len: usize) -> Result<files::Unnamed> {
        self.reserve_bytes(format::record_bytes(len) as u64)
    }

    fn reserve_bytes(&self, bytes: u64) -> Result<files::Unnamed> {
        let len = self.next_bytes.max(FILE_HEADER_BYTES as u64 + bytes);
        files::reserve(&*self.vfs, &self.dir, self.next_file_id, len)
    }

    /// Syncs the current file and lets the reserved one take its place. After an error the log's state is unknown.
    pub(crate) fn use_file(&mut self, unnamed: files::Unnamed) -> Result<()> {
        self.use_file_with(unnamed, &[])
    }

    /// As [`Writer::use_file`]; the file begins with these batches, which are durable as soon as it is.
    fn use_file_with(&mut self, unnamed: files::Unnamed, bodies: &[&[u8]]) -> Result<()> {
        if !seeded("wal-next-file-before-sync") {
            self.sync()?;
        }
        let len = unnamed.file.len()?;
        let before = self.files.last();
        let mut salt = [0; 16];
        self.random.fill(&mut salt);
        let header = FileHeader {
            store: self.store,
            file_id: self.next_file_id,
            salt,
            generation: self.generation,
            first_lsn: self.last_lsn + 1,
            predecessor: before.map_or(0, |file| file.file_id),
            predecessor_end: before.map_or(0, |file| file.end),
            file_bytes: len,
        };
        let mut bytes = header.encode();
        encode_batches(&mut bytes, header.seed(), 0, self.last_lsn + 1, self.synced_lsn, bodies);
        let end = bytes.len() as u64;
        assert!(end <= len, "room was reserved before");
        let (file, path) = unnamed.publish(&*self.vfs, &self.dir, &bytes)?;
        self.stats.syncs += 1;
        self.stated_lsn = self.last_lsn;
        self.last_lsn += bodies.len() as u64;
        self.synced_lsn = self.last_lsn;
        self.files.push(LogFile { file_id: header.file_id, path, first_lsn: header.first_lsn, end, len });
        self.current = Some(Current { file, seed: header.seed(), end, len, dirty: false });
        self.next_file_id += 1;
        self.next_bytes =
            (self.next_bytes * 2).min(self.options.file_bytes_max.max(self.options.file_bytes_min));
        Ok(())
    }

    /// Writes batches that fit, with one call; returns the lsn of the first. After an error the state is unknown.
    pub(crate) fn append(&mut self, bodies: &[&[u8]]) -> Result<Lsn> {
        let Some(current) = self.current.as_mut() else {
            return Err(nearstone_base::Error::new(nearstone_base::ErrorKind::Io, "the log has no file"));
        };
        let first = self.last_lsn + 1;
        let mut bytes = Vec::with_capacity(bodies.iter().map(|body| format::record_bytes(body.len())).sum());
        encode_batches(&mut bytes, current.seed, current.end, first, self.synced_lsn, bodies);
        assert!(current.end + bytes.len() as u64 <= current.len, "room was reserved before");
        current.dirty = true;
        failpoint("wal-before-append");
        failpoint_after("wal-half-appended", || {
            current.file.write_at(&bytes[..bytes.len() / 2], current.end)
        });
        current.file.write_at(&bytes, current.end)?;
        failpoint("wal-appended");
        current.end += bytes.len() as u64;
        if let Some(file) = self.files.last_mut() {
            file.end = current.end;
        }
        self.last_lsn += bodies.len() as u64;
        self.stated_lsn = self.stated_lsn.max(self.synced_lsn);
        self.stats.bytes += bytes.len() as u64;
        Ok(first)
    }

    /// Makes everything written so far durable. After an error the state is unknown.
    pub(crate) fn sync(&mut self) -> Result<Lsn> {
        if let Some(current) = self.current.as_mut()
            && current.dirty
        {
            failpoint("wal-before-sync");
            if !seeded("wal-sync-skipped") {
                current.file.sync_data()?;
            }
            failpoint("wal-synced");
            current.dirty = false;
            self.stats.syncs += 1;
        }
        self.synced_lsn = self.last_lsn;
        self.deadline = None;
        Ok(self.synced_lsn)
    }

    /// Notes a catalog generation, in the current file if it has room, and in the header of the next one.
    pub(crate) fn barrier(&mut self, generation: u64) -> Result<()> {
        self.generation = self.generation.max(generation);
        self.note(Kind::Barrier, &generation.to_le_bytes())
    }

    /// States on disk what is durable, once per sync.
    pub(crate) fn mark(&mut self) -> Result<()> {
        if self.stated_lsn >= self.synced_lsn {
            return Ok(());
        }
        self.note(Kind::Marker, &[])
    }

    /// A record that takes no lsn. It rides on the next sync.
    fn note(&mut self, kind: Kind, body: &[u8]) -> Result<()> {
        if !self.fits(0, body.len()) {
            return Ok(());
        }
        let Some(current) = self.current.as_mut() else { return Ok(()) };
        let mut bytes = Vec::new();
        format::encode_record(
            &mut bytes,
            current.seed,
            current.end,
            kind,
            self.last_lsn,
            self.synced_lsn,
            body,
        );
        current.dirty = true;
        current.file.write_at(&bytes, current.end)?;
        current.end += bytes.len() as u64;
        if let Some(file) = self.files.last_mut() {
            file.end = current.end;
        }
        self.stated_lsn = self.stated_lsn.max(self.synced_lsn);
        failpoint("wal-noted");
        Ok(())
    }

    /// Unlinks files that hold nothing from `floor` on, oldest first; bytes freed. The last file stays.
    pub(crate) fn remove_below(&mut self, floor: Lsn) -> Result<u64> {
        let mut freed = 0;
        while let [oldest, next, ..] = self.files.as_slice()
            && next.first_lsn <= floor + if seeded("wal-unlinked-too-early") { 3 } else { 0 }
        {
            failpoint("wal-before-unlink");
            self.vfs.remove(&oldest.path)?;
            failpoint("wal-unlinked");
            freed += oldest.len;
            self.files.remove(0);
        }
        if freed > 0 {
            self.vfs.sync_dir(&self.dir)?;
            failpoint("wal-unlinks-synced");
        }
        Ok(freed)
    }

    /// The files, oldest first.
    pub(crate) fn files(&self) -> &[LogFile] {
        &self.files
    }

    /// Where the log ends.
    pub(crate) fn clean_mark(&self) -> CleanMark {
        let (file_id, end) = self.files.last().map_or((0, 0), |file| (file.file_id, file.end));
        CleanMark { file_id, end, lsn: self.last_lsn }
    }
}

/// Appends the records of dense batches to `bytes`, which begin at the offset `at` of their file.
fn encode_batches(bytes: &mut Vec<u8>, seed: FileSeed, at: u64, first: Lsn, synced: Lsn, bodies: &[&[u8]]) {
    for (lsn, body) in (first..).zip(bodies) {
        let offset = at + bytes.len() as u64;
        format::encode_record(bytes, seed, offset, Kind::Batch, lsn, synced, body);
    }
}
