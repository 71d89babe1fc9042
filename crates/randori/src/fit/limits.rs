//! Whether a recipe fits into a given memory: the largest sizes that do, and the switches that
//! would make it fit.

use anyhow::Result;
use randori_engine::fit::{Packing, largest};

use crate::aim::Aim;
use crate::bytes::alone;
use crate::figures::counted;
use crate::plan::{MOST, Model, Plan, bytes, micro_batch, slots};
use crate::recipe::{AdapterKind, ComputeDevice, Dtype, OptimizerKind, OrAuto, Recipe};
use crate::watch::Watch;

/// Says whether it fits, the largest sizes that do, and what would make it fit.
pub fn against(watch: &dyn Watch, model: &Model, plan: &Plan, limit: u64) -> Result<()> {
    let peak = plan.peak()?;
    let free = limit.saturating_sub(plan.besides());
    if peak <= limit {
        result!(
            watch,
            "\nFits into {}: {} at most.",
            alone(limit),
            alone(peak)
        );
    }
    result!(
        watch,
        "\nThe largest that fit into {}, all else as in the recipe:",
        alone(limit)
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
        .map(|(name, _, p)| format!("{name} {}", alone(p.total() + plan.besides())))
        .collect();
    let would = match remedies(model, plan, limit)? {
        Some((each, peak)) => format!(
            "this would, with {} at most: {}",
            alone(peak),
            each.join("; or: ")
        ),
        None => format!(
            "no switch of the recipe makes it: take a smaller model{}",
            shorter(model, plan, limit)?
        ),
    };
    anyhow::bail!(
        "does not fit into {}: {}; {would}",
        alone(limit),
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
            "{} a response: {} with a prompt of {prompt}",
            counted(n, "token"),
            counted(Packing::item(prompt, &vec![n; players]), "row")
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

/// The advice to take shorter texts, where that can make it fit with the switches.
fn shorter(model: &Model, plan: &Plan, limit: u64) -> Result<String> {
    let mut recipe = plan.recipe.clone();
    recipe.data.max_prompt_tokens = 1;
    recipe.data.max_response_tokens = 1;
    recipe.generate.max_new_tokens = 1;
    recipe.eval.max_new_tokens = None;
    let least = Plan::of(model, recipe)?.meant_for(plan.aim);
    let free = limit.saturating_sub(plan.besides());
    if switched(model, &least, &JOINT, free)?.1 > limit {
        return Ok(String::new());
    }
    let answers = match plan.has_pairs() {
        true => ", generate.max_new_tokens",
        false => "",
    };
    Ok(format!(
        ", or shorter prompts and responses (data.max_prompt_tokens, data.max_response_tokens{answers})"
    ))
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
/// or else several, of which none can be left out.
fn remedies(model: &Model, plan: &Plan, limit: u64) -> Result<Option<(Vec<String>, u64)>> {
    let free = limit.saturating_sub(plan.besides());
    let (mut single, mut most) = (Vec::new(), 0);
    for i in 0..SWITCHES.len() {
        let (said, peak) = switched(model, plan, &[i], free)?;
        if peak <= limit && !said.is_empty() {
            most = most.max(peak);
            single.extend(said);
        }
    }
    if !single.is_empty() {
        return Ok(Some((single, most)));
    }
    let fits = |chosen: &[usize]| {
        let now = switched(model, plan, chosen, free)?;
        anyhow::Ok((now.1 <= limit).then_some(now))
    };
    let mut chosen = Vec::new();
    for switch in JOINT {
        chosen.push(switch);
        if fits(&chosen)?.is_some() {
            break;
        }
    }
    let Some(mut found) = fits(&chosen)? else {
        return Ok(None);
    };
    for switch in DEAREST {
        let without: Vec<usize> = chosen.iter().copied().filter(|i| *i != switch).collect();
        if without.len() < chosen.len()
            && let Some(fewer) = fits(&without)?
        {
            (chosen, found) = (without, fewer);
        }
    }
    let (each, peak) = found;
    Ok(Some((vec![each.join(" and ")], peak)))
}

/// Places in [`SWITCHES`] in the order in which they are thrown together: sizes last, since only
/// when nothing else is left is known how small they must be.
const JOINT: [usize; 8] = [0, 1, 6, 7, 4, 5, 2, 3];

/// The order in which they are taken back where it fits without: first what changes the weights'
/// and moments' precision, then what takes time.
const DEAREST: [usize; 8] = [5, 7, 4, 6, 1, 0, 3, 2];

/// What these switches say that change something, thrown one after the other, and the memory that
/// is then taken. One that makes a recipe which cannot be played is left out.
fn switched(model: &Model, plan: &Plan, which: &[usize], free: u64) -> Result<(Vec<String>, u64)> {
    let of = |recipe| anyhow::Ok(Plan::of(model, recipe)?.meant_for(plan.aim));
    let (mut said, mut now) = (Vec::new(), of(plan.recipe.clone())?);
    for i in which {
        let mut recipe = now.recipe.clone();
        if let Some(what) = SWITCHES[*i](&mut recipe, &now, free)?
            && let Ok(next) = of(recipe)
        {
            said.push(what);
            now = next;
        }
    }
    let peak = now.peak()?;
    Ok((said, peak))
}
