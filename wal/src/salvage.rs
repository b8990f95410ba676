//! What can still be read of a log that recovery refuses. Reads only; believes nothing but checksums.
//!
//! Every file is searched from front to back: an intact record is taken, and where there is none the search goes on
//! eight bytes later, since records lie at multiples of eight. A record's checksums begin from its file's salt and its
//! offset, so a record is either the one that was written there or none. A file whose header is damaged has lost its
//! salt, and with it all its records. Where a file ends, its successor says: what lies behind that was given up by a
//! recovery, perhaps because it was never acknowledged.

use crate::files;
use crate::format::{self, FILE_HEADER_BYTES, Kind};
use crate::recover::{Found, read_header, read_whole};
use nearstone_base::vfs::Vfs;
use nearstone_base::{ErrorKind, Lsn, Result, Uuid};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a damaged log still holds.
#[derive(Default, Debug)]
pub struct Salvaged {
    /// The bodies of all intact batches.
    pub batches: BTreeMap<Lsn, Vec<u8>>,
    /// Whose log it is, if a header could be read.
    pub store: Option<Uuid>,
    /// Files or parts of them that could not be read, and why.
    pub lost: Vec<(PathBuf, String)>,
}

impl Salvaged {
    /// The lsns that are missing from `from` to `to`, or to the last one there is if that is later, as ranges from the
    /// first to the last.
    pub fn gaps(&self, from: Lsn, to: Lsn) -> Vec<(Lsn, Lsn)> {
        let mut gaps = Vec::new();
        let mut next = from;
        for &lsn in self.batches.range(from..).map(|(lsn, _)| lsn) {
            if lsn > next {
                gaps.push((next, lsn - 1));
            }
            next = lsn.saturating_add(1);
        }
        if next <= to {
            gaps.push((next, to));
        }
        gaps
    }
}

/// Reads every intact batch of the log in `dir`. Takes memory for all of them. Only a folder that can't be listed is an
/// error; whatever else fails is in [`Salvaged::lost`].
pub fn salvage(vfs: &dyn Vfs, dir: &Path, store: Option<Uuid>) -> Result<Salvaged> {
    let mut salvaged = Salvaged::default();
    let ids = match files::list(vfs, dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            salvaged.lost.push((dir.to_path_buf(), error.to_string()));
            return Ok(salvaged);
        }
        listed => listed?,
    };
    let mut all = Vec::new();
    for id in ids {
        match read_header(vfs, dir, store, id) {
            Ok(found) => all.push(found),
            Err(error) => salvaged.lost.push((dir.join(files::file_name(id)), error.to_string())),
        }
    }
    salvaged.store = all.first().map(|found| found.header.store);
    for found in &all {
        let next = all.iter().find(|next| next.header.predecessor == found.header.file_id);
        let end = next.map(|next| next.header.predecessor_end);
        if let Err(error) = salvage_file(vfs, found, end, &mut salvaged) {
            salvaged.lost.push((found.path.clone(), error.to_string()));
        }
    }
    Ok(salvaged)
}

fn salvage_file(vfs: &dyn Vfs, found: &Found, end: Option<u64>, salvaged: &mut Salvaged) -> Result<()> {
    let mut bytes = read_whole(vfs, found)?;
    if let Some(end) = end {
        bytes.truncate(usize::try_from(end).unwrap_or(usize::MAX));
    }
    let seed = found.header.seed();
    let mut at = FILE_HEADER_BYTES;
    let mut damaged_from = None;
    while at < bytes.len() {
        let record = format::decode_record_header(&bytes, seed, at)
            .and_then(|head| Some((format::decode_body(&bytes, seed, at, &head)?, head)));
        let Some((body, head)) = record else {
            if damaged_from.is_none() && bytes[at..].iter().take(8).any(|byte| *byte != 0) {
                damaged_from = Some(at);
            }
            at += 8;
            continue;
        };
        if let Some(from) = damaged_from.take() {
            salvaged.lost.push((found.path.clone(), format!("bytes {from} to {at} are no records")));
        }
        if head.kind == Kind::Batch {
            salvaged.batches.insert(head.lsn, body.to_vec());
        }
        at += format::record_bytes(head.len);
    }
    if let Some(from) = damaged_from {
        // Perhaps a write that a crash cut short, which was never acknowledged.
        let text = format!("bytes from {from} on are no records: damage, or a torn write");
        salvaged.lost.push((found.path.clone(), text));
    }
    Ok(())
}
