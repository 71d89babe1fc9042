//! A GGUF's tensors under Hugging Face's names: splits stacked experts and a fused q, k and v, and
//! completes biases that only some projections have.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use randori_sdk::dialect::{Gguf, Module, Order, Size, Values};
use serde_json::Value;

use super::names;
use crate::{ByteSource, Dtype, Error, Format, Index, Result, Stored};

/// Numbers of heads, by which a fused tensor is split into q, k and v and the rows of q and k are
/// permuted.
pub(super) struct HeadCounts {
    query: usize,
    key: usize,
    features: usize,
}

impl HeadCounts {
    /// Reads a configuration made from the file's metadata, which has all three.
    pub fn of(config: &Value) -> Self {
        let number = |key: &str| {
            let n = config.get(key).and_then(Value::as_u64);
            n.and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
        };
        HeadCounts {
            query: number("num_attention_heads"),
            key: number("num_key_value_heads"),
            features: number("head_dim"),
        }
    }

    /// Number of heads by which llama.cpp permuted a module's rows.
    fn permuted(&self, module: &Module) -> Option<usize> {
        match (module.order, module.rows) {
            (Order::Same, _) => None,
            (Order::Turned, Size::Key) => Some(self.key),
            (Order::Turned, _) => Some(self.query),
        }
    }
}

/// Takes what belongs to matrices of layers out of the tensors: the factor of all values, one
/// number (`blk.0.attn_q.scale` of `blk.0.attn_q.weight`), which NVFP4 wants since its blocks'
/// scales span little, and the scale by which some GPUs quantise activations (`.input_scale`),
/// which is not used.
///
/// # Errors
/// A factor that is not one finite number.
pub(super) fn factors(tensors: &mut BTreeMap<String, Stored>, files: &[ByteSource]) -> Result<()> {
    let matrix_of = |name: &String| {
        let (stem, kind) = name.rsplit_once('.')?;
        let weight = format!("{stem}.weight");
        let is_matrix = tensors.get(&weight)?.shape.len() == 2;
        let is_factor = name.starts_with("blk.") && ["scale", "input_scale"].contains(&kind);
        (is_matrix && is_factor).then(|| (name.clone(), weight))
    };
    let found: Vec<(String, String)> = tensors.keys().filter_map(matrix_of).collect();
    for (name, weight) in found {
        let removed = tensors.remove(&name);
        let (Some(stored), Some(matrix)) = (removed, tensors.get_mut(&weight)) else {
            continue;
        };
        if name.ends_with(".input_scale") {
            continue;
        }
        let one = stored.shape.iter().all(|n| *n == 1);
        let numbers = match files.get(stored.file).filter(|_| one) {
            Some(file) => stored.numbers(&name, file)?,
            None => Vec::new(),
        };
        match numbers[..] {
            [factor] if factor.is_finite() => matrix.factor = factor,
            _ => {
                return Err(Error::rule(format!(
                    "{name} must be one finite number, the factor of {weight}, not {:?} of {numbers:?}",
                    stored.shape
                )));
            }
        }
    }
    Ok(())
}

/// Adds one of the file's tensors: under its Hugging Face name, or as those that it stacks or
/// fuses. One that the family has no name for keeps its own: the architecture asks for no such
/// tensor.
///
/// # Errors
/// A stack that does not divide into its experts, a fused tensor whose rows are not those of q, k
/// and v; a name that exists already.
pub(super) fn add(
    index: &mut Index,
    name: String,
    tensor: Stored,
    counts: &HeadCounts,
    gguf: &Gguf,
) -> Result<()> {
    let parts: Vec<&str> = name.split('.').collect();
    if let &["blk", layer, part, kind] = parts.as_slice() {
        if !names::has(gguf, part, kind) {
            return index.add(name, tensor); // llama.cpp has no such bias
        }
        let known = names::modules(gguf).any(|module| module.stored == part);
        if part == "attn_qkv" && ["weight", "bias"].contains(&kind) && !known {
            let block = format!("blk.{layer}");
            return fused(index, [&name, &block, kind], tensor, counts, gguf);
        }
    }
    let Some((own, module)) = names::back(gguf, &name) else {
        return index.add(name, tensor);
    };
    let stored = as_said(tensor, module, counts);
    match names::stacked(module) {
        false => index.add(own, stored),
        true => experts(index, &name, &own, stored),
    }
}

