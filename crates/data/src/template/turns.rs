//! The fixed texts that a chat template writes around each message, found by rendering probe texts,
//! so that a program without Jinja can write the same: Ollama, whose templates are Go's.
//!
//! It works only for templates that concatenate messages, each between fixed texts; whether one
//! does is tested on conversations.

use super::ChatTemplate;
use crate::Message;

/// The fixed texts before and after a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Frame {
    before: String,
    after: String,
}

/// Where a template puts a system message.
#[derive(Clone, Debug, PartialEq, Eq)]
enum System {
    /// Nowhere: it refuses or ignores system messages.
    None,
    /// In place, with the text before the first user message that then follows, if that differs.
    InPlace(Frame, Option<String>),
    /// Before the last user message, in place of the text before it.
    BeforeLast(Frame),
}

/// A template as fixed texts around messages.
#[derive(Clone, Debug)]
pub(crate) struct FramedTemplate {
    /// Beginning-of-text token at the start of every conversation.
    bos: String,
    /// Text at the start of a conversation without a system message (a default one).
    head: String,
    /// Text before the first user message if there is no system message and it differs.
    first: Option<String>,
    system: System,
    user: Frame,
    assistant: Frame,
    generation: String,
    /// Whether the template trims messages, which Ollama cannot do.
    pub(crate) trims: bool,
}

const SYSTEM: &str = "randoriS4c1";
const USER: [&str; 2] = ["randoriU8e2", "randoriV6d3"];
const ASSISTANT: &str = "randoriA5b7";

/// Contents tried in every role: texts that templates are known to trim, split or quote.
const CONTENTS: [&str; 7] = [
    "Hello",
    "What is 2 + 2?",
    "Two lines\nand\n\nmore.",
    "She said: \"{{ it }} is <b>5 & 6</b>\", 'ok'\\n",
    "Où est 練習 😀?",
    "<think>\nhm\n</think>\n\nWell, 4.",
    "{\"name\": \"fall\", \"arguments\": {}}",
];

impl FramedTemplate {
    /// Finds the texts and tests them on conversations.
    ///
    /// # Errors
    /// Why the template is not of this form.
    pub(crate) fn of(template: &ChatTemplate, bos: &str) -> Result<Self, String> {
        let mut turns = derive(template, bos)?;
        for (conversation, wanted) in trials(template, "") {
            let ours = turns.render(&conversation);
            if ours != wanted {
                return Err(format!(
                    "it follows a rule that fixed texts around messages cannot: for {} it writes {wanted:?}, and they {ours:?}",
                    outline(&conversation)
                ));
            }
        }
        let mut padded = trials(template, " ");
        turns.trims = padded.any(|(conversation, wanted)| turns.render(&conversation) != wanted);
        Ok(turns)
    }

    /// Renders a conversation up to where the response begins.
    fn render(&self, messages: &[Message]) -> String {
        let system = messages.iter().find(|m| m.role() == "system");
        let has_system = system.is_some() && self.system != System::None;
        let mut out = self.bos.clone();
        if !has_system {
            out.push_str(&self.head);
        }
        let users = messages.iter().filter(|m| m.role() == "user").count();
        let mut seen = 0;
        for message in messages {
            let frame = match message.role() {
                "user" => {
                    seen += 1;
                    let text = system.map_or("", |m| m.content());
                    out.push_str(&self.before_user(has_system, seen == 1, seen == users, text));
                    Frame {
                        before: String::new(),
                        after: self.user.after.clone(),
                    }
                }
                "system" => match &self.system {
                    System::InPlace(frame, _) => frame.clone(),
                    _ => continue,
                },
                _ => self.assistant.clone(),
            };
            out.push_str(&frame.before);
            out.push_str(message.content());
            out.push_str(&frame.after);
        }
        out + &self.generation
    }

    fn before_user(&self, has_system: bool, first: bool, last: bool, text: &str) -> String {
        let usual = &self.user.before;
        match (&self.system, has_system) {
            (System::InPlace(_, Some(special)), true) if first => special.clone(),
            (System::BeforeLast(frame), true) if last => {
                format!("{}{text}{}", frame.before, frame.after)
            }
            (_, false) if first => self.first.clone().unwrap_or_else(|| usual.clone()),
            _ => usual.clone(),
        }
    }

    /// Whether system messages are rendered.
    pub(crate) fn takes_system(&self) -> bool {
        self.system != System::None
    }

