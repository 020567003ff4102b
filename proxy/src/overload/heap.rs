//! Giving memory that is free back to the system: the allocator keeps what it once had.

/// Gives back every free page. Takes some milliseconds for each 100 MiB of heap, and holds up threads that allocate meanwhile: only for
/// when memory is scarce.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "glibc has no other way; what it measured to is in docs/adr/0010-overload.md")]
pub(super) fn release() {
    // SAFETY: takes no pointer, may be called from any thread at any time, and changes nothing that is in use.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators give memory back by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn release() {}
