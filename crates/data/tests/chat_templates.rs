//! Named chat templates, templates replaced before they are parsed, and the templates of an export.
//! The choice among several is that of transformers 5.24.0's AutoTokenizer on the same folders, and
//! of llama.cpp for the same GGUF keys.

use std::fs;

use randori_data::{ChatTemplate, Context, GgufTokenizer, Message, PLAIN, Tokenizer};
use serde_json::{Value, json};

use crate::demo::folder;

const TOOLS: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>{% endfor %}\
                     {% if add_generation_prompt %}[assistant]{% endif %}{{ (tools or []) | length }}";

/// Renders one question by a tokenizer's template, without tools and with a list of them.
fn played(tokenizer: &Tokenizer) -> [Result<String, String>; 2] {
    let tools = Context::from_iter([("tools".to_owned(), json!([1, 2]))]);
    [Context::new(), tools].map(|context| {
        let template = tokenizer.chat_template().unwrap();
        let written = template.render_in(&[Message::user("x")], &context, false);
        written.map_err(|e| e.to_string())
    })
}

fn written_again(tokenizer: &Tokenizer, name: &str) -> Tokenizer {
    let dir = folder(name, &json!({}), &[]);
    for (file, bytes) in tokenizer.files().unwrap() {
        fs::write(dir.join(file), bytes).unwrap();
    }
    Tokenizer::from_folder(&dir).unwrap()
}

/// A model with `tool_use` alone: transformers raises an error for a conversation without tools.
#[test]
fn a_model_with_tool_use_alone_plays_rows_with_tools() {
    let list = json!({"chat_template": [{"name": "tool_use", "template": TOOLS}]});
    let file = [("additional_chat_templates/tool_use.jinja", json!(TOOLS))];
    for (name, config, files) in [
        ("tools-list", &list, &file[..0]),
        ("tools-file", &json!({"chat_template": "C"}), &file[..]),
    ] {
        let tokenizer = Tokenizer::from_folder(&folder(name, config, files)).unwrap();
        let again = written_again(&tokenizer, &format!("{name}-again"));
        for tokenizer in [tokenizer, again] {
            let [without, with] = played(&tokenizer);
            let why = without.unwrap_err();
            assert!(why.contains("`tool_use`) and no `default`"), "{why}");
            assert_eq!(with.unwrap(), "[user]x<|end|>2");
            let end = tokenizer.ids("<|end|>").unwrap();
            assert_eq!(tokenizer.stop_ids(), end);
        }
    }
}

/// As transformers' `apply_chat_template(tools=…, **chat_template_kwargs)`: what the template finds
/// as `tools` chooses it, wherever that was given.
#[test]
fn tools_choose_the_template_wherever_they_are_given() {
    let both = json!({"chat_template": [
        {"name": "default", "template": "D{{ tools }}"},
        {"name": "tool_use", "template": "T{{ tools | length }}"}]});
    let mut tokenizer = Tokenizer::from_folder(&folder("tools-given", &both, &[])).unwrap();
    let written = |tokenizer: &Tokenizer, row: Value| {
        let row: Context = serde_json::from_value(row).unwrap();
        let template = tokenizer.chat_template().unwrap();
        template
            .render_in(&[Message::user("x")], &row, false)
            .unwrap()
    };
    for (row, right) in [
        (json!({}), "DNone"),
        (json!({"tools": [1, 2]}), "T2"),
        (json!({"chat_template_kwargs": {"tools": [1]}}), "T1"),
        (
            json!({"tools": [1, 2], "chat_template_kwargs": {"tools": [1]}}),
            "T1",
        ),
        (
            json!({"tools": [1, 2], "chat_template_kwargs": {"tools": null}}),
            "DNone",
        ),
        (
            json!({"tools": [1, 2], "chat_template_kwargs": {"a": 1}}),
            "T2",
        ),
    ] {
        assert_eq!(written(&tokenizer, row.clone()), right, "{row}");
    }
    tokenizer.give("tools", &json!([{}, {}, {}])).unwrap();
    assert_eq!(written(&tokenizer, json!({})), "T3");
    assert_eq!(written(&tokenizer, json!({"tools": [1]})), "T1");
}

