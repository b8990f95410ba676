//! Salvage: every readable row of a store that no longer opens, put into a new one.
//!
//! 1. The catalog is read if it can be: it says what the collections are called, which segments count, which of their
//!    rows are dead, and from where the log matters. Without it, every segment file speaks for itself (its schema and
//!    its rows are in it), collections get new names, one for each dimension, metric and type of keys, and rows that
//!    were deleted or replaced may come back: of rows with one key, the highest version counts. (Rows of a bulk load count there as of the
//!    moment at which they were collected, and attached ones as older than all others: their version is in the catalog.)
//! 2. Each row of each segment is read by itself, so that a damaged block costs only the rows on it.
//! 3. The log's intact batches are applied over that, in their order; what is missing between them is told.
//!
//! The damaged store is only read. What could not be read is listed, and nothing is invented: every row in the new store
//! passed the checksums it was written with.

use crate::batch::Batch;
use crate::catalog::{Catalog, CatalogState, format_file};
use crate::collection::Collection;
use crate::layout;
use crate::progress::{Progress, report};
use crate::store::Store;
use nearstone_base::record::{self, vector_from_bytes};
use nearstone_base::sync::Arc;
use nearstone_base::vfs::{DiskVfs, LockKind, Residency, Vfs};
use nearstone_base::{CollectionId, Error, ErrorKind, Key, Lsn, Metric, Result, Schema, Uuid};
use nearstone_segments::{SealedSegment, SegmentMeta};
use nearstone_wal::{Durability, Salvaged};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// A batch of the new store is committed at so many bytes.
const CHUNK_BYTES: usize = 4 << 20;
/// Rows that could not be read are listed one by one up to here; all are counted.
const LISTED_MAX: usize = 100;

/// What was brought over, and what was not.
#[derive(Clone, Debug, Default)]
pub struct SalvageReport {
    /// Collections of the new store, with their rows.
    pub collections: Vec<(String, u64)>,
    /// Whether the old catalog could be read. If not, rows that had been deleted may be back, and collections of one
    /// dimension, metric and type of keys are one: of rows with one key the newest is there.
    pub catalog: bool,
    /// Rows of segments that could not be read.
    pub lost_rows: u64,
    /// Batches of the log that are missing between others, as ranges of lsns.
    pub lost_batches: Vec<(Lsn, Lsn)>,
    /// What could not be read: a file or a part of it, and why. At most a hundred rows are listed for themselves.
    pub lost: Vec<(PathBuf, String)>,
}

impl Store {
    /// Reads what can be read of the store in `from`, damaged as it may be, and puts it into a new store in `into`, a
    /// missing or empty folder. Nothing is written to `from`.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such folder, `Busy` when somebody has the store open, `AlreadyExists` when `into`
    /// holds something, and what writing the new store gives. Damage is no error: it is in the report.
    pub fn salvage(from: impl AsRef<Path>, into: impl AsRef<Path>) -> Result<SalvageReport> {
        Store::salvage_with(from, into, &mut crate::progress::no_progress)
    }

    /// [`Store::salvage`] that reports progress and can be cancelled.
    pub fn salvage_with(
        from: impl AsRef<Path>,
        into: impl AsRef<Path>,
        progress: Progress<'_>,
    ) -> Result<SalvageReport> {
        Store::salvage_on(&(Arc::new(DiskVfs::new()) as Arc<dyn Vfs>), from.as_ref(), into.as_ref(), progress)
    }

