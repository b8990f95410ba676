//! What others' work costs a search: latencies of one searcher who asks at fixed moments, a fifth as often as it could, while
//! nothing else goes on, while a writer puts rows as fast as it can, and while segments are compacted at the lowest priority.
//!
//! Moments are fixed beforehand and a latency counts from its moment, so that a search that waits makes those behind it late as
//! well, as it does for whoever asks ("open loop"). The searcher waits for a moment without sleeping: what the system
//! takes to wake it would be most of the latency.

use crate::data::{BATCH, Data};
use crate::report::{Report, Wanted};
use nearstone::{Collection, Metric, Schema, Store};
use nearstone_base::priority::lower_this_thread;
use nearstone_datasets::Percentiles;
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const LIMIT: usize = 10;
const EF: usize = 32;
/// Of the rate at which one searcher can ask.
const SHARE: f64 = 0.2;
/// How long each case is watched, if the work beside lasts so long.
const WINDOW: Duration = Duration::from_secs(10);
/// Of the rows, so many lie sealed before; the writer has the others, and puts the first ones again when it has come to the end.
const SEALED_SHARE: f64 = 0.3;
/// Wanted: of the median when nothing else goes on.
const IDLE_P99: f64 = 1.7;
const BESIDE_P99: f64 = 4.0;

pub(crate) fn run(data: &Data, report: &mut Report) -> Result<(), Box<dyn Error>> {
    report.command("latency");
    let room = tempfile::tempdir()?;
    let store = Store::open(room.path().join("latency.near"))?;
    let collection = store.create_collection("rows", Schema::new(data.dimension, Metric::Cosine))?;
    let sealed = (data.rows() as f64 * SEALED_SHARE) as usize;
    data.put(&store, &collection, 0..sealed)?;
    store.flush()?;
    store.compact()?;
    let asked = Asked::new(data, &collection)?;
    report.figure("latency_searches_per_second_at_most", 1.0 / asked.each.as_secs_f64());

    let idle = asked.watch(|over| wait(over, WINDOW))?;
    show("idle", &idle, report);
    report.figure_wanted("latency_idle_p99_over_p50", idle.p99 / idle.p50, Wanted::AtMost(IDLE_P99));

    let written = AtomicUsize::new(0);
    let beside = asked.watch(|over| {
        let begin = Instant::now();
        let mut next = sealed;
        while begin.elapsed() < WINDOW {
            let rows = (next..next + BATCH).map(|row| row % data.rows());
            data.put(&store, &collection, rows)?;
            written.fetch_add(BATCH, Ordering::Relaxed);
            next += BATCH;
        }
        over.store(true, Ordering::Relaxed);
        Ok(())
    })?;
    show("beside_a_writer", &beside, report);
    report.figure(
        "latency_beside_a_writer_rows_per_second",
        written.load(Ordering::Relaxed) as f64 / WINDOW.as_secs_f64(),
    );
    let ratio = beside.p99 / idle.p50;
    report.figure_wanted("latency_beside_a_writer_p99_over_idle_p50", ratio, Wanted::AtMost(BESIDE_P99));

    store.flush()?;
    let compacted = asked.watch(|over| {
        // The segments that the writer left, as the work behind would.
        lower_this_thread();
        store.compact()?;
        over.store(true, Ordering::Relaxed);
        Ok(())
    })?;
    show("beside_a_compaction", &compacted, report);
    let ratio = compacted.p99 / idle.p50;
    report.figure_wanted("latency_beside_a_compaction_p99_over_idle_p50", ratio, Wanted::AtMost(BESIDE_P99));

    let after = asked.watch(|over| wait(over, WINDOW))?;
    show("afterwards", &after, report);
    store.close()?;
    Ok(())
}

fn wait(over: &AtomicBool, time: Duration) -> nearstone::Result<()> {
    std::thread::sleep(time);
    over.store(true, Ordering::Relaxed);
    Ok(())
}

fn show(case: &str, latencies: &Percentiles, report: &mut Report) {
    report.figure(&format!("latency_{case}_searches"), latencies.count);
    report.figure(&format!("latency_{case}_mean_us"), latencies.mean);
    report.figure(&format!("latency_{case}_p50_us"), latencies.p50);
    report.figure(&format!("latency_{case}_p95_us"), latencies.p95);
    report.figure(&format!("latency_{case}_p99_us"), latencies.p99);
    report.figure(&format!("latency_{case}_max_us"), latencies.max);
}

/// A searcher and how often it asks.
struct Asked<'a> {
    data: &'a Data,
    collection: &'a Collection,
    /// What a search takes when one follows the other.
    each: Duration,
}

impl<'a> Asked<'a> {
    fn new(data: &'a Data, collection: &'a Collection) -> nearstone::Result<Asked<'a>> {
        let mut asked = Asked { data, collection, each: Duration::MAX };
        // The second time everything is near.
        for _ in 0..2 {
            let begin = Instant::now();
            for number in 0..data.queries.len() {
                asked.search(number)?;
            }
            asked.each = begin.elapsed() / data.queries.len() as u32;
        }
        Ok(asked)
    }

    fn search(&self, number: usize) -> nearstone::Result<()> {
        let query = &self.data.queries[number % self.data.queries.len()];
        self.collection.search(query).limit(LIMIT).ef(EF).run().map(drop)
    }

    /// Latencies in microseconds until the work beside, on a thread of its own, says that it is over.
    fn watch(
        &self,
        work: impl FnOnce(&AtomicBool) -> nearstone::Result<()> + Send,
    ) -> Result<Percentiles, Box<dyn Error>> {
        let (over, period) = (AtomicBool::new(false), self.each.div_f64(SHARE));
        let mut latencies = Vec::new();
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let done = work(&over);
                over.store(true, Ordering::Relaxed);
                done
            });
            let mut due = Instant::now();
            for number in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                due += period;
                while Instant::now() < due {
                    std::hint::spin_loop();
                }
                self.search(number)?;
                latencies.push(due.elapsed().as_secs_f64() * 1e6);
            }
            worker.join().expect("the work beside does not panic")
        })?;
        Ok(Percentiles::of(latencies))
    }
}
