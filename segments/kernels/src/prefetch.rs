//! Prefetching: asking for memory before it is needed.

/// Bytes per cache line.
const LINE: usize = 64;
/// More lines than this are left to the processor's own prefetcher, which has noticed the direction by then.
const LINES_MAX: usize = 16;

/// Asks for the cache line in which a value begins.
#[inline(always)]
pub fn prefetch_at<T>(value: &T) {
    fetch(std::ptr::from_ref(value).cast());
}

/// Asks for the beginning of `bytes` to be brought near. A hint without effect on results; a no-op where the
/// processor has none.
#[inline(always)]
pub fn prefetch_read(bytes: &[u8]) {
    let lines = bytes.len().div_ceil(LINE).min(LINES_MAX);
    for line in 0..lines {
        fetch(bytes.as_ptr().wrapping_add(line * LINE));
    }
}

/// As [`prefetch_read`] for all of `values`, however many.
#[inline(always)]
pub fn prefetch_whole<T>(values: &[T]) {
    for line in 0..size_of_val(values).div_ceil(LINE) {
        fetch(values.as_ptr().cast::<u8>().wrapping_add(line * LINE));
    }
}

/// Asks for the cache line at an address, which need not be one of anything.
#[inline(always)]
pub(crate) fn fetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program can see and never faults, whatever the address; SSE is
    // part of every x86-64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
