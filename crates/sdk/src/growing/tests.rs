//! Every growing struct as older and newer sides have it: read by itself, and, of those that a host
//! fills, by a plugin's functions.
#![cfg(target_pointer_width = "64")]

use std::{
    ffi::c_void,
    ptr::{null, null_mut},
};

use super::*;
use crate::{
    Dual, Logits, Options, Pair, PairLoss, Sampler, Step, VERSION, abi::Str, loss, sampler,
};

/// A struct, and what may lie behind it.
#[repr(C)]
struct Room<T> {
    given: T,
    behind: [u8; 16],
}

/// Reads `given` as structs of every length; `holds` says whether a copy has the fields of the
/// first version.
fn any_length<T: Growing>(name: &'static str, given: T, holds: fn(&T) -> bool) {
    assert_eq!(T::NAME, name);
    let (first, known) = (T::FIRST, size_of::<T>());
    let at = |size: usize, behind: [u8; 16]| {
        let room = Room { given, behind };
        // SAFETY: the room is at least as long as any size below.
        unsafe { read_sized((&raw const room).cast::<T>(), size) }
    };
    for size in [0, 8, first - 8, first - 1] {
        let short = Misfit::Short { name, size, first };
        assert_eq!(at(size, [0; 16]).err(), Some(short));
    }
    // what lies behind its size is not its own
    for (size, behind) in [(first, 9), (known, 9), (known + 8, 0), (known + 16, 0)] {
        let copy = at(size, [behind; 16]);
        assert!(copy.is_ok_and(|copy| holds(&copy)), "{name} of {size}");
    }
    for i in 0..16 {
        let mut behind = [0; 16];
        behind[i] = 1;
        let (size, offset) = (known + 16, known + i);
        let unknown = Misfit::Unknown {
            name,
            size,
            known,
            offset,
        };
        assert_eq!(at(size, behind).err(), Some(unknown));
        assert!(at(offset, behind).is_ok_and(|copy| holds(&copy)));
    }
}

#[test]
fn options_of_ops() {
    let rope = abi::Rope {
        size: 0,
        interleaved: 1,
        mscale: 2.0,
        inv_freq: null(),
        n: 3,
        long_after: 0,
        long_inv_freq: null(),
        growth: 0.0,
        growth_every: 0,
    };
    any_length("Rope", rope, |r| {
        (r.interleaved, r.mscale, r.n) == (1, 2.0, 3)
    });
    let attn = abi::Attn {
        size: 0,
        window: 5,
        scale: 0.5,
        softcap: 30.0,
        sinks: 3,
        chunk: 64,
    };
    any_length("Attn", attn, |a| {
        (a.window, a.scale, a.softcap) == (5, 0.5, 30.0)
    });
    let route = abi::Route {
        size: 0,
        top_k: 2,
        sigmoid: 1,
        normalise: 1,
        scale: 2.5,
        unused: 7,
        bias: 3,
        groups: 4,
        top_groups: 2,
        group_best: 1,
    };
    any_length("Route", route, |r| {
        (r.top_k, r.sigmoid, r.normalise, r.scale) == (2, 1, 1, 2.5)
    });
}

#[test]
fn what_a_host_fills() {
    any_length("Rows", rows(), |r| {
        (r.n, r.groups, r.progress) == (2, 1, 0.25) && r.logp == LOGP.as_ptr()
    });
    let grads = abi::Grads {
        size: 0,
        loss: null_mut(),
        d_logp: null_mut(),
        metric,
        ctx: null_mut(),
    };
    any_length("Grads", grads, |g| g.loss.is_null() && g.ctx.is_null());
    any_length("Step", step(), |s| (s.n, s.prompt) == (2, 1));
    let candidates = abi::Candidates {
        size: 0,
        n: 7,
        ids: null(),
        logits: null_mut(),
    };
    any_length("Candidates", candidates, |c| c.n == 7 && c.ids.is_null());
}

#[test]
fn tables_of_functions() {
    any_length("Loss", table(24), |l| {
        (l.size, l.needs_ref) == (24, 1) && l.eval.is_none()
    });
    let arch = abi::Arch {
        size: 11,
        layers: None,
        embed: None,
        block: None,
        head: None,
        dialect: None,
    };
    any_length("Arch", arch, |a| a.size == 11 && a.head.is_none());
    // SAFETY: a sampler's item has a sampler's table.
    let sampler = unsafe { *sampler::item::<Probe>().vtable.cast::<abi::Sampler>() };
    any_length("Sampler", sampler, |s| s.begin.is_some() && s.end.is_some());
}

