//! Models of the snapshot swap: a writer, a seal or a merge that replaces segments, and a reader, at once. Below the
//! models is the store's own code from a batch that is durable to the view that readers load ([`Heart`]), with real
//! segments in files of a simulated disk; only what is written before the swap is written before the model's threads
//! start.
//!
//! Whatever the order, a reader sees the rows of exactly one lsn, each key once, and sees the same when it looks again.
//!
//! `cargo xtask test --only loom`
#![cfg(nearstone_loom)]

use loom::thread;
use nearstone::model::Heart;
use nearstone::vfs::SimVfs;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Keys are below.
const KEYS: u64 = 5;

/// The rows after each lsn: key and version.
fn expected(lsn: u64) -> BTreeMap<u64, u64> {
    let rows: &[(u64, u64)] = match lsn {
        1 => &[(1, 1), (2, 1), (3, 1)],
        2 => &[(1, 2), (3, 1), (4, 2)],
        3 => &[(3, 3), (4, 2)],
        _ => &[],
    };
    rows.iter().copied().collect()
}

/// The batches that lead there: keys that are put, and keys that are deleted.
fn batch(lsn: u64) -> (&'static [u64], &'static [u64]) {
    match lsn {
        1 => (&[1, 2, 3], &[]),
        2 => (&[1, 4], &[2]),
        _ => (&[3], &[1]),
    }
}

/// A store's heart that has seen the batches up to `lsn`.
fn heart(lsn: u64) -> Heart {
    let heart = Heart::new(Arc::new(SimVfs::new(1)));
    for lsn in 1..=lsn {
        let (put, deleted) = batch(lsn);
        heart.write(lsn, put, deleted);
    }
    heart
}

/// Runs at once a writer of one batch, a swap and a reader, in this order: loom looks for other orders where a thread
/// reads what one before it has written, and remembers too little of those who read before others write. The reader
/// may look at once, or take its snapshot and look at the end.
fn model<S: Send + 'static>(
    preemptions: usize,
    looks_at_once: bool,
    setting: impl Fn() -> (Heart, S) + Send + Sync + 'static,
    swap: fn(&Heart, S),
) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    builder.check(move || {
        let (heart, swapped) = setting();
        let before = heart.see().lsn();
        let heart = Arc::new(heart);
        let writer = {
            let heart = heart.clone();
            thread::spawn(move || {
                let (put, deleted) = batch(before + 1);
                heart.write(before + 1, put, deleted);
            })
        };
        let swapper = {
            let heart = heart.clone();
            thread::spawn(move || swap(&heart, swapped))
        };
        let reader = {
            let heart = heart.clone();
            thread::spawn(move || {
                let seen = heart.see();
                if looks_at_once {
                    assert_eq!(seen.rows(KEYS), expected(seen.lsn()));
                }
                seen
            })
        };
        writer.join().unwrap();
        swapper.join().unwrap();
        let seen = reader.join().unwrap();
        assert_eq!(seen.rows(KEYS), expected(seen.lsn()), "a snapshot at lsn {} has changed", seen.lsn());
        let seen = heart.see();
        assert_eq!((seen.lsn(), seen.rows(KEYS)), (before + 1, expected(before + 1)));
    });
}

/// How a reader fares beside appends is modelled where the rows are.
#[test]
fn a_freeze_comes_between_batches() {
    model(2, false, || (heart(1), ()), |heart, ()| heart.freeze());
}

#[test]
fn a_seal_carries_over_what_died_meanwhile() {
    let setting = || {
        let heart = heart(1);
        heart.freeze();
        let sealed = heart.write_seal();
        (heart, sealed)
    };
    model(1, true, setting, Heart::swap_seal);
}

#[test]
fn a_merge_carries_over_what_died_meanwhile() {
    let setting = || {
        let heart = heart(1);
        heart.freeze();
        heart.swap_seal(heart.write_seal());
        let (put, deleted) = batch(2);
        heart.write(2, put, deleted);
        heart.freeze();
        heart.swap_seal(heart.write_seal());
        let merged = heart.write_merge();
        (heart, merged)
    };
    model(1, true, setting, Heart::swap_merge);
}
