//! Several walks at once, on one thread.
//!
//! What a single walk waits for is the row that it chose last: it can look ahead only so far as it can guess. Walks for
//! several queries do not depend on each other, so while the row that one of them chose travels, the others scan theirs.
//!
//! 1. A *lane* is a place for a walk. Each lane in turn scans its row, while the lines of the row that the lane before it
//!    has just chosen are asked for; then it chooses its own next one, knowing everything that it met.
//! 2. A walk that comes to its end is handed over, and its lane begins the next one. When no query is left, the other
//!    lanes go on alone.

use super::walk::{Backend, InlineWatch, Walk};
use super::{InlineBeam, InlineQuery, InlineRows, InlineScratch, InlineStart};

/// Room for one of several walks, kept between calls.
#[derive(Clone, Default, Debug)]
pub struct InlineLane {
    query: InlineQuery,
    walk: InlineScratch,
    number: usize,
    /// What is expanded next.
    row: u32,
}

/// The queries of [`inline_walk_many`](super::inline_walk_many), and who takes what their walks find.
pub trait InlineWalks: InlineWatch {
    /// Prepares the next query; its number, or `None` when there is none left.
    fn next(&mut self, query: &mut InlineQuery) -> Result<Option<usize>, Self::Error>;

    /// A walk is done: what it expanded is in `walk.expanded()`.
    fn done(&mut self, number: usize, query: &InlineQuery, walk: &InlineScratch) -> Result<(), Self::Error>;
}

/// # Safety
/// The processor has the backend's instruction set; rows and start have one dimension.
#[inline(always)]
pub(super) unsafe fn walk_many<B: Backend, W: InlineWalks>(
    rows: &InlineRows<'_>,
    beam: InlineBeam,
    start: InlineStart<'_>,
    lanes: &mut [InlineLane],
    walks: &mut W,
) -> Result<(), W::Error> {
    // SAFETY: the caller's promise.
    let result = unsafe { in_turn::<B, W>(rows, beam, start, lanes, walks) };
    if result.is_err() {
        lanes.iter_mut().for_each(|lane| lane.walk.forget());
    }
    result
}

/// # Safety
/// As [`walk_many`].
#[inline(always)]
unsafe fn in_turn<B: Backend, W: InlineWalks>(
    rows: &InlineRows<'_>,
    beam: InlineBeam,
    start: InlineStart<'_>,
    lanes: &mut [InlineLane],
    walks: &mut W,
) -> Result<(), W::Error> {
    let (mut active, mut turn) = (0, 0);
    // Lanes that never began, or whose query was the last, are behind `active`.
    while active < lanes.len() {
        // SAFETY: the caller's promise.
        if !unsafe { begin::<B, W>(rows, beam, start, &mut lanes[active], walks)? } {
            break;
        }
        active += 1;
    }
    let Some(last) = lanes[..active].last() else { return Ok(()) };
    let mut next = rows.row(last.row).as_ptr();
    while active > 0 {
        turn = if turn < active { turn } else { 0 };
        let lane = &mut lanes[turn];
        let mut walk = Walk::resume(rows, &lane.query, beam, &mut lane.walk);
        // SAFETY: as above; the query was prepared for rows of this dimension.
        let chosen = unsafe {
            walk.expand::<B>(rows, lane.row, next);
            walk.settle::<B>(rows);
            walk.tell(walks);
            walk.take::<B, W>(rows, 0, walks)?
        };
        let goes_on = match chosen {
            Some(row) => {
                lane.row = row;
                true
            }
            None => {
                walks.done(lane.number, &lane.query, &lane.walk)?;
                // SAFETY: as above.
                unsafe { begin::<B, W>(rows, beam, start, lane, walks)? }
            }
        };
        if goes_on {
            next = rows.row(lane.row).as_ptr();
            turn += 1;
        } else {
            active -= 1;
            lanes.swap(turn, active);
        }
    }
    Ok(())
}

/// Begins the walks for the next queries until one has a row to expand; whether there was one.
///
/// # Safety
/// As [`walk_many`].
#[inline(always)]
unsafe fn begin<B: Backend, W: InlineWalks>(
    rows: &InlineRows<'_>,
    beam: InlineBeam,
    start: InlineStart<'_>,
    lane: &mut InlineLane,
    walks: &mut W,
) -> Result<bool, W::Error> {
    while let Some(number) = walks.next(&mut lane.query)? {
        assert_eq!(lane.query.dimension, rows.shape.dimension);
        lane.number = number;
        // SAFETY: the caller's promise, and the dimension was compared.
        let first = unsafe {
            let mut walk = Walk::begin::<B>(rows, &lane.query, beam, start, &mut lane.walk);
            walk.take::<B, W>(rows, 0, walks)?
        };
        if let Some(row) = first {
            lane.row = row;
            return Ok(true);
        }
        walks.done(number, &lane.query, &lane.walk)?;
    }
    Ok(false)
}
