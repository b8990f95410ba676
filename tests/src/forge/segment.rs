//! Forging a sealed segment.

use crate::forge::put_u32;
use nearstone_base::checksum::{crc32, hash128};
use nearstone_segments::sealed::format::{BLOCK, Footer, Layout, Section, seed_of};
use std::borrow::Cow;
use std::path::Path;

/// Numbers of sections, as the format has them.
pub mod id {
    /// Integer keys, or the bytes of string keys.
    pub const KEYS: u32 = 1;
    /// Where string keys begin.
    pub const KEY_OFFSETS: u32 = 2;
    /// The hash table of keys.
    pub const KEY_INDEX: u32 = 3;
    /// Rows in the order of their keys.
    pub const KEY_ORDER: u32 = 4;
    /// The lsn of each row.
    pub const VERSIONS: u32 = 5;
    /// Where payloads begin.
    pub const PAYLOAD_OFFSETS: u32 = 6;
    /// The payloads.
    pub const PAYLOADS: u32 = 7;
    /// The mean under the codes.
    pub const CODE_PARAMS: u32 = 8;
    /// The codes.
    pub const CODES: u32 = 9;
    /// The vectors.
    pub const VECTORS: u32 = 10;
    /// Sums.
    pub const STATISTICS: u32 = 11;
    /// The Bloom filter over keys.
    pub const KEY_FILTER: u32 = 12;
    /// The ground level of the graph; level `l` is `LINKS + l`.
    pub const LINKS: u32 = 256;
}

/// Places in the header block.
pub mod header {
    /// 4 bytes.
    pub const VERSION: usize = 8;
    /// Bits of features to refuse.
    pub const REFUSE: usize = 24;
    /// 12 bytes.
    pub const SCHEMA: usize = 64;
    /// The profile in the schema, 1 byte.
    pub const PROFILE: usize = SCHEMA + 7;
    /// The codes in the schema, 1 byte.
    pub const CODES: usize = SCHEMA + 10;
    /// 4 bytes.
    pub const ROWS: usize = 76;
    /// The lowest version of a row.
    pub const LSN_MIN: usize = 80;
    /// The highest.
    pub const LSN_MAX: usize = 88;
    /// Bytes as the user gave them.
    pub const USER_BYTES: usize = 96;
    /// Seconds since 1970.
    pub const CREATED: usize = 104;
}

/// Places in the footer.
pub mod footer {
    /// 4 bytes.
    pub const VERSION: usize = 8;
    /// How many sections, 4 bytes.
    pub const SECTIONS: usize = 12;
    /// How many checked blocks.
    pub const BLOCKS: usize = 32;
    /// How many pages of checksums, 4 bytes.
    pub const PAGES: usize = 40;
}

/// Where a segment's schema lies in its row of the catalog: after collection, id and uuid.
pub const SCHEMA_IN_CATALOG: usize = 28;

/// A segment taken apart.
#[derive(Debug)]
pub struct Segment {
    /// Header block and sections; whole blocks.
    pub blocks: Vec<u8>,
    /// The section table.
    pub sections: Vec<Section>,
    /// Whether the header's own checksum is made to fit.
    pub sign: bool,
    /// The last change to the footer, before its checksum is made.
    pub footer: fn(&mut Vec<u8>),
    /// The last change to the checksums of pages.
    pub pages: fn(&mut Vec<u32>),
    /// Appended behind the footer.
    pub tail: Vec<u8>,
    footer_before: Footer,
}

impl Segment {
    /// Takes a sound segment apart.
    pub fn open(bytes: &[u8]) -> Segment {
        let layout = Layout::read(Path::new("forged"), bytes.len() as u64, &mut |offset, len| {
            Ok(Cow::Borrowed(&bytes[offset as usize..offset as usize + len]))
        });
        let footer = layout.expect("what is forged was sound before").footer;
        Segment {
            blocks: bytes[..(footer.blocks * BLOCK) as usize].to_vec(),
            sections: footer.sections.clone(),
            sign: true,
            footer: |_| {},
            pages: |_| {},
            tail: Vec::new(),
            footer_before: footer,
        }
    }

    /// A section's entry.
    pub fn entry(&mut self, id: u32) -> &mut Section {
        self.sections.iter_mut().find(|section| section.id == id).expect("the section is there")
    }

    /// A section's bytes.
    pub fn section(&mut self, id: u32) -> &mut [u8] {
        let Section { offset, len, .. } = *self.entry(id);
        &mut self.blocks[offset as usize..(offset + len) as usize]
    }

    /// Replaces the `at`-th number of a section of `u32`.
    pub fn set_u32(&mut self, id: u32, at: usize, value: u32) {
        put_u32(self.section(id), at * 4, value);
    }

    /// Replaces the `at`-th number of a section of `u64`.
    pub fn set_u64(&mut self, id: u32, at: usize, value: u64) {
        crate::forge::put_u64(self.section(id), at * 8, value);
    }

    /// Removes a section's entry.
    pub fn remove(&mut self, id: u32) {
        self.sections.retain(|section| section.id != id);
    }

    /// How many levels the graph has.
    pub fn levels(&self) -> u32 {
        self.sections.iter().filter(|section| section.id >= id::LINKS).count() as u32
    }

    /// The file and its digest.
    pub fn seal(&mut self) -> (Vec<u8>, u128) {
        let uuid = self.footer_before.uuid;
        if self.sign {
            let crc = crc32(0, &self.blocks[..60]);
            put_u32(&mut self.blocks, 60, crc);
        }
        let sum = |number: u64, block: &[u8]| crc32(seed_of(uuid, number), block);
        let mut bytes = self.blocks.clone();
        let blocks = bytes.len() as u64 / BLOCK;
        let sums: Vec<u8> = (0..)
            .zip(bytes.chunks_exact(BLOCK as usize))
            .flat_map(|(number, block)| sum(number, block).to_le_bytes())
            .collect();
        let mut pages = Vec::new();
        for (number, sums) in (blocks..).zip(sums.chunks(BLOCK as usize)) {
            let mut page = sums.to_vec();
            page.resize(BLOCK as usize, 0);
            pages.push(sum(number, &page));
            bytes.extend_from_slice(&page);
        }
        (self.pages)(&mut pages);
        let footer = Footer { uuid, blocks, sections: self.sections.clone(), pages };
        let mut footer = footer.encode();
        footer.truncate(footer.len() - 16);
        (self.footer)(&mut footer);
        let crc = crc32(crc32(0, &uuid.0), &footer);
        footer.extend_from_slice(&crc.to_le_bytes());
        footer.extend_from_slice(&(footer.len() as u32 + 12).to_le_bytes());
        footer.extend_from_slice(b"NEAREND\n");
        let digest = hash128(&footer);
        bytes.extend_from_slice(&footer);
        bytes.extend_from_slice(&self.tail);
        (bytes, digest)
    }

    /// Changes the catalog's row of this segment to what the header says.
    pub fn tell(&self, row: &mut [u8], len: u64, digest: u128) {
        let header = &self.blocks[header::SCHEMA..header::CREATED + 8];
        let (schema, rest) = header.split_at(12);
        row[SCHEMA_IN_CATALOG..][..12].copy_from_slice(schema);
        row[SCHEMA_IN_CATALOG + 12..][..8].copy_from_slice(&len.to_le_bytes());
        row[SCHEMA_IN_CATALOG + 20..][..16].copy_from_slice(&digest.to_le_bytes());
        row[SCHEMA_IN_CATALOG + 36..][..rest.len()].copy_from_slice(rest);
    }
}
