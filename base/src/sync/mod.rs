//! Locks, atomics, threads and the published value, in one place, so that a checker of concurrent programs can stand in
//! for all of them.
//!
//! - Usually (`native`): `parking_lot`'s locks, small, fair enough, and not poisoned by a panic (what must not go on
//!   after a panic says so itself); the atomics of the standard library; [`Published`], the one value that readers
//!   load without a lock, from `arc-swap`.
//! - Under `--cfg nearstone_loom` (`checked`): loom's, which runs a small model in every order and with every value
//!   that the memory model lets a load see. The models are the tests named `loom`.
//! - Under `--cfg nearstone_shuttle` (`checked` as well): shuttle's, which runs a whole store in many random orders,
//!   each of which can be repeated. That is the test named `shuttle`.
//!
//! Two rules follow for everybody who uses this module. Atomics are made at run time (`array::from_fn`, no `const`
//! block), since a checker has to know each of them. And a closure given to [`OnceLock::get_or_init`] may be
//! interrupted: it holds no lock but that one.

#[cfg(any(nearstone_loom, nearstone_shuttle))]
mod checked;
#[cfg(not(any(nearstone_loom, nearstone_shuttle)))]
mod native;

#[cfg(any(nearstone_loom, nearstone_shuttle))]
pub use checked::*;
#[cfg(not(any(nearstone_loom, nearstone_shuttle)))]
pub use native::*;

pub use std::sync::atomic::Ordering;
// The standard library's in every build: checkers have none that can hold a `dyn` type, and no count of references
// decides anything here but when memory is freed.
pub use std::sync::{Arc, Weak};

/// Whether a checker watches. It keeps books for each atomic, so pages and lists are small then.
pub const CHECKED: bool = cfg!(any(nearstone_loom, nearstone_shuttle));
