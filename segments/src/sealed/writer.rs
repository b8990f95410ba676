//! Writing a sealed segment.
//!
//! 1. One pass over the keys: their order, their hashes, the bytes of keys and payloads. A key that comes twice ends
//!    the work here.
//! 2. The sections go out one after another ([`Stream`]), codes as they are made.
//! 3. Header, checksums, footer and sync end the stream; then rename, sync of the folder. A file under its final
//!    name is so whole and durable.
//!
//! Memory: about 50 bytes per row for keys and their index and a few MiB, besides the graph and what inline rows take. On
//! any error the unfinished file is removed; if that fails too, it is swept at the next open, by its name.

use super::filter;
use super::format::{self, BLOCK, Header};
use super::inline::batch::Batches;
use super::inline::join::Join;
use super::inline::write::{Given, Prepared, refined_lean};
use super::reader::SealedSegment;
use super::stream::{Stream, step};
use crate::graph::{FlatGraph, LEVEL_MAX, NO_LINK};
use crate::meta::SegmentMeta;
use crate::quantize::codes::CodeSpace;
use crate::quantize::space::Space;
use crate::segment::RowSource;
use crate::share::share;
use nearstone_base::faults::{failpoint, seeded};
use nearstone_base::vfs::{OpenMode, Vfs};
use nearstone_base::{Error, KeyRef, KeyType, Lsn, Result, Schema, SegmentId, Uuid};
use std::fmt;
use std::path::{Path, PathBuf};
use zerocopy::IntoBytes;

/// Where a new segment goes.
#[derive(Clone, Copy)]
pub struct SealTarget<'a> {
    /// The file system.
    pub vfs: &'a dyn Vfs,
    /// The folder of segments.
    pub dir: &'a Path,
    /// A number never used before; names the file.
    pub id: SegmentId,
    /// A fresh identity for the file.
    pub uuid: Uuid,
    /// Now, in seconds since the Unix epoch.
    pub created_secs: u64,
    /// How many threads may make codes and inline rows, the calling one included.
    pub threads: usize,
    /// A segment of the same collection, if there is one. Where rows lie as its rows do, inline rows are brought to the same space:
    /// searches of both prepare a query once.
    pub like: Option<&'a SealedSegment>,
}

impl fmt::Debug for SealTarget<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealTarget({})", self.path().display())
    }
}

impl SealTarget<'_> {
    /// The finished file.
    pub fn path(&self) -> PathBuf {
        self.dir.join(format!("{:016x}.seg", self.id.0))
    }

    /// The file while it is written.
    pub fn tmp_path(&self) -> PathBuf {
        self.dir.join(format!("{:016x}.tmp", self.id.0))
    }

    /// The space that so many rows should be brought to: that of a segment which is not much smaller.
    fn space(&self, rows: u32) -> Option<&Space> {
        self.like.filter(|like| like.rows() >= rows / LIKE_SHARE).and_then(SealedSegment::inline_space)
    }
}

/// A space is shared with a segment that has at least one in so many as many rows: what few say of where rows lie, many may know better.
const LIKE_SHARE: u32 = 2;
/// Codes that are held before they are written.
const CODES_BYTES: usize = 4 << 20;
/// Rows that a thread encodes at a time.
const PIECE: usize = 256;
/// Rows from which code parameters are learnt.
const SAMPLE_ROWS: u32 = 20_000;

/// Writes `rows` and their graph (rows numbered as in `rows`) to `<id>.seg`; a segment with inline rows gets a refined
/// graph, and so does one that would have them, were it not for [`Profile::Memory`](nearstone_base::Profile::Memory).
///
/// `cancel` is asked about every two megabytes and every few hundred codes and inline rows (it may wait there, for a pause);
/// `true` ends the work.
///
/// # Errors
/// `InvalidArgument` without rows, for a key that comes twice and for a graph of other rows; `Cancelled`; what
/// reading the rows and writing the file give. No file stays behind then, except after a failed sync of the folder.
pub fn write_segment(
    target: &SealTarget<'_>,
    schema: &Schema,
    rows: &dyn RowSource,
    graph: &FlatGraph,
    cancel: &dyn Fn() -> bool,
) -> Result<SegmentMeta> {
    check_graph(schema, rows.rows(), graph)?;
    let keys = Keys::read(schema, rows, cancel)?;
    let given = Given::Graph(graph);
    let inline = Prepared::new(schema, rows, given, target.space(rows.rows()), target.threads, cancel)?;
    let better = refined_lean(schema, rows, given, target.threads, cancel)?;
    let graph = inline.as_ref().map(|inline| &inline.graph).or(better.as_ref()).unwrap_or(graph);
    write_contents(target, &Contents { schema, rows, keys, graph, inline: inline.as_ref() }, cancel)
}

