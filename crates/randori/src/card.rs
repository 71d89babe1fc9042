//! The model card: `README.md` of an exported folder, with the front matter that model hubs read,
//! and all that is known of how the player came about.

use std::path::Path;

use randori_lora::LoraSpec;
use randori_store::{Manifest, iteration_folder, read_json};
use serde_json::{Value, json};

use crate::recipe::{AdapterKind, Recipe};
use crate::request::Which;
use crate::session::short;

/// Measures of the table: title and key of `eval.json`.
const COLUMNS: [(&str, &str); 7] = [
    ("exact match", "exact_match"),
    ("NLL", "nll_real"),
    ("log p(real)", "logps_real"),
    ("log p(generated)", "logps_generated"),
    ("margin", "margin"),
    ("accuracy", "accuracy"),
    ("tokens", "generated_tokens"),
];

/// What a card is written from.
pub struct Card<'a> {
    /// The recipe it was trained with.
    pub recipe: &'a Recipe,
    /// The base.
    pub base_name: &'a str,
    /// The adapter's settings, if it is one.
    pub lora: Option<&'a LoraSpec>,
    /// The folder of the game and which of its players this is; `None` for a player from elsewhere.
    pub game: Option<(&'a Path, Which)>,
    /// What was written and how.
    pub form: String,
    /// How much of the update survived.
    pub fidelity: Option<String>,
    /// What else is to be known about it.
    pub remarks: Vec<String>,
}

impl Card<'_> {
    /// The whole text.
    pub fn text(&self) -> String {
        let mut out = self.front_matter();
        out += &format!("\n# {}\n\n{}\n", self.recipe.run.name, self.opening());
        out += &format!("\n## How to load it\n\n```python\n{}```\n", self.loading());
        let manifest = self.game.and_then(|(dir, _)| Manifest::read(dir).ok()?);
        if let (Some((dir, which)), Some(manifest)) = (self.game, &manifest) {
            let last = match which {
                Which::Iteration(t) => t + 1,
                Which::Start => 0,
            };
            out += &measures(dir, manifest, last);
            out += &self.lineage(manifest, last);
        }
        out += &format!("\n## How it was written\n\n{}.\n", self.form);
        let said = self.fidelity.iter().chain(&self.remarks);
        out.extend(said.map(|line| format!("\n{line}.\n")));
        out += &format!(
            "\n## Recipe\n\nResolved, defaults included.\n\n```toml\n{}\n```\n",
            self.recipe.canonical().trim()
        );
        out
    }

    fn is_adapter(&self) -> bool {
        self.form.contains("PEFT")
    }

    /// A model from a folder of this machine is known elsewhere by its name at most.
    fn base(&self) -> String {
        let (repo, _) = self
            .base_name
            .split_once('@')
            .unwrap_or((self.base_name, ""));
        let is_hub_id = repo.split('/').count() == 2
            && !repo.starts_with('.')
            && !self.recipe.path(repo).exists();
        if is_hub_id {
            repo.to_string()
        } else {
            short(repo)
        }
    }

    fn front_matter(&self) -> String {
        let mut tags = vec!["spin", "self-play", "randori"];
        match (self.recipe.adapter.kind, self.lora.is_some()) {
            (AdapterKind::Qlora, true) => tags.extend(["lora", "qlora"]),
            (_, true) => tags.push("lora"),
            (_, false) => {}
        }
        let (library, relation) = if self.is_adapter() {
            ("peft", "adapter")
        } else {
            ("transformers", "finetune")
        };
        let files = self.recipe.data.train.0.iter().map(|f| short(f));
        let list = |items: Vec<String>| -> String {
            // a JSON text is a YAML text
            items.iter().map(|i| format!("- {}\n", json!(i))).collect()
        };
        format!(
            "---\nbase_model: {}\nbase_model_relation: {relation}\nlibrary_name: {library}\npipeline_tag: text-generation\ntags:\n{}datasets:\n{}---\n",
            json!(self.base()),
            list(tags.into_iter().map(str::to_string).collect()),
            list(files.collect()),
        )
    }

    fn opening(&self) -> String {
        let kind = if self.is_adapter() {
            "An adapter for"
        } else {
            "A model made from"
        };
        let which = match self.game {
            Some((_, Which::Iteration(t))) => format!("the policy after iteration {t}"),
            Some((_, Which::Start)) => "the start, before the first iteration".into(),
            _ => "one player".into(),
        };
        format!(
            "{kind} {} by self-play fine-tuning (SPIN, arXiv 2401.01335) with randori {}: {which} of the run `{}`.\nThe policy learns to tell the data's responses from those of its opponent, a frozen earlier self.",
            self.base(),
            env!("CARGO_PKG_VERSION"),
            self.recipe.run.name
        )
    }

    fn loading(&self) -> String {
        let base = json!(self.base());
        if self.is_adapter() {
            return format!(
                "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\nbase = AutoModelForCausalLM.from_pretrained({base})\ntokenizer = AutoTokenizer.from_pretrained({base})\nmodel = PeftModel.from_pretrained(base, \".\")  # this folder\n"
            );
        }
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\nmodel = AutoModelForCausalLM.from_pretrained(\".\", dtype=\"auto\")  # this folder\ntokenizer = AutoTokenizer.from_pretrained(\".\")\n".into()
    }

    fn lineage(&self, manifest: &Manifest, iterations: usize) -> String {
        let mut out = String::from("\n## Lineage\n\n| what | SHA-256 |\n|---|---|\n");
        let base = format!("base {}", self.base());
        let hashes = manifest.hashes.iter();
        let rows: Vec<_> = hashes
            .map(|(name, hash)| {
                let version = manifest.versions.get(name);
                let version = version.map_or(String::new(), |v| format!(" {v}"));
                (spoken(name, &base) + &version, hash)
            })
            .collect();
        if !rows.iter().any(|(name, _)| name.starts_with("base ")) {
            out += &format!("| {base} | as the hub has it |\n");
        }
        out.extend(
            rows.iter()
                .map(|(name, hash)| format!("| {name} | `{hash}` |\n")),
        );
        out.push('\n');
        for t in 0..iterations {
            let opponent = match t.checked_sub(1) {
                None => "the start".to_string(),
                Some(before) => format!("the policy of iteration {before}"),
            };
            let hash = manifest
                .done(&iteration_folder(t), "policy")
                .map(|d| &d.sha256);
            let hash = hash.map_or(String::new(), |h| format!("; policy `{h}`"));
            out += &format!("- iteration {t}: opponent {opponent}{hash}\n");
        }
        out
    }
}

