//! Rows of pairs that carry token ids, as `randori generate`, `score` and a run write them, in any
//! kind of data file. One row with ids makes the file one of ids: text is never taken in their
//! place.

use std::path::Path;

use anyhow::{Context, Result, bail};
use randori_data::{Error, Place, Rows};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::artefacts::PairRow;

/// What of a file are token ids.
pub enum Ids {
    /// None: texts or messages.
    Text,
    /// Those of both responses and of their prompt.
    Pairs(Vec<PairRow>),
    /// Those of the answers, beside texts.
    Answers(Vec<Drawn>),
}

/// An answer with its token ids, as `randori generate` writes it.
pub struct Drawn {
    /// Where its prompt was read.
    pub place: String,
    /// The answer's text.
    pub generated: String,
    /// Its token ids, as they were drawn.
    pub tokens: Vec<u32>,
    /// It was cut at the token limit.
    pub truncated: bool,
}

/// What of a row are token ids.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// None.
    Text,
    /// A [`PairRow`].
    Pair,
    /// A [`Drawn`].
    Answer,
}

impl Kind {
    /// By its keys' values alone. A table holds lists as text, and so do other files that came from
    /// one: such a text is a list of ids beside a pair's `iteration`, or in an answer's `tokens`.
    /// What stands where our own rows have ids is never text, be it spoilt.
    pub fn of(row: &Value) -> Kind {
        let has = |key: &str| row.get(key).is_some_and(is_given);
        let there = |key: &str| row.get(key).is_some_and(|value| !value.is_null());
        let of_ours = has("iteration");
        let ids = |key: &str| match row.get(key) {
            Some(Value::Array(list)) => list.iter().any(Value::is_number),
            Some(Value::String(text)) => of_ours && begins_list(text),
            _ => false,
        };
        let drawn = match &row["tokens"] {
            Value::Array(_) => true,
            Value::String(text) if text.trim_start().starts_with('[') => true,
            _ => has("tokens") && has("truncated"),
        };
        match ["prompt", "real", "generated"].into_iter().any(ids) {
            true => Kind::Pair,
            false if drawn && there("real") && there("generated") => Kind::Answer,
            false => Kind::Text,
        }
    }
}

/// Whether a value is there; a table's blank cell is none.
fn is_given(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        _ => true,
    }
}

/// Whether a text begins as a list of numbers does.
fn begins_list(text: &str) -> bool {
    let inside = text.trim_start().strip_prefix('[').map(str::trim_start);
    inside.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit() || c == '-'))
}

/// Rows of which the first that can be read is looked at.
const LOOKED_AT: usize = 8;

/// What of a file's first row are token ids; none where no row at its beginning can be read.
///
/// # Errors
/// A file that cannot be opened.
pub fn first(file: &Path) -> Result<Kind> {
    let first = Rows::open(file)?.take(LOOKED_AT).find_map(Result::ok);
    Ok(first.map_or(Kind::Text, |(_, row)| Kind::of(&row)))
}

