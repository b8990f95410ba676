//! Where segments are written: the store's folder, at the pace of those who write.

use crate::core::Core;
use crate::engine::Engine;
use nearstone_base::SegmentId;
use nearstone_base::sync::Arc;
use nearstone_base::vfs::Vfs;
use nearstone_compaction::metered::Metered;
use nearstone_compaction::pace::Work;
use nearstone_segments::seal::SealTarget;

/// The folder of segments, as one who writes sees it.
pub(crate) struct Site<'a> {
    core: &'a Core,
    vfs: Arc<dyn Vfs>,
}

impl Site<'_> {
    /// Where one segment goes.
    pub(crate) fn target(&self, id: SegmentId, threads: usize) -> SealTarget<'_> {
        SealTarget {
            vfs: &*self.vfs,
            dir: &self.core.segments,
            id,
            uuid: self.core.random.uuid(),
            created_secs: self.core.wall_secs(),
            threads,
            like: None,
        }
    }
}

impl Core {
    /// For those whom nobody holds back.
    pub(crate) fn site(&self) -> Site<'_> {
        self.site_on(self.vfs.clone())
    }

    fn site_on(&self, vfs: Arc<dyn Vfs>) -> Site<'_> {
        Site { core: self, vfs }
    }
}

impl Engine {
    /// For a call, or for a piece of work behind.
    pub(crate) fn site(&self, work: Option<Work>) -> Site<'_> {
        match work {
            None => self.core.site(),
            Some(work) => {
                let metered = Metered::new(self.core.vfs.clone(), self.pace.clone(), work);
                self.core.site_on(Arc::new(metered))
            }
        }
    }
}
