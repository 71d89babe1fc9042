//! `randori inspect`: the first examples as the model sees them. Trained tokens are green, masked
//! ones red, a cut response is marked; without colours, trained tokens stand in [brackets].

use anyhow::Result;
use randori::{Example, Request, Response, escaped};

use crate::terminal::{Colour, colours, painted};

/// Shows `count` examples and what happened to the others.
pub fn run(request: &Request, count: usize) -> Result<()> {
    let inspection = randori::inspect(request, count)?;
    let paint = Paint {
        colours: colours(&std::io::stdout()),
    };
    if !inspection.examples.is_empty() {
        painted(match paint.colours {
            true => "green is trained on, red is not\n",
            false => "what stands in [brackets] is trained on, the rest is not\n",
        });
    }
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
            Colour::Red.paint(text)
        } else {
            text.to_string()
        }
    }
    fn trained(&self, text: &str) -> String {
        if self.colours {
            Colour::Green.paint(text)
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
