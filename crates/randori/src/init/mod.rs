//! `randori init`: a recipe for a model and data that were looked at. Everything in it is decided
//! before a line is written: how data is read, limits by its lengths, adapter and batches by the
//! memory at hand; and it is written only when `inspect` and `fit` would accept it.

mod asked;
mod columns;
mod draft;
mod lengths;
mod page;
mod reading;
mod sizes;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use randori_data::{Columns, Encoded};
use randori_store::Disk;

pub use asked::Init;

use crate::aim::Aim;
use crate::bytes::{shown, unit};
use crate::corpus::{Part, part, policy};
use crate::data_rows::key;
use crate::escape::escaped;
use crate::fit::amount::{Amount, lengths as usual_lengths};
use crate::fit::time;
use crate::inspect::{inspected, looked_at};
use crate::memory;
use crate::plan::{Model, Plan};
use crate::recipe::{AdapterKind, ComputeDevice};
use crate::request::Split;
use crate::run::open_corpus;
use crate::session::Setting;
use crate::settings;
use crate::watch::Silent;
use draft::Draft;
use lengths::Lengths;
use reading::{Reading, paired, read};

/// Examples of which answers are looked at.
const LOOKED_AT: usize = 64;
/// Answers of so few tokens are taken to be right or wrong as a whole.
const SHORT: usize = 16;
/// The most examples in a step, and steps that an epoch should have where there are fewer.
const BATCH: usize = 32;
const STEPS: usize = 16;

/// Writes the recipe and says what was found; answers what comes next.
///
/// # Errors
/// A file that is there already, a model or data that cannot be used, a memory that is too small;
/// nothing is written then.
pub fn init(asked: &Init) -> Result<Vec<Next>> {
    let file = asked.file()?;
    asked.check_there()?;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let mut draft = Draft::new(
        asked.aim,
        file.clone(),
        asked::plain(&stem),
        asked.named_from(&file, &asked.model),
        asked.named_from(&file, &asked.data),
    );
    draft.columns = Columns(asked.columns.clone());
    draft.set.clone_from(&asked.request.set);
    let recipe = draft.recipe()?;
    draft.name = recipe.run.name;
    draft.full = recipe.adapter.kind == AdapterKind::Full;
    let reading = read(&mut draft, &asked.request)?;
    let measured = measured_on(&draft, &reading)?;
    decide(&mut draft, &reading, &measured)?;
    draft.card = memory::at_hand(ComputeDevice::Cuda).is_some();
    let device = draft.recipe()?.model.device; // that one, but for --set
    draft.card = device == ComputeDevice::Cuda;
    let free = memory::at_hand(device);
    let limit = asked.memory.unwrap_or_else(|| memory::planned(free));
    let parts: Vec<&Part> = [&reading.train].into_iter().chain(&measured).collect();
    let examples: Vec<&[Encoded]> = parts.iter().map(|part| &part.examples[..]).collect();
    let lengths = Lengths::of(&examples);
    if !draft.sets(&["data.max_prompt_tokens", "data.max_response_tokens"]) {
        let counts = parts.iter().map(|part| &part.counts);
        draft.beyond = counts.map(|of| of.prompt_too_long + of.real_too_long).sum();
    }
    let setting = &reading.setting;
    let model = Model::of(&setting.recipe, Vec::new(), &setting.host)?;
    draft.sizes = sizes::chosen(&draft, &model, &lengths, limit)?;
    draft.lengths = Some(lengths.clone());

    let checked = checked(&draft, asked, limit)?;
    let of = |all: u64| format!("{} {}", shown(all, all), unit(all));
    let memory = match (asked.memory, free) {
        (Some(given), _) => format!(", of {} that may be used", of(given)),
        (None, Some(free)) => format!(", of {} that are free now", of(free)),
        (None, None) => String::new(),
    };
    let found = found(&draft, &checked, &lengths, &memory)?;
    write(&file, &draft.text()?)?;
    asked.request.watch.result(found);
    Ok(next(&draft))
}

