//! The directions along which rows differ most, where a few of them say nearly everything.
//!
//! Embeddings fill their dimensions unevenly: a hundred directions may hold 99 in 100 of every squared distance among 768 numbers. Walks
//! that look at these alone read rows of a fifth of the length; what they miss moves a distance by a hundredth there.
//!
//! 1. The directions are learnt from some rows by orthogonal iteration (Golub and Van Loan, Matrix Computations, 8.2): directions are
//!    multiplied with the covariance and made orthogonal again, a few times. No eigenvectors are wanted, only the space
//!    that they span.
//! 2. How many of them it takes is looked up on pairs of near rows, one of which nothing was learnt from: it is near rows that have to
//!    be told apart, and what separates whole regions may be nothing there.
//! 3. They are turned at random among each other, so that none matters more than another, and kept as bytes with one step
//!    for all. What rounding does to them it does to rows and queries alike.
//!
//! A vector is brought to signed bytes as well, so that its numbers along all directions cost `directions * dimension` products of
//! bytes, 64 to an instruction.

use nearstone_kernels::{DIMENSION_STEP, Kernels, QueryPanels, Rotation, kernels};

/// Every query needs all directions: more of them would leave the second-level cache between two queries (256 of 1,536 numbers are a
/// third of a mebibyte).
const DIRECTIONS_MAX: usize = 256;
/// Files may have so many.
const DIRECTIONS_READ: usize = 1024;
/// Of the dimensions, one in so many may be a direction: with more of them, what is spared is lost again to more expansions.
const SHARE: usize = 3;
/// What directions may miss of the squared distances between near rows.
const MISSED_MAX: f64 = 0.03;
/// Rounds of orthogonal iteration.
const ROUNDS: usize = 4;
/// Where so much is missed after half of the rounds, the others don't help.
const HOPELESS: f64 = 0.15;
/// Rows that are looked at: one in so many, within bounds.
const SAMPLE_SHARE: usize = 16;
const SAMPLE_MIN: usize = 512;
const SAMPLE_MAX: usize = 1024;
/// Rows of those whose nearest one is looked for, and from which nothing is learnt.
const PROBES: usize = 64;
/// Rows of a product that are worked on together.
const TOGETHER: usize = 16;
/// A direction of which less is left is one of rounding.
const SPANNED: f64 = 1e-4;
/// The seed by which directions are turned; what they became is in the file.
const SEED: u64 = 0x6469_7265_6374;

/// Some directions of a space.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Lead {
    dimension: usize,
    /// What one step of a code is worth.
    step: f32,
    /// For each direction as many codes as the space has dimensions, 128 added.
    codes: Vec<u8>,
}

/// What bringing a vector to its directions uses again.
#[derive(Clone, Default, Debug)]
pub(crate) struct LeadWork {
    codes: Vec<u8>,
}

/// How many rows out of so many are wanted to learn from.
pub(crate) fn sample(rows: usize) -> usize {
    (rows / SAMPLE_SHARE).clamp(SAMPLE_MIN, SAMPLE_MAX).min(rows)
}

impl Lead {
    /// Learns the directions from rows of one length, a multiple of [`DIMENSION_STEP`], which are rotated already; `None` where a few
    /// say too little.
    pub(crate) fn learn(rows: &[Vec<f32>]) -> Option<Lead> {
        let dimension = rows.first()?.len();
        // A step of dimensions is worth it from twice as many on.
        let fits = (dimension / SHARE).max(DIMENSION_STEP).min(dimension / 2).min(DIRECTIONS_MAX);
        if fits < DIMENSION_STEP {
            return None;
        }
        let near = near_differences(rows);
        let rows = centred(rows);
        let most = fits.min(rows.len() / 2) / DIMENSION_STEP * DIMENSION_STEP;
        if most == 0 {
            return None;
        }
        let columns = transposed(&rows);
        let mut directions: Vec<Vec<f32>> = (0..most).map(|i| rows[i * rows.len() / most].clone()).collect();
        orthogonalise(&mut directions);
        for round in 0..ROUNDS {
            // Each direction's product with every row, then each row times that.
            let along = products(&rows, &directions);
            directions = products(&columns, &along);
            orthogonalise(&mut directions);
            if round + 1 == ROUNDS / 2 && missed(&near, &directions).last()? > &HOPELESS {
                return None;
            }
        }
        let missed = missed(&near, &directions);
        let enough =
            (DIMENSION_STEP..=most).step_by(DIMENSION_STEP).find(|&n| missed[n - 1] <= MISSED_MAX)?;
        directions.truncate(enough);
        // Near rows should be as far from each other as they are, on average.
        let scale = (1.0 / (1.0 - missed[enough - 1])).sqrt() as f32;
        Some(Lead::of(directions, dimension, scale))
    }

