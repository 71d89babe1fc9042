//! Typed JSON and JSON Lines: errors with file and line, exact numbers, logs that survive a kill.

use std::fs;

use randori_store::{Appender, Disk, read_json, read_rows, write_rows};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[allow(dead_code)] // only the shape matters
struct Answer {
    sequence: u64,
    tokens: Vec<u64>,
}

#[test]
fn errors_name_file_and_line() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("rows.jsonl");
    let check = |text: &[u8], expect: &str| {
        fs::write(&path, text).unwrap();
        let error = read_rows::<Answer>(&path).unwrap_err().to_string();
        assert_eq!(error, format!("{}:{expect}", path.display()));
    };
    let good = "{\"sequence\":1,\"tokens\":[1]}\n";
    check(
        format!("{good}{good}{{\"sequence\":2}}\n").as_bytes(),
        "3: missing field `tokens` (column 14)",
    );
    check(
        format!("{good}nonsense\n").as_bytes(),
        "2: expected ident (column 2)",
    );
    check(
        format!("{good}{}", &good[..9]).as_bytes(),
        "2: the last line is cut short",
    );
    check(&[good.as_bytes(), b"\xff\n"].concat(), "2: not UTF-8");

    fs::write(&path, "{\n  \"sequence\": 1,\n  \"tokens\": 7\n}\n").unwrap();
    let error = read_json::<Answer>(&path).unwrap_err().to_string();
    assert!(
        error.contains("rows.jsonl:3: invalid type: integer `7`, expected a sequence"),
        "{error}"
    );
    let error = read_json::<Answer>(&home.path().join("none.json"))
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("cannot read "), "{error}");
}

#[test]
fn numbers_come_back_to_the_last_bit() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("x.jsonl");
    let numbers: Vec<f64> = (1..2000u32)
        .map(|i| -f64::from(i).sqrt() * 1e-3 * f64::from(i * i % 977))
        .collect();
    write_rows(&Disk::new(), &path, &numbers).unwrap();
    let back: Vec<f64> = read_rows(&path).unwrap();
    assert!(
        numbers
            .iter()
            .zip(&back)
            .all(|(a, b)| a.to_bits() == b.to_bits())
    );
}

#[test]
fn a_log_forgives_a_half_written_end_and_drops_what_will_be_played_again() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("log.jsonl");
    let check = |before: &str, stays: i64, kept: &[i64], after: &str| {
        fs::write(&path, before).unwrap();
        let (rows, mut log) = Appender::resume(&Disk::new(), &path, |n: &i64| *n <= stays).unwrap();
        assert_eq!(rows, kept);
        log.push(&99).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), after);
    };
    check("", 9, &[], "99\n");
    check("1\n2\n", 9, &[1, 2], "1\n2\n99\n");
    check("1\n2\n3", 9, &[1, 2], "1\n2\n99\n"); // `3` may be the beginning of `345`
    check("1\n2\n3\n4\n", 2, &[1, 2], "1\n2\n99\n");
    fs::write(&path, "1\nx\n3\n").unwrap();
    let error = Appender::resume::<i64>(&Disk::new(), &path, |_| true)
        .unwrap_err()
        .to_string();
    assert!(error.contains("log.jsonl:2: "), "{error}");
}
