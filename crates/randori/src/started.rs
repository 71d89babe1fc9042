//! What a recipe says of its adapter beside one that is given: dropout is a matter of training and
//! obeyed; what the adapter is must be what the recipe says it is, for every verb.

use std::path::{Path, PathBuf};

use anyhow::Result;
use randori_engine::Trace;
use randori_lora::{LoraSpec, peft};

use crate::recipe::Recipe;
use crate::settings;

/// Keys of `[adapter]` that say what an adapter is, by the names of [`LoraSpec`]'s fields too.
const KEYS: [&str; 9] = [
    "rank",
    "alpha",
    "rslora",
    "targets",
    "exclude",
    "rank_pattern",
    "alpha_pattern",
    "dora",
    "modules_to_save",
];
/// Characters of the adapter's value that a message shows.
const SHOWN: usize = 100;

/// The folders of what the start has learnt already: those `given`, or else the recipe's own; none
/// for a fresh one.
pub fn stack(recipe: &Recipe, given: &[PathBuf]) -> Vec<PathBuf> {
    match given.is_empty() {
        true => {
            let init = recipe.adapter.init.0.iter();
            init.map(|path| recipe.path(path)).collect()
        }
        false => given.to_vec(),
    }
}

/// The settings with which an adapter is trained on whose own are `given`.
pub fn trained_on(recipe: &Recipe, given: &LoraSpec) -> LoraSpec {
    let dropout = recipe.adapter.dropout;
    LoraSpec {
        dropout: dropout.map_or(given.dropout, |share| share as f32),
        ..given.clone()
    }
}

/// Holds the recipe against the settings (`given`) of the adapter in `stack`, for whoever trains
/// it on or plays with it. Keys are compared by what they do to this model: another spelling of
/// the same is the same.
///
/// # Errors
/// A key that says something else than the adapter, with both values and places.
pub fn refuse_another(
    recipe: &Recipe,
    given: &LoraSpec,
    trace: &Trace,
    stack: &[PathBuf],
) -> Result<()> {
    let said = |key: &&str| recipe.says(&format!("adapter.{key}"));
    let said: Vec<&str> = KEYS.into_iter().filter(said).collect();
    let own = settings::lora(recipe)?;
    let have = Made::of(given, trace);
    let differs = |keys: &[&str]| Made::of(&with(given, &own, keys), trace) != have;
    if !differs(&said) {
        return Ok(());
    }
    let alone = said.iter().find(|key| differs(&[**key]));
    let Some(name) = alone.or(said.first()) else {
        return Ok(());
    };
    let key = format!("adapter.{name}");
    let says = recipe.values().remove(&key).unwrap_or_default();
    let rule = format!(
        "is {says}, but the start ({}) has {}: leave the key out, or start from another adapter",
        place(stack),
        value(given, name)
    );
    Err(recipe.refuse(&key, rule).into())
}

/// `given` with the values that `own` has of these keys.
fn with(given: &LoraSpec, own: &LoraSpec, keys: &[&str]) -> LoraSpec {
    let mut spec = given.clone();
    for key in keys {
        match *key {
            "rank" => spec.rank = own.rank,
            "alpha" => spec.alpha = own.alpha,
            "rslora" => spec.rslora = own.rslora,
            "targets" => spec.targets.clone_from(&own.targets),
            "exclude" => spec.exclude.clone_from(&own.exclude),
            "rank_pattern" => spec.rank_pattern.clone_from(&own.rank_pattern),
            "alpha_pattern" => spec.alpha_pattern.clone_from(&own.alpha_pattern),
            "dora" => spec.dora = own.dora,
            _ => spec.modules_to_save.clone_from(&own.modules_to_save),
        }
    }
    spec
}

/// What an adapter's settings make of a model.
#[derive(PartialEq)]
struct Made {
    /// Name, rank and scale of each update.
    updates: Vec<(String, usize, f64)>,
    dora: bool,
    /// Weights trained in full; `None` where an entry means none.
    full: Option<Vec<String>>,
}

impl Made {
    fn of(spec: &LoraSpec, trace: &Trace) -> Made {
        let projections = trace.projections();
        let weights: Vec<String> = trace.weights.iter().map(|w| w.name.clone()).collect();
        let adapted = projections.iter().filter(|p| spec.adapts(p));
        Made {
            updates: adapted
                .map(|p| {
                    let (rank, scale) = (spec.rank_of(&p.name), spec.scale_of(&p.name));
                    (p.name.clone(), rank, scale)
                })
                .collect(),
            dora: spec.dora,
            full: spec.resolve_saved(&projections, &weights).ok(),
        }
    }
}

/// Where a start's settings stand.
fn place(stack: &[PathBuf]) -> String {
    let file = |dir: &Path| dir.join(peft::CONFIG).display().to_string();
    let files: Vec<String> = stack.iter().map(|dir| file(dir)).collect();
    files.join(" + ")
}

/// A setting as its file spells it; a long one cut.
fn value(spec: &LoraSpec, field: &str) -> String {
    let all = serde_json::to_value(spec).unwrap_or_default();
    let text = match &all[field] {
        serde_json::Value::Null => "none".to_string(),
        value => value.to_string(),
    };
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
