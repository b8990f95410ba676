//! The kernels, each written once; those for many queries and many rows are in `many.rs`.
//!
//! A float kernel keeps four independent sums, so that the processor can overlap the additions, goes through the
//! slices four vectors at a time, then one, then the rest through a masked load. The result of `n` numbers differs
//! from the exact one by at most about `n * 2^-24` of the sum of absolute products (less: the sums are short).

pub(crate) use crate::many::{dots_many, reaching};
use crate::vector::{Bytes, Doubles, Floats};
use half::f16;

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

/// `sum (from_i - row_i)^2` of four rows in half precision: the row they are compared with is loaded once for all four, and no
/// sum waits for another.
///
/// # Safety
/// The processor has the instruction set of `V`; all slices have the same length, a multiple of 16.
#[inline(always)]
pub(crate) unsafe fn l2_halves<V: Floats>(from: &[f32], rows: &[&[f16]; 4]) -> [f32; 4] {
    debug_assert!(rows.iter().all(|row| row.len() == from.len()) && from.len().is_multiple_of(16));
    let rows = rows.map(<[f16]>::as_ptr);
    // SAFETY: `LANES` divides 16 and 16 divides the length: every step lies inside all slices.
    unsafe {
        let mut sums = [V::zero(); 4];
        let mut at = 0;
        while at < from.len() {
            let x = V::load(from.as_ptr().add(at));
            for (sum, row) in sums.iter_mut().zip(rows) {
                let d = x.sub(V::load_halves(row.add(at)));
                *sum = d.mul_add(d, *sum);
            }
            at += V::LANES;
        }
        V::sums(sums)
    }
}

/// Half precision to single precision.
///
/// # Safety
/// As [`l2_halves`].
#[inline(always)]
pub(crate) unsafe fn widen<V: Floats>(halves: &[f16], out: &mut [f32]) {
    debug_assert!(halves.len() == out.len() && out.len().is_multiple_of(16));
    for at in (0..out.len()).step_by(V::LANES) {
        // SAFETY: as in `l2_halves`.
        unsafe { V::load_halves(halves.as_ptr().add(at)).store(out.as_mut_ptr().add(at)) }
    }
}

/// Single precision to half precision.
///
/// # Safety
/// As [`l2_halves`].
#[inline(always)]
pub(crate) unsafe fn narrow<V: Floats>(numbers: &[f32], out: &mut [f16]) {
    debug_assert!(numbers.len() == out.len() && out.len().is_multiple_of(16));
    for at in (0..out.len()).step_by(V::LANES) {
        // SAFETY: as in `l2_halves`.
        unsafe { V::load(numbers.as_ptr().add(at)).store_halves(out.as_mut_ptr().add(at)) }
    }
}

/// `(sum a_i b_i, sum b_i^2)`, reading `b` once. Two sums of each: memory is slower than that.
///
/// # Safety
/// As [`dot`].
#[inline(always)]
pub(crate) unsafe fn dot_norm<V: Floats>(a: &[f32], b: &[f32]) -> (f32, f32) {
    debug_assert_eq!(a.len(), b.len());
    let len = a.len();
    let (a, b) = (a.as_ptr(), b.as_ptr());
    // SAFETY: every load lies below `len`, the length of both slices.
    unsafe {
        let (mut dots, mut norms) = ([V::zero(); 2], [V::zero(); 2]);
        let mut at = 0;
        while at + 2 * V::LANES <= len {
            for (lane, (dot, norm)) in dots.iter_mut().zip(&mut norms).enumerate() {
                let place = at + lane * V::LANES;
                let y = V::load(b.add(place));
                *dot = V::load(a.add(place)).mul_add(y, *dot);
                *norm = y.mul_add(y, *norm);
            }
            at += 2 * V::LANES;
        }
        if at + V::LANES <= len {
            let y = V::load(b.add(at));
            dots[0] = V::load(a.add(at)).mul_add(y, dots[0]);
            norms[0] = y.mul_add(y, norms[0]);
            at += V::LANES;
        }
        if at < len {
            let rest = len - at;
            let y = V::load_first(b.add(at), rest);
            dots[1] = V::load_first(a.add(at), rest).mul_add(y, dots[1]);
            norms[1] = y.mul_add(y, norms[1]);
        }
        (dots[0].add(dots[1]).sum(), norms[0].add(norms[1]).sum())
    }
}

