//! Tokenizer, chat template and special tokens as one object: every conversion from conversation to
//! token ids and back, in generation and training.

mod added;
mod expressions;
mod files;
mod gguf;
mod known;
mod patterns;
mod pieces;
mod pretokenizers;
mod reasoning;
mod response;
mod said;
mod settings;
mod spaces;
mod to_gguf;
mod vocabularies;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use randori_formats::gguf::GgufTokenizer;
use serde_json::{Value, json};
use tokenizers::{Encoding, Tokenizer as Core};

use crate::contain::contain;
use crate::template::NAME;
use crate::{ChatTemplate, Context, Error, Message, PLAIN, Result};
pub use files::named_templates;
pub use pretokenizers::known_pre_tokenizers;
pub(crate) use response::REASONING;
pub use response::Response;
use spaces::LeadingSpace;

/// Special tokens named by a model's files.
#[derive(Clone, Debug, Default)]
struct Special {
    bos: Option<(u32, String)>,
    eos: Option<(u32, String)>,
    pad: Option<(u32, String)>,
    unk: Option<(u32, String)>,
    /// Names and texts of all named tokens: variables of the chat template.
    variables: Vec<(String, String)>,
}

/// Tokenizer, chat template and special tokens of one model.
pub struct Tokenizer {
    core: Core,
    /// `core` for text that continues other text, with spelt special tokens read as plain text.
    continuing: OnceLock<Core>,
    /// Likewise for text after a special token.
    verbatim: OnceLock<Core>,
    leading: LeadingSpace,
    /// Spellings of the special tokens, to detect them in a response's text; without reasoning
    /// marks, which are meant as such.
    spellings: Vec<String>,
    special: Special,
    adds_bos: bool,
    template: Option<ChatTemplate>,
    /// Whether the text around a response depends on the response, cached: without tools and with
    /// them, for which there may be another template.
    echoes: [OnceLock<bool>; 4],
    stop: Vec<u32>,
    /// Stop ids in the files; the template adds its own.
    named_stops: Vec<u32>,
    files: BTreeMap<String, Vec<u8>>,
    /// Remarks on the files for the user.
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
    /// Reads a Hugging Face folder: `tokenizer.json`, and `tokenizer_config.json`,
    /// `special_tokens_map.json`, `chat_template.jinja`, `generation_config.json` and `config.json`
    /// if they exist.
    ///
    /// # Errors
    /// A missing `tokenizer.json`, an invalid file, or a special token that is not in the
    /// vocabulary.
    pub fn from_folder(dir: &Path) -> Result<Self> {
        files::from_folder(dir, None)
    }

    /// [`Tokenizer::from_folder`] with this chat template instead of the folder's own, which need
    /// not be valid.
    ///
    /// # Errors
    /// As [`Tokenizer::from_folder`].
    pub fn from_folder_with(dir: &Path, template: ChatTemplate) -> Result<Self> {
        files::from_folder(dir, Some(template))
    }

    /// Reads files in memory: `tokenizer.json`, `tokenizer_config.json`, and a chat template that
    /// takes precedence over the config's.
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

    /// Converts a GGUF file's metadata.
    ///
    /// # Errors
    /// An unknown type of tokenizer or pre-tokenizer, or lists that do not fit together.
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

    /// Assembles the tokenizer; `named_stops` are the stop ids in the files.
    fn assemble(
        mut core: Core,
        special: Special,
        named_stops: Vec<u32>,
        template: Option<ChatTemplate>,
        files: BTreeMap<String, Vec<u8>>,
    ) -> Result<Self> {
        // Some tokenizer.json contain the truncation and padding settings of whoever saved them
        // last.
        core.with_truncation(None).map_err(Error::tokenizer)?;
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

    /// Settings in the files that are not followed, a sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Replaces the chat template.
    pub fn set_chat_template(&mut self, mut template: ChatTemplate) {
        self.echoes = Default::default();
        let plain = template.source() == PLAIN;
        let special = &self.special;
        let mut set = |name: &str, text: &str| template.set_variable(name, &Value::from(text));
        // our own template: responses end with the end-of-text token of whichever file names it
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
    /// The tokenizer has none; the message says how to provide one.
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

    /// Sets a variable of the chat template from the user, such as `enable_thinking`, and finds the
    /// stop tokens again.
    ///
    /// # Errors
    /// No chat template, or a name whose value comes from the data; as [`ChatTemplate::give`].
    pub fn give(&mut self, name: &str, value: &Value) -> Result<()> {
        if ["messages", "add_generation_prompt"].contains(&name) {
            return Err(Error::Template(format!(
                "`{name}` comes from the data and cannot be a variable of the recipe"
            )));
        }
        self.chat_template_mut()?.give(name, value)?;
        self.find_stops();
        Ok(())
    }

    /// Token ids of a conversation up to where the response begins. Special tokens come from the
    /// template only, so none is doubled.
    ///
    /// # Errors
    /// No chat template, or it refuses the conversation.
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.prompt_in(messages, &Context::new())
    }

    /// [`Tokenizer::prompt`] with the row's variables for the template.
    ///
    /// # Errors
    /// As [`Tokenizer::prompt`].
    pub fn prompt_in(&self, messages: &[Message], context: &Context) -> Result<Vec<u32>> {
        self.ids(&self.chat_template()?.render_in(messages, context, true)?)
    }

    /// Token ids of a text, with special tokens recognised and none added.
    ///
    /// # Errors
    /// A text that the tokenizer cannot encode (without byte fallback or unknown token).
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        Ok(encode(&self.core, text, false)?.get_ids().to_vec())
    }

