//! How the work behind is governed: paused, resumed, cancelled, and kept to so many bytes a second.
//!
//! Whoever works behind takes a [`Work`] when it begins and asks at every step, a few milliseconds apart. A pause parks it
//! there, and so do bytes that are not paid for yet; a cancellation makes the step fail with [`ErrorKind::Cancelled`], and
//! the worker leaves nothing behind. What was cancelled may be begun again.
//!
//! Calls are not governed, they do what they say at once. But they may wait for what work behind holds: a turn, or
//! memory. While somebody does ([`Pace::hurry`]), work behind neither parks nor holds back.

use nearstone_base::clock::Clock;
use nearstone_base::sync::{Arc, Condvar, Mutex, MutexGuard};
use nearstone_base::{Error, ErrorKind, Result};
use std::time::Duration;

/// The clock may be one that somebody moves by hand: it is looked at so often.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes are saved up for so long, at most: what was not written long ago is not written all at once.
const SAVED: Duration = Duration::from_millis(100);

/// Shared by those who work behind and whoever steers them.
#[derive(Debug)]
pub struct Pace {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    paused: u32,
    hurried: u32,
    cancels: u64,
    ended: bool,
    bucket: Option<Bucket>,
}

/// One piece of work behind, from its beginning on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Work {
    cancels: u64,
}

/// While it lives, somebody waits for work behind.
#[derive(Debug)]
pub struct Hurry<'a>(&'a Pace);

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.state.lock().hurried -= 1;
    }
}

impl Pace {
    /// A running one, by this clock, of so many bytes a second (at least 1) or of as many as come.
    pub fn new(clock: Arc<dyn Clock>, bytes_per_second: Option<u64>) -> Pace {
        let bucket = bytes_per_second.map(Bucket::new);
        let state = State { paused: 0, hurried: 0, cancels: 0, ended: false, bucket };
        Pace { clock, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Parks work behind at its next step; counts, so that two callers can pause independently.
    pub fn pause(&self) {
        self.state.lock().paused += 1;
    }

    /// Takes one pause back.
    pub fn resume(&self) {
        self.change(|state| state.paused = state.paused.saturating_sub(1));
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.state.lock().paused > 0
    }

    /// Whether nothing is to be begun: it is paused, and nobody waits.
    pub fn rests(&self) -> bool {
        self.state.lock().rests()
    }

    /// Somebody is about to wait for work behind.
    pub fn hurry(&self) -> Hurry<'_> {
        self.change(|state| state.hurried += 1);
        Hurry(self)
    }

    /// Makes the steps of all work fail that has begun, also of what is parked.
    pub fn cancel(&self) {
        self.change(|state| state.cancels += 1);
    }

    /// Cancels, for good: the steps of what begins later fail as well.
    pub fn end(&self) {
        self.change(|state| state.ended = true);
    }

    /// Work begins.
    pub fn begin(&self) -> Work {
        Work { cancels: self.state.lock().cancels }
    }

    /// Called between pieces of work: waits while it is paused, `Cancelled` when it was cancelled.
    pub fn step(&self, work: Work) -> Result<()> {
        let mut state = self.state.lock();
        loop {
            state.check(work)?;
            if !state.rests() {
                return Ok(());
            }
            self.changed.wait(&mut state);
        }
    }

    /// Called before so many bytes are written: as [`Pace::step`], and waits until the bytes written before are paid for. Those
    /// that somebody waits for cost nothing.
    pub fn spend(&self, work: Work, bytes: u64) -> Result<()> {
        let mut state = self.state.lock();
        loop {
            state.check(work)?;
            let now = self.clock.monotonic();
            let owed = state.bucket.as_ref().map_or(Duration::ZERO, |bucket| bucket.owed(now));
            if state.hurried > 0 {
                return Ok(());
            }
            if state.paused == 0 && owed.is_zero() {
                if let Some(bucket) = &mut state.bucket {
                    bucket.spend(bytes, now);
                }
                return Ok(());
            }
            self.wait(&mut state, owed);
        }
    }

    fn wait(&self, state: &mut MutexGuard<'_, State>, owed: Duration) {
        if state.paused > 0 {
            self.changed.wait(state);
        } else {
            self.changed.wait_for(state, owed.min(LOOK));
        }
    }

    fn change(&self, f: impl FnOnce(&mut State)) {
        f(&mut self.state.lock());
        self.changed.notify_all();
    }
}

impl State {
    fn rests(&self) -> bool {
        self.paused > 0 && self.hurried == 0
    }

