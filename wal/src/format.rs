//! The bytes of a log file. This table is the only place that says them.
//!
//! A file is one header block and then records, back to back, in space that reads as zeros until it is written.
//! All integers are little-endian.
//!
//! ```text
//! file header, 4096 bytes
//!      0  8   magic "NEARWAL\n"
//!      8  4   format version
//!     12  4   zero
//!     16 16   store
//!     32  8   file id
//!     40 16   salt, random
//!     56  8   catalog generation known when the file was made
//!     64  8   first lsn: everything below it was durable when the file was made
//!     72  8   predecessor's id, 0 for none
//!     80  8   offset at which the predecessor ends; what lies beyond is ignored for ever
//!     88  8   length of this file
//!     96      zeros
//!   4092  4   CRC-32 of the bytes before
//!
//! record, 8-byte aligned
//!      0  4   CRC-32 of the 28 bytes after it
//!      4  4   length of the body
//!      8  8   lsn
//!     16  8   synced lsn: the highest lsn known to be durable when the record was written
//!     24  4   CRC-32 of the table of chunk sums, or of the body where there is no table
//!     28  2   zero
//!     30  1   flags, zero
//!     31  1   kind
//!     32      for bodies over 8 KiB: one CRC-32 for each 8 KiB of the body
//!             the body
//!             zeros up to one byte short of a multiple of 8
//!             one byte, 0xA5
//! ```
//!
//! Three properties carry the judgement over damaged logs:
//!
//! - Every checksum starts from salt, file id and offset, so a record of another file, another store or another place
//!   never passes; a run of zeros never passes because zero is no kind.
//! - The last byte of a record header (the kind) and the last byte of a record are never zero, and no single flipped
//!   bit makes them zero. A write that stopped part-way leaves zeros there; a flipped bit does not.
//! - The first word of a record is never zero in all its bits together with its length, so each end of a record shows
//!   whether it was written.

use nearstone_base::checksum::crc32;
use nearstone_base::codec::{Reader, Writer};
use nearstone_base::{BATCH_BYTES_MAX, LSN_MAX, Lsn, Uuid};

/// The version this crate writes, and the only one it reads.
pub const VERSION: u32 = 1;

/// Bytes before the first record.
pub const FILE_HEADER_BYTES: usize = 4096;

/// Bytes before a record's body.
pub const RECORD_HEADER_BYTES: usize = 32;

/// The longest body.
pub const BODY_BYTES_MAX: usize = BATCH_BYTES_MAX;

/// The longest file that is looked at: far above what options allow to be written.
pub const FILE_BYTES_LIMIT: u64 = 1 << 30;

/// The highest id of a file that is opened. One file per millisecond does not reach it in a thousand years, and ids can
/// be counted on from it without overflow.
pub const FILE_ID_MAX: u64 = 1 << 48;

pub(crate) const SECTOR_BYTES: usize = 512;
const CHUNK_BYTES: usize = 8192;
const MAGIC: [u8; 8] = *b"NEARWAL\n";
const LAST_BYTE: u8 = 0xA5;

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One batch: consumes an lsn.
    Batch,
    /// Says how far the log is durable; repeats the last lsn.
    Marker,
    /// The body is a catalog generation (8 bytes) that was committed before; repeats the last lsn.
    Barrier,
    /// Nothing follows in this file, which may have been cut behind it; repeats the last lsn.
    End,
}

impl Kind {
    // No two differ in one bit, and none is one bit away from zero.
    fn code(self) -> u8 {
        match self {
            Kind::Batch => 0x17,
            Kind::Marker => 0x2b,
            Kind::Barrier => 0x4d,
            Kind::End => 0x8e,
        }
    }

    fn from_code(code: u8) -> Option<Kind> {
        [Kind::Batch, Kind::Marker, Kind::Barrier, Kind::End].into_iter().find(|kind| kind.code() == code)
    }
}

/// The first block of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileHeader {
    /// The store it belongs to.
    pub store: Uuid,
    /// Its number; the name says it too.
    pub file_id: u64,
    /// What seeds its checksums.
    pub salt: [u8; 16],
    /// The catalog generation known when it was made.
    pub generation: u64,
    /// The lsn of its first batch. Everything below was durable when the file was made.
    pub first_lsn: Lsn,
    /// The file before it, 0 for none.
    pub predecessor: u64,
    /// Where that one ends.
    pub predecessor_end: u64,
    /// The length of this file.
    pub file_bytes: u64,
}

/// Why a header block was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HeaderFault {
    /// The bytes at this offset are not what a header has there.
    Damaged(u64, &'static str),
    /// Intact, but of another version.
    Version(u32),
}

