//! A conversation with a player, or with two side by side.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use randori_data::Message;
use randori_engine::{GenerateOptions, Player, generate};
use randori_host::Host;
use randori_sdk::seam::{SamplerFn, Value};

use crate::check::{self, Uses};
use crate::export::{Chosen, ITERATION, called, chosen};
use crate::folder;
use crate::request::{Request, Which};
use crate::session::{Opened, Session};
use crate::stages;

mod pieces;

use pieces::{Ear, Told};

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

/// What is heard of an answer.
#[derive(Clone, Copy, Debug)]
pub enum Heard<'a> {
    /// The next piece of its text; all pieces together are that. One ends where a letter does.
    Piece {
        /// Who gives it.
        who: &'a str,
        /// Never empty.
        text: &'a str,
    },
    /// All of it.
    Whole(&'a Reply),
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
        let mut players = vec![chosen(
            request,
            &recipe,
            last.clone(),
            talk.iteration,
            ITERATION,
        )?];
        if talk.beside.is_some() {
            players.push(chosen(
                request,
                &recipe,
                last.clone(),
                talk.beside,
                "--beside",
            )?);
        }
        folder::say_game(request, &recipe)?;
        let host = check::recipe(&recipe, request, &players[0].0, &Uses::TALKER)?;
        let max_tokens = talk.max_tokens.unwrap_or(recipe.generate.max_new_tokens);
        let system = talk.system.clone().or_else(|| recipe.data.system.clone());
        let system = system.map(|text| Message::new("system", text));
        let opening: Vec<Message> = system.into_iter().collect();
        let seed = folder::game_seed(request, &recipe)?;
        let names = players
            .iter()
            .map(|(_, game)| called(request, &recipe, game.as_ref()))
            .collect::<Vec<String>>();
        let opened = Opened::of(request, recipe, host)?;
        let samplers = samplers(talk, &opened.setting.host)?;
        let session = opened.load(players[0].0.clone())?;
        let side = |((stack, _), who): (Chosen, String)| {
            anyhow::Ok(Side {
                who,
                player: session.player_of(&stack)?,
                messages: opening.clone(),
            })
        };
        let sides = players
            .into_iter()
            .zip(names)
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

    /// How many players answer.
    pub fn players(&self) -> usize {
        self.sides.len()
    }

    /// Tells the answers to `text`, each player's after its own earlier ones; `aloud`: in pieces
    /// while they are made, too, instead of their progress.
    ///
    /// # Errors
    /// A conversation that no longer fits the model's window; it is then as it was before.
    pub fn say(&mut self, text: &str, aloud: bool, hear: &mut dyn FnMut(Heard)) -> Result<()> {
        let mut answered = Vec::new();
        for side in &self.sides {
            let mut messages = [&side.messages[..], &[Message::user(text)]].concat();
            let reply = self.answer(side, &messages, aloud, hear)?;
            hear(Heard::Whole(&reply));
            messages.push(Message::assistant(reply.text));
            answered.push(messages);
        }
        for (side, messages) in self.sides.iter_mut().zip(answered) {
            side.messages = messages;
        }
        self.turn += 1;
        Ok(())
    }

    /// One player's answer, of which `aloud` tells `hear` the pieces.
    fn answer(
        &self,
        side: &Side,
        messages: &[Message],
        aloud: bool,
        hear: &mut dyn FnMut(Heard),
    ) -> Result<Reply> {
        let (session, who) = (&self.session, side.who.as_str());
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
        let (ear, mut told) = (Ear::default(), Told::default());
        let mut samplers = self.samplers.clone();
        if aloud {
            samplers.push(Arc::new(ear.clone()));
        }
        let mut bar = Some(session.watch.stage(who, self.max_tokens, "tokens"));
        let found = generate(&side.player, &[prompt], &samplers, &options, &mut |now| {
            if aloud {
                let so_far = session.tokenizer.decode(&ear.heard());
                let text = told.next(&so_far);
                if !text.is_empty() {
                    bar = None; // the answer stands in its place
                    hear(Heard::Piece { who, text });
                }
            }
            if let Some(bar) = &mut bar {
                bar.set(now.tokens, now.tokens);
            }
        })?;
        drop(bar);
        let found = found.into_iter().next().unwrap_or_default();
        let reply = Reply {
            who: who.to_owned(),
            text: session.tokenizer.decode(&found.tokens),
            cut: (!found.ended).then_some(found.tokens.len()),
        };
        let text = told.last(&reply.text);
        if aloud && !text.is_empty() {
            hear(Heard::Piece { who, text });
        }
        Ok(reply)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::path::Path;

    use super::*;

    fn chat(talk: &Talk) -> Chat {
        let request = Request {
            recipe: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/demo.toml")),
            linked: vec![
                &randori_plugin_llama::PLUGIN,
                &randori_plugin_losses::PLUGIN,
                &randori_plugin_sampling::PLUGIN,
            ],
            ..Request::default()
        };
        Chat::open(&request, talk).unwrap()
    }

    /// The pieces that are heard, and the whole answer.
    fn heard(chat: &mut Chat, text: &str, aloud: bool) -> (Vec<String>, Reply) {
        let (mut pieces, mut whole) = (Vec::new(), None);
        let mut hear = |heard: Heard| match heard {
            Heard::Piece { who, text } => {
                assert_eq!(who, "start");
                pieces.push(text.to_owned());
            }
            Heard::Whole(reply) => whole = Some(reply.clone()),
        };
        chat.say(text, aloud, &mut hear).unwrap();
        (pieces, whole.unwrap())
    }

    #[test]
    fn an_answer_is_the_same_whether_it_is_heard_in_pieces_or_not() {
        let drawn = Talk {
            temperature: Some(1.5),
            ..Talk::default()
        };
        let mut heard_of = (0, 0);
        for talk in [Talk::default(), drawn] {
            let (mut aloud, mut silent) = (chat(&talk), chat(&talk));
            for text in ["Reverse 1234.", "Again."] {
                let (pieces, reply) = heard(&mut aloud, text, true);
                let (none, same) = heard(&mut silent, text, false);
                assert!(none.is_empty(), "{none:?}");
                assert_eq!(reply, same);
                assert!(!reply.text.is_empty());
                assert_eq!(pieces.concat(), reply.text);
                heard_of = (heard_of.0 + pieces.len(), heard_of.1 + 1);
            }
        }
        let (pieces, answers) = heard_of;
        assert!(pieces > 2 * answers, "{answers} answers in {pieces} pieces");
    }
}
