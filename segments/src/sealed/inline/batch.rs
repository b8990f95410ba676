//! A graph over rows that are all there, built a batch at a time by walks over the inline rows of what is built so far.
//!
//! Inserted one by one, each row waits for memory at each of its neighbours' neighbours, and makes thirty others choose again. Where
//! nobody searches before all rows are linked, they come in batches instead:
//!
//! 1. Rows are ordered by level, so that the first ones are an even sample of all. Of [`FIRST`] rows, each one chooses among
//!    all others.
//! 2. What is linked so far becomes inline rows. As many rows as there are walk over these, without a lock and as if each
//!    were a query, and choose neighbours ([`super::choose`]) among what they expanded.
//! 3. Those that chose the same row meet there: each new row chooses again, among what it has and what also chose one of its nearest
//!    neighbours. Each row that was there chooses among its links and the rows that chose it.
//! 4. Again from 2, twice as many rows each time, until none is left.
//!
//! Rows of one batch have not found all of each other, so this is a graph to be refined ([`super::refine`]): walks to every
//! row find the others. Which threads do what makes no difference to it, before rows that nothing leads to are attached.
//!
//! Not by inner product: what searches look for there are long rows, and a row that is walked to as itself meets those
//! that lie near it.

use super::choose::{BACK_MAX, Back, Choice};
use super::codes::{Codes, Near};
use super::halves::Halves;
use super::limits::refined_shape;
use super::upper::by_level;
use super::write::{encode, encode_entry};
use crate::graph::{FlatLevel, NO_LINK};
use crate::share::share;
use nearstone_base::sync::{AtomicU64, Ordering};
use nearstone_base::{Error, Metric, Result, Schema};
use nearstone_kernels::{
    InlineQuery, InlineRows, InlineScratch, InlineShape, InlineStart, inline_walk, kernels,
};

/// Rows that are linked by looking at all of them.
const FIRST: u32 = 1024;
/// The share of the schema's beam with which rows walk to their places: the refinement looks for what that misses.
const BEAM_SHARE: usize = 8;
const BEAM_MIN: usize = 16;
const BEAM_MAX: usize = 96;
/// Of its neighbours, a row asks so many who else chose them. With six of them recall was the same within 0.001.
const HOSTS: usize = 4;
/// And so many of those that did so are looked at.
const GUESTS_MAX: usize = 64;
/// Rows that a thread takes at a time.
const PIECE: usize = 64;

/// Rows of a segment that is built in batches, in the order in which it will hold them.
#[derive(Debug)]
pub struct Batches {
    /// By descending level.
    order: Vec<u32>,
    /// Rows on level 1, on level 2 and so on.
    upper: Vec<u32>,
    beam: usize,
    /// Rows that have chosen, and rows that have chosen again.
    done: AtomicU64,
}

impl Batches {
    /// `seed` is that of the levels. `None` for rows that are to be linked one by one: by inner product, and where a segment's graph
    /// is not refined, which is so when there are few rows, few dimensions, or so many rows that it would take too much memory.
    pub fn plan(schema: &Schema, rows: u32, seed: u64) -> Option<Batches> {
        if schema.metric() == Metric::InnerProduct {
            return None;
        }
        refined_shape(schema, rows)?;
        let (order, upper) = by_level(rows, seed, schema.links());
        let beam = (schema.beam() / BEAM_SHARE).clamp(BEAM_MIN, BEAM_MAX);
        Some(Batches { order, upper, beam, done: AtomicU64::new(0) })
    }

    /// For each row of the new segment, the row that it was.
    pub fn order(&self) -> &[u32] {
        &self.order
    }

