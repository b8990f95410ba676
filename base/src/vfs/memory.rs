//! A file system in memory: what in-memory stores run over, and the quickest disk for tests.
//!
//! One lock guards the names, one lock each file's bytes. A file that was removed while open goes on working for
//! those who hold it, as on a disk. Syncing does nothing: there is nothing to survive.

use super::{FileBytes, FileInfo, LockKind, OpenMode, Residency, Vfs, VfsFile, VfsLock, read_published};
use crate::error::{Error, Result};
use crate::sync::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// A file system in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryVfs {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    names: Mutex<Names>,
    locks: Mutex<HashMap<PathBuf, Holders>>,
}

#[derive(Default)]
struct Names {
    dirs: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, Arc<Contents>>,
}

#[derive(Default)]
struct Contents {
    bytes: RwLock<Vec<u8>>,
}

/// Who holds a lock file.
#[derive(Default, Clone, Copy)]
struct Holders {
    shared: usize,
    exclusive: bool,
}

impl MemoryVfs {
    /// An empty file system with a root folder.
    pub fn new() -> MemoryVfs {
        MemoryVfs::default()
    }
}

impl Names {
    fn is_dir(&self, path: &Path) -> bool {
        path.as_os_str().is_empty() || self.dirs.contains(path)
    }

    fn taken(&self, path: &Path) -> bool {
        self.is_dir(path) || self.files.contains_key(path)
    }

    fn parent_exists(&self, path: &Path) -> bool {
        path.parent().is_none_or(|parent| self.is_dir(parent))
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        let (source, target) = (plain(from), plain(to));
        if !self.parent_exists(&target) || self.is_dir(&target) {
            return Err(failed("rename to", to, io::ErrorKind::NotFound));
        }
        let contents =
            self.files.remove(&source).ok_or_else(|| failed("rename", from, io::ErrorKind::NotFound))?;
        self.files.insert(target, contents);
        Ok(())
    }
}

/// The path without its root and without dots, so that `/a`, `a` and `./a` are one file.
pub(super) fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

pub(super) fn failed(what: &str, path: &Path, kind: io::ErrorKind) -> Error {
    Error::io(what, path, kind.into())
}

impl Vfs for MemoryVfs {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn VfsFile>> {
        let plain = plain(path);
        let mut names = self.shared.names.lock();
        if names.is_dir(&plain) {
            return Err(failed("open", path, io::ErrorKind::IsADirectory));
        }
        let creates = matches!(mode, OpenMode::CreateNew | OpenMode::Truncate);
        if creates && !names.parent_exists(&plain) {
            return Err(failed("create", path, io::ErrorKind::NotFound));
        }
        let contents = match (names.files.get(&plain), mode) {
            (Some(_), OpenMode::CreateNew) => {
                return Err(failed("create", path, io::ErrorKind::AlreadyExists));
            }
            (Some(contents), OpenMode::Truncate) => {
                contents.bytes.write().clear();
                contents.clone()
            }
            (Some(contents), _) => contents.clone(),
            (None, _) if creates => {
                let contents = Arc::new(Contents::default());
                names.files.insert(plain, contents.clone());
                contents
            }
            (None, _) => return Err(failed("open", path, io::ErrorKind::NotFound)),
        };
        Ok(Arc::new(MemoryFile { path: path.to_path_buf(), contents, writable: mode != OpenMode::Read }))
    }

    fn bytes(&self, path: &Path, len: u64, _: Residency) -> Result<FileBytes> {
        read_published(&*self.open(path, OpenMode::Read)?, path, len)
    }

