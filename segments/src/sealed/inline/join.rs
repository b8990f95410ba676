//! The graph of several segments from the graphs that they have.
//!
//! The links of a segment stay right when others join it: what its rows lack is neighbours in the other segments. So a
//! merge is a refinement over several graphs (see [`super::refine`]):
//!
//! 1. Each row is walked to, over the inline rows of other inputs and in the space of each, as if it were a query. What
//!    the walks expand is measured again in the space of the new segment: together with the links that the row has, these
//!    are its candidates. Rows of a much larger input are spared this; they are found by the rows of the smaller one.
//! 2. Where a link leads to a row that is left out, what lies behind takes its place among the candidates.
//! 3. Rows that chose a row of another input become its candidates in turn, and each one chooses a second time.
//! 4. The few rows above the ground are linked there from nothing ([`super::upper`]), and whatever is not reachable
//!    is attached.
//!
//! Nothing but numbers is taken from an input, and all of it is checked: a link that leads nowhere is `Corruption`.

use super::choose::{BACK_MAX, Back, Choice};
use super::codes::Near;
use super::limits::shape_of;
use super::upper::by_level;
use crate::graph::{FlatLevel, NO_LINK};
use crate::quantize::space::SpaceWork;
use crate::sealed::SealedSegment;
use crate::segment::{AcceptAll, SearchOptions};
use crate::share::share;
use crate::topk::Scratch;
use nearstone_base::sync::{AtomicU64, Ordering};
use nearstone_base::{Lsn, Metric, Result, Schema};
use nearstone_kernels::{InlineQuery, InlineScratch, InlineStart, inline_walk, kernels};

/// The beam of a walk, were everything in the input that is walked: one that holds a share of all rows holds that share
/// of a row's neighbours.
const BEAM: u64 = 48;
const BEAM_MIN: u64 = 16;
/// What comes to the expansions of a beam until it is in the right region.
const APPROACH: u64 = 16;
/// Rows of an input that is more than so many times as large as another one do not walk that one.
const MUCH_LARGER: u64 = 4;
/// With more expansions a row than these, a graph built in batches costs less: 224, of eight equal inputs, took 7.7 s where that
/// took 5.0.
const EXPANSIONS_MAX: u64 = 128;
/// By inner product rows are linked one by one, which costs much more.
const EXPANSIONS_MAX_ALONE: u64 = 300;
/// Of an input whose graph is worth keeping, one row in so many lives.
const LIVE_MIN: u64 = 2;
/// At most one row in so many comes from other inputs, or from those without inline rows, which are small as a rule.
const POOR_SHARE: u64 = 4;
/// More inputs are linked from nothing in any case.
const INPUTS_MAX: usize = 256;
/// Rows that a thread takes at a time.
const PIECE: usize = 256;

/// Rows of some segments, most of which have inline rows, in the order in which a new segment will hold them.
#[derive(Debug)]
pub struct Join<'a> {
    inputs: Vec<Input<'a>>,
    /// By descending level: which input, and the row there.
    origin: Vec<(u32, u32)>,
    /// Rows on level 1, on level 2 and so on.
    upper: Vec<u32>,
    /// Rows that have chosen, and rows that have chosen again.
    done: AtomicU64,
}

#[derive(Debug)]
struct Input<'a> {
    segment: &'a SealedSegment,
    /// The number that each row will have; [`NO_LINK`] for those that are left out.
    new: Vec<u32>,
    /// Which inputs its rows walk, and with which beam.
    walks: Vec<(u32, usize)>,
}

