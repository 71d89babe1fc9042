//! Roles of tool use: LLaMA-Factory's and ms-swift's tags, OpenAI's former ones, as chat templates
//! render them. Calls have the shape that LLaMA-Factory gives them (its function formatter reads
//! the content as JSON), results the role that the template asks for.

use randori_data::{ChatTemplate, Message, ReadOptions, Record, Turns, read_bytes};
use serde_json::{Value, json};

fn read(row: &Value) -> Result<Vec<Record>, String> {
    let options = ReadOptions {
        turns: Turns::Every,
        ..ReadOptions::default()
    };
    let read = read_bytes("d.jsonl", row.to_string().as_bytes(), &options);
    read.map(|(records, _)| records).map_err(|e| e.to_string())
}

fn conversation(tag: &str, content: &Value) -> Value {
    json!({"conversations": [{"from": "human", "value": "2+2?"}, {"from": tag, "value": content}]})
}

#[test]
fn a_call_under_a_role_of_its_own_is_the_assistants() {
    let one = json!({"name": "add", "arguments": {"a": 2}});
    let two = json!([one, {"name": "sub", "arguments": "{}"}]);
    for (content, calls) in [
        (json!(one.to_string()), json!([one])),
        (json!(two.to_string()), two.clone()),
        (one.clone(), json!([one])),
    ] {
        let calls: Vec<Value> = calls
            .as_array()
            .unwrap()
            .iter()
            .map(|call| json!({"type": "function", "function": call}))
            .collect();
        for tag in ["function_call", "tool_call"] {
            let records = read(&conversation(tag, &content)).unwrap();
            let right = Message::assistant("").with("tool_calls", calls.clone());
            assert_eq!(records[0].response, right, "{content}");
        }
    }
    for content in [
        json!("add(2)"),
        json!("{\"name\": \"add\"}"),
        json!("[]"),
        json!(5),
    ] {
        let why = read(&conversation("function_call", &content)).unwrap_err();
        assert!(
            why.starts_with("d.jsonl:1: `conversations[1]` should be a tool call, {"),
            "{why}"
        );
    }
    // LLaMA-Factory's function formatter parts reasoning from the JSON behind it
    let call = json!({"name": "add", "arguments": {"x": "<think>"}});
    let made = json!([{"type": "function", "function": call.clone()}]);
    for (before, reasoning) in [
        ("<think>\nWhat is 2?\n</think>\n\n", Some("What is 2?")),
        (" <think></think>", None),
    ] {
        let row = conversation("function_call", &json!(format!("{before}{call}")));
        let mut right = Message::assistant("");
        if let Some(text) = reasoning {
            right = right.with("reasoning_content", text);
        }
        let right = right.with("tool_calls", made.clone());
        assert_eq!(read(&row).unwrap()[0].response, right);
    }
    for bad in [
        "<think>a</think>",
        "<think>a{\"name\": \"add\", \"arguments\": {}}",
    ] {
        let why = read(&conversation("function_call", &json!(bad))).unwrap_err();
        assert!(why.contains("should be a tool call"), "{why}");
    }
    // calls in a field of their own stay what they are
    let calls = json!([{"function": {"name": "add", "arguments": "{}"}}]);
    let row = json!({"messages": [{"role": "user", "content": "q"},
        {"role": "function_call", "content": "Well.", "tool_calls": calls}]});
    let right = Message::assistant("Well.").with("tool_calls", calls);
    assert_eq!(read(&row).unwrap()[0].response, right);
}

#[test]
fn a_result_has_the_role_that_the_template_asks_for() {
    let plain = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    for (data, asks, right) in [
        ("observation", "", "tool"),
        ("function", "", "tool"),
        ("ipython", "", "tool"),
        ("tool", "", "tool"),
        ("tool_response", "", "tool"),
        (
            "function",
            "{% if messages[0].role == 'function' %}{% endif %}",
            "function",
        ),
        (
            "observation",
            "{% if messages[0]['role'] == 'observation' %}{% endif %}",
            "observation",
        ),
        (
            "observation",
            "{% if messages[0].role == 'function' %}{% endif %}",
            "tool",
        ),
        (
            "ipython",
            "{% if messages[0].role in ['tool', 'ipython'] %}{% endif %}",
            "ipython",
        ),
        // as transformers hands it on
        (
            "tool",
            "{% if messages[0].role == 'observation' %}{% endif %}",
            "tool",
        ),
    ] {
        let row = json!({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"},
            {"from": data, "value": "4"}, {"from": "gpt", "value": "b"}]});
        let records = read(&row).unwrap();
        let template = ChatTemplate::new(&format!("{asks}{plain}")).unwrap();
        let text = template.render(&records[1].prompt, true).unwrap();
        assert_eq!(
            text,
            format!("<user>q<assistant>a<{right}>4"),
            "{data} {asks}"
        );
    }
}
