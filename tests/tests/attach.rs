//! Segments that were built without a store, and how they become part of one: what is refused, what is left after errors,
//! and what a crash leaves.

use nearstone::random::SplitMix64;
use nearstone::vfs::{CrashChoice, Fate, OpenMode, SimFault, SimVfs, Vfs};
use nearstone::{
    AttachOptions, Background, BulkLoaded, Collection, ErrorKind, KeyType, Metric, OnCollision, Profile,
    Schema, SegmentBuild, Step, Store, StoreBuilder, TakeFiles,
};
use nearstone_tests::disks::Around;
use nearstone_tests::forge::{put_u64, segment};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

fn schema() -> Schema {
    Schema::new(2, Metric::L2).m(4).ef_construction(16)
}

fn options(disk: &SimVfs) -> StoreBuilder {
    let options = Store::builder().background(Background::Manual).auto_compact(false).seal_rows(20);
    options.vfs(Arc::new(disk.clone()))
}

fn open(disk: &SimVfs) -> Store {
    options(disk).open("/store").unwrap()
}

fn begin() -> (SimVfs, Store, Collection) {
    let disk = SimVfs::new(1);
    let store = open(&disk);
    let rows = store.create_collection("rows", schema()).unwrap();
    (disk, store, rows)
}

fn push(build: &mut SegmentBuild<'_>, keys: impl IntoIterator<Item = u64>, mark: f32) {
    for key in keys {
        build.push(key, &[key as f32, mark], serde_json::json!({ "mark": mark })).unwrap();
    }
}

/// Files with rows whose second number is `mark`, twenty in each.
fn build(disk: &SimVfs, folder: &str, keys: impl IntoIterator<Item = u64>, mark: f32) -> Vec<PathBuf> {
    let mut build = options(disk).build_segments(folder, schema()).unwrap();
    push(&mut build, keys, mark);
    build.finish().unwrap()
}

/// Key -> mark and version.
fn marks(rows: &Collection) -> BTreeMap<u64, (f32, u64)> {
    let now = rows.now().unwrap();
    let keys = now.keys().unwrap().map(|key| key.unwrap().as_u64().unwrap());
    keys.map(|key| {
        let row = now.get(key).unwrap().unwrap();
        assert_eq!(row.vector()[0], key as f32);
        let hits = now.search(row.vector()).limit(1).run().unwrap();
        assert_eq!((hits[0].key().as_u64(), hits[0].version()), (Some(key), row.version()));
        (key, (row.vector()[1], row.version()))
    })
    .collect()
}

fn files(disk: &SimVfs, folder: &str) -> Vec<PathBuf> {
    let folder = folder.trim_start_matches('/');
    disk.files().into_iter().map(|(path, _)| path).filter(|path| path.starts_with(folder)).collect()
}

/// The store names as many segments as there are files, and all is sound.
fn no_litter(disk: &SimVfs, store: &Store) {
    let named: usize = store.stats().unwrap().collections.iter().map(|c| c.segments.len()).sum();
    assert_eq!(files(disk, "/store/segments").len(), named);
    store.verify().unwrap();
}

#[test]
fn what_was_built_is_there_whole_and_of_one_version() {
    for policy in [OnCollision::Replace, OnCollision::Keep] {
        let (disk, store, rows) = begin();
        let built = build(&disk, "/built", 0..50, 1.0);
        assert_eq!((built.len(), files(&disk, "/built").len()), (3, 3));
        for key in 40..60u64 {
            rows.upsert(key, &[key as f32, 0.0], ()).unwrap();
        }
        rows.delete(49u64).unwrap();
        let snapshot = store.snapshot();
        let attached = rows.attach(&built, AttachOptions::new().on_collision(policy)).unwrap();
        let lsn = snapshot.lsn() + 1;
        let (replaced, kept) = if policy == OnCollision::Replace { (9, 0) } else { (0, 9) };
        assert_eq!(attached, BulkLoaded { lsn, inserted: 41, replaced, kept });
        let expected: BTreeMap<u64, (f32, u64)> = (0..60)
            .map(|key| match key {
                40..=48 if policy == OnCollision::Keep => (key, (0.0, key - 39)),
                50.. => (key, (0.0, key - 39)),
                _ => (key, (1.0, lsn)),
            })
            .collect();
        assert_eq!(marks(&rows), expected);
        assert_eq!(rows.at(&snapshot).unwrap().len(), 19);
        drop(snapshot);
        no_litter(&disk, &store);
        // What was copied stays as well.
        assert_eq!(files(&disk, "/built").len(), 3);
        for choice in [CrashChoice::DurableOnly, CrashChoice::KeepAll] {
            let image = disk.crash_image(choice);
            let store = open(&image);
            let rows = store.collection("rows").unwrap();
            assert_eq!(marks(&rows), expected);
            no_litter(&image, &store);
            rows.compact().unwrap();
            assert_eq!(marks(&rows), expected);
        }
    }
}

