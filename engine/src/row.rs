//! What reads return.

use nearstone_base::{Error, ErrorKind, Key, Lsn, Result};
use serde::de::DeserializeOwned;

/// A row: its vector with the original bits, its payload and its version.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    pub(crate) vector: Vec<f32>,
    pub(crate) payload: Vec<u8>,
    pub(crate) version: Lsn,
}

impl Row {
    /// The vector as it was given.
    pub fn vector(&self) -> &[f32] {
        &self.vector
    }

    /// The vector, owned.
    pub fn into_vector(self) -> Vec<f32> {
        self.vector
    }

    /// The payload as a value of type `T`; `()` and `Option` take the absence of one.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T> {
        decode_payload(&self.payload)
    }

    /// The payload as JSON text; empty when there is none.
    pub fn payload_json(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap_or_default()
    }

    /// The lsn of the batch that wrote it.
    pub fn version(&self) -> Lsn {
        self.version
    }
}

/// A row that a search found.
#[derive(Clone, PartialEq, Debug)]
pub struct Hit {
    pub(crate) key: Key,
    pub(crate) distance: f32,
    pub(crate) version: Lsn,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) vector: Option<Vec<f32>>,
}

impl Hit {
    /// Its key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Its distance from the query; smaller is nearer. Computed from the stored numbers in double precision.
    pub fn distance(&self) -> f32 {
        self.distance
    }

    /// The lsn of the batch that wrote it.
    pub fn version(&self) -> Lsn {
        self.version
    }

    /// The payload as a value of type `T`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when the search did not ask for payloads, or the payload is no `T`.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T> {
        match &self.payload {
            Some(bytes) => decode_payload(bytes),
            None => Err(Error::invalid("the search was not asked for payloads: call with_payload()")),
        }
    }

    /// The payload as JSON text, when the search asked for it; empty when the row has none.
    pub fn payload_json(&self) -> Option<&str> {
        self.payload.as_deref().map(|bytes| std::str::from_utf8(bytes).unwrap_or_default())
    }

    /// The vector, when the search asked for it.
    pub fn vector(&self) -> Option<&[f32]> {
        self.vector.as_deref()
    }
}

fn decode_payload<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let text: &[u8] = if bytes.is_empty() { b"null" } else { bytes };
    serde_json::from_slice(text).map_err(|error| {
        Error::new(
            ErrorKind::InvalidArgument,
            format!("the payload is no {}: {error}", std::any::type_name::<T>()),
        )
    })
}
