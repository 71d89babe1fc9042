//! Exports of models whose head is tied to the embedding: an update of one of the two stays that
//! one's in every format.
//!
//! The right value of an export is what the player itself computes; what peft computes of such
//! players is in peft_adapters.rs.

use std::{fs, sync::Arc};

use randori_engine::{Player, weights::Source};
use randori_export::{
    BnbOptions, Fidelity, FidelityReport, FolderOptions, FromDisk, GgufLoraOptions, GgufOptions,
    GgufQuant, InMemory, Merged, Onto, RoundTrip, Tensors, bnb, folder, gguf, gguf_lora,
};
use randori_lora::{LoraSpec, Targets, peft};
use serde_json::Value;

use super::players::{apart, base, fixture, logps, stream, trained};
use crate::program::World;

fn spec(targets: &[&str]) -> LoraSpec {
    LoraSpec {
        rank: 2,
        alpha: 4.0,
        targets: Targets::Names(targets.iter().map(ToString::to_string).collect()),
        ..LoraSpec::default()
    }
}

fn saving(modules: &[&str]) -> LoraSpec {
    LoraSpec {
        modules_to_save: modules.iter().map(ToString::to_string).collect(),
        ..spec(&["q_proj"])
    }
}

/// Every kind of adapter that changes one of the two uses.
fn kinds() -> Vec<(&'static str, LoraSpec)> {
    let of = |targets| LoraSpec {
        targets,
        ..spec(&["q_proj"])
    };
    vec![
        ("the head by its name", spec(&["lm_head"])),
        ("by the weight's", spec(&["embed_tokens"])),
        ("beside another", spec(&["q_proj", "lm_head"])),
        ("by a pattern", of(Targets::Regex(".*".into()))),
        ("by a glob", spec(&["model.*"])),
        (
            "DoRA",
            LoraSpec {
                dora: true,
                ..spec(&["v_proj", "lm_head"])
            },
        ),
        ("a head of its own", saving(&["lm_head"])),
        ("an embedding of its own", saving(&["embed_tokens"])),
        ("both of their own", saving(&["embed_tokens", "lm_head"])),
    ]
}

fn tied() -> Source {
    Source::Folder(fixture("tied"))
}

/// Exports a merged folder and returns the fidelity report.
fn exported(tensors: &dyn Tensors, out: &std::path::Path) -> FidelityReport {
    let options = FolderOptions {
        dtype: randori_engine::weights::Dtype::F32,
        ..FolderOptions::default()
    };
    let mut fidelity = Fidelity::new(None);
    let mut each =
        |name: &str, m: &Merged, round_trip: &RoundTrip| fidelity.add(name, m, round_trip);
    folder(tensors, &[], out, &options, &mut each, &mut |_, _| {}).unwrap();
    fidelity.report()
}

fn of_folder(dir: &std::path::Path) -> [f64; 2] {
    logps(&Player::bare(base(Source::Folder(dir.into()))))
}

#[test]
fn a_merged_folder_computes_the_player() {
    let (base, stream) = (base(tied()), stream(tied()));
    let dir = tempfile::tempdir().unwrap();
    for (i, (kind, spec)) in kinds().into_iter().enumerate() {
        let player = trained(&base, spec);
        assert!(
            apart(logps(&player), logps(&Player::bare(base.clone()))) > 0.05,
            "{kind}"
        );
        let merging = FromDisk::new(
            &stream,
            player.lora.as_deref(),
            &player.params,
            Onto::Dequantised,
        );
        let merging = merging.unwrap();
        let out = dir.path().join(i.to_string());
        let report = exported(&merging, &out);
        assert!(apart(of_folder(&out), logps(&player)) < 1e-4, "{kind}");
        let config: Value =
            serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["tie_word_embeddings"], false, "{kind}");
        // the report is on what was changed, whole
        let changed: Vec<&str> = report.modules.iter().map(|m| m.name.as_str()).collect();
        let own = |name: &str| player.params.keys().any(|n| n.starts_with(name));
        for name in ["lm_head", "model.embed_tokens"] {
            assert_eq!(changed.contains(&name), own(name), "{kind}: {changed:?}");
        }
        let total = report.total.unwrap();
        assert!(
            (total.kept - 1.0).abs() < 1e-6 && total.noise < 1e-6,
            "{kind}: {total:?}"
        );
        // from a base in memory the same
        let again = dir.path().join(format!("{i}-whole"));
        exported(
            &InMemory {
                player: &player,
                onto: None,
            },
            &again,
        );
        for file in ["model.safetensors", "config.json"] {
            let read = |dir: &std::path::Path| fs::read(dir.join(file)).unwrap();
            assert_eq!(read(&out), read(&again), "{kind}: {file}");
        }
    }
}

