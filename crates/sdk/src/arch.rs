//! [`Arch`]: a model architecture, and how the C table calls it.

use std::{ffi::c_void, marker::PhantomData, mem::size_of, ptr::null};

use crate::{
    Config, Dialect, Graph, Result, Tensor, abi,
    boundary::{free, make, report},
    graph::Session,
    guard::guard,
};

/// A model architecture. All methods are required; tensors are (tokens, trailing axes…).
pub trait Arch: Sized + Send + Sync + 'static {
    /// The configuration's `model_type`.
    const NAME: &'static str;
    /// One sentence for `randori plugins`.
    const DOC: &'static str = "";
    /// What the family is called elsewhere; without it, its models are folders with names as here,
    /// and no GGUF files.
    const DIALECT: Dialect = Dialect::NONE;
    /// Makes the architecture from a configuration.
    fn new(config: &Config) -> Result<Self>;
    /// Number of blocks.
    fn layers(&self) -> usize;
    /// (tokens) ids -> (tokens, width).
    fn embed<'g>(&self, g: &Graph<'g>, ids: Tensor<'g>) -> Tensor<'g>;
    /// One block: (tokens, width) -> (tokens, width). Checkpointing, offload and the KV cache work
    /// block by block.
    fn block<'g>(&self, g: &Graph<'g>, layer: usize, x: Tensor<'g>) -> Tensor<'g>;
    /// Final norm and projection: (rows, width) -> (rows, vocab). The host calls it on chunks of
    /// rows.
    fn head<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g>;
}

/// The descriptor of an architecture.
pub const fn item<A: Arch>() -> abi::Item {
    abi::Item {
        kind: abi::ARCH,
        name: abi::Str::new(A::NAME),
        doc: abi::Str::new(A::DOC),
        opts: null(),
        n_opts: 0,
        create: Some(create::<A>),
        destroy: Some(free::<A>),
        vtable: (Table::<A>::TABLE as *const abi::Arch).cast(),
    }
}

struct Table<A>(PhantomData<A>);

impl<A: Arch> Table<A> {
    const TABLE: &'static abi::Arch = &abi::Arch {
        size: size_of::<abi::Arch>(),
        layers: Some(layers::<A>),
        embed: Some(embed::<A>),
        block: Some(block::<A>),
        head: Some(head::<A>),
        dialect: Some(dialect::<A>),
    };
}

unsafe extern "C" fn create<A: Arch>(
    _args: *const abi::Value,
    _n_args: usize,
    config: abi::Str,
    sink: abi::Sink,
) -> *mut c_void {
    // SAFETY: the host's text lives during the call.
    let config = unsafe { config.read() };
    make(sink, || A::new(&Config::parse(&config)?))
}

// SAFETY of the four functions below: `this` is what `create` made, an `A` that nobody frees during
// a call; `ops` and `g` belong to the host's call.

unsafe extern "C" fn layers<A: Arch>(this: *const c_void, sink: abi::Sink) -> usize {
    // SAFETY: above.
    let arch = unsafe { &*this.cast::<A>() };
    guard(|| arch.layers()).unwrap_or_else(|caught| {
        report(sink, &caught);
        0
    })
}

unsafe extern "C" fn embed<A: Arch>(
    this: *const c_void,
    ops: *const abi::Ops,
    g: abi::Graph,
    ids: abi::Tensor,
) -> abi::Tensor {
    // SAFETY: above.
    let (arch, session) = unsafe { (&*this.cast::<A>(), Session::new(ops, g)) };
    session.run(|| arch.embed(&session.root(), session.tensor(ids)))
}

unsafe extern "C" fn block<A: Arch>(
    this: *const c_void,
    ops: *const abi::Ops,
    g: abi::Graph,
    layer: usize,
    x: abi::Tensor,
) -> abi::Tensor {
    // SAFETY: above.
    let (arch, session) = unsafe { (&*this.cast::<A>(), Session::new(ops, g)) };
    session.run(|| arch.block(&session.root(), layer, session.tensor(x)))
}

unsafe extern "C" fn head<A: Arch>(
    this: *const c_void,
    ops: *const abi::Ops,
    g: abi::Graph,
    x: abi::Tensor,
) -> abi::Tensor {
    // SAFETY: above.
    let (arch, session) = unsafe { (&*this.cast::<A>(), Session::new(ops, g)) };
    session.run(|| arch.head(&session.root(), session.tensor(x)))
}

unsafe extern "C" fn dialect<A: Arch>(ctx: *mut c_void, put: abi::Put) {
    let json = A::DIALECT.json();
    // SAFETY: the host's function takes any text during the call that it came with.
    unsafe { put(ctx, abi::Str::new(&json)) }
}
