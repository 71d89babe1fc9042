//! Mistakes that other implementations made, one test each, named after the mistake.

use randori_data::{ChatTemplate, Error, Message, Tokenizer};
use serde_json::{Value, json};

const TOKENIZER: &[u8] = include_bytes!("fixtures/tokenizer.json");
const CHATML: &str = include_str!("fixtures/templates/chatml.jinja");
const MISTRAL: &str = include_str!("fixtures/templates/mistral.jinja");
const ZEPHYR: &str = include_str!("fixtures/templates/zephyr.jinja");
const S: u32 = 1; // <s>
const END_S: u32 = 2; // </s>
const IM_START: u32 = 3;
const IM_END: u32 = 4;

fn tokenizer(config: Value, template: &str) -> Tokenizer {
    Tokenizer::from_bytes(
        TOKENIZER,
        Some(config.to_string().as_bytes()),
        Some(template),
    )
    .unwrap()
}

fn chatml() -> Tokenizer {
    tokenizer(json!({"eos_token": "<|im_end|>"}), CHATML)
}

fn mistral() -> Tokenizer {
    tokenizer(
        json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}}),
        MISTRAL,
    )
}

fn ask() -> Vec<Message> {
    vec![Message::user("What is 12 plus 30?")]
}

#[test]
fn double_bos() {
    // The tokenizer's own post-processor puts <s> in front, and so does the template.
    let ids = mistral().prompt(&ask()).unwrap();
    assert_eq!(ids.iter().filter(|&&id| id == S).count(), 1);
    assert_eq!(ids[0], S);
    // A template without it gets none, as in transformers.
    assert!(!chatml().prompt(&ask()).unwrap().contains(&S));
}

#[test]
fn bos_inside_response() {
    for tokenizer in [
        mistral(),
        tokenizer(json!({"bos_token": "<s>", "eos_token": "</s>"}), "plain"),
    ] {
        assert!(
            !tokenizer
                .response(&ask(), "The answer is 42.")
                .unwrap()
                .contains(&S)
        );
    }
}

#[test]
fn system_prompt_inside_response() {
    // SmolLM2's way of adding a system message must not show up in the response.
    let ids = chatml().response(&ask(), "42").unwrap();
    assert_eq!(ids.len(), 3);
    assert!(!ids.contains(&IM_START));
}

#[test]
fn end_of_turn_twice() {
    for (tokenizer, end) in [(chatml(), IM_END), (mistral(), END_S)] {
        let ids = tokenizer.response(&ask(), "42").unwrap();
        assert_eq!(ids.iter().filter(|&&id| id == end).count(), 1);
        assert_eq!(ids.last(), Some(&end), "nothing after the end of the turn");
    }
}

#[test]
fn end_of_turn_never_learned() {
    // A template that ends no turn: the end-of-text token ends it.
    let bare = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n\n{% endfor %}\
        {% if add_generation_prompt %}assistant: {% endif %}";
    let ids = tokenizer(json!({"eos_token": "</s>"}), bare)
        .response(&ask(), "42")
        .unwrap();
    assert_eq!(ids.last(), Some(&END_S));
    assert_eq!(
        ids.len(),
        3,
        "the template's blank line is not trained: {ids:?}"
    );
    // And without one, an error.
    let error = tokenizer(json!({}), bare)
        .response(&ask(), "42")
        .unwrap_err()
        .to_string();
    assert!(error.contains("no end-of-text token"), "{error}");
}

#[test]
fn cut_response_without_end_of_turn() {
    let whole = mistral().response(&ask(), "The answer is").unwrap();
    let cut = mistral().cut_response(&ask(), "The answer is").unwrap();
    assert_eq!(cut, whole[..whole.len() - 1]);
    // Where a template trims answers, a cut one keeps its last space: more was to come.
    let trims = CHATML.replace("message['content']", "message['content'] | trim");
    let tokenizer = tokenizer(json!({"eos_token": "<|im_end|>"}), &trims);
    let cut = tokenizer.cut_response(&ask(), "The answer is ").unwrap();
    assert_eq!(tokenizer.decode(&cut), "The answer is ");
    assert_eq!(
        tokenizer.decode(&tokenizer.response(&ask(), "The answer is ").unwrap()),
        "The answer is"
    );
}

