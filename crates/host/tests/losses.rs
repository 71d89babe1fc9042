//! Losses: options, slopes checked on load, values.

use crate::recorder::{misbehave, stock};
use randori_host::Kind;
use randori_sdk::seam::{GENERATED, REAL, Rows, Value};

fn how(how: &str) -> Vec<(String, Value)> {
    vec![("how".to_owned(), Value::Str(how.to_owned()))]
}

fn refused(name: &str, how_: &str) -> String {
    let error = misbehave().loss(name, &how(how_)).err();
    error
        .unwrap_or_else(|| panic!("{name} {how_} was accepted"))
        .to_string()
}

#[test]
fn wrong_slopes_are_found_on_load() {
    for (name, how, says) in [
        (
            "bad_pair",
            "wrong slope",
            "loss bad_pair: its slope to a log-prob is ",
        ),
        ("bad_pair", "nan slope", "a slope of loss bad_pair is NaN; "),
        (
            "bad_pair",
            "nan",
            "loss bad_pair of a pair is NaN; real response of ",
        ),
        ("bad_pair", "infinite", "loss bad_pair of a pair is inf; "),
        (
            "bad_pair",
            "panic",
            "loss bad_pair: the plugin panicked: loss was asked to panic (",
        ),
        (
            "bad_groups",
            "error",
            "loss bad_groups: eval was asked to fail",
        ),
        (
            "bad_groups",
            "unwritten",
            "loss bad_groups of a pair is NaN; ",
        ),
        (
            "bad_groups",
            "order",
            "loss bad_groups: its slope to a log-prob is ",
        ),
        (
            "bad_groups",
            "couples",
            "loss bad_groups: its slope to a log-prob is ",
        ),
        (
            "bad_groups",
            "couples rightly",
            "loss bad_groups of a pair depends on the other pairs of its batch (",
        ),
        (
            "bad_groups",
            "reads ref",
            "loss bad_groups says that it does not read the opponent's log-probs, but does: without them ",
        ),
    ] {
        let error = refused(name, how);
        assert!(error.starts_with(says), "{name} {how}: {error}");
    }
}

#[test]
fn right_slopes_pass_also_with_a_kink() {
    let host = misbehave();
    for scale in [0.0, 0.001, 0.1, 10.0] {
        for how_ in ["well", "kink"] {
            let options = [how(how_), vec![("scale".into(), Value::Float(scale))]].concat();
            host.loss("bad_pair", &options).unwrap();
        }
    }
    host.loss("bad_groups", &[]).unwrap();
}

#[test]
fn options_are_checked() {
    let host = stock();
    let set = |name: &str, value| {
        host.loss("spin", &[(name.to_owned(), value)])
            .err()
            .unwrap()
            .to_string()
    };
    let error = set("betta", Value::Float(0.1));
    assert!(
        error.starts_with("spin has no option `betta`; it has: beta"),
        "{error}"
    );
    let error = set("beta", Value::Float(-1.0));
    assert!(
        error.starts_with("spin: option `beta` is -1, must be "),
        "{error}"
    );
    let error = host.loss("spinn", &[]).err().unwrap().to_string();
    assert!(
        error.starts_with("there is no loss `spinn`; did you mean `spin`? there are: "),
        "{error}"
    );
}

#[test]
fn every_stock_loss_passes_its_check() {
    let host = stock();
    let items = host.plugins().iter().flat_map(|plugin| &plugin.items);
    let losses: Vec<_> = items.filter(|item| item.kind == Kind::Loss).collect();
    assert!(losses.len() >= 8, "{losses:?}");
    for loss in losses {
        host.loss(&loss.name, &[]).unwrap();
        assert!(!loss.doc.is_empty(), "{} has no doc", loss.name);
    }
}

/// Given and default values, in the order of the declaration.
#[test]
fn a_loss_says_its_options() {
    let given = [("beta".to_owned(), Value::Int(2))];
    let said = stock().loss("spin", &given).unwrap().options();
    assert!(said.starts_with("beta=2.0, "), "{said}");
    assert!(said.contains("nll=0.0"), "{said}");
}

#[test]
fn spin_starts_at_ln_2() {
    let spin = stock().loss("spin", &[]).unwrap();
    assert!(spin.needs_ref());
    let rows = Rows {
        groups: 1,
        group: &[0, 0],
        role: &[GENERATED, REAL],
        logp: &[-20.0, -30.0],
        ref_logp: &[-20.0, -30.0],
        len: &[5, 6],
        reward: None,
        progress: 0.0,
    };
    let out = spin.eval(&rows).unwrap();
    assert!((out.loss[0] - std::f64::consts::LN_2).abs() < 1e-12);
    // d/dt -ln σ(βt) = -β σ(-βt) = -β/2 at t = 0
    let (real, generated) = (out.d_logp[1], out.d_logp[0]);
    assert!(real < 0.0 && (real + generated).abs() < 1e-15, "{out:?}");
}

