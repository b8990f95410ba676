//! Many queries against many rows, so that each number that is read from memory is worked on for all of them.
//!
//! 1. Queries are packed into panels: number `k` of all queries of a panel lies together, one query per lane. So a number
//!    of a row is spread over a vector once and multiplied with all queries, and no lane is ever added to another.
//! 2. A tile of some rows and one panel is kept in registers; the numbers go through it [`BLOCK`] at a time, so that
//!    this part of the panel stays in the nearest cache while one tile after another passes.
//! 3. The sum of each part begins at zero and is added to those before it, which also keeps rounding small.
//! 4. [`QueryPanels::reaching`] compares the products with a bar that depends on query and row, a vector at a time: with
//!    128 numbers a row, one comparison after another would take as long as the products.

use crate::dispatch::Kernels;
use crate::vector::Floats;

/// Numbers of a row that go through a tile before its sums are added up. 32 queries of these are 32 KiB.
const BLOCK: usize = 256;

/// At most so many roundings lie between a product and the sum that it ends in, for vectors of `dimension` numbers: in
/// [`QueryPanels::dots`], [`Kernels::dot_norm`] and [`Kernels::dot`], on every backend.
///
/// With `c` of them and `u = 2^-24`, each product arrives with a factor of `(1 + e_1)...(1 + e_c)`, `|e_i| <= u`, which lies
/// within `c u / (1 - c u)` of 1 (Higham, Accuracy and Stability of Numerical Algorithms, lemma 3.1). So a sum is
/// wrong by at most that times the sum of absolute products, as long as nothing overflows; products below
/// `2^-126` lose at most `2^-149` each besides.
///
/// In a panel: the product, its place in the part, and one addition for each part. Row by row: the product, the
/// additions in one of two or more vectors of at least 8 lanes, what is left over, and joining the vectors and their lanes;
/// what is added to zero is not rounded.
pub const fn roundings(dimension: usize) -> usize {
    let part = if dimension < BLOCK { dimension } else { BLOCK };
    let panel = 1 + part + dimension.div_ceil(BLOCK);
    let row = 1 + dimension / 16 + 3 + 2 + 4;
    if panel > row { panel } else { row }
}

/// Queries, packed to be compared with rows many at a time.
#[derive(Debug)]
pub struct QueryPanels {
    kernels: Kernels,
    queries: usize,
    dimension: usize,
    numbers: Vec<f32>,
}

impl QueryPanels {
    /// Packs queries of one length for a backend. Panics when lengths differ.
    pub fn new(kernels: Kernels, queries: &[&[f32]]) -> QueryPanels {
        let width = kernels.panel_width();
        let dimension = queries.first().map_or(0, |query| query.len());
        assert!(queries.iter().all(|query| query.len() == dimension), "queries of several lengths");
        let mut numbers = vec![0.0; queries.len().div_ceil(width) * width * dimension];
        for (number, query) in queries.iter().enumerate() {
            let panel = &mut numbers[number / width * width * dimension..][..width * dimension];
            for (lanes, &x) in panel.chunks_exact_mut(width).zip(*query) {
                lanes[number % width] = x;
            }
        }
        QueryPanels { kernels, queries: queries.len(), dimension, numbers }
    }

    /// Queries per panel: a multiple of 8, at most 64.
    pub fn width(&self) -> usize {
        self.kernels.panel_width()
    }

    /// Panels; the last may have lanes without a query, of zeros.
    pub fn count(&self) -> usize {
        self.queries.div_ceil(self.width())
    }

    /// `out[row * width + lane] = sum row_i query_i` for all rows and the queries of one panel, wrong by what
    /// [`roundings`] says. Panics when there is no such panel, a row has another length, or `out` is not `rows * width` long.
    pub fn dots(&self, panel: usize, rows: &[&[f32]], out: &mut [f32]) {
        let len = self.width() * self.dimension;
        let panel = &self.numbers[panel * len..][..len];
        assert!(rows.iter().all(|row| row.len() == self.dimension), "rows of another length");
        assert_eq!(out.len(), rows.len() * self.width());
        // SAFETY: `kernels` exists only for a processor that has the backend; the lengths were checked, and the panel
        // was packed for the width of this backend.
        unsafe { (self.kernels.table().dots_many)(&(panel, rows), out) }
    }

    /// Which lanes of one row's products reach their bar: bit `l` is clear only if `dots[l]` is below
    /// `bar.bases[l] + bar.lift + bar.slopes[l] * bar.norm`, so that what cannot be compared counts as reaching it. The bar
    /// is rounded up to three times. Panics when a slice is not one panel wide.
    #[inline]
    pub fn reaching(&self, dots: &[f32], bar: &Bar<'_>) -> u64 {
        let width = self.width();
        assert!(dots.len() == width && bar.bases.len() == width && bar.slopes.len() == width);
        // SAFETY: as in `dots`; all slices have the width of a panel, a whole number of vectors.
        unsafe { (self.kernels.table().reaching)(dots, bar) }
    }
}

