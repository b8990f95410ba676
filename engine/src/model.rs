//! A store's heart by itself, as models move it: the published view, the apply lock, batches that the log's end
//! applies, seals and merges that are swapped in. There is one collection, and neither log nor catalog: whoever calls
//! gives the lsns, and decides what runs at once.

use crate::core::{Core, Live, Pending};
use crate::engine::link_rows;
use crate::layout;
use crate::options::Options;
use crate::replace::{self, Replacement};
use crate::seal;
use crate::view::{Frozen, Lists, SealedHandle, View};
use crate::write::{Applier, Operation, Write};
use nearstone_base::clock::ManualClock;
use nearstone_base::random::SeededRandom;
use nearstone_base::sync::{Arc, AtomicBool};
use nearstone_base::vfs::{Residency, Vfs};
use nearstone_base::{CollectionId, Key, Lsn, M_MIN, Metric, Schema, SegmentId, Uuid};
use nearstone_compaction::merge::{Merge, MergeInput};
use nearstone_segments::topk::Scratch;
use nearstone_wal::Apply;
use std::collections::BTreeMap;
use std::path::PathBuf;

const ROWS: CollectionId = CollectionId(1);

/// A core and the log's end.
pub struct Heart {
    core: Arc<Core>,
    applier: Applier,
}

/// A batch whose keys were looked up.
pub struct Resolved(Write);

/// A segment that is written and not in any list.
pub struct Sealed {
    frozen: Frozen,
    output: Option<(Arc<SealedHandle>, Vec<u32>)>,
}

/// A merged segment that is written and not in any list.
pub struct Merged(Replacement);

/// What a reader sees, for as long as it likes.
pub struct Seen(Arc<View>);

impl Heart {
    /// With an empty collection.
    pub fn new(vfs: Arc<dyn Vfs>) -> Heart {
        let dir = PathBuf::from("/");
        vfs.create_dir(&layout::segments(&dir)).unwrap();
        let (clock, random) = (Arc::new(ManualClock::default()), Arc::new(SeededRandom::new(1)));
        let options = Options { residency: Residency::Heap, ..Options::default() };
        let mut live = Live { lsn: 0, lists: Arc::new(Lists::default()), pending: BTreeMap::new() };
        live.pending.insert(ROWS, Pending::default());
        live.add_collection(
            ROWS,
            "rows",
            Schema::new(1, Metric::L2).m(M_MIN).ef_construction(M_MIN),
            SegmentId(1),
        );
        let keep_files = Arc::new(AtomicBool::new(false));
        let core = Arc::new(Core::new(Uuid([1; 16]), dir, vfs, clock, random, options, live, 2, keep_files));
        Heart { core: core.clone(), applier: Applier { core } }
    }

    /// What a writer does before it hands its batch to the log. Puts the keys of `put`, deletes the others.
    pub fn resolve(&self, put: &[u64], deleted: &[u64]) -> Resolved {
        let view = self.core.view.load_full();
        let put = put.iter().map(|&key| (key, Some((vec![key as f32], Vec::new()))));
        let deleted = deleted.iter().map(|&key| (key, None));
        let operations = put.chain(deleted).map(|(key, row)| {
            let key = Key::from(key);
            let hash = key.as_ref().hash64();
            let mut operation = Operation { collection: ROWS, key, hash, row, resolved: None };
            operation.resolve(&view).unwrap();
            operation
        });
        Resolved(Write { operations: operations.collect(), names: Vec::new() })
    }

    /// What the log's leader does when the batch is durable. Batches come one at a time.
    pub fn apply(&self, lsn: Lsn, batch: Resolved) {
        self.applier.apply(vec![(lsn, batch.0)]);
    }

    /// A batch when nothing else runs.
    pub fn write(&self, lsn: Lsn, put: &[u64], deleted: &[u64]) {
        self.apply(lsn, self.resolve(put, deleted));
    }

    /// A new segment takes the rows that come.
    pub fn freeze(&self) {
        let mut live = self.core.live.lock();
        assert!(live.freeze(&self.core, ROWS));
        live.publish(&self.core);
    }

    /// Links and writes the oldest frozen segment.
    pub fn write_seal(&self) -> Sealed {
        let frozen = self.core.view.load().lists.collections[&ROWS].frozen[0].clone();
        while link_rows(&self.core, &frozen.segment, 1) > 0 {}
        let segment = &frozen.segment;
        let (site, cancel) = (self.core.site(), || false);
        let target = site.target(segment.id(), 1);
        let output = seal::write_sealed(&self.core, segment, segment.schema(), frozen.last, &target, &cancel);
        let output = output.unwrap();
        output.iter().for_each(|(handle, _)| handle.set_named());
        Sealed { output, frozen }
    }

    /// What a seal does after its catalog transaction.
    pub fn swap_seal(&self, sealed: Sealed) {
        let mut live = self.core.live.lock();
        seal::swap(&mut live, ROWS, &sealed.frozen, sealed.output);
        live.publish(&self.core);
    }

    /// Links and writes what all sealed segments hold alive.
    pub fn write_merge(&self) -> Merged {
        let view = self.core.view.load_full();
        let (collection, at) = (&view.lists.collections[&ROWS], view.lsn);
        let inputs = collection.sealed.clone();
        let merge_inputs = inputs
            .iter()
            .map(|handle| MergeInput { segment: &handle.segment, dead: handle.segment.deaths().dead_at(at) });
        let merge = Merge::new(merge_inputs.collect(), collection.schema).unwrap();
        while merge.link_some(1, &mut Scratch::default()).unwrap() > 0 {}
        let site = self.core.site();
        let merged = merge.write(&site.target(self.core.take_segment_id(), 1), &|| false).unwrap();
        let output = merged.map(|merged| (self.core.open_new(&merged.meta).unwrap(), merged.origin));
        let replacement = Replacement::new(inputs, output);
        replacement.set_named();
        Merged(replacement)
    }

    /// What a compaction does after its catalog transaction.
    pub fn swap_merge(&self, merged: Merged) {
        let mut live = self.core.live.lock();
        replace::swap(&mut live, ROWS, &[merged.0]);
        live.publish(&self.core);
    }

    /// What there is to see now.
    pub fn see(&self) -> Seen {
        Seen(self.core.view.load_full())
    }
}

impl Seen {
    /// The last batch that is seen.
    pub fn lsn(&self) -> Lsn {
        self.0.lsn
    }

    /// The keys that are there with the lsns that wrote them: from a pass over all rows, with which the count and
    /// look-ups of keys below `keys` have to agree.
    pub fn rows(&self, keys: u64) -> BTreeMap<u64, Lsn> {
        let (collection, at) = (&self.0.lists.collections[&ROWS], self.0.lsn);
        let mut rows = BTreeMap::new();
        for segment in collection.segments() {
            for row in (0..segment.rows()).filter(|&row| segment.visible(row, at)) {
                let key = segment.key(row).unwrap().to_key().as_u64().unwrap();
                let before = rows.insert(key, segment.version(row).unwrap());
                assert_eq!(before, None, "key {key} has two live rows at lsn {at}");
            }
        }
        assert_eq!(collection.live_rows(at), rows.len() as u64);
        for key in 0..keys {
            let found = collection.find_at(Key::from(key).as_ref(), at).unwrap();
            let version = found.map(|(segment, row)| segment.version(row).unwrap());
            assert_eq!(version.as_ref(), rows.get(&key), "key {key} at lsn {at}");
        }
        rows
    }
}
