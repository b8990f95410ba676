//! How many bits the codes of inline rows get, for each dimension of a neighbour: one or four, found by walking.
//!
//! Where rows lie at much the same distance from each other (in tight clusters), estimates from one bit cannot tell which are nearer,
//! and a walk expands two or three times as many rows as it would if it knew. Four bits tell, but such rows are longer, and more
//! bytes travel with each expansion: on most data that costs as much as it spares, or more. So both are tried:
//!
//! 1. Walks over the rows that there are (one bit), towards some of them with a wide beam, find the nearest of each, and in which
//!    rows such walks come by.
//! 2. Of these alone, rows with four bits are made, linked as before.
//! 3. How many rows walks expand on both, with beams that find nearly all of the nearest, is counted and weighed with what an expansion
//!    costs.

use super::halves::Halves;
use super::write::encode_entry;
use crate::graph::FlatLevel;
use nearstone_base::{Error, Result};
use nearstone_kernels::{
    EncodeWork, Enough, InlineBeam, InlineBits, InlineQuery, InlineRows, InlineScratch, InlineShape,
    InlineStart, inline_walk, kernels,
};
use std::collections::HashMap;

/// Rows that are walked to.
const SAMPLES: u32 = 48;
/// The beam that finds what is near them.
const WIDE: usize = 96;
/// The nearest of each.
const NEAREST: usize = 10;
/// The share of them that has to be found.
const RECALL: f32 = 0.95;
/// The beams of the walks that are counted, one after the other until enough was found.
const BEAMS: [usize; 9] = [10, 12, 14, 16, 20, 24, 32, 48, 64];
/// An expansion takes as long as reading so many bytes more than its row has (measured on rows of 1 to 5 KB, 100,000 and 300,000
/// of them).
const BYTES_BESIDES: usize = 1600;
/// With rows so much more expensive, four bits have never paid.
const DEARER_MAX: f32 = 1.7;

/// The bits that suit a graph, of which `built` are the rows with one bit. Takes some 20 ms, whatever the size of the graph.
pub(super) fn bits_for(
    built: &InlineRows<'_>,
    ground: &FlatLevel,
    (one, four): (InlineShape, InlineShape),
    halves: Halves<'_>,
) -> Result<InlineBits> {
    let price = |shape: InlineShape| (shape.stride() + BYTES_BESIDES) as f32;
    let dearer = price(four) / price(one);
    if dearer > DEARER_MAX {
        return Ok(InlineBits::One);
    }
    let entries = [one, four].map(|shape| encode_entry(ground.rows, shape.bits(), halves));
    let [Some((first, first_bytes)), Some((second, second_bytes))] = &entries else {
        return Ok(InlineBits::One);
    };
    let entries = (InlineRows::new(*first, first_bytes), InlineRows::new(*second, second_bytes));
    let (Some(with_one), Some(with_four)) = entries else { return Ok(InlineBits::One) };
    let mut work = Work::default();
    let mut samples = Vec::new();
    for row in (0..built.count()).step_by(built.count().div_ceil(SAMPLES).max(1) as usize) {
        samples.push(work.sample(row, built, with_one, halves)?);
    }
    let part = Part::new(with_four, &samples, ground, four, halves);
    let Some(rows) = InlineRows::new(four, &part.bytes) else { return Ok(InlineBits::One) };
    let expanded_one = work.expansions(&samples, (built, with_one), Some, halves)?;
    let number = |row| part.number.get(&row).copied();
    let expanded_four = work.expansions(&samples, (&rows, with_four), number, halves)?;
    Ok(match (expanded_one, expanded_four) {
        (None, Some(_)) => InlineBits::Four,
        (Some(one), Some(four)) if four as f32 * dearer < one as f32 => InlineBits::Four,
        _ => InlineBits::One,
    })
}

/// A row that is walked to.
struct Sample {
    row: u32,
    /// The nearest, without itself.
    nearest: Vec<u32>,
    /// Everything that the wide walk came by.
    met: Vec<u32>,
}

