//! Handles to collections: reads of the present, reads of a snapshot, and writes.

use crate::batch::{Batch, Commit};
use crate::keys::Keys;
use crate::progress::{Progress, no_progress};
use crate::rebuild::RebuildOptions;
use crate::row::Row;
use crate::search::{Queries, Search};
use crate::snapshot::Snapshot;
use crate::store::Handle;
use crate::view::{CollectionView, View};
use nearstone_base::sync::Arc;
use nearstone_base::{CollectionId, Error, Key, Lsn, Result, Schema};
use serde::Serialize;

/// A batch of `upsert_many` is committed when it has reached so many bytes.
const CHUNK_BYTES: usize = 4 << 20;

/// A collection of a store. Cheap to clone; works from any thread. After the collection was dropped every call is
/// `NotFound`, after the store was closed `Closed`.
#[derive(Clone)]
pub struct Collection {
    pub(crate) handle: Arc<Handle>,
    pub(crate) id: CollectionId,
    schema: Schema,
    name: Arc<str>,
}

impl Collection {
    pub(crate) fn new(handle: Arc<Handle>, view: &CollectionView) -> Collection {
        Collection { handle, id: view.id, schema: view.schema, name: view.name.clone() }
    }

    /// Its name now (it may have been renamed since the handle was made).
    pub fn name(&self) -> Result<String> {
        Ok(self.present()?.1.name.to_string())
    }

    /// For messages.
    pub(crate) fn name_when_opened(&self) -> &str {
        &self.name
    }

    /// Its schema now: a rebuild changes the shape of the graph. Once it is dropped, the one that it had when this handle
    /// was made.
    pub fn schema(&self) -> Schema {
        self.found().map_or(self.schema, |(_, collection)| collection.schema)
    }

    /// For rows, to which every schema that it ever has says the same.
    pub(crate) fn schema_when_opened(&self) -> &Schema {
        &self.schema
    }

    /// Puts a row under `key`, replacing what is there. The payload is anything that serialises to a JSON object,
    /// or `()` for none. Returns the row's version.
    ///
    /// # Errors
    ///
    /// See [`Batch::upsert`] and [`Batch::commit`].
    pub fn upsert(&self, key: impl Into<Key>, vector: &[f32], payload: impl Serialize) -> Result<Lsn> {
        let mut batch = Batch::new(self.handle.clone());
        batch.upsert(self, key, vector, payload)?;
        Ok(batch.commit()?.lsn)
    }

    /// Puts many rows, `(key, vector, payload)` each, in batches of a few megabytes: fast, but not atomic as a
    /// whole (for that, use a [`Batch`]). Returns the last lsn and the sums.
    ///
    /// # Errors
    ///
    /// As [`Collection::upsert`]; the rows of the batches before the failing one stay.
    pub fn upsert_many<K, V, P>(&self, rows: impl IntoIterator<Item = (K, V, P)>) -> Result<Commit>
    where
        K: Into<Key>,
        V: AsRef<[f32]>,
        P: Serialize,
    {
        let mut total = Commit { lsn: 0, upserted: 0, deleted: 0, results: Vec::new() };
        let mut batch = Batch::new(self.handle.clone());
        for (row, (key, vector, payload)) in rows.into_iter().enumerate() {
            batch
                .upsert(self, key, vector.as_ref(), payload)
                .map_err(|error| error.context(format!("row {row}")))?;
            if batch.byte_len() >= CHUNK_BYTES {
                let full = std::mem::replace(&mut batch, Batch::new(self.handle.clone()));
                let commit = full.commit()?;
                total.lsn = commit.lsn;
                total.upserted += commit.upserted;
            }
        }
        let commit = batch.commit()?;
        total.lsn = commit.lsn;
        total.upserted += commit.upserted;
        Ok(total)
    }

    /// Puts the rows of a matrix, `keys.len()` times the dimension numbers in row order, without payloads.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when the matrix has another size; else as [`Collection::upsert_many`].
    pub fn upsert_matrix<K: Into<Key> + Clone>(&self, keys: &[K], matrix: &[f32]) -> Result<Commit> {
        let dimension = self.schema.dimension();
        if matrix.len() != keys.len() * dimension {
            return Err(Error::invalid(format!(
                "the matrix has {} numbers: {} keys of dimension {dimension} need {}",
                matrix.len(),
                keys.len(),
                keys.len() * dimension
            )));
        }
        self.upsert_many(keys.iter().zip(matrix.chunks_exact(dimension)).map(|(k, v)| (k.clone(), v, ())))
    }

