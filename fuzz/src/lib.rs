//! Fuzzing of everything that reads bytes from disk. The promise under test: **bytes never panic a decoder**; it
//! returns what they say, or an error. Two targets read their bytes as something else: `catalog_bytes` as edits to
//! the catalog of a store, `histories` as a history of a store with crashes in it, which must agree with a model.
//!
//! Each target is one function from bytes to whether they were accepted, named in [`TARGETS`], and it is the same
//! function in three places:
//!
//! - the fuzzer calls it with inputs it invents (`cargo xtask fuzz NAME`, nightly);
//! - `cargo test --manifest-path fuzz/Cargo.toml` replays `corpus/NAME` and `regressions/NAME` on stable, whole and broken;
//! - `cargo run --manifest-path fuzz/Cargo.toml --bin NAME -- FILE...` replays single files, under a debugger if need be.
//!
//! Where decoding has an inverse, a target also checks it: what was accepted encodes to the same bytes again.
//!
//! An input that broke something goes into `regressions/NAME` together with the fix. `corpus/NAME` holds small,
//! valid files to start from; `cargo run --example seeds` writes them again after a format has changed.

#![forbid(unsafe_code)]

use nearstone_base::record::{self, BatchEncoder, Operation};
use nearstone_datasets::{Format, parse_bytes};
use nearstone_tests::forge::ask::{ask, is_typed, write, writer};
use nearstone_tests::forge::{FOLDER, edits};
use std::panic::catch_unwind;
use std::process::ExitCode;

/// A fuzz target: whether the bytes were accepted.
pub type Target = fn(&[u8]) -> bool;

/// Every target by its name, which is also its folder in `corpus` and `regressions` and its program.
pub const TARGETS: &[(&str, Target)] = &[
    ("record_bytes", record_bytes),
    ("wal_bytes", wal_bytes),
    ("segment_bytes", segment_bytes),
    ("npy_bytes", npy_bytes),
    ("vecs_bytes", vecs_bytes),
    ("json_lines_bytes", json_lines_bytes),
    ("catalog_bytes", catalog_bytes),
    ("histories", histories),
];

/// The body of one log record.
pub fn record_bytes(bytes: &[u8]) -> bool {
    let Some(operations) = record::decode(bytes) else { return false };
    let mut batch = BatchEncoder::new();
    for operation in operations {
        match operation {
            Operation::Upsert { collection, key, vector, payload } => {
                batch.upsert(collection, key, &record::vector_from_bytes(vector), payload);
            }
            Operation::Delete { collection, key } => batch.delete(collection, key),
        }
    }
    assert_eq!(batch.finish(), bytes, "an accepted record has one encoding");
    true
}

/// One file of the write-ahead log.
pub fn wal_bytes(bytes: &[u8]) -> bool {
    nearstone_wal::read_bytes(bytes).is_ok()
}

/// One sealed segment: opened, searched and verified.
pub fn segment_bytes(bytes: &[u8]) -> bool {
    nearstone_segments::sealed::open_bytes(bytes).is_ok()
}

/// NumPy's array file.
pub fn npy_bytes(bytes: &[u8]) -> bool {
    parse(Format::Npy, bytes)
}

/// The vector files `fvecs` and `bvecs`, which differ in the width of a number.
pub fn vecs_bytes(bytes: &[u8]) -> bool {
    // Both are always tried.
    parse(Format::Fvecs, bytes) | parse(Format::Bvecs, bytes)
}

/// JSON, one row per line.
pub fn json_lines_bytes(bytes: &[u8]) -> bool {
    parse(Format::JsonLines, bytes)
}

/// Edits to the catalog of a store, which is then opened, read, written to and compacted.
pub fn catalog_bytes(bytes: &[u8]) -> bool {
    let Some(forged) = edits::forged(bytes) else { return false };
    quiet_panics();
    catch_unwind(|| {
        let read_only = writer(&forged.disk()).read_only(true).open(FOLDER);
        let answers = read_only.map(|store| ask(&store));
        let errors = match &answers {
            Ok(answers) => &answers.errors[..],
            Err(error) => std::slice::from_ref(error),
        };
        assert!(errors.iter().all(is_typed), "{errors:?}");
        let disk = forged.disk();
        let Ok(store) = writer(&disk).open(FOLDER) else { return false };
        let mut answers = ask(&store);
        write(&store, &disk, &mut answers);
        assert!(answers.errors.iter().all(is_typed), "{:?}", answers.errors);
        true
    })
    .unwrap_or_else(|panic| escaped(panic))
}

/// The catalog catches panics of redb, which are no finds; the fuzzer's hook would end the process at the first one.
fn quiet_panics() {
    #[cfg(fuzzing)]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| std::panic::set_hook(Box::new(|panic| eprintln!("{panic}"))));
    }
}

/// A panic that nobody caught is a find.
fn escaped(panic: Box<dyn std::any::Any + Send>) -> ! {
    #[cfg(fuzzing)]
    {
        drop(panic);
        std::process::abort();
    }
    #[cfg(not(fuzzing))]
    std::panic::resume_unwind(panic)
}

/// A history of a whole store, with crashes in it, against the model.
pub fn histories(bytes: &[u8]) -> bool {
    let Some((seed, ops)) = nearstone_tests::spelled::history(bytes) else { return false };
    if let Err(error) = nearstone_tests::history::History::run(seed, &ops) {
        panic!("{error}");
    }
    true
}

fn parse(format: Format, bytes: &[u8]) -> bool {
    let Ok(rows) = parse_bytes(format, bytes) else { return false };
    let lens = rows.iter().map(|row| row.vector.len());
    assert!(lens.clone().max() == lens.min(), "all vectors of a file have one dimension");
    assert!(rows.iter().flat_map(|row| &row.vector).all(|x| x.is_finite()), "vectors hold finite numbers");
    true
}

/// Calls a target with each file named on the command line: the whole of a target's program outside of the fuzzer.
pub fn replay_arguments(target: Target) -> ExitCode {
    for path in std::env::args_os().skip(1) {
        match std::fs::read(&path) {
            Ok(bytes) => {
                let verdict = if target(&bytes) { "accepted" } else { "refused" };
                println!("{}: {verdict}", path.display());
            }
            Err(error) => {
                eprintln!("{} cannot be read: {error}", path.display());
                return ExitCode::from(2);
            }
        }
    }
    ExitCode::SUCCESS
}

/// The program of a target: the fuzzer's entry point in its builds, a replay of named files in all others.
#[macro_export]
macro_rules! program {
    ($target:ident) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
            $crate::$target(bytes);
        });

        #[cfg(not(fuzzing))]
        fn main() -> std::process::ExitCode {
            $crate::replay_arguments($crate::$target)
        }
    };
}
