//! Searching for one query or for a matrix of them, with a condition that may be Python's.

use crate::collection::Collection;
use crate::errors::OrRaise;
use crate::long::LOOK;
use crate::row::key_object;
use nearstone::{CollectionAt, Hit, KeyRef, Result, Search};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// More threads than any machine has cores: what is asked for beyond that is a mistake.
pub(crate) const THREADS_MAX: usize = 1024;

/// Exact queries that a thread asks together at least: they read every row once for all of them, which takes two or three times as long
/// as one alone.
const TOGETHER_EXACT: usize = 32;
/// Queries that a thread asks together, at most, and about the time that they may take.
const TOGETHER_MAX: usize = 128;
const PIECE_TIME: Duration = Duration::from_millis(10);

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What all queries of a call have in common.
pub(crate) struct Wishes {
    pub(crate) limit: usize,
    pub(crate) ef: Option<usize>,
    pub(crate) exact: bool,
    pub(crate) payloads: bool,
    pub(crate) vectors: bool,
}

impl Wishes {
    /// Runs one query. The interpreter must be released: a filter takes it.
    pub(crate) fn search(
        &self,
        at: &CollectionAt,
        query: &[f32],
        filter: Option<&Filter>,
    ) -> Result<Vec<Hit>> {
        let passes = |key: KeyRef<'_>| filter.is_none_or(|filter| filter.passes(key));
        self.of(at.search(query), filter.is_some().then_some(&passes)).run()
    }

    /// Runs the rows of a matrix as queries, on this thread.
    fn search_many(
        &self,
        at: &CollectionAt,
        matrix: &[f32],
        filter: Option<&Filter>,
    ) -> Result<Vec<Vec<Hit>>> {
        let passes = |key: KeyRef<'_>| filter.is_none_or(|filter| filter.passes(key));
        self.of(at.search_many(matrix).threads(1), filter.is_some().then_some(&passes)).run()
    }

    fn of<'a, Q>(
        &self,
        mut search: Search<'a, Q>,
        passes: Option<&'a (dyn Fn(KeyRef<'_>) -> bool + Sync + 'a)>,
    ) -> Search<'a, Q> {
        search = search.limit(self.limit).exact(self.exact);
        if let Some(ef) = self.ef {
            search = search.ef(ef);
        }
        if self.payloads {
            search = search.with_payload();
        }
        if self.vectors {
            search = search.with_vector();
        }
        if let Some(passes) = passes {
            search = search.filter(passes);
        }
        search
    }
}

/// A Python callable as a condition on keys. After it has raised, nothing passes any more and the search soon ends.
pub(crate) struct Filter {
    callable: Py<PyAny>,
    failed: AtomicBool,
    error: Mutex<Option<PyErr>>,
}

impl Filter {
    pub(crate) fn new(callable: &Bound<'_, PyAny>) -> PyResult<Filter> {
        if !callable.is_callable() {
            return Err(PyTypeError::new_err(format!(
                "the filter is a {}: it must be callable with a key",
                callable.get_type().name()?
            )));
        }
        Ok(Filter {
            callable: callable.clone().unbind(),
            failed: AtomicBool::new(false),
            error: Mutex::new(None),
        })
    }

    fn passes(&self, key: KeyRef<'_>) -> bool {
        if self.failed.load(Ordering::Relaxed) {
            return false;
        }
        Python::attach(|py| {
            let answer =
                key_object(py, &key.to_key()).and_then(|key| self.callable.call1(py, (key,))?.is_truthy(py));
            answer.unwrap_or_else(|error| {
                self.failed.store(true, Ordering::Relaxed);
                let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
                let other = if first.is_none() { first.replace(error) } else { Some(error) };
                // An exception that goes away may run Python's code: not while the lock is held.
                drop(first);
                drop(other);
                false
            })
        })
    }

    /// Raises what the callable raised.
    pub(crate) fn raise(filter: Option<&Filter>) -> PyResult<()> {
        let error = filter.and_then(|f| f.error.lock().unwrap_or_else(PoisonError::into_inner).take());
        error.map_or(Ok(()), Err)
    }
}

