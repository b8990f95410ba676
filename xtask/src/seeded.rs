//! `cargo xtask seeded-bugs`: shows that the tests would notice. Each bug of the table is made to happen, one at a
//! time, and the check beside it must fail; without a bug, all checks must pass.
//!
//! The bugs exist only in a build of their own (`--cfg nearstone_faults`, `target/faults`), and where they are is in
//! the sources: `seeded("name")`. The check `shuttle` is a build of its own again, in which a checker decides whose
//! turn it is: for bugs that need two threads to meet.

use crate::runner::status_within;
use crate::workspace::Workspace;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

/// A bug, the integration test that must fail, and what goes wrong.
struct Bug {
    name: &'static str,
    check: &'static str,
    what: &'static str,
}

/// The check that runs the store in many orders of its threads.
const SHUTTLE: &str = "shuttle";
/// What a check takes with a bug is seconds, and what it takes without one, build included, a few minutes.
const LIMIT: Duration = Duration::from_secs(240);

const fn bug(name: &'static str, check: &'static str, what: &'static str) -> Bug {
    Bug { name, check, what }
}

const BUGS: &[Bug] = &[
    bug("acknowledged-before-sync", "enumerate", "a batch is acknowledged before the log is synced"),
    bug("block-not-checked", "damage", "a segment's blocks are used without their checksums"),
    bug("catalog-not-synced", "enumerate", "a catalog transaction does not wait for the disk"),
    bug("closed-before-sync", "enumerate", "closing says where the log ends before that is durable"),
    bug("delete-not-logged", "enumerate", "a delete is applied and not logged"),
    bug("first-operation-wins", "api", "of several operations on a key in a batch the first counts"),
    bug("floor-ignores-others", "crash", "the log is cut though another collection needs it"),
    bug("frozen-rows-not-replaced", "model", "rows that wait to be sealed are not found by writers"),
    bug("key-filter-forgets", "model", "a segment denies keys that it has"),
    bug(
        "load-deaths-not-recorded",
        "model",
        "rows that a bulk load replaced or left out are not written down",
    ),
    bug("load-ignores-late-writes", "bulk_load", "what is written while keys are looked up does not collide"),
    bug("load-lsn-not-logged", "enumerate", "a bulk load takes an lsn that the log does not know of"),
    bug("merge-deaths-not-recorded", "crash", "rows of a merged segment that are dead are not written down"),
    bug("merge-drops-later-deaths", "crash", "what died during a merge lives again"),
    bug("merge-drops-unproven-deaths", "crash", "a merge drops rows whose death may still be lost"),
    bug("merge-unlinks-before-commit", "enumerate", "a merge removes its inputs before the transaction"),
    bug("open-forgets-deaths", "model", "an open ignores which rows are dead"),
    bug("poison-forgotten", "faults", "after a failed sync the log goes on"),
    bug(
        "rebuild-forgets-late-segments",
        "rebuild",
        "segments that were sealed during a rebuild are not built anew",
    ),
    bug("rebuild-forgets-rows-in-memory", "rebuild", "a rebuild does not keep what is not sealed yet"),
    bug("replay-skips-one-too-many", "model", "replay takes one batch too many for sealed"),
    bug("seal-before-log-sync", "enumerate", "the catalog knows more than the log has made durable"),
    bug("seal-deaths-not-recorded", "model", "a seal does not write down which rows are dead"),
    bug("seal-drops-later-deaths", "model", "what died during a seal lives again"),
    bug("seal-lsn-too-high", "enumerate", "a seal claims one batch too many"),
    bug("segment-not-synced", "enumerate", "a segment gets its name before it is durable"),
    bug("segments-folder-not-synced", "enumerate", "a segment's name is not made durable"),
    bug("snapshots-see-later-deaths", "api", "a snapshot loses rows that are deleted later"),
    bug("snapshots-see-later-rows", "model", "a snapshot sees rows that are put later"),
    bug(
        "stale-resolve-after-swap",
        SHUTTLE,
        "a writer trusts what it looked up before segments were replaced",
    ),
    bug("sweep-takes-the-newest", "model", "an open removes a segment that is in use"),
    bug("wal-damage-taken-for-tear", "damage", "any damage at the log's end is cut like a torn write"),
    bug("wal-file-not-synced", "enumerate", "a log file gets its name before it is durable"),
    bug("wal-folder-not-synced", "enumerate", "a log file's name is not made durable"),
    bug("wal-named-before-copied", "crash", "recovery names a log file before it holds its batches"),
    bug("wal-next-file-before-sync", "crash", "a log file takes records before the one before it is durable"),
    bug("wal-sync-skipped", "enumerate", "the log says that it synced and did not"),
    bug("wal-tail-trusted", "enumerate", "recovery trusts what it read, perhaps from a cache only"),
    bug("wal-unlinked-too-early", "enumerate", "log files go that are still needed"),
];

