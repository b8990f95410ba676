//! Parquet, read and written, with the `parquet` crate as the decoder.
//!
//! It is careful and still has panics on damaged files; they are caught here and become errors. What it allocates for
//! a page, it believes the page's header.

mod reader;
mod writer;

pub(crate) use reader::ParquetReader;
pub(crate) use writer::ParquetWriter;

use crate::error::{At, Error, Result, excerpt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

type Outcome<T> = std::result::Result<T, parquet::errors::ParquetError>;

/// Runs `work` in the decoder; its errors and panics become this crate's errors.
fn guarded<T>(file: &Path, at: At, work: impl FnOnce() -> Outcome<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Error::malformed(file, at, excerpt(&error.to_string()))),
        Err(_) => Err(Error::malformed(file, at, "the file is damaged: its decoder gave up")),
    }
}

#[cfg(test)]
mod tests {
    use super::writer::GROUP_ROWS;
    use super::*;
    use crate::record::{KeyValue, Record, RecordReader};
    use crate::vectors::{Format, VectorFile, parse_bytes};
    use parquet::data_type::{ByteArrayType, FloatType, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use std::fs::File;
    use std::sync::Arc;

    fn write(path: &Path, schema: &str, fill: impl FnOnce(&mut SerializedFileWriter<File>)) {
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let file = File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, Arc::new(WriterProperties::new())).unwrap();
        fill(&mut writer);
        writer.close().unwrap();
    }

    #[test]
    fn several_row_groups_and_number_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let mut writer = VectorFile::create(&path, 2).unwrap();
        let row = |n: u64| Record {
            key: Some(KeyValue::U64(u64::MAX - n)),
            vector: vec![n as f32, -1.0],
            payload: n.is_multiple_of(3).then(|| format!("{{\"n\":{n}}}")),
        };
        let count = GROUP_ROWS as u64 * 2 + 5;
        for n in 0..count {
            writer.write(&row(n)).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), count);
        let reader = RecordReader::open(&path).unwrap();
        assert_eq!(reader.rows(), Some(count));
        let mut n = 0;
        for record in reader {
            assert_eq!(record.unwrap(), row(n));
            n += 1;
        }
        assert_eq!(n, count);
        let mut blocks = VectorFile::open(&path).unwrap();
        let (mut block, mut n) = (Vec::new(), 0);
        while blocks.next_block(&mut block, 1000).unwrap() > 0 {
            for vector in block.chunks(2) {
                assert_eq!(vector, [n as f32, -1.0]);
                n += 1;
            }
        }
        assert_eq!(n, count);
    }

    #[test]
    fn other_columns_become_the_payload_and_an_optional_list_of_doubles_the_vector() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let schema = "message m { optional int64 id; optional binary title (STRING); optional group emb (LIST) { \
                      repeated group list { optional double element; } } }";
        write(&path, schema, |writer| {
            let mut group = writer.next_row_group().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<Int64Type>().write_batch(&[4, 5], Some(&[1, 1]), None).unwrap();
            column.close().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&["x".into()], Some(&[1, 0]), None).unwrap();
            column.close().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            let values = [1.0, 2.0, 3.0, 4.0];
            let double = column.typed::<parquet::data_type::DoubleType>();
            double.write_batch(&values, Some(&[3, 3, 3, 3]), Some(&[0, 1, 0, 1])).unwrap();
            column.close().unwrap();
            group.close().unwrap();
        });
        let rows: Vec<Record> = RecordReader::open(&path).unwrap().collect::<Result<_>>().unwrap();
        assert_eq!(rows[0].key, Some(KeyValue::U64(4)));
        assert_eq!(rows[1].vector, [3.0, 4.0]);
        assert_eq!(rows[0].payload.as_deref(), Some("{\"title\":\"x\"}"));
        assert_eq!(rows[1].payload.as_deref(), Some("{\"title\":null}"));
        let error = VectorFile::open_column(&path, Some("other")).err().unwrap();
        assert!(error.to_string().contains("emb"), "{error}");
    }

    #[test]
    fn nulls_and_ragged_rows_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let schema =
            "message m { optional group vector (LIST) { repeated group list { optional float element; } } }";
        for (values, definitions, repetitions, words) in [
            (vec![1.0f32, 2.0, 3.0], vec![3i16, 3, 3], vec![0i16, 1, 0], "row 1: the vector has 1 numbers"),
            (vec![1.0, 2.0, 3.0], vec![3, 3, 3, 2], vec![0, 1, 0, 1], "row 1: the vector is null"),
            (vec![1.0, 2.0], vec![3, 3, 0], vec![0, 1, 0], "row 1: the vector is null"),
            (vec![1.0, f32::NAN], vec![3, 3], vec![0, 1], "component 1 is NaN"),
        ] {
            write(&path, schema, |writer| {
                let mut group = writer.next_row_group().unwrap();
                let mut column = group.next_column().unwrap().unwrap();
                column
                    .typed::<FloatType>()
                    .write_batch(&values, Some(&definitions), Some(&repetitions))
                    .unwrap();
                column.close().unwrap();
                group.close().unwrap();
            });
            let outcome = RecordReader::open(&path).and_then(Iterator::collect::<Result<Vec<_>>>);
            let error = outcome.unwrap_err();
            assert!(error.to_string().contains(words), "{words:?} is not in {error}");
        }
    }

    #[test]
    fn damage_anywhere_is_an_error_or_another_value_and_never_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let mut writer = VectorFile::create(&path, 3).unwrap();
        for n in 0..4 {
            let payload = Some("{\"a\":1}".to_owned());
            writer
                .write(&Record { key: Some(KeyValue::U64(n)), vector: vec![n as f32; 3], payload })
                .unwrap();
        }
        writer.finish().unwrap();
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(parse_bytes(Format::Parquet, &whole).unwrap().len(), 4);
        for cut in 0..whole.len() {
            assert!(parse_bytes(Format::Parquet, &whole[..cut]).is_err());
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x11;
            let _ = parse_bytes(Format::Parquet, &bytes);
        }
    }
}
