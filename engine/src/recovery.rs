//! Opening: from a folder to a store that answers.
//!
//! For writing: lock -> `FORMAT` -> catalog, validated whole -> the segments it names, checked in outline (their
//! blocks are verified at first touch, so this does not grow with rows) -> replay of the log into rows and key
//! index, searchable at once, linked behind -> a new log file for what the old one could not prove -> only then are
//! files swept that carry our names and that nothing refers to.
//!
//! For reading: a shared lock, the same order, nothing created, cut or swept.

use crate::catalog::{Catalog, CatalogState, format_file};
use crate::core::{Core, Live, Pending};
use crate::engine::Engine;
use crate::layout;
use crate::options::StoreBuilder;
use crate::store::{Handle, Store};
use crate::view::{CollectionView, Lists};
use crate::write::{Applier, Operation, apply_operation, freeze_full_segments};
use nearstone_base::faults::{failpoint, seeded};
use nearstone_base::record::{self, vector_from_bytes};
use nearstone_base::sync::{Arc, AtomicBool};
use nearstone_base::vfs::{LockKind, Vfs, VfsLock};
use nearstone_base::{CollectionId, Error, ErrorKind, KeyRef, Lsn, Result};
use nearstone_compaction::gc;
use nearstone_segments::MutableSegment;
use nearstone_wal::{Log, LogOptions, RecoverOptions, Recovered};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub(crate) fn open(builder: &StoreBuilder, vfs: &Arc<dyn Vfs>, dir: &Path) -> Result<Store> {
    let read_only = builder.options.read_only;
    prepare_folder(builder, &**vfs, dir)?;
    let lock = take_lock(&**vfs, dir, read_only)?;
    // Another process may have made the store since the first look; under the lock nobody can.
    if prepare_folder(builder, &**vfs, dir)? {
        create_store(builder, vfs, dir)?;
    }
    if !read_only {
        sync_names(&**vfs, dir)?;
    }
    let format =
        format_file::read(&**vfs, dir)?.ok_or_else(|| not_a_store(dir, "there is no FORMAT file in it"))?;
    if !read_only {
        format.writable()?;
    }
    let store = format.store;
    failpoint("recover-format-read");
    let (mut catalog, mut state) = if read_only {
        (None, Catalog::read(vfs, dir, store)?)
    } else {
        let catalog = Catalog::open(vfs.clone(), dir, store)?;
        let state = (**catalog.state()).clone();
        (Some(catalog), state)
    };

    failpoint("recover-catalog-open");
    let keep_files = Arc::new(AtomicBool::new(false));
    let live = live_from_catalog(builder, vfs, dir, &state, &keep_files)?;
    let core = Arc::new(Core::new(
        store,
        dir.to_path_buf(),
        vfs.clone(),
        builder.clock_or_default(),
        builder.random_or_default(),
        builder.options.clone(),
        live,
        // Mutable segments have taken ids of their own already.
        state.next_segment + state.collections.len() as u64,
        keep_files,
    ));
    let recovered = replay(builder, &core, &state)?;
    failpoint("recover-replayed");
    let report = recovered.report.clone();
    if let Some(catalog) = catalog.as_mut().filter(|_| report.stopped_at.is_some()) {
        // What is given up is no longer promised; before a file is moved aside.
        state.clean = None;
        state.last_lsn = recovered.last_lsn;
        state.wal_floor = state.wal_floor.min(recovered.last_lsn + 1);
        catalog.commit(state.clone())?;
        failpoint("recover-rest-given-up");
    }
    let log = match &catalog {
        None => None,
        Some(_) => Some(Log::start(
            vfs.clone(),
            &layout::wal(dir),
            store,
            recovered,
            LogOptions::default(),
            core.clock.clone(),
            core.random.clone(),
            Applier { core: core.clone() },
        )?),
    };
    failpoint("recover-log-started");
    if !read_only {
        sweep(&**vfs, dir, &state)?;
    }
    failpoint("recover-swept");
    let engine = Arc::new(Engine::new(core, log, catalog, lock));
    if !read_only {
        // Replayed rows wait to be linked.
        let unlinked = engine
            .core
            .view
            .load()
            .lists
            .collections
            .values()
            .any(|c| c.unsealed().any(|s| s.unlinked() > 0));
        if unlinked {
            engine.workers.wake(&engine);
        }
    }
    Ok(Store { handle: Arc::new(Handle { engine, recovered: report }) })
}