/// What products of one row must reach: `bases[lane] + lift + slopes[lane] * norm`.
#[derive(Clone, Copy, Debug)]
pub struct Bar<'a> {
    /// Of each query.
    pub bases: &'a [f32],
    /// Of each query, times `norm`.
    pub slopes: &'a [f32],
    /// Of the row.
    pub lift: f32,
    /// Of the row.
    pub norm: f32,
}

/// A panel, and the rows that it is compared with.
pub(crate) type PanelRows<'a> = (&'a [f32], &'a [&'a [f32]]);

/// Vectors of queries and rows that the registers hold the sums of, besides what is multiplied. With 32 registers, 2 x 8
/// keep two multipliers busy and the pointers to the rows in registers.
const fn tile_of<V: Floats>() -> (usize, usize) {
    match V::REGISTERS {
        32.. => (2, 8),
        16.. => (2, 6),
        _ => (1, 4),
    }
}

/// Queries in a panel.
pub(crate) const fn panel_width<V: Floats>() -> usize {
    tile_of::<V>().0 * V::LANES
}

/// See [`QueryPanels::dots`]: the products of a panel with rows.
///
/// # Safety
/// The processor has the instruction set of `V`; the panel has `panel_width::<V>()` numbers for each number of a row, all
/// rows have one length, and `out` the width for each row.
#[inline(always)]
pub(crate) unsafe fn dots_many<V: Floats>(work: &PanelRows<'_>, out: &mut [f32]) {
    // SAFETY: the caller's promises; the sizes are those of `tile_of`.
    unsafe {
        match tile_of::<V>() {
            (2, 8) => dots_tiled::<V, 2, 8>(work, out),
            (2, 6) => dots_tiled::<V, 2, 6>(work, out),
            _ => dots_tiled::<V, 1, 4>(work, out),
        }
    }
}

/// # Safety
/// As [`dots_many`], with panels of `W` vectors.
#[inline(always)]
unsafe fn dots_tiled<V: Floats, const W: usize, const R: usize>(
    &(panel, rows): &PanelRows<'_>,
    out: &mut [f32],
) {
    let width = W * V::LANES;
    let Some(last) = rows.last() else { return };
    let dimension = last.len();
    debug_assert!(panel.len() == dimension * width && out.len() == rows.len() * width);
    let out = out.as_mut_ptr();
    for at in (0..dimension.max(1)).step_by(BLOCK) {
        let len = (dimension - at).min(BLOCK);
        for first in (0..rows.len()).step_by(R) {
            // Where fewer than `R` rows are left, the last one fills the tile.
            let tile: [*const f32; R] = std::array::from_fn(|row| {
                let row = rows.get(first + row).unwrap_or(last);
                row[at..].as_ptr()
            });
            // SAFETY: `at + len` is at most the length of each row, and `width` times that the length of the panel.
            let sums = unsafe { sum_tile::<V, W, R>(panel.as_ptr().add(at * width), &tile, len) };
            for (row, sums) in (first..rows.len()).zip(sums) {
                for (vector, sum) in sums.into_iter().enumerate() {
                    // SAFETY: `row < rows.len()`, so that a whole vector of `out` lies there.
                    unsafe {
                        let place = out.add(row * width + vector * V::LANES);
                        if at == 0 { sum.store(place) } else { sum.add(V::load(place)).store(place) }
                    }
                }
            }
        }
    }
}

/// # Safety
/// The processor has the instruction set of `V`; `len` numbers can be read from each row, and `len` times `W` vectors from
/// the panel.
#[inline(always)]
unsafe fn sum_tile<V: Floats, const W: usize, const R: usize>(
    panel: *const f32,
    rows: &[*const f32; R],
    len: usize,
) -> [[V; W]; R] {
    // SAFETY: `k < len`, and the caller's promises.
    unsafe {
        let mut sums = [[V::zero(); W]; R];
        for k in 0..len {
            let mut queries = [V::zero(); W];
            for (vector, query) in queries.iter_mut().enumerate() {
                *query = V::load(panel.add((k * W + vector) * V::LANES));
            }
            for (sums, row) in sums.iter_mut().zip(rows) {
                let x = V::splat(*row.add(k));
                for (sum, query) in sums.iter_mut().zip(queries) {
                    *sum = x.mul_add(query, *sum);
                }
            }
        }
        sums
    }
}

/// See [`QueryPanels::reaching`].
///
/// # Safety
/// The processor has the instruction set of `V`; all slices have one length, a multiple of its lanes and at most 64.
#[inline(always)]
pub(crate) unsafe fn reaching<V: Floats>(dots: &[f32], bar: &Bar<'_>) -> u64 {
    debug_assert!(dots.len().is_multiple_of(V::LANES) && dots.len() <= 64);
    let mut bits = 0;
    // SAFETY: every load ends at or below the length of all slices.
    unsafe {
        let (lift, norm) = (V::splat(bar.lift), V::splat(bar.norm));
        for at in (0..dots.len()).step_by(V::LANES) {
            let base = V::load(bar.bases.as_ptr().add(at)).add(lift);
            let bar = V::load(bar.slopes.as_ptr().add(at)).mul_add(norm, base);
            bits |= u64::from(V::load(dots.as_ptr().add(at)).not_below(bar)) << at;
        }
    }
    bits
}
