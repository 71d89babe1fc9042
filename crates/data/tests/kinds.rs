//! Kinds of data files: CSV and TSV tables, compressed files, Parquet in every compression and with
//! the types of common data sets.

use std::io::Write;

use randori_data::{BadRows, Left, Message, ReadOptions, Record, read, read_bytes};

fn rows(name: &str, bytes: &[u8]) -> Result<(Vec<Record>, Left), String> {
    read_bytes(name, bytes, &ReadOptions::default()).map_err(|e| e.to_string())
}

fn refused(name: &str, bytes: &[u8]) -> String {
    rows(name, bytes).unwrap_err()
}

#[test]
fn tables_of_any_shape() {
    let csv = "instruction,input,output,id\r\nSquare it.,12,144,1\r\n\"Say \"\"no\"\",\nplease.\",,no,2\r\n";
    let (records, left) = rows("d.csv", csv.as_bytes()).unwrap();
    assert_eq!(records[0].prompt, [Message::user("Square it.\n\n12")]);
    assert_eq!(records[0].response, Message::assistant("144"));
    assert_eq!(records[1].prompt, [Message::user("Say \"no\",\nplease.")]);
    assert_eq!((records[0].place.line, records[1].place.line), (2, 3));
    assert_eq!(left.to_string(), "keys nobody reads: `id` (2 rows)");
    for (name, text) in [
        ("d.tsv", "prompt\tresponse\nq, it; is\t5\n"),
        ("D.CSV", "\u{feff}prompt;response\n\"q, it; is\";5\n"),
    ] {
        let (records, _) = rows(name, text.as_bytes()).unwrap();
        assert_eq!(records[0].prompt, [Message::user("q, it; is")], "{name}");
        assert_eq!(records[0].response, Message::assistant("5"), "{name}");
    }
    let messages = r#"[{""role"": ""user"", ""content"": ""q""}, {""role"": ""assistant"", ""content"": ""a""}]"#;
    let (records, _) = rows("d.csv", format!("messages\n\"{messages}\"\n").as_bytes()).unwrap();
    assert_eq!(records[0].response, Message::assistant("a"));
    let kto = "prompt,completion,label\nq,good,True\nq,bad,False\n";
    let (records, left) = rows("d.csv", kto.as_bytes()).unwrap();
    assert_eq!((records.len(), left.untrained_rows), (1, 1));
    let classes = "question,answer,label\nq,a,0\nq,b,no\nq,c,1\n";
    let (records, left) = rows("d.csv", classes.as_bytes()).unwrap();
    assert_eq!((records.len(), left.unread["label"]), (3, 3));
    let pairs =
        "prompt,chosen,rejected,truncated,score_chosen,score_rejected\nq,a,b,1,2.5,0\nq,a,b,,,\n";
    let (records, _) = rows("d.csv", pairs.as_bytes()).unwrap();
    assert!(records[0].rejected_cut && !records[1].rejected_cut);
    assert_eq!(
        (records[0].rewards, records[1].rewards),
        (Some([2.5, 0.0]), None)
    );
}

#[test]
fn faults_of_tables() {
    let odd = "prompt,response\nq,r\nq\nq,r\n";
    assert_eq!(
        refused("d.csv", odd.as_bytes()),
        "d.csv:3: 1 values, but the header has 2"
    );
    let drop = ReadOptions {
        bad_rows: BadRows::Drop,
        ..ReadOptions::default()
    };
    let (records, left) = read_bytes("d.csv", odd.as_bytes(), &drop).unwrap();
    assert_eq!((records.len(), left.bad_rows), (2, 1));
    for open in [
        "prompt,response\nq,r\nq,\"r\nq,r\n",
        "prompt,response\nq,r\n\"q,r\nq,r\n",
    ] {
        let why = read_bytes("d.csv", open.as_bytes(), &drop)
            .unwrap_err()
            .to_string();
        assert!(
            why.ends_with("a quote that is never closed took the rest of the file"),
            "{why}"
        );
    }
    assert_eq!(
        refused("d.csv", b"prompt,prompt\nq,r\n"),
        "d.csv: two columns are called `prompt`"
    );
    assert_eq!(
        refused("d.csv", b"prompt,response\nq,\xff\n"),
        "d.csv:2: `response` is not UTF-8"
    );
    // pandas writes a column of lists as Python prints them
    for (table, key) in [
        (
            "prompt,completion\n\"[{'role': 'user', 'content': 'q'}]\",r\n",
            "prompt",
        ),
        (
            "prompt,completion\nq,\" {'content': \"\"it's\"\", 'role': 'assistant'}\"\n",
            "completion",
        ),
        (
            "chosen,rejected\n\"[{'from': 'gpt', 'value': 'a'}\n {'from'\",b\n",
            "chosen",
        ),
    ] {
        let says = format!("d.csv:2: `{key}` holds messages as Python prints them, not as JSON");
        assert_eq!(refused("d.csv", table.as_bytes()), says);
    }
    let texts = "prompt,completion\nq,\"{'role': 1}\"\nq,{'a': {'content': 'role'}}\n";
    assert_eq!(rows("d.csv", texts.as_bytes()).unwrap().0.len(), 2);
    assert_eq!(
        refused("d.csv", b"prompt,response\n"),
        "d.csv: no example in it"
    );
}