impl FileHeader {
    /// The block.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(FILE_HEADER_BYTES);
        out.raw(&MAGIC);
        out.u32(VERSION);
        out.u32(0);
        out.raw(&self.store.0);
        out.u64(self.file_id);
        out.raw(&self.salt);
        out.u64(self.generation);
        out.u64(self.first_lsn);
        out.u64(self.predecessor);
        out.u64(self.predecessor_end);
        out.u64(self.file_bytes);
        let mut block = out.into_bytes();
        block.resize(FILE_HEADER_BYTES - 4, 0);
        let sum = crc32(0, &block);
        block.extend_from_slice(&sum.to_le_bytes());
        debug_assert_eq!(FileHeader::decode(&block).as_ref(), Ok(self));
        block
    }

    /// Reads the block at the front of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<FileHeader, HeaderFault> {
        let damaged = HeaderFault::Damaged;
        let (covered, sum) = bytes
            .get(..FILE_HEADER_BYTES)
            .and_then(|block| block.split_last_chunk::<4>())
            .ok_or(damaged(bytes.len() as u64, "a header of 4096 bytes"))?;
        if covered.get(..8) != Some(&MAGIC) {
            return Err(damaged(0, "the magic of a log file"));
        }
        if crc32(0, covered) != u32::from_le_bytes(*sum) {
            return Err(damaged(FILE_HEADER_BYTES as u64 - 4, "the checksum of the header"));
        }
        let mut input = Reader::new(covered);
        let mut read = || {
            input.raw(8)?;
            let version = input.u32()?;
            input.u32()?;
            let store = Uuid(input.raw(16)?.try_into().ok()?);
            let file_id = input.u64()?;
            let salt = input.raw(16)?.try_into().ok()?;
            let header = FileHeader {
                store,
                file_id,
                salt,
                generation: input.u64()?,
                first_lsn: input.u64()?,
                predecessor: input.u64()?,
                predecessor_end: input.u64()?,
                file_bytes: input.u64()?,
            };
            Some((version, header))
        };
        let (version, header) = read().ok_or(damaged(0, "a header of 4096 bytes"))?;
        if version != VERSION {
            return Err(HeaderFault::Version(version));
        }
        // A file that follows the last batch there can be begins one above it.
        if !(1..=LSN_MAX + 1).contains(&header.first_lsn)
            || header.file_id == 0
            || header.predecessor >= header.file_id
        {
            return Err(damaged(32, "a header that this program writes"));
        }
        Ok(header)
    }

    /// What the checksums of this file's records start from.
    pub fn seed(&self) -> FileSeed {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&self.salt);
        bytes[16..].copy_from_slice(&self.file_id.to_le_bytes());
        FileSeed(crc32(0, &bytes))
    }
}

/// Salt and file id, folded.
#[derive(Clone, Copy, Debug)]
pub struct FileSeed(u32);

impl FileSeed {
    fn at(self, offset: u64) -> u32 {
        crc32(self.0, &offset.to_le_bytes())
    }
}

/// A record's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// What it is.
    pub kind: Kind,
    /// Of the batch, or the last one before.
    pub lsn: Lsn,
    /// Known durable when it was written.
    pub synced_lsn: Lsn,
    /// Bytes of the body.
    pub len: usize,
    body_sum: u32,
}

fn table_bytes(len: usize) -> usize {
    if len > CHUNK_BYTES { len.div_ceil(CHUNK_BYTES) * 4 } else { 0 }
}

/// Bytes that a record with a body of `len` bytes takes.
pub fn record_bytes(len: usize) -> usize {
    (RECORD_HEADER_BYTES + table_bytes(len) + len + 1).next_multiple_of(8)
}

