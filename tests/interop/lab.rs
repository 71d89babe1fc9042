//! Setup of the comparison: its folder, the real `randori`, Python, and Randori's results written
//! to files for Python.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use candle_core::{DType, Device, Tensor};
use randori_data::{Message, Tokenizer};
use randori_engine::{
    Base, Player,
    weights::{LoadOptions, Source},
};
use serde_json::{Value, json};

use crate::model;

/// Tokens that follow a prompt, the likeliest each time.
const GREEDY: usize = 24;

/// One of the models that are compared.
#[derive(Clone)]
pub struct Model {
    pub name: String,
    /// Its Hugging Face folder.
    pub hf: PathBuf,
    /// Results of other programs.
    pub peers: PathBuf,
    pub base: Arc<Base>,
    /// Compared position by position; longer than the windows.
    pub tokens: Vec<u32>,
    /// A chat prompt.
    pub prompt: Vec<u32>,
}

impl Model {
    /// Projections as the model names them, each once: some families hold queries, keys and values
    /// in one, or gate and up.
    pub fn projections(&self, names: &[&'static str]) -> Vec<&'static str> {
        let whole = |name: &str| {
            let mut weights = self.base.weights.keys();
            weights.any(|full| full.ends_with(&format!(".{name}.weight")))
        };
        let mut found = Vec::new();
        for &name in names {
            let held = match name {
                "q_proj" | "k_proj" | "v_proj" if whole("qkv_proj") => "qkv_proj",
                "gate_proj" | "up_proj" if whole("gate_up_proj") => "gate_up_proj",
                name => name,
            };
            if !found.contains(&held) {
                found.push(held);
            }
        }
        found
    }

    /// A pattern's values by projection, as the model names them; of several the first counts.
    pub fn pattern<T: Copy>(&self, values: &[(&'static str, T)]) -> Vec<(&'static str, T)> {
        let mut found: Vec<(&str, T)> = Vec::new();
        for &(name, value) in values {
            let held = self.projections(&[name])[0];
            if !found.iter().any(|(other, _)| *other == held) {
                found.push((held, value));
            }
        }
        found
    }

    /// Whether its head is its embedding.
    pub fn tied(&self) -> bool {
        self.base.config["tie_word_embeddings"] == true
    }
}

pub struct Lab {
    pub out: PathBuf,
    python: PathBuf,
    smollm2: Option<PathBuf>,
    cases: Vec<Value>,
}

impl Lab {
    /// Finds the inputs and fails where one is missing, since this test is run only to compare with
    /// other programs. `whole`: with SmolLM2, unless RANDORI_SMOLLM2 is "none".
    pub fn find(name: &str, whole: bool) -> Lab {
        let named = |key: &str, what: &str| {
            std::env::var_os(key)
                .map(PathBuf::from)
                .unwrap_or_else(|| panic!("{key} does not name {what}"))
        };
        let python = named(
            "RANDORI_PYTHON",
            "an interpreter with the packages of tests/interop/requirements.txt",
        );
        let smollm2 =
            whole.then(|| named("RANDORI_SMOLLM2", "SmolLM2's GGUF, and is not \"none\""));
        let smollm2 = smollm2.filter(|path| path.as_os_str() != "none");
        for path in [Some(&python), smollm2.as_ref()].into_iter().flatten() {
            assert!(path.exists(), "{} is not there", path.display());
        }
        let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::remove_dir_all(&out).ok();
        fs::create_dir_all(&out).unwrap();
        Lab {
            out,
            python,
            smollm2,
            cases: Vec::new(),
        }
    }

    /// Runs a script of tests/interop.
    pub fn python(&self, script: &str, args: &[&Path]) {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop");
        let start = std::time::Instant::now();
        let status = Command::new(&self.python)
            .args(["-W", "ignore"])
            .env("TQDM_DISABLE", "1")
            .arg(scripts.join(script))
            .args(args)
            .status()
            .unwrap();
        println!("{script}: {:.0} s", start.elapsed().as_secs_f64());
        assert!(status.success(), "{script} failed");
    }

    /// The real program; what it printed.
    pub fn randori(&self, args: &[&str]) -> String {
        let out = Command::new(env!("CARGO_BIN_EXE_randori"))
            .args(args)
            .current_dir(&self.out)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            out.status.success(),
            "randori {}\n{}{}",
            args.join(" "),
            text(&out.stdout),
            text(&out.stderr)
        );
        text(&out.stdout)
    }

    /// A recipe that names the model: what `randori export` starts from. Its own name becomes the
    /// GGUF's; transformers 5.23 takes a GGUF with "mistral" in that for an architecture that
    /// gguf-py does not know, and refuses it.
    fn recipe(&self, name: &str, source: &Path) {
        let text = format!(
            "name = \"interop\"\n[model]\nsource = {source:?}\n[data]\ntrain = \"builtin:demo\"\n[adapter]\nkind = \"lora\"\n"
        );
        fs::write(self.out.join(format!("{name}.toml")), text).unwrap();
    }

    /// `randori export` of a model with an adapter, or bare, into `model/to`; the path of what was
    /// written.
    pub fn export(
        &self,
        model: &Model,
        adapter: Option<&Path>,
        to: &str,
        options: &[&str],
    ) -> PathBuf {
        let out = self.out.join(&model.name).join(to);
        fs::create_dir_all(out.parent().unwrap()).unwrap();
        let recipe = format!("{}.toml", model.name);
        let mut args = vec!["export", &recipe, "--quiet", "--out", path(&out)];
        if let Some(adapter) = adapter {
            args.extend(["--adapter", path(adapter)]);
        }
        args.extend(options);
        self.randori(&args);
        out
    }

    /// Models, and what other programs made of them; SmolLM2's folder is our own export of its
    /// GGUF.
    pub fn make_inputs(&self) {
        let mut args = vec![self.out.clone()];
        if let Some(gguf) = &self.smollm2 {
            self.recipe("smollm2", gguf);
            let hf = self.out.join("smollm2/hf");
            fs::create_dir_all(self.out.join("smollm2")).unwrap();
            self.randori(&[
                "export",
                "smollm2.toml",
                "--quiet",
                "--to",
                "hf",
                "--dtype",
                "f32",
                "--out",
                path(&hf),
            ]);
            args.push(hf);
        }
        let args: Vec<&Path> = args.iter().map(PathBuf::as_path).collect();
        self.python("inputs.py", &args);
    }

    /// Every model, loaded.
    pub fn models(&self) -> Vec<Model> {
        let mut names = vec![
            "llama",
            "llama-tied",
            "llama3",
            "mistral",
            "qwen2",
            "qwen3",
            "gemma2",
            "gemma3",
            "glm4",
            "olmo2",
            "olmo3",
            "smollm3",
            "granite",
            "ministral3",
            "cohere2",
            "phi3",
        ];
        names.extend(self.smollm2.as_ref().map(|_| "smollm2"));
        names.into_iter().map(|name| self.model(name)).collect()
    }

    fn model(&self, name: &str) -> Model {
        let hf = self.out.join(name).join("hf");
        self.recipe(name, &hf);
        let peers = self.out.join(name).join("peers.safetensors");
        let chat = [Message::user("How many legs have 3 spiders and 2 birds?")];
        Model {
            base: model::load(Source::Folder(hf.clone()), &LoadOptions::default()),
            tokens: ids(&tensors(&peers)["tokens"]),
            prompt: Tokenizer::from_folder(&hf).unwrap().prompt(&chat).unwrap(),
            name: name.to_string(),
            hf,
            peers,
        }
    }

    /// Writes what a player computes: logits at every token, and its greedy text after the prompt.
    pub fn record(&self, model: &Model, kind: &str, player: &Player, tokens: &[u32]) -> PathBuf {
        let logits: Vec<f32> = model::cached(player, tokens, &vec![1; tokens.len()])
            .into_iter()
            .flatten()
            .map(|v| v as f32)
            .collect();
        let logits = Tensor::from_vec(logits, (tokens.len(), ()), &Device::Cpu).unwrap();
        let list = |ids: &[u32]| {
            let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
            Tensor::new(ids, &Device::Cpu).unwrap()
        };
        self.save(
            model,
            &format!("ours/{kind}.safetensors"),
            &HashMap::from([
                ("tokens".to_string(), list(tokens)),
                ("logits".to_string(), logits),
                ("prompt".to_string(), list(&model.prompt)),
                (
                    "greedy".to_string(),
                    list(&model::greedy(player, &model.prompt, GREEDY)),
                ),
            ]),
        )
    }

    /// Tensors for Python, under the model's folder.
    pub fn save(&self, model: &Model, file: &str, tensors: &HashMap<String, Tensor>) -> PathBuf {
        let place = self.out.join(&model.name).join(file);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        candle_core::safetensors::save(tensors, &place).unwrap();
        place
    }

    /// One comparison for check.py; none through transformers' reader of GGUF where it does not
    /// know the family, or takes no small vocabulary (Phi-3: 32000 is its padding).
    pub fn case(&mut self, check: &str, what: &str, model: &Model, limit: f64, more: Value) {
        let reads_gguf = ["gguf_in_transformers", "gguf_logits"].contains(&check);
        let unknown = [
            "glm4",
            "olmo2",
            "olmo3",
            "smollm3",
            "granite",
            "ministral3",
            "cohere2",
            "phi3",
        ];
        if reads_gguf && unknown.contains(&model.name.as_str()) {
            return;
        }
        let mut case = json!({ "check": check, "what": what, "model": model.name, "limit": limit });
        for (key, value) in more.as_object().unwrap() {
            case[key] = value.clone();
        }
        self.cases.push(case);
    }

    /// Compares everything and prints the table; what was compared, some 8 GB, stays only where
    /// something differs.
    pub fn check(&self) {
        let cases = self.out.join("cases.json");
        fs::write(&cases, serde_json::to_vec_pretty(&self.cases).unwrap()).unwrap();
        self.python("check.py", &[&cases]);
        fs::remove_dir_all(&self.out).unwrap();
    }
}

/// A source's weights, as Randori holds them, in f32.
pub fn weights(source: Source) -> HashMap<String, Tensor> {
    let base = model::load(source, &LoadOptions::default());
    model::dense(&base).into_iter().collect()
}

fn tensors(file: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(file, &Device::Cpu).unwrap()
}

fn ids(t: &Tensor) -> Vec<u32> {
    t.to_dtype(DType::U32).unwrap().to_vec1().unwrap()
}

fn path(p: &Path) -> &str {
    p.to_str().unwrap()
}
