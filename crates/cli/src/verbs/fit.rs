//! `randori fit`: how much memory each stage of a recipe takes, whether that fits, what would, and the largest sizes that
//! do. The arithmetic is the engine's (`randori_engine::fit`); here recipe keys become its arguments and its figures text.

use std::sync::Arc;

use anyhow::{Context, Result};
use randori_engine::fit::{Decoding, Learns, Packing, Peak, Planner, largest};
use randori_engine::weights::{Described, LoadOptions, describe};
use randori_engine::{Trace, trace};
use randori_lora::LoraSpec;
use randori_sdk::seam::Architecture;

use crate::args::Who;
use crate::artefacts::Learnt;
use crate::bytes::{shown, unit};
use crate::recipe::{AdapterKind, Dtype, Recipe};
use crate::session::{architecture, host, recipe, source};
use crate::settings;

/// What a process has before it opens a model: program, plugins, data.
const PROCESS: u64 = 32 << 20;
/// Sizes beyond this are not looked for.
const MOST: usize = 1 << 20;

/// Prints the plan; an error where `limit` is given and the recipe does not fit.
pub fn run(who: &Who, limit: Option<u64>) -> Result<()> {
    let (recipe, adapter) = recipe(who)?;
    let host = host(Some(&recipe), &who.common)?;
    let at_source = || format!("{}: model.source", recipe.place("model.source"));
    let described = describe(source(&recipe)?).with_context(at_source)?;
    let arch = architecture(&recipe, &host, described.config())?;
    let trace = trace(&*arch).with_context(at_source)?;
    let named: Vec<_> = match adapter.is_empty() {
        true => recipe
            .adapter
            .init
            .0
            .iter()
            .map(|p| recipe.path(p))
            .collect(),
        false => adapter,
    };
    let given = match named.is_empty() {
        true => None,
        false => Learnt::read_stack(&named)?.lora,
    };
    let model = Model {
        described,
        arch,
        trace,
        given,
        threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
    };
    let plan = Plan::of(&model, recipe.clone())?;
    print!("{}", plan.shown(&model)?);
    match limit {
        Some(limit) => against(&model, &plan, limit),
        None => Ok(()),
    }
}

/// What stays the same whatever the recipe's switches.
struct Model {
    described: Described,
    arch: Arc<dyn Architecture>,
    trace: Trace,
    /// Settings of the adapter that the game starts from, where it is given.
    given: Option<Arc<LoraSpec>>,
    threads: usize,
}

/// A recipe with its figures.
struct Plan {
    recipe: Recipe,
    options: LoadOptions,
    game: Planner,
    sft: Planner,
}

impl Plan {
    fn of(model: &Model, recipe: Recipe) -> Result<Plan> {
        let options = settings::load_options(&recipe);
        let at = || format!("{}: model.source", recipe.place("model.source"));
        let held = model
            .described
            .held(&model.trace, &options, model.arch.name())
            .with_context(at)?;
        let own = settings::lora(&recipe)?;
        let spec = model.given.as_deref().unwrap_or(&own);
        let planner = |dropout, optimizer: randori_engine::train::Optimizer| {
            let learns = match recipe.adapter.kind {
                AdapterKind::Full => Learns::Full,
                _ => Learns::Lora(spec, dropout),
            };
            Planner::new(
                model.arch.clone(),
                model.trace.clone(),
                held.clone(),
                learns,
                optimizer.moments(),
                model.threads,
            )
            .with_context(|| format!("{}: [adapter]", recipe.place("adapter.targets")))
        };
        let game = planner(false, settings::game(&recipe, 0, 0, 1.0).optimizer)?;
        let sft = planner(true, settings::sft(&recipe, 0).optimizer)?;
        Ok(Plan {
            recipe,
            options,
            game,
            sft,
        })
    }

    /// Players in memory besides one that is being trained: the start, and the opponent once it is another.
    fn players(&self) -> usize {
        1 + usize::from(self.recipe.game.iterations > 1)
    }

    /// The longest response of either player.
    fn responses(&self) -> [usize; 2] {
        [
            self.recipe.data.max_response_tokens,
            self.recipe.generate.max_new_tokens,
        ]
    }

    fn pairs(&self, batch: usize) -> Packing {
        let tokens = self.recipe.train.micro_batch_tokens;
        Packing::fullest(
            self.recipe.data.max_prompt_tokens,
            &self.responses(),
            batch,
            tokens,
        )
    }

    fn supervised(&self) -> Packing {
        let (data, train) = (&self.recipe.data, &self.recipe.train);
        let responses = [data.max_response_tokens];
        let batch = self.recipe.sft.batch;
        Packing::fullest(
            data.max_prompt_tokens,
            &responses,
            batch,
            train.micro_batch_tokens,
        )
    }

