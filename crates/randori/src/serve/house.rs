//! What every connection of a server shares: the model, its players by name, the limits.

use randori_data::Tokenizer;
use randori_engine::GenerateOptions;
use randori_host::Host;
use serde_json::{Value, json};

use super::refusal::Refusal;

/// What is served, and within which limits.
pub struct House {
    /// Its tokenizer and chat template.
    pub tokenizer: Tokenizer,
    /// Its samplers.
    pub host: Host,
    /// A name for each player that can be asked, with the player's number; the first is the default
    /// one's.
    pub models: Vec<(String, usize)>,
    /// How answers are made where a request does not say: as `chat` makes them.
    pub usual: GenerateOptions,
    /// The recipe's system message.
    pub system: Option<String>,
    /// Most tokens of prompt and answer together.
    pub context: usize,
    /// Unix time of its beginning.
    pub since: u64,
}

impl House {
    /// The player that goes by this name.
    ///
    /// # Errors
    /// There is none.
    pub fn player(&self, name: &str) -> Result<usize, Refusal> {
        let found = self.models.iter().find(|(own, _)| own == name);
        found.map(|(_, player)| *player).ok_or_else(|| {
            let names: Vec<&str> = self.models.iter().map(|(own, _)| own.as_str()).collect();
            let text = format!("there is no model {name:?}; there are {}", names.join(", "));
            Refusal {
                param: Some("model".into()),
                ..Refusal::new(404, "model_not_found", text)
            }
        })
    }

    /// OpenAI's list of models.
    pub fn list(&self) -> Value {
        let each = self.models.iter().map(|(name, _)| self.model(name));
        json!({"object": "list", "data": each.collect::<Vec<Value>>()})
    }

    /// One of them.
    pub fn model(&self, name: &str) -> Value {
        json!({"id": name, "object": "model", "created": self.since, "owned_by": "randori"})
    }

    /// A token's own text, and how many letters it is; pieces of a letter and special tokens are
    /// shown as in the vocabulary.
    pub fn piece(&self, id: u32) -> (String, usize) {
        let spelled = || {
            self.tokenizer
                .token(id)
                .unwrap_or_else(|| format!("token {id}"))
        };
        if self.tokenizer.stop_ids().contains(&id) {
            return (spelled(), 0);
        }
        // behind another token, since decoders drop the space before a first one
        let both = self.tokenizer.decode(&[id, id]);
        let one = self.tokenizer.decode(&[id]);
        let text = both.strip_prefix(&one).unwrap_or(&one);
        match text.is_empty() || text.contains('\u{fffd}') {
            true => (spelled(), 0),
            false => (text.to_owned(), text.chars().count()),
        }
    }
}
