//! Sizes of layers of two kinds, with a window and without: a file's keys and a configuration's, by
//! a dialect's [`Kinds`].

use randori_sdk::dialect::Kinds;
use serde_json::{Map, Value, json};

use super::{
    dialect::{Keys, Spoken},
    heads::KEY_HEADS,
    keys::{kind_names, slides, whole},
};
use crate::{
    Error, Result,
    gguf::{self, bytes::Read},
};

/// The key that tells the kinds apart.
const PATTERN: &str = "attention.sliding_window_pattern";
/// Features of a head's keys, of layers that see everything and of those with a window.
const FEATURES: [&str; 2] = ["attention.key_length", "attention.key_length_swa"];
/// Features of a head's values, and those that are rotated, of layers with a window.
const WINDOWED: [&str; 2] = ["attention.value_length_swa", "rope.dimension_count_swa"];
/// The key of features inside perceptrons.
pub(super) const FFN: &str = "feed_forward_length";
/// How much wider perceptrons are that `Kinds::doubled` is about.
const WIDER: usize = 2;

/// Heads of layers of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OfKind {
    /// Heads of keys and values.
    pub key_heads: usize,
    /// Features of a head.
    pub features: usize,
}

/// Sizes of a model's layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layered {
    /// Which layers see everything; the others have a window.
    full: Vec<bool>,
    /// Heads of layers with a window.
    pub windowed: OfKind,
    /// Heads of layers that see everything.
    pub everything: OfKind,
    /// The first layer that takes over keys and values.
    own: usize,
    /// Whether perceptrons are wider from there on.
    doubled: bool,
}

impl Layered {
    /// Those of a configuration with as many layers; `windowed` are the heads of layers with a
    /// window. `None`: the family has no kinds.
    ///
    /// # Errors
    /// A model that llama.cpp does not compute: no layer has a window, or a layer takes over keys
    /// and values of another than there.
    pub fn of(
        config: &Value,
        spoken: &Spoken,
        layers: usize,
        windowed: OfKind,
    ) -> Result<Option<Self>> {
        let Some(kinds) = spoken.gguf.kinds else {
            return Ok(None);
        };
        let [_, slides] = kind_names(spoken, PATTERN);
        let names = config.get("layer_types").and_then(Value::as_array);
        let full: Vec<bool> = names
            .map(|all| all.iter().map(|kind| kind != slides).collect())
            .unwrap_or_default();
        if full.len() != layers {
            return Err(Error::rule(format!(
                "layer_types of the model's configuration has {} entries for {layers} layers",
                full.len()
            )));
        }
        let shared = spoken.value(config, kinds.shared).as_u64().unwrap_or(0) as usize;
        let own = layers.saturating_sub(shared);
        let taken = taken_over(&full, own);
        taken.map_err(|what| Error::rule(format!("GGUF's {} {what}", spoken.gguf.architecture)))?;
        let flag = |key: &str| spoken.value(config, key) == Value::Bool(true);
        Ok(Some(Layered {
            everything: everything(config, spoken, &kinds, layers, windowed)?,
            windowed,
            own,
            doubled: flag(kinds.doubled),
            full,
        }))
    }

    /// Heads of a layer.
    pub fn heads(&self, layer: usize) -> OfKind {
        match self.full.get(layer) {
            Some(false) => self.windowed,
            _ => self.everything,
        }
    }

    /// Features inside a layer's perceptron, of which those of the first layers have `ffn`.
    pub fn ffn(&self, layer: usize, ffn: usize) -> usize {
        match self.doubled && layer >= self.own {
            true => WIDER * ffn,
            false => ffn,
        }
    }

    /// A file's keys of these sizes, without the architecture: numbers, or lists of those of all
    /// layers where they differ.
    pub fn keys(&self, ffn: usize) -> Vec<(&'static str, gguf::Value)> {
        let number = |n: usize| gguf::Value::Int(n as i128);
        let each = |of: &dyn Fn(usize) -> usize| {
            let all: Vec<i64> = (0..self.full.len()).map(|layer| of(layer) as i64).collect();
            match all.iter().all(|n| *n == all[0]) {
                true => gguf::Value::Int(all[0].into()),
                false => gguf::Value::Ints(all),
            }
        };
        let mut keys = vec![
            (FFN, each(&|layer| self.ffn(layer, ffn))),
            (KEY_HEADS, each(&|layer| self.heads(layer).key_heads)),
            (FEATURES[1], number(self.windowed.features)),
        ];
        keys.extend(WINDOWED.map(|key| (key, number(self.windowed.features))));
        keys
    }
}

