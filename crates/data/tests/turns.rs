//! Conversations with tools, reasoning and template variables as token ids. Expected texts are
//! those of transformers 5.24's `apply_chat_template`; the response is the finished conversation
//! without the prompt or, where a prompt opens reasoning, the response that continues it.

use randori_data::{
    BadRows, Context, Counts, Limits, Message, Opened, Policy, ReadOptions, Tokenizer, encode,
    read_bytes,
};
use serde_json::{Value, json};

const TOKENIZER: &[u8] = include_bytes!("fixtures/tokenizer.json");

/// As DeepSeek-R1's: the prompt opens, a finished turn has its text as it is.
const OPENS: &str = "{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|>{{ m['content'] }}<|end|>\
    {% else %}<|user|>{{ m['content'] }}{% endif %}{% endfor %}\
    {% if add_generation_prompt %}<|assistant|><think>\n{% endif %}";

/// OpenAI's calls, tools and reasoning in a field of its own.
const TOOLS: &str = "{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}{% for m in messages %}\
    <|{{ m.role }}|>{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}\
    {{ m.content or '' }}{% for c in m.tool_calls or [] %}CALL {{ c.function.name }}({{ c.function.arguments }})\
    {% endfor %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";

fn tokenizer(template: &str) -> Tokenizer {
    let config = json!({"eos_token": "<|end|>"}).to_string();
    Tokenizer::from_bytes(TOKENIZER, Some(config.as_bytes()), Some(template)).unwrap()
}

fn ask() -> Vec<Message> {
    vec![Message::user("2+2?")]
}

/// The tokens of an answer as text, and the change made to it.
fn answered(tokenizer: &Tokenizer, answer: &Message) -> (String, Opened) {
    let none = Context::new();
    let response = tokenizer.response_in(&ask(), &none, answer, true).unwrap();
    let end = tokenizer.eos();
    assert_eq!(response.ids.last().copied(), end);
    assert_eq!(
        response.ids.iter().filter(|id| Some(**id) == end).count(),
        1
    );
    (tokenizer.decode(&response.ids), response.opened)
}

fn said(tokenizer: &Tokenizer, text: &str) -> (String, Opened) {
    answered(tokenizer, &Message::assistant(text))
}

#[test]
fn what_depends_on_the_answer_is_the_answers_and_no_probes() {
    let template = |answer: &str| {
        let source = "{% for m in messages %}<|{{ m.role }}|>ANSWER<|end|>{% endfor %}\
            {% if add_generation_prompt %}<|assistant|>{% endif %}";
        tokenizer(&source.replace("ANSWER", answer))
    };
    let cases = [
        ("{{ m.content }}", "4."),
        (
            "{{ m.content }}{{ m|tojson }}",
            "4.{\"role\": \"assistant\", \"content\": \"4.\"}",
        ),
        (
            "{{ m.content }} ({{ m.content|length }} chars)",
            "4. (2 chars)",
        ),
        ("{{ m.content|length }}: {{ m.content }}", "2: 4."),
    ];
    for (answer, right) in cases {
        assert_eq!(said(&template(answer), "4.").0, right, "{answer}");
    }
    let cut = template("{{ m.content }}{{ m|tojson }}");
    let ids = cut.cut_response(&ask(), "4.").unwrap();
    assert_eq!(cut.decode(&ids), "4.");
    let elsewhere =
        tokenizer("{{ messages[-1].content }}:{{ messages[-1].content|length }}<|end|>");
    let error = elsewhere.response(&ask(), "4.").unwrap_err().to_string();
    assert!(error.contains("depends on the message"), "{error}");
}

fn counted(tokenizer: &Tokenizer, lines: &str) -> Counts {
    let (records, _) = read_bytes("d.jsonl", lines.as_bytes(), &ReadOptions::default()).unwrap();
    let (limits, policy) = (Limits::default(), Policy::default());
    encode(&records, tokenizer, &limits, &policy).unwrap().1
}

