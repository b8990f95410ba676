//! Searching: the builders, and the merge over segments.
//!
//! A search loads one view and asks every segment of the collection for its nearest visible rows: those that are walked over inline rows last
//! and together, in groups of much the same size, the others one after the other. The answers are exact distances, so merging them is a sort. Ties are resolved by key, nearest first. Many queries at
//! once are asked of each segment together, a part of them per thread.

use crate::background::{THREADS_MAX, cores, on_threads};
use crate::core::Core;
use crate::row::Hit;
use crate::view::{CollectionView, Segment};
use nearstone_base::sync::{Arc, Mutex};
use nearstone_base::{Error, KeyRef, Lsn, Result};
use nearstone_segments::{Accept, AcceptAll, Answers, SealedSegment, SearchOptions, search_together};
use std::slice;

/// Hits when the caller sets no limit.
const LIMIT_DEFAULT: usize = 10;
/// Beam width when the caller sets none.
const EF_DEFAULT: usize = 64;
/// Queries that a thread takes at a time.
const TOGETHER_MIN: usize = 16;
const TOGETHER_MAX: usize = 256;
/// Of exact searches, whole panels of queries.
const TOGETHER_EXACT: usize = 32;

/// Segments are walked together when none has so many times fewer rows than another.
const ALIKE: u32 = 4;

/// A search that is being put together: for one query, or for [`Queries`]. `run` runs it.
#[must_use = "a search does nothing until run() is called"]
pub struct Search<'a, Q = &'a [f32]> {
    core: &'a Core,
    view: Result<(Arc<CollectionView>, Lsn)>,
    query: Q,
    wishes: Wishes<'a>,
}

/// What is wanted of the rows that are found.
struct Wishes<'a> {
    limit: usize,
    ef: Option<usize>,
    exact: bool,
    filter: Option<&'a KeyFilter<'a>>,
    with_payload: bool,
    with_vector: bool,
}

/// The rows of a matrix as queries.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    matrix: &'a [f32],
    threads: usize,
}

/// A condition on keys.
type KeyFilter<'a> = dyn Fn(KeyRef<'_>) -> bool + Sync + 'a;

impl<'a> Search<'a, Queries<'a>> {
    pub(crate) fn many(
        core: &'a Core,
        view: Result<(Arc<CollectionView>, Lsn)>,
        matrix: &'a [f32],
    ) -> Search<'a, Queries<'a>> {
        Search::new(core, view, Queries { matrix, threads: cores() })
    }

    /// Threads that share the queries, the calling one among them; by default as many as the process has cores, and never
    /// more than there is work for. None outlives the call.
    pub fn threads(mut self, threads: usize) -> Self {
        self.query.threads = threads;
        self
    }

    /// Runs it: for each query what [`Search::run`] gives for one; all see the same moment.
    ///
    /// # Errors
    ///
    /// As for one query, with the number of the one that the schema refuses; `InvalidArgument` for a matrix that has not a
    /// whole number of rows, or for 0 threads.
    pub fn run(self) -> Result<Vec<Vec<Hit>>> {
        let Search { core, view, query, wishes } = self;
        core.check_open()?;
        let (view, at) = view?;
        let Queries { matrix, threads } = query;
        let dimension = view.schema.dimension();
        if !matrix.len().is_multiple_of(dimension) {
            return Err(Error::invalid(format!(
                "the matrix has {} numbers: the dimension is {dimension}, and {} are left over",
                matrix.len(),
                matrix.len() % dimension
            )));
        }
        if threads == 0 {
            return Err(Error::invalid("threads is 0: it must be at least 1"));
        }
        let queries: Vec<&[f32]> = matrix.chunks_exact(dimension).collect();
        for (number, query) in queries.iter().enumerate() {
            view.schema.check_vector(query).map_err(|error| error.context(format!("query {number}")))?;
        }
        let options = wishes.options(at)?;
        let mut lists: Vec<Vec<Hit>> = vec![Vec::new(); queries.len()];
        if options.limit == 0 {
            return Ok(lists);
        }
        let threads = threads.min(queries.len()).min(THREADS_MAX);
        let together = match threads {
            0 | 1 => TOGETHER_MAX,
            _ => queries.len().div_ceil(4 * threads).clamp(TOGETHER_MIN, TOGETHER_MAX),
        };
        let together = if wishes.exact { together.next_multiple_of(TOGETHER_EXACT) } else { together };
        let threads = threads.min(queries.len().div_ceil(together));
        let parts = Mutex::new(queries.chunks(together).zip(lists.chunks_mut(together)));
        on_threads(threads, || {
            loop {
                let Some((queries, lists)) = parts.lock().next() else { return Ok(()) };
                let answered = wishes.answer(core, &view, queries, &options, lists);
                if answered.is_err() {
                    // Nobody begins another part.
                    while parts.lock().next().is_some() {}
                    return answered;
                }
            }
        })?;
        Ok(lists)
    }
}

