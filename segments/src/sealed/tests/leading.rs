//! Segments whose rows differ along few directions: their inline rows hold these alone, and nothing is lost by it.

use super::*;
use crate::quantize::space::Space;
use crate::seal::LEVEL_SEED;
use crate::sealed::inline::batch::Batches;
use crate::sealed::{Join, search_together, write_batched, write_joined};

const DIMENSION: usize = 256;
const ROWS: u32 = 1_600;

fn schema(metric: Metric) -> Schema {
    Schema::new(DIMENSION, metric).m(16).ef_construction(64)
}

/// Rows near a surface of ten dimensions that bends through forty, from `first` on.
fn bent(schema: &Schema, first: u32, count: u32) -> Rows {
    let unit = |rng: &mut SplitMix64| rng.unit_f64() as f32 - 0.5;
    let mut weights = SplitMix64::new(7);
    let inner: Vec<[f32; 10]> = (0..40).map(|_| [(); 10].map(|()| 4.0 * unit(&mut weights))).collect();
    let outer: Vec<[f32; 40]> = (0..DIMENSION).map(|_| [(); 40].map(|()| unit(&mut weights))).collect();
    let mut rows = rows_of(schema, count, 5);
    for (row, place) in (first..).zip(&mut rows.rows) {
        place.key = Key::U64(u64::from(row));
        let mut rng = SplitMix64::new(u64::from(row) + 1);
        let latent = [(); 10].map(|()| unit(&mut rng));
        let hidden: Vec<f32> = inner
            .iter()
            .map(|weights| weights.iter().zip(latent).map(|(w, z)| w * z).sum::<f32>().tanh())
            .collect();
        for (x, weights) in place.vector.iter_mut().zip(&outer) {
            *x = weights.iter().zip(&hidden).map(|(w, h)| w * h).sum::<f32>() + 0.05 * unit(&mut rng);
        }
    }
    rows
}

/// Whether its inline rows are those of 64 numbers, of one bit or four.
fn leads(made: &Made) -> bool {
    let stride = layout(&made.bytes()).section(format::INLINE_ROWS).unwrap().stride;
    let of = |dimension: u64, bits: u64| 2 * dimension + 32 * dimension * bits / 8 + 32 * 8;
    let leads = [of(64, 1), of(64, 4)].contains(&stride);
    assert_eq!(leads, made.bytes()[24] == 1, "the header says so");
    leads
}

/// The share of the ten nearest that are found, all of them at their right distances; every row lies in the file as it should.
fn recall(made: &Made, ef: usize) -> f64 {
    let segment = made.open();
    segment.verify(&mut |_, _| true).unwrap();
    let mut rng = SplitMix64::new(9);
    let (mut found, mut wanted) = (0, 0);
    for row in made.rows.rows.iter().step_by(23) {
        let query: Vec<f32> = row.vector.iter().map(|x| x + 0.1 * (rng.unit_f64() as f32 - 0.5)).collect();
        let exact = ExactDistance::new(made.rows.metric, &query);
        let last = truth(&made.rows, &query, 10, |_| true)[9].distance;
        let hits = segment.search(&query, &options(10, ef), &mut Scratch::default()).unwrap();
        for hit in &hits {
            assert_eq!(hit.distance, exact.distance(&made.rows.rows[hit.ordinal as usize].vector));
        }
        found += hits.iter().filter(|hit| hit.distance <= last).count();
        wanted += 10;
    }
    found as f64 / f64::from(wanted)
}

#[test]
fn few_directions_are_found_and_lose_no_hits_under_every_metric() {
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        let schema = schema(metric);
        let made = written(&schema, &bent(&schema, 0, ROWS));
        assert_eq!(leads(&made), metric != Metric::InnerProduct, "{metric:?}");
        let recall = recall(&made, 64);
        assert!(recall >= 0.97, "{metric:?}: {recall}");
    }
}

#[test]
fn joined_and_batched_segments_are_made_along_the_directions_too() {
    let schema = schema(Metric::Cosine);
    let inputs = [bent(&schema, 0, ROWS), bent(&schema, ROWS, ROWS)].map(|rows| written(&schema, &rows));
    let segments = [inputs[0].open(), inputs[1].open()];
    let all: Vec<(u32, u32)> = (0..2).flat_map(|input| (0..ROWS).map(move |row| (input, row))).collect();
    let join = Join::plan(&schema, &[&segments[0], &segments[1]], &all, LEVEL_SEED).unwrap();
    let row = |&(input, row): &(u32, u32)| inputs[input as usize].rows.rows[row as usize].clone();
    let rows = Rows { metric: schema.metric(), rows: join.origin().iter().map(row).collect() };
    let vfs = folder();
    let meta = write_joined(&target(&vfs), &schema, &rows, &join, &|| false).unwrap().unwrap();
    let joined = Made { vfs, meta, rows };

    let rows = bent(&schema, 0, 2 * ROWS);
    let batches = Batches::plan(&schema, rows.rows(), LEVEL_SEED).unwrap();
    let rows = batches.order().iter().map(|&row| rows.rows[row as usize].clone()).collect();
    let rows = Rows { metric: schema.metric(), rows };
    let vfs = folder();
    let meta = write_batched(&target(&vfs), &schema, &rows, &batches, &|| false).unwrap().unwrap();
    for made in [joined, Made { vfs, meta, rows }] {
        assert!(leads(&made));
        let recall = recall(&made, 64);
        assert!(recall >= 0.97, "{recall}");
    }
}

