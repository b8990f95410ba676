//! Linking: how rows that are visible already get into the graph, and how a search knows which are not there yet.
//!
//! Threads claim rows in order, so that each is linked once, and finish them in any order. The floor is the number of
//! rows below which all are linked; a search scans the rows from the floor on and ignores them in the graph, so each
//! row is found in one of the two ways, never in both and never in neither.

use super::MutableSegment;
use super::shadow::OnCodes;
use crate::append::AppendBuffer;
use crate::graph::{VectorSource, level_for};
use crate::topk::Scratch;
use nearstone_base::sync::{AtomicBool, AtomicU32, Ordering, fence};
use nearstone_base::{Metric, Result};
use nearstone_kernels::prefetch_read;
use zerocopy::IntoBytes;

/// How far linking has come.
#[derive(Default, Debug)]
pub(super) struct Progress {
    /// Rows below are linked or being linked.
    claimed: AtomicU32,
    /// Rows linked.
    linked: AtomicU32,
    /// All rows below are linked.
    floor: AtomicU32,
    /// Whether each row is linked.
    done: AppendBuffer<AtomicBool>,
}

impl Progress {
    /// Makes room for one more row.
    pub(super) fn push(&self) {
        self.done.push(AtomicBool::new(false));
    }

    pub(super) fn bytes(&self) -> u64 {
        self.done.bytes()
    }

    /// All rows below are linked.
    pub(super) fn floor(&self) -> u32 {
        self.floor.load(Ordering::Acquire)
    }

    /// Claims up to `rows_max` of the rows below `rows`.
    fn claim(&self, rows_max: u32, rows: u32) -> std::ops::Range<u32> {
        let end = |start: u32| start.saturating_add(rows_max).min(rows).max(start);
        let claimed =
            self.claimed.fetch_update(Ordering::AcqRel, Ordering::Acquire, |start| Some(end(start)));
        let start = claimed.unwrap_or_else(|start| start);
        start..end(start)
    }

    /// Notes that a row is linked.
    fn finish(&self, row: u32) {
        self.done.get(row).store(true, Ordering::Release);
        // Two threads that finish neighbouring rows must not both miss what the other stored, or the floor would stop
        // for good. Fences have one order: whoever comes last sees the marks of all before it, and goes over them.
        fence(Ordering::SeqCst);
        let mut floor = self.floor.load(Ordering::Acquire);
        while floor < self.done.len() && self.done.get(floor).load(Ordering::Acquire) {
            match self.floor.compare_exchange(floor, floor + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => floor += 1,
                Err(now) => floor = now,
            }
        }
        self.linked.fetch_add(1, Ordering::AcqRel);
    }
}

impl MutableSegment {
    /// Rows in the graph.
    pub fn linked(&self) -> u32 {
        self.progress.linked.load(Ordering::Acquire)
    }

    /// Rows that searches scan.
    pub fn unlinked(&self) -> u32 {
        // Rows are loaded last, so the difference is never negative.
        let linked = self.linked();
        self.rows() - linked
    }

    /// Every row below this ordinal is in the graph.
    pub fn linked_floor(&self) -> u32 {
        self.progress.floor()
    }

    /// Whether every row is in the graph.
    pub fn all_linked(&self) -> bool {
        self.unlinked() == 0
    }

    /// Claims up to `rows_max` rows that nobody has claimed and links them; gives their number, 0 when there was none.
    /// Any number of threads may, each with a scratch of its own. Rows claimed by others may still be on their way
    /// when it returns 0: [`MutableSegment::all_linked`] says when they are done.
    pub fn link_some(&self, rows_max: u32, scratch: &mut Scratch) -> u32 {
        let claim = self.progress.claim(rows_max, self.rows());
        self.graph.ensure_room(claim.end);
        let linked = claim.len() as u32;
        let on_codes = self.shadow.as_ref().map(|shadow| (shadow, OnCodes::new(self, shadow)));
        for row in claim {
            let level = level_for(row, self.id.0, self.graph.m());
            let inserted = match &on_codes {
                Some((shadow, source)) if shadow.serves(row) => {
                    let inserted = self.graph.insert(row, level, source, scratch);
                    source.report();
                    inserted
                }
                _ => self.graph.insert(row, level, self, scratch),
            };
            if let Err(error) = inserted {
                unreachable!("rows in memory can always be read: {error}");
            }
            self.progress.finish(row);
        }
        linked
    }

    /// The distance in single precision between two vectors with the inverses of their lengths (1 unless cosine).
    fn near(&self, a: &[f32], inverse_a: f32, b: &[f32], inverse_b: f32) -> f32 {
        match self.schema.metric() {
            Metric::Cosine => 1.0 - self.kernels.dot(a, b) * inverse_a * inverse_b,
            Metric::L2 => self.kernels.l2(a, b),
            Metric::InnerProduct => -self.kernels.dot(a, b),
        }
    }

    /// The distance in single precision between two rows.
    pub(super) fn near_rows(&self, a: u32, b: u32) -> f32 {
        self.near_row(self.vector(a), self.inverse_norm(a), b)
    }

    /// The distance in single precision from a vector with the inverse of its length to a row.
    pub(super) fn near_row(&self, from: &[f32], inverse: f32, row: u32) -> f32 {
        self.near(from, inverse, self.vector(row), self.inverse_norm(row))
    }

    fn inverse_norm(&self, row: u32) -> f32 {
        if self.schema.metric() == Metric::Cosine { *self.inverse_norms.get(row) } else { 1.0 }
    }

    /// Replaces `out` by the distances in single precision from a vector to rows.
    pub(super) fn near_all(&self, from: &[f32], inverse: f32, rows: &[u32], out: &mut Vec<f32>) {
        out.clear();
        out.extend(rows.iter().map(|&row| self.near_row(from, inverse, row)));
    }
}

impl VectorSource for MutableSegment {
    fn distance(&self, a: u32, b: u32) -> Result<f32> {
        Ok(self.near_rows(a, b))
    }

    fn distances(&self, a: u32, others: &[u32], out: &mut Vec<f32>) -> Result<()> {
        self.near_all(self.vector(a), self.inverse_norm(a), others, out);
        Ok(())
    }

    fn prefetch(&self, others: &[u32]) {
        others.iter().for_each(|&row| prefetch_read(self.vector(row).as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_waits_for_rows_finished_out_of_order() {
        let progress = Progress::default();
        for _ in 0..10 {
            progress.push();
        }
        assert_eq!(
            (progress.claim(4, 10), progress.claim(4, 10), progress.claim(4, 10)),
            (0..4, 4..8, 8..10)
        );
        assert_eq!(progress.claim(4, 10), 10..10);
        for (row, floor) in [(1, 0), (2, 0), (5, 0), (0, 3), (3, 4), (4, 6)] {
            progress.finish(row);
            assert_eq!(progress.floor(), floor, "after row {row}");
        }
    }

    #[test]
    fn the_floor_reaches_the_end_however_threads_finish() {
        for _ in 0..50 {
            let progress = Progress::default();
            for _ in 0..200 {
                progress.push();
            }
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        loop {
                            let claim = progress.claim(1, 200);
                            if claim.is_empty() {
                                break;
                            }
                            claim.for_each(|row| progress.finish(row));
                        }
                    });
                }
            });
            assert_eq!((progress.floor(), progress.linked.load(Ordering::Relaxed)), (200, 200));
        }
    }
}
