//! NumPy's array file.
//!
//! ```text
//! "\x93NUMPY", major, minor                  8 bytes; major 1, 2 or 3
//! length of the header                       u16 (version 1) or u32 (2, 3), little-endian
//! header                                     a Python dict: {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
//! the numbers                                C order: row after row
//! ```
//!
//! The header is text written by another program. It is read by a parser of exactly the literals that can stand
//! there, its shape is multiplied with care and held against the file's length, and only then believed.

use crate::error::{At, Error, Result, excerpt};
use crate::source::{PIECE_BYTES, Source};
use crate::vectors::{VectorReader, check_dimension, check_finite};
use half::f16;
use std::path::Path;

/// The longest header taken; NumPy's own limit is 10,000 characters.
const HEADER_BYTES_MAX: u64 = 65_536;

/// The type of the numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scalar {
    F2,
    F4,
    F8,
    I4,
    I8,
    U4,
    U8,
}

impl Scalar {
    fn of(descr: &str) -> Option<Scalar> {
        Some(match descr {
            "<f2" => Scalar::F2,
            "<f4" => Scalar::F4,
            "<f8" => Scalar::F8,
            "<i4" => Scalar::I4,
            "<i8" => Scalar::I8,
            "<u4" => Scalar::U4,
            "<u8" => Scalar::U8,
            _ => return None,
        })
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Scalar::F2 => 2,
            Scalar::F4 | Scalar::I4 | Scalar::U4 => 4,
            Scalar::F8 | Scalar::I8 | Scalar::U8 => 8,
        }
    }
}

/// A header that was held against the file's length.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) scalar: Scalar,
    pub(crate) shape: Vec<u64>,
}

/// Reads the magic and the header; the numbers are next in `source`.
pub(crate) fn read_header(source: &mut Source) -> Result<Header> {
    let mut magic = [0u8; 8];
    source.exact(&mut magic, "the magic of an npy file")?;
    let [.., major, minor] = magic;
    if !magic.starts_with(b"\x93NUMPY") {
        return Err(Error::malformed(source.file(), At::Byte(0), "not an npy file: the magic is missing"));
    }
    let length = match major {
        1 => {
            let mut bytes = [0; 2];
            source.exact(&mut bytes, "the length of the header")?;
            u64::from(u16::from_le_bytes(bytes))
        }
        2 | 3 => {
            let mut bytes = [0; 4];
            source.exact(&mut bytes, "the length of the header")?;
            u64::from(u32::from_le_bytes(bytes))
        }
        _ => {
            let text = format!("npy version {major}.{minor}; versions 1 to 3 are read");
            return Err(Error::unsupported(source.file(), At::Byte(6), text));
        }
    };
    let left = source.length().map(|all| all.saturating_sub(source.position()));
    if length > HEADER_BYTES_MAX || left.is_some_and(|left| length > left) {
        let room = left.unwrap_or(HEADER_BYTES_MAX).min(HEADER_BYTES_MAX);
        let text = format!("the header claims {length} bytes; at most {room} are possible");
        return Err(Error::malformed(source.file(), At::Byte(8), text));
    }
    let begin = source.position();
    let mut header = vec![0; length as usize];
    source.exact(&mut header, "the header")?;
    let dict = Dict::parse(&header).map_err(|why| {
        Error::malformed(source.file(), At::Byte(begin), format!("the header is damaged: {why}"))
    })?;
    let Some(scalar) = Scalar::of(&dict.descr) else {
        let text = format!(
            "numbers of type {:?}; <f2, <f4 and <f8 are read as vectors (convert with .astype('<f4'))",
            excerpt(&dict.descr)
        );
        return Err(Error::unsupported(source.file(), At::Byte(begin), text));
    };
    if dict.fortran_order && dict.shape.len() > 1 {
        let text =
            "the array is in Fortran order (column after column): save it with numpy.ascontiguousarray";
        return Err(Error::unsupported(source.file(), At::Byte(begin), text));
    }
    let bytes = dict.shape.iter().try_fold(scalar.bytes() as u64, |bytes, side| bytes.checked_mul(*side));
    let found = source.length().map(|all| all.saturating_sub(source.position()));
    match (bytes, found) {
        (Some(bytes), Some(found)) if bytes == found => {}
        (Some(_), None) => {}
        (bytes, found) => {
            let (bytes, found) =
                (bytes.map_or("too many".into(), |b| b.to_string()), found.unwrap_or_default());
            let text =
                format!("the shape {:?} needs {bytes} bytes of numbers, the file has {found}", dict.shape);
            return Err(Error::malformed(source.file(), At::Byte(source.position()), text));
        }
    }
    Ok(Header { scalar, shape: dict.shape })
}

