//! Fuzzes [`nearstone_fuzz::segment_bytes`].
#![cfg_attr(fuzzing, no_main)]
nearstone_fuzz::program!(segment_bytes);
