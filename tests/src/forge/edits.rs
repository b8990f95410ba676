//! Forged catalogs spelled in bytes, so that a fuzzer can write them: edits to the catalog of one small store, which
//! is the same every time.
//!
//! The first byte says what is edited, and which checksums are made to fit:
//!
//! | first byte modulo 4 | edited | made to fit |
//! |---|---|---|
//! | 0 | the bytes of the catalog | nothing |
//! | 1 | redb's header and pages | our checksums of pages; from 128 on, those of redb's commit slots too |
//! | 2 | our rows inside of redb | checksums of rows, their number, their digest |
//! | 3 | `FORMAT` | its checksum |
//!
//! Then edits of six bytes each: what, where (three bytes), a value (two bytes). Missing bytes are zeros.

use crate::forge::catalog::{PAGE, Rows, Table};
use crate::forge::{Forger, put_u64};
use nearstone::{KeyType, Metric, Schema, Store};
use std::sync::OnceLock;

/// More edits show nothing that fewer would not.
const EDITS_MAX: usize = 32;

/// One edit.
#[derive(Clone, Copy, Debug)]
struct Edit {
    what: u8,
    /// A page, or a row.
    place: usize,
    /// Inside of it.
    at: usize,
    value: u16,
}

/// The store that the bytes spell; `None` for no bytes.
pub fn forged(bytes: &[u8]) -> Option<Forger> {
    let (mode, script) = bytes.split_first()?;
    let mut forger = small().clone();
    let edits = script.chunks(6).take(EDITS_MAX).map(|letters| {
        let letter = |at: usize| letters.get(at).copied().unwrap_or(0);
        let number = |at: usize| u16::from_le_bytes([letter(at), letter(at + 1)]);
        Edit { what: letter(0), place: letter(1).into(), at: number(2).into(), value: number(4) }
    });
    match mode % 4 {
        0 => forger.bytes("catalog", |bytes| edits.for_each(|edit| edit_pages(bytes, edit))),
        1 => forger.pages(|pages| {
            edits.for_each(|edit| edit_pages(&mut pages.bytes, edit));
            pages.bytes.resize(pages.bytes.len().max(PAGE).next_multiple_of(PAGE), 0);
            if *mode >= 128 {
                [64, 192].into_iter().for_each(|slot| pages.sign_slot(slot));
            }
        }),
        2 => forger.catalog(|rows| edits.for_each(|edit| edit_rows(rows, edit))),
        _ => forger.format(|bytes| edits.for_each(|edit| edit_bytes(bytes, edit.what, edit.at, edit.value))),
    }
    Some(forger)
}

/// A store with a row or two of everything.
fn small() -> &'static Forger {
    static SMALL: OnceLock<Forger> = OnceLock::new();
    SMALL.get_or_init(|| Forger::of(fill).0)
}

fn fill(store: &Store) {
    let rows = store.create_collection("rows", Schema::new(2, Metric::L2).m(4).ef_construction(8)).unwrap();
    let schema = Schema::new(2, Metric::Cosine).keys(KeyType::Str).m(4).ef_construction(8);
    let names = store.create_collection("names", schema).unwrap();
    for n in 0..6u64 {
        rows.upsert(n, &[n as f32, 1.0], ()).unwrap();
    }
    names.upsert("one", &[1.0, 1.0], serde_json::json!({ "n": 1 })).unwrap();
    store.flush().unwrap();
    rows.delete(2u64).unwrap();
    rows.upsert(9u64, &[9.0, 1.0], ()).unwrap();
    store.flush().unwrap();
    names.upsert("two", &[1.0, 2.0], ()).unwrap();
}

/// Edits bytes in pages: whole pages, or a number in one.
fn edit_pages(bytes: &mut Vec<u8>, edit: Edit) {
    let pages = bytes.len().div_ceil(PAGE).max(1);
    let start = edit.place % pages * PAGE;
    let other = usize::from(edit.value) % pages * PAGE;
    match edit.what / 16 {
        0 => {
            if let Some(page) = bytes.get(other..other + PAGE).map(<[u8]>::to_vec) {
                bytes.splice(start..(start + PAGE).min(bytes.len()), page);
            }
        }
        1 => bytes.truncate(start + edit.at % PAGE),
        2 => bytes.resize(bytes.len() + PAGE * (1 + edit.at % 4), edit.value as u8),
        _ => edit_bytes(bytes, edit.what, start + edit.at % PAGE, edit.value),
    }
}

fn edit_rows(rows: &mut Rows, edit: Edit) {
    let places: Vec<(Table, u64)> = rows.bodies.keys().copied().collect();
    let Some(&place) = places.get(edit.place % places.len().max(1)) else { return };
    match edit.what / 16 {
        0 => drop(rows.bodies.remove(&place)),
        1 => {
            let key = u64::from(edit.value);
            let table = Table::ALL[edit.at % Table::ALL.len()];
            let mut body = rows.body(place.0, place.1).clone();
            if table == Table::Segments && body.len() >= 12 {
                put_u64(&mut body, 4, key);
            }
            rows.bodies.insert((table, key), body);
        }
        2 => rows.body(place.0, place.1).truncate(edit.at),
        3 => rows.count = false,
        _ => edit_bytes(rows.body(place.0, place.1), edit.what, edit.at, edit.value),
    }
}

/// Replaces, flips or inserts a number, if it fits at its place.
fn edit_bytes(bytes: &mut Vec<u8>, what: u8, at: usize, value: u16) {
    if bytes.is_empty() {
        return;
    }
    let at = at % bytes.len();
    let [low, high] = value.to_le_bytes();
    // Numbers of eight bytes at their ends, and near the length of a page.
    let ends =
        [0, 1, PAGE as u64, u64::from(u32::MAX), 1 << 62, u64::MAX - 1, u64::MAX, 0x5800_0000_0000_0000];
    let end = ends[usize::from(low) % ends.len()].wrapping_add(u64::from(high)).to_le_bytes();
    let number = match what % 8 {
        0 => &[low][..],
        1 => &[low, high],
        2 => &[low, high, 0, 0],
        3 => &end[..4],
        4 => &end,
        5 => {
            bytes[at] ^= 1 << (low % 8);
            return;
        }
        6 => {
            bytes.splice(at..at, [low, high]);
            return;
        }
        _ => &[0xff; 4],
    };
    if let Some(place) = bytes.get_mut(at..at + number.len()) {
        place.copy_from_slice(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forge::FOLDER;
    use crate::forge::ask::ask;
    use crate::forge::ask::writer;

    #[test]
    fn no_edits_leave_a_sound_store_that_is_the_same_every_time() {
        assert!(forged(&[]).is_none());
        for mode in [0, 1, 2, 3, 129] {
            let store = writer(&forged(&[mode]).unwrap().disk()).open(FOLDER).unwrap();
            let answers = ask(&store);
            assert!(answers.verified && answers.errors.is_empty(), "mode {mode}: {:?}", answers.errors);
            assert_eq!(answers.contents.len(), 8);
        }
        assert_eq!(small().files, Forger::of(fill).0.files);
    }
}
