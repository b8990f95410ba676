//! Rebuilding: all segments of a collection are built anew by other parameters, while it is read and written.
//!
//! 1. With a turn to compact, so that nobody else replaces segments: what is in memory is sealed, and each sealed segment
//!    becomes a new file of its live rows, with a graph that is built from nothing. Seals go on by the old parameters; what they bring is
//!    built anew in the next round, until little is left in memory.
//! 2. With a turn to seal as well, so that no segment comes any more: what came since is built anew.
//! 3. **One catalog transaction, the commit point**: all new segments in the places of the old ones, and the schema.
//! 4. Under the apply lock: deaths up to this moment are carried over, what is in memory is frozen, and a mutable segment
//!    that is linked by the new parameters takes the rows that come. What is frozen was linked by the old ones; it is
//!    sealed by those that the collection has then, with a graph of its own.
//!
//! Power may go between any two of these. Before 3 nothing names the new files, and the next open sweeps them; after 3
//! the log is replayed into a segment of the new schema.

use crate::engine::Engine;
use crate::progress::{Progress, Step};
use crate::replace::Replacement;
use crate::view::{SealedHandle, dropped};
use nearstone_base::faults::{failpoint, seeded};
use nearstone_base::sync::{Arc, Ordering};
use nearstone_base::{Codes, CollectionId, Profile, Result, Schema};

/// Rows in memory that are frozen when the schema changes, rather than sealed and built anew before: their new graph is built
/// by one thread.
const ROWS_LEFT: u64 = 1_000;
/// Under steady writes there is always something left.
const ROUNDS: u32 = 3;

/// With which parameters a collection is built anew: those that are not set stay as they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RebuildOptions {
    m: Option<usize>,
    ef_construction: Option<usize>,
    profile: Option<Profile>,
    codes: Option<Codes>,
}

impl RebuildOptions {
    /// All parameters stay: the graphs are built from nothing, that is all.
    pub fn new() -> RebuildOptions {
        RebuildOptions::default()
    }

    /// Sets the number of links, as [`Schema::m`].
    #[must_use]
    pub fn m(mut self, m: usize) -> RebuildOptions {
        self.m = Some(m);
        self
    }

    /// Sets the beam width while linking, as [`Schema::ef_construction`].
    #[must_use]
    pub fn ef_construction(mut self, ef: usize) -> RebuildOptions {
        self.ef_construction = Some(ef);
        self
    }

    /// Sets what the segments are made for, as [`Schema::profile`].
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> RebuildOptions {
        self.profile = Some(profile);
        self
    }

    /// Sets the codes of the segments, as [`Schema::codes`].
    #[must_use]
    pub fn codes(mut self, codes: Codes) -> RebuildOptions {
        self.codes = Some(codes);
        self
    }

    fn apply(&self, schema: Schema) -> Result<Schema> {
        let m = self.m.unwrap_or(schema.links());
        let ef = self.ef_construction.unwrap_or(schema.beam());
        let profile = self.profile.unwrap_or(schema.chosen_profile());
        let codes = self.codes.unwrap_or(schema.chosen_codes());
        let schema = schema.m(m).ef_construction(ef).profile(profile).codes(codes);
        schema.validate().map(|()| schema)
    }
}

/// The new segments so far.
struct Rebuilt {
    id: CollectionId,
    schema: Schema,
    replacements: Vec<Replacement>,
    /// Rows linked so far.
    rows: u64,
}

impl Rebuilt {
    /// Whether a segment needs no look any more.
    fn has(&self, handle: &SealedHandle) -> bool {
        self.replacements.iter().any(|one| one.replaces(handle))
    }

    /// Builds those segments of a collection anew that came since the last time.
    fn follow(&mut self, engine: &Arc<Engine>, name: &str, progress: Progress<'_>) -> Result<()> {
        let view = engine.core.view.load_full();
        let collection = view.lists.get(self.id, name)?;
        let left: Vec<_> = collection.sealed.iter().filter(|handle| !self.has(handle)).collect();
        let total = self.rows + left.iter().map(|handle| u64::from(handle.segment.rows())).sum::<u64>();
        for handle in left {
            // Whatever a drop broke first, it is the drop that the caller hears of.
            if let Err(error) = self.build(engine, handle, total, progress) {
                engine.core.view.load().lists.get(self.id, name)?;
                return Err(error);
            }
            failpoint("rebuild-segment-written");
        }
        Ok(())
    }

    fn build(
        &mut self,
        engine: &Arc<Engine>,
        handle: &Arc<SealedHandle>,
        total: u64,
        progress: Progress<'_>,
    ) -> Result<()> {
        let (before, mut reached) = (self.rows, 0);
        // Of all segments together; each is linked and then written, which counts no rows.
        let mut progress = |step: Step| {
            reached = step.done.min(total - before).max(reached);
            progress(Step { done: before + reached, total, ..step })
        };
        let inputs = vec![handle.clone()];
        let output = {
            let like = self.replacements.iter().find_map(Replacement::output);
            let merge = engine.plan_merge(self.id, &inputs, self.schema)?.like(like);
            engine.rebuild_merge(&merge, &inputs, None, &mut progress)?
        };
        self.replacements.push(Replacement::new(inputs, output));
        self.rows += u64::from(handle.segment.rows());
        Ok(())
    }
}

impl Engine {
    /// Builds a collection anew.
    pub(crate) fn rebuild_collection(
        self: &Arc<Self>,
        id: CollectionId,
        name: &str,
        options: RebuildOptions,
        progress: Progress<'_>,
    ) -> Result<()> {
        self.check_healthy()?;
        let schema_now = || -> Result<Schema> { Ok(self.core.view.load().lists.get(id, name)?.schema) };
        // Now, so that nobody waits for a compaction to hear that a parameter is wrong.
        options.apply(schema_now()?)?;
        let _compacting = self.turn(&self.compact_turn, None);
        let schema = options.apply(schema_now()?)?;
        let mut rebuilt = Rebuilt { id, schema, replacements: Vec::new(), rows: 0 };
        for _ in 0..ROUNDS {
            self.flush_collection(id, None)?;
            rebuilt.follow(self, name, progress)?;
            let view = self.core.view.load();
            let collection = view.lists.get(id, name)?;
            // What was sealed meanwhile is not built anew yet either.
            let sealed = collection.sealed.iter().filter(|handle| !rebuilt.has(handle));
            let sealed = sealed.map(|handle| u64::from(handle.segment.rows())).sum::<u64>();
            let left = collection.unsealed().map(|segment| u64::from(segment.rows())).sum::<u64>() + sealed;
            if left <= ROWS_LEFT {
                break;
            }
        }
        failpoint("rebuild-written");
        let _sealing = self.turn(&self.seal_turn, None);
        if !seeded("rebuild-forgets-late-segments") {
            rebuilt.follow(self, name, progress)?;
        }
        let mut catalog = self.catalog()?;
        if !catalog.state().collections.contains_key(&id) {
            return Err(dropped(name));
        }
        let generation =
            self.commit_replacements(&mut catalog, id, &rebuilt.replacements, Some(rebuilt.schema))?;
        drop(catalog);
        self.counters.rebuilds.fetch_add(1, Ordering::Relaxed);
        self.workers.wake(self);
        // It has happened: what fails from here on is told, and is no failure of it.
        if let Err(error) = self.tell_log(generation) {
            self.note_error(error);
        }
        Ok(())
    }
}
