//! What a run leaves behind for people: the table on the terminal, `summary.json`, and
//! `report.html`.

mod page;
mod prompts;
mod summary;
mod svg;
mod table;
mod warnings;

pub use page::{page, verdict};
pub use prompts::{PromptRow, Prompts};
pub use summary::{Baseline, Measures, Played, Sample, Summary};
pub use table::{legend, markdown, table};
