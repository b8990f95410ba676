//! What a forged store may answer.

use crate::Fate;
use nearstone::vfs::{Residency, Vfs};
use nearstone::{Error, Result, Store};
use nearstone_tests::forge::ask::{Answers, ask, is_typed, write, writer};
use nearstone_tests::forge::{Contents, FOLDER, Forger, write_folder};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// Opens the store in every way and compares with its fate.
pub(crate) fn judge(forged: &Forger, expected: &Contents, fate: Fate) -> std::result::Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = folder.path().join("store");
    write_folder(&forged.files, &path);
    let reader = Store::builder().read_only(true).residency(Residency::Mapped);
    compare("read-only", reader.open(&path).map(|store| ask(&store)), expected, fate)?;

    let disk = forged.disk();
    let opened = writer(&disk).open(FOLDER);
    let opened = opened.map(|store| {
        let mut answers = ask(&store);
        let asked = answers.errors.len();
        write(&store, &disk, &mut answers);
        let written = answers.errors.split_off(asked);
        (answers, written)
    });
    let written = match opened {
        Ok((answers, written)) => {
            compare("writable", Ok(answers), expected, fate)?;
            written
        }
        Err(error) => {
            compare("writable", Err(error), expected, fate)?;
            Vec::new()
        }
    };
    if fate == Fate::Right && !written.is_empty() {
        return Err(format!("writing to a sound store failed: {written:?}"));
    }
    written.iter().try_for_each(|error| typed("writing", error))?;

    let vfs: Arc<dyn Vfs> = Arc::new(forged.disk());
    let mut go_on = |_| ControlFlow::Continue(());
    match Store::salvage_on(&vfs, Path::new(FOLDER), Path::new("/rescued"), &mut go_on) {
        Ok(_) => {}
        Err(error) => return Err(format!("salvage gave up: {error}")),
    }
    Ok(())
}

fn compare(
    how: &str,
    opened: Result<Answers>,
    expected: &Contents,
    fate: Fate,
) -> std::result::Result<(), String> {
    let answers = match opened {
        Ok(answers) if fate == Fate::Refused => {
            return Err(format!("{how}: it opens, verified: {}, {:?}", answers.verified, answers.errors));
        }
        Ok(answers) => answers,
        Err(error) if matches!(fate, Fate::Refused | Fate::Safe) => {
            let place = error.to_string();
            let named =
                ["FORMAT", "catalog", ".seg", ".log", "wal", "store"].iter().any(|name| place.contains(name));
            return if named { typed(how, &error) } else { Err(format!("{how}: no file is named: {error}")) };
        }
        Err(error) => return Err(format!("{how}: it does not open: {error}")),
    };
    answers.errors.iter().try_for_each(|error| typed(how, error))?;
    match fate {
        Fate::Right if !answers.verified || answers.contents != *expected || !answers.errors.is_empty() => {
            Err(format!("{how}: verified: {}, {:?}", answers.verified, answers.errors))
        }
        Fate::Noticed if answers.verified => {
            Err(format!("{how}: verifying finds nothing, {:?}", answers.errors))
        }
        _ => Ok(()),
    }
}

fn typed(how: &str, error: &Error) -> std::result::Result<(), String> {
    if is_typed(error) {
        return Ok(());
    }
    Err(format!("{how}: an error of kind {:?}: {error}", error.kind()))
}
