//! What the catalog says: which collections and segments there are, which rows of them are dead, and from where the
//! log must be replayed.
//!
//! A state is a plain value. The engine clones it, changes the clone and commits it; the rules that hold inside
//! every state ([`CatalogState::check`]) are looked at before a commit and again when a file is read, so a state that
//! breaks one is a bug on the way in and damage on the way out.
//!
//! The state is exactly that of each collection's `sealed_lsn`: no row and no death newer than it. Everything newer
//! lives in the log.

use nearstone_base::{CollectionId, Error, LSN_MAX, Lsn, Result, Schema, SegmentId, Uuid};
use nearstone_segments::SegmentMeta;
pub(crate) use nearstone_wal::CleanMark;
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of a collection's name, at most.
const NAME_BYTES_MAX: usize = 255;

/// The highest generation and the highest next segment id: far above what any store reaches, and far enough below the
/// end of the numbers that they can be counted on without overflow.
const COUNT_MAX: u64 = 1 << 62;

/// The highest next collection id. Those above it stand for collections whose id salvage does not know.
const NEXT_COLLECTION_MAX: u32 = u32::MAX / 2;

/// One state of a store, whole.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct CatalogState {
    /// The store this is the catalog of.
    pub(crate) store: Uuid,
    /// Counts the commits; the first state has 1.
    pub(crate) generation: u64,
    /// The lowest collection id that was never given away.
    pub(crate) next_collection: u32,
    /// The lowest segment id that was never given away.
    pub(crate) next_segment: u64,
    /// The lowest lsn that some collection still needs from the log.
    pub(crate) wal_floor: Lsn,
    /// The highest lsn that was durable when this was committed.
    pub(crate) last_lsn: Lsn,
    /// Where the log ended when the store was last closed in order.
    pub(crate) clean: Option<CleanMark>,
    /// The collections.
    pub(crate) collections: BTreeMap<CollectionId, CollectionRow>,
    /// The sealed segments.
    pub(crate) segments: BTreeMap<SegmentId, SegmentRow>,
    /// Ordinals of dead rows; a segment without any has no entry.
    pub(crate) deaths: BTreeMap<SegmentId, RoaringBitmap>,
}

/// One collection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CollectionRow {
    /// Its name: not empty, and no other collection's.
    pub(crate) name: String,
    /// Its schema.
    pub(crate) schema: Schema,
    /// Everything up to this lsn is in segments and deaths; at most the state's `last_lsn`.
    pub(crate) sealed_lsn: Lsn,
    /// When it was created, seconds since the Unix epoch.
    pub(crate) created_secs: u64,
}

/// One sealed segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SegmentRow {
    /// Whose it is.
    pub(crate) collection: CollectionId,
    /// What its file must be.
    pub(crate) meta: SegmentMeta,
}

impl CatalogState {
    /// The state of a new store.
    pub(crate) fn new(store: Uuid) -> CatalogState {
        CatalogState {
            store,
            generation: 1,
            next_collection: 1,
            next_segment: 1,
            wal_floor: 1,
            last_lsn: 0,
            clean: None,
            collections: BTreeMap::new(),
            segments: BTreeMap::new(),
            deaths: BTreeMap::new(),
        }
    }

