//! Pauses of the work behind: held until they are resumed or gone.

use pyo3::prelude::*;
use std::sync::{Mutex, PoisonError};

/// While it is held, the work behind is paused. As a context manager it is resumed at the end.
#[pyclass(frozen, module = "nearstone")]
pub(crate) struct BackgroundPause {
    held: Mutex<Option<nearstone::BackgroundPause>>,
}

impl BackgroundPause {
    pub(crate) fn new(pause: nearstone::BackgroundPause) -> BackgroundPause {
        BackgroundPause { held: Mutex::new(Some(pause)) }
    }

    fn take(&self) -> Option<nearstone::BackgroundPause> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[pymethods]
impl BackgroundPause {
    /// Lets the work behind go on, unless another pause is held. Resuming twice is not an error.
    fn resume(&self, py: Python<'_>) {
        let pause = self.take();
        py.detach(|| drop(pause));
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (kind, error, trace))]
    fn __exit__(
        &self,
        py: Python<'_>,
        kind: Option<&Bound<'_, PyAny>>,
        error: Option<&Bound<'_, PyAny>>,
        trace: Option<&Bound<'_, PyAny>>,
    ) {
        let _ = (kind, error, trace);
        self.resume(py);
    }

    fn __repr__(&self) -> &'static str {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if held { "BackgroundPause()" } else { "BackgroundPause(resumed)" }
    }
}
