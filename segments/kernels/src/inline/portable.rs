//! What every processor can do; the other backends agree with it.

use super::backend::Backend;
use super::pool::{NONE, REGISTER};
use super::{BLOCK_LINKS, InlineQuery, LINE};
use half::f16;

pub(super) struct Portable;

impl Backend for Portable {
    #[inline(always)]
    unsafe fn centre(centre: *const u8, query: *const f32, dimension: usize, _: *const u8) -> f32 {
        let mut sums = [0f32; 8];
        for i in (0..dimension).step_by(8) {
            for (lane, sum) in sums.iter_mut().enumerate() {
                // SAFETY: below `dimension`, which both have.
                let difference = unsafe { *query.add(i + lane) - half_at(centre, i + lane) };
                *sum += difference * difference;
            }
        }
        sums.iter().sum()
    }

    type Sums = [f32; BLOCK_LINKS];

    #[inline(always)]
    unsafe fn signs(codes: *const u8, query: &InlineQuery, _: *const u8) -> [f32; BLOCK_LINKS] {
        let mut sums = [0u16; BLOCK_LINKS];
        for group in 0..query.dimension / 4 {
            for lane in 0..16 {
                // SAFETY: 16 bytes of each for every four dimensions.
                unsafe {
                    let code = *codes.add(group * 16 + lane);
                    let table = query.tables().add(group * 16);
                    sums[lane] += u16::from(*table.add(usize::from(code & 15)));
                    sums[lane + 16] += u16::from(*table.add(usize::from(code >> 4)));
                }
            }
        }
        sums.map(f32::from)
    }

    #[inline(always)]
    unsafe fn levels(codes: *const u8, query: &InlineQuery, _: *const u8) -> [f32; BLOCK_LINKS] {
        let mut sums = [0i32; BLOCK_LINKS];
        for four in 0..query.dimension / 4 {
            for place in 0..LINE {
                // SAFETY: 64 bytes of codes for every four dimensions, and a step for each of these.
                let (code, step) = unsafe {
                    let step = *query.steps().add(four * 4 + place % 4);
                    (i32::from(*codes.add(four * LINE + place)), i32::from(step))
                };
                sums[place / 4] += (code & 15) * step;
                sums[16 + place / 4] += (code >> 4) * step;
            }
        }
        sums.map(|sum| sum as f32)
    }

    #[inline(always)]
    unsafe fn estimate(
        sums: [f32; BLOCK_LINKS],
        factors: *const u8,
        query: &InlineQuery,
        base: f32,
        worst: f32,
        out: &mut [f32; BLOCK_LINKS],
    ) -> u32 {
        let mut better = 0;
        for lane in 0..BLOCK_LINKS {
            // SAFETY: 64 numbers lie there.
            let (add, rescale) = unsafe { (half_at(factors, lane), half_at(factors, BLOCK_LINKS + lane)) };
            let along = sums[lane] * query.delta + query.offset;
            let estimate = along * rescale + (base + add);
            // Written so that NaN stays NaN, which is below nothing, and -0 becomes 0.
            let estimate = if estimate <= 0.0 { 0.0 } else { estimate };
            out[lane] = estimate;
            better |= u32::from(estimate < worst) << lane;
        }
        better
    }

    #[inline(always)]
    unsafe fn append(
        to: *mut u64,
        distances: &[f32; BLOCK_LINKS],
        ids: *const u32,
        lanes: u32,
        taken: &[u64],
    ) -> (usize, u64) {
        let (mut count, mut rest, mut nearest) = (0, lanes, NONE);
        while rest != 0 {
            let lane = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            // SAFETY: 32 ids lie there.
            let id = u32::from_le(unsafe { ids.add(lane).read_unaligned() });
            let marked = taken.get(id as usize / 64).is_some_and(|word| word >> (id % 64) & 1 == 1);
            let key = u64::from(distances[lane].to_bits()) << 32 | u64::from(id);
            // SAFETY: there is room for as many keys as lanes.
            unsafe { to.add(count).write(if marked { NONE } else { key }) };
            nearest = if marked { nearest } else { nearest.min(key) };
            count += usize::from(!marked);
        }
        // SAFETY: there is room for a register more; only the first place behind the keys may hold something.
        unsafe { to.add(count).write(NONE) };
        (count, nearest)
    }

    #[inline(always)]
    unsafe fn nearest(keys: &[[u64; REGISTER]]) -> u64 {
        let mut least = [NONE; REGISTER];
        for keys in keys {
            for (least, &key) in least.iter_mut().zip(keys) {
                *least = key.min(*least);
            }
        }
        least.into_iter().fold(NONE, u64::min)
    }

    #[inline(always)]
    unsafe fn farthest(keys: &[[u64; REGISTER]]) -> u64 {
        keys.as_flattened().iter().fold(0, |most, &key| if key == NONE { most } else { most.max(key) })
    }

    #[inline(always)]
    unsafe fn retain(keys: &mut [[u64; REGISTER]], end: u64) -> usize {
        let keys = keys.as_flattened_mut();
        let mut used = 0;
        for place in 0..keys.len() {
            let key = keys[place];
            keys[used] = key;
            used += usize::from(key < end);
        }
        used
    }

    #[inline(always)]
    unsafe fn remove(keys: &mut [[u64; REGISTER]], id: u32) -> u64 {
        for key in keys.as_flattened_mut() {
            *key = if *key as u32 == id { NONE } else { *key };
        }
        // SAFETY: passed on.
        unsafe { Portable::nearest(keys) }
    }

    #[inline(always)]
    unsafe fn below(keys: &[[u64; REGISTER]], end: u64) -> usize {
        keys.as_flattened().iter().filter(|&&key| key < end).count()
    }

    #[inline(always)]
    unsafe fn insert(ranked: &mut [f32], distance: f32) {
        for place in (1..ranked.len()).rev() {
            ranked[place] = ranked[place].min(distance.max(ranked[place - 1]));
        }
    }
}

/// # Safety
/// At least `index + 1` numbers lie there.
#[inline(always)]
unsafe fn half_at(from: *const u8, index: usize) -> f32 {
    // SAFETY: the caller's promise; bytes have no alignment.
    let bytes = unsafe { [*from.add(index * 2), *from.add(index * 2 + 1)] };
    f16::from_le_bytes(bytes).to_f32()
}