/// Looks at what is there; `true` when a store has to be made.
fn prepare_folder(builder: &StoreBuilder, vfs: &dyn Vfs, dir: &Path) -> Result<bool> {
    let may_create = builder.create && !builder.options.read_only;
    let missing = || {
        Error::new(
            ErrorKind::NotFound,
            format!("there is no store at {} (and creating one was not asked for)", dir.display()),
        )
    };
    match vfs.info(dir)? {
        None if may_create => {
            match vfs.create_dir(dir) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                created => created?,
            }
            failpoint("create-folder-made");
            if let Some(parent) = dir.parent() {
                vfs.sync_dir(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
            }
            return Ok(true);
        }
        None => return Err(missing()),
        Some(info) if !info.is_dir => return Err(not_a_store(dir, "it is a file, not a folder")),
        Some(_) => {}
    }
    let names = vfs.list(dir)?;
    let has_format = names.iter().any(|name| name == layout::FORMAT);
    if has_format && names.iter().any(|name| name == layout::CATALOG) {
        return Ok(false);
    }
    // Nothing, or what an interrupted creation leaves: files of ours, but no catalog yet.
    let foreign = names.iter().find(|name| !layout::CREATION_LEFTOVERS.contains(&name.as_str()));
    if let Some(name) = foreign
        && !(has_format || name == layout::CATALOG)
    {
        return Err(not_a_store(dir, &format!("it holds {name:?} and no FORMAT file")));
    }
    for sub in [layout::wal(dir), layout::segments(dir)] {
        if vfs.info(&sub)?.is_some() && !vfs.list(&sub)?.is_empty() {
            let lost = if has_format { layout::catalog(dir) } else { dir.join(layout::FORMAT) };
            return Err(Error::corruption(
                lost,
                0,
                "a file",
                format!("none, beside files in {}", sub.display()),
            ));
        }
    }
    if names.iter().any(|name| name == layout::CATALOG) {
        return Err(Error::corruption(dir.join(layout::FORMAT), 0, "a file", "none, beside a catalog"));
    }
    if let Some(name) = foreign {
        return Err(not_a_store(dir, &format!("it holds {name:?} and no catalog")));
    }
    if may_create { Ok(true) } else { Err(missing()) }
}

/// A process that was killed may have made files and not their names durable: what is built on them here would go with
/// them.
fn sync_names(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    if let Some(parent) = dir.parent() {
        // Not everybody may open the folder above, and then the name is somebody else's concern.
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match vfs.sync_dir(parent) {
            Err(error) if matches!(error.kind(), ErrorKind::ReadOnly | ErrorKind::NotFound) => {}
            synced => synced?,
        }
    }
    vfs.sync_dir(dir)?;
    vfs.sync_dir(&layout::wal(dir))
}

