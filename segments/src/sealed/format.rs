//! The bytes of a sealed segment, told once. Writer, reader and verifier all speak of places through this file.
//!
//! ```text
//! +-----------------+  0
//! | header          |  one block of 4 KiB
//! +-----------------+  4 KiB
//! | sections        |  each at a multiple of 64, zeros between them, zeros up to the next block
//! +-----------------+  blocks * 4 KiB
//! | block checksums |  one u32 per block above, zeros up to the next block
//! +-----------------+  (blocks + pages) * 4 KiB
//! | footer          |  section table, one u32 per page of block checksums; ends with the file
//! +-----------------+
//! ```
//!
//! All numbers are little-endian, except integer keys, which are kept in their sortable (big-endian) byte form.
//!
//! The first 64 bytes of the header are the **prefix**, whose shape is the same in every version:
//! `magic 8 | version u32 | 0 u32 | ignorable u64 | refuse u64 | uuid 16 | 0 12 | crc u32`. The checksum (seed 0)
//! tells a damaged version number from a newer one. A reader that doesn't know a bit of `refuse` must not read on;
//! bits of `ignorable` may be unknown. Bit 0 of `refuse`: inline rows hold what vectors are along a few directions, which the inline
//! space names.
//!
//! Then `schema 12 | rows u32 | lsn_min u64 | lsn_max u64 | user_bytes u64 | created_secs u64`, and zeros. What the bytes of a
//! schema are, [`Schema::encode`] says; profile and codes among them are the segment's own, and its collection may have others.
//! The segment's number in its store is not in the file: a file that travels gets a new one. Nor is the version of rows
//! that were never in a log: they have one for all, which comes with the number; the header then has, twice, the lowest
//! lsn that it can be.
//!
//! The footer: `magic 8 | version u32 | sections u32 | uuid 16 | blocks u64 | pages u32 | 0 u32`, then per section
//! `id u32 | 0 u32 | offset u64 | len u64 | count u64 | stride u64`, then `pages` checksums, then
//! `crc u32 | footer length u32 | end magic 8`. The checksum covers all of the footer before it.
//!
//! The checksum of a block is CRC-32 that begins from [`seed_of`]: another segment's block, or this segment's block at
//! another place, doesn't pass. The digest of a segment is XXH3-128 of its whole footer, which so vouches for every
//! byte: footer -> pages of checksums -> blocks.
//!
//! Sections (`n` rows, dimension `d`, `m` links). Ids a reader doesn't know are ignored.
//!
//! | id | name | count x stride | contents |
//! |---|---|---|---|
//! | 1 | keys | n x 8, or bytes x 1 | integer keys, or the bytes of string keys back to back |
//! | 2 | key offsets | n+1 x 8 | string keys only: where each key begins; the last one is the end |
//! | 3 | key index | 2^b x 4 | open addressing by `hash64 & (2^b - 1)`, step 1; ordinals, `u32::MAX` is free |
//! | 4 | key order | n x 4 | ordinals in the order of their keys |
//! | 5 | versions | n x 8, or none | the lsn that wrote each row; without any, whoever names the file says which one it is |
//! | 6 | payload offsets | n+1 x 8 | where each payload begins; the last one is the end |
//! | 7 | payloads | bytes x 1 | JSON text, or nothing |
//! | 8 | code parameters | bytes x 1 | what the codes were made with |
//! | 9 | codes | n x 64 k | one code row per vector, zeros after it; of which codes, the schema says |
//! | 10 | vectors | n x 4 d | the original `f32` numbers |
//! | 11 | statistics | words x 8 | key bytes, payload bytes, links; later versions may append |
//! | 12 | key filter | blocks x 32 | split-block Bloom filter over `hash64` |
//! | 13 | inline space | bytes x 1 | how vectors are brought to the inline rows; only together with these |
//! | 14 | inline rows | n x stride | the vector and the links of each row, with codes of the vectors they lead to |
//! | 15 | inline entry | 1 x stride | the middle of all vectors, linked to the first rows: where walks begin |
//! | 16 | inline growth | 1 x 4 | the exponent with which squared distances grow from neighbour to neighbour; may be missing |
//! | 256 + l | links | rows(l) x 4 places | level `l`: `2 m` places on level 0, `m` above; unused ones `u32::MAX`, last |

use crate::graph::LEVEL_MAX;
use nearstone_base::checksum::{crc32, hash128};
use nearstone_base::codec::{Reader, Writer};
use nearstone_base::{Codes, Error, ErrorKind, Lsn, Result, Schema, Uuid};
use std::borrow::Cow;
use std::path::Path;

