//! Training a player on pairs (self-play, preferences) or on examples (supervised), resumable at
//! any step.

mod checkpoint;
mod metrics;
pub(crate) mod moments;
mod norm;
#[cfg(feature = "cuda")]
mod on_card;
mod optim;
mod pairs;
pub mod schedule;
mod settings;
mod sft;
mod state;
mod trainer;

pub use metrics::{Control, PairMetrics, Rewards, StepMetrics};
pub use optim::{AdamW, Optimizer, RmsProp};
pub use pairs::{AsPair, Pair, PairRef};
pub use schedule::{Schedule, ScheduleKind};
pub use settings::TrainSettings;
pub use sft::Example;
pub use trainer::Trainer;
