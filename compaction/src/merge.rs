//! The live rows of some sealed segments into one new file, with one graph.
//!
//! 1. Plan: all rows that aren't dead, input by input, numbered without gaps. A key that two inputs hold alive is
//!    `Corruption`: the store never has two live rows of a key.
//! 2. Join ([`Merge::join`]): where most rows come from inputs with inline rows, the graphs become one, and the file is
//!    written along it. That costs a fraction of what follows.
//! 3. Else, or when the caller finds that the joined graph is no good, build ([`Merge::build`]): a new graph is built in
//!    batches, and the file is written along it.
//! 4. Where that cannot be (small segments, few dimensions, inner product), link: the rows are put into a new graph one by one, by
//!    whatever threads the caller lends ([`Merge::link_some`]), straight from the mapped inputs. Then the graph is
//!    flattened and the file written ([`Merge::write`]).
//!
//! All ways hand back each new row's origin, so that the caller can carry deaths over. Every block that is read is
//! checked, so damage is an error and never copied.
//!
//! Nothing is committed here, and the inputs are left as they are.

use nearstone_base::sync::{AtomicU32, Ordering};
use nearstone_base::{Error, ErrorKind, KeyRef, Lsn, Metric, Result, Schema};
use nearstone_segments::graph::{Graph, VectorSource, flatten, level_for};
use nearstone_segments::seal::{
    Batches, Join, LEVEL_SEED, SealTarget, write_batched, write_joined, write_segment,
};
use nearstone_segments::sealed::{inverse_norm, near, prefetch};
use nearstone_segments::topk::Scratch;
use nearstone_segments::{RowSource, SealedSegment, SegmentMeta};
use roaring::RoaringBitmap;

/// One segment to merge.
#[derive(Clone, Debug)]
pub struct MergeInput<'a> {
    /// The segment.
    pub segment: &'a SealedSegment,
    /// Rows to leave out.
    pub dead: RoaringBitmap,
}

/// A finished merge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Merged {
    /// The new file's identity card.
    pub meta: SegmentMeta,
    /// For each of its rows: which input, and the row there.
    pub origin: Vec<(u32, u32)>,
}

/// A merge on its way. Shared by the threads that link.
#[derive(Debug)]
pub struct Merge<'a> {
    rows: Rows<'a>,
    schema: Schema,
    like: Option<&'a SealedSegment>,
    /// Bits of the inverse length of each vector that is or is being linked; cosine only.
    inverse_norms: Vec<AtomicU32>,
    graph: Graph,
    /// The next row that nobody has taken.
    next: AtomicU32,
    linked: AtomicU32,
}

