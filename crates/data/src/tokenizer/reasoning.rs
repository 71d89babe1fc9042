//! Handling of generation prompts that begin reasoning: where the prompt ends with an open
//! `<think>` (or `[THINK]`, or another mark of the template), a response continues inside it. The
//! data's responses must do so too, or real and generated ones would begin at different tokens: one
//! that opens reasoning itself must not open it twice, one without reasoning must close it.
//!
//! The opening mark is found from the template: the generation prompt ends with it, and a finished
//! turn does not have it there.

use serde_json::Value;

use super::Tokenizer;
use crate::{Context, Message, Opened};

/// The opening mark at the end of a generation prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    /// The mark with the white space after it: `"<think>\n"`.
    text: String,
    /// The closing mark (`</think>`); `None` if neither template nor vocabulary shows it.
    close: Option<String>,
    /// Text that a finished turn without reasoning has instead, before its content.
    other: String,
}

impl Opening {
    /// The mark without white space.
    fn mark(&self) -> &str {
        first_mark(&self.text).unwrap_or(self.text.trim())
    }

    /// Whether a text closes the open reasoning.
    pub(super) fn is_closed_in(&self, text: &str) -> bool {
        self.close
            .as_deref()
            .is_some_and(|close| text.contains(close))
    }

    /// Removes the prompt's opening mark from a response; `None` if it does not begin with it.
    pub(super) fn once<'a>(&self, answer: &'a str) -> Option<&'a str> {
        let rest = answer.trim_start().strip_prefix(self.mark())?;
        let (_, after) = self.text.split_once(self.mark())?;
        Some(past_same(rest, after))
    }

    /// Text of a response's reasoning and content as the continuation of the prompt.
    pub(super) fn inside(&self, reasoning: &str, content: &str) -> String {
        let reasoning = self.once(reasoning).unwrap_or(reasoning);
        match &self.close {
            Some(close) if self.text.ends_with('\n') => {
                format!("{}\n{close}\n\n{content}", reasoning.trim_matches('\n'))
            }
            Some(close) => format!("{reasoning}{close}{content}"),
            None => format!("{reasoning}{content}"),
        }
    }
}

/// Empty reasoning that a prompt has closed at its end: `"<think>\n\n</think>\n\n"`, or `</think>`
/// alone. A response follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PastReasoning {
    /// The closing mark.
    close: String,
    /// The white space after it.
    after: String,
}

impl PastReasoning {
    /// Finds closed reasoning at the end of a prompt, and its offset in bytes.
    pub(super) fn of(prompt: &str) -> Option<(Self, usize)> {
        let start = last_mark(prompt)?;
        let close = first_mark(&prompt[start..])?;
        let openings = openings(close);
        let begun = openings.iter().filter_map(|open| {
            let at = prompt[..start].rfind(open.as_str())?;
            (!prompt[at..start].contains(close)).then_some(at)
        });
        let begun = begun.max().unwrap_or(start);
        let past = Self {
            close: close.to_owned(),
            after: prompt[start + close.len()..].to_owned(),
        };
        (!openings.is_empty() && is_reasoning(&prompt[begun..])).then_some((past, begun))
    }

    /// The part of a response after its own reasoning; `None` if it has none. With `apart`,
    /// reasoning without an opening mark counts. A response truncated (`ended` is false) within its
    /// reasoning has no such part.
    pub(super) fn rest<'a>(
        &self,
        answer: &'a str,
        ended: bool,
        apart: impl Fn() -> bool,
    ) -> Option<&'a str> {
        let begun = answer.trim_start();
        let opens = openings(&self.close)
            .iter()
            .any(|open| begun.starts_with(open.as_str()));
        match begun.split_once(self.close.as_str()) {
            Some((_, rest)) if opens || apart() => Some(past_same(rest, &self.after)),
            None if opens && !ended => Some(""),
            _ => None,
        }
    }
}

