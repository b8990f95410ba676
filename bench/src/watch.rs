//! The operating system's files, watched: how many bytes were written to which part of a store, and when its segment
//! files were begun, synced and named. What a store does between two of its files' events needs no counter inside it.
//!
//! Bytes of a map are not seen, and none are written: a store writes by calls only. Two segments that are written at the
//! same time mix their events; whoever reads those writes one at a time.

use nearstone::Result;
use nearstone::vfs::{DiskVfs, FileBytes, FileInfo, LockKind, OpenMode, Residency, Vfs, VfsFile, VfsLock};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A disk whose writes are counted.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    disk: DiskVfs,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    log: AtomicU64,
    segments: AtomicU64,
    rest: AtomicU64,
    events: Mutex<Events>,
}

/// Bytes written so far.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Written {
    pub(crate) log: u64,
    pub(crate) segments: u64,
    /// The catalog, most of it.
    pub(crate) rest: u64,
}

impl Written {
    pub(crate) fn all(self) -> u64 {
        self.log + self.segments + self.rest
    }

    /// Those since an earlier moment.
    pub(crate) fn since(self, before: Written) -> Written {
        Written {
            log: self.log - before.log,
            segments: self.segments - before.segments,
            rest: self.rest - before.rest,
        }
    }
}

/// When the last segment file was begun, when its last sync began, and when it got its name.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Events {
    pub(crate) begun: Option<Instant>,
    pub(crate) syncing: Option<Instant>,
    pub(crate) named: Option<Instant>,
}

/// The part of a store that a path belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Log,
    Segments,
    Rest,
}

impl Place {
    fn of(path: &Path) -> Place {
        match path.parent().and_then(Path::file_name).and_then(|name| name.to_str()) {
            Some("wal") => Place::Log,
            Some("segments") => Place::Segments,
            _ => Place::Rest,
        }
    }
}

impl Watched {
    pub(crate) fn written(&self) -> Written {
        let bytes = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Written {
            log: bytes(&self.seen.log),
            segments: bytes(&self.seen.segments),
            rest: bytes(&self.seen.rest),
        }
    }

    /// What happened to segment files since this was called last.
    pub(crate) fn take_events(&self) -> Events {
        self.seen.note(std::mem::take)
    }
}

impl Seen {
    fn counter(&self, place: Place) -> &AtomicU64 {
        match place {
            Place::Log => &self.log,
            Place::Segments => &self.segments,
            Place::Rest => &self.rest,
        }
    }

    fn note<T>(&self, change: impl FnOnce(&mut Events) -> T) -> T {
        change(&mut self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Vfs for Watched {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn VfsFile>> {
        let place = Place::of(path);
        if place == Place::Segments && mode == OpenMode::Truncate {
            self.seen.note(|events| events.begun = Some(Instant::now()));
        }
        let file = self.disk.open(path, mode)?;
        Ok(Arc::new(WatchedFile { file, place, seen: self.seen.clone() }))
    }

    fn bytes(&self, path: &Path, len: u64, residency: Residency) -> Result<FileBytes> {
        self.disk.bytes(path, len, residency)
    }

    fn info(&self, path: &Path) -> Result<Option<FileInfo>> {
        self.disk.info(path)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        self.disk.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        if Place::of(to) == Place::Segments {
            self.seen.note(|events| events.named = Some(Instant::now()));
        }
        self.disk.rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> Result<()> {
        self.disk.rename_new(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.disk.remove(path)
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        self.disk.remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.disk.sync_dir(path)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<bool> {
        self.disk.hard_link(from, to)
    }

    fn lock(&self, path: &Path, kind: LockKind) -> Result<Option<Box<dyn VfsLock>>> {
        self.disk.lock(path, kind)
    }
}

#[derive(Debug)]
struct WatchedFile {
    file: Arc<dyn VfsFile>,
    place: Place,
    seen: Arc<Seen>,
}

impl WatchedFile {
    fn note_sync(&self) {
        if self.place == Place::Segments {
            self.seen.note(|events| events.syncing = Some(Instant::now()));
        }
    }
}

impl VfsFile for WatchedFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> Result<usize> {
        self.file.read_at(out, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.seen.counter(self.place).fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.file.write_at(bytes, offset)
    }

    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len)
    }

    fn reserve(&self, len: u64) -> Result<()> {
        self.file.reserve(len)
    }

    fn sync_data(&self) -> Result<()> {
        self.note_sync();
        self.file.sync_data()
    }

    fn sync_all(&self) -> Result<()> {
        self.note_sync();
        self.file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearstone::{Metric, Schema, Store};

    #[test]
    fn every_byte_is_counted_where_it_goes_and_a_seal_leaves_its_events_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(Watched::default());
        let store = Store::builder().vfs(disk.clone()).open(folder.path().join("watched.near")).unwrap();
        let rows = store.create_collection("rows", Schema::new(8, Metric::L2)).unwrap();
        let before = disk.written();
        for row in 0..100u64 {
            rows.upsert(row, &[row as f32; 8], ()).unwrap();
        }
        let logged = disk.written().since(before);
        assert!(logged.log >= 100 * 8 * 4, "{logged:?}");
        assert_eq!((logged.segments, logged.rest), (0, 0));
        assert!(disk.take_events().begun.is_none());

        store.flush().unwrap();
        let bytes = store.stats().unwrap().collections[0].segments[0].bytes;
        let written = disk.written();
        assert!(written.segments >= bytes, "{written:?} for a segment of {bytes} bytes");
        assert!(written.rest > before.rest, "the catalog was written");
        assert_eq!(written.all(), written.log + written.segments + written.rest);
        let events = disk.take_events();
        assert!(events.begun.unwrap() <= events.syncing.unwrap());
        assert!(events.syncing.unwrap() <= events.named.unwrap());
        assert!(disk.take_events().named.is_none(), "events are taken once");
        store.close().unwrap();
    }
}
