//! A stored adapter on its base: held against the base's projections before it plays; and what an adapter takes from
//! the base when it begins.

use std::{collections::BTreeSet, sync::Arc};

use candle_core::{Device, Tensor};
use randori_lora::{LoraSpec, Targets, peft};

use crate::{
    Base, Error, Params, Player, Result, trace,
    trace::{Trace, TracedLinear},
    weights::Stream,
};

impl Player {
    /// Base with an adapter that was trained earlier (what `peft::load` answers).
    ///
    /// # Errors
    /// A projection that the adapter's targets name and its tensors lack, a tensor of a projection that the base does not
    /// have, a shape that does not fit: an adapter of another model must not play as the bare base.
    pub fn with_adapter(base: Arc<Base>, spec: LoraSpec, params: Params) -> Result<Player> {
        fits(&trace(base.arch.as_ref())?, &spec, &params)?;
        Ok(Player {
            base,
            lora: Some(Arc::new(spec)),
            params: Arc::new(params),
        })
    }
}

/// What a fresh adapter of these settings adapts.
pub(crate) struct Wanted {
    pub(crate) projections: Vec<TracedLinear>,
    /// Full names of the weights that are trained in full.
    pub(crate) saved: Vec<String>,
}

/// # Errors
/// No projection matches: those there are.
pub(crate) fn wanted(base: &Base, spec: &LoraSpec) -> Result<Wanted> {
    wanted_of(base.arch.name(), &trace(base.arch.as_ref())?, spec)
}

/// The same of an architecture of which there is a trace only.
///
/// # Errors
/// As there.
pub(crate) fn wanted_of(arch: &str, traced: &Trace, spec: &LoraSpec) -> Result<Wanted> {
    let all = matches!(spec.targets, Targets::AllLinear);
    let fits = |l: &&TracedLinear| spec.wants(&l.name) && (!all || l.layer.is_some());
    let projections: Vec<TracedLinear> = traced.linears.iter().filter(fits).cloned().collect();
    if projections.is_empty() {
        let last = |l: &TracedLinear| l.name.rsplit('.').next().map(str::to_string);
        let names: BTreeSet<String> = traced.linears.iter().filter_map(last).collect();
        return Err(Error::rule(format!(
            "no projection matches the adapter's targets {:?}; `{arch}` has: {}",
            spec.targets,
            names.into_iter().collect::<Vec<_>>().join(", ")
        )));
    }
    let saved = saved(traced, spec)?;
    Ok(Wanted { projections, saved })
}

/// The weights of the modules that an adapter trains in full.
///
/// # Errors
/// A module that the model does not have; an embedding that is the head too: PEFT would train a copy for one of the two
/// and untie them.
pub(crate) fn saved(traced: &Trace, spec: &LoraSpec) -> Result<Vec<String>> {
    let module = |name: &str| {
        name.rsplit_once('.')
            .map_or(name, |(module, _)| module)
            .to_string()
    };
    let tied = traced.tied_head();
    let mut found = Vec::new();
    for wanted in &spec.modules_to_save {
        let one = LoraSpec {
            modules_to_save: vec![wanted.clone()],
            ..LoraSpec::default()
        };
        let of_it: Vec<String> = traced
            .weights
            .iter()
            .filter(|w| one.saves(&module(&w.name)))
            .map(|w| w.name.clone())
            .collect();
        if let Some(tied) = tied.filter(|t| of_it.is_empty() || of_it.contains(&t.name)) {
            return Err(Error::rule(format!(
                "modules_to_save: {wanted} cannot be trained apart: this model's head is its embedding ({}); train it in full, or untie the model first",
                tied.name
            )));
        }
        if of_it.is_empty() {
            return Err(Error::rule(format!(
                "modules_to_save: the model has no module {wanted}"
            )));
        }
        found.extend(of_it);
    }
    Ok(found)
}

/// DoRA begins with each row's own length: (out).
pub(crate) fn magnitude(base: &Base, projection: &str) -> Result<Tensor> {
    let squares = base.row_squares(&format!("{projection}.weight"))?;
    let lengths: Vec<f32> = squares.iter().map(|s| s.sqrt() as f32).collect();
    let n = lengths.len();
    Ok(Tensor::from_vec(lengths, n, &Device::Cpu)?)
}

impl Stream {
    /// Holds what a player has learnt against this base: an adapter as [`Player::with_adapter`] does, a fully trained
    /// player's weights one by one.
    ///
    /// # Errors
    /// As there; a weight that is missing, unknown, or of another shape.
    pub fn accepts(&self, lora: Option<&LoraSpec>, params: &Params) -> Result<()> {
        if let Some(spec) = lora {
            return fits(self.trace(), spec, params);
        }
        if params.is_empty() {
            return Ok(());
        }
        for w in &self.trace().weights {
            match params.get(&w.name) {
                Some(t) if t.dims() == w.shape => {}
                Some(t) => {
                    return Err(Error::rule(format!(
                        "{} has shape {:?}, the base asks for {:?}",
                        w.name,
                        t.dims(),
                        w.shape
                    )));
                }
                None => {
                    return Err(Error::rule(format!(
                        "there is no {}, which the base asks for",
                        w.name
                    )));
                }
            }
        }
        let known = |name: &String| self.trace().weights.iter().any(|w| w.name == *name);
        match params.keys().find(|name| !known(name)) {
            Some(stray) => Err(Error::rule(format!(
                "there is {stray}, which the base does not know"
            ))),
            None => Ok(()),
        }
    }
}

/// An adapter of another model must not play as the bare base.
fn fits(traced: &Trace, spec: &LoraSpec, params: &Params) -> Result<()> {
    let all = matches!(spec.targets, Targets::AllLinear);
    let projections: Vec<(String, usize, usize)> = traced
        .linears
        .iter()
        .filter(|l| l.layer.is_some() || !all)
        .map(|l| (l.name.clone(), l.inputs, l.outputs))
        .collect();
    peft::fits(spec, params, &projections).map_err(|e| Error::rule(e.to_string()))?;
    let saved = saved(traced, spec)?;
    for name in &saved {
        let want = traced.weights.iter().find(|w| w.name == *name);
        let want = want.map(|w| w.shape.as_slice());
        match params.get(name).map(Tensor::dims) {
            Some(found) if Some(found) == want => {}
            found => {
                return Err(Error::rule(format!(
                    "the adapter trains {name} in full: the base wants {want:?}, the adapter has {found:?}"
                )));
            }
        }
    }
    if let Some(stray) = params
        .keys()
        .find(|name| !peft::is_update(name) && !saved.contains(name))
    {
        return Err(Error::rule(format!(
            "the adapter has {stray}, but the base has no such weight"
        )));
    }
    Ok(())
}
