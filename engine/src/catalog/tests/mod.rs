//! What the catalog promises: a commit is there whole or not at all after any crash, a damaged byte never gives a wrong
//! state, and reading writes nothing.

mod damage;
pub(crate) mod disk;

use super::*;
use disk::Disk;
use nearstone_base::random::SplitMix64;
use nearstone_base::{CollectionId, Metric, Schema, SegmentId};
use nearstone_segments::SegmentMeta;
use nearstone_wal::CleanMark;
use roaring::RoaringBitmap;
use std::collections::BTreeMap;

const STORE: Uuid = Uuid([7; 16]);

fn dir() -> &'static Path {
    Path::new("store")
}

fn catalog_path() -> PathBuf {
    dir().join(CATALOG_FILE)
}

fn schema() -> Schema {
    Schema::new(96, Metric::Cosine)
}

fn collection(name: &str) -> CollectionRow {
    CollectionRow { name: name.into(), schema: schema(), sealed_lsn: 0, created_secs: 1_700_000_000 }
}

fn segment(id: u64, collection: u32, rows: u32) -> SegmentRow {
    let meta = SegmentMeta {
        id: SegmentId(id),
        uuid: Uuid([id as u8; 16]),
        schema: schema(),
        len: u64::from(rows) * 400,
        digest: u128::from(id) << 77 | 5,
        rows,
        lsn_min: 1,
        lsn_max: 9,
        user_bytes: u64::from(rows) * 390,
        created_secs: 1_700_000_001,
    };
    SegmentRow { collection: CollectionId(collection), meta }
}

/// The state after `before`: a collection now and then, a segment each time, deaths here and there, a segment gone.
fn next(before: &CatalogState, random: &mut SplitMix64) -> CatalogState {
    let mut state = before.clone();
    state.last_lsn += 10;
    state.wal_floor = state.last_lsn;
    if state.collections.len() < 2 || random.below(5) == 0 {
        let id = state.next_collection;
        state.next_collection += 1;
        state.collections.insert(CollectionId(id), collection(&format!("collection {id}")));
    }
    let owner = *state.collections.keys().nth(random.below(state.collections.len() as u64) as usize).unwrap();
    state.collections.get_mut(&owner).unwrap().sealed_lsn = state.last_lsn;
    if random.below(3) == 0
        && let Some(first) = state.segments.keys().next().copied()
    {
        state.segments.remove(&first);
        state.deaths.remove(&first);
    }
    let id = SegmentId(state.next_segment);
    state.next_segment += 1;
    state.segments.insert(id, segment(id.0, owner.0, 100_000));
    for id in state.segments.keys() {
        if random.below(2) == 0 {
            // Up to some 12 KiB, several pages of redb.
            let count = random.below(6_000);
            state.deaths.entry(*id).or_default().extend((0..=count).map(|_| random.below(100_000) as u32));
        }
    }
    state.clean = (random.below(2) == 0).then_some(CleanMark { file_id: 3, end: 8192, lsn: state.last_lsn });
    state
}

/// A catalog after `commits` commits.
fn grown(disk: &Disk, commits: usize) -> Catalog {
    let mut random = SplitMix64::new(11);
    let mut catalog = Catalog::create(disk.vfs(), dir(), CatalogState::new(STORE)).unwrap();
    for _ in 0..commits {
        let state = next(catalog.state(), &mut random);
        catalog.commit(state).unwrap();
    }
    catalog
}

fn read(disk: &Disk) -> Result<CatalogState> {
    Catalog::read(&disk.vfs(), dir(), STORE)
}

#[test]
fn every_commit_reads_back_now_and_after_reopening() {
    let disk = Disk::default();
    let mut random = SplitMix64::new(1);
    let mut catalog = Catalog::create(disk.vfs(), dir(), CatalogState::new(STORE)).unwrap();
    for generation in 2..30 {
        let mut state = next(catalog.state(), &mut random);
        catalog.commit(state.clone()).unwrap();
        state.generation = generation;
        assert_eq!(**catalog.state(), state);
        assert_eq!(read(&disk).unwrap(), state, "as a reader sees it beside the writer");
        if generation % 3 == 0 {
            catalog.close().unwrap();
            catalog = Catalog::open(disk.vfs(), dir(), STORE).unwrap();
            assert_eq!(**catalog.state(), state);
        }
    }
}

#[test]
fn an_empty_store_is_small() {
    let disk = Disk::default();
    let catalog = Catalog::create(disk.vfs(), dir(), CatalogState::new(STORE)).unwrap();
    catalog.close().unwrap();
}

