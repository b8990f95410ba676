//! What to compact next: a pure function from segment statistics to a choice.
//!
//! The rules, in the order of what they cost and give:
//!
//! 1. **Dead share.** A segment whose dead share passes the threshold is rewritten. The threshold falls with the
//!    segment's age, so that a small or slow store, where 20 % would never be reached, is cleaned as well: at age
//!    `a` it is `dead_share * min(1, age / a)`. Segments that are wholly dead go first, they cost nothing. What is much smaller than
//!    its living rows, all together, comes along: beside them it costs little, and every search asks each segment.
//! 2. **Tiers.** Sealed segments of similar size are merged when there are `tier_inputs` of them; small ones are all of one size.
//! 3. **Dead in memory.** Rows that are put again and again die before they are sealed. Searches walk through them, and they
//!    pin the log: when most of the rows in memory are dead, and they are not few, the live ones are sealed.
//! 4. Otherwise nothing.
//!
//! Any set of segments may be merged, whatever lies between them in time: which row of a key is alive is decided by
//! deaths, never by the order of segments.

use crate::tiered;
use nearstone_base::SegmentId;

/// What the policy knows of a sealed segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentStats {
    /// Which one.
    pub id: SegmentId,
    /// Rows in the file, dead ones included.
    pub rows: u32,
    /// Rows that are dead and may be dropped.
    pub dead: u32,
    /// Bytes of the file.
    pub bytes: u64,
    /// Seconds since it was written.
    pub age_secs: u64,
}

impl SegmentStats {
    /// The dead share, 0 to 1.
    pub fn dead_share(&self) -> f64 {
        f64::from(self.dead) / f64::from(self.rows.max(1))
    }

    /// The living rows' share of the file, about.
    pub fn live_bytes(&self) -> u64 {
        let live = u64::from(self.rows.saturating_sub(self.dead));
        (u128::from(self.bytes) * u128::from(live) / u128::from(self.rows.max(1))) as u64
    }
}

/// The numbers of the rules.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Policy {
    /// A segment with at least this share of dead rows is rewritten.
    pub dead_share: f64,
    /// Beyond this age, in seconds, the threshold falls in proportion to the age.
    pub age_secs: u64,
    /// So many segments of one tier are merged.
    pub tier_inputs: usize,
    /// A tier spans sizes up to this factor.
    pub tier_factor: u64,
    /// Segments up to `tier_factor` times this are of one tier, whatever their sizes. Deaths in large segments seal what is in memory,
    /// be it a row or two: such segments never were four of a size.
    pub tier_bytes_min: u64,
    /// Segments with more bytes than this are left to the dead-share rule.
    pub bytes_max: u64,
    /// Rows in memory are sealed when none came for a while, if there are at least so many: searches notice.
    pub idle_rows_min: u32,
    /// They are sealed for their dead ones when there are at least so many,
    pub memory_rows_min: u32,
    /// and at least this share of them is dead. A seal then writes no more rows than died.
    pub memory_dead_share: f64,
    /// Compaction is behind where rows that are dead beyond `dead_share` are more than the first of these for each living one,
    /// or the segments that one merge of a tier would take more than the first of `behind_inputs`; hopelessly so at the second.
    pub behind_dead: [f64; 2],
    /// See `behind_dead`.
    pub behind_inputs: [f64; 2],
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            dead_share: 0.20,
            age_secs: 3600,
            tier_inputs: 4,
            tier_factor: 4,
            tier_bytes_min: 4 << 20,
            bytes_max: 16 << 30,
            idle_rows_min: 1024,
            memory_rows_min: 4096,
            memory_dead_share: 0.5,
            behind_dead: [0.1, 0.5],
            behind_inputs: [8.0, 24.0],
        }
    }
}

/// Why a merge was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Nothing in it is alive.
    AllDead,
    /// The dead share passed the threshold for its age.
    DeadShare,
    /// Enough segments of one size.
    Tier,
    /// The user asked for it.
    Asked,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Choice {
    /// Nothing needs doing.
    Nothing,
    /// Merge these into one (or into nothing, when no row is alive).
    Merge {
        /// The segments.
        inputs: Vec<SegmentId>,
        /// Why.
        reason: Reason,
    },
}

