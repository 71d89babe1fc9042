//! A player's weights as plain tensors, from a base in memory or weight by weight from disk.

use candle_core::Tensor;
use randori_engine::{Base, Params, Player, weights::Stream};
use randori_lora::LoraSpec;

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
    /// The configuration in Hugging Face's spelling.
    fn config(&self) -> &serde_json::Value;
    /// Every tensor's full name and shape, sorted by name.
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
        let known = |name: &str| stream.trace().weights.iter().any(|w| w.name == name);
        no_stray(params, &known)?;
        Ok(Merging {
            stream,
            lora,
            params,
            onto,
        })
    }
}

impl Tensors for Merging<'_> {
    fn config(&self) -> &serde_json::Value {
        self.stream.config()
    }

    fn list(&self) -> Vec<(String, Vec<usize>)> {
        self.stream.list()
    }

    fn read(&self, name: &str) -> Result<Merged> {
        let weight = match self.onto {
            Onto::Dequantised => self.stream.weight(name)?.to_f32()?,
            Onto::Original => self.stream.original(name)?,
        };
        updated(weight, self.lora, self.params, name)
    }

    fn trained_on(&self, name: &str) -> Result<Option<Tensor>> {
        if self.onto == Onto::Dequantised || !goes_onto(self.params, name) {
            return Ok(None);
        }
        Ok(Some(self.stream.weight(name)?.to_f32()?))
    }
}

/// A player whose base is in memory.
pub struct Whole<'a> {
    /// Base and update.
    pub player: &'a Player,
    /// The base that receives the update, where it is not the player's own.
    pub onto: Option<&'a Base>,
}

impl Tensors for Whole<'_> {
    fn config(&self) -> &serde_json::Value {
        &self.onto.unwrap_or(&self.player.base).config
    }

    fn list(&self) -> Vec<(String, Vec<usize>)> {
        let base = self.onto.unwrap_or(&self.player.base);
        let mut all: Vec<_> = base
            .weights
            .iter()
            .map(|(name, w)| (name.clone(), w.shape()))
            .collect();
        all.sort();
        all
    }

    fn read(&self, name: &str) -> Result<Merged> {
        merged(self.player, self.onto, name)
    }

    fn check(&self) -> Result<()> {
        let base = self.onto.unwrap_or(&self.player.base);
        no_stray(&self.player.params, &|name| base.weights.contains_key(name))
    }

    fn trained_on(&self, name: &str) -> Result<Option<Tensor>> {
        match (self.onto, self.player.base.weights.get(name)) {
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
    let weight = base
        .weights
        .get(name)
        .ok_or_else(|| Error::rule(format!("the base has no {name}")))?
        .to_f32()?;
    updated(weight, player.lora.as_deref(), &player.params, name)
}

/// A base's weight with what was learnt for it.
pub(crate) fn updated(
    weight: Tensor,
    lora: Option<&LoraSpec>,
    params: &Params,
    name: &str,
) -> Result<Merged> {
    if let Some(trained) = params.get(name) {
        if trained.dims() != weight.dims() {
            return Err(Error::rule(format!(
                "{name} is {:?} in the base and {:?} in the player",
                weight.dims(),
                trained.dims()
            )));
        }
        return Ok(Merged {
            weight: trained.clone(),
            base: Some(weight),
        });
    }
    let projection = name.strip_suffix(".weight").unwrap_or(name);
    match lora.and_then(|spec| spec.update(params, projection)) {
        Some(update) => {
            let sum = randori_lora::merge(&weight, &update)
                .map_err(|e| Error::rule(format!("{projection}: {e}")))?;
            Ok(Merged {
                weight: sum,
                base: Some(weight),
            })
        }
        _ => Ok(Merged { weight, base: None }),
    }
}

/// Whether an update goes onto the weight of this full name (one that was trained in full is what it is on any base).
fn goes_onto(params: &Params, name: &str) -> bool {
    let projection = name.strip_suffix(".weight").unwrap_or(name);
    !params.contains_key(name) && params.contains_key(&format!("{projection}.lora_A"))
}

/// An adapter of another model must not be dropped in silence.
pub(crate) fn no_stray(params: &Params, known: &dyn Fn(&str) -> bool) -> Result<()> {
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
