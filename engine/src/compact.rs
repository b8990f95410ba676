//! Compaction: some sealed segments of a collection become one, without the rows that are dead in the catalog.
//!
//! The protocol is that of a seal, with an output added and inputs removed in one catalog transaction: see
//! [`crate::replace`].

use crate::background::{Tail, on_threads};
use crate::engine::Engine;
use crate::progress::{Progress, no_progress, report};
use crate::replace::{Origin, Replacement};
use crate::seal::overtaken;
use crate::view::{CollectionView, SealedHandle};
use nearstone_base::faults::{failpoint, seeded};
use nearstone_base::sync::{Arc, Mutex, Ordering, thread};
use nearstone_base::{CollectionId, Error, ErrorKind, Lsn, Result, Schema, SegmentId};
use nearstone_compaction::merge::{Merge, MergeInput, Merged};
use nearstone_compaction::pace::Work;
use nearstone_compaction::policy::{Choice, SegmentStats, choose, choose_all, seals_for_the_dead};
use nearstone_segments::seal::{SealTarget, sampled_recall};
use std::cell::RefCell;
use std::time::Duration;

/// Rows linked between two looks at whether to stop or to do something more urgent.
const LINK_PIECE: u32 = 64;
/// More urgent work done between two pieces, at most: a merge goes on under the steadiest writers.
const URGENT_STEPS: u32 = 4;
/// A new graph is looked at with so many of its rows as queries, each for so many neighbours, by a walk so wide.
const GATE_SAMPLES: u32 = 20;
const GATE_LIMIT: usize = 10;
const GATE_EF: usize = 64;
/// Good enough; below, it is compared with the inputs, which may have found so much more.
const GATE_RECALL: f32 = 0.95;
const GATE_SLACK: f32 = 0.05;
/// With inputs that have at least one row for so many.
const GATE_SHARE: u32 = 4;

impl Engine {
    /// A user's compaction: seals what is in memory, then merges everything sealed into one segment.
    pub(crate) fn compact_collection(
        self: &Arc<Self>,
        id: CollectionId,
        progress: Progress<'_>,
    ) -> Result<()> {
        self.flush_collection(id, None)?;
        let _turn = self.turn(&self.compact_turn, None);
        let view = self.core.view.load_full();
        let Some(collection) = view.lists.collections.get(&id) else { return Ok(()) };
        match choose_all(&self.segment_stats(collection, self.core.wall_secs(), Counted::InCatalog)) {
            Choice::Merge { inputs, .. } => self.merge(collection, &inputs, None, progress),
            Choice::Nothing => Ok(()),
        }
    }

    /// What the policy would do with a collection. Rows that died since the last seal count too: sealing makes
    /// their deaths known to the catalog, and then they can be dropped.
    fn policy_choice(&self, collection: &CollectionView, now_secs: u64) -> Option<Vec<SegmentId>> {
        let stats = self.segment_stats(collection, now_secs, Counted::All);
        match choose(&stats, &self.core.options.policy) {
            Choice::Merge { inputs, .. } => Some(inputs),
            Choice::Nothing => None,
        }
    }

    /// Whether the policy has anything to do with a collection.
    pub(crate) fn policy_wants(&self, collection: &CollectionView, now_secs: u64) -> bool {
        self.policy_choice(collection, now_secs).is_some() || self.mostly_dead_in_memory(collection)
    }

    fn mostly_dead_in_memory(&self, collection: &CollectionView) -> bool {
        let mutable = &collection.mutable;
        seals_for_the_dead(mutable.rows(), mutable.deaths().count(), &self.core.options.policy)
    }

    /// Does what the policy chooses; `false` when it chooses nothing. The caller holds the compaction turn.
    pub(crate) fn compact_by_policy(self: &Arc<Self>, id: CollectionId, work: Work) -> Result<bool> {
        let view = self.core.view.load_full();
        let Some(collection) = view.lists.collections.get(&id) else { return Ok(false) };
        let now = self.core.wall_secs();
        if self.policy_choice(collection, now).is_none() {
            let stale = self.mostly_dead_in_memory(collection);
            if stale {
                self.flush_collection(id, Some(work))?;
            }
            return Ok(stale);
        }
        let known = self.segment_stats(collection, now, Counted::InCatalog);
        if let Choice::Merge { inputs, .. } = choose(&known, &self.core.options.policy) {
            self.merge(collection, &inputs, Some(work), &mut no_progress)?;
        } else {
            // The deaths that call for it are not in the catalog yet.
            self.flush_collection(id, Some(work))?;
        }
        Ok(true)
    }

