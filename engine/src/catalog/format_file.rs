//! The file `FORMAT`: what is read of a store before anything else, so that a program never misreads a store of a later
//! version, or some other folder.
//!
//! ```text
//! magic 8 bytes | version u32 | crc u32 | store uuid 16 bytes | ignorable u64 | read_only_safe u64 | refuse u64 | 0 u64
//! ```
//!
//! 64 bytes, little-endian; `crc` is the CRC-32 of the file with `crc` itself as zero. These 64 bytes mean the same
//! in every version to come; a later version may append to them. Feature bits that a program does not know: it may go on
//! (ignorable), it may read but not write (read-only safe), it must not go on (refuse).

use nearstone_base::codec::{Reader, Writer};
use nearstone_base::vfs::{OpenMode, Vfs, read_exact_at, write_atomically};
use nearstone_base::{Error, ErrorKind, Result, Uuid, checksum};
use std::path::Path;

/// The file's name in the store's folder.
const FORMAT_FILE: &str = "FORMAT";

/// The version this program writes, and the newest it reads.
const FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"\x93NEARST\n";
const LEN: usize = 64;
const CRC_AT: usize = 12;

/// The sets of features this program knows: none yet.
const KNOWN_READ_ONLY_SAFE: u64 = 0;
const KNOWN_REFUSE: u64 = 0;

/// What the file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Format {
    /// The store's identity.
    pub(crate) store: Uuid,
    /// The version that wrote it.
    pub(crate) version: u32,
    /// Features that one need not know.
    pub(crate) ignorable: u64,
    /// Features that one needs to know for writing.
    pub(crate) read_only_safe: u64,
    /// Features that one needs to know.
    pub(crate) refuse: u64,
}

