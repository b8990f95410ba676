//! Group commit: one leader at a time writes for all who wait.
//!
//! 1. A writer puts its batch into the queue. If nobody leads, it leads; otherwise it waits.
//! 2. The leader takes the whole queue, asks [`Apply::admit`] for each batch, makes sure of room, gives out lsns, writes,
//!    and syncs once if any of the batches wants it.
//! 3. It hands the items to [`Apply::apply`], in lsn order, and each waiter its own result.
//! 4. If others queued up meanwhile, the first of them leads next.
//!
//! While a leader syncs, the next group forms: the more writers, the fewer syncs per batch.
//!
//! A write or a sync that fails, or panics, leaves the disk's state unknown. The log is poisoned then: the batches of
//! that group may be there after the next open or not, those behind them are definitely not written, and nothing more is
//! accepted, acknowledged or unlinked.

use crate::files::LogFile;
use crate::format::BODY_BYTES_MAX;
use crate::options::{CleanMark, Durability, LogOptions, LogStats};
use crate::recover::Recovered;
use crate::writer::Writer;
use nearstone_base::clock::Clock;
use nearstone_base::faults::{failpoint, seeded};
use nearstone_base::random::Random;
use nearstone_base::sync::{AtomicBool, AtomicUsize, Condvar, Mutex, Ordering};
use nearstone_base::vfs::Vfs;
use nearstone_base::{Error, ErrorKind, LSN_MAX, Lsn, Outcome, Result, Uuid};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What the log calls, under its own order.
pub trait Apply: Send + Sync {
    /// What a writer hands in beside the bytes.
    type Item: Send;
    /// What it gets back.
    type Output: Send;

    /// Called by the leader before a batch gets an lsn; an error fails that batch, which is not written.
    fn admit(&self, item: &Self::Item) -> Result<()>;

    /// Called by the leader with the items of a group, in lsn order, when they are as durable as was asked. Must make
    /// them visible before it returns, one output per item. A panic poisons the log.
    fn apply(&self, group: Vec<(Lsn, Self::Item)>) -> Vec<Self::Output>;
}

/// A running log.
pub struct Log<A: Apply> {
    apply: A,
    clock: Arc<dyn Clock>,
    queue: Mutex<Queue<A>>,
    /// Held by the leader, and by whoever excludes it.
    writer: Mutex<Writer>,
    poison: Mutex<Option<Error>>,
    poisoned: AtomicBool,
    closed: AtomicBool,
    pins: Arc<AtomicUsize>,
}

struct Queue<A: Apply> {
    waiting: Vec<Request<A>>,
    led: bool,
}

struct Request<A: Apply> {
    body: Vec<u8>,
    durability: Durability,
    item: A::Item,
    slot: Arc<Slot<A::Output>>,
}

/// Where a writer waits.
struct Slot<O> {
    state: Mutex<SlotState<O>>,
    changed: Condvar,
}

enum SlotState<O> {
    Waiting,
    Lead,
    Done(Result<(Lsn, O)>),
    Taken,
}

/// Keeps files from being unlinked while it lives.
#[derive(Debug)]
pub struct Pin(Arc<AtomicUsize>);

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The log while nobody else writes; see [`Log::exclusive`].
pub struct Inside<'a, A: Apply> {
    log: &'a Log<A>,
    writer: &'a mut Writer,
}

impl<A: Apply> Inside<'_, A> {
    /// As [`Log::sync`].
    pub fn sync(&mut self) -> Result<Lsn> {
        self.log.sync_writer(self.writer)
    }

    /// As [`Log::files`].
    pub fn files(&self) -> Vec<LogFile> {
        self.writer.files().to_vec()
    }

    /// Writes a batch and makes it durable, with everything before it; its lsn. Nobody applies it: the caller does what
    /// it stands for before the others go on.
    ///
    /// # Errors
    ///
    /// As [`Log::commit`].
    pub fn append(&mut self, body: &[u8]) -> Result<Lsn> {
        self.log.check()?;
        if self.writer.last_lsn >= LSN_MAX {
            return Err(no_more_lsns());
        }
        if !self.writer.fits(0, body.len()) {
            let unnamed = self.writer.reserve_file(body.len())?;
            self.writer.use_file(unnamed).map_err(|error| self.log.fail(error))?;
        }
        let lsn = self.writer.append(&[body]).map_err(|error| self.log.fail(error))?;
        self.sync()?;
        self.writer.stats.groups += 1;
        self.writer.stats.commits += 1;
        Ok(lsn)
    }
}

