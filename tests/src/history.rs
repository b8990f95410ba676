//! Histories: sequences of operations run against a store on a simulated disk and against the model, with crashes
//! between and inside operations.
//!
//! After a crash the recovered store must equal the model at one lsn L, where L is at least the last lsn whose
//! durability was acknowledged and at most the last one issued; the history goes on from there.

mod attach;
mod load;

use crate::model::{DIMENSION, ModelRow, State, check_collection, now};
use attach::Built;
use nearstone::clock::ManualClock;
use nearstone::random::{SeededRandom, SplitMix64};
use nearstone::vfs::{CrashChoice, SimVfs};
use nearstone::{
    Background, Codes, Collection, Durability, ErrorKind, Metric, OnCollision, Profile, RebuildOptions,
    Schema, Snapshot, Store, TakeFiles,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Collections that a history works with: two, of different metrics.
pub const COLLECTIONS: usize = 2;

/// One change of a batch.
#[derive(Clone, Debug)]
pub enum Change {
    /// Put a row.
    Upsert {
        /// Of this collection.
        collection: usize,
        /// Under this key.
        key: u64,
        /// Decides vector and payload.
        value: u32,
    },
    /// Remove a row.
    Delete {
        /// Of this collection.
        collection: usize,
        /// Under this key.
        key: u64,
    },
}

/// One operation of a history.
#[derive(Clone, Debug)]
pub enum Op {
    /// One batch, synced or not.
    Batch {
        /// What it changes.
        changes: Vec<Change>,
        /// `Sync`, or `Os`.
        synced: bool,
    },
    /// Load rows into a collection in bulk.
    Load {
        /// The collection.
        collection: usize,
        /// Keys, and what decides vector and payload of each; of equal keys the last one is loaded.
        rows: Vec<(u64, u32)>,
        /// What becomes of keys that are there.
        on_collision: OnCollision,
    },
    /// Build files of rows for a collection, without the store.
    Build {
        /// The collection.
        collection: usize,
        /// As of a load.
        rows: Vec<(u64, u32)>,
    },
    /// Attach the files of a build to a collection, that which they were built for or the other one; without any, nothing.
    Attach {
        /// Which of the builds that are kept, counted round and round.
        build: usize,
        /// The collection.
        collection: usize,
        /// What becomes of keys that are there.
        on_collision: OnCollision,
        /// How the files are taken: what is moved is not kept.
        take: TakeFiles,
    },
    /// Sync what was written.
    Persist,
    /// Seal a collection.
    Flush(usize),
    /// Compact a collection.
    Compact(usize),
    /// Build a collection anew, with more links or with fewer.
    Rebuild(usize),
    /// So many pieces of work behind.
    Steps(u8),
    /// Hold a snapshot.
    Snapshot,
    /// Let the oldest one go.
    Release,
    /// Drop a collection and make it again, empty.
    Recreate(usize),
    /// Give a collection another name.
    Rename(usize),
    /// Move the clock, in seconds.
    Wait(u32),
    /// Close and open again.
    Reopen,
    /// Read everything from disk and check it.
    Verify,
    /// Back up and compare the copy.
    Backup,
    /// Lose the power now.
    Crash(u64),
    /// Lose the power after so many file operations of the next operation.
    CrashDuring {
        /// File operations that still go through.
        operations: u16,
        /// Decides what the crash leaves behind.
        seed: u64,
        /// The operation.
        op: Box<Op>,
    },
}

/// A running history.
pub struct History {
    disk: SimVfs,
    clock: Arc<ManualClock>,
    seed: u64,
    opens: u64,
    backups: u64,
    renames: u64,
    builds: u64,
    /// The files of builds that were not moved into the store.
    built: Vec<Built>,
    store: Option<Store>,
    handles: BTreeMap<usize, Collection>,
    names: BTreeMap<usize, String>,
    /// The state after every lsn from the last proven one on.
    past: BTreeMap<u64, State>,
    /// Durability was acknowledged up to here.
    acknowledged: u64,
    snapshots: Vec<(Snapshot, State, BTreeMap<usize, Collection>)>,
    rng: SplitMix64,
    /// Crashes survived.
    pub crashes: u64,
}

impl History {
    /// Starts with an empty store on an empty disk.
    pub fn new(seed: u64) -> Result<History, String> {
        History::on(SimVfs::new(seed), seed)
    }

    /// Starts with an empty store on this disk, which is empty.
    pub fn on(disk: SimVfs, seed: u64) -> Result<History, String> {
        let mut history = History {
            disk,
            clock: Arc::new(ManualClock::default()),
            seed,
            opens: 0,
            backups: 0,
            renames: 0,
            builds: 0,
            built: Vec::new(),
            store: None,
            handles: BTreeMap::new(),
            names: (0..COLLECTIONS).map(|c| (c, format!("c{c}"))).collect(),
            past: BTreeMap::from([(0, State::default())]),
            acknowledged: 0,
            snapshots: Vec::new(),
            rng: SplitMix64::new(seed),
            crashes: 0,
        };
        history.open()?;
        history.ensure_collections()?;
        Ok(history)
    }

    /// Runs all operations, checking after each.
    pub fn run(seed: u64, ops: &[Op]) -> Result<u64, String> {
        let mut history = History::new(seed)?;
        for (index, op) in ops.iter().enumerate() {
            history.apply(op).and_then(|()| history.check()).map_err(|error| {
                format!("after operation {index} of {}, {op:?} (seed {seed}): {error}", ops.len())
            })?;
        }
        Ok(history.crashes)
    }

    /// Runs one operation without checking anything; for those who look at the disk afterwards.
    pub(crate) fn advance(&mut self, op: &Op) -> Result<Mark, String> {
        self.apply(op).map_err(|error| format!("{op:?}: {error}"))?;
        Ok(self.mark())
    }

    /// What is known now of what a crash may leave.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            ops: self.disk.ops(),
            acknowledged: self.acknowledged,
            names: self.names.clone(),
            past: self.past.clone(),
        }
    }

    fn open(&mut self) -> Result<(), String> {
        self.opens += 1;
        self.store = Some(open_store(&self.disk, &self.clock, self.seed ^ self.opens << 32)?);
        Ok(())
    }

    fn store(&self) -> Store {
        self.store.clone().expect("a history always has an open store between operations")
    }

    /// One of them is lean: its vectors are read from the disk.
    fn schema(collection: usize) -> Schema {
        let profile = if collection == 0 { Profile::Auto } else { Profile::Memory };
        Schema::new(DIMENSION, metric(collection)).m(4).ef_construction(16).profile(profile)
    }

    fn ensure_collections(&mut self) -> Result<(), String> {
        let store = self.store();
        for collection in 0..COLLECTIONS {
            let name = &self.names[&collection];
            let handle =
                store.collection_or_create(name, Self::schema(collection)).map_err(|e| e.to_string())?;
            self.handles.insert(collection, handle);
        }
        Ok(())
    }

    fn issued(&self) -> u64 {
        *self.past.last_key_value().expect("the past is never empty").0
    }

    fn present(&self) -> &State {
        self.past.last_key_value().expect("the past is never empty").1
    }

    fn apply(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::CrashDuring { operations, seed, op } => {
                self.disk.set_crash_after(u64::from(*operations));
                // It may fail anywhere, or come through.
                let in_flight = self.attempt(op);
                self.crash(*seed, in_flight)
            }
            Op::Crash(seed) => self.crash(*seed, InFlight::default()),
            op => match self.attempt(op) {
                InFlight { error: Some(error), .. } => Err(error),
                _ => Ok(()),
            },
        }
    }

    /// Runs an operation on the store and, as far as it was acknowledged, on the model.
    fn attempt(&mut self, op: &Op) -> InFlight {
        match self.try_op(op) {
            Ok(in_flight) => in_flight,
            Err(error) => InFlight { error: Some(error), ..InFlight::default() },
        }
    }

    fn try_op(&mut self, op: &Op) -> Result<InFlight, String> {
        let store = self.store();
        let text = |error: nearstone::Error| error.to_string();
        match op {
            Op::Batch { changes, synced } => return Ok(self.batch(&store, changes, *synced)),
            Op::Load { collection, rows, on_collision } => {
                return Ok(self.load(*collection, rows, *on_collision));
            }
            Op::Build { collection, rows } => self.build(*collection, rows)?,
            Op::Attach { build, collection, on_collision, take } => {
                return Ok(self.attach(*build, *collection, *on_collision, *take));
            }
            Op::Persist => {
                store.persist().map_err(text)?;
                self.acknowledged = self.issued();
            }
            Op::Flush(collection) => {
                self.handles[collection].flush().map_err(text)?;
            }
            Op::Compact(collection) => {
                self.handles[collection].compact().map_err(text)?;
            }
            Op::Rebuild(collection) => {
                let schema = self.handles[collection].schema();
                let other = RebuildOptions::new().m(if schema.links() == 4 { 5 } else { 4 });
                let place = Codes::ALL.iter().position(|&codes| codes == schema.chosen_codes()).unwrap_or(0);
                let other = other.codes(Codes::ALL[(place + 1) % Codes::ALL.len()]);
                self.handles[collection].rebuild(other).map_err(text)?;
            }
            Op::Steps(steps) => {
                for _ in 0..*steps {
                    if !store.step().map_err(text)? {
                        break;
                    }
                }
            }
            Op::Snapshot => {
                self.snapshots.push((store.snapshot(), self.present().clone(), self.handles.clone()));
            }
            Op::Release => {
                if !self.snapshots.is_empty() {
                    self.snapshots.remove(0);
                }
            }
            Op::Recreate(collection) => {
                let name = self.names[collection].clone();
                let old = self.handles[collection].clone();
                if let Err(error) = store.drop_collection(&name) {
                    return Ok(InFlight {
                        dropping: Some(*collection),
                        error: Some(error.to_string()),
                        ..InFlight::default()
                    });
                }
                self.forget_rows(*collection);
                if let Err(error) = store.create_collection(&name, Self::schema(*collection)) {
                    return Ok(InFlight { error: Some(error.to_string()), ..InFlight::default() });
                }
                let gone = old.get(1u64).map_err(|error| error.kind());
                if gone != Err(ErrorKind::NotFound) {
                    return Err(format!("a handle to a dropped collection says {gone:?}"));
                }
                self.ensure_collections()?;
            }
            Op::Rename(collection) => {
                self.renames += 1;
                let new = format!("c{collection}-{}", self.renames);
                let old = self.names[collection].clone();
                if let Err(error) = store.rename_collection(&old, &new) {
                    let renaming = Some((*collection, new));
                    return Ok(InFlight { renaming, error: Some(error.to_string()), ..InFlight::default() });
                }
                self.names.insert(*collection, new);
            }
            Op::Wait(seconds) => self.clock.advance(Duration::from_secs(u64::from(*seconds))),
            Op::Reopen => {
                self.snapshots.clear();
                self.handles.clear();
                self.store = None;
                let closed = store.close().map_err(text);
                drop(store);
                if let Err(error) = closed {
                    // Only a crash in the middle gets here: there is no store to look at until the next open.
                    return Ok(InFlight { error: Some(error), ..InFlight::default() });
                }
                self.acknowledged = self.issued();
                self.open()?;
                self.ensure_collections()?;
            }
            Op::Verify => {
                store.verify().map_err(text)?;
            }
            Op::Backup => self.backup(&store)?,
            Op::Crash(_) | Op::CrashDuring { .. } => return Err("a crash inside a crash".to_owned()),
        }
        Ok(InFlight::default())
    }

    fn batch(&mut self, store: &Store, changes: &[Change], synced: bool) -> InFlight {
        let durability = if synced { Durability::Sync } else { Durability::Os };
        let mut batch = store.batch().durability(durability);
        let lsn = self.issued() + 1;
        let mut next = self.present().clone();
        for change in changes {
            let result = match change {
                Change::Upsert { collection, key, value } => {
                    let row = row(*collection, *value, lsn);
                    let payload: Option<serde_json::Value> = serde_json::from_str(&row.payload).ok();
                    let result =
                        batch.upsert(&self.handles[collection], *key, &row.vector, payload).map(|_| ());
                    next.rows_mut(*collection).insert(*key, row);
                    result
                }
                Change::Delete { collection, key } => {
                    next.rows_mut(*collection).remove(key);
                    batch.delete(&self.handles[collection], *key).map(|_| ())
                }
            };
            if let Err(error) = result {
                return InFlight { error: Some(error.to_string()), ..InFlight::default() };
            }
        }
        if batch.is_empty() {
            return InFlight::default();
        }
        match batch.commit() {
            Ok(commit) => {
                if commit.lsn != lsn {
                    let error = Some(format!("the batch got lsn {}, expected {lsn}", commit.lsn));
                    return InFlight { error, ..InFlight::default() };
                }
                self.past.insert(lsn, next);
                if synced {
                    self.acknowledged = lsn;
                }
                InFlight::default()
            }
            Err(error) => {
                let state = (error.outcome() == nearstone::Outcome::Indeterminate).then_some((lsn, next));
                InFlight { batch: state, error: Some(error.to_string()), ..InFlight::default() }
            }
        }
    }

    fn forget_rows(&mut self, collection: usize) {
        // Dropping is a catalog commit, not a batch: it holds at every lsn from now on, and for the past as well,
        // since replay skips what belongs to a dropped collection.
        for state in self.past.values_mut() {
            state.collections.remove(&collection);
        }
    }

    fn backup(&mut self, store: &Store) -> Result<(), String> {
        self.backups += 1;
        let path = format!("/backup-{}", self.backups);
        let lsn = store.backup(&path).map_err(|error| format!("backup: {error}"))?;
        self.acknowledged = self.issued();
        let copy = Store::builder()
            .vfs(Arc::new(self.disk.clone()))
            .background(Background::Manual)
            .create(false)
            .open(&path)
            .map_err(|error| format!("open the backup: {error}"))?;
        if lsn != self.issued() || copy.snapshot().lsn() != lsn {
            return Err(format!("the backup ends at {lsn}, the store at {}", self.issued()));
        }
        for collection in 0..COLLECTIONS {
            let handle = copy.collection(&self.names[&collection]).map_err(|error| error.to_string())?;
            let rows = self.present().collections.get(&collection).cloned().unwrap_or_default();
            check_collection(metric(collection), &now(&copy, &handle)?, &rows, &[0.5; DIMENSION])?;
        }
        copy.verify().map_err(|error| format!("verify the backup: {error}"))?;
        copy.close().map_err(|error| error.to_string())
    }

    /// Cuts the power, opens what is left and finds the moment of the past that it is.
    fn crash(&mut self, seed: u64, in_flight: InFlight) -> Result<(), String> {
        self.crashes += 1;
        let choice = match seed % 4 {
            0 => CrashChoice::DurableOnly,
            1 => CrashChoice::KeepAll,
            _ => CrashChoice::Random { seed },
        };
        let image = self.disk.crash_image(choice);
        // What the dying process still does goes to the old disk.
        self.snapshots.clear();
        self.handles.clear();
        self.store = None;
        self.disk = image;
        if let Some((lsn, state)) = in_flight.batch {
            self.past.insert(lsn, state);
        }
        if let Some((lsn, _)) = &in_flight.load {
            // A load takes its lsn before its rows are there.
            let unloaded = self.present().clone();
            self.past.insert(*lsn, unloaded);
        }
        if let Some((collection, name)) = in_flight.renaming {
            self.names.insert(collection, name);
        }
        self.open()?;
        let store = self.store();
        if let Some(collection) = in_flight.dropping
            && store.collection(&self.names[&collection]).is_err()
        {
            self.forget_rows(collection);
        }
        // A rename or a creation in flight may have happened or not.
        let present = store.collections().map_err(|error| error.to_string())?;
        for collection in 0..COLLECTIONS {
            if !present.contains(&self.names[&collection]) {
                let prefix = format!("c{collection}");
                match present.iter().find(|name| **name == prefix || name.starts_with(&format!("{prefix}-")))
                {
                    Some(name) => {
                        self.names.insert(collection, name.clone());
                    }
                    None => self.forget_rows(collection),
                }
            }
        }
        self.ensure_collections()?;
        let lsn = store.snapshot().lsn();
        let issued = self.issued();
        if lsn < self.acknowledged || lsn > issued {
            return Err(format!(
                "recovered to lsn {lsn}: acknowledged up to {}, issued up to {issued}",
                self.acknowledged
            ));
        }
        self.past.split_off(&(lsn + 1));
        let loaded = in_flight.load.filter(|(at, state)| *at == lsn && self.agrees(state));
        self.check_built(in_flight.moving, loaded.is_some())?;
        self.past.extend(loaded);
        // What recovery serves it has made durable.
        self.acknowledged = lsn;
        Ok(())
    }

    /// The present and every held snapshot agree with the model.
    fn check(&mut self) -> Result<(), String> {
        let store = self.store();
        let lsn = store.snapshot().lsn();
        if lsn != self.issued() {
            return Err(format!("the store is at lsn {lsn}, the model at {}", self.issued()));
        }
        let query: Vec<f32> = (0..DIMENSION).map(|_| self.rng.unit_f64() as f32 + 0.01).collect();
        for (collection, handle) in &self.handles {
            let rows = self.present().collections.get(collection).cloned().unwrap_or_default();
            check_collection(metric(*collection), &now(&store, handle)?, &rows, &query)?;
        }
        for (snapshot, state, handles) in &self.snapshots {
            for (collection, handle) in handles {
                let rows = state.collections.get(collection).cloned().unwrap_or_default();
                let reads = handle.at(snapshot).map_err(|error| error.to_string())?;
                check_collection(metric(*collection), &reads, &rows, &query)
                    .map_err(|error| format!("snapshot at {}: {error}", snapshot.lsn()))?;
            }
        }
        Ok(())
    }
}