fn take_lock(vfs: &dyn Vfs, dir: &Path, read_only: bool) -> Result<Option<Box<dyn VfsLock>>> {
    let path = layout::lock(dir);
    let kind = if read_only { LockKind::Shared } else { LockKind::Exclusive };
    let busy = || {
        let who = if read_only { "a writer" } else { "another process or handle" };
        Error::new(ErrorKind::Busy, format!("{} is locked: {who} has the store open", path.display()))
    };
    match vfs.lock(&path, kind) {
        Ok(Some(lock)) => Ok(Some(lock)),
        Ok(None) => Err(busy()),
        // A copy on read-only media may have come without its lock file, which nobody can create there.
        Err(error) if read_only && error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the files of an empty store. Each step leaves either nothing that counts or a whole store; whoever finds the
/// leftovers starts over.
fn create_store(builder: &StoreBuilder, vfs: &Arc<dyn Vfs>, dir: &Path) -> Result<()> {
    for sub in [layout::wal(dir), layout::segments(dir)] {
        if vfs.info(&sub)?.is_none() {
            vfs.create_dir(&sub)?;
        }
        failpoint("create-room-made");
    }
    let store = match format_file::read(&**vfs, dir) {
        Ok(Some(format)) => format.store,
        Err(error) if error.kind() != ErrorKind::Corruption => return Err(error),
        _ => {
            let store = builder.random_or_default().uuid();
            format_file::create(&**vfs, dir, store)?;
            failpoint("create-format-written");
            store
        }
    };
    vfs.sync_dir(dir)?;
    Catalog::create(vfs.clone(), dir, CatalogState::new(store))?.close()?;
    failpoint("create-done");
    Ok(())
}

/// The lists as of each collection's `sealed_lsn`.
fn live_from_catalog(
    builder: &StoreBuilder,
    vfs: &Arc<dyn Vfs>,
    dir: &Path,
    state: &CatalogState,
    keep_files: &Arc<AtomicBool>,
) -> Result<Live> {
    let mut lists = Lists::default();
    let mut pending = BTreeMap::new();
    for (next_id, (id, row)) in (state.next_segment..).zip(&state.collections) {
        let mut sealed = Vec::new();
        for (segment_id, segment) in state.segments.iter().filter(|(_, segment)| segment.collection == *id) {
            let residency = builder.options.residency;
            let handle =
                crate::core::open_segment(vfs, &layout::segments(dir), &segment.meta, residency, keep_files)?;
            for ordinal in state.deaths.get(segment_id).into_iter().flatten() {
                if seeded("open-forgets-deaths") {
                    break;
                }
                // Dead before anything that can still be seen: the exact lsn no longer matters.
                handle.segment.deaths().set(ordinal, 1);
            }
            sealed.push(handle);
        }
        let view = CollectionView {
            id: *id,
            name: row.name.as_str().into(),
            schema: row.schema,
            mutable: Arc::new(MutableSegment::new(nearstone_base::SegmentId(next_id), row.schema)),
            frozen: Vec::new(),
            sealed,
            sealed_epoch: 0,
        };
        lists.collections.insert(*id, Arc::new(view));
        pending.insert(*id, Pending { first: None, sealed_lsn: row.sealed_lsn });
    }
    Ok(Live { lsn: state.last_lsn, lists: Arc::new(lists), pending })
}

/// Brings what is only in the log back into memory.
fn replay(builder: &StoreBuilder, core: &Arc<Core>, state: &CatalogState) -> Result<Recovered> {
    let wal_dir = layout::wal(&core.dir);
    let options = RecoverOptions {
        mode: builder.options.recovery,
        floor: state.wal_floor,
        generation: Some(state.generation),
        clean: state.clean,
        last_lsn_min: state.last_lsn,
        sealed_lsn_max: state.collections.values().map(|row| row.sealed_lsn).max().unwrap_or(0),
    };
    let mut live = core.live.lock();
    let recovered = nearstone_wal::recover(&*core.vfs, &wal_dir, core.uuid, &options, &mut |lsn, body| {
        replay_batch(core, &mut live, state, &wal_dir, lsn, body)
    })?;
    live.lsn = recovered.last_lsn;
    live.publish(core);
    drop(live);
    Ok(recovered)
}

fn replay_batch(
    core: &Core,
    live: &mut Live,
    state: &CatalogState,
    wal_dir: &Path,
    lsn: Lsn,
    body: &[u8],
) -> Result<()> {
    let damaged = |expected: &str, found: String| Error::corruption(wal_dir, lsn, expected, found);
    let operations = record::decode(body).ok_or_else(|| {
        damaged("a batch", format!("{} bytes that are none, in the record of lsn {lsn}", body.len()))
    })?;
    for operation in operations {
        let (collection, key, row) = match operation {
            record::Operation::Upsert { collection, key, vector, payload } => {
                (collection, key, Some((vector, payload)))
            }
            record::Operation::Delete { collection, key } => (collection, key, None),
        };
        let Some(known) = state.collections.get(&collection) else {
            if collection.0 >= state.next_collection {
                return Err(damaged(
                    &format!("a collection below {}", state.next_collection),
                    format!("collection {collection} in the record of lsn {lsn}"),
                ));
            }
            // Dropped since.
            continue;
        };
        if lsn <= known.sealed_lsn + u64::from(seeded("replay-skips-one-too-many")) {
            continue;
        }
        let operation = checked(collection, key, row, &known.schema).map_err(|error| {
            damaged("a row of its collection", format!("{error}, in the record of lsn {lsn}"))
        })?;
        apply_operation(live, lsn, &operation)?;
    }
    live.lsn = lsn;
    freeze_full_segments(core, live);
    Ok(())
}

/// What was checked before it was logged is checked again: the collection's rules hold for bytes from disk too.
fn checked(
    collection: CollectionId,
    key: KeyRef<'_>,
    row: Option<(&[u8], &[u8])>,
    schema: &nearstone_base::Schema,
) -> Result<Operation> {
    let key = key.to_key();
    schema.check_key(&key)?;
    let row = match row {
        Some((vector, payload)) => {
            let vector = vector_from_bytes(vector);
            schema.check_vector(&vector)?;
            Some((vector, payload.to_vec()))
        }
        None => None,
    };
    let hash = key.as_ref().hash64();
    Ok(Operation { collection, key, hash, row, resolved: None })
}

/// Removes files that carry our names and that nothing refers to. Unknown files stay.
fn sweep(vfs: &dyn Vfs, dir: &Path, state: &CatalogState) -> Result<()> {
    let segments = layout::segments(dir);
    let mut live: BTreeSet<_> = state.segments.keys().copied().collect();
    if seeded("sweep-takes-the-newest") {
        live.pop_last();
    }
    for name in gc::garbage(&vfs.list(&segments)?, &live) {
        failpoint("recover-before-unlink");
        vfs.remove(&segments.join(name))?;
        failpoint("recover-unlinked");
    }
    // A backup that has its catalog is whole, even if it was cut short before its mark was taken away.
    for name in ["FORMAT.tmp", "catalog.tmp", layout::UNFINISHED] {
        let path = dir.join(name);
        if vfs.info(&path)?.is_some() {
            vfs.remove(&path)?;
        }
    }
    Ok(())
}

fn not_a_store(dir: &Path, why: &str) -> Error {
    Error::new(ErrorKind::NotAStore, format!("{} is not a Nearstone store: {why}", dir.display()))
}

impl Engine {
    /// Closes the log in order and writes the clean mark.
    pub(crate) fn close_log(&self) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let mark = log.close()?;
        failpoint("close-before-mark");
        self.commit_clean(mark)?;
        failpoint("close-marked");
        Ok(())
    }
}
