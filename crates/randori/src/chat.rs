//! A conversation with a player, or with two side by side.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use randori_data::Message;
use randori_engine::{GenerateOptions, Player, generate};
use randori_host::Host;
use randori_sdk::seam::{SamplerFn, Value};

use crate::check::{self, Uses};
use crate::export::chosen;
use crate::folder;
use crate::request::{Request, Which};
use crate::session::{Opened, Session};
use crate::stages;

/// How a conversation is held.
#[derive(Clone, Debug, Default)]
pub struct Talk {
    /// A system message instead of the recipe's.
    pub system: Option<String>,
    /// Which player of a run folder; the last one where it is not given.
    pub iteration: Option<Which>,
    /// A second player of the run folder, who answers the same messages.
    pub beside: Option<Which>,
    /// Answers are drawn at this temperature. Where neither this nor `top_p` is given, or it is 0,
    /// they are the most likely ones.
    pub temperature: Option<f64>,
    /// Answers are drawn from the likeliest tokens that together have this probability.
    pub top_p: Option<f64>,
    /// Most tokens of an answer; the recipe's `generate.max_new_tokens` where it is not given.
    pub max_tokens: Option<usize>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Who gives it: `start`, `iteration 2`, or `player`.
    pub who: String,
    /// Its text.
    pub text: String,
    /// Whether it was cut at so many tokens.
    pub cut: Option<usize>,
}

/// A conversation: who answers, and what was said so far.
pub struct Chat {
    session: Session,
    samplers: Vec<Arc<dyn SamplerFn>>,
    max_tokens: usize,
    /// Of the draws.
    seed: u64,
    /// The system message, if there is one.
    opening: Vec<Message>,
    sides: Vec<Side>,
    turn: usize,
}

/// A player, and the conversation as it was with it.
struct Side {
    who: String,
    player: Player,
    messages: Vec<Message>,
}

impl Chat {
    /// With the player of `request`, or of its run folder the ones that `talk` names.
    ///
    /// # Errors
    /// Whatever is wrong with recipe, plugins, model or adapter; options that contradict each
    /// other; a player that is not there.
    pub fn open(request: &Request, talk: &Talk) -> Result<Chat> {
        let (recipe, last) = folder::recipe(request)?;
        let mut players = vec![chosen(request, &recipe, last.clone(), talk.iteration)?];
        if talk.beside.is_some() {
            players.push(chosen(request, &recipe, last, talk.beside).context("--beside")?);
        }
        folder::say_game(request, &recipe)?;
        let host = check::recipe(&recipe, request, &players[0].0, &Uses::TALKER)?;
        let max_tokens = talk.max_tokens.unwrap_or(recipe.generate.max_new_tokens);
        let system = talk.system.clone().or_else(|| recipe.data.system.clone());
        let system = system.map(|text| Message::new("system", text));
        let opening: Vec<Message> = system.into_iter().collect();
        let seed = folder::game_seed(request, &recipe)?;
        let opened = Opened::of(request, recipe, host)?;
        let samplers = samplers(talk, &opened.setting.host)?;
        let session = opened.load(players[0].0.clone())?;
        let side = |(stack, game): (Vec<PathBuf>, Option<(PathBuf, Which)>)| {
            anyhow::Ok(Side {
                who: game.map_or("player".into(), |(_, which)| which.to_string()),
                player: session.player_of(&stack)?,
                messages: opening.clone(),
            })
        };
        let sides = players
            .into_iter()
            .map(side)
            .collect::<Result<Vec<Side>>>()?;
        Ok(Chat {
            session,
            samplers,
            max_tokens,
            seed,
            opening,
            sides,
            turn: 0,
        })
    }

    /// Forgets what was said.
    pub fn start_over(&mut self) {
        for side in &mut self.sides {
            side.messages.clone_from(&self.opening);
        }
    }

    /// The answers to `text`, each player's after its own earlier ones.
    ///
    /// # Errors
    /// A conversation that no longer fits the model's window; it is then as it was before.
    pub fn say(&mut self, text: &str) -> Result<Vec<Reply>> {
        let asked = |side: &Side| [&side.messages[..], &[Message::user(text)]].concat();
        let asked: Vec<Vec<Message>> = self.sides.iter().map(asked).collect();
        let answers = self.sides.iter().zip(&asked);
        let replies = answers
            .map(|(side, messages)| self.answer(side, messages))
            .collect::<Result<Vec<Reply>>>()?;
        for ((side, messages), reply) in self.sides.iter_mut().zip(asked).zip(&replies) {
            side.messages = messages;
            side.messages.push(Message::assistant(reply.text.clone()));
        }
        self.turn += 1;
        Ok(replies)
    }

    fn answer(&self, side: &Side, messages: &[Message]) -> Result<Reply> {
        let session = &self.session;
        let prompt = session.tokenizer.prompt(messages)?;
        let (length, window) = (prompt.len(), session.bounds.window);
        if length >= window {
            bail!("the conversation has {length} tokens, the model's window {window}");
        }
        let of_game = stages::generation(session, self.seed, 0, self.turn);
        let options = GenerateOptions {
            max_new_tokens: self.max_tokens,
            min_new_tokens: of_game.min_new_tokens.min(self.max_tokens),
            ..of_game
        };
        let mut bar = session.watch.stage(&side.who, self.max_tokens, "tokens");
        let found = generate(
            &side.player,
            &[prompt],
            &self.samplers,
            &options,
            &mut |now| bar.set(now.tokens, now.tokens),
        )?;
        let found = found.into_iter().next().unwrap_or_default();
        Ok(Reply {
            who: side.who.clone(),
            text: session.tokenizer.decode(&found.tokens),
            cut: (!found.ended).then_some(found.tokens.len()),
        })
    }
}

/// The samplers that `talk` asks for.
fn samplers(talk: &Talk, host: &Host) -> Result<Vec<Arc<dyn SamplerFn>>> {
    let one = |name: &str, option: &str, value: f64, flag: &'static str| {
        let options = [(option.to_string(), Value::Float(value))];
        host.sampler(name, &options).context(flag)
    };
    let (temperature, top_p) = (talk.temperature, talk.top_p);
    if temperature.unwrap_or(0.0) == 0.0 && top_p.is_none() {
        return Ok(vec![host.sampler("greedy", &[])?]);
    }
    if temperature == Some(0.0) {
        bail!(
            "--top-p changes nothing at --temp 0, which takes the most likely token; leave one out"
        );
    }
    let temperature = temperature.map(|t| one("temperature", "t", t, "--temp"));
    let top_p = top_p.map(|p| one("top_p", "p", p, "--top-p"));
    temperature.into_iter().chain(top_p).collect()
}
