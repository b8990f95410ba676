//! Searching a sealed segment: a walk over codes, then exact distances for what it found.
//!
//! Where every row may be a hit and most are alive, the inline rows are walked ([`super::inline`]), if there are any.
//! Otherwise:
//!
//! 1. The query is prepared once for the codes; the ground is walked on them with a beam of `max(ef, limit)`, from the nearest
//!    of the first rows. Of coarse codes, more of the rows that the walk came by are kept than the beam holds.
//! 2. What was kept is measured against the original vectors, the nearest first, for as long as it may be among the
//!    `limit` nearest, and sorted by that distance, then by key.
//! 3. If fewer than `limit` rows came out (the graph has holes, or few rows are visible and accepted), or if the
//!    walk would see most rows anyway, as where nearly all are dead, all rows are scanned: results are
//!    `min(limit, visible accepted rows)`.

use super::cold::Room;
use super::inline::InlineWish;
use super::reader::SealedSegment;
use crate::distance::ExactDistance;
use crate::exact::{NearestRows, by_distance, nearest_rows, prune};
use crate::graph::{Links, NO_LINK, Scorer, beam};
use crate::quantize::codes::CodeQuery;
use crate::rerank::{Bound, rerank};
use crate::segment::{Accept, Answers, Hit, SearchOptions, Visible};
use crate::topk::{Candidate, Scratch};
use nearstone_base::{Error, Lsn, Result};
use nearstone_kernels::{prefetch_read, prefetch_whole};
use std::cell::RefCell;

/// So many of the first rows are looked at for a start.
const ENTRY_ROWS: u32 = 128;
/// Rows that a walk begins with.
const STARTS: usize = 4;
/// What it takes to measure a row exactly, and one that is read for it, as times a distance on codes.
const EXACT: u64 = 5;
const EXACT_READ: u64 = 50;
/// How many rows are passed over in the time of one.
const CHECKS: u64 = 8;

impl SealedSegment {
    /// The nearest visible accepted rows, by distance, then by key; at most `options.limit`, and fewer only when
    /// there are fewer. A query of another length is `InvalidArgument`.
    pub fn search(
        &self,
        query: &[f32],
        options: &SearchOptions<'_>,
        scratch: &mut Scratch,
    ) -> Result<Vec<Hit>> {
        let dimension = self.meta().schema.dimension();
        if query.len() != dimension {
            return Err(Error::invalid(format!(
                "the query has {} numbers: the dimension is {dimension}",
                query.len()
            )));
        }
        if options.limit == 0 {
            return Ok(Vec::new());
        }
        if self.is_scanned(options) {
            return self.scan_for(query, options);
        }
        let visible = self.visible(options);
        let exact = ExactDistance::new(self.meta().schema.metric(), query);
        let width = options.limit.max(options.ef);
        if let Some(walk) = self.inline_wish(options, 1.0)
            && let Some(hits) = self.inline_search(query, &exact, (&visible, options.at), walk, scratch)?
        {
            return Ok(hits);
        }
        let scorer = CodeScorer::new(self, query);
        let mut found = std::mem::take(&mut scratch.found);
        found.clear();
        let walked = self.walk_codes(&scorer, &visible, width, scratch, &mut found);
        let hits = walked.and_then(|()| {
            if found.len() < options.limit {
                return self.scan_for(query, options);
            }
            self.rerank(&exact, &scorer, &found, options.limit, &mut scratch.room)
        });
        scratch.found = found;
        hits
    }

    /// As [`SealedSegment::search`] for each of the queries.
    pub fn search_many(
        &self,
        queries: &[&[f32]],
        options: &SearchOptions<'_>,
        scratch: &mut Scratch,
        answers: &mut dyn Answers,
    ) -> Result<()> {
        let dimension = self.meta().schema.dimension();
        let fit = queries.iter().all(|query| query.len() == dimension);
        if queries.len() > 1 && fit && options.limit > 0 && self.is_scanned(options) {
            let lists = self.scan(queries, options)?;
            return lists.into_iter().enumerate().try_for_each(|(number, hits)| answers.found(number, hits));
        }
        for (number, query) in queries.iter().enumerate() {
            answers.found(number, self.search(query, options, scratch)?)?;
        }
        Ok(())
    }

