//! Segments whose graph is built in batches: what searches find in them, that every row is reached, and what data and callers make of it.

use super::*;
use crate::graph::check;
use crate::seal::LEVEL_SEED;
use nearstone_base::Profile;
use std::cell::Cell;

const ROWS: u32 = 3_500;

/// A vector for each row.
type Vectors = fn(u32) -> Vec<f32>;

fn schema(metric: Metric) -> Schema {
    Schema::new(64, metric).m(8).ef_construction(64)
}

/// Rows whose vectors a function gives.
fn rows(schema: &Schema, count: u32, vector: impl FnMut(u32) -> Vec<f32>) -> Rows {
    let mut rows = rows_of(schema, count, 5);
    rows.rows.iter_mut().zip((0..count).map(vector)).for_each(|(row, vector)| row.vector = vector);
    rows
}

/// Near a surface of ten dimensions.
fn surface(row: u32) -> Vec<f32> {
    let unit = |rng: &mut SplitMix64| rng.unit_f64() as f32 - 0.5;
    let (mut weights, mut rng) = (SplitMix64::new(7), SplitMix64::new(u64::from(row) + 1));
    let latent: Vec<f32> = (0..10).map(|_| unit(&mut rng)).collect();
    let point = (0..64).map(|_| latent.iter().map(|z| z * unit(&mut weights)).sum::<f32>());
    point.collect::<Vec<f32>>().iter().map(|x| x + 0.1 * unit(&mut rng)).collect()
}

/// In one of 70 clusters.
fn cluster(number: u32, row: u32) -> Vec<f32> {
    let (mut centre, mut rng) = (SplitMix64::new(u64::from(number)), SplitMix64::new(u64::from(row)));
    (0..64).map(|_| (centre.unit_f64() * 10.0 + rng.unit_f64()) as f32).collect()
}

/// In the order of batches.
fn ordered(schema: &Schema, rows: &Rows) -> (Rows, Batches) {
    let batches = Batches::plan(schema, rows.rows(), LEVEL_SEED).expect("rows that come in batches");
    let row = |&old: &u32| rows.rows[old as usize].clone();
    (Rows { metric: rows.metric, rows: batches.order().iter().map(row).collect() }, batches)
}

/// Checked; every row is reachable.
fn build(schema: &Schema, rows: &Rows, threads: usize) -> Made {
    let (rows, batches) = ordered(schema, rows);
    let vfs = folder();
    let target = SealTarget { threads, ..target(&vfs) };
    let meta = write_batched(&target, schema, &rows, &batches, &|| false).unwrap().unwrap();
    assert_eq!(batches.done(), u64::from(rows.rows()));
    let made = Made { vfs, meta, rows };
    let segment = made.open();
    segment.verify(&mut |_, _| true).unwrap();
    check(&segment.graph().unwrap()).unwrap();
    made
}

/// The same rows, linked one by one.
fn link(schema: &Schema, rows: &Rows) -> Made {
    let (rows, graph) = graph_of(schema, rows);
    let vfs = folder();
    let meta = write_segment(&target(&vfs), schema, &rows, &graph, &|| false).unwrap();
    Made { vfs, meta, rows }
}

/// The share of the ten nearest that is found, over queries beside the rows.
fn recall(made: &Made, ef: usize) -> f64 {
    let segment = made.open();
    let (mut scratch, mut rng, mut found, mut wanted) = (Scratch::default(), SplitMix64::new(9), 0, 0);
    for row in made.rows.rows.iter().step_by(11) {
        let query: Vec<f32> = row.vector.iter().map(|x| x + (rng.unit_f64() as f32 - 0.5) * 0.1).collect();
        let last = truth(&made.rows, &query, 10, |_| true)[9].distance;
        let hits = segment.search(&query, &options(10, ef), &mut scratch).unwrap();
        found += hits.iter().filter(|hit| hit.distance <= last).count();
        wanted += 10;
    }
    f64::from(found as u32) / f64::from(wanted)
}