#[test]
fn descriptors() {
    let opt = abi::Opt {
        name: Str::new("beta"),
        doc: Str::new(""),
        default_: abi::Value::float(0.5),
        min: 0.0,
        max: 2.0,
        choices: null(),
        n_choices: 4,
    };
    any_length("Opt", opt, |o| {
        (o.name.len, o.default_.float_, o.max, o.n_choices) == (4, 0.5, 2.0, 4)
    });
    let item = loss::item::<Probe>();
    any_length("Item", item, |i| {
        (i.kind, i.name.len) == (abi::LOSS, 5) && !i.vtable.is_null()
    });
    let plugin = abi::Plugin {
        size: 0,
        item_size: 80,
        opt_size: 104,
        name: Str::new("probe"),
        version: Str::new("1.2.3"),
        doc: Str::new(""),
        items: &raw const item,
        n_items: 1,
        sdk: Str::new("0.1"),
    };
    any_length("Plugin", plugin, |p| (p.item_size, p.n_items) == (80, 1));
    for (size, sdk) in [(88, 0), (104, 3)] {
        // SAFETY: the plugin is at least as long.
        let copy = unsafe { read_sized(&raw const plugin, size) };
        assert_eq!(copy.ok().unwrap().sdk.len, sdk);
    }
}

/// A loss's table that says it is `size` bytes long.
fn table(size: usize) -> abi::Loss {
    abi::Loss {
        size,
        needs_ref: 1,
        eval: None,
        coupled: 1,
        needs_reward: 7,
    }
}

#[test]
fn what_a_shorter_struct_lacks_is_0() {
    for (size, coupled, needs_reward) in [(24, 0, 0), (28, 1, 0), (32, 1, 7)] {
        let given = table(size);
        // SAFETY: the table is at least as long as it says.
        let loss = unsafe { read(&raw const given) }.ok().unwrap();
        let got = (loss.size, loss.needs_ref, loss.coupled, loss.needs_reward);
        assert_eq!(got, (size, 1, coupled, needs_reward));
    }
    let given = table(23);
    // SAFETY: as above.
    let why = unsafe { read(&raw const given) }.err().unwrap();
    let says = "its Loss is 23 bytes long, plugin interface 1 asks for 24";
    assert_eq!(why.to_string(), says);
}

/// Whose struct it is can be told also where it asks for something unknown.
#[test]
fn the_known_part_of_a_refused_struct_is_read() {
    let room = Room {
        given: table(48),
        behind: [1; 16],
    };
    let from = (&raw const room).cast::<abi::Loss>();
    // SAFETY: the room is 48 bytes long.
    let (refused, known) = unsafe { (read(from), known_part(from, 48)) };
    assert!(refused.is_err());
    assert_eq!(known.ok().unwrap().needs_reward, 7);
}

// ---- a plugin that is given structs of an older or a newer host

/// Loss and sampler of the tests.
struct Probe;

impl Options for Probe {
    const DOC: &'static str = "";
    const OPTIONS: &'static [abi::Opt] = &[];
    fn from_values(_: &[abi::Value]) -> Self {
        Probe
    }
}

impl PairLoss for Probe {
    const NAME: &'static str = "probe";
    fn loss(&self, pair: &Pair) -> Dual {
        pair.margin()
    }
}

impl Sampler for Probe {
    const NAME: &'static str = "probe";
    type State = u32;
    fn apply(&self, _: &mut u32, at: &Step, logits: &mut Logits) {
        logits[0] = at.uniform() as f32 + at.tokens.len() as f32;
    }
}

static GROUP: [u32; 2] = [0, 0];
static ROLE: [u32; 2] = [abi::REAL, abi::GENERATED];
static LOGP: [f64; 2] = [-1.0, -2.0];
static REF_LOGP: [f64; 2] = [-1.5, -1.0];
static TOKENS: [u32; 2] = [4, 5];

fn rows() -> abi::Rows {
    abi::Rows {
        size: 0,
        n: 2,
        groups: 1,
        group: GROUP.as_ptr(),
        role: ROLE.as_ptr(),
        logp: LOGP.as_ptr(),
        ref_logp: REF_LOGP.as_ptr(),
        len: TOKENS.as_ptr(),
        reward: null(),
        progress: 0.25,
    }
}

fn step() -> abi::Step {
    abi::Step {
        size: 0,
        tokens: TOKENS.as_ptr(),
        n: 2,
        prompt: 1,
        uniform,
        ctx: null_mut(),
    }
}

unsafe extern "C" fn metric(_: *mut c_void, _: Str, _: f64) {}

unsafe extern "C" fn uniform(_: *mut c_void) -> f64 {
    0.5
}