    /// Whether the directions hold as much of what separates near ones among other rows as of those from which they were learnt.
    pub(crate) fn suits(&self, rows: &[Vec<f32>]) -> bool {
        let near = near_differences(rows);
        let (mut work, mut along) = (LeadWork::default(), vec![0.0; self.directions()]);
        let mut held = 0.0;
        for difference in &near {
            self.apply(kernels(), difference, &mut work, &mut along);
            held += kernels().dot_precise(&along, &along) / kernels().dot_precise(difference, difference);
        }
        // They are longer by what was missed.
        (held / near.len().max(1) as f64 - 1.0).abs() <= MISSED_MAX
    }

    /// Turns the directions among each other and rounds them.
    fn of(mut directions: Vec<Vec<f32>>, dimension: usize, scale: f32) -> Lead {
        let turn = Rotation::new(directions.len(), SEED);
        let mut column = vec![0.0; directions.len()];
        for i in 0..dimension {
            column.iter_mut().zip(&directions).for_each(|(x, direction)| *x = direction[i] * scale);
            turn.apply(kernels(), &mut column);
            directions.iter_mut().zip(&column).for_each(|(direction, &x)| direction[i] = x);
        }
        let mut codes = vec![0; directions.len() * dimension];
        let (step, _) = kernels().to_biased(&directions.concat(), &mut codes);
        Lead { dimension, step, codes }
    }

    /// How many directions.
    pub(crate) fn directions(&self) -> usize {
        self.codes.len() / self.dimension
    }

    /// What a vector is along each direction; the square of what rounding the vector to bytes moves it by, as a rule. Numbers that are none
    /// make what is none. Panics for other lengths.
    pub(crate) fn apply(
        &self,
        kernels: Kernels,
        vector: &[f32],
        work: &mut LeadWork,
        out: &mut [f32],
    ) -> f32 {
        assert_eq!((vector.len(), out.len()), (self.dimension, self.directions()));
        work.codes.resize(self.dimension, 0);
        let (step, sum) = kernels.to_biased(vector, &mut work.codes);
        let lost = step * step / 12.0 * out.len() as f32;
        let step = self.step * step;
        // The codes of directions have 128 added too.
        let added = 128 * sum;
        for (four, out) in self.codes.chunks_exact(4 * self.dimension).zip(out.as_chunks_mut::<4>().0) {
            let [a, b, c, d] = [0, 1, 2, 3].map(|i| &four[i * self.dimension..][..self.dimension]);
            *out = kernels.dots_biased(&[a, b, c, d], &work.codes).map(|dot| (dot - added) as f32 * step);
        }
        lost
    }

    /// The file form: `step f32`, then the codes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        [&self.step.to_le_bytes(), &self.codes[..]].concat()
    }

    /// Reads the file form of directions of a space; `None` for what no learning gives.
    pub(crate) fn from_bytes(dimension: usize, bytes: &[u8]) -> Option<Lead> {
        let (step, codes) = bytes.split_first_chunk::<4>()?;
        let step = f32::from_le_bytes(*step);
        let directions = codes.len() / dimension;
        let is_sound = step.is_finite()
            && step >= 0.0
            && codes.len().is_multiple_of(dimension)
            && directions > 0
            && directions.is_multiple_of(DIMENSION_STEP)
            && directions <= (dimension / 2).min(DIRECTIONS_READ);
        is_sound.then(|| Lead { dimension, step, codes: codes.to_vec() })
    }
}

/// One row in so many is a probe.
fn probe_step(rows: usize) -> usize {
    rows.div_ceil(PROBES).max(2)
}

