//! Damage in the middle of a log, and processes that die while they give up what comes behind it: whoever opens the
//! store next in the same way finds the same rows, and then it opens as any other.

use super::points::Point;
use super::process::{Running, Until};
use super::tally::Tally;
use super::{GIVE_UP, PATIENCE, copy_folder, log_ids, remove};
use nearstone::{Background, ErrorKind, Metric, RecoveryMode, Schema, Store};
use nearstone_wal::file_name;
use std::path::Path;

/// Rows that each log file brings.
const ROWS: u64 = 10;

/// Makes such a store in `folder`, lets a process die at the step, and checks what the next ones find.
pub(super) fn run(
    folder: &Path,
    point: Point,
    tally: &mut Tally,
    story: &mut Vec<String>,
) -> Result<(), String> {
    let (path, copy) = (folder.join("damaged"), folder.join("damaged-copy"));
    let said = |error: nearstone::Error| error.to_string();
    make(&path).map_err(said)?;
    damage(&path).map_err(|error| format!("the log cannot be damaged: {error}"))?;
    copy_folder(&path, &copy).map_err(|error| format!("a copy of the store: {error}"))?;
    match Store::open(&copy) {
        Err(error) if error.kind() == ErrorKind::Corruption => {}
        other => return Err(format!("the damage was not noticed: {:?}", other.map(|_| ()))),
    }
    let kept = keys(&open(&copy, RecoveryMode::PointInTime).map_err(said)?).map_err(said)?;
    if !(ROWS..2 * ROWS).contains(&(kept.len() as u64)) || !kept.iter().copied().eq(0..kept.len() as u64) {
        return Err(format!("before the damage there were {kept:?}"));
    }

    story.push(format!("a process that gives up what lies behind damage ({})", point.name));
    let running = Running::start("recover", &path, GIVE_UP, Some(point.name));
    let end = running.watch(Until::Failpoint(PATIENCE), &mut |_| {});
    tally.died(Some(point), &end);
    tally.recoveries += 1;

    let found = || -> nearstone::Result<Vec<Vec<u64>>> {
        let store = open(&path, RecoveryMode::PointInTime)?;
        let mut found = vec![keys(&store)?];
        store.verify()?;
        store.collection("rows")?.upsert(1000u64, &[1.0, 1.0], ())?;
        store.close()?;
        drop(store);
        let store = open(&path, RecoveryMode::Strict)?;
        store.verify()?;
        found.push(keys(&store)?);
        Ok(found)
    };
    let mut and_another = kept.clone();
    and_another.push(1000);
    let found = found().map_err(said)?;
    if found != [kept, and_another] {
        return Err(format!("it was to find the rows before the damage, and then one more: {found:?}"));
    }
    remove(&path)?;
    remove(&copy)
}

fn open(path: &Path, mode: RecoveryMode) -> nearstone::Result<Store> {
    Store::builder().background(Background::Manual).recovery(mode).open(path)
}

/// Three lives, each with a log file of its own.
fn make(path: &Path) -> nearstone::Result<()> {
    for life in 0..3 {
        let store = open(path, RecoveryMode::default())?;
        let rows = store.collection_or_create("rows", Schema::new(2, Metric::L2).m(4).ef_construction(16))?;
        for key in life * ROWS..(life + 1) * ROWS {
            rows.upsert(key, &[key as f32, 1.0], ())?;
        }
        store.close()?;
    }
    Ok(())
}

/// Flips a bit in the middle of the second file's records.
fn damage(path: &Path) -> std::io::Result<()> {
    let log = path.join("wal");
    let ids = log_ids(&log)?;
    assert_eq!(ids.len(), 3, "one file a life");
    let file = log.join(file_name(ids[1]));
    let mut bytes = std::fs::read(&file)?;
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
    bytes[(4096 + written) / 2] ^= 8;
    std::fs::write(file, bytes)
}

fn keys(store: &Store) -> nearstone::Result<Vec<u64>> {
    let keys = store.collection("rows")?.keys()?;
    keys.map(|key| Ok(key?.as_u64().expect("keys are numbers"))).collect()
}
