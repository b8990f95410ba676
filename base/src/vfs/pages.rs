//! Large pieces of memory: zero at first, aligned to cache lines, and in huge pages where the system has them.

use std::fmt;
use std::ops::{Deref, DerefMut};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// Bytes of a huge page of most processors.
pub(super) const HUGE: usize = 2 << 20;
/// Both kinds of memory begin at a multiple of this.
const ALIGN: usize = 64;

/// Bytes that are zero at first, aligned to 64. From 2 MiB on, they ask for huge pages: walks through a segment touch
/// another page with every step, and each small one has to be looked up.
pub struct Pages {
    memory: Memory,
    len: usize,
}

enum Memory {
    /// The operating system's.
    System(memmap2::MmapMut),
    Heap(Vec<Line>),
}

/// Sixty-four bytes that begin at a multiple of sixty-four.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C, align(64))]
struct Line([u8; ALIGN]);

impl Pages {
    /// `None` when there is not so much memory.
    pub fn zeroed(len: usize) -> Option<Pages> {
        if len >= HUGE
            && let Ok(pages) = memmap2::MmapMut::map_anon(len)
        {
            // Whether there are any is the system's to say.
            #[cfg(target_os = "linux")]
            let _ = pages.advise(memmap2::Advice::HugePage);
            return Some(Pages { memory: Memory::System(pages), len });
        }
        let mut lines = Vec::new();
        lines.try_reserve_exact(len.div_ceil(ALIGN)).ok()?;
        lines.resize(len.div_ceil(ALIGN), Line::new_zeroed());
        Some(Pages { memory: Memory::Heap(lines), len })
    }
}

impl Default for Pages {
    fn default() -> Pages {
        Pages { memory: Memory::Heap(Vec::new()), len: 0 }
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::System(pages) => &pages[..self.len],
            Memory::Heap(lines) => &lines.as_bytes()[..self.len],
        }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::System(pages) => &mut pages[..self.len],
            Memory::Heap(lines) => &mut lines.as_mut_bytes()[..self.len],
        }
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pages({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_zero_aligned_and_as_long_as_they_were_asked_for() {
        for len in [0, 1, 70, HUGE - 1, HUGE + 5] {
            let mut pages = Pages::zeroed(len).unwrap();
            assert!(pages.len() == len && pages.iter().all(|&b| b == 0));
            assert_eq!(pages.as_ptr() as usize % ALIGN, 0);
            pages.fill(1);
            assert!(pages.iter().all(|&b| b == 1));
        }
        assert!(Pages::zeroed(isize::MAX as usize - HUGE).is_none());
    }
}