    /// Answers of the game, or of the measures.
    fn decoding(&self, slots: usize, measured: bool) -> Decoding {
        let r = &self.recipe;
        let measures = r.eval.max_new_tokens.filter(|_| measured);
        let prompts = if measured {
            r.eval.limit.unwrap_or(usize::MAX)
        } else {
            r.generate.chunk
        };
        Decoding {
            slots: slots.min(prompts),
            prompt: r.data.max_prompt_tokens,
            response: measures.unwrap_or(r.generate.max_new_tokens),
            refilled: prompts > slots,
        }
    }

    fn train(&self, packing: &Packing) -> Result<Peak> {
        let checkpoint = self.recipe.train.checkpoint;
        Ok(self.game.train(packing, checkpoint, self.players() + 1)?)
    }

    fn score(&self, packing: &Packing) -> Result<Peak> {
        Ok(self.game.score(packing, self.players())?)
    }

    /// Generation at so many slots, of the game or of the measures (which have the trained player besides).
    fn generate(&self, slots: usize, measured: bool) -> Result<Peak> {
        let players = self.players() + usize::from(measured);
        Ok(self
            .game
            .generate(&self.decoding(slots, measured), players)?)
    }

    /// Every stage's name, what decides its size, and its memory.
    fn stages(&self) -> Result<Vec<(&'static str, String, Peak)>> {
        let r = &self.recipe;
        let (step, scored) = (self.pairs(r.train.batch), self.pairs(usize::MAX));
        let slots = r.generate.batch;
        let at = |d: Decoding| format!("{} slots of {} + {} tokens", d.slots, d.prompt, d.response);
        let rows = |p: &Packing| format!("{} rows at a time", p.rows);
        let mut stages = vec![("load", "one tensor at a time".to_string(), self.game.load())];
        if r.sft.epochs > 0 || r.compare.continued_sft {
            let packing = self.supervised();
            let peak = self.sft.train(&packing, r.train.checkpoint, 2)?;
            stages.push(("sft", rows(&packing), peak));
        }
        stages.push((
            "generate",
            at(self.decoding(slots, false)),
            self.generate(slots, false)?,
        ));
        stages.push(("score", rows(&scored), self.score(&scored)?));
        let switch = if r.train.checkpoint {
            "checkpointed"
        } else {
            "no checkpointing"
        };
        stages.push((
            "train",
            format!("{}, {switch}", rows(&step)),
            self.train(&step)?,
        ));
        stages.push((
            "eval",
            at(self.decoding(slots, true)),
            self.generate(slots, true)?,
        ));
        Ok(stages)
    }

    /// The largest stage's memory, the process itself included.
    fn peak(&self) -> Result<u64> {
        let stages = self.stages()?.into_iter().map(|(_, _, peak)| peak.total());
        Ok(PROCESS + stages.max().unwrap_or(0))
    }

    fn shown(&self, model: &Model) -> Result<String> {
        let r = &self.recipe;
        let count =
            |w: &randori_engine::trace::TracedWeight| w.shape.iter().product::<usize>() as f64;
        let all: f64 = model.trace.weights.iter().map(count).sum();
        let held = match (&self.options.quant, r.adapter.kind) {
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
            self.game.trained() as f64 / 1e6
        );
        let stages = self.stages()?;
        let most = stages.iter().map(|(_, _, p)| p.total()).max().unwrap_or(0);
        out.push_str(&format!(
            "Memory of the engine as it runs on the CPU, at its peak in each stage, in {}. For a GPU this is not verified.\n\n",
            unit(most)
        ));
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
        let (train, generate) = (of("train"), of("generate"));
        out.push_str(&format!(
            "\nkept: the tape, or keys and values. work: all else a pass holds; in train it has {} of attention and {} of logits, in\ngenerate {} of logits. A process takes some {} besides.\n",
            shown(train.attention, most),
            shown(train.logits, most),
            shown(generate.logits, most),
            shown(PROCESS, most)
        ));
        let (player, moments) = (self.game.player(), self.game.moments());
        out.push_str(&format!(
            "Disk: {} {} for every iteration's player, up to {} more while one is trained; texts and log-probs besides.\n",
            shown(player, most),
            unit(most),
            shown(2 * (player + moments), most)
        ));
        Ok(out)
    }
}

