//! Chat templates for Ollama, rendered by Go: fixtures/ollama.json holds the output of Go's
//! text/template for the templates that we derive (fixtures/ollama.go), which must equal that of
//! the model's own template for the same conversations.

use randori_data::{Message, Tokenizer, modelfile};
use serde_json::{Value, json};

const TOKENIZER: &[u8] = include_bytes!("fixtures/tokenizer.json");
/// Puts the system message before the last question, as Mistral's newer models want it.
const MISTRAL3: &str = "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}\
    {% set messages = messages[1:] %}{% endif %}{% for m in messages %}{% if m['role'] == 'user' %}\
    {% if loop.last and system is defined %}[INST] {{ system }}\n\n{{ m['content'] }}[/INST]{% else %}\
    [INST] {{ m['content'] }}[/INST]{% endif %}{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}";
/// Refuses system messages and quotes what Go would take for actions.
const BRACES: &str = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}\
    {{ '{{\"' + m['role'] + '\"}}' }}\n{{ m['content'] }}<|end|>\n{% endfor %}\
    {% if add_generation_prompt %}{{ '{{\"assistant\"}}' }}\n{% endif %}";

fn source(name: &str) -> String {
    match name {
        "mistral3" => MISTRAL3.to_owned(),
        "braces" => BRACES.to_owned(),
        file => {
            let dir = env!("CARGO_MANIFEST_DIR");
            std::fs::read_to_string(format!("{dir}/tests/fixtures/templates/{file}.jinja")).unwrap()
        }
    }
}

fn tokenizer(template: &str) -> Tokenizer {
    let name = template;
    // the tokenizer begins with <s>; Llama 3's token is another, which it does not add
    let (bos, eos) = match name {
        "llama3" => ("<|begin_of_text|>", "<|eot_id|>"),
        "chatml" => ("<|endoftext|>", "<|im_end|>"),
        _ => ("<s>", "</s>"),
    };
    let config = json!({"bos_token": bos, "eos_token": eos}).to_string();
    Tokenizer::from_bytes(TOKENIZER, Some(config.as_bytes()), Some(&source(name))).unwrap()
}

fn conversations() -> Vec<Vec<Message>> {
    let turns = [
        Message::user("What is 12 plus 30?"),
        Message::assistant("42\n\n{{ no action }}"),
        Message::user("Où est \"le dojo\" ?"),
        Message::assistant("Là-bas."),
        Message::user("Thanks"),
    ];
    let mut all = Vec::new();
    for n in [1, 3, 5] {
        all.push(turns[..n].to_vec());
        let system = Message::new("system", "Answer briefly.\nNo jokes.");
        all.push([vec![system], turns[..n].to_vec()].concat());
    }
    all
}

const LINEAR: [&str; 7] = [
    "chatml", "llama3", "mistral", "mistral3", "zephyr", "braces", "indented",
];

#[test]
fn go_writes_what_jinja_writes() {
    if let Ok(path) = std::env::var("RANDORI_OLLAMA_CASES") {
        // for fixtures/ollama.go
        let cases = LINEAR.map(|name| {
            let go = tokenizer(name).ollama_template().unwrap().go;
            json!({"name": name, "go": go, "conversations": conversations()})
        });
        std::fs::write(path, serde_json::to_vec(&cases).unwrap()).unwrap();
    }
    let golden: Vec<Value> = serde_json::from_str(include_str!("fixtures/ollama.json")).unwrap();
    assert_eq!(golden.len(), LINEAR.len());
    for (name, golden) in LINEAR.iter().zip(golden) {
        let tokenizer = tokenizer(name);
        let made = tokenizer.ollama_template().unwrap();
        assert_eq!(made.go, golden["go"], "{name}");
        let mut compared = 0;
        for (conversation, theirs) in conversations()
            .iter()
            .zip(golden["rendered"].as_array().unwrap())
        {
            // some refuse system messages
            let Ok(wanted) = tokenizer
                .chat_template()
                .unwrap()
                .render(conversation, true)
            else {
                continue;
            };
            let bos = if tokenizer.adds_bos() { "<s>" } else { "" };
            assert_eq!(
                wanted.strip_prefix(bos).unwrap_or(&wanted),
                theirs,
                "{name}"
            );
            compared += 1;
        }
        assert!(compared >= 3, "{name}");
    }
}

