//! The codes of a mutable segment's rows, and distances measured on them: between rows while the graph is linked, and
//! from queries.
//!
//! Linking waits for memory more than for arithmetic, and a code is a quarter of a vector. Pairs that codes can't tell
//! apart are measured on the vectors, one by one, which keeps the order of near rows right where only some are so near.
//! Where many are (tight clusters, data far from the origin), that would cost more than codes save, and ranks of rows
//! that lie together far away are random on codes; so the segment counts such pairs, and rows are linked and queries
//! walked on the vectors, as if there were no codes, for as long as they are more than a few. Pairs of equal vectors don't
//! count: nothing tells those apart, and they are measured on the vectors rarely enough.
//!
//! What a search reports was measured on the vectors in double precision in any case.

use super::MutableSegment;
use crate::append::AppendBuffer;
use crate::graph::{Scorer, VectorSource};
use crate::quantize::shadow::{ShadowSpace, ShadowWork};
use crate::topk::Candidate;
use nearstone_base::sync::{AtomicU32, Ordering};
use nearstone_base::{Result, Schema};
use nearstone_kernels::prefetch_read;

/// Rows that one kernel call measures.
const FOUR: usize = 4;
/// Codes serve as long as one of so many pairs is unclear at most.
const CLEAR_SHARE: u32 = 1024;
/// Where codes don't serve, one of so many rows is linked on them nevertheless.
const PROBE: u32 = 32;
/// Pairs after which the older half of the notes begins to fade.
const MEMORY: u32 = 1 << 17;

/// One code per row, readable without a lock while others are appended.
#[derive(Debug)]
pub(super) struct Shadow {
    space: ShadowSpace,
    rows: AppendBuffer<u8>,
    /// Pairs measured on codes lately, and those of them that codes could not tell apart.
    measured: AtomicU32,
    unclear: AtomicU32,
}

impl Shadow {
    pub(super) fn new(schema: &Schema) -> Option<Shadow> {
        let space = ShadowSpace::new(schema.metric(), schema.dimension())?;
        let rows = AppendBuffer::aligned(space.row_bytes());
        Some(Shadow { space, rows, measured: AtomicU32::new(0), unclear: AtomicU32::new(0) })
    }

    /// Encodes and appends a row.
    pub(super) fn push(&self, vector: &[f32], work: &mut ShadowWork) {
        self.space.encode(vector, work);
        self.rows.push_row(&work.row);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.space.bytes() + self.rows.bytes()
    }

    /// Whether a row is to be linked on codes: where they tell nearly all pairs apart; and now and then elsewhere, to see
    /// whether they do by now.
    pub(super) fn serves(&self, row: u32) -> bool {
        self.are_clear() || row.is_multiple_of(PROBE)
    }

    /// Whether codes tell nearly all pairs apart.
    pub(super) fn are_clear(&self) -> bool {
        let (measured, unclear) =
            (self.measured.load(Ordering::Relaxed), self.unclear.load(Ordering::Relaxed));
        unclear <= measured / CLEAR_SHARE
    }

    /// Takes note of how well codes did. Threads may overwrite each other's notes, which are a sample anyway.
    fn note(&self, measured: u32, unclear: u32) {
        let add = |total: &AtomicU32, more: u32, shift: u32| {
            total.store(total.load(Ordering::Relaxed).saturating_add(more) >> shift, Ordering::Relaxed);
        };
        // What was long ago counts for less and less.
        let shift = u32::from(self.measured.load(Ordering::Relaxed) > MEMORY);
        add(&self.measured, measured, shift);
        add(&self.unclear, unclear, shift);
    }

    /// Distances from a code to `len` rows, one to four: estimates, and what `exact` says where codes can't tell. Those
    /// behind mean nothing. Also how many were unclear.
    #[inline]
    fn four(
        &self,
        from: &[u8],
        len: usize,
        row: impl Fn(usize) -> u32,
        exact: impl Fn(u32) -> f32,
    ) -> ([f32; FOUR], u32) {
        let code = |i: usize| self.rows.row(row(i.min(len - 1)));
        let mut distances = self.space.estimates(from, [code(0), code(1), code(2), code(3)]);
        let mut unclear = 0;
        if distances[..len].iter().any(|distance| distance.is_nan()) {
            for (i, distance) in distances[..len].iter_mut().enumerate().filter(|(_, d)| d.is_nan()) {
                *distance = exact(row(i));
                // Equal vectors are no fault of the codes.
                unclear += u32::from(self.rows.row(row(i)) != from);
            }
        }
        (distances, unclear)
    }

    fn prefetch(&self, rows: &[u32]) {
        rows.iter().for_each(|&row| prefetch_read(self.rows.row(row)));
    }

