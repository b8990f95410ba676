//! Inline rows of a sealed segment: written beside the plain graph, and walked when nothing has to be filtered.
//!
//! Each row repeats its links together with everything that a walk wants to know of them
//! ([`nearstone_kernels::InlineShape`]); the plain links, codes and vectors stay what filters, merges and exact
//! distances use. A segment has them when it is large enough to be walked and its vectors are long enough for one bit
//! per dimension to say something; one whose numbers half precision cannot hold goes without.

use super::format::{self, Section};
use super::reader::SealedSegment;
use super::search::CodeScorer;
use super::writer::{Stream, vector};
use crate::distance::ExactDistance;
use crate::graph::{FlatGraph, FlatLevel, Links, descend};
use crate::quantize::space::{Space, padded};
use crate::segment::{Accept, Hit, RowSource};
use crate::topk::Scratch;
use half::f16;
use nearstone_base::{Error, Result, Schema};
use nearstone_kernels::{
    EncodeWork, InlineQuery, InlineRows, InlineScratch, InlineShape, inline_walk, kernels, prefetch_read,
};

/// Fewer rows are scanned nearly as fast.
pub(super) const ROWS_MIN: u32 = 1024;
/// Below this, one bit per dimension says too little.
pub(super) const DIMENSION_MIN: usize = 48;
/// Writing holds all vectors in half precision, up to so many bytes; a larger segment goes without inline rows.
const WRITE_BYTES_MAX: u64 = 2 << 30;
/// Rows whose links are measured to see whether half precision holds their distances.
const CHECKED_ROWS: u32 = 256;
/// A distance is held when it is right within this share of it.
const HELD: f64 = 0.1;
/// Estimates put a row of the true beam behind others: the beam of a walk over them is wider by half, which gives the
/// recall that exact distances would.
const WIDER: (usize, usize) = (3, 2);
/// An insertion touches the whole beam behind its place: wider ones are left to the heaps of the walk over codes.
const BEAM_MAX: usize = 768;
/// Rows measured exactly beyond those that are wanted: half as many, and some (a quarter of the beam at least).
const RERANK_MORE: usize = 4;

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
    section: Section,
    shape: InlineShape,
    space: Space,
}

/// The shape of a segment's inline rows, if such a segment has them.
fn shape_of(schema: &Schema, rows: u32) -> Option<InlineShape> {
    if !(ROWS_MIN..1 << 31).contains(&rows) || schema.dimension() < DIMENSION_MIN {
        return None;
    }
    let shape = InlineShape::new(padded(schema.metric(), schema.dimension()), 2 * schema.links())?;
    (u64::from(rows) * shape.dimension() as u64 * 2 <= WRITE_BYTES_MAX).then_some(shape)
}

/// Writes the two sections, or neither.
pub(super) fn write(
    out: &mut Stream<'_>,
    schema: &Schema,
    rows: &dyn RowSource,
    graph: &FlatGraph,
) -> Result<()> {
    let (Some(shape), Some(ground)) = (shape_of(schema, rows.rows()), graph.levels.first()) else {
        return Ok(());
    };
    let Some((space, rotated)) = rotate_all(out, schema, rows)? else { return Ok(()) };
    let one = |row: u32| &rotated[row as usize * shape.dimension()..][..shape.dimension()];
    if !are_held(schema, rows, ground, &space, one)? {
        return Ok(());
    }
    out.section(format::INLINE_SPACE, 1, |out| out.bytes(&space.to_bytes()))?;
    let mut bytes = vec![0; shape.stride()];
    let mut work = EncodeWork::default();
    let kernels = kernels();
    out.section(format::INLINE_ROWS, shape.stride() as u64, |out| {
        (0..rows.rows()).try_for_each(|row| {
            shape.encode(kernels, one(row), ground.list(row), one, &mut bytes, &mut work);
            out.bytes(&bytes)
        })
    })
}

/// Every row as it will be stored; `None` when their numbers are too large for that.
fn rotate_all(out: &Stream<'_>, schema: &Schema, rows: &dyn RowSource) -> Result<Option<(Space, Vec<f16>)>> {
    let mut longest = 0f64;
    let mut all = Vec::with_capacity(rows.rows() as usize);
    for row in 0..rows.rows() {
        out.step_at(row)?;
        let vector = vector(schema, rows, row)?;
        longest = longest.max(vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum());
        all.push(vector);
    }
    let (metric, dimension) = (schema.metric(), schema.dimension());
    let Some(space) = Space::train(metric, dimension, all.iter().copied(), longest.sqrt() as f32) else {
        return Ok(None);
    };
    let padded = space.padded();
    let mut rotated = Vec::new();
    if rotated.try_reserve_exact(all.len() * padded).is_err() {
        return Ok(None);
    }
    rotated.resize(all.len() * padded, f16::ZERO);
    let mut work = Vec::new();
    for ((row, vector), place) in (0..).zip(all).zip(rotated.chunks_exact_mut(padded)) {
        out.step_at(row)?;
        space.row(vector, &mut work, place);
    }
    Ok(Some((space, rotated)))
}

