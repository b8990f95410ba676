//! Fuzzes [`nearstone_fuzz::histories`].
#![cfg_attr(fuzzing, no_main)]
nearstone_fuzz::program!(histories);
