//! A plugin that misbehaves on demand, for the host's tests. It is loaded only when named.
//!
//! The architecture goes by its configuration's key `misbehave`, losses and samplers by their
//! option `how`; "well" behaves. More exported constants stand for plugins of other versions: a
//! copy of this file under their crate's name is such a plugin.
#![allow(clippy::panic)] // panicking is its purpose

use randori_sdk::{
    Arch, Attn, Config, Dual, Error, Graph, Logits, Loss, Out, Pair, PairLoss, Result, Route, Rows,
    Sampler, Step, Tensor, abi, options, plugin,
};

/// An architecture of one block, width 4, vocabulary 8.
pub struct Misfit {
    how: String,
}

impl Arch for Misfit {
    const NAME: &'static str = "misfit";
    const DOC: &'static str = "An architecture that misbehaves on demand";

    fn new(c: &Config) -> Result<Self> {
        let how = c.str_or("misbehave", "well")?.to_owned();
        match how.as_str() {
            "panic in new" => panic!("new was asked to panic"),
            "error in new" => Err(Error::from("new was asked to fail")),
            _ => Ok(Misfit { how }),
        }
    }

    fn layers(&self) -> usize {
        match self.how.as_str() {
            "panic in layers" => panic!("layers was asked to panic"),
            "no layers" => 0,
            _ => 1,
        }
    }

    fn embed<'g>(&self, g: &Graph<'g>, ids: Tensor<'g>) -> Tensor<'g> {
        if self.how == "panic in embed" {
            panic!("embed was asked to panic");
        }
        g.embed("embed", ids, 8, 4)
    }

    fn block<'g>(&self, g: &Graph<'g>, layer: usize, x: Tensor<'g>) -> Tensor<'g> {
        match self.how.as_str() {
            "panic in block" => panic!("block {layer} was asked to panic"),
            "panic in expert" => g.moe(g.linear("router", x, 2), x, Route::top(1), |expert, _| {
                panic!("expert {expert} was asked to panic")
            }),
            "missing weight in expert" => {
                g.moe(g.linear("router", x, 2), x, Route::top(1), |_, rows| {
                    g.linear("missing", rows, 4)
                })
            }
            "missing weight" => g.linear("missing", x, 4) + x,
            "wrong shape" => g.linear("well", x, 5).silu() + x,
            "wrong heads" => g.attention(x, x, x, Attn::default()),
            "gives up" => g.fail("block gave up"),
            "concat" => g.concat(&[x, x]).narrow(0, 4),
            "carry" => g.carry("stream", x) + g.carried("stream"),
            "two failures" => {
                let first = g.linear("missing", x, 4);
                let second = g.linear("absent", x, 4);
                first + second
            }
            _ => g.linear("well", x, 4),
        }
    }

    fn head<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        if self.how == "panic in head" {
            panic!("head was asked to panic");
        }
        g.linear("head", x, 8)
    }
}

impl Drop for Misfit {
    fn drop(&mut self) {
        if self.how == "panic in drop" {
            panic!("drop was asked to panic");
        }
    }
}

options! {
    /// A loss over one pair that misbehaves on demand.
    pub struct BadPair {
        /// What it does wrong.
        how: String = "well", ["well", "panic", "nan", "infinite", "wrong slope", "nan slope", "kink"];
        /// A factor.
        scale: f64 = 1.0, 0.0..=10.0;
    }
}

impl PairLoss for BadPair {
    const NAME: &'static str = "bad_pair";

    fn loss(&self, p: &Pair) -> Dual {
        let loss = -(p.margin() * self.scale).log_sigmoid();
        match self.how.as_str() {
            "panic" => panic!("loss was asked to panic"),
            "nan" => loss * f64::NAN,
            "infinite" => loss / 0.0,
            // a stop-gradient where none belongs
            "wrong slope" => loss * p.margin().detach(),
            "nan slope" => Dual {
                slope: [f64::NAN, 0.0],
                ..loss
            },
            // nothing wrong with a kink
            "kink" => (1.0 - p.margin() * self.scale).relu(),
            _ => loss,
        }
    }
}

