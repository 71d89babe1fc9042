//! Tokenizers converted to GGUF metadata and back: the same ids, or a clear refusal.

use crate::texts::texts;
use randori_data::{GgufTokenizer, Message, Tokenizer};
use serde_json::{Value, json};

const TOKENIZER: &str = include_str!("fixtures/tokenizer.json");
const SENTENCEPIECE: &str = include_str!("fixtures/sentencepiece.json");
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn byte_level(change: impl Fn(&mut Value)) -> Tokenizer {
    let mut json: Value = serde_json::from_str(TOKENIZER).unwrap();
    change(&mut json);
    let config = br#"{"bos_token": "<s>", "eos_token": "<|im_end|>", "pad_token": "<|pad|>"}"#;
    let template = include_str!("fixtures/templates/chatml.jinja");
    Tokenizer::from_bytes(json.to_string().as_bytes(), Some(config), Some(template)).unwrap()
}

fn same(a: &Tokenizer, b: &Tokenizer, n: usize) {
    let mut tokens = 0;
    for text in texts(n) {
        let ids = a.ids(&text).unwrap();
        tokens += ids.len();
        assert_eq!(ids, b.ids(&text).unwrap(), "{text:?}");
    }
    assert!(tokens > 10 * n);
    assert_eq!(a.stop_ids(), b.stop_ids());
    assert_eq!((a.bos(), a.eos(), a.pad()), (b.bos(), b.eos(), b.pad()));
    assert_eq!(a.adds_bos(), b.adds_bos());
    let turns = [
        Message::user("Who?"),
        Message::assistant("Me."),
        Message::user(" Why? "),
    ];
    assert_eq!(a.prompt(&turns).unwrap(), b.prompt(&turns).unwrap());
}

#[test]
fn byte_level_tokenizers_come_back() {
    let split = |pattern: &str, behavior: &str, invert: bool| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert});
    let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let digits = json!({"type": "Digits", "individual_digits": true});
    let sequence = |steps: Vec<Value>| json!({"type": "Sequence", "pretokenizers": steps});
    for (pre, whole_words, name) in [
        (bytes(true), false, "gpt-2"),
        (sequence(vec![digits, bytes(true)]), false, "smollm"),
        (
            sequence(vec![split(LLAMA3, "Isolated", false), bytes(false)]),
            true,
            "llama-bpe",
        ),
        (
            sequence(vec![split(LLAMA3, "Removed", true), bytes(false)]),
            false,
            "dbrx",
        ),
    ] {
        let tokenizer = byte_level(|json| {
            json["pre_tokenizer"] = pre.clone();
            json["model"]["ignore_merges"] = whole_words.into();
        });
        let gguf = tokenizer.to_gguf().unwrap();
        assert_eq!(
            (gguf.model.as_str(), gguf.pre.as_deref()),
            ("gpt2", Some(name))
        );
        assert_eq!((gguf.add_bos, gguf.add_eos), (Some(true), Some(false)));
        assert!(gguf.scores.is_empty() && gguf.merges.len() > 100);
        let id = tokenizer.ids("<|im_start|>").unwrap()[0] as usize;
        assert_eq!((gguf.token_types[id], gguf.token_types[400]), (3, 1));
        same(&tokenizer, &Tokenizer::from_gguf(&gguf).unwrap(), 3000);
    }
}

#[test]
fn merges_become_scores() {
    let mut given: GgufTokenizer = serde_json::from_str(SENTENCEPIECE).unwrap();
    given.add_space_prefix = Some(true);
    let tokenizer = Tokenizer::from_gguf(&given).unwrap();
    let made = tokenizer.to_gguf().unwrap();
    assert_eq!((&made.model, &made.tokens), (&given.model, &given.tokens));
    assert_eq!(made.token_types, given.token_types);
    assert_eq!(
        (made.bos, made.eos, made.unk),
        (given.bos, given.eos, given.unk)
    );
    assert_eq!(
        (made.add_bos, made.add_space_prefix),
        (Some(true), Some(true))
    );
    // SentencePiece's own scores say the same order for every token that a merge makes
    let mut merged: Vec<usize> = (0..made.tokens.len())
        .filter(|id| made.token_types[*id] == 1 && made.tokens[*id].chars().count() > 1)
        .collect();
    assert!(merged.len() > 100);
    merged.sort_by(|a, b| made.scores[*b].total_cmp(&made.scores[*a]));
    assert!(
        merged
            .windows(2)
            .all(|w| given.scores[w[0]] > given.scores[w[1]])
    );
    same(&tokenizer, &Tokenizer::from_gguf(&made).unwrap(), 3000);
}

