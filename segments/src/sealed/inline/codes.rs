//! 8-bit codes of all vectors of a segment that is being made, and what candidates are measured on while neighbours are
//! chosen.
//!
//! Choosing takes more distances than walking does. On codes, half as many bytes come from memory as in half precision, and whole
//! numbers are multiplied four at a time: a tenth to a quarter of a seal at 384 dimensions, nothing at 96. They are the codes of a growing graph
//! ([`crate::quantize::shadow`]), which know of each pair whether they tell it apart; pairs that they don't are measured in half
//! precision. Where that is more than a few of the pairs that are linked, ranks would be decided by rounding, and all are.

use super::halves::Halves;
use crate::graph::FlatLevel;
use crate::quantize::shadow::{ShadowSpace, ShadowWork};
use crate::share::share;
use nearstone_base::vfs::Pages;
use nearstone_base::{Metric, Result};
use nearstone_kernels::{CODE_ALIGN, prefetch_whole};

/// Rows that one kernel call measures.
const FOUR: usize = 4;
/// How many rows ahead of those being measured are asked for.
const AHEAD: usize = 8;
/// Codes serve where one of so many links is unclear at most.
const CLEAR_SHARE: usize = 1024;
/// Rows whose links are looked at to learn that.
const CHECKED_ROWS: u32 = 256;
/// Rows that a thread encodes at a time.
const PIECE: usize = 256;

/// The codes.
pub(super) struct Codes {
    space: ShadowSpace,
    stride: usize,
    bytes: Pages,
}

impl Codes {
    /// Bytes of a row whose vector is padded to so many numbers.
    pub(super) fn stride(dimension: usize) -> usize {
        dimension.next_multiple_of(CODE_ALIGN) + CODE_ALIGN
    }

    /// `None` when there is not so much memory.
    pub(super) fn new(
        halves: Halves<'_>,
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Option<Codes>> {
        let stride = Codes::stride(halves.dimension);
        let rows = halves.numbers.len() / halves.dimension;
        // The rotated space is one of squared distances, whatever the metric.
        let space = ShadowSpace::new(Metric::L2, halves.dimension);
        let Some((space, mut bytes)) = space.zip(Pages::zeroed(rows * stride)) else { return Ok(None) };
        share(&mut bytes, PIECE * stride, threads, cancel, |place, piece, work: &mut EncodeWork| {
            for (row, out) in ((place / stride) as u32..).zip(piece.chunks_exact_mut(stride)) {
                halves.widened(row, &mut work.numbers);
                space.encode(&work.numbers, &mut work.shadow);
                out[..work.shadow.row.len()].copy_from_slice(&work.shadow.row);
            }
            Ok(())
        })?;
        Ok(Some(Codes { space, stride, bytes }))
    }

    fn one(&self, row: u32) -> &[u8] {
        &self.bytes[row as usize * self.stride..][..self.space.row_bytes()]
    }

    /// Distances from one row to one to four others, NaN where codes can't tell; those behind mean nothing.
    #[inline]
    fn four(&self, from: u32, rows: &[u32]) -> [f32; FOUR] {
        let one = |i: usize| self.one(rows[i.min(rows.len() - 1)]);
        self.space.estimates(self.one(from), [one(0), one(1), one(2), one(3)])
    }

    /// Whether they tell apart what a graph links.
    fn serve(&self, ground: &FlatLevel) -> bool {
        let (mut looked_at, mut unclear) = (0, 0);
        for row in (0..ground.rows).step_by(ground.rows.div_ceil(CHECKED_ROWS).max(1) as usize) {
            for four in ground.list(row).chunks(FOUR) {
                let found = self.four(row, four);
                // Equal vectors are no fault of the codes.
                let is_unclear =
                    |(&link, found): (&u32, &f32)| found.is_nan() && self.one(link) != self.one(row);
                unclear += four.iter().zip(&found).filter(|&pair| is_unclear(pair)).count();
                looked_at += four.len();
            }
        }
        unclear <= looked_at / CLEAR_SHARE
    }
}

#[derive(Default)]
struct EncodeWork {
    numbers: Vec<f32>,
    shadow: ShadowWork,
}

/// What candidates are measured on.
#[derive(Clone, Copy)]
pub(super) struct Near<'a> {
    pub(super) halves: Halves<'a>,
    codes: Option<&'a Codes>,
}

impl<'a> Near<'a> {
    /// In half precision.
    pub(super) fn halves(halves: Halves<'a>) -> Near<'a> {
        Near { halves, codes: None }
    }

    /// On codes, if there are some and they tell apart what the graph links.
    pub(super) fn along(ground: &FlatLevel, halves: Halves<'a>, codes: Option<&'a Codes>) -> Near<'a> {
        Near { halves, codes: codes.filter(|codes| codes.serve(ground)) }
    }

    /// Asks for what a row is measured on.
    #[inline]
    pub(super) fn prefetch(self, row: u32) {
        match self.codes {
            Some(codes) => prefetch_whole(codes.one(row)),
            None => prefetch_whole(self.halves.one(row)),
        }
    }

    /// Replaces `out` by the distances from a row, whose numbers are given too, to others.
    pub(super) fn measure(self, row: u32, numbers: &[f32], others: &[u32], out: &mut Vec<f32>) {
        let Some(codes) = self.codes else { return self.halves.measure(numbers, others, out) };
        out.clear();
        others.iter().take(AHEAD).for_each(|&other| self.prefetch(other));
        for (at, four) in others.chunks(FOUR).enumerate() {
            others.iter().skip(at * FOUR + AHEAD).take(FOUR).for_each(|&other| self.prefetch(other));
            let found = codes.four(row, four);
            for (&other, &distance) in four.iter().zip(&found) {
                out.push(if distance.is_nan() { self.halves.measure_one(numbers, other) } else { distance });
            }
        }
    }

    /// Whether one of the `others` is nearer to a row than `bound`. Those that come first are looked at first; `numbers` is room for
    /// the row's.
    pub(super) fn any_nearer(self, row: u32, others: &[u32], bound: f32, numbers: &mut Vec<f32>) -> bool {
        let Some(codes) = self.codes else {
            self.halves.widened(row, numbers);
            return self.halves.any_nearer(numbers, others, bound);
        };
        numbers.clear();
        others.chunks(FOUR).any(|four| {
            let found = codes.four(row, four);
            four.iter().zip(&found).any(|(&other, &distance)| {
                if !distance.is_nan() {
                    return distance < bound;
                }
                if numbers.is_empty() {
                    self.halves.widened(row, numbers);
                }
                self.halves.measure_one(numbers, other) < bound
            })
        })
    }
}
