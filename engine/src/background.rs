//! The work behind: the only place where threads start that outlive a call.
//!
//! Workers start at the first write and run at the lowest priority. Each takes the most urgent piece of work: seal what
//! is frozen and linked, freeze what keeps the log from being cut, link rows, compact what the policy chooses, seal what is
//! idle ([`crate::idle`]). A writer who never rests always leaves rows to link: the log comes before them, and compaction
//! has its turn after so many pieces. A long compaction looks up between its own pieces and does what has become more
//! urgent. Where compaction falls behind, linking is left to the writers and they are slowed down: see [`crate::debt`].
//! With [`Background::Manual`] nothing starts and `Store::step` does the same by hand. Each piece is governed by the store's
//! [`Pace`](nearstone_compaction::pace::Pace).

use crate::engine::{Engine, link_rows};
use crate::options::Background;
use crate::view::CollectionView;
use nearstone_base::faults::failpoint;
use nearstone_base::sync::{Arc, AtomicBool, Condvar, Mutex, Ordering, Weak, thread};
use nearstone_base::{CollectionId, Error, ErrorKind, Result};
use nearstone_compaction::pace::Work;
use nearstone_wal::Log;
use std::thread::JoinHandle;
use std::time::Duration;

/// Rows linked in one piece.
const LINK_PIECE: u32 = 256;
/// After so many urgent pieces in a row, compaction is looked at before the next one.
const URGENT_PIECES: u64 = 64;
/// How long a worker sleeps when there is nothing to do: the age rule and idle log marks need a look now and then.
const IDLE: Duration = Duration::from_millis(500);
/// After a failure (a full disk, say) the next try waits so long.
const BACK_OFF: Duration = Duration::from_secs(1);

pub(crate) struct Workers {
    threads: usize,
    state: Mutex<State>,
    changed: Condvar,
    stopping: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Counts wakes, so that none is lost between a look for work and the sleep.
    wakes: u64,
    handles: Vec<JoinHandle<()>>,
    working: bool,
    syncing: bool,
}

impl Workers {
    pub(crate) fn new(background: Background) -> Workers {
        let threads = match background {
            Background::Auto => (cores() / 2).max(1),
            Background::Threads(threads) => threads,
            Background::Manual => 0,
        };
        Workers {
            threads,
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
        }
    }

    /// There may be work: starts the threads at the first call.
    pub(crate) fn wake(&self, engine: &Arc<Engine>) {
        if self.threads == 0 {
            return;
        }
        let mut state = self.state.lock();
        if self.is_stopping() {
            return;
        }
        state.wakes += 1;
        if !state.working {
            state.working = true;
            let before = state.handles.len();
            for index in 0..self.threads {
                let engine = engine.clone();
                let thread = std::thread::Builder::new().name(format!("nearstone-{index}"));
                if let Ok(handle) = thread.spawn(move || watched(&engine, work)) {
                    state.handles.push(handle);
                }
            }
            // Not one: tried again at the next wake.
            state.working = state.handles.len() > before;
        }
        self.changed.notify_all();
    }

    /// There may be work for threads that have started.
    fn look_up(&self) {
        self.state.lock().wakes += 1;
        self.changed.notify_all();
    }

    /// There is an interval batch: "synced at least every so often" must not wait for a long merge, so it has a thread
    /// of its own.
    pub(crate) fn keep_synced(&self, engine: &Arc<Engine>) {
        let mut state = self.state.lock();
        if self.threads == 0 || state.syncing || self.is_stopping() {
            return;
        }
        let engine = engine.clone();
        let thread = std::thread::Builder::new().name("nearstone-sync".to_owned());
        if let Ok(handle) = thread.spawn(move || watched(&engine, keep_synced)) {
            state.handles.push(handle);
            state.syncing = true;
        }
    }

    /// Ends the threads and waits for them.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let handles = {
            let mut state = self.state.lock();
            self.changed.notify_all();
            std::mem::take(&mut state.handles)
        };
        let this = std::thread::current().id();
        for handle in handles {
            if handle.thread().id() != this {
                // A panic of a worker has been noted where it happened.
                let _ = handle.join();
            }
        }
    }

    /// Whether the calling thread is one of them.
    pub(crate) fn is_worker(&self) -> bool {
        let this = std::thread::current().id();
        self.state.lock().handles.iter().any(|handle| handle.thread().id() == this)
    }

    /// How many threads there are, or will be; 0 where the program does the work itself.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn sleep(&self, seen: u64, limit: Duration) {
        let mut state = self.state.lock();
        if state.wakes == seen && !self.is_stopping() {
            self.changed.wait_for(&mut state, limit);
        }
    }

    fn wakes(&self) -> u64 {
        self.state.lock().wakes
    }
}

/// While it lives, the work behind is paused; made by [`Store::pause_background`](crate::Store::pause_background). It does not
/// keep the store open.
pub struct BackgroundPause {
    engine: Weak<Engine>,
}

