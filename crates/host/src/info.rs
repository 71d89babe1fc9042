//! A plugin's items as plain data, read from its descriptor without running any of its code.

use std::{
    ffi::c_void,
    path::{Path, PathBuf},
};

use randori_sdk::{
    abi,
    growing::{self, Growing, Misfit},
    seam::{OptionSpec, Value},
};

/// A plugin's description.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginInfo {
    /// Package name without `randori-plugin-`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One sentence.
    pub doc: String,
    /// Its file; empty when it is linked into the binary.
    pub path: PathBuf,
    /// SHA-256 of its file in hexadecimal; empty when it is linked into the binary.
    pub sha256: String,
    /// Its items.
    pub items: Vec<ItemInfo>,
}

impl PluginInfo {
    /// Whether it is linked into the program: it has no file then.
    pub fn is_linked(&self) -> bool {
        self.path.as_os_str().is_empty()
    }
}

/// Kind of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A model architecture.
    Arch,
    /// A loss over pairs.
    Loss,
    /// A sampler.
    Sampler,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Arch => "architecture",
            Kind::Loss => "loss",
            Kind::Sampler => "sampler",
        })
    }
}

/// An item's description.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemInfo {
    /// Its kind.
    pub kind: Kind,
    /// Its name in recipes; an architecture's `model_type`.
    pub name: String,
    /// One sentence.
    pub doc: String,
    /// Its options.
    pub options: Vec<OptionSpec>,
}

/// An item's functions, checked: tables are long enough, pointers are not null.
#[derive(Clone, Copy)]
pub(crate) struct Functions {
    pub create: unsafe extern "C" fn(*const abi::Value, usize, abi::Str, abi::Sink) -> *mut c_void,
    pub destroy: unsafe extern "C" fn(*mut c_void),
    pub vtable: *const c_void,
    /// Version of the SDK that its plugin was built with, for messages; empty where it is untold.
    pub sdk: abi::Str,
}

// SAFETY: vtable and text are constants of a library that is never unloaded.
unsafe impl Send for Functions {}
// SAFETY: as above.
unsafe impl Sync for Functions {}

/// Reads a descriptor.
///
/// # Safety
/// `plugin` points to a descriptor whose sizes, counts and pointers are true, for ever.
pub(crate) unsafe fn read(
    plugin: *const abi::Plugin,
    path: &Path,
) -> Result<(PluginInfo, Vec<Functions>), String> {
    // SAFETY: `size` comes first in every version, and is true.
    let plugin = unsafe {
        growing::read(plugin).map_err(|misfit| {
            // one that asks for something unknown still tells its SDK
            let known = growing::known_part(plugin, plugin.cast::<usize>().read());
            misfit_text(misfit, known.map_or(abi::Str::new(""), |known| known.sdk))
        })
    }?;
    let mut info = PluginInfo {
        name: text(plugin.name),
        version: text(plugin.version),
        doc: text(plugin.doc),
        path: path.to_owned(),
        sha256: String::new(),
        items: Vec::new(),
    };
    if let Some(name) = info.name.strip_prefix("randori-plugin-") {
        info.name = name.to_owned();
    }
    let mut functions = Vec::new();
    for i in 0..plugin.n_items {
        // SAFETY: items lie `item_size` bytes apart.
        let item = unsafe { plugin.items.byte_add(i * plugin.item_size) };
        // SAFETY: every version of an item begins with its kind.
        let Some(kind) = kind(unsafe { item.cast::<u32>().read_unaligned() }) else {
            continue; // a newer plugin's, of a kind this host does not know
        };
        // SAFETY: it is as long as the descriptor says.
        let item = unsafe { growing::read_sized(item, plugin.item_size) }
            .map_err(|misfit| misfit_text(misfit, plugin.sdk))?;
        let name = text(item.name);
        let mismatch = |misfit| format!("{kind} `{name}`: {}", misfit_text(misfit, plugin.sdk));
        functions.push(functions_of(&item, kind, plugin.sdk, &mismatch)?);
        let options = (0..item.n_opts).map(|i| {
            // SAFETY: options lie `opt_size` bytes apart.
            let read = unsafe {
                growing::read_sized(item.opts.byte_add(i * plugin.opt_size), plugin.opt_size)
            };
            option(&read.map_err(&mismatch)?)
        });
        info.items.push(ItemInfo {
            kind,
            name: name.clone(),
            doc: text(item.doc),
            options: options.collect::<Result<_, String>>()?,
        });
    }
    Ok((info, functions))
}

