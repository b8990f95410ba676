//! Forged rows of segments: links, keys, payloads, versions, codes and vectors. Number 0 has 150 rows under integer
//! keys and some levels, number 1 has 40 under string keys.

use crate::Fate::{Noticed, Refused, Right, Safe};
use crate::segments::top;
use crate::{Case, case};
use nearstone_tests::forge::segment::{Segment, id};
use nearstone_tests::forge::{get_u64, put_u32};

const ROWS: u32 = 150;
const NONE: u32 = u32::MAX;

fn float(s: &mut Segment, section: u32, at: usize, value: f32) {
    s.set_u32(section, at, value.to_bits());
}

pub(crate) static CASES: &[Case] = &[
    // Links.
    case(Noticed, "segment links: the first, to the first row that is not there", |f| {
        f.segment(0, |s| s.set_u32(id::LINKS, 0, ROWS));
    }),
    case(Noticed, "segment links: the first, to max - 1", |f| {
        f.segment(0, |s| s.set_u32(id::LINKS, 0, NONE - 1));
    }),
    case(Noticed, "segment links: the first, to 2^31", |f| {
        f.segment(0, |s| s.set_u32(id::LINKS, 0, 1 << 31));
    }),
    case(Noticed, "segment links: the last row's", |f| {
        f.segment(0, |s| s.set_u32(id::LINKS, (ROWS as usize - 1) * 8, ROWS));
    }),
    case(Noticed, "segment links: all of them", |f| f.segment(0, |s| s.section(id::LINKS).fill(0xfe))),
    case(Noticed, "segment links: to itself", |f| f.segment(0, |s| s.set_u32(id::LINKS, 0, 0))),
    case(Noticed, "segment links: one twice", |f| {
        f.segment(0, |s| {
            s.set_u32(id::LINKS, 0, 5);
            s.set_u32(id::LINKS, 1, 5);
        });
    }),
    case(Noticed, "segment links: behind a free place", |f| {
        f.segment(0, |s| {
            s.set_u32(id::LINKS, 0, NONE);
            s.set_u32(id::LINKS, 1, 5);
        });
    }),
    case(Safe, "segment links: none at all", |f| f.segment(0, |s| s.section(id::LINKS).fill(0xff))),
    case(Noticed, "segment links: level 1, to a row of the ground", |f| {
        f.segment(0, |s| s.set_u32(id::LINKS + 1, 0, ROWS - 1));
    }),
    case(Noticed, "segment links: level 1, to a row that is not there", |f| {
        f.segment(0, |s| s.set_u32(id::LINKS + 1, 0, ROWS));
    }),
    case(Noticed, "segment links: the top, to max - 1", |f| {
        f.segment(0, |s| {
            let top = top(s);
            s.set_u32(top, 0, NONE - 1);
        });
    }),
    case(Noticed, "segment links: the entry's on every level", |f| {
        f.segment(0, |s| (0..s.levels()).for_each(|level| s.set_u32(id::LINKS + level, 0, NONE - 7)));
    }),
    // Keys.
    case(Noticed, "segment keys: one changed", |f| f.segment(0, |s| s.set_u64(id::KEYS, 3, u64::MAX))),
    case(Noticed, "segment keys: one twice", |f| {
        f.segment(0, |s| {
            let first = s.section(id::KEYS)[..8].to_vec();
            s.section(id::KEYS)[8..16].copy_from_slice(&first);
        });
    }),
    case(Noticed, "segment keys: all the same", |f| f.segment(0, |s| s.section(id::KEYS).fill(7))),
    case(Noticed, "segment keys: not UTF-8", |f| f.segment(1, |s| s.section(id::KEYS)[0] = 0xff)),
    case(Noticed, "segment keys: order not sorted", |f| {
        f.segment(0, |s| {
            let (a, b) = s.section(id::KEY_ORDER).split_at_mut(4);
            a.swap_with_slice(&mut b[..4]);
        });
    }),
    case(Noticed, "segment keys: order with one row only", |f| {
        f.segment(0, |s| s.section(id::KEY_ORDER).fill(0));
    }),
    case(Noticed, "segment keys: order with a row that is not there", |f| {
        f.segment(0, |s| s.set_u32(id::KEY_ORDER, 9, ROWS));
    }),
    case(Noticed, "segment keys: order with row max", |f| {
        f.segment(0, |s| s.set_u32(id::KEY_ORDER, 149, NONE));
    }),
    case(Noticed, "segment keys: index empty", |f| f.segment(0, |s| s.section(id::KEY_INDEX).fill(0xff))),
    case(Noticed, "segment keys: index without a free place", |f| {
        f.segment(0, |s| s.section(id::KEY_INDEX).fill(0));
    }),
    case(Noticed, "segment keys: index with rows that are not there", |f| {
        f.segment(0, |s| s.section(id::KEY_INDEX).fill(0xfe));
    }),
    case(Noticed, "segment keys: index, the first row that is not there", |f| {
        f.segment(1, |s| {
            s.section(id::KEY_INDEX).chunks_exact_mut(4).for_each(|place| put_u32(place, 0, 40));
        });
    }),
    case(Noticed, "segment keys: filter empty", |f| f.segment(0, |s| s.section(id::KEY_FILTER).fill(0))),
    case(Right, "segment keys: filter full", |f| f.segment(0, |s| s.section(id::KEY_FILTER).fill(0xff))),
    case(Noticed, "segment keys: an offset decreases", |f| {
        f.segment(1, |s| s.set_u64(id::KEY_OFFSETS, 5, 0));
    }),
    case(Noticed, "segment keys: an empty key", |f| {
        f.segment(1, |s| {
            let next = get_u64(s.section(id::KEY_OFFSETS), 8 * 6);
            s.set_u64(id::KEY_OFFSETS, 5, next);
        });
    }),
    case(Noticed, "segment keys: an offset past the end", |f| {
        f.segment(1, |s| s.set_u64(id::KEY_OFFSETS, 40, 1 << 30));
    }),
    case(Noticed, "segment keys: an offset max", |f| {
        f.segment(1, |s| s.set_u64(id::KEY_OFFSETS, 20, u64::MAX));
    }),
    case(Noticed, "segment keys: the first offset not 0", |f| {
        f.segment(1, |s| s.set_u64(id::KEY_OFFSETS, 0, 1));
    }),
    case(Noticed, "segment keys: all offsets max", |f| {
        f.segment(1, |s| s.section(id::KEY_OFFSETS).fill(0xff));
    }),
    // Payloads and versions.
    case(Noticed, "segment payloads: an offset decreases", |f| {
        f.segment(0, |s| s.set_u64(id::PAYLOAD_OFFSETS, 70, 0));
    }),
    case(Noticed, "segment payloads: an offset past the end", |f| {
        f.segment(0, |s| s.set_u64(id::PAYLOAD_OFFSETS, 150, 1 << 40));
    }),
    case(Noticed, "segment payloads: an offset max", |f| {
        f.segment(0, |s| s.set_u64(id::PAYLOAD_OFFSETS, 9, u64::MAX));
    }),
    case(Noticed, "segment payloads: the first offset not 0", |f| {
        f.segment(0, |s| s.set_u64(id::PAYLOAD_OFFSETS, 0, 2));
    }),
    case(Noticed, "segment payloads: all offsets max", |f| {
        f.segment(0, |s| s.section(id::PAYLOAD_OFFSETS).fill(0xff));
    }),
    case(Safe, "segment payloads: no JSON", |f| f.segment(0, |s| s.section(id::PAYLOADS).fill(b'}'))),
    case(Safe, "segment payloads: not UTF-8", |f| f.segment(0, |s| s.section(id::PAYLOADS).fill(0xff))),
    case(Safe, "segment payloads: brackets that never close", |f| {
        f.segment(0, |s| s.section(id::PAYLOADS).fill(b'['));
    }),
    case(Noticed, "segment versions: one max", |f| f.segment(0, |s| s.set_u64(id::VERSIONS, 0, u64::MAX))),
    case(Noticed, "segment versions: all 0", |f| f.segment(0, |s| s.section(id::VERSIONS).fill(0))),
    // Codes and vectors.
    case(Refused, "segment codes: a mean of NaN", |f| {
        f.segment(0, |s| float(s, id::CODE_PARAMS, 0, f32::NAN));
    }),
    case(Refused, "segment codes: a mean of infinity", |f| {
        f.segment(0, |s| float(s, id::CODE_PARAMS, 5, f32::INFINITY));
    }),
    case(Refused, "segment codes: a mean of another length", |f| {
        f.segment(0, |s| {
            s.entry(id::CODE_PARAMS).len -= 4;
            s.entry(id::CODE_PARAMS).count -= 4;
        });
    }),
    case(Safe, "segment codes: a mean of the largest number", |f| {
        f.segment(0, |s| float(s, id::CODE_PARAMS, 0, f32::MAX));
    }),
    case(Safe, "segment codes: a mean of 0", |f| f.segment(0, |s| s.section(id::CODE_PARAMS).fill(0))),
    case(Safe, "segment codes: all 0", |f| f.segment(0, |s| s.section(id::CODES).fill(0))),
    case(Safe, "segment codes: all NaN", |f| f.segment(0, |s| s.section(id::CODES).fill(0xff))),
    case(Safe, "segment codes: infinite steps", |f| {
        f.segment(0, |s| {
            s.section(id::CODES).chunks_exact_mut(4).for_each(|x| put_u32(x, 0, f32::INFINITY.to_bits()));
        });
    }),
    case(Noticed, "segment vectors: one NaN", |f| f.segment(0, |s| float(s, id::VECTORS, 0, f32::NAN))),
    case(Noticed, "segment vectors: all NaN", |f| f.segment(0, |s| s.section(id::VECTORS).fill(0xff))),
    case(Noticed, "segment vectors: infinite", |f| {
        f.segment(0, |s| {
            s.section(id::VECTORS).chunks_exact_mut(4).for_each(|x| put_u32(x, 0, f32::INFINITY.to_bits()));
        });
    }),
    case(Safe, "segment vectors: the largest numbers", |f| {
        f.segment(0, |s| {
            s.section(id::VECTORS).chunks_exact_mut(4).for_each(|x| put_u32(x, 0, f32::MAX.to_bits()));
        });
    }),
    case(Noticed, "segment vectors: zero under cosine", |f| f.segment(1, |s| s.section(id::VECTORS).fill(0))),
    case(Right, "segment statistics: max", |f| f.segment(0, |s| s.section(id::STATISTICS).fill(0xff))),
];