    /// What the policy sees of a collection when every death counts.
    pub(crate) fn all_deaths(&self, collection: &CollectionView) -> Vec<SegmentStats> {
        self.segment_stats(collection, self.core.wall_secs(), Counted::All)
    }

    fn segment_stats(&self, collection: &CollectionView, now_secs: u64, count: Counted) -> Vec<SegmentStats> {
        let known = match count {
            Counted::All => None,
            Counted::InCatalog => {
                Some(self.core.live.lock().pending.get(&collection.id).map_or(0, |p| p.sealed_lsn))
            }
        };
        collection
            .sealed
            .iter()
            .map(|handle| {
                let meta = handle.segment.meta();
                let deaths = handle.segment.deaths();
                let dead = known.map_or_else(|| deaths.count(), |lsn| deaths.dead_at(lsn).len() as u32);
                SegmentStats {
                    id: meta.id,
                    rows: meta.rows,
                    dead,
                    bytes: meta.len,
                    age_secs: now_secs.saturating_sub(meta.created_secs),
                }
            })
            .collect()
    }

    fn merge(
        self: &Arc<Self>,
        collection: &CollectionView,
        chosen: &[SegmentId],
        work: Option<Work>,
        progress: Progress<'_>,
    ) -> Result<()> {
        let id = collection.id;
        let inputs: Vec<Arc<SealedHandle>> =
            collection.sealed.iter().filter(|h| chosen.contains(&h.id())).cloned().collect();
        let merged = self.write_merge(collection, &inputs, work, progress)?;
        // The last moment at which it can be cancelled.
        report(progress, "write", 1, 1)?;
        failpoint("compact-verified");
        let replacement = Replacement::new(inputs, merged);
        let mut catalog = self.catalog()?;
        if !catalog.state().collections.contains_key(&id) {
            return Err(overtaken("compaction"));
        }
        let generation = self.commit_replacements(&mut catalog, id, &[replacement], None)?;
        drop(catalog);
        self.counters.compactions.fetch_add(1, Ordering::Relaxed);
        self.tell_log(generation)
    }

    fn write_merge(
        self: &Arc<Self>,
        collection: &CollectionView,
        inputs: &[Arc<SealedHandle>],
        work: Option<Work>,
        progress: Progress<'_>,
    ) -> Result<Option<(Arc<SealedHandle>, Origin)>> {
        let merge = self.plan_merge(collection.id, inputs, collection.schema)?.like(collection.largest());
        match self.join_merge(&merge, inputs, work, progress)? {
            Some(joined) => Ok(Some(joined)),
            None => self.rebuild_merge(&merge, inputs, work, progress),
        }
    }

