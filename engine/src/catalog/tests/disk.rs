//! A file system in memory that remembers every operation, so that a test can lay out what a disk may hold after a
//! crash between any two of them, and can make the k-th operation fail.

use nearstone_base::sync::{Arc, Mutex};
use nearstone_base::vfs::{FileBytes, FileInfo, LockKind, OpenMode, Residency, Vfs, VfsFile, VfsLock};
use nearstone_base::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

type Names = BTreeMap<PathBuf, usize>;

/// One thing that happened.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Write { file: usize, offset: usize, bytes: Vec<u8> },
    Len { file: usize, len: usize },
    Sync { file: usize },
    Names(Names),
    SyncNames,
}

#[derive(Clone, Default, Debug)]
struct Inner {
    names: Names,
    files: Vec<Vec<u8>>,
    ops: Vec<Op>,
    fail_at: Option<usize>,
}

/// The disk.
#[derive(Clone, Default, Debug)]
pub(crate) struct Disk(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct DiskFile {
    disk: Disk,
    file: usize,
    writable: bool,
}

impl Disk {
    /// A disk with one file.
    pub(crate) fn with(path: &Path, bytes: Vec<u8>) -> Disk {
        let inner = Inner { names: [(path.to_path_buf(), 0)].into(), files: vec![bytes], ..Inner::default() };
        Disk(Arc::new(Mutex::new(inner)))
    }

    pub(crate) fn vfs(&self) -> Arc<dyn Vfs> {
        Arc::new(self.clone())
    }

    pub(crate) fn ops(&self) -> usize {
        self.0.lock().ops.len()
    }

    pub(crate) fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let inner = self.0.lock();
        inner.names.get(path).map(|&file| inner.files[file].clone())
    }

    /// Makes the operation after `skip` more fail, once.
    pub(crate) fn fail_after(&self, skip: usize) {
        let mut inner = self.0.lock();
        inner.fail_at = Some(inner.ops.len() + skip);
    }

    /// What `path` may hold after a crash behind the first `count` operations: `None` for no file. Pending operations
    /// are kept up to a cut, kept or dropped one at a time, kept in random sets, and torn at sectors.
    pub(crate) fn crashes(
        &self,
        path: &Path,
        count: usize,
        random: &mut impl FnMut(u64) -> u64,
    ) -> Vec<Option<Vec<u8>>> {
        let inner = self.0.lock();
        let ops = &inner.ops[..count];
        let names_at = |ops: &[Op]| {
            ops.iter().rev().find_map(|op| match op {
                Op::Names(names) => Some(names.get(path).copied()),
                _ => None,
            })
        };
        let synced = ops.iter().rposition(|op| matches!(op, Op::SyncNames)).unwrap_or(0);
        let mut out = Vec::new();
        let mut files = vec![names_at(ops).flatten(), names_at(&ops[..synced]).flatten()];
        files.dedup();
        for file in files {
            match file {
                Some(file) => out.extend(images(ops, file, random).into_iter().map(Some)),
                None => out.push(None),
            }
        }
        out
    }

    fn record(&self, op: Op) -> Result<()> {
        let mut inner = self.0.lock();
        if inner.fail_at == Some(inner.ops.len()) {
            inner.fail_at = None;
            return Err(Error::new(ErrorKind::Io, "a failure on purpose"));
        }
        if let Op::Write { file, .. } | Op::Len { file, .. } = op {
            apply(&mut inner.files[file], &op, 0..usize::MAX);
        }
        inner.ops.push(op);
        Ok(())
    }

    fn rename_all(&self, change: impl FnOnce(&mut Names)) -> Result<()> {
        let mut names = self.0.lock().names.clone();
        change(&mut names);
        self.record(Op::Names(names.clone()))?;
        self.0.lock().names = names;
        Ok(())
    }
}

fn images(ops: &[Op], file: usize, random: &mut impl FnMut(u64) -> u64) -> Vec<Vec<u8>> {
    let of_file = |op: &&Op| match op {
        Op::Write { file: f, .. } | Op::Len { file: f, .. } | Op::Sync { file: f } => *f == file,
        _ => false,
    };
    let ops: Vec<&Op> = ops.iter().filter(of_file).collect();
    let synced = ops.iter().rposition(|op| matches!(op, Op::Sync { .. })).map_or(0, |at| at + 1);
    let mut durable = Vec::new();
    ops[..synced].iter().for_each(|op| apply(&mut durable, op, 0..usize::MAX));
    let pending = &ops[synced..];
    let build = |part: &mut dyn FnMut(usize) -> std::ops::Range<usize>| {
        let mut bytes = durable.clone();
        pending.iter().enumerate().for_each(|(i, op)| apply(&mut bytes, op, part(i)));
        bytes
    };
    let (all, none) = (0..usize::MAX, 0..0);
    let mut out = Vec::new();
    // With many pending, some of the places where the crash may have cut.
    let cuts: Vec<usize> = match pending.len() {
        len @ 0..=8 => (0..=len).collect(),
        len => (0..8).map(|_| random(len as u64 + 1) as usize).collect(),
    };
    for cut in cuts {
        out.push(build(&mut |i| if i < cut { all.clone() } else { none.clone() }));
        out.push(build(&mut |i| if i == cut { all.clone() } else { none.clone() }));
        out.push(build(&mut |i| if i != cut { all.clone() } else { none.clone() }));
        let tear = 512 * (1 + random(8) as usize);
        out.push(build(&mut |i| if i == cut { 0..tear } else { all.clone() }));
        out.push(build(&mut |i| if i == cut { tear..usize::MAX } else { none.clone() }));
        out.push(build(&mut |_| if random(2) == 0 { all.clone() } else { none.clone() }));
    }
    out
}

