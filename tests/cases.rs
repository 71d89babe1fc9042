//! Regression tests: inputs that once failed, each with its expected value and the value's source
//! (another program or a closed form). One file for each kind of fault; the inputs are made by the
//! tests.

#[path = "cases/aside.rs"]
mod aside;
#[path = "cases/columns.rs"]
mod columns;
#[path = "cases/datasets.rs"]
mod datasets;
#[path = "cases/early.rs"]
mod early;
#[path = "cases/early_places.rs"]
mod early_places;
#[path = "cases/files.rs"]
mod files;
#[path = "cases/files_absent.rs"]
mod files_absent;
#[path = "cases/files_gguf.rs"]
mod files_gguf;
#[path = "cases/files_weights.rs"]
mod files_weights;
#[path = "cases/heads.rs"]
mod heads;
#[path = "cases/hub.rs"]
mod hub;
#[path = "cases/install.rs"]
mod install;
#[path = "cases/intervals.rs"]
mod intervals;
#[path = "cases/kept.rs"]
mod kept;
#[path = "cases/losses.rs"]
mod losses;
#[path = "cases/pairs.rs"]
mod pairs;
#[path = "cases/papers.rs"]
mod papers;
#[path = "cases/peft_adapters.rs"]
mod peft_adapters;
#[path = "cases/players.rs"]
mod players;
#[path = "cases/python.rs"]
mod python;
#[path = "cases/results.rs"]
mod results;
#[path = "cases/reuse.rs"]
mod reuse;
#[path = "cases/rows.rs"]
mod rows;
#[path = "cases/safety.rs"]
mod safety;
#[path = "cases/starts.rs"]
mod starts;
#[path = "cases/stranger.rs"]
mod stranger;
#[path = "cases/tasks.rs"]
mod tasks;
#[path = "cases/turns.rs"]
mod turns;

#[path = "cases/seeded.rs"]
mod seeded;

use randori_specimens::hub as server;
