//! Merging sealed segments: joining the graphs that they have against building one from nothing, in seconds and in
//! recall: for two equal halves; for a large segment with some dead rows that a tenth comes to; for eight equal parts.
//!
//! With `--keep FOLDER` the inputs are sealed once and found again by later runs.

use crate::data::Data;
use crate::report::Report;
use nearstone_base::vfs::{DiskVfs, Residency};
use nearstone_base::{KeyRef, Lsn, Metric, Schema, SegmentId, Uuid};
use nearstone_compaction::merge::{Merge, MergeInput, Merged};
use nearstone_datasets::recall;
use nearstone_segments::seal::{SealTarget, seal_frozen};
use nearstone_segments::topk::Scratch;
use nearstone_segments::{AcceptAll, MutableSegment, SealedSegment, SearchOptions};
use std::error::Error;
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

const LIMIT: usize = 10;
const WIDTHS: [usize; 4] = [16, 32, 64, 128];
/// All rows, in the unit in which cases say where inputs end.
const WHOLE: usize = 110;
/// Where the merged segment goes; inputs have smaller numbers.
const OUTPUT: u64 = 1 << 60;

/// Some inputs, and which of their rows are dead.
struct Case {
    name: &'static str,
    /// Where each input ends.
    ends: &'static [usize],
    /// One row in so many is dead.
    dead: Option<usize>,
}

const CASES: [Case; 3] = [
    Case { name: "halves", ends: &[55, 110], dead: None },
    Case { name: "tenth", ends: &[100, 110], dead: Some(20) },
    Case { name: "eighths", ends: &[14, 28, 41, 55, 69, 83, 96, 110], dead: None },
];

pub(crate) fn run(data: &Data, keep: Option<&Path>, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let room = tempfile::tempdir()?;
    let bench = Bench {
        data,
        folder: keep.unwrap_or(room.path()),
        schema: Schema::new(data.dimension, Metric::Cosine),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
    };
    for case in &CASES {
        bench.case(case, report)?;
    }
    Ok(())
}

struct Bench<'a> {
    data: &'a Data,
    folder: &'a Path,
    schema: Schema,
    threads: usize,
}

impl Bench<'_> {
    fn case(&self, case: &Case, report: &mut Report) -> Result<(), Box<dyn Error>> {
        let mut segments = Vec::new();
        let mut start = 0;
        for part in case.ends {
            let end = self.data.rows() * part / WHOLE;
            segments.push(self.sealed(start..end)?);
            start = end;
        }
        let is_dead = |row: u32| case.dead.is_some_and(|one_in| (row as usize).is_multiple_of(one_in));
        let truth = self.data.truth(LIMIT, Some(&|row| !is_dead(row)));
        let merge = || -> Result<Merge<'_>, Box<dyn Error>> {
            let mut inputs = Vec::new();
            for segment in &segments {
                let mut dead = Vec::new();
                for row in 0..segment.rows() {
                    if is_dead(number(segment.key(row)?)) {
                        dead.push(row);
                    }
                }
                inputs.push(MergeInput { segment, dead: dead.into_iter().collect() });
            }
            Ok(Merge::new(inputs, self.schema)?)
        };
        let merged = merge()?;
        let start = Instant::now();
        let joined = merged.join(&self.target(OUTPUT), &|_| false)?;
        self.report(case, "join", start, joined, &truth, report)?;

        let merged = merge()?;
        let start = Instant::now();
        let built = merged.build(&self.target(OUTPUT), &|_| false)?;
        let rebuilt = match built {
            Some(built) => Some(built),
            None => self.link(&merged)?,
        };
        self.report(case, "rebuild", start, rebuilt, &truth, report)
    }

    /// All rows, linked one by one.
    fn link(&self, merge: &Merge<'_>) -> nearstone_base::Result<Option<Merged>> {
        std::thread::scope(|scope| {
            let link = || -> nearstone_base::Result<()> {
                let mut scratch = Scratch::default();
                while merge.link_some(64, &mut scratch)? > 0 {}
                Ok(())
            };
            let others: Vec<_> = (1..self.threads).map(|_| scope.spawn(link)).collect();
            let mine = link();
            others.into_iter().map(|other| other.join().expect("no panic")).fold(mine, Result::and)
        })?;
        merge.write(&self.target(OUTPUT), &|| false)
    }

    /// Seconds since the start, and the recall of what was merged.
    fn report(
        &self,
        case: &Case,
        way: &str,
        start: Instant,
        merged: Option<Merged>,
        truth: &[Vec<f64>],
        report: &mut Report,
    ) -> Result<(), Box<dyn Error>> {
        let Some(merged) = merged else {
            report.say(&format!("  merge_{}: nothing to {way}", case.name));
            return Ok(());
        };
        report.figure(&format!("merge_{}_{way}_seconds", case.name), start.elapsed().as_secs_f64());
        let path = self.target(OUTPUT).path();
        let segment = SealedSegment::open(&DiskVfs, &path, &merged.meta, Residency::Mapped)?;
        let mut scratch = Scratch::default();
        for ef in WIDTHS {
            let options = SearchOptions { limit: LIMIT, ef, exact: false, at: Lsn::MAX, accept: &AcceptAll };
            let mut sum = 0.0;
            for (query, truth) in self.data.queries.iter().zip(truth) {
                let hits = segment.search(query, &options, &mut scratch)?;
                let places: Vec<u32> = (0..hits.len() as u32).collect();
                sum += recall::recall(truth, &places, LIMIT, |p| f64::from(hits[p as usize].distance));
            }
            let recall = sum / self.data.queries.len() as f64;
            report.figure(&format!("merge_{}_{way}_ef{ef}_recall", case.name), recall);
        }
        drop(segment);
        std::fs::remove_file(path)?;
        Ok(())
    }

    /// A sealed segment of some rows, unless the folder has it.
    fn sealed(&self, rows: Range<usize>) -> Result<SealedSegment, Box<dyn Error>> {
        let id = (rows.start as u64) << 30 | rows.end as u64;
        let target = self.target(id);
        if !target.path().exists() {
            let segment = MutableSegment::new(SegmentId(id), self.schema);
            for row in rows {
                let key = KeyRef::U64(row as u64);
                segment.append(key, key.hash64(), self.data.row(row), b"", 1 + row as u64);
            }
            segment.freeze();
            std::thread::scope(|scope| {
                for _ in 0..self.threads {
                    scope.spawn(|| while segment.link_some(64, &mut Scratch::default()) > 0 {});
                }
            });
            seal_frozen(&segment, Lsn::MAX, &target, &|| false)?;
        }
        let meta = SealedSegment::inspect(&DiskVfs, &target.path())?;
        Ok(SealedSegment::open(&DiskVfs, &target.path(), &meta, Residency::Mapped)?)
    }

    fn target(&self, id: u64) -> SealTarget<'_> {
        SealTarget {
            vfs: &DiskVfs,
            dir: self.folder,
            id: SegmentId(id),
            uuid: Uuid(u128::from(id).to_le_bytes()),
            created_secs: 1,
            threads: self.threads,
            like: None,
        }
    }
}

fn number(key: KeyRef<'_>) -> u32 {
    match key {
        KeyRef::U64(number) => number as u32,
        KeyRef::Str(_) => u32::MAX,
    }
}
