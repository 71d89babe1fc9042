//! Values of rows as people write them: taken as they mean it, or refused with file, line and field; never absent.

#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot go on should say where

use randori_data::{ReadOptions, Record, read_bytes};

fn read(text: &str) -> Result<Vec<Record>, String> {
    read_bytes("d.jsonl", text.as_bytes(), &ReadOptions::default()).map_err(|e| e.to_string())
}

#[test]
fn rewards_of_pairs_under_the_names_people_use() {
    let pair = |more: &str| {
        let text = format!(r#"{{"prompt": "q", "chosen": "a", "rejected": "b"{more}}}"#);
        read(&text).map(|records| records[0].rewards)
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
        (r#", "score_chosen": null, "score_rejected": null"#, None),
    ] {
        assert_eq!(pair(more), Ok(rewards), "{more}");
    }
    for (more, why) in [
        (
            r#", "score_chosen": 1"#,
            "d.jsonl:1: `score_chosen` without `score_rejected`: a pair has two rewards or none",
        ),
        (
            r#", "score_chosen": "good", "score_rejected": 1"#,
            "d.jsonl:1: `score_chosen` should be a number, is \"good\"",
        ),
        (
            r#", "score_chosen": true, "score_rejected": 1"#,
            "d.jsonl:1: `score_chosen` should be a number, is true",
        ),
        (
            r#", "reward": [1]"#,
            "d.jsonl:1: `reward` should be two numbers, has 1",
        ),
    ] {
        assert_eq!(pair(more), Err(why.to_owned()), "{more}");
    }
}