#[test]
fn the_beginning_is_left_to_the_runner_that_adds_it() {
    assert!(
        tokenizer("llama3")
            .ollama_template()
            .unwrap()
            .go
            .starts_with("<|begin_of_text|>")
    );
    let mistral = tokenizer("mistral").ollama_template().unwrap();
    assert!(!mistral.go.contains("<s>"), "{}", mistral.go);
    let zephyr = tokenizer("zephyr").ollama_template().unwrap();
    assert!(
        zephyr.notes.iter().any(|n| n.contains("begins with <s>")),
        "{:?}",
        zephyr.notes
    );
    let llama = tokenizer("llama3").ollama_template().unwrap();
    assert!(
        llama.notes.iter().any(|n| n.contains("white space")),
        "{:?}",
        llama.notes
    );
    let braces = tokenizer("braces").ollama_template().unwrap();
    assert!(
        braces.notes.iter().any(|n| n.contains("no system message")),
        "{:?}",
        braces.notes
    );
}

#[test]
fn a_rule_that_go_cannot_follow_is_refused() {
    for (source, words) in [
        (source("reasoning"), "rule"), // cuts reasoning out of earlier answers
        (source("generation"), "write"), // quotes what users say as JSON
        (
            "{% for m in messages %}{{ loop.index }}: {{ m['content'] }}\n{% endfor %}".into(),
            "rule",
        ),
        (
            "{{ messages[-1]['content'] }}".into(),
            "out of order or not at all",
        ),
        (
            "{% for m in messages %}{{ m['content'] }}{{ m['content'] }}{% endfor %}".into(),
            "twice",
        ),
        (
            "{% for m in messages %}{{ m['role'] + ': ' + m['content'] | upper }}\n{% endfor %}"
                .into(),
            "not at all",
        ),
    ] {
        let tokenizer =
            Tokenizer::from_bytes(TOKENIZER, Some(br#"{"eos_token": "</s>"}"#), Some(&source))
                .unwrap();
        let e = tokenizer.ollama_template().unwrap_err().to_string();
        assert!(e.contains(words), "{source}: {e}");
        let file = modelfile(&tokenizer, "model.gguf", None).unwrap();
        assert!(
            file.contains("# No TEMPLATE") && !file.contains("\nTEMPLATE"),
            "{file}"
        );
        assert!(file.contains("PARAMETER stop \"</s>\""), "{file}");
    }
}

#[test]
fn a_modelfile_has_everything() {
    let file = modelfile(&tokenizer("chatml"), "./model.gguf", Some("./adapter.gguf")).unwrap();
    let wanted = "FROM ./model.gguf\nADAPTER ./adapter.gguf\nTEMPLATE \"\"\"{{ if not .System }}<|im_start|>system\nYou answer briefly.\
        <|im_end|>\n{{ end }}{{ range $i, $m := .Messages }}{{ if eq .Role \"user\" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n\
        {{ else if eq .Role \"assistant\" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n{{ else if eq .Role \"system\" }}\
        <|im_start|>system\n{{ .Content }}<|im_end|>\n{{ end }}{{ end }}<|im_start|>assistant\n\"\"\"\nPARAMETER stop \"<|im_end|>\"\n";
    let comments = file.lines().filter(|l| l.starts_with('#')).count();
    let plain: String = file
        .lines()
        .filter(|l| !l.starts_with('#'))
        .map(|l| format!("{l}\n"))
        .collect();
    assert_eq!(plain, wanted);
    assert_eq!(comments, 0, "{file}");
    let e = modelfile(&tokenizer("chatml"), "two\nlines", None)
        .unwrap_err()
        .to_string();
    assert!(e.contains("FROM"), "{e}");
}
