//! What a store goes through that is never left in peace: which keys are put again with other vectors, deleted and made
//! in each round. The same for every library and at every run.
//!
//! Four fifths of the vectors are held under keys, the rest wait in a pool. A round replaces a tenth of the rows (the key
//! stays, its vector becomes one of the pool), deletes a fiftieth and makes as many under keys that never were. What a
//! round lets go waits at the end of the pool, so that a vector is away for some rounds before it comes back, and none
//! is ever held twice: the true neighbours of a query are always different rows.

use nearstone::random::SplitMix64;
use std::collections::VecDeque;

const SEED: u64 = 7;
/// One in so many vectors waits in the pool at first.
const POOL: usize = 5;
/// One in so many rows is replaced, and one in so many deleted, per round.
const REPLACED: usize = 10;
const DELETED: usize = 50;

/// Fewer rows have no fiftieth.
pub(crate) const ROWS_MIN: usize = DELETED * POOL;

/// Who holds which vector.
pub(crate) struct Script {
    held: Vec<(u64, usize)>,
    pool: VecDeque<usize>,
    next_key: u64,
    random: SplitMix64,
}

/// What is done in one round, in this order.
#[derive(Default, Debug)]
pub(crate) struct Round {
    /// Keys that stay, and the vectors that they get.
    pub(crate) replaced: Vec<(u64, usize)>,
    pub(crate) deleted: Vec<u64>,
    /// New keys, and their vectors.
    pub(crate) inserted: Vec<(u64, usize)>,
}

impl Script {
    /// Over vectors `0..rows`, at least [`ROWS_MIN`].
    pub(crate) fn new(rows: usize) -> Script {
        assert!(rows >= ROWS_MIN, "{rows} rows are fewer than {ROWS_MIN}");
        let held = rows - rows / POOL;
        Script {
            held: (0..held).map(|row| (row as u64, row)).collect(),
            pool: (held..rows).collect(),
            next_key: held as u64,
            random: SplitMix64::new(SEED),
        }
    }

    /// Live keys and the vectors that they have.
    pub(crate) fn held(&self) -> &[(u64, usize)] {
        &self.held
    }

    pub(crate) fn round(&mut self) -> Round {
        let (replaced, deleted) = (self.held.len() / REPLACED, self.held.len() / DELETED);
        let mut round = Round::default();
        let mut released = Vec::new();
        for place in 0..replaced + deleted {
            // The first places are a fair choice without repetition.
            let other = place + self.random.below((self.held.len() - place) as u64) as usize;
            self.held.swap(place, other);
            let fresh = self.pool.pop_front().expect("a pool holds more than a round takes");
            let (key, vector) = &mut self.held[place];
            released.push(std::mem::replace(vector, fresh));
            if place < replaced {
                round.replaced.push((*key, fresh));
            } else {
                round.deleted.push(std::mem::replace(key, self.next_key));
                round.inserted.push((self.next_key, fresh));
                self.next_key += 1;
            }
        }
        self.pool.extend(released);
        round
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    #[test]
    fn a_round_says_all_that_changed_and_no_vector_is_held_twice() {
        let mut script = Script::new(1000);
        let mut rows: HashMap<u64, usize> = script.held().iter().copied().collect();
        assert_eq!(rows.len(), 800);
        let mut ever: HashSet<u64> = rows.keys().copied().collect();
        for _ in 0..100 {
            let before = rows.clone();
            let round = script.round();
            assert_eq!((round.replaced.len(), round.deleted.len(), round.inserted.len()), (80, 16, 16));
            for (key, vector) in &round.replaced {
                let old = rows.insert(*key, *vector).expect("a key that stays was there");
                assert!(old != *vector && !round.deleted.contains(key));
            }
            for key in &round.deleted {
                rows.remove(key).expect("what is deleted was there");
            }
            for (key, vector) in &round.inserted {
                assert!(ever.insert(*key), "the key {key} was there before");
                rows.insert(*key, *vector);
            }
            assert_eq!(rows, script.held().iter().copied().collect::<HashMap<_, _>>());
            let vectors: HashSet<usize> = rows.values().copied().collect();
            assert_eq!(vectors.len(), 800, "a vector is held twice");
            let old: HashSet<usize> = before.values().copied().collect();
            assert_eq!(vectors.difference(&old).count(), 96, "vectors come from the pool");
        }
    }

    #[test]
    fn two_scripts_of_one_size_are_the_same() {
        let (mut one, mut other) = (Script::new(500), Script::new(500));
        for _ in 0..5 {
            assert_eq!(one.round().replaced, other.round().replaced);
        }
    }

    #[test]
    fn the_smallest_script_deletes_something() {
        assert!(!Script::new(ROWS_MIN).round().deleted.is_empty());
    }
}
