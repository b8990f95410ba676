//! Segments with inline rows: what walks over them find, and what they make of data and files that are out to harm.

use super::*;
use crate::sealed::inline::write::{Given, Prepared};
use crate::sealed::{Join, search_together, write_joined};
use crate::segment::Answers;

fn schema(dimension: usize, metric: Metric) -> Schema {
    Schema::new(dimension, metric).m(8).ef_construction(48)
}

fn has_inline_rows(made: &Made) -> bool {
    layout(&made.bytes()).section(format::INLINE_ROWS).is_some()
}

/// The bits of each number of the codes in inline rows with 32 places.
fn bits(made: &Made) -> u64 {
    let dimension = (made.meta.schema.dimension() as u64).next_multiple_of(64);
    let stride = layout(&made.bytes()).section(format::INLINE_ROWS).unwrap().stride;
    (stride - 2 * dimension - 32 * 8) * 8 / (32 * dimension)
}

/// How many of the `limit` nearest are found, over queries beside the rows; distances must be right for all.
fn recall(made: &Made, limit: usize, ef: usize) -> f64 {
    let segment = made.open();
    let mut scratch = Scratch::default();
    let mut rng = SplitMix64::new(9);
    let (mut found, mut wanted) = (0, 0);
    for row in made.rows.rows.iter().step_by(29) {
        let query: Vec<f32> = row.vector.iter().map(|x| x + rng.unit_f64() as f32 * 0.5).collect();
        let right = truth(&made.rows, &query, limit, |_| true);
        let hits = segment.search(&query, &options(limit, ef), &mut scratch).unwrap();
        assert_eq!(hits.len(), limit);
        let exact = ExactDistance::new(made.rows.metric, &query);
        for hit in &hits {
            assert_eq!(hit.distance, exact.distance(&made.rows.rows[hit.ordinal as usize].vector));
        }
        assert!(hits.is_sorted_by(|a, b| a.distance <= b.distance));
        let last = right.last().unwrap().distance;
        found += hits.iter().filter(|hit| hit.distance <= last).count();
        wanted += limit;
    }
    found as f64 / wanted as f64
}

#[test]
fn inline_walks_find_nearly_all_of_the_nearest_under_every_metric() {
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        for dimension in [48, 64, 100, 130] {
            let made = make(&schema(dimension, metric), 1_500);
            assert!(has_inline_rows(&made));
            made.open().verify(&mut |_, _| true).unwrap();
            let recall = recall(&made, 10, 64);
            assert!(recall >= 0.97, "{metric:?} at {dimension} dimensions: {recall}");
        }
    }
}

#[test]
fn more_links_than_one_block_holds_are_inline_as_well() {
    let made = make(&Schema::new(64, Metric::L2).m(20).ef_construction(60), 1_300);
    assert!(has_inline_rows(&made));
    made.open().verify(&mut |_, _| true).unwrap();
    assert!(recall(&made, 10, 64) >= 0.98);
}

#[test]
fn the_dead_are_never_hits_of_an_inline_walk() {
    let made = make(&schema(64, Metric::L2), 1_500);
    let segment = made.open();
    for row in (0..1_500).filter(|row| row % 3 == 0) {
        segment.deaths().set(row, 500);
    }
    let mut scratch = Scratch::default();
    let query = &made.rows.rows[30].vector;
    let hits = segment.search(query, &options(20, 64), &mut scratch).unwrap();
    let right = truth(&made.rows, query, 20, |row| row % 3 != 0);
    assert!(hits.iter().all(|hit| hit.ordinal % 3 != 0) && hits.len() == 20);
    assert!(hits.iter().filter(|hit| right.contains(hit)).count() >= 18);
    // A snapshot from before still sees them.
    let before = SearchOptions { at: 499, ..options(1, 64) };
    assert_eq!(segment.search(query, &before, &mut scratch).unwrap()[0].ordinal, 30);
}

