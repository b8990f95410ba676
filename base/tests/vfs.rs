//! Every file system behaves alike in what the store relies on.

use nearstone_base::vfs::{
    DiskVfs, LockKind, MemoryVfs, OpenMode, Residency, SimVfs, Vfs, read_exact_at, read_small,
    write_atomically,
};
use nearstone_base::{ErrorKind, Result};
use std::path::Path;
use std::sync::Arc;

/// Runs a check on each file system, in an empty folder of it.
fn on_each(check: impl Fn(&dyn Vfs, &Path)) {
    let folder = tempfile::tempdir().unwrap();
    check(&DiskVfs::new(), folder.path());
    let memory = MemoryVfs::new();
    memory.create_dir(Path::new("/dir")).unwrap();
    check(&memory, Path::new("/dir"));
    let sim = SimVfs::new(1);
    sim.create_dir(Path::new("/dir")).unwrap();
    check(&sim, Path::new("/dir"));
}

fn kind<T>(result: Result<T>) -> ErrorKind {
    result.err().expect("an error").kind()
}

#[test]
fn files_are_created_read_written_and_removed() {
    on_each(|vfs, dir| {
        let path = dir.join("a");
        assert_eq!(kind(vfs.open(&path, OpenMode::Read)), ErrorKind::NotFound);
        assert_eq!(kind(vfs.open(&path, OpenMode::ReadWrite)), ErrorKind::NotFound);
        let file = vfs.open(&path, OpenMode::CreateNew).unwrap();
        assert_eq!(kind(vfs.open(&path, OpenMode::CreateNew)), ErrorKind::AlreadyExists);
        file.write_at(b"hello", 3).unwrap();
        assert_eq!(file.len().unwrap(), 8);
        let mut out = [9; 6];
        assert_eq!(file.read_at(&mut out, 0).unwrap(), 6);
        assert_eq!(&out, b"\0\0\0hel");
        assert_eq!(file.read_at(&mut out, 5).unwrap(), 3);
        assert_eq!(file.read_at(&mut out, 8).unwrap(), 0);
        assert_eq!(kind(read_exact_at(&*file, &path, &mut out, 5)), ErrorKind::Corruption);
        file.set_len(4).unwrap();
        file.reserve(10).unwrap();
        file.reserve(2).unwrap();
        assert_eq!(read_small(vfs, &path, 100).unwrap(), b"\0\0\0h\0\0\0\0\0\0");
        assert_eq!(kind(read_small(vfs, &path, 5)), ErrorKind::Corruption);
        file.sync_data().unwrap();
        file.sync_all().unwrap();
        assert!(vfs.open(&path, OpenMode::Read).unwrap().write_at(b"x", 0).is_err());
        assert_eq!(vfs.open(&path, OpenMode::Truncate).unwrap().len().unwrap(), 0);

        // Removed while open: those who hold it go on.
        file.write_at(b"still", 0).unwrap();
        vfs.remove(&path).unwrap();
        assert_eq!(vfs.info(&path).unwrap(), None);
        assert_eq!(kind(vfs.remove(&path)), ErrorKind::NotFound);
        assert_eq!(file.read_at(&mut out[..5], 0).unwrap(), 5);
    });
}

#[test]
fn names_are_listed_in_order_and_replaced_by_renaming() {
    on_each(|vfs, dir| {
        for name in ["b", "c", "a"] {
            vfs.open(&dir.join(name), OpenMode::CreateNew).unwrap().write_at(name.as_bytes(), 0).unwrap();
        }
        vfs.create_dir(&dir.join("d")).unwrap();
        assert_eq!(kind(vfs.create_dir(&dir.join("d"))), ErrorKind::AlreadyExists);
        assert_eq!(kind(vfs.create_dir(&dir.join("x/y"))), ErrorKind::NotFound);
        assert_eq!(kind(vfs.open(&dir.join("x/y"), OpenMode::CreateNew)), ErrorKind::NotFound);
        assert_eq!(vfs.list(dir).unwrap(), ["a", "b", "c", "d"]);
        vfs.rename(&dir.join("a"), &dir.join("b")).unwrap();
        assert_eq!(vfs.list(dir).unwrap(), ["b", "c", "d"]);
        assert_eq!(read_small(vfs, &dir.join("b"), 9).unwrap(), b"a");
        assert_eq!(kind(vfs.rename(&dir.join("a"), &dir.join("z"))), ErrorKind::NotFound);
        assert!(vfs.info(&dir.join("d")).unwrap().unwrap().is_dir);
        vfs.sync_dir(dir).unwrap();
        vfs.remove_dir(&dir.join("d")).unwrap();
        assert_eq!(kind(vfs.list(&dir.join("d"))), ErrorKind::NotFound);
        write_atomically(vfs, dir, "c", b"whole").unwrap();
        assert_eq!(vfs.list(dir).unwrap(), ["b", "c"]);
        assert_eq!(read_small(vfs, &dir.join("c"), 9).unwrap(), b"whole");
        assert!(vfs.hard_link(&dir.join("c"), &dir.join("e")).unwrap());
        assert_eq!(read_small(vfs, &dir.join("e"), 9).unwrap(), b"whole");
    });
}

