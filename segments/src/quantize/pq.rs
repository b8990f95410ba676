//! Product quantization (Jégou, Douze and Schmid, "Product quantization for nearest neighbor search", PAMI 2011): a few numbers of a
//! row become one byte, the place of the nearest of 256 centroids.
//!
//! Rows are rotated at random before, as for [`super::rabitq`], so that each byte has as much to tell as any other, whatever the data. The
//! centroids of each place are learnt from some rows of the segment by k-means (Lloyd's rounds; a centroid that no row is nearest to
//! takes the place of the number that is worst off).
//!
//! The decoded row is lengthened until its error is orthogonal to the row (RaBitQ's estimator, arXiv 2405.12497, which asks nothing of how a
//! row was made coarse). Distances to the centroids alone, as they are common, are biased, by more the farther a row is.
//!
//! The product of a query with a decoded row is a sum of one number per byte, looked up among the products of the query with all centroids,
//! which are made once a query.

use super::codes::Factors;
use crate::share::share;
use nearstone_base::Result;
use nearstone_kernels::{CENTROIDS, kernels};

/// Rows from which centroids are learnt, at most: 64 for each.
const SAMPLE_ROWS: usize = 64 * CENTROIDS;
/// And so many numbers in all (128 MiB).
const SAMPLE_NUMBERS: usize = 32 << 20;
/// Rounds of k-means, unless nothing changes before.
const ROUNDS: usize = 10;
/// The error of a row of which its code tells nothing: it is always measured.
const UNKNOWN: f32 = f32::MAX;
/// Numbers that one byte stands for, at most.
const TOGETHER_MAX: usize = 16;

/// The centroids of all bytes of a row.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Codebooks {
    /// Numbers that one byte stands for.
    together: usize,
    /// What numbers are divided by before they are compared with centroids.
    unit: f32,
    /// How many centroids there are for each byte.
    count: usize,
    /// For each byte the first numbers of 256 centroids, then the second ones and so on; 0 where there are fewer.
    columns: Vec<f32>,
    /// Half of the squared length of each centroid, infinite where there is none; nothing where codebooks were read, by which nobody encodes many
    /// rows.
    half_squares: Vec<[f32; CENTROIDS]>,
}

/// The products of a query with all centroids, for each byte of a row.
pub(super) type Products = Vec<[f32; CENTROIDS]>;

/// Of so many rows of so many numbers, centroids are learnt from one in this many.
pub(super) fn sample_step(rows: usize, numbers: usize) -> usize {
    rows.div_ceil(SAMPLE_ROWS.min(SAMPLE_NUMBERS / numbers).max(1)).max(1)
}

/// What learning uses again.
#[derive(Default)]
struct Room {
    numbers: Vec<f32>,
    nearest: Vec<(u8, f32)>,
    order: Vec<u32>,
}

impl Codebooks {
    /// Learns from rows of `numbers` numbers that were rotated, one after another; `cancel` is asked between bytes.
    pub(super) fn learn(
        together: usize,
        numbers: usize,
        rows: &[f32],
        threads: usize,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Codebooks> {
        assert!(
            numbers.is_multiple_of(together)
                && together <= TOGETHER_MAX
                && rows.len().is_multiple_of(numbers)
        );
        let square: f64 = rows.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let typical = (square / rows.len().max(1) as f64).sqrt() as f32;
        let unit = if typical.is_normal() { typical } else { 1.0 };
        let count = (rows.len() / numbers).clamp(1, CENTROIDS);
        let mut columns = vec![0f32; numbers * CENTROIDS];
        let piece = together * CENTROIDS;
        share(&mut columns, piece, threads, cancel, |place, columns, room: &mut Room| {
            let first = place / CENTROIDS;
            room.numbers.clear();
            for row in rows.chunks_exact(numbers) {
                room.numbers.extend(row[first..first + together].iter().map(|x| x / unit));
            }
            means(together, count, columns, room);
            Ok(())
        })?;
        let mut learnt = Codebooks::new(together, unit, count, columns);
        learnt.half_squares = learnt.books().map(|columns| half_squares_of(columns, count)).collect();
        Ok(learnt)
    }

    fn new(together: usize, unit: f32, count: usize, columns: Vec<f32>) -> Codebooks {
        Codebooks { together, unit, count, columns, half_squares: Vec::new() }
    }

    /// The file form: the unit, then the centroids of each byte, in columns; little-endian.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let columns = self.columns.chunks_exact(CENTROIDS).flat_map(|column| &column[..self.count]);
        std::iter::once(&self.unit).chain(columns).flat_map(|x| x.to_le_bytes()).collect()
    }

