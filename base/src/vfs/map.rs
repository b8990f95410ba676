//! The bytes of a published file: mapped, or read into aligned memory.

use super::pages::{HUGE, Pages};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Immutable bytes, aligned to 64. Cloning shares them.
#[derive(Clone)]
pub struct FileBytes {
    kind: Kind,
    len: usize,
}

#[derive(Clone)]
enum Kind {
    Map(Arc<memmap2::Mmap>),
    Heap(Arc<Pages>),
}

impl FileBytes {
    /// Room for `len` bytes in memory ([`Pages`]), filled by `fill`.
    pub fn heap<E>(len: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<FileBytes, E> {
        let mut pages = Pages::zeroed(len).unwrap_or_else(|| Pages::missing(len));
        fill(&mut pages)?;
        Ok(FileBytes { kind: Kind::Heap(Arc::new(pages)), len })
    }

    /// Maps a whole file.
    #[expect(unsafe_code, reason = "the one place where a file is mapped")]
    pub(super) fn map(file: &std::fs::File, len: usize) -> std::io::Result<FileBytes> {
        if len == 0 {
            return FileBytes::heap(0, |_| Ok(()));
        }
        // SAFETY: a map is sound as long as nobody changes or cuts the file. Only files that were published by
        // rename are mapped; Nearstone never writes, cuts or recycles such a file, it only unlinks it, and the store's
        // lock keeps other Nearstone processes out. A foreign program that rewrites files inside a store breaks the
        // contract that the documentation states (the heap residency is for those who can't promise it).
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(file)? };
        // As for memory; what is read from the disk for the first time is then read in pieces of that size.
        #[cfg(target_os = "linux")]
        if len >= HUGE {
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(FileBytes { kind: Kind::Map(Arc::new(map)), len })
    }

    /// Whether the bytes are mapped rather than owned.
    pub fn is_mapped(&self) -> bool {
        matches!(self.kind, Kind::Map(_))
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.kind {
            Kind::Map(map) => &map[..self.len],
            Kind::Heap(pages) => pages,
        }
    }
}

impl fmt::Debug for FileBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_mapped() { "mapped" } else { "heap" };
        write!(f, "FileBytes({} bytes, {kind})", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heap_bytes_are_aligned_and_exact() {
        for len in [1, 70, HUGE - 1, HUGE + 5] {
            let bytes = FileBytes::heap(len, |out| {
                assert_eq!(out.len(), len);
                out.fill(7);
                Ok::<(), ()>(())
            })
            .unwrap();
            assert_eq!(bytes.len(), len);
            assert!(!bytes.is_mapped());
            assert_eq!(bytes.as_ptr() as usize % 64, 0);
            assert!(bytes.iter().all(|&b| b == 7));
        }
        assert_eq!(FileBytes::heap(HUGE, |_| Err::<(), u8>(3)).unwrap_err(), 3);
    }
}
