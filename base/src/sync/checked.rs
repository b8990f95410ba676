//! The types of `native`, as far as the project uses them, over those of a checker: loom or shuttle, which both
//! imitate the standard library.
//!
//! [`OnceLock`] and [`Published`] keep their values in the standard library's types, where no checker looks, and order
//! the accesses by one atomic of the checker's with just the ordering that the originals promise. A reader of a
//! [`Published`] value may so get an old one, for as long as nothing it has seen forbids that.

#[cfg(nearstone_loom)]
use ::loom as checker;
#[cfg(all(nearstone_shuttle, not(nearstone_loom)))]
use ::shuttle as checker;

use super::{Arc, Ordering};
pub use checker::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, fence};
use checker::sync::{self, LockResult};
pub use checker::sync::{RwLockReadGuard, RwLockWriteGuard};
use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// Threads that wait for others.
pub mod thread {
    #[cfg(nearstone_loom)]
    pub use std::thread::scope;

    #[cfg(nearstone_loom)]
    pub use ::loom::thread::yield_now;
    #[cfg(all(nearstone_shuttle, not(nearstone_loom)))]
    pub use ::shuttle::thread::{scope, yield_now};

    /// Time does not pass here: lets others run.
    pub fn sleep(_: std::time::Duration) {
        yield_now();
    }
}

/// No lock here is poisoned: what panics ends the whole check.
fn whole<G>(locked: LockResult<G>) -> G {
    locked.unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// As `parking_lot::Mutex`.
#[derive(Default, Debug)]
pub struct Mutex<T>(sync::Mutex<T>);

/// As `parking_lot::MutexGuard`. Empty only while a [`Condvar`] has it.
#[derive(Debug)]
pub struct MutexGuard<'a, T>(Option<sync::MutexGuard<'a, T>>);

#[expect(missing_docs, reason = "as the originals")]
impl<T> Mutex<T> {
    pub fn new(value: T) -> Mutex<T> {
        Mutex(sync::Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(whole(self.0.lock())))
    }

    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok().map(|guard| MutexGuard(Some(guard)))
    }

    pub fn into_inner(self) -> T {
        whole(self.0.into_inner())
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("the lock is held")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("the lock is held")
    }
}

/// As `parking_lot::Condvar`.
#[derive(Default, Debug)]
pub struct Condvar(sync::Condvar);

#[expect(missing_docs, reason = "as the originals")]
impl Condvar {
    pub fn new() -> Condvar {
        Condvar(sync::Condvar::new())
    }

    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.0.take().expect("the lock is held");
        guard.0 = Some(whole(self.0.wait(held)));
    }

    /// Time does not pass here: lets others run, as a wait that ends too early does.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _: Duration) {
        let lock = guard.0.take().expect("the lock is held");
        guard.0 = Some(whole(self.0.wait_timeout(lock, Duration::ZERO)).0);
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// As `parking_lot::RwLock`.
#[derive(Default, Debug)]
pub struct RwLock<T>(sync::RwLock<T>);

#[expect(missing_docs, reason = "as the originals")]
impl<T> RwLock<T> {
    pub fn new(value: T) -> RwLock<T> {
        RwLock(sync::RwLock::new(value))
    }

    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        whole(self.0.read())
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        whole(self.0.write())
    }
}

/// As `std::sync::OnceLock`.
#[derive(Debug)]
pub struct OnceLock<T> {
    value: std::sync::OnceLock<T>,
    is_set: AtomicBool,
    setting: sync::Mutex<()>,
}

impl<T> Default for OnceLock<T> {
    fn default() -> OnceLock<T> {
        OnceLock::new()
    }
}

#[expect(missing_docs, reason = "as the originals")]
impl<T> OnceLock<T> {
    pub fn new() -> OnceLock<T> {
        let (value, is_set) = (std::sync::OnceLock::new(), AtomicBool::new(false));
        OnceLock { value, is_set, setting: sync::Mutex::new(()) }
    }

    pub fn get(&self) -> Option<&T> {
        if self.is_set.load(Ordering::Acquire) { self.value.get() } else { None }
    }

    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        if let Some(value) = self.get() {
            return value;
        }
        let guard = whole(self.setting.lock());
        if self.value.get().is_none() {
            let value = make();
            assert!(self.value.set(value).is_ok(), "the lock is held");
            self.is_set.store(true, Ordering::Release);
        }
        drop(guard);
        self.value.get().expect("somebody has set it")
    }

    pub fn set(&self, value: T) -> Result<(), T> {
        let mut given = Some(value);
        self.get_or_init(|| given.take().expect("called once"));
        given.map_or(Ok(()), Err)
    }

    pub fn take(&mut self) -> Option<T> {
        let taken = self.value.take();
        *self = OnceLock::new();
        taken
    }
}

/// As `arc_swap::ArcSwap`. Every value lives as long as the whole: models and runs are short.
#[derive(Debug)]
pub struct Published<T> {
    values: std::sync::Mutex<Vec<Arc<T>>>,
    newest: AtomicUsize,
}

#[expect(missing_docs, reason = "as the originals")]
impl<T> Published<T> {
    pub fn from_pointee(value: T) -> Published<T> {
        Published { values: std::sync::Mutex::new(vec![Arc::new(value)]), newest: AtomicUsize::new(0) }
    }

    pub fn load(&self) -> Arc<T> {
        let newest = self.newest.load(Ordering::Acquire);
        self.values()[newest].clone()
    }

    pub fn load_full(&self) -> Arc<T> {
        self.load()
    }

    pub fn store(&self, value: Arc<T>) {
        let place = {
            let mut values = self.values();
            values.push(value);
            values.len() - 1
        };
        // Two who store at once are not ordered by this; the project's only writers hold a lock.
        self.newest.store(place, Ordering::Release);
    }

    /// Held for no longer than it takes to clone: nobody else runs meanwhile.
    fn values(&self) -> std::sync::MutexGuard<'_, Vec<Arc<T>>> {
        self.values.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
