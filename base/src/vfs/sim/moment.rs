//! Every moment at which the power may go, kept while a history runs once, so that each can be laid out in as many ways
//! as a disk could have left it without running the history again.

use super::contents::{Contents, SECTOR};
use super::{Node, Pending, SimVfs, State, apply};
use crate::checksum::hash128;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The disk before one of its operations: what is durable, and what is on its way.
#[derive(Clone)]
pub struct Moment {
    ops: u64,
    names: BTreeMap<PathBuf, Node>,
    files: HashMap<usize, Contents>,
    pending: Vec<Pending>,
    next_file: usize,
    seed: u64,
}

/// What becomes of one pending operation when the power goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It never reached the disk.
    Lost,
    /// It did.
    Kept,
    /// Of a write, only units below this one arrived.
    Head {
        /// Bytes that arrive together: 512 or 4096.
        unit: usize,
        /// How many units.
        units: usize,
    },
    /// Of a write, only units from this one on arrived.
    Tail {
        /// Bytes that arrive together.
        unit: usize,
        /// How many units did not.
        units: usize,
    },
    /// The file grew as a write would have made it, and holds zeros there.
    SizeOnly,
}

impl SimVfs {
    /// Remembers every moment from now on.
    pub fn record(&self) {
        self.state.lock().moments = Some(Vec::new());
    }

    /// Ends the recording: the moment before each operation since then, and the one now.
    pub fn recorded(&self) -> Vec<Moment> {
        let mut state = self.state.lock();
        state.note_moment();
        state.moments.take().unwrap_or_default()
    }
}

impl State {
    pub(super) fn note_moment(&mut self) {
        if self.moments.is_none() {
            return;
        }
        let moment = Moment {
            ops: self.ops,
            names: self.durable_names.clone(),
            files: self.durable_files.clone(),
            pending: self.pending.clone(),
            next_file: self.next_file,
            seed: self.seed,
        };
        self.moments.get_or_insert_default().push(moment);
    }
}

impl Moment {
    /// Operations of the disk before it.
    pub fn ops(&self) -> u64 {
        self.ops
    }

    /// Operations on their way.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// How many units of this size a pending write touches; 0 for other operations.
    pub fn units(&self, pending: usize, unit: usize) -> usize {
        match &self.pending[pending] {
            Pending::Write { offset, bytes, .. } if !bytes.is_empty() => {
                (offset + bytes.len() - 1) / unit - offset / unit + 1
            }
            _ => 0,
        }
    }

    /// The disk as a process finds it that starts after this one was killed: the machine lives on, so everything can be
    /// read, and what was on its way to the disk still is.
    pub fn killed(&self) -> SimVfs {
        let (mut names, mut files) = (self.names.clone(), self.files.clone());
        for pending in &self.pending {
            apply(pending, &mut names, &mut files, None);
        }
        let state = State {
            durable_names: self.names.clone(),
            durable_files: self.files.clone(),
            names,
            files,
            pending: self.pending.clone(),
            next_file: self.next_file,
            seed: self.seed.wrapping_add(1),
            ..State::default()
        };
        SimVfs { state: Arc::new(Mutex::new(state)) }
    }

    /// Lays out a disk: one fate for each pending operation, in their order.
    pub fn image(&self, fates: &[Fate]) -> SimVfs {
        assert!(fates.len() == self.pending.len(), "one fate for each pending operation");
        let mut names = self.names.clone();
        let mut files = self.files.clone();
        for (pending, fate) in self.pending.iter().zip(fates) {
            match (fate, pending) {
                (Fate::Lost, _) => {}
                (Fate::Head { unit, units }, Pending::Write { file, offset, bytes }) => {
                    let end = ((offset / unit + units) * unit).saturating_sub(*offset).min(bytes.len());
                    if end > 0 {
                        files.entry(*file).or_default().write(&bytes[..end], *offset);
                    }
                }
                (Fate::Tail { unit, units }, Pending::Write { file, offset, bytes }) => {
                    let begin = ((offset / unit + units) * unit).saturating_sub(*offset).min(bytes.len());
                    if begin < bytes.len() {
                        files.entry(*file).or_default().write(&bytes[begin..], offset + begin);
                    }
                }
                (Fate::SizeOnly, Pending::Write { file, offset, bytes }) => {
                    let contents = files.entry(*file).or_default();
                    let end = offset + bytes.len();
                    if end > contents.len {
                        contents.set_len(end);
                    }
                }
                (_, pending) => apply(pending, &mut names, &mut files, None),
            }
        }
        super::drop_orphans(&mut names);
        let state = State {
            durable_names: names.clone(),
            durable_files: files.clone(),
            names,
            files,
            next_file: self.next_file,
            seed: self.seed.wrapping_add(1),
            ..State::default()
        };
        SimVfs { state: Arc::new(Mutex::new(state)) }
    }
}

