//! Figures as they come, as text, and all of them at the end, as JSON.

use serde_json::{Map, Value};

pub(crate) struct Report {
    json: bool,
    figures: Map<String, Value>,
}

impl Report {
    pub(crate) fn new(json: bool) -> Report {
        Report { json, figures: Map::new() }
    }

    pub(crate) fn say(&self, text: &str) {
        if !self.json {
            println!("{text}");
        }
    }

    /// A figure under a stable name, with its unit in the name.
    pub(crate) fn figure(&mut self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        if !self.json {
            match value.as_f64() {
                Some(number) if value.is_f64() => println!("  {name:<44} {number:>14.4}"),
                _ => println!("  {name:<44} {value:>14}"),
            }
        }
        self.figures.insert(name.to_owned(), value);
    }

    pub(crate) fn finish(self) {
        if self.json {
            println!("{}", Value::Object(self.figures));
        }
    }
}
