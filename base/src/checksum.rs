//! Checksums against accidents (CRC-32, seeded) and hashes for tables and digests (XXH3). Neither authenticates:
//! a file made by someone hostile passes them, so readers stay safe by structure alone.

/// CRC-32 (IEEE) of `bytes`, beginning from `seed`: the same bytes at another place, in another file or in another
/// store have another checksum.
pub fn crc32(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// XXH3, 64 bits, seed 0.
pub fn hash64(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// XXH3, 128 bits, seed 0.
pub fn hash128(bytes: &[u8]) -> u128 {
    xxhash_rust::xxh3::xxh3_128(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_changes_the_checksum_of_everything() {
        assert_ne!(crc32(1, b"abc"), crc32(2, b"abc"));
        assert_ne!(crc32(1, &[0; 8]), crc32(2, &[0; 8]));
        // The check value of CRC-32/ISO-HDLC.
        assert_eq!(crc32(0, b"123456789"), 0xcbf4_3926);
    }
}