/// transformers' argument `chat_template` of `apply_chat_template`, by which TRL hands on
/// `chat_template_kwargs`: the name goes before the row's tools.
#[test]
fn a_row_or_the_recipe_names_the_template() {
    let both = json!({"chat_template": [
        {"name": "default", "template": "D{{ chat_template is defined }}"},
        {"name": "tool_use", "template": "T{{ tools }}"}]});
    let mut tokenizer = Tokenizer::from_folder(&folder("named", &both, &[])).unwrap();
    let written = |tokenizer: &Tokenizer, row: &Value| {
        let row: Context = serde_json::from_value(row.clone()).unwrap();
        let template = tokenizer.chat_template().unwrap();
        let text = template.render_in(&[Message::user("x")], &row, false);
        text.map_err(|e| e.to_string())
    };
    let named = |name: Value| json!({"chat_template_kwargs": {"chat_template": name}});
    let tools = json!({"tools": [{}], "chat_template_kwargs": {"chat_template": "default"}});
    for (row, right) in [
        (named(json!("tool_use")), "TNone"),
        (named(json!("default")), "DFalse"),
        (named(json!(null)), "DFalse"),
        (tools.clone(), "DFalse"),
    ] {
        assert_eq!(written(&tokenizer, &row).unwrap(), right, "{row}");
    }
    for name in [json!("rag"), json!("{{ messages }}"), json!(5)] {
        let why = written(&tokenizer, &named(name.clone())).unwrap_err();
        let right = format!(
            "`chat_template` should name one of the model's templates (`default` and `tool_use`), is {name};"
        );
        assert!(why.contains(&right), "{why}");
        assert!(tokenizer.give("chat_template", &name).is_err());
    }
    tokenizer.give("chat_template", &json!("tool_use")).unwrap();
    assert_eq!(written(&tokenizer, &json!({})).unwrap(), "TNone");
    assert_eq!(written(&tokenizer, &tools).unwrap(), "DFalse");
    assert_eq!(written(&tokenizer, &named(json!(null))).unwrap(), "DFalse");
    // one template has no name: transformers would write the word itself
    let one = json!({"chat_template": "D"});
    let one = Tokenizer::from_folder(&folder("unnamed", &one, &[])).unwrap();
    let why = written(&one, &named(json!("default"))).unwrap_err();
    assert!(why.contains("(it has one, without a name)"), "{why}");
}

/// A row that names the template is encoded with it, and the name counts as read.
#[test]
fn an_example_is_encoded_with_the_template_that_it_names() {
    let template = |opens: &str| {
        format!(
            "{{% for m in messages %}}{{% if m.role == 'assistant' %}}{opens}{{% endif %}}\
             {{{{ m.content }}}}<|end|>{{% endfor %}}{{% if add_generation_prompt %}}{opens}{{% endif %}}"
        )
    };
    let both = json!({"chat_template": {"default": template("A:"), "tool_use": template("B:")}});
    let tokenizer = Tokenizer::from_folder(&folder("named-rows", &both, &[])).unwrap();
    let rows = [
        json!({"prompt": "q", "response": "r"}),
        json!({"prompt": "q", "response": "r", "chat_template_kwargs": {"chat_template": "tool_use"}}),
        json!({"prompt": "q", "response": "r", "chat_template_kwargs": {"chat_template": "x"}}),
    ];
    let text = |rows: &[Value]| {
        rows.iter()
            .map(|row| format!("{row}\n"))
            .collect::<String>()
    };
    let read = |rows: &[Value]| {
        let options = randori_data::ReadOptions::default();
        let (records, _) =
            randori_data::read_bytes("d.jsonl", text(rows).as_bytes(), &options).unwrap();
        let (limits, rules) = (Default::default(), Default::default());
        randori_data::encode(&records, &tokenizer, &limits, &rules)
    };
    let (examples, counts) = read(&rows[..2]).unwrap();
    let prompts: Vec<String> = examples
        .iter()
        .map(|e| tokenizer.decode(&e.prompt))
        .collect();
    assert_eq!(prompts, ["q<|end|>A:", "q<|end|>B:"]);
    assert!(counts.unread.is_empty(), "{counts}");
    let why = read(&rows).unwrap_err().to_string();
    assert!(
        why.starts_with("d.jsonl:3: chat template: `chat_template` should name one of"),
        "{why}"
    );
}