    /// [`Store::salvage_with`] over another file system.
    pub fn salvage_on(
        vfs: &Arc<dyn Vfs>,
        from: &Path,
        into: &Path,
        progress: Progress<'_>,
    ) -> Result<SalvageReport> {
        let names = vfs.list(from)?;
        if !names
            .iter()
            .any(|name| [layout::FORMAT, layout::CATALOG, "wal", "segments"].contains(&name.as_str()))
        {
            return Err(Error::new(
                ErrorKind::NotAStore,
                format!("{} holds no file of a Nearstone store", from.display()),
            ));
        }
        if into.starts_with(from) {
            let text = format!("{} lies inside of {}", into.display(), from.display());
            return Err(Error::invalid(text));
        }
        let _lock = lock(&**vfs, from)?;
        if vfs.info(into)?.is_some_and(|info| !info.is_dir)
            || (vfs.info(into)?.is_some() && !vfs.list(into)?.is_empty())
        {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!(
                    "{} holds something already: salvage goes into a missing or empty folder",
                    into.display()
                ),
            ));
        }
        let store = Store::builder().vfs(vfs.clone()).durability(Durability::Os).open(into)?;
        let mut salvage =
            Salvage { vfs: vfs.clone(), from, report: SalvageReport::default(), batch: store.batch(), store };
        salvage.run(progress)?;
        let Salvage { store, mut report, batch, .. } = salvage;
        drop(batch);
        for name in store.collections()? {
            let rows = store.collection(&name)?.len()?;
            report.collections.push((name, rows));
        }
        store.persist()?;
        store.close()?;
        Ok(report)
    }
}

fn lock(vfs: &dyn Vfs, from: &Path) -> Result<Option<Box<dyn nearstone_base::vfs::VfsLock>>> {
    match vfs.lock(&layout::lock(from), LockKind::Shared) {
        Ok(Some(lock)) => Ok(Some(lock)),
        Ok(None) => {
            Err(Error::new(ErrorKind::Busy, format!("{} is open somewhere: close it first", from.display())))
        }
        // A copy may have come without its lock file.
        Err(_) => Ok(None),
    }
}

struct Salvage<'a> {
    vfs: Arc<dyn Vfs>,
    from: &'a Path,
    store: Store,
    batch: Batch,
    report: SalvageReport,
}

/// A collection of the new store, and what the old one says of it.
struct Target {
    collection: Collection,
    /// Batches up to here are in segments.
    sealed_lsn: Lsn,
    /// Without a catalog: the version that each key has so far.
    versions: Option<HashMap<Key, Lsn>>,
}

