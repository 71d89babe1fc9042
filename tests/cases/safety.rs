//! Untrusted input is never executed, shown raw or allowed to remove files: plugins named by
//! recipes, control characters in texts, paths of exports.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::program::World;

/// A plugin that runs code as soon as it is loaded: its constructor adds a line to `ran` in the
/// working directory. It brings a loss, and a sentence about itself that would clear the screen.
const PLUGIN: &str = r#"
#include "randori_plugin.h"
#include <stdio.h>

__attribute__((constructor)) static void ran(void) {
    FILE *f = fopen("ran", "a");
    if (f) { fputs("ran\n", f); fclose(f); }
}

static uint32_t eval(const void *object, const RandoriRows *rows, const RandoriGrads *out, RandoriSink sink) {
    (void)object; (void)sink;
    for (size_t g = 0; g < rows->groups; g++) out->loss[g] = 0;
    for (size_t i = 0; i < rows->n; i++) out->d_logp[i] = 0;
    return 1;
}
static void *create(const RandoriValue *args, size_t n_args, RandoriStr config, RandoriSink sink) {
    static int object;
    (void)args; (void)n_args; (void)config; (void)sink;
    return &object;
}
static void destroy(void *object) { (void)object; }
static const RandoriLoss table = { sizeof(RandoriLoss), 1, eval };
static const RandoriItem items[] = {{
    RANDORI_LOSS, RANDORI_STR("nothing"), RANDORI_STR("Nothing.\033[2J"), NULL, 0, create, destroy, &table,
}};
const RandoriPlugin RANDORI_SYMBOL(randori_plugin_marked) = {
    sizeof(RandoriPlugin), sizeof(RandoriItem), sizeof(RandoriOpt),
    RANDORI_STR("randori-plugin-marked"), RANDORI_STR("1.0.0"), RANDORI_STR("A \033]0;title\007 in C"),
    items, 1,
};
"#;

/// Compiles [`PLUGIN`] into the world's folder `downloaded`; its path from the world's folder.
fn plugin(w: &World) -> PathBuf {
    let dir = w.dir().join("downloaded");
    fs::create_dir_all(&dir).unwrap();
    w.file("marked.c", PLUGIN);
    let name = format!("librandori_plugin_marked{}", std::env::consts::DLL_SUFFIX);
    let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk/include");
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wall", "-Werror", "-I"])
        .arg(sdk)
        .arg(w.dir().join("marked.c"))
        .arg("-o")
        .arg(dir.join(&name))
        .output()
        .expect("tests want a C compiler, `cc`");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    Path::new("downloaded").join(name)
}

/// How often the plugin's constructor has run.
fn ran(w: &World) -> usize {
    fs::read_to_string(w.dir().join("ran")).map_or(0, |text| text.lines().count())
}

/// The world's recipe, with these plugins in line 2.
fn naming(w: &World, paths: &str) {
    let recipe = fs::read_to_string(w.dir().join("r.toml")).unwrap();
    let rest = recipe.trim_start();
    w.file("p.toml", &format!("plugins.paths = [\"{paths}\"]\n{rest}"));
}

