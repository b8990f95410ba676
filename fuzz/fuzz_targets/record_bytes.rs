//! Fuzzes [`nearstone_fuzz::record_bytes`].
#![cfg_attr(fuzzing, no_main)]
nearstone_fuzz::program!(record_bytes);