impl<A: Apply> Log<A> {
    /// Starts where [`crate::recover()`] ended. Batches that are not proven durable are durable when this returns;
    /// without such batches nothing is written until the first commit.
    #[expect(clippy::too_many_arguments, reason = "each is a seam, and there is one caller")]
    pub fn start(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        store: Uuid,
        recovered: Recovered,
        options: LogOptions,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        apply: A,
    ) -> Result<Log<A>> {
        let writer = Writer::start(vfs, dir, store, recovered, options, random)?;
        Ok(Log {
            apply,
            clock,
            queue: Mutex::new(Queue { waiting: Vec::new(), led: false }),
            writer: Mutex::new(writer),
            poison: Mutex::new(None),
            poisoned: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            pins: Arc::new(AtomicUsize::new(0)),
        })
    }

    /// Writes a batch, as durable as asked, applies it, and returns its lsn and the output.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` (a body over 64 MiB), what [`Apply::admit`] says, `DiskFull`, `Closed`, `Poisoned`:
    /// definitely not written. A failure of the write or the sync itself: [`Outcome::Indeterminate`].
    pub fn commit(&self, body: Vec<u8>, durability: Durability, item: A::Item) -> Result<(Lsn, A::Output)> {
        if body.len() > BODY_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the batch has {} bytes: the limit is {BODY_BYTES_MAX}",
                body.len()
            )));
        }
        self.check()?;
        let slot = Arc::new(Slot { state: Mutex::new(SlotState::Waiting), changed: Condvar::new() });
        let leads = {
            let mut queue = self.queue.lock();
            queue.waiting.push(Request { body, durability, item, slot: slot.clone() });
            !std::mem::replace(&mut queue.led, true)
        };
        if leads {
            self.lead();
        }
        loop {
            let mut state = slot.state.lock();
            match std::mem::replace(&mut *state, SlotState::Taken) {
                SlotState::Done(result) => return result,
                SlotState::Lead => {
                    *state = SlotState::Waiting;
                    drop(state);
                    self.lead();
                }
                waiting => {
                    *state = waiting;
                    slot.changed.wait(&mut state);
                }
            }
        }
    }

    /// Makes everything applied so far durable; the lsn up to which it is.
    pub fn sync(&self) -> Result<Lsn> {
        self.check()?;
        let mut writer = self.writer.lock();
        self.sync_writer(&mut writer)
    }

    /// Time until the next interval batch has to be durable: the caller then calls [`Log::sync`]. `None` when nothing
    /// waits.
    pub fn sync_due(&self) -> Option<Duration> {
        let deadline = self.writer.lock().deadline?;
        (!self.poisoned.load(Ordering::Acquire)).then(|| deadline.saturating_sub(self.clock.monotonic()))
    }

    /// Notes that the catalog has committed a generation: a catalog older than that is damage from then on (as soon
    /// as the note is durable, with the next sync).
    pub fn barrier(&self, generation: u64) -> Result<()> {
        self.check()?;
        let mut writer = self.writer.lock();
        writer.barrier(generation).map_err(|error| self.fail(error))
    }

    /// States on disk how far the log is durable, if no record does yet: so that damage to the last group can be told
    /// from a torn tail. For moments without work.
    pub fn marker_if_idle(&self) -> Result<()> {
        self.check()?;
        let Some(mut writer) = self.writer.try_lock() else { return Ok(()) };
        writer.mark().map_err(|error| self.fail(error))
    }

    /// Runs `f` while no group is in flight and none starts.
    pub fn exclusive<R>(&self, f: impl FnOnce(&mut Inside<'_, A>) -> R) -> R {
        let mut writer = self.writer.lock();
        f(&mut Inside { log: self, writer: &mut writer })
    }

    /// The last batch written.
    pub fn last_lsn(&self) -> Lsn {
        self.writer.lock().last_lsn
    }

    /// Everything up to here is durable.
    pub fn synced_lsn(&self) -> Lsn {
        self.writer.lock().synced_lsn
    }

    /// Unlinks the files that hold nothing from `floor` on, oldest first; bytes freed. Does nothing while pinned.
    pub fn remove_below(&self, floor: Lsn) -> Result<u64> {
        self.check()?;
        let mut writer = self.writer.lock();
        if self.pins.load(Ordering::Acquire) > 0 {
            return Ok(0);
        }
        writer.remove_below(floor)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.writer.lock().files().iter().map(|file| file.len).sum()
    }

    /// The files, oldest first.
    pub fn files(&self) -> Vec<LogFile> {
        self.writer.lock().files().to_vec()
    }

    /// Keeps all files until the pin is dropped.
    pub fn pin(&self) -> Pin {
        self.pins.fetch_add(1, Ordering::AcqRel);
        Pin(self.pins.clone())
    }

    /// Ends all writing: somebody else found that the durable state is unknown.
    pub fn poison(&self, why: &Error) {
        self.poison.lock().get_or_insert_with(|| why.duplicate());
        self.poisoned.store(true, Ordering::Release);
    }

    /// The error that every write gets, if the log is poisoned.
    pub fn poisoned(&self) -> Option<Error> {
        if !self.poisoned.load(Ordering::Acquire) {
            return None;
        }
        let poison = self.poison.lock();
        let why = poison.as_ref().map_or_else(String::new, ToString::to_string);
        Some(Error::new(
            ErrorKind::Poisoned,
            format!(
                "the store takes no more writes until it is opened again, because of an earlier failure: {why}"
            ),
        ))
    }

    /// What it did so far.
    pub fn stats(&self) -> LogStats {
        self.writer.lock().stats
    }

    /// Syncs, takes no more batches, and says where the log ends. Batches that wait get `Closed`.
    pub fn close(&self) -> Result<CleanMark> {
        self.check()?;
        let mut writer = self.writer.lock();
        self.closed.store(true, Ordering::Release);
        if !seeded("closed-before-sync") {
            self.sync_writer(&mut writer)?;
        }
        failpoint("close-log-ended");
        Ok(writer.clean_mark())
    }

    fn check(&self) -> Result<()> {
        if let Some(error) = self.poisoned() {
            return Err(error);
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Closed, "the log is closed"));
        }
        Ok(())
    }

    /// Latches the poison and passes the error on.
    fn fail(&self, error: Error) -> Error {
        if !seeded("poison-forgotten") {
            self.poison(&error);
        }
        error.with_outcome(Outcome::Indeterminate)
    }

    fn sync_writer(&self, writer: &mut Writer) -> Result<Lsn> {
        if let Some(error) = self.poisoned() {
            return Err(error);
        }
        writer.sync().map_err(|error| self.fail(error))
    }

    /// Leads one group, and hands on.
    fn lead(&self) {
        {
            let mut writer = self.writer.lock();
            // Taken under the writer's lock: what queued up while an earlier group was written is in it.
            let group = std::mem::take(&mut self.queue.lock().waiting);
            let slots: Vec<_> = group.iter().map(|request| request.slot.clone()).collect();
            let written = catch_unwind(AssertUnwindSafe(|| self.write_group(&mut writer, group)));
            if let Err(panic) = written {
                // What it has taken along nobody else answers, and whoever comes next must not wait for this leader.
                let error = self.fail(panicked("writing", &*panic));
                slots.iter().for_each(|slot| slot.give_up(&error));
            }
        }
        let mut queue = self.queue.lock();
        match queue.waiting.first() {
            Some(next) => next.slot.set(SlotState::Lead),
            None => queue.led = false,
        }
    }

    fn write_group(&self, writer: &mut Writer, group: Vec<Request<A>>) {
        let mut admitted = Vec::with_capacity(group.len());
        for request in group {
            match self.check().and_then(|()| self.apply.admit(&request.item)) {
                Ok(()) => admitted.push(request),
                Err(error) => request.slot.set(SlotState::Done(Err(error.with_outcome(Outcome::NotApplied)))),
            }
        }
        if admitted.is_empty() {
            return;
        }
        writer.stats.groups += 1;
        match self.write_admitted(writer, &mut admitted) {
            Ok(first) => self.apply_written(writer, first, admitted),
            Err(error) => {
                let error = self.fail(error);
                for request in admitted {
                    request.slot.set(SlotState::Done(Err(error.duplicate())));
                }
            }
        }
    }

    /// Writes and syncs; the lsn of the first. Requests that found no room are answered and taken out. An error
    /// leaves the state of all others unknown.
    fn write_admitted(&self, writer: &mut Writer, requests: &mut Vec<Request<A>>) -> Result<Lsn> {
        let first_lsn = writer.last_lsn + 1;
        if LSN_MAX.saturating_sub(writer.last_lsn) < requests.len() as u64 {
            for request in requests.drain(..) {
                request.slot.set(SlotState::Done(Err(no_more_lsns())));
            }
        }
        let mut written = 0;
        while written < requests.len() {
            if !writer.fits(0, requests[written].body.len()) {
                match writer.reserve_file(requests[written].body.len()) {
                    Ok(unnamed) => writer.use_file(unnamed)?,
                    Err(error) => {
                        // No room for a new file. Nothing of these batches was written, now or later.
                        for request in requests.drain(written..) {
                            let error = error.duplicate().with_outcome(Outcome::NotApplied);
                            request.slot.set(SlotState::Done(Err(error)));
                        }
                        break;
                    }
                }
            }
            let mut bodies: Vec<&[u8]> = Vec::new();
            let mut bytes = 0;
            for request in &requests[written..] {
                if !writer.fits(bytes, request.body.len()) {
                    break;
                }
                bytes += crate::format::record_bytes(request.body.len()) as u64;
                bodies.push(&request.body);
            }
            writer.append(&bodies)?;
            written += bodies.len();
        }
        let now = self.clock.monotonic();
        for request in requests.iter() {
            if let Durability::Interval(wait) = request.durability {
                let deadline = now.saturating_add(wait);
                writer.deadline = Some(writer.deadline.map_or(deadline, |other| other.min(deadline)));
            }
        }
        let wants_sync = requests.iter().any(|request| request.durability == Durability::Sync)
            && !seeded("acknowledged-before-sync");
        if wants_sync || writer.deadline.is_some_and(|deadline| deadline <= now) {
            writer.sync()?;
        }
        Ok(first_lsn)
    }

    fn apply_written(&self, writer: &mut Writer, first: Lsn, requests: Vec<Request<A>>) {
        if requests.is_empty() {
            return;
        }
        failpoint("wal-before-apply");
        writer.stats.commits += requests.len() as u64;
        let mut slots = Vec::with_capacity(requests.len());
        let mut items = Vec::with_capacity(requests.len());
        for (lsn, request) in (first..).zip(requests) {
            slots.push((lsn, request.slot));
            items.push((lsn, request.item));
        }
        let applied = catch_unwind(AssertUnwindSafe(|| self.apply.apply(items)));
        match applied {
            Ok(outputs) => {
                failpoint("wal-before-acknowledge");
                assert_eq!(outputs.len(), slots.len(), "one output per item");
                for ((lsn, slot), output) in slots.into_iter().zip(outputs) {
                    slot.set(SlotState::Done(Ok((lsn, output))));
                }
            }
            Err(panic) => {
                let error = self.fail(panicked("applying", &*panic));
                for (_, slot) in slots {
                    slot.set(SlotState::Done(Err(error.duplicate())));
                }
            }
        }
    }
}

impl<O> Slot<O> {
    fn set(&self, state: SlotState<O>) {
        *self.state.lock() = state;
        self.changed.notify_one();
    }

    /// Answers whoever still waits.
    fn give_up(&self, error: &Error) {
        let mut state = self.state.lock();
        if matches!(*state, SlotState::Waiting) {
            *state = SlotState::Done(Err(error.duplicate()));
            self.changed.notify_one();
        }
    }
}

fn no_more_lsns() -> Error {
    Error::invalid(format!("the log has given away all lsns up to {LSN_MAX}: it takes no more batches"))
}

/// A panic while a batch was being dealt with, as an error.
fn panicked(what: &str, panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
    Error::new(ErrorKind::Poisoned, format!("{what} a batch failed: {text}"))
}

impl<A: Apply> std::fmt::Debug for Log<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Log(last lsn {})", self.last_lsn())
    }
}
