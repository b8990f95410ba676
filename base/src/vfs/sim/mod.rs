//! A simulated disk that forgets what was not synced.
//!
//! It keeps two things: the *live* state, which reads see, and the *durable* one, together with every operation
//! between them, in order. A sync moves a file's operations over, a folder sync the name operations of that folder.
//! [`SimVfs::crash_image`] lays out a disk as a power loss may leave it: the durable state plus any choice of the
//! pending operations, writes torn at sectors. It is strict where POSIX is: a file whose name was never synced into
//! its folder is gone, however often its contents were.
//!
//! Everything is deterministic. Contents are pages shared until written, so an image costs microseconds.

mod contents;
mod disk;
mod moment;

pub use moment::{Fate, Moment};

use super::memory::{failed, plain};
use crate::error::{Error, Result};
use crate::random::SplitMix64;
use contents::{Contents, write_torn};
// Not by way of `crate::sync`: nobody is interrupted inside of this disk when a checker decides who runs, so a library
// that calls it under locks of its own, which the checker does not know, can't be interrupted there either.
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A simulated disk. Clones share it; [`SimVfs::crash_image`] makes another one.
#[derive(Clone)]
pub struct SimVfs {
    state: Arc<Mutex<State>>,
}

/// Which pending operations a crash leaves behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrashChoice {
    /// None: only what was synced.
    DurableOnly,
    /// All: a killed process, the machine lives.
    KeepAll,
    /// The first so many, in order.
    Prefix(usize),
    /// All but this one.
    Without(usize),
    /// A random choice, writes torn at 512-byte sectors.
    Random {
        /// Decides.
        seed: u64,
    },
}

/// What goes wrong in a mutating operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SimFault {
    /// An input/output error; nothing was done.
    Io,
    /// No room; nothing was done.
    DiskFull,
    /// Half of a write is done, up to the border of a sector, then an error.
    ShortWrite,
    /// A sync fails and what it should have saved is gone from the live state as well.
    SyncDropsData,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    Dir,
    File(usize),
}

#[derive(Clone)]
enum Pending {
    Write { file: usize, offset: usize, bytes: Arc<[u8]> },
    SetLen { file: usize, len: usize },
    Link { path: PathBuf, node: Node },
    Unlink { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf, node: Node },
}

#[derive(Clone, Copy)]
struct Fault {
    at: u64,
    fault: SimFault,
    forever: bool,
}

#[derive(Default)]
struct State {
    names: BTreeMap<PathBuf, Node>,
    files: HashMap<usize, Contents>,
    durable_names: BTreeMap<PathBuf, Node>,
    durable_files: HashMap<usize, Contents>,
    pending: Vec<Pending>,
    next_file: usize,
    ops: u64,
    crash_at: Option<u64>,
    fault: Option<Fault>,
    locks: HashMap<PathBuf, (usize, bool)>,
    seed: u64,
    /// What a power loss could have met, while somebody records.
    moments: Option<Vec<Moment>>,
}

impl SimVfs {
    /// An empty disk. The seed is mixed into random crash choices.
    pub fn new(seed: u64) -> SimVfs {
        SimVfs { state: Arc::new(Mutex::new(State { seed, ..State::default() })) }
    }

    /// Mutating operations so far: writes, size changes, syncs, and changes of names.
    pub fn ops(&self) -> u64 {
        self.state.lock().ops
    }

    /// Operations that a crash now could lose.
    pub fn pending(&self) -> usize {
        self.state.lock().pending.len()
    }

    /// After so many more mutating operations every call fails, as if the power were gone.
    pub fn set_crash_after(&self, operations: u64) {
        let mut state = self.state.lock();
        state.crash_at = Some(state.ops + operations);
    }

    /// Makes the mutating operation after the next `skip` ones fail, once or from then on.
    pub fn fail_op(&self, skip: u64, fault: SimFault, forever: bool) {
        let mut state = self.state.lock();
        state.fault = Some(Fault { at: state.ops + skip, fault, forever });
    }

    /// Ends failures asked for with [`SimVfs::fail_op`].
    pub fn heal(&self) {
        self.state.lock().fault = None;
    }

    /// The disk as a crash at this moment may leave it. Locks and faults do not carry over.
    pub fn crash_image(&self, choice: CrashChoice) -> SimVfs {
        let state = self.state.lock();
        let mut names = state.durable_names.clone();
        let mut files = state.durable_files.clone();
        let seed = match choice {
            CrashChoice::Random { seed } => seed,
            _ => 0,
        };
        let mut rng = SplitMix64::new(state.seed ^ seed.rotate_left(17));
        let share = 1 + rng.below(9);
        for (place, pending) in state.pending.iter().enumerate() {
            let keep = match choice {
                CrashChoice::DurableOnly => false,
                CrashChoice::KeepAll => true,
                CrashChoice::Prefix(count) => place < count,
                CrashChoice::Without(dropped) => place != dropped,
                CrashChoice::Random { .. } => rng.below(10) < share,
            };
            if !keep {
                continue;
            }
            let tear = matches!(choice, CrashChoice::Random { .. }) && rng.below(4) == 0;
            apply(pending, &mut names, &mut files, tear.then_some(&mut rng));
        }
        drop_orphans(&mut names);
        let image = State {
            durable_names: names.clone(),
            durable_files: files.clone(),
            names,
            files,
            next_file: state.next_file,
            seed: state.seed.wrapping_add(1),
            ..State::default()
        };
        SimVfs { state: Arc::new(Mutex::new(image)) }
    }

