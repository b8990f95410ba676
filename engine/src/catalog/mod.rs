//! The catalog: the one file that says which collections and segments a store has, which rows are dead, and from
//! where the log must be replayed. A commit to it is one of the store's two commit points (the other one is the sync
//! of the log).
//!
//! - [`state`] is what it says: a plain value with rules.
//! - [`rows`] turns a state into rows of redb's tables, each with a checksum, under one digest.
//! - [`pages`] is the file: redb's pages, each with a checksum; [`backend`] and [`overlay`] show it to redb, the first
//!   for writing, the second with all writes kept in memory.
//! - [`trees`] walks redb's trees before redb does, so that a forged file can lead it nowhere.
//! - [`format_file`] is the small file `FORMAT` that is read before all of this.
//!
//! Opening reads everything through the overlay, so that redb meets no byte that was not checked and a catalog is
//! found whole (every row, and redb's own trees and allocator) before it is opened for writing. An empty or missing file is damage: redb would quietly begin a
//! new one. A commit is one redb transaction, synced (two phases, with the allocator's state in it, so that no open ever
//! needs a repair). When one fails, nobody knows what the disk holds: no further byte is written until
//! the next open, not even by redb's own shutdown.
//!
//! The checksums leave one way to bring redb into trouble: a page that is whole, in its place and out of date, because a
//! disk lost a write it had acknowledged. redb may follow such a page into a panic; while reading that panic
//! is caught and comes back as `Corruption` (a program built with `panic = "abort"` ends instead).
//!
//! Only this module names redb.

mod backend;
pub(crate) mod format_file;
mod overlay;
mod pages;
mod rows;
mod state;
#[cfg(test)]
mod tests;
mod trees;

pub(crate) use state::{CatalogState, CollectionRow, SegmentRow, check_name};

use backend::FileBackend;
use nearstone_base::faults::failpoint;
use nearstone_base::sync::Arc;
use nearstone_base::vfs::{OpenMode, Vfs};
use nearstone_base::{Codes, Error, ErrorKind, Outcome, Result, Uuid};
use overlay::OverlayBackend;
use pages::PageFile;
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, TableHandle,
};
use rows::{Change, Decoder, Digest, Flaw, Table};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// The file's name in the store's folder.
pub(crate) const CATALOG_FILE: &str = "catalog";

/// Its name while a new one is built.
const CATALOG_TMP: &str = "catalog.tmp";

/// redb's page cache; its default is a gigabyte.
const CACHE_BYTES: usize = 4 << 20;

type RowTable = TableDefinition<'static, u64, &'static [u8]>;

/// A catalog open for writing.
#[derive(Debug)]
pub(crate) struct Catalog {
    /// `None` only while it is being closed.
    db: Option<Database>,
    file: Arc<PageFile>,
    state: Arc<CatalogState>,
    digest: Digest,
}

impl Catalog {
    /// Whether the folder has a file of that name, of any length.
    pub(crate) fn exists(vfs: &dyn Vfs, dir: &Path) -> Result<bool> {
        Ok(vfs.info(&dir.join(CATALOG_FILE))?.is_some_and(|info| !info.is_dir))
    }

    /// Creates a catalog with its first state: built under another name, synced, renamed, the folder synced. After a
    /// crash there is all of it or no file `catalog`. `AlreadyExists` when there is one. Leaves it open for writing.
    #[expect(clippy::needless_pass_by_value, reason = "a first state is given away, as a next one is")]
    pub(crate) fn create(vfs: Arc<dyn Vfs>, dir: &Path, state: CatalogState) -> Result<Catalog> {
        state.check().map_err(|rule| Error::invalid(format!("a catalog can't begin with {rule}")))?;
        if Catalog::exists(&*vfs, dir)? {
            let path = dir.join(CATALOG_FILE);
            return Err(Error::new(ErrorKind::AlreadyExists, format!("{} exists already", path.display())));
        }
        let tmp = dir.join(CATALOG_TMP);
        let file = Arc::new(PageFile::new(vfs.open(&tmp, OpenMode::Truncate)?, tmp.clone(), state.store));
        let db = open_database(&file, FileBackend(file.clone()))?;
        let (changes, _) = rows::changes(None, &state, &Digest::default());
        write_rows(&file, &db, &changes)?;
        shut(&file, db)?;
        failpoint("catalog-built");
        file.sync_all()?;
        failpoint("catalog-built-synced");
        vfs.rename_new(&tmp, &dir.join(CATALOG_FILE))?;
        failpoint("catalog-named");
        vfs.sync_dir(dir)?;
        failpoint("catalog-name-synced");
        let catalog = Catalog::open(vfs, dir, state.store)?;
        if *catalog.state == state {
            return Ok(catalog);
        }
        catalog.poison();
        Err(unreadable(catalog.file.path(), "another state than the one just written"))
    }