    /// Reads the file form for rows of so many numbers; `None` for another length, a number that is not finite and a unit that nothing can be
    /// divided by.
    pub(super) fn from_bytes(together: usize, numbers: usize, bytes: &[u8]) -> Option<Codebooks> {
        let (words, rest) = bytes.as_chunks::<4>();
        let (unit, centroids) = words.split_first()?;
        let count = centroids.len() / numbers;
        if !rest.is_empty() || count * numbers != centroids.len() || !(1..=CENTROIDS).contains(&count) {
            return None;
        }
        let unit = f32::from_le_bytes(*unit);
        if !(unit.is_normal() && unit > 0.0) {
            return None;
        }
        let mut columns = vec![0f32; numbers * CENTROIDS];
        for (column, words) in columns.chunks_exact_mut(CENTROIDS).zip(centroids.chunks_exact(count)) {
            for (x, &word) in column.iter_mut().zip(words) {
                *x = f32::from_le_bytes(word);
            }
        }
        columns.iter().all(|x| x.is_finite()).then(|| Codebooks::new(together, unit, count, columns))
    }

    /// Each byte's columns.
    fn books(&self) -> impl Iterator<Item = &[f32]> {
        self.columns.chunks_exact(self.together * CENTROIDS)
    }

    /// Encodes a rotated row.
    pub(super) fn encode(&self, numbers: &[f32], codes: &mut [u8]) -> Factors {
        let kernels = kernels();
        let mut scaled = [0f32; TOGETHER_MAX];
        let scaled = &mut scaled[..self.together];
        let (mut square, mut product) = (0f64, 0f64);
        let places = numbers.chunks_exact(self.together).zip(codes.iter_mut());
        for (place, ((numbers, code), columns)) in places.zip(self.books()).enumerate() {
            let made;
            let half_squares = match self.half_squares.get(place) {
                Some(there) => there,
                None => {
                    made = half_squares_of(columns, self.count);
                    &made
                }
            };
            scaled.iter_mut().zip(numbers).for_each(|(scaled, x)| *scaled = x / self.unit);
            *code = kernels.nearest_of_columns(scaled, columns, half_squares).0;
            for (&x, column) in numbers.iter().zip(columns.chunks_exact(CENTROIDS)) {
                let x = f64::from(x);
                square += x * x;
                product += x * f64::from(column[usize::from(*code)]);
            }
        }
        let delta = if product > 0.0 { (square / product) as f32 } else { 0.0 };
        let fits = |x: f64, most: f32| x.min(f64::from(most)) as f32;
        if !delta.is_normal() {
            let error = if square >= f64::from(f32::MIN_POSITIVE) { UNKNOWN } else { 0.0 };
            return Factors { delta: 0.0, lo: 0.0, square: fits(square, f32::MAX), error };
        }
        let (mut decoded_square, mut error) = (0f64, 0f64);
        self.decode(codes, |place, centroid| {
            let decoded = f64::from(delta) * f64::from(centroid);
            let lost = f64::from(numbers[place]) - decoded;
            decoded_square += decoded * decoded;
            error += lost * lost;
        });
        let error = (error, decoded_square - error);
        Factors { delta, lo: 0.0, square: fits(error.1, f32::MAX), error: fits(error.0.sqrt(), UNKNOWN) }
    }

    /// Tells of each number of a decoded row, before it is lengthened.
    pub(super) fn decode(&self, codes: &[u8], mut tell: impl FnMut(usize, f32)) {
        let columns = self.columns.chunks_exact(CENTROIDS);
        for (place, column) in columns.enumerate() {
            tell(place, column[usize::from(codes[place / self.together])]);
        }
    }

