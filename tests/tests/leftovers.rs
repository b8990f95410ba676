//! Files that a call has written and could not use: they are gone when it returns, not only after the next open.

use nearstone::random::SplitMix64;
use nearstone::vfs::{SimFault, SimVfs};
use nearstone::{Background, Collection, ErrorKind, Metric, RebuildOptions, Schema, Step, Store};
use nearstone_tests::disks::Around;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// No file is damaged.
const NOWHERE: u64 = u64::MAX;

/// A store on a disk that damages one file at the moment at which it is opened.
struct Damaging {
    disk: SimVfs,
    /// Where the next one is, in thousandths of its length.
    place: Arc<AtomicU64>,
    store: Store,
    rows: Collection,
}

impl Damaging {
    fn new(schema: Schema) -> Damaging {
        let disk = SimVfs::new(1);
        let place = Arc::new(AtomicU64::new(NOWHERE));
        let watched = {
            let (disk, place) = (disk.clone(), place.clone());
            Around::watched(disk.clone(), move |call, path| {
                if call == "bytes" && path.extension().is_some_and(|ending| ending == "seg") {
                    let share = place.swap(NOWHERE, Ordering::Relaxed);
                    if share != NOWHERE {
                        let len = disk.contents(path).unwrap().len() as u64;
                        assert!(disk.flip_bit(path, (len - 1) * share / 1000, 2));
                    }
                }
            })
        };
        let options = Store::builder().background(Background::Manual).auto_compact(false);
        let store = options.vfs(Arc::new(watched)).open("/store").unwrap();
        let rows = store.create_collection("rows", schema).unwrap();
        Damaging { disk, place, store, rows }
    }

    fn put(&self, keys: std::ops::Range<u64>) {
        let dimension = self.rows.schema().dimension();
        for key in keys {
            let mut rng = SplitMix64::new(key);
            let vector: Vec<f32> = (0..dimension).map(|_| rng.unit_f64() as f32 - 0.5).collect();
            self.rows.upsert(key, &vector, ()).unwrap();
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let files = self.disk.files().into_iter().map(|(path, _)| path);
        files.filter(|path| path.starts_with("store/segments")).collect()
    }

    /// There are all rows, in so many segments, and no other files.
    fn check(&self, rows: u64, segments: usize, what: &str) {
        let named: usize = self.store.stats().unwrap().collections.iter().map(|c| c.segments.len()).sum();
        assert_eq!((named, self.files().len()), (segments, segments), "{what}");
        assert_eq!(self.rows.len().unwrap(), rows, "{what}");
    }
}

#[test]
fn a_sealed_file_that_could_not_be_read_stayed_until_the_next_open() {
    let mut failures = 0;
    for place in (0..=1000).step_by(20) {
        let store = Damaging::new(Schema::new(8, Metric::L2).m(4).ef_construction(16));
        store.put(0..200);
        store.place.store(place, Ordering::Relaxed);
        let Err(error) = store.rows.flush() else { continue };
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
        store.check(200, 0, &format!("damaged at {place}: {error}"));
        failures += 1;
        store.rows.flush().unwrap();
        store.check(200, 1, "sealed again");
        store.store.verify().unwrap();
    }
    // Its ends are read when it is opened, its graph and rows when the graph is tried.
    assert!(failures > 10, "{failures}");
}

/// Graphs that are joined, and rows that are linked from nothing, which is done instead where a joined graph can't be read.
#[test]
fn a_merged_file_that_could_not_be_read_stayed_until_the_next_open() {
    for (schema, rows, step) in [
        (Schema::new(8, Metric::L2).m(4).ef_construction(16), 100, 20),
        (Schema::new(48, Metric::L2).m(8).ef_construction(32), 1100, 250),
    ] {
        let mut failures = 0;
        for place in (0..=1000).step_by(step) {
            let store = Damaging::new(schema);
            store.put(0..rows);
            store.rows.flush().unwrap();
            store.put(rows..2 * rows);
            store.rows.flush().unwrap();
            store.place.store(place, Ordering::Relaxed);
            let merged = store.rows.compact();
            store.check(
                2 * rows,
                if merged.is_ok() { 1 } else { 2 },
                &format!("damaged at {place}: {merged:?}"),
            );
            if let Err(error) = merged {
                assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
                failures += 1;
                store.rows.compact().unwrap();
                store.check(2 * rows, 1, "merged again");
                store.store.verify().unwrap();
            }
        }
        assert!(failures > 1, "{failures}");
    }
}

#[test]
fn a_file_whose_folder_could_not_be_synced_stayed_until_the_next_open() {
    type Call = fn(&Collection) -> nearstone::Result<()>;
    let calls: [(&str, Call); 3] = [
        ("flush", Collection::flush),
        ("compact", Collection::compact),
        ("rebuild", |rows| rows.rebuild(RebuildOptions::new())),
    ];
    for (name, call) in calls {
        let mut failures = 0;
        for operation in 0.. {
            let store = Damaging::new(Schema::new(8, Metric::L2).m(4).ef_construction(16));
            store.put(0..30);
            if name != "flush" {
                store.rows.flush().unwrap();
                store.put(30..60);
                store.rows.flush().unwrap();
            }
            let before = store.files();
            store.disk.fail_op(operation, SimFault::Io, false);
            let Err(error) = call(&store.rows) else {
                assert!(failures > 5, "{name}: {failures}");
                break;
            };
            store.disk.heal();
            // After a failure of the log or the catalog it is not known what they name, and everything stays.
            if store.rows.upsert(1000u64, &[1.0; 8], ()).is_ok() {
                failures += 1;
                assert_eq!(store.files(), before, "{name}, operation {operation}: {error}");
                call(&store.rows).unwrap();
            }
        }
    }
}

#[test]
fn a_compaction_that_was_cancelled_at_its_last_report_left_its_file() {
    let store = Damaging::new(Schema::new(8, Metric::L2).m(4).ef_construction(16));
    for first in [0, 50] {
        store.put(first..first + 50);
        store.rows.flush().unwrap();
    }
    let mut reports = 0;
    loop {
        let mut left = reports;
        let mut stop = |_: Step| {
            left -= 1;
            if left < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let Err(error) = store.rows.compact_with(&mut stop) else { break };
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
        store.check(100, 2, &format!("cancelled at report {reports}"));
        reports += 1;
    }
    assert!(reports > 3, "{reports}");
    store.check(100, 1, "merged");
}
