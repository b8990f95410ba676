//! Storage that grows and never moves: the rows of a mutable segment, read without a lock while they are appended.
//!
//! Rows lie in chunks, chunk `c` has `FIRST_ROWS << c` of them, and a row never straddles two. A chunk is allocated
//! once and stays until the buffer is dropped, so a reference to a row lives as long as a borrow of the buffer. A tiny
//! segment holds one small chunk; of a large chunk the operating system backs only the pages that were written.
//!
//! 1. A writer takes the lock, finds or allocates the chunk of row `len`, writes the row, and publishes it by storing
//!    `len + 1` with release order.
//! 2. A reader loads `len` with acquire order and touches only rows below it.
//!
//! What must hold: a published row is never written again, and a row that is not published is touched by nobody but
//! the writer that holds the lock. This is the one file of the crate with `unsafe`; each block says which of the two
//! it rests on.
#![expect(
    unsafe_code,
    reason = "uninitialised memory behind a published length; the argument is in each block"
)]

use nearstone_base::sync::{AtomicU32, CHECKED, Mutex, OnceLock, Ordering};
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ptr::NonNull;

/// Rows in the first chunk.
const FIRST_ROWS: usize = if CHECKED { 2 } else { 64 };
/// Enough chunks for every `u32` ordinal; for a few hundred under a checker.
const CHUNKS: usize = if CHECKED { 7 } else { 27 };
/// Where chunks, and the rows of [`AppendBuffer::aligned`], begin.
const ALIGN: usize = 64;

const _: () = assert!(CHECKED || (FIRST_ROWS << CHUNKS) - FIRST_ROWS > u32::MAX as usize);

/// An append-only sequence of rows of `width` values each.
pub struct AppendBuffer<T> {
    width: usize,
    /// Values from the start of a row to the start of the next; at least `width`.
    stride: usize,
    chunks: [OnceLock<Chunk<T>>; CHUNKS],
    /// Rows that readers may touch.
    len: AtomicU32,
    /// Held while a row is written.
    writer: Mutex<()>,
    /// The buffer owns its values and drops them.
    owns: PhantomData<T>,
}

/// The start of a chunk's memory.
struct Chunk<T>(NonNull<T>);

// SAFETY: a chunk is a plain address; who may touch what lies there is decided by `AppendBuffer`, whose own bounds on
// `T` are below.
unsafe impl<T> Send for Chunk<T> {}
// SAFETY: as above; sharing the address alone gives access to nothing.
unsafe impl<T> Sync for Chunk<T> {}

// SAFETY: sending the buffer sends the values it owns, and nothing else refers to them.
unsafe impl<T: Send> Send for AppendBuffer<T> {}
// SAFETY: a shared buffer hands out `&T` to any thread (`T: Sync`) and lets any thread move a `T` in, which the thread
// that drops the buffer drops (`T: Send`). Writes are serialised by the lock and become visible through `len`.
unsafe impl<T: Send + Sync> Sync for AppendBuffer<T> {}

impl<T> AppendBuffer<T> {
    /// Rows of one value each.
    pub fn new() -> AppendBuffer<T> {
        AppendBuffer::with_stride(1, 1)
    }

    fn with_stride(width: usize, stride: usize) -> AppendBuffer<T> {
        const { assert!(size_of::<T>() != 0, "values without a size need no storage") };
        assert!(width >= 1 && stride >= width, "a row of {width} values can't have the stride {stride}");
        AppendBuffer {
            width,
            stride,
            chunks: std::array::from_fn(|_| OnceLock::new()),
            len: AtomicU32::new(0),
            writer: Mutex::new(()),
            owns: PhantomData,
        }
    }

