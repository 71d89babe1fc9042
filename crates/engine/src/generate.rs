//! Responses to many prompts at once: a fixed number of cache slots, each refilled as soon as its
//! sequence ends.
//!
//! What is drawn depends on the sequence's own prompt, tokens and random numbers only, so the
//! number of slots changes speed, not text. One caveat: a product over another number of rows may
//! round differently in the last bit, which matters where two tokens' logits, or a draw and a
//! boundary, are that close. On a GPU in bf16 a quantised matrix's values are rounded to bf16 in
//! products of many rows and not in those of a few.

use std::sync::Arc;

use randori_kernels::{Error, Result};
use randori_sdk::seam::{SamplerFn, SamplerState};
use rayon::prelude::*;

use crate::{KvCache, Player, Progress, SlotTokens};

pub mod batch;
mod draw;
#[cfg(feature = "cuda")]
mod on_gpu;
use draw::{At, Scratch};

/// Prompts enter the cache in pieces of this many tokens …
pub(crate) const PIECE: usize = 512;
/// … and a step takes no more prompt tokens than this, which bounds its memory whatever `slots` is.
pub(crate) const PREFILL: usize = 1024;

/// How to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// A response is cut when it has this many tokens.
    pub max_new_tokens: usize,
    /// No stop token is drawn before a response has this many tokens.
    pub min_new_tokens: usize,
    /// Prompt and response together have at most this many tokens: a response is cut there too.
    pub window: usize,
    /// Only ids below this are drawn: the rows of a padded vocabulary are no tokens. Log-probs
    /// under the model are over the whole row, as in training.
    pub vocabulary: usize,
    /// Sequences in the cache at once.
    pub slots: usize,
    /// Tokens that end a response.
    pub stop: Vec<u32>,
    /// Seed of the draws.
    pub seed: u64,
    /// Iteration of the game, for the draws.
    pub iteration: u64,
    /// Number of the first prompt's sequence, for the draws (a later part of a list goes on
    /// counting).
    pub first_sequence: u64,
    /// The player's [border](crate::Trace::border): [`generate`] sets it.
    pub border: Option<usize>,
}

impl GenerateOptions {
    /// The most tokens of the response to a prompt of this many.
    fn room(&self, prompt: usize) -> usize {
        let border = self.border.filter(|border| prompt < *border);
        let window = self.window.min(border.unwrap_or(usize::MAX));
        self.max_new_tokens.min(window.saturating_sub(prompt))
    }
}

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions {
            max_new_tokens: 256,
            min_new_tokens: 1,
            window: usize::MAX,
            vocabulary: usize::MAX,
            slots: 16,
            stop: Vec::new(),
            seed: 0,
            iteration: 0,
            first_sequence: 0,
            border: None,
        }
    }
}

/// One response.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Generation {
    /// Token ids; the last is the stop token if `ended`.
    pub tokens: Vec<u32>,
    /// log-prob of each token under the model itself (temperature 1, nothing removed).
    pub logps: Vec<f32>,
    /// log-prob of each token under the distribution it was drawn from.
    pub behaviour: Vec<f32>,
    /// Whether a stop token ended it; `false`: it was cut at `max_new_tokens` or the window, and no
    /// stop token was appended.
    pub ended: bool,
}