    fn check(&self, work: Work) -> Result<()> {
        if self.ended || self.cancels != work.cancels {
            return Err(Error::new(ErrorKind::Cancelled, "the work behind was cancelled"));
        }
        Ok(())
    }
}

/// A bucket of bytes that fills at a steady rate. What is taken may be more than is in it; then nothing is taken until it is
/// no longer empty.
#[derive(Debug)]
struct Bucket {
    bytes_per_second: u64,
    /// When all that was taken has flown in.
    paid: Duration,
}

impl Bucket {
    fn new(bytes_per_second: u64) -> Bucket {
        Bucket { bytes_per_second, paid: Duration::ZERO }
    }

    fn owed(&self, now: Duration) -> Duration {
        self.paid.saturating_sub(now)
    }

    fn spend(&mut self, bytes: u64, now: Duration) {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.max(1));
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.paid = self.paid.max(now.saturating_sub(SAVED)).saturating_add(takes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearstone_base::clock::ManualClock;
    use std::sync::mpsc;

    fn pace(bytes_per_second: Option<u64>) -> (Arc<ManualClock>, Pace) {
        let clock = Arc::new(ManualClock::default());
        (clock.clone(), Pace::new(clock, bytes_per_second))
    }

    #[test]
    fn cancelled_work_ends_even_when_it_is_parked_and_what_begins_later_does_not() {
        let (_, pace) = pace(None);
        let work = pace.begin();
        assert!(pace.step(work).is_ok());
        pace.pause();
        std::thread::scope(|scope| {
            let parked = [scope.spawn(|| pace.step(work)), scope.spawn(|| pace.spend(work, 1))];
            pace.cancel();
            for parked in parked {
                assert_eq!(parked.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
            }
        });
        pace.resume();
        let again = pace.begin();
        assert!(pace.step(again).is_ok() && pace.step(work).is_err());
        pace.end();
        assert!(pace.step(again).is_err() && pace.spend(pace.begin(), 1).is_err());
    }

    #[test]
    fn two_pauses_need_two_resumes() {
        let (_, pace) = pace(None);
        pace.pause();
        pace.pause();
        pace.resume();
        assert!(pace.is_paused() && pace.rests());
        pace.resume();
        assert!(!pace.is_paused());
    }

    /// A call may wait for a turn that parked work holds: it would wait for ever.
    #[test]
    fn parked_work_goes_on_while_somebody_waits_for_it() {
        let (_, pace) = pace(Some(1));
        let work = pace.begin();
        pace.spend(work, 1_000_000).unwrap();
        pace.pause();
        std::thread::scope(|scope| {
            let parked = [scope.spawn(|| pace.step(work)), scope.spawn(|| pace.spend(work, 1_000_000))];
            let hurry = pace.hurry();
            for parked in parked {
                parked.join().unwrap().unwrap();
            }
            assert!(pace.is_paused() && !pace.rests());
            drop(hurry);
            assert!(pace.rests());
        });
    }

    #[test]
    fn bytes_wait_until_those_before_are_paid_for() {
        let (clock, pace) = pace(Some(1_000));
        let work = pace.begin();
        let (done, all_done) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Four seconds of bytes at once, and then one after the other.
                for bytes in [4_000, 500, 500, 1] {
                    pace.spend(work, bytes).unwrap();
                    done.send(bytes).unwrap();
                }
            });
            let soon = || all_done.recv_timeout(Duration::from_secs(60)).unwrap();
            let nothing = || all_done.recv_timeout(3 * LOOK).unwrap_err();
            assert_eq!(soon(), 4_000);
            nothing();
            clock.advance(Duration::from_millis(3_800));
            nothing();
            clock.advance(Duration::from_millis(200));
            assert_eq!(soon(), 500);
            nothing();
            clock.advance(Duration::from_millis(500));
            assert_eq!(soon(), 500);
            nothing();
            clock.advance(Duration::from_millis(500));
            assert_eq!(soon(), 1);
        });
    }

    #[test]
    fn what_is_not_written_is_saved_up_for_a_tenth_of_a_second() {
        let mut bucket = Bucket::new(1_000);
        let second = Duration::from_secs(1);
        bucket.spend(100, 100 * second);
        assert_eq!(bucket.owed(100 * second), Duration::ZERO);
        bucket.spend(50, 100 * second);
        assert_eq!(bucket.owed(100 * second), Duration::from_millis(50));
        // Numbers of any size.
        bucket.spend(u64::MAX, 101 * second);
        bucket.spend(u64::MAX, 101 * second);
        assert!(bucket.owed(Duration::MAX).is_zero() || bucket.owed(102 * second) > second);
        let mut fast = Bucket::new(u64::MAX);
        fast.spend(1 << 40, second);
        assert!(fast.owed(second).is_zero());
    }
}
