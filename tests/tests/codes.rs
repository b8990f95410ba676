//! Collections with each of the codes there are: through seals, bulk loads, deletes, merges, power loss, rebuilds and files that
//! come from elsewhere, found by walks, with filters and exactly.

use nearstone::vfs::{CrashChoice, SimVfs, Vfs};
use nearstone::{
    AttachOptions, Background, Codes, Collection, ErrorKind, KeyRef, Metric, OnCollision, Profile,
    RebuildOptions, Schema, Store,
};
use nearstone_datasets::{Generator, Shape};
use nearstone_tests::forge::segment::header;
use nearstone_tests::forge::{FOLDER, Forger, schema_bytes};
use std::sync::Arc;

const DIMENSION: usize = 72;
const ROWS: u64 = 1_100;
const METRICS: [Metric; 3] = [Metric::L2, Metric::Cosine, Metric::InnerProduct];

fn schema(metric: Metric, profile: Profile, codes: Codes) -> Schema {
    Schema::new(DIMENSION, metric).m(8).ef_construction(48).profile(profile).codes(codes)
}

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

    /// The share of the ten nearest that walks find, among all rows and among every second one.
    fn recall(&self, rows: &Collection) -> [f64; 2] {
        [1, 2].map(|each| {
            let (mut found, mut wanted) = (0, 0);
            for key in (0..ROWS).step_by(37) {
                let (a, b) = (self.of(key), self.of(ROWS - 1 - key));
                let query: Vec<f32> = a.iter().zip(b).map(|(a, b)| 0.8 * a + 0.2 * b).collect();
                let kept = |key: KeyRef<'_>| matches!(key, KeyRef::U64(key) if key % each == 0);
                let hits = |exact: bool| {
                    let search = rows.search(&query).limit(10).ef(48).exact(exact);
                    let search = if each == 1 { search } else { search.filter(&kept) };
                    let hits = search.run().unwrap();
                    hits.iter().map(|hit| hit.distance().to_bits()).collect::<Vec<_>>()
                };
                let truth = hits(true);
                assert_eq!(truth.len(), 10);
                wanted += truth.len();
                found += hits(false).iter().filter(|distance| truth.contains(distance)).count();
            }
            found as f64 / wanted as f64
        })
    }
}

fn codes_of(store: &Store, name: &str) -> Vec<(Codes, u64)> {
    let stats = store.stats().unwrap();
    let collection = stats.collections.iter().find(|collection| collection.name == name).unwrap();
    let bytes = |sections: &[(String, u64)]| sections.iter().find(|(name, _)| name == "codes").unwrap().1;
    collection.segments.iter().map(|one| (one.codes, bytes(&one.sections) / one.rows)).collect()
}

/// Bytes of a code row.
fn row_bytes(codes: Codes) -> u64 {
    match codes {
        Codes::Sq8 | Codes::RaBitQ8 => 128,
        _ => 64,
    }
}

#[test]
fn collections_of_all_codes_survive_power_loss_and_compaction_and_find_what_is_there() {
    let vectors = Vectors::new(2 * ROWS);
    let disk = SimVfs::new(5);
    let open = |disk: &SimVfs| {
        let vfs: Arc<dyn Vfs> = Arc::new(disk.clone());
        Store::builder().vfs(vfs).background(Background::Manual).auto_compact(false).open("/store").unwrap()
    };
    let all = || {
        let mut all = Vec::new();
        for (place, codes) in Codes::ALL.into_iter().enumerate() {
            for profile in [Profile::Auto, Profile::Memory] {
                let metric = METRICS[(place + usize::from(profile == Profile::Auto)) % 3];
                all.push((format!("{}-{}", codes.name(), profile.name()), schema(metric, profile, codes)));
            }
        }
        all
    };
    let store = open(&disk);
    for (name, schema) in all() {
        let rows = store.create_collection(&name, schema).unwrap();
        vectors.put(&rows, 0..ROWS);
        rows.flush().unwrap();
        let mut load = rows.bulk_load().unwrap().on_collision(OnCollision::Refuse);
        (ROWS..2 * ROWS).for_each(|key| load.push(key, vectors.of(key), ()).unwrap());
        load.finish().unwrap();
        (0..2 * ROWS).step_by(3).for_each(|key| assert!(rows.delete(key).unwrap()));
    }
    for compacted in [false, true] {
        let store = open(&disk.crash_image(CrashChoice::DurableOnly));
        if compacted {
            store.compact().unwrap();
        }
        store.verify().unwrap();
        for (name, schema) in all() {
            let rows = store.collection(&name).unwrap();
            assert_eq!(rows.schema(), schema);
            assert_eq!(rows.len().unwrap(), 2 * ROWS - (2 * ROWS).div_ceil(3));
            for key in (0..2 * ROWS).step_by(7) {
                let row = rows.get(key).unwrap();
                assert_eq!(row.map(|row| row.vector() == vectors.of(key)), (key % 3 != 0).then_some(true));
            }
            let codes = schema.chosen_codes();
            let segments = if compacted { 1 } else { 2 };
            assert_eq!(codes_of(&store, &name), vec![(codes, row_bytes(codes)); segments]);
            let recall = vectors.recall(&rows);
            assert!(recall.iter().all(|&recall| recall >= 0.97), "{name}: {recall:?}");
        }
    }
}

