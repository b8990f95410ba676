//! Reads one file and says where it stops and why.
//!
//! The records of a file are read from the front until one is not good. What stops the reading is one of:
//!
//! - nothing but zeros to the end of the file: the ordinary end;
//! - a record that says that nothing follows;
//! - the offset at which the next file says this one ends;
//! - a **hole**: bytes that are neither.
//!
//! A hole is either a tear (the machine stopped in the middle of a write) or damage. Fresh files read as zeros and
//! are never recycled, and a disk writes 512-byte sectors whole, so a tear leaves either
//!
//! - a sector whose part that belongs to the record is all zeros, or
//! - (a write that failed half-way, at any byte) the last byte of the record and everything behind it all zeros.
//!
//! A hole that shows neither is damage. A hole that does may still be damage: when anything later shows that this
//! very lsn had been durable. So the rest of the file is searched, in steps of eight bytes, for intact record headers,
//! and the highest `synced_lsn` among them is handed to [`crate::recover()`], which decides.

use crate::format::{self, FILE_HEADER_BYTES, FileHeader, Kind, RECORD_HEADER_BYTES, SECTOR_BYTES};
use nearstone_base::{Lsn, Result};

/// An intact record.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    pub(crate) kind: Kind,
    pub(crate) lsn: Lsn,
    pub(crate) body: &'a [u8],
    /// The offset behind it.
    pub(crate) end: usize,
}

