//! The command line: verbs and flags, and the one line an error becomes.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use randori::{Aim, Request, bytes, one_line};

use crate::progress::Console;
use crate::terminal::{self, Colour};
use crate::{chat, commands, inspect, interrupt};

mod descriptions;
mod eval;
mod examples;
mod export;
mod init;
mod plugin;
mod serving;
mod talk;

/// Self-play fine-tuning at home: a language model practises against its own past self.
#[derive(Parser)]
#[command(
    name = "randori",
    version,
    about,
    propagate_version = true,
    max_term_width = 100
)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb takes.
#[derive(Args, Clone, Debug, Default)]
pub struct Common {
    /// Overrides one key of the recipe: `--set train.lr=1e-4`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// A plugin file, or a folder of them, beside those in the binary's own folder. Naming it here
    /// is trusting it
    #[arg(long = "plugin", value_name = "PATH")]
    pub plugins: Vec<PathBuf>,
    /// Trusts the plugins that the recipe names, as they are now: loading one runs its code.
    /// Remembered by SHA-256
    #[arg(long)]
    pub trust: bool,
    /// Folder that run, train and sft put run folders in; other verbs make none
    #[arg(long, value_name = "FOLDER", default_value = "runs")]
    pub runs: PathBuf,
    /// No progress, results only
    #[arg(long, short)]
    pub quiet: bool,
}

/// Which player: a recipe and, if it is not the start, what it has learnt.
#[derive(Args, Clone, Debug, Default)]
pub struct Who {
    /// A recipe, `builtin:demo`, or a run folder or a seed's folder in one (then its last
    /// iteration's player is meant)
    #[arg(value_name = "RECIPE")]
    pub recipe: PathBuf,
    /// A PEFT adapter folder instead of the recipe's start; given several times, their sum
    #[arg(long, value_name = "FOLDER")]
    pub adapter: Vec<PathBuf>,
    #[command(flatten)]
    pub common: Common,
}

/// Which part of the data.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// What is trained on
    Train,
    /// What settings are chosen on
    Validation,
    /// What is only measured on
    HeldOut,
}

/// A verb that trains, for what it would take.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planned {
    /// The whole game
    Run,
    /// Supervised fine-tuning
    Sft,
    /// Training on pairs
    Train,
}

impl Who {
    /// For the library, with the terminal watching.
    fn request(self) -> Request {
        Request {
            recipe: Some(self.recipe),
            adapter: self.adapter,
            ..self.common.request()
        }
    }
}

impl Common {
    /// For a verb that takes nothing else; from here on Ctrl-C is answered.
    fn request(self) -> Request {
        let console = Console::new(self.quiet);
        interrupt::answer(&console);
        Request {
            set: self.set,
            plugins: self.plugins,
            trust: self.trust,
            runs: self.runs,
            watch: Arc::new(console),
            ..Request::default()
        }
    }
}

impl From<Split> for randori::Split {
    fn from(split: Split) -> randori::Split {
        match split {
            Split::Train => randori::Split::Train,
            Split::Validation => randori::Split::Validation,
            Split::HeldOut => randori::Split::HeldOut,
        }
    }
}

impl From<Planned> for Aim {
    fn from(verb: Planned) -> Aim {
        match verb {
            Planned::Run => Aim::Spin,
            Planned::Sft => Aim::Sft,
            Planned::Train => Aim::Dpo,
        }
    }
}

