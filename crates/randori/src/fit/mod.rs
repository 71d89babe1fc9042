//! `randori fit`: how much memory each stage of a recipe takes, whether that fits, what would, and
//! the largest sizes that do. The arithmetic is the engine's (`randori_engine::fit`); here its
//! figures become text.

mod limits;
pub mod time;

use std::path::Path;

use anyhow::Result;
use randori_engine::fit::Peak;

use crate::bytes::{shown, unit};
use crate::check::{self, Uses};
use crate::folder;
use crate::memory::{chosen, free};
use crate::plan::{Model, Plan};
use crate::recipe::{AdapterKind, ComputeDevice, OrAuto, Recipe};
use crate::request::Request;
use crate::watch::notes;

/// Prints the plan; an error where `limit` is given and the recipe does not fit.
pub fn fit(request: &Request, limit: Option<u64>) -> Result<()> {
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
    let mut plan = Plan::of(&model, recipe)?;
    if plan.recipe.train.micro_batch_tokens == OrAuto::Auto {
        let here = free(Path::new("/")).filter(|_| !plan.card);
        let limit = limit.or(here).unwrap_or(u64::MAX);
        plan.recipe.train.micro_batch_tokens = OrAuto::Of(chosen(&plan, limit)?);
    }
    request.watch.result(memory(&plan, &model)?);
    request.watch.result(time::shown(&plan)?);
    match limit {
        Some(limit) => limits::against(&*request.watch, &model, &plan, limit),
        None => Ok(()),
    }
}

/// A line for each stage.
fn memory(plan: &Plan, model: &Model) -> Result<String> {
    let r = &plan.recipe;
    let count = |w: &randori_engine::trace::TracedWeight| w.shape.iter().product::<usize>() as f64;
    let all: f64 = model.trace.weights.iter().map(count).sum();
    let held = match (&plan.options.quant, r.adapter.kind) {
        (Some(_), _) => format!("adapter.quant = {:?}", r.adapter.quant).to_lowercase(),
        _ => format!("model.dtype = {:?}", r.model.dtype).to_lowercase(),
    };
    let supposed = match model.described.at_hand() {
        true => "",
        false => " (only the configuration is at hand: dense safetensors are supposed)",
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
    out.push_str(&passes(&plan.recipe));
    out.push_str(&about(plan, most)?);
    let columns = [
        "base",
        "players",
        "moments",
        "gradients",
        "kept",
        "work",
        "peak",
    ];
    out.push_str(&format!("{:10}", "stage"));
    columns
        .iter()
        .for_each(|c| out.push_str(&format!("{c:>10}")));
    out.push('\n');
    for (name, what, p) in &stages {
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
        out.push_str(&format!("   {what}\n"));
    }
    let of = |stage: &str| {
        stages
            .iter()
            .find(|s| s.0 == stage)
            .map(|s| s.2)
            .unwrap_or_default()
    };
    out.push_str(&words(plan, &of("train"), &of("generate"), most));
    let (player, moments) = (plan.game.player_bytes(), plan.game.moment_bytes());
    out.push_str(&format!(
        "Disk: {} {} for every iteration's player, up to {} more while one is trained; texts and log-probs besides.\n",
        shown(player, most),
        unit(most),
        shown(2 * (player + moments), most)
    ));
    Ok(out)
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

/// What the columns hold.
fn words(plan: &Plan, train: &Peak, generate: &Peak, most: u64) -> String {
    let of = |bytes| shown(bytes, most);
    let head = "\nkept: the tape, or keys and values. work: all else a pass holds; in train it has";
    if plan.card {
        return format!(
            "{head} {} of logits, in generate {}.\nplayers: a copy of the one that works, and in train its\nparameters in f32. Of each figure 3 % is for the pool of memory; the CUDA context, kernels and cuBLAS are\ntaken to need {} {} besides. These two are assumptions, never measured on a card.\n",
            of(train.logits),
            of(generate.logits),
            of(plan.besides()),
            unit(most),
        );
    }
    format!(
        "{head} {} of attention and {} of logits, in\ngenerate {} of logits. A process takes some {} besides.\n",
        of(train.attention),
        of(train.logits),
        of(generate.logits),
        of(plan.besides())
    )
}
