//! Nearstone for Python: the compiled half of the package `nearstone`.
//!
//! It adds no semantics of its own. It turns Python's values into the engine's (`arguments`, `vectors`, `payload`),
//! calls the engine with the interpreter released (`long` for calls that take their time and can be interrupted),
//! and turns results (`hits`, `row`) and errors (`errors`) back. The handles are `store`, `collection`,
//! `batch`, `snapshot` and `pause`, with `load` for many rows at once, and `build` for those that are built without a store;
//! reading is the same for a collection and for one at a
//! snapshot (`read`).
//!
//! What always holds: no call panics on what Python passes in, the interpreter is never held while the engine works,
//! and a handle that goes away lets go of the interpreter before it closes a store.

mod arguments;
mod batch;
mod build;
mod collection;
mod errors;
mod hits;
mod load;
mod long;
mod open;
mod pause;
mod payload;
mod read;
mod row;
mod search;
mod snapshot;
mod store;
mod vectors;

use pyo3::prelude::*;

/// The compiled half of Nearstone; import `nearstone` instead.
#[pymodule]
fn _nearstone(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(open::open, module)?)?;
    module.add_function(wrap_pyfunction!(open::in_memory, module)?)?;
    module.add_function(wrap_pyfunction!(build::build_segments, module)?)?;
    module.add_function(wrap_pyfunction!(search::_search_ns, module)?)?;
    module.add_class::<store::Store>()?;
    module.add_class::<collection::Collection>()?;
    module.add_class::<collection::CollectionAt>()?;
    module.add_class::<batch::Batch>()?;
    module.add_class::<batch::Commit>()?;
    module.add_class::<load::BulkLoaded>()?;
    module.add_class::<snapshot::Snapshot>()?;
    module.add_class::<pause::BackgroundPause>()?;
    module.add_class::<row::Row>()?;
    module.add_class::<hits::Hit>()?;
    module.add_class::<hits::Hits>()?;
    Ok(())
}
