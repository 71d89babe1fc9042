//! Data sets as token ids: readers of common formats, the model's own chat template and tokenizer,
//! length limits and policies.
//!
//! One [`Tokenizer`] serves generation and training, so that both see the same prompt; prompt and
//! response are tokenised separately, so that the prompt's ids never depend on the response; and
//! whatever is truncated, dropped or shortened is counted in [`Counts`].
//!
//! This crate must not know: tensors, candle, models, run folders, the terminal, or where a file
//! came from.

mod contain;
mod counts;
mod encode;
mod error;
mod message;
mod modelfile;
mod read;
mod record;
mod template;
mod tokenizer;
mod unread;

pub use counts::{Counts, Opened};
pub use encode::{Choice, Encoded, Limits, Policy, Rejected, encode, screen};
pub use error::{Error, Result};
pub use message::{Context, Message};
pub use modelfile::{OllamaTemplate, modelfile};
pub use randori_formats::gguf::GgufTokenizer;
pub use read::{
    BadRows, Calculator, Columns, Format, Left, ReadOptions, Reader, Rows, Turns, column_names,
    read, read_bytes,
};
pub use record::{Place, Record};
pub use template::{ChatTemplate, PLAIN, TaskTemplate};
pub use tokenizer::{Response, Tokenizer, known_pre_tokenizers, named_templates};