#[cfg(unix)]
#[test]
fn a_recipes_plugin_runs_only_once_it_is_trusted() {
    let w = World::new();
    let file = plugin(&w);
    let sha256 = randori_store::hash(&w.dir().join(&file)).unwrap().sha256;
    for named in [file.to_str().unwrap(), "downloaded"] {
        naming(&w, named);
        for verb in [
            &["fit", "p.toml"][..],
            &["run", "p.toml"],
            &["export", "p.toml", "--out", "x"],
        ] {
            let error = w.refused(verb, "give the same command once with --trust");
            let wants = [
                "p.toml:1 (plugins.paths) names it, and it was never trusted",
                &sha256,
                "librandori_plugin_marked",
            ];
            for want in wants {
                assert!(error.contains(want), "{error}");
            }
        }
    }
    assert_eq!(ran(&w), 0, "an untrusted plugin ran");
    assert!(!w.dir().join("config").exists());
    w.accepted(&["fit", "p.toml", "--trust"]);
    assert_eq!(ran(&w), 1);
    let record = w.dir().join("config/randori/trusted").join(&sha256);
    assert!(
        fs::read_to_string(&record)
            .unwrap()
            .contains("downloaded/librandori_plugin_marked")
    );
    // from now on, wherever the file lies
    w.accepted(&["fit", "p.toml"]);
    fs::rename(w.dir().join("downloaded"), w.dir().join("moved")).unwrap();
    naming(&w, "moved");
    w.accepted(&["fit", "p.toml"]);
    assert_eq!(ran(&w), 3);
    // until it changes, by a byte at its end
    fs::rename(w.dir().join("moved"), w.dir().join("downloaded")).unwrap();
    naming(&w, "downloaded");
    let mut bytes = fs::read(w.dir().join(&file)).unwrap();
    bytes.push(0);
    fs::write(w.dir().join(&file), &bytes).unwrap();
    w.refused(
        &["fit", "p.toml"],
        "it is not what was trusted: it has changed since",
    );
    assert_eq!(ran(&w), 3);
    w.accepted(&["fit", "p.toml", "--trust"]);
    // and until the record is removed
    bytes.pop();
    fs::write(w.dir().join(&file), &bytes).unwrap();
    fs::remove_file(record).unwrap();
    w.refused(&["fit", "p.toml"], "it has changed since");
    assert_eq!(ran(&w), 4);
}

#[cfg(unix)]
#[test]
fn what_the_user_names_himself_needs_no_trust_and_gives_none() {
    use std::os::unix::fs::PermissionsExt;
    let w = World::new();
    let file = plugin(&w);
    let file = file.to_str().unwrap();
    for named in [file, "downloaded"] {
        let out = w.accepted(&["plugins", "--plugin", named]);
        // and what it says of itself does not reach the terminal as it is
        assert!(
            out.contains("marked 1.0.0 - A \\u{1b}]0;title\\u{7} in C"),
            "{out}"
        );
        assert!(out.contains("loss nothing: Nothing.\\u{1b}[2J"), "{out}");
        assert!(!out.contains('\u{1b}') && !out.contains('\u{7}'));
    }
    assert_eq!(ran(&w), 2);
    naming(&w, file);
    w.accepted(&[
        "fit",
        "p.toml",
        "--plugin",
        file,
        "--set",
        "plugins.paths=[]",
    ]);
    w.refused(&["fit", "p.toml"], "it was never trusted");
    // `--set` is the recipe's voice
    let set = format!("plugins.paths=[\"{file}\"]");
    w.refused(&["fit", "r.toml", "--set", &set], "it was never trusted");
    // a list of trust that others can write is nobody's
    w.accepted(&["fit", "p.toml", "--trust"]);
    let folder = w.dir().join("config/randori/trusted");
    let mode = |bits| fs::set_permissions(&folder, fs::Permissions::from_mode(bits)).unwrap();
    assert_eq!(
        fs::metadata(&folder).unwrap().permissions().mode() & 0o777,
        0o700
    );
    mode(0o777);
    w.refused(&["fit", "p.toml"], "others than you can write to");
    mode(0o700);
    w.accepted(&["fit", "p.toml"]);
}

/// Asserts that a text has no control characters.
#[track_caller]
fn quiet(text: &str) {
    let obeyed =
        |c: char| (c.is_control() && c != '\n' && c != '\t') || "\u{202e}\u{2066}".contains(c);
    assert!(!text.contains(obeyed), "{text:?}");
}