#[test]
fn equal_rows_and_numbers_of_any_size_cost_no_result() {
    let base = schema(64, Metric::L2);
    let mut rng = SplitMix64::new(4);
    let mut rows = rows_of(&base, 1_200, 5);
    type Shape<'a> = (&'a str, &'a mut dyn FnMut(usize, &mut Vec<f32>));
    let shapes: [Shape<'_>; 7] = [
        ("all equal", &mut |_, v| v.fill(0.25)),
        ("all zero", &mut |_, v| v.fill(0.0)),
        ("constant dimensions", &mut |row, v| {
            v.fill(7.0);
            v[3] = row as f32;
        }),
        ("tiny", &mut |_, v| v.iter_mut().for_each(|x| *x = (rng.unit_f64() as f32 - 0.5) * 1e-20)),
        ("huge", &mut |row, v| {
            for (i, x) in v.iter_mut().enumerate() {
                *x = ((row * 31 + i * 17) % 101) as f32 * 1e15;
            }
        }),
        ("most equal, the rest far away", &mut |row, v| {
            v.fill(0.0);
            if row % 5 > 2 {
                for (i, x) in v.iter_mut().enumerate() {
                    *x = ((row * 29 + i * 37) % 97) as f32;
                }
            }
        }),
        ("an outlier", &mut |row, v| {
            if row == 77 {
                v.fill(1e6);
            } else {
                for (i, x) in v.iter_mut().enumerate() {
                    *x = ((row * 13 + i * 7) % 89) as f32;
                }
            }
        }),
    ];
    for (name, shape) in shapes {
        for (row, place) in rows.rows.iter_mut().enumerate() {
            shape(row, &mut place.vector);
        }
        let (rows, graph) = graph_of(&base, &rows);
        let vfs = folder();
        let meta = write_segment(&target(&vfs), &base, &rows, &graph, &|| false).unwrap();
        let made = Made { vfs, meta, rows };
        let segment = made.open();
        segment.verify(&mut |_, _| true).unwrap();
        let mut scratch = Scratch::default();
        for row in (0..1_200).step_by(7) {
            let query = &made.rows.rows[row].vector;
            let hits = segment.search(query, &options(10, 200), &mut scratch).unwrap();
            assert_eq!(hits.len(), 10, "{name}");
            assert_eq!(hits[0].distance, 0.0, "{name}: row {row} is not found by its own vector");
        }
    }
}

/// A row far outside makes the lifted space of inner products useless for all others.
#[test]
fn one_long_row_does_not_hide_the_others_from_inner_products() {
    let base = schema(64, Metric::InnerProduct);
    let mut rows = rows_of(&base, 1_200, 5);
    rows.rows[77].vector.fill(1e6);
    let (rows, graph) = graph_of(&base, &rows);
    let vfs = folder();
    let meta = write_segment(&target(&vfs), &base, &rows, &graph, &|| false).unwrap();
    let made = Made { vfs, meta, rows };
    assert!(!has_inline_rows(&made));
}

/// Rows in clusters that lie far apart.
fn clustered(schema: &Schema, clusters: usize, count: u32) -> Made {
    let mut rows = rows_of(schema, count, 5);
    let mut rng = SplitMix64::new(8);
    let centres: Vec<Vec<f32>> =
        (0..clusters).map(|_| (0..64).map(|_| rng.unit_f64() as f32 * 10.0).collect()).collect();
    for (row, place) in rows.rows.iter_mut().enumerate() {
        place.vector = centres[row % clusters].iter().map(|x| x + rng.unit_f64() as f32).collect();
    }
    let (rows, graph) = graph_of(schema, &rows);
    let vfs = folder();
    let meta = write_segment(&target(&vfs), schema, &rows, &graph, &|| false).unwrap();
    let made = Made { vfs, meta, rows };
    made.open().verify(&mut |_, _| true).unwrap();
    assert!(has_inline_rows(&made));
    made
}

/// Rows near a surface of eight dimensions.
fn near_a_surface(schema: &Schema, count: u32) -> Made {
    let mut rows = rows_of(schema, count, 5);
    let mut rng = SplitMix64::new(8);
    let mut number = || rng.unit_f64() as f32 * 2.0 - 1.0;
    let axes: Vec<[f32; 8]> = (0..schema.dimension()).map(|_| [(); 8].map(|()| number())).collect();
    for place in &mut rows.rows {
        let at = [(); 8].map(|()| number());
        let along = |axis: &[f32; 8]| axis.iter().zip(at).map(|(a, b)| a * b).sum::<f32>();
        place.vector = axes.iter().map(|axis| along(axis).sin() + 0.02 * number()).collect();
    }
    let (rows, graph) = graph_of(schema, &rows);
    let vfs = folder();
    let meta = write_segment(&target(&vfs), schema, &rows, &graph, &|| false).unwrap();
    Made { vfs, meta, rows }
}

