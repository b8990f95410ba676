//! The space in which inline rows are compared: every metric as a squared distance, centred, scaled and rotated.
//!
//! - Euclidean: the vectors themselves.
//! - Cosine: vectors of length 1, whose squared distance is twice the cosine distance.
//! - Inner product: one more number lifts every row to one length `M`, the longest of them: `(x, sqrt(M^2 - |x|^2))`. A query
//!   is brought to length `M` as well and gets a zero there, so that `|q - x|^2 = 2 M^2 - 2 <q, x>`: nearer means a
//!   larger product (Bachrach et al., RecSys 2014).
//!
//! Then a centre is taken off and everything is scaled so that a typical row has length 1, which half precision holds
//! to three digits whatever the data's unit; and rotated, so that one bit says equally much about every dimension.
//! Centre and scale are medians: a single row far outside must not cost all others their digits.
//!
//! Where rows differ along few directions, only what they are along these is kept ([`Lead`]). Distances are right on average then,
//! and nearly right each; by how much not, the space is told when it is known ([`Space::set_spread`]).

use super::lead::{Lead, LeadWork, sample};
use half::f16;
use nearstone_base::checksum::hash128;
use nearstone_base::{Metric, Result};
use nearstone_kernels::{DIMENSION_MAX, DIMENSION_STEP, InlineScale, Kernels, Rotation, kernels};

/// The seed of all rotations; it is in the file, so that another one may be used later.
const SEED: u64 = 0x6e65_6172_7374_6f6e;
/// `seed u64 | scale f32 | lift f32`. Then the middle, and where there are leading directions `spread f32 | directions`.
const HEAD: usize = 16;
/// Rows from which the centre is learnt.
const CENTRE_ROWS: usize = 1001;
/// No row is so many times as far from the centre as a typical one: the factors of its neighbours, which are squares of
/// that, must fit half precision.
const FARTHEST: f64 = 64.0;

/// In a space that suits it, a row is at most so many times as far from the centre, or as near, as one was that the space was made for.
const USUAL: f32 = 1.25;

/// And the middle of all rows is at most so far from the centre, of the usual distance: a cluster aside would have fewer digits there than around
/// its own centre.
const MOVED_MAX: f64 = 0.5;

/// How vectors of a segment become rotated ones.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    metric: Metric,
    dimension: usize,
    seed: u64,
    scale: f32,
    /// The length that rows are lifted to; inner product only.
    lift: f32,
    /// One number more than the dimension for inner products.
    middle: Vec<f32>,
    rotation: Rotation,
    lead: Option<Lead>,
    /// By which share of it a squared distance between near rows may be wrong; 0 where all directions are kept.
    spread: f32,
}

/// What bringing vectors to a space uses again.
#[derive(Clone, Default, Debug)]
pub(crate) struct SpaceWork {
    numbers: Vec<f32>,
    leading: Vec<f32>,
    lead: LeadWork,
}

