//! A file of payloads beside a file of bare vectors: JSON Lines, one object (or `null` for none) per line, one line
//! per row, plain or gzip.

use crate::error::{At, Error, Result};
use crate::jsonl::parse_payload;
use crate::source::Source;
use serde::de::IgnoredAny;
use std::path::Path;

/// Payloads, one after another.
pub struct PayloadReader {
    source: Source,
    line: Vec<u8>,
    read: u64,
}

impl PayloadReader {
    /// Opens a file of payloads.
    pub fn open(path: impl AsRef<Path>) -> Result<PayloadReader> {
        Ok(PayloadReader { source: Source::open(path.as_ref())?, line: Vec::new(), read: 0 })
    }

    /// Reads `bytes`, a whole plain file. The door for fuzzers.
    pub fn from_bytes(bytes: &[u8]) -> PayloadReader {
        PayloadReader { source: Source::bytes("bytes", bytes), line: Vec::new(), read: 0 }
    }

    /// The file's name.
    pub fn file(&self) -> &Path {
        self.source.file()
    }

    /// The next line: outside `None` at the end, inside `None` for `null`.
    pub(crate) fn next_line(&mut self) -> Result<Option<Option<String>>> {
        let number = self.read + 1;
        if !self.source.line(&mut self.line, number)? {
            return Ok(None);
        }
        self.read = number;
        let wrong = |why: String| Error::malformed(self.source.file(), At::Line(number), why);
        let text = std::str::from_utf8(&self.line).map_err(|error| wrong(format!("not UTF-8: {error}")))?;
        serde_json::from_str::<IgnoredAny>(text).map_err(|error| wrong(error.to_string()))?;
        parse_payload(text).map(Some).map_err(wrong)
    }
}

impl Iterator for PayloadReader {
    type Item = Result<Option<String>>;

    fn next(&mut self) -> Option<Result<Option<String>>> {
        self.next_line().transpose()
    }
}

/// All payloads of `bytes`, a whole plain file of payloads.
pub fn parse_bytes(bytes: &[u8]) -> Result<Vec<Option<String>>> {
    PayloadReader::from_bytes(bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_object_or_null_per_line() {
        let payloads = parse_bytes(b"{\"a\":1}\nnull\n {} \n").unwrap();
        assert_eq!(payloads, [Some("{\"a\":1}".into()), None, Some("{}".into())]);
    }

    #[test]
    fn damage_is_named() {
        for (text, words) in
            [("{}\n7\n", "line 2: the payload is 7"), ("{\n", "line 1"), ("{}\n\n", "line 2")]
        {
            let error = parse_bytes(text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(words), "{words:?} is not in {error}");
        }
    }
}