    /// The products of a rotated query with all centroids.
    pub(super) fn products(&self, query: &[f32]) -> Products {
        let kernels = kernels();
        let mut products = vec![[0f32; CENTROIDS]; query.len() / self.together];
        let places = products.iter_mut().zip(query.chunks_exact(self.together));
        for ((out, numbers), columns) in places.zip(self.books()) {
            kernels.dots_of_columns(numbers, columns, out);
        }
        products
    }
}

/// Sums up what four rows of codes say of the products.
#[inline]
pub(super) fn look_up(products: &[[f32; CENTROIDS]], codes: [&[u8]; 4]) -> [f32; 4] {
    let [a, b, c, d] = codes.map(|codes| &codes[..products.len()]);
    let mut sums = [0f32; 4];
    for ((((products, a), b), c), d) in products.iter().zip(a).zip(b).zip(c).zip(d) {
        let found = [a, b, c, d].map(|&code| products[usize::from(code)]);
        sums.iter_mut().zip(found).for_each(|(sum, product)| *sum += product);
    }
    sums
}

/// Half of the squared lengths of the centroids of one byte.
fn half_squares_of(columns: &[f32], count: usize) -> [f32; CENTROIDS] {
    let mut halves = [f32::INFINITY; CENTROIDS];
    halves[..count].fill(0.0);
    for column in columns.chunks_exact(CENTROIDS) {
        halves[..count].iter_mut().zip(column).for_each(|(half, x)| *half += x * x / 2.0);
    }
    halves
}

/// The centroids of one byte, by k-means: `room.numbers` has the numbers of all rows, `together` of each.
fn means(together: usize, count: usize, columns: &mut [f32], room: &mut Room) {
    let Room { numbers, nearest, order } = room;
    let rows = numbers.len() / together;
    let of = |row: usize| &numbers[row * together..][..together];
    let put = |columns: &mut [f32], centroid: usize, numbers: &[f32]| {
        for (column, &x) in columns.chunks_exact_mut(CENTROIDS).zip(numbers) {
            // What isn't finite could not be read back.
            column[centroid] = if x.is_finite() { x } else { 0.0 };
        }
    };
    if rows == 0 {
        return;
    }
    (0..count).for_each(|centroid| put(columns, centroid, of(centroid * rows / count)));
    nearest.clear();
    nearest.resize(rows, (0, 0.0));
    let kernels = kernels();
    let mut mean = [0f32; TOGETHER_MAX];
    for round in 0..ROUNDS {
        let half_squares = half_squares_of(columns, count);
        let mut changed = false;
        for (row, nearest) in nearest.iter_mut().enumerate() {
            let (centroid, less) = kernels.nearest_of_columns(of(row), columns, &half_squares);
            let half: f32 = of(row).iter().map(|x| x * x / 2.0).sum();
            changed |= nearest.0 != centroid;
            *nearest = (centroid, half + less);
        }
        if !changed && round > 0 {
            break;
        }
        let mut sums = vec![0f64; count * together];
        let mut counts = vec![0u32; count];
        for (row, &(centroid, _)) in nearest.iter().enumerate() {
            let centroid = usize::from(centroid);
            counts[centroid] += 1;
            let sums = &mut sums[centroid * together..][..together];
            sums.iter_mut().zip(of(row)).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        order.clear();
        if counts.contains(&0) {
            order.extend(0..rows as u32);
            order.sort_unstable_by(|&a, &b| nearest[a as usize].1.total_cmp(&nearest[b as usize].1));
        }
        for (centroid, sums) in sums.chunks_exact(together).enumerate() {
            if counts[centroid] > 0 {
                let mean = &mut mean[..together];
                let share = f64::from(counts[centroid]).recip();
                mean.iter_mut().zip(sums).for_each(|(mean, sum)| *mean = (sum * share) as f32);
                put(columns, centroid, mean);
            } else if let Some(row) = order.pop() {
                put(columns, centroid, of(row as usize));
            }
        }
    }
}