#[test]
fn a_gguf_and_a_4_bit_folder_have_the_heads_own_weight() {
    let (base, stream) = (base(tied()), stream(tied()));
    let dir = tempfile::tempdir().unwrap();
    let mut unheard = |_: &str, _: &Merged, _: &RoundTrip| Ok(());
    for (i, (kind, spec)) in kinds().into_iter().enumerate() {
        let player = trained(&base, spec);
        let (lora, params) = (player.lora.as_deref(), &player.params);
        let merging = FromDisk::new(&stream, lora, params, Onto::Dequantised).unwrap();
        let out = dir.path().join(format!("{i}.gguf"));
        let options = GgufOptions {
            quant: GgufQuant::F32,
            replace: false,
            name: "small".into(),
        };
        gguf(&merging, None, &out, &options, &mut unheard, &mut |_, _| {}).unwrap();
        let read = Player::bare(super::players::base(Source::Gguf(out)));
        assert!(apart(logps(&read), logps(&player)) < 1e-4, "{kind}");

        let out = dir.path().join(format!("{i}-bnb"));
        let options = BnbOptions {
            dtype: randori_engine::weights::Dtype::F32,
            ..BnbOptions::default()
        };
        bnb(&merging, &[], &out, &options, &mut unheard, &mut |_, _| {}).unwrap();
        let read = super::players::base(Source::Folder(out));
        let head = merging.read("lm_head.weight").unwrap().weight;
        let held = read.weights["lm_head.weight"].to_f32().unwrap();
        let values = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&held), values(&head), "{kind}: the head stays dense");
    }
}

/// An adapter that peft saved of such a player, with the names by which peft finds the same
/// modules.
#[test]
fn a_peft_adapter_names_the_head() {
    let base = base(tied());
    for (kind, spec) in kinds() {
        let player = trained(&base, spec);
        let dir = tempfile::tempdir().unwrap();
        peft::save(
            dir.path(),
            player.lora.as_ref().unwrap(),
            &player.params,
            "b",
        )
        .unwrap();
        let bytes = fs::read(dir.path().join(peft::CONFIG)).unwrap();
        let config: Value = serde_json::from_slice(&bytes).unwrap();
        let targets = config["target_modules"].as_array().unwrap();
        for target in targets {
            let target = target.as_str().unwrap();
            let pairs = peft::projections(&player.params);
            let found = pairs
                .iter()
                .filter(|p| *p == target || p.ends_with(&format!(".{target}")));
            assert!(found.count() > 0, "{kind}: {target} is nothing in peft");
            assert!(!target.contains("embed_tokens"), "{kind}");
        }
        let (spec, params) = peft::load(dir.path()).unwrap();
        let again = Player::with_adapter(base.clone(), spec, params).unwrap();
        assert_eq!(logps(&again), logps(&player), "{kind}");
    }
}

#[test]
fn a_gguf_lora_of_a_tied_head_is_refused() {
    let player = trained(&base(tied()), spec(&["q_proj", "lm_head"]));
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a.gguf");
    let options = GgufLoraOptions {
        replace: false,
        name: "a".into(),
    };
    let scale = |p: &str| player.lora.as_ref().unwrap().scale_of(p);
    let (config, family) = (&player.base.config, player.base.arch.family());
    let e = gguf_lora(&player.params, config, &family, &scale, &out, &options);
    let e = e.unwrap_err().to_string();
    assert!(
        e.contains("head and embedding are one tensor") && e.contains("gguf"),
        "{e}"
    );
    assert!(!out.exists());
}

