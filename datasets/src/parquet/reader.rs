//! Parquet: a column of lists of floats is the vectors; the other columns are key and payload.
//!
//! 1. The vector column is the one asked for, else the one called `vector`, else the only column of lists of floats
//!    (32 or 64 bits, or half floats). Fixed-size lists look the same in the file.
//! 2. Its numbers are read straight from the column, without building a value per number. Which number belongs to
//!    which row, the repetition levels say (0 begins a row); that no number is null, the definition levels say.
//! 3. The other columns are read as rows. `key` (or `id`), if it is a whole number or a text, is the key. `payload`,
//!    if there is one, is the payload (a group, or a text that is a JSON object); else all other columns together.

use super::{Outcome, guarded};
use crate::error::{At, Error, Result, excerpt};
use crate::record::{KeyValue, Record};
use crate::vectors::{VectorReader, check_dimension, check_finite};
use bytes::Bytes;
use parquet::basic::Type as Physical;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::{ReaderIter, TreeBuilder};
use parquet::record::{Field, Row};
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A stream of rows.
pub(crate) struct ParquetReader {
    file: PathBuf,
    reader: Box<dyn FileReader + Send>,
    /// The leaf of the vectors, and the columns beside it (if any).
    leaf: usize,
    others: Option<SchemaDescPtr>,
    dimension: usize,
    rows: u64,
    rows_read: u64,
    next_group: usize,
    group: Option<Group>,
    /// Numbers of the first row, read early for its dimension.
    ahead: Vec<Record>,
}

/// The row group being read.
struct Group {
    vectors: ColumnReader,
    others: Option<ReaderIter>,
    definition_max: i16,
}

