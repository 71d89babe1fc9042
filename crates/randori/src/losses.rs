//! A recipe's losses and samplers, and what follows from the choice of a loss: whether a training
//! can use the data, and what becomes of pairs that have no gradient.

use std::sync::Arc;

use anyhow::Result;
use randori_core::PerIteration;
use randori_data::Counts;
use randori_host::{Host, ItemInfo, Kind};
use randori_sdk::seam::{LossFn, SamplerFn, Value};

use crate::recipe::{
    OnIdentical, PluginChoice, PluginOption, Recipe, known_elsewhere, value_elsewhere,
};

/// The loss of iteration `t`.
///
/// # Errors
/// A loss that there is not, or options that it does not have or refuses, at their place in the
/// recipe.
pub fn loss(recipe: &Recipe, host: &Host, t: usize) -> Result<Arc<dyn LossFn>> {
    check_name(recipe, host)?;
    host.loss(&recipe.loss.name, &at(&recipe.loss_options, t))
        .map_err(|e| elsewhere(e, recipe, host))
        .map_err(|e| placed(e, &recipe.loss_options, &recipe.place("loss.name")))
}

/// Refuses a loss that another trainer has under this name, by what it is here: names that are near
/// are not meant then.
fn check_name(recipe: &Recipe, host: &Host) -> Result<()> {
    let name = &recipe.loss.name;
    let items = host.plugins().iter().flat_map(|p| &p.items);
    let mut names: Vec<&str> = items
        .filter(|item| item.kind == Kind::Loss)
        .map(|item| item.name.as_str())
        .collect();
    if names.is_empty() || names.contains(&name.as_str()) {
        return Ok(());
    }
    match value_elsewhere("loss.name", name) {
        None => Ok(()), // the host knows what is near
        Some(said) => {
            names.sort_unstable();
            anyhow::bail!(
                "{}: there is no loss `{name}`; {said}; there are: {}",
                recipe.place("loss.name"),
                names.join(", ")
            )
        }
    }
}

/// A refusal with what the option is called here, where another trainer has the name.
fn elsewhere(error: randori_host::Error, recipe: &Recipe, host: &Host) -> randori_host::Error {
    let mut items = host.plugins().iter().flat_map(|p| &p.items);
    let of = |item: &&ItemInfo| item.kind == Kind::Loss && item.name == recipe.loss.name;
    let said = items.find(of).and_then(|item| {
        let has = |given: &&PluginOption| item.options.iter().any(|o| o.name == given.name);
        let given = recipe.loss_options.iter().find(|given| !has(given))?;
        let value = match given.at(0) {
            Value::Str(text) => Some(text),
            _ => None,
        };
        known_elsewhere(&given.name, "loss", value.as_deref())
    });
    match said {
        Some(said) => randori_host::Error::Rule(format!("{error}; {said}")),
        None => error,
    }
}

/// All options of the loss in iteration `t`, those that the recipe leaves at their defaults among
/// them.
pub fn options(recipe: &Recipe, host: &Host, t: usize) -> Vec<(String, Value)> {
    let mut items = host.plugins().iter().flat_map(|p| &p.items);
    let of = |item: &&ItemInfo| item.kind == Kind::Loss && item.name == recipe.loss.name;
    let declared = items.find(of).into_iter().flat_map(|item| &item.options);
    let value = |name: &str, default: &Value| {
        let given = recipe.loss_options.iter().find(|o| o.name == name);
        given.map_or(default.clone(), |o| o.at(t))
    };
    declared
        .map(|o| (o.name.clone(), value(&o.name, &o.default)))
        .collect()
}

/// Whether every loss of the recipe's game is there and takes its options.
///
/// # Errors
/// As [`loss`].
pub fn check(recipe: &Recipe, host: &Host) -> Result<()> {
    // behind the longest list of values the losses are all the same; a value that no iteration
    // comes to is checked too
    let listed = recipe.loss_options.iter().map(|o| o.values.len());
    let different = listed.max().unwrap_or(1);
    (0..different).try_for_each(|t| loss(recipe, host, t).map(drop))
}

/// Whether a game can be played with the recipe's losses: they ask for nothing that a generated
/// answer does not have.
///
/// # Errors
/// As [`loss`]; a loss that asks for rewards.
pub fn check_game(recipe: &Recipe, host: &Host) -> Result<()> {
    if loss(recipe, host, 0)?.needs_reward() {
        let rule = format!(
            "is {:?}, which needs a reward of each response, and in the game nobody has given the opponent's answers one; train on pairs with rewards by `randori train --pairs`, or take another loss",
            recipe.loss.name
        );
        return Err(recipe.refuse("loss.name", rule).into());
    }
    Ok(())
}

/// The loss's `beta` in each iteration: the recipe's, the plugin's default, or 1 for a loss without
/// one.
pub fn beta(recipe: &Recipe, host: &Host) -> PerIteration<f64> {
    let number = |value: &Value| {
        let number = match value {
            Value::Float(v) => *v,
            Value::Int(v) => *v as f64,
            _ => 1.0,
        };
        if number > 0.0 { number } else { 1.0 }
    };
    if let Some(given) = recipe.loss_options.iter().find(|o| o.name == "beta") {
        return PerIteration(given.values.iter().map(number).collect());
    }
    let items = host.plugins().iter().flat_map(|p| &p.items);
    let declared = items
        .filter(|item| item.name == recipe.loss.name)
        .flat_map(|item| &item.options)
        .find(|o| o.name == "beta");
    PerIteration::constant(declared.map_or(1.0, |o| number(&o.default)))
}

/// Samplers in order.
///
/// # Errors
/// As [`loss`].
pub fn samplers(host: &Host, choices: &[PluginChoice]) -> Result<Vec<Arc<dyn SamplerFn>>> {
    let one = |c: &PluginChoice| {
        host.sampler(&c.name, &at(&c.options, 0))
            .map_err(|e| placed(e, &c.options, &c.place))
    };
    choices.iter().map(one).collect()
}

/// What became of pairs of equal responses where `data.identical = "auto"` asked the loss: a line,
/// if there are such pairs.
pub fn identical(recipe: &Recipe, counts: &Counts, loss: &dyn LossFn) -> Option<String> {
    if recipe.data.identical != OnIdentical::Auto || counts.identical == 0 {
        return None;
    }
    let what = match loss.equal_pairs_cancel() {
        true => "dropped: the loss gives them no gradient",
        false => "kept: the loss gives them a gradient",
    };
    let (n, name) = (counts.identical, loss.name());
    Some(format!("  {:<38} {n} {what} ({name})", "identical pairs"))
}

fn at(options: &[PluginOption], t: usize) -> Vec<(String, Value)> {
    options.iter().map(|o| (o.name.clone(), o.at(t))).collect()
}

/// A plugin's complaint with the line of the option it names, or of the choice itself.
fn placed(error: randori_host::Error, options: &[PluginOption], choice: &str) -> anyhow::Error {
    let text = error.to_string();
    // the first name the message says is the one it is about; later ones are suggestions
    let at = |o: &&PluginOption| text.find(&format!("`{}`", o.name));
    let named = options.iter().filter(|o| at(o).is_some()).min_by_key(at);
    let place = named.map_or(choice, |o| &o.place).to_string();
    anyhow::Error::new(error).context(place)
}