/// Adapters of an earlier version, which stored a tied head's update under the embedding's name.
#[test]
fn an_update_under_the_embeddings_name_is_the_heads() {
    let player = trained(&base(tied()), spec(&["lm_head"]));
    let (mut old, mut params) = (spec(&["embed_tokens"]), (*player.params).clone());
    for part in ["lora_A", "lora_B"] {
        let t = params.remove(&format!("lm_head.{part}")).unwrap();
        params.insert(format!("model.embed_tokens.{part}"), t);
    }
    // as a run folder brings it back
    let bare = Player {
        base: player.base.clone(),
        lora: Some(Arc::new(old.clone())),
        params: Arc::new(params.clone()),
    };
    assert_eq!(logps(&bare), logps(&player));
    old.alpha = player.lora.as_ref().unwrap().alpha;
    let again = Player::with_adapter(player.base.clone(), old, params).unwrap();
    assert_eq!(
        again.params.keys().collect::<Vec<_>>(),
        ["lm_head.lora_A", "lm_head.lora_B"]
    );
    assert_eq!(logps(&again), logps(&player));
}

fn world() -> World {
    let w = World::new();
    let text = fs::read_to_string(w.dir().join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["tie_word_embeddings"] = true.into();
    w.file("config.json", &config.to_string());
    let recipe = fs::read_to_string(w.dir().join("r.toml")).unwrap();
    let lora = "kind = \"lora\"\nrank = 2\nalpha = 8.0\ntargets = [\"q_proj\", \"lm_head\"]";
    let recipe = recipe.replace("kind = \"full\"", lora);
    // the one step that there is has a rate
    w.file("r.toml", &format!("{recipe}[sft]\nwarmup = 0\n"));
    w
}

/// Training, export and scoring in the real program.
#[test]
fn an_export_scores_as_the_player() {
    let w = world();
    let set = [
        "--set",
        "sft.lr=5e-2",
        "--set",
        "sft.batch=4",
        "--set",
        "sft.warmup=0",
    ];
    let mut args = vec!["sft", "r.toml", "-o", "ad"];
    args.extend(set);
    let out = w.run(&args);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let said = out
        .stderr
        .lines()
        .find(|l| l.contains("projections adapted"));
    let said = said.unwrap();
    assert!(
        said.contains("lm_head 1, q_proj 2") && said.contains("share"),
        "{said}"
    );
    w.file(
        "p.jsonl",
        r#"{"prompt": "Reverse 8351.", "chosen": "The answer is 1538.", "rejected": "The answer is 8."}"#,
    );
    let score = |more: &[&str], out: &str| {
        let mut args = vec!["score", "r.toml", "-q", "--pairs", "p.jsonl", "-o", out];
        args.extend(more);
        w.accepted(&args);
        let row = fs::read_to_string(w.dir().join(out)).unwrap();
        let row: Value = serde_json::from_str(row.trim()).unwrap();
        ["ref_real", "ref_generated"].map(|k| row[k].as_f64().unwrap())
    };
    let player = score(&["--adapter", "ad"], "of-ad.jsonl");
    assert!(apart(player, score(&[], "bare.jsonl")) > 0.1);
    // a GGUF is told by its file's name
    for (to, out, more) in [
        ("hf", "hf", ["--dtype", "f32"]),
        ("gguf", "m.gguf", ["--quant", "f32"]),
    ] {
        let mut args = vec![
            "export",
            "r.toml",
            "--adapter",
            "ad",
            "--to",
            to,
            "--out",
            out,
            "-q",
        ];
        args.extend(more);
        w.accepted(&args);
        let source = format!("model.source={out}");
        // whoever only plays has no fresh adapter: the recipe's may be one of another model
        let set = [
            "--set",
            &source,
            "--set",
            "model.tokenizer=tokenizer",
            "--set",
            "adapter.targets=['embed_tokens']",
        ];
        let scored = score(&set, &format!("of-{to}.jsonl"));
        assert!(apart(scored, player) < 1e-3, "{to}");
    }
    let args = [
        "export",
        "r.toml",
        "--adapter",
        "ad",
        "--to",
        "peft",
        "--out",
        "peft",
        "-q",
    ];
    w.accepted(&args);
    assert_eq!(score(&["--adapter", "peft"], "of-peft.jsonl"), player);
    let args = [
        "export",
        "r.toml",
        "--adapter",
        "ad",
        "--to",
        "gguf-lora",
        "--out",
        "l.gguf",
    ];
    w.refused(&args, "head and embedding are one tensor");
}

/// An entry that matches nothing is a mistake, whatever stands beside it.
#[test]
fn an_entry_that_matches_nothing_is_named() {
    let w = world();
    let run = |set: &str, why: &str| {
        for verb in ["sft", "run"] {
            w.refused(&[verb, "r.toml", "--set", set], why);
        }
        w.refused(&["fit", "r.toml", "--set", set], why);
        w.nothing_written();
    };
    run(
        "adapter.targets=['q_proj', 'vproj']",
        "\"vproj\" of the adapter's targets (did you mean v_proj?)",
    );
    run("adapter.targets=['q_proj', 'regex:.*']", "must stand alone");
    run(
        "adapter.targets=['all-linear', 'lm_head']",
        "must stand alone",
    );
    run("adapter.targets='regex:.*qkv'", "no projection matches");
    run(
        "adapter.exclude=['mlp.q_proj']",
        "exclude (did you mean q_proj?)",
    );
    run(
        "adapter.rank_pattern=['o_proj=3']",
        "rank_pattern: \"o_proj\" matches no projection",
    );
    run(
        "adapter.alpha_pattern=['lm_haed=3']",
        "alpha_pattern: \"lm_haed\"",
    );
    run(
        "adapter.modules_to_save=['norms']",
        "no module norms (did you mean norm?)",
    );
    // an untied embedding is looked up
    let config = fs::read_to_string(w.dir().join("config.json")).unwrap();
    let untied = config.replace(
        "\"tie_word_embeddings\":true",
        "\"tie_word_embeddings\":false",
    );
    assert_ne!(config, untied);
    w.file("config.json", &untied);
    run(
        "adapter.targets=['q_proj', 'embed_tokens']",
        "looked up, not multiplied",
    );
}

/// Modules trained in full must be dense in the base: refused before a run begins, and by `fit`.
#[test]
fn what_the_base_holds_quantised_is_not_trained_in_full() {
    let w = World::new();
    let gguf = ["--to", "gguf", "--quant", "q8_0", "--out", "m.gguf"];
    w.accepted(&[&["export", "r.toml", "-q"][..], &gguf].concat());
    let of = |verb: &'static str, sets: &[&'static str]| {
        let sets = ["adapter.kind=qlora", "sft.warmup=0"].iter().chain(sets);
        let sets = sets.flat_map(|set| ["--set", *set]);
        [verb, "r.toml", "-q"]
            .into_iter()
            .chain(sets)
            .collect::<Vec<_>>()
    };
    let head = "adapter.modules_to_save=['lm_head']";
    let blocks = ["model.source=m.gguf", "adapter.quant=gguf", head];
    let down = ["adapter.modules_to_save=['down_proj']"];
    for verb in ["fit", "run", "sft"] {
        let line = w.refused(
            &of(verb, &blocks),
            "lm_head.weight is quantised in this base",
        );
        assert!(line.contains("adapter.modules_to_save"), "{line}");
        let why = "model.layers.0.mlp.down_proj.weight is quantised in this base";
        w.refused(&of(verb, &down), why);
    }
    w.nothing_written();
    // NF4 leaves the head dense
    w.accepted(&of("fit", &[head]));
}
