//! What `cargo xtask test` proves, in the order in which a failure is cheapest to learn of.
//!
//! Budgets are minutes on two cores with an empty target folder; together they stay below [`BUDGET_MINUTES_MAX`]. A
//! part whose tool cannot be had skips itself aloud; a part whose subject is missing from the project (no example,
//! no model) does so as well, so that nothing is silently left out.

use crate::fuzz;
use crate::python;
use crate::runner::{End, Part, Watch};
use crate::sanitize;
use crate::tools;
use crate::workspace::{Workspace, empty_folder};
use std::process::Command;
use std::time::Duration;

/// All parts together may plan for this many minutes.
#[cfg(test)]
const BUDGET_MINUTES_MAX: u32 = 55;

/// The advisory database is small: when it does not come in this time, it does not come.
const FETCH_LIMIT: Duration = Duration::from_secs(45);

/// Everything that proves the project.
pub(crate) const PARTS: &[Part] = &[
    Part { name: "fmt", budget_minutes: 1, what: "the code is formatted", run: fmt },
    Part {
        name: "clippy",
        budget_minutes: 3,
        what: "no lint complains, in any target or feature",
        run: clippy,
    },
    Part {
        name: "build",
        budget_minutes: 3,
        what: "it builds, also as it ships, without test features",
        run: build,
    },
    Part { name: "tests", budget_minutes: 7, what: "unit, property and integration tests pass", run: tests },
    Part {
        name: "doctests",
        budget_minutes: 1,
        what: "the programs in the documentation run",
        run: doctests,
    },
    Part { name: "docs", budget_minutes: 1, what: "the documentation builds without a warning", run: docs },
    Part { name: "examples", budget_minutes: 1, what: "every example runs to its end", run: examples },
    Part {
        name: "fuzz-replay",
        budget_minutes: 1,
        what: "decoders take every corpus file, whole and broken",
        run: fuzz_replay,
    },
    Part { name: "fuzz", budget_minutes: 5, what: "decoders take what a fuzzer makes up", run: fuzz::short },
    Part {
        name: "crash",
        budget_minutes: 6,
        what: "a hundred thousand disks that crashes leave are moments of the past",
        run: crash,
    },
    Part {
        name: "loom",
        budget_minutes: 2,
        what: "the models of concurrent parts hold in every order",
        run: loom,
    },
    Part {
        name: "shuttle",
        budget_minutes: 2,
        what: "a whole store holds in thousands of orders of its threads",
        run: shuttle,
    },
    Part {
        name: "seeded-bugs",
        budget_minutes: 5,
        what: "the tests notice every bug that is put in on purpose",
        run: seeded_bugs,
    },
    Part {
        name: "kill",
        budget_minutes: 2,
        what: "processes that die at any step lose nothing they acknowledged",
        run: kill,
    },
    Part {
        name: "valgrind",
        budget_minutes: 2,
        what: "nothing depends on memory that nobody wrote, or leaks",
        run: sanitize::short,
    },
    Part {
        name: "licences",
        budget_minutes: 3,
        what: "dependencies have known licences and sources",
        run: licences,
    },
    Part { name: "advisories", budget_minutes: 1, what: "no dependency has a known hole", run: advisories },
    Part {
        name: "package",
        budget_minutes: 2,
        what: "every published crate builds from its package",
        run: package,
    },
    Part { name: "demo", budget_minutes: 2, what: "the demo runs, optimised, in its short form", run: demo },
    Part {
        name: "python",
        budget_minutes: 5,
        what: "the wheel builds, installs, and passes its tests and LangChain's",
        run: python::test,
    },
];

