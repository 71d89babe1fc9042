//! Columns under names of their own, and shapes that are told by them.

use randori_data::{
    BadRows, Columns, Format, Left, Message, ReadOptions, Record, read, read_bytes,
};

fn options(columns: &[(&str, &str)]) -> ReadOptions {
    let owned = |(name, column): &(&str, &str)| ((*name).to_owned(), (*column).to_owned());
    ReadOptions {
        columns: Columns(columns.iter().map(owned).collect()),
        ..ReadOptions::default()
    }
}

fn rows(name: &str, text: &str, columns: &[(&str, &str)]) -> Result<(Vec<Record>, Left), String> {
    read_bytes(name, text.as_bytes(), &options(columns)).map_err(|e| e.to_string())
}

#[track_caller]
fn one(name: &str, text: &str, columns: &[(&str, &str)]) -> (Record, Left) {
    let (mut records, left) = rows(name, text, columns).unwrap();
    assert_eq!(records.len(), 1);
    (records.remove(0), left)
}

const PAIR: [(&str, &str); 2] = [("prompt", "ask"), ("response", "say")];

#[test]
fn every_kind_of_file_has_columns_under_names_of_their_own() {
    for (name, text) in [
        ("d.jsonl", "{\"ask\": \"q\", \"say\": \"a\"}\n"),
        ("d.json", "[{\"ask\": \"q\", \"say\": \"a\"}]"),
        ("d.csv", "ask,say\nq,a\n"),
        ("d.tsv", "ask\tsay\r\nq\ta\r\n"),
    ] {
        let (record, left) = one(name, text, &PAIR);
        assert_eq!(record.prompt, [Message::user("q")], "{name}");
        assert_eq!(record.response, Message::assistant("a"), "{name}");
        assert_eq!(left, Left::default(), "{name}");
    }
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/messages.parquet");
    let (records, _) = read(&path, &options(&[("conversations", "messages")])).unwrap();
    assert_eq!(records.len(), 5);
    assert_eq!(records[4].prompt, [Message::user("What is 4 plus 4?")]);
    let error = read(&path, &options(&[("messages", "mesages")])).unwrap_err();
    let what = "messages.parquet:1: no column `mesages`, which data.columns reads as `messages`; \
                nearest: `messages`; there are `messages`, `prompt`, `score`";
    assert!(error.to_string().ends_with(what), "{error}");
}

/// What TRL, axolotl and LLaMA-Factory users name in their settings.
#[test]
fn pairs_systems_and_conversations_too() {
    let columns = [
        ("prompt", "q"),
        ("chosen", "good"),
        ("rejected", "bad"),
        ("system", "sys"),
        ("reward_chosen", "up"),
        ("reward_rejected", "down"),
    ];
    let text = r#"{"q": "q", "good": "a", "bad": "b", "sys": "s", "up": 2, "down": 1}"#;
    let (record, left) = one("d.jsonl", text, &columns);
    let prompt = [Message::new("system", "s"), Message::user("q")];
    assert_eq!(record.prompt, prompt);
    assert_eq!(record.rejected, Some(Message::assistant("b")));
    assert_eq!(record.rewards, Some([2.0, 1.0]));
    assert_eq!(left, Left::default());
    let alpaca = [
        ("instruction", "task"),
        ("input", "with"),
        ("output", "done"),
    ];
    let text = r#"{"task": "Add.", "with": "1 2", "done": "3"}
{"task": "t", "done": "4"}"#;
    let (records, _) = rows("d.jsonl", text, &alpaca).unwrap();
    assert_eq!(records[0].prompt, [Message::user("Add.\n\n1 2")]);
    assert_eq!(records[1].prompt, [Message::user("t")]);
    // a cell holds messages where what it is read as may
    let cell = r#"[{""role"": ""user"", ""content"": ""q""}]"#;
    let (record, _) = one("d.csv", &format!("ask,say\n\"{cell}\",a\n"), &PAIR);
    assert_eq!(record.prompt, [Message::user("q")]);
    let talk = r#"{"talk": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}"#;
    let (record, _) = one("d.jsonl", talk, &[("messages", "talk")]);
    assert_eq!(record.response, Message::assistant("a"));
}

