//! The graph of several segments from the graphs that they have.
//!
//! A segment's links were chosen with care, and most of them stay right when others join it: what a row lacks is its
//! neighbours in the other segments. So a merge is a refinement over several graphs ([`super::refine`]):
//!
//! 1. Each row is walked to, over the inline rows of other inputs, as if it were a query of theirs: brought to the
//!    space of each. What the walks expand is measured again in the space of the new segment; together with the row's
//!    own links, these are its candidates. Who walks where, and how far: [`Join::plan`].
//! 2. Links that are lost with dead rows leave their place to what lies behind them. A row that lost many is walked to
//!    in its own input as well.
//! 3. Rows that chose a row of another input become its candidates in turn, and each one chooses again.
//! 4. The rows above the ground, a few in a hundred, are linked there from nothing.

use super::choose::{Back, Choice};
use super::halves::Halves;
use super::share::share;
use crate::graph::{FlatLevel, Graph, LEVEL_MAX, Links, NO_LINK, level_for, mix};
use crate::sealed::SealedSegment;
use crate::topk::Scratch;
use nearstone_base::{Result, Schema};
use nearstone_kernels::{InlineQuery, InlineScratch, InlineStart, inline_walk, kernels};
use std::cmp::Reverse;

fn env(name: &str, default: f64) -> f64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Rows that a thread takes at a time.
const PIECE: usize = 256;
const UPPER_PIECE: usize = 32;

/// Rows of some segments with inline rows, in the order in which a new segment will hold them.
#[derive(Debug)]
pub struct Join<'a> {
    inputs: Vec<Input<'a>>,
    /// By descending level: which input, and the row there.
    origin: Vec<(u32, u32)>,
    /// Rows on level 1, on level 2 and so on.
    upper: Vec<u32>,
}

#[derive(Debug)]
struct Input<'a> {
    segment: &'a SealedSegment,
    /// The number that each row will have; [`NO_LINK`] for those that are left out.
    new: Vec<u32>,
    /// Into which inputs its rows walk, and with which beam.
    walks: Vec<(usize, usize)>,
}

impl<'a> Join<'a> {
    /// Rows are given by input and number there. `None` when the rows are better linked from nothing: when an input
    /// has no inline rows, when too many of its rows are left out, or when there are so many inputs that walking them
    /// all costs as much.
    pub fn plan(
        schema: &Schema,
        segments: &[&'a SealedSegment],
        rows: &[(u32, u32)],
        seed: u64,
    ) -> Option<Join<'a>> {
        let mut live = vec![0u64; segments.len()];
        for &(input, _) in rows {
            live[input as usize] += 1;
        }
        let fit = |(segment, &live): (&&SealedSegment, &u64)| {
            segment.inline.is_some() && live as f64 >= segment.rows() as f64 * env("J_LIVE", 0.5)
        };
        if !segments.iter().zip(&live).all(fit) {
            return None;
        }
        let level = |row: u32| level_for(row, seed, schema.links());
        let mut order: Vec<u32> = (0..rows.len() as u32).collect();
        // Walks begin at the first rows: those of one level come from all inputs, not from one after the other.
        order.sort_by_cached_key(|&row| {
            let level = level(row);
            (Reverse(level), if level > 0 { mix(row, seed as u32) } else { 0 }, row)
        });
        let upper = (1..=LEVEL_MAX).map(|wanted| order.partition_point(|&row| level(row) >= wanted) as u32);
        let upper = upper.take_while(|&rows| rows > 0).collect();
        let origin: Vec<(u32, u32)> = order.into_iter().map(|row| rows[row as usize]).collect();
        let mut inputs: Vec<Input<'a>> = Vec::new();
        for (number, &segment) in segments.iter().enumerate() {
            let walks = (0..segments.len()).filter(|&other| {
                other != number && live[other] as f64 * env("J_RATIO", 1000.0) >= live[number] as f64
            });
            let walks = walks
                .map(|other| {
                    let share = live[other] as f64 / rows.len() as f64;
                    (other, (env("J_BEAM", 96.0) * share).max(env("J_MIN", 24.0)) as usize)
                })
                .collect();
            inputs.push(Input { segment, new: vec![NO_LINK; segment.rows() as usize], walks });
        }
        for (new, &(input, old)) in (0..).zip(&origin) {
            inputs[input as usize].new[old as usize] = new;
        }
        Some(Join { inputs, origin, upper })
    }

