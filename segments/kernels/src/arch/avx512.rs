//! AVX-512 (F, BW, VL, DQ, VNNI): 512-bit vectors, masked loads, and products of bytes in one instruction.

use crate::vector::{Bytes, Doubles, Floats};
use half::f16;
use std::arch::x86_64::*;

super::kernels_for!(
    "avx512",
    "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni",
    Lanes,
    WideLanes,
    Products
);

/// Whether this processor has what the kernels here need.
pub(crate) fn supported() -> bool {
    super::avx2::supported()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni")
}

#[derive(Clone, Copy)]
pub(crate) struct Lanes(__m512);

#[derive(Clone, Copy)]
struct WideLanes(__m512d);

#[derive(Clone, Copy)]
struct Products(__m512i);

// SAFETY of all blocks below: the trait's contract, that the processor has these sets, and, for loads, that the
// memory can be read or written. The intrinsics need nothing else.

impl Floats for Lanes {
    const LANES: usize = 16;
    const REGISTERS: usize = 32;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        Lanes(unsafe { _mm512_setzero_ps() })
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: see above.
        Lanes(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn not_below(self, other: Self) -> u32 {
        // SAFETY: see above.
        u32::from(unsafe { _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        Lanes(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // SAFETY: see above; a masked load does not touch the lanes that are off.
        unsafe { Lanes(_mm512_maskz_loadu_ps(((1u32 << count) - 1) as __mmask16, from)) }
    }

    #[inline(always)]
    unsafe fn load_halves(from: *const f16) -> Self {
        // SAFETY: see above.
        Lanes(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }

    #[inline(always)]
    unsafe fn store_halves(self, to: *mut f16) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) }
    }

    #[inline(always)]
    unsafe fn above_zero(self) -> u32 {
        // SAFETY: see above.
        u32::from(unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, _mm512_setzero_ps()) })
    }

    #[inline(always)]
    unsafe fn add_where(sum: Self, lanes: u32, x: Self) -> Self {
        // SAFETY: see above.
        Lanes(unsafe { _mm512_mask_add_ps(sum.0, lanes as __mmask16, sum.0, x.0) })
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        // SAFETY: see above.
        Lanes(unsafe { _mm512_abs_ps(self.0) })
    }

    #[inline(always)]
    unsafe fn sums(four: [Self; 4]) -> [f32; 4] {
        // SAFETY: see above.
        unsafe {
            // Interleaved and added until each quarter of a vector holds one number of each sum.
            let [Lanes(a), Lanes(b), Lanes(c), Lanes(d)] = four;
            let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
            let front = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
            let back = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
            let all = _mm512_add_ps(front, back);
            let half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps::<1>(all));
            let sums = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
            let mut out = [0f32; 4];
            _mm_storeu_ps(out.as_mut_ptr(), sums);
            out
        }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        Lanes(unsafe { _mm512_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, other: Self, sum: Self) -> Self {
        // SAFETY: see above.
        Lanes(unsafe { _mm512_fmadd_ps(self.0, other.0, sum.0) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        Lanes(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
}

impl Doubles for WideLanes {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        WideLanes(unsafe { _mm512_setzero_pd() })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        WideLanes(unsafe { _mm512_cvtps_pd(_mm256_loadu_ps(from)) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        WideLanes(unsafe { _mm512_sub_pd(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, other: Self, sum: Self) -> Self {
        // SAFETY: see above.
        WideLanes(unsafe { _mm512_fmadd_pd(self.0, other.0, sum.0) })
    }

    #[inline(always)]
    unsafe fn sum(self) -> f64 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_add_pd(self.0) }
    }
}

impl Bytes for Products {
    const STEP: usize = 64;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        Products(unsafe { _mm512_setzero_si512() })
    }

    #[inline(always)]
    unsafe fn add_biased<const BITS: usize>(self, codes: *const u8, from: *const u8) -> Self {
        // SAFETY: see above. To subtract 128 is to flip the highest bit. What a shift brings over from the next byte is
        // masked out; the shifts are known when this is compiled, for the loop is unrolled.
        unsafe {
            let c = _mm512_loadu_si512(codes.cast());
            let mut sums = self.0;
            for part in 0..8 / BITS {
                let c = _mm512_srl_epi16(c, _mm_cvtsi32_si128((BITS * part) as i32));
                let c = _mm512_and_si512(c, _mm512_set1_epi8(((1u32 << BITS) - 1) as i8));
                let f = _mm512_loadu_si512(from.add(64 * part).cast());
                sums = _mm512_dpbusd_epi32(sums, c, _mm512_xor_si512(f, _mm512_set1_epi8(-128)));
            }
            Products(sums)
        }
    }

    #[inline(always)]
    unsafe fn sums(four: [Self; 4]) -> [i32; 4] {
        // SAFETY: see above.
        unsafe {
            // Interleaved and added until each quarter of a vector holds one number of each sum.
            let [Products(a), Products(b), Products(c), Products(d)] = four;
            let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            let all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
            let half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64::<1>(all));
            let sums = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
            let mut out = [0i32; 4];
            _mm_storeu_si128(out.as_mut_ptr().cast(), sums);
            out
        }
    }
}
