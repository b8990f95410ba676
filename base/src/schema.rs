//! What a collection's rows have in common: dimension, metric, key type, the graph's shape, and what their segments are
//! made for.

use crate::codec::{Reader, Writer};
use crate::codes::Codes;
use crate::error::{Error, Result};
use crate::key::{Key, KeyType};
use crate::metric::Metric;
use crate::profile::Profile;

/// The largest dimension.
pub const DIMENSION_MAX: usize = 65_536;
/// The smallest `m`.
pub const M_MIN: usize = 4;
/// The largest `m`.
pub const M_MAX: usize = 64;

/// Largest `ef_construction`; more only wastes time.
const EF_CONSTRUCTION_MAX: usize = 10_000;
/// Where the codes are, in what [`Schema::encode`] writes.
const CODES_AT: usize = 10;

/// A collection's schema. What concerns its rows is fixed when it is created; the graph's shape can be changed by building
/// the graph anew.
///
/// Defaults: string or integer keys are chosen with [`Schema::keys`] (integers when it is not called), `m` is 16
/// (32 links on the ground layer), `ef_construction` is 200, the profile is [`Profile::Auto`], the codes are [`Codes::Sq8`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Schema {
    dimension: usize,
    metric: Metric,
    keys: KeyType,
    m: usize,
    ef_construction: usize,
    profile: Profile,
    codes: Codes,
}

impl Schema {
    /// Vectors of `dimension` numbers, compared by `metric`, under integer keys.
    pub fn new(dimension: usize, metric: Metric) -> Schema {
        Schema {
            dimension,
            metric,
            keys: KeyType::U64,
            m: 16,
            ef_construction: 200,
            profile: Profile::Auto,
            codes: Codes::Sq8,
        }
    }

    /// Sets the type of the keys.
    #[must_use]
    pub fn keys(mut self, keys: KeyType) -> Schema {
        self.keys = keys;
        self
    }

    /// Sets the number of links a row makes on the upper layers, 4 to 64 (`M` of the HNSW paper); the ground layer
    /// has twice as many.
    #[must_use]
    pub fn m(mut self, m: usize) -> Schema {
        self.m = m;
        self
    }

    /// Sets the beam width while linking a row (`efConstruction` of the HNSW paper), at least `m`.
    #[must_use]
    pub fn ef_construction(mut self, ef: usize) -> Schema {
        self.ef_construction = ef;
        self
    }

    /// Sets what sealed segments are made for.
    ///
    /// ```
    /// use nearstone_base::{Metric, Profile, Schema};
    ///
    /// let lean = Schema::new(768, Metric::Cosine).profile(Profile::Memory);
    /// assert_eq!(lean.chosen_profile(), Profile::Memory);
    /// ```
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Schema {
        self.profile = profile;
        self
    }

    /// Sets the codes of sealed segments.
    ///
    /// ```
    /// use nearstone_base::{Codes, Metric, Profile, Schema};
    ///
    /// let small = Schema::new(768, Metric::Cosine).profile(Profile::Memory).codes(Codes::Sq4);
    /// assert_eq!(small.chosen_codes(), Codes::Sq4);
    /// ```
    #[must_use]
    pub fn codes(mut self, codes: Codes) -> Schema {
        self.codes = codes;
        self
    }

    /// Numbers per vector.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The distance.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// The type of the keys.
    pub fn key_type(&self) -> KeyType {
        self.keys
    }

    /// `M` of the HNSW paper.
    pub fn links(&self) -> usize {
        self.m
    }

    /// `efConstruction` of the HNSW paper.
    pub fn beam(&self) -> usize {
        self.ef_construction
    }

    /// What sealed segments are made for.
    pub fn chosen_profile(&self) -> Profile {
        self.profile
    }

    /// The codes of sealed segments.
    pub fn chosen_codes(&self) -> Codes {
        self.codes
    }

    /// Whether rows of one can lie beside rows of the other: they are alike in all but the profile and the codes.
    pub fn fits(&self, other: &Schema) -> bool {
        self.profile(other.profile).codes(other.codes) == *other
    }

    /// Whether rows of the one are rows of the other: dimension, metric and keys are the same, the graph may be another.
    pub fn same_rows(&self, other: &Schema) -> bool {
        (self.dimension, self.metric, self.keys) == (other.dimension, other.metric, other.keys)
    }

    /// `InvalidArgument` when a number is out of its range.
    pub fn validate(&self) -> Result<()> {
        if !(1..=DIMENSION_MAX).contains(&self.dimension) {
            return Err(Error::invalid(format!(
                "the dimension is {}: it must lie in 1..={DIMENSION_MAX}",
                self.dimension
            )));
        }
        if !(M_MIN..=M_MAX).contains(&self.m) {
            return Err(Error::invalid(format!("m is {}: it must lie in {M_MIN}..={M_MAX}", self.m)));
        }
        if !(self.m..=EF_CONSTRUCTION_MAX).contains(&self.ef_construction) {
            return Err(Error::invalid(format!(
                "ef_construction is {}: it must lie in m ({})..={EF_CONSTRUCTION_MAX}",
                self.ef_construction, self.m
            )));
        }
        Ok(())
    }