/// One response per prompt, in the prompts' order. Where a sequence's length decides how all of it
/// is rotated ([border](crate::Trace::border)), the response to a prompt below the border is cut
/// there, since what is cached cannot be rotated again. `samplers` reshape the logits one after the
/// other (none: the model's own distribution); the host draws by inverse CDF. When memory runs out,
/// the responses that are not finished begin once more: first in a cache that grows with them
/// rather than one for the longest that they might become, then both again in half as many slots.
///
/// # Errors
/// An empty prompt or one that fills the window, options that contradict each other, logits that
/// are not finite (sequence and position are named), a sampler that fails or leaves no token, no
/// memory for one sequence alone, or the engine's own.
pub fn generate(
    player: &Player,
    prompts: &[Vec<u32>],
    samplers: &[Arc<dyn SamplerFn>],
    o: &GenerateOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Generation>> {
    check(prompts, o)?;
    let o = &GenerateOptions {
        border: player.border(),
        ..o.clone()
    };
    let mut done = vec![None; prompts.len()];
    if o.max_new_tokens == 0 || prompts.is_empty() {
        return Ok(vec![Generation::default(); prompts.len()]);
    }
    let (mut at_once, mut grows) = (o.slots, false);
    loop {
        let cache = |longest: &[usize]| match grows {
            true => KvCache::new(player, longest.len()),
            false => KvCache::with_room(player, longest),
        };
        let Err(e) = generate_missing(
            player, prompts, samplers, o, at_once, &cache, &mut done, progress,
        ) else {
            return Ok(done.into_iter().map(Option::unwrap_or_default).collect());
        };
        if !e.is_out_of_memory() {
            return Err(e);
        }
        if !grows {
            grows = true;
            continue;
        }
        let taken = at_once.min(done.iter().filter(|d| d.is_none()).count());
        if taken == 1 {
            return Err(Error::OutOfMemory(format!(
                "no memory for the answer to one prompt alone ({e}); hold the base in less (model.dtype, adapter.kind = \"qlora\") or take shorter ones (data.max_prompt_tokens, generate.max_new_tokens)"
            )));
        }
        (at_once, grows) = (taken.div_ceil(2), false);
    }
}

/// Generates the responses that are still missing, `at_once` of them at a time.
fn generate_missing(
    player: &Player,
    prompts: &[Vec<u32>],
    samplers: &[Arc<dyn SamplerFn>],
    o: &GenerateOptions,
    at_once: usize,
    cache: &dyn Fn(&[usize]) -> KvCache,
    done: &mut [Option<Generation>],
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    let open: Vec<usize> = (0..done.len()).filter(|&i| done[i].is_none()).collect();
    let mut slots: Vec<Option<Sequence>> = Vec::new();
    slots.resize_with(at_once.min(open.len()), || None);
    let longest = longest(open.iter().map(|&i| prompts[i].len()), slots.len(), o);
    let mut cache = cache(&longest);
    let mut finished = done.len() - open.len();
    let mut tokens = done.iter().flatten().map(|g| g.tokens.len()).sum();
    let mut waiting = open.into_iter();
    while finished < done.len() {
        for (slot, place) in slots
            .iter_mut()
            .enumerate()
            .filter(|(_, place)| place.is_none())
        {
            if let Some(index) = waiting.next() {
                cache.clear(slot);
                cache.expect(slot, prompts[index].len() + 1);
                *place = Some(Sequence::new(index, &prompts[index], samplers));
            }
        }
        tokens += advance(player, &mut cache, &mut slots, samplers, o)?;
        for place in &mut slots {
            if let Some(sequence) =
                place.take_if(|s| s.out.ended || s.out.tokens.len() == o.room(s.prompt))
            {
                done[sequence.index] = Some(sequence.out);
                finished += 1;
            }
        }
        progress(Progress {
            done: finished,
            tokens,
            at_once,
        });
    }
    Ok(())
}

/// The most tokens that so many sequences can hold at once, the longest first.
fn longest(prompts: impl Iterator<Item = usize>, slots: usize, o: &GenerateOptions) -> Vec<usize> {
    // the last token is not fed
    let of = |len: usize| len.saturating_add(o.room(len).saturating_sub(1));
    let mut all: Vec<usize> = prompts.map(of).collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    all.truncate(slots);
    all
}

/// Refuses what cannot be meant.
fn check(prompts: &[Vec<u32>], o: &GenerateOptions) -> Result<()> {
    if let Some(i) = prompts.iter().position(Vec::is_empty) {
        return Err(Error::rule(format!(
            "prompt {i} is empty; a response needs at least one token to continue"
        )));
    }
    if let Some(i) = prompts.iter().position(|p| p.len() >= o.window) {
        return Err(Error::rule(format!(
            "prompt {i} has {} tokens; the model's window is {}, and a response needs at least one of them",
            prompts[i].len(),
            o.window
        )));
    }
    if o.vocabulary == 0 {
        return Err(Error::rule(
            "the vocabulary is empty; there is no token to draw",
        ));
    }
    if o.slots == 0 {
        return Err(Error::rule("slots is 0; generation needs at least one"));
    }
    if o.min_new_tokens > o.max_new_tokens {
        return Err(Error::rule(format!(
            "min_new_tokens ({}) is larger than max_new_tokens ({})",
            o.min_new_tokens, o.max_new_tokens
        )));
    }
    Ok(())
}

/// A sequence in a slot.
struct Sequence {
    /// Which prompt.
    index: usize,
    /// Prompt and response.
    tokens: Vec<u32>,
    /// How many of them are the prompt.
    prompt: usize,
    /// How many of them are in the cache.
    cached: usize,
    states: Vec<Box<dyn SamplerState>>,
    scratch: Scratch,
    out: Generation,
}

impl Sequence {
    fn new(index: usize, prompt: &[u32], samplers: &[Arc<dyn SamplerFn>]) -> Self {
        Sequence {
            index,
            tokens: prompt.to_vec(),
            prompt: prompt.len(),
            cached: 0,
            states: samplers.iter().map(|s| s.begin()).collect(),
            scratch: Scratch::default(),
            out: Generation::default(),
        }
    }

    /// Draws the next token from the model's logits (vocab).
    fn extend(
        &mut self,
        logits: &[f32],
        samplers: &[Arc<dyn SamplerFn>],
        o: &GenerateOptions,
    ) -> Result<()> {
        let at = At {
            seed: o.seed,
            iteration: o.iteration,
            sequence: self.number(o),
            position: self.out.tokens.len() as u64,
            tokens: &self.tokens,
            prompt: self.prompt,
            banned: self.banned(o),
            vocabulary: o.vocabulary,
        };
        let drawn = draw::draw(logits, samplers, &mut self.states, &mut self.scratch, &at)?;
        self.append(drawn.token, drawn.logp, drawn.behaviour, o);
        Ok(())
    }

    /// Its number, for the draws.
    fn number(&self, o: &GenerateOptions) -> u64 {
        o.first_sequence + self.index as u64
    }

    /// What may not be drawn next.
    fn banned<'a>(&self, o: &'a GenerateOptions) -> &'a [u32] {
        match self.out.tokens.len() < o.min_new_tokens {
            true => &o.stop,
            false => &[],
        }
    }

    /// Appends a token, with its log-probs under the model and under what it was drawn from.
    fn append(&mut self, token: u32, logp: f64, behaviour: f64, o: &GenerateOptions) {
        self.tokens.push(token);
        self.out.tokens.push(token);
        self.out.logps.push(logp as f32);
        self.out.behaviour.push(behaviour as f32);
        self.out.ended = o.stop.contains(&token);
    }
}

