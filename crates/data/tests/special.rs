//! Special and added tokens named by other files than `tokenizer.json`, and files that disagree:
//! ids, lengths and named tokens are those of transformers 5.24.0's AutoTokenizer on the same
//! folders.

use std::fs;

use randori_data::{Message, Tokenizer};
use serde_json::{Value, json};

use crate::demo::folder;

fn loaded(name: &str, config: Value, files: &[(&str, Value)]) -> Tokenizer {
    Tokenizer::from_folder(&folder(name, &config, files)).unwrap()
}

/// Ids of a turn whose marks are added as 337 and 338, and of the same with the marks as plain
/// text.
const TURN: &str = "<|im_start|>user\nHi<|im_end|>";
const KNOWN: [u32; 8] = [337, 121, 119, 262, 14, 76, 109, 338];
const UNKNOWN: [u32; 26] = [
    64, 128, 109, 113, 99, 119, 120, 297, 120, 128, 66, 121, 119, 262, 14, 76, 109, 64, 128, 109,
    113, 99, 318, 104, 128, 66,
];

fn token(content: &str, special: bool) -> Value {
    json!({"content": content, "lstrip": false, "rstrip": false, "normalized": false, "single_word": false,
           "special": special})
}

#[test]
fn special_tokens_that_another_file_names_are_added_after_the_vocabulary() {
    let both = json!(["<|im_start|>", "<|im_end|>"]);
    let decoder = |a: &str, b: &str| json!({"added_tokens_decoder": {a: token("<|im_start|>", true), b: token("<|im_end|>", true)}});
    let cases: &[(&str, Value, &[(&str, Value)])] = &[
        (
            "additional",
            json!({"additional_special_tokens": both}),
            &[],
        ),
        ("extra", json!({"extra_special_tokens": both}), &[]),
        (
            "extra-map",
            json!({"extra_special_tokens": {"a": "<|im_start|>", "b": "<|im_end|>"}}),
            &[],
        ),
        ("decoder", decoder("337", "338"), &[]),
        // the ids only give the order
        ("decoder-gap", decoder("340", "341"), &[]),
        (
            "added",
            json!({}),
            &[(
                "added_tokens.json",
                json!({"<|im_start|>": 337, "<|im_end|>": 338}),
            )],
        ),
        (
            "added-gap",
            json!({}),
            &[(
                "added_tokens.json",
                json!({"<|im_end|>": 346, "<|im_start|>": 345}),
            )],
        ),
        (
            "map",
            json!({}),
            &[(
                "special_tokens_map.json",
                json!({"additional_special_tokens": both}),
            )],
        ),
        (
            "map-extra",
            json!({}),
            &[(
                "special_tokens_map.json",
                json!({"extra_special_tokens": both}),
            )],
        ),
    ];
    for (name, config, files) in cases {
        let tokenizer = loaded(name, config.clone(), files);
        assert_eq!(tokenizer.ids(TURN).unwrap(), KNOWN, "{name}");
        assert_eq!(tokenizer.vocab_size(), 339, "{name}");
    }
    let none = loaded("none", json!({}), &[]);
    assert_eq!(none.ids(TURN).unwrap(), UNKNOWN);
    assert_eq!(none.vocab_size(), 337);
    let swapped = loaded("swapped", decoder("338", "337"), &[]);
    assert_eq!(swapped.ids("<|im_start|><|im_end|>").unwrap(), [338, 337]);
    // of the two names the newer one counts, where both are there
    let newer = json!({"extra_special_tokens": ["<|im_end|>"], "additional_special_tokens": both});
    assert_eq!(
        loaded("newer", newer, &[]).ids("<|im_end|>").unwrap(),
        [337]
    );
    // with added_tokens_decoder in the config the older files are not read
    let older: &[(&str, Value)] = &[
        ("added_tokens.json", json!({"<|im_end|>": 337})),
        ("special_tokens_map.json", json!({"eos_token": "<|user|>"})),
    ];
    let alone = json!({"added_tokens_decoder": {"337": token("<|im_start|>", false)}});
    let alone = loaded("alone", alone, older);
    assert_eq!(alone.ids("<|im_start|>").unwrap(), [337]);
    assert_eq!((alone.vocab_size(), alone.eos()), (338, Some(0)));
}

