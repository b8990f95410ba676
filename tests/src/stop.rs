//! Threads that run until they are told to stop.

use std::sync::atomic::{AtomicBool, Ordering};

/// Tells the other threads to stop when it goes, also when the test fails: a scope waits for them, and they would run for ever.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
