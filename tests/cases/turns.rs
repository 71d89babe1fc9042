//! Conversations as token ids, equal to those of transformers' apply_chat_template; generation
//! stays within the model's vocabulary and context. Expected texts: transformers 5.24.0,
//! `apply_chat_template(messages, tools=tools, **variables)` on the same template; the response is
//! the finished conversation without the prompt.

use std::fs;

use serde_json::{Value, json};

use crate::program::World;

/// OpenAI's tools and calls.
const TOOLS: &str = "{% if tools %}<|user|>tools: {{ tools | tojson }}<|end|>{% endif %}{% for m in messages %}\
    <|{{ m.role }}|>{{ m.content or '' }}{% for c in m.tool_calls or [] %}CALL {{ c.function.name }}\
    ({{ c.function.arguments }}){% endfor %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";

/// The prompt opens reasoning, a finished turn has its text as it is (as
/// DeepSeek-R1-Distill-Llama's).
const OPENS: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.role == 'assistant' %}<|end|>\
    {% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}";

/// A world with this chat template.
fn world(template: &str) -> World {
    let world = World::new();
    world.file("tokenizer/chat_template.jinja", template);
    world
}

/// Output of `inspect` for these lines as `data.jsonl`.
fn inspected(world: &World, lines: &[Value], set: &[&str]) -> String {
    let lines: String = lines.iter().map(|l| format!("{l}\n")).collect();
    world.file("data.jsonl", &lines);
    let mut args = vec![
        "inspect",
        "r.toml",
        "-q",
        "--set",
        "data.max_prompt_tokens=512",
    ];
    args.extend(set.iter().flat_map(|s| ["--set", s]));
    args.extend(["--set", "data.max_response_tokens=512"]);
    world.accepted(&args)
}

/// The world's model with another value in its configuration.
fn configure(world: &World, key: &str, value: u64) {
    let file = world.dir().join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    config[key] = value.into();
    fs::write(file, config.to_string()).unwrap();
}