/// The version this code writes, and the newest it reads.
pub const VERSION: u32 = 1;
/// Bytes of a checked block.
pub const BLOCK: u64 = 4096;
/// Sections begin at multiples of this.
pub const ALIGN: u64 = 64;
/// Checksums in one block of them.
pub(crate) const CRCS_PER_PAGE: u64 = BLOCK / 4;

const MAGIC: [u8; 8] = *b"NEARSEG\n";
const FOOTER_MAGIC: [u8; 8] = *b"NEARFOOT";
const END_MAGIC: [u8; 8] = *b"NEAREND\n";
const PREFIX: usize = 64;
/// Where the prefix has its bits that may refuse a reader.
const REFUSE_AT: usize = 24;
const FOOTER_HEAD: usize = 48;
const SECTION_ENTRY: usize = 40;
/// `crc | length | end magic`.
const FOOTER_TAIL: usize = 16;
/// More sections than any version will need; bounds the table before it is read.
const SECTIONS_MAX: u32 = 1024;

/// A refuse bit: inline rows hold what vectors are along a few directions.
const REFUSE_LEADING: u64 = 1;
/// Refuse bits this code knows.
const REFUSE_KNOWN: u64 = REFUSE_LEADING;

pub(crate) const KEYS: u32 = 1;
pub(crate) const KEY_OFFSETS: u32 = 2;
pub(crate) const KEY_INDEX: u32 = 3;
pub(crate) const KEY_ORDER: u32 = 4;
pub(crate) const VERSIONS: u32 = 5;
pub(crate) const PAYLOAD_OFFSETS: u32 = 6;
pub(crate) const PAYLOADS: u32 = 7;
pub(crate) const CODE_PARAMS: u32 = 8;
pub(crate) const CODES: u32 = 9;
pub(crate) const VECTORS: u32 = 10;
pub(crate) const STATISTICS: u32 = 11;
pub(crate) const KEY_FILTER: u32 = 12;
pub(crate) const INLINE_SPACE: u32 = 13;
pub(crate) const INLINE_ROWS: u32 = 14;
pub(crate) const INLINE_ENTRY: u32 = 15;
pub(crate) const INLINE_GROWTH: u32 = 16;
pub(crate) const LINKS: u32 = 256;

/// The name of a section, for messages and statistics.
pub fn section_name(id: u32) -> &'static str {
    const LEVELS: [&str; LEVEL_MAX + 1] = [
        "links 0", "links 1", "links 2", "links 3", "links 4", "links 5", "links 6", "links 7", "links 8",
        "links 9", "links 10", "links 11", "links 12", "links 13", "links 14", "links 15",
    ];
    match id {
        KEYS => "keys",
        KEY_OFFSETS => "key offsets",
        KEY_INDEX => "key index",
        KEY_ORDER => "key order",
        VERSIONS => "versions",
        PAYLOAD_OFFSETS => "payload offsets",
        PAYLOADS => "payloads",
        CODE_PARAMS => "code parameters",
        CODES => "codes",
        VECTORS => "vectors",
        STATISTICS => "statistics",
        KEY_FILTER => "key filter",
        INLINE_SPACE => "inline space",
        INLINE_ROWS => "inline rows",
        INLINE_ENTRY => "inline entry",
        INLINE_GROWTH => "inline growth",
        _ => id.checked_sub(LINKS).and_then(|level| LEVELS.get(level as usize)).unwrap_or(&"unknown"),
    }
}

/// One section's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Section {
    /// What it holds.
    pub id: u32,
    /// Where it begins.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
    /// Its elements.
    pub count: u64,
    /// Bytes per element.
    pub stride: u64,
}

/// What the header says after its prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The segment's identity.
    pub uuid: Uuid,
    /// The schema of its rows.
    pub schema: Schema,
    /// How many rows.
    pub rows: u32,
    /// Lowest version.
    pub lsn_min: Lsn,
    /// Highest version.
    pub lsn_max: Lsn,
    /// Bytes of vectors, keys and payloads.
    pub user_bytes: u64,
    /// When it was written.
    pub created_secs: u64,
    /// Whether its inline rows hold what vectors are along a few directions.
    pub leading: bool,
}

/// What the footer says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Footer {
    /// The segment's identity, again.
    pub uuid: Uuid,
    /// Checked blocks before the table of checksums.
    pub blocks: u64,
    /// The sections, by offset.
    pub sections: Vec<Section>,
    /// The checksum of each page of block checksums.
    pub pages: Vec<u32>,
}

/// Everything that opening reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The header.
    pub header: Header,
    /// The footer.
    pub footer: Footer,
    /// XXH3-128 of the footer.
    pub digest: u128,
}

