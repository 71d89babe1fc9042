//! Command lines that are shown: how to go on with this one, and what comes after a run.

use std::path::Path;

use randori::quoted;

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

fn line(arguments: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let arguments = arguments.into_iter();
    let all: Vec<String> = arguments.map(|one| quoted(one.as_ref())).collect();
    all.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

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
