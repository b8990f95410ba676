//! The store handle: collections, snapshots, and the calls that concern the whole folder.

use crate::background::BackgroundPause;
use crate::backup;
use crate::catalog::{CollectionRow, check_name};
use crate::collection::Collection;
use crate::engine::Engine;
use crate::options::StoreBuilder;
use crate::progress::{Progress, no_progress};
use crate::snapshot::Snapshot;
use crate::stats::StoreStats;
use crate::verify::{self, VerifyReport};
use crate::view::dropped;
use nearstone_base::faults::failpoint;
use nearstone_base::sync::{Arc, Ordering};
use nearstone_base::{CollectionId, Error, ErrorKind, Lsn, Result, Schema, Uuid};
use nearstone_wal::RecoveryReport;
use std::path::Path;

/// An open store: one folder, one writer process. Cheap to clone; works from any thread. When the last handle (of
/// the store, its collections and batches) is dropped, the log is synced and the threads are joined; call
/// [`Store::close`] to learn whether that worked.
#[derive(Clone)]
pub struct Store {
    pub(crate) handle: Arc<Handle>,
}

/// What all handles share. Workers hold the engine, not this: the last handle ends them.
pub(crate) struct Handle {
    pub(crate) engine: Arc<Engine>,
    pub(crate) recovered: RecoveryReport,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Nobody is left to hear of an error; what was acknowledged as synced is safe whatever happens here.
        let _ = self.engine.shut_down();
    }
}

