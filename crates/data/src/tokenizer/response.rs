//! The response's token ids: what the template writes between the generation prompt and the end of the turn, found
//! by rendering the conversation with and without it, and tokenised apart from the prompt.

use super::spaces::{LeadingSpace, verbatim};
use super::{Tokenizer, broken, encode};
use crate::contain::contain;
use crate::{Error, Message, Result};

/// A text no conversation holds, to see where a template puts an answer.
const PROBE: &str = "randori7f3a9c";

/// How a template frames the answer to a conversation.
struct Frame {
    /// The rendered prompt.
    prompt: String,
    /// What stands between the generation prompt and the answer (Mistral's space); `None` for a template whose
    /// finished conversation does not begin with its generation prompt.
    before: Option<String>,
    /// What follows the answer: the end of the turn and often a line break.
    after: String,
}

impl Tokenizer {
    /// Token ids of an answer to `messages`: its text as the template writes it and the end-of-turn token, without
    /// what the template writes after that. Nothing is put before it: no beginning-of-text, no leading space that
    /// the prompt's end does not call for. Special tokens spelt out in the text are read as plain text.
    ///
    /// Where the template rewrites an answer beyond trimming it (reasoning that later turns leave out), the answer
    /// is taken as it is, right after the generation prompt: that is where the model would write it.
    ///
    /// # Errors
    /// Without a chat template, when it refuses the conversation or leaves answers out, or when there is no token
    /// to end the turn with.
    pub fn response(&self, messages: &[Message], text: &str) -> Result<Vec<u32>> {
        self.answer(messages, text, true)
    }

    /// The same for an answer that was cut at a limit: no end-of-turn, nothing trimmed.
    ///
    /// # Errors
    /// As [`Tokenizer::response`].
    pub fn cut_response(&self, messages: &[Message], text: &str) -> Result<Vec<u32>> {
        self.answer(messages, text, false)
    }

    fn answer(&self, messages: &[Message], text: &str, ended: bool) -> Result<Vec<u32>> {
        let frame = self.frame(messages)?;
        let mut body = match &frame.before {
            Some(before) if ended => self.as_written(messages, &frame, before, text)?,
            Some(before) => format!("{before}{text}"),
            None => text.to_owned(),
        };
        let (lead, end) = self.ending(&frame.after)?;
        if ended {
            body.push_str(&lead);
        }
        let mut ids =
            self.continuation(&frame.prompt, &body, frame.before.as_deref().unwrap_or(""))?;
        if ended {
            ids.push(end);
        }
        Ok(ids)
    }

    /// The token that ends the assistant's turn after these messages.
    ///
    /// # Errors
    /// As [`Tokenizer::response`].
    pub fn end_of_turn(&self, messages: &[Message]) -> Result<u32> {
        Ok(self.ending(&self.frame(messages)?.after)?.1)
    }

    fn frame(&self, messages: &[Message]) -> Result<Frame> {
        let template = self.chat_template()?;
        let prompt = template.render(messages, true)?;
        let whole = template.render(&with_answer(messages, PROBE), false)?;
        let Some((head, after)) = whole.split_once(PROBE) else {
            return Err(Error::Template(
                "it leaves the assistant's last message out, so nothing could be trained".into(),
            ));
        };
        let before = head.strip_prefix(prompt.as_str()).map(str::to_owned);
        Ok(Frame {
            prompt,
            before,
            after: after.to_owned(),
        })
    }

    /// The answer as the template writes it after the generation prompt, end of turn excluded.
    fn as_written(
        &self,
        messages: &[Message],
        frame: &Frame,
        before: &str,
        text: &str,
    ) -> Result<String> {
        let plain = format!("{before}{text}");
        let whole = self
            .chat_template()?
            .render(&with_answer(messages, text), false)?;
        let written = whole
            .strip_prefix(frame.prompt.as_str())
            .and_then(|tail| tail.strip_suffix(frame.after.as_str()));
        Ok(match written {
            // Trimmed, re-spaced, or begun by the generation prompt (`<think>`), but all there: the template's own
            // form is what the model was trained on.
            Some(written) if ends_alike(&format!("{}{written}", frame.prompt), text) => {
                written.to_owned()
            }
            _ => plain,
        })
    }