impl<'a> Join<'a> {
    /// Rows are given by input and row there; `seed` is that of the levels. `None` when they are better linked from
    /// nothing: when the new segment will have no inline rows, when many of the rows come from inputs that have none or
    /// of which most rows are left out, or when there are so many inputs that walking them costs nearly as much.
    pub fn plan(
        schema: &Schema,
        segments: &[&'a SealedSegment],
        rows: &[(u32, u32)],
        seed: u64,
    ) -> Option<Join<'a>> {
        if segments.len() > INPUTS_MAX {
            return None;
        }
        let mut live = vec![0u64; segments.len()];
        for &(input, _) in rows {
            live[input as usize] += 1;
        }
        let all = rows.len() as u64;
        let is_poor = |(segment, live): &(&&SealedSegment, &u64)| {
            segment.inline.is_none() || *live * LIVE_MIN < u64::from(segment.rows())
        };
        let poor: u64 = segments.iter().zip(&live).filter(is_poor).map(|(_, live)| live).sum();
        let walks: Vec<_> = (0..segments.len()).map(|input| walks_of(&live, input)).collect();
        let expansions = |(walks, live): (&Vec<(u32, usize)>, &u64)| {
            live * walks.iter().map(|&(_, beam)| beam as u64 + APPROACH).sum::<u64>()
        };
        let expansions: u64 = walks.iter().zip(&live).map(expansions).sum();
        // Searches by inner product find long rows, not near ones.
        let blind =
            schema.metric() == Metric::InnerProduct && segments.iter().any(|one| one.inline.is_none());
        let shaped = u32::try_from(rows.len()).is_ok_and(|rows| shape_of(schema, rows).is_some()) && !blind;
        let most =
            if schema.metric() == Metric::InnerProduct { EXPANSIONS_MAX_ALONE } else { EXPANSIONS_MAX };
        if !shaped || poor * POOR_SHARE > all || expansions > all * most {
            return None;
        }

        let (order, upper) = by_level(rows.len() as u32, seed, schema.links());
        let origin: Vec<(u32, u32)> = order.into_iter().map(|row| rows[row as usize]).collect();

        let unknown = |(&segment, walks): (&&'a SealedSegment, _)| {
            let new = vec![NO_LINK; segment.rows() as usize];
            Input { segment, new, walks }
        };
        let mut inputs: Vec<Input<'a>> = segments.iter().zip(walks).map(unknown).collect();
        for (new, &(input, old)) in (0..).zip(&origin) {
            inputs[input as usize].new[old as usize] = new;
        }
        Some(Join { inputs, origin, upper, done: AtomicU64::new(0) })
    }

    /// For each row of the new segment: which input, and the row there.
    pub fn origin(&self) -> &[(u32, u32)] {
        &self.origin
    }

    /// How far it is: the rows of the origin whose links are chosen, each of the two times counting half. Begins anew
    /// where the work does, because a space did not do after all.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed) / 2
    }

    /// How many rows are on level 1, on level 2 and so on.
    pub(super) fn members(&self) -> &[u32] {
        &self.upper
    }

    /// The ground, with so many places per row.
    pub(super) fn ground(
        &self,
        places: usize,
        near: Near<'_>,
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<FlatLevel> {
        // Perhaps not for the first time.
        self.done.store(0, Ordering::Relaxed);
        let rows = self.origin.len() as u32;
        let mut chosen = vec![NO_LINK; self.origin.len() * places];
        share(&mut chosen, PIECE * places, threads, cancel, |place, piece, work: &mut Work| {
            for (row, out) in ((place / places) as u32..).zip(piece.chunks_exact_mut(places)) {
                if work.meet(self, row, places, near)? {
                    work.choice.choose(near, false, out);
                }
            }
            self.count(piece.len() / places);
            Ok(())
        })?;
        let chosen = FlatLevel { rows, stride: places, links: chosen };
        // Who links to it in its own input, a row knew when it chose its links there.
        let joins = |a: u32, b: u32| self.origin[a as usize].0 != self.origin[b as usize].0;
        let back = Back::of(&chosen, joins);
        let mut links = vec![NO_LINK; self.origin.len() * places];
        share(&mut links, PIECE * places, threads, cancel, |place, piece, work: &mut Work| {
            for (row, out) in ((place / places) as u32..).zip(piece.chunks_exact_mut(places)) {
                let Work { own, choice, .. } = work;
                own.read(self, row, places)?;
                let (chosen, back) = (chosen.list(row), back.to(row, BACK_MAX));
                if chosen.is_empty() && back.is_empty() && !own.lost && own.kept.len() <= places {
                    out[..own.kept.len()].copy_from_slice(&own.kept);
                    continue;
                }
                choice.begin(row, rows, near);
                choice.measure_again(chosen, near);
                for others in [back, &own.kept] {
                    choice.measure(others, near);
                }
                choice.choose(near, true, out);
            }
            self.count(piece.len() / places);
            Ok(())
        })?;
        Ok(FlatLevel { rows, stride: places, links })
    }

    fn count(&self, rows: usize) {
        self.done.fetch_add(rows as u64, Ordering::Relaxed);
    }
}

/// Which inputs the rows of one walk, and with which beam. Of two inputs, the rows of one at least walk the other.
fn walks_of(live: &[u64], input: usize) -> Vec<(u32, usize)> {
    let all: u64 = live.iter().sum();
    let walked = (0..live.len()).filter(|&other| other != input && live[other] * MUCH_LARGER >= live[input]);
    walked.map(|other| (other as u32, (BEAM * live[other] / all.max(1)).max(BEAM_MIN) as usize)).collect()
}

