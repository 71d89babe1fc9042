//! Tokenizer, chat template and special tokens as one object: the only way from a conversation to token ids and
//! back, for generation and training alike.

mod added;
mod files;
mod gguf;
mod patterns;
mod pieces;
mod pretokenizers;
mod reasoning;
mod response;
mod said;
mod settings;
mod spaces;
mod to_gguf;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use randori_formats::gguf::GgufTokenizer;
use serde_json::{Value, json};
use tokenizers::{Encoding, Tokenizer as Core};

use crate::contain::contain;
use crate::{ChatTemplate, Context, Error, Message, PLAIN, Result};
pub use files::named_templates;
pub use pretokenizers::known_pre_tokenizers;
pub use reasoning::Opened;
pub(crate) use response::REASONING;
pub use response::Response;
use spaces::LeadingSpace;

/// The special tokens a model's files name.
#[derive(Clone, Debug, Default)]
struct Special {
    bos: Option<(u32, String)>,
    eos: Option<(u32, String)>,
    pad: Option<(u32, String)>,
    unk: Option<(u32, String)>,
    /// Every name that the files give a token, with its text: variables of the chat template.
    variables: Vec<(String, String)>,
}

/// Tokenizer, chat template and special tokens of one model.
pub struct Tokenizer {
    core: Core,
    /// `core` for text that goes on where other text stopped, special tokens' spellings read as plain text.
    continuing: OnceLock<Core>,
    /// The same for text that follows a special token.
    verbatim: OnceLock<Core>,
    leading: LeadingSpace,
    /// Spellings of the special tokens, to notice them in a response's text; not those of
    /// reasoning's marks, which are meant.
    spellings: Vec<String>,
    special: Special,
    adds_bos: bool,
    template: Option<ChatTemplate>,
    /// Whether what the template writes around an answer depends on the answer, once it was tried.
    /// Without tools and with them, for which the template may be another.
    echoes: [OnceLock<bool>; 2],
    stop: Vec<u32>,
    /// Stop ids the files name, to which the template adds its own.
    named_stops: Vec<u32>,
    files: BTreeMap<String, Vec<u8>>,
    /// What the user should know of the files.
    notes: Vec<String>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocabulary", &self.vocab_size())
            .field("special", &self.special)
            .field("stop", &self.stop)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a Hugging Face folder: `tokenizer.json`, and what lies beside it of `tokenizer_config.json`,
    /// `special_tokens_map.json`, `chat_template.jinja`, `generation_config.json` and `config.json`.
    ///
    /// # Errors
    /// When `tokenizer.json` is missing, a file is not what it should be, or a special token is not in the
    /// vocabulary.
    pub fn from_folder(dir: &Path) -> Result<Self> {
        files::from_folder(dir, None)
    }

    /// The same with this chat template instead of the folder's own, which need not be good.
    ///
    /// # Errors
    /// As [`Tokenizer::from_folder`].
    pub fn from_folder_with(dir: &Path, template: ChatTemplate) -> Result<Self> {
        files::from_folder(dir, Some(template))
    }

    /// From files in memory: `tokenizer.json`, `tokenizer_config.json`, and a chat template that goes before the
    /// config's.
    ///
    /// # Errors
    /// As [`Tokenizer::from_folder`].
    pub fn from_bytes(
        tokenizer: &[u8],
        config: Option<&[u8]>,
        template: Option<&str>,
    ) -> Result<Self> {
        let mut given = BTreeMap::from([("tokenizer.json".to_owned(), tokenizer.to_vec())]);
        given.extend(config.map(|bytes| ("tokenizer_config.json".to_owned(), bytes.to_vec())));
        given.extend(
            template.map(|text| ("chat_template.jinja".to_owned(), text.as_bytes().to_vec())),
        );
        files::from_files(given, None)
    }

    /// From a GGUF file's metadata.
    ///
    /// # Errors
    /// When the tokenizer's kind or its pre-tokenizer is unknown, or its lists do not fit together.
    pub fn from_gguf(gguf: &GgufTokenizer) -> Result<Self> {
        gguf::build(gguf, None)
    }

    /// The same with this chat template instead of the file's own, which need not be good.
    ///
    /// # Errors
    /// As [`Tokenizer::from_gguf`].
    pub fn from_gguf_with(gguf: &GgufTokenizer, template: ChatTemplate) -> Result<Self> {
        gguf::build(gguf, Some(template))
    }