/// Whether the layers from `own` on take over keys and values of those that llama.cpp gives them.
fn taken_over(full: &[bool], own: usize) -> Read<()> {
    if !full.contains(&false) {
        return Err("has a window in some layer, and this model in none".into());
    }
    for (layer, full_here) in full.iter().enumerate().skip(own) {
        let source = own.checked_sub(if *full_here { 1 } else { 2 });
        if source.is_none_or(|source| full[source] != *full_here) {
            let which = source.map_or("none".into(), |source| format!("layer {source}"));
            return Err(format!(
                "has layer {layer} take over keys and values of {which}, which is of the other kind: the last two layers \
                 that have their own must be one with a window and one without"
            ));
        }
    }
    Ok(())
}

/// Heads of layers that see everything, as the last does.
fn everything(
    config: &Value,
    spoken: &Spoken,
    kinds: &Kinds,
    layers: usize,
    windowed: OfKind,
) -> Result<OfKind> {
    let number = |from: &Value, key: &str, absent: usize| {
        let there = from.get(key).unwrap_or(&Value::Null);
        Ok::<_, Error>(whole(there, key)?.unwrap_or(absent))
    };
    if let Some(each) = config.get(kinds.each).filter(|each| each.is_object()) {
        let last = layers.saturating_sub(1).to_string();
        let own = each.get(&last).unwrap_or(&Value::Null);
        return Ok(OfKind {
            features: number(own, "head_dim", windowed.features)?,
            key_heads: number(own, "num_key_value_heads", windowed.key_heads)?,
        });
    }
    let absent = whole(&spoken.default(kinds.features), kinds.features)?;
    let counts = spoken.value(config, kinds.keys_are_values) == Value::Bool(true);
    Ok(OfKind {
        features: number(config, kinds.features, absent.unwrap_or(windowed.features))?,
        key_heads: match counts {
            true => number(config, kinds.key_heads, windowed.key_heads)?,
            false => windowed.key_heads,
        },
    })
}

/// Gives a configuration the kinds of its layers, as its class has them.
pub(super) fn name_kinds(config: &mut Value, spoken: &Spoken) {
    let Some(kinds) = spoken.gguf.kinds else {
        return;
    };
    let [everything, windowed] = kind_names(spoken, PATTERN);
    let layers = spoken.value(config, "num_hidden_layers").as_u64();
    let layers = usize::try_from(layers.unwrap_or(0)).unwrap_or(0).min(MOST);
    let usual = |layer: usize| match kinds.every > 0 && (layer + 1).is_multiple_of(kinds.every) {
        true => everything,
        false => windowed,
    };
    let there = config.get("layer_types").filter(|all| all.is_array());
    let mut all = match there {
        Some(all) => all.clone(),
        None => (0..layers).map(usual).collect(),
    };
    if let Some(last) = all.as_array_mut().and_then(|all| all.last_mut()) {
        *last = json!(everything);
    }
    config["layer_types"] = all;
}

/// Most layers that are named, against a damaged configuration that says billions.
const MOST: usize = 1 << 16;

/// What a file says of layers of two kinds.
pub(super) struct Found {
    pub windowed: OfKind,
    /// Features inside the first layers' perceptrons.
    pub ffn: usize,
    /// The configuration's keys that say the rest.
    pub config: Map<String, Value>,
}

