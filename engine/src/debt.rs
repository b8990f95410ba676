//! Writers and compaction: how a store whose rows are put again and again stays fast to search and small on disk.
//!
//! Work behind runs at the lowest priority, and a writer who never rests can make dead rows, or segments, faster than they
//! are merged: searches would slow down, and the folder grow, without end. [`nearstone_compaction::policy::debt`] says how
//! far behind compaction is. As long as it is, whoever compacts leaves rows to link to the writers, who link their
//! own, and each writer rests after its batch, for a time in proportion to the debt and to what the batch took: the more is
//! behind, the larger the share of the processor that compaction has. Nothing fails, and no batch is held up before it is
//! durable and visible.

use crate::engine::Engine;
use crate::view::CollectionView;
use nearstone_base::CollectionId;
use nearstone_base::sync::{Arc, Ordering, thread};
use nearstone_compaction::policy::debt;
use std::time::Duration;

/// At the full debt a writer rests so many times as long as its batch took.
const RESTS_MAX: f64 = 8.0;
/// While it rests it looks so often whether it still has to.
const LOOK: Duration = Duration::from_millis(10);

impl Engine {
    /// How far compaction of a collection is behind, 0 to 1; 0 where nobody compacts, is allowed to, or can.
    pub(crate) fn debt(&self, collection: &CollectionView) -> f64 {
        let compacts = self.core.options.auto_compact
            && self.workers.threads() > 0
            && self.compacts.load(Ordering::Relaxed)
            && self.log.is_some()
            && !self.pace.is_paused();
        if !compacts || collection.sealed.is_empty() {
            return 0.0;
        }
        let in_memory = collection.unsealed().map(|s| s.rows().saturating_sub(s.deaths().count())).sum();
        debt(&self.all_deaths(collection), in_memory, &self.core.options.policy)
    }

    /// Whether compaction of any collection is behind.
    pub(crate) fn is_behind(&self) -> bool {
        self.core.view.load().lists.collections.values().any(|collection| self.debt(collection) > 0.0)
    }

    /// What a writer does last, when its batch took so long: rests while compaction of what it changed is behind.
    pub(crate) fn rest(self: &Arc<Self>, touched: &[CollectionId], took: Duration) {
        let mut rested = Duration::ZERO;
        loop {
            let view = self.core.view.load();
            let collections = touched.iter().filter_map(|id| view.lists.collections.get(id));
            let debt = collections.map(|collection| self.debt(collection)).fold(0.0, f64::max);
            // Whose clock it is, and so how long a batch can have taken, is the program's affair.
            let wanted = Duration::try_from_secs_f64(took.as_secs_f64() * debt * RESTS_MAX);
            let wanted = wanted.unwrap_or(Duration::MAX).min(self.core.options.write_stall);
            let left = wanted.saturating_sub(rested);
            if left.is_zero() || self.workers.is_stopping() || self.check_healthy().is_err() {
                break;
            }
            let step = left.min(LOOK);
            thread::sleep(step);
            rested += step;
        }
        if !rested.is_zero() {
            let micros = u64::try_from(rested.as_micros()).unwrap_or(u64::MAX);
            self.counters.rested_micros.fetch_add(micros, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Background, Collection, Metric, Schema, Store, StoreBuilder};

    const ROWS: u64 = 60;

    /// A store whose policy calls every dead row a debt.
    fn strict() -> StoreBuilder {
        let mut builder = Store::builder().background(Background::Threads(1)).seal_rows(20);
        builder.options.policy.memory_rows_min = 1;
        builder.options.policy.behind_dead = [0.0, 0.1];
        builder
    }

    fn put_all(store: &Store, rows: &Collection, x: f32) {
        let mut batch = store.batch();
        for key in 0..ROWS {
            batch.upsert(rows, key, &[x, key as f32], ()).unwrap();
        }
        batch.commit().unwrap();
    }

    /// All rows twice: those that are sealed are dead.
    fn fill(store: &Store) -> Collection {
        let rows = store.create_collection("rows", Schema::new(2, Metric::L2).m(4)).unwrap();
        put_all(store, &rows, 1.0);
        rows.flush().unwrap();
        put_all(store, &rows, 2.0);
        rows
    }

    fn debt_of(store: &Store) -> f64 {
        store.stats().unwrap().collections[0].compaction_debt
    }

    fn rest_ms(store: &Store) -> u64 {
        store.stats().unwrap().write_rest_ms
    }

    #[test]
    fn writers_rest_while_compaction_is_behind_and_no_longer() {
        let store = strict().in_memory().unwrap();
        let engine = store.handle.engine.clone();
        let turn = engine.compact_turn.lock();
        let rows = store.create_collection("rows", Schema::new(2, Metric::L2).m(4)).unwrap();
        put_all(&store, &rows, 1.0);
        rows.flush().unwrap();
        assert_eq!((debt_of(&store), rest_ms(&store)), (0.0, 0));
        engine.rest(&[rows.id], Duration::from_millis(100));
        assert_eq!(rest_ms(&store), 0, "nothing is behind");
        let mut batch = store.batch();
        for key in (0..ROWS).step_by(2) {
            batch.delete(&rows, key).unwrap();
        }
        batch.commit().unwrap();
        assert_eq!(debt_of(&store), 1.0);
        let before = rest_ms(&store);
        engine.rest(&[rows.id], Duration::from_millis(10));
        let rested = rest_ms(&store) - before;
        assert!((79..=81).contains(&rested), "{rested} ms instead of eight times as long as the batch");
        engine.rest(&[], Duration::from_millis(100));
        engine.rest(&[CollectionId(99)], Duration::from_millis(100));
        assert_eq!(rest_ms(&store) - before, rested, "other collections are not behind");
        // Compaction has its turn: whoever rests goes on when nothing is behind any more.
        let waiting = std::thread::spawn({
            let (engine, id) = (engine.clone(), rows.id);
            move || engine.rest(&[id], Duration::from_secs(5))
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        drop(turn);
        engine.workers.wake(&engine);
        waiting.join().unwrap();
        assert_eq!(debt_of(&store), 0.0);
        assert!(rest_ms(&store) < 30_000, "it rested to the end");
    }

    /// Else a pause, or a store that compacts only when it is told to, would slow its writers down for ever.
    #[test]
    fn nobody_rests_for_a_compaction_that_does_not_come() {
        for builder in [strict().auto_compact(false), strict().background(Background::Manual)] {
            let store = builder.in_memory().unwrap();
            fill(&store);
            assert_eq!(debt_of(&store), 0.0);
        }
        let store = strict().in_memory().unwrap();
        let pause = store.pause_background();
        fill(&store);
        assert_eq!(debt_of(&store), 0.0, "it is paused");
        let engine = &store.handle.engine;
        let turn = engine.compact_turn.lock();
        drop(pause);
        assert_eq!(debt_of(&store), 1.0);
        engine.compacts.store(false, Ordering::Relaxed);
        assert_eq!(debt_of(&store), 0.0, "the last one failed");
        drop(turn);
    }

    #[test]
    fn a_writer_that_rests_does_not_keep_a_store_from_closing() {
        let store = strict().in_memory().unwrap();
        let engine = store.handle.engine.clone();
        let turn = engine.compact_turn.lock();
        let rows = fill(&store);
        assert_eq!(debt_of(&store), 1.0);
        let waiting = std::thread::spawn({
            let (engine, id) = (engine.clone(), rows.id);
            move || engine.rest(&[id], Duration::from_secs(600))
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        engine.workers.stop();
        waiting.join().unwrap();
        drop(turn);
    }
}
