//! Damage: every kind of it gives the state that was committed, or an error that says so.

use super::super::pages::{HEADER, PAGE};
use super::super::rows::{Change, META_KEY, changes};
use super::*;
use nearstone_base::codec::Writer;
use proptest::prelude::*;

/// The file after a few commits, and its state; closed in order or not.
fn file(clean: bool, commits: usize) -> (Vec<u8>, CatalogState) {
    let disk = Disk::default();
    let catalog = grown(&disk, commits);
    let state = CatalogState::clone(catalog.state());
    if clean {
        catalog.close().unwrap();
    } else {
        catalog.poison();
        drop(catalog);
    }
    (disk.contents(&catalog_path()).unwrap(), state)
}

/// Reads and opens damaged bytes: the right state or `Corruption`. Says whether it was found.
fn check(bytes: Vec<u8>, state: &CatalogState, what: &dyn Fn() -> String) -> bool {
    let disk = Disk::with(&catalog_path(), bytes);
    let found = read(&disk);
    assert_eq!(disk.ops(), 0);
    let damaged = match &found {
        Ok(found) => {
            assert_eq!(found, state, "{}", what());
            false
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corruption, "{}: {error}", what());
            assert!(error.place().is_some());
            true
        }
    };
    let opened = Catalog::open(disk.vfs(), dir(), STORE);
    assert_eq!(opened.is_err(), damaged, "{}", what());
    if damaged {
        assert_eq!(disk.ops(), 0, "a damaged catalog is not touched: {}", what());
    }
    damaged
}

#[test]
fn a_flipped_bit_is_found_or_harmless() {
    for clean in [true, false] {
        let (bytes, state) = file(clean, 6);
        assert!(!check(bytes.clone(), &state, &|| "undamaged".into()));
        let mut random = SplitMix64::new(9);
        let header = (0..(HEADER + 8) * 8).map(|bit| (bit / 8, bit % 8));
        let slots: Vec<_> = (0..500)
            .map(|_| (PAGE + random.below((bytes.len() - PAGE) as u64) as usize, random.below(8) as usize))
            .collect();
        let mut found = [0, 0];
        for (at, bit) in header.chain(slots) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let damaged = check(flipped, &state, &|| format!("bit {bit} of byte {at}"));
            found[usize::from(at >= PAGE)] += usize::from(damaged);
        }
        assert_eq!(found[0], (HEADER + 8) * 8, "every bit of the header counts");
        assert!(found[1] > 20, "{} found", found[1]);
    }
}

#[test]
fn a_cut_or_grown_file_is_found() {
    let (bytes, state) = file(true, 5);
    let mut random = SplitMix64::new(2);
    let slots = (0..bytes.len() / (PAGE + 8)).flat_map(|i| [i * (PAGE + 8), PAGE + i * (PAGE + 8)]);
    let lengths: Vec<usize> = (0..700).chain(slots).collect();
    let random = (0..300).map(|_| random.below(bytes.len() as u64) as usize);
    for len in lengths.into_iter().chain(random).filter(|len| *len < bytes.len()) {
        assert!(check(bytes[..len].to_vec(), &state, &|| format!("cut to {len}")));
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(check(longer, &state, &|| "one byte more".into()));
}

#[test]
fn pages_zeroed_swapped_or_out_of_date_are_found_or_harmless() {
    let disk = Disk::default();
    let mut catalog = grown(&disk, 6);
    let mut random = SplitMix64::new(4);
    let mut olds = Vec::new();
    for _ in 0..4 {
        olds.push(disk.contents(&catalog_path()).unwrap());
        let state = next(catalog.state(), &mut random);
        catalog.commit(state).unwrap();
    }
    let new = disk.contents(&catalog_path()).unwrap();
    let state = CatalogState::clone(catalog.state());
    catalog.poison();
    let slot = PAGE + 8;
    let count = (new.len() - PAGE) / slot;
    let (mut zeroed, mut swapped, mut stale) = (0, 0, 0);
    for i in 0..count {
        let place = PAGE + i * slot..PAGE + (i + 1) * slot;
        let mut bytes = new.clone();
        bytes[place.clone()].fill(0);
        zeroed += usize::from(check(bytes, &state, &|| format!("slot {i} zeroed")));
        let mut bytes = new.clone();
        bytes.copy_within(PAGE + (i + 1) % count * slot..PAGE + ((i + 1) % count + 1) * slot, place.start);
        swapped += usize::from(check(bytes, &state, &|| format!("slot {i} replaced by its neighbour")));
        for (age, old) in olds.iter().rev().enumerate() {
            // A page of an earlier commit, whole and with its checksum: only the digest of all rows and redb's own
            // trees can tell. redb itself may follow it into a panic, which has to end as an error. A page that is
            // accepted was a free one, and later commits must be none the worse for it.
            let Some(before) = old.get(place.clone()).filter(|before| **before != new[place.clone()]) else {
                continue;
            };
            let mut bytes = new.clone();
            bytes[place.clone()].copy_from_slice(before);
            if check(bytes.clone(), &state, &|| format!("slot {i} of {} commits before", age + 1)) {
                stale += 1;
                continue;
            }
            let disk = Disk::with(&catalog_path(), bytes);
            let mut catalog = Catalog::open(disk.vfs(), dir(), STORE).unwrap();
            for _ in 0..3 {
                let state = next(catalog.state(), &mut random);
                catalog.commit(state).unwrap();
            }
            assert_eq!(read(&disk).unwrap(), **catalog.state());
        }
    }
    assert!(zeroed > 3 && swapped > 3 && stale > 3, "{zeroed}, {swapped}, {stale}");
}

#[test]
fn an_older_copy_is_told_by_its_generation() {
    let (old, before) = file(true, 4);
    let (new, after) = file(true, 5);
    let disk = Disk::with(&catalog_path(), old.clone());
    let found = read(&disk).unwrap();
    assert_eq!(found, before);
    assert!(found.generation < after.generation, "the log, which knows the later one, refuses this one");
    // The header alone from an older copy: nothing but an error or that older state.
    let mut mixed = new;
    mixed[..PAGE].copy_from_slice(&old[..PAGE]);
    match read(&Disk::with(&catalog_path(), mixed)) {
        Ok(found) => assert!(found == after || found.generation < after.generation),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Corruption),
    }
}