#[test]
fn stop_tokens_that_leak() {
    // End of text, end of turn, and the generation config's list, each once.
    let dir = tempdir("stops");
    std::fs::write(dir.join("tokenizer.json"), TOKENIZER).unwrap();
    std::fs::write(
        dir.join("tokenizer_config.json"),
        r#"{"eos_token": "<|endoftext|>"}"#,
    )
    .unwrap();
    std::fs::write(dir.join("chat_template.jinja"), CHATML).unwrap();
    std::fs::write(
        dir.join("generation_config.json"),
        r#"{"eos_token_id": [4, 8]}"#,
    )
    .unwrap();
    let tokenizer = Tokenizer::from_folder(&dir).unwrap();
    assert_eq!(tokenizer.stop_ids(), [0, 4, 8]);
    let text = tokenizer.ids("The answer").unwrap();
    for end in [vec![4], vec![8], vec![0], vec![4, 0], vec![]] {
        assert_eq!(
            tokenizer.decode(&[text.clone(), end].concat()),
            "The answer"
        );
    }
    // Inside the text they are shown, not hidden.
    assert_eq!(
        tokenizer.decode(&[text.clone(), vec![4], text].concat()),
        "The answer<|im_end|>The answer"
    );
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn special_tokens_spelt_in_the_text() {
    // HTML's <s> is a word of the author, not the beginning of text; </s> does not end the turn.
    let tokenizer = mistral();
    let text = "It is <s>41</s> 42.";
    let ids = tokenizer.response(&ask(), text).unwrap();
    assert!(!ids.contains(&S));
    assert_eq!(ids.iter().filter(|&&id| id == END_S).count(), 1);
    assert_eq!(tokenizer.decode(&ids), format!(" {text}"));
}

#[test]
fn prompt_ids_never_depend_on_the_response() {
    let tokenizer = chatml();
    let prompt = tokenizer.prompt(&ask()).unwrap();
    for text in ["42", " 42", "\n42", ""] {
        let response = tokenizer.response(&ask(), text).unwrap();
        let joined = [prompt.clone(), response].concat();
        assert_eq!(joined[..prompt.len()], prompt);
        let rendered = format!(
            "{}{text}<|im_end|>",
            tokenizer
                .chat_template()
                .unwrap()
                .render(&ask(), true)
                .unwrap()
        );
        assert_eq!(
            tokenizer.decode(&joined),
            rendered.trim_end_matches("<|im_end|>")
        );
    }
}

#[test]
fn multi_turn_masks() {
    // Every turn's response is what the whole conversation has in its place, and only that.
    for tokenizer in [
        chatml(),
        mistral(),
        tokenizer(json!({"eos_token": "</s>"}), ZEPHYR),
    ] {
        let turns = [
            "Hello",
            "Hello, world!",
            "And 12 plus 30?",
            "The answer is 42.",
        ];
        let messages: Vec<Message> = turns
            .iter()
            .enumerate()
            .map(|(i, t)| Message::new(["user", "assistant"][i % 2], *t))
            .collect();
        let whole = tokenizer
            .ids(
                &tokenizer
                    .chat_template()
                    .unwrap()
                    .render(&messages, false)
                    .unwrap(),
            )
            .unwrap();
        for end in [1, 3] {
            let prompt = tokenizer.prompt(&messages[..end]).unwrap();
            let response = tokenizer.response(&messages[..end], turns[end]).unwrap();
            let joined = [prompt, response].concat();
            assert_eq!(whole[..joined.len()], joined, "turn {end}");
        }
    }
}

#[test]
fn no_chat_template() {
    let mut tokenizer =
        Tokenizer::from_bytes(TOKENIZER, Some(br#"{"eos_token": "</s>"}"#), None).unwrap();
    assert_eq!(tokenizer.stop_ids(), [END_S]);
    let error = tokenizer.prompt(&ask()).unwrap_err();
    assert!(matches!(error, Error::NoTemplate));
    let error = error.to_string();
    assert!(
        error.contains("model.chat_template") && error.contains("\"plain\""),
        "{error}"
    );
    tokenizer.set_chat_template(ChatTemplate::new("plain").unwrap());
    assert_eq!(
        tokenizer.prompt(&ask()).unwrap(),
        tokenizer.ids("What is 12 plus 30?").unwrap()
    );
    assert_eq!(
        *tokenizer.response(&ask(), "42").unwrap().last().unwrap(),
        END_S
    );
}

#[test]
fn plain_starts_with_bos_where_the_tokenizer_wants_it() {
    let tokenizer = tokenizer(json!({"bos_token": "<s>", "eos_token": "</s>"}), "plain");
    assert_eq!(tokenizer.prompt(&ask()).unwrap()[0], S);
}

#[test]
fn templates_that_leave_the_answer_out() {
    let error = tokenizer(json!({"eos_token": "</s>"}), "{{ messages[0]['content'] }}")
        .response(&ask(), "42")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("leaves the assistant's last message out"),
        "{error}"
    );
}

#[test]
fn answers_that_the_template_respaces_keep_every_word() {
    // As Qwen3: reasoning is taken apart and put together again with other line breaks.
    let qwen3 = "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}{% else %}<|assistant|>\
        {% if '</think>' in m['content'] %}{% set parts = m['content'].split('</think>') %}\
        <think>\n{{ parts[0].split('<think>')[-1].strip('\n') }}\n</think>\n\n{{ parts[1].lstrip('\n') }}\
        {% else %}<think>\n\n</think>\n\n{{ m['content'] }}{% endif %}<|end|>{% endif %}{% endfor %}\
        {% if add_generation_prompt %}<|assistant|>{% endif %}";
    let tokenizer = tokenizer(json!({"eos_token": "<|end|>"}), qwen3);
    let decoded = |text: &str| tokenizer.decode(&tokenizer.response(&ask(), text).unwrap());
    assert_eq!(
        decoded("<think>12+30</think>42"),
        "<think>\n12+30\n</think>\n\n42"
    );
    assert_eq!(decoded("42"), "<think>\n\n</think>\n\n42");
}

/// Answers are trained unchanged; one that the template rewrites is refused.
#[test]
fn answers_that_the_template_rewrites_are_refused() {
    let of = |content: &str| {
        let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ CONTENT }}<|im_end|>\n\
            {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
        let template = template.replace("CONTENT", content);
        tokenizer(json!({"eos_token": "<|im_end|>"}), &template)
    };
    for (filter, same, other) in [
        ("e", "42", "1 < 2"),
        ("tojson", "42", "\"42\""),
        ("replace('4', 'four')", "2", "42"),
    ] {
        let tokenizer = of(&format!("m.content | {filter}"));
        tokenizer.response(&ask(), same).unwrap();
        let why = tokenizer.response(&ask(), other).unwrap_err().to_string();
        assert!(
            why.contains("in other characters than the data have"),
            "{why}"
        );
    }
    // parts that it leaves out stay: the model would write them
    let ends = of("m.content.split('+')[-1]");
    let ids = ends.response(&ask(), "12+30").unwrap();
    assert_eq!(ends.decode(&ids), "12+30");
}

#[test]
fn reasoning_that_the_generation_prompt_begins_is_not_begun_twice() {
    let template = "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}{% else %}<|assistant|><think>\n\
        {% if '</think>' in m['content'] %}{{ m['content'].split('</think>')[0].split('<think>')[-1].strip('\n') }}\
        {% endif %}</think>\n\n{{ m['content'].split('</think>')[-1].lstrip('\n') }}<|end|>{% endif %}{% endfor %}\
        {% if add_generation_prompt %}<|assistant|><think>{{ '\n' }}{% endif %}";
    let tokenizer = tokenizer(json!({"eos_token": "<|end|>"}), template);
    let decoded = |text: &str| tokenizer.decode(&tokenizer.response(&ask(), text).unwrap());
    assert_eq!(decoded("<think>12+30</think>42"), "12+30</think>\n\n42");
    assert_eq!(decoded("42"), "</think>\n\n42");
}

#[test]
fn truncation_and_padding_left_in_the_file() {
    let mut json: Value = serde_json::from_slice(TOKENIZER).unwrap();
    json["truncation"] =
        json!({"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"});
    json["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
                             "pad_id": 13, "pad_type_id": 0, "pad_token": "<|pad|>"});
    let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes(), None, None).unwrap();
    assert_eq!(
        tokenizer.decode(&tokenizer.ids("The answer is 42.").unwrap()),
        "The answer is 42."
    );
}

