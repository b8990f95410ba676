//! The bytes of a published file: mapped, or read into aligned memory.

use super::pages::{HUGE, Pages};
use crate::error::{Error, Result};
use std::fmt;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;
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

/// Bytes of the smallest page of any processor.
const PAGE: usize = 4096;

impl FileBytes {
    /// Room for `len` bytes of the file of that name in memory ([`Pages`]), filled by `fill`.
    ///
    /// # Errors
    /// What `fill` gives; `Io` when there is not so much memory.
    pub fn heap(path: &Path, len: usize, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<FileBytes> {
        let none = || Error::io("hold in memory", path, io::ErrorKind::OutOfMemory.into());
        let mut pages = Pages::zeroed(len).ok_or_else(none)?;
        fill(&mut pages)?;
        Ok(FileBytes { kind: Kind::Heap(Arc::new(pages)), len })
    }

    /// Maps a whole file.
    #[expect(unsafe_code, reason = "the one place where a file is mapped")]
    pub(super) fn map(file: &std::fs::File, len: usize) -> io::Result<FileBytes> {
        if len == 0 {
            return Ok(FileBytes { kind: Kind::Heap(Arc::new(Pages::default())), len });
        }
        // SAFETY: a map is sound as long as nobody changes or cuts the file. Only files that were published by
        // rename are mapped; Nearstone never writes, cuts or recycles such a file, it only unlinks it, and the store's
        // lock keeps other Nearstone processes out. A foreign program that rewrites files inside a store breaks the
        // contract that the documentation states (the heap residency is for those who can't promise it).
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(file)? };
        Ok(FileBytes { kind: Kind::Map(Arc::new(map)), len })
    }

    /// Asks for huge pages for a part of a map, from 2 MiB on, as for memory. What is read from the disk for the first time
    /// is then read in pieces of that size, and what lies beside a touched place becomes resident with it.
    pub fn by_huge_pages(&self, part: Range<usize>) {
        #[cfg(target_os = "linux")]
        if let Kind::Map(map) = &self.kind
            && part.len() >= HUGE
            && part.end <= self.len
        {
            let _ = map.advise_range(memmap2::Advice::HugePage, part.start, part.len());
        }
        #[cfg(not(target_os = "linux"))]
        let _ = part;
    }

    /// Reads a part of a map into memory, as if every page of it had been touched. Memory of its own is there already.
    ///
    /// # Errors
    /// `OutOfMemory`, and what reading the file gives. Where the system can't be asked for it, each page is touched, and
    /// a disk that fails then ends the process as it always does under a map.
    pub fn populate(&self, part: Range<usize>) -> io::Result<()> {
        let Kind::Map(map) = &self.kind else { return Ok(()) };
        let Some(bytes) = map.get(part.clone()).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        #[cfg(target_os = "linux")]
        match map.advise_range(memmap2::Advice::PopulateRead, part.start, part.len()) {
            // Linux before 5.14 does not know it.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            other => return other,
        }
        for at in (0..bytes.len()).step_by(PAGE).chain([bytes.len() - 1]) {
            std::hint::black_box(bytes[at]);
        }
        Ok(())
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
    use crate::error::ErrorKind;

    #[test]
    fn heap_bytes_are_aligned_and_exact() {
        let path = Path::new("a.seg");
        for len in [0, 1, 70, HUGE - 1, HUGE + 5] {
            let bytes = FileBytes::heap(path, len, |out| {
                assert_eq!(out.len(), len);
                out.fill(7);
                Ok(())
            })
            .unwrap();
            assert_eq!(bytes.len(), len);
            assert!(!bytes.is_mapped());
            assert_eq!(bytes.as_ptr() as usize % 64, 0);
            assert!(bytes.iter().all(|&b| b == 7));
        }
        let failed = |_: &mut [u8]| Err(Error::invalid("no"));
        assert_eq!(FileBytes::heap(path, HUGE, failed).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn more_memory_than_there_is_is_an_error_that_names_the_file() {
        let error = FileBytes::heap(Path::new("a.seg"), usize::MAX / 2, |_| Ok(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("a.seg"), "{error}");
    }

    #[test]
    fn a_part_of_a_map_is_populated_and_parts_that_are_not_there_are_none() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &vec![3; HUGE + 100]).unwrap();
        let bytes = FileBytes::map(&file, HUGE + 100).unwrap();
        for part in
            [0..HUGE + 100, 4_000..9_000, HUGE..HUGE + 100, 5..5, 0..HUGE + 101, usize::MAX..usize::MAX]
        {
            bytes.by_huge_pages(part.clone());
            bytes.populate(part).unwrap();
        }
        assert!(bytes.is_mapped() && bytes.iter().all(|&b| b == 3));
        let none = FileBytes::map(&file, 0).unwrap();
        none.populate(0..0).unwrap();
        assert!(none.is_empty());
    }
}