/// One bit per dimension cannot tell rows of one cluster apart, and reading four costs more than it spares elsewhere.
#[test]
fn codes_get_the_bits_that_the_rows_call_for() {
    let schema = Schema::new(64, Metric::L2).m(16).ef_construction(64);
    let made = clustered(&schema, 40, 3_000);
    assert_eq!(bits(&made), 4);
    let in_clusters = recall(&made, 10, 16);
    assert!(in_clusters >= 0.95, "{in_clusters}");
    let made = near_a_surface(&schema, 3_000);
    assert_eq!(bits(&made), 1);
    // Longer rows cost so much more that nothing is tried.
    let wide = Schema::new(200, Metric::L2).m(16).ef_construction(32);
    assert_eq!(bits(&make(&wide, 1_100)), 1);
}

/// It was what suited the largest input, and so for ever what suited the first few rows.
#[test]
fn a_join_has_the_bits_that_its_own_rows_call_for() {
    let schema = Schema::new(64, Metric::L2).m(16).ef_construction(48);
    let joined = |inputs: [&Made; 2]| {
        let segments = inputs.map(Made::open);
        let inputs_of = |input: usize| (0..segments[input].rows()).map(move |row| (input as u32, row));
        let all: Vec<(u32, u32)> = (0..2).flat_map(inputs_of).collect();
        let join = Join::plan(&schema, &[&segments[0], &segments[1]], &all, 1).unwrap();
        let rows = join.origin().iter().zip(0u64..).map(|(&(input, row), key)| Row {
            // Both have the same keys.
            key: Key::U64(key.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            ..inputs[input as usize].rows.rows[row as usize].clone()
        });
        let rows = Rows { metric: schema.metric(), rows: rows.collect() };
        let vfs = folder();
        let meta = write_joined(&target(&vfs), &schema, &rows, &join, &|| false).unwrap().unwrap();
        let made = Made { vfs, meta, rows };
        made.open().verify(&mut |_, _| true).unwrap();
        let recall = recall(&made, 10, 32);
        assert!(recall >= 0.95, "{recall}");
        bits(&made)
    };
    let (four, one) = (clustered(&schema, 40, 2_000), near_a_surface(&schema, 2_000));
    assert_eq!((bits(&four), bits(&one)), (4, 1));
    assert_eq!(joined([&four, &four]), 4);
    assert_eq!(joined([&one, &one]), 1);
}

/// From one fixed row, a walk stays in that row's cluster.
#[test]
fn a_walk_with_a_narrow_beam_comes_to_the_right_cluster() {
    let recall =
        recall(&clustered(&Schema::new(64, Metric::L2).m(16).ef_construction(64), 100, 4_000), 10, 10);
    assert!(recall >= 0.9, "{recall}");
}

/// The entry leads to some of the clusters only.
#[test]
fn a_walk_comes_to_clusters_that_the_entry_does_not_lead_to() {
    let recall =
        recall(&clustered(&Schema::new(64, Metric::L2).m(8).ef_construction(32), 900, 18_000), 10, 16);
    assert!(recall >= 0.9, "{recall}");
}

/// Each of a row's neighbours leads to it: what a walk holds of the rows that are wanted, it holds several times.
#[test]
fn a_walk_for_nearly_as_many_rows_as_its_beam_is_wide_finds_them() {
    let made = make(&Schema::new(96, Metric::L2).m(16).ef_construction(100), 3_000);
    for (limit, ef) in [(90, 100), (180, 200)] {
        let recall = recall(&made, limit, ef);
        assert!(recall >= 0.97, "{limit} of a beam of {ef}: {recall}");
    }
}

/// Equal rows chose among their equals in one and the same order, and nobody chose most of them.
#[test]
fn refining_leaves_no_more_equal_rows_alone_than_there_were() {
    let base = Schema::new(64, Metric::L2).m(8).ef_construction(32);
    let mut rows = rows_of(&base, 6_000, 5);
    for place in rows.rows.iter_mut().step_by(3) {
        place.vector = (0..64).map(|i| (i % 7) as f32 / 7.0).collect();
    }
    let (rows, graph) = graph_of(&base, &rows);
    let prepared = Prepared::new(&base, &rows, Given::Graph(&graph), None, 2, &|| false);
    let refined = prepared.unwrap().unwrap().graph;
    crate::graph::check(&refined).unwrap();
    // How many of the equal rows hardly any link leads to.
    let lonely = |graph: &FlatGraph| {
        let mut inward = vec![0; 6_000];
        let links = graph.levels[0].links.iter().filter(|&&link| link != NO_LINK);
        links.for_each(|&link| inward[link as usize] += 1);
        let equal = (0..6_000).filter(|&row| rows.rows[row].vector[..2] == [0.0, 1.0 / 7.0]);
        equal.filter(|&row| inward[row] < 3).count()
    };
    let (before, after) = (lonely(&graph), lonely(&refined));
    assert!(after <= before, "{after} lonely rows, {before} before");
}

#[test]
fn a_refined_graph_is_whole_and_fuller_and_cancelling_ends_the_work() {
    let base = Schema::new(64, Metric::Cosine).m(8).ef_construction(32);
    let (rows, graph) = graph_of(&base, &rows_of(&base, 3_000, 5));
    let prepare = |threads, cancel: &dyn Fn() -> bool| {
        Prepared::new(&base, &rows, Given::Graph(&graph), None, threads, cancel)
    };
    let links = |graph: &FlatGraph| graph.levels[0].links.iter().filter(|&&link| link != NO_LINK).count();
    let alone = prepare(1, &|| false).unwrap().unwrap();
    crate::graph::check(&alone.graph).unwrap();
    assert!(links(&alone.graph) > links(&graph));
    assert_eq!(alone.graph.levels.len(), graph.levels.len());
    // However many threads there are, the same comes out.
    let together = prepare(3, &|| false).unwrap().unwrap();
    assert_eq!(alone.graph.levels[0].links, together.graph.levels[0].links);

    let asked = std::cell::Cell::new(0);
    for after in [0, 1, 3, 7, 20] {
        asked.set(0);
        let cancel = || asked.replace(asked.get() + 1) >= after;
        let error = prepare(2, &cancel).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "asked {after} times before");
    }
}

