//! Searches of several segments at once.

use super::*;
use crate::sealed::search_together;

fn schema(metric: Metric) -> Schema {
    Schema::new(64, metric).m(16).ef_construction(64)
}

/// Segments of so many rows, no two of which are alike.
fn segments(schema: &Schema, sizes: &[u32]) -> Vec<Made> {
    let seeds = 100..;
    sizes.iter().zip(seeds).map(|(&rows, seed)| written(schema, &rows_of(schema, rows, seed))).collect()
}

/// Distances of what is found in all segments, ascending.
fn found(
    opened: &[SealedSegment],
    query: &[f32],
    options: &SearchOptions<'_>,
    known: &[f32],
    scratch: &mut Scratch,
) -> Vec<f32> {
    let rows: u32 = opened.iter().map(SealedSegment::rows).sum();
    let all: Vec<_> = opened.iter().map(|one| (one, one.rows() as f32 / rows as f32)).collect();
    let mut lists = vec![vec![Hit { distance: 0.0, ordinal: 0 }]];
    search_together(&all, query, options, known, scratch, &mut lists).unwrap();
    assert_eq!(lists.len(), opened.len());
    for (list, one) in lists.iter().zip(opened) {
        assert!(list.is_sorted_by(|a, b| a.distance <= b.distance) && list.len() <= options.limit);
        let exact = ExactDistance::new(one.meta().schema.metric(), query);
        let right = |hit: &Hit| exact.distance(one.vector(hit.ordinal).unwrap()) == hit.distance;
        assert!(list.iter().all(|hit| right(hit) && !one.deaths().is_dead_at(hit.ordinal, options.at)));
    }
    let mut distances: Vec<f32> = lists.iter().flatten().map(|hit| hit.distance).collect();
    distances.sort_unstable_by(f32::total_cmp);
    distances
}

/// What there is to find.
fn right(
    made: &[Made],
    query: &[f32],
    limit: usize,
    known: &[f32],
    lives: impl Fn(usize, u32) -> bool,
) -> Vec<f32> {
    let hits = made
        .iter()
        .enumerate()
        .flat_map(|(place, one)| truth(&one.rows, query, limit, |row| lives(place, row)));
    let mut distances: Vec<f32> = hits.map(|hit| hit.distance).chain(known.to_vec()).collect();
    distances.sort_unstable_by(f32::total_cmp);
    distances.truncate(limit);
    distances
}

#[test]
fn several_segments_have_the_nearest_rows_of_all() {
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        for sizes in [&[1_500][..], &[1_100, 2_000], &[1_200; 5], &[1_100; 11]] {
            let made = segments(&schema(metric), sizes);
            let opened: Vec<SealedSegment> = made.iter().map(Made::open).collect();
            assert!(opened.iter().all(|one| one.is_walked_inline(&options(10, 48))));
            let (mut scratch, mut hits, mut wanted) = (Scratch::default(), 0, 0);
            for (number, row) in made[0].rows.rows.iter().step_by(67).enumerate() {
                let query = &row.vector;
                for (limit, ef) in [(1, 16), (10, 48), (30, 64)] {
                    let alone = right(&made, query, limit, &[], |_, _| true);
                    // Every second one of the nearest, and some that are nearer than all.
                    let near = alone[0] - alone[0].abs() * 0.5;
                    for known in
                        [vec![], alone.iter().skip(1).step_by(2).copied().collect(), vec![near; number % 12]]
                    {
                        let best = right(&made, query, limit, &known, |_, _| true);
                        let near = |distances: &[f32]| {
                            distances.iter().filter(|&&distance| distance <= best[limit - 1]).count()
                        };
                        let found = found(&opened, query, &options(limit, ef), &known, &mut scratch);
                        assert!(found.len() + known.len() >= limit);
                        hits += near(&found);
                        wanted += near(&alone);
                    }
                }
            }
            assert!(hits * 100 >= wanted * 97, "{metric:?} {sizes:?}: {hits} of {wanted}");
        }
    }
}

