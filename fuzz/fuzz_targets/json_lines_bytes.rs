//! Fuzzes [`nearstone_fuzz::json_lines_bytes`].
#![cfg_attr(fuzzing, no_main)]
nearstone_fuzz::program!(json_lines_bytes);