impl<'a> Merge<'a> {
    /// Plans a merge: reads all live keys once.
    ///
    /// # Errors
    /// `InvalidArgument` for an input of other rows (its graph may be shaped otherwise, and its profile be another: the result has
    /// those of `schema`) or more than `u32::MAX - 1` rows; `Corruption` when a key is alive in two inputs, and for damaged keys.
    pub fn new(inputs: Vec<MergeInput<'a>>, schema: Schema) -> Result<Merge<'a>> {
        let total: u64 = inputs.iter().map(|input| u64::from(input.segment.rows())).sum();
        if total >= u64::from(u32::MAX) {
            return Err(Error::invalid(format!("{total} rows: a segment has fewer than {}", u32::MAX)));
        }
        let mut rows = Rows { segments: Vec::with_capacity(inputs.len()), plan: Vec::new() };
        for (number, MergeInput { segment, dead }) in (0..).zip(inputs) {
            if !segment.meta().schema.same_rows(&schema) {
                let path = segment.path().display();
                return Err(Error::invalid(format!(
                    "{path} has other rows than the merged segment is to have"
                )));
            }
            rows.plan.extend((0..segment.rows()).filter(|&row| !dead.contains(row)).map(|row| (number, row)));
            rows.segments.push(segment);
        }
        rows.check_keys()?;
        let graph = Graph::new(schema.links(), schema.beam());
        let norms = if schema.metric() == Metric::Cosine { rows.rows() } else { 0 };
        let inverse_norms = (0..norms).map(|_| AtomicU32::new(0)).collect();
        let (next, linked) = (AtomicU32::new(0), AtomicU32::new(0));
        Ok(Merge { rows, schema, like: None, inverse_norms, graph, next, linked })
    }

    /// Names a segment of the collection, one of the inputs or another, for [`SealTarget::like`]. (Rows that are linked after all, since what was
    /// built in batches was no good, get a space of their own.)
    pub fn like(mut self, segment: Option<&'a SealedSegment>) -> Merge<'a> {
        self.like = segment;
        self
    }

    /// Rows of the result.
    pub fn rows(&self) -> u32 {
        self.rows.rows()
    }

    /// Rows in the graph so far.
    pub fn linked(&self) -> u32 {
        self.linked.load(Ordering::Acquire)
    }

    /// Whether all rows are in the graph. It stays `false` for ever after an error of [`Merge::link_some`].
    pub fn all_linked(&self) -> bool {
        self.linked() == self.rows()
    }

    /// Joins the graphs of the inputs and writes the new segment, with the threads of the target. `None`, and no file,
    /// when the rows are better linked from nothing: see [`Join::plan`]. `cancel` is told how many rows have their links,
    /// and asked about every few hundred rows and every two megabytes; it may wait there, and `true` ends the work.
    ///
    /// # Errors
    /// What reading the inputs and writing the file give, and `Cancelled`. No file stays behind then, except after a failed sync of the
    /// folder.
    pub fn join(&self, target: &SealTarget<'_>, cancel: &dyn Fn(u64) -> bool) -> Result<Option<Merged>> {
        let join = Join::plan(&self.schema, &self.rows.segments, &self.rows.plan, LEVEL_SEED);
        let Some(join) = join else { return Ok(None) };
        let cancel = || cancel(join.done());
        self.check_vectors(&cancel)?;
        let rows = Rows { segments: self.rows.segments.clone(), plan: join.origin().to_vec() };
        let meta = write_joined(&self.target(target), &self.schema, &rows, &join, &cancel)?;
        Ok(meta.map(|meta| Merged { meta, origin: rows.plan }))
    }

    /// Builds a new graph in batches, with the threads of the target, and writes the new segment. `None`, and no file, when
    /// the rows are to be linked one by one: see [`Batches::plan`]. `cancel` is as for [`Merge::join`].
    ///
    /// # Errors
    /// As [`Merge::join`].
    pub fn build(&self, target: &SealTarget<'_>, cancel: &dyn Fn(u64) -> bool) -> Result<Option<Merged>> {
        let Some(batches) = Batches::plan(&self.schema, self.rows(), LEVEL_SEED) else { return Ok(None) };
        let cancel = || cancel(batches.done());
        self.check_vectors(&cancel)?;
        let plan = batches.order().iter().map(|&row| self.rows.plan[row as usize]).collect();
        let rows = Rows { segments: self.rows.segments.clone(), plan };
        let meta = write_batched(&self.target(target), &self.schema, &rows, &batches, &cancel)?;
        Ok(meta.map(|meta| Merged { meta, origin: rows.plan }))
    }

    fn target<'t>(&'t self, target: &SealTarget<'t>) -> SealTarget<'t> {
        SealTarget { like: self.like.or(target.like), ..*target }
    }

    /// Reads every vector that the new file is to vouch for.
    fn check_vectors(&self, cancel: &dyn Fn() -> bool) -> Result<()> {
        for row in 0..self.rows() {
            if row.is_multiple_of(1 << 12) && cancel() {
                return Err(Error::new(ErrorKind::Cancelled, "the merge was cancelled"));
            }
            self.rows.checked_vector(row, &self.schema)?;
        }
        Ok(())
    }

    /// Takes up to `rows_max` rows that nobody has taken and links them; returns how many. 0 while rows are left
    /// means that other threads have them. After an error the merge can only be dropped.
    pub fn link_some(&self, rows_max: u32, scratch: &mut Scratch) -> Result<u32> {
        let rows = self.rows();
        let taken = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
            (next < rows).then(|| next.saturating_add(rows_max).min(rows))
        });
        let Ok(start) = taken else { return Ok(0) };
        let end = start.saturating_add(rows_max).min(rows);
        // Not before: a merge that joins or builds needs none.
        self.graph.ensure_room(rows);
        for row in start..end {
            let vector = self.rows.checked_vector(row, &self.schema)?;
            if let Some(place) = self.inverse_norms.get(row as usize) {
                // Before the row can be met in the graph. Publishing its links orders this store.
                let inverse = inverse_norm(self.schema.metric(), vector);
                place.store(inverse.to_bits(), Ordering::Relaxed);
            }
            let level = level_for(row, LEVEL_SEED, self.schema.links());
            self.graph.insert(row, level, self, scratch)?;
            self.linked.fetch_add(1, Ordering::Release);
        }
        Ok(end - start)
    }

