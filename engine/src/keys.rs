//! All keys of a collection at one moment, in their order: a merge over the segments' own orders.

use crate::store::Handle;
use crate::view::{CollectionView, Segment};
use nearstone_base::sync::Arc;
use nearstone_base::{Key, Lsn, Result};

/// An iterator over keys, ascending. It holds its moment for as long as it lives.
pub struct Keys {
    handle: Arc<Handle>,
    view: Arc<CollectionView>,
    at: Lsn,
    cursors: Vec<Cursor>,
}

/// One segment's next key.
struct Cursor {
    /// Place in [`CollectionView::segments`].
    segment: usize,
    /// Mutable segments have no order of their own: their visible ordinals, sorted by key, last first.
    sorted: Vec<u32>,
    /// Next rank in a sealed segment's key order.
    rank: u32,
    head: Option<Key>,
}

impl Keys {
    /// All keys, or those after `after`. Cost: a sort of the rows in memory, a binary search per sealed segment.
    pub(crate) fn new(
        handle: Arc<Handle>,
        view: Arc<CollectionView>,
        at: Lsn,
        after: Option<&Key>,
    ) -> Result<Keys> {
        let after = after.map(Key::as_ref);
        let mut cursors = Vec::new();
        for (index, segment) in view.segments().enumerate() {
            let mut cursor = Cursor { segment: index, sorted: Vec::new(), rank: 0, head: None };
            match segment {
                Segment::Mutable(rows) => {
                    cursor.sorted = (0..rows.rows())
                        .filter(|&o| segment.visible(o, at) && after.is_none_or(|key| rows.key(o) > key))
                        .collect();
                    cursor.sorted.sort_unstable_by(|&a, &b| rows.key(b).cmp(&rows.key(a)));
                }
                Segment::Sealed(rows) => {
                    if let Some(after) = after {
                        let (mut low, mut high) = (0, rows.rows());
                        while low < high {
                            let middle = low + (high - low) / 2;
                            let passed = rows.key(rows.ordinal_by_rank(middle)?)? <= after;
                            if passed { low = middle + 1 } else { high = middle }
                        }
                        cursor.rank = low;
                    }
                }
            }
            cursors.push(cursor);
        }
        Ok(Keys { handle, view, at, cursors })
    }

    /// Reads on in every segment whose next key was taken.
    fn fill(&mut self) -> Result<()> {
        let view = self.view.clone();
        for cursor in &mut self.cursors {
            if cursor.head.is_some() {
                continue;
            }
            let Some(segment) = view.segments().nth(cursor.segment) else { continue };
            cursor.head = match segment {
                Segment::Mutable(rows) => cursor.sorted.pop().map(|ordinal| rows.key(ordinal).to_key()),
                Segment::Sealed(rows) => loop {
                    if cursor.rank >= rows.rows() {
                        break None;
                    }
                    let ordinal = rows.ordinal_by_rank(cursor.rank)?;
                    cursor.rank += 1;
                    if segment.visible(ordinal, self.at) {
                        break Some(rows.key(ordinal)?.to_key());
                    }
                },
            };
        }
        Ok(())
    }
}

impl Iterator for Keys {
    type Item = Result<Key>;

    fn next(&mut self) -> Option<Result<Key>> {
        if let Err(error) = self.handle.engine.core.check_open().and_then(|()| self.fill()) {
            self.cursors.clear();
            return Some(Err(error));
        }
        let nearest =
            self.cursors.iter_mut().filter(|c| c.head.is_some()).min_by(|a, b| a.head.cmp(&b.head))?;
        nearest.head.take().map(Ok)
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({:?}, lsn {})", self.view.name, self.at)
    }
}