/// Those that were looked at while directions were learnt, one in sixteen, have no twin among them.
#[test]
fn twins_that_the_directions_cannot_tell_apart_bring_all_of_them_back() {
    let schema = schema(Metric::L2);
    let mut rows = bent(&schema, 0, 2 * ROWS);
    let mut rng = SplitMix64::new(21);
    for row in 0..ROWS as usize {
        let twin = rows.rows[row].vector.iter().map(|x| x + 0.03 * (rng.unit_f64() as f32 - 0.5)).collect();
        rows.rows[row + ROWS as usize].vector = twin;
    }
    let (linked, graph) = graph_of(&schema, &rows);
    let vfs = folder();
    let meta = write_segment(&target(&vfs), &schema, &linked, &graph, &|| false).unwrap();
    let batches = Batches::plan(&schema, rows.rows(), LEVEL_SEED).unwrap();
    let ordered = batches.order().iter().map(|&row| rows.rows[row as usize].clone()).collect();
    let ordered = Rows { metric: schema.metric(), rows: ordered };
    let other = folder();
    let batched = write_batched(&target(&other), &schema, &ordered, &batches, &|| false).unwrap().unwrap();
    assert_eq!(batches.done(), u64::from(rows.rows()), "what was done twice counts once");
    for made in [Made { vfs, meta, rows: linked }, Made { vfs: other, meta: batched, rows: ordered }] {
        assert!(!leads(&made));
        let recall = recall(&made, 64);
        assert!(recall >= 0.97, "{recall}");
    }
}

/// One row in 150, which a sample of rows and of links hardly notices, differs from the others of its kind along other directions alone: all of
/// them seemed to lie in one place, and half of what is near them was lost.
#[test]
fn a_rare_kind_of_rows_is_not_lost() {
    let schema = schema(Metric::L2);
    let mut rows = bent(&schema, 0, 12_000);
    // Around one row, and along nothing along which the others differ.
    let mut weights = SplitMix64::new(7);
    let unit = |rng: &mut SplitMix64| rng.unit_f64() as f32 - 0.5;
    // Those of the inner layer.
    for _ in 0..400 {
        unit(&mut weights);
    }
    let outer: Vec<[f32; 40]> = (0..DIMENSION).map(|_| [(); 40].map(|()| unit(&mut weights))).collect();
    let mut mixed: Vec<Vec<f32>> =
        (0..40).map(|i| outer.iter().map(|weights| weights[i]).collect()).collect();
    let along = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let beyond = |vector: &mut Vec<f32>, others: &[Vec<f32>]| {
        for _ in 0..2 {
            for other in others {
                let share = along(vector, other) / along(other, other);
                vector.iter_mut().zip(other).for_each(|(x, y)| *x -= share * y);
            }
        }
    };
    for i in 1..40 {
        let (before, rest) = mixed.split_at_mut(i);
        beyond(&mut rest[0], before);
    }
    let mut rng = SplitMix64::new(33);
    let mut aside = |length: f32| {
        let mut vector: Vec<f32> = (0..DIMENSION).map(|_| length * unit(&mut rng)).collect();
        beyond(&mut vector, &mixed);
        vector
    };
    let centre = rows.rows[11].vector.clone();
    let plus = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x + y).collect::<Vec<f32>>();
    for row in 0..80 {
        rows.rows[row * 149].vector = plus(&centre, &aside(0.3));
    }
    let batches = Batches::plan(&schema, rows.rows(), LEVEL_SEED).unwrap();
    let ordered = batches.order().iter().map(|&row| rows.rows[row as usize].clone()).collect();
    let ordered = Rows { metric: schema.metric(), rows: ordered };
    let vfs = folder();
    let meta = write_batched(&target(&vfs), &schema, &ordered, &batches, &|| false).unwrap().unwrap();
    let made = Made { vfs, meta, rows: ordered };
    let segment = made.open();
    let mut found = 0;
    for row in 0..50 {
        let query = plus(&rows.rows[row * 149].vector, &aside(0.3));
        let last = truth(&made.rows, &query, 10, |_| true)[9].distance;
        let hits = segment.search(&query, &options(10, 32), &mut Scratch::default()).unwrap();
        found += hits.iter().filter(|hit| hit.distance <= last).count();
    }
    assert!(!leads(&made));
    assert!(found >= 460, "{found} of 500");
}

