//! Samplers: state per sequence, draws from the host, results checked at every call.

use std::sync::Arc;

use crate::recorder::{misbehave, stock};
use randori_sdk::seam::{SamplerFn, SamplerState, Step, Value};

fn bad(how: &str) -> Arc<dyn SamplerFn> {
    let options = [("how".to_owned(), Value::Str(how.to_owned()))];
    misbehave().sampler("bad_sampler", &options).unwrap()
}

/// Applies to three logits; the host's draws are 0.25, 1.25, ….
fn apply(state: &mut dyn SamplerState) -> Result<[f32; 3], String> {
    let mut logits = [1.0, 2.0, 3.0];
    let mut next = -0.75;
    let mut uniform = || {
        next += 1.0;
        next
    };
    let mut step = Step {
        tokens: &[4, 5, 6, 7],
        prompt: 2,
        uniform: &mut uniform,
    };
    state.apply(&mut step, &mut logits)?;
    Ok(logits)
}

#[test]
fn bad_rows_are_refused_at_the_call() {
    for (how, says) in [
        (
            "nan",
            "sampler bad_sampler: it made the logit of token 1 NaN",
        ),
        (
            "infinite",
            "sampler bad_sampler: it made the logit of token 1 inf",
        ),
        (
            "removes all",
            "sampler bad_sampler: it removed all 3 tokens; one at least must stay",
        ),
    ] {
        assert_eq!(apply(&mut *bad(how).begin()).unwrap_err(), says);
    }
}

#[test]
fn panics_are_caught() {
    let error = apply(&mut *bad("panic").begin()).unwrap_err();
    assert!(
        error.starts_with("sampler bad_sampler: the plugin panicked: apply was asked"),
        "{error}"
    );
    let none = misbehave().sampler("no_state", &[]).unwrap();
    let error = apply(&mut *none.begin()).unwrap_err();
    assert!(
        error.contains("the plugin panicked: begin was asked to panic ("),
        "{error}"
    );
    // `accept` cannot report: the next call does
    let mut state = bad("panic in accept").begin();
    assert_eq!(apply(&mut *state), Ok([1.0, 2.0, 3.0]));
    state.accept(0, -1.0);
    let error = apply(&mut *state).unwrap_err();
    assert!(error.contains("accept was asked to panic"), "{error}");
}

#[test]
fn each_sequence_has_its_state_and_its_draws() {
    let sampler = bad("draws");
    let (mut a, mut b) = (sampler.begin(), sampler.begin());
    a.accept(0, -0.1);
    drop(sampler); // a state keeps its sampler alive
    assert_eq!(apply(&mut *a).unwrap()[0], 102.25);
    assert_eq!(apply(&mut *b).unwrap()[0], 2.25);
}

#[test]
fn a_state_moves_between_threads() {
    let mut state = bad("well").begin();
    let there = std::thread::spawn(move || apply(&mut *state));
    assert_eq!(there.join().unwrap(), Ok([1.0, 2.0, 3.0]));
}

#[test]
fn stock_samplers_chain() {
    let host = stock();
    let set = |name: &str, value| vec![(name.to_owned(), value)];
    let chain = [
        host.sampler("temperature", &set("t", Value::Float(0.5))),
        host.sampler("top_k", &set("k", Value::Int(2))),
    ];
    let mut logits = [1.0, 2.0, 3.0];
    for sampler in chain {
        let mut uniform = || 0.5;
        let mut step = Step {
            tokens: &[1],
            prompt: 1,
            uniform: &mut uniform,
        };
        sampler
            .unwrap()
            .begin()
            .apply(&mut step, &mut logits)
            .unwrap();
    }
    assert_eq!(logits, [f32::NEG_INFINITY, 4.0, 6.0]);
}
