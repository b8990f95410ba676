//! What the tests of the whole store share: a plain model to compare with, and histories to run.
#![forbid(unsafe_code)]

pub mod enumerate;
pub mod history;
pub mod kills;
pub mod model;
pub mod spelled;

/// The program in the project's front page runs.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
