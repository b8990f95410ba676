//! The one error type: a kind that says what the caller can do, a text that names the thing, the value and the
//! limit, and, for failed writes, whether the write may have happened.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// `Result` with Nearstone's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what the caller can do about it.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorKind {
    /// The call was wrong; calling again with the same arguments fails again.
    InvalidArgument,
    /// No such collection, store or file.
    NotFound,
    /// It is there already, and is something else.
    AlreadyExists,
    /// The folder or file is not Nearstone's.
    NotAStore,
    /// Written by a newer or an incompatible version.
    UnsupportedVersion,
    /// Bytes on disk are not what was written; see [`Error::place`].
    Corruption,
    /// The operating system failed a call.
    Io,
    /// No room left; a write that fails with it was definitely not applied.
    DiskFull,
    /// Someone else holds it, or it took too long; try again later.
    Busy,
    /// The store, the folder or the file system takes no writes.
    ReadOnly,
    /// The caller cancelled it.
    Cancelled,
    /// An earlier failure left the durable state unknown: the store takes no more writes until it is opened again.
    Poisoned,
    /// The store was closed.
    Closed,
}

/// Whether a failed write may have happened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// Definitely not, now or later.
    NotApplied,
    /// It may be there after the next open, whole, or not at all.
    Indeterminate,
}

/// Where bytes are damaged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The byte offset in it.
    pub offset: u64,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

/// An error of any part of Nearstone. Small (one pointer), so that results stay cheap.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    place: Option<Place>,
    outcome: Option<Outcome>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, message: message.into(), place: None, outcome: None, source: None }))
    }

    /// [`ErrorKind::InvalidArgument`].
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::InvalidArgument, message)
    }

    /// [`ErrorKind::Corruption`] at a place.
    pub fn corruption(
        file: impl Into<PathBuf>,
        offset: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        let place = Place { file: file.into(), offset, expected: expected.into(), found: found.into() };
        let message = format!(
            "{} is damaged at byte {}: expected {}, found {}",
            place.file.display(),
            place.offset,
            place.expected,
            place.found
        );
        let mut error = Error::new(ErrorKind::Corruption, message);
        error.0.place = Some(place);
        error
    }

    /// An operating system error while doing `what` (a verb: "read", "sync") to `path`, under the kind it belongs
    /// to: a full disk is [`ErrorKind::DiskFull`], a read-only one [`ErrorKind::ReadOnly`], the rest
    /// [`ErrorKind::Io`] or [`ErrorKind::NotFound`].
    pub fn io(what: &str, path: &Path, error: io::Error) -> Error {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::DiskFull,
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => ErrorKind::ReadOnly,
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
            _ => ErrorKind::Io,
        };
        Error::new(kind, format!("could not {what} {}: {error}", path.display())).with_source(error)
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.0.source = Some(source.into());
        self
    }

    /// States whether the failed write may have happened.
    #[must_use]
    pub fn with_outcome(mut self, outcome: Outcome) -> Error {
        self.0.outcome = Some(outcome);
        self
    }

    /// The same error, its text preceded by `context` and a colon.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Error {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// A copy without the source: for an error that many waiters receive.
    #[must_use]
    pub fn duplicate(&self) -> Error {
        Error(Box::new(Inner {
            kind: self.0.kind,
            message: self.0.message.clone(),
            place: self.0.place.clone(),
            outcome: self.0.outcome,
            source: None,
        }))
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// For [`ErrorKind::Corruption`]: where.
    pub fn place(&self) -> Option<&Place> {
        self.0.place.as_ref()
    }

    /// For a failed write: whether it may have happened. Errors that were found before the log was touched are
    /// [`Outcome::NotApplied`].
    pub fn outcome(&self) -> Outcome {
        self.0.outcome.unwrap_or(Outcome::NotApplied)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.0.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// For seams that speak `io::Error` (redb's backend): keeps the whole error as the source.
impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match error.kind() {
            ErrorKind::DiskFull => io::ErrorKind::StorageFull,
            ErrorKind::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::Corruption => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corruption_names_file_offset_expected_and_found() {
        let error = Error::corruption("a/b.seg", 4096, "checksum 1", "checksum 2");
        let text = error.to_string();
        for word in ["a/b.seg", "4096", "checksum 1", "checksum 2"] {
            assert!(text.contains(word), "{text}");
        }
        assert_eq!(error.place().unwrap().offset, 4096);
    }

    #[test]
    fn operating_system_errors_find_their_kind() {
        let full = Error::io("write", Path::new("x"), io::ErrorKind::StorageFull.into());
        assert_eq!(full.kind(), ErrorKind::DiskFull);
        let error = Error::io("open", Path::new("x"), io::ErrorKind::PermissionDenied.into());
        assert_eq!(error.kind(), ErrorKind::ReadOnly);
    }
}
