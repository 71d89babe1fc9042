//! What `plugins` and `new plugin` take.

use std::path::PathBuf;

use randori::{NewPlugin, PluginKind};

use super::Common;
use crate::progress::Console;

/// Of `plugins`.
#[derive(clap::Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    check: Option<Check>,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Subcommand, Clone, Debug)]
enum Check {
    /// Holds an architecture against a model and against every form that it is written in: names
    /// and shapes, decoding, gradients by finite differences, PEFT and GGUF read back
    Check {
        /// The architecture: the `model_type` of its models
        name: String,
        /// A Hugging Face folder, a GGUF file, or a config.json alone, for which weights are made
        /// up. They are held in f32
        #[arg(long, value_name = "PATH")]
        against: PathBuf,
        #[command(flatten)]
        common: Common,
    },
}

impl Args {
    /// Does what was asked for.
    pub fn run(self) -> anyhow::Result<()> {
        match self.check {
            None => randori::plugins(&self.common.request()),
            Some(Check::Check {
                name,
                against,
                common,
            }) => randori::check_plugin(&common.request(), &name, &against),
        }
    }
}

/// Of `new`.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum New {
    /// Writes a plugin's crate, which builds, passes its tests, and loads
    Plugin {
        /// Its name: small letters, digits and _
        name: String,
        /// What it offers
        #[arg(long, value_enum, ignore_case = true, default_value = "architecture")]
        kind: Kind,
        /// The folder of randori-sdk, `crates/sdk` of a clone; else cargo fetches the repository
        #[arg(long, value_name = "FOLDER")]
        sdk: Option<PathBuf>,
        /// Folder to write; else one of the plugin's name
        #[arg(long, short)]
        out: Option<PathBuf>,
    },
}

/// What a plugin offers.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An architecture of models
    Architecture,
    /// A loss over pairs
    Loss,
    /// A step of sampling
    Sampler,
}

impl From<Kind> for PluginKind {
    fn from(kind: Kind) -> PluginKind {
        match kind {
            Kind::Architecture => PluginKind::Architecture,
            Kind::Loss => PluginKind::Loss,
            Kind::Sampler => PluginKind::Sampler,
        }
    }
}

impl New {
    /// Writes it.
    pub fn write(self) -> anyhow::Result<()> {
        let New::Plugin {
            name,
            kind,
            sdk,
            out,
        } = self;
        let asked = NewPlugin {
            out: out.unwrap_or_else(|| PathBuf::from(&name)),
            kind: kind.into(),
            name,
            sdk,
        };
        randori::new_plugin(&asked, &Console::new(false))
    }
}