impl BackgroundPause {
    pub(crate) fn new(engine: &Arc<Engine>) -> BackgroundPause {
        engine.pace.pause();
        BackgroundPause { engine: Arc::downgrade(engine) }
    }
}

impl Drop for BackgroundPause {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.upgrade() {
            engine.pace.resume();
            engine.workers.look_up();
        }
    }
}

impl std::fmt::Debug for BackgroundPause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BackgroundPause")
    }
}

/// More threads than any machine has cores: no call starts more, whatever it is told.
pub(crate) const THREADS_MAX: usize = 1024;

/// Cores this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs `f` on so many threads, this one among them and at most [`THREADS_MAX`], until each has returned.
pub(crate) fn on_threads(threads: usize, f: impl Fn() -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(THREADS_MAX)).map(|_| scope.spawn(&f)).collect();
        let mut result = f();
        for other in others {
            let joined = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(joined);
        }
        result
    })
}

/// Runs a worker. A panic is a bug, after which rows that it had claimed stay unlinked for good: nobody may wait for
/// them, so it ends all writing, and says so.
fn watched(engine: &Arc<Engine>, run: fn(&Arc<Engine>)) {
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(engine)));
    let Err(panic) = ended else { return };
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    let error = Error::new(ErrorKind::Poisoned, format!("a panic in the background: {text}"));
    if let Some(log) = &engine.log {
        log.poison(&error);
    }
    engine.note_error(error);
}

fn work(engine: &Arc<Engine>) {
    lower_priority();
    let workers = &engine.workers;
    while !workers.is_stopping() {
        let seen = workers.wakes();
        match engine.step() {
            Ok(true) => {}
            Ok(false) => {
                // Nothing to do is the moment to prove on disk what is synced.
                if let Some(Err(error)) = engine.log.as_ref().map(Log::marker_if_idle) {
                    engine.note_error(error);
                }
                workers.sleep(seen, IDLE);
            }
            Err(error) => {
                engine.note_error(error);
                workers.sleep(workers.wakes(), BACK_OFF);
            }
        }
    }
}

fn keep_synced(engine: &Arc<Engine>) {
    let workers = &engine.workers;
    while !workers.is_stopping() {
        let Some(log) = &engine.log else { return };
        let seen = workers.wakes();
        match log.sync_due() {
            Some(wait) if wait.is_zero() => {
                if let Err(error) = log.sync() {
                    engine.note_error(error);
                    return;
                }
            }
            Some(wait) => workers.sleep(seen, wait),
            None => workers.sleep(seen, IDLE),
        }
    }
}

/// Searches and writes come first: what runs behind takes the processor time that is left.
fn lower_priority() {
    nearstone_base::priority::lower_this_thread();
}

/// What becomes of rows that are not linked, in segments that are not to be sealed yet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    Linked,
    /// To writers, who keep it short.
    Left,
}

/// What there is to do.
enum Task {
    Link(CollectionId),
    Seal(CollectionId),
    Compact(CollectionId),
}

impl Engine {
    /// One piece of work; `false` when there is none.
    pub(crate) fn step(self: &Arc<Self>) -> Result<bool> {
        self.check_healthy()?;
        if self.core.options.background == Background::Manual
            && self.log()?.sync_due() == Some(Duration::ZERO)
        {
            // Where threads run, one of them has nothing else to do.
            self.log()?.sync().inspect_err(|_| self.note_poison())?;
            return Ok(true);
        }
        if self.pace.rests() {
            return Ok(false);
        }
        let work = self.pace.begin();
        let urgent_first = self.urgent_pieces.load(Ordering::Relaxed) < URGENT_PIECES && !self.is_behind();
        if urgent_first && self.urgent_step(work, Tail::Linked)? {
            self.urgent_pieces.fetch_add(1, Ordering::Relaxed);
            return Ok(true);
        }
        self.urgent_pieces.store(0, Ordering::Relaxed);
        // What is idle in one collection does not wait for those who write to another.
        let done = self.compact_step(work)? || self.seal_idle_rows(work)?;
        Ok(done || (!urgent_first && self.urgent_step(work, Tail::Linked)?))
    }

    /// Threads of a piece of work behind, no more than it was given, or of a call.
    pub(crate) fn threads(&self, work: Option<Work>) -> usize {
        if work.is_some() { self.workers.threads().max(1) } else { self.core.threads() }
    }

    /// Compacts what the policy chooses; `false` when it chooses nothing, or nobody wants it to.
    fn compact_step(self: &Arc<Self>, work: Work) -> Result<bool> {
        self.check_healthy()?;
        if !self.core.options.auto_compact {
            return Ok(false);
        }
        let Some(Task::Compact(id)) = self.next_compaction() else { return Ok(false) };
        // Another worker may be at it.
        let Some(_turn) = self.compact_turn.try_lock() else { return Ok(false) };
        let done = self.compact_by_policy(id, work);
        if !done.as_ref().is_err_and(|error| error.kind() == ErrorKind::Cancelled) {
            self.compacts.store(done.is_ok(), Ordering::Relaxed);
        }
        done
    }

