//! The mutable segment: rows in memory, a key index, deaths, and a graph that grows behind the rows.
//!
//! 1. [`MutableSegment::append`] copies a row in and publishes it: from then on it is found by key and scanned by
//!    searches, if its birth is not later than their snapshot.
//! 2. [`MutableSegment::link_some`] puts rows into the graph, from as many threads as the caller gives. From 48 dimensions
//!    on it measures on 8-bit codes, made with the append, and on the vectors where codes can't tell rows apart.
//! 3. [`MutableSegment::search`] walks the graph and scans the rows that were not linked when it began.
//! 4. [`MutableSegment::freeze`] ends the appends; the rows are then read through [`FrozenRows`] by a seal.
//!
//! What must hold:
//!
//! - A row never changes and never moves. An upsert of a known key appends a row and the caller sets the death of the
//!   old one; its place is not used again, for reused places are how graphs get rows that nothing reaches.
//! - Appends come one at a time and in ascending order of births; deaths of the rows that they replace are set before
//!   the lsn is published to readers, at the lsn of the new row's birth.
//! - A search takes no lock.

mod frozen;
mod keys;
mod link;
mod search;
mod shadow;

pub use frozen::FrozenRows;

use crate::append::AppendBuffer;
use crate::deaths::Deaths;
use crate::graph::{Graph, NO_LINK};
use crate::quantize::shadow::ShadowWork;
use crate::sealed::is_refined;
use keys::KeyIndex;
use link::Progress;
use nearstone_base::sync::{AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering};
use nearstone_base::{Key, KeyRef, Lsn, Metric, Schema, SegmentId};
use nearstone_kernels::{Kernels, kernels};
use shadow::Shadow;

/// The beam, per link of the schema, of a graph that a seal refines: it hardly matters what the refinement begins with. With
/// 64 instead of 200 for 16 links, recall was the same within 0.003 on each of four kinds of data, at every beam.
const REFINED_BEAM: usize = 4;

/// A segment in memory.
#[derive(Debug)]
pub struct MutableSegment {
    id: SegmentId,
    schema: Schema,
    kernels: Kernels,
    /// Held during an append.
    appending: Mutex<ShadowWork>,
    /// Rows that readers may touch: all buffers below hold at least as many.
    rows: AtomicU32,
    frozen: AtomicBool,
    /// See [`MutableSegment::unversioned`].
    unversioned: bool,
    vectors: AppendBuffer<f32>,
    /// One over the length of each vector; only under cosine.
    inverse_norms: AppendBuffer<f32>,
    /// What the graph is linked and walked on, where codes pay.
    shadow: Option<Shadow>,
    births: AppendBuffer<Lsn>,
    entries: AppendBuffer<Entry>,
    index: KeyIndex,
    deaths: Deaths,
    graph: Graph,
    progress: Progress,
    lsn_min: AtomicU64,
    lsn_max: AtomicU64,
    /// Bytes of keys and payloads on the heap.
    heap_bytes: AtomicU64,
    user_bytes: AtomicU64,
}

/// What of a row no search touches.
#[derive(Debug)]
struct Entry {
    key: Key,
    payload: Box<[u8]>,
    /// The row before under the same hash, or [`NO_LINK`].
    previous: u32,
}

impl MutableSegment {
    /// An empty segment. The schema must be valid.
    pub fn new(id: SegmentId, schema: Schema) -> MutableSegment {
        MutableSegment {
            id,
            schema,
            kernels: kernels(),
            appending: Mutex::default(),
            rows: AtomicU32::new(0),
            frozen: AtomicBool::new(false),
            unversioned: false,
            vectors: AppendBuffer::aligned(schema.dimension()),
            inverse_norms: AppendBuffer::new(),
            shadow: Shadow::new(&schema),
            births: AppendBuffer::new(),
            entries: AppendBuffer::new(),
            index: KeyIndex::default(),
            deaths: Deaths::new(),
            graph: Graph::new(schema.links(), schema.beam()),
            progress: Progress::default(),
            lsn_min: AtomicU64::new(Lsn::MAX),
            lsn_max: AtomicU64::new(0),
            heap_bytes: AtomicU64::new(0),
            user_bytes: AtomicU64::new(0),
        }
    }

