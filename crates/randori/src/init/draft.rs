//! A recipe before it is written: what is decided of it, and its text.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use randori_data::Columns;

use super::lengths::Lengths;
use super::page::{Given, Page};
use crate::aim::Aim;
use crate::escape::escaped;
use crate::recipe::{AUTO_MOST, Recipe, toml_text};

/// More tokens than any window has: a limit while lengths are looked at.
const UNLIMITED: usize = 1 << 24;
/// Answers decoded at a time, at most: more are not faster.
pub const SLOTS: usize = 64;
/// A set to measure on is cut to so many examples.
const MEASURED: usize = 64;

/// How a base is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// As the GGUF file's own blocks.
    Blocks,
    /// In f32.
    F32,
    /// In bf16.
    Bf16,
    /// Its projections in 4-bit NormalFloat, the rest in bf16.
    Nf4,
}

/// What decides memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// `data.max_prompt_tokens`
    pub prompt: usize,
    /// `data.max_response_tokens`, and that of answers.
    pub response: usize,
    /// The base.
    pub held: Held,
    /// `train.checkpoint`
    pub checkpoint: bool,
    /// `train.micro_batch_tokens`
    pub micro_batch: usize,
    /// `generate.batch`
    pub slots: usize,
}

impl Sizes {
    /// With which all examples are read.
    const READING: Sizes = Sizes {
        prompt: UNLIMITED,
        response: UNLIMITED,
        held: Held::F32,
        checkpoint: false,
        micro_batch: 256,
        slots: 1,
    };
}

/// A recipe's keys, as far as they are not defaults.
#[derive(Clone, Debug)]
pub struct Draft {
    /// What it is for.
    pub aim: Aim,
    /// Where it will be written.
    pub file: PathBuf,
    /// `name`
    pub name: String,
    /// `model.source`
    pub model: String,
    /// Whether the model has no chat template.
    pub plain: bool,
    /// Whether passes run on a GPU.
    pub card: bool,
    /// `data.train`
    pub data: String,
    /// Whether that has a split of its own to validate on, and one to measure on.
    pub splits: [bool; 2],
    /// `data.columns`
    pub columns: Columns,
    /// `data.format`, where it says that rows are pairs
    pub format: Option<&'static str>,
    /// Whether rows that are no example are left out.
    pub drops: bool,
    /// Whether each answer of a conversation is an example.
    pub every: bool,
    /// Rows that are longer than the model's window.
    pub beyond: usize,
    /// `eval.answer`
    pub answer: &'static str,
    /// Pairs or examples in a step.
    pub batch: usize,
    /// Examples to measure on.
    pub held_out: usize,
    /// What decides memory.
    pub sizes: Sizes,
    /// The lengths that the limits were chosen by.
    pub lengths: Option<Lengths>,
    /// Keys that the user gives a value, as `--set` has them; they go before what is decided.
    pub set: Vec<String>,
    /// Whether every weight is trained, since the user says so.
    pub full: bool,
}

/// The key that `section.key=value` gives a value; of `data.columns.prompt` that is
/// `data.columns`, which holds it.
fn given_key(text: &str) -> &str {
    let name = text.split('=').next().unwrap_or(text).trim();
    match name.match_indices('.').nth(1) {
        Some((end, _)) => &name[..end],
        None => name,
    }
}

impl Draft {
    /// Of a model and data that nobody has looked at.
    pub fn new(aim: Aim, file: PathBuf, name: String, model: String, data: String) -> Draft {
        Draft {
            aim,
            file,
            name,
            model,
            plain: false,
            card: false,
            data,
            splits: [false; 2],
            columns: Columns::default(),
            format: None,
            drops: false,
            every: false,
            beyond: 0,
            answer: "none",
            batch: 1,
            held_out: 0,
            sizes: Sizes::READING,
            lengths: None,
            set: Vec::new(),
            full: false,
        }
    }

    /// Whether the user gives this key, or one of these, a value.
    pub fn sets(&self, keys: &[&str]) -> bool {
        let mut given = self.set.iter().map(|text| given_key(text));
        given.any(|given| keys.contains(&given))
    }

