//! What the engine sees of both kinds of segment: how a search is asked for, what a hit is, and how rows are handed
//! from one segment to the next.

use crate::deaths::Deaths;
use nearstone_base::{KeyRef, Lsn, Result};

/// One search of one segment.
#[derive(Clone, Copy)]
pub struct SearchOptions<'a> {
    /// Hits wanted; at least 1.
    pub limit: usize,
    /// Width of the beam; the larger of this and `limit` is used.
    pub ef: usize,
    /// Scan every visible row instead of walking the graph.
    pub exact: bool,
    /// Sees rows with `birth <= at < death`.
    pub at: Lsn,
    /// Which of the visible rows may be hits. Others are still walked through.
    pub accept: &'a dyn Accept,
}

/// A row found by a search: distances are computed from the stored `f32` numbers in double precision.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Hit {
    /// The distance; smaller is nearer.
    pub distance: f32,
    /// The row in its segment.
    pub ordinal: u32,
}

/// Where a search for several queries leaves what it finds.
pub trait Answers {
    /// What the segment has for a query, nearest first.
    ///
    /// # Errors
    /// Whatever ends the search.
    fn found(&mut self, query: usize, hits: Vec<Hit>) -> Result<()>;
}

/// A condition on rows: the place of filters.
pub trait Accept: Sync {
    /// Whether the row may be a hit.
    fn accept(&self, ordinal: u32) -> bool;

    /// Whether every row may: saves asking.
    fn accepts_all(&self) -> bool {
        false
    }
}

/// Every row may be a hit.
#[derive(Clone, Copy, Debug)]
pub struct AcceptAll;

impl Accept for AcceptAll {
    fn accept(&self, _: u32) -> bool {
        true
    }

    fn accepts_all(&self) -> bool {
        true
    }
}

/// Rows that are visible at an lsn and accepted. In sealed segments every row was born before any snapshot that sees the
/// segment; in those in memory, the first ones were.
pub struct Visible<'a, B> {
    /// When each row was born, as far as it matters to the snapshot.
    pub births: B,
    /// When each row died.
    pub deaths: &'a Deaths,
    /// The snapshot.
    pub at: Lsn,
    /// The caller's condition.
    pub accept: &'a dyn Accept,
}

impl<B: Fn(u32) -> Lsn + Sync> Accept for Visible<'_, B> {
    fn accept(&self, ordinal: u32) -> bool {
        (self.births)(ordinal) <= self.at
            && !self.deaths.is_dead_at(ordinal, self.at)
            && self.accept.accept(ordinal)
    }
}

/// Rows in a fixed order, as a seal or a merge writes them. Implemented over a frozen segment with a permutation, and
/// over several sealed ones.
pub trait RowSource: Sync {
    /// How many.
    fn rows(&self) -> u32;
    /// The key of a row.
    fn key(&self, row: u32) -> Result<KeyRef<'_>>;
    /// The lsn that wrote it.
    fn version(&self, row: u32) -> Result<Lsn>;
    /// Its vector, original bits.
    fn vector(&self, row: u32) -> Result<&[f32]>;
    /// Its payload: JSON text or nothing.
    fn payload(&self, row: u32) -> Result<&[u8]>;
    /// Whether no lsn has written the rows yet: all get one and the same when the file is named, and until then
    /// [`RowSource::version`] says, for all of them alike, from which lsn on that will be.
    fn is_unversioned(&self) -> bool {
        false
    }
}

/// What tests of searches need.
#[cfg(test)]
pub(crate) mod asked {
    use super::{Accept, Answers, Hit};
    use nearstone_base::Result;

    /// What was found for each query.
    pub(crate) struct Lists(pub(crate) Vec<Vec<Hit>>);

    impl Answers for Lists {
        fn found(&mut self, query: usize, hits: Vec<Hit>) -> Result<()> {
            self.0[query] = hits;
            Ok(())
        }
    }

    /// Accepts one row in so many.
    pub(crate) struct Every(pub(crate) u32);

    impl Accept for Every {
        fn accept(&self, ordinal: u32) -> bool {
            ordinal.is_multiple_of(self.0)
        }
    }
}
