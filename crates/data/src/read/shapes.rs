//! Conversion of rows in each format to records.

use serde_json::{Map, Value};

use super::conversation::{Turn, asks, context, first, kind, messages, split};
use super::format::{Format, check, detect, spell};
use super::json::list_in;
use super::rewards::rewards;
use super::unread::{PROMPTS, ROUNDS, ROUNDS_ASKED, SYSTEMS, note};
use super::values::{self, flag, plain_flag, present};
use super::{Calculator, Left, ReadOptions};
use crate::template::is_result;
use crate::{Context, Error, Message, Place, Record, Result};

/// A row of a file, with its place.
#[derive(Clone, Copy)]
struct Row<'a> {
    place: &'a Place,
    map: &'a Map<String, Value>,
}

/// The records of one row, none if it excludes itself from training; `left` counts what is
/// excluded.
pub(super) fn records(
    place: &Place,
    value: &Value,
    options: &ReadOptions,
    left: &mut Left,
) -> Result<Vec<Record>> {
    let Value::Object(map) = value else {
        return Err(Error::example(
            place,
            format!("an example should be an object, is {}", kind(value)),
        ));
    };
    let format = match options.format {
        Format::Auto => detect(place, map, &options.columns)?,
        given => {
            check(place, map, given)?;
            given
        }
    };
    let row = Row { place, map };
    let mut records = match format {
        Format::Messages => row.conversation(&["messages"], options, left)?,
        Format::ShareGpt => row.conversation(&["conversations", "conversation"], options, left)?,
        Format::Alpaca => row.alpaca()?,
        Format::Question => row.simple("question", &["answer", "response"])?,
        Format::InputOutput => row.simple("input", &["output"])?,
        Format::Text => row.plain()?,
        Format::Spin => row.pair("real", "generated")?,
        Format::Preference => row.pair("chosen", "rejected")?,
        Format::Prompt | Format::Auto => row.simple("prompt", &["response", "completion"])?,
    };
    let context = context(place, map)?;
    for record in &mut records {
        record.context.clone_from(&context);
        if format != Format::Text && !asks(&record.prompt) {
            return Err(Error::example(place, "an empty prompt"));
        }
        if options.calculator == Calculator::Remove {
            let text = without_calculator(record.response.content());
            if text != record.response.content() {
                record.response = std::mem::take(&mut record.response).with("content", text);
            }
        }
    }
    note(map, format, &records, left);
    if !wanted(map, format) {
        records.clear();
    }
    Ok(records)
}

/// Whether a row as a whole is to be trained. The column names are common words, so a value that is
/// not boolean belongs to another meaning and is ignored.
fn wanted(map: &Map<String, Value>, format: Format) -> bool {
    WHOLE
        .iter()
        .all(|key| says(map, key, format) != Some(false))
}

/// Columns that exclude a row from training: KTO's under the names of TRL and LLaMA-Factory, then
/// the names that messages use too.
pub(super) const WHOLE: [&str; 4] = ["label", "kto_tag", "train", "weight"];

/// The value of a column of [`WHOLE`] as a boolean. A label that is a number or text (all that CSV
/// has) is KTO's beside a prompt and its completion, elsewhere a class. A pair has no label: both
/// its responses are used.
pub(super) fn says(map: &Map<String, Value>, key: &str, format: Format) -> Option<bool> {
    let value = present(map, key)?;
    let pair = matches!(format, Format::Spin | Format::Preference);
    let kto = format == Format::Prompt && present(map, "response").is_none();
    match (key, value) {
        ("label" | "kto_tag", _) if pair => None,
        ("label", Value::Number(_) | Value::String(_)) if !kto => None,
        _ => plain_flag(value),
    }
}