    /// Links or seals, what a compaction must not hold up; `false` when there is nothing of the kind.
    pub(crate) fn urgent_step(self: &Arc<Self>, work: Work, tail: Tail) -> Result<bool> {
        self.check_healthy()?;
        match self.next_urgent(tail) {
            Some(Task::Link(id)) => {
                let view = self.core.view.load_full();
                let Some(collection) = view.lists.collections.get(&id) else { return Ok(true) };
                let mut linked = 0;
                let last = (tail == Tail::Linked).then_some(&collection.mutable);
                for segment in collection.frozen.iter().map(|frozen| &frozen.segment).chain(last) {
                    linked += link_rows(&self.core, segment, LINK_PIECE);
                    if linked >= LINK_PIECE {
                        break;
                    }
                }
                // Rows that others have claimed are being linked: nothing to do here.
                Ok(linked > 0)
            }
            Some(Task::Seal(id)) => {
                let Some(turn) = self.seal_turn.try_lock() else { return Ok(false) };
                self.seal_oldest(id, &turn, Some(work))
            }
            _ => self.cut_the_log_that_nobody_needs(),
        }
    }

    fn next_urgent(&self, tail: Tail) -> Option<Task> {
        let is_frozen = |c: &CollectionView| !c.frozen.is_empty();
        let mut view = self.core.view.load_full();
        // One at a time: a seal that is under way may be all that the log waits for.
        if !view.lists.collections.values().any(|c| is_frozen(c)) && self.freeze_what_pins_the_log() {
            view = self.core.view.load_full();
        }
        let frozen = || view.lists.collections.values().filter(|c| is_frozen(c));
        if let Some(c) = frozen().find(|c| c.frozen[0].segment.unlinked() == 0) {
            return Some(Task::Seal(c.id));
        }
        // What is frozen holds memory and log: it is linked first.
        let others = view.lists.collections.values().filter(|_| tail == Tail::Linked);
        frozen().chain(others).find(|c| c.unsealed().any(|s| s.unlinked() > 0)).map(|c| Task::Link(c.id))
    }

    /// When the log has grown too long: the collection that holds its floor down is frozen, if that frees a file.
    fn freeze_what_pins_the_log(&self) -> bool {
        let Some(log) = self.log.as_ref() else { return false };
        if log.bytes() < self.core.options.wal_bytes {
            return false;
        }
        // One file always stays: whoever freezes for less than that makes a small segment, and then the next one.
        let Some(second) = log.files().get(1).map(|file| file.first_lsn) else { return false };
        let mut live = self.core.live.lock();
        let pinned = live.pending.iter().filter_map(|(id, p)| Some((*id, p.first?))).min_by_key(|p| p.1);
        let Some((id, _)) = pinned.filter(|(_, first)| *first < second) else { return false };
        let frozen = live.freeze(&self.core, id);
        live.publish(&self.core);
        frozen
    }

    /// Batches that changed nothing (deletes of keys that were not there) pin nothing, and no seal ever moves the floor
    /// over them: when the log has grown too long and nothing is to be sealed, the floor is moved by itself.
    fn cut_the_log_that_nobody_needs(&self) -> Result<bool> {
        let log = self.log()?;
        if log.bytes() < self.core.options.wal_bytes {
            return Ok(false);
        }
        let mut catalog = self.catalog()?;
        log.sync().inspect_err(|_| self.note_poison())?;
        // Asked before, and not while the live state is held: whoever writes holds the log and waits for that.
        let synced = log.synced_lsn();
        let floor = self.core.live.lock().floor(None).min(synced + 1);
        // One file always stays: moving the floor within it frees nothing.
        let frees = log.files().get(1).is_some_and(|second| second.first_lsn <= floor);
        if floor <= catalog.state().wal_floor || !frees {
            return Ok(false);
        }
        failpoint("checkpoint-before-commit");
        catalog.commit(|next| {
            next.wal_floor = floor;
            next.last_lsn = next.last_lsn.max(floor - 1);
        })?;
        failpoint("checkpoint-committed");
        let generation = catalog.state().generation;
        drop(catalog);
        log.barrier(generation).inspect_err(|_| self.note_poison())?;
        failpoint("checkpoint-barrier-written");
        log.remove_below(floor)?;
        Ok(true)
    }

    fn next_compaction(&self) -> Option<Task> {
        let view = self.core.view.load();
        let now = self.core.wall_secs();
        view.lists.collections.values().find(|c| self.policy_wants(c, now)).map(|c| Task::Compact(c.id))
    }
}
