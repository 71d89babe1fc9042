//! Special tokens named by two files, and names of tokens in a chat template: the same tokens and
//! variables as transformers 5.24.0's AutoTokenizer on the same folders.

use randori_data::{Message, PLAIN, Tokenizer};
use serde_json::{Value, json};

use crate::demo::folder;

const MAP: &str = "special_tokens_map.json";
const TEMPLATE: &str =
    "{% for name in [foo_token, image_token, eos_token] %}[{{ name }}]{% endfor %}";

/// Tokens added behind the vocabulary, and the template's output.
fn read(name: &str, config: &Value, map: Option<&Value>, template: &str) -> (Vec<String>, String) {
    let mut files = vec![("chat_template.jinja", json!(template))];
    files.extend(map.map(|map| (MAP, map.clone())));
    let name = format!("settled-{name}");
    let tokenizer = Tokenizer::from_folder(&folder(&name, config, &files)).unwrap();
    let ids = 337..tokenizer.vocab_size() as u32;
    let tokens = ids.map(|id| tokenizer.token(id).unwrap()).collect();
    let template = tokenizer.chat_template().unwrap();
    let written = template.render(&[Message::user("x")], false).unwrap();
    (tokens, written)
}

#[test]
fn tokens_that_two_files_name() {
    let extra = |tokens: Value| json!({"extra_special_tokens": tokens});
    let former = |tokens: Value| json!({"additional_special_tokens": tokens});
    let foo = |token: Value| json!({"foo_token": token});
    let typed = json!({"content": "<x>", "__type": "AddedToken"});
    let plain = json!({"content": "<x>"});
    let image = |token: &str| json!({"image_token": token});
    let none = json!({});
    let (x, s) = (&["<x>"][..], &["<s>"][..]);
    let both = &["<x>", "<s>"][..];
    for (i, (config, map, added)) in [
        (extra(json!(x)), extra(json!(s)), both),
        (former(json!(x)), extra(json!(s)), both),
        (extra(json!(x)), extra(json!(["<s>", "<x>"])), both),
        (former(json!(x)), former(json!(s)), x),
        (extra(json!(x)), former(json!(s)), x),
        // said, though nothing is in it
        (extra(json!([])), former(json!(s)), &[][..]),
        (former(json!([])), former(json!(s)), &[][..]),
        // a mapping becomes names, so that no list was said
        (extra(json!({})), former(json!(s)), s),
        (none.clone(), extra(json!([plain])), x),
        (extra(image("<x>")), extra(json!(s)), both),
    ]
    .iter()
    .enumerate()
    {
        let (tokens, _) = read(&format!("list-{i}"), config, Some(map), TEMPLATE);
        assert_eq!(tokens, *added, "{config} {map}");
    }
    let with = |mut config: Value, more: Value| {
        let more = more.as_object().unwrap().clone();
        config.as_object_mut().unwrap().extend(more);
        config
    };
    let specific = |tokens: Value| json!({"model_specific_special_tokens": tokens});
    for (i, (config, map, added, named, pictured)) in [
        (foo(json!("<x>")), foo(json!("<s>")), x, "<x>", ""),
        (foo(typed.clone()), foo(json!("<s>")), s, "<s>", ""),
        (
            foo(json!("<x>")),
            foo(json!({"content": "<s>"})),
            x,
            "<x>",
            "",
        ),
        (foo(typed.clone()), none.clone(), x, "<x>", ""),
        (foo(plain.clone()), none.clone(), &[][..], "", ""),
        (none.clone(), foo(plain), x, "<x>", ""),
        (
            with(image("<x>"), extra(image("<s>"))),
            none.clone(),
            s,
            "",
            "<s>",
        ),
        (image("<x>"), extra(image("<s>")), s, "", "<s>"),
        (foo(json!("<x>")), extra(image("<s>")), both, "<x>", "<s>"),
        (
            with(former(json!(x)), extra(image("<s>"))),
            none.clone(),
            &["<s>", "<x>"][..],
            "",
            "<s>",
        ),
        (former(image("<s>")), none.clone(), s, "", "<s>"),
        (specific(image("<x>")), none.clone(), x, "", "<x>"),
        (
            specific(json!({"image_token": typed})),
            none.clone(),
            x,
            "",
            "<x>",
        ),
        // read only where no token has a key of its own
        (
            with(specific(image("<x>")), foo(json!("<s>"))),
            none.clone(),
            s,
            "<s>",
            "",
        ),
        // with the decoder in the config the map is not read
        (
            with(foo(json!("<x>")), json!({"added_tokens_decoder": {}})),
            foo(json!("<s>")),
            x,
            "<x>",
            "",
        ),
        // named ones first, then in the order of the file
        (
            json!({"foo_token": "<x>", "a_token": "<s>", "cls_token": "<y>"}),
            none.clone(),
            &["<y>", "<x>", "<s>"][..],
            "<x>",
            "",
        ),
    ]
    .iter()
    .enumerate()
    {
        let (tokens, written) = read(&format!("named-{i}"), config, Some(map), TEMPLATE);
        assert_eq!(tokens, *added, "{config} {map}");
        let right = format!("[{named}][{pictured}][<|end|>]");
        assert_eq!(written, right, "{config} {map}");
    }
}

