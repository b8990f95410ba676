//! Bulk loads and builds: rows of a matrix that stays where it is, handed over piece by piece to a thread that may outlive the call.

use crate::batch::Rows;
use crate::errors::invalid;
use crate::payload::Payload;
use crate::vectors::Vectors;
use nearstone::{Error, ErrorKind, Key, OnCollision, Result};
use numpy::{PyArray2, PyArrayMethods};
use pyo3::prelude::*;

/// Numbers that are copied while the interpreter is held once: it is needed to read an array, and others wait for it.
const PIECE: usize = 1 << 18;

/// Rows that a thread of its own can take, whatever becomes of the call.
pub(crate) struct HeldRows {
    keys: Vec<Key>,
    numbers: Numbers,
    dimension: usize,
    payloads: Vec<Payload>,
}

enum Numbers {
    /// Of one row.
    Copied(Vec<f32>),
    Held(Py<PyArray2<f32>>),
}

impl HeldRows {
    pub(crate) fn new(rows: Rows<'_>) -> PyResult<HeldRows> {
        let (keys, vectors, payloads) = rows.into_parts();
        let dimension = vectors.shape().1;
        let numbers = match vectors {
            Vectors::One(_) => Numbers::Copied(vectors.numbers()?.to_vec()),
            Vectors::Many(array) => Numbers::Held((*array).clone().unbind()),
        };
        Ok(HeldRows { keys, numbers, dimension, payloads })
    }

    /// Hands over all rows. Called with the interpreter released.
    pub(crate) fn each(mut self, mut push: impl FnMut(&Key, &[f32], Payload) -> Result<()>) -> Result<()> {
        let rows_max = (PIECE / self.dimension.max(1)).max(1);
        let keys = std::mem::take(&mut self.keys);
        let mut payloads = std::mem::take(&mut self.payloads).into_iter();
        let mut row = 0;
        for piece in keys.chunks(rows_max) {
            let numbers = self.piece(row, piece.len())?;
            for (key, vector) in piece.iter().zip(numbers.chunks_exact(self.dimension)) {
                let payload = payloads.next().flatten();
                push(key, vector, payload).map_err(|error| error.context(format!("row {row}")))?;
                row += 1;
            }
        }
        Ok(())
    }

    /// The numbers of so many rows.
    fn piece(&self, from: usize, rows: usize) -> Result<Vec<f32>> {
        let range = from * self.dimension..(from + rows) * self.dimension;
        let copy = |numbers: &[f32]| numbers.get(range.clone()).map(<[f32]>::to_vec);
        let piece = match &self.numbers {
            Numbers::Copied(numbers) => copy(numbers),
            Numbers::Held(array) => Python::try_attach(|py| {
                let array = array.bind(py).try_readonly().ok()?;
                copy(array.as_slice().ok()?)
            })
            .ok_or_else(|| Error::new(ErrorKind::Cancelled, "the interpreter has ended"))?,
        };
        piece
            .ok_or_else(|| Error::invalid(format!("the vectors changed while they were read, at row {from}")))
    }
}

/// `"replace"`, `"keep"` or `"refuse"`.
pub(crate) fn policy(py: Python<'_>, name: &str) -> PyResult<OnCollision> {
    match name {
        "replace" => Ok(OnCollision::Replace),
        "keep" => Ok(OnCollision::Keep),
        "refuse" => Ok(OnCollision::Refuse),
        _ => Err(invalid(
            py,
            format!("on_collision is {name:?}: it must be \"replace\", \"keep\" or \"refuse\""),
        )),
    }
}

/// What a bulk load or an attach did.
#[pyclass(frozen, module = "nearstone")]
pub(crate) struct BulkLoaded {
    loaded: nearstone::BulkLoaded,
}

impl BulkLoaded {
    pub(crate) fn new(loaded: nearstone::BulkLoaded) -> BulkLoaded {
        BulkLoaded { loaded }
    }
}

#[pymethods]
impl BulkLoaded {
    /// The log sequence number at which all rows became visible, which is their version. Without any row, that of the
    /// last batch.
    #[getter]
    fn lsn(&self) -> u64 {
        self.loaded.lsn
    }

    /// Rows under keys that were not there.
    #[getter]
    fn inserted(&self) -> u64 {
        self.loaded.inserted
    }

    /// Rows that took the place of others.
    #[getter]
    fn replaced(&self) -> u64 {
        self.loaded.replaced
    }

    /// Rows that were left out, because their keys were there and ``"keep"`` was asked for.
    #[getter]
    fn kept(&self) -> u64 {
        self.loaded.kept
    }

    fn __repr__(&self) -> String {
        let nearstone::BulkLoaded { lsn, inserted, replaced, kept } = self.loaded;
        format!("BulkLoaded(lsn={lsn}, inserted={inserted}, replaced={replaced}, kept={kept})")
    }
}