impl ParquetReader {
    pub(crate) fn open(path: &Path, column: Option<&str>) -> Result<ParquetReader> {
        let file = File::open(path).map_err(|error| Error::io(path, At::File, error))?;
        let reader = guarded(path, At::File, || SerializedFileReader::new(file))?;
        ParquetReader::new(path, Box::new(reader), column)
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<ParquetReader> {
        let path = Path::new("bytes");
        let bytes = Bytes::copy_from_slice(bytes);
        let reader = guarded(path, At::File, || SerializedFileReader::new(bytes))?;
        ParquetReader::new(path, Box::new(reader), None)
    }

    fn new(path: &Path, reader: Box<dyn FileReader + Send>, column: Option<&str>) -> Result<ParquetReader> {
        let (leaf, others) = guarded(path, At::File, || Ok(choose(reader.as_ref(), column)))?
            .map_err(|why| Error::unsupported(path, At::File, why))?;
        let rows = u64::try_from(reader.metadata().file_metadata().num_rows())
            .map_err(|_| Error::malformed(path, At::File, "the number of rows is negative"))?;
        let mut this = ParquetReader {
            file: path.to_path_buf(),
            reader,
            leaf,
            others,
            dimension: 0,
            rows,
            rows_read: 0,
            next_group: 0,
            group: None,
            ahead: Vec::new(),
        };
        let mut first = Vec::new();
        this.read(&mut first, 1, true)?;
        this.ahead = first;
        Ok(this)
    }

    /// Appends up to `rows_max` rows to `out`, without keys and payloads unless `whole`.
    fn read(&mut self, out: &mut Vec<Record>, rows_max: usize, whole: bool) -> Result<()> {
        let room = out.len() + rows_max;
        out.append(&mut self.ahead);
        while out.len() < room {
            if self.group.is_none() {
                if self.next_group >= self.reader.num_row_groups() {
                    if self.rows_read != self.rows {
                        let text =
                            format!("{} rows counted in the footer, {} found", self.rows, self.rows_read);
                        return Err(Error::malformed(&self.file, At::File, text));
                    }
                    return Ok(());
                }
                self.group = Some(self.open_group()?);
                self.next_group += 1;
            }
            let before = out.len();
            self.read_group(out, (room - before).min(1024), whole)?;
            if out.len() == before {
                self.group = None;
            }
        }
        Ok(())
    }

    fn open_group(&self) -> Result<Group> {
        guarded(&self.file, At::Row(self.rows_read), || {
            let group = self.reader.get_row_group(self.next_group)?;
            let vectors = group.get_column_reader(self.leaf)?;
            let definition_max = group.metadata().column(self.leaf).column_descr().max_def_level();
            let others = match &self.others {
                Some(others) => Some(TreeBuilder::new().as_iter(others.clone(), group.as_ref())?),
                None => None,
            };
            Ok(Group { vectors, others, definition_max })
        })
    }

    fn read_group(&mut self, out: &mut Vec<Record>, rows_max: usize, whole: bool) -> Result<()> {
        let (file, first) = (self.file.as_path(), self.rows_read);
        let Some(group) = &mut self.group else { return Ok(()) };
        let Group { vectors, others, definition_max } = group;
        let (mut numbers, mut definitions, mut repetitions) = (Vec::new(), Vec::new(), Vec::new());
        let levels = (&mut definitions, &mut repetitions);
        guarded(file, At::Row(first), || match vectors {
            ColumnReader::FloatColumnReader(reader) => pull(reader, rows_max, levels, &mut numbers, |x| *x),
            ColumnReader::DoubleColumnReader(reader) => {
                pull(reader, rows_max, levels, &mut numbers, |x| *x as f32)
            }
            ColumnReader::FixedLenByteArrayColumnReader(reader) => {
                pull(reader, rows_max, levels, &mut numbers, |x| match x.data() {
                    [low, high] => half::f16::from_le_bytes([*low, *high]).to_f32(),
                    _ => f32::NAN,
                })
            }
            _ => Ok(()),
        })?;
        if let Some(index) = definitions.iter().position(|level| level != definition_max) {
            let begun = repetitions.iter().take(index + 1).filter(|level| **level == 0).count() as u64;
            let text = "the vector is null, empty, or has a null in it";
            return Err(Error::malformed(file, At::Row(first + begun.saturating_sub(1)), text));
        }
        if numbers.len() != repetitions.len() || repetitions.first().is_some_and(|level| *level != 0) {
            return Err(Error::malformed(
                file,
                At::Row(first),
                "levels and numbers of the vectors do not match",
            ));
        }
        let mut begin = 0;
        while begin < numbers.len() {
            let rest = repetitions.get(begin + 1..).unwrap_or_default();
            let end =
                rest.iter().position(|level| *level == 0).map_or(numbers.len(), |more| begin + 1 + more);
            let vector = numbers.get(begin..end).unwrap_or_default().to_vec();
            let at = At::Row(self.rows_read);
            let dimension = check_dimension(file, at, vector.len() as i128)?;
            if self.dimension == 0 {
                self.dimension = dimension;
            }
            if dimension != self.dimension {
                let text =
                    format!("the vector has {dimension} numbers, those before it have {}", self.dimension);
                return Err(Error::malformed(file, at, text));
            }
            check_finite(file, self.rows_read, dimension, &vector)?;
            let (mut key, mut payload) = (None, None);
            // Rows are taken from the other columns in any case: both must stay in step.
            if let Some(others) = others {
                let Some(row) = guarded(file, at, || others.next().transpose())? else {
                    return Err(Error::malformed(
                        file,
                        at,
                        "the other columns have fewer rows than the vectors",
                    ));
                };
                if whole {
                    (key, payload) = guarded(file, at, || Ok(key_and_payload(&row)))?
                        .map_err(|why| Error::malformed(file, at, why))?;
                }
            }
            out.push(Record { key, vector, payload });
            self.rows_read += 1;
            begin = end;
        }
        Ok(())
    }
}

impl VectorReader for ParquetReader {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn rows(&self) -> Option<u64> {
        Some(self.rows)
    }

    fn next_block(&mut self, out: &mut Vec<f32>, rows_max: usize) -> Result<usize> {
        let mut records = Vec::new();
        self.read(&mut records, rows_max, false)?;
        out.clear();
        records.iter().for_each(|record| out.extend_from_slice(&record.vector));
        Ok(records.len())
    }

    fn next_records(&mut self, out: &mut Vec<Record>, rows_max: usize) -> Result<usize> {
        out.clear();
        self.read(out, rows_max, true)?;
        Ok(out.len())
    }
}

/// Reads whole rows of one column.
fn pull<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    rows_max: usize,
    (definitions, repetitions): (&mut Vec<i16>, &mut Vec<i16>),
    numbers: &mut Vec<f32>,
    to_f32: impl Fn(&T::T) -> f32,
) -> Outcome<()> {
    let mut values = Vec::new();
    reader.read_records(rows_max, Some(definitions), Some(repetitions), &mut values)?;
    numbers.extend(values.iter().map(to_f32));
    Ok(())
}

