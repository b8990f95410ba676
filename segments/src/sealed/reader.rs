//! An open sealed segment: its bytes in place, and every question but the search.
//!
//! Opening reads the header, the footer and the code parameters, and takes the places of the sections from the
//! footer; no row is looked at. Afterwards nothing that a row says is believed before its block's checksum was found
//! right ([`super::blocks`]), and even then every ordinal and offset is bounded: a checksum is no proof against
//! someone who computes it.

use super::blocks::Blocks;
use super::cold::Cold;
use super::filter;
use super::format::{self, Header, Layout, Section, section_name};
use super::inline::Inline;
use super::versions;
use crate::deaths::Deaths;
use crate::graph::{FlatGraph, FlatLevel, LEVEL_MAX, NO_LINK};
use crate::meta::SegmentMeta;
use crate::quantize::codes::CodeSpace;
use nearstone_base::vfs::{OpenMode, Residency, Vfs, read_exact_at};
use nearstone_base::{Error, KeyRef, KeyType, Lsn, PAYLOAD_BYTES_MAX, Result, SegmentId};
use nearstone_kernels::prefetch_read;
use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use zerocopy::FromBytes;

/// A sealed segment, open. Shared by threads; no method locks.
pub struct SealedSegment {
    pub(super) meta: SegmentMeta,
    pub(super) blocks: Blocks,
    pub(super) places: Places,
    pub(super) codes: CodeSpace,
    pub(super) inline: Option<Inline>,
    deaths: Deaths,
    sizes: Vec<(&'static str, u64)>,
}

/// Where everything is.
pub(super) struct Places {
    pub(super) keys: Section,
    pub(super) key_offsets: Option<Section>,
    key_index: Section,
    key_order: Section,
    key_filter: Section,
    pub(super) versions: Section,
    pub(super) payload_offsets: Section,
    pub(super) payloads: Section,
    pub(super) codes: Section,
    pub(super) vectors: Section,
    pub(super) levels: Vec<Level>,
}

/// One level of the graph.
#[derive(Clone, Copy)]
pub(super) struct Level {
    pub(super) rows: u32,
    pub(super) section: Section,
}

impl fmt::Debug for SealedSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedSegment({}, {} rows)", self.path().display(), self.rows())
    }
}

impl SealedSegment {
    /// Opens a file that the catalog describes as `expected`.
    ///
    /// Checks length, header, footer, digest and the places of all sections. Cost: the footer (four bytes per 4 MiB
    /// of the file) and the code parameters, whatever the number of rows. Blocks are checked at first touch.
    ///
    /// # Errors
    /// `Corruption` when the file isn't the expected one or contradicts itself; `UnsupportedVersion`.
    pub fn open(
        vfs: &dyn Vfs,
        path: &Path,
        expected: &SegmentMeta,
        residency: Residency,
    ) -> Result<SealedSegment> {
        let mut segment = Self::open_alone(vfs, path, expected.id, expected.len, residency)?;
        segment.take_version(expected);
        segment.check_expected(expected)?;
        Ok(segment)
    }

    /// Reads a file's identity from the file itself. The id comes from a name of the form `<16 hex digits>.seg`, and
    /// is 0 under any other name: it belongs to a store, not to the file. Reads the footer and three blocks.
    pub fn inspect(vfs: &dyn Vfs, path: &Path) -> Result<SegmentMeta> {
        let file = vfs.open(path, OpenMode::Read)?;
        let len = file.len()?;
        let layout = Layout::read(path, len, &mut |offset, len| {
            let mut bytes = vec![0; len];
            read_exact_at(&*file, path, &mut bytes, offset)?;
            Ok(Cow::Owned(bytes))
        })?;
        Ok(meta_of(id_of(path), len, &layout))
    }