unsafe extern "C" fn put(ctx: *mut c_void, message: Str, _: Str, _: u32) {
    // SAFETY: `ctx` is the text of `heard`; the message lives until we return.
    unsafe { *ctx.cast::<String>() = message.read().into_owned() }
}

/// The error that a call reports to its sink; `Ok` if it answers 1.
fn heard(call: impl FnOnce(abi::Sink) -> u32) -> Result<(), String> {
    let mut said = String::new();
    let ctx = (&raw mut said).cast();
    match call(abi::Sink { ctx, put }) {
        1 => Ok(()),
        _ => Err(said),
    }
}

/// The probe's loss and slopes of rows and outputs that say they have these sizes.
fn eval(sizes: [usize; 2], behind: [u8; 16]) -> Result<[f64; 3], String> {
    let (mut value, mut slopes) = ([f64::NAN; 1], [f64::NAN; 2]);
    let mut given = rows();
    given.size = sizes[0];
    let rows = Room { given, behind };
    let given = abi::Grads {
        size: sizes[1],
        loss: value.as_mut_ptr(),
        d_logp: slopes.as_mut_ptr(),
        metric,
        ctx: null_mut(),
    };
    let grads = Room { given, behind };
    let (rows, grads) = ((&raw const rows).cast(), (&raw const grads).cast());
    let probe = Probe;
    let this = (&raw const probe).cast();
    // SAFETY: a loss's item has a loss's table.
    let table = unsafe { *loss::item::<Probe>().vtable.cast::<abi::Loss>() };
    let eval = table.eval.unwrap();
    // SAFETY: all live during the call, and the rooms are as long as they say.
    heard(|sink| unsafe { eval(this, rows, grads, sink) })?;
    Ok([value[0], slopes[0], slopes[1]])
}

/// The first logit that the probe's sampler makes of structs that say they have these sizes.
fn apply(sizes: [usize; 2], behind: [u8; 16]) -> Result<f32, String> {
    let (mut logits, mut state) = ([1.0f32, 2.0], 0u32);
    let mut given = step();
    given.size = sizes[0];
    let step = Room { given, behind };
    let given = abi::Candidates {
        size: sizes[1],
        n: 2,
        ids: null(),
        logits: logits.as_mut_ptr(),
    };
    let row = Room { given, behind };
    let (step, row) = ((&raw const step).cast(), (&raw const row).cast());
    let probe = Probe;
    let (this, state) = ((&raw const probe).cast(), (&raw mut state).cast());
    // SAFETY: a sampler's item has a sampler's table.
    let table = unsafe { *sampler::item::<Probe>().vtable.cast::<abi::Sampler>() };
    let apply = table.apply.unwrap();
    // SAFETY: as in `eval`.
    heard(|sink| unsafe { apply(this, state, step, row, sink) })?;
    Ok(logits[0])
}

/// What a plugin says of a host whose struct is refused.
fn refusal(misfit: &str) -> String {
    format!("this host is of another version: {misfit}; the plugin was built with SDK {VERSION}")
}

#[test]
fn a_loss_reads_rows_of_every_host() {
    let good = Ok([1.5, 1.0, -1.0]);
    assert_eq!(eval([80, 40], [9; 16]), good);
    assert_eq!(eval([88, 56], [0; 16]), good);
    for (sizes, says) in [
        (
            [72, 40],
            "its Rows is 72 bytes long, plugin interface 1 asks for 80",
        ),
        (
            [80, 32],
            "its Grads is 32 bytes long, plugin interface 1 asks for 40",
        ),
        (
            [96, 40],
            "its Rows is 96 bytes long, of which 80 are known here, and asks for something at offset 80",
        ),
        (
            [80, 48],
            "its Grads is 48 bytes long, of which 40 are known here, and asks for something at offset 40",
        ),
    ] {
        assert_eq!(eval(sizes, [9; 16]), Err(refusal(says)));
    }
}

#[test]
fn a_sampler_reads_steps_of_every_host() {
    assert_eq!(apply([48, 32], [9; 16]), Ok(2.5));
    assert_eq!(apply([64, 40], [0; 16]), Ok(2.5));
    for (sizes, says) in [
        (
            [40, 32],
            "its Step is 40 bytes long, plugin interface 1 asks for 48",
        ),
        (
            [48, 24],
            "its Candidates is 24 bytes long, plugin interface 1 asks for 32",
        ),
        (
            [56, 32],
            "its Step is 56 bytes long, of which 48 are known here, and asks for something at offset 48",
        ),
        (
            [48, 48],
            "its Candidates is 48 bytes long, of which 32 are known here, and asks for something at offset 32",
        ),
    ] {
        assert_eq!(apply(sizes, [9; 16]), Err(refusal(says)));
    }
}