#[derive(Subcommand)]
enum Verb {
    /// Writes a recipe for a model and data, both looked at, sized for this machine
    Init(init::Args),
    /// Plays the whole game; run again, it goes on where it was stopped
    Run {
        #[command(flatten)]
        who: Who,
        /// Begins afresh: what earlier runs wrote in the run folder is removed
        #[arg(long)]
        fresh: bool,
        /// Prints the plan and plays nothing: stages, how much each has to do, memory, time, disk,
        /// and what the run folder has already. Writes nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Answers every prompt of a split, as the opponent of an iteration does
    Generate {
        #[command(flatten)]
        who: Who,
        /// Which prompts
        #[arg(long, value_enum, ignore_case = true, default_value = "train")]
        split: Split,
        /// Iteration whose random draws are made: the answers that training T is given
        #[arg(
            long = "as-iteration",
            alias = "iteration",
            value_name = "T",
            default_value_t = 0
        )]
        iteration: usize,
        /// JSONL file to write (real and generated side by side)
        #[arg(long, short)]
        out: PathBuf,
    },
    /// Log-probs of both responses of every pair under a player
    Score {
        #[command(flatten)]
        who: Who,
        /// File of pairs: JSONL, JSON, CSV, TSV or Parquet
        #[arg(long)]
        pairs: PathBuf,
        /// JSONL file to write
        #[arg(long, short)]
        out: PathBuf,
    },
    /// One iteration's training on anybody's preference pairs, the start as reference (with loss
    /// `spin`: DPO)
    Train {
        #[command(flatten)]
        who: Who,
        /// File of pairs: JSONL, JSON, CSV, TSV or Parquet; where it is not given, the pairs of
        /// data.train, less what is kept aside to measure on
        #[arg(long)]
        pairs: Option<PathBuf>,
        /// Iteration whose learning rate, epochs and loss options are used
        #[arg(
            long = "as-iteration",
            alias = "iteration",
            value_name = "T",
            default_value_t = 0
        )]
        iteration: usize,
        /// Folder to write: a PEFT adapter, or the model itself in full training
        #[arg(long, short)]
        out: PathBuf,
        /// Begins afresh: what earlier runs wrote in the run folder is removed
        #[arg(long)]
        fresh: bool,
    },
    /// Supervised fine-tuning: makes or continues a start
    Sft {
        #[command(flatten)]
        who: Who,
        /// Folder to write: a PEFT adapter, or the model itself in full training
        #[arg(long, short)]
        out: Option<PathBuf>,
        /// Begins afresh: what earlier runs wrote in the run folder is removed
        #[arg(long)]
        fresh: bool,
    },
    /// Held-out measures of a player, or with `--tasks` those of benchmarks
    Eval(eval::Args),
    /// Talks with a player: on a terminal, with the lines of standard input, or with one `--prompt`
    Chat(talk::Args),
    /// Serves players by OpenAI's HTTP interface: chats, completions, log-probs, one model name for
    /// each iteration
    Serve(serving::Args),
    /// Writes a player for other tools, merged or as an adapter, and says how much of what it
    /// learnt survives
    Export(export::Args),
    /// Lists plugins with their options, types, defaults and bounds; `plugins check` holds an
    /// architecture against a model
    Plugins(plugin::Args),
    /// Writes the beginning of something of one's own: `new plugin`
    New {
        #[command(subcommand)]
        what: plugin::New,
    },
    /// Shows the first examples as the model sees them, trained tokens green, and what was dropped
    /// or cut
    Inspect {
        #[command(flatten)]
        who: Who,
        /// How many examples
        #[arg(long, short = 'n', default_value_t = 3)]
        examples: usize,
    },
    /// How much memory each stage takes, from the model's shapes alone: no weight is read
    Fit {
        #[command(flatten)]
        who: Who,
        /// Memory that may be used, `24GiB` or `500MB`; a number alone is GiB. Says whether the
        /// recipe fits, what would, and the largest sizes that do
        #[arg(long, value_name = "SIZE", value_parser = bytes::memory)]
        vram: Option<u64>,
        /// The verb whose stages are meant; else the one that the recipe shows itself to be for
        #[arg(long = "for", value_name = "VERB", value_enum, ignore_case = true)]
        verb: Option<Planned>,
    },
    /// Writes a shell's completions to standard output
    Completions {
        /// Which shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Writes pages for `man`: randori.1 and one for each verb
    Man {
        /// Folder to put them in
        folder: PathBuf,
    },
    /// Writes docs/reference/recipe.md to standard output
    #[command(hide = true)]
    RecipeDocs,
}