/// Mistral's and Gemma's check: a row that the template refuses is a bad row like any other.
#[test]
fn a_conversation_that_the_template_refuses_is_a_bad_row() {
    let alternating = tokenizer(
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
         {{ raise_exception('roles must alternate') }}{% endif %}<|{{ m.role }}|>{{ m.content }}\
         <|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
    );
    let good = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let bad = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "c"}, {"role": "assistant", "content": "b"}]}"#;
    let lines = format!("{good}\n{bad}\n{good}\n");
    let (records, _) = read_bytes("d.jsonl", lines.as_bytes(), &ReadOptions::default()).unwrap();
    let encoded = |bad_rows| {
        let policy = Policy {
            bad_rows,
            ..Policy::default()
        };
        encode(&records, &alternating, &Limits::default(), &policy)
    };
    let error = encoded(BadRows::Error).unwrap_err().to_string();
    assert!(error.starts_with("d.jsonl:2: chat template: "), "{error}");
    assert!(error.contains("roles must alternate"), "{error}");
    let (examples, counts) = encoded(BadRows::Drop).unwrap();
    assert_eq!(
        (examples.len(), counts.read, counts.left.bad_rows),
        (2, 3, 1)
    );
    assert_eq!(counts.left.first_bad, Some(error));
}

#[test]
fn reasoning_that_the_prompt_opens_is_opened_once() {
    let tokenizer = tokenizer(OPENS);
    for text in [
        "<think>\nTwo.\n</think>\n\nFour.",
        "\n<think>Two.\n</think>\n\nFour.",
        "Two.\n</think>\n\nFour.", // what the model itself would write
    ] {
        assert_eq!(
            said(&tokenizer, text).0,
            "Two.\n</think>\n\nFour.",
            "{text:?}"
        );
    }
    let twice = "<think>\nTwo.\n</think>\n\nFour.";
    assert_eq!(said(&tokenizer, twice).1, Opened::Once);
}

#[test]
fn an_answer_without_reasoning_closes_what_the_prompt_opens() {
    // the last: finished turns are cut at `</think>`, as in the shared case think_open.jinja
    let splits = OPENS.replace(
        "m['content'] }}<|end|>",
        "m['content'].split('</think>')[-1] }}<|end|>",
    );
    for template in [OPENS, &splits] {
        let tokenizer = tokenizer(template);
        let closed = ("\n</think>\n\nFour.".to_owned(), Opened::Closed);
        assert_eq!(said(&tokenizer, "Four."), closed);
        assert_eq!(
            said(&tokenizer, "<think>\nTwo.\n</think>\n\nFour.").1,
            Opened::Once
        );
        // cut inside its reasoning: nothing to close
        let cut = tokenizer.cut_response(&ask(), "Two and").unwrap();
        assert_eq!(tokenizer.decode(&cut), "Two and");
    }
}

