//! Losses: [`PairLoss`], a formula whose slopes come from [`Dual`] numbers, and [`Loss`], with
//! values and slopes by hand over whole groups.

use std::{ffi::c_void, marker::PhantomData, mem::size_of};

use crate::{
    Dual, Options, Result, abi,
    boundary::{free, given, report, say},
    guard::guard,
    options,
    seam::{GENERATED, REAL, Rows},
};

/// One of a pair's two responses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Response {
    /// Summed log-prob under the policy.
    pub logp: Dual,
    /// Summed log-prob under the opponent; a constant.
    pub ref_logp: f64,
    /// Number of response tokens.
    pub len: f64,
    /// External reward, in all pairs of a training or in none.
    pub reward: Option<f64>,
}

impl Response {
    /// ln p_policy(y|x) - ln p_opponent(y|x)
    pub fn ratio(&self) -> Dual {
        self.logp - self.ref_logp
    }

    /// Log-prob per token.
    pub fn mean_logp(&self) -> Dual {
        self.logp / self.len
    }
}

/// The human response and the opponent's to one prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// The human one.
    pub real: Response,
    /// The opponent's.
    pub generated: Response,
    /// Fraction of the training's steps that are done, 0..1.
    pub progress: f64,
}

impl Pair {
    /// [ln p(real) - ln p_opp(real)] - [ln p(gen) - ln p_opp(gen)]: SPIN's t in ℓ(λt).
    pub fn margin(&self) -> Dual {
        self.real.ratio() - self.generated.ratio()
    }

    /// A pair without external rewards, for tests: (logp, opponent's logp, tokens) of each
    /// response.
    pub fn new(real: (f64, f64, usize), generated: (f64, f64, usize)) -> Self {
        let response = |logp, ref_logp, len: usize| Response {
            logp,
            ref_logp,
            len: len as f64,
            reward: None,
        };
        Pair {
            real: response(Dual::real(real.0), real.1, real.2),
            generated: response(Dual::generated(generated.0), generated.1, generated.2),
            progress: 0.0,
        }
    }
}

/// A loss that is a formula over one pair. `NAME` and `loss` are required.
pub trait PairLoss: Options {
    /// Name in recipes.
    const NAME: &'static str;
    /// Whether it reads the opponent's log-probs. If not, the opponent does not score
    /// the pairs that are trained on.
    const NEEDS_REF: bool = true;
    /// Whether it needs the data's rewards; data without them is then refused, and `reward` is
    /// never `None`.
    const NEEDS_REWARD: bool = false;
    /// The pair's loss.
    fn loss(&self, pair: &Pair) -> Dual;
}

/// A [`Loss`]'s outputs.
pub struct Out<'a> {
    /// One value per group.
    pub loss: &'a mut [f64],
    /// One slope per row, of the summed loss to the row's `logp`.
    pub d_logp: &'a mut [f64],
    grads: abi::Grads,
}

impl Out<'_> {
    /// Reports a named value of the batch (a mean).
    pub fn metric(&mut self, name: &str, value: f64) {
        // SAFETY: the host's function takes its own `ctx` during the call.
        unsafe { (self.grads.metric)(self.grads.ctx, abi::Str::new(name), value) }
    }
}

/// A loss over whole groups of responses, slopes by hand. Every [`PairLoss`] is one. `NAME` and
/// `eval` are required.
pub trait Loss: Options {
    /// Name in recipes.
    const NAME: &'static str;
    /// Whether it reads the opponent's log-probs. If not, the opponent does not score
    /// the pairs that are trained on.
    const NEEDS_REF: bool = true;
    /// Whether it needs the data's rewards; data without them is then refused, and `reward` is
    /// never `None`.
    const NEEDS_REWARD: bool = false;
    /// Whether a pair's loss depends on the other pairs: `eval` then gets all pairs of a step at
    /// once, which costs a step of several micro-batches one more forward pass. Otherwise it gets
    /// them in any number of batches.
    const COUPLED: bool = false;
    /// Writes one value per group and one slope per row.
    fn eval(&self, rows: &Rows, out: &mut Out) -> Result<()>;
}

impl<P: PairLoss> Loss for P {
    const NAME: &'static str = P::NAME;
    const NEEDS_REF: bool = P::NEEDS_REF;
    const NEEDS_REWARD: bool = P::NEEDS_REWARD;

    fn eval(&self, rows: &Rows, out: &mut Out) -> Result<()> {
        for (group, [real, generated]) in pairs(rows)?.into_iter().enumerate() {
            let response = |row: usize, logp: Dual| Response {
                logp,
                ref_logp: rows.ref_logp[row],
                len: f64::from(rows.len[row]),
                reward: rows.reward.map(|reward| reward[row]),
            };
            let loss = self.loss(&Pair {
                real: response(real, Dual::real(rows.logp[real])),
                generated: response(generated, Dual::generated(rows.logp[generated])),
                progress: rows.progress,
            });
            out.loss[group] = loss.value;
            [out.d_logp[real], out.d_logp[generated]] = loss.slope;
        }
        Ok(())
    }
}