    /// Finds rows by a walk over codes, more of them than the beam is wide if the codes are coarse: rows that the walk came by and
    /// that did not stay in the beam may be nearer than they seem. It begins at those that seem nearest of the first rows, which are
    /// of the highest levels: their codes lie together and stay in the cache, where each step of a descent would wait for memory
    /// twice.
    fn walk_codes(
        &self,
        scorer: &CodeScorer<'_>,
        visible: &dyn Accept,
        width: usize,
        scratch: &mut Scratch,
        found: &mut Vec<Candidate>,
    ) -> Result<()> {
        let Scratch { batch, distances, nearest, .. } = scratch;
        batch.clear();
        batch.extend(0..ENTRY_ROWS.min(self.rows()));
        scorer.score(batch, distances)?;
        nearest.reset(STARTS);
        for (&row, &distance) in batch.iter().zip(&*distances) {
            nearest.push(Candidate::new(distance, row));
        }
        let mut starts = Vec::with_capacity(STARTS);
        nearest.drain_sorted(&mut starts);
        let kept = self.codes.kept(width);
        if kept <= width {
            return beam(self, scorer, visible, 0, &starts, self.rows(), width, scratch, found);
        }
        let mut seen = std::mem::take(&mut scratch.seen);
        seen.clear();
        seen.extend_from_slice(&starts);
        let scorer = Remembering { scorer, seen: RefCell::new(seen) };
        beam(self, &scorer, visible, 0, &starts, self.rows(), width, scratch, found)?;
        let mut seen = scorer.seen.into_inner();
        found.clear();
        // The nearest first, so that only these are asked for; more at a time the fewer pass.
        let (mut rest, mut piece) = (&mut seen[..], kept);
        while found.len() < kept && !rest.is_empty() {
            let near = piece.min(rest.len());
            piece = piece.saturating_mul(2);
            rest.select_nth_unstable(near - 1);
            let (near, far) = std::mem::take(&mut rest).split_at_mut(near);
            near.sort_unstable();
            let accepted = near.iter().filter(|candidate| visible.accept(candidate.ordinal));
            found.extend(accepted.take(kept - found.len()));
            rest = far;
        }
        scratch.seen = seen;
        Ok(())
    }

