//! Data as people have it: a folder of files, columns under other names, plain text.

use crate::program::World;

const ROWS: &str = "{\"ask\": \"Reverse 12.\", \"say\": \"The answer is 21.\"}\n\
                    {\"ask\": \"Reverse 34.\", \"say\": \"The answer is 43.\"}\n";

const TABLE: &str = r#"name = "c"
[model]
source = "random:config.json"
tokenizer = "tokenizer"
[data]
train = "d.jsonl"
[data.columns]
prompt = "ask"
response = "say"
"#;

#[test]
fn a_recipe_says_which_column_is_what() {
    let world = World::new();
    world.file("d.jsonl", ROWS);
    world.file("c.toml", TABLE);
    let said = world.accepted(&["inspect", "c.toml", "-q"]);
    assert!(said.contains("2 of 2 examples kept"), "{said}");
    assert!(
        said.contains("Reverse 34.") && said.contains("The answer is 43."),
        "{said}"
    );
    let sets = [
        "data.train=d.jsonl",
        "data.held_out=d.jsonl",
        "data.columns={prompt=\"ask\", response=\"say\"}",
    ];
    let set = sets.map(|set| ["--set", set]).concat();
    let said = world.accepted(&[&["inspect", "r.toml", "-q"], &set[..]].concat());
    assert!(said.contains("2 of 2 examples kept"), "{said}");
    let inspect = |set: &'static str| ["inspect", "c.toml", "-q", "--set", set];
    for (set, why) in [
        (
            "data.columns.response=sya",
            "d.jsonl:1: no column `sya`, which data.columns reads as `response`; nearest: `say`; \
             there are `ask`, `say`",
        ),
        (
            "data.columns.promt=ask",
            "data.columns names `promt`, which is not read; nearest: `prompt`",
        ),
        (
            "data.columns.system=ask",
            "data.columns reads the column `ask` as `prompt` and as `system`",
        ),
        (
            "data.columns=3",
            "data.columns must be a table {prompt = \"its column\", …}, got 3",
        ),
    ] {
        world.refused(&inspect(set), why);
    }
    let text = TABLE.replace("prompt = \"ask\"", "prompt = 7");
    world.file("c.toml", &text);
    let why = "c.toml:8: data.columns of `prompt` must be text, got 7";
    world.refused(&["inspect", "c.toml"], why);
}

#[test]
fn a_folder_is_all_the_files_in_it() {
    let world = World::new();
    std::fs::create_dir_all(world.dir().join("data")).unwrap();
    let row = |n| format!("{{\"prompt\": \"Reverse {n}.\", \"response\": \"It is {n}.\"}}\n");
    world.file("data/b.jsonl", &(120..132).map(row).collect::<String>());
    world.file("data/a.jsonl", &(100..112).map(row).collect::<String>());
    world.file("data/.c.jsonl", "not read");
    let set = ["--set", "data.train=data/"];
    let out = world.accepted(&[&["inspect", "r.toml", "-q", "-n", "1"], &set[..]].concat());
    assert!(out.contains("24 of 24 examples kept"), "{out}");
    assert!(
        out.contains("a.jsonl:1") && out.contains("Reverse 100."),
        "{out}"
    );
    let run = [&["run", "r.toml", "-q"], &set[..]].concat();
    world.accepted(&run);
    world.accepted(&run);
    // what is added is another data set
    world.file("data/c.jsonl", &row(140));
    world.refused(&run, "c.jsonl was not set, is ");
    world.file("data/c.jsonl", "{\"prompt\": \"Reverse 1.\"}\n");
    world.refused(&run, "c.jsonl:1: an example without response");
    world.file("data/c.csv", "prompt,response\nq,a\n");
    world.refused(&run, "data files of several kinds");
    let over = [
        "generate",
        "r.toml",
        "--out",
        "data/a.jsonl",
        "--set",
        "data.train=data",
    ];
    world.file("data/c.jsonl", &row(140));
    std::fs::remove_file(world.dir().join("data/c.csv")).unwrap();
    world.refused(&over, "is read by this command and would be lost");
}

#[test]
fn plain_text_is_for_supervised_training_alone() {
    let world = World::new();
    let row = |n| format!("{{\"text\": \"Reverse {n}: {n}.\"}}\n");
    world.file("t.jsonl", &(100..140).map(row).collect::<String>());
    let recipe = std::fs::read_to_string(world.dir().join("r.toml")).unwrap();
    let named = "train = \"data.jsonl\"\nheld_out = \"data.jsonl\"\n";
    world.file("t.toml", &recipe.replace(named, "train = \"t.jsonl\"\n"));
    let set = ["--set", "sft.batch=8"];
    let sft = world.run(&[&["sft", "t.toml", "--out", "s"], &set[..]].concat());
    assert_eq!(sft.code, 0, "{}", sft.stderr);
    assert!(
        sft.stderr.contains("24 of 24 examples kept"),
        "{}",
        sft.stderr
    );
    assert!(
        sft.stderr.contains("16 of 40 examples of data.train"),
        "{}",
        sft.stderr
    );
    assert!(sft.stdout.contains("validation NLL"), "{}", sft.stdout);
    for verb in [
        &["run", "t.toml"][..],
        &["generate", "t.toml", "--out", "g.jsonl"],
    ] {
        world.refused(
            verb,
            "`text` alone has no prompt that a player could answer",
        );
    }
}
