//! The real program in a temporary folder, with a small recipe, data and a model that the program
//! made.
#![allow(dead_code)] // each test program uses a part
#![allow(clippy::unwrap_used)] // helpers of tests, though not tests themselves

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder with `r.toml` (full training of a tiny random Llama, one short iteration) and
/// `data.jsonl`.
pub struct World {
    dir: tempfile::TempDir,
}

/// Result of a command.
pub struct Out {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

const RECIPE: &str = r#"
name = "r"
seed = 1
[model]
source = "random:config.json"
tokenizer = "tokenizer"
[data]
train = "data.jsonl"
held_out = "data.jsonl"
max_prompt_tokens = 64
max_response_tokens = 24
[adapter]
kind = "full"
[generate]
max_new_tokens = 8
batch = 8
chunk = 8
[loss]
name = "spin"
beta = 1.0
[train]
lr = 3e-4
batch = 8
save_every = 1
[game]
iterations = 1
[eval]
limit = 4
seeds = [1]
"#;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A stock plugin's file.
pub fn plugin(name: &str) -> PathBuf {
    let file = format!(
        "{}randori_plugin_{name}{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    );
    let own = Path::new(env!("CARGO_BIN_EXE_randori")).parent().unwrap();
    // of two copies (`cargo build`'s and `cargo test`'s) the newer one, as the host takes it
    [own.join(&file), own.join("deps").join(&file)]
        .into_iter()
        .filter(|p| p.exists())
        .max_by_key(|p| fs::metadata(p).unwrap().modified().unwrap())
        .unwrap()
}

impl World {
    pub fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let demo = repository().join("configs/demo");
        let mut config: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(demo.join("model/config.json")).unwrap())
                .unwrap();
        for (key, value) in [
            ("hidden_size", 32),
            ("intermediate_size", 64),
            ("num_hidden_layers", 2),
            ("num_attention_heads", 2),
            ("num_key_value_heads", 1),
            ("head_dim", 16),
        ] {
            config[key] = value.into();
        }
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let tokenizer = dir.path().join("tokenizer");
        fs::create_dir(&tokenizer).unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            fs::copy(demo.join("model").join(file), tokenizer.join(file)).unwrap();
        }
        let data = fs::read_to_string(demo.join("train.jsonl")).unwrap();
        let first: String = data.lines().take(24).map(|l| format!("{l}\n")).collect();
        fs::write(dir.path().join("data.jsonl"), first).unwrap();
        fs::write(dir.path().join("r.toml"), RECIPE).unwrap();
        World { dir }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn file(&self, name: &str, text: &str) {
        fs::write(self.dir().join(name), text).unwrap();
    }

    pub fn run(&self, args: &[&str]) -> Out {
        self.run_with(&[], args)
    }

    /// [`World::run`] with these environment variables; an empty value: without it.
    pub fn run_with(&self, vars: &[(&str, &str)], args: &[&str]) -> Out {
        let mut command = Command::new(env!("CARGO_BIN_EXE_randori"));
        // not what whoever runs the tests trusts
        command.env("XDG_CONFIG_HOME", self.dir().join("config"));
        for (name, value) in vars {
            match value.is_empty() {
                true => command.env_remove(name),
                false => command.env(name, value),
            };
        }
        let out = command.args(args).current_dir(self.dir()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Out {
            code: out.status.code().unwrap_or(-1),
            stdout: text(&out.stdout),
            stderr: text(&out.stderr),
        }
    }

    /// Asserts that the command succeeds; returns its standard output.
    pub fn accepted(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert_eq!(out.code, 0, "{args:?}\n{}{}", out.stdout, out.stderr);
        out.stdout
    }

    /// Asserts that the command fails with exit code 1 and one line that says `why`; returns the
    /// line.
    #[track_caller]
    pub fn refused(&self, args: &[&str], why: &str) -> String {
        let out = self.run(args);
        let lines: Vec<&str> = out
            .stderr
            .lines()
            .filter(|l| l.starts_with("randori: "))
            .collect();
        assert!(
            out.code == 1 && lines.len() == 1,
            "{args:?}: code {}\n{}{}",
            out.code,
            out.stdout,
            out.stderr
        );
        assert_eq!(
            out.stderr.lines().last(),
            Some(lines[0]),
            "something was said after the error"
        );
        assert!(
            lines[0].contains(why),
            "{args:?}\n got: {}\nwant: {why}",
            lines[0]
        );
        assert!(!out.stderr.contains("panicked"), "{}", out.stderr);
        lines[0].to_string()
    }

    /// Asserts that no run was begun.
    #[track_caller]
    pub fn nothing_written(&self) {
        assert!(
            !self.dir().join("runs/r").exists(),
            "a run folder was begun"
        );
    }

    /// A model folder of this name, written by `randori sft`.
    pub fn model(&self, name: &str) -> PathBuf {
        let sft = ["sft", "r.toml", "-q", "--out", name, "--runs", "elsewhere"];
        // several steps: the first is one of warm-up
        self.accepted(&[&sft[..], &["--set", "sft.batch=8"]].concat());
        self.dir().join(name)
    }
}
