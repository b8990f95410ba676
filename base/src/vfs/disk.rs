//! The operating system's file system.
//!
//! Positional reads and writes, repeated when a signal interrupts them; room reserved with `fallocate` where the file
//! system has it; locks that the kernel releases when the process dies. New files have mode 0600, new folders 0700.

use super::{
    FileBytes, FileInfo, LockKind, OpenMode, Residency, Vfs, VfsFile, VfsLock, published_len, read_published,
};
use crate::error::{Error, Result};
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskVfs;

impl DiskVfs {
    /// The only one there is.
    pub fn new() -> DiskVfs {
        DiskVfs
    }
}

fn options(mode: OpenMode) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true);
    match mode {
        OpenMode::Read => {}
        OpenMode::ReadWrite => {
            options.write(true);
        }
        OpenMode::CreateNew => {
            options.write(true).create_new(true);
        }
        OpenMode::Truncate => {
            options.write(true).create(true).truncate(true);
        }
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options
}

impl Vfs for DiskVfs {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn VfsFile>> {
        let what = if matches!(mode, OpenMode::CreateNew | OpenMode::Truncate) { "create" } else { "open" };
        let file = options(mode).open(path).map_err(|error| Error::io(what, path, error))?;
        Ok(Arc::new(DiskFile { path: path.to_path_buf(), file: platform::Positional::new(file) }))
    }

    fn bytes(&self, path: &Path, len: u64, residency: Residency) -> Result<FileBytes> {
        let file = options(OpenMode::Read).open(path).map_err(|error| Error::io("open", path, error))?;
        let file = DiskFile { path: path.to_path_buf(), file: platform::Positional::new(file) };
        match residency {
            Residency::Heap => read_published(&file, path, len),
            Residency::Mapped | Residency::Warm | Residency::Pinned => {
                let len = published_len(&file, path, len)?;
                FileBytes::map(file.file.file(), len).map_err(|error| Error::io("map", path, error))
            }
        }
    }

    fn info(&self, path: &Path) -> Result<Option<FileInfo>> {
        match fs::metadata(path) {
            Ok(data) => Ok(Some(FileInfo { is_dir: data.is_dir(), len: data.len() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("look at", path, error)),
        }
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        let entries = fs::read_dir(dir).map_err(|error| Error::io("list", dir, error))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| Error::io("list", dir, error))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        #[cfg_attr(not(unix), expect(unused_mut, reason = "only unix sets a mode"))]
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::DirBuilderExt;
            builder.mode(0o700);
        }
        builder.create(path).map_err(|error| Error::io("create the folder", path, error))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(|error| Error::io("rename", from, error))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> Result<()> {
        let renamed = match platform::rename_new(from, to) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => rename_by_link(from, to),
            other => other,
        };
        renamed.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::io("rename to", to, error),
            _ => Error::io("rename", from, error),
        })
    }

    fn remove(&self, path: &Path) -> Result<()> {
        fs::remove_file(path).map_err(|error| Error::io("remove", path, error))
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        fs::remove_dir(path).map_err(|error| Error::io("remove the folder", path, error))
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        platform::sync_dir(path).map_err(|error| Error::io("sync the folder", path, error))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<bool> {
        // The link of a symbolic link would be one more symbolic link, to a file that others move and change.
        let is_file = fs::symlink_metadata(from).is_ok_and(|data| data.is_file());
        Ok(is_file && fs::hard_link(from, to).is_ok())
    }

    fn lock(&self, path: &Path, kind: LockKind) -> Result<Option<Box<dyn VfsLock>>> {
        let failed = |error| Error::io("lock", path, error);
        // A shared lock needs no right to write, and works on read-only media; an exclusive one does, on network file
        // systems that turn it into a lock of bytes.
        let file = match kind {
            LockKind::Shared => options(OpenMode::Read).open(path).map_err(failed)?,
            LockKind::Exclusive => options(OpenMode::ReadWrite).create(true).open(path).map_err(failed)?,
        };
        let locked = match kind {
            LockKind::Shared => file.try_lock_shared(),
            LockKind::Exclusive => file.try_lock(),
        };
        match locked {
            Ok(()) => Ok(Some(Box::new(DiskLock { path: path.to_path_buf(), file }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

/// Where no rename refuses to replace a file: a second name does, and then the first one goes. A process that dies between
/// leaves both, of one whole file. (Claiming the name by an empty file would leave that, which the log takes for damage.)
fn rename_by_link(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from).inspect_err(|_| drop(fs::remove_file(to))),
        Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {
            Err(error)
        }
        // There are no such names either: all that is left is to look first.
        Err(_) if fs::symlink_metadata(to).is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(from, to),
    }
}

/// Held until it is dropped; the kernel lets go when the process dies.
struct DiskLock {
    path: PathBuf,
    file: File,
}

impl VfsLock for DiskLock {}

impl Drop for DiskLock {
    fn drop(&mut self) {
        // Said aloud, not left to closing the file: a process that another thread is just starting holds a copy of
        // the descriptor until it runs its own program, and with it the lock.
        let _ = self.file.unlock();
    }
}

impl fmt::Debug for DiskLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiskLock({})", self.path.display())
    }
}

struct DiskFile {
    path: PathBuf,
    file: platform::Positional,
}

impl fmt::Debug for DiskFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiskFile({})", self.path.display())
    }
}

