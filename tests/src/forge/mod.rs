//! Forged stores: files as somebody writes them who can compute every checksum.
//!
//! 1. [`Forger::new`] makes a small store by the product's own means and takes its files into memory.
//! 2. A change is made to the *meaning* of a file: a row of the catalog ([`catalog`]), a section of a segment
//!    ([`segment`]), a record of the log ([`log`]).
//! 3. The file is put together again with checksums, digests and counts that fit the change, also in the files that
//!    vouch for it: a forged segment gets its new digest into the catalog.
//!
//! So nothing but structural validation stands between such a file and its reader. The layouts are told in the files
//! that read them; what is repeated here is what a forger would repeat.

pub mod ask;
pub mod catalog;
pub mod edits;
pub mod log;
pub mod segment;

use crate::forge::catalog::{Pages, Rows, Table};
use nearstone::clock::ManualClock;
use nearstone::random::SeededRandom;
use nearstone::vfs::{MemoryVfs, OpenMode, Vfs};
use nearstone::{Background, KeyType, Metric, Schema, Store, Uuid};
use nearstone_base::checksum::crc32;
use nearstone_base::codec::{Reader, Writer};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folder in which a store in memory lies.
pub const FOLDER: &str = "/store";

/// A store's files by their path inside of its folder.
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A store's rows: collection, key as text, vector, payload.
pub type Contents = BTreeMap<(String, String), (Vec<f32>, String)>;

/// A store whose files can be forged.
#[derive(Clone, Debug)]
pub struct Forger {
    /// Its files, always whole.
    pub files: Files,
    /// Its identity, from which checksums begin.
    pub store: Uuid,
}

impl Forger {
    /// A closed store with two collections: `rows` (integer keys, the first and the last of three segments, with
    /// several levels and deaths in them, rows only in the log) and `names` (string keys, one segment). And what it
    /// holds. Both are the same every time.
    pub fn new() -> (Forger, Contents) {
        Forger::of(fill)
    }

    /// A closed store that `fill` fills.
    pub fn of<T>(fill: impl FnOnce(&Store) -> T) -> (Forger, T) {
        let disk = MemoryVfs::new();
        let vfs: Arc<dyn Vfs> = Arc::new(disk.clone());
        let store = Store::builder()
            .vfs(vfs)
            .background(Background::Manual)
            .clock(Arc::new(ManualClock::default()))
            .random(Arc::new(SeededRandom::new(1)))
            .open(FOLDER)
            .unwrap();
        let contents = fill(&store);
        let uuid = store.uuid();
        store.close().unwrap();
        drop(store);
        let files = read_folder(&disk, Path::new(FOLDER));
        (Forger { files, store: uuid }, contents)
    }

    /// A file system that holds the forged store in [`FOLDER`].
    pub fn disk(&self) -> MemoryVfs {
        let disk = MemoryVfs::new();
        let root = Path::new(FOLDER);
        for folder in [root.to_path_buf(), root.join("wal"), root.join("segments")] {
            disk.create_dir(&folder).unwrap();
        }
        for (path, bytes) in &self.files {
            disk.open(&root.join(path), OpenMode::CreateNew).unwrap().write_at(bytes, 0).unwrap();
        }
        disk
    }

    /// The paths in one of the store's folders, in order: `segments` or `wal`.
    pub fn paths(&self, folder: &str) -> Vec<PathBuf> {
        self.files.keys().filter(|path| path.starts_with(folder)).cloned().collect()
    }

    /// Changes one file's bytes and nothing else.
    pub fn bytes(&mut self, path: impl AsRef<Path>, change: impl FnOnce(&mut Vec<u8>)) {
        change(self.files.get_mut(path.as_ref()).expect("the file is there"));
    }

    /// Changes `FORMAT`, whose checksum is made to fit.
    pub fn format(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        self.bytes("FORMAT", |bytes| {
            change(bytes);
            if let Some(place) = bytes.get_mut(12..16) {
                place.fill(0);
                let crc = crc32(0, bytes.get(..64).unwrap_or(bytes));
                bytes[12..16].copy_from_slice(&crc.to_le_bytes());
            }
        });
    }

    /// Changes the catalog's pages, whose checksums are made to fit.
    pub fn pages(&mut self, change: impl FnOnce(&mut Pages)) {
        let store = self.store;
        self.bytes("catalog", |bytes| {
            let mut pages = Pages::open(bytes);
            change(&mut pages);
            *bytes = pages.seal(store);
        });
    }

    /// Changes the catalog's rows; their checksums, their number and their digest are made to fit.
    pub fn catalog(&mut self, change: impl FnOnce(&mut Rows)) {
        let store = self.store;
        self.pages(|pages| {
            let mut rows = Rows::open(pages);
            change(&mut rows);
            rows.seal(store, pages);
        });
    }

    /// Changes the log's last file; its checksums, and where the catalog says that it ends, are made to fit.
    pub fn log(&mut self, change: impl FnOnce(&mut log::Log)) {
        let path = self.paths("wal").pop().expect("the store has a log");
        let mut log = log::Log::open(&self.files[&path]);
        change(&mut log);
        self.catalog(|rows| put_u64(rows.meta(), catalog::meta::CLEAN_END, log.end()));
        self.files.insert(path, log.seal());
    }