/// The rows that are no probes, less their mean.
fn centred(rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let step = probe_step(rows.len());
    let rows = || rows.iter().enumerate().filter(|(i, _)| i % step != 0).map(|(_, row)| row);
    let share = 1.0 / rows().count() as f32;
    let mut mean = vec![0f32; rows().next().map_or(0, Vec::len)];
    for row in rows() {
        mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * share);
    }
    rows().map(|row| row.iter().zip(&mean).map(|(x, mean)| x - mean).collect()).collect()
}

fn transposed(rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
    (0..rows[0].len()).map(|i| rows.iter().map(|row| row[i]).collect()).collect()
}

/// For each of the directions its products with all rows.
fn products(rows: &[Vec<f32>], directions: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let refs: Vec<&[f32]> = directions.iter().map(Vec::as_slice).collect();
    let panels = QueryPanels::new(kernels(), &refs);
    let mut out = vec![vec![0.0; rows.len()]; directions.len()];
    let mut dots = Vec::new();
    for panel in 0..panels.count() {
        let width = panels.width();
        let out = &mut out[panel * width..];
        for (at, rows) in rows.chunks(TOGETHER).enumerate() {
            let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
            dots.resize(rows.len() * width, 0.0);
            panels.dots(panel, &rows, &mut dots);
            for (row, dots) in dots.chunks_exact(width).enumerate() {
                for (out, &dot) in out.iter_mut().zip(dots) {
                    out[at * TOGETHER + row] = dot;
                }
            }
        }
    }
    out
}

/// Brings each direction to length 1 and makes it orthogonal to those before it (the modified Gram-Schmidt process, twice); one that
/// they span becomes zero.
fn orthogonalise(directions: &mut [Vec<f32>]) {
    for i in 0..directions.len() {
        let (before, rest) = directions.split_at_mut(i);
        let this = &mut rest[0];
        let mut left = if normalise(this) > 0.0 { 1.0 } else { 0.0 };
        for _ in 0..2 {
            for other in &*before {
                let along = kernels().dot(this, other);
                this.iter_mut().zip(other).for_each(|(x, y)| *x -= along * y);
            }
            left *= normalise(this);
        }
        if left < SPANNED {
            this.fill(0.0);
        }
    }
}

/// Brings a direction to length 1 if it has one; the length that it had.
fn normalise(direction: &mut [f32]) -> f64 {
    let length = kernels().dot_precise(direction, direction).sqrt();
    if length > 0.0 {
        let factor = (1.0 / length) as f32;
        direction.iter_mut().for_each(|x| *x *= factor);
    }
    length
}

/// For each probe the difference to the row nearest to it.
fn near_differences(rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let mut near = Vec::new();
    for (i, row) in rows.iter().enumerate().step_by(probe_step(rows.len())) {
        let distance = |other: &Vec<f32>| kernels().l2(row, other);
        let others =
            rows.iter().enumerate().filter(|&(j, _)| j != i).map(|(_, other)| (distance(other), other));
        let nearest = others.filter(|&(distance, _)| distance > 0.0).min_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((_, other)) = nearest {
            near.push(row.iter().zip(other).map(|(a, b)| a - b).collect());
        }
    }
    near
}

