//! Batches: operations over any collections of one store that become durable and visible together, or not at all.

use crate::collection::Collection;
use crate::store::{Handle, Store};
use crate::write::{Applied, Operation, Write};
use nearstone_base::faults::seeded;
use nearstone_base::record::BatchEncoder;
use nearstone_base::sync::Arc;
use nearstone_base::{BATCH_BYTES_MAX, CollectionId, Error, ErrorKind, Key, Lsn, PAYLOAD_BYTES_MAX, Result};
use nearstone_wal::Durability;
use serde::Serialize;
use std::collections::HashMap;

/// Bytes of a record that are neither key, vector nor payload, at most.
const OPERATION_OVERHEAD: usize = 24;

/// Operations that are committed together. Dropping it discards them.
///
/// In one batch the last operation on a key wins. A batch holds at most 64 MiB of encoded operations.
pub struct Batch {
    handle: Arc<Handle>,
    operations: Vec<Operation>,
    names: Vec<(CollectionId, Arc<str>)>,
    bytes: usize,
    durability: Durability,
}

/// A committed batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Commit {
    /// Its log sequence number, which is the version of the rows it wrote.
    pub lsn: Lsn,
    /// Rows written.
    pub upserted: u64,
    /// Rows deleted: keys that were not there do not count.
    pub deleted: u64,
    /// What each operation did, in the order in which they were given. Empty when several batches are summed up.
    pub results: Vec<Applied>,
}

impl Batch {
    pub(crate) fn new(handle: Arc<Handle>) -> Batch {
        let durability = handle.engine.core.options.durability;
        Batch { handle, operations: Vec::new(), names: Vec::new(), bytes: 4, durability }
    }

    /// Adds an upsert: the vector and payload under `key`, replacing what is there. The payload is anything that
    /// serialises to a JSON object, or `()` for none.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a key, vector or payload that the collection refuses, a collection of another store,
    /// or when the batch would pass 64 MiB. The batch stays as it was.
    pub fn upsert(
        &mut self,
        collection: &Collection,
        key: impl Into<Key>,
        vector: &[f32],
        payload: impl Serialize,
    ) -> Result<&mut Batch> {
        let key = key.into();
        collection.schema_when_opened().check_key(&key)?;
        collection.schema_when_opened().check_vector(vector)?;
        let payload = encode_payload(&payload)?;
        self.push(collection, key, Some((vector.to_vec(), payload)))
    }

    /// Adds a delete; a key that is not there is not an error.
    ///
    /// # Errors
    ///
    /// As [`Batch::upsert`].
    pub fn delete(&mut self, collection: &Collection, key: impl Into<Key>) -> Result<&mut Batch> {
        let key = key.into();
        collection.schema_when_opened().check_key(&key)?;
        self.push(collection, key, None)
    }

    /// Takes back all operations but the first `len`: for callers that add several and find that one does not fit.
    pub fn truncate(&mut self, len: usize) {
        while self.operations.len() > len {
            let Some(op) = self.operations.pop() else { break };
            let row_bytes = op.row.as_ref().map_or(0, |(vector, payload)| vector.len() * 4 + payload.len());
            self.bytes -= op.key.as_ref().byte_len() + row_bytes + OPERATION_OVERHEAD;
        }
        self.names.retain(|(id, _)| self.operations.iter().any(|op| op.collection == *id));
    }