/// Says whether it fits, the largest sizes that do, and what would make it fit.
fn against(model: &Model, plan: &Plan, limit: u64) -> Result<()> {
    let peak = plan.peak()?;
    let size = |bytes: u64| format!("{} {}", shown(bytes, limit), unit(limit));
    let free = limit.saturating_sub(PROCESS);
    if peak <= limit {
        println!("\nFits into {}: {} at most.", size(limit), size(peak));
    }
    println!(
        "\nThe largest that fit into {}, all else as in the recipe:",
        size(limit)
    );
    let prompt = plan.recipe.data.max_prompt_tokens;
    let response = largest(free, MOST, &mut |n| {
        let r = &plan.recipe.train;
        let packing = Packing::fullest(prompt, &[n, n], r.batch, r.micro_batch_tokens);
        bytes(plan.train(&packing))
    })?;
    let pair = response.map(|n| {
        format!(
            "{n} tokens a response: {} rows with a prompt of {prompt}",
            Packing::item(prompt, &[n, n])
        )
    });
    println!("  longest pair                 {}", or_none(pair));
    println!(
        "  train.micro_batch_tokens     {}",
        or_none(micro_batch(plan, free)?.map(|n| bounded(n, plan)))
    );
    let slots = slots(plan, free)?;
    println!(
        "  generate.batch               {}",
        or_none(slots.map(|n| match n >= MOST {
            true => format!("{n} and more"),
            false => n.to_string(),
        }))
    );
    if peak <= limit {
        return Ok(());
    }
    let stages = plan.stages()?;
    let large: Vec<String> = stages
        .iter()
        .filter(|(_, _, p)| p.total() > free)
        .map(|(name, _, p)| format!("{name} {}", size(p.total() + PROCESS)))
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

fn bytes(peak: Result<Peak>) -> randori_engine::Result<u64> {
    peak.map(|p| p.total())
        .map_err(|e| randori_engine::Error::Rule(format!("{e:#}")))
}

fn or_none(found: Option<String>) -> String {
    found.unwrap_or_else(|| "none fits".into())
}

/// A micro-batch's size, or that none is too large: a step has no more rows.
fn bounded(rows: usize, plan: &Plan) -> String {
    let step = plan.recipe.train.batch
        * Packing::item(plan.recipe.data.max_prompt_tokens, &plan.responses());
    match rows >= step {
        true => format!(
            "any (a step's {} pairs have at most {step} rows)",
            plan.recipe.train.batch
        ),
        false => rows.to_string(),
    }
}

/// The largest micro-batch with which training and scoring fit; a pair that is larger stands alone, whatever is set.
fn micro_batch(plan: &Plan, free: u64) -> Result<Option<usize>> {
    let r = &plan.recipe;
    let (prompt, responses) = (r.data.max_prompt_tokens, plan.responses());
    let found = largest(free, MOST, &mut |n| {
        let of = |batch| Packing::fullest(prompt, &responses, batch, n);
        let train = bytes(plan.train(&of(r.train.batch)))?;
        Ok(train.max(bytes(plan.score(&of(usize::MAX)))?))
    })?;
    Ok(found)
}

/// The most slots with which answers and measures fit.
fn slots(plan: &Plan, free: u64) -> Result<Option<usize>> {
    Ok(largest(free, MOST, &mut |n| {
        let game = bytes(plan.generate(n, false))?;
        Ok(game.max(bytes(plan.generate(n, true))?))
    })?)
}

/// Switches in the order in which they cost least: each a recipe key and its value, from a plan that does not fit.
type Switch = fn(&mut Recipe, &Plan, u64) -> Result<Option<String>>;

const SWITCHES: [Switch; 5] = [
    |r, _, _| {
        let changes = !std::mem::replace(&mut r.train.checkpoint, true);
        Ok(changes.then(|| "train.checkpoint = true".into()))
    },
    |r, plan, free| {
        let n = slots(plan, free)?.filter(|n| *n < r.generate.batch);
        r.generate.batch = n.unwrap_or(r.generate.batch);
        Ok(n.map(|n| format!("generate.batch = {n}")))
    },
    |r, plan, free| {
        let n = micro_batch(plan, free)?.filter(|n| *n < r.train.micro_batch_tokens);
        r.train.micro_batch_tokens = n.unwrap_or(r.train.micro_batch_tokens);
        Ok(n.map(|n| format!("train.micro_batch_tokens = {n}")))
    },
    |r, _, _| {
        let changes = r.model.dtype == Dtype::F32;
        r.model.dtype = Dtype::Bf16;
        Ok(changes.then(|| "model.dtype = \"bf16\"".into()))
    },
    |r, _, _| {
        let changes = r.adapter.kind != AdapterKind::Qlora;
        r.adapter.kind = AdapterKind::Qlora;
        Ok(changes.then(|| "adapter.kind = \"qlora\"".into()))
    },
];

/// What would make it fit, and the memory it then takes at most: single switches if there are any, or else as many as it
/// needs, one after the other.
fn remedies(model: &Model, plan: &Plan, limit: u64) -> Result<Option<(Vec<String>, u64)>> {
    let free = limit.saturating_sub(PROCESS);
    let (mut single, mut most) = (Vec::new(), 0);
    for switch in SWITCHES {
        let mut recipe = plan.recipe.clone();
        if let Some(what) = switch(&mut recipe, plan, free)? {
            let peak = Plan::of(model, recipe)?.peak()?;
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
    let mut now = Plan::of(model, plan.recipe.clone())?;
    for i in [0, 3, 4, 1, 2] {
        let mut recipe = now.recipe.clone();
        let Some(what) = SWITCHES[i](&mut recipe, &now, free)? else {
            continue;
        };
        together.push(what);
        now = Plan::of(model, recipe)?;
        let peak = now.peak()?;
        if peak <= limit {
            return Ok(Some((vec![together.join(" and ")], peak)));
        }
    }
    Ok(None)
}