/// Segments that are too small to be walked, of which most is dead, or of which all around the query is.
#[test]
fn segments_that_cannot_be_walked_together_are_searched_alone() {
    let schema = schema(Metric::L2);
    let made = segments(&schema, &[1_500, 300, 1_400, 1_300, 40]);
    let opened: Vec<SealedSegment> = made.iter().map(Made::open).collect();
    let dead = |place: usize, row: u32| match place {
        2 => !row.is_multiple_of(10),
        3 => made[3].rows.rows[row as usize].vector[0] > 0.0,
        _ => false,
    };
    for (place, one) in opened.iter().enumerate() {
        for row in (0..one.rows()).filter(|&row| dead(place, row)) {
            one.deaths().set(row, 500);
        }
    }
    let walked =
        |limit, ef| opened.iter().map(|one| one.is_walked_inline(&options(limit, ef))).collect::<Vec<_>>();
    assert_eq!(walked(10, 48), [true, false, false, true, false]);
    assert_eq!(walked(10, 2_000), [false; 5]);
    let (mut scratch, mut hits, mut wanted) = (Scratch::default(), 0, 0);
    // On the side of the dead.
    for row in made[3].rows.rows.iter().filter(|row| row.vector[0] > 0.2).step_by(9) {
        for (limit, ef) in [(1, 10), (10, 48), (10, 900), (300, 400)] {
            let best = right(&made, &row.vector, limit, &[], |place, row| !dead(place, row));
            let found = found(&opened, &row.vector, &options(limit, ef), &[], &mut scratch);
            hits += found[..limit].iter().filter(|&&distance| distance <= best[limit - 1]).count();
            wanted += limit;
        }
    }
    assert!(hits * 100 >= wanted * 97, "{hits} of {wanted}");
    let exact = SearchOptions { exact: true, ..options(5, 5) };
    let query = &made[0].rows.rows[7].vector;
    let best = right(&made, query, 5, &[], |place, row| !dead(place, row));
    assert_eq!(found(&opened, query, &exact, &[], &mut scratch)[..5], best);
    assert!(found(&opened, query, &options(0, 10), &[], &mut scratch).is_empty());
}

/// In the space of such segments the query is farther away than single precision can say; and one without a direction, by inner product,
/// is as far from all rows there.
#[test]
fn queries_that_walks_cannot_measure_are_answered_beside_other_segments_too() {
    let far = |metric| {
        let schema = schema(metric);
        let mut made = Vec::new();
        for seed in [5, 6] {
            let mut rows = rows_of(&schema, 1_500, seed);
            rows.rows.iter_mut().flat_map(|row| &mut row.vector).for_each(|x| *x *= 1e-3);
            made.push(written(&schema, &rows));
        }
        made
    };
    for (metric, size) in [(Metric::L2, 2.5e15f32), (Metric::InnerProduct, 0.0)] {
        let made = far(metric);
        assert!(made.iter().all(|made| made.open().has_inline_rows()));
        let opened: Vec<SealedSegment> = made.iter().map(Made::open).collect();
        let query = vec![size; 64];
        let known = [if size > 0.0 { 9e32 } else { 1.0 }; 10];
        for known in [&known[..], &[]] {
            let found = found(&opened, &query, &options(10, 64), known, &mut Scratch::default());
            assert!(found.len() >= 10 && found[9] < 5e32, "{metric:?}: {found:?}");
        }
    }
}

#[test]
fn a_query_of_another_length_is_refused_by_all() {
    let made = segments(&schema(Metric::L2), &[1_100, 1_100]);
    let opened = [made[0].open(), made[1].open()];
    let all = opened.each_ref().map(|one| (one, 0.5));
    let (mut scratch, mut lists) = (Scratch::default(), Vec::new());
    let error =
        search_together(&all, &[0.5; 65], &options(3, 30), &[], &mut scratch, &mut lists).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("65 numbers"), "{error}");
}

/// Rows sealed beside a segment that is there.
fn beside(like: &SealedSegment, rows: &Rows) -> Made {
    let schema = like.meta().schema;
    let (rows, graph) = graph_of(&schema, rows);
    let vfs = folder();
    let target = SealTarget { like: Some(like), ..target(&vfs) };
    let meta = write_segment(&target, &schema, &rows, &graph, &|| false).unwrap();
    Made { vfs, meta, rows }
}

#[test]
fn a_segment_shares_the_space_of_one_whose_rows_lie_as_its_own_do() {
    for metric in [Metric::L2, Metric::Cosine] {
        let schema = schema(metric);
        let first = written(&schema, &rows_of(&schema, 1_200, 1)).open();
        assert!(first.shares_queries(&first));
        let alone = written(&schema, &rows_of(&schema, 1_200, 2)).open();
        assert!(!first.shares_queries(&alone), "another space, if only by a little");
        let made = [beside(&first, &rows_of(&schema, 1_200, 2)), beside(&first, &rows_of(&schema, 2_400, 3))];
        let opened = [made[0].open(), made[1].open()];
        assert!(opened.iter().all(|one| first.shares_queries(one)), "{metric:?}");
        let (mut scratch, mut hits, mut wanted) = (Scratch::default(), 0, 0);
        for row in made[1].rows.rows.iter().step_by(50) {
            let best = right(&made, &row.vector, 10, &[], |_, _| true);
            let found = found(&opened, &row.vector, &options(10, 48), &[], &mut scratch);
            hits += found[..10].iter().filter(|&&distance| distance <= best[9]).count();
            wanted += 10;
        }
        assert!(hits * 100 >= wanted * 97, "{metric:?}: {hits} of {wanted}");
        // Of many more rows, the larger sample knows better.
        assert!(!first.shares_queries(&beside(&first, &rows_of(&schema, 2_402, 4)).open()));
    }
}

