//! Snapshots: held until they are closed or gone.

use crate::errors::raised;
use crate::long::Released;
use nearstone::{Error, ErrorKind};
use pyo3::prelude::*;
use std::sync::Mutex;

/// What was visible at one moment, over all collections; ``collection.at(snapshot)`` reads from it.
///
/// Holding one costs memory and disk space: old segments stay. As a context manager it is let go at the end.
#[pyclass(frozen, module = "nearstone")]
pub(crate) struct Snapshot {
    lsn: u64,
    held: Mutex<Option<Released<nearstone::Snapshot>>>,
}

impl Snapshot {
    pub(crate) fn new(snapshot: nearstone::Snapshot) -> Snapshot {
        Snapshot { lsn: snapshot.lsn(), held: Mutex::new(Some(Released::new(snapshot))) }
    }

    fn take(&self) -> Option<Released<nearstone::Snapshot>> {
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }

    /// The engine's snapshot, `Closed` when it was let go.
    pub(crate) fn held(&self, py: Python<'_>) -> PyResult<nearstone::Snapshot> {
        let held = {
            let held = self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            held.as_ref().map(|snapshot| (**snapshot).clone())
        };
        // Making an exception may run Python's code: not while the lock is held.
        match held {
            Some(snapshot) => Ok(snapshot),
            None => {
                let text = format!("the snapshot at lsn {} was closed", self.lsn);
                Err(raised(py, &Error::new(ErrorKind::Closed, text)))
            }
        }
    }
}

#[pymethods]
impl Snapshot {
    /// The log sequence number of the last batch it sees.
    #[getter]
    fn lsn(&self) -> u64 {
        self.lsn
    }

    /// Lets it go; what was made from it with ``at`` goes on seeing it. Closing twice is not an error.
    fn close(&self) {
        drop(self.take());
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (kind, error, trace))]
    fn __exit__(
        &self,
        kind: Option<&Bound<'_, PyAny>>,
        error: Option<&Bound<'_, PyAny>>,
        trace: Option<&Bound<'_, PyAny>>,
    ) {
        let _ = (kind, error, trace);
        self.close();
    }

    fn __repr__(&self) -> String {
        format!("Snapshot(lsn={})", self.lsn)
    }
}
