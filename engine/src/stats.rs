//! Numbers about a store, for people and for monitoring.

use crate::engine::Engine;
use crate::layout;
use crate::view::CollectionView;
use nearstone_base::sync::{Arc, Ordering};
use nearstone_base::{Codes, Lsn, Profile, Result, Schema, Uuid};
use nearstone_segments::sealed::Held;
use nearstone_wal::LogStats;

/// A store's numbers at one moment.
#[derive(Clone, Debug)]
pub struct StoreStats {
    /// The store's identity.
    pub uuid: Uuid,
    /// The last visible batch.
    pub lsn: Lsn,
    /// Its collections, by name.
    pub collections: Vec<CollectionStats>,
    /// Bytes of rows that are not sealed yet, graph and index included.
    pub memory_bytes: u64,
    /// What they may take.
    pub memory_budget: u64,
    /// Where the bytes of all sealed segments are.
    pub held: Held,
    /// Bytes of the log's files.
    pub wal_bytes: u64,
    /// Bytes of the catalog.
    pub catalog_bytes: u64,
    /// Bytes of the whole folder.
    pub disk_bytes: u64,
    /// What the log did since it was opened. `None` when opened for reading.
    pub log: Option<LogStats>,
    /// Segments sealed since opening.
    pub seals: u64,
    /// Compactions since opening.
    pub compactions: u64,
    /// Collections built anew since opening.
    pub rebuilds: u64,
    /// Rows that compactions and rebuilds wrote since opening.
    pub compacted_rows: u64,
    /// Writes that had to wait for memory since opening.
    pub write_stalls: u64,
    /// Milliseconds that writers were slowed down because compaction was behind, all of them together, since opening.
    pub write_rest_ms: u64,
    /// Whether the work behind is paused.
    pub background_paused: bool,
    /// The last failure of the work behind, if any.
    pub last_error: Option<String>,
}

/// A collection's numbers.
#[derive(Clone, Debug)]
pub struct CollectionStats {
    /// Its name.
    pub name: String,
    /// Its schema.
    pub schema: Schema,
    /// Live rows.
    pub rows: u64,
    /// Dead rows that still take room.
    pub dead_rows: u64,
    /// Rows that are only in memory and in the log.
    pub unsealed_rows: u64,
    /// Rows that are not in a graph yet; they are found by scanning.
    pub unlinked_rows: u64,
    /// How far compaction is behind those who write, from 0 to 1; writers rest in proportion.
    pub compaction_debt: f64,
    /// Its sealed segments.
    pub segments: Vec<SegmentSummary>,
}

/// A sealed segment's numbers.
#[derive(Clone, Debug)]
pub struct SegmentSummary {
    /// Its id, which names its file.
    pub id: u64,
    /// Rows, dead ones included.
    pub rows: u64,
    /// Dead rows.
    pub dead_rows: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// What it was made for: its collection's profile, unless it was made elsewhere.
    pub profile: Profile,
    /// Its codes: its collection's, unless it was made elsewhere, or on its way when these changed.
    pub codes: Codes,
    /// Where its bytes are.
    pub held: Held,
    /// Bytes by section, under names in snake case.
    pub sections: Vec<(String, u64)>,
}

pub(crate) fn collect(engine: &Arc<Engine>) -> Result<StoreStats> {
    let core = &engine.core;
    core.check_open()?;
    let view = core.view.load_full();
    let mut collections: Vec<CollectionStats> =
        view.lists.collections.values().map(|c| collection_stats(engine, c, view.lsn)).collect();
    collections.sort_by(|a, b| a.name.cmp(&b.name));
    let file_bytes = |path: &std::path::Path| core.vfs.info(path).map(|info| info.map_or(0, |info| info.len));
    let folder_bytes = |dir: &std::path::Path| -> Result<u64> {
        let mut bytes = 0;
        for name in core.vfs.list(dir)? {
            bytes += file_bytes(&dir.join(name))?;
        }
        Ok(bytes)
    };
    let mut held = Held::default();
    collections.iter().flat_map(|c| &c.segments).for_each(|segment| held += segment.held);
    let wal_bytes = folder_bytes(&layout::wal(&core.dir))?;
    let segment_bytes = folder_bytes(&layout::segments(&core.dir))?;
    let counter = |c: &nearstone_base::sync::AtomicU64| c.load(Ordering::Relaxed);
    Ok(StoreStats {
        uuid: core.uuid,
        lsn: view.lsn,
        collections,
        memory_bytes: core.memory_bytes(),
        memory_budget: core.options.memory_budget,
        held,
        wal_bytes,
        catalog_bytes: file_bytes(&layout::catalog(&core.dir))?,
        disk_bytes: folder_bytes(&core.dir)? + wal_bytes + segment_bytes,
        log: engine.log.as_ref().map(nearstone_wal::Log::stats),
        seals: counter(&engine.counters.seals),
        compactions: counter(&engine.counters.compactions),
        rebuilds: counter(&engine.counters.rebuilds),
        compacted_rows: counter(&engine.counters.compacted_rows),
        write_stalls: counter(&engine.counters.stalls),
        write_rest_ms: counter(&engine.counters.rested_micros) / 1000,
        background_paused: engine.pace.is_paused(),
        last_error: engine.last_error.lock().as_ref().map(ToString::to_string),
    })
}

fn collection_stats(engine: &Engine, collection: &CollectionView, at: Lsn) -> CollectionStats {
    let live = collection.live_rows(at);
    let all: u64 = collection.segments().map(|s| u64::from(s.rows())).sum();
    CollectionStats {
        name: collection.name.to_string(),
        schema: collection.schema,
        rows: live,
        dead_rows: all.saturating_sub(live),
        unsealed_rows: collection.unsealed().map(|s| u64::from(s.rows())).sum(),
        unlinked_rows: collection.unsealed().map(|s| u64::from(s.unlinked())).sum(),
        compaction_debt: engine.debt(collection),
        segments: collection
            .sealed
            .iter()
            .map(|handle| SegmentSummary {
                id: handle.id().0,
                rows: u64::from(handle.segment.rows()),
                dead_rows: u64::from(handle.segment.deaths().count()),
                bytes: handle.segment.meta().len,
                profile: handle.segment.meta().schema.chosen_profile(),
                codes: handle.segment.meta().schema.chosen_codes(),
                held: handle.segment.held(),
                sections: handle
                    .segment
                    .section_sizes()
                    .into_iter()
                    .map(|(name, bytes)| (name.replace(' ', "_"), bytes))
                    .collect(),
            })
            .collect(),
    }
}
