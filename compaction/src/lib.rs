//! Compaction decides and merges; it starts no thread and commits nothing.
//!
//! - [`policy`]: from the statistics of a collection's sealed segments to a [`policy::Choice`], a pure function.
//! - [`merge`]: the live rows of some sealed segments into one new file, with a new graph, driven by the caller's
//!   threads.
//! - [`pace`]: how work behind is paused, resumed, cancelled and kept to a rate; [`metered`]: a file system at that pace.
//! - [`gc`]: which files of a store's folders are ours and named by nothing, a pure function.
//!
//! ```
//! use nearstone_base::SegmentId;
//! use nearstone_compaction::policy::{Choice, Policy, SegmentStats, choose};
//!
//! let half_dead = SegmentStats { id: SegmentId(7), rows: 1000, dead: 500, bytes: 1 << 20, age_secs: 5 };
//! let choice = choose(&[half_dead], &Policy::default());
//! assert!(matches!(choice, Choice::Merge { inputs, .. } if inputs == [SegmentId(7)]));
//! ```
#![forbid(unsafe_code)]

pub mod gc;
pub mod merge;
pub mod metered;
pub mod pace;
pub mod policy;
mod tiered;
