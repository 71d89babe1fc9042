//! `randori chat`: talk with a player. One line is one message; on a terminal it can be edited, and
//! earlier ones come back. They are kept in memory alone, since they are the user's own.

use std::io::{BufRead, IsTerminal, Write, stdin, stdout};

use anyhow::{Result, bail};
use randori::{Chat, Heard, Request, Talk, Watch, escaped, one_line};
use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};

use crate::terminal::{Colour, colours, painted};

const HELP: &str = "\
One line is one message. On a terminal the arrow keys edit it and bring back earlier ones.
/new    forgets what was said
/help   says this
/quit   leaves, as Ctrl-D does";

/// Answers `prompt` if there is one, or else the messages of standard input.
pub fn run(request: &Request, talk: &Talk, prompt: Option<&str>) -> Result<()> {
    if prompt.is_some_and(|text| text.trim().is_empty()) {
        bail!(
            "--prompt must hold a message, got {:?}",
            prompt.unwrap_or("")
        );
    }
    let watch = &*request.watch;
    let mut chat = Chat::open(request, talk)?;
    if let Some(text) = prompt {
        return answer(&mut chat, text, watch);
    }
    let terminal = stdin().is_terminal() && stdout().is_terminal();
    let mut input = match terminal {
        true => Input::edited()?,
        false => Input::Plain,
    };
    if terminal {
        watch.say("One line is one message; /help says more.".into());
    }
    while let Some(line) = input.line()? {
        match said(&line) {
            Said::Nothing => {}
            Said::Quit => break,
            Said::New => chat.start_over(),
            Said::Help => errln!("{HELP}"),
            Said::Unknown(command) => errln!("there is no {command}; /help says what there is"),
            Said::Message(text) => match answer(&mut chat, text, watch) {
                Err(e) if terminal => errln!("{} (/new starts over)", one_line(&e)),
                done => done?,
            },
        }
    }
    Ok(())
}

/// Answers one message, on standard output, and on a terminal while the answer is made; who speaks
/// is said where there are two.
fn answer(chat: &mut Chat, text: &str, watch: &dyn Watch) -> Result<()> {
    let several = chat.players() > 1;
    let mut begun = false;
    let begin = |who: &str, begun: bool| {
        if several && !begun {
            heading(who);
        }
    };
    let aloud = stdout().is_terminal();
    let told = chat.say(text, aloud, &mut |heard| match heard {
        Heard::Piece { who, text } => {
            begin(who, begun);
            begun = true;
            out!("{text}");
            drop(stdout().flush()); // it is shown with the rest if not now
        }
        Heard::Whole(reply) => {
            begin(&reply.who, begun);
            match std::mem::take(&mut begun) {
                true => outln!(""),
                false => outln!("{}", reply.text),
            }
            drop(stdout().flush());
            if let Some(count) = reply.cut {
                watch.say(format!("(cut at {count} tokens; see --max-tokens)"));
            }
        }
    });
    if begun {
        outln!(""); // it broke off
    }
    told
}

fn heading(who: &str) {
    match colours(&stdout()) {
        true => painted(&Colour::Cyan.paint(&escaped(&format!("{who}:")))),
        false => outln!("{who}:"),
    }
}

/// What a line means.
#[derive(Debug, PartialEq, Eq)]
enum Said<'a> {
    Nothing,
    Quit,
    New,
    Help,
    /// One word that looks like a command and is none.
    Unknown(&'a str),
    Message(&'a str),
}

fn said(line: &str) -> Said<'_> {
    let text = line.trim();
    let name = text.strip_prefix('/');
    let is_name = |name: &str| name.chars().all(|c| c.is_ascii_alphabetic());
    match (text, name) {
        ("", _) => Said::Nothing,
        ("/quit", _) => Said::Quit,
        ("/new", _) => Said::New,
        ("/help", _) => Said::Help,
        (_, Some(name)) if is_name(name) => Said::Unknown(text),
        _ => Said::Message(text),
    }
}

/// Where messages come from.
enum Input {
    /// A terminal.
    Edited(Box<DefaultEditor>),
    /// A pipe or a file.
    Plain,
}

impl Input {
    fn edited() -> Result<Input> {
        let config = Config::builder().auto_add_history(true).build();
        Ok(Input::Edited(Box::new(DefaultEditor::with_config(config)?)))
    }

    /// The next line; `None` at the end.
    fn line(&mut self) -> Result<Option<String>> {
        let Input::Edited(editor) = self else {
            let mut line = String::new();
            let read = stdin().lock().read_line(&mut line)?;
            return Ok((read > 0).then_some(line));
        };
        loop {
            match editor.readline("> ") {
                Ok(line) => return Ok(Some(line)),
                Err(ReadlineError::Eof) => return Ok(None),
                // Ctrl-C gives up a line, and no more
                Err(ReadlineError::Interrupted) => errln!("Ctrl-D or /quit leaves"),
                Err(ReadlineError::Signal(_)) => {} // the window has another size
                Err(e) => return Err(e.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_but_for_a_few() {
        assert_eq!(said(" \n"), Said::Nothing);
        assert_eq!(said("/quit\r\n"), Said::Quit);
        assert_eq!(said(" /new "), Said::New);
        assert_eq!(said("/help"), Said::Help);
        assert_eq!(said("/exit\n"), Said::Unknown("/exit"));
        assert_eq!(said("/etc/hosts\n"), Said::Message("/etc/hosts"));
        assert_eq!(said("/new one"), Said::Message("/new one"));
        assert_eq!(said(" 1/2? \n"), Said::Message("1/2?"));
    }
}
