//! A conversation with a player.

use anyhow::Result;
use randori_data::Message;
use randori_engine::{Player, generate};

use crate::check::{self, Uses};
use crate::folder;
use crate::request::Request;
use crate::session::{Opened, Session};
use crate::stages;

/// A conversation: what was said so far, and the player who answers.
pub struct Chat {
    session: Session,
    player: Player,
    /// The system message, if there is one.
    opening: Vec<Message>,
    messages: Vec<Message>,
    turn: usize,
}

impl Chat {
    /// With the player of `request`; `system` is a system message instead of the recipe's.
    ///
    /// # Errors
    /// Whatever is wrong with recipe, plugins, model or adapter.
    pub fn open(request: &Request, system: Option<&str>) -> Result<Chat> {
        let (recipe, adapter) = folder::player(request)?;
        let host = check::recipe(&recipe, request, &adapter, &Uses::TALKER)?;
        let session = Opened::of(request, recipe, host)?.load(adapter)?;
        let player = session.player()?;
        let system = system
            .map(str::to_string)
            .or_else(|| session.recipe.data.system.clone());
        let opening: Vec<Message> = system
            .map(|text| Message::new("system", text))
            .into_iter()
            .collect();
        Ok(Chat {
            session,
            player,
            messages: opening.clone(),
            opening,
            turn: 0,
        })
    }

    /// Forgets what was said.
    pub fn start_over(&mut self) {
        self.messages.clone_from(&self.opening);
    }

    /// The answer to `text`.
    ///
    /// # Errors
    /// A conversation that no longer fits the model's window.
    pub fn say(&mut self, text: &str) -> Result<String> {
        self.messages.push(Message::user(text));
        let answer = self.answer()?;
        self.messages.push(Message::assistant(answer.clone()));
        self.turn += 1;
        Ok(answer)
    }

    fn answer(&self) -> Result<String> {
        let session = &self.session;
        let prompt = session.tokenizer.prompt(&self.messages)?;
        if prompt.len() >= session.bounds.window {
            anyhow::bail!(
                "the conversation has {} tokens, the model's window {}; /new starts over",
                prompt.len(),
                session.bounds.window
            );
        }
        let seed = session.recipe.run.seed;
        let options = stages::generation(session, seed, 0, self.turn);
        let samplers = session.samplers(&session.recipe.generate.sampling)?;
        let generations = generate(&self.player, &[prompt], &samplers, &options, &mut |_| {})?;
        Ok(generations
            .first()
            .map(|g| session.tokenizer.decode(&g.tokens))
            .unwrap_or_default())
    }
}
