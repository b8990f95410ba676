//! Developer commands: `cargo xtask test` proves the project, the others are shortcuts that are worth a name.
//!
//! The code is in twelve rooms. [`workspace`] asks cargo what there is, [`parts`] lists what `test` proves and how,
//! [`runner`] runs the parts under a time limit, [`report`] turns what happened into a table and an exit code,
//! [`tools`] finds or installs the cargo subcommands that do not come with Rust, [`python`] builds, tests and
//! measures the Python package, [`fuzz`] feeds the decoders what nobody thought of, [`kill`] kills processes at every
//! failpoint, [`seeded`] and [`mutants`] show that the tests would notice, [`sanitize`] runs them under tools that see
//! what a test can't, and [`coverage`] measures what they reach.

#![forbid(unsafe_code)]

mod coverage;
mod fuzz;
mod kill;
mod mutants;
mod parts;
mod python;
mod report;
mod runner;
mod sanitize;
mod seeded;
mod tools;
mod workspace;

use crate::runner::{End, Watch};
use crate::workspace::Workspace;
use std::process::ExitCode;
use std::time::Duration;

const HELP: &str = "\
Developer commands of Nearstone

  cargo xtask test                        prove everything, and print a table of it
  cargo xtask test --only NAME[,NAME...]  prove some parts
  cargo xtask test --list                 name the parts
  cargo xtask bench [ARGUMENTS...]        run the benchmarks, optimised, with these arguments
  cargo xtask bench peers [ARGUMENTS...]  measure Nearstone and other libraries side by side, from Python
  cargo xtask crash [--images N] [--seed N]
                                          open N distinct disks that crashes leave behind, 1,000,000 unless told
  cargo xtask kill [--cycles N] [--seed N]
                                          kill processes N times, 2,000 unless told, at random times and at every
                                          failpoint, and check what they leave behind
  cargo xtask fuzz TARGET [--minutes N]   fuzz one target (or `all`) for N minutes each, 5 unless told;
                                          needs a nightly toolchain
  cargo xtask seeded-bugs [NAME...]       make each seeded bug happen, and fail when its check does not notice
  cargo xtask mutants [--shard K/N]       list the small bugs, of all or every N-th that cargo-mutants makes up in log,
                                          engine and compaction, that no test notices
  cargo xtask sanitize [address|thread|valgrind|miri|all] [--short]
                                          run the tests under tools that see races, leaks and bad memory; address,
                                          thread and miri need a nightly toolchain, valgrind its own program
  cargo xtask coverage [--missing] [FOLDER...]
                                          count the lines and branches that tests reach; needs LLVM's tools
  cargo xtask help                        this text
";

/// How long the comparison with other libraries may take: hours on large sets.
const PEERS_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.split_first() {
        Some((&"test", rest)) => test(rest),
        Some((&"bench", rest)) => bench(rest),
        Some((&"crash", rest)) => crash(rest),
        Some((&"fuzz", rest)) => fuzz::run(rest),
        Some((&"kill", rest)) => kill::run(rest),
        Some((&"seeded-bugs", rest)) => seeded::run(rest),
        Some((&"mutants", rest)) => mutants::run(rest),
        Some((&"sanitize", rest)) => sanitize::run(rest),
        Some((&"coverage", rest)) => coverage::run(rest),
        Some((&("help" | "--help" | "-h"), _)) => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        Some((other, _)) => Err(format!("there is no command {other:?}\n\n{HELP}")),
        None => Err(HELP.to_owned()),
    };
    done.unwrap_or_else(|text| {
        eprintln!("{text}");
        ExitCode::from(2)
    })
}

/// What the words after `test` ask for.
#[derive(PartialEq, Eq, Debug)]
enum Wish<'a> {
    List,
    Run(Vec<&'a str>),
}

fn parse_test<'a>(words: &[&'a str], known: &[&str]) -> Result<Wish<'a>, String> {
    let mut only = Vec::new();
    let mut words = words.iter();
    while let Some(&word) = words.next() {
        let list = match word {
            "--list" => return Ok(Wish::List),
            "--only" => {
                words.next().copied().ok_or("--only needs the names of parts, separated by commas")?
            }
            _ => word.strip_prefix("--only=").ok_or(format!("`test` does not know {word:?}\n\n{HELP}"))?,
        };
        only.extend(list.split(',').map(str::trim).filter(|name| !name.is_empty()));
        if only.is_empty() {
            return Err("--only needs the names of parts, separated by commas".to_owned());
        }
    }
    match only.iter().find(|name| !known.contains(name)) {
        Some(name) => Err(format!("there is no part {name:?}; the parts are: {}", known.join(", "))),
        None => Ok(Wish::Run(only)),
    }
}