/// A tensor with what the dialect says of how it is stored.
fn as_said(tensor: Stored, module: &Module, counts: &HeadCounts) -> Stored {
    Stored {
        permuted: counts.permuted(module),
        added: match module.values {
            Values::Same => 0.0,
            Values::PlusOne => 1.0,
        },
        ..tensor
    }
}

/// Adds the tensors of all experts, which a file stacks.
fn experts(index: &mut Index, name: &str, own: &str, stack: Stored) -> Result<()> {
    let (count, each) = match stack.shape.split_first() {
        Some((&count, each)) if count > 0 && !each.is_empty() => (count, each.to_vec()),
        _ => (0, Vec::new()),
    };
    // without values, a damaged file could claim any number of experts
    if count == 0 || stack.len == 0 || !stack.len.is_multiple_of(count as u64) {
        return Err(Error::rule(format!(
            "{name} has the shape {:?}, which is no stack of matrices",
            stack.shape
        )));
    }
    let len = stack.len / count as u64;
    for expert in 0..count {
        let one = Stored {
            start: stack.start + expert as u64 * len,
            len,
            shape: each.clone(),
            ..stack.clone()
        };
        index.add(names::of_expert(own, expert), one)?;
    }
    Ok(())
}

/// Adds q, k and v, which a file fuses; `names` are the tensor's, its block's and its kind.
fn fused(
    index: &mut Index,
    [name, block, kind]: [&str; 3],
    tensor: Stored,
    counts: &HeadCounts,
    gguf: &Gguf,
) -> Result<()> {
    let (q, k) = (
        counts.query.saturating_mul(counts.features),
        counts.key.saturating_mul(counts.features),
    );
    let found = tensor.shape.first().copied().unwrap_or(0);
    let all = q.saturating_add(k).saturating_add(k);
    if found != all || !tensor.len.is_multiple_of(found.max(1) as u64) {
        return Err(Error::rule(format!(
            "{name} has {found} rows; {} query and twice {} key-value heads of {} features have {all}",
            counts.query, counts.key, counts.features
        )));
    }
    let row = tensor.len / found as u64;
    let mut first = 0;
    for (part, rows) in [("attn_q", q), ("attn_k", k), ("attn_v", k)] {
        let mut shape = tensor.shape.clone();
        shape[0] = rows;
        let stored = Stored {
            start: tensor.start + first * row,
            len: rows as u64 * row,
            shape,
            ..tensor.clone()
        };
        let own = format!("{block}.{part}.{kind}");
        match names::back(gguf, &own) {
            Some((own, module)) => index.add(own, as_said(stored, module, counts))?,
            None => index.add(own, stored)?,
        }
        first += rows as u64;
    }
    Ok(())
}

/// Checks the biases of q, k and v against the layout of their weights: llama.cpp reads a fused
/// bias only with fused weights, and otherwise all three or, silently, none.
///
/// # Errors
/// A bias that llama.cpp refuses or ignores, with the weight it belongs to.
pub(super) fn beside<'a>(names: impl Iterator<Item = &'a String>) -> Result<()> {
    let names: BTreeSet<&str> = names.map(String::as_str).collect();
    let has = |block: &str, end: &str| names.contains(format!("{block}{end}").as_str());
    for name in &names {
        let Some((block, end @ (".attn_qkv.bias" | ".attn_qkv.weight"))) =
            name.find(".attn_qkv.").map(|at| name.split_at(at))
        else {
            continue;
        };
        if end == ".attn_qkv.bias" && !has(block, ".attn_qkv.weight") {
            return Err(Error::rule(format!(
                "it has {name}, but no {block}.attn_qkv.weight"
            )));
        }
        let parts = [".attn_q.bias", ".attn_k.bias", ".attn_v.bias"];
        let there = parts.iter().find(|part| has(block, part));
        let lacking = parts.iter().find(|part| !has(block, part));
        if let (Some(there), Some(lacking)) = (there, lacking) {
            return Err(Error::rule(format!(
                "it has {block}{there} beside {name}, but no {block}{lacking}"
            )));
        }
    }
    Ok(())
}

