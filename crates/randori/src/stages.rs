//! The work of single stages, for the game and by hand: answers drawn chunk by chunk, pairs
//! screened, pairs scored.

use std::sync::Arc;

use anyhow::{Context, Result};
use randori_data::{Counts, Encoded, Rejected};
use randori_engine::{GenerateOptions, Player, ScoreItem};
use randori_sdk::seam::{LossFn, SamplerFn};
use randori_store::{JsonLines, Manifest};

use crate::artefacts::{Answer, Answers, PairRow, Pairs};
use crate::corpus::{self, Part};
use crate::session::Session;
use crate::watch::AtOnce;

/// Pairs scored between two saves.
const SCORED_AT_ONCE: usize = 512;

/// What decides which answers are drawn.
pub struct Draws<'a> {
    /// The game's seed.
    pub seed: u64,
    /// The iteration.
    pub t: usize,
    /// Samplers in order.
    pub samplers: &'a [Arc<dyn SamplerFn>],
}

/// Generation of the game's answers (`first` is the number of the first prompt).
pub fn generation(session: &Session, seed: u64, t: usize, first: usize) -> GenerateOptions {
    let options = &session.recipe.generate;
    GenerateOptions {
        max_new_tokens: options.max_new_tokens,
        min_new_tokens: options.min_new_tokens,
        window: session.bounds.window,
        vocabulary: session.tokenizer.vocab_size(),
        slots: options.batch,
        stop: session.tokenizer.stop_ids().to_vec(),
        seed,
        iteration: t as u64,
        first_sequence: first as u64,
        ..GenerateOptions::default()
    }
}

/// Generation of measured answers: the same draws for every player, so that players differ and luck
/// does not.
pub fn measured(session: &Session, seed: u64) -> GenerateOptions {
    let recipe = &session.recipe;
    GenerateOptions {
        max_new_tokens: recipe
            .eval
            .max_new_tokens
            .unwrap_or(recipe.generate.max_new_tokens),
        iteration: u64::MAX, // no iteration of a game has this number
        ..generation(session, seed, 0, 0)
    }
}

/// One answer to every example's prompt, kept chunk by chunk: a killed process repeats at most one
/// chunk, and a chunk is always drawn from its beginning, so its bytes do not depend on kills.
pub fn answers(
    session: &Session,
    player: &Player,
    examples: &Part,
    draws: &Draws,
    mut chunks: Vec<Vec<Answer>>,
    label: &str,
    keep: &mut dyn FnMut(&Vec<Answer>) -> Result<()>,
) -> Result<Answers> {
    let mut done: usize = chunks.iter().map(Vec::len).sum();
    let mut bar = session
        .watch
        .stage(label, examples.examples.len(), "prompts");
    bar.resumed_at(done);
    let mut tokens = 0;
    let mut slots = AtOnce::slots(&session.recipe);
    while done < examples.examples.len() {
        let end = examples
            .examples
            .len()
            .min(done + session.recipe.generate.chunk);
        let part = &examples.examples[done..end];
        let prompts: Vec<Vec<u32>> = part.iter().map(|e| e.prompt.clone()).collect();
        let mut options = generation(session, draws.seed, draws.t, done);
        options.slots = slots.now();
        let generations =
            randori_engine::generate(player, &prompts, draws.samplers, &options, &mut |now| {
                slots.say_fewer(&*session.watch, label, now.at_once);
                bar.set(done + now.done, tokens + now.tokens);
            })?;
        let rows: Vec<Answer> = part
            .iter()
            .zip(generations)
            .enumerate()
            .map(|(i, (example, g))| Answer {
                example: done + i,
                place: example.place.to_string(),
                prompt: examples.prompts[done + i].clone(),
                context: examples.contexts[done + i].clone(),
                real: session.tokenizer.decode(&example.response),
                generated: session.tokenizer.decode(&g.tokens),
                truncated: !g.ended,
                logp: g.logps.iter().map(|&l| f64::from(l)).sum(),
                tokens: g.tokens,
            })
            .collect();
        tokens += rows.iter().map(|r| r.tokens.len()).sum::<usize>();
        keep(&rows)?;
        chunks.push(rows);
        done = end;
    }
    bar.set(done, tokens);
    bar.finish();
    Ok(JsonLines(chunks.into_iter().flatten().collect()))
}

