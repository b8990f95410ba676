//! One query over several segments at once, where all are walked over inline rows.
//!
//! 1. The query is prepared once for all segments that share a space.
//! 2. Their walks are made together ([`nearstone_kernels::inline_walk_together`]): what one finds ends the others early, from wherever
//!    it comes.
//! 3. Of all that was expanded in any of them, the nearest are measured, in the order of what is known of their distances, until the next
//!    one can't be among the nearest, as far as its space says. So as many vectors are read as for one segment.
//! 4. A segment of which too little is known then (most rows around the query were dead) is searched alone.

use super::{Inline, InlineWork, LaneWork, Watch};
use crate::distance::ExactDistance;
use crate::sealed::reader::SealedSegment;
use crate::segment::{Accept, Hit, SearchOptions};
use crate::topk::{Candidate, Scratch};
use nearstone_base::Result;
use nearstone_kernels::{InlineLane, InlineScale, inline_walk_together, kernels};

/// So many of those that come before a segment are asked whether they share a space with it.
const ALIKE: usize = 16;

/// A segment that is walked with others.
#[derive(Clone, Copy)]
struct Lane<'a> {
    /// Its place among all segments.
    place: usize,
    segment: &'a SealedSegment,
    inline: &'a Inline,
    scale: InlineScale,
    /// What rounding moved the query by.
    lost: f32,
    /// In whose place the query is prepared: its own, or that of an earlier one in the same space.
    prepared: usize,
}

/// A row that was expanded: its distance as its lane knows it, in common with others; number of the lane, and row.
type Met = (f32, usize, u32);

impl Lane<'_> {
    /// Up to which of its own squared distances a row may be as near as `distance` to callers.
    fn reach(&self, works: &[LaneWork], distance: f32) -> f32 {
        let own = self.scale.own(distance).max(0.0);
        self.inline.space.within_spread(works[self.prepared].query.upper_bound(own), self.lost)
    }
}

impl SealedSegment {
    /// Whether a query that is prepared for walks over the inline rows of one is prepared for those of the other: these lie in one space,
    /// with as many bits.
    pub fn shares_queries(&self, other: &SealedSegment) -> bool {
        let by = |segment: &SealedSegment| segment.inline.as_ref().map(|it| (it.digest, it.rows.shape));
        by(self).is_some_and(|own| by(other) == Some(own))
    }

    /// Whether this search walks over inline rows, as [`search_together`] wants it.
    pub fn is_walked_inline(&self, options: &SearchOptions<'_>) -> bool {
        let wish = self.inline_wish(options, 1.0).filter(|_| self.inline.is_some());
        wish.is_some_and(|wish| wish.ef <= super::BEAM_MAX) && !self.is_scanned(options)
    }
}

/// The nearest visible rows of several segments of one collection, each with the share of all rows that it holds. Leaves in `lists`, for
/// each segment, hits best first, among which are, as far as walks find them, those that belong to the `limit` nearest of them together and
/// of what is `known`: rows at these distances, found elsewhere. A segment for which [`SealedSegment::is_walked_inline`] does not hold is searched alone.
///
/// # Errors
/// `InvalidArgument` for a query of another length; damage.
pub fn search_together(
    segments: &[(&SealedSegment, f32)],
    query: &[f32],
    options: &SearchOptions<'_>,
    known: &[f32],
    scratch: &mut Scratch,
    lists: &mut Vec<Vec<Hit>>,
) -> Result<()> {
    lists.clear();
    lists.resize_with(segments.len(), Vec::new);
    let mut alone = vec![true; segments.len()];
    if options.limit > 0 {
        let lanes = walk(segments, query, options, known, &mut scratch.inline)?;
        let mut met = Vec::new();
        if gather(&lanes, options, known, &mut scratch.inline, &mut met, &mut alone) {
            measure(&lanes, (query, options.limit), known, scratch, &met, lists)?;
        }
    }
    for ((&(segment, _), list), alone) in segments.iter().zip(lists).zip(alone) {
        if alone {
            *list = segment.search(query, options, scratch)?;
        }
    }
    Ok(())
}