impl Salvage<'_> {
    fn run(&mut self, progress: Progress<'_>) -> Result<()> {
        let uuid = self.uuid();
        let log = nearstone_wal::salvage(&*self.vfs, &layout::wal(self.from), uuid)?;
        // Each file of the log knows whose it is.
        let uuid = uuid.or(log.store);
        let state = uuid.and_then(|uuid| match Catalog::read(&self.vfs, self.from, uuid) {
            Ok(state) => Some(state),
            Err(error) => {
                self.lose(layout::catalog(self.from), &error);
                None
            }
        });
        self.report.catalog = state.is_some();
        let mut targets = BTreeMap::new();
        match &state {
            Some(state) => self.known_segments(state, &mut targets, progress)?,
            None => self.all_segments(&mut targets, progress)?,
        }
        self.apply_log(&log, state.as_ref(), &mut targets, progress)?;
        self.report.lost.extend(log.lost);
        self.commit()
    }

    /// The old store's identity: the log's files and the catalog are bound to it.
    fn uuid(&mut self) -> Option<Uuid> {
        match format_file::read(&*self.vfs, self.from) {
            Ok(Some(format)) => return Some(format.store),
            Ok(None) => self.report.lost.push((self.from.join(layout::FORMAT), "it is missing".to_owned())),
            Err(error) => self.lose(self.from.join(layout::FORMAT), &error),
        }
        None
    }

    fn lose(&mut self, place: PathBuf, error: &Error) {
        self.report.lost.push((place, error.to_string()));
    }

    fn known_segments(
        &mut self,
        state: &CatalogState,
        targets: &mut BTreeMap<CollectionId, Target>,
        progress: Progress<'_>,
    ) -> Result<()> {
        for (id, row) in &state.collections {
            let collection = self.store.create_collection(&row.name, row.schema)?;
            targets.insert(*id, Target { collection, sealed_lsn: row.sealed_lsn, versions: None });
        }
        let none = roaring::RoaringBitmap::new();
        for (place, (id, row)) in state.segments.iter().enumerate() {
            report(progress, "segments", place as u64, state.segments.len() as u64)?;
            let dead = state.deaths.get(id).unwrap_or(&none);
            let Some(target) = targets.get_mut(&row.collection) else { continue };
            self.segment(&row.meta, dead, target)?;
        }
        Ok(())
    }

    fn all_segments(
        &mut self,
        targets: &mut BTreeMap<CollectionId, Target>,
        progress: Progress<'_>,
    ) -> Result<()> {
        let folder = layout::segments(self.from);
        let mut names = match self.vfs.list(&folder) {
            Ok(names) => names,
            Err(error) => {
                self.lose(folder, &error);
                return Ok(());
            }
        };
        names.retain(|name| {
            nearstone_compaction::gc::parse_segment_file(name).is_some_and(|(_, finished)| finished)
        });
        names.sort();
        let mut by_schema: Vec<(Schema, CollectionId)> = Vec::new();
        let total = names.len() as u64;
        for (place, name) in names.into_iter().enumerate() {
            report(progress, "segments", place as u64, total)?;
            let path = folder.join(name);
            let meta = match SealedSegment::inspect(&*self.vfs, &path) {
                Ok(meta) => meta,
                Err(error) => {
                    self.lose(path, &error);
                    continue;
                }
            };
            let id = match by_schema.iter().find(|(schema, _)| schema.same_rows(&meta.schema)) {
                Some((_, id)) => *id,
                None => {
                    // Whose rows they were the file does not say.
                    let id = CollectionId(u32::MAX - by_schema.len() as u32);
                    by_schema.push((meta.schema, id));
                    let name = format!("salvaged-{}", by_schema.len());
                    let collection = self.store.create_collection(&name, meta.schema)?;
                    let versions = Some(HashMap::new());
                    targets.insert(id, Target { collection, sealed_lsn: 0, versions });
                    id
                }
            };
            if let Some(target) = targets.get_mut(&id) {
                self.segment(&meta, &roaring::RoaringBitmap::new(), target)?;
            }
        }
        Ok(())
    }

    fn segment(
        &mut self,
        meta: &SegmentMeta,
        dead: &roaring::RoaringBitmap,
        target: &mut Target,
    ) -> Result<()> {
        let path = layout::segments(self.from).join(nearstone_compaction::gc::segment_file(meta.id));
        let segment = match SealedSegment::open(&*self.vfs, &path, meta, Residency::Heap) {
            Ok(segment) => segment,
            Err(error) => {
                self.report.lost_rows += u64::from(meta.rows) - dead.len();
                self.lose(path, &error);
                return Ok(());
            }
        };
        for ordinal in (0..segment.rows()).filter(|ordinal| !dead.contains(*ordinal)) {
            let row = || -> Result<(Key, Lsn, Vec<f32>, String)> {
                let payload = std::str::from_utf8(segment.payload(ordinal)?).unwrap_or_default();
                Ok((
                    segment.key(ordinal)?.to_key(),
                    segment.version(ordinal)?,
                    segment.vector(ordinal)?.to_vec(),
                    payload.to_owned(),
                ))
            };
            match row() {
                Ok((key, version, vector, payload)) => {
                    if target.is_news(&key, version) {
                        self.put(&target.collection, &key, &vector, &payload)?;
                    }
                }
                Err(error) => {
                    self.report.lost_rows += 1;
                    if self.report.lost.len() < LISTED_MAX {
                        self.report.lost.push((path.clone(), format!("row {ordinal}: {error}")));
                    }
                }
            }
        }
        Ok(())
    }

    /// Applies what the log still has, over what the segments had.
    fn apply_log(
        &mut self,
        log: &Salvaged,
        state: Option<&CatalogState>,
        targets: &mut BTreeMap<CollectionId, Target>,
        progress: Progress<'_>,
    ) -> Result<()> {
        let first = log.batches.first_key_value().map_or(0, |(lsn, _)| *lsn);
        let floor = state.map_or(first, |state| state.wal_floor);
        let to = state.map_or(0, |state| state.last_lsn.max(state.clean.map_or(0, |mark| mark.lsn)));
        self.report.lost_batches = log.gaps(floor, to);
        let total = log.batches.len() as u64;
        for (place, (&lsn, body)) in log.batches.iter().enumerate() {
            if place % 1024 == 0 {
                report(progress, "log", place as u64, total)?;
            }
            let Some(operations) = record::decode(body) else {
                self.report.lost.push((layout::wal(self.from), format!("batch {lsn} is no batch")));
                continue;
            };
            for operation in operations {
                self.apply(lsn, operation, state.is_some(), targets)?;
            }
        }
        Ok(())
    }

    fn apply(
        &mut self,
        lsn: Lsn,
        operation: record::Operation<'_>,
        catalog: bool,
        targets: &mut BTreeMap<CollectionId, Target>,
    ) -> Result<()> {
        let (id, key, row) = match operation {
            record::Operation::Upsert { collection, key, vector, payload } => {
                (collection, key.to_key(), Some((vector_from_bytes(vector), payload)))
            }
            record::Operation::Delete { collection, key } => (collection, key.to_key(), None),
        };
        let id =
            if catalog { id } else { self.guessed(id, &key, row.as_ref().map(|(v, _)| v.len()), targets)? };
        // Of a collection that was dropped, or sealed since.
        let Some(target) = targets.get_mut(&id).filter(|target| lsn > target.sealed_lsn) else {
            return Ok(());
        };
        if !target.is_news(&key, lsn) {
            return Ok(());
        }
        match row {
            Some((vector, payload)) => {
                let payload = std::str::from_utf8(payload).unwrap_or_default().to_owned();
                let collection = target.collection.clone();
                self.put(&collection, &key, &vector, &payload)
            }
            None => {
                let collection = target.collection.clone();
                if let Err(error) = self.batch.delete(&collection, key) {
                    self.lose(self.from.to_path_buf(), &error);
                }
                self.commit_if_large()
            }
        }
    }

    /// Without a catalog: where the operations on the log's collection `id` belong. The log has numbers, not names, and
    /// segments have neither; if the segments have just one kind of rows with such keys and vectors, it is those.
    fn guessed(
        &mut self,
        id: CollectionId,
        key: &Key,
        dimension: Option<usize>,
        targets: &mut BTreeMap<CollectionId, Target>,
    ) -> Result<CollectionId> {
        if targets.contains_key(&id) {
            return Ok(id);
        }
        let fits = |target: &Target| {
            let schema = target.collection.schema();
            schema.key_type() == key.as_ref().key_type() && dimension.is_none_or(|d| d == schema.dimension())
        };
        let mut fitting =
            targets.iter().filter(|(id, target)| id.0 > u32::MAX / 2 && fits(target)).map(|(id, _)| *id);
        if let (Some(only), None) = (fitting.next(), fitting.next()) {
            return Ok(only);
        }
        if let Some(dimension) = dimension {
            // The metric is not in the log.
            let schema = Schema::new(dimension, Metric::L2).keys(key.as_ref().key_type());
            let collection = self.store.collection_or_create(&format!("salvaged-log-{}", id.0), schema)?;
            targets.insert(id, Target { collection, sealed_lsn: 0, versions: Some(HashMap::new()) });
        }
        Ok(id)
    }

    fn put(&mut self, collection: &Collection, key: &Key, vector: &[f32], payload: &str) -> Result<()> {
        let payload = match payload {
            "" => None,
            text => RawValue::from_string(text.to_owned()).ok(),
        };
        if let Err(error) = self.batch.upsert(collection, key, vector, payload) {
            self.report.lost_rows += 1;
            if self.report.lost.len() < LISTED_MAX {
                self.report.lost.push((self.from.to_path_buf(), format!("the row under {key:?}: {error}")));
            }
            return Ok(());
        }
        self.commit_if_large()
    }

    fn commit_if_large(&mut self) -> Result<()> {
        if self.batch.byte_len() >= CHUNK_BYTES { self.commit() } else { Ok(()) }
    }

    fn commit(&mut self) -> Result<()> {
        std::mem::replace(&mut self.batch, self.store.batch()).commit().map(|_| ())
    }
}

impl Target {
    /// Whether a row of this version counts. With a catalog it always does: each key has one live row.
    fn is_news(&mut self, key: &Key, version: Lsn) -> bool {
        let Some(versions) = &mut self.versions else { return true };
        match versions.get_mut(key) {
            Some(known) if *known > version => false,
            Some(known) => {
                *known = version;
                true
            }
            None => {
                versions.insert(key.clone(), version);
                true
            }
        }
    }
}