    /// Exact distances of the candidates, which are sorted, and the best `limit` of them.
    pub(super) fn rerank(
        &self,
        exact: &ExactDistance<'_>,
        scorer: &CodeScorer<'_>,
        found: &[Candidate],
        limit: usize,
        room: &mut Room,
    ) -> Result<Vec<Hit>> {
        let told = |row, distance| scorer.bound(row, distance);
        let bound = self.codes.tells_errors().then_some(&told as Bound<'_>);
        let hits = match self.blocks.cold() {
            None => {
                let measure = |row| Ok(exact.distance(self.vector(row)?));
                rerank(found, limit, |row| self.prefetch_hit(row), bound, measure)?
            }
            Some(_) => {
                let measure = |row| Ok(exact.distance(self.read_vector(row, room)?));
                rerank(found, limit, |row| self.prefetch_names(row), bound, measure)?
            }
        };
        self.best(hits, limit)
    }

    pub(super) fn visible<'a>(
        &'a self,
        options: &SearchOptions<'a>,
    ) -> Visible<'a, impl Fn(u32) -> Lsn + Sync + use<>> {
        Visible { births: |_| 0, deaths: self.deaths(), at: options.at, accept: options.accept }
    }

    /// Whether all rows are looked at from the start: a beam as wide as the living rows sees them all, at a higher price
    /// than a scan; and where nearly all rows are dead, a walk goes through thousands of them for a few that live.
    pub(super) fn is_scanned(&self, options: &SearchOptions<'_>) -> bool {
        let rows = u64::from(self.rows());
        let alive = rows.saturating_sub(self.deaths().count().into());
        let width = options.limit.max(options.ef) as u64;
        if options.exact || width >= alive {
            return true;
        }
        if alive >= rows / 2 {
            return false;
        }
        // In distances on codes: a walk measures about `m` rows for each that it expands, but never more than there are.
        let expanded = width.saturating_mul(rows) / alive;
        let walk = expanded.saturating_mul(self.meta().schema.links() as u64).min(rows);
        let exact = if self.blocks.cold().is_some() { EXACT_READ } else { EXACT };
        alive.saturating_mul(exact) + rows / CHECKS < walk
    }

    /// How inline rows are walked, where every row may be a hit and most are alive.
    pub(super) fn inline_wish(&self, options: &SearchOptions<'_>, part: f32) -> Option<InlineWish> {
        let rows = u64::from(self.rows());
        let alive = rows.saturating_sub(self.deaths().count().into());
        let width = options.limit.max(options.ef) as u64;
        let walked = !options.exact && options.limit > 0 && width < alive;
        if !walked || !options.accept.accepts_all() || alive < rows / 2 {
            return None;
        }
        // The dead take their share of the beam.
        let with_dead = |rows_wanted: u64| (rows_wanted * rows).div_ceil(alive) as usize;
        let near = with_dead(options.limit as u64);
        Some(InlineWish { limit: options.limit, near, ef: with_dead(width), part })
    }

    /// For each query the best of all visible rows, by exact distance and key.
    fn scan(&self, queries: &[&[f32]], options: &SearchOptions<'_>) -> Result<Vec<Vec<Hit>>> {
        let (visible, limit) = (self.visible(options), options.limit);
        // Rows that died before the snapshot are counted by now.
        let every = options.accept.accepts_all() && self.deaths().count() == 0;
        let rows = (0..self.rows()).filter(|&ordinal| every || visible.accept(ordinal));
        let metric = self.meta().schema.metric();
        if self.blocks.cold().is_some() {
            let nearest = NearestRows::new(metric, queries, limit, self.rows());
            let lists = self.scan_cold(rows, nearest)?;
            return lists.into_iter().map(|hits| self.best(hits, limit)).collect();
        }
        let rows = rows.map(|ordinal| Ok((ordinal, self.vector(ordinal)?)));
        let lists = nearest_rows(metric, queries, limit, self.rows(), rows)?;
        lists.into_iter().map(|hits| self.best(hits, limit)).collect()
    }

    fn scan_for(&self, query: &[f32], options: &SearchOptions<'_>) -> Result<Vec<Hit>> {
        Ok(self.scan(&[query], options)?.pop().unwrap_or_default())
    }

    /// Sorts by distance, then key, and cuts.
    pub(super) fn best(&self, mut hits: Vec<Hit>, limit: usize) -> Result<Vec<Hit>> {
        // A few too many are sorted at once.
        if hits.len() / 2 > limit {
            prune(&mut hits, limit);
        }
        hits.sort_unstable_by(by_distance);
        let mut start = 0;
        while start < hits.len().min(limit) {
            let distance = hits[start].distance;
            let same =
                hits[start..].iter().take_while(|hit| hit.distance.total_cmp(&distance).is_eq()).count();
            if same > 1 {
                let run = &mut hits[start..start + same];
                let mut keyed =
                    run.iter().map(|&hit| Ok((self.key(hit.ordinal)?, hit))).collect::<Result<Vec<_>>>()?;
                keyed.sort_unstable_by_key(|(key, hit)| (*key, hit.ordinal));
                run.iter_mut().zip(keyed).for_each(|(place, (_, hit))| *place = hit);
            }
            start += same;
        }
        hits.truncate(limit);
        Ok(hits)
    }
}

impl Links for SealedSegment {
    fn entry(&self) -> Option<(u32, usize)> {
        Some((0, self.places.levels.len().checked_sub(1)?))
    }

    #[inline]
    fn links(&self, level: usize, ordinal: u32, out: &mut Vec<u32>) -> Result<()> {
        out.clear();
        let places = self.places_of(level, ordinal)?;
        let rows = self.places.levels.get(level).map_or(0, |level| level.rows);
        // Without a branch for each: a list is mostly full, and where it ends can't be predicted.
        let used = places.iter().map(|&link| u32::from(link != NO_LINK)).sum::<u32>() as usize;
        let links = &places[..used];
        if links.iter().fold(0, |most: u32, &link| most.max(link)) >= rows {
            return self.links_up_to_the_end(level, ordinal, out);
        }
        out.extend_from_slice(links);
        Ok(())
    }

    #[inline]
    fn prefetch(&self, level: usize, ordinal: u32) {
        if let Some(level) = self.places.levels.get(level) {
            prefetch_read(self.unchecked(&level.section, ordinal));
        }
    }
}

