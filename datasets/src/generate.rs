//! Made-up vectors, from a seed.
//!
//! | shape | rows | what it is good for |
//! |---|---|---|
//! | [`Shape::Uniform`] | uniform in [-1, 1) | the worst case: no structure, hard for every index |
//! | [`Shape::Gaussian`] | N(0, 1) | the same without corners |
//! | [`Shape::Manifold`] | a curved surface of few dimensions in a space of many, with a little noise, normalised | close to real embeddings |
//! | [`Shape::Clustered`] | 0.35 N(0, 1) around centres drawn from N(0, 1) | groups |
//!
//! A row depends on the seed and its number alone: parts of a set can be made in any order and on any thread, and a
//! larger set begins with the rows of a smaller one. Queries are drawn the same way from another stream, so that none
//! is a row.

use crate::random::Rng;

/// How rows are distributed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Uniform in [-1, 1) per component.
    Uniform,
    /// N(0, 1) per component.
    Gaussian,
    /// `x = tanh(1.5 z W1 + b) W2 + 0.05 N(0, I)`, normalised, with `z ~ N(0, I)` of `latent` dimensions, `W1` of
    /// `latent` x `4 latent` and `W2` of `4 latent` x dimension, entries N(0, 1) over the square root of the input
    /// size, `b ~ N(0, I)`. Costs `4 latent (latent + dimension)` multiplications per row.
    Manifold {
        /// Dimensions of the surface; at least 1.
        latent: usize,
    },
    /// 0.35 N(0, 1) around one of `centres` centres.
    Clustered {
        /// How many centres; at least 1.
        centres: usize,
    },
}

/// Makes rows and queries of one set.
#[derive(Clone, Debug)]
pub struct Generator {
    shape: Shape,
    dimension: usize,
    seed: u64,
    /// Manifold: `W1`, `W2`. Clustered: the centres.
    first: Vec<f32>,
    second: Vec<f32>,
    bias: Vec<f32>,
}

const ROWS: u64 = 1;
const QUERIES: u64 = 2;
const WEIGHTS: u64 = 3;

impl Generator {
    /// A set of vectors of `dimension` numbers. A `latent`, a number of centres or a dimension of 0 counts as 1.
    pub fn new(shape: Shape, dimension: usize, seed: u64) -> Generator {
        let dimension = dimension.max(1);
        let normals = |stream: u64, count: usize, scale: f64| -> Vec<f32> {
            let mut rng = Rng::keyed(seed, WEIGHTS, stream);
            (0..count).map(|_| (rng.normal() * scale) as f32).collect()
        };
        let (mut first, mut second, mut bias) = (Vec::new(), Vec::new(), Vec::new());
        match shape {
            Shape::Uniform | Shape::Gaussian => {}
            Shape::Manifold { latent } => {
                let latent = latent.max(1);
                let hidden = 4 * latent;
                first = normals(1, latent * hidden, 1.0 / (latent as f64).sqrt());
                second = normals(2, hidden * dimension, 1.0 / (hidden as f64).sqrt());
                bias = normals(3, hidden, 1.0);
            }
            Shape::Clustered { centres } => first = normals(1, centres.max(1) * dimension, 1.0),
        }
        Generator { shape, dimension, seed, first, second, bias }
    }

    /// Numbers per row.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Rows `begin..begin + count`, one after another.
    pub fn rows(&self, begin: u64, count: usize) -> Vec<f32> {
        self.draw(ROWS, begin, count)
    }

    /// Queries `begin..begin + count`, one after another.
    pub fn queries(&self, begin: u64, count: usize) -> Vec<f32> {
        self.draw(QUERIES, begin, count)
    }

    fn draw(&self, stream: u64, begin: u64, count: usize) -> Vec<f32> {
        let mut out = vec![0.0; count * self.dimension];
        for (number, row) in (begin..).zip(out.chunks_exact_mut(self.dimension)) {
            self.draw_one(&mut Rng::keyed(self.seed, stream, number), row);
        }
        out
    }

