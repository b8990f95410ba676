//! Forged catalogs and `FORMAT` files, and what lies around in the folder. Collection 1 is `rows`, 2 is `names`.

use crate::Fate::{Refused, Right, Safe};
use crate::{Case, case};
use nearstone_base::checksum::hash128;
use nearstone_tests::forge::catalog::{PAGE, Table, meta};
use nearstone_tests::forge::segment::SCHEMA_IN_CATALOG;
use nearstone_tests::forge::{Forger, put_u32, put_u64, schema_bytes};
use roaring::RoaringBitmap;

fn number(forger: &mut Forger, at: usize, value: u64) {
    forger.catalog(|rows| put_u64(rows.meta(), at, value));
}

/// Gives collection 1 another name, in bytes.
fn name(forger: &mut Forger, name: &[u8]) {
    forger.catalog(|rows| {
        let row = rows.body(Table::Collections, 1);
        let rest = row[8..].to_vec();
        *row = [&(name.len() as u32).to_le_bytes(), name, &rest].concat();
    });
}

fn schema(forger: &mut Forger, dimension: u32, m: u16, ef: u32) {
    forger.catalog(|rows| rows.set_schema(1, &schema_bytes(dimension, 1, 0, m, ef)));
}

/// Changes the row of the first segment; `at` counts from behind its schema: length 8, digest 16, rows 4, lowest lsn 8,
/// highest 8, user bytes 8, created 8.
fn segment(forger: &mut Forger, change: fn(&mut [u8])) {
    forger.catalog(|rows| {
        let key = rows.keys(Table::Segments)[0];
        change(&mut rows.body(Table::Segments, key)[SCHEMA_IN_CATALOG + 12..]);
    });
}

fn deaths(forger: &mut Forger, bytes: Vec<u8>) {
    forger.catalog(|rows| {
        let key = rows.keys(Table::Deaths)[0];
        *rows.body(Table::Deaths, key) = bytes;
    });
}

fn bitmap(rows: impl IntoIterator<Item = u32>) -> Vec<u8> {
    let mut out = Vec::new();
    rows.into_iter().collect::<RoaringBitmap>().serialize_into(&mut out).unwrap();
    out
}

/// A portable bitmap with this many containers of one run each that is all 65,536 rows.
fn runs(containers: u32) -> Vec<u8> {
    let mut out = (12_347 | (containers - 1) << 16).to_le_bytes().to_vec();
    out.resize(out.len() + containers.div_ceil(8) as usize, 0xff);
    (0..containers as u16).for_each(|key| out.extend([key.to_le_bytes(), [0xff; 2]].concat()));
    (0..containers).for_each(|_| out.extend([0; 4]));
    (0..containers).for_each(|_| out.extend([1, 0, 0, 0, 0xff, 0xff]));
    out
}

/// Copies collection 2, without its segments, to other ids.
fn collections(forger: &mut Forger, count: u32) {
    forger.catalog(|rows| {
        let row = rows.body(Table::Collections, 2).clone();
        for id in 10..10 + u64::from(count) {
            let name = format!("{id:05}");
            let row = [&(name.len() as u32).to_le_bytes(), name.as_bytes(), &row[9..]].concat();
            rows.bodies.insert((Table::Collections, id), row);
        }
        put_u32(rows.meta(), meta::NEXT_COLLECTION, 10 + count);
    });
}

/// Where the first commit slot in use has its root of tables, and its system root.
const USER_ROOT: usize = 8;
const SYSTEM_ROOT: usize = 40;

/// Puts a page number into a root of the commit slot in use.
fn root(forger: &mut Forger, root: usize, page: u64) {
    forger.pages(|pages| {
        let slot = pages.slot();
        put_u64(&mut pages.bytes, slot + root, page);
        pages.sign_slot(slot);
    });
}

