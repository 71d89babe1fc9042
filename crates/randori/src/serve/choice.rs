//! One answer as it grows: its tokens, the text that is whole of them, and what of both a client
//! has been told.

use randori_engine::{Likely, Token};
use serde_json::{Map, Value, json};

use super::ask::Wanted;
use super::house::House;

/// An answer.
#[derive(Default)]
pub struct Choice {
    /// What was drawn.
    pub tokens: Vec<u32>,
    /// Its text so far, up to a string that stops it; all of it once it is over.
    text: String,
    /// Bytes of the text that were told.
    told: usize,
    /// What was not told yet: token, and what the model thought there (not for a prompt's first).
    places: Vec<(u32, Option<Likely>)>,
    /// Letters before the next place.
    letters: usize,
    /// Why it is over: `stop` or `length`.
    pub finish: Option<&'static str>,
}

impl Choice {
    /// Begins with the prompt.
    pub fn echo(&mut self, prompt: &[u32], text: &str) {
        self.text = text.to_owned();
        self.places.extend(prompt.iter().map(|id| (*id, None)));
    }

    /// The log-probs of an echoed prompt.
    pub fn read(&mut self, read: Vec<Likely>) {
        for (place, likely) in self.places.iter_mut().skip(1).zip(read) {
            place.1 = Some(likely);
        }
    }

    /// Takes the next token; whole texts are made of it where somebody looks at them.
    pub fn take(&mut self, house: &House, wanted: &Wanted, echoed: &str, token: Token) {
        self.tokens.push(token.id);
        if wanted.logprobs.is_some() {
            self.places.push((token.id, Some(token.likely)));
        }
        self.finish = token
            .last
            .map(|ended| if ended { "stop" } else { "length" });
        if self.finish.is_none() && wanted.stops.is_empty() && !wanted.stream {
            return;
        }
        let said = house.tokenizer.decode(&self.tokens);
        let first = wanted
            .stops
            .iter()
            .filter_map(|stop| said.find(stop.as_str()))
            .min();
        let said = match first {
            Some(at) => {
                self.finish = Some("stop");
                &said[..at]
            }
            None => &said,
        };
        let whole = match self.finish {
            Some(_) => said,
            None => safe(said, &wanted.stops),
        };
        self.text = [echoed, whole].concat();
    }

    /// What of the text was not told yet. A decoder that takes something back is not followed: what
    /// was told stays.
    pub fn news(&mut self) -> String {
        let text = self.text.get(self.told..).unwrap_or_default().to_owned();
        self.told = self.told.max(self.text.len());
        text
    }

    /// Completions' log-probs of what was not told yet.
    pub fn completion_logprobs(&mut self, house: &House) -> Value {
        let (mut tokens, mut logps, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
        for (id, likely) in self.places.drain(..) {
            let (text, letters) = house.piece(id);
            tokens.push(Value::from(text));
            logps.push(likely.as_ref().map_or(Value::Null, |l| json!(l.logp)));
            tops.push(likely.map_or(Value::Null, |l| top(house, &l)));
            offsets.push(Value::from(self.letters));
            self.letters += letters;
        }
        json!({"tokens": tokens, "token_logprobs": logps, "top_logprobs": tops, "text_offset": offsets})
    }

    /// A conversation's log-probs of what was not told yet; the token that ends a turn is none of
    /// its content.
    pub fn chat_logprobs(&mut self, house: &House) -> Value {
        let entry = |id: u32, logp: f64| {
            let (token, letters) = house.piece(id);
            let bytes = (letters > 0).then(|| token.as_bytes().to_vec());
            json!({"token": token, "logprob": logp, "bytes": bytes})
        };
        let mut content = Vec::new();
        for (id, likely) in self.places.drain(..) {
            let Some(likely) = likely.filter(|_| !house.tokenizer.stop_ids().contains(&id)) else {
                continue;
            };
            let mut one = entry(id, likely.logp);
            let others = likely.top.iter().map(|(id, logp)| entry(*id, *logp));
            one["top_logprobs"] = others.collect();
            content.push(one);
        }
        json!({"content": content, "refusal": null})
    }
}

/// The likeliest tokens by their texts, each its own.
fn top(house: &House, likely: &Likely) -> Value {
    let mut map = Map::new();
    for (id, logp) in &likely.top {
        let (mut text, _) = house.piece(*id);
        if map.contains_key(&text) {
            text = format!("token_id:{id}");
        }
        map.insert(text, json!(logp));
    }
    Value::Object(map)
}

/// The part of an unfinished text that stays as it is: without a letter of which bytes are still to
/// come, and without what may be the beginning of a string that stops it.
fn safe<'a>(text: &'a str, stops: &[String]) -> &'a str {
    let text = text.trim_end_matches('\u{fffd}');
    let begins = |from: usize| {
        let end = &text[from..];
        stops.iter().any(|stop| stop.starts_with(end))
    };
    let at = text.char_indices().map(|(at, _)| at).find(|at| begins(*at));
    &text[..at.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::safe;

    #[test]
    fn what_may_become_a_stop_is_held_back() {
        let stops = ["\n\nQ:".to_owned(), "END".to_owned()];
        assert_eq!(safe("one two", &stops), "one two");
        assert_eq!(safe("one\n", &stops), "one");
        assert_eq!(safe("one\n\nQ", &stops), "one");
        assert_eq!(safe("one\nQ", &stops), "one\nQ");
        assert_eq!(safe("the EN", &stops), "the ");
        assert_eq!(safe("the end \u{fffd}", &[]), "the end ");
    }
}