/// The header of an array of little-endian f32, padded as NumPy does it: numbers begin at a multiple of 64. Always
/// 128 bytes, so that a writer can come back and fill in the rows.
pub(crate) fn header_f32(rows: u64, dimension: usize) -> [u8; 128] {
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dimension}), }}");
    let mut bytes = [b' '; 128];
    bytes[..8].copy_from_slice(b"\x93NUMPY\x01\x00");
    bytes[8..10].copy_from_slice(&118u16.to_le_bytes());
    bytes[10..10 + text.len()].copy_from_slice(text.as_bytes());
    bytes[127] = b'\n';
    bytes
}

/// A whole array of 32-bit integers in two dimensions: the numbers and how many stand in a row.
pub(crate) fn read_i32_matrix(path: &Path) -> Result<(Vec<i32>, usize)> {
    let mut source = Source::open(path)?;
    let header = read_header(&mut source)?;
    let (Scalar::I4, [rows, columns]) = (header.scalar, header.shape.as_slice()) else {
        let text = format!("an array of <i4 in two dimensions is expected, this is {header:?}");
        return Err(Error::unsupported(path, At::File, text));
    };
    let columns = check_dimension(path, At::File, i128::from(*columns))?;
    let (mut out, mut piece) = (Vec::new(), Vec::new());
    let mut left = rows.saturating_mul(columns as u64);
    while left > 0 {
        let count = left.min((PIECE_BYTES / 4) as u64);
        piece.resize(count as usize * 4, 0);
        source.exact(&mut piece, "the numbers")?;
        out.extend(piece.as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes)));
        left -= count;
    }
    Ok((out, columns))
}

/// A stream of rows.
pub(crate) struct NpyReader {
    source: Source,
    scalar: Scalar,
    rows: u64,
    rows_read: u64,
    dimension: usize,
    piece: Vec<u8>,
}

impl NpyReader {
    pub(crate) fn new(mut source: Source) -> Result<NpyReader> {
        let header = read_header(&mut source)?;
        let (rows, columns) = match header.shape.as_slice() {
            [rows, columns] => (*rows, *columns),
            shape => {
                let text = format!(
                    "the array has {} dimensions, a file of vectors has two: rows and numbers per row (a single vector \
                     is reshape(1, -1))",
                    shape.len()
                );
                return Err(Error::unsupported(source.file(), At::File, text));
            }
        };
        if !matches!(header.scalar, Scalar::F2 | Scalar::F4 | Scalar::F8) {
            let text = format!("numbers of type {:?}; vectors are <f2, <f4 or <f8", header.scalar);
            return Err(Error::unsupported(source.file(), At::File, text));
        }
        let dimension = check_dimension(source.file(), At::File, i128::from(columns))?;
        Ok(NpyReader { source, scalar: header.scalar, rows, rows_read: 0, dimension, piece: Vec::new() })
    }
}

impl VectorReader for NpyReader {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn rows(&self) -> Option<u64> {
        Some(self.rows)
    }

