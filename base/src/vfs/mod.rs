//! The file seam: the only way any part of Nearstone reaches a file.
//!
//! - [`DiskVfs`] is the operating system's file system.
//! - [`MemoryVfs`] keeps everything in memory and ships: in-memory stores run the same code over it.
//! - `SimVfs` (feature `sim`) forgets what was not synced, for crash tests.
//!
//! Durability is explicit: what was written is durable after [`VfsFile::sync_data`] (contents, and the size as far
//! as needed to read them) or [`VfsFile::sync_all`]; a created, renamed or removed name is durable after
//! [`Vfs::sync_dir`] of its folder. Writes are positional; there is no shared file position.

mod disk;
mod map;
mod memory;
mod pages;
#[cfg(feature = "sim")]
mod sim;

pub use disk::DiskVfs;
pub use map::FileBytes;
pub use memory::MemoryVfs;
pub use pages::Pages;
#[cfg(feature = "sim")]
pub use sim::{CrashChoice, Fate, Moment, SimFault, SimVfs};

use crate::error::Result;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

/// How [`Vfs::open`] opens a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// Existing, reads only.
    Read,
    /// Existing, reads and writes.
    ReadWrite,
    /// New (`AlreadyExists` otherwise), reads and writes, mode 0600.
    CreateNew,
    /// New or emptied, reads and writes, mode 0600: for temporary files only.
    Truncate,
}

/// How a lock file is locked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    /// Any number of holders, none of them exclusive.
    Shared,
    /// One holder.
    Exclusive,
}

/// How the bytes of a published file are held; see [`Vfs::bytes`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Residency {
    /// Mapped: pages come and go with the operating system's cache, each when it is touched first.
    Mapped,
    /// Mapped, and what searches touch is read into memory before the file is used: no search waits for the disk then.
    /// The operating system may still take pages back when it wants room. Where memory is short, what is not read stays as
    /// with [`Residency::Mapped`].
    Warm,
    /// What searches touch is copied into memory of the process, made of huge pages where there are any, and checked on the
    /// way; the rest is mapped. The cache of files does not push it out.
    Pinned,
    /// Read into memory whole, once.
    Heap,
}

/// What [`Vfs::info`] knows of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileInfo {
    /// A folder, not a file.
    pub is_dir: bool,
    /// Bytes of a file.
    pub len: u64,
}

/// A file system.
pub trait Vfs: Send + Sync + Debug {
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn VfsFile>>;

    /// The whole contents of a file that was published by rename and is never written again, aligned to 64 bytes.
    /// `len` is the length it must have (from the catalog); another one is `Corruption`. What a part of the file is needed
    /// for, only its reader knows: for all residencies but [`Residency::Heap`] a map is enough, and the reader does the rest.
    fn bytes(&self, path: &Path, len: u64, residency: Residency) -> Result<FileBytes>;

    /// `None` when there is nothing of that name.
    fn info(&self, path: &Path) -> Result<Option<FileInfo>>;

    /// Names in a folder, sorted. A name that is not UTF-8 comes back with replacement characters (and so matches
    /// no name of ours).
    fn list(&self, dir: &Path) -> Result<Vec<String>>;

    /// Makes a folder, mode 0700, and no parents. `AlreadyExists` when there is something of that name.
    fn create_dir(&self, path: &Path) -> Result<()>;

    /// Renames a file, replacing what is there, atomically.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Renames a file to a name that is free: `AlreadyExists` when there is anything of that name, and nothing has changed
    /// then. Atomic, except on a file system that has neither a rename that refuses nor hard links: there it looks first.
    fn rename_new(&self, from: &Path, to: &Path) -> Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> Result<()>;

    /// Removes an empty folder.
    fn remove_dir(&self, path: &Path) -> Result<()>;

    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> Result<()>;

