//! What the tests of the whole store share: a plain model to compare with, and histories to run.
#![forbid(unsafe_code)]

pub mod history;
pub mod model;
