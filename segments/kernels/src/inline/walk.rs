//! Walking over inline rows.
//!
//! 1. The *pool* holds the keys `distance bits << 32 | id` of rows that were met and not expanded, in no order. When one is
//!    taken, the next nearest is found by looking at all: a few registers' worth, without a branch that could be guessed wrong.
//!    (A sorted beam costs less where few keys arrive, but eight or more arrive with every row, and each insertion is a
//!    loop whose length cannot be guessed.)
//! 2. Rows are taken from it ahead of their turn, [`LOOK_AHEAD`] of them, so that the lines of the last one travel
//!    while others are scanned.
//! 3. An expansion takes the exact distance of its centre, estimates its neighbours, and puts those into the pool
//!    that are near enough and were not taken before. A row that is met again before it is taken is there twice, with
//!    two estimates; both go when it is taken.
//! 4. A full pool is cut to about its `keep` nearest keys; from then on, "near enough" means nearer than the last of these.
//!    Since some rows have several keys, `ef` keys are fewer than `ef` rows: who wants nearly as many rows as the beam is
//!    wide keeps more.
//! 5. The walk ends when `ef` expanded rows are nearer than everything in the pool, or when that is empty; or before, when
//!    what is left is so much farther than what was found that it is unlikely to matter ([`Enough`]).

use super::{BLOCK_LINKS, InlineQuery, InlineRows, InlineShape, LINE, prefetch};

/// Rows that are taken before they are expanded.
const LOOK_AHEAD: usize = 2;
/// Rows that a walk begins with when it may choose.
const STARTS: usize = 8;
/// No row: farther than everything.
pub(super) const NONE: u64 = u64::MAX >> 1;
/// Places of the pool beyond twice what a cut keeps.
const SPARE: usize = 64;
/// Halvings after which a cut partitions.
const CUT_STEPS: usize = 16;

/// How far a walk looks.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct InlineBeam {
    /// The walk ends when so many expanded rows are nearer than all that are left.
    pub ef: usize,
    /// So many keys are left when there are too many; `ef` at least.
    pub keep: usize,
    /// When it ends before.
    pub enough: Enough,
}

/// A walk may end once so many `rows` were expanded, or found elsewhere, within that `share` of the distance of the nearest
/// row that is left.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Enough {
    /// At least 1.
    pub rows: usize,
    /// Of squared distances; 0 for a walk that goes on to its end.
    pub share: f32,
    /// But where rows were found elsewhere, not before so many expanded ones are nearer than everything that is left: it may
    /// still be on its way.
    pub least: usize,
}

impl Enough {
    /// Goes on to its end.
    pub const NEVER: Enough = Enough { rows: usize::MAX, share: 0.0, least: 0 };
}

impl From<usize> for InlineBeam {
    fn from(ef: usize) -> InlineBeam {
        InlineBeam { ef, keep: ef, enough: Enough::NEVER }
    }
}

/// Where a walk begins.
#[derive(Clone, Copy, Debug)]
pub enum InlineStart<'a> {
    /// At this row.
    Row(u32),
    /// At those that seem nearest among the neighbours of the only row of these rows, which may have another number of
    /// places; its ids name rows of the walk.
    NeighboursOf(InlineRows<'a>),
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
    /// Room for all keys that a pool may hold and one register more; the first `len` are in it.
    pool: Vec<u64>,
    len: usize,
    /// The smallest of them. It is kept, since the next row to be read hangs on it: looking for it among keys that were
    /// just written would wait for them.
    nearest: u64,
    /// What is not below this need not come into the pool.
    worst: f32,
    /// A bit per row that was taken.
    taken: Vec<u64>,
    /// Keys of what was expanded, in this order.
    expanded: Vec<u64>,
}

impl InlineScratch {
    /// Everything that the last walk expanded, in the order in which it did.
    pub fn expanded(&self) -> impl ExactSizeIterator<Item = Expanded> + Clone {
        self.expanded.iter().map(|&key| Expanded { distance: distance_of(key), id: key as u32 })
    }

    /// How near the nearest row is that the last walk met and did not expand, by its estimate; `None` when there is none.
    pub fn left(&self) -> Option<f32> {
        (self.nearest != NONE).then(|| distance_of(self.nearest))
    }

