//! From a frozen segment to a sealed file.
//!
//! 1. Keep the rows that are not dead at the freeze.
//! 2. Flatten the graph: rows renumbered by level, links around dead rows healed.
//! 3. Write the file in that order ([`write_segment`]); nothing in it says where its rows came from, so the order is
//!    handed back and the caller carries later deaths over through it.
//!
//! The recall gate ([`sampled_recall`]) is asked of the open file, as a reader sees it. A graph that healing did not
//! save (most of its rows were dead) is built anew by [`rebuild_frozen`].

use crate::graph::{FlatGraph, Graph, VectorSource, flatten, level_for};
use crate::meta::SegmentMeta;
use crate::mutable::{FrozenRows, MutableSegment};
use crate::sealed::{Room, SealedSegment};
use crate::segment::{AcceptAll, Answers, Hit, SearchOptions};
use crate::topk::Scratch;
use nearstone_base::{Error, ErrorKind, Lsn, Result, Schema};

pub use crate::sealed::{Batches, Join, SealTarget, write_batched, write_joined, write_segment};

/// A finished seal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealedOutput {
    /// The file's identity card.
    pub meta: SegmentMeta,
    /// For each row of the file, its ordinal in the frozen segment.
    pub order: Vec<u32>,
}

/// Seals the rows of a frozen segment that are not dead at `at`; `None` (and no file) when there is none. All rows
/// must be linked: `InvalidArgument` otherwise. `cancel` is as for [`write_segment`].
pub fn seal_frozen(
    segment: &MutableSegment,
    at: Lsn,
    target: &SealTarget<'_>,
    cancel: &dyn Fn() -> bool,
) -> Result<Option<SealedOutput>> {
    if !segment.all_linked() {
        return Err(Error::invalid(format!(
            "{} of {} rows are linked: a segment is sealed when all are",
            segment.linked(),
            segment.rows()
        )));
    }
    let keep = |row| !segment.deaths().is_dead_at(row, at);
    let (order, graph) = flatten(segment.graph(), segment.rows(), keep, segment)?;
    write(segment, segment.schema(), order, &graph, target, cancel)
}

/// Seals all rows of a frozen segment, linked or not, with a graph that is built in batches; `None`, and no file, when they are better
/// linked one by one (see [`write_batched`]). `batches` are planned for as many rows.
pub fn seal_batched(
    segment: &MutableSegment,
    batches: &Batches,
    target: &SealTarget<'_>,
    cancel: &dyn Fn() -> bool,
) -> Result<Option<SealedOutput>> {
    let rows = FrozenRows { segment, order: batches.order() };
    let meta = write_batched(target, segment.schema(), &rows, batches, cancel)?;
    Ok(meta.map(|meta| SealedOutput { meta, order: batches.order().to_vec() }))
}

/// As [`seal_frozen`], with a graph built from nothing over the rows that are kept, by the calling thread alone, and with
/// another schema of the same rows, if that is wished. The rows need not be linked.
pub fn rebuild_frozen(
    segment: &MutableSegment,
    schema: &Schema,
    at: Lsn,
    target: &SealTarget<'_>,
    cancel: &dyn Fn() -> bool,
) -> Result<Option<SealedOutput>> {
    let kept: Vec<u32> = (0..segment.rows()).filter(|&row| !segment.deaths().is_dead_at(row, at)).collect();
    let source = Renumbered { kept: &kept, vectors: segment };
    let (order, graph) = rebuild(schema, &source, kept.len() as u32, cancel)?;
    let order = order.into_iter().map(|row| kept[row as usize]).collect();
    write(segment, schema, order, &graph, target, cancel)
}

/// A graph built from nothing over rows `0..rows` of `vectors`: for each new row its old number, and the graph in new
/// numbers.
pub fn rebuild<V: VectorSource + ?Sized>(
    schema: &Schema,
    vectors: &V,
    rows: u32,
    cancel: &dyn Fn() -> bool,
) -> Result<(Vec<u32>, FlatGraph)> {
    let graph = Graph::new(schema.links(), schema.beam());
    graph.ensure_room(rows);
    let mut scratch = Scratch::default();
    for row in 0..rows {
        if row.is_multiple_of(256) && cancel() {
            return Err(Error::new(ErrorKind::Cancelled, "rebuilding the graph was cancelled"));
        }
        graph.insert(row, level_for(row, LEVEL_SEED, schema.links()), vectors, &mut scratch)?;
    }
    flatten(&graph, rows, |_| true, vectors)
}

/// The seed of the levels of rebuilt graphs: levels are the same whenever the same rows are merged.
pub const LEVEL_SEED: u64 = 0x6d65_7267_6564;