    /// Opens a file for what it says of itself: the caller knows nothing of it but its length.
    pub(super) fn open_alone(
        vfs: &dyn Vfs,
        path: &Path,
        id: SegmentId,
        len: u64,
        residency: Residency,
    ) -> Result<SealedSegment> {
        let bytes = vfs.bytes(path, len, residency)?;
        let layout = Layout::read(path, len, &mut |offset, len| {
            let start = usize::try_from(offset).ok();
            let range = start.and_then(|start| Some(start..start.checked_add(len)?));
            range
                .and_then(|range| bytes.get(range))
                .map(Cow::Borrowed)
                .ok_or_else(|| Error::corruption(path, offset, format!("{len} bytes"), "the end of the file"))
        })?;
        let places = Places::of(path, &layout)?;
        let sizes = layout.footer.sections.iter().map(|s| (section_name(s.id), s.len)).collect();
        let cold = Cold::open(vfs, path, &layout, &places.vectors, residency)?;
        let mut blocks = Blocks::new(path, bytes, cold, &layout.footer);
        blocks.hold(vfs, &layout, residency)?;
        let at = required(path, &layout, format::CODE_PARAMS, None, 1)?;
        let codes = CodeSpace::from_bytes(&layout.header.schema, blocks.get(at.offset, at.len)?);
        let codes =
            codes.filter(|codes| codes.row_bytes() as u64 == places.codes.stride).ok_or_else(|| {
                let expected = format!("parameters of {} codes", layout.header.schema.chosen_codes().name());
                Error::corruption(path, at.offset, expected, "bytes that are none, or of other codes")
            })?;
        let section = |id| layout.footer.sections.iter().find(|section| section.id == id).copied();
        let read = |id| match section(id) {
            Some(at) => Ok::<_, Error>(Some((at, blocks.get(at.offset, at.len)?))),
            None => Ok(None),
        };
        let (space, growth) = (read(format::INLINE_SPACE)?, read(format::INLINE_GROWTH)?);
        let inline = Inline::open(&layout.header, section, space, growth).map_err(|(section, found)| {
            let expected = format!("in {}, what belongs to the schema", section_name(section.id));
            Error::corruption(path, section.offset, expected, found)
        })?;
        Ok(SealedSegment {
            meta: meta_of(id, len, &layout),
            blocks,
            places,
            codes,
            inline,
            deaths: Deaths::new(),
            sizes,
        })
    }

    fn check_expected(&self, expected: &SegmentMeta) -> Result<()> {
        let differs = |what: &str, expected: String, found: String| {
            let offset = self.blocks.count().saturating_mul(format::BLOCK);
            Err(Error::corruption(self.path(), offset, format!("{what} {expected}"), found))
        };
        let found = &self.meta;
        if found.uuid != expected.uuid {
            return differs("segment", expected.uuid.to_string(), found.uuid.to_string());
        }
        if found.digest != expected.digest {
            return differs("digest", format!("{:032x}", expected.digest), format!("{:032x}", found.digest));
        }
        if found != expected {
            return differs(
                "the segment that is described as",
                format!("{expected:?}"),
                format!("{found:?}"),
            );
        }
        Ok(())
    }

    /// Whether it has inline rows, and so a refined or joined graph.
    pub fn has_inline_rows(&self) -> bool {
        self.inline.is_some()
    }

    /// Its identity card.
    pub fn meta(&self) -> &SegmentMeta {
        &self.meta
    }

    /// Rows, dead ones included.
    pub fn rows(&self) -> u32 {
        self.meta.rows
    }

    /// Which rows died, and when. Empty when a segment is opened: the catalog and the log know.
    pub fn deaths(&self) -> &Deaths {
        &self.deaths
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.blocks.path()
    }

    /// The row of a key, dead or alive. `hash` is the key's [`KeyRef::hash64`]. Costs one cache line for most keys
    /// that aren't here, about four for those that are.
    pub fn find(&self, key: KeyRef<'_>, hash: u64) -> Result<Option<u32>> {
        if key.key_type() != self.meta.schema.key_type() || !self.may_hold(hash)? {
            return Ok(None);
        }
        let buckets = self.places.key_index.count;
        let mask = buckets - 1;
        for step in 0..buckets {
            let ordinal = self.number(&self.places.key_index, hash.wrapping_add(step) & mask)?;
            if ordinal == NO_LINK {
                return Ok(None);
            }
            if self.key(ordinal)? == key {
                return Ok(Some(ordinal));
            }
        }
        Ok(None)
    }

