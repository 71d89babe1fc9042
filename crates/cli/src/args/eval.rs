//! What `eval` takes: held-out data, or benchmark tasks.

use std::path::PathBuf;

use randori::{Tasks, Which};

use super::{Split, Who};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    who: Who,
    /// Which data
    #[arg(long, value_enum, ignore_case = true, default_value = "held-out")]
    split: Split,
    /// Which player of a run folder: iteration T, the one after training T (0, 1, …), or `start`,
    /// the one before the first; the last one where it is not given
    #[arg(long, value_name = "T")]
    iteration: Option<Which>,
    /// JSON file to write beside the terminal; with `--tasks` JSON Lines, an item each
    #[arg(long, short)]
    out: Option<PathBuf>,
    /// Benchmark tasks instead of held-out data: names of lm-evaluation-harness's tasks, groups or
    /// tags, whose definitions are read where it is installed. RECIPE may be a model then
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        conflicts_with = "split"
    )]
    tasks: Vec<String>,
    /// lm-evaluation-harness's folder, or one of definitions of one's own; else what Python finds
    #[arg(long, value_name = "FOLDER", requires = "tasks")]
    harness: Option<PathBuf>,
    /// Folder with the tasks' data sets, each in a folder of its name; else they are the hub's
    #[arg(long, value_name = "FOLDER", requires = "tasks")]
    data: Option<PathBuf>,
    /// So many items of each task, from the first
    #[arg(long, value_name = "N", requires = "tasks", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Few-shot examples, of the tasks that do not say themselves that they have none
    #[arg(
        long = "num-fewshot",
        alias = "num_fewshot",
        value_name = "N",
        requires = "tasks"
    )]
    num_fewshot: Option<u32>,
}

impl Args {
    pub fn run(self) -> anyhow::Result<()> {
        let (request, out) = (self.who.request(), self.out.as_deref());
        if self.tasks.is_empty() {
            return randori::eval(&request, self.split.into(), self.iteration, out);
        }
        let tasks = Tasks {
            names: self.tasks,
            harness: self.harness,
            data: self.data,
            limit: self.limit.map(|n| n as usize),
            shots: self.num_fewshot.map(|n| n as usize),
        };
        randori::eval_tasks(&request, &tasks, self.iteration, out)
    }
}
