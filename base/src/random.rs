//! Randomness as a seam: salts and identities come from a [`Random`], so that a simulated store is the same on
//! every run of one seed.

use crate::id::Uuid;
use crate::sync::Mutex;
use std::fmt::Debug;

/// Where a store gets random bytes.
pub trait Random: Send + Sync + Debug {
    /// Fills `out`.
    fn fill(&self, out: &mut [u8]);

    /// A random identity.
    fn uuid(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        Uuid(bytes)
    }
}

/// The operating system's generator.
#[derive(Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, out: &mut [u8]) {
        if getrandom::fill(out).is_err() {
            // No generator at all (an early boot, a bare sandbox): identities only have to differ, not to be secret.
            let moment =
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let mut rng = SplitMix64::new(moment.as_nanos() as u64 ^ u64::from(std::process::id()) << 32);
            rng.fill_bytes(out);
        }
    }
}

/// A generator that repeats itself from its seed.
#[derive(Debug)]
pub struct SeededRandom {
    state: Mutex<SplitMix64>,
}

impl SeededRandom {
    /// Starts from `seed`.
    pub fn new(seed: u64) -> SeededRandom {
        SeededRandom { state: Mutex::new(SplitMix64::new(seed)) }
    }
}

impl Random for SeededRandom {
    fn fill(&self, out: &mut [u8]) {
        self.state.lock().fill_bytes(out);
    }
}

/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): one addition and
/// a mix per number. Good enough for levels, samples and tests.
#[derive(Clone, Debug)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// Starts from `seed`.
    pub fn new(seed: u64) -> SplitMix64 {
        SplitMix64 { state: seed }
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound` (which must not be zero), by multiplication; the bias is below `bound / 2^64`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Uniform in `[0, 1)`.
    pub fn unit_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Fills `out`.
    pub fn fill_bytes(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let bytes = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}
