//! Disks with a peculiarity, around any other disk: one that has no hard links, and one that says which names it is
//! about to change, so that a test can act in the middle of a seal or a backup.

use nearstone::vfs::{FileBytes, FileInfo, LockKind, OpenMode, Residency, Vfs, VfsFile, VfsLock};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Called with the name of a call and its path (for a rename the new one) before the call is passed on.
type Watch = dyn Fn(&'static str, &Path) + Send + Sync;

/// Another disk with a peculiarity.
pub struct Around<V> {
    disk: V,
    links: bool,
    watch: Box<Watch>,
}

impl<V: Vfs> Around<V> {
    /// A disk without hard links.
    pub fn without_links(disk: V) -> Around<V> {
        Around { disk, links: false, watch: Box::new(|_, _| {}) }
    }

    /// A disk of which `watch` hears.
    pub fn watched(disk: V, watch: impl Fn(&'static str, &Path) + Send + Sync + 'static) -> Around<V> {
        Around { disk, links: true, watch: Box::new(watch) }
    }
}

impl<V: Vfs> Vfs for Around<V> {
    fn open(&self, path: &Path, mode: OpenMode) -> nearstone::Result<Arc<dyn VfsFile>> {
        (self.watch)("open", path);
        self.disk.open(path, mode)
    }
    fn bytes(&self, path: &Path, len: u64, residency: Residency) -> nearstone::Result<FileBytes> {
        (self.watch)("bytes", path);
        self.disk.bytes(path, len, residency)
    }
    fn info(&self, path: &Path) -> nearstone::Result<Option<FileInfo>> {
        self.disk.info(path)
    }
    fn list(&self, dir: &Path) -> nearstone::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn create_dir(&self, path: &Path) -> nearstone::Result<()> {
        self.disk.create_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> nearstone::Result<()> {
        (self.watch)("rename", to);
        self.disk.rename(from, to)
    }
    fn rename_new(&self, from: &Path, to: &Path) -> nearstone::Result<()> {
        (self.watch)("rename", to);
        self.disk.rename_new(from, to)
    }
    fn remove(&self, path: &Path) -> nearstone::Result<()> {
        (self.watch)("remove", path);
        self.disk.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> nearstone::Result<()> {
        self.disk.remove_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> nearstone::Result<()> {
        self.disk.sync_dir(path)
    }
    fn hard_link(&self, from: &Path, to: &Path) -> nearstone::Result<bool> {
        (self.watch)("link", to);
        if self.links { self.disk.hard_link(from, to) } else { Ok(false) }
    }
    fn lock(&self, path: &Path, kind: LockKind) -> nearstone::Result<Option<Box<dyn VfsLock>>> {
        (self.watch)("lock", path);
        self.disk.lock(path, kind)
    }
}

impl<V: fmt::Debug> fmt::Debug for Around<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Around({:?}, hard links: {})", self.disk, self.links)
    }
}
