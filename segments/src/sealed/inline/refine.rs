//! A better graph, found by walks over the inline rows of the one that was built.
//!
//! 1. Each row is walked to as if it were a query. What the walk expands is nearer to it than what was known when the
//!    row was inserted, and known to three digits: together with the row's links, these are its candidates.
//! 2. Of them, neighbours are chosen by the heuristic of the graph (Malkov and Yashunin, arXiv 1603.09320), a little
//!    looser: a candidate gives way to a chosen neighbour only if that is nearer to it by [`LOOSER`] (Subramanya et al.,
//!    DiskANN, NeurIPS 2019, call it alpha).
//! 3. Rows that chose a row become candidates of that row in turn, and each one chooses again; places left over go to
//!    the nearest that were passed over.
//! 4. Whatever is no longer reachable is attached.
//!
//! With 100,000 rows x 384 a walk then needs 61 expansions instead of 80 for a recall of 0.99, at 0.1 ms a row and thread.

use super::halves::Halves;
use super::share::share;
use crate::graph::{FlatGraph, FlatLevel, NO_LINK, attach_all, mix};
use crate::topk::{Scratch, Visited};
use nearstone_base::{Error, Result};
use nearstone_kernels::{InlineQuery, InlineRows, InlineScratch, InlineStart, inline_walk, kernels};

/// The beam of the walks that look for candidates.
const BEAM: usize = 96;
/// Of squared distances.
const LOOSER: f32 = 1.1;
/// Rows that a thread takes at a time.
const PIECE: usize = 256;
/// A row that so many others chose has enough to choose from.
const BACK_MAX: usize = 512;

/// The graph with another ground, of as many places.
pub(super) fn refine(
    graph: &FlatGraph,
    rows: &InlineRows<'_>,
    halves: Halves<'_>,
    threads: usize,
    cancel: &dyn Fn() -> bool,
) -> Result<FlatGraph> {
    let Some(ground) = graph.levels.first() else { return Ok(FlatGraph::default()) };
    let places = ground.stride;
    let mut chosen = vec![NO_LINK; ground.links.len()];
    share(&mut chosen, PIECE * places, threads, cancel, |place, piece, work: &mut Work| {
        for (row, out) in ((place / places) as u32..).zip(piece.chunks_exact_mut(places)) {
            work.meet(row, rows, halves)?;
            work.measure(ground.list(row), halves);
            work.choose(row, halves, false, out);
        }
        Ok(())
    })?;
    let chosen = FlatLevel { rows: ground.rows, stride: places, links: chosen };
    let back = Back::of(&chosen);
    let mut links = vec![NO_LINK; ground.links.len()];
    share(&mut links, PIECE * places, threads, cancel, |place, piece, work: &mut Work| {
        for (row, out) in ((place / places) as u32..).zip(piece.chunks_exact_mut(places)) {
            work.begin(row, ground.rows, halves);
            for others in [chosen.list(row), back.to(row), ground.list(row)] {
                work.measure(others, halves);
            }
            work.choose(row, halves, true, out);
        }
        Ok(())
    })?;
    drop((chosen, back));
    let ground = FlatLevel { rows: ground.rows, stride: places, links };
    let mut refined = FlatGraph { levels: [&[ground], &graph.levels[1..]].concat() };
    attach_all(&mut refined, &halves, &mut Scratch::default())?;
    Ok(refined)
}

/// What one thread works with.
#[derive(Default)]
struct Work {
    query: InlineQuery,
    walk: InlineScratch,
    base: Vec<f32>,
    known: Visited,
    /// Distance to the base, and row; distinct.
    candidates: Vec<(f32, u32)>,
    candidate: Vec<f32>,
    /// The vectors of those that were chosen, back to back.
    chosen: Vec<f32>,
    passed: Vec<u32>,
}

impl Work {
    fn begin(&mut self, row: u32, rows: u32, halves: Halves<'_>) {
        halves.widened(row, &mut self.base);
        self.candidates.clear();
        self.known.reset(rows as usize);
        self.known.insert(row);
    }

    /// Candidates are what a walk towards the row expands.
    fn meet(&mut self, row: u32, rows: &InlineRows<'_>, halves: Halves<'_>) -> Result<()> {
        self.begin(row, rows.count(), halves);
        self.query.prepare(kernels(), &self.base);
        let there = |_| Ok::<(), Error>(());
        inline_walk(kernels(), rows, &self.query, BEAM, InlineStart::Row(row), there, &mut self.walk)?;
        for other in self.walk.expanded() {
            if self.known.insert(other.id) {
                self.candidates.push((other.distance, other.id));
            }
        }
        Ok(())
    }

    /// More candidates.
    fn measure(&mut self, others: &[u32], halves: Halves<'_>) {
        for &other in others {
            if self.known.insert(other) {
                halves.widened(other, &mut self.candidate);
                self.candidates.push((kernels().l2(&self.base, &self.candidate), other));
            }
        }
    }

    /// Fills a list from the candidates; unused places come last.
    fn choose(&mut self, row: u32, halves: Halves<'_>, fill: bool, out: &mut [u32]) {
        // Among equals in an order that differs from row to row: all rows of one place would choose the same ones.
        self.candidates
            .sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then_with(|| mix(row, a.1).cmp(&mix(row, b.1))));
        let (kernels, dimension) = (kernels(), halves.dimension);
        self.chosen.clear();
        self.passed.clear();
        let mut used = 0;
        for &(distance, other) in &self.candidates {
            if used == out.len() {
                break;
            }
            halves.widened(other, &mut self.candidate);
            let mut neighbours = self.chosen.chunks_exact(dimension);
            if neighbours.any(|chosen| kernels.l2(&self.candidate, chosen) * LOOSER < distance) {
                self.passed.push(other);
                continue;
            }
            self.chosen.extend_from_slice(&self.candidate);
            out[used] = other;
            used += 1;
        }
        if fill {
            for (place, &other) in out[used..].iter_mut().zip(&self.passed) {
                *place = other;
            }
        }
    }
}

/// Who links to whom.
struct Back {
    ends: Vec<u32>,
    from: Vec<u32>,
}

impl Back {
    fn of(level: &FlatLevel) -> Back {
        let mut ends = vec![0; level.rows as usize + 1];
        for row in 0..level.rows {
            for &link in level.list(row) {
                ends[link as usize] += 1;
            }
        }
        let mut sum = 0;
        for end in &mut ends {
            (*end, sum) = (sum, sum + *end);
        }
        let mut from = vec![0; sum as usize];
        for row in 0..level.rows {
            for &link in level.list(row) {
                let place = &mut ends[link as usize];
                from[*place as usize] = row;
                *place += 1;
            }
        }
        Back { ends, from }
    }

    fn to(&self, row: u32) -> &[u32] {
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before as usize]) as usize;
        let all = &self.from[start..self.ends[row as usize] as usize];
        &all[..all.len().min(BACK_MAX)]
    }
}