    fn start(&mut self, rows: u32, keep: usize) {
        // Only what the last walk marked is cleared.
        for key in self.expanded.drain(..) {
            if let Some(word) = self.taken.get_mut(key as u32 as usize / 64) {
                *word = 0;
            }
        }
        self.taken.resize((rows as usize).div_ceil(64).max(self.taken.len()), 0);
        self.pool.resize((2 * keep + SPARE + 8).max(self.pool.len()), NONE);
        self.len = 0;
        self.nearest = NONE;
        self.worst = f32::INFINITY;
    }

    /// After a walk that was given up: rows that were taken are marked, and nothing else remembers which.
    pub(super) fn forget(&mut self) {
        self.taken.fill(0);
        self.expanded.clear();
    }

    #[inline(always)]
    fn mark_taken(&mut self, id: u32) {
        self.taken[id as usize / 64] |= 1 << (id % 64);
    }

    /// Leaves the `keep` nearest, and at most a quarter more. A key that has so many before it is looked for by halving
    /// what lies between the smallest and the largest: distances mostly lie evenly enough for a handful of steps. Where
    /// they do not, the keys are partitioned.
    ///
    /// # Safety
    /// The processor has the backend's instruction set.
    #[inline(always)]
    unsafe fn cut<B: Backend>(&mut self, keep: usize) {
        let keys = &mut self.pool[..self.len];
        // SAFETY: the caller's promise.
        unsafe {
            if B::below(keys, NONE) <= keep {
                self.len = B::retain(keys, NONE);
                return;
            }
            let (mut low, mut high) = (B::nearest(keys), B::farthest(keys));
            for _ in 0..CUT_STEPS {
                let middle = low + (high - low) / 2;
                let count = B::below(keys, middle);
                if (keep..=keep + keep / 4).contains(&count) {
                    self.worst = distance_of(middle);
                    self.len = B::retain(keys, middle);
                    return;
                }
                if count < keep { low = middle } else { high = middle }
            }
        }
        let (_, &mut last, _) = keys.select_nth_unstable(keep - 1);
        self.worst = distance_of(last);
        self.len = keep;
    }
}

pub(super) fn distance_of(key: u64) -> f32 {
    f32::from_bits((key >> 32) as u32)
}

pub(super) fn key_of(distance: f32, id: u32) -> u64 {
    u64::from(distance.to_bits()) << 32 | u64::from(id)
}

/// The operations that differ between instruction sets.
pub(super) trait Backend {
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

    /// Those of the `lanes` whose id has no bit in `taken`; ids beyond its end have none.
    ///
    /// # Safety
    /// The processor has the instruction set; 32 ids lie at `ids`.
    unsafe fn fresh(taken: &[u64], ids: *const u32, lanes: u32) -> u32;

    /// Writes the keys of the `lanes`, in order, from `to` on; how many, and the smallest of them, or [`NONE`].
    ///
    /// # Safety
    /// The processor has the instruction set; 32 ids lie at `ids`; there is room for the keys and eight more.
    unsafe fn append(
        to: *mut u64,
        distances: &[f32; BLOCK_LINKS],
        ids: *const u32,
        lanes: u32,
    ) -> (usize, u64);

    /// The smallest key, or [`NONE`].
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn nearest(keys: &[u64]) -> u64;

    /// The largest key but for [`NONE`], or 0.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn farthest(keys: &[u64]) -> u64;

    /// Moves the keys below `end` to the front, in their order; how many.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn retain(keys: &mut [u64], end: u64) -> usize;

    /// Replaces all keys of this id by [`NONE`]; the smallest that is left.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn remove(keys: &mut [u64], id: u32) -> u64;

    /// How many keys are smaller than this one.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn below(keys: &[u64], key: u64) -> usize;
}

/// One walk on its way: what it looks for, how far, and its pool.
pub(super) struct Walk<'a> {
    pub(super) query: &'a InlineQuery,
    pub(super) scratch: &'a mut InlineScratch,
    ef: usize,
    keep: usize,
    enough: Enough,
}

