//! A graph that grows: inserts from many threads at once, walks without a lock meanwhile.
//!
//! A node's links on a level are a fixed list of atomics that ends at the first [`NO_LINK`]; ground lists lie in
//! pages beside each other, lists of the upper levels with their node. To insert a row (algorithm 1 of arXiv
//! 1603.09320):
//!
//! 1. descend greedily from the entry to the row's own level;
//! 2. on each level from there down, find `ef_construction` rows by a beam search and choose neighbours among them by
//!    the heuristic: up to `m`, on the ground up to `2 m`;
//! 3. write them as the row's links and add the row to theirs; a list that is full keeps what the heuristic chooses.
//!
//! What must hold: a list is written only under its node's lock, and no thread holds two locks of nodes. A reader may
//! see a list halfway through a rewrite: some neighbours twice, some not at all, but every one a row that was
//! inserted on that level. A row whose level is above all others holds the entry's lock for its whole insertion, so
//! the entry rises one row at a time and is published with its links in place.
//!
//! Rows are never removed: dead ones stay as stepping stones until the graph is flattened.

use super::pages::Pages;
use super::select::{select, sort_candidates};
use super::walk::{beam, descend};
use super::{FromRow, LEVEL_MAX, Links, NO_LINK, VectorSource};
use crate::segment::Accept;
use crate::topk::{Candidate, Scratch};
use nearstone_base::Result;
use nearstone_base::sync::{AtomicU8, AtomicU32, AtomicU64, CHECKED, Mutex, OnceLock, Ordering};
use nearstone_kernels::prefetch_at;

/// Links per cache line; few under a checker, which weighs each load.
const LINE: usize = if CHECKED { 4 } else { 16 };
/// The entry of an empty graph.
const NO_ENTRY: u64 = u64::MAX;

/// A growing graph.
#[derive(Debug)]
pub struct Graph {
    m: usize,
    ef_construction: usize,
    /// Level above ordinal, or [`NO_ENTRY`].
    entry: AtomicU64,
    /// Held while the entry rises.
    entry_lock: Mutex<()>,
    nodes: Pages<Node>,
    ground: Pages<Line>,
    /// Bytes of the upper lists.
    upper_bytes: AtomicU64,
}

/// What there is of a row beside its ground links.
#[derive(Default, Debug)]
struct Node {
    lock: Mutex<()>,
    level: AtomicU8,
    /// Lists of levels 1 to `level`, one after the other; unset on level 0.
    upper: OnceLock<Box<Box<[Line]>>>,
}

/// A cache line of links.
#[derive(Debug)]
#[repr(align(64))]
struct Line([AtomicU32; LINE]);

impl Default for Line {
    fn default() -> Line {
        Line(std::array::from_fn(|_| AtomicU32::new(NO_LINK)))
    }
}

/// Deterministic levels, exponentially rarer: level `l` or more with the probability `m^-l`, at most [`LEVEL_MAX`].
pub fn level_for(ordinal: u32, seed: u64, m: usize) -> usize {
    let hash = nearstone_base::random::SplitMix64::new(
        seed ^ u64::from(ordinal).wrapping_mul(0x9fb2_1c65_1e98_df25),
    )
    .next_u64();
    let mut level = 0;
    let mut bound = u64::MAX / m.max(2) as u64;
    while hash < bound && level < LEVEL_MAX {
        level += 1;
        bound /= m.max(2) as u64;
    }
    level
}

impl Graph {
    /// An empty graph with up to `m` links per row on upper levels, `2 m` on the ground, built with beams of
    /// `ef_construction`.
    pub fn new(m: usize, ef_construction: usize) -> Graph {
        assert!(m >= 2, "a graph with {m} links per row does not hold together");
        Graph {
            m,
            ef_construction: ef_construction.max(m),
            entry: AtomicU64::new(NO_ENTRY),
            entry_lock: Mutex::new(()),
            nodes: Pages::new(1),
            ground: Pages::new((2 * m).div_ceil(LINE)),
            upper_bytes: AtomicU64::new(0),
        }
    }

    /// Makes room for ordinals below `rows`; must precede their insertion. Any number of threads may call it.
    pub fn ensure_room(&self, rows: u32) {
        self.nodes.ensure(rows);
        self.ground.ensure(rows);
    }

    /// The beam it is built with.
    pub fn beam(&self) -> usize {
        self.ef_construction
    }

    /// Links per row on the upper levels; twice as many on the ground.
    pub fn m(&self) -> usize {
        self.m
    }

    /// Links a row may have on a level.
    pub fn degree(&self, level: usize) -> usize {
        if level == 0 { 2 * self.m } else { self.m }
    }