    fn draw_one(&self, rng: &mut Rng, row: &mut [f32]) {
        match self.shape {
            Shape::Uniform => row.iter_mut().for_each(|x| *x = (2.0 * rng.uniform() - 1.0) as f32),
            Shape::Gaussian => row.iter_mut().for_each(|x| *x = rng.normal() as f32),
            Shape::Clustered { .. } => {
                let centres = self.first.chunks_exact(self.dimension);
                let chosen = rng.below(centres.len() as u64) as usize;
                let centre = &self.first[chosen * self.dimension..][..self.dimension];
                for (x, middle) in row.iter_mut().zip(centre) {
                    *x = middle + (0.35 * rng.normal()) as f32;
                }
            }
            Shape::Manifold { .. } => {
                let mut hidden = vec![0.0f32; self.bias.len()];
                for weights in self.first.chunks_exact(hidden.len()) {
                    add_scaled(&mut hidden, weights, rng.normal() as f32);
                }
                row.iter_mut().for_each(|x| *x = (0.05 * rng.normal()) as f32);
                for ((sum, bias), weights) in
                    hidden.iter().zip(&self.bias).zip(self.second.chunks_exact(self.dimension))
                {
                    add_scaled(row, weights, (1.5 * sum + bias).tanh());
                }
                normalise(row);
            }
        }
    }
}

fn add_scaled(sum: &mut [f32], weights: &[f32], scale: f32) {
    sum.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += scale * weight);
}

/// Scales to length 1; a zero vector becomes the first axis.
pub(crate) fn normalise(vector: &mut [f32]) {
    let norm = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if norm > 0.0 && norm.is_finite() {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    } else if let Some((first, rest)) = vector.split_first_mut() {
        *first = 1.0;
        rest.fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPES: [Shape; 4] =
        [Shape::Uniform, Shape::Gaussian, Shape::Manifold { latent: 4 }, Shape::Clustered { centres: 5 }];

    #[test]
    fn rows_depend_on_seed_and_number_alone() {
        for shape in SHAPES {
            let set = Generator::new(shape, 12, 7);
            let all = set.rows(0, 50);
            assert_eq!(all[20 * 12..], Generator::new(shape, 12, 7).rows(20, 30), "{shape:?}");
            assert_ne!(all, Generator::new(shape, 12, 8).rows(0, 50));
            assert_ne!(all, set.queries(0, 50));
            assert!(all.iter().all(|x| x.is_finite()));
        }
    }

    #[test]
    fn moments_are_those_of_the_distribution() {
        let moments = |shape| {
            let numbers = Generator::new(shape, 64, 1).rows(0, 2000);
            let mean = numbers.iter().map(|x| f64::from(*x)).sum::<f64>() / numbers.len() as f64;
            let square = numbers.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / numbers.len() as f64;
            (mean, square - mean * mean)
        };
        let (mean, variance) = moments(Shape::Gaussian);
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        let (mean, variance) = moments(Shape::Uniform);
        assert!(mean.abs() < 0.02 && (variance - 1.0 / 3.0).abs() < 0.01, "{mean} {variance}");
    }

    #[test]
    fn clusters_are_tight_and_manifolds_normalised() {
        let set = Generator::new(Shape::Clustered { centres: 1 }, 64, 3);
        let rows = set.rows(0, 2);
        let square: f32 = rows[..64].iter().zip(&rows[64..]).map(|(a, b)| (a - b).powi(2)).sum();
        // Twice 0.35^2 per component.
        assert!((square / 64.0 - 0.245).abs() < 0.15, "{square}");
        for row in Generator::new(Shape::Manifold { latent: 3 }, 32, 3).rows(0, 20).chunks(32) {
            let norm: f32 = row.iter().map(|x| x * x).sum();
            assert!((norm - 1.0).abs() < 1e-5);
        }
    }
}