    /// Published rows.
    pub fn len(&self) -> u32 {
        self.len.load(Ordering::Acquire)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the published rows as they lie in memory.
    pub fn bytes(&self) -> u64 {
        u64::from(self.len()) * (self.stride * size_of::<T>()) as u64
    }

    /// The values of a row. Panics when the row is not published.
    pub fn row(&self, row: u32) -> &[T] {
        let len = self.len();
        assert!(row < len, "row {row} of an append buffer with {len} rows");
        let (chunk, place) = place(row);
        let Some(chunk) = self.chunks[chunk].get() else { unreachable!("a published row has a chunk") };
        // SAFETY: `row < len` was read with acquire order, so the row's write happened before, and it is never
        // written again. `place < FIRST_ROWS << chunk`, so the row lies inside the chunk's allocation of
        // `(FIRST_ROWS << chunk) * stride` values, `width <= stride` of which were initialised. The memory is freed
        // only by `drop`, which the borrow of `self` excludes.
        unsafe { std::slice::from_raw_parts(chunk.0.as_ptr().add(place * self.stride), self.width) }
    }

    /// The first value of a row, which is all of it in a buffer from [`AppendBuffer::new`]. Panics when the row is not
    /// published.
    pub fn get(&self, row: u32) -> &T {
        &self.row(row)[0]
    }

    /// Appends a row of one value and gives its number. Panics when rows are wider.
    pub fn push(&self, value: T) -> u32 {
        assert!(self.width == 1, "a row of this buffer has {} values, not one", self.width);
        let guard = self.writer.lock();
        let (row, start) = self.room();
        // SAFETY: `start` is the place of row `len` (see `room`), aligned and inside its chunk; nobody else touches
        // it, since it is not published and the lock is held.
        unsafe { start.as_ptr().write(value) };
        self.len.store(row + 1, Ordering::Release);
        drop(guard);
        row
    }

    /// The number and the place of the next row; the lock must be held for the answer to stay true.
    fn room(&self) -> (u32, NonNull<T>) {
        let row = self.len.load(Ordering::Relaxed);
        assert!(row != u32::MAX, "an append buffer holds at most {} rows", u32::MAX);
        let (chunk, place) = place(row);
        let start = self.chunks[chunk].get_or_init(|| self.allocate(chunk)).0;
        // SAFETY: `place < FIRST_ROWS << chunk`, so the offset stays inside the chunk's allocation.
        (row, unsafe { start.add(place * self.stride) })
    }

    fn allocate(&self, chunk: usize) -> Chunk<T> {
        let layout = self.layout(chunk);
        // SAFETY: the layout's size is not zero: `T` has a size (checked when the buffer was made), and neither the
        // stride nor the rows of a chunk are zero.
        let start = unsafe { alloc(layout) };
        Chunk(NonNull::new(start.cast()).unwrap_or_else(|| handle_alloc_error(layout)))
    }

    fn layout(&self, chunk: usize) -> Layout {
        (FIRST_ROWS << chunk)
            .checked_mul(self.stride)
            .and_then(|values| Layout::array::<T>(values).ok())
            .and_then(|layout| layout.align_to(ALIGN).ok())
            .expect("a chunk fits into the address space")
    }
}

impl<T: Copy> AppendBuffer<T> {
    /// Rows of `width` values, each beginning at a multiple of 64 bytes.
    pub fn aligned(width: usize) -> AppendBuffer<T> {
        assert!(
            size_of::<T>() != 0 && ALIGN.is_multiple_of(size_of::<T>()),
            "64 bytes are no whole number of values"
        );
        AppendBuffer::with_stride(width, width.next_multiple_of(ALIGN / size_of::<T>()))
    }

    /// Appends a copy of `values` as one row and gives its number. Panics when there are not `width` of them.
    pub fn push_row(&self, values: &[T]) -> u32 {
        assert!(values.len() == self.width, "a row has {} values, not {}", self.width, values.len());
        let guard = self.writer.lock();
        let (row, start) = self.room();
        // SAFETY: `start` is the place of row `len`, aligned, with room for `stride >= width` values; it is not
        // published and the lock is held, so nobody else touches it, `values` included (it refers to initialised
        // values, which this place has none of yet). `T: Copy` may be duplicated bitwise.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), start.as_ptr(), self.width) };
        self.len.store(row + 1, Ordering::Release);
        drop(guard);
        row
    }
}

impl<T> Default for AppendBuffer<T> {
    fn default() -> AppendBuffer<T> {
        AppendBuffer::new()
    }
}

impl<T> std::fmt::Debug for AppendBuffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AppendBuffer({} rows of {})", self.len(), self.width)
    }
}