/// Which leaf holds the vectors, and the schema of the other columns.
fn choose(
    reader: &dyn FileReader,
    column: Option<&str>,
) -> std::result::Result<(usize, Option<SchemaDescPtr>), String> {
    let schema = reader.metadata().file_metadata().schema_descr();
    let mut found: Vec<(usize, String)> = Vec::new();
    for (index, leaf) in schema.columns().iter().enumerate() {
        let floats = match leaf.physical_type() {
            Physical::FLOAT | Physical::DOUBLE => true,
            Physical::FIXED_LEN_BYTE_ARRAY => {
                leaf.logical_type_ref() == Some(&parquet::basic::LogicalType::Float16)
                    && leaf.type_length() == 2
            }
            _ => false,
        };
        let path = leaf.path().parts();
        // list<float> is three deep (name, list, element), or two or one in old writers; a struct of lists is not it.
        if floats && leaf.max_rep_level() == 1 && path.len() <= 3 {
            found.push((index, path.first().cloned().unwrap_or_default()));
        }
    }
    let names: Vec<String> = found.iter().map(|(_, name)| excerpt(name)).take(20).collect();
    let wanted = match (column, found.as_slice()) {
        (Some(column), _) => found.iter().find(|(_, name)| name == column),
        (None, [only]) => Some(only),
        (None, _) => found.iter().find(|(_, name)| name == "vector"),
    };
    let Some((leaf, name)) = wanted else {
        let wanted = column.unwrap_or("vector");
        return Err(format!(
            "no column {wanted:?} of lists of floats; columns of lists of floats: {}",
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        ));
    };
    let root = schema.root_schema();
    let fields: Vec<_> = root.get_fields().iter().filter(|field| field.name() != name).cloned().collect();
    if fields.is_empty() {
        return Ok((*leaf, None));
    }
    let others =
        Type::group_type_builder(root.name()).with_fields(fields).build().map_err(|e| e.to_string())?;
    Ok((*leaf, Some(Arc::new(SchemaDescriptor::new(Arc::new(others))))))
}

/// What the other columns of a row say.
fn key_and_payload(row: &Row) -> std::result::Result<(Option<KeyValue>, Option<String>), String> {
    let field =
        |wanted: &str| row.get_column_iter().find(|(name, _)| *name == wanted).map(|(_, field)| field);
    let key_name = if field("key").is_some() { "key" } else { "id" };
    let whole = |number: i128| {
        let number = u64::try_from(number).map_err(|_| format!("the key is {number}; keys are from 0"))?;
        Ok::<_, String>(Some(KeyValue::U64(number)))
    };
    let (key, is_key) = match field(key_name) {
        None => (None, false),
        Some(Field::Null) => (None, true),
        Some(Field::Str(text)) => (Some(KeyValue::Str(text.clone())), true),
        Some(Field::Byte(number)) => (whole(i128::from(*number))?, true),
        Some(Field::Short(number)) => (whole(i128::from(*number))?, true),
        Some(Field::Int(number)) => (whole(i128::from(*number))?, true),
        Some(Field::Long(number)) => (whole(i128::from(*number))?, true),
        Some(Field::UByte(number)) => (whole(i128::from(*number))?, true),
        Some(Field::UShort(number)) => (whole(i128::from(*number))?, true),
        Some(Field::UInt(number)) => (whole(i128::from(*number))?, true),
        Some(Field::ULong(number)) => (whole(i128::from(*number))?, true),
        Some(_) if key_name == "key" => {
            return Err("the column `key` is neither a whole number nor a text".into());
        }
        Some(_) => (None, false),
    };
    let rest: Vec<_> = row
        .get_column_iter()
        .filter(|(name, _)| *name != "payload" && !(is_key && *name == key_name))
        .collect();
    let payload = match field("payload") {
        None if rest.is_empty() => None,
        None => {
            let object: serde_json::Map<_, _> =
                rest.into_iter().map(|(name, field)| (name.clone(), field.to_json_value())).collect();
            Some(serde_json::Value::Object(object).to_string())
        }
        Some(_) if !rest.is_empty() => {
            let names: Vec<String> = rest.iter().map(|(name, _)| excerpt(name)).take(5).collect();
            return Err(format!("beside `payload` other columns would be lost; found {}", names.join(", ")));
        }
        Some(Field::Null) => None,
        Some(Field::Str(text)) => {
            serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|error| error.to_string())?;
            crate::jsonl::parse_payload(text)?
        }
        Some(field @ Field::Group(_)) => Some(field.to_json_value().to_string()),
        Some(_) => return Err("the column `payload` is neither a text nor a group".into()),
    };
    Ok((key, payload))
}
