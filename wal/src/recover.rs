//! What a folder of log files proves, and in which order it hands out their batches. Recovery reads; it writes
//! nothing ([`crate::Log::start`] does).
//!
//! 1. The headers of all files are read. A file gets its name only when its header is durable, so a bad header is
//!    damage.
//! 2. Files form a chain, each naming the one before it and the offset at which that ends. The chain begins at the
//!    last file whose first lsn is at or below the floor; a missing file is damage unless all it held is below the
//!    floor.
//! 3. All files but the last were synced whole before their successor was made: whatever is wrong in them is damage.
//! 4. The last file may end in a tear. A hole at lsn h is damage nevertheless when a later record, the clean mark or
//!    the catalog shows that h was durable, or when the hole does not look like a tear.
//! 5. What was not proven durable (it was read, perhaps from cache pages that never reach the disk) is handed to
//!    [`crate::Log::start`], which writes it into a new file before anything is served.

use crate::files::{self, LogFile};
use crate::format::{FILE_BYTES_LIMIT, FILE_HEADER_BYTES, FILE_ID_MAX, FileHeader, HeaderFault, Kind};
use crate::options::{RecoverOptions, RecoveryMode};
use crate::reader::{Hole, Scan, Stop, scan};
use nearstone_base::faults::seeded;
use nearstone_base::vfs::{OpenMode, Vfs, read_exact_at};
use nearstone_base::{Error, ErrorKind, Lsn, Result, Uuid};
use std::path::{Path, PathBuf};

/// What recovery found; [`crate::Log::start`] goes on from it.
#[derive(Debug)]
pub struct Recovered {
    /// The last batch handed out, or proven by the catalog.
    pub last_lsn: Lsn,
    /// Everything up to here was durable before.
    pub proven_lsn: Lsn,
    /// For people.
    pub report: RecoveryReport,
    pub(crate) next_file_id: u64,
    pub(crate) files: Vec<LogFile>,
    /// Files that a point-in-time recovery leaves behind, ascending.
    pub(crate) aside: Vec<u64>,
    /// Files below the chain: an unlink that came before theirs was lost, or came through and theirs did not.
    pub(crate) orphans: Vec<u64>,
    /// Batches above `proven_lsn`.
    pub(crate) unproven: Vec<(Lsn, Vec<u8>)>,
    pub(crate) generation: u64,
}

/// What an opening found in the log.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RecoveryReport {
    /// Log files that were read.
    pub files: u64,
    /// Batches handed out.
    pub batches: u64,
    /// Of these, how many were not proven to be durable and were written again.
    pub rewritten: u64,
    /// Bytes of a torn tail that was cut. Nothing in it was ever acknowledged as synced.
    pub torn_bytes: u64,
    /// Point-in-time recovery only: the damage at which it stopped.
    pub stopped_at: Option<String>,
}

pub(crate) struct Found {
    pub(crate) header: FileHeader,
    pub(crate) path: PathBuf,
    len: u64,
}

/// Reads the log in `dir` and hands every batch from `options.floor` on to `visit`, in order and without gaps.
///
/// # Errors
///
/// `Corruption` (file, offset, expected, found), `UnsupportedVersion`, `Io`, and what `visit` returns. Nothing on disk
/// is touched.
pub fn recover(
    vfs: &dyn Vfs,
    dir: &Path,
    store: Uuid,
    options: &RecoverOptions,
    visit: &mut dyn FnMut(Lsn, &[u8]) -> Result<()>,
) -> Result<Recovered> {
    let ids = files::list(vfs, dir)?;
    let mut all = Vec::with_capacity(ids.len());
    for &id in &ids {
        let found = read_header(vfs, dir, Some(store), id)?;
        check_length(&found)?;
        all.push(found);
    }
    let given_away = files::highest(vfs, dir)?.max(options.clean.map_or(0, |mark| mark.file_id));
    if given_away > FILE_ID_MAX {
        let expected = format!("file ids up to {FILE_ID_MAX}");
        return Err(Error::corruption(dir, 0, expected, format!("file id {given_away}")));
    }
    let next_file_id = given_away + 1;
    let chain = chain_of(dir, all, options)?;
    let first = chain.first().map_or(0, |found| found.header.file_id);
    let mut recovery = Recovery {
        vfs,
        options,
        visit,
        next_lsn: options.floor,
        generation: 0,
        proven_lsn: options.last_lsn_min,
        tail: Vec::new(),
        report: RecoveryReport::default(),
    };
    let mut recovered = recovery.run(dir, &chain, next_file_id)?;
    recovered.orphans = ids.into_iter().filter(|id| *id < first).collect();
    Ok(recovered)
}

