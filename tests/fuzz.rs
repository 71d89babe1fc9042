//! Fuzzing: damaged files of every format (truncated, with flipped bits, spliced, with other
//! numbers), 10,000 cases each. Each case must be an error or a valid load: never a panic, a hang,
//! or more memory than a file of its size warrants.
//!
//! Cases are numbered and always the same. `RANDORI_FUZZ_CASE=17 cargo test -p randori-cli --test
//! fuzz jsonl` plays one again, `RANDORI_FUZZ_CASES` many more, `RANDORI_FUZZ_KEEP=folder` keeps
//! the files that did harm. Recipes have the same test in crates/randori/src/recipe: they are read
//! by the library.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "fuzz/models.rs"]
mod models;
#[path = "fuzz/mutate.rs"]
mod mutate;
mod opened;
#[path = "fuzz/runs.rs"]
mod runs;
#[path = "fuzz/storm.rs"]
mod storm;
#[path = "fuzz/texts.rs"]
mod texts;

/// Of each format.
const CASES: u64 = 10_000;

/// A folder in memory where the system has one: every case writes a file.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

#[global_allocator]
static COUNTING: storm::Counting = storm::Counting;