#[test]
fn control_characters_of_data_and_templates_are_shown_and_not_obeyed() {
    let w = World::new();
    let row = |prompt: &str, response: &str| {
        serde_json::json!({"prompt": prompt, "response": response}).to_string() + "\n"
    };
    // clear the screen, title, C1's CSI, back, bell, right-to-left override
    let draws = "\u{1b}[2J\u{1b}]0;pwned\u{7}\u{9b}31m\u{8}\u{202e}fdp\u{2066}";
    w.file(
        "data.jsonl",
        &row(&format!("4 + 4 ={draws}"), " 8").repeat(8),
    );
    let spelled = "\\u{1b}[2J\\u{1b}]0;pwned\\u{7}\\u{9b}31m\\u{8}\\u{202e}fdp\\u{2066}";
    let out = w.run(&["run", "r.toml", "--set", "train.warmup=0"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(
        out.stdout
            .contains(&format!("answered greedily: 4 + 4 ={spelled}")),
        "{}",
        out.stdout
    );
    quiet(&out.stdout);
    quiet(&out.stderr);
    // the page spells them too; the file of answers holds them as they are
    let page = fs::read_to_string(w.dir().join("runs/r/report.html")).unwrap();
    assert!(page.contains(spelled));
    quiet(&page);
    let kept = fs::read_to_string(w.dir().join("runs/r/iter-0/generated.jsonl")).unwrap();
    assert!(kept.contains("pwned"));
    quiet(&w.accepted(&["inspect", "r.toml"]));
    // a template's complaint, a key of the data, a name of a file
    w.file("t.jinja", "{{ raise_exception('no \\x1b[2J roles') }}");
    let line = w.refused(
        &["inspect", "r.toml", "--set", "model.chat_template=t.jinja"],
        "roles",
    );
    quiet(&line);
    assert!(line.contains("\\u{1b}[2J roles"), "{line}");
    w.file(
        "odd.jsonl",
        &format!("{{{}: 1}}\n", serde_json::json!(draws)),
    );
    let line = w.refused(
        &["inspect", "r.toml", "--set", "data.train=odd.jsonl"],
        "odd.jsonl",
    );
    quiet(&line);
    let line = w.refused(&["inspect", "\u{1b}[2J.toml"], "[2J.toml");
    quiet(&line);
    let out = w.run(&["inspect", "r.toml", "\u{1b}[2J\u{7}"]);
    assert!(
        out.code == 2 && out.stderr.contains("unexpected argument"),
        "{}",
        out.stderr
    );
    quiet(&out.stderr);
}

#[test]
fn an_export_replaces_what_exports_wrote_and_nothing_else() {
    let w = World::new();
    let out = |name: &str| w.dir().join("out").join(name);
    let export: &[&str] = &["export", "r.toml", "-q", "--out", "out"];
    w.accepted(export);
    fs::write(out("eval.md"), "mine").unwrap();
    fs::create_dir(out("runs")).unwrap();
    fs::write(out("runs/log"), "mine").unwrap();
    w.accepted(export);
    assert_eq!(fs::read_to_string(out("eval.md")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(out("runs/log")).unwrap(), "mine");
    // an edited card, an edited Modelfile
    for name in ["README.md", "Modelfile"] {
        let ours = fs::read_to_string(out(name)).unwrap();
        fs::write(out(name), format!("{ours}\nmine\n")).unwrap();
        w.refused(
            export,
            &format!("{name}: something else is there (it was changed since"),
        );
        assert!(fs::read_to_string(out(name)).unwrap().ends_with("mine\n"));
        fs::write(out(name), ours).unwrap();
    }
    // `sft --out` is the same door; what the export wrote and sft does not is gone
    w.accepted(&[
        "sft",
        "r.toml",
        "-q",
        "--out",
        "out",
        "--set",
        "sft.warmup=0",
    ]);
    assert!(out("eval.md").exists() && out("model.safetensors").exists());
    assert!(!out("fidelity.json").exists());
    // a file's Modelfile
    let export: &[&str] = &[
        "export", "r.toml", "-q", "--to", "gguf", "--quant", "f32", "--out", "m.gguf",
    ];
    w.accepted(export);
    w.accepted(export);
    w.file("m.Modelfile", "FROM ./m.gguf\nSYSTEM mine\n");
    w.refused(
        export,
        "m.Modelfile: something else is there (it was changed since",
    );
    // results are files, and no file takes the place of a folder
    fs::create_dir(w.dir().join("mine")).unwrap();
    w.file("mine/thesis", "mine");
    for verb in [
        &["generate", "r.toml"][..],
        &["score", "r.toml", "--pairs", "data.jsonl"],
        &["eval", "r.toml"],
    ] {
        w.refused(&[verb, &["--out", "mine"]].concat(), "a folder is there");
    }
    assert_eq!(
        fs::read_to_string(w.dir().join("mine/thesis")).unwrap(),
        "mine"
    );
}