#[test]
fn rows_that_lie_elsewhere_get_a_space_of_their_own() {
    let schema = schema(Metric::L2);
    let first = written(&schema, &rows_of(&schema, 1_200, 1)).open();
    let moved: [&dyn Fn(f32) -> f32; 4] = [&|x| x * 1.4, &|x| x * 0.7, &|x| x + 2.0, &|x| x * 1e30];
    for change in moved {
        let mut rows = rows_of(&schema, 1_200, 2);
        rows.rows.iter_mut().flat_map(|row| &mut row.vector).for_each(|x| *x = change(*x));
        assert!(!first.shares_queries(&beside(&first, &rows).open()));
    }
    // By inner product, a row that is longer than all of the other segment has no place in its space.
    let schema = self::schema(Metric::InnerProduct);
    let first = written(&schema, &rows_of(&schema, 1_200, 1)).open();
    let mut rows = rows_of(&schema, 1_200, 1);
    assert!(first.shares_queries(&beside(&first, &rows).open()));
    rows.rows.iter_mut().for_each(|row| row.vector.iter_mut().for_each(|x| *x *= 1.01));
    assert!(!first.shares_queries(&beside(&first, &rows).open()));
}

/// Rows that were put again: their old copies are dead in one segment, and live in another. The dead ones ended the walk over the living.
#[test]
fn dead_rows_of_one_segment_do_not_end_the_walks_over_others() {
    let schema = schema(Metric::L2);
    let mut rng = SplitMix64::new(31);
    let centre = rows_of(&schema, 1, 77).rows[0].vector.clone();
    let mut tight = |rows: &mut Rows, count: usize| {
        for row in &mut rows.rows[..count] {
            row.vector = centre.iter().map(|x| x + rng.unit_f64() as f32 * 0.05).collect();
        }
    };
    let [mut old, mut new] = [rows_of(&schema, 1_500, 1), rows_of(&schema, 1_500, 2)];
    tight(&mut old, 400);
    tight(&mut new, 200);
    let made = [written(&schema, &old), written(&schema, &new)];
    let opened = [made[0].open(), made[1].open()];
    let near = |row: u32| {
        let vector = &made[0].rows.rows[row as usize].vector;
        vector.iter().zip(&centre).all(|(x, centre)| (0.0..0.06).contains(&(x - centre)))
    };
    let dead: Vec<u32> = (0..1_500).filter(|&row| near(row)).collect();
    assert_eq!(dead.len(), 400);
    dead.iter().for_each(|&row| assert!(opened[0].deaths().set(row, 500)));
    let query: Vec<f32> = centre.iter().map(|x| x + 0.025).collect();
    let mut scratch = Scratch::default();
    for (limit, ef) in [(60, 60), (100, 100), (10, 64)] {
        let best = right(&made, &query, limit, &[], |place, row| place == 1 || !near(row));
        let found = found(&opened, &query, &options(limit, ef), &[], &mut scratch);
        let hits = found[..limit].iter().filter(|&&distance| distance <= best[limit - 1]).count();
        assert!(hits * 100 >= limit * 93, "{hits} of {limit}");
    }
}

#[test]
fn inner_products_are_compared_in_a_shared_space_too() {
    let schema = schema(Metric::InnerProduct);
    let base = rows_of(&schema, 1_300, 1);
    let first = written(&schema, &base);
    let mut rows = rows_of(&schema, 1_300, 2);
    // None is longer than the longest of the first ones, and one is nearly as long.
    let longest = |rows: &Rows| {
        let square = |row: &Row| row.vector.iter().map(|x| x * x).sum::<f32>();
        rows.rows.iter().map(square).fold(0.0, f32::max).sqrt()
    };
    let shorter = longest(&base) / longest(&rows) * 0.999;
    rows.rows.iter_mut().flat_map(|row| &mut row.vector).for_each(|x| *x *= shorter);
    let made = [beside(&first.open(), &rows), first];
    let opened = [made[0].open(), made[1].open()];
    assert!(opened[0].shares_queries(&opened[1]));
    let (mut scratch, mut hits, mut wanted) = (Scratch::default(), 0, 0);
    for row in made[0].rows.rows.iter().step_by(50) {
        let query: Vec<f32> = row.vector.iter().map(|x| x * 3.0).collect();
        let best = right(&made, &query, 10, &[], |_, _| true);
        let found = found(&opened, &query, &options(10, 64), &[], &mut scratch);
        hits += found[..10].iter().filter(|&&distance| distance <= best[9]).count();
        wanted += 10;
    }
    assert!(hits * 100 >= wanted * 96, "{hits} of {wanted}");
}