    /// Replaces `out` by the distances from a code to rows; tells how many were unclear.
    fn all(&self, from: &[u8], rows: &[u32], exact: impl Fn(u32) -> f32, out: &mut Vec<f32>) -> u32 {
        out.clear();
        out.reserve(rows.len());
        let mut unclear = 0;
        for four in rows.chunks(FOUR) {
            let (distances, more) = self.four(from, four.len(), |i| four[i], &exact);
            out.extend_from_slice(&distances[..four.len()]);
            unclear += more;
        }
        unclear
    }
}

/// Distances between the rows of a segment on their codes, and on their vectors where codes can't tell; for one thread.
pub(super) struct OnCodes<'a> {
    segment: &'a MutableSegment,
    shadow: &'a Shadow,
    /// Atomics because sources are shared by their traits; nobody else looks at these.
    measured: AtomicU32,
    unclear: AtomicU32,
}

impl<'a> OnCodes<'a> {
    pub(super) fn new(segment: &'a MutableSegment, shadow: &'a Shadow) -> OnCodes<'a> {
        OnCodes { segment, shadow, measured: AtomicU32::new(0), unclear: AtomicU32::new(0) }
    }

    fn note(&self, measured: usize, unclear: u32) {
        let add = |total: &AtomicU32, more: u32| {
            total.store(total.load(Ordering::Relaxed).saturating_add(more), Ordering::Relaxed);
        };
        add(&self.measured, measured as u32);
        if unclear > 0 {
            add(&self.unclear, unclear);
        }
    }

    /// Tells the segment how well codes did since the last time.
    pub(super) fn report(&self) {
        let take = |total: &AtomicU32| {
            let count = total.load(Ordering::Relaxed);
            total.store(0, Ordering::Relaxed);
            count
        };
        self.shadow.note(take(&self.measured), take(&self.unclear));
    }
}

impl VectorSource for OnCodes<'_> {
    fn distance(&self, a: u32, b: u32) -> Result<f32> {
        let exact = |row| self.segment.near_rows(a, row);
        let (distances, unclear) = self.shadow.four(self.shadow.rows.row(a), 1, |_| b, exact);
        self.note(1, unclear);
        Ok(distances[0])
    }

    fn distances(&self, a: u32, others: &[u32], out: &mut Vec<f32>) -> Result<()> {
        let exact = |row| self.segment.near_rows(a, row);
        let unclear = self.shadow.all(self.shadow.rows.row(a), others, exact, out);
        self.note(others.len(), unclear);
        Ok(())
    }

    fn prefetch(&self, others: &[u32]) {
        self.shadow.prefetch(others);
    }

    fn any_nearer(&self, a: u32, others: &[Candidate], bound: f32) -> Result<bool> {
        let exact = |row| self.segment.near_rows(a, row);
        let from = self.shadow.rows.row(a);
        for four in others.chunks(FOUR) {
            let (distances, unclear) = self.shadow.four(from, four.len(), |i| four[i].ordinal, exact);
            self.note(four.len(), unclear);
            if distances[..four.len()].iter().any(|&distance| distance < bound) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Measures from a query, on codes where they serve.
pub(super) struct FromQuery<'a> {
    segment: &'a MutableSegment,
    query: &'a [f32],
    inverse_norm: f32,
    code: Option<(&'a Shadow, ShadowWork)>,
}

impl<'a> FromQuery<'a> {
    pub(super) fn new(segment: &'a MutableSegment, query: &'a [f32]) -> FromQuery<'a> {
        let square: f64 = query.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let code = segment.shadow.as_ref().filter(|shadow| shadow.are_clear()).map(|shadow| {
            let mut work = ShadowWork::default();
            shadow.space.encode(query, &mut work);
            (shadow, work)
        });
        // Only cosine uses the norm, and refuses queries without a direction.
        FromQuery { segment, query, inverse_norm: square.sqrt().recip() as f32, code }
    }
}

impl Scorer for FromQuery<'_> {
    fn score(&self, ordinals: &[u32], out: &mut Vec<f32>) -> Result<()> {
        let FromQuery { segment, query, inverse_norm, code } = self;
        match code {
            Some((shadow, work)) => {
                let exact = |row| segment.near_row(query, *inverse_norm, row);
                shadow.all(&work.row, ordinals, exact, out);
            }
            None => segment.near_all(query, *inverse_norm, ordinals, out),
        }
        Ok(())
    }

    fn prefetch(&self, ordinals: &[u32]) {
        match &self.code {
            Some((shadow, _)) => shadow.prefetch(ordinals),
            None => self.segment.prefetch(ordinals),
        }
    }
}
