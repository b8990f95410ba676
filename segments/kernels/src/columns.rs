//! A few numbers against 256 centroids of as many numbers each: what product quantization is made of.
//!
//! Centroids lie in columns: the first number of all 256, then the second one. So the products of one number with all centroids are
//! whole registers, and no sum runs across one.

use crate::Kernels;

/// Centroids that are compared with; as many as a byte can name.
pub const CENTROIDS: usize = 256;
/// Products that are summed up in registers, over all numbers.
const LANES: usize = 64;

impl Kernels {
    /// Dot products of `numbers` with the centroids of `columns`. Panics when there are not 256 times as many of those.
    pub fn dots_of_columns(self, numbers: &[f32], columns: &[f32], out: &mut [f32; CENTROIDS]) {
        assert_eq!(numbers.len() * CENTROIDS, columns.len());
        match self.name() {
            // SAFETY: a value of `Kernels` is the proof that the processor has the backend.
            #[cfg(target_arch = "x86_64")]
            "avx512" => unsafe { dots_avx512(numbers, columns, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            "avx2" => unsafe { dots_avx2(numbers, columns, out) },
            _ => dots(numbers, columns, out),
        }
    }

    /// The centroid that is nearest to `numbers` (of several the first), given half of each one's squared length: the smallest of these less the
    /// product. 0 where no difference is a number. Panics as [`Kernels::dots_of_columns`].
    pub fn nearest_of_columns(
        self,
        numbers: &[f32],
        columns: &[f32],
        half_squares: &[f32; CENTROIDS],
    ) -> (u8, f32) {
        let mut out = [0f32; CENTROIDS];
        self.dots_of_columns(numbers, columns, &mut out);
        match self.name() {
            // SAFETY: a value of `Kernels` is the proof that the processor has the backend.
            #[cfg(target_arch = "x86_64")]
            "avx512" => unsafe { smallest_avx512(&mut out, half_squares) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            "avx2" => unsafe { smallest_avx2(&mut out, half_squares) },
            _ => smallest(&mut out, half_squares),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")]
fn dots_avx512(numbers: &[f32], columns: &[f32], out: &mut [f32; CENTROIDS]) {
    dots(numbers, columns, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn dots_avx2(numbers: &[f32], columns: &[f32], out: &mut [f32; CENTROIDS]) {
    dots(numbers, columns, out);
}

#[inline(always)]
fn dots(numbers: &[f32], columns: &[f32], out: &mut [f32; CENTROIDS]) {
    let (columns, _) = columns.as_chunks::<CENTROIDS>();
    let (out, _) = out.as_chunks_mut::<LANES>();
    for (block, out) in out.iter_mut().enumerate() {
        let mut sums = [0f32; LANES];
        for (&x, column) in numbers.iter().zip(columns) {
            let (blocks, _) = column.as_chunks::<LANES>();
            for (sum, &centroid) in sums.iter_mut().zip(&blocks[block]) {
                *sum += x * centroid;
            }
        }
        *out = sums;
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")]
fn smallest_avx512(dots: &mut [f32; CENTROIDS], half_squares: &[f32; CENTROIDS]) -> (u8, f32) {
    smallest(dots, half_squares)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn smallest_avx2(dots: &mut [f32; CENTROIDS], half_squares: &[f32; CENTROIDS]) -> (u8, f32) {
    smallest(dots, half_squares)
}

/// The place of the smallest difference, and that difference.
#[inline(always)]
fn smallest(dots: &mut [f32; CENTROIDS], half_squares: &[f32; CENTROIDS]) -> (u8, f32) {
    let mut least = [f32::INFINITY; LANES];
    let (dots, _) = dots.as_chunks_mut::<LANES>();
    let (halves, _) = half_squares.as_chunks::<LANES>();
    for (dots, halves) in dots.iter_mut().zip(halves) {
        for ((dot, half), least) in dots.iter_mut().zip(halves).zip(&mut least) {
            *dot = half - *dot;
            *least = if *dot < *least { *dot } else { *least };
        }
    }
    let least = least.iter().fold(f32::INFINITY, |a, &b| if b < a { b } else { a });
    let place = dots.as_flattened().iter().position(|&x| x == least).unwrap_or(0);
    (place as u8, least)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(i: usize) -> f32 {
        ((i * 7_919 % 1_009) as f32 - 504.0) / 251.0
    }

    #[test]
    fn products_and_the_nearest_are_those_of_plain_loops_on_every_backend() {
        for len in [1, 4, 8, 16] {
            let columns: Vec<f32> = (0..len * CENTROIDS).map(number).collect();
            let half_squares: [f32; CENTROIDS] = std::array::from_fn(|j| {
                (0..len).map(|i| columns[i * CENTROIDS + j].powi(2)).sum::<f32>() / 2.0
            });
            for seed in 0..50 {
                let numbers: Vec<f32> = (0..len).map(|i| number(seed * 31 + i + 5)).collect();
                let expected: Vec<f64> = (0..CENTROIDS)
                    .map(|j| {
                        (0..len).map(|i| f64::from(numbers[i]) * f64::from(columns[i * CENTROIDS + j])).sum()
                    })
                    .collect();
                for kernels in Kernels::supported() {
                    let mut out = [f32::NAN; CENTROIDS];
                    kernels.dots_of_columns(&numbers, &columns, &mut out);
                    let off = |(&out, &expected): (&f32, &f64)| (f64::from(out) - expected).abs() > 1e-4;
                    assert!(!out.iter().zip(&expected).any(off), "{kernels:?} of {len}");
                    let (place, least) = kernels.nearest_of_columns(&numbers, &columns, &half_squares);
                    let of = |j: usize| half_squares[j] - out[j];
                    assert_eq!(least, of(usize::from(place)));
                    assert!(
                        (0..CENTROIDS).all(|j| of(j) > least || (of(j) == least && j >= usize::from(place)))
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_is_no_panic_and_no_nearest() {
        let columns = [1f32; 2 * CENTROIDS];
        let mut half_squares = [1f32; CENTROIDS];
        half_squares[..200].fill(f32::INFINITY);
        for kernels in Kernels::supported() {
            assert_eq!(kernels.nearest_of_columns(&[0.5, 0.5], &columns, &half_squares), (200, 0.0));
            for x in [f32::NAN, f32::INFINITY, -f32::INFINITY] {
                kernels.nearest_of_columns(&[0.5, x], &columns, &half_squares);
            }
            assert_eq!(kernels.nearest_of_columns(&[f32::NAN; 2], &columns, &half_squares).0, 0);
        }
    }
}
