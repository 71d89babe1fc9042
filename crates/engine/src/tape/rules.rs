//! The rules of every op's shapes, shared by the eager and the shapes-only backend. Shapes here are
//! trailing axes: the token axis in front of them belongs to the host. An error is one sentence
//! with the rule and the values.

use std::fmt::Arguments;

use randori_sdk::seam::{AttnSpec, GroupSpec, RopeSpec, RouteSpec};

type Shape = Result<Vec<usize>, String>;

fn last(op: Arguments, x: &[usize]) -> Result<usize, String> {
    match x.last() {
        Some(&n) if n > 0 => Ok(n),
        _ => Err(format!(
            "{op} works on the last axis, but the value has the trailing shape {x:?}"
        )),
    }
}

fn with_last(x: &[usize], n: usize) -> Vec<usize> {
    let mut shape = x[..x.len() - 1].to_vec();
    shape.push(n);
    shape
}

/// The last axis, and the result's shape.
pub(crate) fn linear(name: &str, x: &[usize], out: usize) -> Result<(usize, Vec<usize>), String> {
    let inputs = last(format_args!("linear `{name}`"), x)?;
    if out == 0 {
        return Err(format!("linear `{name}` wants at least 1 output, not 0"));
    }
    Ok((inputs, with_last(x, out)))
}

/// The width of the normalised axis.
pub(crate) fn norm(name: &str, x: &[usize], eps: f64) -> Result<usize, String> {
    if !(eps.is_finite() && eps >= 0.0) {
        return Err(format!(
            "norm `{name}` wants a finite eps of at least 0, not {eps}"
        ));
    }
    last(format_args!("norm `{name}`"), x)
}

pub(crate) fn rope(x: &[usize], spec: &RopeSpec) -> Shape {
    let n = spec.inv_freq.len();
    if x.len() != 2 {
        return Err(format!(
            "rope wants (heads, head_dim), not the trailing shape {x:?}"
        ));
    }
    if n == 0 || 2 * n > x[1] {
        return Err(format!(
            "rope with {n} frequencies does not fit a head_dim of {}: it turns 1 to {} pairs",
            x[1],
            x[1] / 2
        ));
    }
    if let Some(bad) = spec
        .inv_freq
        .iter()
        .chain([&spec.mscale])
        .find(|f| !f.is_finite())
    {
        return Err(format!(
            "rope's frequencies and mscale must be finite, not {bad}"
        ));
    }
    if let Some(long) = &spec.long {
        let there = long.inv_freq.len();
        if long.after == 0 || (there != 0 && there != n) {
            return Err(format!(
                "rope with {n} frequencies wants as many for sequences of more than 0 tokens, not \
                 {there} for more than {}",
                long.after
            ));
        }
        if let Some(bad) = long.inv_freq.iter().find(|f| !f.is_finite()) {
            return Err(format!("rope's frequencies must be finite, not {bad}"));
        }
    }
    if let Some(growth) = spec.growth {
        if !growth.beta.is_finite() || growth.every == 0 {
            return Err(format!(
                "rope's growth wants a finite beta and at least 1 position a step, not {} and {}",
                growth.beta, growth.every
            ));
        }
        if 2 * n != x[1] {
            return Err(format!(
                "rope grows with the position where whole heads are turned, not {n} pairs of a \
                 head_dim of {}",
                x[1]
            ));
        }
    }
    Ok(x.to_vec())
}

pub(crate) fn attention(q: &[usize], k: &[usize], v: &[usize], spec: &AttnSpec) -> Shape {
    let (&[heads, d], &[kv_heads, _]) = (q, k) else {
        return Err(format!(
            "attention wants q, k and v as (heads, head_dim), not {q:?}, {k:?} and {v:?}"
        ));
    };
    let &[v_heads, value_dim] = v else {
        return Err(format!("attention wants v as (heads, head_dim), not {v:?}"));
    };
    if kv_heads != v_heads || d != k[1] || d == 0 || value_dim == 0 {
        return Err(format!(
            "attention wants as many heads of v as of k and q of k's head_dim; got q {q:?}, k {k:?}, v {v:?}"
        ));
    }
    if kv_heads == 0 || heads % kv_heads != 0 {
        return Err(format!(
            "attention wants a multiple of the {kv_heads} key heads as query heads, not {heads}"
        ));
    }
    if spec.window == Some(0) {
        return Err("attention's window must be at least 1, not 0".into());
    }
    if spec.chunk == Some(0) {
        return Err("attention's chunks must have at least 1 position, not 0".into());
    }
    if let Some(scale) = spec.scale.filter(|s| !s.is_finite()) {
        return Err(format!("attention's scale must be finite, not {scale}"));
    }
    if let Some(cap) = spec.softcap.filter(|c| !(c.is_finite() && *c > 0.0)) {
        return Err(format!("attention's softcap must be above 0, not {cap}"));
    }
    Ok(vec![heads, value_dim])
}

