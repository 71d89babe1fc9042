//! Stop tokens from a model's generation settings: the ids at which transformers 5.24.0's
//! `generate` stops with the same files, or an error where it has one; settings that are not
//! followed are reported.

use randori_data::{Result, Tokenizer};
use serde_json::{Value, json};

use crate::demo::folder;

const SETTINGS: &str = "generation_config.json";

fn read(name: &str, file: &str, content: &Value) -> Result<Tokenizer> {
    let dir = folder(
        &format!("stops-{name}"),
        &json!({}),
        &[(file, content.clone())],
    );
    Tokenizer::from_folder(&dir)
}

/// The demo's own end of text is 0.
#[test]
fn ids_are_numbers_or_refused() {
    for (i, (value, of_settings, of_config)) in [
        (json!(265), Some(&[0, 265][..]), Some(&[0, 265][..])),
        (json!([0, 265]), Some(&[0, 265][..]), Some(&[0, 265][..])),
        (json!(null), Some(&[0][..]), Some(&[0][..])),
        (json!([]), Some(&[0][..]), Some(&[0][..])),
        (json!(265.0), Some(&[0, 265][..]), None),
        (json!([55, 265.0]), Some(&[0, 55, 265][..]), None),
        // numbers that no token has
        (json!(-1), Some(&[0][..]), Some(&[0][..])),
        (
            json!([55, 1u64 << 40]),
            Some(&[0, 55][..]),
            Some(&[0, 55][..]),
        ),
        (json!("265"), None, None),
        (json!([[265], 55]), None, None),
        (json!([null]), None, None),
        // 265 and 1 to transformers' generate, which nobody can have meant
        (json!(265.5), None, None),
        (json!(true), None, None),
    ]
    .iter()
    .enumerate()
    {
        let content = json!({"eos_token_id": value});
        for (file, right) in [(SETTINGS, of_settings), ("config.json", of_config)] {
            let tokenizer = read(&format!("{i}"), file, &content);
            match right {
                Some(right) => {
                    let right: &[u32] = right;
                    assert_eq!(tokenizer.unwrap().stop_ids(), right, "{file} {value}");
                }
                None => {
                    let error = tokenizer.unwrap_err().to_string();
                    let why = format!(
                        "{file}: eos_token_id must be a token's id or a list of them, is {value}"
                    );
                    assert!(error.ends_with(&why), "{error}");
                }
            }
        }
    }
}

#[test]
fn settings_that_nobody_reads_are_said() {
    let content = json!({
        "eos_token_id": 0, "temperature": 0.6, "do_sample": true, "max_length": 20, "min_length": 0,
        "bad_words_ids": [], "stop_strings": ["\n\n"], "suppress_tokens": [1, 2],
        "forced_bos_token_id": 0, "no_repeat_ngram_size": 3, "sequence_bias": null,
    });
    let tokenizer = read("said", SETTINGS, &content).unwrap();
    let right = "generation_config.json: not read: `forced_bos_token_id`, `no_repeat_ngram_size`, \
                 `stop_strings`, `suppress_tokens`; no token is banned or forced, and ids alone \
                 end an answer";
    assert_eq!(tokenizer.notes(), [right]);
    let tokenizer = read("silent", SETTINGS, &json!({"eos_token_id": 0})).unwrap();
    assert!(tokenizer.notes().is_empty());
}
