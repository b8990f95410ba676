//! Any bytes, to every reader: an error or rows, never a panic.

use crate::npy::tests::file as npy_file;
use crate::vectors::{Format, parse_bytes};
use crate::{keys, payloads};
use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use std::io::Write;

fn feed(bytes: &[u8]) {
    for format in Format::ALL {
        if let Ok(rows) = parse_bytes(format, bytes) {
            let dimension = rows.first().map_or(0, |row| row.vector.len());
            assert!(rows.iter().all(|row| row.vector.len() == dimension));
            assert!(rows.iter().all(|row| row.vector.iter().all(|x| x.is_finite())));
        }
    }
    let _ = keys::parse_bytes(bytes);
    let _ = payloads::parse_bytes(bytes);
}

proptest! {
    #[test]
    fn noise(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        feed(&bytes);
    }

    #[test]
    fn noise_behind_a_magic(
        magic in prop::sample::select(vec![&b"\x93NUMPY\x01\x00"[..], b"\x93NUMPY\x02\x00", b"PAR1", b"\x02\0\0\0"]),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        feed(&[magic, &bytes, b"PAR1"].concat());
        feed(&[magic, &bytes].concat());
    }

    #[test]
    fn headers_that_are_nearly_right(
        dict in "\\{?('(descr|shape|fortran_order)': ?('[<>|]?[fiu][0-9]'|True|False|\\(-?[0-9]{0,21}L?,? ?[0-9]{0,3},?\\)?),? ?){0,4}\\}?",
        version in 0u8..5,
        data in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        feed(&npy_file(version, &dict, &data));
    }

    #[test]
    fn lines_that_are_nearly_right(
        text in "(\\{(\"(vector|key|id|payload|x)\": ?(\\[[0-9.,e\\-]{0,9}\\]|\"[a-z\\\\]{0,2}\"|null|-?[0-9]{1,21}|\\{\\}),?){0,3}\\}?\n?){0,4}",
    ) {
        feed(text.as_bytes());
    }
}

#[test]
fn a_gzip_file_that_claims_more_than_it_has_is_an_error() {
    // The length of a gzip stream is not known beforehand: the claim is found out while reading.
    let dict = "{'descr': '<f4', 'fortran_order': False, 'shape': (4000000000, 60000), }";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npy.gz");
    let mut encoder = GzEncoder::new(std::fs::File::create(&path).unwrap(), Compression::fast());
    encoder.write_all(&npy_file(1, dict, &[0; 100])).unwrap();
    encoder.finish().unwrap();
    let mut reader = crate::VectorFile::open(&path).unwrap();
    let error = reader.next_block(&mut Vec::new(), usize::MAX).unwrap_err();
    assert!(error.to_string().contains("the file ends inside the rows"), "{error}");
    let whole = std::fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let outcome = crate::RecordReader::open(&path).map(|mut reader| reader.any(|row| row.is_err()));
        assert!(!matches!(outcome, Ok(false)), "cut at {cut}");
    }
}

#[test]
fn a_name_without_a_known_ending_is_told_by_its_bytes_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.bin");
    let dict = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }";
    for (bytes, dimension) in [(npy_file(1, dict, &[0; 8]), 2), (b"{\"vector\":[1,2,3]}".to_vec(), 3)] {
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(crate::VectorFile::open(&path).unwrap().dimension(), dimension);
    }
    std::fs::write(&path, b"what").unwrap();
    let error = crate::VectorFile::open(&path).err().unwrap();
    assert!(error.to_string().contains(".fvecs"), "{error}");
    assert_eq!(
        crate::VectorFile::open(folder.path().join("no.npy")).err().unwrap().kind(),
        crate::ErrorKind::Io
    );
}
