//! Making inline rows: into one space, along a better graph, with a row to begin at.
//!
//! 1. All vectors are brought to the space of inline rows and held in half precision: to that of another segment of the collection, where
//!    they lie as its rows do, or to one of their own. Where a few directions seem to do, only these are
//!    kept; if they turn out not to, when there is a graph, everything is done again with all of them.
//! 2. Rows are encoded along the graph as it was built, which is then refined by walks over these very rows
//!    ([`super::refine`]), and encoded again, with one bit a dimension or four, whichever suits them ([`super::bits`]).
//! 3. One more row is made, the entry: the middle of everything, linked to the first rows; and it is learnt how distances
//!    grow from neighbour to neighbour ([`super::growth`]).
//!
//! A segment that joins others begins with the links that these have ([`super::join`]), which are not refined again. One
//! whose rows are not linked yet gets a graph that is built in batches ([`super::batch`]), and is then refined as any other.
//!
//! [`super::limits`] says which segments get inline rows, and what making them may hold.

use super::batch::Batches;
use super::bits::bits_for;
use super::codes::Near;
use super::growth::Growth;
use super::halves::{Halves, HalvesMemory};
use super::join::Join;
use super::limits::{codes_of, lean_shape, shape_of, with_four_bits};
use super::refine::refine;
use super::upper::upper;
use super::{ENTRY_LINKS, ENTRY_SHARE};
use crate::graph::{FlatGraph, FlatLevel, attach_all};
use crate::quantize::space::{Space, SpaceWork};
use crate::sealed::format;
use crate::sealed::stream::{Stream, step};
use crate::sealed::writer::vector;
use crate::segment::RowSource;
use crate::share::share;
use crate::topk::Scratch;
use half::f16;
use nearstone_base::vfs::Pages;
use nearstone_base::{Metric, Result, Schema};
use nearstone_kernels::{EncodeWork, InlineBits, InlineRows, InlineShape, kernels};
use std::cell::Cell;

/// Rows whose links are measured to see whether half precision holds their distances.
const CHECKED_ROWS: u32 = 256;
/// A distance is held when it is right within this share of it, and a space holds distances when so many in 100 are.
const HELD: f64 = 0.1;
const HELD_OF_100: usize = 99;
/// A few directions will do when so many distances in 100 are right within a share of this; how much it really is, is the space's spread.
const SPREAD_MAX: f64 = 0.05;
const SPREAD_OF_100: usize = 98;
/// Of all rows, so many at most may seem to lie elsewhere than they do: their distance to the row that seems nearest is wrong by a share
/// of this. So few are still found by a beam of usual width, or they are one row in so many.
const LOST: f64 = 0.2;
const LOST_MAX: usize = 64;
const LOST_SHARE: usize = 2_000;
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