#[test]
fn flags_of_a_known_token_may_be_changed() {
    let mut changed = token("<|user|>", true);
    changed["rstrip"] = true.into();
    let tokenizer = loaded(
        "rstrip",
        json!({"added_tokens_decoder": {"1": changed}}),
        &[],
    );
    assert_eq!(tokenizer.ids("<|user|>  Hi").unwrap(), [1, 76, 109]);
    let same = json!({"added_tokens_decoder": {"5": token("<|user|>", true)}});
    assert_eq!(
        loaded("same", same, &[]).ids("<|user|>  Hi").unwrap(),
        [1, 36, 36, 76, 109]
    );
}

#[test]
fn named_tokens_that_the_vocabulary_lacks_are_added_in_order() {
    let pad = loaded("pad", json!({"pad_token": "<pad>"}), &[]);
    assert_eq!(
        (pad.pad(), pad.eos(), pad.vocab_size()),
        (Some(337), Some(0), 338)
    );
    assert_eq!(pad.ids("x<pad><|end|>").unwrap(), [124, 337, 0]);
    let several = json!({"bos_token": "<b>", "unk_token": "<u>", "pad_token": "<p>", "sep_token": "<s>",
                         "cls_token": "<c>", "mask_token": "<m>"});
    let several = loaded("several", several, &[]);
    assert_eq!(
        several.ids("<b><u><p><s><c><m>").unwrap(),
        [337, 338, 340, 339, 341, 342]
    );
    let mixed =
        json!({"pad_token": "<pad>", "unk_token": "<unk>", "additional_special_tokens": ["<x>"]});
    let mixed = loaded("mixed", mixed, &[]);
    assert_eq!(mixed.ids("<pad><unk><x>").unwrap(), [338, 337, 339]);
    assert_eq!(
        loaded("no-pad", json!({"pad_token": null}), &[]).pad(),
        None
    );
    let eos = loaded("eos", json!({"eos_token": "<|new|>"}), &[]);
    assert_eq!(
        (eos.eos(), eos.ids("a<|new|>b").unwrap()),
        (Some(337), vec![101, 337, 102])
    );
    // a word of the vocabulary that is named is found before any merge
    let word = loaded("word", json!({"additional_special_tokens": ["e"]}), &[]);
    assert_eq!(word.ids("hello").unwrap(), [108, 105, 112, 112, 115]);
}

#[test]
fn the_map_of_special_tokens_goes_before_the_config() {
    let map = |content: Value| [("special_tokens_map.json", content)];
    let pad = loaded("map-pad", json!({}), &map(json!({"pad_token": "<pad>"})));
    assert_eq!((pad.pad(), pad.vocab_size()), (Some(337), 338));
    let eos = loaded(
        "map-eos",
        json!({}),
        &map(json!({"eos_token": token("<|user|>", true)})),
    );
    assert_eq!(eos.eos(), Some(1));
    let only = loaded(
        "map-only",
        json!({"eos_token": null}),
        &map(json!({"eos_token": "<|user|>"})),
    );
    assert_eq!(only.eos(), Some(1));
}

#[test]
fn each_of_several_templates_gets_the_users_variables_and_ends_turns_its_own_way() {
    let turns = |end: &str| {
        format!(
            "{{{{ mood }}}}{{% for m in messages %}}<|user|>{{{{ m.content }}}}{end}{{% endfor %}}"
        )
    };
    let list = json!([
        {"name": "default", "template": turns("<|end|>")},
        {"name": "tool_use", "template": turns("<|pad|>")},
    ]);
    let mut tokenizer = loaded("stops", json!({"chat_template": list}), &[]);
    tokenizer.give("mood", &json!("!")).unwrap();
    let mut context = randori_data::Context::new();
    context.insert("tools".into(), json!([]));
    let user = [Message::user("x")];
    let template = tokenizer.chat_template().unwrap();
    let rendered = template.render_in(&user, &context, true).unwrap();
    assert_eq!(rendered, "!<|user|>x<|pad|>");
    for (context, end) in [
        (&context, "<|pad|>"),
        (&randori_data::Context::new(), "<|end|>"),
    ] {
        let answer = Message::assistant("y");
        let response = tokenizer
            .response_in(&user, context, &answer, true)
            .unwrap();
        let last = *response.ids.last().unwrap();
        assert_eq!(tokenizer.token(last).as_deref(), Some(end));
        assert!(tokenizer.stop_ids().contains(&last), "{end}");
    }
}

