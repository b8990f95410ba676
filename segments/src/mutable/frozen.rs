//! The rows of a frozen segment in the order of their finished graph: what a seal writes.

use super::MutableSegment;
use crate::segment::RowSource;
use nearstone_base::{KeyRef, Lsn, Result};

/// A frozen segment seen through a permutation: row `new` is the segment's row `order[new]`, as `graph::flatten`
/// gives it.
#[derive(Clone, Copy, Debug)]
pub struct FrozenRows<'a> {
    /// The segment.
    pub segment: &'a MutableSegment,
    /// Ordinals of the segment, each once.
    pub order: &'a [u32],
}

impl FrozenRows<'_> {
    fn ordinal(&self, row: u32) -> u32 {
        self.order[row as usize]
    }
}

impl RowSource for FrozenRows<'_> {
    fn rows(&self) -> u32 {
        self.order.len() as u32
    }

    fn key(&self, row: u32) -> Result<KeyRef<'_>> {
        Ok(self.segment.key(self.ordinal(row)))
    }

    fn version(&self, row: u32) -> Result<Lsn> {
        Ok(self.segment.birth(self.ordinal(row)))
    }

    fn vector(&self, row: u32) -> Result<&[f32]> {
        Ok(self.segment.vector(self.ordinal(row)))
    }

    fn payload(&self, row: u32) -> Result<&[u8]> {
        Ok(self.segment.payload(self.ordinal(row)))
    }

    fn is_unversioned(&self) -> bool {
        self.segment.is_unversioned()
    }
}