/// Each group's rows, [real, generated]; an error unless there is one of each.
pub fn pairs(rows: &Rows) -> Result<Vec<[usize; 2]>> {
    const NONE: usize = usize::MAX;
    let mut pairs = vec![[NONE; 2]; rows.groups];
    for (row, (&group, &role)) in rows.group.iter().zip(rows.role).enumerate() {
        let slot = match role {
            REAL => 0,
            GENERATED => 1,
            other => return Err(format!("row {row} has the unknown role {other}").into()),
        };
        let Some(pair) = pairs.get_mut(group as usize) else {
            return Err(format!("row {row} is of group {group} of {}", rows.groups).into());
        };
        if pair[slot] != NONE {
            return Err(format!(
                "group {group} has more than one {} response; a pair has one",
                ["real", "generated"][slot]
            )
            .into());
        }
        pair[slot] = row;
    }
    match pairs.iter().position(|pair| pair.contains(&NONE)) {
        Some(group) => {
            Err(format!("group {group} lacks its real or its generated response").into())
        }
        None => Ok(pairs),
    }
}

/// Values (one a group) and slopes (one a row) of a loss, for tests; its named values are dropped.
pub fn evaluate<L: Loss>(loss: &L, rows: &Rows) -> Result<(Vec<f64>, Vec<f64>)> {
    unsafe extern "C" fn nowhere(_: *mut c_void, _: abi::Str, _: f64) {}
    let (mut values, mut slopes) = (vec![f64::NAN; rows.groups], vec![f64::NAN; rows.logp.len()]);
    let grads = abi::Grads {
        size: size_of::<abi::Grads>(),
        loss: values.as_mut_ptr(),
        d_logp: slopes.as_mut_ptr(),
        metric: nowhere,
        ctx: std::ptr::null_mut(),
    };
    let mut out = Out {
        loss: &mut values,
        d_logp: &mut slopes,
        grads,
    };
    loss.eval(rows, &mut out)?;
    Ok((values, slopes))
}

/// The descriptor of a loss.
pub const fn item<L: Loss>() -> abi::Item {
    abi::Item {
        kind: abi::LOSS,
        name: abi::Str::new(<L as Loss>::NAME),
        doc: abi::Str::new(L::DOC),
        opts: L::OPTIONS.as_ptr(),
        n_opts: L::OPTIONS.len(),
        create: Some(options::create::<L>),
        destroy: Some(free::<L>),
        vtable: (Table::<L>::TABLE as *const abi::Loss).cast(),
    }
}

struct Table<L>(PhantomData<L>);

impl<L: Loss> Table<L> {
    const TABLE: &'static abi::Loss = &abi::Loss {
        size: size_of::<abi::Loss>(),
        needs_ref: <L as Loss>::NEEDS_REF as u32,
        eval: Some(eval::<L>),
        coupled: <L as Loss>::COUPLED as u32,
        needs_reward: <L as Loss>::NEEDS_REWARD as u32,
    };
}

unsafe extern "C" fn eval<L: Loss>(
    this: *const c_void,
    rows: *const abi::Rows,
    grads: *const abi::Grads,
    sink: abi::Sink,
) -> u32 {
    // SAFETY: both are the host's, filled, during the call, and begin with their sizes.
    let Some((r, g)) = (unsafe { given(rows, grads, sink) }) else {
        return 0;
    };
    // SAFETY: `this` is what `create` made; the arrays have the lengths that `abi` says, and
    // nothing else writes to the output arrays.
    let (loss, rows, mut out) = unsafe {
        let rows = Rows {
            groups: r.groups,
            group: abi::reading::slice(r.group, r.n),
            role: abi::reading::slice(r.role, r.n),
            logp: abi::reading::slice(r.logp, r.n),
            ref_logp: abi::reading::slice(r.ref_logp, r.n),
            len: abi::reading::slice(r.len, r.n),
            reward: (!r.reward.is_null()).then(|| abi::reading::slice(r.reward, r.n)),
            progress: r.progress,
        };
        let out = Out {
            loss: abi::reading::slice_mut(g.loss, r.groups),
            d_logp: abi::reading::slice_mut(g.d_logp, r.n),
            grads: g,
        };
        (&*this.cast::<L>(), rows, out)
    };
    match guard(|| loss.eval(&rows, &mut out)) {
        Ok(Ok(())) => 1,
        Ok(Err(error)) => {
            say(sink, &error.0);
            0
        }
        Err(caught) => {
            report(sink, &caught);
            0
        }
    }
}
