//! Fuzzes [`nearstone_fuzz::npy_bytes`].
#![cfg_attr(fuzzing, no_main)]
nearstone_fuzz::program!(npy_bytes);