#[test]
fn a_template_reads_every_named_token_and_no_other() {
    let template = "{{ cls_token }}{{ sep_token }}{{ mask_token }}{{ image_token }}\
                    {{ bos_token is defined }}{{ eos_token }}{{ unk_token is defined }}";
    let config =
        json!({"cls_token": "<x>", "sep_token": "<s>", "mask_token": "<y>", "image_token": "<i>"});
    let (tokens, written) = read("all", &config, None, template);
    assert_eq!(tokens, ["<s>", "<x>", "<y>", "<i>"]);
    assert_eq!(written, "<x><s><y><i>False<|end|>False");
    let (_, written) = read(
        "empty",
        &json!({"bos_token": ""}),
        None,
        "[{{ bos_token }}{{ bos_token is defined }}]",
    );
    assert_eq!(written, "[True]");
    // a mapping's names need not end in `_token`
    let config = json!({"extra_special_tokens": {"picture": "<x>"}});
    assert_eq!(read("any", &config, None, "{{ picture }}").1, "<x>");
}

/// An end-of-text token of the model's configuration stops generation but is no variable of
/// templates.
#[test]
fn no_template_reads_an_end_of_text_that_the_tokenizer_has_not() {
    let template = "{% for m in messages %}{{ m.content }}[{{ eos_token }}]{% endfor %}";
    let files = [
        ("chat_template.jinja", json!(template)),
        ("config.json", json!({"eos_token_id": 2})),
    ];
    let dir = folder("settled-no-eos", &json!({"eos_token": null}), &files);
    let mut tokenizer = Tokenizer::from_folder(&dir).unwrap();
    let user = [Message::user("x")];
    let written = tokenizer.chat_template().unwrap().render(&user, false);
    assert_eq!(written.unwrap(), "x[]");
    assert_eq!(tokenizer.eos(), Some(2));
    assert!(tokenizer.stop_ids().contains(&2));
    // the template for models without one is ours, and ends answers in it
    tokenizer.set_chat_template(randori_data::ChatTemplate::new(PLAIN).unwrap());
    let end = tokenizer.token(2).unwrap();
    let answered = [Message::user("x"), Message::assistant("y")];
    let written = tokenizer.chat_template().unwrap().render(&answered, false);
    assert_eq!(written.unwrap(), format!("xy{end}"));
}

#[test]
fn what_cannot_be_settled_is_refused_with_its_file() {
    let image = json!({"image_token": "<x>"});
    let own = |tokens: Value| json!({"model_specific_special_tokens": tokens});
    let extra = |tokens: Value| json!({"extra_special_tokens": tokens});
    for (i, (config, map, why)) in [
        (
            own(json!(["<x>"])),
            json!({}),
            "tokenizer_config.json: model_specific_special_tokens: [\"<x>\"] is not a token",
        ),
        (
            json!({}),
            own(image.clone()),
            "special_tokens_map.json: model_specific_special_tokens: {",
        ),
        (
            json!({}),
            json!({"additional_special_tokens": image}),
            "special_tokens_map.json: additional_special_tokens: {",
        ),
        (
            extra(json!([null])),
            extra(json!(["<x>"])),
            "tokenizer_config.json: extra_special_tokens: null is not a token",
        ),
        (
            extra(json!({"a": null})),
            json!({}),
            "tokenizer_config.json: a: null is not a token",
        ),
        (
            extra(json!({"tools": "<x>"})),
            json!({}),
            "tokenizer_config.json: `tools` cannot name a token",
        ),
    ]
    .iter()
    .enumerate()
    {
        let dir = folder(&format!("settled-bad-{i}"), config, &[(MAP, map.clone())]);
        let error = Tokenizer::from_folder(&dir).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
