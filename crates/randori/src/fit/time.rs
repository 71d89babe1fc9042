//! How long a verb's stages take, by the work their passes are and this machine's speed. An
//! estimate, and said to be one.

use std::time::Duration;

use anyhow::Result;
use randori_core::PerIteration;
use randori_engine::fit::{Ceilings, Packing, Work};

use super::amount::{Amount, lengths, usual};
use crate::aim::Aim;
use crate::figures::{clock, counted};
use crate::plan::{Model, Plan};
use crate::settings;

/// Memory that is read for its speed beside a run: more than caches hold.
const BESIDE: u64 = 64 << 20;

/// What this machine can do, and where that was measured.
///
/// # Errors
/// A GPU that cannot be asked.
pub fn machine(plan: &Plan) -> Result<(Ceilings, String)> {
    let measured = measured(plan, plan.game.base_bytes())?;
    let said = match plan.card {
        true => "on the GPU; the share of it that passes reach is assumed".into(),
        false => format!("on {}", counted(plan.threads, "thread")),
    };
    Ok((measured, said))
}

/// The same beside a run whose memory is in use, in little more.
///
/// # Errors
/// A GPU that cannot be asked, or has no room.
pub fn beside_a_run(plan: &Plan) -> Result<Ceilings> {
    measured(plan, plan.game.base_bytes().min(BESIDE))
}

fn measured(plan: &Plan, bytes: u64) -> Result<Ceilings> {
    match plan.card {
        true => on_card(plan, bytes),
        false => Ok(Ceilings::measure(plan.game.trace().width, bytes)?),
    }
}

/// Seconds, at least and at most: nobody knows beforehand how long answers become.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Span {
    /// With answers as long as the data's.
    pub least: f64,
    /// With answers that all go on to their limit.
    pub most: f64,
}

impl Span {
    /// Of something that takes so long whatever the answers are.
    pub fn exactly(seconds: f64) -> Span {
        Span {
            least: seconds,
            most: seconds,
        }
    }

    /// The times of the same work in both of [`usual`]'s plans.
    pub fn of(machine: &Ceilings, [least, most]: &[Work; 2]) -> Span {
        let (least, most) = (machine.seconds(least), machine.seconds(most));
        Span {
            least: least.min(most),
            most: most.max(least),
        }
    }

    /// So many times as long.
    pub fn times(self, count: usize) -> Span {
        let count = count as f64;
        Span {
            least: count * self.least,
            most: count * self.most,
        }
    }

    /// `12:33 to 21:40`, or `12:33` where both look the same.
    pub fn words(self) -> String {
        match (length(self.least), length(self.most)) {
            (least, most) if least == most => least,
            (least, most) => format!("{least} to {most}"),
        }
    }
}

impl std::ops::AddAssign for Span {
    fn add_assign(&mut self, more: Span) {
        self.least += more.least;
        self.most += more.most;
    }
}

/// How long everything takes: all stages together, at the lengths that the data's rows have.
///
/// # Errors
/// As [`Plan::of`].
pub fn total(model: &Model, plan: &Plan, amount: &Amount, machine: &Ceilings) -> Result<Span> {
    let mut all = Span::default();
    for (.., time) in timed(model, plan, amount, machine)? {
        all += time;
    }
    Ok(all)
}

/// Every stage of the plan's verb, how much it does, and the time of all its games.
fn timed(
    model: &Model,
    plan: &Plan,
    amount: &Amount,
    machine: &Ceilings,
) -> Result<Vec<(&'static str, String, Span)>> {
    let [usual, longest] = usual(model, plan, amount.means)?;
    let longest = stages(&longest, amount)?;
    let both = stages(&usual, amount)?.into_iter().zip(longest);
    let timed = |((name, what, least), (.., most)): (Stage, Stage)| {
        let once = Span::of(machine, &[least, most]);
        (name, what, once.times(amount.games))
    };
    Ok(both.map(timed).collect())
}

/// One line for each stage of the plan's verb, and their sum.
pub fn shown(model: &Model, plan: &Plan, amount: &Amount) -> Result<String> {
    let (machine, where_measured) = match machine(plan) {
        Ok(machine) => machine,
        Err(e) if plan.card => {
            return Ok(format!(
                "\nNo time is estimated: it is measured on the GPU itself, but {e}\n"
            ));
        }
        Err(e) => return Err(e),
    };
    let all = match plan.aim {
        Aim::Spin => "the whole game".to_owned(),
        Aim::Sft | Aim::Dpo => format!("`{}`", plan.aim.command()),
    };
    let mut out = format!(
        "\nTime of {all}, an estimate, here and now ({:.0} billion multiply-adds and {:.1} GB a second, measured just\nnow {where_measured}): {}, {}.\n\n",
        machine.multiply_adds / 1e9,
        machine.bytes / 1e9,
        amount.what,
        lengths(plan, amount.means)
    );
    for (name, what, time) in timed(model, plan, amount, &machine)? {
        out.push_str(&format!("{name:10}{:>20}   {what}\n", time.words()));
    }
    let games = match amount.games {
        1 => String::new(),
        n => format!("   {n} games, one for each of compare.seeds"),
    };
    let all = total(model, plan, amount, &machine)?.words();
    out.push_str(&format!("{:10}{all:>20}{games}\n", "total"));
    let baseline = match plan.aim {
        Aim::Spin if plan.recipe.compare.continued_sft => " the baseline of compare.continued_sft,",
        _ => "",
    };
    out.push_str(&format!(
        "\nNot in it: loading, saving,{baseline} and what else the machine does meanwhile.\n"
    ));
    Ok(out)
}

