//! The program where people put it: alone in a folder, or with plugin files installed beside it.
//! Every other test enters by the files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::{World, plugin};

/// The stock plugins.
const STOCK: [&str; 22] = [
    "cohere2",
    "gemma2",
    "gemma3",
    "gemma4",
    "glm4",
    "gpt_oss",
    "granite",
    "lfm2",
    "llama",
    "losses",
    "ministral3",
    "mistral",
    "mixtral",
    "olmo2",
    "olmo3",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3_5",
    "qwen3_moe",
    "sampling",
    "smollm3",
];

/// The program alone in `there/bin` of the world.
fn installed(w: &World) -> PathBuf {
    let bin = w.dir().join("there/bin");
    fs::create_dir_all(&bin).unwrap();
    let own = Path::new(env!("CARGO_BIN_EXE_randori"));
    let program = bin.join(own.file_name().unwrap());
    fs::hard_link(own, &program)
        .or_else(|_| fs::copy(own, &program).map(drop))
        .unwrap();
    program
}

/// What this program answers in the world's folder.
fn accepted(program: &Path, w: &World, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.env("XDG_CONFIG_HOME", w.dir().join("config"));
    let out = command.args(args).current_dir(w.dir()).output().unwrap();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{args:?}\n{errors}");
    String::from_utf8(out.stdout).unwrap()
}

/// Of `randori plugins`, where each of the stock plugins comes from.
fn origins(listed: &str) -> Vec<String> {
    let lines: Vec<&str> = listed.lines().collect();
    let origin = |name: &&str| {
        let at = lines
            .iter()
            .position(|l| l.starts_with(&format!("{name} ")));
        lines[at.unwrap() + 1].trim().to_owned()
    };
    STOCK.iter().map(origin).collect()
}

#[test]
fn the_tests_enter_by_the_files() {
    let w = World::new();
    let own = Path::new(env!("CARGO_BIN_EXE_randori")).parent().unwrap();
    let own = own.canonicalize().unwrap();
    let linked = "(instead of the one linked into the program)";
    for origin in origins(&w.accepted(&["plugins"])) {
        assert!(Path::new(&origin).starts_with(&own), "{origin}");
        assert_eq!(
            origin.ends_with(linked),
            cfg!(feature = "bundled"),
            "{origin}"
        );
    }
}

/// A program that was copied by itself, or installed by `cargo install`, knew no architecture.
#[cfg(feature = "bundled")]
#[test]
fn a_program_alone_knows_the_stock_plugins_and_plays_the_same_game() {
    let w = World::new();
    let program = installed(&w);
    let listed = accepted(&program, &w, &["plugins"]);
    assert_eq!(origins(&listed), ["linked into the program"; STOCK.len()]);

    w.accepted(&["run", "r.toml", "--runs", "by-files"]);
    accepted(&program, &w, &["run", "r.toml", "--runs", "alone"]);
    let weights = |runs: &str| {
        let policy = format!("{runs}/r/iter-0/adapter/model.safetensors");
        fs::read(w.dir().join(policy)).unwrap()
    };
    assert!(weights("by-files") == weights("alone"), "another game");
    let manifest = fs::read(w.dir().join("alone/r/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let version = format!("linked in, version {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(manifest["hashes"]["plugin losses"], version);
}

#[test]
fn an_installed_file_goes_before_what_is_linked_in() {
    let w = World::new();
    let program = installed(&w);
    let folder = w.dir().join("there/lib/randori/plugins");
    fs::create_dir_all(&folder).unwrap();
    for name in STOCK {
        let file = plugin(name);
        fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
    }
    let folder = folder.canonicalize().unwrap();
    for origin in origins(&accepted(&program, &w, &["plugins"])) {
        assert!(Path::new(&origin).starts_with(&folder), "{origin}");
    }
}
