//! What redb calls instead of a file when nothing may be written: the checked pages below, a copy of each written page
//! in memory above.
//!
//! redb marks a file as being in use before it lets anyone read, and may repair it. Under an overlay it does both in
//! memory, so a catalog can be read and validated whole, on read-only media too, before one byte of it is touched.

use super::pages::{HEADER, PAGE, PageFile};
use nearstone_base::sync::{Arc, Mutex};
use nearstone_base::{Error, Result};
use redb::StorageBackend;
use std::collections::BTreeMap;
use std::io;

/// Reads the file, and keeps writes to itself.
#[derive(Debug)]
pub(super) struct OverlayBackend {
    base: Arc<PageFile>,
    upper: Mutex<Upper>,
}

#[derive(Debug)]
struct Upper {
    len: u64,
    /// Below this the file still counts; it was cut at most to here.
    base_len: u64,
    header: Option<Vec<u8>>,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl OverlayBackend {
    pub(super) fn new(base: Arc<PageFile>) -> Result<OverlayBackend> {
        let len = base.len()?;
        let upper = Upper { len, base_len: len, header: None, pages: BTreeMap::new() };
        Ok(OverlayBackend { base, upper: Mutex::new(upper) })
    }

    fn read_any(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let upper = self.upper.lock();
        if offset == 0 {
            return match upper.header.as_ref().and_then(|header| header.get(..out.len())) {
                Some(header) => {
                    out.copy_from_slice(header);
                    Ok(())
                }
                None => self.base.read_header(out),
            };
        }
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > upper.len) {
            return Err(self.outside(offset, out.len()));
        }
        for (i, page) in out.chunks_mut(PAGE).enumerate() {
            let offset = offset + (i * PAGE) as u64;
            match upper.pages.get(&offset) {
                Some(bytes) if bytes.len() == page.len() => page.copy_from_slice(bytes),
                None if offset < upper.base_len => self.base.read_pages(offset, page)?,
                _ => return Err(self.outside(offset, page.len())),
            }
        }
        Ok(())
    }

    fn write_any(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut upper = self.upper.lock();
        let fits = offset.checked_add(data.len() as u64).is_some_and(|end| end <= upper.len);
        if offset == 0 && data.len() == HEADER {
            upper.header = Some(data.to_vec());
        } else if fits && offset.is_multiple_of(PAGE as u64) && data.len().is_multiple_of(PAGE) && offset > 0
        {
            for (i, page) in data.chunks_exact(PAGE).enumerate() {
                upper.pages.insert(offset + (i * PAGE) as u64, page.to_vec());
            }
        } else {
            return Err(self.outside(offset, data.len()));
        }
        Ok(())
    }

    fn outside(&self, offset: u64, len: usize) -> Error {
        Error::corruption(
            self.base.path(),
            offset,
            "accesses to the header or to whole pages that were written",
            format!("one of {len} bytes"),
        )
    }
}

impl StorageBackend for OverlayBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.upper.lock().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.base.note(self.read_any(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut upper = self.upper.lock();
        upper.len = len;
        upper.base_len = upper.base_len.min(len);
        upper.pages.split_off(&len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.base.note(self.write_any(offset, data))
    }
}
