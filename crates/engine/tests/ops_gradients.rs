//! Every op's backward pass against finite differences, through a whole forward and backward pass.

use crate::ops::{Block, Probe, Random, base, check_gradients, plan, rope};
use randori_engine::Player;
use randori_sdk::seam::{
    AttnSpec, Backend, Binary, Growth, Id, OpResult, RopeSpec, RouteSpec, Unary,
};

const VOCAB: usize = 13;
const WIDTH: usize = 12;

/// x + f(x), two blocks deep, every weight trained.
fn check(eps: f64, f: impl Fn(&mut dyn Backend, &str, Id) -> OpResult + Send + Sync + 'static) {
    check_to(eps, 2e-3, f);
}

fn check_to(
    eps: f64,
    tolerance: f64,
    f: impl Fn(&mut dyn Backend, &str, Id) -> OpResult + Send + Sync + 'static,
) {
    let block: Block = Box::new(move |g, layer, x| {
        let p = format!("layer{layer}");
        let h = g.linear(&format!("{p}.in"), x, WIDTH, true)?;
        let y = f(g, &p, h)?;
        let y = g.linear(&format!("{p}.out"), y, WIDTH, false)?;
        g.binary(Binary::Add, x, y)
    });
    let probe = Probe {
        vocab: VOCAB,
        width: WIDTH,
        layers: 2,
        block,
    };
    let player = Player::full(base(probe, 3)).unwrap();
    let mut plan = plan(VOCAB, 9);
    let mut random = Random(4);
    let (prompt, response) = (random.tokens(20, VOCAB), random.tokens(20, VOCAB));
    plan.push(&prompt, &[&response]);
    check_gradients(&player, &plan, eps, tolerance);
}

#[test]
fn linear_and_residual() {
    check(2e-2, |_, _, x| Ok(x));
}

#[test]
fn every_unary() {
    for op in [
        Unary::Silu,
        Unary::Gelu,
        Unary::GeluTanh,
        Unary::Tanh,
        Unary::Sigmoid,
        Unary::Exp,
        Unary::Softmax,
        Unary::Softplus,
    ] {
        check(2e-2, move |g, _, x| {
            let y = g.affine(x, 0.5, 0.1)?;
            g.unary(op, y)
        });
    }
    check_to(1e-3, 1e-2, |g, _, x| g.unary(Unary::Relu, x)); // a kink: small steps
}

#[test]
fn soft_max_over_heads() {
    check(2e-2, |g, _, x| {
        let y = g.unflatten(x, 3)?;
        let y = g.unary(Unary::Softmax, y)?;
        g.flatten(y)
    });
}

#[test]
fn every_binary_with_every_broadcast() {
    for op in [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div] {
        for b_shape in ["same", "(1, 4)", "(3, 1)", "(4)", "(1)"] {
            check(1e-2, move |g, p, x| {
                let a = g.unflatten(x, 3)?; // (tokens, 3, 4)
                let mut b = match b_shape {
                    "same" => g.linear(&format!("{p}.b"), x, 12, true)?,
                    "(3, 1)" => g.linear(&format!("{p}.b"), x, 3, true)?,
                    "(1)" => g.linear(&format!("{p}.b"), x, 1, true)?,
                    _ => g.linear(&format!("{p}.b"), x, 4, true)?,
                };
                if op == Binary::Div {
                    b = g.unary(Unary::Sigmoid, b)?; // away from zero
                    b = g.affine(b, 1.0, 0.5)?;
                }
                let b = match b_shape {
                    "same" | "(3, 1)" => g.unflatten(b, 3)?,
                    "(1, 4)" => g.unflatten(b, 1)?,
                    _ => b,
                };
                let y = g.binary(op, a, b)?;
                g.flatten(y)
            });
        }
    }
}

#[test]
fn a_value_used_twice_gets_both_gradients() {
    check(1e-2, |g, _, x| {
        let y = g.binary(Binary::Mul, x, x)?;
        let z = g.binary(Binary::Add, y, y)?;
        g.binary(Binary::Sub, z, x)
    });
}