    /// The row of a key if a snapshot at `at` sees it alive.
    pub fn find_at(&self, key: KeyRef<'_>, hash: u64, at: Lsn) -> Result<Option<u32>> {
        Ok(self.find(key, hash)?.filter(|&ordinal| !self.deaths.is_dead_at(ordinal, at)))
    }

    /// Whether the filter lets a key's hash pass.
    pub(super) fn may_hold(&self, hash: u64) -> Result<bool> {
        let filter = &self.places.key_filter;
        Ok(filter::passes(self.row(filter, filter::block_index(hash, filter.count))?, hash))
    }

    /// The key of a row.
    pub fn key(&self, ordinal: u32) -> Result<KeyRef<'_>> {
        let keys = &self.places.keys;
        let bytes = match &self.places.key_offsets {
            None => self.row(keys, ordinal.into())?,
            Some(offsets) => self.slice(offsets, keys, ordinal)?,
        };
        KeyRef::from_bytes(self.meta.schema.key_type(), bytes)
            .ok_or_else(|| self.bad(keys, format!("a key for row {ordinal}"), "other bytes"))
    }

    /// A row's vector, the original bits, in its place in the file: for those who read most rows, and none of whom holds the
    /// segment for long. Searches and gets use [`SealedSegment::read_vector`].
    pub fn vector(&self, ordinal: u32) -> Result<&[f32]> {
        let bytes = self.row(&self.places.vectors, ordinal.into())?;
        <[f32]>::ref_from_bytes(bytes)
            .map_err(|_| self.bad(&self.places.vectors, "aligned numbers", "others"))
    }

    /// A row's vector before its blocks are checked, to be prefetched.
    pub(super) fn vector_unchecked(&self, ordinal: u32) -> &[u8] {
        self.unchecked(&self.places.vectors, ordinal)
    }

    /// One element of a section before its blocks are checked, to be prefetched; nothing where there is none.
    #[inline]
    pub(super) fn unchecked(&self, section: &Section, index: u32) -> &[u8] {
        let offset = section.offset + u64::from(index) * section.stride;
        self.blocks.unchecked(offset, section.stride).unwrap_or(&[])
    }

    /// Asks for what names a row: its version, and its key or where that begins.
    pub(super) fn prefetch_names(&self, ordinal: u32) {
        for section in [&self.places.versions, self.places.key_offsets.as_ref().unwrap_or(&self.places.keys)]
        {
            let offset = section.offset + u64::from(ordinal) * section.stride;
            prefetch_read(self.blocks.unchecked(offset, 8).unwrap_or(&[]));
        }
    }

    /// A row's payload: JSON text or nothing.
    pub fn payload(&self, ordinal: u32) -> Result<&[u8]> {
        let payload = self.slice(&self.places.payload_offsets, &self.places.payloads, ordinal)?;
        if payload.len() > PAYLOAD_BYTES_MAX {
            let expected = format!("at most {PAYLOAD_BYTES_MAX} bytes for row {ordinal}");
            return Err(self.bad(&self.places.payloads, expected, format!("{} bytes", payload.len())));
        }
        Ok(payload)
    }

    /// The row whose key is the `rank`-th in key order, from 0.
    pub fn ordinal_by_rank(&self, rank: u32) -> Result<u32> {
        let ordinal = self.number(&self.places.key_order, rank.into())?;
        if ordinal >= self.rows() {
            let expected = format!("a row below {}", self.rows());
            return Err(self.bad(&self.places.key_order, expected, ordinal.to_string()));
        }
        Ok(ordinal)
    }

    /// A copy of the graph. Bytes: four per place.
    pub fn graph(&self) -> Result<FlatGraph> {
        let mut graph = FlatGraph::default();
        for level in 0..self.places.levels.len() {
            let rows = self.places.levels[level].rows;
            let mut flat = FlatLevel { rows, stride: 0, links: Vec::new() };
            for ordinal in 0..rows {
                let places = self.places_of(level, ordinal)?;
                flat.stride = places.len();
                flat.links.reserve_exact(if ordinal == 0 { places.len() * rows as usize } else { 0 });
                for &link in places {
                    if link != NO_LINK && link >= rows {
                        return Err(self.bad_link(level, link));
                    }
                    flat.links.push(link);
                }
            }
            graph.levels.push(flat);
        }
        Ok(graph)
    }

    /// Name and bytes of each section.
    pub fn section_sizes(&self) -> Vec<(&'static str, u64)> {
        self.sizes.clone()
    }

    /// Blocks of 4 KiB whose checksums were compared so far, and how many there are.
    pub fn verified_blocks(&self) -> (u64, u64) {
        (self.blocks.verified(), self.blocks.count())
    }

    /// Whether every block was compared.
    pub fn touched(&self) -> bool {
        self.blocks.verified() == self.blocks.count()
    }

    /// The places of a row's links on a level, used or not.
    #[inline]
    pub(super) fn places_of(&self, level: usize, ordinal: u32) -> Result<&[u32]> {
        let Some(place) = self.places.levels.get(level) else {
            return Err(Error::corruption(self.path(), 0, format!("a level {level}"), "fewer levels"));
        };
        let bytes = self.row_again(&place.section, ordinal)?;
        <[u32]>::ref_from_bytes(bytes).map_err(|_| self.bad(&place.section, "aligned numbers", "others"))
    }

    #[cold]
    pub(super) fn bad_link(&self, level: usize, link: u32) -> Error {
        let rows = self.places.levels.get(level).map_or(0, |level| level.rows);
        let offset = self.places.levels.get(level).map_or(0, |level| level.section.offset);
        Error::corruption(self.path(), offset, format!("a link below {rows}"), link.to_string())
    }

    #[cold]
    pub(super) fn bad(
        &self,
        section: &Section,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        let expected = format!("in {}, {}", section_name(section.id), expected.into());
        Error::corruption(self.path(), section.offset, expected, found)
    }

    #[cold]
    pub(super) fn beyond(&self, section: &Section, index: u64) -> Error {
        self.bad(section, format!("an element {index}"), format!("{} elements", section.count))
    }

    /// One element of a section, checked.
    #[inline]
    pub(super) fn row(&self, section: &Section, index: u64) -> Result<&[u8]> {
        if index >= section.count {
            return Err(self.beyond(section, index));
        }
        // Can't overflow: index < count, and the footer was accepted only with offset + count * stride in the file.
        self.blocks.get(section.offset + index * section.stride, section.stride)
    }

    /// As [`SealedSegment::row`], for elements of which most were read before: whoever reads thousands of them.
    #[inline(always)]
    pub(super) fn row_again(&self, section: &Section, index: u32) -> Result<&[u8]> {
        let (index, place) = (u64::from(index), section.offset + u64::from(index) * section.stride);
        if index < section.count {
            self.blocks.touch_again(place, section.stride)?;
            if let Some(bytes) = self.blocks.unchecked(place, section.stride) {
                return Ok(bytes);
            }
        }
        self.row(section, index)
    }

    fn number(&self, section: &Section, index: u64) -> Result<u32> {
        let bytes = self.row(section, index)?;
        u32::read_from_bytes(bytes).map_err(|_| self.bad(section, "four bytes", "others"))
    }

    pub(super) fn word(&self, section: &Section, index: u64) -> Result<u64> {
        let bytes = self.row(section, index)?;
        u64::read_from_bytes(bytes).map_err(|_| self.bad(section, "eight bytes", "others"))
    }

    /// The bytes of one row in a section of bytes, by a section of offsets.
    fn slice(&self, offsets: &Section, bytes: &Section, ordinal: u32) -> Result<&[u8]> {
        let start = self.word(offsets, ordinal.into())?;
        let end = self.word(offsets, u64::from(ordinal) + 1)?;
        if start > end || end > bytes.len {
            let found = format!("{start}..{end} for row {ordinal}");
            return Err(self.bad(offsets, format!("a range inside {} bytes", bytes.len), found));
        }
        self.blocks.get(bytes.offset + start, end - start)
    }
}