/// Puts branches above the root of tables, as many as `levels`, each with two children that are both the one below,
/// with checksums that fit: `2^levels` ways lead to the old root.
fn double(forger: &mut Forger, levels: u32) {
    forger.pages(|pages| {
        let slot = pages.slot();
        let mut child = pages.bytes[slot + USER_ROOT..][..24].to_vec();
        for _ in 0..levels {
            let number = (pages.bytes.len() / PAGE - 1) as u64;
            let (page, sum) = child.split_at(8);
            let end = (8 + 2 * 24 + 4 + 1u32).to_le_bytes();
            let mut node = [&[2, 0, 1, 0, 0, 0, 0, 0], sum, sum, page, page, &end, b"m"].concat();
            child = [&number.to_le_bytes()[..], &hash128(&node).to_le_bytes()].concat();
            node.resize(PAGE, 0);
            pages.bytes.extend(node);
        }
        pages.bytes[slot + USER_ROOT..][..24].copy_from_slice(&child);
        pages.sign_slot(slot);
    });
}

/// Puts a number into every leaf of redb's trees.
fn nodes(forger: &mut Forger, at: usize, value: u32) {
    forger.pages(|pages| {
        for node in pages.nodes(1) {
            put_u32(&mut pages.bytes, node + at, value);
        }
    });
}

/// Puts a number into the leaf that holds the names of the tables, whose entries begin behind a table of their ends.
fn names_of_tables(forger: &mut Forger, at: usize, value: u32) {
    forger.pages(|pages| {
        let holds = |node: &[u8]| node.windows(11).any(|bytes| bytes == b"collections");
        let leaves = pages.nodes(1).into_iter().filter(|&node| holds(&pages.bytes[node..node + PAGE]));
        let leaves: Vec<usize> = leaves.collect();
        assert!(!leaves.is_empty());
        for node in leaves {
            put_u32(&mut pages.bytes, node + at, value);
        }
    });
}

/// Puts a page number into every list of pages that redb is to free: values behind keys of 16 bytes, each a length of
/// two bytes, then the numbers.
fn pages_to_free(forger: &mut Forger, page: u64) {
    forger.pages(|pages| {
        let mut lists = 0;
        for node in pages.nodes(1) {
            let leaf = &mut pages.bytes[node..node + PAGE];
            let number = |at: usize| u32::from_le_bytes([leaf[at], leaf[at + 1], leaf[at + 2], leaf[at + 3]]);
            let count = usize::from(leaf[2]);
            let starts = (0..count).map(|n| match n {
                0 => 4 + 20 * count,
                n => number(4 * n) as usize,
            });
            let spans: Vec<_> = starts.zip((0..count).map(|n| number(4 + 4 * n) as usize)).collect();
            for (start, end) in spans {
                let list = leaf.get_mut(start..end).filter(|list| list.len() >= 10 && list.len() % 8 == 2);
                if let Some(list) =
                    list.filter(|list| usize::from(list[0]) * 8 + 2 <= list.len() && list[0] > 0)
                {
                    put_u64(list, 2, page);
                    lists += 1;
                }
            }
        }
        assert!(lists > 0, "redb frees nothing");
    });
}

/// redb's number of a page: its order above, its region, its place below.
const fn page(order: u64, region: u64, index: u64) -> u64 {
    order << 59 | region << 20 | index
}

