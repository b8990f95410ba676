//! Vectors from files, from a seed and from text; and what the right answers are.
//!
//! | question | module |
//! |---|---|
//! | What rows are in this `.npy`, `.fvecs`, `.bvecs`, JSON Lines or Parquet file? | [`VectorFile`], [`RecordReader`] |
//! | Which keys and payloads belong to them? | [`keys`], [`payloads`] |
//! | How are rows written to such files? | [`VectorFile::create`], [`RecordWriter`] |
//! | Where do rows come from when there is no file? | [`generate`], [`embed`], [`corpus`], [`sentences`] |
//! | Which rows are really the nearest, and how many of them were found? | [`truth`], [`recall`] |
//!
//! It knows nothing of the store: the command line, the tests and the benchmarks bring both together. Files come from
//! other programs, so whatever their bytes are, reading them ends in rows or in an [`Error`] that names the place;
//! it never panics, and no header is believed before it was held against the length of its file.
//!
//! ```
//! use nearstone_datasets::{Distance, Exact, Generator, Record, RecordReader, Shape, VectorFile, recall};
//!
//! # let folder = std::env::temp_dir().join(format!("nearstone-datasets-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! // Make 500 rows and write them, with keys, to a compressed file of JSON Lines.
//! let set = Generator::new(Shape::Manifold { latent: 4 }, 24, 1);
//! let rows = set.rows(0, 500);
//! let path = folder.join("rows.jsonl.gz");
//! let mut writer = VectorFile::create(&path, 24)?;
//! for (number, vector) in (0..).zip(rows.chunks(24)) {
//!     let key = Some(nearstone_datasets::KeyValue::U64(number));
//!     writer.write(&Record { key, vector: vector.to_vec(), payload: None })?;
//! }
//! writer.finish()?;
//!
//! // Read them again; the loop is the same for every format.
//! let back = RecordReader::open(&path)?.collect::<Result<Vec<Record>, _>>()?;
//! assert_eq!(back[499].vector, rows[499 * 24..]);
//!
//! // What are the ten nearest, and how good is an answer that missed one of them?
//! let query = set.queries(0, 1);
//! let truth = Exact::new(&rows, 24, Distance::Cosine).search(&query, 10);
//! let distance_of = |id: u32| Distance::Cosine.between(&query, &back[id as usize].vector);
//! let found = recall::recall(truth.distances(0), &truth.ids(0)[..9], 10, distance_of);
//! assert_eq!(found, 0.9);
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The feature `parquet` (off by default) adds Parquet; nothing else changes with it.

#![forbid(unsafe_code)]

pub mod corpus;
pub mod embed;
mod error;
pub mod generate;
mod jsonl;
pub mod keys;
mod npy;
#[cfg(feature = "parquet")]
mod parquet;
pub mod payloads;
mod random;
pub mod recall;
mod record;
#[cfg(test)]
mod robust;
pub mod sentences;
mod source;
pub mod truth;
mod vecs;
mod vectors;
mod writers;

pub use corpus::{Passage, collect_passages};
pub use embed::Embedder;
pub use error::{At, Error, ErrorKind, Result};
pub use generate::{Generator, Shape};
pub use keys::KeyReader;
pub use payloads::PayloadReader;
pub use recall::Percentiles;
pub use record::{KeyValue, Record, RecordReader};
pub use sentences::{Matrix, RealSet};
pub use source::LINE_BYTES_MAX;
pub use truth::{Distance, Exact, Truth};
pub use vectors::{DIMENSION_MAX, Format, VectorFile, VectorReader, parse_bytes};
pub use writers::{RecordWriter, write_keys, write_payloads};