#[test]
fn a_graph_that_is_built_in_batches_finds_what_a_linked_one_finds() {
    let sets: [(&str, Vectors); 3] = [
        ("a surface", surface),
        ("clusters", |row| cluster(row % 70, row)),
        // The first rows of all levels are an even sample, whatever comes first.
        ("one cluster after the other", |row| cluster(row / 50, row)),
    ];
    for (name, vector) in sets {
        for metric in [Metric::L2, Metric::Cosine] {
            let schema = schema(metric);
            let rows = rows(&schema, ROWS, vector);
            let (built, linked) = (build(&schema, &rows, 2), link(&schema, &rows));
            for ef in [16, 48] {
                let (built, linked) = (recall(&built, ef), recall(&linked, ef));
                assert!(built >= linked - 0.01 && built > 0.9, "{name}, {metric:?}, {ef}: {built}, {linked}");
            }
        }
    }
}

/// (The few rows above the ground are linked as they come.)
#[test]
fn the_threads_make_no_difference_to_the_ground() {
    let schema = schema(Metric::Cosine);
    let rows = rows(&schema, ROWS, surface);
    let ground = |threads| build(&schema, &rows, threads).open().graph().unwrap().levels.swap_remove(0).links;
    let one = ground(1);
    assert!((2..=4).all(|threads| ground(threads) == one));
}

#[test]
fn every_size_from_the_smallest_on_is_built() {
    let schema = schema(Metric::L2);
    for count in [1_024, 1_025, 1_300, 2_048, 2_500, 2_600] {
        let made = build(&schema, &rows(&schema, count, surface), 2);
        assert_eq!(made.open().rows(), count);
        assert!(recall(&made, 32) > 0.95, "{count}");
    }
}

/// How many rows are found by their own vectors.
fn found(made: &Made, ef: usize) -> usize {
    let (segment, mut scratch, mut found) = (made.open(), Scratch::default(), 0);
    for row in &made.rows.rows {
        let hits = segment.search(&row.vector, &options(10, ef), &mut scratch).unwrap();
        assert_eq!(hits.len(), 10);
        found += usize::from(hits[0].distance == 0.0);
    }
    found
}

#[test]
fn equal_rows_are_all_reached() {
    let schema = schema(Metric::L2);
    let sets: [(&str, Vectors); 3] = [
        ("each five times", |row| surface(row / 5)),
        ("two kinds", |row| vec![row as f32 % 2.0; 64]),
        ("half of them one", |row| if row % 2 == 0 { surface(0) } else { surface(row) }),
    ];
    for (name, vector) in sets {
        let rows = rows(&schema, 2_300, vector);
        let (built, linked) = (found(&build(&schema, &rows, 2), 64), found(&link(&schema, &rows), 64));
        assert!(built >= linked && built >= 2_250, "{name}: {built}, and {linked} of linked rows");
    }
}

/// All rows of a crowd of equals chose those of it that came first, and were attached one by one in the end: a walk for each, by one thread.
#[test]
fn of_a_crowd_of_equal_rows_most_are_chosen_by_others() {
    let schema = schema(Metric::L2);
    let rows = rows(&schema, 9_000, |row| if row % 2 == 0 { surface(0) } else { surface(row) });
    let made = build(&schema, &rows, 2);
    let ground = made.open().graph().unwrap().levels.swap_remove(0);
    let mut inward = vec![0u32; 9_000];
    ground.links.iter().filter(|&&link| link != NO_LINK).for_each(|&link| inward[link as usize] += 1);
    let one = surface(0);
    let equal = (0..9_000).filter(|&row| made.rows.rows[row].vector == one);
    let lonely = equal.filter(|&row| inward[row] < 2).count();
    assert!(lonely < 100, "{lonely}");
}