#[test]
fn metrics_come_back_and_bad_batches_are_refused() {
    let loss = misbehave().loss("bad_groups", &[]).unwrap();
    let mut rows = Rows {
        groups: 1,
        group: &[0, 0],
        role: &[REAL, GENERATED],
        logp: &[-2.0, -3.0],
        ref_logp: &[0.0, 0.0],
        len: &[1, 1],
        reward: None,
        progress: 0.5,
    };
    let out = loss.eval(&rows).unwrap();
    assert_eq!((out.loss, out.d_logp), (vec![-1.0], vec![-1.0, 1.0]));
    assert_eq!(out.metrics, [("rows".to_owned(), 2.0)]);
    rows.group = &[0, 1];
    assert_eq!(
        loss.eval(&rows).unwrap_err(),
        "a batch of 1 groups has a row of group 1"
    );
    rows.group = &[0];
    assert!(
        loss.eval(&rows)
            .unwrap_err()
            .contains("arrays of [1, 2, 2, 2, 2] entries")
    );
    let spin = stock().loss("spin", &[]).unwrap();
    rows.group = &[0, 0];
    rows.role = &[REAL, REAL];
    let error = spin.eval(&rows).unwrap_err();
    assert_eq!(
        error,
        "loss spin: group 0 has more than one real response; a pair has one"
    );
}

#[test]
fn every_stock_loss_passes_its_check_at_the_bounds_of_its_options() {
    let host = stock();
    let items = host.plugins().iter().flat_map(|plugin| &plugin.items);
    for loss in items.filter(|item| item.kind == Kind::Loss) {
        for option in &loss.options {
            for bound in [option.min, option.max].into_iter().flatten() {
                let value = match option.default {
                    Value::Int(_) => Value::Int(bound as i64),
                    _ => Value::Float(bound),
                };
                host.loss(&loss.name, &[(option.name.clone(), value)])
                    .unwrap();
            }
        }
    }
}

/// Which stock losses have no gradient where both responses are the same: those of the margin
/// alone, unless an option adds a term of the real response (docs/reference/losses.md's table,
/// derived from the formulas).
#[test]
fn whether_equal_pairs_cancel_is_found_out() {
    let host = stock();
    let nll = |weight| vec![("nll".to_owned(), Value::Float(weight))];
    let of = |kind: &str| vec![("of".to_owned(), Value::Str(kind.to_owned()))];
    for (name, options, cancel) in [
        ("spin", vec![], true),
        ("spin", nll(0.0), true),
        ("spin", nll(0.001), false),
        ("hinge", vec![], true),
        ("hinge", nll(1.0), false),
        ("exponential", vec![], true),
        ("exponential", nll(1.0), false),
        ("correlation", vec![], true),
        ("correlation", nll(1.0), false),
        ("ipo", vec![], true),
        ("simpo", vec![], true),
        ("sigmoid_norm", vec![], true),
        ("odpo", vec![], true),
        ("aot", of("margins"), true),
        ("aot", of("responses"), false),
        ("sppo_hard", vec![], false),
        ("dpop", vec![], false),
        ("space", vec![], false),
    ] {
        let loss = host.loss(name, &options).unwrap();
        assert_eq!(loss.equal_pairs_cancel(), cancel, "{name} {options:?}");
    }
}

#[test]
fn what_a_loss_asks_for() {
    let host = stock();
    let asks = |name: &str| {
        let loss = host.loss(name, &[]).unwrap();
        (loss.needs_ref(), loss.needs_reward(), loss.coupled())
    };
    assert_eq!(asks("spin"), (true, false, false));
    assert_eq!(asks("simpo"), (false, false, false));
    assert_eq!(asks("odpo"), (true, true, false));
    assert_eq!(asks("aot"), (true, false, true));
}

#[test]
fn rewards_arrive_or_are_missed() {
    let odpo = stock().loss("odpo", &[]).unwrap();
    let mut rows = Rows {
        groups: 1,
        group: &[0, 0],
        role: &[GENERATED, REAL],
        logp: &[-2.0, -3.0],
        ref_logp: &[-2.0, -3.0],
        len: &[1, 1],
        reward: Some(&[0.25, 1.5]),
        progress: 0.5,
    };
    // ln(1 + exp(1.5 - 0.25))
    let loss = odpo.eval(&rows).unwrap().loss[0];
    assert!((loss - 1.25f64.exp().ln_1p()).abs() < 1e-12, "{loss}");
    rows.reward = None;
    assert_eq!(
        odpo.eval(&rows).unwrap_err(),
        "loss odpo needs rewards, and the pairs have none"
    );
}
