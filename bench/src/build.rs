//! Construction, and what comes after it: seconds and processor-seconds until all rows are linked, of the seal in its
//! phases, of the same rows written once more, and of a merge; for more and more rows, so that it shows how they grow.
//!
//! The phases are read off the segment's file ([`Watched`]): until it is begun, the graph is brought into the order of
//! the file, refined and given inline rows ("prepare"); until it is synced, keys, codes, vectors and links are encoded
//! and written ("write"); then the sync; after it has its name, it is opened as a reader would, looked at with some
//! searches, and made known to the catalog ("publish").
//!
//! Refining happens in the middle of "prepare", where no event shows it. What the rest takes is seen when one row dies and
//! the segment is compacted ("rewrite"): all other rows are converted, encoded and written along the links that they have.

use crate::data::Data;
use crate::process::processor_time;
use crate::report::{Report, Wanted};
use crate::slope::exponent;
use crate::watch::Watched;
use nearstone::{Collection, Metric, Schema, Store};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SIZES: [usize; 3] = [10_000, 30_000, 100_000];
const DIMENSION: usize = 128;
const LATENT: usize = 16;

/// What may be taken of the construction's time: by converting, encoding and writing alone; and by all of the seal.
const PACK_SHARE: f64 = 0.15;
const SEAL_SHARE: f64 = 0.50;

/// `rows` is how many were asked for; generated rows can be more than the real ones.
pub(crate) fn run(data: &Data, rows: Option<usize>, report: &mut Report) -> Result<(), Box<dyn Error>> {
    report.command("build");
    let largest = rows.unwrap_or(SIZES[SIZES.len() - 1]);
    grow(&Data::generated(largest, DIMENSION, LATENT, 1), "generated", report)?;
    grow(data, "data", report)
}

/// All sizes of one set.
fn grow(data: &Data, set: &str, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let (mut constructs, mut merges) = (Vec::new(), Vec::new());
    for rows in sizes(data.rows()) {
        let times = Times::measure(data, rows)?;
        times.report(&format!("build_{set}_{}_{rows}_rows", data.dimension), report);
        constructs.push((rows as f64, times.construct));
        merges.push((rows as f64, times.merge));
    }
    for (what, all) in [("construct", constructs), ("merge", merges)] {
        let growth = |time: fn(&Took) -> Duration| {
            exponent(&all.iter().map(|(rows, took)| (*rows, time(took).as_secs_f64())).collect::<Vec<_>>())
        };
        let name = format!("build_{set}_{}_{what}", data.dimension);
        // On a busy machine only the second one means something.
        if let (Some(wall), Some(processors)) = (growth(|took| took.wall), growth(|took| took.processors)) {
            report.figure(&format!("{name}_exponent"), wall);
            report.figure(&format!("{name}_processor_exponent"), processors);
        }
    }
    Ok(())
}

/// The usual sizes below `most`, and `most`.
fn sizes(most: usize) -> Vec<usize> {
    SIZES.into_iter().filter(|&rows| rows < most).chain([most]).collect()
}

/// Time on the clock, and of all processors.
#[derive(Clone, Copy, Debug)]
struct Took {
    wall: Duration,
    processors: Duration,
}

impl Took {
    fn of(work: impl FnOnce() -> nearstone::Result<()>) -> nearstone::Result<Took> {
        let (start, processors) = (Instant::now(), processor_time());
        work()?;
        Ok(Took { wall: start.elapsed(), processors: processor_time() - processors })
    }

    fn report(self, name: &str, report: &mut Report) {
        report.figure(&format!("{name}_seconds"), self.wall.as_secs_f64());
        report.figure(&format!("{name}_processor_seconds"), self.processors.as_secs_f64());
    }
}

struct Times {
    construct: Took,
    seal: Took,
    sealed: Phases,
    rewrite: Took,
    rewritten: Phases,
    merge: Took,
}

/// The parts of a call that made one segment file.
#[derive(Clone, Copy, Debug)]
struct Phases {
    prepare: Duration,
    write: Duration,
    sync: Duration,
    publish: Duration,
}

impl Phases {
    /// Runs `work`, which makes one file.
    fn of(
        disk: &Watched,
        work: impl FnOnce() -> nearstone::Result<()>,
    ) -> Result<(Took, Phases), Box<dyn Error>> {
        disk.take_events();
        let start = Instant::now();
        let took = Took::of(work)?;
        let end = Instant::now();
        let events = disk.take_events();
        let missing = "no segment file was begun, synced and named";
        let begun = events.begun.ok_or(missing)?;
        let syncing = events.syncing.ok_or(missing)?;
        let named = events.named.ok_or(missing)?;
        let phases = Phases {
            prepare: begun - start,
            write: syncing - begun,
            sync: named - syncing,
            publish: end - named,
        };
        Ok((took, phases))
    }

