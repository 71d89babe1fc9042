//! `randori`: the library of that name on a terminal. Arguments become a request, what happens
//! becomes lines and bars, an error one line; nothing is computed here.

#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what is printed goes through `terminal`, which escapes it"
)]

#[macro_use]
mod terminal;

mod args;
mod chat;
mod commands;
mod inspect;
mod interrupt;
mod progress;

fn main() -> std::process::ExitCode {
    randori::steady();
    args::main()
}
