//! A request's JSON, checked: what is wanted of which player. A field that is not known is refused,
//! since an answer that ignores it would not be the one that was asked for.

use std::sync::Arc;

use randori_data::Message;
use randori_engine::GenerateOptions;
use randori_sdk::seam;
use serde_json::{Map, Value};

use super::house::House;
use super::refusal::Refusal;

/// Fields of both kinds of request.
const BOTH: [&str; 14] = [
    "model",
    "max_tokens",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "logprobs",
    "n",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "user",
];
const COMPLETION: [&str; 4] = ["prompt", "echo", "best_of", "suffix"];
const CHAT: [&str; 5] = [
    "messages",
    "max_completion_tokens",
    "top_logprobs",
    "response_format",
    "store",
];
/// Most tokens that are told beside each.
const TOP: usize = 20;
/// Most prompts of a request, and most strings that stop an answer.
const PROMPTS: usize = 256;
const STOPS: usize = 16;
/// Tokens of a completion where the request does not say, as OpenAI has it.
const COMPLETED: usize = 16;

/// A request.
pub struct Wanted {
    /// The model's name as it was asked for.
    pub model: String,
    /// Its player.
    pub player: usize,
    /// Token ids, and how they are echoed.
    pub prompts: Vec<(Vec<u32>, String)>,
    /// Whether it is a conversation.
    pub chat: bool,
    /// The samplers that draw.
    pub samplers: Vec<Arc<dyn seam::SamplerFn>>,
    /// Limits, and the seed where it is given.
    pub options: GenerateOptions,
    /// Whether it has a seed of its own.
    pub seeded: bool,
    /// Texts that end an answer and do not belong to it.
    pub stops: Vec<String>,
    /// Answers in pieces, at the end of which `usage` is told.
    pub stream: bool,
    /// See there.
    pub usage: bool,
    /// Answers begin with the prompt.
    pub echo: bool,
    /// Log-probs are told, with those of so many other tokens.
    pub logprobs: Option<usize>,
}

impl Wanted {
    /// What `body` asks of the house.
    ///
    /// # Errors
    /// Whatever cannot be answered.
    pub fn of(house: &House, body: &[u8], chat: bool) -> Result<Wanted, Refusal> {
        let json = |e| Refusal::new(400, "invalid_json", format!("the body is no JSON: {e}"));
        let body: Value = serde_json::from_slice(body).map_err(json)?;
        let Value::Object(mut map) = body else {
            return Err(Refusal::new(
                400,
                "invalid_json",
                "the body is no JSON object",
            ));
        };
        map.retain(|_, value| !value.is_null()); // null: as if it were not there
        let own: &[&str] = if chat { &CHAT } else { &COMPLETION };
        let known = |name: &&String| BOTH.contains(&name.as_str()) || own.contains(&name.as_str());
        if let Some(name) = map.keys().find(|name| !known(name)) {
            let text = format!("{name} is not known here; leave it out");
            let refusal = Refusal::new(400, "unknown_parameter", text);
            return Err(Refusal {
                param: Some(name.clone()),
                ..refusal
            });
        }
        let fields = Fields(map);
        fields.refuse_what_is_not_done()?;
        let model = fields.text("model")?;
        let model = model.ok_or_else(|| Refusal::field("model", "model must be given"))?;
        let player = house.player(&model)?;
        let echo = fields.flag("echo")?;
        let prompts = match chat {
            true => vec![(conversation(house, &fields)?, String::new())],
            false => prompts(house, &fields)?,
        };
        let options = fields.options(house, &prompts, chat, echo)?;
        let logprobs = match chat {
            false => fields.count("logprobs", TOP)?,
            true if fields.flag("logprobs")? => {
                Some(fields.count("top_logprobs", TOP)?.unwrap_or(0))
            }
            true if fields.0.contains_key("top_logprobs") => {
                let text = "top_logprobs goes with logprobs = true";
                return Err(Refusal::field("top_logprobs", text));
            }
            true => None,
        };
        Ok(Wanted {
            model,
            player,
            prompts,
            chat,
            samplers: fields.samplers(house)?,
            options,
            seeded: fields.0.contains_key("seed"),
            stops: fields.stops()?,
            stream: fields.flag("stream")?,
            usage: fields.include_usage()?,
            echo,
            logprobs,
        })
    }
}

/// The fields that are there.
struct Fields(Map<String, Value>);

