//! Replacing: new segments take the place of others in one moment, in the catalog and in memory.
//!
//! Compactions and rebuilds end here. Only rows that were dead at the collection's `sealed_lsn` are missing in an output;
//! deaths after that are carried over in memory at the swap and come from the log after a crash. What the transaction
//! writes down about an output is computed from the `sealed_lsn` of that moment, which a seal may have moved while the
//! output was made. Inputs are unlinked after the transaction and after the last snapshot that uses them.

use crate::catalog::{CatalogState, SegmentRow};
use crate::core::Live;
use crate::engine::{CatalogGuard, Engine};
use crate::view::SealedHandle;
use nearstone_base::faults::{failpoint, seeded};
use nearstone_base::sync::{Arc, Ordering};
use nearstone_base::{CollectionId, Lsn, Result, Schema};
use nearstone_segments::SealedSegment;
use roaring::RoaringBitmap;

/// For each row of an output: which input, and the row there.
pub(crate) type Origin = Vec<(u32, u32)>;

/// Some sealed segments, and the one that holds their live rows; none when no row is alive.
pub(crate) struct Replacement {
    inputs: Vec<Arc<SealedHandle>>,
    output: Option<(Arc<SealedHandle>, Origin)>,
}

impl Replacement {
    /// The output's file goes with the replacement, unless that is committed.
    pub(crate) fn new(
        inputs: Vec<Arc<SealedHandle>>,
        output: Option<(Arc<SealedHandle>, Origin)>,
    ) -> Replacement {
        Replacement { inputs, output }
    }

    /// Whether a segment is one of those that go.
    pub(crate) fn replaces(&self, handle: &SealedHandle) -> bool {
        self.inputs.iter().any(|input| input.id() == handle.id())
    }

    /// The new segment, if there is one.
    pub(crate) fn output(&self) -> Option<&SealedSegment> {
        self.output.as_ref().map(|(handle, _)| &handle.segment)
    }

    /// Rows of the output.
    pub(crate) fn rows(&self) -> u64 {
        self.output.as_ref().map_or(0, |(_, origin)| origin.len() as u64)
    }

    /// From now on the output's file stays.
    pub(crate) fn set_named(&self) {
        if let Some((handle, _)) = &self.output {
            handle.set_named();
        }
    }

    fn record(&self, next: &mut CatalogState, id: CollectionId, sealed_lsn: Lsn) {
        for input in &self.inputs {
            next.segments.remove(&input.id());
            next.deaths.remove(&input.id());
        }
        if let Some((handle, origin)) = &self.output {
            let meta = handle.segment.meta().clone();
            let dead = self.dead_rows(origin, sealed_lsn);
            if !dead.is_empty() && !seeded("merge-deaths-not-recorded") {
                next.deaths.insert(meta.id, dead);
            }
            next.segments.insert(meta.id, SegmentRow { collection: id, meta });
        }
    }

    /// The output's rows that are dead at `at`.
    fn dead_rows(&self, origin: &Origin, at: Lsn) -> RoaringBitmap {
        let is_dead =
            |&(input, old): &(u32, u32)| self.inputs[input as usize].segment.deaths().is_dead_at(old, at);
        (0..).zip(origin).filter(|(_, from)| is_dead(from)).map(|(new, _)| new).collect()
    }

    /// Gives the output all deaths up to this moment.
    fn carry_deaths(&self) {
        let Some((handle, origin)) = &self.output else { return };
        for (new, &(input, old)) in (0..).zip(origin) {
            let death = self.inputs[input as usize].segment.deaths().get(old);
            if death != 0 && !seeded("merge-drops-later-deaths") {
                handle.segment.deaths().set(new, death);
            }
        }
    }
}

/// Lets the outputs take the places of their inputs in memory, with all deaths up to this moment.
pub(crate) fn swap(live: &mut Live, id: CollectionId, replacements: &[Replacement]) {
    replacements.iter().for_each(Replacement::carry_deaths);
    live.change(id, |view| {
        view.sealed.retain(|handle| !replacements.iter().any(|one| one.replaces(handle)));
        let outputs = replacements.iter().filter_map(|one| one.output.as_ref());
        view.sealed.extend(outputs.map(|(handle, _)| handle.clone()));
        view.sealed_epoch += 1;
    });
}

impl Engine {
    /// The commit point, and the swap that follows; the catalog's new generation, of which the log is still to hear. The
    /// collection is in the catalog. With a schema, the collection has it from then on: all of its sealed segments are
    /// inputs, and nobody seals.
    pub(crate) fn commit_replacements(
        &self,
        catalog: &mut CatalogGuard<'_>,
        id: CollectionId,
        replacements: &[Replacement],
        schema: Option<Schema>,
    ) -> Result<u64> {
        if seeded("merge-unlinks-before-commit") {
            for input in replacements.iter().flat_map(|one| &one.inputs) {
                self.core.vfs.remove(input.segment.path())?;
            }
        }
        failpoint("replace-before-commit");
        // A transaction that fails keeps all files: it may have happened.
        replacements.iter().for_each(Replacement::set_named);
        catalog.commit(|next| {
            let Some(row) = next.collections.get_mut(&id) else { return };
            row.schema = schema.unwrap_or(row.schema);
            let sealed_lsn = row.sealed_lsn;
            for replacement in replacements {
                replacement.record(next, id, sealed_lsn);
            }
        })?;
        failpoint("replace-committed");
        {
            let mut live = self.core.live.lock();
            swap(&mut live, id, replacements);
            if let Some(schema) = schema {
                live.change_schema(&self.core, id, schema);
            }
            live.publish(&self.core);
        }
        failpoint("replace-swapped");
        for input in replacements.iter().flat_map(|one| &one.inputs) {
            input.set_obsolete();
        }
        let rows = replacements.iter().map(Replacement::rows).sum();
        self.counters.compacted_rows.fetch_add(rows, Ordering::Relaxed);
        Ok(catalog.state().generation)
    }

    /// What follows a commit when its locks are released.
    pub(crate) fn tell_log(&self, generation: u64) -> Result<()> {
        self.log()?.barrier(generation).inspect_err(|_| self.note_poison())?;
        failpoint("replace-barrier-written");
        Ok(())
    }
}
