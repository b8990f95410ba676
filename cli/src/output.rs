//! Where results and errors go, and the exit codes.

use nearstone::ErrorKind;
use serde_json::{Value, json};
use std::fmt::Display;
use std::process::ExitCode;

/// What a command fails with.
pub(crate) enum Failure {
    /// From the store.
    Store(nearstone::Error),
    /// From a data file.
    Data(nearstone_datasets::Error),
    /// An argument that only makes sense in its place.
    Usage(String),
    /// Anything else.
    Other(String),
}

pub(crate) type Outcome = Result<(), Failure>;

impl From<nearstone::Error> for Failure {
    fn from(error: nearstone::Error) -> Failure {
        Failure::Store(error)
    }
}

impl From<nearstone_datasets::Error> for Failure {
    fn from(error: nearstone_datasets::Error) -> Failure {
        Failure::Data(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::Other(error.to_string())
    }
}

/// Text or JSON.
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Output {
        Output { json }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// The command's result: `value` as JSON, or what `text` prints.
    pub(crate) fn result(&self, value: &Value, text: impl FnOnce()) {
        if self.json {
            print_line(value);
        } else {
            text();
        }
    }

    /// Something said on the way, as text only.
    pub(crate) fn say(&self, line: impl Display) {
        if !self.json {
            print_line(line);
        }
    }

    pub(crate) fn fail(&self, failure: &Failure) -> ExitCode {
        let (kind, message, code) = match failure {
            Failure::Store(error) => (kind_name(error.kind()), error.to_string(), exit_code(error.kind())),
            Failure::Data(error) => match error.kind() {
                nearstone_datasets::ErrorKind::Io => ("io", error.to_string(), 1),
                _ => ("invalid_argument", error.to_string(), 2),
            },
            Failure::Usage(message) => ("invalid_argument", message.clone(), 2),
            Failure::Other(message) => ("io", message.clone(), 1),
        };
        if self.json {
            eprintln!("{}", json!({ "error": { "kind": kind, "message": message } }));
        } else {
            eprintln!("error: {message}");
        }
        ExitCode::from(code)
    }
}

/// Prints a line; a reader that went away (`| head`) ends the program quietly.
pub(crate) fn print_line(line: impl Display) {
    use std::io::Write;
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(0);
    }
}

/// The exit code of each kind of error; `--help` lists them.
pub(crate) fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::InvalidArgument => 2,
        ErrorKind::NotFound => 3,
        ErrorKind::AlreadyExists => 4,
        ErrorKind::NotAStore | ErrorKind::UnsupportedVersion => 5,
        ErrorKind::Corruption => 6,
        ErrorKind::Busy => 7,
        ErrorKind::ReadOnly => 8,
        ErrorKind::DiskFull => 9,
        _ => 1,
    }
}

fn kind_name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidArgument => "invalid_argument",
        ErrorKind::NotFound => "not_found",
        ErrorKind::AlreadyExists => "already_exists",
        ErrorKind::NotAStore => "not_a_store",
        ErrorKind::UnsupportedVersion => "unsupported_version",
        ErrorKind::Corruption => "corruption",
        ErrorKind::Io => "io",
        ErrorKind::DiskFull => "disk_full",
        ErrorKind::Busy => "busy",
        ErrorKind::ReadOnly => "read_only",
        ErrorKind::Cancelled => "cancelled",
        ErrorKind::Poisoned => "poisoned",
        ErrorKind::Closed => "closed",
        _ => "other",
    }
}

/// Thousands apart, for people.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in a unit that people read.
pub(crate) fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// Columns of text, the first to the left, the others to the right.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut out = String::new();
        for (index, (cell, width)) in cells.zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count());
            let (before, after) = if index == 0 { ("", pad.as_str()) } else { (pad.as_str(), "") };
            out.push_str(&format!("{before}{cell}{after}  "));
        }
        print_line(out.trim_end());
    };
    line(&mut header.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
