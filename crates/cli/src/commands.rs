//! Command lines that are shown: how to go on with this one, and what comes after a run.

use std::path::Path;

use randori::{Next, quoted};

/// This process's command line, to be given again: it goes on, so not `--fresh`.
pub fn again() -> String {
    line(given().filter(|argument| argument != "--fresh"))
}

fn given() -> impl Iterator<Item = String> {
    std::env::args_os().map(|argument| argument.to_string_lossy().into_owned())
}

/// The commands after a run that is kept in `dir`, a line each.
pub fn after_run(name: &str, dir: &Path) -> [String; 5] {
    let program = given().next().unwrap_or_default();
    let run = dir.display().to_string();
    let command = |arguments: &[&str]| line([&[&*program], arguments].concat());
    let file = format!("{name}.gguf");
    let export = [
        "export",
        run.as_str(),
        "--to",
        "gguf",
        "--out",
        file.as_str(),
    ];
    [
        "Next:".into(),
        format!(
            "  {}   (--beside start: with what it was, too)",
            command(&["chat", &run])
        ),
        format!(
            "  {}   (llama.cpp, Ollama; other forms: --help)",
            command(&export)
        ),
        format!("  {} in a browser", quoted(&format!("{run}/report.html"))),
        format!("  {}", line(["tensorboard", "--logdir", run.as_str()])),
    ]
}

/// The commands after a training wrote a player to `out`, a line each; `measured`: the recipe has
/// something to measure it on.
pub fn after_training(
    recipe: Option<&Path>,
    set: &[String],
    measured: bool,
    out: &Path,
) -> Vec<String> {
    let Some(recipe) = recipe else {
        return Vec::new();
    };
    let program = given().next().unwrap_or_default();
    let stem = recipe.file_stem().unwrap_or_default().to_string_lossy();
    let file = format!("{}.gguf", stem.rsplit(':').next().unwrap_or(&stem));
    let (recipe, out) = (recipe.display().to_string(), out.display().to_string());
    let command = |verb, more: &[&str]| {
        let player = [&*program, verb, &*recipe, "--adapter", &*out];
        let set = set.iter().flat_map(|key| ["--set", key.as_str()]);
        line(player.into_iter().chain(set).chain(more.iter().copied()))
    };
    let mut lines = vec!["Next:".into(), format!("  {}", command("chat", &[]))];
    lines.extend(measured.then(|| format!("  {}", command("eval", &[]))));
    lines.push(format!(
        "  {}   (llama.cpp, Ollama; other forms: --help)",
        command("export", &["--to", "gguf", "--out", &*file])
    ));
    lines
}

/// The commands after a recipe was written, a line each.
pub fn after_init(next: &[Next]) -> Vec<String> {
    let program = given().next().unwrap_or_default();
    let shown = |next: &Next| {
        let arguments = next.arguments.iter().map(String::as_str);
        line([&*program].into_iter().chain(arguments))
    };
    let commands: Vec<String> = next.iter().map(shown).collect();
    let width = commands.iter().map(|command| command.chars().count());
    let width = width.max().unwrap_or(0);
    let lines = commands.iter().zip(next);
    let lines = lines.map(|(command, next)| format!("  {command:width$}   ({})", next.what));
    ["Next:".to_owned()].into_iter().chain(lines).collect()
}

fn line(arguments: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let arguments = arguments.into_iter();
    let all: Vec<String> = arguments.map(|one| quoted(one.as_ref())).collect();
    all.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_after_a_recipe_is_given_as_a_shell_takes_it() {
        let next = |arguments: &[&str], what| Next {
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
            what,
        };
        let lines = after_init(&[
            next(&["run", "my r.toml"], "plays"),
            next(&["chat"], "talks"),
        ]);
        assert_eq!(lines[0], "Next:");
        assert!(
            lines[1].ends_with(" run 'my r.toml'   (plays)"),
            "{lines:?}"
        );
        assert!(
            lines[2].ends_with(" chat              (talks)"),
            "{lines:?}"
        );
    }

    #[test]
    fn what_comes_after_a_training_names_recipe_keys_and_player() {
        let set = ["train.lr=1e-4".to_owned()];
        let lines = after_training(
            Some(Path::new("my/r.toml")),
            &set,
            true,
            Path::new("an adapter"),
        );
        let player = " my/r.toml --adapter 'an adapter' --set train.lr=1e-4";
        assert!(lines[1].ends_with(&format!(" chat{player}")), "{lines:?}");
        let export = format!(" export{player} --to gguf --out r.gguf ");
        assert!(lines[3].contains(&export), "{lines:?}");
        let built_in = after_training(Some(Path::new("builtin:demo")), &[], false, Path::new("a"));
        assert_eq!(built_in.len(), 3, "nothing to measure on: {built_in:?}");
        assert!(built_in[2].contains("--out demo.gguf"), "{built_in:?}");
        assert!(after_training(None, &[], true, Path::new("a")).is_empty());
    }

    #[test]
    fn what_comes_after_a_run_names_its_folder() {
        let lines = after_run("mine", Path::new("my runs/mine"));
        assert!(lines[1].contains(" chat 'my runs/mine'"), "{lines:?}");
        let export = " export 'my runs/mine' --to gguf --out mine.gguf";
        assert!(lines[2].contains(export), "{lines:?}");
        assert!(lines[3].contains("'my runs/mine/report.html'"), "{lines:?}");
        assert!(lines[4].ends_with("tensorboard --logdir 'my runs/mine'"));
    }
}
