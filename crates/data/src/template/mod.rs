//! Chat templates: the Jinja program that comes with a tokenizer and spells a conversation as the
//! model saw it. Rendered as jinja2 renders it where transformers sets it up (`python`), so that
//! both write the same text.

mod python;
mod roles;
mod turns;

use std::collections::BTreeMap;

use minijinja::value::Value;

use crate::contain::contain;
use crate::{Context, Error, Message, Result};
pub(crate) use python::float as python_float;
use python::{Budget, Day, Program};
pub(crate) use roles::is_result;
pub(crate) use turns::Turns;

/// The template of models that take text as it is: the messages' contents one after another with nothing between,
/// the beginning-of-text token before them where the tokenizer wants one, the end-of-text token after each answer.
pub const PLAIN: &str = "{% if starts_with_bos %}{{ bos_token }}{% endif %}{% for message in messages %}\
    {{ message['content'] }}{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}";

/// What stands for a default where the model has a template for conversations with tools and no
/// other: transformers answers a conversation without tools with an error then.
const NO_DEFAULT: &str = "{{ raise_exception('the model has a chat template for conversations \
    with tools (`tool_use`) and no `default`; give a row `tools`, or a template as \
    model.chat_template') }}";

/// The day that `strftime_now` tells unless one is given: prompts must not change from one day to the next, or a
/// run that is resumed tomorrow would not be the same run. (Llama 3's own templates fall back to this day.)
const FIXED_DAY: &str = "2024-07-26";

/// A chat template, ready to render.
#[derive(Debug)]
pub struct ChatTemplate {
    program: Program,
    source: String,
    variables: BTreeMap<String, Value>,
    /// Names of the variables that a user gave.
    given: Vec<String>,
    /// The model's other template, for conversations with tools.
    tool_use: Option<Box<ChatTemplate>>,
    /// The names besides `tool` that it has for a tool's role.
    results: Vec<&'static str>,
}

impl ChatTemplate {
    /// Reads a template's source; `"plain"` stands for [`PLAIN`].
    ///
    /// # Errors
    /// When it is not a Jinja template.
    pub fn new(source: &str) -> Result<Self> {
        let source = if source.trim() == "plain" {
            PLAIN
        } else {
            source
        };
        let program = contain(|| Program::new(source, Budget::default()))
            .and_then(|program| program)
            .map_err(Error::Template)?;
        let mut template = Self {
            program,
            source: source.to_owned(),
            variables: BTreeMap::new(),
            given: Vec::new(),
            tool_use: None,
            results: roles::known(source),
        };
        template.set_day(FIXED_DAY)?;
        Ok(template)
    }

    /// The source, as it was given: what an export writes beside the model.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Sets the day (`2024-07-26`) that templates with today's date in them are told.
    ///
    /// # Errors
    /// When it is not a day.
    pub fn set_day(&mut self, day: &str) -> Result<()> {
        let day = Day::parse(day).ok_or_else(|| {
            Error::Template(format!("`{day}` is not a day; write it as 2024-07-26"))
        })?;
        self.program.set_day(day);
        if let Some(other) = &mut self.tool_use {
            other.program.set_day(day);
        }
        Ok(())
    }

    /// Sets a variable that a user gives, such as `enable_thinking`: one that the template does not
    /// name is counted with every example.
    pub fn give(&mut self, name: &str, value: &serde_json::Value) {
        self.set_variable(name, value);
        self.given.push(name.to_owned());
    }

    /// The variables that a user gave.
    pub(crate) fn given(&self) -> impl Iterator<Item = &str> {
        self.given.iter().map(String::as_str)
    }

    /// Whether a source of it holds this name as a word: else nothing of that name can be read.
    pub(crate) fn names(&self, name: &str) -> bool {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        let here = self.source.match_indices(name).any(|(at, _)| {
            !self.source[..at].ends_with(part) && !self.source[at + name.len()..].starts_with(part)
        });
        here || self.tool_use.as_ref().is_some_and(|t| t.names(name))
    }

    /// Whether a source of it holds this text.
    pub(crate) fn holds(&self, text: &str) -> bool {
        self.source.contains(text) || self.tool_use.as_ref().is_some_and(|t| t.holds(text))
    }

    /// Sets a variable that the template asks for beyond the usual ones, such as the spelling of a
    /// special token.
    pub fn set_variable(&mut self, name: &str, value: &serde_json::Value) {
        self.variables
            .insert(name.to_owned(), Value::from_serialize(value));
        if let Some(other) = &mut self.tool_use {
            other.set_variable(name, value);
        }
    }

    /// The only template of a model, `tool_use`: conversations without tools are errors.
    pub(crate) fn of_tools(tool_use: ChatTemplate) -> Result<Self> {
        let mut template = Self::new(NO_DEFAULT)?;
        template.set_tool_use(tool_use);
        Ok(template)
    }

    /// Whether the model has a template for conversations without tools.
    pub(crate) fn has_default(&self) -> bool {
        self.source != NO_DEFAULT
    }

    /// Gives it the model's other template, `tool_use`, which renders conversations with tools.
    pub(crate) fn set_tool_use(&mut self, other: ChatTemplate) {
        self.tool_use = Some(Box::new(other));
    }

    /// The model's other template, for conversations with tools.
    pub(crate) fn tool_use(&self) -> Option<&ChatTemplate> {
        self.tool_use.as_deref()
    }

    /// The conversation as the model reads it; with `generation_prompt`, up to where the answer begins.
    ///
    /// # Errors
    /// When the template refuses the conversation (`raise_exception`) or fails.
    pub fn render(&self, messages: &[Message], generation_prompt: bool) -> Result<String> {
        self.render_in(messages, &Context::new(), generation_prompt)
    }

    /// The same with what the row gives besides the messages; its `chat_template_kwargs` go before
    /// the variables that were set.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_in(
        &self,
        messages: &[Message],
        context: &Context,
        generation_prompt: bool,
    ) -> Result<String> {
        if let (true, Some(other)) = (has_tools(context), &self.tool_use) {
            return other.render_in(messages, context, generation_prompt);
        }
        let mut variables = self.variables.clone();
        for (name, value) in context {
            match value {
                serde_json::Value::Object(given) if name == "chat_template_kwargs" => {
                    let given = given
                        .iter()
                        .map(|(k, v)| (k.clone(), Value::from_serialize(v)));
                    variables.extend(given);
                }
                value => _ = variables.insert(name.clone(), Value::from_serialize(value)),
            }
        }
        let messages: Vec<Message> = messages
            .iter()
            .map(Message::with_reasoning_named)
            .map(|message| self.with_role_known(message))
            .collect();
        variables.insert("messages".into(), Value::from_serialize(&messages));
        variables.insert("add_generation_prompt".into(), generation_prompt.into());
        for name in ["tools", "documents"] {
            variables
                .entry(name.into())
                .or_insert_with(|| Value::from(()));
        }
        contain(|| self.program.render(Value::from(variables)))
            .and_then(|text| text)
            .map_err(Error::Template)
    }

    /// A tool's message under the name that its data have for the role where the template knows
    /// that, else as `tool`'s: a template leaves out what it does not know.
    fn with_role_known(&self, message: Message) -> Message {
        match is_result(message.role()) && !self.results.contains(&message.role()) {
            true => message.with("role", "tool"),
            false => message,
        }
    }
}

/// Whether a row gives tools, as transformers asks it: an empty list is one.
pub(crate) fn has_tools(context: &Context) -> bool {
    context.get("tools").is_some_and(|tools| !tools.is_null())
}
