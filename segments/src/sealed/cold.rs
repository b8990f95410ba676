//! Vectors that are read from the file, for segments that shall take little memory.
//!
//! Whatever is touched through a map becomes resident, and stays so until the operating system wants the room for
//! something else. A search measures its best rows on their original vectors: over many searches those are most rows, and
//! what was to take a quarter of the vectors' room takes all of it. So a segment of [`Profile::Memory`] reads them with
//! positioned reads, whole blocks at a time, into room that the search has anyway; a block is checked at its first reading, as
//! elsewhere at its first touch. Merges, which read every row many times over, go through the map: their inputs go afterwards.
//!
//! A file that is held in memory whole ([`Residency::Heap`]) has its vectors there, and nothing is read.
//!
//! The file stays open for as long as the segment is. A disk that fails under such a read gives an error, where it would end
//! the process under a map.

use super::SealedSegment;
use super::format::{BLOCK, Layout, Section};
use crate::exact::{NearestRows, Strip};
use crate::segment::Hit;
use nearstone_base::vfs::{OpenMode, Residency, Vfs, VfsFile, read_exact_at};
use nearstone_base::{Profile, Result};
use std::path::Path;
use std::sync::Arc;
use zerocopy::{FromBytes, IntoBytes};

/// Room for vectors that are read; kept between searches.
#[derive(Clone, Default, Debug)]
pub struct Room(Vec<f32>);

/// The part of a file that is read instead of being touched.
#[derive(Debug)]
pub(super) struct Cold {
    file: Arc<dyn VfsFile>,
    /// The first block that lies wholly in the part, and the first one after it that does not.
    blocks: (u64, u64),
}

impl Cold {
    /// The vectors of a segment whose profile asks for it.
    pub(super) fn open(
        vfs: &dyn Vfs,
        path: &Path,
        layout: &Layout,
        vectors: &Section,
        residency: Residency,
    ) -> Result<Option<Cold>> {
        if layout.header.schema.chosen_profile() != Profile::Memory || residency == Residency::Heap {
            return Ok(None);
        }
        let blocks = (vectors.offset.div_ceil(BLOCK), (vectors.offset + vectors.len) / BLOCK);
        Ok(Some(Cold { file: vfs.open(path, OpenMode::Read)?, blocks }))
    }

    /// Whether a block holds nothing else.
    pub(super) fn holds(&self, block: u64) -> bool {
        (self.blocks.0..self.blocks.1).contains(&block)
    }

    /// Reads whole blocks.
    pub(super) fn read(&self, path: &Path, first: u64, out: &mut [u8]) -> Result<()> {
        read_exact_at(&*self.file, path, out, first * BLOCK)
    }
}

impl SealedSegment {
    /// A row's vector, the original bits, where searches have it from: the file, with the segments of
    /// [`Profile::Memory`], and then it lies in `room`.
    pub fn read_vector<'a>(&'a self, ordinal: u32, room: &'a mut Room) -> Result<&'a [f32]> {
        if self.blocks.cold().is_none() {
            return self.vector(ordinal);
        }
        self.read_vectors(ordinal, 1, room)
    }

    /// The vectors of `count` rows from `first` on, one after another, read into `room`.
    fn read_vectors<'a>(&self, first: u32, count: u32, room: &'a mut Room) -> Result<&'a [f32]> {
        let vectors = &self.places.vectors;
        let last = u64::from(first) + u64::from(count) - 1;
        if last >= vectors.count {
            return Err(self.beyond(vectors, last));
        }
        // Can't overflow: both are rows of a section that lies in the file.
        let offset = vectors.offset + u64::from(first) * vectors.stride;
        let len = u64::from(count) * vectors.stride;
        let (block, end) = (offset / BLOCK, (offset + len).div_ceil(BLOCK));
        let bytes = ((end - block) * BLOCK) as usize;
        if room.0.len() < bytes / 4 {
            room.0.resize(bytes / 4, 0.0);
        }
        let read = &mut room.0.as_mut_bytes()[..bytes];
        self.blocks.read(block, read)?;
        let start = (offset - block * BLOCK) as usize;
        let read = &room.0.as_bytes()[start..start + len as usize];
        <[f32]>::ref_from_bytes(read).map_err(|_| self.bad(vectors, "aligned numbers", "others"))
    }

    /// Shows rows, in ascending order, to a scan: rows that follow one another are read at once.
    pub(super) fn scan_cold(
        &self,
        rows: impl Iterator<Item = u32>,
        mut nearest: NearestRows<'_>,
    ) -> Result<Vec<Vec<Hit>>> {
        let (most, dimension) = (nearest.strip_rows() as u32, self.meta().schema.dimension());
        let mut room = Room::default();
        let mut rows = rows.peekable();
        while let Some(first) = rows.next() {
            let mut count = 1;
            while count < most && rows.next_if_eq(&(first + count)).is_some() {
                count += 1;
            }
            let vectors = self.read_vectors(first, count, &mut room)?;
            let strip: Strip<'_> = (first..).zip(vectors.chunks_exact(dimension)).collect();
            nearest.take(&strip);
        }
        Ok(nearest.finish())
    }
}