/// Chooses for one collection. Cost: `O(n log n)` for `n` segments.
pub fn choose(segments: &[SegmentStats], policy: &Policy) -> Choice {
    let all_dead: Vec<SegmentId> = segments.iter().filter(|s| s.dead >= s.rows).map(|s| s.id).collect();
    if !all_dead.is_empty() {
        return Choice::Merge { inputs: all_dead, reason: Reason::AllDead };
    }
    let worst = segments
        .iter()
        .filter(|s| s.dead > 0 && s.dead_share() >= threshold(policy, s.age_secs))
        .max_by(|a, b| a.dead_share().total_cmp(&b.dead_share()).then(b.id.cmp(&a.id)));
    if let Some(segment) = worst {
        let mut others: Vec<&SegmentStats> = segments.iter().filter(|s| s.id != segment.id).collect();
        others.sort_by_key(|s| (s.live_bytes(), s.id));
        let mut left = segment.live_bytes() / policy.tier_factor.max(1);
        let along = others.into_iter().map_while(|s| {
            left = left.checked_sub(s.live_bytes())?;
            Some(s.id)
        });
        let inputs = [segment.id].into_iter().chain(along).collect();
        return Choice::Merge { inputs, reason: Reason::DeadShare };
    }
    match tiered::choose(segments, policy) {
        Some(inputs) => Choice::Merge { inputs, reason: Reason::Tier },
        None => Choice::Nothing,
    }
}

/// How far compaction is behind those who write: from 0 (not at all, or nothing is to be done) to 1 (writers make dead rows, or
/// segments, faster than they are merged, and should hardly go on). `in_memory` are the living rows that are not sealed. Cost: that
/// of [`choose`], or less.
///
/// A merge takes its time, in which as many rows die again as called for it: that much is no debt.
pub fn debt(segments: &[SegmentStats], in_memory: u32, policy: &Policy) -> f64 {
    let share = |value: f64, [from, to]: [f64; 2]| ((value - from) / (to - from)).clamp(0.0, 1.0);
    let (mut live, mut overdue) = (f64::from(in_memory), 0.0);
    for segment in segments {
        live += f64::from(segment.rows.saturating_sub(segment.dead));
        overdue += (f64::from(segment.dead) - policy.dead_share * f64::from(segment.rows)).max(0.0);
    }
    // A few rows are merged before anybody notices.
    let dead = share(overdue / live.max(4.0 * f64::from(policy.memory_rows_min)), policy.behind_dead);
    let inputs = match segments.len() as f64 > policy.behind_inputs[0] {
        true => tiered::choose(segments, policy).map_or(0, |inputs| inputs.len()),
        false => 0,
    };
    let debt = dead.max(share(inputs as f64, policy.behind_inputs));
    if debt > 0.0 && choose(segments, policy) == Choice::Nothing { 0.0 } else { debt }
}

/// Whether a mutable segment of so many rows, of which so many are dead, is sealed for them.
pub fn seals_for_the_dead(rows: u32, dead: u32, policy: &Policy) -> bool {
    rows >= policy.memory_rows_min && f64::from(dead) >= policy.memory_dead_share * f64::from(rows)
}

/// What a user's `compact` does: everything into one segment without dead rows, unless that is so already.
pub fn choose_all(segments: &[SegmentStats]) -> Choice {
    let clean = segments.iter().all(|s| s.dead == 0);
    if segments.is_empty() || (segments.len() == 1 && clean) {
        return Choice::Nothing;
    }
    Choice::Merge { inputs: segments.iter().map(|s| s.id).collect(), reason: Reason::Asked }
}