/// Reads a file's token ids; an empty file is one of no pairs.
///
/// # Errors
/// A file that cannot be read; of one with ids the first row that is not as it should be.
pub fn read(file: &Path) -> Result<Ids> {
    let (mut first, mut bad) = (None, None);
    let (mut pairs, mut answers) = (Vec::new(), Vec::new());
    let mut scored = None;
    for row in Rows::open(file)? {
        let (place, row) = match row {
            Ok(row) => row,
            // whoever reads texts may leave it out
            Err(error @ Error::Example { .. }) => {
                bad.get_or_insert(error);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let kind = Kind::of(&row);
        match (*first.get_or_insert(kind), kind) {
            (known, kind) if known == kind => {}
            (_, Kind::Text) => bail!("{place}: no token ids, which the rows before it have"),
            (Kind::Text, _) => bail!("{place}: token ids, which the rows before it have not"),
            _ => bail!("{place}: other token ids than the rows before it have"),
        }
        match (kind, row) {
            (Kind::Pair, Value::Object(row)) => {
                pairs.push(pair(&place, row, &mut scored)?);
            }
            (Kind::Answer, Value::Object(row)) => answers.push(drawn(&place, row)?),
            _ => {}
        }
    }
    match (first, bad) {
        (Some(Kind::Text), _) => Ok(Ids::Text),
        (None, Some(_)) => Ok(Ids::Text),
        (_, Some(error)) => Err(error.into()),
        (Some(Kind::Answer), None) => Ok(Ids::Answers(answers)),
        (Some(Kind::Pair) | None, None) => Ok(Ids::Pairs(pairs)),
    }
}

/// A row of both responses' ids; `scored`: whether the rows before it have log-probs.
fn pair(place: &Place, mut row: Map<String, Value>, scored: &mut Option<bool>) -> Result<PairRow> {
    let row = PairRow {
        place: own_place(place, &mut row)?,
        iteration: field(place, &mut row, "iteration")?,
        prompt: token_ids(place, &mut row, "prompt")?,
        real: token_ids(place, &mut row, "real")?,
        generated: token_ids(place, &mut row, "generated")?,
        ref_real: optional(place, &mut row, "ref_real")?,
        ref_generated: optional(place, &mut row, "ref_generated")?,
        rewards: optional(place, &mut row, "rewards")?,
    };
    let has = row.ref_real.is_some();
    if has != row.ref_generated.is_some() {
        bail!("{place}: one of `ref_real` and `ref_generated` is no number: score the pair again");
    }
    match (*scored.get_or_insert(has), has) {
        (true, false) => bail!("{place}: no log-probs, which the rows before it have"),
        (false, true) => bail!("{place}: log-probs, which the rows before it have not"),
        _ => Ok(row),
    }
}

fn drawn(place: &Place, mut row: Map<String, Value>) -> Result<Drawn> {
    Ok(Drawn {
        place: own_place(place, &mut row)?,
        generated: field(place, &mut row, "generated")?,
        tokens: token_ids(place, &mut row, "tokens")?,
        truncated: field(place, &mut row, "truncated")?,
    })
}

/// Where a row's example was read; the row's own place where it does not say.
fn own_place(place: &Place, row: &mut Map<String, Value>) -> Result<String> {
    let own: Option<String> = optional(place, row, "place")?;
    Ok(own.unwrap_or_else(|| place.to_string()))
}

fn token_ids(place: &Place, row: &mut Map<String, Value>, key: &str) -> Result<Vec<u32>> {
    let found = value_of(row, key).map_err(|e| {
        anyhow::anyhow!("{place}: `{key}`: token ids must be a list of whole numbers ({e})")
    })?;
    needed(place, key, found)
}

fn field<T: DeserializeOwned>(place: &Place, row: &mut Map<String, Value>, key: &str) -> Result<T> {
    let found = optional(place, row, key)?;
    needed(place, key, found)
}

fn needed<T>(place: &Place, key: &str, found: Option<T>) -> Result<T> {
    found.with_context(|| format!("{place}: token ids, but no `{key}` beside them"))
}

/// A value that may be absent or null.
fn optional<T: DeserializeOwned>(
    place: &Place,
    row: &mut Map<String, Value>,
    key: &str,
) -> Result<Option<T>> {
    value_of(row, key).map_err(|e| anyhow::anyhow!("{place}: `{key}`: {e}"))
}

/// A value, or the one that a table's cell spells: what is no text there is its JSON (or Python's
/// `True` and `False`), and a blank cell is nothing.
fn value_of<T: DeserializeOwned>(
    row: &mut Map<String, Value>,
    key: &str,
) -> serde_json::Result<Option<T>> {
    let value = row.remove(key).unwrap_or_default();
    let cell = value.as_str().map(str::to_lowercase);
    let error = match serde_json::from_value(value) {
        Ok(read) => return Ok(read),
        Err(error) => error,
    };
    match cell {
        Some(text) if text.trim().is_empty() => Ok(None),
        Some(text) => {
            let held = serde_json::from_str::<Value>(&text);
            held.map_or(Err(error), serde_json::from_value)
        }
        None => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_known_by_its_ids() {
        for (row, kind) in [
            (
                r#"{"prompt": "q", "chosen": "a", "rejected": "b"}"#,
                Kind::Text,
            ),
            (
                r#"{"real": "a", "generated": "b", "tokens": 17}"#,
                Kind::Text,
            ),
            (
                r#"{"real": "a", "generated": "b", "tokens": null}"#,
                Kind::Text,
            ),
            (
                r#"{"prompt": "q", "response": "a", "tokens": [1]}"#,
                Kind::Text,
            ),
            (
                r#"{"prompt": ["a", "b"], "real": [{"role": "user"}]}"#,
                Kind::Text,
            ),
            (
                r#"{"real": "a", "generated": "b", "tokens": []}"#,
                Kind::Answer,
            ),
            (
                r#"{"real": "a", "generated": "b", "tokens": "[1, 2]"}"#,
                Kind::Answer,
            ),
            (
                r#"{"prompt": [1], "real": [], "generated": []}"#,
                Kind::Pair,
            ),
            (r#"{"prompt": [1], "real": "a"}"#, Kind::Pair),
            (
                r#"{"iteration": "0", "prompt": "[1]", "real": "a", "generated": "b"}"#,
                Kind::Pair,
            ),
            (
                r#"{"prompt": "[3, 1]", "real": "[1, 3]", "generated": "[3, 1]"}"#,
                Kind::Text,
            ),
            (
                r#"{"iteration": "", "prompt": "[1]", "real": "[2]", "generated": "[3]"}"#,
                Kind::Text,
            ),
            (
                r#"{"real": "a", "generated": "", "truncated": false, "tokens": 5}"#,
                Kind::Answer,
            ),
            (
                r#"{"real": "a", "generated": "b", "truncated": "True", "tokens": ""}"#,
                Kind::Text,
            ),
            ("5", Kind::Text),
        ] {
            let row = serde_json::from_str(row).unwrap();
            assert!(Kind::of(&row) == kind, "{row}");
        }
    }

    const ROW: &str = r#"{"iteration":0,"prompt":[40],"real":[50,0],"generated":[52,0]}"#;
    /// The row and a line end, by Python 3.12's gzip.
    const PACKED: &[u8] =
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff\xab\x56\xca\x2c\x49\x2d\x4a\x2c\xc9\xcc\
        \xcf\x53\xb2\x32\xd0\x51\x2a\x28\xca\xcf\x2d\x28\x51\xb2\x8a\x36\x31\x88\xd5\x51\
        \x2a\x4a\x4d\xcc\x01\xb2\x4d\x0d\x74\x40\xbc\xf4\xd4\x3c\x90\xd2\xd4\x14\x90\x90\
        \x11\x50\xa8\x96\x0b\x00\xb7\xc6\x97\x2f\x3f\x00\x00\x00";

    fn read_bytes(bytes: &[u8]) -> Result<Ids> {
        read_named("p.jsonl", bytes)
    }

    fn read_named(name: &str, bytes: &[u8]) -> Result<Ids> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join(name);
        std::fs::write(&file, bytes)?;
        read(&file)
    }

    /// What docs/reference/data.md says of files holds for those of token ids.
    #[test]
    fn a_file_of_ids_is_a_data_file_like_others() {
        let scored = ROW.replace('}', ",\"ref_real\":-1.5,\"ref_generated\":-2.5}");
        for (bytes, count) in [
            (format!("{ROW}\n{ROW}\n").into_bytes(), 2),
            (format!("{ROW}\n{ROW}").into_bytes(), 2),
            (format!("\n{ROW}\r\n \n{ROW}\n\n").into_bytes(), 2),
            (format!("\u{feff}{ROW}\n").into_bytes(), 1),
            (format!("[{ROW}, {ROW}]").into_bytes(), 2),
            (format!("{scored}\n").into_bytes(), 1),
            (PACKED.to_vec(), 1),
            (Vec::new(), 0),
        ] {
            let Ok(Ids::Pairs(rows)) = read_bytes(&bytes) else {
                unreachable!("pairs of ids: {:?}", String::from_utf8_lossy(&bytes));
            };
            assert_eq!(rows.len(), count);
            for row in rows {
                assert_eq!((row.prompt, row.real), (vec![40], vec![50, 0]));
                assert_eq!(row.generated, [52, 0]);
            }
        }
    }

    #[test]
    fn a_row_that_is_not_as_it_should_be_is_named() {
        let answer = r#"{"real": "a", "generated": "b", "truncated": false, "tokens": [1]}"#;
        let real = |to: &str| ROW.replace("\"real\":[50,0]", to);
        let with = |more: &str| ROW.replace('}', more);
        for (first, second, why) in [
            (
                ROW,
                real("\"real\":[50,-1]"),
                "`real`: token ids must be a list of whole numbers (invalid value: integer `-1`",
            ),
            (
                ROW,
                real("\"real\":[50,1.5]"),
                "`real`: token ids must be a list of whole numbers (invalid type: floating point",
            ),
            (
                ROW,
                real("\"real\":null"),
                "token ids, but no `real` beside them",
            ),
            (
                ROW,
                with(",\"ref_real\":-1}"),
                "one of `ref_real` and `ref_generated` is no number",
            ),
            (
                ROW,
                with(",\"ref_real\":-1,\"ref_generated\":NaN}"),
                "one of `ref_real` and `ref_generated` is no number",
            ),
            (
                ROW,
                with(",\"ref_real\":-1,\"ref_generated\":-1}"),
                "log-probs, which the rows before it have not",
            ),
            (
                ROW,
                with(",\"ref_real\":\"x\"}"),
                "`ref_real`: invalid type: string \"x\"",
            ),
            (
                ROW,
                answer.to_owned(),
                "other token ids than the rows before it have",
            ),
            (
                ROW,
                r#"{"real": "a", "generated": "b"}"#.to_owned(),
                "no token ids",
            ),
            (ROW, "nonsense".to_owned(), "not JSON"),
            (answer, answer.replace("[1]", "null"), "no token ids"),
            (
                answer,
                answer.replace("[1]", "[\"1\"]"),
                "`tokens`: token ids must be a list of whole numbers (invalid type: string",
            ),
            (
                answer,
                answer.replace("false", "null"),
                "token ids, but no `truncated`",
            ),
            (
                r#"{"real": "a", "generated": "b"}"#,
                answer.to_owned(),
                "token ids, which the rows before it have not",
            ),
        ] {
            let Err(error) = read_bytes(format!("{first}\n\n{second}\n").as_bytes()) else {
                unreachable!("refused: {second}");
            };
            let error = error.to_string();
            assert!(error.contains(&format!("p.jsonl:3: {why}")), "{error}");
        }
    }

    /// A table's cells are text: as pandas 2.3 writes a run's pairs and a file of `generate`.
    #[test]
    fn a_table_of_ids_is_one_of_ids() {
        const PAIRS: &str = "place,iteration,prompt,real,generated,ref_real,ref_generated,rewards\n\
            d:1,0,\"[40, 41]\",\"[50, 0]\",\"[52, 0]\",-1.5,-2.5,\n\
            d:2,1,[40],[0],[],-0.5,-1.25,\"[1.0, 0.5]\"\n";
        let tabs = PAIRS
            .replace(", ", "; ")
            .replace(',', "\t")
            .replace("; ", ", ");
        for (name, text) in [("p.csv", PAIRS), ("p.tsv", tabs.as_str())] {
            let Ok(Ids::Pairs(rows)) = read_named(name, text.as_bytes()) else {
                unreachable!("pairs of ids: {text}");
            };
            let [first, second] = &rows[..] else {
                unreachable!("two rows: {rows:?}");
            };
            assert_eq!((&first.prompt[..], first.iteration), (&[40, 41][..], 0));
            assert_eq!(
                (&first.real[..], &first.generated[..]),
                (&[50, 0][..], &[52, 0][..])
            );
            assert_eq!(
                (first.ref_real, first.ref_generated),
                (Some(-1.5), Some(-2.5))
            );
            assert_eq!((first.rewards, second.rewards), (None, Some([1.0, 0.5])));
            assert_eq!((second.iteration, second.generated.len()), (1, 0));
        }
        const ANSWERS: &str = "place,real,generated,truncated,tokens\n\
            d:1,a,b,True,\"[7, 8]\"\n\
            d:2,a,,False,[]\n";
        let Ok(Ids::Answers(rows)) = read_named("g.csv", ANSWERS.as_bytes()) else {
            unreachable!("answers with ids");
        };
        let told: Vec<_> = rows.iter().map(|r| (&r.tokens[..], r.truncated)).collect();
        assert_eq!(told, [(&[7, 8][..], true), (&[][..], false)]);
        assert_eq!(
            (rows[0].generated.as_str(), rows[1].generated.as_str()),
            ("b", "")
        );
        for (name, text, why) in [
            (
                "p.csv",
                PAIRS.replace("[40, 41]", "[40 41]"),
                "p.csv:2: `prompt`",
            ),
            ("p.csv", PAIRS.replace("[0]", "[0.5]"), "p.csv:3: `real`"),
            (
                "g.csv",
                ANSWERS.replace("\"[7, 8]\"", "5"),
                "g.csv:2: `tokens`",
            ),
        ] {
            let Err(error) = read_named(name, text.as_bytes()) else {
                unreachable!("refused: {text}");
            };
            let error = error.to_string();
            let rule = ": token ids must be a list of whole numbers (";
            assert!(error.contains(rule) && error.contains(why), "{error}");
        }
    }

    /// A generate file of which every row has a number for its ids is not one of texts.
    #[test]
    fn spoilt_ids_are_never_read_as_text() {
        let row = r#"{"real": "a", "generated": "b", "truncated": false, "tokens": 5}"#;
        let Err(error) = read_bytes(format!("{row}\n{row}\n").as_bytes()) else {
            unreachable!("refused");
        };
        let rule = "p.jsonl:1: `tokens`: token ids must be a list of whole numbers (";
        assert!(error.to_string().contains(rule), "{error}");
    }
}