impl<'a> Walk<'a> {
    /// Opens the first rows.
    ///
    /// # Safety
    /// The processor has the backend's instruction set; query, rows and start have one dimension.
    #[inline(always)]
    pub(super) unsafe fn begin<B: Backend>(
        rows: &InlineRows<'_>,
        query: &'a InlineQuery,
        beam: InlineBeam,
        start: InlineStart<'_>,
        scratch: &'a mut InlineScratch,
    ) -> Walk<'a> {
        let walk = Walk::resume(rows, query, beam, scratch);
        let (scratch, keep) = (&mut *walk.scratch, walk.keep);
        scratch.start(rows.count, keep);
        match start {
            InlineStart::Row(row) => {
                scratch.pool[0] = key_of(0.0, row);
                scratch.len = 1;
                scratch.nearest = scratch.pool[0];
            }
            InlineStart::NeighboursOf(entry) => {
                let row = entry.row(0).as_ptr();
                // SAFETY: the caller's promise; the row is a whole one of its own shape.
                unsafe {
                    let distance = B::centre(row, query.numbers(), rows.shape.dimension, row);
                    // There is no other row yet: the codes two blocks on.
                    let next = row.wrapping_add(2 * 4 * rows.shape.dimension);
                    open_neighbours::<B>(entry.shape, row, query, distance, next, (STARTS, keep), scratch);
                    scratch.cut::<B>(STARTS);
                }
                // Others than these may still come in.
                scratch.worst = f32::INFINITY;
            }
        }
        walk
    }

    /// A walk that was begun with the same arguments.
    pub(super) fn resume(
        rows: &InlineRows<'_>,
        query: &'a InlineQuery,
        beam: InlineBeam,
        scratch: &'a mut InlineScratch,
    ) -> Walk<'a> {
        let ef = beam.ef.clamp(1, rows.count.max(1) as usize);
        // Each row has a key from each of those that lead to it, and a few of these are enough.
        let keep = beam.keep.clamp(ef, 8 * rows.count.max(1) as usize);
        Walk { query, scratch, ef, keep, enough: beam.enough }
    }

    /// Takes the nearest row that is left, when others are `waiting` to be expanded; `None` when the walk has come to its
    /// end, or will have with these.
    ///
    /// # Safety
    /// The processor has the backend's instruction set.
    #[inline(always)]
    pub(super) unsafe fn take<B: Backend, E>(
        &mut self,
        rows: &InlineRows<'_>,
        waiting: usize,
        touch: impl FnOnce(u32) -> Result<(), E>,
    ) -> Result<Option<u32>, E> {
        let scratch = &mut *self.scratch;
        let key = scratch.nearest;
        if key == NONE {
            return Ok(None);
        }
        // Counting begins when there may be enough to count.
        let (met, known) = (scratch.expanded.len(), &self.query.known);
        if met + waiting >= self.ef || met + known.len() >= self.enough.rows {
            let near = key_of(distance_of(key) * self.enough.share, 0);
            // SAFETY: the caller's promise.
            let (nearer, much_nearer) = unsafe {
                let much_nearer = B::below(&scratch.expanded, near);
                (B::below(&scratch.expanded, key), much_nearer + known.partition_point(|&key| key < near))
            };
            let enough = self.enough.share > 0.0 && much_nearer >= self.enough.rows;
            let arrived = known.is_empty() || nearer >= self.enough.least;
            if nearer + waiting >= self.ef || (enough && arrived) {
                return Ok(None);
            }
        }
        let id = key as u32;
        // SAFETY: as above.
        scratch.nearest = unsafe { B::remove(&mut scratch.pool[..scratch.len], id) };
        touch(id)?;
        assert!(id < rows.count, "row {id} of {}", rows.count);
        scratch.mark_taken(id);
        Ok(Some(id))
    }

    /// Expands a row, while the lines of another one, at `next`, travel.
    ///
    /// # Safety
    /// The processor has the backend's instruction set; query and rows have one dimension.
    #[inline(always)]
    pub(super) unsafe fn expand<B: Backend>(&mut self, rows: &InlineRows<'_>, current: u32, next: *const u8) {
        let shape = rows.shape;
        let row = rows.row(current).as_ptr();
        // SAFETY: `row` is one whole row, whose parts lie where the shape says; prefetching has no demands.
        unsafe {
            let distance = B::centre(row, self.query.numbers(), shape.dimension, next);
            self.scratch.expanded.push(key_of(distance, current));
            open_neighbours::<B>(
                shape,
                row,
                self.query,
                distance,
                next,
                (self.keep, self.keep),
                self.scratch,
            );
        }
        // What comes last in a row is not asked for by the scan.
        for line in (shape.factors_at()..shape.stride()).step_by(LINE) {
            prefetch(next.wrapping_add(line));
        }
    }
}

