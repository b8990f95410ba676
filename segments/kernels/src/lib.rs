//! Distance kernels: dot products and squared Euclidean distances over slices of numbers, for whatever processor the
//! program finds itself on.
//!
//! The backend (AVX-512, AVX2 with FMA, portable) is chosen once at run time. Every kernel is one algorithm, written
//! once over a small trait of vector operations (`vector.rs`) and compiled once per instruction set (`arch/`).
//! Integer kernels give the same result on every backend; float kernels differ by rounding, within the bound stated at
//! each.
//!
//! ```
//! let k = nearstone_kernels::kernels();
//! assert_eq!(k.dot(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 32.0);
//! assert_eq!(k.l2(&[1.0, 2.0], &[1.0, 4.0]), 4.0);
//! ```
//!
//! This crate knows no metric and no file. It is one of the rooms in which `unsafe` lives: the intrinsics need it.

#![expect(unsafe_code, reason = "vector intrinsics and the functions that are compiled for them")]

mod arch;
mod bytes;
mod columns;
mod dispatch;
mod generic;
mod inline;
mod many;
mod prefetch;
mod rotation;
#[cfg(test)]
mod tests;
mod vector;

pub use columns::CENTROIDS;
pub use dispatch::{Kernels, kernels};
pub use inline::{
    BLOCK_LINKS, DIMENSION_MAX, DIMENSION_STEP, EncodeWork, Enough, Expanded, InlineBeam, InlineBits,
    InlineCommon, InlineLane, InlineQuery, InlineRows, InlineScale, InlineScratch, InlineShape, InlineStart,
    InlineWatch, NO_NEIGHBOUR, inline_walk, inline_walk_together,
};
pub use many::{Bar, QueryPanels, roundings};
pub use prefetch::{prefetch_at, prefetch_read, prefetch_whole};
pub use rotation::Rotation;

/// Rows in half precision have a multiple of so many numbers.
pub const HALVES_ALIGN: usize = 16;
/// Rows of 8-bit codes have a multiple of so many bytes.
pub const CODE_ALIGN: usize = 64;
