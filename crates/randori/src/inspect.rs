//! The first examples as the model sees them, and what happened to the others.

use std::path::PathBuf;

use anyhow::{Result, bail};
use randori_data::{Encoded, Tokenizer};

use crate::aside::Aside;
use crate::check::{self, Uses};
use crate::corpus::{part, policy};
use crate::recipe::Recipe;
use crate::request::{Request, Split};
use crate::session::Setting;
use crate::{folder, inputs};

/// What [`inspect`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The first examples.
    pub examples: Vec<Example>,
    /// What happened to all of them, and the model's window, line by line.
    pub summary: Vec<String>,
}

/// One example as the model sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Where it was read.
    pub place: String,
    /// Tokens of the prompt and of the response.
    pub tokens: [usize; 2],
    /// The prompt, which is not trained on.
    pub prompt: String,
    /// The response, every token of which is trained on.
    pub response: Response,
    /// The rejected response of a pair.
    pub rejected: Option<Response>,
}

/// A response as text, special tokens and the end of turn visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Its text.
    pub text: String,
    /// It was cut at the token limit, so no end of turn follows.
    pub cut: bool,
}

/// The first `count` examples and what happened to the others; the sets to measure on are read as
/// well, so that what a run would refuse in them is refused here.
///
/// # Errors
/// Whatever is wrong with recipe, plugins, model or data; an adapter, which changes nothing here.
pub fn inspect(request: &Request, count: usize) -> Result<Inspection> {
    if !request.adapter.is_empty() {
        bail!(
            "--adapter changes nothing that inspect shows: examples are the same for every player"
        );
    }
    inspected(&opened(request)?, count)
}

/// The same of a recipe that is opened.
///
/// # Errors
/// Whatever is wrong with its data.
pub fn inspected(session: &Setting, count: usize) -> Result<Inspection> {
    // as the first iteration's training would
    let rules = policy(&session.recipe, Some(&*session.loss(0)?));
    let recipe = &session.recipe;
    let read = |split, rules| part(recipe, &session.tokenizer, split, session.bounds, rules);
    let train = read(Split::Train, Some(&rules))?;
    let validated = train.is_validated(recipe);
    let held_out = !recipe.data.held_out.0.is_empty();
    let others = [
        ("validation", Split::Validation, validated),
        ("held-out", Split::HeldOut, held_out),
    ];
    let mut summary = vec![train.counts.to_string()];
    summary.extend(train.aside.as_ref().map(Aside::note));
    for (name, split, _) in others.into_iter().filter(|(.., there)| *there) {
        summary.push(format!("{name} data: {}", read(split, None)?.counts));
    }
    let longest = train.examples.iter().map(tokens).max().unwrap_or(0);
    summary.push(format!(
        "longest example {longest} tokens, the model's window {}",
        session.bounds.window
    ));
    let first = train.examples.iter().take(count);
    Ok(Inspection {
        examples: first.map(|e| seen(e, &session.tokenizer)).collect(),
        summary,
    })
}

fn opened(request: &Request) -> Result<Setting> {
    let (recipe, adapter) = folder::player(request)?;
    let setting = looked_at(recipe, &adapter, request)?;
    inputs::refuse_another_model(request, &setting.recipe, &setting.model)?;
    Ok(setting)
}

/// A recipe with its model's configuration and tokenizer: no weight is looked at, or needs to be
/// there.
///
/// # Errors
/// Whatever is wrong with recipe, plugins, model or the data's first rows.
pub fn looked_at(recipe: Recipe, adapter: &[PathBuf], request: &Request) -> Result<Setting> {
    let host = check::recipe(&recipe, request, adapter, &Uses::LOOKED_AT)?;
    check::model(&recipe, &host, adapter)?;
    Setting::without_weights(recipe, host, request)
}

/// Tokens of the prompt and the longer of its responses: what must fit the model's window.
fn tokens(example: &Encoded) -> usize {
    let other = example.rejected.as_ref().map_or(0, |other| other.ids.len());
    example.prompt.len() + example.response.len().max(other)
}

fn seen(example: &Encoded, tokenizer: &Tokenizer) -> Example {
    let response = |ids: &[u32], cut| Response {
        text: spelled(ids, tokenizer),
        cut,
    };
    Example {
        place: example.place.to_string(),
        tokens: [example.prompt.len(), example.response.len()],
        prompt: spelled(&example.prompt, tokenizer),
        response: response(&example.response, example.cut),
        rejected: example.rejected.as_ref().map(|r| response(&r.ids, r.cut)),
    }
}

/// Text with every special token visible, the end of turn too.
fn spelled(ids: &[u32], tokenizer: &Tokenizer) -> String {
    let end = ids
        .iter()
        .rev()
        .take_while(|id| tokenizer.stop_ids().contains(id))
        .count();
    let (body, stops) = ids.split_at(ids.len() - end);
    let stops: String = stops
        .iter()
        .map(|&id| tokenizer.token(id).unwrap_or_else(|| format!("<{id}>")))
        .collect();
    tokenizer.decode(body) + &stops
}
