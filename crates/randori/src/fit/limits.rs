//! Whether a recipe fits into a given memory: the largest sizes that do, and the switches that
//! would make it fit.

use anyhow::Result;
use randori_engine::fit::{Packing, largest};

use crate::aim::Aim;
use crate::bytes::{shown, unit};
use crate::plan::{MOST, Model, Plan, bytes, micro_batch, slots};
use crate::recipe::{AdapterKind, ComputeDevice, Dtype, OptimizerKind, OrAuto, Recipe};
use crate::watch::Watch;

/// Says whether it fits, the largest sizes that do, and what would make it fit.
pub fn against(watch: &dyn Watch, model: &Model, plan: &Plan, limit: u64) -> Result<()> {
    let peak = plan.peak()?;
    let size = |bytes: u64| format!("{} {}", shown(bytes, limit), unit(limit));
    let free = limit.saturating_sub(plan.besides());
    if peak <= limit {
        result!(
            watch,
            "\nFits into {}: {} at most.",
            size(limit),
            size(peak)
        );
    }
    result!(
        watch,
        "\nThe largest that fit into {}, all else as in the recipe:",
        size(limit)
    );
    let (item, longest) = longest(plan, free)?;
    result!(watch, "  {item:<28} {}", or_none(longest));
    result!(
        watch,
        "  train.micro_batch_tokens     {}",
        or_none(micro_batch(plan, free)?.map(|n| bounded(n, plan)))
    );
    if plan.aim == Aim::Spin {
        let slots = slots(plan, free)?;
        result!(
            watch,
            "  generate.batch               {}",
            or_none(slots.map(|n| any_slots(n, plan)))
        );
    }
    if peak <= limit {
        return Ok(());
    }
    let stages = plan.stages()?;
    let large: Vec<String> = stages
        .iter()
        .filter(|(_, _, p)| p.total() > free)
        .map(|(name, _, p)| format!("{name} {}", size(p.total() + plan.besides())))
        .collect();
    let would = match remedies(model, plan, limit)? {
        Some((each, peak)) => format!("this would, with {} at most: {}", size(peak), each.join("; or: ")),
        None => "no switch of the recipe makes it: take a smaller model, or shorter prompts and responses (data.max_prompt_tokens, data.max_response_tokens, generate.max_new_tokens)".into(),
    };
    anyhow::bail!(
        "does not fit into {}: {}; {would}",
        size(limit),
        large.join(", ")
    )
}

/// The longest pair, or example, that trainings have room for.
fn longest(plan: &Plan, free: u64) -> Result<(&'static str, Option<String>)> {
    let prompt = plan.prompt();
    let (item, players) = match plan.has_pairs() {
        true => ("longest pair", 2),
        false => ("longest example", 1),
    };
    let response = largest(free, MOST, &mut |n| {
        let (r, responses) = (&plan.recipe, vec![n; players]);
        let of = |batch| Packing::fullest(prompt, &responses, batch, r.micro_batch_tokens());
        match plan.has_pairs() {
            true => bytes(plan.train(&of(r.train.batch))),
            false => bytes(plan.sft(&of(r.sft.batch))),
        }
    })?;
    let longest = response.map(|n| {
        format!(
            "{n} tokens a response: {} rows with a prompt of {prompt}",
            Packing::item(prompt, &vec![n; players])
        )
    });
    Ok((item, longest))
}

fn or_none(found: Option<String>) -> String {
    found.unwrap_or_else(|| "none fits".into())
}

/// A micro-batch's size, or that none is too large: a step has no more rows.
fn bounded(rows: usize, plan: &Plan) -> String {
    let (r, responses) = (&plan.recipe, plan.responses());
    let (batch, what, responses) = match plan.has_pairs() {
        true => (r.train.batch, "pairs", &responses[..]),
        false => (r.sft.batch, "examples", &responses[..1]),
    };
    let step = batch * Packing::item(plan.prompt(), responses);
    match rows >= step {
        true => format!("any (a step's {batch} {what} have at most {step} rows)"),
        false => rows.to_string(),
    }
}

