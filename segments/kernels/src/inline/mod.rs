//! Inline rows: a graph walk in which one contiguous read serves a whole expansion.
//!
//! Each row holds its own vector (the *centre*) and, for each of its neighbours, a code of the difference to
//! it, of one bit or four for each dimension: an exact distance to the centre and estimates for 32 neighbours at a time cost one stream of bytes (after
//! NGT-QG and SymphonyQG, arXiv 2411.12229; the codes are RaBitQ's, arXiv 2405.12497 and, of more bits, 2409.09913).
//!
//! With `D` the padded dimension, a multiple of 64, and `B` blocks of 32 neighbours, a row is
//!
//! ```text
//! centre: D x f16 | B x codes: D/4 x 16 or 64 bytes | B x (32 x f16 f_add, 32 x f16 f_resc) | B x 32 x u32 ids
//! ```
//!
//! All vectors are rotated and scaled alike, so that squared distances keep their order. With `x` the code of neighbour `o`, less
//! the middle of what it can be (1/2, or 7.5), `c` the centre and `q` the query,
//!
//! ```text
//! est(|q - o|^2) = |q - c|^2 + f_add + f_resc * <x, q>
//! ```
//!
//! - **One bit.** Of four dimensions, 16 bytes hold the bits of 32 neighbours: neighbour `j` has the low half of byte `j`, neighbour
//!   `16 + j` the high half. A query holds, for each four dimensions, the 16 partial sums of its numbers in six bits each, and one
//!   byte shuffle looks up 16 or more of them (FastScan).
//! - **Four bits.** Of four dimensions, 64 bytes hold the levels: byte `4 j + i` has that of neighbour `j` in dimension `i` in its low
//!   half, that of neighbour `16 + j` in its high half. A query holds its numbers as signed bytes, and one instruction multiplies and adds
//!   four of them for each of 16 neighbours.
//!
//! [`walk`] says how they are walked, [`together`] how those of several segments are.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod backend;
mod encode;
mod pool;
mod portable;
mod query;
mod ranked;
#[cfg(test)]
mod tests;
mod together;
mod walk;

use crate::Kernels;
use crate::prefetch::fetch as prefetch;

pub use encode::EncodeWork;
pub use query::InlineQuery;
pub use together::{InlineCommon, InlineLane, InlineScale, inline_walk_together};
pub use walk::{Enough, Expanded, InlineBeam, InlineScratch, InlineStart, InlineWatch};

/// Neighbours of one block.
pub const BLOCK_LINKS: usize = 32;
/// The padded dimension is a multiple of this.
pub const DIMENSION_STEP: usize = 64;
/// The largest padded dimension: sums of six-bit numbers, one per four dimensions, stay below 2^16.
pub const DIMENSION_MAX: usize = 4160;
/// Marks a place without a neighbour.
pub const NO_NEIGHBOUR: u32 = u32::MAX;
const LINE: usize = 64;

/// How many bits the code of a neighbour has for each dimension.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum InlineBits {
    /// Whether the difference is above zero.
    #[default]
    One,
    /// On which of sixteen levels it lies: estimates seven times as near, in rows twice as long and more.
    Four,
}

impl InlineBits {
    /// Every one.
    pub const ALL: [InlineBits; 2] = [InlineBits::One, InlineBits::Four];

    /// As a number.
    pub fn count(self) -> usize {
        match self {
            InlineBits::One => 1,
            InlineBits::Four => 4,
        }
    }
}

/// Where the parts of a row lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InlineShape {
    dimension: usize,
    blocks: usize,
    bits: InlineBits,
}

impl InlineShape {
    /// Rows of vectors with `dimension` numbers and at most `links` neighbours, whose codes have `bits` a
    /// dimension; `None` when the dimension is over [`DIMENSION_MAX`] or one of them is zero.
    pub fn new(dimension: usize, links: usize, bits: InlineBits) -> Option<InlineShape> {
        let padded = dimension.next_multiple_of(DIMENSION_STEP);
        let blocks = links.div_ceil(BLOCK_LINKS);
        (1..=DIMENSION_MAX).contains(&padded).then_some(())?;
        (dimension > 0 && (1..=64).contains(&blocks)).then_some(InlineShape {
            dimension: padded,
            blocks,
            bits,
        })
    }