/// `tokenizer.chat_template.tool_use` of a GGUF file: for conversations with tools, and, where it
/// is the only template, for all of them, as in llama.cpp.
#[test]
fn a_gguf_has_a_template_for_tools() {
    let config = json!({"chat_template": [
        {"name": "default", "template": "D"}, {"name": "tool_use", "template": TOOLS}]});
    let tokenizer = Tokenizer::from_folder(&folder("tools-gguf", &config, &[])).unwrap();
    let gguf = tokenizer.to_gguf().unwrap();
    assert_eq!(gguf.chat_template.as_deref(), Some("D"));
    assert_eq!(gguf.tool_use.as_deref(), Some(TOOLS));
    let alone = |default: Option<&str>| GgufTokenizer {
        chat_template: default.map(str::to_owned),
        ..gguf.clone()
    };
    let (d, t) = ("D".to_owned(), "[user]x<|end|>2".to_owned());
    let bare = "[user]x<|end|>0".to_owned();
    for (gguf, right) in [
        (gguf.clone(), [&d, &t]),
        (alone(None), [&bare, &t]),
        (alone(Some("")), [&bare, &t]),
    ] {
        let read = Tokenizer::from_gguf(&gguf).unwrap();
        let again = written_again(&read, "tools-gguf-again");
        for tokenizer in [read, again] {
            assert_eq!(
                played(&tokenizer).map(Result::unwrap),
                right.map(String::clone)
            );
        }
    }
    // of a model with tool_use alone nothing is written as the default
    let only = json!({"chat_template": {"tool_use": TOOLS}});
    let only = Tokenizer::from_folder(&folder("tools-gguf-only", &only, &[])).unwrap();
    let gguf = only.to_gguf().unwrap();
    assert_eq!(
        (gguf.chat_template, gguf.tool_use.as_deref()),
        (None, Some(TOOLS))
    );
}

/// A template from the user replaces one that does not parse, in a GGUF file too.
#[test]
fn a_given_template_goes_before_one_that_does_not_parse() {
    let dir = folder("no-jinja", &json!({"chat_template": "{% if %}"}), &[]);
    let good = Tokenizer::from_folder_with(&dir, ChatTemplate::new("G").unwrap()).unwrap();
    let broken = |default: &str, tools: Option<&str>| GgufTokenizer {
        chat_template: Some(default.to_owned()),
        tool_use: tools.map(str::to_owned),
        ..good.to_gguf().unwrap()
    };
    for gguf in [broken("{% if %}", None), broken("D", Some("{% if %}"))] {
        Tokenizer::from_gguf(&gguf).unwrap_err();
        let given = ChatTemplate::new("G").unwrap();
        let tokenizer = Tokenizer::from_gguf_with(&gguf, given).unwrap();
        assert_eq!(played(&tokenizer).map(Result::unwrap), ["G", "G"]);
        let files = tokenizer.files().unwrap();
        assert_eq!(files["chat_template.jinja"], b"G");
    }
}

/// `"plain"` uses variables that only Randori sets (whether texts begin with a token, an end of
/// text from `config.json` alone); an export has the tokens themselves in their place.
#[test]
fn an_exported_plain_template_needs_nothing_of_ours() {
    let mut begun: Value = serde_json::from_slice(
        &fs::read(folder("plain", &json!({}), &[]).join("tokenizer.json")).unwrap(),
    )
    .unwrap();
    begun["post_processor"] = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [0], "tokens": ["<|end|>"]}}});
    let turns = "{% for message in messages %}{{ message['content'] }}";
    let ends = "{% if message['role'] == 'assistant' %}{{ \"<|end|>\" }}{% endif %}{% endfor %}";
    let eos = [("config.json", json!({"eos_token_id": 0}))];
    let starts = [eos[0].clone(), ("tokenizer.json", begun)];
    for (name, config, files, begins) in [
        ("plain-end", json!({"eos_token": null}), &eos[..], ""),
        (
            "plain-start",
            json!({"eos_token": null, "bos_token": "<|end|>"}),
            &starts[..],
            "{{ \"<|end|>\" }}",
        ),
    ] {
        let dir = folder(name, &config, files);
        let plain = ChatTemplate::new(PLAIN).unwrap();
        let tokenizer = Tokenizer::from_folder_with(&dir, plain).unwrap();
        assert_eq!(tokenizer.token(0).as_deref(), Some("<|end|>"));
        let files = tokenizer.files().unwrap();
        let template = String::from_utf8(files["chat_template.jinja"].clone()).unwrap();
        assert_eq!(template, format!("{begins}{turns}{ends}"));
        assert_eq!(
            tokenizer.to_gguf().unwrap().chat_template,
            Some(template.clone())
        );
        // nothing is given to it, as by transformers
        let turns = [Message::user("x"), Message::assistant("y")];
        let theirs = ChatTemplate::new(&template).unwrap().render(&turns, false);
        let ours = tokenizer.chat_template().unwrap().render(&turns, false);
        assert_eq!(theirs.unwrap(), ours.unwrap());
    }
}