#[test]
fn a_tiny_query_has_the_same_nearest_by_inner_product_as_a_long_one() {
    let made = make(&schema(64, Metric::InnerProduct), 1_200);
    assert!(has_inline_rows(&made));
    let segment = made.open();
    let mut scratch = Scratch::default();
    for row in (0..1_200).step_by(100) {
        let long = &made.rows.rows[row].vector;
        let tiny: Vec<f32> = long.iter().map(|x| x * 1e-37).collect();
        let [a, b] = [long, &tiny]
            .map(|query| segment.search(query, &options(1, 100), &mut scratch).unwrap()[0].ordinal);
        assert_eq!(a, b);
    }
}

#[test]
fn a_query_of_any_size_is_answered() {
    let made = make(&schema(64, Metric::L2), 1_200);
    let segment = made.open();
    let mut scratch = Scratch::default();
    for size in [0.0, 1e-38, 1e6, 1e18, 3e38] {
        let query = vec![size; 64];
        for limit in [1, 10] {
            let hits = segment.search(&query, &options(limit, 40), &mut scratch).unwrap();
            assert_eq!(hits.len(), limit, "{size}");
        }
    }
}

#[derive(Default)]
struct Gathered {
    found: Vec<(usize, Vec<Hit>)>,
}

impl Answers for Gathered {
    fn found(&mut self, query: usize, hits: Vec<Hit>) -> Result<()> {
        self.found.push((query, hits));
        Ok(())
    }
}