/// # Safety
/// The processor has the backend's instruction set; query and rows have one dimension, and so has the start.
#[inline(always)]
pub(super) unsafe fn walk<B: Backend, E>(
    rows: &InlineRows<'_>,
    query: &InlineQuery,
    beam: InlineBeam,
    start: InlineStart<'_>,
    mut touch: impl FnMut(u32) -> Result<(), E>,
    scratch: &mut InlineScratch,
) -> Result<(), E> {
    // SAFETY: the caller's promise.
    let mut walk = unsafe { Walk::begin::<B>(rows, query, beam, start, scratch) };
    let (mut committed, mut waiting) = ([0u32; LOOK_AHEAD + 1], 0);
    loop {
        let before = waiting;
        while waiting <= LOOK_AHEAD {
            // SAFETY: as above.
            match unsafe { walk.take::<B, E>(rows, waiting, &mut touch) } {
                Ok(Some(id)) => committed[waiting] = id,
                Ok(None) => break,
                Err(error) => {
                    walk.scratch.forget();
                    return Err(error);
                }
            }
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
        let next = rows.row(committed[waiting - 1]).as_ptr();
        committed.copy_within(1.., 0);
        waiting -= 1;
        // SAFETY: as above.
        unsafe { walk.expand::<B>(rows, current, next) };
    }
}

/// Puts those neighbours of a row into the pool that seem near enough and were not taken before.
///
/// # Safety
/// As [`walk`]; a whole row of the shape is at `row`.
#[inline(always)]
unsafe fn open_neighbours<B: Backend>(
    shape: InlineShape,
    row: *const u8,
    query: &InlineQuery,
    distance: f32,
    next: *const u8,
    (keep, room): (usize, usize),
    scratch: &mut InlineScratch,
) {
    let mut estimates = [0f32; BLOCK_LINKS];
    for block in 0..shape.blocks {
        if scratch.len + BLOCK_LINKS > 2 * room + SPARE {
            // SAFETY: the caller's promise.
            unsafe { scratch.cut::<B>(keep) };
        }
        let codes = shape.dimension * 4;
        assert!(scratch.len + BLOCK_LINKS + 8 <= scratch.pool.len());
        // SAFETY: the parts of a row lie where its shape says; prefetching has no demands; there is room.
        unsafe {
            let better = B::estimate(
                row.add(shape.codes_at() + block * codes),
                row.add(shape.factors_at() + block * BLOCK_LINKS * 4),
                query,
                distance,
                scratch.worst,
                next.wrapping_add(shape.dimension * 2 + block * codes),
                &mut estimates,
            );
            let ids = row.add(shape.ids_at() + block * BLOCK_LINKS * 4).cast::<u32>();
            let fresh = B::fresh(&scratch.taken, ids, better);
            let to = scratch.pool.as_mut_ptr().add(scratch.len);
            let (count, nearest) = B::append(to, &estimates, ids, fresh);
            scratch.len += count;
            scratch.nearest = scratch.nearest.min(nearest);
        }
    }
}

#[inline(always)]
fn prefetch_all(row: &[u8]) {
    for line in (0..row.len()).step_by(LINE) {
        prefetch(row.as_ptr().wrapping_add(line));
    }
}

#[cfg(test)]
mod tests {
    use super::super::portable::Portable;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Keys that halving does not tell apart once stayed in the pool, all of them, and the next ones had no room.
        #[test]
        fn a_cut_makes_room_however_keys_lie(
            keys in prop::collection::vec(
                (prop_oneof![Just(0.0f32), 0.999_99f32..1.0, Just(1.0), 0.0f32..1e30], 0u32..40)
                    .prop_map(|(distance, id)| key_of(distance, id)),
                1..150,
            ),
            gone in prop::collection::vec(any::<bool>(), 150),
            keep in 1usize..60,
        ) {
            let mut pool: Vec<u64> =
                keys.iter().zip(&gone).map(|(&key, &gone)| if gone { NONE } else { key }).collect();
            let mut wanted = pool.clone();
            wanted.sort_unstable();
            wanted.truncate(keep);
            wanted.retain(|&key| key != NONE);
            pool.push(7);
            let len = pool.len() - 1;
            let mut scratch = InlineScratch { pool, len, worst: f32::INFINITY, ..InlineScratch::default() };
            // SAFETY: every processor has it.
            unsafe { scratch.cut::<Portable>(keep) };
            prop_assert!(scratch.len <= keep + keep / 4);
            let mut kept = scratch.pool[..scratch.len].to_vec();
            kept.sort_unstable();
            prop_assert_eq!(&kept[..wanted.len()], &wanted[..]);
            prop_assert!(kept.iter().all(|&key| key != NONE && distance_of(key) <= scratch.worst));
            prop_assert_eq!(scratch.pool.last(), Some(&7));
        }
    }
}
