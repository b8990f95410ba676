//! Searching a mutable segment.
//!
//! 1. Note the floor of linking; then walk the graph for the rows below it and scan the rows from it on, both on codes
//!    (where these don't serve: on the vectors, in single precision) and both keeping the `ef` nearest visible ones.
//! 2. Measure of what was kept, in double precision, what may be among the nearest; order it by distance and key, and cut it
//!    to the limit.
//! 3. When that gives fewer hits than asked for, scan every row: hits are `min(limit, visible rows)`, always.
//!
//! Before, where there is a condition, a sample of the rows is shown to it: when few match, or there are few at all, a walk
//! would measure more rows than match, and they are scanned instead.

use super::MutableSegment;
use super::shadow::FromQuery;
use crate::distance::ExactDistance;
use crate::exact::nearest_rows;
use crate::graph::{NO_LINK, Scorer, walk};
use crate::rerank::rerank;
use crate::segment::{Accept, Answers, Hit, SearchOptions, Visible};
use crate::topk::{Candidate, Scratch};
use nearstone_base::faults::seeded;
use nearstone_base::random::SplitMix64;
use nearstone_base::sync::CHECKED;
use nearstone_base::{KeyRef, Lsn, Result};
use nearstone_kernels::prefetch_whole;
use std::cmp::Ordering;
use std::ops::Range;
use zerocopy::IntoBytes;

/// Rows shown to the condition to estimate its share.
const SAMPLE: u32 = if CHECKED { 2 } else { 64 };
/// Scans keep so many rows more than are wanted, and an eighth, to be measured exactly.
const SCAN_MORE: usize = 16;
/// Rows measured at a time by a scan.
const SCAN_ROWS: usize = 64;
/// How many rows a scan passes over in the time of one distance.
const CHECKS_PER_DISTANCE: u32 = 8;

impl MutableSegment {
    /// The nearest visible rows: `min(limit, visible rows)` hits by ascending distance, ties by key. Rows that a
    /// snapshot at `options.at` sees and `options.accept` accepts are visible, linked or not; rows appended meanwhile
    /// are not seen.
    ///
    /// Panics when the query has another dimension. Takes no lock. Costs a walk of `ef` and a scan of the unlinked
    /// rows; with `exact`, a scan of all, of which those that may be among the nearest are measured in double precision.
    pub fn search(
        &self,
        query: &[f32],
        options: &SearchOptions<'_>,
        scratch: &mut Scratch,
    ) -> Result<Vec<Hit>> {
        self.assert_dimension(query);
        // Before the rows: a row that is linked later than this is scanned.
        let floor = self.progress.floor();
        let rows = self.rows();
        let born = self.born_at(options.at, rows);
        if options.limit == 0 || born == 0 {
            return Ok(Vec::new());
        }
        let visible = self.visible(options, born);
        if options.exact {
            let mut lists = self.scan_exactly(&[query], born, options.limit, &visible)?;
            return Ok(lists.pop().unwrap_or_default());
        }

        let exact = ExactDistance::new(self.schema.metric(), query);
        let ef = options.ef.max(options.limit);
        // Codes are a little wrong about which rows are the last of these.
        let kept = ef.saturating_add(ef / 8).saturating_add(SCAN_MORE);
        let scorer = FromQuery::new(self, query);
        let mut found = std::mem::take(&mut scratch.found);
        found.clear();
        // Where nearly every row is visible, it costs less to measure them all than to ask for each.
        let ask_first = !options.accept.accepts_all() || self.deaths.count() > born / CHECKS_PER_DISTANCE;
        let shown = (&visible as &dyn Accept, ask_first);
        let all = self.scan_is_cheaper(rows, born, ef, shown);
        if all {
            self.scan(&scorer, 0..born, kept, shown, scratch, &mut found)?;
        } else {
            walk(&self.graph, &scorer, &visible, NO_LINK, ef, scratch, &mut found)?;
            found.retain(|candidate| candidate.ordinal < floor);
            self.scan(&scorer, floor.min(born)..born, kept, shown, scratch, &mut found)?;
        }
        if !all && found.len() < options.limit && found.len() < born as usize {
            found.clear();
            self.scan(&scorer, 0..born, kept, shown, scratch, &mut found)?;
        }
        // Of what walk and scan kept.
        found.sort_unstable();
        found.truncate(kept);
        let soon = |row| prefetch_whole(self.vector(row).as_bytes());
        let measure = |row| Ok(exact.distance(self.vector(row)));
        let hits = rerank(&found, options.limit, soon, None, measure)?;
        scratch.found = found;
        Ok(self.best(&hits, options.limit))
    }

    /// As [`MutableSegment::search`] for each of the queries. With `exact`, they go through the rows together, all seeing the
    /// same ones.
    pub fn search_many(
        &self,
        queries: &[&[f32]],
        options: &SearchOptions<'_>,
        scratch: &mut Scratch,
        answers: &mut dyn Answers,
    ) -> Result<()> {
        if !options.exact || options.limit == 0 {
            let mut numbered = queries.iter().enumerate();
            return numbered.try_for_each(|(number, query)| {
                answers.found(number, self.search(query, options, scratch)?)
            });
        }
        queries.iter().for_each(|query| self.assert_dimension(query));
        let born = self.born_at(options.at, self.rows());
        let visible = self.visible(options, born);
        let lists = self.scan_exactly(queries, born, options.limit, &visible)?;
        lists.into_iter().enumerate().try_for_each(|(number, hits)| answers.found(number, hits))
    }

