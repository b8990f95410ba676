//! Writing inline rows: the bits and factors of each neighbour, seen from its centre.

use super::{BLOCK_LINKS, InlineShape, NO_NEIGHBOUR};
use crate::Kernels;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// Dimensions whose bits are found together.
const STEP: usize = 16;

/// The largest number of half precision.
const LARGEST: f32 = 65_504.0;

/// Memory that encoding uses again.
#[derive(Default, Debug)]
pub struct EncodeWork {
    centre: Vec<f32>,
    other: Vec<f32>,
    bits: Vec<u16>,
}

impl InlineShape {
    /// Writes a row. `vector(id)` gives the rotated vector of a neighbour, as it is stored in its own row; `links`
    /// has at most [`InlineShape::places`] ids. Panics when lengths do not fit.
    pub fn encode<'a>(
        self,
        kernels: Kernels,
        centre: &[f16],
        links: &[u32],
        vector: impl Fn(u32) -> &'a [f16],
        out: &mut [u8],
        work: &mut EncodeWork,
    ) {
        assert!(centre.len() == self.dimension && links.len() <= self.places() && out.len() == self.stride());
        out.fill(0);
        for (place, x) in out.chunks_exact_mut(2).zip(centre) {
            place.copy_from_slice(&x.to_le_bytes());
        }
        work.centre.resize(self.dimension, 0.0);
        work.other.resize(self.dimension, 0.0);
        work.bits.resize(self.dimension / STEP, 0);
        centre.convert_to_f32_slice(&mut work.centre);
        for place in 0..self.places() {
            let (block, lane) = (place / BLOCK_LINKS, place % BLOCK_LINKS);
            let (add, rescale) = match links.get(place) {
                Some(&link) => {
                    vector(link).convert_to_f32_slice(&mut work.other);
                    let factors = difference(kernels, &work.centre, &work.other, &mut work.bits);
                    let at = self.codes_at() + block * self.dimension * 4;
                    let (codes, _) = out[at..at + self.dimension * 4].as_chunks_mut::<16>();
                    let shift = if lane < 16 { 0 } else { 4 };
                    for (groups, bits) in codes.chunks_exact_mut(4).zip(&work.bits) {
                        for (i, group) in groups.iter_mut().enumerate() {
                            group[lane % 16] |= ((bits >> (4 * i) & 15) as u8) << shift;
                        }
                    }
                    factors
                }
                None => (f32::INFINITY, 0.0),
            };
            let at = self.factors_at() + block * BLOCK_LINKS * 4 + lane * 2;
            out[at..at + 2].copy_from_slice(&f16::from_f32(add).to_le_bytes());
            out[at + 64..at + 66].copy_from_slice(&f16::from_f32(rescale).to_le_bytes());
            let id = links.get(place).copied().unwrap_or(NO_NEIGHBOUR);
            let at = self.ids_at() + place * 4;
            out[at..at + 4].copy_from_slice(&id.to_le_bytes());
        }
    }
}

/// The signs of `other - centre`, and the two factors of the estimate.
fn difference(kernels: Kernels, centre: &[f32], other: &[f32], bits: &mut [u16]) -> (f32, f32) {
    let [square, sum, along] = match kernels.name() {
        // SAFETY: a value of `Kernels` is the proof that the processor has the backend.
        #[cfg(target_arch = "x86_64")]
        "avx512" => unsafe { sums_avx512(centre, other, bits) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        "avx2" => unsafe { sums_avx2(centre, other, bits) },
        _ => sums(centre, other, bits),
    };
    if sum == 0.0 {
        // A duplicate of the centre is as far as the centre is.
        return (0.0, 0.0);
    }
    // <r, x - 1/2> is half the sum of |r_i|, and <c, x - 1/2> is half of `along`.
    let rescale = -4.0 * square / sum;
    // A factor beyond what half precision holds would put the neighbour out of every walk's sight.
    let held = |factor: f32| factor.clamp(-LARGEST, LARGEST);
    (held(square - rescale * along / 2.0), held(rescale))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")]
fn sums_avx512(centre: &[f32], other: &[f32], bits: &mut [u16]) -> [f32; 3] {
    sums(centre, other, bits)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn sums_avx2(centre: &[f32], other: &[f32], bits: &mut [u16]) -> [f32; 3] {
    sums(centre, other, bits)
}

/// With `r` the difference: `sum r_i^2`, `sum |r_i|`, `sum c_i sign(r_i)`; the signs go into `bits`.
#[inline(always)]
fn sums(centre: &[f32], other: &[f32], bits: &mut [u16]) -> [f32; 3] {
    let (centre, _) = centre.as_chunks::<STEP>();
    let (other, _) = other.as_chunks::<STEP>();
    let (mut square, mut sum, mut along) = ([0f32; STEP], [0f32; STEP], [0f32; STEP]);
    for ((centre, other), bits) in centre.iter().zip(other).zip(bits) {
        let mut signs = 0;
        for i in 0..STEP {
            let difference = other[i] - centre[i];
            square[i] += difference * difference;
            sum[i] += difference.abs();
            along[i] += if difference > 0.0 { centre[i] } else { -centre[i] };
            signs |= u16::from(difference > 0.0) << i;
        }
        *bits = signs;
    }
    [square.iter().sum(), sum.iter().sum(), along.iter().sum()]
}
