//! The small machinery of a search: candidates in total order, the bounded heap of results, the heap of open
//! candidates, the marks of visited rows, and the scratch memory that holds all of them.
//!
//! A [`Candidate`] is ordered by distance, then by ordinal, so that equal distances give the same answer on every
//! run. The heaps hold each candidate as one integer whose order is the candidate's order: a comparison is one
//! instruction, and NaN, which no valid vector produces, sorts last instead of doing harm.
//!
//! A [`Scratch`] belongs to one search at a time and is kept by the caller between searches: once it has grown to
//! the size of the segment, a search allocates its hits, and one of several segments at once a few lists as long as there are
//! segments.

use crate::graph::Frontier;
use crate::sealed::{InlineWork, Room};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// A row and how far it is.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// The distance; smaller is nearer.
    pub distance: f32,
    /// The row in its segment.
    pub ordinal: u32,
}

impl Candidate {
    /// A row and its distance.
    pub fn new(distance: f32, ordinal: u32) -> Candidate {
        Candidate { distance, ordinal }
    }

    /// The integer that sorts as the candidate does: the distance's bits, mapped so that they ascend (sign bit
    /// flipped for positive numbers, all bits for negative ones), above the ordinal.
    pub(crate) fn key(self) -> u64 {
        let bits = self.distance.to_bits();
        let mask = ((bits as i32 >> 31) as u32) | 0x8000_0000;
        u64::from(bits ^ mask) << 32 | u64::from(self.ordinal)
    }

    /// The inverse of [`Candidate::key`].
    pub(crate) fn from_key(key: u64) -> Candidate {
        let high = (key >> 32) as u32;
        let mask = (!(high as i32 >> 31) as u32) | 0x8000_0000;
        Candidate { distance: f32::from_bits(high ^ mask), ordinal: key as u32 }
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Candidate) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Candidate) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Candidate) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// The best candidates seen, at most as many as asked for: a max-heap whose top is the worst of them.
#[derive(Clone, Default, Debug)]
pub struct Nearest {
    heap: BinaryHeap<u64>,
    limit: usize,
}

impl Nearest {
    /// Empties it and sets how many it keeps.
    pub fn reset(&mut self, limit: usize) {
        self.heap.clear();
        self.limit = limit;
    }

    /// How many it holds.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Whether it holds as many as it may.
    pub fn is_full(&self) -> bool {
        self.heap.len() >= self.limit
    }

    /// The worst it holds.
    pub fn worst(&self) -> Option<Candidate> {
        self.heap.peek().map(|&key| Candidate::from_key(key))
    }

    /// Whether [`Nearest::push`] would keep the candidate.
    pub fn admits(&self, candidate: Candidate) -> bool {
        !self.is_full() || self.heap.peek().is_some_and(|&worst| candidate.key() < worst)
    }

    /// Keeps the candidate if it is among the best; reports whether it was kept.
    pub fn push(&mut self, candidate: Candidate) -> bool {
        let key = candidate.key();
        if self.heap.len() < self.limit {
            self.heap.push(key);
            return true;
        }
        match self.heap.peek_mut() {
            Some(mut worst) if key < *worst => {
                *worst = key;
                true
            }
            _ => false,
        }
    }

    /// Moves everything to the end of `out`, nearest first, and is empty then.
    pub fn drain_sorted(&mut self, out: &mut Vec<Candidate>) {
        let first = out.len();
        out.extend(self.heap.drain().map(Candidate::from_key));
        out[first..].sort_unstable();
    }
}

/// Candidates that wait to be expanded: a min-heap whose top is the nearest.
#[derive(Clone, Default, Debug)]
pub struct Open {
    heap: BinaryHeap<Reverse<u64>>,
}

impl Open {
    /// Empties it.
    pub fn clear(&mut self) {
        self.heap.clear();
    }

    /// Adds one.
    pub fn push(&mut self, candidate: Candidate) {
        self.heap.push(Reverse(candidate.key()));
    }

    /// Takes the nearest.
    pub fn pop(&mut self) -> Option<Candidate> {
        self.heap.pop().map(|Reverse(key)| Candidate::from_key(key))
    }

