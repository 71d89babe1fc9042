//! How a player that was exported is loaded: lines to copy, one text for each form.

use std::path::Path;

use super::base::{Base, path_from};
use super::{Card, Form};
use crate::recipe::{AdapterKind, QuantKind, Recipe};
use crate::shell::quoted;

impl Card<'_> {
    /// The section's text.
    pub(super) fn loading(&self, base: &Base) -> String {
        match self.form {
            Form::Adapter => adapter(self.recipe, base, self.out),
            Form::Mlx => mlx(self.recipe, base, self.out),
            Form::Folder => folder(""),
            Form::Bnb => folder("It wants bitsandbytes: `pip install bitsandbytes`."),
            Form::Gguf => gguf(&self.recipe.run.name, self.out),
            Form::GgufLora => gguf_lora(&self.recipe.run.name, base, self.out),
        }
    }
}

fn fenced(language: &str, lines: &str) -> String {
    format!("```{language}\n{lines}```\n")
}

/// Loads a folder with a whole model.
fn folder(wants: &str) -> String {
    let wants = match wants {
        "" => String::new(),
        wants => format!("{wants}\n\n"),
    };
    let lines = "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
         model = AutoModelForCausalLM.from_pretrained(\".\", dtype=\"auto\")  # this folder\n\
         tokenizer = AutoTokenizer.from_pretrained(\".\")\n";
    wants + &fenced("python", lines)
}

/// Writes a base that has to be a folder as one.
fn written(base: &Base) -> String {
    let what = match base {
        Base::Random => {
            "The base is random weights, which Randori writes again; `recipe.toml` is the recipe \
             below"
        }
        Base::Gguf(_) => {
            "The base is a GGUF file, which Randori writes as a folder; `recipe.toml` is the recipe \
             below"
        }
        _ => "The base is inside Randori, which writes it",
    };
    let command = base.command("--to hf --dtype f32", "base");
    format!("{what}:\n\n{}\n", fenced("sh", &format!("{command}\n")))
}

/// Loads an adapter of mlx-lm onto its base.
fn mlx(recipe: &Recipe, base: &Base, out: &Path) -> String {
    let (text, from) = match base {
        Base::Hub { .. } | Base::Folder(_) => (String::new(), base.arguments(out)),
        _ => (written(base), "\"base\"".into()),
    };
    let lines = format!(
        "from mlx_lm import load\n\n\
         model, tokenizer = load({from}, adapter_path=\".\")  # this folder\n"
    );
    let mut text = text + &fenced("python", &lines);
    if is_nf4(recipe, base) {
        text += "\nA base without a `quantization_config` of its own was held in NF4 for the \
                 training, which mlx-lm does not have: on the base as it is, its answers differ a \
                 little from those measured here.\n";
    }
    text + &with_another(recipe)
}

/// Loads an adapter onto its base.
fn adapter(recipe: &Recipe, base: &Base, out: &Path) -> String {
    let mut text = match base {
        Base::Builtin(_) | Base::Random => written(base),
        _ => String::new(),
    };
    let from = base.arguments(out);
    text += &fenced(
        "python",
        &format!(
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
             base = AutoModelForCausalLM.from_pretrained({from})\n\
             model = PeftModel.from_pretrained(base, \".\")  # this folder\n\
             tokenizer = AutoTokenizer.from_pretrained({from})\n"
        ),
    );
    if base.is_local() {
        let name = base.name();
        text += &format!("\nThat is where the base, `{name}`, lay when this was written.\n");
    }
    if is_nf4(recipe, base) {
        let double = match recipe.adapter.double_quant {
            true => "True",
            false => "False",
        };
        text += &format!(
            "\nA base without a `quantization_config` of its own was held in NF4 for the training; \
             `quantization_config=BitsAndBytesConfig(load_in_4bit=True, \
             bnb_4bit_quant_type=\"nf4\", bnb_4bit_use_double_quant={double})` loads it so.\n"
        );
    }
    text + &with_another(recipe)
}

/// Whether the base was held in NF4 for the training, unless its own files are in few bits.
/// Of a base on the hub they may not be at hand, so the texts say both.
fn is_nf4(recipe: &Recipe, base: &Base) -> bool {
    let adapter = &recipe.adapter;
    let is_file = matches!(base, Base::Gguf(_));
    (adapter.kind, adapter.quant) == (AdapterKind::Qlora, QuantKind::Nf4) && !is_file
}

/// In what the training's tokenizer and chat template differ from the base's.
fn with_another(recipe: &Recipe) -> String {
    let mut text = String::new();
    let others: Vec<&str> = [
        ("tokenizer", recipe.model.tokenizer.is_some()),
        ("chat template", recipe.model.chat_template.is_some()),
    ]
    .into_iter()
    .filter_map(|(what, other)| other.then_some(what))
    .collect();
    if !others.is_empty() {
        text += &format!(
            "\nIt was trained with another {} than the base's; a folder of `randori export --to hf` \
             has it.\n",
            others.join(" and ")
        );
    }
    text
}

/// The folder that a file is to lie in.
fn above(out: &Path) -> &Path {
    let above = out.parent().filter(|path| !path.as_os_str().is_empty());
    above.unwrap_or(Path::new("."))
}

fn name_of(out: &Path) -> String {
    let name = out.file_name().unwrap_or_default();
    quoted(&name.to_string_lossy())
}

/// Ollama's command for the Modelfile beside a file.
fn ollama(name: &str, out: &Path) -> String {
    let modelfile = name_of(&out.with_extension("Modelfile"));
    format!("ollama create {name} -f {modelfile} && ollama run {name}")
}

/// Runs a GGUF file.
fn gguf(name: &str, out: &Path) -> String {
    let file = name_of(out);
    fenced(
        "sh",
        &format!(
            "llama-cli -m {file}  # llama.cpp\n{}\n",
            ollama(&quoted(name), out)
        ),
    )
}

/// Runs a GGUF adapter on its base.
fn gguf_lora(name: &str, base: &Base, out: &Path) -> String {
    let file = name_of(out);
    let (before, model) = match base {
        Base::Gguf(path) => (String::new(), quoted(&path_from(above(out), path))),
        _ => {
            let command = base.command("--to gguf --quant f16", "base.gguf");
            (format!("{command}\n"), "base.gguf".into())
        }
    };
    // Ollama reads a base that is a file or a folder here
    let ollama = match base.is_local() {
        true => ollama(&quoted(name), out) + "\n",
        false => String::new(),
    };
    let lines = format!("{before}llama-cli -m {model} --lora {file}  # llama.cpp\n{ollama}");
    let said = match base {
        Base::Gguf(_) => "",
        Base::Builtin(_) => "The first line writes the base, which is inside Randori.\n\n",
        _ => "The first line writes the base as a GGUF; `recipe.toml` is the recipe below.\n\n",
    };
    said.to_string() + &fenced("sh", &lines)
}
