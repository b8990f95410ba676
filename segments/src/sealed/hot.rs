//! What searches touch of a segment's file, and how it is kept in memory.
//!
//! - With inline rows: these, and the entry. Without: the codes and the links of the ground.
//! - What names a row and finds it by its key: keys, their order, index and filter, and versions.
//!
//! The rest is cold: vectors, payloads, and codes and links beside inline rows (which filtered searches walk on).
//!
//! [`Residency::Mapped`] asks for huge pages at most. [`Residency::Warm`] has the system read the hot parts before the
//! segment is used. [`Residency::Pinned`] copies them, block by block, into memory of the process, where they count as checked
//! from then on. Both cost time in proportion to the hot parts.

use super::SealedSegment;
use super::blocks::{Blocks, Pin};
use super::format::{self, BLOCK, Layout};
use nearstone_base::vfs::{FileBytes, OpenMode, Residency, Vfs, read_exact_at};
use nearstone_base::{Error, Profile, Result};
use std::io;
use std::ops::{AddAssign, Range};

/// Where the bytes of an open segment are.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Held {
    /// Bytes of the file that are mapped: they are resident as far as they were touched, and the operating system may
    /// take them back.
    pub mapped: u64,
    /// Of these, bytes that were read into memory when the segment was opened.
    pub warmed: u64,
    /// Bytes that were copied into memory of the process.
    pub pinned: u64,
    /// Bytes of files that were read into memory whole.
    pub heap: u64,
    /// Bytes of vectors that are read from the file when they are needed, and not touched in the map.
    pub read: u64,
}

impl AddAssign for Held {
    fn add_assign(&mut self, other: Held) {
        self.mapped += other.mapped;
        self.warmed += other.warmed;
        self.pinned += other.pinned;
        self.heap += other.heap;
        self.read += other.read;
    }
}

impl SealedSegment {
    /// Where its bytes are.
    pub fn held(&self) -> Held {
        self.blocks.held(self.places.vectors.len)
    }
}

/// The blocks of what searches touch, in order, those that follow one another together.
pub(super) fn hot(layout: &Layout) -> Vec<Range<u64>> {
    let names = [
        format::KEYS,
        format::KEY_OFFSETS,
        format::KEY_INDEX,
        format::KEY_ORDER,
        format::KEY_FILTER,
        format::VERSIONS,
    ];
    let inline = [format::INLINE_ROWS, format::INLINE_ENTRY];
    let has_inline = layout.section(format::INLINE_ROWS).is_some();
    let walked = |id: u32| match has_inline {
        true => inline.contains(&id),
        false => id == format::CODES || id == format::LINKS,
    };
    let mut parts: Vec<Range<u64>> = Vec::new();
    let sections = layout.footer.sections.iter().filter(|section| section.len > 0);
    for section in sections.filter(|section| names.contains(&section.id) || walked(section.id)) {
        let part = section.offset / BLOCK..(section.offset + section.len).div_ceil(BLOCK);
        match parts.last_mut().filter(|last| last.end >= part.start) {
            Some(last) => last.end = last.end.max(part.end),
            None => parts.push(part),
        }
    }
    parts
}

impl Blocks {
    /// Keeps what is hot as the residency wants it, before the segment is used.
    pub(super) fn hold(&mut self, vfs: &dyn Vfs, layout: &Layout, residency: Residency) -> Result<()> {
        if !self.bytes.is_mapped() {
            return Ok(());
        }
        let in_bytes = |part: &Range<u64>| (part.start * BLOCK) as usize..(part.end * BLOCK) as usize;
        let parts = hot(layout);
        if layout.header.schema.chosen_profile() == Profile::Memory {
            // Huge pages make neighbours resident: only where walks go, if little shall be.
            parts.iter().for_each(|part| self.bytes.by_huge_pages(in_bytes(part)));
        } else {
            self.bytes.by_huge_pages(0..self.bytes.len());
        }
        match residency {
            Residency::Mapped | Residency::Heap => Ok(()),
            Residency::Warm => self.warm(parts.iter().map(in_bytes)),
            Residency::Pinned => self.pin(vfs, &parts),
        }
    }

    /// Has the system read parts of the map into memory.
    fn warm(&mut self, parts: impl Iterator<Item = Range<usize>>) -> Result<()> {
        for part in parts {
            match self.bytes.populate(part.clone()) {
                Ok(()) => self.warmed += part.len() as u64,
                // What is not there will be when it is touched, if there is room then.
                Err(error) if error.kind() == io::ErrorKind::OutOfMemory => break,
                Err(error) => return Err(Error::io("read ahead", self.path(), error)),
            }
        }
        Ok(())
    }

    /// Copies blocks into memory of the process. They are read, not touched: the map has none of them then.
    fn pin(&mut self, vfs: &dyn Vfs, parts: &[Range<u64>]) -> Result<()> {
        let file = vfs.open(self.path(), OpenMode::Read)?;
        for part in parts {
            let (start, end) = (part.start * BLOCK, part.end * BLOCK);
            let bytes = FileBytes::heap(self.path(), (end - start) as usize, |out| {
                read_exact_at(&*file, self.path(), out, start)
            })?;
            for (block, bytes) in part.clone().zip(bytes.chunks_exact(BLOCK as usize)) {
                self.check(block, bytes, false)?;
            }
            self.pins.push(Pin { start, end, bytes });
        }
        Ok(())
    }

    /// Where the bytes are, so many of them of vectors.
    pub(super) fn held(&self, vectors: u64) -> Held {
        let len = self.bytes.len() as u64;
        let (mapped, heap) = if self.bytes.is_mapped() { (len, 0) } else { (0, len) };
        let pinned = self.pins.iter().map(|pin| pin.end - pin.start).sum();
        let read = if self.cold().is_some() { vectors } else { 0 };
        Held { mapped, warmed: self.warmed, pinned, heap, read }
    }
}