impl Places {
    fn of(path: &Path, layout: &Layout) -> Result<Places> {
        let Header { schema, rows, .. } = layout.header;
        let n = u64::from(rows);
        let need = |id, count, stride| required(path, layout, id, count, stride);
        let integers = schema.key_type() == KeyType::U64;
        let (keys, key_offsets) = if integers {
            (need(format::KEYS, Some(n), 8)?, None)
        } else {
            (need(format::KEYS, None, 1)?, Some(need(format::KEY_OFFSETS, Some(n + 1), 8)?))
        };
        let key_index = need(format::KEY_INDEX, None, 4)?;
        let key_filter = need(format::KEY_FILTER, None, 32)?;
        // A block of the filter is chosen by 32 bits of a hash.
        let filter_ok = (1..=u64::from(u32::MAX)).contains(&key_filter.count);
        if !key_index.count.is_power_of_two() || key_index.count <= n || !filter_ok {
            let found = format!("{} and {}", key_index.count, key_filter.count);
            let expected = "a power of two of buckets, more than rows, and a filter of 1 to 2^32 - 1 blocks";
            return Err(Error::corruption(path, key_index.offset, expected, found));
        }
        let mut levels: Vec<Level> = Vec::new();
        for (level, id) in (format::LINKS..).take(LEVEL_MAX + 1).enumerate() {
            let below = levels.last().map_or(n, |level| u64::from(level.rows));
            let Some(section) = layout.section(id) else { break };
            let places = schema.links() as u64 * if level == 0 { 2 } else { 1 };
            let count_ok = if level == 0 { section.count == n } else { (1..=below).contains(&section.count) };
            if section.stride != places * 4 || !count_ok {
                let expected = format!("level {level} with {places} places for up to {below} rows");
                let found = format!("{} rows of {} bytes", section.count, section.stride);
                return Err(Error::corruption(path, section.offset, expected, found));
            }
            levels.push(Level { rows: section.count as u32, section });
        }
        if levels.is_empty() {
            return Err(Error::corruption(path, 0, "a section of links", "none"));
        }
        let codes = layout.section(format::CODES).map_or(0, |section| section.stride);
        Ok(Places {
            keys,
            key_offsets,
            key_index,
            key_filter,
            key_order: need(format::KEY_ORDER, Some(n), 4)?,
            versions: versions::section(path, layout)?,
            payload_offsets: need(format::PAYLOAD_OFFSETS, Some(n + 1), 8)?,
            payloads: need(format::PAYLOADS, None, 1)?,
            codes: need(format::CODES, Some(n), codes)?,
            vectors: need(format::VECTORS, Some(n), schema.dimension() as u64 * 4)?,
            levels,
        })
    }
}

