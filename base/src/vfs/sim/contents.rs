//! A file's bytes as pages that images share until one of them writes. A page knows its digest once it was asked for
//! it: thousands of images differ in a page or two.

use crate::checksum::hash128;
use crate::random::SplitMix64;
use std::sync::{Arc, OnceLock};

const PAGE: usize = 4096;
/// A disk writes so many bytes whole or not at all.
pub(super) const SECTOR: u64 = 512;

#[derive(Clone, Default)]
pub(super) struct Contents {
    pages: Arc<Vec<Arc<Page>>>,
    pub(super) len: usize,
}

#[derive(Clone)]
struct Page {
    bytes: [u8; PAGE],
    digest: OnceLock<u128>,
}

impl Page {
    /// The bytes, to be changed: of a page that images share, a copy.
    fn change(page: &mut Arc<Page>) -> &mut [u8; PAGE] {
        let page = Arc::make_mut(page);
        page.digest.take();
        &mut page.bytes
    }
}

impl Contents {
    /// Of the bytes, however they came about.
    pub(super) fn digest(&self) -> u128 {
        let mut text = self.len.to_le_bytes().to_vec();
        for page in self.pages.iter() {
            text.extend_from_slice(&page.digest.get_or_init(|| hash128(&page.bytes)).to_le_bytes());
        }
        hash128(&text)
    }

    pub(super) fn read(&self, out: &mut [u8], offset: usize) -> usize {
        let count = out.len().min(self.len.saturating_sub(offset));
        let mut done = 0;
        while done < count {
            let at = offset + done;
            let (page, within) = (at / PAGE, at % PAGE);
            let piece = (PAGE - within).min(count - done);
            out[done..done + piece].copy_from_slice(&self.pages[page].bytes[within..within + piece]);
            done += piece;
        }
        count
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if end > self.len {
            self.set_len(end);
        }
        let pages = Arc::make_mut(&mut self.pages);
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done;
            let (page, within) = (at / PAGE, at % PAGE);
            let piece = (PAGE - within).min(bytes.len() - done);
            Page::change(&mut pages[page])[within..within + piece]
                .copy_from_slice(&bytes[done..done + piece]);
            done += piece;
        }
    }

    pub(super) fn set_len(&mut self, len: usize) {
        let pages = Arc::make_mut(&mut self.pages);
        if len < self.len {
            pages.truncate(len.div_ceil(PAGE));
            if let Some(last) = pages.last_mut()
                && !len.is_multiple_of(PAGE)
            {
                Page::change(last)[len % PAGE..].fill(0);
            }
        } else {
            static ZEROS: OnceLock<Arc<Page>> = OnceLock::new();
            let zeros = ZEROS.get_or_init(|| Arc::new(Page { bytes: [0; PAGE], digest: OnceLock::new() }));
            pages.resize(len.div_ceil(PAGE), zeros.clone());
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
