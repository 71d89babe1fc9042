//! Fuzzing of tokenizers, chat templates and data sets.

use std::path::{Path, PathBuf};

use randori_data::{ChatTemplate, Message, ReadOptions, Result, Tokenizer, Turns, read_bytes};

use super::{CASES, mutate::Kind, storm::storm};

fn fixture(name: &str) -> Vec<u8> {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../data/tests/fixtures")
        .join(name);
    std::fs::read(&path).unwrap()
}

/// Whether a tokenizer was made; if so it is used, which may fail but not fall over.
pub fn works(made: Result<Tokenizer>) -> bool {
    let Ok(tokenizer) = made else {
        return false;
    };
    let talk = [
        Message::user("Hello ab 12"),
        Message::new("assistant", "abc"),
    ];
    let _ = tokenizer.prompt(&talk[..1]);
    let _ = tokenizer.stop_ids();
    let _ = tokenizer.response(&talk[..1], "abc 42");
    let _ = tokenizer.cut_response(&talk[..1], " a\n");
    if let Ok(ids) = tokenizer.ids("Hello, ab 12 \u{e9}\u{1f600} abc") {
        tokenizer.decode(&ids);
    }
    let size = tokenizer.vocab_size() as u32;
    tokenizer.decode(&[0, 1, size.saturating_sub(1), size, u32::MAX]);
    let _ = tokenizer.files();
    true
}

const CONFIG: &[u8] = br#"{"eos_token": "<|im_end|>", "bos_token": {"content": "<s>", "special": true}, "model_max_length": 64,
    "chat_template": [{"name": "default", "template": "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"}]}"#;
const TEMPLATE: &str = "{{ bos_token }}{%- set ns = namespace(n=0) -%}{% for m in messages[::1] %}{% if loop.index0 > 3 and m.role != 'user' %}\
    {{ raise_exception('no') }}{% endif %}<|im_start|>{{ m['role'] ~ '\n' + m.content | trim | tojson(indent=2) }}<|im_end|>\n\
    {%- set ns.n = ns.n + 1 %}{% endfor %}{% for i in range(3) %}{{ 'x' * 2 }}{{ i }}{% endfor %}{{ strftime_now('%d %b %Y') }}\
    {{ messages[0].content.split('a')[0].upper() }}{% macro f(a) %}{{ a * 10 }}{% endmacro %}{{ f(2) }}{{ 3 ** 2 // 3 }}\
    {% if add_generation_prompt %}<|im_start|>{% endif %}";

#[test]
fn tokenizers() {
    let json = fixture("tokenizer.json");
    let name = "tokenizer.json";
    storm(
        name,
        Kind::Text,
        std::slice::from_ref(&json),
        CASES,
        &mut |damaged| works(Tokenizer::from_bytes(damaged, None, Some(TEMPLATE))),
    );
    storm(
        "tokenizer_config.json",
        Kind::Text,
        &[CONFIG.to_vec()],
        CASES,
        &mut |damaged| works(Tokenizer::from_bytes(&json, Some(damaged), None)),
    );
    let lists = [fixture("sentencepiece.json")];
    storm(
        "gguf tokenizer's lists",
        Kind::Text,
        &lists,
        CASES,
        &mut |damaged| {
            serde_json::from_slice(damaged).is_ok_and(|lists| works(Tokenizer::from_gguf(&lists)))
        },
    );
}

#[test]
fn chat_templates() {
    let talk = [
        Message::user("Hello ab 12"),
        Message::new("assistant", "abc"),
    ];
    storm(
        "chat template",
        Kind::Text,
        &[TEMPLATE.into()],
        CASES,
        &mut |damaged| {
            let text = String::from_utf8_lossy(damaged);
            ChatTemplate::new(&text).is_ok_and(|template| template.render(&talk, true).is_ok())
        },
    );
}

const LINES: &str = r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Lo 1"}]}
{"prompt": "2+2?", "response": "4", "rejected": "5"}
{"instruction": "add", "input": "1 2", "output": "3"}
{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
{"real": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "x"}], "generated": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "y"}]}
{"question": "q", "answer": "<<48/2=24>>24 \u00e9 #### 24"}
"#;

fn reads(name: &str, kind: Kind, inputs: &[Vec<u8>], count: u64) {
    let options = ReadOptions {
        turns: Turns::Every,
        ..ReadOptions::default()
    };
    storm(name, kind, inputs, count, &mut |damaged| {
        read_bytes(&format!("data.{name}"), damaged, &options).is_ok()
    });
}

#[test]
fn data_sets() {
    let lines: Vec<String> = LINES.lines().map(str::to_string).collect();
    let array = format!("[\n{}\n]\n", lines.join(",\n"));
    reads("jsonl", Kind::Text, &[LINES.into()], CASES);
    reads("json array", Kind::Text, &[array.into()], CASES);
    let table = b"prompt,response,label\n\"2+2?\",\"4, \"\"four\"\"\",True\n3+3?,6,1\n";
    reads("csv", Kind::Text, &[table.to_vec()], CASES);
}

#[test]
fn parquet() {
    reads(
        "parquet",
        Kind::Bytes,
        &[
            fixture("messages.parquet"),
            fixture("columns/brotli.parquet"),
            fixture("columns/lz4.parquet"),
        ],
        CASES,
    );
}
