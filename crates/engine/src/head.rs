//! The head of a model whose embedding is its weight too: two uses of one weight, of which an
//! adapter means one.
//!
//! Decided here for every kind of adapter and export: what is learnt of the head goes by `lm_head`,
//! as in PEFT, whatever the weight is called; the embedding stays the base's. Together they are a
//! model with two weights, so a merged export writes both and says so in its configuration.

use candle_core::{DType, Device, Tensor};
use randori_kernels::{Error, Result, Weight};
use randori_lora::{LoraSpec, Projection, peft};
use randori_sdk::seam::Architecture;

use crate::{
    Base, Params,
    trace::{Trace, call::tied_embedding},
    weights::Stream,
};

/// What a tied head goes by.
pub const HEAD: &str = "lm_head";

impl Trace {
    /// The embedding that makes the logits too (`model.embed_tokens`), where there is one.
    pub fn tied(&self) -> Option<&str> {
        self.tied_head()?.name.strip_suffix(".weight")
    }

    /// Every projection by the name that an update of it goes by.
    pub fn projections(&self) -> Vec<Projection> {
        let tied = self.tied();
        let each = self.linears.iter().map(|l| Projection {
            name: match Some(l.name.as_str()) == tied {
                true => HEAD.to_string(),
                false => l.name.clone(),
            },
            weight: l.name.clone(),
            inputs: l.inputs,
            outputs: l.outputs,
            head: l.layer.is_none(),
        });
        each.collect()
    }

    /// The weight that a tensor trained in full stands for: its own name, or the embedding's for a
    /// tied head's.
    pub(crate) fn source(&self, own: &str) -> String {
        match self.tied() {
            Some(embedding) if own == weight(HEAD) => weight(embedding),
            _ => own.to_string(),
        }
    }
}

/// Full name of a module's weight.
pub(crate) fn weight(module: &str) -> String {
    format!("{module}.weight")
}

/// The embedding of a player whose head may differ from it in what has been learnt.
pub(crate) fn embedding_of(
    arch: &dyn Architecture,
    spec: Option<&LoraSpec>,
    params: &Params,
) -> Result<Option<String>> {
    // without any of these neither use has something of its own
    let may_differ = |spec: &LoraSpec| {
        !spec.modules_to_save.is_empty()
            || !spec.replaced.is_empty()
            || params.contains_key(&format!("{HEAD}.lora_A"))
    };
    match spec.is_some_and(may_differ) {
        true => tied_embedding(arch),
        false => Ok(None),
    }
}

/// What unties a head: one of the two uses has learnt something that the other has not. The
/// embedding's name then.
///
/// # Errors
/// What the architecture says to a run on shapes.
pub fn untied(
    arch: &dyn Architecture,
    spec: Option<&LoraSpec>,
    params: &Params,
) -> Result<Option<String>> {
    let Some(spec) = spec else { return Ok(None) };
    let Some(embedding) = embedding_of(arch, Some(spec), params)? else {
        return Ok(None);
    };
    let head = format!("{HEAD}.lora_A");
    let heads = params.contains_key(&head) || params.contains_key(&weight(HEAD));
    let embeddings = weight(&embedding);
    let own = params.contains_key(&embeddings) && !spec.replaced.contains(&embeddings);
    Ok((heads || own).then_some(embedding))
}

/// An adapter by the names that this base's players go by, without what says nothing: a tied head's
/// update is the head's, a copy of a tied weight is that weight's, and a copy that is the base's
/// own is dropped. Updates of experts are by this base's names, and by its order of their outputs.
pub(crate) fn settle(
    traced: &Trace,
    arch: &dyn Architecture,
    (mut spec, mut params): (LoraSpec, Params),
    base: &dyn Fn(&str) -> Result<Option<Tensor>>,
) -> Result<(LoraSpec, Params)> {
    if std::mem::take(&mut spec.halved) && arch.dialect().takes_turns() {
        let dealt = peft::deal_out(params);
        params = dealt.map_err(|e| Error::rule(e.to_string()))?;
    }
    params = peft::as_in_base(params, &traced.projections());
    if let Some(embedding) = traced.tied() {
        for part in ["lora_A", "lora_B", "lora_magnitude_vector"] {
            rename(
                &mut params,
                &format!("{embedding}.{part}"),
                &format!("{HEAD}.{part}"),
            )?;
        }
        let (copy, shared) = (weight(HEAD), weight(embedding));
        // an embedding of its own leaves the copy to the head alone
        let at = spec.replaced.iter().position(|name| *name == copy);
        if let Some(at) = at.filter(|_| !spec.saves(embedding)) {
            spec.replaced.remove(at);
            if !spec.replaced.contains(&shared) {
                spec.replaced.push(shared.clone());
            }
            rename(&mut params, &copy, &shared)?;
        }
    }
    for name in std::mem::take(&mut spec.replaced) {
        let copy = params
            .get(&name)
            .ok_or_else(|| Error::rule(format!("the adapter has no {name}, which it replaces")))?;
        match base(&traced.source(&name))? {
            Some(own) if same(copy, &own)? => drop(params.remove(&name)),
            Some(_) => spec.replaced.push(name),
            None => {
                return Err(Error::rule(format!(
                    "the adapter has {name}, but the base has no such weight"
                )));
            }
        }
    }
    Ok((spec, params))
}

/// Another name for a tensor; two tensors may come to one name only if they are the same.
fn rename(params: &mut Params, from: &str, to: &str) -> Result<()> {
    let Some(tensor) = params.remove(from) else {
        return Ok(());
    };
    match params.get(to) {
        Some(there) if !same(&tensor, there)? => Err(Error::rule(format!(
            "the adapter has {from} and {to}, which this model shares, with different values"
        ))),
        _ => {
            params.insert(to.to_string(), tensor);
            Ok(())
        }
    }
}

/// Whether a copy is the base's weight, in the numbers that the base is held in.
fn same(copy: &Tensor, own: &Tensor) -> Result<bool> {
    if copy.dims() != own.dims() {
        return Ok(false);
    }
    let values = |t: &Tensor| -> Result<Vec<f32>> {
        let held = t.to_dtype(own.dtype())?.to_dtype(DType::F32)?;
        Ok(held.flatten_all()?.to_vec1()?)
    };
    Ok(values(copy)? == values(own)?)
}

/// A base's weight as it is held, in the machine's memory.
pub(crate) fn weight_on_cpu(base: &Base, name: &str) -> Result<Option<Tensor>> {
    let Some(w) = base.weights.get(name) else {
        return Ok(None);
    };
    Ok(Some(match w {
        Weight::Dense(t) => t.to_device(&Device::Cpu)?,
        other => other.to_f32()?,
    }))
}

impl Stream {
    /// An adapter by the names that players on this base go by, as [`crate::Player::with_adapter`]
    /// takes it.
    ///
    /// # Errors
    /// Tensors of one weight that differ, a copy of a weight that the base does not have, or what
    /// the file refuses.
    pub fn settle(&self, spec: LoraSpec, params: Params) -> Result<(LoraSpec, Params)> {
        settle(self.trace(), &**self.arch(), (spec, params), &|name| {
            if !self.trace().weights.iter().any(|w| w.name == name) {
                return Ok(None);
            }
            Ok(Some(match self.weight(name)? {
                Weight::Dense(t) => t,
                other => other.to_f32()?,
            }))
        })
    }
}
