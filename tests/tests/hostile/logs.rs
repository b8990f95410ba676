//! Forged logs. The store has one file of the log, closed in order; its last batches are in no segment yet.

use crate::Fate::{Refused, Right, Safe};
use crate::{Case, case};
use nearstone_base::codec::Writer;
use nearstone_tests::forge::catalog::{Table, meta};
use nearstone_tests::forge::log::{BARRIER, BATCH, END, Log, Record, header};
use nearstone_tests::forge::{Forger, add_u64, get_u64, put_u32, put_u64};

/// Puts a number into the header of the log's file.
fn head(forger: &mut Forger, at: usize, value: u64) {
    forger.log(|log| put_u64(&mut log.header, at, value));
}

/// Replaces the body of the last batch.
fn body(forger: &mut Forger, write: fn(&mut Writer)) {
    let mut out = Writer::new();
    write(&mut out);
    forger.log(|log| log.set_body(out.into_bytes()));
}

/// The head of an operation on an integer key: `1` upserts, `2` deletes.
fn operation(out: &mut Writer, kind: u8, collection: u32) {
    out.u8(kind);
    out.u32(collection);
    out.u8(0);
    out.raw(&7u64.to_be_bytes());
}

/// A whole upsert of numbers that are all `value`.
fn upsert(out: &mut Writer, collection: u32, dimension: u32, value: f32) {
    operation(out, 1, collection);
    out.u32(dimension);
    (0..dimension).for_each(|_| out.raw(&value.to_le_bytes()));
    out.u32(0);
}

fn append(log: &mut Log, kind: u8, lsn_more: u64, body: Vec<u8>) {
    let last = log.records.last().unwrap().lsn;
    let len = body.len() as u32;
    log.records.push(Record { kind, lsn: last + lsn_more, synced_lsn: last.saturating_sub(1), body, len });
}

/// Takes away the record that ends the file.
fn reopen(log: &mut Log) {
    log.records.retain(|record| record.kind != END);
}

/// Moves every lsn of the store up, so that the last one is `last`.
fn shift(forger: &mut Forger, last: u64) {
    let mut by = 0;
    forger.catalog(|rows| {
        by = last - get_u64(rows.meta(), meta::LAST_LSN);
        for at in [meta::WAL_FLOOR, meta::LAST_LSN, meta::CLEAN_LSN] {
            let value = get_u64(rows.meta(), at);
            put_u64(rows.meta(), at, value + by);
        }
        for key in rows.keys(Table::Collections) {
            let row = rows.body(Table::Collections, key);
            let at = 4 + row[0] as usize + 12;
            add_u64(row, at, by);
        }
    });
    forger.log(|log| {
        add_u64(&mut log.header, header::FIRST_LSN, by);
        for record in &mut log.records {
            record.lsn += by;
            record.synced_lsn += by;
        }
    });
}

