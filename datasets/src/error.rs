//! The error of this crate: which file, where in it, what was found there and what is allowed.
//!
//! Files of vectors come from other people's programs, so most errors here are about their bytes. The text always
//! names the file and the place (a byte, a line, a row), because that is what one needs to look for the cause.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// `Result` with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what the caller can do about it.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorKind {
    /// The operating system failed a call (a missing file among them); [`std::error::Error::source`] has it.
    Io,
    /// The bytes are not what the format asks for.
    Malformed,
    /// The file is well-formed, and of a sort that is not read here: another type of number, column order, codec.
    Unsupported,
    /// The call was wrong: a row of another dimension, a file name without a known ending.
    InvalidArgument,
}

/// A place in a file. Lines and rows are counted as people do it: lines from 1, rows from 0 (a row number is an id).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum At {
    /// The file as a whole.
    File,
    /// A byte offset (of the uncompressed bytes when the file is gzip).
    Byte(u64),
    /// A line, from 1.
    Line(u64),
    /// A row, from 0.
    Row(u64),
}

/// An error of a reader, a writer or a generator. One pointer wide.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    file: PathBuf,
    at: At,
    message: String,
    source: Option<io::Error>,
}

impl Error {
    /// An error of `kind` about `file`, at a place in it.
    pub fn new(kind: ErrorKind, file: &Path, at: At, message: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, file: file.to_path_buf(), at, message: message.into(), source: None }))
    }

    pub(crate) fn malformed(file: &Path, at: At, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Malformed, file, at, message)
    }

    pub(crate) fn unsupported(file: &Path, at: At, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Unsupported, file, at, message)
    }

    pub(crate) fn invalid(file: &Path, at: At, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::InvalidArgument, file, at, message)
    }

    /// A failed call. A decoder reports damage in a compressed stream as an I/O error as well: those become
    /// [`ErrorKind::Malformed`], because reading again will not help.
    pub(crate) fn io(file: &Path, at: At, source: io::Error) -> Error {
        let kind = match source.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
                ErrorKind::Malformed
            }
            _ => ErrorKind::Io,
        };
        let message = source.to_string();
        Error(Box::new(Inner { kind, file: file.to_path_buf(), at, message, source: Some(source) }))
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file it is about.
    pub fn file(&self) -> &Path {
        &self.0.file
    }

    /// Where in the file.
    pub fn at(&self) -> At {
        self.0.at
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.file.display())?;
        match self.0.at {
            At::File => {}
            At::Byte(byte) => write!(f, ", byte {byte}")?,
            At::Line(line) => write!(f, ", line {line}")?,
            At::Row(row) => write!(f, ", row {row}")?,
        }
        write!(f, ": {}", self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// A piece of foreign text for an error message: short, and without control characters.
pub(crate) fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut short: String =
        text.chars().take(CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        short.push_str("...");
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_file_place_and_cause() {
        let error = Error::malformed(Path::new("a.fvecs"), At::Row(7), "5 numbers, the first row has 4");
        assert_eq!(error.to_string(), "a.fvecs, row 7: 5 numbers, the first row has 4");
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert_eq!(error.at(), At::Row(7));
    }

    #[test]
    fn an_excerpt_is_short_and_printable() {
        assert_eq!(excerpt("a\nb"), "a b");
        assert_eq!(excerpt(&"x".repeat(1000)).len(), 63);
    }
}
