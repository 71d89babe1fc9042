//! Token ids of a response: the text that the template writes between the generation prompt and the
//! end of the turn, found by rendering the conversation with and without it, and tokenised
//! separately from the prompt.

use super::Tokenizer;
use super::pieces::Piece;
use super::reasoning::{Opening, PastReasoning, border};
use crate::{Context, Error, Message, Opened, Result};

/// A text that no conversation contains, to find where a template puts a response.
const PROBE: &str = "randori7f3a9c";

/// Another, longer one, to find whether the text around a response depends on it.
const LONGER: &str = "randori5b8e41d720c9";

/// Fields of reasoning, as named by templates and data sets.
pub(crate) const REASONING: [&str; 3] = ["reasoning_content", "reasoning", "thinking"];

/// A response as token ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// Its token ids, with the end-of-turn token unless it was truncated.
    pub ids: Vec<u32>,
    /// The change made because the prompt ends with open reasoning.
    pub opened: Opened,
}

/// The template's text around the response to a conversation.
struct AnswerFrame {
    /// The rendered prompt.
    prompt: String,
    /// Text between the generation prompt and the response (Mistral's space); `None` if the
    /// template's finished conversation does not begin with its generation prompt.
    before: Option<String>,
    /// Text after the response: the end of the turn and often a line break.
    after: String,
    /// Reasoning that the prompt leaves open.
    opening: Option<Opening>,
    /// Reasoning that the prompt has closed.
    past: Option<PastReasoning>,
    /// Offset in bytes at which a finished turn differs from the prompt, and the text there before
    /// the response.
    parted: usize,
    other: String,
    /// Whether `before` or `after` depends on the response: they then contain the probe or its
    /// length.
    echoes: bool,
}

impl AnswerFrame {
    /// Text between the prompt and any response, without a closing mark of reasoning, which depends
    /// on the response.
    fn before(&self) -> &str {
        let before = self.before.as_deref().unwrap_or("");
        match &self.opening {
            Some(opening) if opening.is_closed_in(before) => "",
            _ => before,
        }
    }

    /// A finished conversation from where it differs from the prompt, without the text before any
    /// response there: a prompt may end with reasoning, open or closed, that a finished turn lacks.
    fn instead<'a>(&self, whole: &'a str) -> Option<&'a str> {
        let written = whole.strip_prefix(&self.prompt[..self.parted])?;
        Some(written.strip_prefix(self.other.as_str()).unwrap_or(written))
    }
}

/// A conversation that ends before a response.
struct Asked<'a> {
    messages: &'a [Message],
    context: &'a Context,
}

impl Tokenizer {
    /// Token ids of a response to `messages`: its text as the template writes it and the
    /// end-of-turn token, without text after that. No beginning-of-text token is put before it, and
    /// no leading space unless the prompt's end requires it. Special tokens spelt in the text are
    /// read as plain text.
    ///
    /// If the template changes a response beyond trimming it (removes reasoning from earlier
    /// turns), the response is used unchanged, right after the generation prompt, where the model
    /// would write it.
    ///
    /// # Errors
    /// No chat template, one that refuses the conversation, ignores responses or writes this one in
    /// other characters (escaped), or no token that ends the turn.
    pub fn response(&self, messages: &[Message], text: &str) -> Result<Vec<u32>> {
        let answer = Message::assistant(text);
        Ok(self
            .response_in(messages, &Context::new(), &answer, true)?
            .ids)
    }

    /// [`Tokenizer::response`] for a response truncated at a limit: no end-of-turn token, no
    /// trimming.
    ///
    /// # Errors
    /// As [`Tokenizer::response`].
    pub fn cut_response(&self, messages: &[Message], text: &str) -> Result<Vec<u32>> {
        let answer = Message::assistant(text);
        Ok(self
            .response_in(messages, &Context::new(), &answer, false)?
            .ids)
    }

