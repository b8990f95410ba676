//! What a beam search keeps: the best rows seen, and which of them wait to be expanded.
//!
//! A row that leaves the best is farther than all of them, so it would never be expanded: among rows that may be
//! results, those that wait are simply those of the best that are not expanded yet. Rows that may not be results are
//! walked through, and wait in a heap of their own.
//!
//! The best lie in one sorted array. To insert is to shift what is behind, for a beam of hundreds a copy of a few
//! cache lines, and the next row to expand is found by a cursor. Beside two heaps, one with the worst and one with the
//! nearest on top, linking 15,000 rows was 10 percent faster. From [`SORTED_MAX`] on the copies get long, and there are
//! two heaps.

use crate::topk::{Candidate, Nearest, Open};

/// The widest beam that is kept in a sorted array.
const SORTED_MAX: usize = 1024;

/// The state of one beam search; kept between searches for its memory.
#[derive(Clone, Default, Debug)]
pub(crate) struct Frontier {
    sorted: Sorted,
    /// The best, for wide beams.
    nearest: Nearest,
    /// What waits beside those of the best that `sorted` knows of.
    open: Open,
    wide: bool,
}

impl Frontier {
    /// Empties it for a beam of `ef`.
    pub(crate) fn reset(&mut self, ef: usize) {
        self.wide = ef > SORTED_MAX;
        self.nearest.reset(if self.wide { ef } else { 0 });
        self.sorted.reset(if self.wide { 0 } else { ef });
        self.open.clear();
    }

    /// Whether a row may lead to a result: it is nearer than the worst of a full beam.
    #[inline]
    pub(crate) fn admits(&self, candidate: Candidate) -> bool {
        if self.wide { self.nearest.admits(candidate) } else { self.sorted.admits(candidate.key()) }
    }

    /// Takes a row that was admitted; `accepted` when it may be a result.
    #[inline]
    pub(crate) fn push(&mut self, candidate: Candidate, accepted: bool) {
        if accepted && !self.wide {
            return self.sorted.push(candidate.key());
        }
        self.open.push(candidate);
        if accepted {
            self.nearest.push(candidate);
        }
    }

    /// The nearest row that waits.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<Candidate> {
        let best = self.sorted.peek().map(Candidate::from_key);
        match (best, self.open.peek()) {
            (Some(best), Some(open)) => Some(best.min(open)),
            (best, open) => best.or(open),
        }
    }

    /// Takes the nearest row that waits; `None` when no row nearer than the worst of a full beam does.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Candidate> {
        let next = self.peek()?;
        if self.sorted.peek() == Some(next.key()) {
            self.sorted.expand();
            return Some(next);
        }
        self.open.pop();
        self.admits_again(next).then_some(next)
    }

    /// Whether a row that waited, and may be the worst of the best itself, may still lead to a result.
    fn admits_again(&self, next: Candidate) -> bool {
        if self.wide {
            return !self.nearest.is_full() || self.nearest.worst().is_some_and(|worst| next <= worst);
        }
        self.sorted.admits(next.key())
    }

    /// Appends the best to `out`, nearest first.
    pub(crate) fn drain_sorted(&mut self, out: &mut Vec<Candidate>) {
        if self.wide {
            return self.nearest.drain_sorted(out);
        }
        out.extend(self.sorted.keys.drain(..).map(Candidate::from_key));
    }
}

/// The best in ascending order.
#[derive(Clone, Default, Debug)]
struct Sorted {
    keys: Vec<u64>,
    /// Whether each was expanded.
    expanded: Vec<bool>,
    /// All before were.
    cursor: usize,
    limit: usize,
}

impl Sorted {
    fn reset(&mut self, limit: usize) {
        self.keys.clear();
        self.expanded.clear();
        self.cursor = 0;
        self.limit = limit;
    }

    #[inline]
    fn admits(&self, key: u64) -> bool {
        self.keys.len() < self.limit || self.keys.last().is_some_and(|&worst| key < worst)
    }

    /// The key must be admitted.
    fn push(&mut self, key: u64) {
        let place = self.keys.partition_point(|&other| other < key);
        if self.keys.len() < self.limit {
            self.keys.push(key);
            self.expanded.push(false);
        }
        let last = self.keys.len() - 1;
        self.keys.copy_within(place..last, place + 1);
        self.keys[place] = key;
        self.expanded.copy_within(place..last, place + 1);
        self.expanded[place] = false;
        self.cursor = self.cursor.min(place);
    }

    #[inline]
    fn peek(&mut self) -> Option<u64> {
        while self.expanded.get(self.cursor) == Some(&true) {
            self.cursor += 1;
        }
        self.keys.get(self.cursor).copied()
    }

    /// Marks what [`Sorted::peek`] gave.
    fn expand(&mut self) {
        self.expanded[self.cursor] = true;
        self.cursor += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a beam does with rows that come in groups: after each group the nearest is taken.
    fn run(ef: usize, wide: bool, groups: &[Vec<(i8, bool)>]) -> (Vec<Candidate>, Vec<Candidate>) {
        let mut frontier = Frontier::default();
        frontier.reset(ef);
        if wide {
            frontier.wide = true;
            frontier.nearest.reset(ef);
        }
        let (mut taken, mut ordinal) = (Vec::new(), 0);
        for group in groups {
            for &(distance, accepted) in group {
                let candidate = Candidate::new(distance.into(), ordinal);
                ordinal += 1;
                if frontier.admits(candidate) {
                    frontier.push(candidate, accepted);
                }
            }
            let Some(next) = frontier.pop() else { break };
            taken.push(next);
        }
        let mut best = Vec::new();
        frontier.drain_sorted(&mut best);
        (taken, best)
    }

    proptest! {
        #[test]
        fn an_array_and_heaps_keep_and_give_the_same(
            groups in prop::collection::vec(prop::collection::vec((-20i8..20, prop::bool::weighted(0.8)), 0..6), 1..40),
            ef in 1usize..12,
        ) {
            let (array, heaps) = (run(ef, false, &groups), run(ef, true, &groups));
            prop_assert_eq!(&array, &heaps);
            prop_assert!(array.1.is_sorted() && array.1.len() <= ef);
        }
    }
}
