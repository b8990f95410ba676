//! The codes of a mutable segment's rows, and distances measured on them.

use super::MutableSegment;
use crate::append::AppendBuffer;
use crate::graph::VectorSource;
use crate::quantize::shadow::{ShadowSpace, ShadowWork};
use crate::topk::Candidate;
use nearstone_base::{Result, Schema};
use nearstone_kernels::prefetch_read;

/// Rows that one kernel call measures.
const FOUR: usize = 4;
/// How many rows ahead of those being measured are fetched.
const AHEAD: usize = 8;

/// One code per row, readable without a lock while others are appended.
#[derive(Debug)]
pub(super) struct Shadow {
    space: ShadowSpace,
    rows: AppendBuffer<u8>,
}

impl Shadow {
    pub(super) fn new(schema: &Schema) -> Option<Shadow> {
        let space = ShadowSpace::new(schema.metric(), schema.dimension())?;
        let rows = AppendBuffer::aligned(space.row_bytes());
        Some(Shadow { space, rows })
    }

    /// Encodes and appends a row.
    pub(super) fn push(&self, vector: &[f32], work: &mut ShadowWork) {
        self.space.encode(vector, work);
        self.rows.push_row(&work.row);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.space.bytes() + self.rows.bytes()
    }

    /// The estimates from a code to up to four rows, at least one; those behind the last row mean nothing.
    #[inline]
    fn estimates(&self, from: &[u8], rows: &[u32]) -> [f32; FOUR] {
        let last = rows.len() - 1;
        let row = |i: usize| self.rows.row(rows[i.min(last)]);
        self.space.estimates(from, [row(0), row(1), row(2), row(3)])
    }
}

/// Distances between the rows of a segment on their codes, and on their vectors where codes can't tell.
pub(super) struct OnCodes<'a> {
    pub(super) segment: &'a MutableSegment,
    pub(super) shadow: &'a Shadow,
}

impl VectorSource for OnCodes<'_> {
    fn distance(&self, a: u32, b: u32) -> Result<f32> {
        let estimate = self.shadow.estimates(self.shadow.rows.row(a), &[b])[0];
        if estimate.is_nan() { self.segment.distance(a, b) } else { Ok(estimate) }
    }

    fn distances(&self, a: u32, others: &[u32], out: &mut Vec<f32>) -> Result<()> {
        let rows = &self.shadow.rows;
        let from = rows.row(a);
        out.clear();
        for &row in others.iter().take(AHEAD) {
            prefetch_read(rows.row(row));
        }
        for (at, others_now) in others.chunks(FOUR).enumerate() {
            for &row in others.iter().skip(at * FOUR + AHEAD).take(FOUR) {
                prefetch_read(rows.row(row));
            }
            let estimates = self.shadow.estimates(from, others_now);
            out.extend_from_slice(&estimates[..others_now.len()]);
        }
        for (distance, &row) in out.iter_mut().zip(others) {
            if distance.is_nan() {
                *distance = self.segment.distance(a, row)?;
            }
        }
        Ok(())
    }

    fn any_nearer(&self, a: u32, others: &[Candidate], bound: f32) -> Result<bool> {
        let from = self.shadow.rows.row(a);
        for others in others.chunks(FOUR) {
            let last = others.len() - 1;
            let row = |i: usize| self.shadow.rows.row(others[i.min(last)].ordinal);
            let estimates = self.shadow.space.estimates(from, [row(0), row(1), row(2), row(3)]);
            for (other, mut distance) in others.iter().zip(estimates) {
                if distance.is_nan() {
                    distance = self.segment.distance(a, other.ordinal)?;
                }
                if distance < bound {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
