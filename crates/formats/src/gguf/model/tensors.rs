//! A GGUF's tensors under Hugging Face's names: splits stacked experts and a fused q, k and v, and
//! completes biases that only some projections have.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use randori_sdk::dialect::{Gguf, Module, Values};
use serde_json::Value;

use super::{
    dialect::{Keys, Spoken},
    heads::Heads,
    names,
};
use crate::{
    ByteSource, Dtype, Error, Format, Index, Result, Stored,
    gguf::{self, bytes::Read, header::Header},
};

/// Leaves away the blocks that predict further tokens, in which no token of a text is: tensors and
/// entries of lists behind those of the model's own layers.
///
/// # Errors
/// As many of them as there are blocks, or more.
pub(super) fn without_further(header: &mut Header, spoken: &Spoken) -> Read<()> {
    if !spoken.gguf.nextn {
        return Ok(());
    }
    let keys = Keys::new(header)?;
    let (own, count) = (keys.name(""), keys.name("block_count"));
    let further = keys.name("nextn_predict_layers");
    let (Some(more @ 1..), Some(blocks)) = (header.whole(&further)?, header.whole(&count)?) else {
        return Ok(());
    };
    let Some(layers) = blocks.checked_sub(more).filter(|layers| *layers > 0) else {
        return Err(format!("{further} is {more} of {blocks} blocks"));
    };
    let all = header.metadata.iter_mut();
    for (_, value) in all.filter(|(key, _)| key.starts_with(&own)) {
        match value {
            gguf::Value::Ints(list) if list.len() == blocks => list.truncate(layers),
            gguf::Value::Bools(list) if list.len() == blocks => list.truncate(layers),
            _ => {}
        }
    }
    header.metadata.remove(&further);
    header
        .metadata
        .insert(count, gguf::Value::Int(layers as i128));
    header.tensors.retain(|name, _| {
        let number = name
            .strip_prefix("blk.")
            .and_then(|rest| rest.split('.').next());
        let number = number.and_then(|n| n.parse::<usize>().ok());
        number.is_none_or(|n| n < layers)
    });
    Ok(())
}

