//! Merges that join the graphs of their inputs: as good as graphs linked from nothing, merge after merge, and nothing
//! taken from a damaged input.

use nearstone_base::random::SplitMix64;
use nearstone_base::vfs::{MemoryVfs, OpenMode, Residency, Vfs};
use nearstone_base::{ErrorKind, KeyRef, Lsn, Metric, Schema, SegmentId, Uuid};
use nearstone_compaction::merge::{Merge, MergeInput, Merged};
use nearstone_segments::graph::check;
use nearstone_segments::seal::{SealTarget, seal_frozen};
use nearstone_segments::topk::Scratch;
use nearstone_segments::{AcceptAll, MutableSegment, SealedSegment, SearchOptions};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

const DIR: &str = "segments";
const DIMENSION: usize = 64;
const LATENT: usize = 12;
/// How much recall a joined graph may lack.
const SLACK: f64 = 0.005;

fn schema() -> Schema {
    Schema::new(DIMENSION, Metric::Cosine).m(8).ef_construction(64)
}

/// Vectors near a surface of few dimensions; another one for each key.
fn vector(key: u64) -> Vec<f32> {
    let unit = |rng: &mut SplitMix64| rng.unit_f64() as f32 - 0.5;
    let (mut weights, mut rng) = (SplitMix64::new(7), SplitMix64::new(key + 1));
    let latent: Vec<f32> = (0..LATENT).map(|_| unit(&mut rng)).collect();
    let along = |_| latent.iter().map(|z| z * unit(&mut weights)).sum::<f32>();
    let point: Vec<f32> = (0..DIMENSION).map(along).collect();
    point.iter().map(|x| x + 0.1 * unit(&mut rng)).collect()
}

/// Segments in memory, of vectors that a function gives for each key.
struct Room {
    vfs: MemoryVfs,
    next: Cell<u64>,
    schema: Schema,
    vector: fn(u64) -> Vec<f32>,
}

impl Room {
    fn new(vector: fn(u64) -> Vec<f32>) -> Room {
        let vfs = MemoryVfs::new();
        vfs.create_dir(Path::new(DIR)).unwrap();
        Room { vfs, next: Cell::new(1), schema: schema(), vector }
    }

    fn target(&self) -> SealTarget<'_> {
        let id = self.next.replace(self.next.get() + 1);
        SealTarget {
            vfs: &self.vfs,
            dir: Path::new(DIR),
            id: SegmentId(id),
            uuid: Uuid([id as u8; 16]),
            created_secs: 1,
            threads: 1,
            like: None,
        }
    }

    fn sealed(&self, keys: Range<u64>) -> SealedSegment {
        let target = self.target();
        let segment = MutableSegment::new(target.id, self.schema);
        for n in keys {
            let key = KeyRef::U64(n);
            segment.append(key, key.hash64(), &(self.vector)(n), n.to_string().as_bytes(), 1 + n);
        }
        segment.freeze();
        while segment.link_some(100, &mut Scratch::default()) > 0 {}
        let output = seal_frozen(&segment, u64::MAX, &target, &|| false).unwrap().unwrap();
        SealedSegment::open(&self.vfs, &target.path(), &output.meta, Residency::Heap).unwrap()
    }

    fn open(&self, merged: &Merged) -> SealedSegment {
        let path = Path::new(DIR).join(format!("{:016x}.seg", merged.meta.id.0));
        SealedSegment::open(&self.vfs, &path, &merged.meta, Residency::Heap).unwrap()
    }

    /// All rows but the dead, joined; checked against the inputs, and every row reachable.
    fn join(&self, inputs: &[&SealedSegment], dead: impl Fn(u64) -> bool) -> SealedSegment {
        let merge = merge(inputs, &dead);
        let merged = merge.join(&self.target(), &|_| false).unwrap().expect("inputs that can be joined");
        let output = self.open(&merged);
        output.verify(&mut |_, _| true).unwrap();
        check(&output.graph().unwrap()).unwrap();
        assert_eq!(output.rows(), merge.rows());
        let mut seen = BTreeSet::new();
        for (new, &(from, old)) in (0..).zip(&merged.origin) {
            let source = inputs[from as usize];
            assert!(!dead(number(source, old)) && seen.insert((from, old)));
            assert_eq!(output.key(new).unwrap(), source.key(old).unwrap());
            assert_eq!(output.version(new).unwrap(), source.version(old).unwrap());
            assert_eq!(output.vector(new).unwrap(), source.vector(old).unwrap());
            assert_eq!(output.payload(new).unwrap(), source.payload(old).unwrap());
        }
        output
    }

    /// All rows but the dead, in a graph that is built in batches; checked, and every row reachable.
    fn build(&self, inputs: &[&SealedSegment], dead: impl Fn(u64) -> bool) -> SealedSegment {
        let merge = merge(inputs, &dead);
        let merged = merge.build(&self.target(), &|_| false).unwrap().expect("rows that come in batches");
        let output = self.open(&merged);
        output.verify(&mut |_, _| true).unwrap();
        check(&output.graph().unwrap()).unwrap();
        assert_eq!((output.rows() as usize, merge.rows()), (merged.origin.len(), output.rows()));
        for (new, &(from, old)) in (0..).zip(&merged.origin) {
            let source = inputs[from as usize];
            assert!(!dead(number(source, old)));
            assert_eq!(output.key(new).unwrap(), source.key(old).unwrap());
            assert_eq!(output.version(new).unwrap(), source.version(old).unwrap());
            assert_eq!(output.vector(new).unwrap(), source.vector(old).unwrap());
            assert_eq!(output.payload(new).unwrap(), source.payload(old).unwrap());
        }
        output
    }

    fn rebuild(&self, inputs: &[&SealedSegment], dead: impl Fn(u64) -> bool) -> SealedSegment {
        let merge = merge(inputs, dead);
        while merge.link_some(100, &mut Scratch::default()).unwrap() > 0 {}
        self.open(&merge.write(&self.target(), &|| false).unwrap().unwrap())
    }

    fn files(&self) -> usize {
        self.vfs.list(Path::new(DIR)).unwrap().len()
    }
}

