//! The SDK of Randori's plugins: architectures, losses and samplers in safe Rust.
//!
//! A plugin describes, the host executes: [`Arch`] calls ops by weight name on opaque [`Tensor`]s,
//! [`PairLoss`] is a formula over [`Dual`] numbers, [`Sampler`] reshapes a row of logits.
//! [`options!`] declares what a recipe may set and [`plugin!`] exports everything as one constant
//! over the C ABI in [`abi`]. This crate has no dependency and knows neither host, engine nor
//! tensor library; [`seam`] has the traits by which host and engine use each other.
//!
//! ```
//! use randori_sdk::{Dual, Pair, PairLoss, options, plugin};
//!
//! options! {
//!     /// SPIN (Chen et al. 2024): logistic loss on the margin of real over generated.
//!     pub struct Spin {
//!         /// How strongly the policy is held to its opponent.
//!         beta: f64 = 0.1, 0.0..=100.0;
//!     }
//! }
//!
//! impl PairLoss for Spin {
//!     const NAME: &'static str = "spin";
//!     fn loss(&self, p: &Pair) -> Dual {
//!         -(p.margin() * self.beta).log_sigmoid()
//!     }
//! }
//!
//! plugin!("The loss of the SPIN paper", loss Spin);
//! # fn main() {}
//! ```

pub mod abi;
pub mod arch;
mod boundary;
mod config;
mod dense;
pub mod dialect;
mod dual;
mod error;
mod experts;
mod gemma;
mod graph;
pub mod growing;
pub mod guard;
pub mod json;
mod layers;
pub mod loss;
mod options;
mod plugin;
mod rope;
pub mod sampler;
pub mod seam;
mod windows;

pub use arch::Arch;
pub use boundary::VERSION;
pub use config::Config;
pub use dense::{Absent, Activation, DecoderOf, Dense, DenseFamily, Norms, QkNorms, Ropes};
pub use dialect::Dialect;
pub use dual::Dual;
pub use error::{Error, Result};
pub use experts::Experts;
pub use graph::{Graph, Tensor};
pub use layers::Layers;
pub use loss::{Loss, Out, Pair, PairLoss, Response};
pub use options::{OptionType, Options};
pub use rope::{RopeKind, RopeRules, Share};
pub use sampler::{Logits, Sampler, Step};
pub use seam::{
    AttnSpec as Attn, GENERATED, Growth, LongRope, REAL, RopeSpec as Rope, RouteSpec as Route, Rows,
};
pub use windows::Windows;

/// The manual's examples, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/reference/plugins.md")]
#[doc = include_str!("../../../docs/how-to/add-a-loss.md")]
#[doc = include_str!("../../../docs/how-to/add-a-sampler.md")]
#[doc = include_str!("../../../docs/how-to/add-an-architecture.md")]
struct Manual;
