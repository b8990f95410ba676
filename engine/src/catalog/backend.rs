//! What redb calls instead of a file: the checked pages themselves, for a catalog open for writing.
//!
//! Locks are left out: the store's lock file already keeps other processes away.

use super::pages::PageFile;
use nearstone_base::faults::{failpoint, seeded};
use nearstone_base::sync::Arc;
use redb::StorageBackend;
use std::io;

/// Reads and writes the file.
#[derive(Debug)]
pub(super) struct FileBackend(pub(super) Arc<PageFile>);

impl StorageBackend for FileBackend {
    fn len(&self) -> io::Result<u64> {
        self.0.note(self.0.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.note(if offset == 0 { self.0.read_header(out) } else { self.0.read_pages(offset, out) })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.note(self.0.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        if seeded("catalog-not-synced") {
            return Ok(());
        }
        failpoint("catalog-before-sync");
        self.0.note(self.0.sync())?;
        failpoint("catalog-synced");
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.note(if offset == 0 { self.0.write_header(data) } else { self.0.write_pages(offset, data) })
    }
}