/// Runs the queries of a matrix of `(rows, dimension)` on so many threads, this one among them, which looks for
/// signals between two queries, or between two times 32 exact ones.
pub(crate) fn search_all(
    py: Python<'_>,
    at: &CollectionAt,
    wishes: &Wishes,
    numbers: &[f32],
    (rows, dimension): (usize, usize),
    filter: Option<&Filter>,
    threads: usize,
) -> PyResult<Vec<Vec<Hit>>> {
    py.detach(|| {
        for row in 0..rows {
            let query = &numbers[row * dimension..(row + 1) * dimension];
            at.schema().check_vector(query).map_err(|error| error.context(format!("query {row}")))?;
        }
        Ok(())
    })
    .or_raise(py)?;
    let threads = threads.min(rows).min(THREADS_MAX);
    let least = if wishes.exact { TOGETHER_EXACT.min(rows.div_ceil(threads.max(1))) } else { 1 };
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let work = |mut look: Option<&mut dyn FnMut() -> bool>| {
        let mut found = Vec::new();
        // Signals are looked for between two pieces: slow queries go one by one, slow exact ones a few together.
        let mut piece = least;
        loop {
            let began = Instant::now();
            let row = next.fetch_add(piece, Ordering::Relaxed);
            let failed = filter.is_some_and(|filter| filter.failed.load(Ordering::Relaxed));
            if failed
                || row >= rows
                || stop.load(Ordering::Relaxed)
                || look.as_mut().is_some_and(|look| look())
            {
                return Ok(found);
            }
            let end = rows.min(row + piece);
            match wishes.search_many(at, &numbers[row * dimension..end * dimension], filter) {
                Ok(lists) => found.extend((row..).zip(lists)),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(match end - row {
                        1 => error.context(format!("query {row}")),
                        _ => error.context(format!("queries {row} to {}", end - 1)),
                    });
                }
            }
            piece = match began.elapsed() {
                spent if spent < PIECE_TIME / 2 => (piece * 2).min(TOGETHER_MAX),
                spent if spent > PIECE_TIME => (piece / 2).max(least),
                _ => piece,
            };
        }
    };
    let mut interrupt = None;
    let parts = py.detach(|| {
        let mut looked = Instant::now();
        let mut look = || {
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                let signals = Python::attach(|py: Python<'_>| py.check_signals());
                if let Err(error) = signals {
                    interrupt = Some(error);
                    stop.store(true, Ordering::Relaxed);
                }
            }
            stop.load(Ordering::Relaxed)
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| work(None))).collect();
            let mut parts = vec![work(Some(&mut look))];
            for other in others {
                parts.push(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            parts
        })
    });
    if let Some(error) = interrupt {
        return Err(error);
    }
    let mut lists: Vec<Vec<Hit>> = vec![Vec::new(); rows];
    for part in parts {
        for (row, hits) in part.or_raise(py)? {
            lists[row] = hits;
        }
    }
    Ok(lists)
}

/// Mean nanoseconds of one search from Rust, hits made and dropped: what the overhead of a call from Python is measured
/// against.
#[pyfunction]
pub(crate) fn _search_ns(
    py: Python<'_>,
    collection: &Bound<'_, Collection>,
    query: &Bound<'_, PyAny>,
    k: usize,
    ef: usize,
    repeat: u32,
) -> PyResult<f64> {
    let collection = Collection::engine(collection);
    let query = crate::vectors::Vectors::new("the query", query)?;
    let query = query.numbers()?;
    let spent = py.detach(|| -> Result<Duration> {
        let start = Instant::now();
        for _ in 0..repeat {
            std::hint::black_box(collection.search(query).limit(k).ef(ef).run()?);
        }
        Ok(start.elapsed())
    });
    Ok(spent.or_raise(py)?.as_nanos() as f64 / f64::from(repeat.max(1)))
}