fn ask_many(made: &Made, queries: &[&[f32]], options: &SearchOptions<'_>) -> Vec<Vec<Hit>> {
    let mut gathered = Gathered::default();
    let mut scratch = Scratch::default();
    made.open().search_many(queries, options, &mut scratch, &mut gathered).unwrap();
    gathered.found.sort_by_key(|&(number, _)| number);
    assert!(gathered.found.iter().map(|found| found.0).eq(0..queries.len()), "each query once");
    gathered.found.into_iter().map(|found| found.1).collect()
}

#[test]
fn many_queries_find_what_each_finds_alone() {
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        let made = make(&schema(64, metric), 1_500);
        let segment = made.open();
        let queries: Vec<&[f32]> = made.rows.rows.iter().step_by(31).map(|row| &row.vector[..]).collect();
        for (limit, ef) in [(1, 1), (10, 64), (10, 2_000), (3, 900)] {
            let options = options(limit, ef);
            for (query, together) in queries.iter().zip(ask_many(&made, &queries, &options)) {
                let alone = segment.search(query, &options, &mut Scratch::default()).unwrap();
                assert_eq!(together, alone, "{metric:?}, {limit} of {ef}");
            }
        }
        // Where there is nothing to walk over, too: exact searches, and a segment of which most is dead.
        let exact = SearchOptions { exact: true, ..options(5, 5) };
        for (query, together) in queries.iter().zip(ask_many(&made, &queries, &exact)) {
            assert_eq!(together, segment.search(query, &exact, &mut Scratch::default()).unwrap());
        }
        assert_eq!(ask_many(&made, &[], &exact), Vec::<Vec<Hit>>::new());
        assert!(ask_many(&made, &queries, &options(0, 10)).iter().all(Vec::is_empty));
    }
}

#[test]
fn a_query_of_another_length_among_many_is_refused() {
    let made = make(&schema(64, Metric::L2), 1_500);
    let long = vec![0.5; 65];
    let queries: [&[f32]; 2] = [&made.rows.rows[0].vector, &long];
    let mut gathered = Gathered::default();
    let error = made
        .open()
        .search_many(&queries, &options(3, 30), &mut Scratch::default(), &mut gathered)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("65 numbers"), "{error}");
}

/// Rows that lie around a query are often deleted together, and say nothing of those behind them.
#[test]
fn the_living_behind_a_group_of_dead_rows_are_found() {
    let schema = schema(64, Metric::L2);
    let mut rows = rows_of(&schema, 2_000, 5);
    let mut rng = SplitMix64::new(12);
    // Ten groups of 30, each tightly around one of the rows.
    for row in 0..300 {
        let centre = rows.rows[1_000 + row % 10].vector.clone();
        rows.rows[row].vector = centre.iter().map(|x| x + rng.unit_f64() as f32 * 0.01).collect();
    }
    let centres: Vec<Vec<f32>> = (1_000..1_010).map(|row| rows.rows[row].vector.clone()).collect();
    let group = |vector: &[f32]| {
        let near =
            |centre: &Vec<f32>| centre.iter().zip(vector).map(|(a, b)| (a - b).abs()).sum::<f32>() < 1.0;
        centres.iter().any(near)
    };
    let made = written(&schema, &rows);
    let segment = made.open();
    let dead: Vec<u32> = (0..made.rows.rows()).filter(|&row| group(made.rows.vector(row).unwrap())).collect();
    assert_eq!(dead.len(), 310);
    for &row in &dead {
        segment.deaths().set(row, 500);
    }
    let (mut found, mut wanted, mut scratch) = (0, 0, Scratch::default());
    for centre in &centres {
        for limit in [1, 3, 10] {
            let right = truth(&made.rows, centre, limit, |row| !dead.contains(&row));
            let last = right[limit - 1].distance;
            let queries: [&[f32]; 2] = [centre, centre];
            let mut gathered = Gathered::default();
            let options = options(limit, 32);
            segment.search_many(&queries, &options, &mut scratch, &mut gathered).unwrap();
            // And where ten poor rows are known from elsewhere.
            let (known, one) = (vec![last * 3.0; 10], [(&segment, 0.5)]);
            let mut lists = Vec::new();
            search_together(&one, centre, &options, &known, &mut scratch, &mut lists).unwrap();
            gathered.found.push((8, lists.remove(0)));
            gathered.found.push((9, segment.search(centre, &options, &mut scratch).unwrap()));
            for (_, hits) in &gathered.found {
                assert!(hits.iter().all(|hit| !dead.contains(&hit.ordinal)));
                found += hits.iter().filter(|hit| hit.distance <= last).count();
                wanted += limit;
            }
        }
    }
    assert!(found * 100 >= wanted * 95, "{found} of {wanted}");
}

