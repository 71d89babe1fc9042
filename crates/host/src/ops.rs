//! The host's op table: each function calls the running call's backend, catches its panics and
//! records the first failure.
//!
//! After a failure every op returns 0 without calling the backend, so that the first message is
//! reported and the plugin's forward code runs to its end harmlessly.

use std::{
    cell::{Cell, RefCell},
    ffi::c_void,
};

use randori_sdk::{
    abi::{self, Graph, Str, Tensor},
    growing::{self, Growing},
    guard::guard,
    seam::{
        AttnSpec, Backend, Binary, GroupSpec, Growth, Id, LongRope, OpResult, RopeSpec, RouteSpec,
        Unary,
    },
};

use crate::{info::misfit_text, sink::with_place};

/// One call into an architecture: what a plugin's `Graph` points to.
pub(crate) struct Call {
    /// The current backend; an expert may run on another one.
    backend: Cell<*mut dyn Backend>,
    failed: Cell<bool>,
    failure: RefCell<Failure>,
    /// The last rotary spec, so that blocks that share one do not copy it each time.
    rope: RefCell<RopeSpec>,
    /// Version of the plugin's SDK, for messages.
    sdk: Str,
}

#[derive(Default)]
struct Failure {
    message: String,
    place: Option<(String, u32)>,
}

