//! Walking a graph towards a query (algorithms 2 and 5 of arXiv 1603.09320).
//!
//! 1. From the entry, on each upper level, step to the nearest neighbour for as long as that comes nearer.
//! 2. On the ground level, keep a beam: the nearest open candidate is expanded, its neighbours not seen before are
//!    collected, measured in one batch (so that their rows can be fetched together), and those that come nearer than
//!    the worst of a full beam are opened.
//! 3. Stop when the nearest open candidate is farther than the worst of a full beam.
//!
//! Rows that are not accepted are walked through but never enter the results, so a filter does not cut the graph;
//! with few accepted rows the beam fills late, or never, and the walk sees much of the graph: who knows that few
//! rows match scans them instead.

use super::{Links, Scorer};
use crate::segment::Accept;
use crate::topk::{Candidate, Nearest, Open, Scratch, Visited};
use nearstone_base::Result;

/// Appends to `out`, nearest first, up to `ef` accepted rows near the scorer's query.
///
/// Ordinals from `rows` on are passed over, whatever the links say. `out` may hold anything before; what is appended
/// has distinct ordinals. Costs about `ef` expansions when most rows are accepted; allocates nothing when `scratch`
/// is warm.
pub fn walk<L, S, A>(
    links: &L,
    scorer: &S,
    accept: &A,
    rows: u32,
    ef: usize,
    scratch: &mut Scratch,
    out: &mut Vec<Candidate>,
) -> Result<()>
where
    L: Links + ?Sized,
    S: Scorer + ?Sized,
    A: Accept + ?Sized,
{
    let Some((entry, top)) = links.entry() else { return Ok(()) };
    if entry >= rows || ef == 0 {
        return Ok(());
    }
    let start = descend(links, scorer, entry, top, 0, rows, scratch)?;
    beam(links, scorer, accept, 0, &[start], rows, ef, scratch)?;
    scratch.nearest.drain_sorted(out);
    Ok(())
}

/// Greedy descent from `entry` on level `top` down to, but not on, level `to`: the nearest row it came to. Measures
/// the entry itself even when there is no level to descend.
pub(crate) fn descend<L, S>(
    links: &L,
    scorer: &S,
    entry: u32,
    top: usize,
    to: usize,
    rows: u32,
    scratch: &mut Scratch,
) -> Result<Candidate>
where
    L: Links + ?Sized,
    S: Scorer + ?Sized,
{
    let Scratch { links: neighbours, distances, .. } = scratch;
    scorer.score(&[entry], distances)?;
    let mut best = Candidate::new(distances[0], entry);
    for level in (to + 1..=top).rev() {
        loop {
            links.links(level, best.ordinal, neighbours)?;
            neighbours.retain(|&n| n < rows);
            scorer.score(neighbours, distances)?;
            let near = neighbours.iter().zip(&*distances).map(|(&n, &d)| Candidate::new(d, n)).min();
            match near {
                // Strictly nearer, so that a level of equal distances can't be walked in circles.
                Some(near) if near.distance < best.distance => best = near,
                _ => break,
            }
        }
    }
    Ok(best)
}

/// The beam search of one level, from measured starts. The results are left in `scratch.nearest`.
#[expect(clippy::too_many_arguments, reason = "the walk's arguments, a level and where to start")]
pub(crate) fn beam<L, S, A>(
    links: &L,
    scorer: &S,
    accept: &A,
    level: usize,
    starts: &[Candidate],
    rows: u32,
    ef: usize,
    scratch: &mut Scratch,
) -> Result<()>
where
    L: Links + ?Sized,
    S: Scorer + ?Sized,
    A: Accept + ?Sized,
{
    let Scratch { nearest, open, visited, links: neighbours, batch, distances, .. } = scratch;
    nearest.reset(ef);
    open.clear();
    visited.reset(0);
    for &start in starts {
        if visited.insert(start.ordinal) {
            open.push(start);
            if accept.accept(start.ordinal) {
                nearest.push(start);
            }
        }
    }
    while let Some(next) = open.pop() {
        if nearest.is_full() && nearest.worst().is_none_or(|worst| next > worst) {
            break;
        }
        links.links(level, next.ordinal, neighbours)?;
        unvisited(neighbours, rows, visited, batch);
        scorer.score(batch, distances)?;
        debug_assert_eq!(batch.len(), distances.len(), "a scorer gives one distance per row");
        open_nearer(batch, distances, accept, nearest, open);
    }
    Ok(())
}

/// Collects the neighbours not seen before, marking them.
fn unvisited(neighbours: &[u32], rows: u32, visited: &mut Visited, batch: &mut Vec<u32>) {
    batch.clear();
    batch.resize(neighbours.len(), 0);
    // Without a branch: whether a neighbour was seen before can't be predicted.
    let mut new = 0;
    for &neighbour in neighbours {
        batch[new] = neighbour;
        new += usize::from(neighbour < rows && visited.insert(neighbour));
    }
    batch.truncate(new);
}

/// Opens what may still lead to a result and keeps what is one.
fn open_nearer<A: Accept + ?Sized>(
    batch: &[u32],
    distances: &[f32],
    accept: &A,
    nearest: &mut Nearest,
    open: &mut Open,
) {
    for (&ordinal, &distance) in batch.iter().zip(distances) {
        let candidate = Candidate::new(distance, ordinal);
        if nearest.admits(candidate) {
            open.push(candidate);
            if accept.accept(ordinal) {
                nearest.push(candidate);
            }
        }
    }
}