/// Takes what belongs to matrices of layers out of the tensors: the factor of all values, one
/// number (`blk.0.attn_q.scale` of `blk.0.attn_q.weight`), which NVFP4 wants since its blocks'
/// scales span little, and the scale by which some GPUs quantise activations (`.input_scale`),
/// which is not used. What the dialect has a name for is no factor.
///
/// # Errors
/// A factor that is not one finite number.
pub(super) fn factors(
    tensors: &mut BTreeMap<String, Stored>,
    files: &[ByteSource],
    gguf: &Gguf,
) -> Result<()> {
    let matrix_of = |name: &String| {
        let (stem, kind) = name.rsplit_once('.')?;
        let weight = format!("{stem}.weight");
        let is_matrix = tensors.get(&weight)?.shape.len() == 2;
        let is_factor = name.starts_with("blk.") && ["scale", "input_scale"].contains(&kind);
        let known = names::back(gguf, name).is_some_and(|(_, module)| module.raw);
        (is_matrix && is_factor && !known).then(|| (name.clone(), weight))
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
    heads: &Heads,
    gguf: &Gguf,
) -> Result<()> {
    let parts: Vec<&str> = name.split('.').collect();
    let found = names::back(gguf, &name);
    let raw = found.as_ref().is_some_and(|(_, module)| module.raw);
    if let (&["blk", layer, part, kind], false) = (parts.as_slice(), raw) {
        if !names::has(gguf, part, kind) {
            return index.add(name, tensor); // llama.cpp has no such bias
        }
        let known = names::modules(gguf).any(|module| module.stored == part);
        if part == "attn_qkv" && ["weight", "bias"].contains(&kind) && !known {
            let block = format!("blk.{layer}");
            return fused(index, [&name, &block, kind], tensor, heads, gguf);
        }
    }
    let Some((own, module)) = found else {
        return index.add(name, tensor);
    };
    match names::stacked(module) {
        false => index.add(own, as_said(&name, tensor, module, heads)?),
        true => experts(index, [&name, &own], tensor, module, heads),
    }
}

/// A tensor, or one of a stack, with what the dialect says of how it is stored.
fn as_said(name: &str, mut tensor: Stored, module: &Module, heads: &Heads) -> Result<Stored> {
    if module.squeezed && tensor.shape.len() == 2 {
        tensor.shape.insert(1, 1);
    }
    let order = heads.order(module, &tensor.shape);
    Ok(Stored {
        order: order.map_err(|what| Error::rule(format!("{name} {what}")))?,
        values: module.values,
        ..tensor
    })
}

/// Adds the tensors of all experts, which a file stacks; `names` are the stack's and transformers'.
fn experts(
    index: &mut Index,
    [name, own]: [&str; 2],
    stack: Stored,
    module: &Module,
    heads: &Heads,
) -> Result<()> {
    let (count, each) = match stack.shape.split_first() {
        Some((&count, each)) if count > 0 && !each.is_empty() => (count, each.to_vec()),
        _ => (0, Vec::new()),
    };
    let parts = names::in_one(own, module);
    let all = count.saturating_mul(parts.len()) as u64;
    let rows = each.first().copied().unwrap_or(0);
    // without values, a damaged file could claim any number of experts
    let whole = rows.is_multiple_of(parts.len()) && stack.len.is_multiple_of(all.max(1));
    if count == 0 || stack.len == 0 || !whole {
        let what = match parts.len() {
            1 => "matrices",
            _ => "two matrices an expert",
        };
        return Err(Error::rule(format!(
            "{name} has the shape {:?}, which is no stack of {what}",
            stack.shape
        )));
    }
    let len = stack.len / all;
    let mut first = Stored { len, ..stack };
    first.shape = each;
    first.shape[0] = rows / parts.len();
    let mut next = as_said(name, first, module, heads)?;
    for expert in 0..count {
        for part in &parts {
            index.add(names::of_expert(part, expert), next.clone())?;
            next.start += len;
        }
    }
    Ok(())
}

/// Adds q, k and v, which a file fuses; `names` are the tensor's, its block's and its kind.
fn fused(
    index: &mut Index,
    [name, block, kind]: [&str; 3],
    tensor: Stored,
    heads: &Heads,
    gguf: &Gguf,
) -> Result<()> {
    let (q, k) = (
        heads.query.saturating_mul(heads.features),
        heads.key.saturating_mul(heads.features),
    );
    let found = tensor.shape.first().copied().unwrap_or(0);
    let all = q.saturating_add(k).saturating_add(k);
    if found != all || !tensor.len.is_multiple_of(found.max(1) as u64) {
        return Err(Error::rule(format!(
            "{name} has {found} rows; {} query and twice {} key-value heads of {} features have {all}",
            heads.query, heads.key, heads.features
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
            Some((module_of, module)) => {
                index.add(module_of, as_said(&own, stored, module, heads)?)?;
            }
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
            order: None,
            columns: None,
            factor: 1.0,
            values: Values::Same,
        };
        index.add(name, zero)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use randori_sdk::{Dialect, seam::Family};

    use super::*;

    #[test]
    fn blocks_that_predict_further_tokens_are_left_away() {
        let dialect = Dialect {
            gguf: Some(Gguf {
                architecture: "hybrid",
                nextn: true,
                ..Gguf::LLAMA
            }),
            ..Dialect::NONE
        };
        let family = Family::new("hybrid", dialect);
        let spoken = Spoken::of(&family).unwrap();
        let read = |further: i128| {
            let keys = [
                (
                    "general.architecture",
                    gguf::Value::Text("hybrid".to_string()),
                ),
                ("hybrid.block_count", gguf::Value::Int(3)),
                ("hybrid.nextn_predict_layers", gguf::Value::Int(further)),
                ("hybrid.kinds", gguf::Value::Bools(vec![true, false, false])),
                ("hybrid.sections", gguf::Value::Ints(vec![1, 2])),
                ("other.list", gguf::Value::Ints(vec![1, 2, 3])),
            ];
            let keys = keys.map(|(key, value)| (key.to_string(), value));
            let bytes = gguf::header::write(&keys, &[]).unwrap();
            let mut header = Header::read(&ByteSource::memory("x", bytes)).unwrap();
            for name in [
                "blk.1.attn_q.weight",
                "blk.2.nextn.eh_proj.weight",
                "output.weight",
            ] {
                header.tensors.insert(name.to_string(), stored(0, &[1]));
            }
            without_further(&mut header, &spoken).map(|()| header)
        };
        let header = read(1).unwrap();
        for (key, value) in [
            ("hybrid.block_count", gguf::Value::Int(2)),
            ("hybrid.kinds", gguf::Value::Bools(vec![true, false])),
            ("hybrid.sections", gguf::Value::Ints(vec![1, 2])),
            ("other.list", gguf::Value::Ints(vec![1, 2, 3])),
        ] {
            assert_eq!(header.metadata[key], value);
        }
        assert!(!header.metadata.contains_key("hybrid.nextn_predict_layers"));
        let names: Vec<&String> = header.tensors.keys().collect();
        assert_eq!(names, ["blk.1.attn_q.weight", "output.weight"]);
        assert_eq!(read(0).unwrap().tensors.len(), 3);
        let e = read(3).unwrap_err();
        assert_eq!(e, "hybrid.nextn_predict_layers is 3 of 3 blocks");
    }

    fn stored(start: u64, shape: &[usize]) -> Stored {
        Stored {
            file: 0,
            start,
            len: 4 * shape.iter().product::<usize>() as u64,
            shape: shape.to_vec(),
            format: Format::Dense(Dtype::F32),
            order: None,
            columns: None,
            factor: 1.0,
            values: Values::Same,
        }
    }

    #[test]
    fn a_matrix_gets_the_factor_that_lies_beside_it() {
        let numbers = [0.25f32, f32::NAN, 3.0].map(f32::to_le_bytes).concat();
        let files = [ByteSource::memory("x", numbers)];
        let with = |more: &[(&str, Stored)]| {
            let mut tensors: BTreeMap<String, Stored> = more
                .iter()
                .map(|(name, tensor)| ((*name).to_string(), tensor.clone()))
                .collect();
            tensors.insert("blk.0.ffn_up.weight".into(), stored(0, &[1, 3]));
            factors(&mut tensors, &files, &Gguf::LLAMA).map(|()| tensors)
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
