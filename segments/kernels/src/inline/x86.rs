//! AVX2 and AVX-512. A shuffle looks up 32 or 64 partial sums at once; sums of up to four of them fit a byte.

use super::portable::Portable;
use super::{BLOCK_LINKS, Backend, BeamBlock, InlineQuery, InlineRows, InlineScratch, LINE, prefetch, walk};
use std::arch::x86_64::*;

/// # Safety
/// The processor has AVX-512 F, BW, VL and DQ; query and rows have one dimension.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn walk_avx512<E>(
    rows: &InlineRows<'_>,
    query: &InlineQuery,
    ef: usize,
    entries: &[u32],
    touch: impl FnMut(u32) -> Result<(), E>,
    scratch: &mut InlineScratch,
) -> Result<(), E> {
    // SAFETY: the caller's promise.
    unsafe { walk::<Avx512, E>(rows, query, ef, entries, touch, scratch) }
}

/// # Safety
/// The processor has AVX2, FMA and F16C; query and rows have one dimension.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn walk_avx2<E>(
    rows: &InlineRows<'_>,
    query: &InlineQuery,
    ef: usize,
    entries: &[u32],
    touch: impl FnMut(u32) -> Result<(), E>,
    scratch: &mut InlineScratch,
) -> Result<(), E> {
    // SAFETY: the caller's promise.
    unsafe { walk::<Avx2, E>(rows, query, ef, entries, touch, scratch) }
}

pub(super) struct Avx512;
pub(super) struct Avx2;

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

    #[inline(always)]
    unsafe fn estimate(
        codes: *const u8,
        factors: *const u8,
        query: &InlineQuery,
        base: f32,
        worst: f32,
        next: *const u8,
        out: &mut [f32; BLOCK_LINKS],
    ) -> u32 {
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
            let mut better = 0;
            for (half, (even, odd)) in [(low_even, low_odd), (high_even, high_odd)].into_iter().enumerate() {
                let sums = in_order(fold(even), fold(odd));
                let add = _mm512_cvtph_ps(_mm256_loadu_si256(factors.add(half * 32).cast()));
                let rescale = _mm512_cvtph_ps(_mm256_loadu_si256(factors.add(64 + half * 32).cast()));
                let sums = _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(sums));
                let along = _mm512_fmadd_ps(sums, _mm512_set1_ps(query.delta), _mm512_set1_ps(query.offset));
                let base = _mm512_add_ps(_mm512_set1_ps(base), add);
                // The zero first: where one is NaN the second comes out, and NaN is below nothing.
                let estimate = _mm512_max_ps(_mm512_setzero_ps(), _mm512_fmadd_ps(along, rescale, base));
                _mm512_storeu_ps(out.as_mut_ptr().add(half * 16), estimate);
                let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(estimate, _mm512_set1_ps(worst));
                better |= u32::from(below) << (half * 16);
            }
            better
        }
    }

    #[inline(always)]
    unsafe fn insert(beam: &mut [BeamBlock], key: u64) -> usize {
        // SAFETY: see above; blocks are aligned.
        unsafe {
            let start = beam.as_mut_ptr();
            let x = _mm512_set1_epi64(key as i64);
            let mut block = beam.len() - 1;
            let mut current = _mm512_load_si512(start.add(block).cast());
            loop {
                // Each key becomes the larger of the one before it and the smaller of itself and the new one.
                let before = match block {
                    0 => _mm512_setzero_si512(),
                    _ => _mm512_load_si512(start.add(block - 1).cast()),
                };
                let shifted = _mm512_alignr_epi64::<7>(current, before);
                let inserted = _mm512_max_epu64(shifted, _mm512_min_epu64(current, x));
                _mm512_store_si512(start.add(block).cast(), inserted);
                if block == 0 || _mm512_cmpgt_epu64_mask(before, x) == 0 {
                    return block;
                }
                current = before;
                block -= 1;
            }
        }
    }

    #[inline(always)]
    unsafe fn open(beam: &[BeamBlock], from: usize) -> Option<(usize, usize)> {
        for (block, keys) in beam.iter().enumerate().skip(from) {
            // SAFETY: see above; blocks are aligned.
            let open = unsafe {
                let keys = _mm512_load_si512(keys.0.as_ptr().cast());
                _mm512_testn_epi64_mask(keys, _mm512_set1_epi64(1))
            };
            if open != 0 {
                return Some((block, open.trailing_zeros() as usize));
            }
        }
        None
    }
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

    #[inline(always)]
    unsafe fn estimate(
        codes: *const u8,
        factors: *const u8,
        query: &InlineQuery,
        base: f32,
        worst: f32,
        next: *const u8,
        out: &mut [f32; BLOCK_LINKS],
    ) -> u32 {
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
            let mut better = 0;
            for (half, (even, odd)) in [(low_even, low_odd), (high_even, high_odd)].into_iter().enumerate() {
                let even = _mm_add_epi16(_mm256_castsi256_si128(even), _mm256_extracti128_si256::<1>(even));
                let odd = _mm_add_epi16(_mm256_castsi256_si128(odd), _mm256_extracti128_si256::<1>(odd));
                for quarter in 0..2 {
                    let sums = match quarter {
                        0 => _mm_unpacklo_epi16(even, odd),
                        _ => _mm_unpackhi_epi16(even, odd),
                    };
                    let lane = half * 16 + quarter * 8;
                    let add = _mm256_cvtph_ps(_mm_loadu_si128(factors.add(lane * 2).cast()));
                    let rescale = _mm256_cvtph_ps(_mm_loadu_si128(factors.add(64 + lane * 2).cast()));
                    let sums = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(sums));
                    let along =
                        _mm256_fmadd_ps(sums, _mm256_set1_ps(query.delta), _mm256_set1_ps(query.offset));
                    let base = _mm256_add_ps(_mm256_set1_ps(base), add);
                    let estimate = _mm256_max_ps(_mm256_setzero_ps(), _mm256_fmadd_ps(along, rescale, base));
                    _mm256_storeu_ps(out.as_mut_ptr().add(lane), estimate);
                    let below = _mm256_cmp_ps::<_CMP_LT_OQ>(estimate, _mm256_set1_ps(worst));
                    better |= (_mm256_movemask_ps(below) as u32) << lane;
                }
            }
            better
        }
    }

    #[inline(always)]
    unsafe fn insert(beam: &mut [BeamBlock], key: u64) -> usize {
        // SAFETY: passed on.
        unsafe { Portable::insert(beam, key) }
    }

    #[inline(always)]
    unsafe fn open(beam: &[BeamBlock], from: usize) -> Option<(usize, usize)> {
        // SAFETY: passed on.
        unsafe { Portable::open(beam, from) }
    }
}
