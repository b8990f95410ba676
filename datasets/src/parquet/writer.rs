//! Parquet, written: rows wait until a row group is full, and go out column by column.
//!
//! What keys are (numbers or texts) is a matter of the schema, which the file begins with, so the first row group
//! decides it; a row that differs later is an error.

use super::guarded;
use crate::error::{At, Error, Result};
use crate::record::{KeyValue, Record};
use crate::writers::{Output, RecordWriter, check_row};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows per row group at most, and numbers: a group stays near 16 MiB.
pub(super) const GROUP_ROWS: usize = 16_384;
const GROUP_NUMBERS: usize = 4 << 20;

/// Writes `vector` (list of float), `key` (unsigned 64-bit or text, by the first key) and `payload` (JSON text),
/// compressed with Snappy.
pub(crate) struct ParquetWriter {
    path: PathBuf,
    dimension: usize,
    rows: u64,
    pending: Vec<Record>,
    state: State,
}

enum State {
    /// The schema waits for the first row group, which says what keys are.
    Fresh(Output),
    Open {
        writer: Box<SerializedFileWriter<Output>>,
        text_keys: bool,
    },
    Broken,
}

impl ParquetWriter {
    pub(crate) fn create(path: &Path, dimension: usize) -> Result<ParquetWriter> {
        let state = State::Fresh(Output::create(path, false)?);
        Ok(ParquetWriter { path: path.to_path_buf(), dimension, rows: 0, pending: Vec::new(), state })
    }

    fn flush(&mut self) -> Result<()> {
        if let State::Fresh(_) = self.state {
            let State::Fresh(output) = std::mem::replace(&mut self.state, State::Broken) else {
                return Ok(());
            };
            let first = self.pending.iter().find_map(|record| record.key.as_ref());
            let text_keys = !matches!(first, Some(KeyValue::U64(_)));
            let key = if text_keys { "binary key (STRING)" } else { "int64 key (INTEGER(64,false))" };
            let schema = format!(
                "message rows {{ required group vector (LIST) {{ repeated group list {{ required float element; }} }} \
                 optional {key}; optional binary payload (STRING); }}"
            );
            let writer = guarded(&self.path, At::File, || {
                let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
                // Embeddings hardly repeat a number: a dictionary would only cost.
                let properties = properties.set_dictionary_enabled(false).build();
                SerializedFileWriter::new(
                    output,
                    Arc::new(parse_message_type(&schema)?),
                    Arc::new(properties),
                )
            })?;
            self.state = State::Open { writer: Box::new(writer), text_keys };
        }
        let State::Open { writer, text_keys } = &mut self.state else {
            return Err(Error::invalid(&self.path, At::File, "an earlier row failed: the file cannot go on"));
        };
        if self.pending.is_empty() {
            return Ok(());
        }
        let begin = self.rows - self.pending.len() as u64;
        for (index, record) in self.pending.iter().enumerate() {
            if record.key.as_ref().is_some_and(|key| matches!(key, KeyValue::Str(_)) != *text_keys) {
                let text =
                    "keys are numbers in some rows and texts in others; a Parquet column is one of both";
                return Err(Error::invalid(&self.path, At::Row(begin + index as u64), text));
            }
        }
        let done = guarded(&self.path, At::Row(begin), || {
            let rows = &self.pending;
            let mut group = writer.next_row_group()?;
            if let Some(mut column) = group.next_column()? {
                let numbers: Vec<f32> = rows.iter().flat_map(|row| row.vector.iter().copied()).collect();
                let definitions = vec![1i16; numbers.len()];
                let repetitions: Vec<i16> =
                    (0..numbers.len()).map(|index| i16::from(index % self.dimension != 0)).collect();
                column.typed::<FloatType>().write_batch(&numbers, Some(&definitions), Some(&repetitions))?;
                column.close()?;
            }
            if let Some(mut column) = group.next_column()? {
                let definitions: Vec<i16> = rows.iter().map(|row| i16::from(row.key.is_some())).collect();
                let keys = rows.iter().filter_map(|row| row.key.as_ref());
                if *text_keys {
                    let keys: Vec<ByteArray> = keys.map(|key| key.to_string().into_bytes().into()).collect();
                    column.typed::<ByteArrayType>().write_batch(&keys, Some(&definitions), None)?;
                } else {
                    let keys: Vec<i64> =
                        keys.map(|key| key.as_u64().unwrap_or_default().cast_signed()).collect();
                    column.typed::<Int64Type>().write_batch(&keys, Some(&definitions), None)?;
                }
                column.close()?;
            }
            if let Some(mut column) = group.next_column()? {
                let definitions: Vec<i16> = rows.iter().map(|row| i16::from(row.payload.is_some())).collect();
                let payloads: Vec<ByteArray> =
                    rows.iter().filter_map(|row| row.payload.as_deref()).map(ByteArray::from).collect();
                column.typed::<ByteArrayType>().write_batch(&payloads, Some(&definitions), None)?;
                column.close()?;
            }
            group.close()?;
            Ok(())
        });
        self.pending.clear();
        if done.is_err() {
            self.state = State::Broken;
        }
        done
    }
}

impl RecordWriter for ParquetWriter {
    fn write(&mut self, record: &Record) -> Result<()> {
        check_row(&self.path, self.rows, self.dimension, record)?;
        self.pending.push(record.clone());
        self.rows += 1;
        if self.pending.len() >= GROUP_ROWS.min(GROUP_NUMBERS / self.dimension).max(1) {
            self.flush()?;
        }
        Ok(())
    }

    fn keeps_keys(&self) -> bool {
        true
    }

    fn finish(mut self: Box<Self>) -> Result<u64> {
        self.flush()?;
        let State::Open { writer, .. } = std::mem::replace(&mut self.state, State::Broken) else {
            return Err(Error::invalid(
                &self.path,
                At::File,
                "an earlier row failed: the file cannot be finished",
            ));
        };
        let output = guarded(&self.path, At::File, || writer.into_inner())?;
        output.finish()?;
        Ok(self.rows)
    }
}