    /// The nearest.
    pub fn peek(&self) -> Option<Candidate> {
        self.heap.peek().map(|&Reverse(key)| Candidate::from_key(key))
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

/// Which rows a search has seen. A mark is the number of the search, so that forgetting all of them is one addition;
/// the array is cleared only when the 16-bit number comes round.
#[derive(Clone, Default, Debug)]
pub struct Visited {
    marks: Vec<u16>,
    epoch: u16,
}

impl Visited {
    /// Forgets all marks and makes room for ordinals below `rows` (more room is made when needed).
    pub fn reset(&mut self, rows: usize) {
        if self.marks.len() < rows {
            self.marks.resize(rows, 0);
        }
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            self.marks.fill(0);
            self.epoch = 1;
        }
    }

    /// Marks a row; `true` when it was not marked.
    pub fn insert(&mut self, ordinal: u32) -> bool {
        let index = ordinal as usize;
        if index >= self.marks.len() {
            self.grow(index);
        }
        let mark = &mut self.marks[index];
        let new = *mark != self.epoch;
        *mark = self.epoch;
        new
    }

    /// Whether a row is marked.
    pub fn contains(&self, ordinal: u32) -> bool {
        self.epoch != 0 && self.marks.get(ordinal as usize) == Some(&self.epoch)
    }

    /// Room for ordinals below this.
    pub fn room(&self) -> usize {
        self.marks.len()
    }

    #[cold]
    fn grow(&mut self, index: usize) {
        self.marks.resize((index + 1).next_power_of_two().max(1024), 0);
    }
}

/// All memory a search or an insertion needs; one per thread, kept between searches. What the fields hold between
/// two calls means nothing.
#[derive(Clone, Default, Debug)]
pub struct Scratch {
    /// The state of a beam.
    pub(crate) frontier: Frontier,
    /// The results of a scan.
    pub(crate) nearest: Nearest,
    /// Rows seen.
    pub(crate) visited: Visited,
    /// The links of one node.
    pub(crate) links: Vec<u32>,
    /// Those of them that were not visited.
    pub(crate) batch: Vec<u32>,
    /// The same of the node that is expanded next.
    pub(crate) ahead: Vec<u32>,
    /// Their distances.
    pub(crate) distances: Vec<f32>,
    /// What a walk found; for the callers of `walk` to take and give back.
    pub(crate) found: Vec<Candidate>,
    /// All that a walk over coarse codes measured.
    pub(crate) seen: Vec<Candidate>,
    /// Candidates of a neighbour selection.
    pub(crate) candidates: Vec<Candidate>,
    /// Neighbours chosen by it.
    pub(crate) selected: Vec<Candidate>,
    /// Candidates it put aside.
    pub(crate) pruned: Vec<Candidate>,
    /// What a walk over inline rows needs.
    pub(crate) inline: InlineWork,
    /// Where vectors are read to.
    pub(crate) room: Room,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_order_as_distances_do_and_come_back() {
        let distances = [f32::NEG_INFINITY, -1e30, -1.0, -0.0, 0.0, 1e-40, 0.5, 2.0, f32::INFINITY, f32::NAN];
        let keys: Vec<u64> = distances.iter().map(|&d| Candidate::new(d, 7).key()).collect();
        assert!(keys.is_sorted());
        for &d in &distances {
            let back = Candidate::from_key(Candidate::new(d, u32::MAX).key());
            assert_eq!((back.distance.to_bits(), back.ordinal), (d.to_bits(), u32::MAX));
        }
        assert!(Candidate::new(1.0, 2) < Candidate::new(1.0, 3));
    }

    #[test]
    fn marks_survive_the_end_of_the_numbers() {
        let mut visited = Visited::default();
        assert!(!visited.contains(0));
        for _ in 0..70_000 {
            visited.reset(4);
            assert!(visited.insert(3));
            assert!(!visited.insert(3));
            assert!(!visited.contains(2));
        }
        assert!(visited.insert(5_000));
        assert!(visited.contains(5_000) && !visited.contains(4_999));
    }

    #[test]
    fn nothing_is_kept_by_a_limit_of_zero() {
        let mut nearest = Nearest::default();
        nearest.reset(0);
        assert!(nearest.is_full() && !nearest.push(Candidate::new(0.0, 1)) && nearest.is_empty());
    }

    #[test]
    fn scratch_can_move_to_another_thread() {
        fn send<T: Send>() {}
        send::<Scratch>();
    }

    proptest! {
        #[test]
        fn nearest_keeps_what_sorting_keeps(
            distances in prop::collection::vec(-3i8..3, 0..40), limit in 0usize..12,
        ) {
            let all: Vec<Candidate> =
                distances.iter().enumerate().map(|(i, &d)| Candidate::new(d.into(), i as u32)).collect();
            let mut nearest = Nearest::default();
            let mut open = Open::default();
            nearest.reset(limit);
            for &candidate in &all {
                let admitted = nearest.admits(candidate);
                prop_assert_eq!(nearest.push(candidate), admitted && limit > 0);
                open.push(candidate);
            }
            let mut sorted = all;
            sorted.sort();
            let mut kept = Vec::new();
            nearest.drain_sorted(&mut kept);
            prop_assert_eq!(&kept[..], &sorted[..limit.min(sorted.len())]);
            for candidate in sorted {
                prop_assert_eq!(open.pop(), Some(candidate));
            }
            prop_assert!(open.is_empty());
        }
    }
}
