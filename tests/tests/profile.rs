//! Collections for speed and for little memory in one store, and segments held in each of the ways there are.

use nearstone::vfs::{CrashChoice, MemoryVfs, Residency, SimVfs, Vfs};
use nearstone::{
    Background, Collection, CollectionStats, ErrorKind, Held, Metric, OnCollision, Profile, RebuildOptions,
    Schema, Store,
};
use nearstone_datasets::{Generator, Shape};
use nearstone_tests::forge::segment::header;
use nearstone_tests::forge::{FOLDER, Forger, write_folder};
use std::path::Path;
use std::sync::Arc;

const DIMENSION: usize = 64;
const ROWS: u64 = 1_200;

struct Vectors(Vec<f32>);

impl Vectors {
    fn new(rows: u64) -> Vectors {
        Vectors(Generator::new(Shape::Manifold { latent: 8 }, DIMENSION, 3).rows(0, rows as usize))
    }

    fn of(&self, key: u64) -> &[f32] {
        &self.0[key as usize * DIMENSION..][..DIMENSION]
    }

    fn put(&self, rows: &Collection, keys: std::ops::Range<u64>) {
        rows.upsert_many(keys.map(|key| (key, self.of(key), ()))).unwrap();
    }

    /// Every third row is gone; the others are found, exactly and by walks, and have their own bits.
    fn check(&self, rows: &Collection, count: u64) {
        for key in (0..count).step_by(7) {
            let row = rows.get(key).unwrap();
            assert_eq!(row.is_some(), key % 3 != 0, "{rows:?}: {key}");
            let Some(row) = row else { continue };
            assert_eq!(row.vector(), self.of(key));
            for exact in [false, true] {
                let hits = rows.search(self.of(key)).limit(3).exact(exact).with_vector().run().unwrap();
                assert_eq!((hits.len(), hits[0].key().as_u64(), hits[0].distance()), (3, Some(key), 0.0));
                assert_eq!(hits[0].vector(), Some(self.of(key)));
            }
        }
    }
}

fn schema(profile: Profile) -> Schema {
    Schema::new(DIMENSION, Metric::L2).m(8).ef_construction(48).profile(profile)
}

fn stats(store: &Store, name: &str) -> CollectionStats {
    store.stats().unwrap().collections.into_iter().find(|c| c.name == name).unwrap()
}

fn has_inline_rows(collection: &CollectionStats) -> Vec<bool> {
    let inline = |name: &(String, u64)| name.0 == "inline_rows";
    collection.segments.iter().map(|segment| segment.sections.iter().any(inline)).collect()
}

#[test]
fn fast_and_lean_collections_of_one_store_survive_power_loss_and_compaction() {
    let vectors = Vectors::new(2 * ROWS);
    let disk = SimVfs::new(5);
    let open = |disk: &SimVfs| {
        let vfs: Arc<dyn Vfs> = Arc::new(disk.clone());
        Store::builder().vfs(vfs).background(Background::Manual).auto_compact(false).open("/store").unwrap()
    };
    let store = open(&disk);
    for profile in Profile::ALL {
        let rows = store.create_collection(profile.name(), schema(profile)).unwrap();
        vectors.put(&rows, 0..ROWS);
        rows.flush().unwrap();
        let mut load = rows.bulk_load().unwrap().on_collision(OnCollision::Refuse);
        (ROWS..2 * ROWS).for_each(|key| load.push(key, vectors.of(key), ()).unwrap());
        load.finish().unwrap();
        (0..2 * ROWS).step_by(3).for_each(|key| assert!(rows.delete(key).unwrap()));
    }
    for compacted in [false, true] {
        for choice in [CrashChoice::DurableOnly, CrashChoice::KeepAll] {
            let store = open(&disk.crash_image(choice));
            if compacted {
                store.compact().unwrap();
            }
            store.verify().unwrap();
            for profile in Profile::ALL {
                let rows = store.collection(profile.name()).unwrap();
                assert_eq!(rows.schema().chosen_profile(), profile);
                assert_eq!(rows.len().unwrap(), 2 * ROWS - 2 * ROWS / 3);
                vectors.check(&rows, 2 * ROWS);
                let stats = stats(&store, profile.name());
                let segments = if compacted { 1 } else { 2 };
                assert_eq!(
                    has_inline_rows(&stats),
                    vec![profile != Profile::Memory; segments],
                    "{profile:?}"
                );
                assert!(stats.segments.iter().all(|segment| segment.profile == profile));
                let read: u64 = stats.segments.iter().map(|segment| segment.held.read).sum();
                assert_eq!(read > 0, profile == Profile::Memory);
            }
        }
    }
}