    /// All files with their lengths.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.state.lock();
        let files = state.names.iter().filter_map(|(path, node)| match node {
            Node::File(file) => Some((path.clone(), state.len_of(*file) as u64)),
            Node::Dir => None,
        });
        files.collect()
    }

    /// Flips one bit of a file, in the live state and the durable one. `false` beyond its end.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u32) -> bool {
        self.damage(path, |contents| {
            let mut byte = [0];
            let inside = contents.read(&mut byte, offset as usize) == 1;
            if inside {
                contents.write(&[byte[0] ^ (1 << (bit % 8))], offset as usize);
            }
            inside
        })
    }

    /// Replaces a file's contents.
    pub fn overwrite(&self, path: &Path, bytes: &[u8]) -> bool {
        self.damage(path, |contents| {
            *contents = Contents::default();
            contents.write(bytes, 0);
            true
        })
    }

    /// Cuts a file.
    pub fn truncate(&self, path: &Path, len: u64) -> bool {
        self.damage(path, |contents| {
            contents.set_len(len as usize);
            true
        })
    }

    /// A file's contents.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state.lock();
        match state.names.get(&plain(path)) {
            Some(Node::File(file)) => {
                let contents = state.files.get(file).cloned().unwrap_or_default();
                let mut bytes = vec![0; contents.len];
                contents.read(&mut bytes, 0);
                Some(bytes)
            }
            _ => None,
        }
    }

    fn damage(&self, path: &Path, f: impl Fn(&mut Contents) -> bool) -> bool {
        let mut state = self.state.lock();
        let Some(Node::File(file)) = state.names.get(&plain(path)).copied() else { return false };
        let done = f(state.files.entry(file).or_default());
        f(state.durable_files.entry(file).or_default());
        done
    }
}

/// A name whose folder is not there leads nowhere.
fn drop_orphans(names: &mut BTreeMap<PathBuf, Node>) {
    let paths: Vec<PathBuf> = names.keys().cloned().collect();
    for path in paths {
        if let Some(parent) = path.parent()
            && !parent.as_os_str().is_empty()
            && names.get(parent) != Some(&Node::Dir)
        {
            names.remove(&path);
        }
    }
}

/// Puts a pending operation into effect; a torn write only in part of its sectors.
fn apply(
    pending: &Pending,
    names: &mut BTreeMap<PathBuf, Node>,
    files: &mut HashMap<usize, Contents>,
    tear: Option<&mut SplitMix64>,
) {
    match pending {
        Pending::Write { file, offset, bytes } => {
            let contents = files.entry(*file).or_default();
            match tear {
                None => contents.write(bytes, *offset),
                Some(rng) => write_torn(contents, bytes, *offset, rng),
            }
        }
        Pending::SetLen { file, len } => files.entry(*file).or_default().set_len(*len),
        Pending::Link { path, node } => {
            names.insert(path.clone(), *node);
        }
        Pending::Unlink { path } => {
            names.remove(path);
        }
        Pending::Rename { from, to, node } => {
            names.remove(from);
            names.insert(to.clone(), *node);
        }
    }
}

impl Pending {
    fn is_of_file(&self, wanted: usize) -> bool {
        matches!(self, Pending::Write { file, .. } | Pending::SetLen { file, .. } if *file == wanted)
    }

    fn is_of_dir(&self, dir: &Path) -> bool {
        match self {
            Pending::Link { path, .. } | Pending::Unlink { path } => path.parent() == Some(dir),
            Pending::Rename { from, to, .. } => from.parent() == Some(dir) || to.parent() == Some(dir),
            _ => false,
        }
    }
}

impl State {
    fn alive(&self, what: &str, path: &Path) -> Result<()> {
        match self.crash_at {
            Some(at) if self.ops >= at => {
                Err(Error::io(what, path, io::Error::other("simulated power loss")))
            }
            _ => Ok(()),
        }
    }

    /// Counts a mutating operation; the fault that strikes it, if any.
    fn begin(&mut self, what: &str, path: &Path) -> Result<Option<SimFault>> {
        self.alive(what, path)?;
        self.note_moment();
        let now = self.ops;
        self.ops += 1;
        match self.fault {
            Some(fault) if now == fault.at || (fault.forever && now > fault.at) => Ok(Some(fault.fault)),
            _ => Ok(None),
        }
    }

    /// As [`State::begin`], for operations that a fault simply prevents.
    fn begin_whole(&mut self, what: &str, path: &Path) -> Result<()> {
        match self.begin(what, path)? {
            None => Ok(()),
            Some(SimFault::DiskFull) => Err(failed(what, path, io::ErrorKind::StorageFull)),
            Some(_) => Err(Error::io(what, path, io::Error::other("simulated failure"))),
        }
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.as_os_str().is_empty() || self.names.get(path) == Some(&Node::Dir)
    }