#[test]
fn of_several_chat_templates_tool_use_renders_tools_and_default_the_rest() {
    let two = json!([{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]);
    let folder_of = [
        ("chat_template.jinja", json!("D")),
        ("additional_chat_templates/tool_use.jinja", json!("T")),
    ];
    // of AutoTokenizer 5.24: the folder's `default` goes before the file beside it
    let named = [
        ("additional_chat_templates/default.jinja", json!("D")),
        ("additional_chat_templates/tool_use.jinja", json!("T")),
    ];
    let both = [
        ("additional_chat_templates/default.jinja", json!("D")),
        ("additional_chat_templates/tool_use.jinja", json!("T")),
        ("chat_template.jinja", json!("E")),
    ];
    for (name, config, files) in [
        ("list", json!({"chat_template": two}), &folder_of[..0]),
        ("folder", json!({"chat_template": "C"}), &folder_of[..]),
        ("default", json!({"chat_template": "C"}), &named[..]),
        ("both", json!({"chat_template": "C"}), &both[..]),
    ] {
        let tokenizer = loaded(name, config, files);
        let template = tokenizer.chat_template().unwrap();
        let user = [Message::user("x")];
        assert_eq!(template.render(&user, true).unwrap(), "D", "{name}");
        let mut context = randori_data::Context::new();
        context.insert("tools".into(), json!([{"type": "function"}]));
        for (tools, right) in [
            (json!([{"type": "function"}]), "T"),
            (json!([]), "T"),
            (Value::Null, "D"),
        ] {
            context.insert("tools".into(), tools);
            let rendered = template.render_in(&user, &context, true).unwrap();
            assert_eq!(rendered, right, "{name}");
        }
        // what an export writes says the same
        let files = tokenizer.files().unwrap();
        assert!(!files.keys().any(|name| name.contains('/')));
        let again = folder(&format!("{name}-again"), &json!({}), &[]);
        for (file, bytes) in files {
            fs::write(again.join(file), bytes).unwrap();
        }
        let again = Tokenizer::from_folder(&again).unwrap();
        let template = again.chat_template().unwrap();
        context.insert("tools".into(), json!([]));
        assert_eq!(template.render_in(&user, &context, true).unwrap(), "T");
        assert_eq!(template.render(&user, true).unwrap(), "D", "{name}");
    }
    // the file goes before the config's list, and then there is no other template
    let file = loaded(
        "file",
        json!({"chat_template": two}),
        &[("chat_template.jinja", json!("F"))],
    );
    let mut context = randori_data::Context::new();
    context.insert("tools".into(), json!([{"type": "function"}]));
    let rendered = file
        .chat_template()
        .unwrap()
        .render_in(&[Message::user("x")], &context, true);
    assert_eq!(rendered.unwrap(), "F");
    // without a default transformers renders nothing
    for (name, config, files) in [
        (
            "named",
            json!({"chat_template": [{"name": "a", "template": "A"}, {"name": "b", "template": "B"}]}),
            &folder_of[..0],
        ),
        (
            "folder-of-one",
            json!({"chat_template": "C"}),
            &[("additional_chat_templates/rag.jinja", json!("R"))][..],
        ),
        (
            "one",
            json!({"chat_template": [{"name": "rag", "template": "R"}]}),
            &folder_of[..0],
        ),
        ("nothing", json!({"chat_template": []}), &folder_of[..0]),
    ] {
        let error = Tokenizer::from_folder(&folder(name, &config, files))
            .err()
            .unwrap();
        assert!(
            error.to_string().contains("none is called `default`"),
            "{name}: {error}"
        );
        // as the error says, another one helps
        let given = randori_data::ChatTemplate::new("G").unwrap();
        let dir = folder(name, &config, files);
        let tokenizer = Tokenizer::from_folder_with(&dir, given).unwrap();
        let template = tokenizer.chat_template().unwrap();
        assert_eq!(template.render(&[Message::user("x")], true).unwrap(), "G");
    }
}

#[test]
fn of_two_chat_templates_with_one_name_the_last_counts_and_a_mapping_is_read() {
    let twice = json!([{"name": "default", "template": "C"}, {"name": "default", "template": "D"}]);
    for (name, templates) in [
        ("twice", twice),
        ("mapping", json!({"default": "D", "rag": "R"})),
    ] {
        let tokenizer = loaded(name, json!({"chat_template": templates}), &[]);
        let template = tokenizer.chat_template().unwrap();
        let rendered = template.render(&[Message::user("x")], true);
        assert_eq!(rendered.unwrap(), "D", "{name}");
    }
}

#[test]
fn what_is_no_token_or_template_is_refused_with_its_file() {
    for (name, config, files, expected) in [
        (
            "bad-extra",
            json!({"extra_special_tokens": 5}),
            vec![],
            "tokenizer_config.json: extra_special_tokens: 5",
        ),
        (
            "bad-item",
            json!({"additional_special_tokens": [["x"]]}),
            vec![],
            "additional_special_tokens: [\"x\"]",
        ),
        (
            "bad-id",
            json!({}),
            vec![("added_tokens.json", json!({"<a>": "x"}))],
            "added_tokens.json: <a>: \"x\"",
        ),
        (
            "bad-eos",
            json!({"eos_token": 7}),
            vec![],
            "eos_token: 7 is not a token",
        ),
        (
            "bad-key",
            json!({"added_tokens_decoder": {"x": token("a", true)}}),
            vec![],
            "\"x\" is not a token",
        ),
        (
            "bad-template",
            json!({"chat_template": 5}),
            vec![],
            "tokenizer_config.json: chat_template: is neither text",
        ),
        (
            "bad-templates",
            json!({"chat_template": {"default": 5}}),
            vec![],
            "tokenizer_config.json: chat_template: `default` is no text",
        ),
        (
            "bad-list",
            json!({"chat_template": [{"name": "default"}]}),
            vec![],
            "chat_template: each of a list needs `name` and `template`",
        ),
    ] {
        let error = Tokenizer::from_folder(&folder(name, &config, &files))
            .err()
            .unwrap();
        assert!(error.to_string().contains(expected), "{name}: {error}");
    }
}

/// A tokenizer of a few digits and letters that cuts words by this expression.
fn cut_by(pattern: &str) -> Tokenizer {
    let vocab = [
        "1", "2", "3", "4", "12", "123", "1234", "34", "a", "aa", "aaa",
    ];
    let vocab: serde_json::Map<String, Value> = vocab
        .iter()
        .enumerate()
        .map(|(id, text)| ((*text).to_owned(), id.into()))
        .collect();
    let file = json!({
        "version": "1.0", "added_tokens": [],
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
        "model": {"type": "BPE", "vocab": vocab,
                  "merges": [["1", "2"], ["12", "3"], ["123", "4"], ["3", "4"], ["a", "a"], ["aa", "a"]]},
    });
    Tokenizer::from_bytes(file.to_string().as_bytes(), None, None).unwrap()
}

/// Ids of tokenizers 0.23.3 in Python, which reads expressions with Oniguruma.
#[test]
fn a_repeat_of_a_repeat_is_a_group_as_in_python() {
    for (pattern, expected) in [
        (
            r"\p{N}{1,3}",
            [vec![5, 3], vec![5, 3, 4], vec![0, 8, 1, 10, 3, 9]],
        ),
        (
            r"\p{N}{1,3}+",
            [vec![6], vec![6, 4], vec![0, 8, 1, 10, 3, 9]],
        ),
        (
            r"[0-9]{1,3}+|a++",
            [vec![6], vec![6, 4], vec![0, 8, 1, 10, 3, 9]],
        ),
        (
            r"[1-4]{,3}|a",
            [vec![5, 3], vec![5, 3, 4], vec![0, 8, 1, 8, 8, 8, 3, 8, 8]],
        ),
        (
            r"[0-9]{1,2}*|a",
            [vec![6], vec![6, 4], vec![0, 8, 1, 8, 8, 8, 3, 8, 8]],
        ),
        (
            r"[\]0-9]{2}+|a+",
            [vec![6], vec![6, 4], vec![0, 8, 1, 10, 3, 9]],
        ),
        (
            r"(?i:a{2})+|[0-9]{2,}+",
            [vec![6], vec![6, 4], vec![0, 8, 1, 9, 8, 3, 9]],
        ),
        (
            r"(?<=1)2{1,3}+|(a|1){1,2}+",
            [vec![0, 1, 7], vec![0, 1, 7, 0, 1], vec![0, 8, 1, 10, 3, 9]],
        ),
    ] {
        let tokenizer = cut_by(pattern);
        for (text, expected) in ["1234", "123412", "1a2aaa4aa"].into_iter().zip(expected) {
            assert_eq!(
                tokenizer.ids(text).unwrap(),
                expected,
                "{pattern} of {text}"
            );
        }
    }
}
