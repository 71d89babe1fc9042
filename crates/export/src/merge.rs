//! A player's weights as plain tensors, and what rounding leaves of the update.

use candle_core::Tensor;
use half::{bf16, f16};
use randori_engine::{Base, Player, weights::Dtype};

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
    if let Some(trained) = player.params.get(name) {
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
    let spec = player.lora.as_ref();
    match spec.and_then(|spec| spec.update(&player.params, projection)) {
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

/// How much of an update survives rounding to the output's dtype.
///
/// d is the update in f32, d' the difference that remains: rounded (base + d) less rounded base.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Survival {
    /// ⟨d', d⟩ / ⟨d, d⟩: 1 if nothing is lost, 0 if all is.
    pub kept: f64,
    /// |d' - d| / |d|: what rounding adds as noise, relative to the update.
    pub noise: f64,
    /// Share of the entries that the update changes and that come out as the base's.
    pub unchanged: f64,
    /// |d| / |base|.
    pub size: f64,
}

/// Sums behind a [`Survival`], over any number of tensors.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sums {
    dd: f64,
    dot: f64,
    noise: f64,
    base: f64,
    moved: f64,
    unchanged: f64,
}

impl Sums {
    pub(crate) fn add(&mut self, base: f32, sum: f32, dtype: Dtype) {
        let d = f64::from(sum) - f64::from(base);
        let (from, to) = (round(base, dtype), round(sum, dtype));
        let left = f64::from(to) - f64::from(from);
        self.dd += d * d;
        self.dot += d * left;
        self.noise += (left - d) * (left - d);
        self.base += f64::from(base) * f64::from(base);
        if sum != base {
            self.moved += 1.0;
            self.unchanged += f64::from(u8::from(from == to));
        }
    }

    pub(crate) fn plus(&self, o: &Sums) -> Sums {
        Sums {
            dd: self.dd + o.dd,
            dot: self.dot + o.dot,
            noise: self.noise + o.noise,
            base: self.base + o.base,
            moved: self.moved + o.moved,
            unchanged: self.unchanged + o.unchanged,
        }
    }

    /// `None` where nothing was updated.
    pub(crate) fn survival(&self) -> Option<Survival> {
        (self.dd > 0.0).then(|| Survival {
            kept: self.dot / self.dd,
            noise: (self.noise / self.dd).sqrt(),
            unchanged: self.unchanged / self.moved,
            size: if self.base > 0.0 {
                (self.dd / self.base).sqrt()
            } else {
                f64::INFINITY
            },
        })
    }
}

/// `v` as the output holds it.
pub(crate) fn round(v: f32, dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F32 => v,
        Dtype::Bf16 => bf16::from_f32(v).to_f32(),
        Dtype::F16 => f16::from_f32(v).to_f32(),
    }
}