impl<T> Drop for AppendBuffer<T> {
    fn drop(&mut self) {
        let mut left = self.len() as usize;
        for index in 0..CHUNKS {
            let Some(chunk) = self.chunks[index].take() else { break };
            let rows = left.min(FIRST_ROWS << index);
            left -= rows;
            if std::mem::needs_drop::<T>() {
                // Only `push` takes values that need dropping, and only in buffers of width and stride 1 (`aligned`,
                // the other maker, demands `Copy`), so the chunk's first `rows` values are all there is.
                let values = std::ptr::slice_from_raw_parts_mut(chunk.0.as_ptr(), rows);
                // SAFETY: the first `rows` values of the chunk are published, so initialised; `&mut self` excludes
                // every reader and writer, and the chunk was taken out, so nothing is dropped twice.
                unsafe { std::ptr::drop_in_place(values) };
            }
            // SAFETY: `allocate` got this memory from the global allocator with the same layout, and it is freed once.
            unsafe { dealloc(chunk.0.as_ptr().cast(), self.layout(index)) };
        }
    }
}

/// Chunk of a row and its place there. Chunk `c` begins at row `FIRST_ROWS * (2^c - 1)`.
fn place(row: u32) -> (usize, usize) {
    let row = row as usize;
    let chunk = (row / FIRST_ROWS + 1).ilog2() as usize;
    (chunk, row - ((FIRST_ROWS << chunk) - FIRST_ROWS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// Small enough for an interpreter, large enough for a third chunk.
    const ROWS: u32 = 300;

    #[test]
    fn rows_stay_where_they_are_and_are_aligned() {
        for width in [1, 3, 16, 17] {
            let buffer = AppendBuffer::<f32>::aligned(width);
            let row = |i: u32| (0..width).map(|j| i as f32 + j as f32 / 64.0).collect::<Vec<_>>();
            assert_eq!(buffer.push_row(&row(0)), 0);
            let first = buffer.row(0);
            for i in 1..ROWS {
                assert_eq!(buffer.push_row(&row(i)), i);
            }
            assert_eq!(first.as_ptr(), buffer.row(0).as_ptr());
            for i in 0..ROWS {
                assert_eq!(buffer.row(i), row(i));
                assert_eq!(buffer.row(i).as_ptr() as usize % 64, 0);
            }
        }
    }

    #[test]
    fn owned_values_are_dropped_once_each() {
        let value = Arc::new(());
        for rows in [0, 1, 64, 65, ROWS] {
            let buffer = AppendBuffer::new();
            for _ in 0..rows {
                buffer.push((Arc::clone(&value), String::from("a value of its own")));
            }
            assert_eq!(Arc::strong_count(&value), rows as usize + 1);
            drop(buffer);
            assert_eq!(Arc::strong_count(&value), 1);
        }
    }

    #[test]
    #[should_panic(expected = "row 1 of an append buffer with 1 rows")]
    fn rows_not_published_are_out_of_reach() {
        let buffer = AppendBuffer::new();
        buffer.push(5u64);
        buffer.get(1);
    }

    #[test]
    #[should_panic(expected = "has 2 values, not one")]
    fn single_values_do_not_fit_wide_rows() {
        AppendBuffer::aligned(2).push(1.0f32);
    }

    #[test]
    fn readers_see_whole_rows_while_writers_append() {
        let buffer = AppendBuffer::<u64>::aligned(3);
        let rows = if cfg!(miri) { ROWS } else { 100_000 };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for i in 0..u64::from(rows / 2) {
                        let row = buffer.push_row(&[i, i + 1, i + 2]);
                        assert_eq!(buffer.row(row), [i, i + 1, i + 2]);
                    }
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut seen = 0;
                    while seen < rows {
                        seen = buffer.len();
                        for row in (0..seen).rev().take(50) {
                            let values = buffer.row(row);
                            assert_eq!((values[1], values[2]), (values[0] + 1, values[0] + 2));
                        }
                    }
                });
            }
        });
        let mut firsts: Vec<u64> = (0..rows).map(|row| buffer.row(row)[0]).collect();
        firsts.sort_unstable();
        assert!((0..u64::from(rows)).all(|i| firsts[i as usize] == i / 2));
    }

    #[test]
    fn places_are_dense_and_the_last_ordinal_has_one() {
        let mut expected = (0, 0);
        for row in 0..1_000 {
            assert_eq!(place(row), expected);
            expected.1 += 1;
            if expected.1 == FIRST_ROWS << expected.0 {
                expected = (expected.0 + 1, 0);
            }
        }
        let (chunk, place) = place(u32::MAX);
        assert!(chunk < CHUNKS && place < FIRST_ROWS << chunk);
    }
}
