//! Progress of long calls, and their cancellation.

use nearstone_base::{Error, ErrorKind, Result};
use std::ops::ControlFlow;

/// How far a long call is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// What is being done: "join", "link", "write", "verify", "copy".
    pub phase: &'static str,
    /// Units done.
    pub done: u64,
    /// Units in all.
    pub total: u64,
}

/// Called between pieces of work; `Break` cancels, and the call returns `Cancelled`. It must not call the store: the call that
/// reports may hold what that waits for.
pub type Progress<'a> = &'a mut (dyn FnMut(Step) -> ControlFlow<()> + Send);

/// For calls without progress.
pub(crate) fn no_progress(_: Step) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Reports a step.
pub(crate) fn report(progress: Progress<'_>, phase: &'static str, done: u64, total: u64) -> Result<()> {
    match progress(Step { phase, done, total }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::new(
            ErrorKind::Cancelled,
            format!("cancelled while at {phase}: {done} of {total} done"),
        )),
    }
}