/// Walks over those that can be walked together.
fn walk<'a>(
    segments: &[(&'a SealedSegment, f32)],
    query: &[f32],
    options: &SearchOptions<'_>,
    known: &[f32],
    work: &mut InlineWork,
) -> Result<Vec<Lane<'a>>> {
    work.make_room(segments.len());
    let (mut lanes, mut grounds) = (Vec::<Lane<'a>>::with_capacity(segments.len()), Vec::new());
    for (place, &(segment, part)) in segments.iter().enumerate() {
        if query.len() != segment.meta().schema.dimension() || !segment.is_walked_inline(options) {
            continue;
        }
        let Some(wish) = segment.inline_wish(options, part) else { continue };
        let Some(ground) = segment.inline_ground(wish)? else { continue };
        let inline = ground.inline;
        // Who shares a space mostly comes one after the other.
        let mut near = lanes.iter().rev().take(ALIKE);
        let lane = match near.find(|lane| lane.segment.shares_queries(segment)) {
            Some(lane) => Lane { place, segment, inline, ..*lane },
            None => match inline.prepare_beside_others(query, &mut work.lanes[place]) {
                (lost, Some(scale)) => Lane { place, segment, inline, scale, lost, prepared: place },
                _ => continue,
            },
        };
        lanes.push(lane);
        grounds.push((ground, wish.expected()));
    }
    let rooms = work.lanes.iter_mut().map(|lane| (&lane.query, Some(&mut lane.walk)));
    let (queries, mut rooms): (Vec<_>, Vec<_>) = rooms.unzip();
    let mut walks = Vec::with_capacity(lanes.len());
    for (lane, (ground, least)) in lanes.iter().zip(grounds) {
        let Some(scratch) = rooms[lane.place].take() else { continue };
        walks.push(InlineLane {
            rows: ground.rows,
            query: queries[lane.prepared],
            beam: ground.beam,
            start: ground.start,
            least,
            scale: lane.scale,
            watch: Watch { segment: lane.segment, inline: lane.inline, at: options.at },
            scratch,
        });
    }
    work.common.reset(options.limit, known);
    inline_walk_together(kernels(), &mut walks, &mut work.common)?;
    Ok(lanes)
}

/// Leaves in `met` the visible rows that may be among the nearest of all that is known, nearest first, and says which segments need not be
/// searched `alone`; `false` when all have to.
fn gather(
    lanes: &[Lane<'_>],
    options: &SearchOptions<'_>,
    known: &[f32],
    work: &mut InlineWork,
    met: &mut Vec<Met>,
    alone: &mut [bool],
) -> bool {
    let limit = options.limit;
    let InlineWork { lanes: works, order, .. } = work;
    for (number, lane) in lanes.iter().enumerate() {
        let expanded = works[lane.place].walk.expanded();
        // Nothing can be said of a query, or of rows, whose distances single precision does not hold.
        if !expanded.clone().all(|row| row.distance.is_finite()) {
            return false;
        }
        let visible = lane.segment.visible(options);
        let everything = lane.segment.deaths().count() == 0;
        let seen = expanded.filter(|row| everything || visible.accept(row.id));
        let before = met.len();
        met.extend(seen.map(|row| (lane.scale.common(row.distance), number, row.id)));
        // A graph with holes: everything that can be reached is too little.
        let all = works[lane.place].walk.left().is_none();
        alone[lane.place] = all && met.len() - before < limit;
    }
    order.clear();
    order.extend(met.iter().map(|row| row.0).chain(known.iter().copied()));
    if lanes.is_empty() || order.len() < limit {
        return false;
    }
    let (nearer, &mut last, _) = order.select_nth_unstable_by(limit - 1, f32::total_cmp);
    for lane in lanes {
        // Rows that are dead counted in walks. Those around a query may all be: half of what is wanted has to be nearer than what is left.
        let left = works[lane.place].walk.left().filter(|_| lane.segment.deaths().count() > 0);
        let left = left.map_or(f32::INFINITY, |left| lane.scale.common(left));
        let settled = nearer.iter().filter(|&&distance| distance <= left).count() + usize::from(last <= left);
        alone[lane.place] |= settled < limit.div_ceil(2);
    }
    // What was found at `last` is not farther than this, whichever lane it is in; and so far each lane has to be looked through.
    let reach = |lane: &Lane<'_>, distance| lane.scale.common(lane.reach(works, distance));
    let farthest = lanes.iter().map(|lane| reach(lane, last)).fold(last, f32::max);
    order.clear();
    order.extend(lanes.iter().map(|lane| match alone[lane.place] {
        true => f32::NEG_INFINITY,
        false => reach(lane, farthest),
    }));
    met.retain(|&(distance, number, _)| distance <= order[number]);
    met.iter().for_each(|&(_, number, row)| lanes[number].segment.prefetch_hit(row));
    met.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    true
}

/// Exact distances of the rows, nearest first, for as long as the next one may be among the nearest.
fn measure(
    lanes: &[Lane<'_>],
    (query, limit): (&[f32], usize),
    known: &[f32],
    scratch: &mut Scratch,
    met: &[Met],
    lists: &mut [Vec<Hit>],
) -> Result<()> {
    let Some(first) = lanes.first() else { return Ok(()) };
    let exact = ExactDistance::new(first.segment.meta().schema.metric(), query);
    let (works, nearest) = (&scratch.inline.lanes, &mut scratch.nearest);
    nearest.reset(limit);
    for &distance in known {
        nearest.push(Candidate::new(distance, 0));
    }
    for &(distance, number, row) in met {
        let lane = &lanes[number];
        let bar = nearest.worst().filter(|_| nearest.is_full());
        if bar.is_some_and(|bar| lane.scale.own(distance) > lane.reach(works, bar.distance)) {
            continue;
        }
        let distance = exact.distance(lane.segment.vector(row)?);
        nearest.push(Candidate::new(distance, row));
        lists[lane.place].push(Hit { distance, ordinal: row });
    }
    for lane in lanes {
        let list = &mut lists[lane.place];
        *list = lane.segment.best(std::mem::take(list), limit)?;
    }
    Ok(())
}
