//! Faults on demand, so that the tests can show what they are worth: a harness that never fails proves nothing.
//!
//! - A **seeded bug** is a place where the program does the wrong thing when it is asked to; the check beside it must
//!   notice. One is chosen by name through the environment variable `NEARSTONE_SEEDED_BUG`; `cargo xtask seeded-bugs`
//!   runs them all.
//! - A **failpoint** is a step at which the process dies when it is asked to, as if it were killed there: nothing is
//!   flushed and no destructor runs. `NEARSTONE_FAILPOINT=name` chooses the first passing of the step of that name,
//!   `name:n` the n-th; `cargo xtask kill` goes through them all. Its name says what has just been done, or
//!   `before-` what is about to be.
//!
//! Both exist only under `--cfg nearstone_faults`, which no feature sets, so that nothing that ships holds them.

/// Whether the bug of this name is to happen.
#[cfg(nearstone_faults)]
pub fn seeded(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("NEARSTONE_SEEDED_BUG").ok()).as_deref() == Some(name)
}

/// Whether the bug of this name is to happen: never.
#[cfg(not(nearstone_faults))]
#[inline(always)]
pub const fn seeded(_: &str) -> bool {
    false
}

/// Dies here, if that was asked for.
#[cfg(nearstone_faults)]
pub fn failpoint(name: &str) {
    failpoint_after(name, || {});
}

/// Dies here, if that was asked for: never.
#[cfg(not(nearstone_faults))]
#[inline(always)]
pub const fn failpoint(_: &str) {}

/// As [`failpoint`], with a last deed: half of a write, say.
#[cfg(nearstone_faults)]
pub fn failpoint_after<T>(name: &str, last_deed: impl FnOnce() -> T) {
    if armed::passes(name) {
        drop(last_deed());
        armed::die(name);
    }
}

/// As [`failpoint`]: never.
#[cfg(not(nearstone_faults))]
#[inline(always)]
pub fn failpoint_after<T>(_: &str, _: impl FnOnce() -> T) {}

#[cfg(nearstone_faults)]
mod armed {
    use std::io::Write;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Chosen {
        name: String,
        /// Passings left, the fatal one among them.
        left: AtomicU64,
    }

    /// Whether this is the passing of the chosen step that is the last.
    pub(super) fn passes(name: &str) -> bool {
        static CHOSEN: OnceLock<Option<Chosen>> = OnceLock::new();
        let chosen = CHOSEN.get_or_init(|| {
            let text = std::env::var("NEARSTONE_FAILPOINT").ok()?;
            let (name, passing) = text.split_once(':').unwrap_or((&text, "1"));
            let passing = passing.parse().expect("NEARSTONE_FAILPOINT is name or name:n");
            Some(Chosen { name: name.to_owned(), left: AtomicU64::new(passing) })
        });
        chosen
            .as_ref()
            .is_some_and(|chosen| chosen.name == name && chosen.left.fetch_sub(1, Ordering::Relaxed) == 1)
    }

    /// Says where, and ends the process without a further step of its own.
    pub(super) fn die(name: &str) -> ! {
        // Unbuffered: whoever watches learns that it was this and no other end.
        let _ = std::io::stderr().write_all(format!("died at {name}\n").as_bytes());
        #[cfg(unix)]
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // Elsewhere, and should the kernel be slow.
        std::process::abort()
    }
}