    fn assert_dimension(&self, query: &[f32]) {
        assert!(
            query.len() == self.schema.dimension(),
            "the query has {} numbers, segment {} has {}",
            query.len(),
            self.id,
            self.schema.dimension()
        );
    }

    /// Of the rows that were born.
    fn visible<'a>(
        &'a self,
        options: &SearchOptions<'a>,
        born: u32,
    ) -> Visible<'a, impl Fn(u32) -> Lsn + Sync + use<'a>> {
        Visible {
            births: move |row| if row < born { 0 } else { Lsn::MAX },
            deaths: &self.deaths,
            at: options.at,
            accept: options.accept,
        }
    }

    /// How many of the first so many rows were born at an lsn. Births ascend, so that these are the first ones; mostly they are
    /// all, or all but a few.
    pub(super) fn born_at(&self, at: Lsn, rows: u32) -> u32 {
        if seeded("snapshots-see-later-rows") {
            return rows;
        }
        let (mut born, mut step) = (rows, 1);
        // Backwards by doubled steps, to a row that was; then what lies between is halved.
        while born > 0 && self.birth(born - 1) > at {
            born = born.saturating_sub(step);
            step *= 2;
        }
        let mut late = rows.min(born.saturating_add(step / 2));
        while born < late {
            let middle = born + (late - born) / 2;
            if self.birth(middle) <= at { born = middle + 1 } else { late = middle }
        }
        born
    }

    /// Appends to `found` the nearest `kept` visible rows of a range, of rows that were born. Whether each is asked for before it
    /// is measured, or only if it is near enough, says `ask_first`.
    fn scan(
        &self,
        scorer: &FromQuery<'_>,
        mut range: Range<u32>,
        kept: usize,
        (visible, ask_first): (&dyn Accept, bool),
        scratch: &mut Scratch,
        found: &mut Vec<Candidate>,
    ) -> Result<()> {
        let Scratch { nearest, batch, distances, .. } = scratch;
        nearest.reset(kept);
        loop {
            batch.clear();
            batch.extend(range.by_ref().filter(|&row| !ask_first || visible.accept(row)).take(SCAN_ROWS));
            if batch.is_empty() {
                break;
            }
            scorer.score(batch, distances)?;
            for (&row, &distance) in batch.iter().zip(&*distances) {
                let candidate = Candidate::new(distance, row);
                if nearest.admits(candidate) && (ask_first || visible.accept(row)) {
                    nearest.push(candidate);
                }
            }
        }
        nearest.drain_sorted(found);
        Ok(())
    }

    /// For each query the nearest visible rows by exact distance and key.
    fn scan_exactly(
        &self,
        queries: &[&[f32]],
        rows: u32,
        limit: usize,
        visible: &dyn Accept,
    ) -> Result<Vec<Vec<Hit>>> {
        let seen = (0..rows).filter(|&row| visible.accept(row)).map(|row| Ok((row, self.vector(row))));
        let lists = nearest_rows(self.schema.metric(), queries, limit, rows, seen)?;
        Ok(lists.iter().map(|hits| self.best(hits, limit)).collect())
    }

    /// The first `limit` by distance, then key.
    fn best(&self, hits: &[Hit], limit: usize) -> Vec<Hit> {
        let mut ranked: Vec<Ranked<'_>> =
            hits.iter().map(|hit| self.rank(hit.distance, hit.ordinal)).collect();
        ranked.sort_unstable();
        ranked.truncate(limit);
        ranked.iter().map(Ranked::hit).collect()
    }

    fn rank(&self, distance: f32, ordinal: u32) -> Ranked<'_> {
        // Adding zero turns -0 into 0, so that both tie.
        Ranked { distance: distance + 0.0, key: self.key(ordinal), ordinal }
    }

    /// Whether a scan of the rows that were born, of all `rows`, is expected to cost less than a walk, which goes through all of
    /// them. A walk measures about `m` new rows for each result, and `1 / share` times as many when only a share of the rows may
    /// be results, but never more than all. A scan measures what may be a result, or everything if nobody asks before.
    fn scan_is_cheaper(
        &self,
        rows: u32,
        born: u32,
        ef: usize,
        (visible, ask_first): (&dyn Accept, bool),
    ) -> bool {
        let wanted = ef as f32 * self.graph.m() as f32;
        // Not even if every sampled row matches.
        if born as f32 <= wanted {
            return true;
        }
        let (share, scan) = if ask_first {
            let mut rng = SplitMix64::new(u64::from(rows));
            let hits = (0..SAMPLE).filter(|_| visible.accept(rng.below(born.into()) as u32)).count();
            let share = (hits as f32).max(0.5) / SAMPLE as f32;
            (share, born as f32 * (share + (CHECKS_PER_DISTANCE as f32).recip()))
        } else {
            (1.0, born as f32)
        };
        let of_all = share * born as f32 / rows as f32;
        scan <= (wanted / of_all).min(rows as f32)
    }
}

/// A row as hits are ordered: by distance, then key.
struct Ranked<'a> {
    distance: f32,
    key: KeyRef<'a>,
    ordinal: u32,
}

impl Ranked<'_> {
    fn hit(&self) -> Hit {
        Hit { distance: self.distance, ordinal: self.ordinal }
    }
}

impl Ord for Ranked<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.distance
            .total_cmp(&other.distance)
            .then_with(|| self.key.cmp(&other.key))
            .then_with(|| self.ordinal.cmp(&other.ordinal))
    }
}

impl PartialOrd for Ranked<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked<'_> {}