    /// Token ids of the assistant's next message as the template writes it, with the row's
    /// variables: a text, a tool call, reasoning in a field of its own. If not `ended`, it was
    /// truncated at a limit and gets no end-of-turn token.
    ///
    /// If the prompt ends with open reasoning, the response continues inside; if the prompt has
    /// closed it, the response's own is removed: see [`Opened`].
    ///
    /// # Errors
    /// As [`Tokenizer::response`]; also a message that the template does not write where its
    /// generation prompt ends.
    pub fn response_in(
        &self,
        messages: &[Message],
        context: &Context,
        answer: &Message,
        ended: bool,
    ) -> Result<Response> {
        let asked = Asked { messages, context };
        let frame = self.frame(&asked)?;
        if let Some(rest) = self.after_reasoning(&asked, &frame, answer, ended) {
            let response = self.response_in(messages, context, &rest, ended)?;
            return Ok(Response {
                opened: Opened::Dropped,
                ..response
            });
        }
        if frame.echoes {
            return self.echoed(&asked, &frame, answer, ended);
        }
        let said = answer.content();
        let more = answer
            .fields()
            .keys()
            .any(|key| key != "role" && key != "content");
        let whole = match more {
            true => self.finished(&asked, answer)?,
            false => String::new(),
        };
        // most fields change nothing: a plain text's path keeps spelt special tokens as text
        if more && whole != self.finished(&asked, &Message::assistant(said))? {
            return self.with_fields(&asked, &frame, answer, &whole, ended);
        }
        let before = frame.before();
        let body = match &frame.before {
            Some(_) if ended => self.as_written(&asked, &frame, before, said)?,
            _ => format!("{before}{said}"),
        };
        let (lead, end) = self.ending(&frame.after)?;
        let (body, opened) = self.after_opening(&asked, &frame, answer, body, ended);
        let before = frame
            .before
            .as_deref()
            .filter(|b| body.starts_with(*b))
            .unwrap_or("");
        let mut pieces = vec![Piece::Written(before), Piece::Said(&body[before.len()..])];
        if ended {
            pieces.push(Piece::Written(&lead));
        }
        let mut ids = self.continuation(&frame.prompt, &pieces)?;
        if ended {
            ids.push(end);
        }
        Ok(Response { ids, opened })
    }

    /// A response without its reasoning, which the prompt has closed; `None` if it has none or the
    /// prompt closes none.
    fn after_reasoning(
        &self,
        asked: &Asked,
        frame: &AnswerFrame,
        answer: &Message,
        ended: bool,
    ) -> Option<Message> {
        let past = frame.past.as_ref()?;
        let said = answer.content();
        // reasoning without an opening mark counts if the template treats it as such
        let apart = || {
            let whole = self.finished(asked, &Message::assistant(said));
            whole.is_ok_and(|whole| !whole.contains(said.trim()))
        };
        let rest = past.rest(said, ended, apart);
        let named = REASONING
            .iter()
            .any(|key| !answer.text(key).trim().is_empty());
        if rest.is_none() && !named {
            return None;
        }
        let bare = REASONING
            .iter()
            .fold(answer.clone(), |answer, key| answer.without(key));
        Some(match rest {
            Some(rest) => bare.with("content", rest),
            None => bare,
        })
    }

    /// A message of which the template reads more than the content.
    fn with_fields(
        &self,
        asked: &Asked,
        frame: &AnswerFrame,
        answer: &Message,
        whole: &str,
        ended: bool,
    ) -> Result<Response> {
        let written = match whole.strip_prefix(frame.prompt.as_str()) {
            Some(written) => written,
            // a finished turn does not begin with the prompt's opening mark
            None => frame.instead(whole).ok_or_else(|| {
                Error::Template(
                    "it writes the assistant's message, with its fields, elsewhere than where its generation prompt \
                     ends, so nothing could be trained"
                        .into(),
                )
            })?,
        };
        let (body, end) = self.end_of(written, frame)?;
        let (body, opened) = self.after_opening(asked, frame, answer, body, ended);
        let mut ids = self.continuation(&frame.prompt, &self.pieces(&body, answer))?;
        if ended {
            ids.push(end);
        }
        Ok(Response { ids, opened })
    }

