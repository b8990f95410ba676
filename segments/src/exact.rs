//! The nearest of many rows, exactly: at the speed of memory, and with distances in double precision only where they
//! can matter.
//!
//! 1. Rows come in strips that stay in a near cache. Their products with the queries and their own squares are
//!    computed in single precision, for a block of queries together where there are enough of them.
//! 2. Each query knows the distance of the `limit`-th nearest row that it has measured. A row that is certainly farther
//!    is dropped: its product stays below a bar.
//! 3. What reaches the bar is measured as callers see it ([`ExactDistance`]), and lowers it. Hits are kept as far as they
//!    tie with the last one wanted: keys decide among these, which the caller has.
//!
//! # The bar
//!
//! Write `q`, `r` for query and row, `p` for the product and `s` for the square as computed. With `c` roundings and
//! `u = 2^-24`, the bound at [`roundings`] and that of Cauchy and Schwarz on the absolute products give
//!
//! ```text
//! |p - q.r| <= g |q| |r|      and      |s - r.r| <= g r.r,      g = (c + 4) u 1.01 > (c u / (1 - c u)) + 3 u
//! ```
//!
//! as long as nothing overflows, and what is lost below `2^-126` is small beside it. Both hold where squares lie
//! within [`PLAIN`]: absolute numbers are at most `2^50` there, so that no sum reaches `2^102`; and what 65,536 products
//! lose, `2^-133` at most, is below `u |q| |r| >= 2^-85`, one of the three `u` that `g` has to spare. A row or a query
//! that is not plain has no bar: it is measured. (If `r.r` were out of the range and `s` not, `s` would be wrong by more
//! than that.)
//!
//! Let `t` be the distance of the `limit`-th nearest, and `T` the next larger `f32`. A row that is at `T` or beyond in double
//! precision is there as an `f32` as well, since rounding keeps order: then it is not among the nearest, nor ties with
//! the last. Distances in double precision are wrong by less than `e = 2^-30`, relative to themselves (Euclidean), to
//! `|q| |r|` (inner product) or absolutely (cosine, see `distance.rs`). So a row is dropped if `p` is below
//!
//! ```text
//! Euclidean       (q.q (1 - e) - T (1 + e)) / 2  +  r.r / 2  -  g |q| |r|        from  q.q + r.r - 2 q.r
//! inner product    -T                                       -  (g + e) |q| |r|
//! cosine                                          (1 - T - e - g) |q| |r|
//! ```
//!
//! with `s (1 - g) / 2` for `r.r / 2`, and the root `n` of `s` for `|r|`, which is wrong by less than `g n`: the slope, what `|r|` is
//! multiplied with, is lowered by twice `g` of itself. All of it is a sum of three numbers, `base + lift + slope n`, which is
//! compared in single precision: that rounds at most three times, so each part is lowered by `4 u` of itself before.
//! What is infinite or no number at the end keeps the row, as any comparison with it is false, or compares rightly.

use crate::distance::ExactDistance;
use crate::segment::Hit;
use crate::topk::{Candidate, Nearest};
use nearstone_base::{Metric, Result};
use nearstone_kernels::{Bar, Kernels, QueryPanels, kernels, prefetch_whole, roundings};
use std::cmp::Ordering;
use std::ops::RangeInclusive;
use zerocopy::IntoBytes;

/// Squares of vectors that single precision is trusted with: from `2^-60` to `2^100`.
const PLAIN: RangeInclusive<f32> = 1.0 / (1u64 << 60) as f32..=(1u64 << 50) as f32 * (1u64 << 50) as f32;
/// Half a unit in the last place of 1.
const UNIT: f64 = 1.0 / (1u64 << 24) as f64;
/// More than a distance in double precision is wrong by.
const DOUBLE: f64 = 1.0 / (1u64 << 30) as f64;
/// Bytes of a strip's rows: what fits into a near cache beside the panels of queries.
const STRIP_BYTES: usize = 192 << 10;
/// Whole tiles of every backend.
const STRIP_STEP: usize = 24;
const STRIP_MAX: usize = 96;
/// Of fewer queries than this share of a panel, each goes through the strip alone: most lanes would work for nobody.
const PANEL_SHARE: usize = 8;
/// So many rows before it is looked at, a row is asked for: the processor's own prefetcher stops at each page.
const ROWS_AHEAD: usize = 8;
/// Hits that are kept before the farther ones are dropped; twice the limit, if that is more.
const HITS_MIN: usize = 1024;