impl Fields {
    fn text(&self, name: &str) -> Result<Option<String>, Refusal> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(wrong(name, "a string", other)),
        }
    }

    fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.0.get(name) {
            None => Ok(false),
            Some(Value::Bool(is)) => Ok(*is),
            Some(other) => Err(wrong(name, "true or false", other)),
        }
    }

    fn count(&self, name: &str, most: usize) -> Result<Option<usize>, Refusal> {
        let Some(value) = self.0.get(name) else {
            return Ok(None);
        };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        match count.filter(|count| *count <= most) {
            Some(count) => Ok(Some(count)),
            None => Err(wrong(
                name,
                &format!("a whole number from 0 to {most}"),
                value,
            )),
        }
    }

    fn number(&self, name: &str) -> Result<Option<f64>, Refusal> {
        match self.0.get(name) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => Err(wrong(name, "a number", value)),
            },
        }
    }

    /// Refuses what other servers do and this one does not, unless it changes nothing.
    fn refuse_what_is_not_done(&self) -> Result<(), Refusal> {
        for (name, idle) in [
            ("n", 1.0),
            ("best_of", 1.0),
            ("presence_penalty", 0.0),
            ("frequency_penalty", 0.0),
        ] {
            if self.number(name)?.is_some_and(|value| value != idle) {
                return Err(wrong(
                    name,
                    &format!("{idle}, all that is done here"),
                    &self.0[name],
                ));
            }
        }
        let idle = |name: &str, value: &Value| match name {
            "logit_bias" => value.as_object().is_some_and(Map::is_empty),
            "suffix" => value == "",
            "response_format" => value["type"] == "text",
            "store" => value == false,
            _ => true,
        };
        match self.0.iter().find(|(name, value)| !idle(name, value)) {
            Some((name, value)) => Err(wrong(name, "left out: it is not done here", value)),
            None => Ok(()),
        }
    }

    fn include_usage(&self) -> Result<bool, Refusal> {
        match self.0.get("stream_options") {
            None => Ok(false),
            Some(Value::Object(map)) => Ok(map.get("include_usage") == Some(&Value::Bool(true))),
            Some(other) => Err(wrong("stream_options", "an object", other)),
        }
    }

    fn stops(&self) -> Result<Vec<String>, Refusal> {
        let Some(value) = self.0.get("stop") else {
            return Ok(Vec::new());
        };
        let one = |value: &Value| value.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
        let all: Option<Vec<String>> = match value {
            Value::Array(all) => all.iter().map(one).collect(),
            other => one(other).map(|text| vec![text]),
        };
        match all.filter(|all| all.len() <= STOPS) {
            Some(all) => Ok(all),
            None => {
                let what = format!("a string, or up to {STOPS}, none of them empty");
                Err(wrong("stop", &what, value))
            }
        }
    }

    /// As `chat` has them: where neither temperature nor top_p is given, the likeliest token.
    fn samplers(&self, house: &House) -> Result<Vec<Arc<dyn seam::SamplerFn>>, Refusal> {
        let (temperature, top_p) = (self.number("temperature")?, self.number("top_p")?);
        let sampler = |field: &str, name: &str, options: &[(String, seam::Value)]| {
            let made = house.host.sampler(name, options);
            made.map_err(|e| Refusal::field(field, format!("{field}: {e}")))
        };
        if temperature.unwrap_or(0.0) == 0.0 && (temperature.is_some() || top_p.is_none()) {
            return Ok(vec![sampler("temperature", "greedy", &[])?]);
        }
        let mut chain = Vec::new();
        if let Some(t) = temperature {
            let t = [("t".to_owned(), seam::Value::Float(t))];
            chain.push(sampler("temperature", "temperature", &t)?);
        }
        if let Some(p) = top_p {
            let p = [("p".to_owned(), seam::Value::Float(p))];
            chain.push(sampler("top_p", "top_p", &p)?);
        }
        Ok(chain)
    }

    /// Limits and seed; every prompt must leave room for what is asked after it.
    fn options(
        &self,
        house: &House,
        prompts: &[(Vec<u32>, String)],
        chat: bool,
        echo: bool,
    ) -> Result<GenerateOptions, Refusal> {
        let name = match self.0.contains_key("max_completion_tokens") {
            true => "max_completion_tokens",
            false => "max_tokens",
        };
        let given = self.count(name, usize::MAX)?;
        if given == Some(0) && !echo {
            return Err(Refusal::field(
                name,
                format!("{name} must be at least 1, got 0"),
            ));
        }
        let usual = if chat {
            house.usual.max_new_tokens
        } else {
            COMPLETED
        };
        for (prompt, _) in prompts {
            let (length, most) = (prompt.len(), house.context);
            let least = given.unwrap_or(1);
            if length.saturating_add(least) > most {
                let text = format!(
                    "prompt and answer may have {most} tokens together; the prompt has {length}, and {least} are wanted after it"
                );
                let field = if chat { "messages" } else { "prompt" };
                return Err(Refusal {
                    param: Some(field.into()),
                    ..Refusal::new(400, "context_length_exceeded", text)
                });
            }
        }
        let max_new_tokens = given.unwrap_or(usual);
        let seed = match self.0.get("seed") {
            None => house.usual.seed,
            Some(value) => match (value.as_u64(), value.as_i64()) {
                (Some(seed), _) => seed,
                (_, Some(seed)) => seed as u64,
                _ => return Err(wrong("seed", "a whole number", value)),
            },
        };
        Ok(GenerateOptions {
            max_new_tokens,
            min_new_tokens: match chat {
                true => house.usual.min_new_tokens.min(max_new_tokens),
                false => 0,
            },
            window: house.context,
            seed,
            ..house.usual.clone()
        })
    }
}

