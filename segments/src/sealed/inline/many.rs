//! Many queries to one segment: walks over inline rows that take turns, so that none waits for memory alone.
//!
//! A walk that is done leaves rows to be measured exactly. Their vectors are asked for at once and measured when the next
//! walk is done: by then they have come.

use super::{Ground, InlineWish, InlineWork};
use crate::distance::ExactDistance;
use crate::sealed::SealedSegment;
use crate::segment::{Accept, Answers};
use crate::topk::Scratch;
use nearstone_base::{Error, Result};
use nearstone_kernels::{InlineQuery, InlineScratch, InlineWalks, InlineWatch, inline_walk_many, kernels};

/// Walks that take turns: while the row of one travels, the others scan theirs.
const LANES: usize = 4;

impl SealedSegment {
    /// As `inline_search` for each of the queries. Those that are answered are not `left`.
    pub(in crate::sealed) fn inline_search_many(
        &self,
        queries: &[&[f32]],
        visible: &dyn Accept,
        wish: InlineWish,
        scratch: &mut Scratch,
        answers: &mut dyn Answers,
        left: &mut [bool],
    ) -> Result<()> {
        let Some(ground) = self.inline_ground(wish)? else { return Ok(()) };
        let InlineWork { near, order, lanes, .. } = &mut scratch.inline;
        lanes.resize_with(LANES, Default::default);
        let rows = ground.rows;
        let (beam, start) = (ground.beam, ground.start);
        let mut batch = Batch {
            segment: self,
            ground,
            queries,
            visible,
            limit: wish.limit,
            known: Vec::new(),
            near,
            order,
            next: 0,
            unmeasured: None,
            answers,
            left,
        };
        inline_walk_many(kernels(), &rows, beam, start, lanes, &mut batch)?;
        batch.measure_last()
    }
}

struct Batch<'a> {
    segment: &'a SealedSegment,
    ground: Ground<'a>,
    queries: &'a [&'a [f32]],
    visible: &'a dyn Accept,
    limit: usize,
    known: Vec<f32>,
    /// Rows of the query that is `unmeasured`.
    near: &'a mut Vec<(f32, u32)>,
    order: &'a mut Vec<f32>,
    next: usize,
    unmeasured: Option<usize>,
    answers: &'a mut dyn Answers,
    left: &'a mut [bool],
}

impl Batch<'_> {
    fn measure_last(&mut self) -> Result<()> {
        let Some(number) = self.unmeasured.take() else { return Ok(()) };
        let exact = ExactDistance::new(self.segment.meta().schema.metric(), self.queries[number]);
        let hits = self.segment.measure(&exact, self.near, self.limit)?;
        self.left[number] = false;
        self.answers.found(number, hits)
    }
}

impl InlineWatch for Batch<'_> {
    type Error = Error;

    #[inline(always)]
    fn touch(&mut self, row: u32) -> Result<()> {
        self.segment.touch_inline(self.ground.inline, row)
    }

    #[inline(always)]
    fn soon(&mut self, row: u32) {
        self.segment.prefetch_hit(row);
    }
}

impl InlineWalks for Batch<'_> {
    #[inline(never)]
    fn next(&mut self, prepared: &mut InlineQuery) -> Result<Option<usize>> {
        let Some(query) = self.queries.get(self.next) else { return Ok(None) };
        self.known.clear();
        self.answers.known(self.next, &mut self.known);
        self.ground.inline.prepare(query, (&self.known, self.limit), prepared);
        self.next += 1;
        Ok(Some(self.next - 1))
    }

    #[inline(never)]
    fn done(&mut self, number: usize, query: &InlineQuery, walk: &InlineScratch) -> Result<()> {
        self.measure_last()?;
        let lists = (&mut *self.near, &mut *self.order);
        if self.segment.nearest_expanded(query, walk, self.visible, self.limit, lists) {
            self.unmeasured = Some(number);
        }
        Ok(())
    }
}
