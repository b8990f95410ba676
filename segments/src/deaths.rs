//! When rows died. A death is the lsn of the batch that deleted or replaced the row; zero means alive.
//!
//! Deaths come rarely at first and in any order, and every search asks for them, so: no memory for a segment in which
//! nothing died, and one load answers for it; otherwise pages of 1,024 rows, each allocated at its first death and
//! found through directories whose sizes double (so that the index of a small segment is small, and none ever moves).
//!
//! What must hold: a row dies once, and a death never changes. A reader at a snapshot sees every death up to the
//! snapshot's lsn because the writer sets deaths before it publishes that lsn; of later ones it may see any part,
//! and [`Deaths::is_dead_at`] ignores them.

use nearstone_base::Lsn;
use nearstone_base::faults::seeded;
use nearstone_base::sync::{AtomicU32, AtomicU64, CHECKED, OnceLock, Ordering};
use roaring::RoaringBitmap;

/// Rows per page.
const PAGE_ROWS: usize = if CHECKED { 4 } else { 1024 };
/// Pages in the first directory; directory `d` has `FIRST_PAGES << d`.
const FIRST_PAGES: usize = if CHECKED { 2 } else { 8 };
/// Enough directories for every `u32` ordinal; for a few hundred under a checker.
const DIRECTORIES: usize = if CHECKED { 5 } else { 20 };

const _: () =
    assert!(CHECKED || ((FIRST_PAGES << DIRECTORIES) - FIRST_PAGES) * PAGE_ROWS > u32::MAX as usize);

type Page = OnceLock<Box<[AtomicU64; PAGE_ROWS]>>;

/// The death of every row of a segment.
#[derive(Default, Debug)]
pub struct Deaths {
    count: AtomicU32,
    pages: AtomicU32,
    directories: [OnceLock<Box<[Page]>>; DIRECTORIES],
}

impl Deaths {
    /// All rows are alive.
    pub fn new() -> Deaths {
        Deaths::default()
    }

    /// Records that a row died at `lsn`, which is not zero. `false`, and nothing changes, when it was dead already.
    pub fn set(&self, ordinal: u32, lsn: Lsn) -> bool {
        assert!(lsn != 0, "row {ordinal} can't die at lsn 0, which stands for being alive");
        let (directory, page, row) = place(ordinal);
        let pages = self.directories[directory]
            .get_or_init(|| (0..FIRST_PAGES << directory).map(|_| Page::new()).collect());
        let page = pages[page].get_or_init(|| {
            self.pages.fetch_add(1, Ordering::Relaxed);
            Box::new(std::array::from_fn(|_| AtomicU64::new(0)))
        });
        let set = page[row].compare_exchange(0, lsn, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if set {
            self.count.fetch_add(1, Ordering::Release);
        }
        set
    }

    /// The lsn at which a row died, or 0.
    pub fn get(&self, ordinal: u32) -> Lsn {
        if self.count() == 0 {
            return 0;
        }
        let (directory, page, row) = place(ordinal);
        self.directories[directory]
            .get()
            .and_then(|pages| pages[page].get())
            .map_or(0, |page| page[row].load(Ordering::Acquire))
    }

    /// Whether the row is dead in the eyes of a snapshot at `at`: its death is not later.
    pub fn is_dead_at(&self, ordinal: u32, at: Lsn) -> bool {
        let death = self.get(ordinal);
        death != 0 && (death <= at || seeded("snapshots-see-later-deaths"))
    }

    /// How many rows died, at any lsn.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// Bytes of memory held beside the value itself.
    pub fn bytes(&self) -> u64 {
        let directories = (0..DIRECTORIES).filter(|&d| self.directories[d].get().is_some());
        let directories: usize = directories.map(|d| (FIRST_PAGES << d) * size_of::<Page>()).sum();
        let pages = self.pages.load(Ordering::Relaxed) as usize * PAGE_ROWS * size_of::<Lsn>();
        (directories + pages) as u64
    }

    /// The rows that are dead in the eyes of a snapshot at `at`.
    pub fn dead_at(&self, at: Lsn) -> RoaringBitmap {
        let mut dead = RoaringBitmap::new();
        for (ordinal, lsn) in self.iter() {
            if lsn <= at {
                dead.insert(ordinal);
            }
        }
        dead
    }

    /// Dead rows and their deaths, by ordinal. Deaths set meanwhile may or may not be seen.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Lsn)> + '_ {
        self.directories.iter().enumerate().flat_map(|(directory, pages)| {
            let first = ((FIRST_PAGES << directory) - FIRST_PAGES) * PAGE_ROWS;
            let pages = pages.get().map_or(&[][..], |pages| &pages[..]);
            pages.iter().enumerate().flat_map(move |(index, page)| {
                let first = first + index * PAGE_ROWS;
                let rows = page.get().map_or(&[][..], |page| &page[..]);
                rows.iter().enumerate().filter_map(move |(row, death)| {
                    let death = death.load(Ordering::Acquire);
                    (death != 0).then_some(((first + row) as u32, death))
                })
            })
        })
    }
}

