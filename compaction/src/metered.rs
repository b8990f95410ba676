//! A file system for work behind: each write waits until the bytes before it are paid for.

use crate::pace::{Pace, Work};
use nearstone_base::Result;
use nearstone_base::sync::Arc;
use nearstone_base::vfs::{FileBytes, FileInfo, LockKind, OpenMode, Residency, Vfs, VfsFile, VfsLock};
use std::path::Path;

/// Another file system, at a pace. A write fails with `Cancelled` when the work was cancelled.
#[derive(Clone, Debug)]
pub struct Metered {
    vfs: Arc<dyn Vfs>,
    pace: Arc<Pace>,
    work: Work,
}

impl Metered {
    /// What a piece of work writes.
    pub fn new(vfs: Arc<dyn Vfs>, pace: Arc<Pace>, work: Work) -> Metered {
        Metered { vfs, pace, work }
    }
}

impl Vfs for Metered {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn VfsFile>> {
        let file = self.vfs.open(path, mode)?;
        Ok(Arc::new(MeteredFile { file, pace: self.pace.clone(), work: self.work }))
    }

    fn bytes(&self, path: &Path, len: u64, residency: Residency) -> Result<FileBytes> {
        self.vfs.bytes(path, len, residency)
    }

    fn info(&self, path: &Path) -> Result<Option<FileInfo>> {
        self.vfs.info(path)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        self.vfs.list(dir)
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        self.vfs.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.vfs.rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> Result<()> {
        self.vfs.rename_new(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.vfs.remove(path)
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        self.vfs.remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.vfs.sync_dir(path)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<bool> {
        self.vfs.hard_link(from, to)
    }

    fn lock(&self, path: &Path, kind: LockKind) -> Result<Option<Box<dyn VfsLock>>> {
        self.vfs.lock(path, kind)
    }
}

#[derive(Debug)]
struct MeteredFile {
    file: Arc<dyn VfsFile>,
    pace: Arc<Pace>,
    work: Work,
}

impl VfsFile for MeteredFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> Result<usize> {
        self.file.read_at(out, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.pace.spend(self.work, bytes.len() as u64)?;
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
        self.file.sync_data()
    }

    fn sync_all(&self) -> Result<()> {
        self.file.sync_all()
    }
}
