//! Examples of what is given on the command line, shown at the end of `--help` and on the manual's
//! pages. A test reads each with the parser.

use clap::Command;

/// What the program itself is called among commands.
const PROGRAM: &str = "randori";

/// The program's command line with the examples of each command.
pub fn added(program: Command) -> Command {
    with_examples(program, PROGRAM)
}

/// A command that is called `name`, and those below it, with their examples.
fn with_examples(command: Command, name: &str) -> Command {
    let command = command.mut_subcommands(|one| {
        let whole = below(name, one.get_name());
        with_examples(one, &whole)
    });
    match EXAMPLES.iter().find(|(own, _)| *own == name) {
        Some((_, examples)) => command.after_help(*examples),
        None => command,
    }
}

/// The whole name of the command `own` of another: `plugins check`.
fn below(name: &str, own: &str) -> String {
    match name {
        PROGRAM => own.to_owned(),
        _ => format!("{name} {own}"),
    }
}

const EXAMPLES: [(&str, &str); 19] = [
    (
        "randori",
        "Examples:
  randori run builtin:demo            # plays the demo; its recipe, model and data are inside
  randori init MODEL mine.jsonl       # writes mine.toml, a recipe for a model and data
  randori inspect mine.toml           # what the model will see of your data
  randori fit mine.toml --vram 16GiB  # whether it fits
  randori run mine.toml               # the game
  randori chat runs/mine              # talks with what came of it
  randori export runs/mine --to gguf --out mine.gguf",
    ),
    (
        "init",
        "Examples:
  randori init model.gguf chats.jsonl                  # chats.toml: SFT, then the game
  randori init org/name answers.csv --kind sft --out mine.toml
  randori init folder faq.csv --columns prompt=ask,response=reply
  randori init folder pairs.jsonl --kind dpo --memory 8GiB
  randori init folder mine.jsonl --set game.iterations=3 --set train.lr=1e-5",
    ),
    (
        "run",
        "Examples:
  randori run builtin:demo                    # the demo, in runs/demo
  randori run mine.toml                       # stopped, the same command goes on
  randori run mine.toml --set game.iterations=2 --set train.lr=1e-4",
    ),
    (
        "generate",
        "Examples:
  randori generate mine.toml --out answers.jsonl      # the start's answers to data.train
  randori generate runs/mine --split held-out --out answers.jsonl",
    ),
    (
        "score",
        "Examples:
  randori score mine.toml --pairs answers.jsonl --out scored.jsonl
  randori score runs/mine --pairs answers.jsonl --out after.jsonl",
    ),
    (
        "train",
        "Examples:
  randori train pairs.toml --out dpo          # on the pairs of data.train; loss spin: DPO
  randori train mine.toml --pairs scored.jsonl --out ipo --set loss.name=ipo",
    ),
    (
        "sft",
        "Examples:
  randori sft mine.toml --out supervised
  randori sft mine.toml --out longer --set sft.epochs=4",
    ),
    (
        "eval",
        "Examples:
  randori eval mine.toml                          # the model as it is
  randori eval runs/mine --out measures.json      # after the last iteration
  randori eval runs/mine --iteration 0            # after the first
  randori eval mine.toml --adapter supervised --split validation
  randori eval model.gguf --tasks gsm8k,arc_challenge --data sets --limit 100
  randori eval runs/mine --tasks mmlu --num-fewshot 5 --out items.jsonl",
    ),
    (
        "serve",
        "Examples:
  randori serve runs/mine                     # every iteration, at http://127.0.0.1:8000/v1
  randori serve mine.toml --adapter supervised --port 8080
  randori serve runs/mine --slots 32 --context 2048
  randori serve runs/mine --host 0.0.0.0      # with a key in RANDORI_API_KEY",
    ),
    (
        "chat",
        "Examples:
  randori chat runs/mine                      # after the last iteration
  randori chat runs/mine --beside start       # and with what it was before the game
  randori chat runs/mine --prompt Hello --temp 0.7
  randori chat mine.toml --adapter supervised",
    ),
    (
        "export",
        "Examples:
  randori export runs/mine --to gguf --out mine.gguf                 # llama.cpp, Ollama
  randori export runs/mine --to gguf --quant q4_k_m --out mine-q4.gguf
  randori export runs/mine --to peft --out mine-adapter              # peft, vLLM
  randori export runs/mine --to mlx --out mine-mlx                   # mlx-lm
  randori export runs/mine --iteration 0 --out mine-after-0",
    ),
    (
        "plugins",
        "Examples:
  randori plugins                             # what there is
  randori plugins --plugin target/release/librandori_plugin_mine.so
  randori plugins check qwen3 --against folder     # or a GGUF file, or a config.json",
    ),
    (
        "plugins check",
        "Examples:
  randori plugins check qwen3 --against folder
  randori plugins check mine --against folder --plugin target/release/librandori_plugin_mine.so",
    ),
    (
        "new plugin",
        "Examples:
  randori new plugin mine                     # an architecture, in the folder mine
  randori new plugin mine --kind loss --out my-loss --sdk randori/crates/sdk",
    ),
    (
        "new",
        "Examples:
  randori new plugin mine                     # an architecture, in the folder mine
  randori new plugin mine --kind loss --out my-loss --sdk randori/crates/sdk",
    ),
    (
        "inspect",
        "Examples:
  randori inspect mine.toml
  randori inspect mine.toml -n 10 --set data.max_prompt_tokens=512",
    ),
    (
        "fit",
        "Examples:
  randori fit mine.toml                       # what each stage takes
  randori fit mine.toml --for sft             # those of `randori sft` alone
  randori fit mine.toml --vram 24GiB          # and which keys would make it fit",
    ),
    (
        "completions",
        "Examples:
  randori completions bash > ~/.local/share/bash-completion/completions/randori
  randori completions fish > ~/.config/fish/completions/randori.fish
  randori completions zsh > ~/.zfunc/_randori     # a folder of $fpath",
    ),
    (
        "man",
        "Examples:
  randori man ~/.local/share/man/man1         # then: man randori",
    ),
];

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::super::{Command as Given, command};
    use super::*;

    /// Every command that help shows, below this one too, by its whole name.
    fn shown<'a>(command: &'a Command, name: &str) -> Vec<(String, &'a Command)> {
        let own = command.get_subcommands().filter(|one| !one.is_hide_set());
        let all = own.flat_map(|one| shown(one, &below(name, one.get_name())));
        [(name.to_owned(), command)]
            .into_iter()
            .chain(all)
            .collect()
    }

    #[test]
    fn every_verb_has_examples_which_it_takes() {
        let program = command();
        let mut seen = 0;
        for (name, shown) in shown(&program, PROGRAM) {
            let examples = shown.get_after_help().unwrap().to_string();
            let mut lines = examples.lines();
            assert_eq!(lines.next(), Some("Examples:"), "{name}");
            for line in lines {
                assert!(
                    line.starts_with("  randori ") && line.len() <= 100,
                    "{line}"
                );
                // without what the shell takes away
                let given = line
                    .split(" # ")
                    .next()
                    .unwrap()
                    .split(" > ")
                    .next()
                    .unwrap();
                let words: Vec<&str> = given.split_whitespace().collect();
                let own = words[1..].join(" ");
                assert!(name == PROGRAM || own.starts_with(&name), "{line}");
                let read = command().try_get_matches_from(words);
                let read = read.and_then(|read| Given::from_arg_matches(&read));
                assert!(read.is_ok(), "{line}: {}", read.err().unwrap());
                seen += 1;
            }
        }
        assert!(seen >= 20, "only {seen} examples");
    }
}