impl<'a> Search<'a> {
    /// Runs it: nearest first, ties by key.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a query that the collection's schema refuses or an `ef` of 0; `NotFound` when the
    /// collection was dropped; `Closed`; `Corruption` when a block that the search needs is damaged.
    pub fn run(self) -> Result<Vec<Hit>> {
        let Search { core, view, query, wishes } = self;
        core.check_open()?;
        let (view, at) = view?;
        view.schema.check_vector(query).map_err(|error| error.context("the query"))?;
        let options = wishes.options(at)?;
        let mut hits = Vec::new();
        if options.limit > 0 {
            wishes.answer(core, &view, &[query], &options, slice::from_mut(&mut hits))?;
        }
        Ok(hits)
    }
}

impl<'a, Q> Search<'a, Q> {
    pub(crate) fn new(core: &'a Core, view: Result<(Arc<CollectionView>, Lsn)>, query: Q) -> Search<'a, Q> {
        let wishes = Wishes {
            limit: LIMIT_DEFAULT,
            ef: None,
            exact: false,
            filter: None,
            with_payload: false,
            with_vector: false,
        };
        Search { core, view, query, wishes }
    }

    /// Hits wanted (default 10). The result has `min(limit, live rows)` of them.
    pub fn limit(mut self, limit: usize) -> Self {
        self.wishes.limit = limit;
        self
    }

    /// Width of the beam (default 64): more finds more of the true neighbours and takes longer. Values below
    /// `limit` count as `limit`.
    pub fn ef(mut self, ef: usize) -> Self {
        self.wishes.ef = Some(ef);
        self
    }

    /// Compares with every row instead of walking the graph: always right, and linear in the number of rows. A query alone
    /// takes about as long as reading all vectors; many at once share that.
    pub fn exact(mut self, exact: bool) -> Self {
        self.wishes.exact = exact;
        self
    }

    /// Only rows whose key passes. The result has `min(limit, live rows that pass)` hits. The condition is asked for
    /// every row that the search meets, some of them more than once; when few pass, that can be all.
    pub fn filter(mut self, filter: &'a (dyn Fn(KeyRef<'_>) -> bool + Sync + 'a)) -> Self {
        self.wishes.filter = Some(filter);
        self
    }

    /// Brings the payloads along.
    pub fn with_payload(mut self) -> Self {
        self.wishes.with_payload = true;
        self
    }

    /// Brings the vectors along.
    pub fn with_vector(mut self) -> Self {
        self.wishes.with_vector = true;
        self
    }
}

impl Wishes<'_> {
    fn options(&self, at: Lsn) -> Result<SearchOptions<'static>> {
        let ef = self.ef.unwrap_or(EF_DEFAULT);
        if ef == 0 {
            return Err(Error::invalid("ef is 0: it must be at least 1"));
        }
        Ok(SearchOptions { limit: self.limit, ef, exact: self.exact, at, accept: &AcceptAll })
    }

    /// A list of hits for each query.
    fn answer(
        &self,
        core: &Core,
        view: &CollectionView,
        queries: &[&[f32]],
        options: &SearchOptions<'_>,
        lists: &mut [Vec<Hit>],
    ) -> Result<()> {
        let mut found: Vec<Vec<Found<'_>>> = vec![Vec::new(); queries.len()];
        search_segments(core, view, queries, options, self.filter, &mut found)?;
        for (found, list) in found.iter().zip(lists) {
            // Collecting results would not know how many there are.
            list.reserve_exact(found.len());
            for found in found {
                list.push(self.hit(found)?);
            }
        }
        Ok(())
    }

    fn hit(&self, found: &Found<'_>) -> Result<Hit> {
        Ok(Hit {
            key: found.segment.key(found.ordinal)?.to_key(),
            distance: found.distance,
            version: found.segment.version(found.ordinal)?,
            payload: match self.with_payload {
                true => Some(found.segment.payload(found.ordinal)?.to_vec()),
                false => None,
            },
            vector: match self.with_vector {
                true => Some(found.segment.vector(found.ordinal)?),
                false => None,
            },
        })
    }
}

/// Rows of one segment whose key passes.
struct Passing<'a> {
    segment: Segment<'a>,
    filter: &'a KeyFilter<'a>,
    /// The first key that could not be read.
    damage: Mutex<Option<Error>>,
}

impl Accept for Passing<'_> {
    fn accept(&self, ordinal: u32) -> bool {
        match self.segment.key(ordinal) {
            Ok(key) => (self.filter)(key),
            Err(error) => {
                self.damage.lock().get_or_insert(error);
                false
            }
        }
    }
}

#[derive(Clone)]
struct Found<'a> {
    distance: f32,
    segment: Segment<'a>,
    ordinal: u32,
}

/// What was found for each query, and in which segment more is looked for.
struct Gathered<'f, 'v> {
    found: &'f mut [Vec<Found<'v>>],
    segment: Segment<'v>,
}

