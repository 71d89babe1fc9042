//! How much memory a player takes and how much work its passes are, from its architecture's shapes
//! alone: nothing is loaded, nothing computed.
//!
//! Every figure is in bytes and is what *this engine* allocates on the CPU or, after
//! [`Planner::on_card`], on a GPU. The passes that are run are a player's, on kernels that compute
//! nothing and declare what they take (`randori_kernels::shapes`): so the figures follow the
//! architecture and the tape, not a rule of thumb. They do not count what a process has before a
//! model is opened (some 20 MiB: program, plugins, thread stacks), the data set, or what lies in
//! the operating system's page cache. [`SLACK`] and [`THREAD`] are measured rather than counted.
//! Pure: no file, no clock (but for [`Ceilings::measure`]), no allocation of the sizes it speaks
//! of.
mod card;
mod ceilings;
mod packing;
mod passes;
mod planner;
mod work;

pub use card::{CONTEXT, ROUNDING};
pub use ceilings::Ceilings;
pub use packing::Packing;
pub use passes::Decoding;
pub use planner::{HEAP, Learns, Peak, Planner, SLACK, THREAD, largest};
pub use randori_kernels::shapes::Work;
