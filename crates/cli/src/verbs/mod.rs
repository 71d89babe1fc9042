//! One file per verb.

pub mod chat;
pub mod eval;
pub mod export;
pub mod fit;
pub mod generate;
pub mod inspect;
pub mod plugins;
pub mod run;
pub mod score;
pub mod sft;
pub mod train;