    fn next_block(&mut self, out: &mut Vec<f32>, rows_max: usize) -> Result<usize> {
        out.clear();
        let row_bytes = self.dimension * self.scalar.bytes();
        let rows_piece = (PIECE_BYTES / row_bytes).max(1) as u64;
        let mut rows = 0;
        while rows < rows_max && self.rows_read < self.rows {
            let count = (self.rows - self.rows_read).min((rows_max - rows) as u64).min(rows_piece) as usize;
            self.piece.resize(count * row_bytes, 0);
            self.source.exact(&mut self.piece, "the rows that the header counts")?;
            let begin = out.len();
            match self.scalar {
                Scalar::F2 => {
                    out.extend(self.piece.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()));
                }
                Scalar::F8 => {
                    out.extend(self.piece.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32));
                }
                _ => out.extend(self.piece.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
            }
            check_finite(
                self.source.file(),
                self.rows_read,
                self.dimension,
                out.get(begin..).unwrap_or_default(),
            )?;
            rows += count;
            self.rows_read += count as u64;
        }
        if self.rows_read == self.rows && !self.source.peek()?.is_empty() {
            let text = "bytes follow the rows that the header counts";
            return Err(Error::malformed(self.source.file(), At::Byte(self.source.position()), text));
        }
        Ok(rows)
    }
}

/// What a header says.
struct Dict {
    descr: String,
    fortran_order: bool,
    shape: Vec<u64>,
}

impl Dict {
    fn parse(bytes: &[u8]) -> std::result::Result<Dict, String> {
        let mut rest = Text { bytes, at: 0 };
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        rest.expect(b'{')?;
        while !rest.take(b'}') {
            let name = rest.string()?;
            rest.expect(b':')?;
            let twice = match name.as_str() {
                "descr" => descr.replace(rest.string()?).is_some(),
                "fortran_order" => fortran_order.replace(rest.boolean()?).is_some(),
                "shape" => shape.replace(rest.tuple()?).is_some(),
                _ => return Err(format!("unknown entry {:?}", excerpt(&name))),
            };
            if twice {
                return Err(format!("two entries {name:?}"));
            }
            if !rest.take(b',') {
                rest.expect(b'}')?;
                break;
            }
        }
        match (descr, fortran_order, shape) {
            (Some(descr), Some(fortran_order), Some(shape)) => Ok(Dict { descr, fortran_order, shape }),
            _ => Err("one of 'descr', 'fortran_order' and 'shape' is missing".into()),
        }
    }
}

