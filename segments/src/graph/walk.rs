//! Walking a graph towards a query (algorithms 2 and 5 of arXiv 1603.09320).
//!
//! 1. From the entry, on each upper level, step to the nearest neighbour for as long as that comes nearer.
//! 2. On the ground level, keep a beam: the nearest open candidate is expanded, its neighbours not seen before are
//!    collected, measured in one batch, and those that come nearer than the worst of a full beam are opened.
//! 3. Candidates are taken two turns ahead of the measuring: memory brings the links of the second and what the neighbours of the
//!    first are measured on, while those of a third are measured. A few more rows are expanded than if each step waited for
//!    the one before, and a walk of a sealed segment takes two thirds of the time.
//! 4. Stop when the nearest open candidate is farther than the worst of a full beam.
//!
//! Rows that are not accepted are walked through but never enter the results, so a filter does not cut the graph;
//! with few accepted rows the beam fills late, or never, and the walk sees much of the graph: who knows that few
//! rows match scans them instead.

use super::{Links, Scorer};
use crate::segment::Accept;
use crate::topk::{Candidate, Scratch, Visited};
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
    beam(links, scorer, accept, 0, &[start], rows, ef, scratch, out)
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
            scorer.prefetch(neighbours);
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

/// The beam search of one level, from measured starts. Appends the results to `out`, nearest first.
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
    out: &mut Vec<Candidate>,
) -> Result<()>
where
    L: Links + ?Sized,
    S: Scorer + ?Sized,
    A: Accept + ?Sized,
{
    let Scratch { frontier, visited, links: neighbours, batch, ahead, distances, .. } = scratch;
    frontier.reset(ef);
    visited.reset(0);
    batch.clear();
    for &start in starts {
        if visited.insert(start.ordinal) && frontier.admits(start) {
            frontier.push(start, accept.accept(start.ordinal));
        }
    }
    let mut committed = None;
    loop {
        // A row is taken two turns before its neighbours are measured: its links travel in the first, and what its
        // neighbours are measured on in the second.
        let taken = frontier.pop();
        if let Some(taken) = taken {
            links.prefetch(level, taken.ordinal);
        }
        ahead.clear();
        if let Some(Candidate { ordinal, .. }) = committed {
            links.links(level, ordinal, neighbours)?;
            unvisited(neighbours, rows, visited, ahead);
            scorer.prefetch(ahead);
        } else if taken.is_none() && batch.is_empty() {
            break;
        }
        scorer.score(batch, distances)?;
        debug_assert_eq!(batch.len(), distances.len(), "a scorer gives one distance per row");
        for (&ordinal, &distance) in batch.iter().zip(&*distances) {
            let candidate = Candidate::new(distance, ordinal);
            // What may still lead to a result.
            if frontier.admits(candidate) {
                frontier.push(candidate, accept.accept(ordinal));
            }
        }
        std::mem::swap(batch, ahead);
        committed = taken;
    }
    frontier.drain_sorted(out);
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