impl SimVfs {
    /// A digest of all names and contents: equal images have equal digests.
    pub fn digest(&self) -> u128 {
        self.digest_of(|_| true)
    }

    /// As [`SimVfs::digest`], of some names.
    pub fn digest_of(&self, names: impl Fn(&Path) -> bool) -> u128 {
        let state = self.state.lock();
        let mut text = Vec::new();
        for (path, node) in state.names.iter().filter(|(path, _)| names(path)) {
            text.extend_from_slice(path.as_os_str().as_encoded_bytes());
            text.push(0);
            if let Node::File(file) = node {
                let digest = state.files.get(file).map_or(0, Contents::digest);
                text.extend_from_slice(&digest.to_le_bytes());
            }
        }
        hash128(&text)
    }
}

const _: () = assert!(SECTOR == 512, "the smallest unit of a torn write");

#[cfg(test)]
mod tests {
    use super::super::CrashChoice;
    use super::*;
    use crate::vfs::{OpenMode, Vfs};

    #[test]
    fn every_operation_has_its_moment_and_every_fate_its_image() {
        let disk = SimVfs::new(1);
        disk.record();
        let path = Path::new("/a");
        let file = disk.open(path, OpenMode::CreateNew).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        file.write_at(&[1; 1500], 0).unwrap();
        let moments = disk.recorded();
        assert_eq!(
            moments.iter().map(|m| (m.ops(), m.pending())).collect::<Vec<_>>(),
            [(0, 0), (1, 1), (2, 0), (3, 1)]
        );
        let last = &moments[3];
        assert_eq!((last.units(0, 512), last.units(0, 4096)), (3, 1));
        let contents = |fate| last.image(&[fate]).contents(path).unwrap();
        assert_eq!(contents(Fate::Lost), b"");
        assert_eq!(contents(Fate::Kept), [1; 1500]);
        assert_eq!(contents(Fate::Head { unit: 512, units: 1 }), [1; 512]);
        assert_eq!(contents(Fate::SizeOnly), [0; 1500]);
        let tail = contents(Fate::Tail { unit: 512, units: 2 });
        assert!(
            tail[..1024].iter().all(|b| *b == 0)
                && tail[1024..].iter().all(|b| *b == 1)
                && tail.len() == 1500
        );
    }

    #[test]
    fn after_a_kill_everything_can_be_read_and_nothing_more_is_durable() {
        let disk = SimVfs::new(1);
        disk.record();
        let path = Path::new("/a");
        disk.open(path, OpenMode::CreateNew).unwrap().write_at(b"one", 0).unwrap();
        let killed = disk.recorded().pop().unwrap().killed();
        assert_eq!(killed.contents(path).unwrap(), b"one");
        assert_eq!(
            (killed.pending(), killed.crash_image(CrashChoice::DurableOnly).contents(path)),
            (2, None)
        );
        killed.open(path, OpenMode::Read).unwrap().sync_all().unwrap();
        killed.sync_dir(Path::new("/")).unwrap();
        assert_eq!(killed.crash_image(CrashChoice::DurableOnly).contents(path).unwrap(), b"one");
    }

    #[test]
    fn digests_are_of_contents_and_not_of_how_they_came_about() {
        let disks = [[0, 1], [1, 0]].map(|order| {
            let disk = SimVfs::new(1);
            let file = disk.open(Path::new("/a"), OpenMode::CreateNew).unwrap();
            for piece in order {
                file.write_at(&[piece as u8; 5000], piece * 5000).unwrap();
            }
            disk
        });
        assert_eq!(disks[0].digest(), disks[1].digest());
        disks[0].flip_bit(Path::new("/a"), 7, 0);
        assert_ne!(disks[0].digest(), disks[1].digest());
    }
}