#[test]
fn a_rebuild_makes_a_fast_collection_lean_and_fast_again() {
    let vectors = Vectors::new(2 * ROWS);
    let store = Store::in_memory().unwrap();
    let rows = store.create_collection("rows", schema(Profile::Auto)).unwrap();
    vectors.put(&rows, 0..ROWS);
    rows.flush().unwrap();
    for (profile, written) in
        [(Profile::Memory, ROWS + 10), (Profile::Memory, ROWS + 10), (Profile::Speed, 2 * ROWS)]
    {
        vectors.put(&rows, 0..written);
        (0..written).step_by(3).for_each(|key| assert!(rows.delete(key).unwrap()));
        rows.rebuild(RebuildOptions::new().profile(profile)).unwrap();
        rows.flush().unwrap();
        assert_eq!(rows.schema(), schema(profile));
        vectors.check(&rows, written);
        store.verify().unwrap();
        let stats = stats(&store, "rows");
        assert!(stats.segments.iter().all(|segment| segment.profile == profile), "{stats:?}");
        let fast = has_inline_rows(&stats);
        assert_eq!(fast.iter().any(|&inline| inline), profile != Profile::Memory, "{stats:?}");
    }
}

/// A segment that comes from elsewhere, say.
#[test]
fn a_segment_of_another_profile_serves_and_a_merge_writes_it_anew_by_the_collections_own() {
    let (mut forger, contents) = Forger::new();
    forger.segment(0, |segment| segment.blocks[header::PROFILE] = Profile::Memory.code());
    let vfs: Arc<dyn Vfs> = Arc::new(forger.disk());
    let store = Store::builder().vfs(vfs).background(Background::Manual).open(FOLDER).unwrap();
    let profiles = |store: &Store| -> Vec<Profile> {
        stats(store, "rows").segments.iter().map(|segment| segment.profile).collect()
    };
    assert!(profiles(&store).contains(&Profile::Memory) && profiles(&store).contains(&Profile::Auto));
    let check = |store: &Store| {
        store.verify().unwrap();
        let rows = store.collection("rows").unwrap();
        for ((collection, key), (vector, _)) in contents.iter().filter(|((name, _), _)| name == "rows") {
            let key: u64 = key.parse().unwrap();
            assert_eq!(rows.get(key).unwrap().unwrap().vector(), vector, "{collection} {key}");
            assert_eq!(rows.search(vector).limit(1).run().unwrap()[0].distance(), 0.0);
        }
    };
    check(&store);
    store.compact().unwrap();
    assert_eq!(profiles(&store), [Profile::Auto]);
    check(&store);
}

#[test]
fn who_asks_for_a_collection_with_another_profile_gets_it_as_it_is() {
    let store = Store::in_memory().unwrap();
    store.create_collection("rows", schema(Profile::Memory)).unwrap();
    for profile in Profile::ALL {
        let rows = store.collection_or_create("rows", schema(profile)).unwrap();
        assert_eq!(rows.schema().chosen_profile(), Profile::Memory, "a rebuild changes it, nothing else");
    }
}

