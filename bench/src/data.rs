//! The rows and queries that are measured with.

use nearstone::{Collection, Store};
use nearstone_datasets::{Distance, Exact, Generator, RealSet, Shape, Truth};
use std::error::Error;

/// Generated rows when there are no real ones.
const GENERATED_ROWS: usize = 100_000;
const GENERATED_DIMENSION: usize = 384;
const QUERIES: usize = 1000;

/// Rows per batch.
pub(crate) const BATCH: usize = 100;

pub(crate) struct Data {
    pub(crate) name: &'static str,
    pub(crate) dimension: usize,
    numbers: Vec<f32>,
    pub(crate) queries: Vec<Vec<f32>>,
    /// For all rows; `None` when fewer were asked for.
    known: Option<Truth>,
}

impl Data {
    pub(crate) fn load(rows_max: usize) -> Result<Data, Box<dyn Error>> {
        let Some(set) = RealSet::find() else {
            eprintln!("no real embeddings here: measuring on generated ones (set NEARSTONE_DATA)");
            return Ok(Data::generated(rows_max.min(GENERATED_ROWS), GENERATED_DIMENSION, 24, QUERIES));
        };
        let base = set.base(rows_max)?;
        let queries = set.queries(QUERIES)?;
        let whole = set.base(usize::MAX).is_ok_and(|all| all.rows() == base.rows());
        let known = if whole { Some(set.truth(&base, &queries, Distance::Cosine)?) } else { None };
        Ok(Data {
            name: "real sentence embeddings",
            dimension: base.dimension,
            queries: (0..queries.rows()).map(|query| queries.row(query).to_vec()).collect(),
            numbers: base.numbers,
            known,
        })
    }

    /// Rows on a curved surface of `latent` dimensions.
    pub(crate) fn generated(rows: usize, dimension: usize, latent: usize, queries: usize) -> Data {
        let generator = Generator::new(Shape::Manifold { latent }, dimension, 1);
        Data {
            name: "generated manifold",
            dimension,
            numbers: generator.rows(0, rows),
            queries: generator.queries(0, queries).chunks_exact(dimension).map(<[f32]>::to_vec).collect(),
            known: None,
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.numbers.len() / self.dimension
    }

    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.numbers[row * self.dimension..][..self.dimension]
    }

    /// Distances of the nearest `k` of the rows that `alive` accepts, by cosine, for each query.
    pub(crate) fn truth(&self, k: usize, alive: Option<&(dyn Fn(u32) -> bool + Sync)>) -> Vec<Vec<f64>> {
        if let (Some(known), None) = (&self.known, alive) {
            return (0..self.queries.len()).map(|query| known.distances(query)[..k].to_vec()).collect();
        }
        let all = |_: u32| true;
        let queries: Vec<f32> = self.queries.concat();
        let truth = Exact::new(&self.numbers, self.dimension, Distance::Cosine)
            .accept(alive.unwrap_or(&all))
            .search(&queries, k);
        (0..self.queries.len()).map(|query| truth.distances(query).to_vec()).collect()
    }

    /// Puts rows under their numbers, in batches.
    pub(crate) fn put(
        &self,
        store: &Store,
        collection: &Collection,
        rows: impl IntoIterator<Item = usize>,
    ) -> nearstone::Result<()> {
        self.put_under(store, collection, rows.into_iter().map(|row| (row as u64, row)))
    }

    /// Puts rows under keys, in batches.
    pub(crate) fn put_under(
        &self,
        store: &Store,
        collection: &Collection,
        rows: impl IntoIterator<Item = (u64, usize)>,
    ) -> nearstone::Result<()> {
        let mut batch = store.batch();
        for (key, row) in rows {
            batch.upsert(collection, key, self.row(row), ())?;
            if batch.len() == BATCH {
                std::mem::replace(&mut batch, store.batch()).commit()?;
            }
        }
        batch.commit()?;
        Ok(())
    }
}