/// The share of the `limit` nearest rows that a walk with beam `ef` finds, over `samples` of the segment's own rows
/// as queries (evenly spread): 1.0 when it finds all of them, or when there is nothing to ask. Costs one exact search for all
/// samples together, and a walk per sample.
pub fn sampled_recall(segment: &SealedSegment, samples: u32, limit: usize, ef: usize) -> Result<f32> {
    let stride = segment.rows().div_ceil(samples.max(1)).max(1) as usize;
    let mut room = Room::default();
    let vectors =
        (0..segment.rows()).step_by(stride).map(|row| Ok(segment.read_vector(row, &mut room)?.to_vec()));
    let vectors: Vec<Vec<f32>> = vectors.collect::<Result<_>>()?;
    let queries: Vec<&[f32]> = vectors.iter().map(Vec::as_slice).collect();
    let mut scratch = Scratch::default();
    let options = SearchOptions { limit, ef, exact: true, at: Lsn::MAX, accept: &AcceptAll };
    let mut truths = Truths(vec![Vec::new(); queries.len()]);
    segment.search_many(&queries, &options, &mut scratch, &mut truths)?;
    let (mut found, mut wanted) = (0usize, 0usize);
    for (query, truth) in queries.iter().zip(&truths.0) {
        let Some(last) = truth.last() else { continue };
        let walked = segment.search(query, &SearchOptions { exact: false, ..options }, &mut scratch)?;
        // By distance, not by row: rows as far as the last one are as good.
        found += walked.iter().filter(|hit| hit.distance <= last.distance).count().min(truth.len());
        wanted += truth.len();
    }
    Ok(if wanted == 0 { 1.0 } else { found as f32 / wanted as f32 })
}

/// The exact hits of each sample.
struct Truths(Vec<Vec<Hit>>);

impl Answers for Truths {
    fn found(&mut self, number: usize, hits: Vec<Hit>) -> Result<()> {
        self.0[number] = hits;
        Ok(())
    }
}

fn write(
    segment: &MutableSegment,
    schema: &Schema,
    order: Vec<u32>,
    graph: &FlatGraph,
    target: &SealTarget<'_>,
    cancel: &dyn Fn() -> bool,
) -> Result<Option<SealedOutput>> {
    if order.is_empty() {
        return Ok(None);
    }
    let rows = FrozenRows { segment, order: &order };
    let meta = write_segment(target, schema, &rows, graph, cancel)?;
    Ok(Some(SealedOutput { meta, order }))
}

/// Some rows of a source, renumbered without gaps.
struct Renumbered<'a, V: ?Sized> {
    kept: &'a [u32],
    vectors: &'a V,
}

