//! Files of vectors, written: `.npy` (f32), `.fvecs`, JSON Lines and, with the feature `parquet`, Parquet.
//!
//! A file appears under its name only when it is whole: rows go to a temporary name in the same folder, and
//! [`RecordWriter::finish`] syncs it and renames it. A writer that is dropped before leaves nothing behind.

use crate::error::{At, Error, Result};
use crate::npy;
use crate::record::{KeyValue, Record};
use crate::vectors::{DIMENSION_MAX, Format, VectorFile};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Takes rows and makes a file of them.
pub trait RecordWriter: Send {
    /// Appends a row. Keys and payloads are dropped by formats of bare vectors ([`RecordWriter::keeps_keys`]).
    fn write(&mut self, record: &Record) -> Result<()>;

    /// Whether the format holds keys and payloads, not only vectors.
    fn keeps_keys(&self) -> bool;

    /// Completes the file under its name, durably; returns the number of rows.
    fn finish(self: Box<Self>) -> Result<u64>;
}

impl VectorFile {
    /// Creates a file for rows of `dimension` numbers, in the format that its name ends in: `.npy`, `.fvecs`,
    /// `.jsonl`, `.ndjson` (the last three also with `.gz`) or `.parquet`. A file of that name is replaced at the end.
    pub fn create(path: impl AsRef<Path>, dimension: usize) -> Result<Box<dyn RecordWriter>> {
        let path = path.as_ref();
        let refuse = |text: String| Err(Error::invalid(path, At::File, text));
        if !(1..=DIMENSION_MAX).contains(&dimension) {
            return refuse(format!("the dimension is {dimension}; 1 to {DIMENSION_MAX} are possible"));
        }
        let common = |gzip| Ok::<_, Error>(Rows { file: Output::create(path, gzip)?, dimension, rows: 0 });
        match Format::of_name(path) {
            (Some(Format::Npy), false) => {
                let mut rows = common(false)?;
                rows.file.put(&npy::header_f32(0, dimension))?;
                Ok(Box::new(NpyWriter(rows)))
            }
            (Some(Format::Fvecs), gzip) => Ok(Box::new(FvecsWriter(common(gzip)?))),
            (Some(Format::JsonLines), gzip) => {
                Ok(Box::new(JsonLinesWriter { rows: common(gzip)?, line: Vec::new() }))
            }
            (Some(Format::Parquet), false) => create_parquet(path, dimension),
            (Some(format @ (Format::Npy | Format::Parquet)), true) => {
                refuse(format!("{format} is not written through gzip: take the .gz off"))
            }
            _ => refuse(
                "a name to write to ends in .npy, .fvecs[.gz], .jsonl[.gz], .ndjson[.gz] or .parquet".into(),
            ),
        }
    }
}

#[cfg(feature = "parquet")]
fn create_parquet(path: &Path, dimension: usize) -> Result<Box<dyn RecordWriter>> {
    Ok(Box::new(crate::parquet::ParquetWriter::create(path, dimension)?))
}

#[cfg(not(feature = "parquet"))]
fn create_parquet(path: &Path, _dimension: usize) -> Result<Box<dyn RecordWriter>> {
    Err(Error::unsupported(path, At::File, "this program was built without the feature `parquet`"))
}

/// Writes keys as text, one per line. A key with a line break is refused.
pub fn write_keys<'a>(path: &Path, keys: impl IntoIterator<Item = &'a KeyValue>) -> Result<u64> {
    let mut file = Output::create(path, Format::of_name(path).1)?;
    let mut count = 0;
    for key in keys {
        let text = key.to_string();
        if text.is_empty() || text.contains(['\n', '\r']) {
            let text = format!("the key {text:?} does not fit on a line");
            return Err(Error::invalid(path, At::Row(count), text));
        }
        file.put(text.as_bytes())?;
        file.put(b"\n")?;
        count += 1;
    }
    file.finish()?;
    Ok(count)
}

/// Writes payloads as JSON Lines, one per line, `null` for none. Each must be the text of one JSON object.
pub fn write_payloads<'a>(path: &Path, payloads: impl IntoIterator<Item = Option<&'a str>>) -> Result<u64> {
    let mut file = Output::create(path, Format::of_name(path).1)?;
    let (mut count, mut line) = (0, Vec::new());
    for payload in payloads {
        line.clear();
        put_payload(&mut line, path, count, payload.unwrap_or("null"))?;
        line.push(b'\n');
        file.put(&line)?;
        count += 1;
    }
    file.finish()?;
    Ok(count)
}

/// A file under a temporary name.
pub(crate) struct Output {
    path: PathBuf,
    temporary: PathBuf,
    sink: Option<Sink>,
}

enum Sink {
    Plain(BufWriter<File>),
    Gzip(Box<GzEncoder<BufWriter<File>>>),
}

