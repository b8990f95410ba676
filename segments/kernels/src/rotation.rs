//! A random rotation that costs `O(D log D)`: rounds of random signs, Hadamard transforms and Givens steps.
//!
//! Codes of one bit per dimension are good when no dimension matters more than another; after a random rotation
//! none does. A dense rotation would cost `D^2`. Four rounds of: random signs, the normalised Hadamard transform of the
//! first or last `2^k` numbers, and a step that mixes number `i` with number `i + D/2`, come near it (Kac's walk; as
//! RaBitQ's published code does it, arXiv 2405.12497). All steps are orthogonal, so distances stay what they are.

use crate::Kernels;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::f32::consts::FRAC_1_SQRT_2;
use std::ops::Range;

/// Rounds of signs and transforms.
const ROUNDS: usize = 4;

/// A rotation of vectors whose dimension is a multiple of 32, the same for the same seed on every processor up to
/// rounding.
#[derive(Clone, Debug)]
pub struct Rotation {
    dimension: usize,
    /// `ROUNDS * dimension` factors, 1 or -1.
    signs: Vec<f32>,
}

impl Rotation {
    /// Panics when the dimension is no multiple of 32.
    pub fn new(dimension: usize, seed: u64) -> Rotation {
        assert!(
            dimension >= 32 && dimension.is_multiple_of(32),
            "the dimension {dimension} is no multiple of 32"
        );
        let mut state = seed;
        let mut bits = 0u64;
        let signs = (0..ROUNDS * dimension).map(|i| {
            if i % 64 == 0 {
                bits = splitmix64(&mut state);
            }
            let sign = if bits & 1 == 1 { 1.0 } else { -1.0 };
            bits >>= 1;
            sign
        });
        Rotation { dimension, signs: signs.collect() }
    }

    /// Bytes of memory held beside the value itself.
    pub fn bytes(&self) -> u64 {
        size_of_val(&self.signs[..]) as u64
    }