/// As [`write_segment`], with the graph that a [`Join`] finds; `rows` are those of its origin. `None`, and no file, when
/// such a segment has no inline rows.
///
/// # Errors
/// As [`write_segment`]; `Corruption` for damage in an input.
pub fn write_joined(
    target: &SealTarget<'_>,
    schema: &Schema,
    rows: &dyn RowSource,
    join: &Join<'_>,
    cancel: &dyn Fn() -> bool,
) -> Result<Option<SegmentMeta>> {
    let keys = Keys::read(schema, rows, cancel)?;
    let like = target.space(rows.rows());
    let Some(inline) = Prepared::joined(schema, rows, join, like, target.threads, cancel)? else {
        return Ok(None);
    };
    check_graph(schema, rows.rows(), &inline.graph)?;
    let contents = Contents { schema, rows, keys, graph: &inline.graph, inline: Some(&inline) };
    write_contents(target, &contents, cancel).map(Some)
}

/// As [`write_segment`], with a graph that is built in batches; `rows` are in the order of `batches`. `None`, and no file, when
/// they are better linked one by one after all: where half precision does not hold their distances.
///
/// # Errors
/// As [`write_segment`].
pub fn write_batched(
    target: &SealTarget<'_>,
    schema: &Schema,
    rows: &dyn RowSource,
    batches: &Batches,
    cancel: &dyn Fn() -> bool,
) -> Result<Option<SegmentMeta>> {
    if rows.rows() as usize != batches.order().len() {
        return Err(Error::invalid(format!(
            "{} rows for batches of {}: they must be the same",
            rows.rows(),
            batches.order().len()
        )));
    }
    let keys = Keys::read(schema, rows, cancel)?;
    let given = Given::Batches(batches);
    let inline = Prepared::new(schema, rows, given, target.space(rows.rows()), target.threads, cancel)?;
    let lean = refined_lean(schema, rows, given, target.threads, cancel)?;
    let graph = inline.as_ref().map(|inline| &inline.graph).or(lean.as_ref());
    let Some(graph) = graph else { return Ok(None) };
    check_graph(schema, rows.rows(), graph)?;
    let contents = Contents { schema, rows, keys, graph, inline: inline.as_ref() };
    write_contents(target, &contents, cancel).map(Some)
}

/// What goes into a file.
struct Contents<'a> {
    schema: &'a Schema,
    rows: &'a dyn RowSource,
    keys: Keys,
    graph: &'a FlatGraph,
    inline: Option<&'a Prepared>,
}

fn write_contents(
    target: &SealTarget<'_>,
    contents: &Contents<'_>,
    cancel: &dyn Fn() -> bool,
) -> Result<SegmentMeta> {
    let tmp = target.tmp_path();
    let written = write_tmp(target, &tmp, contents, cancel)
        .and_then(|meta| target.vfs.rename(&tmp, &target.path()).map(|()| meta));
    match written {
        Ok(meta) => {
            failpoint("segment-named");
            if !seeded("segments-folder-not-synced") {
                target.vfs.sync_dir(target.dir)?;
            }
            failpoint("segment-name-synced");
            Ok(meta)
        }
        Err(error) => {
            // Best effort: the first error is the one to tell, and open sweeps what stays.
            let _ = target.vfs.remove(&tmp);
            Err(error)
        }
    }
}

fn write_tmp(
    target: &SealTarget<'_>,
    tmp: &Path,
    contents: &Contents<'_>,
    cancel: &dyn Fn() -> bool,
) -> Result<SegmentMeta> {
    let &Contents { schema, rows, ref keys, graph, inline } = contents;
    let file = target.vfs.open(tmp, OpenMode::Truncate)?;
    failpoint("segment-begun");
    let mut out = Stream::new(file, target.uuid, cancel);
    out.bytes(&[0; BLOCK as usize])?;

    write_keys(&mut out, schema, rows, keys)?;
    let (lsn_min, lsn_max) = write_versions(&mut out, rows)?;
    let payload_bytes = write_payloads(&mut out, rows)?;
    write_codes(&mut out, schema, rows, target.threads)?;
    write_vectors(&mut out, schema, rows)?;
    let links: usize = graph.levels.iter().map(|l| l.links.iter().filter(|&&n| n != NO_LINK).count()).sum();
    out.section(format::STATISTICS, 8, |out| {
        [keys.bytes, payload_bytes, links as u64].iter().try_for_each(|word| out.bytes(&word.to_le_bytes()))
    })?;
    for (id, level) in (format::LINKS..).zip(&graph.levels) {
        out.section(id, level.stride as u64 * 4, |out| out.bytes(level.links.as_bytes()))?;
    }

    if let Some(inline) = inline {
        inline.write(&mut out)?;
    }

    let vector_bytes = u64::from(rows.rows()) * schema.dimension() as u64 * 4;
    let header = Header {
        uuid: target.uuid,
        schema: *schema,
        rows: rows.rows(),
        lsn_min,
        lsn_max,
        user_bytes: vector_bytes + keys.bytes + payload_bytes,
        created_secs: target.created_secs,
        leading: inline.is_some_and(Prepared::leads),
    };
    let (len, digest) = out.finish(&header)?;
    Ok(SegmentMeta {
        id: target.id,
        uuid: target.uuid,
        schema: *schema,
        len,
        digest,
        rows: header.rows,
        lsn_min,
        lsn_max,
        user_bytes: header.user_bytes,
        created_secs: target.created_secs,
    })
}

