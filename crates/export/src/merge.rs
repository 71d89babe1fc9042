//! A player's weights as plain tensors, from a base in memory or weight by weight from disk.

use std::borrow::Cow;

use candle_core::Tensor;
use randori_engine::{
    Base, Params, Player,
    head::{HEAD, untied},
    weights::Stream,
};
use randori_lora::LoraSpec;
use serde_json::Value;

use crate::{Error, Result};

/// One weight of a player, in f32.
pub struct Merged {
    /// As the player computes with it.
    pub weight: Tensor,
    /// As the base has it; `None` where the player changed nothing.
    pub base: Option<Tensor>,
}

/// A model's weights, merged, one at a time: what every output format is written from.
pub trait Tensors {
    /// The configuration in Hugging Face's spelling, of the merged model: where head and embedding
    /// shared a weight and the player changed one of the two uses, it says that they are two.
    fn config(&self) -> Cow<'_, Value>;
    /// Every tensor's full name and shape, sorted by name; with a head of its own where the player
    /// untied it.
    fn list(&self) -> Vec<(String, Vec<usize>)>;
    /// One of them, in f32, with the base's values where the player changed it.
    ///
    /// # Errors
    /// A name that is not in the list, or an update that does not fit.
    fn read(&self, name: &str) -> Result<Merged>;
    /// Refuses an update that belongs to no weight of the base.
    ///
    /// # Errors
    /// The stray tensor.
    fn check(&self) -> Result<()> {
        Ok(())
    }
    /// The values that the player itself computed with before its update, where the update goes onto others; `None`
    /// where it changed nothing, or they are the same.
    ///
    /// # Errors
    /// As [`Tensors::read`].
    fn trained_on(&self, _name: &str) -> Result<Option<Tensor>> {
        Ok(None)
    }
}

/// Which base receives the update.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Onto {
    /// The values it was trained on: a quantised base dequantised, a dense one in its load dtype.
    #[default]
    Dequantised,
    /// The checkpoint's own values.
    Original,
}

/// A player whose base stays on disk: one weight at a time is read, dequantised and merged.
pub struct Merging<'a> {
    stream: &'a Stream,
    lora: Option<&'a LoraSpec>,
    params: &'a Params,
    onto: Onto,
    /// The embedding that the player's head shares no more.
    untied: Option<String>,
}

impl<'a> Merging<'a> {
    /// `lora` and `params` as a [`Player`] has them (none and empty: the bare base).
    ///
    /// # Errors
    /// What was learnt does not fit the base: something is missing, stray, or of another shape.
    pub fn new(
        stream: &'a Stream,
        lora: Option<&'a LoraSpec>,
        params: &'a Params,
        onto: Onto,
    ) -> Result<Self> {
        stream.accepts(lora, params)?;
        let merging = Merging {
            stream,
            lora,
            params,
            onto,
            untied: untied(stream.arch().as_ref(), lora, params)?,
        };
        let list = merging.list();
        no_stray(params, &|name| list.iter().any(|(known, _)| known == name))?;
        Ok(merging)
    }
}

impl Tensors for Merging<'_> {
    fn config(&self) -> Cow<'_, Value> {
        config(self.stream.config(), self.untied.as_deref())
    }

    fn list(&self) -> Vec<(String, Vec<usize>)> {
        list(self.stream.list(), self.untied.as_deref())
    }

    fn read(&self, name: &str) -> Result<Merged> {
        let untied = self.untied.as_deref();
        let source = source(name, untied);
        let weight = match self.onto {
            Onto::Dequantised => self.stream.weight(&source)?.to_f32()?,
            Onto::Original => self.stream.original(&source)?,
        };
        updated(weight, self.lora, self.params, name, untied)
    }

    fn trained_on(&self, name: &str) -> Result<Option<Tensor>> {
        if self.onto == Onto::Dequantised || !goes_onto(self.params, name) {
            return Ok(None);
        }
        let source = source(name, self.untied.as_deref());
        Ok(Some(self.stream.weight(&source)?.to_f32()?))
    }
}

/// The base's configuration, or that of two weights where it has one.
fn config<'a>(base: &'a Value, untied: Option<&str>) -> Cow<'a, Value> {
    let mut config = Cow::Borrowed(base);
    if untied.is_some() {
        config.to_mut()["tie_word_embeddings"] = false.into();
    }
    config
}

/// The base's weights, and the head's own where it has one now.
fn list(base: Vec<(String, Vec<usize>)>, untied: Option<&str>) -> Vec<(String, Vec<usize>)> {
    let mut all = base;
    if let Some(embedding) = untied {
        let shared = all.iter().find(|(name, _)| *name == full(embedding));
        let shape = shared.map(|(_, shape)| shape.clone());
        all.extend(shape.map(|shape| (full(HEAD), shape)));
        all.sort();
    }
    all
}

/// The base's weight that this one of the merged model is made of.
fn source(name: &str, untied: Option<&str>) -> String {
    match untied {
        Some(embedding) if name == full(HEAD) => full(embedding),
        _ => name.to_string(),
    }
}

