//! Random histories against the model: upserts, deletes, batches over two collections, bulk loads, builds and attaches, seals,
//! compactions, snapshots, schema changes, backups, reopens, and power lost between and inside all of these.
//!
//! `NEARSTONE_HISTORIES` sets how many (default 400).

use nearstone::{OnCollision, TakeFiles};
use nearstone_tests::history::{COLLECTIONS, Change, History, Op};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

fn change() -> impl Strategy<Value = Change> {
    let place = (0..COLLECTIONS, 0u64..24);
    prop_oneof![
        3 => (place.clone(), 0u32..40).prop_map(|((collection, key), value)| Change::Upsert { collection, key, value }),
        1 => place.prop_map(|(collection, key)| Change::Delete { collection, key }),
    ]
}

fn on_collision() -> impl Strategy<Value = OnCollision> {
    prop_oneof![2 => Just(OnCollision::Replace), 2 => Just(OnCollision::Keep), 1 => Just(OnCollision::Refuse)]
}

fn rows() -> impl Strategy<Value = Vec<(u64, u32)>> {
    prop::collection::vec((0u64..24, 0u32..40), 1..20)
}

fn take() -> impl Strategy<Value = TakeFiles> {
    prop_oneof![Just(TakeFiles::Copy), Just(TakeFiles::Link), Just(TakeFiles::Move)]
}

fn op() -> impl Strategy<Value = Op> {
    let collection = 0..COLLECTIONS;
    prop_oneof![
        12 => (prop::collection::vec(change(), 1..8), any::<bool>())
            .prop_map(|(changes, synced)| Op::Batch { changes, synced }),
        2 => (collection.clone(), rows(), on_collision())
            .prop_map(|(collection, rows, on_collision)| Op::Load { collection, rows, on_collision }),
        3 => (collection.clone(), rows()).prop_map(|(collection, rows)| Op::Build { collection, rows }),
        5 => (0usize..4, collection.clone(), on_collision(), take()).prop_map(
            |(build, collection, on_collision, take)| Op::Attach { build, collection, on_collision, take }
        ),
        1 => Just(Op::Persist),
        2 => collection.clone().prop_map(Op::Flush),
        2 => collection.clone().prop_map(Op::Compact),
        1 => collection.clone().prop_map(Op::Rebuild),
        4 => (1u8..6).prop_map(Op::Steps),
        2 => Just(Op::Snapshot),
        1 => Just(Op::Release),
        1 => collection.clone().prop_map(Op::Recreate),
        1 => collection.prop_map(Op::Rename),
        1 => (1u32..100_000).prop_map(Op::Wait),
        1 => Just(Op::Reopen),
        1 => Just(Op::Verify),
        1 => Just(Op::Backup),
    ]
}

fn op_or_crash() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => op(),
        1 => any::<u64>().prop_map(Op::Crash),
        2 => (0u16..60, any::<u64>(), op())
            .prop_map(|(operations, seed, op)| Op::CrashDuring { operations, seed, op: Box::new(op) }),
    ]
}

fn histories() -> u32 {
    std::env::var("NEARSTONE_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(400)
}

#[test]
fn random_histories_agree_with_the_model() {
    let config =
        Config { cases: histories(), failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let result = runner.run(&(any::<u64>(), prop::collection::vec(op_or_crash(), 1..40)), |(seed, ops)| {
        History::run(seed, &ops).map(|_| ()).map_err(TestCaseError::fail)
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