struct Recovery<'a> {
    vfs: &'a dyn Vfs,
    options: &'a RecoverOptions,
    visit: &'a mut dyn FnMut(Lsn, &[u8]) -> Result<()>,
    /// The next batch to hand out.
    next_lsn: Lsn,
    generation: u64,
    proven_lsn: Lsn,
    /// Batches of the last file: lsn, body, the offset behind.
    tail: Vec<(Lsn, Vec<u8>, u64)>,
    report: RecoveryReport,
}

impl Recovery<'_> {
    fn run(&mut self, dir: &Path, chain: &[Found], next_file_id: u64) -> Result<Recovered> {
        let mut kept: Vec<LogFile> = Vec::new();
        let mut last_lsn = None;
        let mut aside = Vec::new();
        let mut at_clean_end = false;
        for (place, found) in chain.iter().enumerate() {
            self.generation = self.generation.max(found.header.generation);
            let next = chain.get(place + 1);
            let skipped = next.is_some_and(|next| next.header.first_lsn <= self.options.floor);
            let mut end = next.map_or(FILE_HEADER_BYTES as u64, |next| next.header.predecessor_end);
            if !skipped {
                self.report.files += 1;
                self.tail.clear();
                let (scan, stopped) = self.read_file(found, next)?;
                self.generation = self.generation.max(scan.generation);
                self.proven_lsn = self.proven_lsn.max(scan.synced_lsn);
                if next.is_some() {
                    // It was synced whole before its successor was made.
                    self.proven_lsn = self.proven_lsn.max(scan.last_lsn);
                }
                end = scan.end as u64;
                at_clean_end = next.is_none() && scan.stop == Stop::Limit;
                if at_clean_end {
                    // Closed in order: it was synced, and the catalog knows.
                    self.proven_lsn = self.proven_lsn.max(scan.last_lsn);
                }
                last_lsn = Some(scan.last_lsn);
                if stopped {
                    aside = chain[place + 1..].iter().map(|later| later.header.file_id).collect();
                }
            }
            kept.push(LogFile {
                file_id: found.header.file_id,
                path: found.path.clone(),
                first_lsn: found.header.first_lsn,
                end,
                len: found.len,
            });
            if !aside.is_empty() {
                break;
            }
        }
        if let Some(generation) = self.options.generation.filter(|generation| *generation < self.generation) {
            return Err(Error::corruption(
                dir.with_file_name("catalog"),
                0,
                format!("generation {}, which the log knows of", self.generation),
                format!("generation {generation}"),
            ));
        }
        let last_lsn = self.last_lsn(dir, last_lsn)?;
        let proven_lsn = if seeded("wal-tail-trusted") { last_lsn } else { self.proven_lsn.min(last_lsn) };
        if !at_clean_end && aside.is_empty() {
            self.cut_at_proven(&mut kept, proven_lsn);
        }
        let unproven: Vec<(Lsn, Vec<u8>)> = self
            .tail
            .drain(..)
            .filter(|(lsn, ..)| *lsn > proven_lsn)
            .map(|(lsn, body, _)| (lsn, body))
            .collect();
        self.report.rewritten = unproven.len() as u64;
        let report = std::mem::take(&mut self.report);
        let generation = self.options.generation.unwrap_or(self.generation);
        Ok(Recovered {
            last_lsn,
            proven_lsn,
            report,
            next_file_id,
            files: kept,
            aside,
            orphans: Vec::new(),
            unproven,
            generation,
        })
    }

    /// Where the log ends, checked against what the catalog proves.
    fn last_lsn(&self, dir: &Path, read: Option<Lsn>) -> Result<Lsn> {
        let options = self.options;
        let clean = options.clean.map_or(0, |mark| mark.lsn);
        let proven = options.last_lsn_min.max(clean);
        if options.mode == RecoveryMode::PointInTime {
            return Ok(read.unwrap_or(proven));
        }
        match read {
            None if proven >= options.floor => Err(Error::corruption(
                dir,
                0,
                format!("log files with the batches {} to {proven}", options.floor),
                "none",
            )),
            None => Ok(proven.max(options.floor.saturating_sub(1))),
            Some(last) if last < proven => Err(Error::corruption(
                dir,
                0,
                format!("batches up to {proven}, which were durable"),
                format!("an end at {last}"),
            )),
            Some(last) => Ok(last),
        }
    }

    /// What lies behind the last proven batch is ignored for ever: batches are written again, and notes (markers and
    /// barriers), which ride on the next sync, may exist in the cache of a process that was killed only. The next file
    /// must not promise them.
    fn cut_at_proven(&self, kept: &mut [LogFile], proven_lsn: Lsn) {
        let Some(file) = kept.last_mut() else { return };
        let last_proven = self.tail.iter().rev().find(|(lsn, ..)| *lsn <= proven_lsn);
        file.end = last_proven.map_or(FILE_HEADER_BYTES as u64, |(.., end)| *end);
    }

    /// Reads one file; whether a point-in-time recovery stops in it.
    fn read_file(&mut self, found: &Found, next: Option<&Found>) -> Result<(Scan, bool)> {
        let bytes = read_whole(self.vfs, found)?;
        let clean_end =
            self.options.clean.filter(|mark| mark.file_id == found.header.file_id).map(|mark| mark.end);
        // Behind the clean end of a file nothing was ever written.
        let limit = next.map(|next| next.header.predecessor_end).or(clean_end).map(|end| end as usize);
        let (visit, next_lsn) = (&mut self.visit, &mut self.next_lsn);
        let (tail, report) = (&mut self.tail, &mut self.report);
        let is_last = next.is_none();
        let scan = scan(&bytes, &found.header, limit, &mut |record| {
            if record.kind != Kind::Batch {
                return Ok(());
            }
            if record.lsn >= *next_lsn {
                // Within a file lsns are dense, and the chain begins at or below the floor.
                visit(record.lsn, record.body)?;
                *next_lsn = record.lsn + 1;
                report.batches += 1;
            }
            if is_last {
                tail.push((record.lsn, record.body.to_vec(), record.end as u64));
            }
            Ok(())
        })?;
        let stopped = self.judge(found, next, limit, &scan)?;
        Ok((scan, stopped))
    }

    /// Whether the file may end where it does. `Ok(true)` when a point-in-time recovery gives up the rest.
    fn judge(
        &mut self,
        found: &Found,
        next: Option<&Found>,
        limit: Option<usize>,
        scan: &Scan,
    ) -> Result<bool> {
        let damage = |expected: String, what: &str| {
            Error::corruption(&found.path, scan.end as u64, expected, what.to_owned())
        };
        let error = match (&scan.stop, next) {
            (Stop::Limit, Some(next)) if scan.last_lsn + 1 != next.header.first_lsn => {
                let expected = format!("batches up to {}", next.header.first_lsn - 1);
                damage(expected, &format!("the end at batch {}", scan.last_lsn))
            }
            (Stop::Limit, _) => return Ok(false),
            (Stop::Zeros | Stop::Ended, Some(_)) => {
                damage(format!("records up to byte {}", limit.unwrap_or(0)), "the end of the records")
            }
            (Stop::Zeros | Stop::Ended, None) if limit.is_some_and(|limit| scan.end < limit) => {
                damage(format!("records up to byte {}", limit.unwrap_or(0)), "the end of the records")
            }
            (Stop::Zeros | Stop::Ended, None) => return Ok(false),
            (Stop::Hole(hole), next) => {
                let torn = next.is_none() && limit.is_none() && self.may_be_torn(hole, scan.last_lsn + 1);
                if torn && self.options.mode != RecoveryMode::Strict {
                    self.report.torn_bytes = hole.bytes;
                    return Ok(false);
                }
                let why = if torn { "a torn tail (strict recovery refuses it)" } else { "damaged bytes" };
                damage(hole.expected.to_owned(), why)
            }
        };
        if self.options.mode == RecoveryMode::PointInTime && scan.last_lsn >= self.options.sealed_lsn_max {
            self.report.stopped_at = Some(error.to_string());
            return Ok(true);
        }
        Err(error)
    }

    /// Whether a hole where batch `lsn` should be can be a write that a crash cut short.
    fn may_be_torn(&self, hole: &Hole, lsn: Lsn) -> bool {
        let clean = self.options.clean.map_or(0, |mark| mark.lsn);
        seeded("wal-damage-taken-for-tear")
            || hole.looks_torn && hole.later_synced < lsn && self.options.last_lsn_min < lsn && clean < lsn
    }
}

