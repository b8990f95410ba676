//! Histories spelled in bytes, so that a fuzzer can write them: every text of bytes is one, and a small change of the bytes
//! is a small change of the history.

use crate::history::{COLLECTIONS, Change, Op};
use nearstone::{OnCollision, TakeFiles};

/// More operations take long and show nothing that two shorter histories would not.
const OPS_MAX: usize = 24;

/// The seed and the operations that the bytes spell; `None` when there are too few for a seed and one operation.
pub fn history(bytes: &[u8]) -> Option<(u64, Vec<Op>)> {
    let (seed, rest) = bytes.split_first()?;
    let mut letters = rest.iter().copied();
    let mut ops = Vec::new();
    while ops.len() < OPS_MAX
        && let Some(letter) = letters.next()
    {
        ops.push(op(letter, &mut letters));
    }
    (!ops.is_empty()).then_some((u64::from(*seed), ops))
}

/// Letters that are missing at the end are zeros.
fn op(letter: u8, letters: &mut dyn Iterator<Item = u8>) -> Op {
    let mut next = || letters.next().unwrap_or(0);
    let collection = usize::from(letter >> 6) % COLLECTIONS;
    match letter % 32 {
        0..=10 => {
            let count = 1 + letter / 32 % 4;
            let changes = (0..count).map(|_| change(next(), next())).collect();
            Op::Batch { changes, synced: letter.is_multiple_of(2) }
        }
        11 => Op::Load { collection, rows: rows(next(), next()), on_collision: policy(next()) },
        12 => Op::Build { collection, rows: rows(next(), next()) },
        13 => {
            let way = next();
            let take = [TakeFiles::Copy, TakeFiles::Link, TakeFiles::Move][usize::from(way / 4 % 3)];
            Op::Attach { build: usize::from(way / 16), collection, on_collision: policy(way), take }
        }
        14 | 15 => Op::Flush(collection),
        16 => Op::Compact(collection),
        17 => Op::Rebuild(collection),
        18 => Op::Steps(1 + next() % 6),
        19 => Op::Persist,
        20 => Op::Snapshot,
        21 => Op::Release,
        22 => Op::Recreate(collection),
        23 => Op::Rename(collection),
        24 => Op::Wait(u32::from(next()) * 400),
        25 => Op::Reopen,
        26 => Op::Verify,
        27 => Op::Backup,
        28 => Op::Crash(u64::from(next())),
        _ => {
            let (operations, seed, inner) = (u16::from(next()), u64::from(next()), next());
            // A crash inside of a crash is none.
            let inner = if inner % 32 >= 28 { inner % 28 } else { inner };
            Op::CrashDuring { operations, seed, op: Box::new(op(inner, letters)) }
        }
    }
}

/// Up to 20 rows whose keys follow each other.
fn rows(first: u8, count: u8) -> Vec<(u64, u32)> {
    (0..=count % 20)
        .map(|row| (u64::from((first % 24 + row) % 24), u32::from(first) + u32::from(row)))
        .collect()
}

fn policy(letter: u8) -> OnCollision {
    [OnCollision::Replace, OnCollision::Keep, OnCollision::Refuse][usize::from(letter % 4) % 3]
}

fn change(place: u8, value: u8) -> Change {
    let (collection, key) = (usize::from(place) % COLLECTIONS, u64::from(place / 2 % 24));
    match value % 4 {
        0 => Change::Delete { collection, key },
        _ => Change::Upsert { collection, key, value: u32::from(value / 4) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::History;

    #[test]
    fn every_letter_is_an_operation_and_short_texts_run() {
        assert!(history(&[]).is_none() && history(&[7]).is_none());
        for letter in 0..=u8::MAX {
            let (seed, ops) = history(&[7, letter]).unwrap();
            assert_eq!((seed, ops.len()), (7, 1));
            History::run(seed, &ops).unwrap();
        }
    }
}