impl Space {
    /// Learns centre and scale from all rows, and whether a few directions do; `longest` is the length of the longest row, which only
    /// inner products need. `None` when half precision would not hold them: when the numbers are too large to be squared, when a row is much
    /// farther out than others are, or when most rows are equal.
    pub(crate) fn train<'a>(
        metric: Metric,
        dimension: usize,
        rows: impl ExactSizeIterator<Item = &'a [f32]> + Clone,
        longest: f32,
    ) -> Option<Space> {
        let lift = if metric == Metric::InnerProduct { longest } else { 0.0 };
        let mut space = Space {
            metric,
            dimension,
            seed: SEED,
            scale: 1.0,
            lift,
            middle: vec![0.0; lifted(metric, dimension)],
            rotation: Rotation::new(padded(metric, dimension), SEED),
            lead: None,
            spread: 0.0,
        };
        let mut work = Vec::new();
        let mut columns = vec![Vec::new(); space.middle.len()];
        for row in rows.clone().step_by(rows.len().div_ceil(CENTRE_ROWS).max(1)) {
            space.lift_row(row, &mut work);
            columns.iter_mut().zip(&work).for_each(|(column, &x)| column.push(x));
        }
        space.middle = columns.into_iter().filter_map(|column| median(column, f32::total_cmp)).collect();
        let mut lengths: Vec<f64> = Vec::new();
        for row in rows.clone() {
            space.lift_row(row, &mut work);
            space.centre(&mut work);
            lengths.push(kernels().dot_precise(&work, &work).sqrt());
        }
        let farthest = lengths.iter().fold(0f64, |a, &b| a.max(b));
        let typical = median(lengths, f64::total_cmp)?;
        space.scale = (1.0 / typical) as f32;
        if farthest > typical * FARTHEST || !space.is_sound() {
            return None;
        }
        // By inner product, what is nearly as far as a hit would be too much: distances to a query are large beside those between rows.
        if metric == Metric::InnerProduct {
            return Some(space);
        }
        space.lead = Lead::learn(&space.some(rows));
        Some(space)
    }

    /// Whether rows lie in this space, which other rows were the measure of, as they would in one of their own: around its centre, at the usual
    /// distance, and none much farther out; and differing along its directions, or not along few. `longest` as for [`Space::train`].
    pub(crate) fn suits<'a>(
        &self,
        rows: impl ExactSizeIterator<Item = &'a [f32]> + Clone,
        longest: f32,
    ) -> bool {
        if self.metric == Metric::InnerProduct && !(self.lift / USUAL..=self.lift).contains(&longest) {
            return false;
        }
        let (mut work, mut sums) = (Vec::new(), vec![0f64; self.middle.len()]);
        let mut lengths = Vec::with_capacity(rows.len());
        for row in rows.clone() {
            self.lift_row(row, &mut work);
            self.centre(&mut work);
            sums.iter_mut().zip(&work).for_each(|(sum, &x)| *sum += f64::from(x));
            lengths.push(kernels().dot_precise(&work, &work).sqrt() * f64::from(self.scale));
        }
        let share = f64::from(self.scale) / rows.len().max(1) as f64;
        let moved = sums.iter().map(|sum| (sum * share).powi(2)).sum::<f64>().sqrt();
        let farthest = lengths.iter().fold(0f64, |a, &b| a.max(b));
        let usual = 1.0 / f64::from(USUAL)..=f64::from(USUAL);
        let typical = median(lengths, f64::total_cmp).is_some_and(|typical| usual.contains(&typical));
        // Written so that what is no number suits nobody.
        if !(typical && farthest <= FARTHEST && moved <= MOVED_MAX) {
            return false;
        }
        match &self.lead {
            Some(lead) => lead.suits(&self.some(rows)),
            None => self.metric == Metric::InnerProduct || Lead::learn(&self.some(rows)).is_none(),
        }
    }

    /// Some of the rows in this space, with all directions.
    fn some<'a>(&self, rows: impl ExactSizeIterator<Item = &'a [f32]>) -> Vec<Vec<f32>> {
        let wanted = sample(rows.len());
        let step = (rows.len() / wanted.max(1)).max(1);
        let turned = |row| {
            let mut numbers = Vec::new();
            self.beside_all(row, &mut numbers);
            numbers
        };
        rows.step_by(step).take(wanted).map(turned).collect()
    }

    /// By what spaces can be compared: the same where they bring queries to the same numbers.
    pub(crate) fn digest(&self) -> u128 {
        hash128(&Space { spread: 0.0, ..self.clone() }.to_bytes())
    }

    /// The same space with all of its directions.
    pub(crate) fn whole(self) -> Space {
        Space { lead: None, spread: 0.0, ..self }
    }

    /// Whether only some directions are kept.
    pub(crate) fn leads(&self) -> bool {
        self.lead.is_some()
    }

    /// Says by which share of it a squared distance between near rows may be wrong.
    pub(crate) fn set_spread(&mut self, spread: f32) {
        self.spread = spread;
    }

    /// Up to which squared distance in this space a row may be nearer than one that is found at `distance`: both are known within
    /// the spread, and they and the query were rounded, which moved it by `lost`, as [`Space::query`] says.
    pub(crate) fn within_spread(&self, distance: f32, lost: f32) -> f32 {
        distance * (1.0 + self.spread) / (1.0 - self.spread) + 4.0 * lost
    }

    fn is_sound(&self) -> bool {
        self.scale.is_finite()
            && self.scale > 0.0
            && self.lift.is_finite()
            && self.lift >= 0.0
            && (0.0..1.0).contains(&self.spread)
            && self.middle.iter().all(|x| x.is_finite())
    }

    /// The file form.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.seed.to_le_bytes().to_vec();
        for number in [self.scale, self.lift].iter().chain(&self.middle) {
            out.extend_from_slice(&number.to_le_bytes());
        }
        if let Some(lead) = &self.lead {
            out.extend_from_slice(&self.spread.to_le_bytes());
            out.extend_from_slice(&lead.to_bytes());
        }
        out
    }

    /// Reads the file form; `None` for another length and for numbers that no training gives.
    pub(crate) fn from_bytes(metric: Metric, dimension: usize, bytes: &[u8]) -> Option<Space> {
        let (middle, lead) = bytes.get(HEAD..)?.split_at_checked(lifted(metric, dimension) * 4)?;
        let seed = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
        let float = |b: &[u8]| Some(f32::from_le_bytes(b.try_into().ok()?));
        let padded = padded(metric, dimension);
        if padded > DIMENSION_MAX {
            return None;
        }
        let (spread, lead) = match lead.split_first_chunk::<4>() {
            Some((spread, lead)) => (f32::from_le_bytes(*spread), Some(Lead::from_bytes(padded, lead)?)),
            None if lead.is_empty() => (0.0, None),
            None => return None,
        };
        let space = Space {
            metric,
            dimension,
            seed,
            scale: float(bytes.get(8..12)?)?,
            lift: float(bytes.get(12..16)?)?,
            middle: middle.chunks_exact(4).map(float).collect::<Option<_>>()?,
            rotation: Rotation::new(padded, seed),
            lead,
            spread,
        };
        space.is_sound().then_some(space)
    }

    /// The numbers of a vector in this space, a multiple of 64.
    pub(crate) fn dimension(&self) -> usize {
        self.lead.as_ref().map_or_else(|| padded(self.metric, self.dimension), Lead::directions)
    }

    /// Brings a row to half precision, as it is stored.
    pub(crate) fn row(&self, row: &[f32], work: &mut SpaceWork, out: &mut [f16]) {
        self.beside_all(row, &mut work.numbers);
        let numbers = match &self.lead {
            None => &work.numbers,
            Some(lead) => {
                work.leading.resize(lead.directions(), 0.0);
                lead.apply(kernels(), &work.numbers, &mut work.lead, &mut work.leading);
                &work.leading
            }
        };
        kernels().narrow(numbers, out);
    }

    /// What the squared distances from a row to others should be, from their own numbers.
    pub(crate) fn distances<'a>(
        &self,
        row: &[f32],
        others: impl Iterator<Item = Result<&'a [f32]>>,
        out: &mut Vec<f64>,
    ) -> Result<()> {
        let [mut from, mut to] = [Vec::new(), Vec::new()];
        self.lift_row(row, &mut from);
        out.clear();
        for other in others {
            self.lift_row(other?, &mut to);
            out.push(kernels().l2_precise(&from, &to) * f64::from(self.scale) * f64::from(self.scale));
        }
        Ok(())
    }

    /// Brings a query to [`Space::dimension`] numbers; the squared length of what rounding moved it by, 0 where all directions are kept.
    pub(crate) fn query(
        &self,
        kernels: Kernels,
        query: &[f32],
        work: &mut SpaceWork,
        out: &mut [f32],
    ) -> f32 {
        let Some(lead) = &self.lead else {
            self.turn_query(kernels, query, out);
            return 0.0;
        };
        work.numbers.resize(padded(self.metric, self.dimension), 0.0);
        self.turn_query(kernels, query, &mut work.numbers);
        lead.apply(kernels, &work.numbers, &mut work.lead, out)
    }

    /// The squared length of what a query, which was just brought to the numbers `along` with this `work`, is along directions that are not
    /// kept. Rows are next to nothing there, so all of them are farther away by that.
    pub(crate) fn beyond(&self, kernels: Kernels, work: &SpaceWork, along: &[f32]) -> f32 {
        match &self.lead {
            None => 0.0,
            Some(_) => (kernels.dot(&work.numbers, &work.numbers) - kernels.dot(along, along)).max(0.0),
        }
    }

    fn turn_query(&self, kernels: Kernels, query: &[f32], out: &mut [f32]) {
        let length = match self.metric {
            Metric::L2 => None,
            Metric::Cosine => Some(1.0),
            Metric::InnerProduct => Some(f64::from(self.lift)),
        };
        let factor = length.map_or(1.0, |length| factor_to(kernels, length, query));
        let (numbers, rest) = out.split_at_mut(query.len());
        let (middle, lifted) = self.middle.split_at(query.len());
        for ((out, x), middle) in numbers.iter_mut().zip(scaled(factor, query)).zip(middle) {
            *out = (x - middle) * self.scale;
        }
        rest.fill(0.0);
        for (out, middle) in rest.iter_mut().zip(lifted) {
            *out = -middle * self.scale;
        }
        self.rotation.apply(kernels, out);
    }

    /// Brings a row to the space as a query for what lies near it. (As a query of its own it asks for the largest products, which are
    /// those with the longest rows.)
    pub(crate) fn beside(&self, row: &[f32], work: &mut SpaceWork, out: &mut Vec<f32>) {
        let Some(lead) = &self.lead else { return self.beside_all(row, out) };
        self.beside_all(row, &mut work.numbers);
        out.resize(lead.directions(), 0.0);
        lead.apply(kernels(), &work.numbers, &mut work.lead, out);
    }

    /// A row, with all directions.
    fn beside_all(&self, row: &[f32], out: &mut Vec<f32>) {
        self.lift_row(row, out);
        self.centre(out);
        for x in out.iter_mut() {
            *x *= self.scale;
        }
        out.resize(padded(self.metric, self.dimension), 0.0);
        self.rotation.apply(kernels(), out);
    }

    /// How squared distances in this space follow from the distances to a query, as callers see them, when the query has so much
    /// [`Space::beyond`]; `None` where they don't, as for a query without a direction by inner product.
    pub(crate) fn scale(&self, kernels: Kernels, query: &[f32], beyond: f32) -> Option<InlineScale> {
        let (fixed, factor) = match self.metric {
            Metric::L2 => (0.0, 1.0),
            Metric::Cosine => (0.0, 2.0),
            Metric::InnerProduct => {
                let (lift, length) = (f64::from(self.lift), kernels.dot_precise(query, query).sqrt());
                (2.0 * lift * lift, if length > 0.0 { 2.0 * lift / length } else { 0.0 })
            }
        };
        let scale = f64::from(self.scale) * f64::from(self.scale);
        let scale = InlineScale { fixed: fixed * scale - f64::from(beyond), factor: factor * scale };
        let sound = |x: f64| (x as f32).is_normal();
        (sound(scale.factor) && scale.fixed.is_finite()).then_some(scale)
    }

    /// A row in the space of squared distances, before all that keeps them.
    fn lift_row(&self, row: &[f32], out: &mut Vec<f32>) {
        out.clear();
        match self.metric {
            Metric::L2 => out.extend_from_slice(row),
            Metric::Cosine => to_length(kernels(), 1.0, row, out),
            Metric::InnerProduct => {
                out.extend_from_slice(row);
                let square = kernels().dot_precise(row, row);
                let lift = f64::from(self.lift) * f64::from(self.lift) - square;
                out.push(lift.max(0.0).sqrt() as f32);
            }
        }
    }

    fn centre(&self, numbers: &mut [f32]) {
        for (x, middle) in numbers.iter_mut().zip(&self.middle) {
            *x -= middle;
        }
    }
}

