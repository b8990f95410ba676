//! Models of what readers of a mutable segment share with its writers: rows that are appended, deaths, the lists of a
//! graph in which several threads link, and the floor up to which searches trust it. Every model runs the real types,
//! in every order and with every value that the memory model lets a load see, up to a number of preemptions that it
//! states (`None`: any number).
//!
//! Loom knows nothing of memory behind pointers, but it fails when a thread touches an atomic whose making did not
//! happen before. So where it matters that a row is whole when it is seen, the rows are atomics.
//!
//! `cargo xtask test --only loom`
#![cfg(nearstone_loom)]

use loom::thread;
use nearstone_base::sync::{AtomicU32, AtomicU64, Ordering};
use nearstone_base::{Key, Metric, Result, Schema, SegmentId};
use nearstone_segments::append::AppendBuffer;
use nearstone_segments::graph::{Graph, Links, NO_LINK, Scorer, VectorSource, walk};
use nearstone_segments::topk::Scratch;
use nearstone_segments::{AcceptAll, Deaths, MutableSegment, SearchOptions};
use std::sync::Arc;

type Task = Box<dyn FnOnce() + Send>;

/// Runs tasks at once, and then `after`. Those who write come first: loom begins with the order in which threads were
/// started and looks for other orders where a thread reads what one before it has written. Of readers before a writer
/// it remembers the last one only, and so would pass orders over.
fn model(preemptions: Option<usize>, setting: impl Fn() -> (Vec<Task>, Task) + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 100_000;
    builder.check(move || {
        let (tasks, after) = setting();
        let threads: Vec<_> = tasks.into_iter().map(thread::spawn).collect();
        for thread in threads {
            thread.join().unwrap();
        }
        after();
    });
}

/// A task that has a share in something.
fn task<T: Send + Sync + 'static>(shared: &Arc<T>, run: impl FnOnce(&T) + Send + 'static) -> Task {
    let shared = shared.clone();
    Box::new(move || run(&shared))
}

#[test]
fn a_row_that_is_counted_is_whole() {
    model(Some(3), || {
        let buffer = Arc::new(AppendBuffer::new());
        let writer = |first: u32| {
            task(&buffer, move |buffer| {
                for value in first..first + 2 {
                    // The third row begins another chunk.
                    let row = buffer.push(AtomicU32::new(value));
                    assert_eq!(buffer.get(row).load(Ordering::Relaxed), value);
                }
            })
        };
        let reader = task(&buffer, |buffer| {
            for row in 0..buffer.len() {
                assert!(buffer.get(row).load(Ordering::Relaxed) >= 10);
            }
        });
        let after = task(&buffer, |buffer| {
            let values = (0..buffer.len()).map(|row| buffer.get(row).load(Ordering::Relaxed));
            let mut values: Vec<u32> = values.collect();
            values.sort_unstable();
            assert_eq!(values, [10, 11, 20, 21]);
        });
        (vec![writer(10), writer(20), reader], after)
    });
}

#[test]
fn whoever_sees_an_lsn_sees_its_deaths() {
    model(Some(3), || {
        let shared = Arc::new((Deaths::new(), AtomicU64::new(0)));
        let writer = task(&shared, |(deaths, published)| {
            for (lsn, ordinal) in [(1, 0), (2, 9)] {
                assert!(deaths.set(ordinal, lsn));
                published.store(lsn, Ordering::Release);
            }
        });
        let reader = task(&shared, |(deaths, published)| {
            let at = published.load(Ordering::Acquire);
            assert_eq!((deaths.is_dead_at(0, at), deaths.is_dead_at(9, at)), (at >= 1, at >= 2));
            assert_eq!(deaths.dead_at(at).len(), at);
        });
        let after = task(&shared, |(deaths, _)| {
            assert_eq!((deaths.get(0), deaths.get(9), deaths.count()), (1, 2, 2));
        });
        (vec![writer, reader], after)
    });
}

#[test]
fn of_two_who_kill_a_row_one_does() {
    model(None, || {
        let shared = Arc::new((Deaths::new(), AtomicU64::new(0)));
        let killer = |lsn: u64| {
            task(&shared, move |(deaths, won)| {
                if deaths.set(3, lsn) {
                    assert_eq!(won.swap(lsn, Ordering::Relaxed), 0, "both did");
                }
            })
        };
        let after = task(&shared, |(deaths, won)| {
            assert_eq!((deaths.get(3), deaths.count()), (won.load(Ordering::Relaxed), 1));
        });
        (vec![killer(1), killer(2)], after)
    });
}