/// How many tokens each slot feeds in the next step: the last drawn one, or a prompt's next piece.
fn pieces<'a>(slots: impl Iterator<Item = Option<&'a Sequence>>) -> Vec<usize> {
    let mut budget = PREFILL;
    let mut piece = |sequence: &Sequence| {
        let wanted = (sequence.tokens.len() - sequence.cached).min(PIECE);
        if wanted == 1 {
            return 1;
        }
        let granted = if wanted <= budget { wanted } else { 0 };
        budget -= granted;
        granted
    };
    slots.map(|place| place.map_or(0, &mut piece)).collect()
}

/// One pass of the model over all slots; answers how many tokens were drawn.
fn advance(
    player: &Player,
    cache: &mut KvCache,
    slots: &mut [Option<Sequence>],
    samplers: &[Arc<dyn SamplerFn>],
    o: &GenerateOptions,
) -> Result<usize> {
    let takes = pieces(slots.iter().map(Option::as_ref));
    let batch: Vec<SlotTokens> = slots
        .iter()
        .zip(&takes)
        .enumerate()
        .filter(|(_, (_, take))| **take > 0)
        .filter_map(|(slot, (place, take))| {
            let s = place.as_ref()?;
            Some(SlotTokens {
                slot,
                tokens: &s.tokens[s.cached..s.cached + take],
            })
        })
        .collect();
    let logits = player.step_on_device(cache, &batch)?;
    let (rows, vocab) = logits.dims2()?;
    if rows != batch.len() || vocab == 0 {
        return Err(Error::rule(format!(
            "the model answered {rows} rows of {vocab} logits for {} sequences",
            batch.len()
        )));
    }
    let fed: Vec<(&mut Sequence, bool)> = slots
        .iter_mut()
        .zip(&takes)
        .filter(|(_, take)| **take > 0)
        .filter_map(|(place, take)| {
            let sequence = place.as_mut()?;
            sequence.cached += take;
            // the rows of a prompt's earlier pieces predict what is known already
            let ready = sequence.cached == sequence.tokens.len();
            Some((sequence, ready))
        })
        .collect();
    let drawn = fed.iter().filter(|(_, ready)| *ready).count();
    #[cfg(feature = "cuda")]
    if samplers.is_empty() && logits.device().is_cuda() {
        on_gpu::draw(fed, &logits, o)?;
        return Ok(drawn);
    }
    let logits = randori_kernels::host(&logits)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    let ready: Vec<(&mut Sequence, &[f32])> = fed
        .into_iter()
        .zip(logits.chunks_exact(vocab))
        .filter_map(|((sequence, ready), row)| ready.then_some((sequence, row)))
        .collect();
    let results: Vec<Result<()>> = ready
        .into_par_iter()
        .map(|(sequence, row)| sequence.extend(row, samplers, o))
        .collect();
    // the first failure in slot order, so that the message does not depend on the threads
    results.into_iter().collect::<Result<Vec<()>>>()?;
    Ok(drawn)
}
