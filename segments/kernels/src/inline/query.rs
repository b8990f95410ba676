//! A query as the rows want it: its numbers, and for each four of them the table of their partial sums.

use super::{DIMENSION_MAX, DIMENSION_STEP};
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
    pub(super) dimension: usize,
    /// What one step of a table is worth.
    pub(super) delta: f32,
    /// What a sum of table entries is short of: the lowest sums, less half the sum of the query.
    pub(super) offset: f32,
}

impl InlineQuery {
    /// Takes a rotated query. Panics when its length is no multiple of [`DIMENSION_STEP`] or over [`DIMENSION_MAX`].
    pub fn prepare(&mut self, kernels: Kernels, rotated: &[f32]) {
        assert!(rotated.len().is_multiple_of(DIMENSION_STEP) && rotated.len() <= DIMENSION_MAX);
        match kernels.name() {
            // SAFETY: a value of `Kernels` is the proof that the processor has the backend.
            #[cfg(target_arch = "x86_64")]
            "avx512" => unsafe { self.fill_avx512(rotated) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            "avx2" => unsafe { self.fill_avx2(rotated) },
            _ => self.fill(rotated),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")]
    fn fill_avx512(&mut self, rotated: &[f32]) {
        self.fill(rotated);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn fill_avx2(&mut self, rotated: &[f32]) {
        self.fill(rotated);
    }

    #[inline(always)]
    fn fill(&mut self, rotated: &[f32]) {
        let (lines, _) = rotated.as_chunks::<16>();
        self.dimension = rotated.len();
        self.numbers.clear();
        self.numbers.extend(lines.iter().map(|&numbers| Line(numbers)));

        let (mut widest, mut lowest, mut sum) = ([0f32; 4], [0f32; 16], [0f32; 16]);
        for numbers in lines {
            for four in 0..4 {
                let width: f32 = numbers[4 * four..4 * four + 4].iter().map(|x| x.abs()).sum();
                widest[four] = widest[four].max(width);
            }
            for i in 0..16 {
                lowest[i] += numbers[i].min(0.0);
                sum[i] += numbers[i];
            }
        }
        let widest = widest.iter().fold(0f32, |a, &b| a.max(b));
        self.delta = widest / 63.0;
        self.offset = lowest.iter().sum::<f32>() - sum.iter().sum::<f32>() / 2.0;

        let inverse = if self.delta > 0.0 { 1.0 / self.delta } else { 0.0 };
        self.tables.clear();
        for numbers in lines {
            let mut tables = [[0; 16]; 4];
            for (four, table) in tables.iter_mut().enumerate() {
                fill_table(&numbers[4 * four..4 * four + 4], inverse, table);
            }
            self.tables.push(Line(tables));
        }
    }

    pub(super) fn numbers(&self) -> *const f32 {
        self.numbers.as_ptr().cast()
    }

    pub(super) fn tables(&self) -> *const u8 {
        self.tables.as_ptr().cast()
    }
}

/// Which of the four numbers belong to the `m`-th sum.
const MEMBERS: [[f32; 16]; 4] = {
    let mut members = [[0.0; 16]; 4];
    let mut m = 0;
    while m < 16 {
        let mut i = 0;
        while i < 4 {
            members[i][m] = (m >> i & 1) as f32;
            i += 1;
        }
        m += 1;
    }
    members
};

/// All sums of four numbers, from the lowest one up, in steps of `1 / inverse`.
#[inline(always)]
fn fill_table(numbers: &[f32], inverse: f32, table: &mut [u8; 16]) {
    let mut low = 0f32;
    for x in numbers {
        low += x.min(0.0);
    }
    // A half, so that cutting rounds.
    let mut sums = [0.5 - low * inverse; 16];
    for (x, members) in numbers.iter().zip(&MEMBERS) {
        for m in 0..16 {
            sums[m] += x * inverse * members[m];
        }
    }
    for m in 0..16 {
        table[m] = sums[m].clamp(0.0, 63.0) as i32 as u8;
    }
}
