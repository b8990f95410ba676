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
//!    two estimates; both go when it is taken. Estimates come into the pool while the next row is scanned: that is a long chain
//!    of short steps, which costs little beside work that does not wait for it. (Only a walk that seems to be at its end settles
//!    them at once.)
//! 4. The walk ends when `ef` expanded rows are nearer than everything in the pool, or when that is empty; or before, when
//!    what is left is so much farther than what was found that it is unlikely to matter ([`Enough`]), or when many rows in a row
//!    were no nearer than those ([`InlineBeam::patience`]). So the smallest distances
//!    are kept in order ([`Ranked`]): one comparison tells whether it ends, and no row that would end it comes into the pool,
//!    since it would never be taken (rows just as far as the last one that counts excepted).
//! 5. A full pool, as it mostly is only before so many rows were expanded, is cut to about its `keep` nearest keys, and "near enough" means nearer than
//!    the last of these. Since most rows have several keys, `ef` keys are fewer than `ef` rows: who wants as many rows as
//!    the beam is wide keeps more.
//! 6. It is told which rows are still among the nearest some time after they were expanded, bit by bit: what is read of them
//!    afterwards travels with the rows of the walk.

use super::backend::Backend;
use super::pool::{Keys, NONE, distance_of, key_of};
use super::ranked::Ranked;
use super::{BLOCK_LINKS, InlineBits, InlineQuery, InlineRows, InlineShape, LINE, prefetch};

/// Rows that are taken before they are expanded.
pub(super) const LOOK_AHEAD: usize = 2;
/// Rows that a walk begins with when it may choose.
const STARTS: usize = 8;
/// Places of the pool beyond twice what a cut keeps.
const SPARE: usize = 64;
/// After so many expansions, keys that have come out of reach are left out of the pool.
const TIDY: usize = 8;
/// A row that is still among the nearest after so many more expansions will mostly stay there; before, it was often on the way only.
const SETTLED: usize = 12;

/// How far a walk looks.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct InlineBeam {
    /// The walk ends when so many expanded rows are nearer than all that are left.
    pub ef: usize,
    /// So many keys are left when there are too many; `ef` at least.
    pub keep: usize,
    /// When it ends before.
    pub enough: Enough,
    /// It also ends when so many rows one after the other were no nearer than the `ef` nearest before: estimates are never
    /// right to the last digit, and where rows lie at much the same distance, some that are not expanded always seem
    /// nearer than those that were.
    pub patience: usize,
    /// So many of the nearest rows are read elsewhere when the walk is done: on its way it tells of them
    /// ([`InlineWatch::soon`]).
    pub read: usize,
}

/// A walk may end once so many `rows` were expanded within that `share` of the distance of the nearest row that is left.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Enough {
    /// At least 1.
    pub rows: usize,
    /// Of squared distances; 0 for a walk that goes on to its end.
    pub share: f32,
}

impl Enough {
    /// Goes on to its end.
    pub const NEVER: Enough = Enough { rows: usize::MAX, share: 0.0 };
}