    /// Opens the catalog of the store `store`: validated whole before the first byte is written. `Corruption` when it is
    /// missing, empty, damaged or another store's.
    #[expect(clippy::needless_pass_by_value, reason = "the same shape as create")]
    pub(crate) fn open(vfs: Arc<dyn Vfs>, dir: &Path, store: Uuid) -> Result<Catalog> {
        let (state, digest) = validate(&*vfs, dir, store)?;
        let file = Arc::new(open_file(&*vfs, dir, store, OpenMode::ReadWrite)?);
        let db = open_database(&file, FileBackend(file.clone()))?;
        let again = load(&file, &db, store).map(|(again, _)| again == state);
        match again {
            Ok(true) => Ok(Catalog { db: Some(db), file, state: Arc::new(state), digest }),
            other => {
                file.poison().poison();
                Err(other
                    .err()
                    .unwrap_or_else(|| unreadable(file.path(), "another state at the second reading")))
            }
        }
    }

    /// Reads the catalog and writes nothing.
    pub(crate) fn read(vfs: &Arc<dyn Vfs>, dir: &Path, store: Uuid) -> Result<CatalogState> {
        Ok(validate(&**vfs, dir, store)?.0)
    }

    /// The state last committed.
    pub(crate) fn state(&self) -> &Arc<CatalogState> {
        &self.state
    }

    /// Makes `next` the state, under the next generation (whatever `next` says of it), durable when this returns.
    /// Writes only rows that changed. Costs two syncs, more when the file grows.
    ///
    /// A state that breaks a rule is `InvalidArgument` and nothing has happened. After any other error it is not
    /// known which of the two states the next open finds: [`Catalog::state`] stays, and every later call is
    /// `Poisoned`.
    pub(crate) fn commit(&mut self, mut next: CatalogState) -> Result<()> {
        let Some(db) = self.db.as_ref().filter(|_| !self.file.poison().is_poisoned()) else {
            return Err(poisoned(self.file.path()));
        };
        next.generation = self.state.generation + 1;
        next.check()
            .and_then(|()| next.check_follows(&self.state))
            .map_err(|rule| Error::invalid(format!("the catalog can't become a state with {rule}")))?;
        let (changes, digest) = rows::changes(Some(&self.state), &next, &self.digest);
        if let Err(error) = write_rows(&self.file, db, &changes) {
            self.poison();
            return Err(error.with_outcome(Outcome::Indeterminate));
        }
        self.state = Arc::new(next);
        self.digest = digest;
        Ok(())
    }

    /// From now on no byte of the file is written, not even when this is dropped.
    pub(crate) fn poison(&self) {
        self.file.poison().poison();
    }

    /// Closes it in order. `Poisoned` when it was poisoned; nothing is written then.
    pub(crate) fn close(mut self) -> Result<()> {
        let was_poisoned = self.file.poison().is_poisoned();
        if let Some(db) = self.db.take() {
            shut(&self.file, db)?;
        }
        if was_poisoned { Err(poisoned(self.file.path())) } else { Ok(()) }
    }
}

impl Drop for Catalog {
    fn drop(&mut self) {
        if let Some(db) = self.db.take() {
            // The file is as good as before, clean shutdown or not; whoever wants to know calls close().
            let _ = shut(&self.file, db);
        }
    }
}

/// Reads everything through the overlay.
fn validate(vfs: &dyn Vfs, dir: &Path, store: Uuid) -> Result<(CatalogState, Digest)> {
    let file = Arc::new(open_file(vfs, dir, store, OpenMode::Read)?);
    trees::check(&file)?;
    let overlay = OverlayBackend::new(file.clone())?;
    let db = open_database(&file, overlay)?;
    let loaded = load(&file, &db, store);
    // Also where the rows are refused: redb frees pages when it closes, of any number that its books name, and a panic
    // in there ends the process. Once it has refused its own trees it closes without.
    let trees = check_trees(&file, db);
    let loaded = loaded?;
    trees?;
    Ok(loaded)
}

/// Has redb compare its trees with the checksums in them and rebuild the allocator's state from them, then closes it.
/// This reaches what the digest of the rows does not: a page of redb's own books that is whole but out of date, which
/// would let a later commit overwrite pages in use. Reads every page in use once.
fn check_trees(file: &PageFile, mut db: Database) -> Result<()> {
    let mut ended = false;
    let checked = guarded(file, || {
        let sound = db.check_integrity();
        ended = true;
        Ok(sound?)
    });
    if !ended {
        // It panicked over its books, and would follow them again to close. Its memory and the open file are the price.
        std::mem::forget(db);
        return checked.map(drop);
    }
    let closed = shut(file, db);
    if checked? {
        return closed;
    }
    Err(unreadable(file.path(), "trees or an allocator state that do not fit together"))
}