    /// A response that continues after the prompt's opening mark, without opening it again.
    fn after_opening(
        &self,
        asked: &Asked,
        frame: &AnswerFrame,
        answer: &Message,
        body: String,
        ended: bool,
    ) -> (String, Opened) {
        let Some(opening) = &frame.opening else {
            return (body, Opened::AsItIs);
        };
        let reasoning = REASONING.iter().map(|key| answer.text(key));
        let reasoning = reasoning.map(str::trim).find(|text| !text.is_empty());
        if let Some(reasoning) = reasoning.filter(|text| !body.contains(*text)) {
            return (opening.inside(reasoning, &body), Opened::Inside);
        }
        let (body, opened) = self.continued(opening, &body, ended, || {
            self.closed(opening, asked.messages, asked.context, &frame.prompt)
        });
        // a closing mark written by the template counts as well
        let closes = opening.is_closed_in(&body) && !opening.is_closed_in(answer.content());
        match (opened, reasoning) {
            (Opened::AsItIs, None) if closes => (body, Opened::Closed),
            _ => (body, opened),
        }
    }

    /// The token that ends the assistant's turn after these messages.
    ///
    /// # Errors
    /// As [`Tokenizer::response`].
    pub fn end_of_turn(&self, messages: &[Message]) -> Result<u32> {
        self.end_of_turn_in(messages, &Context::new())
    }

    /// [`Tokenizer::end_of_turn`] with the row's variables for the template.
    pub(super) fn end_of_turn_in(&self, messages: &[Message], context: &Context) -> Result<u32> {
        let frame = self.frame(&Asked { messages, context })?;
        Ok(self.ending(&frame.after)?.1)
    }

    fn frame(&self, asked: &Asked) -> Result<AnswerFrame> {
        let prompt = self
            .chat_template()?
            .render_in(asked.messages, asked.context, true)?;
        let whole = self.finished(asked, &Message::assistant(PROBE))?;
        let Some((head, after)) = whole.split_once(PROBE) else {
            return Err(Error::Template(
                "it leaves the assistant's last message out, so nothing could be trained".into(),
            ));
        };
        Ok(AnswerFrame {
            echoes: self.echoes(asked, head, after),
            before: head.strip_prefix(prompt.as_str()).map(str::to_owned),
            opening: self.opening(&prompt, head, after),
            past: self.past_reasoning(asked, &prompt),
            parted: border(&prompt, head),
            other: head[border(&prompt, head)..].to_owned(),
            after: after.to_owned(),
            prompt,
        })
    }

    /// Reasoning that the generation prompt itself has closed, not one at the end of a message.
    fn past_reasoning(&self, asked: &Asked, prompt: &str) -> Option<PastReasoning> {
        let (past, start) = PastReasoning::of(prompt)?;
        let template = self.template.as_ref()?;
        let without = template.render_in(asked.messages, asked.context, false);
        let without = without.ok()?;
        (border(prompt, &without) <= start).then_some(past)
    }

    /// Whether a template's text around a response depends on the response.
    fn echoes(&self, asked: &Asked, head: &str, after: &str) -> bool {
        let tried = || {
            let other = self.finished(asked, &Message::assistant(LONGER));
            other.is_ok_and(|whole| {
                let around = whole.split_once(LONGER);
                around.is_some_and(|around| around != (head, after))
            })
        };
        let template = self.template.as_ref();
        let tools = template.is_some_and(|template| template.has_tools(asked.context));
        let other = template.is_some_and(|template| template.is_other(asked.context));
        let known = &self.echoes[usize::from(tools) + 2 * usize::from(other)];
        after.contains(PROBE) || *known.get_or_init(tried)
    }

