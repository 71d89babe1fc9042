//! [`Sampler`]: reshapes one row of logits before the host draws from it. Samplers chain in the
//! recipe's order.

use std::{
    ffi::c_void,
    marker::PhantomData,
    mem::size_of,
    ops::{Deref, DerefMut},
};

use crate::{
    Options, abi,
    boundary::{free, given, make, report},
    guard::{Caught, guard},
    options,
};

/// One step of a sequence, as a sampler sees it.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    /// Token ids of the prompt and of everything generated so far.
    pub tokens: &'a [u32],
    /// Number of the prompt's tokens.
    pub prompt: usize,
    uniform: &'a dyn Fn() -> f64,
}

impl<'a> Step<'a> {
    /// A step for tests.
    pub fn new(tokens: &'a [u32], prompt: usize, uniform: &'a dyn Fn() -> f64) -> Self {
        Step {
            tokens,
            prompt,
            uniform,
        }
    }

    /// Token ids generated so far.
    pub fn generated(&self) -> &'a [u32] {
        self.tokens.get(self.prompt..).unwrap_or(&[])
    }

    /// The next uniform random number in [0, 1) of this sequence and position; it does not depend
    /// on the rest of the batch.
    pub fn uniform(&self) -> f64 {
        (self.uniform)()
    }
}

/// One row of logits, a slice of `f32` to be changed in place; `-inf` removes a token. At least one
/// must stay finite.
pub struct Logits<'a> {
    ids: Option<&'a [u32]>,
    values: &'a mut [f32],
}

impl<'a> Logits<'a> {
    /// The logits of tokens 0..n.
    pub fn new(values: &'a mut [f32]) -> Self {
        Logits { ids: None, values }
    }

    /// The token at index `i` of the slice.
    pub fn token(&self, i: usize) -> u32 {
        self.ids.map_or(i as u32, |ids| ids[i])
    }

    /// The index of `token` in the slice, if it is there.
    pub fn index(&self, token: u32) -> Option<usize> {
        match self.ids {
            None => Some(token as usize).filter(|&i| i < self.values.len()),
            Some(ids) => ids.iter().position(|&id| id == token),
        }
    }
}

impl Deref for Logits<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        self.values
    }
}

impl DerefMut for Logits<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.values
    }
}

/// Reshapes logits. `NAME`, `State` (often `()`) and `apply` are required.
pub trait Sampler: Options {
    /// Name in recipes.
    const NAME: &'static str;
    /// State of one sequence, a default for each new one.
    type State: Default + Send + 'static;
    /// Changes `logits` in place.
    fn apply(&self, state: &mut Self::State, at: &Step, logits: &mut Logits);
    /// Called with the token that the host drew, and its log-prob under the reshaped distribution.
    fn accept(&self, _state: &mut Self::State, _token: u32, _logp: f32) {}
}

/// The descriptor of a sampler.
pub const fn item<S: Sampler>() -> abi::Item {
    abi::Item {
        kind: abi::SAMPLER,
        name: abi::Str::new(S::NAME),
        doc: abi::Str::new(S::DOC),
        opts: S::OPTIONS.as_ptr(),
        n_opts: S::OPTIONS.len(),
        create: Some(options::create::<S>),
        destroy: Some(free::<S>),
        vtable: (Table::<S>::TABLE as *const abi::Sampler).cast(),
    }
}

struct Table<S>(PhantomData<S>);

impl<S: Sampler> Table<S> {
    const TABLE: &'static abi::Sampler = &abi::Sampler {
        size: size_of::<abi::Sampler>(),
        begin: Some(begin::<S>),
        apply: Some(apply::<S>),
        accept: Some(accept::<S>),
        end: Some(free::<S::State>),
    };
}

unsafe extern "C" fn begin<S: Sampler>(_this: *const c_void, sink: abi::Sink) -> *mut c_void {
    make(sink, || Ok(S::State::default()))
}

unsafe extern "C" fn apply<S: Sampler>(
    this: *const c_void,
    state: *mut c_void,
    step: *const abi::Step,
    candidates: *const abi::Candidates,
    sink: abi::Sink,
) -> u32 {
    // SAFETY: both are the host's, filled, during the call, and begin with their sizes.
    let Some((step, c)) = (unsafe { given(step, candidates, sink) }) else {
        return 0;
    };
    // SAFETY: `this` and `state` are what `create` and `begin` made, the state used by this thread
    // alone; the arrays have the lengths that `abi` says, and nothing else uses the logits.
    unsafe {
        let (sampler, state) = (&*this.cast::<S>(), &mut *state.cast::<S::State>());
        let uniform = || (step.uniform)(step.ctx);
        let at = Step::new(
            abi::reading::slice(step.tokens, step.n),
            step.prompt,
            &uniform,
        );
        let mut logits = Logits {
            ids: (!c.ids.is_null()).then(|| abi::reading::slice(c.ids, c.n)),
            values: abi::reading::slice_mut(c.logits, c.n),
        };
        done(sink, guard(|| sampler.apply(state, &at, &mut logits)))
    }
}

unsafe extern "C" fn accept<S: Sampler>(
    this: *const c_void,
    state: *mut c_void,
    token: u32,
    logp: f32,
    sink: abi::Sink,
) -> u32 {
    // SAFETY: as in `apply`.
    let (sampler, state) = unsafe { (&*this.cast::<S>(), &mut *state.cast::<S::State>()) };
    done(sink, guard(|| sampler.accept(state, token, logp)))
}

fn done(sink: abi::Sink, result: Result<(), Caught>) -> u32 {
    if let Err(caught) = &result {
        report(sink, caught);
    }
    u32::from(result.is_ok())
}
