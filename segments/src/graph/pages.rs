//! Fixed-size pages found through directories whose sizes double: storage for the nodes and links of a growing graph.
//! Nothing ever moves, so it is read without a lock; room is made in pages, so a small graph stays small.

use nearstone_base::sync::{AtomicU32, CHECKED, OnceLock, Ordering};

/// Rows per page.
const PAGE_ROWS: usize = if CHECKED { 4 } else { 256 };
/// Pages in the first directory; directory `d` has `FIRST_PAGES << d`.
const FIRST_PAGES: usize = if CHECKED { 2 } else { 8 };
/// Enough directories for every `u32` ordinal; for a few hundred under a checker.
const DIRECTORIES: usize = if CHECKED { 5 } else { 22 };

const _: () =
    assert!(CHECKED || ((FIRST_PAGES << DIRECTORIES) - FIRST_PAGES) * PAGE_ROWS > u32::MAX as usize);

type Page<T> = OnceLock<Box<[T]>>;

/// Rows of `width` values, all of them made when room for them is made.
#[derive(Debug)]
pub(super) struct Pages<T> {
    width: usize,
    rows: AtomicU32,
    directories: [OnceLock<Box<[Page<T>]>>; DIRECTORIES],
}

impl<T: Default> Pages<T> {
    pub(super) fn new(width: usize) -> Pages<T> {
        Pages { width, rows: AtomicU32::new(0), directories: std::array::from_fn(|_| OnceLock::new()) }
    }

    /// Makes room for rows below `rows`. Any number of threads may.
    pub(super) fn ensure(&self, rows: u32) {
        let have = self.rows.load(Ordering::Acquire);
        if have >= rows {
            return;
        }
        let first = have as usize / PAGE_ROWS;
        for page in first..(rows as usize).div_ceil(PAGE_ROWS) {
            let (directory, index) = place(page);
            let pages = self.directories[directory]
                .get_or_init(|| (0..FIRST_PAGES << directory).map(|_| Page::new()).collect());
            pages[index].get_or_init(|| (0..PAGE_ROWS * self.width).map(|_| T::default()).collect());
        }
        let room = (rows as usize).next_multiple_of(PAGE_ROWS).min(u32::MAX as usize);
        self.rows.fetch_max(room as u32, Ordering::AcqRel);
    }

    /// The values of a row; `None` when no room was made for it.
    pub(super) fn row(&self, row: u32) -> Option<&[T]> {
        let row = row as usize;
        let (directory, index) = place(row / PAGE_ROWS);
        let page = self.directories[directory].get()?[index].get()?;
        let start = row % PAGE_ROWS * self.width;
        Some(&page[start..start + self.width])
    }

    /// Bytes of memory held beside the value itself.
    pub(super) fn bytes(&self) -> u64 {
        let directories = (0..DIRECTORIES).filter(|&d| self.directories[d].get().is_some());
        let directories: usize = directories.map(|d| (FIRST_PAGES << d) * size_of::<Page<T>>()).sum();
        (directories + self.rows.load(Ordering::Acquire) as usize * self.width * size_of::<T>()) as u64
    }
}

/// Directory and place there of a page. Directory `d` begins at page `FIRST_PAGES * (2^d - 1)`.
fn place(page: usize) -> (usize, usize) {
    let directory = (page / FIRST_PAGES + 1).ilog2() as usize;
    (directory, page - ((FIRST_PAGES << directory) - FIRST_PAGES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_below_the_room_has_a_place_of_its_own() {
        let pages = Pages::<AtomicU32>::new(3);
        assert!(pages.row(0).is_none());
        pages.ensure(10_000);
        for row in 0..10_000 {
            for value in pages.row(row).unwrap() {
                assert_eq!(value.swap(row + 1, Ordering::Relaxed), 0);
            }
        }
        let address = pages.row(17).unwrap().as_ptr();
        pages.ensure(200_000);
        assert_eq!(pages.row(17).unwrap().as_ptr(), address);
        assert_eq!(pages.row(9_999).unwrap()[2].load(Ordering::Relaxed), 10_000);
        assert!(pages.row(199_999).is_some() && pages.row(u32::MAX).is_none());
        assert!(pages.bytes() >= 200_000 * 12);
    }
}
