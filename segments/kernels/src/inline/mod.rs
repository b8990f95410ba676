//! Inline rows: a graph walk in which one contiguous read serves a whole expansion.
//!
//! Each row holds its own vector (the *centre*) and, for each of its neighbours, a 1-bit code of the difference to
//! it: an exact distance to the centre and estimates for 32 neighbours at a time cost one stream of bytes (after
//! NGT-QG and SymphonyQG, arXiv 2411.12229; the codes are RaBitQ's, arXiv 2405.12497).
//!
//! With `D` the padded dimension, a multiple of 64, and `B` blocks of 32 neighbours, a row is
//!
//! ```text
//! centre: D x f16 | B x codes: D/4 x 16 bytes | B x (32 x f16 f_add, 32 x f16 f_resc) | B x 32 x u32 ids
//! ```
//!
//! All vectors are rotated and scaled alike, so that squared distances keep their order. Of four dimensions, 16 bytes
//! hold the bits of 32 neighbours: neighbour `j` has the low half of byte `j`, neighbour `16 + j` the high half. A
//! query holds, for each four dimensions, the 16 partial sums of its numbers in six bits each, and one byte shuffle
//! looks up 16 or more of them (FastScan). With `x` the bits of neighbour `o`, `c` the centre and `q` the query,
//!
//! ```text
//! est(|q - o|^2) = |q - c|^2 + f_add + f_resc * (<x, q> - sum(q) / 2)
//! ```
//!
//! 1. The beam is a sorted array of `distance bits << 32 | id << 1 | expanded`. Rows are committed to from its front,
//!    [`LOOK_AHEAD`] of them before they are expanded, so that the lines of the last one travel while others are scanned.
//! 2. An expansion takes the exact distance of its centre into the results, estimates its neighbours, and inserts
//!    those that are better than the last of the beam and were not expanded before.
//! 3. The walk ends when everything in the beam is expanded.

mod encode;
mod portable;
mod query;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::Kernels;

pub use encode::EncodeWork;
pub use query::InlineQuery;

/// Neighbours of one block.
pub const BLOCK_LINKS: usize = 32;
/// The padded dimension is a multiple of this.
pub const DIMENSION_STEP: usize = 64;
/// The largest padded dimension: sums of six-bit numbers, one per four dimensions, stay below 2^16.
pub const DIMENSION_MAX: usize = 4160;
/// Marks a place without a neighbour.
pub const NO_NEIGHBOUR: u32 = u32::MAX;
/// Rows that are committed to before they are expanded.
const LOOK_AHEAD: usize = 2;
/// An unused place of the beam: farther than everything, and expanded.
const UNUSED: u64 = (0x7f80_0000 << 32) | 0xffff_ffff;
const LINE: usize = 64;

/// Where the parts of a row lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InlineShape {
    dimension: usize,
    blocks: usize,
}

impl InlineShape {
    /// Rows of vectors with `dimension` numbers and at most `links` neighbours; `None` when the dimension is over
    /// [`DIMENSION_MAX`] or one of them is zero.
    pub fn new(dimension: usize, links: usize) -> Option<InlineShape> {
        let padded = dimension.next_multiple_of(DIMENSION_STEP);
        let blocks = links.div_ceil(BLOCK_LINKS);
        (1..=DIMENSION_MAX).contains(&padded).then_some(())?;
        (dimension > 0 && (1..=64).contains(&blocks)).then_some(InlineShape { dimension: padded, blocks })
    }

    /// The padded dimension.
    pub fn dimension(self) -> usize {
        self.dimension
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
        self.codes_at() + self.blocks * self.dimension * 4
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

    fn row(&self, id: u32) -> &'a [u8] {
        let stride = self.shape.stride();
        &self.bytes[id as usize * stride..][..stride]
    }

    /// The neighbours of a row. Panics when there is no such row.
    pub fn links(&self, id: u32) -> impl Iterator<Item = u32> + use<'a> {
        let ids = &self.row(id)[self.shape.ids_at()..];
        let ids = ids.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]));
        ids.take_while(|&id| id != NO_NEIGHBOUR)
    }
}

