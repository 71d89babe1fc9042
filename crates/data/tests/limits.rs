//! Length limits and policies: what is truncated, dropped or kept, that it is counted, and that no
//! end-of-turn token is lost or added.

use randori_data::{
    BadRows, Choice, Context, Encoded, Error, Limits, Message, Place, Policy, Record, Rejected,
    Tokenizer, encode, screen,
};

const END: u32 = 4; // <|im_end|>

fn tokenizer() -> Tokenizer {
    let json = include_bytes!("fixtures/tokenizer.json");
    let config = br#"{"eos_token": "<|im_end|>", "bos_token": "<s>"}"#;
    let template = "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>{% endif %}";
    Tokenizer::from_bytes(json, Some(config), Some(template)).unwrap()
}

fn record(line: usize, prompt: &str, response: &str, rejected: Option<&str>) -> Record {
    Record {
        place: Place {
            file: "pairs.jsonl".into(),
            line,
        },
        prompt: vec![Message::user(prompt)],
        context: Context::new(),
        response: Message::assistant(response),
        rejected: rejected.map(Message::assistant),
        rejected_cut: false,
        rewards: None,
    }
}

fn keep_all() -> Policy {
    let keep = Choice::Keep;
    Policy {
        empty: keep,
        identical: keep,
        cut: keep,
        cut_real: keep,
        too_long: keep,
        bad_rows: BadRows::Error,
    }
}

#[test]
fn without_limits_everything_is_whole() {
    let tokenizer = tokenizer();
    let records = [
        record(1, "What is 12 plus 30?", "42", Some("The answer is 42.")),
        record(2, "q", "a", None),
    ];
    let (examples, counts) =
        encode(&records, &tokenizer, &Limits::default(), &Policy::default()).unwrap();
    assert_eq!(
        (
            counts.read,
            counts.kept,
            counts.cut_real,
            counts.cut_generated
        ),
        (2, 2, 0, 0)
    );
    for (example, record) in examples.iter().zip(&records) {
        assert_eq!(example.prompt, tokenizer.prompt(&record.prompt).unwrap());
        assert_eq!(
            example.response,
            tokenizer
                .response(&record.prompt, record.response.content())
                .unwrap()
        );
        assert_eq!((example.cut, example.response.last()), (false, Some(&END)));
        assert_eq!(example.place, record.place);
    }
    let rejected = examples[0].rejected.as_ref().unwrap();
    assert_eq!((rejected.cut, rejected.ids.last()), (false, Some(&END)));
    let tokens = |f: fn(&Encoded) -> usize| examples.iter().map(f).sum::<usize>();
    assert_eq!(counts.prompt_tokens, tokens(|e| e.prompt.len()));
    assert_eq!(counts.real_tokens, tokens(|e| e.response.len()));
    assert_eq!(counts.generated_tokens, rejected.ids.len());
}

