//! The graph: HNSW in the paper's terms (Malkov and Yashunin, arXiv 1603.09320), apart from where vectors and links
//! are stored.

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
}

/// How a walk measures: the distance from one query (or one stored row) to stored rows, possibly on codes.
pub trait Scorer {
    /// Replaces `out` by the distances to `ordinals`, prefetching ahead.
    fn score(&self, ordinals: &[u32], out: &mut Vec<f32>) -> Result<()>;
}

/// A finished graph over rows numbered by descending level, as it is written to a file: level `l` links the first
/// `levels[l].rows` rows, so no table of members is needed, and row 0 is the entry.
#[derive(Clone, Default, Debug)]
pub struct FlatGraph {
    /// From the ground up. Empty for no rows.
    pub levels: Vec<FlatLevel>,
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