    /// `InvalidArgument` when the key's type is not the collection's, or the key itself is bad.
    pub fn check_key(&self, key: &Key) -> Result<()> {
        if key.key_type() != self.keys {
            return Err(Error::invalid(format!(
                "the key {key:?} is a {}: the keys of this collection are {}",
                key.key_type().name(),
                self.keys.name()
            )));
        }
        key.validate()
    }

    /// `InvalidArgument` for a wrong length, NaN, infinity, or a zero vector under cosine.
    pub fn check_vector(&self, vector: &[f32]) -> Result<()> {
        if vector.len() != self.dimension {
            return Err(Error::invalid(format!(
                "the vector has {} numbers: the collection's dimension is {}",
                vector.len(),
                self.dimension
            )));
        }
        let largest = largest(vector);
        if !largest.is_finite() {
            let at = vector.iter().position(|x| !x.is_finite()).unwrap_or(0);
            return Err(Error::invalid(format!(
                "the vector's number {at} is {}: only finite numbers are allowed",
                vector[at]
            )));
        }
        if self.metric == Metric::Cosine {
            if largest == 0.0 {
                return Err(Error::invalid("the vector is zero: it has no direction, which cosine needs"));
            }
            // No vector is shorter than its largest number, nor longer than 256 of them at the largest dimension.
            if (1e-18..=1e15).contains(&largest) {
                return Ok(());
            }
            let norm = square(vector).sqrt();
            if !(1e-18..=1e18).contains(&norm) {
                return Err(Error::invalid(format!(
                    "the vector's length is {norm:e}: under cosine it must lie in 1e-18..=1e18"
                )));
            }
        }
        Ok(())
    }

    /// Writes it: `dimension u32 | metric u8 | keys u8 | m u8 | profile u8 | ef_construction u16 | codes u8 | 0 u8`. (`m` is at
    /// most 64; its number once had two bytes, of which the second was 0, as it is for [`Profile::Auto`]. Nor is
    /// `ef_construction` above 10,000; it had four bytes, of which the last two were 0, as they are for [`Codes::Sq8`].)
    pub fn encode(&self, out: &mut Writer) {
        out.u32(self.dimension as u32);
        out.u8(self.metric.code());
        out.u8(self.keys.code());
        out.u8(self.m as u8);
        out.u8(self.profile.code());
        out.u16(self.ef_construction as u16);
        out.u8(self.codes.code());
        out.u8(0);
    }

    /// The number of codes that this build knows nothing of, where [`Schema::encode`] of a later one wrote what is next.
    pub fn unknown_codes(input: &Reader<'_>) -> Option<u8> {
        let mut ahead = input.clone();
        ahead.raw(CODES_AT)?;
        ahead.u8().filter(|&code| Codes::from_code(code).is_none())
    }

    /// Reads what [`Schema::encode`] wrote and validates it; `None` when it is no valid schema.
    pub fn decode(input: &mut Reader<'_>) -> Option<Schema> {
        let dimension = input.u32()? as usize;
        let metric = Metric::from_code(input.u8()?)?;
        let keys = KeyType::from_code(input.u8()?)?;
        let m = input.u8()?.into();
        let profile = Profile::from_code(input.u8()?)?;
        let ef_construction = input.u16()?.into();
        let codes = Codes::from_code(input.u8()?)?;
        let zero = input.u8()?;
        let schema = Schema { dimension, metric, keys, m, ef_construction, profile, codes };
        (zero == 0 && schema.validate().is_ok()).then_some(schema)
    }
}

/// The largest number without its sign; not finite when one of them is not. Without branches and in sixteen lanes, which the
/// oldest processors' vectors can do as well.
fn largest(vector: &[f32]) -> f32 {
    let (mut most, mut nothing) = ([0f32; 16], [0f32; 16]);
    let (parts, rest) = vector.as_chunks::<16>();
    for part in parts {
        for lane in 0..16 {
            let x = part[lane].abs();
            most[lane] = if x > most[lane] { x } else { most[lane] };
            // 0 for a number, NaN for what is none.
            nothing[lane] += x * 0.0;
        }
    }
    let nothing = nothing.iter().sum::<f32>() + rest.iter().map(|x| x * 0.0).sum::<f32>();
    most.iter().chain(rest).fold(0f32, |a, x| a.max(x.abs())) + nothing
}

