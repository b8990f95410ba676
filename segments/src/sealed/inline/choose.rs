//! Choosing a row's neighbours among candidates, in half precision.
//!
//! The heuristic of the graph (Malkov and Yashunin, arXiv 1603.09320), a little looser: a candidate gives way to a
//! chosen neighbour only if that is nearer to it by [`LOOSER`] (Subramanya et al., DiskANN, NeurIPS 2019, call it
//! alpha).

use super::halves::Halves;
use crate::graph::{FlatLevel, mix};
use crate::topk::Visited;
use nearstone_kernels::kernels;

/// Of squared distances.
const LOOSER: f32 = 1.1;
/// A row that so many others chose has enough to choose from.
const BACK_MAX: usize = 512;

/// The candidates of one row, and what choosing among them needs.
#[derive(Default)]
pub(super) struct Choice {
    /// The row's numbers, widened.
    pub(super) base: Vec<f32>,
    known: Visited,
    /// Distance to the base, and row; distinct.
    candidates: Vec<(f32, u32)>,
    candidate: Vec<f32>,
    /// The vectors of those that were chosen, back to back.
    chosen: Vec<f32>,
    passed: Vec<u32>,
}

impl Choice {
    /// No candidates yet for a row, of so many.
    pub(super) fn begin(&mut self, row: u32, rows: u32, halves: Halves<'_>) {
        halves.widened(row, &mut self.base);
        self.candidates.clear();
        self.known.reset(rows as usize);
        self.known.insert(row);
    }

    /// One more candidate, whose distance is known.
    pub(super) fn add(&mut self, other: u32, distance: f32) {
        if self.known.insert(other) {
            self.candidates.push((distance, other));
        }
    }

    /// More candidates.
    pub(super) fn measure(&mut self, others: &[u32], halves: Halves<'_>) {
        for &other in others {
            if self.known.insert(other) {
                halves.widened(other, &mut self.candidate);
                self.candidates.push((kernels().l2(&self.base, &self.candidate), other));
            }
        }
    }

    /// Fills a list from the candidates; unused places come last.
    pub(super) fn choose(&mut self, row: u32, halves: Halves<'_>, fill: bool, out: &mut [u32]) {
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
pub(super) struct Back {
    ends: Vec<u32>,
    from: Vec<u32>,
}

impl Back {
    /// Counts the links for which `counts` says so of both ends.
    pub(super) fn of(level: &FlatLevel, counts: impl Fn(u32, u32) -> bool) -> Back {
        let mut ends = vec![0; level.rows as usize + 1];
        for row in 0..level.rows {
            for &link in level.list(row).iter().filter(|&&link| counts(row, link)) {
                ends[link as usize] += 1;
            }
        }
        let mut sum = 0;
        for end in &mut ends {
            (*end, sum) = (sum, sum + *end);
        }
        let mut from = vec![0; sum as usize];
        for row in 0..level.rows {
            for &link in level.list(row).iter().filter(|&&link| counts(row, link)) {
                let place = &mut ends[link as usize];
                from[*place as usize] = row;
                *place += 1;
            }
        }
        Back { ends, from }
    }

    pub(super) fn to(&self, row: u32) -> &[u32] {
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before as usize]) as usize;
        let all = &self.from[start..self.ends[row as usize] as usize];
        &all[..all.len().min(BACK_MAX)]
    }
}