impl From<usize> for InlineBeam {
    fn from(ef: usize) -> InlineBeam {
        InlineBeam { ef, keep: ef, enough: Enough::NEVER, patience: usize::MAX, read: 0 }
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

/// Who is told of a walk on its way.
pub trait InlineWatch {
    /// What ends the walk.
    type Error;

    /// Called with each row before it is read; refuses those that there are not.
    fn touch(&mut self, row: u32) -> Result<(), Self::Error>;

    /// Whether this row, which was expanded, counts among those that are enough for all of several walks.
    #[inline(always)]
    fn counts(&self, row: u32) -> bool {
        let _ = row;
        true
    }

    /// This row may well be among the [`InlineBeam::read`] nearest in the end.
    #[inline(always)]
    fn soon(&mut self, row: u32) {
        let _ = row;
    }
}

impl<E, F: FnMut(u32) -> Result<(), E>> InlineWatch for F {
    type Error = E;

    #[inline(always)]
    fn touch(&mut self, row: u32) -> Result<(), E> {
        self(row)
    }
}

/// What a walk needs, kept between walks.
#[derive(Clone, Default, Debug)]
pub struct InlineScratch {
    pool: Keys,
    /// The smallest key in the pool, or that was there before it came out of reach. It is kept, since the next row to be read hangs on it: looking for it among keys that were
    /// just written would wait for them.
    nearest: u64,
    /// What is not below this need not come into the pool.
    worst: f32,
    /// A bit per row that was taken.
    taken: Vec<u64>,
    /// Keys of what was expanded, in this order.
    expanded: Vec<u64>,
    /// How far away the nearest of them are.
    ranked: Ranked,
    /// Estimates of one block.
    estimates: [f32; BLOCK_LINKS],
    /// The row and its block whose `estimates` are not in the pool yet, and which of them are near enough. Bringing them there is a
    /// long chain of short steps: while the next row is scanned, it costs little.
    unsettled: Option<(u32, usize, u32)>,
}

impl InlineScratch {
    /// Everything that the last walk expanded, in the order in which it did.
    pub fn expanded(&self) -> impl ExactSizeIterator<Item = Expanded> + Clone {
        self.expanded.iter().map(|&key| Expanded { distance: distance_of(key), id: key as u32 })
    }

    /// The keys of what was expanded.
    pub(super) fn keys(&self) -> &[u64] {
        &self.expanded
    }

    /// The squared distance of the `n`-th nearest row that the last walk expanded, from 1 to the width of its beam; infinite
    /// when there are fewer. Panics for 0.
    pub fn nth(&self, n: usize) -> f32 {
        assert!(n > 0, "rows are counted from 1");
        self.ranked.nth(n)
    }

    /// How near the nearest row is, at least, that the last walk met on its way and did not expand, by its estimate; `None` when
    /// there is none.
    pub fn left(&self) -> Option<f32> {
        let nearest = if self.nearest == NONE { f32::INFINITY } else { distance_of(self.nearest) };
        Some(nearest.min(self.worst)).filter(|left| left.is_finite())
    }

    fn start(&mut self, rows: u32, ef: usize, keep: usize) {
        // Only what the last walk marked is cleared.
        for &key in &self.expanded {
            if let Some(word) = self.taken.get_mut(key as u32 as usize / 64) {
                *word = 0;
            }
        }
        self.expanded.clear();
        self.ranked.reset(ef);
        self.taken.resize((rows as usize).div_ceil(64).max(self.taken.len()), 0);
        self.pool.reset(2 * keep + SPARE);
        self.nearest = NONE;
        self.worst = f32::INFINITY;
        self.unsettled = None;
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

    /// Estimates a block of a row's neighbours; which of them are near enough for the pool.
    ///
    /// # Safety
    /// The processor has the backend's instruction set; a whole row of the shape is at `row`, of the query's dimension.
    #[inline(always)]
    unsafe fn estimate<B: Backend>(
        &mut self,
        shape: InlineShape,
        row: *const u8,
        block: usize,
        query: &InlineQuery,
        distance: f32,
        next: *const u8,
    ) -> u32 {
        let at = shape.codes_at() + block * shape.block_bytes();
        let next = next.wrapping_add(at);
        // SAFETY: the parts of a row lie where its shape says; prefetching has no demands.
        unsafe {
            let codes = row.add(at);
            let sums = match shape.bits {
                InlineBits::One => B::signs(codes, query, next),
                InlineBits::Four => B::levels(codes, query, next),
            };
            let factors = row.add(shape.factors_at() + block * BLOCK_LINKS * 4);
            B::estimate(sums, factors, query, distance, self.worst, &mut self.estimates)
        }
    }

    /// Puts the rows that were estimated last into the pool, those of the `better` lanes that were not taken before.
    ///
    /// # Safety
    /// The processor has the backend's instruction set; 32 ids lie at `ids`.
    #[inline(always)]
    unsafe fn open<B: Backend>(
        &mut self,
        ids: *const u32,
        better: u32,
        (keep, room): (usize, usize),
        any_taken: bool,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            if self.pool.len() + BLOCK_LINKS > 2 * room + SPARE {
                self.cut::<B>(keep);
            }
            let taken: &[u64] = if any_taken { &self.taken } else { &[] };
            let nearest = self.pool.append::<B>(&self.estimates, ids, better, taken);
            self.nearest = self.nearest.min(nearest);
        }
    }

    /// # Safety
    /// The processor has the backend's instruction set.
    #[inline(always)]
    unsafe fn cut<B: Backend>(&mut self, keep: usize) {
        // SAFETY: the caller's promise.
        if let Some(worst) = unsafe { self.pool.cut::<B>(keep) } {
            self.worst = self.worst.min(worst);
        }
    }
}

/// What a walk knows of others that are made with it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Others {
    /// Within this squared distance there are as many rows, of all walks, as are enough.
    pub(super) bar: f32,
    /// It is not over before so many of its own rows are nearer than everything that is left: it may still be on its way.
    pub(super) least: usize,
}

/// One walk on its way: what it looks for, how far, and its pool.
pub(super) struct Walk<'a> {
    query: &'a InlineQuery,
    pub(super) scratch: &'a mut InlineScratch,
    /// `None` for one that is made alone.
    pub(super) others: Option<Others>,
    ef: usize,
    keep: usize,
    enough: Enough,
    patience: usize,
    read: usize,
    /// Rows expanded since one was among the nearest.
    stale: usize,
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
        let ef = beam.ef.clamp(1, rows.count.max(1) as usize);
        // Each row has a key from each of those that lead to it, and a few of these are enough.
        let keep = beam.keep.clamp(ef, 8 * rows.count.max(1) as usize);
        let InlineBeam { enough, patience, read, .. } = beam;
        let walk = Walk { query, scratch, others: None, ef, keep, enough, patience, read, stale: 0 };
        let (scratch, keep) = (&mut *walk.scratch, walk.keep);
        scratch.start(rows.count, walk.ef, keep);
        match start {
            InlineStart::Row(row) => {
                scratch.nearest = key_of(0.0, row);
                scratch.pool.push(scratch.nearest);
            }
            InlineStart::NeighboursOf(entry) => {
                let row = entry.row(0).as_ptr();
                // SAFETY: the caller's promise; the row is a whole one of its own shape.
                unsafe {
                    let distance = B::centre(row, query.numbers(), rows.shape.dimension, row);
                    // There is no other row yet: the codes two blocks on.
                    let next = row.wrapping_add(2 * rows.shape.block_bytes());
                    for block in 0..entry.shape.blocks {
                        let better = scratch.estimate::<B>(entry.shape, row, block, query, distance, next);
                        let ids = row.add(entry.shape.ids_at() + block * BLOCK_LINKS * 4);
                        scratch.open::<B>(ids.cast(), better, (STARTS, keep), false);
                    }
                    scratch.cut::<B>(STARTS);
                }
                // Others than these may still come in.
                scratch.worst = f32::INFINITY;
            }
        }
        walk
    }

    /// Takes the nearest row that is left, when others are `waiting` to be expanded; `None` when the walk has come to its
    /// end, or will have with these.
    ///
    /// # Safety
    /// The processor has the backend's instruction set.
    #[inline(always)]
    pub(super) unsafe fn take<B: Backend, W: InlineWatch>(
        &mut self,
        rows: &InlineRows<'_>,
        waiting: usize,
        watch: &mut W,
    ) -> Result<Option<u32>, W::Error> {
        // SAFETY: the caller's promise. Perhaps the row that is not settled led to something.
        if self.is_over(waiting) && (!unsafe { self.settle::<B>(rows) } || self.is_over(waiting)) {
            return Ok(None);
        }
        let scratch = &mut *self.scratch;
        let id = scratch.nearest as u32;
        // SAFETY: as above.
        scratch.nearest = unsafe { B::remove(scratch.pool.registers_mut(), id) };
        watch.touch(id)?;
        assert!(id < rows.count, "row {id} of {}", rows.count);
        scratch.mark_taken(id);
        Ok(Some(id))
    }

    /// Whether the walk has come to its end, as far as the pool says.
    #[inline(always)]
    fn is_over(&self, waiting: usize) -> bool {
        let scratch = &*self.scratch;
        if scratch.nearest == NONE || self.stale.saturating_add(waiting) >= self.patience {
            return true;
        }
        let left = distance_of(scratch.nearest);
        // Whether so many of the expanded rows are nearer.
        let nearer = |rows: usize, left: f32| rows == 0 || scratch.ranked.nth(rows) < left;
        let near = left * self.enough.share;
        let enough = self.enough.share > 0.0
            && (nearer(self.enough.rows, near)
                || self.others.is_some_and(|Others { bar, least }| bar < near && nearer(least, left)));
        enough || nearer(self.ef.saturating_sub(waiting), left)
    }

    /// A row that is farther than this will never be expanded: when its turn came, the walk would be over. One that is just as
    /// far might have been, and is left out.
    #[inline(always)]
    fn reach(&self) -> f32 {
        let Walk { ef, enough, .. } = *self;
        let ranked = &self.scratch.ranked;
        let end = ranked.nth(ef);
        if enough.share <= 0.0 {
            return end;
        }
        let early = end.min(ranked.nth(enough.rows) / enough.share);
        match self.others {
            None => early,
            Some(Others { bar, least }) => early.min((bar / enough.share).max(ranked.nth(least.max(1)))),
        }
    }

    /// Puts what is not settled yet into the pool; whether there was something.
    ///
    /// # Safety
    /// The processor has the backend's instruction set.
    #[inline(always)]
    pub(super) unsafe fn settle<B: Backend>(&mut self, rows: &InlineRows<'_>) -> bool {
        let Some((row, block, better)) = self.scratch.unsettled.take() else { return false };
        let shape = rows.shape;
        let ids = &rows.row(row)[shape.ids_at() + block * BLOCK_LINKS * 4..][..BLOCK_LINKS * 4];
        // SAFETY: the caller's promise; there are 32 ids.
        unsafe { self.scratch.open::<B>(ids.as_ptr().cast(), better, (self.keep, self.keep), true) };
        true
    }

    /// Expands a row, while the lines of another one, at `next`, travel; its squared distance. `meanwhile` is called where there is
    /// other work to do than to wait for it.
    ///
    /// # Safety
    /// The processor has the backend's instruction set; query and rows have one dimension.
    #[inline(always)]
    pub(super) unsafe fn expand<B: Backend>(
        &mut self,
        rows: &InlineRows<'_>,
        current: u32,
        next: *const u8,
        meanwhile: impl FnOnce(),
    ) -> f32 {
        let shape = rows.shape;
        let row = rows.row(current).as_ptr();
        let distance;
        // SAFETY: `row` is one whole row, whose parts lie where the shape says; prefetching has no demands.
        unsafe {
            distance = B::centre(row, self.query.numbers(), shape.dimension, next);
            self.scratch.expanded.push(key_of(distance, current));
            self.stale = if distance < self.scratch.ranked.nth(self.ef) { 0 } else { self.stale + 1 };
            self.scratch.ranked.insert::<B>(distance);
            let reach = self.reach();
            self.scratch.worst = self.scratch.worst.min(reach);
            if self.scratch.expanded.len().is_multiple_of(TIDY) {
                // Not what is as far as the worst that a cut has kept: equal rows are, and their turn comes.
                self.scratch.pool.retain::<B>(key_of(reach, 0));
            }
            meanwhile();
            for block in 0..shape.blocks {
                self.settle::<B>(rows);
                let better = self.scratch.estimate::<B>(shape, row, block, self.query, distance, next);
                self.scratch.unsettled = Some((current, block, better));
            }
        }
        // What comes last in a row is not asked for by the scan.
        for line in (shape.factors_at()..shape.stride()).step_by(LINE) {
            prefetch(next.wrapping_add(line));
        }
        distance
    }

    /// Says of a row that was expanded some time ago, one with every expansion, whether it may be among the nearest in the end: so what
    /// is read of them comes bit by bit.
    #[inline(always)]
    pub(super) fn tell<W: InlineWatch>(&mut self, watch: &mut W) {
        let InlineScratch { expanded, ranked, .. } = &*self.scratch;
        if let Some(&key) = expanded.iter().nth_back(SETTLED)
            && self.read > 0
            && distance_of(key) <= ranked.nth(self.read)
            && self.others.is_none_or(|others| distance_of(key) <= others.bar)
        {
            watch.soon(key as u32);
        }
    }
}

/// # Safety
/// The processor has the backend's instruction set; query and rows have one dimension, and so has the start.
#[inline(always)]
pub(super) unsafe fn walk<B: Backend, W: InlineWatch>(
    rows: &InlineRows<'_>,
    query: &InlineQuery,
    beam: InlineBeam,
    start: InlineStart<'_>,
    watch: &mut W,
    scratch: &mut InlineScratch,
) -> Result<(), W::Error> {
    // SAFETY: the caller's promise.
    let mut walk = unsafe { Walk::begin::<B>(rows, query, beam, start, scratch) };
    let (mut committed, mut waiting) = ([0u32; LOOK_AHEAD + 1], 0);
    loop {
        let before = waiting;
        while waiting <= LOOK_AHEAD {
            // SAFETY: as above.
            match unsafe { walk.take::<B, W>(rows, waiting, watch) } {
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
        unsafe {
            walk.expand::<B>(rows, current, next, || {});
        }
        walk.tell(watch);
    }
}

#[inline(always)]
pub(super) fn prefetch_all(row: &[u8]) {
    for line in (0..row.len()).step_by(LINE) {
        prefetch(row.as_ptr().wrapping_add(line));
    }
}