#[test]
fn what_is_said_goes_before_what_the_keys_look_like() {
    let messages = r#"[{"role": "user", "content": "m"}, {"role": "assistant", "content": "n"}]"#;
    let text = format!(r#"{{"messages": {messages}, "ask": "q", "say": "a"}}"#);
    let (record, left) = one("d.jsonl", &text, &PAIR);
    assert_eq!(record.response, Message::assistant("a"));
    assert_eq!(left.unread["messages"], 1);
    // a column that has the name already is left out, and counted
    let text = r#"{"prompt": "old", "ask": "q", "say": "a"}"#;
    let (record, left) = one("d.jsonl", text, &PAIR);
    assert_eq!(record.prompt, [Message::user("q")]);
    assert_eq!(left.unread["prompt"], 1);
    // names may change places
    let swap = [("prompt", "response"), ("response", "prompt")];
    let (record, left) = one("d.jsonl", r#"{"prompt": "a", "response": "q"}"#, &swap);
    assert_eq!(record.prompt, [Message::user("q")]);
    assert_eq!((record.response.content(), left), ("a", Left::default()));
    // Alpaca's beside a column `prompt` that means something else
    let alpaca = [("instruction", "task"), ("response", "say")];
    let text = r#"{"task": "q", "say": "a", "prompt": "template 7"}"#;
    let (record, _) = one("d.jsonl", text, &alpaca);
    assert_eq!(record.prompt, [Message::user("q")]);
}

#[test]
fn a_column_that_is_not_there_is_named_with_those_that_are() {
    let good = "{\"question\": \"q\", \"answer\": \"a\"}\n";
    let columns = [("prompt", "question"), ("response", "anwser")];
    assert_eq!(
        rows("d.jsonl", good, &columns).unwrap_err(),
        "d.jsonl:1: no column `anwser`, which data.columns reads as `response`; nearest: `answer`; \
         there are `question`, `answer`"
    );
    assert_eq!(
        rows("d.csv", "question,answer\nq,a\n", &[("prompt", "text")]).unwrap_err(),
        "d.csv:2: no column `text`, which data.columns reads as `prompt`; there are `question`, \
         `answer`"
    );
    let right = [("prompt", "question"), ("response", "answer")];
    let text = format!("{good}{{\"question\": \"q\"}}\n");
    let what = "d.jsonl:2: no column `answer`, which data.columns reads as `response`; there are \
                `question`";
    assert_eq!(rows("d.jsonl", &text, &right).unwrap_err(), what);
    let drop = ReadOptions {
        bad_rows: BadRows::Drop,
        ..options(&right)
    };
    let (records, left) = read_bytes("d.jsonl", text.as_bytes(), &drop).unwrap();
    assert_eq!((records.len(), left.bad_rows), (1, 1));
    assert_eq!(left.first_bad.as_deref(), Some(what));
}

/// Rows may lack a system message, an input, tools; a file in which no row has it was not meant.
#[test]
fn a_column_that_rows_may_lack_is_there_in_one_of_them() {
    let columns = [("system", "sys")];
    let row = |more: &str| format!("{{\"prompt\": \"q\", \"response\": \"a\"{more}}}\n");
    let some = [row(""), row(", \"sys\": \"s\"")].concat();
    let (records, _) = rows("d.jsonl", &some, &columns).unwrap();
    let lengths: Vec<usize> = records.iter().map(|r| r.prompt.len()).collect();
    assert_eq!(lengths, [1, 2]);
    assert_eq!(
        rows("d.jsonl", &row(", \"sis\": \"s\""), &columns).unwrap_err(),
        "d.jsonl: no column `sys`, which data.columns reads as `system`; nearest: `sis`; there are \
         `prompt`, `response`, `sis`"
    );
}

#[test]
fn input_and_output_without_another_prompt() {
    let (record, left) = one(
        "d.jsonl",
        r#"{"input": "q", "output": "a", "system": "s"}"#,
        &[],
    );
    assert_eq!(
        record.prompt,
        [Message::new("system", "s"), Message::user("q")]
    );
    assert_eq!((record.response.content(), left), ("a", Left::default()));
    let (record, _) = one("d.csv", "input,output\n12,144\n", &[]);
    assert_eq!(record.prompt, [Message::user("12")]);
    // Alpaca's input is no prompt, and neither is one beside a prompt
    let (record, _) = one(
        "d.jsonl",
        r#"{"instruction": "i", "input": "q", "output": "a"}"#,
        &[],
    );
    assert_eq!(record.prompt, [Message::user("i\n\nq")]);
    let error = rows(
        "d.jsonl",
        r#"{"prompt": "p", "input": "q", "output": "a"}"#,
        &[],
    );
    let what = "d.jsonl:1: an example without response: `prompt` but no `response` or `completion`";
    assert!(error.clone().unwrap_err().starts_with(what), "{error:?}");
    let forced = ReadOptions {
        format: Format::InputOutput,
        ..ReadOptions::default()
    };
    let row = br#"{"prompt": "p", "input": "q", "output": "a"}"#;
    let (records, left) = read_bytes("d.jsonl", row, &forced).unwrap();
    assert_eq!(records[0].prompt, [Message::user("q")]);
    assert_eq!(left.unread["prompt"], 1);
}

#[test]
fn a_text_alone_is_trained_as_a_whole() {
    let (record, left) = one("d.jsonl", r#"{"text": " all of it\n", "id": 7}"#, &[]);
    assert!(record.prompt.is_empty());
    assert_eq!(record.response.content(), " all of it\n");
    assert_eq!(left.unread["id"], 1);
    let (record, _) = one("d.csv", "body\nall\n", &[("text", "body")]);
    assert_eq!((record.prompt.len(), record.response.content()), (0, "all"));
    // beside a key of another shape it is not the whole
    let error = rows("d.jsonl", r#"{"text": "t", "prompt": "q"}"#, &[]).unwrap_err();
    assert!(
        error.contains("an example without response: `prompt`"),
        "{error}"
    );
    let error = rows("d.jsonl", r#"{"text": "t", "answer": "a"}"#, &[]).unwrap_err();
    assert!(
        error.contains("no known shape has the keys `text`, `answer`"),
        "{error}"
    );
    assert_eq!(
        rows("d.jsonl", r#"{"text": " \n"}"#, &[]).unwrap_err(),
        "d.jsonl:1: `text` is blank"
    );
}
