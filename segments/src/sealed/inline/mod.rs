//! Inline rows of a sealed segment: written beside the plain graph, and walked when nothing has to be filtered.
//!
//! Each row repeats its links together with everything that a walk wants to know of them
//! ([`nearstone_kernels::InlineShape`]); the plain links, codes and vectors stay what filters, merges and exact
//! distances use. A segment has them when it is large enough to be walked and its vectors are long enough for one bit
//! per dimension to say something; one whose numbers half precision cannot hold goes without.
//!
//! 1. A walk begins at the *entry*: the middle of all vectors, linked to the first rows, which are those of the highest
//!    levels. Its codes stay in the cache, and the nearest of so many rows are a start in the right region.
//! 2. What the walk expanded is known to three digits; those that may be among the nearest are measured exactly.

mod choose;
mod halves;
pub(super) mod join;
mod refine;
mod share;
mod upper;
pub(super) mod write;

use super::format::{self, Section};
use super::reader::SealedSegment;
use crate::distance::ExactDistance;
use crate::quantize::space::{Space, padded};
use crate::segment::{Accept, Hit};
use crate::topk::Scratch;
use nearstone_base::{Error, Result, Schema};
use nearstone_kernels::{
    InlineBeam, InlineQuery, InlineRows, InlineScratch, InlineShape, InlineStart, NO_NEIGHBOUR, inline_walk,
    kernels, prefetch_read,
};

/// All candidates are looked at with every expansion: wider beams are left to the heaps of the walk over codes.
const BEAM_MAX: usize = 768;
/// A walk holds so many keys for each row that is wanted: the rows around a query lead to each other, and each is met from
/// several of them.
const KEYS: usize = 3;
/// Rows that the entry leads to: a few blocks of codes that stay in the cache.
const ENTRY_LINKS: u32 = 512;

/// What a walk over inline rows keeps between searches.
#[derive(Clone, Default, Debug)]
pub(crate) struct InlineWork {
    rotated: Vec<f32>,
    query: InlineQuery,
    walk: InlineScratch,
    /// Distance and row of what was expanded.
    near: Vec<(f32, u32)>,
}

/// Where the inline rows of an open segment are, and how queries are brought to them.
pub(super) struct Inline {
    rows: Rows,
    entry: Rows,
    space: Space,
}

struct Rows {
    section: Section,
    shape: InlineShape,
}

impl Inline {
    /// From what the footer says; `None` when there are no inline rows.
    pub(super) fn open(
        schema: &Schema,
        rows: u32,
        section: impl Fn(u32) -> Option<Section>,
        space: Option<(Section, &[u8])>,
    ) -> std::result::Result<Option<Inline>, (Section, String)> {
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
        let shaped = |section: Section, count: u32, links: usize| {
            let shape = InlineShape::new(padded(schema.metric(), schema.dimension()), links);
            let shape = shape.filter(|shape| {
                section.stride == shape.stride() as u64
                    && section.count == u64::from(count)
                    && count < 1 << 31
            });
            let found = || (section, format!("{} rows of {} bytes", section.count, section.stride));
            Ok(Rows { section, shape: shape.ok_or_else(found)? })
        };
        let rows = shaped(ground, rows, 2 * schema.links())?;
        let entry = shaped(entry, 1, ENTRY_LINKS as usize)?;
        let space = Space::from_bytes(schema.metric(), schema.dimension(), bytes)
            .ok_or((at, "numbers that no training gives".to_owned()))?;
        Ok(Some(Inline { rows, entry, space }))
    }
}

impl SealedSegment {
    /// The nearest visible rows by a walk over inline rows, measured exactly, best first; `None` when it found fewer
    /// than `limit`, or when there are no inline rows.
    pub(super) fn inline_search(
        &self,
        query: &[f32],
        exact: &ExactDistance<'_>,
        visible: &dyn Accept,
        (limit, ef): (usize, usize),
        scratch: &mut Scratch,
    ) -> Result<Option<Vec<Hit>>> {
        let Some(inline) = &self.inline else { return Ok(None) };
        let beam = ef.max(limit);
        if beam > BEAM_MAX {
            return Ok(None);
        }
        let kernels = kernels();
        let InlineWork { rotated, query: prepared, walk, near } = &mut scratch.inline;
        inline.space.query(kernels, query, rotated);
        prepared.prepare(kernels, rotated);
        let Some((entry, rows)) = self.inline_checked(inline)? else { return Ok(None) };
        let touch = |row: u32| self.touch_inline(inline, row);
        let start = InlineStart::NeighboursOf(entry);
        let beam = InlineBeam { ef: beam, keep: beam.max(limit.saturating_mul(KEYS)) };
        inline_walk(kernels, &rows, prepared, beam, start, touch, walk)?;

        near.clear();
        near.extend(
            walk.expanded()
                .filter(|row| row.distance.is_finite())
                .map(|row| (row.distance, row.id))
                .filter(|&(_, row)| visible.accept(row)),
        );
        if near.len() < limit {
            return Ok(None);
        }
        let (_, &mut (last, _), _) = near.select_nth_unstable_by(limit - 1, |a, b| a.0.total_cmp(&b.0));
        let last = prepared.upper_bound(last);
        near.retain(|&(distance, _)| distance.total_cmp(&last).is_le());
        for &(_, row) in near.iter() {
            // Hits are asked for key and version next.
            self.prefetch_names(row);
            prefetch_read(self.vector_unchecked(row));
        }
        let mut hits = Vec::with_capacity(near.len());
        for &(_, ordinal) in near.iter() {
            hits.push(Hit { distance: exact.distance(self.vector(ordinal)?), ordinal });
        }
        self.best(hits, limit).map(Some)
    }

    /// The entry, checked, and the rows, each of which is to be touched before it is read.
    fn inline_checked(&self, inline: &Inline) -> Result<Option<(InlineRows<'_>, InlineRows<'_>)>> {
        self.blocks.touch(inline.entry.section.offset, inline.entry.section.len)?;
        Ok(self.inline_rows(&inline.entry).zip(self.inline_rows(&inline.rows)))
    }

    /// Makes sure that there is such a row, and that its blocks were checked.
    #[inline]
    fn touch_inline(&self, inline: &Inline, row: u32) -> Result<()> {
        let section = &inline.rows.section;
        if u64::from(row) >= section.count {
            return Err(self.bad_inline(section, row));
        }
        self.blocks.touch(section.offset + u64::from(row) * section.stride, section.stride)
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