#[test]
fn a_commit_writes_only_what_changed() {
    let disk = Disk::default();
    let mut catalog = Catalog::create(disk.vfs(), dir(), CatalogState::new(STORE)).unwrap();
    let mut state = CatalogState::new(STORE);
    state.last_lsn = 9;
    state.collections.insert(CollectionId(1), CollectionRow { sealed_lsn: 9, ..collection("a") });
    (state.next_collection, state.next_segment) = (2, 401);
    for id in 1..=400 {
        state.segments.insert(SegmentId(id), segment(id, 1, 100));
    }
    let (all, _) = rows::changes(None, &state, &Digest::default());
    assert_eq!(all.len(), 402);
    catalog.commit(state).unwrap();
    let mut state = CatalogState::clone(catalog.state());
    state.segments.remove(&SegmentId(7));
    state.deaths.insert(SegmentId(8), [1, 2].into_iter().collect());
    state.collections.get_mut(&CollectionId(1)).unwrap().name = "b".into();
    let (changed, _) = rows::changes(Some(catalog.state()), &state, &catalog.digest);
    let listed: Vec<_> = changed.iter().map(|c| (c.table, c.key, c.value.is_some())).collect();
    let expected = [
        (Table::Collections, 1, true),
        (Table::Segments, 7, false),
        (Table::Deaths, 8, true),
        (Table::Meta, 0, true),
    ];
    assert_eq!(listed, expected);
    catalog.commit(state).unwrap();
    assert_eq!(read(&disk).unwrap(), **catalog.state());
}

#[test]
fn a_state_that_breaks_a_rule_is_refused_and_nothing_happens() {
    let disk = Disk::default();
    let mut catalog = grown(&disk, 6);
    let good = CatalogState::clone(catalog.state());
    let owner = *good.collections.keys().next().unwrap();
    let last = *good.segments.keys().last().unwrap();
    type Break<'a> = (&'a str, &'a dyn Fn(&mut CatalogState));
    let breaks: [Break; 13] = [
        ("floor", &|s| s.wal_floor = s.last_lsn + 2),
        ("next new id", &|s| s.next_segment = last.0),
        ("next ids", &|s| s.next_collection = 1000.min(s.next_collection - 1)),
        ("name", &|s| s.collections.get_mut(&owner).unwrap().name.clear()),
        ("two collections", &|s| s.collections.values_mut().for_each(|row| row.name = "same".into())),
        ("sealed up to", &|s| s.collections.get_mut(&owner).unwrap().sealed_lsn = s.last_lsn + 1),
        ("does not exist", &|s| s.segments.get_mut(&last).unwrap().collection = CollectionId(999)),
        ("schema", &|s| s.segments.get_mut(&last).unwrap().meta.schema = Schema::new(5, Metric::L2)),
        ("calls itself", &|s| s.segments.get_mut(&last).unwrap().meta.id = SegmentId(0)),
        ("empty set", &|s| _ = s.deaths.insert(last, RoaringBitmap::new())),
        ("death of row 100000", &|s| _ = s.deaths.insert(last, [100_000].into_iter().collect())),
        ("deaths of segment", &|s| _ = s.deaths.insert(SegmentId(998), [1].into_iter().collect())),
        ("of store", &|s| s.store = Uuid([8; 16])),
    ];
    let ops = disk.ops();
    for (word, break_it) in breaks {
        let mut state = good.clone();
        break_it(&mut state);
        let error = catalog.commit(state).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{word}: {error}");
        assert!(word == "next ids" || error.to_string().contains(word), "{word}: {error}");
    }
    let mut gone = good.clone();
    gone.segments.remove(&last);
    gone.deaths.remove(&last);
    assert_eq!(disk.ops(), ops, "a refused state writes nothing");
    catalog.commit(gone).unwrap();
}

