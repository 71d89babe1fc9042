//! What a plugin says it offers, as plain data, read from its descriptor without running any of its code.

use std::{
    ffi::c_void,
    path::{Path, PathBuf},
};

use randori_sdk::{
    abi,
    seam::{OptionSpec, Value},
};

/// A plugin.
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
    /// Of its file, in hexadecimal; empty when it is linked into the binary.
    pub sha256: String,
    /// What it offers.
    pub items: Vec<ItemInfo>,
}

/// What an item is.
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

/// One thing a plugin offers.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemInfo {
    /// What it is.
    pub kind: Kind,
    /// What recipes call it; an architecture's `model_type`.
    pub name: String,
    /// One sentence.
    pub doc: String,
    /// What may be set.
    pub options: Vec<OptionSpec>,
}

/// The functions of an item, checked: sizes reach, pointers are there.
#[derive(Clone, Copy)]
pub(crate) struct Functions {
    pub create: unsafe extern "C" fn(*const abi::Value, usize, abi::Str, abi::Sink) -> *mut c_void,
    pub destroy: unsafe extern "C" fn(*mut c_void),
    pub vtable: *const c_void,
}

// SAFETY: a vtable is a constant of a library that is never unloaded.
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
    // SAFETY: `size` comes first in every version.
    let size = unsafe { plugin.cast::<usize>().read() };
    at_least("descriptor", size, size_of::<abi::Plugin>())?;
    // SAFETY: it is as long as our version of it.
    let plugin = unsafe { &*plugin };
    at_least("item", plugin.item_size, size_of::<abi::Item>())?;
    at_least("option", plugin.opt_size, size_of::<abi::Opt>())?;
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
        // SAFETY: items lie `item_size` bytes apart, which is at least the size of ours.
        let item = unsafe { &*plugin.items.byte_add(i * plugin.item_size) };
        let Some(kind) = kind(item.kind) else {
            continue; // a newer plugin's, of a kind this host does not know
        };
        functions.push(functions_of(item, kind)?);
        // SAFETY: options lie `opt_size` bytes apart, as above.
        let options =
            (0..item.n_opts).map(|i| unsafe { &*item.opts.byte_add(i * plugin.opt_size) });
        info.items.push(ItemInfo {
            kind,
            name: text(item.name),
            doc: text(item.doc),
            options: options.map(option).collect::<Result<_, _>>()?,
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

fn functions_of(item: &abi::Item, kind: Kind) -> Result<Functions, String> {
    let name = text(item.name);
    let (Some(create), Some(destroy), false) = (item.create, item.destroy, item.vtable.is_null())
    else {
        return Err(format!(
            "{kind} `{name}` lacks create, destroy or its table"
        ));
    };
    // SAFETY: every version of a table begins with its size.
    let size = unsafe { item.vtable.cast::<usize>().read() };
    // SAFETY, all three: the table is of this kind and, by the check before, at least as long as ours.
    let complete = match kind {
        Kind::Arch => {
            at_least(&name, size, size_of::<abi::Arch>())?;
            // SAFETY: above.
            let t = unsafe { &*item.vtable.cast::<abi::Arch>() };
            t.layers.is_some() && t.embed.is_some() && t.block.is_some() && t.head.is_some()
        }
        Kind::Loss => {
            at_least(&name, size, size_of::<abi::Loss>())?;
            // SAFETY: above.
            unsafe { &*item.vtable.cast::<abi::Loss>() }.eval.is_some()
        }
        Kind::Sampler => {
            at_least(&name, size, size_of::<abi::Sampler>())?;
            // SAFETY: above.
            let t = unsafe { &*item.vtable.cast::<abi::Sampler>() };
            t.begin.is_some() && t.apply.is_some() && t.accept.is_some() && t.end.is_some()
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
        vtable: item.vtable,
    })
}

fn at_least(what: &str, size: usize, ours: usize) -> Result<(), String> {
    if size >= ours {
        return Ok(());
    }
    Err(format!(
        "its {what} is {size} bytes long, plugin interface {} asks for {ours}: it was not built against it",
        abi::MAJOR
    ))
}

fn option(opt: &abi::Opt) -> Result<OptionSpec, String> {
    let name = text(opt.name);
    let default = value(&opt.default_)
        .ok_or_else(|| format!("option `{name}` has the unknown type {}", opt.default_.kind))?;
    // SAFETY: a constant array.
    let choices = unsafe { abi::slice(opt.choices, opt.n_choices) };
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
