//! How a state is laid out in redb's tables, and how a changed state becomes the rows that have to be written.
//!
//! Four tables, all `u64 -> bytes`:
//!
//! ```text
//! meta         0             version u32 | store 16 bytes | generation u64 | next_collection u32 | next_segment u64
//!                            | wal_floor u64 | last_lsn u64 | clean u8 (0 or 1) | file_id u64 | end u64 | lsn u64
//!                            | collections u64 | segments u64 | deaths u64 (rows of each) | digest u128
//! collections  collection    name (u32 length) | schema | sealed_lsn u64 | created_secs u64
//! segments     segment       collection u32 | segment meta
//! deaths       segment       roaring bitmap in its portable form
//! ```
//!
//! Each value ends with a CRC-32 over store, table, key and the bytes before it. The digest is the sum, modulo 2^128, of
//! the XXH3-128 of every row outside `meta`: it does not depend on order, so one changed row costs one subtraction and
//! one addition, and a row that is missing, left over or from an earlier commit shows.

use super::pages::store_seed;
use super::state::{CatalogState, CleanMark, CollectionRow, SegmentRow};
use nearstone_base::codec::{Reader, Writer};
use nearstone_base::{CollectionId, Schema, SegmentId, Uuid, checksum};
use nearstone_segments::SegmentMeta;
use roaring::RoaringBitmap;
use std::collections::BTreeMap;

const VERSION: u32 = 1;

/// The one key of [`Table::Meta`].
pub(super) const META_KEY: u64 = 0;

/// The tables.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Table {
    Meta,
    Collections,
    Segments,
    Deaths,
}

impl Table {
    pub(super) const ALL: [Table; 4] = [Table::Meta, Table::Collections, Table::Segments, Table::Deaths];

    pub(super) fn name(self) -> &'static str {
        match self {
            Table::Meta => "meta",
            Table::Collections => "collections",
            Table::Segments => "segments",
            Table::Deaths => "deaths",
        }
    }
}

/// One row to be written (`Some`) or removed.
pub(super) struct Change {
    pub(super) table: Table,
    pub(super) key: u64,
    pub(super) value: Option<Vec<u8>>,
}

/// What is wrong with rows that were read.
#[derive(Debug, PartialEq)]
pub(super) enum Flaw {
    /// Damage: what was expected, what was found.
    Damaged(String, String),
    /// Written by a newer version of the row format.
    Version(u32),
    /// Of a collection with codes that this build knows nothing of.
    Codes(u8),
}

/// The hash of every row outside `meta`, and their sum.
#[derive(Clone, Default, Debug)]
pub(super) struct Digest {
    rows: BTreeMap<(Table, u64), u128>,
    sum: u128,
}

impl Digest {
    fn set(&mut self, table: Table, key: u64, value: Option<&[u8]>) {
        let before = match value {
            Some(value) => {
                let hash = row_hash(table, key, value);
                self.sum = self.sum.wrapping_add(hash);
                self.rows.insert((table, key), hash)
            }
            None => self.rows.remove(&(table, key)),
        };
        self.sum = self.sum.wrapping_sub(before.unwrap_or(0));
    }

    fn count(&self, table: Table) -> u64 {
        self.rows.keys().filter(|(t, _)| *t == table).count() as u64
    }
}

fn row_hash(table: Table, key: u64, value: &[u8]) -> u128 {
    let mut row = Writer::with_capacity(16 + value.len());
    row.u8(table as u8);
    row.u64(key);
    row.raw(value);
    checksum::hash128(row.as_bytes())
}

/// The rows that turn `before` (nothing, for a new catalog) into `after`, the row of `meta` always among them; and the
/// digest afterwards.
pub(super) fn changes(
    before: Option<&CatalogState>,
    after: &CatalogState,
    digest: &Digest,
) -> (Vec<Change>, Digest) {
    let nothing = CatalogState::new(after.store);
    let before = before.unwrap_or(&nothing);
    let mut out = Vec::new();
    let mut put = |table: Table, key: u64, body: Option<Writer>| {
        let value = body.map(|body| close_value(after.store, table, key, body));
        out.push(Change { table, key, value });
    };
    for (id, row) in difference(&before.collections, &after.collections) {
        put(Table::Collections, id.0.into(), row.map(encode_collection));
    }
    for (id, row) in difference(&before.segments, &after.segments) {
        put(Table::Segments, id.0, row.map(encode_segment));
    }
    for (id, dead) in difference(&before.deaths, &after.deaths) {
        put(Table::Deaths, id.0, dead.map(encode_deaths));
    }
    let mut digest = digest.clone();
    for change in &out {
        digest.set(change.table, change.key, change.value.as_deref());
    }
    let meta = close_value(after.store, Table::Meta, META_KEY, encode_meta(after, &digest));
    out.push(Change { table: Table::Meta, key: META_KEY, value: Some(meta) });
    (out, digest)
}

