//! Distances in single precision between stored vectors: what building a graph over them needs.

use nearstone_base::Metric;
use nearstone_kernels::{kernels, prefetch_read};
use zerocopy::IntoBytes;

/// The inverse of a vector's length under cosine, 1 under the other metrics.
pub fn inverse_norm(metric: Metric, vector: &[f32]) -> f32 {
    if metric != Metric::Cosine {
        return 1.0;
    }
    let square: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    square.sqrt().recip() as f32
}

/// The distance between two vectors of one length with their [`inverse_norm`]s; relative error about 1e-6 per
/// thousand dimensions. Panics when the lengths differ.
pub fn near(metric: Metric, a: &[f32], inverse_a: f32, b: &[f32], inverse_b: f32) -> f32 {
    match metric {
        Metric::Cosine => 1.0 - kernels().dot(a, b) * inverse_a * inverse_b,
        Metric::L2 => kernels().l2(a, b),
        Metric::InnerProduct => -kernels().dot(a, b),
    }
}

/// Asks for a vector to be brought near, some distances before it is needed.
pub fn prefetch(vector: &[f32]) {
    prefetch_read(vector.as_bytes());
}