/// The nearest `limit` rows for each of the queries, and those that tie with the last of them, in no order. Distances
/// are those of [`ExactDistance`]. `count` is how many rows there are at most; an error of `rows` ends the scan.
///
/// Reads each row once. Panics when lengths differ.
pub(crate) fn nearest_rows<'r>(
    metric: Metric,
    queries: &[&[f32]],
    limit: usize,
    count: u32,
    rows: impl Iterator<Item = Result<(u32, &'r [f32])>>,
) -> Result<Vec<Vec<Hit>>> {
    nearest_rows_with(kernels(), metric, queries, limit, count, rows)
}

/// The same with the estimates of one backend.
fn nearest_rows_with<'r>(
    kernels: Kernels,
    metric: Metric,
    queries: &[&[f32]],
    limit: usize,
    count: u32,
    mut rows: impl Iterator<Item = Result<(u32, &'r [f32])>>,
) -> Result<Vec<Vec<Hit>>> {
    let mut nearest = NearestRows::with(kernels, metric, queries, limit, count);
    let mut strip = Strip::with_capacity(nearest.strip_rows);
    loop {
        strip.clear();
        for row in rows.by_ref().take(nearest.strip_rows) {
            strip.push(row?);
        }
        if strip.is_empty() {
            return Ok(nearest.finish());
        }
        nearest.take(&strip);
    }
}

/// Rows that are looked at together.
pub(crate) type Strip<'r> = Vec<(u32, &'r [f32])>;

/// A scan on its way, for rows that lie nowhere for longer than they are looked at.
pub(crate) struct NearestRows<'q> {
    block: Block<'q>,
    panels: Option<QueryPanels>,
    dots: Vec<f32>,
    /// Where all rows are wanted, estimates tell nothing.
    all: bool,
    strip_rows: usize,
}

