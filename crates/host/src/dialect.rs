//! Dialects of architectures, which cross the boundary as JSON.

use std::{cell::RefCell, ffi::c_void};

use randori_sdk::{Dialect, abi};

use crate::{
    Error, Kind, Result,
    info::{Functions, built_with},
};

/// The dialect of the architecture `name`; [`Dialect::NONE`] where its plugin has none.
pub(crate) fn of(name: &str, functions: &Functions) -> Result<Dialect> {
    // SAFETY: `info` has checked the table's kind and made it as long as ours.
    let table = unsafe { &*functions.vtable.cast::<abi::Arch>() };
    let Some(give) = table.dialect else {
        return Ok(Dialect::NONE);
    };
    let heard = RefCell::new(String::new());
    // SAFETY: `put` writes into `heard`, which lives during the call.
    unsafe { give((&raw const heard).cast_mut().cast(), put) }
    Dialect::parse(&heard.borrow()).map_err(|what| {
        let (kind, from) = (Kind::Arch, built_with(functions.sdk));
        let help = "take a newer program, or rebuild the plugin";
        Error::Rule(format!(
            "{kind} {name}: its dialect: {what}; {from}: {help}"
        ))
    })
}

unsafe extern "C" fn put(ctx: *mut c_void, text: abi::Str) {
    // SAFETY: `ctx` is `heard` of the call that is running; the text lives until we return.
    let (heard, text) = unsafe { (&*ctx.cast::<RefCell<String>>(), text.read()) };
    if let Ok(mut heard) = heard.try_borrow_mut() {
        *heard = text.into_owned();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use randori_plugin_misbehave::Misfit;
    use randori_sdk::{arch, dialect::Gguf};

    use super::*;
    use crate::{Host, info};

    /// What the host makes of an architecture's table with another dialect.
    fn given(dialect: Option<unsafe extern "C" fn(*mut c_void, abi::Put)>) -> Result<Dialect> {
        let item = arch::item::<Misfit>();
        // SAFETY: an architecture's item has an architecture's table.
        let table = unsafe { *item.vtable.cast::<abi::Arch>() };
        let table = abi::Arch { dialect, ..table };
        let functions = Functions {
            create: item.create.unwrap(),
            destroy: item.destroy.unwrap(),
            vtable: (&raw const table).cast(),
            sdk: abi::Str::new("9.8.7"),
        };
        of("misfit", &functions)
    }

    unsafe extern "C" fn newer(ctx: *mut c_void, put: abi::Put) {
        let text = r#"{"class": "A", "gguf": {"architecture": "a", "claws": 3}}"#;
        // SAFETY: the text lives during the call.
        unsafe { put(ctx, abi::Str::new(text)) }
    }

    unsafe extern "C" fn sparse(ctx: *mut c_void, put: abi::Put) {
        let text = r#"{"targets": ["q"], "gguf": {"architecture": "a"}}"#;
        // SAFETY: above.
        unsafe { put(ctx, abi::Str::new(text)) }
    }

    unsafe extern "C" fn silent(_: *mut c_void, _: abi::Put) {}

    #[test]
    fn a_dialect_is_read_or_refused_with_the_plugin_s_sdk() {
        assert_eq!(given(None).unwrap(), Dialect::NONE);
        let read = given(Some(sparse)).unwrap();
        assert_eq!((read.targets, read.class), (&["q"][..], ""));
        let gguf = read.gguf.unwrap();
        assert_eq!(
            (gguf.architecture, gguf.read, gguf.modules.len()),
            ("a", true, 0)
        );
        let error = given(Some(newer)).unwrap_err().to_string();
        let says = "architecture misfit: its dialect: gguf: `claws` is not known; it was built with SDK 9.8.7, this program has SDK ";
        assert!(error.starts_with(says), "{error}");
        let error = given(Some(silent)).unwrap_err().to_string();
        assert!(error.contains("it ends in the middle"), "{error}");
    }

    #[test]
    fn families_are_those_of_the_plugins() {
        let mut host = Host::default();
        host.add_static(&randori_plugin_misbehave::PLUGIN).unwrap();
        host.add_static(&randori_plugin_llama::PLUGIN).unwrap();
        let families = host.families().unwrap();
        let names: Vec<&str> = families.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["misfit", "llama"]);
        assert_eq!(families[0].dialect, Dialect::NONE);
        assert_eq!(families[1].dialect.gguf, Some(Gguf::LLAMA));
        // SAFETY: a descriptor made by `plugin!`.
        let read = unsafe { info::read(&randori_plugin_llama::PLUGIN, Path::new("")) };
        let (_, functions) = read.unwrap();
        assert_eq!(of("llama", &functions[0]).unwrap(), families[1].dialect);
    }
}