#[test]
fn marks_of_other_templates() {
    for (open, close) in [
        ("[THINK]", "[/THINK]"),
        ("◁think▷", "◁/think▷"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<seed:think>", "</seed:think>"),
    ] {
        // the template knows what closes it by taking it off earlier turns
        let template = OPENS.replace("<think>\n", open).replace(
            "m['content'] }}<|end|>",
            &format!("m['content'].split('{close}')[-1] }}}}<|end|>"),
        );
        let tokenizer = tokenizer(&template);
        let twice = format!("{open}Two.{close}Four.");
        assert_eq!(
            said(&tokenizer, &twice),
            (format!("Two.{close}Four."), Opened::Once)
        );
        assert_eq!(
            said(&tokenizer, "Four."),
            (format!("{close}Four."), Opened::Closed)
        );
    }
    // what closes it is nowhere to be found
    let unknown = tokenizer(&OPENS.replace("<think>\n", "<|reason|>"));
    assert_eq!(
        said(&unknown, "Four."),
        ("Four.".to_owned(), Opened::LeftOpen)
    );
    // a role's mark opens no reasoning
    let role = tokenizer(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}\
         {% if add_generation_prompt %}<assistant>{% endif %}{# </assistant> #}",
    );
    assert_eq!(said(&role, "Four.").1, Opened::AsItIs);
}

#[test]
fn templates_that_close_empty_reasoning_themselves() {
    // as GLM 4.7's: a finished turn without reasoning closes what its prompt opens
    let own = "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}{% else %}<|assistant|>\
        {% if '</think>' in m.content %}<think>{{ m.content.split('</think>')[0].split('<think>')[-1] }}{% endif %}\
        </think>{{ m.content.split('</think>')[-1] }}<|end|>{% endif %}{% endfor %}\
        {% if add_generation_prompt %}<|assistant|><think>{% endif %}";
    let tokenizer_own = tokenizer(own);
    let closed = ("</think>Four.".to_owned(), Opened::Closed);
    assert_eq!(said(&tokenizer_own, "Four."), closed);
    let whole = "<think>Two.</think>Four.";
    assert_eq!(said(&tokenizer_own, whole).0, "Two.</think>Four.");
    // as Nemotron 3's: the finished turn has the mark as well, but not its line break
    let nemotron = own.replace(
        "{% endif %}\
        </think>",
        "{% else %}<think>{% endif %}</think>",
    );
    let nemotron = nemotron.replace(
        "<|assistant|><think>{% endif %}",
        "<|assistant|><think>\n{% endif %}",
    );
    assert_eq!(said(&tokenizer(&nemotron), "Four."), closed);
    // as axolotl's for Qwen3: a finished turn always has a block, with reasoning it parts from the
    // prompt
    let always = "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}{% else %}<|assistant|>\
        {{ '<think>\n' }}{% if '</think>' in m.content %}\
        {{ m.content.split('</think>')[0].split('<think>')[-1].strip('\n') }}{% endif %}\
        {{ '\n</think>\n\n' }}{{ m.content.split('</think>')[-1].lstrip('\n') }}<|end|>{% endif %}{% endfor %}\
        {% if add_generation_prompt %}<|assistant|>{{ '<think>\n\n' }}{% endif %}";
    let tokenizer_always = tokenizer(always);
    let block = ("</think>\n\nFour.".to_owned(), Opened::Closed);
    assert_eq!(said(&tokenizer_always, "Four."), block);
    let (text, opened) = said(&tokenizer_always, "<think>\nTwo.\n</think>\n\nFour.");
    assert_eq!(
        (text.as_str(), opened),
        ("Two.\n</think>\n\nFour.", Opened::Once)
    );
    // as Qwen3's: `enable_thinking = false` shows how
    let switch = OPENS.replace(
        "<think>\n{% endif %}",
        "<think>\n{% if enable_thinking is defined and not enable_thinking %}</think> {% endif %}{% endif %}",
    );
    let closed = ("</think> Four.".to_owned(), Opened::Closed);
    assert_eq!(said(&tokenizer(&switch), "Four."), closed);
}

/// As Qwen3's where `enable_thinking` is false: its prompt ends in an empty block.
const CLOSES: &str = r"{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}<|end|>\
    {% else %}{% set content = m.content or '' %}{% set thought = m.reasoning_content or '' %}\
    {% if '</think>' in content %}{% set thought = content.split('</think>')[0].split('<think>')[-1] %}\
    {% set content = content.split('</think>')[-1] %}{% endif %}\
    <|assistant|>{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}<|end|>\
    {% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>\
    {% if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}";

/// The answer begins where a generated one does, without its reasoning.
#[test]
fn reasoning_beside_a_prompt_that_closed_it_is_left_out_and_counted() {
    let qwen = CLOSES.replace("\\\n    ", "");
    // as DeepSeek-V3.1's: the prompt closes what nothing opened
    let alone = OPENS.replace("<think>\n{% endif %}", "</think>{% endif %}");
    for (template, lines) in [(&qwen, true), (&alone, false)] {
        let mut tokenizer = tokenizer(template);
        tokenizer.give("enable_thinking", &json!(false)).unwrap();
        let [wide, tight] = [
            "<think>\nTwo.\n</think>\n\nFour.",
            "<think>Two.</think>Four.",
        ];
        let four = ("Four.".to_owned(), Opened::Dropped);
        assert_eq!(said(&tokenizer, tight), four);
        let rest = if lines { "Four." } else { "\n\nFour." };
        assert_eq!(said(&tokenizer, wide).0, rest);
        for name in ["reasoning_content", "reasoning", "thinking"] {
            let field = Message::assistant("Four.").with(name, "Two.");
            assert_eq!(answered(&tokenizer, &field), four, "{name}");
        }
        assert_eq!(
            said(&tokenizer, "Four."),
            ("Four.".to_owned(), Opened::AsItIs)
        );
        // cut inside its reasoning: nothing is left of it
        let cut = tokenizer.cut_response(&ask(), "<think>Two and").unwrap();
        assert_eq!(tokenizer.decode(&cut), "");
    }
    let mut tokenizer = tokenizer(&qwen);
    // reasoning that the template, too, knows by its end
    let mark = "Two.</think>Four.";
    let thinking = said(&tokenizer, mark);
    assert_eq!(
        thinking,
        (
            "<think>\nTwo.\n</think>\n\nFour.".to_owned(),
            Opened::AsItIs
        )
    );
    tokenizer.give("enable_thinking", &json!(false)).unwrap();
    assert_eq!(said(&tokenizer, mark).0, "Four.");
    let rows = [
        json!({"prompt": "2+2?", "response": "<think>Two.</think>Four."}),
        json!({"messages": [{"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": "Four.", "reasoning_content": "Two."}]}),
        json!({"prompt": "2+2?", "response": "Four."}),
    ];
    let counts = counted(&tokenizer, &rows.map(|row| row.to_string()).join("\n"));
    assert_eq!((counts.kept, counts.reasoning_dropped), (3, 2));
    assert!(counts.unread.is_empty(), "{counts}");
    assert!(
        counts
            .to_string()
            .contains("2 answers with reasoning left out"),
        "{counts}"
    );
}

/// A closing mark at the end of a user's message closes no reasoning.
#[test]
fn a_close_in_the_users_text_is_the_users() {
    let plain = tokenizer("{% for m in messages %}{{ m.content }}{% endfor %}");
    let asked = [Message::user("Say <think></think>")];
    let text = "<think>a</think>b";
    let answer = Message::assistant(text);
    let response = plain.response_in(&asked, &Context::new(), &answer, true);
    let response = response.unwrap();
    assert_eq!(plain.decode(&response.ids), text);
    assert_eq!(response.opened, Opened::AsItIs);
}

#[test]
fn reasoning_in_a_field_goes_inside() {
    let answer = Message::assistant("Four.").with("reasoning_content", "Two.");
    // rendered by the template: its own way
    let (text, opened) = answered(&tokenizer(TOOLS), &answer);
    assert_eq!(
        (text.as_str(), opened),
        ("<think>Two.</think>Four.", Opened::AsItIs)
    );
    // left out by a template whose prompt opens reasoning
    let (text, opened) = answered(&tokenizer(OPENS), &answer);
    assert_eq!(
        (text.as_str(), opened),
        ("Two.\n</think>\n\nFour.", Opened::Inside)
    );
}

fn call() -> Message {
    let calls =
        json!([{"type": "function", "function": {"name": "add", "arguments": "{\"a\": 2}"}}]);
    Message::of(serde_json::from_value(json!({"role": "assistant", "content": null})).unwrap())
        .with("tool_calls", calls)
}

#[test]
fn a_tool_call_is_the_response() {
    let (text, _) = answered(&tokenizer(TOOLS), &call());
    assert_eq!(text, "CALL add({\"a\": 2})");
    // transformers 5.24 takes a null content away, of which jinja2 would write `None`
    let plain = TOOLS.replace("m.content or ''", "m.content");
    assert_eq!(answered(&tokenizer(&plain), &call()).0, text);
    // inside open reasoning it closes it first
    let opens = TOOLS.replace(
        "add_generation_prompt %}<|assistant|>",
        "add_generation_prompt %}<|assistant|><think>\n",
    );
    let (text, opened) = answered(&tokenizer(&opens), &call());
    assert_eq!(
        (text.as_str(), opened),
        ("\n</think>\n\nCALL add({\"a\": 2})", Opened::Closed)
    );
}

/// As Gemma 4 without thinking: the prompt ends in a closed channel, which finished turns lack.
#[test]
fn a_tool_call_after_a_prompt_that_closes_what_it_opens() {
    let template = TOOLS.replace(
        "add_generation_prompt %}<|assistant|>",
        "add_generation_prompt %}<|assistant|><|channel>thought<channel|>",
    );
    let (text, opened) = answered(&tokenizer(&template), &call());
    assert_eq!(
        (text.as_str(), opened),
        ("CALL add({\"a\": 2})", Opened::AsItIs)
    );
}

#[test]
fn special_tokens_spelt_in_a_call_are_text() {
    let calls = json!([{"function": {"name": "say", "arguments": "<|end|> and <|user|>"}}]);
    let answer = Message::assistant("").with("tool_calls", calls);
    let tokenizer = tokenizer(TOOLS);
    let (text, _) = answered(&tokenizer, &answer); // which sees one end of turn
    assert_eq!(text, "CALL say(<|end|> and <|user|>)");
}

#[test]
fn tools_and_results_are_in_the_prompt() {
    let line = json!({
        "tools": [{"type": "function", "function": {"name": "add"}}],
        "messages": [
            {"role": "user", "content": "2+2?"},
            call(),
            {"role": "tool", "content": "4", "tool_call_id": "c1"},
            {"role": "assistant", "content": "Four."},
        ],
    })
    .to_string();
    let want = "<|system|>[{\"type\": \"function\", \"function\": {\"name\": \"add\"}}]<|end|><|user|>2+2?<|end|>\
        <|assistant|>CALL add({\"a\": 2})<|end|><|tool|>4<|end|><|assistant|>";
    let as_text = line.replace(
        r#"[{"type":"function","function":{"name":"add"}}]"#,
        r#""[{\"type\": \"function\", \"function\": {\"name\": \"add\"}}]""#,
    );
    assert_ne!(line, as_text);
    let tokenizer = tokenizer(TOOLS);
    for line in [line, as_text] {
        let (records, _) = read_bytes("d.jsonl", line.as_bytes(), &ReadOptions::default()).unwrap();
        let template = tokenizer.chat_template().unwrap();
        let prompt = template.render_in(&records[0].prompt, &records[0].context, true);
        assert_eq!(prompt.unwrap(), want);
        let (examples, counts) =
            encode(&records, &tokenizer, &Limits::default(), &Policy::default()).unwrap();
        assert_eq!(examples[0].prompt, tokenizer.ids(want).unwrap());
        // this template leaves the id out, and that is said
        assert_eq!(
            counts.unread.iter().collect::<Vec<_>>(),
            [(&"tool_call_id".to_owned(), &1)]
        );
        assert!(counts.to_string().contains("`tool_call_id`"), "{counts}");
    }
}

#[test]
fn what_open_reasoning_did_is_counted() {
    let row = |response: &str| json!({"prompt": "2+2?", "response": response}).to_string();
    let lines = [
        "<think>\nTwo.\n</think>\n\nFour.",
        "Four.",
        "Five.",
        "a</think>b",
        "",
    ]
    .map(row);
    let counts = counted(&tokenizer(OPENS), &lines.join("\n"));
    assert_eq!((counts.reasoning_once, counts.reasoning_closed), (1, 2));
    assert_eq!((counts.empty_real, counts.kept), (1, 4));
}

#[test]
fn variables_come_from_the_user_and_from_the_row() {
    let template = "{{ date }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ mood }}<|end|>{% endfor %}\
        {% if add_generation_prompt %}<|assistant|>{% endif %}";
    let mut tokenizer = tokenizer(template);
    tokenizer.give("date", &json!("Monday")).unwrap();
    tokenizer.give("mood", &json!("!")).unwrap();
    tokenizer.give("odd", &json!(true)).unwrap();
    let prompt = |context: Value| {
        let context: Context = serde_json::from_value(context).unwrap();
        tokenizer.decode(&tokenizer.prompt_in(&ask(), &context).unwrap())
    };
    assert_eq!(prompt(json!({})), "Monday<|user|>2+2?!<|end|><|assistant|>");
    assert_eq!(
        prompt(json!({"chat_template_kwargs": {"mood": "?"}})),
        "Monday<|user|>2+2??<|end|><|assistant|>"
    );
    let counts = counted(
        &tokenizer,
        r#"{"prompt": "q", "response": "a", "tools": [{}]}"#,
    );
    let unread: Vec<&str> = counts.unread.keys().map(String::as_str).collect();
    assert_eq!(unread, ["data.template_args.odd", "tools"]);
    // what is not a row's to say
    let counts = counted(
        &tokenizer,
        r#"{"prompt": "q", "response": "a", "chat_template_kwargs": {"messages": [1], "add_generation_prompt": true, "mood": "?"}}"#,
    );
    let unread: Vec<&str> = counts.unread.keys().map(String::as_str).collect();
    assert_eq!(
        unread,
        [
            "add_generation_prompt",
            "data.template_args.odd",
            "messages"
        ]
    );
    assert!(tokenizer.give("messages", &json!([])).is_err());
}

#[test]
fn a_token_that_the_model_has_no_row_for_is_found_with_its_place() {
    let tokenizer = tokenizer(OPENS);
    let lines = "{\"prompt\": \"q\", \"response\": \"a\"}\n{\"prompt\": \"q\", \"response\": \"The answer\"}";
    let (records, _) = read_bytes("d.jsonl", lines.as_bytes(), &ReadOptions::default()).unwrap();
    let last = tokenizer
        .response(&records[1].prompt, "The answer")
        .unwrap();
    let limits = Limits {
        vocabulary: *last.iter().max().unwrap() as usize,
        ..Limits::default()
    };
    let error = encode(&records, &tokenizer, &limits, &Policy::default()).unwrap_err();
    let error = error.to_string();
    assert!(error.starts_with("d.jsonl:2: token "), "{error}");
    assert!(
        error.contains("the rows of the model's embedding"),
        "{error}"
    );
}