/// Reads and checks a file's header; `store` is whose it must be, if that is known.
pub(crate) fn read_header(vfs: &dyn Vfs, dir: &Path, store: Option<Uuid>, id: u64) -> Result<Found> {
    let path = dir.join(files::file_name(id));
    let file = vfs.open(&path, OpenMode::Read)?;
    let len = file.len()?;
    if len > FILE_BYTES_LIMIT {
        return Err(Error::corruption(
            &path,
            0,
            format!("at most {FILE_BYTES_LIMIT} bytes"),
            format!("{len}"),
        ));
    }
    let mut block = vec![0; FILE_HEADER_BYTES.min(len as usize)];
    read_exact_at(&*file, &path, &mut block, 0)?;
    let header = FileHeader::decode(&block).map_err(|fault| match fault {
        HeaderFault::Damaged(offset, expected) => Error::corruption(&path, offset, expected, "other bytes"),
        HeaderFault::Version(version) => Error::new(
            ErrorKind::UnsupportedVersion,
            format!(
                "{} has log format version {version}: this program reads {}",
                path.display(),
                crate::format::VERSION
            ),
        ),
    })?;
    if let Some(store) = store.filter(|store| *store != header.store) {
        return Err(Error::corruption(
            &path,
            16,
            format!("store {store}"),
            format!("store {}", header.store),
        ));
    }
    if header.file_id != id {
        return Err(Error::corruption(&path, 32, format!("file id {id}"), format!("{}", header.file_id)));
    }
    Ok(Found { header, path, len })
}

