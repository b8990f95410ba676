//! `cargo xtask kill`: processes that are killed on a real file system, at random times and at every failpoint of the
//! sources, and a process that checks what they leave behind.
//!
//! Failpoints exist only in a build of their own (`--cfg nearstone_faults`, `target/faults`), as seeded bugs do. The
//! harness is the test program `process`; it prints the table and fails when a failpoint was never reached.

use crate::workspace::Workspace;
use std::process::ExitCode;

/// How often, unless told.
const CYCLES: u64 = 2_000;

/// How many kills, and with which seed to begin.
fn parse(words: &[&str]) -> Result<(u64, u64), String> {
    let (mut cycles, mut seed) = (CYCLES, 1);
    let mut words = words.iter();
    while let Some(&word) = words.next() {
        let (name, number) = match word.split_once('=') {
            Some((name, number)) => (name, number),
            None => (word, words.next().copied().unwrap_or("")),
        };
        let place = match name {
            "--cycles" => &mut cycles,
            "--seed" => &mut seed,
            _ => return Err(format!("`kill` does not know {word:?}; it takes --cycles N and --seed N")),
        };
        *place = number.parse().map_err(|_| format!("{name} needs a whole number, not {number:?}"))?;
    }
    Ok((cycles, seed))
}

pub(crate) fn run(words: &[&str]) -> Result<ExitCode, String> {
    let (cycles, seed) = parse(words)?;
    let workspace = Workspace::load()?;
    let mut command = workspace.cargo(&["test", "-p", "nearstone-tests", "--test", "process"]);
    command.arg("--target-dir").arg(workspace.target.join("faults"));
    command.args(["--", "--nocapture", "a_killed_process_loses_nothing_that_it_acknowledged"]);
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    command.env("RUSTFLAGS", format!("{flags} --cfg nearstone_faults").trim());
    command.env("NEARSTONE_KILLS", cycles.to_string()).env("NEARSTONE_KILL_SEED", seed.to_string());
    let status = command.status().map_err(|error| format!("cargo cannot be started: {error}"))?;
    Ok(ExitCode::from(u8::from(!status.success())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kill_takes_numbers_and_nothing_else() {
        assert_eq!(parse(&[]), Ok((2_000, 1)));
        assert_eq!(parse(&["--cycles", "5", "--seed=9"]), Ok((5, 9)));
        for wrong in [&["--cycles"][..], &["--cycles", "x"], &["--seed=-1"], &["5"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