#[test]
fn a_new_name_is_never_that_of_another_file() {
    on_each(|vfs, dir| {
        for name in ["a", "b"] {
            vfs.open(&dir.join(name), OpenMode::CreateNew).unwrap().write_at(name.as_bytes(), 0).unwrap();
        }
        vfs.create_dir(&dir.join("d")).unwrap();
        for taken in ["a", "b", "d"] {
            let error = vfs.rename_new(&dir.join("a"), &dir.join(taken)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
            assert!(error.to_string().contains(&format!("{}", dir.join(taken).display())), "{error}");
        }
        for name in ["a", "b"] {
            assert_eq!(read_small(vfs, &dir.join(name), 9).unwrap(), name.as_bytes());
        }
        assert_eq!(kind(vfs.rename_new(&dir.join("missing"), &dir.join("c"))), ErrorKind::NotFound);
        assert_eq!(kind(vfs.rename_new(&dir.join("a"), &dir.join("x/y"))), ErrorKind::NotFound);
        vfs.rename_new(&dir.join("a"), &dir.join("c")).unwrap();
        assert_eq!(vfs.list(dir).unwrap(), ["b", "c", "d"]);
        assert_eq!(read_small(vfs, &dir.join("c"), 9).unwrap(), b"a");
    });
}

/// A link of a symbolic link is a symbolic link.
#[test]
#[cfg(unix)]
fn a_symbolic_link_was_taken_for_the_file_it_leads_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("file"), b"rows").unwrap();
    for (name, target) in [("link", "file"), ("nowhere", "missing")] {
        std::os::unix::fs::symlink(path(target), path(name)).unwrap();
        assert!(!DiskVfs::new().hard_link(&path(name), &path("new")).unwrap());
        assert!(!path("new").is_symlink() && !path("new").exists());
    }
    assert!(DiskVfs::new().hard_link(&path("file"), &path("new")).unwrap());
}

#[test]
fn published_bytes_have_the_expected_length_and_survive_their_name() {
    on_each(|vfs, dir| {
        let path = dir.join("a");
        vfs.open(&path, OpenMode::CreateNew).unwrap().write_at(&[7; 5000], 0).unwrap();
        for residency in [Residency::Mapped, Residency::Heap] {
            let bytes = vfs.bytes(&path, 5000, residency).unwrap();
            assert!(bytes.len() == 5000 && bytes.iter().all(|byte| *byte == 7));
            assert_eq!(bytes.as_ptr() as usize % 64, 0);
            let error = vfs.bytes(&path, 5001, residency).unwrap_err();
            assert!(error.kind() == ErrorKind::Corruption && error.to_string().contains("5001"), "{error}");
        }
        let bytes = vfs.bytes(&path, 5000, Residency::Mapped).unwrap();
        vfs.remove(&path).unwrap();
        assert_eq!(bytes[4999], 7);
        vfs.open(&path, OpenMode::CreateNew).unwrap();
        assert!(vfs.bytes(&path, 0, Residency::Mapped).unwrap().is_empty());
    });
}

#[test]
fn locks_exclude_each_other_until_they_are_dropped() {
    on_each(|vfs, dir| {
        let path = dir.join("lock");
        assert_eq!(kind(vfs.lock(&path, LockKind::Shared)), ErrorKind::NotFound);
        let writer = vfs.lock(&path, LockKind::Exclusive).unwrap();
        assert!(writer.is_some());
        assert!(vfs.lock(&path, LockKind::Exclusive).unwrap().is_none());
        assert!(vfs.lock(&path, LockKind::Shared).unwrap().is_none());
        drop(writer);
        let readers: Vec<_> = (0..3).map(|_| vfs.lock(&path, LockKind::Shared).unwrap().unwrap()).collect();
        assert!(vfs.lock(&path, LockKind::Exclusive).unwrap().is_none());
        drop(readers);
        assert!(vfs.lock(&path, LockKind::Exclusive).unwrap().is_some());
    });
}

#[cfg(unix)]
#[test]
fn new_files_and_folders_are_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let vfs: Arc<dyn Vfs> = Arc::new(DiskVfs::new());
    vfs.create_dir(&folder.path().join("d")).unwrap();
    vfs.open(&folder.path().join("d/f"), OpenMode::CreateNew).unwrap();
    let mode = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("d"), mode("d/f")), (0o700, 0o600));
}

#[cfg(unix)]
#[test]
fn a_lock_is_free_once_dropped_though_a_starting_process_copied_its_descriptor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    std::process::Command::new("true").status().unwrap();
                }
            });
        }
        // Asserted only after the others were told to stop: they would run on for ever.
        let held =
            (0..3000).filter(|_| DiskVfs::new().lock(&path, LockKind::Exclusive).unwrap().is_none()).count();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(held, 0, "a lock that was dropped just before was still held");
    });
}