#[test]
fn missing_empty_and_foreign_files_are_corruption_and_stay_as_they_are() {
    let (bytes, _) = file(true, 3);
    for (bytes, store, word) in [
        (Some(Vec::new()), STORE, "an empty file"),
        (None, STORE, "no file"),
        (Some(vec![0; 8200]), STORE, "none"),
        (Some(b"something else".repeat(1000)), STORE, "length"),
        (Some(bytes), Uuid([9; 16]), "header with checksum"),
    ] {
        let disk = bytes.clone().map_or_else(Disk::default, |bytes| Disk::with(&catalog_path(), bytes));
        for result in [
            Catalog::read(&disk.vfs(), dir(), store).map(drop),
            Catalog::open(disk.vfs(), dir(), store).map(drop),
        ] {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
            assert!(error.to_string().contains(word), "{word}: {error}");
        }
        assert_eq!((disk.ops(), disk.contents(&catalog_path())), (0, bytes));
    }
}

fn decode(changes: &[Change]) -> Result<CatalogState, Flaw> {
    let mut decoder = Decoder::new(STORE);
    for change in changes {
        decoder.row(change.table, change.key, change.value.as_deref().unwrap_or_default())?;
    }
    decoder.finish().map(|(state, _)| state)
}

#[test]
fn rows_that_are_missing_changed_moved_or_left_over_are_found() {
    let (_, state) = file(true, 8);
    let all = || changes(None, &state, &Digest::default()).0;
    assert_eq!(decode(&all()).unwrap(), state);
    let older = changes(None, &file(true, 7).1, &Digest::default()).0;
    for i in 0..all().len() {
        let mut rows = all();
        rows.remove(i);
        assert!(decode(&rows).is_err(), "row {i} missing");
        let mut rows = all();
        let (table, key) = (rows[i].table, rows[i].key);
        if let Some(value) = rows[i].value.as_mut() {
            let at = value.len() / 2;
            value[at] ^= 16;
        }
        assert!(decode(&rows).is_err(), "row {i} changed");
        let mut rows = all();
        rows[i].key += 1000;
        assert!(decode(&rows).is_err(), "row {i} moved");
        let mut rows = all();
        if let Some(old) = older.iter().find(|old| (old.table, old.key) == (table, key))
            && old.value != rows[i].value
        {
            rows[i].value.clone_from(&old.value);
            assert!(decode(&rows).is_err(), "row {i} of the commit before");
        }
    }
    let mut rows = all();
    rows.extend(older.into_iter().filter(|old| !state.segments.contains_key(&SegmentId(old.key))).take(1));
    assert!(rows.len() == all().len() || decode(&rows).is_err(), "a row left over");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nonsense_under_a_good_checksum_never_panics(
        table in 0..4usize, key in 0..3u64, body in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let table = Table::ALL[table];
        let mut out = Writer::new();
        if table == Table::Meta && key == META_KEY {
            out.u32(1);
            out.raw(&STORE.0);
        }
        out.raw(&body);
        let value = rows::close_value(STORE, table, key, out);
        let _ = decode(&[Change { table, key, value: Some(value) }]);
    }

    #[test]
    fn damaged_bitmaps_under_a_good_checksum_never_panic(
        rows in proptest::collection::vec(any::<u32>(), 1..50), dense in 0..6000u32,
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut state = file(true, 1).1;
        let id = *state.segments.keys().next().unwrap();
        state.segments.get_mut(&id).unwrap().meta.rows = u32::MAX;
        state.deaths = [(id, rows.into_iter().chain(9..9 + dense).collect())].into();
        state.deaths.get_mut(&id).unwrap().remove(u32::MAX);
        let (mut all, _) = changes(None, &state, &Digest::default());
        prop_assert_eq!(decode(&all).unwrap(), state);
        let change = all.iter_mut().find(|change| change.table == Table::Deaths).unwrap();
        let mut bytes = change.value.take().unwrap();
        bytes.truncate(bytes.len() - 4);
        for (at, bits) in flips {
            let at = at.index(bytes.len().min(64));
            bytes[at] ^= bits;
        }
        let mut out = Writer::new();
        out.raw(&bytes);
        change.value = Some(rows::close_value(STORE, Table::Deaths, id.0, out));
        // The digest refuses whatever came out; getting there is the test.
        let _ = decode(&all);
    }

    #[test]
    fn states_survive_their_rows(seed: u64, steps in 0..6usize) {
        let mut random = SplitMix64::new(seed);
        let mut state = CatalogState::new(STORE);
        let mut digest = Digest::default();
        for _ in 0..steps {
            let after = next(&state, &mut random);
            (_, digest) = changes(Some(&state), &after, &digest);
            state = after;
        }
        let (rows, whole) = changes(None, &state, &Digest::default());
        prop_assert_eq!(format!("{whole:?}"), format!("{digest:?}"), "step by step and at once");
        prop_assert_eq!(decode(&rows).unwrap(), state);
    }
}