/// `common`: the sinks have one row for all tokens.
pub(crate) fn sinks(q: &[usize], sinks: &[usize], common: bool) -> Result<(), String> {
    match (q.first(), common) {
        (Some(heads), true) if sinks == [*heads] => Ok(()),
        (_, true) => Err(format!(
            "attention wants a sink for each head of q {q:?}, not the shape {sinks:?}"
        )),
        (_, false) => Err("attention's sinks are a parameter, without a token axis".into()),
    }
}

/// An op on values with a row for every token; `common`: the value has one for all of them.
pub(crate) fn by_token(op: &str, common: bool) -> Result<(), String> {
    match common {
        false => Ok(()),
        true => Err(format!(
            "{op} wants a value with a row for every token, not a parameter: that may be the right \
             side of a binary op"
        )),
    }
}

pub(crate) fn param(name: &str, shape: &[usize]) -> Result<(), String> {
    match shape.is_empty() || shape.contains(&0) {
        true => Err(format!(
            "param `{name}` wants a shape of at least one axis and one value, not {shape:?}"
        )),
        false => Ok(()),
    }
}

/// Whether an op about values that cross blocks sees all tokens.
pub(crate) fn crosses(op: &str, all: bool) -> Result<(), String> {
    match all {
        true => Ok(()),
        false => Err(format!(
            "{op} belongs into the embedding or a block, and not into an expert, which sees some \
             of the tokens only"
        )),
    }
}

/// `known`: whether this pass carries something under the name already.
pub(crate) fn carry(name: &str, known: bool) -> Result<(), String> {
    match (name.is_empty(), known) {
        (false, false) => Ok(()),
        (true, _) => Err("carry wants a name".into()),
        (false, true) => Err(format!(
            "carry `{name}`: the embedding or one block carries a name, once, and this one is there"
        )),
    }
}

pub(crate) fn not_carried(name: &str) -> String {
    format!("carried `{name}`: neither the embedding nor an earlier block carries that")
}

/// The weight's shape.
pub(crate) fn conv(name: &str, x: &[usize], taps: usize) -> Shape {
    let (&[channels], true) = (x, taps > 0) else {
        return Err(format!(
            "conv `{name}` wants (channels) and at least 1 tap, not the trailing shape {x:?} and \
             {taps}"
        ));
    };
    match channels {
        0 => Err(format!("conv `{name}` wants at least 1 channel, not 0")),
        channels => Ok(vec![channels, 1, taps]),
    }
}

/// Shapes of q, k, v, strengths and decays; the result has v's.
pub(crate) fn delta_rule(shapes: [&[usize]; 5]) -> Shape {
    let [q, k, v, strength, decay] = shapes;
    let fits = match (q, v) {
        (&[key_heads, key], &[heads, value]) => {
            let sizes = [key_heads, key, heads, value];
            let shared = !sizes.contains(&0) && heads % key_heads == 0;
            shared && q == k && strength == [heads] && decay == [heads]
        }
        _ => false,
    };
    match fits {
        true => Ok(v.to_vec()),
        false => Err(format!(
            "delta_rule wants q and k (key heads, features), v (heads, features), heads a multiple \
             of key heads, and strengths and decays (heads), not the trailing shapes {q:?}, {k:?}, \
             {v:?}, {strength:?} and {decay:?}"
        )),
    }
}

