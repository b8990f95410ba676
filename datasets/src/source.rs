//! Bytes in: a plain or gzip file, or a slice, read once from front to back.
//!
//! Whether a file is gzip is told by its first two bytes, not by its name. For a plain file the length is known, so
//! a reader can hold a header's claims against it before it believes them; for gzip it is not, and nothing may be
//! allocated on a header's word: readers take what comes in pieces of at most [`PIECE_BYTES`].

use crate::error::{At, Error, Result};
use flate2::bufread::MultiGzDecoder;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

/// How much is read (and allocated) at once, whatever a header says.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// The longest line of a text format: a payload of 1 MiB and 65,536 numbers fit with room to spare.
pub const LINE_BYTES_MAX: usize = 8 << 20;

/// An input, its name for errors, and how far it was read.
pub(crate) struct Source {
    file: PathBuf,
    input: Box<dyn BufRead + Send>,
    length: Option<u64>,
    position: u64,
}

impl Source {
    /// Opens a file, plain or gzip.
    pub(crate) fn open(path: &Path) -> Result<Source> {
        let io = |error| Error::io(path, At::File, error);
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        let length = metadata.is_file().then_some(metadata.len());
        let mut input = BufReader::with_capacity(1 << 16, file);
        let gzip = input.fill_buf().map_err(io)?.starts_with(&[0x1f, 0x8b]);
        let (input, length): (Box<dyn BufRead + Send>, _) = if gzip {
            (Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(input))), None)
        } else {
            (Box::new(input), length)
        };
        Ok(Source { file: path.to_path_buf(), input, length, position: 0 })
    }

    /// Reads a slice as if it were a plain file called `name`.
    pub(crate) fn bytes(name: &str, bytes: &[u8]) -> Source {
        let length = Some(bytes.len() as u64);
        Source {
            file: PathBuf::from(name),
            input: Box::new(Cursor::new(bytes.to_vec())),
            length,
            position: 0,
        }
    }

    /// The name, for errors.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Bytes read so far.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The whole length, unless the file is compressed (or is no file).
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    /// The bytes that come next, as many as are at hand; empty only at the end.
    pub(crate) fn peek(&mut self) -> Result<&[u8]> {
        match self.input.fill_buf() {
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(Error::io(&self.file, At::Byte(self.position), error)),
        }
    }

    /// Fills `out` as far as the input goes; less than all of it means the end.
    pub(crate) fn fill(&mut self, out: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while let Some(rest) = out.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.input.read(rest) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    self.position += count as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(&self.file, At::Byte(self.position), error)),
            }
        }
        Ok(filled)
    }

    /// Fills all of `out`, or says that `what` was cut off.
    pub(crate) fn exact(&mut self, out: &mut [u8], what: &str) -> Result<()> {
        let begin = self.position;
        let filled = self.fill(out)?;
        if filled < out.len() {
            let text = format!("the file ends inside {what}: {} bytes expected, {filled} found", out.len());
            return Err(Error::malformed(&self.file, At::Byte(begin), text));
        }
        Ok(())
    }

    /// Reads one line into `out` without its line end; false at the end of the input. `number` is for errors.
    pub(crate) fn line(&mut self, out: &mut Vec<u8>, number: u64) -> Result<bool> {
        out.clear();
        // One byte more than allowed: a line that fills it is too long.
        let mut limited = (&mut self.input).take(LINE_BYTES_MAX as u64 + 1);
        let count = match limited.read_until(b'\n', out) {
            Ok(count) => count,
            Err(error) => return Err(Error::io(&self.file, At::Line(number), error)),
        };
        self.position += count as u64;
        if out.last() == Some(&b'\n') {
            out.pop();
            if out.last() == Some(&b'\r') {
                out.pop();
            }
        } else if count > LINE_BYTES_MAX {
            let text = format!("the line is longer than {LINE_BYTES_MAX} bytes");
            return Err(Error::malformed(&self.file, At::Line(number), text));
        }
        Ok(count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_their_ends_and_nothing_else() {
        let mut source = Source::bytes("x", b"a\r\n\nb");
        let mut line = Vec::new();
        let mut seen = Vec::new();
        while source.line(&mut line, 1).unwrap() {
            seen.push(String::from_utf8(line.clone()).unwrap());
        }
        assert_eq!(seen, ["a", "", "b"]);
        assert_eq!(source.position(), 5);
    }

    #[test]
    fn a_line_beyond_the_limit_is_refused() {
        let mut source = Source::bytes("x", &vec![b'x'; LINE_BYTES_MAX + 5]);
        let error = source.line(&mut Vec::new(), 1).unwrap_err();
        assert!(error.to_string().contains("longer than 8388608"), "{error}");
        let mut source = Source::bytes("x", &vec![b'x'; LINE_BYTES_MAX]);
        assert!(source.line(&mut Vec::new(), 1).unwrap());
    }

    #[test]
    fn a_cut_input_is_named() {
        let mut source = Source::bytes("x", b"abc");
        let error = source.exact(&mut [0; 4], "a header").unwrap_err();
        assert_eq!(error.to_string(), "x, byte 0: the file ends inside a header: 4 bytes expected, 3 found");
    }
}
