//! The sealed segment: one immutable, checked file, mapped and read in place.
//!
//! - [`mod@format`]: where every byte is.
//! - [`write_segment`], [`write_batched`], [`write_joined`]: rows and their graph into a new file.
//! - [`SealedSegment`]: opens one, finds keys, gives rows, searches, verifies.
//! - [`open_bytes`]: arbitrary bytes through all of it, for fuzzing.
//!
//! What must hold: whatever the bytes are, no call panics, and a byte that is not what was written is `Corruption`
//! from the first call that reads its block.

mod blocks;
mod cold;
mod filter;
pub mod format;
mod hot;
mod inline;
mod near;
mod reader;
mod search;
mod stream;
#[cfg(test)]
mod tests;
mod verify;
mod versions;
mod writer;

pub use cold::Room;
pub use hot::Held;
pub(crate) use inline::InlineWork;
pub use inline::batch::Batches;
pub use inline::join::Join;
pub(crate) use inline::limits::is_refined;
pub use inline::together::search_together;
pub use near::{inverse_norm, near, prefetch};
pub use reader::SealedSegment;
pub use writer::{SealTarget, write_batched, write_joined, write_segment};

use crate::segment::{AcceptAll, SearchOptions};
use crate::topk::Scratch;
use nearstone_base::vfs::{MemoryVfs, OpenMode, Residency, Vfs};
use nearstone_base::{Lsn, Result, SegmentId};
use std::path::Path;

/// Opens arbitrary bytes as a segment that nobody described, and asks everything that can be asked of it: the entry
/// for fuzzing. Errors of single rows don't end it; the result is that of opening and verifying.
pub fn open_bytes(bytes: &[u8]) -> Result<()> {
    let vfs = MemoryVfs::new();
    let path = Path::new("0000000000000001.seg");
    let file = vfs.open(path, OpenMode::CreateNew)?;
    file.write_at(bytes, 0)?;
    drop(file);
    let _ = SealedSegment::inspect(&vfs, path);
    let id = SegmentId(1);
    // In memory either way; so vectors are read where a segment says that they should be.
    let segment = SealedSegment::open_alone(&vfs, path, id, bytes.len() as u64, Residency::Mapped)?;
    let (mut scratch, mut room) = (Scratch::default(), Room::default());
    for ordinal in (0..segment.rows().min(1000)).chain([segment.rows(), u32::MAX]) {
        if let Ok(key) = segment.key(ordinal) {
            let _ = segment.find_at(key, key.hash64(), Lsn::MAX);
        }
        let _ = (segment.version(ordinal), segment.payload(ordinal), segment.ordinal_by_rank(ordinal));
        let _ = segment.read_vector(ordinal, &mut room);
        if let (true, Ok(vector)) = (ordinal < 10, segment.vector(ordinal)) {
            for exact in [false, true] {
                let options = SearchOptions { limit: 3, ef: 8, exact, at: Lsn::MAX, accept: &AcceptAll };
                let _ = segment.search(vector, &options, &mut scratch);
                // As if it were two.
                let twice = [(&segment, 0.5); 2];
                let _ = search_together(&twice, vector, &options, &[0.5; 3], &mut scratch, &mut Vec::new());
            }
        }
    }
    let _ = segment.graph();
    segment.verify(&mut |_, _| true)
}