/// The parts of the data that are measured on, the game's first; none where nothing is kept aside.
fn measured_on(draft: &Draft, reading: &Reading) -> Result<Vec<Part>> {
    let (setting, recipe) = (&reading.setting, &reading.setting.recipe);
    let validated = reading.train.is_validated(recipe);
    let splits = match draft.aim {
        Aim::Dpo if validated => vec![Split::Validation],
        Aim::Dpo => Vec::new(),
        Aim::Sft | Aim::Spin if validated => vec![Split::HeldOut, Split::Validation],
        Aim::Sft | Aim::Spin if draft.splits != [false; 2] => vec![Split::HeldOut],
        Aim::Sft | Aim::Spin => Vec::new(),
    };
    let pairs = match draft.aim {
        Aim::Dpo => Some(policy(recipe, Some(&*setting.loss(0)?))),
        Aim::Sft | Aim::Spin => None,
    };
    let (mut parts, mut keys) = (Vec::new(), Vec::new());
    for split in splits {
        let key = key(recipe, split);
        if !keys.contains(&key) {
            keys.push(key);
            let (tokenizer, bounds) = (&setting.tokenizer, setting.bounds);
            parts.push(part(recipe, tokenizer, split, bounds, pairs.as_ref())?);
        }
    }
    Ok(parts)
}

/// What of the draft the examples decide, those that are measured on besides.
fn decide(draft: &mut Draft, reading: &Reading, measured: &[Part]) -> Result<()> {
    let (setting, train) = (&reading.setting, &reading.train);
    let batch = (train.examples.len() / STEPS).clamp(1, BATCH);
    draft.batch = 1 << batch.ilog2();
    if draft.aim == Aim::Dpo {
        return Ok(());
    }
    if let Some(held_out) = measured.first() {
        draft.held_out = held_out.examples.len();
    } else if draft.aim == Aim::Spin {
        let why = train.aside.as_ref().map(|aside| aside.to_string());
        bail!(
            "DATA {}: the game measures itself on rows that it does not train on, but {}; --kind \
             sft takes fewer{}",
            draft.data,
            why.unwrap_or_else(|| "none are kept aside".to_owned()),
            match &train.counts.left.first_bad {
                Some(first) => format!("; a row is no example: {first}"),
                None => String::new(),
            }
        );
    }
    let mut first = train.examples.iter().take(LOOKED_AT);
    let marked = |ids: &[u32]| setting.tokenizer.decode(ids).contains("####");
    let responses = Lengths::of(&[&train.examples[..]]).responses;
    draft.answer = if first.all(|example| marked(&example.response)) {
        "after:####"
    } else if responses.at(0.5) <= SHORT {
        "exact"
    } else {
        "none"
    };
    Ok(())
}

/// A recipe that is accepted.
struct Checked {
    model: Model,
    plan: Plan,
    /// What `inspect` says of its data.
    summary: Vec<String>,
    /// How much data it is used with.
    amount: Amount,
}

/// Does with the recipe's text what `inspect`, `fit` and whatever trains with it do before they
/// read a weight.
fn checked(draft: &Draft, asked: &Init, limit: u64) -> Result<Checked> {
    let mut setting = looked_at(draft.recipe()?, &[], &asked.request)?;
    setting.watch = Arc::new(Silent); // notes have been given
    let inspection = inspected(&setting, 0)?;
    check_trained_on(draft, &setting)?;
    let amount = Amount::of(&setting.recipe, Some(&setting), draft.aim);
    let model = Model::of(&setting.recipe, Vec::new(), &setting.host)?;
    model.check_start(&setting.recipe)?;
    let plan = Plan::of(&model, setting.recipe)?.meant_for(draft.aim);
    let peak = plan.peak()?;
    ensure!(
        peak <= limit,
        "the recipe needs {} {}, more than {} {}",
        shown(peak, peak),
        unit(peak),
        shown(limit, peak),
        unit(peak)
    );
    Ok(Checked {
        model,
        plan,
        summary: inspection.summary,
        amount,
    })
}

/// Refuses what the recipe's command would refuse in its data.
fn check_trained_on(draft: &Draft, setting: &Setting) -> Result<()> {
    let recipe = &setting.recipe;
    if draft.aim == Aim::Spin {
        return open_corpus(setting).map(drop);
    }
    let pairs = match draft.aim {
        Aim::Dpo => Some(policy(recipe, Some(&*setting.loss(0)?))),
        Aim::Sft | Aim::Spin => None,
    };
    let train = part(
        recipe,
        &setting.tokenizer,
        Split::Train,
        setting.bounds,
        pairs.as_ref(),
    )?;
    settings::check_rates(recipe, train.examples.len(), draft.aim == Aim::Sft)
}