    /// Splits what follows an answer into the text before the end-of-turn token, and that token. A template that
    /// ends no turn gets the end-of-text token: else the model would never learn to stop.
    fn ending(&self, after: &str) -> Result<(String, u32)> {
        let encoding = contain(|| self.core.encode(after, false))
            .map_err(Error::Tokenizer)?
            .map_err(broken)?;
        let added = self.core.get_added_vocabulary().get_added_tokens_decoder();
        for (id, (start, _)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            if added.contains_key(id) {
                return Ok((after[..*start].to_owned(), *id));
            }
        }
        match self.eos() {
            Some(eos) => Ok((after.trim_end().to_owned(), eos)),
            None => Err(Error::Template(
                "it ends the assistant's turn with no special token, and the tokenizer names no end-of-text token: \
                 the model could not learn to stop"
                    .into(),
            )),
        }
    }

    /// Ids of `body` where it goes on after `prompt`. Special tokens count in its first part `before`, which the
    /// template wrote; the rest is the author's text.
    fn continuation(&self, prompt: &str, body: &str, before: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let mut rest = body;
        if !before.is_empty() && body.starts_with(before) {
            let encoding = contain(|| self.core.encode(before, false))
                .map_err(Error::Tokenizer)?
                .map_err(broken)?;
            let added = self.core.get_added_vocabulary().get_added_tokens_decoder();
            let last = encoding
                .get_ids()
                .iter()
                .rposition(|id| added.contains_key(id));
            if let Some(last) = last {
                ids.extend_from_slice(&encoding.get_ids()[..=last]);
                rest = &body[encoding.get_offsets()[last].1..];
            }
        }
        let spelt = self
            .spellings
            .iter()
            .any(|spelling| rest.contains(spelling.as_str()));
        let keep_space = match self.leading {
            LeadingSpace::Never => true,
            LeadingSpace::Start => false,
            LeadingSpace::Segments => !ids.is_empty() || self.ends_special(prompt)?,
        };
        let core = match (keep_space, spelt) {
            (true, false) if self.leading != LeadingSpace::Start => &self.core,
            (true, _) => self.copy(&self.verbatim, true)?,
            (false, _) => self.copy(&self.continuing, false)?,
        };
        ids.extend_from_slice(encode(core, rest, false)?.get_ids());
        Ok(ids)
    }

    /// Whether the last thing in a rendered prompt is a special token.
    fn ends_special(&self, prompt: &str) -> Result<bool> {
        let added = self.core.get_added_vocabulary().get_added_tokens_decoder();
        Ok(self
            .ids(prompt)?
            .last()
            .is_some_and(|id| added.contains_key(id)))
    }

    /// The copy of the tokenizer kept in `slot`, made when first needed.
    fn copy<'a>(
        &self,
        slot: &'a std::sync::OnceLock<tokenizers::Tokenizer>,
        keep_space: bool,
    ) -> Result<&'a tokenizers::Tokenizer> {
        if let Some(copy) = slot.get() {
            return Ok(copy);
        }
        let copy = verbatim(&self.core, keep_space)?;
        Ok(slot.get_or_init(|| copy))
    }
}

fn with_answer(messages: &[Message], text: &str) -> Vec<Message> {
    let mut all = messages.to_vec();
    all.push(Message::assistant(text));
    all
}

/// Whether a text ends with another, white space aside.
fn ends_alike(text: &str, end: &str) -> bool {
    let mut left = text.chars().rev().filter(|c| !c.is_whitespace());
    let mut right = end.chars().rev().filter(|c| !c.is_whitespace());
    right.all(|c| left.next() == Some(c))
}