options! {
    /// A loss over groups that misbehaves on demand.
    pub struct BadGroups {
        /// What it does wrong.
        how: String = "well", ["well", "error", "unwritten", "order", "reads ref", "couples", "couples rightly"];
    }
}

impl Loss for BadGroups {
    const NAME: &'static str = "bad_groups";
    const NEEDS_REF: bool = false;

    fn eval(&self, rows: &Rows, out: &mut Out) -> Result<()> {
        match self.how.as_str() {
            "error" => return Err("eval was asked to fail".into()),
            "unwritten" => return Ok(()),
            _ => {}
        }
        out.loss.fill(0.0);
        for (row, &logp) in rows.logp.iter().enumerate() {
            let group = rows.group[row] as usize;
            // -logp(real) + logp(generated); "order" does not read the role for the value
            let sign = if rows.role[row] == 0 { -1.0 } else { 1.0 };
            let shown = match self.how.as_str() {
                "order" => [-1.0, 1.0][row % 2],
                _ => sign,
            };
            out.loss[group] += shown * logp;
            out.d_logp[row] = sign;
            if self.how == "reads ref" {
                out.loss[group] += rows.ref_logp[row];
            }
            if self.how == "couples" {
                // every loss depends on row 0, whose slope does not say so
                out.loss[group] += 0.1 * rows.logp[0];
            }
        }
        if self.how == "couples rightly" {
            // its slope does, but the loss does not declare it
            out.loss.iter_mut().for_each(|l| *l += 0.1 * rows.logp[0]);
            out.d_logp[0] += 0.1 * rows.groups as f64;
        }
        out.metric("rows", rows.logp.len() as f64);
        Ok(())
    }
}

options! {
    /// A sampler that misbehaves on demand.
    pub struct BadSampler {
        /// What it does wrong.
        how: String = "well", ["well", "panic", "panic in accept", "nan", "infinite", "removes all", "draws"];
    }
}

impl Sampler for BadSampler {
    const NAME: &'static str = "bad_sampler";
    /// How many tokens it has seen.
    type State = usize;

    fn apply(&self, state: &mut usize, at: &Step, logits: &mut Logits) {
        match self.how.as_str() {
            "panic" => panic!("apply was asked to panic"),
            "nan" => logits[1] = f32::NAN,
            "infinite" => logits[1] = f32::INFINITY,
            "removes all" => logits.fill(f32::NEG_INFINITY),
            "draws" => {
                logits[0] = at.uniform() as f32 + *state as f32 + at.generated().len() as f32
            }
            _ => {}
        }
    }

    fn accept(&self, state: &mut usize, _token: u32, _logp: f32) {
        if self.how == "panic in accept" {
            panic!("accept was asked to panic");
        }
        *state += 100;
    }
}

options! {
    /// A sampler whose state cannot be made.
    pub struct NoState {}
}

/// The state of a sampler that cannot be made.
pub struct Panics;

impl Default for Panics {
    fn default() -> Self {
        panic!("begin was asked to panic")
    }
}

impl Sampler for NoState {
    const NAME: &'static str = "no_state";
    type State = Panics;
    fn apply(&self, _state: &mut Panics, _at: &Step, _logits: &mut Logits) {}
}

plugin!(
    "Misbehaves on demand, for tests",
    arch Misfit,
    loss BadPair,
    loss BadGroups,
    sampler BadSampler,
    sampler NoState,
);

/// A plugin of interface 2, whose layout is unknown.
#[unsafe(no_mangle)]
pub static randori_plugin_v2_randori_plugin_future: usize = 0;

/// No descriptor of interface 1, whatever its name says.
#[unsafe(no_mangle)]
pub static randori_plugin_v1_randori_plugin_short: usize = 8;

/// An item as a later version of interface 1 might have it: longer, and of a new kind.
#[repr(C)]
pub struct NewerItem {
    item: abi::Item,
    more: [usize; 3],
}

