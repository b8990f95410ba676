//! Searching: the builder, and the merge over segments.
//!
//! A search loads one view and asks every segment of the collection, largest first, for its nearest visible rows;
//! the answers are exact distances, so merging them is a sort. Ties are resolved by key, nearest first.

use crate::core::Core;
use crate::row::Hit;
use crate::view::{CollectionView, Segment};
use nearstone_base::sync::{Arc, Mutex};
use nearstone_base::{Error, KeyRef, Lsn, Result};
use nearstone_segments::{Accept, AcceptAll, SearchOptions};

/// Hits when the caller sets no limit.
const LIMIT_DEFAULT: usize = 10;
/// Beam width when the caller sets none.
const EF_DEFAULT: usize = 64;

/// A search that is being put together; [`Search::run`] runs it.
#[must_use = "a search does nothing until run() is called"]
pub struct Search<'a> {
    core: &'a Core,
    view: Result<(Arc<CollectionView>, Lsn)>,
    query: &'a [f32],
    limit: usize,
    ef: Option<usize>,
    exact: bool,
    filter: Option<&'a KeyFilter<'a>>,
    with_payload: bool,
    with_vector: bool,
}

/// A condition on keys.
type KeyFilter<'a> = dyn Fn(KeyRef<'_>) -> bool + Sync + 'a;

impl<'a> Search<'a> {
    pub(crate) fn new(
        core: &'a Core,
        view: Result<(Arc<CollectionView>, Lsn)>,
        query: &'a [f32],
    ) -> Search<'a> {
        Search {
            core,
            view,
            query,
            limit: LIMIT_DEFAULT,
            ef: None,
            exact: false,
            filter: None,
            with_payload: false,
            with_vector: false,
        }
    }

    /// Hits wanted (default 10). The result has `min(limit, live rows)` of them.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Width of the beam (default 64): more finds more of the true neighbours and takes longer. Values below
    /// `limit` count as `limit`.
    pub fn ef(mut self, ef: usize) -> Self {
        self.ef = Some(ef);
        self
    }

    /// Compares with every row instead of walking the graph: always right, and linear in the number of rows.
    pub fn exact(mut self, exact: bool) -> Self {
        self.exact = exact;
        self
    }

    /// Only rows whose key passes. The result has `min(limit, live rows that pass)` hits. The condition is asked for
    /// every row that the search meets, some of them more than once; when few pass, that can be all.
    pub fn filter(mut self, filter: &'a (dyn Fn(KeyRef<'_>) -> bool + Sync + 'a)) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Brings the payloads along.
    pub fn with_payload(mut self) -> Self {
        self.with_payload = true;
        self
    }

    /// Brings the vectors along.
    pub fn with_vector(mut self) -> Self {
        self.with_vector = true;
        self
    }

    /// Runs it: nearest first, ties by key.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a query that the collection's schema refuses or an `ef` of 0; `NotFound` when the
    /// collection was dropped; `Closed`; `Corruption` when a block that the search needs is damaged.
    pub fn run(self) -> Result<Vec<Hit>> {
        self.core.check_open()?;
        let (view, at) = self.view?;
        view.schema.check_vector(self.query).map_err(|error| error.context("the query"))?;
        let ef = self.ef.unwrap_or(EF_DEFAULT);
        if ef == 0 {
            return Err(Error::invalid("ef is 0: it must be at least 1"));
        }
        if self.limit == 0 {
            return Ok(Vec::new());
        }
        let options = SearchOptions { limit: self.limit, ef, exact: self.exact, at, accept: &AcceptAll };
        let found = search_segments(self.core, &view, self.query, &options, self.filter)?;
        found
            .into_iter()
            .map(|found| {
                Ok(Hit {
                    key: found.segment.key(found.ordinal)?.to_key(),
                    distance: found.distance,
                    version: found.segment.version(found.ordinal)?,
                    payload: match self.with_payload {
                        true => Some(found.segment.payload(found.ordinal)?.to_vec()),
                        false => None,
                    },
                    vector: match self.with_vector {
                        true => Some(found.segment.vector(found.ordinal)?.to_vec()),
                        false => None,
                    },
                })
            })
            .collect()
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

struct Found<'a> {
    distance: f32,
    segment: Segment<'a>,
    ordinal: u32,
}

fn search_segments<'v>(
    core: &Core,
    view: &'v CollectionView,
    query: &[f32],
    options: &SearchOptions<'_>,
    filter: Option<&KeyFilter<'_>>,
) -> Result<Vec<Found<'v>>> {
    let mut segments: Vec<Segment<'v>> = view.segments().filter(|s| s.rows() > 0).collect();
    segments.sort_by_key(|s| std::cmp::Reverse(s.rows()));
    let mut found: Vec<Found<'v>> = Vec::with_capacity(options.limit.min(1024));
    core.with_scratch(|scratch| {
        for segment in &segments {
            let hits = match filter {
                None => segment.search(query, options, scratch)?,
                Some(filter) => {
                    let passing = Passing { segment: *segment, filter, damage: Mutex::new(None) };
                    let hits =
                        segment.search(query, &SearchOptions { accept: &passing, ..*options }, scratch)?;
                    if let Some(error) = passing.damage.into_inner() {
                        return Err(error);
                    }
                    hits
                }
            };
            for hit in hits {
                found.push(Found { distance: hit.distance, segment: *segment, ordinal: hit.ordinal });
            }
        }
        Ok::<(), Error>(())
    })?;
    if segments.len() > 1 {
        sort_by_distance_and_key(&mut found)?;
        found.truncate(options.limit);
    }
    Ok(found)
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
