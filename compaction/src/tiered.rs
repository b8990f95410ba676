//! Size tiers: segments of similar size are merged when there are enough of them, so that each row is rewritten
//! about `log(n) / log(tier_inputs)` times in the life of a store.

use crate::policy::{Policy, SegmentStats};
use nearstone_base::SegmentId;

/// The smallest tier that is full: the run of segments, in order of size, whose largest is at most `tier_factor`
/// times its smallest (or `tier_bytes_min`, if that is more) and no larger than all others together, and that has at least
/// `tier_inputs` members.
pub(crate) fn choose(segments: &[SegmentStats], policy: &Policy) -> Option<Vec<SegmentId>> {
    let mut by_size: Vec<&SegmentStats> = segments.iter().filter(|s| s.bytes <= policy.bytes_max).collect();
    by_size.sort_by_key(|s| (s.bytes, s.id));
    for (start, smallest) in by_size.iter().enumerate() {
        let limit = smallest.bytes.max(policy.tier_bytes_min.max(1)).saturating_mul(policy.tier_factor);
        let mut run: Vec<&SegmentStats> =
            by_size[start..].iter().copied().take_while(|s| s.bytes <= limit).collect();
        // Not a large one for the sake of a few tiny ones, again and again.
        let mut all: u64 = run.iter().map(|s| s.bytes).sum();
        while let Some(largest) = run.last().filter(|s| s.bytes > all - s.bytes) {
            all -= largest.bytes;
            run.pop();
        }
        if run.len() >= policy.tier_inputs.max(2) {
            return Some(run.iter().map(|s| s.id).collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(bytes: &[u64]) -> Option<Vec<u64>> {
        let segments: Vec<SegmentStats> = bytes
            .iter()
            .enumerate()
            .map(|(i, &bytes)| SegmentStats {
                id: SegmentId(i as u64),
                rows: 10,
                dead: 0,
                bytes,
                age_secs: 0,
            })
            .collect();
        let policy = Policy { tier_bytes_min: 100, ..Policy::default() };
        choose(&segments, &policy).map(|run| run.iter().map(|id| id.0).collect())
    }

    #[test]
    fn four_of_a_size_are_merged_and_a_giant_is_left_alone() {
        assert_eq!(sizes(&[100, 110, 120, 1_000_000]), None);
        assert_eq!(sizes(&[100, 1_000_000, 110, 120, 130]), Some(vec![0, 2, 3, 4]));
    }

    #[test]
    fn different_sizes_are_different_tiers() {
        assert_eq!(sizes(&[100, 1000, 10_000, 100_000]), None);
    }

    #[test]
    fn small_segments_are_of_one_size() {
        assert_eq!(sizes(&[1, 7, 400]), None);
        assert_eq!(sizes(&[20, 40, 90, 150, 401]), Some(vec![0, 1, 2, 3]));
        assert_eq!(
            sizes(&[1, 7, 9, 400, 401]),
            None,
            "each large one would be written again for every few tiny ones"
        );
    }
}