    /// The response of a template whose surrounding text depends on it: all that its finished
    /// conversation has after the prompt.
    fn echoed(
        &self,
        asked: &Asked,
        frame: &AnswerFrame,
        answer: &Message,
        ended: bool,
    ) -> Result<Response> {
        let refused = || {
            Error::Template(
                "what it writes around the assistant's message depends on the message, and its \
                 finished conversation does not go on from its generation prompt to that message \
                 and the end of the turn, so nothing could be trained"
                    .into(),
            )
        };
        let whole = self.finished(asked, answer)?;
        let prompt = frame.prompt.as_str();
        let written = whole.strip_prefix(prompt).ok_or_else(refused)?;
        let said = answer.content();
        let spelt = self.spelt(written)?;
        let (body, end) = match spelt.last() {
            // truncated within its own text: the text after it was never written
            _ if !ended => {
                let at = written.find(said).filter(|_| !said.is_empty());
                (&written[..at.ok_or_else(refused)? + said.len()], None)
            }
            Some(&(start, stop, id))
                if written[stop..].trim().is_empty()
                    && (self.stop.contains(&id) || self.special_id(id)) =>
            {
                (&written[..start], Some(id))
            }
            _ => (written.trim_end(), Some(self.eos().ok_or_else(refused)?)),
        };
        let (body, opened) = self.after_opening(asked, frame, answer, body.to_owned(), ended);
        let mut ids = self.continuation(prompt, &self.pieces(&body, answer))?;
        ids.extend(end);
        Ok(Response { ids, opened })
    }

    /// Renders the conversation with its response.
    fn finished(&self, asked: &Asked, answer: &Message) -> Result<String> {
        let mut all = asked.messages.to_vec();
        all.push(answer.clone());
        self.chat_template()?.render_in(&all, asked.context, false)
    }

    /// The response as the template writes it after the generation prompt, without the end of turn.
    fn as_written(
        &self,
        asked: &Asked,
        frame: &AnswerFrame,
        before: &str,
        text: &str,
    ) -> Result<String> {
        let plain = format!("{before}{text}");
        let whole = self.finished(asked, &Message::assistant(text))?;
        let written = whole
            .strip_prefix(frame.prompt.as_str())
            .and_then(|tail| tail.strip_suffix(frame.after.as_str()));
        Ok(match written {
            // Trimmed, re-spaced, or begun by the generation prompt (`<think>`), but complete: the
            // model was trained on the template's form.
            Some(written) if ends_alike(&format!("{}{written}", frame.prompt), text) => {
                written.to_owned()
            }
            // escaped (`<` as `&lt;`), in JSON, in capitals: neither text is what both sides mean
            Some(written) if !leaves_out(written, &plain) => {
                return Err(Error::Template(
                    "it writes the assistant's message in other characters than the data have, so \
                     nothing could be trained"
                        .into(),
                ));
            }
            _ => plain,
        })
    }

    /// Splits the text after a response into what precedes the end-of-turn token, and that token.
    /// If the template ends no turn, the end-of-text token is used: else the model would never
    /// learn to stop.
    fn ending(&self, after: &str) -> Result<(String, u32)> {
        let encoding = self.spelt(after)?;
        if let Some((start, _, id)) = encoding.first() {
            return Ok((after[..*start].to_owned(), *id));
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

    /// Splits a message with fields, as the template writes it, into the text before the
    /// end-of-turn token, and that token: the last one, if it may end a turn (a tool call may end
    /// with another than a text), else the one that ends a text.
    fn end_of(&self, written: &str, frame: &AnswerFrame) -> Result<(String, u32)> {
        let (lead, end) = self.ending(&frame.after)?;
        if let Some(&(start, stop, id)) = self.spelt(written)?.last()
            && written[stop..].trim().is_empty()
            && (id == end || self.stop.contains(&id) || self.special_id(id))
        {
            return Ok((written[..start].to_owned(), id));
        }
        let body = written
            .strip_suffix(frame.after.as_str())
            .unwrap_or(written.trim_end());
        Ok((format!("{body}{lead}"), end))
    }

    fn special_id(&self, id: u32) -> bool {
        let added = self.core.get_added_vocabulary().get_added_tokens_decoder();
        added.get(&id).is_some_and(|token| token.special)
    }
}

/// Whether a text is another with parts left out, ignoring white space.
fn leaves_out(text: &str, whole: &str) -> bool {
    let mut whole = whole.chars();
    let mut text = text.chars().filter(|c| !c.is_whitespace());
    text.all(|c| whole.any(|other| other == c))
}

/// Whether a text ends with another, ignoring white space.
fn ends_alike(text: &str, end: &str) -> bool {
    let mut left = text.chars().rev().filter(|c| !c.is_whitespace());
    let mut right = end.chars().rev().filter(|c| !c.is_whitespace());
    right.all(|c| left.next() == Some(c))
}
