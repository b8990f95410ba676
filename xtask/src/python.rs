//! The Python side: virtual environments inside of the target folder, the wheel, its tests and the peers benchmark.
//!
//! Nothing outside of the checkout changes. The tests get a new environment each time, so that they prove what a user
//! who installs the wheel would have; the benchmark keeps its own, since its libraries take minutes to install.

use crate::runner::{End, Watch};
use crate::workspace::Workspace;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest Python that the wheel is for.
const OLDEST: (u32, u32) = (3, 10);

/// Builds the wheel in a new environment, installs it, and runs the tests and examples of the package.
pub(crate) fn test(workspace: &Workspace, watch: &Watch) -> Result<(), End> {
    let room = workspace.target.join("python");
    let python = environment(watch, &room.join("venv"), true)?;
    let sources = workspace.root.join("python");
    pip(watch, &python, &["-r"], &sources.join("tests/requirements.txt"))?;
    install_wheel(workspace, watch, &python, &room)?;

    let peers = workspace.root.join("bench/peers");
    // In a folder that holds no sources, so that what is imported is what was installed.
    let empty = emptied(&room.join("run"))?;
    let pytest = |tests: &Path| {
        let mut command = Command::new(&python);
        command.args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "-c"]);
        command.arg(sources.join("pyproject.toml")).arg(tests).current_dir(&empty);
        command
    };
    watch.run(&mut pytest(&sources.join("tests")))?;
    watch.run(&mut pytest(&peers.join("tests")))?;
    for example in examples(&sources.join("examples"))? {
        let mut run = Command::new(&python);
        watch.run(run.arg(&example).current_dir(emptied(&room.join("run"))?))?;
    }
    Ok(())
}

/// Measures Nearstone and its peers; `words` go on to the program.
pub(crate) fn bench_peers(workspace: &Workspace, watch: &Watch, words: &[&str]) -> Result<(), End> {
    let room = workspace.target.join("python");
    let peers = workspace.root.join("bench/peers");
    let python = environment(watch, &room.join("peers-venv"), false)?;
    pip(watch, &python, &["-r"], &peers.join("requirements.txt"))?;
    pip(watch, &python, &["-r"], &workspace.root.join("python/tests/build-requirements.txt"))?;
    install_wheel(workspace, watch, &python, &room)?;
    watch.run(Command::new(&python).arg(peers.join("run.py")).args(words).current_dir(&workspace.root))
}

/// The Python of a virtual environment, made anew or where there is none.
fn environment(watch: &Watch, room: &Path, anew: bool) -> Result<PathBuf, End> {
    let inside = if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" };
    let python = room.join(inside);
    if anew || !python.is_file() {
        let mut make = Command::new(interpreter()?);
        watch.run(make.args(["-m", "venv", "--clear"]).arg(room))?;
    }
    Ok(python)
}

/// A Python that is new enough: the one that `NEARSTONE_PYTHON` names, or the first of the usual names.
fn interpreter() -> Result<PathBuf, End> {
    let named = std::env::var_os("NEARSTONE_PYTHON").map(PathBuf::from);
    let candidates = match named {
        Some(path) => vec![path],
        None => vec!["python3".into(), "python".into()],
    };
    let new_enough = |path: &PathBuf| {
        let text = format!("import sys, venv; sys.exit(sys.version_info < {OLDEST:?})");
        Command::new(path).args(["-c", &text]).status().is_ok_and(|status| status.success())
    };
    let shown = format!("{candidates:?}");
    candidates.into_iter().find(new_enough).ok_or_else(|| {
        let (major, minor) = OLDEST;
        End::Skipped(format!("none of {shown} is a Python of at least {major}.{minor} with venv"))
    })
}

fn pip(watch: &Watch, python: &Path, options: &[&str], what: &Path) -> Result<(), End> {
    let mut install = Command::new(python);
    install.args(["-m", "pip", "--disable-pip-version-check", "install", "-q"]);
    watch.run(install.args(options).arg(what))
}

/// Builds the wheel as it ships, and installs that file.
fn install_wheel(workspace: &Workspace, watch: &Watch, python: &Path, room: &Path) -> Result<(), End> {
    let wheels = emptied(&room.join("wheels"))?;
    let mut build = Command::new(python);
    build.args(["-m", "maturin", "build", "--release", "--locked", "--interpreter"]).arg(python);
    build.arg("--manifest-path").arg(workspace.root.join("python/Cargo.toml")).arg("--out").arg(&wheels);
    build.env("CARGO_TARGET_DIR", &workspace.target).current_dir(&workspace.root);
    watch.run(&mut build)?;
    let wheel = files(&wheels, "whl")?
        .pop()
        .ok_or_else(|| End::Failed(format!("no wheel came to be in {}", wheels.display())))?;
    pip(watch, python, &["--force-reinstall", "--no-deps"], &wheel)
}

fn examples(folder: &Path) -> Result<Vec<PathBuf>, End> {
    let mut found = files(folder, "py")?;
    found.sort();
    if found.is_empty() {
        return Err(End::Failed(format!("{} holds no example", folder.display())));
    }
    Ok(found)
}

fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, End> {
    let entries = std::fs::read_dir(folder)
        .map_err(|error| End::Failed(format!("{} cannot be read: {error}", folder.display())))?;
    let paths = entries.flatten().map(|entry| entry.path());
    Ok(paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect())
}

/// The folder, with nothing in it.
fn emptied(folder: &Path) -> Result<PathBuf, End> {
    crate::workspace::empty_folder(folder)
        .map_err(|error| End::Failed(format!("{} cannot be emptied: {error}", folder.display())))?;
    Ok(folder.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_kind_are_found() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.py", "a.py", "c.txt"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(examples(folder.path()).unwrap(), ["a.py", "b.py"].map(|name| folder.path().join(name)));
        let empty = emptied(folder.path()).unwrap();
        assert!(matches!(examples(&empty), Err(End::Failed(text)) if text.contains("no example")));
    }
}
