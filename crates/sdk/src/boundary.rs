//! Creating, freeing and reporting errors across the C ABI, for all three kinds of item.

use std::{ffi::c_void, ptr::null_mut};

use crate::{
    Result, abi,
    growing::{self, Growing, Misfit},
    guard::{Caught, guard},
};

/// This SDK's version; every plugin carries that of the SDK it was built with.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Reports one sentence to the host, without a source line.
pub(crate) fn say(sink: abi::Sink, message: &str) {
    put(sink, message, "", 0);
}

/// Reports a panic to the host.
pub(crate) fn report(sink: abi::Sink, caught: &Caught) {
    put(
        sink,
        &format!("the plugin panicked: {}", caught.message),
        &caught.file,
        caught.line,
    );
}

fn put(sink: abi::Sink, message: &str, file: &str, line: u32) {
    // SAFETY: the host's sink takes any text during the call it came with.
    unsafe { (sink.put)(sink.ctx, abi::Str::new(message), abi::Str::new(file), line) }
}

/// Copies the two structs that a host gives with a call; `None`, after an error to the sink, if one
/// of them does not fit.
///
/// # Safety
/// As [`growing::read`], for both.
pub(crate) unsafe fn given<A: Growing, B: Growing>(
    first: *const A,
    second: *const B,
    sink: abi::Sink,
) -> Option<(A, B)> {
    // SAFETY: the caller's promise.
    let read = unsafe { growing::read(first).and_then(|a| Ok((a, growing::read(second)?))) };
    let refuse = |misfit: Misfit| {
        let why = format!("this host is of another version: {misfit}");
        say(
            sink,
            &format!("{why}; the plugin was built with SDK {VERSION}"),
        );
    };
    read.map_err(refuse).ok()
}

/// Runs the author's constructor and boxes the result; NULL after a failure.
pub(crate) fn make<T>(sink: abi::Sink, new: impl FnOnce() -> Result<T>) -> *mut c_void {
    match guard(new) {
        Ok(Ok(object)) => Box::into_raw(Box::new(object)).cast(),
        Ok(Err(error)) => {
            say(sink, &error.0);
            null_mut()
        }
        Err(caught) => {
            report(sink, &caught);
            null_mut()
        }
    }
}

/// Frees an object of [`make`]. A panic in the author's `Drop` is caught and dropped: this function
/// cannot report.
pub(crate) unsafe extern "C" fn free<T>(this: *mut c_void) {
    // SAFETY: the host gives back what `make` made, once.
    let object = unsafe { Box::from_raw(this.cast::<T>()) };
    let _ = guard(move || drop(object));
}
