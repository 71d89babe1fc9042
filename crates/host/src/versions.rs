//! Tests: every struct that a plugin gives the host, as plugins of older and newer SDKs have it.
#![cfg(target_pointer_width = "64")]

use std::{
    ffi::c_void,
    path::Path,
    ptr::{null, null_mut},
};

use randori_plugin_misbehave::{BadPair, BadSampler, Misfit};
use randori_sdk::{
    VERSION,
    abi::{self, Graph, Str, Tensor},
    arch,
    growing::Growing,
    loss, sampler,
};

use crate::{
    architecture::tests::Any,
    info,
    ops::{Call, OPS},
};

/// SDK of the plugins here.
const SDK: &str = "9.8.7";

/// A struct, and what may lie behind it.
#[repr(C)]
struct Room<T> {
    given: T,
    behind: [u8; 16],
}

/// Gives the host, by `give`, a struct of several lengths; `sized` writes the length into it, if it
/// has a place for that. `give` gets the length too.
fn any_length<T: Growing>(
    given: T,
    sized: fn(&mut T, usize),
    give: impl Fn(*const T, usize) -> Result<(), String>,
) {
    let (name, first, known) = (T::NAME, T::FIRST, size_of::<T>());
    let at = |size: usize, behind: [u8; 16]| {
        let mut room = Room { given, behind };
        sized(&mut room.given, size);
        give((&raw const room).cast::<T>(), size)
    };
    // what lies behind its size is not its own
    for (size, behind) in [(first, 9), (known, 9), (known + 8, 0), (known + 16, 0)] {
        assert_eq!(at(size, [behind; 16]), Ok(()), "{name} of {size} bytes");
    }
    let short = at(first - 8, [0; 16]).unwrap_err();
    let size = first - 8;
    let says = format!("its {name} is {size} bytes long, plugin interface 1 asks for {first}; ");
    assert!(short.contains(&says), "{short}");
    for i in 0..16 {
        let mut behind = [0; 16];
        behind[i] = 1;
        let error = at(known + 16, behind).unwrap_err();
        let (size, offset) = (known + 16, known + i);
        let says = format!(
            "its {name} is {size} bytes long, of which {known} are known here, and asks for something at offset {offset}; it was built with SDK {SDK}, this program has SDK {VERSION}: "
        );
        assert!(error.contains(&says), "{error}");
    }
}

/// A descriptor of one item; the sizes are an item's and an option's.
fn descriptor(item: *const abi::Item, item_size: usize, opt_size: usize) -> abi::Plugin {
    abi::Plugin {
        size: size_of::<abi::Plugin>(),
        item_size,
        opt_size,
        name: Str::new("versions"),
        version: Str::new("1.0.0"),
        doc: Str::new(""),
        items: item,
        n_items: 1,
        sdk: Str::new(SDK),
    }
}

/// Reads a descriptor whose item must be found.
fn load(plugin: *const abi::Plugin) -> Result<(), String> {
    // SAFETY: the tests' descriptors, items, options and tables are as long as they say.
    let (info, _) = unsafe { info::read(plugin, Path::new("")) }?;
    assert_eq!((info.name.as_str(), info.items.len()), ("versions", 1));
    Ok(())
}

const ITEM: usize = size_of::<abi::Item>();
const OPT: usize = size_of::<abi::Opt>();

#[test]
fn descriptors_of_every_version() {
    let item = loss::item::<BadPair>();
    let plugin = descriptor(&raw const item, ITEM, OPT);
    any_length(plugin, |p, size| p.size = size, |p, _| load(p));
    any_length(
        item,
        |_, _| {},
        |item, size| load(&descriptor(item, size, OPT)),
    );
    // SAFETY: it has two options.
    let opt = unsafe { *item.opts };
    any_length(
        opt,
        |_, _| {},
        |opts, size| {
            let item = abi::Item {
                opts,
                n_opts: 1,
                ..item
            };
            load(&descriptor(&raw const item, ITEM, size))
        },
    );
}