fn fmt(workspace: &Workspace, watch: &Watch) -> Result<(), End> {
    watch.run(&mut workspace.cargo(&["fmt", "--all", "--check"]))?;
    watch.run(&mut workspace.cargo(&["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))
}

fn clippy(workspace: &Workspace, watch: &Watch) -> Result<(), End> {
    let targets = ["--all-targets", "--all-features", "--", "-D", "warnings"];
    watch.run(workspace.cargo(&["clippy", "--workspace"]).args(targets))?;
    watch.run(workspace.cargo(&["clippy", "--manifest-path", "fuzz/Cargo.toml"]).args(targets))
}

fn build(workspace: &Workspace, watch: &Watch) -> Result<(), End> {
    watch.run(&mut workspace.cargo(&["build", "--workspace"]))?;
    // Built together, the crates share the features that tests ask for; alone, they have to do without.
    watch.run(&mut workspace.cargo(&["build", "-p", "nearstone", "-p", "nearstone-cli"]))
}

fn tests(workspace: &Workspace, watch: &Watch) -> Result<(), End> {
    let kinds = ["--lib", "--bins", "--tests", "--no-fail-fast"];
    watch.run(workspace.cargo(&["test", "--workspace", "--all-features"]).args(kinds))
}

fn doctests(workspace: &Workspace, watch: &Watch) -> Result<(), End> {
    watch.run(&mut workspace.cargo(&["test", "--workspace", "--all-features", "--doc", "--no-fail-fast"]))
}

fn docs(workspace: &Workspace, watch: &Watch) -> Result<(), End> {
    // Libraries only: the program `nearstone` would write over the pages of the library of that name.
    let mut command = workspace.cargo(&["doc", "--workspace", "--all-features", "--no-deps", "--lib"]);
    watch.run(with_flags(&mut command, "RUSTDOCFLAGS", "-D warnings"))
}

fn examples(workspace: &Workspace, watch: &Watch) -> Result<(), End> {
    let mut any = false;
    for example in workspace.examples() {
        any = true;
        // Each starts in an empty folder, so that it meets no store of an earlier run and leaves none in the root.
        let folder = workspace.target.join("examples-run").join(example.name);
        empty_folder(&folder)
            .map_err(|error| End::Failed(format!("{} cannot be emptied: {error}", folder.display())))?;
        let mut command = workspace.cargo(&["run", "-p", example.package, "--example", example.name]);
        if !example.features.is_empty() {
            command.args(["--features", &example.features.join(",")]);
        }
        command.arg("--manifest-path").arg(workspace.root.join("Cargo.toml"));
        watch.run(command.current_dir(&folder))?;
    }
    if any { Ok(()) } else { Err(End::Skipped("there is no example".to_owned())) }
}

fn fuzz_replay(workspace: &Workspace, watch: &Watch) -> Result<(), End> {
    watch.run(&mut workspace.cargo(&["test", "--manifest-path", "fuzz/Cargo.toml"]))
}

/// So many disks, or as many as there are minutes for.
fn crash(workspace: &Workspace, watch: &Watch) -> Result<(), End> {
    // Of the whole workspace, so that what was built for the other tests serves here.
    let mut command = workspace.cargo(&["test", "--workspace", "--all-features", "--test", "enumerate"]);
    command.env("NEARSTONE_CRASH_IMAGES", "100000").env("NEARSTONE_CRASH_MINUTES", "4");
    watch.run(command.args(["--", "--nocapture"]))
}

/// A crate has models when it has an integration test named `loom`.
fn loom(workspace: &Workspace, watch: &Watch) -> Result<(), End> {
    checker(workspace, watch, "loom")
}

/// As [`loom`], by name.
fn shuttle(workspace: &Workspace, watch: &Watch) -> Result<(), End> {
    checker(workspace, watch, "shuttle")
}

/// The tests of this name, built with the checker's locks and atomics.
fn checker(workspace: &Workspace, watch: &Watch, name: &str) -> Result<(), End> {
    let mut any = false;
    for package in workspace.with_test(name) {
        any = true;
        let mut command = workspace.cargo(&["test", "--release", "-p", package, "--test", name]);
        // Other flags mean other builds: in a folder of their own, they do not push the usual ones out.
        command.arg("--target-dir").arg(workspace.target.join(name));
        // What takes long to link gains nothing here.
        command.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        command.env("CARGO_PROFILE_RELEASE_DEBUG", "0");
        watch.run(with_flags(&mut command, "RUSTFLAGS", &format!("--cfg nearstone_{name}")))?;
    }
    if any { Ok(()) } else { Err(End::Skipped(format!("no crate has an integration test named `{name}`"))) }
}

fn seeded_bugs(workspace: &Workspace, watch: &Watch) -> Result<(), End> {
    watch.run(&mut xtask(workspace, &["seeded-bugs"]))
}

/// Enough to let a process die at each of its steps six times.
fn kill(workspace: &Workspace, watch: &Watch) -> Result<(), End> {
    watch.run(&mut xtask(workspace, &["kill", "--cycles", "1236"]))
}

/// Another command of this program. Cargo finds it: a part before may have built it anew, and the file that runs now is
/// then no longer at its path.
fn xtask(workspace: &Workspace, words: &[&str]) -> Command {
    let mut command = workspace.cargo(&["run", "--quiet", "--package", "xtask", "--"]);
    command.args(words);
    command
}

fn licences(workspace: &Workspace, watch: &Watch) -> Result<(), End> {
    let tool = tools::cargo_tool(workspace, watch, tools::DENY)?;
    let mut command = Command::new(tool);
    watch.run(command.args(["check", "licenses", "bans", "sources"]).current_dir(&workspace.root))
}

fn advisories(workspace: &Workspace, watch: &Watch) -> Result<(), End> {
    let tool = tools::cargo_tool(workspace, watch, tools::DENY)?;
    let mut fetch = Command::new(&tool);
    watch
        .run_within(fetch.args(["fetch", "db"]).current_dir(&workspace.root), FETCH_LIMIT)
        .map_err(|_| End::Skipped("the advisory database cannot be fetched".to_owned()))?;
    let mut check = Command::new(&tool);
    watch.run(check.args(["check", "--disable-fetch", "advisories"]).current_dir(&workspace.root))
}

fn package(workspace: &Workspace, watch: &Watch) -> Result<(), End> {
    // Cargo orders the crates and lets each find the ones before it, though no registry has them yet. For that it puts
    // them into a registry inside of the target folder, and takes what a registry holds under one version for
    // unchangeable: at a path that was used before it would check the sources of that earlier time. So each run
    // gets a path of its own. Named outright, the folder also serves all crates with one build of a dependency.
    let room = workspace.target.join("package-check");
    let _ = std::fs::remove_dir_all(&room);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let mut command = workspace.cargo(&["package", "--workspace", "--allow-dirty"]);
    for name in workspace.unpublished() {
        command.args(["--exclude", name]);
    }
    let checked = watch.run(command.env("CARGO_TARGET_DIR", room.join(now.as_nanos().to_string())));
    let _ = std::fs::remove_dir_all(&room);
    checked
}

fn demo(workspace: &Workspace, watch: &Watch) -> Result<(), End> {
    // Enough passages for every step of it; the full number takes a minute longer and shows nothing else.
    let short = ["demo", "--passages", "2000"];
    watch.run(
        workspace.cargo(&["run", "--release", "-p", "nearstone-cli", "--bin", "nearstone", "--"]).args(short),
    )
}

/// Adds to flags that the environment may already hold.
fn with_flags<'a>(command: &'a mut Command, name: &str, flags: &str) -> &'a mut Command {
    let before = std::env::var(name).unwrap_or_default();
    command.env(name, format!("{before} {flags}").trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_fits_the_time_there_is() {
        let minutes: u32 = PARTS.iter().map(|part| part.budget_minutes).sum();
        assert!(minutes <= BUDGET_MINUTES_MAX, "{minutes} min are planned, {BUDGET_MINUTES_MAX} are there");
        assert!(PARTS.iter().all(|part| part.budget_minutes > 0));
    }

    #[test]
    fn names_are_unique_and_can_be_listed() {
        for (i, part) in PARTS.iter().enumerate() {
            assert!(PARTS[..i].iter().all(|other| other.name != part.name), "{}", part.name);
            assert!(!part.name.contains([',', ' ']) && !part.name.is_empty());
        }
    }

    #[test]
    fn a_program_built_anew_while_it_runs_still_starts_its_other_commands() {
        let workspace = Workspace::load().unwrap();
        let command = xtask(&workspace, &["kill", "--cycles", "1"]);
        let own = std::env::current_exe().unwrap();
        assert_ne!(command.get_program(), own.as_os_str());
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        assert_eq!(words.join(" "), "run --quiet --package xtask -- kill --cycles 1");
    }
}
