//! Forged segments: headers, footers, section tables and files. Number 0 has 150 rows under integer keys and some
//! levels, number 1 has 40 under string keys.

use crate::Fate::{Noticed, Refused, Right, Safe};
use crate::{Case, case};
use nearstone_segments::sealed::format::Section;
use nearstone_tests::forge::segment::{Segment, footer, header, id};
use nearstone_tests::forge::{Forger, put_u32, put_u64, schema_bytes};

const NONE: u32 = u32::MAX;

pub(crate) fn top(segment: &Segment) -> u32 {
    id::LINKS + segment.levels() - 1
}

/// Gives the segment of string keys, and its collection, another schema.
fn schema(forger: &mut Forger, dimension: u32, metric: u8, keys: u8, m: u16, ef: u32) {
    let bytes = schema_bytes(dimension, metric, keys, m, ef);
    forger.segment(1, |s| s.blocks[header::SCHEMA..][..12].copy_from_slice(&bytes));
    forger.catalog(|rows| rows.set_schema(2, &bytes));
}

pub(crate) static CASES: &[Case] = &[
    case(Right, "segment: nothing", |f| (0..3).for_each(|n| f.segment(n, |_| {}))),
    // The header.
    case(Refused, "segment header: magic", |f| f.segment(0, |s| s.blocks[0] = b'M')),
    case(Refused, "segment header: checksum", |f| {
        f.segment(0, |s| {
            s.sign = false;
            s.blocks[60] ^= 1;
        });
    }),
    case(Refused, "segment header: version 0", |f| {
        f.segment(0, |s| put_u32(&mut s.blocks, header::VERSION, 0));
    }),
    case(Refused, "segment header: version 2", |f| {
        f.segment(0, |s| put_u32(&mut s.blocks, header::VERSION, 2));
    }),
    case(Refused, "segment header: version max", |f| {
        f.segment(0, |s| put_u32(&mut s.blocks, header::VERSION, NONE));
    }),
    case(Refused, "segment header: a feature to refuse", |f| {
        f.segment(0, |s| s.blocks[header::REFUSE + 7] = 0x80);
    }),
    case(Refused, "segment header: another uuid", |f| f.segment(0, |s| s.blocks[32] ^= 1)),
    case(Refused, "segment header: rows 0", |f| f.segment(0, |s| put_u32(&mut s.blocks, header::ROWS, 0))),
    case(Refused, "segment header: rows 1", |f| f.segment(0, |s| put_u32(&mut s.blocks, header::ROWS, 1))),
    case(Refused, "segment header: a row more", |f| {
        f.segment(2, |s| put_u32(&mut s.blocks, header::ROWS, 70));
    }),
    case(Refused, "segment header: rows max - 1", |f| {
        f.segment(0, |s| put_u32(&mut s.blocks, header::ROWS, NONE - 1));
    }),
    case(Refused, "segment header: rows max", |f| {
        f.segment(0, |s| put_u32(&mut s.blocks, header::ROWS, NONE));
    }),
    case(Refused, "segment header: lowest lsn above highest", |f| {
        f.segment(0, |s| put_u64(&mut s.blocks, header::LSN_MIN, 1 << 20));
    }),
    case(Refused, "segment header: lowest lsn max", |f| {
        f.segment(0, |s| put_u64(&mut s.blocks, header::LSN_MIN, u64::MAX));
    }),
    case(Refused, "segment header: highest lsn max", |f| {
        f.segment(0, |s| put_u64(&mut s.blocks, header::LSN_MAX, u64::MAX));
    }),
    case(Refused, "segment header: highest lsn above the store's", |f| {
        f.segment(0, |s| put_u64(&mut s.blocks, header::LSN_MAX, 1 << 40));
    }),
    case(Right, "segment header: user bytes max", |f| {
        (0..3).for_each(|n| f.segment(n, |s| put_u64(&mut s.blocks, header::USER_BYTES, u64::MAX)));
    }),
    case(Right, "segment header: created at the end of time", |f| {
        (0..3).for_each(|n| f.segment(n, |s| put_u64(&mut s.blocks, header::CREATED, u64::MAX)));
    }),
    case(Refused, "segment schema: dimension 0", |f| schema(f, 0, 0, 1, 4, 16)),
    case(Refused, "segment schema: dimension 1", |f| schema(f, 1, 0, 1, 4, 16)),
    case(Refused, "segment schema: dimension 4096", |f| schema(f, 4096, 0, 1, 4, 16)),
    case(Refused, "segment schema: dimension 65536", |f| schema(f, 65_536, 0, 1, 4, 16)),
    case(Refused, "segment schema: dimension 65537", |f| schema(f, 65_537, 0, 1, 4, 16)),
    case(Refused, "segment schema: dimension max", |f| schema(f, NONE, 0, 1, 4, 16)),
    case(Refused, "segment schema: integer keys", |f| schema(f, 3, 0, 0, 4, 16)),
    case(Refused, "segment schema: keys of no type", |f| schema(f, 3, 0, 2, 4, 16)),
    case(Refused, "segment schema: no metric", |f| schema(f, 3, 200, 1, 4, 16)),
    case(Refused, "segment schema: m 0", |f| schema(f, 3, 0, 1, 0, 16)),
    case(Refused, "segment schema: m 5", |f| schema(f, 3, 0, 1, 5, 16)),
    case(Refused, "segment schema: m 64", |f| schema(f, 3, 0, 1, 64, 64)),
    case(Refused, "segment schema: m 65", |f| schema(f, 3, 0, 1, 65, 65)),
    case(Refused, "segment schema: m max", |f| schema(f, 3, 0, 1, u16::MAX, NONE)),
    case(Refused, "segment schema: beam 0", |f| schema(f, 3, 0, 1, 4, 0)),
    case(Refused, "segment schema: beam max", |f| schema(f, 3, 0, 1, 4, NONE)),
    // Segments of a collection may be made for another purpose than the collection is.
    case(Right, "segment schema: one profile for little memory", |f| {
        f.segment(0, |s| s.blocks[header::PROFILE] = 2);
    }),
    case(Right, "segment schema: every profile another one", |f| {
        (0..3).for_each(|n| f.segment(n, |s| s.blocks[header::PROFILE] = 2 - (n as u8 % 2)));
    }),
    case(Right, "segment schema: a profile for little memory, also of the collection", |f| {
        schema(f, 3, 0, 1, 0x0204, 16);
    }),
    case(Refused, "segment schema: profile 3", |f| f.segment(0, |s| s.blocks[header::PROFILE] = 3)),
    case(Refused, "segment schema: profile max", |f| f.segment(1, |s| s.blocks[header::PROFILE] = 255)),
    case(Refused, "segment schema: another profile than the catalog says", |f| {
        f.segment(0, |s| s.blocks[header::PROFILE] = 2);
        f.catalog(|rows| rows.set_schema(1, &schema_bytes(6, 1, 0, 4, 16)));
    }),
    // Codes of four bits are as long here as those of eight.
    case(Safe, "segment schema: other codes than it has", |f| {
        (0..3).for_each(|n| f.segment(n, |s| s.blocks[header::CODES] = 1));
    }),
    case(Safe, "segment schema: other codes than it has, also of the collection", |f| {
        schema(f, 3, 0, 1, 4, 0x1_0010);
    }),
    case(Refused, "segment schema: codes max", |f| f.segment(0, |s| s.blocks[header::CODES] = 255)),
    case(Refused, "segment schema: something behind the codes", |f| {
        f.segment(1, |s| s.blocks[header::CODES + 1] = 1);
    }),
    case(Refused, "segment schema: other codes than the catalog says", |f| {
        f.segment(0, |s| s.blocks[header::CODES] = 1);
        f.catalog(|rows| rows.set_schema(1, &schema_bytes(6, 1, 0, 4, 16)));
    }),
    case(Safe, "segment schema: beam 10000", |f| schema(f, 3, 0, 1, 4, 10_000)),
    case(Safe, "segment schema: another metric", |f| schema(f, 3, 2, 1, 4, 16)),
    // The footer.
    case(Refused, "segment footer: magic", |f| f.segment(0, |s| s.footer = |b| b[0] ^= 1)),
    case(Refused, "segment footer: version", |f| {
        f.segment(0, |s| s.footer = |b| put_u32(b, footer::VERSION, 9));
    }),
    case(Refused, "segment footer: another uuid", |f| f.segment(0, |s| s.footer = |b| b[16] ^= 1)),
    case(Refused, "segment footer: sections 0", |f| {
        f.segment(0, |s| s.footer = |b| put_u32(b, footer::SECTIONS, 0));
    }),
    case(Refused, "segment footer: sections max", |f| {
        f.segment(0, |s| s.footer = |b| put_u32(b, footer::SECTIONS, NONE));
    }),
    case(Refused, "segment footer: 1025 sections", |f| {
        f.segment(0, |s| {
            let last = *s.sections.last().unwrap();
            for n in 0..1025 - s.sections.len() as u32 {
                s.sections.push(Section {
                    id: 5000 + n,
                    offset: (last.offset + last.len).next_multiple_of(64),
                    len: 0,
                    count: 0,
                    stride: 0,
                });
            }
        });
    }),
    case(Right, "segment footer: unknown empty sections", |f| {
        f.segment(0, |s| {
            let last = *s.sections.last().unwrap();
            for n in 0..100 {
                s.sections.push(Section {
                    id: 5000 + n,
                    offset: (last.offset + last.len).next_multiple_of(64),
                    len: 0,
                    count: u64::MAX,
                    stride: 0,
                });
            }
        });
    }),
    case(Refused, "segment footer: blocks 0", |f| {
        f.segment(0, |s| s.footer = |b| put_u64(b, footer::BLOCKS, 0));
    }),
    case(Refused, "segment footer: a block less", |f| {
        f.segment(0, |s| s.footer = |b| b[footer::BLOCKS] -= 1);
    }),
    case(Refused, "segment footer: a block more", |f| {
        f.segment(0, |s| s.footer = |b| b[footer::BLOCKS] += 1);
    }),
    case(Refused, "segment footer: blocks 2^52", |f| {
        f.segment(0, |s| s.footer = |b| put_u64(b, footer::BLOCKS, 1 << 52));
    }),
    case(Refused, "segment footer: blocks max", |f| {
        f.segment(0, |s| s.footer = |b| put_u64(b, footer::BLOCKS, u64::MAX));
    }),
    case(Refused, "segment footer: pages 0", |f| {
        f.segment(0, |s| s.footer = |b| put_u32(b, footer::PAGES, 0));
    }),
    case(Refused, "segment footer: pages max", |f| {
        f.segment(0, |s| s.footer = |b| put_u32(b, footer::PAGES, NONE));
    }),
    case(Refused, "segment footer: no page checksums", |f| f.segment(0, |s| s.pages = Vec::clear)),
    case(Refused, "segment footer: a page checksum more", |f| {
        f.segment(0, |s| s.pages = |pages| pages.push(7));
    }),
    case(Refused, "segment footer: a wrong page checksum", |f| {
        f.segment(0, |s| s.pages = |pages| pages[0] ^= 1);
    }),
    case(Refused, "segment footer: bytes behind it", |f| f.segment(0, |s| s.tail = vec![0; 64])),
    case(Refused, "segment footer: a block behind it", |f| f.segment(0, |s| s.tail = vec![0; 4096])),
    // The section table.
    case(Refused, "segment sections: none", |f| f.segment(0, |s| s.sections.clear())),
    case(Refused, "segment sections: no keys", |f| f.segment(0, |s| s.remove(id::KEYS))),
    case(Refused, "segment sections: no key offsets", |f| f.segment(1, |s| s.remove(id::KEY_OFFSETS))),
    case(Refused, "segment sections: no index", |f| f.segment(0, |s| s.remove(id::KEY_INDEX))),
    case(Refused, "segment sections: no order", |f| f.segment(0, |s| s.remove(id::KEY_ORDER))),
    case(Refused, "segment sections: no versions", |f| f.segment(0, |s| s.remove(id::VERSIONS))),
    case(Refused, "segment sections: empty versions beside two lsns", |f| {
        f.segment(0, |s| {
            s.entry(id::VERSIONS).count = 0;
            s.entry(id::VERSIONS).len = 0;
        });
    }),
    case(Refused, "segment sections: no payload offsets", |f| {
        f.segment(0, |s| s.remove(id::PAYLOAD_OFFSETS));
    }),
    case(Refused, "segment sections: no payloads", |f| f.segment(0, |s| s.remove(id::PAYLOADS))),
    case(Refused, "segment sections: no parameters", |f| f.segment(0, |s| s.remove(id::CODE_PARAMS))),
    case(Refused, "segment sections: no codes", |f| f.segment(0, |s| s.remove(id::CODES))),
    case(Refused, "segment sections: no vectors", |f| f.segment(0, |s| s.remove(id::VECTORS))),
    case(Refused, "segment sections: no filter", |f| f.segment(0, |s| s.remove(id::KEY_FILTER))),
    case(Refused, "segment sections: no links", |f| f.segment(0, |s| s.remove(id::LINKS))),
    case(Right, "segment sections: no statistics", |f| f.segment(0, |s| s.remove(id::STATISTICS))),
    case(Safe, "segment sections: no level 1", |f| f.segment(0, |s| s.remove(id::LINKS + 1))),
    case(Refused, "segment sections: one twice", |f| {
        f.segment(0, |s| {
            let mut again = *s.entry(id::STATISTICS);
            again.len = 0;
            again.count = 0;
            again.offset = (s.entry(id::STATISTICS).offset + 64).next_multiple_of(64);
            let at = s.sections.iter().position(|section| section.id == id::STATISTICS).unwrap();
            s.sections.insert(at + 1, again);
        });
    }),
    case(Refused, "segment sections: not in order", |f| f.segment(0, |s| s.sections.swap(2, 3))),
    case(Refused, "segment sections: in reverse", |f| f.segment(0, |s| s.sections.reverse())),
    case(Refused, "segment sections: overlapping", |f| {
        f.segment(0, |s| {
            let offset = s.entry(id::CODES).offset;
            s.entry(id::VECTORS).offset = offset;
        });
    }),
    case(Refused, "segment sections: over the header", |f| f.segment(0, |s| s.entry(id::KEYS).offset = 0)),
    case(Refused, "segment sections: misaligned by 1", |f| {
        f.segment(0, |s| s.entry(id::VECTORS).offset += 1);
    }),
    case(Refused, "segment sections: misaligned by 32", |f| {
        f.segment(0, |s| s.entry(id::STATISTICS).offset += 32);
    }),
    case(Refused, "segment sections: beyond the blocks", |f| {
        f.segment(0, |s| s.sections.last_mut().unwrap().offset += 4096);
    }),
    case(Refused, "segment sections: offset max", |f| {
        f.segment(0, |s| s.sections.last_mut().unwrap().offset = u64::MAX);
    }),
    case(Refused, "segment sections: offset and length wrap", |f| {
        f.segment(0, |s| {
            let last = s.sections.last_mut().unwrap();
            last.offset = u64::MAX - 63;
            last.len = 128;
            last.stride = 64;
            last.count = 2;
        });
    }),
    case(Refused, "segment sections: length max", |f| f.segment(0, |s| s.entry(id::VECTORS).len = u64::MAX)),
    case(Refused, "segment sections: count and stride wrap", |f| {
        f.segment(0, |s| {
            s.entry(id::VECTORS).count = 1 << 62;
            s.entry(id::VECTORS).stride = 4;
            s.entry(id::VECTORS).len = 0;
        });
    }),
    case(Refused, "segment sections: count max", |f| {
        f.segment(0, |s| s.entry(id::VERSIONS).count = u64::MAX);
    }),
    case(Refused, "segment sections: stride 0", |f| f.segment(0, |s| s.entry(id::CODES).stride = 0)),
    case(Refused, "segment sections: codes of no bytes", |f| {
        f.segment(0, |s| {
            s.entry(id::CODES).stride = 0;
            s.entry(id::CODES).len = 0;
        });
    }),
    case(Refused, "segment sections: codes of another stride", |f| {
        f.segment(0, |s| {
            s.entry(id::CODES).stride = 32;
            s.entry(id::CODES).len /= 2;
        });
    }),
    case(Refused, "segment sections: a row too few", |f| {
        f.segment(0, |s| {
            s.entry(id::VERSIONS).count -= 1;
            s.entry(id::VERSIONS).len -= 8;
        });
    }),
    case(Refused, "segment sections: an offset too few", |f| {
        f.segment(0, |s| {
            s.entry(id::PAYLOAD_OFFSETS).count -= 1;
            s.entry(id::PAYLOAD_OFFSETS).len -= 8;
        });
    }),
    case(Refused, "segment sections: an index of 0 places", |f| {
        f.segment(0, |s| {
            s.entry(id::KEY_INDEX).count = 0;
            s.entry(id::KEY_INDEX).len = 0;
        });
    }),
    case(Refused, "segment sections: an index of 255 places", |f| {
        f.segment(0, |s| {
            s.entry(id::KEY_INDEX).count = 255;
            s.entry(id::KEY_INDEX).len = 255 * 4;
        });
    }),
    case(Refused, "segment sections: an index of fewer places than rows", |f| {
        f.segment(0, |s| {
            s.entry(id::KEY_INDEX).count = 128;
            s.entry(id::KEY_INDEX).len = 128 * 4;
        });
    }),
    case(Refused, "segment sections: a filter of 0 blocks", |f| {
        f.segment(0, |s| {
            s.entry(id::KEY_FILTER).count = 0;
            s.entry(id::KEY_FILTER).len = 0;
        });
    }),
    case(Noticed, "segment sections: a filter of 1 block", |f| {
        f.segment(0, |s| {
            s.entry(id::KEY_FILTER).count = 1;
            s.entry(id::KEY_FILTER).len = 32;
        });
    }),
    case(Refused, "segment levels: fewer rows on the ground", |f| {
        f.segment(0, |s| {
            s.entry(id::LINKS).count -= 1;
            s.entry(id::LINKS).len -= 32;
        });
    }),
    case(Refused, "segment levels: more rows above than below", |f| {
        f.segment(0, |s| {
            let ground = *s.entry(id::LINKS);
            let top = top(s);
            *s.entry(top) = Section { id: top, offset: s.entry(top).offset, count: 0, len: 0, stride: 16 };
            s.entry(id::LINKS + 1).count = ground.count + 1;
            s.entry(id::LINKS + 1).len = (ground.count + 1) * 16;
        });
    }),
    case(Refused, "segment levels: one without rows", |f| {
        f.segment(0, |s| {
            let top = top(s);
            s.entry(top).count = 0;
            s.entry(top).len = 0;
        });
    }),
    case(Refused, "segment levels: a degree above m", |f| {
        f.segment(0, |s| {
            s.entry(id::LINKS).stride = 64;
            s.entry(id::LINKS).count /= 2;
        });
    }),
    case(Safe, "segment levels: a gap", |f| {
        f.segment(0, |s| {
            let top = top(s);
            s.entry(top).id = id::LINKS + 15;
        });
    }),
    case(Safe, "segment levels: level 16", |f| {
        f.segment(0, |s| {
            let top = top(s);
            s.entry(top).id = id::LINKS + 16;
        });
    }),
    case(Safe, "segment levels: level max", |f| {
        f.segment(0, |s| {
            let top = top(s);
            s.entry(top).id = NONE;
        });
    }),
    // Files.
    case(Refused, "segment file: empty", |f| {
        let path = f.paths("segments")[0].clone();
        f.bytes(path, Vec::clear);
    }),
    case(Refused, "segment file: only its header", |f| {
        let path = f.paths("segments")[0].clone();
        f.bytes(path, |bytes| bytes.truncate(4096));
    }),
    case(Refused, "segment file: missing", |f| {
        let path = f.paths("segments")[0].clone();
        f.files.remove(&path);
    }),
    case(Refused, "segment file: another segment's", |f| {
        let paths = f.paths("segments");
        let other = f.files[&paths[1]].clone();
        f.bytes(&paths[0], |bytes| *bytes = other);
    }),
    case(Right, "segment file: one more under the highest number", |f| {
        let bytes = f.files[&f.paths("segments")[0]].clone();
        f.files.insert("segments/ffffffffffffffff.seg".into(), bytes);
    }),
];
