//! Idle rows: what nobody has added to for a while is sealed.
//!
//! When a program has loaded its rows, the last of them lie in memory, up to what makes a segment full: in the log, which the next open
//! replays, and in a graph where a search takes several times as long as in a sealed segment. So when no row has come to a collection for
//! [`StoreBuilder::seal_idle`](crate::StoreBuilder::seal_idle), and it has enough of them in memory that searches notice,
//! the work behind seals them. Each row is sealed once, sooner or later: what it costs are merges of segments that would have been one.

use crate::engine::Engine;
use nearstone_base::sync::{Arc, Mutex};
use nearstone_base::{Result, SegmentId};
use nearstone_compaction::pace::Work;
use std::time::Duration;

/// What was in memory when it was looked at last.
#[derive(Default)]
pub(crate) struct Seen(Mutex<Vec<Rows>>);

struct Rows {
    segment: SegmentId,
    count: u32,
    /// Since when it has been so.
    since: Duration,
}

impl Engine {
    /// Seals what has been idle for long enough, of one collection; `false` when nothing has.
    pub(crate) fn seal_idle_rows(self: &Arc<Self>, work: Work) -> Result<bool> {
        let options = &self.core.options;
        if !options.auto_compact {
            return Ok(false);
        }
        let now = self.core.clock.monotonic();
        let mut due = None;
        let mut seen = self.seen.0.lock();
        let view = self.core.view.load_full();
        let mut looks = Vec::new();
        for collection in view.lists.collections.values() {
            let (segment, count) = (collection.mutable.id(), collection.mutable.rows());
            if count < options.policy.idle_rows_min {
                continue;
            }
            let before = seen.iter().find(|rows| rows.segment == segment && rows.count == count);
            let mut since = before.map_or(now, |rows| rows.since);
            if due.is_none() && now.saturating_sub(since) >= options.seal_idle {
                due = Some(collection.id);
                // Another thread that looks now finds it taken care of.
                since = now;
            }
            looks.push(Rows { segment, count, since });
        }
        *seen = looks;
        drop(seen);
        due.map_or(Ok(false), |id| self.flush_collection(id, Some(work)).map(|()| true))
    }
}

#[cfg(test)]
mod tests {
    use crate::{Background, Collection, Metric, Schema, Store, StoreBuilder};
    use nearstone_base::clock::ManualClock;
    use std::sync::Arc;
    use std::time::Duration;

    const ROWS: u64 = 10;

    fn store(change: impl FnOnce(StoreBuilder) -> StoreBuilder) -> (Arc<ManualClock>, Store, Collection) {
        let clock = Arc::new(ManualClock::default());
        let mut builder = Store::builder().background(Background::Manual).clock(clock.clone());
        builder.options.policy.idle_rows_min = ROWS as u32;
        let store = change(builder).in_memory().unwrap();
        let rows = store.create_collection("rows", Schema::new(2, Metric::L2).m(4)).unwrap();
        (clock, store, rows)
    }

    fn put(rows: &Collection, keys: std::ops::Range<u64>) {
        for key in keys {
            rows.upsert(key, &[key as f32, 1.0], ()).unwrap();
        }
    }

    /// Seals after all that there is to do.
    fn seals(store: &Store) -> u64 {
        while store.step().unwrap() {}
        store.stats().unwrap().seals
    }

    #[test]
    fn idle_rows_are_sealed_and_not_while_others_come() {
        let (clock, store, rows) = store(|builder| builder);
        put(&rows, 0..ROWS);
        for key in ROWS..20 {
            assert_eq!(seals(&store), 0, "{key} rows");
            clock.advance(Duration::from_secs(9));
            put(&rows, key..key + 1);
        }
        assert_eq!(seals(&store), 0);
        clock.advance(Duration::from_secs(10));
        assert_eq!(seals(&store), 1);
        let stats = store.stats().unwrap();
        assert_eq!((stats.collections[0].unsealed_rows, stats.collections[0].rows), (0, 20));
        clock.advance(Duration::from_secs(1000));
        assert_eq!(seals(&store), 1, "there is nothing to seal");
    }

    #[test]
    fn a_few_rows_stay_in_memory_and_so_do_all_where_nobody_wants_it() {
        let idle = |(clock, store, rows): (Arc<ManualClock>, Store, Collection), count| {
            put(&rows, 0..count);
            assert_eq!(seals(&store), 0);
            clock.advance(Duration::from_secs(3600));
            seals(&store)
        };
        assert_eq!(idle(store(|builder| builder), ROWS), 1);
        assert_eq!(idle(store(|builder| builder), ROWS - 1), 0);
        assert_eq!(idle(store(|builder| builder.auto_compact(false)), ROWS), 0);
        assert_eq!(idle(store(|builder| builder.seal_idle(Duration::from_secs(3601))), ROWS), 0);
        assert_eq!(idle(store(|builder| builder.seal_idle(Duration::MAX)), ROWS), 0);
        let (_, store, rows) = store(|builder| builder.seal_idle(Duration::ZERO));
        put(&rows, 0..ROWS);
        assert_eq!(seals(&store), 1);
    }
}
