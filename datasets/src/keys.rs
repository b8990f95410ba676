//! A file of keys beside a file of bare vectors: text with one key per line, or `.npy` with one dimension of
//! `<u8`, `<i8`, `<u4` or `<i4`. Either may be gzip.
//!
//! Keys of a text file are [`KeyValue::Str`] even when they look like numbers: whether `17` is a number is decided
//! by the collection ([`KeyValue::as_u64`]). An empty line is an error, because no key is empty.

use crate::error::{At, Error, Result};
use crate::npy::{self, Scalar};
use crate::record::KeyValue;
use crate::source::Source;
use std::path::Path;

/// Keys, one after another.
pub struct KeyReader {
    source: Source,
    array: Option<(Scalar, u64)>,
    line: Vec<u8>,
    read: u64,
}

impl KeyReader {
    /// Opens a file of keys; what it is, its first bytes say.
    pub fn open(path: impl AsRef<Path>) -> Result<KeyReader> {
        KeyReader::new(Source::open(path.as_ref())?)
    }

    /// Reads `bytes`, a whole plain file. The door for fuzzers.
    pub fn from_bytes(bytes: &[u8]) -> Result<KeyReader> {
        KeyReader::new(Source::bytes("bytes", bytes))
    }

    fn new(mut source: Source) -> Result<KeyReader> {
        let mut array = None;
        if source.peek()?.starts_with(b"\x93NUMPY") {
            let header = npy::read_header(&mut source)?;
            let floats = matches!(header.scalar, Scalar::F2 | Scalar::F4 | Scalar::F8);
            let ([rows], false) = (header.shape.as_slice(), floats) else {
                let text = format!("keys are one dimension of <u8, <i8, <u4 or <i4, this is {header:?}");
                return Err(Error::unsupported(source.file(), At::File, text));
            };
            array = Some((header.scalar, *rows));
        }
        Ok(KeyReader { source, array, line: Vec::new(), read: 0 })
    }

    /// The file's name.
    pub fn file(&self) -> &Path {
        self.source.file()
    }

    /// How many keys there are, if that can be known beforehand.
    pub fn count(&self) -> Option<u64> {
        self.array.map(|(_, rows)| rows)
    }

    /// The next key; `None` at the end.
    pub fn next_key(&mut self) -> Result<Option<KeyValue>> {
        let Some((scalar, rows)) = self.array else { return self.next_line() };
        if self.read == rows {
            if !self.source.peek()?.is_empty() {
                let text = "bytes follow the keys that the header counts";
                return Err(Error::malformed(self.source.file(), At::Byte(self.source.position()), text));
            }
            return Ok(None);
        }
        let row = At::Row(self.read);
        let mut word = [0u8; 8];
        let half = scalar.bytes() == 4;
        let width = if half { 4 } else { 8 };
        if let Some(part) = word.get_mut(..width) {
            self.source.exact(part, "the keys that the header counts")?;
        }
        let [a, b, c, d, ..] = word;
        let number = match scalar {
            Scalar::U8 => i128::from(u64::from_le_bytes(word)),
            Scalar::I8 => i128::from(i64::from_le_bytes(word)),
            Scalar::U4 => i128::from(u32::from_le_bytes([a, b, c, d])),
            _ => i128::from(i32::from_le_bytes([a, b, c, d])),
        };
        self.read += 1;
        match u64::try_from(number) {
            Ok(number) => Ok(Some(KeyValue::U64(number))),
            Err(_) => Err(Error::malformed(
                self.source.file(),
                row,
                format!("the key is {number}; keys are from 0"),
            )),
        }
    }

    fn next_line(&mut self) -> Result<Option<KeyValue>> {
        let number = self.read + 1;
        if !self.source.line(&mut self.line, number)? {
            return Ok(None);
        }
        self.read = number;
        let at = At::Line(number);
        match std::str::from_utf8(&self.line) {
            Ok("") => Err(Error::malformed(self.source.file(), at, "the line is empty, and no key is")),
            Ok(key) => Ok(Some(KeyValue::Str(key.to_owned()))),
            Err(error) => {
                Err(Error::malformed(self.source.file(), at, format!("the key is not UTF-8: {error}")))
            }
        }
    }
}

impl Iterator for KeyReader {
    type Item = Result<KeyValue>;

    fn next(&mut self) -> Option<Result<KeyValue>> {
        self.next_key().transpose()
    }
}

/// All keys of `bytes`, a whole plain file of keys.
pub fn parse_bytes(bytes: &[u8]) -> Result<Vec<KeyValue>> {
    KeyReader::from_bytes(bytes)?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::npy::tests::file;

    fn array(descr: &str, count: u64, data: &[u8]) -> Vec<u8> {
        file(1, &format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({count},)}}"), data)
    }

    #[test]
    fn text_and_four_types_of_numbers() {
        let text = parse_bytes("a\r\n7\nä".as_bytes()).unwrap();
        assert_eq!(text, ["a", "7", "ä"].map(|key| KeyValue::Str(key.into())));
        for (descr, data) in [
            ("<u8", [1u64, 5].iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()),
            ("<i8", [1i64, 5].iter().flat_map(|x| x.to_le_bytes()).collect()),
            ("<u4", [1u32, 5].iter().flat_map(|x| x.to_le_bytes()).collect()),
            ("<i4", [1i32, 5].iter().flat_map(|x| x.to_le_bytes()).collect()),
        ] {
            assert_eq!(parse_bytes(&array(descr, 2, &data)).unwrap(), [KeyValue::U64(1), KeyValue::U64(5)]);
        }
    }

    #[test]
    fn damage_is_named() {
        for (bytes, words) in [
            (b"a\n\nb\n".to_vec(), "line 2: the line is empty"),
            (b"a\n\xff\n".to_vec(), "line 2: the key is not UTF-8"),
            (array("<i4", 1, &(-1i32).to_le_bytes()), "row 0: the key is -1"),
            (array("<f4", 1, &[0; 4]), "keys are one dimension"),
            (array("<i4", 9, &[0; 4]), "needs 36 bytes"),
        ] {
            let error = parse_bytes(&bytes).unwrap_err();
            assert!(error.to_string().contains(words), "{words:?} is not in {error}");
        }
    }
}
