//! Collects a failing plugin call's message: the host's side of [`abi::Sink`].

use std::{cell::RefCell, ffi::c_void};

use randori_sdk::abi;

/// The first message of a call.
#[derive(Default)]
pub(crate) struct Complaint(RefCell<Option<String>>);

impl Complaint {
    /// The sink to pass to one call of the plugin, during which `self` must not move.
    pub(crate) fn sink(&self) -> abi::Sink {
        abi::Sink {
            ctx: (&raw const *self).cast_mut().cast(),
            put,
        }
    }

    /// The plugin's message, or a sentence saying that it gave none.
    pub(crate) fn text(&self) -> String {
        let text = self.0.borrow_mut().take();
        text.unwrap_or_else(|| "it failed without saying why".to_owned())
    }
}

unsafe extern "C" fn put(ctx: *mut c_void, message: abi::Str, file: abi::Str, line: u32) {
    // SAFETY: `ctx` is the `Complaint` of the call that is running; the texts live until we return.
    let (complaint, message, file) =
        unsafe { (&*ctx.cast::<Complaint>(), message.read(), file.read()) };
    if let Ok(mut first) = complaint.0.try_borrow_mut() {
        first.get_or_insert_with(|| with_place(&message, &file, line));
    }
}

/// `message (file:line)`
pub(crate) fn with_place(message: &str, file: &str, line: u32) -> String {
    if file.is_empty() {
        message.to_owned()
    } else {
        format!("{message} ({file}:{line})")
    }
}