/// A cursor over the literals of a header.
struct Text<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Text<'_> {
    fn next(&mut self) -> Option<u8> {
        while let Some(byte) = self.bytes.get(self.at) {
            if !byte.is_ascii_whitespace() {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    fn take(&mut self, wanted: u8) -> bool {
        let found = self.next() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, wanted: u8) -> std::result::Result<(), String> {
        if self.take(wanted) {
            return Ok(());
        }
        let found = self.next().map_or("the end".into(), |byte| format!("{:?}", char::from(byte)));
        Err(format!("{:?} expected at character {}, {found} found", char::from(wanted), self.at))
    }

    fn string(&mut self) -> std::result::Result<String, String> {
        let quote = match self.next() {
            Some(quote @ (b'\'' | b'"')) => quote,
            Some(b'[') => return Err("records of several fields are not vectors".into()),
            _ => return Err(format!("a string is expected at character {}", self.at)),
        };
        let rest = self.bytes.get(self.at + 1..).unwrap_or_default();
        let Some(length) = rest.iter().position(|byte| *byte == quote) else {
            return Err("a string has no end".into());
        };
        self.at += length + 2;
        Ok(String::from_utf8_lossy(rest.get(..length).unwrap_or_default()).into_owned())
    }

    fn word(&mut self) -> String {
        self.next();
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|byte| !byte.is_ascii_alphanumeric()).unwrap_or(rest.len());
        self.at += length;
        String::from_utf8_lossy(rest.get(..length).unwrap_or_default()).into_owned()
    }

    fn boolean(&mut self) -> std::result::Result<bool, String> {
        match self.word().as_str() {
            "True" => Ok(true),
            "False" => Ok(false),
            other => Err(format!("'fortran_order' is {:?}, not True or False", excerpt(other))),
        }
    }

    fn tuple(&mut self) -> std::result::Result<Vec<u64>, String> {
        let mut sides = Vec::new();
        self.expect(b'(')?;
        while !self.take(b')') {
            if self.next() == Some(b'-') {
                return Err("a side of the shape is negative".into());
            }
            let word = self.word();
            // Python 2 wrote long integers as 3L.
            let digits = word.strip_suffix('L').unwrap_or(&word);
            let side =
                digits.parse().map_err(|_| format!("{:?} is not a side of a shape", excerpt(&word)))?;
            sides.push(side);
            if sides.len() > 32 {
                return Err("the shape has more than 32 sides".into());
            }
            if !self.take(b',') {
                self.expect(b')')?;
                break;
            }
        }
        Ok(sides)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::vectors::{Format, parse_bytes};

    pub(crate) fn file(version: u8, dict: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([version, 0]);
        match version {
            1 => bytes.extend((dict.len() as u16).to_le_bytes()),
            _ => bytes.extend((dict.len() as u32).to_le_bytes()),
        }
        bytes.extend(dict.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn dict(descr: &str, fortran: &str, shape: &str) -> String {
        format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n")
    }

    fn vectors(bytes: &[u8]) -> Result<Vec<Vec<f32>>> {
        Ok(parse_bytes(Format::Npy, bytes)?.into_iter().map(|record| record.vector).collect())
    }

    #[test]
    fn three_types_and_three_versions_read_the_same() {
        let expected = vec![vec![1.0f32, -2.5], vec![0.25, 4.0]];
        let flat: Vec<f32> = expected.concat();
        let f2: Vec<u8> = flat.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
        let f4: Vec<u8> = flat.iter().flat_map(|x| x.to_le_bytes()).collect();
        let f8: Vec<u8> = flat.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect();
        for version in 1..=3 {
            for (descr, data) in [("<f2", &f2), ("<f4", &f4), ("<f8", &f8)] {
                let bytes = file(version, &dict(descr, "False", "(2, 2)"), data);
                assert_eq!(vectors(&bytes).unwrap(), expected, "{descr} version {version}");
            }
        }
    }

    #[test]
    fn what_is_not_a_file_of_vectors_is_refused_by_name() {
        let four = [0u8; 16];
        for (bytes, words) in [
            (file(1, &dict("<f4", "False", "(4,)"), &four), "has 1 dimensions"),
            (file(1, &dict("<f4", "True", "(2, 2)"), &four), "Fortran order"),
            (file(1, &dict(">f4", "False", "(2, 2)"), &four), ">f4"),
            (file(1, &dict("<i4", "False", "(2, 2)"), &four), "I4"),
            (file(1, &dict("<f4", "False", "(-2, 2)"), &four), "negative"),
            (file(1, &dict("<f4", "False", "(2, 3)"), &four), "needs 24 bytes of numbers, the file has 16"),
            (file(1, &dict("<f4", "False", "(2, 1)"), &four), "needs 8 bytes of numbers, the file has 16"),
            (file(1, &dict("<f4", "False", "(4611686018427387904, 4)"), &four), "too many"),
            (file(1, &dict("<f4", "False", "(2, 0)"), &[]), "the dimension is 0"),
            (file(1, &dict("<f4", "False", "(0, 70000)"), &[]), "the dimension is 70000"),
            (file(1, "{'descr': '<f4', }", &four), "missing"),
            (
                file(1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 2)}", &four),
                "several fields",
            ),
            (file(9, &dict("<f4", "False", "(2, 2)"), &four), "version 9.0"),
            (b"\x93NUMPY\x01\x00\xff\xff{}".to_vec(), "the header claims 65535 bytes; at most 2"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}".to_vec(), "the header claims 4294967295 bytes"),
            (b"\x93NUM".to_vec(), "ends inside the magic"),
            (file(1, &dict("<f4", "False", "(1, 1)"), &f32::NAN.to_le_bytes()), "component 0 is NaN"),
            (file(1, &dict("<f8", "False", "(1, 1)"), &1e300f64.to_le_bytes()), "not a finite f32"),
        ] {
            let error = vectors(&bytes).unwrap_err();
            assert!(error.to_string().contains(words), "{words:?} is not in {error}");
        }
    }

    #[test]
    fn no_rows_are_fine() {
        assert!(vectors(&file(1, &dict("<f4", "False", "(0, 3)"), &[])).unwrap().is_empty());
    }
}
