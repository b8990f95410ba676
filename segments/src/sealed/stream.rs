//! The file of a segment while it is written: sections one after another, and what is known of them when they end.
//!
//! 1. Bytes go out through a buffer of 2 MiB, whose blocks are checksummed on the way.
//! 2. At the end, the header replaces the first block, the table of checksums and the footer follow the last one, and all
//!    of it is synced.

use super::format::{self, ALIGN, BLOCK, CRCS_PER_PAGE, Footer, Header, Section, seed_of};
use nearstone_base::checksum::{crc32, hash128};
use nearstone_base::faults::{failpoint, seeded};
use nearstone_base::vfs::VfsFile;
use nearstone_base::{Error, ErrorKind, Result, Uuid};
use std::sync::Arc;
use zerocopy::IntoBytes;

/// As large as a huge page: file systems that keep what is written in pieces of its size let whole pieces be mapped.
const BUFFER: usize = 2 << 20;

/// Asks whether to go on.
pub(super) fn step(cancel: &dyn Fn() -> bool) -> Result<()> {
    if cancel() {
        return Err(Error::new(ErrorKind::Cancelled, "writing the segment was cancelled"));
    }
    Ok(())
}

/// A file that grows at its end.
pub(super) struct Stream<'a> {
    file: Arc<dyn VfsFile>,
    uuid: Uuid,
    pub(super) cancel: &'a dyn Fn() -> bool,
    buffer: Vec<u8>,
    /// Bytes before the buffer: a multiple of a block.
    flushed: u64,
    crcs: Vec<u32>,
    sections: Vec<Section>,
}

impl<'a> Stream<'a> {
    pub(super) fn new(file: Arc<dyn VfsFile>, uuid: Uuid, cancel: &'a dyn Fn() -> bool) -> Stream<'a> {
        let buffer = Vec::with_capacity(BUFFER);
        Stream { file, uuid, cancel, buffer, flushed: 0, crcs: Vec::new(), sections: Vec::new() }
    }

    fn position(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    pub(super) fn bytes(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BUFFER - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            if self.buffer.len() == BUFFER {
                self.flush()?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Writes the buffer, which ends at a block's end.
    fn flush(&mut self) -> Result<()> {
        debug_assert!(self.position().is_multiple_of(BLOCK) && self.flushed.is_multiple_of(BLOCK));
        step(self.cancel)?;
        let first = self.flushed / BLOCK;
        for (block, bytes) in (first..).zip(self.buffer.chunks_exact(BLOCK as usize)) {
            self.crcs.push(crc32(seed_of(self.uuid, block), bytes));
        }
        self.file.write_at(&self.buffer, self.flushed)?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Zeros up to the next multiple of `to`.
    fn align(&mut self, to: u64) -> Result<()> {
        let zeros = self.position().next_multiple_of(to) - self.position();
        self.bytes(&[0; BLOCK as usize][..zeros as usize])
    }

    /// One section, written by `write` as elements of `stride` bytes.
    pub(super) fn section(
        &mut self,
        id: u32,
        stride: u64,
        write: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        self.align(ALIGN)?;
        let offset = self.position();
        write(self)?;
        let len = self.position() - offset;
        assert!(len.is_multiple_of(stride), "{} ends inside an element", format::section_name(id));
        self.sections.push(Section { id, offset, len, count: len / stride, stride });
        Ok(())
    }

    /// Header, checksums, footer, sync. Returns the file's length and digest.
    pub(super) fn finish(mut self, header: &Header) -> Result<(u64, u128)> {
        self.align(BLOCK)?;
        self.flush()?;
        failpoint("segment-sections-written");
        let block = header.encode();
        self.file.write_at(&block, 0)?;
        self.crcs[0] = crc32(seed_of(self.uuid, 0), &block);

        let blocks = self.crcs.len() as u64;
        let mut pages = Vec::new();
        for (number, crcs) in (blocks..).zip(self.crcs.chunks(CRCS_PER_PAGE as usize)) {
            let mut page = crcs.as_bytes().to_vec();
            page.resize(BLOCK as usize, 0);
            pages.push(crc32(seed_of(self.uuid, number), &page));
            self.file.write_at(&page, number * BLOCK)?;
        }
        let footer_at = (blocks + pages.len() as u64) * BLOCK;
        let footer = Footer { uuid: self.uuid, blocks, sections: self.sections, pages }.encode();
        self.file.write_at(&footer, footer_at)?;
        failpoint("segment-footer-written");
        if !seeded("segment-not-synced") {
            self.file.sync_all()?;
        }
        failpoint("segment-synced");
        Ok((footer_at + footer.len() as u64, hash128(&footer)))
    }
}
