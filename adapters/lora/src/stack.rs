//! Several adapters on one base concatenated into one that computes their sum.
//!
//! Σ scaleᵢ · Bᵢ·Aᵢ = \[scale₁/s · B₁, scale₂/s · B₂, …\] · \[A₁; A₂; …\] · s: ranks add up,
//! nothing is approximated (PEFT calls it `cat`).

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;

use crate::{Error, LoraSpec, Result, Targets, peft};

type Params = BTreeMap<String, Tensor>;

/// Concatenates adapters into one that is their sum; a single one is returned unchanged.
///
/// The result's scale is 1 (alpha = rank, by patterns where ranks differ); its targets are the
/// projections by full name.
///
/// # Errors
/// An empty list; DoRA with another adapter (its row norms depend on the order of merging); a
/// module that two train in full; shapes that do not fit each other.
pub fn stack(mut adapters: Vec<(LoraSpec, Params)>) -> Result<(LoraSpec, Params)> {
    if adapters.len() == 1 {
        return Ok(adapters.remove(0));
    }
    if adapters.iter().any(|(spec, _)| spec.dora) {
        return Err(Error::rule(
            "a DoRA adapter cannot be stacked with others: its magnitudes hold for its own merge; merge it first (export --to hf)",
        ));
    }
    let mut names = BTreeSet::new();
    let mut whole = Params::new();
    for (spec, params) in &adapters {
        names.extend(peft::projections(params));
        for (name, tensor) in params.iter().filter(|(name, _)| !peft::is_update(name)) {
            let before = whole.insert(name.clone(), tensor.clone());
            // PEFT saves the same copy of an untrained embedding in both
            let copy = before.as_ref().map(|b| same(b, tensor)).transpose()?;
            if copy == Some(false) || (copy == Some(true) && !spec.replaced.contains(name)) {
                return Err(Error::rule(format!(
                    "two adapters of the stack train {name} in full; only one can"
                )));
            }
        }
        spec.check()?;
    }
    if !adapters
        .iter()
        .all(|(spec, _)| spec.halved == adapters[0].0.halved)
    {
        return Err(Error::rule(
            "an adapter with updates of all experts of a layer in one tensor (target_parameters) cannot \
             be stacked with one without; merge one of them first (export --to hf)",
        ));
    }
    if names.is_empty() {
        return Err(Error::rule("a stack wants at least one adapter"));
    }
    let mut ranks = BTreeMap::new();
    for name in &names {
        let (a, b) = cat(&adapters, name)?;
        ranks.insert(name.clone(), a.dim(0)?);
        whole.insert(format!("{name}.lora_A"), a);
        whole.insert(format!("{name}.lora_B"), b);
    }
    Ok((settings(&adapters, &ranks), whole))
}

fn same(a: &Tensor, b: &Tensor) -> Result<bool> {
    let values = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
    Ok(a.dims() == b.dims() && values(a)? == values(b)?)
}

/// Concatenates A and B of one projection, each B times its scale.
fn cat(adapters: &[(LoraSpec, Params)], name: &str) -> Result<(Tensor, Tensor)> {
    let (mut all_a, mut all_b) = (Vec::new(), Vec::new());
    for (spec, params) in adapters {
        if let Some(update) = spec.update(params, name) {
            all_a.push(update.a);
            all_b.push((update.b * update.scale)?);
        }
    }
    let fits = |t: &[Tensor], axis: usize| t.iter().all(|x| x.dims()[axis] == t[0].dims()[axis]);
    if !fits(&all_a, 1) || !fits(&all_b, 0) {
        return Err(Error::rule(format!(
            "the adapters of the stack do not fit each other at {name}"
        )));
    }
    Ok((Tensor::cat(&all_a, 0)?, Tensor::cat(&all_b, 1)?))
}

/// Settings of the result: scale 1 everywhere, so alpha is the rank.
fn settings(adapters: &[(LoraSpec, Params)], ranks: &BTreeMap<String, usize>) -> LoraSpec {
    let largest = ranks.values().copied().max().unwrap_or(1);
    let others: Vec<_> = ranks
        .iter()
        .filter(|(_, rank)| **rank != largest)
        .map(|(name, rank)| (name.replace('.', "\\."), *rank))
        .collect();
    LoraSpec {
        rank: largest,
        alpha: largest as f64,
        rslora: false,
        dropout: adapters.first().map_or(0.0, |(spec, _)| spec.dropout),
        targets: Targets::Names(ranks.keys().cloned().collect()),
        exclude: None,
        alpha_pattern: others.iter().map(|(k, r)| (k.clone(), *r as f64)).collect(),
        rank_pattern: others,
        dora: false,
        modules_to_save: adapters
            .iter()
            .flat_map(|(spec, _)| spec.modules_to_save.clone())
            .collect(),
        replaced: adapters
            .iter()
            .flat_map(|(spec, _)| spec.replaced.clone())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
        halved: adapters.iter().any(|(spec, _)| spec.halved),
    }
}
