//! No crate but a plugin's names a family of models: what a family is called elsewhere its plugin
//! says, in its dialect. And a plugin's architecture is short.

use std::collections::BTreeSet;

use crate::{
    block, first_word,
    rust::{Kind, stretches},
    sources, text,
};

/// The crates that get to know families by dialects alone.
const CRATES: [&str; 6] = [
    "adapters/lora/src/",
    "crates/data/src/",
    "crates/engine/src/",
    "crates/export/src/",
    "crates/formats/src/",
    "crates/host/src/",
];
/// Names of families, in small letters.
const FAMILIES: [&str; 22] = [
    "cohere",
    "deepseek",
    "falcon",
    "gemma",
    "glm",
    "gpt-oss",
    "gpt_oss",
    "granite",
    "internlm",
    "lfm2",
    "llama",
    "ministral",
    "mistral",
    "mixtral",
    "olmo",
    "phi-3",
    "phi-4",
    "phi3",
    "phi4",
    "qwen",
    "smollm",
    "starcoder",
];
/// Names of programs that have a family's in them.
const PROGRAMS: [&str; 5] = [
    "llama.cpp",
    "llama_cpp",
    "llama-factory",
    "llama_factory",
    "ollama",
];

/// Code and text of a source that is linked, in small letters.
fn linked(source: &str) -> String {
    let tests = source
        .find("#[cfg(test)]\nmod tests {")
        .or(source.find("#[cfg(test)]\n#[allow("))
        .or(source.find("#[cfg(test)]\npub(crate) mod tests {"));
    let source = &source[..tests.unwrap_or(source.len())];
    let kept = stretches(source)
        .into_iter()
        .filter(|(kind, _)| *kind != Kind::Comment);
    let mut text: String = kept.map(|(_, text)| text).collect();
    text.make_ascii_lowercase();
    PROGRAMS
        .iter()
        .fold(text, |text, program| text.replace(program, ""))
}

#[test]
fn only_plugins_name_families() {
    let named = |source: &str| {
        let linked = linked(source);
        FAMILIES.iter().any(|family| linked.contains(family))
    };
    let found: BTreeSet<String> = sources("rs")
        .iter()
        .filter(|path| path.file_stem().is_some_and(|stem| stem != "tests"))
        .map(|path| path.display().to_string())
        .filter(|path| CRATES.iter().any(|start| path.starts_with(start)))
        .filter(|path| named(&text(path.as_ref())))
        .collect();
    let listed: BTreeSet<String> = block("family-names")
        .iter()
        .map(|l| first_word(l))
        .collect();
    assert_eq!(found, listed, "against ARCHITECTURE.md, block family-names");
    // it finds what it looks for, and that only
    for (source, is) in [
        ("let a = \"LlamaForCausalLM\";", true),
        ("fn mistral() {}", true),
        ("let a = 1; // Qwen2\n", false),
        ("/* Gemma */ let a = \"llama.cpp, Ollama\";", false),
        (
            "fn f() {}\n#[cfg(test)]\nmod tests {\n    fn olmo() {}\n}",
            false,
        ),
    ] {
        assert_eq!(named(source), is, "{source}");
    }
}

/// An architecture has 150 lines at most, its tests aside, or 300 where perceptrons are mixtures or
/// layers keep a state: what is longer belongs in the SDK.
#[test]
fn an_architecture_is_a_short_file() {
    let mut seen = 0;
    for path in sources("rs") {
        let (name, text) = (path.display().to_string(), text(&path));
        let own = text.split("#[cfg(test)]").next().unwrap_or_default();
        let architecture = own.contains("impl Arch for") || own.contains("impl DenseFamily for");
        if !name.starts_with("plugins/") || name.contains("misbehave") || !architecture {
            continue;
        }
        let mut beside = [".moe(", "Experts {", ".conv("].iter();
        let several = beside.any(|op| own.contains(op));
        let (lines, most) = (own.lines().count(), if several { 300 } else { 150 });
        assert!(
            lines <= most,
            "{name} has {lines} lines before its tests, not {most} at most"
        );
        seen += 1;
    }
    assert!(seen >= 19, "only {seen} architectures were found");
}
