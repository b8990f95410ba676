//! Files of vectors: which format a file is in, and one reader for all of them.
//!
//! 1. The format is told by the first bytes where they say it (`.npy`, Parquet), else by the ending of the name,
//!    with `.gz` taken off. `.fvecs` and `.bvecs` have no magic, so their names matter.
//! 2. A reader streams: it hands out blocks of rows and holds one block.
//! 3. Every number handed out is finite, every row has the same dimension, and the dimension is at most
//!    [`DIMENSION_MAX`]. Whatever breaks this is an error that names the row.

use crate::error::{At, Error, Result};
use crate::jsonl::JsonLinesReader;
use crate::npy::NpyReader;
use crate::record::Record;
use crate::source::Source;
use crate::vecs::VecsReader;
use std::fmt;
use std::path::Path;

/// The largest dimension of a vector.
pub const DIMENSION_MAX: usize = 65_536;

/// A format of files of vectors.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    /// NumPy's array file, versions 1 to 3: two dimensions, C order, `<f2`, `<f4` or `<f8`.
    Npy,
    /// Per row: an `i32` dimension, then as many `f32`.
    Fvecs,
    /// Per row: an `i32` dimension, then as many `u8`.
    Bvecs,
    /// One JSON object per line: `vector` (or `embedding`), and perhaps `key` (or `id`) and `payload`. Without
    /// `payload`, all other fields together are the payload.
    JsonLines,
    /// Parquet with a column of lists of floats. Needs the feature `parquet`.
    Parquet,
}

impl Format {
    /// All formats.
    pub const ALL: [Format; 5] =
        [Format::Npy, Format::Fvecs, Format::Bvecs, Format::JsonLines, Format::Parquet];

    /// The format a name stands for, and whether it ends in `.gz`.
    pub fn of_name(path: &Path) -> (Option<Format>, bool) {
        let name =
            path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        let (stem, gzip) = match name.strip_suffix(".gz") {
            Some(stem) => (stem, true),
            None => (name.as_str(), false),
        };
        let format = match stem.rsplit_once('.').map(|(_, ending)| ending) {
            Some("npy") => Some(Format::Npy),
            Some("fvecs") => Some(Format::Fvecs),
            Some("bvecs") => Some(Format::Bvecs),
            Some("jsonl" | "ndjson") => Some(Format::JsonLines),
            Some("parquet" | "pq") => Some(Format::Parquet),
            _ => None,
        };
        (format, gzip)
    }

    fn of_magic(bytes: &[u8]) -> Option<Format> {
        if bytes.starts_with(b"\x93NUMPY") {
            Some(Format::Npy)
        } else if bytes.starts_with(b"PAR1") {
            Some(Format::Parquet)
        } else {
            None
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Npy => "npy",
            Format::Fvecs => "fvecs",
            Format::Bvecs => "bvecs",
            Format::JsonLines => "jsonl",
            Format::Parquet => "parquet",
        })
    }
}

/// Rows of vectors, block by block.
pub trait VectorReader: Send {
    /// Numbers per vector; 0 when the file has no row.
    fn dimension(&self) -> usize;

    /// Rows in the whole file, if that can be known beforehand.
    fn rows(&self) -> Option<u64>;

    /// Replaces `out` by the next vectors, row after row, at most `rows_max`; returns how many rows. 0 is the end
    /// (or `rows_max` of 0).
    fn next_block(&mut self, out: &mut Vec<f32>, rows_max: usize) -> Result<usize>;

    /// Replaces `out` by the next rows with keys and payloads, where the format has them.
    fn next_records(&mut self, out: &mut Vec<Record>, rows_max: usize) -> Result<usize> {
        let mut numbers = Vec::new();
        let rows = self.next_block(&mut numbers, rows_max)?;
        out.clear();
        let vectors = numbers.chunks_exact(self.dimension().max(1));
        out.extend(vectors.map(|vector| Record { key: None, vector: vector.to_vec(), payload: None }));
        debug_assert_eq!(out.len(), rows);
        Ok(rows)
    }
}

/// Opens files of vectors.
pub struct VectorFile;

impl VectorFile {
    /// Opens a file of any format; plain or gzip (Parquet compresses itself and is read in place).
    pub fn open(path: impl AsRef<Path>) -> Result<Box<dyn VectorReader>> {
        VectorFile::open_column(path, None)
    }