/// The pairs that the recipe's rules and this loss leave, without log-probs yet.
pub fn screened(
    session: &Session,
    train: &Part,
    answers: &[Answer],
    t: usize,
    loss: &dyn LossFn,
    counts: &mut Counts,
) -> Result<Vec<PairRow>> {
    let pairs = answers
        .iter()
        .map(|answer| {
            let example = train.examples.get(answer.example).with_context(|| {
                format!(
                    "iteration {t}'s answers are of other data: they have example {}",
                    answer.example
                )
            })?;
            let rejected = Rejected {
                ids: answer.tokens.clone(),
                cut: answer.truncated,
            };
            Ok(Encoded {
                rejected: Some(rejected),
                rewards: None, // the file's are of another response
                ..example.clone()
            })
        })
        .collect::<Result<Vec<_>>>()?;
    counts.read += pairs.len();
    let kept = randori_data::screen(
        pairs,
        &session.tokenizer,
        &corpus::policy(&session.recipe, Some(loss)),
        counts,
    )?;
    Ok(rows_of(kept, t))
}

/// Encoded pairs as rows without log-probs.
pub fn rows_of(pairs: Vec<Encoded>, iteration: usize) -> Vec<PairRow> {
    let row = |e: Encoded| PairRow {
        place: e.place.to_string(),
        iteration,
        prompt: e.prompt,
        real: e.response,
        generated: e.rejected.map(|r| r.ids).unwrap_or_default(),
        ref_real: None,
        ref_generated: None,
        rewards: e.rewards,
    };
    pairs.into_iter().map(row).collect()
}

/// Adds a player's log-probs, with the arithmetic of training: at step 0 both players agree to the
/// last bits. `chunks` are the log-probs found before a kill.
pub fn scored(
    session: &Session,
    player: &Player,
    mut rows: Vec<PairRow>,
    chunks: Vec<Vec<(f64, f64)>>,
    label: &str,
    keep: &mut dyn FnMut(&Vec<(f64, f64)>) -> Result<()>,
) -> Result<Pairs> {
    let mut scores: Vec<(f64, f64)> = chunks.into_iter().flatten().collect();
    let mut bar = session.watch.stage(label, rows.len(), "pairs");
    bar.resumed_at(scores.len());
    let mut tokens = 0;
    let mut rows_at_once = AtOnce::rows(&session.recipe);
    while scores.len() < rows.len() {
        let part = &rows[scores.len()..rows.len().min(scores.len() + SCORED_AT_ONCE)];
        let items: Vec<ScoreItem> = part
            .iter()
            .map(|r| ScoreItem {
                prompt: &r.prompt,
                responses: vec![&r.real, &r.generated],
            })
            .collect();
        let (before, mut now) = (scores.len(), 0);
        let found = randori_engine::score(player, &items, rows_at_once.now(), &mut |p| {
            now = p.tokens;
            rows_at_once.say_fewer(&*session.watch, label, p.at_once);
            bar.set(before + p.done, tokens + p.tokens);
        })
        .with_context(|| {
            part.first()
                .map_or(String::new(), |r| format!("pairs from {}", r.place))
        })?;
        tokens += now;
        let found: Vec<(f64, f64)> = found.into_iter().map(|s| (s[0], s[1])).collect();
        keep(&found)?;
        scores.extend(found);
    }
    bar.finish();
    for (row, (real, generated)) in rows.iter_mut().zip(scores) {
        (row.ref_real, row.ref_generated) = (Some(real), Some(generated));
    }
    Ok(JsonLines(rows))
}

/// Rows as JSONL at a path that is not there yet.
pub fn write_rows<T: serde::Serialize>(
    path: &std::path::Path,
    rows: &[T],
) -> Result<(), std::io::Error> {
    use std::io::Write;
    let mut out = std::io::BufWriter::new(std::fs::File::create(path)?);
    for row in rows {
        serde_json::to_writer(&mut out, row)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// The rows that a finished stage left in a file beside its artefact; none where there is no such
/// file (a run of an earlier version), or another stage has written it since.
///
/// # Errors
/// A file that was changed since the stage was finished, or is gone.
pub fn rows_beside<T: serde::de::DeserializeOwned>(
    dir: &std::path::Path,
    folder: &str,
    stage: &str,
    name: &str,
) -> Result<Vec<T>> {
    let manifest = Manifest::read(dir)?.unwrap_or_default();
    match randori_store::beside(dir, &manifest, folder, stage, name)? {
        Some(path) => Ok(randori_store::read_rows(&path)?),
        None => Ok(Vec::new()),
    }
}
