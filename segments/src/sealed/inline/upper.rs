//! The levels above the ground of a joined segment: one row in `m`, linked from nothing.
//!
//! Only walks with a filter, with a very wide beam, or towards rows that nothing leads to descend over them, greedily, so
//! a narrow beam builds them well enough.

use super::halves::Halves;
use super::join::Join;
use crate::graph::{FlatLevel, Graph, Links, NO_LINK, VectorSource};
use crate::sealed::share::share;
use crate::topk::Scratch;
use nearstone_base::{Result, Schema};
use nearstone_kernels::kernels;

/// The beam of an insertion.
const BEAM: usize = 64;
/// Rows that a thread takes at a time.
const PIECE: usize = 32;

/// From level 1 up.
pub(super) fn upper(
    join: &Join<'_>,
    schema: &Schema,
    halves: Halves<'_>,
    threads: usize,
    cancel: &dyn Fn() -> bool,
) -> Result<Vec<FlatLevel>> {
    let members = join.members();
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