/// What stopped the reading.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// Zeros to the end of the file.
    Zeros,
    /// A record of kind `End`.
    Ended,
    /// The limit that the next file gave.
    Limit,
    /// Something else.
    Hole(Hole),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hole {
    pub(crate) expected: &'static str,
    /// A tear can have left it so.
    pub(crate) looks_torn: bool,
    /// The highest `synced_lsn` of an intact record header behind it.
    pub(crate) later_synced: Lsn,
    /// The highest lsn of an intact record header behind it.
    pub(crate) later_lsn: Lsn,
    /// Bytes from the hole to the last one that is not zero.
    pub(crate) bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Scan {
    /// Behind the last good record.
    pub(crate) end: usize,
    /// Of the last good batch; `first_lsn - 1` when there is none.
    pub(crate) last_lsn: Lsn,
    /// The highest lsn that this file says was durable.
    pub(crate) synced_lsn: Lsn,
    /// The highest catalog generation it names.
    pub(crate) generation: u64,
    pub(crate) stop: Stop,
}

/// Reads the records of the file whose bytes are `bytes` (from its beginning, header included), up to `limit` if the
/// next file gave one, and hands each to `visit`.
pub(crate) fn scan<'a>(
    bytes: &'a [u8],
    header: &FileHeader,
    limit: Option<usize>,
    visit: &mut dyn FnMut(&Record<'a>) -> Result<()>,
) -> Result<Scan> {
    let seed = header.seed();
    let mut scan = Scan {
        end: FILE_HEADER_BYTES,
        last_lsn: header.first_lsn.saturating_sub(1),
        synced_lsn: header.first_lsn.saturating_sub(1),
        generation: header.generation,
        stop: Stop::Zeros,
    };
    loop {
        let at = scan.end;
        if limit == Some(at) {
            scan.stop = Stop::Limit;
            return Ok(scan);
        }
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(head) = format::decode_record_header(bytes, seed, at) else {
            if !all_zeros(rest) {
                scan.stop = Stop::Hole(hole(bytes, header, at, RECORD_HEADER_BYTES, "a record header", true));
            }
            return Ok(scan);
        };
        let extent = format::record_bytes(head.len);
        let end = at.saturating_add(extent);
        let Some(body) = format::decode_body(bytes, seed, at, &head) else {
            scan.stop = Stop::Hole(hole(bytes, header, at, extent, "the body of a record", true));
            return Ok(scan);
        };
        let in_order = match head.kind {
            Kind::Batch => scan.last_lsn.checked_add(1) == Some(head.lsn),
            Kind::Marker | Kind::Barrier | Kind::End => head.lsn == scan.last_lsn,
        };
        if !in_order || limit.is_some_and(|limit| end > limit) {
            // Intact, and still not what belongs here: no tear does that.
            scan.stop = Stop::Hole(hole(bytes, header, at, extent, "a record with the next lsn", false));
            return Ok(scan);
        }
        visit(&Record { kind: head.kind, lsn: head.lsn, body, end })?;
        if let (Kind::Barrier, Ok(generation)) = (head.kind, body.try_into()) {
            scan.generation = scan.generation.max(u64::from_le_bytes(generation));
        }
        scan.end = end;
        scan.last_lsn = head.lsn;
        scan.synced_lsn = scan.synced_lsn.max(head.synced_lsn);
        if head.kind == Kind::End && limit.is_none() {
            scan.stop = Stop::Ended;
            return Ok(scan);
        }
    }
}

fn all_zeros(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn hole(
    bytes: &[u8],
    header: &FileHeader,
    at: usize,
    extent: usize,
    expected: &'static str,
    may_be_torn: bool,
) -> Hole {
    let rest = bytes.get(at..).unwrap_or_default();
    let written = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let looks_torn = may_be_torn && (written < extent || has_unwritten_sector(rest, at, extent));
    let mut hole = Hole { expected, looks_torn, later_synced: 0, later_lsn: 0, bytes: written as u64 };
    let seed = header.seed();
    for step in (at..at.saturating_add(written)).step_by(8) {
        if let Some(later) = format::decode_record_header(bytes, seed, step) {
            hole.later_synced = hole.later_synced.max(later.synced_lsn);
            hole.later_lsn = hole.later_lsn.max(later.lsn);
        }
    }
    hole
}

/// Whether some sector's part of `rest[..extent]`, which lies at `at`, is all zeros. What is beyond the end of the
/// file counts as unwritten.
fn has_unwritten_sector(rest: &[u8], at: usize, extent: usize) -> bool {
    let mut from = 0;
    while from < extent {
        let to = (from + SECTOR_BYTES - (at + from) % SECTOR_BYTES).min(extent);
        let part = rest.get(from..to.min(rest.len())).unwrap_or_default();
        if all_zeros(part) {
            return true;
        }
        from = to;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearstone_base::Uuid;

    fn header() -> FileHeader {
        FileHeader {
            store: Uuid([1; 16]),
            file_id: 1,
            salt: [2; 16],
            generation: 0,
            first_lsn: 1,
            predecessor: 0,
            predecessor_end: 0,
            file_bytes: 16384,
        }
    }

    fn file(records: &[(Lsn, Lsn, usize)]) -> Vec<u8> {
        let header = header();
        let mut bytes = header.encode();
        for (lsn, synced, len) in records {
            let at = bytes.len() as u64;
            format::encode_record(
                &mut bytes,
                header.seed(),
                at,
                Kind::Batch,
                *lsn,
                *synced,
                &vec![0x5a; *len],
            );
        }
        bytes.resize(16384, 0);
        bytes
    }

    fn stop(bytes: &[u8]) -> (Lsn, Stop) {
        let scan = scan(bytes, &header(), None, &mut |_| Ok(())).unwrap();
        (scan.last_lsn, scan.stop)
    }

    fn hole_of(bytes: &[u8]) -> (Lsn, Hole) {
        match stop(bytes) {
            (last, Stop::Hole(hole)) => (last, hole),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_flipped_bit_does_not_look_torn_and_a_lost_sector_does() {
        let good = file(&[(1, 0, 2000), (2, 0, 10)]);
        assert_eq!(stop(&good), (2, Stop::Zeros));
        let mut flipped = good.clone();
        flipped[5000] ^= 4;
        assert!(!hole_of(&flipped).1.looks_torn);
        for sector in 0..2000 / 512 {
            let mut lost = good.clone();
            lost[4096 + sector * 512..][..512].fill(0);
            let (last, hole) = hole_of(&lost);
            assert_eq!((last, hole.looks_torn, hole.later_lsn), (0, true, 2));
        }
    }

    #[test]
    fn a_write_that_stopped_at_any_byte_looks_torn() {
        let good = file(&[(1, 0, 100), (2, 0, 0)]);
        let end = 4096 + format::record_bytes(100) + format::record_bytes(0);
        for cut in 4097..end {
            let mut bytes = good.clone();
            bytes[cut..].fill(0);
            match stop(&bytes).1 {
                Stop::Zeros => assert_eq!(cut, 4096 + format::record_bytes(100)),
                Stop::Hole(hole) => assert!(hole.looks_torn, "cut at {cut}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_a_later_record_proves_is_found() {
        let mut bytes = file(&[(1, 0, 600), (2, 1, 0), (3, 2, 0)]);
        bytes[4096..4608].fill(0);
        let (last, hole) = hole_of(&bytes);
        assert_eq!((last, hole.later_synced, hole.later_lsn), (0, 2, 3));
    }

    #[test]
    fn an_intact_record_out_of_order_is_never_a_tear() {
        let bytes = file(&[(1, 0, 10), (3, 0, 10)]);
        assert!(!hole_of(&bytes).1.looks_torn);
    }
}