/// Whether 99 in 100 of the distances along links are what they should be: they are not where rows lie closer
/// together than three digits of their distance to the centre can tell.
fn are_held<'a>(
    schema: &Schema,
    rows: &dyn RowSource,
    ground: &FlatLevel,
    space: &Space,
    one: impl Fn(u32) -> &'a [f16],
) -> Result<bool> {
    let (mut held, mut measured) = (0, 0);
    for row in (0..rows.rows()).step_by(rows.rows().div_ceil(CHECKED_ROWS).max(1) as usize) {
        for &link in ground.list(row) {
            let right = space.distance(vector(schema, rows, row)?, vector(schema, rows, link)?);
            if right > 0.0 {
                let squares = one(row).iter().zip(one(link)).map(|(a, b)| (a.to_f64() - b.to_f64()).powi(2));
                held += u32::from((squares.sum::<f64>() - right).abs() <= right * HELD);
                measured += 1;
            }
        }
    }
    Ok(held * 100 >= measured * 99)
}

impl Inline {
    /// From what the footer says; `None` when there are no inline rows.
    pub(super) fn open(
        schema: &Schema,
        rows: u32,
        section: Option<Section>,
        space: Option<(Section, &[u8])>,
    ) -> std::result::Result<Option<Inline>, (Section, String)> {
        let (section, (at, bytes)) = match (section, space) {
            (None, None) => return Ok(None),
            (Some(section), Some(space)) => (section, space),
            (Some(one), None) | (None, Some((one, _))) => {
                return Err((one, "inline rows without their space, or the reverse".to_owned()));
            }
        };
        let shape = InlineShape::new(padded(schema.metric(), schema.dimension()), 2 * schema.links());
        let shape = shape.filter(|shape| {
            section.stride == shape.stride() as u64 && section.count == u64::from(rows) && rows < 1 << 31
        });
        let shape = shape.ok_or((section, format!("{} rows of {} bytes", section.count, section.stride)))?;
        let space = Space::from_bytes(schema.metric(), schema.dimension(), bytes)
            .ok_or((at, "numbers that no training gives".to_owned()))?;
        Ok(Some(Inline { section, shape, space }))
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
        let beam = ef.max(limit).saturating_mul(WIDER.0) / WIDER.1;
        if beam > BEAM_MAX {
            return Ok(None);
        }
        let section = &inline.section;
        let bytes = self.blocks.unchecked(section.offset, section.len).unwrap_or(&[]);
        let Some(rows) = InlineRows::new(inline.shape, bytes) else { return Ok(None) };
        // The upper levels lead to the right region, as they do for a walk over codes.
        let Some((entry, top)) = self.entry() else { return Ok(None) };
        let start = descend(self, &CodeScorer::new(self, query), entry, top, 0, self.rows(), scratch)?;
        let kernels = kernels();
        let InlineWork { rotated, query: prepared, walk, near } = &mut scratch.inline;
        inline.space.query(kernels, query, rotated);
        prepared.prepare(kernels, rotated);
        let touch = |row: u32| {
            if row >= rows.count() {
                return Err(self.bad_inline(section, row));
            }
            self.blocks.touch(section.offset + u64::from(row) * section.stride, section.stride)
        };
        inline_walk(
            kernels,
            &rows,
            prepared,
            beam.min(rows.count() as usize),
            &[start.ordinal],
            touch,
            walk,
        )?;

        near.clear();
        near.extend(
            walk.expanded
                .iter()
                .filter(|row| row.distance.is_finite())
                .map(|row| (row.distance, row.id))
                .filter(|&(_, row)| visible.accept(row)),
        );
        if near.len() < limit {
            return Ok(None);
        }
        let keep = (limit + limit / 2 + RERANK_MORE).max(ef / 4);
        if near.len() > keep {
            near.select_nth_unstable_by(keep - 1, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            near.truncate(keep);
        }
        for &(_, row) in near.iter() {
            prefetch_read(self.vector_unchecked(row));
        }
        let mut hits = Vec::with_capacity(near.len());
        for &(_, ordinal) in near.iter() {
            hits.push(Hit { distance: exact.distance(self.vector(ordinal)?), ordinal });
        }
        self.best(hits, limit).map(Some)
    }

    #[cold]
    fn bad_inline(&self, section: &Section, row: u32) -> Error {
        self.bad(section, format!("a link below {}", self.rows()), row.to_string())
    }

    /// Whether the inline row of a row has the links that the ground level gives it.
    pub(super) fn check_inline(&self, ordinal: u32, links: &[u32]) -> Result<()> {
        let Some(inline) = &self.inline else { return Ok(()) };
        let bytes = self.row(&inline.section, ordinal.into())?;
        let one = InlineRows::new(inline.shape, bytes).filter(|rows| rows.count() == 1);
        if one.is_none_or(|one| !one.links(0).eq(links.iter().copied())) {
            return Err(self.bad(&inline.section, format!("the links {links:?} of row {ordinal}"), "others"));
        }
        Ok(())
    }
}
