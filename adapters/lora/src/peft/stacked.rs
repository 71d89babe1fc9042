//! Updates of experts that peft stored stacked, one pair of matrices for all experts of a layer
//! (`target_parameters`), taken apart into one update for each projection of each expert.
//!
//! A is (experts · rank, in), the expert being the slow index; B is (out, rank · experts), the
//! expert being the fast one. The inner wrapper, `experts.base_layer`, belongs to `gate_up_proj`,
//! whose outputs are gate's, then the other input's; the outer, `experts`, to `down_proj`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use candle_core::Tensor;

use super::json::Read;
use crate::{LoraSpec, Projection, Targets, experts::Expert};

const GATE_UP: &str = "gate_up_proj";
const DOWN: &str = "down_proj";
/// Names of an expert's projections in most checkpoints, and in Mixtral's.
static NAMES: [[&str; 2]; 3] = [["gate_proj", "w1"], ["up_proj", "w3"], ["down_proj", "w2"]];

/// One stacked pair of matrices.
struct Stack {
    /// `model.layers.0.mlp.experts`
    name: String,
    a: Tensor,
    b: Tensor,
    rank: usize,
    scale: f64,
    /// Whether it is that of gate and the other input.
    gate_up: bool,
}

/// One expert's update: A (rank, in), B (out, rank).
type Pair = (Tensor, Tensor);

/// Refuses parameters that are neither a matrix (`NAME.weight`) nor a stack of experts'.
pub(super) fn supported(parameters: &[String]) -> Read<()> {
    let known = |p: &&String| p.ends_with(".weight") || ends(p, GATE_UP) || ends(p, DOWN);
    match parameters.iter().find(|p| !known(p)) {
        Some(odd) => Err(format!(
            "target_parameters is {parameters:?}, of which {odd} is not supported: matrices are \
             (NAME.weight), and {GATE_UP} and {DOWN} of experts"
        )),
        None => Ok(()),
    }
}

/// Takes the stacked updates of `target_parameters` apart; the settings then say of the parts what
/// they said of the stack.
///
/// # Errors
/// An update that `target_parameters` does not name, shapes that do not fit.
pub(super) fn apply(
    parameters: &[String],
    spec: &mut LoraSpec,
    params: &mut BTreeMap<String, Tensor>,
) -> Read<()> {
    let named = |end: &str| parameters.iter().any(|p| ends(p, end));
    let found = taken(spec, params, [named(GATE_UP), named(DOWN)])?;
    let others = super::update::projections(params);
    let mut pairs: Vec<(String, Pair, f64)> = Vec::new();
    let halved = found.iter().map(Stack::is_halved);
    let halved = halved.collect::<Read<Vec<bool>>>()?.into_iter().all(|h| h);
    for stack in &found {
        stack.part(halved, &mut pairs).map_err(|e| e.to_string())?;
    }
    let Some(common) = pairs.first().map(|(_, _, scale)| *scale) else {
        return Ok(());
    };
    settle(spec, &others, &pairs, common);
    spec.halved = found.iter().any(|stack| stack.gate_up);
    for (name, (a, b), scale) in pairs {
        let filled = filled(spec.rank, &a, &b, scale / common);
        let (a, b) = filled.map_err(|e| e.to_string())?;
        params.insert(format!("{name}.lora_A"), a);
        params.insert(format!("{name}.lora_B"), b);
    }
    Ok(())
}

fn ends(parameter: &str, end: &str) -> bool {
    parameter.rsplit('.').next() == Some(end)
}

/// Takes the stacked pairs out of the tensors; `there` says which parameters have any.
fn taken(
    spec: &LoraSpec,
    params: &mut BTreeMap<String, Tensor>,
    there: [bool; 2],
) -> Read<Vec<Stack>> {
    const INNER: &str = ".experts.base_layer";
    let wrappers: BTreeSet<String> = super::update::projections(params)
        .into_iter()
        .filter(|p| p.ends_with(INNER) || p.ends_with(".experts"))
        .collect();
    let mut found = Vec::new();
    for wrapper in &wrappers {
        // one wrapper alone is that of whichever parameter there is
        let gate_up = match (wrapper.ends_with(INNER), there) {
            (inner, [true, true]) => inner,
            (false, [gate_up, down]) if gate_up || down => gate_up,
            _ => {
                let what = "has an update that target_parameters does not name";
                return Err(format!("{wrapper} {what}"));
            }
        };
        let name = wrapper.strip_suffix(".base_layer").unwrap_or(wrapper);
        let parameter = format!("{name}.{}", if gate_up { GATE_UP } else { DOWN });
        let mut get = |part: &str| {
            let tensor = params.remove(&format!("{wrapper}.{part}"));
            tensor.ok_or_else(|| format!("{wrapper} has no {part}"))
        };
        found.push(Stack {
            a: get("lora_A")?,
            b: get("lora_B")?,
            rank: spec.rank_of(&parameter),
            scale: spec.scale_of(&parameter),
            gate_up,
            name: name.to_string(),
        });
    }
    Ok(found)
}