/// Data as it comes: searches of an attached segment are as good as those of a sealed one, since it is one.
#[test]
fn keys_may_be_text_and_graphs_are_refined() {
    let disk = SimVfs::new(2);
    let schema = Schema::new(64, Metric::Cosine).keys(KeyType::Str);
    let store = options(&disk).seal_rows(100_000).open("/store").unwrap();
    let rows = store.create_collection("rows", schema).unwrap();
    let mut rng = SplitMix64::new(1);
    let vectors: Vec<Vec<f32>> =
        (0..1500).map(|_| (0..64).map(|_| rng.unit_f64() as f32 - 0.5).collect()).collect();
    let mut build = options(&disk).seal_rows(100_000).build_segments("/built", schema).unwrap().threads(2);
    for (number, vector) in vectors.iter().enumerate() {
        build.push(format!("row {number}"), vector, ()).unwrap();
    }
    let built = build.finish().unwrap();
    assert_eq!(built.len(), 1);
    assert_eq!(rows.attach(&built, AttachOptions::new()).unwrap().inserted, 1500);
    let segment = store.stats().unwrap().collections[0].segments.remove(0);
    assert!(segment.sections.iter().any(|(name, _)| name == "inline_rows"));
    for (number, vector) in vectors.iter().enumerate() {
        let hit = rows.search(vector).limit(1).run().unwrap().remove(0);
        assert_eq!(hit.key().as_str().unwrap(), format!("row {number}"));
    }
    store.verify().unwrap();
}

#[test]
fn files_are_copied_linked_or_moved_as_asked() {
    for (take, links, left, named_twice) in [
        (TakeFiles::Copy, true, 3, false),
        (TakeFiles::Link, true, 3, true),
        (TakeFiles::Link, false, 3, false),
        (TakeFiles::Move, true, 0, false),
        (TakeFiles::Move, false, 0, false),
    ] {
        let disk = SimVfs::new(1);
        let vfs: Arc<dyn Vfs> =
            if links { Arc::new(disk.clone()) } else { Arc::new(Around::without_links(disk.clone())) };
        let store = options(&disk).vfs(vfs).open("/store").unwrap();
        let rows = store.create_collection("rows", schema()).unwrap();
        let built = build(&disk, "/built", 0..50, 1.0);
        rows.attach(&built, AttachOptions::new().take(take)).unwrap();
        assert_eq!((rows.len().unwrap(), files(&disk, "/built").len()), (50, left), "{take:?}");
        no_litter(&disk, &store);
        if left > 0 {
            // A link is the same file: what is changed there is changed here.
            let file = disk.open(&built[0], OpenMode::ReadWrite).unwrap();
            file.write_at(&[0xff; 8], 5000).unwrap();
            drop((store, rows));
            let read = options(&disk).open("/store").and_then(|store| store.verify());
            assert_eq!(read.is_err(), named_twice, "{take:?}, links: {links}");
        }
    }
}

