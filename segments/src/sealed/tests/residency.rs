//! Segments on a disk, held in each of the ways there are: the same answers, and damage found where it is read.

use super::*;
use nearstone_base::Profile;
use nearstone_base::vfs::DiskVfs;
use std::path::PathBuf;

const ALL: [Residency; 4] = [Residency::Mapped, Residency::Warm, Residency::Pinned, Residency::Heap];

/// A segment in a folder of its own.
struct OnDisk {
    folder: tempfile::TempDir,
    made: Made,
}

impl OnDisk {
    fn new(schema: &Schema, rows: u32) -> OnDisk {
        let on_disk = OnDisk { folder: tempfile::tempdir().unwrap(), made: make(schema, rows) };
        on_disk.write(&on_disk.made.bytes());
        on_disk
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(file().file_name().unwrap())
    }

    /// Another file under the same name: one that is mapped is never written to.
    fn write(&self, bytes: &[u8]) {
        let _ = std::fs::remove_file(self.path());
        std::fs::write(self.path(), bytes).unwrap();
    }

    fn open(&self, residency: Residency) -> Result<SealedSegment> {
        SealedSegment::open(&DiskVfs::new(), &self.path(), &self.made.meta, residency)
    }
}

fn schema(profile: Profile) -> Schema {
    Schema::new(100, Metric::Cosine).m(8).ef_construction(48).keys(KeyType::Str).profile(profile)
}

#[test]
fn however_a_segment_is_held_it_gives_the_same_answers() {
    for profile in Profile::ALL {
        let on_disk = OnDisk::new(&schema(profile), 2_000);
        let rows = &on_disk.made.rows;
        let mut before: Option<Vec<Vec<Hit>>> = None;
        for residency in ALL {
            let segment = on_disk.open(residency).unwrap();
            let mut scratch = Scratch::default();
            let ask = |row: &Row| {
                let exact = SearchOptions { exact: true, ..options(7, 32) };
                let right = segment.search(&row.vector, &exact, &mut Scratch::default()).unwrap();
                assert_eq!(right, truth(rows, &row.vector, 7, |_| true));
                segment.search(&row.vector, &options(7, 32), &mut scratch).unwrap()
            };
            let lists: Vec<Vec<Hit>> = rows.rows.iter().step_by(91).map(ask).collect();
            match &before {
                Some(before) => assert_eq!(*before, lists, "{profile:?} {residency:?}"),
                None => before = Some(lists),
            }
            for (row, right) in (0..).zip(&rows.rows) {
                assert_eq!(segment.key(row).unwrap(), right.key.as_ref());
                assert_eq!(segment.find(right.key.as_ref(), right.key.as_ref().hash64()).unwrap(), Some(row));
                assert_eq!(segment.payload(row).unwrap(), right.payload);
                assert_eq!(segment.version(row).unwrap(), right.version);
            }
            segment.verify(&mut |_, _| true).unwrap();
            assert!(segment.touched());
        }
    }
}

#[test]
fn what_is_held_how_adds_up() {
    for profile in [Profile::Speed, Profile::Memory] {
        let on_disk = OnDisk::new(&schema(profile), 2_000);
        let len = on_disk.made.meta.len;
        let read = if profile == Profile::Memory { 2_000 * 400 } else { 0 };
        let held = |residency| on_disk.open(residency).unwrap().held();
        assert_eq!(held(Residency::Mapped), Held { mapped: len, read, ..Held::default() });
        assert_eq!(held(Residency::Heap), Held { heap: len, ..Held::default() });
        let (warm, pinned) = (held(Residency::Warm), held(Residency::Pinned));
        assert_eq!((warm.mapped, warm.pinned, warm.heap, warm.read), (len, 0, 0, read));
        assert_eq!((pinned.mapped, pinned.warmed, pinned.heap, pinned.read), (len, 0, 0, read));
        // The same parts; without the vectors, and of the fast one without codes and links.
        assert_eq!(warm.warmed, pinned.pinned);
        let layout = layout(&on_disk.made.bytes());
        let bytes = |id| layout.section(id).map_or(0, |section| section.len);
        let walked = match profile {
            Profile::Memory => bytes(format::CODES) + bytes(LINKS),
            _ => bytes(format::INLINE_ROWS) + bytes(format::INLINE_ENTRY),
        };
        assert!(walked > 0 && pinned.pinned > walked, "{profile:?}: {pinned:?} with {walked} walked on");
        assert!(
            pinned.pinned < len - bytes(format::VECTORS) - bytes(format::PAYLOADS),
            "{profile:?}: {pinned:?}"
        );
    }
}

