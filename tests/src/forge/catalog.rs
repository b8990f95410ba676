//! Forging the catalog, on two levels: redb's pages under our checksums, and our rows inside of redb.

use crate::forge::{put_u64, segment};
use nearstone::Uuid;
use nearstone_base::checksum::{crc32, hash128};
use nearstone_base::codec::Writer;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

/// Bytes of one of redb's pages.
pub const PAGE: usize = 4096;
const HEADER: usize = 320;
const SLOT: usize = PAGE + 8;
const MARK: u32 = 0x4e53_4347;

/// redb's own file, without our checksums.
#[derive(Clone, Debug)]
pub struct Pages {
    /// Whole pages; of the first, only redb's header is kept in the catalog.
    pub bytes: Vec<u8>,
}

impl Pages {
    /// Takes the checksums off a catalog.
    pub fn open(catalog: &[u8]) -> Pages {
        let mut bytes = catalog[..PAGE.min(catalog.len())].to_vec();
        bytes.resize(PAGE, 0);
        bytes[HEADER..].fill(0);
        for slot in catalog.get(PAGE..).unwrap_or_default().chunks_exact(SLOT) {
            bytes.extend_from_slice(&slot[..PAGE]);
        }
        Pages { bytes }
    }

    /// The catalog with these pages.
    pub fn seal(&self, store: Uuid) -> Vec<u8> {
        let seed = crc32(MARK, &store.0);
        let mut out = Vec::with_capacity(self.bytes.len() / PAGE * SLOT);
        for (number, page) in (0u64..).zip(self.bytes.chunks_exact(PAGE)) {
            let covered = if number == 0 { &page[..HEADER] } else { page };
            out.extend_from_slice(covered);
            out.extend_from_slice(&crc32(crc32(seed, &number.to_le_bytes()), covered).to_le_bytes());
            out.extend_from_slice(&MARK.to_le_bytes());
            if number == 0 {
                out.resize(PAGE, 0);
            }
        }
        out
    }

    /// The offsets of pages that hold a node of a tree of this kind: 1 for leaves, 2 for branches.
    pub fn nodes(&self, kind: u8) -> Vec<usize> {
        (PAGE..self.bytes.len()).step_by(PAGE).filter(|&at| self.bytes[at] == kind).collect()
    }

    /// Where redb's commit slot in use begins.
    pub fn slot(&self) -> usize {
        64 + 128 * usize::from(self.bytes[9] & 1)
    }

    /// Makes the checksum of a commit slot fit.
    pub fn sign_slot(&mut self, slot: usize) {
        let sum = hash128(&self.bytes[slot..slot + 112]);
        self.bytes[slot + 112..slot + 128].copy_from_slice(&sum.to_le_bytes());
    }
}

/// The tables of the catalog.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Table {
    /// One row: the state's numbers.
    Meta,
    /// A row per collection.
    Collections,
    /// A row per sealed segment.
    Segments,
    /// A row per segment with dead rows.
    Deaths,
}

impl Table {
    /// All of them, by their number in digests.
    pub const ALL: [Table; 4] = [Table::Meta, Table::Collections, Table::Segments, Table::Deaths];

    fn name(self) -> &'static str {
        match self {
            Table::Meta => "meta",
            Table::Collections => "collections",
            Table::Segments => "segments",
            Table::Deaths => "deaths",
        }
    }

    fn definition(self) -> TableDefinition<'static, u64, &'static [u8]> {
        TableDefinition::new(self.name())
    }
}

/// Places of the numbers in the row of [`Table::Meta`].
pub mod meta {
    /// Version of the rows, 4 bytes.
    pub const VERSION: usize = 0;
    /// Commits so far.
    pub const GENERATION: usize = 20;
    /// 4 bytes.
    pub const NEXT_COLLECTION: usize = 28;
    /// The next segment's number.
    pub const NEXT_SEGMENT: usize = 32;
    /// The lowest lsn that is needed from the log.
    pub const WAL_FLOOR: usize = 40;
    /// The highest durable lsn.
    pub const LAST_LSN: usize = 48;
    /// Whether the log was closed in order, 1 byte.
    pub const CLEAN: usize = 56;
    /// The log's last file.
    pub const CLEAN_FILE: usize = 57;
    /// Where it ends.
    pub const CLEAN_END: usize = 65;
    /// The last lsn in it.
    pub const CLEAN_LSN: usize = 73;
    /// Rows in the three other tables.
    pub const COUNTS: usize = 81;
    /// Their digest.
    pub const DIGEST: usize = 105;
}

/// The catalog's rows, without their checksums.
#[derive(Clone, Debug)]
pub struct Rows {
    /// By table and key.
    pub bodies: BTreeMap<(Table, u64), Vec<u8>>,
    /// Whether counts and digest in the row of [`Table::Meta`] are made to fit.
    pub count: bool,
}

