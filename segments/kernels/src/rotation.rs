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
            "avx512" => unsafe { rotate_avx512(&self.signs, numbers) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            "avx2" => unsafe { rotate_avx2(&self.signs, numbers) },
            _ => rotate(&self.signs, numbers, |numbers, signs| transform(numbers, signs, small_portable)),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")]
fn rotate_avx512(signs: &[f32], numbers: &mut [f32]) {
    rotate(signs, numbers, |numbers, signs| {
        let (blocks, _) = numbers.as_chunks_mut::<LARGE>();
        if blocks.is_empty() {
            return transform(numbers, signs, |block| small_avx512(block));
        }
        let scale = 1.0 / ((LARGE * blocks.len()) as f32).sqrt();
        for (block, signs) in blocks.iter_mut().zip(signs.as_chunks::<LARGE>().0) {
            large_avx512(block, signs, scale);
        }
        butterflies(numbers, LARGE);
    });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn rotate_avx2(signs: &[f32], numbers: &mut [f32]) {
    rotate(signs, numbers, |numbers, signs| transform(numbers, signs, |block| small_avx2(block)));
}

/// `transform` takes `2^k` numbers and their signs to the orthogonal Hadamard transform of their products.
#[inline(always)]
fn rotate(signs: &[f32], numbers: &mut [f32], transform: impl Fn(&mut [f32], &[f32])) {
    let power = 1 << numbers.len().ilog2();
    for (round, signs) in signs.chunks_exact(numbers.len()).enumerate() {
        let rest = numbers.len() - power;
        let (part, rest) =
            if round % 2 == 0 { (0..power, power..numbers.len()) } else { (rest..numbers.len(), 0..rest) };
        for (x, sign) in numbers[rest.clone()].iter_mut().zip(&signs[rest]) {
            *x *= sign;
        }
        transform(&mut numbers[part.clone()], &signs[part]);
        if power < numbers.len() {
            let (front, back) = numbers.split_at_mut(numbers.len() / 2);
            for (a, b) in front.iter_mut().zip(back) {
                (*a, *b) = ((*a + *b) * FRAC_1_SQRT_2, (*a - *b) * FRAC_1_SQRT_2);
            }
        }
    }
}

/// Numbers that are transformed within one or two registers.
const SMALL: usize = 16;
/// Numbers that are transformed within sixteen registers of AVX-512.
#[cfg(target_arch = "x86_64")]
const LARGE: usize = 256;

/// The orthogonal Hadamard transform of `2^k` numbers, at least 16, times their signs. `small` transforms 16 without the scale.
#[inline(always)]
fn transform(numbers: &mut [f32], signs: &[f32], small: impl Fn(&mut [f32; SMALL])) {
    let scale = 1.0 / (numbers.len() as f32).sqrt();
    for (x, sign) in numbers.iter_mut().zip(signs) {
        *x *= sign * scale;
    }
    let (blocks, _) = numbers.as_chunks_mut::<SMALL>();
    blocks.iter_mut().for_each(small);
    butterflies(numbers, SMALL);
}

/// The steps from `half` on.
#[inline(always)]
fn butterflies(numbers: &mut [f32], mut half: usize) {
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

/// Transforms sixteen numbers: each step adds the number `half` places away, and takes its own with the sign of its place.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,avx512f")]
fn register_avx512(x: __m512) -> __m512 {
    let sign = |half: u16| {
        let minus = [0xaaaa, 0xcccc, 0, 0xf0f0, 0, 0, 0, 0xff00][usize::from(half) - 1];
        _mm512_mask_blend_ps(minus, _mm512_set1_ps(1.0), _mm512_set1_ps(-1.0))
    };
    let x = _mm512_fmadd_ps(x, sign(1), _mm512_permute_ps::<0b10_11_00_01>(x));
    let x = _mm512_fmadd_ps(x, sign(2), _mm512_permute_ps::<0b01_00_11_10>(x));
    let x = _mm512_fmadd_ps(x, sign(4), _mm512_shuffle_f32x4::<0b10_11_00_01>(x, x));
    _mm512_fmadd_ps(x, sign(8), _mm512_shuffle_f32x4::<0b01_00_11_10>(x, x))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,avx512f")]
fn small_avx512(block: &mut [f32; SMALL]) {
    // SAFETY: 16 numbers, at any alignment.
    unsafe { _mm512_storeu_ps(block.as_mut_ptr(), register_avx512(_mm512_loadu_ps(block.as_ptr()))) };
}

/// Transforms 256 numbers, times their signs and the scale, without leaving the registers: half the time of a pass over memory for
/// each step.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,avx512f")]
fn large_avx512(block: &mut [f32; LARGE], signs: &[f32; LARGE], scale: f32) {
    let (numbers, _) = block.as_chunks_mut::<SMALL>();
    let (signs, _) = signs.as_chunks::<SMALL>();
    let scale = _mm512_set1_ps(scale);
    let mut x = [_mm512_setzero_ps(); LARGE / SMALL];
    for ((x, numbers), signs) in x.iter_mut().zip(&*numbers).zip(signs) {
        // SAFETY: 16 numbers each, at any alignment.
        let (numbers, signs) =
            unsafe { (_mm512_loadu_ps(numbers.as_ptr()), _mm512_loadu_ps(signs.as_ptr())) };
        *x = register_avx512(_mm512_mul_ps(numbers, _mm512_mul_ps(signs, scale)));
    }
    for half in [1, 2, 4, 8] {
        for i in 0..LARGE / SMALL {
            if i & half == 0 {
                (x[i], x[i + half]) = (_mm512_add_ps(x[i], x[i + half]), _mm512_sub_ps(x[i], x[i + half]));
            }
        }
    }
    for (numbers, x) in numbers.iter_mut().zip(x) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(numbers.as_mut_ptr(), x) };
    }
}

/// As [`small_avx512`], in two halves.
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