    /// Writes the new segment; `None` (and no file) when no row is alive. `cancel` is asked about every megabyte;
    /// `true` ends the work with `Cancelled`.
    ///
    /// # Errors
    /// `InvalidArgument` before all rows are linked; what reading the inputs and writing the file give. No file
    /// stays behind then.
    pub fn write(&self, target: &SealTarget<'_>, cancel: &dyn Fn() -> bool) -> Result<Option<Merged>> {
        if !self.all_linked() {
            return Err(Error::invalid(format!(
                "{} of {} rows are linked: a merge is written when all are",
                self.linked(),
                self.rows()
            )));
        }
        let (order, graph) = flatten(&self.graph, self.rows(), |_| true, self)?;
        if order.is_empty() {
            return Ok(None);
        }
        let origin: Vec<(u32, u32)> = order.iter().map(|&row| self.rows.plan[row as usize]).collect();
        let rows = Rows { segments: self.rows.segments.clone(), plan: origin };
        let built = Batches::plan(&self.schema, self.rows(), LEVEL_SEED).is_some();
        let target = if built { SealTarget { like: None, ..*target } } else { self.target(target) };
        let meta = write_segment(&target, &self.schema, &rows, &graph, cancel)?;
        Ok(Some(Merged { meta, origin: rows.plan }))
    }
}

/// Rows of several segments in one order.
#[derive(Debug)]
struct Rows<'a> {
    segments: Vec<&'a SealedSegment>,
    /// Which segment, and the row there.
    plan: Vec<(u32, u32)>,
}

impl<'a> Rows<'a> {
    fn at(&self, row: u32) -> (&'a SealedSegment, u32) {
        let (segment, ordinal) = self.plan[row as usize];
        (self.segments[segment as usize], ordinal)
    }

