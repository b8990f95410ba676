//! Segments: where rows live. A mutable one in memory that grows its HNSW graph, and a sealed one in a checked,
//! mapped file; both answer the same questions.
//!
//! This crate knows no log, no thread and no catalog: whoever calls it orders the writes, gives the threads and
//! remembers which files count.

pub mod append;
pub mod deaths;
pub mod distance;
mod exact;
pub mod graph;
mod meta;
pub mod mutable;
mod quantize;
mod rerank;
pub mod seal;
pub mod sealed;
mod segment;
mod share;
pub mod topk;

pub use deaths::Deaths;
pub use meta::SegmentMeta;
pub use mutable::MutableSegment;
pub use sealed::{SealedSegment, search_together};
pub use segment::{Accept, AcceptAll, Answers, Hit, RowSource, SearchOptions, Visible};
