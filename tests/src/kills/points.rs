//! The failpoints of the sources: who passes each, and what must have happened before.
//!
//! A recovery has something to copy or to sweep only after some kills, so such a step names the step at which the
//! process before it dies. Of steps that are passed often, any of the first many passings is chosen.

/// Which process dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// One that makes a new store.
    Create,
    /// One that writes to a store.
    Ingest,
    /// One that opens a store whose writer was killed at the step named.
    Recover(&'static str),
    /// One that writes, or one that opens what was killed at the step named, by turns.
    Either(&'static str),
    /// One that opens a store whose log has a file that nothing needs and that no other names: unlinked once, and back
    /// after a power loss.
    Orphan,
    /// One that opens a store with damage in its log and gives up what comes behind.
    GiveUp,
}

/// A step at which a process can die.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// As in `failpoint("...")`.
    pub name: &'static str,
    /// Who passes it.
    pub role: Role,
    /// The passing at which an ingesting process dies is one of the first so many.
    pub passings: u64,
}

const fn point(name: &'static str, role: Role, passings: u64) -> Point {
    Point { name, role, passings }
}

/// All of them, in the order of their names.
pub const POINTS: &[Point] = &[
    point("attach-file-brought", Role::Ingest, 1),
    point("attach-file-removed", Role::Ingest, 1),
    point("attach-files-taken", Role::Ingest, 1),
    point("backup-before-catalog", Role::Ingest, 2),
    point("backup-catalog-written", Role::Ingest, 2),
    point("backup-folder-made", Role::Ingest, 2),
    point("backup-format-written", Role::Ingest, 2),
    point("backup-log-file-copied", Role::Ingest, 4),
    point("backup-log-synced", Role::Ingest, 2),
    point("backup-marked", Role::Ingest, 2),
    point("backup-rooms-made", Role::Ingest, 2),
    point("backup-segment-before-sync", Role::Ingest, 2),
    point("backup-segment-copied", Role::Ingest, 4),
    point("backup-segment-half-copied", Role::Ingest, 2),
    point("backup-segments-synced", Role::Ingest, 2),
    point("backup-state-taken", Role::Ingest, 2),
    point("backup-unmarked", Role::Ingest, 2),
    point("catalog-before-commit", Role::Ingest, 8),
    point("catalog-before-sync", Role::Either("seal-committed"), 16),
    point("catalog-built", Role::Ingest, 2),
    point("catalog-built-synced", Role::Ingest, 2),
    point("catalog-committed", Role::Ingest, 8),
    point("catalog-header-written", Role::Either("replace-committed"), 16),
    point("catalog-name-synced", Role::Ingest, 2),
    point("catalog-named", Role::Ingest, 2),
    point("catalog-pages-half-written", Role::Ingest, 40),
    point("catalog-pages-written", Role::Ingest, 40),
    point("catalog-synced", Role::Ingest, 16),
    point("checkpoint-barrier-written", Role::Ingest, 1),
    point("checkpoint-before-commit", Role::Ingest, 1),
    point("checkpoint-committed", Role::Ingest, 1),
    point("close-before-mark", Role::Ingest, 2),
    point("close-catalog-closed", Role::Ingest, 2),
    point("close-log-ended", Role::Ingest, 2),
    point("close-marked", Role::Ingest, 2),
    point("close-workers-stopped", Role::Ingest, 2),
    point("collection-before-create", Role::Ingest, 2),
    point("collection-before-drop", Role::Ingest, 1),
    point("collection-before-rename", Role::Ingest, 1),
    point("collection-created", Role::Ingest, 2),
    point("collection-drop-before-barrier", Role::Ingest, 1),
    point("collection-dropped", Role::Ingest, 1),
    point("collection-renamed", Role::Ingest, 1),
    point("compact-linked", Role::Ingest, 3),
    point("compact-verified", Role::Ingest, 3),
    point("create-done", Role::Create, 1),
    point("create-folder-made", Role::Create, 1),
    point("create-format-written", Role::Create, 1),
    point("create-room-made", Role::Create, 2),
    point("load-barrier-written", Role::Ingest, 1),
    point("load-committed", Role::Ingest, 1),
    point("load-keys-known", Role::Ingest, 1),
    point("load-linked", Role::Ingest, 1),
    point("load-lsn-taken", Role::Ingest, 1),
    point("load-published", Role::Ingest, 1),
    point("load-rest-sealed", Role::Ingest, 1),
    point("load-segment-written", Role::Ingest, 1),
    point("load-written", Role::Ingest, 1),
    point("rebuild-segment-written", Role::Ingest, 2),
    point("rebuild-written", Role::Ingest, 1),
    point("recover-asides-synced", Role::GiveUp, 1),
    point("recover-before-unlink", Role::Recover("segment-named"), 1),
    point("recover-catalog-open", Role::Recover("seal-committed"), 1),
    point("recover-format-read", Role::Recover("close-before-mark"), 1),
    point("recover-log-set-aside", Role::GiveUp, 1),
    point("recover-log-started", Role::Recover("wal-half-appended"), 1),
    point("recover-log-swept", Role::Recover("wal-file-synced"), 1),
    point("recover-orphan-unlinked", Role::Orphan, 1),
    point("recover-replayed", Role::Recover("wal-appended"), 1),
    point("recover-rest-given-up", Role::GiveUp, 1),
    point("recover-swept", Role::Recover("compact-verified"), 1),
    point("recover-tail-copied", Role::Recover("wal-before-acknowledge"), 1),
    point("recover-unlinked", Role::Recover("replace-committed"), 1),
    point("replace-barrier-written", Role::Ingest, 3),
    point("replace-before-commit", Role::Ingest, 3),
    point("replace-committed", Role::Ingest, 3),
    point("replace-swapped", Role::Ingest, 3),
    point("seal-barrier-written", Role::Ingest, 4),
    point("seal-before-commit", Role::Ingest, 4),
    point("seal-committed", Role::Ingest, 4),
    point("seal-frozen", Role::Ingest, 4),
    point("seal-log-synced", Role::Ingest, 4),
    point("seal-swapped", Role::Ingest, 4),
    point("seal-verified", Role::Ingest, 4),
    point("segment-before-unlink", Role::Ingest, 4),
    point("segment-begun", Role::Ingest, 6),
    point("segment-footer-written", Role::Ingest, 6),
    point("segment-name-synced", Role::Ingest, 6),
    point("segment-named", Role::Ingest, 6),
    point("segment-sections-written", Role::Ingest, 6),
    point("segment-synced", Role::Ingest, 6),
    point("segment-unlinked", Role::Ingest, 4),
    point("wal-appended", Role::Ingest, 60),
    point("wal-before-acknowledge", Role::Ingest, 60),
    point("wal-before-append", Role::Ingest, 60),
    point("wal-before-apply", Role::Ingest, 60),
    point("wal-before-sync", Role::Ingest, 60),
    point("wal-before-unlink", Role::Ingest, 2),
    point("wal-file-name-synced", Role::Either("wal-before-apply"), 2),
    point("wal-file-named", Role::Either("wal-synced"), 2),
    point("wal-file-reserved", Role::Either("wal-appended"), 2),
    point("wal-file-synced", Role::Either("wal-before-sync"), 2),
    point("wal-file-written", Role::Either("wal-half-appended"), 2),
    point("wal-half-appended", Role::Ingest, 60),
    point("wal-noted", Role::Ingest, 8),
    point("wal-synced", Role::Ingest, 60),
    point("wal-unlinked", Role::Ingest, 3),
    point("wal-unlinks-synced", Role::Ingest, 2),
];

