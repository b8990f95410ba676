//! Choosing neighbours: the heuristic of algorithm 4 of arXiv 1603.09320.
//!
//! Candidates are taken nearest first. One is chosen unless a neighbour chosen before is nearer to it than the base
//! is: then the base reaches it through that neighbour, and the place is better spent on another direction. With
//! `fill`, places left over go to the nearest of those passed over (`keepPrunedConnections` in the paper).
//!
//! A candidate exactly as near to a chosen neighbour as to the base is chosen: otherwise a set of equal vectors would
//! get one link each and fall apart. For the same reason ties are ordered by a hash of both ordinals, so that different
//! bases prefer different ones among equals.

use super::VectorSource;
use crate::topk::Candidate;
use nearstone_base::Result;

/// Sorts candidates nearest first, equals in an order that differs from base to base.
pub(crate) fn sort_candidates(base: u32, candidates: &mut [Candidate]) {
    candidates.sort_unstable_by(|a, b| {
        a.distance.total_cmp(&b.distance).then_with(|| mix(base, a.ordinal).cmp(&mix(base, b.ordinal)))
    });
}

/// Replaces `selected` by up to `limit` of the candidates, which hold their distance to the base, are sorted by
/// [`sort_candidates`] and distinct, and do not include the base. `pruned` is scratch.
///
/// Costs at most one distance per candidate and chosen neighbour, usually far fewer.
pub(crate) fn select<V: VectorSource + ?Sized>(
    vectors: &V,
    candidates: &[Candidate],
    limit: usize,
    fill: bool,
    selected: &mut Vec<Candidate>,
    pruned: &mut Vec<Candidate>,
) -> Result<()> {
    selected.clear();
    pruned.clear();
    for &candidate in candidates {
        if selected.len() >= limit {
            break;
        }
        let passed_over = vectors.any_nearer(candidate.ordinal, selected, candidate.distance)?;
        if passed_over { pruned.push(candidate) } else { selected.push(candidate) }
    }
    if fill {
        let room = limit.saturating_sub(selected.len());
        selected.extend(pruned.iter().take(room));
    }
    Ok(())
}

/// A hash of two ordinals: the finaliser of MurmurHash3 over both.
pub(crate) fn mix(a: u32, b: u32) -> u32 {
    let mut h = a.wrapping_mul(0x9e37_79b9) ^ b;
    h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points on a line.
    struct Line(Vec<f32>);

    impl VectorSource for Line {
        fn distance(&self, a: u32, b: u32) -> Result<f32> {
            Ok((self.0[a as usize] - self.0[b as usize]).powi(2))
        }

        fn distances(&self, a: u32, others: &[u32], out: &mut Vec<f32>) -> Result<()> {
            out.clear();
            for &b in others {
                out.push(self.distance(a, b)?);
            }
            Ok(())
        }
    }

    fn choose(line: &[f32], limit: usize, fill: bool) -> Vec<u32> {
        let line = Line(line.to_vec());
        let mut candidates: Vec<Candidate> =
            (1..line.0.len() as u32).map(|i| Candidate::new(line.distance(0, i).unwrap(), i)).collect();
        sort_candidates(0, &mut candidates);
        let (mut selected, mut pruned) = (Vec::new(), Vec::new());
        select(&line, &candidates, limit, fill, &mut selected, &mut pruned).unwrap();
        selected.iter().map(|c| c.ordinal).collect()
    }

    #[test]
    fn one_neighbour_per_direction_then_the_nearest_passed_over() {
        // Base at 0; 1, 2 and 4 lie to the right, -3 to the left.
        let line = [0.0, 1.0, 2.0, 4.0, -3.0];
        assert_eq!(choose(&line, 4, false), [1, 4]);
        assert_eq!(choose(&line, 3, true), [1, 4, 2]);
        assert_eq!(choose(&line, 9, true), [1, 4, 2, 3]);
        assert_eq!(choose(&line, 1, true), [1]);
        assert_eq!(choose(&line, 0, true), [0u32; 0]);
    }

    #[test]
    fn equals_are_all_chosen_and_not_the_same_ones_by_every_base() {
        assert_eq!(choose(&[2.0; 9], 8, false).len(), 8);
        let order = |base: u32| {
            let mut equals: Vec<Candidate> = (10..30).map(|i| Candidate::new(0.0, i)).collect();
            sort_candidates(base, &mut equals);
            equals.iter().map(|c| c.ordinal).collect::<Vec<_>>()
        };
        assert_ne!(order(1), order(2));
        assert_eq!(order(1), order(1));
    }
}
