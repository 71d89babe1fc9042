//! What the figures that a game left on disk tell once it is played: tokens, losses, signs.

use std::path::Path;

use anyhow::Result;
use randori_core::Stage;
use randori_eval::{Iteration as Seen, Moved, Sign};
use randori_store::Run;

use crate::artefacts::Pairs;
use crate::game::PROMPTS;
use crate::report::PromptRow;
use crate::session::Session;
use crate::stages::rows_beside;

/// Tokens all iterations were trained on, from their logs.
pub fn trained_tokens(dir: &Path, iterations: usize) -> Result<usize> {
    let last = |t: usize| -> Result<usize> {
        let rows = metrics(dir, t)?;
        let tokens = rows.last().and_then(|row| row["num_tokens"].as_f64());
        Ok(tokens.unwrap_or(0.0) as usize)
    };
    (0..iterations).map(last).sum()
}

/// The step at which each iteration's training ended because its loss asked no pair for a change.
pub fn converged(dir: &Path, iterations: usize) -> Result<Vec<Option<usize>>> {
    let step = |t: usize| -> Result<Option<usize>> {
        let rows = metrics(dir, t)?;
        let last = rows
            .last()
            .filter(|row| row["converged"].as_f64() == Some(1.0));
        let step = last.and_then(|row| row["step"].as_u64());
        Ok(step.map(|step| step as usize))
    };
    (0..iterations).map(step).collect()
}

pub fn losses(dir: &Path, iterations: usize) -> Result<Vec<(usize, Vec<f64>)>> {
    let of = |t: usize| -> Result<(usize, Vec<f64>)> {
        let rows = metrics(dir, t)?;
        let losses = rows.iter().filter_map(|row| row["loss"].as_f64());
        Ok((t, losses.collect()))
    };
    (0..iterations).map(of).collect()
}

fn metrics(dir: &Path, t: usize) -> Result<Vec<serde_json::Value>> {
    let folder = randori_store::iteration_folder(t);
    rows_beside(dir, &folder, Stage::Policy.name(), "metrics.jsonl")
}

/// What was measured on each prompt; nothing where a run of an earlier version did not keep it.
pub fn prompts(run: &Run, folder: &str) -> Result<Vec<PromptRow>> {
    rows_beside(run.dir(), folder, Stage::Eval.name(), PROMPTS)
}

/// What of iteration `t` is to be thought about, from what its stages kept.
pub fn signs(session: &Session, run: &Run, t: usize) -> Result<Vec<Sign>> {
    let folder = randori_store::iteration_folder(t);
    let rows = metrics(run.dir(), t)?;
    let accuracies = rows
        .iter()
        .filter_map(|row| row["rewards/accuracies"].as_f64());
    let accuracies: Vec<f64> = accuracies.collect();
    // whoever removed them has a finished run all the same
    let pairs = run.load(&folder, Stage::Pairs.name());
    let pairs = pairs.map_or_else(|_| Vec::new(), |pairs: Pairs| pairs.0);
    let moved: Vec<Moved> = prompts(run, &folder)?
        .iter()
        .filter_map(|row| row.moved)
        .collect();
    Ok(randori_eval::signs(&Seen {
        accuracies: &accuracies,
        step_pairs: session.recipe.train.batch,
        pairs: pairs.len(),
        equal: pairs
            .iter()
            .filter(|pair| pair.real == pair.generated)
            .count(),
        moved: &moved,
    }))
}
