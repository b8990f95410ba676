//! `cargo xtask sanitize`: the tests once more, under tools that see what a test cannot.
//!
//! | tool | sees | of what |
//! |---|---|---|
//! | `address` | memory used outside of its bounds or after its end, leaks | unit and integration tests |
//! | `thread` | data races | unit and integration tests |
//! | `valgrind` | decisions on memory that nobody wrote, bad reads, leaks | integration tests, segments' unit tests |
//! | `miri` | undefined behaviour, also where it does no harm yet | unit tests that touch no file |
//!
//! Debug assertions are on, and the code is optimised as in every test. A tool makes the tests 3 to 30 times slower, so
//! histories are fewer, and what repeats one thing thousands of times on a simulated disk (`enumerate`, `faults`) or
//! measures (`recall`) is left out.
//!
//! - `address` follows what is compiled here, dependencies included. The standard library comes compiled, without its
//!   checks; what it asks of the C library is watched all the same.
//! - `thread` has to follow the standard library too: a once-cell, the end of a scope and the last owner of an `Arc`
//!   make their order inside of it, and every use of one would look like a race. So it needs the library's sources
//!   (`rustup +nightly component add rust-src`, or their folder `library` in `NEARSTONE_STD_SOURCES`), compiles them
//!   along, and nothing is suppressed. Where they are, `address` uses them as well.
//! - `valgrind` knows no AVX-512, so the kernels of AVX2 run, and one thread at a time.
//! - `miri` knows few intrinsics, so the portable kernels run.
//!
//! A tool that is not there is skipped aloud.

use crate::report;
use crate::runner::{End, Part, Watch, run_part};
use crate::workspace::Workspace;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const PACKAGES: &[&str] = &[
    "nearstone-base",
    "nearstone-wal",
    "nearstone-segments",
    "nearstone-kernels",
    "nearstone-compaction",
    "nearstone",
    "nearstone-tests",
];

/// Where the memory is that is not only the compiler's business, for short runs.
const IN_SHORT: &[&str] = &["nearstone-segments", "nearstone-wal", "nearstone-tests"];

/// Integration tests in which several threads use a store.
const THREADS: &[&str] = &["api", "concurrency", "log"];

/// How much a tool runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    Whole,
    Short,
}

/// Runs the tools that the words name.
pub(crate) fn run(words: &[&str]) -> Result<ExitCode, String> {
    let (name, size) = parse(words)?;
    let workspace = Workspace::load()?;
    let chosen = tools(size).into_iter().filter(|tool| name == "all" || tool.name == name);
    let rows: Vec<report::Row> = chosen.map(|tool| run_part(&tool, &workspace)).collect();
    println!("\n{}", report::table(&rows));
    println!("{}", report::totals(&rows));
    Ok(ExitCode::from(report::exit_code(&rows)))
}

fn parse<'a>(words: &[&'a str]) -> Result<(&'a str, Size), String> {
    let mut name = None;
    let mut size = Size::Whole;
    let known: Vec<&str> = tools(size).iter().map(|tool| tool.name).collect();
    for &word in words {
        match word {
            "--short" => size = Size::Short,
            _ if name.is_none() && (word == "all" || known.contains(&word)) => name = Some(word),
            _ => {
                return Err(format!(
                    "`sanitize` takes --short and one of {}, all; not {word:?}",
                    known.join(", ")
                ));
            }
        }
    }
    Ok((name.unwrap_or("all"), size))
}

fn tools(size: Size) -> Vec<Part> {
    let short = size == Size::Short;
    let minutes = |whole: u32, in_short: u32| if short { in_short } else { whole };
    vec![
        Part {
            name: "address",
            budget_minutes: minutes(10, 5),
            what: "no memory is used outside of its bounds or life, and none leaks",
            run: if short { |w, c| address(w, c, Size::Short) } else { |w, c| address(w, c, Size::Whole) },
        },
        Part {
            name: "thread",
            budget_minutes: minutes(12, 5),
            what: "no two threads use the same memory without an order",
            run: if short { |w, c| thread(w, c, Size::Short) } else { |w, c| thread(w, c, Size::Whole) },
        },
        Part {
            name: "valgrind",
            budget_minutes: minutes(10, 5),
            what: "nothing depends on memory that nobody wrote",
            run: if short { |w, c| valgrind(w, c, Size::Short) } else { |w, c| valgrind(w, c, Size::Whole) },
        },
        Part {
            name: "miri",
            budget_minutes: 8,
            what: "an interpreter finds no undefined behaviour",
            run: miri,
        },
    ]
}

fn address(workspace: &Workspace, watch: &Watch, size: Size) -> Result<(), End> {
    let nightly = Nightly::find(workspace)?;
    let mut command = nightly.instrumented(workspace, "address", "-Zsanitizer=address");
    match size {
        Size::Whole => {
            let others = ["bad_input", "crash", "damage", "model", "process", "vfs"];
            select(&mut command, PACKAGES, &[THREADS, &others].concat());
        }
        Size::Short => select(&mut command, IN_SHORT, &["api", "bad_input", "model"]),
    }
    budget(&mut command, "100");
    // An error ends the program at once, with a signal that no test harness takes for something else.
    command.env("ASAN_OPTIONS", "detect_leaks=1:detect_stack_use_after_return=1:abort_on_error=1");
    watch.run(&mut command)
}