/// What a graph is made of.
#[derive(Clone, Copy)]
pub(in crate::sealed) enum Given<'a> {
    /// One whose rows are linked.
    Graph(&'a FlatGraph),
    /// Rows that are to be linked in batches.
    Batches(&'a Batches),
}

impl Prepared {
    /// `None` for a segment that goes without.
    pub(in crate::sealed) fn new(
        schema: &Schema,
        rows: &dyn RowSource,
        given: Given<'_>,
        like: Option<&Space>,
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Option<Prepared>> {
        if shape_of(schema, rows.rows()).is_none() {
            return Ok(None);
        }
        let vectors = Vectors::read(schema, rows, like, cancel)?;
        let better = Better::than(given, true, &vectors, threads, cancel)?;
        let Some(Better { graph, space, numbers, rows: (shape, mut bytes) }) = better else {
            return Ok(None);
        };
        let halves = numbers.halves();
        let Some(ground) = graph.levels.first() else { return Ok(None) };
        encode(shape, ground, halves, &mut bytes, threads, cancel)?;
        Prepared::along(graph, space, (shape, bytes), halves)
    }

    /// The rows of a join along the graph that it finds; `None` for a segment that goes without.
    pub(in crate::sealed) fn joined(
        schema: &Schema,
        rows: &dyn RowSource,
        join: &Join<'_>,
        like: Option<&Space>,
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Option<Prepared>> {
        if shape_of(schema, rows.rows()).is_none() {
            return Ok(None);
        }
        let vectors = Vectors::read(schema, rows, like, cancel)?;
        vectors.in_a_space(|space| Prepared::joined_in(space, &vectors, join, threads, cancel))
    }

    fn joined_in(
        mut space: Space,
        vectors: &Vectors<'_>,
        join: &Join<'_>,
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Option<Prepared>> {
        let schema = vectors.schema;
        let Some(numbers) = vectors.in_halves(&space, threads, cancel)? else { return Ok(None) };
        let halves = numbers.halves();
        let ground = join.ground(2 * schema.links(), Near::halves(halves), threads, cancel)?;
        let Some(spread) = vectors.spread(&ground, &space, halves)? else { return Ok(None) };
        if !vectors.are_told_apart(&ground, &space, halves, threads, cancel)? {
            return Ok(None);
        }
        space.set_spread(spread);
        let mut graph = FlatGraph { levels: vec![ground], beam: 0 };
        graph.levels.extend(upper(join.members(), schema, halves, threads, cancel)?);
        attach_all(&mut graph, &halves, &mut Scratch::default(), cancel)?;
        let Some(mut made) = vectors.room(&space) else { return Ok(None) };
        let ground = &graph.levels[0];
        encode(made.0, ground, halves, &mut made.1, threads, cancel)?;
        let longer = with_four_bits(schema, made.0, vectors.count());
        if let Some(longer) = suited(&made, longer, ground, halves)? {
            made = longer;
            encode(made.0, ground, halves, &mut made.1, threads, cancel)?;
        }
        Prepared::along(graph, space, made, halves)
    }

    /// What walks begin with, for rows that are encoded along the ground of their graph.
    fn along(
        graph: FlatGraph,
        space: Space,
        (shape, ground): (InlineShape, Pages),
        halves: Halves<'_>,
    ) -> Result<Option<Prepared>> {
        let Some(rows) = InlineRows::new(shape, &ground) else { return Ok(None) };
        let growth = Growth::learn(&rows, |row, out| halves.widened(row, out))?;
        let Some(entry) = encode_entry(rows.count(), shape.bits(), halves) else { return Ok(None) };
        Ok(Some(Prepared { space, shape, ground, entry, growth, graph }))
    }

    /// Whether walks look at some directions alone.
    pub(in crate::sealed) fn leads(&self) -> bool {
        self.space.leads()
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
    /// `None` where the distances are not held, or there is no memory. `try_four`: whether rows with four bits are tried against those of
    /// one.
    fn than(
        given: Given<'_>,
        try_four: bool,
        vectors: &Vectors<'_>,
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Option<Better>> {
        vectors.in_a_space(|space| Better::in_space(space, vectors, (given, try_four), threads, cancel))
    }

    fn in_space(
        mut space: Space,
        vectors: &Vectors<'_>,
        (given, try_four): (Given<'_>, bool),
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Option<Better>> {
        let schema = vectors.schema;
        let Some(numbers) = vectors.in_halves(&space, threads, cancel)? else { return Ok(None) };
        let halves = numbers.halves();
        let spread = Cell::new(None);
        let held = |ground: &FlatLevel| {
            spread.set(vectors.spread(ground, &space, halves)?);
            let all = ground.rows == vectors.count();
            Ok(spread.get().is_some()
                && (!all || vectors.are_told_apart(ground, &space, halves, threads, cancel)?))
        };
        if let Given::Graph(graph) = given
            && !graph.levels.first().map_or(Ok(false), held)?
        {
            return Ok(None);
        }
        let Some((shape, mut bytes)) = vectors.room(&space) else { return Ok(None) };
        let codes = codes_of(schema, shape, halves, threads, cancel)?;
        let built;
        let graph = match given {
            Given::Graph(graph) => graph,
            Given::Batches(batches) => {
                let room = (shape, &mut bytes[..]);
                let measured = (halves, codes.as_ref());
                let ground = batches.ground(2 * schema.links(), room, measured, &held, threads, cancel)?;
                let Some(ground) = ground else { return Ok(None) };
                let mut levels = vec![ground];
                levels.extend(upper(batches.members(), schema, halves, threads, cancel)?);
                built = FlatGraph { levels, beam: BATCHED_BEAM * schema.links() };
                &built
            }
        };
        let Some(ground) = graph.levels.first() else { return Ok(None) };
        encode(shape, ground, halves, &mut bytes, threads, cancel)?;
        let Some(walked) = InlineRows::new(shape, &bytes) else { return Ok(None) };
        let near = Near::along(ground, halves, codes.as_ref());
        let refined = refine(graph, &walked, near, threads, cancel)?;
        let longer = if try_four { with_four_bits(schema, shape, vectors.count()) } else { None };
        let made = (shape, bytes);
        let longer = suited(&made, longer, ground, halves)?;
        space.set_spread(spread.get().unwrap_or(0.0));
        Ok(Some(Better { graph: refined, space, numbers, rows: longer.unwrap_or(made) }))
    }
}

/// Room for longer rows, where these suit the graph better than those of one bit that were made along it.
fn suited(
    (shape, bytes): &(InlineShape, Pages),
    longer: Option<InlineShape>,
    ground: &FlatLevel,
    halves: Halves<'_>,
) -> Result<Option<(InlineShape, Pages)>> {
    let (Some(longer), Some(rows)) = (longer, InlineRows::new(*shape, bytes)) else { return Ok(None) };
    if bits_for(&rows, ground, (*shape, longer), halves)? != longer.bits() {
        return Ok(None);
    }
    Ok(Pages::zeroed(ground.rows as usize * longer.stride()).map(|room| (longer, room)))
}

/// The graph of a segment of the lean profile, refined by walks over inline rows that are thrown away; `None` for any other
/// segment, and where it cannot be or would take too much memory.
pub(in crate::sealed) fn refined_lean(
    schema: &Schema,
    rows: &dyn RowSource,
    given: Given<'_>,
    threads: usize,
    cancel: &dyn Fn() -> bool,
) -> Result<Option<FlatGraph>> {
    if lean_shape(schema, rows.rows()).is_none() {
        return Ok(None);
    }
    let vectors = Vectors::read(schema, rows, None, cancel)?;
    Ok(Better::than(given, false, &vectors, threads, cancel)?.map(|better| better.graph))
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

/// What one thread measures pairs with.
#[derive(Default)]
struct PairWork {
    from: Vec<f32>,
    found: Vec<f32>,
    right: Vec<f64>,
}

/// All vectors of a segment.
struct Vectors<'a> {
    schema: &'a Schema,
    all: Vec<&'a [f32]>,
    /// The length of the longest; only for inner products.
    longest: f32,
    /// The space of another segment, where they fit.
    like: Option<Space>,
}

impl<'a> Vectors<'a> {
    fn read(
        schema: &'a Schema,
        rows: &'a dyn RowSource,
        like: Option<&Space>,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Vectors<'a>> {
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
        let longest = longest.sqrt() as f32;
        let like = like.filter(|like| like.suits(all.iter().copied(), longest)).cloned();
        Ok(Vectors { schema, all, longest, like })
    }

    fn count(&self) -> u32 {
        self.all.len() as u32
    }

    /// What is made in the space of another segment, or in one of their own; where that has only some of the directions and these do not
    /// do after all, in one that has all. `None` also when their numbers are too large for half precision.
    fn in_a_space<T>(&self, make: impl Fn(Space) -> Result<Option<T>>) -> Result<Option<T>> {
        if let Some(like) = &self.like
            && let Some(made) = make(like.clone())?
        {
            return Ok(Some(made));
        }
        let (metric, dimension) = (self.schema.metric(), self.schema.dimension());
        let space = Space::train(metric, dimension, self.all.iter().copied(), self.longest);
        let Some(space) = space else { return Ok(None) };
        if space.leads()
            && let Some(made) = make(space.clone())?
        {
            return Ok(Some(made));
        }
        make(space.whole())
    }

    /// Every row as it will be stored; `None` when there is not so much memory.
    fn in_halves(
        &self,
        space: &Space,
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Option<HalvesMemory>> {
        let dimension = space.dimension();
        let Some(mut halves) = HalvesMemory::new(self.all.len(), dimension) else { return Ok(None) };
        let out = halves.numbers_mut();
        share(out, PIECE * dimension, threads, cancel, |place, piece, work: &mut SpaceWork| {
            for (vector, out) in self.all[place / dimension..].iter().zip(piece.chunks_exact_mut(dimension)) {
                space.row(vector, work, out);
            }
            Ok(())
        })?;
        Ok(Some(halves))
    }

    /// Room for rows of one bit.
    fn room(&self, space: &Space) -> Option<(InlineShape, Pages)> {
        let shape = InlineShape::new(space.dimension(), 2 * self.schema.links(), InlineBits::One)?;
        Some((shape, Pages::zeroed(self.all.len() * shape.stride())?))
    }

    /// By which share distances along links are wrong, but for a few; `None` where that is too much. It is where rows lie closer
    /// together than three digits of their distance to the centre can tell, and where near rows differ along directions that
    /// are not kept. 0 where all of them are.
    fn spread(&self, ground: &FlatLevel, space: &Space, halves: Halves<'_>) -> Result<Option<f32>> {
        let (mut right, mut from, mut found) = (Vec::new(), Vec::new(), Vec::new());
        let mut wrong = Vec::new();
        for row in (0..ground.rows).step_by(ground.rows.div_ceil(CHECKED_ROWS).max(1) as usize) {
            let links = ground.list(row);
            let others = links.iter().map(|&link| Ok(self.all[link as usize]));
            space.distances(self.all[row as usize], others, &mut right)?;
            halves.widened(row, &mut from);
            halves.measure(&from, links, &mut found);
            let pairs = right.iter().zip(&found).filter(|&(&right, _)| right > 0.0);
            wrong.extend(pairs.map(|(&right, &found)| (f64::from(found) / right - 1.0).abs()));
        }
        // What cannot be compared comes last.
        wrong.sort_unstable_by(f64::total_cmp);
        let of_100 = |share: usize| wrong.get((wrong.len() * share).div_ceil(100).saturating_sub(1));
        let within = |share, most| of_100(share).is_none_or(|&wrong| wrong <= most);
        let spread = of_100(SPREAD_OF_100).filter(|_| space.leads()).map_or(0.0, |&spread| spread as f32);
        let held = within(HELD_OF_100, HELD) && (!space.leads() || within(SPREAD_OF_100, SPREAD_MAX));
        Ok(held.then_some(spread))
    }

    /// Whether the directions that are kept tell every kind of rows apart, however rare: rows that differ along others alone would all
    /// seem to lie in one place. Each row is measured to the one among its links that seems nearest. True where all directions are kept.
    fn are_told_apart(
        &self,
        ground: &FlatLevel,
        space: &Space,
        halves: Halves<'_>,
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<bool> {
        if !space.leads() {
            return Ok(true);
        }
        let mut lost = vec![false; ground.rows as usize];
        share(&mut lost, PIECE, threads, cancel, |place, piece, work: &mut PairWork| {
            for (row, lost) in (place as u32..).zip(piece) {
                let links = ground.list(row);
                halves.widened(row, &mut work.from);
                halves.measure(&work.from, links, &mut work.found);
                let pairs = work.found.iter().zip(links);
                let Some((&found, &link)) = pairs.min_by(|a, b| a.0.total_cmp(b.0)) else { continue };
                let other = self.all[link as usize];
                space.distances(self.all[row as usize], [Ok(other)].into_iter(), &mut work.right)?;
                let right = work.right[0];
                *lost = right > 0.0 && (f64::from(found) - right).abs() > right * LOST;
            }
            Ok(())
        })?;
        let lost = lost.iter().filter(|&&lost| lost).count();
        Ok(lost <= LOST_MAX.max(self.all.len() / LOST_SHARE))
    }
}