fn check_graph(schema: &Schema, rows: u32, graph: &FlatGraph) -> Result<()> {
    if rows == 0 {
        return Err(Error::invalid("a segment has at least one row: this one has none"));
    }
    let mut below = rows;
    for (l, level) in graph.levels.iter().enumerate() {
        let stride = schema.links() * if l == 0 { 2 } else { 1 };
        let members = if l == 0 { level.rows == rows } else { (1..=below).contains(&level.rows) };
        if !members || level.stride != stride || level.links.len() != level.rows as usize * stride {
            return Err(Error::invalid(format!(
                "level {l} of the graph has {} rows and {} places each: {below} rows and {stride} places belong there",
                level.rows, level.stride
            )));
        }
        if let Some(link) = level.links.iter().find(|&&link| link >= level.rows && link != NO_LINK) {
            return Err(Error::invalid(format!(
                "a link to row {link} on level {l}, which has {} rows",
                level.rows
            )));
        }
        below = level.rows;
    }
    if graph.levels.is_empty() || graph.levels.len() > LEVEL_MAX + 1 {
        return Err(Error::invalid(format!(
            "the graph has {} levels: it must have 1 to {}",
            graph.levels.len(),
            LEVEL_MAX + 1
        )));
    }
    Ok(())
}

/// What the first pass finds out.
struct Keys {
    order: Vec<u32>,
    index: Vec<u32>,
    hashes: Vec<u64>,
    bytes: u64,
}

impl Keys {
    fn read(schema: &Schema, rows: &dyn RowSource, cancel: &dyn Fn() -> bool) -> Result<Keys> {
        let mut sorted: Vec<(KeyRef<'_>, u32)> = Vec::with_capacity(rows.rows() as usize);
        let mut hashes = Vec::with_capacity(rows.rows() as usize);
        let mut bytes = 0;
        for row in 0..rows.rows() {
            if row.is_multiple_of(1 << 14) {
                step(cancel)?;
            }
            let key = rows.key(row)?;
            if key.key_type() != schema.key_type() {
                return Err(Error::invalid(format!("the key {key:?} of row {row} is of another type")));
            }
            key.validate()?;
            hashes.push(key.hash64());
            bytes += key.byte_len() as u64;
            sorted.push((key, row));
        }
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let (key, a, b) = (twice[0].0, twice[0].1, twice[1].1);
            return Err(Error::invalid(format!("the key {key:?} is that of row {a} and of row {b}")));
        }
        let order = sorted.into_iter().map(|(_, row)| row).collect();
        Ok(Keys { order, index: build_index(&hashes), hashes, bytes })
    }
}

/// Open addressing, at most two thirds full.
fn build_index(hashes: &[u64]) -> Vec<u32> {
    let buckets = (hashes.len() + hashes.len() / 2 + 1).next_power_of_two();
    let mask = buckets as u64 - 1;
    let mut index = vec![NO_LINK; buckets];
    for (row, &hash) in (0..).zip(hashes) {
        let mut at = hash & mask;
        while index[at as usize] != NO_LINK {
            at = (at + 1) & mask;
        }
        index[at as usize] = row;
    }
    index
}

fn write_keys(out: &mut Stream<'_>, schema: &Schema, rows: &dyn RowSource, keys: &Keys) -> Result<()> {
    let mut buffer = Vec::new();
    let stride = if schema.key_type() == KeyType::U64 { 8 } else { 1 };
    out.section(format::KEYS, stride, |out| {
        (0..rows.rows()).try_for_each(|row| {
            buffer.clear();
            rows.key(row)?.write_bytes(&mut buffer);
            out.bytes(&buffer)
        })
    })?;
    if schema.key_type() == KeyType::Str {
        write_offsets(out, format::KEY_OFFSETS, rows.rows(), |row| Ok(rows.key(row)?.byte_len() as u64))?;
    }
    out.section(format::KEY_INDEX, 4, |out| out.bytes(keys.index.as_bytes()))?;
    out.section(format::KEY_ORDER, 4, |out| out.bytes(keys.order.as_bytes()))?;
    out.section(format::KEY_FILTER, 32, |out| out.bytes(filter::build(&keys.hashes).as_bytes()))
}

