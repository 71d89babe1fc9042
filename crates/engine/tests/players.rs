//! Players: their weights, passes, generation, scoring and training.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod at_once_memory;
mod generate_tokens;
mod ops;
mod ops_attention;
mod ops_carried;
mod ops_dora;
mod ops_gradients;
mod ops_lengths;
mod ops_params;
mod ops_passes;
mod ops_recurrent;
mod ops_stored;
mod ops_trace;
mod score_responses;
mod tiny;
mod train_coupled;
mod train_ends;
mod train_memory;
mod train_pairs;
mod train_reference;
mod train_resume;
mod weights_folder;
mod weights_formats;
mod weights_gguf;
mod weights_hub;
mod weights_parts;

use randori_specimens::{hub as server, small as model};
