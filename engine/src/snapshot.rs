//! Snapshots: the rows of one moment, for as long as they are held.

use crate::engine::Engine;
use crate::view::View;
use nearstone_base::Lsn;
use nearstone_base::sync::{Arc, Weak};

/// What was visible at one moment, over all collections. It keeps seeing the same rows across writes, seals,
/// compactions and drops; holding it costs memory and disk space (old segments stay), not correctness.
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) view: Arc<View>,
    /// Whose it is; a backup that is open beside has the same identity.
    pub(crate) engine: Weak<Engine>,
}

impl Snapshot {
    /// The last batch it sees.
    pub fn lsn(&self) -> Lsn {
        self.view.lsn
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot(lsn {})", self.view.lsn)
    }
}
