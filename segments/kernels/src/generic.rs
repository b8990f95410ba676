//! The kernels, each written once.
//!
//! A float kernel keeps four independent sums, so that the processor can overlap the additions, goes through the
//! slices four vectors at a time, then one, then the rest through a masked load. The result of `n` numbers differs
//! from the exact one by at most about `n * 2^-24` of the sum of absolute products (less: the sums are short).

use crate::vector::{Bytes, Doubles, Floats};

/// `sum a_i b_i`.
///
/// # Safety
/// The processor has the instruction set of `V`; `a` and `b` have the same length.
#[inline(always)]
pub(crate) unsafe fn dot<V: Floats>(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: the caller's promise.
    unsafe { accumulate::<V>(a, b, |x, y, sum| x.mul_add(y, sum)) }
}

/// `sum (a_i - b_i)^2`.
///
/// # Safety
/// As [`dot`].
#[inline(always)]
pub(crate) unsafe fn l2<V: Floats>(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: the caller's promise. Lanes beyond the end are zero on both sides and add nothing.
    unsafe {
        accumulate::<V>(a, b, |x, y, sum| {
            let d = x.sub(y);
            d.mul_add(d, sum)
        })
    }
}

/// # Safety
/// As [`dot`].
#[inline(always)]
unsafe fn accumulate<V: Floats>(a: &[f32], b: &[f32], step: impl Fn(V, V, V) -> V) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    let len = a.len();
    let (a, b) = (a.as_ptr(), b.as_ptr());
    // SAFETY: every load lies below `len`, the length of both slices.
    unsafe {
        let mut sums = [V::zero(); 4];
        let mut at = 0;
        while at + 4 * V::LANES <= len {
            for (lane, sum) in sums.iter_mut().enumerate() {
                let place = at + lane * V::LANES;
                *sum = step(V::load(a.add(place)), V::load(b.add(place)), *sum);
            }
            at += 4 * V::LANES;
        }
        while at + V::LANES <= len {
            sums[0] = step(V::load(a.add(at)), V::load(b.add(at)), sums[0]);
            at += V::LANES;
        }
        if at < len {
            let rest = len - at;
            sums[1] = step(V::load_first(a.add(at), rest), V::load_first(b.add(at), rest), sums[1]);
        }
        sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum()
    }
}

/// `sum a_i b_i` in double precision.
///
/// # Safety
/// The processor has the instruction set of `V`; `a` and `b` have the same length.
#[inline(always)]
pub(crate) unsafe fn dot_precise<V: Doubles>(a: &[f32], b: &[f32]) -> f64 {
    debug_assert_eq!(a.len(), b.len());
    let whole = a.len() / (2 * V::LANES) * (2 * V::LANES);
    // SAFETY: every load lies below `whole`, which is at most the length of both slices.
    let mut total = unsafe {
        let mut sums = [V::zero(); 2];
        for at in (0..whole).step_by(2 * V::LANES) {
            for (lane, sum) in sums.iter_mut().enumerate() {
                let place = at + lane * V::LANES;
                *sum = V::load(a.as_ptr().add(place)).mul_add(V::load(b.as_ptr().add(place)), *sum);
            }
        }
        sums[0].sum() + sums[1].sum()
    };
    for (x, y) in a[whole..].iter().zip(&b[whole..]) {
        total += f64::from(*x) * f64::from(*y);
    }
    total
}

/// `sum (a_i - b_i)^2` in double precision.
///
/// # Safety
/// As [`dot_precise`].
#[inline(always)]
pub(crate) unsafe fn l2_precise<V: Doubles>(a: &[f32], b: &[f32]) -> f64 {
    debug_assert_eq!(a.len(), b.len());
    let whole = a.len() / (2 * V::LANES) * (2 * V::LANES);
    // SAFETY: as in `dot_precise`.
    let mut total = unsafe {
        let mut sums = [V::zero(); 2];
        for at in (0..whole).step_by(2 * V::LANES) {
            for (lane, sum) in sums.iter_mut().enumerate() {
                let place = at + lane * V::LANES;
                let d = V::load(a.as_ptr().add(place)).sub(V::load(b.as_ptr().add(place)));
                *sum = d.mul_add(d, *sum);
            }
        }
        sums[0].sum() + sums[1].sum()
    };
    for (x, y) in a[whole..].iter().zip(&b[whole..]) {
        let d = f64::from(*x) - f64::from(*y);
        total += d * d;
    }
    total
}

/// `(sum a_i b_i, sum b_i^2)` in double precision, reading `b` once.
///
/// # Safety
/// As [`dot_precise`].
#[inline(always)]
pub(crate) unsafe fn dot_norm_precise<V: Doubles>(a: &[f32], b: &[f32]) -> (f64, f64) {
    debug_assert_eq!(a.len(), b.len());
    let whole = a.len() / V::LANES * V::LANES;
    // SAFETY: as in `dot_precise`.
    let (mut dot, mut norm) = unsafe {
        let (mut dots, mut norms) = (V::zero(), V::zero());
        for at in (0..whole).step_by(V::LANES) {
            let y = V::load(b.as_ptr().add(at));
            dots = V::load(a.as_ptr().add(at)).mul_add(y, dots);
            norms = y.mul_add(y, norms);
        }
        (dots.sum(), norms.sum())
    };
    for (x, y) in a[whole..].iter().zip(&b[whole..]) {
        let (x, y) = (f64::from(*x), f64::from(*y));
        dot += x * y;
        norm += y * y;
    }
    (dot, norm)
}

/// `sum codes_i query_i`, exactly. Below 65,536 bytes no sum leaves the 32 bits: `65536 * 255 * 127 < 2^31`.
///
/// # Safety
/// The processor has the instruction set of `V`; the slices have the same length, a multiple of 64.
#[inline(always)]
pub(crate) unsafe fn dot_u8i8<V: Bytes>(codes: &[u8], query: &[i8]) -> i32 {
    debug_assert!(codes.len() == query.len() && codes.len().is_multiple_of(64));
    let (c, q) = (codes.as_ptr(), query.as_ptr());
    // SAFETY: `STEP` divides 64 and 64 divides the length: every step lies inside both slices.
    unsafe {
        let mut sum = V::zero();
        let mut at = 0;
        while at < codes.len() {
            sum = sum.add_products(c.add(at), q.add(at));
            at += V::STEP;
        }
        sum.sum()
    }
}
