//! Catches panics at the ABI, with their message and source line, by a panic hook.
//!
//! A cdylib has its own copy of std and so its own panic hook; ours is set on the first guarded
//! call and passes panics outside guarded calls on to the previous hook. The host guards its side
//! with the same function.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook},
    sync::Once,
};

/// A caught panic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caught {
    /// The panic's message.
    pub message: String,
    /// Source file; empty where unknown.
    pub file: String,
    /// Its line.
    pub line: u32,
}

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static CAUGHT: RefCell<Option<Caught>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Runs `f`; a panic inside becomes an error and prints nothing.
pub fn guard<T>(f: impl FnOnce() -> T) -> Result<T, Caught> {
    HOOK.call_once(|| {
        let previous = take_hook();
        set_hook(Box::new(move |info| {
            if DEPTH.get() > 0 {
                note(info);
            } else {
                previous(info);
            }
        }));
    });
    DEPTH.set(DEPTH.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(f));
    DEPTH.set(DEPTH.get() - 1);
    result.map_err(|payload| {
        // another hook may have replaced ours: then the panic was not recorded
        CAUGHT.take().unwrap_or_else(|| Caught {
            message: text(&*payload),
            file: String::new(),
            line: 0,
        })
    })
}

fn note(info: &PanicHookInfo) {
    let (file, line) = info
        .location()
        .map_or((String::new(), 0), |at| (at.file().to_owned(), at.line()));
    CAUGHT.set(Some(Caught {
        message: text(info.payload()),
        file,
        line,
    }));
}

fn text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_with_its_place() {
        let caught = guard(|| panic!("row {}", 3)).unwrap_err();
        assert_eq!(caught.message, "row 3");
        assert!(caught.file.ends_with("guard.rs"), "{}", caught.file);
        assert_eq!(guard(|| 7), Ok(7));
    }

    #[test]
    fn guards_nest() {
        let outer = guard(|| {
            let inner = guard(|| panic!("inner")).unwrap_err();
            assert_eq!(inner.message, "inner");
            panic!("outer")
        });
        assert_eq!(outer.unwrap_err().message, "outer");
    }
}
