//! Properties of every loss, or of a family of them.

use crate::check::{At, eval, grid};
use crate::{
    aot::Aot, correlation::Correlation, dpop::Dpop, exponential::Exponential, hinge::Hinge,
    ipo::Ipo, odpo::Odpo, sigmoid_norm::SigmoidNorm, simpo::Simpo, space::Space, spin::Spin,
    sppo_hard::SppoHard,
};
use randori_sdk::PairLoss;

/// Runs `$test` on every loss with its defaults.
macro_rules! every_loss {
    ($test:expr) => {{
        $test("spin", &|at| eval(&Spin::default(), at));
        $test("hinge", &|at| eval(&Hinge::default(), at));
        $test("exponential", &|at| eval(&Exponential::default(), at));
        $test("correlation", &|at| eval(&Correlation::default(), at));
        $test("ipo", &|at| eval(&Ipo::default(), at));
        $test("sppo_hard", &|at| eval(&SppoHard::default(), at));
        $test("simpo", &|at| eval(&Simpo::default(), at));
        $test("sigmoid_norm", &|at| eval(&SigmoidNorm::default(), at));
        $test("dpop", &|at| eval(&Dpop::default(), at));
        $test("space", &|at| eval(&Space::default(), at));
    }};
}

type Eval<'a> = &'a dyn Fn(&At) -> (f64, [f64; 2]);

/// y = y' at step 0: the two slopes cancel exactly.
#[test]
fn equal_answers_pull_nowhere() {
    every_loss!(|name: &str, eval: Eval| {
        for pair in grid() {
            let start = At {
                y: pair.y_ref,
                g: pair.y_ref,
                g_ref: pair.y_ref,
                g_len: pair.y_len,
                ..pair
            };
            let (_, [y, g]) = eval(&start);
            assert!(
                y != 0.0 && (y + g).abs() <= 1e-15 * y.abs(),
                "{name}: slopes {y} and {g} at {start:?}"
            );
        }
    });
}

/// For losses of the margin alone they cancel for every policy.
#[test]
fn equal_answers_pull_nowhere_ever_if_only_the_margin_counts() {
    let margin_only = [
        "spin",
        "hinge",
        "exponential",
        "correlation",
        "ipo",
        "simpo",
        "sigmoid_norm",
    ];
    every_loss!(|name: &str, eval: Eval| {
        for pair in grid().into_iter().filter(|_| margin_only.contains(&name)) {
            let equal = At {
                g: pair.y,
                g_ref: pair.y_ref,
                g_len: pair.y_len,
                ..pair
            };
            let (_, [y, g]) = eval(&equal);
            assert!(
                (y + g).abs() <= 1e-15 * y.abs(),
                "{name}: slopes {y} and {g} at {equal:?}"
            );
        }
    });
}

#[test]
fn extreme_margins_stay_finite() {
    every_loss!(|name: &str, eval: Eval| {
        for (a, b) in [
            (1e4, -1e4),
            (-1e4, 1e4),
            (-1e4, -1e4),
            (1e4, 1e4),
            (0.0, 0.0),
        ] {
            let (value, slopes) = eval(&At::ratios(a, b));
            assert!(
                value.is_finite() && slopes.iter().all(|s| s.is_finite()),
                "{name} at a {a}, b {b}"
            );
        }
    });
}

/// A response of no tokens has log-prob 0: nothing is divided by zero.
#[test]
fn empty_responses_stay_finite() {
    every_loss!(|name: &str, eval: Eval| {
        let nothing = At {
            y: 0.0,
            y_ref: 0.0,
            y_len: 0,
            g: 0.0,
            g_ref: 0.0,
            g_len: 0,
        };
        let (value, slopes) = eval(&nothing);
        assert!(
            value.is_finite() && slopes.iter().all(|s| s.is_finite()),
            "{name}"
        );
    });
    let (value, _) = eval(
        &Spin {
            beta: 0.1,
            nll: 1.0,
        },
        &At {
            y: 0.0,
            y_ref: 0.0,
            y_len: 0,
            ..At::ratios(0.0, 0.0)
        },
    );
    assert!((value - 2f64.ln()).abs() < 1e-15);
}

/// At step 0 every loss raises y and lowers y'.
#[test]
fn all_prefer_the_human() {
    every_loss!(|name: &str, eval: Eval| {
        let (_, [y, g]) = eval(&At::ratios(0.0, 0.0));
        assert!(y < 0.0 && g > 0.0, "{name}: slopes {y} and {g}");
    });
}

/// Recipes name losses by these; a rename breaks them.
#[test]
fn names() {
    let names = [
        Spin::NAME,
        Hinge::NAME,
        Exponential::NAME,
        Correlation::NAME,
        Ipo::NAME,
        SppoHard::NAME,
        Simpo::NAME,
        SigmoidNorm::NAME,
        Dpop::NAME,
        Space::NAME,
        <Aot as randori_sdk::Loss>::NAME,
        Odpo::NAME,
    ];
    let expected =
        "spin hinge exponential correlation ipo sppo_hard simpo sigmoid_norm dpop space aot odpo";
    assert_eq!(names.join(" "), expected);
}
