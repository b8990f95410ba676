//! Exact searches of many queries against those of one, and both against distances of every row.

use super::*;
use crate::segment::asked::{Every, Lists};

#[test]
fn queries_asked_together_get_what_each_gets_alone_with_filters_deaths_and_snapshots() {
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        let made = make(&Schema::new(19, metric).m(4).ef_construction(32), 700);
        let segment = made.open();
        (0..700)
            .filter(|row| row % 5 == 0)
            .for_each(|row| assert!(segment.deaths().set(row, (500 + row % 2).into())));
        let vectors = || made.rows.rows.iter().map(|row| row.vector.as_slice());
        let queries: Vec<&[f32]> = vectors().step_by(10).collect();
        let mut scratch = Scratch::default();
        for (limit, every, at) in
            [(1, 1, 499), (10, 1, 500), (10, 3, 501), (10, 97, 501), (100, 2, 500), (1000, 1, 501)]
        {
            let accept = Every(every);
            // Whether exact is asked for, or all rows are seen because the beam is as wide.
            for (exact, ef) in [(true, 1), (false, 700)] {
                let options = SearchOptions { limit, ef, exact, at, accept: &accept };
                let mut lists = Lists(vec![Vec::new(); queries.len()]);
                segment.search_many(&queries, &options, &mut scratch, &mut lists).unwrap();
                for (query, together) in queries.iter().zip(lists.0) {
                    let seen =
                        |o: u32| accept.accept(o) && (!o.is_multiple_of(5) || u64::from(500 + o % 2) > at);
                    let expected = truth(&made.rows, query, limit, seen);
                    assert_eq!(segment.search(query, &options, &mut scratch).unwrap(), expected);
                    assert_eq!(together, expected);
                }
            }
        }
    }
}

#[test]
fn a_query_of_another_length_among_many_is_refused() {
    let made = make(&Schema::new(19, Metric::L2).m(4).ef_construction(32), 50);
    let (right, wrong) = ([1.0; 19], [1.0; 18]);
    let mut lists = Lists(vec![Vec::new(); 2]);
    let scan = SearchOptions { exact: true, ..options(1, 1) };
    let asked: [&[f32]; 2] = [&right, &wrong];
    let error = made.open().search_many(&asked, &scan, &mut Scratch::default(), &mut lists).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

/// A walk went through a thousand dead rows for each that lived, while a handful was left to look at.
#[test]
fn where_nearly_all_rows_are_dead_the_living_are_looked_at() {
    let made = make(&Schema::new(64, Metric::L2).m(8).ef_construction(32), 4_000);
    let segment = made.open();
    let lives = |row: u32| row % 50 == 7;
    (0..4_000).filter(|&row| !lives(row)).for_each(|row| assert!(segment.deaths().set(row, 500)));
    let mut scratch = Scratch::default();
    for row in (0..4_000).step_by(97) {
        let query = &made.rows.rows[row].vector;
        // So narrow that a walk would miss some.
        let hits = segment.search(query, &options(8, 8), &mut scratch).unwrap();
        assert_eq!(hits, truth(&made.rows, query, 8, lives), "row {row}");
    }
}
