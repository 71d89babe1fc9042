//! A response's log-probs per token, and the supervised term of the SPIN family (option `nll`).
//!
//! A response of no tokens is divided by 1: its log-prob is 0, and stays 0 instead of 0/0.

use randori_sdk::{Dual, Response};

/// `log p(y|x) / |y|`
pub fn logp(r: &Response) -> Dual {
    r.logp / r.len.max(1.0)
}

/// `(log p(y|x) - log p_opponent(y|x)) / |y|`
pub fn ratio(r: &Response) -> Dual {
    r.ratio() / r.len.max(1.0)
}

/// `-log p(y|x) / |y|`, what supervised fine-tuning minimises. A loss of the margin alone may lower
/// log p(y) as long as log p(y') falls faster; this term, added to it, prevents that (TRL calls the
/// sum `sigmoid,sft`, LLaMA-Factory `pref_ftx`).
pub fn nll(r: &Response) -> Dual {
    -logp(r)
}
