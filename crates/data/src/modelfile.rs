//! Ollama's `Modelfile` of an exported model: path of the weights, chat template in Go's language,
//! stop tokens.

use crate::template::FramedTemplate;
use crate::{Error, Result, Tokenizer};

/// A chat template for Ollama.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OllamaTemplate {
    /// The template in Go's language, for `TEMPLATE`.
    pub go: String,
    /// How Ollama's result will differ from the model's own template, in whole sentences.
    pub notes: Vec<String>,
}

impl Tokenizer {
    /// Converts the chat template to Go's language. The beginning-of-text token is left out if the
    /// tokenizer's metadata tell the runner to add it.
    ///
    /// # Errors
    /// No chat template, or one that does more than put messages between fixed texts, as tested
    /// with conversations of one to four turns, with and without a system message.
    pub fn ollama_template(&self) -> Result<OllamaTemplate> {
        let bos = self.bos().and_then(|id| self.token(id)).unwrap_or_default();
        let turns = FramedTemplate::of(self.chat_template()?, &bos).map_err(Error::Template)?;
        let mut notes = Vec::new();
        if turns.trims {
            notes.push(
                "The model's template cuts white space off messages; Ollama keeps it.".to_owned(),
            );
        }
        if !turns.takes_system() {
            notes.push(
                "The model's template takes no system message; Ollama leaves it out.".to_owned(),
            );
        }
        if self.adds_bos() && !turns.writes_bos() {
            notes.push(format!(
                "Ollama begins with {bos}, as the tokenizer says; the model's template does not."
            ));
        }
        Ok(OllamaTemplate {
            go: turns.go(self.adds_bos()),
            notes,
        })
    }

    /// Texts of the stop tokens, for programs that compare text.
    pub fn stop_texts(&self) -> Vec<String> {
        let texts = self.stop_ids().iter().filter_map(|id| self.token(*id));
        texts.filter(|text| !text.is_empty()).collect()
    }
}

/// Writes the Modelfile of a model in `from` (a GGUF file, a folder, or the name of a model in
/// Ollama), with a LoRA in `adapter`. If the chat template cannot be converted to Go's language, a
/// comment says why, and there is no TEMPLATE.
///
/// # Errors
/// A path or stop token that a Modelfile cannot express.
pub fn modelfile(tokenizer: &Tokenizer, from: &str, adapter: Option<&str>) -> Result<String> {
    let mut out = format!("FROM {}\n", one_line("FROM", from)?);
    if let Some(adapter) = adapter {
        out.push_str(&format!("ADAPTER {}\n", one_line("ADAPTER", adapter)?));
    }
    match tokenizer.ollama_template() {
        Ok(template) => {
            for note in &template.notes {
                comment(&mut out, note);
            }
            out.push_str(&format!("TEMPLATE \"\"\"{}\"\"\"\n", template.go));
        }
        Err(e) => comment(
            &mut out,
            &format!("No TEMPLATE, so Ollama's own choice may not fit the model: {e}"),
        ),
    }
    for stop in tokenizer.stop_texts() {
        if stop.contains(['"', '\n', '\r']) {
            return Err(Error::Template(format!(
                "the stop token {stop:?} cannot stand in a Modelfile"
            )));
        }
        out.push_str(&format!("PARAMETER stop \"{stop}\"\n"));
    }
    Ok(out)
}

fn one_line<'a>(what: &str, path: &'a str) -> Result<&'a str> {
    if path.trim() != path || path.is_empty() || path.contains(['\n', '\r', '"']) {
        return Err(Error::Template(format!(
            "{what} {path:?} cannot stand in a Modelfile"
        )));
    }
    Ok(path)
}

fn comment(out: &mut String, text: &str) {
    for line in text.lines() {
        out.push_str(&format!("# {line}\n"));
    }
}
