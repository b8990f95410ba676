//! `.fvecs` and `.bvecs`: per row an `i32` dimension, then as many `f32` or `u8`, little-endian.
//!
//! The first row's dimension is that of the file. For a plain file the length must then be a whole number of rows,
//! which is checked before any row is read; each row's own dimension is checked when it comes by.

use crate::error::{At, Error, Result};
use crate::source::{PIECE_BYTES, Source};
use crate::vectors::{VectorReader, check_dimension, check_finite};

/// A stream of rows.
pub(crate) struct VecsReader {
    source: Source,
    number_bytes: usize,
    dimension: usize,
    rows: Option<u64>,
    rows_read: u64,
    piece: Vec<u8>,
}

impl VecsReader {
    /// `number_bytes` is 4 for `f32` and 1 for `u8`.
    pub(crate) fn new(mut source: Source, number_bytes: usize) -> Result<VecsReader> {
        // The buffer holds all of a short file and far more than four bytes of a long one.
        let first = source.peek()?;
        let (dimension, rows) = match first.first_chunk::<4>() {
            None if first.is_empty() => (0, Some(0)),
            None => {
                let text = format!(
                    "the file ends inside the first dimension: 4 bytes expected, {} found",
                    first.len()
                );
                return Err(Error::malformed(source.file(), At::Byte(0), text));
            }
            Some(bytes) => {
                let claimed = i32::from_le_bytes(*bytes);
                let dimension = check_dimension(source.file(), At::Row(0), i128::from(claimed))?;
                let row_bytes = (4 + dimension * number_bytes) as u64;
                if let Some(length) = source.length().filter(|length| length % row_bytes != 0) {
                    let text = format!(
                        "{length} bytes are not a whole number of rows of {row_bytes} bytes (dimension {dimension}): the \
                         file is cut off, or its rows differ"
                    );
                    return Err(Error::malformed(source.file(), At::File, text));
                }
                (dimension, source.length().map(|length| length / row_bytes))
            }
        };
        Ok(VecsReader { source, number_bytes, dimension, rows, rows_read: 0, piece: Vec::new() })
    }
}

impl VectorReader for VecsReader {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn rows(&self) -> Option<u64> {
        self.rows
    }

    fn next_block(&mut self, out: &mut Vec<f32>, rows_max: usize) -> Result<usize> {
        out.clear();
        if self.dimension == 0 {
            return Ok(0);
        }
        let row_bytes = 4 + self.dimension * self.number_bytes;
        let rows_piece = (PIECE_BYTES / row_bytes).max(1);
        let mut rows = 0;
        while rows < rows_max {
            self.piece.resize((rows_max - rows).min(rows_piece) * row_bytes, 0);
            let filled = self.source.fill(&mut self.piece)?;
            self.piece.truncate(filled);
            for row in self.piece.chunks(row_bytes) {
                let (Some((head, numbers)), true) = (row.split_first_chunk::<4>(), row.len() == row_bytes)
                else {
                    let text = format!(
                        "the file ends inside the row: {row_bytes} bytes expected, {} found",
                        row.len()
                    );
                    return Err(Error::malformed(self.source.file(), At::Row(self.rows_read), text));
                };
                let dimension = i32::from_le_bytes(*head);
                if usize::try_from(dimension) != Ok(self.dimension) {
                    let text =
                        format!("the row has {dimension} numbers, the first row has {}", self.dimension);
                    return Err(Error::malformed(self.source.file(), At::Row(self.rows_read), text));
                }
                let begin = out.len();
                if self.number_bytes == 1 {
                    out.extend(numbers.iter().map(|byte| f32::from(*byte)));
                } else {
                    out.extend(numbers.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
                }
                let numbers = out.get(begin..).unwrap_or_default();
                check_finite(self.source.file(), self.rows_read, self.dimension, numbers)?;
                rows += 1;
                self.rows_read += 1;
            }
            if filled == 0 {
                break;
            }
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use crate::vectors::{Format, parse_bytes};

    fn fvecs(rows: &[&[f32]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for row in rows {
            bytes.extend((row.len() as i32).to_le_bytes());
            bytes.extend(row.iter().flat_map(|x| x.to_le_bytes()));
        }
        bytes
    }

    #[test]
    fn rows_come_back() {
        let rows = parse_bytes(Format::Fvecs, &fvecs(&[&[1.0, 2.0], &[3.0, -4.0]])).unwrap();
        assert_eq!(rows[1].vector, [3.0, -4.0]);
        assert_eq!(rows.len(), 2);
        let rows = parse_bytes(Format::Bvecs, &[2, 0, 0, 0, 7, 255, 2, 0, 0, 0, 0, 1]).unwrap();
        assert_eq!(rows[0].vector, [7.0, 255.0]);
        assert_eq!(rows[1].vector, [0.0, 1.0]);
    }

    #[test]
    fn an_empty_file_has_no_rows() {
        assert!(parse_bytes(Format::Fvecs, b"").unwrap().is_empty());
    }

    #[test]
    fn damage_is_named() {
        let mut cut = fvecs(&[&[1.0, 2.0], &[3.0, 4.0]]);
        cut.pop();
        let same_length = [fvecs(&[&[1.0, 2.0]]), 3i32.to_le_bytes().to_vec(), vec![0; 8]].concat();
        for (bytes, words) in [
            (cut, "not a whole number of rows"),
            (same_length, "row 1: the row has 3 numbers, the first row has 2"),
            ((-1i32).to_le_bytes().to_vec(), "the dimension is -1"),
            (0i32.to_le_bytes().to_vec(), "the dimension is 0"),
            (i32::MAX.to_le_bytes().to_vec(), "the dimension is 2147483647"),
            (vec![1, 0], "ends inside the first dimension"),
            (fvecs(&[&[1.0, f32::INFINITY]]), "component 1 is inf"),
        ] {
            let error = parse_bytes(Format::Fvecs, &bytes).unwrap_err();
            assert!(error.to_string().contains(words), "{words:?} is not in {error}");
        }
    }
}