impl SealedSegment {
    /// As [`Links::links`] for a list that has a gap or leads nowhere.
    #[cold]
    fn links_up_to_the_end(&self, level: usize, ordinal: u32, out: &mut Vec<u32>) -> Result<()> {
        let rows = self.places.levels.get(level).map_or(0, |level| level.rows);
        for &link in self.places_of(level, ordinal)?.iter().take_while(|&&link| link != NO_LINK) {
            if link >= rows {
                return Err(self.bad_link(level, link));
            }
            out.push(link);
        }
        Ok(())
    }
}

/// Distances from one query to code rows.
pub(super) struct CodeScorer<'a> {
    segment: &'a SealedSegment,
    query: CodeQuery,
    /// All code rows, looked at only after their blocks were touched.
    codes: &'a [u8],
    stride: usize,
    row_bytes: usize,
}

/// A scorer that remembers what it has measured.
struct Remembering<'a> {
    scorer: &'a CodeScorer<'a>,
    seen: RefCell<Vec<Candidate>>,
}

impl Scorer for Remembering<'_> {
    fn score(&self, ordinals: &[u32], out: &mut Vec<f32>) -> Result<()> {
        self.scorer.score(ordinals, out)?;
        let measured = ordinals.iter().zip(&*out);
        self.seen.borrow_mut().extend(measured.map(|(&row, &distance)| Candidate::new(distance, row)));
        Ok(())
    }

    fn prefetch(&self, ordinals: &[u32]) {
        self.scorer.prefetch(ordinals);
    }
}

/// Rows that are measured together.
const FOUR: usize = 4;

impl<'a> CodeScorer<'a> {
    pub(super) fn new(segment: &'a SealedSegment, query: &[f32]) -> CodeScorer<'a> {
        let codes = &segment.places.codes;
        CodeScorer {
            segment,
            query: segment.codes.prepare(query),
            codes: segment.blocks.unchecked(codes.offset, codes.len).unwrap_or(&[]),
            stride: codes.stride as usize,
            row_bytes: segment.codes.row_bytes(),
        }
    }

    /// By how much the estimate of a row that was measured is wrong at most, if its distance is `distance`.
    fn bound(&self, ordinal: u32, distance: f32) -> f32 {
        self.query.bound(self.code(ordinal), distance)
    }

    /// The code of a row; nothing where there is none.
    #[inline(always)]
    fn code(&self, ordinal: u32) -> &'a [u8] {
        let start = ordinal as usize * self.stride;
        self.codes.get(start..start + self.row_bytes).unwrap_or(&[])
    }

    /// Makes sure that there is such a row, and that its blocks were checked.
    #[inline(always)]
    fn touch(&self, ordinal: u32) -> Result<()> {
        let codes = &self.segment.places.codes;
        if u64::from(ordinal) >= codes.count {
            return Err(self.missing(ordinal));
        }
        self.segment.blocks.touch_again(codes.offset + u64::from(ordinal) * codes.stride, codes.stride)
    }

    #[cold]
    fn missing(&self, ordinal: u32) -> Error {
        let codes = &self.segment.places.codes;
        let expected = format!("a code of {} bytes for row {ordinal}", self.row_bytes);
        self.segment.bad(codes, expected, format!("{} rows of {} bytes", codes.count, codes.stride))
    }
}

impl Scorer for CodeScorer<'_> {
    fn score(&self, ordinals: &[u32], out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        ordinals.iter().try_for_each(|&ordinal| self.touch(ordinal))?;
        let (fours, rest) = ordinals.as_chunks::<FOUR>();
        for four in fours {
            out.extend_from_slice(&self.query.scores(four.map(|ordinal| self.code(ordinal))));
        }
        if let Some(&last) = rest.last() {
            let code = |place| self.code(*rest.get(place).unwrap_or(&last));
            let scores = self.query.scores([code(0), code(1), code(2), code(3)]);
            out.extend_from_slice(&scores[..rest.len()]);
        }
        Ok(())
    }

    #[inline]
    fn prefetch(&self, ordinals: &[u32]) {
        ordinals.iter().for_each(|&ordinal| prefetch_whole(self.code(ordinal)));
    }
}