impl Output {
    pub(crate) fn create(path: &Path, gzip: bool) -> Result<Output> {
        let Some(name) = path.file_name() else {
            return Err(Error::invalid(path, At::File, "the path does not end in the name of a file"));
        };
        let mut temporary = name.to_os_string();
        temporary.push(format!(".{}.partial", std::process::id()));
        let temporary = path.with_file_name(temporary);
        let file = File::create(&temporary).map_err(|error| Error::io(&temporary, At::File, error))?;
        let file = BufWriter::with_capacity(1 << 18, file);
        let sink = if gzip {
            Sink::Gzip(Box::new(GzEncoder::new(file, Compression::default())))
        } else {
            Sink::Plain(file)
        };
        Ok(Output { path: path.to_path_buf(), temporary, sink: Some(sink) })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes).map_err(|error| Error::io(&self.path, At::File, error))
    }

    pub(crate) fn finish(self) -> Result<()> {
        self.finish_with(|_| Ok(()))
    }

    /// Lets `last` change the plain file once more, then syncs and renames.
    fn finish_with(mut self, last: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
        let done = (|| {
            let buffer = match self.sink.take() {
                Some(Sink::Plain(buffer)) => buffer,
                Some(Sink::Gzip(encoder)) => encoder.finish()?,
                None => return Ok(()),
            };
            let mut file = buffer.into_inner().map_err(io::IntoInnerError::into_error)?;
            last(&mut file)?;
            file.sync_all()?;
            std::fs::rename(&self.temporary, &self.path)
        })();
        if done.is_err() {
            // `drop` only cleans up behind an open sink.
            let _ = std::fs::remove_file(&self.temporary);
        }
        done.map_err(|error| Error::io(&self.path, At::File, error))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.sink {
            Some(Sink::Plain(file)) => file.write(bytes),
            Some(Sink::Gzip(file)) => file.write(bytes),
            None => Err(io::Error::other("the file was finished")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Some(Sink::Plain(file)) => file.flush(),
            Some(Sink::Gzip(file)) => file.flush(),
            None => Ok(()),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.sink.take().is_some() {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// What the writers of rows share.
struct Rows {
    file: Output,
    dimension: usize,
    rows: u64,
}

impl Rows {
    fn check(&self, record: &Record) -> Result<()> {
        check_row(&self.file.path, self.rows, self.dimension, record)
    }
}

/// Refuses a row that the readers would refuse.
pub(crate) fn check_row(file: &Path, row: u64, dimension: usize, record: &Record) -> Result<()> {
    if record.vector.len() != dimension {
        let text =
            format!("the vector has {} numbers, the file's dimension is {dimension}", record.vector.len());
        return Err(Error::invalid(file, At::Row(row), text));
    }
    if let Some(number) = record.vector.iter().find(|number| !number.is_finite()) {
        return Err(Error::invalid(
            file,
            At::Row(row),
            format!("the vector has a {number}; numbers must be finite"),
        ));
    }
    Ok(())
}

struct NpyWriter(Rows);

impl RecordWriter for NpyWriter {
    fn write(&mut self, record: &Record) -> Result<()> {
        self.0.check(record)?;
        for number in &record.vector {
            self.0.file.put(&number.to_le_bytes())?;
        }
        self.0.rows += 1;
        Ok(())
    }

    fn keeps_keys(&self) -> bool {
        false
    }

    fn finish(self: Box<Self>) -> Result<u64> {
        let Rows { file, dimension, rows } = self.0;
        file.finish_with(|file| {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&npy::header_f32(rows, dimension))
        })?;
        Ok(rows)
    }
}

struct FvecsWriter(Rows);

impl RecordWriter for FvecsWriter {
    fn write(&mut self, record: &Record) -> Result<()> {
        self.0.check(record)?;
        self.0.file.put(&(self.0.dimension as i32).to_le_bytes())?;
        for number in &record.vector {
            self.0.file.put(&number.to_le_bytes())?;
        }
        self.0.rows += 1;
        Ok(())
    }

    fn keeps_keys(&self) -> bool {
        false
    }

    fn finish(self: Box<Self>) -> Result<u64> {
        self.0.file.finish()?;
        Ok(self.0.rows)
    }
}

struct JsonLinesWriter {
    rows: Rows,
    line: Vec<u8>,
}

impl RecordWriter for JsonLinesWriter {
    fn write(&mut self, record: &Record) -> Result<()> {
        self.rows.check(record)?;
        let path = &self.rows.file.path;
        let io = |error: serde_json::Error| Error::io(path, At::File, error.into());
        self.line.clear();
        self.line.push(b'{');
        match &record.key {
            None => {}
            Some(KeyValue::U64(key)) => self.line.extend(format!("\"key\":{key},").bytes()),
            Some(KeyValue::Str(key)) => {
                self.line.extend(b"\"key\":");
                serde_json::to_writer(&mut self.line, key).map_err(io)?;
                self.line.push(b',');
            }
        }
        // The shortest digits that name this f32.
        self.line.extend(b"\"vector\":");
        serde_json::to_writer(&mut self.line, &record.vector).map_err(io)?;
        if let Some(payload) = &record.payload {
            self.line.extend(b",\"payload\":");
            put_payload(&mut self.line, path, self.rows.rows, payload)?;
        }
        self.line.extend(b"}\n");
        self.rows.file.put(&self.line)?;
        self.rows.rows += 1;
        Ok(())
    }

    fn keeps_keys(&self) -> bool {
        true
    }

    fn finish(self: Box<Self>) -> Result<u64> {
        self.rows.file.finish()?;
        Ok(self.rows.rows)
    }
}

/// Appends JSON text on one line: pretty-printed text has line breaks between its tokens (never inside a string,
/// where JSON escapes them), which become blanks.
fn put_payload(line: &mut Vec<u8>, file: &Path, row: u64, payload: &str) -> Result<()> {
    let valid = serde_json::from_str::<serde::de::IgnoredAny>(payload).map_err(|error| error.to_string());
    match valid.and_then(|_| crate::jsonl::parse_payload(payload)) {
        Ok(_) => {
            line.extend(payload.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
        }
        Err(why) => return Err(Error::invalid(file, At::Row(row), why)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RecordReader;

    pub(crate) fn rows() -> Vec<Record> {
        let long = "{\n  \"a\": \"x\\ny\",\n  \"b\": [1, 2]\n}".to_owned();
        vec![
            Record {
                key: Some(KeyValue::Str("a".into())),
                vector: vec![1.0, -0.1, 3e-39],
                payload: Some(long),
            },
            Record {
                key: Some(KeyValue::Str("\"ü\"".into())),
                vector: vec![f32::MAX, 0.3, -0.0],
                payload: None,
            },
            Record {
                key: Some(KeyValue::Str("c".into())),
                vector: vec![0.1, 0.2, 1e-45],
                payload: Some("{}".into()),
            },
        ]
    }

    #[test]
    fn what_was_written_comes_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let mut names = vec!["a.npy", "a.fvecs", "a.fvecs.gz", "a.jsonl", "a.jsonl.gz", "a.ndjson"];
        if cfg!(feature = "parquet") {
            names.push("a.parquet");
        }
        for name in names {
            let path = folder.path().join(name);
            let mut writer = VectorFile::create(&path, 3).unwrap();
            let keeps = writer.keeps_keys();
            for row in rows() {
                writer.write(&row).unwrap();
            }
            assert!(!path.exists(), "{name} must not be seen before it is whole");
            assert_eq!(writer.finish().unwrap(), 3);
            let reader = RecordReader::open(&path).unwrap();
            assert_eq!(reader.dimension(), 3);
            let back: Vec<Record> = reader.collect::<Result<_>>().unwrap();
            assert_eq!(back.len(), 3);
            for (row, back) in rows().iter().zip(&back) {
                let bits = |vector: &[f32]| vector.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&row.vector), bits(&back.vector), "{name}");
                if keeps {
                    assert_eq!(row.key, back.key, "{name}");
                    let json = |text: &Option<String>| {
                        text.as_ref().map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap())
                    };
                    assert_eq!(json(&row.payload), json(&back.payload), "{name}");
                } else {
                    assert_eq!((&back.key, &back.payload), (&None, &None));
                }
            }
        }
    }

    #[test]
    fn an_unfinished_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = VectorFile::create(folder.path().join("a.npy"), 3).unwrap();
        writer.write(&rows()[0]).unwrap();
        drop(writer);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn rows_that_could_not_be_read_are_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = VectorFile::create(folder.path().join("a.jsonl"), 2).unwrap();
        for (vector, payload, words) in [
            (vec![1.0], None, "the vector has 1 numbers, the file's dimension is 2"),
            (vec![1.0, f32::NAN], None, "must be finite"),
            (vec![1.0, 2.0], Some("{} {}".to_owned()), "trailing"),
            (vec![1.0, 2.0], Some("7".to_owned()), "not a JSON object"),
        ] {
            let error = writer.write(&Record { key: None, vector, payload }).unwrap_err();
            assert!(error.to_string().contains(words), "{words:?} is not in {error}");
        }
        assert!(VectorFile::create(folder.path().join("a.npy.gz"), 2).is_err());
        assert!(VectorFile::create(folder.path().join("a.txt"), 2).is_err());
        assert!(VectorFile::create(folder.path().join("a.npy"), 0).is_err());
    }

    #[test]
    fn keys_and_payloads_beside() {
        let folder = tempfile::tempdir().unwrap();
        let (keys, payloads) = (folder.path().join("keys.txt"), folder.path().join("p.jsonl.gz"));
        write_keys(&keys, &[KeyValue::U64(7), KeyValue::Str("b".into())]).unwrap();
        write_payloads(&payloads, [Some("{\n}"), None]).unwrap();
        let back = crate::keys::KeyReader::open(&keys).unwrap().collect::<Result<Vec<_>>>().unwrap();
        assert_eq!(back, [KeyValue::Str("7".into()), KeyValue::Str("b".into())]);
        let back =
            crate::payloads::PayloadReader::open(&payloads).unwrap().collect::<Result<Vec<_>>>().unwrap();
        assert_eq!(back, [Some("{ }".to_owned()), None]);
        assert!(write_keys(&keys, &[KeyValue::Str("a\nb".into())]).is_err());
    }
}
