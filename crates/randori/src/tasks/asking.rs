//! Asking the model: contexts and what follows them as token ids, by the rules of lm-eval 0.4.13's
//! `hf` model, then log-probs by the engine's packed passes and responses by its greedy generation.

use anyhow::{Result, bail, ensure};
use randori_data::Tokenizer;
use randori_engine::{Player, ScoreItem, generate, score};
use randori_eval::task::{Item, Question, divided};

use crate::session::Session;
use crate::stages;
use crate::watch::AtOnce;

/// The longest context where the model names none (lm-eval's).
const WINDOW: usize = 2048;

/// What the model says to a document.
#[derive(Debug, Default, Clone)]
pub struct Said {
    /// Of each choice.
    pub logps: Vec<f64>,
    /// To a question without choices.
    pub response: String,
    /// Tokens of the longest context with what follows it.
    pub tokens: usize,
    /// Whether a context was cut at its beginning.
    pub cut: bool,
}

/// A context and one or several texts behind it, as token ids.
struct Asked {
    item: usize,
    context: Vec<u32>,
    follows: Vec<(usize, Vec<u32>)>,
}

/// The log-probs of all choices of the items, whose questions are choices.
pub fn choices(
    session: &Session,
    player: &Player,
    items: &[Item],
    label: &str,
) -> Result<Vec<Said>> {
    let mut said: Vec<Said> = vec![Said::default(); items.len()];
    let mut asked: Vec<Asked> = Vec::new();
    for (item, (of, said)) in items.iter().zip(&mut said).enumerate() {
        let Question::Choices(pairs) = &of.question else {
            bail!("{label}: document {} has no choices", of.number);
        };
        said.logps = vec![0.0; pairs.len()];
        let first = asked.len();
        for (choice, (context, follows)) in pairs.iter().enumerate() {
            let (mut context, follows) = pair(&session.tokenizer, context, follows)?;
            let room = (window(session) + 1)
                .checked_sub(follows.len())
                .filter(|n| *n > 0);
            let Some(room) = room else {
                let (n, most) = (follows.len(), window(session));
                bail!(
                    "{label}: document {}: a choice has {n} tokens, the model takes {most}",
                    of.number
                );
            };
            said.cut |= context.len() > room;
            context.drain(..context.len().saturating_sub(room));
            ensure!(
                !context.is_empty(),
                "{label}: document {}: nothing stands before choice {choice}",
                of.number
            );
            said.tokens = said.tokens.max(context.len() + follows.len());
            // choices behind the same context share its computation
            match asked[first..].iter_mut().find(|one| one.context == context) {
                Some(one) => one.follows.push((choice, follows)),
                None => asked.push(Asked {
                    item,
                    context,
                    follows: vec![(choice, follows)],
                }),
            }
        }
    }
    let scored = scored(session, player, &asked, label)?;
    for (one, scores) in asked.iter().zip(scored) {
        for ((choice, _), logp) in one.follows.iter().zip(scores) {
            said[one.item].logps[*choice] = logp;
        }
    }
    Ok(said)
}

fn scored(
    session: &Session,
    player: &Player,
    asked: &[Asked],
    label: &str,
) -> Result<Vec<Vec<f64>>> {
    let items: Vec<ScoreItem> = asked
        .iter()
        .map(|one| ScoreItem {
            prompt: &one.context,
            responses: one.follows.iter().map(|(_, ids)| ids.as_slice()).collect(),
        })
        .collect();
    let mut bar = session.watch.stage(label, items.len(), "questions");
    let mut rows = AtOnce::rows(&session.recipe);
    let scores = score(player, &items, rows.now(), &mut |now| {
        rows.say_fewer(&*session.watch, label, now.at_once);
        bar.set(now.done, now.tokens);
    })?;
    bar.finish();
    Ok(scores)
}

/// The responses to the items, whose questions have none: up to one of `until`, or `most` tokens.
pub fn responses(
    session: &Session,
    player: &Player,
    items: &[Item],
    until: &[String],
    most: usize,
    label: &str,
) -> Result<Vec<Said>> {
    let window = window(session);
    ensure!(
        window > most,
        "{label}: responses of {most} tokens leave no room for a question: the model takes {window}"
    );
    let mut said = Vec::new();
    let mut prompts = Vec::new();
    for item in items {
        let Question::Response(context) = &item.question else {
            bail!("{label}: document {} has choices", item.number);
        };
        let mut ids = session.tokenizer.opening_ids(context)?;
        ensure!(
            !ids.is_empty(),
            "{label}: document {}: its question is empty",
            item.number
        );
        let cut = ids.len() > window - most;
        ids.drain(..ids.len().saturating_sub(window - most));
        said.push(Said {
            tokens: ids.len(),
            cut,
            ..Said::default()
        });
        prompts.push(ids);
    }
    let mut bar = session.watch.stage(label, prompts.len(), "questions");
    let mut slots = AtOnce::slots(&session.recipe);
    let mut options = stages::measured(session, 0); // nothing is drawn
    options.max_new_tokens = most;
    options.min_new_tokens = 0;
    options.slots = slots.now();
    let samplers = [session.greedy()?];
    let found = generate(player, &prompts, &samplers, &options, &mut |now| {
        slots.say_fewer(&*session.watch, label, now.at_once);
        bar.set(now.done, now.tokens);
    })?;
    bar.finish();
    for (said, generation) in said.iter_mut().zip(found) {
        said.response = ended(&session.tokenizer, &generation.tokens, until);
    }
    Ok(said)
}

/// The tokens of a context and of what follows it.
fn pair(tokenizer: &Tokenizer, context: &str, follows: &str) -> Result<(Vec<u32>, Vec<u32>)> {
    if context.is_empty() {
        let follows = tokenizer.ids(follows)?;
        let Some(first) = tokenizer.bos().or(tokenizer.eos()) else {
            bail!("the tokenizer has no token to begin a text with, and a context is empty");
        };
        return Ok(match follows.first() == Some(&first) {
            true => (vec![first], follows[1..].to_vec()),
            false => (vec![first], follows),
        });
    }
    let (context, follows) = divided(context, follows);
    let mut whole = tokenizer.opening_ids(&(context.clone() + &follows))?;
    let before = tokenizer.opening_ids(&context)?;
    // lm-eval takes the context's own ids, though the whole text's may differ where they meet
    let follows = whole.split_off(before.len().min(whole.len()));
    Ok((before, follows))
}

/// The text of a response up to one of `until`. It ends with the token that completes such a text:
/// special tokens, which are no part of the response, complete one, too.
fn ended(tokenizer: &Tokenizer, tokens: &[u32], until: &[String]) -> String {
    let until = || until.iter().filter(|text| !text.is_empty());
    let complete = |n: usize| {
        let shown = tokenizer.decode(&tokens[..n]);
        until().any(|text| shown.contains(text.as_str()))
    };
    let (mut from, mut to) = (0, tokens.len());
    while from < to {
        let middle = (from + to) / 2;
        match complete(middle) {
            true => to = middle,
            false => from = middle + 1,
        }
    }
    let mut text = tokenizer.decode_text(&tokens[..to]);
    for end in until() {
        if let Some(at) = text.find(end.as_str()) {
            text.truncate(at);
        }
    }
    text
}

fn window(session: &Session) -> usize {
    match session.bounds.window {
        usize::MAX => WINDOW,
        window => window,
    }
}
