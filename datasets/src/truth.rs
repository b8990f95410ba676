//! The exact nearest rows, by looking at all of them.
//!
//! 1. For each query a first pass computes distances in `f32`, many lanes at a time, over blocks of rows that stay in
//!    the cache while several queries use them.
//! 2. A row survives unless it is certainly not among the k nearest: its `f32` distance is beyond the k-th best one by
//!    more than twice the rounding error that both can have (the standard bound for sums, Higham, "Accuracy and
//!    Stability of Numerical Algorithms", section 3.1).
//! 3. The survivors' distances are computed again in `f64`, and sorted; ties go by row number.
//!
//! So the result is that of a plain loop in `f64`, at about the price of one in `f32`. Queries are dealt out to threads.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How far two vectors are apart; smaller is nearer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Distance {
    /// `1 - cos`; 1 when a vector is zero.
    Cosine,
    /// The square of the Euclidean distance.
    L2,
    /// The negative inner product.
    InnerProduct,
}

impl Distance {
    /// The distance of two vectors of the same length, in `f64`.
    pub fn between(self, a: &[f32], b: &[f32]) -> f64 {
        debug_assert_eq!(a.len(), b.len());
        let pairs = || a.iter().zip(b).map(|(a, b)| (f64::from(*a), f64::from(*b)));
        match self {
            Distance::L2 => pairs().map(|(a, b)| (a - b) * (a - b)).sum(),
            Distance::InnerProduct => -pairs().map(|(a, b)| a * b).sum::<f64>(),
            Distance::Cosine => {
                let norms = norm(a) * norm(b);
                if norms > 0.0 { 1.0 - pairs().map(|(a, b)| a * b).sum::<f64>() / norms } else { 1.0 }
            }
        }
    }
}

/// The nearest rows of each query, nearest first.
#[derive(Clone, PartialEq, Debug)]
pub struct Truth {
    per_query: usize,
    ids: Vec<u32>,
    distances: Vec<f64>,
}

impl Truth {
    /// From a table of ids, `per_query` for each query, nearest first; their distances are computed.
    pub fn from_ids(
        rows: &[f32],
        dimension: usize,
        queries: &[f32],
        distance: Distance,
        ids: &[u32],
    ) -> Truth {
        let count = queries.len() / dimension.max(1);
        let per_query = ids.len() / count.max(1);
        let mut distances = Vec::with_capacity(ids.len());
        for (ids, query) in ids.chunks(per_query.max(1)).zip(queries.chunks_exact(dimension.max(1))) {
            distances.extend(ids.iter().map(|id| match row(rows, dimension, *id) {
                Some(row) => distance.between(query, row),
                None => f64::INFINITY,
            }));
        }
        Truth { per_query, ids: ids.to_vec(), distances }
    }

    /// Rows per query: `min(k, rows that were accepted)`.
    pub fn per_query(&self) -> usize {
        self.per_query
    }

    /// How many queries.
    pub fn len(&self) -> usize {
        self.ids.len() / self.per_query.max(1)
    }

    /// Whether there is no query, or no row.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The nearest rows of a query. Panics beyond the last query.
    pub fn ids(&self, query: usize) -> &[u32] {
        &self.ids[query * self.per_query..][..self.per_query]
    }

    /// Their distances.
    pub fn distances(&self, query: usize) -> &[f64] {
        &self.distances[query * self.per_query..][..self.per_query]
    }
}

/// An exact search over a matrix of rows.
///
/// ```
/// use nearstone_datasets::{Distance, Exact};
///
/// let rows = [0.0, 0.0, 1.0, 0.0, 5.0, 5.0];
/// let truth = Exact::new(&rows, 2, Distance::L2).search(&[0.9, 0.0], 2);
/// assert_eq!(truth.ids(0), [1, 0]);
/// ```
#[derive(Clone, Copy)]
pub struct Exact<'a> {
    rows: &'a [f32],
    dimension: usize,
    distance: Distance,
    threads: usize,
    accept: Option<&'a (dyn Fn(u32) -> bool + Sync)>,
}