fn write_versions(out: &mut Stream<'_>, rows: &dyn RowSource) -> Result<(Lsn, Lsn)> {
    let (mut lsn_min, mut lsn_max) = (Lsn::MAX, 0);
    out.section(format::VERSIONS, 8, |out| {
        (0..rows.rows()).try_for_each(|row| {
            let lsn = rows.version(row)?;
            lsn_min = lsn_min.min(lsn);
            lsn_max = lsn_max.max(lsn);
            if rows.is_unversioned() {
                return Ok(());
            }
            out.bytes(&lsn.to_le_bytes())
        })
    })?;
    if rows.is_unversioned() && lsn_min != lsn_max {
        return Err(Error::invalid(format!(
            "rows without versions from lsns {lsn_min} to {lsn_max}: they must be of one"
        )));
    }
    Ok((lsn_min, lsn_max))
}

fn write_payloads(out: &mut Stream<'_>, rows: &dyn RowSource) -> Result<u64> {
    let len = |row| Ok(rows.payload(row)?.len() as u64);
    let bytes = write_offsets(out, format::PAYLOAD_OFFSETS, rows.rows(), len)?;
    out.section(format::PAYLOADS, 1, |out| {
        (0..rows.rows()).try_for_each(|row| out.bytes(rows.payload(row)?))
    })?;
    Ok(bytes)
}

/// As many rows as fit are encoded by all threads and written, then the next ones.
fn write_codes(out: &mut Stream<'_>, schema: &Schema, rows: &dyn RowSource, threads: usize) -> Result<()> {
    let space = train(schema, rows, threads, out.cancel)?;
    out.section(format::CODE_PARAMS, 1, |out| out.bytes(&space.to_bytes()))?;
    let stride = space.row_bytes();
    let batch = (CODES_BYTES / stride).clamp(1, rows.rows() as usize);
    let mut codes = vec![0; batch * stride];
    out.section(format::CODES, stride as u64, |out| {
        for first in (0..rows.rows()).step_by(batch) {
            let codes = &mut codes[..batch.min((rows.rows() - first) as usize) * stride];
            share(codes, PIECE * stride, threads, out.cancel, |place, piece, work| {
                let first = first + (place / stride) as u32;
                for (row, code) in (first..).zip(piece.chunks_exact_mut(stride)) {
                    space.encode(vector(schema, rows, row)?, code, work);
                }
                Ok(())
            })?;
            out.bytes(codes)?;
        }
        Ok(())
    })
}

fn write_vectors(out: &mut Stream<'_>, schema: &Schema, rows: &dyn RowSource) -> Result<()> {
    out.section(format::VECTORS, schema.dimension() as u64 * 4, |out| {
        (0..rows.rows()).try_for_each(|row| out.bytes(vector(schema, rows, row)?.as_bytes()))
    })
}

/// Code parameters from an even sample of the rows.
fn train(
    schema: &Schema,
    rows: &dyn RowSource,
    threads: usize,
    cancel: &dyn Fn() -> bool,
) -> Result<CodeSpace> {
    let step = rows.rows().div_ceil(SAMPLE_ROWS).max(1) as usize;
    let sample: Vec<&[f32]> =
        (0..rows.rows()).step_by(step).map(|row| vector(schema, rows, row)).collect::<Result<_>>()?;
    CodeSpace::train(schema, &sample, threads, cancel)
}

pub(super) fn vector<'a>(schema: &Schema, rows: &'a dyn RowSource, row: u32) -> Result<&'a [f32]> {
    let vector = rows.vector(row)?;
    if vector.len() != schema.dimension() {
        return Err(Error::invalid(format!(
            "the vector of row {row} has {} numbers: the dimension is {}",
            vector.len(),
            schema.dimension()
        )));
    }
    Ok(vector)
}

/// `n + 1` running sums of `len`; returns the last.
fn write_offsets(out: &mut Stream<'_>, id: u32, rows: u32, len: impl Fn(u32) -> Result<u64>) -> Result<u64> {
    let mut end = 0u64;
    out.section(id, 8, |out| {
        out.bytes(&end.to_le_bytes())?;
        (0..rows).try_for_each(|row| {
            end += len(row)?;
            out.bytes(&end.to_le_bytes())
        })
    })?;
    Ok(end)
}