/// Each row of a cluster is met from thirty others. Keys of the same few rows took all places, and those of the next cluster had none.
#[test]
fn a_wide_beam_reaches_beyond_a_cluster_whose_rows_all_lead_to_each_other() {
    let schema = Schema::new(64, Metric::Cosine).m(16).ef_construction(100);
    let mut rng = SplitMix64::new(8);
    let mut unit =
        |scale: f32| -> Vec<f32> { (0..64).map(|_| (rng.unit_f64() as f32 - 0.5) * scale).collect() };
    let centres: Vec<Vec<f32>> = (0..100).map(|_| unit(1.0)).collect();
    let near = |centre: &[f32], by: Vec<f32>| centre.iter().zip(by).map(|(a, b)| a + b).collect::<Vec<f32>>();
    let mut rows = rows_of(&schema, 8_000, 5);
    for (place, row) in rows.rows.iter_mut().enumerate() {
        row.vector = near(&centres[place % 100], unit(0.05));
    }
    let made = written(&schema, &rows);
    assert!(has_inline_rows(&made));
    let segment = made.open();
    let (mut found, mut wanted, mut scratch) = (0, 0, Scratch::default());
    for first in 0..50 {
        // Between two clusters, with ten rows of each among the nearest twenty or so.
        let query: Vec<f32> = near(&near(&centres[first], centres[99 - first].clone()), unit(0.3));
        let right = truth(&made.rows, &query, 20, |_| true);
        let hits = segment.search(&query, &options(20, 128), &mut scratch).unwrap();
        found += hits.iter().filter(|hit| hit.distance <= right[19].distance).count();
        wanted += 20;
    }
    assert!(found * 100 >= wanted * 98, "{found} of {wanted}");
}

#[test]
fn segments_say_how_distances_grow_and_are_read_without_that_too() {
    let growth = |made: &Made| {
        let section = layout(&made.bytes()).section(format::INLINE_GROWTH).unwrap();
        let at = section.offset as usize;
        (at, f32::from_le_bytes(made.bytes()[at..at + 4].try_into().unwrap()))
    };
    // Random numbers in 64 dimensions: 2 / 64, and somewhat more, since there are few of them.
    let (_, even) = growth(&clustered(&schema(64, Metric::L2), 1, 1_500));
    assert!((0.02..0.12).contains(&even), "{even}");
    // Twenty clusters of 75 rows: what comes after these is far away.
    let made = make(&schema(64, Metric::L2), 1_500);
    let (at, jump) = growth(&made);
    assert!((0.3..1.5).contains(&jump), "{jump}");
    let good = made.bytes();
    let without =
        reseal(&good, |footer| footer.sections.retain(|section| section.id != format::INLINE_GROWTH));
    let old = made.with_bytes(&without);
    let len = without.len() as u64;
    let segment = SealedSegment::open_alone(&old.vfs, &file(), SegmentId(1), len, Residency::Heap).unwrap();
    let query = &made.rows.rows[7].vector;
    let hits = segment.search(query, &options(10, 64), &mut Scratch::default()).unwrap();
    assert_eq!((hits.len(), hits[0].ordinal), (10, 7));
    for number in [f32::NAN, -0.1, 2.1, f32::INFINITY] {
        let mut forged = good.clone();
        forged[at..at + 4].copy_from_slice(&number.to_le_bytes());
        assert_eq!(open_bytes(&reseal(&forged, |_| ())).unwrap_err().kind(), ErrorKind::Corruption);
    }
}

#[test]
fn lies_in_inline_rows_are_errors_and_never_panics() {
    let schema = schema(64, Metric::L2);
    for (made, width) in [(near_a_surface(&schema, 1_100), 1), (clustered(&schema, 20, 1_100), 4)] {
        assert_eq!(bits(&made), width);
        lies_are_errors(&made);
    }
}