/// Runs the table, or the bugs that are named.
pub(crate) fn run(words: &[&str]) -> Result<ExitCode, String> {
    if let Some(unknown) = words.iter().find(|word| !BUGS.iter().any(|bug| bug.name == **word)) {
        let known: Vec<&str> = BUGS.iter().map(|bug| bug.name).collect();
        return Err(format!("there is no seeded bug {unknown:?}; there are: {}", known.join(", ")));
    }
    let workspace = Workspace::load()?;
    let bugs: Vec<&Bug> = BUGS.iter().filter(|bug| words.is_empty() || words.contains(&bug.name)).collect();
    let mut checks: Vec<&str> = bugs.iter().map(|bug| bug.check).collect();
    checks.sort_unstable();
    checks.dedup();
    for check in checks {
        println!("==> {check} passes without a bug");
        if !passes(&workspace, check, None)? {
            return Err(format!("{check} fails without any bug: look at that first"));
        }
    }
    let mut escaped = 0;
    println!("\n{:<30} {:<10} {:<8} {:>5}  what goes wrong", "bug", "check", "", "s");
    for bug in &bugs {
        let start = Instant::now();
        let caught = !passes(&workspace, bug.check, Some(bug.name))?;
        escaped += u32::from(!caught);
        let verdict = if caught { "caught" } else { "ESCAPED" };
        let seconds = start.elapsed().as_secs_f64();
        println!("{:<30} {:<10} {verdict:<8} {seconds:>5.1}  {}", bug.name, bug.check, bug.what);
    }
    println!("\n{} bugs, {escaped} escaped", bugs.len());
    Ok(ExitCode::from(u8::from(escaped > 0)))
}

fn passes(workspace: &Workspace, check: &str, bug: Option<&str>) -> Result<bool, String> {
    let (folder, cfg) = match check {
        SHUTTLE => ("faults-shuttle", "--cfg nearstone_faults --cfg nearstone_shuttle"),
        _ => ("faults", "--cfg nearstone_faults"),
    };
    let mut command = workspace.cargo(&["test", "-q", "-p", "nearstone-tests", "--test", check]);
    command.arg("--target-dir").arg(workspace.target.join(folder));
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    command.env("RUSTFLAGS", format!("{flags} {cfg}").trim());
    // Enough for each bug to show, found by running the table; the checks stop at the first failure.
    command.env("NEARSTONE_HISTORIES", "400").env("NEARSTONE_CRASH_IMAGES", "6000");
    command.env("NEARSTONE_SHUTTLE", "300");
    match bug {
        Some(name) => command.env("NEARSTONE_SEEDED_BUG", name),
        None => command.env_remove("NEARSTONE_SEEDED_BUG"),
    };
    if bug.is_some() {
        command.stdout(Stdio::null()).stderr(Stdio::null());
    }
    match status_within(&mut command, if bug.is_some() { LIMIT } else { LIMIT * 3 }) {
        Ok(Some(status)) => Ok(status.success()),
        Ok(None) => Err(format!("{check} did not end in time with the bug {bug:?}")),
        Err(error) => Err(format!("cargo cannot be run: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// Every `seeded("...")` in the sources of the crates that ship.
    fn in_sources(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                in_sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.extend(
                    text.split("seeded(\"")
                        .skip(1)
                        .filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())),
                );
            }
        }
    }

    #[test]
    fn the_table_has_each_bug_of_the_sources_once() {
        let workspace = Workspace::load().unwrap();
        let mut found = BTreeSet::new();
        for crate_name in ["base", "wal", "segments", "compaction", "engine"] {
            in_sources(&workspace.root.join(crate_name).join("src"), &mut found);
        }
        let table: BTreeSet<String> = BUGS.iter().map(|bug| bug.name.to_owned()).collect();
        assert_eq!(table.len(), BUGS.len(), "a name comes twice");
        assert_eq!(table, found);
        assert!(BUGS.len() >= 25);
        let tests = workspace.root.join("tests/tests");
        assert!(BUGS.iter().all(|bug| tests.join(format!("{}.rs", bug.check)).is_file()));
    }
}