/// `data.train /some/folder/train.jsonl` -> `data.train train.jsonl`; `model.source FILE` -> the
/// base and its file.
fn spoken(name: &str, base: &str) -> String {
    let (kind, file) = name.split_once(' ').unwrap_or((name, ""));
    let file = short(file);
    match (kind, file.as_str()) {
        ("model.source", "") => base.to_string(),
        ("model.source", file) => format!("{base}: {file}"),
        (kind, file) => format!("{kind} {file}"),
    }
}

/// The start's and each iteration's held-out measures.
fn measures(dir: &Path, manifest: &Manifest, iterations: usize) -> String {
    let of = |place: &str| -> Option<Value> {
        let done = manifest.done(place, "eval")?;
        read_json(&dir.join(place).join(&done.file)).ok()
    };
    let labels = std::iter::once(("start".to_string(), "start".to_string()))
        .chain((0..iterations).map(|t| (iteration_folder(t), format!("iteration {t}"))));
    let rows: Vec<(String, Value)> = labels
        .filter_map(|(place, label)| Some((label, of(&place)?)))
        .collect();
    let has = |key: &str| rows.iter().any(|(_, v)| v[key].is_number());
    let columns: Vec<_> = COLUMNS.iter().filter(|(_, key)| has(key)).collect();
    if columns.is_empty() {
        return String::new();
    }
    let line = |first: &str, cells: Vec<String>| format!("| {first} | {} |\n", cells.join(" | "));
    let mut out = String::from("\n## Held-out measures\n\n");
    out += &line(
        "",
        columns.iter().map(|(title, _)| (*title).into()).collect(),
    );
    out += &line("---", columns.iter().map(|_| "---:".into()).collect());
    for (label, values) in &rows {
        let cell = |key: &str| {
            values[key]
                .as_f64()
                .map_or("-".into(), |v| format!("{v:.3}"))
        };
        out += &line(label, columns.iter().map(|(_, key)| cell(key)).collect());
    }
    out += "\nmargin and accuracy compare the data's responses with the opponent's; NLL is in nats per token.\n";
    out
}
