//! [`SamplerFn`] of a loaded plugin. Every row that it reshapes is checked: no NaN, no +inf, at
//! least one token left.

use std::{ffi::c_void, sync::Arc};

use randori_sdk::{
    abi,
    guard::guard,
    seam::{SamplerFn, SamplerState, Step},
};

use crate::{object::Object, sink::Complaint};

/// [`SamplerFn`] over the C table.
pub(crate) struct Loaded {
    object: Arc<Object>,
}

impl Loaded {
    pub(crate) fn new(object: Object) -> Self {
        Loaded {
            object: Arc::new(object),
        }
    }
}

impl SamplerFn for Loaded {
    fn name(&self) -> &str {
        &self.object.name
    }

    /// An error is returned by the first `apply`.
    fn begin(&self) -> Box<dyn SamplerState> {
        let complaint = Complaint::default();
        let state = match table(&self.object).begin {
            // SAFETY: the object is alive, the sink lives during the call.
            Some(begin) => unsafe { begin(self.object.this, complaint.sink()) },
            None => std::ptr::null_mut(),
        };
        let failure = state.is_null().then(|| complaint.text());
        Box::new(State {
            object: self.object.clone(),
            state,
            failure,
        })
    }
}

fn table(object: &Object) -> &abi::Sampler {
    // SAFETY: `info` has checked the table's kind and made it as long as ours.
    unsafe { &*object.functions.vtable.cast::<abi::Sampler>() }
}

/// One sequence's state.
struct State {
    object: Arc<Object>,
    state: *mut c_void,
    /// Error of `begin` or `accept`, which cannot return it.
    failure: Option<String>,
}

// SAFETY: the ABI asks that a state may move between threads; `&mut` keeps it to one at a time.
unsafe impl Send for State {}

impl State {
    fn failed(&self, why: &str) -> String {
        format!("sampler {}: {why}", self.object.name)
    }
}

impl SamplerState for State {
    fn apply(&mut self, step: &mut Step, logits: &mut [f32]) -> Result<(), String> {
        if let Some(why) = &self.failure {
            return Err(self.failed(why));
        }
        let mut draw: &mut dyn FnMut() -> f64 = step.uniform;
        let at = abi::Step {
            size: size_of::<abi::Step>(),
            tokens: step.tokens.as_ptr(),
            n: step.tokens.len(),
            prompt: step.prompt,
            uniform,
            ctx: (&raw mut draw).cast(),
        };
        let row = abi::Candidates {
            size: size_of::<abi::Candidates>(),
            n: logits.len(),
            ids: std::ptr::null(),
            logits: logits.as_mut_ptr(),
        };
        let complaint = Complaint::default();
        let apply = table(&self.object).apply.ok_or("its function is missing")?;
        // SAFETY: object and state are alive, the state is ours alone; step, row and sink live
        // during the call.
        let done = unsafe {
            apply(
                self.object.this,
                self.state,
                &raw const at,
                &raw const row,
                complaint.sink(),
            )
        };
        if done == 0 {
            return Err(self.failed(&complaint.text()));
        }
        check(logits).map_err(|why| self.failed(&why))
    }

    fn accept(&mut self, token: u32, logp: f32) {
        let (Some(accept), None) = (table(&self.object).accept, &self.failure) else {
            return;
        };
        let complaint = Complaint::default();
        // SAFETY: as in `apply`.
        let done = unsafe { accept(self.object.this, self.state, token, logp, complaint.sink()) };
        if done == 0 {
            self.failure = Some(complaint.text());
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let (Some(end), false) = (table(&self.object).end, self.state.is_null()) {
            // SAFETY: `begin` made it, and nobody else frees it.
            unsafe { end(self.state) }
        }
    }
}

unsafe extern "C" fn uniform(ctx: *mut c_void) -> f64 {
    // SAFETY: `ctx` is the running `apply`'s.
    let draw = unsafe { &mut *ctx.cast::<&mut dyn FnMut() -> f64>() };
    // a panic must not cross; the host's generator has none
    guard(draw).unwrap_or(0.0)
}

fn check(logits: &[f32]) -> Result<(), String> {
    // one branch-free pass; the bad token is searched for only on an error
    let (mut any, mut bad) = (false, false);
    for &x in logits {
        any |= x.is_finite();
        bad |= x.is_nan() | (x == f32::INFINITY);
    }
    if bad {
        let culprit = logits
            .iter()
            .position(|x| x.is_nan() || *x == f32::INFINITY);
        let token = culprit.unwrap_or(0);
        return Err(format!(
            "it made the logit of token {token} {}",
            logits[token]
        ));
    }
    if !any {
        return Err(format!(
            "it removed all {} tokens; one at least must stay",
            logits.len()
        ));
    }
    Ok(())
}
