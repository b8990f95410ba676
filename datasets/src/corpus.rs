//! Passages of text from folders: something to embed that is on every developer's disk.
//!
//! 1. Folders are walked in the order of their names. Hidden entries, links, folders called `target` or
//!    `node_modules`, lock files, files above [`FILE_BYTES_MAX`] and files that are not UTF-8 text are passed over.
//! 2. A file is cut where a blank line follows at least [`PASSAGE_CHARS_MIN`] characters, at the latest before
//!    [`PASSAGE_CHARS_MAX`]; a line that is longer by itself is cut at a blank.
//! 3. With several roots, each gives one file in turn, so that a few passages already come from all of them. A
//!    passage that was seen before (licences, mostly) is not given again.
//!
//! The same folders give the same passages. What cannot be read is passed over: this is a sample, not an archive.

use crate::random::mix;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Files above this are data, not text to read.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// A passage ends at the first blank line after this.
pub const PASSAGE_CHARS_MIN: usize = 400;

/// No passage is longer.
pub const PASSAGE_CHARS_MAX: usize = 900;

/// Shorter leftovers are not worth a row.
const LEFTOVER_CHARS_MIN: usize = 80;

/// A piece of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Passage {
    /// The file: the root's own name, then the path below it.
    pub file: PathBuf,
    /// The line it begins on, from 1.
    pub line: u32,
    /// The text, without blank lines around it.
    pub text: String,
}

/// Up to `passages_max` passages of the text files under `roots`.
pub fn collect_passages(roots: &[PathBuf], passages_max: usize) -> Vec<Passage> {
    let mut walks: Vec<(PathBuf, Walk)> = roots
        .iter()
        .map(|root| (root.file_name().map(PathBuf::from).unwrap_or_default(), Walk::new(root)))
        .collect();
    let mut passages = Vec::new();
    let mut seen = HashSet::new();
    while !walks.is_empty() {
        walks.retain_mut(|(name, walk)| {
            if passages.len() >= passages_max {
                return false;
            }
            let Some((path, text)) = walk.next_text() else { return false };
            let file = name.join(path.strip_prefix(&walk.root).unwrap_or(&path));
            for (line, text) in split_passages(&text) {
                if passages.len() < passages_max && seen.insert(fingerprint(&text)) {
                    passages.push(Passage { file: file.clone(), line, text });
                }
            }
            true
        });
    }
    passages
}

/// Cuts a text into passages; each with the line it begins on, from 1.
pub fn split_passages(text: &str) -> Vec<(u32, String)> {
    let mut cut = Cut::default();
    for (number, line) in (1u32..).zip(text.lines()) {
        let line = line.trim_end();
        if line.is_empty() {
            if cut.chars >= PASSAGE_CHARS_MIN {
                cut.end();
            } else if cut.chars > 0 {
                cut.push(number, "");
            }
            continue;
        }
        let mut rest = line;
        while !rest.is_empty() {
            let piece = head(rest, PASSAGE_CHARS_MAX);
            if cut.chars + piece.chars().count() + 1 > PASSAGE_CHARS_MAX {
                cut.end();
            }
            cut.push(number, piece);
            rest = rest.get(piece.len()..).unwrap_or_default();
        }
    }
    cut.end();
    cut.passages
}

#[derive(Default)]
struct Cut {
    passages: Vec<(u32, String)>,
    line: u32,
    text: String,
    chars: usize,
}

impl Cut {
    fn push(&mut self, line: u32, piece: &str) {
        if self.chars == 0 {
            self.line = line;
        }
        self.text.push_str(piece);
        self.text.push('\n');
        self.chars += piece.chars().count() + 1;
    }

    fn end(&mut self) {
        let text = self.text.trim_end();
        if text.chars().count() >= LEFTOVER_CHARS_MIN {
            self.passages.push((self.line, text.to_owned()));
        }
        self.text.clear();
        self.chars = 0;
    }
}

/// The first part of a line, less than `chars_max` characters with its line end; up to a blank if there is one in the
/// second half.
fn head(line: &str, chars_max: usize) -> &str {
    let Some((end, _)) = line.char_indices().nth(chars_max - 1) else { return line };
    let part = line.get(..end).unwrap_or(line);
    match part.rfind(char::is_whitespace) {
        Some(blank) if blank > end / 2 => part.get(..blank).unwrap_or(part),
        _ => part,
    }
}

fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(text.len() as u64, |hash, byte| mix(hash ^ u64::from(byte)))
}

/// A walk through one root, depth first.
struct Walk {
    root: PathBuf,
    /// What is still to visit, the next one last.
    pending: Vec<PathBuf>,
}

impl Walk {
    fn new(root: &Path) -> Walk {
        Walk { root: root.to_path_buf(), pending: vec![root.to_path_buf()] }
    }

    fn next_text(&mut self) -> Option<(PathBuf, String)> {
        while let Some(path) = self.pending.pop() {
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            // The root itself may be a link; below it, links could lead anywhere, or in circles.
            let is_folder = metadata.is_dir() || (path == self.root && path.is_dir());
            if is_folder {
                let Ok(entries) = fs::read_dir(&path) else { continue };
                let mut inside: Vec<PathBuf> = entries
                    .filter_map(|entry| Some(entry.ok()?.path()))
                    .filter(|path| is_wanted(path))
                    .collect();
                inside.sort_unstable_by(|a, b| b.cmp(a));
                self.pending.append(&mut inside);
            } else if metadata.is_file() && metadata.len() <= FILE_BYTES_MAX {
                let text = fs::read(&path).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                if let Some(text) = text.filter(|text| !text.contains('\0')) {
                    return Some((path, text));
                }
            }
        }
        None
    }
}

fn is_wanted(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    !(name.starts_with('.') || name.ends_with(".lock") || matches!(name.as_ref(), "target" | "node_modules"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn paragraph(word: &str, chars: usize) -> String {
        format!("{word} ").repeat(chars / (word.len() + 1))
    }

    #[test]
    fn passages_end_at_blank_lines_and_know_their_line() {
        let text = format!(
            "\n{}\n\n{}\n\n{}\n",
            paragraph("one", 300),
            paragraph("two", 300),
            paragraph("three", 500)
        );
        let passages = split_passages(&text);
        assert_eq!(passages.len(), 2);
        assert_eq!((passages[0].0, passages[1].0), (2, 6));
        assert!(passages[0].1.contains("one") && passages[0].1.contains("two"));
        assert!(passages[1].1.starts_with("three"));
    }

    #[test]
    fn long_lines_are_cut_at_blanks() {
        let passages = split_passages(&paragraph("word", 5000));
        assert!(passages.len() >= 5);
        assert!(passages.iter().all(|(line, text)| *line == 1 && text.trim_start().starts_with("word")));
    }

    #[test]
    fn folders_are_walked_in_order_and_only_text_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, bytes: &[u8]| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        let text = |word: &str| paragraph(word, 500).into_bytes();
        write("x/b.txt", &text("bravo"));
        write("x/a/deep.md", &text("alpha"));
        write("x/copy.txt", &text("alpha"));
        write("x/.hidden/no.txt", &text("hidden"));
        write("x/target/no.txt", &text("built"));
        write("x/Cargo.lock", &text("lock"));
        write("x/binary", b"\0\xff\xfe");
        write("x/big.txt", &vec![b'x'; FILE_BYTES_MAX as usize + 1]);
        write("y/c.txt", &text("charlie"));
        let roots = [folder.path().join("x"), folder.path().join("y"), folder.path().join("missing")];
        let passages = collect_passages(&roots, 100);
        let files: Vec<String> =
            passages.iter().map(|p| p.file.to_string_lossy().replace('\\', "/")).collect();
        assert_eq!(files, ["x/a/deep.md", "y/c.txt", "x/b.txt"]);
        assert_eq!(collect_passages(&roots, 2), passages[..2]);
        assert!(collect_passages(&roots, 0).is_empty());
    }

    proptest! {
        #[test]
        fn any_text_gives_passages_within_the_limits(text in "(\\PC{0,1200}\n{0,3}){0,8}") {
            for (line, passage) in split_passages(&text) {
                let chars = passage.chars().count();
                prop_assert!((LEFTOVER_CHARS_MIN..=PASSAGE_CHARS_MAX).contains(&chars), "{chars}");
                prop_assert!(line as usize <= text.lines().count());
            }
        }
    }
}
