//! Fuzzes [`nearstone_fuzz::vecs_bytes`].
#![cfg_attr(fuzzing, no_main)]
nearstone_fuzz::program!(vecs_bytes);