/// Each reason is told with the name of the file, and nothing has changed.
#[test]
fn what_does_not_belong_there_is_refused_and_changes_nothing() {
    let (disk, store, rows) = begin();
    for key in 0..10u64 {
        rows.upsert(key, &[key as f32, 0.0], ()).unwrap();
    }
    rows.flush().unwrap();
    let good = build(&disk, "/good", 100..140, 1.0);
    let colliding = build(&disk, "/colliding", [200, 7], 1.0);
    let twice = build(&disk, "/twice", [130, 300], 1.0);
    let other = |folder: &str, schema: Schema| {
        let mut build = options(&disk).build_segments(folder, schema).unwrap();
        build.push(1u64, &vec![1.0; schema.dimension()], ()).unwrap();
        build.finish().unwrap().remove(0)
    };
    let wider = other("/wider", Schema::new(3, Metric::L2).m(4).ef_construction(16));
    let metric = other("/metric", Schema::new(2, Metric::Cosine).m(4).ef_construction(16));
    let links = other("/links", schema().m(5));
    let copied = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let source = disk.open(&good[0], OpenMode::Read).unwrap();
        let mut bytes = vec![0; source.len().unwrap() as usize];
        source.read_at(&mut bytes, 0).unwrap();
        change(&mut bytes);
        let path = PathBuf::from("/good").join(name);
        disk.open(&path, OpenMode::CreateNew).unwrap().write_at(&bytes, 0).unwrap();
        path
    };
    let cut = copied("cut.seg", &|bytes| bytes.truncate(bytes.len() - 10));
    let nothing = copied("nothing.seg", &|bytes| bytes.clear());
    let foreign = copied("foreign.seg", &|bytes| bytes.fill(b'x'));
    let same = copied("same.seg", &|_| {});
    let of_a_store = PathBuf::from("/").join(files(&disk, "/store/segments").remove(0));
    // Out of another store, which was closed.
    let elsewhere = options(&disk).open("/elsewhere").unwrap();
    let rows_there = elsewhere.create_collection("rows", schema()).unwrap();
    rows_there.upsert(1000u64, &[1000.0, 0.0], ()).unwrap();
    rows_there.flush().unwrap();
    elsewhere.close().unwrap();
    let of_another = PathBuf::from("/").join(files(&disk, "/elsewhere/segments").remove(0));
    let unfinished = {
        let image = SimVfs::new(3);
        let mut build = options(&image).build_segments("/unfinished", schema()).unwrap();
        push(&mut build, 400..430, 1.0);
        // The process dies: what it left is copied here.
        let left = image.crash_image(CrashChoice::KeepAll);
        disk.create_dir(Path::new("/unfinished")).unwrap();
        for path in files(&left, "/unfinished") {
            let path = Path::new("/").join(path);
            let source = left.open(&path, OpenMode::Read).unwrap();
            let mut bytes = vec![0; source.len().unwrap() as usize];
            source.read_at(&mut bytes, 0).unwrap();
            disk.open(&path, OpenMode::CreateNew).unwrap().write_at(&bytes, 0).unwrap();
        }
        Path::new("/").join(files(&disk, "/unfinished").remove(0))
    };
    let attach = |files: &[&Path], policy| rows.attach(files, AttachOptions::new().on_collision(policy));
    let before = (marks(&rows), files(&disk, "/store"), store.snapshot().lsn());
    let refused = |files: &[&Path], policy, kind: ErrorKind, words: &[&str]| {
        let error = attach(files, policy).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
        assert_eq!(marks(&rows), before.0, "{text}");
        assert_eq!(store.snapshot().lsn(), before.2, "{text}");
        no_litter(&disk, &store);
    };
    use ErrorKind::{AlreadyExists, Corruption, InvalidArgument, NotFound};
    use OnCollision::{Refuse, Replace};
    let first = good[0].as_path();
    refused(&[], Replace, InvalidArgument, &["no file"]);
    refused(&[first, &wider], Replace, InvalidArgument, &["/wider", "dimension 3"]);
    refused(&[&metric], Replace, InvalidArgument, &["/metric", "metric cosine"]);
    refused(&[&links], Replace, InvalidArgument, &["/links", "m 5"]);
    refused(&[first, first], Replace, InvalidArgument, &["/good", "twice"]);
    refused(&[first, &same], Replace, InvalidArgument, &["same.seg", "twice"]);
    refused(&[first, &cut], Replace, Corruption, &["cut.seg"]);
    refused(&[&nothing], Replace, Corruption, &["nothing.seg"]);
    refused(&[&foreign], Replace, Corruption, &["foreign.seg"]);
    refused(&[&of_a_store], Replace, AlreadyExists, &["/store/segments", "part of the store already"]);
    refused(&[&of_another], Replace, InvalidArgument, &["/elsewhere", "versions"]);
    refused(&[&unfinished], Replace, InvalidArgument, &["/unfinished", "not finished"]);
    refused(&[Path::new("/nobody.seg")], Replace, NotFound, &["/nobody.seg"]);
    refused(&[&good[1], &twice[0]], Replace, InvalidArgument, &["130", "/good", "/twice"]);
    refused(&[first, &colliding[0]], Refuse, AlreadyExists, &["the key 7 of /colliding", "1 of the 22"]);
    // A bit anywhere in the file.
    let len = disk.open(first, OpenMode::Read).unwrap().len().unwrap() as usize;
    for place in (0..len).step_by(len / 40) {
        let damaged = copied("damaged.seg", &|bytes| bytes[place] ^= 4);
        match attach(&[&damaged], Replace) {
            Ok(attached) => panic!("a bit at {place} of {len} went through: {attached:?}"),
            Err(error) => assert!(
                matches!(error.kind(), Corruption | ErrorKind::UnsupportedVersion)
                    && error.to_string().contains("damaged.seg"),
                "a bit at {place}: {error}"
            ),
        }
        disk.remove(&damaged).unwrap();
        no_litter(&disk, &store);
    }
    assert_eq!(files(&disk, "/store"), before.1);
    // What is sound goes in, once.
    assert_eq!(attach(&[first, &good[1]], Refuse).unwrap().inserted, 40);
    let error = attach(&[first], Replace).unwrap_err();
    assert_eq!(error.kind(), AlreadyExists, "{error}");
    assert_eq!(rows.len().unwrap(), 50);
    no_litter(&disk, &store);
}