#[test]
fn a_poisoned_catalog_writes_nothing_more() {
    let disk = Disk::default();
    let mut catalog = grown(&disk, 3);
    let before = catalog.state().clone();
    let ops = disk.ops();
    catalog.poison();
    let error = catalog.commit(CatalogState::clone(&before)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poisoned);
    drop(catalog);
    assert_eq!(disk.ops(), ops, "not even when dropped");
    let catalog = Catalog::open(disk.vfs(), dir(), STORE).unwrap();
    assert_eq!(*catalog.state(), before);
    catalog.poison();
    let ops = disk.ops();
    assert_eq!(catalog.close().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(disk.ops(), ops);
}

#[test]
fn reading_writes_nothing() {
    for clean in [true, false] {
        let disk = Disk::default();
        let catalog = grown(&disk, 5);
        let state = catalog.state().clone();
        if clean {
            catalog.close().unwrap();
        } else {
            catalog.poison();
            drop(catalog);
        }
        let ops = disk.ops();
        assert_eq!(read(&disk).unwrap(), *state);
        assert_eq!(disk.ops(), ops);
    }
}

#[test]
fn creating_over_a_catalog_is_refused_and_over_leftovers_is_not() {
    let disk = Disk::default();
    let tmp = dir().join(CATALOG_TMP);
    disk.open(&tmp, OpenMode::CreateNew).unwrap().write_at(b"left over", 0).unwrap();
    let catalog = Catalog::create(disk.vfs(), dir(), CatalogState::new(STORE)).unwrap();
    catalog.close().unwrap();
    assert!(disk.contents(&tmp).is_none());
    let error = Catalog::create(disk.vfs(), dir(), CatalogState::new(STORE)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

#[test]
fn any_crash_leaves_the_old_state_or_the_new_one() {
    let disk = Disk::default();
    let mut random = SplitMix64::new(3);
    // Generation -> state, and how many operations had been made when it was acknowledged.
    let mut states = BTreeMap::from([(1, CatalogState::new(STORE))]);
    let mut acknowledged = Vec::new();
    let mut catalog = Catalog::create(disk.vfs(), dir(), states[&1].clone()).unwrap();
    acknowledged.push((1, disk.ops()));
    for generation in 2..8 {
        let mut state = next(catalog.state(), &mut random);
        state.generation = generation;
        states.insert(generation, state.clone());
        catalog.commit(state).unwrap();
        acknowledged.push((generation, disk.ops()));
        if generation % 3 == 0 {
            catalog.close().unwrap();
            catalog = Catalog::open(disk.vfs(), dir(), STORE).unwrap();
        }
    }
    drop(catalog);
    let mut seen = std::collections::HashSet::new();
    let mut newer = 0;
    for count in 0..=disk.ops() {
        let certain =
            acknowledged.iter().rev().find(|(_, at)| *at <= count).map_or(0, |(generation, _)| *generation);
        for image in disk.crashes(&catalog_path(), count, &mut |bound| random.below(bound)) {
            let Some(bytes) = image else {
                assert_eq!(certain, 0, "the catalog is gone after {count} operations");
                continue;
            };
            if !seen.insert((certain, nearstone_base::checksum::hash128(&bytes))) {
                continue;
            }
            let disk = Disk::with(&catalog_path(), bytes);
            let mut catalog = Catalog::open(disk.vfs(), dir(), STORE)
                .unwrap_or_else(|error| panic!("after {count} operations: {error}"));
            let found = catalog.state().clone();
            assert!(found.generation == certain || found.generation == certain + 1, "{}", found.generation);
            assert_eq!(*found, states[&found.generation]);
            newer += usize::from(found.generation > certain);
            if seen.len() % 8 == 0 {
                let state = next(&found, &mut random);
                catalog.commit(state).unwrap();
                assert_eq!(read(&disk).unwrap(), **catalog.state());
            }
        }
    }
    assert!(seen.len() > 500 && newer > 4, "{} images, {newer} with the state in flight", seen.len());
}

#[test]
fn any_failing_operation_latches_and_leaves_the_old_state_or_the_new_one() {
    for skip in 0.. {
        let disk = Disk::default();
        let mut catalog = grown(&disk, 4);
        let old = catalog.state().clone();
        let state = next(&old, &mut SplitMix64::new(5));
        disk.fail_after(skip);
        let result = catalog.commit(state.clone());
        if result.is_ok() {
            assert!(skip > 4, "a commit of {skip} operations");
            break;
        }
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Io, Outcome::Indeterminate), "{error}");
        assert_eq!(*catalog.state(), old);
        let ops = disk.ops();
        assert_eq!(catalog.commit(state.clone()).unwrap_err().kind(), ErrorKind::Poisoned);
        drop(catalog);
        assert_eq!(disk.ops(), ops, "writes after a failure");
        let found = Catalog::open(disk.vfs(), dir(), STORE).unwrap().state().clone();
        assert!(found == old || (found.generation == old.generation + 1 && found.segments == state.segments));
    }
}

#[test]
fn any_failing_operation_of_a_creation_is_an_error() {
    for skip in 0.. {
        let disk = Disk::default();
        disk.fail_after(skip);
        let Err(error) = Catalog::create(disk.vfs(), dir(), CatalogState::new(STORE)) else {
            assert!(skip > 10);
            break;
        };
        assert_eq!(error.kind(), ErrorKind::Io, "operation {skip}: {error}");
        let again = if Catalog::exists(&disk, dir()).unwrap() {
            Catalog::open(disk.vfs(), dir(), STORE)
        } else {
            Catalog::create(disk.vfs(), dir(), CatalogState::new(STORE))
        };
        assert_eq!(again.unwrap().state().generation, 1);
    }
}
