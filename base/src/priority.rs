//! The priority of threads that work behind.

/// Gives this thread the lowest priority (nice 19): it runs when nobody else wants the processor. A system that
/// refuses, or knows no such thing, leaves the priority as it was.
pub fn lower_this_thread() {
    #[cfg(target_os = "linux")]
    {
        // On Linux a thread has a nice value of its own, set through its thread id.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 19);
    }
}