    /// Puts the parts together; `named_stops` are ids the files call ends.
    fn assemble(
        mut core: Core,
        special: Special,
        named_stops: Vec<u32>,
        template: Option<ChatTemplate>,
        files: BTreeMap<String, Vec<u8>>,
    ) -> Result<Self> {
        // Some tokenizer.json carry the truncation and padding of whoever saved them last.
        core.with_truncation(None).map_err(broken)?;
        core.with_padding(None);
        let leading = LeadingSpace::of(&core);
        let spellings = core
            .get_added_tokens_decoder()
            .into_values()
            .filter(|t| t.special && !reasoning::is_reasoning(&t.content))
            .map(|t| t.content)
            .collect();
        let first = encode(&core, "", true)?.get_ids().first().copied();
        let adds_bos = first.is_some() && first == special.bos.as_ref().map(|(id, _)| *id);
        let mut tokenizer = Self {
            core,
            continuing: OnceLock::new(),
            verbatim: OnceLock::new(),
            leading,
            spellings,
            special,
            adds_bos,
            template: None,
            echoes: Default::default(),
            stop: Vec::new(),
            named_stops,
            files,
            notes: Vec::new(),
        };
        match template {
            Some(template) => tokenizer.set_chat_template(template),
            None => tokenizer.find_stops(),
        }
        Ok(tokenizer)
    }

    /// What the files ask for that is not done, a sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Takes this chat template instead of the tokenizer's own.
    pub fn set_chat_template(&mut self, mut template: ChatTemplate) {
        self.echoes = Default::default();
        let plain = template.source() == PLAIN;
        let special = &self.special;
        let mut set = |name: &str, text: &str| template.set_variable(name, &Value::from(text));
        // it is ours: it ends answers in the end of text, whichever file names that
        if plain && let Some((_, text)) = &special.eos {
            set("eos_token", text);
        }
        for (name, text) in &special.variables {
            set(name, text);
        }
        template.set_variable("starts_with_bos", &Value::Bool(self.adds_bos));
        self.template = Some(template);
        self.find_stops();
    }

