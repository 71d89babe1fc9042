//! A stored adapter on its base: held against the base's projections before it plays; and what an
//! adapter takes from the base when it begins.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use randori_lora::{LoraSpec, Matched, Projection, peft};

use crate::{Base, Error, Params, Player, Result, head, trace, trace::Trace, weights::Stream};

impl Player {
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
        let held = |name: &str| head::held(&base, name);
        let (spec, params) = head::settled(&traced, spec, params, &held)?;
        fits(&traced, &spec, &params)?;
        Ok(Player {
            base,
            lora: Some(Arc::new(spec)),
            params: Arc::new(params),
        })
    }
}

/// What a fresh adapter of these settings adapts.
pub(crate) struct Wanted {
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

/// A weight that is to be trained in full and is quantised.
pub(crate) fn untrainable(name: &str) -> Error {
    Error::rule(format!(
        "{name} is quantised in this base and cannot be trained in full: leave it out of adapter.modules_to_save, or take a dense base (adapter.kind = \"lora\")"
    ))
}

fn names(traced: &Trace) -> Vec<String> {
    traced.weights.iter().map(|w| w.name.clone()).collect()
}

/// # Errors
/// An entry of the settings that matches nothing: names that are near, and those there are.
pub(crate) fn wanted(base: &Base, spec: &LoraSpec) -> Result<Wanted> {
    let traced = trace(base.arch.as_ref())?;
    matched(&traced, spec)?;
    wanted_of(&traced, spec)
}

/// The same of an architecture of which there is a trace only, for an adapter that may be stored
/// already: PEFT does not mind entries that match nothing.
///
/// # Errors
/// No projection at all, or a module to save that the model does not have.
pub(crate) fn wanted_of(traced: &Trace, spec: &LoraSpec) -> Result<Wanted> {
    let all = traced.projections().into_iter();
    let projections: Vec<Projection> = all.filter(|p| spec.adapts(p)).collect();
    if projections.is_empty() {
        matched(traced, spec)?; // says what there is
    }
    let saved = saved(traced, spec)?;
    Ok(Wanted { projections, saved })
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

/// DoRA begins with each row's own length: (out).
pub(crate) fn magnitude(base: &Base, projection: &str) -> Result<Tensor> {
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
