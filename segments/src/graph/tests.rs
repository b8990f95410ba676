//! The finished graph under hard conditions: rows that were never linked, equal rows, most rows dropped.

use super::*;
use crate::topk::Scratch;
use proptest::prelude::*;

/// Points in the plane.
struct Plane(Vec<[f32; 2]>);

impl VectorSource for Plane {
    fn distance(&self, a: u32, b: u32) -> Result<f32> {
        let (a, b) = (self.0[a as usize], self.0[b as usize]);
        Ok((a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2))
    }

    fn distances(&self, a: u32, others: &[u32], out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        for &b in others {
            out.push(self.distance(a, b)?);
        }
        Ok(())
    }
}

fn build(plane: &Plane, rows: u32, m: usize) -> Graph {
    let graph = Graph::new(m, 24);
    let mut scratch = Scratch::default();
    graph.ensure_room(rows);
    for row in 0..rows {
        graph.insert(row, level_for(row, 1, m), plane, &mut scratch).unwrap();
    }
    graph
}

#[test]
fn rows_that_were_never_linked_are_attached() {
    let plane = Plane((0..400).map(|i| [(i % 20) as f32, (i / 20) as f32]).collect());
    let graph = build(&plane, 300, 4);
    let (order, flat) = flatten(&graph, 400, |_| true, &plane).unwrap();
    assert_eq!(order.len(), 400);
    check(&flat).unwrap();
    let (order, flat) = flatten(&Graph::new(4, 8), 50, |_| true, &plane).unwrap();
    assert_eq!((order.len(), flat.levels.len()), (50, 1));
    check(&flat).unwrap();
}

#[test]
fn nothing_kept_is_an_empty_graph() {
    let plane = Plane(vec![[0.0; 2]; 5]);
    let graph = build(&plane, 5, 4);
    let (order, flat) = flatten(&graph, 5, |_| false, &plane).unwrap();
    assert!(order.is_empty() && flat.levels.is_empty() && flat.entry().is_none());
    check(&flat).unwrap();
}

#[test]
fn an_entry_that_is_kept_is_row_zero() {
    let plane = Plane((0..500).map(|i| [(i * 37 % 101) as f32, (i % 13) as f32]).collect());
    let graph = build(&plane, 500, 4);
    let (entry, level) = graph.entry().unwrap();
    let (order, flat) = flatten(&graph, 500, |_| true, &plane).unwrap();
    assert_eq!((order[0], flat.entry()), (entry, Some((0, level))));
    let (order, flat) = flatten(&graph, 500, |row| row != entry, &plane).unwrap();
    assert!(!order.contains(&entry));
    check(&flat).unwrap();
}

#[test]
fn a_source_that_fails_fails_the_insertion() {
    struct Damaged;
    impl VectorSource for Damaged {
        fn distance(&self, _: u32, _: u32) -> Result<f32> {
            Err(nearstone_base::Error::corruption("a.seg", 5, "a row", "noise"))
        }
        fn distances(&self, a: u32, _: &[u32], _: &mut Vec<f32>) -> Result<()> {
            self.distance(a, a).map(drop)
        }
    }
    let graph = Graph::new(4, 8);
    graph.ensure_room(2);
    let mut scratch = Scratch::default();
    graph.insert(0, 0, &Damaged, &mut scratch).unwrap();
    assert!(graph.insert(1, 2, &Damaged, &mut scratch).is_err());
    assert_eq!(graph.entry(), Some((0, 0)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Few distinct points, so that many are equal.
    #[test]
    fn flattened_graphs_are_always_whole(
        points in prop::collection::vec((0u8..6, 0u8..6), 1..250),
        m in 2usize..6,
        dropped in prop::collection::vec(prop::bool::weighted(0.4), 250),
        linked in 0usize..250,
    ) {
        let plane = Plane(points.iter().map(|&(x, y)| [x.into(), y.into()]).collect());
        let rows = points.len() as u32;
        let graph = build(&plane, rows.min(linked as u32), m);
        let (order, flat) = flatten(&graph, rows, |row| !dropped[row as usize], &plane).unwrap();
        let mut kept = order.clone();
        kept.sort_unstable();
        prop_assert_eq!(kept, (0..rows).filter(|&row| !dropped[row as usize]).collect::<Vec<_>>());
        prop_assert_eq!(check(&flat), Ok(()));
        prop_assert_eq!(flat.levels.first().map_or(0, |ground| ground.rows as usize), order.len());
    }
}
