//! A query as the rows want it: its numbers, and for each four of them the table of their partial sums.

use super::{DIMENSION_MAX, DIMENSION_STEP, InlineBits, LINE};
use crate::Kernels;

/// One cache line, so that whole vectors load from one.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line<T>(T);

/// A query, prepared for rows of one shape. Kept and refilled between searches, it allocates nothing.
#[derive(Clone, Default, Debug)]
pub struct InlineQuery {
    numbers: Vec<Line<[f32; 16]>>,
    /// Four tables of 16 entries to a line.
    tables: Vec<Line<[[u8; 16]; 4]>>,
    /// The numbers in steps of one length, for codes of more than a bit.
    steps: Vec<Line<[i8; LINE]>>,
    pub(super) dimension: usize,
    pub(super) bits: InlineBits,
    /// What one step of a table is worth.
    pub(super) delta: f32,
    /// What a sum of table entries is short of: the lowest sums, less half the sum of the query.
    pub(super) offset: f32,
    length: f32,
}

/// The largest share by which rounding to half precision changes a number.
const HALF_PRECISION: f32 = 1.0 / 2048.0;
/// Half the distance between the smallest numbers of half precision.
const SMALLEST_STEP: f32 = 1.0 / 33_554_432.0;

impl InlineQuery {
    /// Takes a rotated query. Panics when its length is no multiple of [`DIMENSION_STEP`] or over [`DIMENSION_MAX`].
    pub fn prepare(&mut self, kernels: Kernels, rotated: &[f32], bits: InlineBits) {
        self.numbers_mut(rotated.len()).copy_from_slice(rotated);
        self.finish(kernels, bits);
    }

    /// Room for the numbers of a rotated query, whatever is in it: once they are there, [`InlineQuery::finish`] makes the rest.
    /// Spares a copy, and lies so that whole registers can be read and written. Until then the query is one of no dimension, which
    /// fits no rows. Panics as [`InlineQuery::prepare`] does.
    pub fn numbers_mut(&mut self, dimension: usize) -> &mut [f32] {
        assert!(dimension.is_multiple_of(DIMENSION_STEP) && dimension <= DIMENSION_MAX);
        self.dimension = 0;
        self.numbers.resize(dimension / 16, Line([0.0; 16]));
        // SAFETY: each line is sixteen numbers without a gap, and there are so many lines.
        unsafe { std::slice::from_raw_parts_mut(self.numbers.as_mut_ptr().cast(), dimension) }
    }

