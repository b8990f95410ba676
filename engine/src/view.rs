//! What readers see: one published value, `{segment lists, lsn}`, loaded without a lock and consistent for as long
//! as it is held.
//!
//! A row is visible at lsn S iff `birth <= S < death`. The lists of a view never change; a seal or a compaction
//! publishes a view with other lists, in which the same rows live elsewhere, with the same deaths.

use nearstone_base::faults::failpoint;
use nearstone_base::sync::{Arc, AtomicBool, Ordering};
use nearstone_base::vfs::Vfs;
use nearstone_base::{CollectionId, Error, ErrorKind, KeyRef, Lsn, Result, Schema, SegmentId};
use nearstone_segments::sealed::Room;
use nearstone_segments::topk::Scratch;
use nearstone_segments::{Answers, Deaths, MutableSegment, SealedSegment, SearchOptions};
use std::collections::BTreeMap;

/// The published value.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) lsn: Lsn,
    pub(crate) lists: Arc<Lists>,
}

/// The collections of a store and their segments.
#[derive(Clone, Default, Debug)]
pub(crate) struct Lists {
    pub(crate) collections: BTreeMap<CollectionId, Arc<CollectionView>>,
}

/// One collection's segments.
#[derive(Clone, Debug)]
pub(crate) struct CollectionView {
    pub(crate) id: CollectionId,
    pub(crate) name: Arc<str>,
    pub(crate) schema: Schema,
    pub(crate) mutable: Arc<MutableSegment>,
    /// Oldest first: they are sealed in this order.
    pub(crate) frozen: Vec<Frozen>,
    pub(crate) sealed: Vec<Arc<SealedHandle>>,
    /// Changes whenever `sealed` does.
    pub(crate) sealed_epoch: u64,
}

/// A segment that takes no more rows, and the log positions it covers.
#[derive(Clone, Debug)]
pub(crate) struct Frozen {
    pub(crate) segment: Arc<MutableSegment>,
    /// The first operation on the collection since the freeze before.
    pub(crate) first: Lsn,
    /// The last batch before the freeze: the segment is sealed as of this lsn.
    pub(crate) last: Lsn,
}

/// A sealed segment, and the duty to remove its file once it is obsolete and nobody reads it any more.
#[derive(Debug)]
pub(crate) struct SealedHandle {
    pub(crate) segment: SealedSegment,
    vfs: Arc<dyn Vfs>,
    obsolete: AtomicBool,
    /// Set when the store is poisoned: then nothing is unlinked any more.
    keep_files: Arc<AtomicBool>,
}

impl SealedHandle {
    pub(crate) fn new(
        segment: SealedSegment,
        vfs: Arc<dyn Vfs>,
        keep_files: Arc<AtomicBool>,
    ) -> SealedHandle {
        SealedHandle { segment, vfs, obsolete: AtomicBool::new(false), keep_files }
    }

    pub(crate) fn id(&self) -> SegmentId {
        self.segment.meta().id
    }

    /// The catalog does not name the file, no longer or not yet: it goes with the last reader.
    pub(crate) fn set_obsolete(&self) {
        self.obsolete.store(true, Ordering::Release);
    }

    /// The catalog names the file now.
    pub(crate) fn set_named(&self) {
        self.obsolete.store(false, Ordering::Release);
    }
}

impl Drop for SealedHandle {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Acquire) && !self.keep_files.load(Ordering::Acquire) {
            failpoint("segment-before-unlink");
            // A file that stays behind is swept at the next open; nothing names it.
            let _ = self.vfs.remove(self.segment.path());
            failpoint("segment-unlinked");
        }
    }
}