    /// The padded dimension.
    pub fn dimension(self) -> usize {
        self.dimension
    }

    /// Bits of a code for each dimension.
    pub fn bits(self) -> InlineBits {
        self.bits
    }

    /// Places for neighbours.
    pub fn places(self) -> usize {
        self.blocks * BLOCK_LINKS
    }

    /// Bytes from one row to the next, a multiple of 64.
    pub fn stride(self) -> usize {
        self.ids_at() + self.places() * 4
    }

    fn codes_at(self) -> usize {
        self.dimension * 2
    }

    fn factors_at(self) -> usize {
        self.codes_at() + self.blocks * self.block_bytes()
    }

    /// Of the codes of a block.
    fn block_bytes(self) -> usize {
        self.dimension * BLOCK_LINKS / 8 * self.bits.count()
    }

    fn ids_at(self) -> usize {
        self.factors_at() + self.places() * 4
    }
}

/// The rows of one segment, as they lie in memory.
#[derive(Clone, Copy, Debug)]
pub struct InlineRows<'a> {
    shape: InlineShape,
    bytes: &'a [u8],
    count: u32,
}

impl<'a> InlineRows<'a> {
    /// Rows back to back; `None` when the bytes end inside a row or there are more rows than 2^31 - 1.
    pub fn new(shape: InlineShape, bytes: &'a [u8]) -> Option<InlineRows<'a>> {
        let count = u32::try_from(bytes.len() / shape.stride()).ok().filter(|&count| count < 1 << 31)?;
        bytes.len().is_multiple_of(shape.stride()).then_some(InlineRows { shape, bytes, count })
    }

    /// How many rows.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bits of their codes for each dimension.
    pub fn bits(&self) -> InlineBits {
        self.shape.bits
    }

    fn row(&self, id: u32) -> &'a [u8] {
        let stride = self.shape.stride();
        &self.bytes[id as usize * stride..][..stride]
    }

    /// What stands in the places of a row for its neighbours, [`NO_NEIGHBOUR`] included. Panics when there is no such
    /// row.
    pub fn places(&self, id: u32) -> impl Iterator<Item = u32> + use<'a> {
        let ids = &self.row(id)[self.shape.ids_at()..];
        ids.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]))
    }
}

/// Walks with a beam (`ef`, or [`InlineBeam`]); what was expanded is in `scratch.expanded()` then. `watch` is a function
/// that is called with each id before its row is read and refuses those that are not in `0..rows.count()`, or somebody who wants to
/// know more ([`InlineWatch`]). Panics when the query is of another dimension, when a start has not one row, or when
/// `watch` lets an id pass that does not exist.
pub fn inline_walk<W: InlineWatch>(
    kernels: Kernels,
    rows: &InlineRows<'_>,
    query: &InlineQuery,
    beam: impl Into<InlineBeam>,
    start: InlineStart<'_>,
    mut watch: W,
    scratch: &mut InlineScratch,
) -> Result<(), W::Error> {
    let watch = &mut watch;
    let beam = beam.into();
    check(rows, query, start);
    match kernels.name() {
        // SAFETY: a value of `Kernels` is the proof that the processor has the backend.
        #[cfg(target_arch = "x86_64")]
        "avx512" => unsafe { avx512::walk_avx512(rows, query, beam, start, watch, scratch) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        "avx2" => unsafe { avx2::walk_avx2(rows, query, beam, start, watch, scratch) },
        // SAFETY: every processor has this one.
        _ => unsafe { walk::walk::<portable::Portable, W>(rows, query, beam, start, watch, scratch) },
    }
}

/// Query, rows and start are of one dimension.
fn check(rows: &InlineRows<'_>, query: &InlineQuery, start: InlineStart<'_>) {
    assert_eq!((query.dimension, query.bits), (rows.shape.dimension, rows.shape.bits));
    if let InlineStart::NeighboursOf(rows) = start {
        assert!(rows.count == 1);
        assert_eq!((query.dimension, query.bits), (rows.shape.dimension, rows.shape.bits));
    }
}
