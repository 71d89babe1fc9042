//! `randori inspect`: the first examples as the model sees them. Trained tokens are green, masked
//! ones red, a cut response is marked; on something that is no terminal, trained tokens stand in
//! [brackets].

use std::io::IsTerminal;

use anyhow::Result;
use randori::{Example, Request, Response, escaped};

use crate::terminal::painted;

/// Shows `count` examples and what happened to the others.
pub fn run(request: &Request, count: usize) -> Result<()> {
    let inspection = randori::inspect(request, count)?;
    let paint = Paint {
        colours: std::io::stdout().is_terminal(),
    };
    for example in &inspection.examples {
        painted(&shown(example, &paint));
    }
    for line in &inspection.summary {
        outln!("{line}");
    }
    Ok(())
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

fn shown(example: &Example, paint: &Paint) -> String {
    let [prompt, response] = example.tokens;
    let mut out = format!(
        "{} ({prompt} + {response} tokens)\n",
        escaped(&example.place)
    );
    out.push_str(&paint.masked(&escaped(&example.prompt)));
    out.push_str(&answer(&example.response, paint));
    if let Some(other) = &example.rejected {
        out.push_str("\n  the other response: ");
        out.push_str(&answer(other, paint));
    }
    out.push('\n');
    out
}

fn answer(response: &Response, paint: &Paint) -> String {
    let mark = match response.cut {
        true => " (cut: no end of turn)",
        false => "",
    };
    format!("{}{mark}", paint.trained(&escaped(&response.text)))
}
