//! Keys of rows in no order: what a walk has met, and what it has expanded.
//!
//! A *key* is `distance bits << 32 | id`, so that the smaller one is the nearer one. Keys are looked at eight at a time, all of
//! them: behind the last one there are always [`NONE`]s enough for a whole register, so that nothing has to be masked.

use super::BLOCK_LINKS;
use super::backend::Backend;

/// No row: farther than everything.
pub(super) const NONE: u64 = u64::MAX >> 1;
/// Keys of one register.
pub(super) const REGISTER: usize = 8;
/// Halvings after which a cut partitions.
const CUT_STEPS: usize = 16;

pub(super) fn distance_of(key: u64) -> f32 {
    f32::from_bits((key >> 32) as u32)
}

pub(super) fn key_of(distance: f32, id: u32) -> u64 {
    u64::from(distance.to_bits()) << 32 | u64::from(id)
}

/// A list of keys. All places from `len` on hold [`NONE`], and once there was a key, there are at least [`REGISTER`] of them.
#[derive(Clone, Default, Debug)]
pub(super) struct Keys {
    places: Vec<u64>,
    len: usize,
}

impl Keys {
    /// Empty, with room for so many keys.
    pub(super) fn reset(&mut self, room: usize) {
        self.places[..self.len].fill(NONE);
        self.len = 0;
        self.reserve(room);
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The keys, and [`NONE`] up to the end of a register.
    pub(super) fn registers(&self) -> &[[u64; REGISTER]] {
        self.places[..self.len.next_multiple_of(REGISTER)].as_chunks().0
    }

    /// As [`Keys::registers`], for operations that put [`NONE`] in places.
    pub(super) fn registers_mut(&mut self) -> &mut [[u64; REGISTER]] {
        self.places[..self.len.next_multiple_of(REGISTER)].as_chunks_mut().0
    }

    pub(super) fn push(&mut self, key: u64) {
        if self.len + REGISTER >= self.places.len() {
            self.reserve(2 * self.len + REGISTER);
        }
        self.places[self.len] = key;
        self.len += 1;
    }

    /// Appends the rows of a block of the `lanes` that are not `taken`; the nearest of them.
    ///
    /// # Safety
    /// The processor has the backend's instruction set; 32 ids lie at `ids`.
    #[inline(always)]
    pub(super) unsafe fn append<B: Backend>(
        &mut self,
        distances: &[f32; BLOCK_LINKS],
        ids: *const u32,
        lanes: u32,
        taken: &[u64],
    ) -> u64 {
        assert!(self.len + BLOCK_LINKS + REGISTER <= self.places.len());
        // SAFETY: the caller's promise; there is room for a block and a register more.
        let (count, nearest) = unsafe {
            let to = self.places.as_mut_ptr().add(self.len);
            B::append(to, distances, ids, lanes, taken)
        };
        self.len += count;
        nearest
    }

    /// Leaves the `keep` nearest, and at most a quarter more; the distance from which on none was left, or `None` when
    /// there were no more than that. Places without a key are left out.
    ///
    /// A key that has so many before it is looked for by halving what lies between the smallest and the largest: distances
    /// mostly lie evenly enough for a handful of steps. Where they do not, the keys are partitioned.
    ///
    /// # Safety
    /// The processor has the backend's instruction set.
    #[inline(always)]
    pub(super) unsafe fn cut<B: Backend>(&mut self, keep: usize) -> Option<f32> {
        // SAFETY: the caller's promise.
        unsafe {
            let there = B::below(self.registers(), NONE);
            if there <= keep {
                self.retain::<B>(NONE);
                return None;
            }
            let (mut low, mut high) = (B::nearest(self.registers()), B::farthest(self.registers()));
            for _ in 0..CUT_STEPS {
                let middle = low + (high - low) / 2;
                let count = B::below(self.registers(), middle);
                if (keep..=keep + keep / 4).contains(&count) {
                    self.retain::<B>(middle);
                    return Some(distance_of(middle));
                }
                if count < keep { low = middle } else { high = middle }
            }
        }
        let (_, &mut last, behind) = self.places[..self.len].select_nth_unstable(keep - 1);
        behind.fill(NONE);
        self.len = keep;
        Some(distance_of(last))
    }

    /// Leaves out places without a key and keys that are not below `end`.
    ///
    /// # Safety
    /// The processor has the backend's instruction set.
    #[inline(always)]
    pub(super) unsafe fn retain<B: Backend>(&mut self, end: u64) {
        let before = self.len;
        // SAFETY: the caller's promise.
        self.len = unsafe { B::retain(self.registers_mut(), end) };
        self.places[self.len..before.next_multiple_of(REGISTER)].fill(NONE);
    }

    fn reserve(&mut self, room: usize) {
        let places = (room + 2 * REGISTER).next_multiple_of(REGISTER);
        if places > self.places.len() {
            self.places.resize(places, NONE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::portable::Portable;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Keys that halving does not tell apart once stayed in the pool, all of them, and the next ones had no room.
        #[test]
        fn a_cut_makes_room_however_keys_lie(
            keys in prop::collection::vec(
                (prop_oneof![Just(0.0f32), 0.999_99f32..1.0, Just(1.0), 0.0f32..1e30], 0u32..40)
                    .prop_map(|(distance, id)| key_of(distance, id)),
                1..150,
            ),
            gone in prop::collection::vec(any::<bool>(), 150),
            keep in 1usize..60,
        ) {
            let mut pool = Keys::default();
            for (&key, &gone) in keys.iter().zip(&gone) {
                pool.push(if gone { NONE } else { key });
            }
            let mut wanted = pool.places[..pool.len].to_vec();
            wanted.sort_unstable();
            wanted.truncate(keep);
            wanted.retain(|&key| key != NONE);
            // SAFETY: every processor has it.
            let worst = unsafe { pool.cut::<Portable>(keep) }.unwrap_or(f32::INFINITY);
            prop_assert!(pool.len() <= keep + keep / 4);
            let mut kept = pool.places[..pool.len].to_vec();
            kept.sort_unstable();
            prop_assert_eq!(&kept[..wanted.len()], &wanted[..]);
            prop_assert!(kept.iter().all(|&key| key != NONE && distance_of(key) <= worst));
            prop_assert!(pool.places[pool.len..].iter().all(|&key| key == NONE));
            prop_assert!(pool.places.len() >= pool.len + REGISTER);
        }
    }
}
