//! Names in the log's folder, and how a file comes into it.
//!
//! A log file is called by its id in 16 hexadecimal digits and `.log`; a name that is not exactly that is not ours
//! and stays where it is. A file is made under `.tmp`, with its whole length reserved, its header (and whatever it
//! begins with) written and synced, and only then renamed and the folder synced. So whatever carries the name of a
//! log file has a good header, in every crash: a bad one is damage, never an interrupted creation. Names set aside by
//! a point-in-time recovery end in `.log.aside`.

use nearstone_base::faults::{failpoint, seeded};
use nearstone_base::vfs::{OpenMode, Vfs, VfsFile};
use nearstone_base::{ErrorKind, Lsn, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file of the log, as [`crate::Log::files`] lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogFile {
    /// Its number: grows with age, never reused.
    pub file_id: u64,
    /// Where it is.
    pub path: PathBuf,
    /// The lsn of its first batch; 0 for a file below the floor that was not read.
    pub first_lsn: Lsn,
    /// Where its records end.
    pub end: u64,
    /// Its length.
    pub len: u64,
}

/// The name of a log file.
pub fn file_name(file_id: u64) -> String {
    format!("{file_id:016x}.log")
}

/// The id in a name, if it is exactly one that [`file_name`] makes.
pub fn parse_name(name: &str) -> Option<u64> {
    parse(name, ".log")
}

fn parse(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    let ours = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !ours {
        return None;
    }
    u64::from_str_radix(digits, 16).ok().filter(|id| *id != 0)
}

/// The ids in the folder, ascending.
pub(crate) fn list(vfs: &dyn Vfs, dir: &Path) -> Result<Vec<u64>> {
    let mut ids: Vec<u64> = vfs.list(dir)?.iter().filter_map(|name| parse_name(name)).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// The highest id that was ever given away, as far as the folder shows: set-aside files count.
pub(crate) fn highest(vfs: &dyn Vfs, dir: &Path) -> Result<u64> {
    let ids = vfs
        .list(dir)?
        .into_iter()
        .filter_map(|name| parse_name(&name).or_else(|| parse(&name, ".log.aside")));
    Ok(ids.max().unwrap_or(0))
}

/// Removes what interrupted creations left behind.
pub(crate) fn sweep_unfinished(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    for name in vfs.list(dir)? {
        if parse(&name, ".tmp").is_some() {
            vfs.remove(&dir.join(name))?;
        }
    }
    Ok(())
}

/// Takes a file out of the log without losing it.
pub(crate) fn set_aside(vfs: &dyn Vfs, dir: &Path, file_id: u64) -> Result<()> {
    let name = file_name(file_id);
    vfs.rename(&dir.join(&name), &dir.join(format!("{name}.aside")))
}

/// A file that has its room but no name yet.
#[derive(Debug)]
pub(crate) struct Unnamed {
    pub(crate) file: Arc<dyn VfsFile>,
    tmp: PathBuf,
    path: PathBuf,
}

/// Makes a file and reserves `len` bytes. After an error nothing is left of it that matters.
pub(crate) fn reserve(vfs: &dyn Vfs, dir: &Path, file_id: u64, len: u64) -> Result<Unnamed> {
    let tmp = dir.join(format!("{file_id:016x}.tmp"));
    let file = vfs.open(&tmp, OpenMode::Truncate)?;
    if let Err(error) = file.reserve(len) {
        drop(file);
        // Best effort: a leftover is swept when the next file is made.
        drop(vfs.remove(&tmp));
        return Err(error);
    }
    failpoint("wal-file-reserved");
    Ok(Unnamed { file, tmp, path: dir.join(file_name(file_id)) })
}

impl Unnamed {
    /// Writes what the file begins with, its header first, makes all of it durable and gives it its name, durably.
    pub(crate) fn publish(
        self,
        vfs: &dyn Vfs,
        dir: &Path,
        bytes: &[u8],
    ) -> Result<(Arc<dyn VfsFile>, PathBuf)> {
        self.file.write_at(bytes, 0)?;
        failpoint("wal-file-written");
        if !seeded("wal-file-not-synced") {
            self.file.sync_all()?;
        }
        failpoint("wal-file-synced");
        vfs.rename_new(&self.tmp, &self.path).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => error.context("a log file of that id, and ids are never reused"),
            _ => error,
        })?;
        failpoint("wal-file-named");
        if !seeded("wal-folder-not-synced") {
            vfs.sync_dir(dir)?;
        }
        failpoint("wal-file-name-synced");
        Ok((self.file, self.path))
    }
}

/// Copies a log file up to its `end` to a new file `to` (of any file system), for a backup: the copy has the same
/// length, so that it reads like the original, and is synced. The caller syncs the folder.
pub fn copy_file(vfs: &dyn Vfs, from: &LogFile, to_vfs: &dyn Vfs, to: &Path) -> Result<()> {
    let source = vfs.open(&from.path, OpenMode::Read)?;
    let copy = to_vfs.open(to, OpenMode::CreateNew)?;
    copy.set_len(from.len)?;
    let mut buffer = vec![0; 1 << 18];
    let mut at = 0;
    while at < from.end {
        let part = (from.end - at).min(buffer.len() as u64) as usize;
        nearstone_base::vfs::read_exact_at(&*source, &from.path, &mut buffer[..part], at)?;
        copy.write_at(&buffer[..part], at)?;
        at += part as u64;
    }
    copy.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_parse() {
        assert_eq!(parse_name(&file_name(0x1f)), Some(0x1f));
        assert_eq!(parse_name(&file_name(u64::MAX)), Some(u64::MAX));
        for name in [
            "0000000000000000.log",
            "1.log",
            "000000000000001F.log",
            "+00000000000001f.log",
            "000000000000001f.log.aside",
            "000000000000001f.tmp",
            "000000000000001f.LOG",
            "0000000000000001f.log",
            ".log",
            "",
            "a.log~",
        ] {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }
}
