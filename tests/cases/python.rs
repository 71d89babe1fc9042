//! Chat templates render as in Python's jinja2; tokenizers load as in transformers.

use std::fs;

use serde_json::Value;

use crate::program::World;

/// Prompt ids of a pair that asks "Hi", with these changes to the tokenizer's config and this chat
/// template.
fn prompt(config: &Value, template: &str) -> Vec<u64> {
    let w = world(config, template);
    w.accepted(&[
        "score",
        "r.toml",
        "--pairs",
        "p.jsonl",
        "-o",
        "out.jsonl",
        "-q",
    ]);
    let out = fs::read_to_string(w.dir().join("out.jsonl")).unwrap();
    let row: Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    let ids = row["prompt"].as_array().unwrap();
    ids.iter().map(|id| id.as_u64().unwrap()).collect()
}

/// A world whose model has rows for 352 tokens, 15 more than its tokenizer.
fn world(config: &Value, template: &str) -> World {
    let w = World::new();
    let read = |path: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(w.dir().join(path)).unwrap()).unwrap()
    };
    let mut model = read("config.json");
    model["vocab_size"] = 352.into();
    w.file("config.json", &model.to_string());
    let mut tokenizer = read("tokenizer/tokenizer_config.json");
    for (key, value) in config.as_object().unwrap() {
        tokenizer[key] = value.clone();
    }
    w.file("tokenizer/tokenizer_config.json", &tokenizer.to_string());
    w.file("tokenizer/chat_template.jinja", template);
    w.file(
        "p.jsonl",
        r#"{"prompt": "Hi", "chosen": "No.", "rejected": "Yes."}"#,
    );
    w
}

/// Ids of transformers 5.24.0: `apply_chat_template` of the same folder, then the tokenizer without
/// special tokens added.
#[test]
fn special_tokens_named_only_in_tokenizer_config() {
    let template = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}\
                    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let both = serde_json::json!({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]});
    assert_eq!(
        prompt(&both, template),
        [
            337, 121, 119, 262, 14, 76, 109, 338, 14, 337, 101, 119, 119, 109, 119, 120, 101, 114,
            120, 14
        ]
    );
    let pad = serde_json::json!({"pad_token": "<pad>"});
    let template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}\
                    {% if add_generation_prompt %}<pad><|assistant|>{% endif %}";
    assert_eq!(prompt(&pad, template), [1, 76, 109, 0, 337, 2]);
}

/// Ids of transformers 5.24.0, as above.
#[test]
fn templates_compute_and_print_as_python() {
    let crlf = "{% for m in messages %}<|{{m.role}}|>\r\n{{m.content}}<|end|>\r\n{% endfor %}\
                {% if add_generation_prompt %}<|assistant|>\r\n{% endif %}";
    let none = serde_json::json!({});
    assert_eq!(prompt(&none, crlf), [1, 14, 76, 109, 0, 14, 2, 14]);
    let values = "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{{ m.content }}<|end|>\
                  {% continue %}{% endif %}{{ [m.content, none, true] }}{{ m.content[::-1] }}{{ '' and 'x' }}\
                  {{ '%s' % m.content }}{{ {'a': [1.0]} | tojson(separators=(',', ':')) }}\
                  {% for c in m.content %}{{ loop.last }}{% endfor %}{{ -7 // 2 }}<|end|>{% endfor %}\
                  {% if add_generation_prompt %}<|assistant|>{% endif %}";
    // ['Hi', None, True]iHHi{"a":[1.0]}FalseTrue-4
    assert_eq!(
        prompt(&none, values),
        [
            1, 95, 43, 76, 109, 43, 48, 36, 82, 115, 114, 105, 48, 36, 88, 118, 121, 105, 97, 109,
            76, 76, 109, 127, 38, 101, 38, 62, 95, 53, 50, 52, 97, 129, 74, 101, 112, 119, 105, 88,
            118, 121, 105, 49, 56, 0, 2
        ]
    );
}
