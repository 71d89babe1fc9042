//! Values of rows in the spellings that people use: read as meant, or refused with file, line and
//! field; never dropped silently.

use randori_data::{BadRows, Error, Left, Message, ReadOptions, Record, Turns, read_bytes};

fn read(text: &str) -> Result<(Vec<Record>, Left), String> {
    read_bytes("d.jsonl", text.as_bytes(), &ReadOptions::default()).map_err(|e| e.to_string())
}

fn one(text: &str) -> Result<Record, String> {
    read(text).map(|(records, _)| records.into_iter().next().unwrap())
}

fn every() -> ReadOptions {
    ReadOptions {
        turns: Turns::Every,
        ..ReadOptions::default()
    }
}

/// Each field that may hold another type than its usual one, with the text that people mean.
#[test]
fn numbers_and_text_parts_where_a_prompt_takes_text() {
    let parts = r#"[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]"#;
    let named = r#"[{"type": "input_text", "text": "a"}, {"text": "b"}, {"type": "output_text", "text": "c"}]"#;
    for (value, meant) in [
        ("12", "12"),
        ("1.50", "1.5"),
        (parts, "ab"),
        (named, "abc"),
        (r#"["x"]"#, "x"),
    ] {
        for (row, at) in [
            (r#"{"instruction": VALUE, "output": "o"}"#, 0),
            (r#"{"prompt": "q", "response": "r", "system": VALUE}"#, 0),
            (
                r#"{"prompt": "q", "response": "r", "system_prompt": VALUE}"#,
                0,
            ),
            (
                r#"{"instruction": "i", "history": [[VALUE, "b"]], "output": "o"}"#,
                0,
            ),
            (
                r#"{"instruction": "i", "history": [["a", VALUE]], "output": "o"}"#,
                1,
            ),
            (
                r#"{"messages": [{"role": "user", "content": VALUE}, {"role": "assistant", "content": "r"}]}"#,
                0,
            ),
            (
                r#"{"conversations": [{"from": "human", "value": VALUE}, {"from": "gpt", "value": "r"}]}"#,
                0,
            ),
        ] {
            let record = one(&row.replace("VALUE", value)).unwrap();
            assert_eq!(record.prompt[at].content(), meant, "{row} {value}");
        }
        let input = one(&format!(
            r#"{{"instruction": "Square it.", "input": {value}, "output": "o"}}"#
        ));
        let asked = format!("Square it.\n\n{meant}");
        assert_eq!(input.unwrap().prompt, [Message::user(asked)]);
    }
    for row in [
        r#"{"prompt": 5, "response": "r"}"#,
        r#"{"question": 5, "answer": "r"}"#,
        r#"{"prompt": 5, "chosen": "r", "rejected": "s"}"#,
        r#"{"instruction": 5, "chosen": "r", "rejected": "s"}"#,
    ] {
        assert_eq!(one(row).unwrap().prompt, [Message::user("5")], "{row}");
    }
}

/// Errors name place, field and value.
#[test]
fn what_has_no_one_meaning_is_refused_by_name() {
    let message = |more: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "q"}}, {{"role": "assistant", "content": "a"{more}}}]}}"#
        )
    };
    let bare = "is a list of 2 texts: write one text, or parts {\"type\": \"text\", \"text\": …}";
    let faults: Vec<(String, String)> = vec![
        (r#"{"instruction": "i", "input": true, "output": "o"}"#.into(), "`input` should be text, is true".into()),
        (r#"{"instruction": "i", "input": {"a": 1}, "output": "o"}"#.into(), "`input` should be text, is an object".into()),
        (r#"{"instruction": {}, "output": "o"}"#.into(), "`instruction` should be text, is an object".into()),
        (r#"{"instruction": "i", "history": "soon", "output": "o"}"#.into(), "`history` should be a list of [instruction, output]".into()),
        (r#"{"instruction": "i", "history": [["a"]], "output": "o"}"#.into(), "`history` should be a list of [instruction, output]".into()),
        (r#"{"instruction": "i", "history": [["a", null]], "output": "o"}"#.into(), "`history` should be text, is null".into()),
        (r#"{"prompt": "q", "response": "r", "system": ["Be", "brief."]}"#.into(), format!("`system` {bare}")),
        (r#"{"prompt": "q", "response": "r", "system": false}"#.into(), "`system` should be text, is false".into()),
        (r#"{"prompt": "q", "response": "r", "system": [3]}"#.into(), "`system` has a part that is a number".into()),
        (r#"{"prompt": "q", "response": "r", "system": 123456789012345678901}"#.into(), "`system` has the number 123456789012345678901, which 64 bits do not keep: write it as text".into()),
        (r#"{"prompt": true, "response": "r"}"#.into(), "`prompt` should be text or messages, is true or false".into()),
        (r#"{"prompt": "q", "chosen": "a", "rejected": "b", "truncated": 2}"#.into(), "`truncated` should be true or false (or 1 or 0), is 2".into()),
        (r#"{"prompt": "q", "chosen": "a", "rejected": "b", "truncated": "maybe"}"#.into(), "`truncated` should be true or false (or 1 or 0), is \"maybe\"".into()),
        (r#"{"prompt": "q", "chosen": "a", "rejected": 3}"#.into(), "`rejected` should be text or messages, is a number".into()),
        (r#"{"question": "q", "answer": 5}"#.into(), "`answer` should be text or messages, is a number".into()),
        (r#"{"question": "q", "answer": true}"#.into(), "`answer` should be text or messages, is true or false".into()),
        (r#"{"instruction": "q", "output": 5}"#.into(), "`output` should be text, is a number".into()),
        (message(r#", "weight": 0.5"#), "`messages[1].weight` should be true or false (or 1 or 0), is 0.5".into()),
        (message(r#", "train": "later""#), "`messages[1].train` should be true or false (or 1 or 0), is \"later\"".into()),
        (r#"{"messages": [{"role": 1, "content": "q"}]}"#.into(), "`messages[0].role` should be text, is 1".into()),
        (r#"{"messages": [{"content": "q"}]}"#.into(), "`messages[0]` has no role (`role` or `from`)".into()),
        (r#"{"messages": [{"role": "user", "content": null}]}"#.into(), "`messages[0]` has no content (`content` or `value`)".into()),
        (r#"{"messages": [{"role": "user", "content": true}]}"#.into(), "the content of `messages[0]` should be text, is true or false".into()),
        (r#"{"messages": [{"role": "assistant", "content": 5}]}"#.into(), "the content of `messages[0]` should be text, is a number".into()),
        (r#"{"messages": "once"}"#.into(), "`messages` should be a list of messages, is text".into()),
        (r#"{"messages": [7]}"#.into(), "`messages[0]` should be a message, is a number".into()),
    ];
    for (row, why) in faults {
        assert_eq!(one(&row), Err(format!("d.jsonl:1: {why}")), "{row}");
    }
}

#[test]
fn yes_and_no_in_the_spellings_people_use() {
    for (value, cut) in [
        ("true", true),
        ("1", true),
        ("1.0", true),
        (r#""True""#, true),
        (r#""1""#, true),
        ("false", false),
        ("0", false),
        (r#""false""#, false),
        (r#""""#, false),
        ("null", false),
    ] {
        let row =
            format!(r#"{{"prompt": "q", "chosen": "a", "rejected": "b", "truncated": {value}}}"#);
        assert_eq!(one(&row).unwrap().rejected_cut, cut, "{value}");
    }
}

/// OpenAI's `weight`, axolotl's `train` and `training`, ms-swift's `loss`.
#[test]
fn messages_that_are_not_to_be_trained() {
    for no in [
        r#""weight": 0"#,
        r#""weight": 0.0"#,
        r#""weight": "0""#,
        r#""weight": false"#,
        r#""train": false"#,
        r#""train": 0"#,
        r#""train": "False""#,
        r#""training": false"#,
        r#""loss": false"#,
    ] {
        let asks = r#"{"role": "user", "content": "q"}"#;
        let marked = format!(r#"{{"role": "assistant", "content": "bad", {no}}}"#);
        let good = r#"{"role": "assistant", "content": "good"}"#;
        let both = format!(r#"{{"messages": [{asks}, {marked}, {asks}, {good}]}}"#);
        let (records, left) = read_bytes("x", both.as_bytes(), &every()).unwrap();
        assert_eq!(records.len(), 1, "{no}");
        assert_eq!(records[0].response, Message::assistant("good"));
        assert_eq!(
            records[0].prompt[1],
            Message::assistant("bad"),
            "it stays history"
        );
        assert_eq!((left.untrained, left.untrained_rows), (1, 0));
        // the last answer is not wanted: the one before it is the last that is
        let turned = format!(r#"{{"messages": [{asks}, {good}, {asks}, {marked}]}}"#);
        let (records, left) = read(&turned).unwrap();
        assert_eq!(records[0].response, Message::assistant("good"));
        assert_eq!((left.untrained, left.untrained_rows), (1, 0));
        // nothing else in the row
        let alone = format!(r#"{{"messages": [{asks}, {marked}]}}"#);
        let text = format!("{alone}\n{{\"prompt\": \"q\", \"response\": \"r\"}}");
        let (records, left) = read(&text).unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!((left.untrained, left.untrained_rows), (0, 1));
        assert_eq!(left.to_string(), "1 row with nothing to train");
        let why = read(&alone).unwrap_err();
        assert_eq!(
            why,
            "no example is left: 0 of 1 examples kept; 1 row with nothing to train"
        );
        for row in [
            format!(r#"{{"prompt": "q", "completion": [{marked}]}}"#),
            format!(r#"{{"prompt": "q", "chosen": [{good}], "rejected": [{marked}]}}"#),
        ] {
            assert!(
                read(&row)
                    .unwrap_err()
                    .ends_with("1 row with nothing to train")
            );
        }
    }
    for yes in [
        r#""weight": 1"#,
        r#""train": true"#,
        r#""train": null"#,
        r#""loss": true"#,
    ] {
        let row = format!(
            r#"{{"messages": [{{"role": "user", "content": "q"}}, {{"role": "assistant", "content": "a", {yes}}}]}}"#
        );
        assert_eq!(
            one(&row).unwrap().response,
            Message::assistant("a"),
            "{yes}"
        );
    }
}

/// TRL's KTO rows, and what LLaMA-Factory calls the same.
#[test]
fn rows_that_are_not_to_be_trained() {
    let good = r#"{"prompt": "q", "completion": "good"}"#;
    for row in [
        r#"{"prompt": "q", "completion": "bad", "label": false}"#,
        r#"{"prompt": "q", "completion": "bad", "label": 0}"#,
        r#"{"prompt": "q", "completion": "bad", "label": "False"}"#,
        r#"{"prompt": "q", "completion": "bad", "label": "0"}"#,
        r#"{"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "bad"}], "label": false}"#,
        r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}], "label": false}"#,
        r#"{"instruction": "q", "output": "bad", "kto_tag": false}"#,
        r#"{"prompt": "q", "completion": "bad", "train": false}"#,
        r#"{"prompt": "q", "completion": "bad", "weight": 0}"#,
        r#"{"prompt": "q", "chosen": "a", "rejected": "b", "weight": 0.0}"#,
    ] {
        let (records, left) = read(&format!("{row}\n{good}")).unwrap();
        assert_eq!(records.len(), 1, "{row}");
        assert_eq!(records[0].response, Message::assistant("good"));
        assert_eq!((left.untrained_rows, left.unread.len()), (1, 0), "{row}");
    }
    // a class, or a pair's: nobody reads it, and that is said
    for row in [
        r#"{"question": "q", "answer": "a", "label": 0}"#,
        r#"{"question": "q", "answer": "a", "label": "0"}"#,
        r#"{"question": "q", "answer": "a", "label": "no"}"#,
        r#"{"instruction": "q", "output": "a", "label": "false"}"#,
        r#"{"prompt": "q", "response": "a", "label": "no"}"#,
        r#"{"prompt": "q", "response": "a", "label": 0}"#,
        r#"{"prompt": "q", "completion": "a", "label": 3}"#,
        r#"{"prompt": "q", "completion": "a", "label": "news"}"#,
        r#"{"prompt": "q", "chosen": "a", "rejected": "b", "label": false}"#,
    ] {
        let (records, left) = read(row).unwrap();
        assert_eq!((records.len(), left.unread["label"]), (1, 1), "{row}");
    }
    let (_, left) = read(r#"{"prompt": "q", "completion": "a", "label": true}"#).unwrap();
    assert_eq!(left, Left::default());
}

#[test]
fn keys_that_nobody_reads_are_counted() {
    let text = r#"
{"prompt": "q", "response": "r", "source": "web", "id": 3, "note": null, "blank": ""}
{"prompt": "q", "response": "r", "completion": "r2", "source": "web"}
{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "system": "another"}
{"prompt": "q", "chosen": "a", "rejected": "b", "truncated": false, "score_chosen": 1, "score_rejected": 0, "question": "?"}
{"instruction": "i", "input": "", "output": "o", "history": [], "system": "s", "tools": []}
"#;
    let (records, left) = read(text).unwrap();
    assert_eq!(records.len(), 5);
    assert_eq!(
        left.to_string(),
        "keys nobody reads: `source` (2 rows), `completion` (1 row), `id` (1 row), `question` (1 row), \
         `system` (1 row)"
    );
}

#[test]
fn bad_rows_are_dropped_where_the_recipe_says_so_and_counted() {
    let text = r#"{"prompt": "q", "response": "r"}
{"question": "a", "answer": 5}
{"prompt": "q", "response": "r", "score": NaN, "far": -Infinity}
{"prompt": "a", "response": "cut \ud83d"}
{"prompt": "a", "response": "r", "unused": "cut \ud83d"}
not json
{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": null}]}
"#;
    let why = read(text).unwrap_err();
    assert_eq!(
        why,
        "d.jsonl:2: `answer` should be text or messages, is a number"
    );
    let drop = ReadOptions {
        bad_rows: BadRows::Drop,
        ..ReadOptions::default()
    };
    let (records, left) = read_bytes("d.jsonl", text.as_bytes(), &drop).unwrap();
    let lines: Vec<usize> = records.iter().map(|r| r.place.line).collect();
    assert_eq!(lines, [1, 3, 5]);
    assert_eq!(left.bad_rows, 4);
    assert_eq!(left.first_bad.as_deref(), Some(why.as_str()));
    assert_eq!(
        left.to_string(),
        format!(
            "4 bad rows dropped (first: {why}); keys nobody reads: `far` (1 row), `unused` (1 row)"
        )
    );
    // a file that breaks off is never "one bad row"
    let cut = read_bytes("x", b"[{\"prompt\": \"q\", \"response\": \"r\"}, ", &drop);
    assert_eq!(
        cut.unwrap_err().to_string(),
        "x:1: not JSON: the array that starts the file never ends"
    );
    for (last, why) in [
        (
            r#"{"prompt": "q", "respo"#,
            "EOF while parsing a string at column 22; the file breaks off here",
        ),
        (
            r#"{"prompt":"#,
            "EOF while parsing a value at column 10; the file breaks off here",
        ),
    ] {
        let whole = r#"{"prompt": "q", "response": "r"}"#;
        let cut = read_bytes("x", format!("{whole}\n{last}").as_bytes(), &drop);
        assert_eq!(
            cut.unwrap_err().to_string(),
            format!("x:2: not JSON: {why}"),
            "{last}"
        );
        // a line that is whole, or wrong before its end, is one row
        for row in [format!("{last}\n"), "not json".to_owned()] {
            let text = format!("{whole}\n{row}");
            let (records, left) = read_bytes("x", text.as_bytes(), &drop).unwrap();
            assert_eq!((records.len(), left.bad_rows), (1, 1), "{row}");
        }
    }
    let odd = read_bytes("x", b"{\"prompt\": NaN, \"response\": \"\xc3", &drop);
    assert!(matches!(odd, Err(Error::Broken { .. })));
    let odd = read_bytes("x", b"{\"prompt\": NaN, \"response\": \"r", &drop);
    assert!(matches!(odd, Err(Error::Broken { .. })));
    let all = read_bytes("x", b"7\n8\n", &drop).unwrap_err().to_string();
    assert_eq!(
        all,
        "no example is left: 0 of 2 examples kept; 2 bad rows dropped (first: x:1: an example should be an object, is a \
         number)"
    );
}

/// Right values: Python 3.12's `json`, which keeps whole numbers of any size and knows NaN.
#[test]
fn numbers_that_are_not_kept_are_a_bad_row_where_they_are_used() {
    let call = |number: &str| {
        let arguments = format!(r#"{{"a": {number}}}"#);
        let function = format!(r#"{{"function": {{"name": "f", "arguments": {arguments}}}}}"#);
        format!(
            r#"{{"messages": [{{"role": "user", "content": "q"}}, {{"role": "assistant", "tool_calls": [{function}]}}]}}"#
        )
    };
    let tools = |number: &str| {
        let tools = format!(r#"[{{"a": {number}}}]"#);
        let row = |tools: &str| format!(r#"{{"prompt": "q", "response": "r", "tools": {tools}}}"#);
        [row(&tools), row(&serde_json::to_string(&tools).unwrap())]
    };
    for number in ["12345678901234567890123", "1e400", "NaN", "-Infinity"] {
        let why = |key: &str| {
            format!(
                "d.jsonl:1: `{key}` has the number {number}, which 64 bits do not keep: write it as text"
            )
        };
        assert_eq!(one(&call(number)).unwrap_err(), why("messages"));
        for row in tools(number) {
            assert_eq!(one(&row).unwrap_err(), why("tools"), "{row}");
        }
        let prompt = format!(r#"{{"prompt": "q", "response": "r", "other": [{number}]}}"#);
        assert!(one(&prompt).is_ok(), "nobody reads it: {prompt}");
    }
    for (number, kept) in [
        ("18446744073709551615", "18446744073709551615"),
        ("-0", "0"),
        ("-0.0", "-0.0"),
        ("0.1", "0.1"),
    ] {
        let record = one(&call(number)).unwrap();
        let arguments = &record.response.fields()["tool_calls"][0]["function"]["arguments"];
        assert_eq!(arguments["a"].to_string(), kept);
        for row in tools(number) {
            assert_eq!(
                one(&row).unwrap().context["tools"][0]["a"].to_string(),
                kept
            );
        }
        let prompt = format!(r#"{{"instruction": {number}, "output": "r"}}"#);
        assert_eq!(one(&prompt).unwrap().prompt, [Message::user(kept)]);
    }
}

#[test]
fn half_a_surrogate_pair_is_named_where_it_is_used() {
    let why = one(r#"{"prompt": "a", "response": "cut \ud83d"}"#).unwrap_err();
    assert_eq!(
        why,
        "d.jsonl:1: `response` has half of a surrogate pair, which no text can have"
    );
    let whole = one(r#"{"prompt": "a", "response": "\ud83d\ude00", "n": NaN}"#).unwrap();
    assert_eq!(whole.response, Message::assistant("😀"));
}

#[test]
fn rewards_of_pairs_under_the_names_people_use() {
    let pair = |more: &str| {
        let text = format!(r#"{{"prompt": "q", "chosen": "a", "rejected": "b"{more}}}"#);
        one(&text).map(|record| record.rewards)
    };
    for (more, rewards) in [
        ("", None),
        (
            r#", "score_chosen": 7.5, "score_rejected": -1"#,
            Some([7.5, -1.0]),
        ),
        (
            r#", "reward_real": "1", "reward_generated": "0.25""#,
            Some([1.0, 0.25]),
        ),
        (
            r#", "chosen-rating": 5, "rejected-rating": 2"#,
            Some([5.0, 2.0]),
        ),
        (r#", "reward": [2, 3]"#, Some([2.0, 3.0])),
        (
            r#", "reward": [2, 3], "score_chosen": 2, "score_rejected": 3"#,
            Some([2.0, 3.0]),
        ),
        (r#", "score_chosen": null, "score_rejected": null"#, None),
    ] {
        assert_eq!(pair(more), Ok(rewards), "{more}");
    }
    for (more, why) in [
        (
            r#", "score_chosen": 1"#,
            "`score_chosen` without `score_rejected`: a pair has two rewards or none",
        ),
        (
            r#", "score_chosen": "good", "score_rejected": 1"#,
            "`score_chosen` should be a number, is \"good\"",
        ),
        (
            r#", "score_chosen": true, "score_rejected": 1"#,
            "`score_chosen` should be a number, is true",
        ),
        (
            r#", "score_chosen": Infinity, "score_rejected": 1"#,
            "`score_chosen` should be a number, is Infinity",
        ),
        (
            r#", "reward": [2, 3], "score_chosen": 2, "score_rejected": 4"#,
            "`reward` says the rewards [2.0, 3.0] and `score_chosen` [2.0, 4.0]; leave one of them",
        ),
        (
            r#", "reward": [1]"#,
            "`reward` should be two numbers, has 1",
        ),
    ] {
        assert_eq!(pair(more), Err(format!("d.jsonl:1: {why}")), "{more}");
    }
    // one number for a pair says nothing about either side
    let (_, left) =
        read(r#"{"prompt": "q", "chosen": "a", "rejected": "b", "reward": 1}"#).unwrap();
    assert_eq!(left.unread["reward"], 1);
}