impl Tokenizer {
    /// Finds the mark that a generation prompt leaves open. `head` is the template's text before
    /// the content of the finished turn, `after` that behind it.
    pub(super) fn opening(&self, prompt: &str, head: &str, after: &str) -> Option<Opening> {
        let parted = border(prompt, head);
        // a finished turn may begin with the same mark, closed or not
        let shared = prompt[parted..].trim().is_empty();
        let start = match shared {
            true => last_mark(prompt)?,
            false => parted,
        };
        let (text, other) = (&prompt[start..], &head[start..]);
        let mark = first_mark(text).filter(|mark| text.trim_start().starts_with(mark))?;
        if !openings(mark).is_empty() {
            return None; // closed, not opened
        }
        let close = self.closing(mark);
        match &close {
            // a role's mark is closed behind the content, and may be unknown to the template
            Some(close) if shared && (after.contains(close) || !self.writes(close)) => return None,
            Some(close) if text.contains(close) => return None,
            None if shared || !is_reasoning(text) => return None,
            _ => {}
        }
        Some(Opening {
            text: text.to_owned(),
            close,
            other: other.to_owned(),
        })
    }

    /// Whether the template's source contains this text.
    fn writes(&self, text: &str) -> bool {
        self.template.as_ref().is_some_and(|t| t.holds(text))
    }

    /// The closing mark for `mark`: of the usual spellings the one in the template or vocabulary;
    /// if neither has one, the first spelling for marks like `<think>`.
    fn closing(&self, mark: &str) -> Option<String> {
        let spellings = closings(mark);
        let known = |close: &&String| self.writes(close) || self.core.token_to_id(close).is_some();
        let plain = is_reasoning(mark) && mark.starts_with('<') && !mark.starts_with("<|");
        spellings
            .iter()
            .find(known)
            .or(spellings.first().filter(|_| plain))
            .cloned()
    }

    /// Text that closes reasoning without content, right after the prompt: as the template writes
    /// it (in a finished turn, or for `enable_thinking = false`), else an empty block.
    pub(super) fn closed(
        &self,
        opening: &Opening,
        messages: &[Message],
        context: &Context,
        prompt: &str,
    ) -> Option<String> {
        let close = opening.close.as_deref()?;
        let other = opening.once(&opening.other).unwrap_or(&opening.other);
        if other.contains(close) {
            return Some(other.to_owned());
        }
        let mut without = context.clone();
        let off = without
            .entry("chat_template_kwargs")
            .or_insert_with(|| Value::Object(Context::new()));
        for name in ["enable_thinking", "thinking"] {
            off[name] = Value::Bool(false);
        }
        let written = self.template.as_ref()?.render_in(messages, &without, true);
        let written = written.ok()?.strip_prefix(prompt).map(str::to_owned);
        let own = written.filter(|text| text.contains(close));
        let empty = || opening.inside("", other.trim_start());
        Some(own.unwrap_or_else(empty))
    }

    /// A response as the continuation of a prompt that ends with open reasoning, and the change
    /// made. One that was truncated (`ended` is false) may have ended inside; an empty one stays
    /// empty, so that it is counted as such.
    pub(super) fn continued(
        &self,
        opening: &Opening,
        answer: &str,
        ended: bool,
        closed: impl FnOnce() -> Option<String>,
    ) -> (String, Opened) {
        if let Some(rest) = opening.once(answer) {
            return (rest.to_owned(), Opened::Once);
        }
        if !ended || opening.is_closed_in(answer) || answer.trim().is_empty() {
            return (answer.to_owned(), Opened::AsItIs);
        }
        match closed() {
            Some(closed) => (format!("{closed}{answer}"), Opened::Closed),
            None => (answer.to_owned(), Opened::LeftOpen),
        }
    }
}

const OPENING: [char; 3] = ['<', '[', '◁'];
const CLOSING: [char; 3] = ['>', ']', '▷'];

/// Offset at which two texts differ, moved out of a mark.
pub(super) fn border(a: &str, b: &str) -> usize {
    let same = a.char_indices().zip(b.chars()).find(|((_, x), y)| x != y);
    let same = same.map_or(a.len().min(b.len()), |((i, _), _)| i);
    let inside = |open: &usize| !a[*open..same].contains([' ', '\n', '>', ']', '▷']);
    a[..same].rfind(OPENING).filter(inside).unwrap_or(same)
}