/// Keys whose values differ, with the value afterwards.
fn difference<'a, K: Ord + Copy, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> Vec<(K, Option<&'a V>)> {
    let gone = before.keys().filter(|key| !after.contains_key(key)).map(|key| (*key, None));
    let changed = after.iter().filter(|(key, value)| before.get(key) != Some(value));
    gone.chain(changed.map(|(key, value)| (*key, Some(value)))).collect()
}

/// Builds a state from rows in any order; [`Decoder::finish`] compares counts and digest and checks the state's rules.
pub(super) struct Decoder {
    state: CatalogState,
    digest: Digest,
    meta: Option<Meta>,
}

struct Meta {
    counts: [u64; 3],
    digest: u128,
}

impl Decoder {
    pub(super) fn new(store: Uuid) -> Decoder {
        Decoder { state: CatalogState::new(store), digest: Digest::default(), meta: None }
    }

    pub(super) fn row(&mut self, table: Table, key: u64, value: &[u8]) -> Result<(), Flaw> {
        let bad = |what: &str| {
            Flaw::Damaged(format!("row {key} of table {} {what}", table.name()), hex_tail(value))
        };
        let body = open_value(self.state.store, table, key, value)
            .ok_or_else(|| bad("with a checksum that matches"))?;
        let mut input = Reader::new(body);
        let read = match table {
            Table::Meta => self.meta_row(key, &mut input)?,
            Table::Collections => self.collection_row(key, &mut input)?,
            Table::Segments => self.segment_row(key, &mut input),
            Table::Deaths => self.deaths_row(key, &mut input),
        };
        read.and_then(|()| input.finish()).ok_or_else(|| bad("that can be read"))?;
        if table != Table::Meta {
            self.digest.set(table, key, Some(value));
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<(CatalogState, Digest), Flaw> {
        let damaged = |expected: &str, found: &str| Flaw::Damaged(expected.to_string(), found.to_string());
        let Some(meta) = self.meta else {
            return Err(damaged("a row in table meta", "none"));
        };
        for (table, expected) in
            [Table::Collections, Table::Segments, Table::Deaths].into_iter().zip(meta.counts)
        {
            let found = self.digest.count(table);
            if found != expected {
                return Err(damaged(
                    &format!("{expected} rows in table {}", table.name()),
                    &found.to_string(),
                ));
            }
        }
        if meta.digest != self.digest.sum {
            return Err(damaged(
                &format!("rows with the digest {:032x}", meta.digest),
                &format!("{:032x}", self.digest.sum),
            ));
        }
        self.state.check().map_err(|rule| damaged("a state that keeps the rules", &rule))?;
        Ok((self.state, self.digest))
    }

    fn meta_row(&mut self, key: u64, input: &mut Reader<'_>) -> Result<Option<()>, Flaw> {
        if key != META_KEY {
            return Ok(None);
        }
        match input.u32() {
            Some(VERSION) => Ok(self.meta_fields(input)),
            Some(version) if version > VERSION => Err(Flaw::Version(version)),
            _ => Ok(None),
        }
    }

    fn meta_fields(&mut self, input: &mut Reader<'_>) -> Option<()> {
        let state = &mut self.state;
        if input.raw(16)? != state.store.0 {
            return None;
        }
        state.generation = input.u64()?;
        state.next_collection = input.u32()?;
        state.next_segment = input.u64()?;
        state.wal_floor = input.u64()?;
        state.last_lsn = input.u64()?;
        let flag = input.u8()?;
        let mark = CleanMark { file_id: input.u64()?, end: input.u64()?, lsn: input.u64()? };
        state.clean = match flag {
            0 => None,
            1 => Some(mark),
            _ => return None,
        };
        let counts = [input.u64()?, input.u64()?, input.u64()?];
        let digest = u128::from_le_bytes(input.raw(16)?.try_into().ok()?);
        self.meta = Some(Meta { counts, digest });
        Some(())
    }

    fn collection_row(&mut self, key: u64, input: &mut Reader<'_>) -> Result<Option<()>, Flaw> {
        let name = input.bytes().and_then(|name| std::str::from_utf8(name).ok());
        match (name, Schema::unknown_codes(input)) {
            (Some(_), Some(codes)) => Err(Flaw::Codes(codes)),
            (name, _) => Ok(name.and_then(|name| self.known_collection_row(key, name, input))),
        }
    }

    fn known_collection_row(&mut self, key: u64, name: &str, input: &mut Reader<'_>) -> Option<()> {
        let id = CollectionId(u32::try_from(key).ok()?);
        let row = CollectionRow {
            name: name.to_string(),
            schema: Schema::decode(input)?,
            sealed_lsn: input.u64()?,
            created_secs: input.u64()?,
        };
        self.state.collections.insert(id, row).is_none().then_some(())
    }

    fn segment_row(&mut self, key: u64, input: &mut Reader<'_>) -> Option<()> {
        let row = SegmentRow { collection: CollectionId(input.u32()?), meta: SegmentMeta::decode(input)? };
        self.state.segments.insert(SegmentId(key), row).is_none().then_some(())
    }

    fn deaths_row(&mut self, key: u64, input: &mut Reader<'_>) -> Option<()> {
        let mut bytes = input.raw(input.remaining())?;
        let dead = RoaringBitmap::deserialize_from(&mut bytes).ok()?;
        if !bytes.is_empty() {
            return None;
        }
        self.state.deaths.insert(SegmentId(key), dead).is_none().then_some(())
    }
}

fn encode_meta(state: &CatalogState, digest: &Digest) -> Writer {
    let mut out = Writer::with_capacity(160);
    out.u32(VERSION);
    out.raw(&state.store.0);
    out.u64(state.generation);
    out.u32(state.next_collection);
    out.u64(state.next_segment);
    out.u64(state.wal_floor);
    out.u64(state.last_lsn);
    out.u8(state.clean.is_some().into());
    let mark = state.clean.unwrap_or(CleanMark { file_id: 0, end: 0, lsn: 0 });
    out.u64(mark.file_id);
    out.u64(mark.end);
    out.u64(mark.lsn);
    for table in [Table::Collections, Table::Segments, Table::Deaths] {
        out.u64(digest.count(table));
    }
    out.raw(&digest.sum.to_le_bytes());
    out
}

fn encode_collection(row: &CollectionRow) -> Writer {
    let mut out = Writer::new();
    out.bytes(row.name.as_bytes());
    row.schema.encode(&mut out);
    out.u64(row.sealed_lsn);
    out.u64(row.created_secs);
    out
}

fn encode_segment(row: &SegmentRow) -> Writer {
    let mut out = Writer::new();
    out.u32(row.collection.0);
    row.meta.encode(&mut out);
    out
}

fn encode_deaths(dead: &RoaringBitmap) -> Writer {
    let mut out = Writer::with_capacity(dead.serialized_size() + 4);
    dead.serialize_into(out.as_mut_vec()).expect("a vector takes every write");
    out
}

pub(super) fn close_value(store: Uuid, table: Table, key: u64, mut body: Writer) -> Vec<u8> {
    let crc = value_crc(store, table, key, body.as_bytes());
    body.u32(crc);
    body.into_bytes()
}

fn open_value(store: Uuid, table: Table, key: u64, value: &[u8]) -> Option<&[u8]> {
    let (body, crc) = value.split_last_chunk::<4>()?;
    (u32::from_le_bytes(*crc) == value_crc(store, table, key, body)).then_some(body)
}

fn value_crc(store: Uuid, table: Table, key: u64, body: &[u8]) -> u32 {
    let seed = checksum::crc32(store_seed(store), table.name().as_bytes());
    checksum::crc32(checksum::crc32(seed, &key.to_le_bytes()), body)
}

fn hex_tail(value: &[u8]) -> String {
    let tail = value.last_chunk::<4>().map_or(0, |crc| u32::from_le_bytes(*crc));
    format!("{} bytes that end with {tail:08x}", value.len())
}