    /// Rotates in place. Panics for another length.
    pub fn apply(&self, kernels: Kernels, numbers: &mut [f32]) {
        assert_eq!(numbers.len(), self.dimension);
        match kernels.name() {
            // SAFETY: a value of `Kernels` is the proof that the processor has the backend.
            #[cfg(target_arch = "x86_64")]
            "avx512" => unsafe { wide::rotate(&self.signs, numbers) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            "avx2" => unsafe { rotate_avx2(&self.signs, numbers) },
            _ => rotate(&self.signs, numbers, small_portable),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn rotate_avx2(signs: &[f32], numbers: &mut [f32]) {
    rotate(signs, numbers, |block| small_avx2(block));
}

/// Which numbers a round transforms, and which it leaves.
fn parts(round: usize, len: usize) -> (Range<usize>, Range<usize>) {
    let power = 1 << len.ilog2();
    if round.is_multiple_of(2) { (0..power, power..len) } else { (len - power..len, 0..len - power) }
}

#[inline(always)]
fn rotate(signs: &[f32], numbers: &mut [f32], small: impl Fn(&mut [f32; SMALL])) {
    for (round, signs) in signs.chunks_exact(numbers.len()).enumerate() {
        let (part, rest) = parts(round, numbers.len());
        for (x, sign) in numbers.iter_mut().zip(signs) {
            *x *= sign;
        }
        hadamard(&mut numbers[part], &small);
        if !rest.is_empty() {
            let (front, back) = numbers.split_at_mut(numbers.len() / 2);
            for (a, b) in front.iter_mut().zip(back) {
                (*a, *b) = ((*a + *b) * FRAC_1_SQRT_2, (*a - *b) * FRAC_1_SQRT_2);
            }
        }
    }
}

/// Numbers that are transformed within one or two registers.
const SMALL: usize = 16;
/// The orthogonal Hadamard transform of `2^k` numbers, at least 16. `small` transforms 16 without the scale.
#[inline(always)]
fn hadamard(numbers: &mut [f32], small: impl Fn(&mut [f32; SMALL])) {
    let scale = 1.0 / (numbers.len() as f32).sqrt();
    let (blocks, _) = numbers.as_chunks_mut::<SMALL>();
    for block in blocks {
        small(block);
        for x in block {
            *x *= scale;
        }
    }
    let mut half = SMALL;
    while half < numbers.len() {
        for pair in numbers.chunks_exact_mut(2 * half) {
            let (front, back) = pair.split_at_mut(half);
            for (a, b) in front.iter_mut().zip(back) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

fn small_portable(block: &mut [f32; SMALL]) {
    for half in [1, 2, 4, 8] {
        for i in 0..SMALL {
            if i & half == 0 {
                (block[i], block[i + half]) = (block[i] + block[i + half], block[i] - block[i + half]);
            }
        }
    }
}

/// Each step adds the number `half` places away, and takes its own with the sign of its place.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma")]
fn small_avx2(block: &mut [f32; SMALL]) {
    let first = _mm256_setr_ps(1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0);
    let second = _mm256_setr_ps(1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0);
    let third = _mm256_setr_ps(1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0);
    let eight = |x| {
        let x = _mm256_fmadd_ps(x, first, _mm256_permute_ps::<0b10_11_00_01>(x));
        let x = _mm256_fmadd_ps(x, second, _mm256_permute_ps::<0b01_00_11_10>(x));
        _mm256_fmadd_ps(x, third, _mm256_permute2f128_ps::<1>(x, x))
    };
    let start = block.as_mut_ptr();
    // SAFETY: eight numbers at either place, at any alignment.
    unsafe {
        let (a, b) = (eight(_mm256_loadu_ps(start)), eight(_mm256_loadu_ps(start.add(8))));
        _mm256_storeu_ps(start, _mm256_add_ps(a, b));
        _mm256_storeu_ps(start.add(8), _mm256_sub_ps(a, b));
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    //! The same by registers of AVX-512. Sixteen of them hold 256 numbers, which take eight steps without a pass over memory
    //! between; and what is stored by whole registers can be loaded by whole registers at once. (Left to the compiler, which
    //! stores half registers, a rotation of 384 numbers takes three times as long.)

    use super::{FRAC_1_SQRT_2, parts};
    use std::arch::x86_64::*;

    /// Numbers of one register.
    const LANES: usize = 16;
    /// Registers that are transformed together.
    const TOGETHER: usize = 16;

    /// The dimension is a multiple of 32.
    #[target_feature(enable = "avx2,fma,avx512f")]
    pub(super) fn rotate(signs: &[f32], numbers: &mut [f32]) {
        for (round, signs) in signs.chunks_exact(numbers.len()).enumerate() {
            let (part, rest) = parts(round, numbers.len());
            let (signs, _) = signs.as_chunks::<LANES>();
            let (numbers, _) = numbers.as_chunks_mut::<LANES>();
            let in_lanes = |range: &std::ops::Range<usize>| range.start / LANES..range.end / LANES;
            for (x, sign) in numbers[in_lanes(&rest)].iter_mut().zip(&signs[in_lanes(&rest)]) {
                store(x, _mm512_mul_ps(load(x), load(sign)));
            }
            transform(&mut numbers[in_lanes(&part)], &signs[in_lanes(&part)]);
            if !rest.is_empty() {
                let half = _mm512_set1_ps(FRAC_1_SQRT_2);
                let (front, back) = numbers.split_at_mut(numbers.len() / 2);
                for (front, back) in front.iter_mut().zip(back) {
                    let (a, b) = (_mm512_mul_ps(load(front), half), _mm512_mul_ps(load(back), half));
                    store(front, _mm512_add_ps(a, b));
                    store(back, _mm512_sub_ps(a, b));
                }
            }
        }
    }

    /// The orthogonal Hadamard transform of `2^k` numbers times their signs.
    #[inline]
    #[target_feature(enable = "avx2,fma,avx512f")]
    fn transform(numbers: &mut [[f32; LANES]], signs: &[[f32; LANES]]) {
        let scale = _mm512_set1_ps(1.0 / ((LANES * numbers.len()) as f32).sqrt());
        let (blocks, _) = numbers.as_chunks_mut::<TOGETHER>();
        let mut half = if blocks.is_empty() { 1 } else { TOGETHER };
        for (block, signs) in blocks.iter_mut().zip(signs.as_chunks::<TOGETHER>().0) {
            // Written out, for the compiler keeps an array in registers only when it knows each index.
            macro_rules! registers {
                ($($i:literal)*) => {
                    [$(within(_mm512_mul_ps(load(&block[$i]), _mm512_mul_ps(load(&signs[$i]), scale)))),*]
                };
            }
            let mut x = registers!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
            macro_rules! step {
                ($half:literal: $($i:literal)*) => {$(
                    (x[$i], x[$i + $half]) =
                        (_mm512_add_ps(x[$i], x[$i + $half]), _mm512_sub_ps(x[$i], x[$i + $half]));
                )*};
            }
            step!(1: 0 2 4 6 8 10 12 14);
            step!(2: 0 1 4 5 8 9 12 13);
            step!(4: 0 1 2 3 8 9 10 11);
            step!(8: 0 1 2 3 4 5 6 7);
            for (to, x) in block.iter_mut().zip(x) {
                store(to, x);
            }
        }
        if half == 1 {
            for (x, sign) in numbers.iter_mut().zip(signs) {
                store(x, within(_mm512_mul_ps(load(x), _mm512_mul_ps(load(sign), scale))));
            }
        }
        while half < numbers.len() {
            for pair in numbers.chunks_exact_mut(2 * half) {
                let (front, back) = pair.split_at_mut(half);
                for (front, back) in front.iter_mut().zip(back) {
                    let (a, b) = (load(front), load(back));
                    store(front, _mm512_add_ps(a, b));
                    store(back, _mm512_sub_ps(a, b));
                }
            }
            half *= 2;
        }
    }

    /// Transforms sixteen numbers: each step adds the number `half` places away, and takes its own with the sign of its
    /// place.
    #[inline]
    #[target_feature(enable = "avx2,fma,avx512f")]
    fn within(x: __m512) -> __m512 {
        let sign = |half: u16| {
            let minus = [0xaaaa, 0xcccc, 0, 0xf0f0, 0, 0, 0, 0xff00][usize::from(half) - 1];
            _mm512_mask_blend_ps(minus, _mm512_set1_ps(1.0), _mm512_set1_ps(-1.0))
        };
        let x = _mm512_fmadd_ps(x, sign(1), _mm512_permute_ps::<0b10_11_00_01>(x));
        let x = _mm512_fmadd_ps(x, sign(2), _mm512_permute_ps::<0b01_00_11_10>(x));
        let x = _mm512_fmadd_ps(x, sign(4), _mm512_shuffle_f32x4::<0b10_11_00_01>(x, x));
        _mm512_fmadd_ps(x, sign(8), _mm512_shuffle_f32x4::<0b01_00_11_10>(x, x))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(from: &[f32; LANES]) -> __m512 {
        // SAFETY: sixteen numbers, at any alignment.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store(to: &mut [f32; LANES], x: __m512) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) };
    }
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels;

    #[test]
    fn lengths_and_angles_stay_and_every_backend_turns_alike() {
        for dimension in [32, 64, 192, 384, 1024, 4160] {
            let rotation = Rotation::new(dimension, 9);
            let a: Vec<f32> = (0..dimension).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
            let mut b = vec![0f32; dimension];
            b[dimension / 3] = 1.0;
            let (mut x, mut y) = (a.clone(), b.clone());
            rotation.apply(kernels(), &mut x);
            rotation.apply(kernels(), &mut y);
            let dot = |a: &[f32], b: &[f32]| kernels().dot(a, b);
            assert!((dot(&x, &x) - dot(&a, &a)).abs() < dot(&a, &a) * 1e-5, "{dimension}");
            assert!((dot(&x, &y) - dot(&a, &b)).abs() < 1e-3, "{dimension}");
            // One number is spread over all of them.
            assert!(y.iter().all(|y| y.abs() < 8.0 / (dimension as f32).sqrt()), "{dimension}");
            for other in Kernels::supported() {
                let mut z = a.clone();
                rotation.apply(other, &mut z);
                assert!(x.iter().zip(&z).all(|(x, z)| (x - z).abs() < 1e-4), "{dimension}: {other:?}");
            }
        }
    }

    #[test]
    fn another_seed_is_another_rotation() {
        let [mut a, mut b] = [[1f32; 64]; 2];
        Rotation::new(64, 1).apply(kernels(), &mut a);
        Rotation::new(64, 2).apply(kernels(), &mut b);
        assert_ne!(a, b);
    }
}
