//! `cargo xtask coverage`: which lines and branches of the product the tests reach, one row for each file.
//!
//! The tests are built with the compiler's own counters into `target/coverage`, run with small budgets, and what they
//! counted is read by LLVM's tools: those of the toolchain (`rustup component add llvm-tools`), those that the
//! variables `LLVM_PROFDATA` and `LLVM_COV` name, or the newest installed ones (Debian: `llvm-19`). Branches are
//! counted with a nightly toolchain only.
//!
//! Modules of tests inside of a file are no product: they end the file that has them, and are left out. A process that
//! is killed counts nothing, so what only the tests that kill processes reach counts as missed.

use crate::workspace::{Workspace, empty_folder};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What is measured unless told otherwise: what decides whether data survives.
const FOLDERS: &[&str] = &["wal/src", "compaction/src", "engine/src"];

/// Whose tests run.
const PACKAGES: &[&str] = &["nearstone-wal", "nearstone-compaction", "nearstone", "nearstone-tests"];

/// The oldest LLVM that reads what today's compilers write.
const LLVM_MIN: u32 = 19;
/// The newest that is looked for under its number.
const LLVM_MAX: u32 = 30;

/// Measures; the words are folders or files to show, and `--missing` lists the lines that no test reaches.
pub(crate) fn run(words: &[&str]) -> Result<ExitCode, String> {
    let missing = words.contains(&"--missing");
    let mut shown: Vec<&str> = words.iter().copied().filter(|word| *word != "--missing").collect();
    if let Some(unknown) = shown.iter().find(|word| word.starts_with('-')) {
        return Err(format!("`coverage` does not know {unknown:?}: it takes --missing, and folders"));
    }
    if shown.is_empty() {
        shown.extend(FOLDERS);
    }
    let workspace = Workspace::load()?;
    let nightly = nightly_cargo(&workspace);
    let Some(tools) = Tools::find(nightly) else {
        return Err(format!(
            "no llvm-profdata and llvm-cov of version {LLVM_MIN} or later: install the toolchain's \
             (rustup component add llvm-tools), or LLVM's, or name them in LLVM_PROFDATA and LLVM_COV"
        ));
    };
    if !nightly {
        println!("no nightly toolchain: lines are counted, branches are not");
    }
    let room = workspace.target.join("coverage");
    let (programs, passed) = count(&workspace, nightly, &room)?;
    let files = tools.read(&room, &programs)?;
    let mut measured = Vec::new();
    for (path, file) in files {
        let Ok(name) = path.strip_prefix(&workspace.root) else { continue };
        if shown.iter().any(|folder| name.starts_with(folder)) && !is_test(name) {
            let source = std::fs::read_to_string(&path)
                .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
            measured.push((name.display().to_string(), file.before(tests_begin(&source))));
        }
    }
    println!("\n{}", table(&measured, missing));
    if !passed {
        println!("A TEST FAILED: what it did not reach counts as missed");
    }
    Ok(ExitCode::from(u8::from(!passed)))
}

fn nightly_cargo(workspace: &Workspace) -> bool {
    let output = workspace.nightly_cargo().arg("--version").output();
    output.is_ok_and(|output| output.status.success())
}

/// A module of tests in a file or a folder of its own.
fn is_test(name: &Path) -> bool {
    name.file_stem().is_some_and(|stem| stem == "tests") || name.iter().any(|part| part == "tests")
}

/// The number of the line where a file's tests begin.
fn tests_begin(source: &str) -> u64 {
    let lines: Vec<&str> = source.lines().collect();
    let place = lines.windows(2).position(|pair| pair == ["#[cfg(test)]", "mod tests {"]);
    place.map_or(u64::MAX, |place| place as u64 + 1)
}

/// Builds and runs the tests with counters; the programs that counted, and whether all tests passed.
fn count(workspace: &Workspace, nightly: bool, room: &Path) -> Result<(Vec<PathBuf>, bool), String> {
    let raw = room.join("raw");
    let command = || {
        let mut command = if nightly { workspace.nightly_cargo() } else { workspace.cargo(&[]) };
        command.args(["test", "--lib", "--tests", "--no-fail-fast"]);
        command.args(PACKAGES.iter().flat_map(|package| ["-p", package]));
        command.arg("--target-dir").arg(room.join("build"));
        let branches = if nightly { " -Zcoverage-options=branch" } else { "" };
        let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
        command.env("RUSTFLAGS", format!("{flags} -Cinstrument-coverage{branches}").trim());
        // Several programs may run at once, and some run more than once: counts of one program are added up.
        command.env("LLVM_PROFILE_FILE", raw.join("%4m.profraw"));
        command.env("NEARSTONE_HISTORIES", "300").env("NEARSTONE_CRASH_IMAGES", "3000");
        command.env("NEARSTONE_KILLS", "2");
        command
    };
    let built = command()
        .args(["--no-run", "--message-format", "json"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo cannot be started: {error}"))?;
    if !built.status.success() {
        return Err("the tests do not build with counters".to_owned());
    }
    // What ran during the build counted too: derive macros and build scripts.
    empty_folder(&raw).map_err(|error| format!("{} cannot be emptied: {error}", raw.display()))?;
    let status = command().status().map_err(|error| format!("cargo cannot be started: {error}"))?;
    let lines = String::from_utf8_lossy(&built.stdout).into_owned();
    let messages = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let programs = messages.filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)));
    Ok((programs.collect(), status.success()))
}

