//! Choosing a row's neighbours among candidates, on codes or in half precision.
//!
//! The heuristic of the graph (Malkov and Yashunin, arXiv 1603.09320), a little looser: a candidate gives way to a
//! chosen neighbour only if that is nearer to it by [`LOOSER`] (Subramanya et al., DiskANN, NeurIPS 2019, call it
//! alpha).
//!
//! It costs a distance for each candidate and chosen neighbour, until one is found to which the candidate gives way. Two
//! things spare some: the farthest of many candidates can be left out ([`Choice::keep_nearest`]), and those that were chosen
//! together once are not compared with each other again ([`Choice::measure_again`]).

use super::codes::Near;
use crate::graph::{FlatLevel, mix};
use crate::topk::Visited;

/// Of squared distances.
const LOOSER: f32 = 1.1;
/// A row that so many others chose has enough to choose from.
pub(super) const BACK_MAX: usize = 512;
/// So many of the nearest candidates are enough, or twice as many as there are places if that is more.
const LOOKED_AT: usize = 64;
/// How many candidates ahead of the one that is looked at are asked for.
const AHEAD: usize = 4;

/// The candidates of one row, and what choosing among them needs.
#[derive(Default)]
pub(super) struct Choice {
    /// The row's numbers, widened.
    pub(super) base: Vec<f32>,
    row: u32,
    known: Visited,
    /// Distinct.
    candidates: Vec<Candidate>,
    candidate: Vec<f32>,
    fresh: Vec<u32>,
    distances: Vec<f32>,
    /// Those of the chosen ones that were not chosen before.
    new: Vec<u32>,
    passed: Vec<u32>,
}

/// A row that may become a neighbour.
#[derive(Clone, Copy)]
struct Candidate {
    /// The bits of its distance, which ascend as that does, above a hash. That puts equals in an order that differs from row to
    /// row: all rows of one place would choose the same ones.
    key: u64,
    row: u32,
    /// Whether it was chosen before, together with all others of which this is so.
    again: bool,
}

impl Candidate {
    fn distance(self) -> f32 {
        f32::from_bits((self.key >> 32) as u32)
    }
}

impl Choice {
    /// No candidates yet for a row, of so many.
    pub(super) fn begin(&mut self, row: u32, rows: u32, near: Near<'_>) {
        near.halves.widened(row, &mut self.base);
        self.row = row;
        self.candidates.clear();
        self.known.reset(rows as usize);
        self.known.insert(row);
    }

    /// One more candidate, whose distance is known.
    pub(super) fn add(&mut self, other: u32, distance: f32) {
        if self.known.insert(other) {
            self.push(other, distance, false);
        }
    }

    /// More candidates.
    pub(super) fn measure(&mut self, others: &[u32], near: Near<'_>) {
        self.measure_all(others, false, near);
    }

    /// As [`Choice::measure`], of what one choice chose for this row before.
    pub(super) fn measure_again(&mut self, chosen: &[u32], near: Near<'_>) {
        self.measure_all(chosen, true, near);
    }

    fn measure_all(&mut self, others: &[u32], again: bool, near: Near<'_>) {
        self.fresh.clear();
        self.fresh.extend(others.iter().filter(|&&other| self.known.insert(other)));
        near.measure(self.row, &self.base, &self.fresh, &mut self.distances);
        for at in 0..self.fresh.len() {
            self.push(self.fresh[at], self.distances[at], again);
        }
    }

    fn push(&mut self, other: u32, distance: f32, again: bool) {
        let key = u64::from(distance.to_bits()) << 32 | u64::from(mix(self.row, other));
        self.candidates.push(Candidate { key, row: other, again });
    }

    /// Leaves out what is far, for a row with so many places: the others would be looked at last and seldom be chosen. (Not for
    /// rows of which some are wanted because they are far.)
    pub(super) fn keep_nearest(&mut self, places: usize) {
        let most = LOOKED_AT.max(2 * places);
        if self.candidates.len() > most {
            self.candidates.select_nth_unstable_by_key(most - 1, |candidate| candidate.key);
            self.candidates.truncate(most);
        }
    }

    /// Fills a list from the candidates; unused places come last.
    pub(super) fn choose(&mut self, near: Near<'_>, fill: bool, out: &mut [u32]) {
        self.candidates.sort_unstable_by_key(|candidate| candidate.key);
        self.new.clear();
        self.passed.clear();
        let mut used = 0;
        for (at, candidate) in self.candidates.iter().enumerate() {
            if used == out.len() {
                break;
            }
            if let Some(later) = self.candidates.get(at + AHEAD) {
                near.prefetch(later.row);
            }
            let rivals = if candidate.again { &self.new } else { &out[..used] };
            let bound = candidate.distance() / LOOSER;
            if !rivals.is_empty() && near.any_nearer(candidate.row, rivals, bound, &mut self.candidate) {
                self.passed.push(candidate.row);
                continue;
            }
            if !candidate.again {
                self.new.push(candidate.row);
            }
            out[used] = candidate.row;
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

    /// Those that link to a row, so many at most.
    pub(super) fn to(&self, row: u32, most: usize) -> &[u32] {
        self.to_one_of(row, row, most)
    }

    /// The same, for one of many who ask: of too many, not the same ones for all. (Otherwise a crowd of equal rows would choose
    /// the few that come first, and nobody the others.)
    pub(super) fn to_one_of(&self, row: u32, who: u32, most: usize) -> &[u32] {
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before as usize]) as usize;
        let all = &self.from[start..self.ends[row as usize] as usize];
        let from = match all.len().checked_sub(most) {
            None | Some(0) => 0,
            Some(spare) => mix(row, who) as usize % (spare + 1),
        };
        &all[from..][..all.len().min(most)]
    }
}