/// Completes biases: llama.cpp adds each one that exists, while a configuration has one key for all
/// of attention's and one for the MLP's, or a family has some always. Where a file has only some,
/// the others become zeros, which compute the same.
pub(super) fn biases(index: &mut Index, config: &mut Value, gguf: &Gguf) -> Result<()> {
    for group in gguf.biases {
        let of_group = |name: &str, kind: &str| {
            let module = name.strip_suffix(kind).and_then(|m| m.rsplit_once('.'));
            module.is_some_and(|(block, projection)| {
                block.ends_with(group.module) && group.projections.contains(&projection)
            })
        };
        let has = index.tensors.keys().any(|n| of_group(n, ".bias"));
        if let Some(key) = group.key {
            config[key] = Value::Bool(has);
            if !has {
                continue;
            }
        }
        let lacking: Vec<(String, usize)> = index
            .tensors
            .iter()
            .filter(|(name, _)| of_group(name, ".weight"))
            .filter_map(|(name, weight)| {
                let bias = format!("{}.bias", name.strip_suffix(".weight")?);
                Some((bias, *weight.shape.first()?))
            })
            .filter(|(bias, _)| !index.tensors.contains_key(bias))
            .collect();
        zeros(index, lacking)?;
    }
    Ok(())
}

fn zeros(index: &mut Index, wanted: Vec<(String, usize)>) -> Result<()> {
    let Some(longest) = wanted.iter().map(|(_, rows)| *rows).max() else {
        return Ok(());
    };
    let (file, bytes) = (index.files.len(), vec![0; 4 * longest]);
    let source = ByteSource::memory("biases that the file does not have", bytes);
    index.files.push(Arc::new(source));
    for (name, rows) in wanted {
        let zero = Stored {
            file,
            start: 0,
            len: 4 * rows as u64,
            shape: vec![rows],
            format: Format::Dense(Dtype::F32),
            permuted: None,
            columns: None,
            factor: 1.0,
            added: 0.0,
        };
        index.add(name, zero)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_gets_the_factor_that_lies_beside_it() {
        let numbers = [0.25f32, f32::NAN, 3.0].map(f32::to_le_bytes).concat();
        let files = [ByteSource::memory("x", numbers)];
        let stored = |start: u64, shape: &[usize]| Stored {
            file: 0,
            start,
            len: 4 * shape.iter().product::<usize>() as u64,
            shape: shape.to_vec(),
            format: Format::Dense(Dtype::F32),
            permuted: None,
            columns: None,
            factor: 1.0,
            added: 0.0,
        };
        let with = |more: &[(&str, Stored)]| {
            let mut tensors: BTreeMap<String, Stored> = more
                .iter()
                .map(|(name, tensor)| ((*name).to_string(), tensor.clone()))
                .collect();
            tensors.insert("blk.0.ffn_up.weight".into(), stored(0, &[1, 3]));
            factors(&mut tensors, &files).map(|()| tensors)
        };
        let tensors = with(&[
            ("blk.0.ffn_up.scale", stored(0, &[1])),
            ("blk.0.ffn_up.input_scale", stored(8, &[1])),
            ("blk.1.ffn_up.scale", stored(8, &[1])),
        ])
        .unwrap();
        let names: Vec<&str> = tensors.keys().map(String::as_str).collect();
        // one without its matrix stays, for the architecture to refuse
        assert_eq!(names, ["blk.0.ffn_up.weight", "blk.1.ffn_up.scale"]);
        assert_eq!(tensors["blk.0.ffn_up.weight"].factor, 0.25);
        for wrong in [stored(4, &[1]), stored(0, &[2])] {
            let e = with(&[("blk.0.ffn_up.scale", wrong)]).unwrap_err();
            let e = e.to_string();
            assert!(e.contains("blk.0.ffn_up.scale must be one finite"), "{e}");
        }
    }
}