/// A row that was expanded, and its squared distance in the rotated space.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Expanded {
    /// From the numbers in the row.
    pub distance: f32,
    /// The row.
    pub id: u32,
}

/// What a walk needs, kept between walks.
#[derive(Clone, Default, Debug)]
pub struct InlineScratch {
    beam: Vec<BeamBlock>,
    visited: Vec<u64>,
    /// Everything that was expanded, in this order.
    pub expanded: Vec<Expanded>,
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct BeamBlock([u64; 8]);

impl InlineScratch {
    fn start(&mut self, rows: u32, ef: usize) {
        // Only what the last walk marked is cleared.
        for expanded in self.expanded.drain(..) {
            if let Some(word) = self.visited.get_mut(expanded.id as usize / 64) {
                *word = 0;
            }
        }
        self.visited.resize((rows as usize).div_ceil(64).max(self.visited.len()), 0);
        self.beam.clear();
        self.beam.resize(ef.div_ceil(8).max(1), BeamBlock([UNUSED; 8]));
    }

    /// Marks a row; whether it was not marked before.
    #[inline(always)]
    fn mark(&mut self, id: u32) -> bool {
        let (word, bit) = (&mut self.visited[id as usize / 64], 1u64 << (id % 64));
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    #[inline(always)]
    fn marked(&self, id: u32) -> bool {
        self.visited.get(id as usize / 64).is_some_and(|word| word >> (id % 64) & 1 == 1)
    }
}

/// The operations that differ between instruction sets.
trait Backend {
    /// `|query - centre|^2`, while the first lines at `next` travel.
    ///
    /// # Safety
    /// The processor has the instruction set; `centre` has `dimension` f16 and `query` as many f32, aligned to 64
    /// bytes.
    unsafe fn centre(centre: *const u8, query: *const f32, dimension: usize, next: *const u8) -> f32;

    /// Estimates of the 32 neighbours of a block, and which of them are below `worst`.
    ///
    /// # Safety
    /// The processor has the instruction set; `codes` and `tables` have `4 * dimension` bytes, `factors` 128.
    unsafe fn estimate(
        codes: *const u8,
        factors: *const u8,
        query: &InlineQuery,
        base: f32,
        worst: f32,
        next: *const u8,
        out: &mut [f32; BLOCK_LINKS],
    ) -> u32;

    /// Inserts a key that is below the last one, which falls out; the first block that changed.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn insert(beam: &mut [BeamBlock], key: u64) -> usize;

