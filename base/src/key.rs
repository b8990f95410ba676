//! Keys: the user's own names for rows. A collection's keys are all `u64` or all UTF-8 strings.
//!
//! The byte form of a key sorts as the key does: a `u64` is eight big-endian bytes, a string its UTF-8 bytes. The
//! byte form says nothing of the type; the collection's schema does.

use crate::checksum;
use crate::error::{Error, Result};
use std::fmt;

/// The longest string key, in bytes.
pub const KEY_BYTES_MAX: usize = 512;

/// The type of all keys of one collection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KeyType {
    /// Unsigned 64-bit integers.
    U64,
    /// UTF-8 strings of 1 to 512 bytes.
    Str,
}

/// An owned key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// An integer key.
    U64(u64),
    /// A string key.
    Str(Box<str>),
}

/// A borrowed key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyRef<'a> {
    /// An integer key.
    U64(u64),
    /// A string key.
    Str(&'a str),
}

impl KeyType {
    /// The word for it in messages, schemas and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            KeyType::U64 => "u64",
            KeyType::Str => "str",
        }
    }

    /// The number that stands for it in files.
    pub fn code(self) -> u8 {
        match self {
            KeyType::U64 => 0,
            KeyType::Str => 1,
        }
    }

    /// The inverse of [`KeyType::code`].
    pub fn from_code(code: u8) -> Option<KeyType> {
        match code {
            0 => Some(KeyType::U64),
            1 => Some(KeyType::Str),
            _ => None,
        }
    }
}

impl Key {
    /// Borrows it.
    pub fn as_ref(&self) -> KeyRef<'_> {
        match self {
            Key::U64(n) => KeyRef::U64(*n),
            Key::Str(s) => KeyRef::Str(s),
        }
    }

    /// The integer, if it is one.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Key::U64(n) => Some(*n),
            Key::Str(_) => None,
        }
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Key::U64(_) => None,
            Key::Str(s) => Some(s),
        }
    }

    /// Its type.
    pub fn key_type(&self) -> KeyType {
        self.as_ref().key_type()
    }

    /// `InvalidArgument` when a string is empty or longer than [`KEY_BYTES_MAX`].
    pub fn validate(&self) -> Result<()> {
        self.as_ref().validate()
    }
}

impl<'a> KeyRef<'a> {
    /// Its type.
    pub fn key_type(self) -> KeyType {
        match self {
            KeyRef::U64(_) => KeyType::U64,
            KeyRef::Str(_) => KeyType::Str,
        }
    }

    /// An owned copy.
    pub fn to_key(self) -> Key {
        match self {
            KeyRef::U64(n) => Key::U64(n),
            KeyRef::Str(s) => Key::Str(s.into()),
        }
    }

    /// Appends the sortable byte form.
    pub fn write_bytes(self, out: &mut Vec<u8>) {
        match self {
            KeyRef::U64(n) => out.extend_from_slice(&n.to_be_bytes()),
            KeyRef::Str(s) => out.extend_from_slice(s.as_bytes()),
        }
    }

    /// Length of the byte form.
    pub fn byte_len(self) -> usize {
        match self {
            KeyRef::U64(_) => 8,
            KeyRef::Str(s) => s.len(),
        }
    }

    /// Reads the byte form back; `None` when the bytes are no key of that type.
    pub fn from_bytes(key_type: KeyType, bytes: &'a [u8]) -> Option<KeyRef<'a>> {
        match key_type {
            KeyType::U64 => Some(KeyRef::U64(u64::from_be_bytes(bytes.try_into().ok()?))),
            KeyType::Str if (1..=KEY_BYTES_MAX).contains(&bytes.len()) => {
                std::str::from_utf8(bytes).ok().map(KeyRef::Str)
            }
            KeyType::Str => None,
        }
    }

    /// A 64-bit hash of the byte form; part of the file format (XXH3, seed 0).
    pub fn hash64(self) -> u64 {
        match self {
            KeyRef::U64(n) => checksum::hash64(&n.to_be_bytes()),
            KeyRef::Str(s) => checksum::hash64(s.as_bytes()),
        }
    }

    /// `InvalidArgument` when a string is empty or longer than [`KEY_BYTES_MAX`].
    pub fn validate(self) -> Result<()> {
        match self {
            KeyRef::Str("") => Err(Error::invalid("the key is empty: string keys have 1 to 512 bytes")),
            KeyRef::Str(s) if s.len() > KEY_BYTES_MAX => Err(Error::invalid(format!(
                "the key {:?}... has {} bytes: the limit is {KEY_BYTES_MAX}",
                s.chars().take(24).collect::<String>(),
                s.len()
            ))),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for KeyRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyRef::U64(n) => write!(f, "{n}"),
            KeyRef::Str(s) => write!(f, "{s}"),
        }
    }
}

impl fmt::Debug for KeyRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyRef::U64(n) => write!(f, "{n}"),
            KeyRef::Str(s) => write!(f, "{s:?}"),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.as_ref(), f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.as_ref(), f)
    }
}

impl From<u64> for Key {
    fn from(n: u64) -> Key {
        Key::U64(n)
    }
}

impl From<u32> for Key {
    fn from(n: u32) -> Key {
        Key::U64(n.into())
    }
}

impl From<&str> for Key {
    fn from(s: &str) -> Key {
        Key::Str(s.into())
    }
}

impl From<String> for Key {
    fn from(s: String) -> Key {
        Key::Str(s.into())
    }
}

impl From<&String> for Key {
    fn from(s: &String) -> Key {
        Key::Str(s.as_str().into())
    }
}

impl From<KeyRef<'_>> for Key {
    fn from(key: KeyRef<'_>) -> Key {
        key.to_key()
    }
}

impl From<&Key> for Key {
    fn from(key: &Key) -> Key {
        key.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_form_sorts_as_the_key_does() {
        let mut keys: Vec<u64> = vec![0, 1, 255, 256, 65_535, 1 << 40, u64::MAX];
        let bytes = |n: u64| {
            let mut out = Vec::new();
            KeyRef::U64(n).write_bytes(&mut out);
            out
        };
        keys.sort_by_key(|&n| bytes(n));
        assert!(keys.is_sorted());
        assert_eq!(KeyRef::from_bytes(KeyType::U64, &bytes(77)), Some(KeyRef::U64(77)));
    }

    #[test]
    fn empty_and_overlong_keys_are_refused_with_the_limit() {
        assert!(Key::from("").validate().is_err());
        assert!(Key::from("x".repeat(512)).validate().is_ok());
        let error = Key::from("x".repeat(513)).validate().unwrap_err();
        assert!(error.to_string().contains("513") && error.to_string().contains("512"));
    }

    #[test]
    fn bytes_that_are_no_key_give_none() {
        assert_eq!(KeyRef::from_bytes(KeyType::U64, &[1, 2, 3]), None);
        assert_eq!(KeyRef::from_bytes(KeyType::Str, &[0xff, 0xfe]), None);
        assert_eq!(KeyRef::from_bytes(KeyType::Str, &[]), None);
    }
}
