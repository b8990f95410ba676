//! A folder of real sentence embeddings, if this machine has one.
//!
//! Made-up vectors flatter or insult an index; real ones say how it is. The folder is named by the environment
//! variable `NEARSTONE_DATA` and holds
//!
//! | file | shape, type | what |
//! |---|---|---|
//! | `base.f16.npy` | rows x dimension, float16 | the rows; the row number is the id |
//! | `query.f32.npy` | queries x dimension, float32 | the queries |
//! | `gt100.cosine.i32.npy`, `gt100.l2.i32.npy` | queries x 100, int32 | ids of the nearest rows, nearest first |
//! | `payloads.jsonl.gz`, `query_payloads.jsonl.gz` | one object per row | texts and where they come from |
//!
//! Tests and benchmarks that want it skip without it, and say so.

use crate::error::{At, Error, Result};
use crate::npy;
use crate::payloads::PayloadReader;
use crate::truth::{Distance, Truth};
use crate::vectors::VectorFile;
use std::path::{Path, PathBuf};

/// The environment variable that names the folder.
pub const ENVIRONMENT_VARIABLE: &str = "NEARSTONE_DATA";

/// Where it is looked for otherwise, from the workspace's root.
const BESIDE_THE_WORKSPACE: &str = "../shared/data/minilm-100k";

/// A folder of real embeddings.
#[derive(Clone, Debug)]
pub struct RealSet {
    folder: PathBuf,
}

/// Vectors, one after another.
#[derive(Clone, PartialEq, Debug)]
pub struct Matrix {
    /// Numbers per vector.
    pub dimension: usize,
    /// All numbers.
    pub numbers: Vec<f32>,
}

impl Matrix {
    /// All vectors of a file of any format, or the first `rows_max`.
    pub fn read(path: &Path, rows_max: usize) -> Result<Matrix> {
        let mut reader = VectorFile::open(path)?;
        let mut numbers = Vec::new();
        reader.next_block(&mut numbers, rows_max)?;
        Ok(Matrix { dimension: reader.dimension(), numbers })
    }

    /// How many vectors.
    pub fn rows(&self) -> usize {
        self.numbers.len() / self.dimension.max(1)
    }

    /// One vector. Panics beyond the last.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.numbers[row * self.dimension..][..self.dimension]
    }
}

/// A matrix of ids (32-bit integers in an `.npy` file), one row per query, and how many ids a row has.
pub fn read_ids(path: &Path) -> Result<(Vec<u32>, usize)> {
    let (ids, per_query) = npy::read_i32_matrix(path)?;
    let ids: Option<Vec<u32>> = ids.into_iter().map(|id| u32::try_from(id).ok()).collect();
    let ids = ids.ok_or_else(|| Error::malformed(path, At::File, "an id is negative"))?;
    Ok((ids, per_query))
}

impl RealSet {
    /// The folder that `NEARSTONE_DATA` names, else the usual place beside the workspace (found from the current
    /// folder upwards). `None` when there are no embeddings: callers skip, and say so.
    pub fn find() -> Option<RealSet> {
        if let Some(folder) = std::env::var_os(ENVIRONMENT_VARIABLE) {
            return RealSet::at(Path::new(&folder));
        }
        let here = std::env::current_dir().ok()?;
        let root = here.ancestors().find(|folder| folder.join("Cargo.lock").is_file())?;
        RealSet::at(&root.join(BESIDE_THE_WORKSPACE))
    }

    /// The embeddings in `folder`, if they are there.
    pub fn at(folder: &Path) -> Option<RealSet> {
        let all = ["base.f16.npy", "query.f32.npy"].iter().all(|name| folder.join(name).is_file());
        all.then(|| RealSet { folder: folder.to_path_buf() })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The rows, or the first `rows_max`.
    pub fn base(&self, rows_max: usize) -> Result<Matrix> {
        Matrix::read(&self.folder.join("base.f16.npy"), rows_max)
    }

    /// The queries, or the first `rows_max`.
    pub fn queries(&self, rows_max: usize) -> Result<Matrix> {
        Matrix::read(&self.folder.join("query.f32.npy"), rows_max)
    }

    /// The ids of the nearest of all rows, nearest first, and how many there are per query. There is none for
    /// [`Distance::InnerProduct`]: on rows of length 1 the cosine's serves.
    pub fn truth_ids(&self, distance: Distance) -> Result<(Vec<u32>, usize)> {
        let name = match distance {
            Distance::L2 => "gt100.l2.i32.npy",
            Distance::Cosine | Distance::InnerProduct => "gt100.cosine.i32.npy",
        };
        read_ids(&self.folder.join(name))
    }

    /// The truth with exact distances, for all rows (`base` must be whole) and the first queries.
    pub fn truth(&self, base: &Matrix, queries: &Matrix, distance: Distance) -> Result<Truth> {
        let (mut ids, per_query) = self.truth_ids(distance)?;
        ids.truncate(queries.rows() * per_query);
        Ok(Truth::from_ids(&base.numbers, base.dimension, &queries.numbers, distance, &ids))
    }

    /// The payloads of the rows, in their order.
    pub fn payloads(&self) -> Result<PayloadReader> {
        PayloadReader::open(self.folder.join("payloads.jsonl.gz"))
    }

    /// The payloads of the queries, in their order.
    pub fn query_payloads(&self) -> Result<PayloadReader> {
        PayloadReader::open(self.folder.join("query_payloads.jsonl.gz"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recall::recall;
    use crate::truth::Exact;

    #[test]
    fn no_folder_is_no_set() {
        assert!(RealSet::at(Path::new("no such folder")).is_none());
    }

    #[test]
    fn the_stored_truth_is_what_the_exact_search_finds() {
        let Some(set) = RealSet::find() else {
            eprintln!("skipped: no real embeddings here (set {ENVIRONMENT_VARIABLE})");
            return;
        };
        let (base, queries) = (set.base(usize::MAX).unwrap(), set.queries(20).unwrap());
        assert_eq!(queries.rows(), 20);
        for distance in [Distance::Cosine, Distance::L2] {
            let stored = set.truth(&base, &queries, distance).unwrap();
            let found = Exact::new(&base.numbers, base.dimension, distance).search(&queries.numbers, 100);
            assert_eq!(stored.len(), 20);
            for query in 0..20 {
                let of = |id: u32| distance.between(queries.row(query), base.row(id as usize));
                assert_eq!(recall(found.distances(query), stored.ids(query), 100, of), 1.0);
                assert_eq!(recall(stored.distances(query), found.ids(query), 100, of), 1.0);
            }
        }
        assert!(set.payloads().unwrap().next().unwrap().unwrap().unwrap().contains("\"text\""));
    }
}