/// Opens the file if it is one that redb may see.
fn open_file(vfs: &dyn Vfs, dir: &Path, store: Uuid, mode: OpenMode) -> Result<PageFile> {
    let path: PathBuf = dir.join(CATALOG_FILE);
    let missing = |found: &str| Err(Error::corruption(&path, 0, "the store's catalog", found));
    match vfs.info(&path)? {
        None => return missing("no file"),
        Some(info) if info.is_dir => return missing("a folder"),
        Some(info) if info.len == 0 => return missing("an empty file"),
        Some(_) => {}
    }
    let file = PageFile::new(vfs.open(&path, mode)?, path, store);
    file.len()?;
    let mut header = [0; pages::HEADER];
    file.read_header(&mut header)?;
    Ok(file)
}

fn open_database(file: &PageFile, backend: impl StorageBackend) -> Result<Database> {
    guarded(file, || Ok(Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend)?))
}

/// Closes redb, which may write, and reports whether that failed.
fn shut(file: &PageFile, db: Database) -> Result<()> {
    guarded(file, || {
        drop(db);
        Ok(())
    })?;
    file.failure().map_or(Ok(()), Err)
}

fn load(file: &PageFile, db: &Database, store: Uuid) -> Result<(CatalogState, Digest)> {
    let mut decoder = Decoder::new(store);
    let mut flaw = None;
    guarded(file, || {
        let read = db.begin_read()?;
        let mut names: Vec<String> = read.list_tables()?.map(|table| table.name().to_string()).collect();
        names.retain(|name| !Table::ALL.iter().any(|table| table.name() == name));
        if let Some(name) = names.first() {
            flaw = Some(Flaw::Damaged("no other tables".into(), format!("one named {name:?}")));
        }
        for table in Table::ALL {
            for row in read.open_table(definition(table))?.iter()? {
                let (key, value) = row?;
                if let Err(found) = decoder.row(table, key.value(), value.value()) {
                    flaw.get_or_insert(found);
                }
            }
        }
        Ok(())
    })?;
    let result = match flaw {
        Some(flaw) => Err(flaw),
        None => decoder.finish(),
    };
    result.map_err(|flaw| match flaw {
        Flaw::Damaged(expected, found) => Error::corruption(file.path(), 0, expected, found),
        Flaw::Version(version) => Error::new(
            ErrorKind::UnsupportedVersion,
            format!("{} has rows of version {version}: this program is older", file.path().display()),
        ),
        Flaw::Codes(codes) => Error::new(
            ErrorKind::UnsupportedVersion,
            format!(
                "{} has a collection with codes of kind {codes}: this program knows {}",
                file.path().display(),
                Codes::ALL.map(Codes::name).join(", ")
            ),
        ),
    })
}

fn write_rows(file: &PageFile, db: &Database, changes: &[Change]) -> Result<()> {
    guarded(file, || {
        let mut write = db.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        write.set_quick_repair(true);
        for table in Table::ALL {
            let mut rows = write.open_table(definition(table))?;
            for change in changes.iter().filter(|change| change.table == table) {
                match &change.value {
                    Some(value) => rows.insert(change.key, value.as_slice())?,
                    None => rows.remove(change.key)?,
                };
            }
        }
        failpoint("catalog-before-commit");
        write.commit()?;
        failpoint("catalog-committed");
        Ok(())
    })
}

fn definition(table: Table) -> RowTable {
    TableDefinition::new(table.name())
}

/// Runs redb. Its errors come back as ours, the first error of the file before any that redb made of it; a panic, which
/// the page checksums should make impossible, is damage as well.
fn guarded<T>(file: &PageFile, run: impl FnOnce() -> Result<T, redb::Error>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(file.failure().unwrap_or_else(|| translate(file.path(), error))),
        Err(panic) => {
            file.poison().poison();
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(file.failure().unwrap_or_else(|| unreadable(file.path(), &format!("a panic: {text}"))))
        }
    }
}

fn translate(path: &Path, error: redb::Error) -> Error {
    match error {
        redb::Error::Io(error) => match error.downcast::<Error>() {
            Ok(ours) => ours,
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                unreadable(path, &error.to_string())
            }
            Err(error) => Error::io("use", path, error),
        },
        redb::Error::PreviousIo | redb::Error::DatabaseClosed => poisoned(path),
        other => unreadable(path, &other.to_string()),
    }
}

fn unreadable(path: &Path, found: &str) -> Error {
    Error::corruption(path, 0, "a catalog that redb can read", found)
}

fn poisoned(path: &Path) -> Error {
    Error::new(
        ErrorKind::Poisoned,
        format!("{} takes no writes after an earlier failure; open the store again", path.display()),
    )
}