impl<'a> Row<'a> {
    fn conversation(
        self,
        keys: &[&'static str],
        options: &ReadOptions,
        left: &mut Left,
    ) -> Result<Vec<Record>> {
        let (key, value) = first(self.map, keys)
            .ok_or_else(|| Error::example(self.place, format!("no {}", spell(keys))))?;
        let turns = messages(self.place, key, value)?;
        let examples = split(self.place, key, turns, options.turns)?;
        left.untrained += examples.untrained;
        left.earlier += examples.earlier;
        let records = examples.pairs.into_iter();
        records
            .map(|(prompt, response)| Ok(self.record(self.with_system(prompt)?, response)))
            .collect()
    }

    fn alpaca(self) -> Result<Vec<Record>> {
        let prompt = self.instruction()?;
        let answer = first(self.map, &["output", "response"]).map_or("output", |(key, _)| key);
        let response = Message::assistant(self.text(answer)?);
        Ok(vec![self.record(self.with_system(prompt)?, response)])
    }

    /// Alpaca's prompt: earlier rounds, then instruction and input.
    fn instruction(self) -> Result<Vec<Message>> {
        let mut prompt = self.history()?;
        let mut asked = match present(self.map, "instruction") {
            Some(value) => values::text(self.place, "instruction", value)?,
            None => self.text("instruction")?.to_owned(),
        };
        let input = match first(self.map, inputs(self.map)) {
            Some((key, value)) => values::text(self.place, key, value)?,
            None => String::new(),
        };
        if !input.trim().is_empty() {
            if !asked.is_empty() {
                asked.push_str("\n\n");
            }
            asked.push_str(&input);
        }
        if asked.trim().is_empty() {
            return Err(Error::example(
                self.place,
                format!(
                    "an empty prompt: `instruction` and `{}` are blank",
                    inputs(self.map)[0]
                ),
            ));
        }
        prompt.push(Message::user(asked));
        Ok(prompt)
    }

    /// LLaMA-Factory's earlier rounds: a list of [instruction, output], or its JSON text.
    fn history(self) -> Result<Vec<Message>> {
        let rounds = match present(self.map, ROUNDS) {
            None => return Ok(Vec::new()),
            Some(Value::String(text)) if text.trim().is_empty() => return Ok(Vec::new()),
            Some(Value::String(text)) => list_in(self.place, ROUNDS, text)?,
            Some(other) => Some(other.clone()),
        };
        let wrong = || {
            let what = format!("`{ROUNDS}` should be a list of [instruction, output]");
            Error::example(self.place, what)
        };
        let Some(Value::Array(rounds)) = rounds else {
            return Err(wrong());
        };
        let mut prompt = Vec::new();
        for round in &rounds {
            let Some([asked, answered]) = round.as_array().map(Vec::as_slice) else {
                return Err(wrong());
            };
            prompt.extend([
                Message::user(values::text(self.place, ROUNDS, asked)?),
                Message::assistant(values::text(self.place, ROUNDS, answered)?),
            ]);
        }
        Ok(prompt)
    }

    /// A plain text without a prompt.
    fn plain(self) -> Result<Vec<Record>> {
        let text = self.text("text")?;
        if text.trim().is_empty() {
            return Err(Error::example(self.place, "`text` is blank"));
        }
        Ok(vec![self.record(Vec::new(), Message::assistant(text))])
    }

    /// A prompt under one key and a response under another.
    fn simple(self, ask: &'static str, answers: &[&'static str]) -> Result<Vec<Record>> {
        let prompt = self.prompt(ask)?.unwrap_or_default();
        let answer = first(self.map, answers).map_or(answers[0], |(key, _)| key);
        let side = self.side(answer, ask, Some(prompt))?;
        if !side.trained {
            return Ok(Vec::new());
        }
        Ok(vec![
            self.record(self.with_system(side.prompt)?, side.response),
        ])
    }