fn number(segment: &SealedSegment, row: u32) -> u64 {
    match segment.key(row).unwrap() {
        KeyRef::U64(number) => number,
        KeyRef::Str(_) => unreachable!("keys are numbers"),
    }
}

fn merge<'a>(inputs: &[&'a SealedSegment], dead: impl Fn(u64) -> bool) -> Merge<'a> {
    let input = |segment: &&'a SealedSegment| {
        let dead = (0..segment.rows()).filter(|&row| dead(number(segment, row))).collect();
        MergeInput { segment, dead }
    };
    Merge::new(inputs.iter().map(input).collect(), inputs[0].meta().schema).unwrap()
}

/// The share of the ten nearest that is found, over queries that are no rows.
fn recall(segment: &SealedSegment, ef: usize) -> f64 {
    let mut scratch = Scratch::default();
    let (mut found, mut wanted) = (0, 0);
    for query in 0..400 {
        let query = vector(1_000_000 + query);
        let options = SearchOptions { limit: 10, ef, exact: true, at: Lsn::MAX, accept: &AcceptAll };
        let truth = segment.search(&query, &options, &mut scratch).unwrap();
        let options = SearchOptions { exact: false, ..options };
        let hits = segment.search(&query, &options, &mut scratch).unwrap();
        found += hits.iter().filter(|hit| hit.distance <= truth[9].distance).count();
        wanted += 10;
    }
    f64::from(found as u32) / f64::from(wanted)
}

/// A joined graph against one that is linked from nothing.
fn compare(what: &str, joined: &SealedSegment, rebuilt: &SealedSegment) {
    for ef in [16, 32] {
        let (joined, rebuilt) = (recall(joined, ef), recall(rebuilt, ef));
        println!("{what}, ef {ef}: joined {joined}, rebuilt {rebuilt}");
        assert!(joined >= rebuilt - SLACK, "{what}, ef {ef}: {joined}, and {rebuilt} when rebuilt");
    }
}

#[test]
fn joined_halves_are_as_good_as_rebuilt_ones() {
    let room = Room::new(vector);
    let (a, b) = (room.sealed(0..2_000), room.sealed(2_000..4_000));
    compare("halves", &room.join(&[&a, &b], |_| false), &room.rebuild(&[&a, &b], |_| false));
}

#[test]
fn what_dead_rows_leave_behind_heals() {
    let room = Room::new(vector);
    let (a, b) = (room.sealed(0..3_000), room.sealed(3_000..4_200));
    for (what, dead) in [("5 % dead", 5), ("30 % dead", 30)] {
        let dead = |key: u64| key * 37 % 100 < dead;
        compare(what, &room.join(&[&a, &b], dead), &room.rebuild(&[&a, &b], dead));
        let alone = room.join(&[&a], dead);
        compare(what, &alone, &room.rebuild(&[&a], dead));
    }
}