fn lies_are_errors(made: &Made) {
    let good = made.bytes();
    let layout = layout(&good);
    let rows = layout.section(format::INLINE_ROWS).unwrap();
    let ids_at = rows.stride - 32 * 4;
    let lie = |id: u32, at: u64, bytes: &[u8]| {
        let mut forged = good.clone();
        let place = (layout.section(id).unwrap().offset + at) as usize;
        forged[place..place + bytes.len()].copy_from_slice(bytes);
        reseal(&forged, |_| ())
    };
    // A link that leads nowhere is met by the walk, or found by verifying.
    for link in [1_100u32, 1 << 31, u32::MAX - 1] {
        let forged = lie(format::INLINE_ROWS, ids_at, &link.to_le_bytes());
        assert_eq!(open_bytes(&forged).unwrap_err().kind(), ErrorKind::Corruption);
        let made = made.with_bytes(&forged);
        let segment =
            SealedSegment::open_alone(&made.vfs, &file(), SegmentId(1), forged.len() as u64, Residency::Heap)
                .unwrap();
        let walked = segment.search(&made.rows.rows[0].vector, &options(5, 900), &mut Scratch::default());
        if let Err(error) = walked {
            assert_eq!(error.kind(), ErrorKind::Corruption);
        }
        let queries: Vec<&[f32]> = made.rows.rows.iter().take(9).map(|row| &row.vector[..]).collect();
        let (mut scratch, mut gathered) = (Scratch::default(), Gathered::default());
        let walked = segment.search_many(&queries, &options(5, 700), &mut scratch, &mut gathered);
        assert_eq!(walked.unwrap_err().kind(), ErrorKind::Corruption);
    }
    // Another link that exists.
    let other = lie(format::INLINE_ROWS, ids_at, &777u32.to_le_bytes());
    assert_eq!(open_bytes(&other).unwrap_err().kind(), ErrorKind::Corruption);
    // A link of the entry that leads nowhere, and one behind the end of a row's links: walks read them all.
    let entry = layout.section(format::INLINE_ENTRY).unwrap();
    let nowhere = lie(format::INLINE_ENTRY, entry.stride - 4 * 128, &1_105u32.to_le_bytes());
    assert_eq!(open_bytes(&nowhere).unwrap_err().kind(), ErrorKind::Corruption);
    let hidden = lie(format::INLINE_ROWS, rows.stride - 4, &99_999_999u32.to_le_bytes());
    assert_eq!(open_bytes(&hidden).unwrap_err().kind(), ErrorKind::Corruption);
    // Numbers that are none, in the space and in the rows.
    for (at, number) in
        [(8, f32::NAN), (8, 0.0), (8, -1.0), (8, f32::INFINITY), (12, f32::NAN), (16, f32::INFINITY)]
    {
        let forged = lie(format::INLINE_SPACE, at, &number.to_le_bytes());
        assert_eq!(open_bytes(&forged).unwrap_err().kind(), ErrorKind::Corruption);
    }
    for half in [0x7c00u16, 0xfc00, 0x7e00] {
        let everywhere: Vec<u8> = half.to_le_bytes().repeat(ids_at as usize / 2);
        let forged = lie(format::INLINE_ROWS, 0, &everywhere);
        let made = made.with_bytes(&forged);
        let segment =
            SealedSegment::open_alone(&made.vfs, &file(), SegmentId(1), forged.len() as u64, Residency::Heap)
                .unwrap();
        let hits =
            segment.search(&made.rows.rows[9].vector, &options(5, 50), &mut Scratch::default()).unwrap();
        assert_eq!(hits.len(), 5);
    }
    // One of the two sections alone, or of another shape.
    let without =
        reseal(&good, |footer| footer.sections.retain(|section| section.id != format::INLINE_SPACE));
    assert_eq!(open_bytes(&without).unwrap_err().kind(), ErrorKind::Corruption);
    let halved = reseal(&good, |footer| {
        for section in footer.sections.iter_mut().filter(|section| section.id == format::INLINE_ROWS) {
            section.stride /= 2;
            section.count *= 2;
        }
    });
    assert_eq!(open_bytes(&halved).unwrap_err().kind(), ErrorKind::Corruption);
}