    /// Token ids of a plain text to train on as a whole: after the beginning-of-text token if the
    /// tokenizer adds one, before the end-of-text token if it has one. One that the text spells
    /// itself is not doubled.
    ///
    /// # Errors
    /// As [`Tokenizer::ids`].
    pub fn text_ids(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.opening_ids(text)?;
        if let Some(eos) = self.eos().filter(|eos| ids.last() != Some(eos)) {
            ids.push(eos);
        }
        Ok(ids)
    }

    /// Token ids of a text to go on with: after the beginning-of-text token if the
    /// tokenizer adds one and the text does not spell it itself.
    ///
    /// # Errors
    /// As [`Tokenizer::ids`].
    pub fn opening_ids(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.ids(text)?;
        let bos = self.bos().filter(|_| self.adds_bos());
        if let Some(bos) = bos.filter(|bos| ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// Stop ids of generation: the end-of-text token, the template's end-of-turn token, and those
    /// in the model's generation settings.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop
    }

    /// Decodes a response, without the stop tokens at its end. Special tokens elsewhere are shown.
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

    /// Decodes ids without the special tokens among them.
    pub fn decode_text(&self, ids: &[u32]) -> String {
        contain(|| self.core.decode(ids, true).unwrap_or_default()).unwrap_or_default()
    }

    /// One token's text as in the vocabulary, for inspecting ids.
    pub fn token(&self, id: u32) -> Option<String> {
        self.core.id_to_token(id)
    }

    /// Checks that all ids are below the number of rows of a model's embedding.
    ///
    /// # Errors
    /// The first id that is not, in words.
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

    /// The largest id + 1.
    pub fn vocab_size(&self) -> usize {
        self.core
            .get_vocab(true)
            .into_values()
            .max()
            .map_or(0, |id| id as usize + 1)
    }

    /// Whether encoding a text adds the beginning-of-text token (prompts get it from the template
    /// only).
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

    /// The files an exported model needs beside its weights, by name: those it was read from, or
    /// equivalent ones made from GGUF metadata; with the chat template in use.
    ///
    /// # Errors
    /// The tokenizer cannot be serialised.
    pub fn files(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut files = self.files.clone();
        if !files.contains_key("tokenizer.json") {
            files.insert(
                "tokenizer.json".into(),
                self.core
                    .to_string(false)
                    .map_err(Error::tokenizer)?
                    .into_bytes(),
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
            // a file beside it would take precedence over the list
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

    /// A template's source for other programs. The built-in one reads variables that only Randori
    /// sets, so the tokens themselves are written in their place.
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

    /// Collects the stop ids: those in the files, the end-of-text token, the template's end-of-turn
    /// token.
    fn find_stops(&mut self) {
        let mut stop: Vec<u32> = self
            .eos()
            .into_iter()
            .chain(self.named_stops.iter().copied())
            .collect();
        // A template that refuses so small a conversation will report it when used.
        let hello = [Message::user("Hello")];
        stop.extend(self.end_of_turn(&hello).ok());
        if self
            .template
            .as_ref()
            .is_some_and(|t| t.tool_use().is_some())
        {
            stop.extend(self.end_of_turn_in(&hello, &by_tool_use()).ok());
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
fn by_tool_use() -> Context {
    let name = json!({ NAME: "tool_use" });
    let row = [("tools", json!([])), ("chat_template_kwargs", name)];
    row.map(|(key, value)| (key.to_owned(), value))
        .into_iter()
        .collect()
}

/// Encodes a text, without offsets. A panic of the tokenizers crate on a damaged `tokenizer.json`
/// (a post-processor with a token that it does not list) is an error like any other.
fn encode(core: &Core, text: &str, special: bool) -> Result<Encoding> {
    contain(|| core.encode_fast(text, special))
        .map_err(Error::Tokenizer)?
        .map_err(Error::tokenizer)
}