#[test]
fn a_damaged_vector_of_a_lean_segment_is_corruption_that_names_file_and_offset() {
    let vectors = Vectors::new(ROWS);
    let (mut forger, ()) = Forger::of(|store| {
        let rows = store.create_collection("rows", schema(Profile::Memory)).unwrap();
        vectors.put(&rows, 0..ROWS);
        rows.flush().unwrap();
    });
    let path = forger.paths("segments")[0].clone();
    let number = vectors.of(700)[9].to_le_bytes();
    let next = vectors.of(700)[10].to_le_bytes();
    let pair = [number, next].concat();
    let mut place = 0;
    forger.bytes(&path, |bytes| {
        place = bytes.windows(8).position(|eight| eight == pair).expect("the vector is there");
        bytes[place] ^= 1;
    });
    let folder = tempfile::tempdir().unwrap();
    write_folder(&forger.files, folder.path());
    for residency in [Residency::Mapped, Residency::Warm, Residency::Pinned] {
        let store = Store::builder().read_only(true).residency(residency).open(folder.path()).unwrap();
        let rows = store.collection("rows").unwrap();
        for error in [
            rows.get(700u64).unwrap_err(),
            rows.search(vectors.of(700)).limit(1).run().unwrap_err(),
            rows.search(vectors.of(3)).limit(1).exact(true).run().unwrap_err(),
            store.verify().unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Corruption, "{residency:?}: {error}");
            let at = error.place().unwrap();
            assert!(at.file.ends_with(&path), "{error}");
            assert_eq!(at.offset, place as u64 / 4096 * 4096, "{residency:?}: {error}");
        }
        // What is whole is found.
        assert_eq!(rows.get(3u64).unwrap().unwrap().vector(), vectors.of(3));
        store.close().unwrap();
    }
}

#[test]
fn segments_are_held_as_asked_from_the_moment_they_are_published() {
    let vectors = Vectors::new(2 * ROWS);
    let folder = tempfile::tempdir().unwrap();
    for (number, residency) in
        [Residency::Mapped, Residency::Warm, Residency::Pinned, Residency::Heap].into_iter().enumerate()
    {
        let path = folder.path().join(number.to_string());
        let builder = || Store::builder().residency(residency).auto_compact(false);
        let store = builder().open(&path).unwrap();
        let check = |store: &Store, segments: usize| {
            let all = store.stats().unwrap();
            let mut sum = Held::default();
            for segment in all.collections.iter().flat_map(|c| &c.segments) {
                let held = segment.held;
                sum += held;
                let (mapped, heap) =
                    if residency == Residency::Heap { (0, segment.bytes) } else { (segment.bytes, 0) };
                assert_eq!((held.mapped, held.heap), (mapped, heap), "{residency:?}");
                assert_eq!(held.warmed > 0, residency == Residency::Warm);
                assert_eq!(held.pinned > 0, residency == Residency::Pinned);
            }
            assert_eq!((all.held, all.collections[0].segments.len()), (sum, segments), "{residency:?}");
        };
        for profile in [Profile::Speed, Profile::Memory] {
            let rows = store.create_collection(profile.name(), schema(profile)).unwrap();
            for half in [0..ROWS, ROWS..2 * ROWS] {
                vectors.put(&rows, half);
                rows.flush().unwrap();
            }
            (0..2 * ROWS).step_by(3).for_each(|key| assert!(rows.delete(key).unwrap()));
            vectors.check(&rows, 2 * ROWS);
        }
        check(&store, 2);
        store.compact().unwrap();
        check(&store, 1);
        store.close().unwrap();
        let store = builder().open(&path).unwrap();
        check(&store, 1);
        for profile in [Profile::Speed, Profile::Memory] {
            vectors.check(&store.collection(profile.name()).unwrap(), 2 * ROWS);
        }
        store.verify().unwrap();
        store.close().unwrap();
    }
}

/// In memory there is nothing to map, warm or pin.
#[test]
fn a_store_in_memory_takes_every_residency() {
    for residency in [Residency::Mapped, Residency::Warm, Residency::Pinned, Residency::Heap] {
        let vfs: Arc<dyn Vfs> = Arc::new(MemoryVfs::new());
        let builder = Store::builder().vfs(vfs).residency(residency).background(Background::Manual);
        let store = builder.open(Path::new("/store")).unwrap();
        let rows = store.create_collection("rows", schema(Profile::Memory)).unwrap();
        let vectors = Vectors::new(ROWS);
        vectors.put(&rows, 0..ROWS);
        rows.flush().unwrap();
        (0..ROWS).step_by(3).for_each(|key| assert!(rows.delete(key).unwrap()));
        vectors.check(&rows, ROWS);
        let held = store.stats().unwrap().held;
        assert!(held.heap > 0 && held.mapped + held.pinned + held.warmed == 0, "{held:?}");
    }
}
