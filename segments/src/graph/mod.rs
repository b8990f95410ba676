//! The graph: HNSW in the paper's terms (Malkov and Yashunin, arXiv 1603.09320), apart from where vectors and links
//! are stored.

mod build;
mod check;
mod flatten;
mod frontier;
mod pages;
mod select;
mod walk;

pub use build::{Graph, level_for};
pub use check::check;
pub(crate) use flatten::attach_all;
pub use flatten::flatten;
pub(crate) use frontier::Frontier;
pub(crate) use select::mix;
pub(crate) use walk::beam;
pub use walk::walk;

use crate::topk::Candidate;
use nearstone_base::Result;

/// Marks an unused place in a fixed-width list of links.
pub const NO_LINK: u32 = u32::MAX;

/// Highest level a node can have.
pub const LEVEL_MAX: usize = 15;

/// Where a walk finds neighbours.
pub trait Links {
    /// The node where walks begin and its level; `None` when there is none.
    fn entry(&self) -> Option<(u32, usize)>;

    /// Replaces `out` by the neighbours of a node on a level. Ids from disk are bounded here: what comes out is a
    /// valid ordinal.
    fn links(&self, level: usize, ordinal: u32, out: &mut Vec<u32>) -> Result<()>;

    /// Asks for the neighbours of a node to be brought near.
    fn prefetch(&self, _level: usize, _ordinal: u32) {}
}

/// How a walk measures: the distance from one query (or one stored row) to stored rows, possibly on codes.
pub trait Scorer {
    /// Replaces `out` by the distances to `ordinals`.
    fn score(&self, ordinals: &[u32], out: &mut Vec<f32>) -> Result<()>;

    /// Asks for what measuring these rows will read to be brought near.
    fn prefetch(&self, _ordinals: &[u32]) {}
}

/// A finished graph over rows numbered by descending level, as it is written to a file: level `l` links the first
/// `levels[l].rows` rows, so no table of members is needed, and row 0 is the entry.
#[derive(Clone, Default, Debug)]
pub struct FlatGraph {
    /// From the ground up. Empty for no rows.
    pub levels: Vec<FlatLevel>,
    /// The beam that it was built with; 0 when nobody knows.
    pub beam: usize,
}

/// One level of a [`FlatGraph`].
#[derive(Clone, Default, Debug)]
pub struct FlatLevel {
    /// Rows `0..rows` are on this level.
    pub rows: u32,
    /// Places per row: `2 m` on the ground, `m` above.
    pub stride: usize,
    /// `rows * stride` ordinals; unused places hold [`NO_LINK`] and come last.
    pub links: Vec<u32>,
}

/// Distances between stored rows: what building, healing and refining a graph need. Rows may come from disk, so
/// every answer may be an error.
pub trait VectorSource: Sync {
    /// The distance between two rows.
    fn distance(&self, a: u32, b: u32) -> Result<f32>;

    /// Replaces `out` by the distances from row `a` to `others`.
    fn distances(&self, a: u32, others: &[u32], out: &mut Vec<f32>) -> Result<()>;

    /// Asks for what measuring these rows will read to be brought near.
    fn prefetch(&self, _others: &[u32]) {}

    /// Whether one of `others` is nearer to row `a` than `bound`.
    fn any_nearer(&self, a: u32, others: &[Candidate], bound: f32) -> Result<bool> {
        for other in others {
            if self.distance(a, other.ordinal)? < bound {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Measures from a stored row.
#[derive(Debug)]
pub struct FromRow<'a, V: ?Sized> {
    /// Where the rows are.
    pub vectors: &'a V,
    /// The row.
    pub row: u32,
}

impl<V: VectorSource + ?Sized> Scorer for FromRow<'_, V> {
    fn score(&self, ordinals: &[u32], out: &mut Vec<f32>) -> Result<()> {
        self.vectors.distances(self.row, ordinals, out)
    }

    fn prefetch(&self, ordinals: &[u32]) {
        self.vectors.prefetch(ordinals);
    }
}

impl FlatLevel {
    /// The links of a row. Panics when the row is not on the level.
    pub fn list(&self, row: u32) -> &[u32] {
        let start = row as usize * self.stride;
        let list = &self.links[start..start + self.stride];
        &list[..list.iter().position(|&link| link == NO_LINK).unwrap_or(self.stride)]
    }

    /// All places of a row, the unused ones included.
    pub(crate) fn list_mut(&mut self, row: u32) -> &mut [u32] {
        let start = row as usize * self.stride;
        &mut self.links[start..start + self.stride]
    }
}

impl Links for FlatGraph {
    fn entry(&self) -> Option<(u32, usize)> {
        self.levels.len().checked_sub(1).map(|top| (0, top))
    }

    fn links(&self, level: usize, ordinal: u32, out: &mut Vec<u32>) -> Result<()> {
        out.clear();
        out.extend_from_slice(self.levels[level].list(ordinal));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
