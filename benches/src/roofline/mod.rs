//! Lower bounds of a stage's operations and bytes, the machine's peak rates, and how near a stage
//! comes to them.
//!
//! The counts come from the engine's trace of the model and from the plan's rows;
//! docs/explanation/speed.md explains them.

mod cases;
mod ceilings;
mod counts;
mod tables;

pub use cases::{Case, decoding, medians, prefill, scoring, training};
pub use ceilings::{Ceilings, PRODUCTS, machine};
pub use counts::{Costs, RowCounts, Work, micro_batches};
pub use tables::{exponent, row, table};