#[test]
fn inputs_of_very_different_size_join() {
    let room = Room::new(vector);
    let ends = [0, 3_000, 4_100, 4_350, 4_380, 4_381];
    let inputs: Vec<SealedSegment> = ends.windows(2).map(|ends| room.sealed(ends[0]..ends[1])).collect();
    let inputs: Vec<&SealedSegment> = inputs.iter().collect();
    compare("five sizes", &room.join(&inputs, |_| false), &room.rebuild(&inputs, |_| false));
}

#[test]
fn an_input_whose_rows_are_nearly_all_dead_joins_a_large_one() {
    let room = Room::new(vector);
    let (large, dying, dead) = (room.sealed(0..3_000), room.sealed(3_000..4_200), room.sealed(4_200..4_300));
    let is_dead = |key: u64| key >= 3_300;
    let inputs = [&large, &dying, &dead];
    compare("mostly dead", &room.join(&inputs, is_dead), &room.rebuild(&inputs, is_dead));
}

#[test]
fn four_equal_inputs_join_and_eight_are_better_built_anew() {
    let room = Room::new(vector);
    let inputs: Vec<SealedSegment> = (0..8).map(|n| room.sealed(n * 1_030..(n + 1) * 1_030)).collect();
    let inputs: Vec<&SealedSegment> = inputs.iter().collect();
    compare("quarters", &room.join(&inputs[..4], |_| false), &room.rebuild(&inputs[..4], |_| false));
    assert!(merge(&inputs, |_| false).join(&room.target(), &|_| false).unwrap().is_none());
    compare("eighths", &room.build(&inputs, |_| false), &room.rebuild(&inputs, |_| false));
}

#[test]
fn ten_merges_in_a_row_cost_no_recall() {
    let room = Room::new(vector);
    let mut all = room.sealed(0..3_000);
    for round in 0..10 {
        // The oldest are replaced by new ones.
        let (old, new) = (round * 60, 3_000 + round * 60);
        let fresh = room.sealed(new..new + 60);
        all = room.join(&[&all, &fresh], |key| key < old + 60);
    }
    compare("ten merges", &all, &room.rebuild(&[&all], |_| false));
}

/// By inner product a row asks for the longest rows, not for those around it: a join that walked towards these left short
/// rows with hardly a link to the other half.
#[test]
fn rows_of_all_lengths_are_linked_across_inputs_under_inner_product() {
    fn lengths(key: u64) -> Vec<f32> {
        let scale = 0.5 + (key % 97) as f32 / 60.0;
        vector(key).iter().map(|x| x * scale).collect()
    }
    let mut room = Room::new(lengths);
    room.schema = Schema::new(DIMENSION, Metric::InnerProduct).m(8).ef_construction(64);
    let (a, b) = (room.sealed(0..2_000), room.sealed(2_000..4_000));
    let joined = room.join(&[&a, &b], |_| false);
    compare("products", &joined, &room.rebuild(&[&a, &b], |_| false));
    let half = |row| number(&joined, row) < 2_000;
    let graph = joined.graph().unwrap();
    for short in [true, false] {
        let (mut across, mut all) = (0, 0);
        for row in (0..joined.rows()).filter(|&row| (number(&joined, row) % 97 < 48) == short) {
            for &link in graph.levels[0].list(row) {
                across += u32::from(half(link) != half(row));
                all += 1;
            }
        }
        assert!(across * 10 >= all * 4, "{across} of {all}, short: {short}");
    }
}

#[test]
fn equal_vectors_stay_reachable() {
    let room = Room::new(|key| vector(key % 40));
    let (a, b) = (room.sealed(0..1_300), room.sealed(1_300..2_600));
    let joined = room.join(&[&a, &b], |key| key % 11 == 0);
    let options = SearchOptions { limit: 30, ef: 64, exact: false, at: Lsn::MAX, accept: &AcceptAll };
    let hits = joined.search(&vector(3), &options, &mut Scratch::default()).unwrap();
    assert!(hits.len() == 30 && hits.iter().all(|hit| hit.distance < 1e-6));
    // All rows equal: no inline rows, and nothing to join.
    let room = Room::new(|_| vec![0.5; DIMENSION]);
    let (a, b) = (room.sealed(0..1_100), room.sealed(1_100..2_200));
    assert_eq!(merge(&[&a, &b], |_| false).join(&room.target(), &|_| false).unwrap(), None);
    assert_eq!(room.files(), 2);
}

