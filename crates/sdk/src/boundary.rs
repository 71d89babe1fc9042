//! What the three kinds of item share at the boundary: making, freeing and reporting.

use std::{ffi::c_void, ptr::null_mut};

use crate::{
    Result, abi,
    guard::{Caught, guard},
};

/// Tells the host one sentence without a place.
pub(crate) fn say(sink: abi::Sink, message: &str) {
    put(sink, message, "", 0);
}

/// Tells the host of a panic.
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

/// Frees what [`make`] made. A panic in the author's `Drop` ends here, unreported: nobody waits for
/// an answer.
pub(crate) unsafe extern "C" fn free<T>(this: *mut c_void) {
    // SAFETY: the host gives back what `make` made, once.
    let object = unsafe { Box::from_raw(this.cast::<T>()) };
    let _ = guard(move || drop(object));
}
