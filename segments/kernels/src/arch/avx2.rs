//! AVX2 with FMA, and what all processors with these have: half precision, and counting and moving bits. 256-bit vectors.

use crate::vector::{Bytes, Doubles, Floats};
use half::f16;
use std::arch::x86_64::*;

super::kernels_for!("avx2", "avx2,fma,f16c", Lanes, WideLanes, Products);

/// Whether this processor has what the kernels here need.
pub(crate) fn supported() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
}

#[derive(Clone, Copy)]
pub(crate) struct Lanes(__m256);

#[derive(Clone, Copy)]
struct WideLanes(__m256d);

#[derive(Clone, Copy)]
struct Products(__m256i);

// SAFETY of all blocks below: the trait's contract, that the processor has AVX2 and FMA, and, for loads, that the
// memory can be read or written. The intrinsics need nothing else.

impl Floats for Lanes {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        Lanes(unsafe { _mm256_setzero_ps() })
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: see above.
        Lanes(unsafe { _mm256_set1_ps(x) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn not_below(self, other: Self) -> u32 {
        // SAFETY: see above.
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(self.0, other.0)) as u32 }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        Lanes(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // SAFETY: see above; a masked load does not touch the lanes that are off.
        unsafe {
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes);
            Lanes(_mm256_maskload_ps(from, mask))
        }
    }

    #[inline(always)]
    unsafe fn load_halves(from: *const f16) -> Self {
        // SAFETY: see above.
        Lanes(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) })
    }

    #[inline(always)]
    unsafe fn store_halves(self, to: *mut f16) {
        // SAFETY: see above.
        unsafe { _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) }
    }

    #[inline(always)]
    unsafe fn above_zero(self) -> u32 {
        // SAFETY: see above.
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(self.0, _mm256_setzero_ps())) as u32 }
    }

    #[inline(always)]
    unsafe fn add_where(sum: Self, lanes: u32, x: Self) -> Self {
        // SAFETY: see above. Each lane looks at its own bit.
        unsafe {
            let bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(lanes as i32), bit), bit);
            Lanes(_mm256_add_ps(sum.0, _mm256_and_ps(_mm256_castsi256_ps(set), x.0)))
        }
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        // SAFETY: see above.
        Lanes(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
    }

    #[inline(always)]
    unsafe fn sums(four: [Self; 4]) -> [f32; 4] {
        // SAFETY: see above.
        unsafe {
            let pairs =
                _mm256_hadd_ps(_mm256_hadd_ps(four[0].0, four[1].0), _mm256_hadd_ps(four[2].0, four[3].0));
            let sums = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs));
            let mut out = [0f32; 4];
            _mm_storeu_ps(out.as_mut_ptr(), sums);
            out
        }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        Lanes(unsafe { _mm256_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, other: Self, sum: Self) -> Self {
        // SAFETY: see above.
        Lanes(unsafe { _mm256_fmadd_ps(self.0, other.0, sum.0) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        Lanes(unsafe { _mm256_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let half = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
        }
    }
}

impl Doubles for WideLanes {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        WideLanes(unsafe { _mm256_setzero_pd() })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        WideLanes(unsafe { _mm256_cvtps_pd(_mm_loadu_ps(from)) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        WideLanes(unsafe { _mm256_sub_pd(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, other: Self, sum: Self) -> Self {
        // SAFETY: see above.
        WideLanes(unsafe { _mm256_fmadd_pd(self.0, other.0, sum.0) })
    }

    #[inline(always)]
    unsafe fn sum(self) -> f64 {
        // SAFETY: see above.
        unsafe {
            let pair = _mm_add_pd(_mm256_castpd256_pd128(self.0), _mm256_extractf128_pd::<1>(self.0));
            _mm_cvtsd_f64(_mm_add_sd(pair, _mm_unpackhi_pd(pair, pair)))
        }
    }
}

impl Bytes for Products {
    const STEP: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        Products(unsafe { _mm256_setzero_si256() })
    }

    #[inline(always)]
    unsafe fn add_biased<const BITS: usize>(self, codes: *const u8, from: *const u8) -> Self {
        // SAFETY: see above. The shifts are known when this is compiled, for the loop is unrolled.
        unsafe {
            let c = _mm256_cvtepu8_epi16(_mm_loadu_si128(codes.cast()));
            let mut sums = self.0;
            for part in 0..8 / BITS {
                let c = _mm256_srl_epi16(c, _mm_cvtsi32_si128((BITS * part) as i32));
                let c = _mm256_and_si256(c, _mm256_set1_epi16((1 << BITS) - 1));
                let f = _mm256_cvtepu8_epi16(_mm_loadu_si128(from.add(64 * part).cast()));
                let f = _mm256_sub_epi16(f, _mm256_set1_epi16(128));
                sums = _mm256_add_epi32(sums, _mm256_madd_epi16(c, f));
            }
            Products(sums)
        }
    }

    #[inline(always)]
    unsafe fn sums(four: [Self; 4]) -> [i32; 4] {
        // SAFETY: see above.
        unsafe {
            let pairs = _mm256_hadd_epi32(
                _mm256_hadd_epi32(four[0].0, four[1].0),
                _mm256_hadd_epi32(four[2].0, four[3].0),
            );
            let sums = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
            let mut out = [0i32; 4];
            _mm_storeu_si128(out.as_mut_ptr().cast(), sums);
            out
        }
    }
}
