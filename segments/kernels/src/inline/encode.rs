//! Writing inline rows: the bits and factors of each neighbour, seen from its centre.
//!
//! 1. One pass over a neighbour, in registers: its differences to the centre, their squares and lengths, and their signs, of
//!    which sixteen dimensions give one number.
//! 2. The signs of a block of 32 neighbours become columns: of sixteen dimensions the numbers of all 32 lie side by side, and four
//!    shifts of them are the bytes that walks look up.
//!
//! With four bits, the first pass finds how long the difference is, which is what its levels are steps of; a second one brings each
//! number to the nearest level.
//!
//! Neighbours come from anywhere in memory: each is asked for while those before it are worked on.

use super::query::{MIDDLE, nearest};
use super::{BLOCK_LINKS, InlineBits, InlineShape, NO_NEIGHBOUR};
use crate::arch;
use crate::vector::Floats;
use crate::{Kernels, prefetch_whole};
use half::f16;

/// Dimensions whose signs are one number.
const STEP: usize = 16;
/// The largest number of half precision.
const LARGEST: f32 = 65_504.0;
/// Between two levels, in standard deviations of the differences: with it, sixteen levels lose least of normal ones (Max, IRE
/// Trans. Inf. Theory 1960).
const LEVEL_STEP: f32 = 0.3352;
/// Neighbours that are asked for ahead.
const AHEAD: usize = 4;

