//! Forging a file of the log.

use crate::forge::{put_u32, put_u64};
use nearstone_base::checksum::crc32;
use nearstone_wal::format::{FILE_HEADER_BYTES, FileHeader, decode_body, decode_record_header};

/// Places in the file header.
pub mod header {
    /// 4 bytes.
    pub const VERSION: usize = 8;
    /// Whose log it is, 16 bytes.
    pub const STORE: usize = 16;
    /// The file's number.
    pub const FILE_ID: usize = 32;
    /// The catalog's generation.
    pub const GENERATION: usize = 56;
    /// The first batch.
    pub const FIRST_LSN: usize = 64;
    /// The file before.
    pub const PREDECESSOR: usize = 72;
    /// Where that ends.
    pub const PREDECESSOR_END: usize = 80;
    /// The file's length.
    pub const FILE_BYTES: usize = 88;
}

/// One record, in whatever shape.
#[derive(Clone, Debug)]
pub struct Record {
    /// The number that stands for its kind.
    pub kind: u8,
    /// Its lsn.
    pub lsn: u64,
    /// What it says was durable.
    pub synced_lsn: u64,
    /// Its body.
    pub body: Vec<u8>,
    /// The length that its header says.
    pub len: u32,
}

/// A log file taken apart.
#[derive(Clone, Debug)]
pub struct Log {
    /// The header block.
    pub header: Vec<u8>,
    /// The records.
    pub records: Vec<Record>,
    /// The file's whole length.
    pub len: usize,
}

impl Log {
    /// Takes a sound file apart.
    pub fn open(bytes: &[u8]) -> Log {
        let seed = FileHeader::decode(bytes).expect("what is forged was sound before").seed();
        let (mut records, mut at) = (Vec::new(), FILE_HEADER_BYTES);
        while let Some(head) = decode_record_header(bytes, seed, at) {
            let body = decode_body(bytes, seed, at, &head).expect("what is forged was sound before").to_vec();
            let len = body.len() as u32;
            let kind = bytes[at + 31];
            at += nearstone_wal::format::record_bytes(body.len());
            records.push(Record { kind, lsn: head.lsn, synced_lsn: head.synced_lsn, body, len });
        }
        Log { header: bytes[..FILE_HEADER_BYTES].to_vec(), records, len: bytes.len() }
    }

    /// The last record that is a batch.
    pub fn batch(&mut self) -> &mut Record {
        self.records.iter_mut().rfind(|record| record.kind == BATCH).expect("the log has a batch")
    }

    /// Sets the body of the last batch, and its length.
    pub fn set_body(&mut self, body: Vec<u8>) {
        let record = self.batch();
        record.len = body.len() as u32;
        record.body = body;
    }

    /// Where the records end.
    pub fn end(&self) -> u64 {
        self.encoded().len() as u64
    }

    fn encoded(&self) -> Vec<u8> {
        let mut out = self.header.clone();
        let crc = crc32(0, &out[..FILE_HEADER_BYTES - 4]);
        put_u32(&mut out, FILE_HEADER_BYTES - 4, crc);
        // Salt and file id.
        let seed = crc32(0, &[&out[40..56], &out[32..40]].concat());
        for record in &self.records {
            record.encode(seed, &mut out);
        }
        out
    }

    /// The file.
    pub fn seal(&self) -> Vec<u8> {
        let mut out = self.encoded();
        out.resize(self.len.max(out.len()), 0);
        out
    }
}

/// The number of a batch, and of a record that ends a file.
pub const BATCH: u8 = 0x17;
/// See [`BATCH`].
pub const END: u8 = 0x8e;
/// A record that names the catalog's generation.
pub const BARRIER: u8 = 0x4d;

impl Record {
    fn encode(&self, seed: u32, out: &mut Vec<u8>) {
        let start = out.len();
        let seed = crc32(seed, &(start as u64).to_le_bytes());
        let table: Vec<u8> = if self.body.len() > 8192 {
            self.body.chunks(8192).flat_map(|chunk| crc32(!seed, chunk).to_le_bytes()).collect()
        } else {
            Vec::new()
        };
        let mut header = [0; 32];
        put_u32(&mut header, 4, self.len);
        put_u64(&mut header, 8, self.lsn);
        put_u64(&mut header, 16, self.synced_lsn);
        put_u32(&mut header, 24, crc32(!seed, if table.is_empty() { &self.body } else { &table }));
        header[31] = self.kind;
        let crc = crc32(seed, &header[4..]);
        put_u32(&mut header, 0, crc);
        out.extend_from_slice(&header);
        out.extend_from_slice(&table);
        out.extend_from_slice(&self.body);
        let end = (out.len() - start + 1).next_multiple_of(8) + start;
        out.resize(end - 1, 0);
        out.push(0xA5);
    }
}
