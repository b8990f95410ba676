//! Comparing a whole store with the script: every key with its own vector and payload, and nothing else.

use super::script::{self, COLLECTIONS, GUEST, Rows, Steps, WRITERS};
use nearstone::{Collection, Key, Store};
use std::path::Path;

/// What a store holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// The steps that were taken.
    pub steps: Steps,
    /// Rows compared.
    pub rows: u64,
}

/// The steps that the store shows, each between `low` and `high`. Panics, with `what`, when it shows something that no
/// such number of steps explains.
pub fn compare(store: &Store, low: &Steps, high: &Steps, what: &str) -> Found {
    let mut names = store.collections().unwrap();
    let present = |name: &str| names.iter().any(|other| other == name);
    let mut found = Found { steps: *low, rows: 0 };

    let mut sides = Vec::new();
    for name in COLLECTIONS {
        // A store whose creation was cut short has none yet.
        let begun = low[..WRITERS].iter().any(|steps| *steps > 0);
        assert!(present(name) || !begun, "{what}: the collection {name} is lost; there are {names:?}");
        sides.push(if present(name) { read(store, name, &mut found.rows, what) } else { Rows::new() });
    }
    assert!(
        sides[0] == sides[1],
        "{what}: a batch is in one collection only:\n{:?}\n{:?}",
        sides[0],
        sides[1]
    );
    for writer in 0..WRITERS {
        let rows: Rows = sides[0]
            .iter()
            .filter(|(key, _)| script::actor_of(**key) == writer)
            .map(|(k, s)| (*k, *s))
            .collect();
        let steps = (low[writer]..=high[writer]).find(|steps| script::written(writer, *steps) == rows);
        found.steps[writer] = steps.unwrap_or_else(|| {
            let right = script::written(writer, low[writer]);
            panic!(
                "{what}: writer {writer} took {} to {} steps:\nfound    {rows:?}\nexpected {right:?} or later",
                low[writer], high[writer]
            )
        });
    }
    assert!(
        sides[0].keys().all(|key| script::actor_of(*key) < WRITERS),
        "{what}: keys of nobody: {:?}",
        sides[0]
    );

    names.retain(|name| !COLLECTIONS.contains(&name.as_str()));
    let guest = names.first().map(|name| (name.clone(), read(store, name, &mut found.rows, what)));
    let steps = (low[GUEST]..=high[GUEST]).find(|steps| script::visited(*steps) == guest);
    found.steps[GUEST] = steps.filter(|_| names.len() < 2).unwrap_or_else(|| {
        let right = script::visited(low[GUEST]);
        panic!(
            "{what}: the guest took {} to {} steps:\nfound    {names:?} {guest:?}\nexpected {right:?} or later",
            low[GUEST], high[GUEST]
        )
    });
    found
}

/// Reads a collection whole: each row is the one that its step wrote under its key, and can be searched for.
fn read(store: &Store, name: &str, compared: &mut u64, what: &str) -> Rows {
    let collection = store.collection(name).unwrap();
    let mut rows = Rows::new();
    for key in collection.keys().unwrap() {
        let Key::U64(key) = key.unwrap() else { panic!("{what}: {name} has a key of another type") };
        let found = collection.get(key).unwrap();
        let found =
            found.unwrap_or_else(|| panic!("{what}: {name} lists the key {key} and has no row under it"));
        let payload: serde_json::Value = found.payload().unwrap();
        let step = payload["step"].as_u64().unwrap_or_else(|| panic!("{what}: {name}, key {key}: {payload}"));
        let (vector, expected) = script::row(key, step);
        assert_eq!(found.vector(), vector, "{what}: {name}, key {key}, step {step}");
        assert!(payload == expected, "{what}: {name}, key {key}, step {step}: another payload: {payload}");
        if rows.len().is_multiple_of(16) {
            nearest_is_itself(&collection, key, &vector, what);
        }
        rows.insert(key, step);
    }
    assert_eq!(collection.len().unwrap(), rows.len() as u64, "{what}: {name} counts otherwise");
    *compared += rows.len() as u64;
    rows
}

fn nearest_is_itself(collection: &Collection, key: u64, vector: &[f32], what: &str) {
    let hits = collection.search(vector).limit(1).exact(true).run().unwrap();
    assert_eq!(
        hits.first().map(|hit| hit.key().clone()),
        Some(Key::U64(key)),
        "{what}: the nearest to key {key}"
    );
}

/// No file is left in the store's folder that nothing names.
pub fn no_litter(store: &Store, path: &Path, what: &str) {
    let names = |sub: &str| -> Vec<String> {
        let entries = std::fs::read_dir(path.join(sub)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let stats = store.stats().unwrap();
    let mut named: Vec<String> =
        stats.collections.iter().flat_map(|c| &c.segments).map(|s| format!("{:016x}.seg", s.id)).collect();
    named.sort();
    assert_eq!(names("segments"), named, "{what}: files of segments");
    let mut litter = names("");
    litter.extend(names("wal"));
    litter.retain(|name| name.ends_with(".tmp") || name.ends_with(".aside") || name == "unfinished-backup");
    assert!(litter.is_empty(), "{what}: {litter:?} are left");
}