/// Where the checksum of a block begins: depends on the segment, and on the block's number in the file.
pub fn seed_of(uuid: Uuid, block: u64) -> u32 {
    // For input of one length, different beginnings give different checksums; multiplication by an odd number keeps
    // them different for all blocks below 16 TiB.
    crc32(0, &uuid.0) ^ (block as u32).wrapping_mul(0x9e37_79b1)
}

impl Header {
    /// The header's block.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(BLOCK as usize);
        out.raw(&MAGIC);
        out.u32(VERSION);
        out.u32(0);
        out.u64(0);
        out.u64(if self.leading { REFUSE_LEADING } else { 0 });
        out.raw(&self.uuid.0);
        out.raw(&[0; 12]);
        let crc = crc32(0, out.as_bytes());
        out.u32(crc);
        debug_assert_eq!(out.len(), PREFIX);
        self.schema.encode(&mut out);
        out.u32(self.rows);
        out.u64(self.lsn_min);
        out.u64(self.lsn_max);
        out.u64(self.user_bytes);
        out.u64(self.created_secs);
        let mut bytes = out.into_bytes();
        bytes.resize(BLOCK as usize, 0);
        bytes
    }

    /// Reads the header's block, which was checked before.
    fn decode(block: &[u8], uuid: Uuid) -> Option<Header> {
        let mut input = Reader::new(block);
        let refuse = Reader::new(block.get(REFUSE_AT..)?).u64()?;
        input.raw(PREFIX)?;
        let header = Header {
            uuid,
            leading: refuse & REFUSE_LEADING != 0,
            schema: Schema::decode(&mut input)?,
            rows: input.u32()?,
            lsn_min: input.u64()?,
            lsn_max: input.u64()?,
            user_bytes: input.u64()?,
            created_secs: input.u64()?,
        };
        // u32::MAX marks free places, so it is no row's number; a sealed segment has at least one row.
        let rows_ok = (1..u32::MAX).contains(&header.rows);
        (rows_ok && header.lsn_min <= header.lsn_max).then_some(header)
    }
}

impl Footer {
    /// The footer's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.raw(&FOOTER_MAGIC);
        out.u32(VERSION);
        out.u32(self.sections.len() as u32);
        out.raw(&self.uuid.0);
        out.u64(self.blocks);
        out.u32(self.pages.len() as u32);
        out.u32(0);
        debug_assert_eq!(out.len(), FOOTER_HEAD);
        for section in &self.sections {
            out.u32(section.id);
            out.u32(0);
            out.u64(section.offset);
            out.u64(section.len);
            out.u64(section.count);
            out.u64(section.stride);
        }
        for &crc in &self.pages {
            out.u32(crc);
        }
        let crc = crc32(crc32(0, &self.uuid.0), out.as_bytes());
        out.u32(crc);
        out.u32((out.len() + FOOTER_TAIL - 4) as u32);
        out.raw(&END_MAGIC);
        out.into_bytes()
    }

    /// Where the table of block checksums begins.
    pub(crate) fn table_offset(&self) -> u64 {
        self.blocks.saturating_mul(BLOCK)
    }

    /// Reads and checks the footer alone: its checksum, and that its tables have the lengths it says.
    pub(super) fn decode(bytes: &[u8]) -> Result<Footer, &'static str> {
        const SHORT: &str = "a footer cut short";
        let body_len = bytes.len().checked_sub(FOOTER_TAIL).ok_or(SHORT)?;
        let (body, tail) = bytes.split_at_checked(body_len).ok_or(SHORT)?;
        let mut input = Reader::new(body);
        if input.raw(8) != Some(&FOOTER_MAGIC) {
            return Err("another magic number at the footer's beginning");
        }
        let version = input.u32().ok_or(SHORT)?;
        let count = input.u32().ok_or(SHORT)?;
        let uuid = Uuid(input.raw(16).and_then(|b| b.try_into().ok()).ok_or(SHORT)?);
        let blocks = input.u64().ok_or(SHORT)?;
        let pages = input.u32().ok_or(SHORT)?;
        let zero = input.u32().ok_or(SHORT)?;
        if Reader::new(tail).u32() != Some(crc32(crc32(0, &uuid.0), body)) {
            return Err("a footer with another checksum");
        }
        let need = u64::from(count) * SECTION_ENTRY as u64 + u64::from(pages) * 4;
        if version != VERSION || zero != 0 || count > SECTIONS_MAX || need != input.remaining() as u64 {
            return Err("a footer whose counts contradict its length");
        }
        let mut sections = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let id = input.u32().ok_or(SHORT)?;
            input.u32().ok_or(SHORT)?;
            sections.push(Section {
                id,
                offset: input.u64().ok_or(SHORT)?,
                len: input.u64().ok_or(SHORT)?,
                count: input.u64().ok_or(SHORT)?,
                stride: input.u64().ok_or(SHORT)?,
            });
        }
        let pages = (0..pages).map(|_| input.u32().ok_or(SHORT)).collect::<Result<_, _>>()?;
        Ok(Footer { uuid, blocks, sections, pages })
    }

    /// The sections are in order, disjoint, aligned, inside the checked blocks, unique, and as long as they say.
    fn check_sections(&self) -> Result<(), String> {
        let mut free = BLOCK;
        for section in &self.sections {
            let name = section_name(section.id);
            let end = section.offset.checked_add(section.len).ok_or(format!("{name} beyond any file"))?;
            if section.offset < free || section.offset % ALIGN != 0 || end > self.table_offset() {
                return Err(format!("{name} at bytes {}..{end}", section.offset));
            }
            if section.count.checked_mul(section.stride) != Some(section.len) {
                return Err(format!(
                    "{name} with {} elements of {} bytes in {} bytes",
                    section.count, section.stride, section.len
                ));
            }
            if self.sections.iter().filter(|other| other.id == section.id).count() != 1 {
                return Err(format!("{name} twice"));
            }
            free = end;
        }
        Ok(())
    }
}