#[test]
fn what_is_pinned_was_checked_at_the_open_and_is_not_looked_at_in_the_file_again() {
    let on_disk = OnDisk::new(&schema(Profile::Speed), 2_000);
    let (sound, layout) = (on_disk.made.bytes(), layout(&on_disk.made.bytes()));
    let inline = layout.section(format::INLINE_ROWS).unwrap();
    let segment = on_disk.open(Residency::Pinned).unwrap();
    let pinned = segment.held().pinned / BLOCK;
    assert!((pinned..pinned + 4).contains(&segment.verified_blocks().0), "{:?}", segment.verified_blocks());

    let mut damaged = sound.clone();
    damaged[(inline.offset + inline.len / 2) as usize] ^= 1;
    on_disk.write(&damaged);
    let at = (inline.offset + inline.len / 2) / BLOCK * BLOCK;
    let error = on_disk.open(Residency::Pinned).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    assert_eq!(error.place().map(|place| (place.file.clone(), place.offset)), Some((on_disk.path(), at)));
    // Mapped, it is found when it is touched; the rest works.
    for residency in [Residency::Mapped, Residency::Warm] {
        let segment = on_disk.open(residency).unwrap();
        assert_eq!(segment.verify(&mut |_, _| true).unwrap_err().place().unwrap().offset, at);
        assert_eq!(segment.vector(5).unwrap(), on_disk.made.rows.rows[5].vector);
    }
}

/// Whoever verifies asks about the file, not about the copy of it that was checked at the open.
#[cfg(unix)]
#[test]
fn a_file_that_was_damaged_after_its_rows_were_pinned_does_not_pass_a_verification() {
    use std::os::unix::fs::FileExt;
    let on_disk = OnDisk::new(&schema(Profile::Speed), 2_000);
    let inline = layout(&on_disk.made.bytes()).section(format::INLINE_ROWS).unwrap();
    let segment = on_disk.open(Residency::Pinned).unwrap();
    segment.verify(&mut |_, _| true).unwrap();
    let place = inline.offset + inline.len / 2;
    let wrong = on_disk.made.bytes()[place as usize] ^ 1;
    let disk = std::fs::OpenOptions::new().write(true).open(on_disk.path()).unwrap();
    disk.write_all_at(&[wrong], place).unwrap();
    let error = segment.verify(&mut |_, _| true).unwrap_err();
    assert_eq!(error.place().map(|place| place.offset), Some(place / BLOCK * BLOCK));
    assert_eq!(
        segment.search(&on_disk.made.rows.rows[7].vector, &options(1, 16), &mut Scratch::default()).unwrap()
            [0]
        .ordinal,
        7
    );
}

#[test]
fn damage_in_what_is_cold_is_no_matter_of_the_open() {
    for profile in [Profile::Speed, Profile::Memory] {
        let on_disk = OnDisk::new(&schema(profile), 2_000);
        let (mut bytes, vectors) =
            (on_disk.made.bytes(), layout(&on_disk.made.bytes()).section(format::VECTORS).unwrap());
        let place = vectors.offset + 1_000 * vectors.stride;
        bytes[place as usize] ^= 1;
        on_disk.write(&bytes);
        for residency in [Residency::Mapped, Residency::Warm, Residency::Pinned] {
            let segment = on_disk.open(residency).unwrap();
            let error = segment.read_vector(1_000, &mut Room::default()).map(<[f32]>::to_vec).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corruption, "{profile:?} {residency:?}");
            assert_eq!(error.place().unwrap().offset, place / BLOCK * BLOCK);
        }
    }
}
