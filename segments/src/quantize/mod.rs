//! Codes: small stand-ins for vectors, on which walks measure. What a walk finds is measured again on the original
//! vectors, so a code decides what is looked at, never what is reported.

pub(crate) mod shadow;
pub(crate) mod space;
pub mod sq8;
