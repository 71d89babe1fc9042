//! Rows as other programs write them: other column names, messages in a cell, files that end in the
//! middle of a row.

use std::io::Write;

use randori_data::{BadRows, Format, Left, Message, ReadOptions, Record, read_bytes};

fn rows(name: &str, text: &str) -> Result<(Vec<Record>, Left), String> {
    read_bytes(name, text.as_bytes(), &ReadOptions::default()).map_err(|e| e.to_string())
}

fn one(text: &str) -> Record {
    rows("d.jsonl", text).unwrap().0.remove(0)
}

/// LLaMA-Factory's preference data: a conversation, and two messages that go on from it.
#[test]
fn a_pair_beside_its_conversation() {
    let said = [
        Message::user("Q"),
        Message::assistant("A1"),
        Message::user("Q2"),
    ];
    for row in [
        r#"{"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A1"}, {"from": "human", "value": "Q2"}],
            "chosen": {"from": "gpt", "value": "A"}, "rejected": {"from": "gpt", "value": "B"}}"#,
        r#"{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A1"}, {"role": "user", "content": "Q2"}],
            "chosen": [{"role": "assistant", "content": "A"}], "rejected": {"role": "assistant", "content": "B"}}"#,
        r#"{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A1"}, {"role": "user", "content": "Q2"}],
            "chosen": "A", "rejected": "B"}"#,
    ] {
        let (records, left) = rows("d.jsonl", &row.replace('\n', " ")).unwrap();
        assert_eq!(records[0].prompt, said, "{row}");
        assert_eq!(records[0].response, Message::assistant("A"), "{row}");
        assert_eq!(records[0].rejected, Some(Message::assistant("B")), "{row}");
        assert!(left.unread.is_empty(), "{left}");
    }
    let record = one(
        r#"{"system": "S", "conversations": [{"from": "human", "value": "Q"}], "chosen": "A", "rejected": "B"}"#,
    );
    assert_eq!(
        record.prompt,
        [Message::new("system", "S"), Message::user("Q")]
    );
    // responses that hold their prompt need none beside them
    let whole = r#"[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]"#;
    let row = format!(r#"{{"messages": {whole}, "chosen": {whole}, "rejected": {whole}}}"#);
    let (records, left) = rows("d.jsonl", &row).unwrap();
    assert_eq!(records[0].prompt, [Message::user("Q")]);
    assert_eq!(left.unread["messages"], 1);
    let row = format!(r#"{{"messages": {whole}, "chosen": "A", "rejected": "B"}}"#);
    let why = rows("d.jsonl", &row).unwrap_err();
    assert!(
        why.contains("`messages` ends with the assistant's message"),
        "{why}"
    );
}

#[test]
fn columns_of_orca_and_of_dolly() {
    let orca = r#"{"id": "niv.1", "system_prompt": "S", "question": "Q", "response": "A"}"#;
    let (records, left) = rows("d.jsonl", orca).unwrap();
    assert_eq!(
        records[0].prompt,
        [Message::new("system", "S"), Message::user("Q")]
    );
    assert_eq!(records[0].response, Message::assistant("A"));
    assert_eq!(left.to_string(), "keys nobody reads: `id` (1 row)");
    let dolly = r#"{"instruction": "I", "context": "C", "response": "A", "category": "qa"}"#;
    let (records, left) = rows("d.jsonl", dolly).unwrap();
    assert_eq!(records[0].prompt, [Message::user("I\n\nC")]);
    assert_eq!(records[0].response, Message::assistant("A"));
    assert_eq!(left.to_string(), "keys nobody reads: `category` (1 row)");
    // the shapes that were there before keep their meaning
    let record = one(r#"{"instruction": "I", "prompt": "P", "response": "A"}"#);
    assert_eq!(record.prompt, [Message::user("P")]);
    let row = r#"{"instruction": "I", "input": "N", "output": "O", "context": "C"}"#;
    let (records, left) = rows("d.jsonl", row).unwrap();
    assert_eq!(records[0].prompt, [Message::user("I\n\nN")]);
    assert_eq!(left.unread["context"], 1);
    let record = one(r#"{"question": "Q", "answer": "42", "response": "R"}"#);
    assert_eq!(record.response, Message::assistant("42"));
}

#[test]
fn cells_that_hold_messages() {
    let user = r#"[{""role"": ""user"", ""content"": ""q""}]"#;
    let model = r#"[{""role"": ""assistant"", ""content"": ""a""}]"#;
    let whole =
        r#"[{""from"": ""human"", ""value"": ""q""}, {""from"": ""gpt"", ""value"": ""a""}]"#;
    let single = r#"{""from"": ""gpt"", ""value"": ""a""}"#;
    for text in [
        format!("prompt,completion\n\"{user}\",\"{model}\"\n"),
        format!("prompt,response\n\"{user}\",a\n"),
        format!("prompt,completion\nq,\"{model}\"\n"),
        format!("prompt,chosen,rejected\n\"{user}\",\"{model}\",\"{single}\"\n"),
        format!("chosen,rejected\n\"{whole}\",\"{whole}\"\n"),
        format!("real,generated\n\"{whole}\",\"{whole}\"\n"),
        format!("question,answer\n\"{user}\",\"{model}\"\n"),
    ] {
        let (records, _) = rows("d.csv", &text).unwrap();
        assert_eq!(records[0].prompt, [Message::user("q")], "{text}");
        assert_eq!(records[0].response, Message::assistant("a"), "{text}");
    }
    // text that is JSON of something else, or stands in JSON Lines, stays text
    for answer in [r#"{""from"": ""Bonn"", ""value"": 5}"#, "[1, 2]", "[]", "{"] {
        let text = format!("prompt,completion\nq,\"{answer}\"\n");
        let (records, _) = rows("d.csv", &text).unwrap();
        assert_eq!(
            records[0].response.content(),
            answer.replace("\"\"", "\""),
            "{text}"
        );
    }
    let row = r#"{"prompt": "q", "completion": "[{\"role\": \"user\", \"content\": \"q\"}]"}"#;
    assert!(one(row).response.content().starts_with("[{"));
    let half = r#"[{""role"": ""assistant"", ""content"": ""\ud83d""}]"#;
    let why = rows("d.csv", &format!("prompt,completion\nq,\"{half}\"\n")).unwrap_err();
    assert!(why.contains("half of a surrogate pair"), "{why}");
}

#[test]
fn a_table_that_breaks_off_is_no_bad_row() {
    let drop = ReadOptions {
        bad_rows: BadRows::Drop,
        ..ReadOptions::default()
    };
    let read = |text: &str| read_bytes("d.csv", text.as_bytes(), &drop);
    let why = read("prompt,response\nq,r\nq").unwrap_err().to_string();
    assert_eq!(
        why,
        "d.csv:3: 1 values, but the header has 2; the file breaks off here"
    );
    let (records, left) = read("prompt,response\nq,r\nq\n").unwrap();
    assert_eq!((records.len(), left.bad_rows), (1, 1));
    let (records, left) = read("prompt,response\nq,r\nq,r,s").unwrap();
    assert_eq!((records.len(), left.bad_rows), (1, 1));
    assert_eq!(read("prompt,response\nq,r\nq,r").unwrap().0.len(), 2);
}

/// Every beginning of a table that ends within quotes is refused, whatever stands there: half a
/// response is nobody's response.
#[test]
fn a_table_that_breaks_off_within_quotes_is_refused() {
    let table =
        "prompt,\"response\"\nq,r\n\"q \"\"a\"\"\",\"one, two\nthree \"\"b\"\"\"\nq5\" x,r\n";
    for (name, table) in [
        ("d.csv", table.to_owned()),
        ("d.tsv", table.replace(',', "\t")),
        ("d.csv", table.replace('\n', "\r\n")),
    ] {
        for end in 1..table.len() {
            let text = &table[..end];
            // quotes within `q5" x` are text, and two within quotes are one
            let quotes = text.split("q5").next().unwrap().matches('"').count();
            let read = read_bytes(name, text.as_bytes(), &ReadOptions::default());
            let why = read.err().map(|e| e.to_string()).unwrap_or_default();
            assert_eq!(
                why.ends_with("a quote that is never closed took the rest of the file"),
                quotes % 2 == 1,
                "{text:?}: {why}"
            );
        }
    }
    for cut in [
        "prompt,response\na,b\nc,\"the answer is",
        "prompt,response\na,b\nc,\"the answer is\n",
        "prompt,response\na,b\n\"c,d\n",
        "prompt,response\na,b\nc,d,\"e\n",
        "prompt,response\na,b\nc,\"",
    ] {
        let why = rows("d.csv", cut).unwrap_err();
        assert!(why.starts_with("d.csv:3: a quote that is never"), "{why}");
    }
}

#[test]
fn tables_with_other_line_ends_and_names() {
    let (records, _) = rows("d.csv", "prompt,response\rq,a\rq,b\rq,c").unwrap();
    let lines: Vec<usize> = records.iter().map(|r| r.place.line).collect();
    assert_eq!(lines, [2, 3, 4]);
    let text = "prompt;response;\"note, if any\"\nq;\"a; b\";\n";
    let (records, _) = rows("d.csv", text).unwrap();
    assert_eq!(records[0].response, Message::assistant("a; b"));
}

/// Right values: Python's gzip reads the first, `zstd -d` the second.
#[test]
fn compressed_files_with_something_around() {
    let line = b"{\"prompt\": \"q\", \"response\": \"a\"}\n";
    let mut gzip = Vec::new();
    for zeros in [3, 70_000] {
        let mut member = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        member.write_all(line).unwrap();
        gzip.extend(member.finish().unwrap());
        gzip.resize(gzip.len() + zeros, 0);
    }
    let options = ReadOptions::default();
    assert_eq!(read_bytes("d", &gzip, &options).unwrap().0.len(), 2);
    gzip.push(1);
    assert!(read_bytes("d", &gzip, &options).is_err());
    let mut zstd = vec![0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    zstd.extend(zstd::encode_all(line.as_slice(), 1).unwrap());
    assert_eq!(read_bytes("d", &zstd, &options).unwrap().0.len(), 1);
}

#[test]
fn an_array_has_an_element_behind_each_comma() {
    for text in [r#"[{"prompt": "q", "response": "a"},]"#, "[,]"] {
        assert!(
            rows("d.json", text).unwrap_err().contains("not JSON"),
            "{text}"
        );
    }
    let why = rows("d.json", "[{\"prompt\": \"q\", \"response\": \"a\"},\n]").unwrap_err();
    assert_eq!(
        why,
        "d.json:2: not JSON: an array's last comma has no element behind it"
    );
}

#[test]
fn keys_of_text_parts_that_nobody_reads_are_counted() {
    let row = r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "q", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a", "annotations": []}]}]}"#;
    let (records, left) = rows("d.jsonl", &row.replace('\n', " ")).unwrap();
    assert_eq!(records[0].prompt, [Message::user("q")]);
    assert_eq!(
        left.to_string(),
        "keys nobody reads: `content.cache_control` (1 row)"
    );
}

#[test]
fn a_format_that_is_set_takes_the_same_names() {
    for (format, row) in [
        (Format::Alpaca, r#"{"instruction": "q", "response": "a"}"#),
        (Format::Question, r#"{"question": "q", "response": "a"}"#),
    ] {
        let options = ReadOptions {
            format,
            ..ReadOptions::default()
        };
        let (records, _) = read_bytes("d.jsonl", row.as_bytes(), &options).unwrap();
        assert_eq!(records[0].prompt, [Message::user("q")], "{row}");
    }
}

/// transformers 5.24 raises for these (but for `{}`, which it takes as `[]`), and so would every
/// row: a list of objects is meant, or its JSON.
#[test]
fn tools_and_documents_are_lists_of_objects() {
    let row = |key: &str, value: &str| {
        let (outer, key) = key.rsplit_once('.').unwrap_or(("", key));
        let held = format!("\"{key}\": {value}");
        match outer {
            "" => format!("{{\"prompt\": \"q\", \"response\": \"r\", {held}}}\n"),
            _ => format!("{{\"prompt\": \"q\", \"response\": \"r\", \"{outer}\": {{{held}}}}}\n"),
        }
    };
    let lists = [
        "tools",
        "documents",
        "chat_template_kwargs.tools",
        "chat_template_kwargs.documents",
    ];
    for key in lists {
        for (value, at, should) in [
            ("5", "", "a list of objects, or its JSON as text, is 5"),
            (
                "true",
                "",
                "a list of objects, or its JSON as text, is true",
            ),
            (
                r#"{"name": "f"}"#,
                "",
                "a list of objects, or its JSON as text, is an object",
            ),
            (
                "{}",
                "",
                "a list of objects, or its JSON as text, is an object",
            ),
            (
                r#""{\"name\": \"f\"}""#,
                "",
                "a list of objects, or its JSON as text, is an object",
            ),
            (r#"["x"]"#, "[0]", "an object, is \"x\""),
            ("[{}, null]", "[1]", "an object, is null"),
            (r#""[5]""#, "[0]", "an object, is 5"),
        ] {
            assert_eq!(
                rows("d.jsonl", &row(key, value)).unwrap_err(),
                format!("d.jsonl:1: `{key}{at}` should be {should}"),
                "{value}"
            );
        }
        for value in ["[]", r#"[{"name": "f"}]"#, r#""[{\"name\": \"f\"}]""#] {
            let record = one(&row(key, value));
            let held = match key.strip_prefix("chat_template_kwargs.") {
                Some(inner) => &record.context["chat_template_kwargs"][inner],
                None => &record.context[key],
            };
            assert!(held.is_array(), "{key}: {value}");
        }
        let why = rows("d.jsonl", &row(key, "\"x\"")).unwrap_err();
        let right = format!("d.jsonl:1: `{key}` is text, but not JSON");
        assert!(why.starts_with(&right), "{why}");
        for nothing in ["null", "\" \""] {
            assert!(rows("d.jsonl", &row(key, nothing)).is_ok(), "{key}");
        }
    }
}