/// LLVM's programs that read the counts.
struct Tools {
    profdata: PathBuf,
    cov: PathBuf,
}

impl Tools {
    fn find(nightly: bool) -> Option<Tools> {
        let named = |name: &str| std::env::var_os(name).map(PathBuf::from);
        if let (Some(profdata), Some(cov)) = (named("LLVM_PROFDATA"), named("LLVM_COV")) {
            return Some(Tools { profdata, cov });
        }
        let of_toolchain = toolchain_folder(nightly)
            .into_iter()
            .map(|folder| Tools { profdata: folder.join("llvm-profdata"), cov: folder.join("llvm-cov") });
        let numbered = (LLVM_MIN..=LLVM_MAX).rev().map(|version| Tools {
            profdata: format!("llvm-profdata-{version}").into(),
            cov: format!("llvm-cov-{version}").into(),
        });
        let plain = Tools { profdata: "llvm-profdata".into(), cov: "llvm-cov".into() };
        of_toolchain.chain(numbered).chain([plain]).find(|tools| {
            version(&tools.profdata).is_some_and(|version| version >= LLVM_MIN)
                && version(&tools.cov).is_some_and(|version| version >= LLVM_MIN)
        })
    }

    /// The counts of every source file.
    fn read(&self, room: &Path, programs: &[PathBuf]) -> Result<BTreeMap<PathBuf, Counts>, String> {
        let merged = room.join("merged.profdata");
        let mut merge = Command::new(&self.profdata);
        merge.args(["merge", "-sparse", "-o"]).arg(&merged);
        let raw = room.join("raw");
        let entries =
            std::fs::read_dir(&raw).map_err(|error| format!("{} cannot be read: {error}", raw.display()))?;
        merge.args(entries.flatten().map(|entry| entry.path()));
        output(&mut merge)?;
        let export = |format: &str| {
            let mut command = Command::new(&self.cov);
            command.args(["export", &format!("-format={format}"), "-instr-profile"]).arg(&merged);
            for program in programs {
                command.arg("-object").arg(program);
            }
            command
        };
        let mut files = BTreeMap::new();
        lines(&output(&mut export("lcov"))?, &mut files);
        let text = output(&mut export("text"))?;
        let json = serde_json::from_str(&text).map_err(|error| format!("llvm-cov gave no JSON: {error}"))?;
        branches(&json, &mut files);
        Ok(files)
    }
}

fn toolchain_folder(nightly: bool) -> Option<PathBuf> {
    let mut command = Command::new("rustc");
    if nightly {
        command.env_remove("RUSTUP_TOOLCHAIN").arg("+nightly");
    }
    let sysroot = output(command.args(["--print", "target-libdir"])).ok()?;
    Some(Path::new(sysroot.trim()).parent()?.join("bin"))
}

/// The major version of one of LLVM's programs.
fn version(program: &Path) -> Option<u32> {
    let text = output(Command::new(program).arg("--version")).ok()?;
    text.split("LLVM version ").nth(1)?.split('.').next()?.parse().ok()
}

fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name} cannot be started: {error}"))?;
    if !output.status.success() {
        return Err(format!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What was counted in one file.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Counts {
    /// Executions, by line.
    lines: BTreeMap<u64, u64>,
    /// How often a condition was true and false, by where it begins and ends. Copies of one generic function add up.
    branches: BTreeMap<[u64; 4], [u64; 2]>,
}

impl Counts {
    fn before(mut self, line: u64) -> Counts {
        self.lines.retain(|at, _| *at < line);
        self.branches.retain(|at, _| at[0] < line);
        self
    }

    fn missed(&self) -> BTreeSet<u64> {
        self.lines.iter().filter(|(_, count)| **count == 0).map(|(line, _)| *line).collect()
    }

    /// Ways a condition may go that were gone, and all of them.
    fn ways(&self) -> (usize, usize) {
        let gone = self.branches.values().flatten().filter(|count| **count > 0).count();
        (gone, 2 * self.branches.len())
    }
}

/// Reads the `SF` and `DA` lines of an lcov report.
fn lines(report: &str, files: &mut BTreeMap<PathBuf, Counts>) {
    let mut file: Option<&mut Counts> = None;
    for line in report.lines() {
        if let Some(path) = line.strip_prefix("SF:") {
            file = Some(files.entry(PathBuf::from(path)).or_default());
        } else if let Some((line, count)) = line.strip_prefix("DA:").and_then(|rest| rest.split_once(','))
            && let (Some(file), Ok(line), Ok(count)) = (&mut file, line.parse(), count.parse::<u64>())
        {
            *file.lines.entry(line).or_default() += count;
        }
    }
}

/// Reads the branches of a report in JSON: `[line, column, end line, end column, true, false, ...]`.
fn branches(report: &Value, files: &mut BTreeMap<PathBuf, Counts>) {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for file in list(&report["data"][0]["files"]) {
        let counts = files.entry(PathBuf::from(file["filename"].as_str().unwrap_or_default())).or_default();
        for branch in list(&file["branches"]) {
            let number = |place: usize| branch[place].as_u64().unwrap_or_default();
            let sums = counts.branches.entry([0, 1, 2, 3].map(number)).or_default();
            sums[0] += number(4);
            sums[1] += number(5);
        }
    }
}

fn table(measured: &[(String, Counts)], missing: bool) -> String {
    let width = measured.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(4);
    let mut out = format!("{:<width$}  lines          %  branches       %\n", "file");
    let mut sums = [0; 4];
    for (name, counts) in measured {
        let (gone, ways) = counts.ways();
        let lines = counts.lines.len();
        let row = [lines - counts.missed().len(), lines, gone, ways];
        out.push_str(&table_row(name, width, row));
        sums = std::array::from_fn(|i| sums[i] + row[i]);
    }
    out.push_str(&table_row("all", width, sums));
    for (name, counts) in measured.iter().filter(|(_, counts)| missing && !counts.missed().is_empty()) {
        write!(out, "\n{name}: lines {}", ranges(&counts.missed()))
            .expect("writing to a string does not fail");
    }
    out
}

fn table_row(name: &str, width: usize, [hit, lines, gone, ways]: [usize; 4]) -> String {
    let share = |part: usize, all: usize| match all {
        0 => "-".to_owned(),
        _ => format!("{:.1}", 100.0 * part as f64 / all as f64),
    };
    let (lines_share, ways_share) = (share(hit, lines), share(gone, ways));
    format!(
        "{name:<width$}  {hit:>4} of {lines:<4} {lines_share:>5}  {gone:>4} of {ways:<4} {ways_share:>5}\n"
    )
}

/// `3-5, 9`.
fn ranges(lines: &BTreeSet<u64>) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for &line in lines {
        match ranges.last_mut() {
            Some((_, end)) if *end + 1 == line => *end = line,
            _ => ranges.push((line, line)),
        }
    }
    let text = |(start, end): &(u64, u64)| match start == end {
        true => start.to_string(),
        false => format!("{start}-{end}"),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counts_of_both_reports_meet_and_copies_add_up() {
        let mut files = BTreeMap::new();
        lines(
            "SF:/w/a.rs\nFN:1,f\nDA:1,2\nDA:2,0\nDA:3,0\nDA:9,0\nend_of_record\nSF:/w/b.rs\nDA:1,1\n",
            &mut files,
        );
        let branch = |t: u64, f: u64| json!([2, 4, 2, 9, t, f, 0, 0, 4]);
        branches(
            &json!({"data": [{"files": [{"filename": "/w/a.rs", "branches": [branch(0, 1), branch(3, 0)]}]}]}),
            &mut files,
        );
        let a = &files[Path::new("/w/a.rs")];
        assert_eq!(ranges(&a.missed()), "2-3, 9");
        assert_eq!((a.branches[&[2, 4, 2, 9]], a.ways()), ([3, 1], (2, 2)));
        assert_eq!(a.clone().before(3).missed().len(), 1);
        let b = files[Path::new("/w/b.rs")].clone();
        let text = table(&[("a.rs".to_owned(), a.clone()), ("b.rs".to_owned(), b)], true);
        assert_eq!(
            text,
            "file  lines          %  branches       %\n\
             a.rs     1 of 4     25.0     2 of 2    100.0\n\
             b.rs     1 of 1    100.0     0 of 0        -\n\
             all      2 of 5     40.0     2 of 2    100.0\n\
             \na.rs: lines 2-3, 9"
        );
    }

    #[test]
    fn tests_are_no_product() {
        assert_eq!(tests_begin("#[cfg(test)]\nmod tests;\nfn a() {}\n#[cfg(test)]\nmod tests {\n}\n"), 4);
        assert_eq!(tests_begin("fn a() {}\n"), u64::MAX);
        assert!(is_test(Path::new("engine/src/catalog/tests/disk.rs")));
        assert!(is_test(Path::new("segments/src/graph/tests.rs")));
        assert!(!is_test(Path::new("engine/src/catalog/state.rs")));
    }
}
