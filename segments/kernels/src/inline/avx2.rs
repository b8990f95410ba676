//! AVX2. A shuffle looks up 32 partial sums at once; sums of up to four of them fit a byte. What is a matter of compressing
//! registers is left to the portable operations, compiled for it.

use super::backend::Backend;
use super::pool::REGISTER;
use super::portable::Portable;
use super::together::{InlineCommon, InlineLane, walk_together};
use super::walk::{InlineBeam, InlineScratch, InlineStart, InlineWatch, walk};
use super::{BLOCK_LINKS, InlineQuery, InlineRows, LINE, prefetch};
use std::arch::x86_64::*;

/// # Safety
/// The processor has what the AVX2 kernels need; query and rows have one dimension.
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
pub(super) unsafe fn walk_avx2<W: InlineWatch>(
    rows: &InlineRows<'_>,
    query: &InlineQuery,
    beam: InlineBeam,
    start: InlineStart<'_>,
    watch: &mut W,
    scratch: &mut InlineScratch,
) -> Result<(), W::Error> {
    // SAFETY: the caller's promise.
    unsafe { walk::<Avx2, W>(rows, query, beam, start, watch, scratch) }
}

/// # Safety
/// The processor has what the AVX2 kernels need; query, rows and start of each lane have one dimension.
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
pub(super) unsafe fn walk_together_avx2<W: InlineWatch>(
    lanes: &mut [InlineLane<'_, W>],
    common: &mut InlineCommon,
) -> Result<(), W::Error> {
    // SAFETY: the caller's promise.
    unsafe { walk_together::<Avx2, W>(lanes, common) }
}

pub(super) struct Avx2;

// SAFETY of all blocks below: the trait's contract gives the instruction set and the lengths; loads are unaligned.

impl Backend for Avx2 {
    #[inline(always)]
    unsafe fn centre(centre: *const u8, query: *const f32, dimension: usize, next: *const u8) -> f32 {
        // SAFETY: see above; the dimension is a multiple of 64.
        unsafe {
            let mut sums = [_mm256_setzero_ps(); 4];
            for i in (0..dimension).step_by(32) {
                prefetch(next.wrapping_add(i * 2));
                for (part, sum) in sums.iter_mut().enumerate() {
                    let at = i + part * 8;
                    let c = _mm256_cvtph_ps(_mm_loadu_si128(centre.add(at * 2).cast()));
                    let difference = _mm256_sub_ps(_mm256_loadu_ps(query.add(at)), c);
                    *sum = _mm256_fmadd_ps(difference, difference, *sum);
                }
            }
            let [a, b, c, d] = sums;
            let sum = _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d));
            let sum = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
            let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
            _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)))
        }
    }

    type Sums = [__m256; 4];

    #[inline(always)]
    unsafe fn signs(codes: *const u8, query: &InlineQuery, next: *const u8) -> [__m256; 4] {
        // SAFETY: see above.
        unsafe {
            let nibble = _mm256_set1_epi8(15);
            let byte = _mm256_set1_epi16(255);
            let (mut low_even, mut low_odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
            let (mut high_even, mut high_odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
            for i in (0..query.dimension * 4).step_by(2 * LINE) {
                let (mut low, mut high) = (_mm256_setzero_si256(), _mm256_setzero_si256());
                for part in 0..4 {
                    let at = i + part * 32;
                    if part % 2 == 0 {
                        prefetch(next.wrapping_add(at));
                    }
                    let code = _mm256_loadu_si256(codes.add(at).cast());
                    let table = _mm256_load_si256(query.tables().add(at).cast());
                    let first = _mm256_shuffle_epi8(table, _mm256_and_si256(code, nibble));
                    let second =
                        _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16::<4>(code), nibble));
                    low = _mm256_add_epi8(low, first);
                    high = _mm256_add_epi8(high, second);
                }
                low_even = _mm256_add_epi16(low_even, _mm256_and_si256(low, byte));
                low_odd = _mm256_add_epi16(low_odd, _mm256_srli_epi16::<8>(low));
                high_even = _mm256_add_epi16(high_even, _mm256_and_si256(high, byte));
                high_odd = _mm256_add_epi16(high_odd, _mm256_srli_epi16::<8>(high));
            }
            let mut quarters = [_mm256_setzero_ps(); 4];
            for (half, (even, odd)) in [(low_even, low_odd), (high_even, high_odd)].into_iter().enumerate() {
                let even = _mm_add_epi16(_mm256_castsi256_si128(even), _mm256_extracti128_si256::<1>(even));
                let odd = _mm_add_epi16(_mm256_castsi256_si128(odd), _mm256_extracti128_si256::<1>(odd));
                for quarter in 0..2 {
                    let sums = match quarter {
                        0 => _mm_unpacklo_epi16(even, odd),
                        _ => _mm_unpackhi_epi16(even, odd),
                    };
                    quarters[half * 2 + quarter] = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(sums));
                }
            }
            quarters
        }
    }

    #[inline(always)]
    unsafe fn levels(codes: *const u8, query: &InlineQuery, next: *const u8) -> [__m256; 4] {
        // SAFETY: see above; the dimension is a multiple of 16.
        unsafe {
            let (nibble, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
            let mut sums = [_mm256_setzero_si256(); 4];
            for i in (0..query.dimension / 4).step_by(4) {
                // Sixteen bits hold eight products of the largest level and the largest step.
                let mut short = [_mm256_setzero_si256(); 4];
                for at in i..i + 4 {
                    prefetch(next.wrapping_add(at * LINE));
                    let steps = _mm256_set1_epi32(*query.steps().cast::<i32>().add(at));
                    for part in 0..2 {
                        let code = _mm256_loadu_si256(codes.add(at * LINE + part * 32).cast());
                        let first = _mm256_and_si256(code, nibble);
                        let second = _mm256_and_si256(_mm256_srli_epi16::<4>(code), nibble);
                        short[part] = _mm256_add_epi16(short[part], _mm256_maddubs_epi16(first, steps));
                        short[2 + part] =
                            _mm256_add_epi16(short[2 + part], _mm256_maddubs_epi16(second, steps));
                    }
                }
                for (sum, short) in sums.iter_mut().zip(short) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(short, ones));
                }
            }
            let [a, b, c, d] = sums;
            [_mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(b), _mm256_cvtepi32_ps(c), _mm256_cvtepi32_ps(d)]
        }
    }

    #[inline(always)]
    unsafe fn estimate(
        sums: [__m256; 4],
        factors: *const u8,
        query: &InlineQuery,
        base: f32,
        worst: f32,
        out: &mut [f32; BLOCK_LINKS],
    ) -> u32 {
        // SAFETY: see above.
        unsafe {
            let mut better = 0;
            for (quarter, sums) in sums.into_iter().enumerate() {
                let lane = quarter * 8;
                let add = _mm256_cvtph_ps(_mm_loadu_si128(factors.add(lane * 2).cast()));
                let rescale = _mm256_cvtph_ps(_mm_loadu_si128(factors.add(64 + lane * 2).cast()));
                let along = _mm256_fmadd_ps(sums, _mm256_set1_ps(query.delta), _mm256_set1_ps(query.offset));
                let base = _mm256_add_ps(_mm256_set1_ps(base), add);
                let zero = _mm256_setzero_ps();
                let estimate = _mm256_max_ps(zero, _mm256_fmadd_ps(along, rescale, base));
                let estimate = _mm256_add_ps(estimate, zero);
                _mm256_storeu_ps(out.as_mut_ptr().add(lane), estimate);
                let below = _mm256_cmp_ps::<_CMP_LT_OQ>(estimate, _mm256_set1_ps(worst));
                better |= (_mm256_movemask_ps(below) as u32) << lane;
            }
            better
        }
    }

    #[inline(always)]
    unsafe fn append(
        to: *mut u64,
        distances: &[f32; BLOCK_LINKS],
        ids: *const u32,
        lanes: u32,
        taken: &[u64],
    ) -> (usize, u64) {
        // SAFETY: passed on.
        unsafe { Portable::append(to, distances, ids, lanes, taken) }
    }

    #[inline(always)]
    unsafe fn nearest(keys: &[[u64; REGISTER]]) -> u64 {
        // SAFETY: passed on.
        unsafe { Portable::nearest(keys) }
    }

    #[inline(always)]
    unsafe fn farthest(keys: &[[u64; REGISTER]]) -> u64 {
        // SAFETY: passed on.
        unsafe { Portable::farthest(keys) }
    }

    #[inline(always)]
    unsafe fn retain(keys: &mut [[u64; REGISTER]], end: u64) -> usize {
        // SAFETY: passed on.
        unsafe { Portable::retain(keys, end) }
    }

    #[inline(always)]
    unsafe fn remove(keys: &mut [[u64; REGISTER]], id: u32) -> u64 {
        // SAFETY: passed on.
        unsafe { Portable::remove(keys, id) }
    }

    #[inline(always)]
    unsafe fn below(keys: &[[u64; REGISTER]], end: u64) -> usize {
        // SAFETY: passed on.
        unsafe { Portable::below(keys, end) }
    }

    #[inline(always)]
    unsafe fn insert(ranked: &mut [f32], distance: f32) {
        let start = ranked.as_mut_ptr();
        // SAFETY: see above. From the end on, since each register wants the one before it as it was.
        unsafe {
            let x = _mm256_set1_ps(distance);
            for place in (1..ranked.len()).step_by(8).rev() {
                let (before, there) =
                    (_mm256_loadu_ps(start.add(place - 1)), _mm256_loadu_ps(start.add(place)));
                _mm256_storeu_ps(start.add(place), _mm256_min_ps(there, _mm256_max_ps(before, x)));
            }
        }
    }
}