impl Format {
    /// `UnsupportedVersion` when the store has features that this program would break by writing.
    pub(crate) fn writable(&self) -> Result<()> {
        match self.read_only_safe & !KNOWN_READ_ONLY_SAFE {
            0 => Ok(()),
            unknown => Err(Error::new(
                ErrorKind::UnsupportedVersion,
                format!(
                    "store {} has features (bits {unknown:#x}) that this program can read past but not write: open \
                     it read-only, or with a newer program",
                    self.store
                ),
            )),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(LEN);
        out.raw(&MAGIC);
        out.u32(self.version);
        out.u32(0);
        out.raw(&self.store.0);
        out.u64(self.ignorable);
        out.u64(self.read_only_safe);
        out.u64(self.refuse);
        out.u64(0);
        let mut bytes = out.into_bytes();
        let crc = crc(&bytes);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

/// Writes the file for a new store: atomically, and durable when this returns.
pub(crate) fn create(vfs: &dyn Vfs, dir: &Path, store: Uuid) -> Result<Format> {
    let format = Format { store, version: FORMAT_VERSION, ignorable: 0, read_only_safe: 0, refuse: 0 };
    write_atomically(vfs, dir, FORMAT_FILE, &format.encode())?;
    Ok(format)
}

/// Reads the file; `None` when the folder has none. Another magic is `NotAStore`, a wrong checksum or length is
/// `Corruption`, a later version or an unknown feature to refuse is `UnsupportedVersion`.
pub(crate) fn read(vfs: &dyn Vfs, dir: &Path) -> Result<Option<Format>> {
    let path = dir.join(FORMAT_FILE);
    match vfs.info(&path)? {
        Some(info) if !info.is_dir => {}
        _ => return Ok(None),
    }
    let file = vfs.open(&path, OpenMode::Read)?;
    let len = file.len()?;
    let mut bytes = vec![0; len.min(LEN as u64) as usize];
    read_exact_at(&*file, &path, &mut bytes, 0)?;
    if !bytes.iter().zip(&MAGIC).all(|(a, b)| a == b) {
        return Err(Error::new(
            ErrorKind::NotAStore,
            format!("{} is not a file of this program: the folder is no store", path.display()),
        ));
    }
    let Some(format) = decode(&bytes) else {
        let found = bytes.get(CRC_AT..CRC_AT + 4).map_or_else(
            || format!("{len} bytes"),
            |crc| format!("{:08x} in {len} bytes", crc.iter().rev().fold(0, |n, b| n << 8 | u32::from(*b))),
        );
        let expected = format!("{LEN} bytes with checksum {:08x}", crc(&bytes));
        return Err(Error::corruption(path, CRC_AT as u64, expected, found));
    };
    let unknown = format.refuse & !KNOWN_REFUSE;
    if format.version > FORMAT_VERSION || unknown != 0 {
        return Err(Error::new(
            ErrorKind::UnsupportedVersion,
            format!(
                "{} names version {} and features {unknown:#x}: this program reads up to version {FORMAT_VERSION}",
                path.display(),
                format.version
            ),
        ));
    }
    if len != LEN as u64 {
        return Err(Error::corruption(path, LEN as u64, "the end of the file", format!("{len} bytes")));
    }
    Ok(Some(format))
}

fn decode(bytes: &[u8]) -> Option<Format> {
    if bytes.len() != LEN {
        return None;
    }
    let mut input = Reader::new(bytes);
    input.raw(MAGIC.len())?;
    let version = input.u32()?;
    let checked = input.u32()? == crc(bytes);
    let format = Format {
        version,
        store: Uuid(input.raw(16)?.try_into().ok()?),
        ignorable: input.u64()?,
        read_only_safe: input.u64()?,
        refuse: input.u64()?,
    };
    (checked && version > 0).then_some(format)
}

/// The checksum of the bytes around the checksum's own place.
fn crc(bytes: &[u8]) -> u32 {
    let mut zeroed = bytes.to_vec();
    if let Some(place) = zeroed.get_mut(CRC_AT..CRC_AT + 4) {
        place.fill(0);
    }
    checksum::crc32(0, &zeroed)
}

#[cfg(test)]
mod tests {
    use super::super::tests::disk::Disk;
    use super::*;

    fn read_bytes(bytes: Vec<u8>) -> Result<Option<Format>> {
        let dir = Path::new("store");
        read(&Disk::with(&dir.join(FORMAT_FILE), bytes), dir)
    }

    fn written() -> (Vec<u8>, Format) {
        let (disk, dir) = (Disk::default(), Path::new("store"));
        assert_eq!(read(&disk, dir).unwrap(), None);
        let format = create(&disk, dir, Uuid([3; 16])).unwrap();
        assert_eq!(read(&disk, dir).unwrap(), Some(format));
        assert!(format.writable().is_ok());
        (disk.contents(&dir.join(FORMAT_FILE)).unwrap(), format)
    }

    #[test]
    fn every_flipped_bit_and_every_other_length_is_an_error() {
        let (bytes, _) = written();
        assert_eq!(bytes.len(), LEN);
        for bit in 0..LEN * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let kind = read_bytes(flipped).unwrap_err().kind();
            let expected = if bit < 64 { ErrorKind::NotAStore } else { ErrorKind::Corruption };
            assert_eq!(kind, expected, "bit {bit}");
        }
        for len in 0..LEN {
            assert_eq!(
                read_bytes(bytes[..len].to_vec()).unwrap_err().kind(),
                ErrorKind::Corruption,
                "{len} bytes"
            );
        }
        let longer = [&bytes[..], b"x"].concat();
        assert_eq!(read_bytes(longer).unwrap_err().kind(), ErrorKind::Corruption);
        assert_eq!(read_bytes(b"# my notes".to_vec()).unwrap_err().kind(), ErrorKind::NotAStore);
    }

    #[test]
    fn later_versions_and_unknown_features_are_told_apart() {
        let (_, format) = written();
        let kind = |format: Format| read_bytes(format.encode()).map_err(|error| error.kind());
        assert_eq!(kind(Format { version: 2, ..format }), Err(ErrorKind::UnsupportedVersion));
        assert_eq!(kind(Format { version: 0, ..format }), Err(ErrorKind::Corruption));
        let longer = [Format { version: 2, ..format }.encode(), vec![1, 2, 3]].concat();
        assert_eq!(read_bytes(longer).unwrap_err().kind(), ErrorKind::UnsupportedVersion);
        assert_eq!(kind(Format { refuse: 1, ..format }), Err(ErrorKind::UnsupportedVersion));
        let ignorable = Format { ignorable: 1 << 63, ..format };
        assert_eq!(kind(ignorable), Ok(Some(ignorable)));
        assert!(ignorable.writable().is_ok());
        let read_only = Format { read_only_safe: 2, ..format };
        assert_eq!(kind(read_only), Ok(Some(read_only)));
        assert_eq!(read_only.writable().unwrap_err().kind(), ErrorKind::UnsupportedVersion);
    }
}
