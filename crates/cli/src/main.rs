//! `randori`: the whole game as one command. This crate alone knows TOML, the terminal and the environment; it wires
//! recipe, data, engine, plugins and store together and holds no arithmetic of its own.

#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what is printed goes through `terminal`, which escapes it"
)]

#[macro_use]
mod terminal;

mod args;
mod artefacts;
mod builtin;
mod bytes;
mod card;
mod corpus;
mod folder;
mod game;
mod hub_data;
mod inputs;
mod losses;
mod measure;
mod memory;
mod model_files;
mod outbox;
mod pairs;
mod plan;
mod progress;
mod recipe;
mod report;
mod session;
mod settings;
mod stages;
mod started;
mod supervised;
mod training;
mod trust;
mod verbs;

fn main() -> std::process::ExitCode {
    randori_engine::heap::steady();
    args::main()
}