/// Applies an operation; of a write only the sectors that lie in `part` (bytes from its beginning, cut at sectors of
/// the file).
fn apply(bytes: &mut Vec<u8>, op: &Op, part: std::ops::Range<usize>) {
    match op {
        Op::Write { offset, bytes: new, .. } => {
            let sector = |at: usize| at.saturating_add(*offset) / 512 * 512;
            let from = if part.start == 0 { *offset } else { sector(part.start).max(*offset) };
            let to = if part.end > new.len() { offset + new.len() } else { sector(part.end).max(*offset) };
            if from < to {
                let to = to.min(offset + new.len());
                bytes.resize(bytes.len().max(to), 0);
                bytes[from..to].copy_from_slice(&new[from - offset..to - offset]);
            }
        }
        Op::Len { len, .. } if part.end > 0 => bytes.resize(*len, 0),
        _ => {}
    }
}

impl Vfs for Disk {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn VfsFile>> {
        let found = self.0.lock().names.get(path).copied();
        let file = match (mode, found) {
            (OpenMode::Read | OpenMode::ReadWrite, Some(file)) => file,
            (OpenMode::CreateNew | OpenMode::Truncate, _) => {
                let file = self.0.lock().files.len();
                self.0.lock().files.push(Vec::new());
                self.rename_all(|names| _ = names.insert(path.to_path_buf(), file))?;
                file
            }
            _ => return Err(Error::new(ErrorKind::NotFound, path.display().to_string())),
        };
        Ok(Arc::new(DiskFile { disk: self.clone(), file, writable: mode != OpenMode::Read }))
    }

    fn bytes(&self, _: &Path, _: u64, _: Residency) -> Result<FileBytes> {
        unreachable!("the catalog maps nothing")
    }

    fn info(&self, path: &Path) -> Result<Option<FileInfo>> {
        Ok(self.contents(path).map(|bytes| FileInfo { is_dir: false, len: bytes.len() as u64 }))
    }

    fn list(&self, _: &Path) -> Result<Vec<String>> {
        unreachable!("the catalog lists nothing")
    }

    fn create_dir(&self, _: &Path) -> Result<()> {
        unreachable!("the catalog makes no folder")
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.rename_all(|names| {
            let file = names.remove(from).expect("renaming a file that is there");
            names.insert(to.to_path_buf(), file);
        })
    }

    fn rename_new(&self, from: &Path, to: &Path) -> Result<()> {
        match self.contents(to) {
            Some(_) => Err(Error::new(ErrorKind::AlreadyExists, to.display().to_string())),
            None => self.rename(from, to),
        }
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.rename_all(|names| _ = names.remove(path))
    }

    fn remove_dir(&self, _: &Path) -> Result<()> {
        unreachable!("the catalog removes no folder")
    }

    fn sync_dir(&self, _: &Path) -> Result<()> {
        self.record(Op::SyncNames)
    }

    fn hard_link(&self, _: &Path, _: &Path) -> Result<bool> {
        Ok(false)
    }

    fn lock(&self, _: &Path, _: LockKind) -> Result<Option<Box<dyn VfsLock>>> {
        unreachable!("the catalog locks nothing")
    }
}

impl DiskFile {
    fn change(&self, op: Op) -> Result<()> {
        assert!(self.writable, "a write to a file opened for reading");
        self.disk.record(op)
    }
}

impl VfsFile for DiskFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> Result<usize> {
        let inner = self.disk.0.lock();
        let rest = inner.files[self.file].get(offset as usize..).unwrap_or(&[]);
        let count = rest.len().min(out.len());
        out[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.change(Op::Write { file: self.file, offset: offset as usize, bytes: bytes.to_vec() })
    }

    fn len(&self) -> Result<u64> {
        Ok(self.disk.0.lock().files[self.file].len() as u64)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.change(Op::Len { file: self.file, len: len as usize })
    }

    fn reserve(&self, len: u64) -> Result<()> {
        self.set_len(len)
    }

    fn sync_data(&self) -> Result<()> {
        self.change(Op::Sync { file: self.file })
    }

    fn sync_all(&self) -> Result<()> {
        self.sync_data()
    }
}