    /// An empty segment for rows that no batch has written: they get their version, one for all, when the file that
    /// they are sealed into is named. Until then their births are the lowest lsn that it can be.
    pub fn unversioned(id: SegmentId, schema: Schema) -> MutableSegment {
        MutableSegment { unversioned: true, ..MutableSegment::new(id, schema) }
    }

    /// Whether it was made by [`MutableSegment::unversioned`].
    pub fn is_unversioned(&self) -> bool {
        self.unversioned
    }

    /// Has the rows linked with narrower beams if the file that they are going to be sealed into has inline rows, and with
    /// them a graph that is refined. For rows that nobody searches before: this graph alone finds less. Nothing may be
    /// linked yet.
    pub fn link_for_refinement(&mut self) {
        assert_eq!(self.linked(), 0, "rows of segment {} are linked already", self.id);
        if is_refined(&self.schema, self.rows()) {
            let beam = (REFINED_BEAM * self.schema.links()).min(self.schema.beam());
            self.graph = Graph::new(self.schema.links(), beam);
        }
    }

    /// Whether the graph was linked for a refinement, without which it is worse than the schema asks for.
    pub fn needs_refinement(&self) -> bool {
        self.graph.beam() < self.schema.beam()
    }

    /// Appends a row and gives its ordinal. `hash` is the key's; key, vector and payload were checked by the caller,
    /// who also sets the death of the row that this one replaces.
    ///
    /// Panics when the segment is frozen, when the vector has another dimension, when births descend, or after
    /// `u32::MAX - 1` rows.
    pub fn append(&self, key: KeyRef<'_>, hash: u64, vector: &[f32], payload: &[u8], birth: Lsn) -> u32 {
        let mut guard = self.appending.lock();
        assert!(!self.is_frozen(), "segment {} is frozen and takes no more rows", self.id);
        assert!(
            birth >= self.lsn_max.load(Ordering::Relaxed),
            "a row born at lsn {birth} comes after one born later in segment {}",
            self.id
        );
        let ordinal = self.rows.load(Ordering::Relaxed);
        assert!(ordinal < NO_LINK - 1, "segment {} is full", self.id);
        let entry = Entry {
            key: key.to_key(),
            payload: payload.into(),
            previous: self.index.get(hash).unwrap_or(NO_LINK),
        };
        let pushed = self.vectors.push_row(vector);
        if self.schema.metric() == Metric::Cosine {
            let square: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            self.inverse_norms.push(square.sqrt().recip() as f32);
        }
        if let Some(shadow) = &self.shadow {
            shadow.push(vector, &mut guard);
        }
        self.births.push(birth);
        self.entries.push(entry);
        self.progress.push();
        assert_eq!(pushed, ordinal, "an append that panicked left segment {} uneven", self.id);
        let key_heap = if let KeyRef::Str(s) = key { s.len() } else { 0 };
        self.heap_bytes.fetch_add((key_heap + payload.len()) as u64, Ordering::Relaxed);
        let user = size_of_val(vector) + key.byte_len() + payload.len();
        self.user_bytes.fetch_add(user as u64, Ordering::Relaxed);
        self.lsn_min.fetch_min(birth, Ordering::Relaxed);
        self.lsn_max.fetch_max(birth, Ordering::Relaxed);
        // Rows are published before the index names them: who finds an ordinal may read its row.
        self.rows.store(ordinal + 1, Ordering::Release);
        self.index.insert(hash, ordinal);
        drop(guard);
        ordinal
    }