#[test]
fn chat_templates_in_the_config() {
    let named = json!({"eos_token": "</s>", "chat_template": [{"name": "rag", "template": "no"},
                       {"name": "default", "template": "{{ messages[0]['content'] }}!"}]});
    let tokenizer =
        Tokenizer::from_bytes(TOKENIZER, Some(named.to_string().as_bytes()), None).unwrap();
    assert_eq!(
        tokenizer
            .chat_template()
            .unwrap()
            .render(&ask(), true)
            .unwrap(),
        "What is 12 plus 30?!"
    );
    let none = json!({"chat_template": [{"name": "rag", "template": "no"}, {"name": "other", "template": "no"}]});
    let error = Tokenizer::from_bytes(TOKENIZER, Some(none.to_string().as_bytes()), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("none is called `default`"), "{error}");
}

#[test]
fn bad_tokenizer_files() {
    let dir = tempdir("bad");
    let error = Tokenizer::from_folder(&dir).unwrap_err().to_string();
    assert!(error.ends_with("has no tokenizer.json"), "{error}");
    std::fs::write(dir.join("tokenizer.model"), "x").unwrap();
    assert!(
        Tokenizer::from_folder(&dir)
            .unwrap_err()
            .to_string()
            .contains("AutoTokenizer")
    );
    std::fs::write(dir.join("tokenizer.json"), "{").unwrap();
    let error = Tokenizer::from_folder(&dir).unwrap_err().to_string();
    assert!(
        error.contains("bad") && error.contains("tokenizer.json: not a tokenizer"),
        "{error}"
    );
    std::fs::write(dir.join("tokenizer.json"), TOKENIZER).unwrap();
    std::fs::write(dir.join("tokenizer_config.json"), r#"{"eos_token": 7}"#).unwrap();
    let error = Tokenizer::from_folder(&dir).unwrap_err().to_string();
    assert!(error.contains("eos_token: 7 is not a token"), "{error}");
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn exported_files_read_back_the_same() {
    let tokenizer = mistral();
    let dir = tempdir("export");
    for (name, bytes) in tokenizer.files().unwrap() {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
    let again = Tokenizer::from_folder(&dir).unwrap();
    assert_eq!(
        again.prompt(&ask()).unwrap(),
        tokenizer.prompt(&ask()).unwrap()
    );
    assert_eq!(again.stop_ids(), tokenizer.stop_ids());
    std::fs::remove_dir_all(dir).unwrap();
}

fn tempdir(name: &str) -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("randori-data-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}
