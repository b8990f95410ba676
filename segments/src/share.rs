//! Work on a slice, shared among threads that last as long as the call.

use nearstone_base::sync::{AtomicBool, Mutex, Ordering};
use nearstone_base::{Error, ErrorKind, Result};

/// Lets threads, the calling one among them, fill pieces of `out`; `work` is told where in `out` its piece begins.
/// The calling thread asks `cancel` before each of its pieces, and may wait there; then the others wait as well.
pub(crate) fn share<T: Send, W: Default>(
    out: &mut [T],
    piece: usize,
    threads: usize,
    cancel: &dyn Fn() -> bool,
    work: impl Fn(usize, &mut [T], &mut W) -> Result<()> + Sync,
) -> Result<()> {
    let pieces = Mutex::new(out.chunks_mut(piece).enumerate());
    let (ended, failed, asking) = (AtomicBool::new(false), Mutex::new(None), Mutex::new(()));
    let take_all = |cancel: &dyn Fn() -> bool| {
        let mut kept = W::default();
        while !ended.load(Ordering::Relaxed) {
            let stops = {
                let _asking = asking.lock();
                cancel()
            };
            let done = match stops {
                true => Err(Error::new(ErrorKind::Cancelled, "writing the segment was cancelled")),
                false => {
                    let Some((number, out)) = pieces.lock().next() else { break };
                    work(number * piece, out, &mut kept)
                }
            };
            if let Err(error) = done {
                ended.store(true, Ordering::Relaxed);
                failed.lock().get_or_insert(error);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| take_all(&|| false));
        }
        take_all(cancel);
    });
    failed.into_inner().map_or(Ok(()), Err)
}