impl<V: VectorSource + ?Sized> VectorSource for Renumbered<'_, V> {
    fn distance(&self, a: u32, b: u32) -> Result<f32> {
        self.vectors.distance(self.kept[a as usize], self.kept[b as usize])
    }

    fn distances(&self, a: u32, others: &[u32], out: &mut Vec<f32>) -> Result<()> {
        let others: Vec<u32> = others.iter().map(|&row| self.kept[row as usize]).collect();
        self.vectors.distances(self.kept[a as usize], &others, out)
    }

    fn prefetch(&self, others: &[u32]) {
        others.iter().for_each(|&row| self.vectors.prefetch(&[self.kept[row as usize]]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearstone_base::random::SplitMix64;
    use nearstone_base::vfs::{MemoryVfs, Residency, Vfs};
    use nearstone_base::{Key, KeyType, Metric, SegmentId, Uuid};
    use std::path::Path;

    const DIR: &str = "segments";

    fn target(vfs: &MemoryVfs, id: u64) -> SealTarget<'_> {
        SealTarget {
            vfs,
            dir: Path::new(DIR),
            id: SegmentId(id),
            uuid: Uuid([id as u8; 16]),
            created_secs: 1,
            threads: 1,
            like: None,
        }
    }

    fn folder() -> MemoryVfs {
        let vfs = MemoryVfs::new();
        vfs.create_dir(Path::new(DIR)).unwrap();
        vfs
    }

    fn frozen(rows: u32) -> MutableSegment {
        let schema = Schema::new(16, Metric::Cosine).keys(KeyType::Str).m(8).ef_construction(64);
        let segment = MutableSegment::new(SegmentId(1), schema);
        let mut rng = SplitMix64::new(3);
        for row in 0..rows {
            let key = Key::from(format!("row {row}"));
            let vector: Vec<f32> = (0..16).map(|_| rng.unit_f64() as f32 - 0.5).collect();
            let payload = if row % 2 == 0 { format!("[{row}]") } else { String::new() };
            segment.append(
                key.as_ref(),
                key.as_ref().hash64(),
                &vector,
                payload.as_bytes(),
                10 + u64::from(row),
            );
        }
        segment.freeze();
        segment
    }

    fn link(segment: &MutableSegment) {
        let mut scratch = Scratch::default();
        while segment.link_some(100, &mut scratch) > 0 {}
    }

    fn check(vfs: &MemoryVfs, output: &SealedOutput, frozen: &MutableSegment) -> SealedSegment {
        let path = target(vfs, output.meta.id.0).path();
        let sealed = SealedSegment::open(vfs, &path, &output.meta, Residency::Heap).unwrap();
        sealed.verify(&mut |_, _| true).unwrap();
        assert_eq!(sealed.rows() as usize, output.order.len());
        for (new, &old) in (0..).zip(&output.order) {
            assert_eq!(sealed.key(new).unwrap(), frozen.key(old));
            assert_eq!(sealed.version(new).unwrap(), frozen.birth(old));
            assert_eq!(sealed.vector(new).unwrap(), frozen.vector(old));
            assert_eq!(sealed.payload(new).unwrap(), frozen.payload(old));
        }
        sealed
    }

    #[test]
    fn a_seal_holds_what_was_alive_at_the_freeze_and_nothing_else() {
        let segment = frozen(1_000);
        let vfs = folder();
        for row in (0..1_000).step_by(3) {
            segment.deaths().set(row, 2_000);
        }
        // Dead, but only after the freeze: it is in the file, and its death is carried over by the caller.
        segment.deaths().set(1, 2_001);
        let early = seal_frozen(&segment, 2_000, &target(&vfs, 1), &|| false).unwrap_err();
        assert_eq!(early.kind(), ErrorKind::InvalidArgument);
        link(&segment);
        let output = seal_frozen(&segment, 2_000, &target(&vfs, 1), &|| false).unwrap().unwrap();
        let mut order = output.order.clone();
        order.sort_unstable();
        assert!(order.iter().copied().eq((0..1_000).filter(|row| row % 3 != 0)));
        let sealed = check(&vfs, &output, &segment);
        assert!(sampled_recall(&sealed, 50, 10, 64).unwrap() >= 0.95);
    }

    #[test]
    fn a_graph_after_heavy_deletion_is_good_when_rebuilt() {
        let segment = frozen(3_000);
        link(&segment);
        for row in (0..3_000).filter(|row| row % 10 != 0) {
            segment.deaths().set(row, 5_000);
        }
        let vfs = folder();
        let output =
            rebuild_frozen(&segment, segment.schema(), 5_000, &target(&vfs, 2), &|| false).unwrap().unwrap();
        assert_eq!(output.order.len(), 300);
        let sealed = check(&vfs, &output, &segment);
        assert!(sampled_recall(&sealed, 50, 10, 32).unwrap() >= 0.98);
        let cancelled =
            rebuild_frozen(&segment, segment.schema(), 5_000, &target(&vfs, 3), &|| true).unwrap_err();
        assert_eq!(cancelled.kind(), ErrorKind::Cancelled);
    }

    fn unversioned(rows: u32, lowest: Lsn) -> MutableSegment {
        let versioned = frozen(rows);
        let segment = MutableSegment::unversioned(SegmentId(1), *versioned.schema());
        for row in 0..rows {
            let key = versioned.key(row);
            segment.append(key, key.hash64(), versioned.vector(row), versioned.payload(row), lowest);
        }
        segment.freeze();
        link(&segment);
        segment
    }

    #[test]
    fn rows_without_versions_get_one_from_whoever_names_the_file() {
        let vfs = folder();
        let segment = unversioned(300, 41);
        let mut meta = seal_frozen(&segment, 41, &target(&vfs, 1), &|| false).unwrap().unwrap().meta;
        let path = target(&vfs, 1).path();
        let open = |meta: &SegmentMeta| SealedSegment::open(&vfs, &path, meta, Residency::Heap);
        let versions = |sealed: &SealedSegment| -> Vec<Lsn> {
            sealed.verify(&mut |_, _| true).unwrap();
            (0..sealed.rows()).map(|row| sealed.version(row).unwrap()).collect()
        };
        let mut sealed = open(&meta).unwrap();
        assert!(sealed.is_unversioned());
        assert_eq!((meta.lsn_min, meta.lsn_max, versions(&sealed)), (41, 41, vec![41; 300]));
        assert_eq!(sealed.set_version(40).unwrap_err().kind(), ErrorKind::InvalidArgument);
        sealed.set_version(50).unwrap();
        assert_eq!(versions(&sealed), [50; 300]);
        meta = sealed.meta().clone();
        assert_eq!((meta.lsn_min, meta.lsn_max), (50, 50));
        assert_eq!(versions(&open(&meta).unwrap()), [50; 300]);
        // One version, and not one below what the file says.
        for (lsn_min, lsn_max) in [(50, 51), (49, 50), (40, 40), (0, 0)] {
            let error = open(&SegmentMeta { lsn_min, lsn_max, ..meta.clone() }).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corruption, "{lsn_min}..={lsn_max}: {error}");
        }
        // Rows that have versions keep them.
        let versioned = frozen(10);
        link(&versioned);
        let output = seal_frozen(&versioned, 99, &target(&vfs, 2), &|| false).unwrap().unwrap();
        let mut sealed = check(&vfs, &output, &versioned);
        assert_eq!(sealed.set_version(1_000).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn nothing_alive_makes_no_file() {
        let segment = frozen(20);
        link(&segment);
        for row in 0..20 {
            segment.deaths().set(row, 100);
        }
        let vfs = folder();
        assert_eq!(seal_frozen(&segment, 100, &target(&vfs, 1), &|| false).unwrap(), None);
        assert_eq!(
            rebuild_frozen(&segment, segment.schema(), 100, &target(&vfs, 1), &|| false).unwrap(),
            None
        );
        assert_eq!(vfs.list(Path::new(DIR)).unwrap(), Vec::<String>::new());
    }
}