#[test]
fn compressed_files() {
    let gzip = |bytes: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let lines =
        b"{\"prompt\": \"q\", \"response\": \"a\"}\n{\"prompt\": \"q\", \"response\": \"b\"}\n";
    let array =
        b"[{\"prompt\": \"q\", \"response\": \"a\"}, {\"prompt\": \"q\", \"response\": \"b\"}]";
    let table = b"prompt,response\nq,a\nq,b\n";
    let mut twice = gzip(&lines[..lines.len() / 2]);
    twice.extend(gzip(&lines[lines.len() / 2..]));
    for (name, bytes) in [
        ("d.jsonl.gz", gzip(lines)),
        ("d.jsonl.zst", zstd(lines)),
        ("d.json.gz", gzip(array)),
        ("d.json.zst", zstd(array)),
        ("d.csv.gz", gzip(table)),
        ("d.csv.zst", zstd(table)),
        ("several members", twice),
    ] {
        let (records, _) = rows(name, &bytes).unwrap();
        let answers: Vec<&str> = records.iter().map(|r| r.response.content()).collect();
        assert_eq!(answers, ["a", "b"], "{name}");
    }
    // what is cut is an error, whatever becomes of bad rows
    let drop = ReadOptions {
        bad_rows: BadRows::Drop,
        ..ReadOptions::default()
    };
    let many = lines.repeat(20_000);
    for whole in [gzip(&many), zstd(&many)] {
        assert!(read_bytes("x", &whole[..whole.len() * 2 / 3], &drop).is_err());
    }
}

/// Damage to a JSON array never counts as one bad row.
#[test]
fn a_json_array_is_read_to_the_end_of_its_file() {
    let drop = ReadOptions {
        bad_rows: BadRows::Drop,
        ..ReadOptions::default()
    };
    let row = r#"{"prompt": "q", "response": "r"}"#;
    for (text, line, why) in [
        (
            format!("[{row}]\n[{row}]"),
            2,
            "the array that starts the file is followed by `[`; only white space may be there",
        ),
        (
            format!("[{row}] garbage"),
            1,
            "the array that starts the file is followed by `g`; only white space may be there",
        ),
        (
            format!("[{row}]\0"),
            1,
            "the array that starts the file is followed by the byte 0x00; only white space may be there",
        ),
        (
            format!("[{row}}}]"),
            1,
            "an array's element is followed by `}`; only a comma or `]` may be there",
        ),
        (
            format!("[{row},\n}}]"),
            2,
            "an array's element cannot begin with `}`",
        ),
        (
            format!("[{row},,{row}]"),
            1,
            "an array's element cannot begin with `,`",
        ),
        (
            format!("[{row},\n{{\"prompt\": \"cut"),
            2,
            "the array that starts the file never ends",
        ),
    ] {
        let said = read_bytes("d.json", text.as_bytes(), &drop)
            .unwrap_err()
            .to_string();
        assert_eq!(said, format!("d.json:{line}: not JSON: {why}"), "{text}");
    }
    let missing = format!("[{row},\n{row} {row},\n{row}]");
    let said = read_bytes("d.json", missing.as_bytes(), &drop)
        .unwrap_err()
        .to_string();
    assert!(
        said.starts_with("d.json:2: not JSON: trailing characters"),
        "{said}"
    );
    // a row that is no example is one row, and so are wrong bytes in a text
    let mut text = format!("[{row}, 7, {{\"prompt\": \"").into_bytes();
    text.push(0xff);
    text.extend(format!("\", \"response\": \"r\"}}, {row}]\n \n").into_bytes());
    let (records, left) = read_bytes("d.json", &text, &drop).unwrap();
    assert_eq!((records.len(), left.bad_rows), (2, 2));
}