/// Memory that encoding uses again.
#[derive(Default, Debug)]
pub struct EncodeWork {
    centre: Vec<f32>,
    /// For each sixteen dimensions the signs of a block's neighbours.
    signs: Vec<[u16; BLOCK_LINKS]>,
    /// For each four dimensions the levels of a block's neighbours.
    levels: Vec<[[u8; 4]; BLOCK_LINKS]>,
    difference: Vec<f32>,
    /// The levels of one neighbour, around zero.
    code: Vec<f32>,
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
        work.centre.resize(self.dimension, 0.0);
        match self.bits {
            InlineBits::One => work.signs.resize(self.dimension / STEP, [0; BLOCK_LINKS]),
            InlineBits::Four => {
                work.levels.resize(self.dimension / 4, [[0; 4]; BLOCK_LINKS]);
                work.difference.resize(self.dimension, 0.0);
                work.code.resize(self.dimension, 0.0);
            }
        }
        let row = Row { shape: self, centre, links, vector };
        match kernels.name() {
            // SAFETY: a value of `Kernels` is the proof that the processor has the backend.
            #[cfg(target_arch = "x86_64")]
            "avx512" => unsafe { encode_avx512(&row, out, work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            "avx2" => unsafe { encode_avx2(&row, out, work) },
            // SAFETY: every processor has this one.
            _ => unsafe { encode::<arch::portable::Lanes, _>(&row, out, work) },
        }
    }
}

/// What becomes one inline row.
struct Row<'r, F> {
    shape: InlineShape,
    centre: &'r [f16],
    links: &'r [u32],
    vector: F,
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
fn encode_avx512<'a, F: Fn(u32) -> &'a [f16]>(row: &Row<'_, F>, out: &mut [u8], work: &mut EncodeWork) {
    // SAFETY: this function is called where there is the instruction set.
    unsafe { encode::<arch::avx512::Lanes, F>(row, out, work) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn encode_avx2<'a, F: Fn(u32) -> &'a [f16]>(row: &Row<'_, F>, out: &mut [u8], work: &mut EncodeWork) {
    // SAFETY: as above.
    unsafe { encode::<arch::avx2::Lanes, F>(row, out, work) }
}

/// # Safety
/// The processor has the instruction set of `V`; lengths fit.
#[inline(always)]
unsafe fn encode<'a, V: Floats, F: Fn(u32) -> &'a [f16]>(
    row: &Row<'_, F>,
    out: &mut [u8],
    work: &mut EncodeWork,
) {
    let &Row { shape, centre, links, ref vector } = row;
    for (place, x) in out.chunks_exact_mut(2).zip(centre) {
        place.copy_from_slice(&x.to_le_bytes());
    }
    // SAFETY: the caller's promise; both have the dimension's length, a multiple of 16.
    unsafe { crate::generic::widen::<V>(centre, &mut work.centre) };
    let whole: f32 = work.centre.iter().sum();
    for &link in links.iter().take(AHEAD) {
        prefetch_whole(vector(link));
    }
    for block in 0..shape.blocks {
        let places = block * BLOCK_LINKS..(block + 1) * BLOCK_LINKS;
        let here = &links[places.start.min(links.len())..places.end.min(links.len())];
        let (mut add, mut rescale) = ([f32::INFINITY; BLOCK_LINKS], [0f32; BLOCK_LINKS]);
        if here.len() < BLOCK_LINKS {
            match shape.bits {
                InlineBits::One => work.signs.fill([0; BLOCK_LINKS]),
                InlineBits::Four => work.levels.fill([[0; 4]; BLOCK_LINKS]),
            }
        }
        for (lane, &link) in here.iter().enumerate() {
            if let Some(&later) = links.get(places.start + lane + AHEAD) {
                prefetch_whole(vector(later));
            }
            let other = vector(link);
            assert_eq!(other.len(), shape.dimension);
            // SAFETY: the caller's promise; the lengths are equal.
            (add[lane], rescale[lane]) = unsafe {
                match shape.bits {
                    InlineBits::One => {
                        factors(difference::<V>(&work.centre, other, lane, &mut work.signs), whole)
                    }
                    InlineBits::Four => levels::<V>(other, lane, work),
                }
            };
        }

        let at = shape.codes_at() + block * shape.block_bytes();
        let (codes, _) = out[at..at + shape.block_bytes()].as_chunks_mut::<{ 4 * STEP }>();
        match shape.bits {
            InlineBits::One => {
                work.signs.iter().zip(codes).for_each(|(signs, codes)| columns(signs, codes));
            }
            InlineBits::Four => {
                work.levels.iter().zip(codes).for_each(|(levels, codes)| halves(levels, codes));
            }
        }
        let at = shape.factors_at() + block * BLOCK_LINKS * 4;
        for (numbers, place) in [&add, &rescale].into_iter().zip(out[at..].chunks_exact_mut(2 * BLOCK_LINKS))
        {
            let mut halves = [f16::ZERO; BLOCK_LINKS];
            // SAFETY: the caller's promise; both have 32 numbers.
            unsafe { crate::generic::narrow::<V>(numbers, &mut halves) };
            for (place, half) in place.chunks_exact_mut(2).zip(halves) {
                place.copy_from_slice(&half.to_le_bytes());
            }
        }
        let at = shape.ids_at() + block * BLOCK_LINKS * 4;
        let ids = here.iter().copied().chain(std::iter::repeat(NO_NEIGHBOUR));
        for (place, id) in out[at..at + BLOCK_LINKS * 4].chunks_exact_mut(4).zip(ids) {
            place.copy_from_slice(&id.to_le_bytes());
        }
    }
}

/// With `r` the difference of a neighbour to the centre `c`: `sum r_i^2`, `sum |r_i|`, and the sum of the `c_i` where `r_i` is
/// above zero; which of them are, goes into a lane of `signs`.
///
/// # Safety
/// The processor has the instruction set of `V`; both slices have 16 numbers for each element of `signs`.
#[inline(always)]
unsafe fn difference<V: Floats>(
    centre: &[f32],
    other: &[f16],
    lane: usize,
    signs: &mut [[u16; BLOCK_LINKS]],
) -> [f32; 3] {
    debug_assert!(centre.len() == signs.len() * STEP && other.len() == centre.len());
    // SAFETY: the caller's promise; `LANES` divides 16.
    unsafe {
        let (mut square, mut sum, mut along) = (V::zero(), V::zero(), V::zero());
        for (step, signs) in signs.iter_mut().enumerate() {
            let mut bits = 0;
            for part in 0..STEP / V::LANES {
                let at = step * STEP + part * V::LANES;
                let c = V::load(centre.as_ptr().add(at));
                let r = V::load_halves(other.as_ptr().add(at)).sub(c);
                square = r.mul_add(r, square);
                sum = sum.add(r.abs());
                let above = r.above_zero();
                along = V::add_where(along, above, c);
                bits |= above << (part * V::LANES);
            }
            signs[lane] = bits as u16;
        }
        let [square, sum, along, _] = V::sums([square, sum, along, V::zero()]);
        [square, sum, along]
    }
}

/// The two factors of the estimate; `whole` is the sum of the centre's numbers.
#[inline(always)]
fn factors([square, sum, above]: [f32; 3], whole: f32) -> (f32, f32) {
    if sum == 0.0 {
        // A duplicate of the centre is as far as the centre is.
        return (0.0, 0.0);
    }
    // With x the signs as ones and zeros: <r, x - 1/2> is half the sum of |r_i|.
    let rescale = -4.0 * square / sum;
    // <c, x - 1/2>
    let along = above - whole / 2.0;
    held(square, rescale, along)
}

/// The levels of a neighbour, into its lane of `work.levels`, and the two factors.
///
/// # Safety
/// The processor has the instruction set of `V`; `other` has the dimension's length, and so has everything in `work`.
#[inline(always)]
unsafe fn levels<V: Floats>(other: &[f16], lane: usize, work: &mut EncodeWork) -> (f32, f32) {
    let EncodeWork { centre, difference, code, levels, .. } = work;
    // SAFETY: the caller's promise; `LANES` divides the dimension.
    unsafe {
        let mut square = V::zero();
        for at in (0..centre.len()).step_by(V::LANES) {
            let r = V::load_halves(other.as_ptr().add(at)).sub(V::load(centre.as_ptr().add(at)));
            r.store(difference.as_mut_ptr().add(at));
            square = r.mul_add(r, square);
        }
        let square = square.sum();
        let inverse = 1.0 / ((square / centre.len() as f32).sqrt() * LEVEL_STEP);
        if square == 0.0 || !inverse.is_finite() {
            levels.iter_mut().for_each(|levels| levels[lane] = [0; 4]);
            // As far as the centre is.
            return (0.0, 0.0);
        }
        for (x, r) in code.iter_mut().zip(&*difference) {
            *x = nearest(r * inverse + MIDDLE).clamp(0.0, 2.0 * MIDDLE) - MIDDLE;
        }
        for (code, levels) in code.as_chunks::<4>().0.iter().zip(levels) {
            levels[lane] = code.map(|x| (x + MIDDLE) as u8);
        }
        let (mut onto, mut along) = (V::zero(), V::zero());
        for at in (0..centre.len()).step_by(V::LANES) {
            let x = V::load(code.as_ptr().add(at));
            onto = x.mul_add(V::load(difference.as_ptr().add(at)), onto);
            along = x.mul_add(V::load(centre.as_ptr().add(at)), along);
        }
        held(square, -2.0 * square / onto.sum(), along.sum())
    }
}

/// The factors in half precision. One beyond what that holds would put the neighbour out of every walk's sight.
#[inline(always)]
fn held(square: f32, rescale: f32, along: f32) -> (f32, f32) {
    let held = |factor: f32| factor.clamp(-LARGEST, LARGEST);
    (held(square - rescale * along), held(rescale))
}

/// Of four dimensions 64 bytes: the four levels of neighbour `j` in the low halves, those of neighbour `16 + j` in the high ones.
#[inline(always)]
fn halves(levels: &[[u8; 4]; BLOCK_LINKS], codes: &mut [u8; 4 * STEP]) {
    let (low, high) = levels.split_at(BLOCK_LINKS / 2);
    for ((code, low), high) in codes.iter_mut().zip(low.as_flattened()).zip(high.as_flattened()) {
        *code = low | high << 4;
    }
}

/// Of each four dimensions sixteen bytes: the four signs of neighbour `j` in the low half of byte `j`, those of neighbour `16 + j` in
/// the high half.
#[inline(always)]
fn columns(signs: &[u16; BLOCK_LINKS], codes: &mut [u8; 4 * STEP]) {
    let (low, high) = signs.split_at(BLOCK_LINKS / 2);
    for (group, codes) in codes.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        for ((code, low), high) in codes.iter_mut().zip(low).zip(high) {
            *code = (low >> (4 * group) & 15) as u8 | ((high >> (4 * group) & 15) as u8) << 4;
        }
    }
}
