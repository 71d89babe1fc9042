//! Texts and arrays of the C ABI as Rust's, and which of its constants threads may share.

use super::{Item, Opt, Plugin, Str};

impl Str {
    /// Borrows `text`, which the caller keeps alive as the ABI's rules ask.
    pub const fn new(text: &str) -> Self {
        Str {
            ptr: text.as_ptr(),
            len: text.len(),
        }
    }

    /// The text; bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Safety
    /// `ptr` points to `len` readable bytes that do not change during `'a`, or `len` is 0.
    pub unsafe fn read<'a>(self) -> std::borrow::Cow<'a, str> {
        // SAFETY: the caller's promise is `slice`'s.
        String::from_utf8_lossy(unsafe { slice(self.ptr, self.len) })
    }
}

/// A C array as a slice; `n` = 0 needs no pointer.
///
/// # Safety
/// If `n` > 0, `ptr` is aligned and points to `n` initialised values, not written during `'a`.
pub unsafe fn slice<'a, T>(ptr: *const T, n: usize) -> &'a [T] {
    if n == 0 {
        return &[];
    }
    // SAFETY: the caller promises exactly this.
    unsafe { core::slice::from_raw_parts(ptr, n) }
}

/// A C array as a mutable slice; `n` = 0 needs no pointer.
///
/// # Safety
/// If `n` > 0, `ptr` is aligned and points to `n` initialised values, unaliased during `'a`.
pub unsafe fn slice_mut<'a, T>(ptr: *mut T, n: usize) -> &'a mut [T] {
    if n == 0 {
        return &mut [];
    }
    // SAFETY: the caller promises exactly this.
    unsafe { core::slice::from_raw_parts_mut(ptr, n) }
}

// SAFETY: descriptors are constants, and their pointers lead to constants.
unsafe impl Sync for Plugin {}
// SAFETY: as above.
unsafe impl Sync for Item {}
// SAFETY: as above.
unsafe impl Sync for Opt {}
// SAFETY: as above.
unsafe impl Sync for Str {}