    /// What is neither waiting for the disk nor making the file known.
    fn packing(self) -> Duration {
        self.prepare + self.write
    }

    fn report(self, name: &str, report: &mut Report) {
        for (phase, took) in
            [("prepare", self.prepare), ("write", self.write), ("sync", self.sync), ("publish", self.publish)]
        {
            report.figure(&format!("{name}_{phase}_seconds"), took.as_secs_f64());
        }
    }
}

impl Times {
    fn measure(data: &Data, rows: usize) -> Result<Times, Box<dyn Error>> {
        let folder = tempfile::tempdir()?;
        let disk = Arc::new(Watched::default());
        let (store, collection) = open(&folder.path().join("build.near"), &disk, data)?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let construct = Took::of(|| {
            data.put(&store, &collection, 0..rows)?;
            collection.link(threads)
        })?;
        let (seal, sealed) = Phases::of(&disk, || store.flush())?;
        collection.delete(0u64)?;
        let (rewrite, rewritten) = Phases::of(&disk, || store.compact())?;
        store.close()?;
        drop((collection, store));

        let (store, collection) = open(&folder.path().join("halves.near"), &disk, data)?;
        for half in [0..rows / 2, rows / 2..rows] {
            data.put(&store, &collection, half)?;
            store.flush()?;
        }
        let merge = Took::of(|| store.compact())?;
        store.close()?;
        Ok(Times { construct, seal, sealed, rewrite, rewritten, merge })
    }

    fn report(&self, name: &str, report: &mut Report) {
        let construct = self.construct.wall.as_secs_f64();
        self.construct.report(&format!("{name}_construct"), report);
        self.seal.report(&format!("{name}_seal"), report);
        self.sealed.report(&format!("{name}_seal"), report);
        self.rewrite.report(&format!("{name}_rewrite"), report);
        self.rewritten.report(&format!("{name}_rewrite"), report);
        let packed = self.rewritten.packing().as_secs_f64() / construct;
        report.figure_wanted(&format!("{name}_packing_over_construct"), packed, Wanted::AtMost(PACK_SHARE));
        let sealed = self.seal.wall.as_secs_f64() / construct;
        report.figure_wanted(&format!("{name}_seal_over_construct"), sealed, Wanted::AtMost(SEAL_SHARE));
        self.merge.report(&format!("{name}_merge_of_halves"), report);
    }
}

/// A store that seals and merges when it is told to, and not before.
fn open(path: &Path, disk: &Arc<Watched>, data: &Data) -> nearstone::Result<(Store, Collection)> {
    let store = Store::builder()
        .vfs(disk.clone())
        .seal_rows(u32::MAX)
        .seal_bytes(u64::MAX)
        .wal_bytes(u64::MAX)
        .memory_budget(u64::MAX)
        .auto_compact(false)
        .open(path)?;
    let collection = store.create_collection("rows", Schema::new(data.dimension, Metric::Cosine))?;
    Ok((store, collection))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_sizes_are_measured_up_to_the_largest() {
        assert_eq!(sizes(100_000), [10_000, 30_000, 100_000]);
        assert_eq!(sizes(20_000), [10_000, 20_000]);
        assert_eq!(sizes(300_000), [10_000, 30_000, 100_000, 300_000]);
        assert_eq!(sizes(500), [500]);
    }

    #[test]
    fn the_phases_of_a_file_are_all_of_its_time() {
        let data = Data::generated(600, 16, 8, 1);
        let times = Times::measure(&data, 600).unwrap();
        for (took, phases) in [(times.seal, times.sealed), (times.rewrite, times.rewritten)] {
            let all = phases.packing() + phases.sync + phases.publish;
            // Between two readings of the clock hardly any time passes, but a busy machine may take the processor away.
            assert!(all >= took.wall && all < took.wall + Duration::from_secs(1), "{took:?}, {phases:?}");
        }
        let mut report = Report::new(true);
        times.report("build", &mut report);
        assert!(report.get("build_construct_seconds") > 0.0);
        assert!(report.get("build_merge_of_halves_seconds") > 0.0);
    }
}
