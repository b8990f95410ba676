//! A look at redb's trees before redb follows them.
//!
//! redb trusts the shape of a file that it has written: it reserves memory for a page on the word of the page's number
//! (up to 4 GiB), and walks every way that leads to a page, of which a forged file can have exponentially many. Page
//! checksums are no help against someone who computes them. So the trees of the commit in use are walked here first:
//!
//! - every page lies inside of the file, and no two nodes share a byte, so that memory and time are bounded by the
//!   file's length;
//! - every count and offset inside of a node stays inside of it.
//!
//! What keys and values say is not looked at, but for the roots in the tables of tables; redb's own checksums are
//! compared later, by redb. The layout is that of its file format 3:
//!
//! ```text
//! header   magic 9 | flags 1 | 0 2 | page size u32 | pages of a region's header u32 | pages of a region u32 | ...
//!          at 64 and 192: commit slot, 128 bytes
//! slot     version u8 | has tables u8 | has system tables u8 | 0 5 | root of tables | root of system tables | ...
//! root     page u64 | checksum 16 | length u64
//! page     20 bits: place in its region, in units of itself | 20 bits: region | 19 bits: 0 | 5 bits: order
//! leaf     1 u8 | any u8 | n u16 | n key ends u32 (unless fixed) | n value ends u32 (unless fixed) | keys | values
//! branch   2 u8 | any u8 | n u16 | any u32 | n+1 checksums 16 | n+1 pages u64 | n key ends u32 (unless fixed) | keys
//! table    3 u8 | length u64 | has root u8 | root | fixed key u8, u32 | fixed value u8, u32 | ...
//! ```

use super::pages::{HEADER, PAGE, PageFile};
use nearstone_base::codec::Reader;
use nearstone_base::{Error, Result};

const MAGIC: [u8; 9] = [b'r', b'e', b'd', b'b', 0x1A, 0x0A, 0xA9, 0x0D, 0x0A];
/// The second commit slot is in use, not the first.
const SECOND_SLOT: u8 = 1;
/// The commit in use was synced before it came into use, so redb never looks at the other one.
const TWO_PHASES: u8 = 4;
const SLOTS: [usize; 2] = [64, 192];
const FORMAT: u8 = 3;
const ORDER_MAX: u32 = 20;
/// Nodes from a root to a leaf, at most; redb itself stops there.
const DEPTH_MAX: usize = 128;

const LEAF: u8 = 1;
const BRANCH: u8 = 2;
const TABLE: u8 = 3;

/// What the entries of a tree look like.
#[derive(Clone, Copy)]
struct Shape {
    /// Bytes of each key, if all have as many.
    key: Option<usize>,
    /// Bytes of each value, if all have as many.
    value: Option<usize>,
    /// Whether the values are tables, whose trees belong to the walk.
    tables: bool,
}

/// A node to look at.
struct Node {
    page: u64,
    depth: usize,
    shape: Shape,
}

struct Walk<'a> {
    file: &'a PageFile,
    region_bytes: u64,
    region_header_bytes: u64,
    /// Which pages of the file a node was found in.
    used: Vec<bool>,
    open: Vec<Node>,
}

/// `Corruption` when the trees of the commit in use are not trees of whole nodes inside of the file. Reads their pages
/// once; takes a byte of memory for each page of the file, and the largest node.
pub(super) fn check(file: &PageFile) -> Result<()> {
    let mut header = [0; HEADER];
    file.read_header(&mut header)?;
    let bad = |expected: &str| Error::corruption(file.path(), 0, expected, "another header");
    let mut input = Reader::new(&header);
    let mut numbers = || {
        let magic = input.raw(9)?;
        let flags = input.u8()?;
        input.u16()?;
        Some((magic, flags, input.u32()?, input.u32()?, input.u32()?))
    };
    let (magic, flags, page, header_pages, region_pages) =
        numbers().ok_or_else(|| bad("a header of redb"))?;
    if magic != MAGIC || page as usize != PAGE || flags & TWO_PHASES == 0 {
        return Err(bad("redb's magic, pages of 4096 bytes and a commit in two phases"));
    }
    let slot = SLOTS[usize::from(flags & SECOND_SLOT)];
    let mut slot = Reader::new(header.get(slot..).unwrap_or_default());
    let mut roots = || {
        let (version, tables, system) = (slot.u8()?, slot.u8()?, slot.u8()?);
        slot.raw(5)?;
        Some((version, [(tables, read_root(&mut slot)?), (system, read_root(&mut slot)?)]))
    };
    let (version, roots) = roots().ok_or_else(|| bad("a commit slot of redb"))?;
    if version != FORMAT {
        return Err(bad("redb's file format 3"));
    }
    let pages = file.len()? / PAGE as u64;
    let mut walk = Walk {
        file,
        region_bytes: (u64::from(header_pages) + u64::from(region_pages)) * PAGE as u64,
        region_header_bytes: u64::from(header_pages) * PAGE as u64,
        used: vec![false; pages as usize],
        open: Vec::new(),
    };
    for (there, page) in roots {
        if there != 0 {
            walk.open.push(Node { page, depth: 1, shape: Shape { key: None, value: None, tables: true } });
        }
    }
    while let Some(node) = walk.open.pop() {
        let at = walk.place(node.page);
        walk.node(&node).map_err(|what| {
            let expected = "a tree of redb whose nodes are whole and lie inside of the file, each by itself";
            what.unwrap_or_else(|text| Error::corruption(file.path(), at.unwrap_or(0), expected, text))
        })?;
    }
    Ok(())
}