    /// The rules inside one state. `Err` says in words which one is broken, and by what.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        if !(1..=COUNT_MAX).contains(&self.generation) {
            return Err(format!("generation {}: it must lie in 1..={COUNT_MAX}", self.generation));
        }
        if self.next_segment > COUNT_MAX || self.next_collection > NEXT_COLLECTION_MAX {
            return Err(format!(
                "{} as the next segment id and {} as the next collection id: at most {COUNT_MAX} and \
                 {NEXT_COLLECTION_MAX} are allowed",
                self.next_segment, self.next_collection
            ));
        }
        if self.last_lsn > LSN_MAX {
            return Err(format!("a last lsn of {}: at most {LSN_MAX} is allowed", self.last_lsn));
        }
        if self.wal_floor > self.last_lsn + 1 {
            return Err(format!(
                "a log floor of {} with a last lsn of {}: at most one more is allowed",
                self.wal_floor, self.last_lsn
            ));
        }
        self.check_collections()?;
        self.check_segments()?;
        self.check_deaths()
    }

    fn check_collections(&self) -> std::result::Result<(), String> {
        let mut names = BTreeSet::new();
        for (id, row) in &self.collections {
            if id.0 >= self.next_collection {
                return Err(format!("collection {id}, but the next new id is {}", self.next_collection));
            }
            check_name(&row.name).map_err(|error| format!("collection {id}: {error}"))?;
            if !names.insert(&row.name) {
                return Err(format!("two collections named {:?}, one of them {id}", row.name));
            }
            row.schema.validate().map_err(|error| format!("collection {id}: {error}"))?;
            if row.sealed_lsn > self.last_lsn {
                return Err(format!(
                    "collection {id} sealed up to lsn {}, but the last lsn is {}",
                    row.sealed_lsn, self.last_lsn
                ));
            }
        }
        Ok(())
    }

    fn check_segments(&self) -> std::result::Result<(), String> {
        for (id, row) in &self.segments {
            if id.0 >= self.next_segment {
                return Err(format!("segment {id}, but the next new id is {}", self.next_segment));
            }
            if row.meta.id != *id {
                return Err(format!("segment {id} that calls itself {}", row.meta.id));
            }
            let Some(collection) = self.collections.get(&row.collection) else {
                return Err(format!("segment {id} of collection {}, which does not exist", row.collection));
            };
            if row.meta.lsn_max > collection.sealed_lsn {
                return Err(format!(
                    "segment {id} with rows up to lsn {}, but its collection {} is sealed up to {}",
                    row.meta.lsn_max, row.collection, collection.sealed_lsn
                ));
            }
            if !collection.schema.fits(&row.meta.schema) {
                return Err(format!(
                    "segment {id} with the schema {:?}, but its collection {} has {:?}",
                    row.meta.schema, row.collection, collection.schema
                ));
            }
        }
        Ok(())
    }

    fn check_deaths(&self) -> std::result::Result<(), String> {
        for (id, dead) in &self.deaths {
            let Some(segment) = self.segments.get(id) else {
                return Err(format!("deaths of segment {id}, which does not exist"));
            };
            let Some(last) = dead.max() else {
                return Err(format!("an empty set of deaths of segment {id}"));
            };
            if last >= segment.meta.rows {
                return Err(format!(
                    "a death of row {last} of segment {id}, which has {} rows",
                    segment.meta.rows
                ));
            }
        }
        Ok(())
    }

    /// The rules between a state and the one after it: same store, and no id is given away twice.
    pub(super) fn check_follows(&self, before: &CatalogState) -> std::result::Result<(), String> {
        if self.store != before.store {
            return Err(format!("a state of store {} for the catalog of {}", self.store, before.store));
        }
        if self.next_collection < before.next_collection || self.next_segment < before.next_segment {
            return Err(format!(
                "next ids ({}, {}) below the earlier ones ({}, {})",
                self.next_collection, self.next_segment, before.next_collection, before.next_segment
            ));
        }
        for id in self.collections.keys() {
            if id.0 < before.next_collection && !before.collections.contains_key(id) {
                return Err(format!("collection {id}, whose id was given away before"));
            }
        }
        // A segment's id is taken when its rows are collected and committed when its file is whole; other commits in
        // between have moved the next id on. So a new segment may have an id below the earlier next one.
        Ok(())
    }
}

/// `InvalidArgument` for a name that no collection can have.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        // A name from a file can have any length.
        let shown: String = name.chars().take(NAME_BYTES_MAX).collect();
        return Err(Error::invalid(format!(
            "the collection name {shown:?} has {} bytes: a name has 1 to {NAME_BYTES_MAX} and no control characters",
            name.len()
        )));
    }
    Ok(())
}