/// `sum a_i b_i` in double precision. Four sums, not two: with AVX2, 15 to 50 percent faster from 128
/// to 768 dimensions, 3 percent slower at 64.
///
/// # Safety
/// The processor has the instruction set of `V`; `a` and `b` have the same length.
#[inline(always)]
pub(crate) unsafe fn dot_precise<V: Doubles>(a: &[f32], b: &[f32]) -> f64 {
    debug_assert_eq!(a.len(), b.len());
    let mut at = 0;
    // SAFETY: every load ends at or below `a.len()`, the length of both slices.
    let mut total = unsafe {
        let mut sums = [V::zero(); 4];
        while at + 4 * V::LANES <= a.len() {
            for (lane, sum) in sums.iter_mut().enumerate() {
                let place = at + lane * V::LANES;
                *sum = V::load(a.as_ptr().add(place)).mul_add(V::load(b.as_ptr().add(place)), *sum);
            }
            at += 4 * V::LANES;
        }
        while at + V::LANES <= a.len() {
            sums[0] = V::load(a.as_ptr().add(at)).mul_add(V::load(b.as_ptr().add(at)), sums[0]);
            at += V::LANES;
        }
        (sums[0].sum() + sums[1].sum()) + (sums[2].sum() + sums[3].sum())
    };
    for (x, y) in a[at..].iter().zip(&b[at..]) {
        total += f64::from(*x) * f64::from(*y);
    }
    total
}

/// `sum (a_i - b_i)^2` in double precision. Four sums, not two: with AVX2, 5 to 20 percent faster from
/// 200 to 768 dimensions, up to 10 percent slower at 64, 120 and 128.
///
/// # Safety
/// As [`dot_precise`].
#[inline(always)]
pub(crate) unsafe fn l2_precise<V: Doubles>(a: &[f32], b: &[f32]) -> f64 {
    debug_assert_eq!(a.len(), b.len());
    let mut at = 0;
    // SAFETY: as in `dot_precise`.
    let mut total = unsafe {
        let mut sums = [V::zero(); 4];
        while at + 4 * V::LANES <= a.len() {
            for (lane, sum) in sums.iter_mut().enumerate() {
                let place = at + lane * V::LANES;
                let d = V::load(a.as_ptr().add(place)).sub(V::load(b.as_ptr().add(place)));
                *sum = d.mul_add(d, *sum);
            }
            at += 4 * V::LANES;
        }
        while at + V::LANES <= a.len() {
            let d = V::load(a.as_ptr().add(at)).sub(V::load(b.as_ptr().add(at)));
            sums[0] = d.mul_add(d, sums[0]);
            at += V::LANES;
        }
        (sums[0].sum() + sums[1].sum()) + (sums[2].sum() + sums[3].sum())
    };
    for (x, y) in a[at..].iter().zip(&b[at..]) {
        let d = f64::from(*x) - f64::from(*y);
        total += d * d;
    }
    total
}

/// `(sum a_i b_i, sum b_i^2)` in double precision, reading `b` once. Four sums of each, which do not
/// wait for each other: a search of 1,536 dimensions takes 2 to 3 percent less than with two, and with one, 384 and 768 dimensions took
/// half as long again.
///
/// # Safety
/// As [`dot_precise`].
#[inline(always)]
pub(crate) unsafe fn dot_norm_precise<V: Doubles>(a: &[f32], b: &[f32]) -> (f64, f64) {
    debug_assert_eq!(a.len(), b.len());
    let mut at = 0;
    // SAFETY: as in `dot_precise`.
    let (mut dot, mut norm) = unsafe {
        let (mut dots, mut norms) = ([V::zero(); 4], [V::zero(); 4]);
        while at + 4 * V::LANES <= a.len() {
            for (lane, (dot, norm)) in dots.iter_mut().zip(&mut norms).enumerate() {
                let place = at + lane * V::LANES;
                let y = V::load(b.as_ptr().add(place));
                *dot = V::load(a.as_ptr().add(place)).mul_add(y, *dot);
                *norm = y.mul_add(y, *norm);
            }
            at += 4 * V::LANES;
        }
        while at + V::LANES <= a.len() {
            let y = V::load(b.as_ptr().add(at));
            dots[0] = V::load(a.as_ptr().add(at)).mul_add(y, dots[0]);
            norms[0] = y.mul_add(y, norms[0]);
            at += V::LANES;
        }
        (dots.map(|dot| dot.sum()).iter().sum(), norms.map(|norm| norm.sum()).iter().sum())
    };
    for (x, y) in a[at..].iter().zip(&b[at..]) {
        let (x, y) = (f64::from(*x), f64::from(*y));
        dot += x * y;
        norm += y * y;
    }
    (dot, norm)
}

