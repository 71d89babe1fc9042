//! `randori chat`: talk with a player. One line is one message; `/new` starts over, `/quit` or end of input leaves.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::Result;
use randori_data::Message;
use randori_engine::{Player, generate};

use crate::args::Who;
use crate::session::Session;
use crate::settings;

/// Reads messages from standard input and answers them.
pub fn run(who: &Who, system: Option<&str>) -> Result<()> {
    let session = Session::open(who)?;
    let player = session.player()?;
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        session
            .console
            .say("One line is one message. /new starts over, /quit leaves.");
    }
    let system = system
        .map(str::to_string)
        .or_else(|| session.recipe.data.system.clone());
    let opening: Vec<Message> = system
        .map(|text| Message::new("system", text))
        .into_iter()
        .collect();
    let mut messages = opening.clone();
    let mut turn = 0;
    loop {
        if terminal {
            out!("\n> ");
            std::io::stdout().flush()?;
        }
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line)? == 0 {
            return Ok(());
        }
        match line.trim() {
            "" => continue,
            "/quit" => return Ok(()),
            "/new" => messages.clone_from(&opening),
            text => {
                messages.push(Message::user(text));
                let answer = answer(&session, &player, &messages, turn)?;
                outln!("{answer}");
                messages.push(Message::assistant(answer));
                turn += 1;
            }
        }
    }
}

fn answer(session: &Session, player: &Player, messages: &[Message], turn: usize) -> Result<String> {
    let prompt = session.tokenizer.prompt(messages)?;
    if prompt.len() >= session.bounds.window {
        anyhow::bail!(
            "the conversation has {} tokens, the model's window {}; /new starts over",
            prompt.len(),
            session.bounds.window
        );
    }
    let options = settings::generate(session, session.recipe.run.seed, 0, turn);
    let samplers = session.samplers(&session.recipe.generate.sampling)?;
    let generations = generate(player, &[prompt], &samplers, &options, &mut |_| {})?;
    Ok(generations
        .first()
        .map(|g| session.tokenizer.decode(&g.tokens))
        .unwrap_or_default())
}
