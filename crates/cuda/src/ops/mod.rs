//! Which kernel, which grid, which arguments: every op on plain device addresses. Nothing here needs a GPU to be tested.
pub mod adamw;
pub mod attention;
pub mod binary;
pub mod cast;
pub mod columns;
pub mod decode;
pub mod elementwise;
pub mod gguf;
pub mod layout;
pub mod logprob;
pub mod matvec;
pub mod nf4;
pub mod norm;
pub mod rope;
pub mod sample;
pub mod softmax;
pub mod tiles;