    /// Removes the row under `key`; whether there was one.
    ///
    /// # Errors
    ///
    /// See [`Batch::commit`].
    pub fn delete(&self, key: impl Into<Key>) -> Result<bool> {
        let mut batch = Batch::new(self.handle.clone());
        batch.delete(self, key)?;
        Ok(batch.commit()?.deleted == 1)
    }

    /// The row under `key`.
    pub fn get(&self, key: impl Into<Key>) -> Result<Option<Row>> {
        self.now()?.get(key)
    }

    /// The rows under `keys`, in their order, all from one moment.
    pub fn get_many<K: Into<Key>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Option<Row>>> {
        self.now()?.get_many(keys)
    }

    /// Whether there is a row under `key`.
    pub fn contains(&self, key: impl Into<Key>) -> Result<bool> {
        self.now()?.contains(key)
    }

    /// All keys in their order, from one moment.
    pub fn keys(&self) -> Result<Keys> {
        self.now()?.keys()
    }

    /// The keys after `key` in their order: for going on where an earlier listing stopped.
    pub fn keys_after(&self, key: impl Into<Key>) -> Result<Keys> {
        self.now()?.keys_after(key)
    }

    /// Live rows. Cost: proportional to the rows that died, not to those that live.
    pub fn len(&self) -> Result<u64> {
        Ok(self.now()?.len())
    }

    /// Whether it has no live row.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.now()?.len() == 0)
    }

    /// Starts a search for the rows nearest to `query`.
    pub fn search<'a>(&'a self, query: &'a [f32]) -> Search<'a> {
        let view = self.found().map(|(view, collection)| (collection, view.lsn));
        Search::new(&self.handle.engine.core, view, query)
    }

    /// Starts a search for the rows nearest to each row of `matrix`, queries back to back.
    ///
    /// Finds what one search after another does, and shares the work among threads.
    pub fn search_many<'a>(&'a self, matrix: &'a [f32]) -> Search<'a, Queries<'a>> {
        let view = self.found().map(|(view, collection)| (collection, view.lsn));
        Search::many(&self.handle.engine.core, view, matrix)
    }

    /// The collection as it is now, for reads that are to agree with each other.
    ///
    /// # Errors
    ///
    /// `NotFound`, `Closed`.
    pub fn now(&self) -> Result<CollectionAt> {
        let (view, collection) = self.present()?;
        Ok(CollectionAt { handle: self.handle.clone(), view: collection, at: view.lsn })
    }

    /// The collection as a snapshot sees it, also after it was dropped.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a snapshot of another store; `NotFound` when the collection is younger than the
    /// snapshot.
    pub fn at(&self, snapshot: &Snapshot) -> Result<CollectionAt> {
        if !std::ptr::eq(snapshot.engine.as_ptr(), Arc::as_ptr(&self.handle.engine)) {
            return Err(Error::invalid(format!(
                "the snapshot is one of another store than {}, to which the collection {:?} belongs",
                self.handle.engine.core.dir.display(),
                self.name
            )));
        }
        let view = snapshot.view.lists.collections.get(&self.id).ok_or_else(|| {
            Error::new(
                nearstone_base::ErrorKind::NotFound,
                format!(
                    "the collection {:?} was created after the snapshot at lsn {}",
                    self.name,
                    snapshot.lsn()
                ),
            )
        })?;
        Ok(CollectionAt { handle: self.handle.clone(), view: view.clone(), at: snapshot.view.lsn })
    }

    /// Puts every row that is not in a graph yet into it, on `threads` threads (this one among them, 1024 at most), and returns
    /// when none is left. Searches are right without it, and scan such rows.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for 0 threads; `ReadOnly`, `Closed`, `NotFound`, `Poisoned`.
    pub fn link(&self, threads: usize) -> Result<()> {
        if threads == 0 {
            return Err(Error::invalid("0 threads: linking needs at least 1"));
        }
        self.present()?;
        self.handle.engine.link_collection(self.id, threads)
    }

    /// Seals what is in memory, now, and returns when it is a file.
    ///
    /// # Errors
    ///
    /// `ReadOnly`, `Closed`, `NotFound`, `DiskFull`, `Io`, `Poisoned`.
    pub fn flush(&self) -> Result<()> {
        self.present()?;
        self.handle.engine.flush_collection(self.id, None)
    }

    /// Merges all sealed segments into one without dead rows. The rows in memory are sealed first.
    ///
    /// # Errors
    ///
    /// As [`Collection::flush`], and `Cancelled`.
    pub fn compact(&self) -> Result<()> {
        self.compact_with(&mut no_progress)
    }

    /// [`Collection::compact`] that reports progress and can be cancelled.
    pub fn compact_with(&self, progress: Progress<'_>) -> Result<()> {
        self.present()?;
        self.handle.engine.compact_collection(self.id, progress)
    }

    /// Builds all of its segments anew, by other parameters or by the same ones, while reads and writes go on. Rows that come
    /// meanwhile are linked by the new parameters when this returns or soon after.
    ///
    /// Everything changes at one moment: until then, and after an error or a crash before, all is as it was.
    ///
    /// Cost: a graph of all rows from nothing, and writing them, on all cores (on one with
    /// [`Background::Manual`](crate::Background::Manual)). Disk: as much again as the collection takes. Compactions wait
    /// meanwhile, and in the end seals do for what was sealed since the last look, a little as a rule.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for parameters out of their ranges. As [`Collection::flush`], and `Corruption`: nothing
    /// has changed.
    pub fn rebuild(&self, options: RebuildOptions) -> Result<()> {
        self.rebuild_with(options, &mut no_progress)
    }

    /// [`Collection::rebuild`] that reports progress and can be cancelled (`Cancelled`: nothing has changed).
    pub fn rebuild_with(&self, options: RebuildOptions, progress: Progress<'_>) -> Result<()> {
        self.present()?;
        self.handle.engine.rebuild_collection(self.id, &self.name, options, progress)
    }

    fn present(&self) -> Result<(Arc<View>, Arc<CollectionView>)> {
        self.handle.engine.core.check_open()?;
        self.found()
    }

    /// As `present`, for who asks later whether the store is open: that is a system call.
    fn found(&self) -> Result<(Arc<View>, Arc<CollectionView>)> {
        let view = self.handle.engine.core.view.load_full();
        let collection = view.lists.get(self.id, &self.name)?.clone();
        Ok((view, collection))
    }
}

