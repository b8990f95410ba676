//! What the tests of the whole store share: a plain model to compare with, histories to run, processes to kill, peculiar
//! disks, and forged files.
#![forbid(unsafe_code)]

pub mod disks;
pub mod enumerate;
pub mod forge;
pub mod history;
pub mod kills;
pub mod model;
pub mod spelled;
pub mod stop;

/// The program in the project's front page runs.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
