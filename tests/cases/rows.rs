//! Every field of a data row reaches the model or is counted, as the program reports it.

use crate::program::World;

fn inspected(world: &World, file: &str, text: &str, more: &[&str]) -> String {
    world.file(file, text);
    let train = format!("data.train={file}");
    let mut args = vec!["inspect", "r.toml", "-q", "-n", "9", "--set", &train];
    args.extend(more);
    world.accepted(&args)
}

fn refused(world: &World, file: &str, text: &str, why: &str) {
    world.file(file, text);
    let train = format!("data.train={file}");
    world.refused(&["inspect", "r.toml", "-q", "--set", &train], why);
}

/// One odd row among good ones. Python's `json.loads` reads the first and the third; a tokenizer
/// refuses the third's response (`'utf-8' codec can't encode character '\ud83d'`), transformers
/// 5.24.
#[test]
fn one_odd_row_is_read_or_dropped_and_counted() {
    let world = World::new();
    let good = "{\"prompt\": \"What is two?\", \"response\": \"2\"}\n";
    let nan = format!("{good}{{\"prompt\": \"a\", \"response\": \"b\", \"score\": NaN}}\n");
    let said = inspected(&world, "nan.jsonl", &nan, &[]);
    assert!(said.contains("2 of 2 examples kept"), "{said}");
    let drop = ["--set", "data.bad_rows=drop"];
    for (row, why) in [
        (
            r#"{"question": "a", "answer": 5}"#,
            "`answer` should be text or messages, is a number",
        ),
        (
            r#"{"prompt": "a", "response": "cut \ud83d"}"#,
            "`response` has half of a surrogate pair",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": null}]}"#,
            "`messages[1]` has no content",
        ),
    ] {
        let text = format!("{good}{row}\n");
        refused(&world, "odd.jsonl", &text, &format!("odd.jsonl:2: {why}"));
        let hint = "; data.bad_rows = \"drop\" leaves such rows out";
        refused(&world, "odd.jsonl", &text, hint);
        let said = inspected(&world, "odd.jsonl", &text, &drop);
        assert!(said.contains("1 of 2 examples kept"), "{said}");
        assert!(said.contains("1 bad row dropped (first: "), "{said}");
        assert!(said.contains(&format!("odd.jsonl:2: {why}")), "{said}");
    }
    let all = "{\"question\": \"a\", \"answer\": 5}\n";
    world.file("all.jsonl", all);
    // to leave out all would be no help
    let every = ["inspect", "r.toml", "--set", "data.train=all.jsonl"];
    let line = world.refused(&every, "all.jsonl:1: `answer` should be");
    assert!(!line.contains("bad_rows"), "{line}");
    let train = [
        "--set",
        "data.train=all.jsonl",
        "--set",
        "data.bad_rows=drop",
    ];
    let args = [["inspect", "r.toml", "-q"].as_slice(), &train].concat();
    world.refused(
        &args,
        "no example is left: 0 of 1 examples kept; 1 bad row dropped",
    );
}

#[test]
fn an_optional_field_of_another_type_is_taken_as_meant() {
    let world = World::new();
    let text = r#"{"instruction": "Square this number.", "input": 12, "output": "144"}
{"prompt": "q", "chosen": "a", "rejected": "b", "truncated": 1}
{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "bad", "weight": false}]}
"#;
    let said = inspected(&world, "d.jsonl", text, &[]);
    assert!(said.contains("Square this number.\n\n12"), "{said}");
    assert!(said.contains("(cut: no end of turn)"), "{said}");
    assert!(!said.contains("bad"), "{said}");
    assert!(said.contains("2 of 3 examples kept"), "{said}");
    assert!(said.contains("1 row with nothing to train"), "{said}");
    refused(
        &world,
        "d.jsonl",
        r#"{"prompt": "a", "response": "b", "system": ["Be", "brief."]}"#,
        "d.jsonl:1: `system` is a list of 2 texts",
    );
}

#[test]
fn what_is_not_to_be_trained_is_not() {
    let world = World::new();
    let text = r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "bad", "train": false}, {"role": "user", "content": "Again"}, {"role": "assistant", "content": "good"}]}
{"prompt": "Hi", "completion": "you fool", "label": false}
"#;
    let said = inspected(&world, "d.jsonl", text, &["--set", "data.turns=every"]);
    assert!(said.contains("1 of 2 examples kept"), "{said}");
    assert!(said.contains("[good") && !said.contains("[bad"), "{said}");
    assert!(!said.contains("you fool"), "{said}");
    assert!(
        said.contains("1 row with nothing to train; 1 more response marked as not to be trained"),
        "{said}"
    );
}

#[test]
fn keys_that_nobody_reads_are_said_once() {
    let world = World::new();
    let row = r#"{"prompt": "Hi", "response": "you", "source": "web", "id": 3}"#;
    let said = inspected(&world, "d.jsonl", &format!("{row}\n{row}\n"), &[]);
    let keys = "keys nobody reads: `id` (2 rows), `source` (2 rows)";
    assert_eq!(said.matches(keys).count(), 1, "{said}");
}

#[test]
fn a_table_is_a_data_set() {
    let world = World::new();
    let said = inspected(&world, "d.csv", "prompt,response\nWhat is two?,2\n", &[]);
    assert!(said.contains("1 of 1 examples kept"), "{said}");
}

/// Answers keep their token ids when other rows are too long; dropped ones are counted.
#[test]
fn pairs_of_answers_count_what_they_drop() {
    let world = World::new();
    world.accepted(&["generate", "r.toml", "-q", "--out", "answers.jsonl"]);
    let shorter = [
        "train",
        "r.toml",
        "--pairs",
        "answers.jsonl",
        "--out",
        "trained",
        "--set",
        "data.max_prompt_tokens=12",
    ];
    let out = world.run(&shorter);
    let pairs = out
        .stderr
        .lines()
        .find(|l| l.trim_start().starts_with("pairs"))
        .unwrap_or("");
    assert!(
        pairs.contains(" of 24 examples kept, ") && pairs.contains("prompts too long"),
        "{}",
        out.stderr
    );
}
