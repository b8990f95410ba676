//! Locks, atomics and the published value, in one place, so that a model checker can stand in for all of them
//! (`--cfg nearstone_loom`).
//!
//! Locks are `parking_lot`'s: small, fair enough, and not poisoned by a panic (what must not go on after a panic
//! says so itself). [`Published`] is the one value that readers load without a lock.

pub use arc_swap::ArcSwap as Published;
pub use parking_lot::{Condvar, Mutex, MutexGuard, Once, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
pub use std::sync::{Arc, OnceLock, Weak};