/// What one thread works with.
#[derive(Default)]
struct Work {
    own: Own,
    space: SpaceWork,
    rotated: Vec<f32>,
    query: InlineQuery,
    walk: InlineScratch,
    scratch: Scratch,
    met: Vec<u32>,
    choice: Choice,
}

impl Work {
    /// Candidates are the row's own links and what walks towards it expand; `false` for a row that walks nowhere.
    fn meet(&mut self, join: &Join<'_>, row: u32, places: usize, near: Near<'_>) -> Result<bool> {
        let (input, old) = join.origin[row as usize];
        let Input { segment, walks, .. } = &join.inputs[input as usize];
        if walks.is_empty() {
            return Ok(false);
        }
        let vector = segment.vector(old)?;
        self.own.read(join, row, places)?;
        self.choice.begin(row, join.origin.len() as u32, near);
        self.choice.measure(&self.own.kept, near);
        for &(other, beam) in walks {
            let Input { segment, new, .. } = &join.inputs[other as usize];
            self.walk(segment, vector, beam)?;
            for met in &mut self.met {
                *met = new[*met as usize];
            }
            self.met.retain(|&new| new != NO_LINK);
            self.choice.measure(&self.met, near);
        }
        Ok(true)
    }

    /// Leaves in `met` what a walk towards a vector expands, or finds where there are no inline rows.
    fn walk(&mut self, segment: &SealedSegment, vector: &[f32], beam: usize) -> Result<()> {
        self.met.clear();
        let Some(inline) = &segment.inline else {
            let options =
                SearchOptions { limit: beam, ef: beam, exact: false, at: Lsn::MAX, accept: &AcceptAll };
            let hits = segment.search(vector, &options, &mut self.scratch)?;
            self.met.extend(hits.iter().map(|hit| hit.ordinal));
            return Ok(());
        };
        let Some((entry, rows)) = segment.inline_checked(inline)? else { return Ok(()) };
        // By inner product, what a query asks for are long rows, which searches need links to; and what lies near a row is
        // something else.
        let twice = segment.meta().schema.metric() == Metric::InnerProduct;
        for beside in [false, true].into_iter().take(1 + usize::from(twice)) {
            match beside {
                true => {
                    inline.space.beside(vector, &mut self.space, &mut self.rotated);
                    self.query.prepare(kernels(), &self.rotated, rows.bits());
                }
                false => {
                    let numbers = self.query.numbers_mut(inline.space.dimension());
                    inline.space.query(kernels(), vector, &mut self.space, numbers);
                    self.query.finish(kernels(), rows.bits());
                }
            }
            let start = InlineStart::NeighboursOf(entry);
            let touch = |row| segment.touch_inline(inline, row);
            inline_walk(kernels(), &rows, &self.query, beam, start, touch, &mut self.walk)?;
            self.met.extend(self.walk.expanded().map(|met| met.id));
        }
        Ok(())
    }
}

/// What a row's links in its own input lead to, in new numbers.
#[derive(Default)]
struct Own {
    kept: Vec<u32>,
    /// Whether one of them led to a row that is left out.
    lost: bool,
    gone: Vec<u32>,
    behind: Vec<u32>,
}

impl Own {
    fn read(&mut self, join: &Join<'_>, row: u32, places: usize) -> Result<()> {
        let (input, old) = join.origin[row as usize];
        let Input { segment, new, .. } = &join.inputs[input as usize];
        self.kept.clear();
        self.gone.clear();
        segment.each_link(old, |link| match new[link as usize] {
            NO_LINK => self.gone.push(link),
            // A list may be taken over as it is, so it holds what a list may hold.
            kept if kept != row && !self.kept.contains(&kept) => self.kept.push(kept),
            _ => {}
        })?;
        self.lost = !self.gone.is_empty();
        // Two rings: behind a lost neighbour, and behind a lost neighbour of that where there is still room.
        for _ in 0..2 {
            self.behind.clear();
            for &gone in &self.gone {
                segment.each_link(gone, |link| match new[link as usize] {
                    NO_LINK => self.behind.push(link),
                    kept if kept != row => self.kept.push(kept),
                    _ => {}
                })?;
            }
            if self.kept.len() >= places {
                break;
            }
            std::mem::swap(&mut self.gone, &mut self.behind);
            self.gone.sort_unstable();
            self.gone.dedup();
        }
        Ok(())
    }
}

impl SealedSegment {
    /// The links of a row on the ground.
    fn each_link(&self, row: u32, mut f: impl FnMut(u32)) -> Result<()> {
        for &link in self.places_of(0, row)?.iter().take_while(|&&link| link != NO_LINK) {
            if link >= self.rows() {
                return Err(self.bad_link(0, link));
            }
            f(link);
        }
        Ok(())
    }
}
