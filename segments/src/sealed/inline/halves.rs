//! All vectors of a segment in half precision, as inline rows hold them.

use crate::graph::VectorSource;
use half::f16;
use half::slice::HalfFloatSliceExt;
use nearstone_base::Result;
use nearstone_kernels::kernels;

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
        self.one(row).convert_to_f32_slice(out);
    }
}

impl VectorSource for Halves<'_> {
    fn distance(&self, a: u32, b: u32) -> Result<f32> {
        let mut one = Vec::new();
        self.distances(a, &[b], &mut one)?;
        Ok(one.first().copied().unwrap_or(f32::INFINITY))
    }

    fn distances(&self, a: u32, others: &[u32], out: &mut Vec<f32>) -> Result<()> {
        let (mut from, mut to) = (Vec::new(), Vec::new());
        self.widened(a, &mut from);
        out.clear();
        for &other in others {
            self.widened(other, &mut to);
            out.push(kernels().l2(&from, &to));
        }
        Ok(())
    }
}