/// The first mark of a text: `<think>`, `[THINK]`, `<|START_THINKING|>`.
fn first_mark(text: &str) -> Option<&str> {
    let start = text.find(OPENING)?;
    let end = text[start..].find(CLOSING)? + start;
    let end = end + text[end..].chars().next()?.len_utf8();
    Some(&text[start..end]).filter(|mark| !mark.contains(char::is_whitespace))
}

/// Offset of the mark with which a text ends, ignoring white space.
fn last_mark(text: &str) -> Option<usize> {
    let end = text.trim_end();
    let start = end.rfind(OPENING)?;
    let mark = first_mark(&end[start..])?;
    (start + mark.len() == end.len()).then_some(start)
}

/// Possible closing marks, the likeliest first.
fn closings(mark: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (begin, end) in [
        ("START", "END"),
        ("start", "end"),
        ("BEGIN", "END"),
        ("begin", "end"),
    ] {
        if mark.contains(begin) {
            out.push(mark.replacen(begin, end, 1));
        }
    }
    let first = mark.chars().next().map_or(0, char::len_utf8);
    out.push(format!("{}/{}", &mark[..first], &mark[first..]));
    if let Some(inner) = mark.strip_prefix("<|") {
        out.push(format!("<|/{inner}"));
        // Gemma 4: `<|channel>` and `<channel|>`
        out.extend(inner.strip_suffix('>').map(|name| format!("<{name}|>")));
    }
    out
}

/// Opening marks that a mark may close; empty if it closes none.
fn openings(close: &str) -> Vec<String> {
    let swapped = [
        ("/", ""),
        ("END", "START"),
        ("end", "start"),
        ("END", "BEGIN"),
        ("end", "begin"),
    ];
    let swapped = swapped.map(|(end, begin)| close.replacen(end, begin, 1));
    let turned = close
        .strip_prefix('<')
        .and_then(|name| name.strip_suffix("|>"))
        .filter(|name| !name.starts_with('|'))
        .map(|name| format!("<|{name}>"));
    let candidates = swapped.into_iter().chain(turned);
    candidates
        .filter(|open| open != close && closings(open).iter().any(|known| known == close))
        .collect()
}

/// Removes the common prefix with `start` from a text.
fn past_same<'a>(text: &'a str, start: &str) -> &'a str {
    let same = start.chars().zip(text.chars()).take_while(|(a, b)| a == b);
    let bytes: usize = same.map(|(c, _)| c.len_utf8()).sum();
    &text[bytes..]
}

/// Whether a special token is a reasoning mark: a text that spells it means the token, as in
/// transformers.
pub(super) fn is_reasoning(spelling: &str) -> bool {
    let name = spelling.to_lowercase();
    ["think", "thought", "reason"]
        .iter()
        .any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_whole() {
        assert_eq!(first_mark("<think>\n"), Some("<think>"));
        assert_eq!(first_mark(" and [THINK]"), Some("[THINK]"));
        assert_eq!(first_mark("a < b, b > c"), None);
        assert_eq!(last_mark("<|bot|><think>\n"), Some(7));
        assert_eq!(last_mark("<|bot|>: "), None);
        // split after "<", which both marks share
        assert_eq!(border("<a><think>", "<a></think>"), 3);
        assert_eq!(border("<a>x", "<a>y"), 3);
        assert_eq!(border("<a>", "<a>"), 3);
    }

    #[test]
    fn closings_in_the_spellings_of_known_templates() {
        for (mark, close) in [
            ("<think>", "</think>"),
            ("[THINK]", "[/THINK]"),
            ("◁think▷", "◁/think▷"),
            ("<seed:think>", "</seed:think>"),
            ("<|START_THINKING|>", "<|END_THINKING|>"),
            ("<|begin_of_thought|>", "<|end_of_thought|>"),
            ("<|channel>", "<channel|>"),
        ] {
            assert!(closings(mark).contains(&close.to_owned()), "{mark}");
            assert!(openings(close).contains(&mark.to_owned()), "{close}");
            assert!(openings(mark).is_empty(), "{mark}");
        }
    }
}