fn wrong(name: &str, what: &str, value: &Value) -> Refusal {
    let mut shown = value.to_string();
    if shown.chars().count() > 60 {
        shown = shown.chars().take(60).chain(['…']).collect();
    }
    Refusal::field(name, format!("{name} must be {what}, got {shown}"))
}

/// The prompts of a completion: a text, texts, token ids, or lists of them.
fn prompts(house: &House, fields: &Fields) -> Result<Vec<(Vec<u32>, String)>, Refusal> {
    let Some(value) = fields.0.get("prompt") else {
        return Err(Refusal::field("prompt", "prompt must be given"));
    };
    let wrong = || wrong("prompt", "a string, token ids, or a list of either", value);
    let all: Vec<Value> = match value {
        Value::String(_) => vec![value.clone()],
        Value::Array(all) if all.iter().all(Value::is_number) => vec![value.clone()],
        Value::Array(all) => all.clone(),
        _ => return Err(wrong()),
    };
    if all.len() > PROMPTS {
        let text = format!(
            "a request may have {PROMPTS} prompts, this one has {}",
            all.len()
        );
        return Err(Refusal::field("prompt", text));
    }
    let one = |value: &Value| match value {
        Value::String(text) => of_text(house, text),
        Value::Array(ids) => {
            let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
            let ids: Option<Vec<u32>> = ids.iter().map(id).collect();
            let ids = ids.ok_or_else(wrong)?;
            let text = house.tokenizer.decode(&ids);
            Ok((ids, text))
        }
        _ => Err(wrong()),
    };
    let all = all.iter().map(one).collect::<Result<Vec<_>, Refusal>>()?;
    let most = house.usual.vocabulary;
    for (ids, _) in &all {
        if ids.is_empty() {
            let text = "a prompt must have a token to be continued; this one is empty";
            return Err(Refusal::field("prompt", text));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= most) {
            let text = format!("token {id} must be below {most}, the tokenizer's vocabulary");
            return Err(Refusal::field("prompt", text));
        }
    }
    Ok(all)
}

/// A text's ids, after the beginning-of-text token where the tokenizer adds one.
fn of_text(house: &House, text: &str) -> Result<(Vec<u32>, String), Refusal> {
    let tokenizer = &house.tokenizer;
    let ids = tokenizer.ids(text);
    let mut ids = ids.map_err(|e| Refusal::field("prompt", format!("prompt: {e}")))?;
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    if let Some(bos) = bos.filter(|bos| ids.first() != Some(bos)) {
        ids.insert(0, bos);
    }
    Ok((ids, text.to_owned()))
}

/// The ids of a conversation up to where the answer begins; the recipe's system message stands
/// before one that has none.
fn conversation(house: &House, fields: &Fields) -> Result<Vec<u32>, Refusal> {
    let messages = fields.0.get("messages").and_then(Value::as_array);
    let messages = messages.filter(|all| !all.is_empty()).ok_or_else(|| {
        Refusal::field(
            "messages",
            "messages must be a list of at least one message",
        )
    })?;
    let mut all = messages
        .iter()
        .enumerate()
        .map(|(i, m)| message(i, m))
        .collect::<Result<Vec<_>, _>>()?;
    if let (Some(text), Some("user" | "assistant")) =
        (&house.system, all.first().map(Message::role))
    {
        all.insert(0, Message::new("system", text.clone()));
    }
    let ids = house.tokenizer.prompt(&all);
    ids.map_err(|e| Refusal::field("messages", format!("messages: {e}")))
}

fn message(number: usize, value: &Value) -> Result<Message, Refusal> {
    let place = format!("messages[{number}]");
    let Some(map) = value.as_object() else {
        return Err(wrong(&place, "an object with role and content", value));
    };
    let known = ["role", "content", "name"];
    let stray = map
        .iter()
        .find(|(name, value)| !known.contains(&name.as_str()) && !value.is_null());
    if let Some((name, value)) = stray {
        return Err(wrong(
            &format!("{place}.{name}"),
            "left out: it is not done here",
            value,
        ));
    }
    let role = match value["role"].as_str() {
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant")) => role,
        _ => {
            let what = "system, developer, user or assistant";
            return Err(wrong(&format!("{place}.role"), what, &value["role"]));
        }
    };
    let text = |part: &Value| match part["type"] == "text" {
        true => part["text"].as_str().map(str::to_owned),
        false => None,
    };
    let content: Option<String> = match &value["content"] {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => parts.iter().map(text).collect(),
        _ => None,
    };
    match content {
        Some(content) => Ok(Message::new(role, content)),
        None => Err(wrong(
            &format!("{place}.content"),
            "a string, or a list of parts of type text",
            &value["content"],
        )),
    }
}
