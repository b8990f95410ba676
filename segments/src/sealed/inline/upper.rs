//! The levels above the ground of a segment that is joined or built in batches: one row in `m`, linked from nothing.
//!
//! Only walks with a filter, with a very wide beam, or towards rows that nothing leads to descend over them, greedily, so
//! a narrow beam builds them well enough.

use super::halves::Halves;
use crate::graph::{FlatLevel, Graph, LEVEL_MAX, Links, NO_LINK, VectorSource, level_for, mix};
use crate::share::share;
use crate::topk::Scratch;
use nearstone_base::{Result, Schema};
use nearstone_kernels::kernels;
use std::cmp::Reverse;

/// The beam of an insertion.
const BEAM: usize = 64;
/// Rows that a thread takes at a time.
const PIECE: usize = 32;

/// Rows by descending level, and how many are on level 1, on level 2 and so on. Walks begin at the first rows: those of one level come in
/// an order of hashes, so that wherever rows come from, no part is missed.
pub(super) fn by_level(rows: u32, seed: u64, links: usize) -> (Vec<u32>, Vec<u32>) {
    let level = |row: u32| level_for(row, seed, links);
    let mut order: Vec<u32> = (0..rows).collect();
    order.sort_by_cached_key(|&row| {
        let level = level(row);
        (Reverse(level), if level > 0 { mix(seed as u32, row) } else { 0 }, row)
    });
    let upper = (1..=LEVEL_MAX).map(|wanted| order.partition_point(|&row| level(row) >= wanted) as u32);
    let upper = upper.take_while(|&rows| rows > 0).collect();
    (order, upper)
}

/// From level 1 up; `members` says how many rows are on level 1, on level 2 and so on.
pub(super) fn upper(
    members: &[u32],
    schema: &Schema,
    halves: Halves<'_>,
    threads: usize,
    cancel: &dyn Fn() -> bool,
) -> Result<Vec<FlatLevel>> {
    let Some(&rows) = members.first() else { return Ok(Vec::new()) };
    let graph = Graph::new(schema.links(), BEAM.min(schema.beam()));
    graph.ensure_room(rows);
    let vectors = Widened::new(rows, halves);
    let mut done = vec![false; rows as usize];
    share(&mut done, PIECE, threads, cancel, |place, piece, scratch: &mut Scratch| {
        for (row, done) in (place as u32..).zip(piece) {
            let level = members.partition_point(|&members| row < members);
            graph.insert_above(row, level, &vectors, scratch)?;
            *done = true;
        }
        Ok(())
    })?;
    let (mut levels, mut list) = (Vec::new(), Vec::new());
    for (level, &rows) in (1..).zip(members) {
        let stride = graph.degree(level);
        let mut links = Vec::with_capacity(rows as usize * stride);
        for row in 0..rows {
            graph.links(level, row, &mut list)?;
            links.extend_from_slice(&list);
            links.resize((row as usize + 1) * stride, NO_LINK);
        }
        levels.push(FlatLevel { rows, stride, links });
    }
    Ok(levels)
}

/// The first rows in single precision: each is measured many times.
struct Widened {
    dimension: usize,
    numbers: Vec<f32>,
}

impl Widened {
    fn new(rows: u32, halves: Halves<'_>) -> Widened {
        let (mut numbers, mut one) = (Vec::with_capacity(rows as usize * halves.dimension), Vec::new());
        for row in 0..rows {
            halves.widened(row, &mut one);
            numbers.extend_from_slice(&one);
        }
        Widened { dimension: halves.dimension, numbers }
    }

    fn one(&self, row: u32) -> &[f32] {
        &self.numbers[row as usize * self.dimension..][..self.dimension]
    }
}

impl VectorSource for Widened {
    fn distance(&self, a: u32, b: u32) -> Result<f32> {
        Ok(kernels().l2(self.one(a), self.one(b)))
    }

    fn distances(&self, a: u32, others: &[u32], out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        out.extend(others.iter().map(|&other| kernels().l2(self.one(a), self.one(other))));
        Ok(())
    }
}
