//! Players from a base: with a fresh adapter, with a stored one, which is first held against the
//! base's projections, or with every weight as a trainable copy.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use randori_kernels::{Error, Result, Weight};
use randori_lora::{LoraSpec, Matched, Projection, peft};

use crate::{Base, Params, Player, head, trace, trace::Trace, weights::Stream};

impl Player {
    /// What [`Player::with_lora`] would begin with, without making anything.
    ///
    /// # Errors
    /// As there.
    pub fn check_lora(base: &Base, spec: &LoraSpec) -> Result<Matched> {
        spec.check().map_err(|e| Error::rule(e.to_string()))?;
        let traced = trace(base.arch.as_ref())?;
        let found = matched(&traced, spec)?;
        let dense = |w: &Weight| matches!(w, Weight::Dense(_));
        trainable_in_full(&traced, &found, &|name| {
            base.weights.get(name).is_some_and(|w| !dense(w))
        })?;
        Ok(found)
    }

    /// Base with a fresh adapter (B = 0) on every projection that `spec` wants. The head is adapted
    /// only when it is asked for by name, not by "all linear". A head that shares the embedding's
    /// weight goes by `lm_head` or by the weight's name; the embedding itself gets no update.
    ///
    /// # Errors
    /// An entry of the settings that matches nothing, with names that are near.
    pub fn with_lora(base: Arc<Base>, spec: LoraSpec, seed: u64) -> Result<Player> {
        let traced = trace(base.arch.as_ref())?;
        matched(&traced, &spec)?;
        let adapted = resolve(&traced, &spec)?;
        let mut params = Params::new();
        for p in &adapted.projections {
            let (a, b) = spec.init(p, seed).map_err(|e| Error::rule(e.to_string()))?;
            params.insert(format!("{}.lora_A", p.name), a);
            params.insert(format!("{}.lora_B", p.name), b);
            if spec.dora {
                let m = magnitude(&base, &p.weight)?;
                params.insert(format!("{}.lora_magnitude_vector", p.name), m);
            }
        }
        for weight in adapted.saved {
            let own = trainable_copy(&base, &traced.source(&weight))?;
            params.insert(weight, own);
        }
        Ok(Player {
            base,
            lora: Some(Arc::new(spec)),
            params: Arc::new(params),
        })
    }

    /// Every weight trainable, as an f32 copy.
    ///
    /// # Errors
    /// A quantised weight: it cannot be trained.
    pub fn full(base: Arc<Base>) -> Result<Player> {
        let mut params = Params::new();
        for weight in trace(base.arch.as_ref())?.weights {
            let own = trainable_copy(&base, &weight.name)?;
            params.insert(weight.name, own);
        }
        Ok(Player {
            base,
            lora: None,
            params: Arc::new(params),
        })
    }

    /// Base with an adapter that was trained earlier (what `peft::load` answers), by the names of
    /// this base: an update of a tied head is the head's, and copies of the base's own weights are
    /// dropped.
    ///
    /// # Errors
    /// A projection that the adapter's targets name and its tensors lack, a tensor of a projection
    /// that the base does not have, a shape that does not fit: an adapter of another model must not
    /// play as the bare base.
    pub fn with_adapter(base: Arc<Base>, spec: LoraSpec, params: Params) -> Result<Player> {
        let traced = trace(base.arch.as_ref())?;
        let held = |name: &str| head::weight_on_cpu(&base, name);
        let (spec, params) = head::settle(&traced, &*base.arch, (spec, params), &held)?;
        fits(&traced, &spec, &params)?;
        Ok(Player {
            base,
            lora: Some(Arc::new(spec)),
            params: Arc::new(params),
        })
    }
}

/// What an adapter of these settings trains.
pub(crate) struct Adapted {
    /// Those that get a low-rank update.
    pub(crate) projections: Vec<Projection>,
    /// Full names of the weights that are trained in full.
    pub(crate) saved: Vec<String>,
}

