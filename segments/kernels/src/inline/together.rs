//! Several walks at once, of one query over the rows of several segments.
//!
//! Walks that are made one after the other each wait for their first rows and look ahead at rows that turn out not to be wanted. Made
//! together they take turns:
//!
//! 1. Rows are taken ahead of their turn as in one walk ([`super::walk`]), from one lane after the other: while a row of one travels,
//!    those of others are scanned. With three lanes and more, a lane chooses its next row when all that its last one led to is known.
//! 2. What is *enough* counts in all lanes: a lane ends when, of all of them, so many rows were expanded within a share of the distance of
//!    its nearest row that is left, and a few of its own are nearer than that (before, it may still be on its way); or when a walk
//!    alone would end. Rows that can't be hits don't count for other lanes ([`InlineWatch::counts`]).
//! 3. Each lane has a space of its own. What they compare is the distance that callers see, of which a lane's squared distances are a
//!    line ([`InlineScale`]).

use super::backend::Backend;
use super::pool::distance_of;
use super::portable::Portable;
use super::ranked::Ranked;
use super::walk::{LOOK_AHEAD, Others, Walk, prefetch_all};
use super::{InlineBeam, InlineQuery, InlineRows, InlineScratch, InlineStart, InlineWatch, check};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::Kernels;

/// So many lanes are walked at a time. The others begin when one of these ends, with what is known by then.
const OPEN: usize = 8;

/// How the squared distances of a lane follow from those that all lanes have in common: `fixed + factor * distance`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct InlineScale {
    /// Of a distance of 0.
    pub fixed: f64,
    /// Above 0.
    pub factor: f64,
}

impl InlineScale {
    /// A common distance as a squared one of the lane.
    #[inline(always)]
    pub fn own(self, distance: f32) -> f32 {
        (self.fixed + self.factor * f64::from(distance)) as f32
    }

    /// A squared distance of the lane as a common one.
    #[inline(always)]
    pub fn common(self, square: f32) -> f32 {
        ((f64::from(square) - self.fixed) / self.factor) as f32
    }
}

/// One of the walks.
#[derive(Debug)]
pub struct InlineLane<'a, W> {
    /// What is walked over.
    pub rows: InlineRows<'a>,
    /// In the space of these rows.
    pub query: &'a InlineQuery,
    /// How far; of its [`Enough`](super::Enough) only the share is its own.
    pub beam: InlineBeam,
    /// Where it begins.
    pub start: InlineStart<'a>,
    /// It is not over before so many of its rows are nearer than everything that is left.
    pub least: usize,
    /// How its distances compare with those of others.
    pub scale: InlineScale,
    /// Who is told of it.
    pub watch: W,
    /// What it needs; what it expanded is there afterwards.
    pub scratch: &'a mut InlineScratch,
}

/// What all lanes know.
#[derive(Clone, Default, Debug)]
pub struct InlineCommon {
    nearest: Ranked,
    enough: usize,
}

impl InlineCommon {
    /// For walks of which so many rows are enough, when those at the `known` distances were found before. Panics for 0.
    pub fn reset(&mut self, enough: usize, known: &[f32]) {
        assert!(enough > 0, "at least one row is wanted");
        self.enough = enough;
        self.nearest.reset(enough);
        for &distance in known {
            // SAFETY: every processor has this one.
            unsafe { self.nearest.insert::<Portable>(distance) };
        }
    }

    /// The distance within which there are as many rows as are enough; infinite when there are fewer.
    pub fn bar(&self) -> f32 {
        self.nearest.nth(self.enough)
    }
}