impl<'a> Exact<'a> {
    /// Over `rows`, one after another, `dimension` numbers each. Row numbers are ids. Panics when `dimension` is 0 or
    /// does not divide `rows`, or there are more rows than a `u32` counts.
    pub fn new(rows: &'a [f32], dimension: usize, distance: Distance) -> Exact<'a> {
        assert!(
            dimension > 0 && rows.len().is_multiple_of(dimension),
            "{} numbers by {dimension}",
            rows.len()
        );
        assert!(u32::try_from(rows.len() / dimension).is_ok(), "more rows than a u32 counts");
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Exact { rows, dimension, distance, threads, accept: None }
    }

    /// On that many threads; at first, as many as the machine has cores.
    pub fn threads(mut self, threads: usize) -> Exact<'a> {
        self.threads = threads.max(1);
        self
    }

    /// Only rows that `accept` accepts (called once per row).
    pub fn accept(mut self, accept: &'a (dyn Fn(u32) -> bool + Sync)) -> Exact<'a> {
        self.accept = Some(accept);
        self
    }

    /// The `k` nearest rows of each of `queries` (one after another). All numbers must be finite.
    pub fn search(&self, queries: &[f32], k: usize) -> Truth {
        assert!(
            queries.len().is_multiple_of(self.dimension),
            "{} numbers by {}",
            queries.len(),
            self.dimension
        );
        let rows: Vec<RowFacts> = (0u32..)
            .zip(self.rows.chunks_exact(self.dimension))
            .filter(|(id, _)| self.accept.is_none_or(|accept| accept(*id)))
            .map(|(id, row)| RowFacts { id, norm: norm(row) as f32 })
            .collect();
        let per_query = k.min(rows.len());
        let (mut ids, mut distances) = (Vec::new(), Vec::new());
        if per_query > 0 {
            for (found_ids, found_distances) in self.deal(&rows, queries, per_query) {
                ids.extend(found_ids);
                distances.extend(found_distances);
            }
        }
        Truth { per_query, ids, distances }
    }

    /// Lets the threads take groups of queries one after another.
    fn deal(&self, rows: &[RowFacts], queries: &[f32], k: usize) -> Vec<(Vec<u32>, Vec<f64>)> {
        const GROUP: usize = 32;
        let groups: Vec<&[f32]> = queries.chunks(GROUP * self.dimension).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            while let Some((number, group)) =
                Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| groups.get(n).map(|group| (n, group)))
            {
                done.push((number, self.search_group(rows, group, k)));
            }
            done
        };
        let mut all: Vec<_> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..self.threads.min(groups.len())).map(|_| scope.spawn(work)).collect();
            let mut all = work();
            for other in others {
                match other.join() {
                    Ok(done) => all.extend(done),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            all
        });
        all.sort_by_key(|(number, _)| *number);
        all.into_iter().flat_map(|(_, found)| found).collect()
    }

    fn search_group(&self, rows: &[RowFacts], queries: &[f32], k: usize) -> Vec<(Vec<u32>, Vec<f64>)> {
        /// Rows that stay in a second-level cache at usual dimensions.
        const BLOCK: usize = 256;
        let norm_max = rows.iter().map(|row| row.norm).fold(0.0, f32::max);
        let mut states: Vec<_> = queries
            .chunks_exact(self.dimension)
            .map(|query| {
                let norm = norm(query) as f32;
                (query, norm, Survivors::new(k, self.margin(norm, norm_max)))
            })
            .collect();
        for block in rows.chunks(BLOCK) {
            for (query, norm, survivors) in &mut states {
                for facts in block {
                    let vector = &self.rows[facts.id as usize * self.dimension..][..self.dimension];
                    let distance = match self.distance {
                        Distance::L2 => l2(query, vector),
                        Distance::InnerProduct => -dot(query, vector),
                        Distance::Cosine => {
                            let norms = *norm * facts.norm;
                            // Lengths whose squares leave the range of f32 are left to f64.
                            let usable = *norm > NORM_MIN && facts.norm > NORM_MIN && norms.is_finite();
                            if usable { 1.0 - dot(query, vector) / norms } else { f32::NAN }
                        }
                    };
                    survivors.offer(facts.id, distance);
                }
            }
        }
        states.into_iter().map(|(query, _, survivors)| self.finish(query, survivors, k)).collect()
    }

    fn finish(&self, query: &[f32], mut survivors: Survivors, k: usize) -> (Vec<u32>, Vec<f64>) {
        survivors.prune();
        let mut exact: Vec<(f64, u32)> = survivors
            .rows
            .iter()
            .filter_map(|(_, id)| {
                Some((self.distance.between(query, row(self.rows, self.dimension, *id)?), *id))
            })
            .collect();
        exact.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        exact.truncate(k);
        (exact.iter().map(|(_, id)| *id).collect(), exact.iter().map(|(distance, _)| *distance).collect())
    }

    /// How far an `f32` distance can be off: a sum of n products has an error of at most gamma(n) times the sum of the
    /// absolute products, which Cauchy and Schwarz bound by the norms. Here n is the longest chain of additions, with
    /// some to spare; the last term stands for products too small for an `f32`.
    fn margin(&self, query_norm: f32, norm_max: f32) -> f32 {
        let chain = (self.dimension / LANES + LANES + 8) as f32;
        let gamma = chain * f32::EPSILON;
        let tiny = self.dimension as f32 * f32::MIN_POSITIVE;
        match self.distance {
            Distance::InnerProduct => gamma * query_norm * norm_max * 1.01 + tiny,
            Distance::L2 => gamma * (query_norm + norm_max) * (query_norm + norm_max) * 1.01 + tiny,
            Distance::Cosine => gamma + 4.0 * f32::EPSILON + tiny / (NORM_MIN * NORM_MIN),
        }
    }
}