/// What a fresh adapter of these settings would adapt, for people: how many projections of each
/// name.
///
/// # Errors
/// An entry of the settings that matches nothing, with names that are near.
pub fn matched(traced: &Trace, spec: &LoraSpec) -> Result<Matched> {
    let found = spec.match_projections(&traced.projections(), &names(traced));
    found.map_err(|e| Error::rule(e.to_string()))
}

/// Holds the weights that a fresh adapter would train in full against how the base holds them.
///
/// # Errors
/// One that is `quantised` (asked by full name): it cannot be trained.
pub fn trainable_in_full(
    traced: &Trace,
    found: &Matched,
    quantised: &dyn Fn(&str) -> bool,
) -> Result<()> {
    let stuck = |name: &&String| quantised(&traced.source(name));
    match found.saved.iter().find(stuck) {
        Some(name) => Err(untrainable(name)),
        None => Ok(()),
    }
}

/// An f32 copy of a dense weight of the base.
fn trainable_copy(base: &Base, name: &str) -> Result<Tensor> {
    match base.weights.get(name) {
        Some(w @ Weight::Dense(t)) => match t.dtype() {
            DType::F32 if t.device().is_cpu() => Ok(t.copy()?),
            _ => w.to_f32(),
        },
        Some(_) => Err(untrainable(name)),
        None => Err(Error::rule(format!("the model has no weight `{name}`"))),
    }
}

/// The error about a weight that is to be trained in full and is quantised.
fn untrainable(name: &str) -> Error {
    Error::rule(format!(
        "{name} is quantised in this base and cannot be trained in full: leave it out of adapter.modules_to_save, or take a dense base (adapter.kind = \"lora\")"
    ))
}

fn names(traced: &Trace) -> Vec<String> {
    traced.weights.iter().map(|w| w.name.clone()).collect()
}

/// Finds what an adapter of these settings trains. It may be stored already, so an entry that
/// matches nothing is no error here: PEFT does not mind one.
///
/// # Errors
/// No projection at all, or a module to save that the model does not have.
pub(crate) fn resolve(traced: &Trace, spec: &LoraSpec) -> Result<Adapted> {
    let all = traced.projections().into_iter();
    let projections: Vec<Projection> = all.filter(|p| spec.adapts(p)).collect();
    if projections.is_empty() {
        matched(traced, spec)?; // says what there is
    }
    let saved = saved(traced, spec)?;
    Ok(Adapted { projections, saved })
}

/// The weights that an adapter has of its own in full.
///
/// # Errors
/// A module that the model does not have.
fn saved(traced: &Trace, spec: &LoraSpec) -> Result<Vec<String>> {
    let full = spec.resolve_saved(&traced.projections(), &names(traced));
    let mut full = full.map_err(|e| Error::rule(e.to_string()))?;
    full.extend(spec.replaced.iter().cloned());
    Ok(full)
}

/// The magnitudes that DoRA begins with: each row's own length, (out).
fn magnitude(base: &Base, projection: &str) -> Result<Tensor> {
    let squares = base.row_squares(&format!("{projection}.weight"))?;
    let lengths: Vec<f32> = squares.iter().map(|s| s.sqrt() as f32).collect();
    let n = lengths.len();
    Ok(Tensor::from_vec(lengths, n, &Device::Cpu)?)
}

impl Stream {
    /// Holds what a player has learnt against this base: an adapter as [`Player::with_adapter`]
    /// does, a fully trained player's weights one by one.
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
    peft::check_fit(spec, params, &traced.projections()).map_err(|e| Error::rule(e.to_string()))?;
    let saved = saved(traced, spec)?;
    for name in &saved {
        let source = traced.source(name);
        let want = traced.weights.iter().find(|w| w.name == source);
        let want = want.map(|w| w.shape.as_slice());
        match params.get(name).map(Tensor::dims) {
            Some(found) if Some(found) == want => {}
            found => {
                return Err(Error::rule(format!(
                    "the adapter has {name} of its own: the base wants {want:?}, the adapter has {found:?}"
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
