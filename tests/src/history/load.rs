//! Bulk loads in histories: what one must say and do, and what a crash inside of it may leave. Attaches end in the same way.

use super::{History, InFlight, metric, row};
use crate::model::{DIMENSION, State, check_collection, now};
use nearstone::{BulkLoaded, ErrorKind, OnCollision};
use std::collections::BTreeMap;

impl History {
    /// Loads rows into a collection, and into the model as far as that was acknowledged.
    pub(super) fn load(
        &mut self,
        collection: usize,
        rows: &[(u64, u32)],
        on_collision: OnCollision,
    ) -> InFlight {
        let rows: BTreeMap<u64, u32> = rows.iter().copied().collect();
        let run = || {
            let mut load = self.handles[&collection].bulk_load()?.on_collision(on_collision);
            for (&key, &value) in &rows {
                let row = row(collection, value, 0);
                let payload: Option<serde_json::Value> = serde_json::from_str(&row.payload).ok();
                load.push(key, &row.vector, payload)?;
            }
            load.finish()
        };
        let loaded = run();
        self.loaded(collection, &rows, on_collision, loaded)
    }

    /// Takes over into the model what a load of these rows says it has done, if that is right.
    pub(super) fn loaded(
        &mut self,
        collection: usize,
        rows: &BTreeMap<u64, u32>,
        on_collision: OnCollision,
        loaded: nearstone::Result<BulkLoaded>,
    ) -> InFlight {
        let failed = |text: String| InFlight { error: Some(text), ..InFlight::default() };
        let lsn = self.issued() + 1;
        let mut next = self.present().clone();
        let there = rows.keys().filter(|key| next.rows_mut(collection).contains_key(key)).count() as u64;
        for (&key, &value) in rows {
            if on_collision == OnCollision::Replace || !next.rows_mut(collection).contains_key(&key) {
                next.rows_mut(collection).insert(key, row(collection, value, lsn));
            }
        }
        match loaded {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let right = on_collision == OnCollision::Refuse && there > 0;
                if right {
                    InFlight::default()
                } else {
                    failed(format!("refused with {there} keys there: {error}"))
                }
            }
            Err(error) => InFlight { load: Some((lsn, next)), ..failed(error.to_string()) },
            Ok(_) if on_collision == OnCollision::Refuse && there > 0 => {
                failed(format!("{there} keys were there, and the load was not refused"))
            }
            Ok(loaded) => {
                let (replaced, kept) =
                    if on_collision == OnCollision::Keep { (0, there) } else { (there, 0) };
                let issued = if rows.is_empty() { lsn - 1 } else { lsn };
                let expected =
                    BulkLoaded { lsn: issued, inserted: rows.len() as u64 - there, replaced, kept };
                if loaded != expected {
                    return failed(format!("the load says {loaded:?}, expected {expected:?}"));
                }
                if !rows.is_empty() {
                    self.past.insert(lsn, next);
                    self.acknowledged = lsn;
                }
                InFlight::default()
            }
        }
    }

    /// Whether the store now is in this state.
    pub(super) fn agrees(&self, state: &State) -> bool {
        let store = self.store();
        self.handles.iter().all(|(collection, handle)| {
            let rows = state.collections.get(collection).cloned().unwrap_or_default();
            now(&store, handle)
                .and_then(|reads| check_collection(metric(*collection), &reads, &rows, &[0.5; DIMENSION]))
                .is_ok()
        })
    }
}