fn lifted(metric: Metric, dimension: usize) -> usize {
    dimension + usize::from(metric == Metric::InnerProduct)
}

/// What vectors of a dimension are padded to.
pub(crate) fn padded(metric: Metric, dimension: usize) -> usize {
    lifted(metric, dimension).next_multiple_of(DIMENSION_STEP)
}

fn median<T: Copy>(mut numbers: Vec<T>, order: impl FnMut(&T, &T) -> std::cmp::Ordering) -> Option<T> {
    let middle = numbers.len() / 2;
    (!numbers.is_empty()).then(|| *numbers.select_nth_unstable_by(middle, order).1)
}

/// Appends the vector at another length; a vector of zeros as it is.
fn to_length(kernels: Kernels, length: f64, vector: &[f32], out: &mut Vec<f32>) {
    out.extend(scaled(factor_to(kernels, length, vector), vector));
}

/// The numbers times a factor. That of a tiny vector may be beyond single precision where the products are not.
fn scaled(factor: f64, vector: &[f32]) -> impl Iterator<Item = f32> {
    let single = factor as f32;
    let fits = single.is_normal();
    vector.iter().map(move |&x| if fits { x * single } else { (f64::from(x) * factor) as f32 })
}

/// What brings a vector to a length; 0 for a vector of zeros.
fn factor_to(kernels: Kernels, length: f64, vector: &[f32]) -> f64 {
    let square = kernels.dot_precise(vector, vector);
    if square > 0.0 { length / square.sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distance::ExactDistance;
    use nearstone_base::random::SplitMix64;

    /// Only the number of directions was looked at, and more dimensions than a product of bytes takes were a panic in the first search.
    #[test]
    fn directions_of_more_dimensions_than_inline_rows_have_are_refused() {
        for (dimension, is_good) in [(DIMENSION_MAX, true), (DIMENSION_MAX + 1, false), (65_536, false)] {
            let padded = padded(Metric::L2, dimension);
            let mut bytes = vec![0; HEAD + 4 * dimension + 4 + 4 + 64 * padded];
            bytes[8..12].copy_from_slice(&1f32.to_le_bytes());
            assert_eq!(Space::from_bytes(Metric::L2, dimension, &bytes).is_some(), is_good, "{dimension}");
        }
    }

    #[test]
    fn distances_that_callers_see_are_brought_into_the_space_of_each_metric() {
        let mut rng = SplitMix64::new(4);
        let mut vector =
            |length: f32| -> Vec<f32> { (0..48).map(|_| (rng.unit_f64() as f32 - 0.3) * length).collect() };
        let rows: Vec<Vec<f32>> = (1..40u8).map(|n| vector(f32::from(n))).collect();
        let queries = [vector(0.5), vector(70.0)];
        for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
            let longest = rows.iter().map(|row| kernels().dot_precise(row, row)).fold(0.0, f64::max).sqrt();
            let all = rows.iter().map(Vec::as_slice);
            let space = Space::train(metric, 48, all, longest as f32).unwrap();
            for query in &queries {
                let exact = ExactDistance::new(metric, query);
                let distances: Vec<f32> = rows.iter().map(|row| exact.distance(row)).collect();
                let mut rotated = vec![f32::NAN; space.dimension()];
                let work = &mut SpaceWork::default();
                space.query(kernels(), query, work, &mut rotated);
                let beyond = space.beyond(kernels(), work, &rotated);
                let scale = space.scale(kernels(), query, beyond).unwrap();
                for (row, &distance) in rows.iter().zip(&distances) {
                    let square = scale.own(distance);
                    assert!((scale.common(square) - distance).abs() <= distance.abs() * 1e-3 + 1e-3);
                    let mut halves = vec![f16::ZERO; space.dimension()];
                    space.row(row, work, &mut halves);
                    let pairs = rotated.iter().zip(&halves);
                    let right: f32 = pairs.map(|(a, b)| (a - b.to_f32()).powi(2)).sum();
                    assert!((square - right).abs() <= right * 0.01 + 0.01, "{metric:?}: {square}, {right}");
                }
            }
        }
        let nothing = vec![0.0; 48];
        let longest = rows.iter().map(|row| kernels().dot_precise(row, row)).fold(0.0, f64::max).sqrt();
        let all = rows.iter().map(Vec::as_slice);
        let space = Space::train(Metric::InnerProduct, 48, all, longest as f32).unwrap();
        assert_eq!(space.scale(kernels(), &nothing, 0.0), None);
    }
}