/// The fixtures are pyarrow 26's (make.py), and so are the right values.
#[test]
fn parquet_in_every_compression() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/columns");
    for codec in ["none", "snappy", "gzip", "zstd", "brotli", "lz4"] {
        let path = folder.join(format!("{codec}.parquet"));
        let (records, left) = read(&path, &ReadOptions::default()).unwrap();
        assert_eq!(records.len(), 2, "{codec}");
        let asked = [
            Message::new("system", "Be brief."),
            Message::user("What is 12 plus 30?"),
        ];
        assert_eq!(records[0].prompt, asked, "{codec}");
        assert_eq!(records[1].prompt[0].content(), "Sois bref. é");
        let answers: Vec<&str> = records.iter().map(|r| r.response.content()).collect();
        assert_eq!(answers, ["42", "So."], "{codec}");
        let unread: Vec<(&str, usize)> = left
            .unread
            .iter()
            .map(|(key, rows)| (key.as_str(), *rows))
            .collect();
        let rows_of = [
            ("half", 2),
            ("picture", 1),
            ("price", 1),
            ("share", 1),
            ("tags", 1),
            ("when", 1),
        ];
        assert_eq!(unread, rows_of, "{codec}");
    }
}

/// The older LZ4 of Parquet, with Hadoop's framing, which pyarrow reads and does not write; bytes
/// that are no text.
#[test]
fn parquet_written_by_others() {
    use parquet::basic::Compression;
    let file = |codec: Compression, response: &[u8]| {
        use parquet::data_type::{ByteArray, ByteArrayType};
        use parquet::file::properties::WriterProperties;
        use parquet::file::writer::SerializedFileWriter;
        let schema = "message m { REQUIRED BINARY prompt (UTF8); REQUIRED BINARY response; }";
        let schema = parquet::schema::parser::parse_message_type(schema).unwrap();
        let properties = WriterProperties::builder().set_compression(codec).build();
        let mut out = Vec::new();
        let mut writer =
            SerializedFileWriter::new(&mut out, schema.into(), properties.into()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for value in [b"What is 12 plus 30?".as_slice(), response] {
            let mut column = group.next_column().unwrap().unwrap();
            let value = ByteArray::from(value.to_vec());
            column
                .typed::<ByteArrayType>()
                .write_batch(&[value], None, None)
                .unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();
        out
    };
    for codec in [Compression::LZ4, Compression::LZ4_RAW] {
        let (records, _) = rows("x", &file(codec, b"42")).unwrap();
        assert_eq!(records[0].response, Message::assistant("42"), "{codec:?}");
    }
    assert_eq!(
        refused("x", &file(Compression::SNAPPY, b"\x89PNG\xff")),
        "x:1: `response` has bytes that are not UTF-8, which no text can have"
    );
}

/// A file of one row: a response, and what is asked in a column of whole numbers of this type.
fn timed(name: &str, kind: &str, number: i64) -> Vec<u8> {
    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::writer::SerializedFileWriter;
    let schema = format!(
        "message m {{ REQUIRED BINARY question (UTF8); REQUIRED BINARY response (UTF8);
         REQUIRED INT64 {name} ({kind}); }}"
    );
    let schema = parquet::schema::parser::parse_message_type(&schema).unwrap();
    let mut out = Vec::new();
    let mut writer =
        SerializedFileWriter::new(&mut out, schema.into(), Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for value in ["What is 12 plus 30?", "42"] {
        let mut column = group.next_column().unwrap().unwrap();
        let value = [ByteArray::from(value)];
        let texts = column.typed::<ByteArrayType>();
        texts.write_batch(&value, None, None).unwrap();
        column.close().unwrap();
    }
    let mut column = group.next_column().unwrap().unwrap();
    let times = column.typed::<Int64Type>();
    times.write_batch(&[number], None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    out
}

/// A time that no calendar has (a sentinel such as i64's largest) is in nobody's way until it is
/// read: the parquet crate panics where it would print one (found by tests/fuzz).
#[test]
fn times_beyond_the_calendar() {
    let file = |name: &str| timed(name, "TIMESTAMP_MILLIS", i64::MAX);
    let (records, _) = rows("x", &file("seen")).unwrap();
    assert_eq!(records[0].response, Message::assistant("42"));
    let why = refused("x", &file("system"));
    assert!(
        why.starts_with("x:1: `system` has a time beyond the calendar"),
        "{why}"
    );
}

/// The right values are `str` of what pyarrow 26 reads (`to_pylist`): a time has a zone where the
/// file says so and nowhere else.
#[test]
fn times_are_text_as_python_prints_them() {
    let second = 1_721_995_200; // 2024-07-26 12:00:00
    for (kind, number, printed) in [
        (
            "TIMESTAMP(MILLIS,false)",
            second * 1000,
            "2024-07-26 12:00:00",
        ),
        (
            "TIMESTAMP(MILLIS,false)",
            second * 1000 + 50,
            "2024-07-26 12:00:00.050000",
        ),
        (
            "TIMESTAMP(MICROS,false)",
            second * 1_000_000 + 7,
            "2024-07-26 12:00:00.000007",
        ),
        (
            "TIMESTAMP(MILLIS,true)",
            second * 1000,
            "2024-07-26 12:00:00+00:00",
        ),
        (
            "TIMESTAMP(NANOS,false)",
            second * 1_000_000_000,
            "2024-07-26 12:00:00",
        ),
        (
            "TIMESTAMP(NANOS,true)",
            second * 1_000_000_000 + 500_000,
            "2024-07-26 12:00:00.000500+00:00",
        ),
        ("TIMESTAMP_MILLIS", second * 1000, "2024-07-26 12:00:00"),
        ("TIME_MICROS", 3_600_000_000, "01:00:00"),
        ("TIME_MICROS", 3_600_000_001, "01:00:00.000001"),
        ("INT_64", second, "1721995200"),
    ] {
        let (records, _) = rows("x", &timed("system", kind, number)).unwrap();
        assert_eq!(records[0].prompt[0].content(), printed, "{kind} {number}");
    }
    let odd = timed("system", "TIMESTAMP(NANOS,true)", 1);
    assert_eq!(
        refused("x", &odd),
        "x:1: `system` has a time of nanoseconds, which no text can have"
    );
}

#[test]
fn two_columns_of_one_name_are_refused() {
    for name in ["question", "response"] {
        assert_eq!(
            refused("x", &timed(name, "INT_64", 1)),
            format!("x: two columns are called `{name}`")
        );
    }
}

/// No writer makes LZO, so the file says so of bytes that are not.
#[test]
fn a_compression_that_is_not_supported_is_named() {
    use parquet::basic::Compression;
    use parquet::file::metadata::{ParquetMetaDataBuilder, ParquetMetaDataWriter};
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let fixture = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/columns/none.parquet");
    let bytes = std::fs::read(fixture).unwrap();
    let reader = SerializedFileReader::new(bytes::Bytes::from(bytes.clone())).unwrap();
    let mut builder = ParquetMetaDataBuilder::new(reader.metadata().file_metadata().clone());
    for group in reader.metadata().row_groups() {
        let columns = group.columns().iter().map(|column| {
            let column = column.clone().into_builder();
            column.set_compression(Compression::LZO).build().unwrap()
        });
        let columns = columns.collect();
        let group = group.clone().into_builder().set_column_metadata(columns);
        builder = builder.add_row_group(group.build().unwrap());
    }
    let mut out = bytes;
    ParquetMetaDataWriter::new(&mut out, &builder.build())
        .finish()
        .unwrap();
    assert_eq!(
        refused("x", &out),
        "x: the column `prompt` is compressed with LZO, which is not supported"
    );
}

#[test]
fn what_is_no_data_file_is_named() {
    for (bytes, what) in [
        (
            b"PARE....PARE".as_slice(),
            "x: it is an encrypted Parquet file",
        ),
        (
            b"ARROW1\0\0".as_slice(),
            "x: it is an Arrow file; save it as Parquet (`to_parquet`)",
        ),
        (
            b"PK\x03\x04....".as_slice(),
            "x: it is a zip archive; unpack it",
        ),
        (
            b"BZh9....".as_slice(),
            "x: it is compressed with bzip2; unpack it",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n".as_slice(),
            "x: it is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`",
        ),
    ] {
        assert_eq!(refused("x", bytes), what);
    }
}
