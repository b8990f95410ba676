//! What everything runs on when nobody watches.

pub use arc_swap::ArcSwap as Published;
pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use std::sync::OnceLock;
pub use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, fence};

/// Threads that wait for others.
pub mod thread {
    pub use std::thread::{scope, sleep, yield_now};
}