    /// The recipe that the text is; errors name no place in a file that is not there.
    ///
    /// # Errors
    /// As [`Recipe::parse`]: columns that are not read, keys of `--set` that cannot be.
    pub fn recipe(&self) -> Result<Recipe> {
        for (key, whose) in [
            ("model.source", "MODEL says it"),
            ("data.train", "DATA says it"),
            ("root", "paths start from where the recipe is written"),
        ] {
            if self.sets(&[key]) {
                bail!("--set {key}=…: {whose}; leave it out");
            }
        }
        let folder = self.file.parent().unwrap_or(Path::new(""));
        let text = self.page(Vec::new());
        let mut recipe = Recipe::parse("init", &text, folder, &self.set).map_err(|error| {
            match error.place.starts_with("--set") {
                true => anyhow::Error::from(error),
                false => anyhow!("--columns: {}", error.rule),
            }
        })?;
        recipe.stands_nowhere("init");
        Ok(recipe)
    }

    /// The file's text.
    ///
    /// # Errors
    /// As [`Draft::recipe`].
    pub fn text(&self) -> Result<String> {
        let values = self.recipe()?.values();
        let mut given: Vec<Given> = Vec::new();
        for key in self.set.iter().map(|text| given_key(text)) {
            let (section, name) = key.split_once('.').unwrap_or(("", key));
            let value = values.get(key).map(|value| Given {
                section: section.to_owned(),
                key: name.to_owned(),
                value: value.clone(),
            });
            given.extend(value.filter(|value| !given.contains(value)));
        }
        Ok(self.page(given))
    }

    /// The file's text with these values.
    fn page(&self, given: Vec<Given>) -> String {
        let mut page = Page::with(given);
        self.head(&mut page);
        self.model(&mut page);
        self.data(&mut page);
        self.adapter(&mut page);
        self.training(&mut page);
        if self.aim != Aim::Dpo {
            self.eval(&mut page);
        }
        page.text()
    }

    fn head(&self, page: &mut Page) {
        let shown = self.file.display().to_string();
        let file = escaped(&shown);
        let (what, command) = match self.aim {
            Aim::Sft => (
                "Supervised fine-tuning, and no game.",
                format!("randori sft {file}"),
            ),
            Aim::Spin => (
                "Supervised fine-tuning on the data, then the game on the same data (SPIN, arXiv \
                 2401.01335).",
                format!("randori run {file}"),
            ),
            Aim::Dpo => (
                "Preference pairs: with the loss `spin`, and the model itself as the reference, \
                 this is DPO.",
                format!("randori train {file} --out FOLDER"),
            ),
        };
        page.say(what);
        page.say(&format!("  {command}"));
        page.say(
            "Made by `randori init`. Every other key has its default: docs/reference/recipe.md.",
        );
        page.key(
            "name",
            toml_text(&self.name),
            "its run folder is named after it",
        );
    }

    fn model(&self, page: &mut Page) {
        page.section("model");
        page.key("source", toml_text(&self.model), "what is trained");
        if self.plain {
            let why = "it has no chat template: texts are taken as they are";
            page.key("chat_template", toml_text("plain"), why);
        }
        if matches!(self.sizes.held, Held::Bf16 | Held::Nf4) {
            let why = "weights that are not quantised, in half the memory of f32";
            page.key("dtype", toml_text("bf16"), why);
        }
        if self.card {
            page.key("device", toml_text("cuda"), "passes run on the GPU");
        }
    }

