//! Inline rows of a sealed segment: written beside the plain graph, and walked when nothing has to be filtered.
//!
//! Each row repeats its links together with everything that a walk wants to know of them
//! ([`nearstone_kernels::InlineShape`]); the plain links, codes and vectors stay what filters, merges and exact
//! distances use. Where rows differ along few directions, inline rows hold what they are along these
//! ([`crate::quantize::lead`]). A segment has them when it is large enough to be walked and its vectors are long enough for one bit
//! per dimension to say something; one whose numbers half precision cannot hold goes without. Where one bit says too little, its
//! codes have four ([`bits`]); the length of a row tells which.
//!
//! 1. A walk begins at the *entry*: the middle of all vectors, linked to the first rows, which are those of the highest
//!    levels. Its codes stay in the cache, and the nearest of so many rows are a start in the right region.
//! 2. It ends early where what is left is much farther than what was found ([`growth`] says how much), in this segment or
//!    in those that are walked with it ([`together`]).
//! 3. What the walk expanded is known to three digits (to two where only some directions are kept); those that may be among the
//!    nearest are measured exactly.

pub(super) mod batch;
mod bits;
mod choose;
mod codes;
mod growth;
mod halves;
pub(super) mod join;
pub(super) mod limits;
mod refine;
pub(super) mod together;
mod upper;
pub(super) mod write;

use self::growth::Growth;
use super::format::{self, Header, Section};
use super::reader::SealedSegment;
use crate::distance::ExactDistance;
use crate::quantize::space::{Space, SpaceWork};
use crate::segment::{Accept, Hit};
use crate::topk::Scratch;
use nearstone_base::{Error, Lsn, Result};
use nearstone_kernels::{
    BLOCK_LINKS, Enough, InlineBeam, InlineBits, InlineCommon, InlineQuery, InlineRows, InlineScale,
    InlineScratch, InlineShape, InlineStart, InlineWatch, NO_NEIGHBOUR, inline_walk, kernels, prefetch_whole,
};
use std::ops::RangeInclusive;

/// All candidates are looked at with every expansion: wider beams are left to the heaps of the walk over codes.
const BEAM_MAX: usize = 768;
/// A walk holds so many keys for each row of its beam: the rows around a query lead to each other, and each is met from
/// several of them. With one for each, those of a cluster took all places, and a beam wider than the cluster found nothing behind it.
const KEYS: usize = 3;
/// A walk ends after so many rows, and half its beam, that were no nearer than those before.
const PATIENCE: usize = 8;
/// Rows of a segment vary by chance; so many standard deviations count as chance.
const DEVIATIONS: f32 = 3.0;
/// Rows that the entry leads to: a few blocks of codes that stay in the cache, and more of them where there are more rows.
const ENTRY_LINKS: RangeInclusive<u32> = 128..=256;
/// Files may have entries with so many.
const ENTRY_LINKS_READ: usize = 512;
/// Beyond the fewest, the entry leads to one row in so many.
const ENTRY_SHARE: u32 = 64;

/// What walks over inline rows keep between searches.
#[derive(Clone, Default, Debug)]
pub(crate) struct InlineWork {
    /// Of each segment that is walked with others; the first of a walk alone.
    lanes: Vec<LaneWork>,
    common: InlineCommon,
    /// Distance and row of what was expanded.
    near: Vec<(f32, u32)>,
    order: Vec<f32>,
}

/// What one walk keeps.
#[derive(Clone, Default, Debug)]
struct LaneWork {
    space: SpaceWork,
    query: InlineQuery,
    walk: InlineScratch,
}

impl InlineWork {
    /// Room for so many walks.
    fn make_room(&mut self, lanes: usize) {
        if self.lanes.len() < lanes {
            self.lanes.resize_with(lanes, LaneWork::default);
        }
    }
}

/// Where the inline rows of an open segment are, and how queries are brought to them.
pub(super) struct Inline {
    rows: Rows,
    entry: Rows,
    space: Space,
    /// By which it is known that another segment has the same space.
    digest: u128,
    /// 0 in a segment that does not say.
    growth: Growth,
}

struct Rows {
    section: Section,
    shape: InlineShape,
}

/// What is wanted of a walk.
#[derive(Clone, Copy, Debug)]
pub(super) struct InlineWish {
    /// Hits.
    pub(super) limit: usize,
    /// Among so many rows there are so many hits: some rows are dead.
    pub(super) near: usize,
    /// The beam, at least as wide.
    pub(super) ef: usize,
    /// The share of all rows of the collection that lies in this segment.
    pub(super) part: f32,
}