/// The point of that name.
pub fn named(name: &str) -> Point {
    *POINTS.iter().find(|point| point.name == name).unwrap_or_else(|| panic!("no failpoint {name:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    fn in_sources(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                in_sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for call in ["failpoint(\"", "failpoint_after(\""] {
                    let calls = text.split(call).skip(1);
                    found.extend(calls.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
                }
            }
        }
    }

    #[test]
    fn the_table_has_each_failpoint_of_the_sources_once() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut found = Vec::new();
        for crate_name in ["base", "wal", "segments", "compaction", "engine"] {
            in_sources(&root.join(crate_name).join("src"), &mut found);
        }
        let once: BTreeSet<&str> = found.iter().map(String::as_str).collect();
        assert_eq!(once.len(), found.len(), "a name comes twice in the sources");
        assert!(POINTS.is_sorted_by(|a, b| a.name < b.name), "not in order, or a name comes twice");
        assert_eq!(once, POINTS.iter().map(|point| point.name).collect());
    }

    #[test]
    fn what_dies_before_a_recovery_is_an_ingesting_process() {
        for point in POINTS {
            if let Role::Recover(before) | Role::Either(before) = point.role {
                assert!(!matches!(named(before).role, Role::Create | Role::Recover(_)), "{}", point.name);
            }
        }
    }
}
