//! How a store is opened: the builder, and the options it leaves behind.

use crate::offline::SegmentBuild;
use crate::store::Store;
use nearstone_base::clock::{Clock, SystemClock};
use nearstone_base::random::{Random, SystemRandom};
use nearstone_base::vfs::{DiskVfs, MemoryVfs, Residency, Vfs};
use nearstone_base::{Error, Result, Schema};
use nearstone_compaction::policy::Policy;
use nearstone_wal::{Durability, RecoveryMode};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Who links, seals and compacts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Background {
    /// Half the cores, at least one thread, at the lowest priority, started at first need.
    #[default]
    Auto,
    /// So many threads, started at first need.
    Threads(usize),
    /// No thread at all: the program calls [`Store::step`].
    Manual,
}

/// Opens stores; made by [`Store::builder`].
#[derive(Clone, Debug)]
pub struct StoreBuilder {
    pub(crate) create: bool,
    pub(crate) options: Options,
    pub(crate) vfs: Option<Arc<dyn Vfs>>,
    pub(crate) clock: Option<Arc<dyn Clock>>,
    pub(crate) random: Option<Arc<dyn Random>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) read_only: bool,
    pub(crate) durability: Durability,
    pub(crate) recovery: RecoveryMode,
    pub(crate) memory_budget: u64,
    pub(crate) write_stall: Duration,
    pub(crate) background: Background,
    pub(crate) background_bytes_per_second: Option<u64>,
    pub(crate) seal_bytes: u64,
    pub(crate) seal_rows: u32,
    pub(crate) seal_idle: Duration,
    pub(crate) wal_bytes: u64,
    pub(crate) policy: Policy,
    pub(crate) auto_compact: bool,
    pub(crate) residency: Residency,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            read_only: false,
            durability: Durability::Sync,
            recovery: RecoveryMode::TornTail,
            memory_budget: 1 << 30,
            write_stall: Duration::from_secs(60),
            background: Background::Auto,
            background_bytes_per_second: None,
            seal_bytes: 128 << 20,
            seal_rows: 250_000,
            seal_idle: Duration::from_secs(10),
            wal_bytes: 256 << 20,
            policy: Policy::default(),
            auto_compact: true,
            residency: Residency::Mapped,
        }
    }
}

impl StoreBuilder {
    pub(crate) fn new() -> StoreBuilder {
        StoreBuilder { create: true, options: Options::default(), vfs: None, clock: None, random: None }
    }

    /// Whether a missing or empty folder becomes a new store (the default) or is `NotFound`.
    #[must_use]
    pub fn create(mut self, create: bool) -> StoreBuilder {
        self.create = create;
        self
    }