/// Either kind of segment, as reads see it.
#[derive(Clone, Copy)]
pub(crate) enum Segment<'a> {
    Mutable(&'a MutableSegment),
    Sealed(&'a SealedSegment),
}

impl<'a> Segment<'a> {
    pub(crate) fn deaths(self) -> &'a Deaths {
        match self {
            Segment::Mutable(s) => s.deaths(),
            Segment::Sealed(s) => s.deaths(),
        }
    }

    pub(crate) fn rows(self) -> u32 {
        match self {
            Segment::Mutable(s) => s.rows(),
            Segment::Sealed(s) => s.rows(),
        }
    }

    pub(crate) fn find_at(self, key: KeyRef<'_>, hash: u64, at: Lsn) -> Result<Option<u32>> {
        match self {
            Segment::Mutable(s) => Ok(s.find_at(key, hash, at)),
            Segment::Sealed(s) => s.find_at(key, hash, at),
        }
    }

    pub(crate) fn key(self, ordinal: u32) -> Result<KeyRef<'a>> {
        match self {
            Segment::Mutable(s) => Ok(s.key(ordinal)),
            Segment::Sealed(s) => s.key(ordinal),
        }
    }

    pub(crate) fn vector(self, ordinal: u32) -> Result<Vec<f32>> {
        match self {
            Segment::Mutable(s) => Ok(s.vector(ordinal).to_vec()),
            Segment::Sealed(s) => Ok(s.read_vector(ordinal, &mut Room::default())?.to_vec()),
        }
    }

    pub(crate) fn payload(self, ordinal: u32) -> Result<&'a [u8]> {
        match self {
            Segment::Mutable(s) => Ok(s.payload(ordinal)),
            Segment::Sealed(s) => s.payload(ordinal),
        }
    }

    pub(crate) fn version(self, ordinal: u32) -> Result<Lsn> {
        match self {
            Segment::Mutable(s) => Ok(s.birth(ordinal)),
            Segment::Sealed(s) => s.version(ordinal),
        }
    }

    pub(crate) fn visible(self, ordinal: u32, at: Lsn) -> bool {
        let born = match self {
            Segment::Mutable(s) => s.birth(ordinal) <= at,
            Segment::Sealed(_) => true,
        };
        born && !self.deaths().is_dead_at(ordinal, at)
    }

    /// Rows visible at `at`. Cost: the rows that died, not the rows that live.
    pub(crate) fn live_rows(self, at: Lsn) -> u64 {
        let born = match self {
            Segment::Mutable(s) => {
                // Births rise with the ordinal.
                let (mut low, mut high) = (0, s.rows());
                while low < high {
                    let middle = low + (high - low) / 2;
                    if s.birth(middle) <= at { low = middle + 1 } else { high = middle }
                }
                low
            }
            Segment::Sealed(s) => s.rows(),
        };
        u64::from(born) - self.deaths().dead_at(at).len()
    }

    /// The nearest rows for each query.
    pub(crate) fn search(
        self,
        queries: &[&[f32]],
        options: &SearchOptions<'_>,
        scratch: &mut Scratch,
        answers: &mut dyn Answers,
    ) -> Result<()> {
        match self {
            Segment::Sealed(s) => s.search_many(queries, options, scratch, answers),
            Segment::Mutable(s) => s.search_many(queries, options, scratch, answers),
        }
    }
}

impl CollectionView {
    /// All segments, newest rows first.
    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        std::iter::once(Segment::Mutable(&self.mutable))
            .chain(self.frozen.iter().rev().map(|f| Segment::Mutable(&f.segment)))
            .chain(self.sealed.iter().rev().map(|h| Segment::Sealed(&h.segment)))
    }

    /// The largest sealed segment with inline rows.
    pub(crate) fn largest(&self) -> Option<&SealedSegment> {
        let walked = self.sealed.iter().map(|handle| &handle.segment).filter(|it| it.has_inline_rows());
        walked.max_by_key(|segment| segment.rows())
    }

    /// Segments whose rows are only in memory and in the log.
    pub(crate) fn unsealed(&self) -> impl Iterator<Item = &Arc<MutableSegment>> {
        self.frozen.iter().map(|f| &f.segment).chain(std::iter::once(&self.mutable))
    }

    /// The row of a key at an lsn.
    pub(crate) fn find_at(&self, key: KeyRef<'_>, at: Lsn) -> Result<Option<(Segment<'_>, u32)>> {
        let hash = key.hash64();
        for segment in self.segments() {
            if let Some(ordinal) = segment.find_at(key, hash, at)? {
                return Ok(Some((segment, ordinal)));
            }
        }
        Ok(None)
    }

    /// The live row of a key in the sealed segments: index in `sealed` and ordinal.
    pub(crate) fn resolve_sealed(&self, key: KeyRef<'_>, hash: u64) -> Result<Option<(usize, u32)>> {
        for (index, handle) in self.sealed.iter().enumerate().rev() {
            if let Some(ordinal) = handle.segment.find(key, hash)?
                && handle.segment.deaths().get(ordinal) == 0
            {
                return Ok(Some((index, ordinal)));
            }
        }
        Ok(None)
    }

    pub(crate) fn live_rows(&self, at: Lsn) -> u64 {
        self.segments().map(|s| s.live_rows(at)).sum()
    }
}

impl Lists {
    pub(crate) fn by_name(&self, name: &str) -> Option<&Arc<CollectionView>> {
        self.collections.values().find(|c| &*c.name == name)
    }

    pub(crate) fn get(&self, id: CollectionId, name: &str) -> Result<&Arc<CollectionView>> {
        self.collections.get(&id).ok_or_else(|| dropped(name))
    }
}

pub(crate) fn dropped(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("the collection {name:?} was dropped"))
}