#[test]
fn an_attach_that_is_cancelled_leaves_all_as_it_was() {
    let (disk, store, rows) = begin();
    rows.upsert(1u64, &[1.0, 0.0], ()).unwrap();
    let built = build(&disk, "/built", 0..50, 1.0);
    for take in [TakeFiles::Copy, TakeFiles::Move] {
        let before = marks(&rows);
        let mut reports = 0;
        loop {
            let mut left = reports;
            let mut stop = |step: Step| {
                assert!(["copy", "verify"].contains(&step.phase) && step.done <= step.total, "{step:?}");
                if left == 0 {
                    return ControlFlow::Break(());
                }
                left -= 1;
                ControlFlow::Continue(())
            };
            let result = rows.attach_with(&built, AttachOptions::new().take(take), &mut stop);
            let Err(error) = result else { break };
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
            assert_eq!((marks(&rows), files(&disk, "/built").len()), (before.clone(), 3));
            no_litter(&disk, &store);
            reports += 1;
        }
        assert!(reports >= 6, "{reports}");
        if take == TakeFiles::Copy {
            // Back to where it began.
            (0..50u64).for_each(|key| assert!(rows.delete(key).unwrap()));
            rows.compact().unwrap();
            rows.upsert(1u64, &[1.0, 0.0], ()).unwrap();
            assert_eq!(marks(&rows).len(), 1);
        }
    }
}

/// Wherever the process or the power goes, all rows are there or none, and the next open leaves no file behind.
#[test]
fn at_every_moment_of_an_attach_it_is_there_whole_or_not_at_all() {
    for take in [TakeFiles::Copy, TakeFiles::Move] {
        let (disk, store, rows) = begin();
        for key in 30..60u64 {
            rows.upsert(key, &[key as f32, 0.0], ()).unwrap();
        }
        let before = marks(&rows);
        let built = build(&disk, "/built", 0..50, 1.0);
        disk.record();
        rows.attach(&built, AttachOptions::new().take(take)).unwrap();
        let after = marks(&rows);
        drop((rows, store));
        let mut seen = [0, 0];
        let moments = disk.recorded();
        assert!(moments.len() > 30, "{} moments", moments.len());
        for moment in &moments {
            let cut = moment.image(&vec![Fate::Lost; moment.pending()]);
            let kept = moment.image(&vec![Fate::Kept; moment.pending()]);
            for image in [moment.killed(), cut, kept] {
                let store = open(&image);
                let rows = store.collection("rows").unwrap();
                let found = marks(&rows);
                let is_there = found == after;
                assert!(is_there || found == before, "before operation {}: {found:?}", moment.ops());
                seen[usize::from(is_there)] += 1;
                no_litter(&image, &store);
                // Whoever comes next can do it again, or is told that it is done.
                let left = files(&image, "/built").len();
                assert!(is_there || left == 3, "{left} files are left, and rows are not there");
                if left == 3 && !is_there {
                    rows.attach(&built, AttachOptions::new()).unwrap();
                    assert_eq!(rows.len().unwrap(), 60);
                }
            }
        }
        assert!(seen[0] > 0 && seen[1] > 0, "{take:?}: {seen:?}");
    }
}