fn full(module: &str) -> String {
    format!("{module}.weight")
}

/// A player whose base is in memory.
pub struct Whole<'a> {
    /// Base and update.
    pub player: &'a Player,
    /// The base that receives the update, where it is not the player's own.
    pub onto: Option<&'a Base>,
}

impl Whole<'_> {
    fn base(&self) -> &Base {
        self.onto.unwrap_or(&self.player.base)
    }
}

/// The embedding that a player's head shares no more.
fn untied_by(player: &Player) -> Result<Option<String>> {
    let arch = player.base.arch.as_ref();
    Ok(untied(arch, player.lora.as_deref(), &player.params)?)
}

impl Tensors for Whole<'_> {
    fn config(&self) -> Cow<'_, Value> {
        // an architecture that refuses a run on shapes is refused by `check`
        let untied = untied_by(self.player).unwrap_or(None);
        config(&self.base().config, untied.as_deref())
    }

    fn list(&self) -> Vec<(String, Vec<usize>)> {
        let weights = self.base().weights.iter();
        let mut all: Vec<_> = weights.map(|(name, w)| (name.clone(), w.shape())).collect();
        all.sort();
        list(all, untied_by(self.player).unwrap_or(None).as_deref())
    }

    fn read(&self, name: &str) -> Result<Merged> {
        merged(self.player, self.onto, name)
    }

    fn check(&self) -> Result<()> {
        untied_by(self.player)?;
        let list = self.list();
        no_stray(&self.player.params, &|name| {
            list.iter().any(|(known, _)| known == name)
        })
    }

    fn trained_on(&self, name: &str) -> Result<Option<Tensor>> {
        let source = source(name, untied_by(self.player)?.as_deref());
        match (self.onto, self.player.base.weights.get(&source)) {
            (Some(_), Some(w)) if goes_onto(&self.player.params, name) => Ok(Some(w.to_f32()?)),
            _ => Ok(None),
        }
    }
}

/// The weight of this full name (`model.layers.0.mlp.up_proj.weight`): base plus update, in f32.
///
/// With `onto`, the update goes onto that base's weight (the original of a quantised one) rather than the player's own.
///
/// # Errors
/// A weight that the base does not have, or an update of another shape.
pub fn merged(player: &Player, onto: Option<&Base>, name: &str) -> Result<Merged> {
    let base = onto.unwrap_or(&player.base);
    let untied = untied_by(player)?;
    let weight = base
        .weights
        .get(&source(name, untied.as_deref()))
        .ok_or_else(|| Error::rule(format!("the base has no {name}")))?
        .to_f32()?;
    let lora = player.lora.as_deref();
    updated(weight, lora, &player.params, name, untied.as_deref())
}

/// A base's weight with what was learnt for it: values of its own, and an update on top of what it
/// is then.
///
/// # Errors
/// An update of another shape; a sum that is no finite number.
fn updated(
    weight: Tensor,
    lora: Option<&LoraSpec>,
    params: &Params,
    name: &str,
    untied: Option<&str>,
) -> Result<Merged> {
    // a copy of a shared weight is both uses'
    let shared = source(name, untied);
    let copied = |spec: &LoraSpec| spec.replaced.contains(&shared);
    let own = params
        .get(name)
        .or_else(|| params.get(&shared).filter(|_| lora.is_some_and(copied)));
    if let Some(own) = own.filter(|own| own.dims() != weight.dims()) {
        return Err(Error::rule(format!(
            "{name} is {:?} in the base and {:?} in the player",
            weight.dims(),
            own.dims()
        )));
    }
    let projection = name.strip_suffix(".weight").unwrap_or(name);
    let sum = match lora.and_then(|spec| spec.update(params, projection)) {
        Some(update) => Some(
            randori_lora::merge(own.unwrap_or(&weight), &update)
                .map_err(|e| Error::rule(format!("{projection}: {e}")))?,
        ),
        None => own.cloned(),
    };
    if let Some(sum) = &sum {
        randori_lora::finite(name, sum)?;
    }
    Ok(match sum {
        Some(sum) => Merged {
            weight: sum,
            base: Some(weight),
        },
        None => Merged { weight, base: None },
    })
}

/// Whether an update goes onto the weight of this full name (one that was trained in full is what it is on any base).
fn goes_onto(params: &Params, name: &str) -> bool {
    let projection = name.strip_suffix(".weight").unwrap_or(name);
    !params.contains_key(name) && params.contains_key(&format!("{projection}.lora_A"))
}

/// An adapter of another model must not be dropped in silence.
fn no_stray(params: &Params, known: &dyn Fn(&str) -> bool) -> Result<()> {
    let belongs = |name: &str| {
        let adapter = name
            .rsplit_once('.')
            .filter(|_| randori_lora::peft::is_update(name));
        known(&adapter.map_or_else(|| name.to_string(), |(p, _)| format!("{p}.weight")))
    };
    match params.keys().find(|name| !belongs(name)) {
        Some(stray) => Err(Error::rule(format!(
            "the player has {stray}, which belongs to no weight of the base"
        ))),
        None => Ok(()),
    }
}