/// Points on a line. A row's place is stored by the thread that links it, without an order of its own: the links that
/// lead to a row have to bring it along.
struct Line(Vec<AtomicU32>);

impl Line {
    fn place(&self, row: u32) -> f32 {
        let place = self.0[row as usize].load(Ordering::Relaxed);
        assert_ne!(place, 0, "a link leads to row {row}, which is not there yet");
        place as f32
    }
}

impl VectorSource for Line {
    fn distance(&self, a: u32, b: u32) -> Result<f32> {
        Ok((self.place(a) - self.place(b)).abs())
    }

    fn distances(&self, a: u32, others: &[u32], out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        for &other in others {
            out.push(self.distance(a, other)?);
        }
        Ok(())
    }
}

/// Measures from a place on the line.
struct From<'a>(&'a Line, f32);

impl Scorer for From<'_> {
    fn score(&self, ordinals: &[u32], out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        out.extend(ordinals.iter().map(|&row| (self.0.place(row) - self.1).abs()));
        Ok(())
    }
}

/// A graph of degree 4 on the ground and 2 above.
struct Linked {
    graph: Graph,
    line: Line,
}

impl Linked {
    /// Links rows at these places; `room` for more.
    fn new(places: &[u32], room: u32) -> Arc<Linked> {
        let linked =
            Linked { graph: Graph::new(2, 2), line: Line((0..room).map(|_| AtomicU32::new(0)).collect()) };
        linked.graph.ensure_room(room);
        for (row, &place) in (0..).zip(places) {
            linked.insert(row, 0, place);
        }
        Arc::new(linked)
    }

    fn insert(&self, row: u32, level: usize, place: u32) {
        self.line.0[row as usize].store(place, Ordering::Relaxed);
        self.graph.insert(row, level, &self.line, &mut Scratch::default()).unwrap();
    }

    /// A walk at this moment meets rows that are there, each once.
    fn walk(&self, place: u32) -> Vec<u32> {
        let mut found = Vec::new();
        let scorer = From(&self.line, place as f32);
        let scratch = &mut Scratch::default();
        walk(&self.graph, &scorer, &AcceptAll, NO_LINK, 2, scratch, &mut found).unwrap();
        found.iter().map(|candidate| candidate.ordinal).collect()
    }

    /// When all is quiet: no list has a row twice, a row that does not exist, or its own row.
    fn check(&self, rows: u32) {
        let mut links = Vec::new();
        for row in 0..rows {
            for level in 0..=self.graph.level(row) {
                self.graph.links(level, row, &mut links).unwrap();
                let all = links.clone();
                assert!(all.len() <= self.graph.degree(level), "{row} has {all:?}");
                links.sort_unstable();
                links.dedup();
                assert_eq!(links.len(), all.len(), "{row} has {all:?}");
                assert!(links.iter().all(|&link| link < rows && link != row), "{row} has {all:?}");
                assert!(level > 0 || !links.is_empty(), "{row} has no links");
            }
        }
    }
}

/// Row 0 has as many links as it may when two more rows, both near it, are linked.
#[test]
fn full_lists_are_rewritten_while_a_walk_reads_them() {
    model(Some(2), || {
        let linked = Linked::new(&[100, 60, 140, 80, 120], 7);
        let linker = |row, place| task(&linked, move |linked| linked.insert(row, 0, place));
        let reader = task(&linked, |linked| {
            let met = linked.walk(101);
            assert!(met.len() == 2 && met[0] != met[1], "a beam of 2 among 5 rows and more found {met:?}");
        });
        let after = task(&linked, |linked| {
            linked.check(7);
            let nearest = linked.walk(101)[0];
            assert!(nearest == 0 || nearest == 6, "{nearest} is not nearest to 101");
        });
        (vec![linker(5, 98), linker(6, 102), reader], after)
    });
}