    /// Gives a file a second name if the file system can and reports whether it did (never an error of its own:
    /// `false` means "copy instead"). Never that of a symbolic link, and never a name that is taken.
    fn hard_link(&self, from: &Path, to: &Path) -> Result<bool>;

    /// Locks an existing file, or creates it to lock it (only when `kind` is exclusive or the file is there).
    /// `None` when someone else, in this process or another, holds it. The lock ends when the value is dropped, or
    /// by the kernel when the process dies.
    fn lock(&self, path: &Path, kind: LockKind) -> Result<Option<Box<dyn VfsLock>>>;
}

/// A held lock.
pub trait VfsLock: Send + Sync + Debug {}

/// An open file. All calls are positional and may be made from many threads.
#[expect(clippy::len_without_is_empty, reason = "a file's length is asked for as a number")]
pub trait VfsFile: Send + Sync + Debug {
    /// Reads up to `out.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, out: &mut [u8], offset: u64) -> Result<usize>;

    /// Writes all of `bytes`, growing the file when needed. After an error any part of it may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()>;

    /// The length.
    fn len(&self) -> Result<u64>;

    /// Cuts, or grows with zeros.
    fn set_len(&self, len: u64) -> Result<()>;

    /// Makes sure that bytes up to `len` can be written without running out of room, and makes the file that long
    /// (new bytes read as zeros). `DiskFull` when it can't, and then nothing has changed that matters.
    fn reserve(&self, len: u64) -> Result<()>;

    /// Makes contents durable, and of the metadata what is needed to read them back.
    fn sync_data(&self) -> Result<()>;

    /// Makes contents and all metadata durable.
    fn sync_all(&self) -> Result<()>;
}

/// Reads exactly `out.len()` bytes; a shorter file is `Corruption` at its end.
pub fn read_exact_at(file: &dyn VfsFile, path: &Path, out: &mut [u8], offset: u64) -> Result<()> {
    let read = file.read_at(out, offset)?;
    if read == out.len() {
        return Ok(());
    }
    Err(crate::Error::corruption(
        path,
        offset + read as u64,
        format!("{} more bytes", out.len() - read),
        "the end of the file",
    ))
}

/// The length of a published file, which must be `len`, as a size in memory.
fn published_len(file: &dyn VfsFile, path: &Path, len: u64) -> Result<usize> {
    let found = file.len()?;
    if found != len {
        let (expected, found_text) = (format!("{len} bytes"), format!("{found} bytes"));
        return Err(crate::Error::corruption(path, found.min(len), expected, found_text));
    }
    usize::try_from(len).map_err(|_| {
        crate::Error::io("hold", path, std::io::Error::other("the file is larger than the address space"))
    })
}

/// A published file read into aligned memory.
fn read_published(file: &dyn VfsFile, path: &Path, len: u64) -> Result<FileBytes> {
    FileBytes::heap(path, published_len(file, path, len)?, |out| read_exact_at(file, path, out, 0))
}

/// The whole of a small file (at most `bytes_max`, more is `Corruption`).
pub fn read_small(vfs: &dyn Vfs, path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let file = vfs.open(path, OpenMode::Read)?;
    let len = file.len()?;
    if len > bytes_max {
        return Err(crate::Error::corruption(path, bytes_max, "the end of the file", format!("{len} bytes")));
    }
    let mut bytes = vec![0; len as usize];
    read_exact_at(&*file, path, &mut bytes, 0)?;
    Ok(bytes)
}

/// Writes a small file under a temporary name, syncs it, renames it into place and syncs the folder: after a crash
/// there is the old file, the new one, or none, never a part.
pub fn write_atomically(vfs: &dyn Vfs, dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let tmp = dir.join(format!("{name}.tmp"));
    let file = vfs.open(&tmp, OpenMode::Truncate)?;
    file.write_at(bytes, 0)?;
    file.sync_all()?;
    drop(file);
    vfs.rename(&tmp, &dir.join(name))?;
    vfs.sync_dir(dir)
}