pub(crate) static CASES: &[Case] = &[
    case(Right, "catalog: nothing", |f| f.catalog(|_| {})),
    case(Right, "catalog: the same pages", |f| f.pages(|_| {})),
    // FORMAT.
    case(Right, "format: the same", |f| f.format(|_| {})),
    case(Refused, "format: magic", |f| f.format(|bytes| bytes[1] = b'n')),
    case(Refused, "format: version 0", |f| f.format(|bytes| put_u32(bytes, 8, 0))),
    case(Refused, "format: version max", |f| f.format(|bytes| put_u32(bytes, 8, u32::MAX))),
    case(Refused, "format: another store", |f| f.format(|bytes| bytes[16] ^= 1)),
    case(Right, "format: all ignorable features", |f| f.format(|bytes| put_u64(bytes, 32, u64::MAX))),
    case(Safe, "format: features for reading only", |f| f.format(|bytes| put_u64(bytes, 40, 1))),
    case(Refused, "format: a feature to refuse", |f| f.format(|bytes| put_u64(bytes, 48, 1 << 63))),
    case(Right, "format: its reserved number", |f| f.format(|bytes| put_u64(bytes, 56, u64::MAX))),
    case(Refused, "format: a byte more", |f| f.format(|bytes| bytes.push(0))),
    case(Refused, "format: a megabyte more", |f| f.format(|bytes| bytes.resize(1 << 20, 0))),
    case(Refused, "format: cut short", |f| f.format(|bytes| bytes.truncate(40))),
    case(Refused, "format: empty", |f| f.format(Vec::clear)),
    case(Refused, "format: missing", |f| {
        f.files.remove(std::path::Path::new("FORMAT"));
    }),
    // The state's numbers.
    case(Refused, "catalog state: version 0", |f| f.catalog(|rows| put_u32(rows.meta(), meta::VERSION, 0))),
    case(Refused, "catalog state: version max", |f| {
        f.catalog(|rows| put_u32(rows.meta(), meta::VERSION, u32::MAX));
    }),
    case(Refused, "catalog state: another store", |f| f.catalog(|rows| rows.meta()[4] ^= 1)),
    case(Refused, "catalog state: generation 0", |f| number(f, meta::GENERATION, 0)),
    case(Refused, "catalog state: generation 1", |f| number(f, meta::GENERATION, 1)),
    case(Refused, "catalog state: generation max", |f| number(f, meta::GENERATION, u64::MAX)),
    case(Refused, "catalog state: generation max - 1", |f| number(f, meta::GENERATION, u64::MAX - 1)),
    case(Refused, "catalog state: next collection 0", |f| {
        f.catalog(|rows| put_u32(rows.meta(), meta::NEXT_COLLECTION, 0));
    }),
    case(Refused, "catalog state: next collection in the past", |f| {
        f.catalog(|rows| put_u32(rows.meta(), meta::NEXT_COLLECTION, 2));
    }),
    case(Refused, "catalog state: next collection max", |f| {
        f.catalog(|rows| put_u32(rows.meta(), meta::NEXT_COLLECTION, u32::MAX));
    }),
    case(Refused, "catalog state: next segment in the past", |f| number(f, meta::NEXT_SEGMENT, 1)),
    case(Refused, "catalog state: next segment max", |f| number(f, meta::NEXT_SEGMENT, u64::MAX)),
    case(Refused, "catalog state: next segment max - 2", |f| number(f, meta::NEXT_SEGMENT, u64::MAX - 2)),
    case(Refused, "catalog state: log floor 0", |f| number(f, meta::WAL_FLOOR, 0)),
    case(Refused, "catalog state: log floor max", |f| number(f, meta::WAL_FLOOR, u64::MAX)),
    case(Right, "catalog state: log floor 1", |f| number(f, meta::WAL_FLOOR, 1)),
    case(Refused, "catalog state: last lsn 0", |f| number(f, meta::LAST_LSN, 0)),
    case(Refused, "catalog state: last lsn max", |f| number(f, meta::LAST_LSN, u64::MAX)),
    case(Refused, "catalog state: last lsn max - 1", |f| number(f, meta::LAST_LSN, u64::MAX - 1)),
    case(Refused, "catalog state: all lsns max - 1 and no log", |f| {
        f.catalog(|rows| {
            put_u64(rows.meta(), meta::LAST_LSN, u64::MAX - 1);
            put_u64(rows.meta(), meta::WAL_FLOOR, u64::MAX);
            rows.meta()[meta::CLEAN] = 0;
        });
        f.files.retain(|path, _| !path.starts_with("wal"));
    }),
    case(Refused, "catalog state: clean flag 2", |f| f.catalog(|rows| rows.meta()[meta::CLEAN] = 2)),
    case(Right, "catalog state: not clean", |f| f.catalog(|rows| rows.meta()[meta::CLEAN] = 0)),
    case(Safe, "catalog state: clean file 0", |f| number(f, meta::CLEAN_FILE, 0)),
    case(Refused, "catalog state: clean file max", |f| number(f, meta::CLEAN_FILE, u64::MAX)),
    case(Refused, "catalog state: clean file max, below the floor", |f| {
        f.catalog(|rows| {
            put_u64(rows.meta(), meta::CLEAN_FILE, u64::MAX - 1);
            put_u64(rows.meta(), meta::CLEAN_LSN, 0);
        });
    }),
    case(Refused, "catalog state: clean end 0", |f| number(f, meta::CLEAN_END, 0)),
    case(Refused, "catalog state: clean end inside of a record", |f| number(f, meta::CLEAN_END, 4097)),
    case(Refused, "catalog state: clean end max", |f| number(f, meta::CLEAN_END, u64::MAX)),
    case(Refused, "catalog state: clean lsn max", |f| number(f, meta::CLEAN_LSN, u64::MAX)),
    case(Refused, "catalog state: a byte more", |f| f.catalog(|rows| rows.meta().push(0))),
    case(Refused, "catalog state: a byte less", |f| {
        f.catalog(|rows| {
            rows.meta().pop();
        });
    }),
    case(Refused, "catalog state: missing", |f| {
        f.catalog(|rows| {
            rows.bodies.remove(&(Table::Meta, 0));
        });
    }),
    case(Refused, "catalog state: a second one", |f| {
        f.catalog(|rows| {
            let row = rows.meta().clone();
            rows.bodies.insert((Table::Meta, 1), row);
        });
    }),
    case(Refused, "catalog state: counts max", |f| {
        f.catalog(|rows| {
            rows.count = false;
            rows.meta()[meta::COUNTS..meta::DIGEST].fill(0xff);
        });
    }),
    case(Refused, "catalog state: another digest", |f| {
        f.catalog(|rows| {
            rows.count = false;
            rows.meta()[meta::DIGEST] ^= 1;
        });
    }),
    // Collections.
    case(Refused, "catalog collection: no name", |f| name(f, b"")),
    case(Refused, "catalog collection: a name that is no UTF-8", |f| name(f, &[0xff, 0xfe])),
    case(Refused, "catalog collection: a name of 256 bytes", |f| name(f, &[b'x'; 256])),
    case(Refused, "catalog collection: a name of a megabyte", |f| name(f, &vec![b'x'; 1 << 20])),
    case(Refused, "catalog collection: a name with a line break", |f| name(f, b"a\nb")),
    case(Refused, "catalog collection: another one's name", |f| name(f, b"names")),
    case(Refused, "catalog collection: a name longer than the row", |f| {
        f.catalog(|rows| put_u32(rows.body(Table::Collections, 1), 0, u32::MAX));
    }),
    case(Refused, "catalog collection: id 2^32", |f| {
        f.catalog(|rows| {
            let row = rows.body(Table::Collections, 2).clone();
            rows.bodies.insert((Table::Collections, 1 << 32), row);
        });
    }),
    case(Refused, "catalog collection: missing", |f| {
        f.catalog(|rows| {
            rows.bodies.remove(&(Table::Collections, 2));
        });
    }),
    case(Refused, "catalog collection: dimension 0", |f| schema(f, 0, 4, 16)),
    case(Refused, "catalog collection: dimension 5", |f| schema(f, 5, 4, 16)),
    case(Refused, "catalog collection: dimension 65536", |f| schema(f, 65_536, 4, 16)),
    case(Refused, "catalog collection: dimension max", |f| schema(f, u32::MAX, 4, 16)),
    case(Refused, "catalog collection: m 0", |f| schema(f, 6, 0, 16)),
    case(Refused, "catalog collection: m max", |f| schema(f, 6, u16::MAX, 16)),
    case(Refused, "catalog collection: profile 3", |f| schema(f, 6, 0x0304, 16)),
    case(Refused, "catalog collection: profile max", |f| schema(f, 6, 0xff04, 16)),
    case(Refused, "catalog collection: its segments' profile, but not in their files", |f| {
        schema(f, 6, 0x0204, 16);
    }),
    case(Right, "catalog collection: a profile that its segments were not made for", |f| {
        f.catalog(|rows| rows.set_collection_schema(1, &schema_bytes(6, 1, 0, 0x0204, 16)));
    }),
    case(Refused, "catalog collection: codes max", |f| schema(f, 6, 4, 0xff_0010)),
    case(Refused, "catalog collection: something behind the codes", |f| schema(f, 6, 4, 0x0100_0010)),
    case(Refused, "catalog collection: its segments' codes, but not in their files", |f| {
        schema(f, 6, 4, 0x1_0010);
    }),
    case(Right, "catalog collection: codes that its segments do not have", |f| {
        f.catalog(|rows| rows.set_collection_schema(1, &schema_bytes(6, 1, 0, 4, 0x1_0010)));
    }),
    case(Refused, "catalog collection: beam max", |f| schema(f, 6, 4, u32::MAX)),
    case(Refused, "catalog collection: sealed beyond the last lsn", |f| {
        f.catalog(|rows| put_u64(rows.body(Table::Collections, 1), 4 + 4 + 12, 1 << 40));
    }),
    case(Safe, "catalog collection: sealed up to 0", |f| {
        f.catalog(|rows| put_u64(rows.body(Table::Collections, 1), 4 + 4 + 12, 0));
    }),
    case(Right, "catalog collection: created at the end of time", |f| {
        f.catalog(|rows| put_u64(rows.body(Table::Collections, 1), 4 + 4 + 12 + 8, u64::MAX));
    }),
    case(Right, "catalog collection: a thousand more", |f| collections(f, 1000)),
    case(Right, "catalog collection: two more, of the largest vectors", |f| {
        collections(f, 2);
        f.catalog(|rows| {
            for id in 10..12 {
                rows.set_schema(id, &schema_bytes(65_536, 0, 0, 64, 10_000));
            }
        });
    }),
    case(Refused, "catalog pages: one to free that lies outside", |f| pages_to_free(f, page(0, 15, 0))),
    case(Refused, "catalog pages: one to free that lies outside, and rows of another version", |f| {
        f.catalog(|rows| put_u32(rows.meta(), meta::VERSION, u32::MAX));
        pages_to_free(f, page(0, 15, 0));
    }),
    case(Refused, "catalog pages: one to free that is in use, and rows of another version", |f| {
        f.catalog(|rows| put_u32(rows.meta(), meta::VERSION, u32::MAX));
        pages_to_free(f, page(0, 0, 1));
    }),
    // Segments.
    case(Refused, "catalog segment: length max", |f| segment(f, |row| put_u64(row, 0, u64::MAX))),
    case(Refused, "catalog segment: length 0", |f| segment(f, |row| put_u64(row, 0, 0))),
    case(Refused, "catalog segment: another digest", |f| segment(f, |row| row[8] ^= 1)),
    case(Refused, "catalog segment: rows max", |f| segment(f, |row| put_u32(row, 24, u32::MAX))),
    case(Refused, "catalog segment: rows 0", |f| segment(f, |row| put_u32(row, 24, 0))),
    case(Refused, "catalog segment: lowest lsn above the highest", |f| {
        segment(f, |row| put_u64(row, 28, u64::MAX));
    }),
    case(Refused, "catalog segment: highest lsn max", |f| segment(f, |row| put_u64(row, 36, u64::MAX))),
    case(Refused, "catalog segment: user bytes max", |f| segment(f, |row| put_u64(row, 44, u64::MAX))),
    case(Refused, "catalog segment: another id inside", |f| {
        f.catalog(|rows| {
            let key = rows.keys(Table::Segments)[0];
            rows.body(Table::Segments, key)[4] ^= 1;
        });
    }),
    case(Refused, "catalog segment: of no collection", |f| {
        f.catalog(|rows| {
            let key = rows.keys(Table::Segments)[0];
            put_u32(rows.body(Table::Segments, key), 0, 99);
        });
    }),
    case(Refused, "catalog segment: of the other collection", |f| {
        f.catalog(|rows| {
            let key = rows.keys(Table::Segments)[0];
            put_u32(rows.body(Table::Segments, key), 0, 2);
        });
    }),
    case(Refused, "catalog segment: the same file under another id", |f| {
        f.catalog(|rows| {
            let key = rows.keys(Table::Segments)[0];
            let mut row = rows.body(Table::Segments, key).clone();
            put_u64(&mut row, 4, 0x7777);
            rows.bodies.insert((Table::Segments, 0x7777), row);
            put_u64(rows.meta(), meta::NEXT_SEGMENT, 0x8888);
        });
    }),
    case(Safe, "catalog segment: a copy of the file under another id", |f| {
        let bytes = f.files[&f.paths("segments")[0]].clone();
        f.files.insert("segments/0000000000007777.seg".into(), bytes);
        f.catalog(|rows| {
            let key = rows.keys(Table::Segments)[0];
            let mut row = rows.body(Table::Segments, key).clone();
            put_u64(&mut row, 4, 0x7777);
            rows.bodies.insert((Table::Segments, 0x7777), row);
            put_u64(rows.meta(), meta::NEXT_SEGMENT, 0x8888);
        });
    }),
    case(Safe, "catalog segment: forgotten", |f| {
        f.catalog(|rows| {
            let key = rows.keys(Table::Segments)[2];
            rows.bodies.remove(&(Table::Segments, key));
            rows.bodies.remove(&(Table::Deaths, key));
        });
    }),
    // Deaths.
    case(Refused, "catalog deaths: of the row behind the last", |f| deaths(f, bitmap([0, 150]))),
    case(Refused, "catalog deaths: of row max", |f| deaths(f, bitmap([u32::MAX]))),
    case(Refused, "catalog deaths: of no row", |f| deaths(f, bitmap([]))),
    case(Safe, "catalog deaths: of every row", |f| deaths(f, bitmap(0..150))),
    case(Safe, "catalog deaths: none", |f| {
        f.catalog(|rows| {
            let key = rows.keys(Table::Deaths)[0];
            rows.bodies.remove(&(Table::Deaths, key));
        });
    }),
    case(Refused, "catalog deaths: of a segment that is not there", |f| {
        f.catalog(|rows| {
            rows.bodies.insert((Table::Deaths, 99), bitmap([1]));
        });
    }),
    case(Refused, "catalog deaths: no bytes", |f| deaths(f, Vec::new())),
    case(Refused, "catalog deaths: bytes behind the bitmap", |f| deaths(f, [bitmap([1]), vec![0]].concat())),
    case(Refused, "catalog deaths: containers max", |f| {
        deaths(f, [0x3a, 0x30, 0, 0, 0xff, 0xff, 0xff, 0xff].to_vec());
    }),
    case(Refused, "catalog deaths: 65536 containers in 8 bytes", |f| {
        deaths(f, [0x3a, 0x30, 0, 0, 0, 0, 1, 0].to_vec());
    }),
    case(Refused, "catalog deaths: every row there could be", |f| deaths(f, runs(65_536))),
    case(Refused, "catalog deaths: every row of a segment that says so", |f| {
        deaths(f, runs(65_535));
        f.catalog(|rows| {
            let key = rows.keys(Table::Deaths)[0];
            put_u32(rows.body(Table::Segments, key), SCHEMA_IN_CATALOG + 12 + 24, u32::MAX);
        });
    }),
    case(Refused, "catalog deaths: runs that overlap", |f| {
        deaths(f, [0x3b, 0x30, 0, 0, 1, 0, 0, 9, 0, 2, 0, 0, 0, 5, 0, 3, 0, 5, 0].to_vec());
    }),
    case(Refused, "catalog deaths: a run beyond 65535", |f| {
        deaths(f, [0x3b, 0x30, 0, 0, 1, 0, 0, 9, 0, 1, 0, 0xff, 0xff, 5, 0].to_vec());
    }),
    // redb's pages.
    case(Refused, "catalog file: missing", |f| {
        f.files.remove(std::path::Path::new("catalog"));
    }),
    case(Refused, "catalog file: empty", |f| f.bytes("catalog", Vec::clear)),
    case(Refused, "catalog file: one byte", |f| f.bytes("catalog", |bytes| bytes.truncate(1))),
    case(Refused, "catalog file: half", |f| {
        f.bytes("catalog", |bytes| bytes.truncate(4096 + bytes.len() / 4104 / 2 * 4104));
    }),
    case(Right, "catalog file: a page more", |f| f.pages(|pages| pages.bytes.extend([0; PAGE]))),
    case(Refused, "catalog file: zeros", |f| f.bytes("catalog", |bytes| bytes.fill(0))),
    case(Refused, "catalog file: pages of zeros", |f| f.pages(|pages| pages.bytes[PAGE..].fill(0))),
    case(Refused, "catalog file: pages of ones", |f| f.pages(|pages| pages.bytes[PAGE..].fill(0xff))),
    case(Refused, "catalog file: redb's magic", |f| f.pages(|pages| pages.bytes[0] = 0)),
    case(Safe, "catalog file: not shut down", |f| f.pages(|pages| pages.bytes[9] |= 2)),
    case(Refused, "catalog file: not committed in two phases", |f| f.pages(|pages| pages.bytes[9] &= !4)),
    case(Safe, "catalog file: the other commit slot", |f| f.pages(|pages| pages.bytes[9] ^= 1)),
    case(Refused, "catalog file: page size 512", |f| f.pages(|pages| put_u32(&mut pages.bytes, 12, 512))),
    case(Refused, "catalog file: page size max", |f| {
        f.pages(|pages| put_u32(&mut pages.bytes, 12, u32::MAX));
    }),
    case(Refused, "catalog file: page size 0", |f| f.pages(|pages| put_u32(&mut pages.bytes, 12, 0))),
    case(Refused, "catalog file: region header max", |f| {
        f.pages(|pages| put_u32(&mut pages.bytes, 16, u32::MAX));
    }),
    case(Refused, "catalog file: region pages 0", |f| f.pages(|pages| put_u32(&mut pages.bytes, 20, 0))),
    case(Safe, "catalog file: region pages 2^20", |f| {
        f.pages(|pages| put_u32(&mut pages.bytes, 20, 1 << 20));
    }),
    case(Refused, "catalog file: region pages 1", |f| f.pages(|pages| put_u32(&mut pages.bytes, 20, 1))),
    case(Refused, "catalog file: full regions max", |f| {
        f.pages(|pages| put_u32(&mut pages.bytes, 24, u32::MAX));
    }),
    case(Refused, "catalog file: full regions 2^20", |f| {
        f.pages(|pages| put_u32(&mut pages.bytes, 24, (1 << 20) - 1));
    }),
    case(Refused, "catalog file: full regions 2^20, not shut down", |f| {
        f.pages(|pages| {
            pages.bytes[9] |= 2;
            put_u32(&mut pages.bytes, 20, 1);
            put_u32(&mut pages.bytes, 24, (1 << 20) - 1);
        });
    }),
    case(Refused, "catalog file: trailing pages max", |f| {
        f.pages(|pages| put_u32(&mut pages.bytes, 28, u32::MAX));
    }),
    case(Refused, "catalog file: version of the slot", |f| {
        f.pages(|pages| {
            let slot = pages.slot();
            pages.bytes[slot] = 9;
            pages.sign_slot(slot);
        });
    }),
    case(Refused, "catalog tree: no tables", |f| {
        f.pages(|pages| {
            let slot = pages.slot();
            pages.bytes[slot + 1] = 0;
            pages.sign_slot(slot);
        });
    }),
    case(Safe, "catalog tree: no system tables", |f| {
        f.pages(|pages| {
            let slot = pages.slot();
            pages.bytes[slot + 2] = 0;
            pages.sign_slot(slot);
        });
    }),
    case(Refused, "catalog tree: transaction max", |f| {
        f.pages(|pages| {
            let slot = pages.slot();
            put_u64(&mut pages.bytes, slot + 104, u64::MAX);
            pages.sign_slot(slot);
        });
    }),
    case(Refused, "catalog tree: root at page max", |f| root(f, USER_ROOT, page(0, 0, 0xf_ffff))),
    case(Refused, "catalog tree: root in the last region", |f| root(f, USER_ROOT, page(0, 0xf_ffff, 0))),
    case(Refused, "catalog tree: root of order 8", |f| root(f, USER_ROOT, page(8, 0, 0))),
    case(Refused, "catalog tree: root of order 14", |f| root(f, USER_ROOT, page(14, 0, 0))),
    case(Refused, "catalog tree: root of order 20", |f| root(f, USER_ROOT, page(20, 0, 0))),
    case(Refused, "catalog tree: root of order 31", |f| root(f, USER_ROOT, page(31, 0, 0))),
    case(Refused, "catalog tree: root max", |f| root(f, USER_ROOT, u64::MAX)),
    case(Refused, "catalog tree: system root of order 16", |f| root(f, SYSTEM_ROOT, page(16, 0, 0))),
    case(Refused, "catalog tree: system root of order 20", |f| root(f, SYSTEM_ROOT, page(20, 0, 0))),
    case(Refused, "catalog tree: system root max", |f| root(f, SYSTEM_ROOT, u64::MAX)),
    case(Refused, "catalog tree: two ways to the root", |f| double(f, 1)),
    case(Refused, "catalog tree: a billion ways to the root", |f| double(f, 30)),
    case(Refused, "catalog tree: ways without an end to the root", |f| double(f, 120)),
    case(Refused, "catalog tree: more levels than redb takes", |f| double(f, 200)),
    case(Refused, "catalog tree: a branch that is its own child", |f| {
        double(f, 1);
        f.pages(|pages| {
            let number = pages.bytes.len() / PAGE - 2;
            let at = (number + 1) * PAGE + 8 + 32;
            put_u64(&mut pages.bytes, at, number as u64);
        });
    }),
    case(Refused, "catalog tree: leaves of 65535 entries", |f| nodes(f, 0, 0xffff_0001)),
    case(Refused, "catalog tree: leaves of no entries", |f| nodes(f, 0, 1)),
    case(Refused, "catalog tree: leaves that are branches", |f| nodes(f, 0, 0x0001_0002)),
    case(Refused, "catalog tree: leaves of no kind", |f| nodes(f, 0, 0x0001_0007)),
    case(Refused, "catalog tree: entries that end at 0", |f| nodes(f, 4, 0)),
    case(Refused, "catalog tree: a name that ends among the ends", |f| names_of_tables(f, 4, 12)),
    case(Refused, "catalog tree: a name that ends right before the first one begins", |f| {
        names_of_tables(f, 4, 4 + 4 * 2 * 4 - 1);
    }),
    case(Refused, "catalog tree: entries that end at max", |f| nodes(f, 4, u32::MAX)),
    case(Refused, "catalog tree: values that end at max", |f| nodes(f, 8, u32::MAX)),
    case(Refused, "catalog tree: one root for both", |f| {
        f.pages(|pages| {
            let slot = pages.slot();
            let root = pages.bytes[slot + USER_ROOT..][..32].to_vec();
            pages.bytes[slot + SYSTEM_ROOT..][..32].copy_from_slice(&root);
            pages.sign_slot(slot);
        });
    }),
];