fn test(words: &[&str]) -> Result<ExitCode, String> {
    let known: Vec<&str> = parts::PARTS.iter().map(|part| part.name).collect();
    match parse_test(words, &known)? {
        Wish::List => {
            for part in parts::PARTS {
                println!("{:<12} {:>2} min  {}", part.name, part.budget_minutes, part.what);
            }
            Ok(ExitCode::SUCCESS)
        }
        Wish::Run(only) => {
            let workspace = Workspace::load()?;
            let chosen = parts::PARTS.iter().filter(|part| only.is_empty() || only.contains(&part.name));
            let rows: Vec<report::Row> = chosen.map(|part| runner::run_part(part, &workspace)).collect();
            println!("\n{}", report::table(&rows));
            println!("{}", report::totals(&rows));
            Ok(ExitCode::from(report::exit_code(&rows)))
        }
    }
}

fn bench(words: &[&str]) -> Result<ExitCode, String> {
    let workspace = Workspace::load()?;
    if let Some((&"peers", rest)) = words.split_first() {
        let done = python::bench_peers(&workspace, &Watch::new(PEERS_LIMIT), rest);
        return done.map(|()| ExitCode::SUCCESS).map_err(End::into_text);
    }
    let mut command = workspace.cargo(&["run", "--release", "-p", "nearstone-bench", "--"]);
    command.args(words);
    let status = command.status().map_err(|error| format!("cargo cannot be started: {error}"))?;
    Ok(ExitCode::from(if status.success() { 0 } else { 1 }))
}

/// How many disks to open, and with which seed to begin.
fn parse_crash(words: &[&str]) -> Result<(u64, u64), String> {
    let (mut images, mut seed) = (1_000_000, 1);
    let mut words = words.iter();
    while let Some(&word) = words.next() {
        let (name, number) = match word.split_once('=') {
            Some((name, number)) => (name, number),
            None => (word, words.next().copied().unwrap_or("")),
        };
        let place = match name {
            "--images" => &mut images,
            "--seed" => &mut seed,
            _ => return Err(format!("`crash` does not know {word:?}\n\n{HELP}")),
        };
        *place = number.parse().map_err(|_| format!("{name} needs a whole number, not {number:?}"))?;
    }
    Ok((images, seed))
}

fn crash(words: &[&str]) -> Result<ExitCode, String> {
    let (images, seed) = parse_crash(words)?;
    let workspace = Workspace::load()?;
    let mut command = workspace.cargo(&["test", "-p", "nearstone-tests", "--test", "enumerate"]);
    command.args(["--", "--nocapture"]);
    command.env("NEARSTONE_CRASH_IMAGES", images.to_string()).env("NEARSTONE_CRASH_SEED", seed.to_string());
    let status = command.status().map_err(|error| format!("cargo cannot be started: {error}"))?;
    Ok(ExitCode::from(u8::from(!status.success())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["fmt", "clippy", "tests"];

    #[test]
    fn only_takes_names_with_commas_and_repeats() {
        assert_eq!(parse_test(&[], KNOWN), Ok(Wish::Run(vec![])));
        assert_eq!(parse_test(&["--only", "fmt,clippy"], KNOWN), Ok(Wish::Run(vec!["fmt", "clippy"])));
        assert_eq!(
            parse_test(&["--only=fmt", "--only", "tests"], KNOWN),
            Ok(Wish::Run(vec!["fmt", "tests"]))
        );
        assert_eq!(parse_test(&["--list"], KNOWN), Ok(Wish::List));
    }

    #[test]
    fn an_unknown_part_is_refused_and_the_known_are_named() {
        let text = parse_test(&["--only", "fmt,lint"], KNOWN).unwrap_err();
        assert!(text.contains("\"lint\"") && text.contains("fmt, clippy, tests"), "{text}");
        assert!(parse_test(&["--only"], KNOWN).is_err());
        assert!(parse_test(&["--only="], KNOWN).is_err());
        assert!(parse_test(&["fmt"], KNOWN).is_err());
    }

    #[test]
    fn crash_takes_numbers_and_nothing_else() {
        assert_eq!(parse_crash(&[]), Ok((1_000_000, 1)));
        assert_eq!(parse_crash(&["--images", "5", "--seed=9"]), Ok((5, 9)));
        for wrong in [&["--images"][..], &["--images", "x"], &["--seed=-1"], &["5"]] {
            assert!(parse_crash(wrong).is_err(), "{wrong:?}");
        }
    }
}