impl Sample {
    /// The same where rows are called otherwise; what walks came by is left out.
    fn renamed(&self, number: impl Fn(u32) -> Option<u32>) -> Sample {
        let nearest = self.nearest.iter().filter_map(|&row| number(row)).collect();
        Sample { row: self.row, nearest, met: Vec::new() }
    }
}

/// Rows with other codes, of those alone that some walks came by.
struct Part {
    /// What each of them is called here.
    number: HashMap<u32, u32>,
    bytes: Vec<u8>,
}

impl Part {
    fn new(
        entry: InlineRows<'_>,
        samples: &[Sample],
        ground: &FlatLevel,
        shape: InlineShape,
        halves: Halves<'_>,
    ) -> Part {
        // The entry leads to the first rows: being the first here too, they have the same numbers.
        let mut rows: Vec<u32> = entry.places(0).filter(|&row| row < ground.rows).collect();
        rows.extend(samples.iter().flat_map(|sample| sample.met.iter().copied()));
        rows.sort_unstable();
        rows.dedup();
        let number: HashMap<u32, u32> = rows.iter().copied().zip(0..).collect();
        let mut bytes = vec![0; rows.len() * shape.stride()];
        let (mut links, mut work) = (Vec::new(), EncodeWork::default());
        for (&row, out) in rows.iter().zip(bytes.chunks_exact_mut(shape.stride())) {
            links.clear();
            links.extend(ground.list(row).iter().filter_map(|link| number.get(link)));
            let vector = |number: u32| halves.one(rows[number as usize]);
            shape.encode(kernels(), halves.one(row), &links, vector, out, &mut work);
        }
        Part { number, bytes }
    }
}

/// What walks use again.
#[derive(Default)]
struct Work {
    query: InlineQuery,
    walk: InlineScratch,
    numbers: Vec<f32>,
}

impl Work {
    fn walk_to(
        &mut self,
        row: u32,
        rows: &InlineRows<'_>,
        (beam, start): (InlineBeam, InlineStart<'_>),
        halves: Halves<'_>,
    ) -> Result<()> {
        halves.widened(row, &mut self.numbers);
        self.query.prepare(kernels(), &self.numbers, rows.bits());
        let there = |_| Ok::<(), Error>(());
        inline_walk(kernels(), rows, &self.query, beam, start, there, &mut self.walk)
    }

    fn sample(
        &mut self,
        row: u32,
        built: &InlineRows<'_>,
        entry: InlineRows<'_>,
        halves: Halves<'_>,
    ) -> Result<Sample> {
        self.walk_to(row, built, (WIDE.into(), InlineStart::NeighboursOf(entry)), halves)?;
        let met: Vec<u32> = self.walk.expanded().map(|other| other.id).collect();
        let mut near: Vec<_> = self.walk.expanded().filter(|other| other.id != row).collect();
        near.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance));
        let nearest = near.iter().take(NEAREST).map(|other| other.id).collect();
        Ok(Sample { row, nearest, met })
    }

    /// How many rows walks expand in all, with the narrowest beam that finds enough of the nearest; `None` when none does. `number`
    /// says what a row is called there.
    fn expansions(
        &mut self,
        samples: &[Sample],
        (rows, entry): (&InlineRows<'_>, InlineRows<'_>),
        number: impl Fn(u32) -> Option<u32>,
        halves: Halves<'_>,
    ) -> Result<Option<usize>> {
        let wanted = samples.iter().map(|sample| sample.nearest.len()).sum::<usize>() as f32 * RECALL;
        let samples: Vec<Sample> = samples.iter().map(|sample| sample.renamed(&number)).collect();
        for ef in BEAMS {
            let (mut expanded, mut found) = (0, 0);
            for sample in &samples {
                let beam = super::beam(NEAREST, ef, Enough::NEVER);
                self.walk_to(sample.row, rows, (beam, InlineStart::NeighboursOf(entry)), halves)?;
                expanded += self.walk.expanded().len();
                // As a search would, not knowing the row itself.
                let last = self.walk.nth(NEAREST + 1);
                let near = self.walk.expanded().filter(|other| other.distance <= last);
                found += near.filter(|other| sample.nearest.contains(&other.id)).count();
            }
            if found as f32 >= wanted {
                return Ok(Some(expanded));
            }
        }
        Ok(None)
    }
}
