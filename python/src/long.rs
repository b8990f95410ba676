//! Calls that take their time: they can be interrupted, report progress, and do not hold the interpreter.
//!
//! The work runs on a thread of its own and the caller's thread waits for it, looking up twenty times a second for
//! signals that Python has received: Ctrl-C raises `KeyboardInterrupt` at once where work can be cancelled between two
//! of its pieces, and where it cannot, the call returns within two seconds and the work goes on in the background. A
//! progress callback is called on the caller's thread, while the work waits for its answer; it can call the store, but
//! no other long call, which could wait for the one that it is called by.

use crate::errors::{invalid, raised};
use nearstone::{Error, ErrorKind, Result, Step};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Between two looks for signals.
pub(crate) const LOOK: Duration = Duration::from_millis(50);
/// How long interrupted work has to notice before it is left to itself.
const PATIENCE: Duration = Duration::from_secs(2);

/// A value whose end may take time (closing a store, removing files): it ends with the interpreter released.
pub(crate) struct Released<T: Send>(Option<T>);

impl<T: Send> Released<T> {
    pub(crate) fn new(value: T) -> Released<T> {
        Released(Some(value))
    }

    /// The value, to change it.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("taken only when it is consumed")
    }

    /// The value, no longer under this care.
    pub(crate) fn into_inner(mut self) -> Option<T> {
        self.0.take()
    }
}

impl<T: Send> std::ops::Deref for Released<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("taken only when it is consumed")
    }
}

impl<T: Send> Drop for Released<T> {
    fn drop(&mut self) {
        let Some(value) = self.0.take() else { return };
        let mut value = Some(value);
        // At the very end of the interpreter there is nothing to release.
        Python::try_attach(|py| {
            let value = value.take();
            py.detach(move || drop(value));
        });
        drop(value);
    }
}

enum Event<T> {
    Step(Step, Sender<ControlFlow<()>>),
    Done(std::thread::Result<Result<T>>),
}

/// Runs `work` as said above. What `progress` returns is ignored unless it is `False`, which cancels.
pub(crate) fn run<T: Send + 'static>(
    py: Python<'_>,
    progress: Option<&Bound<'_, PyAny>>,
    work: impl FnOnce(&mut (dyn FnMut(Step) -> ControlFlow<()> + Send)) -> Result<T> + Send + 'static,
) -> PyResult<T> {
    if IN_CALLBACK.get() {
        return Err(invalid(
            py,
            "a progress callback made a long call, which could wait for the one it reports on",
        ));
    }
    let (events, received) = channel::<Event<T>>();
    let cancelled = Arc::new(AtomicBool::new(false));
    let asked = progress.is_some();
    let flag = cancelled.clone();
    let started = std::thread::Builder::new().name("nearstone-call".to_owned()).spawn(move || {
        let steps = events.clone();
        let mut on_step = move |step: Step| -> ControlFlow<()> {
            if flag.load(Ordering::Relaxed) {
                return ControlFlow::Break(());
            }
            if !asked {
                return ControlFlow::Continue(());
            }
            let (answer, answered) = channel();
            if steps.send(Event::Step(step, answer)).is_err() {
                return ControlFlow::Break(());
            }
            answered.recv().unwrap_or(ControlFlow::Break(()))
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&mut on_step)));
        // Nobody listens any more when the caller was interrupted.
        let _ = events.send(Event::Done(result));
    });
    if let Err(error) = started {
        let text = format!("no thread could be started for the call: {error}");
        return Err(raised(py, &Error::new(ErrorKind::Io, text)));
    }
    // The exception that ends the call, and when it came.
    let mut ended: Option<(PyErr, Instant)> = None;
    // A receiver is not shared between threads; it goes through the released part and comes back.
    let mut received = received;
    loop {
        let event;
        (event, received) = py.detach(move || (received.recv_timeout(LOOK), received));
        match event {
            Ok(Event::Step(step, answer)) => {
                let wish = match (&ended, progress) {
                    (None, Some(progress)) => report(progress, step),
                    _ => Ok(ControlFlow::Break(())),
                };
                let wish = wish.unwrap_or_else(|error| {
                    ended = Some((error, Instant::now()));
                    ControlFlow::Break(())
                });
                let _ = answer.send(wish);
            }
            Ok(Event::Done(Ok(result))) => {
                return match ended {
                    Some((error, _)) => Err(error),
                    None => result.map_err(|error| raised(py, &error)),
                };
            }
            Ok(Event::Done(Err(panic))) => return Err(panicked(&*panic)),
            Err(RecvTimeoutError::Disconnected) => return Err(panicked(&"the thread is gone")),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if ended.is_none()
            && let Err(error) = py.check_signals()
        {
            cancelled.store(true, Ordering::Relaxed);
            ended = Some((error, Instant::now()));
        }
        if let Some((error, _)) = ended.take_if(|(_, since)| since.elapsed() > PATIENCE) {
            return Err(error);
        }
    }
}

thread_local! {
    /// Whether this thread is inside of a progress callback.
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

fn report(progress: &Bound<'_, PyAny>, step: Step) -> PyResult<ControlFlow<()>> {
    IN_CALLBACK.set(true);
    let answer = progress.call1((step.phase, step.done, step.total));
    IN_CALLBACK.set(false);
    let answer = answer?;
    let stop = answer.is_instance_of::<pyo3::types::PyBool>() && !answer.is_truthy()?;
    Ok(if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
}

/// A defect of Nearstone, said as an exception instead of ending the process.
fn panicked(panic: &(dyn std::any::Any + Send)) -> PyErr {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("of unknown cause");
    PyRuntimeError::new_err(format!("a defect of Nearstone: {text}"))
}
