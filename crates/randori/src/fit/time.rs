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

/// One line for each stage of the whole game, and their sum.
pub fn shown(plan: &Plan) -> Result<String> {
    let numbers = Numbers::of(&plan.recipe);
    let (machine, where_measured) = match plan.card {
        true => match on_card(plan) {
            Ok(machine) => (
                machine,
                "on the GPU; the share of it that passes reach is assumed".into(),
            ),
            Err(e) => {
                return Ok(format!(
                    "\nNo time is estimated: it is measured on the GPU itself, but {e}\n"
                ));
            }
        },
        false => {
            let machine = Ceilings::measure(plan.game.trace().width, plan.game.base_bytes())?;
            (machine, format!("on {} threads", plan.threads))
        }
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
        out.push_str(&format!("{name:10}{:>14}   {what}\n", time(seconds)));
    }
    let games = match numbers.games {
        1 => String::new(),
        n => format!("   {n} games, one for each of compare.seeds"),
    };
    out.push_str(&format!("{:10}{:>14}{games}\n", "total", time(all)));
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

fn time(seconds: f64) -> String {
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
    let (prompt, iterations) = (plan.prompt(), r.game.iterations);
    let n = numbers.examples;
    let times = |what: &str, count: usize| format!("{} {what}", grouped(count));
    let mut stages = Vec::new();
    if r.sft.epochs > 0 {
        let seen = r.sft.epochs * n;
        let item = Packing::item(prompt, &plan.responses()[..1]);
        let packing = plan.supervised();
        let mut work =
            plan.sft.training_work(&packing, r.train.checkpoint)? * share(seen, item, &packing);
        work += plan.sft.update_work() * seen.div_ceil(r.sft.batch) as f64;
        stages.push(("sft", times("examples trained on", seen), work));
    }
    let answers = |count: usize, measured: bool| -> Result<Work> {
        let mut decoding = plan.decoding(r.generate.batch, measured);
        decoding.slots = decoding.slots.min(count.max(1));
        let rounds = count as f64 / decoding.slots as f64;
        Ok(plan.game.generation_work(&decoding)? * rounds)
    };
    let item = Packing::item(prompt, &plan.responses());
    let packing = plan.pairs(usize::MAX);
    let scored = |pairs: usize| -> Result<Work> {
        Ok(plan.game.scoring_work(&packing)? * share(pairs, item, &packing))
    };
    let of_iteration = |t: usize| n * (t + 1).min(r.game.window);
    let pairs: usize = (0..iterations).map(of_iteration).sum();
    let rules = settings::rules(r, PerIteration::constant(1.0));
    let epochs = |t: usize| rules.iteration(t).epochs;
    let seen = |t: usize| of_iteration(t) * epochs(t);
    let trained: usize = (0..iterations).map(seen).sum();
    let steps: usize = (0..iterations)
        .map(|t| of_iteration(t).div_ceil(r.train.batch) * epochs(t))
        .sum();
    let packing = plan.pairs(r.train.batch);
    let mut work =
        plan.game.training_work(&packing, r.train.checkpoint)? * share(trained, item, &packing);
    work += plan.game.update_work() * steps as f64;
    if plan.passes_twice(&packing) {
        work += plan.game.scoring_work(&packing)? * share(trained, item, &packing);
    }
    // the start is measured too; log-probs are those of policy and opponent
    let measured = numbers.held_out * r.eval.seeds.len() * (iterations + 1);
    let mut measuring = answers(measured, true)?;
    measuring += scored(numbers.held_out * (2 * iterations + 1))?;
    stages.push((
        "generate",
        times("answers", n * iterations),
        answers(n * iterations, false)?,
    ));
    if plan.scores {
        stages.push(("score", times("pairs scored", pairs), scored(pairs)?));
    }
    stages.extend([
        ("train", times("pairs trained on", trained), work),
        ("eval", times("answers measured", measured), measuring),
    ]);
    Ok(stages)
}

/// How many micro-batches so many items fill.
fn share(items: usize, item: usize, packing: &Packing) -> f64 {
    (items * item) as f64 / packing.rows.max(1) as f64
}