/// Parses, runs, and says what went wrong in one line: exit code 1, or 2 for a command line that
/// cannot be read.
pub fn main() -> ExitCode {
    terminal::escape_panics();
    let given = command().try_get_matches();
    let command = match given.and_then(|given| Command::from_arg_matches(&given)) {
        Ok(command) => command,
        Err(e) => {
            match e.use_stderr() {
                // without colours: an argument is quoted in it, and may be the name of a file from
                // anywhere
                true => err!("{}", e.render()),
                false => e
                    .print()
                    .unwrap_or_else(|error| terminal::unwritten(&error)),
            }
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    match dispatch(command.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            terminal::headed("randori:", Colour::Red, &one_line(&e));
            ExitCode::FAILURE
        }
    }
}

/// The command line that is parsed: each command with its examples.
fn command() -> clap::Command {
    examples::added(Command::command())
}

fn dispatch(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Init(args) => {
            let quiet = args.is_quiet();
            next(quiet, commands::after_init(&randori::init(&args.asked())?))
        }
        Verb::Run {
            who,
            fresh,
            dry_run: true,
        } => randori::dry_run(&who.request(), fresh),
        Verb::Run { who, fresh, .. } => {
            let quiet = who.common.quiet;
            let request = who.request();
            let summary = randori::play(&request, fresh)?;
            let folder = request.run_folder(&summary.name);
            next(quiet, commands::after_run(&summary.name, &folder))
        }
        Verb::Generate {
            who,
            split,
            iteration,
            out,
        } => randori::generate(&who.request(), split.into(), iteration, &out),
        Verb::Score { who, pairs, out } => randori::score(&who.request(), &pairs, &out),
        Verb::Train {
            who,
            pairs,
            iteration,
            out,
            fresh,
        } => trained(who, |request| {
            randori::train(request, pairs.as_deref(), iteration, &out, fresh)?;
            Ok(out)
        }),
        Verb::Sft { who, out, fresh } => {
            trained(who, |request| randori::sft(request, out.as_deref(), fresh))
        }
        Verb::Eval(args) => args.run(),
        Verb::Chat(args) => {
            let (request, talk, prompt) = args.asked();
            chat::run(&request, &talk, prompt.as_deref())
        }
        Verb::Serve(args) => {
            let (request, how) = args.asked();
            randori::serve(&request, &how)
        }
        Verb::Export(args) => randori::export(&args.export()?),
        Verb::Plugins(args) => args.run(),
        Verb::New { what } => what.write(),
        Verb::Inspect { who, examples } => inspect::run(&who.request(), examples),
        Verb::Fit { who, vram, verb } => randori::fit(&who.request(), vram, verb.map(Into::into)),
        Verb::Completions { shell } => {
            out!("{}", descriptions::completions(command(), shell));
            Ok(())
        }
        Verb::Man { folder } => descriptions::manual(command(), &folder),
        Verb::RecipeDocs => {
            out!("{}", randori::recipe_docs());
            Ok(())
        }
    }
}

/// Trains by `train`, which returns where the player is, and says what can be done with it.
fn trained(
    who: Who,
    train: impl FnOnce(&Request) -> anyhow::Result<PathBuf>,
) -> anyhow::Result<()> {
    let (quiet, request) = (who.common.quiet, who.request());
    let out = train(&request)?;
    let measured = randori::is_measured(&request);
    let lines = commands::after_training(request.recipe.as_deref(), &request.set, measured, &out);
    next(quiet, lines)
}

/// Says which commands come next, whole lines in any window, since they are to be copied.
fn next(quiet: bool, lines: impl IntoIterator<Item = String>) -> anyhow::Result<()> {
    for line in lines.into_iter().filter(|_| !quiet) {
        errln!("{line}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    /// What a shell reads goes through the door by which control characters are spelled.
    #[test]
    fn completions_know_the_verbs_and_hold_nothing_to_escape() {
        use clap::ValueEnum;
        for shell in Shell::value_variants() {
            let script = descriptions::completions(command(), *shell);
            assert_eq!(randori::escaped(&script), script, "{shell}");
            for word in ["inspect", "vram"] {
                assert!(script.contains(word), "{shell} completes no {word}");
            }
        }
    }

    #[test]
    fn the_manual_has_a_page_for_each_verb() {
        let folder = tempfile::tempdir().unwrap();
        descriptions::manual(command(), &folder.path().join("man1")).unwrap();
        let page = |name: &str| {
            let file = folder.path().join("man1").join(name);
            std::fs::read_to_string(file).unwrap()
        };
        let first = page("randori.1");
        assert!(first.contains("randori\\-run(1)"), "{first}");
        for verb in command()
            .get_subcommands()
            .filter(|verb| !verb.is_hide_set())
        {
            let page = page(&format!("randori-{}.1", verb.get_name()));
            assert!(page.contains("Examples:"), "{page}");
        }
    }
}