#[test]
fn cut_responses_have_no_end_of_turn_and_are_counted() {
    let tokenizer = tokenizer();
    let records = [record(1, "q", "The answer is 42.", Some("42"))];
    let whole = tokenizer
        .response(&records[0].prompt, "The answer is 42.")
        .unwrap();
    for max_response in 1..whole.len() {
        let limits = Limits {
            max_response,
            ..Limits::default()
        };
        let (examples, counts) = encode(&records, &tokenizer, &limits, &keep_all()).unwrap();
        assert_eq!(
            examples[0].response,
            whole[..max_response],
            "even when only the end of turn is cut"
        );
        assert!(examples[0].cut && !examples[0].response.contains(&END));
        assert_eq!(counts.cut_real, 1);
        assert!(
            counts.to_string().contains("1 real response cut"),
            "{counts}"
        );
    }
    let limits = Limits {
        max_response: whole.len(),
        ..Limits::default()
    };
    let (examples, counts) = encode(&records, &tokenizer, &limits, &Policy::default()).unwrap();
    assert_eq!((examples[0].cut, counts.cut_real), (false, 0));
    // By default a real response that would be cut is left out.
    let limits = Limits {
        max_response: 2,
        ..Limits::default()
    };
    match encode(&records, &tokenizer, &limits, &Policy::default()) {
        Err(Error::NothingLeft(counts)) => {
            assert_eq!((counts.read, counts.kept, counts.cut_real), (1, 0, 1));
            let said = counts.to_string();
            assert!(said.contains("1 real response too long"), "{said}");
            assert!(!said.contains("real response cut"), "{said}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_window_holds_prompt_and_response() {
    let tokenizer = tokenizer();
    let records = [record(
        1,
        "q",
        "The answer is 42.",
        Some("The answer is 42. The answer is 42."),
    )];
    let prompt = tokenizer.prompt(&records[0].prompt).unwrap().len();
    let limits = Limits {
        max_total: prompt + 3,
        ..Limits::default()
    };
    let (examples, counts) = encode(&records, &tokenizer, &limits, &keep_all()).unwrap();
    assert_eq!(
        (
            examples[0].response.len(),
            examples[0].rejected.as_ref().unwrap().ids.len()
        ),
        (3, 3)
    );
    assert_eq!(
        (counts.cut_real, counts.cut_generated, counts.identical),
        (1, 1, 1),
        "cut to the same start"
    );
}

#[test]
fn a_response_the_file_calls_cut_gets_no_end_of_turn() {
    let tokenizer = tokenizer();
    let mut pair = record(1, "q", "42", Some("The answer is"));
    pair.rejected_cut = true;
    let (examples, counts) =
        encode(&[pair], &tokenizer, &Limits::default(), &Policy::default()).unwrap();
    let rejected = examples[0].rejected.as_ref().unwrap();
    assert!(rejected.cut && !rejected.ids.contains(&END));
    assert_eq!(counts.cut_generated, 1);
}

#[test]
fn prompts_too_long() {
    let tokenizer = tokenizer();
    let records = [
        record(1, "q", "a", None),
        record(2, &"What is 12 plus 30? ".repeat(9), "42", None),
    ];
    let long = tokenizer.prompt(&records[1].prompt).unwrap();
    let limits = Limits {
        max_prompt: 12,
        ..Limits::default()
    };
    let (examples, counts) = encode(&records, &tokenizer, &limits, &Policy::default()).unwrap();
    assert_eq!((examples.len(), counts.prompt_too_long), (1, 1));
    assert!(
        counts
            .to_string()
            .starts_with("1 of 2 examples kept, 1 prompt too long"),
        "{counts}"
    );

    let error = Policy {
        too_long: Choice::Error,
        ..Policy::default()
    };
    let error = encode(&records, &tokenizer, &limits, &error)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        format!(
            "pairs.jsonl:2: the prompt has {} tokens, at most 12 are allowed",
            long.len()
        )
    );

    let (examples, counts) = encode(&records, &tokenizer, &limits, &keep_all()).unwrap();
    assert_eq!((examples.len(), counts.prompt_shortened), (2, 1));
    assert_eq!(examples[1].prompt.len(), 12);
    assert_eq!(
        examples[1].prompt[0], long[0],
        "the beginning of text stays"
    );
    assert_eq!(
        examples[1].prompt[1..],
        long[long.len() - 11..],
        "and so does the question's end"
    );
    assert_eq!(examples[1].response.last(), Some(&END));
}

#[test]
fn empty_and_identical() {
    let tokenizer = tokenizer();
    let records = [
        record(1, "q", "42", Some("42")),
        record(2, "q", "42", Some(" \n")),
        record(3, "q", "", Some("42")),
        record(4, "q", "42", Some("41")),
    ];
    let (examples, counts) =
        encode(&records, &tokenizer, &Limits::default(), &Policy::default()).unwrap();
    assert_eq!(
        examples.iter().map(|e| e.place.line).collect::<Vec<_>>(),
        [4]
    );
    assert_eq!(
        (counts.identical, counts.empty_generated, counts.empty_real),
        (1, 1, 1)
    );
    let (examples, counts) = encode(&records, &tokenizer, &Limits::default(), &keep_all()).unwrap();
    assert_eq!((examples.len(), counts.kept, counts.identical), (4, 4, 1));
    for (policy, said) in [
        (
            Policy {
                identical: Choice::Error,
                ..keep_all()
            },
            "pairs.jsonl:1: both responses are the same",
        ),
        (
            Policy {
                empty: Choice::Error,
                ..keep_all()
            },
            "pairs.jsonl:2: the generated (rejected) response is empty",
        ),
    ] {
        assert_eq!(
            encode(&records, &tokenizer, &Limits::default(), &policy)
                .unwrap_err()
                .to_string(),
            said
        );
    }
}

#[test]
fn generations_are_screened_as_ids() {
    let tokenizer = tokenizer();
    let (examples, mut counts) = encode(
        &[record(1, "q", "42", None)],
        &tokenizer,
        &Limits::default(),
        &Policy::default(),
    )
    .unwrap();
    counts.kept = 0;
    let with = |ids: Vec<u32>, cut: bool| {
        let mut example = examples[0].clone();
        example.rejected = Some(Rejected { ids, cut });
        example
    };
    let generated = vec![
        with(vec![END], false),
        with(examples[0].response.clone(), false),
        with(vec![33, 33], true),
    ];
    let kept = screen(generated, &tokenizer, &Policy::default(), &mut counts).unwrap();
    assert_eq!(
        (
            kept.len(),
            counts.empty_generated,
            counts.identical,
            counts.cut_generated
        ),
        (1, 1, 1, 1)
    );
    assert_eq!(
        kept[0].rejected.as_ref().unwrap().ids,
        [33, 33],
        "token ids go through untouched"
    );
}

#[test]
fn errors_of_the_template_name_the_example() {
    let json = include_bytes!("fixtures/tokenizer.json");
    let tokenizer = Tokenizer::from_bytes(json, None, Some("{{ raise_exception('no') }}")).unwrap();
    let error = encode(
        &[record(7, "q", "a", None)],
        &tokenizer,
        &Limits::default(),
        &Policy::default(),
    )
    .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("pairs.jsonl:7: chat template: no"),
        "{error}"
    );
}

/// Right values: tokenizers 0.22 and transformers 5.24 on the same files, the end of text behind as
/// TRL puts it. Nothing predicts a text's first token.
#[test]
fn a_plain_text_is_trained_from_its_second_token_on() {
    let plain = |text: &str| Record {
        prompt: Vec::new(),
        response: Message::assistant(text),
        ..record(1, "", "", None)
    };
    let ids = [492, 330, 471, 44, 472, END];
    let records = [
        plain("What is 12? 42"),
        plain("<s>What is 12? 42<|im_end|>"), // not twice
    ];
    let whole = Limits::default();
    let (examples, counts) = encode(&records, &tokenizer(), &whole, &Policy::default()).unwrap();
    assert_eq!(
        (counts.kept, counts.prompt_tokens, counts.real_tokens),
        (2, 2, 12)
    );
    for example in &examples {
        assert_eq!(
            (&example.prompt[..], &example.response[..]),
            (&[1][..], &ids[..])
        );
    }
    let limits = Limits {
        max_response: 3,
        ..whole
    };
    let (examples, counts) = encode(&records[..1], &tokenizer(), &limits, &keep_all()).unwrap();
    assert_eq!((&examples[0].response[..], counts.cut_real), (&ids[..3], 1));
    // a tokenizer without a beginning of text: the text's own first token stands there
    let demo = crate::demo::folder("plain-text", &serde_json::json!({}), &[]);
    let demo = Tokenizer::from_folder(&demo).unwrap();
    let records = [plain("What is 4?")];
    let (examples, _) = encode(&records, &demo, &whole, &Policy::default()).unwrap();
    assert_eq!(examples[0].prompt, [91]);
    assert_eq!(examples[0].response, [108, 101, 120, 261, 36, 56, 67, 0]);
}
