//! `randori new plugin` and `randori plugins check`: a crate that is written builds, and an
//! architecture is held against a model.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::World;

fn sdk() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk")
}

/// Builds and tests a crate in `dir`, offline, with the versions of this repository; answers the
/// folder of its library.
fn built(dir: &Path, target: &Path) -> PathBuf {
    fs::copy(sdk().join("../../Cargo.lock"), dir.join("Cargo.lock")).unwrap();
    for arguments in [["test", "--lib"], ["build", "--lib"]] {
        let out = Command::new(env!("CARGO"))
            .args(arguments)
            .args(["--offline", "--quiet"])
            .current_dir(dir)
            .env("CARGO_TARGET_DIR", target)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{}: {said}", dir.display());
    }
    target.join("debug")
}

fn library(folder: &Path, name: &str) -> String {
    let (before, after) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let file = folder.join(format!("{before}randori_plugin_{name}{after}"));
    file.display().to_string()
}

#[test]
fn a_new_plugin_builds_loads_and_passes_its_check() {
    let world = World::new();
    let (sdk, target) = (sdk(), world.dir().join("target"));
    for (name, kind) in [
        ("mine", "architecture"),
        ("soft_2", "loss"),
        ("no_echo", "sampler"),
    ] {
        let sdk = sdk.to_str().unwrap();
        world.accepted(&["new", "plugin", name, "--kind", kind, "--sdk", sdk]);
        world.refused(
            &["new", "plugin", name],
            &format!("{name} is there already"),
        );
        let library = library(&built(&world.dir().join(name), &target), name);
        let listed = world.accepted(&["plugins", "--plugin", &library]);
        assert!(listed.contains(&format!("  {kind} {name}: ")), "{listed}");
        if kind == "architecture" {
            let config = world.dir().join("mine/config.json");
            let against = ["--against", config.to_str().unwrap()];
            let check = [
                &["plugins", "check", name, "--plugin", &library],
                &against[..],
            ];
            let table = world.accepted(&check.concat());
            holds(&table);
            assert!(
                table.contains("GGUF              -      not written: "),
                "{table}"
            );
        }
    }
}

/// Each row of the table that can fail holds.
fn holds(table: &str) {
    for what in [
        "names and shapes",
        "log-probs",
        "decoding",
        "gradients",
        "PEFT adapter",
        "merged folder",
    ] {
        let row = table.lines().find(|line| line.starts_with(what));
        assert!(
            row.is_some_and(|row| row[17..].trim_start().starts_with("ok ")),
            "{what}: {table}"
        );
    }
}

#[test]
fn a_stock_architecture_is_checked_to_gguf_and_back() {
    let world = World::new();
    let config = fs::read_to_string(world.dir().join("config.json")).unwrap();
    let table = world.accepted(&["plugins", "check", "llama", "--against", "config.json"]);
    assert!(table.contains("config.json, weights made up: "), "{table}");
    holds(&table);
    assert!(table.contains("GGUF              ok "), "{table}");
    assert!(
        table.contains("GGUF adapter      -      written, "),
        "{table}"
    );
    // another architecture than the weights are for
    fs::create_dir(world.dir().join("model")).unwrap();
    world.file(
        "model/config.json",
        &config.replace("\"llama\"", "\"qwen3\""),
    );
    world.accepted(&["plugins", "check", "qwen3", "--against", "model"]);
    world.refused(
        &["plugins", "check", "nothing", "--against", "model"],
        "nothing",
    );
    world.refused(
        &["plugins", "check", "llama", "--against", "absent"],
        "absent",
    );
}

#[test]
fn a_name_that_no_crate_can_have_is_refused() {
    let world = World::new();
    for name in ["My-Plugin", "2a", "a/b"] {
        world.refused(&["new", "plugin", name], "small letters");
    }
    world.refused(
        &["new", "plugin", "mine", "--sdk", "absent"],
        "--sdk absent: ",
    );
    world.nothing_written();
}