fn thread(workspace: &Workspace, watch: &Watch, size: Size) -> Result<(), End> {
    let nightly = Nightly::find(workspace)?;
    if nightly.sources.is_none() {
        return Err(End::Skipped(
            "the nightly toolchain has no sources of the standard library (rustup +nightly component add rust-src, \
             or NEARSTONE_STD_SOURCES)"
                .to_owned(),
        ));
    }
    let run = |packages: &[&str], tests: &[&str], filters: &[&str]| {
        let mut command = nightly.instrumented(workspace, "thread", "-Zsanitizer=thread");
        select(&mut command, packages, tests);
        budget(&mut command, "30");
        command.env("TSAN_OPTIONS", "exitcode=66:history_size=4");
        watch.run(command.arg("--").args(filters))
    };
    // Of the segments, what several threads use at once: sweeps over damaged files take ten times as long.
    run(&["nearstone-segments"], &[], &["append::", "deaths::", "graph::", "mutable::", "--skip", "recall"])?;
    match size {
        Size::Whole => {
            let others: Vec<&str> =
                PACKAGES.iter().copied().filter(|name| *name != "nearstone-segments").collect();
            run(&others, &[THREADS, &["bad_input", "crash", "model", "vfs"]].concat(), &[])
        }
        Size::Short => run(&["nearstone-wal", "nearstone-tests"], THREADS, &[]),
    }
}

fn valgrind(workspace: &Workspace, watch: &Watch, size: Size) -> Result<(), End> {
    if !succeeds(Command::new("valgrind").arg("--version")) {
        return Err(End::Skipped("there is no valgrind".to_owned()));
    }
    let runner = [
        "valgrind",
        "--quiet",
        "--error-exitcode=99",
        "--leak-check=full",
        "--show-leak-kinds=definite",
        "--errors-for-leak-kinds=definite",
        // Threads take turns: one that spins would otherwise keep the others from what it waits for.
        "--fair-sched=try",
    ];
    let runner = format!("target.{}.runner={runner:?}", host(&mut Command::new("rustc"))?);
    // The tests as they are always built.
    let tests = || {
        let mut command = workspace.cargo(&["test", "--no-fail-fast", "--config", &runner]);
        budget(&mut command, if size == Size::Short { "4" } else { "12" });
        command.env("PROPTEST_CASES", "16");
        command
    };
    if size == Size::Short {
        // Of the whole workspace, so that what was built for the other tests serves here.
        let run = |kinds: &[&str], filters: &[&str]| {
            watch.run(tests().args(["--workspace", "--all-features"]).args(kinds).arg("--").args(filters))
        };
        run(&["--test", "bad_input", "--test", "model"], &[])?;
        return run(&["--lib"], IN_RAW_MEMORY);
    }
    let run = |packages: &[&str], names: &[&str], filters: &[&str]| {
        let mut command = tests();
        select(&mut command, packages, names);
        watch.run(command.arg("--").args(filters))
    };
    let rooms = ["nearstone-base", "nearstone-kernels", "nearstone-tests"];
    run(&rooms, &["api", "bad_input", "crash", "model"], &[])?;
    // Without those that measure what large graphs and many codes find.
    let slow = [
        "recall",
        "four_threads",
        "no_unlinked_row",
        "walks_find",
        "searches_while",
        "odd_",
        "few_best",
        "estimates_are_unbiased",
        "within_their_bound",
    ];
    run(&["nearstone-segments"], &[], &slow.map(|name| ["--skip", name]).concat())
}

/// The share of valgrind that is a part of the tests.
pub(crate) fn short(workspace: &Workspace, watch: &Watch) -> Result<(), End> {
    valgrind(workspace, watch, Size::Short)
}

/// Unit tests of what handles memory by itself (kernels, the map, appended rows) and of the bytes that are read.
const IN_RAW_MEMORY: &[&str] = &[
    "append::",
    "bytes_agree",
    "deaths::",
    "floats_agree",
    "inline::tests",
    "map::",
    "record::",
    "rotation::",
    "sealed::format",
    "topk::",
];

fn miri(workspace: &Workspace, watch: &Watch) -> Result<(), End> {
    Nightly::find(workspace)?;
    if !succeeds(workspace.nightly_cargo().args(["miri", "--version"])) {
        return Err(End::Skipped(
            "the nightly toolchain has no miri (rustup +nightly component add miri rust-src)".to_owned(),
        ));
    }
    let mut command = workspace.nightly_cargo();
    command.args(["miri", "test", "-p", "nearstone-segments", "-p", "nearstone-wal", "--lib"]);
    command.arg("--target-dir").arg(folder(workspace, "miri"));
    command.arg("--").args(IN_MEMORY);
    // Time and randomness come from the host; everything else in these tests lives in memory.
    command.env("MIRIFLAGS", "-Zmiri-disable-isolation").env("PROPTEST_CASES", "4");
    watch.run(&mut command)
}

