//! JSON Lines: one object per line with the fields
//!
//! | field | meaning |
//! |---|---|
//! | `vector` or `embedding` | an array of numbers; needed |
//! | `key` or `id` | a string or a number 0..=2^64-1, or null |
//! | `payload` | an object, or null |
//! | any other | without `payload`: part of the payload; beside `payload`: an error, so that nothing is lost unseen |
//!
//! Numbers are parsed from their text straight to `f32`: what [`crate::VectorFile::create`] wrote comes back bit for
//! bit, which a way through `f64` does not promise. Empty lines are skipped.

use crate::error::{At, Error, Result, excerpt};
use crate::record::{KeyValue, Record};
use crate::source::Source;
use crate::vectors::{VectorReader, check_dimension};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// A stream of rows.
pub(crate) struct JsonLinesReader {
    source: Source,
    line: Vec<u8>,
    line_number: u64,
    dimension: usize,
    /// The first row is read at once, because the dimension is in it.
    first: Option<Record>,
}

impl JsonLinesReader {
    pub(crate) fn new(source: Source) -> Result<JsonLinesReader> {
        let mut reader =
            JsonLinesReader { source, line: Vec::new(), line_number: 0, dimension: 0, first: None };
        reader.first = reader.next_record()?;
        Ok(reader)
    }

    fn next_record(&mut self) -> Result<Option<Record>> {
        if let Some(record) = self.first.take() {
            return Ok(Some(record));
        }
        while self.source.line(&mut self.line, self.line_number + 1)? {
            self.line_number += 1;
            if self.line.trim_ascii().is_empty() {
                continue;
            }
            let at = At::Line(self.line_number);
            let record =
                parse_line(&self.line).map_err(|why| Error::malformed(self.source.file(), at, why))?;
            let dimension = check_dimension(self.source.file(), at, record.vector.len() as i128)?;
            if self.dimension == 0 {
                self.dimension = dimension;
            }
            if dimension != self.dimension {
                let text =
                    format!("the vector has {dimension} numbers, those before it have {}", self.dimension);
                return Err(Error::malformed(self.source.file(), at, text));
            }
            return Ok(Some(record));
        }
        Ok(None)
    }
}

impl VectorReader for JsonLinesReader {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn rows(&self) -> Option<u64> {
        None
    }

    fn next_block(&mut self, out: &mut Vec<f32>, rows_max: usize) -> Result<usize> {
        out.clear();
        let mut rows = 0;
        while rows < rows_max {
            let Some(record) = self.next_record()? else { break };
            out.extend_from_slice(&record.vector);
            rows += 1;
        }
        Ok(rows)
    }

    fn next_records(&mut self, out: &mut Vec<Record>, rows_max: usize) -> Result<usize> {
        out.clear();
        while out.len() < rows_max {
            let Some(record) = self.next_record()? else { break };
            out.push(record);
        }
        Ok(out.len())
    }
}

/// One line to one row; the error is a text without a place.
fn parse_line(line: &[u8]) -> Result<Record, String> {
    let line: Line<'_> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let vector = line.vector.ok_or("the field `vector` is missing")?;
    let key = line.key.map(parse_key).transpose()?.flatten();
    let payload = match (line.payload, line.others.is_empty()) {
        (None, true) => None,
        (None, false) => {
            let mut text = String::from("{");
            for (index, (name, value)) in line.others.iter().enumerate() {
                let comma = if index == 0 { "" } else { "," };
                let name = serde_json::to_string(name).map_err(|error| error.to_string())?;
                text.push_str(&format!("{comma}{name}:{}", value.get()));
            }
            text.push('}');
            Some(text)
        }
        (Some(payload), true) => parse_payload(payload.get())?,
        (Some(_), false) => {
            let names: Vec<String> = line.others.iter().map(|(name, _)| excerpt(name)).take(5).collect();
            let text = "beside `payload` other fields would be lost; found";
            return Err(format!("{text} {}", names.join(", ")));
        }
    };
    Ok(Record { key, vector: parse_vector(vector.get())?, payload })
}

/// `text` is one valid JSON value: what is left to ask is whether it is an array of numbers.
fn parse_vector(text: &str) -> Result<Vec<f32>, String> {
    let inner = text.trim().strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let inner = inner.ok_or_else(|| format!("`vector` is {}, not an array", excerpt(text)))?;
    if inner.trim().is_empty() {
        return Ok(Vec::new());
    }
    let mut vector = Vec::new();
    for (index, number) in inner.split(',').enumerate() {
        // JSON has no NaN and no infinity, but strings and nested arrays end up here, and 1e99 does not fit.
        match number.trim().parse::<f32>() {
            Ok(parsed) if parsed.is_finite() => vector.push(parsed),
            Ok(_) => return Err(format!("component {index} is {}, beyond an f32", excerpt(number))),
            Err(_) => return Err(format!("component {index} is {}, not a number", excerpt(number))),
        }
    }
    Ok(vector)
}

