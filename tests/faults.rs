//! Bad input to the real program: one clear line that states rule, value and place; an exit code
//! other than 0; nothing half-written.

use std::fs;
use std::path::Path;

use crate::program;
use crate::program::World;

#[test]
fn models_that_are_not_there_or_not_whole() {
    let w = World::new();
    w.refused(
        &["run", "r.toml", "--set", "model.source=nowhere/at/all"],
        "model.source is neither a folder, a .gguf file nor a hub id",
    );
    w.refused(
        &["run", "r.toml", "--set", "model.source=absent.gguf"],
        "absent.gguf",
    );
    w.refused(
        &["run", "r.toml", "--set", "model.source=builtin:dmo"],
        "builtin:dmo is not built in",
    );
    let demo = "builtin:dmo is not built in; there is only builtin:demo";
    w.refused(&["run", "builtin:dmo"], demo);
    let place = "--set train.lr=0: train.lr must be > 0";
    w.refused(&["fit", "builtin:demo", "--set", "train.lr=0"], place);

    let model = w.model("model");
    let weights = model.join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 1000]).unwrap();
    w.refused(
        &["run", "r.toml", "--set", "model.source=model"],
        "model.safetensors",
    );
    fs::write(&weights, &bytes[..5]).unwrap();
    w.refused(
        &["run", "r.toml", "--set", "model.source=model"],
        "model.safetensors",
    );
    fs::remove_file(&weights).unwrap();
    w.refused(
        &["run", "r.toml", "--set", "model.source=model"],
        "model.safetensors",
    );
    fs::write(w.dir().join("cut.gguf"), b"GGUF\x03\0\0\0\x01\0\0\0").unwrap();
    w.refused(
        &["run", "r.toml", "--set", "model.source=cut.gguf"],
        "cut.gguf",
    );
    w.nothing_written();
}

#[test]
fn a_checkpoint_that_does_not_fit_its_config() {
    let w = World::new();
    let config = w.model("model").join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["intermediate_size"] = 100.into();
    fs::write(&config, value.to_string()).unwrap();
    let line = w.refused(
        &["run", "r.toml", "--set", "model.source=model"],
        "gate_proj",
    );
    assert!(line.contains("100"), "{line}");

    value["model_type"] = "lama".into();
    fs::write(&config, value.to_string()).unwrap();
    w.refused(
        &["run", "r.toml", "--set", "model.source=model"],
        "there is no architecture `lama`; did you mean `llama`?",
    );
    w.nothing_written();
}

#[test]
fn a_tokenizer_without_chat_template() {
    let w = World::new();
    let model = w.model("model");
    fs::remove_file(model.join("chat_template.jinja")).unwrap();
    let config = model.join("tokenizer_config.json");
    let mut value: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    value.as_object_mut().unwrap().remove("chat_template");
    fs::write(&config, value.to_string()).unwrap();
    let args = [
        "run",
        "r.toml",
        "--set",
        "model.source=model",
        "--set",
        "model.tokenizer=model",
    ];
    let line = w.refused(&args, "the tokenizer has no chat template");
    assert!(
        line.contains("model.chat_template"),
        "says no way out: {line}"
    );
    w.nothing_written();
}

#[test]
fn data_that_cannot_be_used() {
    let w = World::new();
    w.file(
        "bad.jsonl",
        "{\"prompt\": \"Add 1 and 2.\", \"response\": \"3\"}\n{\"prompt\": \"Add\n",
    );
    w.refused(
        &["run", "r.toml", "--set", "data.train=bad.jsonl"],
        "bad.jsonl:2: not JSON",
    );
    w.file("half.jsonl", "{\"prompt\": \"Add 1 and 2.\"}\n");
    w.refused(
        &["run", "r.toml", "--set", "data.train=half.jsonl"],
        "half.jsonl:1:",
    );
    w.file("none.jsonl", "");
    w.refused(
        &["run", "r.toml", "--set", "data.train=none.jsonl"],
        "none.jsonl: no example in it",
    );
    w.refused(
        &["run", "r.toml", "--set", "data.train=gone.jsonl"],
        "gone.jsonl",
    );
    let long = format!(
        "{{\"prompt\": \"{}\", \"response\": \"3\"}}\n",
        "Reverse 123456. ".repeat(60)
    );
    w.file("long.jsonl", &long);
    let args = [
        "run",
        "r.toml",
        "--set",
        "data.train=long.jsonl",
        "--set",
        "data.max_prompt_tokens=100000",
    ];
    // the model's window holds even where the recipe's own limit does not
    let line = w.refused(
        &[&args[..], &["--set", "data.too_long=error"]].concat(),
        "long.jsonl:1: the prompt has",
    );
    assert!(line.contains("at most 255 are allowed"), "{line}");
    w.refused(&args, "no example is left");
    w.nothing_written();
}