/// A file is as long as its header says.
fn check_length(found: &Found) -> Result<()> {
    if found.header.file_bytes == found.len {
        return Ok(());
    }
    let (expected, len) = (found.header.file_bytes, found.len);
    Err(Error::corruption(&found.path, 88, format!("{expected} bytes"), format!("{len} bytes")))
}

/// The files that count, oldest first: from the newest back along the predecessors.
fn chain_of(dir: &Path, all: Vec<Found>, options: &RecoverOptions) -> Result<Vec<Found>> {
    let missing = |id: u64, needed: Lsn| {
        Error::corruption(
            dir.join(files::file_name(id)),
            0,
            format!("the log file with batch {needed}"),
            "no such file".to_owned(),
        )
    };
    if let Some(mark) = options.clean
        && mark.lsn >= options.floor
        && all.last().is_none_or(|last| last.header.file_id < mark.file_id)
    {
        return Err(missing(mark.file_id, mark.lsn));
    }
    let mut chain: Vec<Found> = Vec::new();
    let mut wanted = all.last().map_or(0, |last| last.header.file_id);
    for found in all.into_iter().rev() {
        if found.header.file_id > wanted {
            // No file of the chain: left by a crash between two unlinks, or set aside by nobody.
            if found.header.first_lsn >= options.floor {
                return Err(Error::corruption(
                    &found.path,
                    72,
                    format!("a file that follows file {wanted}"),
                    "a file that none names as its predecessor",
                ));
            }
            continue;
        }
        if found.header.file_id < wanted {
            break;
        }
        wanted = found.header.predecessor;
        chain.push(found);
        if wanted == 0 {
            break;
        }
    }
    if let Some(oldest) = chain.last()
        && oldest.header.first_lsn > options.floor
    {
        return Err(missing(oldest.header.predecessor, options.floor));
    }
    chain.reverse();
    Ok(chain)
}

pub(crate) fn read_whole(vfs: &dyn Vfs, found: &Found) -> Result<Vec<u8>> {
    let file = vfs.open(&found.path, OpenMode::Read)?;
    let mut bytes = vec![0; found.len as usize];
    read_exact_at(&*file, &found.path, &mut bytes, 0)?;
    Ok(bytes)
}

/// Reads one log file from memory and counts its batches: what a fuzzer feeds. Never panics, whatever the bytes.
pub fn read_bytes(bytes: &[u8]) -> Result<u64> {
    let path = Path::new("bytes");
    let header = FileHeader::decode(bytes)
        .map_err(|fault| Error::corruption(path, 0, "a header", format!("{fault:?}")))?;
    let mut batches = 0;
    for limit in [None, Some(bytes.len() / 2 / 8 * 8)] {
        scan(bytes, &header, limit, &mut |record| {
            batches += u64::from(record.kind == Kind::Batch);
            Ok(())
        })?;
    }
    Ok(batches)
}