#[test]
fn a_failure_at_every_operation_of_an_attach() {
    for (take, fault) in [
        (TakeFiles::Copy, SimFault::DiskFull),
        (TakeFiles::Link, SimFault::Io),
        (TakeFiles::Move, SimFault::Io),
    ] {
        let mut seen = [0; 3];
        for operation in 0.. {
            let (disk, store, rows) = begin();
            for key in 30..60u64 {
                rows.upsert(key, &[key as f32, 0.0], ()).unwrap();
            }
            rows.flush().unwrap();
            let built = build(&disk, "/built", 0..50, 1.0);
            let before = (marks(&rows), files(&disk, "/store/segments"));
            let start = disk.ops();
            disk.fail_op(operation, fault, false);
            let attached = rows.attach(&built, AttachOptions::new().take(take));
            let ended = disk.ops() - start <= operation;
            disk.heal();
            let there = marks(&rows);
            match attached {
                // Of what is left to do then, a failure is told to those who come next.
                Ok(attached) => {
                    assert_eq!((attached.inserted, there.len()), (30, 60), "operation {operation}");
                    seen[0] += 1;
                }
                Err(error) if rows.delete(1000u64).is_ok() => {
                    let what = format!("{take:?}, operation {operation}: {error}");
                    assert_eq!((there, files(&disk, "/store/segments")), before, "{what}");
                    assert_eq!(files(&disk, "/built").len(), 3, "{what}");
                    assert_eq!(rows.attach(&built, AttachOptions::new()).unwrap().inserted, 30, "{what}");
                    no_litter(&disk, &store);
                    seen[1] += 1;
                }
                Err(error) => {
                    let image = disk.crash_image(CrashChoice::KeepAll);
                    let store = open(&image);
                    let found = marks(&store.collection("rows").unwrap());
                    let what = format!("{take:?}, operation {operation}: {error}: {found:?}");
                    assert!(found == before.0 || found.len() == 60, "{what}");
                    no_litter(&image, &store);
                    seen[2] += 1;
                }
            }
            if ended {
                break;
            }
        }
        assert!(seen.iter().all(|&seen| seen > 0), "{take:?}: {seen:?}");
    }
}

