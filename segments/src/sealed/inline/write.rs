//! Making inline rows: into one space, along a better graph, with a row to begin at.
//!
//! 1. All vectors are brought to the space of inline rows and held in half precision.
//! 2. Rows are encoded along the graph as it was built, which is then refined by walks over these very rows
//!    ([`super::refine`]), and encoded again, with one bit a dimension or four, whichever suits them ([`super::bits`]).
//! 3. One more row is made, the entry: the middle of everything, linked to the first rows; and it is learnt how distances
//!    grow from neighbour to neighbour ([`super::growth`]).
//!
//! A segment that joins others begins with the links that these have ([`super::join`]), and is encoded once. One whose rows are not linked
//! yet gets a graph that is built in batches ([`super::batch`]), and is then refined as any other.
//!
//! Memory: two bytes per number; all inline rows (six bytes per number and 256 per row, with 32 links; eighteen per number where codes
//! have four bits); three sets of links while the graph is built or refined; and one byte per number and up to 128 per row for codes, which are left out where they would not fit. (Joining holds no more: what it has of its own, the upper rows and a number for
//! each old row, is freed or small before the inline rows are made.) A segment that would take more than [`BYTES_MAX`] goes without.
//!
//! A segment of the lean profile has no inline rows. Its graph is refined all the same, on some that are not written, as
//! long as that takes no more than [`LEAN_BYTES_MAX`].

use super::batch::Batches;
use super::bits::bits_for;
use super::codes::{Codes, Near};
use super::growth::Growth;
use super::halves::{Halves, HalvesMemory};
use super::join::Join;
use super::refine::refine;
use super::upper::upper;
use super::{ENTRY_LINKS, ENTRY_SHARE};
use crate::graph::{FlatGraph, FlatLevel, attach_all};
use crate::quantize::space::{Space, padded};
use crate::sealed::format;
use crate::sealed::share::share;
use crate::sealed::stream::{Stream, step};
use crate::sealed::writer::vector;
use crate::segment::RowSource;
use crate::topk::Scratch;
use half::f16;
use nearstone_base::vfs::Pages;
use nearstone_base::{Metric, Profile, Result, Schema};
use nearstone_kernels::{EncodeWork, InlineBits, InlineRows, InlineShape, kernels};

/// Fewer rows are scanned nearly as fast.
const ROWS_MIN: u32 = 1024;
/// Below this, one bit per dimension says too little.
const DIMENSION_MIN: usize = 48;
/// Making inline rows holds so many bytes at most.
const BYTES_MAX: u64 = 8 << 30;
/// Who wants little memory does not want it for a better graph either.
const LEAN_BYTES_MAX: u64 = 1 << 30;
/// Rows whose links are measured to see whether half precision holds their distances.
const CHECKED_ROWS: u32 = 256;
/// A distance is held when it is right within this share of it.
const HELD: f64 = 0.1;
/// The beam, per link of the schema, with which a graph would have to be linked to be as good to begin a refinement with as one that is
/// built in batches.
const BATCHED_BEAM: usize = 4;
/// Rows that a thread takes at a time.
const PIECE: usize = 512;

/// Inline rows, ready to be written, and the graph along which they are.
pub(in crate::sealed) struct Prepared {
    space: Space,
    shape: InlineShape,
    ground: Pages,
    entry: (InlineShape, Vec<u8>),
    growth: Growth,
    /// The graph that was given, with a refined ground, or the joined one.
    pub(in crate::sealed) graph: FlatGraph,
}

