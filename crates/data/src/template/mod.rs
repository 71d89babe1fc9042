//! Chat templates: the Jinja program in a tokenizer's files that renders a conversation as the
//! model's prompt. Rendered as by jinja2 in transformers' setup (`python`), so that the text is the
//! same.

mod python;
mod roles;
mod task;
mod turns;

use std::collections::BTreeMap;

use minijinja::value::Value;

use crate::contain::contain;
use crate::error::shortened;
use crate::{Context, Error, Message, Result};
pub(crate) use python::float as python_float;
use python::{Budget, Day, Program};
pub(crate) use roles::is_result;
pub use task::TaskTemplate;
pub(crate) use turns::FramedTemplate;

/// A template for models without one: the messages' contents concatenated, after a
/// beginning-of-text token if the tokenizer uses one, with the end-of-text token after each
/// response.
pub const PLAIN: &str = "{% if starts_with_bos %}{{ bos_token }}{% endif %}{% for message in messages %}\
    {{ message['content'] }}{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}";

/// What stands for a default where the model has a template for conversations with tools and no
/// other: transformers answers a conversation without tools with an error then.
const NO_DEFAULT: &str = "{{ raise_exception('the model has a chat template for conversations \
    with tools (`tool_use`) and no `default`; give a row `tools`, or a template as \
    model.chat_template') }}";

/// Variables that are lists of objects.
pub(crate) const LISTS: [&str; 2] = ["tools", "documents"];

/// The variable that names the template to render with, and is none of that template's.
pub(crate) const NAME: &str = "chat_template";

/// What is wrong with a variable of [`LISTS`], for which transformers raises an error: which item
/// (`[0]`), what it should be, and what is there. Null is no list and not wrong.
pub(crate) fn unlisted(
    value: &serde_json::Value,
) -> Option<(String, &'static str, &serde_json::Value)> {
    let items = match value {
        serde_json::Value::Null => return None,
        serde_json::Value::Array(items) => items,
        other => {
            let should = "a list of objects, or its JSON as text";
            return Some((String::new(), should, other));
        }
    };
    let (i, item) = items
        .iter()
        .enumerate()
        .find(|(_, item)| !item.is_object())?;
    Some((format!("[{i}]"), "an object", item))
}

/// Characters of a value that a message shows.
const SHOWN: usize = 40;

/// The default day of `strftime_now`. Prompts must not change from day to day, or a run resumed
/// tomorrow would not be the same run. (Llama 3's own templates fall back to this day.)
const FIXED_DAY: &str = "2024-07-26";

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    program: Program,
    source: String,
    variables: BTreeMap<String, Value>,
    /// Names of the variables set by the user.
    given: Vec<String>,
    /// The user's name of the template to render with, where they gave one.
    picked: Option<serde_json::Value>,
    /// The model's other template, for conversations with tools.
    tool_use: Option<Box<ChatTemplate>>,
    /// The roles besides `tool` that it knows for a tool's result.
    results: Vec<&'static str>,
}

