//! The catalog's file: redb's pages, each with a checksum.
//!
//! redb sees a file of 4 KiB pages whose first one is its header. It checks no checksum in ordinary reads, can panic
//! on a damaged page, and a flipped bit of its header can quietly select the commit before the last. So every byte
//! it reads is checked here first:
//!
//! ```text
//! header   redb's 320 bytes | crc u32 | mark u32 | zeros up to 4096
//! slot 1   page 1, 4096 bytes | crc u32 | mark u32
//! slot 2   page 2 ...
//! ```
//!
//! A slot's checksum covers the page number and the page, the header's covers the 320 bytes; all begin from the
//! store's uuid, so neither a page at a wrong place nor a file of another store passes. `mark` is a constant that is
//! not zero: a slot that was never written is never valid. (redb reads no page that it has not written.)
//!
//! Why this survives a crash: a page and its checksum are one write. The write may tear, but redb writes only into
//! pages that nothing committed refers to, and syncs them before the header refers to them; a torn page is
//! therefore never read. The header is replaced in place, inside the first 512 bytes, which a disk writes whole or
//! not at all.
//!
//! The file grows by reserving room, so that a full disk is found before anything is half written.

use nearstone_base::faults::{failpoint, failpoint_after};
use nearstone_base::sync::{Arc, AtomicBool, Mutex, Ordering};
use nearstone_base::vfs::{VfsFile, read_exact_at};
use nearstone_base::{Error, ErrorKind, Result, Uuid, checksum};
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of one of redb's pages.
pub(super) const PAGE: usize = 4096;
/// Bytes of redb's header, which lies at the start of the first page; it reads and writes nothing else there.
pub(super) const HEADER: usize = 320;

const TRAILER: usize = 8;
const SLOT: usize = PAGE + TRAILER;
const MARK: u32 = 0x4e53_4347;

const _: () = assert!(HEADER + TRAILER <= 512, "the header and its checksum are one sector");

/// A switch that, once thrown, stops all further writes.
#[derive(Debug, Default)]
pub(super) struct Poison(AtomicBool);