    /// Plans to bring what is alive in some segments of a collection, as far as the catalog knows, into one.
    pub(crate) fn plan_merge<'a>(
        &self,
        id: CollectionId,
        inputs: &'a [Arc<SealedHandle>],
        schema: Schema,
    ) -> Result<Merge<'a>> {
        let known = self.core.live.lock().pending.get(&id).map(|p| p.sealed_lsn);
        // Dropped since the inputs were listed: nothing says any more which of their rows are dead.
        let mut at = known.ok_or_else(|| overtaken("compaction"))?;
        if seeded("merge-drops-unproven-deaths") {
            at = Lsn::MAX;
        }
        let inputs = inputs
            .iter()
            .map(|handle| MergeInput { segment: &handle.segment, dead: handle.segment.deaths().dead_at(at) });
        Merge::new(inputs.collect(), schema)
    }

    /// Lets `write` make a file under a new id, which is not there after an error. Between its pieces, with nothing locked, what is
    /// more urgent is done, and `told` is told how far it is; an error of these comes before what `write` makes of it.
    fn make_merged(
        self: &Arc<Self>,
        work: Option<Work>,
        told: &mut dyn FnMut(u64) -> Result<()>,
        write: impl FnOnce(&SealTarget<'_>, &dyn Fn(u64) -> bool) -> Result<Option<Merged>>,
    ) -> Result<Result<Option<Merged>>> {
        let (told, failed) = (RefCell::new(told), RefCell::new(None));
        let turns = RefCell::new(Turns::new(self));
        let cancel = |done| {
            let step = self.between_pieces(work, &mut turns.borrow_mut());
            let step = step.and_then(|()| (*told.borrow_mut())(done));
            let Err(error) = step else { return false };
            failed.borrow_mut().get_or_insert(error);
            true
        };
        let site = self.site(work);
        let target = site.target(self.core.take_segment_id(), self.merge_threads(work));
        let made = write(&target, &cancel);
        let failed = failed.into_inner();
        if failed.is_some() || made.is_err() {
            self.core.remove_new(target.id);
        }
        failed.map_or(Ok(made), Err)
    }

    /// Joins the graphs of the inputs; `None` when all rows are to be linked from nothing.
    fn join_merge(
        self: &Arc<Self>,
        merge: &Merge<'_>,
        inputs: &[Arc<SealedHandle>],
        work: Option<Work>,
        progress: Progress<'_>,
    ) -> Result<Option<(Arc<SealedHandle>, Origin)>> {
        let total = u64::from(merge.rows());
        let merged =
            self.make_merged(work, &mut |done| report(progress, "join", done, total), |target, cancel| {
                merge.join(target, cancel)
            })?;
        // Graphs that cannot be read are no reason to keep them: what a merge needs of the rows is elsewhere.
        let unless_damaged = |error: Error| match error.kind() {
            ErrorKind::Corruption => {
                self.note_error(error.context("joining graphs, which are built anew instead"));
                Ok(None)
            }
            _ => Err(error),
        };
        let merged = merged.or_else(unless_damaged)?;
        merged.map_or(Ok(None), |merged| self.unless_worse(merged, inputs))
    }

    /// Opens what was joined or built in batches; `None`, and no file, when it is worse than the inputs were.
    fn unless_worse(
        &self,
        merged: Merged,
        inputs: &[Arc<SealedHandle>],
    ) -> Result<Option<(Arc<SealedHandle>, Origin)>> {
        let handle = self.core.open_new(&merged.meta)?;
        match is_good(&handle, inputs) {
            Ok(true) => Ok(Some((handle, merged.origin))),
            Ok(false) => Ok(None),
            // The graph of an input. It is not needed.
            Err(error) if error.kind() == ErrorKind::Corruption => {
                self.note_error(error.context("looking whether a new graph is better"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a new graph from nothing, in batches or row by row, and writes it.
    pub(crate) fn rebuild_merge(
        self: &Arc<Self>,
        merge: &Merge<'_>,
        inputs: &[Arc<SealedHandle>],
        work: Option<Work>,
        progress: Progress<'_>,
    ) -> Result<Option<(Arc<SealedHandle>, Origin)>> {
        match self.build_merge(merge, inputs, work, progress)? {
            Some(built) => Ok(Some(built)),
            None => self.relink_merge(merge, work, progress),
        }
    }

    /// Builds a new graph in batches; `None` when rows are to be linked one by one.
    fn build_merge(
        self: &Arc<Self>,
        merge: &Merge<'_>,
        inputs: &[Arc<SealedHandle>],
        work: Option<Work>,
        progress: Progress<'_>,
    ) -> Result<Option<(Arc<SealedHandle>, Origin)>> {
        let total = u64::from(merge.rows());
        let merged = self.make_merged(
            work,
            &mut |done| match done {
                done if done < total => report(progress, "link", done, total),
                _ => report(progress, "write", 0, 1),
            },
            |target, cancel| merge.build(target, cancel),
        )?;
        merged?.map_or(Ok(None), |merged| self.unless_worse(merged, inputs))
    }

    /// Links all rows from nothing, and writes them: under another name than a file that was thrown away, which goes
    /// when whoever still holds it lets go.
    fn relink_merge(
        self: &Arc<Self>,
        merge: &Merge<'_>,
        work: Option<Work>,
        progress: Progress<'_>,
    ) -> Result<Option<(Arc<SealedHandle>, Origin)>> {
        self.link_merge(merge, work, progress)?;
        failpoint("compact-linked");
        let merged = self.make_merged(work, &mut |_| report(progress, "write", 0, 1), |target, cancel| {
            merge.write(target, &|| cancel(0))
        })?;
        merged?.map(|merged| Ok((self.core.open_new(&merged.meta)?, merged.origin))).transpose()
    }

    /// Work behind merges with the one thread that looks up between its pieces.
    fn merge_threads(&self, work: Option<Work>) -> usize {
        if work.is_some() { 1 } else { self.core.threads() }
    }

    /// What a thread that merges does between two pieces of work: behind, it waits while it is paused, and does what is more
    /// urgent. One thread may be all there is: seals come first, and rows of running writers are linked for as long as was
    /// merged, unless compaction is behind.
    fn between_pieces(self: &Arc<Self>, work: Option<Work>, turns: &mut Turns) -> Result<()> {
        if let Some(work) = work {
            let now = || self.core.clock.monotonic();
            turns.merged += now().saturating_sub(turns.since);
            self.pace.step(work)?;
            let behind = self.is_behind();
            for _ in 0..URGENT_STEPS {
                let links = turns.urgent <= turns.merged && !behind;
                let tail = if links { Tail::Linked } else { Tail::Left };
                let begin = now();
                if !self.workers.is_worker() || !self.urgent_step(work, tail)? {
                    break;
                }
                turns.urgent += now().saturating_sub(begin);
            }
            turns.since = now();
        }
        self.check_healthy()
    }

    fn link_merge(
        self: &Arc<Self>,
        merge: &Merge<'_>,
        work: Option<Work>,
        progress: Progress<'_>,
    ) -> Result<()> {
        let total = u64::from(merge.rows());
        let threads = self.merge_threads(work);
        if threads <= 1 {
            let mut turns = Turns::new(self);
            while !merge.all_linked() {
                self.between_pieces(work, &mut turns)?;
                report(progress, "link", u64::from(merge.linked()), total)?;
                self.core.with_scratch(|scratch| merge.link_some(LINK_PIECE, scratch))?;
            }
            return Ok(());
        }
        let failed = Mutex::new(None);
        let progress = Mutex::new(progress);
        on_threads(threads, || {
            while !merge.all_linked() && failed.lock().is_none() {
                match self.link_merge_step(merge, &progress, total) {
                    // The last rows are being linked by others.
                    Ok(0) => thread::yield_now(),
                    Ok(_) => {}
                    Err(error) => {
                        failed.lock().get_or_insert(error);
                    }
                }
            }
            Ok(())
        })?;
        failed.into_inner().map_or(Ok(()), Err)
    }

    fn link_merge_step(&self, merge: &Merge<'_>, progress: &Mutex<Progress<'_>>, total: u64) -> Result<u32> {
        self.check_healthy()?;
        // Whoever comes by while nobody else reports, reports.
        if let Some(mut progress) = progress.try_lock() {
            report(*progress, "link", u64::from(merge.linked()), total)?;
        }
        self.core.with_scratch(|scratch| merge.link_some(LINK_PIECE, scratch))
    }
}

/// How a thread that merges has divided its time.
struct Turns {
    /// When it went on to merge.
    since: Duration,
    merged: Duration,
    /// For what is more urgent.
    urgent: Duration,
}

impl Turns {
    fn new(engine: &Engine) -> Turns {
        Turns { since: engine.core.clock.monotonic(), merged: Duration::ZERO, urgent: Duration::ZERO }
    }
}

/// Whether a new graph is as good as those of the segments whose rows it links, as far as a few of its rows can tell.
fn is_good(new: &SealedHandle, inputs: &[Arc<SealedHandle>]) -> Result<bool> {
    let recall = |segment| sampled_recall(segment, GATE_SAMPLES, GATE_LIMIT, GATE_EF);
    let found = recall(&new.segment)?;
    if found >= GATE_RECALL {
        return Ok(true);
    }
    // Small ones are easy, whatever their graph; and who asks for fewer links, or for a narrower beam, does not want what there was.
    let compares = |input: &&Arc<SealedHandle>| {
        let (was, is) = (&input.segment.meta().schema, &new.segment.meta().schema);
        input.segment.rows() >= new.segment.rows() / GATE_SHARE
            && (was.links() <= is.links() && was.beam() <= is.beam())
    };
    for input in inputs.iter().filter(compares) {
        if found + GATE_SLACK < recall(&input.segment)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Which deaths count.
#[derive(Clone, Copy)]
enum Counted {
    /// Every death so far.
    All,
    /// Deaths that the catalog knows, whose rows a merge drops.
    InCatalog,
}

#[cfg(test)]
mod tests {
    use crate::{Background, Metric, Schema, Store};
    use nearstone_base::ErrorKind;

    /// Its deaths went with it, so that each key that had been put twice seemed to have two rows: damage that there was not.
    #[test]
    fn a_merge_of_a_collection_that_was_just_dropped_is_overtaken_and_not_damaged() {
        let store = Store::builder().background(Background::Manual).in_memory().unwrap();
        let rows = store.create_collection("rows", Schema::new(2, Metric::L2).m(4)).unwrap();
        for x in [1.0, 2.0] {
            rows.upsert(1u64, &[x, 1.0], ()).unwrap();
            rows.flush().unwrap();
        }
        let engine = &store.handle.engine;
        let view = engine.core.view.load_full();
        let collection = &view.lists.collections[&rows.id];
        assert_eq!(engine.plan_merge(rows.id, &collection.sealed, collection.schema).unwrap().rows(), 1);
        store.drop_collection("rows").unwrap();
        let merge = engine.plan_merge(rows.id, &collection.sealed, collection.schema);
        assert_eq!(merge.err().map(|error| error.kind()), Some(ErrorKind::Cancelled));
    }
}