#[test]
fn settings_that_cannot_be_meant() {
    let w = World::new();
    w.refused(
        &["run", "r.toml", "--set", "train.lr=0"],
        "--set train.lr=0: train.lr must be > 0, got 0",
    );
    w.refused(
        &["run", "r.toml", "--set", "train.lr=nan"],
        "--set train.lr=nan: train.lr must be > 0, got nan",
    );
    w.refused(
        &["run", "r.toml", "--set", "loss.betta=1"],
        "--set loss.betta=1: spin has no option `betta`",
    );
    w.refused(
        &["run", "r.toml", "--set", "loss.name=spine"],
        "there is no loss `spine`; did you mean `spin`?",
    );
    w.refused(
        &["run", "r.toml", "--set", "eval.answer=exactly"],
        "eval.answer must be \"exact\", \"after:MARK\" (such as \"after:####\") or \"none\"",
    );
    let sampling = "generate.sampling=[{name=\"temperature\", value=-1.0}]";
    w.refused(&["run", "r.toml", "--set", sampling], "temperature");
    w.refused(
        &["run", "absent.toml"],
        "absent.toml: the recipe cannot be read",
    );
    w.nothing_written();
}

#[test]
fn a_command_line_that_cannot_be_read_is_exit_code_2() {
    let w = World::new();
    let out = w.run(&["rum"]);
    assert_eq!(out.code, 2, "{}", out.stderr);
    assert_eq!(w.run(&["--help"]).code, 0);
}

/// Options without an effect are refused, and `--set` counts as a use of a key.
#[test]
fn no_option_is_accepted_and_ignored() {
    let w = World::new();
    let inspect = ["inspect", "r.toml", "--adapter", "nowhere"];
    w.refused(&inspect, "--adapter changes nothing that inspect shows");
    let set = |set: &'static str| ["plugins", "--set", set];
    w.refused(&set("plugins.pahts=['x']"), "unknown key `plugins.pahts`");
    w.refused(&set("plugins.paths=['absent.so']"), "absent.so");
    let said = w.accepted(&["plugins"]);
    assert_eq!(w.accepted(&set("plugins.paths=[]")), said);
}

#[test]
fn a_loss_that_turns_nan_stops_at_the_last_good_state_and_names_the_pair() {
    let w = World::new();
    let args = [
        "run",
        "r.toml",
        "--set",
        "train.lr=1e30",
        "--set",
        "train.clip=0",
        "--set",
        "train.warmup=0",
        "--set",
        "train.epochs=3",
    ];
    let line = w.refused(&args, "stopped at the last good state, step ");
    assert!(line.contains("data.jsonl:"), "names no pair: {line}");
    let iteration = w.dir().join("runs/r/iter-0");
    assert!(
        iteration
            .join("checkpoint/policy")
            .read_dir()
            .unwrap()
            .next()
            .is_some()
    );
    assert!(!iteration.join("adapter").exists(), "a policy was kept");
    // the same command again stops at the same place
    assert_eq!(line, w.refused(&args, "stopped"));
}

#[test]
fn a_run_folder_in_use_and_a_changed_recipe() {
    let w = World::new();
    assert_eq!(w.run(&["run", "r.toml"]).code, 0);
    let dir = w.dir().join("runs/r");
    let before = fs::read(dir.join("iter-0/adapter/model.safetensors")).unwrap();
    {
        let _lock = randori_store::Lock::take(&dir).unwrap();
        let line = w.refused(&["run", "r.toml"], "is in use by process");
        assert!(line.contains(&std::process::id().to_string()), "{line}");
    }
    let line = w.refused(
        &["run", "r.toml", "--set", "train.lr=1e-3"],
        "was started with another recipe",
    );
    assert!(
        line.contains("train.lr was 3e-4, is 1e-3")
            || line.contains("train.lr was 0.0003, is 0.001"),
        "{line}"
    );
    w.file(
        "data.jsonl",
        &(fs::read_to_string(w.dir().join("data.jsonl")).unwrap()
            + "{\"prompt\": \"a\", \"response\": \"b\"}\n"),
    );
    w.refused(&["run", "r.toml"], "data.train data.jsonl was");
    assert_eq!(
        before,
        fs::read(dir.join("iter-0/adapter/model.safetensors")).unwrap()
    );
    fs::create_dir_all(w.dir().join("runs/mine")).unwrap();
    fs::write(w.dir().join("runs/mine/thesis.txt"), "years of work").unwrap();
    w.refused(
        &["run", "r.toml", "--set", "name=mine"],
        "is not a run folder",
    );
    w.refused(
        &["run", "r.toml", "--set", "name=mine", "--fresh"],
        "is not a run folder",
    );
    assert!(w.dir().join("runs/mine/thesis.txt").exists());
}