#[test]
fn a_space_at_the_start_only_follows_the_chats() {
    let gguf: GgufTokenizer = serde_json::from_str(SENTENCEPIECE).unwrap();
    let files = Tokenizer::from_gguf(&gguf).unwrap().files().unwrap();
    let mut json: Value = serde_json::from_slice(&files["tokenizer.json"]).unwrap();
    json["normalizer"] = Value::Null;
    json["pre_tokenizer"] =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false});
    let config = br#"{"bos_token": "<s>", "eos_token": "</s>"}"#;
    let made = |template: Option<&str>| {
        let t = Tokenizer::from_bytes(json.to_string().as_bytes(), Some(config), template).unwrap();
        (t.to_gguf().unwrap(), t)
    };
    let (gguf, tokenizer) = made(Some(include_str!("fixtures/templates/mistral.jinja")));
    // the template begins with <s>, behind which the tokenizer puts no space
    assert_eq!(gguf.add_space_prefix, Some(false));
    let again = Tokenizer::from_gguf(&gguf).unwrap();
    let ask = [Message::user("What is 12 plus 30?")];
    assert_eq!(tokenizer.prompt(&ask).unwrap(), again.prompt(&ask).unwrap());
    assert_eq!(made(None).0.add_space_prefix, Some(true));
}

#[test]
fn ids_without_a_token_are_filled() {
    let tokenizer = byte_level(|json| {
        let last = json["added_tokens"].as_array().unwrap().len() - 1;
        let mut more = json["added_tokens"][last].clone();
        more["id"] = 700.into();
        more["content"] = "<far>".into();
        more["special"] = false.into();
        json["model"]["vocab"]["<far>"] = 700.into();
        json["added_tokens"].as_array_mut().unwrap().push(more);
    });
    let gguf = tokenizer.to_gguf().unwrap();
    assert_eq!(gguf.tokens.len(), 701);
    assert_eq!(
        (gguf.tokens[700].as_str(), gguf.token_types[700]),
        ("<far>", 4)
    );
    assert_eq!(
        (gguf.tokens[699].as_str(), gguf.token_types[699]),
        ("[PAD699]", 5)
    );
    same(&tokenizer, &Tokenizer::from_gguf(&gguf).unwrap(), 300);
}

#[test]
fn what_gguf_cannot_say_is_refused() {
    let refused = |change: &dyn Fn(&mut Value), words: &str| {
        let e = byte_level(change).to_gguf().unwrap_err().to_string();
        assert!(e.contains(words), "{e}");
    };
    refused(
        &|j| j["pre_tokenizer"]["add_prefix_space"] = true.into(),
        "ByteLevel",
    );
    refused(
        &|j| j["model"]["ignore_merges"] = true.into(),
        "ignore_merges",
    );
    refused(
        &|j| j["normalizer"] = json!({"type": "Lowercase"}),
        "Lowercase",
    );
    refused(
        &|j| j["added_tokens"][3]["lstrip"] = true.into(),
        "white space",
    );
    refused(
        &|j| {
            j["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "\\d+"}, "behavior": "Isolated", "invert": false},
                j["pre_tokenizer"].clone()]});
        },
        "no name",
    );
    refused(
        &|j| j["pre_tokenizer"] = json!({"type": "Whitespace"}),
        "byte tokens",
    );
}

#[test]
fn merges_that_scores_cannot_say_are_refused() {
    let gguf: GgufTokenizer = serde_json::from_str(SENTENCEPIECE).unwrap();
    let files = Tokenizer::from_gguf(&gguf).unwrap().files().unwrap();
    let json: Value = serde_json::from_slice(&files["tokenizer.json"]).unwrap();
    let refused = |change: &dyn Fn(&mut Vec<Value>), words: &str| {
        let mut json = json.clone();
        change(json["model"]["merges"].as_array_mut().unwrap());
        let t = Tokenizer::from_bytes(json.to_string().as_bytes(), None, None).unwrap();
        let e = t.to_gguf().unwrap_err().to_string();
        assert!(e.contains(words), "{e}");
    };
    let whole = |m: &Value| {
        let half = |i: usize| m[i].as_str().unwrap().to_owned();
        format!("{}{}", half(0), half(1))
    };
    refused(
        &|merges| drop(merges.pop()),
        "in a way that its merges do not have",
    );
    let mix = |merges: &mut Vec<Value>| {
        // some token that two merges make: the second of them goes to the end
        let at = (1..merges.len())
            .find(|i| whole(&merges[*i]) == whole(&merges[*i - 1]))
            .unwrap();
        let moved = merges.remove(at);
        merges.push(moved);
    };
    refused(&mix, "mixed");
}

#[test]
fn what_llama_cpp_has_not_is_said() {
    let plain = byte_level(|_| {});
    assert_eq!(plain.lost_in_gguf(), None);
    let nfc = byte_level(|json| json["normalizer"] = json!({"type": "NFC"}));
    assert!(nfc.lost_in_gguf().unwrap().contains("NFC"));
    assert!(nfc.to_gguf().is_ok());
}
