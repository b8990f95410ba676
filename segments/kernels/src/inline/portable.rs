//! What every processor can do; the other backends agree with it.

use super::{BLOCK_LINKS, Backend, BeamBlock, InlineQuery};
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

    #[inline(always)]
    unsafe fn estimate(
        codes: *const u8,
        factors: *const u8,
        query: &InlineQuery,
        base: f32,
        worst: f32,
        _: *const u8,
        out: &mut [f32; BLOCK_LINKS],
    ) -> u32 {
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
        let mut better = 0;
        for lane in 0..BLOCK_LINKS {
            // SAFETY: 64 numbers lie there.
            let (add, rescale) = unsafe { (half_at(factors, lane), half_at(factors, BLOCK_LINKS + lane)) };
            let along = f32::from(sums[lane]) * query.delta + query.offset;
            let estimate = along * rescale + (base + add);
            // Written so that NaN stays NaN, which is below nothing.
            let estimate = if estimate < 0.0 { 0.0 } else { estimate };
            out[lane] = estimate;
            better |= u32::from(estimate < worst) << lane;
        }
        better
    }

    #[inline(always)]
    unsafe fn insert(beam: &mut [BeamBlock], key: u64) -> usize {
        let mut block = beam.len() - 1;
        // The last of each block moves on into the next one, until the key's own block is found.
        while block > 0 && beam[block - 1].0[7] > key {
            let last = beam[block - 1].0[7];
            beam[block].0.copy_within(..7, 1);
            beam[block].0[0] = last;
            block -= 1;
        }
        let place = beam[block].0.iter().filter(|&&other| other <= key).count();
        beam[block].0.copy_within(place..7, place + 1);
        beam[block].0[place] = key;
        block
    }

    #[inline(always)]
    unsafe fn open(beam: &[BeamBlock], from: usize) -> Option<(usize, usize)> {
        (from..beam.len()).find_map(|block| {
            let place = beam[block].0.iter().position(|key| key & 1 == 0)?;
            Some((block, place))
        })
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
