//! Which segments get inline rows, of which shape, and what making them may hold.
//!
//! A segment has inline rows when it has rows enough to be walked and numbers enough for one bit of each to say something, when its
//! profile is not the lean one, and when making them takes no more than [`BYTES_MAX`]: two bytes per number; all inline rows (six
//! bytes per number and 256 per row, with 32 links; eighteen per number where codes have four bits); three sets of links while
//! the graph is built or refined. One byte per number and up to 128 per row go to codes for choosing, which are left out where they would
//! not fit. (Joining holds no more: what it has of its own, the upper rows and a number for each old row, is freed or small
//! before the inline rows are made.)
//!
//! The graph of a lean segment is refined all the same, on inline rows that are not written, as long as that takes no more than
//! [`LEAN_BYTES_MAX`]. All this is reckoned with all dimensions, before it is known whether a few
//! directions do; then four bits and codes are reckoned with these.

use super::codes::Codes;
use super::halves::Halves;
use crate::quantize::space::padded;
use nearstone_base::{Profile, Result, Schema};
use nearstone_kernels::{InlineBits, InlineShape};

/// Fewer rows are scanned nearly as fast.
const ROWS_MIN: u32 = 1024;
/// Below this, one bit per dimension says too little.
const DIMENSION_MIN: usize = 48;
/// Making inline rows holds so many bytes at most.
const BYTES_MAX: u64 = 8 << 30;
/// Who wants little memory does not want it for a better graph either.
const LEAN_BYTES_MAX: u64 = 1 << 30;

/// The shape of the inline rows with which a lean segment's graph is refined, if that is so.
pub(super) fn lean_shape(schema: &Schema, rows: u32) -> Option<InlineShape> {
    let lean = schema.chosen_profile() == Profile::Memory;
    lean.then(|| walked_shape(schema, rows, LEAN_BYTES_MAX)).flatten()
}

/// The shape of the inline rows with which a segment's graph is refined, whether they are written or not.
pub(super) fn refined_shape(schema: &Schema, rows: u32) -> Option<InlineShape> {
    shape_of(schema, rows).or_else(|| lean_shape(schema, rows))
}

/// Whether a segment with so many rows gets inline rows, and with them a refined graph, unless half precision does not hold
/// its distances: [`crate::SealedSegment::has_inline_rows`] says so afterwards. (Lean ones are refined where memory allows;
/// nobody counts on that.)
pub(crate) fn is_refined(schema: &Schema, rows: u32) -> bool {
    shape_of(schema, rows).is_some()
}

/// The shape of a segment's inline rows, if such a segment has them.
pub(super) fn shape_of(schema: &Schema, rows: u32) -> Option<InlineShape> {
    match schema.chosen_profile() {
        Profile::Memory => None,
        Profile::Auto | Profile::Speed => walked_shape(schema, rows, BYTES_MAX),
    }
}

/// The shape of inline rows with which a graph is refined, if making them holds at most so many bytes.
fn walked_shape(schema: &Schema, rows: u32, bytes_max: u64) -> Option<InlineShape> {
    if !(ROWS_MIN..1 << 31).contains(&rows) || schema.dimension() < DIMENSION_MIN {
        return None;
    }
    let padded = padded(schema.metric(), schema.dimension());
    let shape = InlineShape::new(padded, 2 * schema.links(), InlineBits::One)?;
    (u64::from(rows) * bytes_of(schema, shape) <= bytes_max).then_some(shape)
}

/// The shape of the same rows with four bits, if making them takes no more memory than may be.
pub(super) fn with_four_bits(schema: &Schema, shape: InlineShape, rows: u32) -> Option<InlineShape> {
    let longer = InlineShape::new(shape.dimension(), shape.places(), InlineBits::Four);
    longer.filter(|&longer| u64::from(rows) * bytes_of(schema, longer) <= BYTES_MAX)
}

/// Bytes of a row while a graph is refined, without codes.
fn bytes_of(schema: &Schema, shape: InlineShape) -> u64 {
    let links = 3 * 4 * 2 * schema.links() as u64 + 32;
    shape.dimension() as u64 * 2 + shape.stride() as u64 + links
}

/// Codes of all rows, if there is room for these as well.
pub(super) fn codes_of(
    schema: &Schema,
    shape: InlineShape,
    halves: Halves<'_>,
    threads: usize,
    cancel: &dyn Fn() -> bool,
) -> Result<Option<Codes>> {
    let bytes_max = if schema.chosen_profile() == Profile::Memory { LEAN_BYTES_MAX } else { BYTES_MAX };
    let rows = (halves.numbers.len() / halves.dimension) as u64;
    let bytes = bytes_of(schema, shape) + Codes::stride(shape.dimension()) as u64;
    if rows * bytes <= bytes_max { Codes::new(halves, threads, cancel) } else { Ok(None) }
}