#[test]
fn a_build_that_ends_early_leaves_nothing_and_one_that_dies_is_started_over() {
    let disk = SimVfs::new(1);
    let mut first = options(&disk).build_segments("/built", schema()).unwrap();
    push(&mut first, 0..50, 1.0);
    assert_eq!(first.len(), 50);
    let error = first.push(7u64, &[7.0, 1.0], ()).unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidArgument && error.to_string().contains("given already"));
    let error = first.push(70u64, &[f32::NAN, 1.0], ()).unwrap_err();
    assert!(error.to_string().contains("NaN"), "{error}");
    drop(first);
    // Nor the folder, which was made for it.
    assert!(files(&disk, "/built").is_empty(), "{:?}", files(&disk, "/built"));
    assert_eq!(disk.info(Path::new("/built")).unwrap(), None);
    // An empty one.
    assert!(options(&disk).build_segments("/built", schema()).unwrap().finish().unwrap().is_empty());
    assert!(files(&disk, "/built").is_empty());
    // Cancelled.
    let mut cancel = |_: Step| ControlFlow::Break(());
    let mut build = options(&disk).build_segments("/built", schema()).unwrap().progress(&mut cancel);
    let mut pushed = (0..50u64).map(|key| build.push(key, &[key as f32, 1.0], ()));
    let error = pushed.find_map(Result::err).unwrap();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    drop(build);
    // One that was there stays.
    assert!(files(&disk, "/built").is_empty());
    assert!(disk.info(Path::new("/built")).unwrap().is_some_and(|info| info.is_dir));
    // Dead at each moment: never complete and unmarked before it is whole, and begun again it is.
    disk.record();
    build_and_check(&disk);
    for moment in disk.recorded() {
        for image in [moment.killed(), moment.image(&vec![Fate::Lost; moment.pending()])] {
            let left = files(&image, "/built");
            let marked = left.iter().any(|path| path.ends_with("unfinished-build"));
            let segments = left.iter().filter(|path| path.extension().is_some_and(|e| e == "seg")).count();
            assert!(marked || segments == 0 || segments == 3, "{left:?}");
            if marked {
                build_and_check(&image);
            }
        }
    }
    // What is not its own stays.
    let refused = |folder: &str| {
        let error = options(&disk).build_segments(folder, schema()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        assert!(error.to_string().contains(folder), "{error}");
    };
    refused("/built");
    disk.create_dir(Path::new("/mine")).unwrap();
    for name in ["unfinished-build", "notes.txt"] {
        disk.open(&Path::new("/mine").join(name), OpenMode::CreateNew).unwrap();
    }
    refused("/mine");
    refused("/mine/notes.txt");
    assert_eq!(files(&disk, "/mine").len(), 2);
    let error = options(&disk).build_segments("/no/such/place", schema()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let error = options(&disk).build_segments("/new", schema().m(3)).unwrap_err();
    assert!(error.to_string().contains("m is 3"), "{error}");
}

fn build_and_check(disk: &SimVfs) {
    let built = build(disk, "/built", 0..50, 1.0);
    assert_eq!((built.len(), files(disk, "/built").len()), (3, 3));
}

/// The bytes of a file.
fn read(disk: &SimVfs, path: &Path) -> Vec<u8> {
    let file = disk.open(path, OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Its file has no versions either. But its rows may be deleted, which only that store knows, and they may be of a later
/// moment than any of this store.
#[test]
fn what_a_bulk_load_wrote_in_another_store_was_attached_without_its_deletes() {
    for writes in [0, 1_000u64] {
        let (disk, store, rows) = begin();
        rows.upsert(100u64, &[100.0, 0.0], ()).unwrap();
        let elsewhere = options(&disk).open("/elsewhere").unwrap();
        let there = elsewhere.create_collection("rows", schema()).unwrap();
        for _ in 0..writes {
            there.upsert(5u64, &[5.0, 0.0], ()).unwrap();
        }
        let mut load = there.bulk_load().unwrap();
        (0..10u64).for_each(|key| load.push(key, &[key as f32, 1.0], ()).unwrap());
        let lsn = load.finish().unwrap().lsn;
        assert!(lsn > writes);
        assert!(there.delete(3u64).unwrap());
        let segment = elsewhere.stats().unwrap().collections[0].segments.last().unwrap().id;
        let file = Path::new("/elsewhere/segments").join(format!("{segment:016x}.seg"));
        elsewhere.close().unwrap();
        drop((elsewhere, there));
        let before = (marks(&rows), store.snapshot().lsn(), files(&disk, "/store"));
        for take in [TakeFiles::Copy, TakeFiles::Link, TakeFiles::Move] {
            let error = rows.attach(&[&file], AttachOptions::new().take(take)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
            let text = error.to_string();
            assert!(text.contains("/elsewhere") && text.contains("out of a store"), "{text}");
            assert_eq!((marks(&rows), store.snapshot().lsn(), files(&disk, "/store")), before);
        }
        // Both go on.
        rows.upsert(101u64, &[101.0, 0.0], ()).unwrap();
        no_litter(&disk, &store);
        let elsewhere = options(&disk).open("/elsewhere").unwrap();
        assert_eq!(elsewhere.collection("rows").unwrap().len().unwrap(), 9);
        elsewhere.verify().unwrap();
    }
}

/// It must not end the process in the middle of a commit.
#[test]
fn a_forged_file_of_a_version_above_all_others_is_refused() {
    let (disk, store, rows) = begin();
    let built = build(&disk, "/built", 0..10, 1.0);
    for (lowest, highest) in [(u64::MAX, u64::MAX), (1 << 40, 1 << 40), (1, 1), (0, u64::MAX), (7, 3)] {
        let mut forged = segment::Segment::open(&read(&disk, &built[0]));
        put_u64(&mut forged.blocks, segment::header::LSN_MIN, lowest);
        put_u64(&mut forged.blocks, segment::header::LSN_MAX, highest);
        let path = Path::new("/built/forged.seg");
        disk.open(path, OpenMode::Truncate).unwrap().write_at(&forged.seal().0, 0).unwrap();
        let error = rows.attach(&[path], AttachOptions::new()).unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::Corruption)
                && error.to_string().contains("forged.seg"),
            "{lowest}..={highest}: {error}"
        );
        assert_eq!((rows.len().unwrap(), store.snapshot().lsn()), (0, 0), "{lowest}..={highest}");
        no_litter(&disk, &store);
    }
    assert_eq!(rows.attach(&built, AttachOptions::new()).unwrap().inserted, 10);
}

/// Two stores, one after the other, gave the same id to a file each: the second file was replaced by the first one's.
#[test]
fn an_attach_that_outlived_its_store_replaced_a_segment_of_the_next_one() {
    for (take, call, name) in [
        (TakeFiles::Copy, "open", ".tmp"),
        (TakeFiles::Copy, "rename", ".seg"),
        (TakeFiles::Copy, "bytes", ".seg"),
        (TakeFiles::Move, "link", ".seg"),
    ] {
        let (disk, store, rows) = begin();
        store.close().unwrap();
        drop((store, rows));
        let built = build(&disk, "/built", 0..10, 1.0);
        let next: Arc<Mutex<Option<Store>>> = Arc::default();
        let closing: Arc<Mutex<Option<Store>>> = Arc::default();
        let watched = {
            let (disk, next, closing) = (disk.clone(), next.clone(), closing.clone());
            Around::watched(disk.clone(), move |made, path| {
                let is_it = made == call && path.starts_with("/store/segments");
                if !is_it || !path.to_string_lossy().ends_with(name) {
                    return;
                }
                let Some(store) = closing.lock().unwrap().take() else { return };
                store.close().unwrap();
                let other = open(&disk);
                let rows = other.collection("rows").unwrap();
                // As many segments as there are ids that could be the same.
                for key in 100..110u64 {
                    rows.upsert(key, &[key as f32, 2.0], ()).unwrap();
                    rows.flush().unwrap();
                }
                *next.lock().unwrap() = Some(other);
            })
        };
        let store = options(&disk).vfs(Arc::new(watched)).open("/store").unwrap();
        let rows = store.collection("rows").unwrap();
        *closing.lock().unwrap() = Some(store);
        let error = rows.attach(&built, AttachOptions::new().take(take)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed, "{take:?}, {call}: {error}");
        drop(rows);
        let store = next.lock().unwrap().take().expect("the store was closed meanwhile");
        let expected: Vec<u64> = (100..110).collect();
        let check = |store: &Store| {
            store.verify().unwrap();
            assert!(
                marks(&store.collection("rows").unwrap()).into_keys().eq(expected.clone()),
                "{take:?}, {call}"
            );
        };
        check(&store);
        store.close().unwrap();
        drop(store);
        let store = open(&disk);
        check(&store);
        no_litter(&disk, &store);
        assert_eq!(files(&disk, "/built").len(), 1);
    }
}

#[test]
fn a_file_that_has_the_name_already_is_never_replaced() {
    for take in [TakeFiles::Copy, TakeFiles::Link, TakeFiles::Move] {
        for ending in ["seg", "tmp"] {
            let (disk, store, rows) = begin();
            let built = build(&disk, "/built", 0..10, 1.0);
            let names: Vec<PathBuf> =
                (0..20).map(|id| Path::new("/store/segments").join(format!("{id:016x}.{ending}"))).collect();
            for path in &names {
                disk.open(path, OpenMode::CreateNew).unwrap().write_at(b"mine", 0).unwrap();
            }
            let attached = rows.attach(&built, AttachOptions::new().take(take));
            if ending == "tmp" && take != TakeFiles::Copy {
                // Nothing is copied.
                assert_eq!(attached.unwrap().inserted, 10);
            } else {
                let error = attached.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
                assert_eq!((rows.len().unwrap(), files(&disk, "/built").len()), (0, 1));
            }
            assert!(names.iter().all(|path| read(&disk, path) == b"mine"), "{take:?}, {ending}");
            store.verify().unwrap();
        }
    }
}

#[test]
fn a_file_that_came_while_another_was_copied_was_replaced() {
    let disk = SimVfs::new(1);
    let came: Arc<Mutex<Option<PathBuf>>> = Arc::default();
    let watched = {
        let (disk, came) = (disk.clone(), came.clone());
        Around::watched(disk.clone(), move |call, path| {
            if call == "rename" && path.starts_with("/store/segments") && came.lock().unwrap().is_none() {
                disk.open(path, OpenMode::CreateNew).unwrap().write_at(b"mine", 0).unwrap();
                *came.lock().unwrap() = Some(path.to_path_buf());
            }
        })
    };
    let store = options(&disk).vfs(Arc::new(watched)).open("/store").unwrap();
    let rows = store.create_collection("rows", schema()).unwrap();
    let built = build(&disk, "/built", 0..10, 1.0);
    let error = rows.attach(&built, AttachOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    let came = came.lock().unwrap().take().unwrap();
    assert!(error.to_string().contains(&came.display().to_string()), "{error}");
    assert_eq!((rows.len().unwrap(), read(&disk, &came)), (0, b"mine".to_vec()));
    assert_eq!(files(&disk, "/store/segments").len(), 1);
}

/// The store had a symbolic link among its segments: who removed or changed the file it led to damaged the store.
#[test]
#[cfg(unix)]
fn a_symbolic_link_became_a_segment_of_the_store() {
    for take in [TakeFiles::Link, TakeFiles::Move] {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        let options = Store::builder().background(Background::Manual);
        let mut build = options.build_segments(path("built"), schema()).unwrap();
        push(&mut build, 0..10, 1.0);
        let built = build.finish().unwrap().remove(0);
        let link = path("link.seg");
        std::os::unix::fs::symlink(&built, &link).unwrap();
        let store = Store::builder().background(Background::Manual).open(path("store")).unwrap();
        let rows = store.create_collection("rows", schema()).unwrap();
        rows.attach(&[&link], AttachOptions::new().take(take)).unwrap();
        for entry in std::fs::read_dir(path("store/segments")).unwrap() {
            assert!(entry.unwrap().file_type().unwrap().is_file(), "{take:?}");
        }
        // Of what was given, the name goes; not the file that it leads to.
        assert_eq!((link.is_symlink(), built.exists()), (take == TakeFiles::Link, true));
        std::fs::remove_file(&built).unwrap();
        store.close().unwrap();
        drop((store, rows));
        let store = Store::builder().background(Background::Manual).open(path("store")).unwrap();
        assert_eq!(marks(&store.collection("rows").unwrap()).len(), 10);
        store.verify().unwrap();
    }
}

/// A file is a segment like those that a merge of another time has left: it serves as it is.
#[test]
fn files_of_another_profile_were_refused() {
    for profile in Profile::ALL {
        let disk = SimVfs::new(1);
        let store = open(&disk);
        let rows = store.create_collection("rows", schema().profile(profile)).unwrap();
        for (number, built_for) in (0..).zip(Profile::ALL) {
            let folder = format!("/{}", built_for.name());
            let mut build = options(&disk).build_segments(folder, schema().profile(built_for)).unwrap();
            push(&mut build, number * 10..number * 10 + 10, 1.0);
            let built = build.finish().unwrap();
            assert_eq!(rows.attach(&built, AttachOptions::new()).unwrap().inserted, 10);
        }
        let expected = marks(&rows);
        assert_eq!(expected.len(), 30);
        store.close().unwrap();
        drop((store, rows));
        let store = open(&disk);
        let rows = store.collection("rows").unwrap();
        assert_eq!(marks(&rows), expected);
        rows.compact().unwrap();
        assert_eq!(marks(&rows), expected);
        let segments = &store.stats().unwrap().collections[0].segments;
        assert_eq!((segments.len(), segments[0].profile), (1, profile));
        no_litter(&disk, &store);
    }
}

#[test]
fn two_builds_in_one_folder_destroyed_each_other() {
    let disk = SimVfs::new(1);
    let mut first = options(&disk).build_segments("/built", schema()).unwrap();
    push(&mut first, 0..50, 1.0);
    let before = files(&disk, "/built");
    let busy = || {
        let error = options(&disk).build_segments("/built", schema()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert!(error.to_string().contains("/built"), "{error}");
    };
    busy();
    assert_eq!(files(&disk, "/built"), before);
    let built = first.finish().unwrap();
    assert_eq!(files(&disk, "/built").len(), 3);
    let error = options(&disk).build_segments("/built", schema()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    let store = open(&disk);
    let rows = store.create_collection("rows", schema()).unwrap();
    assert_eq!(rows.attach(&built, AttachOptions::new().take(TakeFiles::Move)).unwrap().inserted, 50);
    // Dropped, it lets go as well.
    let second = options(&disk).build_segments("/built", schema()).unwrap();
    busy();
    drop(second);
    drop(options(&disk).build_segments("/built", schema()).unwrap());
}

/// The second one saw the mark of the first, and waited for nothing: when it had the lock, the files were whole.
#[test]
fn a_build_that_ends_while_another_begins_keeps_its_files() {
    let disk = SimVfs::new(1);
    let mut first = options(&disk).build_segments("/built", schema()).unwrap();
    push(&mut first, 0..50, 1.0);
    let first = Mutex::new(Some(first));
    let late = Around::watched(disk.clone(), move |call, _| {
        if call == "lock"
            && let Some(first) = first.lock().unwrap().take()
        {
            assert_eq!(first.finish().unwrap().len(), 3);
        }
    });
    let error = options(&disk).vfs(Arc::new(late)).build_segments("/built", schema()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    let left = files(&disk, "/built");
    assert!(
        left.len() == 3 && left.iter().all(|path| path.extension().is_some_and(|e| e == "seg")),
        "{left:?}"
    );
}

#[test]
fn a_build_or_a_load_on_too_many_threads_ended_the_process() {
    let (disk, store, rows) = begin();
    let mut build = options(&disk).build_segments("/built", schema()).unwrap().threads(usize::MAX);
    push(&mut build, 0..30, 1.0);
    let built = build.finish().unwrap();
    assert_eq!(rows.attach(&built, AttachOptions::new()).unwrap().inserted, 30);
    let mut load = rows.bulk_load().unwrap().threads(usize::MAX);
    (30..40u64).for_each(|key| load.push(key, &[key as f32, 1.0], ()).unwrap());
    assert_eq!(load.finish().unwrap().inserted, 10);
    rows.upsert(40u64, &[40.0, 1.0], ()).unwrap();
    rows.link(usize::MAX).unwrap();
    assert_eq!(marks(&rows).len(), 41);
    store.verify().unwrap();
    // None at all is no number of threads.
    let mut build = options(&disk).build_segments("/none", schema()).unwrap().threads(0);
    let error = build.push(1u64, &[1.0, 1.0], ()).unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidArgument && error.to_string().contains("0 threads"), "{error}");
}
