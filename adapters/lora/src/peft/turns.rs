//! Updates of experts whose gate and other input take turns, output by output, in one tensor of all
//! experts of a layer (gpt-oss). Checkpoints store it, and so do adapters (`target_parameters`):
//! nothing converts updates of single experts there.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;

use super::{
    config, update,
    whole::{complete, written},
};
use crate::{Error, LoraSpec, Result, experts::Expert};

type Params = BTreeMap<String, Tensor>;

/// An expert's gate, its other input and what follows.
const PARTS: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

/// Deals the rows of gate and the other input out anew: [`super::load`] has taken them for two
/// halves, one after the other, of a matrix in which they take turns.
///
/// # Errors
/// A gate and another input that do not have one A, or outputs alike.
pub fn deal_out(mut params: Params) -> Result<Params> {
    let [gate, up, _] = PARTS;
    let all = update::projections(&params);
    for first in all
        .iter()
        .filter(|p| Expert::named(p).is_some_and(|e| e.part == gate))
    {
        let second = format!("{}{up}", first.strip_suffix(gate).unwrap_or(first));
        let [a, other] = [first, &second].map(|p| params.get(&format!("{p}.lora_A")));
        let [b, rest] = [first, &second].map(|p| params.get(&format!("{p}.lora_B")));
        let (Some(a), Some(other), Some(b), Some(rest)) = (a, other, b, rest) else {
            return Err(Error::rule(format!(
                "{first} has an update and {second} none"
            )));
        };
        let values = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        let nothing = |t: &Tensor| -> Result<bool> { Ok(values(t)?.iter().all(|v| *v == 0.0)) };
        if nothing(b)? && nothing(rest)? {
            continue; // not trained yet
        }
        if a.dims() != other.dims() || b.dims() != rest.dims() || values(a)? != values(other)? {
            return Err(Error::rule(format!(
                "{first} and {second} do not share one A, as updates of outputs that take turns do"
            )));
        }
        let (outputs, rank) = b.dims2()?;
        let both = Tensor::cat(&[b, rest], 0)?.reshape((outputs, 2, rank))?;
        for (turn, projection) in [first, &second].into_iter().enumerate() {
            let own = both.narrow(1, turn, 1)?.squeeze(1)?.contiguous()?;
            params.insert(format!("{projection}.lora_B"), own);
        }
    }
    Ok(params)
}

/// [`super::save`] for a base whose experts' gate and other input take turns: one pair of matrices
/// for all experts of a layer, which peft takes in place of theirs, and the router's as that of a
/// parameter. Gate has the first half of the rank there, the other input the second. All of these
/// have one rank, filled up with zeros, since peft says of ranks of their own that it ignores them.
///
/// # Errors
/// As there; an expert without an update that others have.
pub fn save_dealt(
    dir: &std::path::Path,
    spec: &LoraSpec,
    params: &Params,
    base_name: &str,
) -> Result<()> {
    spec.check()?;
    let pairs = complete(spec, params, "the adapter to save")?;
    let mut stacks: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for expert in pairs.iter().filter_map(|p| Expert::named(p)) {
        stacks.entry(expert.stack).or_default().insert(expert.index);
    }
    let outside = pairs.iter().filter(|p| Expert::named(p).is_none());
    let (routers, others): (BTreeSet<String>, BTreeSet<String>) =
        outside.cloned().partition(|p| is_router(p));
    let mut out = params.clone();
    out.retain(|name, _| update::split(name).is_none_or(|(p, _)| others.contains(p)));
    let mut found: Vec<(String, String, Vec<Pair>)> = Vec::new();
    for (stack, experts) in &stacks {
        let [gate, up, down] = PARTS.map(|part| of_each(params, stack, experts, part));
        let down = down?;
        if let Some((gate, up)) = gate?.zip(up?) {
            let both: Result<Vec<Pair>> = gate.into_iter().zip(up).map(taking_turns).collect();
            let inner = if down.is_some() { ".base_layer" } else { "" };
            found.push((
                format!("{stack}{inner}"),
                format!("{stack}.gate_up_proj"),
                both?,
            ));
        }
        found.extend(down.map(|down| (stack.to_string(), format!("{stack}.down_proj"), down)));
    }
    for router in &routers {
        found.push((
            router.clone(),
            format!("{router}.weight"),
            vec![weighted(spec, params, router)?],
        ));
    }
    let ranks = found
        .iter()
        .flat_map(|(.., pairs)| pairs)
        .map(|(a, _)| a.dims()[0]);
    let rank = ranks.max().unwrap_or(spec.rank);
    for (wrapper, _, pairs) in &found {
        put(&mut out, wrapper, pairs, rank)?;
    }
    let parameters: BTreeSet<&str> = found.iter().map(|(_, p, _)| ending(p)).collect();
    let mut json = config::write(&of_rank(spec, rank, &others), &others, base_name);
    if !parameters.is_empty() {
        json["target_parameters"] = parameters.into_iter().collect();
    }
    written(dir, spec, &out, &json)
}

