//! How a batch becomes rows and deaths: the log's leader calls [`Applier::apply`] with whole groups, in lsn order,
//! when they are as durable as was asked; replay calls the same [`apply_operation`].
//!
//! Which sealed row a key replaces is looked up by the writer before the batch is logged (a damaged block then fails
//! the write before it happened) and looked up again by the leader only when the sealed segments changed meanwhile.
//! What always holds: at most one live row per key, at every lsn.

use crate::core::{Core, Live};
use crate::view::{CollectionView, View, dropped};
use nearstone_base::faults::seeded;
use nearstone_base::sync::Arc;
use nearstone_base::{CollectionId, Key, Lsn, Result};
use nearstone_segments::MutableSegment;
use nearstone_wal::Apply;

/// What one operation of a batch did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applied {
    /// An upsert of a key that was not there.
    Inserted,
    /// An upsert of a key that was there.
    Replaced,
    /// A delete of a key that was there.
    Deleted,
    /// A delete of a key that was not there: not an error.
    Missing,
    /// A later operation of the same batch on the same key took its place.
    Superseded,
}

/// One operation, checked and owned, on its way through the log.
pub(crate) struct Operation {
    pub(crate) collection: CollectionId,
    pub(crate) key: Key,
    pub(crate) hash: u64,
    /// The row of an upsert; `None` deletes.
    pub(crate) row: Option<(Vec<f32>, Vec<u8>)>,
    pub(crate) resolved: Option<Resolved>,
}

/// Where the key's live row was in the sealed segments of one epoch.
#[derive(Clone, Copy)]
pub(crate) struct Resolved {
    epoch: u64,
    found: Option<(usize, u32)>,
}

/// One batch on its way through the log.
pub(crate) struct Write {
    pub(crate) operations: Vec<Operation>,
    /// For messages: the names of the collections.
    pub(crate) names: Vec<(CollectionId, Arc<str>)>,
}

impl Operation {
    /// Looks the key up in the sealed segments.
    pub(crate) fn resolve(&mut self, view: &View) -> Result<()> {
        if let Some(collection) = view.lists.collections.get(&self.collection) {
            // A row in memory hides every older one: no file has to be asked.
            let in_memory = collection.unsealed().any(|s| s.find(self.key.as_ref(), self.hash).is_some());
            if !in_memory {
                let found = collection.resolve_sealed(self.key.as_ref(), self.hash)?;
                self.resolved = Some(Resolved { epoch: collection.sealed_epoch, found });
            }
        }
        Ok(())
    }
}

/// The log's other end.
pub(crate) struct Applier {
    pub(crate) core: Arc<Core>,
}

impl Apply for Applier {
    type Item = Write;
    type Output = Vec<Applied>;

    fn admit(&self, write: &Write) -> Result<()> {
        // Dropping a collection excludes the leader, so what is there now is there when the batch is applied.
        let view = self.core.view.load();
        for (id, name) in &write.names {
            if !view.lists.collections.contains_key(id) {
                return Err(dropped(name));
            }
        }
        Ok(())
    }

    fn apply(&self, group: Vec<(Lsn, Write)>) -> Vec<Vec<Applied>> {
        let core = &*self.core;
        let mut live = core.live.lock();
        let mut results = Vec::with_capacity(group.len());
        for (lsn, write) in group {
            debug_assert_eq!(lsn, live.lsn + 1, "batches are applied in lsn order");
            let applied = write.operations.into_iter().map(|op| {
                apply_operation(&mut live, lsn, &op).unwrap_or_else(|error| {
                    // The batch is logged and can't be applied whole: the log latches, readers go on as before.
                    std::panic::resume_unwind(Box::new(format!("could not apply batch {lsn}: {error}")))
                })
            });
            let applied = applied.collect();
            live.lsn = lsn;
            results.push(applied);
        }
        freeze_full_segments(core, &mut live);
        live.publish(core);
        results
    }
}

/// Puts one operation into effect. Readers see nothing of it until the lsn is published.
pub(crate) fn apply_operation(live: &mut Live, lsn: Lsn, op: &Operation) -> Result<Applied> {
    let Some(view) = live.lists.collections.get(&op.collection) else {
        // Only replay gets here: the collection was dropped later.
        return Ok(Applied::Superseded);
    };
    let view = view.clone();
    let pending = live.pending.entry(op.collection).or_default();
    let was_there = kill(&view, op, lsn)?;
    if was_there || op.row.is_some() {
        pending.first.get_or_insert(lsn);
    }
    Ok(match &op.row {
        Some((vector, payload)) => {
            view.mutable.append(op.key.as_ref(), op.hash, vector, payload, lsn);
            if was_there { Applied::Replaced } else { Applied::Inserted }
        }
        None if was_there => Applied::Deleted,
        None => Applied::Missing,
    })
}

/// Ends the life of a key's row; whether there was one.
fn kill(view: &CollectionView, op: &Operation, lsn: Lsn) -> Result<bool> {
    let key = op.key.as_ref();
    // The newest segment in memory that knows the key decides: what is older was replaced when that row was born.
    for segment in std::iter::once(&view.mutable).chain(view.frozen.iter().rev().map(|f| &f.segment)) {
        if seeded("frozen-rows-not-replaced") && !Arc::ptr_eq(segment, &view.mutable) {
            continue;
        }
        if let Some(ordinal) = segment.find(key, op.hash) {
            return Ok(segment.deaths().set(ordinal, lsn));
        }
    }
    let found = match op.resolved {
        Some(resolved) if resolved.epoch == view.sealed_epoch || seeded("stale-resolve-after-swap") => {
            resolved.found
        }
        _ => view.resolve_sealed(key, op.hash)?,
    };
    Ok(found.is_some_and(|(index, ordinal)| view.sealed[index].segment.deaths().set(ordinal, lsn)))
}

/// Whether a segment has reached the size at which it is sealed.
pub(crate) fn is_full(core: &Core, segment: &MutableSegment) -> bool {
    segment.vector_bytes() >= core.options.seal_bytes || segment.rows() >= core.options.seal_rows
}

/// Freezes what has reached its size; between batches, so that no batch is split over a freeze.
pub(crate) fn freeze_full_segments(core: &Core, live: &mut Live) {
    let full: Vec<CollectionId> =
        live.lists.collections.values().filter(|c| is_full(core, &c.mutable)).map(|c| c.id).collect();
    for id in full {
        live.freeze(core, id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;
    use nearstone_base::{ErrorKind, Metric, Schema};

    /// Between the moment at which a batch was made and its admission the collection may go: applied, the batch would be
    /// there in the other collections that it names only.
    #[test]
    fn a_batch_that_names_a_dropped_collection_is_refused_by_the_leader() {
        let store = Store::in_memory().unwrap();
        let names = ["stays", "goes"].map(|name| {
            let collection = store.create_collection(name, Schema::new(2, Metric::L2)).unwrap();
            (collection.id, Arc::from(name))
        });
        let applier = Applier { core: store.handle.engine.core.clone() };
        let write = Write { operations: Vec::new(), names: names.to_vec() };
        applier.admit(&write).unwrap();
        store.drop_collection("goes").unwrap();
        let error = applier.admit(&write).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("goes"), "{error}");
    }
}