/// Two rows above all others: one at a time becomes the entry, with its links in place.
#[test]
fn the_entry_rises_one_row_at_a_time() {
    model(Some(2), || {
        let linked = Linked::new(&[100], 3);
        let linker = |row, place| task(&linked, move |linked| linked.insert(row, 1, place));
        let reader = task(&linked, |linked| assert!(!linked.walk(101).is_empty()));
        let after = task(&linked, |linked| {
            linked.check(3);
            let (entry, top) = linked.graph.entry().unwrap();
            assert!(entry != 0 && top == 1, "row {entry} on level {top}");
            let mut links = Vec::new();
            linked.graph.links(1, entry, &mut links).unwrap();
            assert_eq!(links, [3 - entry], "the rows of level 1 do not know each other");
            assert_eq!(linked.walk(101).len(), 2);
        });
        (vec![linker(1, 98), linker(2, 102), reader], after)
    });
}

fn segment() -> Arc<MutableSegment> {
    let schema = Schema::new(1, Metric::L2).m(2).ef_construction(2);
    Arc::new(MutableSegment::new(SegmentId(1), schema))
}

fn append(segment: &MutableSegment, key: u64, place: f32, lsn: u64) -> u32 {
    let key = Key::from(key);
    segment.append(key.as_ref(), key.as_ref().hash64(), &[place], &[], lsn)
}

fn search(segment: &MutableSegment, place: f32, limit: usize, at: u64) -> Vec<u32> {
    let options = SearchOptions { limit, ef: limit, exact: false, at, accept: &AcceptAll };
    let hits = segment.search(&[place], &options, &mut Scratch::default()).unwrap();
    hits.iter().map(|hit| hit.ordinal).collect()
}

/// Whoever finishes last: every row below the floor is linked, and in the end the floor is behind the last row.
#[test]
fn the_floor_of_linking_reaches_the_end() {
    model(Some(1), || {
        let segment = segment();
        append(&segment, 1, 1.0, 1);
        append(&segment, 2, 2.0, 1);
        let linker =
            || task(&segment, |segment| assert_eq!(segment.link_some(1, &mut Scratch::default()), 1));
        let after = task(&segment, |segment| assert_eq!((segment.linked_floor(), segment.linked()), (2, 2)));
        (vec![linker(), linker()], after)
    });
}

/// A batch replaces a row and puts another: a snapshot sees all of it or nothing, and each key once.
#[test]
fn a_snapshot_sees_whole_batches_while_rows_are_appended() {
    model(Some(2), || {
        let shared = Arc::new((segment(), AtomicU64::new(1)));
        let old = append(&shared.0, 1, 1.0, 1);
        append(&shared.0, 2, 2.0, 1);
        let writer = task(&shared, move |(segment, published)| {
            assert!(segment.deaths().set(old, 2));
            append(segment, 1, 10.0, 2);
            append(segment, 3, 3.0, 2);
            published.store(2, Ordering::Release);
        });
        let reader = task(&shared, |(segment, published)| {
            let at = published.load(Ordering::Acquire);
            let found = [1u64, 2, 3].map(|key| {
                let key = Key::from(key);
                segment.find_at(key.as_ref(), key.as_ref().hash64(), at)
            });
            let (rows, by_distance_from_zero) = if at == 2 {
                ([Some(2), Some(1), Some(3)], vec![1, 3, 2])
            } else {
                ([Some(0), Some(1), None], vec![0, 1])
            };
            assert_eq!(found, rows);
            assert_eq!(search(segment, 0.0, 4, at), by_distance_from_zero);
        });
        (vec![writer, reader], Box::new(|| ()))
    });
}

/// Few rows are wanted, so the graph is walked for those that are linked and the others are scanned: each is found in
/// one of the two ways.
#[test]
fn a_search_finds_rows_that_are_linked_meanwhile() {
    model(Some(3), || {
        let segment = segment();
        for (key, place) in [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)] {
            append(&segment, key, place, 1);
        }
        segment.link_some(2, &mut Scratch::default());
        let linker = task(&segment, |segment| {
            assert_eq!(segment.link_some(2, &mut Scratch::default()), 2);
        });
        let reader = task(&segment, |segment| assert_eq!(search(segment, 3.0, 1, 1), [2]));
        let after = task(&segment, |segment| assert_eq!(search(segment, 4.0, 1, 1), [3]));
        (vec![linker, reader], after)
    });
}