    /// How far it is: the rows that are linked, of the two times that each one chooses either counting half. Begins anew
    /// where the work does, because a space did not do after all.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed) / 2
    }

    /// How many rows are on level 1, on level 2 and so on.
    pub(super) fn members(&self) -> &[u32] {
        &self.upper
    }

    /// The ground, with so many places per row, all of whose rows are in `halves`; `bytes` is room for their inline rows. `None` when
    /// `held` says of what is linked so far that its distances are not held.
    pub(super) fn ground(
        &self,
        places: usize,
        (shape, bytes): (InlineShape, &mut [u8]),
        (halves, codes): (Halves<'_>, Option<&Codes>),
        held: &dyn Fn(&FlatLevel) -> Result<bool>,
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Option<FlatLevel>> {
        // Perhaps not for the first time.
        self.done.store(0, Ordering::Relaxed);
        let rows = self.order.len() as u32;
        let mut ground = self.first(rows.min(FIRST), places, Near::halves(halves), threads, cancel)?;
        while held(&ground)? {
            if ground.rows == rows {
                return Ok(Some(ground));
            }
            let near = Near::along(&ground, halves, codes);
            let bytes = &mut bytes[..ground.rows as usize * shape.stride()];
            encode(shape, &ground, halves, bytes, threads, cancel)?;
            let entry = encode_entry(ground.rows, shape.bits(), halves);
            let Some((built, (shape, entry))) = InlineRows::new(shape, bytes).zip(entry) else {
                return Ok(None);
            };
            let Some(entry) = InlineRows::new(shape, &entry) else { return Ok(None) };
            // What would be left for a small batch of its own comes along: beside its walks, that would cost as much as a large one.
            let doubled = ground.rows.saturating_mul(2);
            let end = if rows.saturating_sub(doubled) < doubled / 4 { rows } else { doubled };
            self.place(&mut ground, end, (built, entry), near, threads, cancel)?;
            self.meet(&mut ground, built.count(), near, threads, cancel)?;
        }
        Ok(None)
    }

    /// The first rows: each one looks at all others.
    fn first(
        &self,
        rows: u32,
        places: usize,
        near: Near<'_>,
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<FlatLevel> {
        let all: Vec<u32> = (0..rows).collect();
        let mut links = vec![NO_LINK; rows as usize * places];
        share(&mut links, PIECE * places, threads, cancel, |place, piece, choice: &mut Choice| {
            for (row, out) in ((place / places) as u32..).zip(piece.chunks_exact_mut(places)) {
                choice.begin(row, rows, near);
                choice.measure(&all, near);
                choice.keep_nearest(places);
                choice.choose(near, true, out);
            }
            self.count(2 * piece.len() / places);
            Ok(())
        })?;
        Ok(FlatLevel { rows, stride: places, links })
    }

    /// Lets the rows up to `end` choose among those that are there.
    fn place(
        &self,
        ground: &mut FlatLevel,
        end: u32,
        (built, entry): (InlineRows<'_>, InlineRows<'_>),
        near: Near<'_>,
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<()> {
        let (places, first) = (ground.stride, ground.rows);
        ground.links.resize(end as usize * places, NO_LINK);
        let new = &mut ground.links[first as usize * places..];
        share(new, PIECE * places, threads, cancel, |place, piece, work: &mut Work| {
            let Work { query, walk, choice } = work;
            for (row, out) in (first + (place / places) as u32..).zip(piece.chunks_exact_mut(places)) {
                choice.begin(row, end, near);
                query.prepare(kernels(), &choice.base, built.bits());
                let there = |_| Ok::<(), Error>(());
                let start = InlineStart::NeighboursOf(entry);
                inline_walk(kernels(), &built, query, self.beam, start, there, walk)?;
                for other in walk.expanded() {
                    choice.add(other.id, other.distance);
                }
                choice.keep_nearest(places);
                choice.choose(near, false, out);
            }
            self.count(piece.len() / places);
            Ok(())
        })?;
        ground.rows = end;
        Ok(())
    }

    /// Lets all rows choose again, those from `first` on among each other as well.
    fn meet(
        &self,
        ground: &mut FlatLevel,
        first: u32,
        near: Near<'_>,
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<()> {
        let (places, rows) = (ground.stride, ground.rows);
        let back = Back::of(ground, |row, _| row >= first);
        let mut links = vec![NO_LINK; ground.links.len()];
        share(&mut links, PIECE * places, threads, cancel, |place, piece, choice: &mut Choice| {
            let begin = (place / places) as u32;
            for (row, out) in (begin..).zip(piece.chunks_exact_mut(places)) {
                let own = ground.list(row);
                if row < first {
                    let back = back.to(row, BACK_MAX);
                    if back.is_empty() {
                        out.copy_from_slice(&ground.links[row as usize * places..][..places]);
                        continue;
                    }
                    choice.begin(row, rows, near);
                    // Not as chosen together: places that were left over went to others.
                    choice.measure(own, near);
                    choice.measure(back, near);
                } else {
                    choice.begin(row, rows, near);
                    choice.measure_again(own, near);
                    for &host in own.iter().take(HOSTS) {
                        choice.measure(back.to_one_of(host, row, GUESTS_MAX), near);
                    }
                }
                choice.keep_nearest(places);
                choice.choose(near, true, out);
            }
            let new = (begin as usize + piece.len() / places).saturating_sub(begin.max(first) as usize);
            self.count(new);
            Ok(())
        })?;
        ground.links = links;
        Ok(())
    }

    fn count(&self, rows: usize) {
        self.done.fetch_add(rows as u64, Ordering::Relaxed);
    }
}

/// What one thread works with.
#[derive(Default)]
struct Work {
    query: InlineQuery,
    walk: InlineScratch,
    choice: Choice,
}
