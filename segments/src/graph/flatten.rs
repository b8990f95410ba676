//! From a growing graph to a finished one: rows not kept are dropped, the holes are healed, rows are renumbered by
//! descending level, and every row is made reachable.
//!
//! 1. Rows are ordered by level, highest first, the entry before its equals: a level is then a prefix of the rows.
//! 2. A row that lost no neighbour keeps its list. One that did gets, as candidates, the neighbours it still has and
//!    the kept neighbours of the lost ones (and, where those are lost too, theirs), and chooses among them by the
//!    heuristic up to the full degree: repairing only the lost share would let degrees decay over many rounds.
//! 3. A breadth-first search from row 0 on the ground marks what is reachable. Each row `u` that is not is attached: a
//!    walk finds the reachable rows nearest to it; the nearest of them with a free place links to `u`. When none has
//!    one, the nearest, `p`, gives up its farthest link `x` for `u`, and `u` links to `x`.
//!
//! Step 3 cuts nobody off: what was reached through `p -> x` is reached through `p -> u -> x`, and the link that `u`
//! may give up for `x` carried no path, since `u` was not reachable.

use super::build::Graph;
use super::select::{select, sort_candidates};
use super::{FlatGraph, FlatLevel, FromRow, Links, NO_LINK, VectorSource, walk};
use crate::segment::AcceptAll;
use crate::topk::{Candidate, Scratch};
use nearstone_base::{Error, ErrorKind, Result};
use std::cmp::Reverse;

/// Beam of the walks that look for a place to attach a row.
const ATTACH_EF: usize = 48;

/// The finished graph of the rows below `rows` that `keep` says to keep, and their order: row `new` of the result is
/// row `order[new]` of the graph and of `vectors`. The graph must not change meanwhile.
///
/// Every row is reachable from row 0 on the ground level. Costs a copy of the links, a reselection for each row that
/// lost a neighbour, and a walk for each row that was not reachable.
pub fn flatten<V: VectorSource + ?Sized>(
    graph: &Graph,
    rows: u32,
    keep: impl Fn(u32) -> bool,
    vectors: &V,
) -> Result<(Vec<u32>, FlatGraph)> {
    let entry = graph.entry().map(|(entry, _)| entry);
    let mut order: Vec<u32> = (0..rows).filter(|&row| keep(row)).collect();
    order.sort_by_key(|&row| (Reverse(graph.level(row)), Some(row) != entry));
    let Some(&first) = order.first() else { return Ok((order, FlatGraph::default())) };

    let mut renumbered = vec![NO_LINK; rows as usize];
    for (new, &old) in order.iter().enumerate() {
        renumbered[old as usize] = new as u32;
    }
    let mut healer = Healer { graph, vectors, renumbered: &renumbered, scratch: Scratch::default() };
    let mut flat = FlatGraph { levels: Vec::new(), beam: graph.beam() };
    for level in 0..=graph.level(first) {
        let members = order.partition_point(|&old| graph.level(old) >= level);
        let stride = graph.degree(level);
        let mut links = Vec::with_capacity(members * stride);
        for (new, &old) in order[..members].iter().enumerate() {
            healer.links(level, old)?;
            links.extend(healer.scratch.links.iter().map(|&link| renumbered[link as usize]));
            links.resize((new + 1) * stride, NO_LINK);
        }
        flat.levels.push(FlatLevel { rows: members as u32, stride, links });
    }
    attach_all(&mut flat, &Renumbered { vectors, order: &order }, &mut healer.scratch, &|| false)?;
    Ok((order, flat))
}

/// Finds the links that remain of a row.
struct Healer<'a, V: ?Sized> {
    graph: &'a Graph,
    vectors: &'a V,
    renumbered: &'a [u32],
    scratch: Scratch,
}

impl<V: VectorSource + ?Sized> Healer<'_, V> {
    fn kept(&self, row: u32) -> bool {
        self.renumbered.get(row as usize).is_some_and(|&new| new != NO_LINK)
    }

    /// Leaves the row's links among kept rows, in old numbers, in `scratch.links`.
    fn links(&mut self, level: usize, row: u32) -> Result<()> {
        let mut links = std::mem::take(&mut self.scratch.links);
        self.graph.links(level, row, &mut links)?;
        // A list read once is clean already unless it was left in part by an insertion that failed.
        let mut unique = 0;
        for i in 0..links.len() {
            if links[i] != row && !links[..unique].contains(&links[i]) {
                links[unique] = links[i];
                unique += 1;
            }
        }
        links.truncate(unique);
        if links.iter().any(|&link| !self.kept(link)) {
            self.heal(level, row, &mut links)?;
        }
        self.scratch.links = links;
        Ok(())
    }

    fn heal(&mut self, level: usize, row: u32, links: &mut Vec<u32>) -> Result<()> {
        let mut visited = std::mem::take(&mut self.scratch.visited);
        let mut near = std::mem::take(&mut self.scratch.batch);
        visited.reset(self.renumbered.len());
        visited.insert(row);
        let mut candidates: Vec<u32> = Vec::new();
        // Two rings: behind a lost neighbour, and behind a lost neighbour of that.
        let mut lost = std::mem::take(links);
        lost.retain(|&link| {
            visited.insert(link);
            let kept = self.kept(link);
            if kept {
                candidates.push(link);
            }
            !kept
        });
        for _ in 0..2 {
            let mut behind = Vec::new();
            for &gone in &lost {
                self.graph.links(level, gone, &mut near)?;
                for &link in near.iter().filter(|&&link| visited.insert(link)) {
                    if self.kept(link) { candidates.push(link) } else { behind.push(link) }
                }
            }
            if candidates.len() >= self.graph.degree(level) {
                break;
            }
            lost = behind;
        }
        self.scratch.visited = visited;
        self.scratch.batch = near;
        let Scratch { distances, candidates: measured, selected, pruned, .. } = &mut self.scratch;
        self.vectors.prefetch(&candidates);
        self.vectors.distances(row, &candidates, distances)?;
        measured.clear();
        measured.extend(candidates.iter().zip(&*distances).map(|(&link, &d)| Candidate::new(d, link)));
        sort_candidates(row, measured);
        select(self.vectors, measured, self.graph.degree(level), true, selected, pruned)?;
        *links = candidates;
        links.clear();
        links.extend(selected.iter().map(|chosen| chosen.ordinal));
        Ok(())
    }
}

