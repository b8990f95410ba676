//! The cargo subcommands that do not come with Rust: taken from where they are, or built once into `target/tools`,
//! so that nothing outside of the checkout changes.

use crate::runner::{End, Watch};
use crate::workspace::Workspace;
use std::path::{Path, PathBuf};

/// A program and the version to build when it is missing.
#[derive(Clone, Copy)]
pub(crate) struct Tool {
    name: &'static str,
    version: &'static str,
}

/// Checks licences, sources and advisories.
pub(crate) const DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };
/// Drives the fuzzer.
pub(crate) const FUZZ: Tool = Tool { name: "cargo-fuzz", version: "0.13.1" };
/// Makes up bugs.
pub(crate) const MUTANTS: Tool = Tool { name: "cargo-mutants", version: "27.1.0" };

/// Where the tool's program is, after building it when need be. A tool that cannot be built skips the part.
pub(crate) fn cargo_tool(workspace: &Workspace, watch: &Watch, tool: Tool) -> Result<PathBuf, End> {
    let room = workspace.target.join("tools");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(room.join("bin")).chain(std::env::split_paths(&path));
    if let Some(found) = find(tool.name, folders) {
        return Ok(found);
    }
    let wanted = format!("{}@{}", tool.name, tool.version);
    println!("    {} is missing: building {wanted} in {}", tool.name, room.display());
    let mut command = workspace.cargo(&["install", "--locked", &wanted, "--root"]);
    // In a target folder of its own, so that it neither waits for the project's builds nor mixes with them.
    command.arg(&room).arg("--target-dir").arg(room.join("build"));
    let built = watch.run(&mut command);
    // The program is all that is wanted; what it was built from is large.
    let _ = std::fs::remove_dir_all(room.join("build"));
    built.map_err(|end| End::Skipped(format!("{} cannot be installed: {}", tool.name, end.into_text())))?;
    find(tool.name, std::iter::once(room.join("bin")))
        .ok_or_else(|| End::Skipped(format!("{} was installed and is not there", tool.name)))
}

fn find(name: &str, mut folders: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    folders.find_map(|folder| Some(folder.join(&file)).filter(|path| Path::is_file(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_folder_with_the_program_wins() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folders = || [a.path().to_path_buf(), b.path().to_path_buf()].into_iter();
        let file = format!("thing{}", std::env::consts::EXE_SUFFIX);
        assert_eq!(find("thing", folders()), None);
        std::fs::write(b.path().join(&file), "").unwrap();
        assert_eq!(find("thing", folders()), Some(b.path().join(&file)));
        std::fs::write(a.path().join(&file), "").unwrap();
        assert_eq!(find("thing", folders()), Some(a.path().join(&file)));
    }
}
