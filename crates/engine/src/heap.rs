//! The C library's heap, told how large a program lives here.
//!
//! glibc gives every thread that allocates an arena of its own, and learns from what is freed which
//! blocks to map and how much to give back. Tensors of many sizes, freed by whichever thread held
//! them last, then leave holes that differ with the number of threads: a training pass took up to a
//! quarter more memory with three threads than with two (docs/log.md).

/// Bytes of the heap's free end that stay with the process.
pub const KEPT: usize = 64 << 20;

/// One arena, blocks under 32 MiB in it, at most [`KEPT`] of its free end kept: the same memory
/// whatever the threads do, a little less of it, and no slower. A program calls this once, before
/// it starts threads; where the C library is not glibc it does nothing. A library must not: the
/// heap is the whole program's.
///
/// `false` where the heap is not as it was told to be.
pub fn steady() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    return [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, 32 << 20), // the most that glibc takes
        (libc::M_TRIM_THRESHOLD, KEPT as libc::c_int),
    ]
    .into_iter()
    .fold(true, |all, (parameter, value)| {
        // SAFETY: `mallopt` takes two numbers and locks what it changes; a value that it does not
        // like is ignored (it answers 0), which leaves the heap as it was.
        unsafe { libc::mallopt(parameter, value) == 1 && all }
    });
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    #[test]
    fn glibc_takes_what_it_is_told() {
        assert!(super::steady());
    }
}
