//! The bytes of an open segment, checked at first touch.
//!
//! A bit per block says that its checksum was found right. Whoever wants bytes goes through [`Blocks::get`] or
//! [`Blocks::touch`]: blocks without a bit are checked first, and so is the page of checksums that a block's own one
//! comes from. When every block has its bit, one flag says so, and a touch is a single relaxed load.
//!
//! Blocks that are read instead of being touched ([`super::cold`]) are checked where they were read to.
//!
//! Relaxed is enough: the bytes never change, so a bit publishes nothing; two threads may check one block twice.

use super::cold::Cold;
use super::format::{BLOCK, CRCS_PER_PAGE, Footer, check_block};
use nearstone_base::codec::Reader;
use nearstone_base::faults::seeded;
use nearstone_base::sync::{AtomicBool, AtomicU64, Ordering};
use nearstone_base::vfs::FileBytes;
use nearstone_base::{Error, Result, Uuid};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(crate) struct Blocks {
    pub(super) bytes: FileBytes,
    /// Parts that are held in memory of their own, checked.
    pub(super) pins: Vec<Pin>,
    /// Bytes of the map that were read ahead.
    pub(super) warmed: u64,
    cold: Option<Cold>,
    path: PathBuf,
    uuid: Uuid,
    blocks: u64,
    /// The checksum of each page of checksums, from the footer.
    pages: Vec<u32>,
    block_bits: Bits,
    page_bits: Bits,
    verified: AtomicU64,
    all: AtomicBool,
}

/// Whole blocks of a file, copied.
#[derive(Debug)]
pub(super) struct Pin {
    /// In the file.
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) bytes: FileBytes,
}

/// A bitmap that only fills.
#[derive(Debug)]
struct Bits(Vec<AtomicU64>);