#[test]
fn norms() {
    check(1e-2, |g, p, x| {
        g.rms_norm(&format!("{p}.norm"), x, 1e-5, 0.0)
    });
    check(1e-2, |g, p, x| {
        g.rms_norm(&format!("{p}.norm"), x, 1e-5, 1.0)
    });
    check(1e-2, |g, p, x| {
        g.layer_norm(&format!("{p}.norm"), x, 1e-5, false)
    });
    check(1e-2, |g, p, x| {
        g.layer_norm(&format!("{p}.norm"), x, 1e-5, true)
    });
    check(1e-2, |g, p, x| {
        let h = g.unflatten(x, 3)?;
        let h = g.rms_norm(&format!("{p}.head_norm"), h, 1e-5, 0.0)?;
        g.flatten(h)
    });
    check(1e-2, |g, _, x| {
        let h = g.unflatten(x, 3)?;
        let h = g.rms_norm("", h, 1e-5, 0.0)?; // without a weight
        g.flatten(h)
    });
}

/// Parameters of every shape that broadcasts, and what is computed of parameters alone.
#[test]
fn parameters_in_every_binary() {
    for op in [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div] {
        for shape in [&[1][..], &[4], &[1, 4], &[3, 1], &[3, 4]] {
            check(1e-2, move |g, p, x| {
                let a = g.unflatten(x, 3)?; // (tokens, 3, 4)
                let b = g.param(&format!("{p}.a_log"), shape)?;
                let b = g.unary(Unary::Exp, b)?;
                let b = g.affine(b, 0.5, 0.3)?;
                let y = g.binary(op, a, b)?;
                g.flatten(y)
            });
        }
    }
    check(1e-2, |g, p, x| {
        let a = g.param(&format!("{p}.a"), &[5])?;
        let b = g.param(&format!("{p}.b"), &[2, 4])?;
        let b = g.flatten(b)?;
        let part = g.narrow(b, 1, 5)?;
        let b = g.binary(Binary::Mul, a, part)?;
        let b = g.concat(&[b, b, a])?; // 15
        let b = g.narrow(b, 3, 12)?;
        let b = g.unary(Unary::Silu, b)?;
        let y = g.binary(Binary::Mul, x, b)?;
        let again = g.param(&format!("{p}.a"), &[5])?; // the same once more
        let y = g.narrow(y, 0, 5)?;
        let y = g.binary(Binary::Add, y, again)?;
        g.linear(&format!("{p}.wide"), y, WIDTH, false)
    });
}

#[test]
fn rope_whole_partial_interleaved_scaled() {
    for (pairs, interleaved, mscale) in [
        (3, false, 1.0),
        (2, false, 1.3),
        (3, true, 1.0),
        (1, true, 0.7),
    ] {
        check(1e-2, move |g, _, x| {
            let spec = RopeSpec {
                interleaved,
                mscale,
                ..rope(pairs)
            };
            let h = g.unflatten(x, 2)?; // head_dim 6
            let h = g.rope(h, &spec)?;
            g.flatten(h)
        });
    }
    check(1e-2, |g, _, x| {
        let growth = Some(Growth {
            beta: 0.4,
            every: 2,
        });
        let h = g.unflatten(x, 2)?;
        let spec = RopeSpec { growth, ..rope(3) };
        let h = g.rope(h, &spec)?;
        g.flatten(h)
    });
}

/// Attention over heads of 3 features, whose values have `value_dim`.
fn attention(
    g: &mut dyn Backend,
    p: &str,
    x: Id,
    (kv_heads, value_dim): (usize, usize),
    spec: &AttnSpec,
) -> OpResult {
    let q = g.linear(&format!("{p}.q"), x, 12, false)?;
    let k = g.linear(&format!("{p}.k"), x, kv_heads * 3, true)?;
    let v = g.linear(&format!("{p}.v"), x, kv_heads * value_dim, false)?;
    let (q, k, v) = (
        g.unflatten(q, 4)?,
        g.unflatten(k, kv_heads)?,
        g.unflatten(v, kv_heads)?,
    );
    let q = g.rope(q, &rope(1))?;
    let k = g.rope(k, &rope(1))?;
    let o = g.attention(q, k, v, spec)?;
    g.flatten(o)
}

