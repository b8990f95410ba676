//! Every kept input through its target, on stable: each file as it is, and each corpus file broken in simple ways, so that
//! the refusing paths run as well.

use nearstone_fuzz::{TARGETS, Target};
use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

/// Small enough to be kept in the repository and to be broken at every place in a moment.
const SEED_BYTES_MAX: usize = 32 << 10;

/// In how many places a seed is cut and changed: in all of them, unless it is larger than this.
const PLACES_MAX: usize = 4 << 10;

/// Files of `<room>/<target>`, in order; a folder that does not exist is empty.
fn files(room: &str, target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(room).join(target);
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.file_name().unwrap() != ".gitkeep").collect();
    paths.sort();
    paths
}

fn panics(target: Target, bytes: &[u8]) -> bool {
    catch_unwind(|| target(bytes)).is_err()
}

#[test]
fn every_seed_is_valid() {
    for (name, target) in TARGETS {
        for path in files("corpus", name) {
            assert!(
                target(&std::fs::read(&path).unwrap()),
                "{} is refused: write the seeds again",
                path.display()
            );
        }
    }
}

#[test]
fn every_kept_input_is_taken() {
    let mut broken = Vec::new();
    for (name, target) in TARGETS {
        for path in files("corpus", name).into_iter().chain(files("regressions", name)) {
            if panics(*target, &std::fs::read(&path).unwrap()) {
                broken.push(path);
            }
        }
    }
    assert!(broken.is_empty(), "these inputs panic: {broken:#?}");
}

#[test]
fn every_seed_is_taken_cut_short_and_with_each_byte_changed() {
    for (name, target) in TARGETS {
        for path in files("corpus", name) {
            let seed = std::fs::read(&path).unwrap();
            let step = seed.len().div_ceil(PLACES_MAX).max(1);
            for end in (0..seed.len()).step_by(step) {
                assert!(!panics(*target, &seed[..end]), "{} panics when cut to {end} bytes", path.display());
            }
            let mut bytes = seed.clone();
            for at in (0..bytes.len()).step_by(step) {
                for value in [seed[at] ^ 1, seed[at] ^ 0x80, 0, 0xff] {
                    bytes[at] = value;
                    assert!(!panics(*target, &bytes), "{} panics with byte {at} = {value}", path.display());
                }
                bytes[at] = seed[at];
            }
        }
    }
}

#[test]
fn every_target_has_small_seeds_and_a_program_and_every_folder_a_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, _) in TARGETS {
        let seeds = files("corpus", name);
        assert!(!seeds.is_empty(), "{name} has no seed");
        for seed in seeds {
            let len = std::fs::metadata(&seed).unwrap().len() as usize;
            assert!(
                len <= SEED_BYTES_MAX,
                "{} has {len} bytes, the limit is {SEED_BYTES_MAX}",
                seed.display()
            );
        }
        assert!(root.join("fuzz_targets").join(format!("{name}.rs")).is_file(), "{name} has no program");
    }
    let known: BTreeSet<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    for room in ["corpus", "regressions"] {
        for entry in std::fs::read_dir(root.join(room)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(known.contains(name.as_str()), "{room}/{name} belongs to no target");
        }
    }
}