/// The shortest vector whose cosine is taken in `f32`.
const NORM_MIN: f32 = 1e-15;

struct RowFacts {
    id: u32,
    norm: f32,
}

/// Rows that can still be among the k nearest.
struct Survivors {
    k: usize,
    margin: f32,
    /// Beyond this, a row is out.
    limit: f32,
    rows: Vec<(f32, u32)>,
    prune_at: usize,
}

impl Survivors {
    fn new(k: usize, margin: f32) -> Survivors {
        Survivors { k, margin, limit: f32::INFINITY, rows: Vec::new(), prune_at: 2 * k + 64 }
    }

    /// Overflow makes infinities and NaN: those know nothing, and stay.
    fn offer(&mut self, id: u32, distance: f32) {
        if distance <= self.limit || !distance.is_finite() {
            self.rows.push((if distance.is_finite() { distance } else { f32::NAN }, id));
            if self.rows.len() >= self.prune_at {
                self.prune();
                self.prune_at = (self.rows.len() * 2).max(2 * self.k + 64);
            }
        }
    }

    fn prune(&mut self) {
        if self.rows.len() <= self.k {
            return;
        }
        // NaN sorts last, so the k-th best of those that are known is found, or nothing is thrown away.
        let key = |distance: f32| if distance.is_nan() { f32::INFINITY } else { distance };
        let kth = self.rows.select_nth_unstable_by(self.k - 1, |a, b| key(a.0).total_cmp(&key(b.0))).1.0;
        let limit = kth + 2.0 * self.margin;
        if limit.is_finite() {
            self.limit = limit;
            self.rows.retain(|(distance, _)| *distance <= limit || distance.is_nan());
        }
    }
}

fn row(rows: &[f32], dimension: usize, id: u32) -> Option<&[f32]> {
    rows.get(id as usize * dimension..)?.get(..dimension)
}

fn norm(vector: &[f32]) -> f64 {
    vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt()
}