/// A number of slots, or that none is too large: no more are filled than there are prompts at a
/// time.
fn any_slots(slots: usize, plan: &Plan) -> String {
    let chunk = plan.recipe.generate.chunk;
    match plan.recipe.eval.limit {
        Some(limit) if slots >= chunk.max(limit) => format!(
            "any (generate.chunk = {chunk} prompts are answered at a time, eval.limit = {limit} are measured on)"
        ),
        _ if slots > chunk => {
            let more = if slots >= MOST { " and more" } else { "" };
            format!("{slots}{more}, of which the game fills generate.chunk = {chunk}")
        }
        _ => slots.to_string(),
    }
}

/// Switches in the order in which they cost least: each a recipe key and its value, from a plan
/// that does not fit.
type Switch = fn(&mut Recipe, &Plan, u64) -> Result<Option<String>>;

const SWITCHES: [Switch; 8] = [
    |r, _, _| {
        let changes = !std::mem::replace(&mut r.train.checkpoint, true);
        Ok(changes.then(|| "train.checkpoint = true".into()))
    },
    |r, _, _| {
        let may = r.train.checkpoint && r.model.device == ComputeDevice::Cuda;
        let changes = may && !std::mem::replace(&mut r.train.offload_inputs, true);
        Ok(changes.then(|| "train.offload_inputs = true".into()))
    },
    |r, plan, free| {
        if plan.aim != Aim::Spin {
            return Ok(None);
        }
        let n = slots(plan, free)?.filter(|n| *n < r.generate.batch);
        r.generate.batch = n.unwrap_or(r.generate.batch);
        Ok(n.map(|n| format!("generate.batch = {n}")))
    },
    |r, plan, free| {
        let n = micro_batch(plan, free)?.filter(|n| *n < r.micro_batch_tokens());
        r.train.micro_batch_tokens = n.map_or(r.train.micro_batch_tokens, OrAuto::Of);
        Ok(n.map(|n| format!("train.micro_batch_tokens = {n}")))
    },
    |r, _, _| {
        let changes = r.model.dtype == Dtype::F32;
        r.model.dtype = Dtype::Bf16;
        Ok(changes.then(|| "model.dtype = \"bf16\"".into()))
    },
    |r, _, _| {
        // what is trained in full must stay dense
        let may = r.adapter.modules_to_save.0.is_empty();
        let changes = may && r.adapter.kind != AdapterKind::Qlora;
        if changes {
            r.adapter.kind = AdapterKind::Qlora;
        }
        Ok(changes.then(|| "adapter.kind = \"qlora\"".into()))
    },
    |r, _, _| {
        let card = r.model.device == ComputeDevice::Cuda;
        let changes = card && !std::mem::replace(&mut r.train.offload_optimizer, card);
        Ok(changes.then(|| "train.offload_optimizer = true".into()))
    },
    |r, _, _| {
        let changes = r.train.optimizer == OptimizerKind::AdamW;
        if changes {
            r.train.optimizer = OptimizerKind::AdamW8;
        }
        Ok(changes.then(|| "train.optimizer = \"adamw_8bit\"".into()))
    },
];

/// What would make it fit, and the memory it then takes at most: single switches if there are any,
/// or else as many as it needs, one after the other.
fn remedies(model: &Model, plan: &Plan, limit: u64) -> Result<Option<(Vec<String>, u64)>> {
    let free = limit.saturating_sub(plan.besides());
    let (mut single, mut most) = (Vec::new(), 0);
    for switch in SWITCHES {
        let mut recipe = plan.recipe.clone();
        if let Some(what) = switch(&mut recipe, plan, free)? {
            let peak = Plan::of(model, recipe)?.meant_for(plan.aim).peak()?;
            if peak <= limit {
                most = most.max(peak);
                single.push(what);
            }
        }
    }
    if !single.is_empty() {
        return Ok(Some((single, most)));
    }
    // sizes last: only when nothing else is left is known how small they must be
    let mut together = Vec::new();
    let mut now = Plan::of(model, plan.recipe.clone())?.meant_for(plan.aim);
    for i in [0, 1, 6, 7, 4, 5, 2, 3] {
        let mut recipe = now.recipe.clone();
        let Some(what) = SWITCHES[i](&mut recipe, &now, free)? else {
            continue;
        };
        together.push(what);
        now = Plan::of(model, recipe)?.meant_for(plan.aim);
        let peak = now.peak()?;
        if peak <= limit {
            return Ok(Some((vec![together.join(" and ")], peak)));
        }
    }
    Ok(None)
}
