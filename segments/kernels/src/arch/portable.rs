//! The portable kernels: fixed-width chunks that compilers turn into whatever vector instructions the target has.

use crate::vector::{Bytes, Doubles, Floats};
use half::f16;
use std::cmp::Ordering;

super::kernels_for!("portable", none, Lanes, WideLanes, Products);

#[derive(Clone, Copy)]
pub(crate) struct Lanes([f32; 8]);

#[derive(Clone, Copy)]
struct WideLanes([f64; 4]);

#[derive(Clone, Copy)]
struct Products([i32; 16]);

impl Floats for Lanes {
    const LANES: usize = 8;
    const REGISTERS: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Lanes([0.0; 8])
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Lanes([x; 8])
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise: eight numbers can be written.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn not_below(self, other: Self) -> u32 {
        // What can't be compared is not below.
        (0..8).fold(0, |bits, i| {
            bits | u32::from(!matches!(self.0[i].partial_cmp(&other.0[i]), Some(Ordering::Less))) << i
        })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise: eight numbers can be read.
        Lanes(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut lanes = [0.0; 8];
        // SAFETY: the caller's promise: `count` numbers can be read.
        lanes[..count].copy_from_slice(unsafe { std::slice::from_raw_parts(from, count) });
        Lanes(lanes)
    }

    #[inline(always)]
    unsafe fn load_halves(from: *const f16) -> Self {
        // SAFETY: the caller's promise: eight numbers can be read.
        Lanes(unsafe { from.cast::<[f16; 8]>().read_unaligned() }.map(f16::to_f32))
    }

    #[inline(always)]
    unsafe fn store_halves(self, to: *mut f16) {
        // SAFETY: the caller's promise: eight numbers can be written.
        unsafe { to.cast::<[f16; 8]>().write_unaligned(self.0.map(f16::from_f32)) }
    }

    #[inline(always)]
    unsafe fn above_zero(self) -> u32 {
        (0..8).fold(0, |bits, i| bits | u32::from(self.0[i] > 0.0) << i)
    }

    #[inline(always)]
    unsafe fn add_where(sum: Self, lanes: u32, x: Self) -> Self {
        Lanes(std::array::from_fn(|i| if lanes >> i & 1 == 1 { sum.0[i] + x.0[i] } else { sum.0[i] }))
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Lanes(self.0.map(f32::abs))
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Lanes(std::array::from_fn(|i| self.0[i] - other.0[i]))
    }

    #[inline(always)]
    unsafe fn mul_add(self, other: Self, sum: Self) -> Self {
        // Not `f32::mul_add`: without the instruction that is a slow library call.
        Lanes(std::array::from_fn(|i| self.0[i] * other.0[i] + sum.0[i]))
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Lanes(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + e) + (b + f)) + ((c + g) + (d + h))
    }
}

impl Doubles for WideLanes {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> Self {
        WideLanes([0.0; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise: four numbers can be read.
        WideLanes(unsafe { from.cast::<[f32; 4]>().read_unaligned() }.map(f64::from))
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        WideLanes(std::array::from_fn(|i| self.0[i] - other.0[i]))
    }

    #[inline(always)]
    unsafe fn mul_add(self, other: Self, sum: Self) -> Self {
        WideLanes(std::array::from_fn(|i| self.0[i] * other.0[i] + sum.0[i]))
    }

    #[inline(always)]
    unsafe fn sum(self) -> f64 {
        (self.0[0] + self.0[2]) + (self.0[1] + self.0[3])
    }
}

impl Bytes for Products {
    const STEP: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Products([0; 16])
    }

    #[inline(always)]
    unsafe fn add_biased<const BITS: usize>(self, codes: *const u8, from: *const u8) -> Self {
        // SAFETY: the caller's promise: sixteen bytes can be read.
        let c = unsafe { codes.cast::<[u8; 16]>().read_unaligned() };
        (0..8 / BITS).fold(self, |Products(sums), part| {
            // SAFETY: the caller's promise: sixteen bytes for each part.
            let f = unsafe { from.add(64 * part).cast::<[u8; 16]>().read_unaligned() };
            let code = |i: usize| i32::from(c[i] >> (BITS * part)) & ((1 << BITS) - 1);
            Products(std::array::from_fn(|i| sums[i] + code(i) * (i32::from(f[i]) - 128)))
        })
    }

    #[inline(always)]
    unsafe fn sums(four: [Self; 4]) -> [i32; 4] {
        four.map(|sums| sums.0.iter().sum())
    }
}
