//! Codes: small stand-ins for vectors, on which walks measure. What a walk finds is measured again on the original
//! vectors, so a code decides what is looked at, never what is reported.

pub(crate) mod codes;
pub(crate) mod lead;
mod pq;
mod rabitq;
pub(crate) mod shadow;
pub(crate) mod space;
mod sq4;
mod sq8;

/// A number of this size has no room for fractions: adding it rounds, and leaves the integer in the lowest bits.
const ROUND: f32 = 12_582_912.0;
