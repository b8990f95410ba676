//! One row of any format: a vector, perhaps a key, perhaps a payload; and a reader that hands rows out one by one.
//!
//! An import is one loop over [`RecordReader`], whatever the file is. Formats of bare vectors (`.npy`, `.fvecs`,
//! `.bvecs`) give rows without key and payload; files beside them can supply both.

use crate::error::{At, Error, Result};
use crate::keys::KeyReader;
use crate::payloads::PayloadReader;
use crate::vectors::{VectorFile, VectorReader};
use std::fmt;
use std::path::{Path, PathBuf};

/// A user's id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum KeyValue {
    /// A number.
    U64(u64),
    /// A text.
    Str(String),
}

impl KeyValue {
    /// The number, also when it was written as text (`"17"`), which is all a text file of keys can do.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            KeyValue::U64(number) => Some(*number),
            KeyValue::Str(text) => text.parse().ok(),
        }
    }
}

impl fmt::Display for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyValue::U64(number) => write!(f, "{number}"),
            KeyValue::Str(text) => f.write_str(text),
        }
    }
}

/// One row.
#[derive(Clone, PartialEq, Debug)]
pub struct Record {
    /// The key, if the format has one.
    pub key: Option<KeyValue>,
    /// The vector: finite numbers, as many as the file's dimension.
    pub vector: Vec<f32>,
    /// The payload: the text of one JSON object.
    pub payload: Option<String>,
}

/// How many rows are read ahead at most, and how many numbers: blocks stay near 4 MiB at any dimension.
const ROWS_AHEAD: usize = 1024;
const NUMBERS_AHEAD: usize = 1 << 20;

/// Rows of a file of any format, one after another. After an error it ends.
pub struct RecordReader {
    file: PathBuf,
    reader: Box<dyn VectorReader>,
    keys: Option<KeyReader>,
    payloads: Option<PayloadReader>,
    block: std::vec::IntoIter<Record>,
    rows_read: u64,
    done: bool,
}

impl RecordReader {
    /// Opens a file as [`VectorFile::open`] does.
    pub fn open(path: impl AsRef<Path>) -> Result<RecordReader> {
        let path = path.as_ref();
        Ok(RecordReader::new(path, VectorFile::open(path)?))
    }

    /// Reads from `reader`; `file` is the name for errors.
    pub fn new(file: &Path, reader: Box<dyn VectorReader>) -> RecordReader {
        RecordReader {
            file: file.to_path_buf(),
            reader,
            keys: None,
            payloads: None,
            block: Vec::new().into_iter(),
            rows_read: 0,
            done: false,
        }
    }

    /// Takes keys from a file beside, one per row; they replace keys in the rows. Too few or too many are an error.
    pub fn with_keys(mut self, keys: KeyReader) -> RecordReader {
        self.keys = Some(keys);
        self
    }

    /// Takes payloads from a file beside, one per row; they replace payloads in the rows. Too few or too many are
    /// an error.
    pub fn with_payloads(mut self, payloads: PayloadReader) -> RecordReader {
        self.payloads = Some(payloads);
        self
    }

    /// Numbers per vector; 0 when the file has no row.
    pub fn dimension(&self) -> usize {
        self.reader.dimension()
    }

    /// Rows in the whole file, if that can be known beforehand.
    pub fn rows(&self) -> Option<u64> {
        self.reader.rows()
    }

    fn advance(&mut self) -> Result<Option<Record>> {
        if self.block.len() == 0 {
            let rows_max = (NUMBERS_AHEAD / self.reader.dimension().max(1)).clamp(1, ROWS_AHEAD);
            let mut block = Vec::new();
            self.reader.next_records(&mut block, rows_max)?;
            self.block = block.into_iter();
        }
        let record = self.block.next();
        let row = self.rows_read;
        let differs = |file: &Path, what: &str, ends: bool| {
            let text = if ends { "has no more" } else { "goes on after the last row" };
            Error::malformed(
                &self.file,
                At::Row(row),
                format!("{} {text} ({what} and rows must match)", file.display()),
            )
        };
        let key = match &mut self.keys {
            None => None,
            Some(keys) => match (keys.next_key()?, &record) {
                (None, Some(_)) => return Err(differs(keys.file(), "keys", true)),
                (Some(_), None) => return Err(differs(keys.file(), "keys", false)),
                (key, _) => key,
            },
        };
        let payload = match &mut self.payloads {
            None => None,
            Some(payloads) => match (payloads.next_line()?, &record) {
                (None, Some(_)) => return Err(differs(payloads.file(), "payloads", true)),
                (Some(_), None) => return Err(differs(payloads.file(), "payloads", false)),
                (payload, _) => payload,
            },
        };
        Ok(record.map(|mut record| {
            self.rows_read += 1;
            if key.is_some() {
                record.key = key;
            }
            if let Some(payload) = payload {
                record.payload = payload;
            }
            record
        }))
    }
}

impl Iterator for RecordReader {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        if self.done {
            return None;
        }
        let next = self.advance().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::Format;

    fn three_rows() -> Box<dyn VectorReader> {
        let text = b"{\"vector\":[1]}\n{\"vector\":[2]}\n{\"vector\":[3],\"key\":9}\n";
        VectorFile::from_bytes(Format::JsonLines, text).unwrap()
    }

    #[test]
    fn keys_and_payloads_come_from_files_beside() {
        let rows: Vec<Record> = RecordReader::new(Path::new("x"), three_rows())
            .with_keys(KeyReader::from_bytes(b"a\nb\nc\n").unwrap())
            .with_payloads(PayloadReader::from_bytes(b"{}\nnull\n{\"n\":1}\n"))
            .collect::<Result<_>>()
            .unwrap();
        assert_eq!(rows[2].key, Some(KeyValue::Str("c".into())));
        assert_eq!(rows[0].payload.as_deref(), Some("{}"));
        assert_eq!(rows[1].payload, None);
        assert_eq!(rows[2].payload.as_deref(), Some("{\"n\":1}"));
    }

    #[test]
    fn counts_that_differ_are_an_error() {
        for keys in ["a\nb\n", "a\nb\nc\nd\n"] {
            let reader = RecordReader::new(Path::new("x"), three_rows())
                .with_keys(KeyReader::from_bytes(keys.as_bytes()).unwrap());
            let error = reader.collect::<Result<Vec<_>>>().unwrap_err();
            assert!(error.to_string().contains("must match"), "{error}");
        }
    }

    #[test]
    fn a_number_in_text_is_a_number_when_asked() {
        assert_eq!(KeyValue::Str("17".into()).as_u64(), Some(17));
        assert_eq!(KeyValue::Str("a".into()).as_u64(), None);
    }
}