impl Store {
    /// Opens the store in a folder with default options; a missing or empty folder becomes a new store.
    ///
    /// # Errors
    ///
    /// See [`StoreBuilder::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Store> {
        Store::builder().open(path)
    }

    /// A store that lives in memory.
    pub fn in_memory() -> Result<Store> {
        Store::builder().in_memory()
    }

    /// Starts from the default options.
    pub fn builder() -> StoreBuilder {
        StoreBuilder::new()
    }

    /// The store's identity.
    pub fn uuid(&self) -> Uuid {
        self.handle.engine.core.uuid
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.handle.engine.core.dir
    }

    /// Whether calls can go on.
    ///
    /// # Errors
    ///
    /// `Closed` after [`Store::close`], and in a forked child of the process that opened it.
    pub fn check_open(&self) -> Result<()> {
        self.handle.engine.core.check_open()
    }

    /// What the opening found in the log: rows replayed, a torn tail that was cut.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.handle.recovered
    }

    /// Makes a collection.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` when there is one of that name; `InvalidArgument` for a bad name or schema.
    pub fn create_collection(&self, name: &str, schema: Schema) -> Result<Collection> {
        check_name(name)?;
        schema.validate()?;
        let engine = &self.handle.engine;
        let core = &engine.core;
        let mut catalog = engine.catalog()?;
        if let Some(row) = catalog.state().collections.values().find(|row| row.name == name) {
            return Err(exists(name, &row.schema, &schema));
        }
        let id = CollectionId(catalog.state().next_collection);
        let row =
            CollectionRow { name: name.to_owned(), schema, sealed_lsn: 0, created_secs: core.wall_secs() };
        failpoint("collection-before-create");
        // Committed before any record of the log can name it.
        catalog.commit(|next| {
            next.next_collection += 1;
            next.collections.insert(id, row);
        })?;
        failpoint("collection-created");
        let mutable = core.take_segment_id();
        let view = {
            let mut live = core.live.lock();
            live.add_collection(id, name, schema, mutable);
            live.publish(core);
            live.lists.collections[&id].clone()
        };
        engine.log()?.barrier(catalog.state().generation)?;
        Ok(Collection::new(self.handle.clone(), &view))
    }

    /// The collection of that name.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    pub fn collection(&self, name: &str) -> Result<Collection> {
        let core = &self.handle.engine.core;
        core.check_open()?;
        let view = core.view.load();
        match view.lists.by_name(name) {
            Some(view) => Ok(Collection::new(self.handle.clone(), view)),
            None => Err(Error::new(
                ErrorKind::NotFound,
                format!(
                    "the store {} has no collection {name:?}; it has {}",
                    core.dir.display(),
                    names(view.lists.collections.values().map(|c| &*c.name))
                ),
            )),
        }
    }

    /// The collection of that name, made if it is not there.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` when it is there with another dimension, metric or type of keys. Its graph may have another shape than
    /// that of `schema`: see [`Collection::rebuild`].
    pub fn collection_or_create(&self, name: &str, schema: Schema) -> Result<Collection> {
        let present = || -> Result<Option<Collection>> {
            match self.collection(name) {
                Ok(found) if found.schema().same_rows(&schema) => Ok(Some(found)),
                Ok(found) => Err(exists(name, &found.schema(), &schema)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        };
        if let Some(found) = present()? {
            return Ok(found);
        }
        match self.create_collection(name, schema) {
            // Someone else was faster.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => present()?.ok_or(error),
            result => result,
        }
    }

    /// The names of all collections, sorted.
    pub fn collections(&self) -> Result<Vec<String>> {
        let core = &self.handle.engine.core;
        core.check_open()?;
        let view = core.view.load();
        let mut names: Vec<String> = view.lists.collections.values().map(|c| c.name.to_string()).collect();
        names.sort();
        Ok(names)
    }

    /// Gives a collection another name. Handles go on working.
    ///
    /// # Errors
    ///
    /// `NotFound`; `AlreadyExists` when the new name is taken.
    pub fn rename_collection(&self, from: &str, to: &str) -> Result<()> {
        check_name(to)?;
        let engine = &self.handle.engine;
        let core = &engine.core;
        let mut catalog = engine.catalog()?;
        let id = self.collection(from)?.id;
        if from == to {
            return Ok(());
        }
        if let Some(row) = catalog.state().collections.values().find(|row| row.name == to) {
            let schema = row.schema;
            return Err(exists(to, &schema, &schema));
        }
        failpoint("collection-before-rename");
        catalog.commit(|next| {
            if let Some(row) = next.collections.get_mut(&id) {
                row.name = to.to_owned();
            }
        })?;
        failpoint("collection-renamed");
        {
            let mut live = core.live.lock();
            live.change(id, |view| view.name = to.into());
            live.publish(core);
        }
        engine.log()?.barrier(catalog.state().generation)
    }

    /// Removes a collection and its rows. Batches that were queued and name it fail whole; handles to it get
    /// `NotFound`; snapshots go on seeing it. Its files go when the last of them is dropped.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    pub fn drop_collection(&self, name: &str) -> Result<()> {
        let engine = &self.handle.engine;
        let core = &engine.core;
        let mut catalog = engine.catalog()?;
        let id = self.collection(name)?.id;
        let log = engine.log()?;
        // No batch is between its admission and its effect while this runs.
        let gone = log.exclusive(|_| -> Result<_> {
            failpoint("collection-before-drop");
            catalog.commit(|next| {
                next.collections.remove(&id);
                let segments: Vec<_> =
                    next.segments.iter().filter(|(_, row)| row.collection == id).map(|(id, _)| *id).collect();
                for segment in segments {
                    next.segments.remove(&segment);
                    next.deaths.remove(&segment);
                }
            })?;
            failpoint("collection-dropped");
            let mut live = core.live.lock();
            let gone = Arc::make_mut(&mut live.lists).collections.remove(&id);
            live.pending.remove(&id);
            live.publish(core);
            Ok(gone)
        })?;
        let Some(gone) = gone else { return Err(dropped(name)) };
        for handle in &gone.sealed {
            handle.set_obsolete();
        }
        failpoint("collection-drop-before-barrier");
        log.barrier(catalog.state().generation)?;
        engine.announce_room();
        Ok(())
    }

    /// What is visible now, for as long as it is held.
    pub fn snapshot(&self) -> Snapshot {
        let engine = &self.handle.engine;
        Snapshot { view: engine.core.view.load_full(), engine: Arc::downgrade(engine) }
    }

    /// Makes everything that was acknowledged so far survive a power loss, whatever durability it was written with.
    /// Returns the lsn up to which that now holds.
    ///
    /// # Errors
    ///
    /// `Poisoned` or `Io` when it can't be known to hold; `ReadOnly`, `Closed`.
    pub fn persist(&self) -> Result<Lsn> {
        let engine = &self.handle.engine;
        engine.core.check_open()?;
        engine.log()?.sync().inspect_err(|_| engine.note_poison())
    }

    /// Seals what is in memory, in all collections, now.
    ///
    /// # Errors
    ///
    /// As [`Collection::flush`].
    pub fn flush(&self) -> Result<()> {
        let engine = &self.handle.engine;
        engine.check_healthy()?;
        for id in engine.collection_ids() {
            engine.flush_collection(id, None)?;
        }
        Ok(())
    }

    /// Merges each collection's sealed segments into one without dead rows; see [`Collection::compact`].
    pub fn compact(&self) -> Result<()> {
        self.compact_with(&mut no_progress)
    }

    /// [`Store::compact`] that reports progress and can be cancelled.
    pub fn compact_with(&self, progress: Progress<'_>) -> Result<()> {
        let engine = &self.handle.engine;
        engine.check_healthy()?;
        for id in engine.collection_ids() {
            engine.compact_collection(id, progress)?;
        }
        Ok(())
    }

    /// Parks the work behind (linking, seals, compactions) where it is, within milliseconds, until what this returns is dropped.
    /// Pauses of several callers add up.
    ///
    /// Nobody waits for ever because of it: calls such as [`Store::flush`], [`Store::compact`] and [`Collection::rebuild`] do
    /// what they say; work that holds up a call, or a writer who finds the memory budget used up, goes on for as long as they
    /// wait. Writers go on linking what they add to a long tail. Syncs of [`Durability::Interval`](crate::Durability) are not
    /// paused. Rows that are not linked are scanned meanwhile, and the log grows.
    #[must_use = "dropping it resumes the work behind"]
    pub fn pause_background(&self) -> BackgroundPause {
        BackgroundPause::new(&self.handle.engine)
    }

    /// Makes the work behind give up the pieces that are under way. A compaction or a seal leaves nothing then, and is begun
    /// anew a moment later, if nobody has paused it.
    pub fn cancel_background(&self) {
        self.handle.engine.pace.cancel();
    }

    /// Does one piece of the work behind (link, seal, compact) on this thread and says whether there was any; while it is
    /// paused there is none. With
    /// [`Background::Manual`](crate::Background::Manual) nothing else does.
    ///
    /// # Errors
    ///
    /// Those of the work.
    pub fn step(&self) -> Result<bool> {
        let engine = &self.handle.engine;
        engine.check_healthy()?;
        engine.step()
    }

    /// Numbers about the store: rows, bytes by section, memory, log, work behind.
    pub fn stats(&self) -> Result<StoreStats> {
        crate::stats::collect(&self.handle.engine)
    }

    /// Reads everything and checks it: every block's checksum, the structure of every file, and that every key has
    /// one live row at most.
    ///
    /// # Errors
    ///
    /// `Corruption` with the first damage found.
    pub fn verify(&self) -> Result<VerifyReport> {
        self.verify_with(&mut no_progress)
    }

    /// [`Store::verify`] that reports progress and can be cancelled.
    pub fn verify_with(&self, progress: Progress<'_>) -> Result<VerifyReport> {
        verify::verify(&self.handle.engine, progress)
    }

    /// Copies the store, as of now, into a missing or empty folder, while writes go on. The copy is a store of its
    /// own, with the same identity and rows.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` when the folder holds something; `DiskFull`, `Io`. A backup that did not finish does not open.
    pub fn backup(&self, into: impl AsRef<Path>) -> Result<Lsn> {
        self.backup_with(into, &mut no_progress)
    }

    /// [`Store::backup`] that reports progress and can be cancelled.
    pub fn backup_with(&self, into: impl AsRef<Path>, progress: Progress<'_>) -> Result<Lsn> {
        backup::backup(&self.handle.engine, into.as_ref(), progress)
    }

    /// Ends it: stops the work behind, syncs the log, marks the end as clean and releases the lock. All other
    /// handles get `Closed` from now on. Closing twice is not an error.
    ///
    /// # Errors
    ///
    /// What went wrong on the way; the store is closed all the same.
    pub fn close(&self) -> Result<()> {
        self.handle.engine.shut_down()
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.path().display())
    }
}