    fn data(&self, page: &mut Page) {
        let source = toml_text(&self.data);
        page.section("data");
        let what = match self.aim {
            Aim::Dpo => "prompts with two answers each, the better one first",
            Aim::Sft | Aim::Spin => "prompts and answers",
        };
        page.key("train", &source, what);
        if let Some(format) = self.format {
            page.key("format", toml_text(format), "its rows are pairs");
        }
        let [validation, held_out] = self.splits;
        if validation {
            page.key("validation", &source, "the same data set's own split");
        }
        if held_out && self.aim != Aim::Dpo {
            page.key("held_out", &source, "only measured on: its own split");
        }
        if !self.columns.0.is_empty() {
            let each = self.columns.0.iter();
            let each = each.map(|(own, theirs)| format!("{own} = {}", toml_text(theirs)));
            let each: Vec<String> = each.collect();
            let table = format!("{{ {} }}", each.join(", "));
            page.key("columns", table, "which column is read as what");
        }
        if self.drops {
            let why = "rows that are no example are left out, and counted";
            page.key("bad_rows", toml_text("drop"), why);
        }
        if self.every {
            let why = "conversations have several answers: each is trained";
            page.key("turns", toml_text("every"), why);
        }
        let of_which = match self.beyond {
            0 => "",
            _ => " (of the rows within the model's window)",
        };
        let [prompts, responses] = match &self.lengths {
            Some(lengths) => {
                [&lengths.prompts, &lengths.responses].map(|of| format!("{}{of_which}", of.words()))
            }
            None => Default::default(),
        };
        page.key("max_prompt_tokens", self.sizes.prompt, &prompts);
        page.key("max_response_tokens", self.sizes.response, &responses);
        let measured = ["data.validation", "data.held_out", "data.validation_share"];
        if self.splits == [false; 2] && !self.sets(&measured) {
            page.say(
                "validation: 5 % of the rows (16 prompts at least) are kept aside by themselves",
            );
        }
    }

    fn adapter(&self, page: &mut Page) {
        page.section("adapter");
        let (kind, quant) = match self.sizes.held {
            Held::Blocks => (
                "qlora",
                Some(("gguf", "the weights stay the file's own blocks")),
            ),
            Held::Nf4 => ("qlora", Some(("nf4", "the weights are held in 4 bits"))),
            Held::F32 | Held::Bf16 => ("lora", None),
        };
        page.key(
            "kind",
            toml_text(kind),
            "a small update is trained, the weights stay",
        );
        if let Some((quant, why)) = quant {
            page.key("quant", toml_text(quant), why);
        }
        if !self.full {
            page.key("rank", 16, "the update's size: more can hold more");
            page.key(
                "alpha",
                "32.0",
                "its strength: it is scaled by alpha / rank",
            );
        }
    }

    fn training(&self, page: &mut Page) {
        let sizes = &self.sizes;
        if self.aim != Aim::Dpo {
            page.section("sft");
            let why = match self.aim {
                Aim::Spin => "passes over the data before the game; 0 where the model knows it",
                Aim::Sft | Aim::Dpo => "passes over the data",
            };
            page.key("epochs", 1, why);
            page.key("lr", "2e-4", "learning rate");
            page.key("batch", self.batch, "examples in a step");
        }
        page.section("generate");
        let longest = match self.aim {
            Aim::Spin => "longest answer, as the data's",
            Aim::Sft | Aim::Dpo => "longest answer in `chat` and `eval`, as the data's",
        };
        page.key("max_new_tokens", sizes.response, longest);
        let most = |reached| match reached {
            true => "more are not faster",
            false => "memory decides",
        };
        let why = format!("answers decoded at a time; {}", most(sizes.slots >= SLOTS));
        page.key("batch", sizes.slots, &why);
        if self.aim != Aim::Sft {
            page.section("loss");
            page.key(
                "name",
                toml_text("spin"),
                "others: docs/reference/losses.md",
            );
            page.key("beta", "0.1", "how strongly it holds to where it starts");
        }
        page.section("train");
        if self.aim != Aim::Sft {
            page.key("lr", "2e-5", "learning rate");
            page.key("batch", self.batch, "pairs in a step");
        }
        let reached = sizes.micro_batch >= AUTO_MOST;
        let why = format!("tokens computed at a time; {}", most(reached));
        page.key("micro_batch_tokens", sizes.micro_batch, &why);
        if sizes.checkpoint {
            let why = "less memory for a third more time";
            page.key("checkpoint", true, why);
        }
        if self.aim == Aim::Spin {
            page.section("game");
            let why = "raise it and run again: the run goes on";
            page.key("iterations", 1, why);
        }
    }

    fn eval(&self, page: &mut Page) {
        page.section("eval");
        if self.held_out > MEASURED {
            let why = "so many examples are measured on";
            page.key("limit", MEASURED, why);
        }
        page.key("seeds", "[1]", "one sampled answer to each");
        let why = match self.answer {
            "none" => "answers are shown, not checked",
            "exact" => "right is the same text",
            _ => "right is what follows the last \"####\", as a number",
        };
        page.key("answer", toml_text(self.answer), why);
    }
}
