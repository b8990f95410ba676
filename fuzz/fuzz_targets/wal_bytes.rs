//! Fuzzes [`nearstone_fuzz::wal_bytes`].
#![cfg_attr(fuzzing, no_main)]
nearstone_fuzz::program!(wal_bytes);
