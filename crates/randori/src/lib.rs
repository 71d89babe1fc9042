//! Self-play fine-tuning (SPIN, arXiv 2401.01335) as a library: from a recipe to a model, from the
//! model to the game, from the game to what is kept of it. The program `randori` is a terminal for
//! this crate.
//!
//! A [`Request`] says which recipe, what is laid over it, and who is told of what happens; each
//! function does what the program's verb of that name does ([`play`]: `randori run`). Nothing here
//! knows a terminal, reads the command line or ends the process.
//!
//! An iteration of the demo's game, from the folder of this crate:
//!
//! ```
//! use randori::{Request, play};
//!
//! let runs = tempfile::tempdir()?;
//! let only = ["game.iterations=1", "data.limit=64", "eval.limit=32", "eval.seeds=[1]"];
//! let alone = ["compare.seeds=[]", "compare.continued_sft=false"];
//! let request = Request {
//!     recipe: Some("../../configs/demo.toml".into()),
//!     set: only.into_iter().chain(alone).map(String::from).collect(),
//!     linked: vec![
//!         &randori_plugin_llama::PLUGIN,
//!         &randori_plugin_losses::PLUGIN,
//!         &randori_plugin_sampling::PLUGIN,
//!     ],
//!     runs: runs.path().into(),
//!     ..Request::default()
//! };
//! let game = &play(&request, false)?.played[0];
//! let policy = game.iterations[0];
//! assert!(policy.nll_real < game.start.nll_real); // nearer to the data than it was
//! assert!(policy.margin > 0.0); // and it tells the data from its opponent's answers
//! # anyhow::Ok(())
//! ```

#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "whatever is said goes through `Watch`"
)]

#[macro_use]
mod watch;

mod aim;
mod artefacts;
mod aside;
mod builtin;
pub mod bytes;
mod card;
mod chat;
mod check;
mod corpus;
mod data_folder;
mod data_rows;
mod dry_run;
mod escape;
mod eval;
mod export;
mod figures;
mod fit;
mod folder;
mod game;
mod generate;
mod hub_data;
mod ids;
mod init;
mod inputs;
mod inspect;
mod logs;
mod losses;
mod measure;
mod memory;
mod mistaken;
mod model_files;
mod new_plugin;
mod one_line;
mod outbox;
mod outlook;
mod pairs;
mod plan;
mod plugin_check;
mod plugins;
mod provenance;
mod recipe;
mod record;
mod report;
mod request;
mod run;
mod score;
mod serve;
mod session;
mod settings;
mod sft;
mod shell;
mod splits;
mod stages;
mod started;
mod supervised;
mod tasks;
mod train;
mod training;
mod trust;

pub use aim::Aim;
pub use chat::{Chat, Heard, Reply, Talk};
pub use dry_run::dry_run;
pub use escape::escaped;
pub use eval::{eval, is_measured};
pub use export::{Export, Target, export};
pub use figures::{clock, grouped, roughly};
pub use fit::fit;
pub use generate::generate;
pub use init::{Init, Next, init};
pub use inspect::{Example, Inspection, Response, inspect};
pub use new_plugin::{NewPlugin, PluginKind, new_plugin};
pub use one_line::one_line;
pub use plugin_check::check_plugin;
pub use plugins::plugins;
pub use randori_engine::heap::steady;
pub use randori_engine::weights::Dtype;
pub use randori_export::{GgufQuant, Onto};
pub use randori_store::{abandon_unfinished, saved};
pub use recipe::markdown as recipe_docs;
pub use report::{Baseline, Measures, Played, PromptRow, Prompts, Sample, Summary};
pub use request::{Request, Split, Which};
pub use run::play;
pub use score::score;
pub use serve::{Serve, serve};
pub use sft::sft;
pub use shell::quoted;
pub use tasks::{Tasks, eval_tasks};
pub use train::train;
pub use watch::{Progress, Silent, Watch};
