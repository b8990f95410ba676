//! The key filter: "surely not here" for most keys that a segment does not hold, in one cache line.
//!
//! A split-block Bloom filter (Putze, Sanders, Singler, "Cache-, hash- and space-efficient Bloom filters", 2007).
//! A hash picks one block of eight words by its upper half and one bit in
//! each word by its lower half. At ten bits per key about one foreign key in a hundred passes.

use nearstone_base::faults::seeded;
use zerocopy::FromBytes;

/// One block.
pub(crate) type FilterBlock = [u32; 8];

const BITS_PER_KEY: u64 = 10;
const BLOCK_BITS: u64 = 256;

/// Odd multipliers, one per word: arbitrary, and part of the format.
const SALTS: FilterBlock =
    [0xa27d_9f71, 0x3630_4107, 0xac34_89c1, 0xca7e_9005, 0xb768_616d, 0x0175_d233, 0x64c7_0347, 0x6862_7c89];

fn block_of(hash: u64, blocks: u64) -> u64 {
    ((hash >> 32) * blocks) >> 32
}

fn mask_of(hash: u64) -> FilterBlock {
    SALTS.map(|salt| 1 << ((hash as u32).wrapping_mul(salt) >> 27))
}

/// How many blocks a filter over `keys` keys has.
pub(crate) fn blocks_for(keys: u32) -> usize {
    (u64::from(keys) * BITS_PER_KEY).div_ceil(BLOCK_BITS).max(1) as usize
}

/// Builds a filter over the hashes.
pub(crate) fn build(hashes: &[u64]) -> Vec<FilterBlock> {
    let mut blocks = vec![[0; 8]; blocks_for(hashes.len() as u32)];
    let count = blocks.len() as u64;
    for &hash in hashes {
        if seeded("key-filter-forgets") && hash % 4 == 0 {
            continue;
        }
        let block = &mut blocks[block_of(hash, count) as usize];
        for (word, bit) in block.iter_mut().zip(mask_of(hash)) {
            *word |= bit;
        }
    }
    blocks
}

/// Which of `blocks` blocks (32 bytes each) decides about a hash.
pub(crate) fn block_index(hash: u64, blocks: u64) -> u64 {
    block_of(hash, blocks)
}

/// Whether the block's bytes let the hash pass. Bytes of a wrong length let everything pass.
pub(crate) fn passes(block: &[u8], hash: u64) -> bool {
    let Ok(block) = FilterBlock::read_from_bytes(block) else { return true };
    block.iter().zip(mask_of(hash)).all(|(word, bit)| word & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearstone_base::KeyRef;
    use zerocopy::IntoBytes;

    #[test]
    fn every_key_passes_and_few_others_do() {
        let hashes: Vec<u64> = (0..10_000).map(|n| KeyRef::U64(n).hash64()).collect();
        let filter = build(&hashes);
        let asks = |hash: u64| {
            let index = block_index(hash, filter.len() as u64) as usize;
            passes(filter[index].as_bytes(), hash)
        };
        assert!(hashes.iter().all(|&hash| asks(hash)));
        let others = (10_000..110_000).filter(|&n| asks(KeyRef::U64(n).hash64())).count();
        assert!(others < 2_500, "{others} of 100,000 foreign keys pass");
    }
}