#[cfg(feature = "cuda")]
fn on_card(plan: &Plan, bytes: u64) -> Result<Ceilings> {
    let float = match plan.recipe.model.dtype {
        crate::recipe::Dtype::F32 => candle_core::DType::F32,
        _ => candle_core::DType::BF16,
    };
    Ok(Ceilings::measure_on_card(
        plan.game.trace().width,
        bytes,
        float,
    )?)
}

#[cfg(not(feature = "cuda"))]
fn on_card(_: &Plan, _: u64) -> Result<Ceilings> {
    anyhow::bail!("this program is built without the feature `cuda`")
}

/// A length of time as people read it.
fn length(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if seconds < 48.0 * 3600.0 => clock(time),
        _ => format!("{:.0} days", seconds / 86_400.0),
    }
}

/// A stage's name, how much it does, and its work.
type Stage = (&'static str, String, Work);

/// Every stage of the plan's verb, once.
fn stages(plan: &Plan, amount: &Amount) -> Result<Vec<Stage>> {
    match plan.aim {
        Aim::Sft => alone(plan, amount),
        Aim::Spin => game(plan, amount),
        Aim::Dpo => given(plan, amount),
    }
}

/// `1 pair scored`, `24 pairs scored`; a name's first words are `what`, the rest `done`.
fn times(what: &str, done: &str, count: usize) -> String {
    format!("{}{done}", counted(count, what))
}

/// Supervised training and nothing else, which makes one pass where the recipe has none before a
/// game.
fn alone(plan: &Plan, amount: &Amount) -> Result<Vec<Stage>> {
    let seen = amount.examples * plan.recipe.sft.epochs.max(1);
    let trained = (
        "sft",
        times("example", " trained on", seen),
        supervised(plan, seen)?,
    );
    if amount.held_out == 0 {
        return Ok(vec![trained]);
    }
    let item = Packing::item(plan.prompt(), &plan.responses()[..1]);
    let packing = plan.alone();
    let measured = plan.game.scoring_work(&packing)? * share(amount.held_out, item, &packing);
    let what = times("validation example", "", amount.held_out);
    Ok(vec![trained, ("score", what, measured)])
}

/// Training on pairs that are given, as in the first iteration.
fn given(plan: &Plan, amount: &Amount) -> Result<Vec<Stage>> {
    let (n, r) = (amount.examples, &plan.recipe);
    let rules = settings::rules(r, PerIteration::constant(1.0));
    let epochs = rules.iteration(0).epochs;
    let mut stages = Vec::new();
    // what is measured on is scored by the start and by what came of it
    let scored = 2 * amount.held_out + if plan.scores { n } else { 0 };
    if scored > 0 {
        let what = times("pair", " scored", scored);
        stages.push(("score", what, scoring(plan, scored)?));
    }
    let work = training(plan, n * epochs, n.div_ceil(r.train.batch) * epochs)?;
    stages.push(("train", times("pair", " trained on", n * epochs), work));
    Ok(stages)
}

/// A whole game.
fn game(plan: &Plan, amount: &Amount) -> Result<Vec<Stage>> {
    let r = &plan.recipe;
    let iterations = r.game.iterations;
    let n = amount.examples;
    let mut stages = Vec::new();
    if r.sft.epochs > 0 {
        let seen = r.sft.epochs * n;
        let work = supervised(plan, seen)?;
        stages.push(("sft", times("example", " trained on", seen), work));
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
    let measured = amount.held_out * r.eval.seeds.len() * (iterations + 1);
    let mut measuring = answering(plan, measured, true)?;
    measuring += scoring(plan, amount.held_out * (2 * iterations + 1))?;
    stages.push((
        "generate",
        times("answer", "", n * iterations),
        answering(plan, n * iterations, false)?,
    ));
    if plan.scores {
        let work = scoring(plan, pairs)?;
        stages.push(("score", times("pair", " scored", pairs), work));
    }
    stages.extend([
        (
            "train",
            times("pair", " trained on", trained),
            training(plan, trained, steps)?,
        ),
        ("eval", times("answer", " measured", measured), measuring),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_says_both_ends_where_they_differ() {
        let mut span = Span::exactly(60.0);
        assert_eq!(span.words(), "1:00");
        span += Span {
            least: 60.0,
            most: 3600.0,
        };
        assert_eq!(span.words(), "2:00 to 1:01:00");
        assert_eq!(span.times(2).words(), "4:00 to 2:02:00");
        assert_eq!(Span::exactly(3e6).words(), "35 days");
    }
}