/// `sum codes_i (from_i - 128)` for four rows of bytes.
///
/// # Safety
/// As [`packed`].
#[inline(always)]
pub(crate) unsafe fn dots_biased<V: Bytes>(codes: &[&[u8]; 4], from: &[u8]) -> [i32; 4] {
    // SAFETY: the caller's promise.
    unsafe { packed::<V, 8>(codes, from) }
}

/// As [`dots_biased`], two codes of 4 bits a byte.
///
/// # Safety
/// As [`packed`].
#[inline(always)]
pub(crate) unsafe fn dots_nibbles<V: Bytes>(codes: &[&[u8]; 4], from: &[u8]) -> [i32; 4] {
    // SAFETY: the caller's promise.
    unsafe { packed::<V, 4>(codes, from) }
}

/// As [`dots_biased`], four codes of 2 bits a byte.
///
/// # Safety
/// As [`packed`].
#[inline(always)]
pub(crate) unsafe fn dots_crumbs<V: Bytes>(codes: &[&[u8]; 4], from: &[u8]) -> [i32; 4] {
    // SAFETY: the caller's promise.
    unsafe { packed::<V, 2>(codes, from) }
}

/// As [`dots_biased`], eight codes of 1 bit a byte.
///
/// # Safety
/// As [`packed`].
#[inline(always)]
pub(crate) unsafe fn dots_bits<V: Bytes>(codes: &[&[u8]; 4], from: &[u8]) -> [i32; 4] {
    // SAFETY: the caller's promise.
    unsafe { packed::<V, 1>(codes, from) }
}

/// The products of codes of `BITS` bits, exactly: up to 65,536 codes no sum leaves the 32 bits, `65536 * 255 * 128 < 2^31`. What
/// they are compared with is loaded once for all four rows, and no sum waits for another.
///
/// # Safety
/// The processor has the instruction set of `V`; `BITS` divides 8; the rows have the same length, a multiple of 64, and `from`
/// has `8 / BITS` times that.
#[inline(always)]
unsafe fn packed<V: Bytes, const BITS: usize>(codes: &[&[u8]; 4], from: &[u8]) -> [i32; 4] {
    let parts = 8 / BITS;
    let len = codes[0].len();
    debug_assert!(codes.iter().all(|row| row.len() * parts == from.len()) && len.is_multiple_of(64));
    let (a, b, c, d) = (codes[0].as_ptr(), codes[1].as_ptr(), codes[2].as_ptr(), codes[3].as_ptr());
    // SAFETY: `STEP` divides 64 and 64 divides the lengths: every step lies inside all rows, and in the block of `from` that
    // belongs to it.
    unsafe {
        let mut sums = [V::zero(); 4];
        let mut at = 0;
        while at < len {
            let f = from.as_ptr().add(at / 64 * 64 * parts + at % 64);
            sums[0] = sums[0].add_biased::<BITS>(a.add(at), f);
            sums[1] = sums[1].add_biased::<BITS>(b.add(at), f);
            sums[2] = sums[2].add_biased::<BITS>(c.add(at), f);
            sums[3] = sums[3].add_biased::<BITS>(d.add(at), f);
            at += V::STEP;
        }
        V::sums(sums)
    }
}