    /// Whether the template begins with the beginning-of-text token.
    pub(crate) fn writes_bos(&self) -> bool {
        !self.bos.is_empty()
    }

    /// Writes a Go template for Ollama, where `.Messages` holds the conversation, with neighbours
    /// of one role joined, and `.System` the system message's text. `runner_adds_bos`: the
    /// beginning-of-text token is left to the runner.
    pub(crate) fn go(&self, runner_adds_bos: bool) -> String {
        let mut out = String::new();
        if !runner_adds_bos {
            out.push_str(&literal(&self.bos));
        }
        let head = literal(&self.head);
        match &self.system {
            System::None => out.push_str(&head),
            _ if head.is_empty() => {}
            _ => out.push_str(&format!("{{{{ if not .System }}}}{head}{{{{ end }}}}")),
        }
        out.push_str("{{ range $i, $m := .Messages }}{{ if eq .Role \"user\" }}");
        out.push_str(&self.go_before_user());
        out.push_str(&format!("{{{{ .Content }}}}{}", literal(&self.user.after)));
        let mut other = |role: &str, frame: &Frame| {
            out.push_str(&format!(
                "{{{{ else if eq .Role \"{role}\" }}}}{}{{{{ .Content }}}}{}",
                literal(&frame.before),
                literal(&frame.after)
            ));
        };
        other("assistant", &self.assistant);
        if let System::InPlace(frame, _) = &self.system {
            other("system", frame);
        }
        out.push_str("{{ end }}{{ end }}");
        out + &literal(&self.generation)
    }

    fn go_before_user(&self) -> String {
        let usual = literal(&self.user.before);
        let mut cases = Vec::new();
        match &self.system {
            System::InPlace(_, Some(special)) => {
                cases.push(("and $.System (eq $i 1)", literal(special)));
            }
            System::BeforeLast(frame) => cases.push((
                "and $.System (eq (len (slice $.Messages $i)) 1)",
                format!(
                    "{}{{{{ $.System }}}}{}",
                    literal(&frame.before),
                    literal(&frame.after)
                ),
            )),
            _ => {}
        }
        if let Some(first) = &self.first {
            cases.push(("eq $i 0", literal(first)));
        }
        let mut out = String::new();
        for (n, (condition, text)) in cases.iter().enumerate() {
            let word = if n == 0 { "if" } else { "else if" };
            out.push_str(&format!("{{{{ {word} {condition} }}}}{text}"));
        }
        if cases.is_empty() {
            return usual;
        }
        out + &format!("{{{{ else }}}}{usual}{{{{ end }}}}")
    }
}

/// Quotes a text for a Go template: braces would begin an action, and three quotes end Ollama's
/// TEMPLATE.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '{' => out.push_str("{{ \"{\" }}"),
            '"' => out.push_str("{{ \"\\\"\" }}"),
            c => out.push(c),
        }
    }
    out
}

fn derive(template: &ChatTemplate, bos: &str) -> Result<FramedTemplate, String> {
    let [user, later] = USER.map(Message::user);
    let (assistant, system) = (
        Message::assistant(ASSISTANT),
        Message::new("system", SYSTEM),
    );
    let render = |messages: &[&Message], generate: bool| {
        let messages: Vec<Message> = messages.iter().map(|m| (*m).clone()).collect();
        template
            .render(&messages, generate)
            .map_err(|e| e.to_string())
    };
    let one = render(&[&user], true)?;
    let bos = if bos.is_empty() || !one.starts_with(bos) {
        ""
    } else {
        bos
    };
    let pieces = |text: &str, marks: &[&str]| -> Result<Vec<String>, String> {
        let odd = || format!("it writes some message twice, out of order or not at all: {text:?}");
        between(text.strip_prefix(bos).ok_or_else(odd)?, marks).ok_or_else(odd)
    };
    let [first, to_answer] = two(pieces(&one, &USER[..1])?)?;
    let three = render(&[&user, &assistant, &later], true)?;
    let three = pieces(&three, &[USER[0], ASSISTANT, USER[1]])?;
    let [_, to_assistant, to_user, _] = <[String; 4]>::try_from(three).map_err(|_| "odd")?;
    // the end of a turn is visible without a generation prompt
    let user_end = render(&[&user], false).unwrap_or_default();
    let user_end = tail(&user_end, USER[0]);
    let user_after = match user_end {
        Some(end) if to_assistant.starts_with(end) && to_answer.starts_with(end) => end.to_owned(),
        _ => common(&to_assistant, &to_answer),
    };
    let whole = render(&[&user, &assistant], false).unwrap_or_default();
    let turn_end = tail(&whole, ASSISTANT).filter(|end| to_user.starts_with(end));
    let assistant_after = turn_end.unwrap_or(&to_user).to_owned();
    let user_before = to_user[assistant_after.len()..].to_owned();
    let (head, first) = match first.strip_suffix(user_before.as_str()) {
        Some(head) => (head.to_owned(), None),
        None => (String::new(), Some(first)),
    };
    let mut turns = FramedTemplate {
        bos: bos.to_owned(),
        head,
        first,
        system: System::None,
        assistant: Frame {
            before: to_assistant[user_after.len()..].to_owned(),
            after: assistant_after,
        },
        generation: to_answer[user_after.len()..].to_owned(),
        user: Frame {
            before: user_before,
            after: user_after,
        },
        trims: false,
    };
    if let Ok(text) = render(&[&system, &user], true)
        && text.contains(SYSTEM)
    {
        let parts = pieces(&text, &[SYSTEM, USER[0]])?;
        let longer = render(&[&system, &user, &assistant, &later], true)?;
        turns.system = turns.place(&parts, &longer)?;
    }
    Ok(turns)
}

