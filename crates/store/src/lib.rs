//! The run folder: a game's results on disk, stored so that the game can be killed at any moment.
//!
//! `runs/NAME/` holds `recipe.toml` (resolved), `manifest.json` (versions, hashes, finished stages)
//! and the folders in which stages run, `iter-0`, `iter-1`, …, with their artefacts,
//! `metrics.jsonl`, and, while a stage is unfinished, `checkpoint/`. Three rules make it safe;
//! tests inject a fault at every single file operation to verify them:
//!
//! 1. A file or folder appears under its name only when it is whole and on disk: written under a
//!    temporary name, fsynced, renamed ([`Disk::replace`]).
//! 2. A stage is finished when the manifest lists it, which is written last.
//! 3. The input of the next stage is always read back from disk, so a resumed game cannot see other
//!    values than an uninterrupted one.
//!
//! Results outside a run folder, among a user's own files, are written through [`OutFolder`] and
//! [`OutFiles`], which replace only what they wrote.
//!
//! This crate knows no tensor, no TOML and no terminal: artefacts save and load themselves
//! ([`Artefact`]), and a recipe is text plus a list of keys and values.
#![forbid(unsafe_code)]

mod artefact;
mod board;
mod clear;
mod disk;
mod error;
mod hash;
mod json;
mod kept;
mod layout;
mod lock;
mod manifest;
mod outbox;
mod run;
mod tensorboard;
mod workspace;

pub use artefact::{Artefact, Json, JsonLines, signals_json};
pub use board::Board;
pub use disk::{Disk, Op, abandon_unfinished};
pub use error::{BoxError, Error, Result};
pub use hash::{Hash, hash, hash_bytes};
pub use json::{Appender, read_json, read_rows, write_json, write_rows};
pub use kept::{beside, intact, load};
pub use layout::{Checkpoint, iteration_folder};
pub use lock::Lock;
pub use manifest::{Done, Manifest, RunSpec};
pub use outbox::{OutFiles, OutFolder, exported};
pub use run::{Open, Run, refuse_foreign, saved};
pub use tensorboard::EventFile;
pub use workspace::Workspace;