    fn parent_exists(&self, path: &Path) -> bool {
        path.parent().is_none_or(|parent| self.is_dir(parent))
    }

    fn len_of(&self, file: usize) -> usize {
        self.files.get(&file).map_or(0, |contents| contents.len)
    }

    fn create(&mut self, path: PathBuf) -> usize {
        let file = self.next_file;
        self.next_file += 1;
        self.files.insert(file, Contents::default());
        self.names.insert(path.clone(), Node::File(file));
        self.pending.push(Pending::Link { path, node: Node::File(file) });
        file
    }

    fn make_durable(&mut self, ready: impl Fn(&Pending) -> bool) {
        let pending = std::mem::take(&mut self.pending);
        for one in pending {
            if ready(&one) {
                apply(&one, &mut self.durable_names, &mut self.durable_files, None);
            } else {
                self.pending.push(one);
            }
        }
    }
}

impl fmt::Debug for SimVfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        write!(f, "SimVfs({} operations, {} pending)", state.ops, state.pending.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::{OpenMode, Vfs, VfsFile};

    fn put(disk: &SimVfs, name: &str, bytes: &[u8]) -> Arc<dyn VfsFile> {
        let file = disk.open(Path::new(name), OpenMode::CreateNew).unwrap();
        file.write_at(bytes, 0).unwrap();
        file
    }

    #[test]
    fn what_was_not_synced_is_forgotten() {
        let disk = SimVfs::new(1);
        let file = put(&disk, "/a", b"one");
        file.sync_all().unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        file.write_at(b"two", 0).unwrap();
        assert_eq!(disk.contents(Path::new("/a")).unwrap(), b"two");
        assert_eq!(disk.crash_image(CrashChoice::DurableOnly).contents(Path::new("/a")).unwrap(), b"one");
        assert_eq!(disk.crash_image(CrashChoice::KeepAll).contents(Path::new("/a")).unwrap(), b"two");
    }

    #[test]
    fn a_name_that_its_folder_did_not_sync_is_gone() {
        let disk = SimVfs::new(1);
        put(&disk, "/a", b"one").sync_all().unwrap();
        assert_eq!(disk.crash_image(CrashChoice::DurableOnly).contents(Path::new("/a")), None);
    }

    #[test]
    fn a_rename_is_there_or_not_and_never_half() {
        let disk = SimVfs::new(1);
        put(&disk, "/a", b"old").sync_all().unwrap();
        put(&disk, "/b", b"new").sync_all().unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk.rename(Path::new("/b"), Path::new("/a")).unwrap();
        for seed in 0..50 {
            let image = disk.crash_image(CrashChoice::Random { seed });
            let (a, b) = (image.contents(Path::new("/a")).unwrap(), image.contents(Path::new("/b")));
            assert!((a == b"old" && b.as_deref() == Some(b"new")) || (a == b"new" && b.is_none()));
        }
    }

    #[test]
    fn writes_tear_at_sectors_only_and_the_same_way_for_one_seed() {
        let disk = SimVfs::new(5);
        let file = put(&disk, "/a", &[0; 4096]);
        file.sync_all().unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        file.write_at(&[1; 3000], 100).unwrap();
        let mut torn = 0;
        for seed in 0..200 {
            let bytes = disk.crash_image(CrashChoice::Random { seed }).contents(Path::new("/a")).unwrap();
            assert_eq!(
                bytes,
                disk.crash_image(CrashChoice::Random { seed }).contents(Path::new("/a")).unwrap()
            );
            for (sector, piece) in bytes[..3072].chunks(512).enumerate() {
                let begin = if sector == 0 { 100 } else { 0 };
                let end = if sector == 5 { 3100 - 2560 } else { 512 }.min(piece.len());
                assert!(piece[begin..end].iter().all(|b| *b == piece[begin]), "seed {seed}, sector {sector}");
            }
            let ones = bytes.iter().filter(|b| **b == 1).count();
            torn += u32::from(ones > 0 && ones < 3000);
        }
        assert!(torn > 5, "only {torn} torn images");
    }

    #[test]
    fn power_loss_and_faults_strike_where_they_were_asked_to() {
        let disk = SimVfs::new(1);
        let file = put(&disk, "/a", b"x");
        disk.fail_op(1, SimFault::DiskFull, false);
        file.write_at(b"y", 0).unwrap();
        assert_eq!(file.write_at(b"z", 0).unwrap_err().kind(), crate::ErrorKind::DiskFull);
        file.write_at(b"z", 0).unwrap();
        disk.fail_op(0, SimFault::SyncDropsData, false);
        assert!(file.sync_data().is_err());
        assert_eq!(disk.contents(Path::new("/a")).unwrap(), b"");
        disk.set_crash_after(1);
        file.write_at(b"1", 0).unwrap();
        assert!(file.write_at(b"2", 0).is_err() && file.read_at(&mut [0], 0).is_err());
    }
}