#[cfg(unix)]
#[test]
fn plugins_that_cannot_be_trusted() {
    use std::os::unix::fs::PermissionsExt;
    let w = World::new();
    let mine = program::plugin("sampling");
    let name = mine.file_name().unwrap().to_str().unwrap();
    let apart = w.dir().join("apart");
    fs::create_dir(&apart).unwrap();
    let copy = apart.join(name);
    fs::copy(&mine, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o666)).unwrap();
    w.refused(
        &["plugins", "--plugin", &format!("apart/{name}")],
        "writable",
    );
    fs::copy(&mine, w.dir().join(name)).unwrap();
    fs::set_permissions(w.dir().join(name), fs::Permissions::from_mode(0o755)).unwrap();
    w.refused(
        &["plugins", "--plugin", name],
        "never loaded from the working directory",
    );
    // and nothing there is loaded unasked
    let out = w.run(&["plugins"]);
    assert!(
        out.code == 0 && !out.stdout.contains(w.dir().to_str().unwrap()),
        "{}",
        out.stdout
    );
    let other = apart.join(name.replace("sampling", "other"));
    fs::write(&other, "not a library").unwrap();
    w.refused(
        &[
            "plugins",
            "--plugin",
            &format!("apart/{}", name.replace("sampling", "other")),
        ],
        "other",
    );
    w.nothing_written();
}

/// A file system of 300 kB, in a mount namespace of its own; skipped, loudly, where that is not
/// allowed.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk() {
    let w = World::new();
    let model = w.model("model");
    assert!(model.exists());
    fs::create_dir(w.dir().join("small")).unwrap();
    let script = |then: &str| format!("mount -t tmpfs -o size=300k tmpfs small && {then}");
    let try_mount = std::process::Command::new("unshare")
        .args(["-rm", "sh", "-c", &script("true")])
        .current_dir(w.dir())
        .status();
    if !try_mount.is_ok_and(|s| s.success()) {
        eprintln!("SKIPPED a_full_disk: mount namespaces are not allowed here");
        return;
    }
    let randori = env!("CARGO_BIN_EXE_randori");
    let then = format!("{randori} run r.toml -q --runs small; echo code $? >&2; ls -AR small >&2");
    let out = std::process::Command::new("unshare")
        .args(["-rm", "sh", "-c", &script(&then)])
        .current_dir(w.dir())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("code 1"), "{said}");
    assert!(
        said.contains("randori: the disk is full: could not write small/r/"),
        "{said}"
    );
    assert!(
        said.contains("Free some space and give the same command again"),
        "{said}"
    );
    assert!(
        !said.contains(".tmp"),
        "something half-written was left:\n{said}"
    );
}

#[test]
fn a_damaged_artefact_is_refused() {
    let w = World::new();
    assert_eq!(w.run(&["run", "r.toml"]).code, 0);
    let path = w.dir().join("runs/r/iter-0/adapter/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    w.refused(&["run", "r.toml"], "has changed since it was written");
    assert!(Path::new(&path).exists());
}

/// `/dev/full` takes nothing, as a full disk; a pipe that nobody reads is no fault.
#[cfg(target_os = "linux")]
#[test]
fn a_standard_output_that_cannot_be_written_is_one_line_or_a_quiet_end() {
    let w = World::new();
    let into = |args: &[&str], out: std::process::Stdio| {
        std::process::Command::new(env!("CARGO_BIN_EXE_randori"))
            .args(args)
            .current_dir(w.dir())
            .env("XDG_CONFIG_HOME", w.dir().join("config"))
            .stdout(out)
            .output()
            .unwrap()
    };
    for args in [
        &["plugins"][..],
        &["--help"],
        &["completions", "bash"],
        &["inspect", "r.toml"],
        &["fit", "r.toml"],
        &[
            "chat",
            "r.toml",
            "-q",
            "--prompt",
            "Hello",
            "--max-tokens",
            "2",
        ],
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full");
        let out = into(args, full.unwrap().into());
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{args:?}: {said}");
        let line = "randori: standard output cannot be written: No space left on device";
        assert_eq!(said.matches("randori:").count(), 1, "{args:?}: {said}");
        let last = said.lines().last().unwrap();
        assert!(
            last.starts_with(line) && !said.contains("panicked"),
            "{args:?}: {said}"
        );

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let out = into(args, writer.into());
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(0), "{args:?}: {said}");
        assert!(
            !said.contains("randori:") && !said.contains("panicked"),
            "{args:?}: {said}"
        );
    }
}
