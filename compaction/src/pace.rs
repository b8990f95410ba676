//! How long work is paused, resumed and cancelled by others.
//!
//! The worker asks at every step, a few milliseconds apart; a pause parks it there, a cancellation makes it return
//! [`ErrorKind::Cancelled`] and leave nothing behind.

use nearstone_base::sync::{Condvar, Mutex};
use nearstone_base::{Error, ErrorKind, Result};

/// Shared by the worker and whoever steers it.
#[derive(Default, Debug)]
pub struct Pace {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default, Debug)]
struct State {
    paused: u32,
    cancelled: bool,
}

impl Pace {
    /// A running one.
    pub fn new() -> Pace {
        Pace::default()
    }

    /// Parks workers at their next step; counts, so that two callers can pause independently.
    pub fn pause(&self) {
        self.state.lock().paused += 1;
    }

    /// Takes one pause back.
    pub fn resume(&self) {
        let mut state = self.state.lock();
        state.paused = state.paused.saturating_sub(1);
        self.changed.notify_all();
    }

    /// Makes every step fail from now on, also of parked workers.
    pub fn cancel(&self) {
        self.state.lock().cancelled = true;
        self.changed.notify_all();
    }

    /// Whether work is paused now.
    pub fn is_paused(&self) -> bool {
        self.state.lock().paused > 0
    }

    /// Whether work was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.state.lock().cancelled
    }

    /// Called by the worker between pieces: waits while paused, `Cancelled` when cancelled.
    pub fn step(&self) -> Result<()> {
        let mut state = self.state.lock();
        while state.paused > 0 && !state.cancelled {
            self.changed.wait(&mut state);
        }
        if state.cancelled {
            return Err(Error::new(ErrorKind::Cancelled, "the work was cancelled"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancelled_worker_stops_even_when_it_is_parked() {
        let pace = Pace::new();
        assert!(pace.step().is_ok());
        pace.pause();
        std::thread::scope(|scope| {
            let parked = scope.spawn(|| pace.step());
            pace.cancel();
            assert_eq!(parked.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        });
    }

    #[test]
    fn two_pauses_need_two_resumes() {
        let pace = Pace::new();
        pace.pause();
        pace.pause();
        pace.resume();
        assert!(pace.is_paused());
        pace.resume();
        assert!(!pace.is_paused());
    }
}