/// Whether a projection chooses among experts, which stand beside it.
fn is_router(projection: &str) -> bool {
    let parts = projection.rsplit_once('.');
    parts.is_some_and(|(module, part)| module.ends_with(".mlp") && !PARTS.contains(&part))
}

/// A router's update, with the factor of most.
///
/// # Errors
/// Settings that peft does not have for parameters.
fn weighted(spec: &LoraSpec, params: &Params, router: &str) -> Result<Pair> {
    if spec.dora || spec.rslora || spec.dropout != 0.0 {
        return Err(Error::rule(format!(
            "{router} chooses among experts, and is a parameter to peft 0.21, without DoRA and dropout, \
             and with another factor under rsLoRA: take a plain LoRA, or leave it out"
        )));
    }
    let Some(update) = spec.update(params, router) else {
        return Err(Error::rule(format!("there is no update of {router}")));
    };
    let ratio = update.scale / (spec.alpha / spec.rank as f64);
    let b = if ratio == 1.0 {
        update.b
    } else {
        (update.b * ratio)?
    };
    Ok((update.a, b))
}

/// The settings with this rank and the same factor, and by name what the others had.
fn of_rank(spec: &LoraSpec, rank: usize, others: &BTreeSet<String>) -> LoraSpec {
    let alpha = spec.alpha * rank as f64 / spec.rank as f64;
    let key = |p: &String| p.replace('.', "\\.");
    let ranks = others.iter().filter(|p| spec.rank_of(p) != rank);
    let alphas = others.iter().filter(|p| spec.alpha_of(p) != alpha);
    LoraSpec {
        rank_pattern: ranks.map(|p| (key(p), spec.rank_of(p))).collect(),
        alpha_pattern: alphas.map(|p| (key(p), spec.alpha_of(p))).collect(),
        rank,
        alpha,
        ..spec.clone()
    }
}

/// One expert's update: A (rank, in), B (out, rank).
type Pair = (Tensor, Tensor);

/// `mlp.experts.down_proj` of `model.layers.0.mlp.experts.down_proj`.
fn ending(parameter: &str) -> &str {
    let from = parameter.rmatch_indices('.').nth(2);
    &parameter[from.map_or(0, |(at, _)| at + 1)..]
}

/// The updates of one projection of all experts of a layer; `None`: it has none.
fn of_each(
    params: &Params,
    stack: &str,
    experts: &BTreeSet<usize>,
    part: &str,
) -> Result<Option<Vec<Pair>>> {
    let one = |expert: &usize| -> Option<Pair> {
        let half = |half: &str| {
            params
                .get(&format!("{stack}.{expert}.{part}.{half}"))
                .cloned()
        };
        Some((half("lora_A")?, half("lora_B")?))
    };
    let found: Vec<Pair> = experts.iter().filter_map(one).collect();
    let whole = experts.iter().copied().eq(0..experts.len());
    match found.len() {
        0 => Ok(None),
        n if n == experts.len() && whole => Ok(Some(found)),
        n => Err(Error::rule(format!(
            "{stack} has updates of {part} for {n} of its experts: one tensor holds those of all"
        ))),
    }
}

/// Gate's and the other input's update as one of both, whose outputs take turns.
fn taking_turns(((a, b), (other, rest)): (Pair, Pair)) -> Result<Pair> {
    let (outputs, rank) = b.dims2()?;
    let zeros = b.zeros_like()?;
    let gate = Tensor::cat(&[&b, &zeros], 1)?;
    let up = Tensor::cat(&[&zeros, &rest], 1)?;
    let both = Tensor::stack(&[gate, up], 1)?.reshape((2 * outputs, 2 * rank))?;
    Ok((Tensor::cat(&[a, other], 0)?, both))
}

/// Puts updates into the tensors as one pair: A (experts · rank, in), B (out, rank · experts), of
/// which the expert is the fast index.
fn put(out: &mut Params, wrapper: &str, pairs: &[Pair], rank: usize) -> Result<()> {
    let (mut all_a, mut all_b) = (Vec::new(), Vec::new());
    for (a, b) in pairs {
        let lacking = rank - a.dims()[0];
        all_a.push(a.pad_with_zeros(0, 0, lacking)?);
        all_b.push(b.pad_with_zeros(1, 0, lacking)?);
    }
    let b = Tensor::stack(&all_b, 2)?; // (out, rank, experts)
    let (outputs, rank, experts) = b.dims3()?;
    out.insert(format!("{wrapper}.lora_A"), Tensor::cat(&all_a, 0)?);
    let b = b.reshape((outputs, rank * experts))?;
    out.insert(format!("{wrapper}.lora_B"), b);
    Ok(())
}