/// How many experts; `bias` is the trailing shape of the route's.
pub(crate) fn moe(
    router: &[usize],
    bias: Option<&[usize]>,
    route: &RouteSpec,
) -> Result<usize, String> {
    let &[experts] = router else {
        return Err(format!(
            "moe wants a router of (experts), not the trailing shape {router:?}"
        ));
    };
    if route.top_k == 0 || route.top_k > experts {
        return Err(format!(
            "moe chooses 1 to {experts} of {experts} experts, not {}",
            route.top_k
        ));
    }
    if !route.scale.is_finite() {
        return Err(format!("moe's scale must be finite, not {}", route.scale));
    }
    if let Some(bias) = bias.filter(|bias| *bias != [experts]) {
        return Err(format!(
            "moe wants a bias for each of {experts} experts, not the trailing shape {bias:?}"
        ));
    }
    if let Some(groups) = &route.groups {
        within_groups(groups, experts, route.top_k)?;
    }
    Ok(experts)
}

/// Whether `top_k` of the experts can be chosen in groups like these.
fn within_groups(groups: &GroupSpec, experts: usize, top_k: usize) -> Result<(), String> {
    let GroupSpec { count, top, best } = *groups;
    if count == 0 || !experts.is_multiple_of(count) {
        return Err(format!(
            "moe wants groups of equally many of {experts} experts, not {count} of them"
        ));
    }
    let size = experts / count;
    if top == 0 || top > count || top * size < top_k {
        return Err(format!(
            "moe chooses {top_k} experts of the best of {count} groups of {size}: {top} of them \
             are none, too few or too many"
        ));
    }
    if best == 0 || best > size {
        return Err(format!(
            "moe scores a group by 1 to {size} of its {size} experts, not {best}"
        ));
    }
    Ok(())
}

pub(crate) fn soft_max(x: &[usize]) -> Result<(), String> {
    last(format_args!("softmax"), x).map(drop)
}

/// b must be a's shape, aligned from the right, with missing axes or axes of size 1; `common` says
/// of both whether they have one row for all tokens.
pub(crate) fn binary(a: &[usize], b: &[usize], common: [bool; 2]) -> Shape {
    if common == [true, false] {
        return Err(
            "a binary op wants a parameter on its right: the left side has a row for every token"
                .into(),
        );
    }
    let fits = b.len() <= a.len()
        && a.iter()
            .rev()
            .zip(b.iter().rev())
            .all(|(a, b)| a == b || *b == 1);
    if !fits {
        return Err(format!(
            "a binary op cannot broadcast the trailing shape {b:?} to {a:?}"
        ));
    }
    Ok(a.to_vec())
}

pub(crate) fn affine(mul: f64, add: f64) -> Result<(), String> {
    if mul.is_finite() && add.is_finite() {
        Ok(())
    } else {
        Err(format!("affine wants finite numbers, not {mul} and {add}"))
    }
}

pub(crate) fn unflatten(x: &[usize], n: usize) -> Shape {
    let width = last(format_args!("unflatten"), x)?;
    if n == 0 || !width.is_multiple_of(n) {
        return Err(format!(
            "unflatten cannot cut {width} values into {n} equal parts"
        ));
    }
    let mut shape = with_last(x, n);
    shape.push(width / n);
    Ok(shape)
}

pub(crate) fn flatten(x: &[usize]) -> Shape {
    let [front @ .., n, d] = x else {
        return Err(format!(
            "flatten joins the last two trailing axes, but the value has the trailing shape {x:?}"
        ));
    };
    let mut shape = front.to_vec();
    shape.push(n * d);
    Ok(shape)
}

pub(crate) fn narrow(x: &[usize], start: usize, len: usize) -> Shape {
    let width = last(format_args!("narrow"), x)?;
    if len == 0 || start.checked_add(len).is_none_or(|end| end > width) {
        return Err(format!(
            "narrow cannot take {len} values from {start} of an axis of {width}"
        ));
    }
    Ok(with_last(x, len))
}

/// `common` says of each value whether it has one row for all tokens.
pub(crate) fn concat(xs: &[&[usize]], common: &[bool]) -> Shape {
    if common.contains(&true) && common.contains(&false) {
        return Err("concat cannot join parameters and values with a row for every token".into());
    }
    let Some(first) = xs.first() else {
        return Err("concat wants at least one value".into());
    };
    let mut width = 0;
    for x in xs {
        width += last(format_args!("concat"), x)?;
        if x[..x.len() - 1] != first[..first.len() - 1] {
            return Err(format!(
                "concat wants values that differ in the last axis only, not {first:?} and {x:?}"
            ));
        }
    }
    Ok(with_last(first, width))
}
