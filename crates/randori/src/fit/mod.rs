//! `randori fit`: how much memory each stage of a recipe takes, whether that fits, what would, and
//! the largest sizes that do. The arithmetic is the engine's (`randori_engine::fit`); here its
//! figures become text.

pub mod amount;
mod limits;
pub mod time;

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use randori_engine::fit::Peak;

use crate::aim::Aim;
use crate::bytes::{alone, shown, unit};
use crate::check::{self, Uses};
use crate::folder;
use crate::memory::{chosen, free};
use crate::plan::{Model, Plan};
use crate::recipe::{AdapterKind, ComputeDevice, OrAuto, Recipe};
use crate::request::Request;
use crate::session::Setting;
use crate::watch::{Silent, notes};
use amount::Amount;

/// Prints the plan of the verb that `aim` stands for, or else of the one that the recipe shows
/// itself to be for.
///
/// # Errors
/// Whatever is wrong with recipe or model; where `limit` is given, a recipe that does not fit.
pub fn fit(request: &Request, limit: Option<u64>, aim: Option<Aim>) -> Result<()> {
    let (mut recipe, adapter) = folder::recipe(request)?;
    if let Some(dir) = request.recipe.as_ref().filter(|path| path.is_dir()) {
        // one seed's folder is one game
        let games = folder::games(dir, &recipe, false)?;
        recipe.compare.seeds = games.into_iter().map(|(seed, _)| seed).collect();
    }
    let host = check::recipe(&recipe, request, &adapter, &Uses::PLANNED)?;
    check::model(&recipe, &host, &adapter)?;
    let model = Model::of(&recipe, adapter, &host)?;
    model.check_start(&recipe)?;
    notes(&*request.watch, model.described.notes());
    let (aim, why) = aimed(request, &recipe, aim);
    let quiet = Request {
        watch: Arc::new(Silent),
        ..request.clone()
    };
    // a tokenizer need not be there
    let setting = Setting::without_weights(recipe.clone(), host, &quiet).ok();
    let amount = Amount::of(&recipe, setting.as_ref(), aim);
    let mut plan = Plan::of(&model, recipe)?.meant_for(aim);
    if plan.recipe.train.micro_batch_tokens == OrAuto::Auto {
        let here = free(Path::new("/")).filter(|_| !plan.card);
        let limit = limit.or(here).unwrap_or(u64::MAX);
        plan.recipe.train.micro_batch_tokens = OrAuto::Of(chosen(&plan, limit)?);
    }
    let of = format!(
        "Stages of `{}` ({why}); those of another verb: --for.\n",
        aim.command()
    );
    let columns = request.watch.columns();
    request.watch.result(memory(&plan, &model, &of, columns)?);
    request.watch.result(time::shown(&model, &plan, &amount)?);
    match limit {
        Some(limit) => limits::against(&*request.watch, &model, &plan, limit),
        None => Ok(()),
    }
}

/// The verb to plan for, and who says so.
fn aimed(request: &Request, recipe: &Recipe, asked: Option<Aim>) -> (Aim, &'static str) {
    match asked {
        Some(aim) => (aim, "asked for"),
        None if request.recipe.as_ref().is_some_and(|path| path.is_dir()) => {
            (Aim::Spin, "a run's folder")
        }
        None => Aim::of(recipe),
    }
}

/// What the stages take, in a window of so many columns; `of` says whose they are.
fn memory(plan: &Plan, model: &Model, of: &str, columns: Option<usize>) -> Result<String> {
    let r = &plan.recipe;
    let count = |w: &randori_engine::trace::TracedWeight| w.shape.iter().product::<usize>() as f64;
    let all: f64 = model.trace.weights.iter().map(count).sum();
    let held = match (&plan.options.quant, r.adapter.kind) {
        (Some(_), _) => format!("adapter.quant = {:?}", r.adapter.quant).to_lowercase(),
        _ => format!("model.dtype = {:?}", r.model.dtype).to_lowercase(),
    };
    let supposed = match (model.described.at_hand(), model.described.supposed()) {
        (true, _) => String::new(),
        (false, None) => {
            " (only the configuration is at hand: dense safetensors are supposed)".into()
        }
        (false, Some(format)) => {
            format!(" (only the configuration is at hand: its quantization_config says {format})")
        }
    };
    let mut out = format!(
        "{}: {} blocks, {:.1} M weights, {held}{supposed}; trained: {:.1} M\n",
        model.arch.name(),
        model.arch.layers(),
        all / 1e6,
        plan.game.trainable_parameters() as f64 / 1e6
    );
    let stages = plan.stages()?;
    let most = stages.iter().map(|(_, _, p)| p.total()).max().unwrap_or(0);
    out.push_str(of);
    out.push_str(&passes(&plan.recipe));
    out.push_str(&about(plan, most)?);
    out.push_str(&table(&stages, most, columns));
    let of = |stage: &str| {
        stages
            .iter()
            .find(|s| s.0 == stage)
            .map(|s| s.2)
            .unwrap_or_default()
    };
    let training = if plan.has_pairs() { "train" } else { "sft" };
    let generate = (plan.aim == Aim::Spin).then(|| of("generate").logits);
    out.push_str(&words(plan, training, &of(training), generate, most));
    let planner = if plan.has_pairs() {
        &plan.game
    } else {
        &plan.sft
    };
    let (player, moments) = (planner.player_bytes(), planner.moment_bytes());
    let (whose, besides) = match plan.aim {
        Aim::Spin => ("every iteration's", "; texts and log-probs besides"),
        Aim::Sft | Aim::Dpo => ("the", ""),
    };
    out.push_str(&format!(
        "Disk: {} for {whose} player, up to {} more while one is trained{besides}.\n",
        alone(player),
        alone(2 * (player + moments))
    ));
    Ok(out)
}