impl InlineWish {
    /// So many of the nearest `ef` rows of all segments lie in this one, and hardly more, if rows are in segments by
    /// chance; at least 1.
    fn expected(self) -> usize {
        let (mean, others) = (self.ef as f32 * self.part, (1.0 - self.part).max(0.0));
        (mean + DEVIATIONS * (mean * others).sqrt()).ceil().max(1.0) as usize
    }
}

/// What a walk reads, where it begins and how far it looks.
struct Ground<'a> {
    inline: &'a Inline,
    rows: InlineRows<'a>,
    start: InlineStart<'a>,
    beam: InlineBeam,
}

/// How far a walk looks that wants so many rows.
fn beam(near: usize, ef: usize, enough: Enough) -> InlineBeam {
    let keep = ef.max(near).saturating_mul(KEYS);
    InlineBeam { ef, keep, enough, patience: PATIENCE + ef / 2, read: near }
}

impl Inline {
    /// From what the footer says; `None` when there are no inline rows.
    pub(super) fn open(
        header: &Header,
        section: impl Fn(u32) -> Option<Section>,
        space: Option<(Section, &[u8])>,
        growth: Option<(Section, &[u8])>,
    ) -> std::result::Result<Option<Inline>, (Section, String)> {
        let Header { schema, rows, .. } = header;
        let ((at, bytes), ground, entry) =
            match (space, section(format::INLINE_ROWS), section(format::INLINE_ENTRY)) {
                (Some(space), Some(ground), Some(entry)) => (space, ground, entry),
                (space, ground, entry) => {
                    let one = ground.or(entry).or(space.map(|(at, _)| at));
                    return one.map_or(Ok(None), |one| {
                        Err((one, "some of the sections of inline rows without the others".to_owned()))
                    });
                }
            };
        let space = Space::from_bytes(schema.metric(), schema.dimension(), bytes)
            .ok_or((at, "numbers that no training gives".to_owned()))?;
        if space.leads() != header.leading {
            return Err((at, "directions where the header knows of none, or none where it does".to_owned()));
        }
        let dimension = space.dimension();
        let shaped = |section: Section, count: u32, links: RangeInclusive<usize>, bits: &[InlineBits]| {
            let mut shapes = links.step_by(BLOCK_LINKS).flat_map(|links| {
                bits.iter().filter_map(move |&bits| InlineShape::new(dimension, links, bits))
            });
            let shape = shapes.find(|shape| {
                section.stride == shape.stride() as u64
                    && section.count == u64::from(count)
                    && count < 1 << 31
            });
            let found = || (section, format!("{} rows of {} bytes", section.count, section.stride));
            Ok(Rows { section, shape: shape.ok_or_else(found)? })
        };
        let links = 2 * schema.links();
        let rows = shaped(ground, *rows, links..=links, &InlineBits::ALL)?;
        let entry = shaped(entry, 1, BLOCK_LINKS..=ENTRY_LINKS_READ, &[rows.shape.bits()])?;
        let growth = match growth {
            None => Growth::default(),
            Some((at, bytes)) => {
                Growth::from_bytes(bytes).ok_or((at, "a growth that no data has".to_owned()))?
            }
        };
        let digest = space.digest();
        Ok(Some(Inline { rows, entry, space, digest, growth }))
    }
}

/// A walk through a segment: rows are checked before they are read, and those that may be hits are asked for.
struct Watch<'a> {
    segment: &'a SealedSegment,
    inline: &'a Inline,
    at: Lsn,
}

impl InlineWatch for Watch<'_> {
    type Error = Error;

    #[inline(always)]
    fn touch(&mut self, row: u32) -> Result<()> {
        self.segment.touch_inline(self.inline, row)
    }

    #[inline(always)]
    fn counts(&self, row: u32) -> bool {
        !self.segment.deaths().is_dead_at(row, self.at)
    }

    #[inline(always)]
    fn soon(&mut self, row: u32) {
        self.segment.prefetch_hit(row);
    }
}

impl Inline {
    /// Prepares a query; what rounding moved it by ([`Space::query`]). Then `look` may look at its numbers.
    fn prepare<T>(
        &self,
        query: &[f32],
        LaneWork { space: work, query: prepared, .. }: &mut LaneWork,
        look: impl FnOnce(&SpaceWork, &[f32]) -> T,
    ) -> (f32, T) {
        let kernels = kernels();
        let numbers = prepared.numbers_mut(self.space.dimension());
        let lost = self.space.query(kernels, query, work, numbers);
        let seen = look(work, numbers);
        prepared.finish(kernels, self.rows.shape.bits());
        (lost, seen)
    }

