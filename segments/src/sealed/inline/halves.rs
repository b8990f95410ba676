//! All vectors of a segment in half precision, as inline rows hold them.

use crate::graph::VectorSource;
use half::f16;
use nearstone_base::Result;
use nearstone_base::vfs::Pages;
use nearstone_kernels::{kernels, prefetch_whole};
use zerocopy::FromBytes;

/// Rows that one kernel call measures.
const FOUR: usize = 4;
/// How many rows ahead of those being measured are asked for.
const AHEAD: usize = 8;

/// Memory for such vectors.
pub(super) struct HalvesMemory {
    dimension: usize,
    bytes: Pages,
}

impl HalvesMemory {
    /// Zeros; `None` when there is not so much memory.
    pub(super) fn new(rows: usize, dimension: usize) -> Option<HalvesMemory> {
        Pages::zeroed(rows * dimension * 2).map(|bytes| HalvesMemory { dimension, bytes })
    }

    pub(super) fn numbers_mut(&mut self) -> &mut [f16] {
        <[f16]>::mut_from_bytes(&mut self.bytes).expect("aligned, and two bytes for each number")
    }

    pub(super) fn halves(&self) -> Halves<'_> {
        let numbers = <[f16]>::ref_from_bytes(&self.bytes).expect("as above");
        Halves { dimension: self.dimension, numbers }
    }
}

/// Such vectors, back to back.
#[derive(Clone, Copy)]
pub(super) struct Halves<'a> {
    pub(super) dimension: usize,
    pub(super) numbers: &'a [f16],
}

impl<'a> Halves<'a> {
    pub(super) fn one(self, row: u32) -> &'a [f16] {
        &self.numbers[row as usize * self.dimension..][..self.dimension]
    }

    pub(super) fn widened(self, row: u32, out: &mut Vec<f32>) {
        out.resize(self.dimension, 0.0);
        kernels().widen(self.one(row), out);
    }

    /// Distances from a vector to one to four rows; those behind mean nothing.
    #[inline]
    fn four(self, from: &[f32], rows: &[u32]) -> [f32; FOUR] {
        let one = |i: usize| self.one(rows[i.min(rows.len() - 1)]);
        kernels().l2_halves(from, &[one(0), one(1), one(2), one(3)])
    }

    /// Replaces `out` by the distances from a vector to rows.
    pub(super) fn measure(self, from: &[f32], rows: &[u32], out: &mut Vec<f32>) {
        out.clear();
        for &row in rows.iter().take(AHEAD) {
            prefetch_whole(self.one(row));
        }
        for (at, four) in rows.chunks(FOUR).enumerate() {
            for &row in rows.iter().skip(at * FOUR + AHEAD).take(FOUR) {
                prefetch_whole(self.one(row));
            }
            out.extend_from_slice(&self.four(from, four)[..four.len()]);
        }
    }

    /// The distance from a vector to a row.
    pub(super) fn measure_one(self, from: &[f32], row: u32) -> f32 {
        self.four(from, &[row])[0]
    }

    /// Whether one of the rows is nearer to a vector than `bound`. Those that come first are looked at first.
    pub(super) fn any_nearer(self, from: &[f32], rows: &[u32], bound: f32) -> bool {
        rows.chunks(FOUR)
            .any(|four| self.four(from, four)[..four.len()].iter().any(|&distance| distance < bound))
    }
}

impl VectorSource for Halves<'_> {
    fn distance(&self, a: u32, b: u32) -> Result<f32> {
        let mut from = Vec::new();
        self.widened(a, &mut from);
        Ok(self.measure_one(&from, b))
    }

    fn distances(&self, a: u32, others: &[u32], out: &mut Vec<f32>) -> Result<()> {
        let mut from = Vec::new();
        self.widened(a, &mut from);
        self.measure(&from, others, out);
        Ok(())
    }
}