/// The same item with another table.
fn with_table<T>(item: abi::Item, table: *const T) -> Result<(), String> {
    let item = abi::Item {
        vtable: table.cast(),
        ..item
    };
    load(&descriptor(&raw const item, ITEM, OPT))
}

#[test]
fn tables_of_every_version() {
    let item = arch::item::<Misfit>();
    // SAFETY: an architecture's item has an architecture's table; the others' likewise.
    let table = unsafe { *item.vtable.cast::<abi::Arch>() };
    any_length(table, |t, size| t.size = size, |t, _| with_table(item, t));

    let item = loss::item::<BadPair>();
    // SAFETY: above.
    let table = unsafe { *item.vtable.cast::<abi::Loss>() };
    any_length(table, |t, size| t.size = size, |t, _| with_table(item, t));

    let item = sampler::item::<BadSampler>();
    // SAFETY: above.
    let table = unsafe { *item.vtable.cast::<abi::Sampler>() };
    any_length(table, |t, size| t.size = size, |t, _| with_table(item, t));
}

/// Runs `op` in a call of a plugin.
fn run(op: impl FnOnce(Graph) -> Tensor) -> Result<(), String> {
    Call::run(&mut Any, Str::new(SDK), op).map(|id| assert_eq!(id, 7))
}

unsafe extern "C" fn expert(_: *mut c_void, _: Graph, _: usize, x: Tensor) -> Tensor {
    x
}

static INV_FREQ: [f32; 2] = [1.0, 0.01];

// SAFETY of the calls below: the graph is the running call's, and the options are as long as they
// say.
#[test]
fn options_of_ops_of_every_version() {
    let rope = abi::Rope {
        size: 0,
        interleaved: 0,
        mscale: 1.0,
        inv_freq: INV_FREQ.as_ptr(),
        n: INV_FREQ.len(),
        long_after: 0,
        long_inv_freq: null(),
        growth: 0.0,
        growth_every: 0,
    };
    any_length(
        rope,
        |r, size| r.size = size,
        // SAFETY: above.
        |r, _| run(|g| unsafe { (OPS.rope)(g, 1, r) }),
    );
    let attn = abi::Attn {
        size: 0,
        window: 0,
        scale: 0.0,
        softcap: 0.0,
        sinks: 0,
        chunk: 0,
    };
    any_length(
        attn,
        |a, size| a.size = size,
        // SAFETY: above.
        |a, _| run(|g| unsafe { (OPS.attention)(g, 1, 2, 3, a) }),
    );
    let route = abi::Route {
        size: 0,
        top_k: 1,
        sigmoid: 0,
        normalise: 0,
        scale: 1.0,
        unused: 7,
        bias: 0,
        groups: 0,
        top_groups: 0,
        group_best: 0,
    };
    any_length(
        route,
        |r, size| r.size = size,
        // SAFETY: above.
        |r, _| run(|g| unsafe { (OPS.moe)(g, 1, 2, r, expert, null_mut()) }),
    );
}

/// The error of an op's options names the op, and the ops after it are not run.
#[test]
fn an_op_of_a_newer_plugin_is_named() {
    let attn = abi::Attn {
        size: 16,
        window: 0,
        scale: 0.0,
        softcap: 0.0,
        sinks: 0,
        chunk: 0,
    };
    let error = run(|g| {
        // SAFETY: as above.
        let x = unsafe { (OPS.attention)(g, 1, 2, 3, &raw const attn) };
        assert_eq!(x, 0);
        // SAFETY: as above.
        unsafe { (OPS.concat)(g, null(), 0) }
    });
    let says = "`attention`: its Attn is 16 bytes long, plugin interface 1 asks for 24; it was built with SDK 9.8.7, this program has SDK ";
    let error = error.unwrap_err();
    assert!(error.starts_with(says), "{error}");
}