    /// The first key from block `from` on that is not expanded: its block and place.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn open(beam: &[BeamBlock], from: usize) -> Option<(usize, usize)>;
}

/// Walks from `entries` with a beam of `ef`; what was expanded is in `scratch.expanded` then, in no order of
/// distance. `touch` is called with each id before its row is read, and refuses those that are not in
/// `0..rows.count()`. Panics when the query is of another dimension, or when `touch` lets an id pass that does not
/// exist.
pub fn inline_walk<E>(
    kernels: Kernels,
    rows: &InlineRows<'_>,
    query: &InlineQuery,
    ef: usize,
    entries: &[u32],
    touch: impl FnMut(u32) -> Result<(), E>,
    scratch: &mut InlineScratch,
) -> Result<(), E> {
    assert_eq!(query.dimension, rows.shape.dimension);
    match kernels.name() {
        // SAFETY: a value of `Kernels` is the proof that the processor has the backend.
        #[cfg(target_arch = "x86_64")]
        "avx512" => unsafe { x86::walk_avx512(rows, query, ef, entries, touch, scratch) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        "avx2" => unsafe { x86::walk_avx2(rows, query, ef, entries, touch, scratch) },
        // SAFETY: every processor has this one.
        _ => unsafe { walk::<portable::Portable, E>(rows, query, ef, entries, touch, scratch) },
    }
}

/// # Safety
/// The processor has the backend's instruction set; query and rows have one dimension.
#[inline(always)]
unsafe fn walk<B: Backend, E>(
    rows: &InlineRows<'_>,
    query: &InlineQuery,
    ef: usize,
    entries: &[u32],
    mut touch: impl FnMut(u32) -> Result<(), E>,
    scratch: &mut InlineScratch,
) -> Result<(), E> {
    let shape = rows.shape;
    scratch.start(rows.count, ef);
    for &entry in entries {
        // At distance zero, so that all of them are expanded first.
        insert::<B>(scratch, 0.0, entry);
    }
    let (mut committed, mut waiting) = ([0u32; LOOK_AHEAD + 1], 0);
    let mut cursor = 0;
    let mut estimates = [0f32; BLOCK_LINKS];
    loop {
        let before = waiting;
        while waiting <= LOOK_AHEAD {
            // SAFETY: the caller's promise.
            let Some((block, place)) = (unsafe { B::open(&scratch.beam, cursor) }) else { break };
            cursor = block;
            let key = &mut scratch.beam[block].0[place];
            *key |= 1;
            let id = (*key as u32) >> 1;
            if scratch.marked(id) {
                continue;
            }
            if let Err(error) = touch(id) {
                // Rows that were committed to are marked, and nothing else remembers which.
                scratch.visited.fill(0);
                return Err(error);
            }
            assert!(id < rows.count, "row {id} of {}", rows.count);
            scratch.mark(id);
            committed[waiting] = id;
            waiting += 1;
        }
        if waiting == 0 {
            return Ok(());
        }
        // One row travels while the current one is scanned; more of them, at once.
        for &id in committed[..waiting - 1].iter().skip(before.max(1)) {
            prefetch_all(rows.row(id));
        }
        let current = committed[0];
        let next = rows.row(committed[waiting - 1]);
        committed.copy_within(1.., 0);
        waiting -= 1;

        let row = rows.row(current);
        // SAFETY: `row` is one whole row, whose parts lie where the shape says; `next` is one too, and prefetching
        // has no demands.
        unsafe {
            let start = row.as_ptr();
            let next = next.as_ptr();
            let distance = B::centre(start, query.numbers(), shape.dimension, next);
            scratch.expanded.push(Expanded { distance, id: current });
            for block in 0..shape.blocks {
                let worst = f32::from_bits((scratch.beam[scratch.beam.len() - 1].0[7] >> 32) as u32);
                let mut better = B::estimate(
                    start.add(shape.codes_at() + block * shape.dimension * 4),
                    start.add(shape.factors_at() + block * BLOCK_LINKS * 4),
                    query,
                    distance,
                    worst,
                    next.wrapping_add(shape.dimension * 2 + block * shape.dimension * 4),
                    &mut estimates,
                );
                let ids = start.add(shape.ids_at() + block * BLOCK_LINKS * 4).cast::<u32>();
                while better != 0 {
                    let lane = better.trailing_zeros() as usize;
                    better &= better - 1;
                    let id = u32::from_le(ids.add(lane).read_unaligned());
                    if !scratch.marked(id) {
                        cursor = cursor.min(insert::<B>(scratch, estimates[lane], id));
                    }
                }
            }
        }
    }
}

/// The first block of the beam that changed.
#[inline(always)]
fn insert<B: Backend>(scratch: &mut InlineScratch, distance: f32, id: u32) -> usize {
    let key = u64::from(distance.to_bits()) << 32 | u64::from(id) << 1;
    let last = scratch.beam.len() - 1;
    if key >= scratch.beam[last].0[7] {
        return last;
    }
    // SAFETY: only reached with a backend that the processor has.
    unsafe { B::insert(&mut scratch.beam, key) }
}

#[inline(always)]
fn prefetch_all(row: &[u8]) {
    for line in (0..row.len()).step_by(LINE) {
        prefetch(row.as_ptr().wrapping_add(line));
    }
}

#[inline(always)]
fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program can see and never faults, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