fn kind(kind: u32) -> Option<Kind> {
    match kind {
        abi::ARCH => Some(Kind::Arch),
        abi::LOSS => Some(Kind::Loss),
        abi::SAMPLER => Some(Kind::Sampler),
        _ => None,
    }
}

fn functions_of(
    item: &abi::Item,
    kind: Kind,
    sdk: abi::Str,
    mismatch: &dyn Fn(Misfit) -> String,
) -> Result<Functions, String> {
    let name = text(item.name);
    let (Some(create), Some(destroy), false) = (item.create, item.destroy, item.vtable.is_null())
    else {
        return Err(format!(
            "{kind} `{name}` lacks create, destroy or its table"
        ));
    };
    let (vtable, complete) = match kind {
        Kind::Arch => {
            // SAFETY: the item's kind says what its table is, and every version begins with its
            // size.
            let t = unsafe { copy_table::<abi::Arch>(item.vtable) }.map_err(mismatch)?;
            let complete =
                t.layers.is_some() && t.embed.is_some() && t.block.is_some() && t.head.is_some();
            ((&raw const *t).cast(), complete)
        }
        Kind::Loss => {
            // SAFETY: as above.
            let t = unsafe { copy_table::<abi::Loss>(item.vtable) }.map_err(mismatch)?;
            ((&raw const *t).cast(), t.eval.is_some())
        }
        Kind::Sampler => {
            // SAFETY: as above.
            let t = unsafe { copy_table::<abi::Sampler>(item.vtable) }.map_err(mismatch)?;
            let complete =
                t.begin.is_some() && t.apply.is_some() && t.accept.is_some() && t.end.is_some();
            ((&raw const *t).cast(), complete)
        }
    };
    if !complete {
        return Err(format!(
            "{kind} `{name}` leaves a function of its table NULL"
        ));
    }
    Ok(Functions {
        create,
        destroy,
        vtable,
        sdk,
    })
}

/// A copy of a function table in this host's version, leaked as its library is.
///
/// # Safety
/// As [`growing::read`].
unsafe fn copy_table<T: Growing>(table: *const c_void) -> Result<&'static T, Misfit> {
    // SAFETY: the caller's promise.
    let table = unsafe { growing::read(table.cast::<T>()) }?;
    Ok(Box::leak(Box::new(table)))
}

/// Error text: what does not fit, and the plugin's SDK version.
pub(crate) fn misfit_text(misfit: Misfit, sdk: abi::Str) -> String {
    let help = match misfit {
        Misfit::Short { .. } => "it was not built against it",
        Misfit::Unknown { .. } => "take a newer program, or rebuild the plugin",
    };
    format!("{misfit}; {}: {help}", built_with(sdk))
}

/// For messages: the SDK that a plugin was built with, and this program's.
pub(crate) fn built_with(sdk: abi::Str) -> String {
    let own = randori_sdk::VERSION;
    let from = match &*text(sdk) {
        "" => "an SDK that does not tell its version".to_owned(),
        version => format!("SDK {version}"),
    };
    format!("it was built with {from}, this program has SDK {own}")
}

fn option(opt: &abi::Opt) -> Result<OptionSpec, String> {
    let name = text(opt.name);
    let default = value(&opt.default_)
        .ok_or_else(|| format!("option `{name}` has the unknown type {}", opt.default_.kind))?;
    // SAFETY: a constant array.
    let choices = unsafe { abi::reading::slice(opt.choices, opt.n_choices) };
    Ok(OptionSpec {
        name,
        doc: text(opt.doc),
        default,
        min: Some(opt.min).filter(|min| *min > f64::NEG_INFINITY),
        max: Some(opt.max).filter(|max| *max < f64::INFINITY),
        choices: choices.iter().map(|choice| text(*choice)).collect(),
    })
}

fn value(value: &abi::Value) -> Option<Value> {
    Some(match value.kind {
        abi::FLOAT => Value::Float(value.float_),
        abi::INT => Value::Int(value.int_),
        abi::BOOL => Value::Bool(value.int_ != 0),
        abi::TEXT => Value::Str(text(value.text)),
        _ => return None,
    })
}

/// A descriptor's text; doc comments begin with a space.
fn text(text: abi::Str) -> String {
    // SAFETY: descriptors are constants.
    unsafe { text.read() }.trim().to_owned()
}
