//! How far apart two vectors are. Smaller is nearer for every metric.

/// The distance of a collection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Metric {
    /// `1 - cos(a, b)`, from 0 to 2. The zero vector has no direction and is refused.
    Cosine,
    /// Squared Euclidean distance, `sum (a_i - b_i)^2`.
    L2,
    /// `-dot(a, b)`: the larger the inner product, the nearer.
    InnerProduct,
}

impl Metric {
    /// The word for it in messages, schemas and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Cosine => "cosine",
            Metric::L2 => "l2",
            Metric::InnerProduct => "ip",
        }
    }

    /// The number that stands for it in files.
    pub fn code(self) -> u8 {
        match self {
            Metric::Cosine => 0,
            Metric::L2 => 1,
            Metric::InnerProduct => 2,
        }
    }

    /// The inverse of [`Metric::code`].
    pub fn from_code(code: u8) -> Option<Metric> {
        match code {
            0 => Some(Metric::Cosine),
            1 => Some(Metric::L2),
            2 => Some(Metric::InnerProduct),
            _ => None,
        }
    }
}