    /// Adds a file to the log, made from the last one, with that number and the last one as its predecessor.
    pub fn add_log(&mut self, id: u64, change: impl FnOnce(&mut log::Log)) {
        let path = self.paths("wal").pop().expect("the store has a log");
        let before = log::Log::open(&self.files[&path]);
        let mut log = log::Log { records: Vec::new(), ..before.clone() };
        let first = get_u64(&before.header, log::header::FIRST_LSN);
        let next = before.records.iter().map(|record| record.lsn + 1).max().unwrap_or(first);
        let before_id = get_u64(&before.header, log::header::FILE_ID);
        for (at, value) in [
            (log::header::FILE_ID, id),
            (log::header::FIRST_LSN, next),
            (log::header::PREDECESSOR, before_id),
            (log::header::PREDECESSOR_END, before.end()),
        ] {
            put_u64(&mut log.header, at, value);
        }
        change(&mut log);
        self.files.insert(format!("wal/{id:016x}.log").into(), log.seal());
    }

    /// Changes the `number`-th segment; its checksums, and what the catalog says of it, are made to fit.
    pub fn segment(&mut self, number: usize, change: impl FnOnce(&mut segment::Segment)) {
        let path = self.paths("segments")[number].clone();
        let mut segment = segment::Segment::open(&self.files[&path]);
        change(&mut segment);
        let (bytes, digest) = segment.seal();
        let id = u64::from_str_radix(path.file_stem().and_then(|stem| stem.to_str()).unwrap(), 16).unwrap();
        self.catalog(|rows| segment.tell(rows.body(Table::Segments, id), bytes.len() as u64, digest));
        self.files.insert(path, bytes);
    }
}

/// Writes files into an empty folder of the real file system.
pub fn write_folder(files: &Files, folder: &Path) {
    for sub in ["wal", "segments"] {
        std::fs::create_dir_all(folder.join(sub)).unwrap();
    }
    for (path, bytes) in files {
        std::fs::write(folder.join(path), bytes).unwrap();
    }
}

fn read_folder(disk: &MemoryVfs, root: &Path) -> Files {
    let mut files = Files::new();
    for folder in ["", "wal", "segments"] {
        for name in disk.list(&root.join(folder)).unwrap() {
            let path = Path::new(folder).join(name);
            if disk.info(&root.join(&path)).unwrap().is_some_and(|info| !info.is_dir) {
                let file = disk.open(&root.join(&path), OpenMode::Read).unwrap();
                let mut bytes = vec![0; file.len().unwrap() as usize];
                assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
                files.insert(path, bytes);
            }
        }
    }
    files
}

fn fill(store: &Store) -> Contents {
    let mut contents = Contents::new();
    let rows = store.create_collection("rows", Schema::new(6, Metric::L2).m(4).ef_construction(16)).unwrap();
    let schema = Schema::new(3, Metric::Cosine).keys(KeyType::Str).m(4).ef_construction(16);
    let names = store.create_collection("names", schema).unwrap();
    let mut put = |n: u64| {
        let x = n as f32;
        let vector = [x, -x, x * 0.5, 1.0, (n % 7) as f32, (n % 3) as f32];
        rows.upsert(n, &vector, serde_json::json!({ "n": n })).unwrap();
        contents.insert(("rows".into(), n.to_string()), (vector.to_vec(), format!("{{\"n\":{n}}}")));
    };
    (0..150).for_each(&mut put);
    store.flush().unwrap();
    (150..220).for_each(&mut put);
    for n in 0..40u64 {
        let (key, vector) = (format!("name {n:02}"), [1.0, n as f32, 2.0]);
        let payload = if n % 5 == 0 { None } else { Some(serde_json::json!({ "name": n })) };
        names.upsert(key.as_str(), &vector, &payload).unwrap();
        let text = payload.map_or(String::new(), |payload| payload.to_string());
        contents.insert(("names".into(), key), (vector.to_vec(), text));
    }
    for n in [3u64, 50, 149, 151] {
        rows.delete(n).unwrap();
        contents.remove(&("rows".into(), n.to_string()));
    }
    store.flush().unwrap();
    for n in 300..306u64 {
        let vector = [n as f32, 0.0, 0.0, 0.0, 0.0, 1.0];
        rows.upsert(n, &vector, ()).unwrap();
        contents.insert(("rows".into(), n.to_string()), (vector.to_vec(), String::new()));
    }
    rows.delete(300u64).unwrap();
    contents.remove(&("rows".into(), "300".into()));
    contents
}

/// Replaces the four bytes at `at`.
pub fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Replaces the eight bytes at `at`.
pub fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// The eight bytes at `at`.
pub fn get_u64(bytes: &[u8], at: usize) -> u64 {
    Reader::new(&bytes[at..]).u64().expect("eight bytes are there")
}

/// Adds to the eight bytes at `at`.
pub fn add_u64(bytes: &mut [u8], at: usize, more: u64) {
    let value = get_u64(bytes, at);
    put_u64(bytes, at, value + more);
}

/// The bytes of a schema, valid or not. The profile is the upper byte of `m`, the codes are the third of `ef_construction`.
pub fn schema_bytes(dimension: u32, metric: u8, keys: u8, m: u16, ef_construction: u32) -> Vec<u8> {
    let mut out = Writer::new();
    out.u32(dimension);
    out.u8(metric);
    out.u8(keys);
    out.u16(m);
    out.u32(ef_construction);
    out.into_bytes()
}
