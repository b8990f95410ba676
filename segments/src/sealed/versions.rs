//! The versions of rows: the lsn that wrote each, or one for all of them.
//!
//! Rows that were never in a log become part of a collection all at one lsn, which is known when their file is named and not
//! when it is written. Such a file has no versions: whoever names it (the catalog) knows the one, and the header has the
//! lowest that it can be: 0, which no store writes, when the file was built without a store.

use super::SealedSegment;
use super::format::{self, Layout, Section};
use super::reader::required;
use crate::meta::SegmentMeta;
use nearstone_base::{Error, Lsn, Result};
use std::path::Path;

/// Where they are: as many as rows, or none and one lsn in the header.
pub(super) fn section(path: &Path, layout: &Layout) -> Result<Section> {
    let versions = required(path, layout, format::VERSIONS, None, 8)?;
    let rows = u64::from(layout.header.rows);
    let one_for_all = versions.count == 0 && layout.header.lsn_min == layout.header.lsn_max;
    if versions.count != rows && !one_for_all {
        let expected = format!("{rows} versions, or none and one lsn in the header");
        let found = format!("{} versions", versions.count);
        return Err(Error::corruption(path, versions.offset, expected, found));
    }
    Ok(versions)
}

impl SealedSegment {
    /// Whether the file leaves the version of its rows to whoever names it.
    pub fn is_unversioned(&self) -> bool {
        self.places.versions.count == 0
    }

    /// Gives the rows of an unversioned segment their version. `InvalidArgument` for any other segment, and for an lsn
    /// below the lowest one that the file allows.
    pub fn set_version(&mut self, lsn: Lsn) -> Result<()> {
        if !self.is_unversioned() || lsn < self.meta.lsn_max {
            return Err(Error::invalid(format!(
                "version {lsn} for {}, whose rows have versions up to {}",
                self.path().display(),
                self.meta.lsn_max
            )));
        }
        (self.meta.lsn_min, self.meta.lsn_max) = (lsn, lsn);
        Ok(())
    }

    /// As [`SealedSegment::set_version`], with what a card says; one that does not fit is left to be refused.
    pub(super) fn take_version(&mut self, expected: &SegmentMeta) {
        if expected.lsn_min == expected.lsn_max {
            let _ = self.set_version(expected.lsn_min);
        }
    }

    /// The lsn that wrote a row.
    pub fn version(&self, ordinal: u32) -> Result<Lsn> {
        if self.is_unversioned() {
            return Ok(self.meta.lsn_max);
        }
        let version = self.word(&self.places.versions, ordinal.into())?;
        let (min, max) = (self.meta.lsn_min, self.meta.lsn_max);
        if !(min..=max).contains(&version) {
            let expected = format!("versions {min}..={max}");
            return Err(self.bad(&self.places.versions, expected, format!("{version} of row {ordinal}")));
        }
        Ok(version)
    }
}