/// Unit tests that touch no file and are small enough for an interpreter: rows that readers see while others are
/// appended, deaths, links, sealed segments on the heap, and the log's format.
const IN_MEMORY: &[&str] = &[
    "append::",
    "deaths::",
    "graph::build::",
    "graph::pages::",
    "graph::tests::",
    "mutable::link::",
    "mutable::tests::frozen_segments_take_no_rows",
    "mutable::tests::rows_are_seen_from_birth_to_death",
    "mutable::tests::string_keys_payloads_and_sizes_are_kept",
    "sealed::tests::every_accessor_gives_what_was_written",
    "sealed::tests::the_smallest_segments_work",
    "topk::",
    "format::",
];

/// Runs the unit tests of some packages, and some of their integration tests.
fn select(command: &mut Command, packages: &[&str], tests: &[&str]) {
    command.args(packages.iter().flat_map(|package| ["-p", package])).arg("--lib");
    command.args(tests.iter().flat_map(|test| ["--test", test]));
}

/// Histories and killed processes.
fn budget(command: &mut Command, histories: &str) {
    command.env("NEARSTONE_HISTORIES", histories).env("NEARSTONE_KILLS", "3");
}

/// A nightly toolchain.
struct Nightly {
    host: String,
    /// The standard library's sources, if they are there.
    sources: Option<PathBuf>,
}

impl Nightly {
    fn find(workspace: &Workspace) -> Result<Nightly, End> {
        if !succeeds(workspace.nightly_cargo().arg("--version")) {
            return Err(End::Skipped(
                "there is no nightly toolchain (rustup toolchain install nightly)".to_owned(),
            ));
        }
        let rustc = || {
            let mut rustc = Command::new("rustc");
            rustc.env_remove("RUSTUP_TOOLCHAIN").arg("+nightly");
            rustc
        };
        let sysroot = text(rustc().args(["--print", "sysroot"]))?;
        let installed = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
        let named = std::env::var_os("NEARSTONE_STD_SOURCES").map(PathBuf::from);
        let sources = named.into_iter().chain([installed]).find(|folder| folder.join("Cargo.lock").is_file());
        Ok(Nightly { host: host(&mut rustc())?, sources })
    }

    /// `cargo test` with a sanitizer in everything that runs, and in nothing that only builds: for that the target has
    /// to be named.
    fn instrumented(&self, workspace: &Workspace, tool: &str, flags: &str) -> Command {
        let mut command = workspace.nightly_cargo();
        command.args(["test", "--no-fail-fast", "--target", &self.host]);
        if let Some(sources) = &self.sources {
            // Cargo looks into the toolchain unless this, which it has for its own tests, says otherwise.
            command.arg("-Zbuild-std").env("__CARGO_TESTS_ONLY_SRC_ROOT", sources);
        }
        command.arg("--target-dir").arg(folder(workspace, tool));
        let before = std::env::var("RUSTFLAGS").unwrap_or_default();
        command.env("RUSTFLAGS", format!("{before} {flags}").trim());
        command
    }
}

fn folder(workspace: &Workspace, tool: &str) -> PathBuf {
    workspace.target.join("sanitize").join(tool)
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn text(command: &mut Command) -> Result<String, End> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output =
        command.output().map_err(|error| End::Failed(format!("{name} cannot be started: {error}")))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The triple of the machine that a compiler runs on.
fn host(rustc: &mut Command) -> Result<String, End> {
    let version = text(rustc.arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| End::Failed("rustc does not say its host".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tool_or_all_and_perhaps_short() {
        let parsed = |words| parse(words).map(|(name, size)| (name, size == Size::Short));
        assert_eq!(parsed(&[]), Ok(("all", false)));
        assert_eq!(parsed(&["--short"]), Ok(("all", true)));
        assert_eq!(parsed(&["thread", "--short"]), Ok(("thread", true)));
        for wrong in [&["memory"][..], &["thread", "address"], &["--long"]] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_interpreter_is_sent_to_files_that_exist() {
        let root = Workspace::load().unwrap().root;
        for filter in IN_MEMORY {
            // A module, or one test in a module's file of tests.
            let (module, test) = filter.split_once("::tests").unwrap_or((filter, ""));
            let module = module.trim_end_matches("::").replace("::", "/");
            let files = ["segments/src", "wal/src"].map(|source| match test {
                "" => root.join(format!("{source}/{module}.rs")),
                _ => root.join(format!("{source}/{module}/tests.rs")),
            });
            let text = files.iter().find_map(|file| std::fs::read_to_string(file).ok());
            let text = text.unwrap_or_else(|| panic!("{filter} is in no file"));
            assert!(text.contains(&format!("fn {}", test.trim_matches(':'))), "{filter} is no test");
        }
    }
}
