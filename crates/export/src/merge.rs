//! A player's merged weights as plain tensors, from a base in memory or read from disk one by one.

use std::borrow::Cow;

use candle_core::Tensor;
use randori_engine::{
    Base, Params, Player,
    head::{HEAD, untied},
    weights::Stream,
};
use randori_lora::LoraSpec;
use randori_sdk::{Dialect, seam::Family};
use serde_json::Value;

use crate::{Error, Result};

/// One weight of a player, in f32.
pub struct Merged {
    /// The merged weight.
    pub weight: Tensor,
    /// The base's weight; `None` if the player did not change it.
    pub base: Option<Tensor>,
}

/// A model's merged weights, read one at a time: the source of every output format.
pub trait Tensors {
    /// The merged model's configuration in Hugging Face's spelling. Where head and embedding shared
    /// a weight and the player changed only one of them, it says `tie_word_embeddings: false`.
    fn config(&self) -> Cow<'_, Value>;
    /// Its family, and what that is called elsewhere.
    fn family(&self) -> Family;
    /// Every tensor's full name and shape, sorted by name; includes a head that the player untied.
    fn list(&self) -> Vec<(String, Vec<usize>)>;
    /// Reads one tensor in f32, with the base's values if the player changed it.
    ///
    /// # Errors
    /// A name that is not in the list, or an update that does not fit.
    fn read(&self, name: &str) -> Result<Merged>;
    /// Checks that every update belongs to a weight of the base.
    ///
    /// # Errors
    /// The first tensor that does not.
    fn check(&self) -> Result<()> {
        Ok(())
    }
    /// The base values that the player was trained on, where the update is merged into others;
    /// `None` if it changed nothing, or they are the same.
    ///
    /// # Errors
    /// As [`Tensors::read`].
    fn trained_on(&self, _name: &str) -> Result<Option<Tensor>> {
        Ok(None)
    }
}

/// The base values into which an update is merged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Onto {
    /// Those it was trained on: a quantised base dequantised, a dense one in its load dtype.
    #[default]
    Dequantised,
    /// The checkpoint's own values.
    Original,
}

/// A player whose base is on disk: one weight at a time is read, dequantised and merged.
pub struct FromDisk<'a> {
    stream: &'a Stream,
    lora: Option<&'a LoraSpec>,
    params: &'a Params,
    onto: Onto,
    /// The embedding's name, if the player untied its head from it.
    untied: Option<String>,
}

impl<'a> FromDisk<'a> {
    /// `lora` and `params` as a [`Player`] has them (`None` and empty: the bare base).
    ///
    /// # Errors
    /// The adapter does not fit the base: a tensor is missing, unknown, or of another shape.
    pub fn new(
        stream: &'a Stream,
        lora: Option<&'a LoraSpec>,
        params: &'a Params,
        onto: Onto,
    ) -> Result<Self> {
        stream.accepts(lora, params)?;
        let merging = FromDisk {
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

impl Tensors for FromDisk<'_> {
    fn config(&self) -> Cow<'_, Value> {
        let dialect = self.family().dialect;
        config(self.stream.config(), self.untied.as_deref(), &dialect)
    }

    fn family(&self) -> Family {
        self.stream.arch().family()
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

/// The base's configuration; with an untied head, changed to say so, also under the family's older
/// name where that is there.
fn config<'a>(base: &'a Value, untied: Option<&str>, dialect: &Dialect) -> Cow<'a, Value> {
    const TIED: &str = "tie_word_embeddings";
    let mut config = Cow::Borrowed(base);
    if untied.is_some() {
        let renamed = dialect.gguf.iter().flat_map(|gguf| gguf.renamed);
        let older = renamed.filter(|key| key.usual == TIED && base.get(key.here).is_some());
        for key in older.map(|key| key.here).chain([TIED]) {
            config.to_mut()[key] = false.into();
        }
    }
    config
}

/// The base's tensors, with the untied head's own, if any.
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

/// Name of the base's weight that this merged weight is made from.
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
pub struct InMemory<'a> {
    /// The player: base and update.
    pub player: &'a Player,
    /// The base that the update is merged into, if not the player's own.
    pub onto: Option<&'a Base>,
}

impl InMemory<'_> {
    fn base(&self) -> &Base {
        self.onto.unwrap_or(&self.player.base)
    }
}

/// Name of the embedding from which the player untied its head.
fn untied_by(player: &Player) -> Result<Option<String>> {
    let arch = player.base.arch.as_ref();
    Ok(untied(arch, player.lora.as_deref(), &player.params)?)
}

impl Tensors for InMemory<'_> {
    fn config(&self) -> Cow<'_, Value> {
        // an architecture that cannot be run on shapes is refused by `check`
        let untied = untied_by(self.player).unwrap_or(None);
        let dialect = self.family().dialect;
        config(&self.base().config, untied.as_deref(), &dialect)
    }

    fn family(&self) -> Family {
        self.base().arch.family()
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

/// Merges the weight of this full name (`model.layers.0.mlp.up_proj.weight`), in f32.
///
/// With `onto`, the update is merged into that base's weight (the original of a quantised one)
/// rather than the player's own.
///
/// # Errors
/// The base has no such weight, or the update has another shape.
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

/// Applies what was trained to a base's weight: first a replacement of its values, if any, then an
/// update.
///
/// # Errors
/// An update of another shape; a sum that is not finite.
fn updated(
    weight: Tensor,
    lora: Option<&LoraSpec>,
    params: &Params,
    name: &str,
    untied: Option<&str>,
) -> Result<Merged> {
    // a replaced value of a shared weight applies to both of its uses
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

/// Whether an update is merged into the weight of this full name. A weight trained in full replaces
/// any base's and is not.
fn goes_onto(params: &Params, name: &str) -> bool {
    let projection = name.strip_suffix(".weight").unwrap_or(name);
    !params.contains_key(name) && params.contains_key(&format!("{projection}.lora_A"))
}

/// Refuses an adapter with tensors that no weight of the base has, as one of another model.
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
