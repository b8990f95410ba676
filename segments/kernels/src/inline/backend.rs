//! What a walk is made of: distances, estimates, and operations on what it met. Each instruction set has its own
//! ([`super::portable`], [`super::avx2`], [`super::avx512`]); all of them find the same.

use super::pool::REGISTER;
use super::{BLOCK_LINKS, InlineQuery};

/// The operations that differ between instruction sets.
pub(super) trait Backend {
    /// `|query - centre|^2`, while the first lines at `next` travel.
    ///
    /// # Safety
    /// The processor has the instruction set; `centre` has `dimension` f16 and `query` as many f32, aligned to 64
    /// bytes.
    unsafe fn centre(centre: *const u8, query: *const f32, dimension: usize, next: *const u8) -> f32;

    /// A number for each of the 32 neighbours of a block.
    type Sums: Copy;

    /// For codes of one bit: the sums of the entries of the query's tables that the codes name, while the lines at `next` travel.
    ///
    /// # Safety
    /// The processor has the instruction set; `codes` and the query's tables have `4 * dimension` bytes.
    unsafe fn signs(codes: *const u8, query: &InlineQuery, next: *const u8) -> Self::Sums;

    /// For codes of four bits: the sums of the products of levels and the query's steps, while the lines at `next` travel.
    ///
    /// # Safety
    /// The processor has the instruction set; `codes` have `16 * dimension` bytes and the query has `dimension` steps.
    unsafe fn levels(codes: *const u8, query: &InlineQuery, next: *const u8) -> Self::Sums;

    /// Estimates of the 32 neighbours of a block, and which of them are below `worst`.
    ///
    /// # Safety
    /// The processor has the instruction set; `factors` have 128 bytes.
    unsafe fn estimate(
        sums: Self::Sums,
        factors: *const u8,
        query: &InlineQuery,
        base: f32,
        worst: f32,
        out: &mut [f32; BLOCK_LINKS],
    ) -> u32;

    /// Writes the keys of those of the `lanes` whose id has no bit in `taken` (ids beyond its end have none), in order, from
    /// `to` on, and `NONE`s behind them; how many keys, and the smallest of them, or `NONE`.
    ///
    /// # Safety
    /// The processor has the instruction set; 32 ids lie at `ids`; there is room for 32 keys and a register more.
    unsafe fn append(
        to: *mut u64,
        distances: &[f32; BLOCK_LINKS],
        ids: *const u32,
        lanes: u32,
        taken: &[u64],
    ) -> (usize, u64);

    /// The smallest key, or `NONE`.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn nearest(keys: &[[u64; REGISTER]]) -> u64;

    /// The largest key but for `NONE`, or 0.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn farthest(keys: &[[u64; REGISTER]]) -> u64;

    /// Moves the keys below `end` to the front, in their order; how many. What is behind them is anything.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn retain(keys: &mut [[u64; REGISTER]], end: u64) -> usize;

    /// Replaces all keys of this id by `NONE`; the smallest that is left.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn remove(keys: &mut [[u64; REGISTER]], id: u32) -> u64;

    /// How many keys are smaller than `end`.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn below(keys: &[[u64; REGISTER]], end: u64) -> usize;

    /// One more of the smallest distances ([`super::ranked`]).
    ///
    /// # Safety
    /// The processor has the instruction set; behind the first place there are a multiple of 16.
    unsafe fn insert(ranked: &mut [f32], distance: f32);
}
