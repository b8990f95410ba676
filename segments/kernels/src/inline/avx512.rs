//! AVX-512. A shuffle looks up 64 partial sums at once; sums of up to four of them fit a byte.

use super::backend::Backend;
use super::pool::{NONE, REGISTER};
use super::together::{InlineCommon, InlineLane, walk_together};
use super::walk::{InlineBeam, InlineScratch, InlineStart, InlineWatch, walk};
use super::{BLOCK_LINKS, InlineQuery, InlineRows, LINE, prefetch};
use std::arch::x86_64::*;

/// # Safety
/// The processor has what the AVX-512 kernels need; query and rows have one dimension.
#[target_feature(
    enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"
)]
pub(super) unsafe fn walk_avx512<W: InlineWatch>(
    rows: &InlineRows<'_>,
    query: &InlineQuery,
    beam: InlineBeam,
    start: InlineStart<'_>,
    watch: &mut W,
    scratch: &mut InlineScratch,
) -> Result<(), W::Error> {
    // SAFETY: the caller's promise.
    unsafe { walk::<Avx512, W>(rows, query, beam, start, watch, scratch) }
}

/// # Safety
/// The processor has what the AVX-512 kernels need; query, rows and start of each lane have one dimension.
#[target_feature(
    enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"
)]
pub(super) unsafe fn walk_together_avx512<W: InlineWatch>(
    lanes: &mut [InlineLane<'_, W>],
    common: &mut InlineCommon,
) -> Result<(), W::Error> {
    // SAFETY: the caller's promise.
    unsafe { walk_together::<Avx512, W>(lanes, common) }
}

pub(super) struct Avx512;

// SAFETY of all blocks below: the trait's contract gives the instruction set and the lengths; loads are unaligned.

impl Backend for Avx512 {
    #[inline(always)]
    unsafe fn centre(centre: *const u8, query: *const f32, dimension: usize, next: *const u8) -> f32 {
        // SAFETY: see above; the dimension is a multiple of 64.
        unsafe {
            let mut sums = [_mm512_setzero_ps(); 4];
            for i in (0..dimension).step_by(64) {
                prefetch(next.wrapping_add(i * 2));
                prefetch(next.wrapping_add(i * 2 + LINE));
                for (part, sum) in sums.iter_mut().enumerate() {
                    let at = i + part * 16;
                    let c = _mm512_cvtph_ps(_mm256_loadu_si256(centre.add(at * 2).cast()));
                    let difference = _mm512_sub_ps(_mm512_loadu_ps(query.add(at)), c);
                    *sum = _mm512_fmadd_ps(difference, difference, *sum);
                }
            }
            let [a, b, c, d] = sums;
            _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)))
        }
    }

    type Sums = [__m512; 2];

    #[inline(always)]
    unsafe fn signs(codes: *const u8, query: &InlineQuery, next: *const u8) -> [__m512; 2] {
        // SAFETY: see above.
        unsafe {
            let nibble = _mm512_set1_epi8(15);
            let byte = _mm512_set1_epi16(255);
            let (mut low_even, mut low_odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
            let (mut high_even, mut high_odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
            for i in (0..query.dimension * 4).step_by(4 * LINE) {
                let (mut low, mut high) = (_mm512_setzero_si512(), _mm512_setzero_si512());
                for part in 0..4 {
                    let at = i + part * LINE;
                    prefetch(next.wrapping_add(at));
                    let code = _mm512_loadu_si512(codes.add(at).cast());
                    let table = _mm512_load_si512(query.tables().add(at).cast());
                    let first = _mm512_shuffle_epi8(table, _mm512_and_si512(code, nibble));
                    let second =
                        _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16::<4>(code), nibble));
                    low = _mm512_add_epi8(low, first);
                    high = _mm512_add_epi8(high, second);
                }
                low_even = _mm512_add_epi16(low_even, _mm512_and_si512(low, byte));
                low_odd = _mm512_add_epi16(low_odd, _mm512_srli_epi16::<8>(low));
                high_even = _mm512_add_epi16(high_even, _mm512_and_si512(high, byte));
                high_odd = _mm512_add_epi16(high_odd, _mm512_srli_epi16::<8>(high));
            }
            let low = in_order(fold(low_even), fold(low_odd));
            let high = in_order(fold(high_even), fold(high_odd));
            [_mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(low)), _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(high))]
        }
    }

    #[inline(always)]
    unsafe fn levels(codes: *const u8, query: &InlineQuery, next: *const u8) -> [__m512; 2] {
        // SAFETY: see above; the dimension is a multiple of 16.
        unsafe {
            let nibble = _mm512_set1_epi8(15);
            // Sums that do not wait for each other.
            let (mut low, mut high) = ([_mm512_setzero_si512(); 4], [_mm512_setzero_si512(); 4]);
            for i in (0..query.dimension / 4).step_by(4) {
                for part in 0..4 {
                    let at = (i + part) * LINE;
                    prefetch(next.wrapping_add(at));
                    let code = _mm512_loadu_si512(codes.add(at).cast());
                    let steps = _mm512_set1_epi32(*query.steps().cast::<i32>().add(i + part));
                    let first = _mm512_and_si512(code, nibble);
                    let second = _mm512_and_si512(_mm512_srli_epi16::<4>(code), nibble);
                    low[part] = _mm512_dpbusd_epi32(low[part], first, steps);
                    high[part] = _mm512_dpbusd_epi32(high[part], second, steps);
                }
            }
            [_mm512_cvtepi32_ps(all(low)), _mm512_cvtepi32_ps(all(high))]
        }
    }

    #[inline(always)]
    unsafe fn estimate(
        sums: [__m512; 2],
        factors: *const u8,
        query: &InlineQuery,
        base: f32,
        worst: f32,
        out: &mut [f32; BLOCK_LINKS],
    ) -> u32 {
        // SAFETY: see above.
        unsafe {
            let mut better = 0;
            for (half, sums) in sums.into_iter().enumerate() {
                let add = _mm512_cvtph_ps(_mm256_loadu_si256(factors.add(half * 32).cast()));
                let rescale = _mm512_cvtph_ps(_mm256_loadu_si256(factors.add(64 + half * 32).cast()));
                let along = _mm512_fmadd_ps(sums, _mm512_set1_ps(query.delta), _mm512_set1_ps(query.offset));
                let base = _mm512_add_ps(_mm512_set1_ps(base), add);
                // The zero first: where one is NaN the second comes out, and NaN is below nothing. So is -0, whose bits are
                // those of the largest key of all; zero more makes it zero.
                let zero = _mm512_setzero_ps();
                let estimate = _mm512_max_ps(zero, _mm512_fmadd_ps(along, rescale, base));
                let estimate = _mm512_add_ps(estimate, zero);
                _mm512_storeu_ps(out.as_mut_ptr().add(half * 16), estimate);
                let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(estimate, _mm512_set1_ps(worst));
                better |= u32::from(below) << (half * 16);
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
        if lanes == 0 {
            return (0, NONE);
        }
        let (low, high) = (lanes as u16, (lanes >> 16) as u16);
        // SAFETY: see above.
        unsafe {
            let [first_ids, second_ids] = [ids, ids.add(16)].map(|ids| _mm512_loadu_si512(ids.cast()));
            let distances = distances.as_ptr();
            let [first, second] = [distances, distances.add(16)].map(|from| _mm512_loadu_si512(from.cast()));
            // Mostly a few lanes are left: they fit one register, and one gather tells which were taken.
            let count = lanes.count_ones();
            let (count, nearest) = if count <= 16 {
                let behind = (0xffff << low.count_ones()) as u16;
                let together = |first, second| {
                    let second = _mm512_maskz_compress_epi32(high, second);
                    _mm512_mask_expand_epi32(_mm512_maskz_compress_epi32(low, first), behind, second)
                };
                let (ids, distances) = (together(first_ids, second_ids), together(first, second));
                append_fresh(to, distances, ids, ((1u32 << count) - 1) as u16, taken)
            } else {
                let (before, nearest) = append_fresh(to, first, first_ids, low, taken);
                let (count, other) = append_fresh(to.add(before), second, second_ids, high, taken);
                (before + count, _mm512_min_epu64(nearest, other))
            };
            _mm512_storeu_si512(to.add(count).cast(), _mm512_set1_epi64(NONE as i64));
            (count, _mm512_reduce_min_epu64(nearest))
        }
    }

    #[inline(always)]
    unsafe fn nearest(keys: &[[u64; REGISTER]]) -> u64 {
        // SAFETY: see above.
        unsafe {
            let mut nearest = _mm512_set1_epi64(NONE as i64);
            for keys in keys {
                nearest = _mm512_min_epu64(nearest, _mm512_loadu_si512(keys.as_ptr().cast()));
            }
            _mm512_reduce_min_epu64(nearest)
        }
    }

    #[inline(always)]
    unsafe fn farthest(keys: &[[u64; REGISTER]]) -> u64 {
        // SAFETY: see above.
        unsafe {
            let mut most = _mm512_setzero_si512();
            for keys in keys {
                let keys = _mm512_loadu_si512(keys.as_ptr().cast());
                let there = _mm512_cmplt_epu64_mask(keys, _mm512_set1_epi64(NONE as i64));
                most = _mm512_mask_max_epu64(most, there, most, keys);
            }
            _mm512_reduce_max_epu64(most)
        }
    }

    #[inline(always)]
    unsafe fn retain(keys: &mut [[u64; REGISTER]], end: u64) -> usize {
        let (start, mut kept) = (keys.as_mut_ptr().cast::<u64>(), 0);
        for from in 0..keys.len() {
            // SAFETY: see above; a whole register is stored at or before the one that was read last.
            unsafe {
                let keys = _mm512_loadu_si512(start.add(from * REGISTER).cast());
                let below = _mm512_cmplt_epu64_mask(keys, _mm512_set1_epi64(end as i64));
                let packed = _mm512_maskz_compress_epi64(below, keys);
                _mm512_storeu_si512(start.add(kept).cast(), packed);
                kept += below.count_ones() as usize;
            }
        }
        kept
    }

    #[inline(always)]
    unsafe fn remove(keys: &mut [[u64; REGISTER]], id: u32) -> u64 {
        // SAFETY: see above.
        unsafe {
            let none = _mm512_set1_epi64(NONE as i64);
            let (id, low) = (_mm512_set1_epi64(i64::from(id)), _mm512_set1_epi64(0xffff_ffff));
            let mut nearest = none;
            for keys in keys {
                let there = _mm512_loadu_si512(keys.as_ptr().cast());
                let same = _mm512_cmpeq_epi64_mask(_mm512_and_si512(there, low), id);
                let left = _mm512_mask_mov_epi64(there, same, none);
                _mm512_storeu_si512(keys.as_mut_ptr().cast(), left);
                nearest = _mm512_min_epu64(nearest, left);
            }
            _mm512_reduce_min_epu64(nearest)
        }
    }

    #[inline(always)]
    unsafe fn below(keys: &[[u64; REGISTER]], end: u64) -> usize {
        let mut count = 0;
        // SAFETY: see above.
        unsafe {
            let end = _mm512_set1_epi64(end as i64);
            for keys in keys {
                let keys = _mm512_loadu_si512(keys.as_ptr().cast());
                count += _mm512_cmplt_epu64_mask(keys, end).count_ones() as usize;
            }
        }
        count
    }

    #[inline(always)]
    unsafe fn insert(ranked: &mut [f32], distance: f32) {
        let start = ranked.as_mut_ptr();
        // SAFETY: see above. From the end on, since each register wants the one before it as it was.
        unsafe {
            let x = _mm512_set1_ps(distance);
            for place in (1..ranked.len()).step_by(16).rev() {
                let (before, there) =
                    (_mm512_loadu_ps(start.add(place - 1)), _mm512_loadu_ps(start.add(place)));
                _mm512_storeu_ps(start.add(place), _mm512_min_ps(there, _mm512_max_ps(before, x)));
            }
        }
    }
}

/// Stores the keys of those of the lanes that were not taken; how many, and eight keys of which the smallest is the smallest.
#[inline(always)]
unsafe fn append_fresh(
    to: *mut u64,
    distances: __m512i,
    ids: __m512i,
    lanes: u16,
    taken: &[u64],
) -> (usize, __m512i) {
    // The array of 64-bit words is one of twice as many 32-bit ones: the lower half comes first.
    let words = (taken.len() * 2).min(i32::MAX as usize) as i32;
    // SAFETY: see above; only words below the end of the array are gathered, and two registers are stored at most.
    unsafe {
        let word = _mm512_srli_epi32::<5>(ids);
        let known = _mm512_mask_cmplt_epu32_mask(lanes, word, _mm512_set1_epi32(words));
        let mut fresh = lanes;
        // Where a walk begins, nothing was taken.
        if known != 0 {
            let zero = _mm512_setzero_si512();
            let bits = _mm512_mask_i32gather_epi32::<4>(zero, known, word, taken.as_ptr().cast());
            let bit = _mm512_sllv_epi32(_mm512_set1_epi32(1), _mm512_and_si512(ids, _mm512_set1_epi32(31)));
            fresh &= !_mm512_mask_test_epi32_mask(known, bits, bit);
        }
        let keys = |distances, ids| {
            let distances = _mm512_slli_epi64::<32>(_mm512_cvtepu32_epi64(distances));
            _mm512_or_si512(distances, _mm512_cvtepu32_epi64(ids))
        };
        let low = keys(_mm512_castsi512_si256(distances), _mm512_castsi512_si256(ids));
        let high = keys(_mm512_extracti64x4_epi64::<1>(distances), _mm512_extracti64x4_epi64::<1>(ids));
        let (low_fresh, high_fresh) = (fresh as u8, (fresh >> 8) as u8);
        let before = low_fresh.count_ones() as usize;
        _mm512_storeu_si512(to.cast(), _mm512_maskz_compress_epi64(low_fresh, low));
        _mm512_storeu_si512(to.add(before).cast(), _mm512_maskz_compress_epi64(high_fresh, high));
        let none = _mm512_set1_epi64(NONE as i64);
        let nearest = _mm512_mask_mov_epi64(none, low_fresh, low);
        (fresh.count_ones() as usize, _mm512_mask_min_epu64(nearest, high_fresh, nearest, high))
    }
}

/// The sum of four registers, 32 bits at a time.
#[inline(always)]
unsafe fn all([a, b, c, d]: [__m512i; 4]) -> __m512i {
    // SAFETY: see above.
    unsafe { _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d)) }
}

/// The sum of the four quarters, 16 bits at a time.
#[inline(always)]
unsafe fn fold(sums: __m512i) -> __m128i {
    // SAFETY: see above.
    unsafe {
        let half = _mm256_add_epi16(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums));
        _mm_add_epi16(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half))
    }
}

/// Interleaves the sums of even and odd neighbours.
#[inline(always)]
unsafe fn in_order(even: __m128i, odd: __m128i) -> __m256i {
    // SAFETY: see above.
    unsafe { _mm256_set_m128i(_mm_unpackhi_epi16(even, odd), _mm_unpacklo_epi16(even, odd)) }
}
