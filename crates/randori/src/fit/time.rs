//! How long the game takes, by the work its passes are and this machine's speed. An estimate, and
//! said to be one.

use std::time::Duration;

use anyhow::Result;
use randori_core::PerIteration;
use randori_engine::fit::{Ceilings, Packing, Work};

use crate::corpus;
use crate::figures::{clock, grouped};
use crate::plan::Plan;
use crate::recipe::Recipe;
use crate::request::Split;
use crate::settings;

/// Examples that are supposed where neither the data nor `data.limit` is at hand.
const SUPPOSED: usize = 1000;

/// What this machine can do, and where that was measured.
///
/// # Errors
/// A GPU that cannot be asked.
pub fn machine(plan: &Plan) -> Result<(Ceilings, String)> {
    if plan.card {
        let said = "on the GPU; the share of it that passes reach is assumed".into();
        return Ok((on_card(plan)?, said));
    }
    let machine = Ceilings::measure(plan.game.trace().width, plan.game.base_bytes())?;
    Ok((machine, format!("on {} threads", plan.threads)))
}

/// One line for each stage of the whole game, and their sum.
pub fn shown(plan: &Plan) -> Result<String> {
    let numbers = Numbers::of(&plan.recipe);
    let (machine, where_measured) = match machine(plan) {
        Ok(machine) => machine,
        Err(e) if plan.card => {
            return Ok(format!(
                "\nNo time is estimated: it is measured on the GPU itself, but {e}\n"
            ));
        }
        Err(e) => return Err(e),
    };
    let mut out = format!(
        "\nTime of the whole game, an estimate, here and now ({:.0} billion multiply-adds and {:.1} GB a second, measured just\nnow {where_measured}): {}, prompts and answers all as long as the recipe allows.\n\n",
        machine.multiply_adds / 1e9,
        machine.bytes / 1e9,
        numbers.what
    );
    let mut all = 0.0;
    for (name, what, work) in stages(plan, &numbers)? {
        let seconds = numbers.games as f64 * machine.seconds(&work);
        all += seconds;
        out.push_str(&format!("{name:10}{:>14}   {what}\n", length(seconds)));
    }
    let games = match numbers.games {
        1 => String::new(),
        n => format!("   {n} games, one for each of compare.seeds"),
    };
    out.push_str(&format!("{:10}{:>14}{games}\n", "total", length(all)));
    out.push_str(
        "\nNot in it: loading, saving, the baseline of compare.continued_sft, and what else the machine does meanwhile.\n",
    );
    Ok(out)
}

#[cfg(feature = "cuda")]
fn on_card(plan: &Plan) -> Result<Ceilings> {
    let float = match plan.recipe.model.dtype {
        crate::recipe::Dtype::F32 => candle_core::DType::F32,
        _ => candle_core::DType::BF16,
    };
    let (width, weights) = (plan.game.trace().width, plan.game.base_bytes());
    Ok(Ceilings::measure_on_card(width, weights, float)?)
}

#[cfg(not(feature = "cuda"))]
fn on_card(_: &Plan) -> Result<Ceilings> {
    anyhow::bail!("this program is built without the feature `cuda`")
}

/// A length of time as people read it.
pub fn length(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if seconds < 48.0 * 3600.0 => clock(time),
        _ => format!("{:.0} days", seconds / 86_400.0),
    }
}

/// How often everything is done.
struct Numbers {
    examples: usize,
    held_out: usize,
    games: usize,
    /// In words, and where they come from.
    what: String,
}

impl Numbers {
    fn of(recipe: &Recipe) -> Numbers {
        let count = |split| corpus::count(recipe, split);
        let (examples, from) = match (count(Split::Train), recipe.data.limit) {
            (Some(n), _) => (n, "data.train"),
            (None, Some(n)) => (n, "data.limit"),
            (None, None) => (SUPPOSED, "supposed: data.train is not at hand"),
        };
        let (held_out, of) = match (count(Split::HeldOut), recipe.eval.limit) {
            (Some(n), _) => (n, "held out"),
            (None, Some(n)) => (n, "eval.limit"),
            (None, None) => (SUPPOSED, "supposed to be held out"),
        };
        Numbers {
            what: format!(
                "{} examples ({from}), {} measured on ({of})",
                grouped(examples),
                grouped(held_out)
            ),
            examples,
            held_out,
            games: recipe.compare.seeds.len().max(1),
        }
    }
}

