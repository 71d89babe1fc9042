//! What a caller asks the library for: which recipe, what is laid over it, which plugins, and who
//! watches.

use std::path::PathBuf;
use std::sync::Arc;

use randori_sdk::abi::Plugin;

use crate::watch::{Silent, Watch};

/// A recipe and, if the player is not the recipe's start, what it has learnt.
#[derive(Clone)]
pub struct Request {
    /// A recipe, `builtin:demo`, or a run folder or a seed's folder in one (then its last
    /// iteration's player is meant); `None` for what needs no recipe.
    pub recipe: Option<PathBuf>,
    /// Keys laid over the recipe: `train.lr=1e-4`.
    pub set: Vec<String>,
    /// A PEFT adapter folder instead of the recipe's start; several are summed.
    pub adapter: Vec<PathBuf>,
    /// Plugin files, or folders of them, beside those in the program's own folder. To name one here
    /// is to trust it.
    pub plugins: Vec<PathBuf>,
    /// Plugins that are linked into the program: `&randori_plugin_llama::PLUGIN`. One that is found
    /// as a file under the same name goes first.
    pub linked: Vec<&'static Plugin>,
    /// Trusts the plugins that the recipe names, as they are now, and remembers their SHA-256.
    pub trust: bool,
    /// Folder that run folders are put in.
    pub runs: PathBuf,
    /// Is told of progress, warnings and results.
    pub watch: Arc<dyn Watch>,
}

impl Default for Request {
    /// No recipe, no plugin but those beside the program, run folders in `runs`, nobody watching.
    fn default() -> Request {
        Request {
            recipe: None,
            set: Vec::new(),
            adapter: Vec::new(),
            plugins: Vec::new(),
            linked: Vec::new(),
            trust: false,
            runs: "runs".into(),
            watch: Arc::new(Silent),
        }
    }
}

impl Request {
    /// Where the run called `name` is kept: in `runs`, or in the run folder that was given instead
    /// of a recipe.
    pub fn run_folder(&self, name: &str) -> PathBuf {
        match &self.recipe {
            Some(path) if path.is_dir() => path.clone(),
            _ => self.runs.join(name),
        }
    }
}

/// Which part of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// What is trained on.
    Train,
    /// What settings are chosen on.
    Validation,
    /// What is only measured on.
    HeldOut,
}

/// One player of a run. `iteration T` names the one that came out of training T everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Before the first iteration.
    Start,
    /// After this training, counted from 0.
    Iteration(usize),
}

impl std::fmt::Display for Which {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Which::Start => f.write_str("start"),
            Which::Iteration(t) => write!(f, "iteration {t}"),
        }
    }
}

impl std::str::FromStr for Which {
    type Err = String;
    fn from_str(text: &str) -> Result<Which, String> {
        match (text, text.parse()) {
            ("start", _) => Ok(Which::Start),
            (_, Ok(t)) => Ok(Which::Iteration(t)),
            _ => Err("must be the number of an iteration, counted from 0, or `start`".into()),
        }
    }
}