/// Directory, page in it and row in that of an ordinal. Directory `d` begins at page `FIRST_PAGES * (2^d - 1)`.
fn place(ordinal: u32) -> (usize, usize, usize) {
    let (page, row) = (ordinal as usize / PAGE_ROWS, ordinal as usize % PAGE_ROWS);
    let directory = (page / FIRST_PAGES + 1).ilog2() as usize;
    (directory, page - ((FIRST_PAGES << directory) - FIRST_PAGES), row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_row_dies_once_and_at_its_lsn() {
        let deaths = Deaths::new();
        assert_eq!((deaths.count(), deaths.bytes(), deaths.get(5)), (0, 0, 0));
        assert!(deaths.set(5, 10));
        assert!(!deaths.set(5, 11));
        assert_eq!((deaths.get(5), deaths.get(4), deaths.count()), (10, 0, 1));
        assert!(!deaths.is_dead_at(5, 9) && deaths.is_dead_at(5, 10) && deaths.is_dead_at(5, 11));
        assert!(!deaths.is_dead_at(6, 11));
        assert!(deaths.bytes() < 10_000, "one death holds {} bytes", deaths.bytes());
    }

    #[test]
    #[should_panic(expected = "lsn 0")]
    fn lsn_zero_is_no_death() {
        Deaths::new().set(1, 0);
    }

    #[test]
    fn one_of_many_threads_wins_each_row() {
        let deaths = Deaths::new();
        let won: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> = (1..=4u64)
                .map(|lsn| {
                    let deaths = &deaths;
                    scope.spawn(move || (0..5_000).filter(|&row| deaths.set(row * 3, lsn)).count() as u32)
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!((won, deaths.count(), deaths.iter().count()), (5_000, 5_000, 5_000));
    }

    proptest! {
        #[test]
        fn deaths_are_a_map(
            sets in prop::collection::vec((prop_oneof![0u32..3_000, any::<u32>()], 1u64..50), 0..60), at in 0u64..50,
        ) {
            let deaths = Deaths::new();
            let mut model = BTreeMap::new();
            for (ordinal, lsn) in sets {
                // Directories grow with the ordinal: keep their memory bounded in a test.
                let ordinal = ordinal % 20_000_000;
                prop_assert_eq!(deaths.set(ordinal, lsn), !model.contains_key(&ordinal));
                model.entry(ordinal).or_insert(lsn);
            }
            prop_assert_eq!(deaths.iter().collect::<Vec<_>>(), model.clone().into_iter().collect::<Vec<_>>());
            prop_assert_eq!(deaths.count() as usize, model.len());
            for (&ordinal, &lsn) in &model {
                prop_assert_eq!(deaths.is_dead_at(ordinal, at), lsn <= at);
            }
            let dead: Vec<u32> = model.iter().filter(|&(_, &lsn)| lsn <= at).map(|(&o, _)| o).collect();
            prop_assert_eq!(deaths.dead_at(at).iter().collect::<Vec<_>>(), dead);
        }

        #[test]
        fn places_are_dense_and_distinct(ordinal in 0u32..u32::MAX) {
            let (directory, page, row) = place(ordinal);
            prop_assert!(directory < DIRECTORIES && page < FIRST_PAGES << directory && row < PAGE_ROWS);
            let first = (FIRST_PAGES << directory) - FIRST_PAGES;
            prop_assert_eq!((first + page) * PAGE_ROWS + row, ordinal as usize);
        }
    }
}