    /// Two responses to one prompt, each a string or a list of messages that may contain the
    /// prompt.
    fn pair(self, real: &'static str, other: &'static str) -> Result<Vec<Record>> {
        let given = asked(self.map, [real, other]);
        let ask = given.map_or(PROMPTS[0], |(key, _)| key);
        let prompt = match given {
            Some(("instruction", Value::String(_) | Value::Number(_))) => Some(self.instruction()?),
            Some((key, value)) if ROUNDS_ASKED.contains(&key) => {
                Some(self.rounds_asked(key, value)?)
            }
            Some((key, _)) => self.prompt(key)?,
            None => None,
        };
        let real_side = self.side(real, ask, prompt.clone())?;
        let other_side = self.side(other, ask, prompt)?;
        let (head, other_head) = (&real_side.prompt, &other_side.prompt);
        if head != other_head {
            let same = head.iter().zip(other_head).take_while(|(a, b)| a == b);
            let what = format!(
                "`{real}` and `{other}` answer different prompts: they part at message {}",
                same.count() + 1
            );
            return Err(Error::example(self.place, what));
        }
        let mut record = self.record(self.with_system(real_side.prompt)?, real_side.response);
        record.rejected = Some(other_side.response);
        if let Some(value) = present(self.map, "truncated") {
            record.rejected_cut = flag(self.place, "truncated", value)?.unwrap_or(false);
        }
        record.rewards = rewards(self.place, self.map)?;
        Ok(match real_side.trained && other_side.trained {
            true => vec![record],
            false => Vec::new(),
        })
    }

    /// A conversation to which a pair's responses reply.
    fn rounds_asked(self, key: &str, value: &Value) -> Result<Vec<Message>> {
        let prompt = unwrap(messages(self.place, key, value)?);
        match prompt.last().map(Message::role) {
            Some("assistant") => {
                let what = format!(
                    "`{key}` ends with the assistant's message: beside a pair of responses it \
                     should end with what they answer"
                );
                Err(Error::example(self.place, what))
            }
            _ => Ok(prompt),
        }
    }

    /// A prompt given as a string or as messages; `None` if the key is absent.
    fn prompt(self, key: &str) -> Result<Option<Vec<Message>>> {
        Ok(match present(self.map, key) {
            None => None,
            Some(value @ (Value::Array(_) | Value::Object(_))) => {
                Some(unwrap(messages(self.place, key, value)?))
            }
            Some(value @ (Value::String(_) | Value::Number(_))) => {
                Some(vec![Message::user(values::text(self.place, key, value)?)])
            }
            Some(other) => {
                let what = format!("`{key}` should be text or messages, is {}", kind(other));
                return Err(Error::example(self.place, what));
            }
        })
    }

    /// One response under `key` with its prompt: the one given under `ask`, joined with the
    /// messages before the response, if any.
    fn side(self, key: &str, ask: &str, prompt: Option<Vec<Message>>) -> Result<Side> {
        let what = match present(self.map, key) {
            Some(Value::String(response)) => match prompt {
                Some(prompt) => {
                    return Ok(Side {
                        prompt,
                        response: Message::assistant(response),
                        trained: true,
                    });
                }
                None => format!("`{key}` is text, so a `prompt` is needed beside it"),
            },
            Some(list @ (Value::Array(_) | Value::Object(_))) => {
                let mut list = messages(self.place, key, list)?;
                match list.pop() {
                    Some(last) if last.message.role() == "assistant" => {
                        return Ok(Side {
                            prompt: self
                                .joined((ask, prompt.unwrap_or_default()), (key, unwrap(list)))?,
                            response: last.message,
                            trained: last.trained,
                        });
                    }
                    _ => format!(
                        "an example without response: `{key}` does not end with an assistant message"
                    ),
                }
            }
            Some(other) => format!("`{key}` should be text or messages, is {}", kind(other)),
            None => format!("an example without response: no `{key}`"),
        };
        Err(Error::example(self.place, what))
    }

