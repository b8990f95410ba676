//! The simulated disk as a [`Vfs`]: every mutating call counts, may be struck by a fault, changes the live state and is
//! remembered as pending.

use super::contents::SECTOR;
use super::{Node, Pending, SimFault, SimVfs, State};
use crate::error::{Error, Result};
use crate::vfs::memory::{failed, plain};
use crate::vfs::{FileBytes, FileInfo, LockKind, OpenMode, Residency, Vfs, VfsFile, VfsLock, read_published};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Vfs for SimVfs {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn VfsFile>> {
        let name = plain(path);
        let mut state = self.state.lock();
        state.alive("open", path)?;
        if state.is_dir(&name) {
            return Err(failed("open", path, io::ErrorKind::IsADirectory));
        }
        let found = match state.names.get(&name) {
            Some(Node::File(file)) => Some(*file),
            _ => None,
        };
        let file = match (found, mode) {
            (Some(_), OpenMode::CreateNew) => {
                return Err(failed("create", path, io::ErrorKind::AlreadyExists));
            }
            (Some(file), OpenMode::Truncate) => {
                state.begin_whole("create", path)?;
                state.files.entry(file).or_default().set_len(0);
                state.pending.push(Pending::SetLen { file, len: 0 });
                file
            }
            (Some(file), _) => file,
            (None, OpenMode::CreateNew | OpenMode::Truncate) => {
                if !state.parent_exists(&name) {
                    return Err(failed("create", path, io::ErrorKind::NotFound));
                }
                state.begin_whole("create", path)?;
                state.create(name)
            }
            (None, _) => return Err(failed("open", path, io::ErrorKind::NotFound)),
        };
        let writable = mode != OpenMode::Read;
        Ok(Arc::new(SimFile { disk: self.clone(), path: path.to_path_buf(), file, writable }))
    }

    fn bytes(&self, path: &Path, len: u64, _: Residency) -> Result<FileBytes> {
        read_published(&*self.open(path, OpenMode::Read)?, path, len)
    }

    fn info(&self, path: &Path) -> Result<Option<FileInfo>> {
        let name = plain(path);
        let state = self.state.lock();
        state.alive("look at", path)?;
        if state.is_dir(&name) {
            return Ok(Some(FileInfo { is_dir: true, len: 0 }));
        }
        Ok(match state.names.get(&name) {
            Some(Node::File(file)) => Some(FileInfo { is_dir: false, len: state.len_of(*file) as u64 }),
            _ => None,
        })
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        let name = plain(dir);
        let state = self.state.lock();
        state.alive("list", dir)?;
        if !state.is_dir(&name) {
            return Err(failed("list", dir, io::ErrorKind::NotFound));
        }
        let children = state.names.keys().filter(|path| path.parent() == Some(&name));
        Ok(children.filter_map(|path| path.file_name()).map(|n| n.to_string_lossy().into_owned()).collect())
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        let name = plain(path);
        let mut state = self.state.lock();
        state.alive("create the folder", path)?;
        if state.is_dir(&name) || state.names.contains_key(&name) {
            return Err(failed("create the folder", path, io::ErrorKind::AlreadyExists));
        }
        if !state.parent_exists(&name) {
            return Err(failed("create the folder", path, io::ErrorKind::NotFound));
        }
        state.begin_whole("create the folder", path)?;
        state.names.insert(name.clone(), Node::Dir);
        state.pending.push(Pending::Link { path: name, node: Node::Dir });
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.state.lock().rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> Result<()> {
        let mut state = self.state.lock();
        state.alive("rename to", to)?;
        let name = plain(to);
        if state.is_dir(&name) || state.names.contains_key(&name) {
            return Err(failed("rename to", to, io::ErrorKind::AlreadyExists));
        }
        state.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let name = plain(path);
        let mut state = self.state.lock();
        state.alive("remove", path)?;
        if !matches!(state.names.get(&name), Some(Node::File(_))) {
            return Err(failed("remove", path, io::ErrorKind::NotFound));
        }
        state.begin_whole("remove", path)?;
        state.names.remove(&name);
        state.pending.push(Pending::Unlink { path: name });
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        let name = plain(path);
        let mut state = self.state.lock();
        state.alive("remove the folder", path)?;
        if state.names.keys().any(|path| path.parent() == Some(&name)) {
            return Err(failed("remove the folder", path, io::ErrorKind::DirectoryNotEmpty));
        }
        if state.names.get(&name) != Some(&Node::Dir) {
            return Err(failed("remove the folder", path, io::ErrorKind::NotFound));
        }
        state.begin_whole("remove the folder", path)?;
        state.names.remove(&name);
        state.pending.push(Pending::Unlink { path: name });
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        let name = plain(path);
        let mut state = self.state.lock();
        state.alive("sync the folder", path)?;
        if !state.is_dir(&name) {
            return Err(failed("sync the folder", path, io::ErrorKind::NotFound));
        }
        state.begin_whole("sync the folder", path)?;
        state.make_durable(|pending| pending.is_of_dir(&name));
        Ok(())
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<bool> {
        let (source, target) = (plain(from), plain(to));
        let mut state = self.state.lock();
        state.alive("link", from)?;
        let Some(node @ Node::File(_)) = state.names.get(&source).copied() else { return Ok(false) };
        if state.names.contains_key(&target) || !state.parent_exists(&target) {
            return Ok(false);
        }
        state.begin_whole("link", from)?;
        state.names.insert(target.clone(), node);
        state.pending.push(Pending::Link { path: target, node });
        Ok(true)
    }

    fn lock(&self, path: &Path, kind: LockKind) -> Result<Option<Box<dyn VfsLock>>> {
        let name = plain(path);
        if self.info(path)?.is_none() {
            match kind {
                LockKind::Exclusive => drop(self.open(path, OpenMode::CreateNew)?),
                LockKind::Shared => return Err(failed("lock", path, io::ErrorKind::NotFound)),
            }
        }
        let mut state = self.state.lock();
        let (shared, exclusive) = state.locks.entry(name.clone()).or_default();
        if *exclusive || (kind == LockKind::Exclusive && *shared > 0) {
            return Ok(None);
        }
        match kind {
            LockKind::Shared => *shared += 1,
            LockKind::Exclusive => *exclusive = true,
        }
        Ok(Some(Box::new(SimLock { disk: self.clone(), name, kind })))
    }
}

impl State {
    fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        let (source, target) = (plain(from), plain(to));
        self.alive("rename", from)?;
        let Some(node @ Node::File(_)) = self.names.get(&source).copied() else {
            return Err(failed("rename", from, io::ErrorKind::NotFound));
        };
        if !self.parent_exists(&target) || self.is_dir(&target) {
            return Err(failed("rename to", to, io::ErrorKind::NotFound));
        }
        self.begin_whole("rename", from)?;
        self.names.remove(&source);
        self.names.insert(target.clone(), node);
        self.pending.push(Pending::Rename { from: source, to: target, node });
        Ok(())
    }
}

struct SimFile {
    disk: SimVfs,
    path: PathBuf,
    file: usize,
    writable: bool,
}

impl SimFile {
    fn check_writable(&self) -> Result<()> {
        match self.writable {
            true => Ok(()),
            false => Err(failed("write to", &self.path, io::ErrorKind::PermissionDenied)),
        }
    }

    fn change_len(&self, what: &str, len: u64) -> Result<()> {
        self.check_writable()?;
        let mut state = self.disk.state.lock();
        state.begin_whole(what, &self.path)?;
        let len = len as usize;
        state.files.entry(self.file).or_default().set_len(len);
        state.pending.push(Pending::SetLen { file: self.file, len });
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let mut state = self.disk.state.lock();
        match state.begin("sync", &self.path)? {
            None => {
                let file = self.file;
                state.make_durable(|pending| pending.is_of_file(file));
                Ok(())
            }
            Some(fault) => {
                if fault == SimFault::SyncDropsData {
                    let file = self.file;
                    state.pending.retain(|pending| !pending.is_of_file(file));
                    let durable = state.durable_files.get(&file).cloned().unwrap_or_default();
                    state.files.insert(file, durable);
                }
                Err(Error::io("sync", &self.path, io::Error::other("simulated failure")))
            }
        }
    }
}

impl VfsFile for SimFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> Result<usize> {
        let state = self.disk.state.lock();
        state.alive("read", &self.path)?;
        Ok(state.files.get(&self.file).map_or(0, |contents| contents.read(out, offset as usize)))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.check_writable()?;
        let mut state = self.disk.state.lock();
        let (done, result) = match state.begin("write to", &self.path)? {
            None => (bytes.len(), Ok(())),
            Some(SimFault::ShortWrite) => {
                // Half of it, up to the border of a sector.
                let middle = offset + bytes.len() as u64 / 2;
                let done = (middle / SECTOR * SECTOR).saturating_sub(offset) as usize;
                (done, Err(failed("write to", &self.path, io::ErrorKind::WriteZero)))
            }
            Some(SimFault::DiskFull) => (0, Err(failed("write to", &self.path, io::ErrorKind::StorageFull))),
            Some(_) => (0, Err(Error::io("write to", &self.path, io::Error::other("simulated failure")))),
        };
        if done > 0 {
            let offset = offset as usize;
            state.files.entry(self.file).or_default().write(&bytes[..done], offset);
            state.pending.push(Pending::Write { file: self.file, offset, bytes: bytes[..done].into() });
        }
        result
    }

    fn len(&self) -> Result<u64> {
        let state = self.disk.state.lock();
        state.alive("look at", &self.path)?;
        Ok(state.len_of(self.file) as u64)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.change_len("set the length of", len)
    }

    fn reserve(&self, len: u64) -> Result<()> {
        if self.len()? < len { self.change_len("reserve room in", len) } else { Ok(()) }
    }

    fn sync_data(&self) -> Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> Result<()> {
        self.sync()
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({})", self.path.display())
    }
}

struct SimLock {
    disk: SimVfs,
    name: PathBuf,
    kind: LockKind,
}

impl VfsLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        if let Some((shared, exclusive)) = self.disk.state.lock().locks.get_mut(&self.name) {
            match self.kind {
                LockKind::Shared => *shared -= 1,
                LockKind::Exclusive => *exclusive = false,
            }
        }
    }
}

impl fmt::Debug for SimLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimLock({}, {:?})", self.name.display(), self.kind)
    }
}