#[cfg(test)]
mod tests {
    use super::super::codes::Codes;
    use super::super::halves::HalvesMemory;
    use super::*;
    use half::f16;
    use nearstone_base::random::SplitMix64;

    const ROWS: u32 = 300;

    fn rows() -> HalvesMemory {
        let mut rng = SplitMix64::new(8);
        let mut memory = HalvesMemory::new(ROWS as usize, 64).unwrap();
        memory.numbers_mut().fill_with(|| f16::from_f64(rng.unit_f64() - 0.5));
        memory
    }

    fn choose(near: Near<'_>, row: u32, again: &[u32], others: &[u32], fill: bool) -> Vec<u32> {
        let (mut choice, mut out) = (Choice::default(), vec![u32::MAX; 24]);
        choice.begin(row, ROWS, near);
        choice.measure_again(again, near);
        choice.measure(others, near);
        choice.keep_nearest(out.len());
        choice.choose(near, fill, &mut out);
        out.retain(|&other| other != u32::MAX);
        out
    }

    #[test]
    fn what_was_chosen_together_is_chosen_as_if_it_were_compared_again() {
        let memory = rows();
        let near = Near::halves(memory.halves());
        let mut kept = 0;
        for row in 0..100 {
            let (some, others): (Vec<u32>, Vec<u32>) =
                (0..60).map(|i| (row * 7 + i * 5) % ROWS).partition(|i| i % 2 == 0);
            let chosen = choose(near, row, &[], &some, false);
            for fill in [false, true] {
                let spared = choose(near, row, &chosen, &others, fill);
                assert_eq!(spared, choose(near, row, &[], &[&chosen[..], &others].concat(), fill));
                kept += chosen.iter().filter(|other| spared.contains(other)).count();
            }
        }
        assert!(kept > 1_000, "{kept}");
    }

    #[test]
    fn on_codes_nearly_the_same_are_chosen() {
        let memory = rows();
        let halves = memory.halves();
        let codes = Codes::new(halves, 2, &|| false).unwrap().unwrap();
        let all: Vec<u32> = (0..ROWS).collect();
        let links = (0..ROWS).flat_map(|row| choose(Near::halves(halves), row, &[], &all, true)).collect();
        let ground = FlatLevel { rows: ROWS, stride: 24, links };
        let (mut same, mut chosen) = (0, 0);
        for row in 0..ROWS {
            let right = choose(Near::halves(halves), row, &[], &all, false);
            let found = choose(Near::along(&ground, halves, Some(&codes)), row, &[], &all, false);
            same += found.iter().filter(|other| right.contains(other)).count();
            chosen += right.len();
        }
        assert!(same < chosen && same * 20 > chosen * 19, "{same} of {chosen}");
    }

    #[test]
    fn rows_that_codes_cannot_tell_apart_are_chosen_in_half_precision() {
        let mut memory = HalvesMemory::new(ROWS as usize, 64).unwrap();
        // All but the last number are the same, so that rows differ by less than a step of their codes.
        for (row, numbers) in (0u16..).zip(memory.numbers_mut().chunks_exact_mut(64)) {
            numbers.fill(f16::from_f32(1.0));
            numbers[63] = f16::from_f32(f32::from(row * 37 % ROWS as u16) / 2048.0);
        }
        let halves = memory.halves();
        let codes = Codes::new(halves, 1, &|| false).unwrap().unwrap();
        let all: Vec<u32> = (0..ROWS).collect();
        let links = (0..ROWS).flat_map(|row| choose(Near::halves(halves), row, &[], &all, true)).collect();
        let ground = FlatLevel { rows: ROWS, stride: 24, links };
        for row in 0..ROWS {
            let right = choose(Near::halves(halves), row, &[], &all, true);
            assert_eq!(choose(Near::along(&ground, halves, Some(&codes)), row, &[], &all, true), right);
        }
    }

    #[test]
    fn the_nearest_are_looked_at_in_order_and_no_neighbour_hides_another() {
        let memory = rows();
        let halves = memory.halves();
        let square = |a: u32, b: u32| -> f32 {
            halves.one(a).iter().zip(halves.one(b)).map(|(a, b)| (a.to_f32() - b.to_f32()).powi(2)).sum()
        };
        let all: Vec<u32> = (0..ROWS).collect();
        for row in 0..ROWS {
            let chosen = choose(Near::halves(halves), row, &[], &all, false);
            assert!(!chosen.is_empty() && !chosen.contains(&row));
            let mut near: Vec<u32> = all.iter().copied().filter(|&other| other != row).collect();
            near.sort_by(|&a, &b| square(row, a).total_cmp(&square(row, b)));
            assert!(chosen.iter().all(|other| near[..LOOKED_AT].contains(other)));
            for (place, &other) in chosen.iter().enumerate() {
                let far = square(row, other);
                assert!(chosen[..place].iter().all(|&nearer| square(row, nearer) <= far * 1.0001));
                assert!(chosen[..place].iter().all(|&nearer| square(nearer, other) * LOOSER >= far * 0.9999));
            }
            let filled = choose(Near::halves(halves), row, &[], &all, true);
            assert!(filled.len() == 24 && filled.starts_with(&chosen));
        }
    }
}