impl VfsFile for DiskFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < out.len() {
            match self.file.read_at(&mut out[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", &self.path, error)),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            match self.file.write_at(&bytes[done..], offset + done as u64) {
                Ok(0) => return Err(Error::io("write to", &self.path, io::ErrorKind::WriteZero.into())),
                Ok(written) => done += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("write to", &self.path, error)),
            }
        }
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        let data = self.file.file().metadata().map_err(|error| Error::io("look at", &self.path, error))?;
        Ok(data.len())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.file.file().set_len(len).map_err(|error| Error::io("set the length of", &self.path, error))
    }

    fn reserve(&self, len: u64) -> Result<()> {
        let before = self.len()?;
        if before >= len {
            return Ok(());
        }
        let reserved = match platform::allocate(self.file.file(), before, len - before) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.write_zeros(before, len),
            other => other.map_err(|error| Error::io("reserve room in", &self.path, error)),
        };
        if reserved.is_err() {
            // What was reserved before the disk was full is given back; the first error is the one to report.
            let _ = self.file.file().set_len(before);
        }
        reserved
    }

    fn sync_data(&self) -> Result<()> {
        self.file.file().sync_data().map_err(|error| Error::io("sync", &self.path, error))
    }

    fn sync_all(&self) -> Result<()> {
        self.file.file().sync_all().map_err(|error| Error::io("sync", &self.path, error))
    }
}

impl DiskFile {
    /// Room without `fallocate`: writing is the only promise such a file system makes.
    fn write_zeros(&self, from: u64, to: u64) -> Result<()> {
        let zeros = [0; 64 << 10];
        let mut at = from;
        while at < to {
            let piece = zeros.len().min((to - at) as usize);
            self.write_at(&zeros[..piece], at)?;
            at += piece as u64;
        }
        Ok(())
    }
}

#[cfg(unix)]
mod platform {
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    pub(super) struct Positional(File);

    impl Positional {
        pub(super) fn new(file: File) -> Positional {
            Positional(file)
        }

        pub(super) fn file(&self) -> &File {
            &self.0
        }

        pub(super) fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
            self.0.read_at(out, offset)
        }

        pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
            self.0.write_at(bytes, offset)
        }
    }

    pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    /// `Unsupported` where the file system has no such rename.
    #[cfg(target_os = "linux")]
    pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Err(io::ErrorKind::Unsupported.into()),
            other => other.map_err(io::Error::from),
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn rename_new(_: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    #[cfg(target_os = "linux")]
    pub(super) fn allocate(file: &File, offset: u64, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        loop {
            match fallocate(file, FallocateFlags::empty(), offset, len) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                    return Err(io::ErrorKind::Unsupported.into());
                }
                other => return other.map_err(io::Error::from),
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn allocate(_: &File, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(not(unix))]
mod platform {
    use crate::sync::Mutex;
    use std::fs::File;
    use std::io::{self, Read, Seek, SeekFrom, Write};
    use std::path::Path;

    /// A file whose one position is guarded by a lock.
    pub(super) struct Positional {
        file: File,
        position: Mutex<()>,
    }

    impl Positional {
        pub(super) fn new(file: File) -> Positional {
            Positional { file, position: Mutex::new(()) }
        }

        pub(super) fn file(&self) -> &File {
            &self.file
        }

        pub(super) fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
            let _guard = self.position.lock();
            let mut file = &self.file;
            file.seek(SeekFrom::Start(offset))?;
            file.read(out)
        }

        pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
            let _guard = self.position.lock();
            let mut file = &self.file;
            file.seek(SeekFrom::Start(offset))?;
            file.write(bytes)
        }
    }

    /// Folders can't be synced here; the file system's own journal orders its names.
    pub(super) fn sync_dir(_: &Path) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn rename_new(_: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn allocate(_: &File, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_linked_is_never_that_of_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["new", "mine"] {
            fs::write(path(name), name).unwrap();
        }
        // Folders have no second names: so it is on file systems that know none.
        fs::create_dir(path("folder")).unwrap();
        let renamed = |from: &str, to: &str| rename_by_link(&path(from), &path(to)).map_err(|e| e.kind());
        for from in ["new", "folder"] {
            assert_eq!(renamed(from, "mine"), Err(io::ErrorKind::AlreadyExists));
            assert!(fs::read(path("mine")).unwrap() == b"mine" && path(from).exists());
            assert_eq!(renamed(from, "free"), Ok(()));
            assert!(path("free").exists() && !path(from).exists());
            fs::rename(path("free"), path("elsewhere")).unwrap();
            assert_eq!(renamed(from, "free"), Err(io::ErrorKind::NotFound));
            assert!(!path("free").exists());
            drop(fs::remove_file(path("elsewhere")));
        }
    }
}
