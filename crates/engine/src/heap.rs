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

/// Gives the heap's free memory back to the system, so that what the process holds from then on is
/// what lives in it: where memory is measured, freed blocks that are used again would not be seen.
///
/// `false` where nothing was given back, or the C library is not glibc.
pub fn trim() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` takes a number, locks the heap, and gives back only pages that hold no
    // block in use.
    return unsafe { libc::malloc_trim(0) } == 1;
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    #[test]
    fn glibc_takes_what_it_is_told() {
        assert!(super::steady());
    }

    #[test]
    fn free_memory_is_given_back() {
        // blocks small enough to lie in the heap; one above them keeps its free end from being
        // given back before
        let blocks: Vec<Vec<u8>> = (0..4096).map(|_| vec![1; 16 << 10]).collect();
        let above = vec![1u8; 4096];
        drop(blocks);
        assert!(super::trim());
        assert_eq!(above.len(), 4096);
    }
}
