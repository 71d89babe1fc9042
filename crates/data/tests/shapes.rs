//! Every format of data set, read from text as people have it, and the errors for lines of no
//! format.

use randori_data::{
    Calculator, Format, Message, ReadOptions, Reader, Record, Turns, read, read_bytes,
};

fn read_text(text: &str) -> Vec<Record> {
    read_bytes("train.jsonl", text.as_bytes(), &ReadOptions::default())
        .unwrap()
        .0
}

fn one(text: &str) -> Record {
    let records = read_text(text);
    assert_eq!(records.len(), 1);
    records.into_iter().next().unwrap()
}

fn refused(text: &str) -> String {
    read_bytes("train.jsonl", text.as_bytes(), &ReadOptions::default())
        .unwrap_err()
        .to_string()
}

fn user(text: &str) -> Vec<Message> {
    vec![Message::user(text)]
}

#[test]
fn messages() {
    let line = r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q1"},
        {"role": "assistant", "content": "a1"}, {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "2"}]},
        {"role": "assistant", "content": "a2"}, {"role": "user", "content": "thanks"}]}"#
        .replace('\n', "");
    let record = one(&line);
    assert_eq!(record.response.content(), "a2");
    assert_eq!(record.prompt.len(), 4);
    assert_eq!(record.prompt[3], Message::user("q2"));
    assert_eq!(record.place.to_string(), "train.jsonl:1");
    // "a1" is left out, and counted
    let left = read_bytes("x", line.as_bytes(), &ReadOptions::default());
    assert_eq!(left.unwrap().1.earlier, 1);
    let every = ReadOptions {
        turns: Turns::Every,
        ..ReadOptions::default()
    };
    let (records, left) = read_bytes("x", line.as_bytes(), &every).unwrap();
    assert_eq!(left.earlier, 0);
    let answers: Vec<(usize, &str)> = records
        .iter()
        .map(|r| (r.prompt.len(), r.response.content()))
        .collect();
    assert_eq!(answers, [(2, "a1"), (4, "a2")]);
}

#[test]
fn every_turn_that_answers_somebody_and_is_meant_to_be_trained() {
    let line = r#"{"conversations": [{"from": "gpt", "value": "hello!"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "weight": 0}, {"from": "human", "value": "q2"}, {"from": "gpt", "value": "a2"}]}"#;
    let every = ReadOptions {
        turns: Turns::Every,
        ..ReadOptions::default()
    };
    let records = read_bytes("x", line.as_bytes(), &every).unwrap().0;
    assert_eq!(records.len(), 1);
    assert_eq!(
        (records[0].prompt.len(), records[0].response.content()),
        (4, "a2")
    );
}