/// A line for each stage, in the unit that suits `most`, the largest; what decides its size stands
/// below it where a window of so many `columns` has no room beside it.
fn table(stages: &[(&'static str, String, Peak)], most: u64, columns: Option<usize>) -> String {
    let titles = [
        "base",
        "players",
        "moments",
        "gradients",
        "kept",
        "work",
        "peak",
    ];
    let mut out = format!("{:10}", "stage");
    titles
        .iter()
        .for_each(|c| out.push_str(&format!("{c:>10}")));
    out.push('\n');
    let largest = |p: &Peak| match p.total() == most {
        true => "   <- the largest",
        false => "",
    };
    let width = |(_, what, p): &(&str, String, Peak)| 83 + what.len() + largest(p).len();
    let widest = stages.iter().map(width).max().unwrap_or(0);
    let between = match columns.is_some_and(|columns| widest > columns) {
        true => "\n    ",
        false => "   ",
    };
    for (name, what, p) in stages {
        out.push_str(&format!("{name:10}"));
        for bytes in [
            p.base,
            p.players,
            p.moments,
            p.gradients,
            p.kept,
            p.work,
            p.total(),
        ] {
            out.push_str(&format!("{:>10}", shown(bytes, most)));
        }
        out.push_str(&format!("{between}{what}{}\n", largest(p)));
    }
    out
}

/// Where passes are supposed to run, and who says so.
fn passes(recipe: &Recipe) -> String {
    let (runs, device) = match recipe.model.device {
        ComputeDevice::Cpu => ("the CPU", "cpu"),
        ComputeDevice::Cuda => ("a GPU", "cuda"),
    };
    let said = match recipe.says("model.device") {
        true => recipe.place("model.device"),
        false => "the default".into(),
    };
    format!("Passes are supposed to run on {runs}: model.device = \"{device}\" ({said}).\n")
}

/// What the table is about.
fn about(plan: &Plan, most: u64) -> Result<String> {
    let unit = unit(most);
    if !plan.card {
        return Ok(format!(
            "Memory of the engine as it runs on the CPU, at its peak in each stage, in {unit}. With model.device = \"cuda\" it is the GPU's.\n\n"
        ));
    }
    let (loading, training) = plan.beside_card()?;
    let pinned = match plan.pinned()? {
        0 => String::new(),
        pinned => format!("\n({} of it pinned, for block inputs)", shown(pinned, most)),
    };
    let base = match plan.recipe.adapter.kind {
        AdapterKind::Full => "the base, which stays there",
        _ => "each of the base's weights on its way to the card",
    };
    Ok(format!(
        "Memory of the GPU (model.device = \"cuda\"), at its peak in each stage, in {unit}. In the machine's own memory lie\nplayers that wait, what comes down to be saved, and {base}: {} while it loads, {} then{pinned}.\n\n",
        shown(loading, most),
        shown(training, most),
    ))
}

/// What the columns hold; `training` is the largest training's name, `train` its peak, `generate`
/// the logits of answers where there are any.
fn words(plan: &Plan, training: &str, train: &Peak, generate: Option<u64>, most: u64) -> String {
    let of = |bytes| shown(bytes, most);
    let head = format!(
        "\nkept: the tape, or keys and values. work: all else a pass holds; in {training} it has"
    );
    let answers = generate.map_or(String::new(), |logits| {
        format!(", in generate {}", of(logits))
    });
    if plan.card {
        return format!(
            "{head} {} of logits{answers}.\nplayers: a copy of the one that works, and in {training} its\nparameters in f32. Of each figure 3 % is for the pool of memory; the CUDA context, kernels and cuBLAS are\ntaken to need {} {} besides. These two are assumptions, never measured on a card.\n",
            of(train.logits),
            of(plan.besides()),
            unit(most),
        );
    }
    format!(
        "{head} {} of attention and {} of logits{answers}.\nA process takes some {} besides.\n",
        of(train.attention),
        of(train.logits),
        of(plan.besides())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_room_in_80_columns_and_nothing_is_cut() {
        let peak = Peak {
            base: 20_000 << 20,
            work: 1234,
            ..Peak::default()
        };
        let what = "64 slots of 4,096 + 4,096 tokens, log-probs first".to_owned();
        let stages = [
            ("load", "one".to_owned(), Peak::default()),
            ("generate", what, peak),
        ];
        let narrow = table(&stages, peak.total(), Some(80));
        let widths = narrow.lines().map(|line| line.chars().count());
        assert!(widths.max() <= Some(80), "{narrow}");
        assert!(
            narrow.contains("log-probs first   <- the largest"),
            "{narrow}"
        );
        let wide = table(&stages, peak.total(), None);
        assert_eq!((wide.lines().count(), narrow.lines().count()), (3, 5));
        let words = |text: &str| {
            text.split_whitespace()
                .map(String::from)
                .collect::<Vec<_>>()
        };
        assert_eq!(words(&wide), words(&narrow));
    }
}
