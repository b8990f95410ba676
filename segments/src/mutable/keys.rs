//! The key index of a mutable segment: from the hash of a key to the newest row under any key of that hash.
//!
//! Rows of one hash form a chain through the number of the row before, which each row keeps. Whoever looks for a key
//! walks the chain and compares keys, so that two keys of one hash are only slower, never confused. The hash is a good
//! one already, and the table uses it as it is.

use nearstone_base::sync::{CHECKED, RwLock};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Locks; a reader waits for a writer of the same shard only.
const SHARDS: usize = if CHECKED { 2 } else { 16 };

/// Newest rows by hash.
#[derive(Default, Debug)]
pub(super) struct KeyIndex {
    shards: [RwLock<HashMap<u64, u32, BuildHasherDefault<Unchanged>>>; SHARDS],
}

impl KeyIndex {
    /// The newest row under a hash.
    pub(super) fn get(&self, hash: u64) -> Option<u32> {
        self.shards[shard(hash)].read().get(&hash).copied()
    }

    /// Makes a row the newest under its hash.
    pub(super) fn insert(&self, hash: u64, ordinal: u32) {
        self.shards[shard(hash)].write().insert(hash, ordinal);
    }

    /// Bytes of memory held beside the value itself, nearly.
    pub(super) fn bytes(&self) -> u64 {
        // Hash, ordinal with padding, and a control byte; a table is at most 7/8 full.
        self.shards.iter().map(|shard| shard.read().capacity() as u64 * 17 * 8 / 7).sum()
    }
}

/// Bits from the middle: the table takes the lowest for its bucket and the highest for its tag.
fn shard(hash: u64) -> usize {
    (hash >> 40) as usize % SHARDS
}

/// Hashes a `u64` to itself.
#[derive(Default)]
struct Unchanged(u64);

impl Hasher for Unchanged {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 are hashed here");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
