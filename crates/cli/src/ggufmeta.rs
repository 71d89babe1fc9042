//! A tokenizer's GGUF metadata as keys and typed values: the data crate knows the tokenizer, the export crate the file.

use randori_data::GgufTokenizer;
use randori_export::Meta;

/// The `tokenizer.*` keys of a GGUF file.
pub fn vocabulary(t: GgufTokenizer) -> Vec<(String, Meta)> {
    let lists = [
        ("scores", Meta::Floats(t.scores)),
        ("token_type", Meta::Ints(t.token_types)),
        ("merges", Meta::Texts(t.merges)),
    ];
    let ids = [
        ("bos_token_id", t.bos),
        ("eos_token_id", t.eos),
        ("eot_token_id", t.eot),
        ("unknown_token_id", t.unk),
        ("padding_token_id", t.pad),
    ];
    let flags = [
        ("add_bos_token", t.add_bos),
        ("add_eos_token", t.add_eos),
        ("add_space_prefix", t.add_space_prefix),
    ];
    let mut keys = vec![("model", Meta::Text(t.model))];
    keys.extend(t.pre.map(|pre| ("pre", Meta::Text(pre))));
    keys.push(("tokens", Meta::Texts(t.tokens)));
    keys.extend(lists.into_iter().filter(|(_, list)| !is_empty(list)));
    keys.extend(
        ids.into_iter()
            .filter_map(|(k, id)| Some((k, Meta::U32(id?)))),
    );
    keys.extend(
        flags
            .into_iter()
            .filter_map(|(k, f)| Some((k, Meta::Bool(f?)))),
    );
    let mut all: Vec<(String, Meta)> = keys
        .into_iter()
        .map(|(key, value)| (format!("tokenizer.ggml.{key}"), value))
        .collect();
    all.extend(
        t.chat_template
            .map(|text| ("tokenizer.chat_template".into(), Meta::Text(text))),
    );
    all
}

fn is_empty(list: &Meta) -> bool {
    match list {
        Meta::Texts(l) => l.is_empty(),
        Meta::Floats(l) => l.is_empty(),
        Meta::Ints(l) => l.is_empty(),
        _ => false,
    }
}
