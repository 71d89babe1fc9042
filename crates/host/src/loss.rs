//! [`LossFn`] of a loaded plugin.

use std::{cell::RefCell, ffi::c_void};

use randori_sdk::{
    abi,
    seam::{LossFn, LossOut, Rows},
};

use crate::{object::Object, sink::Complaint, slopes};

/// Calls the loss's C table.
pub(crate) struct Loaded {
    object: Object,
    /// The options that it was made with, as text.
    options: String,
    /// Measured by [`slopes::equal_pairs_cancel`].
    equal_pairs_cancel: bool,
}

impl Loaded {
    /// Wraps the loss after checking its values and slopes.
    pub(crate) fn new(object: Object, options: String) -> Result<Self, String> {
        let mut loss = Loaded {
            object,
            options,
            equal_pairs_cancel: false,
        };
        slopes::check(&loss)?;
        loss.equal_pairs_cancel = slopes::equal_pairs_cancel(&loss)?;
        Ok(loss)
    }

    fn table(&self) -> &abi::Loss {
        // SAFETY: `info` has checked the table's kind and made it as long as ours.
        unsafe { &*self.object.functions.vtable.cast::<abi::Loss>() }
    }
}

impl LossFn for Loaded {
    fn name(&self) -> &str {
        &self.object.name
    }

    fn options(&self) -> String {
        self.options.clone()
    }

    fn needs_ref(&self) -> bool {
        self.table().needs_ref != 0
    }

    fn needs_reward(&self) -> bool {
        self.table().needs_reward != 0
    }

    fn coupled(&self) -> bool {
        self.table().coupled != 0
    }

    fn equal_pairs_cancel(&self) -> bool {
        self.equal_pairs_cancel
    }

    /// Does not check that the numbers are finite: the trainer does, and names the pair.
    fn eval(&self, rows: &Rows) -> Result<LossOut, String> {
        let n = check(rows)?;
        if self.needs_reward() && rows.reward.is_none() {
            let name = &self.object.name;
            return Err(format!(
                "loss {name} needs rewards, and the pairs have none"
            ));
        }
        let input = abi::Rows {
            size: size_of::<abi::Rows>(),
            n,
            groups: rows.groups,
            group: rows.group.as_ptr(),
            role: rows.role.as_ptr(),
            logp: rows.logp.as_ptr(),
            ref_logp: rows.ref_logp.as_ptr(),
            len: rows.len.as_ptr(),
            reward: rows.reward.map_or(std::ptr::null(), <[f64]>::as_ptr),
            progress: rows.progress,
        };
        // values that the plugin does not write stay NaN and are refused
        let mut out = LossOut {
            loss: vec![f64::NAN; rows.groups],
            d_logp: vec![f64::NAN; n],
            metrics: Vec::new(),
        };
        let metrics = Metrics::default();
        let grads = abi::Grads {
            size: size_of::<abi::Grads>(),
            loss: out.loss.as_mut_ptr(),
            d_logp: out.d_logp.as_mut_ptr(),
            metric,
            ctx: (&raw const metrics).cast_mut().cast(),
        };
        let complaint = Complaint::default();
        let eval = self.table().eval.ok_or("its function is missing")?;
        // SAFETY: every array has the length that `abi` says and lives during the call, like the
        // sinks.
        let done = unsafe {
            eval(
                self.object.this,
                &raw const input,
                &raw const grads,
                complaint.sink(),
            )
        };
        if done == 0 {
            return Err(format!("loss {}: {}", self.object.name, complaint.text()));
        }
        out.metrics = metrics.0.into_inner();
        Ok(out)
    }
}

/// Checks that all arrays have one length and all groups exist; returns the number of rows.
fn check(rows: &Rows) -> Result<usize, String> {
    let n = rows.logp.len();
    let lengths = [
        rows.group.len(),
        rows.role.len(),
        rows.ref_logp.len(),
        rows.len.len(),
        rows.reward.map_or(n, <[f64]>::len),
    ];
    if lengths.iter().any(|&length| length != n) {
        return Err(format!(
            "a batch of {n} log-probs has arrays of {lengths:?} entries"
        ));
    }
    match rows
        .group
        .iter()
        .find(|&&group| group as usize >= rows.groups)
    {
        Some(group) => Err(format!(
            "a batch of {} groups has a row of group {group}",
            rows.groups
        )),
        None => Ok(n),
    }
}

#[derive(Default)]
struct Metrics(RefCell<Vec<(String, f64)>>);

unsafe extern "C" fn metric(ctx: *mut c_void, name: abi::Str, value: f64) {
    // SAFETY: `ctx` is the running `eval`'s; the name lives until we return.
    let (metrics, name) = unsafe { (&*ctx.cast::<Metrics>(), name.read()) };
    if let Ok(mut metrics) = metrics.0.try_borrow_mut() {
        metrics.push((name.into_owned(), value));
    }
}