impl Call {
    /// Runs `code`, of a plugin built with `sdk`, with a graph on `backend`; returns its tensor, or
    /// the first failure.
    pub(crate) fn run(
        backend: &mut dyn Backend,
        sdk: Str,
        code: impl FnOnce(Graph) -> Tensor,
    ) -> OpResult {
        let backend: *mut (dyn Backend + '_) = backend;
        // SAFETY: only the lifetime is forgotten; the pointer is used during `code` and by nobody
        // else.
        let backend: *mut (dyn Backend + 'static) = unsafe { std::mem::transmute(backend) };
        let call = Call {
            backend: Cell::new(backend),
            failed: Cell::new(false),
            failure: RefCell::default(),
            rope: RefCell::default(),
            sdk,
        };
        let id = code((&raw const call).cast_mut().cast());
        if call.failed.get() {
            let Failure { message, place } = call.failure.into_inner();
            let (file, line) = place.unwrap_or_default();
            return Err(with_place(&message, &file, line));
        }
        if id == 0 {
            return Err("it answered no tensor and gave no reason".into());
        }
        Ok(id)
    }

    #[cold]
    fn fail(&self, message: impl FnOnce() -> String) -> Tensor {
        if !self.failed.replace(true) {
            self.failure.borrow_mut().message = message();
        }
        0
    }

    /// Copies an op's options, of this or another version of their struct; `None`, after a failure,
    /// if they ask for something unknown.
    ///
    /// # Safety
    /// As [`growing::read`].
    unsafe fn options<T: Growing>(&self, op: &str, options: *const T) -> Option<T> {
        // SAFETY: the caller's promise.
        let read = unsafe { growing::read(options) };
        let refuse = |misfit| {
            self.fail(|| format!("`{op}`: {}", misfit_text(misfit, self.sdk)));
        };
        read.map_err(refuse).ok()
    }

    /// Runs one op on `inputs`.
    fn op(
        &self,
        op: &str,
        weight: &str,
        inputs: &[Id],
        run: impl FnOnce(&mut dyn Backend) -> OpResult,
    ) -> Tensor {
        let what = || match weight {
            "" => format!("`{op}`"),
            name => format!("`{op}` of {name}"),
        };
        if self.failed.get() {
            return 0;
        }
        if inputs.contains(&0) {
            return self.fail(|| format!("{} was given tensor 0, which no op answered", what()));
        }
        // SAFETY: the backend lives during the call, and whoever lent it waits for us: `moe` lends
        // it on through `expert` and touches it again only afterwards.
        match guard(|| run(unsafe { &mut *self.backend.get() })) {
            Ok(Ok(id)) if id != 0 => id,
            Ok(Ok(_)) => self.fail(|| format!("{}: the host answered no tensor", what())),
            Ok(Err(rule)) => self.fail(|| format!("{}: {rule}", what())),
            Err(caught) => self.fail(|| {
                let message = with_place(&caught.message, &caught.file, caught.line);
                format!("{}: the host panicked: {message}", what())
            }),
        }
    }
}

/// The host's table.
pub(crate) static OPS: abi::Ops = abi::Ops {
    size: size_of::<abi::Ops>(),
    fail,
    embed,
    linear,
    rms_norm,
    layer_norm,
    rope,
    attention,
    moe,
    unary,
    binary,
    affine,
    unflatten,
    flatten,
    narrow,
    concat,
    conv,
    delta_rule,
    param,
    carry,
    carried,
};

/// The call behind a graph.
///
/// # Safety
/// `g` is the graph of a running call.
unsafe fn call<'a>(g: Graph) -> &'a Call {
    // SAFETY: `Call::run` made it of a `Call` that outlives the plugin's code.
    unsafe { &*g.cast::<Call>() }
}

unsafe extern "C" fn fail(g: Graph, message: Str, file: Str, line: u32) {
    // SAFETY: the plugin's texts live during the call; `g` is its graph.
    let (call, message, file) = unsafe { (call(g), message.read(), file.read()) };
    if !message.is_empty() {
        if call.failed.get() {
            return;
        }
        call.fail(|| message.into_owned());
    }
    let mut failure = call.failure.borrow_mut();
    if call.failed.get() && failure.place.is_none() {
        failure.place = Some((file.into_owned(), line));
    }
}

// SAFETY of the ops below: a plugin passes the graph of the running call, and names, specs and
// arrays that live during the op; that is what the ABI asks of it.

unsafe extern "C" fn embed(g: Graph, name: Str, ids: Tensor, vocab: usize, width: usize) -> Tensor {
    // SAFETY: above.
    let (call, name) = unsafe { (call(g), name.read()) };
    call.op("embed", &name, &[ids], |b| {
        b.embed(&name, ids, vocab, width)
    })
}

unsafe extern "C" fn linear(g: Graph, name: Str, x: Tensor, out: usize, bias: u32) -> Tensor {
    // SAFETY: above.
    let (call, name) = unsafe { (call(g), name.read()) };
    call.op("linear", &name, &[x], |b| {
        b.linear(&name, x, out, bias != 0)
    })
}

unsafe extern "C" fn rms_norm(g: Graph, name: Str, x: Tensor, eps: f64, plus: f32) -> Tensor {
    // SAFETY: above.
    let (call, name) = unsafe { (call(g), name.read()) };
    call.op("rms_norm", &name, &[x], |b| b.rms_norm(&name, x, eps, plus))
}

unsafe extern "C" fn layer_norm(g: Graph, name: Str, x: Tensor, eps: f64, bias: u32) -> Tensor {
    // SAFETY: above.
    let (call, name) = unsafe { (call(g), name.read()) };
    call.op("layer_norm", &name, &[x], |b| {
        b.layer_norm(&name, x, eps, bias != 0)
    })
}

unsafe extern "C" fn rope(g: Graph, x: Tensor, rope: *const abi::Rope) -> Tensor {
    // SAFETY: above.
    let (call, rope) = unsafe { (call(g), call(g).options("rope", rope)) };
    let Some(rope) = rope else {
        return 0;
    };
    let long = match rope.long_inv_freq.is_null() {
        true => 0,
        false => rope.n,
    };
    // SAFETY: above.
    let (inv_freq, long) = unsafe {
        (
            abi::reading::slice(rope.inv_freq, rope.n),
            abi::reading::slice(rope.long_inv_freq, long),
        )
    };
    let mut spec = call.rope.borrow_mut();
    spec.interleaved = rope.interleaved != 0;
    spec.mscale = rope.mscale;
    if spec.inv_freq != inv_freq {
        spec.inv_freq.clear();
        spec.inv_freq.extend_from_slice(inv_freq);
    }
    spec.long = (rope.long_after != 0).then(|| LongRope {
        after: rope.long_after,
        inv_freq: long.to_vec(),
    });
    spec.growth = (rope.growth != 0.0).then_some(Growth {
        beta: rope.growth,
        every: rope.growth_every,
    });
    call.op("rope", "", &[x], |b| b.rope(x, &spec))
}

unsafe extern "C" fn attention(
    g: Graph,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn: *const abi::Attn,
) -> Tensor {
    // SAFETY: above.
    let (call, attn) = unsafe { (call(g), call(g).options("attention", attn)) };
    let Some(attn) = attn else {
        return 0;
    };
    let spec = AttnSpec {
        window: Some(attn.window).filter(|&w| w > 0),
        scale: Some(attn.scale).filter(|&s| s != 0.0),
        softcap: Some(attn.softcap).filter(|&c| c != 0.0),
        sinks: Some(attn.sinks).filter(|&sinks| sinks != 0),
        chunk: Some(attn.chunk as usize).filter(|&n| n > 0),
    };
    call.op("attention", "", &[q, k, v], |b| b.attention(q, k, v, &spec))
}

unsafe extern "C" fn moe(
    g: Graph,
    router: Tensor,
    x: Tensor,
    route: *const abi::Route,
    expert: abi::Expert,
    user: *mut c_void,
) -> Tensor {
    // SAFETY: above.
    let (call, route) = unsafe { (call(g), call(g).options("moe", route)) };
    let Some(route) = route else {
        return 0;
    };
    let spec = RouteSpec {
        top_k: route.top_k,
        sigmoid: route.sigmoid != 0,
        normalise: route.normalise != 0,
        scale: route.scale,
        bias: Some(route.bias).filter(|&bias| bias != 0),
        groups: (route.groups != 0).then_some(GroupSpec {
            count: route.groups as usize,
            top: route.top_groups as usize,
            best: route.group_best as usize,
        }),
    };
    let mut run = |backend: &mut dyn Backend, index: usize, rows: Id| {
        let turn = Turn::of(call, backend);
        // SAFETY: the plugin's callback and its `user` are valid until `moe` returns.
        let id = unsafe { expert(user, g, index, rows) };
        drop(turn);
        id
    };
    call.op("moe", "", &[router, x], |b| {
        b.moe(router, x, &spec, &mut run)
    })
}

/// Makes an expert's backend the current one, and restores the previous one on drop, also after a
/// panic.
struct Turn<'a> {
    call: &'a Call,
    before: *mut dyn Backend,
}

impl<'a> Turn<'a> {
    fn of(call: &'a Call, backend: &mut dyn Backend) -> Self {
        let backend: *mut (dyn Backend + '_) = backend;
        // SAFETY: only the lifetime is forgotten; `drop` takes the pointer back before the borrow
        // ends.
        let backend: *mut (dyn Backend + 'static) = unsafe { std::mem::transmute(backend) };
        let before = call.backend.replace(backend);
        Turn { call, before }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.call.backend.set(self.before);
    }
}

unsafe extern "C" fn unary(g: Graph, op: u32, x: Tensor) -> Tensor {
    // SAFETY: above.
    let call = unsafe { call(g) };
    let Some(unary) = Unary::numbered(op) else {
        return call.fail(|| format!("this host is too old to have unary function {op}"));
    };
    call.op(unary.name(), "", &[x], |b| b.unary(unary, x))
}

unsafe extern "C" fn binary(g: Graph, op: u32, x: Tensor, y: Tensor) -> Tensor {
    // SAFETY: above.
    let call = unsafe { call(g) };
    let (name, binary) = match op {
        abi::ADD => ("add", Binary::Add),
        abi::SUB => ("sub", Binary::Sub),
        abi::MUL => ("mul", Binary::Mul),
        abi::DIV => ("div", Binary::Div),
        other => {
            return call.fail(|| format!("this host is too old to have binary function {other}"));
        }
    };
    call.op(name, "", &[x, y], |b| b.binary(binary, x, y))
}

unsafe extern "C" fn affine(g: Graph, x: Tensor, mul: f64, add: f64) -> Tensor {
    // SAFETY: above.
    let call = unsafe { call(g) };
    call.op("affine", "", &[x], |b| b.affine(x, mul, add))
}

unsafe extern "C" fn unflatten(g: Graph, x: Tensor, n: usize) -> Tensor {
    // SAFETY: above.
    let call = unsafe { call(g) };
    call.op("unflatten", "", &[x], |b| b.unflatten(x, n))
}

unsafe extern "C" fn flatten(g: Graph, x: Tensor) -> Tensor {
    // SAFETY: above.
    let call = unsafe { call(g) };
    call.op("flatten", "", &[x], |b| b.flatten(x))
}

unsafe extern "C" fn narrow(g: Graph, x: Tensor, start: usize, len: usize) -> Tensor {
    // SAFETY: above.
    let call = unsafe { call(g) };
    call.op("narrow", "", &[x], |b| b.narrow(x, start, len))
}

unsafe extern "C" fn concat(g: Graph, xs: *const Tensor, n: usize) -> Tensor {
    // SAFETY: above.
    let (call, xs) = unsafe { (call(g), abi::reading::slice(xs, n)) };
    call.op("concat", "", xs, |b| b.concat(xs))
}

unsafe extern "C" fn conv(g: Graph, name: Str, x: Tensor, taps: usize, bias: u32) -> Tensor {
    // SAFETY: above.
    let (call, name) = unsafe { (call(g), name.read()) };
    call.op("conv", &name, &[x], |b| b.conv(&name, x, taps, bias != 0))
}

unsafe extern "C" fn delta_rule(g: Graph, inputs: *const Tensor) -> Tensor {
    // SAFETY: above.
    let (call, inputs) = unsafe { (call(g), abi::reading::slice(inputs, 5)) };
    let &[q, k, v, strength, decay] = inputs else {
        return call.fail(|| "`delta_rule` takes five tensors".into());
    };
    call.op("delta_rule", "", inputs, |b| {
        b.delta_rule(q, k, v, strength, decay)
    })
}

unsafe extern "C" fn param(g: Graph, name: Str, shape: *const usize, n: usize) -> Tensor {
    // SAFETY: above.
    let (call, name, shape) = unsafe { (call(g), name.read(), abi::reading::slice(shape, n)) };
    call.op("param", &name, &[], |b| b.param(&name, shape))
}

unsafe extern "C" fn carry(g: Graph, name: Str, x: Tensor) -> Tensor {
    // SAFETY: above.
    let (call, name) = unsafe { (call(g), name.read()) };
    call.op("carry", &name, &[x], |b| b.carry(&name, x))
}

unsafe extern "C" fn carried(g: Graph, name: Str) -> Tensor {
    // SAFETY: above.
    let (call, name) = unsafe { (call(g), name.read()) };
    call.op("carried", &name, &[], |b| b.carried(&name))
}
