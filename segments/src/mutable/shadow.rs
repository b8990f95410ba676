//! The codes of a mutable segment's rows, and distances measured on them.

use super::MutableSegment;
use crate::append::AppendBuffer;
use crate::graph::VectorSource;
use crate::quantize::shadow::{Factors, ShadowSpace, ShadowWork};
use crate::topk::Candidate;
use nearstone_base::{Result, Schema};
use nearstone_kernels::{Kernels, kernels, prefetch_read};

/// Rows that one kernel call measures.
const FOUR: usize = 4;
/// How many rows ahead of those being measured are fetched.
const AHEAD: usize = 8;

/// One code per row, readable without a lock while others are appended.
#[derive(Debug)]
pub(super) struct Shadow {
    space: ShadowSpace,
    kernels: Kernels,
    codes: AppendBuffer<u8>,
    factors: AppendBuffer<Factors>,
}

impl Shadow {
    pub(super) fn new(schema: &Schema) -> Option<Shadow> {
        let space = ShadowSpace::new(schema.metric(), schema.dimension())?;
        let codes = AppendBuffer::aligned(space.row_bytes());
        Some(Shadow { space, kernels: kernels(), codes, factors: AppendBuffer::new() })
    }

    /// Encodes and appends a row.
    pub(super) fn push(&self, vector: &[f32], work: &mut ShadowWork) {
        let factors = self.space.encode(vector, work);
        self.codes.push_row(&work.codes);
        self.factors.push(factors);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.space.bytes() + self.codes.bytes() + self.factors.bytes()
    }

    /// The estimates from a code to up to four rows; what is behind the last row means nothing.
    #[inline]
    fn four(&self, from: &[u8], factors: Factors, rows: [u32; FOUR]) -> [Option<f32>; FOUR] {
        let codes = [
            self.codes.row(rows[0]),
            self.codes.row(rows[1]),
            self.codes.row(rows[2]),
            self.codes.row(rows[3]),
        ];
        let products = self.kernels.dots_biased(&codes, from);
        let mut estimates = [None; FOUR];
        for (i, estimate) in estimates.iter_mut().enumerate() {
            *estimate = self.space.estimate(factors, *self.factors.get(rows[i]), products[i]);
        }
        estimates
    }

    fn prefetch(&self, row: u32) {
        prefetch_read(self.codes.row(row));
    }
}

/// Four rows from the beginning of some, the last one again where there are fewer.
fn first_four(rows: impl Fn(usize) -> u32, len: usize) -> [u32; FOUR] {
    let last = len - 1;
    [rows(0), rows(1.min(last)), rows(2.min(last)), rows(3.min(last))]
}

/// Distances between the rows of a segment on their codes, and on their vectors where codes can't tell.
pub(super) struct OnCodes<'a> {
    pub(super) segment: &'a MutableSegment,
    pub(super) shadow: &'a Shadow,
}

impl VectorSource for OnCodes<'_> {
    fn distance(&self, a: u32, b: u32) -> Result<f32> {
        let (from, factors) = (self.shadow.codes.row(a), *self.shadow.factors.get(a));
        match self.shadow.four(from, factors, [b; FOUR])[0] {
            Some(estimate) => Ok(estimate),
            None => self.segment.distance(a, b),
        }
    }

    fn distances(&self, a: u32, others: &[u32], out: &mut Vec<f32>) -> Result<()> {
        let (from, factors) = (self.shadow.codes.row(a), *self.shadow.factors.get(a));
        out.clear();
        out.reserve(others.len());
        for &row in others.iter().take(AHEAD) {
            self.shadow.prefetch(row);
        }
        for (at, rows) in others.chunks(FOUR).enumerate() {
            for &row in others.iter().skip(at * FOUR + AHEAD).take(FOUR) {
                self.shadow.prefetch(row);
            }
            let estimates = self.shadow.four(from, factors, first_four(|i| rows[i], rows.len()));
            for (&row, estimate) in rows.iter().zip(estimates) {
                out.push(match estimate {
                    Some(estimate) => estimate,
                    None => self.segment.distance(a, row)?,
                });
            }
        }
        Ok(())
    }

    fn any_nearer(&self, a: u32, others: &[Candidate], bound: f32) -> Result<bool> {
        let (from, factors) = (self.shadow.codes.row(a), *self.shadow.factors.get(a));
        for others in others.chunks(FOUR) {
            let rows = first_four(|i| others[i].ordinal, others.len());
            let estimates = self.shadow.four(from, factors, rows);
            for (&row, estimate) in rows.iter().zip(estimates) {
                let distance = match estimate {
                    Some(estimate) => estimate,
                    None => self.segment.distance(a, row)?,
                };
                if distance < bound {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