impl Layout {
    /// Reads header and footer of a file of `len` bytes and checks everything that can be checked without the rows.
    /// `read(offset, len)` gives bytes of the file; it is asked only for ranges inside `len`. Cost: the footer, and
    /// three more blocks.
    ///
    /// # Errors
    /// `UnsupportedVersion` for a newer version, an unknown refuse bit or unknown codes, `Corruption` for all other nonsense.
    pub fn read<'a>(
        path: &Path,
        len: u64,
        read: &mut dyn FnMut(u64, usize) -> Result<Cow<'a, [u8]>>,
    ) -> Result<Layout> {
        let bad =
            |offset: u64, expected: &str, found: String| Error::corruption(path, offset, expected, found);
        // Header, one block of sections at least, one page of checksums, a footer.
        let shortest = 2 * BLOCK + (FOOTER_HEAD + FOOTER_TAIL) as u64;
        if len < shortest {
            return Err(bad(0, "a sealed segment", format!("{len} bytes, too short for one")));
        }
        let uuid = Self::read_prefix(path, &read(0, PREFIX)?)?;

        let tail = read(len - FOOTER_TAIL as u64, FOOTER_TAIL)?;
        let mut input = Reader::new(&tail);
        let footer_len = input.u32().and_then(|_| input.u32()).unwrap_or(0);
        if input.raw(8) != Some(&END_MAGIC) {
            return Err(bad(len - 8, "the end mark of a segment", "something else".into()));
        }
        let footer_at = len.checked_sub(footer_len.into()).filter(|at| *at >= 2 * BLOCK && at % BLOCK == 0);
        let Some(footer_at) = footer_at else {
            return Err(bad(
                len - 12,
                "the footer's length",
                format!("{footer_len} in a file of {len} bytes"),
            ));
        };
        let footer_bytes = read(footer_at, footer_len as usize)?;
        let footer =
            Footer::decode(&footer_bytes).map_err(|found| bad(footer_at, "a footer", found.into()))?;
        if footer.uuid != uuid {
            return Err(bad(footer_at, &format!("segment {uuid}"), format!("segment {}", footer.uuid)));
        }
        let pages = footer.blocks.div_ceil(CRCS_PER_PAGE);
        let expected_at = footer.blocks.checked_add(pages).and_then(|blocks| blocks.checked_mul(BLOCK));
        if footer.blocks == 0 || pages != footer.pages.len() as u64 || expected_at != Some(footer_at) {
            let found = format!("{} blocks and {} pages", footer.blocks, footer.pages.len());
            return Err(bad(footer_at, "block counts that end at the footer", found));
        }
        footer.check_sections().map_err(|found| bad(footer_at, "sound sections", found))?;

        // The header is the first block: its checksum is in the first page of checksums, whose own is in the footer.
        let page = read(footer.table_offset(), BLOCK as usize)?;
        check_block(path, uuid, footer.blocks, &page, footer.pages.first().copied().unwrap_or(0))?;
        let block = read(0, BLOCK as usize)?;
        check_block(path, uuid, 0, &block, Reader::new(&page).u32().unwrap_or(0))?;
        if let Some(codes) = block.get(PREFIX..).and_then(|rest| Schema::unknown_codes(&Reader::new(rest))) {
            let known = Codes::ALL.map(Codes::name).join(", ");
            let text = format!("{} has codes of kind {codes}: this build knows {known}", path.display());
            return Err(Error::new(ErrorKind::UnsupportedVersion, text));
        }
        let header = Header::decode(&block, uuid)
            .ok_or_else(|| bad(PREFIX as u64, "a valid header", "numbers out of their range".into()))?;
        Ok(Layout { header, digest: hash128(&footer_bytes), footer })
    }

    fn read_prefix(path: &Path, prefix: &[u8]) -> Result<Uuid> {
        let parse = || {
            let mut input = Reader::new(prefix);
            let magic = input.raw(8)?;
            let version = input.u32()?;
            input.raw(12)?;
            let refuse = input.u64()?;
            let uuid = Uuid(input.raw(16)?.try_into().ok()?);
            input.raw(12)?;
            Some((magic, version, refuse, uuid, input.u32()?))
        };
        let found = |text: &str| Error::corruption(path, 0, "the header of a sealed segment", text);
        let (magic, version, refuse, uuid, crc) = parse().ok_or_else(|| found("too few bytes"))?;
        if magic != MAGIC {
            return Err(found("another magic number"));
        }
        if prefix.get(..PREFIX - 4).map(|bytes| crc32(0, bytes)) != Some(crc) {
            return Err(found("another checksum"));
        }
        if version == 0 || version > VERSION {
            let text =
                format!("{} has format version {version}: this build reads up to {VERSION}", path.display());
            return Err(Error::new(ErrorKind::UnsupportedVersion, text));
        }
        if refuse & !REFUSE_KNOWN != 0 {
            let text = format!("{} needs features {refuse:#x} that this build doesn't know", path.display());
            return Err(Error::new(ErrorKind::UnsupportedVersion, text));
        }
        Ok(uuid)
    }

    /// The section of that id.
    pub(crate) fn section(&self, id: u32) -> Option<Section> {
        self.footer.sections.iter().find(|section| section.id == id).copied()
    }
}

