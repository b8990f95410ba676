//! Builds and attaches in histories: files that are made beside the store, kept over crashes, and attached once or again.
//!
//! What was built is durable when the build has returned, and stays until an attach that moves it has made its rows part
//! of the store.

use super::{History, InFlight, row};
use nearstone::random::SeededRandom;
use nearstone::vfs::{SimVfs, Vfs};
use nearstone::{AttachOptions, Background, ErrorKind, OnCollision, Store, TakeFiles};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// The files of one build.
#[derive(Clone)]
pub(super) struct Built {
    collection: usize,
    links: usize,
    rows: BTreeMap<u64, u32>,
    files: Vec<PathBuf>,
    /// Whether its rows may have become part of the store already.
    attached: bool,
}

impl Built {
    fn missing(&self, disk: &SimVfs) -> Result<bool, String> {
        for file in &self.files {
            if disk.info(file).map_err(|error| error.to_string())?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl History {
    /// Builds files for a collection as it is now.
    pub(super) fn build(&mut self, collection: usize, rows: &[(u64, u32)]) -> Result<(), String> {
        self.builds += 1;
        let rows: BTreeMap<u64, u32> = rows.iter().copied().collect();
        let schema = self.handles[&collection].schema();
        let run = || {
            let random = SeededRandom::new(!self.seed ^ self.builds << 32);
            let builder = Store::builder().vfs(Arc::new(self.disk.clone())).random(Arc::new(random));
            let builder = builder.background(Background::Manual).seal_rows(12);
            let mut build = builder.build_segments(format!("/built-{}", self.builds), schema)?;
            for (&key, &value) in &rows {
                let row = row(collection, value, 0);
                let payload: Option<serde_json::Value> = serde_json::from_str(&row.payload).ok();
                build.push(key, &row.vector, payload)?;
            }
            build.finish()
        };
        let files = run().map_err(|error: nearstone::Error| format!("build: {error}"))?;
        if files.len() != rows.len().div_ceil(12) {
            return Err(format!("{} rows were built into {files:?}", rows.len()));
        }
        self.built.push(Built { collection, links: schema.links(), rows, files, attached: false });
        Ok(())
    }

    /// Attaches the files of one of the builds that are kept; without any, nothing.
    pub(super) fn attach(
        &mut self,
        build: usize,
        collection: usize,
        on_collision: OnCollision,
        take: TakeFiles,
    ) -> InFlight {
        if self.built.is_empty() {
            return InFlight::default();
        }
        let place = build % self.built.len();
        let built = self.built[place].clone();
        let options = AttachOptions::new().on_collision(on_collision).take(take);
        let handle = &self.handles[&collection];
        if built.collection != collection || built.links != handle.schema().links() {
            let error = match handle.attach(&built.files, options) {
                Err(error) if error.kind() == ErrorKind::InvalidArgument => None,
                other => Some(format!("attaching files of another schema gives {other:?}")),
            };
            return InFlight { error, ..InFlight::default() };
        }
        let attached = handle.attach(&built.files, options);
        let again = |error: &nearstone::Error| error.to_string().contains("part of the store already");
        if built.attached && attached.as_ref().is_err_and(again) {
            return InFlight::default();
        }
        let done = attached.is_ok();
        let moved = done && take == TakeFiles::Move;
        let in_flight = self.loaded(collection, &built.rows, on_collision, attached);
        if moved {
            self.built.remove(place);
        } else {
            self.built[place].attached |= done || in_flight.error.is_some();
        }
        let moving = (take == TakeFiles::Move && !moved).then_some(place);
        InFlight { moving, ..in_flight }
    }

    /// After a crash every build is there whole, but for one that was being moved, whose rows then are.
    pub(super) fn check_built(&mut self, moving: Option<usize>, loaded: bool) -> Result<(), String> {
        for place in (0..self.built.len()).rev() {
            if self.built[place].missing(&self.disk)? {
                let files = &self.built[place].files;
                if moving != Some(place) || !loaded {
                    return Err(format!(
                        "of {files:?} there is not all any more, nor are the rows in the store"
                    ));
                }
                self.built.remove(place);
            }
        }
        Ok(())
    }
}