impl<'q> NearestRows<'q> {
    /// As for [`nearest_rows`].
    pub(crate) fn new(metric: Metric, queries: &[&'q [f32]], limit: usize, count: u32) -> NearestRows<'q> {
        NearestRows::with(kernels(), metric, queries, limit, count)
    }

    fn with(
        kernels: Kernels,
        metric: Metric,
        queries: &[&'q [f32]],
        limit: usize,
        count: u32,
    ) -> NearestRows<'q> {
        let dimension = queries.first().map_or(0, |query| query.len());
        let strip_rows =
            (STRIP_BYTES / (4 * dimension.max(1)) / STRIP_STEP * STRIP_STEP).clamp(STRIP_STEP, STRIP_MAX);
        let all = limit >= count as usize;
        let panels = (!all && queries.len() > kernels.panel_width() / PANEL_SHARE)
            .then(|| QueryPanels::new(kernels, queries));
        let dots = vec![0.0; panels.as_ref().map_or(0, |panels| panels.width() * strip_rows)];
        NearestRows { block: Block::new(kernels, metric, queries, limit), panels, dots, all, strip_rows }
    }

    /// Rows of a strip, at most.
    pub(crate) fn strip_rows(&self) -> usize {
        self.strip_rows
    }

    /// Looks at a strip of rows.
    pub(crate) fn take(&mut self, strip: &[(u32, &[f32])]) {
        match &self.panels {
            _ if self.all => self.block.measure(strip),
            None => self.block.one_by_one(strip),
            Some(panels) => {
                let vectors: Vec<&[f32]> = strip.iter().map(|&(_, vector)| vector).collect();
                self.block.together(panels, strip, &vectors, &mut self.dots);
            }
        }
    }

    /// For each query its list.
    pub(crate) fn finish(self) -> Vec<Vec<Hit>> {
        self.block.finish()
    }
}

/// Queries that are asked together.
struct Block<'q> {
    kernels: Kernels,
    metric: Metric,
    /// `g` above.
    slack: f64,
    /// What a row's square is multiplied with in its lift.
    lift: f32,
    asked: Vec<Asked<'q>>,
    /// Of each query's bar, up to whole panels.
    bases: Vec<f32>,
    slopes: Vec<f32>,
    /// Of each row of a strip.
    weights: Vec<Weight>,
}

/// What the bar takes from a row.
#[derive(Clone, Copy)]
struct Weight {
    lift: f32,
    norm: f32,
}

impl<'q> Block<'q> {
    fn new(kernels: Kernels, metric: Metric, queries: &[&'q [f32]], limit: usize) -> Block<'q> {
        let dimension = queries.first().map_or(0, |query| query.len());
        let lanes = queries.len().next_multiple_of(kernels.panel_width());
        let slack = (roundings(dimension) as f64 + 4.0) * UNIT * 1.01;
        let lift = match metric {
            // Rounded here and at each row, so lowered once more than the parts of a bar.
            Metric::L2 => ((1.0 - slack) / 2.0 * (1.0 - 8.0 * UNIT)) as f32,
            Metric::InnerProduct | Metric::Cosine => 0.0,
        };
        Block {
            kernels,
            metric,
            slack,
            lift,
            asked: queries.iter().map(|query| Asked::new(metric, query, limit)).collect(),
            bases: vec![f32::NEG_INFINITY; lanes],
            slopes: vec![0.0; lanes],
            weights: Vec::new(),
        }
    }

    /// What the bar takes from a row of the square `s`.
    fn weight(&self, s: f32) -> Weight {
        if !PLAIN.contains(&s) {
            return Weight { lift: f32::NEG_INFINITY, norm: 0.0 };
        }
        Weight { lift: s * self.lift, norm: s.sqrt() }
    }

    /// Measures rows for every query.
    fn measure(&mut self, strip: &[(u32, &[f32])]) {
        for asked in &mut self.asked {
            for &(ordinal, vector) in strip {
                asked.measure(ordinal, vector);
            }
        }
    }

    fn one_by_one(&mut self, strip: &[(u32, &[f32])]) {
        for number in 0..self.asked.len() {
            for (place, &(ordinal, vector)) in strip.iter().enumerate() {
                // For the next queries the strip is near.
                if let (0, Some((_, soon))) = (number, strip.get(place + ROWS_AHEAD)) {
                    prefetch_whole(soon.as_bytes());
                }
                let (dot, square) = self.kernels.dot_norm(self.asked[number].query, vector);
                let Weight { lift, norm } = self.weight(square);
                let below = dot < self.bases[number] + lift + self.slopes[number] * norm;
                // What can't be compared is not below.
                if !below {
                    self.consider(number, ordinal, vector);
                }
            }
        }
    }

    fn together(
        &mut self,
        panels: &QueryPanels,
        strip: &[(u32, &[f32])],
        vectors: &[&[f32]],
        dots: &mut [f32],
    ) {
        let mut weights = std::mem::take(&mut self.weights);
        weights.clear();
        weights.extend(vectors.iter().enumerate().map(|(place, vector)| {
            if let Some(soon) = vectors.get(place + ROWS_AHEAD) {
                prefetch_whole(soon.as_bytes());
            }
            self.weight(self.kernels.dot(vector, vector))
        }));
        let width = panels.width();
        let dots = &mut dots[..width * vectors.len()];
        for panel in 0..panels.count() {
            panels.dots(panel, vectors, dots);
            let lanes = panel * width..(panel + 1) * width;
            let without_query = lanes.end.saturating_sub(self.asked.len());
            let with_query = u64::MAX >> (64 - width + without_query);
            for (place, dots) in dots.chunks_exact(width).enumerate() {
                let Weight { lift, norm } = weights[place];
                let (bases, slopes) = (&self.bases[lanes.clone()], &self.slopes[lanes.clone()]);
                let mut bits = panels.reaching(dots, &Bar { bases, slopes, lift, norm }) & with_query;
                while bits != 0 {
                    let (ordinal, vector) = strip[place];
                    self.consider(lanes.start + bits.trailing_zeros() as usize, ordinal, vector);
                    bits &= bits - 1;
                }
            }
        }
        self.weights = weights;
    }

    /// Measures a row that reached a query's bar, and raises the bar if that brought the last one wanted nearer.
    fn consider(&mut self, number: usize, ordinal: u32, vector: &[f32]) {
        let asked = &mut self.asked[number];
        if asked.measure(ordinal, vector)
            && let Some(last) = asked.last()
        {
            let (base, slope) = asked.bar(self.metric, self.slack, last);
            self.bases[number] = base;
            self.slopes[number] = slope;
        }
    }

    fn finish(self) -> Vec<Vec<Hit>> {
        self.asked.into_iter().map(Asked::finish).collect()
    }
}

/// One query, and what was measured for it.
struct Asked<'q> {
    query: &'q [f32],
    exact: ExactDistance<'q>,
    square: f64,
    limit: usize,
    /// Distances of the nearest `limit`.
    nearest: Nearest,
    /// Those rows, what ties with the last, and what was measured before it became clear that it is farther.
    hits: Vec<Hit>,
    hits_max: usize,
}

impl<'q> Asked<'q> {
    fn new(metric: Metric, query: &'q [f32], limit: usize) -> Asked<'q> {
        let exact = ExactDistance::new(metric, query);
        let square = kernels().dot_precise(query, query);
        let mut nearest = Nearest::default();
        nearest.reset(limit);
        let hits_max = limit.saturating_mul(2).max(HITS_MIN);
        Asked { query, exact, square, limit, nearest, hits: Vec::new(), hits_max }
    }

    /// Whether the row is now among the nearest.
    fn measure(&mut self, ordinal: u32, vector: &[f32]) -> bool {
        let distance = self.exact.distance(vector);
        let near = self.nearest.push(Candidate::new(distance, ordinal));
        // Of equal distances the order of ordinals keeps one, and keys may want the other.
        let tied = || self.nearest.worst().is_some_and(|last| distance.total_cmp(&last.distance).is_le());
        if near || tied() {
            self.hits.push(Hit { distance, ordinal });
            if self.hits.len() >= self.hits_max {
                prune(&mut self.hits, self.limit);
                self.hits_max = self.hits.len().saturating_mul(2).max(self.hits_max);
            }
        }
        near
    }

    /// The distance of the `limit`-th nearest, once there are so many.
    fn last(&self) -> Option<f32> {
        if self.nearest.is_full() { self.nearest.worst().map(|last| last.distance) } else { None }
    }

    /// Base and slope of the bar: see above.
    fn bar(&self, metric: Metric, slack: f64, last: f32) -> (f32, f32) {
        if !(f64::from(*PLAIN.start())..=f64::from(*PLAIN.end())).contains(&self.square) {
            return (f32::NEG_INFINITY, 0.0);
        }
        let (beyond, norm) = (f64::from(last.next_up()), self.square.sqrt());
        let (base, slope) = match metric {
            Metric::L2 => ((self.square * (1.0 - DOUBLE) - beyond * (1.0 + DOUBLE)) / 2.0, -slack * norm),
            Metric::InnerProduct => (-beyond, -(slack + DOUBLE) * norm),
            Metric::Cosine => (0.0, (1.0 - beyond - DOUBLE - slack) * norm),
        };
        (below(base), below(slope - 2.0 * slack * slope.abs()))
    }

    fn finish(mut self) -> Vec<Hit> {
        prune(&mut self.hits, self.limit);
        self.hits
    }
}

/// An `f32` that is smaller by what comparing may round.
fn below(x: f64) -> f32 {
    ((x - 4.0 * UNIT * x.abs()) as f32).next_down()
}

pub(crate) fn by_distance(a: &Hit, b: &Hit) -> Ordering {
    a.distance.total_cmp(&b.distance).then(a.ordinal.cmp(&b.ordinal))
}

/// Drops what is farther than the `limit`-th hit.
pub(crate) fn prune(hits: &mut Vec<Hit>, limit: usize) {
    if limit == 0 || hits.len() <= limit {
        return;
    }
    let (_, &mut last, _) = hits.select_nth_unstable_by(limit - 1, by_distance);
    hits.retain(|hit| hit.distance.total_cmp(&last.distance).is_le());
}

#[cfg(test)]
mod tests;