/// What is wrong with a node: an error of the file, or a text.
type Flaw = std::result::Result<Error, String>;

fn flaw<T>(text: impl Into<String>) -> std::result::Result<T, Flaw> {
    Err(Err(text.into()))
}

fn read_root(input: &mut Reader<'_>) -> Option<u64> {
    let page = input.u64()?;
    input.raw(24)?;
    Some(page)
}

impl Walk<'_> {
    /// Where the page of that number begins, for redb.
    fn place(&self, page: u64) -> Option<u64> {
        let order = (page >> 59) as u32;
        let index = (page & (0xf_ffff >> order)).checked_shl(order)?;
        let region = (page >> 20 & 0xf_ffff).checked_mul(self.region_bytes)?;
        let inside = self.region_header_bytes.checked_add(index.checked_mul(PAGE as u64)?)?;
        region.checked_add(inside)?.checked_add(PAGE as u64)
    }

    /// Reads the page of that number, which no node was found in before.
    fn read(&mut self, page: u64) -> std::result::Result<Vec<u8>, Flaw> {
        let order = (page >> 59) as u32;
        let start = self.place(page).filter(|_| order <= ORDER_MAX);
        let first = start.map_or(usize::MAX, |start| (start / PAGE as u64) as usize);
        let Some(used) = self.used.get_mut(first..).and_then(|rest| rest.get_mut(..1 << order)) else {
            return flaw(format!("page {page:#x}, which lies outside"));
        };
        if used.contains(&true) {
            return flaw(format!("page {page:#x} in two places"));
        }
        used.fill(true);
        let mut bytes = vec![0; PAGE << order];
        self.file.read_pages(start.unwrap_or(0), &mut bytes).map_err(Ok)?;
        Ok(bytes)
    }

    fn node(&mut self, node: &Node) -> std::result::Result<(), Flaw> {
        if node.depth > DEPTH_MAX {
            return flaw("a tree that is too deep");
        }
        let bytes = self.read(node.page)?;
        let count = bytes.get(2..4).map_or(0, |count| u16::from_le_bytes([count[0], count[1]]) as usize);
        let sound = match bytes.first() {
            _ if count == 0 => None,
            Some(&LEAF) => self.leaf(&bytes, count, node),
            Some(&BRANCH) => self.branch(&bytes, count, node),
            _ => None,
        };
        sound.map_or_else(|| flaw(format!("page {:#x}, which holds no node", node.page)), Ok)
    }

    fn leaf(&mut self, bytes: &[u8], count: usize, node: &Node) -> Option<()> {
        let Shape { key, value, tables } = node.shape;
        let mut keys = Reader::new(bytes.get(4..)?);
        let mut values = keys.clone();
        if key.is_none() {
            values.raw(4 * count)?;
        }
        let mut start = 4 + 4 * count * (usize::from(key.is_none()) + usize::from(value.is_none()));
        for _ in 0..count {
            start = end_of(bytes, start, key, &mut keys)?;
        }
        for _ in 0..count {
            let end = end_of(bytes, start, value, &mut values)?;
            if tables {
                self.open_table(bytes.get(start..end)?)?;
            }
            start = end;
        }
        Some(())
    }

    fn branch(&mut self, bytes: &[u8], count: usize, node: &Node) -> Option<()> {
        let mut input = Reader::new(bytes.get(8..)?);
        input.raw(16 * (count + 1))?;
        for _ in 0..=count {
            self.open.push(Node { page: input.u64()?, depth: node.depth + 1, shape: node.shape });
        }
        let ends = if node.shape.key.is_none() { 4 * count } else { 0 };
        let mut start = 8 + 24 * (count + 1) + ends;
        for _ in 0..count {
            start = end_of(bytes, start, node.shape.key, &mut input)?;
        }
        Some(())
    }

    /// A table's definition: its tree belongs to the walk.
    fn open_table(&mut self, bytes: &[u8]) -> Option<()> {
        let mut input = Reader::new(bytes);
        let kind = input.u8()?;
        input.u64()?;
        let there = input.u8()?;
        let page = read_root(&mut input)?;
        let mut width = || {
            let (fixed, bytes) = (input.u8()?, input.u32()?);
            Some((fixed != 0).then_some(bytes as usize))
        };
        let shape = Shape { key: width()?, value: width()?, tables: false };
        if kind != TABLE {
            return None;
        }
        if there != 0 {
            self.open.push(Node { page, depth: 1, shape });
        }
        Some(())
    }
}

/// Where the entry that begins at `start` ends: by its fixed length, or by the next of `ends`.
fn end_of(bytes: &[u8], start: usize, fixed: Option<usize>, ends: &mut Reader<'_>) -> Option<usize> {
    let end = match fixed {
        Some(len) => start.checked_add(len)?,
        None => ends.u32()? as usize,
    };
    (start <= end && end <= bytes.len()).then_some(end)
}
