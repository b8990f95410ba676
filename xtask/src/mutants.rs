//! `cargo xtask mutants`: small bugs that a program makes up (another comparison, another return value, a line left out)
//! in everything that writes, seals, merges or recovers, one at a time; a test should notice each.
//!
//! Two rounds. The first runs the tests of the crate with the bug, which are fast; what they miss meets the tests of the
//! whole store in the second. What both miss is listed: either a test is lacking, or the program does the same with the
//! bug as without. All of them take a night; `--shard 3/16` tries every sixteenth, from the third on (counted from 0).

use crate::runner::{End, Watch};
use crate::tools;
use crate::workspace::{Workspace, empty_folder};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Where a bug could cost data.
const FILES: &[&str] = &[
    "wal/src/*.rs",
    "engine/src/recovery.rs",
    "engine/src/write.rs",
    "engine/src/seal.rs",
    "engine/src/compact.rs",
    "engine/src/catalog/*.rs",
    "compaction/src/*.rs",
];

/// What has bugs made into it, or tests them: built fast instead of to be fast.
const BUILT_OFTEN: &[&str] = &["nearstone-wal", "nearstone-compaction", "nearstone", "nearstone-tests"];

/// Integration tests of the second round.
const WHOLE_STORE: &[&str] =
    &["api", "background", "bad_input", "crash", "damage", "enumerate", "faults", "hostile", "model"];

/// How long the installation of the tool may take, and everything else.
const LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

fn parse<'a>(words: &[&'a str]) -> Result<Option<&'a str>, String> {
    let shard = match words {
        [] => return Ok(None),
        ["--shard", shard] => *shard,
        [word] if word.starts_with("--shard=") => &word["--shard=".len()..],
        _ => return Err(format!("`mutants` takes --shard K/N, not {words:?}")),
    };
    let number = |text: &str| text.parse::<u32>().ok();
    match shard.split_once('/').map(|(k, n)| (number(k), number(n))) {
        Some((Some(k), Some(n))) if k < n => Ok(Some(shard)),
        _ => Err(format!("--shard needs two numbers K/N with K below N, not {shard:?}")),
    }
}

/// Runs both rounds and lists what neither noticed. Fails when they cannot be run, as `coverage` does.
pub(crate) fn run(words: &[&str]) -> Result<ExitCode, String> {
    let shard = parse(words)?;
    let workspace = Workspace::load()?;
    let tool = match tools::cargo_tool(&workspace, &Watch::new(LIMIT), tools::MUTANTS) {
        Err(End::Skipped(why)) => {
            println!("==> mutants SKIPPED: {why}");
            return Ok(ExitCode::SUCCESS);
        }
        tool => tool.map_err(End::into_text)?,
    };
    let room = workspace.target.join("mutants");
    let round = |number: u32| -> Result<Command, String> {
        let out = room.join(format!("round-{number}"));
        empty_folder(&out).map_err(|error| format!("{} cannot be emptied: {error}", out.display()))?;
        let mut command = Command::new(&tool);
        command.arg("mutants").current_dir(&workspace.root).arg("--output").arg(out);
        command.args(FILES.iter().flat_map(|file| ["--file", file]));
        command.args(["--exclude-re", "fmt::Debug", "--all-features", "--no-times", "--build-timeout=600"]);
        let fast = BUILT_OFTEN.iter().map(|name| format!("profile.test.package.{name}.opt-level=1"));
        command.args(
            fast.flat_map(|setting| ["--cargo-arg=--config".to_owned(), format!("--cargo-arg={setting}")]),
        );
        // Each round works in a copy of its own; what they are built from is built once.
        command.env("CARGO_TARGET_DIR", room.join("build"));
        command.env("NEARSTONE_HISTORIES", "60").env("NEARSTONE_CRASH_IMAGES", "1500");
        Ok(command)
    };

    let mut first = round(1)?;
    if let Some(shard) = shard {
        first.args(["--shard", shard, "--sharding=round-robin"]);
    }
    finish(first.args(["--timeout=120", "--cargo-arg=--lib", "--cargo-arg=--tests"]))?;
    let missed = missed(&room, 1)?;
    if missed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("==> {} meet the tests of the whole store", missed.len());
    let mut second = round(2)?;
    second.args(missed.iter().map(|name| format!("--re=^{}$", escaped(name))));
    // That the tests pass without a bug the first round has shown, or `cargo xtask test`.
    second.args(["--baseline=skip", "--timeout=400", "--test-package=nearstone-tests"]);
    finish(second.args(WHOLE_STORE.iter().map(|name| format!("--cargo-arg=--test={name}"))))?;
    Ok(ExitCode::SUCCESS)
}

/// Some being missed, or taking too long, is a result.
fn finish(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("cargo-mutants cannot be started: {error}"))?;
    match status.code() {
        Some(0 | 2 | 3) => Ok(()),
        _ => Err(format!("cargo-mutants ended with {status}")),
    }
}

fn missed(room: &Path, round: u32) -> Result<Vec<String>, String> {
    let file = room.join(format!("round-{round}/mutants.out/missed.txt"));
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// A regular expression that only `text` matches.
fn escaped(text: &str) -> String {
    let special = |c: char| r"\.+*?()|[]{}^$".contains(c);
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_one_of_so_many() {
        assert_eq!(parse(&[]), Ok(None));
        assert_eq!(parse(&["--shard", "3/16"]), Ok(Some("3/16")));
        assert_eq!(parse(&["--shard=0/1"]), Ok(Some("0/1")));
        for wrong in [&["--shard"][..], &["--shard", "4/4"], &["--shard=x/2"], &["3/16"], &["--fast"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn names_are_matched_as_they_are() {
        let name = "replace Log<A>::sync -> Result<Lsn> with Ok(1 + [x])";
        assert_eq!(escaped(name), r"replace Log<A>::sync -> Result<Lsn> with Ok\(1 \+ \[x\]\)");
    }

    #[test]
    fn the_files_and_tests_are_there() {
        let root = Workspace::load().unwrap().root;
        for file in FILES {
            let folder = root.join(file);
            let there =
                if file.ends_with("*.rs") { folder.parent().unwrap().is_dir() } else { folder.is_file() };
            assert!(there, "{file}");
        }
        for name in WHOLE_STORE {
            let [file, folder] = [format!("tests/tests/{name}.rs"), format!("tests/tests/{name}/main.rs")];
            assert!(root.join(&file).is_file() || root.join(&folder).is_file(), "{name}");
        }
    }
}
