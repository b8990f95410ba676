//! The process that checks: it knows nothing but the store's folder and how many steps were acknowledged.
//!
//! 1. By turns, a look for reading only, which must show what the writer's opening then shows.
//! 2. The store is opened, every key compared with its own vector and payload, no file is left over, all is verified.
//! 3. It is compacted (by turns whole, or one collection, so that several segments grow old), compared and closed.
//! 4. It is opened again and compared again.
//! 5. Backups: one that is complete opens and is right; one that was cut short does not open.

use super::child::say;
use super::compare::{Found, compare, no_litter};
use super::script::{COLLECTIONS, Steps};
use nearstone::{Background, ErrorKind, Store};
use std::path::Path;

/// A backup that was begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackupMade {
    /// It names the folder.
    pub number: u64,
    /// What had been acknowledged when it began.
    pub low: Steps,
    /// What may have happened before it ended.
    pub high: Steps,
    /// Whether it was acknowledged.
    pub ended: bool,
}

/// What the checker is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// Chooses what is done by turns.
    pub turn: u64,
    /// Acknowledged steps.
    pub low: Steps,
    /// Steps that may have been taken.
    pub high: Steps,
    /// Backups of the last process.
    pub backups: Vec<BackupMade>,
}

/// Checks, and says what it found. Panics when something is wrong.
pub fn check(path: &Path, question: &Question) {
    let Question { turn, low, high, .. } = question;
    let mut rows = 0;
    let mut seen = None;
    if turn % 2 == 1 && low.iter().any(|steps| *steps > 0) {
        let store = Store::builder().read_only(true).open(path).unwrap();
        let found = compare(&store, low, high, "opened for reading");
        (seen, rows) = (Some(found.steps), found.rows);
    }

    let store = Store::builder().background(Background::Manual).open(path).unwrap();
    let found = compare(&store, low, high, "opened");
    assert!(
        seen.is_none_or(|seen| seen == found.steps),
        "for reading it was {seen:?}, for writing {found:?}"
    );
    no_litter(&store, path, "opened");
    store.verify().unwrap();
    let steps = found.steps;
    let same = |store: &Store, what: &str| -> u64 { compare(store, &steps, &steps, what).rows };
    match turn % 3 {
        0 => store.compact().unwrap(),
        one => match store.collection(COLLECTIONS[one as usize - 1]) {
            Ok(collection) => collection.compact().unwrap(),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
        },
    }
    rows += found.rows + same(&store, "compacted");
    no_litter(&store, path, "compacted");
    store.close().unwrap();
    drop(store);

    let store = Store::open(path).unwrap();
    rows += same(&store, "opened again");
    assert_eq!(store.recovery().torn_bytes, 0, "a tear after a close in order");

    let mut complete = 0;
    for backup in &question.backups {
        if let Some(found) = check_backup(&super::backup_path(path, backup.number), backup) {
            complete += 1;
            rows += found.rows;
        }
    }
    // Files of segments are shared with the backups, which were compacted.
    rows += same(&store, "after the backups");
    store.verify().unwrap();
    store.close().unwrap();
    let [s0, s1, s2, s3] = steps;
    say(format_args!("verdict {s0} {s1} {s2} {s3} {rows} {complete}"));
}

/// What a backup holds, if it is complete.
fn check_backup(path: &Path, backup: &BackupMade) -> Option<Found> {
    let what = format!("backup {}", backup.number);
    // The catalog comes last: with it, there is all of it.
    if !path.join("catalog").exists() {
        assert!(!backup.ended, "{what} was acknowledged and has no catalog");
        // An empty folder becomes a new store where that is asked for; here it is not a store.
        let empty = std::fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none());
        let error = Store::builder().create(!empty).open(path).unwrap_err();
        let kinds = [ErrorKind::NotAStore, ErrorKind::Corruption, ErrorKind::NotFound];
        assert!(kinds.contains(&error.kind()), "{what}: {error}");
        return None;
    }
    let store = Store::builder().create(false).background(Background::Manual).open(path).unwrap();
    let found = compare(&store, &backup.low, &backup.high, &what);
    no_litter(&store, path, &what);
    store.compact().unwrap();
    store.verify().unwrap();
    let again = compare(&store, &found.steps, &found.steps, &format!("{what}, compacted"));
    store.close().unwrap();
    Some(Found { rows: found.rows + again.rows, ..found })
}

impl Question {
    /// In words, for the environment of a process.
    pub fn to_words(&self) -> String {
        let mut numbers = vec![self.turn];
        numbers.extend(self.low.iter().chain(&self.high));
        for backup in &self.backups {
            numbers.push(backup.number);
            numbers.extend(backup.low.iter().chain(&backup.high));
            numbers.push(u64::from(backup.ended));
        }
        let words: Vec<String> = numbers.iter().map(u64::to_string).collect();
        words.join(" ")
    }

    /// From its words.
    pub fn from_words(words: &str) -> Question {
        let numbers: Vec<u64> = words.split_whitespace().map(|word| word.parse().expect("numbers")).collect();
        let steps = |at: usize| -> Steps { std::array::from_fn(|actor| numbers[at + actor]) };
        let backups = (9..numbers.len()).step_by(10).map(|at| BackupMade {
            number: numbers[at],
            low: steps(at + 1),
            high: steps(at + 5),
            ended: numbers[at + 9] == 1,
        });
        Question { turn: numbers[0], low: steps(1), high: steps(5), backups: backups.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_survives_its_words() {
        let backup = BackupMade { number: 7, low: [1, 2, 3, 4], high: [5, 6, 7, 8], ended: true };
        let backups = vec![backup, BackupMade { number: 8, ended: false, ..backup }];
        let question = Question { turn: 5, low: [9; 4], high: [10; 4], backups };
        assert_eq!(Question::from_words(&question.to_words()), question);
    }
}