#[test]
fn attention_plain_grouped_windowed_capped_scaled() {
    let plain = AttnSpec::default();
    for (kv_heads, spec) in [
        (4, plain),
        (2, plain),
        (1, plain),
        (
            2,
            AttnSpec {
                window: Some(1),
                ..plain
            },
        ),
        (
            2,
            AttnSpec {
                window: Some(3),
                ..plain
            },
        ),
        (
            2,
            AttnSpec {
                softcap: Some(1.5),
                ..plain
            },
        ),
        (
            2,
            AttnSpec {
                scale: Some(0.9),
                window: Some(4),
                softcap: Some(2.0),
                ..plain
            },
        ),
    ] {
        check(3e-2, move |g, p, x| {
            attention(g, p, x, (kv_heads, 3), &spec)
        });
    }
}

#[test]
fn attention_with_sinks_chunks_and_values_of_another_width() {
    for (window, chunk, value_dim, sinks) in [
        (None, None, 3, true),
        (Some(4), None, 3, true),
        (None, Some(1), 3, true),
        (None, Some(7), 3, false),
        (None, None, 1, false),
        (None, None, 5, false),
        (Some(6), Some(9), 4, true),
    ] {
        check(3e-2, move |g, p, x| {
            let sinks = match sinks {
                true => Some(g.param(&format!("{p}.sinks"), &[4])?),
                false => None,
            };
            let spec = AttnSpec {
                window,
                chunk,
                sinks,
                // without either, a constant added to every score changes nothing: k's bias is idle
                softcap: sinks.is_none().then_some(2.0),
                ..AttnSpec::default()
            };
            attention(g, p, x, (2, value_dim), &spec)
        });
    }
}

#[test]
fn narrow_and_concat() {
    check(1e-2, |g, p, x| {
        let a = g.narrow(x, 0, 5)?;
        let b = g.narrow(x, 3, 9)?; // overlaps a
        let c = g.linear(&format!("{p}.c"), b, 2, false)?;
        g.concat(&[b, c, a, a])
    });
}

#[test]
fn mixture_of_experts_in_every_setting() {
    for (top_k, sigmoid, normalise, scale) in [
        (1, false, false, 1.0),
        (2, false, true, 1.0),
        (2, false, false, 1.7),
        (2, true, true, 2.5),
        (3, true, false, 1.0),
    ] {
        // jumps where the choice changes: small steps
        check_to(2e-3, 1e-2, move |g, p, x| {
            let router = g.linear(&format!("{p}.router"), x, 4, false)?;
            let route = RouteSpec {
                sigmoid,
                normalise,
                scale,
                ..RouteSpec::top(top_k)
            };
            mixture(g, p, x, router, &route)
        });
    }
}

/// Experts, of whom a route chooses.
fn mixture(g: &mut dyn Backend, p: &str, x: Id, router: Id, route: &RouteSpec) -> OpResult {
    g.moe(router, x, route, &mut |g, e, x| {
        let mut expert = || {
            let h = g.linear(&format!("{p}.expert{e}.up"), x, 7, false)?;
            let h = g.unary(Unary::Silu, h)?;
            g.linear(&format!("{p}.expert{e}.down"), h, WIDTH, false)
        };
        expert().unwrap_or(0)
    })
}

/// What decides who is chosen has no gradient: the bias here is a part of the block's input, whose
/// own gradient comes from elsewhere.
#[test]
fn experts_chosen_by_a_bias_and_within_groups() {
    for (count, top, best, sigmoid) in [(1, 1, 1, true), (3, 2, 2, true), (2, 1, 3, false)] {
        check_to(2e-3, 2e-2, move |g, p, x| {
            let router = g.linear(&format!("{p}.router"), x, 6, false)?;
            let bias = g.narrow(x, 0, 6)?;
            let route = RouteSpec {
                bias: Some(bias),
                sigmoid,
                ..RouteSpec::top(2).within_groups(count, top, best)
            };
            mixture(g, p, x, router, &route)
        });
    }
}
