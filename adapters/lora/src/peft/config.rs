//! Conversion between `adapter_config.json` and [`LoraSpec`].

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{
    fields,
    json::{self, Read},
    stacked,
};
use crate::{
    LoraSpec, Targets,
    experts::mistaken,
    saved_by,
    targets::{is_glob, named},
};

/// Initialisations that leave the base unchanged.
const HARMLESS_STARTS: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];
/// Initialisations that subtract the start from the base's weights; PEFT can convert them to a
/// plain LoRA.
const CONVERTED_STARTS: [&str; 4] = ["pissa", "olora", "corda", "lora_ga"];
/// PEFT's defaults.
const RANK: usize = 8;
const ALPHA: f64 = 8.0;

/// Writes the settings of these projections so that PEFT matches exactly them: short names where
/// the settings have names, full names where they have patterns, and ranks and alphas by full name,
/// since PEFT sorts its patterns when it saves.
pub(super) fn write(spec: &LoraSpec, pairs: &BTreeSet<String>, base_name: &str) -> Value {
    let ranks = of_each(pairs, |p| spec.rank_of(p), spec.rank, |r| json!(r));
    let alphas = of_each(pairs, |p| spec.alpha_of(p), spec.alpha, |a| number(*a));
    // to peft 0.21 a target of this name is the experts'
    let matrices: Vec<String> = mistaken(pairs).map(|p| format!("{p}.weight")).collect();
    let saved = (!spec.modules_to_save.is_empty()).then_some(&spec.modules_to_save);
    let mut config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": spec.rank,
        "lora_alpha": number(spec.alpha),
        "lora_dropout": shortest(spec.dropout),
        "target_modules": targets_of(spec, pairs),
        "exclude_modules": null,
        "bias": "none",
        "use_rslora": spec.rslora,
        "use_dora": spec.dora,
        "modules_to_save": saved,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "inference_mode": true,
    });
    if !matrices.is_empty() {
        config["target_parameters"] = json!(matrices);
    }
    config
}

/// Names that make PEFT match exactly these projections: name endings, if the settings have no more
/// than those.
fn targets_of(spec: &LoraSpec, pairs: &BTreeSet<String>) -> Value {
    let last = |name: &String| name.rsplit('.').next().unwrap_or(name).to_string();
    match &spec.targets {
        _ if spec.exclude.is_some() => json!(pairs),
        Targets::Names(names)
            if !names.iter().any(|n| is_glob(n))
                && names.iter().all(|n| pairs.iter().any(|p| named(n, p)))
                && pairs.iter().all(|p| names.iter().any(|n| named(n, p))) =>
        {
            json!(names)
        }
        Targets::AllLinear => json!(pairs.iter().map(last).collect::<BTreeSet<_>>()),
        _ => json!(pairs),
    }
}

/// Values that differ from the default, by full name.
fn of_each<T: PartialEq>(
    pairs: &BTreeSet<String>,
    value: impl Fn(&str) -> T,
    default: T,
    spell: impl Fn(&T) -> Value,
) -> Map<String, Value> {
    let each = pairs.iter().map(|name| (name, value(name)));
    each.filter(|(_, v)| *v != default)
        .map(|(name, v)| (name.replace('.', "\\."), spell(&v)))
        .collect()
}

/// 0.1, not 0.10000000149011612.
pub(crate) fn shortest(v: f32) -> f64 {
    v.to_string().parse().unwrap_or(f64::from(v))
}

/// PEFT declares lora_alpha an integer; a fractional one is kept.
fn number(alpha: f64) -> Value {
    if alpha.fract() == 0.0 && alpha.abs() < 1e15 {
        json!(alpha as i64)
    } else {
        json!(alpha)
    }
}

/// Settings as read, the layers they are limited to, if any, and `target_parameters`.
type Settings = (LoraSpec, Option<Vec<u64>>, Vec<String>);

/// Reads the settings, with what follows from the file's tensors.
pub(super) fn read(config: &Value) -> Read<Settings> {
    let config = config.as_object().ok_or("it must be a JSON object")?;
    let kind = config.get("peft_type").unwrap_or(&Value::Null);
    if kind != "LORA" {
        return Err(format!("peft_type must be \"LORA\", not {kind}"));
    }
    fields::supported(config)?;
    start(config.get("init_lora_weights").unwrap_or(&Value::Null))?;
    bias(config.get("bias").unwrap_or(&Value::Null))?;
    let saved = json::texts(config, "modules_to_save")?;
    tying(config, &saved)?;
    let parameters = json::texts(config, "target_parameters")?;
    stacked::supported(&parameters)?;
    let dropout = json::or(config, "lora_dropout", 0.0, json::number)?;
    let spec = LoraSpec {
        rank: json::or(config, "r", RANK, json::count)?,
        alpha: json::or(config, "lora_alpha", ALPHA, json::number)?,
        rslora: json::flag(config, "use_rslora")?,
        dropout: dropout as f32,
        targets: with_parameters(targets(config, "target_modules")?, &parameters)
            .ok_or("target_modules must be a list of names or a text")?,
        exclude: targets(config, "exclude_modules")?,
        rank_pattern: json::pattern(config, "rank_pattern", json::count)?,
        alpha_pattern: json::pattern(config, "alpha_pattern", json::number)?,
        dora: json::flag(config, "use_dora")?,
        modules_to_save: saved,
        replaced: Vec::new(),
        halved: false,
    };
    spec.check().map_err(|e| e.to_string())?;
    let layers = json::layers(config, "layers_to_transform")?;
    Ok((spec, layers, parameters))
}