impl Poison {
    /// From now on no byte of the catalog is written, not even by redb's own shutdown.
    pub(super) fn poison(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it was thrown.
    pub(super) fn is_poisoned(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// The file as checked pages. Offsets and lengths are redb's.
#[derive(Debug)]
pub(super) struct PageFile {
    file: Arc<dyn VfsFile>,
    path: PathBuf,
    seed: u32,
    poison: Poison,
    /// The first error: redb keeps only later, vaguer ones.
    failure: Mutex<Option<Error>>,
}

impl PageFile {
    pub(super) fn new(file: Arc<dyn VfsFile>, path: PathBuf, store: Uuid) -> PageFile {
        let seed = store_seed(store);
        PageFile { file, path, seed, poison: Poison::default(), failure: Mutex::new(None) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn poison(&self) -> &Poison {
        &self.poison
    }

    /// The first error of any call, if there was one.
    pub(super) fn failure(&self) -> Option<Error> {
        self.failure.lock().as_ref().map(Error::duplicate)
    }

    /// Remembers the first error and hands it to redb.
    pub(super) fn note<T>(&self, result: Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            if error.kind() != ErrorKind::Poisoned {
                self.failure.lock().get_or_insert_with(|| error.duplicate());
            }
            error.into()
        })
    }

    /// Bytes as redb counts them.
    pub(super) fn len(&self) -> Result<u64> {
        let disk = self.file.len()?;
        if disk == 0 {
            return Ok(0);
        }
        let slots = disk.checked_sub(PAGE as u64).filter(|slots| slots.is_multiple_of(SLOT as u64));
        match slots {
            Some(slots) => Ok(PAGE as u64 + slots / SLOT as u64 * PAGE as u64),
            None => Err(Error::corruption(
                &self.path,
                disk,
                format!("a length of {PAGE} and a multiple of {SLOT} bytes"),
                format!("a length of {disk} bytes"),
            )),
        }
    }

    /// Reads the header, or the beginning of it.
    pub(super) fn read_header(&self, out: &mut [u8]) -> Result<()> {
        let mut block = [0; HEADER + TRAILER];
        read_exact_at(&*self.file, &self.path, &mut block, 0)?;
        let (header, trailer) = block.split_at(HEADER);
        self.check(0, header, trailer, 0)?;
        match header.get(..out.len()) {
            Some(part) => {
                out.copy_from_slice(part);
                Ok(())
            }
            None => Err(self.misaligned(0, out.len())),
        }
    }

    /// Replaces the header.
    pub(super) fn write_header(&self, header: &[u8]) -> Result<()> {
        self.writable()?;
        if header.len() != HEADER {
            return Err(self.misaligned(0, header.len()));
        }
        let mut block = Vec::with_capacity(HEADER + TRAILER);
        block.extend_from_slice(header);
        self.push_trailer(&mut block, 0, header);
        self.file.write_at(&block, 0)?;
        failpoint("catalog-header-written");
        Ok(())
    }

    /// Reads whole pages.
    pub(super) fn read_pages(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let first = self.page_number(offset, out.len())?;
        let count = out.len() / PAGE;
        let mut slots = vec![0; count * SLOT];
        let place = slot_offset(first);
        read_exact_at(&*self.file, &self.path, &mut slots, place)?;
        for (i, (slot, page)) in slots.chunks_exact(SLOT).zip(out.chunks_exact_mut(PAGE)).enumerate() {
            let (bytes, trailer) = slot.split_at(PAGE);
            self.check(first + i as u64, bytes, trailer, place + (i * SLOT) as u64)?;
            page.copy_from_slice(bytes);
        }
        Ok(())
    }

    /// Writes whole pages.
    pub(super) fn write_pages(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.writable()?;
        let first = self.page_number(offset, bytes.len())?;
        let mut slots = Vec::with_capacity(bytes.len() / PAGE * SLOT);
        for (i, page) in bytes.chunks_exact(PAGE).enumerate() {
            slots.extend_from_slice(page);
            self.push_trailer(&mut slots, first + i as u64, page);
        }
        let place = slot_offset(first);
        failpoint_after("catalog-pages-half-written", || {
            self.file.write_at(&slots[..slots.len() / 2], place)
        });
        self.file.write_at(&slots, place)?;
        failpoint("catalog-pages-written");
        Ok(())
    }

    /// Changes the length.
    pub(super) fn set_len(&self, len: u64) -> Result<()> {
        self.writable()?;
        let disk = match len.checked_sub(PAGE as u64) {
            Some(pages) if pages.is_multiple_of(PAGE as u64) => {
                PAGE as u64 + pages / PAGE as u64 * SLOT as u64
            }
            _ => return Err(self.misaligned(0, len as usize)),
        };
        if disk > self.file.len()? { self.file.reserve(disk) } else { self.file.set_len(disk) }
    }

    /// Makes everything written so far durable.
    pub(super) fn sync(&self) -> Result<()> {
        self.writable()?;
        self.file.sync_data()
    }

    /// The same, with all metadata.
    pub(super) fn sync_all(&self) -> Result<()> {
        self.writable()?;
        self.file.sync_all()
    }

    fn writable(&self) -> Result<()> {
        if self.poison.is_poisoned() {
            return Err(Error::new(
                ErrorKind::Poisoned,
                format!("{} takes no writes after an earlier failure", self.path.display()),
            ));
        }
        Ok(())
    }

    fn page_number(&self, offset: u64, len: usize) -> Result<u64> {
        let whole = offset.is_multiple_of(PAGE as u64) && len.is_multiple_of(PAGE);
        // The end is compared with the file's length by the read itself; here only the arithmetic is kept sane.
        if !whole || offset < PAGE as u64 || offset > 1 << 48 {
            return Err(self.misaligned(offset, len));
        }
        Ok(offset / PAGE as u64)
    }

    fn misaligned(&self, offset: u64, len: usize) -> Error {
        Error::corruption(
            &self.path,
            offset,
            format!("accesses to the {HEADER} bytes of the header or to whole pages"),
            format!("one of {len} bytes"),
        )
    }

    fn crc(&self, number: u64, bytes: &[u8]) -> u32 {
        checksum::crc32(checksum::crc32(self.seed, &number.to_le_bytes()), bytes)
    }

    fn push_trailer(&self, out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
        out.extend_from_slice(&self.crc(number, bytes).to_le_bytes());
        out.extend_from_slice(&MARK.to_le_bytes());
    }

    fn check(&self, number: u64, bytes: &[u8], trailer: &[u8], place: u64) -> Result<()> {
        let mut expected = Vec::with_capacity(TRAILER);
        self.push_trailer(&mut expected, number, bytes);
        if trailer == expected {
            return Ok(());
        }
        let what = if number == 0 { "the header".to_string() } else { format!("page {number}") };
        let found = if trailer.iter().all(|&byte| byte == 0) { "none".to_string() } else { hex(trailer) };
        Err(Error::corruption(&self.path, place, format!("{what} with checksum {}", hex(&expected)), found))
    }
}

/// The number from which all checksums of one store's catalog begin.
pub(super) fn store_seed(store: Uuid) -> u32 {
    checksum::crc32(MARK, &store.0)
}

fn slot_offset(number: u64) -> u64 {
    PAGE as u64 + (number - 1) * SLOT as u64
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
