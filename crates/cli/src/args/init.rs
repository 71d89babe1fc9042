//! What `randori init` is asked for.

use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use randori::{Aim, Init, Request, bytes};

use crate::progress::Console;

/// The command line of `randori init`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// A Hugging Face folder, a .gguf file, or org/name on the hub
    model: String,
    /// Prompts and answers: a file (JSON Lines, JSON, CSV, TSV, Parquet), a folder of them, or
    /// org/name on the hub
    data: String,
    /// What the recipe is for
    #[arg(long, value_enum, ignore_case = true, default_value = "spin")]
    kind: Kind,
    /// Columns under names of their own, by what they are read as: `prompt=question,response=reply`
    #[arg(long, value_name = "NAME=COLUMN", value_delimiter = ',', value_parser = column)]
    columns: Vec<(String, String)>,
    /// File to write, which must not be there; named after the data where it is not given
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Memory that may be used: `8GiB`; most of what is free now where it is not given
    #[arg(long, value_name = "SIZE", value_parser = bytes::memory)]
    memory: Option<u64>,
    /// Gives one key of the recipe a value, before what would be decided: `--set train.lr=1e-4`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// No progress, results only
    #[arg(long, short)]
    quiet: bool,
}

/// What a recipe is for.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Supervised fine-tuning, and no game
    Sft,
    /// Supervised fine-tuning, then the game on the same data
    Spin,
    /// Preference pairs (DPO)
    Dpo,
}

/// `prompt=question`
fn column(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, column)) if !name.is_empty() && !column.is_empty() => {
            Ok((name.to_owned(), column.to_owned()))
        }
        _ => Err("must be NAME=COLUMN, as in prompt=question".to_owned()),
    }
}

impl Args {
    /// Whether results alone are wanted.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// For the library, with the terminal watching.
    pub fn asked(self) -> Init {
        Init {
            request: Request {
                set: self.set,
                watch: Arc::new(Console::new(self.quiet)),
                ..Request::default()
            },
            model: self.model,
            data: self.data,
            columns: self.columns,
            aim: match self.kind {
                Kind::Sft => Aim::Sft,
                Kind::Spin => Aim::Spin,
                Kind::Dpo => Aim::Dpo,
            },
            out: self.out,
            memory: self.memory,
        }
    }
}