    /// The newest row under a key, dead or alive.
    pub fn find(&self, key: KeyRef<'_>, hash: u64) -> Option<u32> {
        self.chain(hash).find(|&row| self.key(row) == key)
    }

    /// The row under a key that a snapshot at `at` sees: `birth <= at < death`. Costs a step per row of that key that
    /// was born later.
    pub fn find_at(&self, key: KeyRef<'_>, hash: u64, at: Lsn) -> Option<u32> {
        // The newest row born in time decides: the rows before it had died when it was born.
        let row = self.chain(hash).find(|&row| self.birth(row) <= at && self.key(row) == key)?;
        (!self.deaths.is_dead_at(row, at)).then_some(row)
    }

    /// Rows under a hash, newest first.
    fn chain(&self, hash: u64) -> impl Iterator<Item = u32> + '_ {
        std::iter::successors(self.index.get(hash), |&row| {
            let previous = self.entries.get(row).previous;
            (previous != NO_LINK).then_some(previous)
        })
    }

    /// Rows that a snapshot at `at` sees, by ordinal.
    pub fn live_at(&self, at: Lsn) -> impl Iterator<Item = u32> + '_ {
        (0..self.rows()).filter(move |&row| self.birth(row) <= at && !self.deaths.is_dead_at(row, at))
    }

    /// Ends the appends: a later one panics. Linking and deaths go on.
    pub fn freeze(&self) {
        let guard = self.appending.lock();
        self.frozen.store(true, Ordering::Release);
        drop(guard);
    }

    /// Whether [`MutableSegment::freeze`] was called.
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// Its number.
    pub fn id(&self) -> SegmentId {
        self.id
    }

    /// The schema of its rows.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Rows appended and published, dead ones included.
    pub fn rows(&self) -> u32 {
        self.rows.load(Ordering::Acquire)
    }

    /// The deaths of its rows.
    pub fn deaths(&self) -> &Deaths {
        &self.deaths
    }

    /// The graph, for flattening.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The lsn that wrote a row. This and the next three panic for rows that are not published.
    pub fn birth(&self, ordinal: u32) -> Lsn {
        *self.births.get(ordinal)
    }

    /// The key of a row.
    pub fn key(&self, ordinal: u32) -> KeyRef<'_> {
        self.entries.get(ordinal).key.as_ref()
    }

    /// The vector of a row, original bits, beginning at a multiple of 64 bytes.
    pub fn vector(&self, ordinal: u32) -> &[f32] {
        self.vectors.row(ordinal)
    }

    /// The payload of a row: JSON text or nothing.
    pub fn payload(&self, ordinal: u32) -> &[u8] {
        &self.entries.get(ordinal).payload
    }

    /// Lowest birth; `None` without rows.
    pub fn lsn_min(&self) -> Option<Lsn> {
        (self.rows() > 0).then(|| self.lsn_min.load(Ordering::Relaxed))
    }

    /// Highest birth; `None` without rows.
    pub fn lsn_max(&self) -> Option<Lsn> {
        (self.rows() > 0).then(|| self.lsn_max.load(Ordering::Relaxed))
    }

    /// Bytes of memory held: rows, their codes, keys, payloads, index, deaths and graph.
    pub fn bytes(&self) -> u64 {
        size_of::<MutableSegment>() as u64
            + self.vectors.bytes()
            + self.inverse_norms.bytes()
            + self.shadow.as_ref().map_or(0, Shadow::bytes)
            + self.births.bytes()
            + self.entries.bytes()
            + self.progress.bytes()
            + self.heap_bytes.load(Ordering::Relaxed)
            + self.index.bytes()
            + self.deaths.bytes()
            + self.graph.bytes()
    }

    /// Bytes of the vectors as they lie in memory.
    pub fn vector_bytes(&self) -> u64 {
        self.vectors.bytes()
    }

    /// Bytes of the vectors, keys and payloads as the user gave them.
    pub fn user_bytes(&self) -> u64 {
        self.user_bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
