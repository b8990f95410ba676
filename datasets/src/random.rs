//! Repeatable numbers for the generators: the same seed gives the same rows on every run (across
//! machines, to within the last bit of their logarithm and tangent).
//!
//! SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) for bits; the polar method (Marsaglia and Bray, 1964) for the normal
//! distribution.

/// A stream of random numbers.
pub(crate) struct Rng {
    state: u64,
    spare: Option<f64>,
}

/// SplitMix64's mix: every bit of the input moves about half of the output's.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng { state: seed, spare: None }
    }

    /// A stream of its own for each (`seed`, `stream`, `number`), so that rows do not depend on their order.
    pub(crate) fn keyed(seed: u64, stream: u64, number: u64) -> Rng {
        Rng::new(mix(mix(mix(seed).wrapping_add(stream)).wrapping_add(number)))
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// Uniform in [0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in 0..`count`, which is not 0.
    pub(crate) fn below(&mut self, count: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(count)) >> 64) as u64
    }

    /// N(0, 1).
    pub(crate) fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        loop {
            let (x, y) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let square = x * x + y * y;
            if square < 1.0 && square > 0.0 {
                let scale = (-2.0 * square.ln() / square).sqrt();
                self.spare = Some(y * scale);
                return x * scale;
            }
        }
    }
}
