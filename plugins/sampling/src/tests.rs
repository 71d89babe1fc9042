//! Properties of chains, and of every sampler.

use crate::check::{GONE, apply, apply_at, kept, probabilities, rows};
use crate::{
    greedy::Greedy, min_p::MinP, repetition_penalty::RepetitionPenalty, temperature::Temperature,
    top_k::TopK, top_p::TopP,
};
use randori_sdk::Sampler;

/// A chain worked out by hand: penalty, temperature, top-k, top-p.
#[test]
fn a_chain() {
    let row = [4.0, 2.0, 1.0, 1.0, -3.0];
    let penalised = apply_at(
        &RepetitionPenalty {
            penalty: 2.0,
            skip_prompt: false,
        },
        &mut Default::default(),
        &[0],
        1,
        &row,
    );
    assert_eq!(penalised, [2.0, 2.0, 1.0, 1.0, -3.0]);
    let tempered = apply(&Temperature { t: 0.5 }, &penalised);
    assert_eq!(tempered, [4.0, 4.0, 2.0, 2.0, -6.0]);
    let three = apply(&TopK { k: 3 }, &tempered);
    assert_eq!(three, [4.0, 4.0, 2.0, GONE, GONE]);
    // e^4, e^4, e^2: 0.4683, 0.4683, 0.0634
    let expected = [0.468_310_5, 0.468_310_5, 0.063_378_9, 0.0, 0.0];
    for (got, expected) in probabilities(&three).iter().zip(expected) {
        assert!((got - expected).abs() < 1e-6, "{got}, expected {expected}");
    }
    assert_eq!(
        apply(&TopP { p: 0.9 }, &three),
        [4.0, 4.0, GONE, GONE, GONE]
    );
    assert_eq!(apply(&MinP { p: 0.13 }, &three), three); // e^-2 = 0.135
    assert_eq!(
        apply(&MinP { p: 0.14 }, &three),
        [4.0, 4.0, GONE, GONE, GONE]
    );
    assert_eq!(apply(&Greedy {}, &three), [4.0, GONE, GONE, GONE, GONE]);
}

fn never_empties<S: Sampler>(name: &str, sampler: S) {
    for row in rows() {
        let once = apply(&sampler, &row);
        assert!(
            !kept(&once).is_empty(),
            "{name} emptied a row of {}",
            row.len()
        );
        assert!(
            once.iter()
                .zip(&row)
                .all(|(new, old)| *new == GONE || *old != GONE),
            "{name} brought a token back"
        );
    }
}

#[test]
fn at_least_one_token_remains() {
    never_empties("greedy", Greedy {});
    for t in [0.01, 100.0] {
        never_empties("temperature", Temperature { t });
    }
    for k in [0, 1, 1_000_000] {
        never_empties("top_k", TopK { k });
    }
    for p in [0.0, 1e-300, 0.5, 1.0] {
        never_empties("top_p", TopP { p });
        never_empties("min_p", MinP { p });
    }
    for penalty in [0.01, 100.0] {
        never_empties(
            "repetition_penalty",
            RepetitionPenalty {
                penalty,
                skip_prompt: false,
            },
        );
    }
}

/// One state serves rows of any size in any order: nothing of the last call is left in it.
#[test]
fn state_carries_nothing_over() {
    let (mut k_state, mut p_state) = Default::default();
    for row in rows() {
        let (k, p) = (TopK { k: 5 }, TopP { p: 0.7 });
        assert_eq!(apply_at(&k, &mut k_state, &[], 0, &row), apply(&k, &row));
        assert_eq!(apply_at(&p, &mut p_state, &[], 0, &row), apply(&p, &row));
    }
}

/// Recipes name samplers by these; a rename breaks them.
#[test]
fn names() {
    let names = [
        Greedy::NAME,
        Temperature::NAME,
        TopK::NAME,
        TopP::NAME,
        MinP::NAME,
        RepetitionPenalty::NAME,
    ];
    assert_eq!(
        names.join(" "),
        "greedy temperature top_k top_p min_p repetition_penalty"
    );
}