impl std::fmt::Debug for Collection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Collection({:?}, {:?})", self.name, self.schema())
    }
}

/// A collection at one moment: reads always see the same rows.
#[derive(Clone)]
pub struct CollectionAt {
    pub(crate) handle: Arc<Handle>,
    pub(crate) view: Arc<CollectionView>,
    pub(crate) at: Lsn,
}

impl CollectionAt {
    /// The collection's schema.
    pub fn schema(&self) -> &Schema {
        &self.view.schema
    }

    /// The row under `key`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a key of the wrong type; `Closed`; `Corruption`.
    pub fn get(&self, key: impl Into<Key>) -> Result<Option<Row>> {
        let key = key.into();
        let Some((segment, ordinal)) = self.find(&key)? else { return Ok(None) };
        Ok(Some(Row {
            vector: segment.vector(ordinal)?,
            payload: segment.payload(ordinal)?.to_vec(),
            version: segment.version(ordinal)?,
        }))
    }

    /// The rows under `keys`, in their order.
    pub fn get_many<K: Into<Key>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Option<Row>>> {
        keys.into_iter().map(|key| self.get(key)).collect()
    }

    /// Whether there is a row under `key`.
    pub fn contains(&self, key: impl Into<Key>) -> Result<bool> {
        Ok(self.find(&key.into())?.is_some())
    }

    /// All keys in their order.
    pub fn keys(&self) -> Result<Keys> {
        Keys::new(self.handle.clone(), self.view.clone(), self.at, None)
    }

    /// The keys after `key` in their order.
    pub fn keys_after(&self, key: impl Into<Key>) -> Result<Keys> {
        let key = key.into();
        self.view.schema.check_key(&key)?;
        Keys::new(self.handle.clone(), self.view.clone(), self.at, Some(&key))
    }

    /// Live rows.
    #[expect(clippy::len_without_is_empty, reason = "is_empty is there, on the collection")]
    pub fn len(&self) -> u64 {
        self.view.live_rows(self.at)
    }

    /// Starts a search for the rows nearest to `query`.
    pub fn search<'a>(&'a self, query: &'a [f32]) -> Search<'a> {
        Search::new(&self.handle.engine.core, Ok((self.view.clone(), self.at)), query)
    }

    /// Starts a search for the rows nearest to each row of `matrix`, as [`Collection::search_many`] does.
    pub fn search_many<'a>(&'a self, matrix: &'a [f32]) -> Search<'a, Queries<'a>> {
        Search::many(&self.handle.engine.core, Ok((self.view.clone(), self.at)), matrix)
    }

    fn find(&self, key: &Key) -> Result<Option<(crate::view::Segment<'_>, u32)>> {
        self.handle.engine.core.check_open()?;
        self.view.schema.check_key(key)?;
        self.view.find_at(key.as_ref(), self.at)
    }
}

impl std::fmt::Debug for CollectionAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CollectionAt({:?}, lsn {})", self.view.name, self.at)
    }
}