    /// The same, with the name of the column that holds the vectors, for Parquet files with several.
    pub fn open_column(path: impl AsRef<Path>, column: Option<&str>) -> Result<Box<dyn VectorReader>> {
        let path = path.as_ref();
        let mut source = Source::open(path)?;
        let format = match (Format::of_magic(source.peek()?), Format::of_name(path).0) {
            (Some(format), _) | (None, Some(format)) => format,
            (None, None) if source.peek()?.first() == Some(&b'{') => Format::JsonLines,
            (None, None) => {
                let text = "the format is not known: a name ends in .npy, .fvecs, .bvecs, .jsonl, .ndjson (each also \
                            with .gz) or .parquet";
                return Err(Error::unsupported(path, At::File, text));
            }
        };
        if format == Format::Parquet {
            if source.length().is_none() {
                let text = "a Parquet file is read from its end, which a gzip stream does not allow: unpack it first";
                return Err(Error::unsupported(path, At::File, text));
            }
            return open_parquet(path, column);
        }
        VectorFile::from_source(format, source)
    }

    /// Reads `bytes`, which are a whole plain file of `format`. The door for fuzzers.
    pub fn from_bytes(format: Format, bytes: &[u8]) -> Result<Box<dyn VectorReader>> {
        match format {
            Format::Parquet => parquet_from_bytes(bytes),
            format => VectorFile::from_source(format, Source::bytes("bytes", bytes)),
        }
    }

    fn from_source(format: Format, source: Source) -> Result<Box<dyn VectorReader>> {
        Ok(match format {
            Format::Npy => Box::new(NpyReader::new(source)?),
            Format::Fvecs => Box::new(VecsReader::new(source, 4)?),
            Format::Bvecs => Box::new(VecsReader::new(source, 1)?),
            Format::JsonLines => Box::new(JsonLinesReader::new(source)?),
            Format::Parquet => {
                return Err(Error::unsupported(source.file(), At::File, "Parquet is not read as a stream"));
            }
        })
    }
}

/// All rows of `bytes`, a whole plain file of `format`. Never panics, and takes memory in proportion to the bytes.
pub fn parse_bytes(format: Format, bytes: &[u8]) -> Result<Vec<Record>> {
    let mut reader = VectorFile::from_bytes(format, bytes)?;
    let (mut all, mut block) = (Vec::new(), Vec::new());
    while reader.next_records(&mut block, 1024)? > 0 {
        all.append(&mut block);
    }
    Ok(all)
}

#[cfg(feature = "parquet")]
fn open_parquet(path: &Path, column: Option<&str>) -> Result<Box<dyn VectorReader>> {
    Ok(Box::new(crate::parquet::ParquetReader::open(path, column)?))
}

#[cfg(feature = "parquet")]
fn parquet_from_bytes(bytes: &[u8]) -> Result<Box<dyn VectorReader>> {
    Ok(Box::new(crate::parquet::ParquetReader::from_bytes(bytes)?))
}

#[cfg(not(feature = "parquet"))]
fn open_parquet(path: &Path, _column: Option<&str>) -> Result<Box<dyn VectorReader>> {
    Err(Error::unsupported(path, At::File, "this program was built without the feature `parquet`"))
}

#[cfg(not(feature = "parquet"))]
fn parquet_from_bytes(_bytes: &[u8]) -> Result<Box<dyn VectorReader>> {
    open_parquet(Path::new("bytes"), None)
}

/// Refuses a dimension outside 1..=[`DIMENSION_MAX`].
pub(crate) fn check_dimension(file: &Path, at: At, dimension: i128) -> Result<usize> {
    match usize::try_from(dimension) {
        Ok(dimension) if (1..=DIMENSION_MAX).contains(&dimension) => Ok(dimension),
        _ => {
            let text = format!("the dimension is {dimension}; 1 to {DIMENSION_MAX} are possible");
            Err(Error::malformed(file, at, text))
        }
    }
}

/// Refuses NaN and infinity in rows of which the first is `row`.
pub(crate) fn check_finite(file: &Path, row: u64, dimension: usize, numbers: &[f32]) -> Result<()> {
    match numbers.iter().position(|number| !number.is_finite()) {
        None => Ok(()),
        Some(index) => {
            let (skipped, component) = (index / dimension.max(1), index % dimension.max(1));
            let number = numbers.get(index).copied().unwrap_or(f32::NAN);
            let text = format!("component {component} is {number}, not a finite f32");
            Err(Error::malformed(file, At::Row(row + skipped as u64), text))
        }
    }
}