/// Appends a record that will lie at `offset` of the file.
pub fn encode_record(
    out: &mut Vec<u8>,
    seed: FileSeed,
    offset: u64,
    kind: Kind,
    lsn: Lsn,
    synced_lsn: Lsn,
    body: &[u8],
) {
    debug_assert!(offset.is_multiple_of(8) && body.len() <= BODY_BYTES_MAX && synced_lsn <= lsn);
    let start = out.len();
    let seed = seed.at(offset);
    let mut table = Vec::with_capacity(table_bytes(body.len()));
    if body.len() > CHUNK_BYTES {
        for chunk in body.chunks(CHUNK_BYTES) {
            table.extend_from_slice(&crc32(!seed, chunk).to_le_bytes());
        }
    }
    let body_sum = crc32(!seed, if table.is_empty() { body } else { &table });
    let mut header = [0u8; RECORD_HEADER_BYTES];
    header[4..8].copy_from_slice(&(body.len() as u32).to_le_bytes());
    header[8..16].copy_from_slice(&lsn.to_le_bytes());
    header[16..24].copy_from_slice(&synced_lsn.to_le_bytes());
    header[24..28].copy_from_slice(&body_sum.to_le_bytes());
    header[31] = kind.code();
    let sum = crc32(seed, &header[4..]);
    header[..4].copy_from_slice(&sum.to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(&table);
    out.extend_from_slice(body);
    out.resize(start + record_bytes(body.len()) - 1, 0);
    out.push(LAST_BYTE);
}

/// The record header at `offset`, if there is an intact one.
pub fn decode_record_header(bytes: &[u8], seed: FileSeed, offset: usize) -> Option<RecordHeader> {
    let header = bytes.get(offset..)?.first_chunk::<RECORD_HEADER_BYTES>()?;
    // The cheap tests first: a search for later records tries every eighth byte.
    let kind = Kind::from_code(header[31])?;
    if header[28..31] != [0; 3] {
        return None;
    }
    let mut input = Reader::new(header);
    let sum = input.u32()?;
    if crc32(seed.at(offset as u64), &header[4..]) != sum {
        return None;
    }
    let len = input.u32()? as usize;
    let lsn = input.u64()?;
    let synced_lsn = input.u64()?;
    let body_sum = input.u32()?;
    let sound = len <= BODY_BYTES_MAX
        && lsn <= LSN_MAX
        && match kind {
            Kind::Batch => synced_lsn < lsn,
            Kind::Barrier => synced_lsn <= lsn && len == 8,
            Kind::Marker | Kind::End => synced_lsn <= lsn && len == 0,
        };
    sound.then_some(RecordHeader { kind, lsn, synced_lsn, len, body_sum })
}

/// The body of the record at `offset` whose header is `header`, if it is intact to its last byte.
pub fn decode_body<'a>(
    bytes: &'a [u8],
    seed: FileSeed,
    offset: usize,
    header: &RecordHeader,
) -> Option<&'a [u8]> {
    let record = bytes.get(offset..)?.get(RECORD_HEADER_BYTES..record_bytes(header.len))?;
    let (table, rest) = record.split_at_checked(table_bytes(header.len))?;
    let (body, end) = rest.split_at_checked(header.len)?;
    let seed = !seed.at(offset as u64);
    if crc32(seed, if table.is_empty() { body } else { table }) != header.body_sum {
        return None;
    }
    if !table.is_empty() {
        let sums = table.chunks_exact(4);
        let sound =
            body.chunks(CHUNK_BYTES).zip(sums).all(|(chunk, sum)| crc32(seed, chunk).to_le_bytes() == sum);
        if !sound {
            return None;
        }
    }
    let (last, pad) = end.split_last()?;
    (*last == LAST_BYTE && pad.iter().all(|byte| *byte == 0)).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> FileHeader {
        FileHeader {
            store: Uuid([7; 16]),
            file_id: 3,
            salt: [9; 16],
            generation: 4,
            first_lsn: 10,
            predecessor: 2,
            predecessor_end: 4160,
            file_bytes: 1 << 20,
        }
    }

    #[test]
    fn a_header_reads_back_and_no_flipped_bit_passes() {
        let block = header().encode();
        assert_eq!(block.len(), FILE_HEADER_BYTES);
        assert_eq!(FileHeader::decode(&block), Ok(header()));
        for bit in 0..block.len() * 8 {
            let mut bad = block.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(FileHeader::decode(&bad).is_err(), "bit {bit}");
        }
        for len in 0..block.len() {
            assert!(FileHeader::decode(&block[..len]).is_err(), "length {len}");
        }
    }

    #[test]
    fn records_of_every_size_class_read_back_and_notice_every_flipped_bit() {
        let seed = header().seed();
        for len in [0, 1, 7, 8, 100, 8192, 8193, 20_000] {
            let body: Vec<u8> = (0..len).map(|i| (i * 31) as u8).collect();
            let mut bytes = vec![0; 64];
            encode_record(&mut bytes, seed, 64, Kind::Batch, 12, 11, &body);
            assert_eq!(bytes.len() - 64, record_bytes(len));
            assert_ne!(bytes.last(), Some(&0));
            let head = decode_record_header(&bytes, seed, 64).unwrap();
            assert_eq!((head.lsn, head.synced_lsn, head.len), (12, 11, len));
            assert_eq!(decode_body(&bytes, seed, 64, &head), Some(&body[..]));
            let step = if len > 1000 { 7 } else { 1 };
            for bit in (64 * 8..bytes.len() * 8).step_by(step) {
                bytes[bit / 8] ^= 1 << (bit % 8);
                let read = decode_record_header(&bytes, seed, 64)
                    .and_then(|head| decode_body(&bytes, seed, 64, &head));
                assert_eq!(read, None, "length {len}, bit {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn a_record_elsewhere_or_of_another_file_is_none() {
        let mut other = header();
        other.salt[0] ^= 1;
        let seed = header().seed();
        let mut bytes = vec![0; 8];
        encode_record(&mut bytes, seed, 0, Kind::Marker, 5, 5, &[]);
        assert!(decode_record_header(&bytes, seed, 8).is_none(), "misplaced");
        assert!(decode_record_header(&bytes[8..], other.seed(), 0).is_none(), "stale");
        assert!(decode_record_header(&bytes[8..], seed, 0).is_some());
        assert!(decode_record_header(&[0; 64], seed, 0).is_none(), "zeros");
    }
}
