//! Keys of `tokenizer_config.json` that change ids: the ids are those of transformers 5.24.0's
//! AutoTokenizer on a folder with the same files.

use std::path::Path;

use randori_data::{Result, Tokenizer};
use serde_json::{Value, json};

const TEXT: &str = "the throw<|im_end|>the";
const NO_SPACE: [u32; 6] = [270, 82, 285, 4, 270, 82];
const SPACE: [u32; 4] = [284, 285, 4, 284];

/// The fixture's tokenizer, its pre-tokenizer changed by `step`, beside a configuration.
fn opened(name: &str, step: &dyn Fn(&mut Value), config: &Value, model: &str) -> Result<Tokenizer> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("settings-{name}"));
    std::fs::create_dir_all(&dir).unwrap();
    let mut whole: Value =
        serde_json::from_slice(include_bytes!("fixtures/tokenizer.json")).unwrap();
    step(&mut whole["pre_tokenizer"]);
    let model = json!({"model_type": model});
    for (file, content) in [
        ("tokenizer.json", &whole),
        ("tokenizer_config.json", config),
        ("config.json", &model),
    ] {
        std::fs::write(dir.join(file), content.to_string()).unwrap();
    }
    Tokenizer::from_folder(&dir)
}

#[test]
fn a_leading_space_is_the_classs_where_it_has_one_of_its_own() {
    let keys = [
        json!({}),
        json!({"add_prefix_space": false}),
        json!({"add_prefix_space": true}),
    ];
    // by the keys: absent, false, true
    let own: [&[u32]; 3] = [&NO_SPACE, &NO_SPACE, &SPACE];
    let off: [&[u32]; 3] = [&NO_SPACE; 3];
    let on: [&[u32]; 3] = [&SPACE; 3];
    for (class, model, stored, right) in [
        ("GPT2Tokenizer", "llama", false, own),
        ("GPT2Tokenizer", "llama", true, own),
        ("GPT2TokenizerFast", "llama", true, own),
        ("GPTNeoXTokenizerFast", "llama", false, own),
        ("GPT2TokenizerFast", "mistral", false, off),
        ("GPT2TokenizerFast", "mistral", true, on),
        ("PreTrainedTokenizerFast", "llama", false, off),
        ("PreTrainedTokenizerFast", "llama", true, on),
        ("LlamaTokenizerFast", "llama", false, off),
        ("LlamaTokenizerFast", "llama", true, on),
        ("", "llama", false, off),
        ("", "llama", true, on),
    ] {
        for (key, right) in keys.iter().zip(right) {
            let mut config = key.clone();
            if !class.is_empty() {
                config["tokenizer_class"] = class.into();
            }
            let step = |step: &mut Value| step["add_prefix_space"] = stored.into();
            let tokenizer = opened("space", &step, &config, model).unwrap();
            let ids = tokenizer.ids(TEXT).unwrap();
            assert_eq!(ids, right, "{class} {model} {stored} {key}");
        }
    }
}

#[test]
fn what_cannot_be_obeyed_is_refused_with_file_and_key() {
    let kept = |_: &mut Value| {};
    let several = |step: &mut Value| {
        let digits = json!({"type": "Digits", "individual_digits": true});
        *step = json!({"type": "Sequence", "pretokenizers": [digits, step.clone()]});
    };
    let metaspace = |scheme: &'static str| {
        move |step: &mut Value| {
            *step = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
        }
    };
    let gpt2 = json!({"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": true});
    let llama =
        |space: bool| json!({"tokenizer_class": "LlamaTokenizer", "add_prefix_space": space});
    let cases: [(&dyn Fn(&mut Value), Value, &str); 5] = [
        (
            &kept,
            json!({"split_special_tokens": true}),
            "split_special_tokens is true: ",
        ),
        (
            &kept,
            json!({"add_prefix_space": "yes"}),
            "add_prefix_space should be true or false, is \"yes\"",
        ),
        (
            &several,
            gpt2,
            "add_prefix_space is true for the class GPT2Tokenizer, but the steps of tokenizer.json put no ",
        ),
        (
            &metaspace("first"),
            llama(false),
            "add_prefix_space is false for the class LlamaTokenizer, but ",
        ),
        (
            &metaspace("never"),
            llama(true),
            "add_prefix_space is true for the class LlamaTokenizer, but ",
        ),
    ];
    for (step, config, why) in cases {
        let error = opened("refused", step, &config, "llama")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("tokenizer_config.json: {why}")),
            "{error}"
        );
    }
    let agreed: [(&dyn Fn(&mut Value), Value); 4] = [
        (&metaspace("first"), llama(true)),
        (&metaspace("never"), llama(false)),
        (
            &several,
            json!({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": false}),
        ),
        (
            &kept,
            json!({"split_special_tokens": false, "add_prefix_space": null}),
        ),
    ];
    for (step, config) in agreed {
        opened("agreed", step, &config, "llama").unwrap();
    }
}

/// Measured key by key: no other ids in transformers 5.24.0.
#[test]
fn keys_that_change_no_ids() {
    for (key, value) in [
        ("add_bos_token", json!(false)),
        ("add_eos_token", json!(true)),
        ("legacy", json!(true)),
        ("do_lower_case", json!(true)),
        ("strip_accents", json!(true)),
        ("clean_up_tokenization_spaces", json!(true)),
        ("model_max_length", json!(3)),
        ("truncation_side", json!("left")),
        ("padding_side", json!("left")),
    ] {
        for class in ["GPT2Tokenizer", "LlamaTokenizer", "PreTrainedTokenizerFast"] {
            let config = json!({"tokenizer_class": class, key: value});
            let tokenizer = opened("same", &|_| {}, &config, "llama").unwrap();
            assert_eq!(tokenizer.ids(TEXT).unwrap(), NO_SPACE, "{class} {key}");
        }
    }
}