/// Rows that lie closer together than what rounding to bytes moves them by.
#[test]
fn near_duplicates_along_directions_are_told_apart() {
    let schema = schema(Metric::L2);
    let mut rows = bent(&schema, 0, 4_000);
    let group = rows.rows[1_000].vector.clone();
    let other = rows.rows[2_000].vector.clone();
    for (near, row) in rows.rows[..40].iter_mut().enumerate() {
        let share = 0.000_5 * (near + 1) as f32;
        row.vector = group.iter().zip(&other).map(|(a, b)| a + share * (b - a)).collect();
    }
    let made = written(&schema, &rows);
    assert!(leads(&made));
    let segment = made.open();
    let mut found = 0;
    for step in 0..40 {
        let query = &rows.rows[step].vector;
        let last = truth(&made.rows, query, 5, |_| true)[4].distance;
        let hits = segment.search(query, &options(5, 64), &mut Scratch::default()).unwrap();
        found += hits.iter().filter(|hit| hit.distance <= last).count();
    }
    assert!(found >= 197, "{found} of 200");
}

/// The dead, filters, rows that other segments have, and queries far from all rows, also where both segments keep a few directions or one
/// keeps all.
#[test]
fn directions_change_nothing_for_the_dead_for_filters_and_beside_other_segments() {
    let schema = schema(Metric::Cosine);
    let mut scattered = rows_of(&schema, ROWS, 9);
    scattered.rows.iter_mut().zip(10_000..).for_each(|(row, key)| row.key = Key::U64(key));
    let inputs =
        [bent(&schema, 0, ROWS), bent(&schema, ROWS, ROWS), scattered].map(|rows| written(&schema, &rows));
    assert_eq!([0, 1, 2].map(|input| leads(&inputs[input])), [true, true, false]);
    let segments = inputs.each_ref().map(Made::open);
    for row in (0..ROWS).step_by(3) {
        segments[0].deaths().set(row, 500);
    }
    let mut rng = SplitMix64::new(5);
    let (mut found, mut wanted, mut scratch) = (0, 0, Scratch::default());
    for row in (0..ROWS as usize).step_by(41) {
        let noise = if row % 2 == 0 { 0.1 } else { 1.0 };
        let near = &inputs[row % 3].rows.rows[row].vector;
        let query: Vec<f32> = near.iter().map(|x| x + noise * (rng.unit_f64() as f32 - 0.5)).collect();
        let mut lists = Vec::new();
        let all = segments.each_ref().map(|segment| (segment, 1.0 / 3.0));
        search_together(&all, &query, &options(10, 48), &[], &mut scratch, &mut lists).unwrap();
        let mut hits: Vec<f32> = lists.iter().flatten().map(|hit| hit.distance).collect();
        hits.sort_unstable_by(f32::total_cmp);
        let lives = |input: usize| move |row: u32| input > 0 || !row.is_multiple_of(3);
        let mut right: Vec<f32> = (0..3)
            .flat_map(|input| truth(&inputs[input].rows, &query, 10, lives(input)))
            .map(|hit| hit.distance)
            .collect();
        right.sort_unstable_by(f32::total_cmp);
        found += hits.iter().take(10).filter(|&&distance| distance <= right[9]).count();
        wanted += 10;

        let even = Only((0..ROWS).filter(|row| row % 2 == 0).collect());
        let some = SearchOptions { accept: &even, ..options(10, 48) };
        let passing = segments[1].search(&query, &some, &mut scratch).unwrap();
        assert!(passing.len() == 10 && passing.iter().all(|hit| hit.ordinal % 2 == 0));
    }
    assert!(found * 100 >= wanted * 97, "{found} of {wanted}");

    // One with directions and one without are joined.
    let all: Vec<(u32, u32)> =
        [1u32, 2].iter().flat_map(|&input| (0..ROWS).map(move |row| (input - 1, row))).collect();
    let join = Join::plan(&schema, &[&segments[1], &segments[2]], &all, LEVEL_SEED).unwrap();
    let row = |&(input, row): &(u32, u32)| inputs[input as usize + 1].rows.rows[row as usize].clone();
    let rows = Rows { metric: schema.metric(), rows: join.origin().iter().map(row).collect() };
    let vfs = folder();
    let meta = write_joined(&target(&vfs), &schema, &rows, &join, &|| false).unwrap().unwrap();
    let joined = Made { vfs, meta, rows };
    assert!(!leads(&joined));
    let recall = recall(&joined, 64);
    assert!(recall >= 0.97, "{recall}");
}