/// Targets with the matrices that `target_parameters` names (`model.layers.0.mlp.up_proj.weight`)
/// and they do not cover, as targets; what it names of experts stands there until it is taken
/// apart.
fn with_parameters(targets: Option<Targets>, parameters: &[String]) -> Option<Targets> {
    let mut names = match targets {
        None if parameters.is_empty() => return None,
        None => Vec::new(),
        Some(Targets::Names(names)) => names,
        other => return other,
    };
    for parameter in parameters {
        let module = parameter.strip_suffix(".weight").unwrap_or(parameter);
        if !names.iter().any(|name| named(name, module)) {
            names.push(module.to_string());
        }
    }
    Some(Targets::Names(names))
}

/// Checks `init_lora_weights`: the initialisation matters only if it changed the base.
fn start(value: &Value) -> Read<()> {
    let begins = |starts: &[&str], text: &str| starts.iter().any(|s| text.starts_with(s));
    match value {
        Value::Null | Value::Bool(_) => Ok(()),
        Value::String(text) if HARMLESS_STARTS.contains(&text.to_lowercase().as_str()) => Ok(()),
        Value::String(text) if begins(&CONVERTED_STARTS, &text.to_lowercase()) => Err(format!(
            "init_lora_weights {text:?} took the start out of the base's weights, so these tensors alone are not what was \
             learnt; peft writes them as a plain LoRA of twice the rank with \
             save_pretrained(…, path_initial_model_for_weight_conversion=FOLDER_OF_THE_START)"
        )),
        Value::String(text) if text == "loftq" => Err(format!(
            "init_lora_weights {text:?} changed the base's weights, which this file does not hold: merge it with peft and \
             load the merged model"
        )),
        other => Err(format!(
            "init_lora_weights is {other}, which is no start of peft 0.21"
        )),
    }
}

/// Refuses a saved embedding that stays tied to the head: it would be one tensor for two uses.
fn tying(config: &Map<String, Value>, saved: &[String]) -> Read<()> {
    let ties = |entry: &&String| {
        ["lm_head", "model.embed_tokens"]
            .iter()
            .any(|m| saved_by(entry, m))
    };
    match saved.iter().find(ties) {
        Some(entry) if json::flag(config, "ensure_weight_tying")? => Err(format!(
            "ensure_weight_tying is true and modules_to_save has {entry}, which is not supported: merge it with peft and \
             load the merged model"
        )),
        _ => json::flag(config, "ensure_weight_tying").map(drop),
    }
}

/// Checks `bias`. Biases that PEFT trained are in the file and replace the base's.
fn bias(value: &Value) -> Read<()> {
    match value {
        Value::Null => Ok(()),
        Value::String(text) if ["none", "all", "lora_only"].contains(&text.as_str()) => Ok(()),
        other => Err(format!(
            "bias must be \"none\", \"all\" or \"lora_only\", not {other}"
        )),
    }
}

fn targets(config: &Map<String, Value>, key: &str) -> Read<Option<Targets>> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(list)) if list.is_empty() && key != "target_modules" => Ok(None),
        Some(value) => serde_json::from_value::<Targets>(value.clone())
            .map(Some)
            .map_err(|_| format!("{key} must be a list of names or a text, not {value}")),
    }
}

/// Limits the targets to the file's projections in these layers (`layers_to_transform`).
pub(super) fn narrow_to(spec: &mut LoraSpec, layers: &[u64], pairs: &BTreeSet<String>) -> Read<()> {
    let layer = |name: &str| name.split('.').find_map(|part| part.parse::<u64>().ok());
    if let Some(stray) = pairs
        .iter()
        .find(|p| !layer(p).is_some_and(|l| layers.contains(&l)))
    {
        return Err(format!(
            "{stray} is in none of the layers of layers_to_transform"
        ));
    }
    if let Some(missing) = layers
        .iter()
        .find(|l| !pairs.iter().any(|p| layer(p) == Some(**l)))
    {
        return Err(format!(
            "it has nothing for layer {missing}, which layers_to_transform names"
        ));
    }
    spec.targets = Targets::Names(pairs.iter().cloned().collect());
    Ok(())
}
