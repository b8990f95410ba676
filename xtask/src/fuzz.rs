//! `cargo xtask fuzz`: runs the fuzz targets, one for as long as somebody wants, or all for a few seconds each.
//!
//! What the fuzzer finds interesting goes into `target/fuzz-corpus`; the committed seeds and regressions are read only.

use crate::HELP;
use crate::runner::{End, Watch};
use crate::tools;
use crate::workspace::Workspace;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// How long the installation of a tool may take when a person is waiting for it.
const INSTALL_LIMIT: Duration = Duration::from_secs(30 * 60);

/// How long each target runs as a part of the tests.
const SHORT_SECONDS: u64 = 20;

/// Which target to fuzz, and for how many minutes.
fn parse_fuzz<'a>(words: &[&'a str]) -> Result<(&'a str, u64), String> {
    let mut target = None;
    let mut minutes = 5;
    let mut words = words.iter();
    while let Some(&word) = words.next() {
        let number = match word {
            "--minutes" => Some(words.next().copied().unwrap_or("")),
            _ => word.strip_prefix("--minutes="),
        };
        match number {
            Some(number) => {
                minutes = number.parse().ok().filter(|n| *n > 0).ok_or_else(|| {
                    format!("--minutes needs a whole number of minutes from 1 up, not {number:?}")
                })?;
            }
            None if word.starts_with('-') || target.is_some() => {
                return Err(format!("`fuzz` does not know {word:?}\n\n{HELP}"));
            }
            None => target = Some(word),
        }
    }
    Ok((target.ok_or("`fuzz` needs the name of a target, or `all`")?, minutes))
}

/// Fuzzes what is named; the exit code says whether anything broke.
pub(crate) fn run(words: &[&str]) -> Result<ExitCode, String> {
    let (target, minutes) = parse_fuzz(words)?;
    let workspace = Workspace::load()?;
    let known = workspace.fuzz_targets()?;
    if target != "all" && !known.iter().any(|name| name == target) {
        return Err(format!("there is no fuzz target {target:?}; the targets are: {}", known.join(", ")));
    }
    let watch = Watch::new(INSTALL_LIMIT);
    let mut failed = false;
    for name in known.iter().filter(|name| target == "all" || *name == target) {
        println!("==> fuzzing {name} for {minutes} min");
        let mut command = fuzzer(&workspace, &watch, name, minutes * 60).map_err(End::into_text)?;
        let status = command.status().map_err(|error| format!("cargo fuzz cannot be started: {error}"))?;
        failed |= !status.success();
    }
    Ok(ExitCode::from(u8::from(failed)))
}

/// Every target for a short while.
pub(crate) fn short(workspace: &Workspace, watch: &Watch) -> Result<(), End> {
    let mut version = workspace.nightly("cargo".as_ref());
    if !version.arg("--version").output().is_ok_and(|output| output.status.success()) {
        return Err(End::Skipped("there is no nightly toolchain".to_owned()));
    }
    for name in workspace.fuzz_targets().map_err(End::Failed)? {
        watch.run(&mut fuzzer(workspace, watch, &name, SHORT_SECONDS)?)?;
    }
    Ok(())
}

/// The command that fuzzes one target.
fn fuzzer(workspace: &Workspace, watch: &Watch, name: &str, seconds: u64) -> Result<Command, End> {
    let tool = tools::cargo_tool(workspace, watch, tools::FUZZ)?;
    // What the fuzzer finds interesting goes into the first folder; the seeds in the others stay as they are.
    let found = workspace.target.join("fuzz-corpus").join(name);
    std::fs::create_dir_all(&found)
        .map_err(|error| End::Failed(format!("{} cannot be made: {error}", found.display())))?;
    let mut command = workspace.nightly(&tool);
    command.args(["fuzz", "run", name]).arg(found);
    command.args(["corpus", "regressions"].map(|room| workspace.root.join("fuzz").join(room).join(name)));
    command.args(["--", &format!("-max_total_time={seconds}")]);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_wants_one_target_and_whole_minutes() {
        assert_eq!(parse_fuzz(&["wal_bytes"]), Ok(("wal_bytes", 5)));
        assert_eq!(parse_fuzz(&["--minutes=2", "all"]), Ok(("all", 2)));
        assert_eq!(parse_fuzz(&["all", "--minutes", "30"]), Ok(("all", 30)));
        for wrong in [&[][..], &["a", "b"], &["a", "--minutes"], &["a", "--minutes", "0"], &["a", "--fast"]] {
            assert!(parse_fuzz(wrong).is_err(), "{wrong:?}");
        }
    }
}
