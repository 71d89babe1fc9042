//! A request's JSON, checked: what is wanted of which player. A field that is not known is refused,
//! since an answer that ignores it would not be the one that was asked for.

use std::sync::Arc;

use randori_engine::GenerateOptions;
use randori_sdk::seam;
use serde_json::{Map, Value};

use super::house::House;
use super::prompts::{conversation, prompts};
use super::refusal::{Refusal, wrong};

/// Fields of both kinds of request.
const BOTH: [&str; 18] = [
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
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
];
const COMPLETION: [&str; 4] = ["prompt", "echo", "best_of", "suffix"];
const CHAT: [&str; 11] = [
    "messages",
    "max_completion_tokens",
    "top_logprobs",
    "response_format",
    "store",
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "parallel_tool_calls",
    "modalities",
];
/// Most tokens that are told beside each.
const TOP: usize = 20;
/// Temperatures below it are 0: what the sampler of that name does not take.
const COLDEST: f64 = 0.01;
/// Most strings that stop an answer.
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
            true => vec![(conversation(house, &fields.0)?, String::new())],
            false => prompts(house, &fields.0)?,
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
            "tools" | "functions" => value.as_array().is_some_and(Vec::is_empty),
            "tool_choice" | "function_call" => value == "none" || value == "auto",
            "modalities" => *value == serde_json::json!(["text"]),
            _ => true, // what is written down beside a request and changes no answer
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
        // so near 0 nothing but the likeliest token is drawn
        let temperature = temperature.map(|t| if (0.0..COLDEST).contains(&t) { 0.0 } else { t });
        let sampler = |field: &str, name: &str, options: &[(String, seam::Value)]| {
            let made = house.host.sampler(name, options);
            made.map_err(|e| Refusal::field(field, e.to_string()))
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

    /// `max_tokens`, or `max_completion_tokens` as it is called since.
    fn most_new(&self, echo: bool) -> Result<Option<usize>, Refusal> {
        let least = if echo { 0 } else { 1 };
        let of = |name: &str| {
            let Some(value) = self.0.get(name) else {
                return Ok(None);
            };
            let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
            match count.filter(|count| *count >= least) {
                Some(count) => Ok(Some(count)),
                None => {
                    let what = format!("a whole number of at least {least}, or left out");
                    Err(wrong(name, &what, value))
                }
            }
        };
        let (old, new) = ("max_tokens", "max_completion_tokens");
        match (of(old)?, of(new)?) {
            (Some(one), Some(other)) if one != other => Err(Refusal::field(
                new,
                format!("{new} is {other} and {old} is {one}, which mean the same; give one"),
            )),
            (one, other) => Ok(other.or(one)),
        }
    }

    /// Limits and seed; every prompt must leave room for what is asked after it.
    fn options(
        &self,
        house: &House,
        prompts: &[(Vec<u32>, String)],
        chat: bool,
        echo: bool,
    ) -> Result<GenerateOptions, Refusal> {
        let given = self.most_new(echo)?;
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