#[test]
fn prompt_and_response() {
    assert_eq!(one(r#"{"prompt": "q", "response": "a"}"#).prompt, user("q"));
    assert_eq!(
        one(r#"{"prompt": "q", "completion": "a"}"#)
            .response
            .content(),
        "a"
    );
    let listed = one(
        r#"{"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]}"#,
    );
    assert_eq!((listed.prompt, listed.response.content()), (user("q"), "a"));
    let system = one(r#"{"system": "brief", "prompt": "q", "response": "a"}"#);
    assert_eq!(
        system.prompt,
        [Message::new("system", "brief"), Message::user("q")]
    );
}

#[test]
fn alpaca() {
    let record = one(r#"{"instruction": "Add.", "input": "1 2", "output": "3"}"#);
    assert_eq!(
        (record.prompt, record.response.content()),
        (user("Add.\n\n1 2"), "3")
    );
    assert_eq!(
        one(r#"{"instruction": "Add.", "input": "", "output": "3"}"#).prompt,
        user("Add.")
    );
    let history =
        one(r#"{"instruction": "q2", "input": null, "output": "a2", "history": [["q1", "a1"]]}"#);
    assert_eq!(
        history.prompt,
        [
            Message::user("q1"),
            Message::assistant("a1"),
            Message::user("q2")
        ]
    );
}

#[test]
fn sharegpt() {
    let record = one(
        r#"{"id": "x", "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}"#,
    );
    assert_eq!(
        record.prompt,
        [Message::new("system", "s"), Message::user("q")]
    );
    assert_eq!(record.response.content(), "a");
}

#[test]
fn spin() {
    let lists = one(
        r#"{"real": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "generated": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]}"#,
    );
    assert_eq!(
        (
            lists.prompt,
            lists.response.content(),
            lists.rejected.as_ref().map(Message::content)
        ),
        (user("q"), "a", Some("b"))
    );
    assert!(!lists.rejected_cut);
    let texts = one(r#"{"prompt": "q", "real": "a", "generated": "b", "truncated": true}"#);
    assert_eq!(
        (
            texts.prompt,
            texts.rejected.as_ref().map(Message::content),
            texts.rejected_cut
        ),
        (user("q"), Some("b"), true)
    );
}

/// TRL's shape of tool use: what is asked under `prompt`, the model's calls before its answer.
#[test]
fn a_response_of_several_messages_goes_on_from_its_prompt() {
    let asks = r#"{"role": "user", "content": "q"}"#;
    let system = r#"{"role": "system", "content": "s"}"#;
    let call = r#"{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]}, {"role": "tool", "content": "4"}"#;
    let answer = |text: &str| format!(r#"{{"role": "assistant", "content": "{text}"}}"#);
    let (a, b) = (answer("a"), answer("b"));
    let with_system = format!("{system}, {asks}");
    let whole = format!("{system}, {asks}, {call}");
    for (prompt, list, roles) in [
        (format!("[{asks}]"), call, "user assistant tool"),
        (r#""q""#.to_owned(), call, "user assistant tool"),
        (
            format!("[{system}, {asks}]"),
            call,
            "system user assistant tool",
        ),
        // only the system's: the conversation follows
        (format!("[{system}]"), asks, "system user"),
        // the whole conversation, with a system message of its own
        (
            r#"" q\n""#.to_owned(),
            whole.as_str(),
            "system user assistant tool",
        ),
        (
            format!("[{system}, {asks}]"),
            with_system.as_str(),
            "system user",
        ),
        // a blank prompt is none
        (r#""""#.to_owned(), asks, "user"),
    ] {
        for row in [
            format!(r#"{{"prompt": {prompt}, "completion": [{list}, {a}]}}"#),
            format!(
                r#"{{"prompt": {prompt}, "chosen": [{list}, {a}], "rejected": [{list}, {b}]}}"#
            ),
        ] {
            let record = one(&row);
            let said: Vec<&str> = record.prompt.iter().map(Message::role).collect();
            assert_eq!(said.join(" "), roles, "{row}");
            assert_eq!(record.response.content(), "a", "{row}");
        }
    }
    let other = r#"{"role": "user", "content": "another"}"#;
    let error = refused(&format!(
        r#"{{"prompt": [{asks}], "completion": [{other}, {a}]}}"#
    ));
    assert!(
        error.starts_with(
            "train.jsonl:1: `completion` neither holds the messages of `prompt` nor goes on from them"
        ),
        "{error}"
    );
}

#[test]
fn preference_pairs() {
    let texts = one(r#"{"prompt": "q", "chosen": "a", "rejected": "b"}"#);
    assert_eq!(
        (
            texts.prompt,
            texts.response.content(),
            texts.rejected.as_ref().map(Message::content)
        ),
        (user("q"), "a", Some("b"))
    );
    // UltraFeedback: the lists carry the prompt, `messages` is there too.
    let lists = one(
        r#"{"prompt": "q", "messages": [], "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]}"#,
    );
    assert_eq!(
        (lists.prompt, lists.rejected.as_ref().map(Message::content)),
        (user("q"), Some("b"))
    );
    let apart = one(
        r#"{"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}"#,
    );
    assert_eq!((apart.prompt, apart.response.content()), (user("q"), "a"));
    let error = refused(
        r#"{"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "rejected": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "b"}]}"#,
    );
    assert_eq!(
        error,
        "train.jsonl:1: `chosen` and `rejected` answer different prompts: they part at message 1"
    );
    assert!(refused(r#"{"chosen": "a", "rejected": "b"}"#).contains("a `prompt` is needed"));
}

#[test]
fn gsm8k() {
    let line = r#"{"question": "q", "answer": "48/2 = <<48/2=24>>24, a << b\n>> and <<1+1=2>>2\n#### 24"}"#;
    assert!(one(line).response.content().contains("<<48/2=24>>"));
    let options = ReadOptions {
        calculator: Calculator::Remove,
        ..ReadOptions::default()
    };
    let record = &read_bytes("x", line.as_bytes(), &options).unwrap().0[0];
    assert_eq!(
        record.response.content(),
        "48/2 = 24, a << b\n>> and 2\n#### 24"
    );
    assert_eq!(record.prompt, user("q"));
}

#[test]
fn a_set_format_goes_before_the_keys() {
    let line = r#"{"messages": [{"role": "user", "content": "m"}, {"role": "assistant", "content": "n"}], "prompt": "q", "response": "a"}"#;
    assert_eq!(one(line).response.content(), "n");
    let options = ReadOptions {
        format: Format::Prompt,
        ..ReadOptions::default()
    };
    assert_eq!(
        read_bytes("x", line.as_bytes(), &options).unwrap().0[0]
            .response
            .content(),
        "a"
    );
    let options = ReadOptions {
        format: Format::Alpaca,
        ..ReadOptions::default()
    };
    let error = read_bytes("x", line.as_bytes(), &options)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "x:1: no `instruction` (the format is set to alpaca); keys found: `messages`, `prompt`, `response`"
    );
}

#[test]
fn a_json_array_and_mixed_lines() {
    let array = "\u{feff} [\n {\"instruction\": \"a [\\\"{\", \"output\": \"b\"},\n\n {\"prompt\": \"q\",\n \"response\": \"r\"}\n]\n";
    let records = read_text(array);
    assert_eq!(
        records.iter().map(|r| r.place.line).collect::<Vec<_>>(),
        [2, 4]
    );
    assert_eq!(
        (records[0].response.content(), records[1].response.content()),
        ("b", "r")
    );
    assert!(
        refused("[{\"prompt\": \"q\", \"response\": \"r\"}")
            .ends_with("the array that starts the file never ends")
    );
    let mixed = read_text(
        "{\"prompt\": \"q\", \"response\": \"r\"}\r\n\n{\"question\": \"q\", \"answer\": \"a\"}",
    );
    assert_eq!(mixed[1].place.line, 3);
}

#[test]
fn parquet() {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/messages.parquet");
    for records in [
        read(&path, &ReadOptions::default()).unwrap().0,
        read_bytes("x", &std::fs::read(&path).unwrap(), &ReadOptions::default())
            .unwrap()
            .0,
    ] {
        assert_eq!(records.len(), 5);
        assert_eq!(records[4].prompt, user("What is 4 plus 4?"));
        assert_eq!(
            (records[4].response.content(), records[4].place.line),
            ("8", 5)
        );
    }
    let mut damaged = std::fs::read(&path).unwrap();
    damaged.truncate(damaged.len() / 2);
    let error = read_bytes("x.parquet", &damaged, &ReadOptions::default())
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("x.parquet: not Parquet: "), "{error}");
}

#[test]
fn bad_lines_name_their_place_and_rule() {
    let good = r#"{"prompt": "q", "response": "a"}"#;
    let with = |bad: &str| refused(&format!("{good}\n\n{bad}\n{good}\n"));
    for (bad, said) in [
        (
            "{\"prompt\": \"q\", oops",
            "train.jsonl:3: not JSON: key must be a string at column 17",
        ),
        (
            "{\"prompt\":",
            "train.jsonl:3: not JSON: EOF while parsing a value at column 10; one whole JSON object is expected on each line",
        ),
        (
            "7",
            "train.jsonl:3: an example should be an object, is a number",
        ),
        (
            r#"{"prompt": "q"}"#,
            "train.jsonl:3: an example without response: `prompt` but no `response` or `completion` (shape prompt-response)",
        ),
        (
            r#"{"prompt": "q", "response": null}"#,
            "train.jsonl:3: an example without response: `prompt` but no `response` or `completion` (shape prompt-response)",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "q"}]}"#,
            "train.jsonl:3: an example without response: `messages` has no assistant message",
        ),
        (
            r#"{"messages": [{"role": "assistant", "content": "a"}]}"#,
            "train.jsonl:3: an empty prompt: nobody speaks before the assistant in `messages`",
        ),
        (
            r#"{"prompt": "  ", "response": "a"}"#,
            "train.jsonl:3: an empty prompt",
        ),
        (
            r#"{"instruction": "", "output": "a"}"#,
            "train.jsonl:3: an empty prompt: `instruction` and `input` are blank",
        ),
        (
            r#"{"prompt": "q", "response": 7}"#,
            "train.jsonl:3: `response` should be text or messages, is a number",
        ),
        (
            r#"{"messages": [{"role": "wizard", "content": "q"}]}"#,
            "train.jsonl:3: `messages[0]` has the unknown role `wizard`; known: system, developer, user (human), assistant (gpt), function_call (tool_call), tool (function, observation, ipython)",
        ),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "image"}]}]}"#,
            "train.jsonl:3: `messages[0]` has a part of type \"image\"; only text can be trained",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": [{"type": "thinking", "text": "Hm."}, {"type": "text", "text": "a"}]}]}"#,
            "train.jsonl:3: `messages[1]` has a part of type \"thinking\"; only text can be trained",
        ),
        (
            r#"{"messages": [{"role": "user", "content": [{"text": null}]}]}"#,
            "train.jsonl:3: `messages[0]` has a part that is not text; only text can be trained",
        ),
    ] {
        assert_eq!(with(bad), said);
    }
    let error = with(r#"{"body": "q", "label": 1}"#);
    assert!(error.starts_with("train.jsonl:3: no known shape has the keys `body`, `label`. Known: spin (`real` + `generated`), "), "{error}");
    assert!(
        error.contains("prompt-response (`prompt` + `response` or `completion`)"),
        "{error}"
    );
    let hint = "; data.columns = {prompt = …, response = …} says which columns are which";
    assert!(error.ends_with(hint), "{error}");
    let error = read_bytes("x", b"{\"prompt\": \"\xff\"}", &ReadOptions::default())
        .unwrap_err()
        .to_string();
    assert_eq!(error, "x:1: not UTF-8: a wrong byte at column 13");
    assert_eq!(refused("\n \n"), "train.jsonl: no example in it");
    let error = read(
        std::path::Path::new("no/such.jsonl"),
        &ReadOptions::default(),
    )
    .unwrap_err()
    .to_string();
    assert!(error.starts_with("no/such.jsonl: "), "{error}");
}

#[test]
fn a_reader_goes_on_after_a_bad_line_and_stops_at_the_limit() {
    let text = "{\"prompt\": \"q\", \"response\": \"a\"}\nnot json\n{\"prompt\": \"q\", \"response\": \"b\"}\n";
    let reader = Reader::from_bytes("x", text.into(), &ReadOptions::default()).unwrap();
    let outcomes: Vec<bool> = reader.map(|r| r.is_ok()).collect();
    assert_eq!(outcomes, [true, false, true]);
    let limited = ReadOptions {
        limit: Some(1),
        ..ReadOptions::default()
    };
    assert_eq!(
        read_bytes("x", text.as_bytes(), &limited).unwrap().0.len(),
        1,
        "what follows is not read"
    );
}