    /// The chat template.
    ///
    /// # Errors
    /// When the tokenizer has none, saying how to give one.
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or(Error::NoTemplate)
    }

    /// The chat template, to set its day or variables.
    ///
    /// # Errors
    /// As [`Tokenizer::chat_template`].
    pub fn chat_template_mut(&mut self) -> Result<&mut ChatTemplate> {
        self.echoes = Default::default();
        self.template.as_mut().ok_or(Error::NoTemplate)
    }

    /// Gives the chat template a variable of the user's, such as `enable_thinking`; the stop tokens
    /// are found anew.
    ///
    /// # Errors
    /// Without a chat template, or for a name that has its value from the data.
    pub fn give(&mut self, name: &str, value: &Value) -> Result<()> {
        if ["messages", "add_generation_prompt"].contains(&name) {
            return Err(Error::Template(format!(
                "`{name}` comes from the data and cannot be a variable of the recipe"
            )));
        }
        self.chat_template_mut()?.give(name, value);
        self.find_stops();
        Ok(())
    }

    /// Token ids of a conversation up to where the answer begins. Special tokens are those the template writes: none
    /// is added, so none is there twice.
    ///
    /// # Errors
    /// Without a chat template, or when it refuses the conversation.
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.prompt_in(messages, &Context::new())
    }

    /// The same with what the row gives its template besides the messages.
    ///
    /// # Errors
    /// As [`Tokenizer::prompt`].
    pub fn prompt_in(&self, messages: &[Message], context: &Context) -> Result<Vec<u32>> {
        self.ids(&self.chat_template()?.render_in(messages, context, true)?)
    }

    /// Token ids of text as it is, special tokens recognised, none added.
    ///
    /// # Errors
    /// When the tokenizer cannot spell the text (one without byte fallback or unknown token).
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        Ok(encode(&self.core, text, false)?.get_ids().to_vec())
    }

    /// Ids after which generation stops: the end-of-text token, the one the template ends a turn with, and those the
    /// model's generation config lists.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop
    }

    /// The text of a response, without the stop tokens at its end. Special tokens elsewhere are shown.
    pub fn decode(&self, ids: &[u32]) -> String {
        let body = ids.len()
            - ids
                .iter()
                .rev()
                .take_while(|id| self.stop.contains(id))
                .count();
        let decode = || self.core.decode(&ids[..body], false).unwrap_or_default();
        contain(decode).unwrap_or_default()
    }

    /// One token's text as the vocabulary spells it, for looking at ids one by one.
    pub fn token(&self, id: u32) -> Option<String> {
        self.core.id_to_token(id)
    }

    /// Whether a model with so many rows in its embedding has one for each of these ids; else the
    /// rule that is broken.
    ///
    /// # Errors
    /// The first id that has none, in words.
    pub fn below<'a>(
        &self,
        rows: usize,
        mut ids: impl Iterator<Item = &'a u32>,
    ) -> std::result::Result<(), String> {
        match ids.find(|id| **id as usize >= rows) {
            None => Ok(()),
            Some(&id) => Err(format!(
                "token {id} ({:?}) must be below {rows}, the rows of the model's embedding: the tokenizer is of \
                 another model (model.tokenizer, model.source)",
                self.token(id).unwrap_or_default()
            )),
        }
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.core
            .get_vocab(true)
            .into_values()
            .max()
            .map_or(0, |id| id as usize + 1)
    }

    /// Whether encoding text by itself begins with the beginning-of-text token (prompts never do: templates write it).
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// The beginning-of-text token.
    pub fn bos(&self) -> Option<u32> {
        self.special.bos.as_ref().map(|(id, _)| *id)
    }

    /// The end-of-text token.
    pub fn eos(&self) -> Option<u32> {
        self.special.eos.as_ref().map(|(id, _)| *id)
    }

    /// The padding token.
    pub fn pad(&self) -> Option<u32> {
        self.special.pad.as_ref().map(|(id, _)| *id)
    }

    /// The files that an exported model needs beside its weights, by name: those it was read from, or the same made
    /// from GGUF metadata; with the chat template in use.
    ///
    /// # Errors
    /// When the tokenizer cannot be written.
    pub fn files(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut files = self.files.clone();
        if !files.contains_key("tokenizer.json") {
            files.insert(
                "tokenizer.json".into(),
                self.core.to_string(false).map_err(broken)?.into_bytes(),
            );
        }
        let Some(template) = &self.template else {
            return Ok(files);
        };
        match template.tool_use() {
            None => {
                let source = self.exported(template).into_bytes();
                files.insert("chat_template.jinja".into(), source);
            }
            // a file beside them would hide the list
            Some(other) => {
                let config = files::json(&files, "tokenizer_config.json")?;
                let mut config = Some(config).filter(Value::is_object).unwrap_or(json!({}));
                let default = Some(template).filter(|t| t.has_default());
                let named = default.map(|t| ("default", t)).into_iter();
                config["chat_template"] = named
                    .chain([("tool_use", other)])
                    .map(|(name, t)| json!({"name": name, "template": t.source()}))
                    .collect();
                files.insert(
                    "tokenizer_config.json".into(),
                    config.to_string().into_bytes(),
                );
            }
        }
        Ok(files)
    }

    /// A template as other programs render it alike. Ours reads what only Randori gives it, so it is
    /// written with the tokens themselves.
    fn exported(&self, template: &ChatTemplate) -> String {
        if template.source() != PLAIN {
            return template.source().to_owned();
        }
        // JSON's texts are Jinja's too
        let token = |token: &Option<(u32, String)>| match token {
            Some((_, text)) => format!("{{{{ {} }}}}", Value::from(text.as_str())),
            None => String::new(),
        };
        let bos = token(&self.special.bos.clone().filter(|_| self.adds_bos));
        PLAIN
            .replace("{% if starts_with_bos %}{{ bos_token }}{% endif %}", &bos)
            .replace("{{ eos_token }}", &token(&self.special.eos))
    }

    /// Collects the stop ids: those the files name, the end-of-text token, the template's end of turn.
    fn find_stops(&mut self) {
        let mut stop: Vec<u32> = self
            .eos()
            .into_iter()
            .chain(self.named_stops.iter().copied())
            .collect();
        // A template that refuses so small a conversation will say so where it is used.
        let hello = [Message::user("Hello")];
        stop.extend(self.end_of_turn(&hello).ok());
        if self
            .template
            .as_ref()
            .is_some_and(|t| t.tool_use().is_some())
        {
            stop.extend(self.end_of_turn_in(&hello, &no_tools()).ok());
        }
        let mut seen = Vec::new();
        for id in stop {
            if !seen.contains(&id) {
                seen.push(id);
            }
        }
        self.stop = seen;
    }
}

/// A row with a list of tools and none in it, which the template for tools plays.
fn no_tools() -> Context {
    Context::from_iter([("tools".to_owned(), json!([]))])
}

/// Tokens of a text, without offsets. What a damaged `tokenizer.json` makes the tokenizers crate panic over (a template
/// with a token that it does not list) is an error like any other.
fn encode(core: &Core, text: &str, special: bool) -> Result<Encoding> {
    contain(|| core.encode_fast(text, special))
        .map_err(Error::Tokenizer)?
        .map_err(broken)
}

/// An error of the tokenizers crate.
fn broken(error: tokenizers::Error) -> Error {
    Error::Tokenizer(error.to_string())
}
