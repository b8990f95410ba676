//! What the kills were, for people, and whether each failpoint was met.

use super::points::{POINTS, Point};
use super::process::End;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Counts of a run.
#[derive(Default, Debug)]
pub struct Tally {
    /// How long it took.
    pub took: Duration,
    /// Kills followed by a check.
    pub cycles: u64,
    /// Stores, each killed in several cycles.
    pub stores: u64,
    /// Kills at random times.
    pub random: u64,
    /// Kills of processes that recovered, among all.
    pub recoveries: u64,
    /// Rows compared with their own vector and payload.
    pub rows: u64,
    /// Backups that opened and were right.
    pub backups_complete: u64,
    /// Backups that were cut short and did not open.
    pub backups_cut_short: u64,
    /// By failpoint: how often a process died there, and how often it did not come by.
    points: BTreeMap<&'static str, (u64, u64)>,
}

impl Tally {
    pub(super) fn add(&mut self, other: Tally) {
        self.cycles += other.cycles;
        self.stores += other.stores;
        self.random += other.random;
        self.recoveries += other.recoveries;
        self.rows += other.rows;
        self.backups_complete += other.backups_complete;
        self.backups_cut_short += other.backups_cut_short;
        for (name, (met, missed)) in other.points {
            let sum = self.points.entry(name).or_default();
            *sum = (sum.0 + met, sum.1 + missed);
        }
    }

    pub(super) fn died(&mut self, point: Option<Point>, end: &End) {
        let Some(point) = point else {
            self.random += 1;
            return;
        };
        let (met, missed) = self.points.entry(point.name).or_default();
        match end {
            End::AtFailpoint => *met += 1,
            _ => *missed += 1,
        }
    }

    /// Failpoints at which no process died.
    pub fn never_met(&self) -> Vec<&'static str> {
        let met = |point: &&Point| self.points.get(point.name).is_some_and(|(met, _)| *met > 0);
        POINTS.iter().filter(|point| !met(point)).map(|point| point.name).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.took.as_secs_f64() / 60.0;
        let at_points: u64 = self.points.values().map(|(met, _)| met).sum();
        let missed: u64 = self.points.values().map(|(_, missed)| missed).sum();
        for (name, (met, missed)) in &self.points {
            let missed =
                if *missed > 0 { format!("  (not reached in time: {missed})") } else { String::new() };
            writeln!(f, "{name:<32} {met:>5}{missed}")?;
        }
        writeln!(
            f,
            "{} cycles on {} stores, {:.0} a minute",
            self.cycles,
            self.stores,
            self.cycles as f64 / minutes
        )?;
        writeln!(
            f,
            "{} kills: {} at random times, {at_points} at failpoints; {} of them while recovering",
            self.random + missed + at_points,
            self.random + missed,
            self.recoveries
        )?;
        write!(
            f,
            "{} rows compared; {} backups right, {} cut short and refused",
            self.rows, self.backups_complete, self.backups_cut_short
        )
    }
}