    /// For each row of the new segment: which input, and the row there.
    pub fn origin(&self) -> &[(u32, u32)] {
        &self.origin
    }

    /// The levels above the ground.
    pub(super) fn upper(
        &self,
        schema: &Schema,
        halves: Halves<'_>,
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Vec<FlatLevel>> {
        let Some(&rows) = self.upper.first() else { return Ok(Vec::new()) };
        let graph = Graph::new(schema.links(), schema.beam());
        graph.ensure_room(rows);
        let mut done = vec![false; rows as usize];
        share(&mut done, UPPER_PIECE, threads, cancel, |place, piece, scratch: &mut Scratch| {
            for (row, done) in (place as u32..).zip(piece) {
                let level = self.upper.partition_point(|&rows| row < rows);
                graph.insert_above(row, level, &halves, scratch)?;
                *done = true;
            }
            Ok(())
        })?;
        let mut list = Vec::new();
        let level = |(level, &rows): (usize, &u32)| {
            let stride = graph.degree(level);
            let mut links = Vec::with_capacity(rows as usize * stride);
            for row in 0..rows {
                graph.links(level, row, &mut list)?;
                links.extend_from_slice(&list);
                links.resize((row as usize + 1) * stride, NO_LINK);
            }
            Ok(FlatLevel { rows, stride, links })
        };
        (1..).zip(&self.upper).map(level).collect()
    }

    /// The ground, with so many places per row.
    pub(super) fn ground(
        &self,
        places: usize,
        halves: Halves<'_>,
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<FlatLevel> {
        let rows = self.origin.len() as u32;
        let mut chosen = vec![NO_LINK; self.origin.len() * places];
        share(&mut chosen, PIECE * places, threads, cancel, |place, piece, work: &mut Work| {
            for (row, out) in ((place / places) as u32..).zip(piece.chunks_exact_mut(places)) {
                if work.meet(self, row, places, halves)? {
                    work.choice.choose(row, halves, false, out);
                }
            }
            Ok(())
        })?;
        let chosen = FlatLevel { rows, stride: places, links: chosen };
        let cross = env("J_CROSS", 1.0) > 0.0;
        let other_input =
            |a: u32, b: u32| !cross || self.origin[a as usize].0 != self.origin[b as usize].0;
        let back = Back::of(&chosen, other_input);
        let mut links = vec![NO_LINK; self.origin.len() * places];
        share(&mut links, PIECE * places, threads, cancel, |place, piece, work: &mut Work| {
            for (row, out) in ((place / places) as u32..).zip(piece.chunks_exact_mut(places)) {
                work.own.read(self, row, places)?;
                let (chosen, back) = (chosen.list(row), back.to(row));
                if chosen.is_empty() && back.is_empty() && work.own.lost == 0 {
                    out[..work.own.kept.len()].copy_from_slice(&work.own.kept);
                    continue;
                }
                work.choice.begin(row, rows, halves);
                for others in [chosen, back, &work.own.kept] {
                    work.choice.measure(others, halves);
                }
                work.choice.choose(row, halves, true, out);
            }
            Ok(())
        })?;
        Ok(FlatLevel { rows, stride: places, links })
    }
}

/// What one thread works with.
#[derive(Default)]
struct Work {
    own: Own,
    rotated: Vec<f32>,
    query: InlineQuery,
    walk: InlineScratch,
    met: Vec<u32>,
    choice: Choice,
}

impl Work {
    /// Candidates are the row's own links and what walks towards it expand; `false` when it has none to walk.
    fn meet(&mut self, join: &Join<'_>, row: u32, places: usize, halves: Halves<'_>) -> Result<bool> {
        let (input, old) = join.origin[row as usize];
        let Input { segment, walks, .. } = &join.inputs[input as usize];
        self.own.read(join, row, places)?;
        let lost = self.own.lost as f64 > env("J_LOST", 0.25) * (self.own.lost + self.own.direct) as f64;
        let own = if lost || env("J_OWN", 0.0) > 0.0 { Some((input as usize, env("J_OWNBEAM", 64.0) as usize)) } else { None };
        if walks.is_empty() && own.is_none() {
            return Ok(false);
        }
        let vector = segment.vector(old)?;
        self.choice.begin(row, join.origin.len() as u32, halves);
        self.choice.measure(&self.own.kept, halves);
        for &(other, beam) in walks.iter().chain(&own) {
            let Input { segment, new, .. } = &join.inputs[other];
            let start = if other == input as usize { Some(old) } else { None };
            segment.inline_meet(vector, beam, start, &mut self.rotated, &mut self.query, &mut self.walk)?;
            self.met.clear();
            self.met.extend(self.walk.expanded().map(|met| new[met.id as usize]).filter(|&new| new != NO_LINK));
            self.choice.measure(&self.met, halves);
        }
        Ok(true)
    }
}

/// What remains of a row's links in its own input, in new numbers.
#[derive(Default)]
struct Own {
    kept: Vec<u32>,
    /// Links to rows that are left out, and to others.
    lost: usize,
    direct: usize,
    gone: Vec<u32>,
    behind: Vec<u32>,
}

impl Own {
    fn read(&mut self, join: &Join<'_>, row: u32, places: usize) -> Result<()> {
        let (input, old) = join.origin[row as usize];
        let Input { segment, new, .. } = &join.inputs[input as usize];
        self.kept.clear();
        self.gone.clear();
        for link in segment.ground_links(old)? {
            let link = link?;
            match new[link as usize] {
                NO_LINK => self.gone.push(link),
                kept => self.kept.push(kept),
            }
        }
        (self.lost, self.direct) = (self.gone.len(), self.kept.len());
        // Two rings: behind a lost neighbour, and behind a lost neighbour of that.
        for _ in 0..2 {
            if self.gone.is_empty() || (self.kept.len() >= places && self.lost < self.direct) {
                break;
            }
            self.behind.clear();
            for &gone in &self.gone {
                for link in segment.ground_links(gone)? {
                    let link = link?;
                    match new[link as usize] {
                        NO_LINK => self.behind.push(link),
                        kept if kept != row && !self.kept.contains(&kept) => self.kept.push(kept),
                        _ => {}
                    }
                }
            }
            std::mem::swap(&mut self.gone, &mut self.behind);
            self.gone.sort_unstable();
            self.gone.dedup();
            if self.kept.len() >= places {
                break;
            }
        }
        Ok(())
    }
}

impl SealedSegment {
    /// The links of a row on the ground level.
    fn ground_links(&self, row: u32) -> Result<impl Iterator<Item = Result<u32>>> {
        let links = self.places_of(0, row)?.iter().copied().take_while(|&link| link != NO_LINK);
        Ok(links.map(|link| if link < self.rows() { Ok(link) } else { Err(self.bad_link(0, link)) }))
    }

    /// Walks over inline rows towards a vector, from the entry or from a row.
    fn inline_meet(
        &self,
        vector: &[f32],
        beam: usize,
        start: Option<u32>,
        rotated: &mut Vec<f32>,
        query: &mut InlineQuery,
        walk: &mut InlineScratch,
    ) -> Result<()> {
        let Some(inline) = &self.inline else { return Ok(()) };
        inline.space.query(kernels(), vector, rotated);
        query.prepare(kernels(), rotated);
        let Some((entry, rows)) = self.inline_checked(inline)? else { return Ok(()) };
        let start = start.map_or(InlineStart::NeighboursOf(entry), InlineStart::Row);
        inline_walk(kernels(), &rows, query, beam, start, |row| self.touch_inline(inline, row), walk)
    }
}