impl Engine {
    /// Closes: at most once, whoever asks first.
    pub(crate) fn shut_down(self: &Arc<Self>) -> Result<()> {
        if !self.core.is_ours() {
            self.forget_in_child();
            return Ok(());
        }
        if !self.core.set_closed() {
            return Ok(());
        }
        self.pace.end();
        self.workers.stop();
        failpoint("close-workers-stopped");
        // A snapshot may outlive the lock, and so may a call that takes an id after the last transaction said which come next: from
        // then on the files are somebody else's, and the next open sweeps.
        self.core.keep_files.store(true, Ordering::Release);
        let marked = self.close_log();
        let released = self.release();
        marked.and(released)
    }

    pub(crate) fn collection_ids(&self) -> Vec<CollectionId> {
        self.core.view.load().lists.collections.keys().copied().collect()
    }
}

fn exists(name: &str, is: &Schema, wanted: &Schema) -> Error {
    let how = if is == wanted {
        "with the same schema".to_owned()
    } else {
        format!("with another schema: {}; asked for: {}", describe(is), describe(wanted))
    };
    Error::new(ErrorKind::AlreadyExists, format!("the collection {name:?} exists already, {how}"))
}

/// A schema in words, for messages.
pub(crate) fn describe(schema: &Schema) -> String {
    format!(
        "dimension {}, metric {}, keys {}, m {}, ef_construction {}, profile {}, codes {}",
        schema.dimension(),
        schema.metric().name(),
        schema.key_type().name(),
        schema.links(),
        schema.beam(),
        schema.chosen_profile().name(),
        schema.chosen_codes().name()
    )
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let shown: Vec<String> = names.take(8).map(|name| format!("{name:?}")).collect();
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}