    /// Opens for reading only: takes a shared lock, writes nothing, works on read-only media and next to other
    /// readers. Rows that are only in the log are replayed into private memory.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> StoreBuilder {
        self.options.read_only = read_only;
        self
    }

    /// What an acknowledged write survives, unless a batch says otherwise. Default: [`Durability::Sync`].
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> StoreBuilder {
        self.options.durability = durability;
        self
    }

    /// What happens when the log's end is damaged. Default: [`RecoveryMode::TornTail`].
    #[must_use]
    pub fn recovery(mut self, mode: RecoveryMode) -> StoreBuilder {
        self.options.recovery = mode;
        self
    }

    /// Bytes that rows not yet sealed may take in memory (default 1 GiB). Writers wait when it is used up.
    #[must_use]
    pub fn memory_budget(mut self, bytes: u64) -> StoreBuilder {
        self.options.memory_budget = bytes;
        self
    }

    /// How long a writer waits for memory before it gets `Busy` (default 60 s), and rests at most while compaction is behind
    /// ([`StoreBuilder::auto_compact`]).
    #[must_use]
    pub fn write_stall(mut self, limit: Duration) -> StoreBuilder {
        self.options.write_stall = limit;
        self
    }

    /// Who does the work behind. Default: [`Background::Auto`].
    #[must_use]
    pub fn background(mut self, background: Background) -> StoreBuilder {
        self.options.background = background;
        self
    }

    /// Bytes per second that seals and compactions of the work behind write, at most, all of them together (default: as many
    /// as they come). Calls that seal or compact are not held back, nor is work behind that a call or a writer waits for.
    ///
    /// Bytes are written in pieces of up to 2 MiB, and for more than a second where a piece is more than a second's.
    #[must_use]
    pub fn background_bytes_per_second(mut self, bytes: u64) -> StoreBuilder {
        self.options.background_bytes_per_second = Some(bytes);
        self
    }

    /// Seals a collection's mutable segment at so many bytes of vectors (default 128 MiB).
    #[must_use]
    pub fn seal_bytes(mut self, bytes: u64) -> StoreBuilder {
        self.options.seal_bytes = bytes;
        self
    }

    /// Seals a collection's mutable segment at so many rows (default 250,000).
    #[must_use]
    pub fn seal_rows(mut self, rows: u32) -> StoreBuilder {
        self.options.seal_rows = rows;
        self
    }

    /// How long no row comes to a collection before what it has in memory is sealed (default 10 s; [`Duration::MAX`] for never), if
    /// that are 1,024 rows or more and compaction runs by itself. Searches of sealed rows take a fraction of the time, and the
    /// next open does not replay them. It is done behind: a program that closes the store sooner calls
    /// [`Collection::flush`](crate::Collection::flush) if it wants that, and one without threads [`Store::step`].
    #[must_use]
    pub fn seal_idle(mut self, span: Duration) -> StoreBuilder {
        self.options.seal_idle = span;
        self
    }

    /// Seals what pins the log when it has grown to so many bytes (default 256 MiB).
    #[must_use]
    pub fn wal_bytes(mut self, bytes: u64) -> StoreBuilder {
        self.options.wal_bytes = bytes;
        self
    }

    /// A sealed segment with at least this share of dead rows is rewritten (default 0.20; sooner for old ones).
    #[must_use]
    pub fn dead_share(mut self, share: f64) -> StoreBuilder {
        self.options.policy.dead_share = share;
        self
    }

    /// Beyond this age the dead share that triggers a rewrite falls in proportion (default one hour).
    #[must_use]
    pub fn dead_age(mut self, age: Duration) -> StoreBuilder {
        self.options.policy.age_secs = age.as_secs();
        self
    }

    /// Whether compaction runs by itself (default) or only when [`Store::compact`] is called. By itself, it also seals
    /// rows in memory when there are 4,096 or more and half of them are dead; and where writers make dead rows or segments faster
    /// than it merges them, each rests after its batch, for up to eight times as long as the batch took and at most for
    /// [`StoreBuilder::write_stall`] (`compaction_debt` and `write_rest_ms` in [`StoreStats`](crate::StoreStats) say so).
    #[must_use]
    pub fn auto_compact(mut self, on: bool) -> StoreBuilder {
        self.options.auto_compact = on;
        self
    }

    /// How sealed segments are held: mapped (default); with what searches touch read ahead ([`Residency::Warm`]) or
    /// copied into memory ([`Residency::Pinned`]); or read into memory whole, for disks that are not trusted to keep
    /// answering, and for tools that know no maps ([`Residency::Heap`]).
    ///
    /// Searches touch inline rows (without them, 8-bit codes and links), keys, their index, and versions: about half
    /// of a file with inline rows, and a quarter of a lean one ([`Profile::Memory`](crate::Profile::Memory)); of
    /// vectors and payloads only those of the best rows. With `Warm` and `Pinned` opening takes time in proportion to
    /// these parts, with `Heap` to all bytes, and every new segment is treated so before it is published. Where there
    /// is no memory, `Warm` reads what there is room for, and with the other two the open, the seal or the merge fails
    /// with `Io` and leaves the store as it was.
    #[must_use]
    pub fn residency(mut self, residency: Residency) -> StoreBuilder {
        self.options.residency = residency;
        self
    }

    /// Runs over another file system.
    #[must_use]
    pub fn vfs(mut self, vfs: Arc<dyn Vfs>) -> StoreBuilder {
        self.vfs = Some(vfs);
        self
    }

    /// Runs by another clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> StoreBuilder {
        self.clock = Some(clock);
        self
    }

    /// Takes identities and salts from another generator.
    #[must_use]
    pub fn random(mut self, random: Arc<dyn Random>) -> StoreBuilder {
        self.random = Some(random);
        self
    }

    /// Opens the store in a folder.
    ///
    /// Cost: proportional to what is in the log and not yet sealed; it does not grow with sealed rows, unless
    /// [`StoreBuilder::residency`] asks for it.
    ///
    /// # Errors
    ///
    /// `NotFound` (no such folder, and creating is off), `NotAStore` (the folder holds something else), `Busy`
    /// (another process holds the lock), `UnsupportedVersion`, `Corruption`, `ReadOnly`, `Io`.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Store> {
        self.validate()?;
        let vfs = self.vfs_or_default();
        crate::recovery::open(&self, &vfs, path.as_ref())
    }

    /// Makes a store that lives in memory and is gone when its last handle is.
    pub fn in_memory(self) -> Result<Store> {
        self.validate()?;
        let vfs: Arc<dyn Vfs> = Arc::new(MemoryVfs::new());
        crate::recovery::open(&self, &vfs, Path::new("/store"))
    }

    /// Starts to build sealed segments in a folder of their own, without a store: for rows that are made at one place and
    /// served at another. [`Collection::attach`](crate::Collection::attach) brings them into a collection of the same schema.
    ///
    /// The folder must be missing or empty, or hold what an unfinished build has left, which goes. Of the options,
    /// `seal_bytes`, `seal_rows` and `memory_budget` say how large a segment becomes, and `background` how many threads
    /// link.
    ///
    /// ```
    /// use nearstone::{AttachOptions, Metric, Schema, Store};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// let schema = Schema::new(2, Metric::L2);
    /// let mut build = Store::builder().build_segments(folder.path().join("built"), schema)?;
    /// for number in 0..100u64 {
    ///     build.push(number, &[number as f32, 1.0], serde_json::json!({ "number": number }))?;
    /// }
    /// let files = build.finish()?;
    ///
    /// let store = Store::open(folder.path().join("notes.near"))?;
    /// let notes = store.create_collection("notes", schema)?;
    /// let attached = notes.attach(&files, AttachOptions::new())?;
    /// assert_eq!((attached.inserted, notes.len()?), (100, 100));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a bad schema or option; `AlreadyExists` when the folder holds something; `Busy` while another
    /// build in it lives; `NotFound`, `Io`.
    pub fn build_segments<'p>(self, folder: impl AsRef<Path>, schema: Schema) -> Result<SegmentBuild<'p>> {
        self.validate()?;
        schema.validate()?;
        SegmentBuild::new(&self, folder.as_ref(), schema)
    }

    pub(crate) fn vfs_or_default(&self) -> Arc<dyn Vfs> {
        self.vfs.clone().unwrap_or_else(|| Arc::new(DiskVfs::new()))
    }

    pub(crate) fn clock_or_default(&self) -> Arc<dyn Clock> {
        self.clock.clone().unwrap_or_else(|| Arc::new(SystemClock::new()))
    }

    pub(crate) fn random_or_default(&self) -> Arc<dyn Random> {
        self.random.clone().unwrap_or_else(|| Arc::new(SystemRandom))
    }

    fn validate(&self) -> Result<()> {
        let share = self.options.policy.dead_share;
        if !(share > 0.0 && share <= 1.0) {
            return Err(Error::invalid(format!("dead_share is {share}: it must lie in 0 (excluded) to 1")));
        }
        if self.options.seal_rows == 0 || self.options.seal_bytes == 0 {
            return Err(Error::invalid("seal_rows and seal_bytes must be at least 1"));
        }
        if self.options.background_bytes_per_second == Some(0) {
            return Err(Error::invalid(
                "background_bytes_per_second is 0: it must be at least 1; Store::pause_background stops the work behind",
            ));
        }
        if let Background::Threads(0) = self.options.background {
            return Err(Error::invalid("0 background threads: say Background::Manual for none"));
        }
        Ok(())
    }
}
