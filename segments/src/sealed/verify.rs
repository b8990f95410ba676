//! Verifying a whole segment: every block against its checksum, then everything that rows say against each other.
//!
//! The blocks alone find every accident. The second part finds files that were made by a bug, or by someone who can
//! compute checksums: such a file is safe to search, but may answer wrongly.

use super::cold::Room;
use super::reader::SealedSegment;
use crate::graph::NO_LINK;
use nearstone_base::{Error, ErrorKind, Lsn, Result};

/// Rows or blocks between two questions whether to go on.
const STRIDE: u64 = 1024;

/// Counts steps and asks whether to go on.
struct Progress<'a> {
    done: u64,
    total: u64,
    ask: &'a mut dyn FnMut(u64, u64) -> bool,
}

impl Progress<'_> {
    fn step(&mut self) -> Result<()> {
        self.done += 1;
        if self.done.is_multiple_of(STRIDE) || self.done == self.total {
            return self.report();
        }
        Ok(())
    }

    fn report(&mut self) -> Result<()> {
        if (self.ask)(self.done, self.total) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Cancelled, "verifying the segment was cancelled"))
    }
}

impl SealedSegment {
    /// Reads everything and checks it: all checksums (also those found right before), keys and their order, index
    /// and filter, versions, offsets, links and vectors. `progress(done, total)` is called now and then; `false`
    /// cancels.
    ///
    /// # Errors
    /// `Corruption` at the first thing that is wrong; `Cancelled`.
    pub fn verify(&self, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<()> {
        let total = self.blocks.count() + 2 * u64::from(self.rows());
        let mut progress = Progress { done: 0, total, ask: progress };
        progress.report()?;
        for block in 0..self.blocks.count() {
            self.blocks.recheck(block)?;
            progress.step()?;
        }
        self.check_offset_ends()?;
        self.check_inline_entry()?;
        self.check_key_order(&mut progress)?;
        let (mut lsn_min, mut lsn_max) = (Lsn::MAX, 0);
        let mut room = Room::default();
        for ordinal in 0..self.rows() {
            let version = self.version(ordinal)?;
            lsn_min = lsn_min.min(version);
            lsn_max = lsn_max.max(version);
            self.check_row(ordinal, &mut room)?;
            progress.step()?;
        }
        if (lsn_min, lsn_max) != (self.meta().lsn_min, self.meta().lsn_max) {
            let expected = format!("versions {}..={}", self.meta().lsn_min, self.meta().lsn_max);
            return Err(self.wrong(&expected, &format!("{lsn_min}..={lsn_max}")));
        }
        Ok(())
    }

    /// The first and the last offset.
    fn check_offset_ends(&self) -> Result<()> {
        let pairs = [
            (self.places.key_offsets, self.places.keys),
            (Some(self.places.payload_offsets), self.places.payloads),
        ];
        for (offsets, bytes) in pairs {
            let Some(offsets) = offsets else { continue };
            let ends = (self.word(&offsets, 0)?, self.word(&offsets, offsets.count.saturating_sub(1))?);
            if ends != (0, bytes.len) {
                let found = format!("{}..{}", ends.0, ends.1);
                return Err(self.bad(&offsets, format!("offsets 0..{}", bytes.len), found));
            }
        }
        Ok(())
    }

    /// Strictly ascending keys in key order: so it is a permutation, and no key comes twice.
    fn check_key_order(&self, progress: &mut Progress<'_>) -> Result<()> {
        let mut before = None;
        for rank in 0..self.rows() {
            let key = self.key(self.ordinal_by_rank(rank)?)?;
            if before.is_some_and(|before| before >= key) {
                return Err(
                    self.wrong(&format!("a key above {before:?} at rank {rank}"), &format!("{key:?}"))
                );
            }
            before = Some(key);
            progress.step()?;
        }
        Ok(())
    }

    fn check_row(&self, ordinal: u32, room: &mut Room) -> Result<()> {
        let key = self.key(ordinal)?;
        let found = self.find(key, key.hash64())?;
        if found != Some(ordinal) {
            return Err(self.wrong(&format!("key {key:?} at row {ordinal}"), &format!("{found:?}")));
        }
        self.payload(ordinal)?;
        let vector = self.read_vector(ordinal, room)?;
        if let Err(error) = self.meta().schema.check_vector(vector) {
            return Err(self.wrong(&format!("a valid vector at row {ordinal}"), &error.to_string()));
        }
        for (level, place) in self.places.levels.iter().enumerate() {
            if ordinal < place.rows {
                self.check_links(level, ordinal, place.rows)?;
            }
        }
        Ok(())
    }

    fn check_links(&self, level: usize, ordinal: u32, rows: u32) -> Result<()> {
        let places = self.places_of(level, ordinal)?;
        let used = places.iter().take_while(|&&link| link != NO_LINK).count();
        let (links, free) = places.split_at(used);
        for (at, &link) in links.iter().enumerate() {
            if link >= rows || link == ordinal || links[..at].contains(&link) {
                let expected = format!("links of row {ordinal} on level {level} to other rows below {rows}");
                return Err(self.wrong(&expected, &link.to_string()));
            }
        }
        if level == 0 {
            self.check_inline(ordinal, links)?;
        }
        if free.iter().any(|&link| link != NO_LINK) {
            return Err(self.wrong(&format!("no link behind a free place of row {ordinal}"), "one"));
        }
        Ok(())
    }

    fn wrong(&self, expected: &str, found: &str) -> Error {
        Error::corruption(self.path(), 0, expected, found)
    }
}