#[test]
fn what_is_better_linked_row_by_row_is_left_to_be() {
    let plan = |schema: Schema, rows| Batches::plan(&schema, rows, 1).is_some();
    assert!(plan(schema(Metric::L2), 1_024) && plan(schema(Metric::Cosine), 1_024));
    assert!(!plan(schema(Metric::L2), 1_023), "few rows");
    assert!(!plan(Schema::new(47, Metric::L2), 5_000), "few dimensions");
    assert!(!plan(schema(Metric::InnerProduct), 5_000), "searches look for long rows");
    assert!(!plan(schema(Metric::L2), u32::MAX - 1), "more memory than there may be");
    // Half precision holds neither of these.
    let l2 = schema(Metric::L2);
    for vector in [(|_| vec![0.25; 64]) as Vectors, |row| {
        let mut vector = surface(row);
        vector[0] += if row % 2 == 0 { 5_000.0 } else { -5_000.0 };
        vector
    }] {
        let (rows, batches) = ordered(&l2, &rows(&l2, 1_500, vector));
        let vfs = folder();
        assert_eq!(write_batched(&target(&vfs), &l2, &rows, &batches, &|| false).unwrap(), None);
        assert_eq!(vfs.list(Path::new(DIR)).unwrap(), Vec::<String>::new());
    }
}

#[test]
fn a_lean_segment_is_built_in_batches_as_well() {
    let lean = schema(Metric::L2).profile(Profile::Memory);
    let rows = rows(&lean, ROWS, surface);
    let made = build(&lean, &rows, 2);
    assert!(layout(&made.bytes()).section(format::INLINE_ROWS).is_none());
    let (built, linked) = (recall(&made, 32), recall(&link(&lean, &rows), 32));
    assert!(built >= linked - 0.01 && built > 0.9, "{built}, {linked}");
}

#[test]
fn building_in_batches_asks_often_whether_to_stop_and_stops_at_each() {
    let schema = schema(Metric::L2);
    let (rows, batches) = ordered(&schema, &rows(&schema, ROWS, surface));
    let vfs = folder();
    let target = SealTarget { threads: 1, ..target(&vfs) };
    let asked = Cell::new(0u32);
    let before = Cell::new(0);
    let cancel = || {
        asked.set(asked.get() + 1);
        // How far it is never falls, and moves by a few rows at a time.
        let done = batches.done();
        assert!(done >= before.replace(done) && done <= u64::from(ROWS));
        false
    };
    write_batched(&target, &schema, &rows, &batches, &cancel).unwrap().unwrap();
    let all = asked.get();
    assert!(all > 3 * ROWS / 64, "{all}");
    vfs.remove(&file()).unwrap();
    for stop in (0..all).step_by(7) {
        let batches = Batches::plan(&schema, ROWS, LEVEL_SEED).unwrap();
        let left = Cell::new(stop);
        let cancel = || left.replace(left.get().saturating_sub(1)) == 0;
        let error = write_batched(&target, &schema, &rows, &batches, &cancel).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
        assert_eq!(vfs.list(Path::new(DIR)).unwrap(), Vec::<String>::new());
    }
}

#[test]
fn batches_of_other_rows_and_a_key_that_comes_twice_are_refused() {
    let schema = schema(Metric::L2);
    let (mut rows, batches) = ordered(&schema, &rows(&schema, 1_100, surface));
    let vfs = folder();
    let fewer = Batches::plan(&schema, 1_099, LEVEL_SEED).unwrap();
    let error = write_batched(&target(&vfs), &schema, &rows, &fewer, &|| false).unwrap_err();
    assert!(error.to_string().contains("1100 rows for batches of 1099"), "{error}");
    rows.rows[700].key = rows.rows[3].key.clone();
    let error = write_batched(&target(&vfs), &schema, &rows, &batches, &|| false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert_eq!(vfs.list(Path::new(DIR)).unwrap(), Vec::<String>::new());
}