/// Every stage of one game with its work.
fn stages(plan: &Plan, numbers: &Numbers) -> Result<Vec<(&'static str, String, Work)>> {
    let r = &plan.recipe;
    let iterations = r.game.iterations;
    let n = numbers.examples;
    let times = |what: &str, count: usize| format!("{} {what}", grouped(count));
    let mut stages = Vec::new();
    if r.sft.epochs > 0 {
        let seen = r.sft.epochs * n;
        let work = supervised(plan, seen)?;
        stages.push(("sft", times("examples trained on", seen), work));
    }
    let of_iteration = |t: usize| n * (t + 1).min(r.game.window);
    let pairs: usize = (0..iterations).map(of_iteration).sum();
    let rules = settings::rules(r, PerIteration::constant(1.0));
    let epochs = |t: usize| rules.iteration(t).epochs;
    let seen = |t: usize| of_iteration(t) * epochs(t);
    let trained: usize = (0..iterations).map(seen).sum();
    let steps: usize = (0..iterations)
        .map(|t| of_iteration(t).div_ceil(r.train.batch) * epochs(t))
        .sum();
    // the start is measured too; log-probs are those of policy and opponent
    let measured = numbers.held_out * r.eval.seeds.len() * (iterations + 1);
    let mut measuring = answering(plan, measured, true)?;
    measuring += scoring(plan, numbers.held_out * (2 * iterations + 1))?;
    stages.push((
        "generate",
        times("answers", n * iterations),
        answering(plan, n * iterations, false)?,
    ));
    if plan.scores {
        let work = scoring(plan, pairs)?;
        stages.push(("score", times("pairs scored", pairs), work));
    }
    stages.extend([
        (
            "train",
            times("pairs trained on", trained),
            training(plan, trained, steps)?,
        ),
        ("eval", times("answers measured", measured), measuring),
    ]);
    Ok(stages)
}

/// The work of a supervised stage that sees so many examples, those of all epochs.
pub fn supervised(plan: &Plan, seen: usize) -> Result<Work> {
    let r = &plan.recipe;
    let item = Packing::item(plan.prompt(), &plan.responses()[..1]);
    let packing = plan.supervised();
    let passes = plan.sft.training_work(&packing, r.train.checkpoint)?;
    let mut work = passes * share(seen, item, &packing);
    work += plan.sft.update_work() * seen.div_ceil(r.sft.batch) as f64;
    Ok(work)
}

/// The work of so many answers, of the game or `measured`.
pub fn answering(plan: &Plan, count: usize, measured: bool) -> Result<Work> {
    let mut decoding = plan.decoding(plan.recipe.generate.batch, measured);
    decoding.slots = decoding.slots.min(count.max(1));
    let rounds = count as f64 / decoding.slots as f64;
    Ok(plan.game.generation_work(&decoding)? * rounds)
}

/// The work of the log-probs of so many pairs.
pub fn scoring(plan: &Plan, pairs: usize) -> Result<Work> {
    let item = Packing::item(plan.prompt(), &plan.responses());
    let packing = plan.pairs(usize::MAX);
    Ok(plan.game.scoring_work(&packing)? * share(pairs, item, &packing))
}

/// The work of a training that sees so many pairs, those of all epochs, in so many steps.
pub fn training(plan: &Plan, seen: usize, steps: usize) -> Result<Work> {
    let item = Packing::item(plan.prompt(), &plan.responses());
    let packing = plan.pairs(plan.recipe.train.batch);
    let passes = plan
        .game
        .training_work(&packing, plan.recipe.train.checkpoint)?;
    let mut work = passes * share(seen, item, &packing);
    work += plan.game.update_work() * steps as f64;
    if plan.passes_twice(&packing) {
        work += plan.game.scoring_work(&packing)? * share(seen, item, &packing);
    }
    Ok(work)
}

/// How many micro-batches so many items fill.
fn share(items: usize, item: usize, packing: &Packing) -> f64 {
    (items * item) as f64 / packing.rows.max(1) as f64
}
