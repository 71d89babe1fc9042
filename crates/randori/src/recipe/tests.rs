//! Good recipes round-trip; bad ones are refused in one line.

use std::path::Path;

use randori_core::PerIteration;

use super::*;

fn refused(text: &str, overrides: &[&str]) -> String {
    let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
    match Recipe::parse("recipe.toml", text, Path::new(""), &overrides) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(e) => e.to_string(),
    }
}

fn accepted(text: &str, overrides: &[&str]) -> Recipe {
    let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
    Recipe::parse("recipe.toml", text, Path::new(""), &overrides).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_default_is_valid_and_documented() {
    let recipe = accepted("", &[]);
    assert_eq!(recipe.train.lr.at(7), Some(5e-5));
    for key in keys::all() {
        assert!(
            !key.doc.is_empty(),
            "{}.{} has no documentation",
            key.section,
            key.name
        );
    }
}

#[test]
fn values_are_read_and_lists_are_per_iteration() {
    let text = "name = \"x\"\n[train]\nlr = [5e-7, 1e-7]\nepochs = 2\n[loss]\nname = \"spin\"\nbeta = [0.1, 0.1, 0.1, 5.0]\n\
                [generate]\nsampling = [{ name = \"temperature\", value = 0.8 }, { name = \"top_p\", p = 0.9 }]\n";
    let recipe = accepted(text, &["train.epochs=[1,3]", "data.train=a.jsonl"]);
    assert_eq!(recipe.train.lr, PerIteration(vec![5e-7, 1e-7]));
    assert_eq!(recipe.train.lr.at(5), Some(1e-7));
    assert_eq!(recipe.train.epochs.at(1), Some(3));
    assert_eq!(recipe.loss_options[0].values.len(), 4);
    assert_eq!(recipe.loss_options[0].place, "recipe.toml:7");
    assert_eq!(recipe.generate.sampling[1].name, "top_p");
    assert!(
        Path::new(&recipe.data.train.0[0]).is_absolute(),
        "{:?}",
        recipe.data.train
    );
    assert_eq!(recipe.place("train.lr"), "recipe.toml:3");
    assert_eq!(accepted("", &["name=nan"]).run.name, "nan");
    let moved = "[model]\ndevice = \"cuda\"\n[train]\ncheckpoint = true\noffload_inputs = true\n";
    assert!(accepted(moved, &[]).train.offload_inputs);
}

#[test]
fn the_resolved_recipe_reads_back_as_itself() {
    let text = "[loss]\nbeta = [0.1, 5.0]\nkind = \"hinge\"\n[generate]\nsampling = [{ name = \"greedy\" }]\n[data]\nlimit = 3\n";
    let recipe = accepted(text, &["train.lr=3e-4"]);
    let again = Recipe::parse(
        "runs/x/recipe.toml",
        &recipe.resolved(),
        Path::new("elsewhere"),
        &[],
    )
    .unwrap();
    assert_eq!(again.canonical(), recipe.canonical());
    assert_eq!(again.train, recipe.train);
}

/// A resolved recipe spells defaults out; nobody said them.
#[test]
fn a_resolved_recipe_says_no_more_than_the_recipe() {
    let recipe = accepted("[adapter]\nrank = 4\n", &["adapter.alpha=32.0"]);
    assert!(recipe.says("adapter.rank") && recipe.says("adapter.alpha"));
    assert!(!recipe.says("adapter.dora"));
    let resolved = |sets: &[String]| {
        let text = recipe.resolved();
        Recipe::parse("runs/x/recipe.toml", &text, Path::new("x"), sets).unwrap()
    };
    let again = resolved(&[]);
    assert!(again.says("adapter.rank"));
    assert!(!again.says("adapter.alpha") && !again.says("adapter.dora"));
    assert!(resolved(&["adapter.dora=false".to_owned()]).says("adapter.dora"));
}

/// Whatever a value looks like as text, its key has it whole, on one line, and reading it back
/// gives it again.
#[test]
fn values_are_whole_whatever_is_in_them() {
    let texts = [
        "You are short.\nAnswer = yes\n[train]\nlr = 1.0",
        "a \"quoted\" 'text' with \\ and \"\"\"",
        " = ",
        "[loss]",
        "tab\tand \u{7f}\u{1}\r\n",
        "",
        "ünï…\u{2028}",
    ];
    for text in texts {
        let toml = toml_edit::Value::from(text).to_string();
        let given = format!(
            "[data]\nsystem = {toml}\ntrain = [{toml}, {toml}]\n[loss]\n\"a = b.c\" = {toml}\n\
             [generate]\nsampling = [{{ name = \"x\", \"odd key\" = {toml} }}]\n"
        );
        let recipe = accepted(&given, &[]);
        let values = recipe.values();
        let whole: toml_edit::Value = values["data.system"].parse().unwrap();
        assert_eq!(whole.as_str(), Some(text));
        let option: toml_edit::Value = values["loss.a = b.c"].parse().unwrap();
        assert_eq!(option.as_str(), Some(text));
        let list: toml_edit::Value = values["data.train"].parse().unwrap();
        assert_eq!(list.as_array().unwrap().len(), 2);
        assert!(values.values().all(|v| !v.contains('\n')), "{values:?}");
        // as many keys as without: nothing of a value passes for a key
        let plain = accepted("[data]\nsystem = \"x\"\n[loss]\ny = 1\n", &[]);
        assert_eq!(values.len(), plain.values().len());
        let again = accepted(&recipe.canonical(), &[]);
        assert_eq!(again.values(), values);
    }
}

#[test]
fn bad_recipes_are_refused_with_place_rule_and_value() {
    let cases: &[(&str, &[&str], &str)] = &[
        (
            "[train]\nlr = -1e-5\n",
            &[],
            "recipe.toml:2: train.lr must be > 0, got -1e-5",
        ),
        (
            "[train]\nlr = 0\n",
            &[],
            "recipe.toml:2: train.lr must be > 0, got 0",
        ),
        (
            "[train]\nlr = nan\n",
            &[],
            "recipe.toml:2: train.lr must be > 0, got nan",
        ),
        (
            "[train]\nlr = inf\n",
            &[],
            "recipe.toml:2: train.lr must be finite, got inf",
        ),
        // what f32 takes for 0 trains nothing
        (
            "[train]\nlr = 1e-300\n",
            &[],
            "recipe.toml:2: train.lr must be > 0 and finite in f32 too, where it is 0, got 1e-300",
        ),
        (
            "[sft]\nlr = 1e-46\n",
            &[],
            "recipe.toml:2: sft.lr must be > 0 and finite in f32 too, where it is 0, got 1e-46",
        ),
        (
            "[adapter]\nalpha = 1e-300\n",
            &[],
            "recipe.toml:2: adapter.alpha must be > 0 and finite in f32 too, where it is 0, got 1e-300",
        ),
        (
            "[train]\neps = 1e300\n",
            &[],
            "recipe.toml:2: train.eps must be > 0 and finite in f32 too, where it is inf, got 1e300",
        ),
        (
            "[train]\nclip = 1e39\n",
            &[],
            "recipe.toml:2: train.clip must be >= 0 and finite in f32 too, where it is inf, got 1e39",
        ),
        (
            "[sft]\nweight_decay = 1e300\n",
            &[],
            "recipe.toml:2: sft.weight_decay must be >= 0 and finite in f32 too, where it is inf, got 1e300",
        ),
        (
            "[train]\nclip = 1e-300\n",
            &[],
            "recipe.toml:2: train.clip must be 0 (never) or > 0 in f32 too, where it is 0, got 1e-300",
        ),
        (
            "[train]\nlr = [1e-4,\n 0.0]\n",
            &[],
            "recipe.toml:3: train.lr must be > 0, got 0.0",
        ),
        (
            "[train]\nlr = []\n",
            &[],
            "recipe.toml:2: train.lr must have at least one value, got []",
        ),
        (
            "[train]\nlr = \"fast\"\n",
            &[],
            "recipe.toml:2: train.lr must be a number, got \"fast\"",
        ),
        (
            "",
            &["train.lr=-1"],
            "--set train.lr=-1: train.lr must be > 0, got -1",
        ),
        (
            "[train]\nlr = 1\n",
            &["train.lr=0"],
            "--set train.lr=0: train.lr must be > 0, got 0",
        ),
        (
            "",
            &["train.lr"],
            "--set train.lr: must be section.key=value",
        ),
        (
            "",
            &["trian.lr=1"],
            "--set trian.lr=1: unknown key `trian.lr`; nearest: `train.lr`",
        ),
        (
            "[train]\nbatch = 1.5\n",
            &[],
            "recipe.toml:2: train.batch must be a whole number, got 1.5",
        ),
        (
            "seed = -1\n",
            &[],
            "recipe.toml:1: seed must be a whole number >= 0, got -1",
        ),
        (
            "\n\n[train]\nbetas = 0.9\n",
            &[],
            "recipe.toml:4: unknown key `train.betas`; nearest: `train.beta1`",
        ),
        (
            "[trian]\nlr = 1\n",
            &[],
            "recipe.toml:1: unknown section `[trian]`; nearest: `[train]`",
        ),
        (
            "iterations = 3\n",
            &[],
            "recipe.toml:1: unknown key `iterations`; nearest: `game.iterations`",
        ),
        (
            "[train]\nlr = 1\nlr = 2\n",
            &[],
            "recipe.toml:3: not TOML: duplicate key",
        ),
        (
            "[adapter]\nkind = \"lore\"\n",
            &[],
            "recipe.toml:2: adapter.kind must be one of lora, qlora, full, got \"lore\"; nearest: \"lora\"",
        ),
        (
            "[train.lr]\nx = 1\n",
            &[],
            "recipe.toml:1: train.lr must be a number, got a table",
        ),
        (
            "[adapter]\nkind = \"full\"\ninit = \"a\"\n",
            &[],
            "recipe.toml:3: adapter.init starts a LoRA adapter",
        ),
        (
            "[train]\noffload_optimizer = true\n",
            &[],
            "recipe.toml:2: train.offload_optimizer must be false but with model.device",
        ),
        (
            "[compare]\nseeds = [1, 2, 1]\n",
            &[],
            "recipe.toml:2: compare.seeds must have each value once, got [1, 2, 1]",
        ),
        (
            "[eval]\nseeds = [3, 3]\n",
            &[],
            "recipe.toml:2: eval.seeds must have each value once, got [3, 3]",
        ),
        (
            "[compare]\nlrs = [1e-4, 0.0001]\n",
            &[],
            "recipe.toml:2: compare.lrs must have each value once, got",
        ),
        (
            "[compare]\nepochs = [0, 0]\n",
            &[],
            "recipe.toml:2: compare.epochs must have each value once, got [0, 0]",
        ),
        (
            "name = \"a/b\"\n",
            &[],
            "recipe.toml:1: name must be a plain folder name",
        ),
        (
            "[generate]\nsampling = [{ value = 1 }]\n",
            &[],
            "recipe.toml:2: generate.sampling needs a `name` in { value = 1 }",
        ),
        (
            "[generate]\nmin_new_tokens = 300\n",
            &[],
            "recipe.toml:2: generate.min_new_tokens must be <= generate.max_new_tokens = 256, got 300",
        ),
        (
            "[train]\noffload_inputs = true\n",
            &[],
            "recipe.toml:2: train.offload_inputs must be false but with train.checkpoint = true and model.device = \"cuda\", got true with train.checkpoint = false and model.device = \"cpu\"",
        ),
        (
            "[train]\ncheckpoint = true\noffload_inputs = true\n",
            &[],
            "recipe.toml:3: train.offload_inputs must be false but with",
        ),
        (
            "[model]\ndevice = \"cuda\"\n",
            &["train.offload_inputs=true"],
            "--set train.offload_inputs=true: train.offload_inputs must be false but with",
        ),
    ];
    for (text, overrides, want) in cases {
        let got = refused(text, overrides);
        assert!(got.starts_with(want), "\n got: {got}\nwant: {want}");
        assert!(!got.contains('\n'), "more than one line: {got}");
    }
}

/// What says how a thing is done that the recipe does not choose, for any verb; defaults are what
/// everybody says.
#[test]
fn keys_that_nothing_reads_are_named_with_their_place() {
    let full = "[adapter]\nkind = \"full\"\n";
    let rms = "[train]\noptimizer = \"rmsprop\"\n";
    for (text, overrides, notes) in [
        (
            format!("{full}rank = 4\nalpha = 32.0\n"),
            &["adapter.dropout=0.5"][..],
            &[
                "recipe.toml:3: adapter.rank = 4 is not read: it belongs to adapter.kind = \"lora\" or \"qlora\"",
                "--set adapter.dropout=0.5: adapter.dropout = 0.5 is not read: it belongs to adapter.kind",
            ][..],
        ),
        (
            "[adapter]\nquant = \"gguf\"\ndouble_quant = false\n".into(),
            &[],
            &[
                "recipe.toml:2: adapter.quant = \"gguf\" is not read: it belongs to adapter.kind = \"qlora\"",
            ],
        ),
        (
            "[adapter]\nquant = \"gguf\"\nkind = \"qlora\"\n".into(),
            &[],
            &[],
        ),
        // the supervised stage has the same constants
        (format!("{rms}beta1 = 0.8\nalpha = 0.9\n"), &[], &[]),
        (
            format!("{rms}beta1 = 0.8\n"),
            &["sft.optimizer=rmsprop"],
            &["recipe.toml:3: train.beta1 = 0.8 is not read: it belongs to train.optimizer or"],
        ),
        (
            String::new(),
            &["train.momentum=0.5"],
            &["--set train.momentum=0.5: train.momentum = 0.5 is not read"],
        ),
        (
            "[game]\nstop_noise = 1\n[compare]\nlrs = [1e-3]\n".into(),
            &["data.validation_share=0.1", "data.validation=builtin:demo"],
            &[
                "recipe.toml:2: game.stop_noise = 1.0 is not read: it belongs to game.stop_patience above 0",
                "recipe.toml:4: compare.lrs = [0.001] is not read",
                "--set data.validation_share=0.1: data.validation_share = 0.1 is not read",
            ],
        ),
    ] {
        let recipe = accepted(&text, overrides);
        let resolved = Recipe::parse("x", &recipe.resolved(), Path::new(""), &[]).unwrap();
        let unread = recipe.unread();
        assert_eq!(unread.len(), notes.len(), "{unread:?}");
        assert_eq!(resolved.unread().len(), notes.len());
        for (line, start) in unread.iter().zip(notes) {
            assert!(line.starts_with(start), "{line}");
        }
    }
}

#[test]
fn training_data_are_divided_where_nothing_else_is_named() {
    let kept = |data: &str, sets: &[&str]| {
        let recipe = accepted(&format!("[data]\n{data}\n"), sets);
        let again = Recipe::parse("x", &recipe.resolved(), Path::new(""), &[]).unwrap();
        assert_eq!(again.values(), recipe.values());
        let kept = recipe.data.kept_aside();
        kept.map(|share| (share.share, share.least))
    };
    let (train, held_out) = ("train = \"a.jsonl\"", "held_out = \"b.jsonl\"");
    assert_eq!(kept(train, &[]), Some((0.05, 16)));
    assert_eq!(kept("validation = \"b.jsonl\"", &[]), None);
    assert_eq!(
        kept("validation = \"none\"\nvalidation_share = 0.1", &[]),
        None
    );
    assert_eq!(kept(train, &["data.validation=none"]), None);
    assert_eq!(kept(train, &["data.validation_share=0"]), None);
    assert_eq!(kept(held_out, &[]), None);
    let share = ["data.validation_share=0.1"];
    assert_eq!(kept(held_out, &share), Some((0.1, 0)));
    let text = "[compare]\ncontinued_sft = true\n";
    accepted(text, &[]);
    for sets in ["data.validation=none", "data.held_out=b.jsonl"] {
        let why = refused(text, &[sets]);
        assert!(
            why.contains("chooses its settings on a validation split"),
            "{why}"
        );
    }
}

#[test]
fn columns_are_a_table_of_names_that_are_read() {
    let text = "[data.columns]\nprompt = \"a \\\"b\\\"\"\n";
    let recipe = accepted(text, &["data.columns.system=7"]);
    let shown = r#"{ prompt = "a \"b\"", system = "7" }"#;
    assert_eq!(recipe.values()["data.columns"], shown);
    let again = Recipe::parse("x", &recipe.resolved(), Path::new(""), &[]).unwrap();
    assert_eq!(again.data.columns, recipe.data.columns);
    let why = refused("[data]\ncolumns = {instructions = \"a\"}\n", &[]);
    let want = "recipe.toml:2: data.columns names `instructions`, which is not read; nearest: \
                `instruction`";
    assert_eq!(why, want);
}

#[test]
fn docs_recipe_md_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/recipe.md");
    let on_disk = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        on_disk == markdown(),
        "docs/reference/recipe.md is out of date: cargo run -- recipe-docs > docs/reference/recipe.md"
    );
}

/// They overflowed, or were counted to for hours.
#[test]
fn numbers_that_are_counted_with_have_a_most() {
    for (key, range) in [
        ("train.epochs", "1..=1000000"),
        ("sft.epochs", "0..=1000000"),
        ("train.batch", "1..=16777216"),
        ("train.micro_batch_tokens", "1..=16777216"),
        ("generate.max_new_tokens", "1..=16777216"),
        ("eval.max_new_tokens", "1..=16777216"),
        ("data.max_prompt_tokens", "1..=16777216"),
        ("adapter.rank", "1..=65536"),
        ("game.iterations", "1..=10000"),
    ] {
        let most = range.rsplit('=').next().unwrap();
        accepted("", &[&format!("{key}={most}")]);
        for value in ["9223372036854775807", "16777217"] {
            let set = format!("{key}={value}");
            let want = format!("--set {set}: {key} must be in {range}, got {value}");
            assert_eq!(refused("", &[&set]), want);
        }
    }
    let listed = refused("", &["train.epochs=[1, 1000001]"]);
    assert!(listed.ends_with("in 1..=1000000, got 1000001"), "{listed}");
}
