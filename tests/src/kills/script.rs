//! What the processes that are killed write, and what must be there afterwards: all of it follows from how many steps
//! each actor has taken.
//!
//! Three writers put each row into the collections `a` and `b` with one batch, so that a batch that is not whole shows.
//! The fourth actor makes a third collection, renames it and drops it again.

use nearstone::random::SplitMix64;
use nearstone::{
    AttachOptions, Codes, Collection, Durability, Metric, Profile, Result, Schema, Store, TakeFiles,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Writers of rows.
pub const WRITERS: usize = 3;
/// The actor that changes schemas.
pub const GUEST: usize = WRITERS;
/// Steps that each actor has taken.
pub type Steps = [u64; WRITERS + 1];
/// The step that wrote the row under each key.
pub type Rows = BTreeMap<u64, u64>;

/// The collections that stay.
pub const COLLECTIONS: [&str; 2] = ["a", "b"];
/// Keys of one writer come back, so that rows are replaced as well.
pub const KEYS: u64 = 50;
/// Keys of the next actor begin here.
const KEY_STRIDE: u64 = 1000;
const GUEST_STEPS: u64 = 6;
const DIMENSION: usize = 8;
/// Long payloads fill log files, so that one follows another.
const LONG: usize = 60_000;

/// The schema of one of the collections that stay. The second one is lean: it holds the same rows, with smaller codes, and reads
/// their vectors.
pub fn schema(name: &str) -> Schema {
    let schema = Schema::new(DIMENSION, Metric::L2).m(6).ef_construction(24);
    if name == COLLECTIONS[1] { schema.profile(Profile::Memory).codes(Codes::Sq4) } else { schema }
}

fn guest_schema() -> Schema {
    Schema::new(DIMENSION, Metric::Cosine).m(4).ef_construction(16)
}

/// The row that a step writes under a key.
pub fn row(key: u64, step: u64) -> (Vec<f32>, Value) {
    let mut rng = SplitMix64::new(key << 32 | step);
    let vector = (0..DIMENSION).map(|_| rng.unit_f64() as f32 - 0.5).collect();
    let len = if step % 16 == 9 { LONG } else { rng.below(40) as usize };
    let mut text = String::with_capacity(len + 16);
    while text.len() < len {
        text.push_str(&format!("{:x}", rng.next_u64()));
    }
    (vector, json!({ "key": key, "step": step, "text": text }))
}

fn key(writer: usize, step: u64) -> u64 {
    writer as u64 * KEY_STRIDE + step % KEYS
}

/// One step of a writer: a row in both collections, and now and then the deletion of an older one.
pub fn write(store: &Store, a: &Collection, b: &Collection, writer: usize, step: u64) -> Result<()> {
    let durability = match step % 7 {
        1 | 4 => Durability::Os,
        5 => Durability::Interval(Duration::from_millis(2)),
        _ => Durability::Sync,
    };
    let key = key(writer, step);
    let (vector, payload) = row(key, step);
    let mut batch = store.batch().durability(durability);
    batch.upsert(a, key, &vector, &payload)?.upsert(b, key, &vector, &payload)?;
    if step % 4 == 3 {
        let gone = self::key(writer, step - 2);
        batch.delete(a, gone)?.delete(b, gone)?;
    }
    batch.commit().map(|_| ())
}

/// The rows of a writer in each of the two collections.
pub fn written(writer: usize, steps: u64) -> Rows {
    let mut rows = Rows::new();
    // What came before the last two rounds of keys was replaced or deleted since.
    for step in steps.saturating_sub(2 * KEYS)..steps {
        rows.insert(key(writer, step), step);
        if step % 4 == 3 {
            rows.remove(&key(writer, step - 2));
        }
    }
    rows
}

/// One step of the guest: makes a collection, fills it, renames it, loads rows into it in bulk (by turns from files that are
/// built in `room`, if there is one), changes it, drops it.
pub fn visit(store: &Store, room: Option<&Path>, step: u64) -> Result<()> {
    let keys = |from: u64| (0..4).map(move |n| GUEST as u64 * KEY_STRIDE + from + n);
    let put = |from: u64| -> Result<()> {
        let guest = store.collection(&guest_name(step))?;
        let rows = keys(from).map(|key| {
            let (vector, payload) = row(key, step);
            (key, vector, payload)
        });
        guest.upsert_many(rows.collect::<Vec<_>>()).map(|_| ())
    };
    match step % GUEST_STEPS {
        0 => store.create_collection(&guest_name(step), guest_schema()).map(|_| ()),
        1 => put(0),
        2 => store.rename_collection(&guest_name(step), &guest_name(step + 1)),
        3 => {
            // Two of the keys are there.
            let guest = store.collection(&guest_name(step))?;
            let rows = keys(2).map(|key| (key, row(key, step)));
            if let Some(room) = room.filter(|_| (step / GUEST_STEPS).is_multiple_of(2)) {
                // What an earlier life has built and not attached.
                let _ = std::fs::remove_dir_all(room);
                let mut build = Store::builder().seal_rows(2).build_segments(room, guest.schema())?;
                for (key, (vector, payload)) in rows {
                    build.push(key, &vector, payload)?;
                }
                let files = build.finish()?;
                return guest.attach(&files, AttachOptions::new().take(TakeFiles::Move)).map(|_| ());
            }
            let mut load = guest.bulk_load()?;
            for (key, (vector, payload)) in rows {
                load.push(key, &vector, payload)?;
            }
            load.finish().map(|_| ())
        }
        4 => {
            let guest = store.collection(&guest_name(step))?;
            let mut batch = store.batch();
            for key in keys(0) {
                batch.delete(&guest, key)?;
            }
            batch.commit().map(|_| ())
        }
        _ => store.drop_collection(&guest_name(step)),
    }
}

/// What the guest's collection is called before its step `step`.
fn guest_name(step: u64) -> String {
    let renamed = if step % GUEST_STEPS > 2 { "-renamed" } else { "" };
    format!("guest-{}{renamed}", step / GUEST_STEPS)
}

/// The guest's collection and its rows, if there is one.
pub fn visited(steps: u64) -> Option<(String, Rows)> {
    let first = GUEST as u64 * KEY_STRIDE;
    let begin = steps - steps % GUEST_STEPS;
    let mut rows = Rows::new();
    for step in begin..steps {
        match step - begin {
            1 => rows.extend((0..4).map(|n| (first + n, step))),
            3 => rows.extend((2..6).map(|n| (first + n, step))),
            4 => rows.retain(|key, _| *key >= first + 4),
            _ => {}
        }
    }
    (steps > begin).then(|| (guest_name(steps), rows))
}

/// Whose key it is.
pub fn actor_of(key: u64) -> usize {
    (key / KEY_STRIDE) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_two_rounds_of_keys_say_all() {
        for steps in [0, 1, 99, 100, 101, 104, 250, 1003] {
            let mut rows = Rows::new();
            for step in 0..steps {
                rows.insert(key(1, step), step);
                if step % 4 == 3 {
                    rows.remove(&key(1, step - 2));
                }
            }
            assert_eq!(rows, written(1, steps), "{steps}");
        }
    }

    #[test]
    fn what_is_written_is_what_is_expected() {
        let store = Store::in_memory().unwrap();
        let [a, b] = COLLECTIONS.map(|name| store.create_collection(name, schema(name)).unwrap());
        for step in 0..2 * GUEST_STEPS + 3 {
            visit(&store, None, step).unwrap();
            write(&store, &a, &b, 2, step).unwrap();
            let (at, steps) = (step + 1, [0, 0, step + 1, step + 1]);
            let found = super::super::compare::compare(&store, &steps, &steps, "in memory");
            assert_eq!(found.steps, [0, 0, at, at]);
        }
    }
}