    /// The level of a row; 0 for rows that were not inserted.
    pub fn level(&self, ordinal: u32) -> usize {
        self.nodes.row(ordinal).map_or(0, |node| node[0].level.load(Ordering::Acquire).into())
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> u64 {
        self.nodes.bytes() + self.ground.bytes() + self.upper_bytes.load(Ordering::Relaxed)
    }

    /// Links a row on levels 0 to `level`. Each row is inserted once, by one thread; any number of threads may insert
    /// different rows at a time. After an error the row may be linked in part, which harms nothing but itself.
    ///
    /// Costs about `ef_construction` expansions of a walk and `2 m` reselections.
    pub fn insert<V: VectorSource + ?Sized>(
        &self,
        ordinal: u32,
        level: usize,
        vectors: &V,
        scratch: &mut Scratch,
    ) -> Result<()> {
        self.insert_from(0, ordinal, level, vectors, scratch)
    }

    /// As [`Graph::insert`], but leaves the ground level without links: for a row of level 1 or more in a graph whose
    /// rows are all inserted so.
    pub fn insert_above<V: VectorSource + ?Sized>(
        &self,
        ordinal: u32,
        level: usize,
        vectors: &V,
        scratch: &mut Scratch,
    ) -> Result<()> {
        assert!(level > 0, "row {ordinal} is on the ground alone");
        self.insert_from(1, ordinal, level, vectors, scratch)
    }

    fn insert_from<V: VectorSource + ?Sized>(
        &self,
        lowest: usize,
        ordinal: u32,
        level: usize,
        vectors: &V,
        scratch: &mut Scratch,
    ) -> Result<()> {
        assert!(level <= LEVEL_MAX, "level {level} of row {ordinal}: the highest is {LEVEL_MAX}");
        let Some([node]) = self.nodes.row(ordinal) else { panic!("no room was made for row {ordinal}") };
        if level > 0 {
            let lines = level * self.m.div_ceil(LINE);
            let lists = (0..lines).map(|_| Line::default()).collect();
            assert!(node.upper.set(Box::new(lists)).is_ok(), "row {ordinal} is inserted a second time");
            self.upper_bytes.fetch_add((lines * size_of::<Line>() + 16) as u64, Ordering::Relaxed);
        }
        node.level.store(level as u8, Ordering::Release);

        let raises = |entry: Option<(u32, usize)>| entry.is_none_or(|(_, top)| level > top);
        let mut entry = self.entry();
        let guard = raises(entry).then(|| self.entry_lock.lock());
        if guard.is_some() {
            // Another row may have raised the entry while this one waited.
            entry = self.entry();
        }
        if let Some((start, top)) = entry {
            self.link(ordinal, (lowest, level), start, top, vectors, scratch)?;
        }
        if guard.is_some() && raises(entry) {
            self.entry.store((level as u64) << 32 | u64::from(ordinal), Ordering::Release);
        }
        Ok(())
    }

    fn link<V: VectorSource + ?Sized>(
        &self,
        ordinal: u32,
        (lowest, level): (usize, usize),
        start: u32,
        top: usize,
        vectors: &V,
        scratch: &mut Scratch,
    ) -> Result<()> {
        debug_assert_ne!(ordinal, start, "a row is not linked from itself");
        let scorer = FromRow { vectors, row: ordinal };
        let start = descend(self, &scorer, start, top, level.min(top), NO_LINK, scratch)?;
        let mut starts = std::mem::take(&mut scratch.found);
        starts.clear();
        starts.push(start);
        for level in (lowest..=level.min(top)).rev() {
            let others = NotRow(ordinal);
            let mut found = std::mem::take(&mut scratch.candidates);
            found.clear();
            let ef = self.ef_construction;
            beam(self, &scorer, &others, level, &starts, NO_LINK, ef, scratch, &mut found)?;
            starts.clear();
            starts.extend_from_slice(&found);
            scratch.candidates = found;
            let mut selected = std::mem::take(&mut scratch.selected);
            sort_candidates(ordinal, &mut scratch.candidates);
            select(
                vectors,
                &scratch.candidates,
                self.degree(level),
                false,
                &mut selected,
                &mut scratch.pruned,
            )?;
            self.write_own(ordinal, level, &selected);
            for &neighbour in &selected {
                self.add_back(neighbour, level, ordinal, vectors, scratch)?;
            }
            scratch.selected = selected;
        }
        scratch.found = starts;
        Ok(())
    }

    /// Writes a new row's links, keeping as far as there is room those that rows inserted meanwhile have added.
    fn write_own(&self, ordinal: u32, level: usize, selected: &[Candidate]) {
        let node = &self.nodes.row(ordinal).expect("the row is being inserted")[0];
        let guard = node.lock.lock();
        let list = self.list(level, ordinal).expect("the row is being inserted on this level");
        let places = self.degree(level);
        let mut added = Vec::new();
        read(list, &mut added);
        added.retain(|&other| other != ordinal && selected.iter().all(|chosen| chosen.ordinal != other));
        write(list, places, selected.iter().map(|chosen| chosen.ordinal).chain(added));
        drop(guard);
    }

    /// Adds `ordinal` to the links of `neighbour`, whose distance to it the candidate holds.
    fn add_back<V: VectorSource + ?Sized>(
        &self,
        neighbour: Candidate,
        level: usize,
        ordinal: u32,
        vectors: &V,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let base = neighbour.ordinal;
        let places = self.degree(level);
        let node = &self.nodes.row(base).expect("a linked row has a node")[0];
        let guard = node.lock.lock();
        let list = self.list(level, base).expect("a row linked on a level is on that level");
        let Scratch { links, distances, candidates, selected, pruned, .. } = scratch;
        links.clear();
        read(list, links);
        if links.contains(&ordinal) {
            return Ok(());
        }
        if links.len() < places {
            slot(list, links.len()).store(ordinal, Ordering::Release);
            return Ok(());
        }
        vectors.prefetch(links);
        vectors.distances(base, links, distances)?;
        candidates.clear();
        candidates.extend(links.iter().zip(&*distances).map(|(&other, &d)| Candidate::new(d, other)));
        candidates.push(Candidate::new(neighbour.distance, ordinal));
        sort_candidates(base, candidates);
        select(vectors, candidates, places, false, selected, pruned)?;
        write(list, places, selected.iter().map(|chosen| chosen.ordinal));
        drop(guard);
        Ok(())
    }

    /// The list of a row on a level; `None` when the row is not on it.
    fn list(&self, level: usize, ordinal: u32) -> Option<&[Line]> {
        if level == 0 {
            return self.ground.row(ordinal);
        }
        let upper = self.nodes.row(ordinal)?[0].upper.get()?;
        let lines = self.m.div_ceil(LINE);
        upper.get((level - 1) * lines..level * lines)
    }
}

impl Links for Graph {
    fn entry(&self) -> Option<(u32, usize)> {
        let entry = self.entry.load(Ordering::Acquire);
        (entry != NO_ENTRY).then_some((entry as u32, (entry >> 32) as usize))
    }

