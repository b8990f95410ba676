//! Searching a sealed segment: a walk over codes, then exact distances for what it found.
//!
//! Where every row may be a hit and most are alive, the inline rows are walked ([`super::inline`]), if there are any.
//! Otherwise:
//!
//! 1. The query is prepared once for the codes; the graph is walked on them with a beam of `max(ef, limit)`.
//! 2. What the beam holds is measured against the original vectors, and sorted by that distance, then by key. Where these
//!    are read from the file ([`super::cold`]), only what may be among the nearest, as far as estimates were right so far.
//! 3. If fewer than `limit` rows came out (the graph has holes, or few rows are visible and accepted), or if the
//!    walk would see most rows anyway, all rows are scanned: results are `min(limit, visible accepted rows)`.

use super::inline::InlineWish;
use super::reader::SealedSegment;
use crate::distance::ExactDistance;
use crate::exact::{NearestRows, by_distance, nearest_rows, prune};
use crate::graph::{Links, NO_LINK, Scorer, walk};
use crate::quantize::sq8::Sq8Query;
use crate::segment::{Accept, Answers, Hit, SearchOptions, Visible};
use crate::topk::{Candidate, Scratch};
use nearstone_base::{Error, Lsn, Metric, Result};
use nearstone_kernels::prefetch_read;

/// Where vectors are read from the file, so many more rows than are wanted are measured at least: how far estimates are off is
/// learnt from them.
const READ_MORE: usize = 8;

impl SealedSegment {
    /// The nearest visible accepted rows, by distance, then by key; at most `options.limit`, and fewer only when
    /// there are fewer. A query of another length is `InvalidArgument`.
    pub fn search(
        &self,
        query: &[f32],
        options: &SearchOptions<'_>,
        scratch: &mut Scratch,
    ) -> Result<Vec<Hit>> {
        self.search_beside(query, options, (1.0, &[]), scratch)
    }

    /// As [`SealedSegment::search`] for each of the queries, where the segment holds a `part` of all rows: what cannot be
    /// among the nearest of all that `answers` has may be missing.
    pub fn search_many(
        &self,
        queries: &[&[f32]],
        options: &SearchOptions<'_>,
        part: f32,
        scratch: &mut Scratch,
        answers: &mut dyn Answers,
    ) -> Result<()> {
        let dimension = self.meta().schema.dimension();
        let fit = queries.iter().all(|query| query.len() == dimension);
        if queries.len() > 1 && fit && options.limit > 0 && self.is_scanned(options) {
            let lists = self.scan(queries, options)?;
            return lists.into_iter().enumerate().try_for_each(|(number, hits)| answers.found(number, hits));
        }
        let walked = self.inline_wish(options, part).is_some();
        let mut known = Vec::new();
        for (number, query) in queries.iter().enumerate() {
            known.clear();
            if walked {
                answers.known(number, &mut known);
            }
            let hits = self.search_beside(query, options, (part, &known), scratch)?;
            answers.found(number, hits)?;
        }
        Ok(())
    }

    fn search_beside(
        &self,
        query: &[f32],
        options: &SearchOptions<'_>,
        (part, known): (f32, &[f32]),
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
        if let Some(walk) = self.inline_wish(options, part)
            && let Some(hits) = self.inline_search(query, known, &exact, &visible, walk, scratch)?
        {
            return Ok(hits);
        }
        let scorer = CodeScorer::new(self, query);
        let mut found = std::mem::take(&mut scratch.found);
        found.clear();
        let walked = walk(self, &scorer, &visible, self.rows(), width, scratch, &mut found);
        let hits = walked.and_then(|()| {
            if found.len() < options.limit {
                return self.scan_for(query, options);
            }
            self.rerank(&exact, &found, options.limit, scratch)
        });
        scratch.found = found;
        hits
    }

    /// Exact distances of the candidates, the best `limit` of them.
    fn rerank(
        &self,
        exact: &ExactDistance<'_>,
        found: &[Candidate],
        limit: usize,
        scratch: &mut Scratch,
    ) -> Result<Vec<Hit>> {
        let Scratch { nearest, room, .. } = scratch;
        let is_read = self.blocks.cold().is_some();
        // Under cosine, codes estimate twice the distance.
        let scale = if self.meta().schema.metric() == Metric::Cosine { 0.5 } else { 1.0 };
        let mut too_far = 0f32;
        let mut hits = Vec::with_capacity(found.len());
        nearest.reset(limit);
        for candidate in found {
            let estimate = candidate.distance * scale;
            // Estimates ascend: what comes behind is farther still.
            let settled = || nearest.worst().is_some_and(|worst| estimate - too_far > worst.distance);
            if is_read && hits.len() >= limit.saturating_add(READ_MORE) && settled() {
                break;
            }
            let distance = exact.distance(self.read_vector(candidate.ordinal, room)?);
            if is_read {
                too_far = too_far.max(estimate - distance);
                nearest.push(Candidate::new(distance, candidate.ordinal));
            }
            hits.push(Hit { distance, ordinal: candidate.ordinal });
        }
        self.best(hits, limit)
    }

    fn visible<'a>(&'a self, options: &SearchOptions<'a>) -> Visible<'a, impl Fn(u32) -> Lsn + Sync + use<>> {
        Visible { births: |_| 0, deaths: self.deaths(), at: options.at, accept: options.accept }
    }

    /// Whether all rows are looked at from the start: a beam as wide as the living rows sees them all, at a higher price
    /// than a scan.
    fn is_scanned(&self, options: &SearchOptions<'_>) -> bool {
        let alive = self.rows().saturating_sub(self.deaths().count()) as usize;
        options.exact || options.limit.max(options.ef) >= alive
    }

    /// How inline rows are walked, where every row may be a hit and most are alive.
    fn inline_wish(&self, options: &SearchOptions<'_>, part: f32) -> Option<InlineWish> {
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
        for &link in places {
            if link >= rows {
                if link == NO_LINK {
                    break;
                }
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
    query: Sq8Query,
    /// All code rows, looked at only after their blocks were touched.
    codes: &'a [u8],
    stride: usize,
    row_bytes: usize,
}

impl<'a> CodeScorer<'a> {
    pub(super) fn new(segment: &'a SealedSegment, query: &[f32]) -> CodeScorer<'a> {
        let codes = &segment.places.codes;
        CodeScorer {
            segment,
            query: segment.params.prepare(query),
            codes: segment.blocks.unchecked(codes.offset, codes.len).unwrap_or(&[]),
            stride: codes.stride as usize,
            row_bytes: segment.params.row_bytes(),
        }
    }

    /// The code of a row, if there is one.
    #[inline]
    fn code(&self, ordinal: u32) -> Option<&'a [u8]> {
        let start = ordinal as usize * self.stride;
        self.codes.get(start..start + self.row_bytes)
    }
}

impl Scorer for CodeScorer<'_> {
    fn score(&self, ordinals: &[u32], out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        let codes = &self.segment.places.codes;
        for &ordinal in ordinals {
            if let Some(code) = self.code(ordinal) {
                prefetch_read(code);
            }
        }
        for &ordinal in ordinals {
            self.segment.blocks.touch(codes.offset + u64::from(ordinal) * codes.stride, codes.stride)?;
            let code = self.code(ordinal).ok_or_else(|| {
                self.segment.bad(codes, format!("a code for row {ordinal}"), format!("{} rows", codes.count))
            })?;
            out.push(self.query.score(code));
        }
        Ok(())
    }
}