#[test]
fn lies_about_directions_are_errors() {
    let schema = schema(Metric::L2);
    let good = written(&schema, &bent(&schema, 0, ROWS)).bytes();
    let space = layout(&good).section(format::INLINE_SPACE).unwrap();
    let forged = |at: usize, bytes: &[u8]| {
        let mut forged = good.clone();
        forged[at..at + bytes.len()].copy_from_slice(bytes);
        open_bytes(&reseal(&forged, |_| ())).map_err(|error| error.kind())
    };
    assert!(forged(24, &[1]).is_ok());
    assert_eq!(forged(24, &[0]).unwrap_err(), ErrorKind::Corruption, "a header that knows nothing of them");
    assert_eq!(forged(24, &[3]).unwrap_err(), ErrorKind::UnsupportedVersion);
    let spread = space.offset as usize + 16 + 4 * DIMENSION;
    let there = f32::from_le_bytes(good[spread..spread + 4].try_into().unwrap());
    assert!(there > 0.0 && there <= 0.05, "a spread of {there}");
    for number in [f32::NAN, -0.5, 1.0, f32::INFINITY] {
        assert_eq!(forged(spread, &number.to_le_bytes()).unwrap_err(), ErrorKind::Corruption);
        if number != 1.0 {
            assert_eq!(forged(spread + 4, &number.to_le_bytes()).unwrap_err(), ErrorKind::Corruption);
        }
    }
    let shorter = reseal(&good, |footer| {
        for section in footer.sections.iter_mut().filter(|section| section.id == format::INLINE_SPACE) {
            section.len -= DIMENSION as u64;
            section.count -= DIMENSION as u64;
        }
    });
    assert_eq!(open_bytes(&shorter).unwrap_err().kind(), ErrorKind::Corruption);
}

/// Rows that lie around the same centre and as far from it, and differ along other directions: what serves one segment does not serve the other.
#[test]
fn directions_of_another_segment_are_not_taken_over_where_they_do_not_tell_rows_apart() {
    let schema = schema(Metric::L2);
    let first = written(&schema, &bent(&schema, 0, ROWS));
    assert!(leads(&first));
    let like = first.open();
    let beside = |rows: &Rows| {
        let (rows, graph) = graph_of(&schema, rows);
        let vfs = folder();
        let target = SealTarget { like: Some(&like), ..target(&vfs) };
        let meta = write_segment(&target, &schema, &rows, &graph, &|| false).unwrap();
        Made { vfs, meta, rows }
    };
    let same = beside(&bent(&schema, ROWS, ROWS));
    // With another number of bits, perhaps, by which queries are not alike.
    let space = |segment: &SealedSegment| segment.inline_space().map(Space::digest);
    assert!(leads(&same) && space(&same.open()) == space(&like));
    // Searched together, by queries that have something along other directions.
    let (mut found, mut wanted, mut scratch, mut rng) = (0, 0, Scratch::default(), SplitMix64::new(3));
    let opened = [(&like, 0.5), (&same.open(), 0.5)];
    for row in (0..ROWS as usize).step_by(53) {
        let near = &same.rows.rows[row].vector;
        let query: Vec<f32> = near.iter().map(|x| x + 0.2 * (rng.unit_f64() as f32 - 0.5)).collect();
        let mut lists = Vec::new();
        search_together(&opened, &query, &options(10, 64), &[], &mut scratch, &mut lists).unwrap();
        let mut hits: Vec<f32> = lists.iter().flatten().map(|hit| hit.distance).collect();
        hits.sort_unstable_by(f32::total_cmp);
        let both = [&first, &same].map(|made| truth(&made.rows, &query, 10, |_| true));
        let mut right: Vec<f32> = both.iter().flatten().map(|hit| hit.distance).collect();
        right.sort_unstable_by(f32::total_cmp);
        found += hits.iter().take(10).filter(|&&distance| distance <= right[9]).count();
        wanted += 10;
    }
    assert!(found * 100 >= wanted * 97, "{found} of {wanted}");
    let mut rows = bent(&schema, ROWS, ROWS);
    rows.rows.iter_mut().for_each(|row| row.vector.reverse());
    assert!(!like.inline_space().unwrap().suits(rows.rows.iter().map(|row| &row.vector[..]), 0.0));
    let other = beside(&rows);
    assert!(space(&other.open()) != space(&like) && leads(&other));
    let recall = recall(&other, 64);
    assert!(recall >= 0.95, "{recall}");
}