impl FramedTemplate {
    /// Finds where the system message goes, from a conversation of one turn, split, and one of two.
    fn place(&self, parts: &[String], longer: &str) -> Result<System, String> {
        let (before, after) = (parts[0].clone(), parts[1].clone());
        if longer.find(SYSTEM) > longer.find(ASSISTANT) {
            return if self.head.is_empty() && self.first.is_none() {
                Ok(System::BeforeLast(Frame { before, after }))
            } else {
                Err("it puts the system message last and begins the first message otherwise".into())
            };
        }
        Ok(match after.strip_suffix(self.user.before.as_str()) {
            Some(after) => System::InPlace(
                Frame {
                    before,
                    after: after.to_owned(),
                },
                None,
            ),
            None => System::InPlace(Frame { before, after }, Some(String::new())),
        })
    }
}

/// Test conversations with the template's rendering of those it accepts: with and without a system
/// message, of one to four turns, every content in every role; with `padding` around the contents.
fn trials<'a>(
    template: &'a ChatTemplate,
    padding: &'a str,
) -> impl Iterator<Item = (Vec<Message>, String)> + 'a {
    let shapes = (0..CONTENTS.len()).flat_map(|k| {
        [false, true]
            .into_iter()
            .flat_map(move |system| [1, 2, 4].map(|turns| (k, system, turns)))
    });
    shapes.filter_map(move |(k, system, turns)| {
        let mut contents =
            (k..).map(|i| format!("{padding}{}{padding}", CONTENTS[i % CONTENTS.len()]));
        let mut next = |role: &str| Message::new(role, contents.next().unwrap_or_default());
        let mut messages = Vec::new();
        if system {
            messages.push(next("system"));
        }
        for turn in 0..turns {
            if turn > 0 {
                messages.push(next("assistant"));
            }
            messages.push(next("user"));
        }
        let wanted = template.render(&messages, true).ok()?;
        Some((messages, wanted))
    })
}

fn outline(messages: &[Message]) -> String {
    let roles: Vec<&str> = messages.iter().map(|m| m.role()).collect();
    roles.join(", ")
}

/// Splits a text at the marks; `None` unless each occurs once and in order.
fn between(text: &str, marks: &[&str]) -> Option<Vec<String>> {
    let mut rest = text;
    let mut out = Vec::new();
    for mark in marks {
        if text.matches(mark).count() != 1 {
            return None;
        }
        let (before, after) = rest.split_once(mark)?;
        out.push(before.to_owned());
        rest = after;
    }
    out.push(rest.to_owned());
    Some(out)
}

fn two(parts: Vec<String>) -> Result<[String; 2], String> {
    <[String; 2]>::try_from(parts).map_err(|_| "it writes a message twice".into())
}

fn tail<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.rsplit_once(mark).map(|(_, end)| end)
}

fn common(a: &str, b: &str) -> String {
    let pairs = a.chars().zip(b.chars());
    pairs.take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
}
