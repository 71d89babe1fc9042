//! Adapter, limits and batches by the memory at hand: the largest limits, and the base held most
//! exactly, with which every stage fits.

use anyhow::{Result, bail};

use super::draft::{Draft, Held, SLOTS, Sizes};
use super::lengths::Lengths;
use crate::bytes::{shown, unit};
use crate::memory;
use crate::plan::{Model, Plan, slots};
use crate::recipe::AdapterKind;

/// Shares of the examples that limits keep, the largest first.
const KEPT: [f64; 6] = [1.0, 0.99, 0.98, 0.97, 0.96, 0.95];

/// The sizes with which `draft` fits into `limit` bytes.
///
/// # Errors
/// A model that is too large even with everything that takes less memory.
pub fn chosen(draft: &Draft, model: &Model, lengths: &Lengths, limit: u64) -> Result<Sizes> {
    let ways = ways(draft, model)?;
    let mut least = u64::MAX;
    for share in KEPT {
        for held in &ways {
            for checkpoint in [false, true] {
                let sizes = Sizes {
                    prompt: lengths.prompts.limit(share),
                    response: lengths.responses.limit(share),
                    held: *held,
                    checkpoint,
                    micro_batch: memory::LEAST,
                    slots: 1,
                };
                match largest(draft, model, sizes, limit)? {
                    Fit::Sizes(sizes) => return Ok(sizes),
                    Fit::Over(peak) => least = least.min(peak),
                }
            }
        }
    }
    let size = |bytes: u64| format!("{} {}", shown(bytes, least), unit(least));
    bail!(
        "{} does not fit into {}: with one pair and one answer at a time, and its weights as small \
         as they can be held, {} are needed; take a smaller model, or shorter rows",
        draft.model,
        size(limit),
        size(least)
    )
}

/// What of a memory some sizes take.
enum Fit {
    /// They fit, with batches as large as do.
    Sizes(Sizes),
    /// The bytes they need, which are more.
    Over(u64),
}

/// `sizes` with larger batches, as far as `limit` allows.
fn largest(draft: &Draft, model: &Model, sizes: Sizes, limit: u64) -> Result<Fit> {
    let plan = Plan::of(model, with(draft, sizes).recipe()?)?.meant_for(draft.aim);
    let peak = plan.peak()?;
    if peak > limit {
        return Ok(Fit::Over(peak));
    }
    let free = limit.saturating_sub(plan.besides());
    let most = slots(&plan, free)?.unwrap_or(1).clamp(1, SLOTS);
    let sizes = Sizes {
        micro_batch: memory::chosen(&plan, limit)?,
        slots: 1 << most.ilog2(),
        ..sizes
    };
    Ok(Fit::Sizes(sizes))
}

/// The draft with other sizes.
fn with(draft: &Draft, sizes: Sizes) -> Draft {
    Draft {
        sizes,
        ..draft.clone()
    }
}

/// How the model's base can be held, the most exact first. Whoever made a file in few bits chose
/// them: its own are taken, where a base can keep them; unless the user says what is trained.
fn ways(draft: &Draft, model: &Model) -> Result<Vec<Held>> {
    let dense = match draft.card {
        true => vec![Held::Bf16],
        false => vec![Held::F32, Held::Bf16],
    };
    let quantised = match model.described.keeps_blocks() {
        true => Held::Blocks,
        false => Held::Nf4,
    };
    if draft.sets(&["adapter.kind"]) {
        return Ok(match draft.recipe()?.adapter.kind {
            AdapterKind::Qlora => vec![quantised],
            AdapterKind::Lora | AdapterKind::Full => dense,
        });
    }
    let four_bits = model.described.keeps_few_bits();
    Ok(match quantised == Held::Blocks || four_bits {
        true => vec![quantised],
        false => [dense, vec![quantised]].concat(),
    })
}
