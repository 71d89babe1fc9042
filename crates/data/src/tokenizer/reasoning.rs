//! Reasoning that a generation prompt begins: where it ends in an open `<think>` (or `[THINK]`, or
//! whatever the template writes there), an answer goes on inside it. So must the data's answers, or
//! real and generated ones would begin at different tokens: one that opens its reasoning itself
//! must not open it twice, one without reasoning must close it.
//!
//! What the prompt opens is found from the template: it is what the prompt for an answer ends in
//! and a finished turn does not have there.

use serde_json::Value;

use super::Tokenizer;
use crate::{Context, Message};

/// What was done to an answer because the prompt ends in reasoning, mostly open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Opened {
    /// Nothing: the prompt opens none, or the answer goes on inside it.
    #[default]
    AsItIs,
    /// The answer's own opening was left out: the prompt has it.
    Once,
    /// Reasoning in a field of its own, which the template leaves out, was put inside.
    Inside,
    /// The answer has no reasoning: an empty one was closed before it.
    Closed,
    /// The answer has no reasoning, and what closes it is not known: it is trained inside.
    LeftOpen,
    /// The prompt has closed reasoning already (`enable_thinking = false`): the answer's own was
    /// left out.
    Dropped,
}

/// What a generation prompt ends in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    /// With the white space after it: `"<think>\n"`.
    text: String,
    /// What ends the reasoning (`</think>`); `None` where neither template nor vocabulary tells.
    close: Option<String>,
    /// What a finished turn without reasoning has in its place, before its content.
    other: String,
}

impl Opening {
    /// The mark without white space.
    fn mark(&self) -> &str {
        first_mark(&self.text).unwrap_or(self.text.trim())
    }

    /// Whether a text goes on to close what is open.
    pub(super) fn is_closed_in(&self, text: &str) -> bool {
        self.close
            .as_deref()
            .is_some_and(|close| text.contains(close))
    }

    /// An answer without what the prompt has already; `None` where it does not begin with it.
    pub(super) fn once<'a>(&self, answer: &'a str) -> Option<&'a str> {
        let rest = answer.trim_start().strip_prefix(self.mark())?;
        let (_, after) = self.text.split_once(self.mark())?;
        Some(past_same(rest, after))
    }

    /// How an answer's reasoning and content go on after the prompt.
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

/// Reasoning that a prompt has closed at its end, empty: `"<think>\n\n</think>\n\n"`, or `</think>`
/// alone. An answer goes on behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PastReasoning {
    /// What closes it.
    close: String,
    /// The white space after that.
    after: String,
}

impl PastReasoning {
    /// What a prompt ends in, and where that begins, in bytes.
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

    /// An answer's text behind its own reasoning; `None` where it has none. Reasoning without its
    /// opening is taken for one where `apart` says so. One that was cut (`ended` is false) within
    /// its reasoning has nothing behind it.
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
    /// What the prompt for an answer opens and leaves open. `head` is what the template writes
    /// before the content of the finished turn, `after` what it writes behind it.
    pub(super) fn opening(&self, prompt: &str, head: &str, after: &str) -> Option<Opening> {
        let parted = border(prompt, head);
        // a finished turn may begin with the same mark, and close it or not
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
            // a role's mark is closed behind the content, and the template need not know it
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

    /// Whether the template's source holds this text.
    fn writes(&self, text: &str) -> bool {
        self.template.as_ref().is_some_and(|t| t.holds(text))
    }

    /// What closes a mark: of the usual spellings the one that the template or the vocabulary has;
    /// the first for any
    /// `<think>`, whoever has it.
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

    /// What closes reasoning without any, right after the prompt: as the template itself writes it,
    /// where it does (in a finished turn, or for `enable_thinking = false`), else an empty block.
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

    /// An answer as it goes on after a prompt that ends in open reasoning, and what was done to it.
    /// One that was cut (`ended` is false) may have ended inside; an empty one stays empty, for
    /// whoever counts those.
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

/// Where two texts part, not inside a mark.
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

/// Where the mark begins that a text ends in, white space aside.
fn last_mark(text: &str) -> Option<usize> {
    let end = text.trim_end();
    let start = end.rfind(OPENING)?;
    let mark = first_mark(&end[start..])?;
    (start + mark.len() == end.len()).then_some(start)
}

/// How marks of this kind are closed, the likeliest first.
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

/// The marks that a mark closes: none where it closes nothing.
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

/// A text without as much of `start` as it begins with.
fn past_same<'a>(text: &'a str, start: &str) -> &'a str {
    let same = start.chars().zip(text.chars()).take_while(|(a, b)| a == b);
    let bytes: usize = same.map(|(c, _)| c.len_utf8()).sum();
    &text[bytes..]
}

/// Whether a special token's spelling is reasoning's: a text that holds it means the token, as
/// transformers reads it.
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
        // parted after "<", which belongs to both marks
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