fn rows(world: &World, file: &str) -> Vec<Value> {
    let text = fs::read_to_string(world.dir().join(file)).unwrap();
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

/// The shared case tool-calls-and-tools-dropped: everything but the ids was lost, and a null
/// content refused.
#[test]
fn tools_calls_and_results_reach_the_template() {
    let call = |content: Value| {
        let function = json!({"name": "add", "arguments": "{\"a\": 3, \"b\": 4}"});
        json!({"role": "assistant", "content": content, "tool_calls": [{"type": "function", "function": function}]})
    };
    let tools = json!([{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]);
    let ask = json!({"role": "user", "content": "What is 3+4?"});
    let row = |content: Value| {
        json!({"tools": tools, "messages": [ask, call(content), {"role": "tool", "content": "7"},
            {"role": "assistant", "content": "It is 7."}]})
    };
    let world = world(TOOLS);
    let lines = [
        row("".into()),
        row(Value::Null),
        json!({"messages": [ask, call("".into())]}),
    ];
    let out = inspected(&world, &lines, &[]);
    let whole = "data.jsonl:PLACE (142 + 6 tokens)\n<|user|>tools: [{\"type\": \"function\", \"function\": {\"name\": \"add\", \
        \"parameters\": {\"type\": \"object\"}}}]<|end|><|user|>What is 3+4?<|end|><|assistant|>CALL \
        add({\"a\": 3, \"b\": 4})<|end|><|tool|>7<|end|><|assistant|>[It is 7.<|end|>]\n";
    for place in ["1", "2"] {
        assert!(out.contains(&whole.replace("PLACE", place)), "{out}");
    }
    let answer = "data.jsonl:3 (13 + 26 tokens)\n<|user|>What is 3+4?<|end|><|assistant|>\
        [CALL add({\"a\": 3, \"b\": 4})<|end|>]\n";
    assert!(out.contains(answer), "{out}");
    assert!(out.contains("3 of 3 examples kept;"), "{out}");
}

/// The shared cases think-written-twice and templates/think_open.jinja.
#[test]
fn open_reasoning_is_not_opened_twice_and_closed_where_there_is_none() {
    let world = world(OPENS);
    let lines = ["<think>\nTwo and two.\n</think>\n\nFour.", "Four."];
    let lines = lines.map(|text| json!({"prompt": "2+2?", "response": text}));
    let out = inspected(&world, &lines, &[]);
    let prompt = "<|user|>2+2?<|assistant|><think>\n";
    for response in [
        "[Two and two.\n</think>\n\nFour.<|end|>]",
        "[\n</think>\n\nFour.<|end|>]",
    ] {
        assert!(out.contains(&format!("{prompt}{response}\n")), "{out}");
    }
    assert!(
        out.contains(
            "1 answer without the opening of reasoning that the prompt has, \
             1 answer without reasoning: an empty one is closed before"
        ),
        "{out}"
    );
}

/// Fields, columns and recipe variables that the template ignores are counted.
#[test]
fn what_the_template_leaves_out_is_counted() {
    let world = world(OPENS);
    let line = json!({"tools": [{}], "messages": [{"role": "user", "content": "q", "name": "Ann"},
        {"role": "assistant", "content": "a"}]});
    let out = inspected(&world, &[line], &["data.template_args={mood = 1}"]);
    for key in ["data.template_args.mood", "name", "tools"] {
        let said = format!("`{key}` of 1 not read by the chat template");
        assert!(out.contains(&said), "{key}: {out}");
    }
}

/// `data.template_args` applies to training and generation and is in the manifest; another value is
/// another game.
#[test]
fn template_variables_come_from_the_recipe() {
    let world = world(
        "{{ day }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if not plain %}!{% endif %}<|end|>{% endfor %}\
         {% if add_generation_prompt %}<|assistant|>{% endif %}",
    );
    let recipe = fs::read_to_string(world.dir().join("r.toml")).unwrap();
    let table = "[data.template_args]\nday = \"Monday\"\nplain = true\n";
    world.file("r.toml", &format!("{recipe}{table}"));
    let line = json!({"prompt": "q", "response": "a"});
    let inspect = |set: &[&str]| inspected(&world, std::slice::from_ref(&line), set);
    assert!(inspect(&[]).contains("Monday<|user|>q<|end|><|assistant|>[a<|end|>]"));
    let other = inspect(&["data.template_args.plain=false"]);
    assert!(
        other.contains("Monday<|user|>q!<|end|><|assistant|>[a!<|end|>]"),
        "{other}"
    );
    let own = json!({"prompt": "q", "response": "a", "chat_template_kwargs": {"day": "Friday"}});
    let own = inspected(&world, &[own], &[]);
    assert!(own.contains("Friday<|user|>q<|end|>"), "{own}");
    world.accepted(&["run", "r.toml", "-q", "--set", "train.warmup=0"]);
    let manifest = fs::read_to_string(world.dir().join("runs/r/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let kept = manifest["recipe"]["data.template_args"].as_str().unwrap();
    assert_eq!(kept, "{ day = \"Monday\", plain = true }");
    let other = [
        "run",
        "r.toml",
        "-q",
        "--set",
        "train.warmup=0",
        "--set",
        "data.template_args.day=Friday",
    ];
    world.refused(&other, "data.template_args");
    let error = "[data]\ntemplate_args = 3\n";
    world.file("bad.toml", error);
    world.refused(
        &["inspect", "bad.toml"],
        "bad.toml:2: data.template_args must be a table",
    );
}

/// The shared case vocabulary-too-small-found-after-generation: the row is named before anything is
/// computed.
#[test]
fn a_token_beyond_the_embedding_is_found_with_its_row() {
    let world = World::new();
    let file = world.dir().join("tokenizer/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let added = json!({"id": 337, "content": "<odd>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": false});
    tokenizer["added_tokens"]
        .as_array_mut()
        .unwrap()
        .push(added);
    fs::write(file, tokenizer.to_string()).unwrap();
    let row = |answer: &str| json!({"prompt": "q", "response": answer}).to_string();
    world.file(
        "data.jsonl",
        &[row("a"), row("b"), row("c <odd>")].join("\n"),
    );
    let why =
        "data.jsonl:3: token 337 (\"<odd>\") must be below 337, the rows of the model's embedding";
    world.refused(&["inspect", "r.toml"], why);
    world.refused(&["run", "r.toml"], why);
    // in the sets to measure on too
    world.file("good.jsonl", &[row("a"), row("b")].join("\n"));
    let good = [
        "inspect",
        "r.toml",
        "--set",
        "data.train=good.jsonl",
        "--set",
        "data.held_out=good.jsonl",
    ];
    let said = world.accepted(&good);
    let held_out = "held-out data: 2 of 2 examples kept";
    assert!(said.contains(held_out), "{said}");
    for set in ["data.held_out=data.jsonl", "data.validation=data.jsonl"] {
        world.refused(&[&good[..], &["--set", set]].concat(), why);
    }
    world.nothing_written();
}

/// Lengths of the demo's tokenizer in Python: a prompt of 4 tokens, answers of 1 and 9, and the
/// end.
#[test]
fn the_longest_example_counts_the_longer_answer() {
    let world = World::new();
    let line = json!({"prompt": "q", "chosen": "a", "rejected": "xyzxyzxyz"});
    let out = inspected(&world, &[line], &[]);
    assert!(out.contains("longest example 14 tokens"), "{out}");
}

/// Rows of the embedding beyond the tokenizer are never sampled: 263 here, nearly half of all draws
/// with random weights.
#[test]
fn rows_beyond_the_tokenizer_are_never_drawn() {
    let world = World::new();
    configure(&world, "vocab_size", 600);
    for sampling in ["[]", "[{name=\"temperature\", t=0.7}]"] {
        let sampling = format!("generate.sampling={sampling}");
        world.accepted(&[
            "generate", "r.toml", "-q", "--out", "g.jsonl", "--set", &sampling,
        ]);
        let tokens = rows(&world, "g.jsonl");
        let tokens = tokens
            .iter()
            .flat_map(|row| row["tokens"].as_array().unwrap());
        let tokens: Vec<u64> = tokens.map(|t| t.as_u64().unwrap()).collect();
        assert!(
            tokens.len() > 100 && tokens.iter().all(|t| *t < 337),
            "{sampling}: {tokens:?}"
        );
    }
}

/// An answer ends at the model's window as a human response does in training, and is counted as
/// cut.
#[test]
fn generation_ends_at_the_window() {
    let world = World::new();
    configure(&world, "max_position_embeddings", 40);
    let args = [
        "generate",
        "r.toml",
        "-q",
        "--out",
        "g.jsonl",
        "--set",
        "generate.max_new_tokens=64",
    ];
    world.accepted(&args);
    world.accepted(&[
        "score", "r.toml", "-q", "--pairs", "g.jsonl", "--out", "s.jsonl",
    ]);
    let scored = rows(&world, "s.jsonl");
    let lengths: Vec<usize> = scored
        .iter()
        .map(|row| {
            ["prompt", "generated"]
                .map(|k| row[k].as_array().unwrap().len())
                .iter()
                .sum()
        })
        .collect();
    assert!(
        !lengths.is_empty() && lengths.iter().all(|n| *n <= 40),
        "{lengths:?}"
    );
    assert!(lengths.contains(&40), "{lengths:?}");
    let cut = rows(&world, "g.jsonl")
        .iter()
        .filter(|r| r["truncated"] == true)
        .count();
    assert!(cut >= lengths.iter().filter(|n| **n == 40).count());
}