    /// As [`Inline::prepare`]; also how distances in this space compare with others, where they do.
    fn prepare_beside_others(&self, query: &[f32], work: &mut LaneWork) -> (f32, Option<InlineScale>) {
        let beyond = |work: &SpaceWork, numbers: &[f32]| self.space.beyond(kernels(), work, numbers);
        let (lost, beyond) = self.prepare(query, work, beyond);
        (lost, self.space.scale(kernels(), query, beyond))
    }
}

impl SealedSegment {
    /// The space of its inline rows, if there are any.
    pub(super) fn inline_space(&self) -> Option<&Space> {
        self.inline.as_ref().map(|inline| &inline.space)
    }

    /// The nearest visible rows by a walk over inline rows, measured exactly, best first; `None` when it found fewer
    /// than `limit`, or when there are no inline rows.
    pub(super) fn inline_search(
        &self,
        query: &[f32],
        exact: &ExactDistance<'_>,
        (visible, at): (&dyn Accept, Lsn),
        wish: InlineWish,
        scratch: &mut Scratch,
    ) -> Result<Option<Vec<Hit>>> {
        let Some(mut ground) = self.inline_ground(wish)? else { return Ok(None) };
        let kernels = kernels();
        scratch.inline.make_room(1);
        let InlineWork { lanes, near, order, .. } = &mut scratch.inline;
        let (lost, ()) = ground.inline.prepare(query, &mut lanes[0], |_, _| ());
        let LaneWork { query: prepared, walk, .. } = &mut lanes[0];
        let inline = ground.inline;
        loop {
            let watch = Watch { segment: self, inline, at };
            inline_walk(kernels, &ground.rows, prepared, ground.beam, ground.start, watch, walk)?;
            if self.nearest_expanded((inline, prepared, lost), walk, visible, wish.limit, (near, order)) {
                return self.measure(exact, near, wish.limit).map(Some);
            }
            // Enough of them were dead: once more, to the end.
            if ground.beam.patience == usize::MAX {
                return Ok(None);
            }
            (ground.beam.enough, ground.beam.patience) = (Enough::NEVER, usize::MAX);
        }
    }