/// Makes every row reachable from row 0 on the ground level, of which there is one. `cancel` is asked before each row that is not.
pub(crate) fn attach_all<V: VectorSource + ?Sized>(
    flat: &mut FlatGraph,
    vectors: &V,
    scratch: &mut Scratch,
    cancel: &dyn Fn() -> bool,
) -> Result<()> {
    let rows = flat.levels[0].rows;
    let mut reached = vec![false; rows as usize];
    let mut queue = Vec::new();
    spread(&flat.levels[0], 0, &mut reached, &mut queue);
    let mut found = Vec::new();
    for row in 0..rows {
        if reached[row as usize] {
            continue;
        }
        if cancel() {
            return Err(Error::new(ErrorKind::Cancelled, "making every row reachable was cancelled"));
        }
        found.clear();
        let scorer = FromRow { vectors, row };
        walk(&*flat, &scorer, &AcceptAll, rows, ATTACH_EF, scratch, &mut found)?;
        // Upper levels may lead to rows that the ground does not reach.
        found.retain(|candidate| reached[candidate.ordinal as usize]);
        if found.is_empty() {
            found.push(Candidate::new(vectors.distance(row, 0)?, 0));
        }
        attach(&mut flat.levels[0], row, &found, vectors, scratch)?;
        spread(&flat.levels[0], row, &mut reached, &mut queue);
    }
    debug_assert!(reached.iter().all(|&reached| reached));
    Ok(())
}

/// Links one of the reachable rows `near` (nearest first) to `row`.
fn attach<V: VectorSource + ?Sized>(
    ground: &mut FlatLevel,
    row: u32,
    near: &[Candidate],
    vectors: &V,
    scratch: &mut Scratch,
) -> Result<()> {
    for candidate in near {
        let list = ground.list_mut(candidate.ordinal);
        if let Some(free) = list.iter().position(|&link| link == NO_LINK) {
            list[free] = row;
            return Ok(());
        }
    }
    // Among equally near ones a different one for each row, or a set of equal vectors would become one long chain.
    let ties = near.partition_point(|candidate| candidate.distance <= near[0].distance).max(1);
    let giver = near[row as usize % ties].ordinal;
    let place = farthest(ground.list_mut(giver), giver, vectors, scratch)?;
    let given = std::mem::replace(&mut ground.list_mut(giver)[place], row);
    let list = ground.list_mut(row);
    if !list.contains(&given) {
        let free = list.iter().position(|&link| link == NO_LINK);
        let place = match free {
            Some(free) => free,
            None => farthest(list, row, vectors, scratch)?,
        };
        ground.list_mut(row)[place] = given;
    }
    Ok(())
}

/// The place of the farthest link in a full list.
fn farthest<V: VectorSource + ?Sized>(
    list: &[u32],
    row: u32,
    vectors: &V,
    scratch: &mut Scratch,
) -> Result<usize> {
    vectors.distances(row, list, &mut scratch.distances)?;
    let places = scratch.distances.iter().enumerate();
    Ok(places.max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(place, _)| place))
}

/// Marks what is reachable from a row.
fn spread(ground: &FlatLevel, from: u32, reached: &mut [bool], queue: &mut Vec<u32>) {
    queue.clear();
    queue.push(from);
    reached[from as usize] = true;
    while let Some(row) = queue.pop() {
        for &link in ground.list(row) {
            if !std::mem::replace(&mut reached[link as usize], true) {
                queue.push(link);
            }
        }
    }
}

/// The vectors under their new numbers.
struct Renumbered<'a, V: ?Sized> {
    vectors: &'a V,
    order: &'a [u32],
}

impl<V: VectorSource + ?Sized> VectorSource for Renumbered<'_, V> {
    fn distance(&self, a: u32, b: u32) -> Result<f32> {
        self.vectors.distance(self.order[a as usize], self.order[b as usize])
    }

    fn distances(&self, a: u32, others: &[u32], out: &mut Vec<f32>) -> Result<()> {
        let others: Vec<u32> = others.iter().map(|&other| self.order[other as usize]).collect();
        self.vectors.distances(self.order[a as usize], &others, out)
    }

    fn prefetch(&self, others: &[u32]) {
        others.iter().for_each(|&other| self.vectors.prefetch(&[self.order[other as usize]]));
    }
}