/// `Corruption` when a block's bytes have another checksum than `expected`.
pub(crate) fn check_block(path: &Path, uuid: Uuid, block: u64, bytes: &[u8], expected: u32) -> Result<()> {
    let found = crc32(seed_of(uuid, block), bytes);
    if found == expected {
        return Ok(());
    }
    Err(Error::corruption(
        path,
        block.saturating_mul(BLOCK),
        format!("a block with checksum {expected:#010x}"),
        format!("{found:#010x}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_passes_only_at_its_own_place_in_its_own_segment() {
        let (a, b) = (Uuid([1; 16]), Uuid([2; 16]));
        let bytes = vec![0; BLOCK as usize];
        let crc = crc32(seed_of(a, 7), &bytes);
        let path = Path::new("x.seg");
        assert!(check_block(path, a, 7, &bytes, crc).is_ok());
        assert!(check_block(path, a, 8, &bytes, crc).is_err());
        assert!(check_block(path, b, 7, &bytes, crc).is_err());
    }

    #[test]
    fn footers_round_trip_and_no_shorter_one_is_read() {
        let section = Section { id: KEYS, offset: BLOCK, len: 80, count: 10, stride: 8 };
        let footer =
            Footer { uuid: Uuid([3; 16]), blocks: 2, sections: vec![section], pages: vec![0xdead_beef] };
        let bytes = footer.encode();
        assert_eq!(Footer::decode(&bytes), Ok(footer));
        for len in 0..bytes.len() {
            assert!(Footer::decode(&bytes[..len]).is_err());
        }
    }

    #[test]
    fn sections_that_overlap_leave_the_file_or_contradict_themselves_are_refused() {
        let good = Section { id: KEYS, offset: BLOCK, len: 64, count: 8, stride: 8 };
        let check = |second: Section| {
            let first = good;
            Footer { uuid: Uuid([0; 16]), blocks: 2, sections: vec![first, second], pages: vec![0] }
                .check_sections()
        };
        let second = Section { id: VERSIONS, offset: BLOCK + 64, ..good };
        assert_eq!(check(second), Ok(()));
        assert!(check(Section { offset: BLOCK, ..second }).is_err());
        assert!(check(Section { offset: BLOCK + 65, ..second }).is_err());
        assert!(check(Section { offset: 2 * BLOCK, ..second }).is_err());
        assert!(check(Section { offset: u64::MAX - 63, ..second }).is_err());
        assert!(check(Section { count: 9, ..second }).is_err());
        assert!(check(Section { count: 1 << 62, stride: 64, ..second }).is_err());
        assert!(check(Section { id: KEYS, ..second }).is_err());
    }
}