/// Makes walks together, each as [`inline_walk`](super::inline_walk) would, and panics as that does.
pub fn inline_walk_together<W: InlineWatch>(
    kernels: Kernels,
    lanes: &mut [InlineLane<'_, W>],
    common: &mut InlineCommon,
) -> Result<(), W::Error> {
    lanes.iter().for_each(|lane| check(&lane.rows, lane.query, lane.start));
    match kernels.name() {
        // SAFETY: a value of `Kernels` is the proof that the processor has the backend.
        #[cfg(target_arch = "x86_64")]
        "avx512" => unsafe { avx512::walk_together_avx512(lanes, common) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        "avx2" => unsafe { avx2::walk_together_avx2(lanes, common) },
        // SAFETY: every processor has this one.
        _ => unsafe { walk_together::<Portable, W>(lanes, common) },
    }
}

/// A lane on its way.
struct Run<'a, W> {
    rows: InlineRows<'a>,
    walk: Walk<'a>,
    watch: &'a mut W,
    scale: InlineScale,
    least: usize,
    /// Rows that were taken and not expanded yet.
    waiting: usize,
}

impl<'a, W: InlineWatch> Run<'a, W> {
    /// # Safety
    /// The processor has the backend's instruction set; query, rows and start have one dimension.
    #[inline(always)]
    unsafe fn begin<B: Backend>(lane: &'a mut InlineLane<'_, W>) -> Run<'a, W> {
        let InlineLane { rows, query, beam, start, least, scale, watch, scratch } = lane;
        // SAFETY: the caller's promise.
        let walk = unsafe { Walk::begin::<B>(rows, query, *beam, *start, scratch) };
        Run { rows: *rows, walk, watch, scale: *scale, least: *least, waiting: 0 }
    }

    /// Takes the next row, if there is one to take now.
    ///
    /// # Safety
    /// The processor has the backend's instruction set.
    #[inline(always)]
    unsafe fn take<B: Backend>(&mut self, bar: f32) -> Result<Option<u32>, W::Error> {
        self.walk.others = Some(Others { bar: self.scale.own(bar), least: self.least });
        // SAFETY: the caller's promise.
        let taken = unsafe {
            // Nothing is left to wait for.
            if self.waiting == 0 {
                self.walk.settle::<B>(&self.rows);
            }
            self.walk.take::<B, W>(&self.rows, self.waiting, self.watch)?
        };
        self.waiting += usize::from(taken.is_some());
        Ok(taken)
    }

    /// Tells of those rows that may be hits, as far as is known: what is read of them travels while other lanes go on.
    fn end(&mut self, bar: f32) {
        let bar = self.scale.own(bar);
        // Where nothing is known, everything may be one.
        let known = bar.is_finite();
        for &key in self.walk.scratch.keys() {
            if known && distance_of(key) <= bar {
                self.watch.soon(key as u32);
            }
        }
    }
}

/// # Safety
/// The processor has the backend's instruction set; query, rows and start of each lane have one dimension.
#[inline(always)]
pub(super) unsafe fn walk_together<B: Backend, W: InlineWatch>(
    lanes: &mut [InlineLane<'_, W>],
    common: &mut InlineCommon,
) -> Result<(), W::Error> {
    let mut runs: Vec<Run<'_, W>> = Vec::with_capacity(lanes.len());
    let mut rest = lanes.iter_mut();
    // Those that are not over, and whose turn it is.
    let (mut open, mut turn): (Vec<usize>, usize) = (Vec::with_capacity(OPEN), 0);
    let (mut committed, mut waiting, mut settling) = ([(0usize, 0u32); LOOK_AHEAD + 1], 0, 0);
    loop {
        let (before, mut in_vain) = (waiting, 0);
        while waiting <= LOOK_AHEAD {
            while open.len() < OPEN
                && let Some(lane) = rest.next()
            {
                open.push(runs.len());
                // SAFETY: the caller's promise.
                runs.push(unsafe { Run::begin::<B>(lane) });
            }
            if in_vain == open.len() {
                break;
            }
            turn = if turn < open.len() { turn } else { 0 };
            let number = open[turn];
            let run = &mut runs[number];
            // SAFETY: as above.
            match unsafe { run.take::<B>(common.bar()) } {
                Ok(Some(id)) => {
                    committed[waiting] = (number, id);
                    (waiting, turn, in_vain) = (waiting + 1, turn + 1, 0);
                }
                Ok(None) if run.waiting == 0 => {
                    run.end(common.bar());
                    open.remove(turn);
                }
                Ok(None) => (turn, in_vain) = (turn + 1, in_vain + 1),
                Err(error) => {
                    runs.iter_mut().for_each(|run| run.walk.scratch.forget());
                    return Err(error);
                }
            }
        }
        if waiting == 0 {
            return Ok(());
        }
        // One row travels while the current one is scanned; more of them, at once.
        for &(number, id) in committed[..waiting - 1].iter().skip(before.max(1)) {
            prefetch_all(runs[number].rows.row(id));
        }
        let (number, current) = committed[0];
        let (other, id) = committed[waiting - 1];
        let next = runs[other].rows.row(id);
        if next.len() > runs[number].rows.shape.stride() {
            // The scan asks for no more than its own row is long.
            prefetch_all(next);
        }
        let next = next.as_ptr();
        committed.copy_within(1.., 0);
        waiting -= 1;
        // What the last row led to comes into its pool meanwhile: who takes a row from there next doesn't wait for it.
        let (run, last) = match runs.get_disjoint_mut([number, settling]) {
            Ok([run, last]) => (run, Some(last)),
            Err(_) => (&mut runs[number], None),
        };
        settling = number;
        run.waiting -= 1;
        let settle = || {
            if let Some(last) = last {
                // SAFETY: as above.
                unsafe { last.walk.settle::<B>(&last.rows) };
            }
        };
        // SAFETY: as above.
        let square = unsafe { run.walk.expand::<B>(&run.rows, current, next, settle) };
        if run.watch.counts(current) {
            // SAFETY: as above.
            unsafe { common.nearest.insert::<B>(run.scale.common(square)) };
        }
        run.walk.tell(run.watch);
    }
}