impl Found {
    /// Reads a file's keys; `None`: the family has no kinds.
    ///
    /// # Errors
    /// A missing key, a list of another length than there are layers, or layers of one kind that
    /// are not alike.
    pub fn read(keys: &Keys, spoken: &Spoken, layers: usize, heads: usize) -> Read<Option<Found>> {
        let Some(kinds) = spoken.gguf.kinds else {
            return Ok(None);
        };
        let slides = slides(keys.header, &keys.name(PATTERN), layers)?;
        let slides = slides.ok_or_else(|| format!("{} is missing", keys.name(PATTERN)))?;
        let full: Vec<bool> = slides.iter().map(|slides| !slides).collect();
        if full.last() != Some(&true) {
            return Err(format!(
                "{} has a window in the last layer, which always sees everything",
                keys.name(PATTERN)
            ));
        }
        let shared = keys.whole("attention.shared_kv_layers")?.unwrap_or(0);
        let own = layers.saturating_sub(shared);
        taken_over(&full, own).map_err(|what| format!("it {what}"))?;
        let alike = |key: &str, wanted: &dyn Fn(usize) -> bool| alike(keys, key, layers, wanted);
        let of_kind = |is_full: bool| -> Read<OfKind> {
            let key = FEATURES[usize::from(!is_full)];
            let features = keys.whole(key)?.filter(|n| *n > 0);
            let key_heads = alike(KEY_HEADS, &|layer| full[layer] == is_full)?;
            if !heads.is_multiple_of(key_heads) {
                return Err(format!(
                    "{heads} heads cannot share {key_heads} key-value heads"
                ));
            }
            Ok(OfKind {
                features: features.ok_or_else(|| format!("{} is missing", keys.name(key)))?,
                key_heads,
            })
        };
        let (windowed, everything) = (of_kind(false)?, of_kind(true)?);
        for key in WINDOWED {
            if let Some(other) = keys.whole(key)?.filter(|n| *n != windowed.features) {
                return Err(format!(
                    "{} is {other} for heads of {} features, which is not supported",
                    keys.name(key),
                    windowed.features
                ));
            }
        }
        let ffn = alike(FFN, &|layer| layer < own)?;
        let wide = match own < layers {
            true => alike(FFN, &|layer| layer >= own)?,
            false => ffn,
        };
        if wide != ffn && wide != WIDER * ffn {
            return Err(format!(
                "{} is {wide} where keys and values are taken over and {ffn} elsewhere: neither as much nor twice that",
                keys.name(FFN)
            ));
        }
        let keys_are_values = without_values(keys, &full[..own])?;
        let mut config = Map::new();
        config.insert(kinds.features.into(), json!(everything.features));
        config.insert(kinds.doubled.into(), json!(wide != ffn));
        config.insert(kinds.keys_are_values.into(), json!(keys_are_values));
        if keys_are_values {
            config.insert(kinds.key_heads.into(), json!(everything.key_heads));
        } else if everything.key_heads != windowed.key_heads {
            let own = json!({"head_dim": everything.features, "num_key_value_heads": everything.key_heads});
            let each = full.iter().enumerate().filter(|(_, full)| **full);
            let each: Map<String, Value> = each
                .map(|(layer, _)| (layer.to_string(), own.clone()))
                .collect();
            config.insert(kinds.each.into(), Value::Object(each));
        }
        Ok(Some(Found {
            windowed,
            ffn,
            config,
        }))
    }
}

/// A key's number in the layers that are wanted, which must be the same and above 0.
fn alike(keys: &Keys, key: &str, layers: usize, wanted: &dyn Fn(usize) -> bool) -> Read<usize> {
    let name = keys.name(key);
    let Some(each) = keys.each(key) else {
        let one = keys
            .whole(key)?
            .ok_or_else(|| format!("{name} is missing"))?;
        return match one {
            0 => Err(format!("{name} is 0")),
            one => Ok(one),
        };
    };
    if each.len() != layers {
        return Err(format!(
            "{name} has {} entries for {layers} layers",
            each.len()
        ));
    }
    let mut some = (0..layers)
        .filter(|layer| wanted(*layer))
        .map(|layer| each[layer]);
    let first = some.next().unwrap_or(0);
    if let Some(other) = some.find(|n| *n != first) {
        return Err(format!(
            "{name} differs between layers of one kind ({first} and {other}), which is not supported"
        ));
    }
    match usize::try_from(first) {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(format!("{name} is {first} in some layers")),
    }
}

/// Whether the layers that see everything, of these with keys of their own, have no projection to
/// values.
fn without_values(keys: &Keys, full: &[bool]) -> Read<bool> {
    let tensors = &keys.header.tensors;
    let layers = (0..full.len()).filter(|layer| full[*layer]);
    let name = |layer: usize| format!("blk.{layer}.attn_v.weight");
    let (with, without): (Vec<usize>, Vec<usize>) =
        layers.partition(|layer| tensors.contains_key(&name(*layer)));
    match (with.first(), without.first()) {
        (Some(with), Some(without)) => Err(format!(
            "it has {} and no {}: of the layers that see everything all have a projection to values, or none",
            name(*with),
            name(*without)
        )),
        (_, without) => Ok(without.is_some()),
    }
}
