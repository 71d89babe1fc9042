//! `randori chat`: talk with a player. One line is one message; `/new` starts over, `/quit` or end of
//! input leaves.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::Result;
use randori::{Chat, Request};

/// Reads messages from standard input and answers them.
pub fn run(request: &Request, system: Option<&str>) -> Result<()> {
    let mut chat = Chat::open(request, system)?;
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        let usage = "One line is one message. /new starts over, /quit leaves.";
        request.watch.say(usage.into());
    }
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
            "/new" => chat.start_over(),
            text => outln!("{}", chat.say(text)?),
        }
    }
}