    /// What a walk reads; `None` when there are no inline rows, or none for beams so wide.
    fn inline_ground(&self, wish: InlineWish) -> Result<Option<Ground<'_>>> {
        let Some(inline) = &self.inline else { return Ok(None) };
        let InlineWish { near, ef, .. } = wish;
        if ef > BEAM_MAX {
            return Ok(None);
        }
        let Some((entry, rows)) = self.inline_checked(inline)? else { return Ok(None) };
        let enough = match inline.growth.share(near, ef) {
            share if share > 0.0 => Enough { rows: near, share },
            _ => Enough::NEVER,
        };
        let (start, beam) = (InlineStart::NeighboursOf(entry), beam(near, ef, enough));
        Ok(Some(Ground { inline, rows, start, beam }))
    }

    /// Leaves in `near` the visible rows that may be, by bound (one that 2 in 100 miss where only some directions are kept), among the
    /// `limit` nearest, and asks for what is read of them next; `false` when too little is known.
    ///
    /// A walk counts rows that are dead. Those around a query may all be, and then it ended where nothing was found: so where
    /// rows are dead, half of those that are wanted must be nearer than what is left.
    /// (All of them seldom are when the beam is hardly wider than what is wanted, dead rows or not.)
    fn nearest_expanded(
        &self,
        (inline, query, lost): (&Inline, &InlineQuery, f32),
        walk: &InlineScratch,
        visible: &dyn Accept,
        limit: usize,
        (near, order): (&mut Vec<(f32, u32)>, &mut Vec<f32>),
    ) -> bool {
        near.clear();
        if self.deaths().count() == 0 {
            // The usual case: every row counts, and nothing else does.
            let last = inline.space.within_spread(query.upper_bound(walk.nth(limit)), lost);
            if !last.is_finite() {
                return false;
            }
            near.extend(walk.expanded().filter(|row| row.distance <= last).map(|row| (row.distance, row.id)));
            near.iter().for_each(|&(_, row)| self.prefetch_hit(row));
            // Nothing can be said of a query, or of rows, whose distances single precision does not hold.
            return walk.expanded().all(|row| row.distance.is_finite());
        }
        near.extend(walk.expanded().map(|row| (row.distance, row.id)));
        // As above.
        if near.is_empty() || near.iter().any(|(distance, _)| !distance.is_finite()) {
            return false;
        }
        near.retain(|&(_, row)| visible.accept(row));
        order.clear();
        order.extend(near.iter().map(|&(distance, _)| distance));
        let settled = match walk.left() {
            // Everything that can be reached was expanded.
            None => near.len() >= limit,
            Some(left) => {
                let nearer = order.iter().filter(|&&distance| distance <= left).count();
                near.len() >= limit && nearer >= limit.div_ceil(2)
            }
        };
        if !settled {
            return false;
        }
        let (_, &mut last, _) = order.select_nth_unstable_by(limit - 1, f32::total_cmp);
        let last = inline.space.within_spread(query.upper_bound(last), lost);
        near.retain(|&(distance, _)| distance.total_cmp(&last).is_le());
        near.iter().for_each(|&(_, row)| self.prefetch_hit(row));
        last.is_finite()
    }

    /// Asks for what is read of a row that may be a hit: its vector, its key and its version.
    #[inline(always)]
    pub(super) fn prefetch_hit(&self, row: u32) {
        prefetch_whole(self.vector_unchecked(row));
        self.prefetch_names(row);
    }

    /// Exact distances of the rows, the best `limit` of them.
    fn measure(&self, exact: &ExactDistance<'_>, near: &[(f32, u32)], limit: usize) -> Result<Vec<Hit>> {
        let mut hits = Vec::with_capacity(near.len());
        for &(_, ordinal) in near {
            hits.push(Hit { distance: exact.distance(self.vector(ordinal)?), ordinal });
        }
        self.best(hits, limit)
    }

    /// The entry, checked, and the rows, each of which is to be touched before it is read.
    fn inline_checked(&self, inline: &Inline) -> Result<Option<(InlineRows<'_>, InlineRows<'_>)>> {
        self.blocks.touch(inline.entry.section.offset, inline.entry.section.len)?;
        Ok(self.inline_rows(&inline.entry).zip(self.inline_rows(&inline.rows)))
    }

    /// Makes sure that there is such a row, and that its blocks were checked.
    #[inline(always)]
    fn touch_inline(&self, inline: &Inline, row: u32) -> Result<()> {
        let section = &inline.rows.section;
        if u64::from(row) >= section.count {
            return Err(self.bad_inline(section, row));
        }
        self.blocks.touch_again(section.offset + u64::from(row) * section.stride, section.stride)
    }

    /// The bytes of a section as rows; unchecked, so that each is touched before it is read.
    fn inline_rows(&self, rows: &Rows) -> Option<InlineRows<'_>> {
        let Section { offset, len, .. } = rows.section;
        InlineRows::new(rows.shape, self.blocks.unchecked(offset, len)?)
    }

    #[cold]
    fn bad_inline(&self, section: &Section, row: u32) -> Error {
        self.bad(section, format!("a link below {}", self.rows()), row.to_string())
    }

    /// Whether the inline row of a row has the links that the ground level gives it.
    pub(super) fn check_inline(&self, ordinal: u32, links: &[u32]) -> Result<()> {
        let Some(Inline { rows: Rows { section, shape }, .. }) = &self.inline else { return Ok(()) };
        let bytes = self.row(section, ordinal.into())?;
        let one = InlineRows::new(*shape, bytes).filter(|rows| rows.count() == 1);
        let wanted = links.iter().copied().chain(std::iter::repeat(NO_NEIGHBOUR));
        if one.is_none_or(|one| !one.places(0).eq(wanted.take(shape.places()))) {
            return Err(self.bad(section, format!("the links {links:?} of row {ordinal}"), "others"));
        }
        Ok(())
    }

    /// Whether the entry leads to rows that there are.
    pub(super) fn check_inline_entry(&self) -> Result<()> {
        let Some(Inline { entry, .. }) = &self.inline else { return Ok(()) };
        self.blocks.touch(entry.section.offset, entry.section.len)?;
        let ids = self.inline_rows(entry).into_iter().flat_map(|rows| rows.places(0));
        match ids.filter(|&id| id != NO_NEIGHBOUR).find(|&id| id >= self.rows()) {
            Some(id) => Err(self.bad_inline(&entry.section, id)),
            None => Ok(()),
        }
    }
}