/// Independent sums: one long chain of additions would wait for each of them.
const LANES: usize = 16;

fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum_of(a, b, |a, b| a * b)
}

fn l2(a: &[f32], b: &[f32]) -> f32 {
    sum_of(a, b, |a, b| (a - b) * (a - b))
}

#[inline(always)]
fn sum_of(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += term(*a, *b);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| term(*a, *b)).sum();
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Generator, Shape};
    use proptest::prelude::*;

    const ALL: [Distance; 3] = [Distance::Cosine, Distance::L2, Distance::InnerProduct];

    fn naive(rows: &[f32], dimension: usize, query: &[f32], distance: Distance, k: usize) -> Vec<u32> {
        let mut all: Vec<(f64, u32)> =
            (0..).zip(rows.chunks(dimension)).map(|(id, row)| (distance.between(query, row), id)).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        all.into_iter().take(k).map(|(_, id)| id).collect()
    }

    #[test]
    fn it_is_what_a_plain_loop_finds() {
        for (shape, dimension) in
            [(Shape::Manifold { latent: 4 }, 40), (Shape::Uniform, 3), (Shape::Gaussian, 1)]
        {
            let set = Generator::new(shape, dimension, 5);
            let mut rows = set.rows(0, 700);
            // Duplicates, so that ties are there.
            let copy = rows[..100 * dimension].to_vec();
            rows.extend(copy);
            let queries = set.queries(0, 70);
            for distance in ALL {
                let truth = Exact::new(&rows, dimension, distance).threads(3).search(&queries, 9);
                assert_eq!((truth.len(), truth.per_query()), (70, 9));
                for (number, query) in queries.chunks(dimension).enumerate() {
                    assert_eq!(
                        truth.ids(number),
                        naive(&rows, dimension, query, distance, 9),
                        "{distance:?}"
                    );
                }
                let ids: Vec<u32> = (0..70).flat_map(|number| truth.ids(number).to_vec()).collect();
                assert_eq!(Truth::from_ids(&rows, dimension, &queries, distance, &ids), truth);
            }
        }
    }

    #[test]
    fn near_ties_below_the_precision_of_f32_are_told_apart() {
        // All rows are at the same distance in f32 arithmetic; only f64 orders them.
        let rows: Vec<f32> =
            (0..500u32).flat_map(|n| [1000.0, f32::from_bits(0x3a80_0000 + (499 - n))]).collect();
        for distance in ALL {
            let truth = Exact::new(&rows, 2, distance).search(&[1000.0, 0.001], 5);
            assert_eq!(truth.ids(0), naive(&rows, 2, &[1000.0, 0.001], distance, 5), "{distance:?}");
        }
    }

    #[test]
    fn fewer_rows_than_k_and_a_filter() {
        let rows = [0.0, 1.0, 2.0, 3.0];
        let truth = Exact::new(&rows, 1, Distance::L2).accept(&|id| id % 2 == 1).search(&[0.0], 10);
        assert_eq!(truth.ids(0), [1, 3]);
        assert!(Exact::new(&rows, 1, Distance::L2).accept(&|_| false).search(&[0.0], 10).is_empty());
        assert!(Exact::new(&[], 1, Distance::L2).search(&[0.0], 10).is_empty());
    }

    proptest! {
        #[test]
        fn any_magnitude_gives_the_order_of_f64(
            numbers in prop::collection::vec((-1.0f32..1.0, -44i32..38), 3..150),
            k in 1usize..8,
        ) {
            let numbers: Vec<f32> = numbers.iter().map(|(x, power)| x * 10f32.powi(*power)).collect();
            let numbers = &numbers[..numbers.len() / 3 * 3];
            let (query, rows) = numbers.split_at(3);
            for distance in ALL {
                let truth = Exact::new(rows, 3, distance).threads(1).search(query, k);
                if !truth.is_empty() {
                    prop_assert_eq!(truth.ids(0), naive(rows, 3, query, distance, k));
                }
            }
        }
    }
}