impl Rows {
    /// Reads all rows.
    pub fn open(pages: &Pages) -> Rows {
        let (db, _) = database(pages);
        let read = db.begin_read().unwrap();
        let mut bodies = BTreeMap::new();
        for table in Table::ALL {
            for row in read.open_table(table.definition()).unwrap().iter().unwrap() {
                let (key, value) = row.unwrap();
                let body = value.value();
                bodies.insert((table, key.value()), body[..body.len() - 4].to_vec());
            }
        }
        Rows { bodies, count: true }
    }

    /// One row's bytes.
    pub fn body(&mut self, table: Table, key: u64) -> &mut Vec<u8> {
        self.bodies.get_mut(&(table, key)).expect("the row is there")
    }

    /// The row of [`Table::Meta`].
    pub fn meta(&mut self) -> &mut Vec<u8> {
        self.body(Table::Meta, 0)
    }

    /// The keys of a table.
    pub fn keys(&self, table: Table) -> Vec<u64> {
        self.bodies.keys().filter(|(of, _)| *of == table).map(|(_, key)| *key).collect()
    }

    /// Gives a schema to a collection and to none of its segments.
    pub fn set_collection_schema(&mut self, collection: u64, schema: &[u8]) {
        let row = self.body(Table::Collections, collection);
        let at = 4 + row[0] as usize;
        row[at..at + schema.len()].copy_from_slice(schema);
    }

    /// Gives a schema to a collection and to all of its segments.
    pub fn set_schema(&mut self, collection: u64, schema: &[u8]) {
        self.set_collection_schema(collection, schema);
        for key in self.keys(Table::Segments) {
            let row = self.body(Table::Segments, key);
            if u64::from(row[0]) == collection {
                row[segment::SCHEMA_IN_CATALOG..][..schema.len()].copy_from_slice(schema);
            }
        }
    }

    /// Writes all rows into redb's pages, each with a checksum that fits, under a digest that fits.
    pub fn seal(mut self, store: Uuid, pages: &mut Pages) {
        let mut values: BTreeMap<(Table, u64), Vec<u8>> = BTreeMap::new();
        let (mut digest, mut counts) = (0u128, [0u64; 4]);
        for (&(table, key), body) in self.bodies.iter().filter(|((table, _), _)| *table != Table::Meta) {
            let value = close(store, table, key, body);
            let mut row = Writer::new();
            row.u8(table as u8);
            row.u64(key);
            row.raw(&value);
            digest = digest.wrapping_add(hash128(row.as_bytes()));
            counts[table as usize] += 1;
            values.insert((table, key), value);
        }
        if let Some(meta) = self.bodies.get_mut(&(Table::Meta, 0))
            && self.count
            && meta.len() >= meta::DIGEST + 16
        {
            for (place, count) in counts[1..].iter().enumerate() {
                put_u64(meta, meta::COUNTS + 8 * place, *count);
            }
            meta[meta::DIGEST..meta::DIGEST + 16].copy_from_slice(&digest.to_le_bytes());
        }
        for (&(table, key), body) in self.bodies.iter().filter(|((table, _), _)| *table == Table::Meta) {
            values.insert((table, key), close(store, table, key, body));
        }
        let (db, memory) = database(pages);
        let mut write = db.begin_write().unwrap();
        write.set_durability(Durability::Immediate).unwrap();
        write.set_quick_repair(true);
        for table in Table::ALL {
            let mut rows = write.open_table(table.definition()).unwrap();
            rows.retain(|key, _| values.contains_key(&(table, key))).unwrap();
            for ((_, key), value) in values.iter().filter(|((of, _), _)| *of == table) {
                let same = rows.get(key).unwrap().is_some_and(|before| before.value() == value.as_slice());
                if !same {
                    rows.insert(key, value.as_slice()).unwrap();
                }
            }
        }
        write.commit().unwrap();
        drop(db);
        pages.bytes = memory.0.lock().unwrap().clone();
    }
}

fn close(store: Uuid, table: Table, key: u64, body: &[u8]) -> Vec<u8> {
    let seed = crc32(crc32(MARK, &store.0), table.name().as_bytes());
    let crc = crc32(crc32(seed, &key.to_le_bytes()), body);
    [body, &crc.to_le_bytes()].concat()
}

fn database(pages: &Pages) -> (Database, Memory) {
    let memory = Memory(Arc::new(Mutex::new(pages.bytes.clone())));
    let db = Database::builder().set_cache_size(4 << 20).create_with_backend(memory.clone()).unwrap();
    (db, memory)
}

/// redb's file in memory.
#[derive(Clone, Debug)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.lock().unwrap();
        let start = offset as usize;
        out.copy_from_slice(bytes.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.0.lock().unwrap();
        let start = offset as usize;
        bytes.get_mut(start..start + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        Ok(())
    }
}