    fn info(&self, path: &Path) -> Result<Option<FileInfo>> {
        let plain = plain(path);
        let names = self.shared.names.lock();
        if names.is_dir(&plain) {
            return Ok(Some(FileInfo { is_dir: true, len: 0 }));
        }
        Ok(names.files.get(&plain).map(|c| FileInfo { is_dir: false, len: c.bytes.read().len() as u64 }))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        let plain = plain(dir);
        let names = self.shared.names.lock();
        if !names.is_dir(&plain) {
            return Err(failed("list", dir, io::ErrorKind::NotFound));
        }
        let children = names.dirs.iter().chain(names.files.keys()).filter(|p| p.parent() == Some(&plain));
        let mut list: Vec<String> =
            children.filter_map(|p| p.file_name()).map(|name| name.to_string_lossy().into_owned()).collect();
        list.sort();
        Ok(list)
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        let plain = plain(path);
        let mut names = self.shared.names.lock();
        if names.taken(&plain) {
            return Err(failed("create the folder", path, io::ErrorKind::AlreadyExists));
        }
        if !names.parent_exists(&plain) {
            return Err(failed("create the folder", path, io::ErrorKind::NotFound));
        }
        names.dirs.insert(plain);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.shared.names.lock().rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> Result<()> {
        let mut names = self.shared.names.lock();
        if names.taken(&plain(to)) {
            return Err(failed("rename to", to, io::ErrorKind::AlreadyExists));
        }
        names.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let removed = self.shared.names.lock().files.remove(&plain(path));
        removed.map(|_| ()).ok_or_else(|| failed("remove", path, io::ErrorKind::NotFound))
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        let plain = plain(path);
        let mut names = self.shared.names.lock();
        let inside = |p: &PathBuf| p.parent() == Some(&plain);
        if names.dirs.iter().chain(names.files.keys()).any(inside) {
            return Err(failed("remove the folder", path, io::ErrorKind::DirectoryNotEmpty));
        }
        if !names.dirs.remove(&plain) {
            return Err(failed("remove the folder", path, io::ErrorKind::NotFound));
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        match self.shared.names.lock().is_dir(&plain(path)) {
            true => Ok(()),
            false => Err(failed("sync the folder", path, io::ErrorKind::NotFound)),
        }
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<bool> {
        let target = plain(to);
        let mut names = self.shared.names.lock();
        let Some(contents) = names.files.get(&plain(from)).cloned() else { return Ok(false) };
        if names.taken(&target) || !names.parent_exists(&target) {
            return Ok(false);
        }
        names.files.insert(target, contents);
        Ok(true)
    }

    fn lock(&self, path: &Path, kind: LockKind) -> Result<Option<Box<dyn VfsLock>>> {
        let plain = plain(path);
        if self.info(path)?.is_none() {
            match kind {
                LockKind::Exclusive => drop(self.open(path, OpenMode::CreateNew)?),
                LockKind::Shared => return Err(failed("lock", path, io::ErrorKind::NotFound)),
            }
        }
        let mut locks = self.shared.locks.lock();
        let holders = locks.entry(plain.clone()).or_default();
        let free = !holders.exclusive && (kind == LockKind::Shared || holders.shared == 0);
        if !free {
            return Ok(None);
        }
        match kind {
            LockKind::Shared => holders.shared += 1,
            LockKind::Exclusive => holders.exclusive = true,
        }
        Ok(Some(Box::new(MemoryLock { shared: self.shared.clone(), path: plain, kind })))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} files in memory", self.names.lock().files.len())
    }
}

struct MemoryFile {
    path: PathBuf,
    contents: Arc<Contents>,
    writable: bool,
}

impl MemoryFile {
    fn check_writable(&self) -> Result<()> {
        match self.writable {
            true => Ok(()),
            false => Err(failed("write to", &self.path, io::ErrorKind::PermissionDenied)),
        }
    }
}

impl VfsFile for MemoryFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> Result<usize> {
        let bytes = self.contents.bytes.read();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let read = out.len().min(bytes.len() - start);
        out[..read].copy_from_slice(&bytes[start..start + read]);
        Ok(read)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.check_writable()?;
        let end = usize::try_from(offset).ok().and_then(|start| start.checked_add(data.len()));
        let Some(end) = end else { return Err(failed("write to", &self.path, io::ErrorKind::FileTooLarge)) };
        let mut bytes = self.contents.bytes.write();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[end - data.len()..end].copy_from_slice(data);
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        Ok(self.contents.bytes.read().len() as u64)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.check_writable()?;
        self.contents.bytes.write().resize(len as usize, 0);
        Ok(())
    }

    fn reserve(&self, len: u64) -> Result<()> {
        if self.len()? < len { self.set_len(len) } else { Ok(()) }
    }

    fn sync_data(&self) -> Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> Result<()> {
        Ok(())
    }
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryFile({})", self.path.display())
    }
}

struct MemoryLock {
    shared: Arc<Shared>,
    path: PathBuf,
    kind: LockKind,
}

impl VfsLock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let mut locks = self.shared.locks.lock();
        if let Some(holders) = locks.get_mut(&self.path) {
            match self.kind {
                LockKind::Shared => holders.shared -= 1,
                LockKind::Exclusive => holders.exclusive = false,
            }
        }
    }
}

impl fmt::Debug for MemoryLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryLock({}, {:?})", self.path.display(), self.kind)
    }
}
