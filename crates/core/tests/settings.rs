//! Per-iteration settings, refused rules, and the measures of an iteration.

use randori_core::{BadRule, PairLogps, PerIteration, Rules, Signals};

#[test]
fn the_last_value_of_a_schedule_goes_on() {
    let rules = Rules::paper();
    let lr: Vec<f64> = (0..6).map(|t| rules.iteration(t).learning_rate).collect();
    assert_eq!(lr, [5e-7, 5e-7, 1e-7, 1e-7, 1e-7, 1e-7]);
    let beta: Vec<f64> = (0..6).map(|t| rules.iteration(t).beta).collect();
    assert_eq!(beta, [0.1, 0.1, 0.1, 5.0, 5.0, 5.0]);
    assert_eq!(PerIteration::constant(3).at(99), Some(3));
}

#[test]
fn rules_that_make_no_sense_are_refused_by_name() {
    let check = |change: &dyn Fn(&mut Rules), expect: &str| {
        let mut rules = Rules::paper();
        change(&mut rules);
        assert_eq!(
            rules.check().map_err(|bad: BadRule| bad.to_string()),
            Err(expect.to_owned())
        );
    };
    assert_eq!(Rules::paper().check(), Ok(()));
    check(
        &|r| r.iterations = 0,
        "game.iterations must be 1 or more: got 0",
    );
    check(&|r| r.window = 0, "game.window must be 1 or more: got 0");
    check(
        &|r| r.learning_rate = 0.0.into(),
        "train.lr must be a number above 0: got 0",
    );
    check(
        &|r| r.learning_rate = PerIteration(vec![1e-4, f64::NAN]),
        "train.lr must be a number above 0: got NaN for iteration 1",
    );
    check(
        &|r| r.beta = (-0.1).into(),
        "loss.beta must be a number above 0: got -0.1",
    );
    check(
        &|r| r.beta = PerIteration(vec![]),
        "loss.beta needs at least one value: got []",
    );
    check(
        &|r| r.epochs = PerIteration(vec![1, 2, 0]),
        "train.epochs must be 1 or more: got 0 for iteration 2",
    );
    check(
        &|r| r.stop.noise = -1.0,
        "game.stop.noise must be 0 or more: got -1",
    );
    check(
        &|r| r.stop.margin = f64::NAN,
        "game.stop.margin must be a number: got NaN",
    );
    assert_eq!(
        "first".parse::<randori_core::OpponentRule>().unwrap_err(),
        "there is no opponent `first`; there is: previous"
    );
}

#[test]
fn signals_follow_from_log_probs() {
    let pair = |policy_real, policy_generated, real_tokens, generated_tokens| PairLogps {
        policy_real,
        policy_generated,
        opponent_real: -10.0,
        opponent_generated: -4.0,
        real_tokens,
        generated_tokens,
    };
    // Margins at beta 0.5: 0.5 (2 + 1) = 1.5, 0.5 (-1 - 2) = -1.5, 0, and 0.5 (4 - 0) = 2.
    let pairs = [
        pair(-8.0, -5.0, 4, 6),
        pair(-11.0, -2.0, 4, 6),
        pair(-10.0, -4.0, 8, 2),
        pair(-6.0, -4.0, 4, 6),
    ];
    let signals = Signals::of(&pairs, 0.5);
    assert_eq!(signals.pairs, 4);
    assert_eq!(signals.margin, 0.5);
    assert_eq!((signals.accuracy, signals.ties), (0.5, 0.25)); // strict: the tie is not a win
    assert_eq!(signals.logps_real, -8.75);
    assert_eq!(signals.logps_generated, -3.75);
    assert_eq!(signals.nll_real, 35.0 / 20.0); // per token, not per response
    assert_eq!(signals.inverted, 1.0);
    assert_eq!(signals.length_gap(), 0.0);
    assert_eq!(Signals::of(&[], 0.5).pairs, 0);

    let mut full = Signals {
        exact_match: Some(0.25),
        ..signals
    };
    full.extra.insert("exact_match_interval".into(), 0.02);
    assert_eq!(Signals::from_entries(full.entries()), full);
}