impl Stack {
    /// Checks that both matrices are stacks, and returns the number of outputs.
    fn outputs(&self) -> Read<usize> {
        let wrong = || {
            format!(
                "{}: A {:?} and B {:?} are no stacks of experts of rank {}",
                self.name,
                self.a.dims(),
                self.b.dims(),
                self.rank
            )
        };
        let (&[rows, _], &[outputs, columns]) = (self.a.dims(), self.b.dims()) else {
            return Err(wrong());
        };
        let odd = self.gate_up && outputs % 2 == 1;
        if rows != columns || rows == 0 || rows % self.rank != 0 || odd {
            return Err(wrong());
        }
        Ok(outputs)
    }

    /// Whether gate's outputs use the first half of the rank only, and the others the second: each
    /// has an update of half the rank.
    fn is_halved(&self) -> Read<bool> {
        let outputs = self.outputs()?;
        let zero = |b: &Tensor, rows: usize, columns: usize| -> candle_core::Result<bool> {
            let (half, rank) = (outputs / 2, self.rank / 2);
            let block = b.narrow(0, rows, half)?.narrow(1, columns, rank)?;
            let values = block.flatten_all()?.to_vec1::<f32>()?;
            Ok(values.iter().all(|v| *v == 0.0))
        };
        if !self.gate_up || self.rank % 2 == 1 {
            return Ok(!self.gate_up); // of the others there is nothing to say
        }
        let each = || -> candle_core::Result<bool> {
            for (_, b) in self.experts()? {
                if !zero(&b, 0, self.rank / 2)? || !zero(&b, outputs / 2, 0)? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        each().map_err(|e| e.to_string())
    }

    /// Each expert's A (rank, in) and B (out, rank).
    fn experts(&self) -> candle_core::Result<Vec<Pair>> {
        let (outputs, columns) = self.b.dims2()?;
        let count = columns / self.rank;
        let b = self.b.reshape((outputs, self.rank, count))?;
        let one = |e: usize| -> candle_core::Result<Pair> {
            let a = self.a.narrow(0, e * self.rank, self.rank)?;
            Ok((a, b.narrow(2, e, 1)?.squeeze(2)?.contiguous()?))
        };
        (0..count).map(one).collect()
    }

    /// Appends the update of each projection of each expert.
    fn part(&self, halved: bool, pairs: &mut Vec<(String, Pair, f64)>) -> candle_core::Result<()> {
        let [gate, up, down] = NAMES.map(|[usual, _]| usual);
        for (e, (a, b)) in self.experts()?.into_iter().enumerate() {
            let mut push = |part: &str, pair: Pair| {
                pairs.push((format!("{}.{e}.{part}", self.name), pair, self.scale));
            };
            if !self.gate_up {
                push(down, (a, b));
                continue;
            }
            let half = b.dims()[0] / 2;
            for (i, part) in [gate, up].into_iter().enumerate() {
                let rows = b.narrow(0, i * half, half)?;
                let pair = match halved {
                    true => {
                        let rank = self.rank / 2;
                        let own = a.narrow(0, i * rank, rank)?;
                        (own, rows.narrow(1, i * rank, rank)?)
                    }
                    false => (a.clone(), rows),
                };
                push(part, pair);
            }
        }
        Ok(())
    }
}

/// Settings of which experts have the highest rank among them and the common `scale`, and the
/// other projections what they had.
fn settle(
    spec: &mut LoraSpec,
    others: &BTreeSet<String>,
    pairs: &[(String, Pair, f64)],
    scale: f64,
) {
    let old = spec.clone();
    let ranks = pairs.iter().filter_map(|(_, (a, _), _)| a.dims().first());
    let rank = ranks.copied().max().unwrap_or(old.rank);
    let alpha = scale * rank as f64;
    (spec.rank, spec.alpha) = (rank, alpha);
    let router = |p: &String| match p.rsplit('.').next() {
        Some("gate") => "gate".to_string(), // the module around it may have another name in a base
        _ => p.clone(),
    };
    // by whole name, since a pattern of the file may fit experts
    let key = |p: &String| router(p).replace('.', "\\.");
    let ranks = others.iter().filter(|p| old.rank_of(p) != rank);
    let ranks: BTreeMap<String, usize> = ranks.map(|p| (key(p), old.rank_of(p))).collect();
    spec.rank_pattern = ranks.into_iter().collect();
    let alphas = others.iter().filter(|p| old.alpha_of(p) != alpha);
    let alphas: BTreeMap<String, f64> = alphas.map(|p| (key(p), old.alpha_of(p))).collect();
    spec.alpha_pattern = alphas.into_iter().collect();
    let parts = pairs.iter().filter_map(|(p, ..)| p.rsplit('.').next());
    let parts: BTreeSet<&str> = parts.collect();
    let names = NAMES.iter().filter(|[usual, _]| parts.contains(usual));
    let of_experts = names.flatten().map(|part| format!("*.experts.*.{part}"));
    let targets: BTreeSet<String> = others.iter().map(router).chain(of_experts).collect();
    spec.targets = Targets::Names(targets.into_iter().collect());
}

/// A pair of this rank, with rows of A and columns of B that are 0 where it has fewer, and
/// `factor` in B.
fn filled(rank: usize, a: &Tensor, b: &Tensor, factor: f64) -> candle_core::Result<Pair> {
    let lacking = rank - a.dims()[0];
    let a = a.pad_with_zeros(0, 0, lacking)?.force_contiguous()?;
    let b = b.pad_with_zeros(1, 0, lacking)?.force_contiguous()?;
    match factor == 1.0 {
        true => Ok((a, b)),
        false => Ok((a, (b * factor)?)),
    }
}

/// The tensors under a base's names, where its checkpoint calls experts, or the module around them
/// and their router, otherwise than transformers 5 does.
pub fn as_in_base(
    params: BTreeMap<String, Tensor>,
    projections: &[Projection],
) -> BTreeMap<String, Tensor> {
    let known: BTreeSet<&str> = projections.iter().map(|p| p.name.as_str()).collect();
    let strange =
        |name: &String| super::update::split(name).is_some_and(|(p, _)| !known.contains(p));
    if !params.keys().any(strange) {
        return params;
    }
    let block = |stack: &str| -> Option<String> {
        let module = stack.strip_suffix(".experts")?;
        Some(module.rsplit_once('.')?.0.to_string())
    };
    let usual = |part: &str| {
        let found = NAMES.iter().find(|names| names.contains(&part));
        found.map(|[usual, _]| *usual)
    };
    let (mut experts, mut routers) = (HashMap::new(), HashMap::new());
    for name in &known {
        let Some(expert) = Expert::named(name) else {
            continue;
        };
        if let (Some(block), Some(part)) = (block(expert.stack), usual(expert.part)) {
            let module = expert
                .stack
                .strip_suffix(".experts")
                .unwrap_or(expert.stack);
            routers.insert(block.clone(), format!("{module}.gate"));
            experts.insert((block, expert.index, part), *name);
        }
    }
    let own = |projection: &str| -> Option<String> {
        if known.contains(projection) {
            return None;
        }
        if let Some(expert) = Expert::named(projection) {
            let key = (block(expert.stack)?, expert.index, usual(expert.part)?);
            return experts.get(&key).map(|name| (*name).to_string());
        }
        let module = projection.strip_suffix(".gate")?;
        routers.get(module.rsplit_once('.')?.0).cloned()
    };
    let there: BTreeSet<String> = params.keys().cloned().collect();
    let renamed = |(name, tensor): (String, Tensor)| {
        let new =
            super::update::split(&name).and_then(|(p, part)| Some(format!("{}.{part}", own(p)?)));
        // one that is there under both names keeps the strange one, which the base then refuses
        let new = new.filter(|new| !there.contains(new));
        (new.unwrap_or(name), tensor)
    };
    params.into_iter().map(renamed).collect()
}