    /// Commits with another durability than the store's.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Batch {
        self.durability = durability;
        self
    }

    /// Operations so far.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Encoded bytes so far, an upper bound.
    pub fn byte_len(&self) -> usize {
        self.bytes
    }

    /// Makes it durable as asked, then visible, and returns, later while compaction is behind
    /// ([`StoreBuilder::auto_compact`](crate::StoreBuilder::auto_compact)). An empty batch takes no lsn.
    ///
    /// # Errors
    ///
    /// `NotFound` (a collection was dropped), `Busy` (no memory for new rows within the stall limit), `DiskFull`,
    /// `ReadOnly`, `Closed`: definitely not written. `Io` and `Poisoned`: see [`Error::outcome`].
    pub fn commit(self) -> Result<Commit> {
        let engine = &self.handle.engine;
        engine.core.check_open()?;
        let log = engine.log()?;
        let view = engine.core.view.load_full();
        if self.operations.is_empty() {
            return Ok(Commit { lsn: view.lsn, upserted: 0, deleted: 0, results: Vec::new() });
        }
        for (id, name) in &self.names {
            view.lists.get(*id, name)?;
        }
        engine.wait_for_room(self.bytes as u64)?;
        let began = engine.core.clock.monotonic();

        let Batch { operations, names, durability, .. } = self;
        let (mut operations, places) = last_of_each_key(operations);
        let mut encoder = BatchEncoder::new();
        for op in &mut operations {
            op.resolve(&view)?;
            match &op.row {
                Some((vector, payload)) => encoder.upsert(op.collection, op.key.as_ref(), vector, payload),
                None if seeded("delete-not-logged") => {}
                None => encoder.delete(op.collection, op.key.as_ref()),
            }
        }
        let touched: Vec<CollectionId> = names.iter().map(|(id, _)| *id).collect();
        let (lsn, applied) = log
            .commit(encoder.finish(), durability, Write { operations, names })
            .inspect_err(|_| engine.note_poison())?;
        engine.after_commit(&touched, applied.len() as u32);
        if matches!(durability, Durability::Interval(_)) {
            engine.workers.keep_synced(engine);
        }
        // Segments that are merged meanwhile are held by nobody else.
        drop(view);
        engine.rest(&touched, engine.core.clock.monotonic().saturating_sub(began));

        let mut results = vec![Applied::Superseded; places.len()];
        for (result, place) in results.iter_mut().zip(&places) {
            if let Some(index) = place {
                *result = applied[*index];
            }
        }
        let count = |wanted: &[Applied]| results.iter().filter(|r| wanted.contains(r)).count() as u64;
        let (upserted, deleted) =
            (count(&[Applied::Inserted, Applied::Replaced]), count(&[Applied::Deleted]));
        Ok(Commit { lsn, upserted, deleted, results })
    }

    fn push(
        &mut self,
        collection: &Collection,
        key: Key,
        row: Option<(Vec<f32>, Vec<u8>)>,
    ) -> Result<&mut Batch> {
        if !Arc::ptr_eq(&self.handle.engine, &collection.handle.engine) {
            return Err(Error::invalid(format!(
                "the collection {:?} belongs to the store {}, the batch to {}",
                collection.name_when_opened(),
                collection.handle.engine.core.dir.display(),
                self.handle.engine.core.dir.display()
            )));
        }
        let row_bytes = row.as_ref().map_or(0, |(vector, payload)| vector.len() * 4 + payload.len());
        let bytes = self.bytes + key.as_ref().byte_len() + row_bytes + OPERATION_OVERHEAD;
        if bytes > BATCH_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the batch would have {bytes} bytes: the limit of one atomic batch is {BATCH_BYTES_MAX}"
            )));
        }
        self.bytes = bytes;
        let id = collection.id;
        if !self.names.iter().any(|(known, _)| *known == id) {
            self.names.push((id, collection.name_when_opened().into()));
        }
        let hash = key.as_ref().hash64();
        self.operations.push(Operation { collection: id, key, hash, row, resolved: None });
        Ok(self)
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batch({} operations, {} bytes)", self.operations.len(), self.bytes)
    }
}

impl Store {
    /// Starts a batch.
    pub fn batch(&self) -> Batch {
        Batch::new(self.handle.clone())
    }
}

/// Drops all operations on a key but the last, and says for each of the given ones which of the kept it is.
fn last_of_each_key(operations: Vec<Operation>) -> (Vec<Operation>, Vec<Option<usize>>) {
    let mut last: HashMap<(CollectionId, u64, &Key), usize> = HashMap::with_capacity(operations.len());
    for (index, op) in operations.iter().enumerate() {
        let place = last.entry((op.collection, op.hash, &op.key)).or_insert(index);
        if !seeded("first-operation-wins") {
            *place = index;
        }
    }
    let mut kept = vec![false; operations.len()];
    for &index in last.values() {
        kept[index] = true;
    }
    let mut next = 0;
    let places = kept
        .iter()
        .map(|&keep| {
            keep.then(|| {
                next += 1;
                next - 1
            })
        })
        .collect();
    let operations = operations.into_iter().zip(kept).filter_map(|(op, keep)| keep.then_some(op)).collect();
    (operations, places)
}

/// JSON text of an object, or nothing for `()`.
pub(crate) fn encode_payload(payload: &impl Serialize) -> Result<Vec<u8>> {
    let text = serde_json::to_vec(payload)
        .map_err(|error| Error::invalid(format!("the payload can't be written as JSON: {error}")))?;
    if text == b"null" {
        return Ok(Vec::new());
    }
    if text.first() != Some(&b'{') {
        let shown: String = String::from_utf8_lossy(&text).chars().take(24).collect();
        return Err(Error::invalid(format!(
            "the payload is {shown}: it must be a JSON object, or () for none"
        )));
    }
    if text.len() > PAYLOAD_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("the payload has {} bytes of JSON: the limit is {PAYLOAD_BYTES_MAX}", text.len()),
        ));
    }
    Ok(text)
}
