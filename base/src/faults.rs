//! Seeded bugs: places where the program does the wrong thing when it is asked to, so that the tests can show that they
//! would notice. A harness that never fails proves nothing.
//!
//! They exist only under `--cfg nearstone_faults`, which no feature sets, so that nothing that ships holds them; one is
//! chosen by name through the environment variable `NEARSTONE_SEEDED_BUG`. `cargo xtask seeded-bugs` builds with them, in
//! a target folder of its own, and runs for each the check that must fail.

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