impl Bits {
    fn new(count: u64) -> Bits {
        Bits((0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    #[inline]
    fn get(&self, at: u64) -> bool {
        self.0.get((at / 64) as usize).is_some_and(|word| word.load(Ordering::Relaxed) >> (at % 64) & 1 == 1)
    }

    /// The 64 bits among which one is; 0 beyond the end.
    #[inline(always)]
    fn word(&self, at: u64) -> u64 {
        self.0.get((at / 64) as usize).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Whether it was clear before.
    fn set(&self, at: u64) -> bool {
        let bit = 1 << (at % 64);
        self.0.get((at / 64) as usize).is_some_and(|word| word.fetch_or(bit, Ordering::Relaxed) & bit == 0)
    }
}

impl Blocks {
    /// `footer` was checked against the length of `bytes`.
    pub(crate) fn new(path: &Path, bytes: FileBytes, cold: Option<Cold>, footer: &Footer) -> Blocks {
        Blocks {
            bytes,
            pins: Vec::new(),
            warmed: 0,
            cold,
            path: path.into(),
            uuid: footer.uuid,
            blocks: footer.blocks,
            pages: footer.pages.clone(),
            block_bits: Bits::new(footer.blocks),
            page_bits: Bits::new(footer.pages.len() as u64),
            verified: AtomicU64::new(0),
            all: AtomicBool::new(false),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Checked blocks in all.
    pub(crate) fn count(&self) -> u64 {
        self.blocks
    }

    /// How many blocks were checked so far.
    pub(crate) fn verified(&self) -> u64 {
        self.verified.load(Ordering::Relaxed)
    }

    /// The part that is read, if there is one.
    pub(super) fn cold(&self) -> Option<&Cold> {
        self.cold.as_ref()
    }

    /// Reads whole blocks of that part, and what it shares with its neighbours, from the one numbered `first` on; checked.
    pub(super) fn read(&self, first: u64, out: &mut [u8]) -> Result<()> {
        let Some(cold) = &self.cold else { return Err(self.beyond(first * BLOCK, out.len() as u64)) };
        cold.read(&self.path, first, out)?;
        if self.all.load(Ordering::Relaxed) {
            return Ok(());
        }
        for (block, bytes) in (first..).zip(out.chunks_exact(BLOCK as usize)) {
            if !self.block_bits.get(block) {
                self.check(block, bytes, false)?;
            }
        }
        Ok(())
    }

    /// All bytes, unchecked: for slices that are touched piece by piece.
    #[inline]
    pub(crate) fn unchecked(&self, offset: u64, len: u64) -> Option<&[u8]> {
        let end = offset.checked_add(len)?;
        for pin in &self.pins {
            if pin.start <= offset && end <= pin.end {
                return pin.bytes.get((offset - pin.start) as usize..(end - pin.start) as usize);
            }
        }
        self.bytes.get(usize::try_from(offset).ok()?..usize::try_from(end).ok()?)
    }

    /// Makes sure that the blocks under `offset..offset + len` were checked.
    #[inline]
    pub(crate) fn touch(&self, offset: u64, len: u64) -> Result<()> {
        if self.all.load(Ordering::Relaxed) { Ok(()) } else { self.touch_each(offset, len) }
    }

    /// The bytes at a place, checked.
    #[inline]
    pub(crate) fn get(&self, offset: u64, len: u64) -> Result<&[u8]> {
        self.touch(offset, len)?;
        self.unchecked(offset, len).ok_or_else(|| self.beyond(offset, len))
    }

    /// As [`Blocks::touch`], for places of which most were touched before and which lie in two blocks or so: whoever reads
    /// thousands of them.
    #[inline(always)]
    pub(crate) fn touch_again(&self, offset: u64, len: u64) -> Result<()> {
        let (first, last) = (offset / BLOCK, offset.saturating_add(len.saturating_sub(1)) / BLOCK);
        let wanted = u64::MAX >> (63 - (last - first) % 64) << (first % 64);
        // More than one word is looked at by `touch`, which also refuses what lies beyond the end.
        if first / 64 == last / 64 && self.block_bits.word(first) & wanted == wanted {
            Ok(())
        } else {
            self.touch(offset, len)
        }
    }

    #[inline]
    fn touch_each(&self, offset: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let last = offset.checked_add(len - 1).ok_or_else(|| self.beyond(offset, len))? / BLOCK;
        if last >= self.blocks {
            return Err(self.beyond(offset, len));
        }
        for block in offset / BLOCK..=last {
            if !self.block_bits.get(block) {
                self.check(block, &self.block_bytes(block)?, false)?;
            }
        }
        Ok(())
    }

    /// Checks one block of the file again, also when it was found right before, and what is held of it in memory.
    pub(crate) fn recheck(&self, block: u64) -> Result<()> {
        let held = self.block_bytes(block)?;
        self.check(block, &held, true)?;
        let offset = block * BLOCK;
        if self.pins.iter().any(|pin| (pin.start..pin.end).contains(&offset)) {
            let file = self.bytes.get(offset as usize..(offset + BLOCK) as usize);
            self.check(block, file.ok_or_else(|| self.beyond(offset, BLOCK))?, true)?;
        }
        Ok(())
    }

    #[cold]
    pub(super) fn check(&self, block: u64, bytes: &[u8], again: bool) -> Result<()> {
        let page = block / CRCS_PER_PAGE;
        let page_bytes = self.mapped_block(self.blocks + page)?;
        let first_of_page = again && block.is_multiple_of(CRCS_PER_PAGE);
        if first_of_page || !self.page_bits.get(page) {
            let expected = self.pages.get(page as usize).copied().unwrap_or(0);
            check_block(&self.path, self.uuid, self.blocks + page, page_bytes, expected)?;
            self.page_bits.set(page);
        }
        let at = (block % CRCS_PER_PAGE * 4) as usize;
        let expected = page_bytes.get(at..).and_then(|bytes| Reader::new(bytes).u32()).unwrap_or(0);
        if !seeded("block-not-checked") {
            check_block(&self.path, self.uuid, block, bytes, expected)?;
        }
        if self.block_bits.set(block) && self.verified.fetch_add(1, Ordering::Relaxed) + 1 == self.blocks {
            self.all.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A block, without making it resident if it is cold.
    fn block_bytes(&self, block: u64) -> Result<Cow<'_, [u8]>> {
        match self.cold.as_ref().filter(|cold| cold.holds(block)) {
            Some(cold) => {
                let mut bytes = vec![0; BLOCK as usize];
                cold.read(&self.path, block, &mut bytes)?;
                Ok(Cow::Owned(bytes))
            }
            None => self.mapped_block(block).map(Cow::Borrowed),
        }
    }

    fn mapped_block(&self, block: u64) -> Result<&[u8]> {
        let offset = block.saturating_mul(BLOCK);
        self.unchecked(offset, BLOCK).ok_or_else(|| self.beyond(offset, BLOCK))
    }

    #[cold]
    fn beyond(&self, offset: u64, len: u64) -> Error {
        let found = format!("{} checked blocks", self.blocks);
        Error::corruption(&self.path, offset, format!("{len} bytes"), found)
    }
}