    /// A vector that was once accepted: of anything else, no new file shall vouch for it.
    fn checked_vector(&self, row: u32, schema: &Schema) -> Result<&'a [f32]> {
        let (segment, ordinal) = self.at(row);
        let vector = segment.vector(ordinal)?;
        schema.check_vector(vector).map_err(|error| {
            let expected = format!("a valid vector at row {ordinal}");
            Error::corruption(segment.path(), 0, expected, error.to_string())
        })?;
        Ok(vector)
    }

    /// No key twice. Compares hashes first, so that only 16 bytes per row are held.
    fn check_keys(&self) -> Result<()> {
        let mut hashes = Vec::with_capacity(self.plan.len());
        for row in 0..self.rows() {
            hashes.push((self.key(row)?.hash64(), row));
        }
        hashes.sort_unstable();
        for same in hashes.chunk_by(|a, b| a.0 == b.0).filter(|same| same.len() > 1) {
            for (at, &(_, a)) in same.iter().enumerate() {
                for &(_, b) in &same[at + 1..] {
                    let key = self.key(a)?;
                    if key == self.key(b)? {
                        let ((first, _), (second, ordinal)) = (self.at(a), self.at(b));
                        return Err(Error::corruption(
                            second.path(),
                            0,
                            format!("row {ordinal} to be the only live row of key {key:?}"),
                            format!("another one in {}", first.path().display()),
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

impl RowSource for Rows<'_> {
    fn rows(&self) -> u32 {
        self.plan.len() as u32
    }

    fn key(&self, row: u32) -> Result<KeyRef<'_>> {
        let (segment, ordinal) = self.at(row);
        segment.key(ordinal)
    }

    fn version(&self, row: u32) -> Result<Lsn> {
        let (segment, ordinal) = self.at(row);
        segment.version(ordinal)
    }

    fn vector(&self, row: u32) -> Result<&[f32]> {
        let (segment, ordinal) = self.at(row);
        segment.vector(ordinal)
    }

    fn payload(&self, row: u32) -> Result<&[u8]> {
        let (segment, ordinal) = self.at(row);
        segment.payload(ordinal)
    }
}

impl VectorSource for Merge<'_> {
    fn distance(&self, a: u32, b: u32) -> Result<f32> {
        let (from, to) = (self.rows.vector(a)?, self.rows.vector(b)?);
        Ok(near(self.schema.metric(), from, self.inverse(a), to, self.inverse(b)))
    }

    fn distances(&self, a: u32, others: &[u32], out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        let (from, inverse) = (self.rows.vector(a)?, self.inverse(a));
        for &other in others {
            let to = self.rows.vector(other)?;
            out.push(near(self.schema.metric(), from, inverse, to, self.inverse(other)));
        }
        Ok(())
    }

    fn prefetch(&self, others: &[u32]) {
        others.iter().filter_map(|&other| self.rows.vector(other).ok()).for_each(prefetch);
    }
}

impl Merge<'_> {
    fn inverse(&self, row: u32) -> f32 {
        self.inverse_norms.get(row as usize).map_or(1.0, |bits| f32::from_bits(bits.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearstone_base::random::SplitMix64;
    use nearstone_base::vfs::{MemoryVfs, OpenMode, Residency, Vfs};
    use nearstone_base::{KeyType, SegmentId, Uuid};
    use nearstone_segments::MutableSegment;
    use nearstone_segments::seal::{sampled_recall, seal_frozen};
    use std::collections::BTreeSet;
    use std::path::Path;

    const DIR: &str = "segments";

    fn schema() -> Schema {
        Schema::new(16, Metric::Cosine).keys(KeyType::U64).m(8).ef_construction(64)
    }

    fn target(vfs: &MemoryVfs, id: u64) -> SealTarget<'_> {
        SealTarget {
            vfs,
            dir: Path::new(DIR),
            id: SegmentId(id),
            uuid: Uuid([id as u8; 16]),
            created_secs: 1,
            threads: 2,
            like: None,
        }
    }

    fn folder() -> MemoryVfs {
        let vfs = MemoryVfs::new();
        vfs.create_dir(Path::new(DIR)).unwrap();
        vfs
    }

    fn open(vfs: &MemoryVfs, meta: &SegmentMeta) -> SealedSegment {
        SealedSegment::open(vfs, &target(vfs, meta.id.0).path(), meta, Residency::Heap).unwrap()
    }

    /// A sealed segment with the given keys; vectors and payloads depend on the key alone.
    fn sealed(vfs: &MemoryVfs, id: u64, keys: std::ops::Range<u64>) -> SealedSegment {
        let segment = MutableSegment::new(SegmentId(id), schema());
        for n in keys {
            let key = KeyRef::U64(n);
            let mut rng = SplitMix64::new(n);
            let vector: Vec<f32> = (0..16).map(|_| rng.unit_f64() as f32 - 0.5).collect();
            segment.append(key, key.hash64(), &vector, n.to_string().as_bytes(), 1 + n);
        }
        segment.freeze();
        while segment.link_some(100, &mut Scratch::default()) > 0 {}
        let output = seal_frozen(&segment, u64::MAX, &target(vfs, id), &|| false).unwrap().unwrap();
        open(vfs, &output.meta)
    }

    fn input(segment: &SealedSegment, dead: impl IntoIterator<Item = u32>) -> MergeInput<'_> {
        MergeInput { segment, dead: dead.into_iter().collect() }
    }

    #[test]
    fn a_merge_holds_every_live_row_once_and_knows_where_it_came_from() {
        let vfs = folder();
        let inputs = [sealed(&vfs, 1, 0..700), sealed(&vfs, 2, 700..900), sealed(&vfs, 3, 900..1_500)];
        let dead: [Vec<u32>; 3] = [(0..100).collect(), (0..200).collect(), vec![5, 599]];
        let list = inputs.iter().zip(&dead).map(|(segment, dead)| input(segment, dead.iter().copied()));
        let merge = Merge::new(list.collect(), schema()).unwrap();
        assert_eq!(merge.rows(), 600 + 598);
        assert_eq!(merge.write(&target(&vfs, 4), &|| false).unwrap_err().kind(), ErrorKind::InvalidArgument);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| while merge.link_some(50, &mut Scratch::default()).unwrap() > 0 {});
            }
        });
        assert!(merge.all_linked());
        let merged = merge.write(&target(&vfs, 4), &|| false).unwrap().unwrap();
        let output = open(&vfs, &merged.meta);
        output.verify(&mut |_, _| true).unwrap();
        let mut seen = BTreeSet::new();
        for (new, &(from, old)) in (0..).zip(&merged.origin) {
            let source = &inputs[from as usize];
            assert!(!dead[from as usize].contains(&old) && seen.insert((from, old)));
            assert_eq!(output.key(new).unwrap(), source.key(old).unwrap());
            assert_eq!(output.version(new).unwrap(), source.version(old).unwrap());
            assert_eq!(output.vector(new).unwrap(), source.vector(old).unwrap());
            assert_eq!(output.payload(new).unwrap(), source.payload(old).unwrap());
        }
        assert_eq!(seen.len(), 1_198);
        assert!(sampled_recall(&output, 50, 10, 64).unwrap() >= 0.95);
    }

    #[test]
    fn a_key_alive_in_two_inputs_is_corruption_and_a_dead_one_is_not() {
        let vfs = folder();
        let (old, new) = (sealed(&vfs, 1, 0..50), sealed(&vfs, 2, 49..60));
        let twice = Merge::new(vec![input(&old, []), input(&new, [])], schema()).unwrap_err();
        assert_eq!(twice.kind(), ErrorKind::Corruption);
        assert!(twice.to_string().contains("49"), "{twice}");
        let key = KeyRef::U64(49);
        let replaced = old.find(key, key.hash64()).unwrap().unwrap();
        let merge = Merge::new(vec![input(&old, [replaced]), input(&new, [])], schema()).unwrap();
        assert_eq!(merge.rows(), 60);
    }

    #[test]
    fn without_live_rows_there_is_no_file() {
        let vfs = folder();
        let segment = sealed(&vfs, 1, 0..10);
        let merge = Merge::new(vec![input(&segment, 0..10)], schema()).unwrap();
        assert!(merge.all_linked());
        assert_eq!(merge.write(&target(&vfs, 2), &|| false).unwrap(), None);
        assert_eq!(vfs.list(Path::new(DIR)).unwrap(), ["0000000000000001.seg"]);
    }

    #[test]
    fn damage_in_an_input_ends_the_merge_and_leaves_no_file() {
        let vfs = folder();
        let good = sealed(&vfs, 1, 0..300);
        let path = target(&vfs, 1).path();
        let bytes = vfs.bytes(&path, good.meta().len, Residency::Heap).unwrap();
        for place in (4096..bytes.len() - 4096).step_by(1531) {
            let damaged = folder();
            let mut changed = bytes.to_vec();
            changed[place] ^= 4;
            damaged.open(&path, OpenMode::CreateNew).unwrap().write_at(&changed, 0).unwrap();
            let Ok(segment) = SealedSegment::open(&damaged, &path, good.meta(), Residency::Heap) else {
                continue;
            };
            let merged = Merge::new(vec![input(&segment, [])], schema()).and_then(|merge| {
                while merge.link_some(64, &mut Scratch::default())? > 0 {}
                merge.write(&target(&damaged, 2), &|| false)
            });
            match merged {
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
                    assert_eq!(damaged.list(Path::new(DIR)).unwrap(), ["0000000000000001.seg"]);
                }
                // Damage where a merge reads nothing: the old codes, links and indexes.
                Ok(merged) => {
                    let output = open(&damaged, &merged.unwrap().meta);
                    for row in 0..output.rows() {
                        let key = output.key(row).unwrap();
                        let old = good.find(key, key.hash64()).unwrap().unwrap();
                        assert_eq!(output.vector(row).unwrap(), good.vector(old).unwrap());
                        assert_eq!(output.payload(row).unwrap(), good.payload(old).unwrap());
                        assert_eq!(output.version(row).unwrap(), good.version(old).unwrap());
                    }
                }
            }
        }
    }

    #[test]
    fn inputs_of_other_rows_are_refused_and_those_of_other_graphs_are_not() {
        let vfs = folder();
        let segment = sealed(&vfs, 1, 0..500);
        let other = Schema::new(16, Metric::L2).keys(KeyType::U64).m(8).ef_construction(64);
        let error = Merge::new(vec![input(&segment, [])], other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let wider = schema().m(12).ef_construction(80);
        let merge = Merge::new(vec![input(&segment, [])], wider).unwrap();
        while merge.link_some(100, &mut Scratch::default()).unwrap() > 0 {}
        let output = open(&vfs, &merge.write(&target(&vfs, 2), &|| false).unwrap().unwrap().meta);
        output.verify(&mut |_, _| true).unwrap();
        assert_eq!((output.meta().schema, output.rows()), (wider, 500));
        assert_eq!(output.graph().unwrap().levels[0].stride, 24);
    }
}
