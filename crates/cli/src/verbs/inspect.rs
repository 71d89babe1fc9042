//! `randori inspect`: the first examples as the model sees them. Trained tokens are green, masked ones red, a cut
//! response is marked; on something that is no terminal, trained tokens stand in [brackets].

use std::io::IsTerminal;

use anyhow::{Result, bail};
use randori_data::{Encoded, Tokenizer};

use crate::args::{Split, Who};
use crate::corpus::{part, policy};
use crate::session::Session;
use crate::terminal::{escaped, painted};

/// Shows `count` examples and what happened to the others; the sets to measure on are read as well,
/// so that what a run would refuse in them is refused here.
pub fn run(who: &Who, count: usize) -> Result<()> {
    if !who.adapter.is_empty() {
        bail!(
            "--adapter changes nothing that inspect shows: examples are the same for every player"
        );
    }
    let session = Session::open(who)?;
    // as the first iteration's training would
    let loss = session.loss(0).ok();
    let rules = policy(&session.recipe, loss.as_deref());
    let recipe = &session.recipe;
    let read = |split, rules| part(recipe, &session.tokenizer, split, session.bounds, rules);
    let train = read(Split::Train, Some(&rules))?;
    let validated = !recipe.data.validation.0.is_empty() || recipe.data.validation_share > 0.0;
    let others = [
        ("validation", Split::Validation, validated),
        (
            "held-out",
            Split::HeldOut,
            !recipe.data.held_out.0.is_empty(),
        ),
    ];
    let mut measured = Vec::new();
    for (name, split, _) in others.into_iter().filter(|(.., there)| *there) {
        measured.push((name, read(split, None)?.counts));
    }
    let paint = Paint {
        colours: std::io::stdout().is_terminal(),
    };
    for example in train.examples.iter().take(count) {
        painted(&shown(example, &session.tokenizer, &paint));
    }
    outln!("{}", train.counts);
    for (name, counts) in measured {
        outln!("{name} data: {counts}");
    }
    let longest = train.examples.iter().map(tokens).max().unwrap_or(0);
    outln!(
        "longest example {longest} tokens, the model's window {}",
        session.bounds.window
    );
    Ok(())
}

/// Tokens of the prompt and the longer of its responses: what must fit the model's window.
fn tokens(example: &Encoded) -> usize {
    let other = example.rejected.as_ref().map_or(0, |other| other.ids.len());
    example.prompt.len() + example.response.len().max(other)
}

struct Paint {
    colours: bool,
}

impl Paint {
    fn masked(&self, text: &str) -> String {
        if self.colours {
            format!("\x1b[31m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }
    fn trained(&self, text: &str) -> String {
        if self.colours {
            format!("\x1b[32m{text}\x1b[0m")
        } else {
            format!("[{text}]")
        }
    }
}

fn shown(example: &Encoded, tokenizer: &Tokenizer, paint: &Paint) -> String {
    let mut out = format!(
        "{} ({} + {} tokens)\n",
        escaped(&example.place.to_string()),
        example.prompt.len(),
        example.response.len()
    );
    out.push_str(&paint.masked(&spelled(&example.prompt, tokenizer)));
    out.push_str(&response(&example.response, example.cut, tokenizer, paint));
    if let Some(other) = &example.rejected {
        out.push_str("\n  the other response: ");
        out.push_str(&response(&other.ids, other.cut, tokenizer, paint));
    }
    out.push('\n');
    out
}

fn response(ids: &[u32], cut: bool, tokenizer: &Tokenizer, paint: &Paint) -> String {
    let mark = if cut { " (cut: no end of turn)" } else { "" };
    format!("{}{mark}", paint.trained(&spelled(ids, tokenizer)))
}

/// Text with every special token visible, the end of turn too, and every control character spelled.
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
    escaped(&(tokenizer.decode(body) + &stops)).into_owned()
}