#[test]
fn what_cannot_be_joined_is_left_to_linking() {
    let room = Room::new(vector);
    let (small, other, large) = (room.sealed(0..900), room.sealed(900..1_800), room.sealed(1_800..3_000));
    let none = |inputs: &[&SealedSegment], dead: fn(u64) -> bool| {
        let merge = merge(inputs, dead);
        assert_eq!(merge.join(&room.target(), &|_| panic!("asked before work")).unwrap(), None);
    };
    none(&[&small, &other], |_| false);
    none(&[&large], |key| key % 3 > 0);
    none(&[&large], |_| true);
    assert_eq!(room.files(), 3);
}

#[test]
fn a_cancelled_join_leaves_no_file() {
    let room = Room::new(vector);
    let (a, b) = (room.sealed(0..1_100), room.sealed(1_100..2_200));
    let merge = merge(&[&a, &b], |_| false);
    let mut cancelled = 0;
    for after in 0.. {
        let asked = Cell::new(0);
        let cancel = |done| {
            assert!(done <= 2_200);
            asked.replace(asked.get() + 1) >= after
        };
        match merge.join(&room.target(), &cancel) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled),
            Ok(merged) => {
                assert!(merged.is_some());
                break;
            }
        }
        assert_eq!(room.files(), 2);
        cancelled += 1;
    }
    assert!(cancelled > 20, "{cancelled}");
}

#[test]
fn damage_in_an_input_ends_the_join_or_changes_nothing() {
    let room = Room::new(vector);
    let (good, other) = (room.sealed(0..1_100), room.sealed(1_100..2_200));
    let bytes = room.vfs.bytes(good.path(), good.meta().len, Residency::Heap).unwrap();
    let mut ended = 0;
    for place in (4096..bytes.len() - 4096).step_by(20_011) {
        let damaged = Room::new(vector);
        damaged.next.set(9);
        let mut changed = bytes.to_vec();
        changed[place] ^= 4;
        damaged.vfs.open(good.path(), OpenMode::CreateNew).unwrap().write_at(&changed, 0).unwrap();
        let opened = SealedSegment::open(&damaged.vfs, good.path(), good.meta(), Residency::Heap);
        let Ok(segment) = opened else { continue };
        let inputs = [&segment, &other].map(|segment| MergeInput { segment, dead: Default::default() });
        let merge = Merge::new(inputs.into(), schema());
        match merge.and_then(|merge| merge.join(&damaged.target(), &|_| false)) {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
                assert_eq!(damaged.files(), 1);
                ended += 1;
            }
            // Where a join reads nothing: the old codes, upper levels and indexes.
            Ok(merged) => {
                let output = damaged.open(&merged.unwrap());
                output.verify(&mut |_, _| true).unwrap();
                for row in 0..output.rows() {
                    assert_eq!(output.vector(row).unwrap(), vector(number(&output, row)));
                }
            }
        }
    }
    assert!(ended > 20, "{ended}");
}

#[test]
fn a_graph_that_is_built_in_batches_is_as_good_as_one_that_is_linked() {
    let room = Room::new(vector);
    let halves = [room.sealed(0..2_000), room.sealed(2_000..4_000)];
    let inputs: Vec<&SealedSegment> = halves.iter().collect();
    for dead in [(|_| false) as fn(u64) -> bool, |key| key % 3 == 0] {
        let (built, linked) = (room.build(&inputs, dead), room.rebuild(&inputs, dead));
        for ef in [16, 48] {
            let (built, linked) = (recall(&built, ef), recall(&linked, ef));
            assert!(built >= linked - SLACK, "ef {ef}: {built} in batches, {linked} row by row");
        }
    }
}

#[test]
fn few_rows_are_not_built_in_batches_and_a_build_can_be_cancelled() {
    let room = Room::new(vector);
    let (small, large) = (room.sealed(0..900), room.sealed(900..3_000));
    let files = room.files();
    assert_eq!(merge(&[&small], |_| false).build(&room.target(), &|_| false).unwrap(), None);
    let most = Cell::new(0);
    let merge = merge(&[&small, &large], |_| false);
    let error = merge.build(&room.target(), &|done| {
        most.set(done);
        done >= 2_000
    });
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!((2_000..2_300).contains(&most.get()), "{}", most.get());
    assert_eq!(room.files(), files);
}
