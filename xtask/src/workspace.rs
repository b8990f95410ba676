//! What there is to work on, asked of cargo once: packages, examples, models, fuzz targets, and where things are built.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace, as `cargo metadata` describes it.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    /// Where the root manifest is.
    pub(crate) root: PathBuf,
    /// Where cargo builds.
    pub(crate) target: PathBuf,
    packages: Vec<Package>,
}

#[derive(Debug)]
struct Package {
    name: String,
    published: bool,
    targets: Vec<Target>,
}

#[derive(Debug)]
struct Target {
    name: String,
    kind: String,
    features: Vec<String>,
}

/// An example program, and the features it asks for.
pub(crate) struct Example<'a> {
    pub(crate) package: &'a str,
    pub(crate) name: &'a str,
    pub(crate) features: &'a [String],
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn load() -> Result<Workspace, String> {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace");
        Workspace::from_metadata(&metadata(&root.join("Cargo.toml"))?)
    }

    /// One without packages, for tests.
    #[cfg(test)]
    pub(crate) fn empty() -> Workspace {
        Workspace::default()
    }

    fn from_metadata(metadata: &Value) -> Result<Workspace, String> {
        let path = |key: &str| metadata[key].as_str().map(PathBuf::from);
        let root = path("workspace_root").ok_or("cargo metadata names no workspace root")?;
        let target = path("target_directory").ok_or("cargo metadata names no target directory")?;
        let packages = list(&metadata["packages"]).map(|package| Package {
            name: text(&package["name"]),
            // `publish` is null where nothing forbids it, and an empty list where it is false.
            published: package["publish"].as_array().is_none_or(|registries| !registries.is_empty()),
            targets: list(&package["targets"])
                .map(|target| Target {
                    name: text(&target["name"]),
                    kind: text(&target["kind"][0]),
                    features: list(&target["required-features"]).map(text).collect(),
                })
                .collect(),
        });
        Ok(Workspace { root, target, packages: packages.collect() })
    }

    /// A cargo command, to be run in the root.
    pub(crate) fn cargo(&self, words: &[&str]) -> Command {
        let mut command = cargo();
        command.args(words).current_dir(&self.root);
        command
    }

    /// A cargo subcommand's program, to be run in the root with the nightly toolchain.
    pub(crate) fn nightly(&self, tool: &Path) -> Command {
        let mut command = self.nightly_cargo();
        let mut folders: Vec<PathBuf> = tool.parent().map(Path::to_path_buf).into_iter().collect();
        folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        if let Ok(path) = std::env::join_paths(folders) {
            command.env("PATH", path);
        }
        command
    }

    /// The nightly toolchain's cargo, to be run in the root.
    pub(crate) fn nightly_cargo(&self) -> Command {
        let mut command = lean(Command::new("cargo"));
        // What the toolchain that runs this program left behind would win over `+nightly`.
        command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN").arg("+nightly").current_dir(&self.root);
        command
    }

    /// The packages that never go to a registry.
    pub(crate) fn unpublished(&self) -> impl Iterator<Item = &str> {
        self.packages.iter().filter(|package| !package.published).map(|package| package.name.as_str())
    }

    /// Every example of every package.
    pub(crate) fn examples(&self) -> impl Iterator<Item = Example<'_>> {
        self.targets("example").map(|(package, target)| Example {
            package,
            name: &target.name,
            features: &target.features,
        })
    }

    /// The packages with an integration test of this name.
    pub(crate) fn with_test(&self, name: &str) -> impl Iterator<Item = &str> {
        self.targets("test").filter(move |(_, target)| target.name == name).map(|(package, _)| package)
    }

    /// The names of the fuzz targets, which live outside of the workspace.
    pub(crate) fn fuzz_targets(&self) -> Result<Vec<String>, String> {
        let fuzz = Workspace::from_metadata(&metadata(&self.root.join("fuzz/Cargo.toml"))?)?;
        Ok(fuzz.targets("bin").map(|(_, target)| target.name.clone()).collect())
    }

    fn targets(&self, kind: &str) -> impl Iterator<Item = (&str, &Target)> {
        let all = self
            .packages
            .iter()
            .flat_map(|package| package.targets.iter().map(move |target| (package.name.as_str(), target)));
        all.filter(move |(_, target)| target.kind == kind)
    }
}

/// Makes a folder, or takes everything out of it.
pub(crate) fn empty_folder(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::create_dir_all(folder)
}

/// The cargo that runs this program.
fn cargo() -> Command {
    lean(Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())))
}

/// On a machine that builds once, what would make a second build faster is four gigabytes of disk for nothing.
fn lean(mut command: Command) -> Command {
    if std::env::var_os("CI").is_some() {
        command.env("CARGO_INCREMENTAL", "0");
    }
    command
}

/// How many bytes are free where a folder is, or will be; `None` when that cannot be told.
#[cfg(target_os = "linux")]
pub(crate) fn room(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let disk = rustix::fs::statvfs(there).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

/// How many bytes are free where a folder is; `None`, as it is not asked for here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn room(_folder: &Path) -> Option<u64> {
    None
}

fn metadata(manifest: &Path) -> Result<Value, String> {
    let mut command = cargo();
    command.args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"]).arg(manifest);
    let output = command.output().map_err(|error| format!("cargo cannot be started: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "cargo cannot read {}: {}",
            manifest.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata is not JSON: {error}"))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn metadata_becomes_a_workspace() {
        let workspace = Workspace::from_metadata(&json!({
            "workspace_root": "/w", "target_directory": "/w/target",
            "packages": [
                {"name": "engine", "publish": null, "targets": [
                    {"name": "engine", "kind": ["lib"]},
                    {"name": "notes", "kind": ["example"], "required-features": ["sim"]},
                    {"name": "loom", "kind": ["test"]},
                ]},
                {"name": "bench", "publish": [], "targets": [{"name": "other", "kind": ["test"]}]},
            ],
        }))
        .unwrap();
        assert_eq!(workspace.unpublished().collect::<Vec<_>>(), ["bench"]);
        assert_eq!(workspace.with_test("loom").collect::<Vec<_>>(), ["engine"]);
        let examples: Vec<_> = workspace.examples().map(|e| (e.package, e.name, e.features.len())).collect();
        assert_eq!(examples, [("engine", "notes", 1)]);
        assert!(Workspace::from_metadata(&json!({})).is_err());
    }

    #[test]
    fn this_workspace_is_readable() {
        let workspace = Workspace::load().unwrap();
        assert!(workspace.unpublished().any(|name| name == "xtask"));
        assert!(workspace.root.join("xtask").is_dir());
        assert!(!workspace.fuzz_targets().unwrap().is_empty());
    }
}
