//! Fuzzes [`nearstone_fuzz::catalog_bytes`].
#![cfg_attr(fuzzing, no_main)]
nearstone_fuzz::program!(catalog_bytes);