/// A plugin of a later version of interface 1: a longer descriptor, longer items, an item of an
/// unknown kind.
#[repr(C)]
pub struct NewerPlugin {
    plugin: abi::Plugin,
    more: [usize; 5],
}

const NEWER_ITEMS: &[NewerItem] = &[
    NewerItem {
        item: abi::Item {
            kind: 99,
            ..randori_sdk::loss::item::<BadPair>()
        },
        more: [7; 3],
    },
    NewerItem {
        item: randori_sdk::loss::item::<BadPair>(),
        more: [0; 3],
    },
];

/// See [`NewerPlugin`].
#[unsafe(no_mangle)]
pub static randori_plugin_v1_randori_plugin_newer: NewerPlugin = NewerPlugin {
    plugin: abi::Plugin {
        size: size_of::<NewerPlugin>(),
        item_size: size_of::<NewerItem>(),
        opt_size: size_of::<abi::Opt>(),
        name: abi::Str::new("randori-plugin-newer"),
        version: abi::Str::new("9.0.0"),
        doc: abi::Str::new("From a later SDK"),
        items: NEWER_ITEMS.as_ptr().cast(),
        n_items: NEWER_ITEMS.len(),
        sdk: abi::Str::new("9.0.0"),
    },
    more: [0; 5],
};

/// A loss's table of another version, followed by other bytes.
#[repr(C)]
pub struct LossRoom<const N: usize> {
    table: abi::Loss,
    behind: [u8; N],
}

/// The table of a [`BadGroups`] that says it is `size` bytes long.
const fn loss_room<const N: usize>(size: usize, behind: [u8; N]) -> LossRoom<N> {
    let item = randori_sdk::loss::item::<BadGroups>();
    // SAFETY: the item's table is a loss's.
    let table = unsafe { *item.vtable.cast::<abi::Loss>() };
    LossRoom {
        table: abi::Loss {
            size,
            // no part of a table that ends before them
            coupled: u32::MAX,
            needs_reward: u32::MAX,
            ..table
        },
        behind,
    }
}

/// Tables of an SDK without `coupled` and `needs_reward`, and of one with an unknown field.
const OLDER_LOSS: &LossRoom<0> = &loss_room(core::mem::offset_of!(abi::Loss, coupled), []);
const NEWEST_LOSS: &LossRoom<8> = &loss_room(size_of::<abi::Loss>() + 8, [0, 0, 0, 0, 0, 1, 0, 0]);

const fn with_table(vtable: *const core::ffi::c_void) -> abi::Item {
    abi::Item {
        vtable,
        ..randori_sdk::loss::item::<BadGroups>()
    }
}

const OLDER_ITEMS: &[abi::Item] = &[with_table((OLDER_LOSS as *const LossRoom<0>).cast())];
const NEWEST_ITEMS: &[abi::Item] = &[with_table((NEWEST_LOSS as *const LossRoom<8>).cast())];

const fn of_version(
    name: &'static str,
    size: usize,
    items: &'static [abi::Item],
    sdk: &'static str,
) -> abi::Plugin {
    abi::Plugin {
        size,
        item_size: size_of::<abi::Item>(),
        opt_size: size_of::<abi::Opt>(),
        name: abi::Str::new(name),
        version: abi::Str::new("9.0.0"),
        doc: abi::Str::new("From another SDK"),
        items: items.as_ptr(),
        n_items: items.len(),
        sdk: abi::Str::new(sdk),
    }
}

/// A plugin of the first SDK: its descriptor ends before `sdk`, its loss's table before `coupled`.
#[unsafe(no_mangle)]
pub static randori_plugin_v1_randori_plugin_older: abi::Plugin = of_version(
    "randori-plugin-older",
    core::mem::offset_of!(abi::Plugin, sdk),
    OLDER_ITEMS,
    "not part of it",
);

/// A plugin whose loss sets an unknown field.
#[unsafe(no_mangle)]
pub static randori_plugin_v1_randori_plugin_newest: abi::Plugin = of_version(
    "randori-plugin-newest",
    size_of::<abi::Plugin>(),
    NEWEST_ITEMS,
    "9.9.9",
);