    /// Makes the tables of the numbers that are there.
    pub fn finish(&mut self, kernels: Kernels, bits: InlineBits) {
        self.bits = bits;
        match (kernels.name(), bits) {
            // SAFETY: a value of `Kernels` is the proof that the processor has the backend.
            #[cfg(target_arch = "x86_64")]
            ("avx512", InlineBits::One) => unsafe { self.fill_avx512() },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            ("avx512", InlineBits::Four) => unsafe { self.step_avx512() },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            ("avx2", InlineBits::One) => unsafe { self.fill_avx2() },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            ("avx2", InlineBits::Four) => unsafe { self.step_avx2() },
            (_, InlineBits::One) => self.fill_portable(),
            (_, InlineBits::Four) => self.make_steps(),
        }
        self.dimension = self.numbers.len() * 16;
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")]
    fn step_avx512(&mut self) {
        self.make_steps();
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn step_avx2(&mut self) {
        self.make_steps();
    }

    /// Makes the steps of the numbers that are there; compiled for each instruction set.
    #[inline(always)]
    fn make_steps(&mut self) {
        let mut largest = [0f32; 16];
        for Line(numbers) in &self.numbers {
            for (largest, x) in largest.iter_mut().zip(numbers) {
                *largest = largest.max(x.abs());
            }
        }
        let largest = largest.iter().fold(0f32, |a, &b| a.max(b));
        self.delta = largest / MOST_STEPS;
        let inverse = if self.delta > 0.0 { 1.0 / self.delta } else { 0.0 };
        let mut square = [0f32; 16];
        for Line(numbers) in &self.numbers {
            for (square, x) in square.iter_mut().zip(numbers) {
                *square += x * x;
            }
        }
        self.length = square.iter().sum::<f32>().sqrt();
        self.steps.resize(self.numbers.len() / 4, Line([0; LINE]));
        let mut sums = [0i32; 16];
        for (lines, Line(steps)) in self.numbers.as_chunks::<4>().0.iter().zip(&mut self.steps) {
            for (Line(numbers), steps) in lines.iter().zip(steps.as_chunks_mut::<16>().0) {
                for ((x, step), sum) in numbers.iter().zip(steps).zip(&mut sums) {
                    let whole = nearest(x * inverse).clamp(-MOST_STEPS, MOST_STEPS) as i32;
                    *sum += whole;
                    *step = whole as i8;
                }
            }
        }
        self.offset = -MIDDLE * sums.iter().sum::<i32>() as f32 * self.delta;
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")]
    fn fill_avx512(&mut self) {
        let measured = x86::measure_avx512(&self.numbers);
        let inverse = self.take(measured);
        let tables = self.tables.as_chunks_mut::<4>().0;
        for (lines, tables) in self.numbers.as_chunks::<4>().0.iter().zip(tables) {
            x86::fill_tables_avx512(lines, inverse, tables);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn fill_avx2(&mut self) {
        let measured = x86::measure_avx2(&self.numbers);
        self.fill(measured, |numbers, inverse, out| x86::fill_tables_avx2(numbers, inverse, out));
    }

    fn fill_portable(&mut self) {
        let measured = measure(&self.numbers);
        self.fill(measured, fill_tables);
    }

    /// Takes what the tables have in common; how many steps one is.
    #[inline(always)]
    fn take(&mut self, measured: Measured) -> f32 {
        self.offset = measured.lowest - measured.sum / 2.0;
        self.delta = measured.widest / STEPS;
        self.length = measured.square.sqrt();
        self.tables.resize(self.numbers.len(), Line([[0; 16]; 4]));
        if self.delta > 0.0 { 1.0 / self.delta } else { 0.0 }
    }

    #[inline(always)]
    fn fill(&mut self, measured: Measured, fill_tables: impl Fn(&[f32; 16], f32, &mut [[u8; 16]; 4])) {
        let inverse = self.take(measured);
        for (Line(numbers), Line(tables)) in self.numbers.iter().zip(&mut self.tables) {
            fill_tables(numbers, inverse, tables);
        }
    }

    /// A row at a true distance of `distance` or less is never at more than this in half precision, if `distance` itself
    /// was found in half precision.
    ///
    /// Rounding moves a stored vector by at most `e = 2^-11 |c|` (and, where its numbers are tiny, by 2^-25 each), and a
    /// squared distance `d` by at most `2 sqrt(d) e + e^2`; once for the row that `distance` was found for, and once
    /// for the other.
    pub fn upper_bound(&self, distance: f32) -> f32 {
        let root = distance.sqrt();
        let moved = (self.length + root) * HALF_PRECISION + (self.dimension as f32).sqrt() * SMALLEST_STEP;
        (root + 2.0 * moved).powi(2)
    }

    pub(super) fn numbers(&self) -> *const f32 {
        self.numbers.as_ptr().cast()
    }

    pub(super) fn steps(&self) -> *const i8 {
        self.steps.as_ptr().cast()
    }

    pub(super) fn tables(&self) -> *const u8 {
        self.tables.as_ptr().cast()
    }
}

/// The largest number of steps.
const MOST_STEPS: f32 = 127.0;

/// The middle of the sixteen levels.
pub(super) const MIDDLE: f32 = 7.5;

/// The nearest whole number, the even one of two; below 2^22. Without a call where a processor has no instruction for it.
#[inline(always)]
pub(super) fn nearest(x: f32) -> f32 {
    const ONES: f32 = 12_582_912.0;
    (x + ONES) - ONES
}

/// What the tables of a query have in common.
#[derive(Clone, Copy)]
struct Measured {
    /// Of the lowest entries.
    lowest: f32,
    sum: f32,
    square: f32,
    /// The largest difference between two entries of one table.
    widest: f32,
}

/// The largest entry of a table.
const STEPS: f32 = 63.0;

fn measure(lines: &[Line<[f32; 16]>]) -> Measured {
    let numbers = || lines.iter().flat_map(|Line(numbers)| numbers);
    let fours = lines.iter().flat_map(|Line(numbers)| numbers.as_chunks::<4>().0);
    Measured {
        lowest: numbers().map(|x| x.min(0.0)).sum(),
        sum: numbers().sum(),
        square: numbers().map(|x| x * x).sum(),
        widest: fours.fold(0.0, |widest, four| widest.max(four.iter().map(|x| x.abs()).sum())),
    }
}

/// For each four numbers all of their sums, from the lowest one up, in steps of `1 / inverse`, rounded.
fn fill_tables(numbers: &[f32; 16], inverse: f32, tables: &mut [[u8; 16]; 4]) {
    let (fours, _) = numbers.as_chunks::<4>();
    for (four, table) in fours.iter().zip(tables) {
        let low: f32 = four.iter().map(|x| x.min(0.0)).sum();
        for (m, entry) in table.iter_mut().enumerate() {
            let members = four.iter().enumerate().filter(|(i, _)| m >> i & 1 == 1);
            let sum: f32 = members.map(|(_, x)| x).sum();
            *entry = ((sum - low) * inverse).clamp(0.0, STEPS).round_ties_even() as u8;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The same by register: sixteen or eight numbers at a time when measuring, an entry to a lane when filling.

    use super::{Line, Measured, STEPS};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) fn measure_avx512(lines: &[Line<[f32; 16]>]) -> Measured {
        let zero = _mm512_setzero_ps();
        let (mut lowest, mut sum, mut square, mut widest) = (zero, zero, zero, zero);
        for Line(numbers) in lines {
            // SAFETY: sixteen numbers.
            let x = unsafe { _mm512_loadu_ps(numbers.as_ptr()) };
            lowest = _mm512_add_ps(lowest, _mm512_min_ps(x, zero));
            sum = _mm512_add_ps(sum, x);
            square = _mm512_fmadd_ps(x, x, square);
            widest = _mm512_max_ps(widest, fours_avx512(_mm512_abs_ps(x)));
        }
        Measured {
            lowest: _mm512_reduce_add_ps(lowest),
            sum: _mm512_reduce_add_ps(sum),
            square: _mm512_reduce_add_ps(square),
            widest: _mm512_reduce_max_ps(widest),
        }
    }

    /// In each lane the sum of the four numbers that its own is among.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn fours_avx512(x: __m512) -> __m512 {
        let pairs = _mm512_add_ps(x, _mm512_permute_ps::<0b10_11_00_01>(x));
        _mm512_add_ps(pairs, _mm512_permute_ps::<0b01_00_11_10>(pairs))
    }

    /// Sixteen tables at a time, a table to a lane: what is the `m`-th entry of each is one register. Two transpositions of four
    /// by four bring the numbers of sixteen tables into four registers, and four times four entries to their tables; between them,
    /// the tables are in another order, which is the same both times.
    #[inline]
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) fn fill_tables_avx512(
        lines: &[Line<[f32; 16]>; 4],
        inverse: f32,
        tables: &mut [Line<[[u8; 16]; 4]>; 4],
    ) {
        let zero = _mm512_setzero_ps();
        let load = |Line(numbers): &Line<[f32; 16]>| {
            // SAFETY: sixteen numbers.
            let x = unsafe { _mm512_loadu_ps(numbers.as_ptr()) };
            _mm512_castps_si512(_mm512_mul_ps(x, _mm512_set1_ps(inverse)))
        };
        let [a, b, c, d] = transpose([load(&lines[0]), load(&lines[1]), load(&lines[2]), load(&lines[3])]);
        let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
        let (c, d) = (_mm512_castsi512_ps(c), _mm512_castsi512_ps(d));
        let low = _mm512_add_ps(
            _mm512_add_ps(_mm512_min_ps(a, zero), _mm512_min_ps(b, zero)),
            _mm512_add_ps(_mm512_min_ps(c, zero), _mm512_min_ps(d, zero)),
        );
        // Rounded to the nearest: what is below zero by a rounding becomes zero.
        let entry = |sum| _mm512_cvtps_epi32(_mm512_min_ps(sum, _mm512_set1_ps(STEPS)));
        // The four entries in which a and b are there or not, with one sum of c and d.
        let entries = |sum| {
            let with_a = _mm512_add_ps(sum, a);
            let (p, q) = (entry(sum), entry(with_a));
            let (r, s) = (entry(_mm512_add_ps(sum, b)), entry(_mm512_add_ps(with_a, b)));
            let front = _mm512_or_si512(p, _mm512_slli_epi32::<8>(q));
            let back = _mm512_or_si512(r, _mm512_slli_epi32::<8>(s));
            _mm512_or_si512(front, _mm512_slli_epi32::<16>(back))
        };
        let none = _mm512_sub_ps(zero, low);
        let with_c = _mm512_add_ps(none, c);
        let (with_d, with_both) = (_mm512_add_ps(none, d), _mm512_add_ps(with_c, d));
        let entries = [entries(none), entries(with_c), entries(with_d), entries(with_both)];
        for (Line(tables), entries) in tables.iter_mut().zip(transpose(entries)) {
            // SAFETY: four tables have 64 bytes.
            unsafe { _mm512_storeu_si512(tables.as_mut_ptr().cast(), entries) };
        }
    }

    /// In each quarter of the registers, rows become columns.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn transpose([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
        let [p, q] = [_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)];
        let [r, s] = [_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d)];
        [
            _mm512_unpacklo_epi64(p, r),
            _mm512_unpackhi_epi64(p, r),
            _mm512_unpacklo_epi64(q, s),
            _mm512_unpackhi_epi64(q, s),
        ]
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn measure_avx2(lines: &[Line<[f32; 16]>]) -> Measured {
        let zero = _mm256_setzero_ps();
        let positive = _mm256_castsi256_ps(_mm256_set1_epi32(i32::MAX));
        let (mut lowest, mut sum, mut square, mut widest) = (zero, zero, zero, zero);
        for numbers in lines.iter().flat_map(|Line(numbers)| numbers.as_chunks::<8>().0) {
            // SAFETY: eight numbers.
            let x = unsafe { _mm256_loadu_ps(numbers.as_ptr()) };
            lowest = _mm256_add_ps(lowest, _mm256_min_ps(x, zero));
            sum = _mm256_add_ps(sum, x);
            square = _mm256_fmadd_ps(x, x, square);
            widest = _mm256_max_ps(widest, fours_avx2(_mm256_and_ps(x, positive)));
        }
        let [mut lows, mut sums, mut squares, mut widths] = [[0f32; 8]; 4];
        // SAFETY: eight numbers each.
        unsafe {
            _mm256_storeu_ps(lows.as_mut_ptr(), lowest);
            _mm256_storeu_ps(sums.as_mut_ptr(), sum);
            _mm256_storeu_ps(squares.as_mut_ptr(), square);
            _mm256_storeu_ps(widths.as_mut_ptr(), widest);
        }
        Measured {
            lowest: lows.iter().sum(),
            sum: sums.iter().sum(),
            square: squares.iter().sum(),
            widest: widths.iter().fold(0.0, |a, &b| a.max(b)),
        }
    }

    /// As [`fours_avx512`].
    #[inline]
    #[target_feature(enable = "avx2")]
    fn fours_avx2(x: __m256) -> __m256 {
        let pairs = _mm256_add_ps(x, _mm256_permute_ps::<0b10_11_00_01>(x));
        _mm256_add_ps(pairs, _mm256_permute_ps::<0b01_00_11_10>(pairs))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn fill_tables_avx2(numbers: &[f32; 16], inverse: f32, tables: &mut [[u8; 16]; 4]) {
        let zero = _mm256_setzero_ps();
        let (fours, _) = numbers.as_chunks::<4>();
        for (four, table) in fours.iter().zip(tables) {
            // SAFETY: four numbers.
            let four = _mm256_set_m128(unsafe { _mm_loadu_ps(four.as_ptr()) }, unsafe {
                _mm_loadu_ps(four.as_ptr())
            });
            let four = _mm256_mul_ps(four, _mm256_set1_ps(inverse));
            let mut sums = _mm256_sub_ps(zero, fours_avx2(_mm256_min_ps(four, zero)));
            let [a, b, c, d] = [
                _mm256_permute_ps::<0b00_00_00_00>(four),
                _mm256_permute_ps::<0b01_01_01_01>(four),
                _mm256_permute_ps::<0b10_10_10_10>(four),
                _mm256_permute_ps::<0b11_11_11_11>(four),
            ];
            sums = _mm256_add_ps(sums, _mm256_blend_ps::<0b1010_1010>(zero, a));
            sums = _mm256_add_ps(sums, _mm256_blend_ps::<0b1100_1100>(zero, b));
            sums = _mm256_add_ps(sums, _mm256_blend_ps::<0b1111_0000>(zero, c));
            let steps = _mm256_set1_ps(STEPS);
            let first = _mm256_cvtps_epi32(_mm256_min_ps(sums, steps));
            let second = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_add_ps(sums, d), steps));
            // The packs work within halves of a register: the middle two quarters change places.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(first, second));
            let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            // SAFETY: a table has 16 bytes.
            unsafe { _mm_storeu_si128(table.as_mut_ptr().cast(), _mm_packus_epi16(low, high)) };
        }
    }
}
