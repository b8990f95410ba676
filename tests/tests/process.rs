//! Real processes on a real file system: a child ingests with several threads and says what was acknowledged; it is
//! killed without warning at a random moment; the store is opened, and every key compared with its own vector and
//! payload. Then it is compacted, opened again, and compared again.
//!
//! `NEARSTONE_KILLS` sets how often (default 8).

use nearstone::random::SplitMix64;
use nearstone::{Durability, Metric, Schema, Store};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const CHILD: &str = "NEARSTONE_TEST_CHILD";
const THREADS: u64 = 3;
const DIMENSION: usize = 8;

/// The row that thread `thread` writes in its `step`-th step; every fourth step deletes the key of two steps before.
fn row(key: u64, step: u64) -> (Vec<f32>, serde_json::Value) {
    let mut rng = SplitMix64::new(key << 32 | step);
    let vector = (0..DIMENSION).map(|_| rng.unit_f64() as f32 - 0.5).collect();
    (vector, serde_json::json!({ "key": key, "step": step }))
}

fn key(thread: u64, step: u64) -> u64 {
    // Keys come back every 50 steps, so that rows are replaced as well.
    thread * 1000 + step % 50
}

fn schema() -> Schema {
    Schema::new(DIMENSION, Metric::L2).m(6).ef_construction(24)
}

/// Not a test of its own: the ingesting child, when the environment says so.
#[test]
fn child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let store = Store::builder().seal_rows(400).dead_share(0.1).open(path).unwrap();
    let a = store.collection_or_create("a", schema()).unwrap();
    let b = store.collection_or_create("b", schema()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, a, b) = (&store, &a, &b);
            scope.spawn(move || {
                for step in 0.. {
                    let key = key(thread, step);
                    let (vector, payload) = row(key, step);
                    let durability = if step % 5 == 0 { Durability::Os } else { Durability::Sync };
                    let mut batch = store.batch().durability(durability);
                    batch.upsert(a, key, &vector, &payload).unwrap();
                    // Always the same row in both, or in neither: a batch is whole.
                    batch.upsert(b, key, &vector, &payload).unwrap();
                    if step % 4 == 3 {
                        let gone = self::key(thread, step - 2);
                        batch.delete(a, gone).unwrap().delete(b, gone).unwrap();
                    }
                    batch.commit().unwrap();
                    println!("did {thread} {step}");
                    std::io::stdout().flush().unwrap();
                }
            });
        }
        scope.spawn(|| {
            loop {
                std::thread::sleep(Duration::from_millis(15));
                store.flush().unwrap();
                store.compact().unwrap();
            }
        });
    });
}

/// What each key must hold after `steps` steps of its thread: the step that wrote it, or nothing.
fn expected(thread: u64, steps: u64) -> BTreeMap<u64, u64> {
    let mut rows = BTreeMap::new();
    for step in 0..steps {
        rows.insert(key(thread, step), step);
        if step % 4 == 3 {
            rows.remove(&key(thread, step - 2));
        }
    }
    rows
}

fn compare(store: &Store, acknowledged: &[u64], what: &str) -> Vec<u64> {
    let (a, b) = (store.collection("a").unwrap(), store.collection("b").unwrap());
    let mut found = Vec::new();
    for thread in 0..THREADS {
        let range = thread * 1000..thread * 1000 + 50;
        let read = |c: &nearstone::Collection| -> BTreeMap<u64, u64> {
            let rows = range.clone().filter_map(|key| c.get(key).unwrap().map(|row| (key, row)));
            rows.map(|(key, found)| {
                let step = found.payload::<serde_json::Value>().unwrap()["step"].as_u64().unwrap();
                let (vector, payload) = row(key, step);
                assert_eq!(found.vector(), vector, "{what}: key {key}");
                assert_eq!(found.payload::<serde_json::Value>().unwrap(), payload, "{what}: key {key}");
                (key, step)
            })
            .collect()
        };
        let rows = read(&a);
        assert_eq!(rows, read(&b), "{what}: a batch is there in one collection only");
        // All that was acknowledged (the process died, not the machine), and at most one batch more.
        let steps = (acknowledged[thread as usize]..=acknowledged[thread as usize] + 1)
            .find(|steps| expected(thread, *steps) == rows);
        let steps = steps.unwrap_or_else(|| {
            let right = expected(thread, acknowledged[thread as usize]);
            panic!("{what}: thread {thread} has {rows:?}, expected {right:?}")
        });
        found.push(steps);
    }
    found
}

fn cycle(path: &Path, seed: u64) {
    let mut rng = SplitMix64::new(seed);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = child.stdout.take().unwrap();
    let lines_max = 50 + rng.below(1500);
    let reader = std::thread::spawn(move || {
        let mut acknowledged = vec![0; THREADS as usize];
        let mut lines = 0;
        let mut killed = false;
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [.., "did", thread, step] = words[..] else { continue };
            acknowledged[thread.parse::<usize>().unwrap()] = step.parse::<u64>().unwrap() + 1;
            lines += 1;
            if lines == lines_max && !killed {
                // What it still says between the kill and the end of the pipe counts too.
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        assert!(killed, "the child ended by itself after {lines} lines");
        acknowledged
    });
    let acknowledged = reader.join().unwrap();
    let store = Store::open(path).unwrap();
    let found = compare(&store, &acknowledged, &format!("seed {seed}, opened"));
    store.compact().unwrap();
    compare(&store, &found, &format!("seed {seed}, compacted"));
    store.verify().unwrap();
    store.close().unwrap();
    drop(store);
    compare(&Store::open(path).unwrap(), &found, &format!("seed {seed}, opened again"));
}

#[test]
fn a_killed_process_loses_nothing_that_it_acknowledged() {
    if std::env::var(CHILD).is_ok() {
        return;
    }
    let kills = std::env::var("NEARSTONE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    for seed in 0..kills {
        let folder = tempfile::tempdir().unwrap();
        cycle(&folder.path().join("store"), seed);
    }
}