/// The squared length in double precision. Eight sums, so that additions do not wait for each other.
fn square(vector: &[f32]) -> f64 {
    let (eights, rest) = vector.as_chunks::<8>();
    let mut sums = [0f64; 8];
    for eight in eights {
        for i in 0..8 {
            sums[i] += f64::from(eight[i]) * f64::from(eight[i]);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_vectors_are_refused_with_the_value_and_the_limit() {
        let schema = Schema::new(3, Metric::Cosine);
        for (vector, word) in [
            (&[1.0, 2.0][..], "2 numbers"),
            (&[1.0, f32::NAN, 0.0], "number 1 is NaN"),
            (&[1.0, 0.0, f32::INFINITY], "number 2 is inf"),
            (&[0.0, -0.0, 0.0], "zero"),
            (&[1e-30, 0.0, 0.0], "1e-18"),
        ] {
            let text = schema.check_vector(vector).unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        }
        assert!(schema.check_vector(&[1.0, 2.0, 3.0]).is_ok());
        assert!(Schema::new(3, Metric::L2).check_vector(&[0.0; 3]).is_ok());
    }

    #[test]
    fn encoding_round_trips_and_nonsense_is_none() {
        let schema = Schema::new(768, Metric::InnerProduct).keys(KeyType::Str).m(24).ef_construction(300);
        let mut out = Writer::new();
        schema.encode(&mut out);
        let bytes = out.into_bytes();
        assert_eq!(Schema::decode(&mut Reader::new(&bytes)), Some(schema));
        assert_eq!(Schema::decode(&mut Reader::new(&bytes[..5])), None);
        assert_eq!(Schema::decode(&mut Reader::new(&[0; 12])), None);
    }

    /// Schemas written before there were profiles read as they did.
    #[test]
    fn the_profile_is_the_byte_that_was_zero_and_unknown_ones_are_refused() {
        let schema = Schema::new(768, Metric::Cosine);
        for profile in Profile::ALL {
            let mut out = Writer::new();
            schema.profile(profile).encode(&mut out);
            let mut bytes = out.into_bytes();
            assert_eq!(bytes, [0, 3, 0, 0, 0, 0, 16, profile.code(), 200, 0, 0, 0]);
            assert_eq!(Schema::decode(&mut Reader::new(&bytes)), Some(schema.profile(profile)));
            bytes[7] = 3;
            assert_eq!(Schema::decode(&mut Reader::new(&bytes)), None);
        }
        assert!(schema.fits(&schema.profile(Profile::Memory).codes(Codes::Sq4)));
        assert!(!schema.fits(&schema.profile(Profile::Memory).m(17)));
    }

    /// Schemas written before there were codes to choose from read as they did.
    #[test]
    fn the_codes_are_the_byte_that_was_zero_and_unknown_ones_are_refused() {
        let schema = Schema::new(768, Metric::Cosine).ef_construction(EF_CONSTRUCTION_MAX);
        for codes in Codes::ALL {
            let mut out = Writer::new();
            schema.codes(codes).encode(&mut out);
            let bytes = out.into_bytes();
            assert_eq!(bytes, [0, 3, 0, 0, 0, 0, 16, 0, 0x10, 0x27, codes.code(), 0]);
            assert_eq!(Schema::decode(&mut Reader::new(&bytes)), Some(schema.codes(codes)));
            for (at, wrong) in [(CODES_AT, Codes::ALL.len() as u8), (CODES_AT, 255), (11, 1)] {
                let mut bytes = bytes.clone();
                bytes[at] = wrong;
                assert_eq!(Schema::decode(&mut Reader::new(&bytes)), None, "{bytes:?}");
                let unknown = (at == CODES_AT).then_some(wrong);
                assert_eq!(Schema::unknown_codes(&Reader::new(&bytes)), unknown);
            }
        }
    }

    #[test]
    fn a_number_that_is_none_is_found_at_every_place() {
        for len in [16, 17, 40, 768] {
            let schema = Schema::new(len, Metric::L2);
            for good in [1.0, f32::MAX, f32::MIN_POSITIVE / 4.0, 0.0, -f32::MAX] {
                let mut vector = vec![good; len];
                assert!(schema.check_vector(&vector).is_ok(), "{len} times {good}");
                for at in (0..len).filter(|at| at % 7 == 0 || len - at < 20) {
                    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                        vector[at] = bad;
                        let error = schema.check_vector(&vector).unwrap_err().to_string();
                        assert!(error.contains(&format!("number {at} is {bad}")), "{error}");
                    }
                    vector[at] = good;
                }
            }
        }
    }

    #[test]
    fn limits_are_checked() {
        assert!(Schema::new(0, Metric::L2).validate().is_err());
        assert!(Schema::new(65_537, Metric::L2).validate().is_err());
        assert!(Schema::new(8, Metric::L2).m(3).validate().is_err());
        assert!(Schema::new(8, Metric::L2).ef_construction(8).validate().is_err());
    }
}