/// Writes the file, whole or not at all, where nothing is.
fn write(file: &Path, text: &str) -> Result<()> {
    ensure!(
        file.symlink_metadata().is_err(),
        "{} is there already: somebody wrote it meanwhile",
        file.display()
    );
    Ok(Disk::new().write(file, text.as_bytes())?)
}

/// What was found, a line each.
fn found(draft: &Draft, checked: &Checked, lengths: &Lengths, memory: &str) -> Result<String> {
    let Checked {
        model,
        plan,
        summary,
        amount,
    } = checked;
    let weights = model.trace.weights.iter();
    let weights = weights.map(|w| w.shape.iter().product::<usize>() as f64);
    let (peak, data) = (plan.peak()?, &plan.recipe.data);
    let mut lines = vec![(
        "model",
        format!(
            "{}, {} blocks, {:.1} M weights; {:.1} M are trained beside them",
            model.arch.name(),
            model.arch.layers(),
            weights.sum::<f64>() / 1e6,
            plan.game.trainable_parameters() as f64 / 1e6
        ),
    )];
    lines.extend(summary.iter().map(|line| ("data", line.clone())));
    if draft.beyond > 0 {
        let rows = draft.beyond;
        let line = format!("left out: {rows} longer than the window; lengths are of the others");
        lines.push(("data", line));
    }
    if draft.aim != Aim::Dpo && paired(draft, &plan.recipe) {
        let line = "rows have a second response, which is not read: --kind dpo trains on pairs";
        lines.push(("data", line.to_owned()));
    }
    if draft.plain {
        let line = "the model has no chat template: an answer follows its prompt directly, so let \
                    prompts end with a line break, or name a template as model.chat_template";
        lines.push(("template", line.to_owned()));
    }
    lines.extend([
        ("prompts", limited(&lengths.prompts, data.max_prompt_tokens)),
        (
            "responses",
            limited(&lengths.responses, data.max_response_tokens),
        ),
        (
            "memory",
            format!("{} {} at most{memory}", shown(peak, peak), unit(peak)),
        ),
        ("time", estimated(model, plan, amount)?),
    ]);
    let file = draft.file.display().to_string();
    let mut text = format!("{} is written. What was found:\n", escaped(&file));
    let mut before = "";
    for (name, line) in lines {
        let shown = if name == before { "" } else { name };
        text.push_str(&format!("  {shown:<11} {line}\n"));
        before = name;
    }
    Ok(text)
}

fn limited(lengths: &lengths::Spread, limit: usize) -> String {
    format!("{}; limit {limit}", lengths.words())
}

/// How long the recipe's command takes, as `fit` has it.
fn estimated(model: &Model, plan: &Plan, amount: &Amount) -> Result<String> {
    let machine = match time::machine(plan) {
        Ok((machine, _)) => machine,
        Err(error) if plan.card => return Ok(format!("not estimated: {error:#}")),
        Err(error) => return Err(error),
    };
    Ok(format!(
        "about {} here, by the speed that this machine has right now; {}",
        time::total(model, plan, amount, &machine)?.words(),
        usual_lengths(plan, amount.means)
    ))
}

/// A command that comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    /// The program's arguments.
    pub arguments: Vec<String>,
    /// What it does, in a few words.
    pub what: &'static str,
}

/// The commands that come next.
fn next(draft: &Draft) -> Vec<Next> {
    const AGAIN: &str = "stopped, the same command goes on";
    const TALKS: &str = "talks with what came of it";
    let next = |arguments: &[&str], what| Next {
        arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
        what,
    };
    let (file, name) = (draft.file.display().to_string(), &draft.name);
    let file = file.as_str();
    let mut all = vec![next(&["inspect", file], "what the model will see")];
    match draft.aim {
        Aim::Spin => all.extend([
            next(&["run", file], AGAIN),
            next(&["chat", &format!("runs/{name}")], TALKS),
        ]),
        Aim::Sft => all.extend([
            next(&["sft", file], AGAIN),
            next(
                &["chat", file, "--adapter", &format!("runs/{name}-sft/out")],
                TALKS,
            ),
        ]),
        Aim::Dpo => {
            let out = format!("{name}-adapter");
            all.extend([
                next(&["train", file, "--out", &out], AGAIN),
                next(&["chat", file, "--adapter", &out], TALKS),
            ]);
        }
    }
    all
}
