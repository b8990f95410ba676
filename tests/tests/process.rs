//! Real processes on a real file system, killed without warning: see [`nearstone_tests::kills`].
//!
//! `NEARSTONE_KILLS` sets how often (default 8), `NEARSTONE_KILL_SEED` with which seed to begin. With
//! `--cfg nearstone_faults` half of them die at failpoints: `cargo xtask kill` runs it so.

use nearstone_tests::kills::{Plan, be_a_child, points::POINTS, run};
use std::path::Path;

/// Not a test of its own: the child that is killed and the process that checks, when the environment says so.
#[test]
fn a_process_of_the_harness() {
    be_a_child();
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

#[test]
fn a_killed_process_loses_nothing_that_it_acknowledged() {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).to_path_buf();
    let plan = Plan { root, cycles: number("NEARSTONE_KILLS", 8), seed: number("NEARSTONE_KILL_SEED", 1) };
    let tally = run(&plan);
    println!("{tally}");
    // Often enough for each failpoint to have had several turns.
    if cfg!(nearstone_faults) && plan.cycles >= 8 * POINTS.len() as u64 {
        let never = tally.never_met();
        assert!(never.is_empty(), "NEVER REACHED, so these failpoints prove nothing: {never:?}");
    }
}