    fn links(&self, level: usize, ordinal: u32, out: &mut Vec<u32>) -> Result<()> {
        out.clear();
        if let Some(list) = self.list(level, ordinal) {
            read(list, out);
        }
        Ok(())
    }

    fn prefetch(&self, level: usize, ordinal: u32) {
        if CHECKED {
            // To find the list is to load atomics: more orders to look at, none of them different.
            return;
        }
        for line in self.list(level, ordinal).into_iter().flatten() {
            prefetch_at(line);
        }
    }
}

/// Every row but one: a row being inserted may be met, since others link to it as soon as it is on a level.
struct NotRow(u32);

impl Accept for NotRow {
    fn accept(&self, ordinal: u32) -> bool {
        ordinal != self.0
    }
}

fn slot(list: &[Line], place: usize) -> &AtomicU32 {
    &list[place / LINE].0[place % LINE]
}

/// Appends the links of a list to `out`: a line at a time, since this is half of what a walk does beside measuring.
fn read(list: &[Line], out: &mut Vec<u32>) {
    let mut end = out.len();
    out.resize(end + list.len() * LINE, NO_LINK);
    for line in list {
        let links: [u32; LINE] = std::array::from_fn(|place| line.0[place].load(Ordering::Acquire));
        // A copy of fixed size, and no branch on where the list ends but one.
        out[end..end + LINE].copy_from_slice(&links);
        let unused = (0..LINE).fold(0u32, |mask, place| mask | u32::from(links[place] == NO_LINK) << place);
        let used = (unused | 1 << LINE).trailing_zeros() as usize;
        end += used;
        if used < LINE {
            break;
        }
    }
    out.truncate(end);
}

/// Writes links from the first place on and ends the list; the caller holds the node's lock.
fn write(list: &[Line], places: usize, links: impl Iterator<Item = u32>) {
    let mut place = 0;
    for link in links.take(places) {
        slot(list, place).store(link, Ordering::Release);
        place += 1;
    }
    for rest in place..places {
        slot(list, rest).store(NO_LINK, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_thin_out_by_m_and_repeat() {
        let mut counts = [0usize; LEVEL_MAX + 1];
        for ordinal in 0..160_000 {
            let level = level_for(ordinal, 9, 16);
            assert_eq!(level, level_for(ordinal, 9, 16));
            counts[level] += 1;
        }
        let above: usize = counts[1..].iter().sum();
        assert!((9_400..10_600).contains(&above), "{above} of 160,000 rows are above the ground");
        let above: usize = counts[2..].iter().sum();
        assert!((500..750).contains(&above), "{above} of 160,000 rows are above level 1");
    }

    #[test]
    #[should_panic(expected = "no room was made for row 3")]
    fn rows_need_room() {
        struct Nothing;
        impl VectorSource for Nothing {
            fn distance(&self, _: u32, _: u32) -> Result<f32> {
                Ok(0.0)
            }
            fn distances(&self, _: u32, others: &[u32], out: &mut Vec<f32>) -> Result<()> {
                out.clear();
                out.resize(others.len(), 0.0);
                Ok(())
            }
        }
        let _ = Graph::new(4, 8).insert(3, 0, &Nothing, &mut Scratch::default());
    }
}