impl ChatTemplate {
    /// Compiles a template's source; `"plain"` stands for [`PLAIN`].
    ///
    /// # Errors
    /// A source that is not a Jinja template.
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
            picked: None,
            tool_use: None,
            results: roles::known(source),
        };
        template.set_day(FIXED_DAY)?;
        Ok(template)
    }

    /// The source as given, which an export writes beside the model.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Sets the day (`2024-07-26`) seen by templates that print today's date.
    ///
    /// # Errors
    /// A text that is not a day.
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

    /// Sets a variable from the user, such as `enable_thinking`; if the template does not use it,
    /// it is counted with every example. `chat_template` names the template to render with, as in
    /// transformers.
    ///
    /// # Errors
    /// `tools` or `documents` that are not lists of objects (or their JSON as text); a name that no
    /// template has.
    pub fn give(&mut self, name: &str, value: &serde_json::Value) -> Result<()> {
        if name == NAME {
            if !value.is_null() {
                self.named(value)?;
            }
            self.picked = Some(value.clone());
            return Ok(());
        }
        let listed = LISTS.contains(&name);
        let value = match value {
            serde_json::Value::String(text) if listed => serde_json::from_str(text)
                .map_err(|e| Error::Template(format!("`{name}` is text, but not JSON: {e}")))?,
            value => value.clone(),
        };
        if listed && let Some((item, should, found)) = unlisted(&value) {
            let found = shortened(found.to_string(), SHOWN);
            let what = format!("`{name}{item}` should be {should}, is {found}");
            return Err(Error::Template(what));
        }
        self.set_variable(name, &value);
        self.given.push(name.to_owned());
        Ok(())
    }

    /// The names of the variables set by the user.
    pub(crate) fn given(&self) -> impl Iterator<Item = &str> {
        self.given.iter().map(String::as_str)
    }

    /// Whether a source contains this name as a word; if not, the template cannot read it.
    pub(crate) fn names(&self, name: &str) -> bool {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        let here = self.source.match_indices(name).any(|(at, _)| {
            !self.source[..at].ends_with(part) && !self.source[at + name.len()..].starts_with(part)
        });
        here || self.tool_use.as_ref().is_some_and(|t| t.names(name))
    }

    /// Whether a source contains this text.
    pub(crate) fn holds(&self, text: &str) -> bool {
        self.source.contains(text) || self.tool_use.as_ref().is_some_and(|t| t.holds(text))
    }

    /// Sets a further variable that the template reads, such as the text of a special token.
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

    /// Sets the model's other template, `tool_use`, which renders conversations with tools.
    pub(crate) fn set_tool_use(&mut self, other: ChatTemplate) {
        self.tool_use = Some(Box::new(other));
    }

    /// The model's other template, for conversations with tools.
    pub(crate) fn tool_use(&self) -> Option<&ChatTemplate> {
        self.tool_use.as_deref()
    }

    /// Whether a row has tools, by transformers' test of what the template will find as `tools`: an
    /// empty list counts. The row's `chat_template_kwargs` take precedence over its `tools`, and
    /// those over the user's.
    pub(crate) fn has_tools(&self, context: &Context) -> bool {
        let given = context.get("chat_template_kwargs");
        let given = given.and_then(|given| given.get("tools"));
        match given.or_else(|| context.get("tools")) {
            Some(tools) => !tools.is_null(),
            None => self.variables.get("tools").is_some_and(|t| !t.is_none()),
        }
    }

    /// The template that renders rows with these variables: this one or the other, by its name
    /// where one is given, else by the row's tools.
    ///
    /// # Errors
    /// A name that neither has.
    pub(crate) fn chosen(&self, context: &Context) -> Result<&ChatTemplate> {
        let given = context.get("chat_template_kwargs");
        let given = given.and_then(|given| given.get(NAME));
        match given
            .or(self.picked.as_ref())
            .filter(|name| !name.is_null())
        {
            Some(name) => self.named(name),
            None => {
                let other = self.tool_use().filter(|_| self.has_tools(context));
                Ok(other.unwrap_or(self))
            }
        }
    }

    /// Whether the other template renders rows with these variables.
    pub(crate) fn is_other(&self, context: &Context) -> bool {
        let chosen = self.chosen(context);
        chosen.is_ok_and(|chosen| !std::ptr::eq(chosen, self))
    }

    /// The template of this name. A template's source in its place, which transformers would
    /// render, is refused: the stop tokens are found for the model's own.
    fn named(&self, name: &serde_json::Value) -> Result<&ChatTemplate> {
        let known = match (name.as_str(), self.tool_use()) {
            (Some("default"), Some(_)) if self.has_default() => return Ok(self),
            (Some("tool_use"), Some(other)) => return Ok(other),
            (_, Some(_)) if self.has_default() => "`default` and `tool_use`",
            (_, Some(_)) => "`tool_use`",
            (_, None) => "it has one, without a name",
        };
        let name = shortened(name.to_string(), SHOWN);
        Err(Error::Template(format!(
            "`{NAME}` should name one of the model's templates ({known}), is {name}; another one \
             is given as model.chat_template"
        )))
    }

    /// Renders a conversation; with `generation_prompt`, up to where the response begins.
    ///
    /// # Errors
    /// The template refuses the conversation (`raise_exception`) or fails.
    pub fn render(&self, messages: &[Message], generation_prompt: bool) -> Result<String> {
        self.render_in(messages, &Context::new(), generation_prompt)
    }

    /// [`ChatTemplate::render`] with a row's variables; its `chat_template_kwargs` take precedence
    /// over the variables that were set.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_in(
        &self,
        messages: &[Message],
        context: &Context,
        generation_prompt: bool,
    ) -> Result<String> {
        let chosen = self.chosen(context)?;
        let mut variables = chosen.variables.clone();
        for (name, value) in context {
            match value {
                serde_json::Value::Object(given) if name == "chat_template_kwargs" => {
                    let given = given
                        .iter()
                        .filter(|(k, _)| *k != NAME)
                        .map(|(k, v)| (k.clone(), Value::from_serialize(v)));
                    variables.extend(given);
                }
                value => _ = variables.insert(name.clone(), Value::from_serialize(value)),
            }
        }
        let messages: Vec<Message> = messages
            .iter()
            .map(Message::for_template)
            .map(|message| chosen.with_role_known(message))
            .collect();
        variables.insert("messages".into(), Value::from_serialize(&messages));
        variables.insert("add_generation_prompt".into(), generation_prompt.into());
        for name in ["tools", "documents"] {
            variables
                .entry(name.into())
                .or_insert_with(|| Value::from(()));
        }
        contain(|| chosen.program.render(Value::from(variables)))
            .and_then(|text| text)
            .map_err(Error::Template)
    }

    /// Renames the role of a tool's message to `tool` unless the template knows the data's name for
    /// it, since a template ignores unknown roles.
    fn with_role_known(&self, message: Message) -> Message {
        match is_result(message.role()) && !self.results.contains(&message.role()) {
            true => message.with("role", "tool"),
            false => message,
        }
    }
}
