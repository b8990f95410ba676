//! The smallest distances that a walk has seen, in order: how far away the `n`-th nearest expanded row is, at any time and at once.
//!
//! A new distance moves all larger ones by a place. Every place is what it was, or what the new one or its left neighbour was,
//! whichever is in between: `new[i] = min(old[i], max(old[i - 1], x))`. A register of places takes four instructions and no branch.

use super::backend::Backend;

/// Places of the widest register.
const STEP: usize = 16;

/// So many of the smallest distances, ascending; infinity where there is none yet.
#[derive(Clone, Default, Debug)]
pub(super) struct Ranked {
    /// One place that is below everything, and then those of the distances, whole registers of them.
    places: Vec<f32>,
}

impl Ranked {
    /// Empty, for `width` distances or a few more.
    pub(super) fn reset(&mut self, width: usize) {
        self.places.clear();
        self.places.resize(1 + width.next_multiple_of(STEP), f32::INFINITY);
        self.places[0] = f32::NEG_INFINITY;
    }

    /// One more; NaN counts as infinity.
    ///
    /// # Safety
    /// The processor has the backend's instruction set.
    #[inline(always)]
    pub(super) unsafe fn insert<B: Backend>(&mut self, distance: f32) {
        let distance = if distance.is_nan() { f32::INFINITY } else { distance };
        // SAFETY: the caller's promise; there is one place, and whole registers behind it.
        unsafe { B::insert(&mut self.places, distance) };
    }

    /// The `n`-th smallest, from 1; infinity when there are fewer, or when so many are not kept.
    #[inline(always)]
    pub(super) fn nth(&self, n: usize) -> f32 {
        debug_assert!(n > 0);
        self.places.get(n).copied().unwrap_or(f32::INFINITY)
    }
}

#[cfg(test)]
mod tests {
    use super::super::portable::Portable;
    #[cfg(target_arch = "x86_64")]
    use super::super::{avx2, avx512};
    use super::*;
    use crate::Kernels;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_smallest_are_kept_in_order(
            distances in prop::collection::vec(prop_oneof![0.0f32..9.0, Just(1.0), Just(f32::INFINITY), Just(f32::NAN)], 0..99),
            width in 1usize..70,
        ) {
            let mut wanted: Vec<f32> =
                distances.iter().map(|&x| if x.is_nan() { f32::INFINITY } else { x }).collect();
            wanted.sort_unstable_by(f32::total_cmp);
            wanted.resize(wanted.len().max(width), f32::INFINITY);
            for kernels in Kernels::supported() {
                let mut ranked = Ranked::default();
                ranked.reset(width);
                for &distance in &distances {
                    match kernels.name() {
                        // SAFETY: the processor has it.
                        #[cfg(target_arch = "x86_64")]
                        "avx512" => unsafe { ranked.insert::<avx512::Avx512>(distance) },
                        // SAFETY: as above.
                        #[cfg(target_arch = "x86_64")]
                        "avx2" => unsafe { ranked.insert::<avx2::Avx2>(distance) },
                        // SAFETY: every processor has this one.
                        _ => unsafe { ranked.insert::<Portable>(distance) },
                    }
                }
                let found: Vec<f32> = (1..=width).map(|n| ranked.nth(n)).collect();
                prop_assert_eq!(&found[..], &wanted[..width], "{}", kernels.name());
                prop_assert_eq!(ranked.nth(1000), f32::INFINITY);
            }
        }
    }
}