/// What is known between two operations.
#[derive(Clone)]
pub(crate) struct Mark {
    /// File operations so far.
    pub(crate) ops: u64,
    /// Durability was acknowledged up to this lsn.
    pub(crate) acknowledged: u64,
    /// What the collections are called.
    pub(crate) names: BTreeMap<usize, String>,
    /// The state after every lsn.
    pub(crate) past: BTreeMap<u64, State>,
}

/// Opens the store of a history, with thresholds so low that every protocol runs.
pub(crate) fn open_store(disk: &SimVfs, clock: &Arc<ManualClock>, seed: u64) -> Result<Store, String> {
    Store::builder()
        .vfs(Arc::new(disk.clone()))
        .clock(clock.clone())
        .random(Arc::new(SeededRandom::new(seed)))
        .background(Background::Manual)
        .write_stall(Duration::ZERO)
        .seal_rows(12)
        .dead_share(0.1)
        .open("/store")
        .map_err(|error| format!("open: {error}"))
}

/// What a failed operation may have done.
#[derive(Default)]
struct InFlight {
    error: Option<String>,
    /// The state if the batch turns out to be there.
    batch: Option<(u64, State)>,
    /// The state if the load turns out to be there; its lsn may be there without it.
    load: Option<(u64, State)>,
    /// The build whose files were on their way into the store.
    moving: Option<usize>,
    dropping: Option<usize>,
    renaming: Option<(usize, String)>,
}

/// The metric of a history's collection.
pub fn metric(collection: usize) -> Metric {
    if collection == 0 { Metric::L2 } else { Metric::Cosine }
}

fn row(collection: usize, value: u32, lsn: u64) -> ModelRow {
    let mut rng = SplitMix64::new(u64::from(value));
    let vector = (0..DIMENSION).map(|_| (rng.below(16) as f32 - 7.5) / 4.0).collect();
    // The members stand in the order in which a JSON map writes them.
    let payload = if value.is_multiple_of(3) {
        String::new()
    } else {
        format!("{{\"of\":{collection},\"value\":{value}}}")
    };
    ModelRow { vector, payload, version: lsn }
}
