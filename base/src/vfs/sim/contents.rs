//! A file's bytes as pages that images share until one of them writes.

use crate::random::SplitMix64;
use std::sync::Arc;

const PAGE: usize = 4096;
/// A disk writes so many bytes whole or not at all.
pub(super) const SECTOR: u64 = 512;

#[derive(Clone, Default)]
pub(super) struct Contents {
    pages: Vec<Arc<[u8; PAGE]>>,
    pub(super) len: usize,
}

impl Contents {
    pub(super) fn pages(&self) -> impl Iterator<Item = &[u8]> {
        self.pages.iter().map(|page| &page[..])
    }

    pub(super) fn read(&self, out: &mut [u8], offset: usize) -> usize {
        let count = out.len().min(self.len.saturating_sub(offset));
        let mut done = 0;
        while done < count {
            let at = offset + done;
            let (page, within) = (at / PAGE, at % PAGE);
            let piece = (PAGE - within).min(count - done);
            out[done..done + piece].copy_from_slice(&self.pages[page][within..within + piece]);
            done += piece;
        }
        count
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if end > self.len {
            self.set_len(end);
        }
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done;
            let (page, within) = (at / PAGE, at % PAGE);
            let piece = (PAGE - within).min(bytes.len() - done);
            Arc::make_mut(&mut self.pages[page])[within..within + piece]
                .copy_from_slice(&bytes[done..done + piece]);
            done += piece;
        }
    }

    pub(super) fn set_len(&mut self, len: usize) {
        if len < self.len {
            self.pages.truncate(len.div_ceil(PAGE));
            if let Some(last) = self.pages.last_mut()
                && !len.is_multiple_of(PAGE)
            {
                Arc::make_mut(last)[len % PAGE..].fill(0);
            }
        } else {
            let zeros = Arc::new([0; PAGE]);
            self.pages.resize(len.div_ceil(PAGE), zeros);
        }
        self.len = len;
    }
}

/// Each sector of the write arrives or not: a prefix, a suffix, or any choice.
pub(super) fn write_torn(contents: &mut Contents, bytes: &[u8], offset: usize, rng: &mut SplitMix64) {
    let first = offset as u64 / SECTOR;
    let last = (offset + bytes.len()).saturating_sub(1) as u64 / SECTOR;
    let (kind, cut) = (rng.below(3), first + rng.below(last - first + 1));
    for sector in first..=last {
        let keep = match kind {
            0 => sector < cut,
            1 => sector >= cut,
            _ => rng.below(2) == 0,
        };
        if keep {
            let begin = ((sector * SECTOR) as usize).max(offset);
            let end = (((sector + 1) * SECTOR) as usize).min(offset + bytes.len());
            contents.write(&bytes[begin - offset..end - offset], begin);
        }
    }
}