impl Prepared {
    /// `None` for a segment that goes without.
    pub(in crate::sealed) fn new(
        schema: &Schema,
        rows: &dyn RowSource,
        graph: &FlatGraph,
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Option<Prepared>> {
        let Some(shape) = shape_of(schema, rows.rows()) else { return Ok(None) };
        let longer = fitting(schema, InlineBits::Four, rows.rows());
        match Better::than(graph, (shape, longer), schema, rows, threads, cancel)? {
            Some(better) => better.prepared(threads, cancel),
            None => Ok(None),
        }
    }

    /// The rows along a graph that is built in batches; `None` for a segment that goes without.
    pub(in crate::sealed) fn batched(
        schema: &Schema,
        rows: &dyn RowSource,
        batches: &Batches,
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Option<Prepared>> {
        let Some(shape) = shape_of(schema, rows.rows()) else { return Ok(None) };
        let longer = fitting(schema, InlineBits::Four, rows.rows());
        match Better::batched(batches, (shape, longer), schema, rows, threads, cancel)? {
            Some(better) => better.prepared(threads, cancel),
            None => Ok(None),
        }
    }

    /// The rows, encoded along the ground of a finished graph, and what walks begin with.
    fn along(
        graph: FlatGraph,
        space: Space,
        (shape, mut bytes): (InlineShape, Pages),
        halves: Halves<'_>,
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Option<Prepared>> {
        let Some(ground) = graph.levels.first() else { return Ok(None) };
        encode(shape, ground, halves, &mut bytes, threads, cancel)?;
        let Some(rows) = InlineRows::new(shape, &bytes) else { return Ok(None) };
        let growth = Growth::learn(&rows, |row, out| halves.widened(row, out))?;
        let Some(entry) = encode_entry(ground.rows, shape.bits(), halves) else { return Ok(None) };
        Ok(Some(Prepared { space, shape, ground: bytes, entry, growth, graph }))
    }

    /// The rows of a join along the graph that it finds; `None` for a segment that goes without.
    pub(in crate::sealed) fn joined(
        schema: &Schema,
        rows: &dyn RowSource,
        join: &Join<'_>,
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Option<Prepared>> {
        let Some(shape) = shape_of(schema, rows.rows()) else { return Ok(None) };
        let Some((space, numbers)) = rotate_all(schema, rows, threads, cancel)? else { return Ok(None) };
        let halves = numbers.halves();
        let ground = join.ground(2 * schema.links(), Near::halves(halves), threads, cancel)?;
        if !are_held(schema, rows, &ground, &space, halves)? {
            return Ok(None);
        }
        let mut graph = FlatGraph { levels: vec![ground], beam: 0 };
        graph.levels.extend(upper(join.members(), schema, halves, threads, cancel)?);
        attach_all(&mut graph, &halves, &mut Scratch::default())?;
        let shape = fitting(schema, join.bits(), rows.rows()).unwrap_or(shape);
        let Some(bytes) = Pages::zeroed(rows.rows() as usize * shape.stride()) else { return Ok(None) };
        Prepared::along(graph, space, (shape, bytes), halves, threads, cancel)
    }

    /// Writes the sections.
    pub(in crate::sealed) fn write(&self, out: &mut Stream<'_>) -> Result<()> {
        out.section(format::INLINE_SPACE, 1, |out| out.bytes(&self.space.to_bytes()))?;
        out.section(format::INLINE_ROWS, self.shape.stride() as u64, |out| out.bytes(&self.ground))?;
        let (shape, bytes) = &self.entry;
        out.section(format::INLINE_ENTRY, shape.stride() as u64, |out| out.bytes(bytes))?;
        out.section(format::INLINE_GROWTH, 4, |out| out.bytes(&self.growth.to_bytes()))
    }
}

/// A better graph, and what it was found with.
struct Better {
    graph: FlatGraph,
    space: Space,
    /// Every row in that space.
    numbers: HalvesMemory,
    /// The shape that suits it, and room for such rows.
    rows: (InlineShape, Pages),
}

impl Better {
    /// `None` where half precision does not hold the distances, or there is no memory.
    fn than(
        graph: &FlatGraph,
        (shape, longer): (InlineShape, Option<InlineShape>),
        schema: &Schema,
        rows: &dyn RowSource,
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Option<Better>> {
        let Some(ground) = graph.levels.first() else { return Ok(None) };
        let Some((space, numbers)) = rotate_all(schema, rows, threads, cancel)? else { return Ok(None) };
        let halves = numbers.halves();
        if !are_held(schema, rows, ground, &space, halves)? {
            return Ok(None);
        }
        let Some(bytes) = Pages::zeroed(rows.rows() as usize * shape.stride()) else { return Ok(None) };
        let codes = codes_of(schema, shape, halves, threads, cancel)?;
        Better::refined(graph, (space, numbers, codes), (shape, bytes), longer, threads, cancel)
    }

    /// As [`Better::than`], of a graph that is built in batches.
    fn batched(
        batches: &Batches,
        (shape, longer): (InlineShape, Option<InlineShape>),
        schema: &Schema,
        rows: &dyn RowSource,
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Option<Better>> {
        let Some((space, numbers)) = rotate_all(schema, rows, threads, cancel)? else { return Ok(None) };
        let halves = numbers.halves();
        let codes = codes_of(schema, shape, halves, threads, cancel)?;
        let Some(mut bytes) = Pages::zeroed(rows.rows() as usize * shape.stride()) else { return Ok(None) };
        let places = 2 * schema.links();
        let measured = (halves, codes.as_ref());
        let ground = batches.ground(places, shape, measured, &mut bytes, threads, cancel)?;
        let Some(ground) = ground else { return Ok(None) };
        if !are_held(schema, rows, &ground, &space, halves)? {
            return Ok(None);
        }
        let mut graph = FlatGraph { levels: vec![ground], beam: BATCHED_BEAM * schema.links() };
        graph.levels.extend(upper(batches.members(), schema, halves, threads, cancel)?);
        Better::refined(&graph, (space, numbers, codes), (shape, bytes), longer, threads, cancel)
    }

    fn refined(
        graph: &FlatGraph,
        (space, numbers, codes): (Space, HalvesMemory, Option<Codes>),
        (shape, mut bytes): (InlineShape, Pages),
        longer: Option<InlineShape>,
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Option<Better>> {
        let Some(ground) = graph.levels.first() else { return Ok(None) };
        let halves = numbers.halves();
        encode(shape, ground, halves, &mut bytes, threads, cancel)?;
        let Some(built) = InlineRows::new(shape, &bytes) else { return Ok(None) };
        let near = Near::along(ground, halves, codes.as_ref());
        let refined = refine(graph, &built, near, threads, cancel)?;
        let mut rows = (shape, bytes);
        if let Some(longer) = longer
            && let Some(built) = InlineRows::new(shape, &rows.1)
            && bits_for(&built, ground, (shape, longer), halves)? == longer.bits()
            && let Some(room) = Pages::zeroed(ground.rows as usize * longer.stride())
        {
            rows = (longer, room);
        }
        Ok(Some(Better { graph: refined, space, numbers, rows }))
    }

    /// Inline rows along it.
    fn prepared(self, threads: usize, cancel: &dyn Fn() -> bool) -> Result<Option<Prepared>> {
        let Better { graph, space, numbers, rows } = self;
        Prepared::along(graph, space, rows, numbers.halves(), threads, cancel)
    }
}

/// The graph of a segment of the lean profile, refined by walks over inline rows that are thrown away; `None` for any other
/// segment, and where it cannot be or would take too much memory.
pub(in crate::sealed) fn refined_lean(
    schema: &Schema,
    rows: &dyn RowSource,
    graph: &FlatGraph,
    threads: usize,
    cancel: &dyn Fn() -> bool,
) -> Result<Option<FlatGraph>> {
    let Some(shape) = lean_shape(schema, rows.rows()) else { return Ok(None) };
    Ok(Better::than(graph, (shape, None), schema, rows, threads, cancel)?.map(|better| better.graph))
}

/// As [`refined_lean`], of a graph that is built in batches.
pub(in crate::sealed) fn batched_lean(
    schema: &Schema,
    rows: &dyn RowSource,
    batches: &Batches,
    threads: usize,
    cancel: &dyn Fn() -> bool,
) -> Result<Option<FlatGraph>> {
    let Some(shape) = lean_shape(schema, rows.rows()) else { return Ok(None) };
    Ok(Better::batched(batches, (shape, None), schema, rows, threads, cancel)?.map(|better| better.graph))
}

fn lean_shape(schema: &Schema, rows: u32) -> Option<InlineShape> {
    let lean = schema.chosen_profile() == Profile::Memory;
    lean.then(|| walked_shape(schema, rows, LEAN_BYTES_MAX)).flatten()
}

/// The shape of the inline rows with which a segment's graph is refined, whether they are written or not.
pub(super) fn refined_shape(schema: &Schema, rows: u32) -> Option<InlineShape> {
    shape_of(schema, rows).or_else(|| lean_shape(schema, rows))
}

/// Whether a segment with so many rows gets inline rows, and with them a refined graph, unless half precision does not hold
/// its distances: [`crate::SealedSegment::has_inline_rows`] says so afterwards. (Lean ones are refined where memory allows;
/// nobody counts on that.)
pub(crate) fn is_refined(schema: &Schema, rows: u32) -> bool {
    shape_of(schema, rows).is_some()
}

/// The shape of a segment's inline rows, if such a segment has them.
pub(super) fn shape_of(schema: &Schema, rows: u32) -> Option<InlineShape> {
    match schema.chosen_profile() {
        Profile::Memory => None,
        Profile::Auto | Profile::Speed => walked_shape(schema, rows, BYTES_MAX),
    }
}

/// The shape of inline rows with which a graph is refined, if making them holds at most so many bytes.
fn walked_shape(schema: &Schema, rows: u32, bytes_max: u64) -> Option<InlineShape> {
    if !(ROWS_MIN..1 << 31).contains(&rows) || schema.dimension() < DIMENSION_MIN {
        return None;
    }
    let shape = shape_with(schema, InlineBits::One)?;
    (u64::from(rows) * bytes_of(schema, shape) <= bytes_max).then_some(shape)
}

/// The shape with so many bits; `None` for dimensions that there are no inline rows of.
fn shape_with(schema: &Schema, bits: InlineBits) -> Option<InlineShape> {
    InlineShape::new(padded(schema.metric(), schema.dimension()), 2 * schema.links(), bits)
}

/// The shape with so many bits, if making such rows takes no more memory than may be.
fn fitting(schema: &Schema, bits: InlineBits, rows: u32) -> Option<InlineShape> {
    shape_with(schema, bits).filter(|&shape| u64::from(rows) * bytes_of(schema, shape) <= BYTES_MAX)
}

/// Bytes of a row while a graph is refined, without codes.
fn bytes_of(schema: &Schema, shape: InlineShape) -> u64 {
    let links = 3 * 4 * 2 * schema.links() as u64 + 32;
    shape.dimension() as u64 * 2 + shape.stride() as u64 + links
}

/// Codes of all rows, if there is room for these as well.
fn codes_of(
    schema: &Schema,
    shape: InlineShape,
    halves: Halves<'_>,
    threads: usize,
    cancel: &dyn Fn() -> bool,
) -> Result<Option<Codes>> {
    let bytes_max = if schema.chosen_profile() == Profile::Memory { LEAN_BYTES_MAX } else { BYTES_MAX };
    let rows = (halves.numbers.len() / halves.dimension) as u64;
    let bytes = bytes_of(schema, shape) + Codes::stride(shape.dimension()) as u64;
    if rows * bytes <= bytes_max { Codes::new(halves, threads, cancel) } else { Ok(None) }
}

/// The rows of one level.
pub(super) fn encode(
    shape: InlineShape,
    level: &FlatLevel,
    halves: Halves<'_>,
    out: &mut [u8],
    threads: usize,
    cancel: &dyn Fn() -> bool,
) -> Result<()> {
    share(out, PIECE * shape.stride(), threads, cancel, |place, piece, work: &mut EncodeWork| {
        let first = (place / shape.stride()) as u32;
        for (row, out) in (first..).zip(piece.chunks_exact_mut(shape.stride())) {
            shape.encode(kernels(), halves.one(row), level.list(row), |id| halves.one(id), out, work);
        }
        Ok(())
    })
}

/// The middle of everything, as a row that leads to the first ones.
pub(super) fn encode_entry(
    rows: u32,
    bits: InlineBits,
    halves: Halves<'_>,
) -> Option<(InlineShape, Vec<u8>)> {
    let places = (rows / ENTRY_SHARE).clamp(*ENTRY_LINKS.start(), *ENTRY_LINKS.end());
    let shape = InlineShape::new(halves.dimension, places as usize, bits)?;
    let middle = vec![f16::ZERO; halves.dimension];
    let links: Vec<u32> = (0..rows).take(shape.places()).collect();
    let mut bytes = vec![0; shape.stride()];
    shape.encode(kernels(), &middle, &links, |id| halves.one(id), &mut bytes, &mut EncodeWork::default());
    Some((shape, bytes))
}

/// Every row as it will be stored; `None` when their numbers are too large for that.
fn rotate_all(
    schema: &Schema,
    rows: &dyn RowSource,
    threads: usize,
    cancel: &dyn Fn() -> bool,
) -> Result<Option<(Space, HalvesMemory)>> {
    let mut longest = 0f64;
    let mut all = Vec::with_capacity(rows.rows() as usize);
    for row in 0..rows.rows() {
        if row.is_multiple_of(1 << 12) {
            step(cancel)?;
        }
        let vector = vector(schema, rows, row)?;
        if schema.metric() == Metric::InnerProduct {
            longest = longest.max(kernels().dot_precise(vector, vector));
        }
        all.push(vector);
    }
    let (metric, dimension) = (schema.metric(), schema.dimension());
    let Some(space) = Space::train(metric, dimension, all.iter().copied(), longest.sqrt() as f32) else {
        return Ok(None);
    };
    let padded = space.padded();
    let Some(mut rotated) = HalvesMemory::new(all.len(), padded) else { return Ok(None) };
    share(rotated.numbers_mut(), PIECE * padded, threads, cancel, |place, piece, work: &mut Vec<f32>| {
        for (vector, out) in all[place / padded..].iter().zip(piece.chunks_exact_mut(padded)) {
            space.row(vector, work, out);
        }
        Ok(())
    })?;
    Ok(Some((space, rotated)))
}

/// Whether 99 in 100 of the distances along links are what they should be: they are not where rows lie closer
/// together than three digits of their distance to the centre can tell.
fn are_held(
    schema: &Schema,
    rows: &dyn RowSource,
    ground: &FlatLevel,
    space: &Space,
    halves: Halves<'_>,
) -> Result<bool> {
    let (mut held, mut measured) = (0, 0);
    let (mut right, mut from, mut found) = (Vec::new(), Vec::new(), Vec::new());
    for row in (0..rows.rows()).step_by(rows.rows().div_ceil(CHECKED_ROWS).max(1) as usize) {
        let links = ground.list(row);
        let others = links.iter().map(|&link| vector(schema, rows, link));
        space.distances(vector(schema, rows, row)?, others, &mut right)?;
        halves.widened(row, &mut from);
        halves.measure(&from, links, &mut found);
        for (&right, &found) in right.iter().zip(&found).filter(|&(&right, _)| right > 0.0) {
            held += u32::from((f64::from(found) - right).abs() <= right * HELD);
            measured += 1;
        }
    }
    Ok(held * 100 >= measured * 99)
}
