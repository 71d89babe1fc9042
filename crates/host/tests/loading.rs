//! Which files become plugins: discovery, rules of trust, other versions, hashes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::recorder::{library, only, stock};
use randori_host::{Host, Kind, SearchPath};

/// An empty folder of this test.
fn folder(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// A copy of a plugin under another crate's name.
fn copy(from: &str, dir: &Path, to: &str) -> PathBuf {
    let file = library(to).file_name().unwrap().to_owned();
    let path = dir.join(file);
    fs::copy(library(from), &path).unwrap();
    path
}

fn refused(file: PathBuf) -> String {
    only(&[file]).err().expect("it was loaded").to_string()
}

#[test]
fn stock_plugins_are_found_beside_the_binary() {
    let host = stock();
    let names: Vec<_> = host.plugins().iter().map(|p| p.name.as_str()).collect();
    let stock = [
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
    assert_eq!(names, stock);
    let llama = host.plugins().iter().find(|p| p.name == "llama");
    let llama = llama.unwrap();
    assert_eq!(llama.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(llama.doc, "The Llama family");
    assert_eq!(
        (llama.items[0].kind, llama.items[0].name.as_str()),
        (Kind::Arch, "llama")
    );
    assert_eq!(llama.sha256.len(), 64);
    assert!(llama.path.is_absolute());
}

#[test]
fn hashes_are_sha256() {
    let dir = folder("hashes");
    let file = copy("misbehave", &dir, "misbehave");
    let host = only(std::slice::from_ref(&file)).unwrap();
    let output = std::process::Command::new("sha256sum").arg(&file).output();
    let Ok(output) = output else {
        eprintln!("SKIPPED: there is no sha256sum here");
        return;
    };
    let expected = String::from_utf8(output.stdout).unwrap();
    assert!(
        expected.starts_with(&host.plugins()[0].sha256),
        "{expected}"
    );
}

#[test]
fn a_refused_plugin_is_not_loaded_and_the_binarys_own_are_not_asked_about() {
    let dir = folder("asked");
    let file = copy("sampling", &dir, "misbehave"); // not a plugin: loading it would fail
    let mut asked = Vec::new();
    let path = SearchPath {
        files: vec![file.clone()],
        ..SearchPath::standard()
    };
    let host = Host::discover_asking(&path, &mut |file, sha256| {
        asked.push((file.to_owned(), sha256.len()));
        Err("nobody knows it".into())
    });
    let error = host.err().unwrap().to_string();
    let file = file.canonicalize().unwrap();
    assert_eq!(error, format!("plugin {}: nobody knows it", file.display()));
    assert_eq!(asked, [(file, 64)]);
}

#[test]
fn the_bytes_that_were_hashed_are_the_bytes_that_are_loaded() {
    let dir = folder("swapped");
    let file = copy("misbehave", &dir, "newer");
    let sha256 = only(std::slice::from_ref(&file)).unwrap().plugins()[0]
        .sha256
        .clone();
    // whoever can write the file changes it between the question and the loading: another file, and
    // other bytes in it
    for swap in [
        &mut |file: &Path| fs::rename(dir.join("other"), file) as std::io::Result<()>,
        &mut |file: &Path| fs::write(file, "not a library"),
    ] as [&mut dyn FnMut(&Path) -> std::io::Result<()>; 2]
    {
        fs::copy(library("misbehave"), &file).unwrap();
        // bytes that this process has not loaded yet
        let mut bytes = fs::read(&file).unwrap();
        bytes.push(bytes.len() as u8);
        fs::write(&file, &bytes).unwrap();
        fs::write(dir.join("other"), "not a library either").unwrap();
        let path = SearchPath {
            dirs: Vec::new(),
            files: vec![file.clone()],
        };
        let host = Host::discover_asking(&path, &mut |file, asked| {
            assert_ne!(asked, sha256);
            swap(file).map_err(|e| e.to_string())
        });
        assert_eq!(host.unwrap().plugins()[0].name, "newer");
        assert!(fs::read(&file).unwrap().starts_with(b"not a library"));
    }
}

#[test]
fn static_plugins_go_through_the_same_descriptor() {
    let mut host = Host::default();
    host.add_static(&randori_plugin_llama::PLUGIN).unwrap();
    host.add_static(&randori_plugin_mistral::PLUGIN).unwrap();
    assert_eq!(host.plugins()[1].items[0].name, "mistral");
    let error = host.architecture("llama", "{}").err().unwrap().to_string();
    assert_eq!(
        error,
        "architecture llama: configuration: `hidden_size` is missing"
    );
    assert!(
        host.plugins()
            .iter()
            .all(|p| p.is_linked() && !host.replaces_linked(p))
    );
    // the same plugin twice is one
    host.add_static(&randori_plugin_llama::PLUGIN).unwrap();
    assert_eq!(host.plugins().len(), 2);
    assert!(!host.replaces_linked(&host.plugins()[0]));
    // a file of the same plugin takes precedence
    let mut host = only(&[library("llama")]).unwrap();
    host.add_static(&randori_plugin_llama::PLUGIN).unwrap();
    assert_eq!(host.plugins().len(), 1);
    let llama = &host.plugins()[0];
    assert!(!llama.is_linked() && host.replaces_linked(llama));
}

#[test]
fn another_interface_is_named() {
    let dir = folder("versions");
    let error = refused(copy("misbehave", &dir, "future"));
    assert!(
        error
            .contains("it was built for plugin interface 2, this program has interface 1: rebuild"),
        "{error}"
    );
    let error = refused(copy("misbehave", &dir, "short"));
    assert!(
        error.contains("its Plugin is 8 bytes long, plugin interface 1 asks for "),
        "{error}"
    );
    let error = refused(copy("misbehave", &dir, "renamed"));
    assert!(
        error.contains("it is no Randori plugin, or its file was renamed"),
        "{error}"
    );
    // libloading's own text does not say which symbol: its source does
    assert!(
        error.contains("randori_plugin_v1_randori_plugin_renamed"),
        "{error}"
    );
}

#[test]
fn a_newer_plugin_runs_and_its_unknown_items_are_skipped() {
    let dir = folder("newer");
    let host = only(&[copy("misbehave", &dir, "newer")]).unwrap();
    let plugin = &host.plugins()[0];
    assert_eq!(
        (plugin.name.as_str(), plugin.version.as_str()),
        ("newer", "9.0.0")
    );
    let names: Vec<_> = plugin.items.iter().map(|item| item.name.as_str()).collect();
    assert_eq!(names, ["bad_pair"]);
    host.loss("bad_pair", &[]).unwrap();
}

#[test]
fn what_an_older_plugin_does_not_say_is_no() {
    let host = only(&[copy("misbehave", &folder("older"), "older")]).unwrap();
    let loss = host.loss("bad_groups", &[]).unwrap();
    assert!(!loss.coupled() && !loss.needs_reward() && !loss.needs_ref());
}

#[test]
fn a_plugin_that_asks_for_something_unknown_is_refused() {
    let error = refused(copy("misbehave", &folder("newest"), "newest"));
    let says = "loss `bad_groups`: its Loss is 40 bytes long, of which 32 are known here, and asks for something at offset 37; it was built with SDK 9.9.9, this program has SDK ";
    assert!(error.contains(says), "{error}");
}

#[test]
fn what_is_no_library_is_named() {
    let dir = folder("broken");
    let file = dir.join(library("broken").file_name().unwrap());
    fs::write(&file, "not a library").unwrap();
    let error = refused(file.clone());
    assert!(
        error.starts_with(&format!(
            "plugin {}: ",
            file.canonicalize().unwrap().display()
        )),
        "{error}"
    );
    #[cfg(target_os = "linux")]
    assert!(
        error.contains("file too short") || error.contains("invalid ELF header"),
        "{error}"
    );
    // also when it is found rather than named
    let path = SearchPath {
        dirs: vec![dir.clone()],
        files: Vec::new(),
    };
    assert!(Host::discover(&path).is_err());
    let error = refused(dir.join("absent.so"));
    assert!(error.contains("No such file"), "{error}");
    let missing = SearchPath {
        dirs: vec![dir.join("absent")],
        files: Vec::new(),
    };
    let error = Host::discover(&missing).err().unwrap().to_string();
    assert!(
        error.contains("plugin folder") && error.contains("No such file"),
        "{error}"
    );
}

#[cfg(unix)]
#[test]
fn files_that_others_can_write_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = folder("modes");
    let file = copy("misbehave", &dir, "misbehave");
    let mode =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    // of a file that its group may write, `accounts` and `trust` have tests of their own: who is in
    // the group is the machine's affair
    for bits in [0o757, 0o666, 0o777] {
        mode(&file, bits);
        let error = refused(file.clone());
        let says = format!("it is writable by everybody (mode {bits:03o})");
        assert!(
            error.contains(&says) && error.contains("chmod go-w"),
            "{error}"
        );
    }
    mode(&file, 0o755);
    mode(&dir, 0o777);
    let error = refused(file.clone());
    assert!(
        error.contains("its folder is writable by everybody (mode 777)"),
        "{error}"
    );
    mode(&dir, 0o755);
    only(&[file]).unwrap();
}

#[test]
fn a_models_folder_is_refused() {
    for model in ["config.json", "model.safetensors", "m.gguf"] {
        let dir = folder("model");
        let file = copy("misbehave", &dir, "misbehave");
        fs::write(dir.join(model), "{}").unwrap();
        let error = refused(file);
        let says = format!("never loaded from a model's folder, and this one holds {model}");
        assert!(error.contains(&says), "{error}");
    }
}

/// A link to a plugin that is found anyway is no second one, whatever it is called.
#[cfg(unix)]
#[test]
fn a_link_to_a_plugin_is_that_plugin() {
    let dir = folder("links");
    let own = library("llama").canonicalize().unwrap();
    let name = own.file_name().unwrap();
    let other = name.to_string_lossy().replace("llama", "zebra");
    for link in [dir.join(name), dir.join(other)] {
        std::os::unix::fs::symlink(&own, link).unwrap();
    }
    let path = SearchPath {
        dirs: vec![own.parent().unwrap().to_owned(), dir.clone()],
        files: vec![dir.join(name)],
    };
    let host = Host::discover(&path).unwrap();
    let found = host.plugins().iter().filter(|p| p.name == "llama");
    assert_eq!(found.count(), 1);
}

#[test]
fn the_same_item_or_file_twice_is_refused() {
    let dir = folder("twice");
    let newer = copy("misbehave", &dir, "newer");
    let error = only(&[library("misbehave"), newer])
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("loss `bad_pair` is also in "), "{error}");
    let copied = copy("llama", &dir, "llama");
    fs::remove_file(dir.join(library("newer").file_name().unwrap())).unwrap();
    let mut path = SearchPath::standard();
    path.dirs.push(dir);
    let error = Host::discover(&path).err().unwrap().to_string();
    assert!(
        error.contains("the same plugin lies in two folders"),
        "{error}"
    );
    // the same folder under two names is not a double
    let own = library("llama").parent().unwrap().join("../deps");
    path.dirs.insert(0, own);
    path.dirs.pop();
    Host::discover(&path).unwrap();
    // naming one resolves it
    path.files.push(copied.clone());
    let host = Host::discover(&path).unwrap();
    let llama = host.plugins().iter().find(|p| p.name == "llama").unwrap();
    assert_eq!(llama.path, copied.canonicalize().unwrap());
}

#[test]
fn without_plugins_the_error_says_how_to_build_them() {
    let path = SearchPath {
        dirs: vec![folder("empty")],
        files: Vec::new(),
    };
    let host = Host::discover(&path).unwrap();
    let error = host.loss("spin", &[]).err().unwrap().to_string();
    assert!(
        error.contains("there are no plugins in") && error.contains("`cargo build` at the root"),
        "{error}"
    );
}