fn threshold(policy: &Policy, age_secs: u64) -> f64 {
    let fall = policy.age_secs.max(1) as f64 / age_secs.max(1) as f64;
    policy.dead_share * fall.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(id: u64, rows: u32, dead: u32, bytes: u64, age_secs: u64) -> SegmentStats {
        SegmentStats { id: SegmentId(id), rows, dead, bytes, age_secs }
    }

    #[test]
    fn a_fifth_dead_is_rewritten_and_less_is_left() {
        let policy = Policy::default();
        let choice = choose(&[segment(1, 100, 20, 1000, 0)], &policy);
        assert_eq!(choice, Choice::Merge { inputs: vec![SegmentId(1)], reason: Reason::DeadShare });
        assert_eq!(choose(&[segment(1, 100, 19, 1000, 0)], &policy), Choice::Nothing);
    }

    /// After twenty rounds of changes nine segments lay there, of 2 to 1,700 rows.
    #[test]
    fn small_segments_do_not_pile_up_beside_one_that_is_cleaned() {
        let policy = Policy::default();
        let segments = [segment(1, 1000, 200, 5000, 0), segment(2, 198, 0, 990, 0), segment(3, 2, 0, 10, 0)];
        let Choice::Merge { inputs, reason } = choose(&segments, &policy) else { panic!("nothing chosen") };
        assert_eq!((inputs.as_slice(), reason), (&[1, 3, 2].map(SegmentId)[..], Reason::DeadShare));
        // One of its own size waits for others, and so does one that is large beside the rows that live.
        let alone = Choice::Merge { inputs: vec![SegmentId(1)], reason: Reason::DeadShare };
        for dead in [200, 900] {
            let segments = [segment(1, 1000, dead, 5000, 0), segment(2, 202, 0, 1010, 0)];
            assert_eq!(choose(&segments, &policy), alone, "{dead} dead");
        }
    }

    /// What a stream of single rows, each sealed by itself, costs: bytes written over bytes that came.
    #[test]
    fn a_stream_of_tiny_segments_is_rewritten_a_few_times() {
        let (mut segments, mut written, policy) = (Vec::new(), 0, Policy::default());
        for id in 0..4096 {
            segments.push(segment(id, 1, 0, 2048, 0));
            while let Choice::Merge { inputs, .. } = choose(&segments, &policy) {
                let rows = segments.iter().filter(|s| inputs.contains(&s.id)).map(|s| s.rows).sum();
                segments.retain(|s| !inputs.contains(&s.id));
                written += u64::from(rows) * 2048;
                segments.push(segment(
                    1 << 32 | id << 8 | inputs.len() as u64,
                    rows,
                    0,
                    u64::from(rows) * 2048,
                    0,
                ));
            }
            assert!(segments.len() < 24, "{} segments", segments.len());
        }
        assert!(written < 8 * 4096 * 2048, "each row was written {} times", written / (4096 * 2048));
    }

    #[test]
    fn a_small_store_with_one_dead_row_is_cleaned_in_time() {
        let policy = Policy::default();
        assert_eq!(choose(&[segment(1, 100, 1, 1000, 3600)], &policy), Choice::Nothing);
        assert_ne!(choose(&[segment(1, 100, 1, 1000, 24 * 3600)], &policy), Choice::Nothing);
    }

    #[test]
    fn wholly_dead_segments_go_first_and_together() {
        let segments = [segment(1, 10, 5, 100, 0), segment(2, 10, 10, 100, 0), segment(3, 4, 4, 100, 0)];
        let choice = choose(&segments, &Policy::default());
        assert_eq!(
            choice,
            Choice::Merge { inputs: vec![SegmentId(2), SegmentId(3)], reason: Reason::AllDead }
        );
    }

    #[test]
    fn many_rows_in_memory_of_which_half_are_dead_are_sealed_and_few_are_not() {
        let policy = Policy::default();
        assert!(seals_for_the_dead(4096, 2048, &policy));
        assert!(seals_for_the_dead(5000, 5000, &policy));
        assert!(!seals_for_the_dead(4096, 2047, &policy));
        assert!(!seals_for_the_dead(4095, 4095, &policy));
        assert!(!seals_for_the_dead(0, 0, &policy));
    }

    #[test]
    fn dead_rows_and_segments_are_a_debt_when_there_are_more_than_a_merge_leaves_time_for() {
        let policy = Policy::default();
        let of = |dead| debt(&[segment(1, 80_000 + dead, dead, 1 << 30, 0)], 0, &policy);
        assert_eq!((debt(&[], 0, &policy), of(0), of(20_000), of(28_000)), (0.0, 0.0, 0.0, 0.0));
        assert!(of(40_000) > 0.1 && of(40_000) < 0.5, "{}", of(40_000));
        assert!(of(60_000) > of(40_000));
        assert_eq!((of(200_000), of(2_000_000)), (1.0, 1.0));
        // Nothing to speak of.
        assert_eq!(debt(&[segment(1, 1_000, 1_000, 1 << 20, 0)], 0, &policy), 0.0);
        // Rows that were put again live in memory until they are sealed.
        assert_eq!(debt(&[segment(1, 50_000, 25_000, 1 << 30, 0)], 0, &policy), 1.0);
        let half = debt(&[segment(1, 50_000, 25_000, 1 << 30, 0)], 25_000, &policy);
        assert!(half > 0.4 && half < 0.6, "{half}");
        // What the policy leaves is no debt.
        let patient = Policy { dead_share: 0.9, ..policy };
        assert_eq!(debt(&[segment(1, 100_000, 85_000, 1 << 30, 0)], 0, &patient), 0.0);
        let many = |segments: u64| -> Vec<SegmentStats> {
            (0..segments).map(|id| segment(id, 10_000, 0, 64 << 20, 0)).collect()
        };
        assert_eq!(debt(&many(8), 0, &policy), 0.0);
        assert_eq!(debt(&many(16), 0, &policy), 0.5);
        assert_eq!(debt(&many(100), 0, &policy), 1.0);
        // Tiers that wait for more, beside one that is due.
        let spread = (0..21).map(|id| segment(id, 10_000, 0, (8 << 20) << (id / 3 * 3), 0));
        let due = (0..4).map(|id| segment(100 + id, 100, 0, 1 << 20, 0));
        let spread: Vec<SegmentStats> = spread.chain(due).collect();
        assert!(matches!(choose(&spread, &policy), Choice::Merge { reason: Reason::Tier, .. }));
        assert_eq!(debt(&spread, 0, &policy), 0.0);
        // What is too large for tiers is never merged by them.
        let small = Policy { bytes_max: 1 << 20, ..policy };
        assert_eq!(debt(&many(100), 0, &small), 0.0);
    }

    #[test]
    fn asking_for_it_merges_everything_once() {
        assert_eq!(choose_all(&[]), Choice::Nothing);
        assert_eq!(choose_all(&[segment(1, 10, 0, 100, 0)]), Choice::Nothing);
        assert_ne!(choose_all(&[segment(1, 10, 1, 100, 0)]), Choice::Nothing);
        assert_ne!(choose_all(&[segment(1, 10, 0, 1, 0), segment(2, 10, 0, 1, 0)]), Choice::Nothing);
    }

    proptest! {
        #[test]
        fn the_policy_comes_to_rest(sizes in prop::collection::vec((1u32..1000, 0u32..1000), 0..20)) {
            let mut segments: Vec<SegmentStats> = sizes
                .iter()
                .enumerate()
                .map(|(i, &(rows, dead))| {
                    segment(i as u64, rows, dead.min(rows), u64::from(rows) * 100, 0)
                })
                .collect();
            let mut next = segments.len() as u64;
            for _ in 0..100 {
                let Choice::Merge { inputs, .. } = choose(&segments, &Policy::default()) else { return Ok(()) };
                let live: u32 = segments
                    .iter()
                    .filter(|s| inputs.contains(&s.id))
                    .map(|s| s.rows - s.dead)
                    .sum();
                segments.retain(|s| !inputs.contains(&s.id));
                if live > 0 {
                    segments.push(segment(next, live, 0, u64::from(live) * 100, 0));
                    next += 1;
                }
            }
            prop_assert!(false, "still choosing after 100 merges");
        }
    }
}