#[test]
fn a_rebuild_changes_the_codes_and_who_asks_for_others_gets_the_collection_as_it_is() {
    let vectors = Vectors::new(2 * ROWS);
    let store = Store::in_memory().unwrap();
    let schema = |codes| schema(Metric::L2, Profile::Memory, codes);
    let rows = store.create_collection("rows", schema(Codes::Sq8)).unwrap();
    vectors.put(&rows, 0..ROWS);
    for codes in Codes::ALL.into_iter().rev() {
        rows.rebuild(RebuildOptions::new().codes(codes)).unwrap();
        assert_eq!(rows.schema(), schema(codes));
        assert!(codes_of(&store, "rows").iter().all(|&segment| segment == (codes, row_bytes(codes))));
        store.verify().unwrap();
        let recall = vectors.recall(&rows);
        assert!(recall.iter().all(|&recall| recall >= 0.97), "{codes:?}: {recall:?}");
        for asked in Codes::ALL {
            let same = store.collection_or_create("rows", schema(asked)).unwrap();
            assert_eq!(same.schema().chosen_codes(), codes, "a rebuild changes them, nothing else");
        }
    }
}

#[test]
fn a_file_with_other_codes_serves_and_a_merge_writes_the_collections_own() {
    let disk = SimVfs::new(1);
    let options = || {
        let vfs: Arc<dyn Vfs> = Arc::new(disk.clone());
        Store::builder().vfs(vfs).background(Background::Manual).auto_compact(false)
    };
    let vectors = Vectors::new(ROWS);
    let store = options().open("/store").unwrap();
    let rows = store.create_collection("rows", schema(Metric::Cosine, Profile::Auto, Codes::Sq4)).unwrap();
    let part = ROWS / Codes::ALL.len() as u64;
    for (number, codes) in (0..).zip(Codes::ALL) {
        let folder = format!("/{}", codes.name());
        let schema = schema(Metric::Cosine, Profile::Memory, codes);
        let mut build = options().build_segments(folder, schema).unwrap();
        let keys = number * part..(number + 1) * part;
        keys.for_each(|key| build.push(key, vectors.of(key), ()).unwrap());
        rows.attach(&build.finish().unwrap(), AttachOptions::new()).unwrap();
    }
    let mut there: Vec<Codes> = codes_of(&store, "rows").into_iter().map(|(codes, _)| codes).collect();
    there.sort_unstable_by_key(|codes| codes.code());
    assert_eq!(there, Codes::ALL);
    for merged in [false, true] {
        if merged {
            rows.compact().unwrap();
            assert_eq!(codes_of(&store, "rows"), [(Codes::Sq4, row_bytes(Codes::Sq4))]);
        }
        store.verify().unwrap();
        for key in (0..part * Codes::ALL.len() as u64).step_by(5) {
            let hits = rows.search(vectors.of(key)).limit(1).run().unwrap();
            assert_eq!(hits[0].key().as_u64(), Some(key));
        }
    }
}

/// It was told as damage, for which one reaches for other means.
#[test]
fn a_store_with_codes_of_a_later_time_is_unsupported_and_says_which() {
    let (mut forger, _) = Forger::new();
    forger.catalog(|rows| rows.set_collection_schema(1, &schema_bytes(6, 1, 0, 4, 0xc8_0010)));
    let vfs: Arc<dyn Vfs> = Arc::new(forger.disk());
    let opened = Store::builder().vfs(vfs).background(Background::Manual).open(FOLDER);
    let error = opened.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedVersion, "{error}");
    let text = error.to_string();
    assert!(text.contains("codes of kind 200") && text.contains("sq8, sq4"), "{text}");
}

#[test]
fn a_segment_with_codes_of_a_later_time_is_unsupported_and_says_which() {
    let (mut forger, _) = Forger::new();
    let name = forger.paths("segments")[0].clone();
    let mut codes = 0;
    forger.segment(0, |segment| {
        codes = segment.blocks[header::CODES];
        segment.blocks[header::CODES] = 200;
    });
    assert_eq!(codes, Codes::Sq8.code());
    // As a file of its own: in a store, the catalog says what codes there are.
    let disk = forger.disk();
    let vfs: Arc<dyn Vfs> = Arc::new(disk);
    let store = Store::builder().vfs(vfs).background(Background::Manual).open("/other").unwrap();
    let rows = store.create_collection("rows", Schema::new(6, Metric::L2).m(4).ef_construction(16)).unwrap();
    let path = std::path::Path::new(FOLDER).join(name);
    let error = rows.attach(&[path], AttachOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedVersion, "{error}");
    let text = error.to_string();
    assert!(text.contains("codes of kind 200") && text.contains("sq8, sq4"), "{text}");
}
