//! SmolLM2's tokenizer, built from its GGUF metadata, compared with the ids of the PyTorch peer,
//! also on GSM8K. Two tests are ignored, since the metadata comes from a 100 MB download
//! (fixtures/dump_gguf_tokenizer.py says how to get it); asked for without it, they fail.

use std::path::{Path, PathBuf};

use randori_data::{Calculator, GgufTokenizer, ReadOptions, Tokenizer, read};
use serde_json::Value;

fn tokenizer() -> Tokenizer {
    let path = std::env::var("RANDORI_SMOLLM2_TOKENIZER_JSON").expect(
        "RANDORI_SMOLLM2_TOKENIZER_JSON does not name SmolLM2's metadata: \
         crates/data/tests/fixtures/dump_gguf_tokenizer.py makes the file, and says from what",
    );
    let gguf: GgufTokenizer = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    Tokenizer::from_gguf(&gguf).unwrap()
}

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

const PAIRS: &str = "benches/peers/fixtures/pairs_small.jsonl";
const GSM8K: &str = "configs/gsm8k/train.jsonl";

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
#[ignore = "needs SmolLM2's metadata"]
fn smollm2_ids_equal_the_peers() {
    let (tokenizer, pairs) = (tokenizer(), file(PAIRS));
    let expected = file("benches/peers/fixtures/expected_scores_f32.json");
    assert_eq!(tokenizer.stop_ids(), [2]);
    assert_eq!(
        (tokenizer.bos(), tokenizer.eos(), tokenizer.pad()),
        (Some(1), Some(2), Some(2))
    );
    assert_eq!(tokenizer.vocab_size(), 49152);
    let records = read(&pairs, &ReadOptions::default()).unwrap().0;
    let expected: Value = serde_json::from_slice(&std::fs::read(expected).unwrap()).unwrap();
    let expected = expected
        .as_array()
        .or_else(|| expected["pairs"].as_array())
        .unwrap();
    assert_eq!((records.len(), expected.len()), (64, 64));
    for (record, row) in records.iter().zip(expected) {
        let rejected = record.rejected.as_ref().unwrap().content();
        assert_eq!(
            tokenizer.prompt(&record.prompt).unwrap(),
            ids(&row["prompt_ids"]),
            "{}",
            record.place
        );
        let real = tokenizer
            .response(&record.prompt, record.response.content())
            .unwrap();
        assert_eq!(real, ids(&row["real_ids"]), "{}", record.place);
        // The peer closed the cut ones too.
        let generated = tokenizer.response(&record.prompt, rejected).unwrap();
        assert_eq!(generated, ids(&row["generated_ids"]), "{}", record.place);
        if record.rejected_cut {
            let cut = tokenizer.cut_response(&record.prompt, rejected).unwrap();
            assert_eq!(cut, generated[..generated.len() - 1], "{}", record.place);
        }
        assert_eq!(tokenizer.decode(&real), record.response.content());
    }
}

#[test]
#[ignore = "needs SmolLM2's metadata"]
fn gsm8k_goes_there_and_back() {
    let (tokenizer, train) = (tokenizer(), file(GSM8K));
    let options = ReadOptions {
        calculator: Calculator::Remove,
        ..ReadOptions::default()
    };
    let records = read(&train, &options).unwrap().0;
    assert_eq!(records.len(), 520);
    let started = std::time::Instant::now();
    for record in &records {
        assert!(
            !record.response.content().contains("<<")
                && record.response.content().contains("#### "),
            "{}",
            record.place
        );
        let ids = tokenizer
            .response(&record.prompt, record.response.content())
            .unwrap();
        assert_eq!(
            tokenizer.decode(&ids),
            record.response.content(),
            "{}",
            record.place
        );
    }
    eprintln!("{} responses in {:?}", records.len(), started.elapsed());
}

#[test]
fn the_peers_pairs_are_gsm8k_without_its_calculator() {
    let (pairs, train) = (file(PAIRS), file(GSM8K));
    let options = ReadOptions {
        calculator: Calculator::Remove,
        ..ReadOptions::default()
    };
    let (pairs, train) = (
        read(&pairs, &options).unwrap().0,
        read(&train, &options).unwrap().0,
    );
    assert_eq!((pairs.len(), train.len()), (64, 520));
    for pair in &pairs {
        let own = train.iter().find(|record| record.prompt == pair.prompt);
        assert_eq!(
            own.map(|record| &record.response),
            Some(&pair.response),
            "{}",
            pair.place
        );
    }
}