/// A section that every segment of this version has.
pub(super) fn required(
    path: &Path,
    layout: &Layout,
    id: u32,
    count: Option<u64>,
    stride: u64,
) -> Result<Section> {
    let name = section_name(id);
    let footer = layout.footer.table_offset();
    let section = layout
        .section(id)
        .ok_or_else(|| Error::corruption(path, footer, format!("a section {name}"), "none"))?;
    if section.stride != stride || count.is_some_and(|count| count != section.count) {
        let count = count.unwrap_or(section.count);
        let expected = format!("{name} with {count} elements of {stride} bytes");
        let found = format!("{} elements of {} bytes", section.count, section.stride);
        return Err(Error::corruption(path, section.offset, expected, found));
    }
    Ok(section)
}

fn meta_of(id: SegmentId, len: u64, layout: &Layout) -> SegmentMeta {
    let Header { uuid, schema, rows, lsn_min, lsn_max, user_bytes, created_secs, .. } = layout.header;
    SegmentMeta {
        id,
        uuid,
        schema,
        len,
        digest: layout.digest,
        rows,
        lsn_min,
        lsn_max,
        user_bytes,
        created_secs,
    }
}

fn id_of(path: &Path) -> SegmentId {
    let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".seg"));
    let digits = name.filter(|name| name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit()));
    SegmentId(digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0))
}