fn parse_key(raw: &RawValue) -> Result<Option<KeyValue>, String> {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'"') => {
            serde_json::from_str(text).map(|key| Some(KeyValue::Str(key))).map_err(|e| e.to_string())
        }
        _ => match text.parse() {
            Ok(number) => Ok(Some(KeyValue::U64(number))),
            Err(_) => Err(format!("the key is {}, not a string or a whole number from 0", excerpt(text))),
        },
    }
}

/// `text` is one valid JSON value: an object is a payload, null is none.
pub(crate) fn parse_payload(text: &str) -> Result<Option<String>, String> {
    let text = text.trim();
    match text.as_bytes().first() {
        Some(b'{') => Ok(Some(text.to_owned())),
        Some(b'n') => Ok(None),
        _ => Err(format!("the payload is {}, not a JSON object", excerpt(text))),
    }
}

/// The fields of a line, still in JSON.
#[derive(Default)]
struct Line<'a> {
    vector: Option<&'a RawValue>,
    key: Option<&'a RawValue>,
    payload: Option<&'a RawValue>,
    others: Vec<(String, &'a RawValue)>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Line<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Line<'a>, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Line<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with the field `vector`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Line<'de>, A::Error> {
                let mut line = Line::default();
                while let Some(name) = map.next_key::<String>()? {
                    let value: &'de RawValue = map.next_value()?;
                    let twice = match name.as_str() {
                        "vector" | "embedding" => line.vector.replace(value).is_some(),
                        "key" | "id" => line.key.replace(value).is_some(),
                        "payload" => line.payload.replace(value).is_some(),
                        _ => {
                            line.others.push((name, value));
                            continue;
                        }
                    };
                    if twice {
                        return Err(A::Error::custom(format!(
                            "a second field that means the same as `{name}`"
                        )));
                    }
                }
                Ok(line)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{Format, parse_bytes};

    fn one(line: &str) -> Record {
        parse_bytes(Format::JsonLines, line.as_bytes()).unwrap().remove(0)
    }

    #[test]
    fn fields_and_their_other_names() {
        let record = one(r#"{"vector":[1, 2.5e0,-0],"key":"a\"b","payload":{"x": [1]}}"#);
        assert_eq!(record.vector, [1.0, 2.5, -0.0]);
        assert_eq!(record.key, Some(KeyValue::Str("a\"b".into())));
        assert_eq!(record.payload.as_deref(), Some(r#"{"x": [1]}"#));
        let record = one(r#"{"id":18446744073709551615,"title":"T","embedding":[1],"n":2}"#);
        assert_eq!(record.key, Some(KeyValue::U64(u64::MAX)));
        assert_eq!(record.payload.as_deref(), Some(r#"{"title":"T","n":2}"#));
        let record = one(r#"{"vector":[1],"key":null,"payload":null}"#);
        assert_eq!((record.key, record.payload), (None, None));
    }

    #[test]
    fn damage_is_named() {
        for (text, words) in [
            (
                "{\"vector\":[1,2]}\n\n{\"vector\":[1]}",
                "line 3: the vector has 1 numbers, those before it have 2",
            ),
            ("{\"vector\":[1,NaN]}", "line 1"),
            ("{\"vector\":[1,\"NaN\"]}", "component 1 is \"NaN\", not a number"),
            ("{\"vector\":[1,null]}", "component 1 is null"),
            ("{\"vector\":[[1,2]]}", "not a number"),
            ("{\"vector\":[1e39]}", "component 0 is 1e39, beyond an f32"),
            ("{\"vector\":[]}", "the dimension is 0"),
            ("{\"vector\":7}", "not an array"),
            ("{\"key\":1}", "`vector` is missing"),
            ("{\"vector\":[1],\"key\":-1}", "the key is -1"),
            ("{\"vector\":[1],\"key\":1.5}", "the key is 1.5"),
            ("{\"vector\":[1],\"payload\":[1]}", "not a JSON object"),
            ("{\"vector\":[1],\"payload\":{},\"x\":1}", "would be lost; found x"),
            ("{\"vector\":[1],\"embedding\":[1]}", "a second field"),
            ("{\"vector\":[1]", "line 1"),
            ("[1,2]", "an object with the field"),
        ] {
            let error = parse_bytes(Format::JsonLines, text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(words), "{words:?} is not in {error}");
        }
    }
}