impl Answers for Gathered<'_, '_> {
    fn found(&mut self, query: usize, hits: Vec<nearstone_segments::Hit>) -> Result<()> {
        add(&mut self.found[query], self.segment, hits);
        Ok(())
    }
}

fn add<'v>(found: &mut Vec<Found<'v>>, segment: Segment<'v>, hits: Vec<nearstone_segments::Hit>) {
    found.extend(hits.into_iter().map(|hit| Found { distance: hit.distance, segment, ordinal: hit.ordinal }));
}

/// The nearest rows of all segments, for each query.
fn search_segments<'v>(
    core: &Core,
    view: &'v CollectionView,
    queries: &[&[f32]],
    options: &SearchOptions<'_>,
    filter: Option<&KeyFilter<'_>>,
    found: &mut [Vec<Found<'v>>],
) -> Result<()> {
    let segments: Vec<Segment<'v>> = view.segments().filter(|s| s.rows() > 0).collect();
    core.with_scratch(|scratch| {
        let (alone, together) = match filter {
            None if segments.len() > 1 => walked_together(&segments, options),
            _ => (segments.clone(), Vec::new()),
        };
        for segment in alone {
            let mut gathered = Gathered { found, segment };
            match filter {
                None => segment.search(queries, options, scratch, &mut gathered)?,
                Some(filter) => {
                    let passing = Passing { segment, filter, damage: Mutex::new(None) };
                    let options = SearchOptions { accept: &passing, ..*options };
                    segment.search(queries, &options, scratch, &mut gathered)?;
                    if let Some(error) = passing.damage.into_inner() {
                        return Err(error);
                    }
                }
            }
            cut(found, options.limit);
        }
        let (mut known, mut lists) = (Vec::new(), Vec::new());
        for group in &together {
            for (query, found) in queries.iter().zip(&mut *found) {
                known.clear();
                known.extend(found.iter().map(|found| found.distance));
                search_together(group, query, options, &known, scratch, &mut lists)?;
                for (&(segment, _), hits) in group.iter().zip(lists.drain(..)) {
                    add(found, Segment::Sealed(segment), hits);
                }
            }
            cut(found, options.limit);
        }
        Ok::<(), Error>(())
    })?;
    if segments.len() > 1 {
        for found in found {
            sort_by_distance_and_key(found)?;
            found.truncate(options.limit);
        }
    }
    Ok(())
}

/// Sealed segments of a group, each with the share of all rows that it holds.
type Group<'v> = Vec<(&'v SealedSegment, f32)>;

/// Segments that are searched one after the other, and groups of those that are walked together. In a group they are of much the same
/// size, and the largest come first: what is known by then spares small ones most of their walk.
fn walked_together<'v>(
    segments: &[Segment<'v>],
    options: &SearchOptions<'_>,
) -> (Vec<Segment<'v>>, Vec<Group<'v>>) {
    let rows: u64 = segments.iter().map(|segment| u64::from(segment.rows())).sum();
    let (mut alone, mut walked) = (Vec::new(), Group::new());
    for &segment in segments {
        match segment {
            Segment::Sealed(sealed) if sealed.is_walked_inline(options) => {
                walked.push((sealed, (f64::from(sealed.rows()) / rows as f64) as f32));
            }
            other => alone.push(other),
        }
    }
    walked.sort_by_key(|(segment, _)| std::cmp::Reverse(segment.rows()));
    let mut groups: Vec<Group<'v>> = Vec::new();
    for one in walked {
        match groups.last_mut() {
            Some(group) if group[0].0.rows() / ALIKE < one.0.rows() => group.push(one),
            _ => groups.push(vec![one]),
        }
    }
    (alone, groups)
}

/// Drops what is farther than the `limit`-th, where that is much.
fn cut(found: &mut [Vec<Found<'_>>], limit: usize) {
    for found in found.iter_mut().filter(|found| found.len() / 2 > limit) {
        drop_farther(found, limit);
    }
}

/// Drops what is farther than the `limit`-th; more than that are there.
fn drop_farther(found: &mut Vec<Found<'_>>, limit: usize) {
    let by_distance = |a: &Found<'_>, b: &Found<'_>| a.distance.total_cmp(&b.distance);
    let last = found.select_nth_unstable_by(limit - 1, by_distance).1.distance;
    found.retain(|found| found.distance.total_cmp(&last).is_le());
}

/// Keys are only read where distances tie.
fn sort_by_distance_and_key(found: &mut [Found<'_>]) -> Result<()> {
    found.sort_by(|a, b| a.distance.total_cmp(&b.distance));
    for tied in found.chunk_by_mut(|a, b| a.distance == b.distance) {
        if tied.len() > 1 {
            for one in tied.iter() {
                one.segment.key(one.ordinal)?;
            }
            // Every key has just been read: the fallback only keeps the order total.
            tied.sort_by(|a, b| a.segment.key(a.ordinal).ok().cmp(&b.segment.key(b.ordinal).ok()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