    /// Joins a prompt and the messages before the response, each with its key. The messages are the
    /// whole conversation if they contain the prompt; they continue the prompt if they begin with
    /// the assistant's (a tool call) or the prompt has only a system message; anything else is an
    /// error, since one of the two would be lost.
    fn joined(
        self,
        (ask, mut prompt): (&str, Vec<Message>),
        (key, list): (&str, Vec<Message>),
    ) -> Result<Vec<Message>> {
        let Some(begins) = list.first().map(|m| m.role().to_owned()) else {
            return Ok(prompt);
        };
        let systems = list.iter().take_while(|m| is_system(m)).count();
        let blank = prompt.iter().all(|m| m.content().trim().is_empty());
        // a whole conversation may have messages before the prompt's: a system message, or earlier
        // turns if the prompt is only the last one
        if blank || (0..list.len()).any(|from| starts_with(&list[from..], &prompt)) {
            return Ok(list);
        }
        let replies = begins == "assistant" || is_result(&begins);
        if replies || systems == 0 && prompt.iter().all(is_system) {
            prompt.extend(list);
            return Ok(prompt);
        }
        let what = format!(
            "`{key}` neither holds the messages of `{ask}` nor goes on from them: its first \
             is another one of the role `{begins}`; leave one of the two"
        );
        Err(Error::example(self.place, what))
    }

    /// Puts a `system` column before the conversation, unless that has a system message.
    fn with_system(self, mut prompt: Vec<Message>) -> Result<Vec<Message>> {
        if let Some((key, value)) = first(self.map, &SYSTEMS) {
            let text = values::text(self.place, key, value)?;
            let own = prompt.first().is_none_or(|m| m.role() == "system");
            if !own && !text.trim().is_empty() {
                prompt.insert(0, Message::new("system", text));
            }
        }
        Ok(prompt)
    }

    fn text(self, key: &str) -> Result<&'a str> {
        match self.map.get(key) {
            Some(Value::String(text)) => Ok(text),
            other => {
                let found = other.map_or("absent", kind);
                let what = format!("`{key}` should be text, is {found}");
                Err(Error::example(self.place, what))
            }
        }
    }

    fn record(self, prompt: Vec<Message>, response: Message) -> Record {
        Record {
            place: self.place.clone(),
            prompt,
            context: Context::new(),
            response,
            rejected: None,
            rejected_cut: false,
            rewards: None,
        }
    }
}

/// Keys of Alpaca's input: Dolly's name only in Dolly's format.
pub(super) fn inputs(map: &Map<String, Value>) -> &'static [&'static str] {
    let dolly = present(map, "output").is_none() && present(map, "response").is_some();
    match dolly {
        true => &["input", "context"],
        false => &["input"],
    }
}

/// The prompt of a pair: one of [`PROMPTS`], else the conversation beside responses of one message
/// each (LLaMA-Factory's). Responses that are lists contain their prompt.
pub(super) fn asked<'a>(
    map: &'a Map<String, Value>,
    sides: [&str; 2],
) -> Option<(&'static str, &'a Value)> {
    let alone = |key: &str| match present(map, key) {
        Some(Value::Array(list)) => list.len() == 1,
        side => side.is_some(),
    };
    first(map, &PROMPTS)
        .or_else(|| first(map, &ROUNDS_ASKED).filter(|_| sides.into_iter().all(alone)))
}

/// One response of a row.
struct Side {
    prompt: Vec<Message>,
    response: Message,
    /// Whether its message does not exclude it from training.
    trained: bool,
}

fn is_system(message: &Message) -> bool {
    matches!(message.role(), "system" | "developer")
}

/// Whether a conversation begins with these messages, ignoring white space around their text.
fn starts_with(list: &[Message], head: &[Message]) -> bool {
    let same = |(a, b): (&Message, &Message)| {
        a.content().trim() == b.content().trim() && a.without("content") == b.without("content")
    };
    list.len() >= head.len() && list.iter().zip(head).all(same)
}

fn unwrap(turns: Vec<Turn>) -> Vec<Message> {
    turns.into_iter().map(|turn| turn.message).collect()
}

/// Removes `<<48/2=24>>` from a text; an opening mark without a closing one on its line stays.
fn without_calculator(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find("<<") {
        let inside = &rest[open + 2..];
        match inside
            .find(">>")
            .filter(|&close| !inside[..close].contains('\n'))
        {
            Some(close) => {
                out.push_str(&rest[..open]);
                rest = &inside[close + 2..];
            }
            None => {
                out.push_str(&rest[..open + 2]);
                rest = inside;
            }
        }
    }
    out.push_str(rest);
    out
}