/// What the first one, the first two, the first three directions and so on miss of the squared lengths of the differences, on average.
fn missed(differences: &[Vec<f32>], directions: &[Vec<f32>]) -> Vec<f64> {
    let mut left = 1.0;
    let all = differences.len() as f64;
    let lengths: Vec<f64> = differences.iter().map(|r| kernels().dot_precise(r, r)).collect();
    let share = |direction: &Vec<f32>| -> f64 {
        let along = differences
            .iter()
            .zip(&lengths)
            .map(|(difference, length)| kernels().dot_precise(difference, direction).powi(2) / length);
        along.sum::<f64>() / all
    };
    let missed = directions.iter().map(|direction| {
        left -= if differences.is_empty() { 0.0 } else { share(direction) };
        left
    });
    missed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearstone_base::random::SplitMix64;

    const DIMENSION: usize = 256;

    fn number(rng: &mut SplitMix64) -> f32 {
        (rng.unit_f64() + rng.unit_f64() + rng.unit_f64() + rng.unit_f64() - 2.0) as f32
    }

    /// Mixtures of so many directions, and noise.
    fn mixtures(rows: usize, directions: usize, noise: f32) -> Vec<Vec<f32>> {
        let mut rng = SplitMix64::new(3);
        let mixed: Vec<Vec<f32>> =
            (0..directions).map(|_| (0..DIMENSION).map(|_| number(&mut rng)).collect()).collect();
        let row = |_| {
            let mut row: Vec<f32> = (0..DIMENSION).map(|_| noise * number(&mut rng)).collect();
            for direction in &mixed {
                let share = number(&mut rng);
                row.iter_mut().zip(direction).for_each(|(x, y)| *x += share * y);
            }
            row
        };
        (0..rows).map(row).collect()
    }

    fn along(lead: &Lead, kernels: Kernels, row: &[f32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; lead.directions()];
        lead.apply(kernels, row, &mut LeadWork::default(), &mut out);
        out
    }

    #[test]
    fn distances_along_the_directions_are_nearly_those_of_the_rows() {
        let rows = mixtures(600, 30, 0.3);
        let lead = Lead::learn(&rows).expect("thirty directions and a little noise");
        assert_eq!(lead.directions(), DIMENSION_STEP);
        for k in Kernels::supported() {
            for (a, b) in rows.iter().zip(&rows[300..]).step_by(7) {
                let right = kernels().l2(a, b);
                let found = kernels().l2(&along(&lead, k, a), &along(&lead, k, b));
                assert!((found / right - 1.0).abs() < 0.05, "{k:?}: {found} for {right}");
            }
        }
        let bytes = lead.to_bytes();
        assert_eq!(Lead::from_bytes(DIMENSION, &bytes), Some(lead));
    }

    #[test]
    fn where_a_few_directions_say_too_little_there_are_none() {
        assert_eq!(Lead::learn(&mixtures(600, 200, 0.3)), None);
        assert_eq!(Lead::learn(&[]), None);
        assert_eq!(Lead::learn(&mixtures(600, 0, 0.0)), None, "nothing but zeros");
        let short: Vec<Vec<f32>> = mixtures(600, 4, 0.01).iter().map(|row| row[..64].to_vec()).collect();
        assert_eq!(Lead::learn(&short), None, "all of its dimensions are one step");
    }

    /// What separates regions is nothing that tells near rows apart.
    #[test]
    fn regions_far_apart_are_not_what_directions_are_for() {
        let mut rng = SplitMix64::new(8);
        let centres = mixtures(12, 12, 0.0);
        let row = |i: usize| centres[i % 12].iter().map(|x| 20.0 * x + number(&mut rng)).collect();
        assert_eq!(Lead::learn(&(0..600).map(row).collect::<Vec<Vec<f32>>>()), None);
    }

    #[test]
    fn rows_of_fewer_directions_than_there_are_places_for_keep_their_distances() {
        let rows = mixtures(600, 5, 0.0);
        let lead = Lead::learn(&rows).unwrap();
        assert_eq!(lead.directions(), DIMENSION_STEP);
        for (a, b) in rows.iter().zip(&rows[300..]).step_by(7) {
            let right = kernels().l2(a, b);
            let found = kernels().l2(&along(&lead, kernels(), a), &along(&lead, kernels(), b));
            assert!((found / right - 1.0).abs() < 0.03, "{found} for {right}");
        }
        assert!(along(&lead, kernels(), &[0.0; DIMENSION]).iter().all(|&x| x == 0.0));
    }

    #[test]
    fn bytes_that_no_learning_gives_are_refused() {
        let good = Lead::learn(&mixtures(400, 5, 0.01)).unwrap().to_bytes();
        for len in [0, 3, 4, 5, 4 + DIMENSION, good.len() - 1] {
            assert_eq!(Lead::from_bytes(DIMENSION, &good[..len]), None, "{len} bytes");
        }
        for step in [f32::NAN, f32::INFINITY, -1.0] {
            let forged = [&step.to_le_bytes(), &good[4..]].concat();
            assert_eq!(Lead::from_bytes(DIMENSION, &forged), None);
        }
        let many = [&good[..4], &vec![128; DIMENSION * DIMENSION]].concat();
        assert_eq!(Lead::from_bytes(DIMENSION, &many), None, "as many directions as dimensions");
    }
}