pub(crate) static CASES: &[Case] = &[
    case(Right, "log: nothing", |f| f.log(|_| {})),
    case(Right, "log: a file behind it", |f| f.add_log(7, |_| {})),
    // The file header.
    case(Refused, "log header: magic", |f| f.log(|log| log.header[0] ^= 1)),
    case(Refused, "log header: version 0", |f| f.log(|log| put_u32(&mut log.header, header::VERSION, 0))),
    case(Refused, "log header: version max", |f| {
        f.log(|log| put_u32(&mut log.header, header::VERSION, u32::MAX));
    }),
    case(Refused, "log header: another store", |f| f.log(|log| log.header[header::STORE] ^= 1)),
    case(Refused, "log header: file id 0", |f| head(f, header::FILE_ID, 0)),
    case(Refused, "log header: another file id", |f| head(f, header::FILE_ID, 77)),
    case(Refused, "log header: file id max", |f| head(f, header::FILE_ID, u64::MAX)),
    case(Refused, "log header: generation max", |f| head(f, header::GENERATION, u64::MAX)),
    case(Refused, "log header: first lsn 0", |f| head(f, header::FIRST_LSN, 0)),
    case(Refused, "log header: first lsn max", |f| head(f, header::FIRST_LSN, u64::MAX)),
    case(Refused, "log header: first lsn max - 1", |f| head(f, header::FIRST_LSN, u64::MAX - 1)),
    case(Refused, "log header: first lsn one too high", |f| {
        f.log(|log| add_u64(&mut log.header, header::FIRST_LSN, 1));
    }),
    case(Refused, "log header: its own predecessor", |f| {
        f.log(|log| {
            let id = get_u64(&log.header, header::FILE_ID);
            put_u64(&mut log.header, header::PREDECESSOR, id);
        });
    }),
    case(Refused, "log header: predecessor max", |f| head(f, header::PREDECESSOR, u64::MAX)),
    case(Right, "log header: end of no predecessor", |f| head(f, header::PREDECESSOR_END, u64::MAX)),
    case(Refused, "log header: length 0", |f| head(f, header::FILE_BYTES, 0)),
    case(Refused, "log header: length max", |f| head(f, header::FILE_BYTES, u64::MAX)),
    case(Refused, "log header: a byte more", |f| {
        f.log(|log| put_u64(&mut log.header, header::FILE_BYTES, log.len as u64 + 1));
    }),
    // Record headers.
    case(Refused, "log record: length over the limit", |f| f.log(|log| log.batch().len = (64 << 20) + 1)),
    case(Refused, "log record: length at the limit", |f| f.log(|log| log.batch().len = 64 << 20)),
    case(Refused, "log record: length max", |f| f.log(|log| log.batch().len = u32::MAX)),
    case(Refused, "log record: length 0", |f| f.log(|log| log.batch().len = 0)),
    case(Refused, "log record: a byte more", |f| f.log(|log| log.batch().len += 1)),
    case(Refused, "log record: an lsn left out", |f| f.log(|log| log.batch().lsn += 1)),
    case(Refused, "log record: an lsn twice", |f| f.log(|log| log.batch().lsn -= 1)),
    case(Refused, "log record: lsn 0", |f| f.log(|log| log.batch().lsn = 0)),
    case(Refused, "log record: lsn max", |f| f.log(|log| log.batch().lsn = u64::MAX)),
    case(Refused, "log record: synced above its lsn", |f| {
        f.log(|log| log.batch().synced_lsn = log.batch().lsn + 5);
    }),
    case(Refused, "log record: synced max", |f| f.log(|log| log.batch().synced_lsn = u64::MAX)),
    case(Refused, "log record: no kind", |f| f.log(|log| log.batch().kind = 0)),
    case(Refused, "log record: another kind", |f| f.log(|log| log.batch().kind = 0x99)),
    case(Refused, "log record: an end before the end", |f| f.log(|log| log.batch().kind = END)),
    case(Refused, "log record: a barrier of 7 bytes", |f| {
        f.log(|log| {
            reopen(log);
            append(log, BARRIER, 0, vec![0; 7]);
        });
    }),
    case(Refused, "log record: a barrier of generation max", |f| {
        f.log(|log| {
            reopen(log);
            append(log, BARRIER, 0, vec![0xff; 8]);
        });
    }),
    case(Right, "log record: ten thousand barriers", |f| {
        f.log(|log| {
            reopen(log);
            (0..10_000).for_each(|_| append(log, BARRIER, 0, vec![0; 8]));
        });
    }),
    case(Refused, "log record: an end with a body", |f| {
        f.log(|log| {
            reopen(log);
            append(log, END, 0, vec![1; 8]);
        });
    }),
    case(Refused, "log record: headers that overlap", |f| {
        f.log(|log| {
            reopen(log);
            (0..8_000).for_each(|_| append(log, BATCH, 1, Vec::new()));
            log.records.iter_mut().rev().take(8_000).for_each(|record| record.len = 8192);
        });
    }),
    // Bodies of batches.
    case(Refused, "log body: empty", |f| body(f, |_| {})),
    case(Right, "log body: the same again", |f| {
        f.log(|log| {
            let body = log.batch().body.clone();
            log.set_body(body);
        });
    }),
    case(Refused, "log body: 2^32 - 1 operations in 10 bytes", |f| {
        body(f, |out| {
            out.u32(u32::MAX);
            out.raw(&[1; 10]);
        });
    }),
    case(Refused, "log body: as many operations as could fit", |f| {
        body(f, |out| {
            out.u32(100_000);
            out.raw(&[2; 900_000]);
        });
    }),
    case(Refused, "log body: an operation too many", |f| {
        body(f, |out| {
            out.u32(2);
            operation(out, 2, 1);
        });
    }),
    case(Refused, "log body: an operation too few", |f| {
        body(f, |out| {
            out.u32(0);
            operation(out, 2, 1);
        });
    }),
    case(Refused, "log body: an operation of no kind", |f| {
        body(f, |out| {
            out.u32(1);
            operation(out, 0, 1);
        });
    }),
    case(Refused, "log body: a key of no type", |f| {
        body(f, |out| {
            out.u32(1);
            out.raw(&[2, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0]);
        });
    }),
    case(Refused, "log body: a key of 65535 bytes", |f| {
        body(f, |out| {
            out.u32(1);
            out.raw(&[2, 2, 0, 0, 0, 1, 0xff, 0xff]);
            out.raw(&[b'x'; 65_535]);
        });
    }),
    case(Refused, "log body: a key of 513 bytes", |f| {
        body(f, |out| {
            out.u32(1);
            out.raw(&[2, 2, 0, 0, 0, 1, 1, 2]);
            out.raw(&[b'x'; 513]);
        });
    }),
    case(Refused, "log body: an empty key", |f| {
        body(f, |out| {
            out.u32(1);
            out.raw(&[2, 2, 0, 0, 0, 1, 0, 0, 0]);
        });
    }),
    case(Refused, "log body: a key that is no UTF-8", |f| {
        body(f, |out| {
            out.u32(1);
            out.raw(&[2, 2, 0, 0, 0, 1, 2, 0, 0xff, 0xfe]);
        });
    }),
    case(Refused, "log body: a key of the other type", |f| {
        body(f, |out| {
            out.u32(1);
            operation(out, 2, 2);
        });
    }),
    case(Refused, "log body: dimension 0", |f| {
        body(f, |out| {
            out.u32(1);
            upsert(out, 1, 0, 0.0);
        });
    }),
    case(Refused, "log body: dimension max", |f| {
        body(f, |out| {
            out.u32(1);
            operation(out, 1, 1);
            out.u32(u32::MAX);
            out.raw(&[0; 64]);
        });
    }),
    case(Refused, "log body: dimension 2^30", |f| {
        body(f, |out| {
            out.u32(1);
            operation(out, 1, 1);
            out.u32(1 << 30);
            out.raw(&[0; 64]);
        });
    }),
    case(Refused, "log body: dimension 65537", |f| {
        body(f, |out| {
            out.u32(1);
            upsert(out, 1, 65_537, 1.0);
        });
    }),
    case(Refused, "log body: dimension 65536", |f| {
        body(f, |out| {
            out.u32(1);
            upsert(out, 1, 65_536, 1.0);
        });
    }),
    case(Refused, "log body: dimension 5 instead of 6", |f| {
        body(f, |out| {
            out.u32(1);
            upsert(out, 1, 5, 1.0);
        });
    }),
    case(Refused, "log body: NaN", |f| {
        body(f, |out| {
            out.u32(1);
            upsert(out, 1, 6, f32::NAN);
        });
    }),
    case(Refused, "log body: infinity", |f| {
        body(f, |out| {
            out.u32(1);
            upsert(out, 1, 6, f32::INFINITY);
        });
    }),
    case(Refused, "log body: a payload of 2^32 - 1 bytes", |f| {
        body(f, |out| {
            out.u32(1);
            operation(out, 1, 1);
            out.u32(6);
            out.raw(&[0; 24]);
            out.u32(u32::MAX);
        });
    }),
    case(Refused, "log body: a payload over its limit", |f| {
        body(f, |out| {
            out.u32(1);
            operation(out, 1, 1);
            out.u32(6);
            out.raw(&[0; 24]);
            out.bytes(&vec![b' '; (1 << 20) + 1]);
        });
    }),
    case(Safe, "log body: a payload that is no JSON", |f| {
        body(f, |out| {
            out.u32(1);
            operation(out, 1, 1);
            out.u32(6);
            out.raw(&[0; 24]);
            out.bytes(&[0xff; 100]);
        });
    }),
    case(Safe, "log body: a payload of brackets", |f| {
        body(f, |out| {
            out.u32(1);
            operation(out, 1, 1);
            out.u32(6);
            out.raw(&[0; 24]);
            out.bytes(&vec![b'['; 1 << 20]);
        });
    }),
    case(Safe, "log body: collection 0, which never was", |f| {
        body(f, |out| {
            out.u32(1);
            operation(out, 2, 0);
        });
    }),
    case(Refused, "log body: a collection that is still to come", |f| {
        body(f, |out| {
            out.u32(1);
            upsert(out, 3, 6, 1.0);
        });
    }),
    case(Refused, "log body: collection max", |f| {
        body(f, |out| {
            out.u32(1);
            upsert(out, u32::MAX, 6, 1.0);
        });
    }),
    case(Safe, "log body: a hundred thousand deletes", |f| {
        body(f, |out| {
            out.u32(100_000);
            (0..100_000).for_each(|_| operation(out, 2, 1));
        });
        f.log(|log| {
            log.len = log.len.max(log.end() as usize + 4096).next_multiple_of(4096);
            put_u64(&mut log.header, header::FILE_BYTES, log.len as u64);
        });
    }),
    // The ends of numbers.
    case(Right, "log lsn: 2^40", |f| shift(f, 1 << 40)),
    case(Refused, "log lsn: the last is max", |f| shift(f, u64::MAX)),
    case(Refused, "log lsn: the last is max - 1", |f| shift(f, u64::MAX - 1)),
    case(Refused, "log lsn: the last is max - 9", |f| shift(f, u64::MAX - 9)),
    case(Right, "log file: beside one set aside under the highest number", |f| {
        f.files.insert("wal/000000000000ffff.log.aside".into(), vec![1]);
    }),
    case(Refused, "log file: set aside under number max", |f| {
        f.files.insert("wal/ffffffffffffffff.log.aside".into(), vec![1]);
    }),
    case(Refused, "log file: set aside under number max - 1", |f| {
        f.files.insert("wal/fffffffffffffffe.log.aside".into(), vec![1]);
    }),
    case(Refused, "log file: a next one with number max", |f| f.add_log(u64::MAX, |_| {})),
    case(Refused, "log file: a next one with number max - 1", |f| f.add_log(u64::MAX - 1, |_| {})),
    // Chains.
    case(Refused, "log chain: the end before the header's end", |f| {
        f.add_log(7, |log| put_u64(&mut log.header, header::PREDECESSOR_END, 0));
    }),
    case(Refused, "log chain: the end inside of a record", |f| {
        f.add_log(7, |log| put_u64(&mut log.header, header::PREDECESSOR_END, 5001));
    }),
    case(Refused, "log chain: the end beyond the file", |f| {
        f.add_log(7, |log| put_u64(&mut log.header, header::PREDECESSOR_END, 1 << 50));
    }),
    case(Refused, "log chain: the end max", |f| {
        f.add_log(7, |log| put_u64(&mut log.header, header::PREDECESSOR_END, u64::MAX));
    }),
    case(Refused, "log chain: a predecessor that is not there", |f| {
        f.add_log(7, |log| put_u64(&mut log.header, header::PREDECESSOR, 6));
    }),
    case(Refused, "log chain: no predecessor", |f| {
        f.add_log(7, |log| put_u64(&mut log.header, header::PREDECESSOR, 0));
    }),
    case(Refused, "log chain: a first lsn too high", |f| {
        f.add_log(7, |log| put_u64(&mut log.header, header::FIRST_LSN, 1 << 40));
    }),
    case(Refused, "log chain: a first lsn too low", |f| {
        f.add_log(7, |log| put_u64(&mut log.header, header::FIRST_LSN, 1));
    }),
    case(Refused, "log chain: two with one predecessor", |f| {
        let first = f.files[&f.paths("wal")[0]].clone();
        f.add_log(7, |_| {});
        let last = f.files[&f.paths("wal")[1]].clone();
        let path = f.paths("wal")[0].clone();
        f.files.insert(path, first);
        let mut log = Log::open(&last);
        put_u64(&mut log.header, header::FILE_ID, 6);
        f.files.insert("wal/0000000000000006.log".into(), log.seal());
    }),
    case(Right, "log chain: two hundred files", |f| {
        for id in 10..210 {
            f.add_log(id, |log| {
                log.len = 8192;
                put_u64(&mut log.header, header::FILE_BYTES, 8192);
            });
        }
    }),
    // Files.
    case(Refused, "log file: missing", |f| {
        let path = f.paths("wal")[0].clone();
        f.files.remove(&path);
    }),
    case(Refused, "log file: empty", |f| {
        let path = f.paths("wal")[0].clone();
        f.bytes(path, Vec::clear);
    }),
    case(Refused, "log file: half a header", |f| {
        let path = f.paths("wal")[0].clone();
        f.bytes(path, |bytes| bytes.truncate(2048));
    }),
];
