//! The body of one log record: one batch, as the caller gave it (collection, key, vector, payload), with no word of
//! segments or ordinals, so that replaying it means the same whatever was sealed or merged since.
//!
//! ```text
//! batch    = count u32 | operation * count
//! upsert   = 1 u8 | collection u32 | key | dimension u32 | f32 * dimension | payload_len u32 | payload
//! delete   = 2 u8 | collection u32 | key
//! key      = type u8 | (8 bytes, big-endian)  or  (len u16 | UTF-8)
//! ```
//!
//! All integers are little-endian but the integer key, which is in its sortable form. A payload is JSON text, or
//! nothing at all.

use crate::codec::{Reader, Writer};
use crate::id::CollectionId;
use crate::key::{KeyRef, KeyType};
use crate::schema::DIMENSION_MAX;
use crate::{KEY_BYTES_MAX, PAYLOAD_BYTES_MAX};

const UPSERT: u8 = 1;
const DELETE: u8 = 2;

/// One operation of a batch, as read back.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Operation<'a> {
    /// Put a row under a key.
    Upsert {
        /// Of this collection.
        collection: CollectionId,
        /// The key.
        key: KeyRef<'a>,
        /// The vector's numbers as little-endian bytes, four each; the record does not align them.
        vector: &'a [u8],
        /// JSON text or nothing.
        payload: &'a [u8],
    },
    /// Remove the row under a key.
    Delete {
        /// Of this collection.
        collection: CollectionId,
        /// The key.
        key: KeyRef<'a>,
    },
}

/// Builds a batch.
#[derive(Debug)]
pub struct BatchEncoder {
    out: Writer,
    count: u32,
}

impl Default for BatchEncoder {
    fn default() -> BatchEncoder {
        BatchEncoder::new()
    }
}

impl BatchEncoder {
    /// An empty batch.
    pub fn new() -> BatchEncoder {
        let mut out = Writer::new();
        out.u32(0);
        BatchEncoder { out, count: 0 }
    }

    /// Adds an upsert. The caller has checked key, vector and payload.
    pub fn upsert(&mut self, collection: CollectionId, key: KeyRef<'_>, vector: &[f32], payload: &[u8]) {
        self.head(UPSERT, collection, key);
        self.out.u32(vector.len() as u32);
        let bytes = self.out.as_mut_vec();
        bytes.reserve(vector.len() * 4);
        bytes.extend(vector.iter().flat_map(|x| x.to_le_bytes()));
        self.out.bytes(payload);
    }

    /// Adds a delete.
    pub fn delete(&mut self, collection: CollectionId, key: KeyRef<'_>) {
        self.head(DELETE, collection, key);
    }

    fn head(&mut self, kind: u8, collection: CollectionId, key: KeyRef<'_>) {
        self.count += 1;
        self.out.u8(kind);
        self.out.u32(collection.0);
        self.out.u8(key.key_type().code());
        if let KeyRef::Str(s) = key {
            self.out.u16(s.len() as u16);
        }
        key.write_bytes(self.out.as_mut_vec());
    }

    /// Operations so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Encoded bytes so far.
    pub fn byte_len(&self) -> usize {
        self.out.len()
    }

    /// The body.
    pub fn finish(self) -> Vec<u8> {
        let mut bytes = self.out.into_bytes();
        bytes[..4].copy_from_slice(&self.count.to_le_bytes());
        bytes
    }
}

/// Reads a batch: an iterator of its operations, each `None`-checked as a whole by [`decode`].
pub fn decode(body: &[u8]) -> Option<Vec<Operation<'_>>> {
    let mut input = Reader::new(body);
    let count = input.u32()? as usize;
    // The smallest operation takes 9 bytes: an absurd count is refused before anything is allocated for it.
    if count > input.remaining() / 9 {
        return None;
    }
    let mut operations = Vec::with_capacity(count);
    for _ in 0..count {
        operations.push(decode_operation(&mut input)?);
    }
    input.finish()?;
    Some(operations)
}

fn decode_operation<'a>(input: &mut Reader<'a>) -> Option<Operation<'a>> {
    let kind = input.u8()?;
    let collection = CollectionId(input.u32()?);
    let key_type = KeyType::from_code(input.u8()?)?;
    let key_len = match key_type {
        KeyType::U64 => 8,
        KeyType::Str => usize::from(input.u16()?),
    };
    if key_len > KEY_BYTES_MAX {
        return None;
    }
    let key = KeyRef::from_bytes(key_type, input.raw(key_len)?)?;
    match kind {
        UPSERT => {
            let dimension = input.u32()? as usize;
            if dimension == 0 || dimension > DIMENSION_MAX {
                return None;
            }
            let vector = input.raw(dimension * 4)?;
            let payload = input.bytes()?;
            (payload.len() <= PAYLOAD_BYTES_MAX).then_some(Operation::Upsert {
                collection,
                key,
                vector,
                payload,
            })
        }
        DELETE => Some(Operation::Delete { collection, key }),
        _ => None,
    }
}

/// The numbers of a vector from an [`Operation::Upsert`].
pub fn vector_from_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_batch_reads_back_as_it_was_written() {
        let mut batch = BatchEncoder::new();
        batch.upsert(CollectionId(3), KeyRef::Str("intro"), &[1.0, -0.0, f32::MIN], br#"{"a":1}"#);
        batch.delete(CollectionId(9), KeyRef::U64(77));
        let body = batch.finish();
        let operations = decode(&body).unwrap();
        let Operation::Upsert { collection, key, vector, payload } = operations[0] else { panic!() };
        assert_eq!((collection, key, payload), (CollectionId(3), KeyRef::Str("intro"), &br#"{"a":1}"#[..]));
        let bits: Vec<u32> = vector_from_bytes(vector).iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits, [1.0f32.to_bits(), (-0.0f32).to_bits(), f32::MIN.to_bits()]);
        assert_eq!(operations[1], Operation::Delete { collection: CollectionId(9), key: KeyRef::U64(77) });
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&body);
        }

        #[test]
        fn truncation_is_always_noticed(cut in 0usize..60) {
            let mut batch = BatchEncoder::new();
            batch.upsert(CollectionId(1), KeyRef::U64(5), &[0.5; 4], b"{}");
            batch.delete(CollectionId(1), KeyRef::Str("x"));
            let body = batch.finish();
            if cut < body.len() {
                prop_assert!(decode(&body[..cut]).is_none());
            }
        }
    }
}
