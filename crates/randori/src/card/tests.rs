//! What a card says of a player, and how it says to load what was exported.

use super::*;
use crate::provenance::Provenance;
use crate::provenance::tests::training;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn recipe(sets: &[&str]) -> Recipe {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_string()).collect();
    Recipe::without_file(&sets).unwrap()
}

fn text(recipe: &Recipe, made: Provenance, form: Form, out: &Path) -> String {
    let learnt = Learnt {
        provenance: made,
        ..Learnt::nothing("")
    };
    let card = Card {
        recipe,
        learnt: &learnt,
        game: None,
        form,
        out,
        how: "A PEFT adapter".into(),
        fidelity: None,
        remarks: Vec::new(),
        is_recipe_of_training: false,
    };
    card.text().unwrap()
}

/// An adapter from elsewhere: what the record says, whatever the recipe of the export trains on.
#[test]
fn the_card_tells_what_trained_it_and_not_what_the_recipe_would() {
    let source = format!("model.source=org/name@{COMMIT}");
    let recipe = recipe(&[&*source, "data.train=other.jsonl", "name=e"]);
    let own = Training {
        data: vec![crate::provenance::Input {
            name: "org/set@v1:train data/train-0.parquet".into(),
            id: "ab12".into(),
        }],
        ..training()
    };
    let game = Provenance(vec![Origin::Game(own)]);
    let out = Path::new("adapter");
    let card = text(&recipe, game, Form::Adapter, out);
    let front = card.split("---\n").nth(1).unwrap();
    assert_eq!(
        front,
        "base_model: \"org/name\"\nbase_model_relation: adapter\nlibrary_name: peft\n\
         pipeline_tag: text-generation\ntags:\n- \"randori\"\n- \"spin\"\n- \"self-play\"\n\
         datasets:\n- \"org/set\"\n"
    );
    let seed = u64::MAX;
    for wanted in [
        &*format!("iteration 1 of the run `r`, seed {seed}, the player after training 1"),
        &*format!(
            "base = AutoModelForCausalLM.from_pretrained(\"org/name\", revision=\"{COMMIT}\")"
        ),
        "model = PeftModel.from_pretrained(base, \".\")  # this folder\n",
        "loss spin (beta = 0.1); learning rate 1e-3, epochs 2",
        "what trained the player is told above",
    ] {
        assert!(card.contains(wanted), "{wanted}\n{card}");
    }
    let before_recipe = card.split("## Recipe").next().unwrap();
    assert!(!before_recipe.contains("other.jsonl"), "{card}");

    let card = text(
        &recipe,
        Provenance(vec![Origin::Unknown]),
        Form::Adapter,
        out,
    );
    assert!(card.contains("An adapter for org/name, trained in a way that is not recorded"));
    assert!(card.contains("1. unknown: ") && !card.contains("datasets:"));
    assert!(!card.contains("self-play"), "{card}");

    let bare = text(&recipe, Provenance::default(), Form::Folder, out);
    assert!(bare.contains("org/name itself") && bare.contains("Nothing: it is the base."));
}

#[test]
fn each_form_is_loaded_in_its_own_way() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    std::fs::write(at("m.gguf"), "GGUF").unwrap();
    std::fs::create_dir(at("model")).unwrap();
    let made = || Provenance(vec![Origin::Game(training())]);
    let card = |source: &str, more: &[&str], form, out: &str| {
        let source = format!("model.source={source}");
        let recipe = recipe(&[&[&*source, "name=n"][..], more].concat());
        text(&recipe, made(), form, &at(out))
    };
    let local = |name: &str| at(name).to_str().unwrap().to_string();
    let has = |card: &str, lines: &str| assert!(card.contains(lines), "{lines}\n{card}");

    let onto_gguf = card(&local("m.gguf"), &[], Form::Adapter, "a");
    has(
        &onto_gguf,
        "base = AutoModelForCausalLM.from_pretrained(\"..\", gguf_file=\"m.gguf\")\n",
    );
    has(
        &onto_gguf,
        "tokenizer = AutoTokenizer.from_pretrained(\"..\", gguf_file=\"m.gguf\")\n",
    );
    // a folder of this machine is no model of the hub
    assert!(!onto_gguf.contains("base_model"), "{onto_gguf}");

    let more = ["adapter.kind=qlora", "model.chat_template=plain"];
    let onto_folder = card(&local("model"), &more, Form::Adapter, "a");
    has(&onto_folder, "from_pretrained(\"../model\")\n");
    has(
        &onto_folder,
        "bnb_4bit_use_double_quant=True)` loads it so.",
    );
    has(&onto_folder, "with another chat template than the base's");

    let onto_own = card("builtin:demo", &[], Form::Adapter, "a");
    has(
        &onto_own,
        "```sh\nrandori export builtin:demo --to hf --dtype f32 --out base\n```\n",
    );
    has(&onto_own, "AutoTokenizer.from_pretrained(\"base\")\n");

    let mlx = card("org/name", &[], Form::Mlx, "a");
    has(
        &mlx,
        "load(\"org/name\", adapter_path=\".\")  # this folder\n",
    );
    has(&mlx, "library_name: mlx\n");
    let mlx_onto_gguf = card(&local("m.gguf"), &[], Form::Mlx, "a");
    has(&mlx_onto_gguf, "--to hf --dtype f32 --out base\n");
    has(&mlx_onto_gguf, "load(\"base\", adapter_path");

    has(
        &card("builtin:demo", &[], Form::Folder, "f"),
        "from_pretrained(\".\", dtype=\"auto\")  # this folder\n",
    );
    has(
        &card("builtin:demo", &[], Form::Bnb, "f"),
        "`pip install bitsandbytes`",
    );
    has(
        &card("builtin:demo", &[], Form::Gguf, "my model.gguf"),
        "```sh\nllama-cli -m 'my model.gguf'  # llama.cpp\n\
         ollama create n -f 'my model.Modelfile' && ollama run n\n```\n",
    );
    has(
        &card(&local("m.gguf"), &[], Form::GgufLora, "a.gguf"),
        "```sh\nllama-cli -m m.gguf --lora a.gguf  # llama.cpp\nollama create n",
    );
    let lora = card("org/name", &[], Form::GgufLora, "a.gguf");
    has(
        &lora,
        "```sh\nrandori export recipe.toml --set 'adapter.init=[]' --to gguf --quant f16 \
         --out base.gguf\nllama-cli -m base.gguf --lora a.gguf  # llama.cpp\n```\n",
    );
}
