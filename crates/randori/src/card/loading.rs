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

/// Loads an adapter onto its base.
fn adapter(recipe: &Recipe, base: &Base, out: &Path) -> String {
    let mut text = match base {
        Base::Builtin(_) | Base::Random => {
            let what = match base {
                Base::Random => {
                    "The base is random weights, which Randori writes again; `recipe.toml` is the \
                     recipe below"
                }
                _ => "The base is inside Randori, which writes it",
            };
            let command = base.command("--to hf --dtype f32", "base");
            format!("{what}:\n\n{}\n", fenced("sh", &format!("{command}\n")))
        }
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
    text + &trained_on(recipe, base)
}

/// In what the training's base and tokenizer differ from what `from_pretrained` gives.
fn trained_on(recipe: &Recipe, base: &Base) -> String {
    let mut text = String::new();
    let adapter = &recipe.adapter;
    let is_file = matches!(base, Base::Gguf(_));
    if (adapter.kind, adapter.quant) == (AdapterKind::Qlora, QuantKind::Nf4) && !is_file {
        let double = match adapter.double_quant {
            true => "True",
            false => "False",
        };
        text += &format!(
            "\nIt was trained on the base in NF4; `quantization_config=BitsAndBytesConfig(\
             load_in_4bit=True, bnb_4bit_quant_type=\"nf4\", bnb_4bit_use_double_quant={double})` \
             loads it so.\n"
        );
    }
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
