//! Garbage: which files of a store's folders are ours and named by nothing.
//!
//! A name is swept only if it parses strictly as one that Nearstone writes: files that someone else put into the
//! folder stay. Sweeping happens at open, after everything has validated, and never while anything is in doubt.

use nearstone_base::SegmentId;
use std::collections::BTreeSet;

/// The file name of a sealed segment.
pub fn segment_file(id: SegmentId) -> String {
    format!("{:016x}.seg", id.0)
}

/// The id in the name of a sealed segment (`.seg`) or of one that was being written (`.tmp`).
pub fn parse_segment_file(name: &str) -> Option<(SegmentId, bool)> {
    let (digits, suffix) = name.split_once('.')?;
    let finished = match suffix {
        "seg" => true,
        "tmp" => false,
        _ => return None,
    };
    let strict = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    strict.then(|| u64::from_str_radix(digits, 16).ok().map(|id| (SegmentId(id), finished))).flatten()
}

/// The names in the segments folder that can go: unfinished files, and finished ones that the catalog does not name.
pub fn garbage<'a>(names: &'a [String], live: &BTreeSet<SegmentId>) -> Vec<&'a str> {
    names
        .iter()
        .map(String::as_str)
        .filter(|name| match parse_segment_file(name) {
            Some((id, true)) => !live.contains(&id),
            Some((_, false)) => true,
            None => false,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_unnamed_files_are_garbage() {
        let names: Vec<String> = [
            "0000000000000001.seg",
            "0000000000000002.seg",
            "0000000000000003.tmp",
            "notes.txt",
            "3.seg",
            "000000000000000A.seg",
            "0000000000000004.seg.bak",
        ]
        .map(String::from)
        .into();
        let live = BTreeSet::from([SegmentId(1)]);
        assert_eq!(garbage(&names, &live), ["0000000000000002.seg", "0000000000000003.tmp"]);
        assert_eq!(parse_segment_file(&segment_file(SegmentId(77))), Some((SegmentId(77), true)));
    }
}
